//! The imports under the names that the capability modules ask by.

use super::imports::haggle::plugin as imports;
use crate::{
    Error,
    client::{NewMessage, Outcome, Presence, Refusal, Sign, To, View, Write},
    log::Level,
    sockets::{Args, Audience},
    types::{Conversation, Draft, Message, Notification, Participant, Reader, StoredNotification, User},
};

type Answer<T> = Result<T, Error>;

/// Refers to the symbol that `plugin!` defines for a capability that it names. Where it does not, the link fails and the symbol
/// says why; a component never imports what its author did not name.
macro_rules! named {
    ($symbol:literal) => {{
        unsafe extern "C" {
            #[link_name = $symbol]
            safe fn named();
        }
        named();
    }};
}

impl From<imports::types::Error> for Error {
    fn from(error: imports::types::Error) -> Error {
        match error {
            imports::types::Error::Denied => Error::Denied,
            imports::types::Error::Quota(what) => Error::Quota(what),
            imports::types::Error::NotFound => Error::NotFound,
            imports::types::Error::Invalid(what) => Error::Invalid(what),
            imports::types::Error::Unavailable(what) => Error::Unavailable(what),
        }
    }
}

pub fn log_write(level: Level, text: &str) -> Answer<()> {
    let level = match level {
        Level::Debug => imports::log::Level::Debug,
        Level::Info => imports::log::Level::Info,
        Level::Warn => imports::log::Level::Warn,
        Level::Error => imports::log::Level::Error,
    };
    imports::log::write(level, text);
    Ok(())
}

pub fn metric_count(name: &str, by: u64) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_metrics");
    imports::metrics::count(name, by);
    Ok(())
}

pub fn metric_observe(name: &str, value: f64) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_metrics");
    imports::metrics::observe(name, value);
    Ok(())
}

pub fn config_get(key: &str) -> Answer<Option<String>> {
    named!("plugin_macro_must_name_the_capability_config");
    Ok(imports::config::get(key))
}

pub fn kv_get(key: &str) -> Answer<Option<Vec<u8>>> {
    named!("plugin_macro_must_name_the_capability_kv");
    Ok(imports::kv::get(key)?)
}

pub fn kv_set(key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_kv");
    Ok(imports::kv::set(key, value, ttl_s)?)
}

pub fn kv_delete(key: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_kv");
    Ok(imports::kv::delete(key)?)
}

pub fn kv_list(prefix: &str, after: Option<&str>) -> Answer<Vec<(String, Vec<u8>)>> {
    named!("plugin_macro_must_name_the_capability_kv");
    Ok(imports::kv::list(prefix, after)?)
}

pub fn global_get(key: &str) -> Answer<Option<Vec<u8>>> {
    named!("plugin_macro_must_name_the_capability_kv_global");
    Ok(imports::kv_global::get(key)?)
}

pub fn global_reserve(keys: &[String], value: &[u8]) -> Answer<bool> {
    named!("plugin_macro_must_name_the_capability_kv_global");
    Ok(imports::kv_global::reserve(keys, value)?)
}

pub fn global_set(key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_kv_global");
    Ok(imports::kv_global::set(key, value, ttl_s)?)
}

pub fn global_add(key: &str, by: i64) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_kv_global");
    Ok(imports::kv_global::add(key, by)?)
}

pub fn global_delete(key: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_kv_global");
    Ok(imports::kv_global::delete(key)?)
}

pub fn global_release(keys: &[String]) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_kv_global");
    Ok(imports::kv_global::release(keys)?)
}

pub fn message_send(draft: &Draft) -> Answer<String> {
    named!("plugin_macro_must_name_the_capability_messages");
    Ok(super::reference(imports::messages::send(&draft.clone().into())?))
}

pub fn message_edit(id: &str, content: Option<&str>, metadata: Option<&str>) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_messages");
    Ok(imports::messages::edit(id, content, metadata)?)
}

pub fn message_get(id: &str) -> Answer<Option<Message>> {
    named!("plugin_macro_must_name_the_capability_messages");
    Ok(imports::messages::get(id)?.map(Message::from))
}

