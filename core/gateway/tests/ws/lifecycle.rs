//! Login, its end, heartbeats, drain.

use std::time::{Duration, Instant};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use haggle_gateway::{AuthConfig, Jwks};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    client::{Client, Got, HANDSHAKE},
    server::{Server, token, token_for},
};

#[tokio::test]
async fn a_login_tells_who_one_is() {
    let server = Server::start().await;
    let mut ann = Client::connect(server.address).await;
    let err = ann.request(json!({"t": "sub", "c": "0123456789abcdef00000000"})).await;
    assert_eq!((&err["e"]["code"], &err["e"]["retry"]), (&json!("unauthenticated"), &json!(false)));
    let ok = ann.request(json!({"t": "auth", "token": token("ann"), "caps": ["batch"]})).await;
    assert_eq!(ok["d"]["user"], "ann");
    assert!(ok["d"]["conn"].as_str().unwrap().starts_with("ws-") && ok["d"]["exp"].as_i64().unwrap() > 0);
    assert_eq!(ok["d"]["me"]["c"].as_str().unwrap().len(), 24);
    assert_eq!(
        ann.until(|frame| frame["t"] == "heads").await,
        json!({"t": "heads", "d": [], "next": null})
    );
    assert!(server.gateway.engine.hub().online(&"ann".into()));
    drop(ann);
    assert!(server.gateway.connections.drained(Duration::from_secs(5)).await);
    assert!(!server.gateway.engine.hub().online(&"ann".into()));
}

#[tokio::test]
async fn the_token_may_stand_in_the_head() {
    let server = Server::start().await;
    let line = format!("Authorization: Bearer {}", token("ann"));
    let (mut ann, answered) = Client::handshake(server.address, "GET", &[&HANDSHAKE[..], &[&line]].concat()).await;
    assert_eq!(answered.status, 101);
    assert_eq!(ann.json().await["t"], "hello");
    assert_eq!(ann.until(|frame| frame["t"] == "ok").await["d"]["user"], "ann");
}

/// A key, its set as an identity provider serves it (at the URL, once), and a token signed by it.
async fn provider() -> (String, String) {
    let pair = Ed25519KeyPair::generate().expect("generates");
    let private: Pkcs8V1Der<'_> = pair.as_der().expect("encodes");
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "use": "sig", "x": x}]}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("somebody asks");
        let _ = stream.read(&mut [0; 2048]).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", keys.len());
        let _ = stream.write_all(format!("{head}{keys}").as_bytes()).await;
    });
    let header = jsonwebtoken::Header {
        kid: Some("one".into()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA)
    };
    let claims = json!({"sub": "ann", "exp": jsonwebtoken::get_current_timestamp() + 600});
    let key = jsonwebtoken::EncodingKey::from_ed_der(private.as_ref());
    (url, jsonwebtoken::encode(&header, &claims, &key).expect("signs"))
}

#[tokio::test]
async fn keys_are_fetched_for_a_token_in_the_head() {
    let (url, token) = provider().await;
    let by_url = AuthConfig {
        jwks: Some(Jwks::Url(url)),
        ..AuthConfig::default()
    };
    let server = Server::believing(by_url, |_| {}).await;
    let line = format!("Authorization: Bearer {token}");
    let (mut ann, answered) = Client::handshake(server.address, "GET", &[&HANDSHAKE[..], &[&line]].concat()).await;
    assert_eq!(answered.status, 101, "the first one to come with this key");
    assert_eq!(ann.until(|frame| frame["t"] == "ok").await["d"]["user"], "ann");
}

#[tokio::test]
async fn who_does_not_log_in_is_closed() {
    let server = Server::with(|ws| ws.auth_within = Duration::from_millis(300)).await;
    let mut nobody = Client::connect(server.address).await;
    assert_eq!(nobody.closed().await, (Some(4501), "not authenticated in time".into()));

    let mut guesser = Client::connect(server.address).await;
    for _ in 0..3 {
        let answer = guesser.request(json!({"t": "auth", "token": "a.b.c"})).await;
        assert_eq!(
            (&answer["e"]["code"], &answer["e"]["msg"]),
            (&json!("unauthenticated"), &json!("Invalid token"))
        );
    }
    assert_eq!(guesser.closed().await.0, Some(4501));

    let mut alone = Client::connect(server.address).await;
    alone
        .send(json!([{"t": "auth", "id": 1, "token": token("ann")}, {"t": "ping", "id": 2}]))
        .await;
    assert_eq!(alone.until(|frame| frame["id"] == 1).await["e"]["code"], "bad_request");
}

