//! The engine's face: what transports, hosts and the operator call.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use haggle_model::{Address, CommandId, ConversationId, ConversationKind, ErrorCode, KeyRing, Limits, Millis, PluginId, Seq, UserId};
use haggle_store::{ConversationRow, FailedDelivery, InboxRow, MemberRow, SharedStore, StoreError};
use tokio::sync::oneshot;

use crate::{
    Actor, Outcome, Refusal, Reply, Request, Transport,
    acting::Acting,
    clock::Clock,
    conversation::{Conversation, unavailable},
    deliver::{self, RUNS_MAX},
    feeds,
    feeds::Feeds,
    hub::{Edge, Hub, Push, Subscriber},
    inner::Inner,
    lanes::Lane,
    marks,
    metrics::Metrics,
    notifications, pipeline,
    ports::{After, Call, HookError, Hooks, HttpRequest, HttpResponse, Plan},
    presence,
    presence::Presence,
    publish,
    rates::{Quota, Rates},
    readers::ReadSteps,
    scope::{HandlerScope, Place},
    sockets::{CoreEvent, NamespaceAnswer, NamespaceCall, Socket, SocketEmit},
    state::State,
    timers, typing,
    typing::Typing,
    warm::Warm,
};

/// Deleted messages whose text is erased in one go.
const ERASE_BATCH: usize = 500;
/// How often deleted messages are looked for.
const ERASE_EVERY: Duration = Duration::from_secs(60);
/// How often cursors and times last seen are saved.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How often [`Engine::settle`] looks.
const SETTLE_LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a shutdown waits for the feeds.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Everything an engine is made of.
pub struct EngineOptions {
    /// Where it keeps what it is told.
    pub store: SharedStore,
    /// The plugins.
    pub hooks: Arc<dyn Hooks>,
    /// What it refuses to exceed.
    pub limits: Limits,
    /// The wall clock; tests turn it by hand.
    pub clock: Arc<dyn Clock>,
    /// How long the text of deleted messages stays in the log.
    pub erase_after: Duration,
    /// Participants that were never seen are refused.
    pub reject_unknown_users: bool,
    /// From the beginning of a shard's commit to that of the next, at least: fewer commits, each of more commands, which wait for it.
    /// Zero: a commit begins as soon as the last one has ended.
    pub commit_interval: Duration,
}

/// How firmly the engine serves now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes.
    Ready,
    /// The store takes no writes; they are answered `read_only` until it has recovered.
    ReadOnly,
}

/// What a user may know of a conversation's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Seq of the last event.
    pub head: Seq,
    /// Countable messages.
    pub head_n: u32,
    /// The user's unread.
    pub unread: u32,
}

/// Durable conversations with plugins. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

