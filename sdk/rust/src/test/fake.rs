//! The state behind a plugin under test, and how a test looks at it.

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use serde_json::Value;

use crate::{
    Capability,
    client::{Sign, Write},
    log::Level,
    sockets::Emit,
    types::{
        Call, Conversation, ConversationOp, Draft, Message, Notification, Op, Participant, ParticipantChange, Reaction, Reader, Receipt,
        StoredNotification, Transport, User,
    },
};

/// The clock of a new [`FakeHost`]: Monday 2026-01-05, 12:00 UTC, in milliseconds since 1970.
pub const START_MS: u64 = 1_767_614_400_000;

/// An event that the plugin emitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// `x.<plugin id>.…`
    pub name: String,
    /// What it carries.
    pub payload: Value,
    /// To whom.
    pub audience: Audience,
}

/// To whom an event went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Kept, in this conversation.
    Conversation(String),
    /// A user's connections.
    User(String),
    /// One connection.
    Connection(String),
    /// Connections whose token has the role.
    Role(String),
}

/// A host in memory. A clone is another handle to the same one.
#[derive(Clone, Default)]
pub struct FakeHost {
    state: Rc<RefCell<State>>,
}

#[derive(Clone)]
pub(super) struct State {
    pub now_ms: u64,
    /// The handler that runs.
    pub call: Call,
    pub granted: Option<&'static [Capability]>,
    pub config: BTreeMap<String, String>,
    pub conversations: BTreeMap<String, Conversation>,
    pub participants: BTreeMap<String, Vec<Participant>>,
    pub messages: BTreeMap<String, Message>,
    pub users: BTreeMap<String, User>,
    pub online: BTreeSet<String>,
    pub watching: BTreeSet<(String, String)>,
    pub kv: BTreeMap<(String, String), Stored>,
    pub global: BTreeMap<String, Stored>,
    /// Global writes that wait for the commit.
    pub deferred: Vec<GlobalWrite>,
    pub timers: BTreeMap<(String, String), (u64, String)>,
    pub sent: Vec<Draft>,
    pub emitted: Vec<Emitted>,
    pub socket_emits: Vec<Emit>,
    pub client_writes: Vec<Write>,
    pub signs: Vec<Sign>,
    /// (connection, conversation)
    pub joined: BTreeSet<(String, String)>,
    /// Steps of read marks, oldest first: (conversation, user, seq, when).
    pub advances: Vec<(String, String, u32, u64)>,
    /// (connection, room)
    pub rooms: BTreeSet<(String, String)>,
    pub notifications: Vec<Told>,
    pub notification_pushes: usize,
    pub counters: BTreeMap<String, u64>,
    pub observations: BTreeMap<String, Vec<f64>>,
    pub logs: Vec<(Level, String)>,
    /// What after-hooks have yet to be told.
    pub pending: VecDeque<(Call, After)>,
    pub ids: u64,
}

#[derive(Clone)]
pub(super) struct Stored {
    pub value: Vec<u8>,
    pub expires_ms: Option<u64>,
    /// Of a reservation: the command it belongs to.
    pub holder: Option<String>,
}

/// A notification that was pushed.
#[derive(Clone)]
pub(super) struct Told {
    pub id: String,
    pub user_id: String,
    pub notification: Notification,
    pub created_at_ms: u64,
    pub read_at_ms: Option<u64>,
}

#[derive(Clone)]
pub(super) enum GlobalWrite {
    Set(String, Stored),
    Add(String, i64),
    Delete(String),
}

#[derive(Clone)]
pub(super) enum After {
    Message(Op, String),
    Conversation(ConversationOp, String),
    Participant(ParticipantChange),
    Reaction(Reaction),
    Receipt(Receipt),
}

