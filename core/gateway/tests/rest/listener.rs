//! The real listener: keep-alive, slow and oversized heads, the bound on connections, the drain.

use std::{net::SocketAddr, time::Duration};

use haggle_gateway::{
    HttpSettings,
    http::{App, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::support::{Api, generous, token};

async fn listen(change: impl FnOnce(&mut HttpSettings)) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let api = Api::with(std::sync::Arc::new(haggle_engine::ports::NoPlugins), generous(), |settings| {
        change(&mut settings.http)
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(listener, App::new(api.gateway.clone()), stop.clone()));
    (address, stop, task)
}

/// What comes back within two seconds: until the text is there, or the connection ends.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(text) {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(n) => seen.extend_from_slice(&chunk[..n]),
            }
        }
    };
    let _ = timeout(Duration::from_secs(2), reading).await;
    String::from_utf8_lossy(&seen).into_owned()
}

fn me() -> String {
    format!("GET /api/users/me HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", token("ann"))
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let (address, _stop, _task) = listen(|_| {}).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    for _ in 0..3 {
        stream.write_all(me().as_bytes()).await.expect("writes");
        let answer = read_until(&mut stream, "\"updatedAt\"").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn heads_are_bounded_in_time_and_size() {
    let (address, _stop, _task) = listen(|http| {
        http.header_read_timeout = Duration::from_millis(100);
        http.headers_max = 8;
    })
    .await;
    let mut slow = TcpStream::connect(address).await.expect("connects");
    slow.write_all(b"GET / HTTP/1.1\r\nhost:").await.expect("writes");
    let ended = timeout(Duration::from_secs(2), slow.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a head that does not come ends the connection");
    for head in ["x: y\r\n".repeat(20), format!("x: {}\r\n", "y".repeat(100_000))] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let _ = stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{head}\r\n").as_bytes()).await;
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let (address, _stop, _task) = listen(|http| http.connections_max = 1).await;
    let mut first = TcpStream::connect(address).await.expect("connects");
    first.write_all(me().as_bytes()).await.expect("writes");
    assert!(read_until(&mut first, "updatedAt").await.starts_with("HTTP/1.1 200"));
    let mut second = TcpStream::connect(address).await.expect("the system's queue takes it");
    second.write_all(me().as_bytes()).await.expect("writes");
    let early = timeout(Duration::from_millis(200), second.read(&mut [0; 1])).await;
    assert!(early.is_err(), "it is not served yet");
    drop(first);
    assert!(read_until(&mut second, "updatedAt").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_refuses_new_connections_and_ends_idle_ones() {
    let (address, stop, task) = listen(|_| {}).await;
    let mut idle = TcpStream::connect(address).await.expect("connects");
    idle.write_all(me().as_bytes()).await.expect("writes");
    assert!(read_until(&mut idle, "updatedAt").await.starts_with("HTTP/1.1 200"));
    stop.cancel();
    timeout(Duration::from_secs(2), task)
        .await
        .expect("serve returns")
        .expect("without a panic");
    let ended = timeout(Duration::from_secs(1), idle.read(&mut [0; 1])).await.expect("in time");
    assert!(matches!(ended, Ok(0) | Err(_)), "the idle connection is closed");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn bound_routes_go_before_the_core_at_their_host_and_port() {
    for (host, at_the_port, is_asked) in [
        (None, true, true),
        (Some("old.example"), true, true),
        (Some("new.example"), true, false),
        (None, false, false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let bound = haggle_gateway::RouteSettings {
            plugin: "offers".into(),
            host: host.map(str::to_owned),
            port: Some(if at_the_port { address.port() } else { 1 }),
        };
        let api = Api::with(std::sync::Arc::new(super::plugins::Offers), generous(), |settings| {
            settings.http.routes = vec![bound]
        })
        .await;
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(serve(listener, App::new(api.gateway.clone()), stop));
        let ask = async |method: &str, path: &str| {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            let token = token("ann");
            let request = format!("{method} {path} HTTP/1.1\r\nhost: Old.example:80\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("writes");
            read_until(&mut stream, "nothing that comes").await
        };
        let asked = ask("GET", "/api/messages/conversations").await;
        let expect = if is_asked { "HTTP/1.1 201" } else { "HTTP/1.1 404" };
        assert!(
            asked.starts_with(expect) && asked.contains("x-request-id"),
            "{host:?} {at_the_port}: {asked}"
        );
        let other_method = ask("DELETE", "/conversation/all").await;
        let expect = if is_asked { "HTTP/1.1 405" } else { "HTTP/1.1 404" };
        assert!(other_method.starts_with(expect), "{host:?} {at_the_port}: {other_method}");
        assert_eq!(other_method.contains("allow: GET"), is_asked, "{other_method}");
        assert!(
            ask("GET", "/api/users/me").await.starts_with("HTTP/1.1 200"),
            "the core's other routes stay"
        );
        assert!(
            ask("GET", "/message/getAll/7").await.contains("[[\"chat\",\"7\"]]"),
            "and those of plugins that hide nothing"
        );
    }
}
