//! The listener for operators: metrics, probes and the admin API.
//!
//! Metrics and probes need nothing. Reads of the admin API need nothing either: they show ids and states, no contents. Writes
//! need a bearer token with the role `admin` and a `Host` header that is allowed, so that no web page can reach them by
//! rebinding a name to this address.

mod api;
mod guard;
mod problem;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use haggle_gateway::Authenticator;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::status::{Readiness, Status};

/// Connections of operators at a time; more wait.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may take to send the head of a request.
const HEADER_READ_MAX: Duration = Duration::from_secs(10);

/// How long accepting rests after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the operators' listener answers from.
pub struct Admin {
    /// The recorder.
    pub metrics: PrometheusHandle,
    /// How firmly we serve, and the parts.
    pub status: Arc<Status>,
    /// Who is an administrator.
    pub auth: Authenticator,
    /// Host names that writes may carry.
    pub hosts: Vec<String>,
    /// The body of an installation.
    pub install_bytes_max: usize,
}

type Shared = State<Arc<Admin>>;

/// All routes.
pub fn router(admin: Arc<Admin>) -> Router {
    let writes = Router::new()
        .route("/admin/plugins/{id}", put(api::install).delete(api::remove))
        .route("/admin/plugins/{id}/reload", post(api::reload))
        .route("/admin/deliveries/{id}/replay", post(api::replay))
        .route("/admin/deliveries/{id}", delete(api::drop))
        .layer(axum::extract::DefaultBodyLimit::max(admin.install_bytes_max))
        .layer(axum::middleware::from_fn_with_state(admin.clone(), guard::admins_only));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/admin/plugins", get(api::plugins))
        .route("/admin/deliveries", get(api::deliveries))
        .merge(writes)
        .fallback(problem::not_found)
        .with_state(admin)
}

/// Accepts as long as the process lives: probes are answered during the drain as well.
pub async fn serve(listener: TcpListener, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an operator's connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_MAX);
    // How a client ends its connection is its own affair.
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

async fn metrics(State(admin): Shared) -> Response {
    crate::metrics::sample();
    admin.status.show();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        admin.metrics.render(),
    )
        .into_response()
}

#[derive(serde::Deserialize)]
struct Verbosity {
    verbose: Option<String>,
}

async fn ready(State(admin): Shared, Query(query): Query<Verbosity>) -> Response {
    let readiness = admin.status.readiness();
    let status = if readiness == Readiness::Ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    match query.verbose {
        Some(_) => (status, axum::Json(admin.status.verbose())).into_response(),
        None => (status, format!("{}\n", readiness.as_str())).into_response(),
    }
}