pub fn message_list(conversation_id: &str, before: Option<u32>, limit: u32) -> Answer<Vec<Message>> {
    named!("plugin_macro_must_name_the_capability_messages");
    Ok(imports::messages::list(conversation_id, before, limit)?
        .into_iter()
        .map(Message::from)
        .collect())
}

fn readers(messages: Vec<Vec<imports::types::Reader>>) -> Vec<Vec<Reader>> {
    messages
        .into_iter()
        .map(|readers| readers.into_iter().map(Reader::from).collect())
        .collect()
}

pub fn message_read_by(ids: &[String]) -> Answer<Vec<Vec<Reader>>> {
    named!("plugin_macro_must_name_the_capability_messages");
    Ok(readers(imports::messages::read_by(ids)?))
}

pub fn conversation_get(id: &str) -> Answer<Option<Conversation>> {
    named!("plugin_macro_must_name_the_capability_conversations");
    Ok(imports::conversations::get(id)?.map(Conversation::from))
}

pub fn conversation_id_of(context_type: &str, context_id: &str) -> Answer<String> {
    named!("plugin_macro_must_name_the_capability_conversations");
    Ok(imports::conversations::id_of(context_type, context_id)?)
}

pub fn conversation_get_or_create(
    context_type: &str,
    context_id: &str,
    participants: &[String],
    name: Option<&str>,
    state: Option<&str>,
) -> Answer<String> {
    named!("plugin_macro_must_name_the_capability_conversations");
    Ok(imports::conversations::get_or_create(
        context_type,
        context_id,
        participants,
        name,
        state,
    )?)
}

pub fn conversation_set_state(state: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_conversations");
    Ok(imports::conversations::set_state(state)?)
}

pub fn conversation_set_closed(closed: bool) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_conversations");
    Ok(imports::conversations::set_closed(closed)?)
}

pub fn participant_list(conversation_id: &str) -> Answer<Vec<Participant>> {
    named!("plugin_macro_must_name_the_capability_participants");
    let participants = imports::participants::list(conversation_id)?;
    Ok(participants.into_iter().map(Participant::from).collect())
}

pub fn participant_add(user_id: &str, role: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_participants");
    Ok(imports::participants::add(user_id, role)?)
}

pub fn participant_remove(user_id: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_participants");
    Ok(imports::participants::remove(user_id)?)
}

pub fn user_get(id: &str) -> Answer<Option<User>> {
    named!("plugin_macro_must_name_the_capability_users");
    Ok(imports::users::get(id)?.map(|user| User {
        id: user.id,
        name: user.name,
        avatar: user.avatar,
        roles: user.roles,
        attributes: user.attributes,
        preferences: user.preferences,
    }))
}

pub fn user_online(id: &str) -> Answer<bool> {
    named!("plugin_macro_must_name_the_capability_users");
    Ok(imports::users::online(id)?)
}

pub fn user_watching(id: &str, conversation_id: &str) -> Answer<bool> {
    named!("plugin_macro_must_name_the_capability_users");
    Ok(imports::users::watching(id, conversation_id)?)
}

pub fn user_online_count() -> Answer<u32> {
    named!("plugin_macro_must_name_the_capability_users");
    Ok(imports::users::online_count()?)
}

pub fn user_unread(id: &str) -> Answer<u32> {
    named!("plugin_macro_must_name_the_capability_users");
    Ok(imports::users::unread(id)?)
}

pub fn event_emit(name: &str, payload: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_events");
    Ok(imports::events::emit(name, payload)?)
}

pub fn event_emit_to_user(user_id: &str, name: &str, payload: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_events");
    Ok(imports::events::emit_to_user(user_id, name, payload)?)
}

pub fn event_emit_to_connection(session: &str, name: &str, payload: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_events");
    Ok(imports::events::emit_to_connection(session, name, payload)?)
}

pub fn event_emit_to_role(role: &str, name: &str, payload: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_events");
    Ok(imports::events::emit_to_role(role, name, payload)?)
}

