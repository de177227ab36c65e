//! The drop-in against r2d2: where it does the same, where it does better, and where it differs on purpose.

mod support;

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use r2d2::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use r2d2::{Builder, HandleError, HandleEvent, ManageConnection, Pool, PooledConnection};
use scheduled_thread_pool::ScheduledThreadPool;

use support::{LONG, Server, await_that, finishes};

/// How long a caller in a hurry waits.
const HURRY: Duration = Duration::from_millis(100);

/// One connection at most, and none before it is asked for.
fn small() -> Builder<Server> {
    Pool::builder().max_size(1).min_idle(Some(0)).error_handler(Box::new(r2d2::NopErrorHandler))
}

fn panic_of(action: impl FnOnce()) -> String {
    let payload = panic::catch_unwind(AssertUnwindSafe(action)).expect_err("it panics");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().expect("a text")).to_owned(),
    }
}

// ---- As r2d2 --------------------------------------------------------------------------------

#[test]
fn what_is_shown_of_a_builder_is_what_r2d2_shows() {
    let ours = format!("{:#?}", Pool::<Server>::builder());
    let theirs = format!("{:#?}", original::Pool::<Server>::builder());
    assert_eq!(ours, theirs);
}

#[test]
fn a_setting_out_of_bounds_panics_with_the_words_of_r2d2() {
    macro_rules! panics_alike {
        ($($setting:ident($value:expr)),* $(,)?) => { $(
            let ours = panic_of(|| drop(Pool::<Server>::builder().$setting($value)));
            let theirs = panic_of(|| drop(original::Pool::<Server>::builder().$setting($value)));
            assert_eq!(ours, theirs);
        )* };
    }
    panics_alike!(
        max_size(0),
        max_lifetime(Some(Duration::ZERO)),
        idle_timeout(Some(Duration::ZERO)),
        connection_timeout(Duration::ZERO),
    );

    let ours = panic_of(|| {
        drop(Pool::builder().max_size(2).min_idle(Some(3)).build_unchecked(Server::default()));
    });
    let theirs = panic_of(|| {
        let builder = original::Pool::builder().max_size(2).min_idle(Some(3));
        drop(builder.build_unchecked(Server::default()));
    });
    assert_eq!(ours, theirs);
}

#[test]
fn a_pool_tells_its_settings() {
    let server = Server::default();
    let pool = Pool::builder()
        .max_size(3)
        .min_idle(Some(2))
        .test_on_check_out(false)
        .max_lifetime(None)
        .idle_timeout(Some(LONG))
        .connection_timeout(Duration::from_secs(7))
        .build(server)
        .unwrap();
    assert_eq!((pool.max_size(), pool.min_idle()), (3, Some(2)));
    assert!(!pool.test_on_check_out());
    assert_eq!((pool.max_lifetime(), pool.idle_timeout()), (None, Some(LONG)));
    assert_eq!(pool.connection_timeout(), Duration::from_secs(7));
    assert_eq!(format!("{:?}", pool.state()), "State { connections: 2, idle_connections: 2 }");
}

#[test]
fn handles_and_guards_go_from_thread_to_thread() {
    fn go<T: Send + Sync + 'static>() {}
    go::<Pool<Server>>();
    go::<PooledConnection<Server>>();
    go::<r2d2::Error>();
    go::<r2d2::Extensions>();
}

