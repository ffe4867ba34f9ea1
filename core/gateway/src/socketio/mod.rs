//! Socket.IO v5 over Engine.IO v4, for clients that speak it already; `docs/SOCKETIO.md` says what the events mean.
//!
//! A packet's way in: [`engineio`] has the session and its transport, [`client`] the namespaces of that session and the rules
//! of the protocol, [`chat`] turns events into engine commands. An event's way out: the engine's hub offers it to a
//! [`chat::Chat`], [`encode`] writes it once for all sessions as WebSocket frames, which polling takes apart again.
//! Namespaces that plugins own are [`dialects`], a connection in one is an [`owned::Owned`]. What that and a chat have in common is a
//! [`place::Place`]; [`recovery`] keeps it, and what its client may miss, after a cut.
//!
//! [`packet`] and [`engineio::packet`] are the codec: they do no I/O, and are public for who tests or fuzzes them.
//!
//! Invariants: packets of one session are handled in the order of their arrival; a push never waits and never calls the
//! engine; what waits for a session is bounded, and who falls behind is disconnected and comes back; no lock is held across
//! an await or while the engine is called.

mod chat;
mod client;
mod dialects;
mod encode;
pub mod engineio;
mod failure;
pub mod metrics;
mod opened;
mod owned;
pub mod packet;
mod permit;
mod place;
mod recovery;

pub use chat::chat_events;
pub use engineio::{
    http::{handle, is_path},
    sessions::Sessions,
};
