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
