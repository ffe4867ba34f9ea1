//! Accept, withdraw and expiry of one offer at the same instant: exactly one takes effect, and kv, event and message agree.

use std::{sync::Arc, time::Duration};

use haggle_engine::{Command, NewMessage, Refusal, To, ports::HostCalls};
use haggle_model::{ConversationId, Event, MessageId};

use crate::support::{
    HOUR, Random, World, call, eventually,
    plugins::{Fake, FakePlugins, reject},
};

fn unable(error: haggle_engine::ports::HostError) -> Refusal {
    reject(&error.to_string())
}

/// Moves the offer from open to `status`, if it is open.
async fn decide(host: &dyn HostCalls, message: MessageId, status: &str) -> Result<String, Refusal> {
    let row = host.message(message).await.map_err(unable)?.ok_or_else(|| reject("no_offer"))?;
    let key = format!("offer:{}", row.command.expect("an offer has a ref"));
    if host.kv_get(&key).await.map_err(unable)?.as_deref() != Some(b"open") {
        return Err(reject("not_open"));
    }
    host.kv_set(&key, status.into(), None).map_err(unable)?;
    host.edit(message, None, Some(format!("{{\"status\":\"{status}\"}}")))
        .await
        .map_err(unable)?;
    host.timer_cancel(&key).map_err(unable)?;
    host.emit(&format!("x.offers.{status}"), format!("{{\"id\":\"{message}\"}}"))
        .map_err(unable)?;
    Ok(status.to_owned())
}

fn offers() -> Arc<FakePlugins> {
    let on_command = |status: &'static str| {
        move |host: crate::support::plugins::Host, _, payload: String| async move {
            let message: MessageId = payload.parse().map_err(|_| reject("bad_id"))?;
            decide(&*host, message, status).await
        }
    };
    let plugin = Fake::new("offers")
        .claims("service_offer")
        .before_message(|host, call, mut draft| async move {
            if draft.op == haggle_engine::ports::Op::Send {
                let key = format!("offer:{}", call.command);
                host.kv_set(&key, b"open".to_vec(), None).map_err(unable)?;
                host.timer_set(&key, call.now + HOUR, String::new()).map_err(unable)?;
                draft.metadata = Some("{\"status\":\"open\"}".into());
            }
            Ok(draft)
        })
        .command("accept", on_command("accepted"))
        .command("withdraw", on_command("withdrawn"))
        .command("look", |host, _, key| async move {
            let value = host.kv_get(&key).await.map_err(unable)?.unwrap_or_default();
            Ok(String::from_utf8(value).expect("a status"))
        })
        .timer(|host, call, key, _| async move {
            let messages = host
                .messages(call.conversation.expect("set in a conversation"), None, 100)
                .await
                .map_err(|error| error.to_string())?;
            let offer = messages
                .iter()
                .find(|row| row.command.is_some_and(|id| key == format!("offer:{id}")))
                .ok_or("the offer is gone")?;
            match decide(&*host, offer.id, "expired").await {
                Ok(_) => Ok(()),
                Err(refusal) if &*refusal.message == "not_open" => Ok(()),
                Err(refusal) => Err(refusal.to_string()),
            }
        });
    FakePlugins::of([plugin])
}

async fn offer(world: &World, n: usize) -> (ConversationId, MessageId) {
    let message = NewMessage {
        kind: "service_offer".into(),
        ..NewMessage::text("paint it")
    };
    let sent = world
        .run(
            "ann",
            Command::Send {
                to: To::User(format!("bob{n}").as_str().into()),
                message,
            },
        )
        .await
        .unwrap();
    (sent.conversation, sent.conversation.message(sent.seq))
}

/// The one decision that was made, agreed on by the event, the message and the kv.
async fn decision(world: &World, id: ConversationId, offer: MessageId, n: usize) -> String {
    let events = world.history(id).await;
    let decided: Vec<&str> = events
        .iter()
        .filter_map(|event| match &event.event {
            Event::Custom { name, .. } => name.strip_prefix("x.offers."),
            _ => None,
        })
        .collect();
    assert_eq!(decided.len(), 1, "exactly one takes effect: {decided:?}");
    let row = world.store.message(offer).await.unwrap().unwrap();
    assert_eq!(row.content.metadata, Some(format!("{{\"status\":\"{}\"}}", decided[0])));
    let key = format!("offer:{}", row.command.unwrap());
    let kv = world.run(&format!("bob{n}"), call(id, "look", &key)).await.unwrap().answer.unwrap();
    assert_eq!(kv, decided[0]);
    assert_eq!(world.store.timer(id, &"offers".into(), &key).await.unwrap(), None, "no timer is left");
    decided[0].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_accept_withdraw_and_expiry_exactly_one_takes_effect() {
    const OFFERS: usize = 60;
    let mut random = Random::new(7);
    let world = Arc::new(World::with_hooks(offers()).await);
    let mut made = Vec::new();
    for n in 0..OFFERS {
        made.push(offer(&world, n).await);
    }
    // All wake at the same moment; then some are a little earlier, some a little later than the timers.
    let start = tokio::time::Instant::now() + Duration::from_millis(50);
    let racers = made.iter().enumerate().map(|(n, (id, offer))| {
        let (world, id, offer) = (world.clone(), *id, *offer);
        let delay = Duration::from_micros(random.below(12_000));
        tokio::spawn(async move {
            tokio::time::sleep_until(start + delay).await;
            let accept = || world.submit(&format!("bob{n}"), None, call(id, "accept", &offer.to_string()));
            let withdraw = || world.submit("ann", None, call(id, "withdraw", &offer.to_string()));
            // Who comes first of these two takes turns, so that the race has several ends on any machine.
            let (accept, withdraw) = if n % 2 == 0 {
                let accept = accept();
                (accept, withdraw())
            } else {
                let withdraw = withdraw();
                (accept(), withdraw)
            };
            (accept.await.unwrap(), withdraw.await.unwrap())
        })
    });
    let racers: Vec<_> = racers.collect();
    tokio::time::sleep_until(start + Duration::from_millis(6)).await;
    world.clock.advance(HOUR);
    offer(&world, OFFERS).await; // a timer that is set makes the engine look at all of them
    let answers = futures_util::future::join_all(racers).await;
    world.clock.advance(HOUR);
    eventually("every timer is gone", async || {
        world.store.timers_due(haggle_model::Shard(0), i64::MAX, 10).await.unwrap().is_empty()
    })
    .await;
    let mut seen = std::collections::BTreeMap::new();
    for (n, ((id, offer), answer)) in made.into_iter().zip(answers).enumerate() {
        let (accept, withdraw) = answer.unwrap();
        let decided = decision(&world, id, offer, n).await;
        assert_eq!(accept.is_ok(), decided == "accepted", "{accept:?}");
        assert_eq!(withdraw.is_ok(), decided == "withdrawn", "{withdraw:?}");
        *seen.entry(decided).or_insert(0) += 1;
    }
    println!("{seen:?}");
    assert!(seen.len() >= 2, "the race was one: {seen:?}");
}

#[tokio::test]
async fn an_offer_that_nobody_answers_expires_also_after_a_restart() {
    let world = World::with_hooks(offers()).await;
    let (id, offer) = offer(&world, 0).await;
    let world = world.restart(offers()).await;
    world.clock.advance(HOUR);
    eventually("the timer fires", async || {
        world.names(id).await.iter().any(|(_, name)| name == "x.offers.expired")
    })
    .await;
    assert_eq!(decision(&world, id, offer, 0).await, "expired");
    assert!(world.run("bob0", call(id, "accept", &offer.to_string())).await.is_err());
}
