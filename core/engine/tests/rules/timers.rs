//! Durable timers: once, by the wall clock, whatever happens to process and clock.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use haggle_engine::{Refusal, ports::HostError};
use haggle_model::Millis;

use crate::support::{
    HOUR, START, World, eventually,
    plugins::{Fake, FakePlugins, reject},
};

fn unable(error: HostError) -> Refusal {
    reject(&error.to_string())
}

type Fired = Arc<Mutex<Vec<String>>>;

/// The command `remind` sets a timer: `name minutes`. Firing is recorded and shown as an event.
fn reminder(fired: &Fired) -> Fake {
    let fired = fired.clone();
    Fake::new("reminder")
        .command("remind", |host, call, payload| async move {
            let (name, minutes) = payload.split_once(' ').expect("name and minutes");
            let due = call.now + minutes.parse::<Millis>().expect("minutes") * 60_000;
            host.timer_set(name, due, payload.clone()).map_err(unable)?;
            Ok("{}".into())
        })
        .command("forget", |host, _, name| async move {
            host.timer_cancel(&name).map_err(unable)?;
            Ok("{}".into())
        })
        .timer(move |host, _, name, payload| {
            fired.lock().unwrap().push(name.clone());
            async move {
                assert!(payload.starts_with(&name), "the payload comes back");
                host.emit("x.reminder.fired", format!("{{\"name\":\"{name}\"}}"))
                    .map_err(|error| error.to_string())
            }
        })
}

fn plugins(fired: &Fired) -> Arc<FakePlugins> {
    FakePlugins::of([reminder(fired)])
}

async fn fired_in(world: &World, id: haggle_model::ConversationId) -> usize {
    world.names(id).await.iter().filter(|(_, name)| name == "x.reminder.fired").count()
}

/// Longer than the engine takes to look at its timers.
async fn a_look() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}

#[tokio::test]
async fn a_timer_fires_once_though_the_clock_steps_and_the_process_dies() {
    let fired = Fired::default();
    let world = World::with_hooks(plugins(&fired)).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "remind", "tea 30").await.unwrap();
    let world = world.restart(plugins(&fired)).await;
    world.clock.advance(-HOUR);
    a_look().await;
    world.clock.advance(HOUR + 29 * 60_000);
    a_look().await;
    assert!(fired.lock().unwrap().is_empty(), "not before its instant");
    world.clock.advance(HOUR);
    eventually("it fires", async || fired_in(&world, id).await == 1).await;
    world.clock.advance(-2 * HOUR);
    a_look().await;
    world.clock.advance(2 * HOUR);
    a_look().await;
    let world = world.restart(plugins(&fired)).await;
    a_look().await;
    assert_eq!((fired_in(&world, id).await, fired.lock().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn setting_again_replaces_and_cancelling_removes() {
    let fired = Fired::default();
    let world = World::with_hooks(plugins(&fired)).await;
    let id = world.direct("ann", "bob").await;
    for payload in ["tea 10", "tea 90", "cake 10"] {
        world.call("ann", id, "remind", payload).await.unwrap();
    }
    world.call("ann", id, "forget", "cake").await.unwrap();
    world.clock.advance(HOUR);
    a_look().await;
    assert!(fired.lock().unwrap().is_empty());
    world.clock.advance(HOUR);
    eventually("the replaced one fires at its new time", async || *fired.lock().unwrap() == ["tea"]).await;
}

#[tokio::test]
async fn timers_of_a_conversation_fire_in_the_order_of_their_time() {
    let fired = Fired::default();
    let world = World::with_hooks(plugins(&fired)).await;
    let id = world.direct("ann", "bob").await;
    for minutes in [30, 10, 20, 50, 40] {
        world.call("ann", id, "remind", &format!("at{minutes} {minutes}")).await.unwrap();
    }
    world.clock.advance(HOUR);
    eventually("all fire", async || fired.lock().unwrap().len() == 5).await;
    assert_eq!(*fired.lock().unwrap(), ["at10", "at20", "at30", "at40", "at50"]);
}

#[tokio::test]
async fn five_failures_make_a_failed_delivery_that_can_be_replayed() {
    let (broken, tries) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_broken, tried) = (broken.clone(), tries.clone());
    let plugin = Fake::new("fragile")
        .command("set", |host, call, name| async move {
            host.timer_set(&name, call.now, String::new()).map_err(unable)?;
            Ok("{}".into())
        })
        .timer(move |host, _, name, _| {
            let fails = name == "bad" && is_broken.load(Ordering::SeqCst);
            tried.fetch_add(usize::from(name == "bad"), Ordering::SeqCst);
            async move {
                host.emit(&format!("x.fragile.{name}"), "{}".into()).map_err(|error| error.to_string())?;
                if fails { Err("broken".into()) } else { Ok(()) }
            }
        });
    let world = World::with_hooks(FakePlugins::of([plugin])).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "set", "bad").await.unwrap();
    world.call("ann", id, "set", "good").await.unwrap();
    let has = async |name: &str| world.names(id).await.iter().any(|(_, event)| event == name);
    eventually("a failing timer holds no other", async || has("x.fragile.good").await).await;
    eventually("it is given up", async || world.store.failed_count().await.unwrap() == 1).await;
    assert_eq!(tries.load(Ordering::SeqCst), 5);
    assert!(!has("x.fragile.bad").await, "a failed handler writes nothing");
    eventually("it is set no more", async || {
        world.store.timers_due(haggle_model::Shard(0), START * 2, 10).await.unwrap().is_empty()
    })
    .await;
    let failed = world.engine.failed_deliveries(0, 10).await.unwrap().remove(0);
    assert_eq!((failed.consumer.as_str(), failed.attempts), ("timer", 5));
    broken.store(false, Ordering::SeqCst);
    world.engine.replay_delivery(failed.id).await.unwrap();
    assert!(has("x.fragile.bad").await);
}

