//! Positions, fencing, atomicity, durability, erasing.

use std::sync::Arc;

use haggle_model::{Address, ConversationId, Entry, Event, Pos, Shard, UserId};

use super::{Opener, Pen, START, entry, tail_of, text, whole_log};
use crate::{AppendError, SharedStore, Tail};

/// A conversation of shard 0.
const HERE: ConversationId = ConversationId(7 << 16);

fn noops(ts: std::ops::RangeInclusive<u64>) -> Vec<Arc<Entry>> {
    ts.map(|ts| entry(ts, HERE, 0, 0, Event::Noop)).collect()
}

async fn append(store: &SharedStore, tail: Tail, ts: std::ops::RangeInclusive<u64>) -> Result<Tail, AppendError> {
    store.append(Shard(0), tail, noops(ts)).await
}

/// Positions are 1, 2, 3 …, whatever the batches, and pages join without a gap.
pub async fn positions_are_dense(open: &Opener) {
    let store = open().await;
    let mut tail = tail_of(&store).await;
    assert_eq!(tail, Tail::default());
    for batch in [1..=1, 2..=5, 6..=20] {
        tail = append(&store, tail, batch).await.unwrap();
    }
    assert_eq!(tail, Tail { pos: Pos(20), ts: 20 });
    assert_eq!(tail_of(&store).await, tail);
    let mut read = Vec::new();
    let mut after = Pos(0);
    loop {
        let page = store.read(Shard(0), after, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some((last, _)) = page.last() else { break };
        after = *last;
        read.extend(page);
    }
    let expected: Vec<_> = (1..).map(Pos).zip(noops(1..=20)).collect();
    assert_eq!(read, expected);
}

/// A writer whose tail is not the log's writes nothing.
pub async fn a_stale_tail_is_fenced(open: &Opener) {
    let store = open().await;
    let first = append(&store, Tail::default(), 1..=2).await.unwrap();
    append(&store, first, 3..=3).await.unwrap();
    for stale in [Tail::default(), first, Tail { pos: Pos(3), ts: 2 }, Tail { pos: Pos(9), ts: 9 }] {
        assert!(matches!(append(&store, stale, 10..=11).await, Err(AppendError::Fenced)), "{stale:?}");
    }
    assert_eq!(whole_log(&*store, Shard(0)).await.len(), 3);
}

/// `ts` must increase strictly, inside a batch and after the tail.
pub async fn time_must_increase(open: &Opener) {
    let store = open().await;
    let tail = append(&store, Tail::default(), 5..=6).await.unwrap();
    assert!(append(&store, tail, 6..=7).await.is_err(), "6 again");
    let standing = vec![entry(8, HERE, 0, 0, Event::Noop), entry(8, HERE, 0, 0, Event::Noop)];
    assert!(store.append(Shard(0), tail, standing).await.is_err(), "8 twice");
    assert_eq!(tail_of(&store).await, tail);
    append(&store, tail, 7..=7).await.unwrap();
}

/// A refused batch leaves nothing behind, neither in the log nor in the views; an accepted one is there with all its entries.
pub async fn a_batch_is_whole_or_not_there(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    let shard = id.shard(pen.store.shards());
    let tail = pen.store.tail(shard).await.unwrap();
    let batch: Vec<_> = (0..3)
        .map(|i| Arc::new(pen.entry(id, "ann", Event::MessageCreated(text(&format!("m{i}"))))))
        .collect();
    let stale = Tail {
        pos: Pos(tail.pos.0 - 1),
        ts: tail.ts,
    };
    assert!(pen.store.append(shard, stale, batch.clone()).await.is_err());
    assert_eq!(pen.store.head(id).await.unwrap(), Some((3, 0)));
    assert_eq!(pen.store.tail(shard).await.unwrap(), tail);
    pen.store.append(shard, tail, batch).await.unwrap();
    assert_eq!(pen.store.head(id).await.unwrap(), Some((6, 3)));
}

/// No entries: the tail stays.
pub async fn an_empty_append_changes_nothing(open: &Opener) {
    let store = open().await;
    let tail = append(&store, Tail::default(), 1..=1).await.unwrap();
    assert_eq!(store.append(Shard(0), tail, Vec::new()).await.unwrap(), tail);
    assert_eq!(tail_of(&store).await, tail);
}

/// What was appended is there after reopening: log, views, secret.
pub async fn the_log_survives_reopening(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    for i in 0..10 {
        pen.say(id, "ann", &format!("m{i}")).await;
    }
    let shard = id.shard(pen.store.shards());
    let log = whole_log(&*pen.store, shard).await;
    let tail = pen.store.tail(shard).await.unwrap();
    let secret = pen.store.installation_secret().await.unwrap();
    drop(pen);
    let store = open().await;
    assert_eq!(store.tail(shard).await.unwrap(), tail);
    assert_eq!(store.recover(shard).await.unwrap(), tail);
    assert_eq!(whole_log(&*store, shard).await, log);
    assert_eq!(store.installation_secret().await.unwrap(), secret);
    assert_eq!(store.head(id).await.unwrap(), Some((13, 10)));
    store.append(shard, tail, vec![entry(tail.ts + 1, id, 0, 0, Event::Noop)]).await.unwrap();
}

/// The text of a deleted message leaves the log, with that of its edits; what others said stays, and so does every answer.
pub async fn deleted_text_is_erased(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen
        .create(Address::Group(UserId::from("ann"), haggle_model::CommandId([1; 16])), &["ann", "bob"])
        .await;
    let (kept, gone, late) = (
        pen.say(id, "ann", "kept").await,
        pen.say(id, "ann", "secret one").await,
        pen.say(id, "bob", "secret three").await,
    );
    pen.write(
        id,
        "ann",
        Event::MessageEdited {
            target: gone,
            content: text("secret two"),
        },
    )
    .await;
    let deleted = pen
        .write(
            id,
            "ann",
            Event::MessageDeleted {
                target: gone,
                sender: UserId::from("ann"),
                n: 2,
            },
        )
        .await;
    let later = pen
        .write(
            id,
            "bob",
            Event::MessageDeleted {
                target: late,
                sender: UserId::from("bob"),
                n: 3,
            },
        )
        .await;
    let before = pen.store.messages(id, crate::Page::Newest, 10, None).await.unwrap();

    assert_eq!(
        pen.store.erase_deleted(START, 10).await.unwrap(),
        0,
        "nothing was deleted before the first entry"
    );
    assert_eq!(pen.store.erase_deleted(later.at, 10).await.unwrap(), 1);
    assert_eq!(pen.store.erase_deleted(later.at, 10).await.unwrap(), 0, "it is erased already");
    let secrets = async |pen: &Pen| {
        let log = whole_log(&*pen.store, id.shard(pen.store.shards())).await;
        let found = log.iter().filter(|(_, entry)| format!("{entry:?}").contains("secret")).count();
        (found, log.iter().filter(|(_, entry)| entry.redacted).count())
    };
    assert_eq!(
        secrets(&pen).await,
        (1, 2),
        "created and edited entry are blank, the later deleted one is not yet"
    );
    assert_eq!(pen.store.erase_deleted(later.at + 1, 10).await.unwrap(), 1);
    assert_eq!(secrets(&pen).await, (0, 3));

    assert_eq!(pen.store.messages(id, crate::Page::Newest, 10, None).await.unwrap(), before);
    let message = pen.store.message(id.message(gone)).await.unwrap().unwrap();
    assert_eq!(
        (message.deleted_at, message.content.text.as_str(), message.content.kind.as_str()),
        (Some(deleted.at), "", "text")
    );
    assert_eq!(pen.store.message(id.message(kept)).await.unwrap().unwrap().content.text, "kept");
    pen.store.rebuild_views().await.unwrap();
    assert_eq!(pen.store.messages(id, crate::Page::Newest, 10, None).await.unwrap(), before);
    assert_eq!(pen.store.erase_deleted(later.at + 1, 10).await.unwrap(), 0, "a rebuild remembers it");
}
