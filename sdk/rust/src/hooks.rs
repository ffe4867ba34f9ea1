//! One trait per hook. A plugin implements those it has and names them in [`plugin!`](crate::plugin).
//!
//! `before_*` decide, in the conversation's turn, before anything is stored: quick, and nothing they write takes effect unless
//! the command does. `after_*` react to what is durable: at least once, in order per conversation; `Err` (or a panic) is tried
//! again, and what a handler wrote takes effect once.

use crate::{
    Failure, Rejection,
    sockets::{Args, ConnectRefused, CoreEvent, Emit, Handshake, SocketEvent},
    types::{
        Call, Connection, Conversation, ConversationDecision, ConversationDraft, ConversationOp, Decision, Draft, HttpRequest, HttpResponse, Message,
        ParticipantChange, Reaction, Receipt, Verdict,
    },
};

/// The named points of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the trait of the same name")]
pub enum Hook {
    BeforeMessage,
    AfterMessage,
    BeforeConversation,
    AfterConversation,
    BeforeParticipant,
    AfterParticipant,
    BeforeReaction,
    AfterReaction,
    AfterReceipt,
    AfterConnection,
    Command,
    Http,
    Timer,
    Namespace,
    Lifecycle,
}

/// Before a message is sent, edited or deleted (`draft.op`).
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Shout;
///
/// impl BeforeMessage for Shout {
///     fn before_message(&mut self, _call: &Call, mut draft: Draft) -> Decision {
///         match draft.op {
///             Op::Delete => Decision::reject("no_delete", "what was said was said"),
///             Op::Send | Op::Edit => {
///                 draft.content = draft.content.to_uppercase();
///                 Decision::Replace(draft)
///             }
///         }
///     }
/// }
/// haggle_sdk::plugin! { Shout, hooks: [before_message] }
///
/// let mut app = haggle_sdk::test::Harness::<Shout>::new();
/// let conversation = app.direct("alice", "bob");
/// let id = app.send("alice", Draft::text(&conversation, "hi")).unwrap();
/// assert_eq!(app.message(&id).unwrap().content, "HI");
/// assert_eq!(app.delete("alice", &id).unwrap_err().code, "no_delete");
/// ```
pub trait BeforeMessage {
    /// Continue, replace or reject. A panic is none of these: the policy in the manifest decides then.
    fn before_message(&mut self, call: &Call, draft: Draft) -> Decision;
}

/// After a message was sent, edited or deleted (`message.op`).
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Greeter;
///
/// impl AfterMessage for Greeter {
///     fn after_message(&mut self, _call: &Call, message: Message) -> Result<(), Failure> {
///         if message.op == Op::Send && message.content == "hello" {
///             messages::send(&Draft::text(&message.conversation_id, "and hello to you"))?;
///         }
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { Greeter, hooks: [after_message], caps: [messages] }
///
/// let mut app = haggle_sdk::test::Harness::<Greeter>::new();
/// let conversation = app.direct("alice", "bob");
/// app.send("alice", Draft::text(&conversation, "hello")).unwrap();
/// assert_eq!(app.last_message(&conversation).unwrap().content, "and hello to you");
/// ```
pub trait AfterMessage {
    /// Reacts. `Err` is tried again.
    fn after_message(&mut self, call: &Call, message: Message) -> Result<(), Failure>;
}

/// Before a conversation is created, updated, closed or reopened.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct SmallGroups;
///
/// impl BeforeConversation for SmallGroups {
///     fn before_conversation(&mut self, _call: &Call, draft: ConversationDraft) -> ConversationDecision {
///         if draft.kind == "group" && draft.participants.len() > 3 {
///             return ConversationDecision::reject("group_too_large", "at most three people");
///         }
///         ConversationDecision::Continue
///     }
/// }
/// haggle_sdk::plugin! { SmallGroups, hooks: [before_conversation] }
///
/// let mut app = haggle_sdk::test::Harness::<SmallGroups>::new();
/// let group = |n: usize| ConversationDraft {
///     kind: "group".into(),
///     participants: (0..n).map(|i| format!("user{i}")).collect(),
///     ..ConversationDraft::default()
/// };
/// assert!(app.create_conversation("user0", group(3)).is_ok());
/// assert_eq!(app.create_conversation("user0", group(4)).unwrap_err().code, "group_too_large");
/// ```
pub trait BeforeConversation {
    /// Continue, replace or reject.
    fn before_conversation(&mut self, call: &Call, draft: ConversationDraft) -> ConversationDecision;
}

