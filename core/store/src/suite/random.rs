//! Random histories against the model.

use std::sync::Arc;

use haggle_model::{ConversationId, Millis, PluginId, Seq, Shard, UserId};

use super::{History, Opener, Random};
use crate::{InboxQuery, MemoryStore, Page, SharedStore};

const SEEDS: u64 = 4;
const TRANSACTIONS: usize = 400;
/// Transactions between two comparisons.
const STRIDE: usize = 50;

/// The store under test and the model, fed with the same history.
struct Pair {
    history: History,
    store: SharedStore,
    model: SharedStore,
    seed: u64,
}

/// Asks store and model the same question.
macro_rules! same {
    ($pair:ident, $question:ident($($argument:expr),*)) => {
        let answer = $pair.store.$question($($argument),*).await.unwrap();
        let expected = $pair.model.$question($($argument),*).await.unwrap();
        assert_eq!(answer, expected, "seed {}: {}{:?}", $pair.seed, stringify!($question), ($(&$argument,)*));
    };
}
impl Pair {
    async fn new(open: &Opener, seed: u64) -> Pair {
        let store = open().await;
        let secret = store.installation_secret().await.unwrap();
        let shards = store.shards();
        Pair {
            history: History::new(seed, secret, shards),
            store,
            model: Arc::new(MemoryStore::with_secret(shards, secret)),
            seed,
        }
    }

    /// Appends transactions to both, several in one batch where they meet in a shard.
    async fn append(&mut self, transactions: usize) {
        let mut batch: Option<(Shard, Vec<_>)> = None;
        for _ in 0..transactions {
            let (shard, entries) = self.history.transaction();
            match &mut batch {
                Some((of, gathered)) if *of == shard && gathered.len() < 12 => gathered.extend(entries),
                _ => {
                    if let Some((shard, entries)) = batch.replace((shard, entries)) {
                        self.append_batch(shard, entries).await;
                    }
                }
            }
        }
        if let Some((shard, entries)) = batch {
            self.append_batch(shard, entries).await;
        }
    }

    async fn append_batch(&self, shard: Shard, entries: Vec<Arc<haggle_model::Entry>>) {
        for store in [&self.store, &self.model] {
            let tail = store.tail(shard).await.unwrap();
            store.append(shard, tail, entries.clone()).await.unwrap();
        }
    }

    /// Asks both the same questions: of every conversation and every user.
    async fn compare(&self, random: &mut Random) {
        for (id, _) in &self.history.conversations {
            self.compare_conversation(*id, random).await;
        }
        for user in &self.history.users {
            self.compare_user(user, random).await;
        }
        same!(self, broadcasts(10));
        for shard in (0..self.store.shards()).map(Shard) {
            let until = Millis::MAX / 2;
            same!(self, timers_due(shard, until, 5));
            same!(self, timers_due(shard, until, usize::MAX));
            let after = haggle_model::Pos(random.below(100) as u64);
            same!(self, read(shard, after, 20));
        }
        for (id, command) in self.history.commands().iter().filter(|_| random.one_in(4)) {
            same!(self, command(*id, *command));
        }
    }

