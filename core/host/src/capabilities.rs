//! The functions that plugins import. Each one is a door: budget, then form of the arguments, then the engine.
//!
//! What the engine does not know is checked here: JSON, ids as text, names of events. Ownership and sizes are its own.

use std::sync::Arc;

use haggle_engine::{
    ports::{Audience, HostCalls, HostError},
    sockets::SocketEmit,
};
use wasmtime::{
    Result,
    component::{HasSelf, Linker},
};

use crate::{
    bindings::{client, config, conversations, events, kv, kv_global, log, messages, metrics, notifications, participants, timers, users, wit},
    convert::{self, id, invalid, json, json_object, message_bytes},
    grants::Capability,
    sockets,
    state::State,
};

/// An import's answer: the inner error goes to the guest, the outer one ends the call.
type Answer<T> = Result<Result<T, wit::Error>>;

macro_rules! functions {
    ($($capability:ident: $($function:ident = $name:literal),*;)*) => {
        /// Every imported function that the engine answers, for the metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum HostFn { $($($function),*),* }

        impl HostFn {
            pub(crate) fn as_str(self) -> &'static str {
                match self { $($(HostFn::$function => $name),*),* }
            }

            /// The functions of one capability.
            pub(crate) fn of(capability: Capability) -> Vec<HostFn> {
                match capability {
                    $(Capability::$capability => vec![$(HostFn::$function),*],)*
                    Capability::Log | Capability::Metrics | Capability::Config => Vec::new(),
                }
            }
        }
    };
}

functions! {
    Kv: KvGet = "kv.get", KvSet = "kv.set", KvDelete = "kv.delete", KvList = "kv.list";
    KvGlobal: GlobalGet = "kv-global.get", GlobalReserve = "kv-global.reserve", GlobalSet = "kv-global.set", GlobalAdd = "kv-global.add",
        GlobalDelete = "kv-global.delete", GlobalRelease = "kv-global.release";
    Messages: MessagesSend = "messages.send", MessagesEdit = "messages.edit", MessagesGet = "messages.get", MessagesList = "messages.list",
        MessagesReadBy = "messages.read-by";
    Conversations: ConversationsGet = "conversations.get", ConversationsIdOf = "conversations.id-of",
        ConversationsGetOrCreate = "conversations.get-or-create", ConversationsSetState = "conversations.set-state",
        ConversationsSetClosed = "conversations.set-closed";
    Participants: ParticipantsList = "participants.list", ParticipantsAdd = "participants.add", ParticipantsRemove = "participants.remove";
    Users: UsersGet = "users.get", UsersOnline = "users.online", UsersWatching = "users.watching",
        UsersOnlineCount = "users.online-count", UsersUnread = "users.unread";
    Events: EventsEmit = "events.emit", EventsEmitToUser = "events.emit-to-user",
        EventsEmitToConnection = "events.emit-to-connection", EventsEmitToRole = "events.emit-to-role",
        EventsEmitToSockets = "events.emit-to-sockets", EventsAskSocket = "events.ask-socket";
    Notifications: NotificationsPush = "notifications.push";
    Client: ClientSend = "client.send", ClientEdit = "client.edit", ClientDelete = "client.delete", ClientHideMessage = "client.hide-message", ClientReact = "client.react", ClientRead = "client.read", ClientOpenDirect = "client.open-direct", ClientOpenContext = "client.open-context", ClientOpenBroadcast = "client.open-broadcast", ClientUpdate = "client.update", ClientClose = "client.close", ClientArchive = "client.archive", ClientHide = "client.hide", ClientAddParticipant = "client.add-participant", ClientRemoveParticipant = "client.remove-participant", ClientBlock = "client.block", ClientCall = "client.call", ClientTyping = "client.typing", ClientPresenceHint = "client.presence-hint", ClientJoin = "client.join", ClientLeave = "client.leave", ClientEnterRoom = "client.enter-room", ClientLeaveRoom = "client.leave-room", ClientDirectId = "client.direct-id", ClientConversations = "client.conversations", ClientConversationsTotal = "client.conversations-total", ClientConversation = "client.get-conversation", ClientMessages = "client.messages", ClientMessage = "client.get-message", ClientReadBy = "client.read-by", ClientReadNotification = "client.read-notification", ClientReadAllNotifications = "client.read-all-notifications", ClientNotifications = "client.notifications", ClientUnreadNotifications = "client.unread-notifications", ClientUnreadTotal = "client.unread-total", ClientPresenceOf = "client.presence-of", ClientOnlineUsers = "client.online-users";
    Timers: TimersSet = "timers.set", TimersCancel = "timers.cancel", TimersGet = "timers.get";
}

