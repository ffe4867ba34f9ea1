//! A host in memory for unit tests of plugins: [`FakeHost`] keeps what a plugin writes, [`Harness`] plays the server around it.
//!
//! ```
//! use haggle_sdk::prelude::*;
//! use haggle_sdk::serde_json::json;
//! use haggle_sdk::test::Harness;
//!
//! #[derive(Default)]
//! struct Tip;
//!
//! impl Command for Tip {
//!     fn command(&mut self, call: &Call, _name: &str, _payload: &str) -> Result<String, Rejection> {
//!         events::emit("x.tip.given", &json!({"by": call.actor}))?;
//!         Ok("{}".into())
//!     }
//! }
//! haggle_sdk::plugin! { Tip, hooks: [command], caps: [events] }
//!
//! let mut app = Harness::<Tip>::new();
//! let conversation = app.direct("alice", "bob");
//! app.command("alice", &conversation, "tip.give", &json!({})).unwrap();
//! assert_eq!(app.emitted()[0].payload, json!({"by": "alice"}));
//! ```
//!
//! What it keeps faithfully: writes of a handler that rejects or fails are undone; global `set`, `add`, `delete` and `release`
//! take effect after the handler; `reserve` is all or none and belongs to the command; keys and timers follow the test's own clock;
//! what the macro does not name is denied. What it leaves to the testkit: other plugins, retries, limits, several conversations
//! at once, everything wasm.

mod client;
mod fake;
mod harness;
mod host;

pub use fake::{Audience, Emitted, FakeHost, START_MS};
pub use harness::Harness;
