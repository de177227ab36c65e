//! Aging by a hand-turned clock: lifetimes, idle times, checks and replacements.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::config::Config;
use crate::harness::{Harness, SECOND, ageless};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::{AtDialerOrder, Purpose, Reply};
use crate::runtime::moment::Moment;

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Settings under which time changes nothing.
fn timeless() -> Config {
    Config { check_after: Duration::MAX, ..ageless() }
}

impl Harness {
    /// Opens this many connections, and leaves them idle.
    fn fill(&mut self, connections: u32) {
        let held: Vec<_> = (0..connections).map(|_| self.dial_and_get()).collect();
        for entry in held {
            self.give_back(entry);
        }
    }

    /// Turns the clock to the time of the alarm.
    fn next_upkeep(&mut self) -> Moment {
        let due = self.alarm.take().expect("upkeep is ordered");
        self.now = self.now.max(due);
        self.upkeep();
        due
    }

    /// The connections being closed, with the reasons.
    fn closing(&self) -> Vec<(u32, CloseReason)> {
        self.closes.iter().map(|order| (order.connection, order.reason)).collect()
    }
}

// ---- Lifetimes ---------------------------------------------------------------------------------

/// LIFE-03: an expired connection is not lent, even if upkeep has not come.
#[test]
fn a_connection_is_not_lent_beyond_its_lifetime_although_nobody_kept_it_up() {
    let lifetime = 100 * MILLISECOND;
    let mut harness = Harness::with(Config { max_lifetime: lifetime, ..timeless() });
    harness.fill(1);
    harness.now += 150 * MILLISECOND;
    assert!(matches!(harness.request(0, None), Reply::Queued(_)));
    assert_eq!(harness.closing(), [(1, CloseReason::Expired)]);
    assert_eq!(harness.dials.len(), 1);
}

/// LIFE-04, LIFE-05: busy or not, and however many wait.
#[test]
fn a_busy_connection_expires_at_its_return_and_its_waiter_gets_a_new_one() {
    let mut harness = Harness::with(Config { max_open: 1, max_lifetime: SECOND, ..timeless() });
    let mut held = harness.dial_and_get();
    let opened = harness.now;
    while harness.now < opened + 900 * MILLISECOND {
        harness.now += MILLISECOND;
        harness.give_back(held);
        held = harness.get();
    }
    assert_eq!(harness.begun, 1);
    let waiting = harness.queue(1);
    harness.now = opened + SECOND;
    harness.give_back(held);
    assert_eq!(harness.closing(), [(1, CloseReason::Expired)]);
    assert!(harness.dials.is_empty(), "BOUND: its slot is taken until it is closed");
    harness.close_all();
    harness.dialed();
    assert_eq!(harness.granted(waiting).connection, 2);
}

/// With a lifetime that is too short to use a connection, none is replaced at once, neither for
/// `min_idle` nor for a warm-up.
#[test]
fn connections_that_expire_at_once_are_not_dialed_for_without_end() {
    let brief = Config { max_open: 4, max_lifetime: Duration::from_nanos(1), ..timeless() };
    for (config, target) in [(Config { min_idle: 2, ..brief }, 0), (brief, 2)] {
        let mut harness = Harness::with(config);
        let began = harness.now;
        if target > 0 {
            let ticket = harness.warm_up(target, 1);
            harness.sleep(ticket);
        }
        while harness.now < began + SECOND {
            harness.now += MILLISECOND;
            if harness.dials.is_empty() {
                harness.tick()
            } else {
                harness.dialed()
            }
            harness.close_all();
            if harness.alarm.take_if(|at| *at <= harness.now).is_some() {
                harness.upkeep();
            }
        }
        assert!((3..=22).contains(&harness.begun), "dials in a second: {}", harness.begun);
    }
}

/// LIFE-07.
#[test]
fn connections_opened_together_expire_over_the_whole_of_the_jitter() {
    let jitter = 10 * MINUTE;
    let config = Config {
        max_open: 100,
        max_lifetime: 60 * MINUTE,
        lifetime_jitter: Some(jitter),
        ..timeless()
    };
    let mut harness = Harness::with(config);
    harness.fill(100);
    let opened = harness.now;
    let mut at_once = Vec::new();
    while harness.stats().open() > 0 {
        let due = harness.next_upkeep();
        let ended = harness.closes.len();
        harness.close_all();
        if ended > 0 {
            at_once.push((due.since(opened), ended));
        }
    }
    let (first, last) = (at_once[0].0, at_once[at_once.len() - 1].0);
    assert!(first >= 50 * MINUTE && last <= 60 * MINUTE, "{first:?} to {last:?}");
    assert!(last - first > jitter * 8 / 10, "{first:?} to {last:?}");
    assert!(at_once.iter().all(|(_, ended)| *ended <= 3), "{at_once:?}");
}

