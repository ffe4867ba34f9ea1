//! What only one user sees: archive, hide, mute, delete for me; and what nobody sees any more.

use std::time::Duration;

use haggle_engine::{
    AttributeChanges, Command, ProfilePatch,
    ports::{After, Hook},
};
use haggle_model::{ConversationId, ErrorCode, Event, Limits, Millis, Notification};
use haggle_store::{InboxQuery, Page};

use crate::support::{
    HOUR, START, Setup, World, eventually,
    plugins::{Fake, FakePlugins},
};

async fn inbox(world: &World, user: &str, archived: bool) -> Vec<ConversationId> {
    let query = InboxQuery {
        archived: Some(archived),
        before: None,
        limit: 50,
    };
    world
        .store
        .inbox(&user.into(), query)
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.conversation.id)
        .collect()
}

async fn seen_texts(world: &World, user: &str, id: ConversationId) -> Vec<String> {
    let messages = world.store.messages(id, Page::After(0), 100, Some(&user.into())).await.unwrap();
    messages.into_iter().map(|message| message.content.text).collect()
}

#[tokio::test]
async fn archive_is_the_users_own_and_can_be_taken_back() {
    let world = World::new().await;
    let (one, two) = (world.direct("ann", "bob").await, world.direct("ann", "cid").await);
    world.send("bob", one, "hi").await.unwrap();
    world.send("cid", two, "hi").await.unwrap();
    world
        .run(
            "ann",
            Command::Archive {
                conversation: one,
                archived: true,
            },
        )
        .await
        .unwrap();
    assert_eq!(
        (inbox(&world, "ann", false).await, inbox(&world, "ann", true).await),
        (vec![two], vec![one])
    );
    assert_eq!(inbox(&world, "bob", false).await, [one], "bob sees it as before");
    world
        .run(
            "ann",
            Command::Archive {
                conversation: one,
                archived: false,
            },
        )
        .await
        .unwrap();
    assert_eq!(inbox(&world, "ann", true).await, []);
}

#[tokio::test]
async fn a_hidden_conversation_comes_back_with_its_next_message_and_without_its_past() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    world.send("bob", id, "old").await.unwrap();
    world.run("ann", Command::Hide { conversation: id }).await.unwrap();
    assert_eq!(inbox(&world, "ann", false).await, []);
    assert_eq!(seen_texts(&world, "ann", id).await, [""; 0]);
    world.send("bob", id, "new").await.unwrap();
    assert_eq!(inbox(&world, "ann", false).await, [id]);
    assert_eq!(seen_texts(&world, "ann", id).await, ["new"]);
    assert_eq!(seen_texts(&world, "bob", id).await, ["old", "new"]);
}

#[tokio::test]
async fn delete_for_me_hides_one_message_from_one_user_and_changes_no_count() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let sent = world.send("bob", id, "embarrassing").await.unwrap();
    world.send("bob", id, "fine").await.unwrap();
    world
        .run(
            "ann",
            Command::HideMessage {
                message: id.message(sent.seq),
            },
        )
        .await
        .unwrap();
    assert_eq!(seen_texts(&world, "ann", id).await, ["fine"]);
    assert_eq!(seen_texts(&world, "bob", id).await, ["embarrassing", "fine"]);
    assert_eq!(world.unread("ann", id).await, 2);
    let stranger = world
        .run(
            "eve",
            Command::HideMessage {
                message: id.message(sent.seq),
            },
        )
        .await
        .unwrap_err();
    assert_eq!(stranger.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn mute_is_kept_and_ends() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    world
        .run(
            "ann",
            Command::Mute {
                conversation: id,
                until: Some(99),
            },
        )
        .await
        .unwrap();
    assert_eq!(world.store.personal(&"ann".into(), id).await.unwrap().muted_until, Some(99));
    assert_eq!(world.store.personal(&"bob".into(), id).await.unwrap().muted_until, None);
    world
        .run(
            "ann",
            Command::Mute {
                conversation: id,
                until: None,
            },
        )
        .await
        .unwrap();
    assert_eq!(world.store.personal(&"ann".into(), id).await.unwrap().muted_until, None);
}

