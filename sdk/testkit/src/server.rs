//! The server in memory.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use haggle_engine::{
    Actor, Command, Engine, EngineOptions, ManualClock, NewConversation, NewMessage, Outcome, ProfilePatch, Refusal, Request, To, Transport,
    ports::{Hooks, HttpRequest, HttpResponse, Op},
    route::{Found, find},
    sockets::{Handshake, NamespaceAnswer, NamespaceCall, SocketEvent},
};
use haggle_model::{ConversationId, Limits, MessageId, Millis, Seq, UserId};
use haggle_sdk::{
    Plugin,
    native::Handlers,
    sockets::{Args, Emit},
    types::{self, Draft, Message},
};
use haggle_store::{FailedDelivery, MemoryStore, Page, SharedStore};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    asking::Traces,
    connection::{Connection, Live},
    convert,
    native::Builder,
    sockets::{self, Recorder, TestSocket},
};

/// Where the clock starts: 2026-01-05 12:00 UTC, a Monday.
pub const START_MS: u64 = haggle_sdk::test::START_MS;
/// How long a step waits for what it led to. A failing after-hook is given up after about 9 s.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Messages, events or notifications that one look returns.
const LOOK_MAX: usize = 10_000;

/// A step was refused: nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The plugin's own code, or where no plugin said no the server's: `not_found`, `overloaded`, …
    pub code: String,
    /// For people.
    pub message: String,
    /// The plugin that said no, or failed.
    pub plugin: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refused {}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        let plugin = refusal.plugin.as_ref().map(|plugin| plugin.0.clone());
        let code = refusal
            .plugin
            .as_ref()
            .map_or_else(|| refusal.code.as_str().to_owned(), |plugin| plugin.1.clone());
        Refused {
            code,
            message: refusal.message.to_string(),
            plugin,
        }
    }
}

/// A message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// The conversation it stands in.
    pub conversation_id: String,
    /// It was sent before under this client id.
    pub duplicate: bool,
}

/// A connection in a namespace that a plugin owns.
pub struct Spot {
    /// Its id, as the plugin sees it in `call.session`.
    pub session: String,
    user: String,
    plugin: String,
    namespace: String,
    socket: Arc<TestSocket>,
}

impl Spot {
    /// It has joined the conversation.
    pub fn has_joined(&self, conversation_id: &str) -> bool {
        self.socket.joined.lock().contains(&conversation(conversation_id))
    }

    /// It is in the room.
    pub fn is_in_room(&self, room: &str) -> bool {
        self.socket.rooms.lock().contains(room)
    }
}

/// What a command that was begun will be answered.
type Answer = tokio::sync::oneshot::Receiver<Result<Outcome, Refused>>;

/// A Haggle in memory. Every step waits until everything that it led to is done: after-hooks, messages for other
/// conversations, notifications, timers that are due.
pub struct TestServer {
    runtime: Option<Runtime>,
    engine: Engine,
    clock: Arc<ManualClock>,
    store: SharedStore,
    hooks: Arc<dyn Hooks>,
    traces: Option<Arc<Traces>>,
    connections: AtomicU32,
    recorder: Arc<Recorder>,
    /// What must outlive the server.
    #[cfg(feature = "wasm")]
    pub(crate) folder: Option<tempfile::TempDir>,
}

impl TestServer {
    /// A server with one plugin, compiled natively. `manifest` is the text of its `plugin.toml`.
    ///
    /// # Panics
    /// Where the manifest cannot be read, or does not grant what the plugin's macro names.
    pub fn native<P: Plugin + Handlers>(manifest: &str) -> TestServer {
        Builder::default().plugin::<P>(manifest).start()
    }

    pub(crate) fn start(hooks: Arc<dyn Hooks>, traces: Option<Arc<Traces>>) -> TestServer {
        TestServer::start_on(runtime(), hooks, traces)
    }