/// By default connections end within the last tenth of the lifetime, and pools do not act in step.
#[test]
fn jitter_is_on_by_default_and_differs_between_pools() {
    let ends = |seed| {
        let config = Config { max_lifetime: 100 * MINUTE, ..timeless() };
        let mut harness = Harness::seeded(config, seed);
        harness.fill(1);
        harness.next_upkeep();
        harness.now.since(harness.started)
    };
    let ends: Vec<_> = (0..50).map(ends).collect();
    assert!(ends.iter().all(|end| (90 * MINUTE..=100 * MINUTE).contains(end)), "{ends:?}");
    assert!(ends.iter().any(|end| *end < 92 * MINUTE) && ends.iter().any(|end| *end > 98 * MINUTE));
}

/// LIFE-08: a clock that stands still, repeats itself or runs back ends nothing early.
#[test]
fn a_clock_that_runs_back_ends_nothing() {
    let config = Config { max_lifetime: MINUTE, max_idle_time: MINUTE, ..timeless() };
    let mut harness = Harness::with(config);
    harness.fill(3);
    for back in [SECOND, MINUTE, 60 * MINUTE] {
        harness.now = harness.now - back;
        harness.upkeep();
        let entry = harness.get();
        harness.give_back(entry);
    }
    assert_eq!((harness.stats().idle, harness.closes.len()), (3, 0));
}

#[test]
fn limits_without_end_never_overflow_and_order_no_upkeep() {
    let mut harness = Harness::with(timeless());
    harness.fill(3);
    assert_eq!(harness.alarm, None, "QUIET");
    harness.now += 365 * 24 * 60 * MINUTE;
    assert_eq!(harness.get().connection, 3);
}

// ---- Idle time --------------------------------------------------------------------------------------

/// LIFE-06, LIFE-10.
#[test]
fn a_connection_that_has_been_idle_too_long_is_closed_by_the_next_call_at_the_latest() {
    let mut harness = Harness::with(Config { max_idle_time: SECOND, ..timeless() });
    harness.fill(1);
    harness.now += SECOND - MILLISECOND;
    let entry = harness.get();
    harness.give_back(entry);
    harness.now += SECOND;
    assert!(matches!(harness.request(0, None), Reply::Queued(_)));
    assert_eq!(harness.closing(), [(1, CloseReason::IdleTooLong)]);
}

/// LIFE-02.
#[test]
fn exactly_those_are_closed_that_have_rested_too_long() {
    let mut harness = Harness::with(Config { max_open: 6, max_idle_time: MINUTE, ..timeless() });
    let mut held: Vec<_> = (0..6).map(|_| harness.dial_and_get()).collect();
    let mut order = Vec::new();
    for pick in [3, 0, 2, 1, 1, 0] {
        harness.now += 10 * SECOND;
        let entry = held.remove(pick);
        order.push(entry.connection);
        harness.give_back(entry);
    }
    // They became idle 50, 40, 30, 20, 10 and 0 s ago.
    harness.now += 35 * SECOND;
    harness.upkeep();
    let closed: Vec<_> = harness.closing().iter().map(|(connection, _)| *connection).collect();
    assert_eq!(closed, order[..3]);
}

#[test]
fn the_rest_limit_leaves_min_idle_alone() {
    let config = Config { max_open: 5, min_idle: 2, max_idle_time: SECOND, ..timeless() };
    let mut harness = Harness::with(config);
    harness.fill(5);
    harness.now += MINUTE;
    harness.upkeep();
    harness.close_all();
    assert_eq!((harness.stats().idle, harness.dials.len()), (2, 0));
    // They are lent, although they are old.
    assert_eq!(harness.get().connection, 5);
}

// ---- By steps ---------------------------------------------------------------------------------------

/// Settings under which idle connections end by steps.
fn stepwise(max_open: u32, prune_every: Duration) -> Config {
    Config { max_open, max_idle_time: MINUTE, prune_every, ..timeless() }
}

#[test]
fn connections_that_came_to_rest_together_are_closed_one_by_one() {
    let mut harness = Harness::with(stepwise(4, 2 * SECOND));
    harness.fill(4);
    let began = harness.now;
    let mut closed = Vec::new();
    while harness.stats().idle > 0 {
        harness.next_upkeep();
        let now = harness.closing();
        closed.extend(now.iter().map(|(connection, _)| (*connection, harness.now - began)));
        assert!(now.iter().all(|(_, reason)| *reason == CloseReason::IdleTooLong));
        harness.close_all();
    }
    let steps = [(1, 0), (2, 2), (3, 4), (4, 6)];
    assert_eq!(closed, steps.map(|(connection, late)| (connection, MINUTE + late * SECOND)));
}

