//! Everything is bounded, and the full case has a name.

use std::time::Duration;

use haggle_engine::{
    Command, NewConversation, NewMessage, To,
    ports::{GuestMessage, HostError},
};
use haggle_model::{ErrorCode, Limits};

use crate::support::{
    Setup, World, eventually,
    plugins::{Fake, FakePlugins, reject},
    send, send_kind, unlimited,
};

fn message(to: haggle_model::ConversationId, change: impl FnOnce(&mut NewMessage)) -> Command {
    let mut message = NewMessage::text("text");
    change(&mut message);
    Command::Send {
        to: To::Conversation(to),
        message,
    }
}

#[tokio::test]
async fn a_message_has_a_size_a_kind_and_something_to_say() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let max = Limits::default();
    let cases: [(&str, Command, ErrorCode, Option<&str>); 8] = [
        (
            "too many bytes",
            send(id, &"x".repeat(max.content_bytes_max + 1)),
            ErrorCode::TooLarge,
            Some("/content"),
        ),
        (
            "too many characters",
            send(id, &"x".repeat(max.content_chars_max + 1)),
            ErrorCode::TooLarge,
            Some("/content"),
        ),
        ("empty", send(id, ""), ErrorCode::BadRequest, Some("/content")),
        (
            "too much metadata",
            message(id, |m| m.metadata = Some("x".repeat(max.metadata_bytes_max + 1))),
            ErrorCode::TooLarge,
            Some("/metadata"),
        ),
        ("system", send_kind(id, "system", "I am the server"), ErrorCode::BadRequest, Some("/type")),
        (
            "a kind that nobody claims",
            send_kind(id, "service_offer", "free"),
            ErrorCode::BadRequest,
            Some("/type"),
        ),
        ("no kind", send_kind(id, "", "text"), ErrorCode::BadRequest, Some("/type")),
        (
            "to oneself",
            Command::Send {
                to: To::User("ann".into()),
                message: NewMessage::text("me"),
            },
            ErrorCode::BadRequest,
            Some("/userId"),
        ),
    ];
    for (name, command, code, field) in cases {
        let refusal = world.run("ann", command).await.expect_err(name);
        assert_eq!((refusal.code, refusal.field), (code, field), "{name}: {refusal}");
    }
    let accepted = [
        send(id, &"x".repeat(max.content_chars_max)),
        send(id, &"🦀".repeat(max.content_bytes_max / 4)),
        message(id, |m| {
            m.text.clear();
            m.metadata = Some("{}".into())
        }),
    ];
    for command in accepted {
        world.run("ann", command).await.unwrap();
    }
    assert_eq!(world.messages(id).await.len(), 3);
}

#[tokio::test]
async fn text_is_stored_byte_exact() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let texts = [
        "<script>alert(1)</script>",
        "\u{202e}bidi\u{200d}",
        "\u{1b}[31mred",
        "🏳️‍🌈 ümlaut\r\n\ttab",
        " leading and trailing ",
    ];
    for text in texts {
        world.send("ann", id, text).await.unwrap();
    }
    assert_eq!(world.texts(id).await, texts);
}

#[tokio::test]
async fn what_a_hook_makes_of_a_message_is_checked_again() {
    let inflate = Fake::new("inflate").before_message(|_, _, mut draft| async move {
        draft.text = draft.text.repeat(20_000);
        Ok(draft)
    });
    let world = World::with_hooks(FakePlugins::of([inflate])).await;
    let id = world.direct("ann", "bob").await;
    assert_eq!(world.send("ann", id, "xx").await.unwrap_err().code, ErrorCode::TooLarge);
    assert!(world.messages(id).await.is_empty());
}

