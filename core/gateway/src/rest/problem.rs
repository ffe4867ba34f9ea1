//! The one table from error codes to HTTP, and the body that says what went wrong: `application/problem+json` (RFC 9457).

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use haggle_engine::Refusal;
use haggle_model::ErrorCode;
use serde::Serialize;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{Content, RefOr, ResponseBuilder, schema::Ref},
};

use crate::{auth::AuthError, decode::DecodeError};

/// The status of each code.
pub fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest | ErrorCode::UnknownType => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated | ErrorCode::TokenExpired => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden | ErrorCode::Blocked => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::IdempotencyKeyReused | ErrorCode::PluginRejected => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::PluginError => StatusCode::BAD_GATEWAY,
        ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::ReadOnly => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A plugin's own code that means the same as one of HTTP's gets its status; every other rejection is 422.
fn status_of_plugin(code: &str) -> StatusCode {
    match code {
        "forbidden" => StatusCode::FORBIDDEN,
        "not_found" => StatusCode::NOT_FOUND,
        "conflict" => StatusCode::CONFLICT,
        "bad_request" => StatusCode::BAD_REQUEST,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// What a code means, for `/problems/<code>` and as the title of every problem.
pub fn title_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "bad_request" => "The request is malformed or breaks a documented rule",
        "unauthenticated" => "No or no valid token",
        "token_expired" => "The token's time is over",
        "forbidden" => "Not allowed",
        "not_found" => "Not there, or not for this user",
        "conflict" => "The present state forbids it",
        "precondition_failed" => "If-Match named another version",
        "too_large" => "A limit of size is exceeded",
        "blocked" => "One of the two users blocks the other",
        "rate_limited" => "Too many requests: try again later",
        "overloaded" => "Too much is going on: try again later; nothing was written",
        "unavailable" => "Not available now: the same request with the same idempotency key may be sent again",
        "idempotency_key_reused" => "The same idempotency key with other content",
        "plugin_rejected" => "A plugin refused it",
        "plugin_error" => "A plugin failed and its policy is to refuse",
        "read_only" => "The store accepts no writes now",
        "unknown_type" => "Not a known type of request",
        "internal" => "Our mistake",
        "method_not_allowed" => "The route does not know this method",
        "unsupported_media_type" => "The body must be application/json",
        _ => return None,
    })
}

/// What goes to the client instead of a result. Rendered by the outermost layer, which knows the request's id.
#[derive(Clone, Debug)]
pub struct Problem(Box<Facts>);

#[derive(Clone, Debug)]
struct Facts {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    errors: Vec<FieldProblem>,
    plugin: Option<(String, String)>,
    retry_after: Option<Duration>,
    /// The methods that the route knows.
    allow: Option<String>,
    /// For the log, never for the client.
    cause: Option<String>,
}

/// A field at fault.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldProblem {
    /// A JSON pointer into the body (`/metadata/fileUrl`), or the name of a parameter.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

/// A refusal (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// `/problems/<code>`: a page that says what the code means.
    #[serde(rename = "type")]
    kind: String,
    /// What the code means.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// One sentence about this request.
    detail: &'a str,
    /// The id of the request, also in `X-Request-Id`.
    instance: &'a str,
    /// The stable code.
    code: &'a str,
    /// Fields at fault.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Option<Vec<FieldProblem>>)]
    errors: &'a [FieldProblem],
    /// The plugin that refused or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    /// The plugin's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin_code: Option<&'a str>,
}