#[test]
fn a_connection_whose_step_has_not_come_is_lent() {
    let mut harness = Harness::with(stepwise(3, 10 * SECOND));
    harness.fill(3);
    harness.now += MINUTE + SECOND;
    harness.tick();
    harness.close_all();
    let lent = harness.get();
    assert_eq!((lent.connection, harness.stats().idle), (3, 1), "the one that was used last");
    harness.give_back(lent);
    harness.now += 10 * SECOND;
    harness.tick();
    assert_eq!(harness.closing(), [(2, CloseReason::IdleTooLong)]);
    harness.close_all();
    harness.now += 20 * SECOND;
    harness.tick();
    assert_eq!((harness.stats().idle, harness.closes.len()), (1, 0), "it was used since");
}

/// LIFE-08: without steps a connection ends by its own time, also if another was closed at a later one.
#[test]
fn a_step_of_no_length_holds_up_nothing_when_the_clock_has_run_back() {
    let mut harness = Harness::with(stepwise(2, Duration::ZERO));
    let [first, second] = [(); 2].map(|()| harness.dial_and_get());
    harness.give_back(first);
    harness.now += 3 * MINUTE;
    harness.upkeep();
    assert_eq!(harness.closing(), [(1, CloseReason::IdleTooLong)]);
    harness.now = harness.now - 2 * MINUTE;
    harness.give_back(second);
    harness.now += MINUTE;
    harness.upkeep();
    assert_eq!(harness.closing()[1..], [(2, CloseReason::IdleTooLong)]);
}

/// Whatever is closed otherwise does not wait for a step, nor is it one.
#[test]
fn only_closes_for_idle_time_are_steps() {
    let config = Config { max_lifetime: MINUTE + SECOND, ..stepwise(4, 30 * SECOND) };
    let mut harness = Harness::with(Config { lifetime_jitter: Some(Duration::ZERO), ..config });
    harness.fill(4);
    harness.now += MINUTE;
    harness.tick();
    assert_eq!(harness.closing(), [(1, CloseReason::IdleTooLong)]);
    harness.now += SECOND;
    harness.tick();
    let expired = [2, 3, 4].map(|connection| (connection, CloseReason::Expired));
    assert_eq!(harness.closing()[1..], expired);
}

#[test]
fn a_changed_step_holds_at_once() {
    let config = stepwise(4, 30 * SECOND);
    let mut harness = Harness::with(config);
    harness.fill(4);
    harness.now += MINUTE;
    harness.tick();
    assert_eq!(harness.closes.len(), 1);
    let effects =
        harness.ledger.reconfigure(Config { prune_every: Duration::ZERO, ..config }, harness.now);
    harness.note_effects(effects);
    assert_eq!(harness.closes.len(), 4);
}

proptest! {
    /// Upkeep alone closes every idle connection beyond `min_idle` by the documented bound, the coldest
    /// first, and no two of them sooner after each other than a step.
    #[test]
    fn steps_end_by_their_bound(
        (min_idle, rests) in (0..4u32, vec(0..3_000u64, 1..9)),
        max_idle_time in (1..5_000u64).prop_map(Duration::from_millis),
        prune_every in prop_oneof![Just(0), 1..8_000u64, Just(u64::MAX)].prop_map(Duration::from_millis),
    ) {
        let max_open = u32::try_from(rests.len()).unwrap();
        let min_idle = min_idle.min(max_open);
        let config = Config { max_open, min_idle, max_idle_time, prune_every, ..timeless() };
        let mut harness = Harness::with(config);
        let held: Vec<_> = (0..max_open).map(|_| harness.dial_and_get()).collect();
        for (entry, rest) in held.into_iter().zip(rests) {
            harness.now += Duration::from_millis(rest);
            harness.tick();
            harness.close_all();
            harness.give_back(entry);
        }
        let beyond = harness.stats().idle - min_idle.min(harness.stats().idle);
        let mut step = Duration::ZERO;
        if !prune_every.is_zero() {
            step = prune_every.min(max_idle_time).max(100 * MILLISECOND);
        }
        // The pause before the first may have begun with a connection that was closed before.
        let bound = harness.now + max_idle_time + beyond * (step + 100 * MILLISECOND);
        let (mut previous, mut last): (Option<Moment>, u32) = (None, 0);
        while harness.stats().idle > min_idle {
            harness.next_upkeep();
            prop_assert!(harness.now <= bound, "{:?} late", harness.now - bound);
            for (connection, reason) in harness.closing() {
                prop_assert_eq!(reason, CloseReason::IdleTooLong);
                prop_assert!(connection > last, "the coldest first");
                let is_apart = previous.is_none_or(|previous| harness.now - previous >= step);
                prop_assert!(is_apart, "{:?} after the one before", previous.map(|at| harness.now - at));
                (previous, last) = (Some(harness.now), connection);
            }
            harness.close_all();
        }
        prop_assert_eq!(harness.stats().retired_by[CloseReason::IdleTooLong], harness.stats().retired_total);
    }
}

