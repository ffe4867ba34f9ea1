//! The `haggle` binary: configuration, wiring, command line, operators' listener.
//!
//! Start with [`cli`] for what may be typed and with [`serve`] for how the parts become a server.

mod admin;
mod auth;
pub mod cli;
mod client;
pub mod config;
mod dev_key;
pub mod failure;
mod logs;
mod metrics;
mod plugins;
pub mod serve;
mod status;
mod token;
mod verify;
mod version;
