//! The kit itself: what authors rely on, natively and as components.

use std::{path::PathBuf, time::Duration};

use haggle_plugin_booking_requests::BookingRequests;
use haggle_plugin_marketplace_notifications::MarketplaceNotifications;
use haggle_plugin_service_offers::ServiceOffers;
use haggle_sdk::prelude::*;
use haggle_sdk::serde_json::{Value, json};
use haggle_testkit::{Builder, TestServer};

/// Folders of built plugins; `None` where nobody has built them.
fn components(names: &[&str]) -> Option<Vec<PathBuf>> {
    let built = std::env::var_os("HAGGLE_PLUGINS").map(PathBuf::from);
    let built = built.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins"));
    let folders: Vec<PathBuf> = names.iter().map(|name| built.join(name)).collect();
    let missing = folders.iter().find(|folder| !folder.join("plugin.toml").is_file());
    match missing {
        None => Some(folders),
        Some(folder) if std::env::var_os("HAGGLE_PLUGINS").is_some() => panic!("{} is not built", folder.display()),
        Some(folder) => {
            eprintln!("skipped: {} is not built; `cargo xtask test` builds it", folder.display());
            None
        }
    }
}

/// One test for both ways to run a plugin.
fn an_offer_and_a_booking(server: &mut TestServer) {
    let packages = json!({"timeZone": "UTC", "servicePackages": [{"id": "logo", "name": "Logo", "price": 15000, "duration": "1h"}]});
    server.user("seller", "Awa", &packages);
    let (one, two) = (server.direct("buyer", "seller"), server.direct("rival", "seller"));

    let offer = Draft::new(&one, "service_offer", "").with_metadata(&json!({"servicePackageId": "logo"}));
    let id = server.send("seller", offer.clone()).unwrap();
    assert_eq!(server.metadata(&id)["price"], 15000);
    let unknown = Draft::new(&one, "service_offer", "").with_metadata(&json!({"servicePackageId": "none"}));
    assert_eq!(server.send("seller", unknown).unwrap_err().code, "unknown_package");
    server.command("buyer", &one, "offer.accept", &json!({"messageId": id})).unwrap();
    assert_eq!(server.metadata(&id)["status"], "accepted");
    let forgotten = server.send("seller", offer).unwrap();

    let wish = |conversation: &str| {
        let wish = json!({"servicePackageId": "logo", "requestedDate": "2026-01-12", "requestedTime": "10:00"});
        Draft::new(conversation, "booking_request", "").with_metadata(&wish)
    };
    let booked = server.send_at_once(vec![("buyer", wish(&one)), ("rival", wish(&two))]);
    assert_eq!(booked.iter().filter(|booked| booked.is_ok()).count(), 1, "{booked:?}");
    server.restart();
    server.advance(Duration::from_secs(72 * 3600));
    assert_eq!(server.metadata(&forgotten)["status"], "expired");
    let winner = &booked.iter().find_map(|booked| booked.as_ref().ok()).unwrap().id;
    assert_eq!(server.metadata(winner)["status"], "expired", "nobody answered it for 48 hours");
    assert_eq!(server.failed(), []);
}