/// LIFE-09.
#[test]
fn the_shortest_limit_wakes_nobody_more_than_ten_times_a_second() {
    let nanosecond = Duration::from_nanos(1);
    let config = Config { max_idle_time: nanosecond, max_lifetime: nanosecond, ..timeless() };
    let mut harness = Harness::with(config);
    let began = harness.now;
    let mut held = harness.dial_and_get();
    for _ in 0..20 {
        harness.give_back(held);
        harness.next_upkeep();
        harness.close_all();
        held = harness.dial_and_get();
    }
    assert!(harness.now - began >= 19 * 100 * MILLISECOND, "{:?}", harness.now - began);
}

#[test]
fn an_empty_pool_orders_no_upkeep() {
    let mut harness = Harness::with(Config::default());
    harness.tick();
    assert_eq!(harness.alarm, None);
    let entry = harness.dial_and_get();
    harness.retire(entry);
    while harness.alarm.is_some() {
        harness.next_upkeep();
    }
    assert_eq!(harness.stats().open(), 0);
}

/// Connections may come to rest in places, where the ledger does not see them.
#[test]
fn upkeep_is_ordered_while_anything_is_in_use() {
    let mut harness = Harness::with(Config { max_idle_time: MINUTE, ..timeless() });
    let _held = harness.dial_and_get();
    for _ in 0..3 {
        let before = harness.now;
        harness.next_upkeep();
        assert_eq!(harness.now - before, MINUTE);
    }
}

// ---- min_idle ----------------------------------------------------------------------------------

#[test]
fn min_idle_is_dialed_for_at_once_and_counts_dials_under_way() {
    let mut harness = Harness::with(Config { max_open: 5, min_idle: 3, ..timeless() });
    harness.tick();
    assert_eq!(harness.dials.len(), 3);
    harness.tick();
    assert_eq!(harness.dials.len(), 3);
    (0..3).for_each(|_| harness.dialed());
    assert_eq!((harness.stats().idle, harness.dials.len()), (3, 0));
    // A loan begins a dial for `min_idle` at once, if there is room.
    let held: Vec<_> = (0..3).map(|_| harness.get()).collect();
    assert_eq!(harness.dials.len(), 2);
    for entry in held {
        harness.give_back(entry);
    }
    assert_eq!(harness.stats().open(), 5, "BOUND");
}

#[test]
fn a_caller_takes_a_connection_dialed_for_min_idle_and_another_is_dialed() {
    let mut harness = Harness::with(Config { max_open: 5, min_idle: 1, ..timeless() });
    harness.tick();
    let ticket = harness.queue(1);
    assert_eq!(harness.dials.len(), 2, "one for the caller, one to rest");
    harness.dialed();
    let _held = harness.granted(ticket);
    assert_eq!(harness.dials.len(), 1);
    harness.dialed();
    assert_eq!(harness.stats().idle, 1);
}

/// HEAL-04, NO-DEMAND-NO-DIAL.
#[test]
fn a_server_that_is_away_is_not_dialed_for_min_idle_without_pause() {
    let mut harness = Harness::with(Config { max_open: 5, min_idle: 5, ..timeless() });
    harness.tick();
    assert_eq!(harness.dials.len(), 5);
    let began = harness.now;
    let mut attempts = 0;
    while harness.now < began + 5 * MINUTE {
        while !harness.dials.is_empty() {
            harness.refused();
            attempts += 1;
        }
        harness.next_upkeep();
    }
    assert!((30..80).contains(&attempts), "{attempts}");
    // Once a dial has succeeded, the other dials begin at once.
    while harness.dials.is_empty() {
        harness.next_upkeep();
    }
    assert_eq!(harness.dials.len(), 1, "one at a time tries");
    harness.dialed();
    assert_eq!(harness.dials.len(), 4);
}