impl Default for State {
    fn default() -> State {
        State {
            now_ms: START_MS,
            call: Call::default(),
            granted: None,
            config: BTreeMap::new(),
            conversations: BTreeMap::new(),
            participants: BTreeMap::new(),
            messages: BTreeMap::new(),
            users: BTreeMap::new(),
            online: BTreeSet::new(),
            watching: BTreeSet::new(),
            kv: BTreeMap::new(),
            global: BTreeMap::new(),
            deferred: Vec::new(),
            timers: BTreeMap::new(),
            sent: Vec::new(),
            emitted: Vec::new(),
            socket_emits: Vec::new(),
            client_writes: Vec::new(),
            signs: Vec::new(),
            joined: BTreeSet::new(),
            advances: Vec::new(),
            rooms: BTreeSet::new(),
            notifications: Vec::new(),
            notification_pushes: 0,
            counters: BTreeMap::new(),
            observations: BTreeMap::new(),
            logs: Vec::new(),
            pending: VecDeque::new(),
            ids: 0,
        }
    }
}

impl FakeHost {
    /// Empty, at [`START_MS`], everything granted.
    pub fn new() -> FakeHost {
        FakeHost::default()
    }

    pub(super) fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    pub(super) fn state_mut(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    // ---- what a test prepares ----

    /// Sets the clock.
    pub fn set_now_ms(&self, now_ms: u64) {
        self.state_mut().now_ms = now_ms;
    }

    /// Sets one value of `[config]`.
    pub fn set_config(&self, key: &str, value: &str) {
        self.state_mut().config.insert(key.into(), value.into());
    }

    /// Keeps a user's profile.
    pub fn put_user(&self, user: User) {
        self.state_mut().users.insert(user.id.clone(), user);
    }

    /// Keeps a user whose name is the id, with these attributes.
    pub fn user(&self, id: &str, attributes: &Value) {
        self.put_user(User {
            id: id.into(),
            name: Some(id.into()),
            attributes: Some(attributes.to_string()),
            ..User::default()
        });
    }

    /// Gives a user these preferences; makes the user if needed.
    pub fn set_preferences(&self, id: &str, preferences: &Value) {
        let mut state = self.state_mut();
        let user = state.users.entry(id.into()).or_insert_with(|| User {
            id: id.into(),
            name: Some(id.into()),
            ..User::default()
        });
        user.preferences = Some(preferences.to_string());
    }

    /// Says whether the user has a connection.
    pub fn set_online(&self, id: &str, online: bool) {
        let mut state = self.state_mut();
        if online {
            state.online.insert(id.into())
        } else {
            state.online.remove(id)
        };
    }

    /// Says whether the user has a connection that is subscribed to the conversation.
    pub fn set_watching(&self, id: &str, conversation_id: &str, watching: bool) {
        let key = (id.to_string(), conversation_id.to_string());
        let mut state = self.state_mut();
        if watching {
            state.watching.insert(key)
        } else {
            state.watching.remove(&key)
        };
    }

    /// A direct conversation. Returns its id.
    pub fn direct(&self, a: &str, b: &str) -> String {
        self.state_mut().create("direct", None, &[a, b])
    }

    /// A group; the first is its admin. Returns its id.
    pub fn group(&self, users: &[&str]) -> String {
        self.state_mut().create("group", None, users)
    }

    /// A context conversation (`owner/type:id`). Returns its id.
    pub fn context(&self, context: &str, users: &[&str]) -> String {
        self.state_mut().create("context", Some(context), users)
    }

    // ---- what a test looks at ----

    /// The clock.
    pub fn now_ms(&self) -> u64 {
        self.state().now_ms
    }

    /// A message in its present state.
    pub fn message(&self, id: &str) -> Option<Message> {
        self.state().messages.get(id).cloned()
    }

    /// A message's metadata; null where there is none.
    pub fn metadata(&self, id: &str) -> Value {
        let metadata = self.message(id).and_then(|message| message.metadata);
        metadata.map_or(Value::Null, |text| serde_json::from_str(&text).expect("metadata is JSON"))
    }

    /// All messages of a conversation, oldest first.
    pub fn messages(&self, conversation_id: &str) -> Vec<Message> {
        let mut messages: Vec<_> = self
            .state()
            .messages
            .values()
            .filter(|m| m.conversation_id == conversation_id)
            .cloned()
            .collect();
        messages.sort_by_key(|message| message.seq);
        messages
    }

    /// The newest message of a conversation.
    pub fn last_message(&self, conversation_id: &str) -> Option<Message> {
        self.messages(conversation_id).pop()
    }

    /// A conversation.
    pub fn conversation(&self, id: &str) -> Option<Conversation> {
        self.state().conversations.get(id).cloned()
    }

    /// Who is in a conversation, by id.
    pub fn members(&self, conversation_id: &str) -> Vec<String> {
        self.state()
            .participants
            .get(conversation_id)
            .into_iter()
            .flatten()
            .map(|p| p.user_id.clone())
            .collect()
    }

    /// What the plugin sent, in order.
    pub fn sent(&self) -> Vec<Draft> {
        self.state().sent.clone()
    }

    /// What the plugin emitted, in order.
    pub fn emitted(&self) -> Vec<Emitted> {
        self.state().emitted.clone()
    }

    /// What the plugin emitted to connections in its own namespaces, in order.
    pub fn socket_emits(&self) -> Vec<Emit> {
        self.state().socket_emits.clone()
    }

    /// The names of what the plugin emitted, in order.
    pub fn emitted_names(&self) -> Vec<String> {
        self.state().emitted.iter().map(|event| event.name.clone()).collect()
    }

    /// A user's notifications, oldest first; one that was replaced by its `collapse` key is gone.
    pub fn notifications(&self, user_id: &str) -> Vec<Notification> {
        self.state()
            .notifications
            .iter()
            .filter(|told| told.user_id == user_id)
            .map(|told| told.notification.clone())
            .collect()
    }

    /// How often the plugin has pushed a notification, replaced ones included.
    pub fn notification_pushes(&self) -> usize {
        self.state().notification_pushes
    }

    /// A key of the conversation, if it has not expired.
    pub fn kv(&self, conversation_id: &str, key: &str) -> Option<Vec<u8>> {
        self.state().kv_get(conversation_id, key)
    }

    /// The keys of a conversation, expired ones left out.
    pub fn kv_keys(&self, conversation_id: &str) -> Vec<String> {
        let state = self.state();
        state
            .kv
            .iter()
            .filter(|((c, _), v)| c == conversation_id && state.alive(v))
            .map(|((_, key), _)| key.clone())
            .collect()
    }

    /// A global key, if it has not expired.
    pub fn global(&self, key: &str) -> Option<Vec<u8>> {
        self.state().global_get(key)
    }

    /// All global keys, expired ones left out.
    pub fn global_keys(&self) -> Vec<String> {
        let state = self.state();
        state.global.iter().filter(|(_, v)| state.alive(v)).map(|(key, _)| key.clone()).collect()
    }

    /// When a timer of the conversation is due.
    pub fn timer(&self, conversation_id: &str, name: &str) -> Option<u64> {
        self.state()
            .timers
            .get(&(conversation_id.to_string(), name.to_string()))
            .map(|(due_ms, _)| *due_ms)
    }

    /// The names of a conversation's timers.
    pub fn timers(&self, conversation_id: &str) -> Vec<String> {
        self.state()
            .timers
            .keys()
            .filter(|(c, _)| c == conversation_id)
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// A counter; 0 if it was never touched.
    pub fn counter(&self, name: &str) -> u64 {
        self.state().counters.get(name).copied().unwrap_or(0)
    }

    /// A histogram's observations, in order.
    pub fn observations(&self, name: &str) -> Vec<f64> {
        self.state().observations.get(name).cloned().unwrap_or_default()
    }

    /// What the plugin logged, in order.
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.state().logs.clone()
    }

    /// A call by this user in this conversation, with a reference of its own.
    pub fn call(&self, actor: &str, conversation_id: &str) -> Call {
        self.state_mut().new_call(actor, Some(conversation_id))
    }
}

impl State {
    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn new_call(&mut self, actor: &str, conversation_id: Option<&str>) -> Call {
        let id = self.next_id();
        Call {
            reference: format!("{id:032x}"),
            actor: actor.into(),
            transport: Transport::Rest,
            trace_id: format!("trace-{id}"),
            now_ms: self.now_ms,
            conversation_id: conversation_id.map(Into::into),
            ..Call::default()
        }
    }

