//! The engine's words and the contract's words for the same things.

use std::mem::take;

use haggle_engine::{
    Actor, NotificationView, Readers, Transport,
    ports::{self, Call, ConversationOp, GuestMessage, HostError, Op, ParticipantOp},
};
use haggle_model::{Address, CommandId, ConversationUpdate, MessageId, Millis, Notification, UserId};
use haggle_store::{ConversationRow, MemberRow, MessageRow, UserRow};
use serde::de::IgnoredAny;

use crate::bindings::{exports, notifications, wit};

impl From<HostError> for wit::Error {
    fn from(error: HostError) -> wit::Error {
        match error {
            HostError::Denied => wit::Error::Denied,
            HostError::Quota(what) => wit::Error::Quota(what),
            HostError::NotFound => wit::Error::NotFound,
            HostError::Invalid(what) => wit::Error::Invalid(what),
            HostError::Unavailable(what) => wit::Error::Unavailable(what),
        }
    }
}

/// The argument `what` breaks a rule.
pub(crate) fn invalid(what: impl Into<String>) -> HostError {
    HostError::Invalid(what.into())
}

/// Parses an id; `what` names the argument.
pub(crate) fn id<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, HostError> {
    text.parse().map_err(|_| invalid(format!("{what} `{}` is not an id", shortened(text))))
}

/// Arrays and objects inside each other in JSON that plugins write; deeper ones would be a trap for every reader.
pub(crate) const JSON_DEPTH_MAX: usize = 64;

/// Any JSON value as text. The engine does not know JSON, so it is checked here.
pub(crate) fn json(what: &str, text: &str) -> Result<(), HostError> {
    if depth(text) > JSON_DEPTH_MAX {
        return Err(invalid(format!("{what} is nested deeper than {JSON_DEPTH_MAX}")));
    }
    serde_json::from_str::<IgnoredAny>(text)
        .map(drop)
        .map_err(|error| invalid(format!("{what} is not JSON: {error}")))
}

