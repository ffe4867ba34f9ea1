//! What a plugin that lists messages sees: everything staged before it, and what it saw must still be so when it writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use haggle_engine::{
    Command,
    ports::{After, Hook},
};
use haggle_model::ConversationId;
use tokio::sync::mpsc;

use crate::support::{
    World, call, eventually,
    plugins::{Fake, FakePlugins, Host, reject},
    send,
};

async fn listed(host: &Host, id: ConversationId) -> Vec<String> {
    let rows = host.messages(id, None, 10).await.expect("its own conversation");
    rows.into_iter().map(|row| row.content.text).collect()
}

#[tokio::test]
async fn a_list_shows_what_is_not_yet_durable() {
    let lister = Fake::new("lister").command("list", |host, call, before| async move {
        let id = call.conversation.expect("called in one");
        let before = before.parse().ok();
        let rows = host.messages(id, before, 2).await.map_err(|_| reject("list"))?;
        Ok(format!("{:?}", rows.iter().map(|row| &row.content.text).collect::<Vec<_>>()))
    });
    let world = World::with_hooks(FakePlugins::of([lister])).await;
    let id = world.direct("ann", "bob").await;
    let old = world.send("ann", id, "old").await.unwrap();
    world.faults.delay_appends(Duration::from_millis(100));
    let edit = Command::Edit {
        message: id.message(old.seq),
        text: Some("old, edited".into()),
        metadata: None,
        if_rev: None,
    };
    let commands = [
        edit,
        call(id, "list", "null"),
        send(id, "one"),
        send(id, "two"),
        call(id, "list", "null"),
        call(id, "list", &(old.seq + 3).to_string()),
    ];
    let mut answers: Vec<_> = commands.into_iter().map(|command| world.submit("ann", None, command)).collect();
    let mut lists = Vec::new();
    for answer in answers.drain(..) {
        lists.extend(answer.await.unwrap().unwrap().answer);
    }
    assert_eq!(lists, [r#"["old, edited"]"#, r#"["two", "one"]"#, r#"["one", "old, edited"]"#]);
}

#[tokio::test]
async fn what_clients_are_told_by_a_mapping_is_durable() {
    let mapper = Fake::new("mapper")
        .command("keep", |host, _, value| async move {
            host.kv_set("kept", value.into_bytes(), None).map_err(|_| reject("kv"))?;
            Ok("null".into())
        })
        .map(|host, call| async move {
            let id = call.conversation.expect("of one");
            let newest = host.messages(id, None, 1).await.expect("its own").remove(0);
            let again = host.message(newest.id).await.expect("its own").expect("listed").content.text;
            let row = host.conversation(id).await.expect("its own").expect("it exists");
            let kept = host.kv_get("kept").await.expect("its own").map(|value| String::from_utf8(value).unwrap());
            format!("{} {again} {} {kept:?}", newest.content.text, row.head)
        });
    let world = World::with_hooks(FakePlugins::of([mapper])).await;
    let id = world.direct("ann", "bob").await;
    let bob = world.connect("bob");
    let first = world.send("ann", id, "first").await.unwrap();
    eventually("bob hears of it", async || !bob.heard.lock().unwrap().is_empty()).await;
    let push = bob.heard.lock().unwrap()[0].clone();
    let map = async || {
        let emits = world.engine.map(&"mapper".into(), "/shop", &push, Vec::new()).await.expect("it maps");
        emits[0].name.clone()
    };
    world.faults.delay_appends(Duration::from_millis(300));
    let edit = Command::Edit {
        message: id.message(first.seq),
        text: Some("edited".into()),
        metadata: None,
        if_rev: None,
    };
    let staged = [edit, send(id, "second"), call(id, "keep", "1")].map(|command| world.submit("ann", None, command));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(map().await, format!("first first {} None", first.seq), "nothing of it is durable");
    let mut head = 0;
    for answer in staged {
        head = answer.await.unwrap().unwrap().seq.max(head);
    }
    assert!(map().await.starts_with("second second "), "now it is");
    assert!(map().await.ends_with("Some(\"1\")"));
    assert!(head > first.seq);
}

/// A hook outside the turn lists the messages; meanwhile `change` happens; then it sends one. Returns how often it ran.
async fn runs_when(change: impl AsyncFnOnce(&World, ConversationId, u32)) -> u32 {
    let (runs, (listing, mut has_listed), (go, gate)) = (Arc::new(AtomicU32::new(0)), mpsc::channel(8), mpsc::channel::<()>(8));
    let (counted, gate) = (runs.clone(), Arc::new(tokio::sync::Mutex::new(gate)));
    let echo = Fake::new("echo").after(Hook::AfterMessage, move |host, _, event| {
        let (counted, listing, gate) = (counted.clone(), listing.clone(), gate.clone());
        async move {
            let After::Message { message, .. } = event else { return Ok(()) };
            if message.content.text != "first" || message.rev != message.id.seq {
                return Ok(());
            }
            let _ = listed(&host, message.id.conversation).await;
            let run = counted.fetch_add(1, Ordering::SeqCst);
            listing.send(()).await.map_err(|error| error.to_string())?;
            if run == 0 {
                gate.lock().await.recv().await;
            }
            host.kv_set("listed", b"yes".to_vec(), None).map_err(|error| error.to_string())
        }
    });
    let world = World::with_hooks(FakePlugins::of([echo])).await;
    let id = world.direct("ann", "bob").await;
    let first = world.send("ann", id, "first").await.unwrap();
    has_listed.recv().await.expect("the hook runs");
    change(&world, id, first.seq).await;
    go.send(()).await.unwrap();
    eventually("the hook has written", async || {
        let row = world.store.kv_get(id, &"echo".into(), "listed").await.unwrap();
        row.is_some()
    })
    .await;
    runs.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_list_is_checked_for_what_it_showed() {
    let newer = runs_when(async |world, id, _| drop(world.send("bob", id, "newer").await.unwrap())).await;
    assert_eq!(newer, 1, "newer messages always come");
    let deleted = runs_when(async |world, id, seq| {
        let delete = Command::Delete {
            message: id.message(seq),
            if_rev: None,
        };
        world.run("ann", delete).await.unwrap();
    })
    .await;
    assert_eq!(deleted, 2, "what it has seen is not there any more");
}
