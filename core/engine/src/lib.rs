//! Turns, lanes, hub and feeds: the pipeline that every command takes.
//!
//! Start with [`Engine::submit`]. The engine knows no transport, no WebAssembly and no storage format.

mod actor;
mod clock;
mod command;
mod engine;
mod hub;
pub mod ports;
mod refusal;

pub use actor::Actor;
pub use clock::{Clock, ManualClock, SystemClock};
pub use command::{BUILT_IN_KINDS, Command, NewConversation, NewMessage, Outcome, ProfilePatch, Reply, Request, To, context_address};
pub use engine::{Engine, EngineOptions, Head, Health};
pub use hub::{ENCODINGS, Edge, Hub, Published, Push, Subscriber, What};
pub use refusal::Refusal;

pub(crate) struct Inner {}
