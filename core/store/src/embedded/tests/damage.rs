//! Bytes that are not what was written: noticed and named, never skipped in silence.

use std::path::Path;

use super::*;
use crate::{
    embedded::{
        acked::ACKED_FILE,
        schema::{LOG_FILE, VIEWS_FILE},
    },
    suite::Random,
};

const MESSAGES: u64 = 400;
const BATCH: u64 = 5;
const WAL_FILE: &str = "log.db-wal";

/// The files of a store with messages as a killed process leaves them: most of the log is in the write-ahead log.
fn killed_store() -> tempfile::TempDir {
    let original = tempfile::tempdir().unwrap();
    let copied = tempfile::tempdir().unwrap();
    let store = open(original.path()).unwrap();
    run(fill(&store, MESSAGES, BATCH));
    run(store.head(ID)).unwrap();
    copy(original.path(), copied.path());
    copied
}

/// Opens and reads everything. Either all of it is as written, or the error names file and place.
fn check_whole_or_reported(dir: &Path, what: &str) -> bool {
    let opened = open(dir).and_then(|store| {
        run(async {
            store.verify().await?;
            check_messages(&store, MESSAGES).await;
            Ok(())
        })
    });
    match opened {
        Ok(()) => true,
        Err(StoreError::Corrupt(text)) => {
            assert!(text.contains(LOG_FILE), "{what}: {text}");
            false
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

fn change(dir: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn an_undamaged_copy_is_whole() {
    assert!(check_whole_or_reported(killed_store().path(), "copy"));
}

#[test]
fn a_truncated_write_ahead_log_is_reported() {
    let killed = killed_store();
    let length = std::fs::metadata(killed.path().join(WAL_FILE)).unwrap().len() as usize;
    assert!(length > 64 * 1024);
    let mut random = Random(3);
    for _ in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        copy(killed.path(), dir.path());
        let cut = 1 + random.below(64 * 1024);
        change(dir.path(), WAL_FILE, |bytes| bytes.truncate(length - cut));
        assert!(
            !check_whole_or_reported(dir.path(), &format!("{cut} bytes cut")),
            "{cut} bytes of acknowledged entries were cut and not missed"
        );
    }
}

/// A power cut: any part of what was not yet synced may be missing, and the witness may be old. What is left is a whole number
/// of batches, exactly as written.
#[test]
fn a_torn_tail_opens_as_whole_batches() {
    let killed = killed_store();
    std::fs::remove_file(killed.path().join(ACKED_FILE)).unwrap();
    let length = std::fs::metadata(killed.path().join(WAL_FILE)).unwrap().len() as usize;
    let mut random = Random(6);
    let mut shortest = MESSAGES;
    for round in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        copy(killed.path(), dir.path());
        let from = length - 1 - random.below(length / 2);
        change(dir.path(), WAL_FILE, |bytes| match round % 3 {
            0 => bytes.truncate(from),
            1 => bytes[from..].fill(0),
            _ => bytes[from..].iter_mut().for_each(|byte| *byte = random.number() as u8),
        });
        let store = open(dir.path()).unwrap();
        let stored = run(store.tail(Shard(0))).unwrap().ts;
        assert_eq!(stored % BATCH, 0, "half a batch is there");
        run(check_messages(&store, stored));
        run(fill(&store, stored + 10, BATCH));
        run(check_messages(&store, stored + 10));
        shortest = shortest.min(stored);
    }
    assert!(shortest < MESSAGES, "nothing was torn");
}

#[test]
fn a_flipped_bit_at_the_end_loses_nothing_in_silence() {
    let killed = killed_store();
    let length = std::fs::metadata(killed.path().join(WAL_FILE)).unwrap().len() as usize;
    let mut random = Random(4);
    let mut reported = 0;
    for _ in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        copy(killed.path(), dir.path());
        let (offset, bit) = (length - 1 - random.below(64 * 1024), random.below(8));
        change(dir.path(), WAL_FILE, |bytes| bytes[offset] ^= 1 << bit);
        reported += usize::from(!check_whole_or_reported(dir.path(), &format!("bit {bit} of {offset}")));
    }
    assert!(reported > 40, "only {reported} of 60 flips mattered");
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_file_loses_nothing_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    run(fill(&store, MESSAGES, 50));
    run(store.head(ID)).unwrap();
    drop(store); // closing copies the write-ahead log into the file
    let length = std::fs::metadata(dir.path().join(LOG_FILE)).unwrap().len() as usize;
    let mut random = Random(5);
    let mut reported = 0;
    for _ in 0..60 {
        let damaged = tempfile::tempdir().unwrap();
        copy(dir.path(), damaged.path());
        let (offset, bit) = (4096 + random.below(length - 4096), random.below(8));
        change(damaged.path(), LOG_FILE, |bytes| bytes[offset] ^= 1 << bit);
        reported += usize::from(!check_whole_or_reported(damaged.path(), &format!("bit {bit} of {offset}")));
    }
    assert!(reported > 20, "only {reported} of 60 flips mattered");
}

#[test]
fn a_changed_row_is_named_by_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    run(fill(&store, 5_000, 500));
    run(store.head(ID)).unwrap(); // the views have everything: the next start reads nothing of it again
    drop(store);
    let conn = rusqlite::Connection::open(dir.path().join(LOG_FILE)).unwrap();
    conn.execute(
        "UPDATE log SET body = replace(body, 'message number 1234', 'message number 4321') WHERE pos = 1234",
        [],
    )
    .unwrap();
    drop(conn);
    let store = open(dir.path()).unwrap(); // the end of the log is sound
    let named = |error: StoreError| matches!(&error, StoreError::Corrupt(text) if text.contains("log.db: position 1234:"));
    assert!(named(run(store.verify()).unwrap_err()));
    assert!(named(run(store.read(Shard(0), Pos(1_200), 100)).unwrap_err()));
    assert!(named(run(store.message(ID.message(1_234))).unwrap_err()));
    assert!(run(store.message(ID.message(1_235))).unwrap().is_some());
    assert_eq!(run(store.read(Shard(0), Pos(1_234), 100)).unwrap().len(), 100);
}

#[test]
fn views_that_are_missing_damaged_or_foreign_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    run(fill(&store, MESSAGES, 50));
    run(store.head(ID)).unwrap();
    drop(store);
    let check = |what: &str, damage: &dyn Fn(&Path)| {
        let damaged = tempfile::tempdir().unwrap();
        copy(dir.path(), damaged.path());
        damage(damaged.path());
        let store = open(damaged.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        run(check_messages(&store, MESSAGES));
    };
    let sql = |dir: &Path, sql: &str| rusqlite::Connection::open(dir.join(VIEWS_FILE)).unwrap().execute_batch(sql).unwrap();
    check("missing", &|dir| std::fs::remove_file(dir.join(VIEWS_FILE)).unwrap());
    check("empty", &|dir| change(dir, VIEWS_FILE, Vec::clear));
    check("no database", &|dir| change(dir, VIEWS_FILE, |bytes| bytes.fill(0x55)));
    check("other version", &|dir| sql(dir, "PRAGMA user_version = 9999"));
    check("ahead of the log", &|dir| {
        sql(dir, "UPDATE meta SET applied = 100000, applied_ts = 100000")
    });
    check("of another log", &|dir| sql(dir, "UPDATE meta SET applied_ts = 77"));
    check("half", &|dir| sql(dir, "DROP TABLE meta"));
}

#[test]
fn a_log_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    rusqlite::Connection::open(dir.path().join(LOG_FILE))
        .unwrap()
        .execute_batch("PRAGMA user_version = 9999")
        .unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Open(text)) if text.contains("newer")));
}
