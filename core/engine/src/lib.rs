//! Turns, lanes, hub and feeds: the pipeline that every command takes.
//!
//! Start with [`Engine::submit`]: a command takes its place in its conversation's queue, its **turn** decides on a state that
//! includes everything staged before it, and stages one **transaction**; the shard's **lane** makes it durable, answers and
//! publishes; **feeds** read the log and do what comes after. The engine knows no transport, no WebAssembly and no storage format.

mod acting;
mod actor;
mod clock;
mod command;
mod commands_seen;
mod concurrent_map;
mod conversation;
mod crons;
mod deliver;
mod digest;
mod engine;
mod feeds;
mod global_kv;
mod hub;
mod inner;
mod lanes;
mod marks;
mod metrics;
mod notifications;
mod pipeline;
mod places;
pub mod ports;
mod presence;
mod publish;
mod rates;
mod readers;
mod refusal;
pub mod route;
mod scope;
pub mod sockets;
mod state;
mod timers;
mod totals;
mod transaction;
mod turns;
mod typing;
mod warm;

pub use actor::{Actor, Transport};
pub use clock::{Clock, ManualClock, SystemClock};
pub use command::{
    AttributeChanges, BUILT_IN_KINDS, Command, NewConversation, NewMessage, Outcome, ProfilePatch, Reply, Request, To, context_address,
};
pub use engine::{Engine, EngineOptions, Head, Health};
pub use hub::{ENCODINGS, Edge, Hub, Published, Push, Subscriber, What};
pub(crate) use inner::Inner;
pub use notifications::NotificationView;
pub use rates::Quota;
pub use readers::{ReadSteps, Readers};
pub use refusal::Refusal;
