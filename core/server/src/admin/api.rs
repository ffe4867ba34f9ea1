//! The admin API's handlers: plugins and failed deliveries.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
};
use haggle_host::LoadError;
use haggle_model::ErrorCode;
use haggle_store::FailedDelivery;
use serde_json::{Value, json};

use super::{Shared, problem::Problem};
use crate::{plugins::Package, status::Parts};

/// Deliveries on a page at most, and unless the request says otherwise.
const DELIVERIES_MAX: usize = 100;

fn parts(admin: &super::Admin) -> Result<&Parts, Problem> {
    admin.status.parts().ok_or_else(Problem::starting)
}

fn refused(error: LoadError) -> Problem {
    let status = match &error {
        LoadError::NotFound(_) => StatusCode::NOT_FOUND,
        LoadError::Conflict(_) => StatusCode::CONFLICT,
        LoadError::Io { .. } | LoadError::Host(_) => StatusCode::INTERNAL_SERVER_ERROR,
        LoadError::Manifest { .. } | LoadError::Code { .. } | LoadError::Start(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Problem::new(status, "plugin_not_loaded", error.to_string())
}

fn malformed(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), detail)
}

/// Every plugin that is or should be loaded.
pub async fn plugins(State(admin): Shared) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "plugins": parts(&admin)?.plugins.list() })))
}

/// Loads a plugin again from its folder.
pub async fn reload(State(admin): Shared, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    parts(&admin)?.plugins.reload(&id).await.map_err(refused)?;
    tracing::info!(plugin = %id, "plugin reloaded");
    Ok(Json(json!({ "id": id })))
}

/// Installs a plugin from the request's body and loads it.
pub async fn install(State(admin): Shared, Path(id): Path<String>, body: Bytes) -> Result<Json<Value>, Problem> {
    let package = Package::from_json(&body).map_err(malformed)?;
    if package.id != id {
        return Err(malformed(format!("the manifest's id is `{}`, the path says `{id}`", package.id)));
    }
    parts(&admin)?.plugins.install(package).await.map_err(refused)?;
    tracing::info!(plugin = %id, "plugin installed");
    Ok(Json(json!({ "id": id })))
}

/// Takes a plugin out of service and moves its files aside.
pub async fn remove(State(admin): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    parts(&admin)?.plugins.remove(&id).await.map_err(refused)?;
    tracing::info!(plugin = %id, "plugin removed");
    Ok(StatusCode::NO_CONTENT)
}

#[derive(serde::Deserialize)]
pub struct Page {
    after: Option<u64>,
    limit: Option<usize>,
}

/// Failed deliveries, ascending by id.
pub async fn deliveries(State(admin): Shared, Query(page): Query<Page>) -> Result<Json<Value>, Problem> {
    let limit = page.limit.unwrap_or(DELIVERIES_MAX).clamp(1, DELIVERIES_MAX);
    let failed = parts(&admin)?.engine.failed_deliveries(page.after.unwrap_or(0), limit).await?;
    let next = failed.last().filter(|_| failed.len() == limit).map(|last| last.id);
    Ok(Json(
        json!({ "deliveries": failed.iter().map(delivery).collect::<Vec<_>>(), "next": next }),
    ))
}

fn delivery(failed: &FailedDelivery) -> Value {
    json!({
        "id": failed.id,
        "consumer": failed.consumer,
        "conversation": failed.conversation.to_string(),
        "shard": failed.shard.0,
        "pos": failed.pos.0,
        "index": failed.index,
        "attempts": failed.attempts,
        "error": failed.error,
        "at": failed.at,
    })
}

/// Tries one again.
pub async fn replay(State(admin): Shared, Path(id): Path<u64>) -> Result<StatusCode, Problem> {
    parts(&admin)?.engine.replay_delivery(id).await?;
    tracing::info!(delivery = id, "failed delivery replayed");
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets one.
pub async fn drop(State(admin): Shared, Path(id): Path<u64>) -> Result<StatusCode, Problem> {
    if parts(&admin)?.engine.drop_delivery(id).await? {
        tracing::info!(delivery = id, "failed delivery dropped");
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found(format!("there is no failed delivery {id}")))
}
