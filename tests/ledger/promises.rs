//! Single promises, in the ledger's own terms: one test for each, which random histories would not name.

use std::time::Duration;

use crate::config::{Config, DialRule};
use crate::harness::{Harness, SECOND, ageless};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::stats::Stats;
use crate::ledger::{AtDialerOrder, Entry, Overdue, Purpose, Refusal, Reply, Verdict};
use crate::runtime::moment::Moment;
use crate::slips::{Failure, Slip};

// ---- Accounting --------------------------------------------------------------------------------

/// ACC-11.
#[test]
fn callers_who_time_out_cost_no_capacity() {
    let mut harness = Harness::new(1);
    let mut held = harness.dial_and_get();
    for round in 0..10_000 {
        let ticket = harness.queue_for(round, SECOND);
        harness.now += SECOND;
        assert!(harness.collect(ticket).is_none());
        assert_eq!(harness.leave(ticket), None);
        harness.give_back(held);
        held = harness.get();
        assert_eq!(harness.stats().open(), 1);
    }
    assert_eq!(harness.stats().timed_out_total, 10_000);
}

/// DEADLINE: nothing is idle and nothing under way, so that no event has anything else to do.
#[test]
fn a_caller_who_is_late_is_out_of_the_queue_at_the_next_event_whatever_that_is() {
    let mut harness = Harness::new(1);
    let _held = harness.dial_and_get();
    harness.queue_for(1, SECOND);
    harness.queue(2);
    harness.now += SECOND;
    harness.tick();
    assert_eq!((harness.stats().waiting, harness.stats().timed_out_total), (1, 1));
}

/// ACC-16: in deadpool, `resize(1)` and `resize(4)` of an unused pool of 4 let 7 be open.
#[test]
fn the_limit_is_the_last_one_set_whatever_was_open() {
    for used in 0..=4 {
        let mut harness = Harness::new(4);
        let held: Vec<_> = (0..used).map(|_| harness.dial_and_get()).collect();
        harness.resize(1);
        harness.resize(4);
        let waiting: Vec<_> = (0..8).map(|caller| harness.queue(caller)).collect();
        assert_eq!(harness.stats().open(), 4, "{used} in use");
        assert_eq!(harness.stats().waiting, 8);
        drop((held, waiting));
    }
}

/// ACC-17.
#[test]
fn a_lowered_limit_is_kept_as_connections_come_back() {
    let mut harness = Harness::new(3);
    let held: Vec<_> = (0..3).map(|_| harness.dial_and_get()).collect();
    harness.resize(2);
    assert_eq!((harness.stats().open(), harness.closes.len()), (3, 0), "nothing in use is closed");
    let open: Vec<_> = held
        .into_iter()
        .map(|entry| {
            harness.give_back(entry);
            harness.close_all();
            harness.stats().open()
        })
        .collect();
    assert_eq!(open, [2, 2, 2]);
    assert_eq!(harness.stats().idle, 2);
}

/// ACC-16: raising the limit serves callers who wait at once.
#[test]
fn a_raised_limit_begins_a_dial_for_each_waiter_that_it_makes_room_for() {
    let mut harness = Harness::new(1);
    let _held = harness.dial_and_get();
    let _waiting: Vec<_> = (0..4).map(|caller| harness.queue(caller)).collect();
    assert_eq!(harness.dials.len(), 0);
    harness.resize(3);
    assert_eq!(harness.dials.len(), 2);
}

/// ACC-19.
#[test]
fn get_put_get_get_opens_two_connections() {
    let mut harness = Harness::new(100);
    let first = harness.dial_and_get();
    harness.give_back(first);
    let _again = harness.get();
    let _second = harness.dial_and_get();
    assert_eq!((harness.begun, harness.stats().open()), (2, 2));
}

/// ACC-22: the dial outlives its caller, and its connection goes to the next caller.
#[test]
fn a_dial_that_ends_after_its_caller_has_left_becomes_idle() {
    let mut harness = Harness::new(1);
    let ticket = harness.queue_for(0, SECOND);
    harness.now += SECOND;
    harness.leave(ticket);
    harness.now += SECOND;
    harness.dialed();
    let Stats { idle, in_use, .. } = harness.stats();
    assert_eq!((idle, in_use, harness.stats().open()), (1, 0, 1));
    assert_eq!(harness.get().connection, 1);
}

/// ACC-23.
#[test]
fn a_caller_whose_own_dial_is_taken_waits_on() {
    let mut harness = Harness::new(2);
    let (first, second) = (harness.queue(1), harness.queue(2));
    let second_dial = harness.dials.pop().expect("each has a dial");
    harness.event(|ledger, now| ledger.dialed(second_dial.id, 7, None, Duration::MAX, now));
    assert_eq!(harness.granted(first).connection, 7, "the longest-waiting caller takes it");
    assert!(harness.collect(second).is_none());
    assert_eq!(harness.begun, 2, "the dial of the first is now the second's");
    harness.dialed();
    harness.granted(second);
}

/// ACC-25, WAK-09: a dial that hangs is written off when it is due, and holds its own slot only.
#[test]
fn an_overdue_dial_is_told_the_limit_that_it_began_with() {
    let config = Config { max_open: 1, dial_timeout: SECOND, ..ageless() };
    let mut harness = Harness::with(config);
    let hanging = harness.queue(1);
    let config = Config { dial_timeout: 9 * SECOND, ..config };
    harness.event(|ledger, now| ledger.reconfigure(config, now));
    harness.now += SECOND;
    harness.tick();
    assert_eq!(harness.failure(hanging), Failure::Overdue(Overdue::Limit(SECOND)));
}