#[test]
fn an_error_that_must_stay_on_its_thread_reaches_the_handler_and_its_text_the_caller() {
    #[derive(Debug)]
    struct Local(Rc<str>);

    impl fmt::Display for Local {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl std::error::Error for Local {}

    struct Manager;

    impl ManageConnection for Manager {
        type Connection = ();
        type Error = Local;

        fn connect(&self) -> Result<(), Local> {
            Err(Local("nobody there".into()))
        }

        fn is_valid(&self, (): &mut ()) -> Result<(), Local> {
            Ok(())
        }

        fn has_broken(&self, (): &mut ()) -> bool {
            false
        }
    }

    #[derive(Debug)]
    struct Handler(mpsc::Sender<String>);

    impl HandleError<Local> for Handler {
        fn handle_error(&self, error: Local) {
            drop(self.0.send(error.0.to_string()));
        }
    }

    let (tell, told) = mpsc::channel();
    let pool = Pool::builder()
        .connection_timeout(HURRY)
        .error_handler(Box::new(Handler(tell)))
        .build_unchecked(Manager);
    let error = pool.get().unwrap_err().to_string();
    assert_eq!(told.recv_timeout(LONG).unwrap(), "nobody there");
    assert!(error.starts_with("timed out waiting for connection: "), "{error}");
    assert!(error.contains("nobody there"), "{error}");
}

#[test]
fn build_waits_for_a_server_that_is_not_up_yet() {
    let server = Server::default();
    server.refuse_next(3);
    let pool = Pool::builder().max_size(2).build(server.clone()).unwrap();
    assert_eq!(pool.state().connections, 2);
    assert_eq!(server.refused(), 3);
}

#[test]
fn build_gives_up_in_time_on_a_connect_that_hangs() {
    let server = Server::default();
    let hang = server.connect_hangs();
    let start = Instant::now();
    let error = Pool::builder().connection_timeout(HURRY).build(server.clone()).unwrap_err();
    assert!(start.elapsed() < LONG, "{error}");
    drop(hang);
}

#[test]
fn build_unchecked_waits_for_nothing() {
    let server = Server::default();
    let hang = server.connect_hangs();
    let pool = Pool::builder().build_unchecked(server.clone());
    assert_eq!(pool.state().connections, 0);
    drop(hang);
    await_that(|| pool.state().idle_connections == 10);
}

#[test]
fn each_checkout_asks_once_whether_the_connection_is_valid() {
    let server = Server::default();
    let pool = Pool::builder().max_size(1).build(server.clone()).unwrap();
    assert_eq!(server.asked(), 0);
    for asked in 1..=3 {
        drop(pool.get().unwrap());
        assert_eq!(server.asked(), asked);
    }
    drop(pool.try_get().unwrap());
    assert_eq!(server.asked(), 4);
    // Also of one that has rested so long that a thread of the pool's asks.
    thread::sleep(Duration::from_millis(600));
    drop(pool.get().unwrap());
    assert_eq!(server.asked(), 5);
}

#[test]
fn the_manager_is_called_as_often_as_by_r2d2() {
    macro_rules! calls {
        ($pool:ident) => {{
            let server = Server::default();
            let pool = $pool::Pool::builder().max_size(2).build(server.clone()).unwrap();
            for _ in 0..5 {
                let _both = (pool.get().unwrap(), pool.get().unwrap());
            }
            (server.openers().len(), server.asked(), server.returned())
        }};
    }
    assert_eq!(calls!(r2d2), (2, 10, 10));
    assert_eq!(calls!(original), (2, 10, 10));
}

#[test]
fn a_connection_that_died_in_a_borrowers_hands_is_not_handed_to_the_next() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    let dead = pool.get().unwrap();
    let waiter = {
        let pool = pool.clone();
        thread::spawn(move || pool.get().unwrap().number)
    };
    // Nothing tells when somebody waits, but that the pool does not lend.
    thread::sleep(HURRY);
    server.kill_all();
    let number = dead.number;
    drop(dead);
    assert_ne!(waiter.join().unwrap(), number);
}

#[test]
fn a_connection_that_is_not_valid_is_released_and_another_is_lent() {
    let server = Server::default();
    let customizer = support::Customizer::default();
    let pool =
        small().connection_customizer(Box::new(customizer.clone())).build(server.clone()).unwrap();
    let first = pool.get().unwrap().number;
    server.kill_all();
    let second = pool.get().unwrap();
    assert_ne!(second.number, first);
    assert_eq!(customizer.released(), [first]);
}

#[test]
fn without_a_test_on_check_out_nothing_is_asked() {
    let server = Server::default();
    let pool = small().test_on_check_out(false).build(server.clone()).unwrap();
    drop(pool.get().unwrap());
    thread::sleep(Duration::from_millis(600));
    drop(pool.get().unwrap());
    assert_eq!(server.asked(), 0);
}

#[test]
fn a_borrower_that_panics_gives_its_connection_back() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    let number = pool.get().unwrap().number;
    panic_of(|| {
        let _connection = pool.get().unwrap();
        panic!("halfway through");
    });
    assert_eq!(pool.get().unwrap().number, number);
}

#[test]
fn a_guard_keeps_its_pool_and_the_last_of_both_closes_all() {
    let server = Server::default();
    let customizer = support::Customizer::default();
    let pool = Pool::builder()
        .max_size(2)
        .connection_customizer(Box::new(customizer.clone()))
        .build(server)
        .unwrap();
    let guard = pool.get().unwrap();
    drop(pool);
    assert!(customizer.released().is_empty());
    drop(guard);
    assert_eq!(customizer.released().len(), 2);
}

