//! What a plugin needs that speaks for an old system: routes with parameters, readers, notifications and counts.

use std::time::Duration;

use haggle_sdk::prelude::*;
use haggle_sdk::serde_json::{Value, json};
use haggle_testkit::TestServer;

const MANIFEST: &str = r#"
id = "old"
version = "1.0.0"
api = "0.1"

[namespaces]
names = ["/"]

[[routes]]
method = "GET"
path = "/message/{id}/readers"
access = "user"

[[routes]]
method = "*"
path = "/notification/{what}"
access = "user"

[[routes]]
method = "GET"
path = "/unread/{user}"
access = "user"

[[routes]]
method = "GET"
path = "/stats"
access = "role:admin"

[grants]
log = true
client = true
events = true
kv-global = true
messages = true
notifications = true
users = true
"#;

#[derive(Default)]
struct Old;

impl AfterMessage for Old {
    fn after_message(&mut self, _call: &Call, message: Message) -> Result<(), Failure> {
        if message.op != Op::Send {
            return Ok(());
        }
        kv_global::add("messages", 1)?;
        let told = Notification {
            topic: "MESSAGE_RECEIVED".into(),
            title: message.sender_id,
            data: Some(json!({"chat": message.conversation_id}).to_string()),
            message_id: Some(message.id),
            ..Notification::default()
        };
        notifications::push("bob", &told)?;
        Ok(())
    }
}

impl Http for Old {
    fn http(&mut self, _call: &Call, request: HttpRequest) -> HttpResponse {
        match answer(&request) {
            Ok(value) => HttpResponse::json(200, &value),
            Err(refusal) => HttpResponse::json(400, &refusal.code),
        }
    }
}

fn answer(request: &HttpRequest) -> Result<Value, client::Refusal> {
    let shown = |told: StoredNotification| json!([told.id, told.body, told.read, told.plugin, told.user_id]);
    let place = request.path.split('/').nth(1).unwrap_or_default();
    Ok(match (place, request.param("what")) {
        ("message", _) => {
            let message = client::message(request.param("id"))?;
            let readers = client::read_by(&[message.id])?.remove(0);
            let others = readers.into_iter().filter(|reader| reader.user_id != message.sender_id);
            let others: Vec<_> = others.map(|reader| json!([reader.user_id, reader.read_at_ms])).collect();
            json!({"reactions": message.reactions, "readBy": others})
        }
        ("unread", _) => json!(users::unread(request.param("user"))?),
        ("stats", _) => {
            events::emit_to_role("admin", "x.old.asked", &json!({"by": "stats"}))?;
            json!({
                "messages": kv_global::get_json::<i64>("messages")?,
                "online": users::online_count()?,
                "own": client::conversations_total(None)?,
            })
        }
        ("notification", "all") => client::notifications(None, false, 10)?.into_iter().map(shown).collect(),
        ("notification", "unread") => client::notifications(None, true, 10)?.into_iter().map(shown).collect(),
        ("notification", "count") => json!(client::unread_notifications()?),
        ("notification", "read-all") => json!(client::read_all_notifications()?.duplicate),
        ("notification", id) if request.method == "POST" => json!(client::read_notification(id)?.duplicate),
        (_, id) => client::notifications(Some(id), false, 1)?.into_iter().map(shown).collect(),
    })
}

impl Namespace for Old {
    fn event(&mut self, _call: &Call, event: SocketEvent) -> Result<Option<Args>, Rejection> {
        Err(Rejection::new("unknown_event", event.name))
    }

    fn map(&mut self, _call: &Call, _namespace: &str, event: CoreEvent) -> Vec<Emit> {
        if let Some(told) = event.notification {
            let data: Value = json::parse(told.data.as_deref().unwrap_or("null")).unwrap_or_default();
            let payload = json!({"_id": told.id, "userId": told.user_id, "message": told.body, "data": data, "plugin": told.plugin});
            return vec![Emit::new(Audience::recipients(), "notification", &payload)];
        }
        let payload = json!([event.recipients, event.payload]);
        vec![Emit::new(Audience::recipients(), event.kind, &payload)]
    }
}

haggle_sdk::plugin! { Old, hooks: [after_message, http, namespace], caps: [client, events, kv_global, messages, notifications, users] }

fn ask(server: &TestServer, user: &str, method: &str, path: &str) -> Value {
    let request = HttpRequest {
        method: method.into(),
        path: path.into(),
        ..HttpRequest::default()
    };
    let response = server.http(user, "old", request).expect("answered");
    haggle_sdk::serde_json::from_slice(&response.body).expect("JSON")
}

