//! Socket.IO over real sockets, against the real engine on a store in memory.

mod chat;
mod client;
mod polling;
mod websocket;