    pub(crate) fn start_on(runtime: Runtime, hooks: Arc<dyn Hooks>, traces: Option<Arc<Traces>>) -> TestServer {
        let clock = Arc::new(ManualClock::new(START_MS as Millis));
        let store: SharedStore = Arc::new(MemoryStore::new(1));
        let engine = runtime.block_on(engine(&store, &hooks, &clock));
        let recorder = Arc::new(Recorder::default());
        engine.hub().set_sockets(recorder.clone());
        TestServer {
            runtime: Some(runtime),
            engine,
            clock,
            store,
            hooks,
            traces,
            connections: AtomicU32::new(1),
            recorder,
            #[cfg(feature = "wasm")]
            folder: None,
        }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the server is dropped")
    }

    /// Runs a command and everything that follows from it.
    fn run(&self, user: &str, client_id: Option<&str>, command: Command) -> Result<Outcome, Refused> {
        self.run_as(Actor::user(user, Transport::Rest), client_id, command)
    }

    fn run_as(&self, actor: Actor, client_id: Option<&str>, command: Command) -> Result<Outcome, Refused> {
        let request = Request::new(actor, command).with_client_id(client_id);
        let outcome = self.wait(self.engine.execute(request));
        self.settle();
        Ok(outcome?)
    }

    fn must(&self, actor: Actor, command: Command) -> Outcome {
        let outcome = self.wait(self.engine.execute(Request::new(actor, command)));
        self.settle();
        outcome.unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    // ---- users and conversations ---------------------------------------------------------------------------------

    /// Writes a user's profile: `attributes` is what plugins read in `users::get`, such as service packages.
    pub fn user(&self, id: &str, name: &str, attributes: &impl Serialize) {
        let attributes = serde_json::to_string(attributes).expect("attributes have a JSON form");
        let patch = ProfilePatch {
            name: Some(name.into()),
            attributes: Some(attributes),
            ..ProfilePatch::default()
        };
        self.must(Actor::server(), Command::UpdateProfile { user: id.into(), patch });
    }

    /// Sets the roles that a user's profile shows. Those of a request come from its token ([`TestServer::send_with_roles`]).
    pub fn profile_roles(&self, id: &str, roles: &[&str]) {
        let patch = ProfilePatch {
            roles: Some(roles.iter().map(|role| (*role).to_owned()).collect()),
            ..ProfilePatch::default()
        };
        self.must(Actor::server(), Command::UpdateProfile { user: id.into(), patch });
    }

    /// Sets a user's preferences, such as which notifications they want.
    pub fn preferences(&self, id: &str, preferences: &impl Serialize) {
        let preferences = serde_json::to_string(preferences).expect("preferences have a JSON form");
        let patch = ProfilePatch {
            preferences: Some(preferences),
            ..ProfilePatch::default()
        };
        self.must(Actor::server(), Command::UpdateProfile { user: id.into(), patch });
    }

    /// The direct conversation of two users, made where it is not there. Returns its id.
    pub fn direct(&self, a: &str, b: &str) -> String {
        let new = NewConversation::Direct { with: b.into() };
        self.must(Actor::user(a, Transport::Rest), Command::CreateConversation(new))
            .conversation
            .to_string()
    }

    /// A new group. Returns its id.
    pub fn group(&self, admin: &str, others: &[&str]) -> String {
        let participants = others.iter().map(|user| UserId::from(*user)).collect();
        let new = NewConversation::Group {
            participants,
            name: Some("group".into()),
            avatar: None,
        };
        self.must(Actor::user(admin, Transport::Rest), Command::CreateConversation(new))
            .conversation
            .to_string()
    }

    /// The conversation of a context, made where it is not there. Returns its id.
    pub fn context(&self, owner: &str, context_type: &str, context_id: &str, participants: &[&str]) -> String {
        let new = NewConversation::Context {
            owner: owner.into(),
            context_type: context_type.into(),
            context_id: context_id.into(),
            participants: participants.iter().map(|user| UserId::from(*user)).collect(),
            name: None,
            state: None,
        };
        let service = Actor {
            roles: Arc::from(["service".to_owned()]),
            ..Actor::user("service", Transport::Rest)
        };
        self.must(service, Command::CreateConversation(new)).conversation.to_string()
    }

    /// A connection of a user, online as long as it lives. It watches nothing until told so.
    pub fn connect(&self, user: &str) -> Connection {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection::open(&self.engine, user, number);
        self.settle();
        connection
    }

    // ---- messages and commands -----------------------------------------------------------------------------------

    /// A user sends a message; a `client_message_id` in the draft makes a retry of it known. Returns the message's id.
    ///
    /// # Errors
    /// What the plugin, or the server, has against it.
    pub fn send(&self, user: &str, draft: Draft) -> Result<String, Refused> {
        self.send_with_roles(user, &[], draft)
    }

    /// The same by a user whose token has these roles.
    ///
    /// # Errors
    /// What the plugin, or the server, has against it.
    pub fn send_with_roles(&self, user: &str, roles: &[&str], draft: Draft) -> Result<String, Refused> {
        let client_id = draft.client_message_id.clone();
        let actor = Actor {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Actor::user(user, Transport::Rest)
        };
        let sent = self.run_as(actor, client_id.as_deref(), send(draft)?)?;
        Ok(sent.conversation.message(sent.seq).to_string())
    }

    /// Several users send at the same instant; the answers stand in the order of the arguments.
    pub fn send_at_once(&self, drafts: Vec<(&str, Draft)>) -> Vec<Result<Sent, Refused>> {
        let sent = drafts.into_iter().map(|(user, draft)| {
            let client_id = draft.client_message_id.clone();
            (Actor::user(user, Transport::Rest), client_id, send(draft))
        });
        let sent: Vec<_> = sent.map(|(actor, client_id, command)| self.begin(actor, client_id, command)).collect();
        let answers = sent.into_iter().map(|answer| {
            let outcome = self.wait(answer).expect("every command is answered")?;
            let id = outcome.conversation.message(outcome.seq).to_string();
            Ok(Sent {
                id,
                conversation_id: outcome.conversation.to_string(),
                duplicate: outcome.duplicate,
            })
        });
        let answers = answers.collect();
        self.settle();
        answers
    }

    /// Several users call commands at the same instant: (user, conversation, name, payload). The answers stand in the order of
    /// the arguments.
    pub fn commands_at_once(&self, calls: Vec<(&str, &str, &str, Value)>) -> Vec<Result<Value, Refused>> {
        let begun = self.begin_calls(calls);
        let answers = self.end_calls(begun);
        self.settle();
        answers
    }

    /// The same, `lag` of real time after the clock has moved forward: timers that fall due then fire beside the calls, and which
    /// comes first is left to the machine.
    pub fn commands_as_time_passes(&self, by: Duration, lag: Duration, calls: Vec<(&str, &str, &str, Value)>) -> Vec<Result<Value, Refused>> {
        let (clock, engine) = (self.clock.clone(), self.engine.clone());
        let passing = std::thread::spawn({
            let runtime = self.runtime().handle().clone();
            move || {
                clock.advance(by.as_millis() as Millis);
                runtime.block_on(engine.settle(SETTLE_MAX))
            }
        });
        std::thread::sleep(lag);
        let begun = self.begin_calls(calls);
        let answers = self.end_calls(begun);
        assert!(passing.join().expect("it does not panic"), "the plugins never come to rest");
        self.settle();
        answers
    }

    fn begin_calls(&self, calls: Vec<(&str, &str, &str, Value)>) -> Vec<Answer> {
        let begun = calls.into_iter().map(|(user, conversation_id, name, payload)| {
            let call = Command::Call {
                name: name.into(),
                conversation: Some(conversation(conversation_id)),
                payload: payload.to_string(),
            };
            self.begin(Actor::user(user, Transport::Rest), None, Ok(call))
        });
        begun.collect()
    }

    fn end_calls(&self, begun: Vec<Answer>) -> Vec<Result<Value, Refused>> {
        let answers = begun.into_iter().map(|answer| {
            let answer = self.wait(answer).expect("every command is answered")?.answer;
            Ok(serde_json::from_str(&answer.unwrap_or_else(|| "null".into())).expect("a command answers JSON"))
        });
        answers.collect()
    }

    fn begin(&self, actor: Actor, client_id: Option<String>, command: Result<Command, Refused>) -> Answer {
        let (done, answer) = tokio::sync::oneshot::channel();
        // What does not wait runs in this thread, as in a transport's.
        let _in_runtime = self.runtime().enter();
        match command {
            Ok(command) => {
                let request = Request::new(actor, command).with_client_id(client_id);
                self.engine
                    .submit(request, Box::new(move |outcome| drop(done.send(outcome.map_err(Refused::from)))));
            }
            Err(refused) => drop(done.send(Err(refused))),
        }
        answer
    }

    /// A user changes content or metadata of its message.
    ///
    /// # Errors
    /// What the plugin, or the server, has against it.
    pub fn edit(&self, user: &str, id: &str, content: Option<&str>, metadata: Option<&Value>) -> Result<(), Refused> {
        let (text, metadata) = (content.map(str::to_owned), metadata.map(Value::to_string));
        self.run(
            user,
            None,
            Command::Edit {
                message: message_id(id),
                text,
                metadata,
                if_rev: None,
            },
        )
        .map(drop)
    }

    /// A user deletes a message for all.
    ///
    /// # Errors
    /// What the plugin, or the server, has against it.
    pub fn delete(&self, user: &str, id: &str) -> Result<(), Refused> {
        self.run(
            user,
            None,
            Command::Delete {
                message: message_id(id),
                if_rev: None,
            },
        )
        .map(drop)
    }

    /// A user sets or takes away a reaction.
    ///
    /// # Errors
    /// What the plugin, or the server, has against it.
    pub fn react(&self, user: &str, id: &str, emoji: Option<&str>) -> Result<(), Refused> {
        self.run(
            user,
            None,
            Command::React {
                message: message_id(id),
                emoji: emoji.map(str::to_owned),
            },
        )
        .map(drop)
    }

    /// A user reads a conversation up to a seq.
    ///
    /// # Errors
    /// Who is not in it reads nothing.
    pub fn read(&self, user: &str, conversation_id: &str, seq: Seq) -> Result<(), Refused> {
        let (done, answer) = tokio::sync::oneshot::channel();
        let reply = Box::new(move |outcome| drop(done.send(outcome)));
        self.engine.mark(
            &Actor::user(user, Transport::Rest),
            conversation(conversation_id),
            None,
            Some(seq),
            Some(reply),
        );
        self.wait(answer).expect("every mark with a reply is answered")?;
        self.settle();
        Ok(())
    }

    /// A user calls a command of a plugin. Returns its answer.
    ///
    /// # Errors
    /// What the plugin, or the server, has against it.
    pub fn command(&self, user: &str, conversation_id: &str, name: &str, payload: &impl Serialize) -> Result<Value, Refused> {
        let payload = serde_json::to_string(payload).expect("a payload has a JSON form");
        let call = Command::Call {
            name: name.into(),
            conversation: Some(conversation(conversation_id)),
            payload,
        };
        let answer = self.run(user, None, call)?.answer.unwrap_or_else(|| "null".into());
        Ok(serde_json::from_str(&answer).unwrap_or_else(|error| panic!("the answer of {name} is not JSON: {error}: {answer}")))
    }

    /// A request for a route of a plugin, by a user. Where it brings no parameters, they are those of the manifest's route that
    /// fits its path; who may use the route is not looked at.
    ///
    /// # Errors
    /// The plugin failed.
    pub fn http(&self, user: &str, plugin: &str, request: types::HttpRequest) -> Result<types::HttpResponse, Refused> {
        let types::HttpRequest {
            method,
            path,
            mut params,
            query,
            headers,
            body,
        } = request;
        let routes = self.hooks.plan().routes();
        let own = routes.iter().filter(|route| route.plugin.as_str() == plugin);
        if let Found::Route(_, found) = find(own, &method, &path)
            && params.is_empty()
        {
            params = found;
        }
        let request = HttpRequest {
            method,
            path,
            params,
            query,
            headers,
            body,
        };
        let answer = self.wait(
            self.engine
                .http(Actor::user(user, Transport::Rest), String::new(), &plugin.into(), request),
        );
        self.settle();
        let HttpResponse { status, headers, body } = answer?;
        Ok(types::HttpResponse { status, headers, body })
    }

    // ---- namespaces of Socket.IO ---------------------------------------------------------------------------------

    /// Somebody connects to a namespace that the plugin owns, with this object; an empty user has no token. Each connection
    /// is a [`Spot`] of its own.
    ///
    /// # Errors
    /// The plugin's refusal, or its failure.
    pub fn socket(&self, user: &str, plugin: &str, namespace: &str, auth: &Value) -> Result<Spot, Refused> {
        let spot = Spot {
            session: format!("socket-{}", self.connections.fetch_add(1, Ordering::Relaxed)),
            user: user.into(),
            plugin: plugin.into(),
            namespace: namespace.into(),
            socket: Arc::default(),
        };
        let handshake = Handshake {
            namespace: namespace.into(),
            auth: auth.to_string(),
            ..Handshake::default()
        };
        match self.ask(&spot, NamespaceCall::Connect(handshake))? {
            NamespaceAnswer::Refused { message, .. } => Err(Refused {
                code: "connect_error".into(),
                message,
                plugin: Some(plugin.into()),
            }),
            _ => Ok(spot),
        }
    }

    /// A connection sends an event with these arguments (a JSON array) and waits for its ack.
    ///
    /// # Errors
    /// The plugin's rejection, or its failure.
    pub fn socket_event(&self, spot: &Spot, name: &str, args: &Value) -> Result<Option<Args>, Refused> {
        let event = SocketEvent {
            namespace: spot.namespace.clone(),
            name: name.into(),
            args: haggle_engine::sockets::Args {
                json: args.to_string(),
                binary: Vec::new(),
            },
            wants_ack: true,
            answer_to: None,
        };
        match self.ask(spot, NamespaceCall::Event(event))? {
            NamespaceAnswer::Ack(args) => Ok(args.map(sockets::args_in)),
            NamespaceAnswer::Rejected { code, message } => Err(Refused {
                code,
                message,
                plugin: Some(spot.plugin.clone()),
            }),
            other => panic!("an event was answered by {other:?}"),
        }
    }

    fn ask(&self, spot: &Spot, call: NamespaceCall) -> Result<NamespaceAnswer, Refused> {
        let actor = Actor {
            session: spot.session.as_str().into(),
            dialect: spot.plugin.as_str().into(),
            ..Actor::user(spot.user.as_str(), Transport::SocketIo)
        };
        let plugin = spot.plugin.as_str().into();
        let socket: Arc<dyn haggle_engine::sockets::Socket> = spot.socket.clone();
        let answer = self.wait(self.engine.namespace(actor, &plugin, Some(socket), call));
        self.settle();
        Ok(answer?)
    }

    /// What plugins emitted to connections in their namespaces since the last look.
    pub fn socket_emits(&self) -> Vec<Emit> {
        std::mem::take(&mut *self.recorder.emits.lock())
    }

    /// What the plugin makes of everything that was published since the last look, event by event.
    ///
    /// # Panics
    /// Where it fails.
    pub fn mapped(&self, plugin: &str, namespace: &str) -> Vec<Emit> {
        let published = std::mem::take(&mut *self.recorder.published.lock());
        let map = |(push, users)| {
            let emits = self.wait(self.engine.map(&plugin.into(), namespace, &push, users));
            emits.unwrap_or_else(|refusal| panic!("not mapped: {refusal}"))
        };
        published.into_iter().flat_map(map).map(sockets::emit_back).collect()
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    /// What the clock shows, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        convert::millis(self.engine.now())
    }

    /// Moves the clock forward; timers that fall due fire.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by.as_millis() as Millis);
        self.settle();
    }

