//! Run a plugin against an in-memory Haggle with a virtual clock.
//!
//! A [`TestServer`] is the real engine: turns, transactions, the log and its feeds, timers, reservations. Only the store is in
//! memory and the clock is turned by hand. The plugin runs natively ([`TestServer::native`], in the debugger, with coverage) or,
//! with the feature `wasm`, as the component that a server would load (`TestServer::wasm`); a test that works with one works
//! with the other. For a handler alone `haggle_sdk::test` is smaller and faster; here a plugin meets what it will meet: others
//! at the same instant, crashes, limits.
//!
//! ```
//! use haggle_sdk::prelude::*;
//! use haggle_testkit::TestServer;
//! use std::time::Duration;
//!
//! #[derive(Default)]
//! struct Reminder;
//!
//! impl Command for Reminder {
//!     fn command(&mut self, call: &Call, _name: &str, payload: &str) -> Result<String, Rejection> {
//!         timers::set("remind", call.now_ms + 3_600_000, payload)?;
//!         Ok("{}".into())
//!     }
//! }
//!
//! impl Timer for Reminder {
//!     fn timer(&mut self, call: &Call, _name: &str, _due_ms: u64, payload: &str) -> Result<(), Failure> {
//!         messages::send(&Draft::text(call.conversation()?, format!("you wanted to hear: {payload}")))?;
//!         Ok(())
//!     }
//! }
//!
//! haggle_sdk::plugin! { Reminder, hooks: [command, timer], caps: [timers, messages] }
//!
//! let manifest = r#"
//!     id = "reminder"
//!     version = "1.0.0"
//!     api = "0.1"
//!     [hooks]
//!     command = { names = ["remind"] }
//!     timer = {}
//!     [grants]
//!     log = true
//!     timers = true
//!     messages = true
//! "#;
//! let server = TestServer::native::<Reminder>(manifest);
//! let conversation = server.direct("alice", "bob");
//! server.command("alice", &conversation, "remind", &"tea").unwrap();
//! server.advance(Duration::from_secs(3_599));
//! assert!(server.messages(&conversation).is_empty());
//! server.advance(Duration::from_secs(1));
//! assert_eq!(server.messages(&conversation)[0].content, "you wanted to hear: \"tea\"");
//! ```

mod asking;
mod client;
mod connection;
mod convert;
mod manifest;
mod native;
mod server;
mod sockets;
#[cfg(feature = "wasm")]
mod wasm;

pub use connection::{Connection, Live};
pub use native::Builder;
pub use server::{Refused, START_MS, Sent, Spot, TestServer};

/// What the server itself says: for tests that look deeper than [`TestServer`]'s own functions.
pub use haggle_engine as engine;
/// The words of the domain.
pub use haggle_model as model;
