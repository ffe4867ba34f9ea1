//! After-hooks: at least once, in order per conversation; what they write takes effect once.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use haggle_engine::ports::{After, GuestMessage, Hook};
use haggle_model::{ConversationId, Notification, Shard, UserId};

use crate::support::{
    World, eventually,
    plugins::{Fake, FakePlugins, Host},
};

/// What a hook was told: (conversation, text), in the order of the calls.
type Told = Arc<Mutex<Vec<(ConversationId, String)>>>;

fn text_of(event: &After) -> (ConversationId, String) {
    let After::Message { message, .. } = event else {
        panic!("only after-message was asked for")
    };
    (message.id.conversation, message.content.text.clone())
}

fn told_of(told: &Told, id: ConversationId) -> Vec<String> {
    told.lock()
        .unwrap()
        .iter()
        .filter(|(other, _)| *other == id)
        .map(|(_, text)| text.clone())
        .collect()
}

/// Fails for every text with `poison` in it, until `healed`.
fn recorder(told: &Told, healed: &Arc<AtomicBool>) -> Arc<FakePlugins> {
    let (told, healed) = (told.clone(), healed.clone());
    FakePlugins::of([Fake::new("recorder").after(Hook::AfterMessage, move |_, _, event| {
        let (id, text) = text_of(&event);
        let fails = text.contains("poison") && !healed.load(Ordering::SeqCst);
        told.lock().unwrap().push((id, text));
        async move { if fails { Err("poisoned".into()) } else { Ok(()) } }
    })])
}

#[tokio::test]
async fn a_failing_hook_holds_its_conversation_for_five_tries_and_no_other() {
    let (told, healed) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let world = World::with_hooks(recorder(&told, &healed)).await;
    let (sick, well) = (world.direct("ann", "bob").await, world.direct("ann", "cid").await);
    for text in ["1", "poison", "2", "3"] {
        world.send("ann", sick, text).await.unwrap();
    }
    for n in 0..5 {
        world.send("ann", well, &n.to_string()).await.unwrap();
    }
    eventually("the other conversation goes on", async || told_of(&told, well).len() == 5).await;
    assert_eq!(told_of(&told, well), ["0", "1", "2", "3", "4"], "in order");
    assert!(!told_of(&told, sick).contains(&"2".into()), "what comes after waits");
    eventually("it is given up", async || world.store.failed_count().await.unwrap() == 1).await;
    eventually("what waited is told", async || told_of(&told, sick).contains(&"3".into())).await;
    assert_eq!(told_of(&told, sick), ["1", "poison", "poison", "poison", "poison", "poison", "2", "3"]);
    let failed = world.engine.failed_deliveries(0, 10).await.unwrap().remove(0);
    assert_eq!(
        (failed.consumer.as_str(), failed.conversation, failed.attempts),
        ("after:recorder", sick, 5)
    );
    assert!(failed.error.contains("poisoned"), "{}", failed.error);

    assert!(world.engine.replay_delivery(failed.id).await.is_err(), "it still fails");
    assert_eq!(world.store.failed_count().await.unwrap(), 1, "and is still kept");
    healed.store(true, Ordering::SeqCst);
    world.engine.replay_delivery(failed.id).await.unwrap();
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
    assert_eq!(told_of(&told, sick).last().unwrap(), "poison");
}

#[tokio::test]
async fn a_held_conversation_catches_up_after_a_restart() {
    let (told, healed) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let world = World::with_hooks(recorder(&told, &healed)).await;
    let (sick, well) = (world.direct("ann", "bob").await, world.direct("ann", "cid").await);
    world.send("ann", sick, "poison").await.unwrap();
    world.send("ann", sick, "after it").await.unwrap();
    world.send("ann", well, "fine").await.unwrap();
    eventually("the feed has passed it", async || {
        let cursors = world.store.cursors(Shard(0)).await.unwrap();
        cursors
            .iter()
            .any(|(consumer, cursor)| consumer == "after:recorder" && cursor.held.iter().any(|held| held.conversation == sick))
    })
    .await;
    healed.store(true, Ordering::SeqCst);
    told.lock().unwrap().clear();
    let world = world.restart(recorder(&told, &healed)).await;
    eventually("it has caught up", async || told_of(&told, sick) == ["poison", "after it"]).await;
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
}

