//! Places: cells with idle connections, which every thread can take and put back without a lock.
//!
//! A caller who finds the gate open takes a connection out of a place by one swap: first from the place
//! that its thread used last, otherwise from the first that looks taken. A returner puts it back by
//! another swap. A thread that has an event for the ledger locks it, shuts the gate, sweeps the places
//! into the ledger, and lays the idle connections out again before it unlocks.
//!
//! # The race
//!
//! A returner that leaves a connection in a place and a caller that is about to queue must not miss
//! each other. The gate sees to it:
//!
//! 1. A returner swaps its connection into a place, *then* looks at the gate. If it is shut, the
//!    returner takes the connection back, if it is still there, and brings it to the ledger.
//! 2. A thread that has locked the ledger shuts the gate, *then* sweeps the places by swapping nothing
//!    into each.
//!
//! Both swap in the same place, and one of the two swaps comes first. If the returner's does, the sweep
//! finds the connection. If the sweeper's does, the returner's swap reads what the sweeper's swap wrote.
//! The swaps acquire and release (crossbeam's do), so the returner sees all that the sweeper did before
//! its swap, and finds the gate shut. No fence is needed. So while the gate is shut a connection lies in
//! a place only until its returner has looked.
//!
//! # What may lie in a place
//!
//! | gate | nothing | a connection of that epoch | a connection of an older epoch |
//! | --- | --- | --- | --- |
//! | open, of an epoch | any returner may put one there | rests; a caller who takes it may use it | only for a moment: its returner read the gate before this epoch began; the returner or a taker brings it to the ledger |
//! | shut | the sweep left it so | only for a moment: its returner read the gate before it was shut; the returner, `open` or the next sweep takes it out | the same |
//!
//! Only the holder of the ledger's lock changes the gate. Any thread may change a place, by a swap that
//! leaves what was there in its own hands. So a connection is in one place or in one hand.

use crate::runtime::moment::Moment;
use crate::runtime::shelf::{Figure, Shelf};
use crate::runtime::sync::{AtomicU64, OnceLock, Ordering, last_place, now, set_last_place};

/// The most places of a pool. A thread that finds all of them empty has looked at as many cache
/// lines, and takes the lock; so does one that returns to a pool where all are taken.
const PLACES_MOST: u32 = 64;

/// The gate in one word. Two bits say that it is shut, and that it is open for a limited time; above
/// them lies the number of places that may be filled, and above that the epoch.
const SHUT: u64 = 1;
const TIMED: u64 = 2;
const ROOM_AT: u32 = 2;
const EPOCH_AT: u32 = 9;
const ROOM_MASK: u64 = (1 << (EPOCH_AT - ROOM_AT)) - 1;
const _: () = assert!(PLACES_MOST as u64 <= ROOM_MASK);

/// The places of a pool, and their gate.
pub(crate) struct Places<T> {
    /// An `Open`, with `SHUT` added while the gate is shut. Written under the ledger's lock. Every thread
    /// reads it before it takes a connection out of a place, and after it has put one there.
    gate: AtomicU64,
    /// The end of a limited opening, as `Moment::as_nanos`. Written under the ledger's lock before the
    /// gate is opened, and read after the gate.
    until: AtomicU64,
    /// The answer of `resting` while the gate is shut: how many connections the sweep has found or, until it
    /// is done, how many were laid out before it. Written under the ledger's lock, and read without it for
    /// the pool's numbers.
    last_seen: Figure,
    first: Row<T>,
}

/// Some places, and the further rows that the pool has needed since. Rows are only added, so that a
/// sweep finds every connection that a thread may have put down.
struct Row<T> {
    places: Box<[Shelf<T>]>,
    next: OnceLock<Box<Row<T>>>,
}

/// An open gate, in one word: connections of its epoch may fill as many places as it has room for.
#[derive(Clone, Copy, Debug)]
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

    /// How many places may be filled, from the first on. Together with the idle connections in the ledger
    /// that is as many as may rest at all.
    #[inline]
    fn room(self) -> usize {
        (self.0 >> ROOM_AT & ROOM_MASK) as usize
    }
}