#[test]
fn connections_are_opened_on_the_threads_of_a_thread_pool() {
    let server = Server::default();
    let threads = Arc::new(
        ScheduledThreadPool::builder().num_threads(1).thread_name_pattern("opener-{}").build(),
    );
    let pool = Pool::builder().max_size(4).thread_pool(threads).build(server.clone()).unwrap();
    assert_eq!(pool.state().connections, 4);
    assert_eq!(server.openers(), ["opener-0"; 4]);
}

#[test]
fn a_panic_on_a_thread_pool_fails_the_one_dial() {
    let server = Server::default();
    server.panic_next(1);
    let threads = Arc::new(ScheduledThreadPool::new(1));
    let pool = small().thread_pool(threads).build(server.clone()).unwrap();
    assert!(pool.get().is_ok());
}

#[test]
fn idle_connections_end_in_time_and_others_are_opened_in_their_place() {
    let server = Server::default();
    let customizer = support::Customizer::default();
    let pool = Pool::builder()
        .max_size(3)
        .idle_timeout(Some(HURRY))
        .connection_customizer(Box::new(customizer.clone()))
        .build(server)
        .unwrap();
    let kept = pool.get().unwrap();
    await_that(|| customizer.released().len() >= 2);
    assert!(!customizer.released().contains(&kept.number));
    await_that(|| pool.state().connections == 3);
    // One that comes back has rested for no time, however long it was lent.
    let number = kept.number;
    drop(kept);
    assert!(!customizer.released().contains(&number));
}

// ---- Better ---------------------------------------------------------------------------------

#[test]
fn a_connection_that_comes_back_broken_is_replaced_for_who_waits() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    let connection = pool.get().unwrap();
    let waiter = {
        let pool = pool.clone();
        thread::spawn(move || pool.get().unwrap().number)
    };
    thread::sleep(HURRY);
    server.break_all();
    let number = connection.number;
    drop(connection);
    assert_ne!(waiter.join().unwrap(), number);
}

#[test]
fn a_panic_of_the_manager_costs_no_slot() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    server.panic_next(1);
    let number = pool.get().unwrap().number;

    server.panic_if_asked(true);
    panic_of(|| drop(pool.get()));
    server.panic_if_asked(false);
    let second = pool.get().unwrap();
    assert_ne!(second.number, number, "it was not found to be valid");

    server.panic_on_return(true);
    let number = second.number;
    drop(second);
    server.panic_on_return(false);
    assert_ne!(pool.get().unwrap().number, number);
}

#[test]
fn a_test_that_hangs_holds_no_caller_past_its_time_limit() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    drop(pool.get().unwrap());
    thread::sleep(Duration::from_millis(600)); // A caller tests a connection that has rested less.
    let hang = server.is_valid_hangs();
    let waiter = pool.clone();
    let waited = finishes(move || {
        let start = Instant::now();
        waiter.get_timeout(HURRY).unwrap_err();
        start.elapsed()
    });
    assert!(waited < LONG);
    drop(hang);
    assert!(pool.get().is_ok());
}

#[test]
fn a_server_that_is_back_is_noticed_at_once() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    server.refuse(true);
    let waiter = {
        let pool = pool.clone();
        thread::spawn(move || pool.get().map(|_| Instant::now()))
    };
    // r2d2's pauses have grown to more than a second by then.
    await_that(|| server.refused() >= 20);
    let back = Instant::now();
    server.refuse(false);
    let served = waiter.join().unwrap().unwrap();
    assert!(served - back < Duration::from_secs(1), "{:?}", served - back);
}

/// How often a pool dials for eight callers who ask again and again for `elapsed` milliseconds.
fn is_bothered_no_more_than_agreed(server: &Server, dials: impl Fn() -> u32) {
    let pool = Pool::builder()
        .max_size(8)
        .min_idle(Some(0))
        .connection_timeout(Duration::from_millis(5))
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build(server.clone())
        .unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while start.elapsed() < Duration::from_secs(1) {
                    pool.get().unwrap_err();
                }
            });
        }
    });
    let elapsed = u32::try_from(start.elapsed().as_millis()).unwrap();
    // Those of the first eight callers may all come at once.
    assert!((2..=8 + 1 + elapsed / 50).contains(&dials()), "{} in {elapsed} ms", dials());
}

