//! Why something did not happen: a host call ([`Error`]), a handler's "no" ([`Rejection`]), a handler's "I could not" ([`Failure`]).

use std::fmt;

/// Why a host call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not granted, or not yours to touch.
    Denied,
    /// A limit of this plugin or of Haggle; names it.
    Quota(String),
    /// There is no such thing.
    NotFound,
    /// The arguments break a rule; names it.
    Invalid(String),
    /// Not now; the same call may work later.
    Unavailable(String),
}

impl Error {
    /// A stable word for it: `denied`, `quota`, `not_found`, `invalid` or `unavailable`.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Denied => "denied",
            Error::Quota(_) => "quota",
            Error::NotFound => "not_found",
            Error::Invalid(_) => "invalid",
            Error::Unavailable(_) => "unavailable",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Denied => f.write_str("denied"),
            Error::NotFound => f.write_str("not found"),
            Error::Quota(what) => write!(f, "quota: {what}"),
            Error::Invalid(what) => write!(f, "invalid: {what}"),
            Error::Unavailable(what) => write!(f, "unavailable: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Invalid(error.to_string())
    }
}

/// A handler's "no": the plugin's own code and a sentence for people. Nothing that the handler wrote takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A short stable word, lower case with underscores: `slot_taken`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

impl Rejection {
    /// A rejection of this code.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Rejection {
        Rejection {
            code: code.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// In a command the caller hears of it, by the error's own code.
impl From<Error> for Rejection {
    fn from(error: Error) -> Rejection {
        Rejection::new(error.code(), error.to_string())
    }
}

/// An after-hook or timer that could not do its work: it is tried again. Any displayable error becomes one with `?`.
///
/// Deliberately not `Display`, so that the conversion can be this general.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// The two ways out of a before-hook's helper functions that are not success. `?` makes [`Stop::Fail`] of an [`Error`] and
/// [`Stop::Reject`] of a [`Rejection`].
///
/// "The plugin said no" and "the plugin could not tell" stay apart: the first is the author's answer, the second ends the call
/// abnormally and leaves the answer to the policy in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The answer is no.
    Reject(Rejection),
    /// There is no answer.
    Fail(String),
}

impl Stop {
    /// A rejection of this code.
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Stop {
        Stop::Reject(Rejection::new(code, message))
    }

    /// The rejection; a failure ends the call here.
    ///
    /// # Panics
    ///
    /// On [`Stop::Fail`], on purpose: the server takes an abnormal end for what it is.
    pub fn into_rejection(self) -> Rejection {
        match self {
            Stop::Reject(rejection) => rejection,
            Stop::Fail(why) => panic!("{why}"),
        }
    }
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Stop {
        Stop::Reject(rejection)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Fail(error.to_string())
    }
}
