//! An engine on a store in memory, spoken to as a transport would.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use haggle_engine::{
    Actor, Command, Engine, EngineOptions, ManualClock, NewConversation, NewMessage, Outcome, Push, Refusal, Request, Subscriber, To, What,
    ports::{Hooks, NoPlugins},
};
use haggle_model::{ConversationId, Limits, Millis, UserId};
use haggle_store::{MemoryStore, SharedStore};

/// Where the clock of tests starts: 2026-01-01.
pub const START: Millis = 1_767_225_600_000;

pub struct World {
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
    pub store: SharedStore,
}

pub struct Setup {
    pub store: SharedStore,
    pub hooks: Arc<dyn Hooks>,
    pub limits: Limits,
}

impl Default for Setup {
    fn default() -> Setup {
        let limits = Limits { rate_per_second: 1_000_000, rate_burst: 1_000_000, ..Limits::default() };
        Setup { store: Arc::new(MemoryStore::new(1)), hooks: Arc::new(NoPlugins), limits }
    }
}

impl World {
    pub async fn new() -> World {
        World::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> World {
        let clock = Arc::new(ManualClock::new(START));
        let options = EngineOptions {
            store: setup.store.clone(),
            hooks: setup.hooks,
            limits: setup.limits,
            clock: clock.clone(),
            erase_after: Duration::from_secs(86_400),
            reject_unknown_users: false,
        };
        World { engine: Engine::start(options).await.expect("the engine starts"), clock, store: setup.store }
    }

    pub async fn run(&self, user: &str, command: Command) -> Result<Outcome, Refusal> {
        self.engine.execute(Request::new(Actor::user(user, "rest"), command)).await
    }

    pub async fn run_with_id(&self, user: &str, id: &str, command: Command) -> Result<Outcome, Refusal> {
        self.engine.execute(Request::new(Actor::user(user, "rest"), command).with_client_id(Some(id))).await
    }

    pub async fn send(&self, user: &str, to: ConversationId, text: &str) -> Result<Outcome, Refusal> {
        self.run(user, send(to, text)).await
    }

    /// The direct conversation of two users.
    pub async fn direct(&self, a: &str, b: &str) -> ConversationId {
        let new = Command::CreateConversation(NewConversation::Direct { with: b.into() });
        self.run(a, new).await.expect("a direct conversation").conversation
    }

    pub async fn group(&self, admin: &str, others: &[&str]) -> ConversationId {
        let participants = others.iter().map(|user| UserId::from(*user)).collect();
        let new = Command::CreateConversation(NewConversation::Group { participants, name: Some("group".into()), avatar: None });
        self.run(admin, new).await.expect("a group").conversation
    }

    pub fn connect(&self, user: &str) -> Arc<Listener> {
        let listener = Arc::new(Listener { id: format!("{user}-{:p}", &user), user: user.into(), heard: Mutex::default() });
        self.engine.connect(listener.clone());
        listener
    }
}

pub fn send(to: ConversationId, text: &str) -> Command {
    Command::Send { to: To::Conversation(to), message: NewMessage::text(text) }
}

/// A connection that has joined everything and forgets nothing.
pub struct Listener {
    id: String,
    user: UserId,
    pub heard: Mutex<Vec<Arc<Push>>>,
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
    fn transport(&self) -> &'static str {
        "ws"
    }
    fn subscribed(&self, _: ConversationId) -> bool {
        true
    }
    fn offer(&self, push: &Arc<Push>) {
        self.heard.lock().unwrap().push(push.clone());
    }
    fn ended(&self, _: ConversationId) {}
    fn close(&self, _: &'static str) {}
}

/// Waits until `done` says so, at most two seconds.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}
