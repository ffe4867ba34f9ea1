//! The plugin on a real engine: what other users, retries, timers and restarts do to an offer.

use std::time::Duration;

use haggle_plugin_service_offers::ServiceOffers;
use haggle_sdk::types::Draft;
use haggle_testkit::TestServer;
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

/// A seller with a package, and a direct conversation with a buyer.
fn server() -> (TestServer, String) {
    let server = TestServer::native::<ServiceOffers>(include_str!("../plugin.toml"));
    server.user(
        "seller",
        "Awa",
        &json!({"servicePackages": [{"id": "logo", "name": "Logo", "price": 15000, "currency": "XOF"}]}),
    );
    server.user("buyer", "Bob", &json!({}));
    let conversation = server.direct("seller", "buyer");
    (server, conversation)
}

fn draft(conversation: &str) -> Draft {
    Draft::new(conversation, "service_offer", "an offer").with_metadata(&json!({"servicePackageId": "logo"}))
}

/// The ends of offers that the conversation's events tell of.
fn ends(server: &TestServer, conversation: &str) -> Vec<String> {
    let events = server.events(conversation);
    events
        .iter()
        .filter_map(|event| event.name.strip_prefix("x.service-offers.").map(str::to_owned))
        .collect()
}

#[test]
fn an_offer_is_made_accepted_and_seen_by_both() {
    let (server, conversation) = server();
    let buyer = server.connect("buyer");
    let id = server.send("seller", draft(&conversation)).unwrap();
    let offered = server.metadata(&id);
    assert_eq!(
        (&offered["status"], &offered["price"], &offered["serviceName"]),
        (&json!("open"), &json!(15000), &json!("Logo"))
    );
    assert_eq!(server.message(&id).unwrap().content, "Service proposé: Logo");
    assert_eq!(server.unread("buyer", &conversation), 1);

    let payload = json!({"messageId": id});
    assert_eq!(
        server.command("seller", &conversation, "offer.accept", &payload).unwrap_err().code,
        "not_addressee"
    );
    server.command("buyer", &conversation, "offer.accept", &payload).unwrap();
    assert_eq!(server.metadata(&id)["status"], "accepted");
    assert_eq!(ends(&server, &conversation), ["accepted"]);
    let heard: Vec<String> = buyer
        .heard()
        .into_iter()
        .filter(|event| event.conversation_id == conversation)
        .map(|event| event.name)
        .collect();
    assert!(
        heard.contains(&"message.edited".into()) && heard.contains(&"x.service-offers.accepted".into()),
        "{heard:?}"
    );
    assert_eq!((server.counter("offers_sent"), server.counter("offers_accepted")), (1, 1));
    server.advance(100 * HOUR);
    assert_eq!(server.metadata(&id)["status"], "accepted", "it does not expire any more");
    assert_eq!(server.failed(), []);
}

#[test]
fn of_accept_and_withdraw_at_one_instant_exactly_one_takes_effect() {
    let (server, conversation) = server();
    for round in 0..50 {
        let id = server.send("seller", draft(&conversation)).unwrap();
        let payload = json!({"messageId": id});
        let mut calls: Vec<(&str, &str, &str, Value)> = vec![
            ("buyer", &conversation, "offer.accept", payload.clone()),
            ("seller", &conversation, "offer.withdraw", payload.clone()),
            ("buyer", &conversation, "offer.decline", payload),
        ];
        calls.rotate_left(round % 3);
        let answers = server.commands_at_once(calls);
        let taken: Vec<&Value> = answers
            .iter()
            .filter_map(|answer| answer.as_ref().ok())
            .map(|answer| &answer["status"])
            .collect();
        assert_eq!(taken.len(), 1, "round {round}: {answers:?}");
        assert_eq!(server.metadata(&id)["status"], *taken[0]);
        assert_eq!(json!(ends(&server, &conversation).last()), *taken[0]);
        assert_eq!(ends(&server, &conversation).len(), round + 1);
    }
}

#[test]
fn an_unanswered_offer_expires_also_over_a_restart() {
    let (mut server, conversation) = server();
    let id = server.send("seller", draft(&conversation)).unwrap();
    server.advance(71 * HOUR);
    server.restart();
    assert_eq!(server.metadata(&id)["status"], "open");
    server.advance(HOUR);
    assert_eq!(
        (server.metadata(&id)["status"].clone(), ends(&server, &conversation)),
        (json!("expired"), vec!["expired".to_owned()])
    );
    let late = server
        .command("buyer", &conversation, "offer.accept", &json!({"messageId": id}))
        .unwrap_err();
    assert_eq!(late.code, "offer_not_open");
}

#[test]
fn a_retried_offer_is_one_offer() {
    let (server, conversation) = server();
    let once = || Draft {
        client_message_id: Some("offer-1".into()),
        ..draft(&conversation)
    };
    let sent = server.send_at_once(vec![("seller", once()), ("seller", once()), ("seller", once())]);
    let ids: Vec<&str> = sent.iter().map(|sent| sent.as_ref().unwrap().id.as_str()).collect();
    assert_eq!((ids[0], ids[1]), (ids[1], ids[2]));
    assert_eq!((server.messages(&conversation).len(), server.counter("offers_sent")), (1, 1));
}

#[test]
fn an_edit_cannot_change_the_price() {
    let (server, conversation) = server();
    let id = server.send("seller", draft(&conversation)).unwrap();
    let before = server.metadata(&id);
    let cheaper = json!({"servicePackageId": "logo", "price": 1, "status": "accepted"});
    // Whether the plugin refuses it or sets it right, the offer stays what it was.
    let _ = server.edit("seller", &id, None, Some(&cheaper));
    let after = server.metadata(&id);
    assert_eq!((&after["price"], &after["status"]), (&before["price"], &before["status"]));
}