#[test]
fn an_overdue_dial_fails_its_caller_and_is_counted_once_at_its_end() {
    let mut harness = Harness::with(Config { max_open: 2, dial_timeout: SECOND, ..ageless() });
    let hanging = harness.queue(1);
    assert_eq!(harness.sleep(hanging), Some(harness.now + SECOND));
    harness.now += SECOND;
    harness.tick();
    assert_eq!(harness.failure(hanging), Failure::Overdue(Overdue::Limit(SECOND)));
    let Stats { dialing, overdue, dial_failed_total, .. } = harness.stats();
    assert_eq!((dialing, overdue, dial_failed_total), (1, 1, 0));

    let _next = harness.queue(2);
    assert_eq!(harness.begun, 2, "the other slot serves the next caller");
    harness.refused();
    let Stats { dialing, overdue, dial_failed_total, .. } = harness.stats();
    assert_eq!((dialing, overdue, dial_failed_total), (1, 0, 1));
}

/// SHUT-05: the slot of a connection that is being closed is not free before its close has ended.
#[test]
fn a_slow_close_holds_its_slot_until_close_timeout() {
    let mut harness = Harness::with(Config { max_open: 1, close_timeout: SECOND, ..ageless() });
    let held = harness.dial_and_get();
    let _waiting = harness.queue(1);
    harness.retire_as(held, CloseReason::Broken);
    assert_eq!((harness.stats().closing, harness.begun), (1, 1));
    harness.now += SECOND;
    harness.tick();
    assert_eq!((harness.stats().close_timeouts_total, harness.begun), (1, 2));
    harness.close_all();
    assert_eq!(harness.stats().open(), 1, "a close that ends after all frees nothing twice");
}

/// A close that may take for ever, ordered first, is no reason to wait for one that may not.
#[test]
fn each_errand_is_due_by_its_own_deadline() {
    let forever = Config { max_open: 2, close_timeout: Duration::MAX, ..ageless() };
    let mut harness = Harness::with(forever);
    let (one, other) = (harness.dial_and_get(), harness.dial_and_get());
    harness.retire_as(one, CloseReason::Broken);
    harness
        .event(|ledger, now| ledger.reconfigure(Config { close_timeout: SECOND, ..forever }, now));
    harness.retire_as(other, CloseReason::Broken);
    harness.now += SECOND;
    harness.tick();
    assert_eq!((harness.stats().closing, harness.stats().close_timeouts_total), (1, 1));
}

// ---- Wake-ups ----------------------------------------------------------------------------------

/// WAK-04.
#[test]
fn one_return_wakes_one_of_many_waiters() {
    let mut harness = Harness::new(1);
    let held = harness.dial_and_get();
    harness.woken.clear();
    for caller in 1..=1_000 {
        harness.queue(caller);
    }
    harness.give_back(held);
    assert_eq!(harness.woken, [1]);
}

/// WAK-09.
#[test]
fn a_dial_that_hangs_is_no_reason_to_begin_fewer() {
    let mut harness = Harness::new(5);
    let _waiting: Vec<_> = (0..5).map(|caller| harness.queue(caller)).collect();
    assert_eq!(harness.stats().dialing, 5);
    harness.refused();
    assert_eq!(
        (harness.stats().dialing, harness.stats().waiting),
        (4, 4),
        "a dial for each who waits"
    );
}

/// WAK-10.
#[test]
fn freed_slots_are_dialed_into_side_by_side() {
    let mut harness = Harness::new(4);
    let held: Vec<_> = (0..4).map(|_| harness.dial_and_get()).collect();
    let _waiting: Vec<_> = (0..4).map(|caller| harness.queue(caller)).collect();
    held.into_iter().for_each(|entry| harness.retire(entry));
    assert_eq!(harness.stats().dialing, 4);
}

/// WAK-11: one failure after the other, each in the event that the one before begins.
#[test]
fn ten_thousand_callers_fail_one_by_one_with_an_error_of_their_own() {
    let mut harness = Harness::new(1);
    let waiting: Vec<_> = (0..10_000).map(|caller| harness.queue(caller)).collect();
    for ticket in waiting {
        let dial = harness.refused();
        assert_eq!(harness.failure(ticket), Failure::Of(dial));
    }
    assert_eq!((harness.stats().open(), harness.begun), (0, 10_000));
}

/// WAK-12.
#[test]
fn two_callers_whose_dials_both_fail_are_two_dials() {
    let mut harness = Harness::new(2);
    let (first, second) = (harness.queue(1), harness.queue(2));
    let dials = [harness.refused(), harness.refused()];
    assert_eq!([harness.failure(first), harness.failure(second)], dials.map(Failure::Of));
    assert_eq!(harness.begun, 2);
}

/// WAK-13.
#[test]
fn a_flushed_connection_that_comes_back_frees_its_slot_for_the_waiter() {
    let mut harness = Harness::new(1);
    let held = harness.dial_and_get();
    let waiting = harness.queue(1);
    harness.flush();
    harness.give_back(held);
    harness.close_all();
    assert_eq!(harness.begun, 2);
    harness.dialed();
    assert_eq!(harness.granted(waiting).connection, 2);
}

