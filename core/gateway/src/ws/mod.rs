//! The native WebSocket `/v1/ws`; `docs/PROTOCOL.md` says what its frames mean.
//!
//! A frame's way in: [`connection`] reads bytes, [`frame`] makes messages of them, [`session`] knows what is allowed now,
//! [`protocol`] decodes to an engine command, whose reply is written by [`encode`] straight into the outbox. An event's way
//! out: the engine's hub offers it to [`socket`], [`subscription`] judges it, [`outbox`] bounds it, the connection's task writes
//! everything due in one call. [`resume`] replays what a client missed; [`wheel`] keeps time for all connections at once.
//!
//! Invariants: a push never waits and never calls the engine; a frame is encoded once for all who get it; an idle connection
//! holds no buffer; every event of a subscription is sent once and in order, or told by a gap.

pub(crate) mod bucket;
mod connection;
mod connections;
mod encode;
pub(crate) mod frame;
mod handshake;
pub mod metrics;
#[doc(hidden)]
pub mod micro;
pub(crate) mod outbox;
mod plain;
mod protocol;
mod resume;
mod session;
mod socket;
mod subscription;
mod wheel;

pub use connections::Connections;
pub use handshake::{SUBPROTOCOL, upgrade};
pub use protocol::FRAME_TYPES;
