//! Outside a component: the port behind which any host can stand, and the handlers of a plugin as one object.
//!
//! [`crate::test`] is such a host; so is the testkit's server in memory. A host is installed for the present thread, around the
//! call of a handler:
//!
//! ```
//! use haggle_sdk::{native, test::FakeHost};
//! use std::rc::Rc;
//!
//! let host = FakeHost::new();
//! let _installed = native::install(Rc::new(host.clone()));
//! haggle_sdk::metrics::count("calls");
//! assert_eq!(host.counter("calls"), 1);
//! ```

use std::{cell::RefCell, rc::Rc};

use crate::{
    Capability, Error, Failure, Rejection,
    client::{Outcome, Presence, Refusal, Sign, View, Write},
    log::Level,
    sockets::{Args, Audience, ConnectRefused, CoreEvent, Emit, Handshake, SocketEvent},
    types::{
        Call, Connection, Conversation, ConversationDecision, ConversationDraft, ConversationOp, Decision, Draft, HttpRequest, HttpResponse, Message,
        Notification, Participant, ParticipantChange, Reaction, Reader, Receipt, StoredNotification, User, Verdict,
    },
};

type Answer<T> = Result<T, Error>;

/// What the capability modules ask of. Each method is the function of that name in its module.
#[allow(missing_docs, reason = "the functions of the capability modules say what these mean")]
pub trait Host {
    /// Whether the plugin may ask for this at all; if not, it is answered [`Error::Denied`].
    fn grants(&self, _capability: Capability) -> bool {
        true
    }

    fn log_write(&self, level: Level, text: &str) -> Answer<()>;
    fn metric_count(&self, name: &str, by: u64) -> Answer<()>;
    fn metric_observe(&self, name: &str, value: f64) -> Answer<()>;
    fn config_get(&self, key: &str) -> Answer<Option<String>>;

    fn kv_get(&self, key: &str) -> Answer<Option<Vec<u8>>>;
    fn kv_set(&self, key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()>;
    fn kv_delete(&self, key: &str) -> Answer<()>;
    fn kv_list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<(String, Vec<u8>)>>;

    fn global_get(&self, key: &str) -> Answer<Option<Vec<u8>>>;
    fn global_reserve(&self, keys: &[String], value: &[u8]) -> Answer<bool>;
    fn global_set(&self, key: &str, value: &[u8], ttl_s: Option<u32>) -> Answer<()>;
    fn global_add(&self, key: &str, by: i64) -> Answer<()>;
    fn global_delete(&self, key: &str) -> Answer<()>;
    fn global_release(&self, keys: &[String]) -> Answer<()>;

    fn message_send(&self, draft: &Draft) -> Answer<String>;
    fn message_edit(&self, id: &str, content: Option<&str>, metadata: Option<&str>) -> Answer<()>;
    fn message_get(&self, id: &str) -> Answer<Option<Message>>;
    fn message_list(&self, conversation_id: &str, before: Option<u32>, limit: u32) -> Answer<Vec<Message>>;
    fn message_read_by(&self, ids: &[String]) -> Answer<Vec<Vec<Reader>>>;

    fn conversation_get(&self, id: &str) -> Answer<Option<Conversation>>;
    fn conversation_id_of(&self, context_type: &str, context_id: &str) -> Answer<String>;
    fn conversation_get_or_create(
        &self,
        context_type: &str,
        context_id: &str,
        participants: &[String],
        name: Option<&str>,
        state: Option<&str>,
    ) -> Answer<String>;
    fn conversation_set_state(&self, state: &str) -> Answer<()>;
    fn conversation_set_closed(&self, closed: bool) -> Answer<()>;

    fn participant_list(&self, conversation_id: &str) -> Answer<Vec<Participant>>;
    fn participant_add(&self, user_id: &str, role: &str) -> Answer<()>;
    fn participant_remove(&self, user_id: &str) -> Answer<()>;

    fn user_get(&self, id: &str) -> Answer<Option<User>>;
    fn user_online(&self, id: &str) -> Answer<bool>;
    fn user_watching(&self, id: &str, conversation_id: &str) -> Answer<bool>;
    fn user_online_count(&self) -> Answer<u32>;
    fn user_unread(&self, id: &str) -> Answer<u32>;

    fn event_emit(&self, name: &str, payload: &str) -> Answer<()>;
    fn event_emit_to_user(&self, user_id: &str, name: &str, payload: &str) -> Answer<()>;
    fn event_emit_to_connection(&self, session: &str, name: &str, payload: &str) -> Answer<()>;
    fn event_emit_to_role(&self, role: &str, name: &str, payload: &str) -> Answer<()>;

    fn event_emit_to_sockets(&self, to: &Audience, name: &str, args: &Args) -> Answer<()>;
    fn event_ask_socket(&self, connection: &str, name: &str, args: &Args, token: &str) -> Answer<()>;

    fn client_write(&self, write: Write) -> Answer<Result<Outcome, Refusal>>;
    fn client_call(&self, name: &str, conversation_id: Option<&str>, payload: &str) -> Answer<Result<String, Refusal>>;
    fn client_sign(&self, sign: Sign) -> Answer<Result<(), Refusal>>;
    fn client_direct_id(&self, user_id: &str) -> Answer<Result<String, Refusal>>;
    fn client_conversations(&self, archived: Option<bool>, after: Option<&str>, limit: u32) -> Answer<Result<Vec<View>, Refusal>>;
    fn client_conversations_total(&self, archived: Option<bool>) -> Answer<Result<u32, Refusal>>;
    fn client_conversation(&self, id: &str) -> Answer<Result<View, Refusal>>;
    fn client_messages(&self, conversation_id: &str, before: Option<u32>, limit: u32) -> Answer<Result<Vec<Message>, Refusal>>;
    fn client_message(&self, id: &str) -> Answer<Result<Message, Refusal>>;
    fn client_read_by(&self, ids: &[String]) -> Answer<Result<Vec<Vec<Reader>>, Refusal>>;
    fn client_notifications(&self, before: Option<&str>, unread_only: bool, limit: u32) -> Answer<Result<Vec<StoredNotification>, Refusal>>;
    fn client_unread_notifications(&self) -> Answer<Result<u32, Refusal>>;
    fn client_unread_total(&self) -> Answer<Result<u32, Refusal>>;
    fn client_presence_of(&self, users: &[String]) -> Answer<Result<Vec<Presence>, Refusal>>;
    fn client_online_users(&self, limit: u32) -> Answer<Result<Vec<String>, Refusal>>;

    fn notification_push(&self, user_id: &str, notification: &Notification) -> Answer<()>;

    fn timer_set(&self, name: &str, due_ms: u64, payload: &str) -> Answer<()>;
    fn timer_cancel(&self, name: &str) -> Answer<()>;
    fn timer_get(&self, name: &str) -> Answer<Option<u64>>;
}

thread_local! {
    static HOST: RefCell<Option<Rc<dyn Host>>> = const { RefCell::new(None) };
}

/// Puts a host in place for this thread, until the guard is dropped; then the former one is back.
#[must_use = "the host is in place as long as this guard lives"]
pub fn install(host: Rc<dyn Host>) -> Installed {
    Installed {
        former: HOST.replace(Some(host)),
    }
}

/// See [`install`].
pub struct Installed {
    former: Option<Rc<dyn Host>>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        HOST.set(self.former.take());
    }
}

