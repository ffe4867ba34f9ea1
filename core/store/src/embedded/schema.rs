//! What the two files look like, and how a connection to them is made.

use std::path::Path;

use haggle_model::ConversationId;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, config::DbConfig};

use crate::StoreError;

/// The log and the state beside it. Losing it is losing data.
pub(super) const LOG_FILE: &str = "log.db";
/// Everything that can be made again from the log.
pub(super) const VIEWS_FILE: &str = "views.db";

/// Marks `log.db` as ours (`PRAGMA application_id`): "HGL1". Builds before the first release wrote other ones, with other checksums.
const APPLICATION_ID: i64 = 0x4847_4c31;

/// Page cache of the log's writer. It only ever appends, so it needs little.
const LOG_CACHE_KIB: i64 = 16 * 1024;
/// Page cache of the views' writer, whose inserts are spread over the conversations.
const VIEWS_CACHE_KIB: i64 = 64 * 1024;
/// Page cache of each reader.
const READER_CACHE_KIB: i64 = 8 * 1024;
/// Prepared statements a connection keeps.
const STATEMENTS_MAX: usize = 96;
/// What is left of a write-ahead log after a burst.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// Pages in the write-ahead log of the views after which a commit of the applier copies them into the file. Nobody's
/// append waits for the applier, so this may happen in line.
const VIEWS_CHECKPOINT_PAGES: i64 = 2_000;