/// A plugin that owns a namespace, both ways.
fn echoes(server: &TestServer) {
    const PLUGIN: &str = "socketio-echo";
    let alice = server.socket("alice", PLUGIN, "/", &json!({})).expect("let in");
    let hello = server.socket_emits();
    assert_eq!(
        (hello[0].name.as_str(), &hello[0].to),
        ("connected", &Audience::connection(&alice.session))
    );
    let refused = server.socket("eve", PLUGIN, "/", &json!({"refuse": true})).err().expect("refused");
    assert_eq!(refused.message, "not you");
    assert!(server.socket_emits().is_empty(), "who is refused hears nothing else");

    let ack = server
        .socket_event(&alice, "hi", &json!([{"n": 1.5}, 2]))
        .expect("answered")
        .expect("an ack");
    assert_eq!((ack.get(0), ack.get(1)), (json!({"n": 1.5}), json!(2)));
    assert_eq!(server.socket_emits()[0].args, ack);

    let nobody = server.socket("", PLUGIN, "/", &json!({})).expect("let in");
    let said = server.socket_event(&nobody, "say", &json!([{"to": "bob", "text": "hi"}]));
    assert_eq!(said.unwrap_err().code, "unauthenticated");

    server.mapped(PLUGIN, "/");
    let ack = server
        .socket_event(&alice, "say", &json!([{"to": "bob", "text": "hi"}]))
        .expect("sent")
        .expect("an ack");
    let conversation = ack.get(0)["conversationId"].as_str().expect("an id").to_owned();
    assert_eq!(server.messages(&conversation)[0].sender_id, "alice");
    let told = server.mapped(PLUGIN, "/");
    let said: Vec<_> = told.iter().filter(|emit| emit.name.starts_with("said")).collect();
    let names: Vec<_> = said.iter().map(|emit| (emit.name.as_str(), emit.to.joined)).collect();
    assert_eq!(names, [("said", None), ("said_here", Some(true))], "one event, mapped once");
    assert_eq!(said[0].args.get(0)["text"], "hi");

    server
        .socket_event(&alice, "join", &json!([{"conversationId": conversation}]))
        .expect("joined");
    assert!(alice.has_joined(&conversation));
    let stranger = server.socket("eve", PLUGIN, "/", &json!({})).expect("let in");
    let not_hers = server.socket_event(&stranger, "join", &json!([{"conversationId": conversation}]));
    assert_eq!(not_hers.unwrap_err().code, "not_found");
}

#[test]
fn a_namespace_natively() {
    let manifest = include_str!("../../../examples/socketio-echo/plugin.toml");
    echoes(&TestServer::native::<haggle_example_socketio_echo::Echo>(manifest));
}

#[test]
fn a_namespace_as_a_component() {
    if let Some(folders) = components(&["../example-plugins/socketio-echo"]) {
        echoes(&TestServer::wasm(&folders));
    }
}

/// An after-hook knows whose message it is, and where, both ways: a component is not told what its call says already.
fn a_message_is_told_of(server: &TestServer) {
    server.user("ann", "Ann", &json!({}));
    let conversation = server.direct("ann", "bob");
    let id = server.send("ann", Draft::text(&conversation, "hello")).unwrap();
    server.settle();
    let told = server.notifications("bob");
    let (told, _) = told.iter().find(|(told, _)| told.topic == "MESSAGE_RECEIVED").expect("a notification");
    assert_eq!(told.title, "New message from Ann");
    let data: Value = haggle_sdk::serde_json::from_str(told.data.as_deref().unwrap()).unwrap();
    assert_eq!((&data["senderId"], &data["conversationId"]), (&json!("ann"), &json!(conversation)));
    assert_eq!(data["messageId"], json!(id));
    assert_eq!(server.failed(), []);
}

#[test]
fn notifications_natively() {
    let manifest = include_str!("../../../plugins/marketplace-notifications/plugin.toml");
    a_message_is_told_of(&TestServer::native::<MarketplaceNotifications>(manifest));
}

#[test]
fn notifications_as_a_component() {
    if let Some(folders) = components(&["marketplace-notifications"]) {
        a_message_is_told_of(&TestServer::wasm(&folders));
    }
}

#[test]
fn first_party_plugins_natively() {
    let builder = Builder::default().plugin::<ServiceOffers>(include_str!("../../../plugins/service-offers/plugin.toml"));
    let mut server = builder
        .plugin::<BookingRequests>(include_str!("../../../plugins/booking-requests/plugin.toml"))
        .start();
    an_offer_and_a_booking(&mut server);
}

#[test]
fn first_party_plugins_as_components() {
    if let Some(folders) = components(&["service-offers", "booking-requests"]) {
        an_offer_and_a_booking(&mut TestServer::wasm(&folders));
    }
}

