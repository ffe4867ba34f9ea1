//! Socket.IO over real sockets, against the real engine on a store in memory.

mod authorization;
mod chat;
mod client;
mod dialects;
mod mapping;
mod metrics;
mod polling;
mod recovery;
#[path = "../support/roles.rs"]
mod roles;
#[path = "../support/server.rs"]
#[allow(dead_code, reason = "groups are needed elsewhere")]
mod server;
mod storm;
mod websocket;