/// NO-STRANDED-WAITER: a caller who sleeps without a time is woken to watch a job that begins meanwhile.
#[test]
fn the_last_who_sleeps_wakes_when_a_job_is_overdue() {
    let mut harness = Harness::with(Config { max_open: 1, close_timeout: SECOND, ..ageless() });
    let held = harness.dial_and_get();
    let (first, second) = (harness.queue(1), harness.queue(2));
    assert_eq!((harness.sleep(first), harness.sleep(second)), (None, None));
    harness.woken.clear();
    harness.retire_as(held, CloseReason::Broken);
    assert_eq!(harness.woken, [2], "one is enough");
    assert_eq!(harness.sleep(second), Some(harness.now + SECOND), "the close may hang");
    assert_eq!(harness.sleep(first), None, "one is enough");
    harness.tick();
    assert_eq!(harness.woken, [2], "and once is");
}

/// The same when the watcher leaves.
#[test]
fn a_watcher_who_leaves_is_replaced() {
    let mut harness = Harness::new(1);
    let held = harness.dial_and_get();
    let (first, second) = (harness.queue(1), harness.queue_for(2, SECOND));
    let deadline = harness.now + SECOND;
    assert_eq!(harness.sleep(first), None);
    assert_eq!(harness.ledger.sleep(second, Some(deadline)), Some(deadline));
    harness.woken.clear();
    harness.retire_as(held, CloseReason::Broken);
    assert_eq!(harness.woken, [2]);
    assert_eq!(harness.ledger.sleep(second, Some(deadline)), Some(deadline), "and then it leaves");
    harness.now = deadline;
    harness.leave(second);
    assert_eq!(harness.woken, [2, 1]);
}

// ---- Deadlines ---------------------------------------------------------------------------------

/// CAN-01.
#[test]
fn one_return_reaches_the_live_waiter_behind_ten_thousand_expired_ones() {
    let mut harness = Harness::new(1);
    let held = harness.dial_and_get();
    let expired: Vec<_> = (0..10_000).map(|caller| harness.queue_for(caller, SECOND)).collect();
    let live = harness.queue(77_777);
    harness.woken.clear();
    harness.now += SECOND;
    harness.give_back(held);
    assert_eq!(harness.woken, [77_777], "in one event, and nobody else is woken");
    harness.granted(live);
    for ticket in expired {
        assert!(matches!(harness.collect(ticket), Some(Verdict::Late(None))));
    }
    assert_eq!((harness.stats().waiting, harness.stats().timed_out_total), (0, 10_000));
}

/// CAN-05.
#[test]
fn nothing_remains_of_callers_who_leave_from_behind_a_patient_one() {
    let mut harness = Harness::new(1);
    let _held = harness.dial_and_get();
    let patient = harness.queue(1);
    let first = harness.queue_for(2, SECOND);
    harness.leave(first);
    // Everything that the ledger keeps, as text.
    let before = format!("{:?}", harness.ledger).len();
    for _ in 0..100_000 {
        let ticket = harness.queue_for(2, SECOND);
        harness.leave(ticket);
    }
    assert_eq!(harness.stats().waiting, 1);
    assert!(harness.collect(patient).is_none());
    // Some numbers have more digits now.
    assert!(format!("{:?}", harness.ledger).len() < before + 100, "{:?}", harness.ledger);
}

/// CAN-06.
#[test]
fn a_caller_whose_deadline_has_passed_begins_nothing_but_takes_an_idle_connection() {
    let mut harness = Harness::new(1);
    let refused = harness.request(1, Some(Duration::ZERO));
    assert!(matches!(refused, Reply::Refused(Refusal::TooLate)));
    assert_eq!((harness.begun, harness.stats().waiting), (0, 0));
    let entry = harness.dial_and_get();
    harness.give_back(entry);
    assert!(matches!(harness.request(1, Some(Duration::ZERO)), Reply::Granted(..)));
}

/// CAN-09.
#[test]
fn no_limit_is_no_limit_and_overflows_nothing() {
    let mut harness = Harness::with(Config {
        max_open: 1,
        dial_timeout: Duration::MAX,
        check_after: Duration::MAX,
        check_timeout: Duration::MAX,
        close_timeout: Duration::MAX,
        ..ageless()
    });
    let ticket = harness.queue_for(1, Duration::MAX);
    assert_eq!(harness.dials[0].deadline, None);
    harness.now += 1_000_000 * SECOND;
    harness.tick();
    harness.dialed();
    let entry = harness.granted(ticket);
    harness.give_back(entry);
    harness.now += 1_000_000 * SECOND;
    let entry = harness.get();
    harness.retire_as(entry, CloseReason::Broken);
    harness.now += 1_000_000 * SECOND;
    harness.tick();
    assert_eq!(harness.stats().closing, 1);
    let waiting = harness.queue(2);
    assert_eq!(harness.sleep(waiting), None);
}

/// CAN-12.
#[test]
fn nobody_fails_by_a_dial_that_another_asked_for() {
    let mut harness = Harness::new(2);
    let held = harness.dial_and_get();
    let (first, second) = (harness.queue(1), harness.queue(2));
    let dial = harness.refused();
    assert_eq!(harness.stats().dialing, 1, "the slot begins a dial for the second");
    harness.retire(held);
    assert_eq!(harness.failure(first), Failure::Of(dial));
    assert!(harness.collect(second).is_none());
    harness.dialed();
    assert_eq!(harness.granted(second).connection, 2);
}

/// CAN-13.
#[test]
fn a_return_serves_callers_whose_dials_have_been_refused() {
    let mut harness = Harness::new(3);
    let held = harness.dial_and_get();
    let (first, second) = (harness.queue(1), harness.queue(2));
    harness.refused();
    harness.refused();
    assert_eq!(
        (harness.begun, harness.stats().waiting),
        (3, 2),
        "who holds an error dials no more"
    );
    harness.give_back(held);
    let entry = harness.granted(first);
    harness.give_back(entry);
    harness.granted(second);
}

