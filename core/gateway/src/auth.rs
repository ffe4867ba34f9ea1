//! Who a token speaks for.

use std::sync::Arc;

use haggle_model::UserId;

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `sub` or `id` (equal where both are there).
    pub user: UserId,
    /// The roles claim.
    pub roles: Arc<[String]>,
    /// `exp`, in seconds since the Unix epoch.
    pub expires_at: i64,
}

/// Why a token is refused. Never holds the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("No token provided")]
    Missing,
    /// It is malformed, not signed by a known key, or breaks a rule.
    #[error("Invalid token")]
    Invalid,
    /// Its time is over.
    #[error("Token expired")]
    Expired,
}
