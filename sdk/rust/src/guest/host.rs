//! The imports under the names that the capability modules ask by.

use super::imports::haggle::plugin as imports;
use crate::{
    Error,
    log::Level,
    types::{Conversation, Draft, Message, Notification, Participant, User},
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
    Ok(imports::messages::send(&draft.clone().into())?)
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
    Ok(participants
        .into_iter()
        .map(|p| Participant {
            user_id: p.user_id,
            role: p.role,
            joined_at_ms: p.joined_at_ms,
            read_seq: p.read_seq,
            delivered_seq: p.delivered_seq,
        })
        .collect())
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
