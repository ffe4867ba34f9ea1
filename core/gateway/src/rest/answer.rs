//! What handlers give back, and the reads behind it.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use haggle_engine::{Outcome, ReadSteps, Readers};
use haggle_model::{Address, ConversationId, ErrorCode, MessageId, Seq, UserId};
use haggle_store::{ConversationRow, InboxRow, MessageRow};
use serde::Serialize;

use super::{extract::Caller, problem::Problem};
use crate::{
    Gateway,
    resource::{ConversationContext, ConversationResource, MessageContext, MessageResource},
};

/// What a handler returns.
pub type Answer = Result<Response, Problem>;

/// Participants that a conversation's resource names.
pub const PARTICIPANTS_SHOWN_MAX: usize = 256;

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    raw_json(status, crate::json::to_vec(value))
}

/// JSON that is already text.
pub fn raw_json(status: StatusCode, bytes: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], bytes.into()).into_response()
}

/// 204.
pub fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// Marks the answer of a retry.
pub fn replayed(mut response: Response, outcome: &Outcome) -> Response {
    if outcome.duplicate {
        response
            .headers_mut()
            .insert(HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));
    }
    response
}

/// Says where the new thing stands.
pub fn located(mut response: Response, path: &str) -> Response {
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}

/// Everybody but the sender who has read a message, and when.
pub fn readers(steps: &ReadSteps, message: &MessageRow) -> Readers {
    let mut readers = steps.readers(message.id.seq);
    readers.retain(|(user, _)| *user != message.sender);
    readers
}

/// A message that the caller may read, as stored now; 404 for everybody else.
pub async fn readable_message(gateway: &Gateway, caller: &Caller, id: MessageId) -> Result<MessageRow, Problem> {
    gateway.engine.authorize_read(&caller.actor, id.conversation).await?;
    let store = gateway.engine.store();
    let row = store.message(id).await?.ok_or_else(Problem::not_found)?;
    if store.is_hidden(caller.user(), id).await? {
        Err(Problem::not_found())
    } else {
        Ok(row)
    }
}

/// The answer with one message and its `ETag`.
pub async fn message(gateway: &Gateway, status: StatusCode, row: &MessageRow) -> Answer {
    let steps = gateway.engine.read_steps(row.id.conversation, row.id.seq).await?;
    let readers = readers(&steps, row);
    Ok(tagged(
        status,
        row,
        MessageContext {
            read_by: Some(&readers),
            deleted_for: Some(&[]),
        },
    ))
}

/// The answer with a message that has just been created: nobody has read it, so nothing is looked up.
pub fn fresh_message(row: &MessageRow) -> Response {
    tagged(StatusCode::CREATED, row, MessageContext::FRESH)
}

