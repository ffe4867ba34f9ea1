//! The capabilities: one small module each, over the host of the present target.
//!
//! In a component the host is the imports of the contract. Natively it is whatever [`crate::native::install`] has put in place.

pub mod client;
pub mod config;
pub mod conversations;
pub mod events;
pub mod kv;
pub mod kv_global;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod notifications;
pub mod participants;
pub mod timers;
pub mod users;

/// Asks the host: `host!(Kv.kv_get(key))`.
#[cfg(not(target_arch = "wasm32"))]
macro_rules! host {
    ($capability:ident . $method:ident ( $($argument:expr),* )) => {
        $crate::native::ask($crate::Capability::$capability, |host| host.$method($($argument),*))
    };
}

/// Asks the host: `host!(Kv.kv_get(key))`.
#[cfg(target_arch = "wasm32")]
macro_rules! host {
    ($capability:ident . $method:ident ( $($argument:expr),* )) => {
        $crate::guest::host::$method($($argument),*)
    };
}

pub(crate) use host;
