//! Places: where idle connections rest within reach of every thread, without a lock.
//!
//! # The race
//!
//! A returner that leaves a connection in a place and a caller that is about to queue must not miss
//! each other. The gate sees to it:
//!
//! 1. A returner swaps its connection into a place, *then* looks at the gate. If it is shut, the
//!    returner takes the connection up again, if it is still there, and brings it to the ledger.
//! 2. Whoever has locked the ledger shuts the gate, *then* sweeps the places by swapping nothing
//!    into each.
//!
//! Both swap in the same place, and one of the swaps comes first. If the returner's, the sweep finds
//! the connection. If the sweeper's, the returner's swap reads what the sweeper's has written; being
//! acquire and release (as crossbeam's are), they make all that the sweeper did before visible to
//! the returner, who so finds the gate shut. No fence is needed for that. So while the gate is shut
//! nothing rests in a place, but for the moment until its returner has looked.
//!
//! # What may lie in a place
//!
//! | gate | nothing | a connection of that epoch | a connection of an older epoch |
//! | --- | --- | --- | --- |
//! | open, of an epoch | any returner may put one there | rests; whoever takes it lends it | for a moment: its returner read the gate before; it or a taker brings it to the ledger |
//! | shut | as the sweep has left it | for a moment: its returner read the gate before; it takes the connection up again, or `open` or the next sweep does | the same |
//!
//! Only the holder of the ledger's lock changes the gate. Any thread may change a place, by a swap
//! that leaves whatever it finds in its own hands; so a connection is in one place or in one hand.

use crate::moment::Moment;
use crate::shelf::{Figure, Shelf};
use crate::sync::{AtomicU64, OnceLock, Ordering, last_place, now, set_last_place};

/// The most places of a pool. A thread that finds all of them empty has looked at as many cache
/// lines, and takes the lock; so does one that returns to a pool where all are taken.
const PLACES_MOST: u32 = 64;

/// The gate in one word: these bits say that it is shut, and that it is open for a time only. Above
/// them stands how many places may be filled, and above that the epoch.
const SHUT: u64 = 1;
const TIMED: u64 = 2;
const ROOM_AT: u32 = 2;
const EPOCH_AT: u32 = 9;
const ROOM_MASK: u64 = (1 << (EPOCH_AT - ROOM_AT)) - 1;
const _: () = assert!(PLACES_MOST as u64 <= ROOM_MASK);

/// Connections at rest, for whoever comes while nobody waits.
pub(crate) struct Places<T> {
    /// See `Open`, or with `SHUT`. Written under the ledger's lock, read by all: before a place
    /// is looked at, and after a connection has been put there.
    gate: AtomicU64,
    /// Until when a gate that is open for a time counts as open: as `Moment::as_nanos`. Written under
    /// the ledger's lock before the gate is opened, read by all after the gate.
    until: AtomicU64,
    /// How many the latest sweep has found, or how many have been laid out since. Written under the
    /// ledger's lock, read by whoever glances at the numbers.
    last_seen: Figure,
    first: Row<T>,
}

/// Some places, and those that the pool has needed since. Rows are only added, so that a sweep finds
/// all that anybody may have left.
struct Row<T> {
    places: Box<[Shelf<T>]>,
    next: OnceLock<Box<Row<T>>>,
}

/// The gate as it stands open, in one word: for connections of its epoch, which may fill as many
/// places as it has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open(u64);

impl Open {
    fn new(epoch: u32, room: u32, is_timed: bool) -> Self {
        let timed = if is_timed { TIMED } else { 0 };
        Self(u64::from(epoch) << EPOCH_AT | u64::from(room) << ROOM_AT | timed)
    }

    #[inline]
    pub(crate) fn epoch(self) -> u32 {
        (self.0 >> EPOCH_AT) as u32
    }

    /// The first so many places may be filled: with what rests in the ledger, as many connections as
    /// may rest at all.
    #[inline]
    fn room(self) -> usize {
        (self.0 >> ROOM_AT & ROOM_MASK) as usize
    }
}

impl<T> Places<T> {
    /// Places for so many connections, which may all rest, behind an open gate.
    pub(crate) fn new(count: u32) -> Self {
        let room = count.min(PLACES_MOST);
        Self {
            gate: AtomicU64::new(Open::new(0, room, false).0),
            until: AtomicU64::new(0),
            last_seen: Figure::default(),
            first: Row::new(room as usize),
        }
    }

    /// The place of that number, if there is one.
    #[inline]
    fn place(&self, at: usize) -> Option<&Shelf<T>> {
        match self.first.places.get(at) {
            Some(place) => Some(place),
            None => self.later_place(at),
        }
    }

    #[inline(never)]
    fn later_place(&self, at: usize) -> Option<&Shelf<T>> {
        self.all().nth(at)
    }

    fn rows(&self) -> impl Iterator<Item = &Row<T>> {
        std::iter::successors(Some(&self.first), |row| row.next.get().map(Box::as_ref))
    }

    fn all(&self) -> impl Iterator<Item = &Shelf<T>> {
        self.rows().flat_map(|row| &row.places)
    }

    /// `None`: it is shut, or its time is up, and callers go by the ledger.
    #[inline]
    pub(crate) fn gate(&self) -> Option<Open> {
        let open = self.open_gate()?;
        if open.0 & TIMED == 0 { Some(open) } else { self.timed_gate(open) }
    }