/// Everything that a hook can write, once per message.
fn writer() -> Arc<FakePlugins> {
    async fn write(host: Host, id: ConversationId, text: String) -> Result<(), haggle_engine::ports::HostError> {
        if text.starts_with("reply") {
            return Ok(());
        }
        let count = host.kv_get("count").await?.map_or(0, |value| value[0]);
        host.kv_set("count", vec![count + 1], None)?;
        host.kv_set(&format!("count {}", count + 1), text.clone().into(), None)?;
        host.send(message(id, format!("reply to {text}")))?;
        host.notify(
            "bob".into(),
            Notification {
                topic: "MESSAGE_RECEIVED".into(),
                title: text.clone(),
                ..Notification::default()
            },
        )?;
        let context = host.get_or_create("case", &text, vec!["ann".into(), "bob".into()], Some(text.clone()), None)?;
        host.send(message(context, format!("reply: about {text}")))?;
        host.global_set(&text, vec![1], None)
    }
    FakePlugins::of([Fake::new("writer").after(Hook::AfterMessage, |host, _, event| async move {
        let (id, text) = text_of(&event);
        write(host, id, text).await.map_err(|error| error.to_string())
    })])
}

fn message(conversation: ConversationId, text: String) -> GuestMessage {
    GuestMessage {
        conversation,
        sender: None,
        kind: "text".into(),
        text,
        metadata: None,
        reply_to: None,
        countable: true,
    }
}

/// What the writer's work amounts to: texts here, texts in the contexts, bob's notifications, the counter.
async fn effects(world: &World, id: ConversationId, sent: usize) -> (Vec<String>, Vec<String>, Vec<String>, u8) {
    let mut contexts = Vec::new();
    for n in 0..sent {
        let context = world
            .engine
            .locate(&haggle_engine::context_address("writer", "case", &n.to_string()))
            .await
            .unwrap();
        contexts.extend(world.texts(context).await);
    }
    let bob = UserId::from("bob");
    let notifications = world.store.notifications(&bob, None, false, 100).await.unwrap();
    let titles = notifications.into_iter().rev().map(|row| row.notification.title).collect();
    let count = world
        .store
        .kv_get(id, &"writer".into(), "count")
        .await
        .unwrap()
        .map_or(0, |row| row.value[0]);
    (world.texts(id).await, contexts, titles, count)
}

#[tokio::test]
async fn what_a_hook_writes_takes_effect_once_though_everything_is_told_again() {
    const SENT: usize = 10;
    let world = World::with_hooks(writer()).await;
    let id = world.direct("ann", "bob").await;
    for n in 0..SENT {
        world.send("ann", id, &n.to_string()).await.unwrap();
    }
    let done = async |world: &World| {
        let (texts, contexts, titles, _) = effects(world, id, SENT).await;
        (texts.len(), contexts.len(), titles.len()) == (2 * SENT, SENT, SENT)
    };
    eventually("everything is written", async || done(&world).await).await;
    let first = effects(&world, id, SENT).await;
    let sent: Vec<String> = (0..SENT).map(|n| n.to_string()).collect();
    assert_eq!((&first.2, first.3 as usize), (&sent, SENT));
    assert_eq!(first.1, sent.iter().map(|n| format!("reply: about {n}")).collect::<Vec<_>>());
    // Killed before any cursor was saved: everything is told and carried again.
    world.kill().await;
    let cursors = world.store.cursors(Shard(0)).await.unwrap();
    world
        .store
        .save_cursors(
            Shard(0),
            cursors.into_iter().map(|(consumer, _)| (consumer, Default::default())).collect(),
        )
        .await
        .unwrap();
    let told_again = world.store.tail(Shard(0)).await.unwrap().pos;
    let world = world.restart(writer()).await;
    world.send("ann", id, "10").await.unwrap();
    eventually("the feeds are past everything", async || {
        let cursors = world.store.cursors(Shard(0)).await.unwrap();
        let past = |name: &str| {
            cursors
                .iter()
                .any(|(consumer, cursor)| consumer == name && cursor.pos > told_again && cursor.held.is_empty())
        };
        past("outgoing") && past("after:writer")
    })
    .await;
    let (texts, contexts, titles, count) = effects(&world, id, SENT + 1).await;
    assert_eq!(
        (texts.len(), contexts.len(), titles.len(), count as usize),
        (2 * SENT + 2, SENT + 1, SENT + 1, SENT + 1),
        "only what is new is new"
    );
    assert_eq!(texts[..2 * SENT], first.0);
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
}

