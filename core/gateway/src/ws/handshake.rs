//! From an HTTP request to a [`Connection`]: who may open one, and how the bytes are taken over from hyper.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use haggle_engine::Refusal;
use haggle_model::ErrorCode;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{connection::Connection, metrics};
use crate::{Gateway, Identity, auth, http::Slot, metrics::AUTH_FAILURES, rest::problem::Problem};

/// The subprotocol of this version.
pub const SUBPROTOCOL: &str = "msg.v1.json";
/// How long hyper may take to hand over the connection.
const UPGRADE_MAX: Duration = Duration::from_secs(10);

/// Handshakes of the whole process; each costs a check of its token and some reads right after.
const HANDSHAKES_PER_SECOND_MAX: u32 = 20_000;

/// A handshake that is refused: the word for metrics and the answer.
struct Refused(&'static str, Problem);

/// Answers the handshake of `/v1/ws`: 101, and the connection lives on in a task of its own; or a problem.
///
/// hyper must serve the connection `with_upgrades` over `TokioIo<TcpStream>`. The [`Slot`] in the request's extensions is kept
/// until the connection ends.
pub async fn upgrade<B>(gateway: Arc<Gateway>, mut request: Request<B>) -> Response {
    let identity = match admit(&gateway, &request).await {
        Ok(identity) => identity,
        Err(Refused(reason, problem)) => {
            metrics::refused(reason);
            let mut response = problem.render("");
            if matches!(response.status(), StatusCode::UPGRADE_REQUIRED) {
                response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                response
                    .headers_mut()
                    .insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            return response;
        }
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let Ok((response, _)) = fastwebsockets::upgrade::upgrade(&mut request) else {
        return Problem::new(ErrorCode::BadRequest, "not a WebSocket handshake").render("");
    };
    let slot = request.extensions_mut().remove::<Slot>();
    gateway.connections.start_ticking(&gateway);
    tokio::spawn(serve(gateway, upgraded, identity, slot));
    let mut response = response.map(|_| Body::empty());
    if request.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response
}

/// Waits for hyper and then starts the connection's own task, whose memory holds nothing of the handshake.
async fn serve(gateway: Arc<Gateway>, upgraded: hyper::upgrade::OnUpgrade, identity: Option<Identity>, slot: Option<Slot>) {
    if let Some(connection) = take_over(gateway, upgraded, identity, slot).await {
        tokio::spawn(connection);
    }
}

/// Takes the socket out of hyper, and lets go of hyper's read buffer, which an idle connection must not keep.
async fn take_over(gateway: Arc<Gateway>, upgraded: hyper::upgrade::OnUpgrade, identity: Option<Identity>, slot: Option<Slot>) -> Option<Connection> {
    let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_MAX, upgraded).await else {
        tracing::debug!("a connection ended during its upgrade");
        return None;
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("an upgraded connection is no TCP stream: the listener wraps it");
        return None;
    };
    let stream = parts.io.into_inner();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended during its upgrade");
        return None;
    }
    Some(Connection::new(gateway, stream, &parts.read_buf, identity, slot))
}

/// Everything that may refuse a handshake, and the identity of a token in its head.
async fn admit<B>(gateway: &Gateway, request: &Request<B>) -> Result<Option<Identity>, Refused> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refused(
            "method",
            Problem::of_http(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "a WebSocket handshake is a GET"),
        ));
    }
    if !fastwebsockets::upgrade::is_upgrade_request(request) {
        return Err(Refused(
            "upgrade",
            upgrade_required("expected Connection: Upgrade and Upgrade: websocket"),
        ));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refused("version", upgrade_required("expected Sec-WebSocket-Version: 13")));
    }
    if !has_key(headers) {
        return Err(Refused(
            "key",
            Problem::new(ErrorCode::BadRequest, "Sec-WebSocket-Key: expected 16 bytes in base64"),
        ));
    }
    if !gateway.origins.allow_request(headers) {
        return Err(Refused(
            "origin",
            Problem::new(ErrorCode::Forbidden, "pages of this origin are not allowed"),
        ));
    }
    if !speaks(headers) {
        let detail = format!("Sec-WebSocket-Protocol: the server speaks {SUBPROTOCOL}");
        return Err(Refused("protocol", Problem::new(ErrorCode::BadRequest, detail)));
    }
    admit_more(gateway)?;
    // Another kind of authorization is for somebody in front of us; the first frame can still bring a token.
    let Ok(token) = auth::bearer(headers) else { return Ok(None) };
    match gateway.auth.authenticate(token).await {
        Ok(identity) => Ok(Some(identity)),
        Err(error) => {
            ::metrics::counter!(AUTH_FAILURES, "reason" => error.as_str()).increment(1);
            Err(Refused("token", error.into()))
        }
    }
}

/// The process has room for one more.
fn admit_more(gateway: &Gateway) -> Result<(), Refused> {
    if gateway.connections.is_draining() {
        return Err(Refused("full", Refusal::new(ErrorCode::Unavailable, "the server stops").into()));
    }
    gateway.connections.admit_handshake(HANDSHAKES_PER_SECOND_MAX).map_err(|wait| {
        let refusal = Refusal::new(ErrorCode::Overloaded, "too many handshakes at the same time").after(wait);
        Refused("full", refusal.into())
    })
}

fn upgrade_required(detail: &str) -> Problem {
    Problem::of_http(StatusCode::UPGRADE_REQUIRED, "bad_request", detail)
}

fn has_key(headers: &HeaderMap) -> bool {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| STANDARD.decode(key.as_bytes()));
    matches!(key, Some(Ok(key)) if key.len() == 16)
}

/// Names no subprotocol, or ours among others.
fn speaks(headers: &HeaderMap) -> bool {
    let mut named = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|list| list.to_str().ok())
        .peekable();
    named.peek().is_none() || named.flat_map(|list| list.split(',')).any(|name| name.trim() == SUBPROTOCOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_key_is_16_bytes() {
        for (key, expect) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("c2hvcnQ=", false),
            ("", false),
            ("!", false),
        ] {
            assert_eq!(has_key(&headers(&[("sec-websocket-key", key)])), expect, "{key}");
        }
        assert!(!has_key(&headers(&[])));
    }

    #[test]
    fn subprotocols() {
        for (list, expect) in [("msg.v1.json", true), ("other, msg.v1.json", true), ("msg.v1.cbor", false), ("", false)] {
            assert_eq!(speaks(&headers(&[("sec-websocket-protocol", list)])), expect, "{list}");
        }
        assert!(speaks(&headers(&[])));
    }
}
