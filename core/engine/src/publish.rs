//! From committed entries to connections, in the order of the log.

use std::sync::Arc;

use haggle_model::{Address, ConversationId, ConversationKind, Event, MarkChange, Millis, UserId};

use crate::{
    conversation::{Audience, Conversation},
    hub::{Hub, Published, Push, What},
    ports,
    sockets::Recipients,
    transaction::{Emit, StagedEntry},
};

/// Those who come into a new conversation with its first event, if that is what was committed.
pub(crate) fn founders(staged: &[StagedEntry]) -> Vec<UserId> {
    let is_new = staged
        .first()
        .is_some_and(|first| matches!(first.entry.event, Event::ConversationCreated(_)));
    let joined = staged.iter().filter_map(|staged| match &staged.entry.event {
        Event::ParticipantJoined { user, .. } if is_new => Some(user.clone()),
        _ => None,
    });
    joined.collect()
}

/// Publishes one committed entry to those who may see it. `joined` counts from this entry on, `left` is the last one its user gets.
pub(crate) fn entry(hub: &Hub, conversation: &Conversation, staged: StagedEntry, founders: &[UserId], shared_marks_max: usize) {
    let mut audience = conversation.audience.lock();
    let entry = staged.entry.clone();
    match &entry.event {
        Event::ConversationCreated(created) => {
            audience.kind = created.address.kind();
            if let Address::Personal(user) = &created.address {
                audience.users = vec![user.clone()];
            }
        }
        Event::ParticipantJoined { user, .. } if !audience.users.contains(user) => audience.users.push(user.clone()),
        Event::Marked { user, mark } => {
            let push = moved(entry.conversation, user, *mark, staged.is_read, entry.at);
            return to_mark_watchers(hub, &audience, entry.conversation, user, shared_marks_max, &push);
        }
        Event::BroadcastMarked { conversation, mark } => {
            // The reader's own connections: nobody else is told.
            if let Some(user) = &entry.actor {
                let push = moved(*conversation, user, *mark, staged.is_read, entry.at);
                hub.offer(user, &push);
                hub.tell_sockets(&push, Recipients::Users(std::slice::from_ref(user), &[*conversation]));
            }
            return;
        }
        _ => {}
    }
    if entry.seq > 0 {
        event(hub, audience.kind, &audience.users, founders, staged);
    }
    if let Event::ParticipantLeft { user } = &entry.event {
        audience.users.retain(|other| other != user);
        hub.each(user, |connection| connection.ended(entry.conversation));
    }
}

fn moved(conversation: ConversationId, user: &UserId, mark: MarkChange, is_read: bool, at: Millis) -> Arc<Push> {
    Push::new(What::Mark {
        conversation,
        user: user.clone(),
        mark,
        is_read,
        at,
    })
}

fn to_mark_watchers(hub: &Hub, audience: &Audience, conversation: ConversationId, user: &UserId, shared_marks_max: usize, push: &Arc<Push>) {
    let told = if audience.users.len() <= shared_marks_max {
        &audience.users
    } else {
        std::slice::from_ref(user)
    };
    told.iter().for_each(|user| hub.offer(user, push));
    hub.tell_sockets(push, Recipients::Users(told, &[conversation]));
}

/// Publishes an event with a seq to these users, or of a broadcast to everybody. At the first event of a conversation there are
/// no users yet: connections begin with their own `joined`, namespaces of plugins are told because of the founders.
pub(crate) fn event(hub: &Hub, kind: ConversationKind, users: &[UserId], founders: &[UserId], staged: StagedEntry) {
    let conversation = staged.entry.conversation;
    let push = Push::new(What::Event(Published::new(staged.entry, kind, staged.message)));
    if kind == ConversationKind::Broadcast {
        hub.everyone(|connection| connection.offer(&push));
        hub.tell_sockets(&push, Recipients::Everyone);
    } else {
        users.iter().for_each(|user| hub.offer(user, &push));
        let told = if users.is_empty() { founders } else { users };
        hub.tell_sockets(&push, Recipients::Users(told, &[conversation]));
    }
}

/// Publishes an event that is not kept.
pub(crate) fn emit(hub: &Hub, emit: Emit) {
    match emit {
        Emit::Sockets { plugin, emit } => {
            if let Some(sockets) = hub.sockets() {
                sockets.emit(&plugin, emit);
            }
        }
        Emit::Custom {
            audience,
            plugin,
            name,
            payload,
        } => custom(hub, audience, &Push::new(What::Custom { plugin, name, payload })),
    }
}

fn custom(hub: &Hub, audience: ports::Audience, push: &Arc<Push>) {
    match audience {
        ports::Audience::User(user) => {
            hub.offer(&user, push);
            hub.tell_sockets(push, Recipients::Users(&[user], &[]));
        }
        ports::Audience::Connection(id) => {
            hub.everyone(|connection| {
                if connection.id() == id {
                    connection.offer(push);
                }
            });
            hub.tell_sockets(push, Recipients::Connection(&id));
        }
        ports::Audience::Role(role) => {
            hub.everyone(|connection| {
                if connection.has_role(&role) {
                    connection.offer(push);
                }
            });
            hub.tell_sockets(push, Recipients::Role(&role));
        }
    }
}
