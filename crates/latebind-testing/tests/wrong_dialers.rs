//! Each check of the suite fails for a dialer that breaks just its promise: a table of wrong dialers.

use std::fmt;
use std::io;
use std::io::Read;
use std::mem;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::AbortHandle;
use latebind::Blocking;
use latebind::DialContext;
use latebind::Dialer;
use latebind::net::Connection;
use latebind::net::Stream;
use latebind::net::TcpDialer;
use latebind_testing::Address;
use latebind_testing::conformance;
use latebind_testing::conformance::Failure;
use latebind_testing::conformance::Receive;
use latebind_testing::conformance::Subject;
use latebind_testing::conformance::Trace;
use toy_protocol::ToyConnection;
use toy_protocol::ToyDialer;
use toy_protocol::ToyError;
use toy_protocol::server::PASSWORD;
use toy_protocol::server::ToyServer;

/// The mistakes that a dialer can make. Each is a column of the table at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    AbortDoesNothing,
    AbortIsAbsent,
    CheckAlwaysFails,
    CheckAsksNotWhoTheServerIs,
    CheckHasNoLimit,
    CheckIsSaidNotToBlock,
    CheckLeavesItsLimit,
    CheckPassesAll,
    CloseForgets,
    CloseWaitsForAnAnswer,
    DebugShowsThePassword,
    DialAsksNothing,
    DialForgetsWhatFails,
    DialGoesElsewhere,
    DialHasALimitForEachRead,
    DialHasNoLimit,
    DialHasNoLimitToConnect,
    DialKeepsADescriptor,
    DialKeepsAThread,
    DialLeavesItsLimit,
    DialTriesAgainUntilItsDeadline,
    DialTriesTheFirstAddress,
    DialWorksInOneProcess,
    IsBrokenIsSlow,
    IsBrokenReads,
    IsBrokenSeesErrorsAlone,
    IsBrokenSeesNothing,
    IsPermanentSaysNo,
    IsPermanentSaysYes,
    NeedsResetSaysNo,
    NeedsResetSaysYes,
    ResetAlwaysFails,
    ResetDoesNothing,
    ResetHasNoLimit,
    ResetPanicsOnTasks,
    ResetUsesThreadLocals,
}

/// The toy's dialer, with a fault.
struct Wrong {
    toy: ToyDialer,
    address: SocketAddr,
    elsewhere: SocketAddr,
    fault: Fault,
}

thread_local! {
    static OWN: Box<u32> = Box::new(1);
}

impl Wrong {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn greet(&self, toy: &mut ToyConnection, deadline: Instant) -> Result<(), ToyError> {
        if self.has(Fault::DialAsksNothing) {
            return Ok(());
        }
        if self.has(Fault::DialHasALimitForEachRead) {
            let left = deadline.saturating_duration_since(Instant::now());
            toy.stream.set_timeouts(Some(left))?;
        }
        toy.receive()?;
        toy.ask(&format!("AUTH {PASSWORD}"))?;
        Ok(toy.stream.set_timeouts(None)?)
    }
}

/// A connection that no deadline limits, and that nothing has been asked of.
fn bare(address: SocketAddr) -> Result<ToyConnection, ToyError> {
    let stream = Connection::new(TcpStream::connect(address)?);
    Ok(ToyConnection { stream, unanswered: 0, is_changed: false })
}

impl Dialer for Wrong {
    type Connection = ToyConnection;
    type Error = ToyError;