/// HEAL-04: nobody calls who would notice the overdue dial.
#[test]
fn a_dial_for_min_idle_that_hangs_is_followed_by_another() {
    let mut harness = Harness::with(Config { max_open: 2, min_idle: 1, ..timeless() });
    harness.tick();
    let hangs = harness.dials.remove(0);
    let mut upkeeps = 0;
    while harness.dials.is_empty() {
        harness.next_upkeep();
        upkeeps += 1;
    }
    let limit = harness.ledger.config().dial_timeout;
    assert_eq!(hangs.deadline, Some(harness.started + limit));
    assert!(harness.now <= harness.started + limit + SECOND, "{:?}", harness.now - harness.started);
    assert!(upkeeps <= 2, "QUIET: upkeep came {upkeeps} times");
}

/// QUIET: jobs under way end by themselves.
#[test]
fn upkeep_does_not_come_all_the_time_while_a_second_attempt_is_under_way() {
    let mut harness = Harness::with(Config { max_open: 2, min_idle: 2, ..timeless() });
    harness.tick();
    (0..2).for_each(|_| _ = harness.refused());
    while harness.dials.is_empty() {
        harness.next_upkeep();
    }
    let began = harness.now;
    harness.next_upkeep();
    assert_eq!(harness.now - began, harness.ledger.config().dial_timeout);
}

/// LIFE-13.
#[test]
fn any_mix_of_limits_bounds_open_and_idle_connections() {
    for max_open in [1, 2, u32::MAX] {
        for max_idle in [None, Some(0), Some(1), Some(max_open)] {
            for min_idle in [0, 1, 2, u32::MAX] {
                let config = Config { max_open, max_idle, ..timeless() };
                let most = config.max_idle();
                if min_idle > most || min_idle == u32::MAX {
                    continue;
                }
                let mut harness = Harness::with(Config { min_idle, ..config });
                harness.tick();
                let held = harness.dial_and_get();
                harness.give_back(held);
                while !harness.dials.is_empty() {
                    harness.dialed();
                }
                harness.close_all();
                let idle = harness.stats().idle;
                assert!((min_idle..=most).contains(&idle), "{idle} idle of {config:?}");
            }
        }
    }
}

// ---- Replacement -------------------------------------------------------------------------------

#[test]
fn the_successor_of_a_resting_connection_is_dialed_before_that_one_ends() {
    let config = Config {
        max_open: 3,
        min_idle: 2,
        max_lifetime: 10 * MINUTE,
        lifetime_jitter: Some(5 * MINUTE),
        ..timeless()
    };
    let mut harness = Harness::with(config);
    harness.tick();
    (0..2).for_each(|_| harness.dialed());
    let mut ended = 0;
    while ended < 20 {
        harness.next_upkeep();
        while !harness.dials.is_empty() {
            harness.dialed();
        }
        assert!(harness.stats().idle >= 2, "capacity never dips: {}", harness.stats());
        ended += harness.closes.len();
        harness.close_all();
    }
    assert!(harness.begun <= 2 + 20 + 1, "{} dials", harness.begun);
}

/// A successor takes a dial, and another if the first fails.
#[test]
fn a_successor_is_dialed_two_dials_before_an_end() {
    let config = Config {
        max_open: 2,
        min_idle: 1,
        max_lifetime: 10 * MINUTE,
        lifetime_jitter: Some(Duration::ZERO),
        ..timeless()
    };
    let mut harness = Harness::with(config);
    harness.tick();
    harness.now += 20 * SECOND;
    harness.dialed();
    let opened = harness.now;
    while harness.dials.is_empty() {
        harness.next_upkeep();
    }
    assert_eq!(harness.now, opened + 10 * MINUTE - 2 * 20 * SECOND);
    assert_eq!(harness.closing(), []);
}

/// Without `min_idle` an end that is near is no reason: nobody dials for a successor.
#[test]
fn the_coldest_is_surplus_although_another_ends_sooner() {
    let config = Config {
        max_open: 3,
        max_idle: Some(2),
        max_lifetime: 10 * MINUTE,
        lifetime_jitter: Some(Duration::ZERO),
        ..timeless()
    };
    let mut harness = Harness::with(config);
    let older = harness.dial_and_get();
    harness.now += 5 * MINUTE;
    let [younger, third] = [harness.dial_and_get(), harness.dial_and_get()];
    harness.give_back(younger);
    harness.now += SECOND;
    harness.give_back(older);
    harness.now += 4 * MINUTE;
    harness.event(|ledger, now| ledger.reconfigure(config, now));
    harness.upkeep();
    harness.give_back(third);
    assert_eq!(harness.closing(), [(2, CloseReason::Surplus)]);
}