/// REASON: nothing else can serve it, and the close that has begun is no dial.
#[test]
fn a_caller_whose_dial_has_failed_is_told_as_the_last_connection_is_discarded() {
    let mut harness = Harness::new(2);
    let held = harness.dial_and_get();
    let ticket = harness.queue(1);
    let dial = harness.refused();
    harness.retire_as(held, CloseReason::Broken);
    assert_eq!((harness.stats().closing, harness.failure(ticket)), (1, Failure::Of(dial)));
}

/// CAN-11, CAN-13: at its deadline a caller gets the error of its own dial.
#[test]
fn a_caller_who_is_late_is_told_why_its_dial_failed() {
    let mut harness = Harness::new(2);
    let _held = harness.dial_and_get();
    let ticket = harness.queue_for(1, SECOND);
    let dial = harness.refused();
    harness.now += SECOND;
    assert!(harness.collect(ticket).is_none());
    assert_eq!(harness.leave(ticket), Some(Failure::Of(dial)));
}

// ---- Fairness ----------------------------------------------------------------------------------

/// FAIR-01.
#[test]
fn fifty_waiters_are_served_in_order() {
    let mut harness = Harness::new(1);
    let mut held = harness.dial_and_get();
    let waiting: Vec<_> = (1..=50).map(|caller| harness.queue(caller)).collect();
    harness.woken.clear();
    for ticket in waiting {
        harness.give_back(held);
        held = harness.granted(ticket);
    }
    assert_eq!(harness.woken, (1..=50).collect::<Vec<_>>());
}

/// FAIR-02, FAIR-05.
#[test]
fn a_caller_who_returns_and_asks_again_stands_behind_the_queue() {
    let mut harness = Harness::new(1);
    let held = harness.dial_and_get();
    let waiting = harness.queue(1);
    harness.give_back(held);
    assert!(matches!(harness.ledger.try_request(harness.now), (Ok(None), _)));
    let again = harness.queue(2);
    let entry = harness.granted(waiting);
    harness.give_back(entry);
    harness.granted(again);
}

/// FAIR-04.
#[test]
fn a_caller_who_is_given_a_broken_connection_keeps_its_place() {
    let mut harness = Harness::new(1);
    let held = harness.dial_and_get();
    let (first, second) = (harness.queue(1), harness.queue(2));
    harness.give_back(held);
    let broken = harness.granted(first);
    harness.retire(broken);
    assert_eq!(harness.ask_again(first, harness.now), first);
    harness.dialed();
    harness.granted(first);
    assert!(harness.collect(second).is_none());
    assert_eq!(harness.stats().waited_total, 3, "nobody queues twice");
}

/// A caller who was given a broken connection has waited since it first asked. That time counts for the
/// hold-off, for the bound on passing, and among keys.
#[test]
fn a_caller_who_is_given_a_broken_connection_keeps_its_seniority() {
    let bypass = Duration::from_micros(500); // Too short to measure the rate of loans.
    let mut harness = Harness::new(2);
    let (one, other) = (harness.dial_and_get(), harness.dial_and_get());
    harness.event(|ledger, now| ledger.reconfigure(Config { bypass, ..*ledger.config() }, now));
    let start = harness.now;
    let (first, second) = (harness.queue(1), harness.queue(2));
    harness.now += bypass / 2;
    for connection in [one, other] {
        harness.give_back(connection);
    }
    for broken in [harness.granted(first), harness.granted(second)] {
        harness.retire(broken);
    }
    let [first, second] = [first, second].map(|ticket| harness.ask_again(ticket, start));
    harness.sleep(first);
    harness.dialed();
    harness.dialed();
    assert_eq!(harness.stats().idle, 1, "a connection is on its way to the first");
    harness.now += bypass / 2;
    harness.tick();
    assert_eq!(harness.stats().idle, 0, "the second has waited for as long as it may be passed");
    harness.granted(first);
    harness.granted(second);
    assert_eq!(
        harness.stats().wait_time_total,
        2 * bypass - bypass / 2,
        "each wait is counted once"
    );
}

/// Two connections come back to two callers. The first is asleep and will come for its connection at
/// once, so newcomers may have the second meanwhile. If the first is awake, perhaps in user code, the
/// second caller gets it: it would otherwise sleep beside an idle connection for as long as that takes.
#[test]
fn a_caller_sleeps_beside_no_idle_connection_while_the_one_before_it_is_in_user_code() {
    for is_awake in [false, true] {
        let mut harness = Harness::new(2);
        let (one, other) = (harness.dial_and_get(), harness.dial_and_get());
        let config = Config { bypass: SECOND, ..*harness.ledger.config() };
        harness.event(|ledger, now| ledger.reconfigure(config, now));
        let (first, second) = (harness.queue(1), harness.queue(2));
        if !is_awake {
            harness.sleep(first);
        }
        harness.sleep(second);
        harness.give_back(one);
        harness.give_back(other);
        assert_eq!(harness.stats().idle, u32::from(!is_awake));
        assert_eq!(harness.collect(second).is_some(), is_awake);
    }
}

/// FAIR-04.
#[test]
fn several_who_come_back_with_broken_connections_stay_in_their_order() {
    let mut harness = Harness::new(2);
    let held = [harness.dial_and_get(), harness.dial_and_get()];
    let [first, second, _third, _fourth] = [1, 2, 3, 4].map(|caller| harness.queue(caller));
    held.into_iter().for_each(|entry| harness.give_back(entry));
    let broken = [first, second].map(|ticket| harness.granted(ticket));
    broken.into_iter().for_each(|entry| harness.retire_as(entry, CloseReason::Broken));
    let start = harness.now;
    let [first, second] = [first, second].map(|ticket| harness.ask_again(ticket, start));
    harness.close_all();
    for ticket in [first, second] {
        harness.dialed();
        harness.granted(ticket);
    }
}

