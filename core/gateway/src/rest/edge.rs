//! What surrounds every request: its id, the origin check and CORS, metrics, panics, and the body of problems.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use haggle_engine::{Actor, Quota};
use haggle_model::ErrorCode;

use super::problem::Problem;
use crate::{Gateway, metrics as names};

/// Ids of a request: `id` for the client and the log, `trace` for plugins and the log (of `traceparent`, if there is one).
#[derive(Clone, Debug)]
pub struct RequestIds {
    /// What `X-Request-Id` says.
    pub id: Arc<str>,
    /// 32 hex digits from `traceparent`, else `id`.
    pub trace: Arc<str>,
}

/// Who asks, once the handler knows: what is left of their rate stands in the answer's headers.
#[derive(Clone, Debug, Default)]
pub struct Asking(Arc<OnceLock<Actor>>);

impl Asking {
    /// Notes who asks.
    pub fn note(extensions: &Extensions, actor: &Actor) {
        if let Some(Asking(slot)) = extensions.get() {
            let _ = slot.set(actor.clone()); // Noted already: the same request has the same actor.
        }
    }
}

const REQUEST_ID: &str = "x-request-id";
/// Of draft-ietf-httpapi-ratelimit-headers: what there is of each limit, and what is left of it.
const RATE_LIMIT_POLICY: &str = "ratelimit-policy";
const RATE_LIMIT: &str = "ratelimit";
const REQUEST_ID_BYTES_MAX: usize = 128;
const ALLOWED_HEADERS: &str = "authorization, content-type, idempotency-key, if-match, traceparent, x-request-id";
const ALLOWED_METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
const EXPOSED_HEADERS: &str = "etag, idempotent-replayed, location, ratelimit, ratelimit-policy, retry-after, x-request-id";
/// How long a browser remembers a preflight, in seconds.
const PREFLIGHT_MAX_AGE: &str = "600";

/// The outermost layer.
pub async fn edge(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let ids = request_ids(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    request.extensions_mut().insert(ids.clone());
    let asking = Asking::default();
    request.extensions_mut().insert(asking.clone());

    let allowed = gateway.origins.allow_request(request.headers());
    let response = if !allowed {
        Problem::new(ErrorCode::Forbidden, "pages of this origin are not allowed").into_response()
    } else if is_preflight(&request) {
        preflight()
    } else {
        AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| panicked(&ids))
    };
    let mut response = rendered(response, &ids);
    if let Some(actor) = asking.0.get() {
        rate_headers(response.headers_mut(), &gateway.engine.quotas(actor));
    }
    finish_headers(response.headers_mut(), &ids, origin.filter(|_| allowed));
    tracing::debug!(request = %ids.id, %method, route = route.as_ref().map(MatchedPath::as_str), status = response.status().as_u16(), "answered");
    count(&method, route.as_ref(), response.status(), start);
    response
}

fn request_ids(headers: &HeaderMap) -> RequestIds {
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| is_request_id(id));
    let id: Arc<str> = given.map_or_else(new_id, Arc::from);
    let trace = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .and_then(trace_id)
        .map_or_else(|| id.clone(), Arc::from);
    RequestIds { id, trace }
}

fn is_request_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

/// The trace id of a W3C `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let valid = hex(version, 2) && version != "ff" && hex(trace, 32) && trace.bytes().any(|b| b != b'0') && hex(parent, 16);
    valid.then_some(trace)
}

/// 32 hex digits that nobody has had: the standard library's hasher is seeded at random.
fn new_id() -> Arc<str> {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random()).into()
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn panicked(ids: &RequestIds) -> Response {
    tracing::error!(request = %ids.id, "a request handler panicked");
    Problem::new(ErrorCode::Internal, "the server made a mistake; its log has more under this request's id").into_response()
}

/// A problem gets its body here, where the request's id is known.
fn rendered(mut response: Response, ids: &RequestIds) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    if let Some(cause) = problem.cause() {
        tracing::error!(request = %ids.id, trace = %ids.trace, %cause, "a request failed");
    }
    if let Some(code) = ErrorCode::ALL.into_iter().find(|code| code.as_str() == problem.code()) {
        metrics::counter!(names::REFUSED, "code" => code.as_str()).increment(1);
    }
    let mut whole = problem.render(&ids.id);
    whole.headers_mut().extend(std::mem::take(response.headers_mut()));
    whole
}

/// `RateLimit-Policy: "user";q=200;w=4` and `RateLimit: "user";r=199;t=1`: whole seconds, rounded up.
fn rate_headers(headers: &mut HeaderMap, quotas: &[Quota]) {
    let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let list = |item: &dyn Fn(&Quota) -> String| quotas.iter().map(item).collect::<Vec<_>>().join(", ");
    let policies = list(&|quota| format!("\"{}\";q={};w={}", quota.policy, quota.quota, seconds(quota.window)));
    let left = list(&|quota| format!("\"{}\";r={};t={}", quota.policy, quota.remaining, seconds(quota.reset)));
    for (name, value) in [(RATE_LIMIT_POLICY, policies), (RATE_LIMIT, left)] {
        if let Ok(value) = HeaderValue::from_str(&value)
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    }
}

fn finish_headers(headers: &mut HeaderMap, ids: &RequestIds, origin: Option<HeaderValue>) {
    if let Ok(id) = HeaderValue::from_str(&ids.id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

fn count(method: &Method, route: Option<&MatchedPath>, status: StatusCode, start: Instant) {
    let route = route.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let class = match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    metrics::histogram!(names::HTTP_REQUEST_DURATION, "route" => route.clone()).record(start.elapsed().as_secs_f64());
    metrics::counter!(names::HTTP_REQUESTS, "method" => method_label(method), "route" => route, "status" => class).increment(1);
}

/// Made-up methods do not make up label values.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::HEAD,
    ];
    const LABELS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"];
    KNOWN.iter().position(|known| known == method).map_or("other", |i| LABELS[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value")))
            .collect()
    }

    #[test]
    fn a_clients_request_id_is_kept_and_a_strange_one_replaced() {
        assert_eq!(&*request_ids(&headers(&[(REQUEST_ID, "abc-1")])).id, "abc-1");
        for strange in ["", "a b", "x\"y", &"a".repeat(129)] {
            let ids = request_ids(&headers(&[(REQUEST_ID, strange)]));
            assert_eq!(ids.id.len(), 32, "{strange:.20}");
            assert_eq!(ids.id, ids.trace);
        }
        assert_ne!(new_id(), new_id());
    }

    #[test]
    fn the_trace_comes_from_traceparent() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(
            &*request_ids(&headers(&[("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"))])).trace,
            trace
        );
        for wrong in [
            "",
            "00-x-y-z",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(trace_id(wrong), None, "{wrong}");
        }
    }
}
