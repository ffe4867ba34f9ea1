//! The suite, and what is particular to files on a disk.

mod crash;
mod damage;
mod erasing;
mod faults;
mod files;

use std::{path::Path, sync::Arc};

use haggle_model::{
    Address, CommandId, Content, ConversationCreated, ConversationId, Effects, Entry, Event, KeyRing, KvChange, PluginId, Pos, Shard, UserId,
};

use super::{
    EmbeddedOptions, EmbeddedStore,
    applier::{About, LOOKED_THROUGH_MAX},
};
use crate::{
    AppendError, Log, StoreError, Tail, Views,
    suite::{Opener, Opening, entry, run, whole_log},
};

/// Opens the same temporary directory again and again.
fn opener() -> Opener {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    Box::new(move || {
        let dir = dir.clone();
        let opening: Opening = Box::pin(async move { Arc::new(open(dir.path()).unwrap()) as crate::SharedStore });
        opening
    })
}

mod suite {
    crate::store_suite!(super::opener());
}

fn open(dir: &Path) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(dir, EmbeddedOptions::default())
}

/// A store whose views are filled only when a question waits for them.
fn open_patient(dir: &Path) -> EmbeddedStore {
    let options = EmbeddedOptions {
        apply_interval: std::time::Duration::from_secs(3600),
        ..EmbeddedOptions::default()
    };
    EmbeddedStore::open(dir, options).unwrap()
}

/// The conversation that these tests write to.
const ID: ConversationId = ConversationId(0xfeed_0000_0000_0001);

/// A conversation that begins with its first message; the text tells the ts.
fn said(ts: u64) -> Arc<Entry> {
    let content = Content {
        kind: "text".to_string(),
        text: text_of(ts),
        countable: true,
        ..Content::default()
    };
    let entry = entry(ts, ID, ts as u32, ts as u32, Event::MessageCreated(content));
    Arc::new(Entry {
        actor: Some(UserId::from("ann")),
        command: Some(command_of(ts)),
        ..Entry::clone(&entry)
    })
}

fn text_of(ts: u64) -> String {
    format!("message number {ts}, {}", "and so on ".repeat(20))
}

fn command_of(ts: u64) -> CommandId {
    CommandId::hash(&[&ts.to_be_bytes()])
}

/// Appends messages up to `to`, `group` at a time, to a store that has only these.
async fn fill(store: &EmbeddedStore, to: u64, group: u64) -> Tail {
    let mut tail = store.tail(Shard(0)).await.unwrap();
    while tail.ts < to {
        let batch = (tail.ts + 1..=to.min(tail.ts + group)).map(said).collect();
        tail = store.append(Shard(0), tail, batch).await.unwrap();
    }
    tail
}

/// The log is exactly the first `count` messages, and the views agree.
async fn check_messages(store: &EmbeddedStore, count: u64) {
    let log = whole_log(store, Shard(0)).await;
    let expected: Vec<_> = (1..=count).map(|ts| (Pos(ts), said(ts))).collect();
    assert!(log == expected, "{} of {count} entries", log.len());
    assert_eq!(store.head(ID).await.unwrap().unwrap_or_default(), (count as u32, count as u32));
    if count > 0 {
        assert_eq!(
            store.message(ID.message(count as u32)).await.unwrap().unwrap().content.text,
            text_of(count)
        );
        assert_eq!(store.command(ID, command_of(count)).await.unwrap().unwrap().seq, count as u32);
    }
}

fn is_failed(error: &AppendError) -> bool {
    matches!(error, AppendError::Failed(_))
}

/// Copies the files of a store.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// A conversation at its address, made in the store.
async fn create(store: &EmbeddedStore, ts: u64, address: Address) -> ConversationId {
    let keys = KeyRing::new(store.installation_secret().await.unwrap());
    let id = keys.key(&address);
    let created = ConversationCreated {
        address,
        creator: None,
        name: None,
        avatar: None,
        state: None,
    };
    let tail = store.tail(Shard(0)).await.unwrap();
    store
        .append(Shard(0), tail, vec![entry(ts, id, 1, 0, Event::ConversationCreated(created))])
        .await
        .unwrap();
    id
}

#[test]
fn a_store_without_a_runtime_works_on_the_calling_thread() {
    // The lane polls `append` on a thread of its own, without tokio.
    let store = EmbeddedStore::open_temporary().unwrap();
    let mut append = store.append(Shard(0), Tail::default(), vec![said(1)]);
    let poll = append.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(poll, std::task::Poll::Ready(Ok(Tail { pos: Pos(1), ts: 1 }))));
    let mut head = store.head(ID);
    let poll = head.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(poll, std::task::Poll::Ready(Ok(Some((1, 1))))));
}

