//! An engine on a store in memory, spoken to as a transport would.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod plugins;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use haggle_engine::{
    Actor, Command, Engine, EngineOptions, ManualClock, NewConversation, NewMessage, Outcome, Push, Refusal, Request, Subscriber, To, Transport,
    What,
    ports::{Hooks, NoPlugins},
};
use haggle_model::{ConversationId, Event, Limits, Millis, Seq, UserId};
use haggle_store::{
    AppendError, EventRow, MemoryStore, MessageRow, Page, SharedStore, StoreError,
    decorate::{Faults, Faulty, When},
};

/// Where the clock of tests starts: 2026-01-01.
pub const START: Millis = 1_767_225_600_000;
pub const HOUR: Millis = 3_600_000;

/// An engine and what it stands on.
pub struct World {
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
    /// The store itself, whatever the engine's way to it suffers.
    pub store: SharedStore,
    /// What the engine's way to the store suffers.
    pub faults: Faults,
    limits: Limits,
    erase_after: Duration,
}

pub struct Setup {
    pub store: SharedStore,
    pub hooks: Arc<dyn Hooks>,
    pub limits: Limits,
    pub clock: Arc<ManualClock>,
    pub erase_after: Duration,
    pub reject_unknown_users: bool,
    pub commit_interval: Duration,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            store: Arc::new(MemoryStore::new(1)),
            hooks: Arc::new(NoPlugins),
            limits: unlimited(),
            clock: Arc::new(ManualClock::new(START)),
            erase_after: Duration::from_secs(86_400),
            reject_unknown_users: false,
            commit_interval: Duration::ZERO,
        }
    }
}

/// The default limits, but for rates.
pub fn unlimited() -> Limits {
    Limits {
        rate_per_second: 1_000_000,
        rate_burst: 1_000_000,
        ..Limits::default()
    }
}

impl World {
    pub async fn new() -> World {
        World::with(Setup::default()).await
    }

    pub async fn with_hooks(hooks: Arc<dyn Hooks>) -> World {
        World::with(Setup { hooks, ..Setup::default() }).await
    }

    pub async fn with(setup: Setup) -> World {
        let Setup {
            store,
            hooks,
            limits,
            clock,
            erase_after,
            reject_unknown_users,
            commit_interval,
        } = setup;
        let (faulty, faults) = Faulty::new(store.clone());
        let options = EngineOptions {
            store: Arc::new(faulty),
            hooks,
            limits: limits.clone(),
            clock: clock.clone(),
            erase_after,
            reject_unknown_users,
            commit_interval,
        };
        World {
            engine: Engine::start(options).await.expect("the engine starts"),
            clock,
            store,
            faults,
            limits,
            erase_after,
        }
    }

