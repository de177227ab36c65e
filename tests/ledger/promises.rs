//! The promises that a history names badly, one sentence each, in the ledger's own terms.

use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::config::{Config, DialRule};
use crate::desk::{Desk, SECOND, ageless};
use crate::ledger::{AtDialerOrder, Purpose, Refusal, Request, Verdict};
use crate::stats::Stats;
use crate::world::Failure;

// ---- Accounting --------------------------------------------------------------------------------

/// ACC-11.
#[test]
fn callers_who_time_out_cost_no_capacity() {
    let mut desk = Desk::new(1);
    let mut held = desk.dial_and_get();
    for round in 0..10_000 {
        let ticket = desk.queue_for(round, SECOND);
        desk.now += SECOND;
        assert!(desk.collect(ticket).is_none());
        assert_eq!(desk.leave(ticket), None);
        desk.give_back(held);
        held = desk.get();
        assert_eq!(desk.stats().open(), 1);
    }
    assert_eq!(desk.stats().timed_out_total, 10_000);
}

/// ACC-16: in deadpool, `resize(1)` and `resize(4)` of an unused pool of 4 let 7 be open.
#[test]
fn the_limit_is_the_last_one_set_whatever_was_open() {
    for used in 0..=4 {
        let mut desk = Desk::new(4);
        let held: Vec<_> = (0..used).map(|_| desk.dial_and_get()).collect();
        desk.resize(1);
        desk.resize(4);
        let waiting: Vec<_> = (0..8).map(|caller| desk.queue(caller)).collect();
        assert_eq!(desk.stats().open(), 4, "{used} in use");
        assert_eq!(desk.stats().waiting, 8);
        drop((held, waiting));
    }
}

/// ACC-17.
#[test]
fn a_lowered_limit_is_kept_as_connections_come_back() {
    let mut desk = Desk::new(3);
    let held: Vec<_> = (0..3).map(|_| desk.dial_and_get()).collect();
    desk.resize(2);
    assert_eq!((desk.stats().open(), desk.closes.len()), (3, 0), "nothing in use is closed");
    let open: Vec<_> = held
        .into_iter()
        .map(|entry| {
            desk.give_back(entry);
            desk.close_all();
            desk.stats().open()
        })
        .collect();
    assert_eq!(open, [2, 2, 2]);
    assert_eq!(desk.stats().idle, 2);
}

/// ACC-16: raising the limit serves who waits, at once.
#[test]
fn a_raised_limit_begins_a_dial_for_each_waiter_that_it_makes_room_for() {
    let mut desk = Desk::new(1);
    let _held = desk.dial_and_get();
    let _waiting: Vec<_> = (0..4).map(|caller| desk.queue(caller)).collect();
    assert_eq!(desk.dials.len(), 0);
    desk.resize(3);
    assert_eq!(desk.dials.len(), 2);
}

/// ACC-19.
#[test]
fn get_put_get_get_opens_two_connections() {
    let mut desk = Desk::new(100);
    let first = desk.dial_and_get();
    desk.give_back(first);
    let _again = desk.get();
    let _second = desk.dial_and_get();
    assert_eq!((desk.begun, desk.stats().open()), (2, 2));
}

/// ACC-22: the dial outlives its caller, and what it opens is the next one's.
#[test]
fn a_dial_that_ends_after_its_caller_has_left_becomes_idle() {
    let mut desk = Desk::new(1);
    let ticket = desk.queue_for(0, SECOND);
    desk.now += SECOND;
    desk.leave(ticket);
    desk.now += SECOND;
    desk.dialed();
    let Stats { idle, in_use, .. } = desk.stats();
    assert_eq!((idle, in_use, desk.stats().open()), (1, 0, 1));
    assert_eq!(desk.get().connection, 1);
}

/// ACC-23.
#[test]
fn a_caller_whose_own_dial_is_taken_waits_on() {
    let mut desk = Desk::new(2);
    let (first, second) = (desk.queue(1), desk.queue(2));
    let second_dial = desk.dials.pop().expect("each has a dial");
    let orders = desk.ledger.dialed(second_dial.id, 7, None, Duration::MAX, desk.now);
    desk.lay_out(orders);
    assert_eq!(desk.granted(first).connection, 7, "whoever has waited longest takes it");
    assert!(desk.collect(second).is_none());
    assert_eq!(desk.begun, 2, "the dial of the first is now the second's");
    desk.dialed();
    desk.granted(second);
}

