//! What handlers take from a request: who asks, ids from the path, parameters, a JSON body.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::Bytes;
use haggle_engine::{Actor, Command, Outcome, Request as EngineRequest, Transport};
use haggle_model::{ConversationId, ErrorCode, MessageId, Seq, UserId};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;

use super::{
    edge::{Asking, RequestIds},
    problem::Problem,
};
use crate::{
    Gateway,
    auth::{self, Identity},
    decode,
};

/// Who asks, and under which ids.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user with its token's roles.
    pub actor: Actor,
    /// For logs and plugins.
    pub trace_id: String,
    key: Option<String>,
}

impl Caller {
    /// The user's id.
    pub fn user(&self) -> &UserId {
        &self.actor.user
    }

    /// Carries the command out.
    pub async fn run(&self, gateway: &Gateway, command: Command) -> Result<Outcome, Problem> {
        self.run_as(gateway, None, command).await
    }

    /// The same with the body's own idempotency key; where the header has one too, both must agree.
    pub async fn run_as(&self, gateway: &Gateway, body_key: Option<String>, command: Command) -> Result<Outcome, Problem> {
        let client_id = match (self.key.clone(), body_key) {
            (Some(header), Some(body)) if header != body => {
                return Err(Problem::at("/clientMessageId", "differs from the Idempotency-Key header"));
            }
            (header, body) => header.or(body),
        };
        check_key(gateway, client_id.as_deref())?;
        let request = EngineRequest {
            actor: self.actor.clone(),
            client_id,
            trace_id: self.trace_id.clone(),
            command,
        };
        Ok(gateway.engine.execute(request).await?)
    }
}

fn check_key(gateway: &Gateway, key: Option<&str>) -> Result<(), Problem> {
    let Some(key) = key else { return Ok(()) };
    let max = gateway.engine.limits().id_bytes_max;
    decode::client_id("/clientMessageId", key, max)?;
    Ok(())
}

impl FromRequestParts<Arc<Gateway>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Caller, Problem> {
        let identity = authenticate(gateway, &parts.headers).await?;
        gateway.engine.see_user(&identity.user).await?;
        let actor = actor(identity);
        Asking::note(&parts.extensions, &actor);
        let key = parts
            .headers
            .get("idempotency-key")
            .map(|value| idempotency_key(value.as_bytes()))
            .transpose()?;
        Ok(Caller {
            actor,
            trace_id: trace_id(parts),
            key,
        })
    }
}

/// The identity of the request's bearer token.
pub async fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Identity, Problem> {
    let result = match auth::bearer(headers) {
        Ok(token) => gateway.auth.authenticate(token).await,
        Err(error) => Err(error),
    };
    result.map_err(|error| {
        metrics::counter!(crate::metrics::AUTH_FAILURES, "reason" => error.as_str()).increment(1);
        error.into()
    })
}

/// A REST actor.
pub fn actor(identity: Identity) -> Actor {
    Actor {
        roles: identity.roles,
        ..Actor::user(identity.user, Transport::Rest)
    }
}

/// The trace id that the outermost layer has found.
pub fn trace_id(parts: &Parts) -> String {
    parts.extensions.get::<RequestIds>().map(|ids| ids.trace.to_string()).unwrap_or_default()
}

/// The draft writes the key as a quoted string, many clients do not: both are read.
fn idempotency_key(value: &[u8]) -> Result<String, Problem> {
    let text = std::str::from_utf8(value).map_err(|_| Problem::at("Idempotency-Key", "not UTF-8"))?;
    Ok(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).to_owned())
}

/// In the API description: headers of every write.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "described, not read through this type")]
pub struct WriteHeaders {
    /// The client's own id of this request, at most 128 bytes: for 7 days a retry with the same one changes nothing and gets the
    /// first answer, with the header `Idempotent-Replayed: true`.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 128)]
    idempotency_key: Option<String>,
}

