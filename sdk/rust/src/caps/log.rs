//! Lines for the operator. Never write contents of messages or tokens.
//!
//! `log::info!("offer {id} expired")`; always available, also to a plugin that does not name it (a panic reports through it).

use super::host;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the author.
    Debug,
    /// Worth a line.
    Info,
    /// Somebody should look at it some day.
    Warn,
    /// Somebody should look at it.
    Error,
}

/// Writes one line; the server cuts long ones.
pub fn write(level: Level, text: &str) {
    // There is nobody to tell that telling failed.
    let _ = host!(Log.log_write(level, text));
}

/// `log::debug!("…", …)`: for the author.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($part:tt)+) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($part)+)) };
}

/// `log::info!("…", …)`: worth a line.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($part:tt)+) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($part)+)) };
}

/// `log::warn!("…", …)`: somebody should look at it some day.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($part:tt)+) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($part)+)) };
}

/// `log::error!("…", …)`: somebody should look at it.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($part:tt)+) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($part)+)) };
}

pub use crate::{__log_debug as debug, __log_error as error, __log_info as info, __log_warn as warn};