/// ACC-25, WAK-09: a dial that hangs is written off when it is due, and holds its own slot only.
#[test]
fn an_overdue_dial_fails_its_caller_and_is_counted_once_at_its_end() {
    let mut desk = Desk::with(Config { max_open: 2, dial_timeout: SECOND, ..ageless() });
    let hanging = desk.queue(1);
    assert_eq!(desk.sleep(hanging), Some(desk.now + SECOND));
    desk.now += SECOND;
    desk.look();
    assert_eq!(desk.failure(hanging), Failure::Overdue(SECOND));
    let Stats { dialing, overdue, dial_failed_total, .. } = desk.stats();
    assert_eq!((dialing, overdue, dial_failed_total), (1, 1, 0));

    let _next = desk.queue(2);
    assert_eq!(desk.begun, 2, "the other slot serves the next caller");
    desk.refused();
    let Stats { dialing, overdue, dial_failed_total, .. } = desk.stats();
    assert_eq!((dialing, overdue, dial_failed_total), (1, 0, 1));
}

/// SHUT-05: the slot of a connection that is being closed is not free before its close has ended.
#[test]
fn a_slow_close_holds_its_slot_until_close_timeout() {
    let mut desk = Desk::with(Config { max_open: 1, close_timeout: SECOND, ..ageless() });
    let held = desk.dial_and_get();
    let _waiting = desk.queue(1);
    let orders = desk.ledger.retire(held, CloseReason::Broken, desk.now);
    desk.lay_out(orders);
    assert_eq!((desk.stats().closing, desk.begun), (1, 1));
    desk.now += SECOND;
    desk.look();
    assert_eq!((desk.stats().close_timeouts_total, desk.begun), (1, 2));
    desk.close_all();
    assert_eq!(desk.stats().open(), 1, "a close that ends after all frees nothing twice");
}

/// A close that may take for ever, ordered first, is no reason to wait for one that may not.
#[test]
fn each_errand_is_due_by_its_own_deadline() {
    let forever = Config { max_open: 2, close_timeout: Duration::MAX, ..ageless() };
    let mut desk = Desk::with(forever);
    let (one, other) = (desk.dial_and_get(), desk.dial_and_get());
    let orders = desk.ledger.retire(one, CloseReason::Broken, desk.now);
    desk.lay_out(orders);
    let orders = desk.ledger.reconfigure(Config { close_timeout: SECOND, ..forever }, desk.now);
    desk.lay_out(orders);
    let orders = desk.ledger.retire(other, CloseReason::Broken, desk.now);
    desk.lay_out(orders);
    desk.now += SECOND;
    desk.look();
    assert_eq!((desk.stats().closing, desk.stats().close_timeouts_total), (1, 1));
}

// ---- Wake-ups ----------------------------------------------------------------------------------

/// WAK-04.
#[test]
fn one_return_wakes_one_of_many_waiters() {
    let mut desk = Desk::new(1);
    let held = desk.dial_and_get();
    desk.woken.clear();
    for caller in 1..=1_000 {
        desk.queue(caller);
    }
    desk.give_back(held);
    assert_eq!(desk.woken, [1]);
}

/// WAK-09.
#[test]
fn a_dial_that_hangs_is_no_reason_to_begin_fewer() {
    let mut desk = Desk::new(5);
    let _waiting: Vec<_> = (0..5).map(|caller| desk.queue(caller)).collect();
    assert_eq!(desk.stats().dialing, 5);
    desk.refused();
    assert_eq!((desk.stats().dialing, desk.stats().waiting), (4, 4), "a dial for each who waits");
}

/// WAK-10.
#[test]
fn freed_slots_are_dialed_into_side_by_side() {
    let mut desk = Desk::new(4);
    let held: Vec<_> = (0..4).map(|_| desk.dial_and_get()).collect();
    let _waiting: Vec<_> = (0..4).map(|caller| desk.queue(caller)).collect();
    held.into_iter().for_each(|entry| desk.retire(entry));
    assert_eq!(desk.stats().dialing, 4);
}

/// WAK-11: one failure after the other, each in the event that the one before begins.
#[test]
fn ten_thousand_callers_fail_one_by_one_with_an_error_of_their_own() {
    let mut desk = Desk::new(1);
    let waiting: Vec<_> = (0..10_000).map(|caller| desk.queue(caller)).collect();
    for ticket in waiting {
        let dial = desk.refused();
        assert_eq!(desk.failure(ticket), Failure::Of(dial));
    }
    assert_eq!((desk.stats().open(), desk.begun), (0, 10_000));
}

/// WAK-12.
#[test]
fn two_callers_whose_dials_both_fail_are_two_dials() {
    let mut desk = Desk::new(2);
    let (first, second) = (desk.queue(1), desk.queue(2));
    let dials = [desk.refused(), desk.refused()];
    assert_eq!([desk.failure(first), desk.failure(second)], dials.map(Failure::Of));
    assert_eq!(desk.begun, 2);
}

