//! What every user reads: nobody is a member, everybody has marks, unread messages and a place in the list.

use std::sync::Arc;

use haggle_engine::{Actor, Command, NewConversation, NewMessage, Request, Transport, What, ports::NoPlugins};
use haggle_model::{ConversationId, ErrorCode, Role, Seq};
use haggle_store::{BROADCASTS_MAX, InboxQuery};

use crate::support::{Random, World, eventually, send};

fn root() -> Actor {
    Actor {
        roles: Arc::from(["admin".to_owned()]),
        ..Actor::user("root", Transport::Rest)
    }
}

async fn as_root(world: &World, command: Command) -> Result<haggle_engine::Outcome, haggle_engine::Refusal> {
    world.engine.execute(Request::new(root(), command)).await
}

fn broadcast(name: &str) -> Command {
    Command::CreateConversation(NewConversation::Broadcast { name: name.into() })
}

async fn news(world: &World) -> ConversationId {
    as_root(world, broadcast("news")).await.unwrap().conversation
}

async fn say(world: &World, id: ConversationId, text: &str) -> Seq {
    as_root(world, send(id, text)).await.unwrap().seq
}

async fn listed(world: &World, user: &str) -> Vec<ConversationId> {
    let query = InboxQuery {
        limit: 10,
        ..InboxQuery::default()
    };
    let rows = world.store.inbox(&user.into(), query).await.unwrap();
    rows.into_iter().map(|row| row.conversation.id).collect()
}

#[tokio::test]
async fn everybody_reads_it_and_counts_for_itself() {
    let world = World::new().await;
    let id = news(&world).await;
    let first = say(&world, id, "one").await;
    let last = say(&world, id, "two").await;
    assert_eq!(
        (world.unread("ann", id).await, world.unread("root", id).await),
        (2, 0),
        "own messages are not unread"
    );
    let outcome = world.read_up_to("ann", id, first).await.unwrap();
    assert_eq!(outcome.conversation, id, "the answer is about the broadcast, wherever the mark is kept");
    assert_eq!((world.unread("ann", id).await, world.unread("bob", id).await), (1, 2));
    world.read_up_to("ann", id, 1).await.unwrap();
    assert_eq!(world.unread("ann", id).await, 1, "never back");
    world.read_up_to("ann", id, last + 100).await.unwrap();
    assert_eq!(world.unread("ann", id).await, 0);
    let mark = world.store.inbox_row(&"ann".into(), id).await.unwrap().unwrap().member.mark;
    assert_eq!((mark.read_seq, mark.delivered_seq), (last, last), "above the head is the head");
    say(&world, id, "three").await;
    assert_eq!(world.unread("ann", id).await, 1);
    assert_eq!((listed(&world, "ann").await, listed(&world, "new here").await), (vec![id], vec![id]));
}

#[tokio::test]
async fn a_mark_is_private_and_takes_no_seq() {
    let world = World::new().await;
    let id = news(&world).await;
    let seq = say(&world, id, "one").await;
    world.engine.see_user(&"ann".into()).await.unwrap();
    let me = world.engine.personal(&"ann".into()).await.unwrap();
    let (ann, bob, before) = (world.connect("ann"), world.connect("bob"), world.names(me).await);
    world.read_up_to("ann", id, seq).await.unwrap();
    let marks = |listener: &crate::support::Listener| {
        let heard = listener.heard.lock().unwrap();
        let mark = |what: &What| matches!(what, What::Mark { conversation, user, mark, .. } if *conversation == id && user.as_str() == "ann" && mark.read_seq == seq);
        heard.iter().filter(|push| mark(&push.what)).count()
    };
    eventually("the reader's own connections are told", async || marks(&ann) == 1).await;
    assert_eq!(marks(&bob), 0);
    assert_eq!(world.names(me).await, before);
    assert_eq!(world.names(id).await.len(), 2, "nothing stands in the broadcast");
}

#[tokio::test]
async fn a_reader_archives_and_hides_it_for_itself() {
    let world = World::new().await;
    let id = news(&world).await;
    say(&world, id, "one").await;
    world.run("ann", Command::Hide { conversation: id }).await.unwrap();
    assert_eq!(listed(&world, "ann").await, []);
    eventually("what is never shown is not unread", async || world.unread("ann", id).await == 0).await;
    assert_eq!(listed(&world, "bob").await, [id]);
    say(&world, id, "two").await;
    assert_eq!(listed(&world, "ann").await, [id]);
    let archive = Command::Archive {
        conversation: id,
        archived: true,
    };
    world.run("ann", archive).await.unwrap();
    assert!(world.store.personal(&"ann".into(), id).await.unwrap().archived_at.is_some());
}

