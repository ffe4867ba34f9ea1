//! A store in memory, for tests and the testkit.
//!
//! Written to be read: what each event means stands in `state`, in plain maps, made independently of the embedded store. The
//! conformance suite runs random histories against both and compares every answer.

mod answers;
mod state;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use haggle_model::{Entry, KeyRing, Micros, Millis, Pos, Shard, UserId};
use parking_lot::RwLock;

use self::state::State;
use crate::{AppendError, Cursor, Cursors, Durability, FailedDelivery, Log, StoreError, Tail};

/// The secret of stores that are not given one: tests shall give the same keys in every run.
const SECRET: [u8; 32] = *b"not a secret: keys of test runs.";

/// A [`Store`](crate::Store) that forgets everything when it is dropped.
pub struct MemoryStore {
    shards: u16,
    secret: [u8; 32],
    keys: KeyRing,
    log_page_max: usize,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// One log per shard; the entry at position `p` stands at index `p - 1`.
    logs: BTreeMap<Shard, Vec<Arc<Entry>>>,
    state: State,
    cursors: BTreeMap<(Shard, String), Cursor>,
    failed: BTreeMap<u64, FailedDelivery>,
    failed_ids: u64,
    last_seen: BTreeMap<UserId, Millis>,
}

impl MemoryStore {
    /// A store of `shards` shards (at least 1), always with the same secret.
    pub fn new(shards: u16) -> MemoryStore {
        Self::with_secret(shards, SECRET)
    }

    /// A store whose conversation keys are derived from `secret`.
    pub fn with_secret(shards: u16, secret: [u8; 32]) -> MemoryStore {
        MemoryStore {
            shards: shards.max(1),
            secret,
            keys: KeyRing::new(secret),
            log_page_max: usize::MAX,
            inner: RwLock::default(),
        }
    }

    /// The same, whose pages of the log have at most so many entries, whatever is asked for: other stores bound a page by its bytes.
    pub fn with_log_pages_of(mut self, entries: usize) -> MemoryStore {
        self.log_page_max = entries.max(1);
        self
    }
}

impl Inner {
    fn tail(&self, shard: Shard) -> Tail {
        let log = self.logs.get(&shard).map_or(&[][..], Vec::as_slice);
        Tail {
            pos: Pos(log.len() as u64),
            ts: log.last().map_or(0, |entry| entry.ts),
        }
    }

    fn erase_deleted(&mut self, deleted_before: Millis, limit: usize) -> usize {
        let messages = self.state.messages_to_erase(deleted_before, limit);
        for id in &messages {
            let log = self.logs.values_mut().flatten().filter(|entry| entry.conversation == id.conversation);
            for entry in log.filter(|entry| is_text_of(entry, id.seq)) {
                *entry = Arc::new(Entry {
                    event: entry.event.redacted(),
                    redacted: true,
                    ..Entry::clone(entry)
                });
            }
        }
        self.state = self.replayed();
        messages.len()
    }

    /// The state that the logs add up to.
    fn replayed(&self) -> State {
        let mut state = State::default();
        for log in self.logs.values() {
            (1..).zip(log).for_each(|(pos, entry)| state.apply(Pos(pos), entry));
        }
        state
    }
}

/// Whether the entry holds text of the message created at `seq`.
fn is_text_of(entry: &Entry, seq: u32) -> bool {
    use haggle_model::Event::{MessageCreated, MessageEdited};
    matches!(entry.event, MessageCreated(_) | MessageEdited { .. }) && entry.event.message_seq(entry.seq) == Some(seq)
}

fn is_increasing(last: Micros, entries: &[Arc<Entry>]) -> bool {
    std::iter::once(last)
        .chain(entries.iter().map(|entry| entry.ts))
        .is_sorted_by(|a, b| a < b)
}

