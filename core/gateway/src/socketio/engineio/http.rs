//! Engine.IO over HTTP: which request is allowed, polling, CORS, and the way into a WebSocket.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use super::{
    session::{NoPost, Polled, Session},
    sessions::is_of_another_node,
    websocket,
};
use crate::{
    Gateway,
    socketio::{metrics, opened::Opened},
};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Says which setting would have to change, where one would help. The body stays what clients of the protocol expect.
const HINT: HeaderName = HeaderName::from_static("x-haggle-hint");
const PREFLIGHT_METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE");

/// Whether requests to this path are Socket.IO's.
pub fn is_path(gateway: &Gateway, path: &str) -> bool {
    let ours = &gateway.settings.socketio.path;
    !ours.is_empty() && (path == ours || ours.strip_suffix('/') == Some(path) || gateway.socketio.dialects.has_path(path))
}

/// A request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
    hint: &'static str,
}

const fn refused(status: StatusCode, code: &'static str, message: &'static str, hint: &'static str) -> Refused {
    Refused { status, code, message, hint }
}

const TRANSPORT_UNKNOWN: Refused = refused(
    StatusCode::BAD_REQUEST,
    "0",
    "Transport unknown",
    "transport must be polling or websocket",
);
const SESSION_UNKNOWN: Refused = refused(StatusCode::BAD_REQUEST, "1", "Session ID unknown", "");
const MISROUTED: Refused = refused(
    StatusCode::BAD_REQUEST,
    "1",
    "Session ID unknown",
    "the session is another node's: make the load balancer sticky, or use transports: [\"websocket\"]",
);
const BAD_METHOD: Refused = refused(StatusCode::BAD_REQUEST, "2", "Bad handshake method", "");
const BAD_REQUEST: Refused = refused(StatusCode::BAD_REQUEST, "3", "Bad request", "");
const NO_UPGRADE: Refused = refused(
    StatusCode::BAD_REQUEST,
    "3",
    "Bad request",
    "transport=websocket without an Upgrade header: a proxy in between must pass Upgrade and Connection on",
);
const FORBIDDEN: Refused = refused(
    StatusCode::FORBIDDEN,
    "4",
    "Forbidden",
    "the page's origin is not in auth.origins of the server's configuration",
);
const OLD_PROTOCOL: Refused = refused(
    StatusCode::BAD_REQUEST,
    "5",
    "Unsupported protocol version",
    "EIO=4 is needed: socket.io-client 3 or newer",
);
const FULL: Refused = refused(
    StatusCode::SERVICE_UNAVAILABLE,
    "full",
    "Service unavailable",
    "socketio.sessions_max sessions are open, or the server stops",
);
const TOO_LARGE: Refused = refused(
    StatusCode::PAYLOAD_TOO_LARGE,
    "too_large",
    "Payload too large",
    "socketio.payload_bytes_max",
);

impl Refused {
    fn response(self, plain: bool) -> Response {
        ::metrics::counter!(metrics::REFUSED, "code" => self.code).increment(1);
        tracing::debug!(
            code = self.code,
            message = self.message,
            hint = self.hint,
            "a Socket.IO request was refused"
        );
        let body = match self.code.parse::<u8>() {
            Ok(code) if !plain => format!(r#"{{"code":{code},"message":"{}"}}"#, self.message),
            _ => self.message.to_owned(),
        };
        let mut response = answer(self.status, if plain { TEXT } else { JSON }, body);
        if !self.hint.is_empty() {
            response.headers_mut().insert(HINT, HeaderValue::from_static(self.hint));
        }
        response
    }
}

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What stands in the query.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query<'a> {
    transport: Option<&'a str>,
    eio: Option<&'a str>,
    sid: Option<&'a str>,
    token: Option<&'a str>,
}

impl<'a> Query<'a> {
    fn of(query: &'a str, token_name: &str) -> Query<'a> {
        let mut found = Query::default();
        for (name, value) in query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
            match name {
                "transport" => found.transport = Some(value),
                "EIO" => found.eio = Some(value),
                "sid" => found.sid = Some(value),
                name if !token_name.is_empty() && name == token_name => found.token = Some(value),
                _ => {}
            }
        }
        found
    }
}