    pub fn create(&mut self, kind: &str, context: Option<&str>, users: &[&str]) -> String {
        let id = format!("{:016x}00000000", self.next_id());
        let conversation = Conversation {
            id: id.clone(),
            kind: kind.into(),
            context: context.map(Into::into),
            creator: users.first().map(|user| (*user).into()),
            created_at_ms: self.now_ms,
            ..Conversation::default()
        };
        self.conversations.insert(id.clone(), conversation);
        for (i, user) in users.iter().enumerate() {
            self.join(&id, user, if kind == "group" && i == 0 { "admin" } else { "member" });
        }
        id
    }

    /// Who is in already stays as they are: since when, with their marks and their role.
    pub fn join(&mut self, conversation_id: &str, user_id: &str, role: &str) {
        let participants = self.participants.entry(conversation_id.into()).or_default();
        if participants.iter().any(|place| place.user_id == user_id) {
            return;
        }
        let place = Participant {
            user_id: user_id.into(),
            role: role.into(),
            joined_at_ms: self.now_ms,
            ..Participant::default()
        };
        participants.push(place);
    }

    /// Moves a participant's marks, never back.
    pub fn mark(&mut self, conversation_id: &str, user_id: &str, seq: u32) {
        let participants = self.participants.entry(conversation_id.into()).or_default();
        for place in participants.iter_mut().filter(|place| place.user_id == user_id) {
            if seq > place.read_seq {
                self.advances.push((conversation_id.into(), user_id.into(), seq, self.now_ms));
            }
            (place.read_seq, place.delivered_seq) = (place.read_seq.max(seq), place.delivered_seq.max(seq));
        }
    }