#[tokio::test]
async fn readers_may_forward_from_it_and_do_not_write_or_join() {
    let world = World::new().await;
    let id = news(&world).await;
    let seq = say(&world, id, "one").await;
    let direct = world.direct("ann", "bob").await;
    let forward = Command::Send {
        to: haggle_engine::To::Conversation(direct),
        message: NewMessage {
            forwarded_from: Some(id.message(seq)),
            ..NewMessage::text("look")
        },
    };
    world.run("ann", forward).await.unwrap();
    let refused = async |user: Actor, command: Command| world.engine.execute(Request::new(user, command)).await.unwrap_err().code;
    assert_eq!(
        refused(Actor::user("ann", Transport::Rest), send(id, "me too")).await,
        ErrorCode::Forbidden
    );
    assert_eq!(
        refused(Actor::user("ann", Transport::Rest), broadcast("mine")).await,
        ErrorCode::Forbidden
    );
    let add = Command::AddParticipant {
        conversation: id,
        user: "ann".into(),
        role: Role::Member,
    };
    assert_eq!(refused(root(), add).await, ErrorCode::Forbidden, "there is nothing to join");
}

#[tokio::test]
async fn admins_edit_their_own_and_delete_any_message_of_it() {
    let world = World::new().await;
    let id = news(&world).await;
    let message = id.message(say(&world, id, "one").await);
    let edit = |text: &str| Command::Edit {
        message,
        text: Some(text.into()),
        metadata: None,
        if_rev: None,
    };
    let delete = || Command::Delete { message, if_rev: None };
    let other = Actor {
        user: "another admin".into(),
        ..root()
    };
    let by = async |actor: Actor, command: Command| world.engine.execute(Request::new(actor, command)).await;
    for command in [edit("mine"), delete()] {
        assert_eq!(
            by(Actor::user("ann", Transport::Rest), command).await.unwrap_err().code,
            ErrorCode::Forbidden
        );
    }
    assert_eq!(by(other.clone(), edit("mine")).await.unwrap_err().code, ErrorCode::Forbidden);
    by(root(), edit("two")).await.unwrap();
    assert_eq!(world.texts(id).await, ["two"]);
    by(other, delete()).await.unwrap();
    assert_eq!(world.unread("ann", id).await, 0);
}

#[tokio::test]
async fn there_are_few_of_them() {
    let world = World::new().await;
    for n in 0..BROADCASTS_MAX {
        as_root(&world, broadcast(&format!("news {n}"))).await.unwrap();
    }
    assert_eq!(as_root(&world, broadcast("one too many")).await.unwrap_err().code, ErrorCode::TooLarge);
    assert!(as_root(&world, broadcast("news 0")).await.unwrap().existed, "one that is there is found");
}

/// Sends, deletions and marks by readers and senders at random: every count equals a recount, also by another engine.
#[tokio::test]
async fn counts_equal_a_recount() {
    const USERS: [&str; 3] = ["root", "ann", "bob"];
    for seed in 1..=20 {
        let (mut random, mut world) = (Random::new(seed), World::new().await);
        let id = news(&world).await;
        let (mut head, mut read) = (1, [0; 3]);
        // seq, deleted
        let mut messages: Vec<(Seq, bool)> = Vec::new();
        for step in 0..80 {
            match random.below(10) {
                0..4 => {
                    head = say(&world, id, "text").await;
                    messages.push((head, false));
                }
                4 if messages.iter().any(|(_, deleted)| !deleted) => {
                    let present: Vec<usize> = (0..messages.len()).filter(|n| !messages[*n].1).collect();
                    let n = *random.pick(&present);
                    let delete = Command::Delete {
                        message: id.message(messages[n].0),
                        if_rev: None,
                    };
                    head = as_root(&world, delete).await.unwrap().seq;
                    messages[n].1 = true;
                }
                5 if random.below(4) == 0 => world = world.restart(Arc::new(NoPlugins)).await,
                _ => {
                    let (user, seq) = (random.below(3) as usize, random.below(u64::from(head) + 3) as Seq);
                    world.read_up_to(USERS[user], id, seq).await.unwrap();
                    read[user] = seq.min(head).max(read[user]);
                }
            }
            for (user, read) in USERS.iter().zip(read) {
                let expected = messages
                    .iter()
                    .filter(|(seq, deleted)| *user != "root" && *seq > read && !deleted)
                    .count();
                assert_eq!(world.unread(user, id).await as usize, expected, "{user}, step {step}, seed {seed}");
            }
        }
    }
}
