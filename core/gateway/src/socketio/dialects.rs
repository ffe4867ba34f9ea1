//! Namespaces that plugins own: who is in them, and one event to many of them.
//!
//! What the core publishes is told to [`Dialects`] once. A dialect with anybody in it whom it concerns has its plugin map it,
//! once, and spreads what comes back: each event is encoded once and handed to the outboxes of those it is for. Mappings of one
//! conversation keep their order. Whoever would miss a kept event because its plugin is too slow, or away for too long, is
//! disconnected, comes back and reads; signs of life are dropped.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use haggle_engine::{
    Published, Push, Refusal, What,
    sockets::{Recipients, SocketAudience, SocketEmit, Sockets, Target},
};
use haggle_model::{ConversationId, ConversationKind, Event, PluginId, UserId};
use parking_lot::{Mutex, RwLock};
use tokio::{sync::mpsc, time::Instant};

use super::{
    encode, failure, metrics,
    opened::Opened,
    owned::{Emitted, Owned},
    place::Seated,
};
use crate::{
    Gateway,
    settings::{DialectSettings, SocketIoSettings},
};

/// Mappings of one dialect that run side by side; those of one conversation never do.
const LANES: usize = 4;
/// Published events of one lane that wait to be mapped.
const WAITING_MAX: usize = 1024;
/// How long a mapping that fails for a reason that passes is tried again; what comes after it waits meanwhile.
const RETRIES_WITHIN: Duration = Duration::from_secs(5);
/// Between the first tries; twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// Between the last ones.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// All of them, in the order of the configuration.
#[derive(Default)]
pub(super) struct Dialects {
    list: Vec<Arc<Dialect>>,
    started: AtomicBool,
}

/// A namespace and the plugin that owns it.
pub(super) struct Dialect {
    pub settings: DialectSettings,
    pub plugin: PluginId,
    /// Numbers of events, where clients can be recovered.
    offsets: Option<Arc<AtomicU64>>,
    inside: RwLock<Inside>,
    lanes: Vec<mpsc::Sender<Job>>,
    /// The other ends, until the lanes run.
    jobs: Mutex<Vec<mpsc::Receiver<Job>>>,
}

#[derive(Default)]
struct Inside {
    by_id: HashMap<Arc<str>, Arc<Owned>>,
    by_user: HashMap<UserId, Vec<Arc<Owned>>>,
    rooms: HashMap<Box<str>, Vec<Arc<Owned>>>,
}

/// Something to be mapped, and whom the core tells of it.
struct Job {
    push: Arc<Push>,
    told: Told,
}

enum Told {
    Users(Vec<UserId>, Vec<ConversationId>),
    Everyone,
    Role(String),
    Connection(String),
}

impl Told {
    fn of(recipients: Recipients<'_>) -> Told {
        match recipients {
            Recipients::Users(users, conversations) => Told::Users(users.to_vec(), conversations.to_vec()),
            Recipients::Everyone => Told::Everyone,
            Recipients::Role(role) => Told::Role(role.to_owned()),
            Recipients::Connection(connection) => Told::Connection(connection.to_owned()),
        }
    }

    fn users(&self) -> &[UserId] {
        match self {
            Told::Users(users, _) => users,
            _ => &[],
        }
    }

    fn conversations(&self) -> &[ConversationId] {
        match self {
            Told::Users(_, conversations) => conversations,
            _ => &[],
        }
    }
}

impl Dialects {
    /// `offsets` number the events of those whose clients can be recovered.
    pub fn new(settings: &SocketIoSettings, offsets: &Arc<AtomicU64>) -> Dialects {
        let dialect = |dialect: &DialectSettings| {
            let offsets = settings.recovers(&dialect.namespace).then(|| offsets.clone());
            Arc::new(Dialect::new(dialect, offsets))
        };
        Dialects {
            list: settings.dialects.iter().map(dialect).collect(),
            started: AtomicBool::new(false),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether requests to this path are some dialect's.
    pub fn has_path(&self, path: &str) -> bool {
        let same = |dialect: &Arc<Dialect>| dialect.settings.path.as_deref().is_some_and(|own| super::opened::same_path(own, path));
        self.list.iter().any(same)
    }

    /// Those that the request and the namespace can mean, in order.
    pub fn candidates<'a>(&'a self, opened: &'a Opened, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Dialect>> {
        let fits = move |dialect: &&Arc<Dialect>| dialect.settings.namespace == namespace && opened.fits(&dialect.settings);
        self.list.iter().filter(fits)
    }

    /// Starts the lanes, once. Call inside a runtime.
    pub fn start(&self, gateway: &Arc<Gateway>) {
        if self.list.is_empty() || self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        for (index, dialect) in self.list.iter().enumerate() {
            for jobs in dialect.jobs.lock().drain(..) {
                tokio::spawn(run_lane(Arc::downgrade(gateway), index, jobs));
            }
        }
    }
}

impl Sockets for Dialects {
    fn published(&self, push: &Arc<Push>, recipients: Recipients<'_>) {
        if is_mapped(&push.what) {
            self.list.iter().for_each(|dialect| dialect.published(push, recipients));
        }
    }

