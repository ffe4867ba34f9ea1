//! What a turn writes, all or nothing.

use std::sync::Arc;

use haggle_model::{CommandId, Effects, Entry, Event, MarkChange, Millis, PluginId, UserId};
use haggle_store::MessageRow;

use crate::{ports::Audience, sockets::SocketEmit, state};

/// One entry in the making: the turn gives it its seq, the lane its time.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub actor: Option<UserId>,
    pub event: Event,
    /// Plugins that led to it, oldest first.
    pub origin: Vec<PluginId>,
    /// The id that a message of a plugin gets; the main item has the transaction's.
    pub command: Option<CommandId>,
    pub before: Before,
}

impl Item {
    pub fn new(actor: &UserId, event: Event) -> Item {
        let actor = (!actor.as_str().is_empty()).then(|| actor.clone());
        Item {
            actor,
            event,
            origin: Vec::new(),
            command: None,
            before: Before::Unknown,
        }
    }

    pub fn changing(mut self, before: MessageRow) -> Item {
        self.before = Before::Message(Box::new(before));
        self
    }

    pub fn moving(mut self, before: MarkChange) -> Item {
        self.before = Before::Mark(before);
        self
    }

    pub fn by(mut self, origin: &[PluginId]) -> Item {
        self.origin = origin.to_vec();
        self
    }
}

/// What an event changes, as it was before.
#[derive(Clone, Debug)]
pub(crate) enum Before {
    Unknown,
    /// The message. Of a conversation's change: its last one, with which clients show it.
    Message(Box<MessageRow>),
    /// The marks.
    Mark(MarkChange),
}

/// An entry that the lane has not taken yet.
pub(crate) type Unsent = (Arc<Entry>, Before);

/// An event that is not kept: published after the commit.
#[derive(Clone, Debug)]
pub(crate) enum Emit {
    /// For every kind of connection.
    Custom {
        audience: Audience,
        plugin: PluginId,
        name: String,
        payload: String,
    },
    /// For connections in the plugin's namespaces.
    Sockets { plugin: PluginId, emit: SocketEmit },
}

/// Entries of one conversation and what commits with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    pub items: Vec<Item>,
    /// Which item is what was asked for; it carries the command id, and the answer names its seq.
    pub main: usize,
    /// Commit with the main item (with an entry of their own where there is none).
    pub effects: Effects,
    pub emits: Vec<Emit>,
    /// The answer says that what was asked for was there already.
    pub existed: bool,
}

impl Transaction {
    /// One item and nothing else.
    pub fn of(item: Item) -> Transaction {
        Transaction {
            items: vec![item],
            ..Transaction::default()
        }
    }

    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.effects.is_empty()
    }

    /// A rough size in bytes of what will be stored.
    pub fn bytes(&self) -> usize {
        self.items.iter().map(|item| event_bytes(&item.event)).sum::<usize>() + effects_bytes(&self.effects)
    }
}

/// What the lane and the hub get of an item.
#[derive(Clone, Debug)]
pub(crate) struct StagedEntry {
    pub entry: Arc<Entry>,
    /// For events about a message: its state after the event. Of a conversation's change: its last message.
    pub message: Option<Arc<MessageRow>>,
    /// Of marks: more is read, and not only delivered.
    pub is_read: bool,
}

impl StagedEntry {
    /// The state after `entry` of the message it is about; of a creation it is made when somebody asks.
    pub fn new(entry: Arc<Entry>, before: Before) -> StagedEntry {
        let mut staged = StagedEntry {
            entry,
            message: None,
            is_read: true,
        };
        match before {
            Before::Unknown => {}
            Before::Message(mut row) => {
                state::change_message(&mut row, &staged.entry);
                staged.message = Some(Arc::from(row));
            }
            Before::Mark(before) => {
                if let Event::Marked { mark, .. } | Event::BroadcastMarked { mark, .. } = &staged.entry.event {
                    staged.is_read = mark.read_seq > before.read_seq;
                }
            }
        }
        staged
    }
}

/// When and under which id a transaction is staged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub command: CommandId,
    pub digest: u64,
    /// A retry will be recognised.
    pub remember: bool,
    pub at: Millis,
}

fn event_bytes(event: &Event) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    32 + match event {
        Event::MessageCreated(content) | Event::MessageEdited { content, .. } => {
            content.text.len()
                + content.kind.len()
                + text(&content.metadata)
                + text(&content.client_id)
                + content.decided_by.len() * 48
                + content.sender_roles.iter().map(String::len).sum::<usize>()
        }
        Event::Custom { name, payload } => name.len() + payload.len(),
        Event::ConversationCreated(created) => text(&created.name) + text(&created.avatar) + text(&created.state) + 64,
        Event::ConversationUpdated(update) => text(&update.name) + text(&update.avatar) + text(&update.state),
        Event::ProfileUpdated(profile) => text(&profile.name) + text(&profile.avatar) + text(&profile.attributes) + text(&profile.preferences),
        Event::Notified(notification) => notification.title.len() + notification.body.len() + text(&notification.data) + 64,
        _ => 32,
    }
}

fn effects_bytes(effects: &Effects) -> usize {
    let kv: usize = effects
        .kv
        .iter()
        .map(|change| 32 + change.key.len() + change.value.as_ref().map_or(0, Vec::len))
        .sum();
    let timers: usize = effects.timers.iter().map(|timer| 32 + timer.name.len() + timer.payload.len()).sum();
    let outgoing: usize = effects.outgoing.iter().map(|item| 64 + outgoing_bytes(&item.what)).sum();
    let held: usize = effects
        .reservations
        .iter()
        .map(|held| 64 + held.key.len() + held.state.as_ref().map_or(0, |state| state.value.len()))
        .sum();
    kv + timers + outgoing + held + effects.answer.as_ref().map_or(0, String::len)
}

fn outgoing_bytes(what: &haggle_model::Outgoing) -> usize {
    use haggle_model::Outgoing;
    match what {
        Outgoing::Message { content, .. } => content.text.len() + content.metadata.as_ref().map_or(0, String::len),
        Outgoing::Personal(event) => event_bytes(event),
        Outgoing::Kv(changes) => changes
            .iter()
            .map(|change| 32 + change.key.len() + change.value.as_ref().map_or(0, Vec::len))
            .sum(),
        Outgoing::Add { key, .. } => 32 + key.len(),
        Outgoing::Keep { keys, .. } | Outgoing::Release { keys, .. } => keys.iter().map(|key| 8 + key.len()).sum(),
        Outgoing::Conversation { participants, name, state } => {
            participants.iter().map(|user| user.as_str().len()).sum::<usize>()
                + name.as_ref().map_or(0, String::len)
                + state.as_ref().map_or(0, String::len)
        }
    }
}
