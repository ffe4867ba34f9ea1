//! What an idle connection keeps in memory, counted by the allocator of a process of its own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

#[path = "ws/client.rs"]
#[allow(dead_code, reason = "only logins are needed here")]
mod client;
#[path = "ws/server.rs"]
#[allow(dead_code, unused_imports, reason = "only direct conversations are needed here")]
mod server;

use client::Client;
use serde_json::json;
use server::{Server, token};

/// Connections that are opened before anything is counted, so that caches and tables have grown.
const WARM: usize = 100;
const MEASURED: usize = 200;
/// The budget is 4 KiB with what allocator and system add; tables that grow by doubling are in this figure too.
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

/// The client's part of a connection is the socket alone: its buffer goes.
async fn idle(server: &Server, user: &str, conversation: &str) -> std::net::TcpStream {
    let mut client = Client::login(server.address, &token(user)).await;
    client.request(json!({"t": "sub", "c": conversation})).await;
    client.stream.into_std().expect("a socket")
}

#[tokio::test]
async fn an_idle_connection_keeps_less_than_its_budget() {
    let server = Server::with(|ws| ws.connections_per_user_max = WARM + MEASURED).await;
    let conversation = server.direct("ann", "bob").await.to_string();
    let mut open = Vec::with_capacity(WARM + MEASURED);
    for _ in 0..WARM {
        open.push(idle(&server, "ann", &conversation).await);
    }
    let before = settled_bytes().await;
    for _ in 0..MEASURED {
        open.push(idle(&server, "ann", &conversation).await);
    }
    let each = settled_bytes().await.saturating_sub(before) / MEASURED;
    println!("{each} bytes each");
    assert_eq!(server.gateway.connections.len(), WARM + MEASURED);
    assert!(each <= BYTES_MAX, "{each} bytes each");
}
