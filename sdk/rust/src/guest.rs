//! Inside a component: the bindings of the contract, and all conversion between them and the SDK's own types.
//!
//! The imports are bound once; each hook has a world of its own, whose `export!` macro `plugin!` calls in the author's crate,
//! so that a component exports just the hooks that are named. wit-component merges the worlds that a module mentions.

use crate::{
    Failure, Plugin, Rejection, hooks,
    sockets::{Args, Audience, CoreEvent, Emit, Handshake, SocketEvent, Target},
    types::{
        Call, Connection, Conversation, ConversationDecision, ConversationDraft, ConversationOp, Decision, Draft, HttpRequest, HttpResponse,
        KIND_TEXT, Message, Op, ParticipantChange, ParticipantOp, Reaction, Reader, Receipt, StoredNotification, Transport, Verdict,
    },
};

pub mod host;
mod imports {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package haggle:sdk;
            world imports {
                import haggle:plugin/types@0.1.0;
                import haggle:plugin/log@0.1.0;
                import haggle:plugin/metrics@0.1.0;
                import haggle:plugin/config@0.1.0;
                import haggle:plugin/kv@0.1.0;
                import haggle:plugin/kv-global@0.1.0;
                import haggle:plugin/messages@0.1.0;
                import haggle:plugin/conversations@0.1.0;
                import haggle:plugin/participants@0.1.0;
                import haggle:plugin/users@0.1.0;
                import haggle:plugin/events@0.1.0;
                import haggle:plugin/notifications@0.1.0;
                import haggle:plugin/client@0.1.0;
                import haggle:plugin/timers@0.1.0;
            }
        ",
        world: "imports",
        generate_all,
        generate_unused_types: true,
    });
}

use imports::haggle::plugin::types as wit;

/// What `plugin!` implements for its export type: the one instance behind the exported functions.
pub trait Exported {
    type Plugin: Plugin;
    fn with<R>(run: impl FnOnce(&mut Self::Plugin) -> R) -> R;
}

/// Makes the instance. Panics are reported from here on.
pub fn start<P: Plugin>() -> P {
    std::panic::set_hook(Box::new(|panic| {
        imports::haggle::plugin::log::write(imports::haggle::plugin::log::Level::Error, &panic.to_string())
    }));
    P::default()
}

/// Binds one hook's world.
macro_rules! hook_world {
    ($hook:ident, $world:literal, $inline:literal) => {
        pub mod $hook {
            wit_bindgen::generate!({
                path: "../wit",
                inline: $inline,
                world: $world,
                with: { "haggle:plugin/types@0.1.0": crate::guest::imports::haggle::plugin::types },
                pub_export_macro: true,
            });
        }
    };
}