// ---- Late binding ------------------------------------------------------------------------------

/// BIND-04.
#[test]
fn a_dial_that_fails_after_its_caller_was_served_is_nobodys_failure() {
    let mut harness = Harness::new(2);
    let held = harness.dial_and_get();
    let (first, second) = (harness.queue(1), harness.queue(2));
    harness.give_back(held);
    let _held = harness.granted(first);
    assert_eq!(harness.begun, 2, "the second adopts the dial that the first has left");
    harness.refused();
    assert_eq!(
        (harness.begun, harness.stats().waiting),
        (3, 1),
        "and begins its own when that fails"
    );
    assert!(harness.collect(second).is_none());
    harness.dialed();
    harness.granted(second);
}

/// BIND-10.
#[test]
fn a_dial_in_flight_is_adopted_before_another_is_begun() {
    let mut harness = Harness::new(5);
    let left = harness.queue_for(1, SECOND);
    harness.leave(left);
    let adopting = harness.queue(2);
    assert_eq!(harness.begun, 1);
    let _third = harness.queue(3);
    assert_eq!(harness.begun, 2);
    harness.dialed();
    harness.granted(adopting);
}

/// LATE-BINDING: an orphan dial may hang for long; a check is quick.
#[test]
fn an_idle_connection_is_checked_for_a_caller_although_a_dial_is_under_way() {
    let mut harness = Harness::new(2);
    let held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.give_back(held);
    let entry = harness.granted(ticket);
    harness.give_back(entry);
    assert_eq!(
        (harness.stats().dialing, harness.stats().idle),
        (1, 1),
        "an orphan dial, and it hangs"
    );

    harness.now += SECOND;
    let ticket = harness.queue(2);
    let AtDialerOrder { id, entry, purpose, .. } =
        harness.at_dialer.pop().expect("a check is begun");
    assert_eq!(purpose, Purpose::Check);
    harness.event(|ledger, now| ledger.back_from_dialer(id, entry, None, now));
    assert_eq!(harness.granted(ticket).connection, 1);
}

/// CAN-14, ACC-15: as many idle connections as have died are checked and retired before a dial.
#[test]
fn dead_idle_connections_are_retired_one_by_one_and_then_one_is_dialed() {
    let mut harness = Harness::new(3);
    let held: Vec<_> = (0..3).map(|_| harness.dial_and_get()).collect();
    held.into_iter().for_each(|entry| harness.give_back(entry));
    harness.now += SECOND;
    let ticket = harness.queue(1);
    for open in [2, 1, 0] {
        assert_eq!((harness.at_dialer.len(), harness.dials.len()), (1, 0));
        let AtDialerOrder { id, entry, .. } = harness.at_dialer.remove(0);
        harness.event(|ledger, now| {
            ledger.back_from_dialer(id, entry, Some(CloseReason::CheckFailed), now)
        });
        harness.close_all();
        let Stats { idle, in_use, .. } = harness.stats();
        assert_eq!(idle + in_use, open);
    }
    harness.dialed();
    assert_eq!((harness.granted(ticket).connection, harness.stats().open()), (4, 1));
}

// ---- The queue's bound, warm-ups, flushes ------------------------------------------------------

/// `max_waiting` counts callers for whom nothing is under way, and an idle connection serves after
/// its check.
#[test]
fn nobody_is_turned_away_whom_an_idle_connection_can_serve_after_a_check() {
    let bound = Config { max_open: 1, max_waiting: Some(0), ..ageless() };
    let mut harness = Harness::with(bound);
    let entry = harness.dial_and_get();
    harness.give_back(entry);
    harness.now += SECOND;
    harness.queue(1);
    assert_eq!(harness.at_dialer.len(), 1);
    let full = harness.request(2, None);
    assert!(matches!(full, Reply::Refused(Refusal::QueueFull)));
    assert_eq!(harness.stats().queue_full_total, 1);
}

/// ACC-18.
#[test]
fn a_warm_up_and_callers_together_keep_within_the_limit() {
    let mut harness = Harness::new(3);
    let waiting = harness.queue(1);
    let warm = harness.warm_up(9, 2);
    assert_eq!((harness.stats().dialing, harness.begun), (3, 3));
    for _ in 0..3 {
        harness.dialed();
    }
    harness.granted(waiting);
    assert!(matches!(harness.collect(warm), Some(Verdict::Warm)));
    assert_eq!(harness.stats().idle, 2);
}

/// SHUT-12: the flush has begun other dials for the warm-up, as it does for callers.
#[test]
fn a_warm_up_does_not_fail_by_a_dial_from_before_a_flush() {
    let mut harness = Harness::new(2);
    let warm = harness.warm_up(1, 1);
    harness.flush();
    assert_eq!(harness.begun, 2);
    harness.refused();
    assert!(harness.collect(warm).is_none());
    harness.dialed();
    assert!(matches!(harness.collect(warm), Some(Verdict::Warm)));
}

