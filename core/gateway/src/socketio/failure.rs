//! Which failures pass by themselves.

use haggle_engine::Refusal;
use haggle_model::ErrorCode;

/// What a plugin's failure is called when it says nothing about what the plugin was asked: it is busy, late, paused or being
/// replaced.
const PASSING: [&str; 5] = ["timeout", "breaker", "overloaded", "unavailable", "gone"];

/// Whether the same may succeed soon, without anybody doing anything about it.
pub(super) fn passes(refusal: &Refusal) -> bool {
    match (refusal.code, &refusal.plugin) {
        (ErrorCode::PluginError | ErrorCode::NotFound, Some(failure)) => PASSING.contains(&&*failure.1),
        // A conflict: what the plugin had read changed before it was done.
        (ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::ReadOnly | ErrorCode::Conflict, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_stays() {
        let of_plugin = |code, kind| passes(&Refusal::new(code, "x").by_plugin("p", kind));
        for kind in PASSING {
            assert!(of_plugin(ErrorCode::PluginError, kind), "{kind}");
        }
        assert!(of_plugin(ErrorCode::NotFound, "gone"), "it is being replaced");
        for kind in ["trap", "cpu", "memory", "denied", "output"] {
            assert!(!of_plugin(ErrorCode::PluginError, kind), "{kind}");
        }
        assert!(!of_plugin(ErrorCode::PluginRejected, "timeout"), "its own word, not ours");
        for (code, expect) in [
            (ErrorCode::Unavailable, true),
            (ErrorCode::Overloaded, true),
            (ErrorCode::RateLimited, true),
            (ErrorCode::NotFound, false),
            (ErrorCode::Unauthenticated, false),
            (ErrorCode::Forbidden, false),
            (ErrorCode::Internal, false),
        ] {
            assert_eq!(passes(&Refusal::new(code, "x")), expect, "{code}");
        }
    }
}