    /// Who has read a message, ordered by user.
    pub fn read_by(&self, message_id: &str) -> Vec<Reader> {
        let Some(message) = self.messages.get(message_id) else {
            return Vec::new();
        };
        let mut first = BTreeMap::new();
        for (conversation, user, seq, at_ms) in &self.advances {
            if *conversation == message.conversation_id && *seq >= message.seq {
                first.entry(user.clone()).or_insert(*at_ms);
            }
        }
        let reader = |(user_id, read_at_ms)| Reader { user_id, read_at_ms };
        first.into_iter().map(reader).collect()
    }

    /// Keeps a notification; one with the same key that its user has not read yet is gone.
    pub fn tell(&mut self, user_id: &str, notification: Notification) {
        let key = notification.collapse.clone();
        let is_replaced = |earlier: &Told| earlier.user_id == user_id && earlier.read_at_ms.is_none() && earlier.notification.collapse == key;
        self.notifications.retain(|earlier| key.is_none() || !is_replaced(earlier));
        let told = Told {
            id: format!("{:024x}", self.next_id()),
            user_id: user_id.into(),
            notification,
            created_at_ms: self.now_ms,
            read_at_ms: None,
        };
        self.notifications.push(told);
    }

    /// A notification as its user sees it.
    pub fn shown(&self, told: &Told) -> StoredNotification {
        let said = told.notification.clone();
        let is_in = |message: &&Message| {
            let places = self.participants.get(&message.conversation_id).into_iter().flatten();
            places.into_iter().any(|place| place.user_id == told.user_id)
        };
        let message = said.message_id.as_ref().and_then(|id| self.messages.get(id)).filter(is_in);
        let body = match message {
            Some(message) if said.body.is_empty() => message.content.clone(),
            _ => said.body,
        };
        StoredNotification {
            id: told.id.clone(),
            user_id: told.user_id.clone(),
            topic: said.topic,
            title: said.title,
            body,
            data: said.data,
            message_id: said.message_id,
            plugin: Some("test".into()),
            read: told.read_at_ms.is_some(),
            created_at_ms: told.created_at_ms,
            updated_at_ms: told.read_at_ms.unwrap_or(told.created_at_ms),
        }
    }