/// SHUT-12: the generation is that of the dial's beginning.
#[test]
fn a_connection_whose_dial_began_before_a_flush_is_not_lent_after_it() {
    let mut harness = Harness::new(3);
    let (held, resting) = (harness.dial_and_get(), harness.dial_and_get());
    let left = harness.queue(1);
    harness.leave(left);
    harness.give_back(resting);
    assert_eq!((harness.stats().idle, harness.stats().in_use, harness.stats().dialing), (1, 1, 1));

    harness.flush();
    assert_eq!(harness.closes.len(), 1, "idle connections are closed at once");
    harness.give_back(held);
    assert_eq!(harness.closes.len(), 2, "a connection in use is closed when it comes back");
    harness.dialed();
    assert_eq!(harness.closes.len(), 3, "a dialed connection is closed when it is open");
    harness.close_all();
    assert_eq!((harness.stats().open(), harness.stats().retired_total), (0, 3));
}

/// A connection that is laid out while the settings change passes the ledger before it is lent again.
#[test]
fn a_connection_laid_out_during_a_change_becomes_idle_in_its_order_once_the_ledger_lets_it_pass() {
    let config = Config { max_open: 3, check_after: Duration::MAX, ..ageless() };
    let mut harness = Harness::with(config);
    let entries = [harness.dial_and_get(), harness.dial_and_get(), harness.dial_and_get()];
    for entry in entries {
        harness.give_back(entry);
        harness.now += SECOND;
    }
    let laid_out =
        [(); 2].map(|()| harness.ledger.lay_out(harness.now).expect("something is idle"));
    let before = harness.ledger.epoch();
    harness.resize(2);
    assert!(harness.ledger.epoch() > before);
    assert_eq!(harness.ledger.may_lay_out_until(harness.now), Some(Moment::LAST));
    assert_eq!(harness.closes.len(), 1, "the coldest, which alone was in the ledger");

    let [warmest, colder] = laid_out;
    assert_eq!((warmest.connection, colder.connection), (3, 2));
    harness.ledger.take_from_place(warmest);
    assert_eq!(harness.ledger.may_lay_out_until(harness.now), None, "something has yet to pass");
    assert_eq!((harness.stats().in_use, harness.stats().idle), (2, 0));
    harness.tick();
    harness.ledger.take_from_place(colder);
    harness.tick();
    assert_eq!((harness.stats().in_use, harness.stats().idle), (0, 2));
    let entry = harness.ledger.lay_out(harness.now).expect("something is idle");
    assert_eq!((entry.connection, harness.now - entry.idle_since()), (3, SECOND));
    assert_eq!(entry.epoch, harness.ledger.epoch());
}

/// One who waits for the end of a closed pool would look without a pause, and so for ever.
#[test]
fn nobody_looks_for_dials_once_the_pool_is_closed() {
    let (mut harness, _held) = lent_after_a_second(3);
    let waiting = harness.queue(1);
    assert_eq!(harness.sleep(waiting), harness.now.after(SECOND / 8), "the dial rule looks then");

    harness.event(|ledger, now| ledger.close(now));
    let (drain, orders) = harness.ledger.drain(harness.now, || Slip::new(9));
    harness.note_effects(orders);
    assert_eq!(harness.sleep(drain), None);
}

/// A pool under the adaptive rule whose first dial has taken a second, with the connection in use.
fn lent_after_a_second(max_open: u32) -> (Harness, Entry<u32>) {
    let mut harness = Harness::new(max_open);
    let adaptive = Config {
        dial_rule: DialRule::Adaptive,
        dial_timeout: Duration::MAX,
        ..*harness.ledger.config()
    };
    harness.event(|ledger, now| ledger.reconfigure(adaptive, now));
    let first = harness.queue(0);
    harness.now += SECOND;
    harness.dialed();
    let held = harness.granted(first);
    (harness, held)
}

/// While nothing may be dialed, nobody wakes to ask the dial rule.
#[test]
fn nobody_looks_for_dials_while_the_pool_is_suspended() {
    let (mut harness, _held) = lent_after_a_second(2);
    let ticket = harness.queue(1);
    assert_eq!(harness.sleep(ticket), harness.now.after(SECOND / 8), "the dial rule looks then");

    harness.event(|ledger, now| ledger.set_suspended(true, now));
    assert_eq!(harness.sleep(ticket), None);
    harness.now += SECOND;
    harness.tick();
    assert_eq!((harness.begun, harness.sleep(ticket)), (1, None));
    harness.event(|ledger, now| ledger.set_suspended(false, now));
    assert_eq!(harness.begun, 2, "it has waited for long enough");
}

/// Returns come faster than newcomers, so those who wait are served sooner than by dials of their own.
#[test]
fn returns_stand_for_the_dials_of_those_who_have_waited_until_they_stay_away() {
    let (mut harness, mut held) = lent_after_a_second(9);
    let waiting: Vec<_> = (1..7).map(|caller| harness.queue(caller)).collect();
    for served in &waiting[..2] {
        harness.now += SECOND / 40;
        harness.give_back(held);
        held = harness.granted(*served);
    }
    harness.now += SECOND / 8 - SECOND / 20;
    harness.tick();
    assert_eq!(harness.begun, 1, "two returns in a hold-off are sixteen in the time of a dial");
    harness.now += SECOND / 8;
    harness.tick();
    assert_eq!((harness.begun, harness.stats().waiting), (5, 4), "a dial for each who still waits");
    drop(held);
}