/// After a conversation was created, updated, closed or reopened.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Welcome;
///
/// impl AfterConversation for Welcome {
///     fn after_conversation(&mut self, _call: &Call, op: ConversationOp, conversation: Conversation) -> Result<(), Failure> {
///         if op == ConversationOp::Create {
///             messages::send(&Draft::text(conversation.id, "welcome"))?;
///         }
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { Welcome, hooks: [after_conversation], caps: [messages] }
///
/// let mut app = haggle_sdk::test::Harness::<Welcome>::new();
/// let draft = ConversationDraft { kind: "group".into(), participants: vec!["bob".into()], ..ConversationDraft::default() };
/// let group = app.create_conversation("alice", draft).unwrap();
/// assert_eq!(app.last_message(&group).unwrap().content, "welcome");
/// ```
pub trait AfterConversation {
    /// Reacts. `Err` is tried again.
    fn after_conversation(&mut self, call: &Call, op: ConversationOp, conversation: Conversation) -> Result<(), Failure>;
}

/// Before somebody joins, leaves or gets another role.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct MembersOnly;
///
/// impl BeforeParticipant for MembersOnly {
///     fn before_participant(&mut self, _call: &Call, change: ParticipantChange) -> Verdict {
///         if change.op == ParticipantOp::Join && change.user_id.starts_with("guest") {
///             return Verdict::reject("members_only", "please register first");
///         }
///         Verdict::Continue
///     }
/// }
/// haggle_sdk::plugin! { MembersOnly, hooks: [before_participant] }
///
/// let mut app = haggle_sdk::test::Harness::<MembersOnly>::new();
/// let group = app.group(&["alice"]);
/// assert!(app.join("alice", &group, "bob").is_ok());
/// assert_eq!(app.join("alice", &group, "guest7").unwrap_err().code, "members_only");
/// ```
pub trait BeforeParticipant {
    /// Continue or reject.
    fn before_participant(&mut self, call: &Call, change: ParticipantChange) -> Verdict;
}

/// After somebody joined, left or got another role.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct CountJoins;
///
/// impl AfterParticipant for CountJoins {
///     fn after_participant(&mut self, _call: &Call, change: ParticipantChange) -> Result<(), Failure> {
///         if change.op == ParticipantOp::Join {
///             metrics::count("joins");
///         }
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { CountJoins, hooks: [after_participant], caps: [metrics] }
///
/// let mut app = haggle_sdk::test::Harness::<CountJoins>::new();
/// let group = app.group(&["alice"]);
/// app.join("alice", &group, "bob").unwrap();
/// assert_eq!(app.counter("joins"), 1);
/// ```
pub trait AfterParticipant {
    /// Reacts. `Err` is tried again.
    fn after_participant(&mut self, call: &Call, change: ParticipantChange) -> Result<(), Failure>;
}

/// Before a reaction is set or taken away.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct OnlyKind;
///
/// impl BeforeReaction for OnlyKind {
///     fn before_reaction(&mut self, _call: &Call, reaction: Reaction) -> Verdict {
///         match reaction.emoji.as_deref() {
///             Some("👎") => Verdict::reject("be_kind", "no thumbs down here"),
///             _ => Verdict::Continue,
///         }
///     }
/// }
/// haggle_sdk::plugin! { OnlyKind, hooks: [before_reaction] }
///
/// let mut app = haggle_sdk::test::Harness::<OnlyKind>::new();
/// let conversation = app.direct("alice", "bob");
/// let id = app.send("alice", Draft::text(&conversation, "hi")).unwrap();
/// assert!(app.react("bob", &id, Some("👍")).is_ok());
/// assert_eq!(app.react("bob", &id, Some("👎")).unwrap_err().code, "be_kind");
/// ```
pub trait BeforeReaction {
    /// Continue or reject.
    fn before_reaction(&mut self, call: &Call, reaction: Reaction) -> Verdict;
}