/// Puts exactly the granted interfaces (and the types) into a linker: what is not granted does not exist.
pub(crate) fn link(linker: &mut Linker<State>, granted: impl IntoIterator<Item = Capability>) -> Result<()> {
    wit::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    for capability in granted {
        let add = match capability {
            Capability::Log => log::add_to_linker::<State, HasSelf<State>>,
            Capability::Metrics => metrics::add_to_linker::<State, HasSelf<State>>,
            Capability::Config => config::add_to_linker::<State, HasSelf<State>>,
            Capability::Kv => kv::add_to_linker::<State, HasSelf<State>>,
            Capability::KvGlobal => kv_global::add_to_linker::<State, HasSelf<State>>,
            Capability::Messages => messages::add_to_linker::<State, HasSelf<State>>,
            Capability::Conversations => conversations::add_to_linker::<State, HasSelf<State>>,
            Capability::Participants => participants::add_to_linker::<State, HasSelf<State>>,
            Capability::Users => users::add_to_linker::<State, HasSelf<State>>,
            Capability::Events => events::add_to_linker::<State, HasSelf<State>>,
            Capability::Notifications => notifications::add_to_linker::<State, HasSelf<State>>,
            Capability::Client => client::add_to_linker::<State, HasSelf<State>>,
            Capability::Timers => timers::add_to_linker::<State, HasSelf<State>>,
        };
        add(linker, |state| state)?;
    }
    Ok(())
}

/// Enters a host call; while the plugin starts every one of them is denied.
macro_rules! guest {
    ($state:ident, $bytes:expr) => {
        match $state.enter($bytes)? {
            Some(guest) => guest,
            None => return Ok(Err(wit::Error::Denied)),
        }
    };
}

impl State {
    /// A host call that is answered at once.
    fn at_once<T>(&mut self, function: HostFn, bytes: usize, run: impl FnOnce(&State, Arc<dyn HostCalls>) -> Result<T, HostError>) -> Answer<T> {
        let guest = guest!(self, bytes);
        let answer = run(self, guest);
        Ok(self.answered(function, answer))
    }

    /// The answer of a host call that may have waited, with the bytes that it carries out.
    fn carried<T>(&mut self, function: HostFn, answer: Result<T, HostError>, bytes: impl FnOnce(&T) -> usize) -> Answer<T> {
        if let Ok(answer) = &answer {
            self.carry(bytes(answer))?;
        }
        Ok(self.answered(function, answer))
    }

    fn value_bytes_max(&self, capability: Capability) -> usize {
        self.profile
            .grants
            .get(&capability)
            .and_then(|grant| grant.value_bytes_max)
            .unwrap_or(usize::MAX)
    }

    fn check_value(&self, capability: Capability, value: &[u8]) -> Result<(), HostError> {
        let max = self.value_bytes_max(capability);
        if value.len() <= max {
            return Ok(());
        }
        Err(HostError::Quota(format!(
            "value_bytes_max: {} bytes; the manifest's grant allows {max}",
            value.len()
        )))
    }

    /// Events carry their plugin in their name, so that no plugin speaks for another.
    fn check_event(&self, name: &str, payload: &str) -> Result<(), HostError> {
        let own = name
            .strip_prefix("x.")
            .and_then(|rest| rest.strip_prefix(self.profile.id.as_str()))
            .and_then(|rest| rest.strip_prefix('.'));
        if own.is_none_or(str::is_empty) {
            return Err(invalid(format!("name must start with `x.{}.`", self.profile.id)));
        }
        json("payload", payload)
    }

    fn emit_to(&mut self, function: HostFn, audience: Audience, name: &str, payload: String) -> Answer<()> {
        self.at_once(function, name.len() + payload.len(), |state, guest| {
            state.check_event(name, &payload)?;
            guest.emit_to(audience, name, payload)
        })
    }
}

fn optional(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

impl wit::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, text: String) -> Result<()> {
        self.enter(text.len())?;
        self.write_log(level, text);
        Ok(())
    }
}

impl metrics::Host for State {
    fn count(&mut self, name: String, by: u64) -> Result<()> {
        self.enter(name.len())?;
        self.profile.meters.custom_count(&name, by);
        Ok(())
    }

    fn observe(&mut self, name: String, value: f64) -> Result<()> {
        self.enter(name.len())?;
        self.profile.meters.custom_observe(&name, value);
        Ok(())
    }
}

impl config::Host for State {
    fn get(&mut self, key: String) -> Result<Option<String>> {
        self.enter(key.len())?;
        let value = self.profile.config.get(&key).cloned();
        self.carry(optional(value.as_ref()))?;
        Ok(value)
    }
}