    /// Waits until nothing is under way any more. Every step ends with it.
    ///
    /// # Panics
    /// After half a minute: a plugin never comes to rest.
    pub fn settle(&self) {
        assert!(self.wait(self.engine.settle(SETTLE_MAX)), "the plugins never come to rest");
    }

    /// Stops the server and starts it again on the same store. Connections are gone.
    pub fn restart(&mut self) {
        self.wait(self.engine.shutdown());
        self.engine = self.wait(engine(&self.store, &self.hooks, &self.clock));
        self.engine.hub().set_sockets(self.recorder.clone());
        self.settle();
    }

    // ---- what became of it ---------------------------------------------------------------------------------------

    /// A message in its present state.
    pub fn message(&self, id: &str) -> Option<Message> {
        let row = self.wait(self.store.message(message_id(id))).expect("the store in memory answers");
        row.map(|row| convert::message(row, Op::Send))
    }

    /// A message's metadata; `Null` where it has none.
    pub fn metadata(&self, id: &str) -> Value {
        let metadata = self.message(id).and_then(|message| message.metadata);
        metadata.map_or(Value::Null, |metadata| serde_json::from_str(&metadata).expect("metadata is JSON"))
    }

    /// All messages of a conversation, oldest first.
    pub fn messages(&self, conversation_id: &str) -> Vec<Message> {
        let rows = self
            .wait(self.store.messages(conversation(conversation_id), Page::After(0), LOOK_MAX, None))
            .expect("the store in memory answers");
        rows.into_iter().map(|row| convert::message(row, Op::Send)).collect()
    }

