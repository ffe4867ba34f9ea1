//! A connection in a namespace that a plugin owns: its events wait in a queue of its own and are answered one after the other,
//! so a plugin that is slow with one connection is slow with no other.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use haggle_engine::{
    Actor, Push, Refusal, Subscriber, Transport,
    sockets::{Args, Handshake, NamespaceAnswer, NamespaceCall, Socket, SocketEvent},
};
use haggle_model::{ConversationId, ErrorCode, UserId};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    client::Space,
    dialects::Dialect,
    encode,
    metrics::{self, Reason},
    place::{Place, Seated},
    recovery,
};
use crate::settings::SocketIoSettings;

/// Questions to one connection that wait for its ack; older ones are forgotten.
const QUESTIONS_MAX: usize = 64;
/// How long a question waits.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Events for a connection whose connect is not answered yet: as many as a handler may emit, and once more as many of others.
const HELD_MAX: usize = 512;
/// The name of a room, in bytes.
const ROOM_BYTES_MAX: usize = 128;

/// See the module.
pub(super) struct Owned {
    place: Place,
    dialect: Arc<Dialect>,
    state: Mutex<State>,
    queue: Mutex<Queue>,
    /// A place in the queue is free.
    room: Notify,
}

struct State {
    rooms: BTreeSet<Box<str>>,
    /// What came before the answer to the connect, which must be the first.
    held: Option<Held>,
    next_question: u64,
    questions: VecDeque<Question>,
}

/// Events that wait for the answer to the connect.
#[derive(Default)]
struct Held {
    events: Vec<Emitted>,
    bytes: usize,
}

/// Frames of an event for the client.
pub(super) enum Emitted {
    /// A client that was cut off gets them when it is back.
    Kept(Bytes),
    /// They are not sent again.
    Once(Bytes),
}

impl Emitted {
    fn bytes(&self) -> usize {
        match self {
            Emitted::Kept(frames) | Emitted::Once(frames) => frames.len(),
        }
    }
}

struct Question {
    id: u64,
    name: String,
    token: String,
    until: Instant,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    bytes: usize,
    /// A task takes from it.
    running: bool,
    /// The disconnect is in it, behind which nothing comes.
    closed: bool,
}

enum Job {
    Event { event: SocketEvent, ack: Option<u64> },
    Disconnect(Reason),
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Event { event, .. } => event.name.len() + event.args.bytes(),
            Job::Disconnect(_) => 0,
        }
    }
}

impl Owned {
    /// Nobody knows it yet.
    pub fn new(place: Place, dialect: Arc<Dialect>) -> Arc<Owned> {
        Arc::new(Owned {
            place,
            dialect,
            state: Mutex::new(State {
                rooms: BTreeSet::new(),
                held: Some(Held::default()),
                next_question: 0,
                questions: VecDeque::new(),
            }),
            queue: Mutex::default(),
            room: Notify::new(),
        })
    }

    pub fn id(&self) -> &Arc<str> {
        &self.place.id
    }

    pub fn namespace(&self) -> &str {
        &self.dialect.settings.namespace
    }

    fn settings(&self) -> &SocketIoSettings {
        &self.place.gateway.settings.socketio
    }

    fn actor(&self) -> Actor {
        self.place.actor(self.dialect.plugin.as_str())
    }

    async fn ask_plugin(self: &Arc<Self>, call: NamespaceCall) -> Result<NamespaceAnswer, Refusal> {
        let engine = &self.place.gateway.engine;
        engine.namespace(self.actor(), &self.dialect.plugin, Some(self.clone()), call).await
    }

    /// The connect is answered: what was held follows.
    pub fn connected(&self) {
        let mut state = self.state.lock();
        let held = state.held.take().unwrap_or_default();
        // Under the lock, so that nothing overtakes it.
        held.events.into_iter().for_each(|emitted| self.send(emitted));
    }

    // In.

    /// An event of the client: waits until there is a place for it.
    pub async fn event(self: &Arc<Self>, name: &str, args: Args, ack: Option<u64>) {
        let event = SocketEvent {
            namespace: self.namespace().to_owned(),
            name: name.to_owned(),
            args,
            wants_ack: ack.is_some(),
            answer_to: None,
        };
        self.wait_and_put(Job::Event { event, ack }).await;
    }

    /// The client's ack to a question; of anything else nothing is known.
    pub async fn answered(self: &Arc<Self>, id: u64, args: Args) {
        let question = {
            let mut state = self.state.lock();
            let at = state.questions.iter().position(|question| question.id == id);
            at.and_then(|at| state.questions.remove(at))
        };
        let Some(question) = question else { return };
        if Instant::now() >= question.until {
            return metrics::unanswered(1);
        }
        let event = SocketEvent {
            namespace: self.namespace().to_owned(),
            name: question.name,
            args,
            wants_ack: false,
            answer_to: Some(question.token),
        };
        self.wait_and_put(Job::Event { event, ack: None }).await;
    }

    async fn wait_and_put(self: &Arc<Self>, job: Job) {
        let mut job = Some(job);
        loop {
            let room = self.room.notified();
            self.try_put(&mut job);
            if job.is_none() {
                return;
            }
            room.await;
        }
    }