/// After a reaction was set or taken away.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Hearts;
///
/// impl AfterReaction for Hearts {
///     fn after_reaction(&mut self, _call: &Call, reaction: Reaction) -> Result<(), Failure> {
///         if reaction.emoji.as_deref() == Some("❤") {
///             metrics::count("hearts");
///         }
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { Hearts, hooks: [after_reaction], caps: [metrics] }
///
/// let mut app = haggle_sdk::test::Harness::<Hearts>::new();
/// let conversation = app.direct("alice", "bob");
/// let id = app.send("alice", Draft::text(&conversation, "hi")).unwrap();
/// app.react("bob", &id, Some("❤")).unwrap();
/// assert_eq!(app.counter("hearts"), 1);
/// ```
pub trait AfterReaction {
    /// Reacts. `Err` is tried again.
    fn after_reaction(&mut self, call: &Call, reaction: Reaction) -> Result<(), Failure>;
}

/// After a read or delivered mark moved.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct StopReminder;
///
/// impl AfterReceipt for StopReminder {
///     fn after_receipt(&mut self, _call: &Call, receipt: Receipt) -> Result<(), Failure> {
///         timers::cancel(&format!("remind:{}", receipt.user_id))?;
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { StopReminder, hooks: [after_receipt], caps: [timers] }
///
/// let mut app = haggle_sdk::test::Harness::<StopReminder>::new();
/// let conversation = app.direct("alice", "bob");
/// app.within(&conversation, || timers::set("remind:bob", 5_000, "")).unwrap();
/// app.read("bob", &conversation, 1).unwrap();
/// assert_eq!(app.timer(&conversation, "remind:bob"), None);
/// ```
pub trait AfterReceipt {
    /// Reacts. `Err` is tried again.
    fn after_receipt(&mut self, call: &Call, receipt: Receipt) -> Result<(), Failure>;
}

/// After a connection opened or closed. Best effort: connections are not in the log.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Hello;
///
/// impl AfterConnection for Hello {
///     fn after_connection(&mut self, _call: &Call, connection: Connection) -> Result<(), Failure> {
///         if connection.open {
///             events::emit_to_connection(&connection.id, "x.hello.motd", &"be nice")?;
///         }
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { Hello, hooks: [after_connection], caps: [events] }
///
/// let mut app = haggle_sdk::test::Harness::<Hello>::new();
/// app.connect("alice", "c1").unwrap();
/// assert_eq!(app.emitted()[0].name, "x.hello.motd");
/// ```
pub trait AfterConnection {
    /// Reacts.
    fn after_connection(&mut self, call: &Call, connection: Connection) -> Result<(), Failure>;
}

/// A custom request of a client, in the conversation's turn when it names one.
///
/// ```
/// use haggle_sdk::prelude::*;
/// use haggle_sdk::serde_json::{Value, json};
///
/// #[derive(Default)]
/// struct Counter;
///
/// impl Command for Counter {
///     fn command(&mut self, _call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
///         if name != "counter.add" {
///             return Err(Rejection::new("unknown_command", name));
///         }
///         let payload: Value = json::payload(payload)?;
///         let by = payload["by"].as_u64().ok_or_else(|| Rejection::new("invalid_payload", "by must be a number"))?;
///         let sum = kv::get_json::<u64>("sum")?.unwrap_or(0) + by;
///         kv::set_json("sum", &sum)?;
///         Ok(json::text(&json!({ "sum": sum }))?)
///     }
/// }
/// haggle_sdk::plugin! { Counter, hooks: [command], caps: [kv] }
///
/// let mut app = haggle_sdk::test::Harness::<Counter>::new();
/// let conversation = app.direct("alice", "bob");
/// app.command("alice", &conversation, "counter.add", &json!({"by": 2})).unwrap();
/// assert_eq!(app.command("bob", &conversation, "counter.add", &json!({"by": 3})).unwrap(), json!({"sum": 5}));
/// assert_eq!(app.command("bob", &conversation, "counter.add", &json!({})).unwrap_err().code, "invalid_payload");
/// ```
pub trait Command {
    /// Answers. Payload and answer are JSON texts; a rejection undoes what was written.
    fn command(&mut self, call: &Call, name: &str, payload: &str) -> Result<String, Rejection>;
}

