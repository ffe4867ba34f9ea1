//! What breaks RFC 6455 is closed with the right code, whoever sends it.

use std::time::Duration;

use crate::{
    client::{Client, Got, HANDSHAKE, frame},
    server::{Server, token},
};

#[tokio::test]
async fn each_violation_is_closed_with_its_code() {
    let server = Server::start().await;
    let mut unmasked = frame(0x81, b"{}");
    unmasked[1] &= 0x7f;
    let snowman = "☃".as_bytes();
    let table: Vec<(&str, u16, Vec<u8>)> = vec![
        ("unmasked", 1002, unmasked),
        ("reserved bit", 1002, frame(0xc1, b"{}")),
        ("bad opcode", 1002, frame(0x83, b"")),
        ("length of 2^63", 1002, vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("control frame of 126", 1002, frame(0x89, &[0; 126])),
        ("binary", 1003, frame(0x82, b"{}")),
        ("split UTF-8", 1007, [frame(0x01, &snowman[..1]), frame(0x80, &snowman[1..2])].concat()),
        ("16 KiB + 1 before auth", 1009, frame(0x81, &[b' '; 16 * 1024 + 1])),
        (
            "fragments of 16 KiB + 1",
            1009,
            [frame(0x01, &[b' '; 16 * 1024]), frame(0x00, b" ")].concat(),
        ),
        ("endless fragments", 1009, (0..1_100).flat_map(|n| frame(u8::from(n == 0), b"")).collect()),
        ("close with a bad code", 1002, frame(0x88, &1005u16.to_be_bytes())),
    ];
    for (name, code, bytes) in table {
        let mut client = Client::connect(server.address).await;
        client.raw(&bytes).await;
        assert_eq!(client.closed().await.0, Some(code), "{name}");
        assert_eq!(client.next().await, Got::End, "{name}: one close frame, then the end");
    }
    assert!(server.gateway.connections.drained(Duration::from_secs(5)).await, "all are gone");
}

#[tokio::test]
async fn a_close_is_echoed_once() {
    let server = Server::start().await;
    for (payload, code) in [
        (vec![], None),
        (vec![0x03, 0xe8, b'o', b'k'], Some(1000)),
        (4321u16.to_be_bytes().to_vec(), Some(4321)),
    ] {
        let mut client = Client::login(server.address, &token("ann")).await;
        client.raw(&frame(0x88, &payload)).await;
        assert_eq!(client.closed().await.0, code);
        assert_eq!(client.next().await, Got::End);
    }
}

#[tokio::test]
async fn a_frame_may_arrive_byte_by_byte() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let bytes = [
        frame(0x01, br#"{"t":"pi"#),
        frame(0x89, b"between"),
        frame(0x80, "ng\",\"id\":\"ü\"}".as_bytes()),
    ]
    .concat();
    for byte in bytes {
        client.raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let both = [client.next().await, client.next().await];
    assert!(both.contains(&Got::Pong(b"between".to_vec())), "{both:?}");
    assert!(both.contains(&Got::Json(serde_json::json!({"t": "ok", "id": "ü"}))), "{both:?}");
}

#[tokio::test]
async fn frames_right_behind_the_handshake_are_not_lost() {
    let server = Server::start().await;
    let mut request = String::from("GET /v1/ws HTTP/1.1\r\nHost: localhost\r\n");
    HANDSHAKE.iter().for_each(|line| request.extend([line, "\r\n"]));
    request.push_str("\r\n");
    let auth = serde_json::json!({"t": "auth", "id": 1, "token": token("ann")}).to_string();
    let bytes = [request.as_bytes(), &frame(0x81, auth.as_bytes()), &frame(0x81, br#"{"t":"ping","id":2}"#)].concat();
    let mut client = Client::raw_stream(server.address, &bytes).await;
    assert_eq!(client.until(|frame| frame["id"] == 1).await["d"]["user"], "ann");
    client.until(|frame| frame["id"] == 2).await;
}

#[tokio::test]
async fn a_ping_flood_costs_little_and_ends() {
    let server = Server::with(|ws| (ws.frames_per_second, ws.frames_burst) = (50, 50)).await;
    let mut client = Client::connect(server.address).await;
    client.raw(&frame(0x89, &[7; 125]).repeat(1_000)).await;
    assert_eq!(client.closed().await.0, Some(4029));
}

#[tokio::test]
async fn handshakes_that_are_refused() {
    let server = Server::start().await;
    let without = |name: &str| HANDSHAKE.into_iter().filter(|line| !line.starts_with(name)).collect::<Vec<_>>();
    let with = |line: &'static str| [&HANDSHAKE[..], &[line]].concat();
    let table: Vec<(&str, &str, Vec<&str>, u16)> = vec![
        ("POST", "POST", HANDSHAKE.to_vec(), 405),
        ("no upgrade", "GET", without("Upgrade"), 426),
        ("no version", "GET", without("Sec-WebSocket-Version"), 426),
        ("no key", "GET", without("Sec-WebSocket-Key"), 400),
        (
            "another subprotocol",
            "GET",
            [&without("Sec-WebSocket-Protocol")[..], &["Sec-WebSocket-Protocol: mqtt"]].concat(),
            400,
        ),
        ("a strange page", "GET", with("Origin: https://evil.example"), 403),
        ("a bad token", "GET", with("Authorization: Bearer a.b.c"), 401),
        ("a good page", "GET", with("Origin: https://shop.example"), 101),
        ("no subprotocol", "GET", without("Sec-WebSocket-Protocol"), 101),
    ];
    for (name, method, lines, status) in table {
        let (_, answered) = Client::handshake(server.address, method, &lines).await;
        assert_eq!(answered.status, status, "{name}: {}", answered.head);
    }
    let (_, answered) = Client::handshake(server.address, "GET", &HANDSHAKE).await;
    let head = answered.head.to_ascii_lowercase();
    assert!(head.contains("sec-websocket-protocol: msg.v1.json\r\n"), "{head}");
    assert!(
        answered.head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "the RFC's example: {}",
        answered.head
    );
}
