use haggle_sdk::{
    test::{Audience, Harness},
    types::{Draft, Op},
};
use serde_json::{Value, json};

use crate::{ServiceOffers, settings::Settings};

type App = Harness<ServiceOffers>;

/// A seller with packages, and a direct conversation with a buyer.
fn app() -> (App, String) {
    let app = App::new();
    let packages = json!({"servicePackages": [
        {"id": "logo", "name": "Logo", "price": 15000, "currency": "XOF", "duration": "3 jours"},
        {"_id": "site", "name": "Site vitrine", "price": "250000.50", "duration": 90},
        {"id": "free", "name": "Conseil", "price": 0},
        {"id": "nameless", "price": 1},
        {"id": "priceless", "name": "Rien"},
        {"id": "silly", "name": "Rien", "price": -1},
    ]});
    app.user("seller", &packages);
    app.user("buyer", &json!({"servicePackages": [{"id": "mine", "name": "Troc", "price": 1}]}));
    let conversation = app.direct("seller", "buyer");
    (app, conversation)
}

fn draft(conversation: &str, metadata: &Value) -> Draft {
    Draft::new(conversation, "service_offer", "whatever the client says").with_metadata(metadata)
}

fn offer(app: &mut App, conversation: &str, package: &str) -> String {
    app.send("seller", draft(conversation, &json!({"servicePackageId": package}))).unwrap()
}

fn status(app: &App, id: &str) -> String {
    app.metadata(id)["status"].as_str().unwrap().to_string()
}

#[test]
fn an_offer_is_filled_in_from_the_package() {
    let cases = [
        (
            "logo",
            "Service proposé: Logo",
            json!({"serviceName": "Logo", "price": 15000, "currency": "XOF", "duration": "3 jours"}),
        ),
        (
            "site",
            "Service proposé: Site vitrine",
            json!({"serviceName": "Site vitrine", "price": "250000.50", "currency": "FCFA", "duration": 90}),
        ),
        (
            "free",
            "Service proposé: Conseil",
            json!({"serviceName": "Conseil", "price": 0, "currency": "FCFA"}),
        ),
    ];
    for (package, content, filled) in cases {
        let (mut app, conversation) = app();
        // What a client would like it to be does not count; its note does.
        let wish = json!({"servicePackageId": package, "note": "à bientôt", "price": 1, "status": "accepted", "statusBy": "buyer"});
        let id = app.send("seller", draft(&conversation, &wish)).unwrap();
        let mut expected = filled;
        expected["servicePackageId"] = package.into();
        expected["note"] = "à bientôt".into();
        expected["status"] = "open".into();
        expected["expiresAt"] = "2026-01-08T12:00:00.000Z".into();
        assert_eq!(app.metadata(&id), expected);
        assert_eq!(app.message(&id).unwrap().content, content);
        assert_eq!(app.counter("offers_sent"), 1);
    }
}

#[test]
fn bad_offers_are_refused_with_a_code() {
    let cases = [
        (json!({}), "invalid_offer"),
        (json!({"servicePackageId": ""}), "invalid_offer"),
        (json!({"servicePackageId": ["logo"]}), "invalid_offer"),
        (json!({"servicePackageId": "mine"}), "unknown_package"),
        (json!({"servicePackageId": "nameless"}), "invalid_package"),
        (json!({"servicePackageId": "priceless"}), "invalid_package"),
        (json!({"servicePackageId": "silly"}), "invalid_package"),
        (json!({"servicePackageId": "logo", "counterOf": "nonsense"}), "counter_not_open"),
        (json!({"servicePackageId": "logo", "counterOf": 7}), "counter_not_open"),
    ];
    for (metadata, code) in cases {
        let (mut app, conversation) = app();
        assert_eq!(app.send("seller", draft(&conversation, &metadata)).unwrap_err().code, code, "{metadata}");
        assert_eq!((app.messages(&conversation).len(), app.kv_keys(&conversation).len()), (0, 0));
    }
}

#[test]
fn each_command_ends_an_open_offer_once() {
    for (command, actor, end) in [
        ("offer.accept", "buyer", "accepted"),
        ("offer.decline", "buyer", "declined"),
        ("offer.withdraw", "seller", "withdrawn"),
    ] {
        let (mut app, conversation) = app();
        let id = offer(&mut app, &conversation, "logo");
        let payload = json!({"messageId": id, "reason": "parce que"});
        assert_eq!(
            app.command(actor, &conversation, command, &payload).unwrap(),
            json!({"messageId": id, "status": end})
        );
        let metadata = app.metadata(&id);
        assert_eq!(
            (&metadata["status"], &metadata["statusBy"], &metadata["statusReason"]),
            (&json!(end), &json!(actor), &json!("parce que"))
        );
        assert_eq!(metadata["price"], 15000);
        let events = app.emitted();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].name, format!("x.service-offers.{end}"));
        assert_eq!(events[0].audience, Audience::Conversation(conversation.clone()));
        assert_eq!((&events[0].payload["messageId"], &events[0].payload["by"]), (&json!(id), &json!(actor)));
        assert_eq!(app.timers(&conversation), Vec::<String>::new());
        assert_eq!(app.counter(&format!("offers_{end}")), 1);
        for (command, actor) in [("offer.accept", "buyer"), ("offer.decline", "buyer"), ("offer.withdraw", "seller")] {
            let again = app.command(actor, &conversation, command, &payload).unwrap_err();
            assert_eq!(again.code, "offer_not_open");
        }
        app.advance_s(10 * 86_400).unwrap();
        assert_eq!(status(&app, &id), end);
        assert_eq!(app.emitted().len(), 1);
    }
}