#[tokio::test]
async fn an_ended_token_ends_the_connection_unless_renewed() {
    let server = Server::start().await;
    let short = token_for("ann", Duration::from_secs(2));
    let mut renewed = Client::login(server.address, &short).await;
    let mut forgotten = Client::login(server.address, &short).await;
    let start = Instant::now();
    for client in [&mut renewed, &mut forgotten] {
        let told = client.until(|frame| frame["t"] == "err").await;
        assert_eq!((&told["e"]["code"], told.get("id")), (&json!("token_expired"), None));
        assert_eq!(
            client.request(json!({"t": "send", "to": "bob", "d": {"content": "x"}})).await["e"]["code"],
            "token_expired"
        );
    }
    assert_eq!(renewed.request(json!({"t": "auth", "token": token("ann")})).await["t"], "ok");
    assert_eq!(forgotten.closed().await.0, Some(4501));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(renewed.request(json!({"t": "send", "to": "bob", "d": {"content": "x"}})).await["t"], "ok");
    let other = renewed.request(json!({"t": "auth", "token": token("eve")})).await;
    assert_eq!(other["e"]["code"], "forbidden");
    assert_eq!(renewed.closed().await.0, Some(4503), "a connection stays one user's");
}

#[tokio::test]
async fn a_user_has_a_number_of_connections() {
    let server = Server::with(|ws| ws.connections_per_user_max = 2).await;
    let first = Client::login(server.address, &token("ann")).await;
    let _second = Client::login(server.address, &token("ann")).await;
    let mut third = Client::connect(server.address).await;
    assert_eq!(
        third.request(json!({"t": "auth", "token": token("ann")})).await["e"]["code"],
        "rate_limited"
    );
    assert_eq!(third.closed().await.0, Some(4029));
    drop((first, third));
    while server.gateway.connections.len() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Client::login(server.address, &token("ann")).await;
}

#[tokio::test]
async fn heartbeats_go_both_ways() {
    let server = Server::with(|ws| ws.heartbeat = Duration::from_millis(500)).await;
    let mut alive = Client::login(server.address, &token("ann")).await;
    let mut silent = Client::login(server.address, &token("bob")).await;
    let start = Instant::now();
    let mut beats = 0;
    while start.elapsed() < Duration::from_secs(3) {
        alive.until(|frame| *frame == json!({})).await;
        alive.text("{}").await;
        beats += 1;
    }
    assert!(beats >= 3, "{beats}");
    assert_eq!(silent.closed().await, (Some(4009), "heartbeat lost".into()));
    assert_eq!(alive.request(json!({"t": "ping"})).await["t"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_goodbye_after_the_last_answer() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await.to_string();
    let mut clients = Vec::new();
    for user in ["ann", "bob"] {
        clients.push(Client::login(server.address, &token(user)).await);
    }
    let fresh = Client::connect(server.address).await;
    clients[0]
        .send(json!({"t": "send", "id": 77, "c": c, "d": {"content": "last words"}}))
        .await;
    clients[0].until(|frame| frame["id"] == 77).await;
    server.gateway.connections.drain();
    for client in &mut clients {
        let bye = client.until(|frame| frame["t"] == "bye").await;
        assert_eq!(bye, json!({"t": "bye", "code": 4001, "reason": "drain", "after": [500, 5000]}));
        assert_eq!(client.closed().await, (Some(4001), "drain".into()));
        assert_eq!(client.next().await, Got::End);
    }
    drop(fresh);
    assert!(server.gateway.connections.drained(Duration::from_secs(5)).await);
    let (_, answered) = Client::handshake(server.address, "GET", &HANDSHAKE).await;
    assert_eq!(answered.status, 503);
    assert!(answered.head.to_ascii_lowercase().contains("retry-after:"), "{}", answered.head);
}

#[tokio::test]
async fn others_may_close_a_connection() {
    let server = Server::start().await;
    let mut ann = Client::login(server.address, &token("ann")).await;
    server.gateway.engine.hub().each(&"ann".into(), |connection| connection.close("revoked"));
    assert_eq!(ann.closed().await, (Some(4501), "revoked".into()));
}