    /// Takes the job if there is room for it, or if nobody is there any more who waits for what becomes of it.
    fn try_put(self: &Arc<Self>, job: &mut Option<Job>) {
        let settings = self.settings();
        let mut queue = self.queue.lock();
        let bytes = queue.bytes + job.as_ref().map_or(0, Job::bytes);
        let has_room = queue.waiting.is_empty() || (queue.waiting.len() < settings.events_waiting_max && bytes <= settings.payload_bytes_max);
        if !has_room && !queue.closed {
            return;
        }
        if let Some(job) = job.take().filter(|_| !queue.closed) {
            self.put(&mut queue, job);
        }
    }

    /// What nobody answers any more.
    fn forget_questions(&self) {
        let open = std::mem::take(&mut self.state.lock().questions);
        metrics::unanswered(open.len());
    }

    /// The last job: the plugin hears of the end after the events that wait.
    fn put_disconnect(self: &Arc<Self>, reason: Reason) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        self.put(&mut queue, Job::Disconnect(reason));
        drop(queue);
        self.room.notify_waiters(); // Whoever waits for a place waits for nothing.
    }

    fn put(self: &Arc<Self>, queue: &mut Queue, job: Job) {
        queue.bytes += job.bytes();
        queue.waiting.push_back(job);
        if !std::mem::replace(&mut queue.running, true) {
            let socket = self.clone();
            self.place.gateway.socketio.runtime().spawn(async move { socket.run().await });
        }
    }

    fn take(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        let job = queue.waiting.pop_front();
        match &job {
            Some(job) => queue.bytes -= job.bytes(),
            None => {
                queue.running = false;
                queue.waiting = VecDeque::new();
            }
        }
        job
    }

    /// One after the other, until none waits.
    async fn run(self: Arc<Self>) {
        while let Some(job) = self.take() {
            self.room.notify_waiters();
            match job {
                Job::Event { event, ack } => self.answer(event, ack).await,
                Job::Disconnect(reason) => self.tell_disconnect(reason).await,
            }
        }
    }

    async fn answer(self: &Arc<Self>, event: SocketEvent, ack: Option<u64>) {
        let refusal = match self.ask_plugin(NamespaceCall::Event(event)).await {
            Ok(NamespaceAnswer::Ack(args)) => {
                if let Some(id) = ack {
                    self.push(Emitted::Once(encode::ack(self.namespace(), id, &args.unwrap_or_else(no_args))));
                }
                return;
            }
            Ok(NamespaceAnswer::Rejected { code, message }) => {
                Refusal::new(ErrorCode::PluginRejected, message).by_plugin(self.dialect.plugin.as_str(), code)
            }
            Ok(_) => Refusal::new(ErrorCode::Internal, "the plugin gave another answer"),
            Err(refusal) => refusal,
        };
        encode::answer(&self.place.session(), self.namespace(), ack, Err::<fn(&mut Vec<u8>), _>(refusal));
    }

    async fn tell_disconnect(self: &Arc<Self>, reason: Reason) {
        let call = NamespaceCall::Disconnect {
            namespace: self.namespace().to_owned(),
            reason: reason.as_str().to_owned(),
        };
        if let Err(refusal) = self.ask_plugin(call).await {
            tracing::debug!(plugin = %self.dialect.plugin, %refusal, "a plugin did not hear of a disconnect");
        }
    }

    // Out.

    pub fn push(self: &Arc<Self>, emitted: Emitted) {
        let mut state = self.state.lock();
        let Some(held) = &mut state.held else {
            drop(state);
            return self.send(emitted);
        };
        let bytes = held.bytes + emitted.bytes();
        if held.events.len() < HELD_MAX && bytes <= self.settings().outbox_bytes_max {
            held.bytes = bytes;
            return held.events.push(emitted);
        }
        drop(state);
        metrics::not_held();
        if matches!(emitted, Emitted::Kept(_)) {
            self.clone().has_missed();
        }
    }

    fn send(&self, emitted: Emitted) {
        match emitted {
            Emitted::Kept(frames) => self.place.push(frames),
            Emitted::Once(frames) => self.place.push_once(frames),
        }
    }

    /// Has missed something for good: it is disconnected, and comes back as a new client.
    pub fn has_missed(self: Arc<Self>) {
        recovery::give_up(self.clone());
        self.place.close(Reason::ForcedServerClose);
    }

    /// An event that asks for an ack.
    pub fn ask(self: &Arc<Self>, token: &str, name: &str, args: &Args) {
        let id = {
            let mut state = self.state.lock();
            let (id, now) = (state.next_question, Instant::now());
            state.next_question += 1;
            let before = state.questions.len();
            state.questions.retain(|question| now < question.until);
            if state.questions.len() >= QUESTIONS_MAX {
                state.questions.pop_front();
            }
            metrics::unanswered(before - state.questions.len());
            state.questions.push_back(Question {
                id,
                name: name.to_owned(),
                token: token.to_owned(),
                until: now + ANSWER_WITHIN,
            });
            id
        };
        self.push(Emitted::Once(encode::named_event(self.namespace(), Some(id), name, args, "")));
    }

    pub fn take_rooms(&self) -> BTreeSet<Box<str>> {
        std::mem::take(&mut self.state.lock().rooms)
    }
}

