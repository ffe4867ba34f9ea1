//! What the interval between commits is: one commit for everything that comes meanwhile, no wait for who comes after it, none at the end.

use std::time::{Duration, Instant};

use haggle_model::ConversationId;

use crate::support::{Setup, World, send};

/// A conversation that has come to rest, and an engine that has committed nothing yet.
async fn world(commit_interval: Duration) -> (World, ConversationId) {
    let before = World::new().await;
    let id = before.direct("ann", "bob").await;
    before.engine.shutdown().await;
    let setup = Setup {
        store: before.store,
        commit_interval,
        ..Setup::default()
    };
    (World::with(setup).await, id)
}

#[tokio::test]
async fn what_comes_within_an_interval_shares_a_commit() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let (world, id) = world(INTERVAL).await;
    let began = Instant::now();
    world.run("ann", send(id, "0")).await.expect("is taken");
    let before = world.faults.appends();
    let sends = (1..=10).map(|n| {
        let world = &world;
        async move {
            tokio::time::sleep(Duration::from_millis(5 * n)).await;
            world.run("ann", send(id, &n.to_string())).await.expect("is taken");
        }
    });
    futures_util::future::join_all(sends).await;
    assert_eq!(world.faults.appends() - before, 1, "ten messages, 5 ms after each other");
    assert!(began.elapsed() >= INTERVAL, "nobody is answered before: {:?}", began.elapsed());
    assert_eq!(world.texts(id).await.len(), 11);
    world.engine.shutdown().await;
}

#[tokio::test]
async fn who_comes_after_the_interval_does_not_wait() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let (world, id) = world(INTERVAL).await;
    world.run("ann", send(id, "first")).await.expect("is taken");
    tokio::time::sleep(INTERVAL).await;
    let began = Instant::now();
    world.run("ann", send(id, "hello")).await.expect("is taken");
    assert!(began.elapsed() < INTERVAL / 2, "the last commit is long ago: {:?}", began.elapsed());
    world.engine.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_the_interval() {
    const INTERVAL: Duration = Duration::from_secs(60);
    let (world, id) = world(INTERVAL).await;
    world.run("ann", send(id, "first")).await.expect("is taken");
    let began = Instant::now();
    let (answer, ()) = tokio::join!(world.run("ann", send(id, "last words")), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.engine.shutdown().await;
    });
    answer.expect("what is staged is written");
    assert!(began.elapsed() < INTERVAL / 2, "{:?}", began.elapsed());
    assert_eq!(world.texts(id).await, ["first", "last words"]);
}
