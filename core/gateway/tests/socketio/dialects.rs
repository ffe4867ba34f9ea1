//! Namespaces that a plugin owns.

use std::time::Duration;

use haggle_gateway::DialectSettings;
use serde_json::{Value, json};

use crate::client::{Got, PATIENCE, Server, Socket, of_plugin, token, token_for};

/// A server on which the plugin owns `/shop`.
async fn shop() -> Server {
    Server::with(|settings| settings.dialects = vec![of_plugin("/shop")]).await
}

async fn open(server: &Server) -> Socket {
    let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
    assert!(socket.text().await.starts_with('0'));
    socket
}

async fn connect(server: &Server, data: Value) -> (Socket, String) {
    let mut socket = open(server).await;
    socket.send(&format!("40/shop,{data}")).await;
    let answer = socket.text().await;
    (socket, answer)
}

async fn join(server: &Server, user: &str) -> Socket {
    let (socket, answer) = connect(server, json!({"token": token(user)})).await;
    assert!(answer.starts_with("40/shop,{\"sid\""), "{answer}");
    socket
}

/// Sends an event and waits for its ack; what comes before it is dropped.
pub async fn ask(socket: &mut Socket, id: u32, event: Value) -> Value {
    socket.send(&format!("42/shop,{id}{event}")).await;
    let head = format!("43/shop,{id}");
    loop {
        let text = socket.text().await;
        if let Some(json) = text.strip_prefix(&head) {
            return serde_json::from_str(json).expect("JSON");
        }
    }
}

/// The next event, whatever it is.
async fn next(socket: &mut Socket) -> Value {
    loop {
        let text = socket.text().await;
        if let Some(json) = text.strip_prefix("42/shop,") {
            return serde_json::from_str(json).expect("JSON");
        }
    }
}

/// The next event but for signs of life.
async fn next_kept(socket: &mut Socket) -> Value {
    loop {
        let event = next(socket).await;
        if event[0] != "status" {
            return event;
        }
    }
}