/// In the API description: the version a change is meant for.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "described, not read through this type")]
pub struct IfMatch {
    /// The `ETag` of the message: with another one the answer is 412 and nothing changes.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// The `rev` that `If-Match` names; `*` is any.
pub fn if_rev(headers: &HeaderMap) -> Result<Option<Seq>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let rev = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .and_then(|text| text.parse().ok());
    rev.map(Some)
        .ok_or_else(|| Problem::at("If-Match", "expected one ETag as it came, such as \"17\""))
}

/// A conversation's id from the path. What is no id is not there.
pub struct InConversation(pub ConversationId);
/// A message's id from the path.
pub struct OfMessage(pub MessageId);
/// A user's id from the path.
pub struct OfUser(pub UserId);

async fn path_param(parts: &mut Parts, gateway: &Arc<Gateway>, name: &str) -> Result<String, Problem> {
    let params = RawPathParams::from_request_parts(parts, gateway)
        .await
        .map_err(|_| Problem::not_found())?;
    params
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
        .ok_or_else(Problem::not_found)
}

impl FromRequestParts<Arc<Gateway>> for InConversation {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        path_param(parts, gateway, "id")
            .await?
            .parse()
            .map(InConversation)
            .map_err(|_| Problem::not_found())
    }
}

impl FromRequestParts<Arc<Gateway>> for OfMessage {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        path_param(parts, gateway, "id")
            .await?
            .parse()
            .map(OfMessage)
            .map_err(|_| Problem::not_found())
    }
}

impl FromRequestParts<Arc<Gateway>> for OfUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let user = match path_param(parts, gateway, "userId").await {
            Ok(user) => user,
            Err(_) => path_param(parts, gateway, "id").await?,
        };
        Ok(OfUser(decode::user_id("userId", &user)?))
    }
}

/// The name of a plugin's command from the path.
pub struct CommandName(pub String);

impl FromRequestParts<Arc<Gateway>> for CommandName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        path_param(parts, gateway, "name").await.map(CommandName)
    }
}

/// Parameters after the `?`.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Gateway>> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Gateway>) -> Result<Self, Problem> {
        let Query(params) = Query::try_from_uri(&parts.uri).map_err(|error| Problem::new(ErrorCode::BadRequest, error.body_text()))?;
        Ok(Params(params))
    }
}

/// How much of a list, and from where.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// At most so many; more than 100 counts as 100.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
}

/// The page size asked for, within its bounds.
pub fn page_size(limit: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    match limit {
        Some(0) => Err(Problem::at("limit", "at least 1")),
        limit => Ok(limit.unwrap_or(default).min(max)),
    }
}

/// The bytes of a JSON body, of bounded size and slowness. Handlers parse it themselves: the parsed borrows from it.
pub struct JsonBytes(pub Bytes);

impl JsonBytes {
    /// The body as text.
    pub fn text(&self) -> Result<&str, Problem> {
        std::str::from_utf8(&self.0).map_err(|_| Problem::new(ErrorCode::BadRequest, "the body is not UTF-8"))
    }

    /// The body as `T`.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        Ok(decode::parse(self.text()?)?)
    }
}

impl FromRequest<Arc<Gateway>> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::of_http(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the body must be application/json",
            ));
        }
        read_body(request.into_body(), gateway).await.map(JsonBytes)
    }
}

/// No type at all is taken for JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    let kind = kind
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The whole body, if it is not too long and comes in time.
pub async fn read_body(body: Body, gateway: &Gateway) -> Result<Bytes, Problem> {
    let settings = &gateway.settings.rest;
    let read = Limited::new(body, settings.body_bytes_max).collect();
    match tokio::time::timeout(settings.body_read_timeout, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            ErrorCode::TooLarge,
            format!("the body is longer than rest.body_bytes_max = {}", settings.body_bytes_max),
        )),
        Ok(Err(_)) => Err(Problem::new(ErrorCode::BadRequest, "the body ended early")),
        Err(_) => Err(Problem::of_http(
            StatusCode::REQUEST_TIMEOUT,
            "bad_request",
            "the body did not come in time",
        )),
    }
}