#[test]
fn only_the_right_side_acts() {
    let cases = [
        ("offer.accept", "seller", "not_addressee"),
        ("offer.decline", "seller", "not_addressee"),
        ("offer.withdraw", "buyer", "not_sender"),
        ("offer.accept", "stranger", "not_addressee"),
        ("offer.eat", "buyer", "unknown_command"),
    ];
    for (command, actor, code) in cases {
        let (mut app, conversation) = app();
        let id = offer(&mut app, &conversation, "logo");
        assert_eq!(
            app.command(actor, &conversation, command, &json!({"messageId": id})).unwrap_err().code,
            code,
            "{command} by {actor}"
        );
        assert_eq!(status(&app, &id), "open");
    }
}

#[test]
fn commands_name_an_offer_of_their_conversation() {
    let (mut app, conversation) = app();
    let elsewhere = app.direct("seller", "other");
    let id = offer(&mut app, &conversation, "logo");
    let text = app.send("seller", Draft::text(&conversation, "hello")).unwrap();
    for (conversation, payload, code) in [
        (&elsewhere, json!({"messageId": id}), "not_found"),
        (&conversation, json!({"messageId": text}), "not_found"),
        (&conversation, json!({"messageId": "000000000000000000000000"}), "not_found"),
        (&conversation, json!({}), "invalid_payload"),
        (&conversation, json!({"messageId": id, "reason": "x".repeat(501)}), "invalid_payload"),
    ] {
        assert_eq!(
            app.command("buyer", conversation, "offer.accept", &payload).unwrap_err().code,
            code,
            "{payload}"
        );
    }
}

#[test]
fn an_unanswered_offer_expires() {
    let (mut app, conversation) = app();
    let id = offer(&mut app, &conversation, "logo");
    app.advance_s(72 * 3600 - 1).unwrap();
    assert_eq!(status(&app, &id), "open");
    app.advance_s(1).unwrap();
    assert_eq!(status(&app, &id), "expired");
    assert_eq!(app.emitted_names(), ["x.service-offers.expired"]);
    assert_eq!(app.metadata(&id).get("statusBy"), None);
    assert_eq!(
        app.command("buyer", &conversation, "offer.accept", &json!({"messageId": id}))
            .unwrap_err()
            .code,
        "offer_not_open"
    );
}

#[test]
fn an_offer_whose_timer_is_late_cannot_be_accepted() {
    let (mut app, conversation) = app();
    let id = offer(&mut app, &conversation, "logo");
    app.set_now_ms(app.now_ms() + 72 * 3_600_000);
    assert_eq!(
        app.command("buyer", &conversation, "offer.accept", &json!({"messageId": id}))
            .unwrap_err()
            .code,
        "offer_expired"
    );
}

#[test]
fn an_edit_changes_the_note_and_nothing_that_matters() {
    let (mut app, conversation) = app();
    let id = offer(&mut app, &conversation, "logo");
    let before = app.metadata(&id);
    let wish = json!({"note": "neu", "price": 1, "status": "accepted", "servicePackageId": "site", "counterOf": "x", "expiresAt": "never"});
    app.edit("seller", &id, Some("free beer"), Some(&wish)).unwrap();
    let mut expected = before;
    expected["note"] = "neu".into();
    assert_eq!(app.metadata(&id), expected);
    assert_eq!(app.message(&id).unwrap().content, "Service proposé: Logo");
    app.command("buyer", &conversation, "offer.accept", &json!({"messageId": id})).unwrap();
    assert_eq!(
        app.edit("seller", &id, None, Some(&json!({"note": "later"}))).unwrap_err().code,
        "offer_closed"
    );
}

#[test]
fn deleting_an_open_offer_withdraws_it() {
    let (mut app, conversation) = app();
    let id = offer(&mut app, &conversation, "logo");
    app.delete("seller", &id).unwrap();
    assert_eq!(app.emitted_names(), ["x.service-offers.withdrawn"]);
    assert_eq!(
        app.command("buyer", &conversation, "offer.accept", &json!({"messageId": id}))
            .unwrap_err()
            .code,
        "not_found"
    );
    assert_eq!(app.timers(&conversation), Vec::<String>::new());
}

