//! What a store can fail with.

/// A read or a write of state failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Not now; the same call may succeed later.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A row does not match its checksum or cannot be decoded. Never skipped in silence.
    #[error("store corrupt: {0}")]
    Corrupt(String),
    /// Another process has it open.
    #[error("store cannot be opened: {0} is in use by another process")]
    InUse(String),
    /// The store was made by a newer version, or cannot be opened.
    #[error("store cannot be opened: {0}")]
    Open(String),
}

impl StoreError {
    /// Whether trying again can help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable(_))
    }
}

/// An append was not made, or nobody knows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else has appended: this writer is no longer the shard's.
    #[error("fenced: another writer has appended to the shard")]
    Fenced,
    /// Nothing was appended for lack of space; the log is as before and may be written again.
    #[error("store full: {0}")]
    Full(String),
    /// Nothing was appended; try again later.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The write may or may not be there. Nothing more is written until [`Log::recover`](crate::Log::recover).
    #[error("store failed: {0}")]
    Failed(String),
}
