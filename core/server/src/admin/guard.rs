//! Who may write: an administrator, and no web page in between.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use haggle_gateway::{auth, http};
use haggle_model::ErrorCode;

use super::{Admin, problem::Problem};

/// Lets administrators through.
pub async fn admins_only(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    match check(&admin, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn check(admin: &Admin, headers: &HeaderMap) -> Result<(), Problem> {
    if !is_allowed_host(headers, &admin.hosts) {
        return Err(forbidden("the Host header is not one of server.admin_hosts"));
    }
    let token = auth::bearer(headers).map_err(|_| unauthenticated("this needs a bearer token with the role `admin`"))?;
    let identity = admin
        .auth
        .authenticate(token)
        .await
        .map_err(|error| unauthenticated(&error.to_string()))?;
    if !identity.roles.iter().any(|role| role == "admin") {
        return Err(forbidden("the token has no role `admin`"));
    }
    tracing::info!(user = %identity.user, "an administrator writes");
    Ok(())
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden.as_str(), detail)
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthenticated.as_str(), detail)
}

/// Exactly one Host header, with or without a port.
fn is_allowed_host(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else {
        return false;
    };
    let name = http::without_port(host);
    allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_host(host: &str, expect: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a header value"));
        let allowed = ["localhost", "127.0.0.1", "[::1]"].map(String::from);
        assert_eq!(is_allowed_host(&headers, &allowed), expect, "{host}");
    }

    #[test]
    fn own_names_are_allowed_on_any_port() {
        for host in ["localhost", "LOCALHOST:9301", "127.0.0.1:80", "[::1]", "[::1]:9301"] {
            check_host(host, true);
        }
    }

    #[test]
    fn other_names_are_not() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9301",
            "[::2]:9301",
            "",
            ":9301",
            "localhost:x",
        ] {
            check_host(host, false);
        }
    }

    #[test]
    fn two_host_headers_are_one_too_many() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, "localhost".parse().expect("a header value"));
        headers.append(header::HOST, "evil.example".parse().expect("a header value"));
        assert!(!is_allowed_host(&headers, &["localhost".into()]));
    }
}
