//! The directory: maps keys to their pools, and is read without a write that threads share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use crate::dialer::Dialer;
use crate::pool::Pool;
use crate::runtime::sync::{AtomicBool, Hashing, Ordering, Process, ShardedLock};
use crate::shell::Shell;

use super::AsKey;
use super::at_hand::{AtHand, Item};

/// A key and its pool.
pub(super) struct KeyRecord<K, D: Dialer> {
    pub(super) key: K,
    /// The key's hash in this directory.
    hash: u64,
    pub(super) pool: Pool<D>,
    /// Whether the record was struck: by now the key has another pool, or none.
    has_gone: AtomicBool,
}

impl<K, D: Dialer> KeyRecord<K, D> {
    pub(super) fn new(key: K, hash: u64, pool: Pool<D>) -> Arc<Self> {
        Arc::new(Self { key, hash, pool, has_gone: AtomicBool::new(false) })
    }
}

impl<K, D: Dialer> Item for KeyRecord<K, D> {
    fn tag(&self) -> u64 {
        self.hash
    }

    #[inline]
    fn has_gone(&self) -> bool {
        self.has_gone.load(Ordering::Acquire)
    }
}

/// All keys that have a pool.
///
/// A key's `Hash` and `Eq` are user code, and so run outside the lock. Under it, only hashes and
/// addresses of records are compared.
pub(super) struct Directory<K: Send + Sync, D: Dialer> {
    all: ShardedLock<All<K, D>>,
    hashing: Hashing,
    at_hand: AtHand<KeyRecord<K, D>>,
    /// The process that made it. In a child of that process the directory is closed and empty.
    process: Process,
}

struct All<K, D: Dialer> {
    /// The first record of each hash. It lies in the table itself, because a look-up among many
    /// keys would otherwise wait for one more cache line.
    first: ByHash<Arc<KeyRecord<K, D>>>,
    /// The other records of the same hash: nearly always none.
    more: ByHash<Vec<Arc<KeyRecord<K, D>>>>,
    is_closed: bool,
}

type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;

/// The directory is closed, and accepts no more keys.
pub(super) struct IsClosed;

impl<K: Eq + Hash + Send + Sync, D: Dialer> Directory<K, D> {
    pub(super) fn new() -> Self {
        let all = All { first: HashMap::default(), more: HashMap::default(), is_closed: false };
        let hashing = Hashing::default();
        let process = Process::this();
        Self { all: ShardedLock::new(all), hashing, at_hand: AtHand::new(), process }
    }

    /// Never 0, which marks an empty slot at hand.
    pub(super) fn hash<Q: ?Sized + AsKey<K>>(&self, key: &Q) -> u64 {
        self.hashing.hash_one(key).max(1)
    }

    /// The key's record, from this thread's references at hand or else from the map. Its pool may
    /// be closed.
    #[inline]
    pub(super) fn find<Q: ?Sized + AsKey<K>>(&self, key: &Q) -> Option<Arc<KeyRecord<K, D>>> {
        self.at_hand.take_next(|record| key.is(&record.key)).or_else(|| self.find_by_hash(key))
    }

    #[inline(never)]
    fn find_by_hash<Q: ?Sized + AsKey<K>>(&self, key: &Q) -> Option<Arc<KeyRecord<K, D>>> {
        let hash = self.hash(key);
        let at_hand = self.at_hand.take(hash, |record| key.is(&record.key));
        at_hand.or_else(|| self.look_up_by_hash(hash, key))
    }

    /// The key's record, from the map.
    pub(super) fn look_up<Q: ?Sized + AsKey<K>>(&self, key: &Q) -> Option<Arc<KeyRecord<K, D>>> {
        self.look_up_by_hash(self.hash(key), key)
    }

    fn look_up_by_hash<Q: ?Sized + AsKey<K>>(
        &self,
        hash: u64,
        key: &Q,
    ) -> Option<Arc<KeyRecord<K, D>>> {
        let (first, more) = self.read(None, |all| {
            let first = Arc::clone(all.first.get(&hash)?);
            Some((first, all.more.get(&hash).cloned().unwrap_or_default()))
        })?;
        std::iter::once(first).chain(more).find(|record| key.is(&record.key))
    }