#[tokio::test]
async fn a_plugin_lets_in_refuses_or_fails() {
    let server = shop().await;
    for (data, expect) in [
        (json!({}), r#"44/shop,{"message":"No token provided","data":{"code":"unauthenticated"}}"#),
        (
            json!({"token": "a.b.c"}),
            r#"44/shop,{"message":"Invalid token","data":{"code":"unauthenticated"}}"#,
        ),
        (
            json!({"token": token("ann"), "as": "unwelcome"}),
            r#"44/shop,{"message":"not you","data":{"code":"unwelcome"}}"#,
        ),
        (
            json!({"token": token("ann"), "as": "broken"}),
            r#"44/shop,{"message":"the plugin failed: trap","data":{"code":"plugin_error"}}"#,
        ),
        (
            json!({"token": token("ann"), "as": "odd"}),
            r#"44/shop,{"message":"the server made a mistake; its log has more","data":{"code":"internal"}}"#,
        ),
    ] {
        let (_, answer) = connect(&server, data).await;
        assert_eq!(answer, expect);
    }
    let (mut socket, _) = connect(&server, json!({"token": token("ann"), "as": "greet"})).await;
    assert_eq!(
        next(&mut socket).await,
        json!(["connected", "ann"]),
        "what a connect emits comes after its answer"
    );
    let heard = server.heard.lock().unwrap().clone();
    assert_eq!(
        heard.last().unwrap(),
        "connect /shop as `ann` with {\"as\":\"greet\"}",
        "the token stays here"
    );
    let (_, other) = {
        let mut socket = open(&server).await;
        socket.send("40/elsewhere,").await;
        let answer = socket.text().await;
        (socket, answer)
    };
    assert_eq!(other, r#"44/elsewhere,{"message":"Invalid namespace"}"#);
    socket.send("41/shop,").await;
    server.hears("disconnect: client namespace disconnect").await;
}

#[tokio::test]
async fn what_comes_before_the_answer_to_a_connect_follows_it_or_the_client_comes_back() {
    let server = shop().await;
    let (mut socket, answer) = connect(&server, json!({"token": token("ann"), "greetings": 256})).await;
    assert!(answer.starts_with("40/shop,{\"sid\""), "{answer}");
    for number in 0..256 {
        assert_eq!(next_kept(&mut socket).await, json!(["greeting", number]), "as many as a handler may emit");
    }
    // What the outbox could not hold either is not dropped without a word.
    let server = Server::with(|settings| {
        settings.dialects = vec![of_plugin("/shop")];
        settings.outbox_bytes_max = 4_096;
    })
    .await;
    let mut socket = open(&server).await;
    socket
        .send(&format!("40/shop,{}", json!({"token": token("ann"), "greetings": 256})))
        .await;
    socket.is_closed().await;
}

#[tokio::test]
async fn who_goes_while_the_plugin_thinks_leaves_nothing() {
    let server = Server::set(|settings| {
        settings.ws.connections_per_user_max = 1;
        let mut late = of_plugin("/late");
        late.auth_grace = Duration::from_secs(300);
        settings.socketio.dialects = vec![of_plugin("/shop"), late];
    })
    .await;
    let mut eve = join(&server, "eve").await;
    for (user, namespace, is_late) in [("ann", "/shop", false), ("bob", "/late", true)] {
        let held_up = server.gate.write().await;
        let sid = server.open().await;
        let connect = json!({"token": token(user), "as": "slow"});
        let asks = if is_late {
            assert_eq!(server.post(&sid, r#"40/late,{"as":"slow"}"#).await.body, "ok");
            format!("42/late,{}", json!(["authenticate", {"token": token(user)}]))
        } else {
            format!("40{namespace},{connect}")
        };
        let posting = server.posting(&sid, asks);
        server.hears(&format!("connect {namespace} as `{user}` with {{\"as\":\"slow\"}}")).await;
        posting.abort();
        server.hears("disconnect: transport error").await;
        server.heard.lock().unwrap().clear();
        drop(held_up);

        let conversation = server.direct(user, "zed").await;
        server.say("zed", conversation, "nobody is there").await;
        let other = server.direct("eve", "zed").await;
        server.say("zed", other, "eve is").await;
        assert_eq!(next_kept(&mut eve).await, json!(["message_notification", "eve is"]));
        let heard = server.heard.lock().unwrap().join(", ");
        assert!(!heard.contains("nobody is there"), "{user} is not in the namespace's list: {heard}");
        join(&server, user).await; // Nor counted.
    }
}

#[tokio::test]
async fn who_cannot_be_let_in_for_now_is_disconnected_and_told_nothing() {
    let server = Server::set(|settings| {
        settings.ws.connections_per_user_max = 1;
        settings.socketio.dialects = vec![of_plugin("/shop")];
    })
    .await;
    for passing in ["overloaded", "timeout", "breaker"] {
        let mut socket = open(&server).await;
        socket
            .send(&format!("40/shop,{}", json!({"token": token("ann"), "fails": passing})))
            .await;
        assert_eq!(socket.next().await, Got::Closed, "{passing}");
    }
    let _ann = (join(&server, "ann").await, server.chat("bob").await);
    for (namespace, user) in [("/shop", "ann"), ("/chat", "ann"), ("/shop", "bob")] {
        let mut socket = open(&server).await;
        socket.send(&format!("40{namespace},{}", json!({"token": token(user)}))).await;
        assert_eq!(socket.next().await, Got::Closed, "{user} has a connection already");
        let sid = server.open().await;
        let posted = server.post(&sid, &format!("40{namespace},{}", json!({"token": token(user)}))).await;
        assert_eq!((posted.status, &*server.poll(&sid).await.body), (200, "1"), "polling");
    }
}

#[tokio::test]
async fn who_cannot_be_let_in_for_now_keeps_the_other_namespaces_of_the_connection() {
    let server = Server::with(|settings| settings.dialects = vec![of_plugin("/shop")]).await;
    let failing = format!("40/shop,{}", json!({"token": token("ann"), "fails": "timeout"}));
    let chat = format!("40/chat,{}", json!({"token": token("ann")}));
    for order in [[&failing, &chat], [&chat, &failing]] {
        let mut socket = open(&server).await;
        for packet in order {
            socket.send(packet).await;
        }
        let mut answers = [socket.text().await, socket.text().await];
        answers.sort();
        assert!(answers[0].starts_with("40/chat,{\"sid\""), "{answers:?}");
        assert!(answers[1].starts_with("44/shop,{\"message\""), "{answers:?}");
        assert!(answers[1].contains("\"code\":\"plugin_error\""), "{answers:?}");
        tokio::time::sleep(Duration::from_millis(1500)).await;
        socket.send("42/chat,1[\"none\",{}]").await;
        assert!(socket.text().await.starts_with("43/chat,1["), "the connection has stayed");
    }
}

#[tokio::test]
async fn only_configured_namespaces_are_open_to_everybody() {
    let server = Server::with(|settings| {
        let mut open = of_plugin("/open");
        open.anonymous = true;
        settings.dialects = vec![of_plugin("/shop"), open];
    })
    .await;
    let mut socket = open(&server).await;
    socket.send("40/open,").await;
    assert!(socket.text().await.starts_with("40/open,{\"sid\""));
    socket.send("42/open,1[\"send\",\"bob\"]").await;
    let answer = socket.text().await;
    assert_eq!(
        answer, "43/open,1[{\"code\":\"unauthenticated\"}]",
        "nobody acts as a user without being one"
    );
    socket.send(r#"40/shop,"#).await;
    assert!(socket.text().await.starts_with("44/shop,{\"message\":\"No token provided\""));
}

#[tokio::test]
async fn a_plugin_that_is_not_active_is_named() {
    let server = Server::with(|settings| {
        settings.dialects = vec![DialectSettings {
            plugin: "other".into(),
            ..of_plugin("/shop")
        }];
    })
    .await;
    let (_, answer) = connect(&server, json!({"token": token("ann")})).await;
    assert_eq!(
        answer,
        r#"44/shop,{"message":"the plugin of this namespace is not active","data":{"code":"not_found"}}"#
    );
}

#[tokio::test]
async fn events_are_answered_in_order_and_slow_only_their_own_connection() {
    let server = shop().await;
    let (mut slow, mut quick) = (join(&server, "ann").await, join(&server, "bob").await);
    let held_up = server.gate.write().await;
    slow.send("42/shop,0[\"slow\",0]").await;
    for id in 1..20 {
        slow.send(&format!("42/shop,{id}[\"e\",{id}]")).await;
    }
    assert_eq!(ask(&mut quick, 0, json!(["e", 1])).await, json!([1]));
    drop(held_up);
    let mut acks = Vec::new();
    while acks.len() < 20 {
        let text = slow.text().await;
        if let Some(ack) = text.strip_prefix("43/shop,") {
            acks.push(ack.split('[').next().unwrap().parse::<u32>().expect("a number"));
        }
    }
    assert_eq!(acks, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_answers_pings_stays_while_the_server_does_not_read() {
    let server = Server::with(|settings| {
        settings.dialects = vec![of_plugin("/shop")];
        settings.events_waiting_max = 1;
        (settings.ping_interval, settings.ping_timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    })
    .await;
    for slow in [json!({"token": token("ann"), "as": "slow"}), json!({"token": token("ann")})] {
        let held_up = server.gate.write().await;
        let mut socket = open(&server).await;
        socket.send(&format!("40/shop,{slow}")).await;
        for id in 0..4 {
            socket.send(&format!("42/shop,{id}[\"slow\",{id}]")).await;
        }
        let open_for = async {
            loop {
                match socket.next().await {
                    Got::Text(text) if text == "2" => socket.send("3").await,
                    Got::Text(text) if text.starts_with("43/shop,3") => return,
                    Got::Text(_) => {}
                    other => panic!("{other:?} with {slow}"),
                }
            }
        };
        let release = async {
            tokio::time::sleep(Duration::from_millis(3_500)).await;
            drop(held_up);
        };
        tokio::join!(open_for, release);
    }
    // A silent client is cut as ever, whatever the server waits for.
    let mut silent = join(&server, "bob").await;
    silent.is_closed().await;
}

#[tokio::test]
async fn a_failure_answers_the_ack_and_closes_nothing() {
    let server = shop().await;
    let mut socket = join(&server, "ann").await;
    let failed = ask(&mut socket, 0, json!(["fail"])).await;
    assert_eq!((&failed[0]["success"], &failed[0]["code"]), (&json!(false), &json!("plugin_error")));
    let rejected = ask(&mut socket, 1, json!(["reject"])).await;
    assert_eq!(
        (&rejected[0]["code"], &rejected[0]["detail"], &rejected[0]["error"]),
        (&json!("plugin_rejected"), &json!("not_today"), &json!("try tomorrow"))
    );
    socket.send("42/shop,[\"fail\"]").await;
    assert_eq!(next_kept(&mut socket).await[0], "error", "without an ack there is an event");
    assert_eq!(ask(&mut socket, 2, json!(["e", "still here"])).await, json!(["still here"]));
}

#[tokio::test]
async fn core_events_are_mapped_once_and_told_to_whom_the_plugin_says() {
    let server = shop().await;
    let conversation = server.direct("ann", "bob").await;
    let (mut ann, mut bob, mut bobs_other) = (join(&server, "ann").await, join(&server, "bob").await, join(&server, "bob").await);
    assert_eq!(ask(&mut bob, 0, json!(["join", conversation.to_string()])).await, json!([{"ok": true}]));
    assert_eq!(ask(&mut ann, 0, json!(["send", "bob"])).await, json!([{"ok": conversation.to_string()}]));
    assert_eq!(next_kept(&mut ann).await, json!(["message_sent", "hello"]));
    assert_eq!(next_kept(&mut bob).await, json!(["message_notification", "hello"]));
    assert_eq!(next_kept(&mut bob).await, json!(["new_message", "hello"]), "bob has joined with this one");
    assert_eq!(next_kept(&mut bobs_other).await, json!(["message_notification", "hello"]));
    assert_eq!(ask(&mut bob, 1, json!(["unread"])).await, json!([{"ok": 1}]));
    server.say("bob", conversation, "from elsewhere").await;
    assert_eq!(
        next_kept(&mut ann).await,
        json!(["message_notification", "from elsewhere"]),
        "whatever transport"
    );
    assert_eq!(
        next_kept(&mut bobs_other).await,
        json!(["message_sent", "from elsewhere"]),
        "ann's own was no event of this one"
    );
    let mapped = server.heard.lock().unwrap().iter().filter(|text| text.starts_with("map ")).count();
    assert_eq!(mapped, 2, "once per event, however many hear of it");
    let stranger = server.direct("carl", "dora").await;
    server.say("carl", stranger, "not here").await;
    server.say("ann", conversation, "last").await;
    assert_eq!(next_kept(&mut ann).await, json!(["message_sent", "last"]));
    let mapped = server.heard.lock().unwrap().iter().filter(|text| text.contains("not here")).count();
    assert_eq!(mapped, 0, "nobody of theirs is in the namespace");
}

#[tokio::test]
async fn rooms_hold_who_has_entered_them() {
    let server = Server::with(|settings| {
        settings.dialects = vec![of_plugin("/shop")];
        settings.rooms_max = 2;
    })
    .await;
    let (mut ann, mut bob, mut eve) = (join(&server, "ann").await, join(&server, "bob").await, join(&server, "eve").await);
    for socket in [&mut ann, &mut bob] {
        assert_eq!(ask(socket, 0, json!(["room", "staff"])).await, json!([{"ok": true}]));
    }
    assert_eq!(ask(&mut eve, 0, json!(["emit", "staff"])).await, json!([{"ok": true}]));
    assert_eq!(next_kept(&mut ann).await, json!(["said", "in the room"]));
    assert_eq!(next_kept(&mut bob).await, json!(["said", "in the room"]));
    assert_eq!(ask(&mut ann, 1, json!(["room", "b"])).await, json!([{"ok": true}]));
    assert_eq!(ask(&mut ann, 2, json!(["room", "c"])).await, json!([{"code": "too_large"}]));
    bob.send("41/shop,").await;
    bob.send(&format!("40/shop,{}", json!({"token": token("bob")}))).await;
    assert_eq!(ask(&mut ann, 3, json!(["emit", "staff"])).await, json!([{"ok": true}]));
    assert_eq!(
        ask(&mut bob, 3, json!(["e", "x"])).await,
        json!(["x"]),
        "and no word of the room it has left"
    );
}

#[tokio::test]
async fn a_token_may_come_late_and_ends_in_time() {
    let server = Server::with(|settings| {
        let mut late = of_plugin("/shop");
        late.auth_grace = Duration::from_secs(30);
        settings.dialects = vec![late];
    })
    .await;
    let (mut socket, answer) = connect(&server, json!({"from": "afar"})).await;
    assert!(answer.starts_with("40/shop,{\"sid\""), "{answer}");
    assert_eq!(ask(&mut socket, 0, json!(["e", 1])).await[0]["code"], "unauthenticated");
    let answer = ask(
        &mut socket,
        1,
        json!(["authenticate", {"token": token_for("ann", Duration::from_secs(2))}]),
    )
    .await;
    assert_eq!((&answer[0]["success"], &answer[0]["data"]["userId"]), (&json!(true), &json!("ann")));
    assert_eq!(
        server.heard.lock().unwrap().last().unwrap(),
        "connect /shop as `ann` with {\"from\":\"afar\"}"
    );
    assert_eq!(ask(&mut socket, 2, json!(["e", 1])).await, json!([1]));
    assert_eq!(next_kept(&mut socket).await[0], "error", "the token's time is over");
    socket.is_closed().await;
}

#[tokio::test]
async fn one_namespace_is_several_plugins_by_what_the_connection_says() {
    let server = Server::with(|settings| {
        let elsewhere = |change: fn(&mut DialectSettings)| {
            let mut dialect = of_plugin("/");
            dialect.plugin = "other".into();
            change(&mut dialect);
            dialect
        };
        settings.dialects = vec![
            elsewhere(|dialect| dialect.host = Some("shop.example".into())),
            elsewhere(|dialect| dialect.path = Some("/shop/socket.io/".into())),
            elsewhere(|dialect| dialect.claim = Some(("aud".into(), "shop".into()))),
            elsewhere(|dialect| dialect.port = Some(1)),
            of_plugin("/"),
        ];
    })
    .await;
    let mut socket = open(&server).await;
    socket.send(&format!("40{}", json!({"token": token("ann")}))).await;
    let answer = socket.text().await;
    assert!(answer.starts_with("40{\"sid\""), "the one without conditions: {answer}");
    let other = crate::client::request(server.address, "GET", "/shop/socket.io/?EIO=4&transport=polling", "", b"").await;
    assert_eq!(other.status, 200, "the path of a dialect is served");
    let sid = crate::client::sid_of(&other.body);
    let connect = format!("40{}", json!({"token": token("ann")}));
    let path = format!("/shop/socket.io/?EIO=4&transport=polling&sid={sid}");
    let headers = "content-type: text/plain;charset=UTF-8\r\n";
    let posted = crate::client::request(server.address, "POST", &path, headers, connect.as_bytes()).await;
    assert_eq!(posted.body, "ok");
    let answer = crate::client::request(server.address, "GET", &path, "", b"").await;
    assert!(answer.body.contains("not active"), "the other plugin's: {}", answer.body);
}

#[tokio::test]
async fn who_reads_too_slowly_is_alone_with_it() {
    let server = Server::with(|settings| {
        settings.dialects = vec![of_plugin("/shop")];
        settings.outbox_bytes_max = 64 * 1024;
    })
    .await;
    let conversation = server.direct("ann", "bob").await;
    let (mut ann, mut bob) = (join(&server, "ann").await, join(&server, "bob").await);
    for number in 0..400 {
        // Bob does not read; his system's buffers and his outbox fill.
        server.say("ann", conversation, &format!("{number}{}", "x".repeat(9_000))).await;
        let sent = next_kept(&mut ann).await;
        assert!(sent[1].as_str().unwrap().starts_with(&number.to_string()));
    }
    let end = async { while bob.next().await != Got::Closed {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("bob is disconnected");
}

#[tokio::test]
async fn a_disconnect_is_the_last_that_a_plugin_hears() {
    let server = Server::set(|settings| {
        settings.ws.connections_per_user_max = 1;
        settings.socketio.dialects = vec![of_plugin("/shop")];
        settings.socketio.events_waiting_max = 1;
    })
    .await;
    let sid = server.joined(&format!("40/shop,{}", json!({"token": token("ann")}))).await;
    let held_up = server.gate.write().await;
    // One is answered, one waits, and for the third there is no place.
    let posting = server.posting(&sid, ["42/shop,[\"slow\"]"; 3].join("\u{1e}"));
    server.hears("slow").await;
    assert_eq!(
        server.post(&sid, "3").await.status,
        400,
        "a second POST ends the session; the first goes on"
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(held_up);
    posting.await.expect("answered");
    server.hears("disconnect: transport error").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let heard = server.heard.lock().unwrap().clone();
    assert_eq!(heard[1..], ["slow", "slow", "disconnect: transport error"]);
    join(&server, "ann").await;
}

#[tokio::test]
async fn who_is_let_in_after_its_end_is_soon_gone() {
    let server = Server::set(|settings| {
        settings.ws.connections_per_user_max = 1;
        settings.socketio.dialects = vec![of_plugin("/shop")];
    })
    .await;
    let held_up = server.gate.write().await;
    let sid = server.open().await;
    let posting = server.posting(&sid, format!("40/shop,{}", json!({"token": token("ann"), "as": "slow"})));
    server.hears("connect /shop as `ann` with {\"as\":\"slow\"}").await;
    assert_eq!(
        server.post(&sid, "3").await.status,
        400,
        "a second POST ends the session; the first goes on"
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(held_up);
    posting.await.expect("answered");
    server.hears("disconnect: transport error").await;
    assert!(!server.gateway.engine.hub().online(&"ann".into()), "nobody sees who is not there");
    join(&server, "ann").await;
}

#[tokio::test]
async fn the_token_of_the_connect_goes_before_the_headers_and_that_before_the_querys() {
    let server = Server::with(|settings| {
        settings.dialects = vec![of_plugin("/shop")];
        settings.query_token = "token".into();
    })
    .await;
    let (in_header, in_query, in_auth) = (
        format!("authorization: Bearer {}\r\n", token("header")),
        format!("&token={}", token("query")),
        json!({"token": token("auth")}),
    );
    for (header, query, auth, expect) in [
        (&*in_header, &*in_query, in_auth.clone(), "auth"),
        (&*in_header, &*in_query, json!({}), "header"),
        (&*in_header, "", json!({}), "header"),
        ("", &*in_query, json!({}), "query"),
        ("", &*in_query, in_auth.clone(), "auth"),
    ] {
        let query = format!("EIO=4&transport=websocket{query}");
        let mut socket = server.upgrade_from("/socket.io/", &query, header).await.expect("upgraded");
        assert!(socket.text().await.starts_with('0'));
        socket.send(&format!("40/shop,{auth}")).await;
        assert!(socket.text().await.starts_with("40/shop,{"));
        let heard = server.heard.lock().unwrap().clone();
        let connects: Vec<_> = heard.iter().filter(|text| text.starts_with("connect ")).collect();
        assert_eq!(**connects.last().expect("it was asked"), format!("connect /shop as `{expect}` with {{}}"));
    }
}

#[tokio::test]
async fn a_renewal_is_the_same_users_and_nothing_else_is_understood() {
    let server = shop().await;
    let (mut socket, _) = connect(&server, json!({"token": token_for("ann", Duration::from_secs(2))})).await;
    for (id, token, code) in [(0, token("bob"), "forbidden"), (1, "a.b.c".to_owned(), "unauthenticated")] {
        let answer = ask(&mut socket, id, json!(["authenticate", {"token": token}])).await;
        assert_eq!((&answer[0]["success"], &answer[0]["code"]), (&json!(false), &json!(code)));
    }
    let others = json!(["authenticate", {"password": "x"}]);
    assert_eq!(
        ask(&mut socket, 2, others).await,
        json!([{"password": "x"}]),
        "without a token it is the plugin's"
    );
    let answer = ask(&mut socket, 3, json!(["authenticate", {"token": token("ann")}])).await;
    assert_eq!((&answer[0]["success"], &answer[0]["data"]["userId"]), (&json!(true), &json!("ann")));
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(ask(&mut socket, 4, json!(["e", 1])).await, json!([1]), "the first token's time is over");
}

#[tokio::test]
async fn only_so_many_events_wait_for_their_plugin_and_the_next_are_not_read() {
    let server = Server::with(|settings| {
        settings.dialects = vec![of_plugin("/shop")];
        settings.events_waiting_max = 2;
    })
    .await;
    // One is answered meanwhile.
    for (events, is_read) in [(3, true), (4, false)] {
        let mut socket = join(&server, "ann").await;
        let held_up = server.gate.write().await;
        for _ in 0..events {
            socket.send("42/shop,[\"slow\"]").await;
        }
        socket.send(&format!("40/chat,{}", json!({"token": token("ann")}))).await;
        let joined = async { while !matches!(socket.next().await, Got::Text(text) if text.starts_with("40/chat,")) {} };
        let patience = if is_read { PATIENCE } else { Duration::from_millis(500) };
        let within = tokio::time::timeout(patience, joined).await;
        assert_eq!(within.is_ok(), is_read, "{events} events");
        drop(held_up);
    }
}

#[tokio::test]
async fn a_connection_is_in_sixteen_namespaces_at_most() {
    let names: Vec<String> = (0..17).map(|number| format!("/n{number}")).collect();
    let server = Server::with(|settings| settings.dialects = names.iter().map(|name| crate::server::open_to_all(name)).collect()).await;
    let mut socket = open(&server).await;
    let last = names.last().expect("there are some");
    for name in &names {
        socket.send(&format!("40{name},")).await;
        let answer = next_connect(&mut socket).await;
        assert_eq!(answer.starts_with(&format!("40{name},{{")), name != last, "{answer}");
        assert_eq!(answer.contains(r#""data":{"code":"too_large"}"#), name == last, "{answer}");
    }
    socket.send("41/n0,").await;
    socket.send(&format!("40{last},")).await;
    let answer = next_connect(&mut socket).await;
    assert!(answer.starts_with(&format!("40{last},{{")), "{answer}");
}

/// The next answer to a connect.
async fn next_connect(socket: &mut Socket) -> String {
    loop {
        let text = socket.text().await;
        if text.starts_with("40") || text.starts_with("44") {
            return text;
        }
    }
}
