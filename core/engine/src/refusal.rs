//! A command that is not carried out, and why.

use std::{sync::Arc, time::Duration};

use haggle_model::ErrorCode;
use haggle_store::StoreError;

/// What a client is told instead of a result. Nothing was written, or (for `unavailable`) nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The stable code.
    pub code: ErrorCode,
    /// One sentence that names the value that broke the rule.
    pub message: Arc<str>,
    /// The field at fault, as a JSON pointer.
    pub field: Option<&'static str>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// Of a plugin's rejection or failure: which plugin, and its own code.
    pub plugin: Option<Arc<(String, String)>>,
}

impl Refusal {
    /// A refusal with a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<Arc<str>>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
            field: None,
            retry_after: None,
            plugin: None,
        }
    }

    /// The request is malformed at `field`.
    pub fn bad(field: &'static str, message: impl Into<Arc<str>>) -> Refusal {
        Refusal {
            field: Some(field),
            ..Refusal::new(ErrorCode::BadRequest, message)
        }
    }

    /// It is not there, or not for this user.
    pub fn not_found() -> Refusal {
        Refusal::new(ErrorCode::NotFound, "not found")
    }

    /// Known, but not allowed.
    pub fn forbidden(message: impl Into<Arc<str>>) -> Refusal {
        Refusal::new(ErrorCode::Forbidden, message)
    }

    /// The same, to be tried again after `after`.
    pub fn after(mut self, after: Duration) -> Refusal {
        self.retry_after = Some(after);
        self
    }

    /// The same, said by `plugin` with its own `code`.
    pub fn by_plugin(mut self, plugin: impl Into<String>, code: impl Into<String>) -> Refusal {
        self.plugin = Some(Arc::new((plugin.into(), code.into())));
        self
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        let code = if error.is_retryable() {
            ErrorCode::Unavailable
        } else {
            ErrorCode::Internal
        };
        Refusal::new(code, error.to_string())
    }
}
