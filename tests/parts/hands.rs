//! What each thread keeps at hand, by itself: which items it finds there, and which give way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crate::at_hand::{AtHand, Item};
use crate::common::panic_quietly;
use crate::runtime::sync::SLOTS;

/// An item with its tag.
struct Thing {
    tag: u64,
    has_gone: AtomicBool,
    panics_as_it_is_dropped: bool,
}

impl Thing {
    fn new(tag: u64) -> Arc<Self> {
        Arc::new(Self { tag, has_gone: AtomicBool::new(false), panics_as_it_is_dropped: false })
    }
}

impl Item for Thing {
    fn tag(&self) -> u64 {
        self.tag
    }

    fn has_gone(&self) -> bool {
        self.has_gone.load(SeqCst)
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        if self.panics_as_it_is_dropped {
            panic_quietly();
        }
    }
}

fn is_at_hand(item: &Arc<Thing>) -> bool {
    Arc::strong_count(item) == 2
}

/// Runs a test on a thread that has used nothing before, with as many items at hand as it keeps.
fn with_items(test: impl FnOnce(&AtHand<Thing>, &[Arc<Thing>]) + Send) {
    let (hands, items) = (AtHand::new(), (1..=SLOTS as u64).map(Thing::new).collect::<Vec<_>>());
    let begin = || {
        items.iter().for_each(|item| hands.put(Arc::clone(item)));
        assert!(items.iter().all(is_at_hand));
        test(&hands, &items);
    };
    thread::scope(|scope| scope.spawn(begin).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_thread_that_goes_round_its_items_finds_each_at_the_first_look() {
    with_items(|hands, items| {
        for item in items.iter().cycle().take(3 * SLOTS) {
            let next = hands.take_next(|_| true).expect("one is at hand");
            assert_eq!(next.tag, item.tag);
            hands.put(next);
            assert!(items.iter().all(is_at_hand), "it is put where it came from");
        }
    });
}

#[test]
fn while_one_item_is_out_the_look_goes_on_to_the_next() {
    with_items(|hands, items| {
        let first = hands.take_next(|_| true).unwrap();
        assert_eq!((first.tag, hands.take_next(|it| it.tag == 2).unwrap().tag), (1, 2));
        assert_eq!(hands.take_next(|it| it.tag == 3).unwrap().tag, 3);
        hands.put(first);
        assert!(is_at_hand(&items[0]), "there is room elsewhere");
    });
}

#[test]
fn an_item_that_is_not_the_one_stays_at_hand() {
    with_items(|hands, items| {
        assert!(hands.take_next(|it| it.tag == 2).is_none(), "the next is the first");
        assert!(hands.take(2, |_| false).is_none(), "another item of the same tag");
        assert!(items.iter().all(is_at_hand));
        let third = hands.take(3, |_| true).expect("it is found by its tag");
        assert_eq!(third.tag, 3);
        hands.put(third);
        assert_eq!(hands.take_next(|_| true).unwrap().tag, 4, "the one after it");
    });
}

#[test]
fn where_all_slots_are_taken_the_item_after_the_one_used_last_gives_way() {
    with_items(|hands, items| {
        hands.put(hands.take_next(|_| true).expect("the first is at hand"));
        let other = Thing::new(9);
        assert!(hands.take(other.tag, |_| true).is_none());
        hands.put(Arc::clone(&other));
        assert!(is_at_hand(&other));
        assert_eq!(items.iter().filter(|item| !is_at_hand(item)).count(), 1);
        assert!(!is_at_hand(&items[1]));
    });
}

/// A thread that goes round more items than it has room for, in vain, soon keeps few of them; and the oldest
/// gives way.
#[test]
fn after_two_looks_in_vain_one_item_in_eight_is_kept() {
    with_items(|hands, items| {
        for miss in 1..=24 {
            let other = Thing::new(100 + miss);
            assert!(hands.take(other.tag, |_| true).is_none());
            hands.put(Arc::clone(&other));
            assert_eq!(is_at_hand(&other), miss == 1 || miss % 8 == 0, "miss {miss}");
            assert!(hands.take_next(|_| true).is_none(), "it does not look there first any more");
            let left = 1 + miss as usize / 8;
            assert_eq!(items.iter().map(is_at_hand).collect::<Vec<_>>(), {
                (0..SLOTS).map(|at| at >= left).collect::<Vec<_>>()
            });
        }
        // What is found ends that.
        hands.put(hands.take(124, |_| true).expect("it was kept"));
        assert!(hands.take_next(|_| true).is_some());
    });
}

#[test]
fn what_has_gone_is_neither_kept_nor_found() {
    with_items(|hands, items| {
        let [first, second] = [0, 1].map(|at| &items[at]);
        first.has_gone.store(true, SeqCst);
        assert!(hands.take_next(|_| true).is_none());
        assert!(!is_at_hand(first), "whoever finds that it has gone drops it");
        hands.put(Arc::clone(first));
        assert!(!is_at_hand(first));
        second.has_gone.store(true, SeqCst);
        hands.strike(second);
        assert_eq!(
            items.iter().map(is_at_hand).filter(|is_at_hand| *is_at_hand).count(),
            SLOTS - 2
        );
        assert!(!is_at_hand(second));
    });
}

#[test]
fn a_strike_takes_an_item_from_the_slots_of_all_threads_and_leaves_the_others() {
    with_items(|hands, items| {
        let other = Thing::new(9);
        thread::scope(|scope| {
            scope.spawn(|| [&items[1], &other].map(|item| hands.put(Arc::clone(item))));
        });
        assert_eq!(Arc::strong_count(&items[1]), 3, "at hand for two threads");
        items[1].has_gone.store(true, SeqCst);
        hands.strike(&items[1]);
        assert_eq!(Arc::strong_count(&items[1]), 1);
        assert!(is_at_hand(&other) && [0, 2, 3].iter().all(|at| is_at_hand(&items[*at])));
    });
}

/// LOCK-02: its destructor is user code.
#[test]
fn a_panic_of_an_item_that_is_dropped_is_nobodys() {
    with_items(|hands, _| {
        let has_gone = AtomicBool::new(true);
        hands.put(Arc::new(Thing { tag: 9, has_gone, panics_as_it_is_dropped: true }));
    });
}
