//! Engine.IO v4: sessions over long polling and WebSocket, with upgrade, heartbeat and bounds. Knows nothing of Socket.IO
//! but that it is told of messages, of their order, and of the end.

pub(super) mod http;
pub mod packet;
pub(super) mod session;
pub(super) mod sessions;
pub(super) mod websocket;
