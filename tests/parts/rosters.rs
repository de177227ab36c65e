//! The roster by itself: a record that is written while it is read never mixes up two loans.
//! A pool would hide most of it: its readers have shut the gate.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::roster::{ConnectionId, LoanCount, LoanRecord, Roster};
use crate::runtime::moment::Moment;

/// As long as a cache line and not two, on 32 bits as well. That it takes no lock there is for the
/// compiler to say.
#[test]
fn a_record_has_a_cache_line_of_its_own() {
    assert_eq!((size_of::<LoanRecord>(), align_of::<LoanRecord>()), (64, 64));
}

fn sites() -> [&'static Location<'static>; 2] {
    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }
    [here(), here()]
}

fn threads() -> [ThreadId; 2] {
    [(); 2].map(|()| {
        let thread = thread::spawn(|| thread::current().id());
        thread.join().unwrap()
    })
}

#[test]
fn a_record_read_while_it_is_written_never_mixes_up_two_loans() {
    let (sites, threads, since) = (sites(), threads(), [Moment::FIRST, Moment::LAST]);
    let mut roster = Roster::default();
    let (page, line) = roster.enroll(ConnectionId::of_dial(7), Moment::from(Instant::now()));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let record = &page[usize::from(line)];
            while !is_over.load(SeqCst) {
                record.count_loan();
                record.hand_to(since[0], threads[0], sites[0]);
                record.let_go();
                record.count_loan();
                record.hand_to(since[1], threads[1], sites[1]);
                record.let_go();
            }
        });
        let (mut seen, mut torn) = (0, None);
        // The writer may be late on a busy machine.
        let (soonest, latest) = (Duration::from_millis(300), Duration::from_secs(20));
        let begin = Instant::now();
        while torn.is_none() && begin.elapsed() < if seen > 0 { soonest } else { latest } {
            for loan in roster.loans() {
                let turn = usize::from(loan.since == Moment::LAST);
                seen += 1;
                let is_of_turn = loan.uses % 2 == 1 - turn as u64;
                if loan.thread != threads[turn] || loan.location != sites[turn] || !is_of_turn {
                    torn = Some(loan);
                }
            }
        }
        is_over.store(true, SeqCst);
        assert_eq!(torn, None, "after {seen} loans");
        assert!(seen > 0, "the reader has seen some");
    });
}

#[test]
fn lines_are_used_again_and_pages_that_nobody_uses_are_freed() {
    let (mut roster, now) = (Roster::default(), Moment::from(Instant::now()));
    let mut lines: Vec<_> =
        (0..100).map(|n| roster.enroll(ConnectionId::of_dial(n), now)).collect();
    for (n, (page, line)) in lines.iter().enumerate() {
        let record = &page[usize::from(*line)];
        assert_eq!(record.id(), ConnectionId::of_dial(n as u64));
        record.count_loan();
        assert_eq!(record.take_uncounted(), LoanCount { lent: 1, reused: 0 });
        record.count_loan();
        record.count_loan();
    }
    assert_eq!(roster.uncounted(), LoanCount { lent: 200, reused: 200 });
    for (page, line) in &lines {
        assert_eq!(page[usize::from(*line)].take_uncounted(), LoanCount { lent: 2, reused: 2 });
    }
    assert_eq!(roster.uncounted(), LoanCount::default());

    // Every second one ends: its line is the next to be taken.
    let mut nth = 0;
    lines.retain(|(page, line)| {
        nth += 1;
        if nth % 2 == 0 {
            roster.strike(page, *line);
        }
        nth % 2 == 1
    });
    let pages: Vec<_> = lines.iter().map(|(page, _)| Arc::downgrade(page)).collect();
    lines.extend((100..150).map(|n| roster.enroll(ConnectionId::of_dial(n), now)));
    for (page, line) in &lines[50..] {
        let is_known = pages.iter().any(|known| known.as_ptr() == Arc::as_ptr(page));
        assert!(is_known, "no page is added while there is room");
        assert_eq!(page[usize::from(*line)].loans(), 0);
    }

    for (page, line) in lines {
        roster.strike(&page, line);
    }
    assert!(pages.iter().all(|page| page.strong_count() == 0));
}

#[test]
fn a_label_goes_with_its_connection_and_belongs_to_one_loan() {
    let (mut roster, now) = (Roster::default(), Moment::from(Instant::now()));
    let lend = |record: &LoanRecord| {
        record.count_loan();
        record.hand_to(now, thread::current().id(), sites()[0]);
        record.take_uncounted();
    };
    let shown = |roster: &Roster| roster.loans().iter().map(|l| l.label).collect::<Vec<_>>();
    for number in 0..1_000 {
        let (page, line) = roster.enroll(ConnectionId::of_dial(number), now);
        let record = &page[usize::from(line)];
        lend(record);
        assert_eq!(shown(&roster), [None], "nor that of the connection before");
        roster.label(record, "first");
        assert_eq!(shown(&roster), [Some("first")]);
        record.let_go();
        assert_eq!(shown(&roster), []);
        lend(record);
        assert_eq!(shown(&roster), [None]);
        roster.strike(&page, line);
        assert!(!format!("{roster:?}").contains("first"), "it takes no memory: {roster:?}");
    }
}