/// Accepted by the buyer, withdrawn by the seller and expired by its timer at one instant: one of them takes effect, and its
/// state, its message, its event and the answers agree. Returns what became of each offer.
fn ends_of_offers_at_one_instant(server: &TestServer, rounds: usize) -> Vec<String> {
    const EXPIRY: Duration = Duration::from_secs(72 * 3600);
    const BEFORE: Duration = Duration::from_millis(1);
    server.user(
        "seller",
        "Awa",
        &json!({"servicePackages": [{"id": "logo", "name": "Logo", "price": 15000}]}),
    );
    let conversation = server.direct("buyer", "seller");
    let mut became = Vec::new();
    for round in 0..rounds {
        let draft = Draft::new(&conversation, "service_offer", "").with_metadata(&json!({"servicePackageId": "logo"}));
        let id = server.send("seller", draft).unwrap();
        server.advance(EXPIRY - BEFORE);
        assert_eq!(server.metadata(&id)["status"], "open", "round {round}");
        let payload = json!({"messageId": id});
        let mut calls = vec![
            ("buyer", conversation.as_str(), "offer.accept", payload.clone()),
            ("seller", conversation.as_str(), "offer.withdraw", payload),
        ];
        calls.rotate_left(round % 2);
        // From at once to when the timer has long fired, so that the race has every end on any machine.
        let lag = Duration::from_micros(250 * (round as u64 % 10).pow(2));
        let answers = server.commands_as_time_passes(BEFORE, lag, calls);

        let status = server.metadata(&id)["status"].as_str().unwrap().to_owned();
        let taken: Vec<&str> = answers.iter().flatten().map(|answer| answer["status"].as_str().unwrap()).collect();
        match status.as_str() {
            "expired" => assert_eq!(taken, [""; 0], "round {round}"),
            _ => assert_eq!(taken, [status.as_str()], "round {round}"),
        }
        for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(
                ["offer_not_open", "offer_expired"].contains(&refused.code.as_str()),
                "round {round}: {refused}"
            );
        }
        let reference = server.message(&id).unwrap().reference;
        let state = server.kv(&conversation, "service-offers", &format!("offer:{reference}")).unwrap();
        let state: Value = json::parse(std::str::from_utf8(&state).unwrap()).unwrap();
        assert_eq!(state["status"], status, "round {round}");
        assert_eq!(server.kv(&conversation, "service-offers", &format!("open:{reference}")), None);
        assert_eq!(server.timer(&conversation, "service-offers", &format!("expire:{reference}")), None);
        let told: Vec<String> = server
            .events(&conversation)
            .into_iter()
            .filter(|event| event.name.starts_with("x.service-offers.") && event.text.contains(&id))
            .map(|event| event.name)
            .collect();
        assert_eq!(told, [format!("x.service-offers.{status}")], "round {round}");
        became.push(status);
    }
    assert_eq!(server.failed(), []);
    became
}

#[test]
fn one_end_of_an_offer_takes_effect_natively() {
    let server = TestServer::native::<ServiceOffers>(include_str!("../../../plugins/service-offers/plugin.toml"));
    ends_of_offers_at_one_instant(&server, 100);
}

#[test]
fn one_end_of_an_offer_takes_effect_as_component() {
    if let Some(folders) = components(&["service-offers"]) {
        let became = ends_of_offers_at_one_instant(&TestServer::wasm(&folders), 300);
        let count = |status: &str| became.iter().filter(|end| *end == status).count();
        let ends = ["accepted", "withdrawn", "expired"].map(|status| (status, count(status)));
        println!("{ends:?}");
        assert!(
            ends[0].1 + ends[1].1 > 0 && ends[2].1 > 0,
            "a race that only one side wins proves nothing: {ends:?}"
        );
    }
}

/// Does what its command's payload says.
#[derive(Default)]
struct Puppet;

impl Command for Puppet {
    fn command(&mut self, call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
        let payload: Value = json::parse(payload)?;
        kv::set("seen", name.as_bytes())?;
        match name {
            "puppet.reject" => return Err(Rejection::new("no", "as asked")),
            "puppet.panic" => panic!("as asked"),
            "puppet.ask" => log::info!("online: {:?}", users::online("bob")?),
            "puppet.later" => timers::set("later", call.now_ms + 1_000, "{}")?,
            "puppet.reserve" => {
                let reserved = kv_global::reserve(&[payload.as_str().unwrap_or("slot").to_owned()], b"1")?;
                return Ok(json!(reserved).to_string());
            }
            _ => {}
        }
        Ok(payload.to_string())
    }
}

impl AfterMessage for Puppet {
    fn after_message(&mut self, _call: &Call, message: Message) -> Result<(), Failure> {
        if message.content == "poison" {
            return Err(Failure("as asked".into()));
        }
        metrics::count("told");
        Ok(())
    }
}

