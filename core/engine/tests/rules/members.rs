//! What a member hears live is the history of the times it was in.

use std::collections::BTreeMap;

use haggle_engine::{Command, NewConversation, NewMessage, To};
use haggle_model::{ErrorCode, Event, Role, Seq, UserId};

use crate::support::{
    HOUR, Random, START, Setup, World, eventually,
    plugins::{Fake, FakePlugins, reject},
    send,
};

const USERS: [&str; 5] = ["ann", "bob", "cid", "dan", "eve"];

/// The events of the log that a user is to hear: from each joined to the next left, both included.
async fn spans(world: &World, id: haggle_model::ConversationId) -> BTreeMap<&'static str, Vec<(Seq, String)>> {
    let mut heard: BTreeMap<&str, Vec<(Seq, String)>> = USERS.iter().map(|user| (*user, Vec::new())).collect();
    let mut inside: Vec<&str> = Vec::new();
    for event in world.history(id).await {
        let named = |user: &haggle_model::UserId| USERS.into_iter().find(|name| *name == user.as_str()).expect("one of them");
        if let Event::ParticipantJoined { user, .. } = &event.event {
            inside.push(named(user));
        }
        for user in &inside {
            heard.get_mut(user).unwrap().push((event.seq, event.event.name().to_owned()));
        }
        if let Event::ParticipantLeft { user } = &event.event {
            inside.retain(|other| *other != named(user));
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_hear_the_history_of_their_spans() {
    for seed in 1..=3 {
        let mut random = Random::new(seed);
        let world = World::new().await;
        let listeners: BTreeMap<&str, _> = USERS.iter().map(|user| (*user, world.connect(user))).collect();
        let id = world.group("ann", &["bob"]).await;
        let mut answers = Vec::new();
        for n in 0..600 {
            let user = *random.pick(&USERS);
            let command = match random.below(8) {
                0 if user != "ann" => Command::AddParticipant {
                    conversation: id,
                    user: user.into(),
                    role: Role::Member,
                },
                1 if user != "ann" => Command::RemoveParticipant {
                    conversation: id,
                    user: user.into(),
                },
                _ => send(id, &n.to_string()),
            };
            let by = if matches!(command, Command::Send { .. }) { user } else { "ann" };
            // Many at once, so that events of different members share a commit.
            answers.push(world.submit(by, None, command));
            if n % 50 == 49 {
                for answer in answers.drain(..) {
                    let _ = answer.await.unwrap();
                }
            }
        }
        let last = world.send("ann", id, "last").await.unwrap().seq;
        eventually("ann hears the last one", async || {
            listeners["ann"].events(id).last().is_some_and(|(seq, _)| *seq == last)
        })
        .await;
        for (user, expected) in spans(&world, id).await {
            eventually("everything has arrived", async || listeners[user].events(id).len() >= expected.len()).await;
            assert_eq!(listeners[user].events(id), expected, "seed {seed}, {user}");
        }
        world.engine.shutdown().await;
    }
}

#[tokio::test]
async fn who_has_left_gets_writes_and_reads_nothing() {
    let world = World::new().await;
    let group = world.group("ann", &["bob"]).await;
    let bob = world.connect("bob");
    let message = group.message(world.send("bob", group, "mine").await.unwrap().seq);
    world
        .run(
            "bob",
            Command::RemoveParticipant {
                conversation: group,
                user: "bob".into(),
            },
        )
        .await
        .unwrap();
    eventually("his connections are told", async || *bob.ended.lock().unwrap() == [group]).await;
    world.send("ann", group, "secret").await.unwrap();
    assert_eq!(bob.texts(group), ["mine"]);
    let actor = haggle_engine::Actor::user("bob", haggle_engine::Transport::Rest);
    assert_eq!(world.engine.authorize_read(&actor, group).await.unwrap_err().code, ErrorCode::NotFound);
    for command in [
        send(group, "x"),
        Command::Edit {
            message,
            text: Some("x".into()),
            metadata: None,
            if_rev: None,
        },
        Command::Delete { message, if_rev: None },
        Command::React {
            message,
            emoji: Some("x".into()),
        },
        Command::AddParticipant {
            conversation: group,
            user: "bob".into(),
            role: Role::Admin,
        },
        Command::RemoveParticipant {
            conversation: group,
            user: "ann".into(),
        },
        Command::Archive {
            conversation: group,
            archived: true,
        },
    ] {
        assert_eq!(
            world.run("bob", command.clone()).await.unwrap_err().code,
            ErrorCode::NotFound,
            "{command:?}"
        );
    }
    assert_eq!(world.read_up_to("bob", group, 1).await.unwrap_err().code, ErrorCode::NotFound);
    eventually("his personal log says so", async || {
        let me = world.engine.personal(&"bob".into()).await.unwrap();
        world.names(me).await.iter().any(|(_, name)| name == "membership.ended")
    })
    .await;
}

#[tokio::test]
async fn only_admins_manage_a_group() {
    let world = World::new().await;
    let group = world.group("ann", &["bob", "cid"]).await;
    let commands = || {
        [
            Command::AddParticipant {
                conversation: group,
                user: "dan".into(),
                role: Role::Member,
            },
            Command::SetRole {
                conversation: group,
                user: "cid".into(),
                role: Role::Admin,
            },
            Command::RemoveParticipant {
                conversation: group,
                user: "cid".into(),
            },
            Command::UpdateConversation {
                conversation: group,
                update: haggle_model::ConversationUpdate {
                    name: Some("new".into()),
                    avatar: None,
                    state: None,
                },
            },
            Command::CloseConversation {
                conversation: group,
                closed: true,
                reason: None,
            },
        ]
    };
    for command in commands() {
        assert_eq!(
            world.run("bob", command.clone()).await.unwrap_err().code,
            ErrorCode::Forbidden,
            "{command:?}"
        );
        assert_eq!(
            world.run("eve", command).await.unwrap_err().code,
            ErrorCode::NotFound,
            "a stranger does not learn that it is there"
        );
    }
    world
        .run(
            "ann",
            Command::SetRole {
                conversation: group,
                user: "bob".into(),
                role: Role::Admin,
            },
        )
        .await
        .unwrap();
    for command in commands() {
        world.run("bob", command).await.unwrap();
    }
    assert_eq!(world.send("ann", group, "x").await.unwrap_err().code, ErrorCode::Conflict, "closed");
    world
        .run(
            "bob",
            Command::CloseConversation {
                conversation: group,
                closed: false,
                reason: None,
            },
        )
        .await
        .unwrap();
    world.send("ann", group, "open again").await.unwrap();
}

#[tokio::test]
async fn a_block_stops_messages_and_edits_both_ways_and_keeps_the_past() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let old = id.message(world.send("ann", id, "old").await.unwrap().seq);
    world
        .run(
            "bob",
            Command::Block {
                user: "ann".into(),
                blocked: true,
            },
        )
        .await
        .unwrap();
    for user in ["ann", "bob"] {
        assert_eq!(world.send(user, id, "x").await.unwrap_err().code, ErrorCode::Blocked);
    }
    let edit = Command::Edit {
        message: old,
        text: Some("rude".into()),
        metadata: None,
        if_rev: None,
    };
    assert_eq!(
        world.run("ann", edit).await.unwrap_err().code,
        ErrorCode::Blocked,
        "an edit cannot slip past either"
    );
    assert_eq!(world.texts(id).await, ["old"]);
    world
        .run(
            "ann",
            Command::Block {
                user: "bob".into(),
                blocked: true,
            },
        )
        .await
        .unwrap();
    world
        .run(
            "bob",
            Command::Block {
                user: "ann".into(),
                blocked: false,
            },
        )
        .await
        .unwrap();
    assert_eq!(
        world.send("bob", id, "x").await.unwrap_err().code,
        ErrorCode::Blocked,
        "ann's own block stands"
    );
    world
        .run(
            "ann",
            Command::Block {
                user: "bob".into(),
                blocked: false,
            },
        )
        .await
        .unwrap();
    world.send("bob", id, "x").await.unwrap();
    assert_eq!(
        world
            .run(
                "ann",
                Command::Block {
                    user: "ann".into(),
                    blocked: true
                }
            )
            .await
            .unwrap_err()
            .code,
        ErrorCode::BadRequest
    );
}

#[tokio::test]
async fn strangers_are_refused_where_users_unknown_says_so() {
    let world = World::with(Setup {
        reject_unknown_users: true,
        ..Setup::default()
    })
    .await;
    world.engine.see_user(&"ann".into()).await.unwrap();
    world.engine.see_user(&"bob".into()).await.unwrap();
    let group = |participants: &[&str]| {
        Command::CreateConversation(NewConversation::Group {
            participants: participants.iter().map(|user| UserId::from(*user)).collect(),
            name: None,
            avatar: None,
        })
    };
    let id = world.run("ann", group(&["bob"])).await.unwrap().conversation;
    let add = Command::AddParticipant {
        conversation: id,
        user: "nobody".into(),
        role: Role::Member,
    };
    let write = Command::Send {
        to: To::User("nobody".into()),
        message: NewMessage::text("hello?"),
    };
    for command in [group(&["bob", "nobody"]), add, write] {
        let refusal = world.run("ann", command).await.unwrap_err();
        assert_eq!((refusal.code, refusal.field), (ErrorCode::BadRequest, Some("/participants")));
        assert!(refusal.message.contains("users.unknown"), "names the setting: {refusal}");
    }
    let write = Command::Send {
        to: To::User("bob".into()),
        message: NewMessage::text("hello"),
    };
    world.run("ann", write).await.unwrap();
}

/// A plugin's word for who is in a conversation, and since when.
fn clock() -> std::sync::Arc<FakePlugins> {
    let plugin = Fake::new("clock").command("clock.since", |host, call, _| async move {
        let here = call.conversation.expect("the command names one");
        let members = host.participants(here).await.map_err(|error| reject(&error.to_string()))?;
        let since: Vec<_> = members.iter().map(|member| format!("{} {}", member.user, member.joined_at)).collect();
        Ok(since.join(", "))
    });
    FakePlugins::of([plugin])
}

#[tokio::test]
async fn handlers_are_told_since_when_everybody_is_in() {
    let world = World::with_hooks(clock()).await;
    let id = world.group("ann", &["bob"]).await;
    world.clock.advance(HOUR);
    let joins = Command::AddParticipant {
        conversation: id,
        user: "cid".into(),
        role: Role::Member,
    };
    world.run("ann", joins).await.expect("added");
    world.clock.advance(HOUR);
    let expect = format!("ann {START}, bob {START}, cid {}", START + HOUR);
    let staged = world.call("bob", id, "clock.since", "null").await.expect("answered").answer;
    assert_eq!(staged.as_deref(), Some(expect.as_str()));
    let world = world.restart(clock()).await;
    let loaded = world.call("bob", id, "clock.since", "null").await.expect("answered").answer;
    assert_eq!(loaded.as_deref(), Some(expect.as_str()), "read from the store");
}