/// WAK-13.
#[test]
fn a_flushed_connection_that_comes_back_frees_its_slot_for_the_waiter() {
    let mut desk = Desk::new(1);
    let held = desk.dial_and_get();
    let waiting = desk.queue(1);
    desk.flush();
    desk.give_back(held);
    desk.close_all();
    assert_eq!(desk.begun, 2);
    desk.dialed();
    assert_eq!(desk.granted(waiting).connection, 2);
}

/// NO-STRANDED-WAITER: who sleeps without an alarm is told of the job that begins meanwhile.
#[test]
fn the_last_who_sleeps_wakes_when_an_errand_is_overdue() {
    let mut desk = Desk::with(Config { max_open: 1, close_timeout: SECOND, ..ageless() });
    let held = desk.dial_and_get();
    let (first, second) = (desk.queue(1), desk.queue(2));
    assert_eq!((desk.sleep(first), desk.sleep(second)), (None, None));
    desk.woken.clear();
    let orders = desk.ledger.retire(held, CloseReason::Broken, desk.now);
    desk.lay_out(orders);
    assert_eq!(desk.woken, [2], "one is enough");
    assert_eq!(desk.sleep(second), Some(desk.now + SECOND), "the close may hang");
    assert_eq!(desk.sleep(first), None, "one is enough");
    desk.look();
    assert_eq!(desk.woken, [2], "and once is");
}

/// The same when the one who was to look leaves.
#[test]
fn whoever_leaves_hands_the_watch_on() {
    let mut desk = Desk::new(1);
    let held = desk.dial_and_get();
    let (first, second) = (desk.queue(1), desk.queue_for(2, SECOND));
    let deadline = desk.now + SECOND;
    assert_eq!(desk.sleep(first), None);
    assert_eq!(desk.ledger.sleep(second, Some(deadline)), Some(deadline));
    desk.woken.clear();
    let orders = desk.ledger.retire(held, CloseReason::Broken, desk.now);
    desk.lay_out(orders);
    assert_eq!(desk.woken, [2]);
    assert_eq!(desk.ledger.sleep(second, Some(deadline)), Some(deadline), "and then it leaves");
    desk.now = deadline;
    desk.leave(second);
    assert_eq!(desk.woken, [2, 1]);
}

// ---- Deadlines ---------------------------------------------------------------------------------

/// CAN-01.
#[test]
fn one_return_reaches_the_live_waiter_behind_ten_thousand_expired_ones() {
    let mut desk = Desk::new(1);
    let held = desk.dial_and_get();
    let expired: Vec<_> = (0..10_000).map(|caller| desk.queue_for(caller, SECOND)).collect();
    let live = desk.queue(77_777);
    desk.woken.clear();
    desk.now += SECOND;
    desk.give_back(held);
    assert_eq!(desk.woken, [77_777], "in one event, and nobody else is woken");
    desk.granted(live);
    for ticket in expired {
        assert!(matches!(desk.collect(ticket), Some(Verdict::Late(None))));
    }
    assert_eq!((desk.stats().waiting, desk.stats().timed_out_total), (0, 10_000));
}

/// CAN-05.
#[test]
fn nothing_remains_of_callers_who_leave_from_behind_a_patient_one() {
    let mut desk = Desk::new(1);
    let _held = desk.dial_and_get();
    let patient = desk.queue(1);
    let first = desk.queue_for(2, SECOND);
    desk.leave(first);
    // Everything that the ledger keeps, in so many words.
    let before = format!("{:?}", desk.ledger).len();
    for _ in 0..100_000 {
        let ticket = desk.queue_for(2, SECOND);
        desk.leave(ticket);
    }
    assert_eq!(desk.stats().waiting, 1);
    assert!(desk.collect(patient).is_none());
    // Numbers have grown by some digits.
    assert!(format!("{:?}", desk.ledger).len() < before + 100, "{:?}", desk.ledger);
}

/// CAN-06.
#[test]
fn a_deadline_that_has_passed_begins_nothing_but_takes_what_is_idle() {
    let mut desk = Desk::new(1);
    let refused = desk.request(1, Some(Duration::ZERO));
    assert!(matches!(refused, Request::Refused(Refusal::TooLate)));
    assert_eq!((desk.begun, desk.stats().waiting), (0, 0));
    let entry = desk.dial_and_get();
    desk.give_back(entry);
    assert!(matches!(desk.request(1, Some(Duration::ZERO)), Request::Granted(..)));
}

