//! Handshakes, errors and long polling.

use std::time::Duration;

use serde_json::json;

use crate::client::{Answer, PATIENCE, Server, request, sid_of, token};

#[tokio::test]
async fn errors_have_the_protocols_codes_and_bodies() {
    let server = Server::start().await;
    let sid = server.open().await;
    for (method, query, status, body) in [
        ("GET", "EIO=4".to_owned(), 400, r#"{"code":0,"message":"Transport unknown"}"#),
        ("GET", "EIO=4&transport=tesla".into(), 400, r#"{"code":0,"message":"Transport unknown"}"#),
        (
            "GET",
            "EIO=4&transport=polling&sid=n1.no".into(),
            400,
            r#"{"code":1,"message":"Session ID unknown"}"#,
        ),
        (
            "GET",
            "EIO=4&transport=polling&sid=n2.other".into(),
            400,
            r#"{"code":1,"message":"Session ID unknown"}"#,
        ),
        (
            "POST",
            "EIO=4&transport=polling".into(),
            400,
            r#"{"code":2,"message":"Bad handshake method"}"#,
        ),
        (
            "OPTIONS",
            "EIO=4&transport=polling".into(),
            400,
            r#"{"code":2,"message":"Bad handshake method"}"#,
        ),
        ("GET", "EIO=4&transport=websocket".into(), 400, r#"{"code":3,"message":"Bad request"}"#),
        (
            "GET",
            format!("EIO=4&transport=websocket&sid={sid}"),
            400,
            r#"{"code":3,"message":"Bad request"}"#,
        ),
        (
            "PUT",
            format!("EIO=4&transport=polling&sid={sid}"),
            400,
            r#"{"code":3,"message":"Bad request"}"#,
        ),
        (
            "GET",
            "EIO=3&transport=polling".into(),
            400,
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
        (
            "GET",
            "transport=polling".into(),
            400,
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
    ] {
        let answer = request(server.address, method, &format!("/socket.io/?{query}"), "", b"").await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{method} {query}");
    }
}

#[tokio::test]
async fn the_open_packet_tells_the_rules() {
    let server = Server::start().await;
    let answer = server.get("EIO=4&transport=polling&t=abc").await;
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8") && answer.head.contains("cache-control: no-store"));
    let open: serde_json::Value = serde_json::from_str(&answer.body[1..]).expect("JSON");
    let sid = sid_of(&answer.body);
    assert!(sid.starts_with("n1.") && sid.len() >= 23, "{sid}");
    let expect = serde_json::json!({"sid": sid, "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 20_000, "maxPayload": 1_000_000});
    assert_eq!(open, expect);
}

#[tokio::test]
async fn packets_of_one_post_are_answered_in_order() {
    let server = Server::start().await;
    let sid = server.joined("40").await;
    let post = "420[\"a\"]\u{1e}451-[\"b\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQIDBA==";
    assert_eq!(server.post(&sid, post).await.body, "ok");
    let expect = "42[\"a\"]\u{1e}430[]\u{1e}451-[\"b\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQIDBA==";
    assert_eq!(server.poll(&sid).await.body, expect);
}

#[tokio::test]
async fn a_second_get_ends_the_session() {
    let server = Server::start().await;
    let sid = server.open().await;
    let first = server.polling(&sid).await;
    assert_eq!(server.poll(&sid).await.status, 400);
    assert_eq!(first.await.expect("answered").body, "1");
    assert_eq!(server.poll(&sid).await.status, 400);
}

#[tokio::test]
async fn a_client_that_closes_gets_its_get_back() {
    let server = Server::start().await;
    let sid = server.open().await;
    let get = server.polling(&sid).await;
    assert_eq!(server.post(&sid, "1").await.body, "ok");
    assert_eq!(get.await.expect("answered").body, "6");
    assert_eq!(server.poll(&sid).await.status, 400);
    let sid = server.open().await;
    server.post(&sid, "1").await;
    assert_eq!(server.poll(&sid).await.body, "6", "a GET that was on its way");
    assert_eq!(server.poll(&sid).await.status, 400);
}

#[tokio::test]
async fn a_get_that_is_given_up_ends_the_session() {
    let server = Server::start().await;
    let sid = server.open().await;
    server.polling(&sid).await.abort();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.poll(&sid).await.status, 400);
    assert_eq!(server.gateway.socketio.len(), 0);
}

#[tokio::test]
async fn what_is_no_packet_ends_the_session() {
    let server = Server::start().await;
    for bad in ["abc", "", "2", "4abc", "42[\"not joined\"]", "4451-[\"connect\"]", "44{}"] {
        let sid = server.open().await;
        assert_eq!(server.post(&sid, bad).await.status, 400, "{bad}");
        assert_eq!(server.poll(&sid).await.body, "1", "{bad}");
        assert_eq!(server.poll(&sid).await.status, 400, "{bad}");
    }
    for bad in [
        "40",
        "45",
        "451-[\"a\",{\"_placeholder\":true,\"num\":1}]",
        "bAQIDBA==",
        "451-[\"a\"]\u{1e}42[\"b\"]",
    ] {
        let sid = server.joined("40").await;
        assert_eq!(server.post(&sid, bad).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_large_post_is_refused_and_the_session_lives() {
    let server = Server::with(|settings| settings.payload_bytes_max = 1_000).await;
    let sid = server.joined("40").await;
    assert_eq!(server.post(&sid, &"4".repeat(1_001)).await.status, 413);
    assert_eq!(server.post(&sid, "42[\"a\"]").await.body, "ok");
    assert_eq!(server.poll(&sid).await.body, "42[\"a\"]");
    let binary = "content-type: application/octet-stream\r\n";
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    assert_eq!(request(server.address, "POST", &path, binary, b"4a").await.status, 400);
    assert_eq!(server.poll(&sid).await.status, 400);
}

#[tokio::test]
async fn the_server_pings_and_waits_for_the_answer() {
    let settings = |settings: &mut haggle_gateway::SocketIoSettings| {
        settings.ping_interval = Duration::from_millis(300);
        settings.ping_timeout = Duration::from_millis(200);
    };
    let server = Server::with(settings).await;
    let sid = server.open().await;
    for _ in 0..3 {
        assert_eq!(server.poll(&sid).await.body, "2");
        assert_eq!(server.post(&sid, "3").await.body, "ok");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.poll(&sid).await.status, 400);
}

#[tokio::test]
async fn who_joins_nothing_must_go() {
    let server = Server::with(|settings| settings.connect_within = Duration::from_millis(200)).await;
    let sid = server.open().await;
    assert_eq!(server.poll(&sid).await.body, "1");
    let sid = server.joined("40").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(server.post(&sid, "42[\"a\"]").await.body, "ok");
}

#[tokio::test]
async fn sessions_are_bounded() {
    let server = Server::with(|settings| settings.sessions_max = 2).await;
    server.open().await;
    server.open().await;
    assert_eq!(server.get("EIO=4&transport=polling").await.status, 503);
}

#[tokio::test]
async fn pages_need_an_allowed_origin() {
    let server = Server::start().await;
    let ask = |method: &'static str, origin: &'static str, more: &'static str| {
        let headers = format!("origin: {origin}\r\n{more}");
        let address = server.address;
        async move { request(address, method, "/socket.io/?EIO=4&transport=polling", &headers, b"").await }
    };
    let preflight = "access-control-request-method: GET\r\naccess-control-request-headers: x-custom,authorization\r\n";
    let answer = ask("OPTIONS", "https://shop.example", preflight).await;
    assert_eq!(answer.status, 204);
    for line in [
        "access-control-allow-origin: https://shop.example",
        "access-control-allow-credentials: true",
        "access-control-allow-methods: get,head,put,patch,post,delete",
        "access-control-allow-headers: x-custom,authorization",
        "vary: ",
    ] {
        assert!(answer.head.contains(line), "{line}: {}", answer.head);
    }
    let answer = ask("GET", "https://shop.example", "").await;
    assert!(answer.status == 200 && answer.head.contains("access-control-allow-origin: https://shop.example"));
    for (method, more) in [("GET", ""), ("OPTIONS", preflight)] {
        let answer = ask(method, "https://evil.example", more).await;
        assert_eq!((answer.status, &*answer.body), (403, r#"{"code":4,"message":"Forbidden"}"#));
        assert!(!answer.head.contains("access-control-allow-origin") && answer.head.contains("auth.origins"));
    }
}

#[tokio::test]
async fn tokens_of_the_handshake() {
    let server = Server::with(|settings| settings.query_token = "token".into()).await;
    let query = format!("EIO=4&transport=polling&token={}", token("ann"));
    let by_query = sid_of(&server.get(&query).await.body);
    let header = format!("authorization: Bearer {}\r\n", token("ann"));
    let answer = request(server.address, "GET", "/socket.io/?EIO=4&transport=polling", &header, b"").await;
    for sid in [by_query, sid_of(&answer.body)] {
        server.post(&sid, "40/chat,").await;
        let answer = server.poll(&sid).await.body;
        assert!(answer.starts_with("40/chat,{\"sid\":"), "{answer}");
    }
}

#[tokio::test]
async fn the_path_is_configured_and_the_namespace_is_not_in_it() {
    let server = Server::with(|settings| {
        settings.path = "/live/".into();
        settings.namespace = "/rooms".into();
    })
    .await;
    let get = |path: &'static str| async move { request(server.address, "GET", path, "", b"").await.status };
    assert_eq!(get("/live/?EIO=4&transport=polling&t=Pxy&b64=1&shop=7").await, 200);
    assert_eq!(get("/live?EIO=4&transport=polling").await, 200);
    for other in [
        "/socket.io/?EIO=4&transport=polling",
        "/rooms?EIO=4&transport=polling",
        "/live/rooms?EIO=4&transport=polling",
    ] {
        assert_eq!(get(other).await, 404, "{other}");
    }
    let mut socket = server.upgrade_from("/live/", "EIO=4&transport=websocket", "").await.expect("upgraded");
    socket.text().await;
    socket.send("40/chat,").await;
    assert_eq!(socket.text().await, r#"44/chat,{"message":"Invalid namespace"}"#);
    socket.send(&format!(r#"40/rooms,{{"token":"{}"}}"#, token("ann"))).await;
    assert!(socket.text().await.starts_with("40/rooms,{\"sid\""));
}

#[tokio::test]
async fn what_is_wrong_first_is_said_first() {
    let server = Server::start().await;
    let sid = server.open().await;
    let bad_origin = "origin: https://caf\u{e9}.example\r\n";
    for (method, query, headers, code) in [
        ("POST", "EIO=3&transport=x&sid=no".to_owned(), bad_origin, 0),
        ("POST", "EIO=3&transport=polling&sid=no".into(), bad_origin, 3),
        ("POST", "EIO=3&transport=polling&sid=no".into(), "", 1),
        ("DELETE", "EIO=3&transport=websocket&sid=no".into(), "", 1),
        ("GET", format!("EIO=3&transport=websocket&sid={sid}"), "", 3),
        ("POST", "EIO=3&transport=websocket".into(), "", 2),
        ("GET", "EIO=3&transport=websocket".into(), "", 3),
        ("GET", "EIO=3&transport=polling".into(), "", 5),
    ] {
        let answer = request(server.address, method, &format!("/socket.io/?{query}"), headers, b"").await;
        assert_eq!(answer.status, 400, "{method} {query}");
        assert!(
            answer.body.starts_with(&format!("{{\"code\":{code},")),
            "{method} {query}: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn refusals_name_what_to_change() {
    let server = Server::start().await;
    for (query, headers, hint) in [
        ("EIO=3&transport=polling", "", "socket.io-client 3 or newer"),
        ("EIO=4&transport=polling", "origin: https://evil.example\r\n", "auth.origins"),
        ("EIO=4&transport=polling&sid=n2.other", "", "sticky"),
        ("EIO=4&transport=websocket", "", "upgrade"),
    ] {
        let answer = request(server.address, "GET", &format!("/socket.io/?{query}"), headers, b"").await;
        let line = answer.head.lines().find(|line| line.starts_with("x-haggle-hint: ")).unwrap_or_default();
        assert!(line.contains(hint), "{query}: {}", answer.head);
    }
}

fn has(answer: &Answer, line: &str) -> bool {
    answer.head.lines().any(|found| found == line)
}

#[tokio::test]
async fn answers_have_the_protocols_headers() {
    let server = Server::start().await;
    let sid = server.joined("40").await;
    let posted = server.post(&sid, "42[\"a\"]").await;
    assert!(
        (posted.status, &*posted.body) == (200, "ok") && has(&posted, "content-type: text/html"),
        "{posted:?}"
    );
    let polled = server.poll(&sid).await;
    for line in ["content-type: text/plain; charset=utf-8", "cache-control: no-store", "content-length: 7"] {
        assert!(has(&polled, line), "{line}: {polled:?}");
    }
}

#[tokio::test]
async fn a_second_post_ends_the_session() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start().await;
    let sid = server.joined("40").await;
    let mut slow = tokio::net::TcpStream::connect(server.address).await.expect("the server listens");
    let head = format!("POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n42[");
    slow.write_all(head.as_bytes()).await.expect("the server reads");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.post(&sid, "42[\"b\"]").await.status, 400);
    assert_eq!(server.poll(&sid).await.body, "1");
    assert_eq!(server.poll(&sid).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_beside_the_post_that_closes_is_always_answered() {
    let server = Server::start().await;
    for round in 0..50 {
        let sid = server.open().await;
        let (got, posted) = tokio::join!(server.poll(&sid), server.post(&sid, "1"));
        assert_eq!((got.status, &*got.body, &*posted.body), (200, "6", "ok"), "round {round}");
    }
}

#[tokio::test]
async fn only_a_pong_is_a_sign_of_life() {
    let server = Server::with(|settings| {
        settings.ping_interval = Duration::from_millis(200);
        settings.ping_timeout = Duration::from_millis(1_000);
    })
    .await;
    let sid = server.joined("40").await;
    assert_eq!(server.poll(&sid).await.body, "2");
    for n in 0..3 {
        let posted = server.post(&sid, "42[\"alive\"]").await.status;
        assert!(posted == 200 || n > 0, "not yet");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(server.post(&sid, "42[\"alive\"]").await.status, 400);
}

#[tokio::test]
async fn the_deadline_of_a_ping_is_seen_by_whatever_comes() {
    let server = Server::with(|settings| {
        settings.ping_interval = Duration::from_millis(300);
        settings.ping_timeout = Duration::from_millis(200);
    })
    .await;
    let sid = server.open().await;
    // No timer runs meanwhile: this is the only thread.
    std::thread::sleep(Duration::from_millis(501));
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    assert_eq!(server.upgrade(&query).await.err().map(|answer| answer.status), Some(400));
    assert_eq!(server.poll(&sid).await.status, 400);
}

#[tokio::test]
async fn nothing_is_left_of_clients_that_vanish() {
    let server = Server::with(|settings| {
        settings.ping_interval = Duration::from_millis(500);
        settings.ping_timeout = Duration::from_millis(500);
    })
    .await;
    let token = token("ann");
    for connect in [String::from("40"), format!(r#"40/chat,{{"token":"{token}"}}"#)] {
        let sid = server.open().await;
        server.post(&sid, &connect).await;
    }
    let hub = server.gateway.engine.hub();
    assert!(hub.online(&"ann".into()));
    assert!(server.gateway.socketio.drained(PATIENCE).await, "sessions end without a request");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!hub.online(&"ann".into()));
}

#[tokio::test]
async fn what_waits_for_a_client_that_does_not_poll_is_bounded() {
    for (bytes_max, packets_max) in [(16 * 1024, 8192), (1024 * 1024, 16)] {
        let server = Server::with(|settings| {
            (settings.outbox_bytes_max, settings.outbox_packets_max) = (bytes_max, packets_max);
        })
        .await;
        let conversation = server.direct("ann", "bob").await;
        let sid = server.joined(&format!(r#"40/chat,{{"token":"{}"}}"#, token("bob"))).await;
        for _ in 0..40 {
            server.say("ann", conversation, &"x".repeat(1_000)).await;
        }
        assert_eq!(server.poll(&sid).await.body, "1", "the client is told to come back");
        assert_eq!(server.poll(&sid).await.status, 400);
    }
}

#[tokio::test]
async fn the_ids_of_session_and_namespace_differ() {
    let server = Server::start().await;
    let sid = server.open().await;
    server.post(&sid, "40\u{1e}40/echo,").await;
    let payload = server.poll(&sid).await.body;
    let ids: Vec<serde_json::Value> = payload
        .split('\u{1e}')
        .map(|packet| serde_json::from_str(packet.trim_start_matches("40").trim_start_matches("/echo,")).expect("JSON"))
        .collect();
    assert!(
        ids[0]["sid"] != ids[1]["sid"] && ids.iter().all(|id| id["sid"] != json!(sid)),
        "{payload}"
    );
    assert!(!payload.contains("pid"), "nothing is recovered unless it is configured");
}

#[tokio::test]
async fn errors_can_be_read_by_allowed_pages() {
    let server = Server::start().await;
    let origin = "origin: https://shop.example\r\n";
    for query in ["EIO=4&transport=polling&sid=no", "EIO=3&transport=polling", "transport=x"] {
        let answer = request(server.address, "GET", &format!("/socket.io/?{query}"), origin, b"").await;
        assert_eq!(answer.status, 400);
        for line in [
            "access-control-allow-origin: https://shop.example",
            "access-control-allow-credentials: true",
            "vary: origin",
        ] {
            assert!(has(&answer, line), "{query} {line}: {}", answer.head);
        }
    }
}
