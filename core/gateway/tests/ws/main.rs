//! The native WebSocket over real sockets, against the real engine on a store in memory.

mod authorization;
mod broadcasts;
mod client;
mod lifecycle;
mod requests;
mod resume;
#[path = "../support/roles.rs"]
mod roles;
mod server;
mod slow;
mod violations;
