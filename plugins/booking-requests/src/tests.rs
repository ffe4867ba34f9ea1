use haggle_sdk::{
    test::{Audience, Harness},
    types::{Draft, Op},
};
use serde_json::{Value, json};

use crate::{BookingRequests, settings::Settings};

type App = Harness<BookingRequests>;

/// Half hours since 1970 of 2026-01-10 09:00 UTC.
const NINE: u64 = 982_242;

fn app_with(config: &[(&str, &str)]) -> (App, String) {
    let app = App::with_config(config).unwrap();
    let attributes = json!({"timeZone": "Europe/Paris", "servicePackages": [
        {"id": "cut", "name": "Coupe", "price": 5000, "currency": "XOF", "duration": "1h"},
        {"_id": "talk", "name": "Conseil", "duration": "3 jours"},
        {"id": "trek", "name": "Randonnée", "price": 1, "duration": "30 h"},
        {"id": "nameless"},
    ]});
    app.user("provider", &attributes);
    app.user("customer", &json!({}));
    app.user("rival", &json!({}));
    let conversation = app.direct("customer", "provider");
    (app, conversation)
}

fn app() -> (App, String) {
    app_with(&[])
}

/// 10:00 in Paris is 09:00 UTC.
fn wish(package: &str, date: &str, time: &str) -> Value {
    json!({"servicePackageId": package, "requestedDate": date, "requestedTime": time, "note": "à l'heure"})
}

fn request(app: &mut App, customer: &str, conversation: &str, metadata: &Value) -> Result<String, String> {
    let draft = Draft::new(conversation, "booking_request", "").with_metadata(metadata);
    app.send(customer, draft).map_err(|rejection| rejection.code)
}

fn booked(app: &mut App, conversation: &str) -> String {
    request(app, "customer", conversation, &wish("cut", "2026-01-10", "10:00")).unwrap()
}

fn command(app: &mut App, actor: &str, conversation: &str, name: &str, id: &str) -> Result<String, String> {
    let answer = app.command(actor, conversation, name, &json!({"messageId": id, "reason": "voilà"}));
    answer
        .map(|answer| answer["status"].as_str().unwrap().to_string())
        .map_err(|rejection| rejection.code)
}

fn moved(app: &mut App, actor: &str, conversation: &str, id: &str, date: &str, time: &str) -> Result<Value, String> {
    let payload = json!({"messageId": id, "requestedDate": date, "requestedTime": time});
    app.command(actor, conversation, "booking.reschedule", &payload)
        .map_err(|rejection| rejection.code)
}

fn status(app: &App, id: &str) -> String {
    app.metadata(id)["status"].as_str().unwrap().to_string()
}

fn slots(cells: &[u64]) -> Vec<String> {
    cells.iter().map(|cell| format!("slot:provider:{cell}")).collect()
}

#[test]
fn a_request_is_filled_in_from_the_providers_package() {
    let (mut app, conversation) = app();
    let mut metadata = wish("cut", "2026-01-10T00:00:00.000Z", "10:00");
    metadata["status"] = "confirmed".into();
    metadata["price"] = 1.into();
    let id = request(&mut app, "customer", &conversation, &metadata).unwrap();
    assert_eq!(app.message(&id).unwrap().content, "Demande de réservation: Coupe");
    let expected = json!({
        "servicePackageId": "cut", "serviceName": "Coupe", "price": 5000, "currency": "XOF", "duration": "1h",
        "providerId": "provider", "requestedDate": "2026-01-10", "requestedTime": "10:00", "timeZone": "Europe/Paris",
        "startsAt": "2026-01-10T09:00:00.000Z", "endsAt": "2026-01-10T10:00:00.000Z",
        "status": "pending", "awaiting": "provider", "note": "à l'heure",
    });
    assert_eq!(app.metadata(&id), expected);
    assert_eq!(app.global_keys(), slots(&[NINE, NINE + 1]));
    assert_eq!(app.counter("bookings_requested"), 1);
}

#[test]
fn a_duration_that_cannot_be_read_is_half_an_hour() {
    let (mut app, conversation) = app();
    let id = request(&mut app, "customer", &conversation, &wish("talk", "2026-01-10", "10:00")).unwrap();
    assert_eq!(app.global_keys(), slots(&[NINE]));
    assert_eq!(
        (&app.metadata(&id)["duration"], app.metadata(&id).get("price")),
        (&json!("3 jours"), None)
    );
}

