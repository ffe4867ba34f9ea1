//! The engine's words and the SDK's words for the same things.

use haggle_engine::{
    Actor, NotificationView, Readers, Transport,
    ports::{self, ConversationOp, GuestMessage, HostError, Op, ParticipantOp},
};
use haggle_model::{Address, ConversationId, MessageId, Millis, UserId};
use haggle_sdk::{Error, types};
use haggle_store::{ConversationRow, MemberRow, MessageRow, UserRow};
use serde_json::{Map, Value};

pub(crate) fn error(error: HostError) -> Error {
    match error {
        HostError::Denied => Error::Denied,
        HostError::Quota(what) => Error::Quota(what),
        HostError::NotFound => Error::NotFound,
        HostError::Invalid(what) => Error::Invalid(what),
        HostError::Unavailable(what) => Error::Unavailable(what),
    }
}

pub(crate) fn id<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Invalid(format!("{what} `{text}` is not an id")))
}

/// The engine does not know JSON, so whoever stands before it checks.
pub(crate) fn json_object(what: &str, text: Option<&str>) -> Result<(), Error> {
    let Some(text) = text else { return Ok(()) };
    serde_json::from_str::<Map<String, Value>>(text)
        .map(drop)
        .map_err(|error| Error::Invalid(format!("{what} is not a JSON object: {error}")))
}

pub(crate) fn json(what: &str, text: &str) -> Result<(), Error> {
    serde_json::from_str::<Value>(text)
        .map(drop)
        .map_err(|error| Error::Invalid(format!("{what} is not JSON: {error}")))
}

pub(crate) fn millis(at: Millis) -> u64 {
    u64::try_from(at).unwrap_or(0)
}

fn text<T: ToString>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

