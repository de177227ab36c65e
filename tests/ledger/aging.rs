//! What time does to connections: lifetimes, rests, checks and replacements, by a hand-turned clock.

use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::desk::{Desk, SECOND, ageless};
use crate::ledger::{Purpose, Request};
use crate::moment::Moment;

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Settings under which time changes nothing.
fn timeless() -> Config {
    Config { check_after: Duration::MAX, ..ageless() }
}

impl Desk {
    /// Opens so many connections, and lets them rest.
    fn fill(&mut self, connections: u32) {
        let held: Vec<_> = (0..connections).map(|_| self.dial_and_get()).collect();
        for entry in held {
            self.give_back(entry);
        }
    }

    /// Turns the clock to the moment for which upkeep is ordered.
    fn next_upkeep(&mut self) -> Moment {
        let due = self.alarm.take().expect("upkeep is ordered");
        self.now = self.now.max(due);
        self.upkeep();
        due
    }

    /// Why connections are being closed, and which.
    fn closing(&self) -> Vec<(u32, CloseReason)> {
        self.closes.iter().map(|order| (order.connection, order.reason)).collect()
    }
}

// ---- Lifetimes ---------------------------------------------------------------------------------

/// LIFE-03: whatever the tick does, what has expired is not lent.
#[test]
fn a_connection_is_not_lent_beyond_its_lifetime_although_nobody_kept_it_up() {
    let lifetime = 100 * MILLISECOND;
    let mut desk = Desk::with(Config { max_lifetime: lifetime, ..timeless() });
    desk.fill(1);
    desk.now += 150 * MILLISECOND;
    assert!(matches!(desk.request(0, None), Request::Queued(_)));
    assert_eq!(desk.closing(), [(1, CloseReason::Expired)]);
    assert_eq!(desk.dials.len(), 1);
}

/// LIFE-04, LIFE-05: busy or not, and however many wait.
#[test]
fn a_busy_connection_ends_at_its_return_and_whoever_waits_for_it_gets_a_new_one() {
    let mut desk = Desk::with(Config { max_open: 1, max_lifetime: SECOND, ..timeless() });
    let mut held = desk.dial_and_get();
    let opened = desk.now;
    while desk.now < opened + 900 * MILLISECOND {
        desk.now += MILLISECOND;
        desk.give_back(held);
        held = desk.get();
    }
    assert_eq!(desk.begun, 1);
    let waiting = desk.queue(1);
    desk.now = opened + SECOND;
    desk.give_back(held);
    assert_eq!(desk.closing(), [(1, CloseReason::Expired)]);
    assert!(desk.dials.is_empty(), "BOUND: its slot is taken until it is closed");
    desk.close_all();
    desk.dialed();
    assert_eq!(desk.granted(waiting).connection, 2);
}