/// CAN-09.
#[test]
fn no_limit_is_no_limit_and_overflows_nothing() {
    let mut desk = Desk::with(Config {
        max_open: 1,
        dial_timeout: Duration::MAX,
        check_after: Duration::MAX,
        check_timeout: Duration::MAX,
        close_timeout: Duration::MAX,
        ..ageless()
    });
    let ticket = desk.queue_for(1, Duration::MAX);
    assert_eq!(desk.dials[0].deadline, None);
    desk.now += 1_000_000 * SECOND;
    desk.look();
    desk.dialed();
    let entry = desk.granted(ticket);
    desk.give_back(entry);
    desk.now += 1_000_000 * SECOND;
    let entry = desk.get();
    let orders = desk.ledger.retire(entry, CloseReason::Broken, desk.now);
    desk.lay_out(orders);
    desk.now += 1_000_000 * SECOND;
    desk.look();
    assert_eq!(desk.stats().closing, 1);
    let waiting = desk.queue(2);
    assert_eq!(desk.sleep(waiting), None);
}

/// CAN-12.
#[test]
fn nobody_fails_by_a_dial_that_another_asked_for() {
    let mut desk = Desk::new(2);
    let held = desk.dial_and_get();
    let (first, second) = (desk.queue(1), desk.queue(2));
    let dial = desk.refused();
    assert_eq!(desk.stats().dialing, 1, "the slot begins a dial for the second");
    desk.retire(held);
    assert_eq!(desk.failure(first), Failure::Of(dial));
    assert!(desk.collect(second).is_none());
    desk.dialed();
    assert_eq!(desk.granted(second).connection, 2);
}

/// CAN-13.
#[test]
fn a_return_serves_callers_whose_dials_have_been_refused() {
    let mut desk = Desk::new(3);
    let held = desk.dial_and_get();
    let (first, second) = (desk.queue(1), desk.queue(2));
    desk.refused();
    desk.refused();
    assert_eq!((desk.begun, desk.stats().waiting), (3, 2), "who holds an error dials no more");
    desk.give_back(held);
    let entry = desk.granted(first);
    desk.give_back(entry);
    desk.granted(second);
}

/// REASON: nothing else can serve it, and the close that has begun is no dial.
#[test]
fn a_caller_whose_dial_has_failed_is_told_as_the_last_connection_is_discarded() {
    let mut desk = Desk::new(2);
    let held = desk.dial_and_get();
    let ticket = desk.queue(1);
    let dial = desk.refused();
    let orders = desk.ledger.retire(held, CloseReason::Broken, desk.now);
    desk.lay_out(orders);
    assert_eq!((desk.stats().closing, desk.failure(ticket)), (1, Failure::Of(dial)));
}

/// CAN-11, CAN-13: at its deadline a caller is told of its own dial's error.
#[test]
fn a_caller_who_is_late_is_told_why_its_dial_failed() {
    let mut desk = Desk::new(2);
    let _held = desk.dial_and_get();
    let ticket = desk.queue_for(1, SECOND);
    let dial = desk.refused();
    desk.now += SECOND;
    assert!(desk.collect(ticket).is_none());
    assert_eq!(desk.leave(ticket), Some(Failure::Of(dial)));
}

// ---- Fairness ----------------------------------------------------------------------------------

/// FAIR-01.
#[test]
fn fifty_waiters_are_served_in_order() {
    let mut desk = Desk::new(1);
    let mut held = desk.dial_and_get();
    let waiting: Vec<_> = (1..=50).map(|caller| desk.queue(caller)).collect();
    desk.woken.clear();
    for ticket in waiting {
        desk.give_back(held);
        held = desk.granted(ticket);
    }
    assert_eq!(desk.woken, (1..=50).collect::<Vec<_>>());
}

/// FAIR-02, FAIR-05.
#[test]
fn whoever_returns_and_asks_again_stands_behind_who_waits() {
    let mut desk = Desk::new(1);
    let held = desk.dial_and_get();
    let waiting = desk.queue(1);
    desk.give_back(held);
    assert!(matches!(desk.ledger.try_request(desk.now), (Ok(None), _)));
    let again = desk.queue(2);
    let entry = desk.granted(waiting);
    desk.give_back(entry);
    desk.granted(again);
}

/// FAIR-04.
#[test]
fn a_caller_who_is_given_a_broken_connection_keeps_its_place() {
    let mut desk = Desk::new(1);
    let held = desk.dial_and_get();
    let (first, second) = (desk.queue(1), desk.queue(2));
    desk.give_back(held);
    let broken = desk.granted(first);
    desk.retire(broken);
    assert_eq!(desk.ask_again(first, desk.now), first);
    desk.dialed();
    desk.granted(first);
    assert!(desk.collect(second).is_none());
    assert_eq!(desk.stats().waited_total, 3, "nobody queues twice");
}

