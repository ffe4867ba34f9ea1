//! Who is typing: a hint that expires by itself, never stored.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use haggle_model::{ConversationId, UserId};
use parking_lot::Mutex;

use crate::{
    Inner,
    hub::{Push, What},
    sockets::Recipients,
};

/// A sign of typing within this time after the last one that was told is not told again.
const REPEAT_MIN: Duration = Duration::from_secs(3);
/// Typing users remembered; more are not shown.
const TYPING_MAX: usize = 100_000;

struct Sign {
    until: Instant,
    told: Instant,
}

/// Everybody who types now.
#[derive(Default)]
pub(crate) struct Typing {
    signs: Mutex<HashMap<(ConversationId, UserId), Sign>>,
}

impl Typing {
    /// A sign; whether the others are to be told.
    fn sign(&self, conversation: ConversationId, user: &UserId, on: bool, ttl: Duration) -> bool {
        let (mut signs, now) = (self.signs.lock(), Instant::now());
        let key = (conversation, user.clone());
        if !on {
            return signs.remove(&key).is_some();
        }
        if let Some(sign) = signs.get_mut(&key) {
            sign.until = now + ttl;
            let tell = now.duration_since(sign.told) >= REPEAT_MIN;
            if tell {
                sign.told = now;
            }
            return tell;
        }
        if signs.len() >= TYPING_MAX {
            return false;
        }
        signs.insert(key, Sign { until: now + ttl, told: now });
        true
    }

    fn expired(&self) -> Vec<(ConversationId, UserId)> {
        let (mut signs, now) = (self.signs.lock(), Instant::now());
        let expired: Vec<_> = signs.iter().filter(|(_, sign)| sign.until <= now).map(|(key, _)| key.clone()).collect();
        signs.retain(|key, _| !expired.contains(key));
        expired
    }
}

/// A sign of typing by a participant.
pub(crate) async fn sign(engine: Arc<Inner>, user: UserId, conversation: ConversationId, on: bool) {
    let Ok(there) = engine.warmed_id(conversation).await else { return };
    if !there.with_state(|state| state.members.contains_key(&user) && !state.is_blocked()) {
        return;
    }
    if engine.typing.sign(conversation, &user, on, engine.limits.typing_ttl) {
        tell(&engine, conversation, user, on).await;
    }
}

async fn tell(engine: &Arc<Inner>, conversation: ConversationId, user: UserId, on: bool) {
    let profile = engine.store.user(&user).await.ok().flatten();
    let name = profile.and_then(|row| row.profile.name).unwrap_or_else(|| user.to_string());
    let Some(there) = engine.warm.peek(conversation) else { return };
    let others: Vec<UserId> = there.audience.lock().users.iter().filter(|other| **other != user).cloned().collect();
    let push = Push::new(What::Typing {
        conversation,
        user,
        name,
        on,
    });
    engine.hub.tell_sockets(&push, Recipients::Users(&others, &[conversation]));
    for other in others {
        engine.hub.each(&other, |connection| {
            if connection.subscribed(conversation) {
                connection.offer(&push);
            }
        });
    }
}

/// Ends typing that nobody renews.
pub(crate) async fn sweep(engine: Arc<Inner>) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        for (conversation, user) in engine.typing.expired() {
            tell(&engine, conversation, user, false).await;
        }
    }
}