fn server() -> (TestServer, String) {
    let server = TestServer::native::<Old>(MANIFEST);
    let conversation = server.direct("alice", "bob");
    (server, conversation)
}

#[test]
fn a_message_shows_its_reactions_and_its_readers() {
    let (server, chat) = server();
    let message = server.send("alice", Draft::text(&chat, "one")).unwrap();
    let path = format!("/message/{message}/readers");
    assert_eq!(ask(&server, "alice", "GET", &path), json!({"reactions": [], "readBy": []}));
    server.react("bob", &message, Some("+1")).unwrap();
    server.advance(Duration::from_secs(60));
    let seq = server.message(&message).unwrap().seq;
    server.read("bob", &chat, seq).unwrap();
    let expect = json!({"reactions": [["bob", "+1"]], "readBy": [["bob", server.now_ms()]]});
    server.advance(Duration::from_secs(60));
    assert_eq!(ask(&server, "alice", "GET", &path), expect);
    assert_eq!(ask(&server, "eve", "GET", &path), "not_found");
}

#[test]
fn notifications_show_the_present_text_and_are_read_as_their_user() {
    let (server, chat) = server();
    let first = server.send("alice", Draft::text(&chat, "one")).unwrap();
    let second = server.send("alice", Draft::text(&chat, "two")).unwrap();
    let mapped = server.mapped("old", "/");
    let told: Vec<Value> = mapped
        .iter()
        .filter(|emit| emit.name == "notification")
        .map(|emit| emit.args.get(0))
        .collect();

    let all = ask(&server, "bob", "GET", "/notification/all");
    let (newer, older) = (all[0][0].as_str().unwrap(), all[1][0].as_str().unwrap());
    assert_eq!(all, json!([[newer, "two", false, "old", "bob"], [older, "one", false, "old", "bob"]]));
    let mapped = |id: &str, text: &str| json!({"_id": id, "userId": "bob", "message": text, "data": {"chat": chat}, "plugin": "old"});
    assert_eq!(told, [mapped(older, "one"), mapped(newer, "two")]);

    server.edit("alice", &first, Some("changed"), None).unwrap();
    server.delete("alice", &second).unwrap();
    let page = ask(&server, "bob", "GET", &format!("/notification/{newer}"));
    assert_eq!(page, json!([[older, "changed", false, "old", "bob"]]), "the page after the newest");
    assert_eq!(ask(&server, "bob", "GET", "/notification/all")[0][1], "", "deleted text is gone here too");

    assert_eq!(ask(&server, "bob", "GET", "/notification/count"), 2);
    let one = format!("/notification/{newer}");
    assert_eq!(ask(&server, "alice", "POST", &one), "not_found", "not hers");
    ask(&server, "bob", "POST", &one);
    assert_eq!(ask(&server, "bob", "GET", "/notification/count"), 1);
    assert_eq!(ask(&server, "bob", "GET", "/notification/unread")[0][0], older);
    ask(&server, "bob", "POST", "/notification/read-all");
    assert_eq!(ask(&server, "bob", "GET", "/notification/count"), 0);
    assert_eq!(ask(&server, "alice", "GET", "/notification/all"), json!([]));
}

#[test]
fn counts_are_those_of_the_server() {
    let (server, chat) = server();
    let other = server.direct("alice", "carol");
    for (conversation, text) in [(&chat, "one"), (&chat, "two"), (&other, "three")] {
        server.send("alice", Draft::text(conversation, text)).unwrap();
    }
    let _alice = (server.connect("alice"), server.connect("alice"));
    let carol = server.connect("carol");
    assert_eq!(ask(&server, "root", "GET", "/unread/bob"), 2);
    assert_eq!(ask(&server, "root", "GET", "/unread/alice"), 0);
    assert_eq!(ask(&server, "alice", "GET", "/stats"), json!({"messages": 3, "online": 2, "own": 2}));
    drop(carol);
    assert_eq!(ask(&server, "bob", "GET", "/stats"), json!({"messages": 3, "online": 1, "own": 1}));
}

#[test]
fn mappings_hear_of_what_is_for_a_role() {
    let (server, _chat) = server();
    server.mapped("old", "/");
    ask(&server, "alice", "GET", "/stats");
    let mapped = server.mapped("old", "/");
    let asked: Vec<_> = mapped.iter().filter(|emit| emit.name == "x.old.asked").collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].args.get(0), json!([[], "{\"by\":\"stats\"}"]), "nobody is named");
}