    /// Only while somebody waits: a hand-over costs more than a precise clock.
    #[cold]
    fn timed_gate(&self, open: Open) -> Option<Open> {
        // `until` may belong to a later opening: then this thread is early or late by one hand-over.
        (now().as_nanos() <= self.until.load(Ordering::Relaxed)).then_some(open)
    }

    /// Whether the gate is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open_gate().is_some()
    }

    #[inline]
    fn open_gate(&self) -> Option<Open> {
        let gate = self.gate.load(Ordering::Acquire);
        (gate & SHUT == 0).then_some(Open(gate))
    }

    /// Takes a connection from the place that this thread used last, or else from the first that
    /// has one.
    ///
    /// At each tick of the coarse clock a thread looks from the first place on. Threads that take
    /// turns so come to share few connections, and the others grow old enough to be closed.
    #[inline]
    pub(crate) fn take(&self, now: Moment) -> Option<T> {
        let (last, ticked) = last_place();
        if ticked == now {
            if let Some(item) = self.place(last).and_then(Shelf::take) {
                return Some(item);
            }
        }
        self.look_through(now)
    }

    #[cold]
    fn look_through(&self, now: Moment) -> Option<T> {
        for (at, place) in self.all().enumerate() {
            if place.looks_taken() {
                if let Some(item) = place.take() {
                    set_last_place(at, now);
                    return Some(item);
                }
            }
        }
        None
    }

    /// Puts a connection down if the gate is `open` and a place looks free.
    ///
    /// # Errors
    ///
    /// What could not be left there, and must go by the ledger: the connection, or another in its
    /// stead, or both.
    #[inline]
    pub(crate) fn put(&self, item: T, open: Open) -> Result<(), [Option<T>; 2]> {
        let Some(place) = self.free_place(open.room()) else { return Err([Some(item), None]) };
        // Something is displaced if another returner has found the same place free.
        let displaced = place.swap(item);
        let recalled = if self.open_gate() == Some(open) { None } else { place.take() };
        if displaced.is_none() && recalled.is_none() { Ok(()) } else { Err([displaced, recalled]) }
    }

    /// The place that this thread used last, or else the first, if it looks free and may be filled.
    #[inline]
    fn free_place(&self, room: usize) -> Option<&Shelf<T>> {
        let (last, _) = last_place();
        match self.place(last) {
            Some(place) if last < room && !place.looks_taken() => Some(place),
            _ => self.find_free_place(room),
        }
    }

    #[cold]
    fn find_free_place(&self, room: usize) -> Option<&Shelf<T>> {
        let at = self.all().take(room).position(|place| !place.looks_taken())?;
        // What this thread has returned last it will take first.
        let (_, ticked) = last_place();
        set_last_place(at, ticked);
        self.place(at)
    }

    /// How many rest here, as far as can be seen at a glance; of places that somebody has swept for
    /// the moment, how many were found there.
    pub(crate) fn resting(&self) -> u32 {
        let resting = match self.open_gate() {
            Some(_) => self.all().filter(|place| place.looks_taken()).count() as u64,
            None => self.last_seen.get(),
        };
        u32::try_from(resting).unwrap_or(u32::MAX)
    }

    // ---- For the holder of the ledger's lock, and nobody else -----------------------------------

    /// Shuts the gate, and takes everything up. Nothing is left to do if it is shut already.
    pub(crate) fn sweep(&self, mut found: impl FnMut(T)) {
        let gate = self.gate.load(Ordering::Relaxed);
        if gate & SHUT == 0 {
            self.gate.store(gate | SHUT, Ordering::Relaxed);
            let mut swept = 0;
            for item in self.all().filter_map(Shelf::take) {
                found(item);
                swept += 1;
            }
            self.last_seen.set(swept);
        }
    }

    /// Has places for so many connections from now on, if there are fewer and `most` allows.
    pub(crate) fn grow(&self, wanted: u32, most: u32) {
        debug_assert!(!self.is_open(), "the gate is shut while the ledger is locked");
        let most = most.min(PLACES_MOST) as usize;
        let wanted = most.min(wanted as usize);
        let mut count = 0;
        for row in self.rows() {
            count += row.places.len();
            if count < wanted && row.next.get().is_none() {
                // Twice as many as before: to go through few rows.
                let more = count.max(wanted - count).min(most - count);
                row.next.get_or_init(|| Box::new(Row::new(more)));
            }
        }
    }

    /// Lays out as many connections as there are places, opens the gate (`until` then, or for as
    /// long as it takes) with room for `spare` more, and takes up what a returner had left for the
    /// moment until it looks.
    pub(crate) fn open(
        &self,
        epoch: u32,
        until: Option<Moment>,
        spare: u32,
        mut more: impl FnMut() -> Option<T>,
        mut found: impl FnMut(T),
    ) {
        debug_assert!(!self.is_open(), "the gate is shut while the ledger is locked");
        let mut laid_out = 0;
        for place in self.all() {
            let Some(item) = more() else { break };
            laid_out += 1;
            place.swap(item).into_iter().for_each(&mut found);
        }
        self.last_seen.set(laid_out);
        if let Some(until) = until {
            self.until.store(until.as_nanos(), Ordering::Relaxed);
        }
        let room = spare.saturating_add(laid_out as u32).min(PLACES_MOST);
        self.gate.store(Open::new(epoch, room, until.is_some()).0, Ordering::Release);
    }
}

impl<T> Row<T> {
    fn new(count: usize) -> Self {
        Self { places: (0..count).map(|_| Shelf::new()).collect(), next: OnceLock::new() }
    }
}
