//! The listener: accepts within bounds, sends sockets and Socket.IO down a lean path and everything else to REST.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::{
    Gateway, metrics as names,
    rest::{self, plugins::Bound},
    socketio, ws,
};

/// How long accepting rests after the system refused a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the native WebSocket lives.
pub const WS_PATH: &str = "/v1/ws";

/// Everything that a listener serves.
#[derive(Clone)]
pub struct App {
    gateway: Arc<Gateway>,
    rest: Router,
    /// Routes of plugins that go before REST, where there are any.
    bound: Option<Router>,
}

impl App {
    /// All routes over the gateway.
    pub fn new(gateway: Arc<Gateway>) -> App {
        let has_bound = !gateway.settings.http.routes.is_empty();
        App {
            rest: rest::router(gateway.clone()),
            bound: has_bound.then(|| rest::plugins::router(gateway.clone())),
            gateway,
        }
    }

    /// What the transports share.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    async fn answer(&self, mut request: Request<Incoming>, slot: &Slot, port: LocalPort) -> Response<Body> {
        if request.uri().path() == WS_PATH {
            request.extensions_mut().insert(slot.clone());
            return ws::upgrade(self.gateway.clone(), request).await.map(Body::new);
        }
        if socketio::is_path(&self.gateway, request.uri().path()) {
            request.extensions_mut().insert(slot.clone());
            request.extensions_mut().insert(port);
            return socketio::handle(&self.gateway, request).await;
        }
        let mut router = &self.rest;
        if let Some(bound) = &self.bound {
            match rest::plugins::bound(&self.gateway, &request, port.0) {
                Bound::Chosen(chosen) => {
                    request.extensions_mut().insert(chosen);
                    router = bound;
                }
                Bound::OtherMethod(allowed) => drop(request.extensions_mut().insert(allowed)),
                Bound::Nothing => {}
            }
        }
        match router.clone().call(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The port at which a connection came in; in the extensions of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPort(pub u16);

/// One of the connections that may be open at a time. A socket takes it along when it leaves HTTP: it stands in the
/// extensions of the upgrade's request and must live as long as the socket.
#[derive(Clone)]
pub struct Slot {
    _held: Arc<Held>,
}

struct Held {
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn new(permit: OwnedSemaphorePermit) -> Slot {
        Slot {
            _held: Arc::new(Held { _permit: permit }),
        }
    }
}

/// Of `[::1]:3000` and `host:3000`, as a `Host` header names them, what stands before the port.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Accepts until `shutdown`; then tells idle connections to close, lets requests in flight end (at most
/// `http.drain_max`) and returns. Sockets are the hub's to close.
pub async fn serve(listener: TcpListener, app: App, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(app.gateway.settings.http.connections_max));
    let connections = TaskTracker::new();
    while let Some((stream, slot)) = next(&listener, &slots, &shutdown).await {
        connections.spawn(connection(stream, slot, app.clone(), shutdown.clone()));
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(app.gateway.settings.http.drain_max, connections.wait()).await;
}

/// The permit comes first: while every slot is taken, new connections wait in the system's queue and cost nothing here.
async fn next(listener: &TcpListener, slots: &Arc<Semaphore>, shutdown: &CancellationToken) -> Option<(TcpStream, Slot)> {
    let permit = match slots.clone().try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => {
            metrics::counter!(names::CONNECTIONS_FULL).increment(1);
            unless(shutdown, slots.clone().acquire_owned()).await?.ok()?
        }
    };
    loop {
        match unless(shutdown, listener.accept()).await? {
            Ok((stream, _)) => return Some((stream, Slot::new(permit))),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                unless(shutdown, tokio::time::sleep(ACCEPT_PAUSE)).await?;
            }
        }
    }
}

async fn unless<T>(shutdown: &CancellationToken, future: impl Future<Output = T>) -> Option<T> {
    shutdown.run_until_cancelled(future).await
}

async fn connection(stream: TcpStream, slot: Slot, app: App, shutdown: CancellationToken) {
    let _counted = Counted::http();
    // An ack is small and must not wait for another packet to share.
    let _ = stream.set_nodelay(true);
    let port = LocalPort(stream.local_addr().map_or(0, |address| address.port()));
    let settings = &app.gateway.settings.http;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.header_read_timeout)
        .max_headers(settings.headers_max)
        .max_buf_size(settings.header_bytes_max.max(8 * 1024));
    let service = service_fn(|request| async { Ok::<_, Infallible>(app.answer(request, &slot, port).await) });
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    if shutdown.run_until_cancelled(serving.as_mut()).await.is_none() {
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    }
}

/// Counts a connection as long as it lives.
struct Counted;

impl Counted {
    fn http() -> Counted {
        metrics::gauge!(names::CONNECTIONS, "transport" => "http").increment(1.0);
        metrics::counter!(names::CONNECTIONS_OPENED, "transport" => "http").increment(1);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(names::CONNECTIONS, "transport" => "http").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_without_its_port() {
        for (host, expect) in [
            ("Shop.example:3000", "Shop.example"),
            ("shop", "shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(without_port(host), expect);
        }
    }
}