    async fn compare_conversation(&self, id: ConversationId, random: &mut Random) {
        let head = self.model.head(id).await.unwrap().unwrap_or_default();
        let seq = 1 + random.below(head.0 as usize + 1) as Seq;
        let n = random.below(head.1 as usize + 2) as u32;
        let limit = 1 + random.below(20);
        let user = &self.history.users[random.below(self.history.users.len())];
        same!(self, conversation(id));
        same!(self, head(id));
        same!(self, load(id, super::START, limit));
        same!(self, members(id, None::<&UserId>, usize::MAX));
        same!(self, members(id, Some(user), limit));
        same!(self, member(id, user));
        same!(self, commands(id, 0, usize::MAX));
        same!(self, commands(id, super::START, limit));
        same!(self, deleted(id, 0));
        same!(self, deleted(id, n));
        same!(self, events(id, 0, usize::MAX));
        same!(self, events(id, seq, limit));
        same!(self, message(id.message(seq)));
        same!(self, messages(id, Page::Newest, limit, None::<&UserId>));
        same!(self, messages(id, Page::Before(seq), limit, Some(user)));
        same!(self, messages(id, Page::After(seq), limit, Some(user)));
        same!(self, advances(id, 0, usize::MAX));
        same!(self, advances(id, seq, limit));
        for user in &self.history.users {
            same!(self, own_numbers(id, user, n));
            same!(self, is_hidden(user, id.message(seq)));
            same!(self, personal(user, id));
            same!(self, inbox_row(user, id));
        }
        for plugin in ["shop", "other"].map(PluginId::from) {
            same!(self, kv_list(id, &plugin, "", None::<&str>, usize::MAX));
            same!(self, kv_list(id, &plugin, "a", Some("a"), limit));
            for key in ["a", "a/1", "b"] {
                same!(self, kv_get(id, &plugin, key));
                same!(self, reservation(id, &plugin, key));
                same!(self, timer(id, &plugin, key));
            }
        }
    }

    async fn compare_user(&self, user: &UserId, random: &mut Random) {
        let seq = 1 + random.below(40) as Seq;
        let limit = 1 + random.below(5);
        same!(self, user(user));
        same!(self, blocks(user));
        same!(self, companions(user, usize::MAX, usize::MAX));
        same!(self, companions(user, limit, limit));
        same!(self, notifications(user, None::<Seq>, false, usize::MAX));
        same!(self, notifications(user, Some(seq), true, limit));
        same!(self, notification(user, seq));
        same!(self, notifications_unread(user));
        for archived in [None, Some(true), Some(false)] {
            same!(
                self,
                inbox(
                    user,
                    InboxQuery {
                        archived,
                        before: None,
                        limit: usize::MAX
                    }
                )
            );
            let page = self
                .model
                .inbox(
                    user,
                    InboxQuery {
                        archived,
                        before: None,
                        limit,
                    },
                )
                .await
                .unwrap();
            let before = page.last().map(|row| (row.conversation.last_message_at, row.conversation.id));
            same!(self, inbox(user, InboxQuery { archived, before, limit }));
        }
    }
}

/// Whatever happened, store and model answer alike.
pub async fn random_histories_give_the_answers_of_the_model(open: &Opener) {
    let first = 1; // fixed, so that a failure repeats; raise SEEDS to search for longer
    let mut pair = Pair::new(open, first).await;
    let mut random = Random(first);
    for _ in 0..SEEDS {
        for _ in 0..TRANSACTIONS / STRIDE {
            pair.append(STRIDE).await;
            pair.compare(&mut random).await;
        }
    }
}

/// Reopening in the middle, rebuilding and erasing at the end change no answer.
pub async fn random_histories_survive_reopening_and_rebuilding(open: &Opener) {
    let mut random = Random(99);
    let mut pair = Pair::new(open, 99).await;
    for _ in 0..3 {
        pair.append(TRANSACTIONS / 4).await;
        pair.store = Arc::new(MemoryStore::new(1)); // drops the one under test
        pair.store = open().await;
        pair.compare(&mut random).await;
    }
    pair.store.rebuild_views().await.unwrap();
    pair.compare(&mut random).await;
    let (erased, expected) = (
        pair.store.erase_deleted(Millis::MAX, 20).await.unwrap(),
        pair.model.erase_deleted(Millis::MAX, 20).await.unwrap(),
    );
    assert!(erased > 0 && erased == expected);
    assert_eq!(
        pair.store.erase_deleted(Millis::MAX, usize::MAX).await.unwrap(),
        pair.model.erase_deleted(Millis::MAX, usize::MAX).await.unwrap()
    );
    pair.compare(&mut random).await;
    pair.store.rebuild_views().await.unwrap();
    pair.append(TRANSACTIONS / 4).await;
    pair.compare(&mut random).await;
}