hook_world!(
    before_message,
    "before-message",
    "package haggle:sdk; world before-message { export haggle:plugin/before-message@0.1.0; }"
);
hook_world!(
    after_message,
    "after-message",
    "package haggle:sdk; world after-message { export haggle:plugin/after-message@0.1.0; }"
);
hook_world!(
    before_conversation,
    "before-conversation",
    "package haggle:sdk; world before-conversation { export haggle:plugin/before-conversation@0.1.0; }"
);
hook_world!(
    after_conversation,
    "after-conversation",
    "package haggle:sdk; world after-conversation { export haggle:plugin/after-conversation@0.1.0; }"
);
hook_world!(
    before_participant,
    "before-participant",
    "package haggle:sdk; world before-participant { export haggle:plugin/before-participant@0.1.0; }"
);
hook_world!(
    after_participant,
    "after-participant",
    "package haggle:sdk; world after-participant { export haggle:plugin/after-participant@0.1.0; }"
);
hook_world!(
    before_reaction,
    "before-reaction",
    "package haggle:sdk; world before-reaction { export haggle:plugin/before-reaction@0.1.0; }"
);
hook_world!(
    after_reaction,
    "after-reaction",
    "package haggle:sdk; world after-reaction { export haggle:plugin/after-reaction@0.1.0; }"
);
hook_world!(
    after_receipt,
    "after-receipt",
    "package haggle:sdk; world after-receipt { export haggle:plugin/after-receipt@0.1.0; }"
);
hook_world!(
    after_connection,
    "after-connection",
    "package haggle:sdk; world after-connection { export haggle:plugin/after-connection@0.1.0; }"
);
hook_world!(
    command,
    "command-hook",
    "package haggle:sdk; world command-hook { export haggle:plugin/command@0.1.0; }"
);
hook_world!(
    http,
    "http-hook",
    "package haggle:sdk; world http-hook { export haggle:plugin/http@0.1.0; }"
);
hook_world!(
    timer,
    "timer-hook",
    "package haggle:sdk; world timer-hook { export haggle:plugin/timer@0.1.0; }"
);
hook_world!(
    namespace,
    "namespace-hook",
    "package haggle:sdk; world namespace-hook { export haggle:plugin/namespace@0.1.0; }"
);
pub mod lifecycle {
    // Mentions none of the contract's types, so there is nothing to share.
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package haggle:sdk; world lifecycle-hook { export haggle:plugin/lifecycle@0.1.0; }",
        world: "lifecycle-hook",
        pub_export_macro: true,
    });
}
// ---- exports: contract types in, the author's handler, contract types out --------------------------------------------

impl<E: Exported> before_message::exports::haggle::plugin::before_message::Guest for E
where
    E::Plugin: hooks::BeforeMessage,
{
    fn handle(call: wit::Call, mut draft: wit::Draft) -> wit::Decision {
        let call = call_about(call, &mut draft);
        E::with(|plugin| hooks::BeforeMessage::before_message(plugin, &call, draft.into())).into()
    }
}

impl<E: Exported> after_message::exports::haggle::plugin::after_message::Guest for E
where
    E::Plugin: hooks::AfterMessage,
{
    fn handle(call: wit::Call, mut message: wit::Message) -> Result<(), String> {
        let call = call_about(call, &mut message.draft);
        reason(E::with(|plugin| hooks::AfterMessage::after_message(plugin, &call, message.into())))
    }
}

impl<E: Exported> before_conversation::exports::haggle::plugin::before_conversation::Guest for E
where
    E::Plugin: hooks::BeforeConversation,
{
    fn handle(call: wit::Call, draft: wit::ConversationDraft) -> wit::ConversationDecision {
        E::with(|plugin| hooks::BeforeConversation::before_conversation(plugin, &call.into(), draft.into())).into()
    }
}

impl<E: Exported> after_conversation::exports::haggle::plugin::after_conversation::Guest for E
where
    E::Plugin: hooks::AfterConversation,
{
    fn handle(call: wit::Call, op: wit::ConversationOp, conversation: wit::Conversation) -> Result<(), String> {
        reason(E::with(|plugin| {
            hooks::AfterConversation::after_conversation(plugin, &call.into(), op.into(), conversation.into())
        }))
    }
}

impl<E: Exported> before_participant::exports::haggle::plugin::before_participant::Guest for E
where
    E::Plugin: hooks::BeforeParticipant,
{
    fn handle(call: wit::Call, change: wit::ParticipantChange) -> wit::Verdict {
        E::with(|plugin| hooks::BeforeParticipant::before_participant(plugin, &call.into(), change.into())).into()
    }
}

impl<E: Exported> after_participant::exports::haggle::plugin::after_participant::Guest for E
where
    E::Plugin: hooks::AfterParticipant,
{
    fn handle(call: wit::Call, change: wit::ParticipantChange) -> Result<(), String> {
        reason(E::with(|plugin| {
            hooks::AfterParticipant::after_participant(plugin, &call.into(), change.into())
        }))
    }
}

impl<E: Exported> before_reaction::exports::haggle::plugin::before_reaction::Guest for E
where
    E::Plugin: hooks::BeforeReaction,
{
    fn handle(call: wit::Call, reaction: wit::Reaction) -> wit::Verdict {
        E::with(|plugin| hooks::BeforeReaction::before_reaction(plugin, &call.into(), reaction.into())).into()
    }
}

