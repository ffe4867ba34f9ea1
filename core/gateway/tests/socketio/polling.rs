//! Handshakes, errors and long polling.

use std::time::Duration;

use crate::client::{Server, request, sid_of, token};

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