impl kv::Host for State {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        let guest = guest!(self, key.len());
        let answer = self.wait(guest.kv_get(&key)).await?;
        self.carried(HostFn::KvGet, answer, |value| value.as_ref().map_or(0, Vec::len))
    }

    fn set(&mut self, key: String, value: Vec<u8>, ttl_s: Option<u32>) -> Answer<()> {
        self.at_once(HostFn::KvSet, key.len() + value.len(), |state, guest| {
            state.check_value(Capability::Kv, &value)?;
            guest.kv_set(&key, value, ttl_s)
        })
    }

    fn delete(&mut self, key: String) -> Answer<()> {
        self.at_once(HostFn::KvDelete, key.len(), |_, guest| guest.kv_delete(&key))
    }

    async fn list(&mut self, prefix: String, after: Option<String>) -> Answer<Vec<(String, Vec<u8>)>> {
        let guest = guest!(self, prefix.len() + optional(after.as_ref()));
        let answer = self.wait(guest.kv_list(&prefix, after.as_deref())).await?;
        self.carried(HostFn::KvList, answer, |pairs| {
            pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
        })
    }
}

impl kv_global::Host for State {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        let guest = guest!(self, key.len());
        let answer = self.wait(guest.global_get(&key)).await?;
        self.carried(HostFn::GlobalGet, answer, |value| value.as_ref().map_or(0, Vec::len))
    }

    async fn reserve(&mut self, keys: Vec<String>, value: Vec<u8>) -> Answer<bool> {
        let guest = guest!(self, value.len() + keys.iter().map(String::len).sum::<usize>());
        if let Err(error) = self.check_value(Capability::KvGlobal, &value) {
            return Ok(self.answered(HostFn::GlobalReserve, Err(error)));
        }
        let answer = self.wait(guest.global_reserve(keys, value)).await?;
        Ok(self.answered(HostFn::GlobalReserve, answer))
    }

    fn set(&mut self, key: String, value: Vec<u8>, ttl_s: Option<u32>) -> Answer<()> {
        self.at_once(HostFn::GlobalSet, key.len() + value.len(), |state, guest| {
            state.check_value(Capability::KvGlobal, &value)?;
            guest.global_set(&key, value, ttl_s)
        })
    }

    fn add(&mut self, key: String, by: i64) -> Answer<()> {
        self.at_once(HostFn::GlobalAdd, key.len(), |_, guest| guest.global_add(&key, by))
    }

    fn delete(&mut self, key: String) -> Answer<()> {
        self.at_once(HostFn::GlobalDelete, key.len(), |_, guest| guest.global_delete(&key))
    }

    fn release(&mut self, keys: Vec<String>) -> Answer<()> {
        self.at_once(HostFn::GlobalRelease, keys.iter().map(String::len).sum(), |_, guest| {
            guest.global_release(keys)
        })
    }
}

impl messages::Host for State {
    fn send(&mut self, draft: wit::Draft) -> Answer<wit::CommandId> {
        self.at_once(HostFn::MessagesSend, convert::draft_bytes(&draft), |_, guest| {
            guest.send(convert::guest_message(draft)?).map(convert::command_id)
        })
    }

    async fn edit(&mut self, message: String, content: Option<String>, metadata: Option<String>) -> Answer<()> {
        let guest = guest!(self, optional(content.as_ref()) + optional(metadata.as_ref()));
        let checked = id("id", &message).and_then(|id| metadata.as_deref().map_or(Ok(()), |text| json_object("metadata", text)).map(|()| id));
        let answer = match checked {
            Ok(id) => self.wait(guest.edit(id, content, metadata)).await?,
            Err(error) => Err(error),
        };
        Ok(self.answered(HostFn::MessagesEdit, answer))
    }

    async fn get(&mut self, message: String) -> Answer<Option<wit::Message>> {
        let guest = guest!(self, message.len());
        let answer = match id("id", &message) {
            Ok(id) => self.wait(guest.message(id)).await?,
            Err(error) => Err(error),
        };
        let answer = answer.map(|row| row.map(convert::message));
        self.carried(HostFn::MessagesGet, answer, |message| message.as_ref().map_or(0, message_bytes))
    }

    async fn list(&mut self, conversation: String, before: Option<u32>, limit: u32) -> Answer<Vec<wit::Message>> {
        let guest = guest!(self, conversation.len());
        let answer = match id("conversation-id", &conversation) {
            Ok(id) => self.wait(guest.messages(id, before, limit.min(LIST_MAX) as usize)).await?,
            Err(error) => Err(error),
        };
        let answer = answer.map(|rows| rows.into_iter().map(convert::message).collect::<Vec<_>>());
        self.carried(HostFn::MessagesList, answer, |messages| messages.iter().map(message_bytes).sum())
    }