/// A caller who was given a broken connection has waited since it first asked: that is what counts
/// for the hold-off, for the bound on passing, and among keys.
#[test]
fn a_caller_who_is_given_a_broken_connection_keeps_its_seniority() {
    let bypass = Duration::from_micros(500); // Too short for the pace of loans to be told.
    let mut desk = Desk::new(2);
    let (one, other) = (desk.dial_and_get(), desk.dial_and_get());
    let orders = desk.ledger.reconfigure(Config { bypass, ..*desk.ledger.config() }, desk.now);
    desk.lay_out(orders);
    let start = desk.now;
    let (first, second) = (desk.queue(1), desk.queue(2));
    desk.now += bypass / 2;
    for connection in [one, other] {
        desk.give_back(connection);
    }
    for broken in [desk.granted(first), desk.granted(second)] {
        desk.retire(broken);
    }
    let [first, second] = [first, second].map(|ticket| desk.ask_again(ticket, start));
    desk.sleep(first);
    desk.dialed();
    desk.dialed();
    assert_eq!(desk.stats().idle, 1, "a connection is on its way to the first");
    desk.now += bypass / 2;
    desk.look();
    assert_eq!(desk.stats().idle, 0, "the second has waited for as long as it may be passed");
    desk.granted(first);
    desk.granted(second);
    assert_eq!(desk.stats().wait_time_total, 2 * bypass - bypass / 2, "each wait is counted once");
}

/// Two connections come back to two callers. The first is asleep and will come for its connection at
/// once, so newcomers may have the second meanwhile. If the first is awake, perhaps in user code, the
/// second caller has it: else it would sleep beside an idle connection for as long as that takes.
#[test]
fn a_caller_sleeps_beside_no_idle_connection_while_the_one_before_it_is_in_user_code() {
    for is_awake in [false, true] {
        let mut desk = Desk::new(2);
        let (one, other) = (desk.dial_and_get(), desk.dial_and_get());
        let config = Config { bypass: SECOND, ..*desk.ledger.config() };
        let orders = desk.ledger.reconfigure(config, desk.now);
        desk.lay_out(orders);
        let (first, second) = (desk.queue(1), desk.queue(2));
        if !is_awake {
            desk.sleep(first);
        }
        desk.sleep(second);
        desk.give_back(one);
        desk.give_back(other);
        assert_eq!(desk.stats().idle, u32::from(!is_awake));
        assert_eq!(desk.collect(second).is_some(), is_awake);
    }
}

// ---- Late binding ------------------------------------------------------------------------------

/// BIND-04.
#[test]
fn a_dial_that_fails_after_its_caller_was_served_is_nobodys_failure() {
    let mut desk = Desk::new(2);
    let held = desk.dial_and_get();
    let (first, second) = (desk.queue(1), desk.queue(2));
    desk.give_back(held);
    let _held = desk.granted(first);
    assert_eq!(desk.begun, 2, "the second adopts the dial that the first has left");
    desk.refused();
    assert_eq!((desk.begun, desk.stats().waiting), (3, 1), "and begins its own when that fails");
    assert!(desk.collect(second).is_none());
    desk.dialed();
    desk.granted(second);
}

/// BIND-10.
#[test]
fn a_dial_in_flight_is_adopted_before_another_is_begun() {
    let mut desk = Desk::new(5);
    let left = desk.queue_for(1, SECOND);
    desk.leave(left);
    let adopting = desk.queue(2);
    assert_eq!(desk.begun, 1);
    let _third = desk.queue(3);
    assert_eq!(desk.begun, 2);
    desk.dialed();
    desk.granted(adopting);
}

/// LATE-BINDING: an orphan dial may hang for long; a check is quick.
#[test]
fn an_idle_connection_is_checked_for_a_caller_although_a_dial_is_under_way() {
    let mut desk = Desk::new(2);
    let held = desk.dial_and_get();
    let ticket = desk.queue(1);
    desk.give_back(held);
    let entry = desk.granted(ticket);
    desk.give_back(entry);
    assert_eq!((desk.stats().dialing, desk.stats().idle), (1, 1), "an orphan dial, and it hangs");

    desk.now += SECOND;
    let ticket = desk.queue(2);
    let AtDialerOrder { id, entry, purpose, .. } = desk.at_dialer.pop().expect("a check is begun");
    assert_eq!(purpose, Purpose::Check);
    let orders = desk.ledger.back_from_dialer(id, entry, None, desk.now);
    desk.lay_out(orders);
    assert_eq!(desk.granted(ticket).connection, 1);
}