/// Which transport a request names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Polling,
    WebSocket,
}

/// Answers one request to the path of Socket.IO.
///
/// hyper must serve the connection `with_upgrades` over `TokioIo<TcpStream>`; an [`crate::http::Slot`] in the extensions is
/// kept as long as a WebSocket that comes of the request.
pub async fn handle<B>(gateway: &Arc<Gateway>, request: Request<B>) -> Response
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let origin = request.headers().get(header::ORIGIN).cloned();
    let requested_headers = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let allowed = gateway.origins.allow_request(request.headers());
    let is_preflight = request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight && allowed {
        preflight(requested_headers)
    } else {
        let plain = fastwebsockets::upgrade::is_upgrade_request(&request);
        match route(gateway, request, allowed).await {
            Ok(response) => response,
            Err(refused) => refused.response(plain),
        }
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
    response
}

fn preflight(requested: Option<HeaderValue>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, PREFLIGHT_METHODS);
    if let Some(requested) = requested {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested);
        headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    }
    response
}

/// The protocol's order of checks.
async fn route<B>(gateway: &Arc<Gateway>, request: Request<B>, origin_allowed: bool) -> Result<Response, Refused>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let settings = &gateway.settings.socketio;
    let query_text = request.uri().query().unwrap_or_default().to_owned();
    let query = Query::of(&query_text, &settings.query_token);
    let transport = match query.transport {
        Some("polling") => Transport::Polling,
        Some("websocket") => Transport::WebSocket,
        _ => return Err(TRANSPORT_UNKNOWN),
    };
    if request.headers().get(header::ORIGIN).is_some_and(|origin| origin.to_str().is_err()) {
        return Err(BAD_REQUEST);
    }
    if !origin_allowed {
        return Err(FORBIDDEN);
    }
    let is_upgrade = fastwebsockets::upgrade::is_upgrade_request(&request);
    let Some(sid) = query.sid else {
        check_handshake(request.method(), transport, is_upgrade, query.eio)?;
        let token = token_of(request.headers(), query.token);
        return open(gateway, request, transport, token);
    };
    let session = gateway.socketio.find(sid).ok_or_else(|| unknown(sid, &settings.node))?;
    session.look_at_time(tokio::time::Instant::now());
    match transport {
        Transport::WebSocket if !is_upgrade => Err(NO_UPGRADE),
        Transport::WebSocket if session.is_over() => Err(SESSION_UNKNOWN),
        Transport::WebSocket => websocket::upgrade(session, request).ok_or(BAD_REQUEST),
        Transport::Polling if is_upgrade => Err(BAD_REQUEST),
        Transport::Polling if request.method() == Method::GET => poll(&session).await,
        Transport::Polling if request.method() == Method::POST => post(&session, request).await,
        Transport::Polling => Err(BAD_REQUEST),
    }
}

fn unknown(sid: &str, node: &str) -> Refused {
    if !is_of_another_node(sid, node) {
        return SESSION_UNKNOWN;
    }
    ::metrics::counter!(metrics::MISROUTED).increment(1);
    MISROUTED
}

fn check_handshake(method: &Method, transport: Transport, is_upgrade: bool, eio: Option<&str>) -> Result<(), Refused> {
    if method != Method::GET {
        return Err(BAD_METHOD);
    }
    match transport {
        Transport::WebSocket if !is_upgrade => return Err(NO_UPGRADE),
        Transport::Polling if is_upgrade => return Err(BAD_REQUEST),
        _ => {}
    }
    if eio == Some("4") { Ok(()) } else { Err(OLD_PROTOCOL) }
}

/// The token of the handshake itself; one that comes with the connect of a namespace goes before it.
fn token_of(headers: &HeaderMap, in_query: Option<&str>) -> Option<Box<str>> {
    let in_header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = in_header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = bearer.map(|(_, token)| token.trim()).or(in_query)?;
    (!token.is_empty() && token.len() <= crate::auth::TOKEN_BYTES_MAX).then(|| token.into())
}

