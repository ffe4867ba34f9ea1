//! The gateway's metrics by name. Labels never hold user or conversation ids.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Requests answered; labels `method`, `route` (the pattern, never the path), `status` (`2xx` …).
pub const HTTP_REQUESTS: &str = "haggle_http_requests_total";
/// From the head of a request to the head of its answer, in seconds; label `route`.
pub const HTTP_REQUEST_DURATION: &str = "haggle_http_request_duration_seconds";
/// Open connections; label `transport` (`http`, `ws`, `socketio`).
pub const CONNECTIONS: &str = "haggle_connections";
/// Connections that were opened; label `transport`.
pub const CONNECTIONS_OPENED: &str = "haggle_connections_opened_total";
/// How often accepting waited since every permit was taken.
pub const CONNECTIONS_FULL: &str = "haggle_connections_full_total";
/// Requests and frames refused before they became a command; label `code`.
pub const REFUSED: &str = "haggle_gateway_refused_total";
/// Tokens refused; label `reason` (`missing`, `invalid`, `expired`).
pub const AUTH_FAILURES: &str = "haggle_auth_failures_total";
/// Fetches of the key set; label `result` (`ok`, `error`).
pub const JWKS_FETCHES: &str = "haggle_auth_jwks_fetches_total";

/// Describes every metric of this module and registers it at 0, so that a dashboard can tell "none" from "not there".
pub fn describe() {
    crate::ws::metrics::describe();
    crate::socketio::metrics::describe();
    describe_counter!(HTTP_REQUESTS, Unit::Count, "Requests answered, by method, route and class of status");
    describe_histogram!(
        HTTP_REQUEST_DURATION,
        Unit::Seconds,
        "Time from the head of a request to the head of its answer, by route"
    );
    describe_gauge!(CONNECTIONS, Unit::Count, "Open connections, by transport");
    describe_counter!(CONNECTIONS_OPENED, Unit::Count, "Connections opened, by transport");
    describe_counter!(CONNECTIONS_FULL, Unit::Count, "How often accepting waited for a connection to end");
    describe_counter!(REFUSED, Unit::Count, "Requests and frames refused, by code");
    describe_counter!(AUTH_FAILURES, Unit::Count, "Tokens refused, by reason");
    describe_counter!(JWKS_FETCHES, Unit::Count, "Fetches of the key set, by result");
    counter!(HTTP_REQUESTS, "method" => "GET", "route" => "other", "status" => "2xx").absolute(0);
    let _ = histogram!(HTTP_REQUEST_DURATION, "route" => "other");
    for transport in ["http", "ws"] {
        gauge!(CONNECTIONS, "transport" => transport).set(0.0);
        counter!(CONNECTIONS_OPENED, "transport" => transport).absolute(0);
    }
    counter!(CONNECTIONS_FULL).absolute(0);
    for code in haggle_model::ErrorCode::ALL {
        counter!(REFUSED, "code" => code.as_str()).absolute(0);
    }
    for reason in ["missing", "invalid", "expired"] {
        counter!(AUTH_FAILURES, "reason" => reason).absolute(0);
    }
    for result in ["ok", "error"] {
        counter!(JWKS_FETCHES, "result" => result).absolute(0);
    }
}