#[test]
fn bad_requests_are_refused_with_a_code() {
    let cases = [
        (json!({}), "invalid_booking"),
        (wish("none", "2026-01-10", "10:00"), "unknown_package"),
        (wish("nameless", "2026-01-10", "10:00"), "invalid_package"),
        (wish("cut", "soon", "10:00"), "invalid_date"),
        (wish("cut", "2026-01-10", "25:00"), "invalid_time"),
        (json!({"servicePackageId": "cut"}), "invalid_date"),
        (wish("cut", "2026-03-29", "02:30"), "invalid_time"),
        // It is 12:00 UTC, 13:00 in Paris.
        (wish("cut", "2026-01-05", "13:00"), "date_in_past"),
        (wish("cut", "2025-01-10", "10:00"), "date_in_past"),
        (wish("cut", "2027-01-06", "10:00"), "date_too_far"),
        (wish("trek", "2026-01-10", "10:00"), "duration_too_long"),
        (
            json!({"servicePackageId": "cut", "providerId": "rival", "requestedDate": "2026-01-10", "requestedTime": "10:00"}),
            "unknown_provider",
        ),
    ];
    for (metadata, code) in cases {
        let (mut app, conversation) = app();
        assert_eq!(
            request(&mut app, "customer", &conversation, &metadata),
            Err(code.to_string()),
            "{metadata}"
        );
        assert_eq!(
            (
                app.kv_keys(&conversation).len(),
                app.global_keys().len(),
                app.messages(&conversation).len()
            ),
            (0, 0, 0)
        );
    }
    let (mut app, conversation) = app();
    assert!(request(&mut app, "customer", &conversation, &wish("cut", "2026-01-05", "13:01")).is_ok());
}

#[test]
fn a_time_zone_that_nobody_knows_is_the_providers_fault() {
    let (mut app, conversation) = app();
    app.user(
        "provider",
        &json!({"timeZone": "Mars/Base", "servicePackages": [{"id": "cut", "name": "Coupe"}]}),
    );
    assert_eq!(
        request(&mut app, "customer", &conversation, &wish("cut", "2026-01-10", "10:00")),
        Err("provider_time_zone".into())
    );
}

#[test]
fn without_a_time_zone_it_is_the_default_one() {
    let (mut app, conversation) = app();
    app.user("provider", &json!({"servicePackages": [{"id": "cut", "name": "Coupe"}]}));
    let id = request(&mut app, "customer", &conversation, &wish("cut", "2026-01-10", "09:00")).unwrap();
    assert_eq!((app.metadata(&id)["timeZone"].clone(), app.global_keys()), (json!("UTC"), slots(&[NINE])));
}

#[test]
fn a_slot_is_booked_once() {
    let (mut app, conversation) = app();
    let elsewhere = app.direct("rival", "provider");
    booked(&mut app, &conversation);
    for (time, expected) in [("09:00", true), ("09:30", false), ("10:00", false), ("10:45", false), ("11:00", true)] {
        let result = request(&mut app, "rival", &elsewhere, &wish("cut", "2026-01-10", time));
        assert_eq!(result.is_ok(), expected, "{time}: {result:?}");
        if !expected {
            assert_eq!(result, Err("slot_taken".into()));
        }
    }
    assert_eq!(app.counter("bookings_slot_taken"), 3);
    // Another provider's calendar is another one.
    app.user(
        "other",
        &json!({"timeZone": "Europe/Paris", "servicePackages": [{"id": "cut", "name": "Coupe", "duration": 60}]}),
    );
    let third = app.direct("rival", "other");
    assert!(request(&mut app, "rival", &third, &wish("cut", "2026-01-10", "10:00")).is_ok());
}

