//! Routes of plugins: whatever no core route answers is looked up among what the manifests of active plugins declare. Where the
//! operator has bound a plugin's routes to a host or a port they are looked up first.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    middleware::from_fn_with_state,
    response::Response,
};
use haggle_engine::{
    Actor, Transport,
    ports::{HttpRequest, HttpResponse, Route, RouteAccess},
    route::{Found, Parameters, find},
};
use haggle_model::ErrorCode;

use super::{
    answer::Answer,
    edge::{Asking, edge},
    extract::{actor, authenticate, read_body, trace_id},
    problem::Problem,
};
use crate::{Gateway, http::without_port};

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

/// The route that answers a request. Stands in the extensions of one that is for a bound route.
#[derive(Clone)]
pub struct Chosen {
    route: Route,
    params: Parameters,
}

impl Chosen {
    fn new(route: &Route, params: Parameters) -> Chosen {
        Chosen {
            route: route.clone(),
            params,
        }
    }
}

/// A bound route fits the request but for its method: these it has. Stands in the extensions of a request that the core may know.
#[derive(Clone)]
pub struct Allowed(String);

/// What the operator's bindings say of a request.
pub enum Bound {
    /// This answers it.
    Chosen(Chosen),
    /// Nothing, and if the core has no such path, the method is at fault.
    OtherMethod(Allowed),
    /// Nothing.
    Nothing,
}

/// The fallback of the router.
pub async fn route(State(gateway): State<Arc<Gateway>>, request: Request) -> Answer {
    let (mut parts, body) = request.into_parts();
    let Chosen { route, params } = match parts.extensions.remove::<Chosen>() {
        Some(chosen) => chosen,
        None => unbound(&gateway, &mut parts)?,
    };
    let actor = admit(&gateway, &route, &parts).await?;
    let trace = trace_id(&parts);
    let request = to_plugin(&parts, params, read_body(body, &gateway).await?.to_vec());
    let response = gateway.engine.http(actor, trace, &route.plugin, request).await?;
    from_plugin(response)
}

fn unbound(gateway: &Gateway, parts: &mut Parts) -> Result<Chosen, Problem> {
    let routes = gateway.engine.hooks().plan().routes();
    let everywhere = routes.iter().filter(|route| !route.bound);
    match find(everywhere, parts.method.as_str(), parts.uri.path()) {
        Found::Route(route, params) => Ok(Chosen::new(route, params)),
        Found::OtherMethod(methods) => Err(method_not_allowed().allow(methods)),
        Found::Nothing => Err(match parts.extensions.remove::<Allowed>() {
            Some(Allowed(methods)) => method_not_allowed().allow(methods),
            None => Problem::not_found(),
        }),
    }
}

/// The route of a plugin that answers this request before the core does, because the operator has bound it there.
pub fn bound<B>(gateway: &Gateway, request: &Request<B>, port: u16) -> Bound {
    let host = request.uri().host().or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    let host = host.map(without_port).unwrap_or_default();
    let here = gateway.settings.http.routes.iter().filter(|bound| bound.fits(host, port));
    let plugins: Vec<&str> = here.map(|bound| bound.plugin.as_str()).collect();
    if plugins.is_empty() {
        return Bound::Nothing;
    }
    let routes = gateway.engine.hooks().plan().routes();
    let candidates = routes.iter().filter(|route| plugins.contains(&route.plugin.as_str()));
    match find(candidates, request.method().as_str(), request.uri().path()) {
        Found::Route(route, params) => Bound::Chosen(Chosen::new(route, params)),
        Found::OtherMethod(methods) => Bound::OtherMethod(Allowed(methods)),
        Found::Nothing => Bound::Nothing,
    }
}

/// What answers requests for which [`bound`] has chosen a route: no core route is asked.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .fallback(route)
        .layer(from_fn_with_state(gateway.clone(), edge))
        .with_state(gateway)
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
            transport: Transport::Rest,
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

fn to_plugin(parts: &Parts, params: Vec<(String, String)>, body: Vec<u8>) -> HttpRequest {
    let readable = |(name, value): (&HeaderName, &HeaderValue)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()));
    HttpRequest {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        params,
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
        let request = to_plugin(&parts, Vec::new(), vec![1]);
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