    /// Ends the engine as kill -9 would: from now on nothing it does reaches the store.
    pub async fn kill(&self) {
        self.faults.fail_append(1, AppendError::Failed("killed".into()), When::Before);
        self.faults.fail_recoveries(u32::MAX);
        self.faults.fail_others(Some(StoreError::Unavailable("killed".into())));
        let engine = self.engine.clone();
        // Only to end its threads: what it would write is lost already.
        tokio::spawn(async move { engine.shutdown().await });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// Kills the engine and starts another one on the same store.
    pub async fn restart(self, hooks: Arc<dyn Hooks>) -> World {
        self.kill().await;
        let setup = Setup {
            store: self.store,
            hooks,
            limits: self.limits,
            clock: self.clock,
            erase_after: self.erase_after,
            ..Setup::default()
        };
        World::with(setup).await
    }

    pub async fn run(&self, user: &str, command: Command) -> Result<Outcome, Refusal> {
        self.engine.execute(Request::new(Actor::user(user, Transport::Rest), command)).await
    }

    pub async fn run_with_id(&self, user: &str, id: &str, command: Command) -> Result<Outcome, Refusal> {
        self.engine
            .execute(Request::new(Actor::user(user, Transport::Rest), command).with_client_id(Some(id)))
            .await
    }

    /// Takes the command's place now; the answer comes later.
    pub fn submit(&self, user: &str, id: Option<&str>, command: Command) -> Answer {
        let (done, answer) = tokio::sync::oneshot::channel();
        let request = Request::new(Actor::user(user, Transport::Rest), command).with_client_id(id);
        self.engine.submit(request, Box::new(move |outcome| drop(done.send(outcome))));
        answer
    }

    pub async fn send(&self, user: &str, to: ConversationId, text: &str) -> Result<Outcome, Refusal> {
        self.run(user, send(to, text)).await
    }

    /// Runs a command of a plugin in a conversation.
    pub async fn call(&self, user: &str, conversation: ConversationId, name: &str, payload: &str) -> Result<Outcome, Refusal> {
        self.run(user, call(conversation, name, payload)).await
    }

    /// Moves the user's read mark and waits for the answer.
    pub async fn read_up_to(&self, user: &str, conversation: ConversationId, seq: Seq) -> Result<Outcome, Refusal> {
        let (done, answer) = tokio::sync::oneshot::channel();
        let reply = Box::new(move |outcome| drop(done.send(outcome)));
        self.engine
            .mark(&Actor::user(user, Transport::Rest), conversation, None, Some(seq), Some(reply));
        answer.await.expect("every mark with a reply is answered")
    }

    /// The direct conversation of two users.
    pub async fn direct(&self, a: &str, b: &str) -> ConversationId {
        let new = Command::CreateConversation(NewConversation::Direct { with: b.into() });
        let id = self.run(a, new).await.expect("a direct conversation").conversation;
        self.told(&[a, b], id).await;
        id
    }

    pub async fn group(&self, admin: &str, others: &[&str]) -> ConversationId {
        let participants = others.iter().map(|user| UserId::from(*user)).collect();
        let new = Command::CreateConversation(NewConversation::Group {
            participants,
            name: Some("group".into()),
            avatar: None,
        });
        let id = self.run(admin, new).await.expect("a group").conversation;
        self.told(&[admin], id).await;
        self.told(others, id).await;
        id
    }

    /// Waits until the users' personal logs know of the conversation, so that nothing of it is under way any more.
    async fn told(&self, users: &[&str], id: ConversationId) {
        for user in users {
            let me = self.engine.personal(&(*user).into()).await.expect("everybody has a personal log");
            eventually("the membership is delivered", async || {
                self.history(me).await.iter().any(|event| event.event == Event::MembershipStarted(id))
            })
            .await;
        }
    }

    pub fn connect(&self, user: &str) -> Arc<Listener> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = format!("{user}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let listener = Arc::new(Listener {
            id,
            user: user.into(),
            heard: Mutex::default(),
            ended: Mutex::default(),
        });
        self.engine.connect(listener.clone());
        listener
    }

    /// The whole log of a conversation, as a replay shows it.
    pub async fn history(&self, id: ConversationId) -> Vec<EventRow> {
        let mut all: Vec<EventRow> = Vec::new();
        loop {
            let page = self
                .store
                .events(id, all.last().map_or(0, |event| event.seq), 500)
                .await
                .expect("the store in memory answers");
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    /// (seq, event name) of the whole log.
    pub async fn names(&self, id: ConversationId) -> Vec<(Seq, String)> {
        self.history(id)
            .await
            .iter()
            .map(|event| (event.seq, event.event.name().to_owned()))
            .collect()
    }

    /// All messages, oldest first.
    pub async fn messages(&self, id: ConversationId) -> Vec<MessageRow> {
        self.store
            .messages(id, Page::After(0), 10_000, None)
            .await
            .expect("the store in memory answers")
    }

    pub async fn texts(&self, id: ConversationId) -> Vec<String> {
        self.messages(id).await.into_iter().map(|message| message.content.text).collect()
    }

    pub async fn unread(&self, user: &str, id: ConversationId) -> u32 {
        self.store
            .inbox_row(&user.into(), id)
            .await
            .expect("the store in memory answers")
            .expect("a row for who is in it")
            .unread
    }
}

pub type Answer = tokio::sync::oneshot::Receiver<Result<Outcome, Refusal>>;

pub fn send(to: ConversationId, text: &str) -> Command {
    Command::Send {
        to: To::Conversation(to),
        message: NewMessage::text(text),
    }
}

pub fn send_kind(to: ConversationId, kind: &str, text: &str) -> Command {
    Command::Send {
        to: To::Conversation(to),
        message: NewMessage {
            kind: kind.into(),
            ..NewMessage::text(text)
        },
    }
}

pub fn call(conversation: ConversationId, name: &str, payload: &str) -> Command {
    Command::Call {
        name: name.into(),
        conversation: Some(conversation),
        payload: payload.into(),
    }
}

/// A connection that has joined everything and forgets nothing.
pub struct Listener {
    id: String,
    user: UserId,
    pub heard: Mutex<Vec<Arc<Push>>>,
    pub ended: Mutex<Vec<ConversationId>>,
}

impl Listener {
    /// (seq, event name) of the events of a conversation, in the order of their arrival.
    pub fn events(&self, conversation: ConversationId) -> Vec<(u32, String)> {
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .filter_map(|push| match &push.what {
                What::Event(event) if event.entry.conversation == conversation => Some((event.entry.seq, event.entry.event.name().to_owned())),
                _ => None,
            })
            .collect()
    }

    /// Texts of the messages of a conversation, in the order of their arrival.
    pub fn texts(&self, conversation: ConversationId) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .filter_map(|push| match &push.what {
                What::Event(event) if event.entry.conversation == conversation => match &event.entry.event {
                    Event::MessageCreated(content) => Some(content.text.clone()),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    }
}

impl Subscriber for Listener {
    fn id(&self) -> &str {
        &self.id
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn has_role(&self, _: &str) -> bool {
        false
    }
    fn transport(&self) -> Transport {
        Transport::Ws
    }
    fn subscribed(&self, _: ConversationId) -> bool {
        true
    }
    fn offer(&self, push: &Arc<Push>) {
        self.heard.lock().unwrap().push(push.clone());
    }
    fn ended(&self, conversation: ConversationId) {
        self.ended.lock().unwrap().push(conversation);
    }
    fn close(&self, _: &'static str) {}
}

/// Waits until `done` says so, at most ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        for _ in 0..2_000 {
            if done().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never happened ({caller}): {what}");
    }
}

/// Numbers that look random and are the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        println!("seed {seed}");
        Random(seed)
    }

    /// The next number (splitmix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