    fn dial(&self, context: &DialContext) -> Result<ToyConnection, ToyError> {
        static PROCESS: OnceLock<u32> = OnceLock::new();
        match self.fault {
            Fault::DialGoesElsewhere => {
                ToyDialer::new(TcpDialer::from(self.elsewhere), PASSWORD).dial(context)
            }
            Fault::DialHasNoLimitToConnect => {
                let mut toy = bare(self.address)?;
                self.greet(&mut toy, context.deadline())?;
                Ok(toy)
            }
            Fault::DialAsksNothing | Fault::DialHasNoLimit | Fault::DialHasALimitForEachRead => {
                let stream = self.toy.tcp.dial(context)?;
                let mut toy = ToyConnection { stream, unanswered: 0, is_changed: false };
                self.greet(&mut toy, context.deadline())?;
                Ok(toy)
            }
            Fault::DialForgetsWhatFails => {
                let stream = self.toy.tcp.dial(context)?;
                let twin = stream.try_clone()?;
                let mut toy = ToyConnection { stream, unanswered: 0, is_changed: false };
                let outcome = self.greet_until(&mut toy, context.deadline());
                if outcome.is_err() {
                    mem::forget(twin);
                }
                outcome.map(|()| toy)
            }
            Fault::DialTriesAgainUntilItsDeadline => loop {
                let outcome = self.toy.dial(context);
                if outcome.is_ok() || Instant::now() >= context.deadline() {
                    return outcome;
                }
                thread::sleep(Duration::from_millis(20));
            },
            Fault::DialTriesTheFirstAddress => {
                ToyDialer::new(TcpDialer::from(self.address), PASSWORD).dial(context)
            }
            Fault::DialWorksInOneProcess if *PROCESS.get_or_init(process::id) != process::id() => {
                Err(ToyError::Refused("another process".to_owned()))
            }
            Fault::DialLeavesItsLimit => {
                let toy = self.toy.dial(context)?;
                let left = context.remaining().max(Duration::from_millis(1));
                toy.stream.set_timeouts(Some(left))?;
                Ok(toy)
            }
            Fault::DialKeepsADescriptor => {
                let toy = self.toy.dial(context)?;
                mem::forget(toy.stream.try_clone()?);
                Ok(toy)
            }
            Fault::DialKeepsAThread => {
                thread::spawn(|| {
                    loop {
                        thread::park();
                    }
                });
                self.toy.dial(context)
            }
            _ => self.toy.dial(context),
        }
    }

    fn is_permanent(&self, error: &ToyError) -> bool {
        match self.fault {
            Fault::IsPermanentSaysNo => false,
            Fault::IsPermanentSaysYes => true,
            _ => self.toy.is_permanent(error),
        }
    }

    fn is_broken(&self, toy: &mut ToyConnection) -> bool {
        match self.fault {
            Fault::IsBrokenIsSlow => {
                thread::sleep(Duration::from_millis(10));
                self.toy.is_broken(toy)
            }
            Fault::IsBrokenReads => {
                let _ = toy.stream.set_nonblocking(true);
                let outcome = (&*toy.stream).read(&mut [0]);
                let _ = toy.stream.set_nonblocking(false);
                matches!(outcome, Ok(0))
            }
            Fault::IsBrokenSeesErrorsAlone => {
                toy.stream.take_error().is_ok_and(|error| error.is_some())
            }
            Fault::IsBrokenSeesNothing | Fault::CheckPassesAll | Fault::DialAsksNothing => false,
            _ => self.toy.is_broken(toy),
        }
    }

    fn check(&self, toy: &mut ToyConnection, deadline: Instant) -> Result<(), ToyError> {
        match self.fault {
            Fault::CheckAlwaysFails => Err(ToyError::Refused("it does".to_owned())),
            Fault::CheckAsksNotWhoTheServerIs => Ok(toy.ask_until("GET", deadline).map(drop)?),
            Fault::CheckHasNoLimit => Ok(toy.ask("GET").map(drop)?),
            Fault::CheckLeavesItsLimit => {
                let left = deadline.saturating_duration_since(Instant::now());
                toy.stream.set_timeouts(Some(left))?;
                Ok(toy.ask("GET").map(drop)?)
            }
            Fault::CheckPassesAll | Fault::DialAsksNothing => Ok(()),
            _ => self.toy.check(toy, deadline),
        }
    }

    fn needs_reset(&self, toy: &mut ToyConnection) -> bool {
        match self.fault {
            Fault::NeedsResetSaysNo => false,
            Fault::NeedsResetSaysYes
            | Fault::ResetAlwaysFails
            | Fault::ResetPanicsOnTasks
            | Fault::ResetUsesThreadLocals => true,
            _ => self.toy.needs_reset(toy),
        }
    }

    fn reset(&self, toy: &mut ToyConnection) -> Result<(), ToyError> {
        match self.fault {
            Fault::ResetAlwaysFails => Err(ToyError::Refused("it does".to_owned())),
            Fault::ResetDoesNothing => Ok(()),
            Fault::ResetHasNoLimit => Ok(toy.ask("RESET").map(drop)?),
            Fault::ResetPanicsOnTasks => {
                assert!(tokio::runtime::Handle::try_current().is_err(), "a task waits");
                self.toy.reset(toy)
            }
            Fault::ResetUsesThreadLocals => {
                OWN.with(|own| assert_eq!(**own, 1));
                self.toy.reset(toy)
            }
            _ => self.toy.reset(toy),
        }
    }

    fn close(&self, mut toy: ToyConnection) {
        match self.fault {
            Fault::CloseForgets => mem::forget(toy),
            Fault::CloseWaitsForAnAnswer => drop(toy.ask("QUIT")),
            _ => self.toy.close(toy),
        }
    }

