//! Local fan-out: which connections a user has, and one event to many of them.
//!
//! The hub never waits and never fails: a connection's [`Subscriber::offer`] puts what it wants into its own bounded outbox.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use haggle_model::{ConversationId, ConversationKind, Entry, MarkChange, Millis, PluginId, UserId};
use haggle_store::{MessageRow, MessageView};
use parking_lot::RwLock;

use crate::{
    Transport,
    concurrent_map::ConcurrentMap,
    sockets::{Recipients, Sockets},
};

/// Encodings that one push keeps: one slot per transport format.
pub const ENCODINGS: usize = 4;

/// Something on its way to connections, encoded at most once per format.
pub struct Push {
    /// What it is.
    pub what: What,
    encodings: [OnceLock<Bytes>; ENCODINGS],
}

impl Push {
    /// A push that is not yet encoded.
    pub fn new(what: What) -> Arc<Push> {
        Arc::new(Push {
            what,
            encodings: Default::default(),
        })
    }

    /// The bytes in the format `slot` (below [`ENCODINGS`]), made by `encode` the first time.
    pub fn encoded(&self, slot: usize, encode: impl FnOnce(&What) -> Bytes) -> Bytes {
        self.encodings[slot].get_or_init(|| encode(&self.what)).clone()
    }
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

/// What a push says.
#[derive(Debug)]
pub enum What {
    /// A committed event with a seq; of a personal conversation: the `me` stream.
    Event(Published),
    /// Somebody's marks moved.
    Mark {
        /// Where.
        conversation: ConversationId,
        /// Whose.
        user: UserId,
        /// The marks now.
        mark: MarkChange,
        /// More is read than before, and not only delivered.
        is_read: bool,
        /// When.
        at: Millis,
    },
    /// Somebody is (not) typing; dropped freely.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// The name to show; falls back to the id.
        name: String,
        /// Typing or not.
        on: bool,
    },
    /// Somebody came or went; dropped freely.
    Presence {
        /// Who.
        user: UserId,
        /// Has a connection.
        online: bool,
        /// When last seen, of who is offline.
        last_seen: Option<Millis>,
    },
    /// An event of a plugin that is not kept.
    Custom {
        /// Whose.
        plugin: PluginId,
        /// `x.<plugin>.…`.
        name: String,
        /// Any JSON value as text.
        payload: String,
    },
}

impl What {
    /// Where it happened, if anywhere.
    pub fn conversation(&self) -> Option<ConversationId> {
        match self {
            What::Event(published) => Some(published.entry.conversation),
            What::Mark { conversation, .. } | What::Typing { conversation, .. } => Some(*conversation),
            What::Presence { .. } | What::Custom { .. } => None,
        }
    }

    /// Who did it, or whose it is.
    pub fn actor(&self) -> Option<&UserId> {
        match self {
            What::Event(published) => published.entry.actor.as_ref(),
            What::Mark { user, .. } | What::Typing { user, .. } | What::Presence { user, .. } => Some(user),
            What::Custom { .. } => None,
        }
    }
}

/// A committed event as connections see it.
#[derive(Debug)]
pub struct Published {
    /// The entry; its `seq` is not 0.
    pub entry: Arc<Entry>,
    /// Of what kind its conversation is.
    pub kind: ConversationKind,
    changed: Option<Arc<MessageRow>>,
}

impl Published {
    /// An event with the state after it of the message it changed, if it changed one.
    pub fn new(entry: Arc<Entry>, kind: ConversationKind, changed: Option<Arc<MessageRow>>) -> Published {
        Published { entry, kind, changed }
    }

    /// For events about a message: its state after this event. For a changed conversation: its last message, where it is known.
    pub fn message(&self) -> Option<MessageView<'_>> {
        let changed = self.changed.as_deref().map(MessageRow::view);
        changed.or_else(|| MessageView::created(&self.entry))
    }
}

/// One connection of a user, as the hub sees it.
pub trait Subscriber: Send + Sync {
    /// Unique in this process.
    fn id(&self) -> &str;
    /// Whose.
    fn user(&self) -> &UserId;
    /// The token has this role.
    fn has_role(&self, role: &str) -> bool;
    /// By which way it came.
    fn transport(&self) -> Transport;
    /// Has asked for this conversation's events (joined it).
    fn subscribed(&self, conversation: ConversationId) -> bool;
    /// Takes or leaves a push; never waits. Gets the events of every conversation its user is in, subscribed or not.
    fn offer(&self, push: &Arc<Push>);
    /// The user is no longer in this conversation: nothing more of it comes.
    fn ended(&self, conversation: ConversationId);
    /// Asks the connection to close with a reason that tells the client to come back (`drain`) or not (`revoked`).
    fn close(&self, reason: &'static str);
    /// Nobody is there at the moment: pushes are kept for a client that may come back, and its user is not online by it.
    /// Changes only in [`Hub::change`].
    fn is_away(&self) -> bool {
        false
    }
}

type Connections = Arc<RwLock<Vec<Arc<dyn Subscriber>>>>;

/// All connections of this node.
#[derive(Default)]
pub struct Hub {
    users: ConcurrentMap<UserId, Connections>,
    /// Users with a connection that is not away.
    online: AtomicUsize,
    /// Connections in plugins' namespaces, where there are any: they hear of everything once, not each.
    sockets: OnceLock<Arc<dyn Sockets>>,
}

/// Whether a connection was the first or the last of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// It was.
    Changed,
    /// The user has others.
    Same,
}

