//! Write Haggle plugins in Rust.
//!
//! A plugin is an ordinary crate: a `Default` struct, one trait per hook that it has, and one macro that names the hooks and
//! the capabilities it uses.
//!
//! ```
//! use haggle_sdk::prelude::*;
//!
//! #[derive(Default)]
//! struct WordFilter;
//!
//! impl BeforeMessage for WordFilter {
//!     fn before_message(&mut self, _call: &Call, draft: Draft) -> Decision {
//!         if draft.content.contains("forbidden") {
//!             return Decision::reject("word_filter", "please rephrase");
//!         }
//!         metrics::count("passed");
//!         Decision::Continue
//!     }
//! }
//!
//! haggle_sdk::plugin! { WordFilter, hooks: [before_message], caps: [metrics] }
//!
//! // Natively the same code runs against a host in memory:
//! let mut app = haggle_sdk::test::Harness::<WordFilter>::new();
//! let conversation = app.direct("alice", "bob");
//! let refused = app.send("alice", Draft::text(&conversation, "a forbidden word")).unwrap_err();
//! assert_eq!(refused.code, "word_filter");
//! assert!(app.send("alice", Draft::text(&conversation, "hello")).is_ok());
//! assert_eq!(app.counter("passed"), 1);
//! ```
//!
//! # Layout
//!
//! * [`types`]: what handlers are given and give back. Plain owned structs; nothing of the binary interface shows.
//! * [`hooks`]: one trait per hook, each with an example.
//! * [`sockets`]: what handlers of a namespace are given and give back.
//! * Capabilities, one module each: [`kv`], [`kv_global`], [`messages`], [`conversations`], [`participants`], [`users`],
//!   [`events`], [`notifications`], [`timers`], [`client`], [`log`], [`metrics`], [`config`].
//! * [`json`]: metadata, payloads and configuration as serde types.
//! * [`time`]: moments as clients read them.
//! * [`mod@test`] and [`native`] (not in the component): a host in memory, and the port behind which another one can stand.
//!
//! # Building
//!
//! `crate-type = ["cdylib", "rlib"]`, then `cargo build --release --target wasm32-unknown-unknown`. The server turns the module
//! into a component when it loads it; no other tool is needed.
//!
//! # What a component asks for
//!
//! It exports the hooks that the macro names. It imports the capabilities that its code reaches, and `plugin!` must name each of
//! them: one that is reached and not named fails the link, with a symbol that says so (natively, in [`mod@test`], it is
//! [`Error::Denied`]). `log` is always imported, whether named or not, because a panic reports its message and place through
//! it; a manifest therefore grants `log` as a matter of course.
//!
//! # Instances
//!
//! The server keeps several instances of a plugin and replaces them now and then. The struct is made by `Default` once per
//! instance, so its fields are a cache: state that matters belongs into [`kv`].

// Lets the macro's paths resolve inside this crate as well (documentation tests, the capability list).
extern crate self as haggle_sdk;

#[cfg(any(test, all(target_arch = "wasm32", feature = "allocator", not(target_feature = "atomics"))))]
mod alloc;
mod caps;
mod error;
pub mod hooks;
pub mod json;
mod macros;
pub mod sockets;
pub mod time;
pub mod types;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(missing_docs, reason = "generated from the contract, and glue that only the macro names")]
pub mod guest;

#[cfg(all(target_arch = "wasm32", feature = "allocator", not(target_feature = "atomics")))]
#[global_allocator]
static ALLOCATOR: alloc::Lists = alloc::Lists::new();

#[cfg(not(target_arch = "wasm32"))]
pub mod native;
#[cfg(not(target_arch = "wasm32"))]
pub mod test;

pub use caps::{client, config, conversations, events, kv, kv_global, log, messages, metrics, notifications, participants, timers, users};
pub use error::{Error, Failure, Rejection, Stop};

/// Re-exported so that a plugin needs no dependency of its own for it.
pub use serde_json;

/// What every plugin's source starts with.
pub mod prelude {
    pub use crate::{
        Error, Failure, Rejection, Stop, client, config, conversations, events,
        hooks::{
            AfterConnection, AfterConversation, AfterMessage, AfterParticipant, AfterReaction, AfterReceipt, BeforeConversation, BeforeMessage,
            BeforeParticipant, BeforeReaction, Command, Http, Lifecycle, Namespace, Timer,
        },
        json, kv, kv_global, log, messages, metrics, notifications, participants,
        sockets::{Args, Audience, ConnectRefused, CoreEvent, Emit, Handshake, SocketEvent, Target},
        time, timers,
        types::*,
        users,
    };
}

/// A plugin as [`plugin!`] declares it.
pub trait Plugin: Default + 'static {
    /// The hooks it exports.
    const HOOKS: &'static [hooks::Hook];
    /// The capabilities it names.
    const CAPABILITIES: &'static [Capability];
}

/// What a plugin may be granted. The names in manifests are those of [`Capability::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the module of the same name")]
pub enum Capability {
    Log,
    Metrics,
    Config,
    Kv,
    KvGlobal,
    Messages,
    Conversations,
    Participants,
    Users,
    Events,
    Notifications,
    Client,
    Timers,
}

impl Capability {
    /// `kv-global`, as manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Log => "log",
            Capability::Metrics => "metrics",
            Capability::Config => "config",
            Capability::Kv => "kv",
            Capability::KvGlobal => "kv-global",
            Capability::Messages => "messages",
            Capability::Conversations => "conversations",
            Capability::Participants => "participants",
            Capability::Users => "users",
            Capability::Events => "events",
            Capability::Notifications => "notifications",
            Capability::Client => "client",
            Capability::Timers => "timers",
        }
    }
}
