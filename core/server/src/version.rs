//! Which build this is.

/// The version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("HAGGLE_COMMIT");

/// Version and commit, as `haggle --version` prints them.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("HAGGLE_COMMIT"), ")");