#[async_trait]
impl Log for MemoryStore {
    fn shards(&self) -> u16 {
        self.shards
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    async fn installation_secret(&self) -> Result<[u8; 32], StoreError> {
        Ok(self.secret)
    }

    async fn tail(&self, shard: Shard) -> Result<Tail, StoreError> {
        Ok(self.inner.read().tail(shard))
    }

    async fn append(&self, shard: Shard, tail: Tail, entries: Vec<Arc<Entry>>) -> Result<Tail, AppendError> {
        let mut inner = self.inner.write();
        if inner.tail(shard) != tail {
            return Err(AppendError::Fenced);
        }
        if !is_increasing(tail.ts, &entries) {
            return Err(AppendError::Unavailable("refused: ts must increase strictly".to_string()));
        }
        for (pos, entry) in (tail.pos.0 + 1..).zip(&entries) {
            inner.state.apply(Pos(pos), entry);
        }
        inner.logs.entry(shard).or_default().extend(entries);
        Ok(inner.tail(shard))
    }

    async fn read(&self, shard: Shard, after: Pos, limit: usize) -> Result<Vec<(Pos, Arc<Entry>)>, StoreError> {
        let inner = self.inner.read();
        let log = inner.logs.get(&shard).map_or(&[][..], Vec::as_slice);
        let rest = log.get(after.0 as usize..).unwrap_or_default();
        Ok((after.0 + 1..)
            .map(Pos)
            .zip(rest.iter().cloned())
            .take(limit.min(self.log_page_max))
            .collect())
    }

    async fn recover(&self, shard: Shard) -> Result<Tail, StoreError> {
        self.tail(shard).await
    }

    async fn erase_deleted(&self, deleted_before: Millis, limit: usize) -> Result<usize, StoreError> {
        Ok(self.inner.write().erase_deleted(deleted_before, limit))
    }
}

#[async_trait]
impl Cursors for MemoryStore {
    async fn cursors(&self, shard: Shard) -> Result<Vec<(String, Cursor)>, StoreError> {
        let inner = self.inner.read();
        let of_shard = inner.cursors.iter().filter(|((of, _), _)| *of == shard);
        Ok(of_shard.map(|((_, consumer), cursor)| (consumer.clone(), cursor.clone())).collect())
    }

    async fn save_cursors(&self, shard: Shard, cursors: Vec<(String, Cursor)>) -> Result<(), StoreError> {
        let mut inner = self.inner.write();
        for (consumer, mut cursor) in cursors {
            cursor.held.sort_by_key(|held| (held.from, held.conversation));
            inner.cursors.insert((shard, consumer), cursor);
        }
        Ok(())
    }

    async fn add_failed(&self, mut failed: FailedDelivery) -> Result<u64, StoreError> {
        let mut inner = self.inner.write();
        let place = |failed: &FailedDelivery| (failed.consumer.clone(), failed.shard, failed.pos, failed.index);
        let known = inner.failed.values().find(|known| place(known) == place(&failed)).map(|known| known.id);
        failed.id = known.unwrap_or(inner.failed_ids + 1);
        inner.failed_ids = inner.failed_ids.max(failed.id);
        let id = failed.id;
        inner.failed.insert(id, failed);
        Ok(id)
    }

    async fn failed(&self, after: u64, limit: usize) -> Result<Vec<FailedDelivery>, StoreError> {
        Ok(self
            .inner
            .read()
            .failed
            .values()
            .filter(|failed| failed.id > after)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn failed_count(&self) -> Result<u64, StoreError> {
        Ok(self.inner.read().failed.len() as u64)
    }

    async fn remove_failed(&self, id: u64) -> Result<bool, StoreError> {
        Ok(self.inner.write().failed.remove(&id).is_some())
    }

    async fn save_last_seen(&self, seen: Vec<(UserId, Millis)>) -> Result<(), StoreError> {
        let mut inner = self.inner.write();
        for (user, at) in seen {
            let last = inner.last_seen.entry(user).or_insert(at);
            *last = at.max(*last);
        }
        Ok(())
    }

    async fn last_seen(&self, user: &UserId) -> Result<Option<Millis>, StoreError> {
        Ok(self.inner.read().last_seen.get(user).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Opener;

    fn opener(shards: u16) -> Opener {
        let store = Arc::new(MemoryStore::new(shards));
        Box::new(move || {
            let store = store.clone();
            Box::pin(async move { store as crate::SharedStore })
        })
    }

    mod one_shard {
        crate::store_suite!(super::opener(1));
    }

    mod four_shards {
        crate::store_suite!(super::opener(4));
    }
}