    fn emit(&self, plugin: &PluginId, emit: SocketEmit) {
        let own = self.list.iter().filter(|dialect| dialect.plugin == *plugin);
        own.for_each(|dialect| dialect.spread(&emit, true, None));
    }
}

/// Of personal conversations only notifications are anybody's business; a delivered mark is nobody's.
fn is_mapped(what: &What) -> bool {
    match what {
        What::Event(Published { entry, kind, .. }) => *kind != ConversationKind::Personal || matches!(entry.event, Event::Notified(_)),
        What::Mark { is_read, .. } => *is_read,
        What::Typing { .. } | What::Presence { .. } | What::Custom { .. } => true,
    }
}

/// Who misses it can read it later, and has to be told to: an event of a log, or a mark of what was read. Anything else goes by.
fn can_be_read(what: &What) -> bool {
    matches!(what, What::Event(_) | What::Mark { .. })
}

async fn run_lane(gateway: Weak<Gateway>, index: usize, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        let (until, mut wait) = (Instant::now() + RETRIES_WITHIN, RETRY_FIRST);
        loop {
            let Some(strong) = gateway.upgrade() else { return };
            let dialect = &strong.socketio.dialects.list[index];
            let Err(refusal) = dialect.map(&strong, &job).await else { break };
            let may_be_retried = can_be_read(&job.push.what) && failure::passes(&refusal);
            if !may_be_retried || Instant::now() + wait > until {
                dialect.give_up(&job, &refusal, may_be_retried);
                break;
            }
            drop(strong); // A gateway that has ended is not kept for what nobody will hear.
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RETRY_MAX);
        }
    }
}

impl Dialect {
    fn new(settings: &DialectSettings, offsets: Option<Arc<AtomicU64>>) -> Dialect {
        let (lanes, jobs) = (0..LANES).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        Dialect {
            plugin: PluginId::from(settings.plugin.as_str()),
            settings: settings.clone(),
            offsets,
            inside: RwLock::default(),
            lanes,
            jobs: Mutex::new(jobs),
        }
    }

    // Who is in.

    pub fn enter(&self, socket: &Arc<Owned>) {
        let mut inside = self.inside.write();
        inside.by_id.insert(socket.id().clone(), socket.clone());
        if let Some(user) = socket.place().named_user() {
            inside.by_user.entry(user.clone()).or_default().push(socket.clone());
        }
    }

    /// First out of the list, then out of its rooms: it can enter none after that.
    pub fn leave(&self, socket: &Arc<Owned>) {
        {
            let mut inside = self.inside.write();
            inside.by_id.remove(socket.id());
            if let Some(user) = socket.place().named_user() {
                take_out(&mut inside.by_user, user, socket);
            }
        }
        let rooms = socket.take_rooms();
        let mut inside = self.inside.write();
        for room in rooms {
            take_out(&mut inside.rooms, &*room, socket);
        }
    }

    pub fn enter_room(&self, room: &str, socket: &Arc<Owned>) {
        let mut inside = self.inside.write();
        if inside.by_id.contains_key(socket.id()) {
            inside.rooms.entry(room.into()).or_default().push(socket.clone());
        }
    }

    pub fn leave_room(&self, room: &str, socket: &Owned) {
        take_out(&mut self.inside.write().rooms, room, socket);
    }

    // What they hear.

    fn published(&self, push: &Arc<Push>, recipients: Recipients<'_>) {
        if !self.concerns(&push.what, recipients) {
            return;
        }
        let mut hasher = DefaultHasher::new();
        push.what.conversation().hash(&mut hasher);
        let lane = &self.lanes[(hasher.finish() % LANES as u64) as usize];
        let job = Job {
            push: push.clone(),
            told: Told::of(recipients),
        };
        if let Err(mpsc::error::TrySendError::Full(job)) = lane.try_send(job) {
            metrics::unmapped("full");
            self.miss(&job);
        }
    }

    /// Has the plugin map it, and spreads what comes back.
    async fn map(&self, gateway: &Gateway, job: &Job) -> Result<(), Refusal> {
        let users = job.told.users().to_vec();
        let emits = gateway.engine.map(&self.plugin, &self.settings.namespace, &job.push, users).await?;
        let kept = !encode::is_volatile(&job.push.what);
        emits.iter().for_each(|emit| self.spread(emit, kept, Some(&job.told)));
        Ok(())
    }

    /// It is not mapped. Where the plugin cannot map this one, to throw everybody out would only make them come back to find the
    /// same; where it was away for too long (`was_late`), coming back is how they get what they missed.
    fn give_up(&self, job: &Job, refusal: &Refusal, was_late: bool) {
        metrics::unmapped(if was_late { "late" } else { "failed" });
        let namespace = &self.settings.namespace;
        if can_be_read(&job.push.what) {
            tracing::warn!(plugin = %self.plugin, %namespace, %refusal, was_late, "an event was not mapped, and is missing in the namespace");
        } else {
            tracing::debug!(plugin = %self.plugin, %namespace, %refusal, "a sign of life was not mapped");
        }
        if was_late {
            self.miss(job);
        }
    }

