//! The threads that hanging resolvers leave behind, of which a process has a bounded number.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use latebind::DialContext;
use latebind::Dialer;
use latebind::Pool;
use latebind::net::{NetError, TcpDialer};

/// A keyed pool has a dialer for each key: what they leave behind is bounded for all together, and one
/// name that hangs leaves room for others.
#[test]
fn resolvers_that_hang_for_many_dialers_leave_a_bounded_number_of_threads() {
    in_a_process!();
    let (let_go, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let dialers: Vec<_> = (0..10)
        .map(|_| {
            let held = Arc::clone(&held);
            TcpDialer::new("hanging.example", 80).resolver(move |_, _| {
                let _ = held.lock().unwrap().recv(); // Until everybody is let go.
                Ok(vec![address])
            })
        })
        .collect();
    let most = dialers.iter().flat_map(|dialer| {
        (0..40).map(|_| {
            let mut patience = Duration::from_millis(1);
            loop {
                match dialer.dial(&DialContext::until(Instant::now() + patience)).unwrap_err() {
                    NetError::ResolveTimeout { lookups, limit, .. } => {
                        assert!([32, 128].contains(&limit), "{limit}");
                        break lookups;
                    }
                    // Before it could ask: the machine is slow.
                    NetError::DeadlinePassed { .. } => patience *= 2,
                    error => panic!("{error:?}"),
                }
            }
        })
    });
    let most = most.max().unwrap();
    assert!((96..=128).contains(&most), "{most}");

    // A dial that waits for room, and not for an answer, ends with its pool (SHUT-15).
    let pool = Pool::new(dialers[0].clone());
    pool.get_timeout(Duration::from_millis(1)).unwrap_err();
    let begun = Instant::now();
    let drained = pool.drain(begun + Duration::from_secs(20));
    assert!(drained.is_complete() && begun.elapsed() < Duration::from_secs(10), "{drained:?}");

    drop(let_go);
    for dialer in dialers {
        dialer.dial(&DialContext::until(Instant::now() + Duration::from_secs(20))).unwrap();
    }
}