    /// The log of a conversation: every event, oldest first. Of plugins' events `text` is the payload.
    pub fn events(&self, conversation_id: &str) -> Vec<Live> {
        let events = self
            .wait(self.store.events(conversation(conversation_id), 0, LOOK_MAX))
            .expect("the store in memory answers");
        let live = |event: haggle_store::EventRow| Live {
            conversation_id: conversation_id.to_owned(),
            seq: event.seq,
            name: event.event.name().to_owned(),
            text: match (event.event, event.message) {
                (haggle_model::Event::Custom { payload, .. }, _) => payload,
                (_, Some(message)) => message.content.text,
                _ => String::new(),
            },
        };
        events.into_iter().map(live).collect()
    }

    /// A conversation, if it is there.
    pub fn conversation(&self, id: &str) -> Option<types::Conversation> {
        self.wait(self.store.conversation(conversation(id)))
            .expect("the store in memory answers")
            .map(convert::conversation)
    }

    /// The id of a context conversation, whether or not it is there.
    pub fn context_id(&self, owner: &str, context_type: &str, context_id: &str) -> String {
        let address = haggle_engine::context_address(owner, context_type, context_id);
        self.wait(self.engine.locate(&address)).expect("the store in memory answers").to_string()
    }

    /// A user's notifications, newest first; the second part says whether it is read.
    pub fn notifications(&self, user: &str) -> Vec<(types::Notification, bool)> {
        let rows = self
            .wait(self.store.notifications(&user.into(), None, false, LOOK_MAX))
            .expect("the store in memory answers");
        rows.into_iter().map(|row| (convert::notification(row.notification), row.read)).collect()
    }