    async fn read_by(&mut self, ids: Vec<String>) -> Answer<Vec<Vec<wit::Reader>>> {
        let guest = guest!(self, ids.iter().map(String::len).sum());
        let answer = match convert::message_ids(&ids) {
            Ok(ids) => self.wait(guest.read_by(ids)).await?,
            Err(error) => Err(error),
        };
        self.carried(HostFn::MessagesReadBy, answer.map(convert::read_by), |found| {
            convert::read_by_bytes(found)
        })
    }
}

/// Messages of one list; the contract names it.
const LIST_MAX: u32 = 100;

impl conversations::Host for State {
    async fn get(&mut self, conversation: String) -> Answer<Option<wit::Conversation>> {
        let guest = guest!(self, conversation.len());
        let answer = match id("id", &conversation) {
            Ok(id) => self.wait(guest.conversation(id)).await?,
            Err(error) => Err(error),
        };
        let answer = answer.map(|row| row.map(convert::conversation));
        self.carried(HostFn::ConversationsGet, answer, |found| {
            found.as_ref().map_or(0, |found| {
                optional(found.name.as_ref()) + optional(found.avatar.as_ref()) + optional(found.state.as_ref())
            })
        })
    }

    fn id_of(&mut self, context_type: String, context_id: String) -> Answer<String> {
        self.at_once(HostFn::ConversationsIdOf, context_type.len() + context_id.len(), |_, guest| {
            check_context(&context_type, &context_id)?;
            guest.context_id(&context_type, &context_id).map(|id| id.to_string())
        })
    }

    fn get_or_create(
        &mut self,
        context_type: String,
        context_id: String,
        participants: Vec<String>,
        name: Option<String>,
        state: Option<String>,
    ) -> Answer<String> {
        let users: usize = participants.iter().map(String::len).sum();
        let bytes = context_type.len() + context_id.len() + users + optional(name.as_ref()) + optional(state.as_ref());
        self.at_once(HostFn::ConversationsGetOrCreate, bytes, |_, guest| {
            check_context(&context_type, &context_id)?;
            if let Some(state) = &state {
                json_object("state", state)?;
            }
            let participants = participants.into_iter().map(Into::into).collect();
            guest
                .get_or_create(&context_type, &context_id, participants, name, state)
                .map(|id| id.to_string())
        })
    }

    fn set_state(&mut self, state: String) -> Answer<()> {
        self.at_once(HostFn::ConversationsSetState, state.len(), |_, guest| {
            json_object("state", &state)?;
            guest.set_state(state)
        })
    }

    fn set_closed(&mut self, closed: bool) -> Answer<()> {
        self.at_once(HostFn::ConversationsSetClosed, 0, |_, guest| guest.set_closed(closed))
    }
}

/// A context is written `owner/type:id`, so the type holds neither `/` nor `:`.
fn check_context(context_type: &str, context_id: &str) -> Result<(), HostError> {
    if context_type.is_empty() || context_type.contains(['/', ':']) {
        return Err(invalid("context-type must not be empty and holds neither `/` nor `:`"));
    }
    if context_id.is_empty() {
        Err(invalid("context-id must not be empty"))
    } else {
        Ok(())
    }
}

impl participants::Host for State {
    async fn list(&mut self, conversation: String) -> Answer<Vec<wit::Participant>> {
        let guest = guest!(self, conversation.len());
        let answer = match id("conversation-id", &conversation) {
            Ok(id) => self.wait(guest.participants(id)).await?,
            Err(error) => Err(error),
        };
        let answer = answer.map(|rows| rows.into_iter().map(convert::participant).collect::<Vec<_>>());
        self.carried(HostFn::ParticipantsList, answer, |rows| {
            rows.iter().map(|row| row.user_id.len() + row.role.len()).sum()
        })
    }

    fn add(&mut self, user: String, role: String) -> Answer<()> {
        self.at_once(HostFn::ParticipantsAdd, user.len() + role.len(), |_, guest| {
            guest.add_participant(user.into(), convert::role(&role)?)
        })
    }

    fn remove(&mut self, user: String) -> Answer<()> {
        self.at_once(HostFn::ParticipantsRemove, user.len(), |_, guest| guest.remove_participant(user.into()))
    }
}

