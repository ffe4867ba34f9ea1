//! The conversations in memory: found, loaded by a bounded number of reads, evicted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use haggle_model::{ConversationId, ConversationKind, Limits, Shard, UserId};
use haggle_store::{SharedStore, StoreError};

use crate::{
    commands_seen::CommandsSeen,
    concurrent_map::ConcurrentMap,
    conversation::{Conversation, Phase, unavailable},
    lanes::Lane,
    state::State,
};

/// Ids of commands that are read when a conversation gets warm; above it a miss asks the store.
const COMMANDS_LOADED_MAX: usize = 100_000;
/// What was used within this time is not evicted.
const IDLE_MIN: Duration = Duration::from_secs(10);

/// All conversations in memory.
#[derive(Default)]
pub(crate) struct Warm {
    conversations: ConcurrentMap<ConversationId, Arc<Conversation>>,
}

impl Warm {
    /// The conversation, cold when it was not there.
    pub fn get(&self, id: ConversationId, lane: &Arc<Lane>) -> Arc<Conversation> {
        let conversations = self.conversations.pin();
        conversations
            .get(&id)
            .unwrap_or_else(|| conversations.get_or_insert_with(id, || Conversation::new(id, lane.clone())))
            .clone()
    }

    /// The conversation, if it is there.
    pub fn peek(&self, id: ConversationId) -> Option<Arc<Conversation>> {
        self.conversations.pin().get(&id).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.conversations.len()
    }

    /// Nothing may be staged on the memory of this shard any more: it says things that were never written.
    pub fn kill(&self, shard: Shard) {
        let conversations = self.conversations.pin();
        let all: Vec<_> = conversations
            .values()
            .filter(|conversation| conversation.lane.shard == shard)
            .cloned()
            .collect();
        for conversation in all {
            let waiting = {
                let mut guarded = conversation.guarded.lock();
                guarded.dead = true;
                guarded.queue.drain()
            };
            conversations.remove(&conversation.id);
            waiting.into_iter().for_each(|work| work.refuse(unavailable()));
        }
    }

    /// Forgets conversations that nobody uses until at most `max` are left.
    pub fn evict(&self, max: usize) {
        let excess = self.len().saturating_sub(max);
        if excess == 0 {
            return;
        }
        let conversations = self.conversations.pin();
        let mut idle: Vec<(Instant, Arc<Conversation>)> = conversations
            .values()
            .filter_map(|conversation| conversation.guarded.try_lock().map(|guarded| (guarded.used, conversation.clone())))
            .filter(|(used, _)| used.elapsed() >= IDLE_MIN)
            .collect();
        idle.sort_unstable_by_key(|(used, _)| *used);
        for (_, conversation) in idle.into_iter().take(excess) {
            let mut guarded = conversation.guarded.lock();
            let unused = !guarded.busy && guarded.phase != Phase::Loading && guarded.queue.is_empty();
            if unused && guarded.state.is_settled(conversation.lane.committed()) {
                // Whoever still holds it finds it dead and looks again.
                guarded.dead = true;
                drop(guarded);
                conversations.remove(&conversation.id);
            }
        }
    }
}

/// What a conversation gets when it becomes warm.
pub(crate) struct Warmed {
    pub state: State,
    pub kind: ConversationKind,
    pub users: Vec<UserId>,
}

/// Reads a conversation's state.
pub(crate) async fn load(store: &SharedStore, id: ConversationId, limits: &Limits, now: haggle_model::Millis) -> Result<Warmed, StoreError> {
    let since = now - limits.idempotency.as_millis() as i64;
    let loaded = store.load(id, since, COMMANDS_LOADED_MAX).await?;
    let incomplete = loaded.commands.len() == COMMANDS_LOADED_MAX;
    let commands = CommandsSeen::load(loaded.commands, limits.command_ids_max, incomplete);
    let kind = loaded.conversation.as_ref().map_or(ConversationKind::Personal, |row| row.kind());
    let users = match loaded.conversation.as_ref().map(|row| &row.address) {
        Some(haggle_model::Address::Personal(user)) => vec![user.clone()],
        _ => loaded
            .members
            .iter()
            .filter(|(member, _)| member.left_seq.is_none())
            .map(|(member, _)| member.user.clone())
            .collect(),
    };
    Ok(Warmed {
        state: State::load(loaded.conversation, loaded.head, loaded.members, commands, loaded.deleted),
        kind,
        users,
    })
}