fn tagged(status: StatusCode, row: &MessageRow, context: MessageContext<'_>) -> Response {
    let mut response = json(status, &MessageResource::new(row.view(), context));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", row.rev)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The message that a command has just written.
pub async fn written_message(gateway: &Gateway, id: MessageId) -> Result<MessageRow, Problem> {
    let row = gateway.engine.store().message(id).await?;
    row.ok_or_else(|| haggle_engine::Refusal::new(ErrorCode::Internal, format!("message {id} was acked and is not there")).into())
}

/// A conversation with what its resource needs beside the row.
pub struct ConversationParts {
    row: Row,
    participants: Vec<UserId>,
    last_message: Option<String>,
}

enum Row {
    Own(Box<InboxRow>),
    Admin(Box<ConversationRow>),
}

impl ConversationParts {
    /// Reads what belongs to a row of the caller's list.
    pub async fn of_inbox(gateway: &Gateway, caller: &Caller, row: InboxRow) -> Result<ConversationParts, Problem> {
        let participants = participants(gateway, &row.conversation).await?;
        let last_message = last_message(gateway, caller, &row).await?;
        Ok(ConversationParts {
            row: Row::Own(Box::new(row)),
            participants,
            last_message,
        })
    }

    /// The conversation as the caller may see it; 404 for who may not.
    pub async fn load(gateway: &Gateway, caller: &Caller, id: ConversationId) -> Result<ConversationParts, Problem> {
        let (conversation, member) = gateway.engine.authorize_read(&caller.actor, id).await?;
        if member.is_some()
            && let Some(row) = gateway.engine.inbox_row(caller.user(), id).await?
        {
            return Self::of_inbox(gateway, caller, row).await;
        }
        let participants = participants(gateway, &conversation).await?;
        Ok(ConversationParts {
            row: Row::Admin(Box::new(conversation)),
            participants,
            last_message: None,
        })
    }

    /// What the caller sees.
    pub fn resource<'a>(&'a self, viewer: &'a UserId) -> ConversationResource<'a> {
        let context = ConversationContext {
            viewer: Some(viewer),
            participants: &self.participants,
            last_message: self.last_message.as_deref(),
        };
        match &self.row {
            Row::Own(row) => ConversationResource::new(row, context),
            Row::Admin(row) => ConversationResource::for_admin(row, context),
        }
    }
}

async fn participants(gateway: &Gateway, row: &ConversationRow) -> Result<Vec<UserId>, Problem> {
    if let Address::Direct(a, b) = &row.address {
        return Ok(vec![a.clone(), b.clone()]);
    }
    let mut found = Vec::new();
    let mut after: Option<UserId> = None;
    while found.len() < PARTICIPANTS_SHOWN_MAX {
        let page = gateway.engine.store().members(row.id, after.as_ref(), PARTICIPANTS_SHOWN_MAX).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.user.clone());
        let is_last = page.len() < PARTICIPANTS_SHOWN_MAX;
        found.extend(page.into_iter().filter(|member| member.left_seq.is_none()).map(|member| member.user));
        if is_last {
            break;
        }
    }
    found.truncate(PARTICIPANTS_SHOWN_MAX);
    Ok(found)
}

/// The text of the newest message, unless the caller has deleted it for itself.
async fn last_message(gateway: &Gateway, caller: &Caller, row: &InboxRow) -> Result<Option<String>, Problem> {
    let seq = row.conversation.last_message;
    if seq == 0 || seq <= row.personal.hidden_to {
        return Ok(None);
    }
    let id = row.conversation.id.message(seq);
    let store = gateway.engine.store();
    if store.is_hidden(caller.user(), id).await? {
        return Ok(None);
    }
    Ok(store.message(id).await?.map(|message| message.content.text))
}

/// The present texts of messages that notifications are about, as far as the user may still see them.
#[derive(Default)]
pub struct Previews {
    readable: HashMap<ConversationId, bool>,
}

impl Previews {
    /// The text of one message, or nothing.
    pub async fn text(&mut self, gateway: &Gateway, caller: &Caller, id: MessageId) -> Result<Option<String>, Problem> {
        if !self.may_read(gateway, caller, id.conversation).await? || gateway.engine.store().is_hidden(caller.user(), id).await? {
            return Ok(None);
        }
        Ok(gateway.engine.store().message(id).await?.map(|message| message.content.text))
    }

    async fn may_read(&mut self, gateway: &Gateway, caller: &Caller, id: ConversationId) -> Result<bool, Problem> {
        if let Some(known) = self.readable.get(&id) {
            return Ok(*known);
        }
        let may = match gateway.engine.authorize_read(&caller.actor, id).await {
            Ok(_) => true,
            Err(refusal) if matches!(refusal.code, ErrorCode::NotFound | ErrorCode::Forbidden) => false,
            Err(refusal) => return Err(refusal.into()),
        };
        self.readable.insert(id, may);
        Ok(may)
    }
}

/// Waits for a mark to be durable.
pub async fn mark_read(gateway: &Arc<Gateway>, caller: &Caller, conversation: ConversationId, seq: Seq) -> Result<(), Problem> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let reply = Box::new(move |result| drop(sender.send(result)));
    gateway.engine.mark(&caller.actor, conversation, Some(seq), Some(seq), Some(reply));
    match receiver.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(_) => Err(Problem::new(ErrorCode::Unavailable, "the server is stopping")),
    }
}

/// The caller's unread messages of a conversation.
pub async fn unread(gateway: &Gateway, caller: &Caller, conversation: ConversationId) -> Result<u32, Problem> {
    Ok(gateway.engine.inbox_row(caller.user(), conversation).await?.map_or(0, |row| row.unread))
}