pub(crate) fn call(call: &ports::Call) -> types::Call {
    types::Call {
        reference: call.command.to_string(),
        actor: call.actor.user.to_string(),
        roles: call.actor.roles.to_vec(),
        session: call.actor.session.to_string(),
        transport: transport(call.actor.transport),
        dialect: (*call.actor.dialect != *Actor::NATIVE).then(|| call.actor.dialect.to_string()),
        trace_id: call.trace_id.clone(),
        now_ms: millis(call.now),
        conversation_id: text(call.conversation),
        origin: call.origin.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn transport(transport: Transport) -> types::Transport {
    match transport {
        Transport::Rest => types::Transport::Rest,
        Transport::Ws => types::Transport::Ws,
        Transport::SocketIo => types::Transport::SocketIo,
        Transport::Internal => types::Transport::Internal,
    }
}

pub(crate) fn role(role: &str) -> Result<haggle_model::Role, Error> {
    match role {
        "member" | "" => Ok(haggle_model::Role::Member),
        "admin" => Ok(haggle_model::Role::Admin),
        other => Err(Error::Invalid(format!("there is no role `{other}`"))),
    }
}

fn op(op: Op) -> types::Op {
    match op {
        Op::Send => types::Op::Send,
        Op::Edit => types::Op::Edit,
        Op::Delete => types::Op::Delete,
    }
}

pub(crate) fn draft(draft: &ports::Draft) -> types::Draft {
    types::Draft {
        op: op(draft.op),
        target: text(draft.target),
        conversation_id: draft.conversation.to_string(),
        sender_id: draft.sender.to_string(),
        kind: draft.kind.clone(),
        content: draft.text.clone(),
        metadata: draft.metadata.clone(),
        reply_to: text(draft.reply_to),
        forwarded_from: text(draft.forwarded_from),
        client_message_id: draft.client_id.clone(),
    }
}

/// What a plugin has made of a draft: what a message *is* stays as it was.
pub(crate) fn rewrite(draft: &mut ports::Draft, after: types::Draft) -> Result<(), Error> {
    json_object("metadata", after.metadata.as_deref())?;
    draft.reply_to = after.reply_to.map(|reply_to| id("reply-to", &reply_to)).transpose()?;
    draft.forwarded_from = after.forwarded_from.map(|from| id("forwarded-from", &from)).transpose()?;
    draft.kind = after.kind;
    draft.text = after.content;
    draft.metadata = after.metadata;
    Ok(())
}

pub(crate) fn conversation_draft(draft: &ports::ConversationDraft) -> types::ConversationDraft {
    types::ConversationDraft {
        op: conversation_op(draft.op),
        kind: draft.kind.as_str().into(),
        context: draft.context.clone(),
        name: draft.update.name.clone(),
        avatar: draft.update.avatar.clone(),
        state: draft.update.state.clone(),
        participants: draft.participants.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn conversation_op(op: ConversationOp) -> types::ConversationOp {
    match op {
        ConversationOp::Create => types::ConversationOp::Create,
        ConversationOp::Update => types::ConversationOp::Update,
        ConversationOp::Close => types::ConversationOp::Close,
        ConversationOp::Reopen => types::ConversationOp::Reopen,
    }
}

pub(crate) fn participant_change(change: &ports::ParticipantChange) -> types::ParticipantChange {
    types::ParticipantChange {
        op: match change.op {
            ParticipantOp::Join => types::ParticipantOp::Join,
            ParticipantOp::Leave => types::ParticipantOp::Leave,
            ParticipantOp::Role => types::ParticipantOp::Role,
        },
        user_id: change.user.to_string(),
        role: change.role.as_str().into(),
    }
}

pub(crate) fn reaction(change: &ports::ReactionChange) -> types::Reaction {
    types::Reaction {
        message_id: change.message.to_string(),
        user_id: change.user.to_string(),
        emoji: change.emoji.clone(),
    }
}

pub(crate) fn message(row: MessageRow, happened: Op) -> types::Message {
    types::Message {
        id: row.id.to_string(),
        seq: row.id.seq,
        rev: row.rev,
        n: row.n,
        reference: text(row.command).unwrap_or_default(),
        created_at_ms: millis(row.created_at),
        edited_at_ms: row.edited_at.map(millis),
        deleted_at_ms: row.deleted_at.map(millis),
        reactions: row.reactions.into_iter().map(|(user, emoji)| (user.to_string(), emoji)).collect(),
        op: op(happened),
        conversation_id: row.id.conversation.to_string(),
        sender_id: row.sender.to_string(),
        kind: row.content.kind,
        content: row.content.text,
        metadata: row.content.metadata,
        reply_to: text(row.content.reply_to),
        forwarded_from: text(row.content.forwarded_from),
        client_message_id: row.content.client_id,
    }
}

pub(crate) fn read_by(messages: Vec<Readers>) -> Vec<Vec<types::Reader>> {
    let reader = |(user, at): (UserId, Millis)| types::Reader {
        user_id: user.to_string(),
        read_at_ms: millis(at),
    };
    messages.into_iter().map(|readers| readers.into_iter().map(reader).collect()).collect()
}

/// Ids of messages.
pub(crate) fn message_ids(texts: &[String]) -> Result<Vec<MessageId>, Error> {
    texts.iter().map(|text| id("ids", text)).collect()
}

pub(crate) fn conversation(row: ConversationRow) -> types::Conversation {
    let context = match &row.address {
        Address::Context(owner, context_type, context_id) => Some(format!("{owner}/{context_type}:{context_id}")),
        _ => None,
    };
    types::Conversation {
        id: row.id.to_string(),
        kind: row.kind().as_str().into(),
        context,
        name: row.name,
        avatar: row.avatar,
        state: row.state,
        closed: row.closed,
        creator: text(row.creator),
        created_at_ms: millis(row.created_at),
        head: row.head,
    }
}

pub(crate) fn participant(row: MemberRow) -> types::Participant {
    types::Participant {
        user_id: row.user.to_string(),
        role: row.role.as_str().into(),
        joined_at_ms: millis(row.joined_at),
        read_seq: row.mark.read_seq,
        delivered_seq: row.mark.delivered_seq,
    }
}

pub(crate) fn user(row: UserRow) -> types::User {
    let profile = row.profile;
    types::User {
        id: row.id.to_string(),
        name: profile.name,
        avatar: profile.avatar,
        roles: profile.roles,
        attributes: profile.attributes,
        preferences: profile.preferences,
    }
}

/// A message that a plugin sends. `system` messages are notes of the server: they do not count as unread.
pub(crate) fn guest_message(draft: &types::Draft) -> Result<GuestMessage, Error> {
    if draft.op != types::Op::Send || draft.target.is_some() || draft.forwarded_from.is_some() || draft.client_message_id.is_some() {
        return Err(Error::Invalid(
            "a plugin sends new messages of its own; use `messages::edit` for changes".into(),
        ));
    }
    json_object("metadata", draft.metadata.as_deref())?;
    Ok(GuestMessage {
        conversation: id::<ConversationId>("conversation-id", &draft.conversation_id)?,
        sender: (!draft.sender_id.is_empty()).then(|| draft.sender_id.as_str().into()),
        countable: draft.kind != "system",
        kind: draft.kind.clone(),
        text: draft.content.clone(),
        metadata: draft.metadata.clone(),
        reply_to: draft
            .reply_to
            .as_deref()
            .map(|reply_to| id::<MessageId>("reply-to", reply_to))
            .transpose()?,
    })
}

pub(crate) fn to_notification(notification: &types::Notification) -> Result<haggle_model::Notification, Error> {
    if let Some(data) = &notification.data {
        json("data", data)?;
    }
    Ok(haggle_model::Notification {
        topic: notification.topic.clone(),
        title: notification.title.clone(),
        body: notification.body.clone(),
        data: notification.data.clone(),
        message: notification.message_id.as_deref().map(|message| id("message-id", message)).transpose()?,
        plugin: None, // the engine says whose it is
        collapse: notification.collapse.clone(),
    })
}

/// A notification as its user sees it.
pub(crate) fn stored_notification(view: NotificationView) -> types::StoredNotification {
    let NotificationView { user, row } = view;
    let said = row.notification;
    types::StoredNotification {
        id: row.id.to_string(),
        user_id: user.to_string(),
        topic: said.topic,
        title: said.title,
        body: said.body,
        data: said.data,
        message_id: text(said.message),
        plugin: text(said.plugin),
        read: row.read,
        created_at_ms: millis(row.created_at),
        updated_at_ms: millis(row.updated_at),
    }
}

pub(crate) fn notification(notification: haggle_model::Notification) -> types::Notification {
    types::Notification {
        topic: notification.topic,
        title: notification.title,
        body: notification.body,
        data: notification.data,
        message_id: text(notification.message),
        collapse: notification.collapse,
    }
}
