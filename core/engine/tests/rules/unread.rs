//! Unread counters against a recount from scratch.

use std::collections::BTreeMap;

use haggle_engine::Command;
use haggle_model::{ConversationId, Role, Seq};

use crate::support::{
    Random, World,
    plugins::{Fake, FakePlugins, reject},
    send,
};

const USERS: [&str; 5] = ["ann", "bob", "cid", "dan", "eve"];

/// What is known of a conversation from outside: the answers of commands that worked.
#[derive(Default)]
struct Model {
    head: Seq,
    /// seq, sender, deleted; those that count.
    messages: Vec<(Seq, &'static str, bool)>,
    /// Present members and how many messages they have behind them.
    members: BTreeMap<&'static str, usize>,
}

impl Model {
    fn recount(&self, user: &str) -> u32 {
        let read = self.members[user];
        self.messages[read..]
            .iter()
            .filter(|(_, sender, deleted)| *sender != user && !deleted)
            .count() as u32
    }

    fn sent(&mut self, user: &'static str, seq: Seq) {
        let nothing_unread = self.recount(user) == 0;
        self.messages.push((seq, user, false));
        self.head = seq;
        if nothing_unread {
            self.members.insert(user, self.messages.len());
        }
    }

    fn read(&mut self, user: &'static str, seq: Seq) {
        let reached = self.messages.iter().filter(|(other, ..)| *other <= seq).count();
        let read = self.members.get_mut(user).expect("only members read");
        *read = reached.max(*read);
    }
}

async fn step(world: &World, id: ConversationId, random: &mut Random, model: &mut Model) {
    let user = *random.pick(&USERS);
    if !model.members.contains_key(user) {
        let done = world
            .run(
                "ann",
                Command::AddParticipant {
                    conversation: id,
                    user: user.into(),
                    role: Role::Member,
                },
            )
            .await
            .unwrap();
        model.head = done.seq;
        model.members.insert(user, model.messages.len());
        return;
    }
    match random.below(20) {
        0..8 => {
            let done = world.send(user, id, "text").await.unwrap();
            model.sent(user, done.seq);
        }
        8..13 => {
            // Backwards, forwards, partly, and beyond the head.
            let seq = random.below(u64::from(model.head) + 3) as Seq;
            world.read_up_to(user, id, seq).await.unwrap();
            model.read(user, seq);
        }
        13..16 => {
            let own: Vec<usize> = (0..model.messages.len())
                .filter(|n| model.messages[*n].1 == user && !model.messages[*n].2)
                .collect();
            if !own.is_empty() {
                let n = *random.pick(&own[own.len().saturating_sub(20)..]);
                let message = id.message(model.messages[n].0);
                model.head = world.run(user, Command::Delete { message, if_rev: None }).await.unwrap().seq;
                model.messages[n].2 = true;
            }
        }
        16 => {
            // An event that takes a seq and counts for nothing.
            let seq = world.call(user, id, "note", "{}").await.unwrap().seq;
            model.head = seq;
        }
        17 if user != "ann" => {
            let done = world
                .run(
                    user,
                    Command::RemoveParticipant {
                        conversation: id,
                        user: user.into(),
                    },
                )
                .await
                .unwrap();
            model.head = done.seq;
            model.members.remove(user);
        }
        _ => {
            world.read_up_to(user, id, model.head).await.unwrap();
            model.read(user, model.head);
        }
    }
}

async fn check(world: &World, id: ConversationId, model: &Model, place: &str) {
    for user in model.members.keys() {
        let expected = model.recount(user);
        assert_eq!(world.unread(user, id).await, expected, "{user}, by the store, {place}");
        if let Some(head) = world.engine.head(id, &(*user).into()) {
            assert_eq!((head.unread, head.head), (expected, model.head), "{user}, in memory, {place}");
            assert_eq!(head.head_n as usize, model.messages.len());
        }
    }
}

fn plugins() -> std::sync::Arc<FakePlugins> {
    let note = |host: crate::support::plugins::Host| async move {
        host.emit("x.notes.noted", "{}".into()).map_err(|error| reject(&error.to_string()))?;
        Ok("{}".into())
    };
    FakePlugins::of([Fake::new("notes").command("note", move |host, _, _| note(host))])
}

async fn counters_equal_a_recount(seed: u64, steps: u32) {
    let mut random = Random::new(seed);
    let mut world = World::with_hooks(plugins()).await;
    let id = world.group("ann", &USERS[1..]).await;
    let head = world.history(id).await.len() as Seq;
    let mut model = Model {
        head,
        members: USERS.iter().map(|user| (*user, 0)).collect(),
        ..Model::default()
    };
    for n in 0..steps {
        step(&world, id, &mut random, &mut model).await;
        check(&world, id, &model, &format!("seed {seed} step {n}")).await;
        if random.below(150) == 0 {
            world = world.restart(plugins()).await;
            check(&world, id, &model, &format!("seed {seed} step {n}, restarted")).await;
        }
    }
}

#[tokio::test]
async fn counters_equal_a_recount_at_random() {
    for seed in 1..=3 {
        counters_equal_a_recount(seed, 1_500).await;
    }
}

#[tokio::test]
async fn counters_equal_a_recount_at_a_random_seed() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    counters_equal_a_recount(seed, 1_000).await;
}

