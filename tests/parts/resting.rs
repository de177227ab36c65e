//! Places by themselves: which of them a thread uses, and how many there are.

use std::thread;

use crate::places::Places;
use crate::runtime::moment::Moment;
use crate::runtime::sync::now;

/// A place has room for a pointer.
type Item = Box<u32>;

/// Runs it on a thread that has used no place before.
fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(body).join().expect("it says why itself"))
}

fn take(places: &Places<Item>, at: Moment) -> Option<u32> {
    places.take(at).map(|item| *item)
}

#[track_caller]
fn put(places: &Places<Item>, item: u32) {
    let open = places.gate().expect("it is open");
    assert!(places.put(Box::new(item), open).is_ok());
}

/// Behind a gate with room for so many, and nothing in the places.
fn empty(places: &Places<Item>, room: u32) {
    places.sweep(|_| ());
    places.open(1, Moment::LAST, room, || None, |_| ());
}

/// Has a thread use the first two places, the second as the latest.
fn use_two(places: &Places<Item>, at: Moment) {
    put(places, 1);
    put(places, 2);
    assert_eq!([(); 2].map(|()| take(places, at)), [Some(1), Some(2)]);
}

/// In the first row of places and in a later one.
#[test]
fn a_thread_puts_down_where_it_took_up_last_and_takes_that_up_again() {
    for first in [1, 2] {
        let (places, at) = (Places::new(first), now());
        places.sweep(|_| ());
        places.grow(2, 2);
        empty(&places, 2);
        on_a_thread(|| {
            use_two(&places, at);
            put(&places, 3);
            on_a_thread(|| {
                put(&places, 4);
                assert_eq!(take(&places, at), Some(4), "in the first place");
                put(&places, 4);
            });
            assert_eq!(take(&places, at), Some(3));
            put(&places, 3);
            assert_eq!(
                take(&places, now()),
                Some(4),
                "the first place again, at a tick of the clock"
            );
        });
    }
}

#[test]
fn a_place_beyond_the_room_is_not_filled_by_the_thread_that_used_it_last() {
    let places = Places::new(2);
    on_a_thread(|| {
        use_two(&places, now());
        empty(&places, 1);
        put(&places, 3);
        let open = places.gate().expect("it is open");
        assert_eq!(places.put(Box::new(4), open), Err([Some(Box::new(4)), None]));
    });
}

#[test]
fn while_the_gate_is_shut_as_many_rest_as_were_swept() {
    let places = Places::new(3);
    [1, 2].into_iter().for_each(|item| put(&places, item));
    assert_eq!(places.resting(), 2);
    places.sweep(|_| ());
    assert_eq!(places.resting(), 2);
    empty(&places, 3);
    places.sweep(|_| ());
    assert_eq!(places.resting(), 0);
}

/// How many places there are.
fn count(places: &Places<Item>) -> u32 {
    places.open(1, Moment::LAST, 0, || Some(Box::new(0)), |_| ());
    let count = places.resting();
    places.sweep(|_| ());
    count
}

#[test]
fn places_are_doubled_or_as_many_as_are_wanted_and_no_more_than_may_be_filled() {
    for (steps, counts) in [
        ([(2, 64), (5, 64)], [2, 5]),
        ([(3, 64), (5, 64)], [4, 8]),
        ([(3, 3), (5, 4)], [3, 4]),
        ([(64, 1_000), (1_000, 1_000)], [64, 64]),
    ] {
        let places = Places::new(2);
        places.sweep(|_| ());
        let grown = steps.map(|(wanted, most)| {
            places.grow(wanted, most);
            count(&places)
        });
        assert_eq!(grown, counts, "{steps:?}");
    }
}