#[test]
fn every_end_gives_the_half_hours_back() {
    let ends: [(&str, &str, &str); 4] = [
        ("provider", "booking.decline", "declined"),
        ("customer", "booking.cancel", "cancelled"),
        ("provider", "booking.cancel", "cancelled"),
        ("", "", "expired"),
    ];
    for (actor, name, end) in ends {
        let (mut app, conversation) = app();
        let id = booked(&mut app, &conversation);
        if name.is_empty() {
            app.advance_s(48 * 3600).unwrap();
        } else {
            assert_eq!(command(&mut app, actor, &conversation, name, &id), Ok(end.into()));
        }
        assert_eq!(status(&app, &id), end);
        assert_eq!(app.global_keys(), Vec::<String>::new());
        assert_eq!(app.timers(&conversation), Vec::<String>::new());
        assert_eq!(app.emitted_names(), [format!("x.booking-requests.{end}")]);
        assert_eq!(app.emitted()[0].audience, Audience::Conversation(conversation.clone()));
        assert_eq!(app.counter(&format!("bookings_{end}")), 1);
        assert_eq!(app.metadata(&id).get("awaiting"), None);
        for (actor, name) in [("provider", "booking.confirm"), ("provider", "booking.decline")] {
            assert_eq!(command(&mut app, actor, &conversation, name, &id), Err("booking_not_pending".into()));
        }
        assert_eq!(
            command(&mut app, "customer", &conversation, "booking.cancel", &id),
            Err("booking_closed".into())
        );
        assert_eq!(
            moved(&mut app, "customer", &conversation, &id, "2026-01-11", "10:00"),
            Err("booking_closed".into())
        );
        assert!(request(&mut app, "customer", &conversation, &wish("cut", "2026-01-10", "10:00")).is_ok());
    }
}

#[test]
fn a_request_for_soon_expires_when_its_time_begins() {
    let (mut app, conversation) = app();
    let id = request(&mut app, "customer", &conversation, &wish("cut", "2026-01-05", "14:00")).unwrap();
    app.advance_s(3599).unwrap();
    assert_eq!(status(&app, &id), "pending");
    app.advance_s(1).unwrap();
    assert_eq!(status(&app, &id), "expired");
}

#[test]
fn a_request_whose_timer_is_late_cannot_be_confirmed() {
    let (mut app, conversation) = app();
    let id = booked(&mut app, &conversation);
    app.set_now_ms(app.now_ms() + 48 * 3_600_000);
    assert_eq!(
        command(&mut app, "provider", &conversation, "booking.confirm", &id),
        Err("booking_expired".into())
    );
}

#[test]
fn a_confirmed_booking_gets_a_conversation_and_reminders() {
    let (mut app, conversation) = app();
    let id = booked(&mut app, &conversation);
    assert_eq!(
        command(&mut app, "provider", &conversation, "booking.confirm", &id),
        Ok("confirmed".into())
    );
    let reference = app.message(&id).unwrap().reference;
    let metadata = app.metadata(&id);
    assert_eq!(
        (&metadata["status"], &metadata["statusBy"], &metadata["statusReason"]),
        (&json!("confirmed"), &json!("provider"), &json!("voilà"))
    );
    let room = metadata["bookingConversationId"].as_str().unwrap();
    assert_eq!(app.members(room), ["customer", "provider"]);
    assert_eq!(app.conversation(room).unwrap().context.unwrap(), format!("test/booking:{reference}"));
    assert_eq!(app.conversation(room).unwrap().name.as_deref(), Some("Coupe"));

    // 2026-01-09 09:00 UTC is a day before.
    app.advance_s(4 * 86_400 - 3 * 3600 - 1).unwrap();
    assert_eq!(app.notification_pushes(), 0);
    app.advance_s(1).unwrap();
    for user in ["customer", "provider"] {
        let notifications = app.notifications(user);
        assert_eq!((notifications.len(), notifications[0].topic.as_str()), (1, "BOOKING_REMINDER"));
        assert_eq!(
            (notifications[0].title.as_str(), notifications[0].body.as_str()),
            ("Booking reminder: Coupe", "")
        );
    }
    app.advance_s(23 * 3600).unwrap();
    assert_eq!(app.notification_pushes(), 4);
    assert_eq!(
        app.emitted_names(),
        [
            "x.booking-requests.confirmed",
            "x.booking-requests.reminder",
            "x.booking-requests.reminder"
        ]
    );

    // When it is over, its half hours are no longer kept.
    assert_eq!(app.global_keys().len(), 2);
    app.advance_s(2 * 3600).unwrap();
    assert_eq!((app.global_keys().len(), app.timers(&conversation).len()), (0, 0));
    assert_eq!(
        command(&mut app, "customer", &conversation, "booking.cancel", &id),
        Err("booking_closed".into())
    );
    assert_eq!(status(&app, &id), "confirmed");
}

#[test]
fn a_cancelled_booking_reminds_nobody() {
    let (mut app, conversation) = app();
    let id = booked(&mut app, &conversation);
    command(&mut app, "provider", &conversation, "booking.confirm", &id).unwrap();
    assert_eq!(
        command(&mut app, "customer", &conversation, "booking.cancel", &id),
        Ok("cancelled".into())
    );
    app.advance_s(10 * 86_400).unwrap();
    assert_eq!((app.notification_pushes(), app.global_keys().len()), (0, 0));
}