/// Step `i` brings `log.db` from version `i` to `i + 1`. A step that has been released is never changed.
pub(super) const LOG_MIGRATIONS: &[&str] = &["
    CREATE TABLE log (
        pos INTEGER PRIMARY KEY, -- a plain rowid table: appending touches one page
        ts INTEGER NOT NULL,
        at INTEGER NOT NULL,
        conversation INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        n INTEGER NOT NULL,
        event INTEGER NOT NULL, -- the event's number
        flags INTEGER NOT NULL, -- 1: redacted
        digest INTEGER NOT NULL,
        checksum INTEGER NOT NULL, -- over all other columns
        actor TEXT,
        command_id BLOB,
        origin BLOB, -- NULL when empty, like effects
        effects BLOB,
        body BLOB NOT NULL
    );
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE cursors (consumer TEXT PRIMARY KEY, pos INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE held (consumer TEXT, conversation INTEGER, from_pos INTEGER NOT NULL, PRIMARY KEY (consumer, conversation)) WITHOUT ROWID;
    CREATE TABLE failed (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- an id is never given twice
        consumer TEXT NOT NULL,
        pos INTEGER NOT NULL,
        item INTEGER NOT NULL,
        conversation INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        error TEXT NOT NULL,
        at INTEGER NOT NULL,
        payload BLOB NOT NULL,
        UNIQUE (consumer, pos, item)
    );
    CREATE TABLE last_seen (user TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('installation_secret', randomblob(32)); -- SQLite seeds its generator from the operating system
"];

/// Of `views.db`; another number there means: make them again. Raise it with every change of the schema or of what the
/// applier does.
pub(super) const VIEWS_VERSION: i64 = 2;

/// The views. None of them holds the text of a message: pages read it from the log by position.
///
/// Queries name their partial index (`INDEXED BY`): without statistics SQLite takes the primary key instead, which would be a
/// scan of the whole conversation or of every notification of a user.
pub(super) const VIEWS_SCHEMA: &str = "
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        applied INTEGER NOT NULL, -- every entry up to here is in the views, none above
        applied_ts INTEGER NOT NULL -- its ts: tells whether the views belong to this log
    );
    INSERT INTO meta VALUES (0, 0, 0);

    CREATE TABLE entries (
        conversation INTEGER, seq INTEGER, pos INTEGER NOT NULL, n INTEGER NOT NULL, event INTEGER NOT NULL,
        countable INTEGER NOT NULL,
        target INTEGER, -- of an edit: the message
        command INTEGER, -- the first 8 bytes of the command's id; an index of its own would be a random insert per message
        PRIMARY KEY (conversation, seq)
    ) WITHOUT ROWID;
    CREATE INDEX edits ON entries (conversation, target) WHERE target IS NOT NULL;
    CREATE TABLE unsequenced (pos INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, command INTEGER NOT NULL);
    CREATE INDEX unsequenced_by_conversation ON unsequenced (conversation);

    CREATE TABLE heads (
        conversation INTEGER PRIMARY KEY, head INTEGER NOT NULL, head_n INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        last_message INTEGER NOT NULL, last_message_at INTEGER NOT NULL, participants INTEGER NOT NULL,
        broadcast INTEGER NOT NULL -- what is sent there is noted in broadcast_sent
    );
    CREATE TABLE conversations (
        conversation INTEGER PRIMARY KEY, kind INTEGER NOT NULL, address BLOB NOT NULL, creator TEXT, name TEXT, avatar TEXT, state TEXT,
        closed INTEGER NOT NULL, created_at INTEGER NOT NULL
    );
    CREATE INDEX broadcasts ON conversations (conversation) WHERE kind = 3; -- they stand in everybody's list
    -- Nobody is a member of a broadcast, so its senders' own messages are counted from here.
    CREATE TABLE broadcast_sent (conversation INTEGER, sender TEXT, n INTEGER, PRIMARY KEY (conversation, sender, n)) WITHOUT ROWID;
    CREATE TABLE conversation_blocks (conversation INTEGER, by TEXT, PRIMARY KEY (conversation, by)) WITHOUT ROWID;
    CREATE TABLE members (
        conversation INTEGER, user TEXT, role INTEGER NOT NULL, joined_seq INTEGER NOT NULL, joined_at INTEGER NOT NULL, left_seq INTEGER,
        delivered_seq INTEGER NOT NULL, read_seq INTEGER NOT NULL, read_n INTEGER NOT NULL, own INTEGER NOT NULL,
        PRIMARY KEY (conversation, user)
    ) WITHOUT ROWID;
    CREATE INDEX members_by_user ON members (user) WHERE left_seq IS NULL;
    CREATE TABLE advances (
        conversation INTEGER, to_seq INTEGER, pos INTEGER, user TEXT NOT NULL, at INTEGER NOT NULL,
        PRIMARY KEY (conversation, to_seq, pos)
    ) WITHOUT ROWID;

    -- Only messages that something happened to after their creation.
    CREATE TABLE changed (
        conversation INTEGER, seq INTEGER, rev INTEGER NOT NULL, updated_at INTEGER NOT NULL, edit_pos INTEGER, edited_at INTEGER,
        deleted_at INTEGER, erased INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (conversation, seq)
    ) WITHOUT ROWID;
    CREATE INDEX to_erase ON changed (deleted_at) WHERE deleted_at IS NOT NULL AND erased = 0;
    CREATE TABLE reactions (conversation INTEGER, seq INTEGER, user TEXT, emoji TEXT NOT NULL, PRIMARY KEY (conversation, seq, user)) WITHOUT ROWID;
    CREATE TABLE deleted (conversation INTEGER, n INTEGER, sender TEXT NOT NULL, PRIMARY KEY (conversation, n)) WITHOUT ROWID;

    CREATE TABLE kv (
        scope INTEGER, plugin TEXT, key TEXT, value BLOB NOT NULL, expires_at INTEGER,
        PRIMARY KEY (scope, plugin, key)
    ) WITHOUT ROWID;
    CREATE TABLE reservations (scope INTEGER, plugin TEXT, key TEXT, state BLOB NOT NULL, PRIMARY KEY (scope, plugin, key)) WITHOUT ROWID;
    CREATE TABLE timers (
        conversation INTEGER, plugin TEXT, name TEXT, due INTEGER NOT NULL, payload TEXT NOT NULL,
        PRIMARY KEY (conversation, plugin, name)
    ) WITHOUT ROWID;
    CREATE INDEX timers_by_due ON timers (due);

    -- `owner` is the key of the user's personal conversation.
    CREATE TABLE personal (
        owner INTEGER, conversation INTEGER, archived_at INTEGER, hidden_at INTEGER, hidden_to INTEGER NOT NULL DEFAULT 0, muted_until INTEGER,
        PRIMARY KEY (owner, conversation)
    ) WITHOUT ROWID;
    CREATE TABLE broadcast_marks (
        owner INTEGER, conversation INTEGER, delivered_seq INTEGER NOT NULL, read_seq INTEGER NOT NULL, read_n INTEGER NOT NULL,
        PRIMARY KEY (owner, conversation)
    ) WITHOUT ROWID;
    CREATE TABLE hidden_messages (owner INTEGER, conversation INTEGER, seq INTEGER, PRIMARY KEY (owner, conversation, seq)) WITHOUT ROWID;
    CREATE TABLE profiles (owner INTEGER PRIMARY KEY, profile BLOB NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
    CREATE TABLE blocks (owner INTEGER, user TEXT, PRIMARY KEY (owner, user)) WITHOUT ROWID;
    CREATE TABLE notifications (
        owner INTEGER, seq INTEGER,
        state INTEGER NOT NULL, -- 0 unread, 1 read, 2 replaced by a later one
        updated_at INTEGER NOT NULL, collapse TEXT,
        PRIMARY KEY (owner, seq)
    ) WITHOUT ROWID;
    CREATE INDEX notifications_unread ON notifications (owner, seq) WHERE state = 0;
    CREATE INDEX notifications_collapsing ON notifications (owner, collapse) WHERE state = 0 AND collapse IS NOT NULL;
";

/// The writing connection to `log.db`, made or brought up to date.
pub(super) fn open_log(dir: &Path) -> Result<Connection, StoreError> {
    let conn = open(&dir.join(LOG_FILE), OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    let with_file = |error| sql_error(LOG_FILE, error);
    // The lane's commits never checkpoint by themselves: see `checkpoint.rs`.
    configure(&conn, "FULL", LOG_CACHE_KIB, 0).map_err(with_file)?;
    migrate(&conn, LOG_MIGRATIONS)?;
    Ok(conn)
}

/// The writing connection to an existing `views.db` of our version.
pub(super) fn open_views(dir: &Path) -> Result<Connection, StoreError> {
    let conn = open(&dir.join(VIEWS_FILE), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let with_file = |error| sql_error(VIEWS_FILE, error);
    configure(&conn, "NORMAL", VIEWS_CACHE_KIB, VIEWS_CHECKPOINT_PAGES).map_err(with_file)?;
    match version(&conn).map_err(with_file)? {
        VIEWS_VERSION => Ok(conn),
        other => Err(StoreError::Open(format!("{VIEWS_FILE} has version {other}, not {VIEWS_VERSION}"))),
    }
}

/// A new, empty `views.db` in the place of whatever was there.
pub(super) fn create_views(dir: &Path) -> Result<Connection, StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let file = dir.join(format!("{VIEWS_FILE}{suffix}"));
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::Open(format!("{}: {error}", file.display()))),
            _ => {}
        }
    }
    let conn = open(&dir.join(VIEWS_FILE), OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    let made = configure(&conn, "NORMAL", VIEWS_CACHE_KIB, VIEWS_CHECKPOINT_PAGES)
        .and_then(|()| conn.execute_batch(&format!("BEGIN; {VIEWS_SCHEMA} PRAGMA user_version = {VIEWS_VERSION}; COMMIT")));
    made.map_err(|error| sql_error(VIEWS_FILE, error))?;
    Ok(conn)
}

/// A connection that reads the views and, as schema `l`, the log.
pub(super) fn open_reader(dir: &Path) -> Result<Connection, StoreError> {
    let conn = open(&dir.join(VIEWS_FILE), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let log = dir.join(LOG_FILE);
    conn.execute("ATTACH ?1 AS l", [log.to_string_lossy()])
        .map_err(|error| sql_error(LOG_FILE, error))?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)
        .map_err(|error| sql_error(VIEWS_FILE, error))?;
    Ok(conn)
}

/// A connection for checkpoints of the log only.
pub(super) fn open_checkpointer(dir: &Path) -> Result<Connection, StoreError> {
    open(&dir.join(LOG_FILE), OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn open(file: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    // Every connection is used by one thread at a time, so SQLite's own mutex is not needed.
    let conn = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| StoreError::Open(format!("{}: {error}", file.display())))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Without it a statement with `LIMIT ?` is prepared again whenever another limit is bound: plans look at bound values.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(|error| StoreError::Open(format!("{}: {error}", file.display())))?;
    Ok(conn)
}

fn configure(conn: &Connection, synchronous: &str, cache_kib: i64, checkpoint_pages: i64) -> rusqlite::Result<()> {
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", synchronous)?;
    conn.pragma_update(None, "cache_size", -cache_kib)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?; // no text in files that erasing does not know
    conn.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    conn.pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
    conn.pragma_update(None, "secure_delete", true) // what is deleted is overwritten with zeros
}

/// Brings a file to the newest version, one transaction per step.
pub(super) fn migrate(conn: &Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let with_file = |error| sql_error(LOG_FILE, error);
    let newest = migrations.len() as i64;
    let present = version(conn).map_err(with_file)?;
    if present > newest {
        return Err(StoreError::Open(format!(
            "{LOG_FILE} has version {present}, made by a newer Haggle; this one knows up to {newest}"
        )));
    }
    let application: i64 = conn.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(with_file)?;
    if present > 0 && application != APPLICATION_ID {
        return Err(StoreError::Open(format!(
            "{LOG_FILE} is not a log of Haggle, or one that a build before its first release has made"
        )));
    }
    for (step, sql) in migrations.iter().enumerate().skip(present as usize) {
        let to = step + 1;
        conn.execute_batch(&format!(
            "BEGIN; {sql}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {to}; COMMIT"
        ))
        .map_err(with_file)?;
        tracing::info!(file = LOG_FILE, version = to, "store migrated");
    }
    Ok(())
}

fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The secret in `log.db`.
pub(super) fn installation_secret(log: &Connection) -> Result<[u8; 32], StoreError> {
    let secret: Option<Vec<u8>> = log
        .query_row("SELECT value FROM meta WHERE key = 'installation_secret'", [], |row| row.get(0))
        .optional()
        .map_err(|error| sql_error(LOG_FILE, error))?;
    secret
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| StoreError::Corrupt(format!("{LOG_FILE}: no installation secret")))
}

/// What an error of SQLite means for callers.
pub(super) fn sql_error(file: &str, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(format!("{file}: {error}")),
        Some(_) => StoreError::Unavailable(format!("{file}: {error}")),
        // Not an error of SQLite itself: a column of another type than we write.
        None => StoreError::Corrupt(format!("{file}: {error}")),
    }
}

/// A conversation's key as SQLite keeps it: the same 64 bits.
pub(super) fn key(id: ConversationId) -> i64 {
    id.0 as i64
}

/// The reverse of [`key`].
pub(super) fn conversation(key: i64) -> ConversationId {
    ConversationId(key as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrated(conn: &Connection, migrations: &[&str]) -> Result<i64, StoreError> {
        migrate(conn, migrations)?;
        version(conn).map_err(|error| sql_error(LOG_FILE, error))
    }

    #[test]
    fn steps_run_once_each() {
        let conn = Connection::open_in_memory().unwrap();
        let (first, second) = ("CREATE TABLE a (x)", "CREATE TABLE b (x)");
        assert_eq!(migrated(&conn, &[first]).unwrap(), 1);
        assert_eq!(migrated(&conn, &[first, second]).unwrap(), 2);
        assert_eq!(migrated(&conn, &[first, second]).unwrap(), 2);
    }

    #[test]
    fn a_newer_file_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        migrated(&conn, &["CREATE TABLE a (x)", "CREATE TABLE b (x)"]).unwrap();
        let error = migrated(&conn, &["CREATE TABLE a (x)"]).unwrap_err();
        assert!(matches!(&error, StoreError::Open(text) if text.contains("newer")), "{error}");
    }

    #[test]
    fn a_failing_step_leaves_the_version_as_it_was() {
        let conn = Connection::open_in_memory().unwrap();
        migrated(&conn, &["CREATE TABLE a (x)"]).unwrap();
        assert!(migrated(&conn, &["CREATE TABLE a (x)", "CREATE TABLE b (x); CREATE TABLE a (x)"]).is_err());
        let _ = conn.execute_batch("ROLLBACK");
        assert_eq!(version(&conn).unwrap(), 1);
        assert!(conn.prepare("SELECT * FROM b").is_err());
    }

    #[test]
    fn a_database_of_somebody_else_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE a (x); PRAGMA user_version = 1").unwrap();
        assert!(matches!(migrate(&conn, LOG_MIGRATIONS), Err(StoreError::Open(_))));
    }
}