#[tokio::test]
async fn at_most_64_run_at_once_after_a_downtime_and_a_hanging_one_stops_no_other() {
    let (running, most, done) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let plugins = || {
        let (running, most, done) = (running.clone(), most.clone(), done.clone());
        let plugin = Fake::new("batch")
            .command("set", |host, call, name| async move {
                host.timer_set(&name, call.now + HOUR, String::new()).map_err(unable)?;
                Ok("{}".into())
            })
            .timer(move |_, _, name, _| {
                let (running, most, done) = (running.clone(), most.clone(), done.clone());
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(if name == "hangs" {
                        Duration::from_secs(3600)
                    } else {
                        Duration::from_millis(20)
                    })
                    .await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }
            });
        FakePlugins::of([plugin])
    };
    let world = World::with_hooks(plugins()).await;
    for n in 0..200 {
        let id = world.direct("ann", &format!("user{n}")).await;
        world.call("ann", id, "set", if n == 0 { "hangs" } else { "runs" }).await.unwrap();
    }
    world.clock.advance(HOUR);
    eventually("all but the hanging one are done", async || done.load(Ordering::SeqCst) == 199).await;
    assert!(
        (32..=64).contains(&most.load(Ordering::SeqCst)),
        "{} ran at once",
        most.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn a_timer_can_set_itself_again() {
    let ticks = Arc::new(AtomicUsize::new(0));
    let counted = ticks.clone();
    let plugin = Fake::new("ticker")
        .command("start", |host, call, _| async move {
            host.timer_set("tick", call.now + 60_000, String::new()).map_err(unable)?;
            Ok("{}".into())
        })
        .timer(move |host, call, name, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { host.timer_set(&name, call.now + 60_000, String::new()).map_err(|error| error.to_string()) }
        });
    let world = World::with_hooks(FakePlugins::of([plugin])).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "start", "{}").await.unwrap();
    for n in 1..=3 {
        world.clock.advance(60_000);
        eventually("it ticks", async || ticks.load(Ordering::SeqCst) == n).await;
    }
    a_look().await;
    assert_eq!(ticks.load(Ordering::SeqCst), 3);
}