impl Engine {
    /// Opens the lanes, reads the cursors and starts the feeds. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(options: EngineOptions) -> Result<Engine, StoreError> {
        let EngineOptions {
            store,
            hooks,
            limits,
            clock,
            erase_after,
            reject_unknown_users,
            commit_interval,
        } = options;
        let keys = KeyRing::new(store.installation_secret().await?);
        let mut lanes = Vec::new();
        let mut tails = Vec::new();
        for shard in 0..store.shards() {
            let shard = haggle_model::Shard(shard);
            let tail = store.tail(shard).await?;
            lanes.push(Lane::new(shard, tail, limits.lane_bytes_max, commit_interval));
            tails.push(tail);
        }
        let inner = Arc::new(Inner {
            rates: Rates::new(&limits),
            hub: Hub::default(),
            lanes,
            warm: Warm::default(),
            typing: Typing::default(),
            presence: Presence::default(),
            feeds: Feeds::default(),
            marks: marks::Waiting::default(),
            metrics: Arc::new(Metrics::new()),
            runtime: tokio::runtime::Handle::current(),
            users_seen: Default::default(),
            closing: tokio_util::sync::CancellationToken::new(),
            tasks: tokio_util::task::TaskTracker::new(),
            id_seed: process_seed(),
            id_next: AtomicU64::new(0),
            store,
            hooks,
            limits,
            clock,
            keys,
            erase_after,
            reject_unknown_users,
        });
        inner.metrics.failed_deliveries.set(inner.store.failed_count().await? as f64);
        for (lane, tail) in inner.lanes.iter().zip(tails) {
            lane.start(&inner, tail);
            inner.spawn_until_closed(timers::run(inner.clone(), lane.clone()));
        }
        feeds::start(&inner).await?;
        inner.spawn_until_closed(crate::crons::run(inner.clone()));
        inner.spawn_until_closed(typing::sweep(inner.clone()));
        inner.spawn_until_closed(marks::flush(inner.clone()));
        inner.spawn_until_closed(housekeeping(inner.clone()));
        inner.spawn_until_closed(erasing(inner.clone()));
        Ok(Engine { inner })
    }

    /// Takes the command's place in its conversation's queue at once, in the order of the calls, and answers through `reply`
    /// when the answer is durable. Never blocks; where nothing waits the command is staged before this returns.
    pub fn submit(&self, request: Request, reply: Reply) {
        pipeline::submit(&self.inner, request, reply);
    }

    /// The same for who can wait. Giving up the future does not take the command back.
    pub async fn execute(&self, request: Request) -> Result<Outcome, Refusal> {
        let (done, answer) = oneshot::channel();
        self.submit(request, Box::new(move |outcome| drop(done.send(outcome))));
        answer.await.map_err(|_| unavailable())?
    }

    /// Moves the actor's marks up to these seqs (never back; above the head counts as the head). Takes no turn.
    /// With a reply it is part of the next commit, without one it may wait up to a second and is merged.
    pub fn mark(&self, actor: &Actor, conversation: ConversationId, delivered: Option<Seq>, read: Option<Seq>, reply: Option<Reply>) {
        marks::mark(&self.inner, actor, conversation, delivered, read, reply);
    }

    /// A sign of typing; expires by itself. Ignored from who is no participant or is blocked.
    pub fn typing(&self, actor: &Actor, conversation: ConversationId, on: bool) {
        self.inner
            .runtime
            .spawn(typing::sign(self.inner.clone(), actor.user.clone(), conversation, on));
    }

    /// Registers a connection: presence, and pushes from now on.
    pub fn connect(&self, connection: Arc<dyn Subscriber>) {
        let user = connection.user().clone();
        self.connection_changed(&*connection, true, "");
        if self.inner.hub.connect(connection) == Edge::Changed {
            presence::came(&self.inner, user);
        }
    }

    /// Forgets it. `reason` is a short word for metrics and the after-connection hook, which was told already of one that is
    /// away.
    pub fn disconnect(&self, connection: &dyn Subscriber, reason: &str) {
        if self.inner.hub.disconnect(connection.user(), connection.id()) == Edge::Changed {
            presence::went(&self.inner, connection.user().clone());
        }
        if !connection.is_away() {
            self.connection_changed(connection, false, reason);
        }
    }

    /// The connection's client is gone and may come back: it goes on getting pushes, and everybody else sees it leave. `set`
    /// makes it [`Subscriber::is_away`].
    pub fn step_away(&self, connection: &dyn Subscriber, reason: &str, set: impl FnOnce()) {
        self.change_presence(connection.user(), set);
        self.connection_changed(connection, false, reason);
    }

    /// The client is back: `set` makes the connection present again.
    pub fn come_back(&self, connection: &dyn Subscriber, set: impl FnOnce()) {
        self.connection_changed(connection, true, "");
        self.change_presence(connection.user(), set);
    }

    fn change_presence(&self, user: &UserId, set: impl FnOnce()) {
        match self.inner.hub.change(user, set) {
            Some(true) => presence::came(&self.inner, user.clone()),
            Some(false) => presence::went(&self.inner, user.clone()),
            None => {}
        }
    }

    fn connection_changed(&self, connection: &dyn Subscriber, open: bool, reason: &str) {
        let plan = self.inner.hooks.plan();
        let watchers = plan.connection_watchers();
        if watchers.is_empty() {
            return;
        }
        let event = After::Connection {
            session: connection.id().to_owned(),
            user: connection.user().clone(),
            transport: connection.transport(),
            open,
            reason: reason.to_owned(),
        };
        let (engine, actor) = (self.inner.clone(), Actor::user(connection.user().clone(), connection.transport()));
        self.inner.runtime.spawn(async move {
            for plugin in watchers {
                let told = outside(&engine, &plugin, Asked::by(actor.clone()), Handler::Connection(event.clone())).await;
                if let Err(refusal) = told {
                    tracing::debug!(%plugin, %refusal, "an after-connection hook failed");
                }
            }
        });
    }

    /// Shows a connection that has joined a conversation (after its membership was checked) who of these members is online.
    pub async fn show_presence(&self, connection: &dyn Subscriber, row: &ConversationRow, members: &[MemberRow]) {
        presence::show(&self.inner, connection, row, members).await;
    }

    /// The same for one that comes back to conversations it has joined before.
    pub async fn show_presence_again(&self, connection: &dyn Subscriber, conversations: &[ConversationId]) {
        presence::show_again(&self.inner, connection, conversations).await;
    }

    /// A client's hint about its own presence (`user_online`); ignored from who has no connection.
    pub fn presence_hint(&self, actor: &Actor, online: bool) {
        if !self.inner.hub.online(&actor.user) {
            return;
        }
        let (engine, user) = (self.inner.clone(), actor.user.clone());
        let last_seen = (!online).then(|| engine.clock.now());
        self.inner
            .runtime
            .spawn(async move { presence::tell(&engine, &user, online, last_seen).await });
    }

    /// Who has read the messages of a conversation from this one on; the caller has checked who asks.
    pub async fn read_steps(&self, conversation: ConversationId, from: Seq) -> Result<ReadSteps, Refusal> {
        Ok(ReadSteps::load(&self.inner.store, conversation, from).await?)
    }

    /// Whether the user has a connection, and when it was last seen.
    pub async fn presence(&self, user: &UserId) -> Result<(bool, Option<Millis>), Refusal> {
        let online = self.inner.hub.online(user);
        Ok((online, if online { None } else { presence::last_seen(&self.inner, user).await }))
    }

    /// The present participant's row and the conversation; `not_found` for everybody else. In a broadcast everybody has a place;
    /// admins (token role) may read every conversation but personal ones: for them the member row may be absent.
    pub async fn authorize_read(&self, actor: &Actor, conversation: ConversationId) -> Result<(ConversationRow, Option<MemberRow>), Refusal> {
        let row = self.inner.store.conversation(conversation).await?.ok_or_else(Refusal::not_found)?;
        if row.kind() == ConversationKind::Broadcast {
            let place = self.inner.store.inbox_row(&actor.user, conversation).await?;
            return Ok((row, place.map(|place| place.member)));
        }
        let member = self
            .inner
            .store
            .member(conversation, &actor.user)
            .await?
            .filter(|member| member.left_seq.is_none());
        let open = match &row.address {
            Address::Personal(user) => *user == actor.user,
            Address::Plugin(_) | Address::Kv(..) | Address::Existing(_) | Address::Broadcast(_) => false,
            Address::Direct(..) | Address::Group(..) | Address::Context(..) => actor.is_admin(),
        };
        if member.is_some() || open {
            Ok((row, member))
        } else {
            Err(Refusal::not_found())
        }
    }

    /// The head for this user, if the conversation is warm and everything in it is durable (no read).
    pub fn head(&self, conversation: ConversationId, user: &UserId) -> Option<Head> {
        let there = self.inner.warm.peek(conversation)?;
        let guarded = there.guarded.lock();
        let state = &guarded.state;
        let settled = !guarded.dead && state.row.is_some() && state.is_settled(there.lane.committed());
        (settled && state.members.contains_key(user)).then(|| Head {
            head: state.head,
            head_n: state.head_n,
            unread: state.unread(user),
        })
    }

    /// The conversation is warm and a broadcast: [`Engine::head`] knows nothing of its readers, [`Engine::head_now`] does.
    pub fn is_broadcast(&self, conversation: ConversationId) -> bool {
        let there = self.inner.warm.peek(conversation);
        there.is_some_and(|there| there.with_state(|state| state.address().map(Address::kind) == Some(ConversationKind::Broadcast)))
    }

    /// The head for this user as it is stored, for those who have a place there.
    pub async fn head_now(&self, conversation: ConversationId, user: &UserId) -> Result<Option<Head>, Refusal> {
        if let Some(head) = self.head(conversation, user) {
            return Ok(Some(head));
        }
        Ok(self.inbox_row(user, conversation).await?.map(|row| Head {
            head: row.conversation.head,
            head_n: row.conversation.head_n,
            unread: row.unread,
        }))
    }

    /// The key of the conversation at the address, probed against collisions.
    pub async fn locate(&self, address: &Address) -> Result<ConversationId, Refusal> {
        Ok(self.inner.warmed(address).await?.id)
    }

    /// The key of the user's personal conversation (its seqs are the `me` stream).
    pub async fn personal(&self, user: &UserId) -> Result<ConversationId, Refusal> {
        self.locate(&Address::Personal(user.clone())).await
    }

    /// The same with the seq of its last event; loads nothing.
    pub async fn personal_head(&self, user: &UserId) -> Result<(ConversationId, Seq), Refusal> {
        let address = Address::Personal(user.clone());
        let key = self.inner.keys.key(&address);
        match self.inner.store.conversation(key).await? {
            None => Ok((key, 0)),
            Some(row) if row.address == address => Ok((key, row.head)),
            Some(_) => {
                let id = self.locate(&address).await?; // A stranger has its key.
                let row = self.inner.store.conversation(id).await?;
                Ok((id, row.map_or(0, |row| row.head)))
            }
        }
    }

    /// One row of the user's list of conversations.
    pub async fn inbox_row(&self, user: &UserId, conversation: ConversationId) -> Result<Option<InboxRow>, Refusal> {
        Ok(self.inner.store.inbox_row(user, conversation).await?)
    }

    /// The first authenticated request of a user makes an empty profile. Cheap for users seen before by this process.
    pub async fn see_user(&self, user: &UserId) -> Result<(), Refusal> {
        self.inner.see_user(user).await
    }

    /// Runs a plugin's route, outside any turn; what it writes commits in the plugin's own conversation. A request with
    /// the user's key for it, sent again, writes nothing twice. Where nobody is logged in the actor is the plugin itself
    /// ([`Actor::plugin`]).
    pub async fn http(&self, actor: Actor, trace_id: String, plugin: &PluginId, request: HttpRequest) -> Result<HttpResponse, Refusal> {
        let key = request.headers.iter().find(|(name, _)| name == "idempotency-key");
        // A plugin that acts for itself stands for everybody who is not logged in.
        let somebody = !actor.user.as_str().is_empty() && actor.user != Actor::plugin(plugin).user;
        let command = key.filter(|_| somebody).map(|(_, key)| {
            let route = [request.method.as_bytes(), request.path.as_bytes()];
            let user = actor.user.as_str().as_bytes();
            CommandId::hash(&[b"http", plugin.as_str().as_bytes(), user, route[0], route[1], key.as_bytes()])
        });
        let asked = Asked { actor, trace_id, command };
        match outside(&self.inner, plugin, asked, Handler::Http(request)).await? {
            Answered::Http(response) => Ok(response),
            _ => Err(Refusal::new(ErrorCode::Internal, "the route gave no response")),
        }
    }

    /// Asks the plugin that owns a namespace about a connection there. Outside any turn; what it writes commits in its own
    /// conversation, what it does as the user in others.
    pub async fn namespace(
        &self,
        actor: Actor,
        plugin: &PluginId,
        socket: Option<Arc<dyn Socket>>,
        call: NamespaceCall,
    ) -> Result<NamespaceAnswer, Refusal> {
        match outside(&self.inner, plugin, Asked::by(actor), Handler::Namespace { call, socket }).await? {
            Answered::Namespace(answer) => Ok(answer),
            _ => Err(Refusal::new(ErrorCode::Internal, "the namespace gave no answer")),
        }
    }

    /// What the plugin makes of something that was published. It may read as if it stood in the event's conversation, but only what
    /// is durable: clients are told what comes of it.
    pub async fn map(&self, plugin: &PluginId, namespace: &str, push: &Arc<Push>, recipients: Vec<UserId>) -> Result<Vec<SocketEmit>, Refusal> {
        let engine = &self.inner;
        let id = push.what.conversation();
        let conversation = match id {
            Some(id) => engine.warmed_id(id).await?,
            None => engine.warmed(&Address::Plugin(plugin.clone())).await?,
        };
        let row = conversation.with_state(State::present_row).filter(|_| id.is_some());
        let actor = push
            .what
            .actor()
            .map_or_else(Actor::server, |user| Actor::user(user.clone(), Transport::Internal));
        let call = Call {
            command: engine.fresh_command(),
            actor,
            trace_id: String::new(),
            now: engine.clock.now(),
            conversation: id,
            origin: Vec::new(),
        };
        // One of its own, in which nothing is staged.
        let conversation = Conversation::new(conversation.id, conversation.lane.clone());
        let scope = HandlerScope::new(engine, &conversation, Place::Reading, call);
        let mut event = Box::new(CoreEvent::of(&push.what, row, recipients));
        if let Some(notification) = &mut event.notification {
            notifications::fill(engine, notification).await?;
        }
        let namespace = namespace.to_owned();
        match engine
            .hooks
            .plan()
            .namespace(&scope, plugin, NamespaceCall::Map { namespace, event })
            .await
        {
            Ok(NamespaceAnswer::Emits(emits)) => Ok(emits),
            Ok(_) => Err(Refusal::new(ErrorCode::Internal, "the mapping gave no events")),
            Err(error) => Err(refusal_of(plugin, &error)),
        }
    }

    /// Failed deliveries above `after`.
    pub async fn failed_deliveries(&self, after: u64, limit: usize) -> Result<Vec<FailedDelivery>, Refusal> {
        Ok(self.inner.store.failed(after, limit).await?)
    }

    /// Tries a failed delivery once more; it is forgotten when that works.
    pub async fn replay_delivery(&self, id: u64) -> Result<(), Refusal> {
        let failed = self.inner.store.failed(id.saturating_sub(1), 1).await?;
        let failed = failed.into_iter().find(|failed| failed.id == id).ok_or_else(Refusal::not_found)?;
        feeds::replay(&self.inner, &failed).await?;
        self.drop_delivery(id).await.map(drop)
    }

    /// Forgets a failed delivery.
    pub async fn drop_delivery(&self, id: u64) -> Result<bool, Refusal> {
        let dropped = self.inner.store.remove_failed(id).await?;
        if dropped {
            self.inner.metrics.failed_deliveries.decrement(1.0);
        }
        Ok(dropped)
    }

    /// Answers every conversation's views directly; reads only.
    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    /// The connections.
    pub fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// The active plugins.
    pub fn hooks(&self) -> &Arc<dyn Hooks> {
        &self.inner.hooks
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What the actor may still ask of its rate limits; none for who is not limited.
    pub fn quotas(&self, actor: &Actor) -> Vec<Quota> {
        if actor.is_limited() {
            self.inner.rates.left(&actor.user)
        } else {
            Vec::new()
        }
    }

    /// The wall clock.
    pub fn now(&self) -> Millis {
        self.inner.clock.now()
    }

    /// How firmly it serves.
    pub fn health(&self) -> Health {
        if self.inner.lanes.iter().any(|lane| lane.has_failed()) {
            Health::ReadOnly
        } else {
            Health::Ready
        }
    }

    /// Waits until everything staged is written and published, the feeds have done it and no timer is due, at most `within`. `false` when that
    /// was not enough: somebody goes on writing, or a plugin keeps failing. Marks that wait to be merged do not count.
    pub async fn settle(&self, within: Duration) -> bool {
        let settled = async {
            loop {
                match self.is_settled().await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "cannot see whether everything is done"),
                }
                tokio::time::sleep(SETTLE_LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(within, settled).await.is_ok()
    }

    async fn is_settled(&self) -> Result<bool, StoreError> {
        let mut tails = Vec::new();
        for lane in &self.inner.lanes {
            let tail = self.inner.store.tail(lane.shard).await?;
            lane.hurry(); // the clock may have been moved by hand, and feeds are told only of what matters to them
            let due = self.inner.store.timers_due(lane.shard, self.inner.clock.now(), 1).await?;
            if !due.is_empty() || !lane.is_idle() || !feeds::are_at(&self.inner, lane.shard, tail.pos) {
                return Ok(false);
            }
            tails.push(tail);
        }
        // What one shard's feeds do may be written in another.
        for (lane, tail) in self.inner.lanes.iter().zip(tails) {
            if self.inner.store.tail(lane.shard).await? != tail {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Finishes what is staged, stops feeds and lanes, saves cursors. Commands after it are `unavailable`.
    pub async fn shutdown(&self) {
        let inner = self.inner.clone();
        if tokio::time::timeout(STOP_MAX, marks::flush_now(&inner)).await.is_err() {
            tracing::warn!("some marks were not staged in time and are lost");
        }
        inner.closing.cancel();
        inner.tasks.close();
        if tokio::time::timeout(STOP_MAX, inner.tasks.wait()).await.is_err() {
            tracing::warn!("feeds did not stop in time; what they did last may be repeated after the start, without effect");
        }
        let lanes = inner.lanes.clone();
        // Joining the writer threads blocks.
        let closed = tokio::task::spawn_blocking(move || lanes.iter().for_each(|lane| lane.close())).await;
        if let Err(error) = closed {
            tracing::error!(%error, "a lane did not close");
        }
        for lane in &inner.lanes {
            lane.publisher_ended().await;
        }
        feeds::save(&inner).await;
        presence::save(&inner).await;
    }
}

/// What may run outside any turn, in a plugin's own conversation.
#[derive(Clone)]
pub(crate) enum Handler {
    Connection(After),
    Http(HttpRequest),
    Namespace { call: NamespaceCall, socket: Option<Arc<dyn Socket>> },
    Cron { name: String, due: Millis },
}

/// What such a handler says.
pub(crate) enum Answered {
    Done,
    Http(HttpResponse),
    Namespace(NamespaceAnswer),
}

/// On whose behalf it runs.
pub(crate) struct Asked {
    pub actor: Actor,
    pub trace_id: String,
    /// Known from before; a new one otherwise.
    pub command: Option<CommandId>,
}

impl Asked {
    pub fn by(actor: Actor) -> Asked {
        Asked {
            actor,
            trace_id: String::new(),
            command: None,
        }
    }
}

impl Handler {
    async fn run(&self, plan: &dyn Plan, scope: &HandlerScope, plugin: &PluginId) -> Result<Answered, HookError> {
        match self {
            Handler::Connection(event) => plan.after(scope, plugin, event).await.map(|()| Answered::Done),
            Handler::Http(request) => plan.http(scope, plugin, request.clone()).await.map(Answered::Http),
            Handler::Namespace { call, .. } => plan.namespace(scope, plugin, call.clone()).await.map(Answered::Namespace),
            Handler::Cron { name, due } => plan.timer(scope, plugin, name, *due, "").await.map(|()| Answered::Done),
        }
    }

    /// A client waits for these, so they may do what it may.
    fn scope(&self, engine: &Arc<Inner>, conversation: &Arc<Conversation>, plugin: &PluginId, call: Call) -> HandlerScope {
        let socket = match self {
            Handler::Http(_) => None,
            Handler::Namespace { socket, .. } => socket.clone(),
            Handler::Connection(_) | Handler::Cron { .. } => return HandlerScope::new(engine, conversation, Place::OutsideTurn, call),
        };
        let acting = Acting::new(engine, plugin, &call, socket);
        HandlerScope::acting(engine, conversation, call, acting)
    }
}

/// Runs a handler of a plugin outside any turn and commits what it writes in the plugin's own conversation.
pub(crate) async fn outside(engine: &Arc<Inner>, plugin: &PluginId, asked: Asked, handler: Handler) -> Result<Answered, Refusal> {
    let address = Address::Plugin(plugin.clone());
    let conversation = engine.warmed(&address).await?;
    let plan = engine.hooks.plan();
    let command = asked.command.unwrap_or_else(|| engine.fresh_command());
    for _ in 0..RUNS_MAX {
        let call = Call {
            command,
            actor: asked.actor.clone(),
            trace_id: asked.trace_id.clone(),
            now: engine.clock.now(),
            conversation: None,
            origin: Vec::new(),
        };
        let scope = handler.scope(engine, &conversation, plugin, call);
        let answer = match handler.run(&*plan, &scope, plugin).await {
            Ok(answer) => answer,
            Err(error) => {
                scope.release().await;
                return Err(refusal_of(plugin, &error));
            }
        };
        if let Some(emits) = scope.only_emits() {
            emits.into_iter().for_each(|emit| publish::emit(&engine.hub, emit));
            return Ok(answer);
        }
        if deliver::commit(engine, &plan, plugin, scope, conversation.id, Some(address.clone()), command).await? {
            return Ok(answer);
        }
    }
    Err(Refusal::new(ErrorCode::Conflict, "what the handler read kept changing under it"))
}

fn refusal_of(plugin: &PluginId, error: &HookError) -> Refusal {
    let code = if error.kind == "gone" {
        ErrorCode::NotFound
    } else {
        ErrorCode::PluginError
    };
    Refusal::new(code, format!("the plugin failed: {}", error.kind)).by_plugin(plugin.as_str(), error.kind)
}

/// Random per process: the standard library seeds its hashers from the operating system.
fn process_seed() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(std::process::id()).to_be_bytes();
    CommandId::hash(&[b"process", &random(), &random()]).0
}

/// Saves cursors and times last seen, forgets idle conversations, keeps gauges.
async fn housekeeping(engine: Arc<Inner>) {
    let mut tick = tokio::time::interval(SAVE_EVERY);
    loop {
        tick.tick().await;
        feeds::save(&engine).await;
        presence::save(&engine).await;
        engine.warm.evict(engine.limits.conversations_warm_max);
        engine.metrics.warm.set(engine.warm.len() as f64);
        engine.metrics.users_online.set(engine.hub.users_online() as f64);
    }
}

/// Erases the text of messages deleted long enough ago.
async fn erasing(engine: Arc<Inner>) {
    let mut tick = tokio::time::interval(ERASE_EVERY.min(engine.erase_after.max(Duration::from_secs(1))));
    loop {
        tick.tick().await;
        loop {
            let before = engine.clock.now() - engine.erase_after.as_millis() as Millis;
            match engine.store.erase_deleted(before, ERASE_BATCH).await {
                Ok(erased) => {
                    engine.metrics.erased.increment(erased as u64);
                    if erased < ERASE_BATCH {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot erase deleted messages; it is tried again");
                    break;
                }
            }
        }
    }
}