#[tokio::test]
async fn handlers_outside_the_turn_lose_no_update() {
    let world = World::with_hooks(writer()).await;
    let id = world.direct("ann", "bob").await;
    // The commands write the same key in the turn while after-hooks write it outside.
    let sends: Vec<_> = (0..50)
        .map(|n| world.submit("ann", None, crate::support::send(id, &n.to_string())))
        .collect();
    for answer in sends {
        answer.await.unwrap().unwrap();
    }
    eventually("all are counted", async || effects(&world, id, 0).await.3 == 50).await;
}

#[tokio::test]
async fn plugins_that_answer_themselves_are_cut_at_depth_four() {
    let echo = Fake::new("echo").after(Hook::AfterMessage, |host, _, event| async move {
        let (id, text) = text_of(&event);
        host.send(message(id, format!("{text}!"))).map(drop).map_err(|error| error.to_string())
    });
    let world = World::with_hooks(FakePlugins::of([echo])).await;
    let id = world.direct("ann", "bob").await;
    world.send("ann", id, "a").await.unwrap();
    eventually("it echoes", async || world.messages(id).await.len() == 5).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(world.texts(id).await, ["a", "a!", "a!!", "a!!!", "a!!!!"]);
    assert_eq!(world.history(id).await.last().unwrap().origin, vec!["echo".into(); 4]);
    assert_eq!(world.store.failed_count().await.unwrap(), 0, "cut, not failed");
}

#[tokio::test]
async fn a_loop_over_two_conversations_is_cut_at_depth_four_too() {
    let ping = Fake::new("ping").after(Hook::AfterMessage, |host, _, event| async move {
        let (id, text) = text_of(&event);
        let other = |name| host.context_id("side", name);
        let (left, right) = (other("left").unwrap(), other("right").unwrap());
        let to = if id == left { right } else { left };
        host.send(message(to, format!("{text}!"))).map(drop).map_err(|error| error.to_string())
    });
    let world = World::with_hooks(FakePlugins::of([ping])).await;
    let admin = haggle_engine::Actor {
        roles: Arc::from(["admin".to_owned()]),
        ..haggle_engine::Actor::user("root", haggle_engine::Transport::Rest)
    };
    for side in ["left", "right"] {
        let new = haggle_engine::NewConversation::Context {
            owner: "ping".into(),
            context_type: "side".into(),
            context_id: side.into(),
            participants: vec!["ann".into()],
            name: None,
            state: None,
        };
        world
            .engine
            .execute(haggle_engine::Request::new(
                admin.clone(),
                haggle_engine::Command::CreateConversation(new),
            ))
            .await
            .unwrap();
    }
    let left = world
        .engine
        .locate(&haggle_engine::context_address("ping", "side", "left"))
        .await
        .unwrap();
    let right = world
        .engine
        .locate(&haggle_engine::context_address("ping", "side", "right"))
        .await
        .unwrap();
    world.send("ann", left, "a").await.unwrap();
    eventually("it goes to and fro", async || {
        world.messages(left).await.len() + world.messages(right).await.len() == 5
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(world.texts(left).await, ["a", "a!!", "a!!!!"]);
    assert_eq!(world.texts(right).await, ["a!", "a!!!"]);
}

#[tokio::test]
async fn a_plugins_own_message_passes_the_hooks_of_others_and_never_its_own() {
    let stamp = |id: &'static str| {
        move |_: Host, _: haggle_engine::ports::Call, mut draft: haggle_engine::ports::Draft| async move {
            draft.text = format!("{} {id}", draft.text);
            Ok(draft)
        }
    };
    let speaker = Fake::new("speaker")
        .before_message(stamp("by-speaker"))
        .command("speak", |host, call, _| async move {
            host.send(message(call.conversation.unwrap(), "hello".into()))
                .map_err(|error| crate::support::plugins::reject(&error.to_string()))?;
            Ok("{}".into())
        });
    let other = Fake::new("other").before_message(stamp("by-other"));
    let world = World::with_hooks(FakePlugins::of([speaker, other])).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "speak", "{}").await.unwrap();
    world.send("ann", id, "hi").await.unwrap();
    assert_eq!(world.texts(id).await, ["hello by-other", "hi by-speaker by-other"]);
    let deciders: Vec<String> = world.messages(id).await[1]
        .content
        .decided_by
        .iter()
        .map(|decider| decider.plugin.to_string())
        .collect();
    assert_eq!(deciders, ["speaker", "other"], "the versions that decided are recorded");
}