/// A route under `/plugins/<id>/` or mounted by the manifest.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Status;
///
/// impl Http for Status {
///     fn http(&mut self, _call: &Call, request: HttpRequest) -> HttpResponse {
///         match request.path.as_str() {
///             "/plugins/status/ok" => HttpResponse::text(200, "ok"),
///             _ => HttpResponse::text(404, "no such page"),
///         }
///     }
/// }
/// haggle_sdk::plugin! { Status, hooks: [http] }
///
/// let mut app = haggle_sdk::test::Harness::<Status>::new();
/// let request = HttpRequest { method: "GET".into(), path: "/plugins/status/ok".into(), ..HttpRequest::default() };
/// assert_eq!(app.http("alice", request).status, 200);
/// ```
pub trait Http {
    /// Answers.
    fn http(&mut self, call: &Call, request: HttpRequest) -> HttpResponse;
}

/// A timer that was set with [`timers`](crate::timers), or one of the manifest's cron lines.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Reminder;
///
/// impl Timer for Reminder {
///     fn timer(&mut self, call: &Call, _name: &str, _due_ms: u64, payload: &str) -> Result<(), Failure> {
///         messages::send(&Draft::text(call.conversation()?, payload))?;
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { Reminder, hooks: [timer], caps: [messages, timers] }
///
/// let mut app = haggle_sdk::test::Harness::<Reminder>::new();
/// let conversation = app.direct("alice", "bob");
/// let due = app.now_ms() + 60_000;
/// app.within(&conversation, || timers::set("tea", due, "the tea is ready")).unwrap();
/// app.advance_s(60).unwrap();
/// assert_eq!(app.last_message(&conversation).unwrap().content, "the tea is ready");
/// ```
pub trait Timer {
    /// Reacts. `Err` is tried again.
    fn timer(&mut self, call: &Call, name: &str, due_ms: u64, payload: &str) -> Result<(), Failure>;
}

