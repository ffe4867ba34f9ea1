//! Damage in the middle of the log, which neither the start nor a read comes by: found in the background and told.

mod support;

use std::{path::Path, time::Duration};

use haggle_example_client::Rest;
use serde_json::json;
use support::{World, direct, rest, socket};

/// More than the entries of the log's end that a start verifies itself.
const LATER: usize = 1_500;
const FOUND_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_changed_row_is_told_by_a_metric_the_log_and_the_probe() {
    let world = World {
        args: vec!["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/unlimited.toml")],
        ..World::new()
    };
    let server = world.start().await;
    let conversation = direct(&rest(&server, "ann").await, "bob").await;
    let mut ann = socket(&server, "ann").await;
    let mut say = async |text: &str| {
        ann.request(json!({"t": "send", "c": conversation, "d": {"content": text}}))
            .await
            .unwrap()
    };
    say("damage me here").await;
    for n in 0..LATER {
        say(&n.to_string()).await;
    }
    assert!(server.stop().await.unwrap().success());

    let server = world.start().await;
    until(&server.operators, |metrics| {
        has(metrics, "haggle_store_damaged 0") && verified(metrics) > LATER as f64
    })
    .await;
    assert!(server.stop().await.unwrap().success());

    change(&world.data.path().join("data/log.db"), b"damage me", b"damaged!!");
    let server = world.start().await;
    until(&server.operators, |metrics| has(metrics, "haggle_store_damaged 1")).await;
    let probe = Rest::new(&server.operators, None).get("/readyz?verbose").await.unwrap();
    let says = probe.body["checks"]["store"]["checksums"].to_string();
    assert!(says.contains("log.db") && says.contains("position"), "names file and position: {says}");
}

fn has(metrics: &str, line: &str) -> bool {
    metrics.lines().any(|other| other == line)
}

fn verified(metrics: &str) -> f64 {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix("haggle_store_verified_entries "));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

async fn until(operators: &str, found: impl Fn(&str) -> bool) {
    let operators = Rest::new(operators, None);
    let looking = async {
        while !found(&operators.text("/metrics").await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(FOUND_MAX, looking)
        .await
        .expect("the background verification comes by");
}

/// As a disk does that returns something else than what was written.
fn change(file: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = std::fs::read(file).unwrap();
    let at: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!at.is_empty(), "the text stands in the file");
    at.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    std::fs::write(file, bytes).unwrap();
}
