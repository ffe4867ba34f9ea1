//! The plugin on a real engine: one calendar, many customers at once.

use std::time::Duration;

use haggle_plugin_booking_requests::BookingRequests;
use haggle_sdk::types::Draft;
use haggle_testkit::{Builder, TestServer};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

/// A provider and conversations of two customers with it.
fn server() -> (TestServer, String, String) {
    let plugin = Builder::default().plugin::<BookingRequests>(include_str!("../plugin.toml"));
    let server = plugin.config("booking-requests", "open_max", 99).start();
    let packages = json!({"timeZone": "UTC", "servicePackages": [{"id": "cut", "name": "Coupe", "price": 5000, "duration": "1h"}]});
    server.user("provider", "Pro", &packages);
    let (one, two) = (server.direct("ann", "provider"), server.direct("bob", "provider"));
    (server, one, two)
}

fn draft(conversation: &str, date: &str, time: &str) -> Draft {
    let wish = json!({"servicePackageId": "cut", "requestedDate": date, "requestedTime": time});
    Draft::new(conversation, "booking_request", "").with_metadata(&wish)
}

fn status(server: &TestServer, id: &str) -> Value {
    server.metadata(id)["status"].clone()
}

#[test]
fn of_two_requests_for_one_slot_at_one_instant_exactly_one_wins() {
    let (server, one, two) = server();
    for n in 0..60 {
        // Overlapping hours: 10:00 to 11:00 and 10:30 to 11:30, in turn first.
        let date = format!("2026-{:02}-{:02}", 2 + n / 20, 1 + n % 20);
        let mut drafts = vec![("ann", draft(&one, &date, "10:00")), ("bob", draft(&two, &date, "10:30"))];
        drafts.rotate_left(n % 2);
        let users: Vec<&str> = drafts.iter().map(|(user, _)| *user).collect();
        let sent = server.send_at_once(drafts);
        let won: Vec<usize> = (0..2).filter(|i| sent[*i].is_ok()).collect();
        assert_eq!(won.len(), 1, "{date}: {sent:?}");
        let loser = 1 - won[0];
        assert_eq!(sent[loser].as_ref().unwrap_err().code, "slot_taken");
        // What the loser does not share with the winner is free.
        let (rest, time) = if users[loser] == "ann" { (&one, "09:30") } else { (&two, "11:00") };
        server.send(users[loser], draft(rest, &date, time)).unwrap();
        let last = server.messages(rest).last().unwrap().id.clone();
        server.command("provider", rest, "booking.decline", &json!({"messageId": last})).unwrap();
        let winner = &sent[won[0]].as_ref().unwrap();
        server
            .command("provider", &winner.conversation_id, "booking.confirm", &json!({"messageId": winner.id}))
            .unwrap();
    }
    assert_eq!(server.failed(), []);
}

#[test]
fn declined_cancelled_and_expired_bookings_give_their_time_back() {
    let (mut server, one, two) = server();
    let book = |server: &TestServer, user: &str, conversation: &str| server.send(user, draft(conversation, "2026-01-20", "10:00"));
    for command in ["booking.decline", "booking.cancel"] {
        let id = book(&server, "ann", &one).unwrap();
        assert_eq!(book(&server, "bob", &two).unwrap_err().code, "slot_taken");
        let actor = if command == "booking.decline" { "provider" } else { "ann" };
        server.command(actor, &one, command, &json!({"messageId": id})).unwrap();
    }
    let id = book(&server, "ann", &one).unwrap();
    server.restart();
    assert_eq!(book(&server, "bob", &two).unwrap_err().code, "slot_taken", "a restart frees nothing");
    server.advance(48 * HOUR);
    assert_eq!(status(&server, &id), "expired");
    book(&server, "bob", &two).unwrap();
}

#[test]
fn a_confirmed_booking_is_kept_and_both_are_reminded() {
    let (server, one, two) = server();
    let id = server.send("ann", draft(&one, "2026-01-08", "10:00")).unwrap();
    server.command("provider", &one, "booking.confirm", &json!({"messageId": id})).unwrap();
    server.advance(47 * HOUR);
    assert_eq!(status(&server, &id), "confirmed");
    assert_eq!(server.send("bob", draft(&two, "2026-01-08", "10:30")).unwrap_err().code, "slot_taken");
    for user in ["ann", "provider"] {
        let reminders = server
            .notifications(user)
            .into_iter()
            .filter(|(notification, _)| notification.title.contains("Coupe"))
            .count();
        assert_eq!(reminders, 1, "{user}, a day before");
    }
    assert_eq!(server.failed(), []);
}

#[test]
fn a_retried_request_books_once() {
    let (server, one, _) = server();
    let once = || Draft {
        client_message_id: Some("b1".into()),
        ..draft(&one, "2026-01-08", "10:00")
    };
    let sent = server.send_at_once(vec![("ann", once()), ("ann", once()), ("ann", once())]);
    assert!(
        sent.iter()
            .all(|sent| sent.as_ref().is_ok_and(|sent| sent.id == server.messages(&one)[0].id)),
        "{sent:?}"
    );
    assert_eq!((server.messages(&one).len(), server.counter("bookings_requested")), (1, 1));
}
