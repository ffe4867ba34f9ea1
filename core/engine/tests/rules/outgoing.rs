//! Outgoing items: in order per target, held by nobody else's trouble, refused once and for all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use haggle_engine::{
    Command, Refusal,
    ports::{GuestMessage, HostError},
};
use haggle_model::{ConversationId, ErrorCode, Notification};

use crate::support::{
    World, eventually,
    plugins::{Fake, FakePlugins, reject},
};

fn unable(error: HostError) -> Refusal {
    reject(&error.to_string())
}

fn message(conversation: ConversationId, text: &str) -> GuestMessage {
    GuestMessage {
        conversation,
        sender: None,
        kind: "text".into(),
        text: text.into(),
        metadata: None,
        reply_to: None,
        countable: true,
    }
}

/// `post to text`: makes the context `to` with ann and bob in it, writes the text there and notifies bob.
fn poster() -> Fake {
    Fake::new("poster")
        .command("post", |host, _, payload| async move {
            let (to, text) = payload.split_once(' ').expect("to and text");
            let context = host
                .get_or_create("room", to, vec!["ann".into(), "bob".into()], None, None)
                .map_err(unable)?;
            host.send(message(context, text)).map_err(unable)?;
            host.notify(
                "bob".into(),
                Notification {
                    title: text.into(),
                    ..Notification::default()
                },
            )
            .map_err(unable)?;
            Ok(format!("\"{context}\""))
        })
        .command("note", |host, _, room| async move {
            let to = host.context_id("room", &room).map_err(unable)?;
            let note = GuestMessage {
                kind: "system".into(),
                countable: false,
                ..message(to, "a note")
            };
            Ok(format!("\"{}\"", host.send(note).map_err(unable)?))
        })
        .command("close", |host, _, _| async move {
            host.set_closed(true).map_err(unable)?;
            Ok("{}".into())
        })
}

/// Refuses messages of others with `code` as long as it is shut, and counts the tries.
fn gate(shut: &Arc<AtomicBool>, tries: &Arc<AtomicUsize>, code: ErrorCode) -> Fake {
    let (shut, tries) = (shut.clone(), tries.clone());
    Fake::new("gate").before_message(move |_, _, draft| {
        let refuse = shut.load(Ordering::SeqCst) && draft.text.contains("gated");
        tries.fetch_add(usize::from(draft.text.contains("gated")), Ordering::SeqCst);
        async move { if refuse { Err(Refusal::new(code, "shut")) } else { Ok(draft) } }
    })
}

async fn room(world: &World, name: &str) -> ConversationId {
    world
        .engine
        .locate(&haggle_engine::context_address("poster", "room", name))
        .await
        .unwrap()
}

async fn bobs_titles(world: &World) -> Vec<String> {
    let rows = world.store.notifications(&"bob".into(), None, false, 100).await.unwrap();
    rows.into_iter().rev().map(|row| row.notification.title).collect()
}

#[tokio::test]
async fn a_message_follows_the_conversation_that_the_same_handler_makes() {
    let world = World::with_hooks(FakePlugins::of([poster()])).await;
    let id = world.direct("ann", "bob").await;
    for n in 0..20 {
        world.call("ann", id, "post", &format!("room{} text {n}", n / 2)).await.unwrap();
    }
    for n in 0..10 {
        let room = room(&world, &format!("room{n}")).await;
        eventually("both messages are there", async || world.messages(room).await.len() == 2).await;
        assert_eq!(
            world.texts(room).await,
            [format!("text {}", 2 * n), format!("text {}", 2 * n + 1)],
            "in order"
        );
    }
    eventually("all notifications are there", async || bobs_titles(&world).await.len() == 20).await;
    assert_eq!(bobs_titles(&world).await, (0..20).map(|n| format!("text {n}")).collect::<Vec<_>>());
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_target_that_is_overloaded_holds_only_what_is_for_it() {
    let (shut, tries) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let world = World::with_hooks(FakePlugins::of([poster(), gate(&shut, &tries, ErrorCode::Overloaded)])).await;
    let id = world.direct("ann", "bob").await;
    for n in 0..3 {
        world.call("ann", id, "post", &format!("busy gated {n}")).await.unwrap();
        world.call("ann", id, "post", &format!("free open {n}")).await.unwrap();
    }
    let (busy, free) = (room(&world, "busy").await, room(&world, "free").await);
    eventually("others get theirs", async || {
        world.messages(free).await.len() == 3 && bobs_titles(&world).await.len() == 6
    })
    .await;
    eventually("it is tried again", async || tries.load(Ordering::SeqCst) >= 3).await;
    assert!(world.messages(busy).await.is_empty());
    shut.store(false, Ordering::SeqCst);
    eventually("then it gets all, in order", async || {
        world.texts(busy).await == ["gated 0", "gated 1", "gated 2"]
    })
    .await;
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_held_target_is_remembered_over_a_restart() {
    let (shut, tries) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let plugins = || FakePlugins::of([poster(), gate(&shut, &tries, ErrorCode::Overloaded)]);
    let world = World::with_hooks(plugins()).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "post", "busy gated").await.unwrap();
    world.call("ann", id, "post", "free open").await.unwrap();
    eventually("the cursor has passed it", async || {
        let cursors = world.store.cursors(haggle_model::Shard(0)).await.unwrap();
        cursors.iter().any(|(consumer, cursor)| consumer == "outgoing" && !cursor.held.is_empty())
    })
    .await;
    shut.store(false, Ordering::SeqCst);
    let world = world.restart(plugins()).await;
    let busy = room(&world, "busy").await;
    eventually("it is delivered", async || world.texts(busy).await == ["gated"]).await;
    assert_eq!(bobs_titles(&world).await, ["gated", "open"], "and nothing twice");
}

#[tokio::test]
async fn a_plugin_that_keeps_failing_in_the_target_is_given_up_after_five_tries() {
    let (shut, tries) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let world = World::with_hooks(FakePlugins::of([poster(), gate(&shut, &tries, ErrorCode::PluginError)])).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "post", "sick gated").await.unwrap();
    world.call("ann", id, "post", "sick fine").await.unwrap();
    let sick = room(&world, "sick").await;
    eventually("it is given up, and the next one follows", async || world.texts(sick).await == ["fine"]).await;
    assert_eq!(tries.load(Ordering::SeqCst), 5);
    let failed = world.engine.failed_deliveries(0, 10).await.unwrap();
    assert_eq!((failed.len(), failed[0].consumer.as_str(), failed[0].attempts), (1, "outgoing", 5));
    shut.store(false, Ordering::SeqCst);
    world.engine.replay_delivery(failed[0].id).await.unwrap();
    assert_eq!(world.texts(sick).await, ["fine", "gated"]);
}