impl Problem {
    /// A problem with a code and a sentence.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Problem {
        Problem(Box::new(Facts {
            status: status_of(code),
            code: code.as_str().into(),
            detail: detail.into(),
            errors: Vec::new(),
            plugin: None,
            retry_after: matches!(
                code,
                ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::ReadOnly
            )
            .then_some(Duration::from_secs(1)),
            allow: None,
            cause: None,
        }))
    }

    /// It is not there, or not for this user.
    pub fn not_found() -> Problem {
        Problem::new(ErrorCode::NotFound, "not found")
    }

    /// `message` says what is wrong at `pointer`.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Problem {
        DecodeError::new(pointer, message).into()
    }

    /// A problem that only HTTP knows.
    pub fn of_http(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        let mut problem = Problem::new(ErrorCode::BadRequest, detail);
        (problem.0.status, problem.0.code) = (status, code.into());
        problem
    }

    /// The same with the methods that the route knows, in the form of the header `Allow`.
    pub fn allow(mut self, methods: String) -> Problem {
        self.0.allow = Some(methods);
        self
    }

    /// The stable code.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// What went wrong inside, for the log.
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The answer: head and body, naming the request.
    pub fn render(&self, request_id: &str) -> Response {
        let body = ProblemBody {
            kind: format!("/problems/{}", self.0.code),
            title: title_of(&self.0.code).unwrap_or_default(),
            status: self.0.status.as_u16(),
            detail: &self.0.detail,
            instance: request_id,
            code: &self.0.code,
            errors: &self.0.errors,
            plugin: self.0.plugin.as_ref().map(|(plugin, _)| plugin.as_str()),
            plugin_code: self.0.plugin.as_ref().map(|(_, code)| code.as_str()),
        };
        let bytes = serde_json::to_vec(&body).expect("plain fields");
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds_up(after)));
        }
        if let Some(methods) = self.0.allow.as_ref().and_then(|methods| HeaderValue::from_str(methods).ok()) {
            headers.insert(header::ALLOW, methods);
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whole seconds, rounded up and at least 1: coming back early is never right.
fn seconds_up(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let mut problem = Problem::new(refusal.code, &*refusal.message);
        if refusal.code == ErrorCode::Internal {
            problem.0.cause = Some(refusal.message.to_string());
            problem.0.detail = "the server made a mistake; its log has more under this request's id".into();
        }
        if let Some(field) = refusal.field {
            let pointer = if field.starts_with('/') { field.to_owned() } else { format!("/{field}") };
            problem.0.errors.push(FieldProblem {
                pointer,
                message: problem.0.detail.clone(),
            });
        }
        if let Some(plugin) = refusal.plugin.as_deref() {
            if refusal.code == ErrorCode::PluginRejected {
                problem.0.status = status_of_plugin(&plugin.1);
            }
            problem.0.plugin = Some(plugin.clone());
        }
        problem.0.retry_after = refusal.retry_after.or(problem.0.retry_after);
        problem
    }
}

impl From<haggle_store::StoreError> for Problem {
    fn from(error: haggle_store::StoreError) -> Problem {
        Refusal::from(error).into()
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Problem {
        let mut problem = Problem::new(ErrorCode::BadRequest, error.to_string());
        if error.pointer.is_empty() {
            problem.0.detail = error.message;
        } else {
            problem.0.errors.push(FieldProblem {
                pointer: error.pointer,
                message: error.message,
            });
        }
        problem
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Problem {
        Refusal::from(error).into()
    }
}

/// In the API description: every route may answer with a problem.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new()
            .description("A refusal, with a stable code")
            .content("application/problem+json", content)
            .build();
        [("default".to_owned(), RefOr::T(response))].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_and_a_title() {
        for code in ErrorCode::ALL {
            assert!(status_of(code).as_u16() >= 400, "{code}");
            assert!(title_of(code.as_str()).is_some(), "{code}");
        }
    }

    #[test]
    fn what_may_be_tried_again_says_when() {
        let retry = |problem: Problem| {
            problem
                .render("r")
                .headers()
                .get(header::RETRY_AFTER)
                .map(|v| v.to_str().expect("ascii").to_owned())
        };
        assert_eq!(
            retry(Refusal::new(ErrorCode::RateLimited, "slow").after(Duration::from_millis(1200)).into()).as_deref(),
            Some("2")
        );
        assert_eq!(retry(Refusal::new(ErrorCode::Overloaded, "full").into()).as_deref(), Some("1"));
        assert_eq!(retry(Problem::not_found()), None);
    }

    #[test]
    fn a_plugin_is_named_and_its_code_may_choose_the_status() {
        let rejected = |code: &str| Problem::from(Refusal::new(ErrorCode::PluginRejected, "no").by_plugin("offers", code));
        assert_eq!(rejected("forbidden").0.status, StatusCode::FORBIDDEN);
        assert_eq!(rejected("too_cheap").0.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(rejected("too_cheap").0.plugin, Some(("offers".into(), "too_cheap".into())));
    }

    #[test]
    fn internal_errors_tell_nothing_of_the_inside() {
        let problem = Problem::from(Refusal::new(ErrorCode::Internal, "sqlite: /var/lib/haggle/log.db is malformed"));
        assert!(!problem.0.detail.contains("sqlite"));
    }
}
