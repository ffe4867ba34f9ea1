//! The pipeline that every command takes.
mod actor;
pub mod ports;
mod refusal;

pub use actor::Actor;
pub use refusal::Refusal;
