//! Atomic numbers of the system's, before each operation on which a conductor may have another thread
//! run.

use std::sync::atomic;

use super::conductor::step;

pub(crate) use std::sync::atomic::Ordering;

/// Passes each operation on, once it is this thread's turn.
macro_rules! in_turn {
    ($name:ident: $($operation:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name(atomic::$name);

        impl $name {
            $(
                #[inline]
                pub(crate) fn $operation(&self, $($argument: $kind,)* ordering: Ordering) $(-> $result)? {
                    step();
                    self.0.$operation($($argument,)* ordering)
                }
            )*
        }
    };
}

in_turn! { AtomicBool:
    load() -> bool;
    store(value: bool);
}

in_turn! { AtomicI64:
    load() -> i64;
    fetch_add(more: i64) -> i64;
}

in_turn! { AtomicU64:
    load() -> u64;
    store(value: u64);
    fetch_add(more: u64) -> u64;
}

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(value.into())
    }
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(value.into())
    }
}
