use haggle_sdk::{
    test::Harness,
    types::{ConversationDraft, Draft, Op, User},
};
use serde_json::{Value, json};

use crate::{MarketplaceNotifications, settings::Settings};

type App = Harness<MarketplaceNotifications>;

fn app() -> (App, String) {
    let app = App::new();
    app.user("alice", &json!({}));
    app.user("bob", &json!({}));
    let conversation = app.direct("alice", "bob");
    (app, conversation)
}

fn say(app: &mut App, actor: &str, conversation: &str) -> String {
    app.send(actor, Draft::text(conversation, "secret words")).unwrap()
}

/// (topic, title) of a user's notifications, oldest first.
fn told(app: &App, user: &str) -> Vec<(String, String)> {
    app.notifications(user)
        .into_iter()
        .map(|notification| (notification.topic, notification.title))
        .collect()
}

fn one(topic: &str, title: &str) -> Vec<(String, String)> {
    vec![(topic.into(), title.into())]
}

/// What another plugin does to the metadata of its message.
fn set_status(app: &mut App, id: &str, metadata: Value) {
    app.edit("nobody", id, None, Some(&metadata)).unwrap();
}

#[test]
fn a_message_is_told_to_who_is_not_looking_and_never_quoted() {
    let (mut app, conversation) = app();
    let id = say(&mut app, "alice", &conversation);
    assert_eq!(told(&app, "bob"), one("MESSAGE_RECEIVED", "New message from alice"));
    assert_eq!(told(&app, "alice"), []);
    let notification = &app.notifications("bob")[0];
    assert_eq!((notification.body.as_str(), notification.message_id.as_deref()), ("", Some(id.as_str())));
    assert!(!format!("{notification:?}").contains("secret"));
    let data: Value = serde_json::from_str(notification.data.as_ref().unwrap()).unwrap();
    assert_eq!(
        data,
        json!({"conversationId": conversation, "messageId": id, "senderId": "alice", "count": 1})
    );
    for key in app.kv_keys(&conversation) {
        assert!(!String::from_utf8(app.kv(&conversation, &key).unwrap()).unwrap().contains("secret"));
    }
}

#[test]
fn who_is_watching_is_not_told() {
    let (mut app, conversation) = app();
    app.set_watching("bob", &conversation, true);
    say(&mut app, "alice", &conversation);
    say(&mut app, "alice", &conversation);
    app.advance_s(120).unwrap();
    assert_eq!(told(&app, "bob"), []);
    assert_eq!(app.counter("not_told_watching"), 2);
    app.set_watching("bob", &conversation, false);
    say(&mut app, "alice", &conversation);
    assert_eq!(told(&app, "bob").len(), 1);
}

#[test]
fn preferences_are_respected() {
    let cases = [
        (json!({"notifications": {"MESSAGE_RECEIVED": false}}), 0),
        (json!({"notifications": {"CHAT_CREATED": false}}), 1),
        (json!({"muted": true}), 0),
        (json!("broken"), 1),
    ];
    for (preferences, expected) in cases {
        let (mut app, conversation) = app();
        app.set_preferences("bob", &preferences);
        say(&mut app, "alice", &conversation);
        assert_eq!(told(&app, "bob").len(), expected, "{preferences}");
    }
}

#[test]
fn what_follows_within_the_interval_is_told_in_one() {
    let (mut app, conversation) = app();
    say(&mut app, "alice", &conversation);
    app.advance_s(10).unwrap();
    for _ in 0..5 {
        say(&mut app, "alice", &conversation);
    }
    assert_eq!(app.notification_pushes(), 1);
    app.advance_s(49).unwrap();
    assert_eq!(app.notification_pushes(), 1);
    app.advance_s(1).unwrap();
    assert_eq!(app.notification_pushes(), 2);
    assert_eq!(told(&app, "bob"), one("MESSAGE_RECEIVED", "6 new messages"));
    // Quiet afterwards, and at once again when the interval is over.
    app.advance_s(600).unwrap();
    assert_eq!((app.notification_pushes(), app.timers(&conversation)), (2, Vec::<String>::new()));
    say(&mut app, "alice", &conversation);
    assert_eq!(app.notification_pushes(), 3);
}

