//! What plugins keep: kv, reservations, timers.

use haggle_model::{ConversationId, Millis, PluginId, ReservationState};
use rusqlite::Row;

use super::{Snapshot, from_cbor, sql_limit, views_error};
use crate::{
    KvRow, StoreError, TimerRow,
    embedded::schema::{conversation, key as scope_key},
};

const TIMER: &str = "conversation, plugin, name, due, payload";

impl Snapshot<'_> {
    pub(super) fn kv_get(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<KvRow>, StoreError> {
        let sql = "SELECT key, value, expires_at FROM kv WHERE scope = ?1 AND plugin = ?2 AND key = ?3";
        self.one(sql, (scope_key(scope), plugin.as_str(), key), kv_row)
    }

    pub(super) fn kv_list(
        &self,
        scope: ConversationId,
        plugin: &PluginId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KvRow>, StoreError> {
        // Keys sort by their bytes, so those with the prefix stand together and the first one without it ends the list.
        let sql =
            "SELECT key, value, expires_at FROM kv WHERE scope = ?1 AND plugin = ?2 AND key >= ?3 AND (?4 IS NULL OR key > ?4) ORDER BY key LIMIT ?5";
        let mut select = self.conn.prepare_cached(sql).map_err(views_error)?;
        let rows = select
            .query_map((scope_key(scope), plugin.as_str(), prefix, after, sql_limit(limit)), kv_row)
            .map_err(views_error)?;
        let with_prefix = rows.take_while(|row| row.as_ref().map_or(true, |row| row.key.starts_with(prefix)));
        with_prefix.collect::<Result<_, _>>().map_err(views_error)
    }

    pub(super) fn reservation(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<ReservationState>, StoreError> {
        let sql = "SELECT state FROM reservations WHERE scope = ?1 AND plugin = ?2 AND key = ?3";
        let state = self.one(sql, (scope_key(scope), plugin.as_str(), key), |row| row.get::<_, Vec<u8>>(0))?;
        state.map(|bytes| from_cbor(&bytes)).transpose()
    }

    pub(super) fn timers_due(&self, until: Millis, limit: usize) -> Result<Vec<TimerRow>, StoreError> {
        self.all(
            &format!("SELECT {TIMER} FROM timers WHERE due <= ?1 ORDER BY due LIMIT ?2"),
            (until, sql_limit(limit)),
            timer_row,
        )
    }

    pub(super) fn timer(&self, id: ConversationId, plugin: &PluginId, name: &str) -> Result<Option<TimerRow>, StoreError> {
        let sql = format!("SELECT {TIMER} FROM timers WHERE conversation = ?1 AND plugin = ?2 AND name = ?3");
        self.one(&sql, (scope_key(id), plugin.as_str(), name), timer_row)
    }
}

fn kv_row(row: &Row<'_>) -> rusqlite::Result<KvRow> {
    Ok(KvRow {
        key: row.get(0)?,
        value: row.get(1)?,
        expires_at: row.get(2)?,
    })
}

fn timer_row(row: &Row<'_>) -> rusqlite::Result<TimerRow> {
    Ok(TimerRow {
        conversation: conversation(row.get(0)?),
        plugin: PluginId::from(row.get::<_, String>(1)?),
        name: row.get(2)?,
        due: row.get(3)?,
        payload: row.get(4)?,
    })
}
