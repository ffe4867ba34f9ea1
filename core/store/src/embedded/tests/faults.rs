//! A disk that is full, and one that fails.

use std::{path::Path, process::Command};

use super::*;
use crate::Cursors;

#[test]
fn a_full_disk_refuses_cleanly_and_takes_writes_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        log_bytes_max: Some(512 * 1024),
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    run(async {
        let mut tail = Tail::default();
        let error = loop {
            match store.append(Shard(0), tail, (tail.ts + 1..=tail.ts + 20).map(said).collect()).await {
                Ok(next) => tail = next,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AppendError::Full(_)), "{error}");
        assert!(tail.ts > 200);
        check_messages(&store, tail.ts).await;
        // Nothing has failed: what still fits is taken, what does not is refused again.
        while let Ok(next) = store.append(Shard(0), tail, vec![said(tail.ts + 1)]).await {
            tail = next;
        }
        assert!(matches!(
            store.append(Shard(0), tail, vec![said(tail.ts + 1)]).await,
            Err(AppendError::Full(_))
        ));
        assert_eq!(store.recover(Shard(0)).await.unwrap(), tail);
    });
    drop(store);
    let store = open(dir.path()).unwrap(); // there is space again
    let tail = run(store.tail(Shard(0))).unwrap();
    run(check_messages(&store, tail.ts));
    run(fill(&store, tail.ts + 50, 10));
    run(check_messages(&store, tail.ts + 50));
}

const DIRECTORY: &str = "HAGGLE_STORE_TEST_LIMITED";

/// What the child process of the next test runs; nothing by itself. Its files cannot grow beyond a limit: the write fails.
#[test]
fn appends_until_the_disk_fails() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let store = open(Path::new(&dir)).unwrap();
    run(async {
        let mut tail = store.tail(Shard(0)).await.unwrap();
        let error = loop {
            match store.append(Shard(0), tail, (tail.ts + 1..=tail.ts + 20).map(said).collect()).await {
                Ok(next) => tail = next,
                Err(error) => break error,
            }
        };
        assert!(is_failed(&error), "{error}");
        assert!(tail.ts > 100, "{tail:?}");
        let again = store.append(Shard(0), tail, vec![said(tail.ts + 1)]).await.unwrap_err();
        assert!(is_failed(&again), "nothing is written before recovery: {again}");
        assert!(store.save_cursors(Shard(0), Vec::new()).await.is_err(), "nor beside the log");
        assert_eq!(store.recover(Shard(0)).await.unwrap(), tail);
        let log = whole_log(&store, Shard(0)).await;
        assert_eq!(log.len() as u64, tail.ts, "what was acked is there");
        println!("stored {}", tail.ts);
    });
}

#[test]
fn after_a_failed_write_nothing_is_written_until_recovery() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let name = concat!(module_path!(), "::appends_until_the_disk_fails").split_once("::").unwrap().1;
    // The signal is ignored so that the write returns an error, as a failing disk does. 512-byte blocks.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 800; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{output}\n{}", String::from_utf8_lossy(&child.stderr));
    let stored: u64 = output.lines().find_map(|line| line.rsplit_once("stored ")?.1.parse().ok()).unwrap();
    let store = open(dir.path()).unwrap();
    run(check_messages(&store, stored));
}
