//! State beside the log: written by the log's writer, durable like it.

use async_trait::async_trait;
use haggle_model::{ConversationId, Millis, Pos, Shard, UserId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    EmbeddedStore, Shared, blocking, only,
    readers::Sees,
    schema::{LOG_FILE, conversation, key, sql_error},
};
use crate::{Cursor, Cursors, FailedDelivery, Held, StoreError};

impl EmbeddedStore {
    /// Runs `write` in a transaction of the log's writer.
    async fn write<T: Send + 'static>(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.write(write)).await
    }

    /// Runs `read` on a reading connection.
    async fn select<T: Send + 'static>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static) -> Result<T, StoreError> {
        let _permit = self.shared.readers.permit().await;
        let shared = self.shared.clone();
        blocking(move || {
            let reader = shared.readers.open(Sees::Log)?;
            read(reader.connection()).map_err(log_error)
        })
        .await
    }
}

impl Shared {
    fn write<T>(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut writer = self.writer.lock();
        let conn = writer.connection()?;
        let written = conn.unchecked_transaction().and_then(|transaction| {
            let written = write(&transaction)?;
            transaction.commit()?;
            Ok(written)
        });
        written.map_err(|error| writer.refused(error))
    }
}

#[async_trait]
impl Cursors for EmbeddedStore {
    async fn cursors(&self, shard: Shard) -> Result<Vec<(String, Cursor)>, StoreError> {
        only(shard)?;
        self.select(cursors).await
    }

    async fn save_cursors(&self, shard: Shard, cursors: Vec<(String, Cursor)>) -> Result<(), StoreError> {
        only(shard)?;
        self.write(move |conn| cursors.iter().try_for_each(|(consumer, cursor)| save_cursor(conn, consumer, cursor)))
            .await
    }

    async fn add_failed(&self, failed: FailedDelivery) -> Result<u64, StoreError> {
        only(failed.shard)?;
        self.write(move |conn| add_failed(conn, &failed)).await
    }

    async fn failed(&self, after: u64, limit: usize) -> Result<Vec<FailedDelivery>, StoreError> {
        self.select(move |conn| {
            let sql = "SELECT id, consumer, pos, item, conversation, attempts, error, at, payload FROM failed WHERE id > ?1 ORDER BY id LIMIT ?2";
            conn.prepare_cached(sql)?
                .query_map((as_i64(after), as_i64(limit as u64)), failed_delivery)?
                .collect()
        })
        .await
    }

    async fn failed_count(&self) -> Result<u64, StoreError> {
        self.select(|conn| conn.query_row("SELECT count(*) FROM failed", [], |row| row.get::<_, i64>(0)))
            .await
            .map(|count| count as u64)
    }

    async fn remove_failed(&self, id: u64) -> Result<bool, StoreError> {
        self.write(move |conn| conn.execute("DELETE FROM failed WHERE id = ?1", [as_i64(id)]))
            .await
            .map(|removed| removed > 0)
    }

    async fn save_last_seen(&self, seen: Vec<(UserId, Millis)>) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            let _moving = shared.readers.moving(); // so that who asks for one of them need not see all of the log
            shared.write(|conn| {
                let mut upsert = conn.prepare_cached("INSERT INTO last_seen VALUES (?1, ?2) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)")?;
                seen.iter().try_for_each(|(user, at)| upsert.execute((user.as_str(), at)).map(drop))
            })
        })
        .await
    }

    async fn last_seen(&self, user: &UserId) -> Result<Option<Millis>, StoreError> {
        if let Some(reader) = self.shared.readers.try_open(Sees::Views) {
            return last_seen(reader.connection(), user).map_err(log_error);
        }
        let user = user.clone();
        self.select(move |conn| last_seen(conn, &user)).await
    }
}

fn last_seen(conn: &Connection, user: &UserId) -> rusqlite::Result<Option<Millis>> {
    let mut select = conn.prepare_cached("SELECT at FROM last_seen WHERE user = ?1")?;
    select.query_row([user.as_str()], |row| row.get(0)).optional()
}

fn cursors(conn: &Connection) -> rusqlite::Result<Vec<(String, Cursor)>> {
    let mut held = conn.prepare_cached("SELECT conversation, from_pos FROM held WHERE consumer = ?1 ORDER BY from_pos, conversation")?;
    let mut select = conn.prepare_cached("SELECT consumer, pos FROM cursors ORDER BY consumer")?;
    let mut rows = select.query([])?;
    let mut cursors = Vec::new();
    while let Some(row) = rows.next()? {
        let (consumer, pos): (String, i64) = (row.get(0)?, row.get(1)?);
        let held = held.query_map([&consumer], |row| {
            Ok(Held {
                conversation: conversation(row.get(0)?),
                from: Pos(row.get::<_, i64>(1)? as u64),
            })
        })?;
        let held = held.collect::<rusqlite::Result<_>>()?;
        cursors.push((consumer, Cursor { pos: Pos(pos as u64), held }));
    }
    Ok(cursors)
}

fn save_cursor(conn: &Connection, consumer: &str, cursor: &Cursor) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO cursors VALUES (?1, ?2) ON CONFLICT DO UPDATE SET pos = excluded.pos")?
        .execute((consumer, cursor.pos.0 as i64))?;
    conn.prepare_cached("DELETE FROM held WHERE consumer = ?1")?.execute([consumer])?;
    let mut insert = conn.prepare_cached("INSERT OR REPLACE INTO held VALUES (?1, ?2, ?3)")?;
    cursor
        .held
        .iter()
        .try_for_each(|held| insert.execute((consumer, key(held.conversation), held.from.0 as i64)).map(drop))
}

fn add_failed(conn: &Connection, failed: &FailedDelivery) -> rusqlite::Result<u64> {
    let sql = "INSERT INTO failed (consumer, pos, item, conversation, attempts, error, at, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
        ON CONFLICT (consumer, pos, item) DO UPDATE SET conversation = excluded.conversation, attempts = excluded.attempts, error = excluded.error,
            at = excluded.at, payload = excluded.payload
        RETURNING id";
    let FailedDelivery {
        consumer,
        pos,
        index,
        conversation,
        attempts,
        error,
        at,
        payload,
        ..
    } = failed;
    conn.query_row(
        sql,
        params![consumer, pos.0 as i64, index, key(*conversation), attempts, error, at, payload],
        |row| row.get::<_, i64>(0),
    )
    .map(|id| id as u64)
}

fn failed_delivery(row: &Row<'_>) -> rusqlite::Result<FailedDelivery> {
    Ok(FailedDelivery {
        id: row.get::<_, i64>(0)? as u64,
        consumer: row.get(1)?,
        shard: Shard(0),
        pos: Pos(row.get::<_, i64>(2)? as u64),
        index: row.get(3)?,
        conversation: ConversationId(row.get::<_, i64>(4)? as u64),
        attempts: row.get(5)?,
        error: row.get(6)?,
        at: row.get(7)?,
        payload: row.get(8)?,
    })
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn log_error(error: rusqlite::Error) -> StoreError {
    sql_error(LOG_FILE, error)
}
