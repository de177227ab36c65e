//! Places, records and bells by themselves, without a pool: what a pool's locks would hide.
//!
//! Where one thread only writes and the other only reads, the model's first thread writes: it runs
//! first, and then loom has the reader find every state of each word that may still be seen. The other
//! way round it misses some, as it keeps in mind no read before the latest of each word.

use std::panic::Location;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use super::{check, spawn};
use crate::report::spans::CallerSpan;
use crate::roster::{ConnectionId, Loan, Roster};
use crate::runtime::moment::Moment;
use crate::runtime::shelf::{Figure, Shelf};
use crate::runtime::sync::{self, advance, now};
use crate::shell::bell::{Bell, Woken};
use crate::shell::places::Places;

/// ACC-14. Put against lay-out: the one that puts the other's connection out of its place has it in hand.
#[test]
fn what_is_displaced_as_connections_are_laid_out_is_not_lost() {
    check(|| {
        sync::search_finely();
        let places = Arc::new(Places::new(1));
        let open = places.gate().expect("nobody has shut it");
        let returning = spawn({
            let places = Arc::clone(&places);
            move || places.put(1, open)
        });
        let (mut there, mut idle) = (Vec::new(), vec![2]);
        places.sweep(|it| there.push(it));
        places.open(open.epoch(), Moment::LAST, 0, || idle.pop(), |it| there.push(it));
        if let Err(left) = returning.join().unwrap() {
            there.extend(left.into_iter().flatten());
        }
        places.sweep(|it| there.push(it));
        there.sort_unstable();
        assert_eq!((there, idle), (vec![1, 2], vec![]));
    });
}

/// WAK-01. Put against sweep: once the gate is shut and the places are swept, what is put down is in
/// the hands of one of the two.
#[test]
fn what_is_put_down_as_the_places_are_swept_stays_in_none_of_them() {
    check(|| {
        sync::search_finely();
        let places = Arc::new(Places::new(1));
        let open = places.gate().expect("nobody has shut it");
        let returning = spawn({
            let places = Arc::clone(&places);
            move || places.put(1, open)
        });
        let mut there = Vec::new();
        places.sweep(|it| there.push(it));
        match returning.join().unwrap() {
            Ok(()) => {}
            Err(left) => there.extend(left.into_iter().flatten()),
        }
        assert_eq!(there, [1], "found by the sweep, or recalled by its returner");
    });
}

/// BOUNDED-BYPASS. A gate that was opened for a time counts as shut once that is over.
#[test]
fn a_gate_that_is_open_for_a_time_is_passed_no_longer() {
    check(|| {
        let places = Places::<u32>::new(1);
        places.sweep(|_| {});
        let limit = Duration::from_millis(2);
        places.open(0, now().after_nanos(limit.as_nanos() as u64), 1, || None, |_| {});
        advance(limit);
        assert!(places.gate().is_some(), "until then");
        advance(Duration::from_nanos(1));
        assert!(places.gate().is_none(), "and no longer");
    });
}

/// A place is filled only as far as the gate has room, whatever place the thread used last.
#[test]
fn no_more_is_put_down_than_the_gate_has_room_for() {
    check(|| {
        let places = Places::new(3);
        let open = places.gate().expect("nobody has shut it");
        for number in 0..3 {
            places.put(number, open).expect("a place for each");
        }
        let mut there = Vec::new();
        places.sweep(|it| there.push(it));
        places.open(0, Moment::LAST, 1, || None, |_| {});
        let open = places.gate().expect("it is open again");
        let left = there.into_iter().filter_map(|it| places.put(it, open).err()).count();
        assert_eq!((left, places.resting()), (2, 1));
    });
}

/// A shelf's hint may be wrong, and what it says is never taken for what is there.
#[test]
fn a_shelf_gives_out_what_is_on_it_whatever_its_hint_says() {
    check(|| {
        sync::search_finely();
        let shelf = Arc::new(Shelf::new());
        let putting = spawn({
            let shelf = Arc::clone(&shelf);
            move || assert_eq!(shelf.swap(1), None)
        });
        let before = shelf.take();
        putting.join().unwrap();
        assert_eq!(before.or_else(|| shelf.take()), Some(1));
        assert_eq!(shelf.take(), None);
    });
}

/// A setting that is written before the gate is opened is read by every thread that has found it open.
#[test]
fn a_figure_set_before_the_gate_is_opened_is_read_after_it() {
    check(|| {
        sync::search_finely();
        let shared = Arc::new((Places::<u32>::new(1), Figure::default()));
        shared.0.sweep(|_| {});
        let looking = spawn({
            let shared = Arc::clone(&shared);
            move || {
                if shared.0.gate().is_some() {
                    assert_eq!(shared.1.get(), 1);
                }
            }
        });
        shared.1.set(1);
        shared.0.open(7, Moment::LAST, 1, || None, |_| {});
        looking.join().unwrap();
    });
}

/// A bell that its thread uses again tells nothing of the wait before.
#[test]
fn a_bell_that_is_used_again_has_forgotten_the_wait_before() {
    check(|| {
        let bell = Bell::<u32>::new(CallerSpan::current());
        let ringing = spawn({
            let bell = Arc::clone(&bell);
            move || {
                bell.call();
                bell.put(1);
                bell.ring();
            }
        });
        let found = loop {
            match bell.wait(None) {
                Woken::Found(number) => break number,
                Woken::Called => {}
                Woken::Late => panic!("it waits for as long as it takes"),
            }
        };
        assert_eq!(found, 1);
        bell.lay_by();
        assert!(matches!(Bell::<u32>::new(CallerSpan::current()).wait(Some(now())), Woken::Late));
        ringing.join().unwrap();
    });
}

/// A thread that may still ring a bell keeps it from being used again.
#[test]
fn a_bell_that_somebody_may_ring_is_not_used_again() {
    check(|| {
        let bell = Bell::<u32>::new(CallerSpan::current());
        let ringers = Arc::clone(&bell);
        bell.lay_by();
        let next = Bell::new(CallerSpan::current());
        assert!(!Arc::ptr_eq(&ringers, &next));
        let before = Arc::as_ptr(&next);
        next.lay_by();
        assert_eq!(Arc::as_ptr(&Bell::<u32>::new(CallerSpan::current())), before, "and then it is");
    });
}

#[track_caller]
fn here() -> &'static Location<'static> {
    Location::caller()
}

/// A record that is written while it is read never mixes up two loans.
#[test]
fn a_record_read_while_it_is_written_tells_of_one_loan() {
    let [one, other]: [ThreadId; 2] = [(); 2].map(|()| {
        let thread = std::thread::spawn(|| std::thread::current().id());
        thread.join().expect("it only tells its id")
    });
    let id = ConnectionId::of_dial(7);
    let loans = [
        Loan { id, uses: 1, since: Moment::FIRST, thread: one, location: here(), label: None },
        Loan { id, uses: 2, since: Moment::LAST, thread: other, location: here(), label: None },
    ];
    check(move || {
        sync::search_finely();
        let mut roster = Roster::default();
        let (page, line) = roster.enroll(id, now());
        let reading = spawn(move || {
            for loan in roster.loans() {
                assert!(loans.contains(&loan), "{loan:?}");
            }
        });
        let record = &page[usize::from(line)];
        for loan in loans {
            record.count_loan();
            record.hand_to(loan.since, loan.thread, loan.location);
            record.let_go();
        }
        reading.join().unwrap();
    });
}