    fn abort_handle(&self, toy: &ToyConnection) -> Option<AbortHandle> {
        match self.fault {
            Fault::AbortDoesNothing => Some(AbortHandle::new(|| ())),
            Fault::AbortIsAbsent => None,
            _ => self.toy.abort_handle(toy),
        }
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().check(!self.has(Fault::CheckIsSaidNotToBlock))
    }
}

impl Wrong {
    /// As the toy does it.
    fn greet_until(&self, toy: &mut ToyConnection, deadline: Instant) -> Result<(), ToyError> {
        let left = deadline.saturating_duration_since(Instant::now());
        toy.stream.set_timeouts(Some(left))?;
        self.greet(toy, deadline)
    }
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Wrong");
        if self.has(Fault::DebugShowsThePassword) {
            shown.field("password", &self.toy.password);
        }
        shown.field("toy", &self.toy).finish_non_exhaustive()
    }
}

struct Toy(ToyServer, Fault);

impl Toy {
    fn wrong(&self, tcp: TcpDialer, password: &str, address: SocketAddr) -> Wrong {
        let toy = ToyDialer::new(tcp, password);
        Wrong { toy, address, elsewhere: self.0.address, fault: self.1 }
    }
}

impl Subject for Toy {
    type Dialer = Wrong;

    fn start() -> Option<Self> {
        unreachable!("the table starts them")
    }

    fn server(&self) -> Address {
        self.0.address.into()
    }

    fn dialer(&self, server: &Address) -> Wrong {
        let address = server.tcp().unwrap();
        self.wrong(TcpDialer::from(address), PASSWORD, address)
    }

    fn ask(&self, toy: &mut ToyConnection) -> Result<(), Failure> {
        if self.1 == Fault::ResetUsesThreadLocals {
            OWN.with(|own| assert_eq!(**own, 1)); // As a client has its own that is in use.
        }
        if toy.ask("ECHO hello")? == "hello" { Ok(()) } else { Err("another answer".into()) }
    }

    fn send(&self, toy: &mut ToyConnection) -> Result<Option<Receive<ToyConnection>>, Failure> {
        toy.send("ECHO hello")?;
        Ok(Some(Box::new(|toy| match toy.receive()?.as_str() {
            "hello" => Ok(()),
            other => Err(format!("another answer: {other}").into()),
        })))
    }

    fn dialer_to_any(&self, servers: &[SocketAddr]) -> Option<Wrong> {
        let tcp = TcpDialer::with_addresses(servers.iter().copied());
        Some(self.wrong(tcp, PASSWORD, servers[0]))
    }

    fn traces(&self) -> Vec<Trace<ToyConnection>> {
        vec![Trace::new(
            "a value",
            |toy: &mut ToyConnection| Ok(toy.ask("SET mine").map(drop)?),
            |toy| Ok(toy.ask("GET")? == "mine"),
        )]
    }

    fn reset_limit(&self) -> Duration {
        toy_protocol::RESET_LIMIT
    }

    fn wait(&self, toy: &mut ToyConnection) -> bool {
        let _ = toy.ask("WAIT");
        true
    }

    fn make_unfit(&self) -> bool {
        self.0.become_replica();
        true
    }