impl<E: Exported> after_reaction::exports::haggle::plugin::after_reaction::Guest for E
where
    E::Plugin: hooks::AfterReaction,
{
    fn handle(call: wit::Call, reaction: wit::Reaction) -> Result<(), String> {
        reason(E::with(|plugin| {
            hooks::AfterReaction::after_reaction(plugin, &call.into(), reaction.into())
        }))
    }
}

impl<E: Exported> after_receipt::exports::haggle::plugin::after_receipt::Guest for E
where
    E::Plugin: hooks::AfterReceipt,
{
    fn handle(call: wit::Call, receipt: wit::Receipt) -> Result<(), String> {
        reason(E::with(|plugin| hooks::AfterReceipt::after_receipt(plugin, &call.into(), receipt.into())))
    }
}

impl<E: Exported> after_connection::exports::haggle::plugin::after_connection::Guest for E
where
    E::Plugin: hooks::AfterConnection,
{
    fn handle(call: wit::Call, connection: wit::Connection) -> Result<(), String> {
        reason(E::with(|plugin| {
            hooks::AfterConnection::after_connection(plugin, &call.into(), connection.into())
        }))
    }
}

impl<E: Exported> command::exports::haggle::plugin::command::Guest for E
where
    E::Plugin: hooks::Command,
{
    fn handle(call: wit::Call, name: String, payload: String) -> Result<String, wit::Rejection> {
        E::with(|plugin| hooks::Command::command(plugin, &call.into(), &name, &payload)).map_err(Into::into)
    }
}

impl<E: Exported> http::exports::haggle::plugin::http::Guest for E
where
    E::Plugin: hooks::Http,
{
    fn handle(call: wit::Call, request: http::exports::haggle::plugin::http::Request) -> http::exports::haggle::plugin::http::Response {
        let http::exports::haggle::plugin::http::Request {
            method,
            path,
            params,
            query,
            headers,
            body,
        } = request;
        let request = HttpRequest {
            method,
            path,
            params,
            query,
            headers,
            body,
        };
        let HttpResponse { status, headers, body } = E::with(|plugin| hooks::Http::http(plugin, &call.into(), request));
        http::exports::haggle::plugin::http::Response { status, headers, body }
    }
}

impl<E: Exported> timer::exports::haggle::plugin::timer::Guest for E
where
    E::Plugin: hooks::Timer,
{
    fn handle(call: wit::Call, name: String, due_ms: u64, payload: String) -> Result<(), String> {
        reason(E::with(|plugin| hooks::Timer::timer(plugin, &call.into(), &name, due_ms, &payload)))
    }
}

use namespace::exports::haggle::plugin::namespace as spaces;

impl<E: Exported> spaces::Guest for E
where
    E::Plugin: hooks::Namespace,
{
    fn connect(call: wit::Call, handshake: spaces::Handshake) -> Result<(), spaces::Refusal> {
        let handshake = Handshake {
            namespace: handshake.namespace,
            auth: handshake.auth,
            host: handshake.host,
            path: handshake.path,
            query: handshake.query,
            headers: handshake.headers,
        };
        let connected = E::with(|plugin| hooks::Namespace::connect(plugin, &call.into(), handshake));
        connected.map_err(|refused| spaces::Refusal {
            message: refused.message,
            data: refused.data,
        })
    }

    fn event(call: wit::Call, event: spaces::SocketEvent) -> Result<Option<wit::Args>, wit::Rejection> {
        let event = SocketEvent {
            namespace: event.namespace,
            name: event.name,
            args: Args {
                json: event.args.json,
                binary: event.args.binary,
            },
            wants_ack: event.wants_ack,
            answer_to: event.answer_to,
        };
        let answer = E::with(|plugin| hooks::Namespace::event(plugin, &call.into(), event));
        answer.map(|args| args.map(Into::into)).map_err(Into::into)
    }

    fn disconnect(call: wit::Call, namespace: String, reason: String) {
        E::with(|plugin| hooks::Namespace::disconnect(plugin, &call.into(), &namespace, &reason));
    }

    fn map(call: wit::Call, namespace: String, event: spaces::CoreEvent) -> Vec<spaces::Emit> {
        let event = CoreEvent {
            kind: event.kind,
            seq: event.seq,
            at_ms: event.at_ms,
            actor: event.actor,
            actor_name: event.actor_name,
            conversation: event.conversation.map(Into::into),
            recipients: event.recipients,
            message: event.message.map(Into::into),
            reaction: event.reaction.map(Into::into),
            participant: event.participant.map(Into::into),
            receipt: event.receipt.map(Into::into),
            on: event.on,
            last_seen_ms: event.last_seen_ms,
            notification: event.notification.map(Into::into),
            payload: event.payload,
        };
        let emits = E::with(|plugin| hooks::Namespace::map(plugin, &call.into(), &namespace, event));
        let emit = |emit: Emit| spaces::Emit {
            to: emit.to.into(),
            name: emit.name,
            args: emit.args.into(),
        };
        emits.into_iter().map(emit).collect()
    }
}

