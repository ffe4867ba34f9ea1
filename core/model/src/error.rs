//! One small list of codes between domain errors and the transports.

/// What went wrong, as clients see it. Each transport maps it to its own numbers in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request is malformed or breaks a documented rule.
    BadRequest,
    /// No or no valid token.
    Unauthenticated,
    /// The token's time is over.
    TokenExpired,
    /// Known, but not allowed.
    Forbidden,
    /// Not there, or not for this user.
    NotFound,
    /// The present state forbids it.
    Conflict,
    /// `If-Match` named another version.
    PreconditionFailed,
    /// A named limit of size is exceeded.
    TooLarge,
    /// One of the two users blocks the other.
    Blocked,
    /// The user's budget is used up; try again after the given time.
    RateLimited,
    /// A queue is full or the turn did not come in time; nothing was written.
    Overloaded,
    /// The store or the shard is not there now; the same id may be sent again.
    Unavailable,
    /// The same idempotency key with other content.
    IdempotencyKeyReused,
    /// A plugin said no; its own code stands in the detail.
    PluginRejected,
    /// A plugin failed and its policy is to refuse.
    PluginError,
    /// The store accepts no writes.
    ReadOnly,
    /// A frame type the server does not know.
    UnknownType,
    /// Our mistake.
    Internal,
}

impl ErrorCode {
    /// Every code, for tables and docs.
    pub const ALL: [ErrorCode; 18] = [
        ErrorCode::BadRequest,
        ErrorCode::Unauthenticated,
        ErrorCode::TokenExpired,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::PreconditionFailed,
        ErrorCode::TooLarge,
        ErrorCode::Blocked,
        ErrorCode::RateLimited,
        ErrorCode::Overloaded,
        ErrorCode::Unavailable,
        ErrorCode::IdempotencyKeyReused,
        ErrorCode::PluginRejected,
        ErrorCode::PluginError,
        ErrorCode::ReadOnly,
        ErrorCode::UnknownType,
        ErrorCode::Internal,
    ];

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::Unauthenticated => "unauthenticated",
            ErrorCode::TokenExpired => "token_expired",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotFound => "not_found",
            ErrorCode::Conflict => "conflict",
            ErrorCode::PreconditionFailed => "precondition_failed",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::Blocked => "blocked",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::IdempotencyKeyReused => "idempotency_key_reused",
            ErrorCode::PluginRejected => "plugin_rejected",
            ErrorCode::PluginError => "plugin_error",
            ErrorCode::ReadOnly => "read_only",
            ErrorCode::UnknownType => "unknown_type",
            ErrorCode::Internal => "internal",
        }
    }

    /// Whether the same request may succeed later without a change.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::ReadOnly | ErrorCode::PluginError
        )
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