/// Everybody at once; the answers come in any order, the sum must be right at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn races_of_sends_marks_and_deletes_leave_the_right_count() {
    let world = World::new().await;
    let id = world.group("ann", &USERS[1..]).await;
    let tasks = USERS.map(|user| {
        let (engine, mut random) = (world.engine.clone(), Random::new(user.len() as u64 + u64::from(user.as_bytes()[0])));
        let actor = haggle_engine::Actor::user(user, haggle_engine::Transport::Ws);
        async move {
            for _ in 0..200 {
                let run = |command| engine.execute(haggle_engine::Request::new(actor.clone(), command));
                match random.below(3) {
                    0 => {
                        let sent = run(send(id, "text")).await.unwrap();
                        if random.below(4) == 0 {
                            run(Command::Delete {
                                message: id.message(sent.seq),
                                if_rev: None,
                            })
                            .await
                            .unwrap();
                        }
                    }
                    1 => drop(run(send(id, "more")).await.unwrap()),
                    _ => {
                        let head = engine.head(id, &actor.user).map_or(0, |head| head.head);
                        let (done, answer) = tokio::sync::oneshot::channel();
                        let seq = head.saturating_sub(random.below(20) as u32);
                        engine.mark(&actor, id, None, Some(seq), Some(Box::new(move |outcome| drop(done.send(outcome)))));
                        answer.await.unwrap().unwrap();
                    }
                }
            }
        }
    });
    futures_util::future::join_all(tasks.map(tokio::spawn))
        .await
        .into_iter()
        .for_each(|done| done.unwrap());
    let messages = world.messages(id).await;
    for user in USERS {
        let row = world.store.member(id, &user.into()).await.unwrap().unwrap();
        let recount = messages
            .iter()
            .filter(|message| message.n > row.mark.read_n && message.sender.as_str() != user && message.deleted_at.is_none())
            .count();
        assert_eq!(world.unread(user, id).await as usize, recount, "{user}");
        let head = world.engine.head(id, &user.into()).expect("everything is durable");
        assert_eq!(head.unread as usize, recount, "{user}, in memory");
    }
}

#[tokio::test]
async fn the_first_message_of_a_direct_conversation_is_unread_for_the_other_only() {
    let world = World::new().await;
    let to_bob = Command::Send {
        to: haggle_engine::To::User("bob".into()),
        message: haggle_engine::NewMessage::text("hello"),
    };
    let id = world.run("ann", to_bob).await.unwrap().conversation;
    assert_eq!((world.unread("ann", id).await, world.unread("bob", id).await), (0, 1));
    assert_eq!(world.engine.head(id, &"ann".into()).unwrap().unread, 0);
}

#[tokio::test]
async fn several_own_messages_of_one_transaction_are_all_own() {
    let parrot = Fake::new("parrot").command("say_twice", |host, call, _| async move {
        for text in ["one", "two"] {
            let message = haggle_engine::ports::GuestMessage {
                conversation: call.conversation.unwrap(),
                sender: Some(call.actor.user.clone()),
                kind: "text".into(),
                text: text.into(),
                metadata: None,
                reply_to: None,
                countable: true,
            };
            host.send(message).map_err(|error| reject(&error.to_string()))?;
        }
        Ok("{}".into())
    });
    let world = World::with_hooks(FakePlugins::of([parrot])).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "say_twice", "{}").await.unwrap();
    assert_eq!((world.unread("ann", id).await, world.unread("bob", id).await), (0, 2));
    world.call("bob", id, "say_twice", "{}").await.unwrap();
    assert_eq!(
        (world.unread("ann", id).await, world.unread("bob", id).await),
        (2, 2),
        "bob has not read ann's"
    );
    assert_eq!(world.engine.head(id, &"bob".into()).unwrap().unread, 2);
}
