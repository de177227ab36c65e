//! BOUNDED-BYPASS: those who come while a connection is on its way to a caller who wakes up.

use std::time::Duration;

use crate::config::{Config, OnDialFailure};
use crate::harness::{Harness, SECOND};
use crate::ledger::{Entry, Reply};

/// A pool of two connections, both lent, whose waiting callers may be passed.
fn busy(bypass: Duration) -> (Harness, [Entry<u32>; 2]) {
    let mut harness = Harness::new(2);
    let config = Config { bypass, ..*harness.ledger.config() };
    harness.event(|ledger, now| ledger.reconfigure(config, now));
    let held = [harness.dial_and_get(), harness.dial_and_get()];
    (harness, held)
}

/// Whether callers are kept from a connection that is laid out, and from one that is not.
fn keeps(harness: &Harness) -> [bool; 2] {
    [true, false].map(|is_laid_out| harness.ledger.keeps_from_queue(is_laid_out))
}

#[test]
fn while_a_caller_wakes_up_the_next_is_kept_from_a_second_connection() {
    let (mut harness, [one, other]) = busy(4 * SECOND);
    let [first, second] = [1, 2].map(|caller| harness.queue(caller));
    harness.sleep(first);
    harness.sleep(second);
    assert_eq!((harness.ledger.is_anyone_waking(), keeps(&harness)), (false, [false, false]));
    harness.give_back(one);
    assert_eq!((harness.ledger.is_anyone_waking(), keeps(&harness)), (true, [true, false]));
    harness.give_back(other);
    assert_eq!((harness.woken.last(), harness.stats().idle), (Some(&1), 1));
    assert_eq!(keeps(&harness), [true, true]);
    harness.granted(first);
    assert_eq!((harness.ledger.is_anyone_waking(), keeps(&harness)), (false, [false, false]));
    harness.tick();
    assert!(harness.ledger.is_anyone_waking());
    assert_eq!(keeps(&harness), [false, false], "nobody is left in the queue");
    harness.granted(second);
}

/// WAK-14: the shell looks again, under the same lock, after the one who was waking up has its connection.
#[test]
fn a_second_look_hands_over_what_was_kept_for_one_who_has_woken_up_since() {
    let (mut harness, [one, other]) = busy(4 * SECOND);
    let [first, second] = [1, 2].map(|caller| harness.queue(caller));
    harness.sleep(first);
    harness.sleep(second);
    harness.give_back(one);
    let mut effects = harness.ledger.give_back(other, harness.now);
    harness.granted(first);
    harness.ledger.settle_again(harness.now, &mut effects);
    harness.note_effects(effects);
    assert_eq!(harness.woken.last(), Some(&2));
    harness.granted(second);
}

/// NO-STRANDED-WAITER: it has woken to see to what is due, and may be in user code that follows from that.
#[test]
fn a_caller_who_looks_keeps_no_connection_from_the_next() {
    let (mut harness, [one, other]) = busy(4 * SECOND);
    let [first, second] = [1, 2].map(|caller| harness.queue(caller));
    harness.sleep(first);
    harness.sleep(second);
    harness.event(|ledger, now| ledger.look(first, now));
    harness.give_back(one);
    harness.give_back(other);
    assert_eq!((harness.stats().idle, harness.ledger.is_anyone_waking()), (0, true));
    harness.granted(first);
    harness.granted(second);
}

/// FAIR-05: who passes takes what is laid out, and asks the ledger only when nothing is.
#[test]
fn a_connection_that_is_kept_from_the_queue_is_not_lent_by_the_ledger() {
    let (mut harness, [one, other]) = busy(4 * SECOND);
    let [first, second] = [1, 2].map(|caller| harness.queue(caller));
    harness.sleep(first);
    harness.give_back(one);
    harness.give_back(other);
    assert_eq!(harness.stats().idle, 1);
    let (tried, effects) = harness.ledger.try_request(harness.now);
    harness.note_effects(effects);
    assert!(matches!(tried, Ok(None)), "{tried:?}");
    let asked = harness.request(3, None);
    assert!(matches!(asked, Reply::Queued(_)), "{asked:?}");
    harness.granted(first);
    harness.tick();
    harness.granted(second);
}

/// The bound is five times the wait in strict order, if that is between the least and five times that.
#[test]
fn the_bound_goes_by_the_rate_of_loans_while_callers_wait() {
    let (mut harness, [one, other]) = busy(SECOND);
    let came = harness.now;
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|caller| harness.queue(caller));
    harness.sleep(third);
    harness.give_back(one);
    harness.give_back(other);
    let held = [harness.granted(first), harness.granted(second)];
    harness.now += 6 * SECOND / 10;
    harness.tick();
    for entry in held {
        harness.give_back(entry);
    }
    let until = harness.ledger.may_lay_out_until(harness.now);
    assert_eq!(until, Some(came + 15 * SECOND / 10), "two loans in 0.6 s, and one caller waits");
    let held = harness.granted(third);
    harness.tick();
    let last = harness.granted(fourth);

    // Nobody waits any more: the rate of those loans says nothing of the next callers.
    harness.now += SECOND;
    let came = harness.now;
    let [next, _last] = [5, 6].map(|caller| harness.queue(caller));
    harness.sleep(next);
    harness.give_back(held);
    harness.give_back(last);
    assert_eq!(harness.ledger.may_lay_out_until(harness.now), Some(came + SECOND));
}

/// NO-STRANDED-WAITER. A caller who asked another pool of its key before has waited for longer than those
/// before it in the queue.
#[test]
fn a_caller_who_is_first_because_another_has_failed_is_kept_from_nothing_for_that_ones_sake() {
    let (mut harness, [one, other]) = busy(SECOND);
    let config =
        Config { max_open: 3, on_dial_failure: OnDialFailure::Fail, ..*harness.ledger.config() };
    harness.event(|ledger, now| ledger.reconfigure(config, now));
    let woken = harness.queue(1);
    harness.sleep(woken);
    let newest = harness.queue(2);
    harness.now = harness.now - 2 * SECOND;
    let oldest = harness.queue(3);
    harness.now += 2 * SECOND;
    harness.resize(4);
    assert_eq!(harness.begun, 4, "a dial for each of the first two");
    harness.give_back(one);
    harness.give_back(other);
    assert_eq!((harness.stats().waiting, harness.stats().idle), (2, 1), "one is waking up");

    harness.refused(); // The dial that was begun for the caller who is waking up.
    harness.refused();
    harness.failure(newest);
    harness.granted(oldest);
    harness.granted(woken);
}