/// CAN-14, ACC-15: as many idle connections as have died are checked and retired before a dial.
#[test]
fn dead_idle_connections_are_retired_one_by_one_and_then_one_is_dialed() {
    let mut desk = Desk::new(3);
    let held: Vec<_> = (0..3).map(|_| desk.dial_and_get()).collect();
    held.into_iter().for_each(|entry| desk.give_back(entry));
    desk.now += SECOND;
    let ticket = desk.queue(1);
    for open in [2, 1, 0] {
        assert_eq!((desk.at_dialer.len(), desk.dials.len()), (1, 0));
        let AtDialerOrder { id, entry, .. } = desk.at_dialer.remove(0);
        let orders =
            desk.ledger.back_from_dialer(id, entry, Some(CloseReason::CheckFailed), desk.now);
        desk.lay_out(orders);
        desk.close_all();
        let Stats { idle, in_use, .. } = desk.stats();
        assert_eq!(idle + in_use, open);
    }
    desk.dialed();
    assert_eq!((desk.granted(ticket).connection, desk.stats().open()), (4, 1));
}

// ---- The queue's bound, warm-ups, flushes ------------------------------------------------------

/// `max_waiting` counts callers for whom nothing is under way, and an idle connection serves after
/// its check.
#[test]
fn nobody_is_turned_away_whom_an_idle_connection_can_serve_after_a_check() {
    let bound = Config { max_open: 1, max_waiting: Some(0), ..ageless() };
    let mut desk = Desk::with(bound);
    let entry = desk.dial_and_get();
    desk.give_back(entry);
    desk.now += SECOND;
    desk.queue(1);
    assert_eq!(desk.at_dialer.len(), 1);
    let full = desk.request(2, None);
    assert!(matches!(full, Request::Refused(Refusal::QueueFull)));
    assert_eq!(desk.stats().queue_full_total, 1);
}

/// ACC-18.
#[test]
fn a_warm_up_and_callers_together_keep_within_the_limit() {
    let mut desk = Desk::new(3);
    let waiting = desk.queue(1);
    let warm = desk.warm_up(9, 2);
    assert_eq!((desk.stats().dialing, desk.begun), (3, 3));
    for _ in 0..3 {
        desk.dialed();
    }
    desk.granted(waiting);
    assert!(matches!(desk.collect(warm), Some(Verdict::Warm)));
    assert_eq!(desk.stats().idle, 2);
}

/// SHUT-12: the flush has begun other dials for the warm-up, as it does for callers.
#[test]
fn a_warm_up_does_not_fail_by_a_dial_from_before_a_flush() {
    let mut desk = Desk::new(2);
    let warm = desk.warm_up(1, 1);
    desk.flush();
    assert_eq!(desk.begun, 2);
    desk.refused();
    assert!(desk.collect(warm).is_none());
    desk.dialed();
    assert!(matches!(desk.collect(warm), Some(Verdict::Warm)));
}

/// SHUT-12: the generation is that of the dial's beginning.
#[test]
fn what_began_before_a_flush_is_not_lent_after_it() {
    let mut desk = Desk::new(3);
    let (held, resting) = (desk.dial_and_get(), desk.dial_and_get());
    let left = desk.queue(1);
    desk.leave(left);
    desk.give_back(resting);
    assert_eq!((desk.stats().idle, desk.stats().in_use, desk.stats().dialing), (1, 1, 1));

    desk.flush();
    assert_eq!(desk.closes.len(), 1, "what rests is closed at once");
    desk.give_back(held);
    assert_eq!(desk.closes.len(), 2, "what is in use, when it comes back");
    desk.dialed();
    assert_eq!(desk.closes.len(), 3, "what was being dialed, when it is open");
    desk.close_all();
    assert_eq!((desk.stats().open(), desk.stats().retired_total), (0, 3));
}

/// What lies out of sight while the settings change comes by the ledger before it is lent again.
#[test]
fn what_a_change_has_passed_by_comes_to_rest_in_its_turn_once_the_ledger_has_let_it_pass() {
    let config = Config { max_open: 3, check_after: Duration::MAX, ..ageless() };
    let mut desk = Desk::with(config);
    let entries = [desk.dial_and_get(), desk.dial_and_get(), desk.dial_and_get()];
    for entry in entries {
        desk.give_back(entry);
        desk.now += SECOND;
    }
    let laid_out = [(); 2].map(|()| desk.ledger.lay_out(desk.now).expect("something is idle"));
    let before = desk.ledger.epoch();
    desk.resize(2);
    assert!(desk.ledger.epoch() > before);
    assert_eq!(desk.ledger.may_lay_out_for(desk.now), Some(Duration::MAX));
    assert_eq!(desk.closes.len(), 1, "the coldest, which alone was in the ledger");

    let [warmest, colder] = laid_out;
    assert_eq!((warmest.connection, colder.connection), (3, 2));
    desk.ledger.take_from_place(warmest);
    assert_eq!(desk.ledger.may_lay_out_for(desk.now), None, "something has yet to pass");
    assert_eq!((desk.stats().in_use, desk.stats().idle), (2, 0));
    desk.look();
    desk.ledger.take_from_place(colder);
    desk.look();
    assert_eq!((desk.stats().in_use, desk.stats().idle), (0, 2));
    let entry = desk.ledger.lay_out(desk.now).expect("something is idle");
    assert_eq!((entry.connection, desk.now - entry.idle_since()), (3, SECOND));
    assert_eq!(entry.epoch, desk.ledger.epoch());
}

