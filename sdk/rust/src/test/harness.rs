//! The server's part around one plugin: before-hook, store, after-hook; a handler that says no has written nothing.

use std::{ops::Deref, rc::Rc};

use serde::Serialize;
use serde_json::Value;

use super::fake::{After, FakeHost};
use crate::{
    Failure, Plugin, Rejection,
    hooks::Hook,
    json,
    native::{self, Handlers},
    sockets::{Args, ConnectRefused, CoreEvent, Emit, Handshake, SocketEvent},
    types::{
        Call, Connection, ConversationDecision, ConversationDraft, ConversationOp, Decision, Draft, HttpRequest, HttpResponse, Message, Op,
        ParticipantChange, ParticipantOp, Reaction, Receipt, Transport, Verdict,
    },
};

/// After-hooks that one step may lead to; more is a plugin that answers itself.
const AFTER_HOOKS_MAX: usize = 1_000;

/// One plugin and the server around it, in memory. Also a [`FakeHost`], to prepare and to look at.
pub struct Harness<P> {
    /// The plugin itself.
    pub plugin: P,
    host: FakeHost,
}

impl<P> Deref for Harness<P> {
    type Target = FakeHost;

    fn deref(&self) -> &FakeHost {
        &self.host
    }
}

impl<P: Plugin + Handlers> Default for Harness<P> {
    fn default() -> Harness<P> {
        Harness::new()
    }
}

impl<P: Plugin + Handlers> Harness<P> {
    /// The plugin with the capabilities that its macro names and an empty `[config]`.
    ///
    /// # Panics
    ///
    /// If its `init` fails.
    pub fn new() -> Harness<P> {
        Harness::with_config(&[]).unwrap_or_else(|failure| panic!("init failed: {}", failure.0))
    }

    /// The same with these values in `[config]`.
    ///
    /// # Errors
    ///
    /// What its `init` says.
    pub fn with_config(config: &[(&str, &str)]) -> Result<Harness<P>, Failure> {
        let host = FakeHost::new();
        host.state_mut().granted = Some(P::CAPABILITIES);
        for (key, value) in config {
            host.set_config(key, value);
        }
        let mut harness = Harness { plugin: P::default(), host };
        if harness.has(Hook::Lifecycle) {
            let config = json::text(&harness.host.state().config)?;
            harness.run(Call::default(), |plugin| plugin.init(&config))?;
        }
        Ok(harness)
    }

    /// A user sends a message. Returns its id.
    ///
    /// # Errors
    ///
    /// The plugin's rejection; nothing has been written then.
    pub fn send(&mut self, actor: &str, draft: Draft) -> Result<String, Rejection> {
        let call = self.call(actor, &draft.conversation_id);
        self.send_as(call, draft)
    }

    /// The same with a call of the test's own making.
    ///
    /// # Errors
    ///
    /// As [`Harness::send`].
    pub fn send_as(&mut self, call: Call, mut draft: Draft) -> Result<String, Rejection> {
        draft.op = Op::Send;
        draft.sender_id = call.actor.clone();
        let draft = self.decide(&call, draft)?;
        let id = self.host.state_mut().store(&call.reference, draft);
        self.finish(call, After::Message(Op::Send, id.clone()));
        Ok(id)
    }

    /// A user changes a message: content and metadata where given.
    ///
    /// # Errors
    ///
    /// The plugin's rejection.
    pub fn edit(&mut self, actor: &str, id: &str, content: Option<&str>, metadata: Option<&Value>) -> Result<(), Rejection> {
        let message = self.known(id);
        let call = self.call(actor, &message.conversation_id);
        let mut draft = draft_of(&message, Op::Edit);
        if let Some(content) = content {
            draft.content = content.into();
        }
        if let Some(metadata) = metadata {
            draft.metadata = Some(metadata.to_string());
        }
        let draft = self.decide(&call, draft)?;
        self.host.state_mut().change(id, |message| {
            message.content = draft.content;
            message.metadata = draft.metadata;
        });
        self.finish(call, After::Message(Op::Edit, id.into()));
        Ok(())
    }

