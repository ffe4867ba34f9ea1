//! WebSockets from the start, and taking over from polling.

use std::time::Duration;

use crate::client::{Got, Server};

#[tokio::test]
async fn a_websocket_from_the_start() {
    let server = Server::start().await;
    let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
    let open = socket.text().await;
    assert!(open.contains("\"upgrades\":[]"), "{open}");
    socket.send("40/echo,").await;
    assert!(socket.text().await.starts_with("40/echo,{\"sid\":"));
    socket
        .send("452-/echo,7[\"b\",{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]")
        .await;
    socket.send_binary(&[1, 30, 255]).await;
    socket.send_binary(&vec![7; 70_000]).await;
    for head in ["452-/echo,[\"b\",", "462-/echo,7["] {
        let text = socket.text().await;
        assert!(text.starts_with(head), "{text}");
        assert_eq!(socket.next().await, Got::Binary(vec![1, 30, 255]));
        assert_eq!(socket.next().await, Got::Binary(vec![7; 70_000]));
    }
    socket.send("42/echo,[\"ask\",1]").await;
    assert_eq!(socket.text().await, "42/echo,0[\"question\",1]");
    socket.send("43/echo,9[1]").await;
    socket.send("43/echo,0[2]").await;
    assert_eq!(socket.text().await, "42/echo,[\"answered\",2]", "an ack of nothing is ignored");
    socket.send("41/echo,").await;
    socket.send("40/echo,").await;
    assert!(socket.text().await.starts_with("40/echo,{"), "left and joined again");
}

#[tokio::test]
async fn refused_upgrades_say_why() {
    let server = Server::start().await;
    let refused = |query: &'static str| async { server.upgrade(query).await.err().map(|answer| (answer.status, answer.body)) };
    assert_eq!(
        refused("EIO=3&transport=websocket").await,
        Some((400, "Unsupported protocol version".into()))
    );
    assert_eq!(
        refused("EIO=4&transport=websocket&sid=n1.x").await,
        Some((400, "Session ID unknown".into()))
    );
    assert_eq!(refused("EIO=4&transport=polling").await, Some((400, "Bad request".into())));
}

#[tokio::test]
async fn polling_becomes_a_websocket() {
    let server = Server::start().await;
    let sid = server.joined("40").await;
    let get = server.polling(&sid).await;
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let mut socket = server.upgrade(&query).await.expect("upgraded");
    socket.send("2probe").await;
    assert_eq!(socket.text().await, "3probe");
    assert_eq!(get.await.expect("answered").body, "6", "so that the client can stop polling");
    assert_eq!(server.post(&sid, "42[\"before\"]").await.body, "ok");
    socket.send("5").await;
    socket.send("42[\"after\"]").await;
    assert_eq!(socket.text().await, "42[\"before\"]");
    assert_eq!(socket.text().await, "42[\"after\"]");
    assert_eq!(server.poll(&sid).await.status, 400);
    assert_eq!(server.post(&sid, "42[\"x\"]").await.status, 400);
    let mut second = server.upgrade(&query).await.expect("let in");
    second.is_closed().await;
    socket.send("42[\"still\"]").await;
    assert_eq!(socket.text().await, "42[\"still\"]");
}

#[tokio::test]
async fn an_upgrade_that_comes_to_nothing_leaves_polling() {
    let server = Server::with(|settings| settings.upgrade_within = Duration::from_millis(300)).await;
    let sid = server.joined("40").await;
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    for first in ["", "4x", "2probe"] {
        let mut socket = server.upgrade(&query).await.expect("upgraded");
        if !first.is_empty() {
            socket.send(first).await;
        }
        socket.is_closed().await;
        server.post(&sid, "42[\"a\"]").await;
        assert_eq!(server.poll(&sid).await.body, "42[\"a\"]", "{first}");
    }
}

#[tokio::test]
async fn the_server_ends_what_is_not_allowed() {
    let server = Server::start().await;
    for bad in ["abc", "2", "42[\"not joined\"]", "40{}x", "44{}"] {
        let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
        socket.send(bad).await;
        socket.is_closed().await;
    }
    let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
    socket.send_binary(b"nobody asked").await;
    socket.is_closed().await;
    assert!(server.gateway.socketio.drained(Duration::from_secs(5)).await, "nothing is kept");
}

#[tokio::test]
async fn who_does_not_read_is_disconnected() {
    let server = Server::with(|settings| settings.outbox_bytes_max = 64 * 1024).await;
    let conversation = server.direct("ann", "bob").await;
    let mut slow = server.chat("bob").await;
    let mut other = server.chat("bob").await;
    let text = "x".repeat(10_000);
    for _ in 0..400 {
        server.say("ann", conversation, &text).await;
        other.event("conversation_updated").await;
    }
    assert!(server.gateway.engine.hub().online(&"bob".into()));
    slow.is_closed().await;
}

#[tokio::test]
async fn a_drain_ends_every_session() {
    let server = Server::start().await;
    let mut socket = server.chat("ann").await;
    let sid = server.open().await;
    let get = server.polling(&sid).await;
    server.gateway.socketio.drain();
    socket.is_closed().await;
    assert_eq!(get.await.expect("answered").body, "1");
    assert_eq!(server.get("EIO=4&transport=polling").await.status, 503);
}
