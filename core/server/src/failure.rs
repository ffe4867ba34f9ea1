//! How a command ends when it does not succeed: what broke, what to try, and the number a script sees.

use std::{fmt, process::ExitCode};

/// Why a command failed, as an exit code. `docs/OPERATIONS.md` has the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was tried and did not work.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// The data directory is in use by another process or cannot be opened.
    DataDir = 3,
    /// An address cannot be listened on.
    Listen = 4,
    /// The operators listener of a running server did not answer.
    Unreachable = 5,
}

/// A failed command.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The exit code.
    pub kind: Kind,
    /// What broke, naming the value at fault.
    pub message: String,
    /// What to change or run.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// The configuration or the command line is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    /// It was tried and did not work.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Failed, message)
    }

    /// The same with one line of advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The number that a script sees.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  try: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::failed(error.to_string())
    }
}