#[tokio::test]
async fn nothing_is_notified_from_a_muted_conversation_until_the_mute_ends() {
    let bell = Fake::new("bell").after(Hook::AfterMessage, |host, _, event| async move {
        let After::Message { message, .. } = event else { return Ok(()) };
        let notification = Notification {
            topic: "message".into(),
            message: (message.content.text != "muted too").then_some(message.id),
            title: message.content.text,
            ..Notification::default()
        };
        host.notify("bob".into(), notification).map_err(|error| error.to_string())
    });
    let world = World::with_hooks(FakePlugins::of([bell])).await;
    let (quiet, loud) = (world.direct("ann", "bob").await, world.direct("cid", "bob").await);
    let mute = |until| Command::Mute { conversation: quiet, until };
    let titles = async || {
        assert!(world.engine.settle(Duration::from_secs(10)).await);
        let rows = world.store.notifications(&"bob".into(), None, false, 10).await.unwrap();
        rows.into_iter().rev().map(|row| row.notification.title).collect::<Vec<_>>()
    };
    world.send("ann", quiet, "one").await.unwrap();
    assert_eq!(titles().await, ["one"]);
    world.run("bob", mute(Some(START + HOUR))).await.unwrap();
    world.send("ann", quiet, "muted").await.unwrap();
    world.send("ann", quiet, "muted too").await.unwrap();
    world.send("cid", loud, "two").await.unwrap();
    assert_eq!(titles().await, ["one", "two"]);
    world.clock.advance(HOUR);
    world.send("ann", quiet, "three").await.unwrap();
    assert_eq!(titles().await, ["one", "two", "three"]);
    world.run("bob", mute(Some(Millis::MAX))).await.unwrap();
    world.run("bob", mute(None)).await.unwrap();
    world.send("ann", quiet, "four").await.unwrap();
    assert_eq!(titles().await.len(), 4);
}

#[tokio::test]
async fn single_attributes_change_in_turn_and_a_retry_finds_its_answer() {
    let world = World::new().await;
    let add = |word: &str| Command::UpdateProfile {
        user: "ann".into(),
        patch: ProfilePatch {
            attribute_changes: Some(AttributeChanges {
                sent: word.into(),
                apply: |before, sent| format!("{} {sent}", before.unwrap_or_default()),
            }),
            ..ProfilePatch::default()
        },
    };
    let attributes = async || world.store.user(&"ann".into()).await.unwrap().unwrap().profile.attributes.unwrap();
    let words: Vec<_> = (0..20).map(|n| format!("w{n:02}")).collect();
    let answers: Vec<_> = words.iter().map(|word| world.submit("ann", None, add(word))).collect();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(attributes().await, format!(" {}", words.join(" ")), "none is lost");
    let first = world.run_with_id("ann", "key", add("once")).await.unwrap();
    world.run("ann", add("other")).await.unwrap();
    let again = world.run_with_id("ann", "key", add("once")).await.unwrap();
    assert!(again.duplicate && again.seq == first.seq, "the same request, whatever became of the rest");
    assert!(attributes().await.ends_with(" once other"));
    let big = "1".repeat(Limits::default().attributes_bytes_max);
    assert_eq!(world.run("ann", add(&big)).await.unwrap_err().code, ErrorCode::TooLarge);
}

#[tokio::test]
async fn strangers_keep_nothing_about_a_conversation() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    for command in [
        Command::Archive {
            conversation: id,
            archived: true,
        },
        Command::Hide { conversation: id },
        Command::Mute {
            conversation: id,
            until: Some(1),
        },
    ] {
        assert_eq!(world.run("eve", command).await.unwrap_err().code, ErrorCode::NotFound);
    }
}

