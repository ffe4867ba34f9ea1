//! Configuration: defaults < file < environment (`HAGGLE__SECTION__KEY`) < flags.
//!
//! [`Settings`] are the typed values, [`load`] merges the sources and refuses keys that nobody knows.
//! `config/default.toml` explains every key; a test keeps it equal to the defaults here.

mod load;
mod nearest;
mod settings;

pub use load::{Effective, Flag, Loaded, Sources, load};
pub use nearest::nearest;
pub use settings::{
    Auth, BoundRoutes, Claim, Dialect, Drain, Http, LimitSettings, Log, LogFormat, Plugins, Rest, Retention, Server, Settings, Store, UnknownUsers,
    Users, Ws,
};

/// The annotated defaults, as `haggle config default` prints them.
pub const DEFAULT_TOML: &str = include_str!("../../../../config/default.toml");