#[tokio::test]
async fn a_refusal_is_a_failed_delivery_at_once() {
    let closer = Fake::new("other").command("leak", |host, _, to| async move {
        // Not a participant there: the target refuses.
        host.send(message(to.parse().expect("an id"), "let me in")).map_err(unable)?;
        Ok("{}".into())
    });
    let world = World::with_hooks(FakePlugins::of([poster(), closer])).await;
    let (id, private) = (world.direct("ann", "bob").await, world.direct("cid", "dan").await);
    world.call("ann", id, "leak", &private.to_string()).await.unwrap();
    eventually("it is kept for the operator", async || world.store.failed_count().await.unwrap() == 1).await;
    let failed = world.engine.failed_deliveries(0, 10).await.unwrap().remove(0);
    assert_eq!((failed.attempts, failed.conversation), (1, private), "{}", failed.error);
    assert!(world.messages(private).await.is_empty());
    world.engine.drop_delivery(failed.id).await.unwrap();
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
}

#[tokio::test]
async fn what_waits_for_a_store_that_is_away_is_not_given_up() {
    let world = World::with_hooks(FakePlugins::of([poster()])).await;
    let id = world.direct("ann", "bob").await;
    world.faults.delay_appends(Duration::from_millis(10));
    // The first append is the command's, the second one that of what it asks of others.
    world.faults.fail_append(
        2,
        haggle_store::AppendError::Failed("planned".into()),
        haggle_store::decorate::When::Before,
    );
    world.faults.fail_recoveries(2);
    world.call("ann", id, "post", "room text").await.unwrap();
    eventually("the store fails", async || world.engine.health() == haggle_engine::Health::ReadOnly).await;
    let room = room(&world, "room").await;
    eventually("it arrives when the store is back", async || {
        world.texts(room).await == ["text"] && bobs_titles(&world).await == ["text"]
    })
    .await;
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_plugin_speaks_in_its_own_context_only_while_it_is_open() {
    let world = World::with_hooks(FakePlugins::of([poster()])).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "post", "room first").await.unwrap();
    let room = room(&world, "room").await;
    eventually("it is there", async || world.messages(room).await.len() == 1).await;
    world.call("ann", room, "close", "{}").await.unwrap();
    assert_eq!(world.send("ann", room, "too late").await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(
        world
            .run(
                "ann",
                Command::CloseConversation {
                    conversation: room,
                    closed: false,
                    reason: None
                }
            )
            .await
            .unwrap_err()
            .code,
        ErrorCode::Forbidden,
        "a participant does not reopen what its owner closed"
    );
}

#[tokio::test]
async fn an_outgoing_message_is_what_its_writer_said_it_is() {
    let world = World::with_hooks(FakePlugins::of([poster()])).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "post", "room first").await.unwrap();
    let room = room(&world, "room").await;
    let told = world.call("ann", id, "note", "room").await.unwrap().answer.unwrap();
    eventually("the note is there", async || world.messages(room).await.len() == 2).await;
    let note = world.messages(room).await.remove(1);
    assert_eq!((note.content.kind.as_str(), note.content.countable), ("system", false));
    assert_eq!(
        format!("\"{}\"", note.command.unwrap()),
        told,
        "stored under the ref that the plugin was told"
    );
    assert_eq!(world.unread("bob", room).await, 1, "a note is not unread");
}
