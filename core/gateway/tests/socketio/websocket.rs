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

#[tokio::test]
async fn a_websocket_is_pinged_too() {
    let server = Server::with(|settings| {
        settings.ping_interval = Duration::from_millis(200);
        settings.ping_timeout = Duration::from_millis(1_000);
    })
    .await;
    let (mut good, mut silent) = (server.echo().await, server.echo().await);
    for _ in 0..4 {
        assert_eq!(good.text().await, "2");
        good.send("3").await;
    }
    silent.is_closed().await;
    good.send("42[\"still here\"]").await;
    while good.text().await != "42[\"still here\"]" {}
}

#[tokio::test]
async fn one_upgrade_at_a_time_is_tried() {
    let server = Server::start().await;
    let sid = server.joined("40").await;
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let mut first = server.upgrade(&query).await.expect("upgraded");
    first.send("2probe").await;
    assert_eq!(first.text().await, "3probe");
    let mut second = server.upgrade(&query).await.expect("let in");
    second.is_closed().await;
    assert_eq!(server.poll(&sid).await.body, "6", "a GET that comes while it is tried does not wait");
    server.post(&sid, "42[\"a\"]").await;
    assert_eq!(server.poll(&sid).await.body, "42[\"a\"]", "or takes what waits");
    first.send("5").await;
    first.send("42[\"b\"]").await;
    assert_eq!(first.text().await, "42[\"b\"]");
}

#[tokio::test]
async fn a_ping_during_an_upgrade_goes_by_either_way() {
    let server = Server::with(|settings| {
        settings.ping_interval = Duration::from_millis(300);
        settings.ping_timeout = Duration::from_millis(2_000);
    })
    .await;
    let sid = server.joined("40").await;
    let mut socket = server.upgrade(&format!("EIO=4&transport=websocket&sid={sid}")).await.expect("upgraded");
    socket.send("2probe").await;
    assert_eq!(socket.text().await, "3probe");
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(server.poll(&sid).await.body, "2");
    assert_eq!(server.post(&sid, "3").await.body, "ok");
    socket.send("5").await;
    assert_eq!(socket.text().await, "2");
    socket.send("3").await;
    assert_eq!(socket.text().await, "2", "and on by the new way");
}

#[tokio::test]
async fn upgrades_that_never_end_leave_nothing() {
    let server = Server::with(|settings| {
        settings.upgrade_within = Duration::from_millis(200);
        settings.ping_interval = Duration::from_millis(1_000);
        settings.ping_timeout = Duration::from_millis(1_000);
    })
    .await;
    let mut sockets = Vec::new();
    for probe in [false, true] {
        let sid = server.joined("40").await;
        let mut socket = server.upgrade(&format!("EIO=4&transport=websocket&sid={sid}")).await.expect("upgraded");
        if probe {
            socket.send("2probe").await;
        }
        sockets.push(socket);
    }
    for socket in &mut sockets {
        socket.is_closed().await;
    }
    assert!(server.gateway.socketio.drained(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn acks_are_given_once_and_only_when_asked_for() {
    let server = Server::start().await;
    let mut socket = server.echo().await;
    for text in ["42[\"a\",1]", "420[\"b\"]", "427[\"c\",{}]", "42[\"d\"]"] {
        socket.send(text).await;
    }
    let mut all = Vec::new();
    while all.last().is_none_or(|text| text != "42[\"d\"]") {
        all.push(socket.text().await);
    }
    assert_eq!(all, ["42[\"a\",1]", "42[\"b\"]", "430[]", "42[\"c\",{}]", "437[{}]", "42[\"d\"]"]);
    // Answers to what nobody asked.
    let mut chat = server.chat("ann").await;
    chat.send("43/chat,5[\"x\"]").await;
    chat.send("461-/chat,6[{\"_placeholder\":true,\"num\":0}]").await;
    chat.send_binary(&[1]).await;
    assert_eq!(chat.ask(0, "user_online", serde_json::json!({"isOnline": true})).await["success"], true);
}

#[tokio::test]
async fn who_leaves_a_namespace_is_no_longer_in_it() {
    let server = Server::start().await;
    let mut socket = server.echo().await;
    socket.send("40/echo,").await;
    assert!(socket.text().await.starts_with("40/echo,"));
    socket.send("41/echo,").await;
    socket.send("42[\"the other one stays\"]").await;
    assert_eq!(socket.text().await, "42[\"the other one stays\"]");
    socket.send("42/echo,[\"a\"]").await;
    socket.is_closed().await;

    let mut chat = server.chat("ann").await;
    chat.send("41/chat,").await;
    let hub = server.gateway.engine.hub();
    for _ in 0..100 {
        if !hub.online(&"ann".into()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!hub.online(&"ann".into()));
    chat.send(&format!(r#"40/chat,{{"token":"{}"}}"#, crate::client::token("ann"))).await;
    assert!(chat.text().await.starts_with("40/chat,{"), "and may join again");
}

#[tokio::test]
async fn binary_parts_come_right_behind_their_packet() {
    let server = Server::start().await;
    let announced = "451-[\"a\",{\"_placeholder\":true,\"num\":0}]";
    for (texts, closed) in [(vec![announced, "42[\"b\"]"], true), (vec![announced, "3"], false)] {
        let mut socket = server.echo().await;
        for text in &texts {
            socket.send(text).await;
        }
        socket.send_binary(&[1, 2]).await;
        if closed {
            socket.is_closed().await;
        } else {
            assert_eq!(socket.text().await, announced, "a pong is another layer's");
        }
    }
    let mut socket = server.echo().await;
    socket.send("4511-[\"a\"]").await;
    socket.is_closed().await;
}

#[tokio::test]
async fn pages_need_an_allowed_origin_for_websockets_too() {
    let server = Server::start().await;
    let open = |origin: &'static str, query: String| {
        let server = &server;
        async move { server.upgrade_from("/socket.io/", &query, &format!("origin: {origin}\r\n")).await }
    };
    let fresh = "EIO=4&transport=websocket".to_owned();
    assert!(open("https://shop.example", fresh.clone()).await.is_ok());
    let refused = open("https://evil.example", fresh).await.err().expect("refused");
    assert_eq!((refused.status, &*refused.body), (403, "Forbidden"));
    let sid = server.joined("40").await;
    let upgrade = format!("EIO=4&transport=websocket&sid={sid}");
    assert_eq!(
        open("https://evil.example", upgrade.clone()).await.err().map(|refused| refused.status),
        Some(403)
    );
    assert!(open("https://shop.example", upgrade).await.is_ok());
}
