//! The keeper's thread, with stores and servers that do as each test says.

use std::convert::Infallible;
use std::panic::{panic_any, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;
use latebind::dialers::{FnDialer, dialer_fn};
use latebind_fleet::{Answer, Ask, Failure, Fleet, FleetError, HolderId, Server, Store, Terms};

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: u32 = 2;

/// Answers each question by a closure.
struct By<F>(F);

impl<F: FnMut(&Ask) -> Result<Answer, Failure> + Send + 'static> Store for By<F> {
    fn open(&mut self, _: &str, _: Terms) {}

    fn ask(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        (self.0)(ask)
    }

    fn leave(&mut self, _: HolderId, _: u64) -> Result<(), Failure> {
        Ok(())
    }
}

/// All slots, without an end.
fn granted() -> Answer {
    let (slots, keep) = (LIMIT, LIMIT);
    Answer { number: 1, slots, keep, is_scarce: false, lasts: None, lapsed: Vec::new() }
}

type Connections = FnDialer<(), Infallible>;

fn pool(fleet: &Fleet) -> Pool<Connections> {
    let builder = Pool::builder(dialer_fn(|_| Ok(()))).quota(fleet.quota());
    builder.get_timeout(PATIENCE).build().unwrap()
}

#[track_caller]
fn await_that(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn spans_beyond_their_bounds_are_named_with_the_bound() {
    let most = Duration::from_secs(24 * 60 * 60);
    let start = |lease, margin, settle| {
        let builder = Fleet::builder("bounds", LIMIT).lease(lease).margin(margin).settle(settle);
        builder.start(By(|_: &Ask| Ok(granted()))).map(drop)
    };
    let short = |lease, margin, least| Err(FleetError::LeaseTooShort { lease, margin, least });
    let long = |setting| Err(FleetError::TooLong { setting, span: Duration::MAX, most });
    let (zero, ms) = (Duration::ZERO, Duration::from_millis);

    assert_eq!(start(zero, zero, zero), short(zero, zero, ms(1)));
    assert_eq!(start(ms(900), ms(500), zero), short(ms(900), ms(500), ms(1000)));
    assert_eq!(start(most, Duration::MAX, zero), long("margin"));
    assert_eq!(start(Duration::MAX, zero, zero), long("lease"));
    assert_eq!(start(most, zero, Duration::MAX), long("settle"));
    assert_eq!(start(ms(1), zero, zero), Ok(()));
    assert_eq!(start(most, most / 2, most), Ok(()));
    let text = short(ms(900), ms(500), ms(1000)).unwrap_err().to_string();
    assert!(text.contains("900ms") && text.contains("1s"), "{text}");
}

#[test]
fn a_lease_may_last_beyond_the_clock() {
    let store = By(|_: &Ask| Ok(Answer { lasts: Some(Duration::MAX), ..granted() }));
    let fleet = Fleet::builder("long", LIMIT).margin(Duration::ZERO).start(store).unwrap();
    drop(pool(&fleet).get().unwrap());
    assert_eq!(fleet.status().failure, None);
}

/// FLEET-03: the drop neither leaves the pool what it had nor waits for ever.
#[test]
fn a_fleet_that_is_dropped_while_its_store_hangs_allows_nothing_more() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (is_asked, asked) = channel();
    let (release, released) = channel::<()>();
    let store = {
        let hangs = Arc::clone(&hangs);
        By(move |_: &Ask| {
            if hangs.load(SeqCst) {
                let _ = is_asked.send(());
                let _ = released.recv();
            }
            Ok(granted())
        })
    };
    let fleet = Fleet::builder("hangs", LIMIT).start(store).unwrap();
    let pool = pool(&fleet);
    drop(pool.get().unwrap());
    hangs.store(true, SeqCst);
    asked.recv_timeout(PATIENCE).unwrap();
    drop(pool.try_get().expect("it rests in the pool"));
    let (tell, told) = channel();
    let dropping = thread::spawn(move || {
        drop(fleet);
        tell.send(()).unwrap();
    });
    await_that("nothing is lent", || pool.try_get().is_err());
    assert_eq!(told.try_recv(), Err(TryRecvError::Empty), "the drop has waited first");
    told.recv_timeout(PATIENCE).expect("the drop does not wait for ever");
    dropping.join().unwrap();
    drop(release);
}

/// A store that grants, and panics while `panics` says so.
fn panicking(panics: &Arc<AtomicBool>, panic: fn() -> !) -> impl Store + 'static {
    let panics = Arc::clone(panics);
    By(move |_: &Ask| if panics.load(SeqCst) { panic() } else { Ok(granted()) })
}

/// FLEET-04: what is open counts, and nothing is added until the store answers again.
#[test]
fn a_panic_of_the_store_is_a_question_that_has_failed() {
    let panics = Arc::new(AtomicBool::new(false));
    let store = panicking(&panics, || resume_unwind(Box::new("out of sorts")));
    let fleet = Fleet::builder("panics", LIMIT).start(store).unwrap();
    let pool = pool(&fleet);
    let kept = pool.get().unwrap();
    panics.store(true, SeqCst);
    let says = |text: &str| fleet.status().failure.is_some_and(|failure| failure.contains(text));
    await_that("it is told", || says("out of sorts"));
    await_that("nothing is added", || fleet.status().allowed == 1);
    assert!(pool.try_get().is_err());
    panics.store(false, SeqCst);
    drop(pool.get().expect("the store answers again"));
    await_that("it is well", || fleet.status().failure.is_none());
    drop(kept);
}

/// Panics when it is first asked, counts nothing, and panics at each end.
struct Shaky {
    is_new: bool,
}

impl Server for Shaky {
    fn open(&mut self, _: &str) {}

    fn sessions(&mut self) -> Result<Vec<(HolderId, u32)>, Failure> {
        if std::mem::take(&mut self.is_new) {
            resume_unwind(Box::new("the first count".to_owned()));
        }
        Ok(Vec::new())
    }

    fn end(&mut self, _: HolderId) -> Result<(), Failure> {
        resume_unwind(Box::new("no end"))
    }
}

#[test]
fn a_panic_of_the_server_is_a_failure_of_the_question() {
    let store = By(|_: &Ask| Ok(Answer { lapsed: vec![HolderId(9)], ..granted() }));
    let builder = Fleet::builder("shaky", LIMIT).server(Shaky { is_new: true });
    let fleet = builder.start(store).unwrap();
    drop(pool(&fleet).get().unwrap());
    await_that("it is told", || fleet.status().failure.as_deref() == Some("a panic: no end"));
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new("a bomb"));
    }
}

/// A lease without an end would stay allowed.
#[test]
fn a_keeper_that_ends_by_a_panic_takes_the_allowance_away() {
    let panics = Arc::new(AtomicBool::new(false));
    let store = panicking(&panics, || panic_any(Bomb));
    let fleet = Fleet::builder("bomb", LIMIT).start(store).unwrap();
    let pool = pool(&fleet);
    drop(pool.get().unwrap());
    panics.store(true, SeqCst);
    await_that("nothing is lent", || pool.try_get().is_err());
    await_that("it is told", || fleet.status().failure.is_some());
    assert_eq!(fleet.status().allowed, 0);
}
