//! Who does not read hurts only itself: its queue is bounded, it is told what it missed, or closed.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpSocket;

use crate::{
    client::{Client, HANDSHAKE, frame},
    server::{Server, token},
};

const LARGE: usize = 16 * 1024;

/// A member whose system takes little before the server has to wait.
async fn member_with_a_small_window(server: &Server, user: &str, c: &str) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 * 1024).expect("a small buffer");
    let stream = socket.connect(server.address).await.expect("the server listens");
    let mut request = String::from("GET /v1/ws HTTP/1.1\r\nHost: localhost\r\n");
    HANDSHAKE.iter().for_each(|line| request.extend([line, "\r\n"]));
    let mut client = Client::over(stream, &format!("{request}\r\n")).await;
    client
        .raw(&frame(0x81, json!({"t": "auth", "id": 1, "token": token(user)}).to_string().as_bytes()))
        .await;
    client.until(|frame| frame["t"] == "heads").await;
    client
        .raw(&frame(0x81, json!({"t": "sub", "id": 2, "c": c}).to_string().as_bytes()))
        .await;
    client.until(|frame| frame["id"] == 2).await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_closed_and_others_notice_nothing() {
    let server = Server::with(|ws| ws.stall_max = Duration::from_secs(1)).await;
    let group = server.group("ann", &["bob", "cid"]).await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    bob.request(json!({"t": "sub", "c": group.to_string()})).await;
    let cid = member_with_a_small_window(&server, "cid", &group.to_string()).await;
    let reading = tokio::spawn(async move {
        let mut expect = 5; // created and four joined or so: whatever comes first
        let first = bob.until(|frame| frame["t"] == "ev").await["s"].as_u64().unwrap();
        expect = first.max(expect - 4);
        for _ in 0..399 {
            expect += 1;
            assert_eq!(bob.until(|frame| frame["t"] == "ev").await["s"], expect);
        }
    });
    let text = "x".repeat(LARGE / 2);
    for _ in 0..400 {
        server.say("ann", group, &text).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    reading.await.expect("the other member got all in order");
    let start = Instant::now();
    while server.gateway.engine.hub().online(&"cid".into()) {
        assert!(start.elapsed() < Duration::from_secs(8), "it is closed in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let start = Instant::now();
    while !server.gateway.connections.is_empty() && start.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.gateway.connections.len(), 0, "bob is gone with his task, cid was closed");
    drop(cid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pauses_is_told_what_it_missed() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await;
    let mut bob = member_with_a_small_window(&server, "bob", &c.to_string()).await;
    let text = "x".repeat(LARGE / 2);
    for _ in 0..800 {
        server.say("ann", c, &text).await;
    }
    let mut last = 3;
    let mut gaps = 0;
    while last < 803 {
        let frame = bob.until(|frame| frame["t"] == "ev" || frame["t"] == "gap").await;
        if frame["t"] == "gap" {
            assert_eq!((&frame["from"], &frame["c"]), (&json!(last + 1), &json!(c.to_string())));
            last = frame["head"].as_u64().unwrap();
            gaps += 1;
        } else {
            assert_eq!(frame["s"], last + 1);
            last += 1;
        }
    }
    assert!(gaps >= 1, "6 MiB do not fit into 256 KiB");
    server.say("ann", c, "live again").await;
    assert_eq!(bob.until(|frame| frame["t"] == "ev").await["s"], 804);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_replay_goes_at_the_pace_of_its_reader() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await;
    let text = "x".repeat(LARGE / 2);
    for _ in 0..450 {
        server.say("ann", c, &text).await;
    }
    let mut bob = member_with_a_small_window(&server, "bob", &c.to_string()).await;
    bob.raw(&frame(
        0x81,
        json!({"t": "sub", "id": 3, "c": c.to_string(), "since": 3}).to_string().as_bytes(),
    ))
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for expect in 4..=453 {
        assert_eq!(bob.until(|frame| frame["t"] == "ev" || frame["t"] == "gap").await["s"], expect);
    }
}

/// Requests without end and no reading: the server stops reading, and closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_nobody_reads_stop_the_reading() {
    let server = Server::with(|ws| ws.stall_max = Duration::from_secs(1)).await;
    let c = server.direct("ann", "bob").await;
    let mut bob = member_with_a_small_window(&server, "bob", &c.to_string()).await;
    let ping = frame(0x81, format!(r#"{{"t":"ping","id":"{}"}}"#, "i".repeat(60)).as_bytes()).repeat(100);
    let flood = async {
        loop {
            bob.raw(&ping).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), flood).await.is_err());
    let start = Instant::now();
    while !server.gateway.connections.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(8), "it is closed in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut ends = Vec::new();
    server.gateway.engine.hub().everyone(|connection| ends.push(connection.id().to_string()));
    assert_eq!(ends, Vec::<String>::new(), "nothing is left in the hub");
}
