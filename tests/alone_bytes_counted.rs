//! The weight of pools on the heap, in bytes allocated and not freed: empty tables
//! weigh nothing, and places are made as connections are.

mod counting;

use std::convert::Infallible;

use counting::live_bytes;
use latebind::{DialContext, Dialer, KeyedPool, Pool};

struct Numbers;

impl Dialer for Numbers {
    type Connection = u64;
    type Error = Infallible;

    fn dial(&self, _: &DialContext) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_broken(&self, _: &mut u64) -> bool {
        false
    }
}

/// The bytes that `make` leaves on the heap for as long as its result lives.
fn weight<T>(make: impl FnOnce() -> T) -> usize {
    let before = live_bytes();
    let made = make();
    let weight = live_bytes().saturating_sub(before);
    drop(made);
    weight
}

/// A keyed pool with one connection to each of so many keys.
fn keyed(max_open: u32, keys: u32) -> KeyedPool<u32, Numbers> {
    let builder = KeyedPool::builder(|_: &u32| Numbers).max_open(max_open);
    let pool = builder.max_open_total(keys).build().unwrap();
    (0..keys).for_each(|key| drop(pool.get(&key).unwrap()));
    pool
}

/// One test, as the allocator counts for all that run at a time.
#[test]
fn a_pool_weighs_by_what_is_open_and_not_by_what_may_be() {
    const KEYS: u32 = 500;
    drop(keyed(1, 1)); // Allocations that a process makes once belong to no pool.
    let of_a_key = |max_open| weight(|| keyed(max_open, KEYS)) / KEYS as usize;
    let (few, many) = (of_a_key(2), of_a_key(64));
    println!("a key with one connection of 2: {few} bytes, of 64: {many}");
    assert!(few <= 4_200, "{few} bytes for each key, with a connection");
    assert!(many <= few + few / 10, "{many} bytes for what may be, rather than {few}");

    // Nothing is dialed: the thread of a dial would be weighed as well.
    let of_max_open = |max| weight(|| Pool::builder(Numbers).max_open(max).build().unwrap());
    let (small, large) = (of_max_open(10), of_max_open(1_000));
    println!("a pool with nothing open, of 10: {small} bytes, of 1,000: {large}");
    assert!(large <= 4_500, "{large} bytes for what may be, and {small} for a tenth of it");
    let closed = weight(|| {
        let pool = Pool::new(Numbers);
        pool.close();
        pool
    });
    let open = weight(|| Pool::new(Numbers));
    assert!(closed <= open, "{closed} bytes of a closed pool, {open} of an open one");
}
