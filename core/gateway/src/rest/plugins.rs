//! Routes of plugins: whatever no core route answers is looked up among what the manifests of active plugins declare.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use haggle_engine::{
    Actor,
    ports::{HttpRequest, HttpResponse, Route, RouteAccess},
};
use haggle_model::ErrorCode;

use super::{
    answer::Answer,
    edge::Asking,
    extract::{actor, authenticate, read_body, trace_id},
    problem::Problem,
};
use crate::Gateway;

/// Headers that belong to one hop, or that a plugin must not see or set.
const NOT_PASSED_ON: [&str; 15] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The fallback of the router.
pub async fn route(State(gateway): State<Arc<Gateway>>, request: Request) -> Answer {
    let routes = gateway.engine.hooks().plan().routes();
    let (parts, body) = request.into_parts();
    let Some(route) = find(&routes, parts.method.as_str(), parts.uri.path())? else {
        return Err(Problem::not_found());
    };
    let actor = admit(&gateway, route, &parts).await?;
    let trace = trace_id(&parts);
    let request = to_plugin(&parts, read_body(body, &gateway).await?.to_vec());
    let response = gateway.engine.http(actor, trace, &route.plugin, request).await?;
    from_plugin(response)
}

/// The route that fits best: the longest path; 405 when only another method fits.
fn find<'a>(routes: &'a [Route], method: &str, path: &str) -> Result<Option<&'a Route>, Problem> {
    let by_path: Vec<&Route> = routes.iter().filter(|route| fits(&route.path, path)).collect();
    let by_method = by_path.iter().copied().filter(|route| route.method == "*" || route.method == method);
    match by_method.max_by_key(|route| (route.path.len(), route.method != "*")) {
        None if !by_path.is_empty() => Err(method_not_allowed()),
        best => Ok(best),
    }
}

/// A trailing `/*` fits everything below, and the path itself.
fn fits(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(base) => path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        None => pattern == path,
    }
}

/// The answer to a known path with another method.
pub fn method_not_allowed() -> Problem {
    Problem::of_http(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this route does not know the method",
    )
}

/// Who the plugin will see. On an open route a token is judged only where there is one; without it the plugin acts for itself.
async fn admit(gateway: &Gateway, route: &Route, parts: &Parts) -> Result<Actor, Problem> {
    if route.access == RouteAccess::Nobody && !parts.headers.contains_key(header::AUTHORIZATION) {
        return Ok(Actor {
            transport: "rest",
            ..Actor::plugin(&route.plugin)
        });
    }
    let identity = authenticate(gateway, &parts.headers).await?;
    gateway.engine.see_user(&identity.user).await?;
    let actor = actor(identity);
    Asking::note(&parts.extensions, &actor);
    match &route.access {
        RouteAccess::Role(role) if !actor.has_role(role) => Err(Problem::new(ErrorCode::Forbidden, format!("this route needs the role {role}"))),
        _ => Ok(actor),
    }
}

fn to_plugin(parts: &Parts, body: Vec<u8>) -> HttpRequest {
    let readable = |(name, value): (&HeaderName, &HeaderValue)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()));
    HttpRequest {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts
            .headers
            .iter()
            .filter(|(name, _)| is_passed_on(name.as_str()))
            .filter_map(readable)
            .collect(),
        body,
    }
}

fn is_passed_on(name: &str) -> bool {
    !NOT_PASSED_ON.contains(&name)
}

fn from_plugin(answer: HttpResponse) -> Answer {
    let broken = || Problem::new(ErrorCode::PluginError, "the plugin's answer is no HTTP response");
    let status = StatusCode::from_u16(answer.status)
        .ok()
        .filter(|status| status.as_u16() >= 200)
        .ok_or_else(broken)?;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    for (name, value) in answer.headers {
        let name: HeaderName = name.to_ascii_lowercase().parse().map_err(|_| broken())?;
        if is_passed_on(name.as_str()) {
            response.headers_mut().append(name, value.parse().map_err(|_| broken())?);
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Vec<Route> {
        let route = |method: &str, path: &str| Route {
            plugin: "offers".into(),
            method: method.into(),
            path: path.into(),
            access: RouteAccess::User,
        };
        vec![
            route("GET", "/plugins/offers/stats"),
            route("*", "/plugins/offers/*"),
            route("POST", "/message/create"),
        ]
    }

    #[track_caller]
    fn check(method: &str, path: &str, expect: Option<&str>) {
        let routes = routes();
        let found = find(&routes, method, path).expect("no wrong method");
        assert_eq!(found.map(|route| route.path.as_str()), expect, "{method} {path}");
    }

    #[test]
    fn the_longest_path_answers() {
        check("GET", "/plugins/offers/stats", Some("/plugins/offers/stats"));
        check("POST", "/plugins/offers/stats", Some("/plugins/offers/*"));
        check("GET", "/plugins/offers", Some("/plugins/offers/*"));
        check("GET", "/plugins/offers/a/b", Some("/plugins/offers/*"));
        check("GET", "/plugins/offersx", None);
        check("POST", "/message/create", Some("/message/create"));
        check("POST", "/message/create/x", None);
        assert!(find(&routes(), "GET", "/message/create").is_err(), "405");
    }

    #[test]
    fn credentials_and_hop_headers_stay_here() {
        let (parts, ()) = axum::http::Request::post("/plugins/offers/x?a=1")
            .header("authorization", "Bearer secret")
            .header("cookie", "s=1")
            .header("connection", "close")
            .header("x-own", "1")
            .body(())
            .expect("request")
            .into_parts();
        let request = to_plugin(&parts, vec![1]);
        assert_eq!(request.headers, [("x-own".to_owned(), "1".to_owned())]);
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/plugins/offers/x", "a=1"));
    }

    #[test]
    fn a_plugins_answer_is_checked() {
        let answer = |status, name: &str, value: &str| HttpResponse {
            status,
            headers: vec![(name.into(), value.into())],
            body: vec![],
        };
        let fine = from_plugin(answer(201, "X-Own", "1")).expect("fine");
        assert_eq!(fine.headers()["x-own"], "1");
        assert!(
            from_plugin(answer(200, "Transfer-Encoding", "chunked"))
                .expect("dropped")
                .headers()
                .is_empty()
        );
        for broken in [
            answer(101, "a", "b"),
            answer(99, "a", "b"),
            answer(200, "a b", "c"),
            answer(200, "a", "b\r\nc: d"),
        ] {
            assert_eq!(from_plugin(broken).expect_err("refused").code(), "plugin_error");
        }
    }
}