/// CAN-01: it asks again with its old ticket, ahead of one who came after it.
#[test]
fn the_dial_rule_counts_the_wait_of_a_caller_who_comes_back_with_a_broken_connection() {
    let (mut harness, one) = lent_after_a_second(3);
    let second = harness.queue(0);
    harness.now += SECOND / 8;
    harness.tick();
    harness.dialed();
    let _other = harness.granted(second);

    let came = harness.now;
    let first = harness.queue(1);
    harness.now += SECOND / 100;
    let _behind = harness.queue(2);
    harness.give_back(one);
    let broken = harness.granted(first);
    harness.retire_as(broken, CloseReason::Broken);
    let first = harness.ask_again(first, came);
    harness.close_all();
    assert_eq!(harness.sleep(first), Some(came + SECOND / 10), "an eighth of 0.8 s");
    harness.now = came + SECOND / 10;
    harness.tick();
    assert_eq!(harness.dials.len(), 1);
}

// ---- The numbers -------------------------------------------------------------------------------

/// STAT-03.
#[test]
fn a_dial_under_way_is_not_in_use() {
    let mut harness = Harness::new(2);
    let _held = harness.dial_and_get();
    harness.queue(1);
    let Stats { in_use, dialing, idle, .. } = harness.stats();
    assert_eq!((in_use, dialing, idle), (1, 1, 0));
}

/// STAT-04.
#[test]
fn the_waits_of_those_who_fail_are_counted_too() {
    let mut harness = Harness::new(1);
    let refused = harness.queue(1);
    harness.now += SECOND;
    harness.refused();
    harness.failure(refused);
    assert_eq!(harness.stats().wait_time_total, SECOND);

    let _held = harness.dial_and_get();
    let late = harness.queue_for(2, SECOND);
    harness.now += 2 * SECOND;
    harness.leave(late);
    assert_eq!(harness.stats().wait_time_total, 3 * SECOND);

    harness.queue(3);
    harness.now += SECOND;
    harness.event(|ledger, now| ledger.close(now));
    let stats = harness.stats();
    assert_eq!(stats.wait_time_total, 4 * SECOND);
    let counts = (stats.waited_total, stats.timed_out_total, stats.dial_failed_total);
    assert_eq!(counts, (4, 1, 1));
}

/// LIFE-08.
#[test]
fn a_clock_that_goes_back_evicts_nothing_and_panics_nowhere() {
    let mut harness = Harness::new(2);
    let entry = harness.dial_and_get();
    harness.give_back(entry);
    harness.now = harness.now - 1_000 * SECOND;
    harness.tick();
    let entry = harness.get();
    assert_eq!(entry.age(harness.now), Duration::ZERO);
    let ticket = harness.queue_for(1, SECOND);
    harness.now = harness.now - SECOND;
    harness.give_back(entry);
    harness.granted(ticket);
}

/// LIFE-13, I1 to I4: every mix of the extremes serves as many callers as it has slots, one after
/// the other all of them, and comes to rest within `max_idle`.
#[test]
fn every_mix_of_limits_serves_everyone_and_comes_to_rest() {
    let extremes = [None, Some(0), Some(1), Some(3), Some(u32::MAX)];
    for max_open in [1, 3, u32::MAX] {
        for max_idle in extremes {
            for max_dialing in extremes.into_iter().filter(|most| *most != Some(0)) {
                for target in [0, 1, 3, u32::MAX] {
                    let config = Config { max_open, max_idle, max_dialing, ..ageless() };
                    // An unlimited `max_idle` is limited by `max_open` only.
                    if target.min(config.max_idle()) <= 3 {
                        serve_everyone(config, target);
                    }
                }
            }
        }
    }
}

fn serve_everyone(config: Config, warm_up_to: u32) {
    const CALLERS: u32 = 5;
    let mut harness = Harness::with(config);
    let warm = harness.warm_up(warm_up_to, 0);
    while !harness.dials.is_empty() {
        harness.dialed();
    }
    assert!(matches!(harness.collect(warm), Some(Verdict::Warm)), "{config:?}");
    assert_eq!(harness.stats().idle, warm_up_to.min(config.max_idle()));

    let mut held = Vec::new();
    let mut waiting = Vec::new();
    for caller in 1..=CALLERS {
        match harness.request(caller, None) {
            Reply::Granted(_, entry) => held.push(entry),
            Reply::Queued(ticket) => waiting.push(ticket),
            Reply::Refused(refusal) => panic!("{refusal:?}: {config:?}"),
        }
    }
    while held.len() + waiting.len() > 0 {
        while !harness.dials.is_empty() {
            harness.dialed();
        }
        let before = held.len();
        waiting.retain(|ticket| match harness.collect(*ticket) {
            Some(Verdict::Granted(entry)) => {
                held.push(entry);
                false
            }
            None => true,
            Some(other) => panic!("{other:?}: {config:?}"),
        });
        assert!(held.len() > before || !held.is_empty(), "NO-STRANDED-WAITER: {config:?}");
        assert!(harness.stats().open() <= config.max_open, "BOUND: {config:?}");
        if waiting.is_empty() || before == held.len() {
            held.pop().into_iter().for_each(|entry| harness.give_back(entry));
        }
        harness.close_all();
    }
    let stats = harness.stats();
    assert_eq!(stats.open(), stats.idle, "at rest: {config:?}: {stats}");
    assert!(stats.idle <= config.max_idle(), "{config:?}: {stats}");
    assert!(harness.opened <= warm_up_to.min(config.max_idle()) + CALLERS, "NO-DEMAND-NO-DIAL");
}

