//! A small Rust client for Haggle: REST, and the native WebSocket protocol with resume.
//!
//! Small enough to read in ten minutes and to copy into a project of your own: one connection per REST request, one task per socket.

mod rest;
mod socket;

pub use rest::{Answer, Rest};
pub use socket::{Refused, Socket};
