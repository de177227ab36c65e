//! `ShardedLock`: many threads read at once, or one writes; for code that meets no other thread while it holds
//! it. A reader takes a shard that few threads share, and a writer takes all of them.
//!
//! Not crossbeam's: that one numbers the threads of the process under a lock of the whole process, when a thread
//! first reads and when it ends. The child of a fork might find that lock locked for ever.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crossbeam_utils::CachePadded;

use super::conductor::step;
use super::sync::stripe;

const SHARDS: usize = 8;

/// A reference to the value in each shard; `None` while a thread writes, which has the only one.
pub(crate) struct ShardedLock<T>([CachePadded<RwLock<Option<Arc<T>>>>; SHARDS]);

/// Why a shard has its value: a writer, which takes it out, holds the shard meanwhile.
const WHOLE: &str = "a shard has its value unless a thread writes";

impl<T> ShardedLock<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = Some(Arc::new(value));
        Self(std::array::from_fn(|_| CachePadded::new(RwLock::new(value.clone()))))
    }

    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        step();
        let shard = &self.0[stripe() % SHARDS];
        ReadGuard(shard.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        step();
        // Every writer takes them in this order, and a reader takes one.
        let mut shards =
            self.0.each_ref().map(|shard| shard.write().unwrap_or_else(PoisonError::into_inner));
        let mut value = None;
        for shard in &mut shards {
            value = shard.take(); // This drops the reference of the shard before.
        }
        WriteGuard { value, shards }
    }
}

pub(crate) struct ReadGuard<'a, T>(RwLockReadGuard<'a, Option<Arc<T>>>);

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().expect(WHOLE)
    }
}

pub(crate) struct WriteGuard<'a, T> {
    /// The only reference.
    value: Option<Arc<T>>,
    shards: [RwLockWriteGuard<'a, Option<Arc<T>>>; SHARDS],
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value.as_deref().expect(WHOLE)
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().and_then(Arc::get_mut).expect(WHOLE)
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        let (last, others) = self.shards.split_last_mut().expect("there are shards");
        for shard in others {
            (**shard).clone_from(&self.value);
        }
        // All references are in the shards before one is unlocked: a writer needs the only one.
        **last = self.value.take();
    }
}