/// With every slot taken there is no room for a successor: the old connection ends first.
#[test]
fn a_full_pool_replaces_one_after_the_other() {
    let config = Config { max_open: 2, min_idle: 2, max_lifetime: MINUTE, ..timeless() };
    let mut harness = Harness::with(config);
    harness.tick();
    (0..2).for_each(|_| harness.dialed());
    for _ in 0..10 {
        harness.next_upkeep();
        assert!(harness.dials.is_empty(), "BOUND");
        harness.close_all();
        while !harness.dials.is_empty() {
            harness.dialed();
        }
        assert_eq!(harness.stats().idle, 2);
    }
}

#[test]
fn nothing_is_replaced_for_which_there_is_no_demand() {
    let mut harness = Harness::with(Config { max_lifetime: MINUTE, ..timeless() });
    harness.fill(3);
    let begun = harness.begun;
    while harness.alarm.is_some() {
        harness.next_upkeep();
        harness.close_all();
    }
    assert_eq!((harness.stats().open(), harness.begun), (0, begun), "NO-DEMAND-NO-DIAL");
}

/// A life that is shorter than the lead must not make a pool dial without end.
#[test]
fn short_lives_are_no_reason_to_dial_all_the_time() {
    let lifetime = 400 * MILLISECOND;
    let config = Config { max_open: 10, min_idle: 1, max_lifetime: lifetime, ..timeless() };
    let mut harness = Harness::with(config);
    harness.tick();
    let began = harness.now;
    while harness.now < began + 40 * SECOND {
        while !harness.dials.is_empty() {
            harness.dialed();
        }
        harness.next_upkeep();
        harness.close_all();
    }
    assert!(harness.begun < 40 * 5, "{} dials in 100 lives", harness.begun);
}

// ---- Checks ------------------------------------------------------------------------------------

#[test]
fn resting_connections_are_checked_in_turn_one_at_a_time() {
    let config = Config { max_open: 5, check_idle_every: MINUTE, ..timeless() };
    let mut harness = Harness::with(config);
    harness.fill(5);
    let rested = harness.now;
    let mut checked = Vec::new();
    while harness.now < rested + 5 * MINUTE {
        harness.next_upkeep();
        while let Some(order) = harness.at_dialer.pop() {
            assert!(harness.at_dialer.is_empty(), "one at a time");
            assert_eq!(order.purpose, Purpose::KeepAlive);
            checked.push(order.entry.connection);
            harness.event(|ledger, now| ledger.back_from_dialer(order.id, order.entry, None, now));
        }
    }
    assert!((25..=28).contains(&checked.len()), "{checked:?}");
    for connection in 1..=5 {
        assert!(checked.iter().filter(|checked| **checked == connection).count() >= 5);
    }
}

/// LIFE-14.
#[test]
fn a_check_is_no_use_and_does_not_keep_a_connection_from_idling_out() {
    let config = Config { max_idle_time: 3 * MINUTE, check_idle_every: MINUTE, ..timeless() };
    let mut harness = Harness::with(config);
    harness.fill(1);
    let rested = harness.now;
    while harness.closes.is_empty() {
        harness.next_upkeep();
        while let Some(order) = harness.at_dialer.pop() {
            harness.event(|ledger, now| ledger.back_from_dialer(order.id, order.entry, None, now));
        }
    }
    assert_eq!(harness.closing(), [(1, CloseReason::IdleTooLong)]);
    assert_eq!(harness.now - rested, 3 * MINUTE);
}

/// LIFE-12: the connection that fails is closed, and the next one is checked.
#[test]
fn a_check_that_fails_or_hangs_is_the_end_of_that_connection_alone() {
    let config = Config { max_open: 3, check_idle_every: MINUTE, ..timeless() };
    let mut harness = Harness::with(config);
    harness.fill(3);
    harness.now += MINUTE;
    harness.upkeep();
    let failed = harness.at_dialer.remove(0);
    harness.event(|ledger, now| {
        ledger.back_from_dialer(failed.id, failed.entry, Some(CloseReason::CheckFailed), now)
    });
    assert_eq!(harness.at_dialer.len(), 1, "the next one");
    let _hangs = harness.at_dialer.remove(0);
    harness.now += harness.ledger.config().check_timeout;
    harness.upkeep();
    assert_eq!(harness.at_dialer.len(), 1, "and the next");
    let sound = harness.at_dialer.remove(0);
    harness.event(|ledger, now| ledger.back_from_dialer(sound.id, sound.entry, None, now));
    assert_eq!((harness.stats().idle, harness.stats().check_failed_total), (1, 2));
}

