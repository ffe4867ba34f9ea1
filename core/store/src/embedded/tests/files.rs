//! Directories, locks, checkpoints.

use std::time::Duration;

use super::*;
use crate::{Cursor, Cursors};

#[test]
fn the_same_directory_opens_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("made/on/the/way");
    let store = open(&inner).unwrap();
    assert!(matches!(open(&inner), Err(StoreError::InUse(_))));
    drop(store);
    open(&inner).unwrap();
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(open(&file), Err(StoreError::Open(text)) if text.contains("file")));
}

#[test]
fn a_temporary_store_leaves_nothing() {
    let store = EmbeddedStore::open_temporary().unwrap();
    let dir = store.shared.dir.clone();
    run(fill(&store, 10, 5));
    assert!(dir.exists());
    drop(store);
    assert!(!dir.exists());
}

#[test]
fn the_write_ahead_log_does_not_grow_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    run(fill(&store, 60_000, 100));
    let bytes = |file: &str| std::fs::metadata(dir.path().join(file)).map_or(0, |metadata| metadata.len());
    assert!(bytes("log.db") > 10 << 20, "checkpoints have copied it");
    assert!(bytes("log.db-wal") < 30 << 20, "{} bytes", bytes("log.db-wal"));
    run(async { assert_eq!(store.verify().await.unwrap(), Pos(60_000)) });
}

#[test]
fn a_page_of_the_log_ends_with_its_bytes() {
    let store = EmbeddedStore::open_temporary().unwrap();
    let long = |ts| {
        let content = Content {
            text: "long ".repeat(400_000),
            ..Content::default()
        };
        entry(ts, ID, ts as u32, 0, Event::MessageCreated(content))
    };
    run(async {
        store.append(Shard(0), Tail::default(), (1..=12).map(long).collect()).await.unwrap();
        let page = store.read(Shard(0), Pos(0), usize::MAX).await.unwrap();
        assert!((8..12).contains(&page.len()), "{} entries of 2 MB", page.len());
        assert_eq!(whole_log(&store, Shard(0)).await.len(), 12);
    });
}

#[test]
fn readers_that_stay_in_their_moment_keep_no_write_ahead_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    run(async {
        for ts in (600..=60_000).step_by(600) {
            fill(&store, ts, 100).await;
            assert_eq!(store.head(ID).await.unwrap(), Some((ts as u32, ts as u32)));
        }
    });
    let bytes = |file: &str| std::fs::metadata(dir.path().join(file)).map_or(0, |metadata| metadata.len());
    assert!(bytes("log.db-wal") < 30 << 20, "{} bytes", bytes("log.db-wal"));
    assert!(bytes("views.db-wal") < 30 << 20, "{} bytes", bytes("views.db-wal"));
}

#[test]
fn what_does_not_stand_in_the_views_is_seen_at_once() {
    let store = EmbeddedStore::open_temporary().unwrap();
    let ann = UserId::from("ann");
    run(async {
        for ts in 1..=50 {
            assert_eq!(store.head(ID).await.unwrap().is_some(), ts > 1);
            let seen = store.last_seen(&ann).await.unwrap();
            assert_eq!(seen, (ts > 1).then_some(ts as i64 - 1));
            fill(&store, ts, 1).await;
            assert_eq!(store.read(Shard(0), Pos(ts - 1), 9).await.unwrap().len(), 1, "the log's end");
            store.save_last_seen(vec![(ann.clone(), ts as i64)]).await.unwrap();
            store.save_cursors(Shard(0), vec![cursor(ts)]).await.unwrap();
            assert_eq!(store.cursors(Shard(0)).await.unwrap(), [cursor(ts)]);
        }
        store.head(ID).await.unwrap();
        store.head(ID).await.unwrap();
        assert!(store.shared.readers.stays_in_its_moment(), "or this test says little");
    });
}

fn cursor(pos: u64) -> (String, Cursor) {
    (
        "feed".to_string(),
        Cursor {
            pos: Pos(pos),
            held: Vec::new(),
        },
    )
}

#[test]
fn append_waits_for_the_applier() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        backlog_bytes_max: 64 * 1024,
        backlog_wait_max: Duration::from_millis(300),
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    run(fill(&store, 5_000, 20));
    run(check_messages(&store, 5_000));
    let views = store.shared.views.lock(); // the applier cannot go on
    let refused = run(async {
        let mut tail = store.tail(Shard(0)).await.unwrap();
        loop {
            match store.append(Shard(0), tail, vec![said(tail.ts + 1)]).await {
                Ok(next) => tail = next,
                Err(error) => break error,
            }
        }
    });
    assert!(matches!(refused, AppendError::Unavailable(_)), "{refused}");
    drop(views);
    let tail = run(store.tail(Shard(0))).unwrap();
    run(fill(&store, tail.ts + 100, 1));
    run(check_messages(&store, tail.ts + 100));
}

#[test]
fn of_a_seq_that_stands_twice_the_first_one_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    run(async {
        let mut entries: Vec<_> = (1..=40).map(said).collect();
        entries[19] = Arc::new(Entry {
            seq: 5,
            ..Entry::clone(&entries[19])
        });
        store.append(Shard(0), Tail::default(), entries).await.unwrap();
        for seq in 1..=40 {
            let text = store.message(ID.message(seq)).await.unwrap().map(|row| row.content.text);
            let expected = (seq != 20).then(|| text_of(seq.into()));
            assert_eq!(text, expected, "{seq}");
        }
    });
}