    /// A plugin's key in a conversation. Expired ones are none.
    pub fn kv(&self, conversation_id: &str, plugin: &str, key: &str) -> Option<Vec<u8>> {
        let row = self
            .wait(self.store.kv_get(conversation(conversation_id), &plugin.into(), key))
            .expect("the store in memory answers");
        row.filter(|row| row.expires_at.is_none_or(|expires_at| expires_at > self.engine.now()))
            .map(|row| row.value)
    }

    /// When a timer of a plugin is due, if it is set.
    pub fn timer(&self, conversation_id: &str, plugin: &str, name: &str) -> Option<u64> {
        let row = self
            .wait(self.store.timer(conversation(conversation_id), &plugin.into(), name))
            .expect("the store in memory answers");
        row.map(|row| convert::millis(row.due))
    }

    /// How many messages of a conversation a user has not read.
    pub fn unread(&self, user: &str, conversation_id: &str) -> u32 {
        let row = self
            .wait(self.store.inbox_row(&user.into(), conversation(conversation_id)))
            .expect("the store in memory answers");
        row.map_or(0, |row| row.unread)
    }

    /// After-hooks, timers and outgoing items that were given up.
    pub fn failed(&self) -> Vec<FailedDelivery> {
        self.wait(self.store.failed(0, LOOK_MAX)).expect("the store in memory answers")
    }