    /// Enters a record and returns it, or returns the record that its key already has.
    pub(super) fn enter(
        &self,
        record: &Arc<KeyRecord<K, D>>,
    ) -> Result<Arc<KeyRecord<K, D>>, IsClosed> {
        if self.process.is_a_parent() {
            return Err(IsClosed);
        }
        let mut seen: Vec<Arc<KeyRecord<K, D>>> = Vec::new();
        loop {
            if let Some(found) = seen.iter().find(|seen| seen.key == record.key) {
                return Ok(Arc::clone(found));
            }
            let mut all = self.all.write();
            if all.is_closed {
                return Err(IsClosed);
            }
            let now: Vec<_> = all.of(record.hash).cloned().collect();
            if !now.iter().map(Arc::as_ptr).eq(seen.iter().map(Arc::as_ptr)) {
                // Records have come since; compare with them as well, outside the lock.
                drop(all);
                seen = now;
                continue;
            }
            match all.first.entry(record.hash) {
                Entry::Vacant(none) => drop(none.insert(Arc::clone(record))),
                Entry::Occupied(_) => {
                    all.more.entry(record.hash).or_default().push(Arc::clone(record));
                }
            }
            return Ok(Arc::clone(record));
        }
    }
}

impl<K: Send + Sync, D: Dialer> Directory<K, D> {
    /// Removes a record whose pool is closed, if no other thread has.
    pub(super) fn strike(&self, record: &KeyRecord<K, D>) {
        self.strike_shell(record.hash, record.pool.shell());
    }

    /// The same, by the pool's shell.
    pub(super) fn strike_shell(&self, hash: u64, shell: &Arc<Shell<D>>) {
        if self.process.is_a_parent() {
            return;
        }
        let mut all = self.all.write();
        let struck = all.take(hash, |record| Arc::ptr_eq(record.pool.shell(), shell));
        drop(all);
        // Drops the record outside the lock, because it may hold the last handle of its pool.
        if let Some(record) = struck {
            record.has_gone.store(true, Ordering::Release);
            self.at_hand.strike(&record);
        }
    }

    /// Keeps a reference at hand for this thread.
    #[inline]
    pub(super) fn remember(&self, record: Arc<KeyRecord<K, D>>) {
        self.at_hand.put(record);
    }

    /// All records at this moment.
    pub(super) fn all(&self) -> Vec<Arc<KeyRecord<K, D>>> {
        self.read(Vec::new(), |all| {
            all.first.values().chain(all.more.values().flatten()).cloned().collect()
        })
    }

    pub(super) fn len(&self) -> usize {
        self.read(0, |all| all.first.len() + all.more.values().map(Vec::len).sum::<usize>())
    }

    pub(super) fn close(&self) {
        self.all.write().is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.read(true, |all| all.is_closed)
    }

    /// Reads the map; returns `nothing` in a child of its process.
    fn read<T>(&self, nothing: T, read: impl FnOnce(&All<K, D>) -> T) -> T {
        if self.process.is_a_parent() {
            return nothing;
        }
        read(&self.all.read())
    }
}

impl<K, D: Dialer> All<K, D> {
    fn of(&self, hash: u64) -> impl Iterator<Item = &Arc<KeyRecord<K, D>>> {
        self.first.get(&hash).into_iter().chain(self.more.get(&hash).into_iter().flatten())
    }

    fn take(
        &mut self,
        hash: u64,
        is_it: impl Fn(&KeyRecord<K, D>) -> bool,
    ) -> Option<Arc<KeyRecord<K, D>>> {
        let Entry::Occupied(mut first) = self.first.entry(hash) else { return None };
        let Entry::Occupied(mut more) = self.more.entry(hash) else {
            return is_it(first.get()).then(|| first.remove());
        };
        let taken = if is_it(first.get()) {
            let next = more.get_mut().pop().expect("there are others");
            Some(first.insert(next))
        } else {
            let at = more.get().iter().position(|record| is_it(record));
            at.map(|at| more.get_mut().swap_remove(at))
        };
        if more.get().is_empty() {
            more.remove();
        }
        taken
    }
}

/// Passes on a number that is already a hash.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed here");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
