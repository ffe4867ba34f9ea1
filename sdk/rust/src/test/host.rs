//! [`FakeHost`] as the host of the capability modules.

use super::fake::{After, Audience, Emitted, FakeHost, GlobalWrite};
use crate::{
    Capability, Error,
    client::{Outcome, Presence, Refusal, Sign, View, Write},
    json,
    log::Level,
    native::Host,
    sockets::{Args, Audience as SocketAudience, Emit},
    types::{Conversation, ConversationOp, Draft, Message, Notification, Op, Participant, Reader, StoredNotification, User},
};

type Answer<T> = Result<T, Error>;

/// Keys of a page.
const LIST_MAX: usize = 100;

impl FakeHost {
    /// The conversation of the handler that runs.
    fn here(&self) -> Answer<String> {
        Ok(self.state().call.conversation()?.to_string())
    }

    /// Whose keys and timers the handler has: of its conversation, else of the plugin's own, which has no id here.
    fn kv_home(&self) -> String {
        self.state().call.conversation_id.clone().unwrap_or_default()
    }

    fn emit(&self, name: &str, payload: &str, audience: Audience) -> Answer<()> {
        if !(name.starts_with("x.") && name.matches('.').count() >= 2) {
            return Err(Error::Denied);
        }
        let payload = json::parse(payload)?;
        self.state_mut().emitted.push(Emitted {
            name: name.into(),
            payload,
            audience,
        });
        Ok(())
    }
}

impl Host for FakeHost {
    fn grants(&self, capability: Capability) -> bool {
        capability == Capability::Log || self.state().granted.is_none_or(|granted| granted.contains(&capability))
    }

    fn log_write(&self, level: Level, text: &str) -> Answer<()> {
        self.state_mut().logs.push((level, text.into()));
        Ok(())
    }

    fn metric_count(&self, name: &str, by: u64) -> Answer<()> {
        *self.state_mut().counters.entry(name.into()).or_default() += by;
        Ok(())
    }

    fn metric_observe(&self, name: &str, value: f64) -> Answer<()> {
        self.state_mut().observations.entry(name.into()).or_default().push(value);
        Ok(())
    }

    fn config_get(&self, key: &str) -> Answer<Option<String>> {
        Ok(self.state().config.get(key).cloned())
    }

    fn kv_get(&self, key: &str) -> Answer<Option<Vec<u8>>> {
        Ok(self.state().kv_get(&self.kv_home(), key))
    }