pub fn notification_push(user_id: &str, notification: &Notification) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_notifications");
    let notification = notification.clone();
    Ok(imports::notifications::push(
        user_id,
        &imports::notifications::Notification {
            topic: notification.topic,
            title: notification.title,
            body: notification.body,
            data: notification.data,
            message_id: notification.message_id,
            collapse: notification.collapse,
        },
    )?)
}

pub fn timer_set(name: &str, due_ms: u64, payload: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_timers");
    Ok(imports::timers::set(name, due_ms, payload)?)
}

pub fn timer_cancel(name: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_timers");
    Ok(imports::timers::cancel(name)?)
}

pub fn timer_get(name: &str) -> Answer<Option<u64>> {
    named!("plugin_macro_must_name_the_capability_timers");
    Ok(imports::timers::get(name)?)
}

pub fn event_emit_to_sockets(to: &Audience, name: &str, args: &Args) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_events");
    Ok(imports::events::emit_to_sockets(&to.clone().into(), name, &args.clone().into())?)
}

pub fn event_ask_socket(connection: &str, name: &str, args: &Args, token: &str) -> Answer<()> {
    named!("plugin_macro_must_name_the_capability_events");
    Ok(imports::events::ask_socket(connection, name, &args.clone().into(), token)?)
}

/// Outside: the capability is not there. Inside: the server's word.
type Told<T> = Answer<Result<T, Refusal>>;

impl From<imports::client::Refusal> for Refusal {
    fn from(refusal: imports::client::Refusal) -> Refusal {
        Refusal {
            code: refusal.code,
            message: refusal.message,
            retry_after_ms: refusal.retry_after_ms,
            plugin: refusal.plugin,
        }
    }
}

impl From<imports::client::Outcome> for Outcome {
    fn from(outcome: imports::client::Outcome) -> Outcome {
        Outcome {
            conversation_id: outcome.conversation_id,
            seq: outcome.seq,
            message_id: outcome.message_id,
            at_ms: outcome.at_ms,
            duplicate: outcome.duplicate,
            existed: outcome.existed,
        }
    }
}

impl From<imports::client::View> for View {
    fn from(view: imports::client::View) -> View {
        View {
            conversation: view.conversation.into(),
            participants: view.participants.into_iter().map(Participant::from).collect(),
            unread: view.unread,
            archived: view.archived,
            blocked: view.blocked,
            last_message: view.last_message.map(Into::into),
        }
    }
}

impl From<imports::types::Participant> for Participant {
    fn from(participant: imports::types::Participant) -> Participant {
        Participant {
            user_id: participant.user_id,
            role: participant.role,
            joined_at_ms: participant.joined_at_ms,
            read_seq: participant.read_seq,
            delivered_seq: participant.delivered_seq,
        }
    }
}

fn new_message(message: NewMessage) -> imports::client::NewMessage {
    imports::client::NewMessage {
        to: match message.to {
            To::Conversation(id) => imports::client::Destination::Conversation(id),
            To::User(id) => imports::client::Destination::User(id),
        },
        kind: message.kind,
        content: message.content,
        metadata: message.metadata,
        reply_to: message.reply_to,
        forwarded_from: message.forwarded_from,
        client_message_id: message.client_message_id,
    }
}

fn told<T, U: From<T>>(answer: Result<T, imports::client::Refusal>) -> Told<U> {
    Ok(answer.map(U::from).map_err(Refusal::from))
}

