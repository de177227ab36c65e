//! `ShardedLock`: crossbeam's, for code that meets no other thread while it holds it.

use std::sync::LockResult;

use crossbeam_utils::sync;

use super::conductor::step;

/// Many threads read at once, or one writes.
pub(crate) struct ShardedLock<T>(sync::ShardedLock<T>);

impl<T> ShardedLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::ShardedLock::new(value))
    }

    pub(crate) fn read(&self) -> LockResult<sync::ShardedLockReadGuard<'_, T>> {
        step();
        self.0.read()
    }

    pub(crate) fn write(&self) -> LockResult<sync::ShardedLockWriteGuard<'_, T>> {
        step();
        self.0.write()
    }
}
