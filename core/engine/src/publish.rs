//! From committed entries to connections, in the order of the log.

use haggle_model::{Address, ConversationKind, Event, UserId};

use crate::{
    conversation::{Audience, Conversation},
    hub::{Hub, Published, Push, What},
    ports,
    transaction::{Emit, StagedEntry},
};

/// Publishes one committed entry to those who may see it. `joined` counts from this entry on, `left` is the last one its user gets.
pub(crate) fn entry(hub: &Hub, conversation: &Conversation, staged: StagedEntry, shared_marks_max: usize) {
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
            let push = Push::new(What::Mark {
                conversation: entry.conversation,
                user: user.clone(),
                mark: *mark,
                at: entry.at,
            });
            return to_mark_watchers(hub, &audience, user, shared_marks_max, &push);
        }
        _ => {}
    }
    if entry.seq > 0 {
        event(hub, audience.kind, &audience.users, staged);
    }
    if let Event::ParticipantLeft { user } = &entry.event {
        audience.users.retain(|other| other != user);
        hub.each(user, |connection| connection.ended(entry.conversation));
    }
}

fn to_mark_watchers(hub: &Hub, audience: &Audience, user: &UserId, shared_marks_max: usize, push: &std::sync::Arc<Push>) {
    if audience.users.len() <= shared_marks_max {
        audience.users.iter().for_each(|user| hub.offer(user, push));
    } else {
        hub.offer(user, push);
    }
}

/// Publishes an event with a seq to these users, or of a broadcast to everybody.
pub(crate) fn event(hub: &Hub, kind: ConversationKind, users: &[UserId], staged: StagedEntry) {
    let push = Push::new(What::Event(Published::new(staged.entry, kind, staged.message)));
    if kind == ConversationKind::Broadcast {
        hub.everyone(|connection| connection.offer(&push));
    } else {
        users.iter().for_each(|user| hub.offer(user, &push));
    }
}

/// Publishes an event that is not kept.
pub(crate) fn emit(hub: &Hub, emit: Emit) {
    let push = Push::new(What::Custom {
        plugin: emit.plugin,
        name: emit.name,
        payload: emit.payload,
    });
    match emit.audience {
        ports::Audience::User(user) => hub.offer(&user, &push),
        ports::Audience::Connection(id) => hub.everyone(|connection| {
            if connection.id() == id {
                connection.offer(&push);
            }
        }),
        ports::Audience::Role(role) => hub.everyone(|connection| {
            if connection.has_role(&role) {
                connection.offer(&push);
            }
        }),
    }
}
