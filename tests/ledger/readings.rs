//! What the shell reads of a ledger, and takes from it, beside effects.

use std::collections::BTreeSet;
use std::panic::Location;
use std::time::Duration;

use crate::config::Config;
use crate::harness::{Harness, SECOND, ageless};
use crate::ledger::Reply;
use crate::ledger::close_reason::CloseReason;

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn a_loan_that_lasts_too_long_is_told_once_with_its_label() {
    let config = Config { max_open: 2, leak_after: 10 * SECOND, ..ageless() };
    let mut harness = Harness::with(config);
    let [mut entry, other] = [harness.dial_and_get(), harness.dial_and_get()];
    harness.give_back(other);
    for leaks in 1..3 {
        let thread = std::thread::current().id();
        entry.record().hand_to(harness.now, thread, Location::caller());
        harness.ledger.label(&entry, "report");
        assert_eq!(harness.ledger.in_hands(), 1);
        let labels: Vec<_> = harness.ledger.loans().iter().map(|loan| loan.label).collect();
        assert_eq!(labels, [Some("report")]);
        harness.now += 10 * SECOND;
        assert_eq!(harness.ledger.take_leaks(harness.now), [], "not longer than the limit");
        harness.now += MILLISECOND;
        assert_eq!(harness.ledger.take_leaks(harness.now).len(), 1);
        assert_eq!(harness.ledger.take_leaks(harness.now), []);
        assert_eq!(harness.stats().leaked_total, leaks);
        harness.give_back(entry);
        assert_eq!((harness.ledger.loans(), harness.ledger.in_hands()), (vec![], 0));
        entry = harness.get();
    }
}

/// The ledger has not seen them.
#[test]
fn loans_without_the_ledger_are_counted() {
    let totals = |harness: &Harness| (harness.stats().lent_total, harness.stats().reused_total);
    let mut harness = Harness::new(2);
    let [one, other] = [harness.dial_and_get(), harness.dial_and_get()];
    harness.give_back(one);
    let laid_out = harness.ledger.lay_out(harness.now).expect("it may be laid out");
    for loans in 1..4 {
        laid_out.record().count_loan();
        assert_eq!(totals(&harness), (2 + loans, loans));
    }
    harness.ledger.take_from_place(laid_out);
    harness.give_back(other);
    assert_eq!(totals(&harness), (5, 3), "once");
}

#[test]
fn each_dial_and_each_end_of_a_connection_is_another_turnover() {
    let mut harness = Harness::new(2);
    let mut seen = BTreeSet::from([harness.ledger.turnover()]);
    let mut see = |harness: &Harness| assert!(seen.insert(harness.ledger.turnover()));
    let [_refused, other] = [1, 2].map(|caller| harness.queue(caller));
    see(&harness);
    harness.refused();
    see(&harness);
    harness.dialed();
    see(&harness);
    let entry = harness.granted(other);
    harness.retire_as(entry, CloseReason::Discarded);
    see(&harness);
    harness.close_all();
    see(&harness);
    let entry = harness.dial_and_get();
    see(&harness);
    let (_, effects) = harness.ledger.detach(entry, harness.now);
    harness.note_effects(effects);
    see(&harness);
}

/// A dial runs in the span of whoever needs it.
#[test]
fn a_dial_is_ordered_with_its_sponsor() {
    let mut harness = Harness::with(Config { max_open: 4, min_idle: 1, ..ageless() });
    harness.queue(1);
    harness.warm_up(3, 2);
    let sponsors = harness.dials.iter().map(|dial| dial.sponsor.as_ref().map(|slip| slip.caller()));
    assert_eq!(sponsors.collect::<Vec<_>>(), [Some(1), None, Some(2)]);
}

#[test]
fn what_comes_from_a_place_too_late_rests_until_the_next_event() {
    let mut harness = Harness::with(Config { max_open: 3, max_idle: Some(2), ..ageless() });
    let held = [harness.dial_and_get(), harness.dial_and_get()];
    held.into_iter().for_each(|entry| harness.give_back(entry));
    let laid_out = harness.ledger.lay_out(harness.now).expect("it may be laid out");
    assert_eq!((harness.ledger.at_rest(), harness.ledger.spare_idle()), (1, 1));
    let config = *harness.ledger.config();
    harness.event(|ledger, now| ledger.reconfigure(config, now));
    harness.ledger.take_from_place(laid_out);
    assert_eq!((harness.ledger.at_rest(), harness.ledger.has_no_outdated()), (2, false));
    harness.tick();
    assert_eq!((harness.ledger.at_rest(), harness.ledger.has_no_outdated()), (2, true));
    assert_eq!((harness.ledger.spare_idle(), harness.stats().idle), (0, 2));
}

#[test]
fn what_min_idle_would_replace_is_lent_by_the_ledger() {
    let mut harness = Harness::with(Config { max_open: 3, min_idle: 1, ..ageless() });
    harness.tick();
    harness.dialed();
    assert!(harness.ledger.lay_out(harness.now).is_none(), "its loan begins a dial");
    let held = harness.get();
    harness.dialed();
    harness.give_back(held);
    assert!(harness.ledger.lay_out(harness.now).is_some());
    assert!(harness.ledger.lay_out(harness.now).is_none());
}

/// A caller who checks by itself checks what has rested for long, and not what is in doubt.
#[test]
fn what_is_in_doubt_is_not_laid_out_for_those_who_check_by_themselves() {
    let mut harness = Harness::with(Config { max_open: 2, check_after: SECOND, ..ageless() });
    harness.ledger = harness.ledger.checking_in_place(true);
    let [one, other] = [harness.dial_and_get(), harness.dial_and_get()];
    harness.give_back(one);
    harness.now += 2 * SECOND;
    let entry = harness.ledger.lay_out(harness.now).expect("it has rested for long");
    harness.ledger.take_from_place(entry);
    harness.retire_as(other, CloseReason::Broken);
    assert!(harness.ledger.lay_out(harness.now).is_none());
}

#[test]
fn a_connection_is_new_to_the_caller_whose_wait_its_dial_ended() {
    let config = Config { max_open: 2, check_after: Duration::MAX, ..ageless() };
    let mut harness = Harness::with(config);
    assert!(harness.dial_and_get().just_dialed);
    harness.warm_up(2, 1);
    harness.dialed();
    harness.now += SECOND;
    let Reply::Granted(_, entry) = harness.request(1, None) else { panic!("one is idle") };
    assert!(!entry.just_dialed, "it may have broken since");
}

#[test]
fn upkeep_that_found_no_thread_is_ordered_again_by_the_next_event() {
    let mut harness = Harness::with(Config { max_idle_time: 60 * SECOND, ..ageless() });
    let entry = harness.dial_and_get();
    harness.give_back(entry);
    let due = harness.alarm.take();
    assert_eq!(due, Some(harness.now + 60 * SECOND));
    assert_eq!(harness.ledger.alarm(), due);
    harness.ledger.alarm_refused();
    assert_eq!(harness.ledger.alarm(), None);
    harness.tick();
    assert_eq!((harness.alarm, harness.ledger.alarm()), (due, due));
}