#[test]
fn what_was_read_is_neither_counted_nor_told() {
    let (mut app, conversation) = app();
    say(&mut app, "alice", &conversation);
    say(&mut app, "alice", &conversation);
    app.read("bob", &conversation, 2).unwrap();
    app.advance_s(60).unwrap();
    assert_eq!(app.notification_pushes(), 1);
    say(&mut app, "alice", &conversation);
    assert_eq!(told(&app, "bob"), one("MESSAGE_RECEIVED", "New message from alice"));
    assert_eq!(app.notification_pushes(), 2);
}

#[test]
fn a_waiting_notification_is_dropped_when_it_has_become_needless() {
    let prepare: [fn(&mut App, &str, &str); 4] = [
        |app, conversation, _| app.set_watching("bob", conversation, true),
        |app, _, last| app.delete("alice", last).unwrap(),
        |app, conversation, _| app.leave("bob", conversation, "bob").unwrap(),
        |app, _, _| app.set_preferences("bob", &json!({"muted": true})),
    ];
    for (i, prepare) in prepare.into_iter().enumerate() {
        let (mut app, conversation) = app();
        say(&mut app, "alice", &conversation);
        let last = say(&mut app, "alice", &conversation);
        prepare(&mut app, &conversation, &last);
        app.advance_s(60).unwrap();
        assert_eq!(app.notification_pushes(), 1, "case {i}");
    }
}

#[test]
fn each_member_of_a_group_has_an_own_interval() {
    let (mut app, _) = app();
    app.user("carol", &json!({}));
    let group = app.group(&["alice", "bob", "carol"]);
    say(&mut app, "alice", &group); // bob and carol at 0
    app.advance_s(30).unwrap();
    say(&mut app, "bob", &group); // alice at 30, carol waits for 60
    app.advance_s(10).unwrap();
    say(&mut app, "carol", &group); // alice waits for 90, bob for 60
    assert_eq!(app.notification_pushes(), 3);
    app.advance_s(20).unwrap();
    assert_eq!(app.notification_pushes(), 5);
    app.advance_s(30).unwrap();
    assert_eq!(app.notification_pushes(), 6);
    assert_eq!(told(&app, "alice"), one("MESSAGE_RECEIVED", "2 new messages"));
}

#[test]
fn a_repeated_hook_tells_nothing_twice() {
    let (mut app, conversation) = app();
    let id = say(&mut app, "alice", &conversation);
    let offer = app
        .send(
            "alice",
            Draft::new(&conversation, "service_offer", "").with_metadata(&json!({"status": "open"})),
        )
        .unwrap();
    set_status(&mut app, &offer, json!({"status": "expired", "statusAt": "t1"}));
    let before = app.notification_pushes();
    app.advance_s(600).unwrap();
    app.redeliver(Op::Send, &id).unwrap();
    app.redeliver(Op::Edit, &offer).unwrap();
    assert_eq!(app.notification_pushes(), before);
}

#[test]
fn an_admins_message_is_told_as_such_and_at_once() {
    let (mut app, conversation) = app();
    let mut call = app.call("alice", &conversation);
    call.roles = vec!["admin".into()];
    for text in ["x", "y"] {
        app.send_as(call.clone(), Draft::text(&conversation, text)).unwrap();
    }
    assert_eq!(
        (told(&app, "bob"), app.notification_pushes()),
        (one("MESSAGE_ADMIN", "Message from alice"), 2)
    );
    // A profile is not a token: what it says of its owner's roles is for display.
    app.put_user(User {
        id: "bob".into(),
        roles: vec!["admin".into()],
        ..User::default()
    });
    say(&mut app, "bob", &conversation);
    assert_eq!(told(&app, "alice"), one("MESSAGE_RECEIVED", "New message from bob"));
}

