//! Who is there: derived from connections, told to those who have joined a conversation with the user.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use haggle_model::{ConversationId, Millis, UserId};
use haggle_store::{ConversationRow, MemberRow, StoreError};
use parking_lot::Mutex;

use crate::{
    Inner, Subscriber,
    hub::{Push, What},
    sockets::Recipients,
};

/// A user who comes back within this time was never away.
const GRACE: Duration = Duration::from_secs(2);
/// Conversations of a user in which its presence is told.
const CONVERSATIONS_MAX: usize = 200;
/// Participants of one conversation who are told.
const PARTICIPANTS_MAX: usize = 256;
/// Users about whom a connection that comes back is told; others are told of when they come or go.
const SHOWN_AGAIN_MAX: usize = 1024;

/// When users were last seen, until it is saved.
#[derive(Default)]
pub(crate) struct Presence {
    unsaved: Mutex<HashMap<UserId, Millis>>,
}

/// The user has its first connection.
pub(crate) fn came(engine: &Arc<Inner>, user: UserId) {
    let inner = engine.clone();
    engine.runtime.spawn(async move { tell(&inner, &user, true, None).await });
}

/// The user's last connection is gone.
pub(crate) fn went(engine: &Arc<Inner>, user: UserId) {
    let seen = engine.clock.now();
    engine.presence.unsaved.lock().insert(user.clone(), seen);
    let inner = engine.clone();
    engine.runtime.spawn(async move {
        tokio::time::sleep(GRACE).await;
        if !inner.hub.online(&user) {
            tell(&inner, &user, false, Some(seen)).await;
        }
    });
}

/// Tells everybody who has joined a conversation with the user.
pub(crate) async fn tell(engine: &Arc<Inner>, user: &UserId, online: bool, last_seen: Option<Millis>) {
    let companions = match engine.store.companions(user, CONVERSATIONS_MAX, PARTICIPANTS_MAX).await {
        Ok(companions) => companions,
        Err(error) => return tracing::warn!(%error, "that a user came or went is not told since the store cannot be read"),
    };
    let push = Push::new(What::Presence {
        user: user.clone(),
        online,
        last_seen,
    });
    let mut told: HashSet<String> = HashSet::new();
    for (id, members) in &companions {
        for member in members {
            engine.hub.each(member, |connection| {
                if connection.subscribed(*id) && told.insert(connection.id().to_owned()) {
                    connection.offer(&push);
                }
            });
        }
    }
    if engine.hub.sockets().is_some() {
        let shared: Vec<ConversationId> = companions.iter().map(|(id, _)| *id).collect();
        let contacts: HashSet<UserId> = companions.into_iter().flat_map(|(_, members)| members).collect();
        let contacts: Vec<UserId> = contacts.into_iter().collect();
        engine.hub.tell_sockets(&push, Recipients::Users(&contacts, &shared));
    }
}

/// Shows a connection that has come back who of the others in these conversations is online, everybody once.
pub(crate) async fn show_again(engine: &Inner, connection: &dyn Subscriber, conversations: &[ConversationId]) {
    let mut shown = HashSet::new();
    for id in conversations {
        match conversation(engine, *id).await {
            Ok(Some((row, mut members))) if row.blocked_by.is_empty() => {
                // Who has left here may be present in the next.
                members.retain(|member| member.left_seq.is_none() && shown.insert(member.user.clone()));
                show(engine, connection, &row, &members).await;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "who is online is not shown since the store cannot be read"),
        }
        if shown.len() >= SHOWN_AGAIN_MAX {
            return;
        }
        // The embedded store makes nobody wait, and there may be hundreds.
        tokio::task::yield_now().await;
    }
}

async fn conversation(engine: &Inner, id: ConversationId) -> Result<Option<(ConversationRow, Vec<MemberRow>)>, StoreError> {
    let Some(row) = engine.store.conversation(id).await? else {
        return Ok(None);
    };
    let members = engine.store.members(id, None, PARTICIPANTS_MAX).await?;
    Ok(Some((row, members)))
}

/// Shows a connection who of the others in a conversation is online.
pub(crate) async fn show(engine: &Inner, connection: &dyn Subscriber, row: &ConversationRow, members: &[MemberRow]) {
    if !row.blocked_by.is_empty() {
        return;
    }
    let others = members
        .iter()
        .filter(|member| member.left_seq.is_none() && member.user != *connection.user());
    for MemberRow { user, .. } in others.take(PARTICIPANTS_MAX) {
        let online = engine.hub.online(user);
        let last_seen = if online { None } else { last_seen(engine, user).await };
        connection.offer(&Push::new(What::Presence {
            user: user.clone(),
            online,
            last_seen,
        }));
    }
}

/// When the user was last seen.
pub(crate) async fn last_seen(engine: &Inner, user: &UserId) -> Option<Millis> {
    let unsaved = engine.presence.unsaved.lock().get(user).copied();
    match unsaved {
        Some(seen) => Some(seen),
        None => engine.store.last_seen(user).await.ok().flatten(),
    }
}

/// Saves what was not saved yet.
pub(crate) async fn save(engine: &Inner) {
    let unsaved: Vec<(UserId, Millis)> = {
        let unsaved = engine.presence.unsaved.lock();
        unsaved.iter().map(|(user, seen)| (user.clone(), *seen)).collect()
    };
    if unsaved.is_empty() {
        return;
    }
    if let Err(error) = engine.store.save_last_seen(unsaved.clone()).await {
        tracing::warn!(%error, "cannot save when users were last seen; it is tried again");
        return;
    }
    let mut still = engine.presence.unsaved.lock();
    for (user, saved) in unsaved {
        if still.get(&user) == Some(&saved) {
            still.remove(&user);
        }
    }
}