/// The deepest nesting; of what is not JSON, some number.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// One JSON object as text.
pub(crate) fn json_object(what: &str, text: &str) -> Result<(), HostError> {
    json(what, text)?;
    let is_object = text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{');
    if is_object {
        Ok(())
    } else {
        Err(invalid(format!("{what} is not a JSON object")))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The contract's clocks do not go below the epoch.
pub(crate) fn millis(at: Millis) -> u64 {
    u64::try_from(at).unwrap_or(0)
}

/// Each half of an id, most significant first.
pub(crate) fn command_id(id: CommandId) -> wit::CommandId {
    let id = u128::from_be_bytes(id.0);
    wit::CommandId {
        high: (id >> 64) as u64,
        low: id as u64,
    }
}

/// What every handler is told of its call.
pub(crate) fn call(call: &Call) -> wit::Call {
    wit::Call {
        conversation_id: call.conversation.map(|id| id.to_string()),
        ..call_about_message(call)
    }
}

/// The same for a handler whose message names the conversation.
pub(crate) fn call_about_message(call: &Call) -> wit::Call {
    let actor = &call.actor;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    wit::Call {
        ref_: command_id(call.command),
        actor: actor.user.to_string(),
        roles: (!actor.roles.is_empty()).then(|| actor.roles.to_vec()),
        session: some(&actor.session),
        transport: transport(actor.transport),
        dialect: (*actor.dialect != *Actor::NATIVE).then(|| actor.dialect.to_string()),
        trace_id: some(&call.trace_id),
        now_ms: millis(call.now),
        conversation_id: None,
        origin: (!call.origin.is_empty()).then(|| call.origin.iter().map(ToString::to_string).collect()),
    }
}

pub(crate) fn transport(transport: Transport) -> wit::Transport {
    match transport {
        Transport::Rest => wit::Transport::Rest,
        Transport::Ws => wit::Transport::Ws,
        Transport::SocketIo => wit::Transport::Socketio,
        Transport::Internal => wit::Transport::Internal,
    }
}

/// `member` or `admin`.
pub(crate) fn role(text: &str) -> Result<haggle_model::Role, HostError> {
    text.parse().map_err(|()| invalid("role must be `member` or `admin`"))
}

fn op(op: Op) -> wit::Op {
    match op {
        Op::Send => wit::Op::Send,
        Op::Edit => wit::Op::Edit,
        Op::Delete => wit::Op::Delete,
    }
}

/// The kind that the contract leaves out.
const KIND_TEXT: &str = "text";

/// A draft of `actor`'s as it is told to a handler. Its texts move there, so that none is copied for the one who only looks at
/// them; [`restore_draft`] brings them back.
pub(crate) fn tell_draft(draft: &mut ports::Draft, actor: &UserId) -> wit::Draft {
    wit::Draft {
        op: op(draft.op),
        target: draft.target.map(|id| id.to_string()),
        conversation_id: draft.conversation.to_string(),
        sender_id: (draft.sender != *actor).then(|| draft.sender.to_string()),
        kind: (draft.kind != KIND_TEXT).then(|| take(&mut draft.kind)),
        content: take(&mut draft.text),
        metadata: draft.metadata.take(),
        reply_to: draft.reply_to.map(|id| id.to_string()),
        forwarded_from: draft.forwarded_from.map(|id| id.to_string()),
        client_message_id: draft.client_id.take(),
    }
}

/// Gives the draft its texts back.
pub(crate) fn restore_draft(draft: &mut ports::Draft, told: wit::Draft) {
    if let Some(kind) = told.kind {
        draft.kind = kind;
    }
    draft.text = told.content;
    draft.metadata = told.metadata;
    draft.client_id = told.client_message_id;
}

/// The parts of a message that a plugin may rewrite, checked.
#[derive(Debug)]
pub(crate) struct Rewritten {
    kind: String,
    text: String,
    metadata: Option<String>,
    reply_to: Option<MessageId>,
    forwarded_from: Option<MessageId>,
}

fn kind(told: Option<String>) -> String {
    told.unwrap_or_else(|| KIND_TEXT.to_owned())
}

impl Rewritten {
    pub(crate) fn check(rewrite: wit::Rewrite) -> Result<Rewritten, HostError> {
        if let Some(metadata) = &rewrite.metadata {
            json_object("metadata", metadata)?;
        }
        Ok(Rewritten {
            kind: kind(rewrite.kind),
            text: rewrite.content,
            metadata: rewrite.metadata,
            reply_to: rewrite.reply_to.map(|text| id("reply-to", &text)).transpose()?,
            forwarded_from: rewrite.forwarded_from.map(|text| id("forwarded-from", &text)).transpose()?,
        })
    }

    /// What a message *is* (whose, where, which operation) stays as it was.
    pub(crate) fn apply(self, draft: &mut ports::Draft) {
        draft.kind = self.kind;
        draft.text = self.text;
        draft.metadata = self.metadata;
        draft.reply_to = self.reply_to;
        draft.forwarded_from = self.forwarded_from;
    }
}

pub(crate) fn conversation_op(op: ConversationOp) -> wit::ConversationOp {
    match op {
        ConversationOp::Create => wit::ConversationOp::Create,
        ConversationOp::Update => wit::ConversationOp::Update,
        ConversationOp::Close => wit::ConversationOp::Close,
        ConversationOp::Reopen => wit::ConversationOp::Reopen,
    }
}

pub(crate) fn conversation_draft(draft: &ports::ConversationDraft) -> wit::ConversationDraft {
    wit::ConversationDraft {
        op: conversation_op(draft.op),
        kind: draft.kind.as_str().to_owned(),
        context: draft.context.clone(),
        name: draft.update.name.clone(),
        avatar: draft.update.avatar.clone(),
        state: draft.update.state.clone(),
        participants: draft.participants.iter().map(ToString::to_string).collect(),
    }
}

/// What a plugin rewrote of a conversation, checked. What the conversation *is*, and who is in it, stays as it was.
pub(crate) fn conversation_update(rewrite: wit::ConversationRewrite) -> Result<ConversationUpdate, HostError> {
    let wit::ConversationRewrite { name, avatar, state } = rewrite;
    if let Some(state) = state.as_deref().filter(|state| !state.is_empty()) {
        json_object("state", state)?;
    }
    Ok(ConversationUpdate { name, avatar, state })
}

pub(crate) fn participant_change(change: &ports::ParticipantChange) -> wit::ParticipantChange {
    wit::ParticipantChange {
        op: match change.op {
            ParticipantOp::Join => wit::ParticipantOp::Join,
            ParticipantOp::Leave => wit::ParticipantOp::Leave,
            ParticipantOp::Role => wit::ParticipantOp::Role,
        },
        user_id: change.user.to_string(),
        role: change.role.as_str().to_owned(),
    }
}

pub(crate) fn reaction(change: &ports::ReactionChange) -> wit::Reaction {
    wit::Reaction {
        message_id: change.message.to_string(),
        user_id: change.user.to_string(),
        emoji: change.emoji.clone(),
    }
}

/// A stored message that is read.
pub(crate) fn message(row: MessageRow) -> wit::Message {
    message_after(row, Op::Send, None)
}

/// A stored message to which something has just happened. For a handler whose call names the actor, a sender who is that is left out.
pub(crate) fn message_after(row: MessageRow, happened: Op, actor: Option<&UserId>) -> wit::Message {
    let content = row.content;
    wit::Message {
        id: row.id.to_string(),
        seq: row.id.seq,
        rev: row.rev,
        n: row.n,
        ref_: row.command.map(command_id),
        created_at_ms: millis(row.created_at),
        edited_at_ms: row.edited_at.map(millis),
        deleted_at_ms: row.deleted_at.map(millis),
        reactions: row.reactions.into_iter().map(|(user, emoji)| (user.to_string(), emoji)).collect(),
        draft: wit::Draft {
            op: op(happened),
            target: (happened != Op::Send).then(|| row.id.to_string()),
            conversation_id: row.id.conversation.to_string(),
            sender_id: (Some(&row.sender) != actor).then(|| row.sender.to_string()),
            kind: (content.kind != KIND_TEXT).then_some(content.kind),
            content: content.text,
            metadata: content.metadata,
            reply_to: content.reply_to.map(|id| id.to_string()),
            forwarded_from: content.forwarded_from.map(|id| id.to_string()),
            client_message_id: content.client_id,
        },
    }
}

/// Bytes of the texts of a message.
pub(crate) fn message_bytes(message: &wit::Message) -> usize {
    let reactions: usize = message.reactions.iter().map(|(user, emoji)| user.len() + emoji.len()).sum();
    message.id.len() + reactions + draft_bytes(&message.draft)
}

/// Who has read each of some messages.
pub(crate) fn read_by(messages: Vec<Readers>) -> Vec<Vec<wit::Reader>> {
    let reader = |(user, at): (UserId, Millis)| wit::Reader {
        user_id: user.to_string(),
        read_at_ms: millis(at),
    };
    messages.into_iter().map(|readers| readers.into_iter().map(reader).collect()).collect()
}

/// Bytes of the texts of such an answer.
pub(crate) fn read_by_bytes(messages: &[Vec<wit::Reader>]) -> usize {
    messages.iter().flatten().map(|reader| reader.user_id.len()).sum()
}

/// Ids of messages.
pub(crate) fn message_ids(texts: &[String]) -> Result<Vec<MessageId>, HostError> {
    texts.iter().map(|text| id("ids", text)).collect()
}

pub(crate) fn conversation(row: ConversationRow) -> wit::Conversation {
    let kind = row.kind().as_str().to_owned();
    let context = match &row.address {
        Address::Context(owner, context_type, context_id) => Some(format!("{owner}/{context_type}:{context_id}")),
        _ => None,
    };
    wit::Conversation {
        id: row.id.to_string(),
        kind,
        context,
        name: row.name,
        avatar: row.avatar,
        state: row.state,
        closed: row.closed,
        creator: row.creator.map(|user| user.to_string()),
        created_at_ms: millis(row.created_at),
        head: row.head,
    }
}

pub(crate) fn participant(row: MemberRow) -> wit::Participant {
    wit::Participant {
        user_id: row.user.to_string(),
        role: row.role.as_str().to_owned(),
        joined_at_ms: millis(row.joined_at),
        read_seq: row.mark.read_seq,
        delivered_seq: row.mark.delivered_seq,
    }
}

pub(crate) fn user(row: UserRow) -> wit::User {
    wit::User {
        id: row.id.to_string(),
        name: row.profile.name,
        avatar: row.profile.avatar,
        roles: row.profile.roles,
        attributes: row.profile.attributes,
        preferences: row.profile.preferences,
    }
}

/// A message that a plugin sends. `system` messages are notes of the server: they do not count as unread.
pub(crate) fn guest_message(draft: wit::Draft) -> Result<GuestMessage, HostError> {
    if draft.op != wit::Op::Send {
        return Err(invalid("op must be `send`; use `messages.edit` for changes"));
    }
    if draft.target.is_some() || draft.forwarded_from.is_some() || draft.client_message_id.is_some() {
        return Err(invalid("target, forwarded-from and client-message-id are not for plugins to set"));
    }
    if let Some(metadata) = &draft.metadata {
        json_object("metadata", metadata)?;
    }
    let kind = kind(draft.kind);
    Ok(GuestMessage {
        conversation: id("conversation-id", &draft.conversation_id)?,
        // Nobody's name is the server's own.
        sender: draft.sender_id.filter(|sender| !sender.is_empty()).map(|sender| sender.as_str().into()),
        countable: kind != "system",
        kind,
        text: draft.content,
        metadata: draft.metadata,
        reply_to: draft.reply_to.map(|text| id("reply-to", &text)).transpose()?,
    })
}

/// A notification as its user sees it.
pub(crate) fn stored_notification(view: NotificationView) -> wit::StoredNotification {
    let NotificationView { user, row } = view;
    let said = row.notification;
    wit::StoredNotification {
        id: row.id.to_string(),
        user_id: user.to_string(),
        topic: said.topic,
        title: said.title,
        body: said.body,
        data: said.data,
        message_id: said.message.map(|id| id.to_string()),
        plugin: said.plugin.map(|plugin| plugin.to_string()),
        read: row.read,
        created_at_ms: millis(row.created_at),
        updated_at_ms: millis(row.updated_at),
    }
}

pub(crate) fn notification(plugin: &haggle_model::PluginId, told: notifications::Notification) -> Result<Notification, HostError> {
    if let Some(data) = &told.data {
        json("data", data)?;
    }
    Ok(Notification {
        topic: told.topic,
        title: told.title,
        body: told.body,
        data: told.data,
        message: told.message_id.map(|text| id("message-id", &text)).transpose()?,
        plugin: Some(plugin.clone()),
        collapse: told.collapse,
    })
}

pub(crate) fn http_request(request: ports::HttpRequest) -> exports::http::Request {
    exports::http::Request {
        method: request.method,
        path: request.path,
        params: request.params,
        query: request.query,
        headers: request.headers,
        body: request.body,
    }
}

/// Headers that belong to the connection, not to the answer.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];
/// Headers of one answer.
const HEADERS_MAX: usize = 64;

/// A plugin's answer, fit to be sent.
pub(crate) fn http_response(response: exports::http::Response) -> Result<ports::HttpResponse, HostError> {
    if !(200..=599).contains(&response.status) {
        return Err(invalid(format!("status {} is not between 200 and 599", response.status)));
    }
    if response.headers.len() > HEADERS_MAX {
        return Err(invalid(format!("{} headers; at most {HEADERS_MAX}", response.headers.len())));
    }
    let mut headers = Vec::with_capacity(response.headers.len());
    for (name, value) in response.headers {
        let name = name.to_ascii_lowercase();
        let is_token = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let is_line = value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
        if !is_token || !is_line {
            return Err(invalid(format!("header `{}` cannot be sent", shortened(&name))));
        }
        if !HOP_BY_HOP.contains(&name.as_str()) {
            headers.push((name, value));
        }
    }
    Ok(ports::HttpResponse {
        status: response.status,
        headers,
        body: response.body,
    })
}

/// Bytes of the texts of a draft.
pub(crate) fn draft_bytes(draft: &wit::Draft) -> usize {
    let optional = [
        &draft.target,
        &draft.sender_id,
        &draft.kind,
        &draft.metadata,
        &draft.reply_to,
        &draft.forwarded_from,
        &draft.client_message_id,
    ];
    let optional: usize = optional.into_iter().flatten().map(String::len).sum();
    draft.conversation_id.len() + draft.content.len() + optional
}

/// Bytes of the texts of an answer, for its limit.
pub(crate) fn rewrite_bytes(rewrite: &wit::Rewrite) -> usize {
    let optional = [&rewrite.kind, &rewrite.metadata, &rewrite.reply_to, &rewrite.forwarded_from];
    let optional: usize = optional.into_iter().flatten().map(String::len).sum();
    rewrite.content.len() + optional
}

/// As [`rewrite_bytes`].
pub(crate) fn conversation_rewrite_bytes(rewrite: &wit::ConversationRewrite) -> usize {
    let optional = [&rewrite.name, &rewrite.avatar, &rewrite.state];
    optional.into_iter().flatten().map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use haggle_model::ConversationId;

    use super::*;

    fn a_draft() -> ports::Draft {
        ports::Draft {
            op: Op::Send,
            target: None,
            conversation: ConversationId(0x1_0000),
            sender: "ann".into(),
            kind: "text".into(),
            text: "hello".into(),
            metadata: None,
            reply_to: None,
            forwarded_from: None,
            client_id: Some("c1".into()),
        }
    }

    #[test]
    fn a_draft_that_was_told_is_restored_whole() {
        let of_kind = |kind: &str| ports::Draft {
            kind: kind.into(),
            ..a_draft()
        };
        for draft in [a_draft(), of_kind("offer"), of_kind("")] {
            let mut told = draft.clone();
            let moved = tell_draft(&mut told, &"ann".into());
            restore_draft(&mut told, moved);
            assert_eq!(told, draft);
        }
    }

    #[test]
    fn what_is_nearly_always_the_same_is_not_told() {
        let told = tell_draft(&mut a_draft(), &"ann".into());
        assert_eq!((told.sender_id, told.kind), (None, None));
        let mut offer = ports::Draft {
            kind: "offer".into(),
            ..a_draft()
        };
        let told = tell_draft(&mut offer, &"admin".into());
        assert_eq!((told.sender_id.as_deref(), told.kind.as_deref()), (Some("ann"), Some("offer")));
    }

    #[test]
    fn a_message_without_a_sender_is_the_plugins_own() {
        let sender_of = |sender_id: Option<&str>| {
            let mut draft = tell_draft(&mut a_draft(), &"ann".into());
            (draft.client_message_id, draft.sender_id) = (None, sender_id.map(str::to_owned));
            guest_message(draft).unwrap().sender
        };
        assert_eq!((sender_of(None), sender_of(Some(""))), (None, None));
        assert_eq!(sender_of(Some("bob")), Some("bob".into()));
    }

    #[test]
    fn an_id_of_a_command_keeps_its_digits() {
        let id: CommandId = "0123456789abcdeffedcba9876543210".parse().unwrap();
        let told = command_id(id);
        assert_eq!(format!("{:016x}{:016x}", told.high, told.low), id.to_string());
    }

    fn a_rewrite() -> wit::Rewrite {
        wit::Rewrite {
            kind: Some("offer".into()),
            content: "hi".into(),
            metadata: Some(" {\"a\":1}".into()),
            reply_to: None,
            forwarded_from: None,
        }
    }

    #[test]
    fn content_may_be_rewritten() {
        let mut rewritten = a_draft();
        Rewritten::check(a_rewrite()).unwrap().apply(&mut rewritten);
        assert_eq!(
            rewritten,
            ports::Draft {
                text: "hi".into(),
                kind: "offer".into(),
                metadata: Some(" {\"a\":1}".into()),
                ..a_draft()
            }
        );
    }

    #[test]
    fn not_into_what_no_message_is() {
        let changes: [fn(&mut wit::Rewrite); 3] = [
            |rewrite| rewrite.reply_to = Some("no id".into()),
            |rewrite| rewrite.forwarded_from = Some("no id".into()),
            |rewrite| rewrite.metadata = Some("[]".into()),
        ];
        for change in changes {
            let mut rewrite = a_rewrite();
            change(&mut rewrite);
            assert!(Rewritten::check(rewrite.clone()).is_err(), "{rewrite:?}");
        }
    }

    #[test]
    fn what_a_call_has_not_costs_nothing() {
        let mut asked = Call {
            command: haggle_model::CommandId([7; 16]),
            actor: Actor::user("ann", Transport::Rest),
            trace_id: String::new(),
            now: -1,
            conversation: None,
            origin: Vec::new(),
        };
        let told = call(&asked);
        assert!(told.roles.is_none() && told.session.is_none() && told.dialect.is_none() && told.trace_id.is_none() && told.origin.is_none());
        asked.actor.roles = ["staff".to_owned()].into();
        (asked.actor.session, asked.actor.dialect) = ("s1".into(), "shop".into());
        (asked.trace_id, asked.origin) = ("t1".into(), vec!["offers".into()]);
        let told = call(&asked);
        assert_eq!((told.roles, told.origin), (Some(vec!["staff".into()]), Some(vec!["offers".into()])));
        assert_eq!(
            [told.session, told.dialect, told.trace_id].map(Option::unwrap_or_default),
            ["s1", "shop", "t1"]
        );
    }

    #[test]
    fn what_is_said_to_be_json_is_json() {
        assert!(json_object("metadata", " {\"a\": 1e99}").is_ok());
        for text in ["", "{", "[]", "{}{}", "nul", "1"] {
            assert!(json_object("metadata", text).is_err(), "{text}");
        }
        assert!(json("data", "[1]").is_ok());
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(json("data", &deep).is_err(), "depth is bounded");
        assert!(
            json("data", r#""[[[[""#).is_ok() && depth(r#"["\"[[", {"a": []}]"#) == 3,
            "brackets in strings do not count"
        );
    }

    #[test]
    fn answers_that_cannot_be_sent_are_refused() {
        let response = |status, headers: &[(&str, &str)]| exports::http::Response {
            status,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: Vec::new(),
        };
        assert!(http_response(response(101, &[])).is_err());
        assert!(http_response(response(200, &[("x", "a\r\nset-cookie: b")])).is_err());
        assert!(http_response(response(200, &[("x y", "a")])).is_err());
        assert!(http_response(response(200, &[("", "a")])).is_err());
        let sent = http_response(response(
            200,
            &[("Content-Type", "text/plain"), ("Connection", "close"), ("content-length", "9")],
        ))
        .unwrap();
        assert_eq!(sent.headers, [("content-type".to_owned(), "text/plain".to_owned())]);
    }
}