    fn kv_set(&self, key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()> {
        let here = self.kv_home();
        let stored = self.state().stored(value, ttl_s);
        self.state_mut().kv.insert((here, key.into()), stored);
        Ok(())
    }

    fn kv_delete(&self, key: &str) -> Answer<()> {
        let here = self.kv_home();
        self.state_mut().kv.remove(&(here, key.into()));
        Ok(())
    }

    fn kv_list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<(String, Vec<u8>)>> {
        let here = self.kv_home();
        let state = self.state();
        let wanted = |conversation: &str, key: &str| conversation == here && key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let alive = state
            .kv
            .iter()
            .filter(|((conversation, key), stored)| wanted(conversation, key) && state.alive(stored));
        Ok(alive
            .map(|((_, key), stored)| (key.clone(), stored.value.clone()))
            .take(LIST_MAX)
            .collect())
    }

    fn global_get(&self, key: &str) -> Answer<Option<Vec<u8>>> {
        Ok(self.state().global_get(key))
    }

    fn global_reserve(&self, keys: &[String], value: &[u8]) -> Answer<bool> {
        let mut state = self.state_mut();
        let me = state.call.reference.clone();
        let free = |key: &String| {
            state
                .global
                .get(key)
                .is_none_or(|held| !state.alive(held) || held.holder.as_ref() == Some(&me))
        };
        if !keys.iter().all(free) {
            return Ok(false);
        }
        let mut stored = state.stored(value, None);
        stored.holder = Some(me);
        state.global.extend(keys.iter().map(|key| (key.clone(), stored.clone())));
        Ok(true)
    }

    fn global_set(&self, key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()> {
        let stored = self.state().stored(value, ttl_s);
        self.state_mut().deferred.push(GlobalWrite::Set(key.into(), stored));
        Ok(())
    }

    fn global_add(&self, key: &str, by: i64) -> Answer<()> {
        self.state_mut().deferred.push(GlobalWrite::Add(key.into(), by));
        Ok(())
    }

    fn global_delete(&self, key: &str) -> Answer<()> {
        self.state_mut().deferred.push(GlobalWrite::Delete(key.into()));
        Ok(())
    }

    fn global_release(&self, keys: &[String]) -> Answer<()> {
        self.state_mut().deferred.extend(keys.iter().cloned().map(GlobalWrite::Delete));
        Ok(())
    }

    fn message_send(&self, draft: &Draft) -> Answer<String> {
        let mut state = self.state_mut();
        if !state.conversations.contains_key(&draft.conversation_id) {
            return Err(Error::NotFound);
        }
        let mut draft = draft.clone();
        if draft.sender_id.is_empty() {
            draft.sender_id = "plugin:test".into();
        }
        state.sent.push(draft.clone());
        let mut call = state.new_call("plugin:test", Some(&draft.conversation_id));
        call.origin = vec!["test".into()];
        let id = state.store(&call.reference, draft);
        let reference = call.reference.clone();
        state.pending.push_back((call, After::Message(Op::Send, id)));
        Ok(reference)
    }

    fn message_edit(&self, id: &str, content: Option<&str>, metadata: Option<&str>) -> Answer<()> {
        json::object(metadata)?;
        let here = self.here()?;
        let mut state = self.state_mut();
        if state
            .messages
            .get(id)
            .is_none_or(|message| message.conversation_id != here || message.deleted_at_ms.is_some())
        {
            return Err(Error::NotFound);
        }
        state.change(id, |message| {
            if let Some(content) = content {
                message.content = content.into();
            }
            if let Some(metadata) = metadata {
                message.metadata = Some(metadata.into());
            }
        });
        let call = state.call.clone();
        state.pending.push_back((call, After::Message(Op::Edit, id.into())));
        Ok(())
    }

    fn message_get(&self, id: &str) -> Answer<Option<Message>> {
        let is_id = id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id {
            Ok(self.message(id))
        } else {
            Err(Error::Invalid("not an id".into()))
        }
    }

    fn message_list(&self, conversation_id: &str, before: Option<u32>, limit: u32) -> Answer<Vec<Message>> {
        let newest_first = self.messages(conversation_id).into_iter().rev();
        let below = newest_first.filter(|message| before.is_none_or(|before| message.seq < before));
        Ok(below.take(LIST_MAX.min(limit as usize)).collect())
    }

    fn message_read_by(&self, ids: &[String]) -> Answer<Vec<Vec<Reader>>> {
        let state = self.state();
        Ok(ids.iter().map(|id| state.read_by(id)).collect())
    }

    fn conversation_get(&self, id: &str) -> Answer<Option<Conversation>> {
        Ok(self.conversation(id))
    }

    fn conversation_id_of(&self, context_type: &str, context_id: &str) -> Answer<String> {
        let context = format!("test/{context_type}:{context_id}");
        let known = self
            .state()
            .conversations
            .values()
            .find(|c| c.context.as_ref() == Some(&context))
            .map(|c| c.id.clone());
        // A key that only depends on the name, as the real one; FNV-1a is enough for a test.
        let key = context
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Ok(known.unwrap_or_else(|| format!("{key:016x}00000000")))
    }

    fn conversation_get_or_create(
        &self,
        context_type: &str,
        context_id: &str,
        participants: &[String],
        name: Option<&str>,
        state_text: Option<&str>,
    ) -> Answer<String> {
        json::object(state_text)?;
        let id = self.conversation_id_of(context_type, context_id)?;
        let mut state = self.state_mut();
        if state.conversations.contains_key(&id) {
            return Ok(id);
        }
        let conversation = Conversation {
            id: id.clone(),
            kind: "context".into(),
            context: Some(format!("test/{context_type}:{context_id}")),
            name: name.map(Into::into),
            state: state_text.map(Into::into),
            creator: Some("plugin:test".into()),
            created_at_ms: state.now_ms,
            ..Conversation::default()
        };
        state.conversations.insert(id.clone(), conversation);
        for user in participants {
            state.join(&id, user, "member");
        }
        let call = state.new_call("plugin:test", Some(&id));
        state.pending.push_back((call, After::Conversation(ConversationOp::Create, id.clone())));
        Ok(id)
    }

    fn conversation_set_state(&self, text: &str) -> Answer<()> {
        json::object(Some(text))?;
        let here = self.here()?;
        let mut state = self.state_mut();
        state.conversations.get_mut(&here).ok_or(Error::NotFound)?.state = Some(text.into());
        let call = state.call.clone();
        state.pending.push_back((call, After::Conversation(ConversationOp::Update, here)));
        Ok(())
    }

    fn conversation_set_closed(&self, closed: bool) -> Answer<()> {
        let here = self.here()?;
        let mut state = self.state_mut();
        state.conversations.get_mut(&here).ok_or(Error::NotFound)?.closed = closed;
        let op = if closed { ConversationOp::Close } else { ConversationOp::Reopen };
        let call = state.call.clone();
        state.pending.push_back((call, After::Conversation(op, here)));
        Ok(())
    }

    fn participant_list(&self, conversation_id: &str) -> Answer<Vec<Participant>> {
        self.state().participants.get(conversation_id).cloned().ok_or(Error::NotFound)
    }

    fn participant_add(&self, user_id: &str, role: &str) -> Answer<()> {
        let here = self.here()?;
        self.state_mut().join(&here, user_id, role);
        Ok(())
    }

    fn participant_remove(&self, user_id: &str) -> Answer<()> {
        let here = self.here()?;
        self.state_mut().participants.entry(here).or_default().retain(|p| p.user_id != user_id);
        Ok(())
    }

    fn user_get(&self, id: &str) -> Answer<Option<User>> {
        Ok(self.state().users.get(id).cloned())
    }

    fn user_online(&self, id: &str) -> Answer<bool> {
        Ok(self.state().online.contains(id))
    }

    fn user_watching(&self, id: &str, conversation_id: &str) -> Answer<bool> {
        Ok(self.state().watching.contains(&(id.to_string(), conversation_id.to_string())))
    }

    fn user_online_count(&self) -> Answer<u32> {
        Ok(self.state().online.len() as u32)
    }

    fn user_unread(&self, id: &str) -> Answer<u32> {
        Ok(self.views(id).iter().map(|view| view.unread).sum())
    }

    fn event_emit(&self, name: &str, payload: &str) -> Answer<()> {
        let here = self.here()?;
        self.emit(name, payload, Audience::Conversation(here))
    }

    fn event_emit_to_user(&self, user_id: &str, name: &str, payload: &str) -> Answer<()> {
        self.emit(name, payload, Audience::User(user_id.into()))
    }

    fn event_emit_to_connection(&self, session: &str, name: &str, payload: &str) -> Answer<()> {
        self.emit(name, payload, Audience::Connection(session.into()))
    }

    fn event_emit_to_role(&self, role: &str, name: &str, payload: &str) -> Answer<()> {
        self.emit(name, payload, Audience::Role(role.into()))
    }

    fn event_emit_to_sockets(&self, to: &SocketAudience, name: &str, args: &Args) -> Answer<()> {
        json::parse::<Vec<serde_json::Value>>(&args.json)?;
        self.state_mut().socket_emits.push(Emit {
            to: to.clone(),
            name: name.into(),
            args: args.clone(),
        });
        Ok(())
    }

    fn event_ask_socket(&self, connection: &str, name: &str, args: &Args, _token: &str) -> Answer<()> {
        self.event_emit_to_sockets(&SocketAudience::connection(connection), name, args)
    }

    fn client_write(&self, write: Write) -> Answer<Result<Outcome, Refusal>> {
        Ok(self.write_as_user(write))
    }

    fn client_call(&self, name: &str, _conversation_id: Option<&str>, _payload: &str) -> Answer<Result<String, Refusal>> {
        Err(Error::Unavailable(format!(
            "the command {name} is another handler's: the testkit has both"
        )))
    }

    fn client_sign(&self, sign: Sign) -> Answer<Result<(), Refusal>> {
        Ok(self.sign_as_user(sign))
    }

    fn client_direct_id(&self, user_id: &str) -> Answer<Result<String, Refusal>> {
        Ok(self.direct_id_of_user(user_id))
    }

    fn client_conversations(&self, _archived: Option<bool>, after: Option<&str>, limit: u32) -> Answer<Result<Vec<View>, Refusal>> {
        let page = |views: Vec<View>| {
            let start = after
                .and_then(|id| views.iter().position(|view| view.conversation.id == id))
                .map_or(0, |at| at + 1);
            views.into_iter().skip(start).take(LIST_MAX.min(limit as usize)).collect()
        };
        Ok(self.views_of_user().map(page))
    }

    fn client_conversations_total(&self, _archived: Option<bool>) -> Answer<Result<u32, Refusal>> {
        Ok(self.views_of_user().map(|views| views.len() as u32))
    }

    fn client_conversation(&self, id: &str) -> Answer<Result<View, Refusal>> {
        Ok(self.view_of_user(id))
    }

    fn client_messages(&self, conversation_id: &str, before: Option<u32>, limit: u32) -> Answer<Result<Vec<Message>, Refusal>> {
        match self.view_of_user(conversation_id) {
            Ok(_) => self.message_list(conversation_id, before, limit).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    fn client_message(&self, id: &str) -> Answer<Result<Message, Refusal>> {
        Ok(self.message_of_user(id))
    }

    fn client_read_by(&self, ids: &[String]) -> Answer<Result<Vec<Vec<Reader>>, Refusal>> {
        let seen: Result<Vec<Message>, Refusal> = ids.iter().map(|id| self.message_of_user(id)).collect();
        match seen {
            Ok(_) => self.message_read_by(ids).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    fn client_notifications(&self, before: Option<&str>, unread_only: bool, limit: u32) -> Answer<Result<Vec<StoredNotification>, Refusal>> {
        let page = |told: Vec<StoredNotification>| {
            let start = before.and_then(|id| told.iter().position(|one| one.id == id)).map_or(0, |at| at + 1);
            let wanted = told.into_iter().skip(start).filter(|one| !(unread_only && one.read));
            wanted.take(LIST_MAX.min(limit as usize)).collect()
        };
        Ok(self.notifications_of_user().map(page))
    }

    fn client_unread_notifications(&self) -> Answer<Result<u32, Refusal>> {
        let unread = |told: Vec<StoredNotification>| told.iter().filter(|one| !one.read).count() as u32;
        Ok(self.notifications_of_user().map(unread))
    }

    fn client_unread_total(&self) -> Answer<Result<u32, Refusal>> {
        Ok(self.views_of_user().map(|views| views.iter().map(|view| view.unread).sum()))
    }

    fn client_presence_of(&self, users: &[String]) -> Answer<Result<Vec<Presence>, Refusal>> {
        Ok(self.presence_for_user(users))
    }

    fn client_online_users(&self, limit: u32) -> Answer<Result<Vec<String>, Refusal>> {
        Ok(Ok(self.state().online.iter().take(limit as usize).cloned().collect()))
    }

    fn notification_push(&self, user_id: &str, notification: &Notification) -> Answer<()> {
        let mut state = self.state_mut();
        state.notification_pushes += 1;
        state.tell(user_id, notification.clone());
        Ok(())
    }

    fn timer_set(&self, name: &str, due_ms: u64, payload: &str) -> Answer<()> {
        let here = self.kv_home();
        let mut state = self.state_mut();
        state.timers.insert((here, name.into()), (due_ms, payload.into()));
        Ok(())
    }

    fn timer_cancel(&self, name: &str) -> Answer<()> {
        let here = self.kv_home();
        let mut state = self.state_mut();
        state.timers.remove(&(here, name.to_string()));
        Ok(())
    }

    fn timer_get(&self, name: &str) -> Answer<Option<u64>> {
        Ok(self.timer(&self.kv_home(), name))
    }
}
