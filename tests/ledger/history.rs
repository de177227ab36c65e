//! Random histories: the promises hold after each event, in any order of events.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::config::{Backoff, Breaker, Config, DialRule, IdleOrder, OnDialFailure};
use crate::world::{Hangs, World};

/// One event. A `usize` picks its object among those that qualify; if none does, nothing happens.
#[derive(Clone, Debug)]
enum Event {
    Request(Option<Duration>),
    TryRequest,
    Collect(usize),
    Leave(usize),
    Cancel(usize),
    Tick,
    Upkeep,
    Dialed(usize),
    DialFailed(usize),
    DialPanicked(usize),
    GiveBack(usize),
    SetAsideForReset(usize),
    Back(usize, bool),
    Retire(usize),
    Break(usize),
    Rejoin(usize),
    Detach(usize),
    Closed(usize),
    WarmUp(u32, Option<Duration>),
    CloseIdle,
    Flush,
    RetireWhere,
    Suspend,
    Resume,
    Reconfigure(Change),
    Close,
    Drain(Option<Duration>),
    Wait(Duration),
}

#[derive(Clone, Debug)]
enum Change {
    MaxOpen(u32),
    MaxIdle(Option<u32>),
    MaxDialing(Option<u32>),
    MaxWaiting(Option<u32>),
    MinIdle(u32),
    MaxUses(Option<u32>),
    IdleOrder(IdleOrder),
    MaxLifetime(Duration),
    LifetimeJitter(Option<Duration>),
    MaxIdleTime(Duration),
    PruneEvery(Duration),
    CheckIdleEvery(Duration),
    OnDialFailure(OnDialFailure),
    Breaker(Option<Breaker>),
    DialTimeout(Duration),
    CheckAfter(Duration),
    CheckTimeout(Duration),
    CloseTimeout(Duration),
}

const KINDS: usize = 28;

impl Event {
    fn kind(&self) -> usize {
        match self {
            Self::Request(_) => 0,
            Self::TryRequest => 1,
            Self::Collect(_) => 2,
            Self::Leave(_) => 3,
            Self::Tick => 4,
            Self::Dialed(_) => 5,
            Self::DialFailed(_) => 6,
            Self::DialPanicked(_) => 7,
            Self::GiveBack(_) => 8,
            Self::SetAsideForReset(_) => 9,
            Self::Back(..) => 10,
            Self::Retire(_) => 11,
            Self::Break(_) => 12,
            Self::Rejoin(_) => 13,
            Self::Detach(_) => 14,
            Self::Closed(_) => 15,
            Self::WarmUp(..) => 16,
            Self::Flush => 17,
            Self::Reconfigure(_) => 18,
            Self::Close => 19,
            Self::Drain(_) => 20,
            Self::Wait(_) => 21,
            Self::RetireWhere => 22,
            Self::Suspend => 23,
            Self::Resume => 24,
            Self::Cancel(_) => 25,
            Self::Upkeep => 26,
            Self::CloseIdle => 27,
        }
    }

    fn happen(self, world: &mut World, behind: Duration) {
        match self {
            Self::Request(patience) => world.request(patience, behind),
            Self::TryRequest => world.try_request(behind),
            Self::Collect(pick) => world.collect(pick),
            Self::Leave(pick) => world.leave(pick),
            Self::Cancel(pick) => world.cancel(pick, behind),
            Self::Tick => world.tick(behind),
            Self::Upkeep => world.upkeep(behind),
            Self::Dialed(pick) => world.dialed(pick, behind),
            Self::DialFailed(pick) => world.dial_failed(pick, false, behind),
            Self::DialPanicked(pick) => world.dial_failed(pick, true, behind),
            Self::GiveBack(pick) => world.give_back(pick, behind),
            Self::SetAsideForReset(pick) => world.give_back_for_reset(pick, behind),
            Self::Back(pick, sound) => world.back(pick, sound, behind),
            Self::Retire(pick) => world.retire(pick, false, behind),
            Self::Break(pick) => world.retire(pick, true, behind),
            Self::Rejoin(pick) => world.rejoin(pick, behind),
            Self::Detach(pick) => world.detach(pick, behind),
            Self::Closed(pick) => world.closed(pick, behind),
            Self::WarmUp(target, patience) => world.warm_up(target, patience, behind),
            Self::CloseIdle => world.close_unused(behind),
            Self::Flush => world.flush(behind),
            Self::RetireWhere => world.retire_where(behind),
            Self::Suspend => world.suspend(behind),
            Self::Resume => world.resume(behind),
            Self::Reconfigure(change) => world.reconfigure(|config| change.make(config), behind),
            Self::Close => world.close(behind),
            Self::Drain(patience) => world.drain(patience, behind),
            Self::Wait(time) => world.wait(time),
        }
    }
}

impl Change {
    fn make(self, config: &mut Config) {
        match self {
            Self::MaxOpen(most) => config.max_open = most,
            Self::MaxIdle(most) => config.max_idle = most,
            Self::MaxDialing(most) => config.max_dialing = most,
            Self::MaxWaiting(most) => config.max_waiting = most,
            Self::MinIdle(least) => config.min_idle = least,
            Self::MaxUses(most) => config.max_uses = most,
            Self::IdleOrder(order) => config.idle_order = order,
            Self::MaxLifetime(limit) => config.max_lifetime = limit,
            Self::LifetimeJitter(jitter) => config.lifetime_jitter = jitter,
            Self::MaxIdleTime(limit) => config.max_idle_time = limit,
            Self::PruneEvery(pause) => config.prune_every = pause,
            Self::CheckIdleEvery(limit) => config.check_idle_every = limit,
            Self::OnDialFailure(then) => config.on_dial_failure = then,
            Self::Breaker(breaker) => config.breaker = breaker.into(),
            Self::DialTimeout(limit) => config.dial_timeout = limit,
            Self::CheckAfter(limit) => config.check_after = limit,
            Self::CheckTimeout(limit) => config.check_timeout = limit,
            Self::CloseTimeout(limit) => config.close_timeout = limit,
        }
    }
}