    /// Sets a user's reaction to a message, or takes it away.
    pub fn react(&mut self, message_id: &str, user_id: &str, emoji: Option<&str>) {
        if let Some(message) = self.messages.get_mut(message_id) {
            message.reactions.retain(|(user, _)| user != user_id);
            message.reactions.extend(emoji.map(|emoji| (user_id.to_owned(), emoji.to_owned())));
            message.reactions.sort();
        }
    }

    /// Gives the next seq of a conversation.
    pub fn next_seq(&mut self, conversation_id: &str) -> u32 {
        let conversation = self.conversations.get_mut(conversation_id).expect("the test has made this conversation");
        conversation.head += 1;
        conversation.head
    }

    /// Stores a message. Returns its id.
    pub fn store(&mut self, reference: &str, draft: Draft) -> String {
        let seq = self.next_seq(&draft.conversation_id);
        let id = format!("{}{seq:08x}", &draft.conversation_id[..16]);
        let message = Message {
            id: id.clone(),
            seq,
            rev: seq,
            n: seq,
            reference: reference.into(),
            created_at_ms: self.now_ms,
            op: Op::Send,
            conversation_id: draft.conversation_id,
            sender_id: draft.sender_id,
            kind: draft.kind,
            content: draft.content,
            metadata: draft.metadata,
            reply_to: draft.reply_to,
            forwarded_from: draft.forwarded_from,
            client_message_id: draft.client_message_id,
            ..Message::default()
        };
        self.messages.insert(id.clone(), message);
        id
    }

    pub fn change(&mut self, id: &str, change: impl FnOnce(&mut Message)) {
        let conversation_id = self.messages[id].conversation_id.clone();
        let seq = self.next_seq(&conversation_id);
        let now_ms = self.now_ms;
        let message = self.messages.get_mut(id).expect("indexed above");
        message.rev = seq;
        message.edited_at_ms = Some(now_ms);
        change(message);
    }

    pub fn alive(&self, stored: &Stored) -> bool {
        stored.expires_ms.is_none_or(|at| at > self.now_ms)
    }

    pub fn kv_get(&self, conversation_id: &str, key: &str) -> Option<Vec<u8>> {
        let stored = self.kv.get(&(conversation_id.to_string(), key.to_string()))?;
        self.alive(stored).then(|| stored.value.clone())
    }

    pub fn global_get(&self, key: &str) -> Option<Vec<u8>> {
        let stored = self.global.get(key)?;
        self.alive(stored).then(|| stored.value.clone())
    }

    pub fn stored(&self, value: &[u8], ttl_s: Option<u32>) -> Stored {
        Stored {
            value: value.into(),
            expires_ms: ttl_s.map(|s| self.now_ms + u64::from(s) * 1000),
            holder: None,
        }
    }

    /// What is no number is left as it is: the server keeps such an add as a failed delivery.
    fn add(&mut self, key: String, by: i64) {
        let before = self.global.get(&key).filter(|stored| self.alive(stored)).cloned();
        let mut stored = before.unwrap_or_else(|| self.stored(b"0", None));
        let number = std::str::from_utf8(&stored.value).ok().and_then(|text| text.parse::<i64>().ok());
        if let Some(number) = number {
            stored.value = number.saturating_add(by).to_string().into_bytes();
            self.global.insert(key, stored);
        }
    }

    /// What takes effect after a handler.
    pub fn commit(&mut self) {
        for write in std::mem::take(&mut self.deferred) {
            match write {
                GlobalWrite::Set(key, stored) => {
                    self.global.insert(key, stored);
                }
                GlobalWrite::Add(key, by) => self.add(key, by),
                GlobalWrite::Delete(key) => {
                    self.global.remove(&key);
                }
            }
        }
    }
}