/// NO-STRANDED-WAITER: a connection that newcomers may take is no surplus while somebody waits.
#[test]
fn a_connection_that_waits_for_a_hand_over_is_not_surplus() {
    let bypass = SECOND;
    let config = Config { max_open: 2, max_idle: Some(0), ..ageless() };
    let mut harness = Harness::with(config);
    let (one, two) = (harness.dial_and_get(), harness.dial_and_get());
    harness.event(|ledger, now| ledger.reconfigure(Config { bypass, ..*ledger.config() }, now));
    let (first, second) = (harness.queue(1), harness.queue(2));
    harness.sleep(first);
    harness.give_back(one);
    harness.give_back(two);
    assert!(harness.closes.is_empty() && harness.stats().idle == 1);
    let one = harness.granted(first);
    harness.tick();
    let two = harness.granted(second);
    harness.give_back(one);
    harness.give_back(two);
    assert_eq!((harness.closes.len(), harness.stats().idle), (2, 0), "nobody waits any more");
}

/// BOUNDED-BYPASS: the bound follows the wait in strict order, up to five times the least.
#[test]
fn callers_are_passed_for_longer_where_strict_order_takes_longer() {
    let ms = Duration::from_millis;
    let least = Config::default().bypass;
    let mut harness = Harness::new(2);
    let (mut one, two) = (harness.dial_and_get(), harness.dial_and_get());
    harness
        .event(|ledger, now| ledger.reconfigure(Config { bypass: least, ..*ledger.config() }, now));
    // A loan each millisecond, and a caller who waits all the time.
    let mut first = harness.queue(1);
    for caller in 2..=12 {
        harness.now += ms(1);
        let next = harness.queue(caller);
        harness.give_back(one);
        one = harness.granted(first);
        harness.tick();
        first = next;
    }
    let second = harness.queue(13);
    harness.sleep(first);
    harness.now += ms(1);
    harness.give_back(one);
    harness.give_back(two);
    assert_eq!(harness.stats().idle, 1, "while a connection is on its way to the first");
    let each = ms(10) / 9; // Nine loans had been made when the first ten milliseconds were over.
    assert_eq!(
        harness.ledger.may_lay_out_until(harness.now),
        harness.now.after(5 * each - ms(1)),
        "five times strict order"
    );
    let _third = harness.queue(14);
    let until = harness.now.after(5 * least - ms(1));
    assert_eq!(harness.ledger.may_lay_out_until(harness.now), until, "the most");
    harness.now += 5 * least - ms(1);
    assert_eq!(harness.ledger.may_lay_out_until(harness.now), None);
    harness.tick();
    assert_eq!(harness.stats().idle, 0);
    harness.granted(first);
    harness.granted(second);
}

/// NO-STRANDED-WAITER: a connection is kept from a caller who may be passed, and a newcomer takes it and
/// keeps it. There is a free slot, and the caller must not wait for a return.
#[test]
fn a_caller_whom_newcomers_have_left_nothing_has_a_dial_once_the_one_before_it_is_served() {
    let mut harness = Harness::new(5);
    let _held = [harness.dial_and_get(), harness.dial_and_get()];
    let bypass = Config::default().bypass;
    harness.event(|ledger, now| ledger.reconfigure(Config { bypass, ..*ledger.config() }, now));
    let (first, second) = (harness.queue(1), harness.queue(2));
    harness.sleep(first);
    harness.sleep(second);
    harness.dialed();
    harness.dialed();
    assert_eq!((harness.stats().idle, harness.dials.len()), (1, 0), "it is coming to the second");
    let _newcomer_s = harness.ledger.lay_out(harness.now).expect("newcomers may pass");
    let _first_s = harness.granted(first);
    harness.tick();
    assert_eq!(harness.dials.len(), 1);
    harness.dialed();
    harness.granted(second);
}

#[test]
fn a_caller_who_is_cancelled_before_it_asks_counts_as_one_who_waited() {
    let mut harness = Harness::new(1);
    harness.event(|ledger, now| ledger.refuse_cancelled(now));
    assert_eq!(harness.stats().cancelled_total, 1);
}

/// Numbers of which each is greater by `step` than the one before, with `times` ends for each reason.
fn numbers(first: u32, step: u32, times: u32) -> Stats {
    let mut next = (first..).step_by(step as usize);
    let mut number = || next.next().expect("there is no last number");
    let mut numbers = Stats {
        max_open: number(),
        idle: number(),
        in_use: number(),
        dialing: number(),
        closing: number(),
        waiting: number(),
        overdue: number(),
        failing_dials: number(),
        lent_total: number().into(),
        reused_total: number().into(),
        waited_total: number().into(),
        wait_time_total: number() * SECOND,
        timed_out_total: number().into(),
        cancelled_total: number().into(),
        queue_full_total: number().into(),
        dials_total: number().into(),
        dialed_total: number().into(),
        dial_failed_total: number().into(),
        breaker_opened_total: number().into(),
        check_failed_total: number().into(),
        retired_total: number().into(),
        detached_total: number().into(),
        leaked_total: number().into(),
        close_timeouts_total: number().into(),
        panics_total: number().into(),
        ..Stats::default()
    };
    for (reason, _) in CloseReason::ALL {
        (0..times * (1 + reason as u32)).for_each(|_| numbers.count_retired(reason));
    }
    numbers
}

#[test]
fn the_numbers_of_two_keys_are_added_up_one_by_one() {
    for (one, other) in [(true, true), (true, false), (false, true), (false, false)] {
        let breaker_open_for = |is_open: bool| is_open.then_some(SECOND);
        let with = |numbers, stalled: bool| Stats {
            stalled,
            stalled_by_quota: stalled,
            breaker_open_for: breaker_open_for(stalled),
            ..numbers
        };
        let mut sum = with(numbers(100, 1, 3), one);
        sum.add(&with(numbers(1000, 1, 4), other));
        assert_eq!(sum, with(numbers(1100, 2, 7), one || other));
    }
}
