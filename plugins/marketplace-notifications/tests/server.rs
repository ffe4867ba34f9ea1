//! The plugin on a real engine, beside another one whose messages it tells of.

use std::time::Duration;

use haggle_plugin_marketplace_notifications::MarketplaceNotifications;
use haggle_plugin_service_offers::ServiceOffers;
use haggle_sdk::types::Draft;
use haggle_testkit::{Builder, TestServer};
use serde_json::json;

fn server() -> (TestServer, String) {
    let builder = Builder::default().plugin::<MarketplaceNotifications>(include_str!("../plugin.toml"));
    let server = builder.plugin::<ServiceOffers>(include_str!("../../service-offers/plugin.toml")).start();
    server.user(
        "alice",
        "Alice",
        &json!({"servicePackages": [{"id": "logo", "name": "Logo", "price": 1}]}),
    );
    server.user("bob", "Bob", &json!({}));
    let conversation = server.direct("alice", "bob");
    (server, conversation)
}

fn topics(server: &TestServer, user: &str) -> Vec<String> {
    server
        .notifications(user)
        .into_iter()
        .rev()
        .map(|(notification, _)| notification.topic)
        .collect()
}

#[test]
fn who_is_not_looking_is_told_and_who_looks_is_not() {
    let (server, conversation) = server();
    let before = topics(&server, "bob").len();
    server.send("alice", Draft::text(&conversation, "hello")).unwrap();
    assert_eq!(topics(&server, "bob")[before..], ["MESSAGE_RECEIVED"]);
    assert!(
        !topics(&server, "alice").contains(&"MESSAGE_RECEIVED".into()),
        "nobody is told of what it wrote"
    );
    server.advance(Duration::from_secs(120));
    let phone = server.connect("bob");
    phone.watch(&conversation);
    server.send("alice", Draft::text(&conversation, "are you there?")).unwrap();
    assert_eq!(topics(&server, "bob").len(), before + 1);
    drop(phone);
    server.advance(Duration::from_secs(120));
    let id = server.send("alice", Draft::text(&conversation, "gone?")).unwrap();
    // It stands in the place of the first one, which bob has not read.
    assert_eq!(server.notifications("bob")[0].0.message_id, Some(id));
    assert_eq!(server.failed(), []);
}

#[test]
fn a_flood_is_told_in_one() {
    let (mut server, conversation) = server();
    let before = topics(&server, "bob").len();
    for n in 0..20 {
        server.send("alice", Draft::text(&conversation, n.to_string())).unwrap();
    }
    server.restart();
    server.advance(Duration::from_secs(60));
    let told = server.notifications("bob");
    assert_eq!(told.len(), before + 1, "one that was replaced: {told:?}");
    assert_eq!(told[0].0.title, "20 new messages");
}

#[test]
fn offers_of_another_plugin_are_told_with_what_becomes_of_them() {
    let (server, conversation) = server();
    let offer = Draft::new(&conversation, "service_offer", "").with_metadata(&json!({"servicePackageId": "logo"}));
    let id = server.send("alice", offer).unwrap();
    assert!(topics(&server, "bob").contains(&"OFFER_RECEIVED".into()), "{:?}", topics(&server, "bob"));
    server.command("bob", &conversation, "offer.accept", &json!({"messageId": id})).unwrap();
    assert!(
        topics(&server, "alice").contains(&"OFFER_ACCEPTED".into()),
        "{:?}",
        topics(&server, "alice")
    );
    assert_eq!(server.failed(), []);
}

#[test]
fn an_admin_is_who_sends_with_an_admins_token() {
    let (server, conversation) = server();
    server.profile_roles("alice", &["admin"]);
    server.send("alice", Draft::text(&conversation, "a profile is no token")).unwrap();
    assert_eq!(topics(&server, "bob").last().unwrap(), "MESSAGE_RECEIVED");
    server
        .send_with_roles("alice", &["admin"], Draft::text(&conversation, "from the office"))
        .unwrap();
    assert_eq!(topics(&server, "bob").last().unwrap(), "MESSAGE_ADMIN");
    assert_eq!(server.failed(), []);
}

#[test]
fn preferences_hold() {
    let (server, conversation) = server();
    server.preferences("bob", &json!({"muted": true}));
    let before = topics(&server, "bob").len();
    server.send("alice", Draft::text(&conversation, "hello")).unwrap();
    assert_eq!(topics(&server, "bob").len(), before);
}
