//! No secret in anything that a program may print: a word is planted wherever a driver takes one, and
//! looked for in all that the pool, its events, errors, log, spans and metrics show.
#![cfg(all(feature = "log", feature = "metrics", feature = "tracing"))]

#[path = "../../tests/common/mod.rs"]
mod common;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
#[path = "../../tests/servers/mod.rs"]
mod servers;

use std::borrow::Borrow;
use std::fmt;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use common::{await_that, everything_told, panic_quietly};
use latebind::metrics::PoolMetrics;
use latebind::tracing::Traced;
use latebind::{Dialer, Event, Guard, KeyedPool, Pool};
use log::{LevelFilter, Log, Metadata, Record};
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::fmt::format::FmtSpan;

/// A secret that must not be shown. It needs no escape in an address.
const SECRET: &str = "open-sesame";

/// The lines printed by all tests: the log and the spans are those of the process.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u8>>>);

impl Told {
    fn note(&self, what: fmt::Arguments<'_>) {
        writeln!(self.0.lock().unwrap(), "{what}").unwrap();
    }

    fn debug(&self, what: &dyn fmt::Debug) {
        self.note(format_args!("{what:?} {what:#?}"));
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() == "latebind" {
            self.note(format_args!("log: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Collects the process's log lines, and its events and spans of `tracing`.
fn heard() -> Told {
    static HEARD: std::sync::OnceLock<Told> = std::sync::OnceLock::new();
    static SET: Once = Once::new();
    let heard = HEARD.get_or_init(Told::default).clone();
    SET.call_once(|| {
        log::set_boxed_logger(Box::new(heard.clone())).unwrap();
        log::set_max_level(LevelFilter::Trace);
        let heard = heard.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(move || heard.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
    heard
}

/// Uses `good` in all ways that print something, has `bad` fail, and looks for the secret in what was
/// printed. `expected` must be there: something is shown.
fn assert_kept<D: Dialer + fmt::Debug>(
    good: impl Fn() -> D,
    bad: impl Fn() -> D + Send + Sync + 'static,
    spoil: impl Fn(&mut D::Connection),
    expected: &str,
) {
    let (heard, told) = (heard(), Told::default());
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = metrics::with_local_recorder(&recorder, || PoolMetrics::new("p"));
    let observer = || {
        let (told, metrics) = (told.clone(), metrics.observer());
        let traced = Traced::new("p").slow_wait(Duration::ZERO).observer();
        move |event: &Event<'_, D::Error>| {
            told.debug(event);
            metrics(event);
            traced(event);
        }
    };

    told.debug(&good());
    told.debug(&bad());
    let builder = Pool::builder(good()).name("kept").check_after(Duration::ZERO);
    let builder = builder.observer(observer());
    told.debug(&builder);
    let pool = builder.build().unwrap();
    told.debug(&pool);
    lend_in_all_ways(&told, || pool.get().unwrap(), &spoil);
    told.debug(&(pool.stats(), pool.holders(), pool.histograms()));
    told.debug(&pool.reconfigure());
    metrics.publish(&pool.stats());

    let bad = Arc::new(bad);
    let failing = Pool::builder(bad()).name("refused").observer(observer());
    told.debug(&failing);
    let failing = failing.min_idle(1).get_timeout(Duration::from_secs(10)).build().unwrap();
    for _ in 0..3 {
        let error = failing.get().map(drop).unwrap_err();
        told.note(format_args!("{}", everything_told(&error)));
        told.debug(&error.dial_error().map(|error| error.to_string()));
    }
    told.debug(&failing.stats());
    metrics.publish(&failing.stats());

    // A key may be an address with a password in it.
    let keyed = KeyedPool::builder(move |_: &String| bad()).observer(observer());
    told.debug(&keyed);
    let keyed = keyed.build().unwrap();
    let error = keyed.get(&SECRET.to_owned()).map(drop).unwrap_err();
    told.note(format_args!("{}", everything_told(&error)));
    told.debug(&(&keyed, keyed.stats()));
    drop((failing, keyed));
    pool.close();
    await_that("all are closed", || pool.stats().open() == 0);

    let printed = told.text() + &recorder.handle().render() + &heard.text();
    assert!(printed.contains(expected), "no {expected:?} in\n{printed}");
    for part in ["Closed", "DialFailed", "TurnedAway", "log: pool refused", "latebind_dials_total"]
    {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    let line = printed.lines().find(|line| line.contains(SECRET));
    assert_eq!(line, None, "NO-SECRET");
}

/// Returned, returned after a mishap, discarded, doubted, dropped by a panic, detached.
fn lend_in_all_ways<D: Dialer, P: Borrow<Pool<D>>>(
    told: &Told,
    get: impl Fn() -> Guard<D, P>,
    spoil: impl Fn(&mut D::Connection),
) {
    told.debug(&get());
    drop(get());
    spoil(&mut get());
    Guard::discard(get());
    Guard::doubt(get());
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        let _guard = get();
        panic_quietly()
    }));
    assert!(panicked.is_err());
    drop(Guard::detach(get()));
}

#[cfg(feature = "rusqlite")]
#[test]
fn sqlite_shows_no_key_of_an_address() {
    use latebind::drivers::SqliteDialer;
    let folder = tempfile::tempdir().unwrap();
    let address = move |path: &str| {
        let path = folder.path().join(path).display().to_string();
        SqliteDialer::file(format!("file:{path}?key={SECRET}"))
    };
    let address = Arc::new(address);
    for bad in ["nowhere/bad.db", "bad.db?mode=ro"] {
        let (there, nowhere) = (Arc::clone(&address), Arc::clone(&address));
        assert_kept(
            move || there("good.db"),
            move || nowhere(bad),
            |connection| connection.execute_batch("BEGIN").unwrap(),
            "good.db?...",
        );
    }
}

/// Its manager shows the password, as those of several crates do.
#[cfg(feature = "r2d2")]
#[test]
fn an_r2d2_manager_is_not_shown() {
    use latebind::drivers::R2d2Dialer;
    #[derive(Debug)]
    struct Manager(#[allow(dead_code)] &'static str, bool);
    impl r2d2::ManageConnection for Manager {
        type Connection = bool;
        type Error = io::Error;

        fn connect(&self) -> io::Result<bool> {
            if self.1 { Ok(false) } else { Err(io::Error::other("refused")) }
        }

        fn is_valid(&self, _: &mut bool) -> io::Result<()> {
            Ok(())
        }

        fn has_broken(&self, is_broken: &mut bool) -> bool {
            *is_broken
        }
    }
    assert!(format!("{:?}", Manager(SECRET, true)).contains(SECRET), "there is something to show");
    let dialer = |is_good| R2d2Dialer::new(Manager(SECRET, is_good));
    assert_kept(move || dialer(true), move || dialer(false), |broken| *broken = true, "HasBroken");
    let dialer = move |is_good| dialer(is_good).keep_errors();
    assert_kept(move || dialer(true), move || dialer(false), |broken| *broken = true, "HasBroken");
}

/// A server that ends the handshake, and a client key that shows itself.
#[cfg(feature = "rustls")]
#[test]
fn tls_shows_no_key() {
    use latebind::net::{TcpDialer, TlsDialer, listen_tcp};
    use rustls::client::ResolvesClientCert;
    use rustls::sign::CertifiedKey;
    use rustls::{ClientConfig, RootCertStore, SignatureScheme};

    #[derive(Debug)]
    struct Key(#[allow(dead_code)] &'static str);
    impl ResolvesClientCert for Key {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }
    let told = Told::default();
    let listener = listen_tcp("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"no TLS here").unwrap();
    });
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_client_cert_resolver(Arc::new(Key(SECRET)));
    assert!(format!("{config:?}").contains(SECRET), "there is something to show");
    let dialer = TlsDialer::new(TcpDialer::from(address), "db.example".try_into().unwrap(), config);
    told.debug(&dialer);
    let builder = Pool::builder(dialer);
    told.debug(&builder);
    let pool = builder.build().unwrap();
    let error = pool.get().map(drop).unwrap_err();
    told.note(format_args!("{}", everything_told(&error)));
    told.debug(&pool);
    server.join().unwrap();
    let printed = told.text() + &heard().text();
    assert!(printed.contains("db.example") && printed.contains("handshake"), "{printed}");
    assert!(!printed.contains(SECRET), "{printed}");
}

#[cfg(feature = "mysql")]
#[test]
fn mysql_shows_no_password() {
    use latebind::drivers::MysqlDialer;
    use mysql::prelude::Queryable;
    let Some(server) = servers::mariadb::MariaDb::start(&[]) else { return };
    server.root().query_drop(format!("ALTER USER app IDENTIFIED BY '{SECRET}'")).unwrap();
    let opts = server.opts();
    let dialer = move |password: String| {
        let opts = opts.clone().pass(Some(password));
        MysqlDialer::new(opts.init(vec![format!("SET @key = '{SECRET}'")]).into())
    };
    let wrong = dialer.clone();
    assert_kept(
        move || dialer(SECRET.to_owned()),
        move || wrong(format!("not-{SECRET}")),
        |connection| connection.query_drop("BEGIN").unwrap(),
        "app",
    );
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_shows_no_password() {
    use latebind::drivers::PostgresDialer;
    let Some(mut server) = servers::postgres::Postgres::start("") else { return };
    let mut client = server.client();
    client.batch_execute(&format!("CREATE ROLE app LOGIN PASSWORD '{SECRET}'")).unwrap();
    let rules = "host all postgres 127.0.0.1/32 trust\nhost all app 127.0.0.1/32 scram-sha-256\n";
    servers::put(&server.folder().join("data/pg_hba.conf"), rules);
    server.restart();
    let config = server.config();
    let dialer = move |password: String| {
        let mut config = config.clone();
        config.user("app").password(password).options(&format!("-c app.key={SECRET}"));
        PostgresDialer::new(config, postgres::NoTls)
    };
    let wrong = dialer.clone();
    assert_kept(
        move || dialer(SECRET.to_owned()),
        move || wrong(format!("not-{SECRET}")),
        |client| client.batch_execute("BEGIN").unwrap(),
        "password authentication failed",
    );
}

#[cfg(feature = "redis")]
#[test]
fn redis_shows_no_password() {
    use latebind::drivers::RedisDialer;
    let users = format!("--user app on >{SECRET} ~* +@all --user default off");
    let words: Vec<_> = users.split(' ').collect();
    let Some(server) = servers::redis::Redis::start(&words) else { return };
    let port = server.port();
    let dialer = move |password: String| {
        let address = format!("redis://app:{password}@127.0.0.1:{port}/3");
        RedisDialer::new(redis::Client::open(address).unwrap())
    };
    assert_kept(
        move || dialer(SECRET.to_owned()),
        move || dialer(format!("not-{SECRET}")),
        |connection| redis::cmd("MULTI").exec(connection).unwrap(),
        "AuthenticationFailed",
    );
}
