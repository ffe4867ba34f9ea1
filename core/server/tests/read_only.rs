//! A full disk: coded refusals, a metric, nothing acknowledged is lost, and writes again once there is space.

mod support;

use haggle_example_client::Rest;
use serde_json::json;
use support::{World, direct, rest};

/// More than fits into the log of the configuration.
const SENDS_MAX: usize = 500;

#[tokio::test]
async fn a_full_disk_makes_the_server_read_only_until_there_is_space() {
    let full = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/small-log.toml");
    let mut world = World {
        args: vec!["--config", full],
        ..World::new()
    };
    let server = world.start().await;
    let ann = rest(&server, "ann").await;
    let conversation = direct(&ann, "bob").await;
    let path = format!("/api/conversations/{conversation}/messages");
    let text = "x".repeat(9_000);
    let mut acked = Vec::new();
    let refused = loop {
        assert!(acked.len() < SENDS_MAX, "the log never got full");
        let answer = ann.post(&path, json!({"content": text, "type": "text"})).await.unwrap();
        match answer.status {
            201 => acked.push(answer.body["id"].as_str().unwrap().to_owned()),
            _ => break answer,
        }
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(matches!(refused.code(), "unavailable" | "read_only"), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "says when to come back");

    let operators = Rest::new(&server.operators, None);
    assert_eq!(operators.get("/readyz").await.unwrap().status, 503);
    let metrics = operators.text("/metrics").await.unwrap();
    assert!(metrics.lines().any(|line| line == "haggle_store_failed 1"), "the operator sees it");
    assert_eq!(ann.get(&path).await.unwrap().status, 200, "reads go on");
    assert!(server.stop().await.unwrap().success());

    world.args = Vec::new();
    let server = world.start().await;
    let ann = rest(&server, "ann").await;
    for id in acked {
        assert_eq!(
            ann.get(&format!("/api/messages/{id}")).await.unwrap().status,
            200,
            "{id} was acknowledged"
        );
    }
    assert_eq!(ann.post(&path, json!({"content": "space", "type": "text"})).await.unwrap().status, 201);
}
