//! What an idle connection keeps in memory, counted by the allocator of a process of its own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

#[path = "ws/client.rs"]
#[allow(dead_code, reason = "only logins are needed here")]
mod native;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "only direct conversations are needed here")]
mod server;
#[path = "socketio/client.rs"]
#[allow(dead_code, unused_imports, reason = "only logins are needed here")]
mod socketio;

use serde_json::json;
use server::{Server, token};

/// Connections that are opened before anything is counted, so that caches and tables have grown.
const WARM: usize = 100;
const MEASURED: usize = 200;
/// The budgets are 4 KiB (native) and 6 KiB (Socket.IO) with what allocator and system add; tables that grow by doubling are in
/// this figure too.
const BYTES_MAX: usize = 3 * 1024;

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is the system allocator's; only sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes in use once everything short-lived has ended.
async fn settled_bytes() -> usize {
    tokio::time::sleep(Duration::from_millis(500)).await;
    LIVE.load(Ordering::Relaxed)
}

/// What one more connection of `open` keeps. The client's part of it is the socket alone.
async fn bytes_each(server: &Server, open: impl AsyncFn() -> TcpStream) -> usize {
    let mut sockets = Vec::with_capacity(WARM + MEASURED);
    for _ in 0..WARM {
        sockets.push(open().await);
    }
    let before = settled_bytes().await;
    for _ in 0..MEASURED {
        sockets.push(open().await);
    }
    let each = settled_bytes().await.saturating_sub(before) / MEASURED;
    assert_eq!(server.gateway.connections.len() + server.gateway.socketio.len(), WARM + MEASURED);
    each
}

/// One after the other, since the whole process is counted.
#[tokio::test]
async fn an_idle_connection_keeps_less_than_its_budget() {
    let server = Server::set(|settings| settings.ws.connections_per_user_max = WARM + MEASURED).await;
    let conversation = server.direct("ann", "bob").await.to_string();
    let native = async || {
        let mut client = native::Client::login(server.address, &token("ann")).await;
        client.request(json!({"t": "sub", "c": conversation})).await;
        client.stream.into_std().expect("a socket")
    };
    let each = bytes_each(&server, native).await;
    println!("native: {each} bytes each");
    assert!(each <= BYTES_MAX, "native: {each} bytes each");

    let server = Server::set(|settings| settings.ws.connections_per_user_max = WARM + MEASURED).await;
    let conversation = server.direct("ann", "bob").await.to_string();
    let socketio = async || {
        let mut client = server.chat("ann").await;
        client.ask(0, "join_conversation", json!({"conversationId": conversation})).await;
        client.stream.into_std().expect("a socket")
    };
    let each = bytes_each(&server, socketio).await;
    println!("Socket.IO: {each} bytes each");
    assert!(each <= BYTES_MAX, "Socket.IO: {each} bytes each");
}