impl Hub {
    /// Registers a connection.
    pub fn connect(&self, connection: Arc<dyn Subscriber>) -> Edge {
        let users = self.users.pin();
        loop {
            let connections = users.get_or_insert_with(connection.user().clone(), Connections::default).clone();
            let mut list = connections.write();
            // An emptied list may just have been removed from the map: look again.
            if !users.get(connection.user()).is_some_and(|current| Arc::ptr_eq(current, &connections)) {
                continue;
            }
            let before = is_online(&list);
            list.push(connection);
            self.count(before, is_online(&list));
            return if before { Edge::Same } else { Edge::Changed };
        }
    }

    /// Forgets a connection.
    pub fn disconnect(&self, user: &UserId, id: &str) -> Edge {
        let users = self.users.pin();
        let Some(connections) = users.get(user).cloned() else {
            return Edge::Same;
        };
        let mut list = connections.write();
        let (before, was_online) = (list.len(), is_online(&list));
        list.retain(|connection| connection.id() != id);
        if list.is_empty() && before > 0 {
            users.remove(user);
        }
        let online = is_online(&list);
        self.count(was_online, online);
        if was_online && !online { Edge::Changed } else { Edge::Same }
    }

    /// Lets a connection of the user become away or present again by `set`, and says whether the user is online by that
    /// (`Some(true)`), is no longer, or is what it was (`None`).
    pub fn change(&self, user: &UserId, set: impl FnOnce()) -> Option<bool> {
        let Some(connections) = self.users.pin().get(user).cloned() else {
            set();
            return None;
        };
        let list = connections.write();
        let before = is_online(&list);
        set();
        let after = is_online(&list);
        self.count(before, after);
        (before != after).then_some(after)
    }

    /// Counts a user, whose list is locked, when it comes or goes.
    fn count(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => _ = self.online.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.online.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Calls `f` for every connection of the user.
    pub fn each(&self, user: &UserId, mut f: impl FnMut(&Arc<dyn Subscriber>)) {
        if let Some(connections) = self.users.pin().get(user) {
            connections.read().iter().for_each(&mut f);
        }
    }

    /// Calls `f` for every connection of everybody.
    pub fn everyone(&self, mut f: impl FnMut(&Arc<dyn Subscriber>)) {
        for (_, connections) in &self.users.pin() {
            connections.read().iter().for_each(&mut f);
        }
    }

    /// Offers a push to every connection of the user.
    pub fn offer(&self, user: &UserId, push: &Arc<Push>) {
        self.each(user, |connection| connection.offer(push));
    }

    /// Has at least one connection that is not away.
    pub fn online(&self, user: &UserId) -> bool {
        self.users.pin().get(user).is_some_and(|connections| is_online(&connections.read()))
    }

    /// Has a connection that has subscribed to the conversation.
    pub fn watching(&self, user: &UserId, conversation: ConversationId) -> bool {
        let mut watching = false;
        self.each(user, |connection| watching |= connection.subscribed(conversation));
        watching
    }

    /// Tells these of everything that is published from now on; the first ones stay.
    pub fn set_sockets(&self, sockets: Arc<dyn Sockets>) {
        let _ = self.sockets.set(sockets);
    }

    pub(crate) fn sockets(&self) -> Option<&Arc<dyn Sockets>> {
        self.sockets.get()
    }

    pub(crate) fn tell_sockets(&self, push: &Arc<Push>, recipients: Recipients<'_>) {
        if let Some(sockets) = self.sockets.get() {
            sockets.published(push, recipients);
        }
    }

    /// Some users with a connection.
    pub fn some_online(&self, limit: usize) -> Vec<UserId> {
        self.users
            .pin()
            .iter()
            .filter(|(_, connections)| is_online(&connections.read()))
            .take(limit)
            .map(|(user, _)| user.clone())
            .collect()
    }

    /// Users with a connection that is not away.
    pub fn users_online(&self) -> usize {
        self.online.load(Ordering::Relaxed)
    }
}

fn is_online(connections: &[Arc<dyn Subscriber>]) -> bool {
    connections.iter().any(|connection| !connection.is_away())
}