/// A connection whose plugin is asked whether it may be, until it has its place. Dropped before, because the plugin says no or
/// the client has gone meanwhile, it leaves nothing.
pub(super) struct Arrival {
    owned: Arc<Owned>,
    /// The plugin may have let it in, and is to hear of its end.
    is_known: bool,
    is_seated: bool,
}

impl Arrival {
    /// From here on the connection is found by what plugins emit.
    pub fn of(owned: Arc<Owned>) -> Arrival {
        owned.dialect.enter(&owned);
        Arrival {
            owned,
            is_known: false,
            is_seated: false,
        }
    }

    /// Asks the plugin.
    pub async fn ask(&mut self, handshake: Handshake) -> Result<NamespaceAnswer, Refusal> {
        self.is_known = true;
        let answer = self.owned.ask_plugin(NamespaceCall::Connect(handshake)).await;
        self.is_known = matches!(answer, Ok(NamespaceAnswer::Done));
        answer
    }

    pub fn owned(&self) -> &Arc<Owned> {
        &self.owned
    }

    /// The session has it among its places, and ends it.
    pub fn seated(mut self) -> Arc<Owned> {
        self.is_seated = true;
        self.owned.clone()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if self.is_seated {
            return;
        }
        let owned = &self.owned;
        let reason = owned.place.session().ended().unwrap_or(Reason::TransportError);
        // Others may hold on to the connection a little longer. The hub has never heard of it.
        let _ = owned.place.line().end(reason);
        owned.dialect.leave(owned);
        owned.forget_questions();
        if self.is_known {
            owned.put_disconnect(reason);
        }
    }
}

fn no_args() -> Args {
    Args {
        json: "[]".to_owned(),
        binary: Vec::new(),
    }
}

impl Socket for Owned {
    fn join(self: Arc<Self>, conversation: ConversationId) -> Result<(), Refusal> {
        self.place.join(conversation)
    }

    fn leave(&self, conversation: ConversationId) {
        self.place.leave(conversation);
    }

    fn enter_room(self: Arc<Self>, room: &str) -> Result<(), Refusal> {
        let max = self.settings().rooms_max;
        if !(1..=ROOM_BYTES_MAX).contains(&room.len()) {
            return Err(Refusal::new(
                ErrorCode::BadRequest,
                format!("a room is named by 1 to {ROOM_BYTES_MAX} bytes"),
            ));
        }
        {
            let rooms = &mut self.state.lock().rooms;
            if rooms.contains(room) {
                return Ok(());
            }
            if rooms.len() >= max {
                return Err(Refusal::new(ErrorCode::TooLarge, format!("socketio.rooms_max = {max}")));
            }
            rooms.insert(room.into());
        }
        self.dialect.enter_room(room, &self);
        Ok(())
    }

    fn leave_room(&self, room: &str) {
        let was_in = self.state.lock().rooms.remove(room);
        if was_in {
            self.dialect.leave_room(room, self);
        }
    }
}

impl Seated for Owned {
    fn place(&self) -> &Place {
        &self.place
    }

    fn dialect(&self) -> Option<&Arc<Dialect>> {
        Some(&self.dialect)
    }

    fn into_space(self: Arc<Self>) -> Space {
        Space::Owned(self)
    }

    fn is_back(self: Arc<Self>) {}

    fn is_over(self: Arc<Self>, reason: Reason) {
        if self.place.named_user().is_some() {
            self.place.gateway.engine.disconnect(&*self, reason.as_str());
        }
        self.dialect.leave(&self);
        self.forget_questions();
        self.put_disconnect(reason);
    }
}

impl Subscriber for Owned {
    fn id(&self) -> &str {
        &self.place.id
    }

    fn user(&self) -> &UserId {
        &self.place.user
    }

    fn has_role(&self, role: &str) -> bool {
        self.place.has_role(role)
    }

    fn transport(&self) -> Transport {
        Transport::SocketIo
    }

    fn subscribed(&self, conversation: ConversationId) -> bool {
        !self.is_away() && self.place.has_joined(&[conversation])
    }

    /// Nothing: what happens is mapped once for the whole namespace.
    fn offer(&self, _: &Arc<Push>) {}

    fn ended(&self, conversation: ConversationId) {
        self.place.leave(conversation);
    }

    fn close(&self, reason: &'static str) {
        self.place.close(Reason::of_close(reason));
    }

    fn is_away(&self) -> bool {
        self.place.is_away()
    }
}

/// Arguments of a packet of the client.
pub(super) fn args_of(args: &[&serde_json::value::RawValue], parts: &VecDeque<Bytes>) -> Args {
    let mut json = Vec::new();
    encode::array(&mut json, None, args);
    Args {
        json: String::from_utf8(json).expect("raw JSON is UTF-8"),
        binary: parts.iter().cloned().collect(),
    }
}
