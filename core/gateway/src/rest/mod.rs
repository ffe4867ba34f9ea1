//! REST: the table of routes. Handlers are thin: decode, one command or read, encode.

mod answer;
mod conversations;
pub(crate) mod cursor;
mod docs;
mod edge;
mod extract;
mod messages;
mod participants;
pub(crate) mod plugins;
pub mod problem;
mod users;

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state, routing};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::Gateway;
pub use docs::openapi;

/// Every documented route.
fn api() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::with_openapi(docs::description())
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(conversations::get, conversations::update, conversations::delete))
        .routes(routes!(conversations::archive))
        .routes(routes!(conversations::unarchive))
        .routes(routes!(conversations::mute, conversations::unmute))
        .routes(routes!(conversations::unread))
        .routes(routes!(messages::list, messages::send))
        .routes(routes!(messages::service_offer))
        .routes(routes!(messages::booking_request))
        .routes(routes!(messages::location))
        .routes(routes!(messages::bulk_mark_read))
        .routes(routes!(participants::list, participants::add))
        .routes(routes!(participants::set_role, participants::remove))
        .routes(routes!(participants::events))
        .routes(routes!(participants::command))
        .routes(routes!(messages::get, messages::edit, messages::delete))
        .routes(routes!(messages::delete_for_me))
        .routes(routes!(messages::read))
        .routes(routes!(messages::react, messages::unreact))
        .routes(routes!(messages::reads))
        .routes(routes!(users::me, users::patch_me))
        .routes(routes!(users::blocks))
        .routes(routes!(users::get, users::put))
        .routes(routes!(users::presence))
        .routes(routes!(users::block, users::unblock))
        .routes(routes!(users::notifications))
        .routes(routes!(users::read_all_notifications))
        .routes(routes!(users::unread_notifications))
        .routes(routes!(users::read_notification))
}

/// The whole of REST as a service.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let (router, _) = api().split_for_parts();
    router
        .route("/openapi.json", routing::get(docs::openapi_json))
        .route("/api/docs", routing::get(docs::page))
        .route("/api/docs/{file}", routing::get(docs::file))
        .route("/problems/{code}", routing::get(docs::problem))
        .fallback(plugins::route)
        .method_not_allowed_fallback(async || plugins::method_not_allowed())
        .layer(from_fn_with_state(gateway.clone(), edge::edge))
        .with_state(gateway)
}
