//! `AsKey`: what a key can be looked up by.

use std::borrow::Borrow;
use std::hash::Hash;

/// A type by which a key of type `K` can be looked up: a `K`, or what it borrows as, such as a `str` for a
/// `String`.
///
/// A key is made of it only when the key gets a pool. Implemented for every type that `K` borrows as and
/// that can be made a `K` again, as in a [`HashMap`](std::collections::HashMap); both must hash and
/// compare alike.
///
/// # Examples
///
/// ```
/// use latebind::{KeyedPool, net::TcpDialer};
///
/// # let port = latebind::net::listen_tcp("127.0.0.1:0")?.local_addr()?.port();
/// let pool = KeyedPool::new(move |host: &String| TcpDialer::new(host.as_str(), port));
/// # let pool = KeyedPool::new(|_: &String| TcpDialer::new("127.0.0.1", 1));
/// assert!(pool.try_get("localhost").is_err()); // no `String` is made
/// assert!(pool.try_get(&String::from("localhost")).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsKey<K>: Hash {
    /// Whether it names this key.
    #[doc(hidden)]
    fn is(&self, key: &K) -> bool;

    /// The key that it names.
    #[doc(hidden)]
    fn to_key(&self) -> K;
}

impl<K, Q> AsKey<K> for Q
where
    K: Borrow<Q>,
    Q: ?Sized + Eq + Hash + ToOwned<Owned = K>,
{
    #[inline]
    fn is(&self, key: &K) -> bool {
        key.borrow() == self
    }

    fn to_key(&self) -> K {
        self.to_owned()
    }
}
