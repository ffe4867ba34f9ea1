//! A slot can be had once: the real plugin in the real server, at the same instant, and through kills between reserve and commit.

mod support;

use std::{sync::OnceLock, time::Duration};

use haggle_example_client::{Rest, Server};
use jiff::{ToSpan, Zoned, civil::Date};
use serde_json::{Value, json};
use support::{World, direct, plugins, rest};

const ROUNDS: u32 = 20;
/// Who meets a reservation that has been pending for longer settles it.
const SETTLED_AFTER: Duration = Duration::from_secs(11);

fn world() -> World {
    let plugins = plugins().expect("the plugins as wasm: run `cargo xtask test`, or `cargo xtask plugins` and set HAGGLE_PLUGINS=target/plugins");
    World {
        plugins,
        args: vec!["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/bookings.toml")],
        ..World::new()
    }
}

/// The `slot`-th half hour from the first of next month but one: far enough ahead and not too far, the same for a whole run.
fn day_and_time(slot: u32) -> (String, String) {
    static FIRST: OnceLock<Date> = OnceLock::new();
    let first = FIRST.get_or_init(|| Zoned::now().date().first_of_month().saturating_add(2.months()));
    let half = slot % 48;
    let day = first.saturating_add(i64::from(slot / 48).days());
    (day.to_string(), format!("{:02}:{:02}", half / 2, half % 2 * 30))
}

/// A buyer and its conversation with the seller.
struct Buyer {
    rest: Rest,
    conversation: String,
}

async fn buyer(server: &Server, name: &str) -> Buyer {
    let rest = rest(server, name).await;
    let conversation = direct(&rest, "seller").await;
    Buyer { rest, conversation }
}

async fn seller(server: &Server) -> Rest {
    let seller = rest(server, "seller").await;
    let package = json!({"id": "cut", "name": "Haircut", "price": 10, "currency": "EUR", "duration": "30 min"});
    seller
        .patch("/api/users/me", json!({"attributes": {"servicePackages": [package], "timeZone": "UTC"}}))
        .await
        .unwrap()
        .ok()
        .unwrap();
    seller
}

impl Buyer {
    /// Asks for the `slot`-th half hour.
    async fn book(&self, slot: u32) -> anyhow::Result<haggle_example_client::Answer> {
        let (day, time) = day_and_time(slot);
        let request = json!({"servicePackageId": "cut", "requestedDate": day, "requestedTime": time});
        self.rest
            .post(&format!("/api/conversations/{}/messages/booking-request", self.conversation), request)
            .await
    }

    /// The slots that this buyer's stored requests name.
    async fn booked(&self) -> Vec<(String, String)> {
        let page = self
            .rest
            .get(&format!("/api/conversations/{}/messages?limit=100", self.conversation))
            .await
            .unwrap()
            .ok()
            .unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let messages = page["messages"].as_array().unwrap();
        let slot = |message: &Value| {
            (
                text(&message["metadata"]["requestedDate"])[..10].to_owned(),
                text(&message["metadata"]["requestedTime"]),
            )
        };
        messages.iter().filter(|message| message["type"] == "booking_request").map(slot).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_requests_at_the_same_instant_exactly_one_wins() {
    let world = world();
    let server = world.start().await;
    seller(&server).await;
    let mut pair = None;
    for slot in 0..200 {
        // A conversation may have so many open bookings only.
        if slot % 50 == 0 {
            pair = Some((buyer(&server, &format!("ann-{slot}")).await, buyer(&server, &format!("bob-{slot}")).await));
        }
        let (ann, bob) = pair.as_ref().unwrap();
        let (one, other) = tokio::join!(ann.book(slot), bob.book(slot));
        let (one, other) = (one.unwrap(), other.unwrap());
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 422], "slot {slot}: {one:?} {other:?}");
        let lost = if one.status == 422 { one } else { other };
        assert_eq!(lost.body["pluginCode"], "slot_taken", "{lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_reserve_and_commit_leaves_the_slot_booked_or_free() {
    let world = world();
    for round in 0..ROUNDS {
        let server = world.start().await;
        seller(&server).await;
        let (ann, bob) = (buyer(&server, "ann").await, buyer(&server, "bob").await);
        let racing = tokio::spawn(async move { tokio::join!(ann.book(round), bob.book(round)) });
        // From before the requests arrive to after they are answered.
        tokio::time::sleep(Duration::from_micros(u64::from(round) * 600)).await;
        server.kill().await.unwrap();
        // Their answers went down with the server, or did not.
        let _ = racing.await;
    }
    let server = world.start().await;
    tokio::time::sleep(SETTLED_AFTER).await;
    let (ann, bob) = (buyer(&server, "ann").await, buyer(&server, "bob").await);
    let mut booked = ann.booked().await;
    booked.extend(bob.booked().await);
    for slot in 0..ROUNDS {
        let name = day_and_time(slot);
        let before = booked.iter().filter(|other| **other == name).count();
        assert!(before <= 1, "slot {slot} is booked {before} times");
        let again = ann.book(slot).await.unwrap();
        let expect = if before == 1 { 422 } else { 201 };
        assert_eq!(again.status, expect, "slot {slot}, booked {before} times before: {again:?}");
    }
}