impl From<Args> for wit::Args {
    fn from(args: Args) -> wit::Args {
        wit::Args {
            json: args.json,
            binary: args.binary,
        }
    }
}

impl From<Audience> for wit::Audience {
    fn from(audience: Audience) -> wit::Audience {
        wit::Audience {
            to: match audience.to {
                Target::Recipients => wit::Target::Recipients,
                Target::Connection(id) => wit::Target::Connection(id),
                Target::User(id) => wit::Target::User(id),
                Target::Conversation(id) => wit::Target::Conversation(id),
                Target::Room(name) => wit::Target::Room(name),
                Target::Role(name) => wit::Target::Role(name),
                Target::Everyone => wit::Target::Everyone,
            },
            joined: audience.joined,
            except_user: audience.except_user,
            except_connection: audience.except_connection,
            namespace: audience.namespace,
        }
    }
}

impl<E: Exported> lifecycle::exports::haggle::plugin::lifecycle::Guest for E
where
    E::Plugin: hooks::Lifecycle,
{
    fn init(config: String) -> Result<(), String> {
        reason(E::with(|plugin| hooks::Lifecycle::init(plugin, &config)))
    }
}

// ---- conversions -----------------------------------------------------------------------------------------------------

fn reason(result: Result<(), Failure>) -> Result<(), String> {
    result.map_err(|failure| failure.0)
}

impl From<wit::Transport> for Transport {
    fn from(transport: wit::Transport) -> Transport {
        match transport {
            wit::Transport::Rest => Transport::Rest,
            wit::Transport::Ws => Transport::Ws,
            wit::Transport::Socketio => Transport::SocketIo,
            wit::Transport::Internal => Transport::Internal,
        }
    }
}

impl From<wit::Op> for Op {
    fn from(op: wit::Op) -> Op {
        match op {
            wit::Op::Send => Op::Send,
            wit::Op::Edit => Op::Edit,
            wit::Op::Delete => Op::Delete,
        }
    }
}

impl From<Op> for wit::Op {
    fn from(op: Op) -> wit::Op {
        match op {
            Op::Send => wit::Op::Send,
            Op::Edit => wit::Op::Edit,
            Op::Delete => wit::Op::Delete,
        }
    }
}

impl From<wit::ConversationOp> for ConversationOp {
    fn from(op: wit::ConversationOp) -> ConversationOp {
        match op {
            wit::ConversationOp::Create => ConversationOp::Create,
            wit::ConversationOp::Update => ConversationOp::Update,
            wit::ConversationOp::Close => ConversationOp::Close,
            wit::ConversationOp::Reopen => ConversationOp::Reopen,
        }
    }
}