/// A caller who finds the only connection being checked waits for that, not for a dial.
#[test]
fn a_caller_counts_on_a_connection_that_is_being_checked() {
    let config = Config { check_idle_every: MINUTE, ..timeless() };
    let mut harness = Harness::with(config);
    harness.fill(1);
    harness.now += MINUTE;
    harness.upkeep();
    let ticket = harness.queue(1);
    assert!(harness.dials.is_empty());
    let order = harness.at_dialer.remove(0);
    harness.event(|ledger, now| ledger.back_from_dialer(order.id, order.entry, None, now));
    assert_eq!(harness.granted(ticket).connection, 1);
}

/// LIFE-14: one at a time, as nobody can be lent what is being checked.
#[test]
fn a_change_of_settings_begins_no_second_check_beside_the_one_under_way() {
    let mut harness = Harness::with(Config { max_open: 2, check_idle_every: MINUTE, ..timeless() });
    harness.fill(2);
    harness.now += MINUTE;
    harness.upkeep();
    harness.resize(3);
    assert_eq!(harness.at_dialer.len(), 1);
}

/// LIFE-12: there was no thread for upkeep.
#[test]
fn upkeep_that_no_thread_does_is_ordered_again_by_the_next_event() {
    let mut harness = Harness::with(Config { check_idle_every: MINUTE, ..timeless() });
    harness.fill(1);
    let alarm = harness.alarm.take();
    assert!(alarm.is_some());
    harness.ledger.alarm_refused();
    harness.tick();
    assert_eq!(harness.alarm, alarm);
}

/// Its loan may begin without the ledger, and upkeep alone looks for leaks.
#[test]
fn upkeep_comes_in_time_for_a_leak_of_what_is_idle() {
    let mut harness = Harness::with(Config { leak_after: MINUTE, ..timeless() });
    harness.fill(1);
    harness.next_upkeep();
    assert_eq!(harness.alarm, Some(harness.now + MINUTE));
}

/// LIFE-12: a return may leave one more than `min_idle` idle, and the coldest has been idle for long.
#[test]
fn upkeep_comes_sooner_if_a_return_makes_the_coldest_superfluous() {
    let config = Config { max_open: 2, min_idle: 1, max_idle_time: MINUTE, ..timeless() };
    let mut harness = Harness::with(config);
    let [cold, held] = [harness.dial_and_get(), harness.dial_and_get()];
    harness.give_back(cold);
    harness.next_upkeep();
    assert_eq!((harness.closing(), harness.alarm), (vec![], Some(harness.now + MINUTE)));
    harness.now += SECOND;
    harness.give_back(held);
    harness.next_upkeep();
    assert_eq!(harness.closing(), [(1, CloseReason::IdleTooLong)]);
}

/// LIFE-12: nobody calls, and nothing else is due.
#[test]
fn a_check_that_hangs_holds_up_no_other_although_nobody_calls() {
    let mut harness = Harness::with(Config { max_open: 2, check_idle_every: MINUTE, ..timeless() });
    harness.fill(2);
    harness.next_upkeep();
    let hangs = harness.at_dialer.remove(0);
    while harness.now < hangs.deadline.expect("a check has a limit") {
        harness.next_upkeep();
    }
    assert_eq!(
        (harness.at_dialer.len(), harness.stats().check_failed_total),
        (1, 1),
        "the other's turn"
    );
}

// ---- Doubt -------------------------------------------------------------------------------------

#[test]
fn one_broken_connection_puts_all_that_rest_in_doubt() {
    let mut harness = Harness::with(Config { max_open: 4, ..timeless() });
    let (mine, late) = (harness.dial_and_get(), harness.dial_and_get());
    harness.fill(2);
    harness.now += MILLISECOND;
    harness.retire_as(mine, CloseReason::Broken);
    // A connection that comes back later has proved itself by that.
    harness.now += MILLISECOND;
    harness.give_back(late);
    let held = harness.get();
    assert_eq!(held.connection, 2);
    // A connection that became idle before is checked, however short its rest.
    let ticket = harness.queue(1);
    let order = harness.at_dialer.remove(0);
    assert_eq!(order.purpose, Purpose::Check);
    harness.event(|ledger, now| ledger.back_from_dialer(order.id, order.entry, None, now));
    let proven = harness.granted(ticket);
    harness.give_back(proven);
    assert!(matches!(harness.request(0, None), Reply::Granted(..)), "proven again");
}

