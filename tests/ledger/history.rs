//! Random histories of one pool and of several keys under one budget: the promises hold after each event, and
//! in the end nobody is left waiting and nothing is left open.

use std::fmt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::config::{Backoff, Breaker, BreakerChoice, Config, DialRule, IdleOrder, OnDialFailure};
use crate::pools::{Delivery, Pools, Setting};

type Happen = fn(&mut Pools, &Event);

/// The kinds of events: their frequencies in histories of one pool and of keys, and what happens.
const KINDS: [(&str, [usize; 2], Happen); 31] = [
    ("request", [6, 12], |pools, it| pools.request(it.key, it.patience)),
    ("try request", [1, 1], |pools, it| pools.try_request(it.key)),
    ("collect", [10, 6], |pools, it| pools.collect(it.pick)),
    ("cancel", [2, 1], |pools, it| pools.cancel(it.pick)),
    ("rejoin", [2, 2], |pools, it| pools.rejoin(it.pick)),
    ("warm up", [1, 1], |pools, it| pools.warm_up(it.key, it.count, it.patience)),
    ("dialed", [6, 8], |pools, it| pools.dialed(it.pick)),
    ("dial failed", [3, 2], |pools, it| pools.dial_failed(it.pick, false)),
    ("dial panicked", [1, 0], |pools, it| pools.dial_failed(it.pick, true)),
    ("give back", [5, 10], |pools, it| pools.give_back(it.pick)),
    ("give back for reset", [2, 0], |pools, it| pools.give_back_for_reset(it.pick)),
    ("discard", [2, 2], |pools, it| pools.retire(it.pick, false)),
    ("break", [2, 2], |pools, it| pools.retire(it.pick, true)),
    ("detach", [1, 1], |pools, it| pools.detach(it.pick)),
    ("back", [3, 3], |pools, it| pools.back(it.pick, it.is_sound)),
    ("closed", [4, 6], |pools, it| pools.closed(it.pick)),
    ("look", [1, 1], |pools, it| pools.tick(it.key)),
    ("upkeep", [1, 0], |pools, it| pools.upkeep(it.key)),
    ("close idle", [1, 0], |pools, it| pools.close_idle(it.key)),
    ("flush", [1, 1], |pools, it| pools.flush(it.key)),
    ("retire where", [2, 0], |pools, it| pools.retire_where(it.key)),
    ("suspend", [1, 0], |pools, it| pools.suspend(it.key, true)),
    ("resume", [2, 0], |pools, it| pools.suspend(it.key, false)),
    ("reconfigure", [3, 0], |pools, it| {
        pools.reconfigure(it.key, |own, others| change(own, &others[it.pick % 3], it.field))
    }),
    ("close", [1, 0], |pools, _| pools.close()),
    ("drain", [1, 0], |pools, it| pools.drain(it.key, it.patience)),
    ("resize", [0, 2], |pools, it| pools.resize(it.count.max(1))),
    ("allow", [0, 3], |pools, it| pools.allow(it.count, it.patience)),
    ("deliver", [0, 6], |pools, it| pools.deliver(it.pick)),
    ("vacate", [0, 2], |pools, it| pools.close_if_vacant(it.pick)),
    ("wait", [4, 6], |pools, it| pools.wait(it.time)),
];

/// One of `KINDS`.
#[derive(Clone, Copy)]
struct Kind(usize);

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KINDS[self.0].0)
    }
}

/// One event. A `pick` picks its object among those that qualify; if none does, nothing happens.
#[derive(Clone, Copy, Debug)]
struct Event {
    kind: Kind,
    key: usize,
    pick: usize,
    count: u32,
    patience: Option<Duration>,
    time: Duration,
    field: usize,
    is_sound: bool,
    /// The event happens if its kind has at least this weight, of 255, in the history.
    dice: u8,
    behind: Duration,
}

/// Takes one setting over from `other`.
fn change(own: &mut Config, other: &Config, field: usize) {
    match field {
        0 => own.max_idle = other.max_idle,
        1 => own.max_dialing = other.max_dialing,
        2 => own.max_waiting = other.max_waiting,
        3 => own.min_idle = other.min_idle,
        4 => own.max_uses = other.max_uses,
        5 => own.idle_order = other.idle_order,
        6 => own.max_lifetime = other.max_lifetime,
        7 => own.lifetime_jitter = other.lifetime_jitter,
        8 => own.max_idle_time = other.max_idle_time,
        9 => own.prune_every = other.prune_every,
        10 => own.check_idle_every = other.check_idle_every,
        11 => own.on_dial_failure = other.on_dial_failure,
        12 => own.breaker = other.breaker,
        13 => own.dial_timeout = other.dial_timeout,
        14 => own.check_after = other.check_after,
        15 => own.check_timeout = other.check_timeout,
        16 => own.close_timeout = other.close_timeout,
        _ => own.max_open = other.max_open,
    }
}