    /// Tries one of them again.
    ///
    /// # Errors
    /// It failed again.
    pub fn replay(&self, id: u64) -> Result<(), Refused> {
        let replayed = self.wait(self.engine.replay_delivery(id));
        self.settle();
        Ok(replayed?)
    }

    /// What native plugins have counted under a name. Components count in the server's own metrics, which are not looked at here.
    ///
    /// # Panics
    /// Where the plugins run as components.
    pub fn counter(&self, name: &str) -> u64 {
        self.traces().counters.lock().get(name).copied().unwrap_or(0)
    }

    /// What native plugins have observed under a name.
    ///
    /// # Panics
    /// Where the plugins run as components.
    pub fn observations(&self, name: &str) -> Vec<f64> {
        self.traces().observations.lock().get(name).cloned().unwrap_or_default()
    }

    /// Lines that native plugins have logged, with their level.
    ///
    /// # Panics
    /// Where the plugins run as components.
    pub fn logs(&self) -> Vec<String> {
        self.traces().logs.lock().clone()
    }

    fn traces(&self) -> &Traces {
        self.traces.as_ref().expect("only plugins that run natively can be looked into like this")
    }

    /// The engine itself, for what has no function here.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.engine.shutdown());
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test can start threads")
}

async fn engine(store: &SharedStore, hooks: &Arc<dyn Hooks>, clock: &Arc<ManualClock>) -> Engine {
    let options = EngineOptions {
        store: store.clone(),
        hooks: hooks.clone(),
        limits: Limits {
            rate_per_second: 1_000_000,
            rate_burst: 1_000_000,
            ..Limits::default()
        },
        clock: clock.clone(),
        erase_after: Duration::from_secs(24 * 3600),
        reject_unknown_users: false,
        commit_interval: Duration::ZERO,
    };
    Engine::start(options).await.expect("the store in memory answers")
}

fn conversation(id: &str) -> ConversationId {
    id.parse().unwrap_or_else(|_| panic!("`{id}` is not the id of a conversation"))
}

fn message_id(id: &str) -> MessageId {
    id.parse().unwrap_or_else(|_| panic!("`{id}` is not the id of a message"))
}

fn send(draft: Draft) -> Result<Command, Refused> {
    let invalid = |error: haggle_sdk::Error| Refused {
        code: "bad_request".into(),
        message: error.to_string(),
        plugin: None,
    };
    convert::json_object("metadata", draft.metadata.as_deref()).map_err(invalid)?;
    let id = |text: Option<String>| text.map(|text| message_id(&text));
    let message = NewMessage {
        kind: draft.kind,
        text: draft.content,
        metadata: draft.metadata,
        reply_to: id(draft.reply_to),
        forwarded_from: id(draft.forwarded_from),
    };
    Ok(Command::Send {
        to: To::Conversation(conversation(&draft.conversation_id)),
        message,
    })
}