#[tokio::test]
async fn deleted_text_is_gone_from_every_read_at_once_and_from_the_log_after_erasing() {
    let world = World::with(Setup {
        erase_after: Duration::from_secs(1),
        ..Setup::default()
    })
    .await;
    let id = world.direct("ann", "bob").await;
    let sent = world.send("ann", id, "secret one").await.unwrap();
    let message = id.message(sent.seq);
    world
        .run(
            "ann",
            Command::Edit {
                message,
                text: Some("secret two".into()),
                metadata: Some("{\"k\":\"secret\"}".into()),
                if_rev: None,
            },
        )
        .await
        .unwrap();
    world.send("bob", id, "kept").await.unwrap();
    world
        .run(
            "bob",
            Command::React {
                message,
                emoji: Some("👍".into()),
            },
        )
        .await
        .unwrap();
    world.run("ann", Command::Delete { message, if_rev: None }).await.unwrap();
    let row = world.store.message(message).await.unwrap().unwrap();
    assert_eq!((row.content.text.as_str(), row.content.metadata, row.reactions.len()), ("", None, 0));
    assert!(row.deleted_at.is_some());
    let everything = async || {
        let events = world.history(id).await;
        let shown: Vec<_> = events.iter().map(|event| event.message.clone()).collect();
        let inbox = world
            .store
            .inbox(
                &"bob".into(),
                InboxQuery {
                    archived: None,
                    before: None,
                    limit: 10,
                },
            )
            .await
            .unwrap();
        format!("{shown:?} {:?} {inbox:?}", world.messages(id).await)
    };
    assert!(!everything().await.contains("secret"), "no page and no replay shows it");
    assert!(everything().await.contains("kept"));
    for command in [
        Command::Edit {
            message,
            text: Some("back".into()),
            metadata: None,
            if_rev: None,
        },
        Command::React {
            message,
            emoji: Some("👎".into()),
        },
        Command::Delete { message, if_rev: None },
    ] {
        assert_eq!(world.run("ann", command).await.unwrap_err().code, ErrorCode::NotFound);
    }
    world.clock.advance(1_001);
    eventually("its text is erased from the log", async || {
        let log = world.store.read(haggle_model::Shard(0), haggle_model::Pos(0), 1_000).await.unwrap();
        !format!("{log:?}").contains("secret")
    })
    .await;
    assert_eq!(world.texts(id).await, ["", "kept"]);
}

#[tokio::test]
async fn notifications_are_read_one_by_one_or_all() {
    use crate::support::plugins::{Fake, FakePlugins, reject};
    let plugin = Fake::new("news").command("tell", |host, _, title| async move {
        let notification = haggle_model::Notification { title, ..Default::default() };
        host.notify("bob".into(), notification).map_err(|error| reject(&error.to_string()))?;
        Ok("{}".into())
    });
    let world = World::with_hooks(FakePlugins::of([plugin])).await;
    let id = world.direct("ann", "bob").await;
    let bob = haggle_model::UserId::from("bob");
    for title in ["a", "b", "c"] {
        world.call("ann", id, "tell", title).await.unwrap();
    }
    eventually("all have arrived", async || world.store.notifications_unread(&bob).await.unwrap() == 3).await;
    let rows = world.store.notifications(&bob, None, false, 10).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.notification.title.as_str()).collect::<Vec<_>>(),
        ["c", "b", "a"]
    );
    world.run("bob", Command::ReadNotification { seq: rows[1].id.seq }).await.unwrap();
    assert_eq!(world.store.notifications_unread(&bob).await.unwrap(), 2);
    assert_eq!(
        world
            .run("ann", Command::ReadNotification { seq: rows[1].id.seq })
            .await
            .unwrap_err()
            .code,
        ErrorCode::NotFound,
        "not ann's"
    );
    world.run("bob", Command::ReadAllNotifications).await.unwrap();
    assert_eq!(world.store.notifications_unread(&bob).await.unwrap(), 0);
}

#[tokio::test]
async fn the_last_profile_wins_and_only_its_owner_or_an_admin_writes_it() {
    let world = World::new().await;
    let patch = |name: &str| ProfilePatch {
        name: Some(name.into()),
        ..ProfilePatch::default()
    };
    let update = |user: &str, name: &str| Command::UpdateProfile {
        user: user.into(),
        patch: patch(name),
    };
    world.run("ann", update("ann", "Ann")).await.unwrap();
    assert_eq!(world.run("bob", update("ann", "Mallory")).await.unwrap_err().code, ErrorCode::Forbidden);
    let roles = Command::UpdateProfile {
        user: "ann".into(),
        patch: ProfilePatch {
            roles: Some(vec!["admin".into()]),
            ..ProfilePatch::default()
        },
    };
    assert_eq!(
        world.run("ann", roles).await.unwrap_err().code,
        ErrorCode::Forbidden,
        "nobody makes itself an admin"
    );
    let row = world.store.user(&"ann".into()).await.unwrap().unwrap();
    assert_eq!(row.profile.name.as_deref(), Some("Ann"));
    let me = world.engine.personal(&"ann".into()).await.unwrap();
    assert!(
        world
            .history(me)
            .await
            .iter()
            .any(|event| matches!(event.event, Event::ProfileUpdated(_))),
        "her devices hear of it"
    );
}
