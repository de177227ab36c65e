//! Random histories of several keys under one budget: the promises among keys hold after each event, and
//! in the end nothing is left of any key.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::config::{BreakerChoice, Config, DialRule, OnDialFailure};
use crate::history::{config, passing_time, patience};
use crate::keys::{Delivery, Keys, Setting};

/// The kinds of events, with their frequencies.
const KINDS: [(Kind, usize); 21] = [
    (Kind::Request, 12),
    (Kind::TryRequest, 1),
    (Kind::Collect, 6),
    (Kind::Cancel, 1),
    (Kind::Rejoin, 2),
    (Kind::WarmUp, 1),
    (Kind::Dialed, 8),
    (Kind::DialFailed, 2),
    (Kind::GiveBack, 10),
    (Kind::Discard, 2),
    (Kind::Break, 2),
    (Kind::Detach, 1),
    (Kind::Back, 3),
    (Kind::Closed, 6),
    (Kind::Look, 1),
    (Kind::Flush, 1),
    (Kind::Resize, 2),
    (Kind::Allow, 3),
    (Kind::Deliver, 6),
    (Kind::Vacate, 2),
    (Kind::Wait, 6),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    TryRequest,
    Collect,
    Cancel,
    Rejoin,
    WarmUp,
    Dialed,
    DialFailed,
    GiveBack,
    Discard,
    Break,
    Detach,
    Back,
    Closed,
    Look,
    Flush,
    Resize,
    Allow,
    Deliver,
    Vacate,
    Wait,
}

/// One event. A `usize` picks its object among those that qualify; if none does, nothing happens.
#[derive(Clone, Debug)]
struct Event {
    kind: Kind,
    key: usize,
    pick: usize,
    count: u32,
    patience: Option<Duration>,
    time: Duration,
    is_sound: bool,
    /// The event happens if its kind has at least this weight, of 255, in the history.
    dice: u8,
    behind: Duration,
}

impl Event {
    fn happen(&self, keys: &mut Keys, setting: &Setting) {
        let Self { pick, count, patience, is_sound, .. } = *self;
        let key = self.key % setting.keys;
        keys.step(self.behind, |keys| match self.kind {
            Kind::Request => keys.request(key, patience),
            Kind::TryRequest => keys.try_request(key),
            Kind::Collect => keys.collect(pick),
            Kind::Cancel => keys.cancel(pick),
            Kind::Rejoin => keys.rejoin(pick),
            Kind::WarmUp => keys.warm_up(key, count, patience),
            Kind::Dialed => keys.dialed(pick),
            Kind::DialFailed => keys.dial_failed(pick),
            Kind::GiveBack => keys.give_back(pick),
            Kind::Discard => keys.retire(pick, false),
            Kind::Break => keys.retire(pick, true),
            Kind::Detach => keys.detach(pick),
            Kind::Back => keys.back(pick, is_sound),
            Kind::Closed => keys.closed(pick),
            Kind::Look => keys.tick(key),
            Kind::Flush => keys.flush(key),
            Kind::Resize => keys.resize(count.max(1)),
            // A lease that ends closes what was to make room, so Keys could not tell who is next.
            Kind::Allow => keys.allow(count, patience.filter(|_| !setting.is_prompt())),
            Kind::Deliver => keys.deliver(pick),
            Kind::Vacate => keys.close_if_vacant(pick),
            Kind::Wait => keys.wait(self.time),
        });
    }
}

fn event() -> impl Strategy<Value = Event> {
    let kinds = KINDS.iter().flat_map(|(kind, often)| std::iter::repeat_n(*kind, *often));
    let kind = prop::sample::select(kinds.collect::<Vec<_>>());
    let whom = (0..5usize, 0..8usize, 0..7u32);
    let when = (patience(), passing_time(), prop_oneof![6 => Just(0), 1 => 1..4u64]);
    (kind, whom, when, any::<bool>(), 0..255u8).prop_map(|(kind, whom, when, is_sound, dice)| {
        let ((key, pick, count), (patience, time, behind)) = (whom, when);
        let behind = Duration::from_millis(behind);
        Event { kind, key, pick, count, patience, time, is_sound, dice, behind }
    })
}

/// How likely each kind of event is in one history: see `history`.
fn weights() -> impl Strategy<Value = [u8; KINDS.len()]> {
    let weight = prop_oneof![1 => Just(0), 1 => Just(80), 4 => Just(255)];
    vec(weight, KINDS.len()).prop_map(|weights| {
        let mut weights: [u8; KINDS.len()] = weights.try_into().expect("one for each kind");
        weights[0] = weights[0].max(80);
        weights
    })
}

/// Settings under which Keys can tell what each member lacks.
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

fn setting(delivery: Delivery) -> impl Strategy<Value = Setting> {
    let each = (config(), any::<bool>(), any::<bool>()).prop_map(move |(config, waits, passes)| {
        match delivery {
            Delivery::AtOnce => plain(config),
            Delivery::Late => Config {
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
        Setting { keys, each, max_open_total, max_idle_total, places, delivery }
    })
}

fn live_through(
    setting: Setting,
    weights: [u8; KINDS.len()],
    history: &[Event],
    (refuses, closes): (bool, bool),
) {
    let mut keys = Keys::new(setting);
    for event in history {
        let kind = KINDS.iter().position(|(kind, _)| *kind == event.kind).expect("it is one");
        if event.dice < weights[kind] {
            event.happen(&mut keys, &setting);
        }
    }
    keys.finish(refuses, closes);
}

proptest! {
    /// Orders are delivered at once: then it is known who is granted a slot, and whose connection is
    /// closed for it.
    #[test]
    fn in_any_history_slots_go_to_the_longest_waiting_and_the_coldest_connections_make_room(
        setting in setting(Delivery::AtOnce),
        weights in weights(),
        history in vec(event(), 0..150),
        end in any::<(bool, bool)>(),
    ) {
        live_through(setting, weights, &history, end);
    }

    /// Orders may be late, cross each other as between threads, and find their member gone.
    #[test]
    fn in_any_history_of_keys_no_slot_is_lost_and_nobody_is_left_waiting(
        setting in setting(Delivery::Late),
        weights in weights(),
        history in vec(event(), 0..150),
        end in any::<(bool, bool)>(),
    ) {
        live_through(setting, weights, &history, end);
    }
}