impl users::Host for State {
    async fn get(&mut self, user: String) -> Answer<Option<wit::User>> {
        let guest = guest!(self, user.len());
        let answer = self.wait(guest.user(&user.into())).await?;
        let answer = answer.map(|row| row.map(convert::user));
        self.carried(HostFn::UsersGet, answer, |found| {
            found.as_ref().map_or(0, |user| {
                optional(user.name.as_ref()) + optional(user.attributes.as_ref()) + optional(user.preferences.as_ref())
            })
        })
    }

    fn online(&mut self, user: String) -> Answer<bool> {
        self.at_once(HostFn::UsersOnline, user.len(), |_, guest| Ok(guest.online(&user.into())))
    }

    fn watching(&mut self, user: String, conversation: String) -> Answer<bool> {
        self.at_once(HostFn::UsersWatching, user.len() + conversation.len(), |_, guest| {
            Ok(guest.watching(&user.into(), id("conversation-id", &conversation)?))
        })
    }

    fn online_count(&mut self) -> Answer<u32> {
        self.at_once(HostFn::UsersOnlineCount, 0, |_, guest| Ok(guest.online_count()))
    }

    async fn unread(&mut self, user: String) -> Answer<u32> {
        let guest = guest!(self, user.len());
        let answer = self.wait(guest.unread(&user.into())).await?;
        Ok(self.answered(HostFn::UsersUnread, answer))
    }
}

impl events::Host for State {
    fn emit(&mut self, name: String, payload: String) -> Answer<()> {
        self.at_once(HostFn::EventsEmit, name.len() + payload.len(), |state, guest| {
            state.check_event(&name, &payload)?;
            guest.emit(&name, payload)
        })
    }

    fn emit_to_user(&mut self, user: String, name: String, payload: String) -> Answer<()> {
        self.emit_to(HostFn::EventsEmitToUser, Audience::User(user.into()), &name, payload)
    }

    fn emit_to_connection(&mut self, session: String, name: String, payload: String) -> Answer<()> {
        self.emit_to(HostFn::EventsEmitToConnection, Audience::Connection(session), &name, payload)
    }

    fn emit_to_role(&mut self, role: String, name: String, payload: String) -> Answer<()> {
        self.emit_to(HostFn::EventsEmitToRole, Audience::Role(role), &name, payload)
    }

    async fn emit_to_sockets(&mut self, to: wit::Audience, name: String, args: wit::Args) -> Answer<()> {
        let bytes = name.len() + sockets::args_bytes(&args);
        let emit = sockets::emit(to, name, args, None);
        self.emit_to_sockets(HostFn::EventsEmitToSockets, emit, bytes).await
    }

    async fn ask_socket(&mut self, connection: String, name: String, args: wit::Args, token: String) -> Answer<()> {
        let bytes = name.len() + token.len() + sockets::args_bytes(&args);
        let to = sockets::to_connection(connection);
        let emit = sockets::check_token(&token).and_then(|()| sockets::emit(to, name, args, Some(token)));
        self.emit_to_sockets(HostFn::EventsAskSocket, emit, bytes).await
    }
}

impl State {
    async fn emit_to_sockets(&mut self, function: HostFn, emit: Result<SocketEmit, HostError>, bytes: usize) -> Answer<()> {
        let guest = guest!(self, bytes);
        let answer = match emit {
            Ok(emit) => self.wait(guest.emit_to_sockets(emit)).await?,
            Err(error) => Err(error),
        };
        Ok(self.answered(function, answer))
    }
}

impl notifications::Host for State {
    fn push(&mut self, user: String, told: notifications::Notification) -> Answer<()> {
        let bytes =
            user.len() + told.topic.len() + told.title.len() + told.body.len() + optional(told.data.as_ref()) + optional(told.collapse.as_ref());
        self.at_once(HostFn::NotificationsPush, bytes, |state, guest| {
            let notification = convert::notification(&state.profile.id, told)?;
            guest.notify(user.into(), notification)
        })
    }
}

impl timers::Host for State {
    fn set(&mut self, name: String, due_ms: u64, payload: String) -> Answer<()> {
        self.at_once(HostFn::TimersSet, name.len() + payload.len(), |_, guest| {
            let due = i64::try_from(due_ms).map_err(|_| invalid("due-ms is beyond all calendars"))?;
            guest.timer_set(&name, due, payload)
        })
    }

    fn cancel(&mut self, name: String) -> Answer<()> {
        self.at_once(HostFn::TimersCancel, name.len(), |_, guest| guest.timer_cancel(&name))
    }

    async fn get(&mut self, name: String) -> Answer<Option<u64>> {
        let guest = guest!(self, name.len());
        let answer = self.wait(guest.timer_get(&name)).await?;
        Ok(self.answered(HostFn::TimersGet, answer.map(|due| due.map(convert::millis))))
    }
}