    /// A user deletes a message for all.
    ///
    /// # Errors
    ///
    /// The plugin's rejection.
    pub fn delete(&mut self, actor: &str, id: &str) -> Result<(), Rejection> {
        let message = self.known(id);
        let call = self.call(actor, &message.conversation_id);
        self.decide(&call, draft_of(&message, Op::Delete))?;
        let now_ms = self.now_ms();
        self.host.state_mut().change(id, |message| {
            message.deleted_at_ms = Some(now_ms);
            message.content = String::new();
            message.metadata = None;
        });
        self.finish(call, After::Message(Op::Delete, id.into()));
        Ok(())
    }

    /// A user creates a conversation; they are added if missing. Returns its id.
    ///
    /// # Errors
    ///
    /// The plugin's rejection.
    pub fn create_conversation(&mut self, actor: &str, mut draft: ConversationDraft) -> Result<String, Rejection> {
        if !draft.participants.iter().any(|user| user == actor) {
            draft.participants.insert(0, actor.into());
        }
        let mut call = self.host.state_mut().new_call(actor, None);
        if self.has(Hook::BeforeConversation) {
            let asked = draft.clone();
            draft = self.attempt(&call, |plugin, call| match plugin.before_conversation(call, asked.clone()) {
                ConversationDecision::Continue => Ok(asked),
                ConversationDecision::Replace(other) => Ok(ConversationDraft {
                    name: other.name,
                    avatar: other.avatar,
                    state: other.state,
                    ..asked
                }),
                ConversationDecision::Reject(rejection) => Err(rejection),
            })?;
        }
        let users: Vec<&str> = draft.participants.iter().map(String::as_str).collect();
        let id = self.host.state_mut().create(&draft.kind, draft.context.as_deref(), &users);
        call.conversation_id = Some(id.clone());
        self.finish(call, After::Conversation(ConversationOp::Create, id.clone()));
        Ok(id)
    }

    /// Somebody is added to a group.
    ///
    /// # Errors
    ///
    /// The plugin's rejection.
    pub fn join(&mut self, actor: &str, conversation_id: &str, user_id: &str) -> Result<(), Rejection> {
        let change = ParticipantChange {
            op: ParticipantOp::Join,
            user_id: user_id.into(),
            role: "member".into(),
        };
        self.participant(actor, conversation_id, change)
    }

    /// Somebody leaves a group or is removed.
    ///
    /// # Errors
    ///
    /// The plugin's rejection.
    pub fn leave(&mut self, actor: &str, conversation_id: &str, user_id: &str) -> Result<(), Rejection> {
        let change = ParticipantChange {
            op: ParticipantOp::Leave,
            user_id: user_id.into(),
            role: "member".into(),
        };
        self.participant(actor, conversation_id, change)
    }

    fn participant(&mut self, actor: &str, conversation_id: &str, change: ParticipantChange) -> Result<(), Rejection> {
        let call = self.call(actor, conversation_id);
        if self.has(Hook::BeforeParticipant) {
            let asked = change.clone();
            self.attempt(&call, |plugin, call| plugin.before_participant(call, asked).into_result())?;
        }
        let mut state = self.host.state_mut();
        if change.op == ParticipantOp::Join {
            state.join(conversation_id, &change.user_id, &change.role);
        } else {
            state
                .participants
                .entry(conversation_id.into())
                .or_default()
                .retain(|p| p.user_id != change.user_id);
        }
        drop(state);
        self.finish(call, After::Participant(change));
        Ok(())
    }

    /// A user sets a reaction, or takes it away (none).
    ///
    /// # Errors
    ///
    /// The plugin's rejection.
    pub fn react(&mut self, actor: &str, message_id: &str, emoji: Option<&str>) -> Result<(), Rejection> {
        let call = self.call(actor, &self.known(message_id).conversation_id);
        let reaction = Reaction {
            message_id: message_id.into(),
            user_id: actor.into(),
            emoji: emoji.map(Into::into),
        };
        if self.has(Hook::BeforeReaction) {
            let asked = reaction.clone();
            self.attempt(&call, |plugin, call| plugin.before_reaction(call, asked).into_result())?;
        }
        self.host.state_mut().react(message_id, actor, emoji);
        self.finish(call, After::Reaction(reaction));
        Ok(())
    }