/// Asks the installed host.
pub(crate) fn ask<T>(capability: Capability, question: impl FnOnce(&dyn Host) -> Answer<T>) -> Answer<T> {
    let host = HOST
        .with_borrow(Option::clone)
        .ok_or_else(|| Error::Unavailable("no host is installed in this thread".into()))?;
    if !host.grants(capability) {
        return Err(Error::Denied);
    }
    question(&*host)
}

/// A plugin's handlers as one object, whatever hooks it has. [`plugin!`](crate::plugin) implements it; the defaults stand for the
/// hooks that it does not name, and are never asked by a host that looks at [`Plugin::HOOKS`](crate::Plugin::HOOKS).
#[allow(missing_docs, reason = "the traits in `hooks` say what these mean")]
#[allow(unused_variables, reason = "names for the docs")]
pub trait Handlers {
    fn init(&mut self, config: &str) -> Result<(), Failure> {
        Ok(())
    }
    fn before_message(&mut self, call: &Call, draft: Draft) -> Decision {
        Decision::Continue
    }
    fn after_message(&mut self, call: &Call, message: Message) -> Result<(), Failure> {
        Ok(())
    }
    fn before_conversation(&mut self, call: &Call, draft: ConversationDraft) -> ConversationDecision {
        ConversationDecision::Continue
    }
    fn after_conversation(&mut self, call: &Call, op: ConversationOp, conversation: Conversation) -> Result<(), Failure> {
        Ok(())
    }
    fn before_participant(&mut self, call: &Call, change: ParticipantChange) -> Verdict {
        Verdict::Continue
    }
    fn after_participant(&mut self, call: &Call, change: ParticipantChange) -> Result<(), Failure> {
        Ok(())
    }
    fn before_reaction(&mut self, call: &Call, reaction: Reaction) -> Verdict {
        Verdict::Continue
    }
    fn after_reaction(&mut self, call: &Call, reaction: Reaction) -> Result<(), Failure> {
        Ok(())
    }
    fn after_receipt(&mut self, call: &Call, receipt: Receipt) -> Result<(), Failure> {
        Ok(())
    }
    fn after_connection(&mut self, call: &Call, connection: Connection) -> Result<(), Failure> {
        Ok(())
    }
    fn command(&mut self, call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
        Err(Rejection::new("unknown_command", name))
    }
    fn http(&mut self, call: &Call, request: HttpRequest) -> HttpResponse {
        HttpResponse::text(404, "no such route")
    }
    fn timer(&mut self, call: &Call, name: &str, due_ms: u64, payload: &str) -> Result<(), Failure> {
        Ok(())
    }
    fn connect(&mut self, call: &Call, handshake: Handshake) -> Result<(), ConnectRefused> {
        Ok(())
    }
    fn event(&mut self, call: &Call, event: SocketEvent) -> Result<Option<Args>, Rejection> {
        Err(Rejection::new("unknown_event", event.name))
    }
    fn disconnect(&mut self, call: &Call, namespace: &str, reason: &str) {}
    fn map(&mut self, call: &Call, namespace: &str, event: CoreEvent) -> Vec<Emit> {
        Vec::new()
    }
}
