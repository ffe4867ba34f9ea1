//! What a conversation holds now, with everything staged; and whether what a handler has read still stands.

use std::{cmp::Reverse, collections::BTreeMap};

use haggle_model::{KvChange, MessageId, Millis, PluginId, Seq};
use haggle_store::{MessageRow, Page, StoreError};

use super::{LIST_MAX, WRITES_MAX};
use crate::{Inner, Refusal, conversation::Conversation, state::State};

/// Something a handler outside the turn has read: its transaction is staged only if it still reads the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Kv {
        plugin: PluginId,
        key: String,
        value: Option<Vec<u8>>,
    },
    KvList {
        plugin: PluginId,
        prefix: String,
        after: Option<String>,
        found: BTreeMap<String, Vec<u8>>,
    },
    Message {
        id: MessageId,
        rev: Option<Seq>,
    },
    /// A page of messages, newest first. Newer messages than those do not count: in a busy conversation there always are some.
    Messages {
        found: Vec<(Seq, Seq)>,
    },
}

pub(super) fn alive(expires_at: Option<Millis>, now: Millis) -> bool {
    expires_at.is_none_or(|expires_at| expires_at > now)
}

/// The value of a key with everything staged.
pub(super) async fn kv(
    engine: &Inner,
    conversation: &Conversation,
    plugin: &PluginId,
    key: &str,
    now: Millis,
) -> Result<Option<Vec<u8>>, StoreError> {
    if let Some(change) = conversation.with_state(|state| state.staged_kv(plugin, key).cloned()) {
        return Ok(alive(change.expires_at, now).then_some(change.value).flatten());
    }
    let row = engine.store.kv_get(conversation.id, plugin, key).await?;
    Ok(row.filter(|row| alive(row.expires_at, now)).map(|row| row.value))
}

/// Keys with a prefix with everything staged: some more than a list shows, since what a handler has written may hide some.
pub(super) async fn kv_list(
    engine: &Inner,
    conversation: &Conversation,
    plugin: &PluginId,
    prefix: &str,
    after: Option<&str>,
    now: Millis,
) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
    let rows = engine
        .store
        .kv_list(conversation.id, plugin, prefix, after, LIST_MAX + WRITES_MAX)
        .await?;
    let mut keys: BTreeMap<String, Vec<u8>> = rows
        .into_iter()
        .filter(|row| alive(row.expires_at, now))
        .map(|row| (row.key, row.value))
        .collect();
    conversation.with_state(|state| {
        for change in state
            .staged_kv_prefix(plugin, prefix)
            .into_values()
            .filter(|change| after.is_none_or(|after| change.key.as_str() > after))
        {
            set_or_remove(&mut keys, change, now);
        }
    });
    Ok(keys)
}

pub(super) fn set_or_remove(keys: &mut BTreeMap<String, Vec<u8>>, change: &KvChange, now: Millis) {
    match change.value.clone().filter(|_| alive(change.expires_at, now)) {
        Some(value) => drop(keys.insert(change.key.clone(), value)),
        None => drop(keys.remove(&change.key)),
    }
}

/// A message with everything staged.
pub(crate) async fn message(engine: &Inner, conversation: &Conversation, id: MessageId) -> Result<Option<MessageRow>, StoreError> {
    if let Some(row) = conversation.with_state(|state| state.staged_message(id.seq)) {
        return Ok(Some(row));
    }
    let mut row = engine.store.message(id).await?;
    if let Some(row) = &mut row {
        conversation.with_state(|state| state.refresh(row));
    }
    Ok(row)
}

/// A page of messages with everything staged, newest first.
pub(crate) async fn messages(engine: &Inner, conversation: &Conversation, before: Option<Seq>, limit: usize) -> Result<Vec<MessageRow>, StoreError> {
    // First what is staged: what becomes durable meanwhile is then found twice, not never.
    let mut rows = conversation.with_state(State::staged_messages);
    rows.retain(|row| before.is_none_or(|before| row.id.seq < before));
    let page = before.map_or(Page::Newest, Page::Before);
    let stored = engine.store.messages(conversation.id, page, limit, None).await?;
    rows.extend(stored);
    rows.sort_by_key(|row| Reverse(row.id.seq));
    rows.dedup_by_key(|row| row.id.seq);
    rows.truncate(limit);
    conversation.with_state(|state| rows.iter_mut().for_each(|row| state.refresh(row)));
    Ok(rows)
}

/// Seq and last change of each.
pub(super) fn revs(rows: &[MessageRow]) -> Vec<(Seq, Seq)> {
    rows.iter().map(|row| (row.id.seq, row.rev)).collect()
}

/// Whether a handler outside the turn would read the same now.
pub(crate) async fn still_stands(engine: &Inner, conversation: &Conversation, reads: &[Read], now: Millis) -> Result<bool, Refusal> {
    for read in reads {
        let same = match read {
            Read::Kv { plugin, key, value } => kv(engine, conversation, plugin, key, now).await? == *value,
            Read::KvList {
                plugin,
                prefix,
                after,
                found,
            } => kv_list(engine, conversation, plugin, prefix, after.as_deref(), now).await? == *found,
            Read::Message { id, rev } => message(engine, conversation, *id).await?.map(|row| row.rev) == *rev,
            Read::Messages { found } => match found.first() {
                None => true, // What came since is newer.
                Some((newest, _)) => revs(&messages(engine, conversation, Some(newest + 1), found.len()).await?) == *found,
            },
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}