#[tokio::test]
async fn what_a_plugin_writes_keeps_the_limits_of_messages() {
    let writer = Fake::new("writer").command("try", |host, call, _| async move {
        let id = call.conversation.expect("called in one");
        let max = Limits::default();
        let message = |change: &dyn Fn(&mut GuestMessage)| {
            let mut message = GuestMessage {
                conversation: id,
                sender: None,
                kind: "text".into(),
                text: "text".into(),
                metadata: None,
                reply_to: None,
                countable: true,
            };
            change(&mut message);
            message
        };
        let said = |result: Result<(), HostError>| match result {
            Ok(()) => "fine",
            Err(HostError::Quota(_)) => "quota",
            Err(HostError::Invalid(_)) => "invalid",
            Err(_) => "other",
        };
        let long = "x".repeat(max.content_chars_max + 1);
        let send = |message| said(host.send(message).map(drop));
        let said = [
            send(message(&|m| m.text = long.clone())),
            send(message(&|m| m.metadata = Some("x".repeat(max.metadata_bytes_max + 1)))),
            send(message(&|m| m.kind = String::new())),
            send(message(&|m| m.kind = "k".repeat(65))),
            send(message(&|m| m.reply_to = Some(haggle_model::ConversationId(1 << 40).message(1)))),
            said(host.edit(id.message(4), Some(long.clone()), None).await),
            said(host.edit(id.message(4), Some("short".into()), None).await),
            send(message(&|m| m.kind = "system".into())),
        ];
        Ok(said.join(" "))
    });
    let world = World::with_hooks(FakePlugins::of([writer])).await;
    let id = world.direct("ann", "bob").await;
    assert_eq!(world.send("ann", id, "first").await.unwrap().seq, 4);
    let answer = world.call("ann", id, "try", "null").await.unwrap().answer.unwrap();
    assert_eq!(answer, "quota quota invalid invalid invalid quota fine fine");
    assert_eq!(world.texts(id).await, ["short", "text"]);
}

#[tokio::test]
async fn an_hours_budget_is_of_messages() {
    let world = World::with(Setup {
        limits: Limits {
            rate_per_hour: 2,
            ..unlimited()
        },
        ..Setup::default()
    })
    .await;
    let id = world.direct("ann", "bob").await;
    let first = world.send("ann", id, "one").await.unwrap();
    for _ in 0..10 {
        world.read_up_to("bob", id, first.seq).await.unwrap();
        world
            .run(
                "ann",
                Command::Archive {
                    conversation: id,
                    archived: true,
                },
            )
            .await
            .unwrap();
    }
    assert_eq!(
        world.send("ann", id, "").await.unwrap_err().code,
        ErrorCode::BadRequest,
        "and breaks a rule"
    );
    let two = async || world.submit("ann", Some("two"), send(id, "two")).await.unwrap();
    let sent = two().await.unwrap();
    assert_eq!(world.send("ann", id, "three").await.unwrap_err().code, ErrorCode::RateLimited);
    let again = two().await.unwrap();
    assert!(again.duplicate && again.seq == sent.seq, "a retry takes nothing and gets its answer");
    world.send("bob", id, "mine").await.unwrap();
    world.run("bob", Command::Hide { conversation: id }).await.unwrap();
    eventually("what is hidden is read", async || world.unread("bob", id).await == 0).await;
}