/// While nothing may be dialed, nobody wakes to see whether something should be.
#[test]
fn nobody_looks_for_dials_while_the_pool_is_suspended() {
    let mut desk = Desk::new(2);
    let adaptive = Config {
        dial_rule: DialRule::Adaptive,
        dial_timeout: Duration::MAX,
        ..*desk.ledger.config()
    };
    let orders = desk.ledger.reconfigure(adaptive, desk.now);
    desk.lay_out(orders);
    let first = desk.queue(0);
    desk.now += SECOND;
    desk.dialed();
    let _held = desk.granted(first);
    let ticket = desk.queue(1);
    assert_eq!(desk.sleep(ticket), desk.now.after(SECOND / 8), "the dial rule looks then");

    let orders = desk.ledger.suspend(desk.now);
    desk.lay_out(orders);
    assert_eq!(desk.sleep(ticket), None);
    desk.now += SECOND;
    desk.look();
    assert_eq!((desk.begun, desk.sleep(ticket)), (1, None));
    let orders = desk.ledger.resume(desk.now);
    desk.lay_out(orders);
    assert_eq!(desk.begun, 2, "it has waited for long enough");
}

// ---- The numbers -------------------------------------------------------------------------------

/// STAT-03.
#[test]
fn a_dial_under_way_is_not_in_use() {
    let mut desk = Desk::new(2);
    let _held = desk.dial_and_get();
    desk.queue(1);
    let Stats { in_use, dialing, idle, .. } = desk.stats();
    assert_eq!((in_use, dialing, idle), (1, 1, 0));
}

/// STAT-04.
#[test]
fn the_waits_of_those_who_fail_are_counted_too() {
    let mut desk = Desk::new(1);
    let refused = desk.queue(1);
    desk.now += SECOND;
    desk.refused();
    desk.failure(refused);
    assert_eq!(desk.stats().wait_time_total, SECOND);

    let _held = desk.dial_and_get();
    let late = desk.queue_for(2, SECOND);
    desk.now += 2 * SECOND;
    desk.leave(late);
    assert_eq!(desk.stats().wait_time_total, 3 * SECOND);

    desk.queue(3);
    desk.now += SECOND;
    let orders = desk.ledger.close(desk.now);
    desk.lay_out(orders);
    let stats = desk.stats();
    assert_eq!(stats.wait_time_total, 4 * SECOND);
    let counts = (stats.waited_total, stats.timed_out_total, stats.dial_failed_total);
    assert_eq!(counts, (4, 1, 1));
}

/// LIFE-08.
#[test]
fn a_clock_that_goes_back_evicts_nothing_and_panics_nowhere() {
    let mut desk = Desk::new(2);
    let entry = desk.dial_and_get();
    desk.give_back(entry);
    desk.now = desk.now - 1_000 * SECOND;
    desk.look();
    let entry = desk.get();
    assert_eq!(entry.age(desk.now), Duration::ZERO);
    let ticket = desk.queue_for(1, SECOND);
    desk.now = desk.now - SECOND;
    desk.give_back(entry);
    desk.granted(ticket);
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
                    // What rests within an unlimited `max_idle` is without limit, too.
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
    let mut desk = Desk::with(config);
    let warm = desk.warm_up(warm_up_to, 0);
    while !desk.dials.is_empty() {
        desk.dialed();
    }
    assert!(matches!(desk.collect(warm), Some(Verdict::Warm)), "{config:?}");
    assert_eq!(desk.stats().idle, warm_up_to.min(config.max_idle()));

    let mut held = Vec::new();
    let mut waiting = Vec::new();
    for caller in 1..=CALLERS {
        match desk.request(caller, None) {
            Request::Granted(_, entry) => held.push(entry),
            Request::Queued(ticket) => waiting.push(ticket),
            Request::Refused(refusal) => panic!("{refusal:?}: {config:?}"),
        }
    }
    while held.len() + waiting.len() > 0 {
        while !desk.dials.is_empty() {
            desk.dialed();
        }
        let before = held.len();
        waiting.retain(|ticket| match desk.collect(*ticket) {
            Some(Verdict::Granted(entry)) => {
                held.push(entry);
                false
            }
            None => true,
            Some(other) => panic!("{other:?}: {config:?}"),
        });
        assert!(held.len() > before || !held.is_empty(), "NO-STRANDED-WAITER: {config:?}");
        assert!(desk.stats().open() <= config.max_open, "BOUND: {config:?}");
        if waiting.is_empty() || before == held.len() {
            held.pop().into_iter().for_each(|entry| desk.give_back(entry));
        }
        desk.close_all();
    }
    let stats = desk.stats();
    assert_eq!(stats.open(), stats.idle, "at rest: {config:?}: {stats}");
    assert!(stats.idle <= config.max_idle(), "{config:?}: {stats}");
    assert!(desk.opened <= warm_up_to.min(config.max_idle()) + CALLERS, "NO-DEMAND-NO-DIAL");
}