#[test]
fn offers_and_bookings_are_told_as_they_change() {
    let cases = [
        ("service_offer", "accepted", "bob", "OFFER_ACCEPTED", "bob accepted the offer"),
        ("service_offer", "declined", "bob", "OFFER_DECLINED", "bob declined the offer"),
        ("service_offer", "withdrawn", "alice", "OFFER_WITHDRAWN", "alice withdrew the offer"),
        ("booking_request", "confirmed", "bob", "BOOKING_CONFIRMED", "bob confirmed the booking"),
        ("booking_request", "declined", "bob", "BOOKING_DECLINED", "bob declined the booking"),
        (
            "booking_request",
            "cancelled",
            "alice",
            "BOOKING_CANCELLED",
            "alice cancelled the booking",
        ),
        ("booking_request", "pending", "bob", "BOOKING_RESCHEDULED", "bob proposes another time"),
    ];
    for (kind, status, by, topic, title) in cases {
        let (mut app, conversation) = app();
        let id = app
            .send("alice", Draft::new(&conversation, kind, "").with_metadata(&json!({"status": "first"})))
            .unwrap();
        let first = if kind == "service_offer" {
            ("OFFER_RECEIVED", "alice made you an offer")
        } else {
            ("BOOKING_REQUESTED", "alice asks for a booking")
        };
        assert_eq!(told(&app, "bob"), one(first.0, first.1));
        let changed = json!({"status": status, "statusAt": "2026-01-05T12:00:00.000Z", "statusBy": by});
        set_status(&mut app, &id, changed.clone());
        // What is edited besides is nobody's news.
        let mut noted = changed;
        noted["note"] = "x".into();
        set_status(&mut app, &id, noted);
        let other = if by == "bob" { "alice" } else { "bob" };
        assert_eq!(told(&app, other), one(topic, title), "{kind} {status}");
        assert_eq!(app.notification_pushes(), 2);
    }
}

#[test]
fn what_time_did_is_told_to_both() {
    for (kind, topic, title) in [
        ("service_offer", "OFFER_EXPIRED", "An offer has expired"),
        ("booking_request", "BOOKING_EXPIRED", "A booking request has expired"),
    ] {
        let (mut app, conversation) = app();
        let id = app
            .send("alice", Draft::new(&conversation, kind, "").with_metadata(&json!({"status": "first"})))
            .unwrap();
        set_status(&mut app, &id, json!({"status": "expired", "statusAt": "t"}));
        assert_eq!((told(&app, "alice"), told(&app, "bob")), (one(topic, title), one(topic, title)));
    }
}

#[test]
fn a_booking_in_a_group_concerns_its_two_sides() {
    let (mut app, _) = app();
    let group = app.group(&["alice", "bob", "carol"]);
    let metadata = json!({"status": "pending", "providerId": "bob"});
    let id = app
        .send("alice", Draft::new(&group, "booking_request", "").with_metadata(&metadata))
        .unwrap();
    set_status(
        &mut app,
        &id,
        json!({"status": "confirmed", "statusAt": "t", "statusBy": "bob", "providerId": "bob"}),
    );
    assert_eq!((told(&app, "alice").len(), told(&app, "bob").len(), told(&app, "carol").len()), (1, 1, 0));
}

#[test]
fn new_conversations_are_told_once() {
    let (mut app, _) = app();
    let draft = ConversationDraft {
        kind: "group".into(),
        participants: vec!["alice".into(), "bob".into()],
        ..ConversationDraft::default()
    };
    let group = app.create_conversation("alice", draft).unwrap();
    assert_eq!(told(&app, "bob"), one("CHAT_CREATED", "New conversation: alice"));
    assert_eq!(told(&app, "alice"), []);
    // The entry of who was there from the beginning comes as well.
    app.join("alice", &group, "bob").unwrap();
    assert_eq!(app.notification_pushes(), 1);
    app.join("alice", &group, "carol").unwrap();
    assert_eq!(told(&app, "carol"), one("CHAT_CREATED", "New conversation: alice"));
    app.join("dave", &group, "dave").unwrap();
    assert_eq!(told(&app, "dave"), []);
    app.leave("alice", &group, "carol").unwrap();
    app.join("alice", &group, "carol").unwrap();
    assert_eq!(app.notification_pushes(), 3);
}

#[test]
fn large_groups_and_ignored_kinds_are_left_alone() {
    let mut app = App::with_config(&[("recipients_max", "1"), ("kinds_ignored", "system, location")]).unwrap();
    let group = app.group(&["alice", "bob", "carol"]);
    let pair = app.direct("alice", "bob");
    say(&mut app, "alice", &group);
    assert_eq!((app.notification_pushes(), app.counter("skipped_large")), (0, 1));
    app.send("alice", Draft::new(&pair, "location", "")).unwrap();
    assert_eq!(app.notification_pushes(), 0);
    say(&mut app, "alice", &pair);
    assert_eq!(app.notification_pushes(), 1);
}

#[test]
fn bad_settings_name_their_key() {
    for (key, value) in [
        ("interval_s", "86401"),
        ("interval_s", "x"),
        ("recipients_max", "0"),
        ("recipients_max", "101"),
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
    assert_eq!(manifest["config"].as_table().unwrap().len(), 5 + Settings::default().titles.len());
}
