//! The transports: bytes to commands, events to bytes. No business rule lives here.

pub mod auth;