#[test]
fn a_counter_offer_replaces_the_newest_open_one() {
    let (mut app, conversation) = app();
    let first = offer(&mut app, &conversation, "logo");
    app.advance_s(1).unwrap();
    let second = offer(&mut app, &conversation, "site");
    let counter = app.send("buyer", draft(&conversation, &json!({"servicePackageId": "mine"}))).unwrap();
    assert_eq!(
        (status(&app, &first), status(&app, &second), status(&app, &counter)),
        ("open".into(), "declined".into(), "open".into())
    );
    assert_eq!(app.metadata(&second)["statusReason"], "countered");
    assert_eq!(app.counter("offers_countered"), 1);
}

#[test]
fn a_counter_offer_may_name_what_it_answers() {
    let (mut app, conversation) = app();
    let first = offer(&mut app, &conversation, "logo");
    let second = offer(&mut app, &conversation, "site");
    app.send("buyer", draft(&conversation, &json!({"servicePackageId": "mine", "counterOf": first})))
        .unwrap();
    assert_eq!((status(&app, &first), status(&app, &second)), ("declined".into(), "open".into()));
    // An own or a closed offer cannot be countered.
    for id in [&first, &second] {
        let metadata = json!({"servicePackageId": "logo", "counterOf": id});
        assert_eq!(app.send("seller", draft(&conversation, &metadata)).unwrap_err().code, "counter_not_open");
    }
}

#[test]
fn in_a_group_anyone_else_may_accept_and_nothing_is_countered_unasked() {
    let (mut app, _) = app();
    let group = app.group(&["seller", "buyer", "third"]);
    let id = offer(&mut app, &group, "logo");
    app.send("buyer", draft(&group, &json!({"servicePackageId": "mine"}))).unwrap();
    assert_eq!(status(&app, &id), "open");
    app.command("third", &group, "offer.accept", &json!({"messageId": id})).unwrap();
    assert_eq!(
        app.command("buyer", &group, "offer.accept", &json!({"messageId": id})).unwrap_err().code,
        "offer_not_open"
    );
}

#[test]
fn open_offers_are_bounded() {
    let mut app = App::with_config(&[("open_max", "2")]).unwrap();
    app.user("seller", &json!({"servicePackages": [{"id": "logo", "name": "Logo", "price": 1}]}));
    app.user("buyer", &json!({"servicePackages": [{"id": "mine", "name": "Troc", "price": 1}]}));
    let conversation = app.direct("seller", "buyer");
    offer(&mut app, &conversation, "logo");
    offer(&mut app, &conversation, "logo");
    let refused = app
        .send("seller", draft(&conversation, &json!({"servicePackageId": "logo"})))
        .unwrap_err();
    assert_eq!(refused.code, "too_many_open_offers");
    // A counter-offer takes the place of the one that it answers.
    app.send("buyer", draft(&conversation, &json!({"servicePackageId": "mine"}))).unwrap();
}

#[test]
fn the_state_of_a_closed_offer_is_not_kept_for_ever() {
    let (mut app, conversation) = app();
    let id = offer(&mut app, &conversation, "logo");
    app.command("buyer", &conversation, "offer.accept", &json!({"messageId": id})).unwrap();
    assert_eq!(app.kv_keys(&conversation).len(), 1);
    app.advance_s(31 * 86_400).unwrap();
    assert_eq!(app.kv_keys(&conversation).len(), 0);
    assert_eq!(
        app.command("buyer", &conversation, "offer.decline", &json!({"messageId": id}))
            .unwrap_err()
            .code,
        "offer_not_open"
    );
    assert_eq!(status(&app, &id), "accepted");
}

#[test]
fn a_repeated_after_hook_changes_nothing() {
    let (mut app, conversation) = app();
    let id = offer(&mut app, &conversation, "logo");
    app.command("buyer", &conversation, "offer.accept", &json!({"messageId": id})).unwrap();
    app.redeliver(Op::Send, &id).unwrap();
    assert_eq!((status(&app, &id), app.counter("offers_sent")), ("accepted".into(), 1));
}

#[test]
fn other_kinds_pass() {
    let (mut app, conversation) = app();
    let id = app.send("seller", Draft::text(&conversation, "hello")).unwrap();
    assert_eq!(app.message(&id).unwrap().content, "hello");
}

#[test]
fn bad_settings_name_their_key() {
    for (key, value) in [
        ("expire_after_h", "0"),
        ("expire_after_h", "soon"),
        ("open_max", "100"),
        ("content", "nothing"),
        ("keep_closed_days", "-1"),
    ] {
        let failure = App::with_config(&[(key, value)]).err().expect("refused");
        assert!(failure.0.contains(key), "{}", failure.0);
    }
}

#[test]
fn the_manifest_shows_the_defaults() {
    let manifest: toml::Value = toml::from_str(include_str!("../plugin.toml")).unwrap();
    let config = serde_json::to_string(&manifest["config"]).unwrap();
    assert_eq!(Settings::read(&config), Ok(Settings::default()));
    assert_eq!(manifest["config"].as_table().unwrap().len(), 5);
}