/// A lifetime that ends before anybody can use a connection: what cannot stay is not replaced at once,
/// neither for `min_idle` nor for a warm-up.
#[test]
fn what_ends_as_soon_as_it_is_there_is_not_dialed_for_without_end() {
    let brief = Config { max_open: 4, max_lifetime: Duration::from_nanos(1), ..timeless() };
    for (config, target) in [(Config { min_idle: 2, ..brief }, 0), (brief, 2)] {
        let mut desk = Desk::with(config);
        let began = desk.now;
        if target > 0 {
            let ticket = desk.warm_up(target, 1);
            desk.sleep(ticket);
        }
        while desk.now < began + SECOND {
            desk.now += MILLISECOND;
            if desk.dials.is_empty() {
                desk.look()
            } else {
                desk.dialed()
            }
            desk.close_all();
            if desk.alarm.take_if(|at| *at <= desk.now).is_some() {
                desk.upkeep();
            }
        }
        assert!((3..=22).contains(&desk.begun), "dials in a second: {}", desk.begun);
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
    let mut desk = Desk::with(config);
    desk.fill(100);
    let opened = desk.now;
    let mut at_once = Vec::new();
    while desk.stats().open() > 0 {
        let due = desk.next_upkeep();
        let ended = desk.closes.len();
        desk.close_all();
        if ended > 0 {
            at_once.push((due.since(opened), ended));
        }
    }
    let (first, last) = (at_once[0].0, at_once[at_once.len() - 1].0);
    assert!(first >= 50 * MINUTE && last <= 60 * MINUTE, "{first:?} to {last:?}");
    assert!(last - first > jitter * 8 / 10, "{first:?} to {last:?}");
    assert!(at_once.iter().all(|(_, ended)| *ended <= 3), "{at_once:?}");
}

/// The default spreads the ends over a tenth of the lifetime, and pools do not act in step.
#[test]
fn jitter_is_on_by_default_and_differs_between_pools() {
    let ends = |seed| {
        let config = Config { max_lifetime: 100 * MINUTE, ..timeless() };
        let mut desk = Desk::seeded(config, seed);
        desk.fill(1);
        desk.next_upkeep();
        desk.now.since(desk.started)
    };
    let ends: Vec<_> = (0..50).map(ends).collect();
    assert!(ends.iter().all(|end| (90 * MINUTE..=100 * MINUTE).contains(end)), "{ends:?}");
    assert!(ends.iter().any(|end| *end < 92 * MINUTE) && ends.iter().any(|end| *end > 98 * MINUTE));
}

/// LIFE-08: a clock that stands still, repeats itself or runs back ends nothing early.
#[test]
fn a_clock_that_runs_back_ends_nothing() {
    let config = Config { max_lifetime: MINUTE, max_idle_time: MINUTE, ..timeless() };
    let mut desk = Desk::with(config);
    desk.fill(3);
    for back in [SECOND, MINUTE, 60 * MINUTE] {
        desk.now = desk.now - back;
        desk.upkeep();
        let entry = desk.get();
        desk.give_back(entry);
    }
    assert_eq!((desk.stats().idle, desk.closes.len()), (3, 0));
}

#[test]
fn limits_without_end_never_overflow_and_order_no_upkeep() {
    let mut desk = Desk::with(timeless());
    desk.fill(3);
    assert_eq!(desk.alarm, None, "QUIET");
    desk.now += 365 * 24 * 60 * MINUTE;
    assert_eq!(desk.get().connection, 3);
}

// ---- Rest --------------------------------------------------------------------------------------

/// LIFE-06, LIFE-10.
#[test]
fn what_has_rested_too_long_is_closed_when_somebody_calls_if_not_before() {
    let mut desk = Desk::with(Config { max_idle_time: SECOND, ..timeless() });
    desk.fill(1);
    desk.now += SECOND - MILLISECOND;
    let entry = desk.get();
    desk.give_back(entry);
    desk.now += SECOND;
    assert!(matches!(desk.request(0, None), Request::Queued(_)));
    assert_eq!(desk.closing(), [(1, CloseReason::IdleTooLong)]);
}

/// LIFE-02.
#[test]
fn exactly_those_are_closed_that_have_rested_too_long() {
    let mut desk = Desk::with(Config { max_open: 6, max_idle_time: MINUTE, ..timeless() });
    let mut held: Vec<_> = (0..6).map(|_| desk.dial_and_get()).collect();
    let mut order = Vec::new();
    for pick in [3, 0, 2, 1, 1, 0] {
        desk.now += 10 * SECOND;
        let entry = held.remove(pick);
        order.push(entry.connection);
        desk.give_back(entry);
    }
    // They came to rest 50, 40, 30, 20, 10 and 0 s ago.
    desk.now += 35 * SECOND;
    desk.upkeep();
    let closed: Vec<_> = desk.closing().iter().map(|(connection, _)| *connection).collect();
    assert_eq!(closed, order[..3]);
}

#[test]
fn the_rest_limit_leaves_min_idle_alone() {
    let config = Config { max_open: 5, min_idle: 2, max_idle_time: SECOND, ..timeless() };
    let mut desk = Desk::with(config);
    desk.fill(5);
    desk.now += MINUTE;
    desk.upkeep();
    desk.close_all();
    assert_eq!((desk.stats().idle, desk.dials.len()), (2, 0));
    // Old as they are, they are lent.
    assert_eq!(desk.get().connection, 5);
}

/// LIFE-09.
#[test]
fn the_shortest_limit_wakes_nobody_more_than_ten_times_a_second() {
    let nanosecond = Duration::from_nanos(1);
    let config = Config { max_idle_time: nanosecond, max_lifetime: nanosecond, ..timeless() };
    let mut desk = Desk::with(config);
    let began = desk.now;
    let mut held = desk.dial_and_get();
    for _ in 0..20 {
        desk.give_back(held);
        desk.next_upkeep();
        desk.close_all();
        held = desk.dial_and_get();
    }
    assert!(desk.now - began >= 19 * 100 * MILLISECOND, "{:?}", desk.now - began);
}

#[test]
fn an_empty_pool_orders_no_upkeep() {
    let mut desk = Desk::with(Config::default());
    desk.look();
    assert_eq!(desk.alarm, None);
    let entry = desk.dial_and_get();
    desk.retire(entry);
    while desk.alarm.is_some() {
        desk.next_upkeep();
    }
    assert_eq!(desk.stats().open(), 0);
}

/// Connections may come to rest where the ledger does not see them.
#[test]
fn upkeep_is_ordered_while_anything_is_in_use() {
    let mut desk = Desk::with(Config { max_idle_time: MINUTE, ..timeless() });
    let _held = desk.dial_and_get();
    for _ in 0..3 {
        let before = desk.now;
        desk.next_upkeep();
        assert_eq!(desk.now - before, MINUTE);
    }
}

// ---- min_idle ----------------------------------------------------------------------------------

#[test]
fn min_idle_is_dialed_for_at_once_and_what_is_under_way_is_counted() {
    let mut desk = Desk::with(Config { max_open: 5, min_idle: 3, ..timeless() });
    desk.look();
    assert_eq!(desk.dials.len(), 3);
    desk.look();
    assert_eq!(desk.dials.len(), 3);
    (0..3).for_each(|_| desk.dialed());
    assert_eq!((desk.stats().idle, desk.dials.len()), (3, 0));
    // One that is lent is made good at once, as long as there is room.
    let held: Vec<_> = (0..3).map(|_| desk.get()).collect();
    assert_eq!(desk.dials.len(), 2);
    for entry in held {
        desk.give_back(entry);
    }
    assert_eq!(desk.stats().open(), 5, "BOUND");
}

#[test]
fn a_caller_takes_what_is_dialed_for_min_idle_and_that_is_made_good() {
    let mut desk = Desk::with(Config { max_open: 5, min_idle: 1, ..timeless() });
    desk.look();
    let ticket = desk.queue(1);
    assert_eq!(desk.dials.len(), 2, "one for the caller, one to rest");
    desk.dialed();
    let _held = desk.granted(ticket);
    assert_eq!(desk.dials.len(), 1);
    desk.dialed();
    assert_eq!(desk.stats().idle, 1);
}

/// HEAL-04, NO-DEMAND-NO-DIAL.
#[test]
fn a_server_that_is_away_is_not_dialed_for_min_idle_without_pause() {
    let mut desk = Desk::with(Config { max_open: 5, min_idle: 5, ..timeless() });
    desk.look();
    assert_eq!(desk.dials.len(), 5);
    let began = desk.now;
    let mut attempts = 0;
    while desk.now < began + 5 * MINUTE {
        while !desk.dials.is_empty() {
            desk.refused();
            attempts += 1;
        }
        desk.next_upkeep();
    }
    assert!((30..80).contains(&attempts), "{attempts}");
    // As soon as one succeeds, the others are dialed for at once.
    while desk.dials.is_empty() {
        desk.next_upkeep();
    }
    assert_eq!(desk.dials.len(), 1, "one at a time tries");
    desk.dialed();
    assert_eq!(desk.dials.len(), 4);
}

/// HEAL-04: nobody calls who would find the dial overdue.
#[test]
fn a_dial_for_min_idle_that_hangs_is_followed_by_another() {
    let mut desk = Desk::with(Config { max_open: 2, min_idle: 1, ..timeless() });
    desk.look();
    let hangs = desk.dials.remove(0);
    let mut upkeeps = 0;
    while desk.dials.is_empty() {
        desk.next_upkeep();
        upkeeps += 1;
    }
    let limit = desk.ledger.config().dial_timeout;
    assert_eq!(hangs.deadline, Some(desk.started + limit));
    assert!(desk.now <= desk.started + limit + SECOND, "{:?}", desk.now - desk.started);
    assert!(upkeeps <= 2, "QUIET: upkeep came {upkeeps} times");
}

/// QUIET: what is under way ends by itself.
#[test]
fn upkeep_does_not_come_all_the_time_while_a_second_attempt_is_under_way() {
    let mut desk = Desk::with(Config { max_open: 2, min_idle: 2, ..timeless() });
    desk.look();
    (0..2).for_each(|_| _ = desk.refused());
    while desk.dials.is_empty() {
        desk.next_upkeep();
    }
    let began = desk.now;
    desk.next_upkeep();
    assert_eq!(desk.now - began, desk.ledger.config().dial_timeout);
}

/// LIFE-13.
#[test]
fn whatever_the_limits_no_more_rest_or_are_open_than_they_say() {
    for max_open in [1, 2, u32::MAX] {
        for max_idle in [None, Some(0), Some(1), Some(max_open)] {
            for min_idle in [0, 1, 2, u32::MAX] {
                let config = Config { max_open, max_idle, ..timeless() };
                let most = config.max_idle();
                if min_idle > most || min_idle == u32::MAX {
                    continue;
                }
                let mut desk = Desk::with(Config { min_idle, ..config });
                desk.look();
                let held = desk.dial_and_get();
                desk.give_back(held);
                while !desk.dials.is_empty() {
                    desk.dialed();
                }
                desk.close_all();
                let idle = desk.stats().idle;
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
    let mut desk = Desk::with(config);
    desk.look();
    (0..2).for_each(|_| desk.dialed());
    let mut ended = 0;
    while ended < 20 {
        desk.next_upkeep();
        while !desk.dials.is_empty() {
            desk.dialed();
        }
        assert!(desk.stats().idle >= 2, "capacity never dips: {}", desk.stats());
        ended += desk.closes.len();
        desk.close_all();
    }
    assert!(desk.begun <= 2 + 20 + 1, "{} dials", desk.begun);
}

/// Where every slot is taken there is no room for a successor: the old one ends first.
#[test]
fn a_full_pool_replaces_one_after_the_other() {
    let config = Config { max_open: 2, min_idle: 2, max_lifetime: MINUTE, ..timeless() };
    let mut desk = Desk::with(config);
    desk.look();
    (0..2).for_each(|_| desk.dialed());
    for _ in 0..10 {
        desk.next_upkeep();
        assert!(desk.dials.is_empty(), "BOUND");
        desk.close_all();
        while !desk.dials.is_empty() {
            desk.dialed();
        }
        assert_eq!(desk.stats().idle, 2);
    }
}

#[test]
fn nothing_is_replaced_for_which_there_is_no_demand() {
    let mut desk = Desk::with(Config { max_lifetime: MINUTE, ..timeless() });
    desk.fill(3);
    let begun = desk.begun;
    while desk.alarm.is_some() {
        desk.next_upkeep();
        desk.close_all();
    }
    assert_eq!((desk.stats().open(), desk.begun), (0, begun), "NO-DEMAND-NO-DIAL");
}

/// A life that is shorter than the lead must not make a pool dial without end.
#[test]
fn short_lives_are_no_reason_to_dial_all_the_time() {
    let lifetime = 400 * MILLISECOND;
    let config = Config { max_open: 10, min_idle: 1, max_lifetime: lifetime, ..timeless() };
    let mut desk = Desk::with(config);
    desk.look();
    let began = desk.now;
    while desk.now < began + 40 * SECOND {
        while !desk.dials.is_empty() {
            desk.dialed();
        }
        desk.next_upkeep();
        desk.close_all();
    }
    assert!(desk.begun < 40 * 5, "{} dials in 100 lives", desk.begun);
}

// ---- Checks ------------------------------------------------------------------------------------

#[test]
fn resting_connections_are_checked_in_turn_one_at_a_time() {
    let config = Config { max_open: 5, check_idle_every: MINUTE, ..timeless() };
    let mut desk = Desk::with(config);
    desk.fill(5);
    let rested = desk.now;
    let mut checked = Vec::new();
    while desk.now < rested + 5 * MINUTE {
        desk.next_upkeep();
        while let Some(order) = desk.at_dialer.pop() {
            assert!(desk.at_dialer.is_empty(), "one at a time");
            assert_eq!(order.purpose, Purpose::KeepAlive);
            checked.push(order.entry.connection);
            let orders = desk.ledger.back_from_dialer(order.id, order.entry, None, desk.now);
            desk.lay_out(orders);
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
    let mut desk = Desk::with(config);
    desk.fill(1);
    let rested = desk.now;
    while desk.closes.is_empty() {
        desk.next_upkeep();
        while let Some(order) = desk.at_dialer.pop() {
            let orders = desk.ledger.back_from_dialer(order.id, order.entry, None, desk.now);
            desk.lay_out(orders);
        }
    }
    assert_eq!(desk.closing(), [(1, CloseReason::IdleTooLong)]);
    assert_eq!(desk.now - rested, 3 * MINUTE);
}

/// LIFE-12: the connection that fails is closed, and the next one's turn comes.
#[test]
fn a_check_that_fails_or_hangs_is_the_end_of_that_connection_alone() {
    let config = Config { max_open: 3, check_idle_every: MINUTE, ..timeless() };
    let mut desk = Desk::with(config);
    desk.fill(3);
    desk.now += MINUTE;
    desk.upkeep();
    let failed = desk.at_dialer.remove(0);
    let orders = desk.ledger.back_from_dialer(
        failed.id,
        failed.entry,
        Some(CloseReason::CheckFailed),
        desk.now,
    );
    desk.lay_out(orders);
    assert_eq!(desk.at_dialer.len(), 1, "the next one");
    let _hangs = desk.at_dialer.remove(0);
    desk.now += desk.ledger.config().check_timeout;
    desk.upkeep();
    assert_eq!(desk.at_dialer.len(), 1, "and the next");
    let sound = desk.at_dialer.remove(0);
    let orders = desk.ledger.back_from_dialer(sound.id, sound.entry, None, desk.now);
    desk.lay_out(orders);
    assert_eq!((desk.stats().idle, desk.stats().check_failed_total), (1, 2));
}

/// A caller who finds the only connection being checked waits for that, not for a dial.
#[test]
fn a_caller_counts_on_a_connection_that_is_being_checked() {
    let config = Config { check_idle_every: MINUTE, ..timeless() };
    let mut desk = Desk::with(config);
    desk.fill(1);
    desk.now += MINUTE;
    desk.upkeep();
    let ticket = desk.queue(1);
    assert!(desk.dials.is_empty());
    let order = desk.at_dialer.remove(0);
    let orders = desk.ledger.back_from_dialer(order.id, order.entry, None, desk.now);
    desk.lay_out(orders);
    assert_eq!(desk.granted(ticket).connection, 1);
}

/// LIFE-12: nobody calls, and nothing else is due.
#[test]
fn a_check_that_hangs_holds_up_no_other_although_nobody_calls() {
    let mut desk = Desk::with(Config { max_open: 2, check_idle_every: MINUTE, ..timeless() });
    desk.fill(2);
    desk.next_upkeep();
    let hangs = desk.at_dialer.remove(0);
    while desk.now < hangs.deadline.expect("a check has a limit") {
        desk.next_upkeep();
    }
    assert_eq!((desk.at_dialer.len(), desk.stats().check_failed_total), (1, 1), "the other's turn");
}

// ---- Doubt -------------------------------------------------------------------------------------

#[test]
fn one_broken_connection_puts_all_that_rest_in_doubt() {
    let mut desk = Desk::with(Config { max_open: 4, ..timeless() });
    let (mine, late) = (desk.dial_and_get(), desk.dial_and_get());
    desk.fill(2);
    desk.now += MILLISECOND;
    desk.retire_as(mine, CloseReason::Broken);
    // What comes back later has proved itself by that.
    desk.now += MILLISECOND;
    desk.give_back(late);
    let held = desk.get();
    assert_eq!(held.connection, 2);
    // What has rested since before is checked, however short its rest.
    let ticket = desk.queue(1);
    let order = desk.at_dialer.remove(0);
    assert_eq!(order.purpose, Purpose::Check);
    let orders = desk.ledger.back_from_dialer(order.id, order.entry, None, desk.now);
    desk.lay_out(orders);
    let proven = desk.granted(ticket);
    desk.give_back(proven);
    assert!(matches!(desk.request(0, None), Request::Granted(..)), "proven again");
}

#[test]
fn a_failed_check_puts_the_others_in_doubt_and_a_discard_does_not() {
    let config = Config { check_after: SECOND, ..timeless() };
    let mut desk = Desk::with(Config { max_open: 4, ..config });
    let mine = desk.dial_and_get();
    desk.fill(2);
    desk.retire_as(mine, CloseReason::Discarded);
    let entry = desk.get();
    desk.give_back(entry);

    let held = desk.get();
    desk.now += 2 * SECOND;
    desk.give_back(held);
    let held = desk.get();
    let ticket = desk.queue(1);
    let stale = desk.at_dialer.remove(0);
    desk.give_back(held);
    let held = desk.granted(ticket);
    desk.give_back(held);
    desk.now += MILLISECOND;
    let orders = desk.ledger.back_from_dialer(
        stale.id,
        stale.entry,
        Some(CloseReason::CheckFailed),
        desk.now,
    );
    desk.lay_out(orders);
    assert!(matches!(desk.request(0, None), Request::Queued(_)));
    assert_eq!(desk.at_dialer.len(), 1, "the other one is checked, fresh as it is");
}