fn open<B>(gateway: &Arc<Gateway>, request: Request<B>, transport: Transport, token: Option<Box<str>>) -> Result<Response, Refused> {
    if transport == Transport::WebSocket && !websocket::is_handshake(request.headers()) {
        return Err(BAD_REQUEST);
    }
    let has_dialects = !gateway.socketio.dialects.is_empty();
    let opened = has_dialects.then(|| Box::new(Opened::of(&request, &gateway.settings.socketio.query_token)));
    let session = gateway.socketio.open(gateway, token, opened).ok_or(FULL)?;
    match transport {
        Transport::Polling => {
            let body = format!("0{}", session.open_json("\"websocket\""));
            Ok(answer(StatusCode::OK, TEXT, body))
        }
        Transport::WebSocket => {
            session.starts_with_websocket();
            websocket::open(session, request).ok_or(BAD_REQUEST)
        }
    }
}

async fn poll(session: &Arc<Session>) -> Result<Response, Refused> {
    match session.poll().await {
        Polled::Payload(payload) => Ok(answer(StatusCode::OK, TEXT, payload)),
        Polled::Unknown => Err(SESSION_UNKNOWN),
        Polled::Bad => Err(BAD_REQUEST),
    }
}

async fn post<B>(session: &Arc<Session>, request: Request<B>) -> Result<Response, Refused>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let posting = match session.begin_post() {
        Ok(posting) => posting,
        Err(NoPost::Unknown) => return Err(SESSION_UNKNOWN),
        Err(_) => return Err(BAD_REQUEST),
    };
    let is_binary = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/octet-stream");
    if is_binary {
        return Err(BAD_REQUEST); // Which ends the session, since such a client speaks another version.
    }
    let bytes_max = session.settings().payload_bytes_max;
    let body = Limited::new(request.into_body(), bytes_max).collect();
    let body = match tokio::time::timeout(session.gateway.settings.rest.body_read_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            posting.done();
            return Err(TOO_LARGE);
        }
        _ => return Err(BAD_REQUEST),
    };
    let received = match std::str::from_utf8(&body) {
        Ok(payload) => session.receive_payload(payload).await,
        Err(_) => Err((metrics::Reason::ParseError, super::session::By::Server)),
    };
    posting.done();
    match received {
        Ok(()) => Ok(answer(StatusCode::OK, HeaderValue::from_static("text/html"), "ok")),
        Err((reason, by)) => {
            session.close(reason, by);
            if by == super::session::By::Client {
                return Ok(answer(StatusCode::OK, HeaderValue::from_static("text/html"), "ok"));
            }
            Err(BAD_REQUEST)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let text = "EIO=4&transport=polling&t=Pxy&sid=n1.abc&x&token=a.b.c&=";
        let expect = Query {
            transport: Some("polling"),
            eio: Some("4"),
            sid: Some("n1.abc"),
            token: None,
        };
        assert_eq!(Query::of(text, ""), expect);
        assert_eq!(Query::of(text, "token").token, Some("a.b.c"));
        assert_eq!(Query::of("", "token"), Query::default());
    }

    #[test]
    fn handshakes_are_checked_in_order() {
        use Transport::{Polling, WebSocket};
        for (method, transport, upgrade, eio, expect) in [
            (Method::GET, Polling, false, Some("4"), Ok(())),
            (Method::GET, WebSocket, true, Some("4"), Ok(())),
            (Method::POST, Polling, false, Some("3"), Err(BAD_METHOD)),
            (Method::GET, WebSocket, false, Some("3"), Err(NO_UPGRADE)),
            (Method::GET, Polling, false, Some("3"), Err(OLD_PROTOCOL)),
            (Method::GET, Polling, false, None, Err(OLD_PROTOCOL)),
        ] {
            assert_eq!(check_handshake(&method, transport, upgrade, eio), expect, "{method} {eio:?}");
        }
    }
}