/// From zero to beyond every time limit, and for ever.
pub(crate) fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::from_millis(1)),
        Just(Duration::from_millis(20)),
        Just(Duration::from_millis(600)),
        Just(Duration::from_secs(6)),
        Just(Duration::from_secs(40)),
        Just(Duration::MAX),
    ]
}

pub(crate) fn passing_time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => Just(Duration::from_millis(1)),
        3 => Just(Duration::from_millis(30)),
        2 => Just(Duration::from_millis(700)),
        1 => Just(Duration::from_secs(7)),
        1 => Just(Duration::from_secs(60)),
    ]
}

pub(crate) fn patience() -> impl Strategy<Value = Option<Duration>> {
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

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1..5u32).prop_map(Change::MaxOpen),
        1 => (0..5u32).prop_map(Some).prop_map(Change::MaxIdle),
        1 => prop::option::of(1..4u32).prop_map(Change::MaxDialing),
        1 => prop::option::of(0..3u32).prop_map(Change::MaxWaiting),
        1 => (0..4u32).prop_map(Change::MinIdle),
        1 => max_uses().prop_map(Change::MaxUses),
        1 => idle_order().prop_map(Change::IdleOrder),
        1 => span().prop_map(Change::MaxLifetime),
        1 => prop::option::of(span()).prop_map(Change::LifetimeJitter),
        1 => span().prop_map(Change::MaxIdleTime),
        1 => prune_every().prop_map(Change::PruneEvery),
        1 => span().prop_map(Change::CheckIdleEvery),
        1 => on_dial_failure().prop_map(Change::OnDialFailure),
        1 => breaker().prop_map(Change::Breaker),
        1 => span().prop_map(Change::DialTimeout),
        1 => span().prop_map(Change::CheckAfter),
        1 => span().prop_map(Change::CheckTimeout),
        1 => span().prop_map(Change::CloseTimeout),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let pick = || 0..8usize;
    prop_oneof![
        6 => patience().prop_map(Event::Request),
        1 => Just(Event::TryRequest),
        9 => pick().prop_map(Event::Collect),
        2 => pick().prop_map(Event::Leave),
        2 => pick().prop_map(Event::Cancel),
        1 => Just(Event::Tick),
        1 => Just(Event::Upkeep),
        6 => pick().prop_map(Event::Dialed),
        3 => pick().prop_map(Event::DialFailed),
        1 => pick().prop_map(Event::DialPanicked),
        5 => pick().prop_map(Event::GiveBack),
        2 => pick().prop_map(Event::SetAsideForReset),
        3 => (pick(), any::<bool>()).prop_map(|(pick, sound)| Event::Back(pick, sound)),
        2 => pick().prop_map(Event::Retire),
        2 => pick().prop_map(Event::Break),
        2 => pick().prop_map(Event::Rejoin),
        1 => pick().prop_map(Event::Detach),
        4 => pick().prop_map(Event::Closed),
        1 => (0..5u32, patience()).prop_map(|(n, patience)| Event::WarmUp(n, patience)),
        1 => Just(Event::CloseIdle),
        1 => Just(Event::Flush),
        2 => Just(Event::RetireWhere),
        1 => Just(Event::Suspend),
        2 => Just(Event::Resume),
        2 => change().prop_map(Event::Reconfigure),
        1 => Just(Event::Close),
        1 => patience().prop_map(Event::Drain),
        4 => passing_time().prop_map(Event::Wait),
    ]
}

pub(crate) fn config() -> impl Strategy<Value = Config> {
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

/// In some histories every call of the dialer returns; in others some do not.
fn hangs() -> impl Strategy<Value = Hangs> {
    let pattern = || prop_oneof![3 => Just(0), 1 => any::<u64>().prop_map(|bits| bits & bits << 1)];
    (pattern(), pattern(), pattern(), any::<bool>())
        .prop_map(|(dials, at_dialer, closes, upkeep)| Hangs { dials, at_dialer, closes, upkeep })
}

/// How likely each kind of event is in one history. Some kinds never happen in it, so that others meet in
/// combinations that would otherwise be rare.
fn weights() -> impl Strategy<Value = [u8; KINDS]> {
    let weight = prop_oneof![1 => Just(0), 1 => Just(80), 4 => Just(255)];
    vec(weight, KINDS).prop_map(|weights| {
        let mut weights: [u8; KINDS] = weights.try_into().expect("one weight for each kind");
        weights[0] = weights[0].max(80);
        weights
    })
}

/// An event, the number that decides whether it happens, and how far its clock is behind.
fn throw() -> impl Strategy<Value = (Event, u8, Duration)> {
    let behind = prop_oneof![6 => Just(0), 1 => 1..4u64].prop_map(Duration::from_millis);
    (event(), 0..255u8, behind)
}

proptest! {
    /// In any order of events the numbers add up and the promises hold. Once everyone has finished, nobody
    /// is left waiting and nothing is left open.
    #[test]
    fn any_history_balances_and_drains(
        config in config(),
        hangs in hangs(),
        weights in weights(),
        history in vec(throw(), 0..120),
        refuses in any::<bool>(),
    ) {
        let mut world = World::new(config, hangs);
        for (event, dice, behind) in history {
            if dice < weights[event.kind()] {
                event.happen(&mut world, behind);
            }
        }
        world.finish(refuses);
    }
}
