//! Erased text is in no file any more.

use std::path::Path;

use super::*;

const SECRET: &str = "the-secret-words";

/// How often the text of message `i` stands in the files.
fn occurrences(dir: &Path, needle: &str) -> usize {
    let files = std::fs::read_dir(dir).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
    files
        .map(|bytes| bytes.windows(needle.len()).filter(|window| *window == needle.as_bytes()).count())
        .sum()
}

fn secret(i: u32, length: usize) -> Content {
    let text = format!("{SECRET} {i:05} {}", format!("{SECRET}.").repeat(length));
    Content {
        kind: "text".to_string(),
        text,
        countable: true,
        ..Content::default()
    }
}

#[test]
fn no_file_holds_what_was_erased() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    run(async {
        let id = create(&store, 1, Address::Broadcast("news".to_string())).await;
        let mut ts = 1;
        let mut batch = Vec::new();
        let mut write = |batch: &mut Vec<_>, event| {
            ts += 1;
            batch.push(entry(ts, id, ts as u32, 0, event));
            ts as u32
        };
        // Short rows, long ones with overflow pages, edited ones; each followed by a row that stays.
        let mut targets = Vec::new();
        for i in 0..300 {
            let target = write(&mut batch, Event::MessageCreated(secret(i, if i % 10 == 0 { 800 } else { 3 })));
            write(
                &mut batch,
                Event::MessageCreated(Content {
                    text: format!("kept {i}"),
                    ..Content::default()
                }),
            );
            if i % 3 == 0 {
                write(
                    &mut batch,
                    Event::MessageEdited {
                        target,
                        content: secret(i, 5),
                    },
                );
            }
            targets.push(target);
        }
        for target in targets {
            write(
                &mut batch,
                Event::MessageDeleted {
                    target,
                    sender: UserId::from("ann"),
                    n: 0,
                },
            );
        }
        let mut tail = store.tail(Shard(0)).await.unwrap();
        for group in batch.chunks(17) {
            tail = store.append(Shard(0), tail, group.to_vec()).await.unwrap();
        }
        store.head(id).await.unwrap();
        assert!(occurrences(dir.path(), SECRET) > 300);

        let mut erased = 0;
        loop {
            match store.erase_deleted(i64::MAX, 100).await.unwrap() {
                0 => break,
                count => erased += count,
            }
        }
        assert_eq!(erased, 300);
        assert_eq!(occurrences(dir.path(), SECRET), 0);
        assert_eq!(occurrences(dir.path(), "kept 299"), 1);
        store.verify().await.unwrap();
        let log = whole_log(&store, Shard(0)).await;
        assert_eq!(log.iter().filter(|(_, entry)| entry.redacted).count(), 400);
        assert_eq!(store.tail(Shard(0)).await.unwrap(), tail);
    });
    drop(store);
    assert_eq!(occurrences(dir.path(), SECRET), 0);
    run(open(dir.path()).unwrap().verify()).unwrap();
}