/// NO-STRANDED-WAITER: what a newcomer may have before the queue is no surplus while somebody waits.
#[test]
fn what_waits_for_a_hand_over_is_not_closed_as_one_too_many() {
    let bypass = SECOND;
    let config = Config { max_open: 2, max_idle: Some(0), ..ageless() };
    let mut desk = Desk::with(config);
    let (one, two) = (desk.dial_and_get(), desk.dial_and_get());
    let orders = desk.ledger.reconfigure(Config { bypass, ..*desk.ledger.config() }, desk.now);
    desk.lay_out(orders);
    let (first, second) = (desk.queue(1), desk.queue(2));
    desk.sleep(first);
    desk.give_back(one);
    desk.give_back(two);
    assert!(desk.closes.is_empty() && desk.stats().idle == 1);
    let one = desk.granted(first);
    desk.look();
    let two = desk.granted(second);
    desk.give_back(one);
    desk.give_back(two);
    assert_eq!((desk.closes.len(), desk.stats().idle), (2, 0), "nobody waits any more");
}

/// BOUNDED-BYPASS: the bound follows what strict order takes, up to five times the least.
#[test]
fn callers_are_passed_for_longer_where_strict_order_takes_longer() {
    let ms = Duration::from_millis;
    let least = Config::default().bypass;
    let mut desk = Desk::new(2);
    let (mut one, two) = (desk.dial_and_get(), desk.dial_and_get());
    let orders =
        desk.ledger.reconfigure(Config { bypass: least, ..*desk.ledger.config() }, desk.now);
    desk.lay_out(orders);
    // A loan each millisecond, and somebody who waits all the time.
    let mut first = desk.queue(1);
    for caller in 2..=12 {
        desk.now += ms(1);
        let next = desk.queue(caller);
        desk.give_back(one);
        one = desk.granted(first);
        desk.look();
        first = next;
    }
    let second = desk.queue(13);
    desk.sleep(first);
    desk.now += ms(1);
    desk.give_back(one);
    desk.give_back(two);
    assert_eq!(desk.stats().idle, 1, "while a connection is on its way to the first");
    let each = ms(10) / 9; // Nine loans had been made when the first ten milliseconds were over.
    assert_eq!(
        desk.ledger.may_lay_out_for(desk.now),
        Some(5 * each - ms(1)),
        "five times strict order"
    );
    let _third = desk.queue(14);
    assert_eq!(desk.ledger.may_lay_out_for(desk.now), Some(5 * least - ms(1)), "the most");
    desk.now += 5 * least - ms(1);
    assert_eq!(desk.ledger.may_lay_out_for(desk.now), None);
    desk.look();
    assert_eq!(desk.stats().idle, 0);
    desk.granted(first);
    desk.granted(second);
}

/// NO-STRANDED-WAITER: a connection is kept from a caller who may be passed, and a newcomer takes it and
/// keeps it. There is a free slot, and the caller must not wait for a return.
#[test]
fn a_caller_whom_newcomers_have_left_nothing_has_a_dial_once_the_one_before_it_is_served() {
    let mut desk = Desk::new(5);
    let _held = [desk.dial_and_get(), desk.dial_and_get()];
    let bypass = Config::default().bypass;
    let orders = desk.ledger.reconfigure(Config { bypass, ..*desk.ledger.config() }, desk.now);
    desk.lay_out(orders);
    let (first, second) = (desk.queue(1), desk.queue(2));
    desk.sleep(first);
    desk.sleep(second);
    desk.dialed();
    desk.dialed();
    assert_eq!((desk.stats().idle, desk.dials.len()), (1, 0), "it is coming to the second");
    let _newcomer_s = desk.ledger.lay_out(desk.now).expect("newcomers may pass");
    let _first_s = desk.granted(first);
    desk.look();
    assert_eq!(desk.dials.len(), 1);
    desk.dialed();
    desk.granted(second);
}