impl Timer for Puppet {
    fn timer(&mut self, _call: &Call, name: &str, _due_ms: u64, _payload: &str) -> Result<(), Failure> {
        events::emit("x.puppet.fired", &json!({"name": name}))?;
        Ok(())
    }
}

haggle_sdk::plugin! { Puppet, hooks: [command, after_message, timer], caps: [kv, kv_global, log, metrics, timers, users, events] }

const MANIFEST: &str = r#"
    id = "puppet"
    version = "1.0.0"
    api = "0.1"
    [hooks]
    command = { names = ["puppet.set", "puppet.reject", "puppet.panic", "puppet.ask", "puppet.later", "puppet.reserve"] }
    after-message = { kinds = ["text"] }
    [grants]
    log = true
    kv = true
    kv-global = true
    metrics = true
    timers = true
    users = true
    events = true
"#;

#[test]
fn what_a_handler_wrote_counts_only_when_it_succeeds() {
    let server = TestServer::native::<Puppet>(MANIFEST);
    let conversation = server.direct("ann", "bob");
    for (command, code) in [("puppet.reject", "no"), ("puppet.panic", "trap"), ("puppet.unknown", "not_found")] {
        assert_eq!(server.command("ann", &conversation, command, &json!({})).unwrap_err().code, code);
        assert_eq!(server.kv(&conversation, "puppet", "seen"), None, "{command}");
    }
    assert_eq!(
        server.command("ann", &conversation, "puppet.set", &json!({"a": 1})).unwrap(),
        json!({"a": 1})
    );
    assert_eq!(server.kv(&conversation, "puppet", "seen").as_deref(), Some(&b"puppet.set"[..]));
}

#[test]
fn connections_timers_counters_and_logs_can_be_looked_at() {
    let server = TestServer::native::<Puppet>(MANIFEST);
    let conversation = server.direct("ann", "bob");
    let bob = server.connect("bob");
    server.command("ann", &conversation, "puppet.ask", &json!({})).unwrap();
    assert!(server.logs().iter().any(|line| line.contains("online: true")), "{:?}", server.logs());
    server.command("ann", &conversation, "puppet.later", &json!({})).unwrap();
    assert_eq!(server.timer(&conversation, "puppet", "later"), Some(server.now_ms() + 1_000));
    server.advance(Duration::from_secs(1));
    assert_eq!(server.timer(&conversation, "puppet", "later"), None);
    assert_eq!(bob.heard().last().unwrap().name, "x.puppet.fired");
    assert_eq!(server.events(&conversation).last().unwrap().text, r#"{"name":"later"}"#);
    server.send("ann", Draft::text(&conversation, "hello")).unwrap();
    server.send("ann", Draft::new(&conversation, "image", "not for the hook")).unwrap();
    assert_eq!(server.counter("told"), 1, "the manifest's filter holds");
}

#[test]
fn reservations_of_two_commands_exclude_each_other() {
    let server = TestServer::native::<Puppet>(MANIFEST);
    let (one, two) = (server.direct("ann", "bob"), server.direct("cid", "dan"));
    let calls = vec![
        ("ann", one.as_str(), "puppet.reserve", json!("noon")),
        ("cid", two.as_str(), "puppet.reserve", json!("noon")),
    ];
    let mut answers: Vec<Value> = server.commands_at_once(calls).into_iter().map(Result::unwrap).collect();
    answers.sort_by_key(Value::to_string);
    assert_eq!(answers, [json!(false), json!(true)]);
}

#[test]
fn a_hook_that_keeps_failing_becomes_a_failed_delivery() {
    let server = TestServer::native::<Puppet>(MANIFEST);
    let conversation = server.direct("ann", "bob");
    server.send("ann", Draft::text(&conversation, "poison")).unwrap();
    let failed = server.failed();
    assert_eq!((failed.len(), failed[0].consumer.as_str()), (1, "after:puppet"));
    assert!(failed[0].error.contains("as asked"), "{}", failed[0].error);
    assert!(server.replay(failed[0].id).is_err());
}

#[test]
#[should_panic(expected = "does not grant `kv-global`")]
fn a_manifest_that_grants_too_little_is_noticed_at_once() {
    let _ = TestServer::native::<Puppet>(&MANIFEST.replace("kv-global = true", ""));
}