/// From zero to beyond every time limit, and for ever.
fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::from_millis(1)),
        Just(Duration::from_millis(20)),
        Just(Duration::from_millis(600)),
        Just(Duration::from_secs(6)),
        Just(Duration::from_secs(40)),
        Just(Duration::MAX),
    ]
}

fn passing_time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => Just(Duration::from_millis(1)),
        3 => Just(Duration::from_millis(30)),
        2 => Just(Duration::from_millis(700)),
        1 => Just(Duration::from_secs(7)),
        1 => Just(Duration::from_secs(60)),
    ]
}

fn patience() -> impl Strategy<Value = Option<Duration>> {
    prop_oneof![Just(None), Just(Some(Duration::ZERO)), span().prop_map(Some)]
}

fn on_dial_failure() -> impl Strategy<Value = OnDialFailure> {
    prop_oneof![
        2 => Just(OnDialFailure::AwaitReturn),
        1 => Just(OnDialFailure::Fail),
        2 => (passing_time(), passing_time()).prop_map(|(first, most)| OnDialFailure::Retry(Backoff::new(first, most))),
    ]
}

fn breaker() -> impl Strategy<Value = Option<Breaker>> {
    prop::option::weighted(0.4, (1..4u32, span()).prop_map(|(n, every)| Breaker::new(n, every)))
}

fn max_uses() -> impl Strategy<Value = Option<u32>> {
    prop::option::weighted(0.3, 1..4u32)
}

fn idle_order() -> impl Strategy<Value = IdleOrder> {
    prop_oneof![2 => Just(IdleOrder::Lifo), 1 => Just(IdleOrder::Fifo)]
}

fn prune_every() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), span()]
}

/// Without end in half of the histories.
fn age() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::MAX), span()]
}

fn config() -> impl Strategy<Value = Config> {
    let counts = (
        1..5u32,
        prop::option::of(0..4u32),
        prop::option::of(1..4u32),
        prop::option::weighted(0.3, 0..3u32),
    );
    let limits = (span(), prop_oneof![Just(Duration::ZERO), span()], span(), span());
    let upkeep = (prop_oneof![Just(0), 1..4u32], prop::option::of(span()), age(), age(), age());
    let outages = (on_dial_failure(), breaker());
    let lending = (max_uses(), idle_order(), prune_every());
    // Boxed: the stack of a test has no room for all that proptest makes of them.
    let (limits, upkeep, outages) = (limits.boxed(), upkeep.boxed(), outages.boxed());
    (counts, limits, upkeep, outages, lending).prop_map(
        |(counts, limits, upkeep, outages, lending)| {
            let (max_uses, idle_order, prune_every) = lending;
            let (max_open, max_idle, max_dialing, max_waiting) = counts;
            let (dial_timeout, check_after, check_timeout, close_timeout) = limits;
            let (min_idle, lifetime_jitter, max_lifetime, max_idle_time, check_idle_every) = upkeep;
            let (on_dial_failure, breaker) = outages;
            Config {
                max_open,
                max_idle,
                max_dialing,
                max_waiting,
                // The World dials and hands over without delay: `tests/dial_rule` and
                // the models of the places cover the rest.
                dial_rule: DialRule::Eager,
                bypass: Duration::ZERO,
                min_idle,
                max_uses,
                idle_order,
                max_lifetime,
                lifetime_jitter,
                max_idle_time,
                prune_every,
                leak_after: Duration::MAX,
                check_idle_every,
                on_dial_failure,
                breaker: breaker.into(),
                get_timeout: Duration::MAX,
                dial_timeout,
                check_after,
                check_timeout,
                close_timeout,
                retire_on_panic: true,
            }
        },
    )
}

fn event(of_keys: bool) -> impl Strategy<Value = Event> {
    let often = |kind: usize| KINDS[kind].1[usize::from(of_keys)];
    let kinds = (0..KINDS.len()).flat_map(|kind| std::iter::repeat_n(Kind(kind), often(kind)));
    let kind = prop::sample::select(kinds.collect::<Vec<_>>());
    let whom = (0..5usize, 0..8usize, 0..7u32);
    let when = (patience(), passing_time(), prop_oneof![6 => Just(0), 1 => 1..4u64]);
    (kind, whom, when, 0..21usize, any::<bool>(), 0..255u8).prop_map(
        |(kind, (key, pick, count), (patience, time, behind), field, is_sound, dice)| {
            let behind = Duration::from_millis(behind);
            Event { kind, key, pick, count, patience, time, field, is_sound, dice, behind }
        },
    )
}