#[test]
fn only_the_right_side_answers() {
    let cases = [
        ("customer", "booking.confirm", "not_addressee"),
        ("customer", "booking.decline", "not_addressee"),
        ("stranger", "booking.confirm", "not_addressee"),
        ("stranger", "booking.cancel", "not_addressee"),
        ("stranger", "booking.reschedule", "not_addressee"),
        ("provider", "booking.eat", "unknown_command"),
    ];
    for (actor, name, code) in cases {
        let (mut app, conversation) = app();
        let id = booked(&mut app, &conversation);
        assert_eq!(command(&mut app, actor, &conversation, name, &id), Err(code.into()), "{name} by {actor}");
        assert_eq!(status(&app, &id), "pending");
    }
}

#[test]
fn rescheduling_asks_the_other_side_and_moves_the_half_hours() {
    let (mut app, conversation) = app();
    let id = booked(&mut app, &conversation);
    command(&mut app, "provider", &conversation, "booking.confirm", &id).unwrap();
    // Half an hour later: one of the two is kept, so it must not stand in its own way.
    moved(&mut app, "provider", &conversation, &id, "2026-01-10", "10:30").unwrap();
    assert_eq!(app.global_keys(), slots(&[NINE + 1, NINE + 2]));
    let metadata = app.metadata(&id);
    assert_eq!(
        (&metadata["status"], &metadata["awaiting"], &metadata["requestedTime"]),
        (&json!("pending"), &json!("customer"), &json!("10:30"))
    );
    assert_eq!(
        (&metadata["startsAt"], &metadata["endsAt"]),
        (&json!("2026-01-10T09:30:00.000Z"), &json!("2026-01-10T10:30:00.000Z"))
    );
    assert_eq!(app.emitted_names().last().unwrap(), "x.booking-requests.rescheduled");
    assert_eq!(
        command(&mut app, "provider", &conversation, "booking.confirm", &id),
        Err("not_addressee".into())
    );
    assert_eq!(
        command(&mut app, "customer", &conversation, "booking.confirm", &id),
        Ok("confirmed".into())
    );
    // Reminders follow the new time: 09:30 UTC the day before.
    app.advance_s(4 * 86_400 - 3 * 3600).unwrap();
    assert_eq!(app.notification_pushes(), 0);
    app.advance_s(1800).unwrap();
    assert_eq!(app.notification_pushes(), 2);
}

#[test]
fn rescheduling_to_a_taken_time_changes_nothing() {
    let (mut app, conversation) = app();
    let elsewhere = app.direct("rival", "provider");
    let id = booked(&mut app, &conversation);
    request(&mut app, "rival", &elsewhere, &wish("cut", "2026-01-10", "11:00")).unwrap();
    let before = (app.global_keys(), app.metadata(&id), app.timers(&conversation));
    assert_eq!(
        moved(&mut app, "customer", &conversation, &id, "2026-01-10", "10:30"),
        Err("slot_taken".into())
    );
    assert_eq!((app.global_keys(), app.metadata(&id), app.timers(&conversation)), before);
    for (date, time, code) in [
        ("2026-01-01", "10:00", "date_in_past"),
        ("", "10:00", "invalid_date"),
        ("2026-01-12", "", "invalid_time"),
    ] {
        assert_eq!(moved(&mut app, "customer", &conversation, &id, date, time), Err(code.into()));
    }
}

#[test]
fn an_edit_changes_the_note_and_nothing_that_matters() {
    let (mut app, conversation) = app();
    let id = booked(&mut app, &conversation);
    let mut expected = app.metadata(&id);
    expected["note"] = "neu".into();
    let wish = json!({"note": "neu", "price": 1, "status": "confirmed", "requestedTime": "03:00", "providerId": "rival", "startsAt": "x"});
    app.edit("customer", &id, Some("free"), Some(&wish)).unwrap();
    assert_eq!(
        (app.metadata(&id), app.message(&id).unwrap().content),
        (expected, "Demande de réservation: Coupe".into())
    );
    command(&mut app, "provider", &conversation, "booking.confirm", &id).unwrap();
    assert_eq!(
        app.edit("customer", &id, None, Some(&json!({"note": "late"}))).unwrap_err().code,
        "booking_closed"
    );
}

