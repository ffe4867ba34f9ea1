//! One conversation on every transport at once: all see the same events in the same order with the same seq.

#[path = "ws/client.rs"]
#[allow(dead_code, reason = "only logins and what comes are needed here")]
mod native;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "messages are sent by clients here")]
mod server;
#[path = "socketio/client.rs"]
#[allow(dead_code, unused_imports, reason = "good clients are needed here")]
mod socketio;

use haggle_model::ConversationId;
use native::Client;
use serde_json::{Value, json};
use server::{Server, token};
use socketio::{Socket, request};

/// Each sends so many messages.
const EACH: usize = 60;
const REST_SENDERS: [&str; 4] = ["ann", "bob", "cid", "dan"];
const SENDERS: usize = REST_SENDERS.len() + 2;
const ALL: usize = SENDERS * EACH;

/// What a reader saw of a message: its seq and its text.
type Seen = (u64, String);

fn seen(payload: &Value) -> Seen {
    let content = payload["message"]["content"].as_str().expect("a text");
    (payload["seq"].as_u64().expect("a seq"), content.to_owned())
}

async fn rest(server: &Server, user: &str, method: &str, path: &str, body: &str) -> Value {
    let headers = format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", token(user));
    let answer = request(server.address, method, path, &headers, body.as_bytes()).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

async fn send_by_rest(server: &Server, user: &str, conversation: ConversationId) {
    for n in 0..EACH {
        let body = json!({"content": format!("{user} {n}"), "type": "text"}).to_string();
        let path = format!("/api/conversations/{conversation}/messages");
        rest(server, user, "POST", &path, &body).await;
    }
}

async fn send_by_socketio(server: &Server, user: &str, conversation: ConversationId) {
    let mut socket = server.chat(user).await;
    for n in 0..EACH {
        let message = json!({"conversationId": conversation.to_string(), "message": {"content": format!("{user} {n}"), "type": "text"}});
        assert_eq!(socket.ask(n as u32, "send_message", message).await["success"], true);
    }
}

async fn send_natively(server: &Server, user: &str, conversation: ConversationId) {
    let mut client = Client::login(server.address, &token(user)).await;
    for n in 0..EACH {
        let send = json!({"t": "send", "c": conversation.to_string(), "d": {"content": format!("{user} {n}")}});
        assert_eq!(client.request(send).await["t"], "ok");
    }
}

async fn read_by_socketio(mut socket: Socket) -> Vec<Seen> {
    let mut all = Vec::with_capacity(ALL);
    while all.len() < ALL {
        all.push(seen(&socket.event("new_message").await));
    }
    all
}

async fn read_by_polling(server: &Server, sid: &str) -> Vec<Seen> {
    let mut all = Vec::with_capacity(ALL);
    while all.len() < ALL {
        let payload = server.poll(sid).await;
        assert_eq!(payload.status, 200, "{}", payload.body);
        for packet in payload.body.split('\u{1e}') {
            if let Some(event) = packet.strip_prefix("42/chat,[\"new_message\",") {
                let payload: Value = serde_json::from_str(event.strip_suffix(']').expect("an array")).expect("JSON");
                all.push(seen(&payload));
            }
        }
    }
    all
}

async fn read_natively(mut client: Client) -> Vec<Seen> {
    let mut all = Vec::with_capacity(ALL);
    while all.len() < ALL {
        let event = client.until(|frame| frame["t"] == "ev" && frame["n"] == "message.created").await;
        let content = event["d"]["content"].as_str().expect("a text");
        all.push((event["s"].as_u64().expect("a seq"), content.to_owned()));
    }
    all
}

/// The log, as REST shows it.
async fn read_log(server: &Server, conversation: ConversationId) -> Vec<Seen> {
    let (mut all, mut after) = (Vec::new(), 0);
    while all.len() < ALL {
        let page = rest(
            server,
            "ann",
            "GET",
            &format!("/api/conversations/{conversation}/events?after={after}&limit=100"),
            "",
        )
        .await;
        let events = page["events"].as_array().expect("events").clone();
        assert!(!events.is_empty(), "{page}");
        for event in events {
            after = event["seq"].as_u64().expect("a seq");
            if let Some(content) = event["data"]["content"].as_str() {
                all.push((after, content.to_owned()));
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_sees_the_same_order() {
    let server = Server::start().await;
    let conversation = server.group("ann", &["bob", "cid", "dan", "eve", "fay", "reader"]).await;

    let websocket = server.chat("reader").await;
    let sid = server.joined(&format!(r#"40/chat,{{"token":"{}"}}"#, token("reader"))).await;
    let mut native = Client::login(server.address, &token("reader")).await;
    native.request(json!({"t": "sub", "c": conversation.to_string()})).await;

    let senders = async {
        tokio::join!(
            send_by_rest(&server, REST_SENDERS[0], conversation),
            send_by_rest(&server, REST_SENDERS[1], conversation),
            send_by_rest(&server, REST_SENDERS[2], conversation),
            send_by_rest(&server, REST_SENDERS[3], conversation),
            send_by_socketio(&server, "eve", conversation),
            send_natively(&server, "fay", conversation),
        )
    };
    let ((), by_websocket, by_polling, natively) = tokio::join!(
        async {
            senders.await;
        },
        read_by_socketio(websocket),
        read_by_polling(&server, &sid),
        read_natively(native),
    );

    let first = by_websocket[0].0;
    let seqs: Vec<u64> = by_websocket.iter().map(|(seq, _)| *seq).collect();
    assert!(seqs.iter().copied().eq(first..first + ALL as u64), "dense: {seqs:?}");
    assert_eq!(by_polling, by_websocket);
    assert_eq!(natively, by_websocket);
    assert_eq!(read_log(&server, conversation).await, by_websocket);
    for user in REST_SENDERS.into_iter().chain(["eve", "fay"]) {
        let start = format!("{user} ");
        let own: Vec<_> = by_websocket.iter().filter_map(|(_, content)| content.strip_prefix(&start)).collect();
        let sent: Vec<_> = (0..EACH).map(|n| n.to_string()).collect();
        assert_eq!(own, sent, "what one user sends keeps its order");
    }
}