/// How likely each kind of event is in one history. Some kinds never happen in it, so that others meet in
/// combinations that would otherwise be rare.
fn weights() -> impl Strategy<Value = [u8; KINDS.len()]> {
    let weight = prop_oneof![1 => Just(0), 1 => Just(80), 4 => Just(255)];
    vec(weight, KINDS.len()).prop_map(|weights| {
        let mut weights: [u8; KINDS.len()] = weights.try_into().expect("one for each kind");
        weights[0] = weights[0].max(80);
        weights
    })
}

/// Settings under which Pools can tell what each member lacks.
fn plain(config: Config) -> Config {
    let on_dial_failure = match config.on_dial_failure {
        OnDialFailure::Retry(_) => OnDialFailure::AwaitReturn,
        other => other,
    };
    Config {
        min_idle: 0,
        max_lifetime: Duration::MAX,
        // A connection that has been idle for too long may be the one that was to make room.
        max_idle_time: Duration::MAX,
        check_idle_every: Duration::MAX,
        on_dial_failure,
        breaker: BreakerChoice::Off,
        dial_timeout: Duration::MAX,
        check_timeout: Duration::MAX,
        close_timeout: Duration::MAX,
        ..config
    }
}

fn setting_of_keys(delivery: Delivery) -> impl Strategy<Value = Setting> {
    let each = (config(), any::<bool>(), any::<bool>()).prop_map(move |(config, waits, passes)| {
        match delivery {
            Delivery::AtOnce => plain(config),
            _ => Config {
                min_idle: 0,
                dial_rule: if waits { DialRule::Adaptive } else { DialRule::Eager },
                bypass: if passes { Config::default().bypass } else { Duration::ZERO },
                ..config
            },
        }
    });
    let totals = (1..7u32, prop::option::of(0..4u32));
    (3..6usize, each, totals, 0..4usize).prop_map(move |(keys, each, totals, places)| {
        let (max_open_total, max_idle_total) = totals;
        let mut each = each;
        if delivery == Delivery::AtOnce && max_idle_total.is_some() {
            // A connection that a key closes by its own bound may have counted towards the common one.
            each.max_idle = None;
        }
        let places = places.min(each.max_idle() as usize);
        let (others, has_upkeep) = ([each; 3], true);
        Setting { keys, each, others, max_open_total, max_idle_total, places, delivery, has_upkeep }
    })
}

/// Connections are laid out in some histories. In some upkeep never comes by its alarm.
fn setting_of_one() -> impl Strategy<Value = Setting> {
    let places = prop_oneof![Just(0), 0..4usize];
    let others = [config(), config(), config()];
    (config(), others, places, any::<bool>()).prop_map(|(each, others, places, has_upkeep)| {
        Setting {
            keys: 1,
            each,
            others,
            max_open_total: u32::MAX,
            max_idle_total: None,
            places,
            delivery: Delivery::Alone,
            has_upkeep,
        }
    })
}

fn live_through(
    setting: Setting,
    weights: [u8; KINDS.len()],
    history: Vec<Event>,
    (refuses, closes): (bool, bool),
) {
    let mut pools = Pools::new(setting);
    for event in history {
        let event = Event { key: event.key % setting.keys, ..event };
        if event.dice < weights[event.kind.0] {
            pools.step(event.behind, |pools| KINDS[event.kind.0].2(pools, &event));
        }
    }
    pools.finish(refuses, closes);
}

proptest! {
    /// One pool without a budget, with all that may happen to it.
    #[test]
    fn in_any_history_of_one_pool_the_promises_hold_and_it_drains(
        setting in setting_of_one(),
        weights in weights(),
        history in vec(event(false), 0..120),
        end in any::<(bool, bool)>(),
    ) {
        live_through(setting, weights, history, end);
    }

    /// Orders are delivered at once: then it is known who is granted a slot, and whose connection is
    /// closed for it.
    #[test]
    fn in_any_history_slots_go_to_the_longest_waiting_and_the_coldest_connections_make_room(
        setting in setting_of_keys(Delivery::AtOnce),
        weights in weights(),
        history in vec(event(true), 0..150),
        end in any::<(bool, bool)>(),
    ) {
        live_through(setting, weights, history, end);
    }

    /// Orders may be late, cross each other as between threads, and find their member gone.
    #[test]
    fn in_any_history_of_keys_no_slot_is_lost_and_nobody_is_left_waiting(
        setting in setting_of_keys(Delivery::Late),
        weights in weights(),
        history in vec(event(true), 0..150),
        end in any::<(bool, bool)>(),
    ) {
        live_through(setting, weights, history, end);
    }
}