    /// Lets those come back who miss it.
    fn miss(&self, job: &Job) {
        if can_be_read(&job.push.what) {
            self.told(&job.told).into_iter().for_each(Owned::has_missed);
        }
    }

    /// Somebody in here may hear of it. Who comes and goes may be told to more than those who share a conversation.
    fn concerns(&self, what: &What, recipients: Recipients<'_>) -> bool {
        let inside = self.inside.read();
        match recipients {
            Recipients::Users(users, _) => {
                let any = !inside.by_id.is_empty();
                any && (matches!(what, What::Presence { .. }) || users.iter().any(|user| inside.by_user.contains_key(user)))
            }
            Recipients::Connection(connection) => inside.by_id.contains_key(connection),
            Recipients::Everyone | Recipients::Role(_) => !inside.by_id.is_empty(),
        }
    }

    fn told(&self, told: &Told) -> Vec<Arc<Owned>> {
        let inside = self.inside.read();
        match told {
            Told::Users(users, _) => inside.of_users(users),
            Told::Everyone | Told::Role(_) => inside.everyone(),
            Told::Connection(connection) => inside.by_id.get(connection.as_str()).cloned().into_iter().collect(),
        }
    }

    /// Hands an event to those it is for, encoded once. With `kept` clients that are away get it when they are back.
    fn spread(&self, emit: &SocketEmit, kept: bool, mapped: Option<&Told>) {
        let audience = &emit.audience;
        if audience.namespace.as_ref().is_some_and(|namespace| *namespace != self.settings.namespace) {
            return;
        }
        let frames: OnceLock<Bytes> = OnceLock::new();
        for socket in self.audience(audience, emit, mapped) {
            if let Some(token) = &emit.token {
                socket.ask(token, &emit.name, &emit.args);
                continue;
            }
            let frames = frames.get_or_init(|| self.encoded(emit, kept)).clone();
            socket.push(if kept { Emitted::Kept(frames) } else { Emitted::Once(frames) });
        }
    }

    fn encoded(&self, emit: &SocketEmit, kept: bool) -> Bytes {
        let last = match &self.offsets {
            Some(offsets) if kept => format!("\"{}\"", offsets.fetch_add(1, Ordering::Relaxed)),
            // Else a text at the end would be taken for an offset.
            Some(_) => "null".to_owned(),
            None => String::new(),
        };
        encode::named_event(&self.settings.namespace, None, &emit.name, &emit.args, &last)
    }

    fn audience(&self, audience: &SocketAudience, emit: &SocketEmit, mapped: Option<&Told>) -> Vec<Arc<Owned>> {
        let own;
        let mut sockets = match &audience.to {
            Target::Recipients => mapped.map_or_else(Vec::new, |told| self.told(told)),
            Target::Conversation(_) => self.inside.read().of_users(&emit.participants),
            Target::User(user) => self.inside.read().of_users(std::slice::from_ref(user)),
            Target::Connection(id) => self.inside.read().by_id.get(id.as_str()).cloned().into_iter().collect(),
            Target::Room(room) => self.inside.read().rooms.get(room.as_str()).cloned().unwrap_or_default(),
            Target::Role(_) | Target::Everyone => self.inside.read().everyone(),
        };
        let conversations = match &audience.to {
            Target::Conversation(id) => {
                own = [*id];
                &own[..]
            }
            _ => mapped.map_or(&[][..], Told::conversations),
        };
        // Locks of connections are never taken under the lock of the list.
        let role = match (&audience.to, mapped) {
            (Target::Role(role), _) | (Target::Recipients, Some(Told::Role(role))) => Some(role),
            _ => None,
        };
        sockets.retain(|socket| {
            let other_user = audience.except_user.as_ref().is_none_or(|user| socket.place().named_user() != Some(user));
            let other = audience.except_connection.as_deref().is_none_or(|id| **socket.id() != *id);
            let has_role = role.is_none_or(|role| socket.place().has_role(role));
            other_user && other && has_role && audience.joined.is_none_or(|joined| socket.place().has_joined(conversations) == joined)
        });
        sockets
    }
}

impl Inside {
    fn of_users(&self, users: &[UserId]) -> Vec<Arc<Owned>> {
        users.iter().filter_map(|user| self.by_user.get(user)).flatten().cloned().collect()
    }

    fn everyone(&self) -> Vec<Arc<Owned>> {
        self.by_id.values().cloned().collect()
    }
}

fn take_out<K, Q>(map: &mut HashMap<K, Vec<Arc<Owned>>>, key: &Q, socket: &Owned)
where
    K: std::borrow::Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    if let Some(list) = map.get_mut(key) {
        list.retain(|other| other.id() != socket.id());
        if list.is_empty() {
            map.remove(key);
        }
    }
}