pub fn client_write(write: Write) -> Told<Outcome> {
    use imports::client as c;
    named!("plugin_macro_must_name_the_capability_client");
    told(match write {
        Write::Send(message) => c::send(&new_message(message)),
        Write::Edit {
            message_id,
            content,
            metadata,
        } => c::edit(&message_id, content.as_deref(), metadata.as_deref()),
        Write::Delete(id) => c::delete(&id),
        Write::HideMessage(id) => c::hide_message(&id),
        Write::React { message_id, emoji } => c::react(&message_id, emoji.as_deref()),
        Write::Read { conversation_id, up_to } => c::read(&conversation_id, up_to),
        Write::OpenDirect(user) => c::open_direct(&user),
        Write::OpenContext {
            context_type,
            context_id,
            participants,
            name,
            state,
        } => c::open_context(&context_type, &context_id, &participants, name.as_deref(), state.as_deref()),
        Write::OpenBroadcast(name) => c::open_broadcast(&name),
        Write::Update {
            conversation_id,
            name,
            avatar,
            state,
        } => c::update(&conversation_id, name.as_deref(), avatar.as_deref(), state.as_deref()),
        Write::Close { conversation_id, closed } => c::close(&conversation_id, closed),
        Write::Archive { conversation_id, archived } => c::archive(&conversation_id, archived),
        Write::Hide(id) => c::hide(&id),
        Write::AddParticipant {
            conversation_id,
            user_id,
            role,
        } => c::add_participant(&conversation_id, &user_id, &role),
        Write::RemoveParticipant { conversation_id, user_id } => c::remove_participant(&conversation_id, &user_id),
        Write::Block { user_id, blocked } => c::block(&user_id, blocked),
        Write::ReadNotification(id) => c::read_notification(&id),
        Write::ReadAllNotifications => c::read_all_notifications(),
    })
}

pub fn client_call(name: &str, conversation_id: Option<&str>, payload: &str) -> Told<String> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::call(name, conversation_id, payload))
}

pub fn client_sign(sign: Sign) -> Told<()> {
    use imports::client as c;
    named!("plugin_macro_must_name_the_capability_client");
    told(match sign {
        Sign::Typing { conversation_id, on } => c::typing(&conversation_id, on),
        Sign::PresenceHint(online) => c::presence_hint(online),
        Sign::Join(id) => c::join(&id),
        Sign::Leave(id) => c::leave(&id),
        Sign::EnterRoom(room) => c::enter_room(&room),
        Sign::LeaveRoom(room) => c::leave_room(&room),
    })
}

pub fn client_direct_id(user_id: &str) -> Told<String> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::direct_id(user_id))
}

pub fn client_conversations(archived: Option<bool>, after: Option<&str>, limit: u32) -> Told<Vec<View>> {
    named!("plugin_macro_must_name_the_capability_client");
    let views = imports::client::conversations(archived, after, limit);
    told(views.map(|views| views.into_iter().map(View::from).collect::<Vec<_>>()))
}

pub fn client_conversations_total(archived: Option<bool>) -> Told<u32> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::conversations_total(archived))
}

pub fn client_conversation(id: &str) -> Told<View> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::get_conversation(id))
}

pub fn client_messages(conversation_id: &str, before: Option<u32>, limit: u32) -> Told<Vec<Message>> {
    named!("plugin_macro_must_name_the_capability_client");
    let messages = imports::client::messages(conversation_id, before, limit);
    told(messages.map(|messages| messages.into_iter().map(Message::from).collect::<Vec<_>>()))
}

pub fn client_message(id: &str) -> Told<Message> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::get_message(id))
}

pub fn client_read_by(ids: &[String]) -> Told<Vec<Vec<Reader>>> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::read_by(ids).map(readers))
}

pub fn client_notifications(before: Option<&str>, unread_only: bool, limit: u32) -> Told<Vec<StoredNotification>> {
    named!("plugin_macro_must_name_the_capability_client");
    let found = imports::client::notifications(before, unread_only, limit);
    told(found.map(|found| found.into_iter().map(StoredNotification::from).collect::<Vec<_>>()))
}

pub fn client_unread_notifications() -> Told<u32> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::unread_notifications())
}

pub fn client_unread_total() -> Told<u32> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::unread_total())
}

pub fn client_presence_of(users: &[String]) -> Told<Vec<Presence>> {
    named!("plugin_macro_must_name_the_capability_client");
    let presence = |one: imports::client::Presence| Presence {
        user_id: one.user_id,
        online: one.online,
        last_seen_ms: one.last_seen_ms,
    };
    let found = imports::client::presence_of(users);
    told(found.map(|found| found.into_iter().map(presence).collect::<Vec<_>>()))
}

pub fn client_online_users(limit: u32) -> Told<Vec<String>> {
    named!("plugin_macro_must_name_the_capability_client");
    told(imports::client::online_users(limit))
}