#[test]
fn a_server_that_is_away_is_dialed_twenty_times_a_second_at_most() {
    let server = Server::default();
    server.refuse(true);
    is_bothered_no_more_than_agreed(&server, || server.refused());
}

#[test]
fn a_server_whose_connections_are_never_valid_is_dialed_twenty_times_a_second_at_most() {
    let server = Server::default();
    server.never_valid(true);
    is_bothered_no_more_than_agreed(&server, || server.openers().len() as u32);
}

#[test]
fn a_handler_may_use_the_pool() {
    #[derive(Debug)]
    struct Handler(Arc<Mutex<Option<Pool<Server>>>>);

    impl HandleEvent for Handler {
        fn handle_timeout(&self, _: TimeoutEvent) {
            let pool = self.0.lock().unwrap().take().expect("the first timeout");
            assert_eq!(pool.state().connections, 1);
        }
    }

    let server = Server::default();
    let own = Arc::new(Mutex::new(None));
    let handler = Box::new(Handler(Arc::clone(&own)));
    let pool = small().event_handler(handler).build(server).unwrap();
    *own.lock().unwrap() = Some(pool.clone());
    let _taken = pool.get().unwrap();
    finishes(move || pool.get_timeout(HURRY).unwrap_err());
    assert!(own.lock().unwrap().is_none());
}

#[test]
fn no_time_limit_is_as_good_as_any() {
    let server = Server::default();
    let pool = small().connection_timeout(Duration::MAX).build(server).unwrap();
    assert!(pool.get().is_ok());
    assert!(pool.get_timeout(Duration::MAX).is_ok());
}

#[test]
fn an_error_names_the_line_that_holds_the_connection() {
    let server = Server::default();
    let pool = small().build(server).unwrap();
    let (_taken, line) = (pool.get().unwrap(), line!());
    let error = pool.get_timeout(Duration::from_millis(1)).unwrap_err().to_string();
    assert!(error.contains(&format!("{}:{line}:", file!())), "{error}");
}

#[test]
fn an_error_says_what_was_wrong_with_each_connection_that_came() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    server.never_valid(true);
    let error = pool.get_timeout(HURRY).unwrap_err().to_string();
    assert!(error.contains("not valid: blammo"), "{error}");
}

#[test]
fn a_caller_without_time_gets_a_connection_opened_for_the_next() {
    let server = Server::default();
    let pool = small().build(server).unwrap();
    await_that(|| pool.get_timeout(Duration::ZERO).is_ok());
}

// ---- Otherwise ------------------------------------------------------------------------------

#[test]
fn every_event_has_its_other_half() {
    #[derive(Clone, Debug, Default)]
    struct Handler(Arc<Mutex<Vec<String>>>);

    impl Handler {
        fn note(&self, what: &str, id: u64) {
            self.0.lock().unwrap().push(format!("{what} {id}"));
        }
    }

    impl HandleEvent for Handler {
        fn handle_acquire(&self, event: AcquireEvent) {
            self.note("acquire", event.connection_id());
        }

        fn handle_checkout(&self, event: CheckoutEvent) {
            self.note("checkout", event.connection_id());
        }

        fn handle_checkin(&self, event: CheckinEvent) {
            self.note("checkin", event.connection_id());
        }

        fn handle_release(&self, event: ReleaseEvent) {
            self.note("release", event.connection_id());
        }
    }

    let (server, handler) = (Server::default(), Handler::default());
    let pool = small().event_handler(Box::new(handler.clone())).build(server).unwrap();
    drop(pool.get().unwrap());
    drop(pool.try_get().unwrap()); // r2d2 tells of no checkout here,
    drop(pool); // and of no release here.
    let events = handler.0.lock().unwrap();
    let id = events[0].strip_prefix("acquire ").expect("it was opened first");
    let rest = ["checkout", "checkin", "checkout", "checkin", "release"];
    assert_eq!(events[1..], rest.map(|what| format!("{what} {id}")));
}

#[test]
fn what_is_shown_of_a_pool_has_no_password() {
    let server = Server::default();
    let pool = small().build(server.clone()).unwrap();
    let shown = format!("{pool:?}");
    assert!(!shown.contains(support::PASSWORD), "{shown}");
    assert!(shown.starts_with("Pool { state: State { connections: 0, "), "{shown}");
    assert!(format!("{server:?}").contains(support::PASSWORD), "the manager tells it");
}