#[test]
fn a_failed_check_puts_the_others_in_doubt_and_a_discard_does_not() {
    let config = Config { check_after: SECOND, ..timeless() };
    let mut harness = Harness::with(Config { max_open: 4, ..config });
    let mine = harness.dial_and_get();
    harness.fill(2);
    harness.retire_as(mine, CloseReason::Discarded);
    let entry = harness.get();
    harness.give_back(entry);

    let held = harness.get();
    harness.now += 2 * SECOND;
    harness.give_back(held);
    let held = harness.get();
    let ticket = harness.queue(1);
    let stale = harness.at_dialer.remove(0);
    harness.give_back(held);
    let held = harness.granted(ticket);
    harness.give_back(held);
    harness.now += MILLISECOND;
    harness.event(|ledger, now| {
        ledger.back_from_dialer(stale.id, stale.entry, Some(CloseReason::CheckFailed), now)
    });
    assert!(matches!(harness.request(0, None), Reply::Queued(_)));
    assert_eq!(harness.at_dialer.len(), 1, "the other one is checked, fresh as it is");
}

/// The peer of all connections may be at fault, or the one borrower of this.
#[test]
fn faults_that_others_may_share_put_them_in_doubt_and_no_other_ends() {
    use CloseReason::*;
    for (reason, _) in CloseReason::ALL {
        let config = Config { max_open: 2, check_after: SECOND, ..timeless() };
        let mut harness = Harness::with(config);
        let mine = harness.dial_and_get();
        harness.fill(1);
        harness.now += MILLISECOND;
        harness.retire_as(mine, reason);
        let is_checked = matches!(harness.request(0, None), Reply::Queued(_));
        let is_doubted = matches!(reason, Broken | CheckFailed | Doubted | ResetFailed);
        assert_eq!((is_checked, harness.at_dialer.len()), (is_doubted, usize::from(is_doubted)));
        let failed = u64::from(reason == CheckFailed);
        assert_eq!(harness.stats().check_failed_total, failed, "{reason}");
    }
}

/// LIFE-09: those that are due wait for the end of the first one's check, which takes at most its limit.
#[test]
fn upkeep_does_not_come_for_a_second_check_while_the_first_is_under_way() {
    let config =
        Config { check_idle_every: MINUTE, check_timeout: 30 * SECOND, max_open: 2, ..timeless() };
    let mut harness = Harness::with(config);
    harness.fill(2);
    harness.now += MINUTE;
    harness.alarm = None;
    harness.upkeep();
    assert_eq!(harness.at_dialer.len(), 1);
    assert_eq!(harness.alarm, Some(harness.now + 30 * SECOND));
}

// ---- Changed limits ----------------------------------------------------------------------------

/// The end that was noted before the change does not count after the judgement either.
#[test]
fn a_connection_that_is_judged_after_a_change_ends_by_the_new_lifetime() {
    for (before, after) in [(10, 100), (100, 10)] {
        let lifetime = |seconds| Config {
            max_open: 1,
            max_lifetime: seconds * SECOND,
            lifetime_jitter: Some(Duration::ZERO),
            ..ageless()
        };
        let mut harness = Harness::with(lifetime(before));
        let entry = harness.dial_and_get();
        harness.event(|ledger, now| ledger.reconfigure(lifetime(after), now));
        let (_, effects) = harness.ledger.retire_where(harness.now);
        harness.note_effects(effects);

        harness.now += (after - 5).min(20) * SECOND;
        harness.give_back(entry);
        let AtDialerOrder { id, entry, .. } = harness.at_dialer.remove(0);
        harness.event(|ledger, now| ledger.back_from_dialer(id, entry, None, now));
        assert_eq!(harness.stats().idle, 1, "{before} s, then {after} s: it may be lent still");

        harness.now = harness.started + after * SECOND;
        harness.upkeep();
        assert_eq!(harness.stats().idle, 0, "{before} s, then {after} s: it has ended");
    }
}

/// LIFE-07: nor are those that came to rest together checked together.
#[test]
fn each_check_comes_within_the_last_tenth_of_its_interval_at_another_time() {
    let every = 100 * SECOND;
    let mut times = BTreeSet::new();
    for seed in 0..20 {
        let config = Config { check_idle_every: every, ..ageless() };
        let mut harness = Harness::seeded(config, seed);
        let entry = harness.dial_and_get();
        harness.give_back(entry);
        let alarm = harness.alarm.expect("a check is due some time");
        times.insert(alarm.since(harness.now));
    }
    let (first, last) = (times.first().unwrap(), times.last().unwrap());
    assert!(*first >= every - every / 10 && *last <= every, "{first:?} to {last:?}");
    assert!(times.len() == 20 && *last - *first > every / 20, "{first:?} to {last:?}");
}