#[test]
fn deleting_the_message_cancels_the_booking() {
    let (mut app, conversation) = app();
    let id = booked(&mut app, &conversation);
    app.delete("customer", &id).unwrap();
    assert_eq!(
        (app.global_keys().len(), app.emitted_names()),
        (0, vec!["x.booking-requests.cancelled".to_string()])
    );
    assert_eq!(
        command(&mut app, "provider", &conversation, "booking.confirm", &id),
        Err("not_found".into())
    );
}

#[test]
fn in_a_group_the_provider_is_named() {
    let (mut app, _) = app();
    let group = app.group(&["customer", "provider", "rival"]);
    let mut metadata = wish("cut", "2026-01-10", "10:00");
    assert_eq!(request(&mut app, "customer", &group, &metadata), Err("unknown_provider".into()));
    metadata["providerId"] = "provider".into();
    let id = request(&mut app, "customer", &group, &metadata).unwrap();
    assert_eq!(command(&mut app, "rival", &group, "booking.confirm", &id), Err("not_addressee".into()));
    assert_eq!(command(&mut app, "provider", &group, "booking.confirm", &id), Ok("confirmed".into()));
    let alone = app.group(&["customer"]);
    assert_eq!(
        request(&mut app, "customer", &alone, &wish("cut", "2026-01-11", "10:00")),
        Err("unknown_provider".into())
    );
}

#[test]
fn open_bookings_are_bounded_and_closed_ones_are_forgotten() {
    let (mut app, conversation) = app_with(&[("open_max", "1")]);
    let id = booked(&mut app, &conversation);
    let second = wish("cut", "2026-01-11", "10:00");
    assert_eq!(request(&mut app, "customer", &conversation, &second), Err("too_many_bookings".into()));
    command(&mut app, "customer", &conversation, "booking.cancel", &id).unwrap();
    let other = request(&mut app, "customer", &conversation, &second).unwrap();
    command(&mut app, "provider", &conversation, "booking.decline", &other).unwrap();
    app.advance_s(31 * 86_400).unwrap();
    assert_eq!(app.kv_keys(&conversation).len(), 0);
    assert_eq!(
        command(&mut app, "customer", &conversation, "booking.cancel", &id),
        Err("booking_closed".into())
    );
}

#[test]
fn a_repeated_after_hook_changes_nothing() {
    let (mut app, conversation) = app();
    let id = booked(&mut app, &conversation);
    command(&mut app, "provider", &conversation, "booking.confirm", &id).unwrap();
    app.redeliver(Op::Send, &id).unwrap();
    assert_eq!((status(&app, &id), app.counter("bookings_requested")), ("confirmed".into(), 1));
}

#[test]
fn settings_change_what_they_say() {
    let (mut app, conversation) = app_with(&[
        ("remind_before_m", ""),
        ("expire_after_h", "1"),
        ("notice_min_m", "60"),
        ("content", "Wunsch: {name}"),
    ]);
    assert_eq!(
        request(&mut app, "customer", &conversation, &wish("cut", "2026-01-05", "14:00")),
        Err("date_in_past".into())
    );
    let id = booked(&mut app, &conversation);
    assert_eq!(app.message(&id).unwrap().content, "Wunsch: Coupe");
    app.advance_s(3600).unwrap();
    assert_eq!(status(&app, &id), "expired");
}

#[test]
fn bad_settings_name_their_key() {
    let cases = [
        ("expire_after_h", "0"),
        ("remind_before_m", "1,2,3,4,5"),
        ("remind_before_m", "soon"),
        ("remind_before_m", "0"),
        ("default_time_zone", "Mars/Base"),
        ("advance_max_days", "0"),
        ("duration_max_m", "1441"),
        ("open_max", "100"),
        ("keep_closed_days", "0"),
        ("content", "nothing"),
    ];
    for (key, value) in cases {
        let failure = App::with_config(&[(key, value)]).err().expect("refused");
        assert!(failure.0.contains(key), "{}", failure.0);
    }
}

#[test]
fn the_manifest_shows_the_defaults() {
    let manifest: toml::Value = toml::from_str(include_str!("../plugin.toml")).unwrap();
    let config = serde_json::to_string(&manifest["config"]).unwrap();
    assert_eq!(Settings::read(&config), Ok(Settings::default()));
    assert_eq!(manifest["config"].as_table().unwrap().len(), 11);
}