#[tokio::test]
async fn a_claimed_kind_is_decided_by_its_plugin_on_send_and_on_edit() {
    let offers = Fake::new("offers").claims("service_offer").before_message(|_, _, draft| async move {
        if draft.kind == "service_offer" && draft.text.contains("free") {
            Err(reject("no_price"))
        } else {
            Ok(draft)
        }
    });
    let world = World::with_hooks(FakePlugins::of([offers])).await;
    let id = world.direct("ann", "bob").await;
    assert_eq!(
        world.run("ann", send_kind(id, "service_offer", "for free")).await.unwrap_err().code,
        ErrorCode::PluginRejected
    );
    let sent = world.run("ann", send_kind(id, "service_offer", "for 10")).await.unwrap();
    let edit = Command::Edit {
        message: id.message(sent.seq),
        text: Some("for free".into()),
        metadata: None,
        if_rev: None,
    };
    assert_eq!(world.run("ann", edit.clone()).await.unwrap_err().code, ErrorCode::PluginRejected);
    // Without its plugin a special message is not edited either.
    let world = world.restart(FakePlugins::of([])).await;
    assert_eq!(world.run("ann", edit).await.unwrap_err().code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_reply_answers_a_message_of_its_conversation() {
    let world = World::new().await;
    let (id, other) = (world.direct("ann", "bob").await, world.direct("ann", "cid").await);
    let (first, elsewhere) = (
        world.send("ann", id, "first").await.unwrap().seq,
        world.send("ann", other, "elsewhere").await.unwrap().seq,
    );
    for target in [id.message(0), id.message(1), id.message(first + 1), other.message(elsewhere)] {
        let refusal = world.run("bob", message(id, |m| m.reply_to = Some(target))).await.unwrap_err();
        assert_eq!((refusal.code, refusal.field), (ErrorCode::BadRequest, Some("/replyToId")), "{target}");
    }
    world.run("bob", message(id, |m| m.reply_to = Some(id.message(first)))).await.unwrap();
}

#[tokio::test]
async fn only_what_one_can_read_is_forwarded() {
    let world = World::new().await;
    let (ours, theirs) = (world.direct("ann", "bob").await, world.direct("ann", "cid").await);
    let sent = ours.message(world.send("bob", ours, "a secret").await.unwrap().seq);
    let forward = |to, what| message(to, |m| m.forwarded_from = Some(what));
    world.run("ann", forward(theirs, sent)).await.expect("ann can read it");
    assert_eq!(world.run("cid", forward(theirs, sent)).await.unwrap_err().field, Some("/forwardedFromId"));
    assert_eq!(
        world.run("ann", forward(theirs, ours.message(1))).await.unwrap_err().field,
        Some("/forwardedFromId"),
        "no message"
    );
    world.run("bob", Command::Delete { message: sent, if_rev: None }).await.unwrap();
    assert_eq!(
        world.run("ann", forward(theirs, sent)).await.unwrap_err().field,
        Some("/forwardedFromId"),
        "deleted"
    );
}

#[tokio::test]
async fn rates_are_per_user_and_say_when_to_come_back() {
    let limits = Limits {
        rate_per_second: 10,
        rate_burst: 20,
        ..Limits::default()
    };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let id = world.direct("ann", "bob").await;
    let mut refused = None;
    for n in 0..30 {
        if let Err(refusal) = world.send("ann", id, &n.to_string()).await {
            refused = Some(refusal);
            break;
        }
    }
    let refused = refused.expect("20 at once, not 30");
    assert_eq!(refused.code, ErrorCode::RateLimited);
    world.send("bob", id, "bob has his own budget").await.unwrap();
    tokio::time::sleep(refused.retry_after.expect("says when") + Duration::from_millis(10)).await;
    world.send("ann", id, "again").await.unwrap();
}

#[tokio::test]
async fn groups_have_a_size() {
    let limits = Limits {
        participants_max: 3,
        ..unlimited()
    };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let group = world.group("ann", &["bob", "cid"]).await;
    let add = Command::AddParticipant {
        conversation: group,
        user: "dan".into(),
        role: Default::default(),
    };
    assert_eq!(world.run("ann", add).await.unwrap_err().code, ErrorCode::TooLarge);
    let participants = ["b", "c", "d"].map(Into::into).to_vec();
    let new = Command::CreateConversation(NewConversation::Group {
        participants,
        name: None,
        avatar: None,
    });
    let refusal = world.run("ann", new).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::BadRequest, "with its maker they are four: {refusal}");
}

#[tokio::test]
async fn a_handler_cannot_write_more_than_a_transaction_holds() {
    let greedy = Fake::new("greedy").command("hoard", |host, _, count| async move {
        for n in 0..count.parse::<u32>().expect("a number") {
            host.kv_set(&format!("k{n}"), vec![7; 60_000], None)
                .map_err(|error| reject(&error.to_string()))?;
        }
        Ok("{}".into())
    });
    let world = World::with_hooks(FakePlugins::of([greedy])).await;
    let id = world.direct("ann", "bob").await;
    let refusal = world.call("ann", id, "hoard", "10").await.unwrap_err();
    assert!(refusal.message.contains("transaction_bytes_max"), "{refusal}");
    assert_eq!(
        world.store.kv_list(id, &"greedy".into(), "", None, 10).await.unwrap().len(),
        0,
        "all or nothing"
    );
    world.call("ann", id, "hoard", "5").await.unwrap();
    assert_eq!(world.store.kv_list(id, &"greedy".into(), "", None, 10).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_closed_conversation_takes_no_message() {
    let world = World::new().await;
    let group = world.group("ann", &["bob"]).await;
    world
        .run(
            "ann",
            Command::CloseConversation {
                conversation: group,
                closed: true,
                reason: Some("done".into()),
            },
        )
        .await
        .unwrap();
    assert_eq!(world.send("bob", group, "late").await.unwrap_err().code, ErrorCode::Conflict);
    let again = world
        .run(
            "ann",
            Command::CloseConversation {
                conversation: group,
                closed: true,
                reason: None,
            },
        )
        .await
        .unwrap();
    assert!(again.existed, "closing twice changes nothing");
}

#[tokio::test]
async fn an_edit_can_ask_for_the_version_it_knows() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let sent = world.send("ann", id, "one").await.unwrap();
    let edit = |text: &str, rev| Command::Edit {
        message: id.message(sent.seq),
        text: Some(text.into()),
        metadata: None,
        if_rev: Some(rev),
    };
    let second = world.run("ann", edit("two", sent.seq)).await.unwrap();
    assert_eq!(
        world.run("ann", edit("three", sent.seq)).await.unwrap_err().code,
        ErrorCode::PreconditionFailed
    );
    world.run("ann", edit("three", second.seq)).await.unwrap();
    assert_eq!(world.texts(id).await, ["three"]);
}
