//! Errors of the admin API: problem+json, like those of the clients' interface.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use haggle_engine::Refusal;
use haggle_model::ErrorCode;
use serde_json::json;

/// What an operator is told instead of a result.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    /// A problem with a stable code and a sentence.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            code,
            detail: detail.into(),
        }
    }

    /// There is no such thing.
    pub fn not_found(what: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound.as_str(), what)
    }

    /// The server has not started yet.
    pub fn starting() -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable.as_str(), "the server is starting")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let status = match refusal.code {
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
            ErrorCode::Unavailable | ErrorCode::ReadOnly | ErrorCode::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::CONFLICT,
        };
        Problem::new(status, refusal.code.as_str(), refusal.message.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let body = json!({ "type": format!("about:blank#{}", self.code), "title": title, "status": self.status.as_u16(), "code": self.code, "detail": self.detail });
        (
            self.status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            Json(body).into_response().into_body(),
        )
            .into_response()
    }
}

/// No such route.
pub async fn not_found() -> Problem {
    Problem::not_found("there is nothing here; see docs/OPERATIONS.md")
}