/// Socket.IO namespaces that the plugin owns: it decides who connects, answers every event, and names what happens in the core.
/// The manifest says which namespaces it offers, the operator which of them it gets. `call.session` is the connection,
/// `call.actor` its user, empty for one that was let in without a token.
///
/// ```
/// use haggle_sdk::prelude::*;
/// use haggle_sdk::serde_json::json;
///
/// #[derive(Default)]
/// struct Shop;
///
/// impl Namespace for Shop {
///     fn connect(&mut self, call: &Call, handshake: Handshake) -> Result<(), ConnectRefused> {
///         if handshake.auth("version") == 1 {
///             return Err(ConnectRefused::new("please update").with_data(&json!({"code": "old_client"})));
///         }
///         // It comes right after the connect's own answer.
///         let hello = Args::one(&json!({"userId": call.actor, "socketId": call.session})).expect("it is JSON");
///         let _ = events::emit_to_sockets(&Audience::connection(&call.session), "connected", &hello);
///         Ok(())
///     }
///
///     fn event(&mut self, _call: &Call, event: SocketEvent) -> Result<Option<Args>, Rejection> {
///         match event.name.as_str() {
///             "send_message" => {
///                 let payload = event.args.get(0);
///                 let to = client::To::User(json::plain(&payload["receiverId"]));
///                 let sent = client::send(client::NewMessage::text(to, json::plain(&payload["message"])))?;
///                 Ok(Some(Args::one(&json!({"success": true, "id": sent.message_id}))?))
///             }
///             other => Err(Rejection::new("unknown_event", other)),
///         }
///     }
///
///     fn map(&mut self, _call: &Call, _namespace: &str, event: CoreEvent) -> Vec<Emit> {
///         let (Some(message), "message.created") = (event.message, event.kind.as_str()) else { return Vec::new() };
///         let data = json!({"data": {"id": message.id, "message": message.content}});
///         vec![
///             Emit::new(Audience::user(&message.sender_id), "message_sent", &data),
///             Emit::new(Audience::recipients().except_user(&message.sender_id), "new_message", &data),
///         ]
///     }
/// }
/// haggle_sdk::plugin! { Shop, hooks: [namespace], caps: [client, events] }
///
/// let mut app = haggle_sdk::test::Harness::<Shop>::new();
/// app.socket("alice", "s1", &json!({})).unwrap();
/// assert_eq!(app.socket_emits()[0].name, "connected");
/// let ack = app.socket_event("alice", "s1", "send_message", &json!([{"receiverId": "bob", "message": "hi"}])).unwrap();
/// let ack = ack.expect("an ack");
/// assert_eq!(ack.get(0)["success"], true);
/// let id = ack.get(0)["id"].as_str().expect("an id").to_owned();
/// assert_eq!(app.message(&id).expect("it was sent").sender_id, "alice");
/// assert_eq!(app.socket("bob", "s2", &json!({"version": 1})).unwrap_err().message, "please update");
/// let told = app.map_message(&id);
/// assert_eq!((told[0].name.as_str(), told[1].name.as_str()), ("message_sent", "new_message"));
/// ```
pub trait Namespace {
    /// May refuse. What is emitted to the new connection follows the answer.
    ///
    /// # Errors
    ///
    /// What the client's `connect_error` holds.
    #[allow(unused_variables, reason = "names for the docs")]
    fn connect(&mut self, call: &Call, handshake: Handshake) -> Result<(), ConnectRefused> {
        Ok(())
    }

    /// Answers an event. Events of one connection come in order, one at a time. Without arguments an ack that the client waits
    /// for is empty.
    ///
    /// # Errors
    ///
    /// The ack is `{"success":false,…}` then, or without one an event `error`; what was written is undone.
    fn event(&mut self, call: &Call, event: SocketEvent) -> Result<Option<Args>, Rejection>;

    /// After the last event of a connection.
    #[allow(unused_variables, reason = "names for the docs")]
    fn disconnect(&mut self, call: &Call, namespace: &str, reason: &str) {}

    /// Names something that happened in the core: called once, however many hear of it. It may read, not write.
    #[allow(unused_variables, reason = "names for the docs")]
    fn map(&mut self, call: &Call, namespace: &str, event: CoreEvent) -> Vec<Emit> {
        Vec::new()
    }
}

/// Once per instance, before anything else.
///
/// ```
/// use haggle_sdk::prelude::*;
/// use haggle_sdk::serde_json::Value;
///
/// #[derive(Default)]
/// struct Limit {
///     chars_max: u64,
/// }
///
/// impl Lifecycle for Limit {
///     fn init(&mut self, config: &str) -> Result<(), Failure> {
///         let config: Value = json::parse(config)?;
///         self.chars_max = json::plain(&config["chars_max"]).parse()?;
///         Ok(())
///     }
/// }
///
/// impl BeforeMessage for Limit {
///     fn before_message(&mut self, _call: &Call, draft: Draft) -> Decision {
///         if draft.content.chars().count() as u64 > self.chars_max {
///             return Decision::reject("too_long", format!("at most {} characters", self.chars_max));
///         }
///         Decision::Continue
///     }
/// }
/// haggle_sdk::plugin! { Limit, hooks: [lifecycle, before_message] }
///
/// let mut app = haggle_sdk::test::Harness::<Limit>::with_config(&[("chars_max", "5")]).unwrap();
/// let conversation = app.direct("alice", "bob");
/// assert_eq!(app.send("alice", Draft::text(&conversation, "too long")).unwrap_err().code, "too_long");
/// ```
pub trait Lifecycle {
    /// `config` is the merged `[config]` as one JSON object. `Err`: this version is not loaded.
    fn init(&mut self, config: &str) -> Result<(), Failure>;
}
