#![doc = include_str!("../README.md")]
#![deny(unsafe_code)] // Allowed only in `fork`, call by call.

mod address;
mod alone;
pub mod conformance;
mod event_log;
mod faulty;
mod fork;
mod gate;
mod limits;
mod pace;
mod proxy;
mod script;
mod scripted;
#[cfg(feature = "simulation")]
pub mod simulation;

pub use crate::address::Address;
pub use crate::event_log::EventLog;
pub use crate::event_log::Kind;
pub use crate::event_log::Note;
pub use crate::faulty::Faulty;
pub use crate::faulty::FaultyError;
pub use crate::gate::Gate;
pub use crate::proxy::BlackHole;
pub use crate::proxy::Counts;
pub use crate::proxy::OnConnect;
pub use crate::proxy::Proxy;
pub use crate::script::Act;
pub use crate::script::Books;
pub use crate::script::Hook;
pub use crate::script::Injected;
pub use crate::script::Script;
pub use crate::scripted::Scripted;
pub use crate::scripted::ScriptedConnection;
