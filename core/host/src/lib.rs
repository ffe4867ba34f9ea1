//! Runs plugins: sandboxed WebAssembly components that implement the engine's hooks.
//!
//! Start with [`PluginHost`]. A plugin is a folder with a `plugin.toml` ([`Manifest`]) and its code. It is loaded in steps
//! (`loader`): read, judge its border (`component`), check its grants (`grants`), compile or take from the `cache`, link only
//! what was granted (`capabilities`), start it once for trial, and take its place in the `registry`, which every command pins.
//! A call goes through `calls`: breaker, `pool`, budgets (`state`), the component, a check of the answer (`convert`).
//!
//! What must hold, whatever a plugin does:
//! - a call ends by its deadline: running code is stopped by the engine's clock (`machine`), waiting by timeouts of its own;
//! - a call that has begun is never dropped half way, and after any fault its store is;
//! - "it said no" and "it failed" are different answers, and the second one is judged by the hook's policy;
//! - what it writes counts only when its answer was good.

mod bindings;
mod breaker;
mod cache;
mod calls;
mod capabilities;
mod client;
mod component;
mod convert;
mod fault;
mod grants;
mod host;
mod loader;
mod machine;
pub mod manifest;
pub mod metrics;
mod options;
mod plugin;
mod pool;
mod registry;
mod shares;
mod sockets;
mod state;
mod watcher;

pub use breaker::{FAULTS_TO_OPEN, OPEN_MAX, OPEN_MIN};
pub use grants::{Capability, Policy};
pub use host::{PluginHost, PluginStatus, RunningVersion, check};
pub use loader::{CheckReport, LoadError};
pub use manifest::Manifest;
pub use options::{HostLimits, HostOptions};
