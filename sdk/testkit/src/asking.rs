//! The SDK's host for a plugin that runs natively: passes what it asks on to the engine.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use haggle_engine::ports::{Audience, HostCalls};
use haggle_model::{ConversationId, Millis};
use haggle_sdk::{
    Capability, Error, client,
    log::Level,
    native::Host,
    sockets,
    types::{Conversation, Draft, Message, Notification, Participant, Reader, StoredNotification, User},
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::{
    convert::{self, id, json, json_object},
    manifest::Manifest,
};

type Answer<T> = Result<T, Error>;
type Told<T> = Result<T, client::Refusal>;

/// What plugins leave behind besides their writes.
#[derive(Default)]
pub(crate) struct Traces {
    pub counters: Mutex<BTreeMap<String, u64>>,
    pub observations: Mutex<BTreeMap<String, Vec<f64>>>,
    pub logs: Mutex<Vec<String>>,
}

/// One call's way to the engine. Lives on a blocking thread, where waiting for the engine stops nobody.
pub(crate) struct Asking {
    pub calls: Arc<dyn HostCalls>,
    pub runtime: Handle,
    pub manifest: Arc<Manifest>,
    pub traces: Arc<Traces>,
}

impl Asking {
    fn wait<T>(&self, answer: impl Future<Output = Result<T, haggle_engine::ports::HostError>>) -> Answer<T> {
        self.runtime.block_on(answer).map_err(convert::error)
    }
}

fn now<T>(answer: Result<T, haggle_engine::ports::HostError>) -> Answer<T> {
    answer.map_err(convert::error)
}

impl Host for Asking {
    fn grants(&self, capability: Capability) -> bool {
        self.manifest.grants(capability.as_str())
    }

    fn log_write(&self, level: Level, text: &str) -> Answer<()> {
        self.traces.logs.lock().push(format!("{level:?} {text}"));
        Ok(())
    }
    fn metric_count(&self, name: &str, by: u64) -> Answer<()> {
        *self.traces.counters.lock().entry(name.into()).or_default() += by;
        Ok(())
    }
    fn metric_observe(&self, name: &str, value: f64) -> Answer<()> {
        self.traces.observations.lock().entry(name.into()).or_default().push(value);
        Ok(())
    }
    fn config_get(&self, key: &str) -> Answer<Option<String>> {
        Ok(self.manifest.config_value(key))
    }

    fn kv_get(&self, key: &str) -> Answer<Option<Vec<u8>>> {
        self.wait(self.calls.kv_get(key))
    }
    fn kv_set(&self, key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()> {
        now(self.calls.kv_set(key, value.to_vec(), ttl_s))
    }
    fn kv_delete(&self, key: &str) -> Answer<()> {
        now(self.calls.kv_delete(key))
    }
    fn kv_list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<(String, Vec<u8>)>> {
        self.wait(self.calls.kv_list(prefix, after))
    }

    fn global_get(&self, key: &str) -> Answer<Option<Vec<u8>>> {
        self.wait(self.calls.global_get(key))
    }
    fn global_reserve(&self, keys: &[String], value: &[u8]) -> Answer<bool> {
        self.wait(self.calls.global_reserve(keys.to_vec(), value.to_vec()))
    }
    fn global_set(&self, key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()> {
        now(self.calls.global_set(key, value.to_vec(), ttl_s))
    }
    fn global_add(&self, key: &str, by: i64) -> Answer<()> {
        now(self.calls.global_add(key, by))
    }
    fn global_delete(&self, key: &str) -> Answer<()> {
        now(self.calls.global_delete(key))
    }
    fn global_release(&self, keys: &[String]) -> Answer<()> {
        now(self.calls.global_release(keys.to_vec()))
    }

    fn message_send(&self, draft: &Draft) -> Answer<String> {
        now(self.calls.send(convert::guest_message(draft)?).map(|id| id.to_string()))
    }
    fn message_edit(&self, message: &str, content: Option<&str>, metadata: Option<&str>) -> Answer<()> {
        json_object("metadata", metadata)?;
        let message = id("id", message)?;
        self.wait(self.calls.edit(message, content.map(str::to_owned), metadata.map(str::to_owned)))
    }
    fn message_get(&self, message: &str) -> Answer<Option<Message>> {
        let row = self.wait(self.calls.message(id("id", message)?))?;
        Ok(row.map(|row| convert::message(row, haggle_engine::ports::Op::Send)))
    }
    fn message_list(&self, conversation: &str, before: Option<u32>, limit: u32) -> Answer<Vec<Message>> {
        let rows = self.wait(self.calls.messages(id("conversation-id", conversation)?, before, limit as usize))?;
        Ok(rows
            .into_iter()
            .map(|row| convert::message(row, haggle_engine::ports::Op::Send))
            .collect())
    }
    fn message_read_by(&self, ids: &[String]) -> Answer<Vec<Vec<Reader>>> {
        Ok(convert::read_by(self.wait(self.calls.read_by(convert::message_ids(ids)?))?))
    }

    fn conversation_get(&self, conversation: &str) -> Answer<Option<Conversation>> {
        let row = self.wait(self.calls.conversation(id("id", conversation)?))?;
        Ok(row.map(convert::conversation))
    }
    fn conversation_id_of(&self, context_type: &str, context_id: &str) -> Answer<String> {
        now(self.calls.context_id(context_type, context_id)).map(|id| id.to_string())
    }
    fn conversation_get_or_create(
        &self,
        context_type: &str,
        context_id: &str,
        participants: &[String],
        name: Option<&str>,
        state: Option<&str>,
    ) -> Answer<String> {
        json_object("state", state)?;
        let participants = participants.iter().map(|user| user.as_str().into()).collect();
        let made = self
            .calls
            .get_or_create(context_type, context_id, participants, name.map(str::to_owned), state.map(str::to_owned));
        now(made).map(|id: ConversationId| id.to_string())
    }
    fn conversation_set_state(&self, state: &str) -> Answer<()> {
        json_object("state", Some(state))?;
        now(self.calls.set_state(state.to_owned()))
    }
    fn conversation_set_closed(&self, closed: bool) -> Answer<()> {
        now(self.calls.set_closed(closed))
    }

    fn participant_list(&self, conversation: &str) -> Answer<Vec<Participant>> {
        let rows = self.wait(self.calls.participants(id("conversation-id", conversation)?))?;
        Ok(rows.into_iter().map(convert::participant).collect())
    }
    fn participant_add(&self, user: &str, role: &str) -> Answer<()> {
        now(self.calls.add_participant(user.into(), convert::role(role)?))
    }
    fn participant_remove(&self, user: &str) -> Answer<()> {
        now(self.calls.remove_participant(user.into()))
    }

    fn user_get(&self, user: &str) -> Answer<Option<User>> {
        Ok(self.wait(self.calls.user(&user.into()))?.map(convert::user))
    }
    fn user_online(&self, user: &str) -> Answer<bool> {
        Ok(self.calls.online(&user.into()))
    }
    fn user_watching(&self, user: &str, conversation: &str) -> Answer<bool> {
        Ok(self.calls.watching(&user.into(), id("conversation-id", conversation)?))
    }
    fn user_online_count(&self) -> Answer<u32> {
        Ok(self.calls.online_count())
    }
    fn user_unread(&self, user: &str) -> Answer<u32> {
        self.wait(self.calls.unread(&user.into()))
    }

    fn event_emit(&self, name: &str, payload: &str) -> Answer<()> {
        json("payload", payload)?;
        now(self.calls.emit(name, payload.to_owned()))
    }
    fn event_emit_to_user(&self, user: &str, name: &str, payload: &str) -> Answer<()> {
        json("payload", payload)?;
        now(self.calls.emit_to(Audience::User(user.into()), name, payload.to_owned()))
    }
    fn event_emit_to_connection(&self, session: &str, name: &str, payload: &str) -> Answer<()> {
        json("payload", payload)?;
        now(self.calls.emit_to(Audience::Connection(session.into()), name, payload.to_owned()))
    }
    fn event_emit_to_role(&self, role: &str, name: &str, payload: &str) -> Answer<()> {
        json("payload", payload)?;
        now(self.calls.emit_to(Audience::Role(role.into()), name, payload.to_owned()))
    }

    fn event_emit_to_sockets(&self, to: &sockets::Audience, name: &str, args: &sockets::Args) -> Answer<()> {
        let emit = crate::sockets::emit_out(to, name, args, None)?;
        self.wait(self.calls.emit_to_sockets(emit))
    }
    fn event_ask_socket(&self, connection: &str, name: &str, args: &sockets::Args, token: &str) -> Answer<()> {
        let to = sockets::Audience::connection(connection);
        let emit = crate::sockets::emit_out(&to, name, args, Some(token))?;
        self.wait(self.calls.emit_to_sockets(emit))
    }

    fn client_write(&self, write: client::Write) -> Answer<Told<client::Outcome>> {
        Ok(self.write(write))
    }
    fn client_call(&self, name: &str, conversation: Option<&str>, payload: &str) -> Answer<Told<String>> {
        Ok(self.call_command(name, conversation, payload))
    }
    fn client_sign(&self, sign: client::Sign) -> Answer<Told<()>> {
        Ok(self.sign(sign))
    }
    fn client_direct_id(&self, user: &str) -> Answer<Told<String>> {
        let user = haggle_model::UserId::from(user);
        Ok(self.as_user(async |side| side.direct_id(&user).await).map(|id| id.to_string()))
    }
    fn client_conversations(&self, archived: Option<bool>, after: Option<&str>, limit: u32) -> Answer<Told<Vec<client::View>>> {
        Ok(self.user_conversations(archived, after, limit))
    }
    fn client_conversations_total(&self, archived: Option<bool>) -> Answer<Told<u32>> {
        Ok(self.as_user(async |side| side.conversations_total(archived).await))
    }
    fn client_conversation(&self, conversation: &str) -> Answer<Told<client::View>> {
        Ok(self.user_conversation(conversation))
    }
    fn client_messages(&self, conversation: &str, before: Option<u32>, limit: u32) -> Answer<Told<Vec<Message>>> {
        Ok(self.user_messages(conversation, before, limit))
    }
    fn client_message(&self, message: &str) -> Answer<Told<Message>> {
        Ok(self.user_message(message))
    }
    fn client_read_by(&self, ids: &[String]) -> Answer<Told<Vec<Vec<Reader>>>> {
        Ok(self.user_read_by(ids))
    }
    fn client_notifications(&self, before: Option<&str>, unread_only: bool, limit: u32) -> Answer<Told<Vec<StoredNotification>>> {
        Ok(self.user_notifications(before, unread_only, limit))
    }
    fn client_unread_notifications(&self) -> Answer<Told<u32>> {
        Ok(self.as_user(async |side| side.notifications_unread().await))
    }
    fn client_unread_total(&self) -> Answer<Told<u32>> {
        Ok(self.as_user(async |side| side.unread_total().await))
    }
    fn client_presence_of(&self, users: &[String]) -> Answer<Told<Vec<client::Presence>>> {
        Ok(self.user_presence(users))
    }
    fn client_online_users(&self, limit: u32) -> Answer<Told<Vec<String>>> {
        let users = self.as_user(async |side| side.online_users(limit as usize));
        Ok(users.map(|users| users.iter().map(ToString::to_string).collect()))
    }

    fn notification_push(&self, user: &str, notification: &Notification) -> Answer<()> {
        now(self.calls.notify(user.into(), convert::to_notification(notification)?))
    }

    fn timer_set(&self, name: &str, due_ms: u64, payload: &str) -> Answer<()> {
        let due = Millis::try_from(due_ms).map_err(|_| Error::Invalid("the time is beyond the end of time".into()))?;
        now(self.calls.timer_set(name, due, payload.to_owned()))
    }
    fn timer_cancel(&self, name: &str) -> Answer<()> {
        now(self.calls.timer_cancel(name))
    }
    fn timer_get(&self, name: &str) -> Answer<Option<u64>> {
        Ok(self.wait(self.calls.timer_get(name))?.map(convert::millis))
    }
}