impl From<wit::ParticipantOp> for ParticipantOp {
    fn from(op: wit::ParticipantOp) -> ParticipantOp {
        match op {
            wit::ParticipantOp::Join => ParticipantOp::Join,
            wit::ParticipantOp::Leave => ParticipantOp::Leave,
            wit::ParticipantOp::Role => ParticipantOp::Role,
        }
    }
}

impl From<wit::Call> for Call {
    fn from(call: wit::Call) -> Call {
        Call {
            reference: reference(call.ref_),
            actor: call.actor,
            roles: call.roles.unwrap_or_default(),
            session: call.session.unwrap_or_default(),
            transport: call.transport.into(),
            dialect: call.dialect,
            trace_id: call.trace_id.unwrap_or_default(),
            now_ms: call.now_ms,
            conversation_id: call.conversation_id,
            origin: call.origin.unwrap_or_default(),
        }
    }
}

/// Its 32 hex digits.
fn reference(id: wit::CommandId) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (half, digits) in [id.high, id.low].into_iter().zip(text.chunks_exact_mut(16)) {
        let mut left = half;
        for digit in digits.iter_mut().rev() {
            *digit = DIGITS[(left & 15) as usize];
            left >>= 4;
        }
    }
    str::from_utf8(&text).expect("digits are ASCII").to_owned()
}

fn kind(told: Option<String>) -> String {
    told.unwrap_or_else(|| KIND_TEXT.to_owned())
}

fn told_kind(kind: String) -> Option<String> {
    Some(kind).filter(|kind| kind != KIND_TEXT)
}

/// The call of a hook on messages, with what its draft and it need not say twice: whose the draft is, and where it is.
fn call_about(call: wit::Call, draft: &mut wit::Draft) -> Call {
    let mut call = Call::from(call);
    call.conversation_id = Some(draft.conversation_id.clone());
    draft.sender_id.get_or_insert_with(|| call.actor.clone());
    call
}

impl From<wit::Draft> for Draft {
    fn from(draft: wit::Draft) -> Draft {
        Draft {
            op: draft.op.into(),
            target: draft.target,
            conversation_id: draft.conversation_id,
            sender_id: draft.sender_id.unwrap_or_default(),
            kind: kind(draft.kind),
            content: draft.content,
            metadata: draft.metadata,
            reply_to: draft.reply_to,
            forwarded_from: draft.forwarded_from,
            client_message_id: draft.client_message_id,
        }
    }
}

impl From<Draft> for wit::Draft {
    fn from(draft: Draft) -> wit::Draft {
        wit::Draft {
            op: draft.op.into(),
            target: draft.target,
            conversation_id: draft.conversation_id,
            sender_id: Some(draft.sender_id).filter(|sender| !sender.is_empty()),
            kind: told_kind(draft.kind),
            content: draft.content,
            metadata: draft.metadata,
            reply_to: draft.reply_to,
            forwarded_from: draft.forwarded_from,
            client_message_id: draft.client_message_id,
        }
    }
}

impl From<Draft> for wit::Rewrite {
    fn from(draft: Draft) -> wit::Rewrite {
        wit::Rewrite {
            kind: told_kind(draft.kind),
            content: draft.content,
            metadata: draft.metadata,
            reply_to: draft.reply_to,
            forwarded_from: draft.forwarded_from,
        }
    }
}

impl From<wit::Message> for Message {
    fn from(message: wit::Message) -> Message {
        Message {
            id: message.id,
            seq: message.seq,
            rev: message.rev,
            n: message.n,
            reference: message.ref_.map(reference).unwrap_or_default(),
            created_at_ms: message.created_at_ms,
            edited_at_ms: message.edited_at_ms,
            deleted_at_ms: message.deleted_at_ms,
            reactions: message.reactions,
            op: message.draft.op.into(),
            conversation_id: message.draft.conversation_id,
            sender_id: message.draft.sender_id.unwrap_or_default(),
            kind: kind(message.draft.kind),
            content: message.draft.content,
            metadata: message.draft.metadata,
            reply_to: message.draft.reply_to,
            forwarded_from: message.draft.forwarded_from,
            client_message_id: message.draft.client_message_id,
        }
    }
}

