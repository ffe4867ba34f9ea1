//! Conversations as their participants see them.

mod support;

use haggle_engine::{Command, NewMessage, To};
use haggle_model::{Address, ErrorCode, UserId};
use haggle_store::Page;
use support::{World, eventually, send};

#[tokio::test]
async fn the_first_message_makes_a_direct_conversation() {
    let world = World::new().await;
    let to_bob = || Command::Send {
        to: To::User("bob".into()),
        message: NewMessage::text("hello"),
    };
    let first = world.run("ann", to_bob()).await.unwrap();
    assert_eq!(first.seq, 4, "created, joined twice, message");
    let second = world.run("ann", to_bob()).await.unwrap();
    assert_eq!((second.conversation, second.seq), (first.conversation, 5));
    let events = world.store.events(first.conversation, 0, 100).await.unwrap();
    let names: Vec<_> = events.iter().map(|event| event.event.name()).collect();
    assert_eq!(
        names,
        [
            "conversation.created",
            "participant.joined",
            "participant.joined",
            "message.created",
            "message.created"
        ]
    );
    assert_eq!(world.direct("bob", "ann").await, first.conversation, "whoever asks, it is the same");
    let bob = UserId::from("bob");
    eventually("the membership reaches the personal log", async || {
        let me = world.engine.personal(&bob).await.unwrap();
        world
            .store
            .events(me, 0, 10)
            .await
            .unwrap()
            .iter()
            .any(|event| event.event.name() == "membership.started")
    })
    .await;
}

#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let first = world.run_with_id("ann", "k1", send(id, "once")).await.unwrap();
    let again = world.run_with_id("ann", "k1", send(id, "once")).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    let other = world.run_with_id("ann", "k1", send(id, "something else")).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::IdempotencyKeyReused);
    assert_eq!(world.store.messages(id, Page::Newest, 10, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn strangers_find_nothing() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    assert_eq!(world.send("eve", id, "hi").await.unwrap_err().code, ErrorCode::NotFound);
    let message = world.send("ann", id, "hi").await.unwrap();
    let edit = |text: &str| Command::Edit {
        message: id.message(message.seq),
        text: Some(text.into()),
        metadata: None,
        if_rev: None,
    };
    assert_eq!(world.run("eve", edit("x")).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(world.run("bob", edit("x")).await.unwrap_err().code, ErrorCode::Forbidden);
    assert!(world.run("ann", edit("better")).await.is_ok());
    assert_eq!(
        world.store.message(id.message(message.seq)).await.unwrap().unwrap().content.text,
        "better"
    );
}

#[tokio::test]
async fn a_block_refuses_both_ways_even_before_the_first_message() {
    let world = World::new().await;
    let block = |blocked| Command::Block { user: "ann".into(), blocked };
    world.run("bob", block(true)).await.unwrap();
    let to_bob = Command::Send {
        to: To::User("bob".into()),
        message: NewMessage::text("hello"),
    };
    assert_eq!(world.run("ann", to_bob.clone()).await.unwrap_err().code, ErrorCode::Blocked);
    let bob = UserId::from("bob");
    eventually("the block is listed", async || {
        world.store.blocks(&bob).await.unwrap() == [UserId::from("ann")]
    })
    .await;
    world.run("bob", block(false)).await.unwrap();
    world.run("ann", to_bob).await.unwrap();
}

#[tokio::test]
async fn listeners_hear_everything_in_order() {
    let world = World::new().await;
    let group = world.group("ann", &["bob", "cid"]).await;
    let bob = world.connect("bob");
    for n in 0..50 {
        world.send(if n % 2 == 0 { "ann" } else { "cid" }, group, &n.to_string()).await.unwrap();
    }
    world
        .run(
            "ann",
            Command::RemoveParticipant {
                conversation: group,
                user: "bob".into(),
            },
        )
        .await
        .unwrap();
    world.send("ann", group, "bob is gone").await.unwrap();
    eventually("bob hears that he left", async || bob.events(group).len() >= 51).await;
    let heard = bob.events(group);
    let seqs: Vec<u32> = heard.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (seqs[0]..seqs[0] + 51).collect::<Vec<_>>());
    assert_eq!(heard.last().unwrap().1, "participant.left", "the last event that bob gets");
    assert_eq!(world.send("bob", group, "let me in").await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn unread_counts_what_others_wrote() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let bob = UserId::from("bob");
    for n in 0..3 {
        world.send("ann", id, &n.to_string()).await.unwrap();
    }
    let unread = async |user: &UserId| world.store.inbox_row(user, id).await.unwrap().unwrap().unread;
    assert_eq!(unread(&bob).await, 3);
    world.send("bob", id, "mine").await.unwrap();
    assert_eq!(unread(&bob).await, 3, "an own message is not unread");
    let (done, marked) = tokio::sync::oneshot::channel();
    let actor = haggle_engine::Actor::user("bob", haggle_engine::Transport::Rest);
    world
        .engine
        .mark(&actor, id, None, Some(5), Some(Box::new(move |answer| done.send(answer).unwrap())));
    marked.await.unwrap().unwrap();
    assert_eq!(unread(&bob).await, 1);
    assert_eq!(unread(&"ann".into()).await, 1);
}

#[tokio::test]
async fn the_personal_log_is_an_address_of_its_own() {
    let world = World::new().await;
    let ann = UserId::from("ann");
    world.engine.see_user(&ann).await.unwrap();
    let me = world.engine.personal(&ann).await.unwrap();
    assert_eq!(world.engine.locate(&Address::Personal(ann.clone())).await.unwrap(), me);
    assert!(world.store.user(&ann).await.unwrap().is_some());
    world.engine.shutdown().await;
    assert_eq!(world.send("ann", me, "x").await.unwrap_err().code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn what_is_hidden_is_neither_unread_nor_there() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let message = id.message(world.send("ann", id, "hello").await.unwrap().seq);
    world.run("bob", Command::Hide { conversation: id }).await.unwrap();
    let react = || Command::React {
        message,
        emoji: Some("+1".into()),
    };
    assert_eq!(world.run("bob", react()).await.unwrap_err().code, ErrorCode::NotFound);
    assert!(world.run("ann", react()).await.is_ok(), "hidden for bob alone");
    let bob = UserId::from("bob");
    let unread = async || world.store.inbox_row(&bob, id).await.unwrap().unwrap().unread;
    eventually("nothing hidden is unread", async || unread().await == 0).await;
    world.send("ann", id, "again").await.unwrap();
    assert_eq!(unread().await, 1);
}

#[tokio::test]
async fn an_edit_that_leaves_the_text_alone_does_not_count_as_edited() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let message = id.message(world.send("ann", id, "hello").await.unwrap().seq);
    let edit = |text: &str, metadata: &str| Command::Edit {
        message,
        text: Some(text.into()),
        metadata: Some(metadata.into()),
        if_rev: None,
    };
    let edited = async || world.store.message(message).await.unwrap().unwrap().edited_at;
    world.run("ann", edit("hello", "{}")).await.unwrap();
    assert_eq!(edited().await, None);
    world.run("ann", edit("hello there", "{}")).await.unwrap();
    assert_eq!(edited().await, Some(support::START));
}