impl<T> Places<T> {
    /// `count` places, at most `PLACES_MOST`, all of which may be filled, behind an open gate.
    pub(crate) fn new(count: u32) -> Self {
        let room = count.min(PLACES_MOST);
        Self {
            gate: AtomicU64::new(Open::new(0, room, false).0),
            until: AtomicU64::new(0),
            last_seen: Figure::default(),
            first: Row::new(room as usize),
        }
    }

    /// Place number `at`, if there is one.
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

    /// The gate, if it is open. `None`: it is shut, or its time is up, and callers must ask the ledger.
    #[inline]
    pub(crate) fn gate(&self) -> Option<Open> {
        let gate = self.gate.load(Ordering::Acquire);
        match gate & (SHUT | TIMED) {
            0 => Some(Open(gate)),
            TIMED => self.timed_gate(Open(gate)),
            _ => None,
        }
    }

    /// The gate, unless its time is up. It has a time limit only while somebody waits, and a hand-over costs
    /// far more than the precise clock.
    #[cold]
    fn timed_gate(&self, open: Open) -> Option<Open> {
        // `until` may belong to a later opening: then this thread is early or late by one hand-over.
        (now().as_nanos() <= self.until.load(Ordering::Relaxed)).then_some(open)
    }

    /// Whether the gate is open.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.load(Ordering::Acquire) & SHUT == 0
    }

    /// Takes a connection from the place that this thread used last, or else from the first that
    /// has one.
    ///
    /// At each tick of the coarse clock a thread looks from the first place on. So threads that take
    /// turns share few connections, and the others grow old enough to be closed.
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
        let mut taken = self.all().enumerate().filter(|(_, place)| place.looks_taken());
        taken.find_map(|(at, place)| {
            let item = place.take()?;
            set_last_place(at, now);
            Some(item)
        })
    }

    /// Puts a connection down if the gate is `open` and a place looks free.
    ///
    /// # Errors
    ///
    /// The connections that must be brought to the ledger: this one, or another that it has displaced, or
    /// both. Neither, if the gate has changed and another thread has this one: that may have been `open`, and
    /// an event must see to it.
    #[inline]
    pub(crate) fn put(&self, item: T, open: Open) -> Result<(), [Option<T>; 2]> {
        let Some(place) = self.free_place(open.room()) else { return Err([Some(item), None]) };
        // Another returner may have found the same place free: then its connection is displaced.
        let displaced = place.swap(item);
        let is_as_before = self.gate.load(Ordering::Acquire) == open.0;
        let recalled = if is_as_before { None } else { place.take() };
        if displaced.is_none() && is_as_before { Ok(()) } else { Err([displaced, recalled]) }
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
        let mut allowed = self.all().take(room).enumerate();
        let (at, place) = allowed.find(|(_, place)| !place.looks_taken())?;
        // This thread takes first what it has returned last.
        let (_, ticked) = last_place();
        set_last_place(at, ticked);
        Some(place)
    }

    /// How many connections rest here, as the hints of the places say. While the gate is shut: how many the
    /// sweep found.
    pub(crate) fn resting(&self) -> u32 {
        let resting = if self.is_open() {
            self.all().filter(|place| place.looks_taken()).count() as u64
        } else {
            self.last_seen.get()
        };
        u32::try_from(resting).unwrap_or(u32::MAX)
    }

    // ---- For the holder of the ledger's lock only -----------------------------------------------

    /// Shuts the gate, and takes everything out of the places. Does nothing if the gate is shut already.
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

    /// Adds places until there are `wanted`, but no more than `most` and `PLACES_MOST`.
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

    /// Lays connections out until `more` or the places run out, and opens the gate with room for `spare`
    /// more connections. `until` limits the opening, if it is not `Moment::LAST`. `found` gets a
    /// connection that a returner had put down and has yet to take back.
    pub(crate) fn open(
        &self,
        epoch: u32,
        until: Moment,
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
        let is_timed = until < Moment::LAST;
        if is_timed {
            self.until.store(until.as_nanos(), Ordering::Relaxed);
        }
        let room = spare.saturating_add(laid_out as u32).min(PLACES_MOST);
        self.gate.store(Open::new(epoch, room, is_timed).0, Ordering::Release);
    }
}

impl<T> Row<T> {
    fn new(count: usize) -> Self {
        Self { places: (0..count).map(|_| Shelf::new()).collect(), next: OnceLock::new() }
    }
}