impl From<wit::StoredNotification> for StoredNotification {
    fn from(told: wit::StoredNotification) -> StoredNotification {
        StoredNotification {
            id: told.id,
            user_id: told.user_id,
            topic: told.topic,
            title: told.title,
            body: told.body,
            data: told.data,
            message_id: told.message_id,
            plugin: told.plugin,
            read: told.read,
            created_at_ms: told.created_at_ms,
            updated_at_ms: told.updated_at_ms,
        }
    }
}

impl From<wit::Reader> for Reader {
    fn from(reader: wit::Reader) -> Reader {
        Reader {
            user_id: reader.user_id,
            read_at_ms: reader.read_at_ms,
        }
    }
}

impl From<Rejection> for wit::Rejection {
    fn from(rejection: Rejection) -> wit::Rejection {
        wit::Rejection {
            code: rejection.code,
            message: rejection.message,
        }
    }
}

impl From<Decision> for wit::Decision {
    fn from(decision: Decision) -> wit::Decision {
        match decision {
            Decision::Continue => wit::Decision::Continue,
            Decision::Replace(draft) => wit::Decision::Replace(draft.into()),
            Decision::Reject(rejection) => wit::Decision::Reject(rejection.into()),
        }
    }
}

impl From<Verdict> for wit::Verdict {
    fn from(verdict: Verdict) -> wit::Verdict {
        match verdict {
            Verdict::Continue => wit::Verdict::Continue,
            Verdict::Reject(rejection) => wit::Verdict::Reject(rejection.into()),
        }
    }
}

impl From<wit::ConversationDraft> for ConversationDraft {
    fn from(draft: wit::ConversationDraft) -> ConversationDraft {
        ConversationDraft {
            op: draft.op.into(),
            kind: draft.kind,
            context: draft.context,
            name: draft.name,
            avatar: draft.avatar,
            state: draft.state,
            participants: draft.participants,
        }
    }
}

impl From<ConversationDecision> for wit::ConversationDecision {
    fn from(decision: ConversationDecision) -> wit::ConversationDecision {
        match decision {
            ConversationDecision::Continue => wit::ConversationDecision::Continue,
            ConversationDecision::Replace(draft) => wit::ConversationDecision::Replace(wit::ConversationRewrite {
                name: draft.name,
                avatar: draft.avatar,
                state: draft.state,
            }),
            ConversationDecision::Reject(rejection) => wit::ConversationDecision::Reject(rejection.into()),
        }
    }
}

impl From<wit::Conversation> for Conversation {
    fn from(conversation: wit::Conversation) -> Conversation {
        Conversation {
            id: conversation.id,
            kind: conversation.kind,
            context: conversation.context,
            name: conversation.name,
            avatar: conversation.avatar,
            state: conversation.state,
            closed: conversation.closed,
            creator: conversation.creator,
            created_at_ms: conversation.created_at_ms,
            head: conversation.head,
        }
    }
}

impl From<wit::ParticipantChange> for ParticipantChange {
    fn from(change: wit::ParticipantChange) -> ParticipantChange {
        ParticipantChange {
            op: change.op.into(),
            user_id: change.user_id,
            role: change.role,
        }
    }
}

impl From<wit::Reaction> for Reaction {
    fn from(reaction: wit::Reaction) -> Reaction {
        Reaction {
            message_id: reaction.message_id,
            user_id: reaction.user_id,
            emoji: reaction.emoji,
        }
    }
}

impl From<wit::Receipt> for Receipt {
    fn from(receipt: wit::Receipt) -> Receipt {
        Receipt {
            user_id: receipt.user_id,
            read_seq: receipt.read_seq,
            delivered_seq: receipt.delivered_seq,
        }
    }
}

impl From<wit::Connection> for Connection {
    fn from(connection: wit::Connection) -> Connection {
        Connection {
            id: connection.id,
            user_id: connection.user_id,
            transport: connection.transport.into(),
            open: connection.open,
            reason: connection.reason,
        }
    }
}