    /// A user has read a conversation up to a seq.
    ///
    /// # Errors
    ///
    /// None today; a before-hook may come.
    pub fn read(&mut self, actor: &str, conversation_id: &str, seq: u32) -> Result<(), Rejection> {
        let call = self.call(actor, conversation_id);
        let receipt = Receipt {
            user_id: actor.into(),
            read_seq: seq,
            delivered_seq: seq,
        };
        self.host.state_mut().mark(conversation_id, actor, seq);
        self.finish(call, After::Receipt(receipt));
        Ok(())
    }

    /// A user's connection opens.
    ///
    /// # Errors
    ///
    /// What the hook says.
    pub fn connect(&mut self, actor: &str, session: &str) -> Result<(), Failure> {
        self.set_online(actor, true);
        let mut call = self.host.state_mut().new_call(actor, None);
        call.session = session.into();
        if !self.has(Hook::AfterConnection) {
            return Ok(());
        }
        let connection = Connection {
            id: session.into(),
            user_id: actor.into(),
            transport: Transport::Ws,
            open: true,
            reason: String::new(),
        };
        let given = call.clone();
        self.run(call, |plugin| plugin.after_connection(&given, connection))
    }

    /// A user's custom request in a conversation. Returns the answer.
    ///
    /// # Errors
    ///
    /// The plugin's rejection; nothing has been written then.
    ///
    /// # Panics
    ///
    /// If the answer is no JSON.
    pub fn command(&mut self, actor: &str, conversation_id: &str, name: &str, payload: &impl Serialize) -> Result<Value, Rejection> {
        let payload = json::text(payload).map_err(Rejection::from)?;
        let call = self.call(actor, conversation_id);
        let answer = self.attempt(&call, |plugin, call| plugin.command(call, name, &payload))?;
        self.tell();
        Ok(serde_json::from_str(&answer).expect("a command answers with JSON"))
    }

    /// A request for one of the plugin's routes.
    pub fn http(&mut self, actor: &str, request: HttpRequest) -> HttpResponse {
        let call = self.host.state_mut().new_call(actor, None);
        let given = call.clone();
        let response: Result<_, Rejection> = self.run(call, |plugin| Ok(plugin.http(&given, request)));
        self.tell();
        response.expect("a response is never a rejection")
    }

    /// Runs code as if in a handler of the plugin, in this conversation: to prepare what it keeps.
    ///
    /// # Errors
    ///
    /// What the code says; nothing has been written then.
    pub fn within<T, E>(&mut self, conversation_id: &str, code: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let call = self.call("", conversation_id);
        let result = self.run(call, |_| code());
        self.tell();
        result
    }