#[test]
fn readers_see_what_was_appended_while_many_write_and_rebuild() {
    let store = Arc::new(EmbeddedStore::open_temporary().unwrap());
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || run(async { fill(&store, 3_000, 7).await }))
    };
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let store = store.clone();
            std::thread::spawn(move || {
                run(async {
                    for round in 0..60 {
                        let tail = store.tail(Shard(0)).await.unwrap();
                        let (head, n) = store.head(ID).await.unwrap().unwrap_or_default();
                        assert!(head == n && u64::from(head) >= tail.ts, "reader {reader}: head {head} after {tail:?}");
                        if reader == 0 && round % 20 == 10 {
                            store.rebuild_views().await.unwrap();
                        }
                    }
                })
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(writer.join().unwrap().ts, 3_000);
    run(check_messages(&store, 3_000));
}

#[test]
fn a_plugins_key_is_read_past_what_is_not_in_the_views_yet() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_patient(dir.path());
    let plugin = PluginId::from("shop");
    let changing = |ts, value: Option<&str>| {
        let change = KvChange {
            plugin: plugin.clone(),
            key: "count".to_string(),
            value: value.map(|value| value.as_bytes().to_vec()),
            expires_at: None,
        };
        let effects = Effects {
            kv: vec![change],
            ..Effects::default()
        };
        Arc::new(Entry {
            effects,
            ..Entry::clone(&said(ts))
        })
    };
    let value = async |key| {
        let row = store.kv_get(ID, &plugin, key).await.unwrap();
        row.map(|row| String::from_utf8(row.value).unwrap())
    };
    run(async {
        let mut tail = Tail::default();
        let groups = [
            (vec![changing(1, Some("one"))], Some("one")),
            (vec![changing(2, Some("two")), changing(3, Some("three")), said(4)], Some("three")),
            (vec![changing(5, None)], None),
            (vec![changing(6, Some("six"))], Some("six")),
        ];
        for (entries, expected) in groups {
            tail = store.append(Shard(0), tail, entries).await.unwrap();
            assert_eq!(value("count").await.as_deref(), expected);
            assert_eq!(value("other").await, None);
        }
        assert!(!store.shared.backlog.is_applied(About::All), "nothing had to be applied for that");
        assert_eq!(
            store.head(ID).await.unwrap(),
            Some((6, 6)),
            "which the views are brought to by other questions"
        );
        assert_eq!(value("count").await.as_deref(), Some("six"), "and then have the key");
        store.append(Shard(0), tail, vec![said(7)]).await.unwrap();
        assert_eq!(value("count").await.as_deref(), Some("six"), "whatever else is waiting");
        assert!(!store.shared.backlog.is_applied(About::All));
    });
}

#[test]
fn a_message_is_read_past_what_is_not_in_the_views_yet() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_patient(dir.path());
    let about = |ts: u64, event| entry(ts, ID, ts as u32, 3, event);
    let edited = Event::MessageEdited {
        target: 2,
        content: Content {
            text: "mended".to_string(),
            ..Content::default()
        },
    };
    let message = async |seq| store.message(ID.message(seq)).await.unwrap();
    let nothing_applied = || assert!(!store.shared.backlog.is_applied(About::All));
    run(async {
        assert_eq!(message(1).await, None, "the first question opens the file");
        let tail = fill(&store, 3, 2).await;
        let queued = [message(1).await, message(2).await, message(3).await];
        assert_eq!(
            queued.each_ref().map(|row| row.as_ref().unwrap().content.text.clone()),
            [1, 2, 3].map(text_of)
        );
        assert_eq!(message(4).await, None);
        assert_eq!(store.message(ConversationId(ID.0 + 1).message(1)).await.unwrap(), None);
        nothing_applied();
        store.head(ID).await.unwrap();
        assert_eq!([message(1).await, message(2).await, message(3).await], queued, "the views say the same");

        let tail = store.append(Shard(0), tail, vec![about(4, Event::ConversationReopened)]).await.unwrap();
        assert_eq!(message(2).await, queued[1], "which nothing that waits is about");
        assert_eq!(message(4).await, None, "an event that is no message");
        nothing_applied();
        let tail = store.append(Shard(0), tail, vec![about(5, edited)]).await.unwrap();
        assert_eq!(message(3).await, queued[2]);
        nothing_applied();
        assert_eq!(message(2).await.unwrap().content.text, "mended", "a change is waited for");
        assert!(store.shared.backlog.is_applied(About::All));

        let many = 6 + LOOKED_THROUGH_MAX as u64;
        store.append(Shard(0), tail, (6..=many).map(said).collect()).await.unwrap();
        assert_eq!(message(7).await.unwrap().content.text, text_of(7));
        nothing_applied();
        assert_eq!(message(6).await.unwrap().content.text, text_of(6), "too far back");
        assert!(store.shared.backlog.is_applied(About::All));
    });
}

#[test]
fn a_place_waits_for_its_conversation_and_its_user_and_for_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_patient(dir.path());
    let user = UserId::from("ann");
    let entry_of = |conversation, ts| entry(ts, conversation, 1, 1, said(ts).event.clone());
    run(async {
        let (other, own) = (ConversationId(ID.0 + 1), store.shared.keys.key(&Address::Personal(user.clone())));
        let tail = store.append(Shard(0), Tail::default(), vec![entry_of(other, 1)]).await.unwrap();
        assert!(store.inbox_row(&user, ID).await.unwrap().is_none());
        assert!(!store.shared.backlog.is_applied(About::All), "somebody else's entry is not waited for");
        let tail = store.append(Shard(0), tail, vec![entry_of(ID, 2)]).await.unwrap();
        store.inbox_row(&user, ID).await.unwrap();
        assert!(store.shared.backlog.is_applied(About::All), "the conversation's is");
        store.append(Shard(0), tail, vec![entry_of(own, 3)]).await.unwrap();
        store.inbox_row(&user, ID).await.unwrap();
        assert!(store.shared.backlog.is_applied(About::All), "and the user's");
    });
}
