//! How a call can fail to give an answer.

use std::fmt;

use haggle_engine::ports::{Hook, HookError};
use haggle_model::PluginId;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

/// Why there is no answer. The word is the metric's `outcome` and the error's `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The code ended abnormally: a panic, a bad memory access, a stack overflow.
    Trap,
    /// Its wall-clock time was over.
    Timeout,
    /// Its CPU time was over.
    Cpu,
    /// It wanted more memory than it may have.
    Memory,
    /// Its answer (or what it handed to the host) is too large or breaks the contract.
    Output,
    /// More host calls, or more bytes in them, than it may make.
    HostCalls,
    /// It said itself that it failed.
    Error,
    /// Not called: it has failed too often just now.
    Breaker,
    /// Not called: it is not active.
    Gone,
    /// Not called: all instances are busy.
    Overloaded,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Trap => "trap",
            Kind::Timeout => "timeout",
            Kind::Cpu => "cpu",
            Kind::Memory => "memory",
            Kind::Output => "output",
            Kind::HostCalls => "host_calls",
            Kind::Error => "error",
            Kind::Breaker => "breaker",
            Kind::Gone => "gone",
            Kind::Overloaded => "overloaded",
        }
    }

    /// Says something bad about the plugin: the breaker counts it.
    pub(crate) fn is_fault(self) -> bool {
        !matches!(self, Kind::Error | Kind::Breaker | Kind::Gone | Kind::Overloaded)
    }
}

/// There is no answer, and why.
#[derive(Clone, Debug)]
pub(crate) struct CallError {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl CallError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> CallError {
        CallError {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn into_hook_error(self, plugin: &PluginId, hook: Hook) -> HookError {
        HookError {
            plugin: plugin.clone(),
            hook: hook.as_str(),
            kind: self.kind.as_str(),
            message: self.message,
        }
    }
}

/// Thrown inside a store to end the call with a known kind.
#[derive(Debug)]
pub(crate) struct Thrown(pub(crate) Kind, pub(crate) String);

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Thrown {}

/// An error that ends the call with this kind.
pub(crate) fn throw(kind: Kind, message: impl Into<String>) -> wasmtime::Error {
    wasmtime::Error::new(Thrown(kind, message.into()))
}

/// Longest message kept of one fault, in bytes.
const MESSAGE_BYTES_MAX: usize = 2048;

/// What an error of wasmtime says about the call. `said` is the last error line that the guest logged in it.
pub(crate) fn classify(error: &wasmtime::Error, said: Option<&str>) -> CallError {
    let kind = if let Some(thrown) = error.downcast_ref::<Thrown>() {
        thrown.0
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        if *trap == Trap::Interrupt { Kind::Cpu } else { Kind::Trap }
    } else if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        Kind::Overloaded
    } else {
        Kind::Output // neither the code's fault nor the host's limits: what crossed the border breaks the contract
    };
    CallError::new(kind, describe(error, said))
}

fn describe(error: &wasmtime::Error, said: Option<&str>) -> String {
    let mut text = error.root_cause().to_string();
    if let Some(said) = said {
        text.push_str(": ");
        text.push_str(said);
    }
    if let Some(place) = error.downcast_ref::<WasmBacktrace>().and_then(innermost) {
        text.push_str(" (in ");
        text.push_str(&place);
        text.push(')');
    }
    truncate(&mut text, MESSAGE_BYTES_MAX);
    text
}

/// The first frame that says more than the panic machinery, with file and line where the code carries them.
fn innermost(backtrace: &WasmBacktrace) -> Option<String> {
    let is_machinery = |name: &str| {
        ["panic", "abort", "core::", "std::", "alloc::", "rust_"]
            .iter()
            .any(|word| name.contains(word))
    };
    let frame = backtrace
        .frames()
        .iter()
        .find(|frame| frame.func_name().is_some_and(|name| !is_machinery(name)))?;
    let name = format!("{:#}", rustc_name(frame.func_name()?));
    let place = frame
        .symbols()
        .iter()
        .find_map(|symbol| Some(format!("{}:{}", symbol.file()?, symbol.line()?)));
    Some(place.map_or_else(|| name.clone(), |place| format!("{name} at {place}")))
}

/// Function names come demangled or as `name::h0123456789abcdef`; the hash helps nobody.
fn rustc_name(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((head, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => head,
        _ => name,
    }
}

/// Cuts at a character border at or below `max` bytes.
pub(crate) fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let mut text = "aé".to_owned();
        truncate(&mut text, 2);
        assert_eq!(text, "a");
    }

    #[test]
    fn thrown_kinds_are_found_again() {
        let error = throw(Kind::HostCalls, "too many").context("while calling");
        let found = classify(&error, Some("boom"));
        assert_eq!((found.kind, found.message.as_str()), (Kind::HostCalls, "too many: boom"));
        assert_eq!(classify(&wasmtime::Error::msg("unexpected discriminant"), None).kind, Kind::Output);
    }
}
