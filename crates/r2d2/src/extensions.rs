//! `Extensions`: what a program keeps with a connection.

use std::any::{Any, TypeId};
use std::collections::HashMap;

/// Values that are kept with a connection, one of each type: its prepared statements, say.
///
/// # Examples
///
/// ```
/// let mut extensions = r2d2::Extensions::new();
/// assert_eq!(extensions.insert(5_u32), None);
/// assert_eq!(extensions.insert(6_u32), Some(5));
/// assert_eq!(extensions.get::<u32>(), Some(&6));
/// assert_eq!(extensions.get::<i64>(), None);
/// ```
#[derive(Default)]
pub struct Extensions(HashMap<TypeId, Box<dyn Any + Sync + Send>>);

impl Extensions {
    /// Without a value.
    #[inline]
    pub fn new() -> Extensions {
        Extensions::default()
    }

    /// Puts a value in, and gives back the one of this type that was there.
    pub fn insert<T: 'static + Sync + Send>(&mut self, value: T) -> Option<T> {
        self.0.insert(TypeId::of::<T>(), Box::new(value)).and_then(unbox)
    }

    /// The value of this type.
    pub fn get<T: 'static + Sync + Send>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>()).and_then(|value| value.downcast_ref())
    }

    /// The value of this type, to be changed.
    pub fn get_mut<T: 'static + Sync + Send>(&mut self) -> Option<&mut T> {
        self.0.get_mut(&TypeId::of::<T>()).and_then(|value| value.downcast_mut())
    }

    /// Takes the value of this type out.
    pub fn remove<T: 'static + Sync + Send>(&mut self) -> Option<T> {
        self.0.remove(&TypeId::of::<T>()).and_then(unbox)
    }

    /// Drops all values.
    #[inline]
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn unbox<T: 'static>(value: Box<dyn Any + Sync + Send>) -> Option<T> {
    value.downcast().ok().map(|value| *value)
}