    fn dialer_without_access(&self) -> Option<Wrong> {
        let tcp = TcpDialer::from(self.0.address);
        Some(self.wrong(tcp, "guessed-wrongly", self.0.address))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

fn toy(fault: Fault) -> Toy {
    Toy(ToyServer::start().unwrap_or_else(|error: io::Error| panic!("{error}")), fault)
}

/// A test for each line: that check fails for a dialer with that fault, and says so.
macro_rules! table {
    ($($test:ident: $check:ident, $fault:ident, $says:literal;)*) => {$(
        #[test]
        #[should_panic(expected = $says)]
        fn $test() {
            conformance::$check(toy(Fault::$fault));
        }
    )*};
}

table! {
    abort_does_nothing: abort_handle_frees_a_borrower, AbortDoesNothing, "although it was aborted";
    abort_is_absent: abort_handle_frees_a_borrower, AbortIsAbsent, "has given no handle";
    books: books_balance_through_an_outage, CloseForgets, "still has a connection";
    dead: check_finds_a_dead_peer, CheckPassesAll, "neither is_broken nor check";
    silent: check_finds_a_silent_peer, CheckPassesAll, "does not answer";
    check_deadline: check_keeps_its_deadline_with_a_silent_peer, CheckHasNoLimit, "had not ended";
    check_limit: check_leaves_no_time_limit, CheckLeavesItsLimit, "later than the check's deadline";
    check_fails: check_passes_a_live_one, CheckAlwaysFails, "failed for a live connection";
    unfit: check_refuses_an_unfit_peer, CheckAsksNotWhoTheServerIs, "that is unfit";
    close_waits: close_ends_with_a_silent_peer, CloseWaitsForAnAnswer, "a close had not ended";
    close_forgets: close_reaches_the_server, CloseForgets, "still has a connection";
    dial_forgets: dial_closes_what_it_gives_up, DialForgetsWhatFails, "still has a connection";
    refused: dial_ends_soon_where_it_is_refused, DialTriesAgainUntilItsDeadline, "had not ended";
    permanent: dial_ends_soon_where_it_is_refused, IsPermanentSaysYes, "is no permanent one";
    hangs_up: dial_fails_or_is_seen_to_where_the_peer_hangs_up, DialAsksNothing, "neither is_broken";
    black_hole: dial_keeps_its_deadline_at_a_black_hole, DialHasNoLimitToConnect, "had not ended";
    silent_dial: dial_keeps_its_deadline_with_a_silent_peer, DialHasNoLimit, "had not ended";
    slow: dial_keeps_its_deadline_with_a_slow_peer, DialHasALimitForEachRead, "had not ended";
    dial_limit: dial_leaves_no_time_limit, DialLeavesItsLimit, "later than the dial's deadline";
    elsewhere: dial_opens_a_connection_that_works, DialGoesElsewhere, "not gone to the address";
    second: dial_takes_the_second_address, DialTriesTheFirstAddress, "not come to the second";
    is_broken_reads: is_broken_consumes_nothing, IsBrokenReads, "another answer";
    is_broken_is_slow: is_broken_is_quick, IsBrokenIsSlow, "at the quickest";
    unseen_reset: is_broken_sees_a_reset, IsBrokenSeesNothing, "does not see";
    unseen_end: is_broken_sees_an_end, IsBrokenSeesErrorsAlone, "does not see";
    for_good: is_permanent_knows_a_refusal_for_good, IsPermanentSaysNo, "may go better";
    reset_of_all: needs_reset_is_false_for_an_untouched_one, NeedsResetSaysYes, "untouched";
    reset_of_none: needs_reset_is_true_after_each_trace, NeedsResetSaysNo, "nothing is to be done";
    password: nothing_shows_a_secret, DebugShowsThePassword, "shows the secret";
    reset_waits: reset_ends_with_a_silent_peer, ResetHasNoLimit, "a reset had not ended";
    reset_fails: reset_keeps_a_clean_one, ResetAlwaysFails, "on which nothing was left";
    reset_idles: reset_leaves_nothing, ResetDoesNothing, "finds a value";
    blocks: what_must_not_block_does_not, CheckIsSaidNotToBlock, "said not to block";
    locals: works_in_a_thread_local_destructor, ResetUsesThreadLocals, "in a thread-local destructor";
    tasks: works_on_a_thread_of_an_async_runtime, ResetPanicsOnTasks, "thread of an async runtime";
}

/// The same in a process of its own, where nobody else has descriptors or threads.
#[cfg(target_os = "linux")]
mod alone {
    use super::*;

    /// A subject that starts with its fault.
    macro_rules! subject {
        ($($name:ident: $fault:ident;)*) => {$(
            struct $name(Toy);

            impl Subject for $name {
                type Dialer = Wrong;

                fn start() -> Option<Self> {
                    Some(Self(toy(Fault::$fault)))
                }

                fn server(&self) -> Address {
                    self.0.server()
                }

                fn dialer(&self, server: &Address) -> Wrong {
                    self.0.dialer(server)
                }

                fn ask(&self, toy: &mut ToyConnection) -> Result<(), Failure> {
                    self.0.ask(toy)
                }
            }
        )*};
    }

    subject! {
        Descriptor: DialKeepsADescriptor;
        Thread: DialKeepsAThread;
        Process: DialWorksInOneProcess;
    }

    #[test]
    #[should_panic(expected = "descriptors are left")]
    fn descriptors() {
        let check = conformance::no_descriptor_is_left::<Descriptor>;
        conformance::run_alone(module_path!(), "descriptors", check);
    }

    #[test]
    #[should_panic(expected = "threads are left")]
    fn threads() {
        let check = conformance::no_thread_is_left::<Thread>;
        conformance::run_alone(module_path!(), "threads", check);
    }

    #[test]
    #[should_panic(expected = "in the child of a fork")]
    fn fork() {
        let check = conformance::works_after_a_fork::<Process>;
        conformance::run_alone(module_path!(), "fork", check);
    }
}