    /// Sets the clock on by so many seconds and runs what is due on the way, in order of time.
    ///
    /// # Errors
    ///
    /// What the timer hook says; that timer stays, and the clock stands where it was due.
    pub fn advance_s(&mut self, seconds: u64) -> Result<(), Failure> {
        let end_ms = self.now_ms() + seconds * 1000;
        while let Some(((conversation_id, name), (due_ms, payload))) = self.next_due(end_ms) {
            let now_ms = self.now_ms().max(due_ms);
            self.set_now_ms(now_ms);
            self.fire(&conversation_id, &name, due_ms, &payload)?;
        }
        self.set_now_ms(end_ms);
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "a row of the timers' map")]
    fn next_due(&self, end_ms: u64) -> Option<((String, String), (u64, String))> {
        let state = self.host.state();
        let due = state.timers.iter().filter(|(_, (due_ms, _))| *due_ms <= end_ms);
        due.min_by_key(|(_, (due_ms, _))| *due_ms)
            .map(|(key, value)| (key.clone(), value.clone()))
    }

    fn fire(&mut self, conversation_id: &str, name: &str, due_ms: u64, payload: &str) -> Result<(), Failure> {
        let key = (conversation_id.to_string(), name.to_string());
        let conversation = (!conversation_id.is_empty()).then_some(conversation_id);
        let call = self.host.state_mut().new_call("", conversation);
        let given = call.clone();
        let host = self.host.clone();
        self.run(call, |plugin| {
            // First, so that the handler can set it again under the same name.
            host.state_mut().timers.remove(&key);
            plugin.timer(&given, name, due_ms, payload)
        })?;
        self.tell();
        Ok(())
    }

    /// Somebody connects to a namespace of the plugin, with this object.
    ///
    /// # Errors
    ///
    /// The plugin's refusal.
    pub fn socket(&mut self, actor: &str, session: &str, auth: &Value) -> Result<(), ConnectRefused> {
        let call = self.socket_call(actor, session);
        let handshake = Handshake {
            namespace: "/".into(),
            auth: auth.to_string(),
            ..Handshake::default()
        };
        let given = call.clone();
        self.run(call, |plugin| plugin.connect(&given, handshake))
    }

    /// A connection sends an event with these arguments (a JSON array) and waits for an ack.
    ///
    /// # Errors
    ///
    /// The plugin's rejection.
    pub fn socket_event(&mut self, actor: &str, session: &str, name: &str, args: &Value) -> Result<Option<Args>, Rejection> {
        let args = Args {
            json: args.to_string(),
            binary: Vec::new(),
        };
        self.socket_event_as(
            actor,
            session,
            SocketEvent {
                namespace: "/".into(),
                name: name.into(),
                args,
                wants_ack: true,
                answer_to: None,
            },
        )
    }

    /// The same with an event of the test's own making.
    ///
    /// # Errors
    ///
    /// As [`Harness::socket_event`].
    pub fn socket_event_as(&mut self, actor: &str, session: &str, event: SocketEvent) -> Result<Option<Args>, Rejection> {
        let call = self.socket_call(actor, session);
        self.attempt(&call, |plugin, call| plugin.event(call, event))
    }

    /// A connection goes.
    pub fn socket_gone(&mut self, actor: &str, session: &str) {
        let call = self.socket_call(actor, session);
        let given = call.clone();
        let Ok(()) = self.run(call, |plugin| {
            plugin.disconnect(&given, "/", "transport close");
            Ok::<(), std::convert::Infallible>(())
        });
    }

    fn socket_call(&self, actor: &str, session: &str) -> Call {
        Call {
            session: session.into(),
            transport: Transport::SocketIo,
            conversation_id: None,
            ..self.call(actor, "")
        }
    }

    /// What the plugin makes of an event of the core.
    pub fn map(&mut self, event: CoreEvent) -> Vec<Emit> {
        let conversation = event.conversation.as_ref().map(|conversation| conversation.id.clone());
        let call = Call {
            conversation_id: conversation,
            ..self.call(event.actor.as_deref().unwrap_or_default(), "")
        };
        let given = call.clone();
        let Ok(emits) = self.run(call, |plugin| Ok::<_, std::convert::Infallible>(plugin.map(&given, "/", event)));
        emits
    }

    /// What the plugin makes of a message that was just created.
    pub fn map_message(&mut self, id: &str) -> Vec<Emit> {
        let message = self.known(id);
        let conversation = self.conversation(&message.conversation_id);
        self.map(CoreEvent {
            kind: "message.created".into(),
            seq: message.seq,
            at_ms: message.created_at_ms,
            actor: Some(message.sender_id.clone()),
            recipients: self.members(&message.conversation_id),
            conversation,
            message: Some(message),
            ..CoreEvent::default()
        })
    }

    /// Tells the plugin's after-hook of a message once more, as after a crash.
    ///
    /// # Errors
    ///
    /// What the hook says.
    pub fn redeliver(&mut self, op: Op, id: &str) -> Result<(), Failure> {
        let mut message = self.known(id);
        message.op = op;
        let mut call = self.call(&message.sender_id, &message.conversation_id);
        call.reference.clone_from(&message.reference);
        let given = call.clone();
        self.run(call, |plugin| plugin.after_message(&given, message))
    }

    // ---- the machinery ----

    fn has(&self, hook: Hook) -> bool {
        P::HOOKS.contains(&hook)
    }

    fn known(&self, id: &str) -> Message {
        self.message(id).expect("the test names a message that is there")
    }

    fn decide(&mut self, call: &Call, draft: Draft) -> Result<Draft, Rejection> {
        if !self.has(Hook::BeforeMessage) {
            return Ok(draft);
        }
        self.attempt(call, |plugin, call| match plugin.before_message(call, draft.clone()) {
            Decision::Continue => Ok(draft),
            Decision::Replace(other) => Ok(Draft {
                kind: other.kind,
                content: other.content,
                metadata: other.metadata,
                reply_to: other.reply_to,
                forwarded_from: other.forwarded_from,
                ..draft
            }),
            Decision::Reject(rejection) => Err(rejection),
        })
    }

    fn attempt<T>(&mut self, call: &Call, handler: impl FnOnce(&mut P, &Call) -> Result<T, Rejection>) -> Result<T, Rejection> {
        let given = call.clone();
        self.run(call.clone(), |plugin| handler(plugin, &given))
    }

    /// Runs one handler as one transaction.
    fn run<T, E>(&mut self, call: Call, handler: impl FnOnce(&mut P) -> Result<T, E>) -> Result<T, E> {
        let before = self.host.state().clone();
        self.host.state_mut().call = call;
        let installed = native::install(Rc::new(self.host.clone()));
        let result = handler(&mut self.plugin);
        drop(installed);
        let mut state = self.host.state_mut();
        if result.is_ok() {
            state.commit();
            state.call = Call::default();
        } else {
            undo(&mut state, before);
        }
        result
    }

    /// The command's own event, then everything that follows from it.
    fn finish(&mut self, call: Call, event: After) {
        self.host.state_mut().pending.push_front((call, event));
        self.tell();
    }

    fn tell(&mut self) {
        for _ in 0..AFTER_HOOKS_MAX {
            let Some((call, event)) = self.host.state_mut().pending.pop_front() else {
                return;
            };
            if let Err(failure) = self.after(call, event) {
                panic!("an after-hook failed: {}", failure.0);
            }
        }
        panic!("{AFTER_HOOKS_MAX} after-hooks and no end: the plugin answers itself");
    }

    fn after(&mut self, mut call: Call, event: After) -> Result<(), Failure> {
        call.now_ms = self.now_ms();
        let hook = match &event {
            After::Message(..) => Hook::AfterMessage,
            After::Conversation(..) => Hook::AfterConversation,
            After::Participant(_) => Hook::AfterParticipant,
            After::Reaction(_) => Hook::AfterReaction,
            After::Receipt(_) => Hook::AfterReceipt,
        };
        if !self.has(hook) {
            return Ok(());
        }
        let given = call.clone();
        match event {
            After::Message(op, id) => {
                let mut message = self.known(&id);
                message.op = op;
                self.run(call, |plugin| plugin.after_message(&given, message))
            }
            After::Conversation(op, id) => {
                let conversation = self.conversation(&id).expect("an event names a conversation that is there");
                self.run(call, |plugin| plugin.after_conversation(&given, op, conversation))
            }
            After::Participant(change) => self.run(call, |plugin| plugin.after_participant(&given, change)),
            After::Reaction(reaction) => self.run(call, |plugin| plugin.after_reaction(&given, reaction)),
            After::Receipt(receipt) => self.run(call, |plugin| plugin.after_receipt(&given, receipt)),
        }
    }
}

/// Everything is as it was, but what is told to operators was told.
fn undo(state: &mut super::fake::State, before: super::fake::State) {
    let (counters, observations) = (std::mem::take(&mut state.counters), std::mem::take(&mut state.observations));
    let (logs, ids) = (std::mem::take(&mut state.logs), state.ids);
    *state = super::fake::State {
        counters,
        observations,
        logs,
        ids,
        ..before
    };
}

fn draft_of(message: &Message, op: Op) -> Draft {
    Draft {
        op,
        target: Some(message.id.clone()),
        conversation_id: message.conversation_id.clone(),
        sender_id: message.sender_id.clone(),
        kind: message.kind.clone(),
        content: message.content.clone(),
        metadata: message.metadata.clone(),
        reply_to: message.reply_to.clone(),
        forwarded_from: message.forwarded_from.clone(),
        client_message_id: message.client_message_id.clone(),
    }
}

impl Verdict {
    fn into_result(self) -> Result<(), Rejection> {
        match self {
            Verdict::Continue => Ok(()),
            Verdict::Reject(rejection) => Err(rejection),
        }
    }
}
