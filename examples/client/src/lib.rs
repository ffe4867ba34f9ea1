//! A small Rust client for Haggle: REST, the native WebSocket protocol with resume, and a server process of one's own.
//!
//! Small enough to read in ten minutes and to copy into a project of your own: one connection per REST request, one task per socket.

mod rest;
mod server;
mod socket;

pub use rest::{Answer, Rest};
pub use server::Server;
pub use socket::{Refused, Socket};
