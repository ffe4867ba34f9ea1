//! What surrounds the routes: ids, origins, problems, limits, the docs.

use std::sync::Arc;

use axum::{body::Body, http::Request};
use haggle_engine::ports::NoPlugins;
use haggle_model::Limits;
use serde_json::json;

use super::support::{Api, Reply, expired, generous, token, token_with};

#[tokio::test]
async fn tokens_are_asked_for_and_judged() {
    let api = Api::new().await;
    let none = api.ask(None, "GET", "/api/users/me", &[], None).await;
    assert_eq!(none.header("www-authenticate"), "Bearer");
    assert_eq!(none.problem(401, "unauthenticated")["detail"], "No token provided");
    assert_eq!(
        api.ask(Some("x"), "GET", "/api/users/me", &[], None)
            .await
            .problem(401, "unauthenticated")["detail"],
        "Invalid token"
    );
    api.ask(Some(&expired("ann")), "GET", "/api/users/me", &[], None)
        .await
        .problem(401, "token_expired");
    for scheme in ["Basic abc", "Bearer", "bearer  ", &format!("Token {}", token("ann"))] {
        api.ask(None, "GET", "/api/users/me", &[("authorization", scheme)], None)
            .await
            .problem(401, "unauthenticated");
    }
    api.ask(
        None,
        "GET",
        "/api/users/me",
        &[("authorization", &format!("bearer {}", token("ann")))],
        None,
    )
    .await
    .expect(200);
}

#[tokio::test]
async fn requests_have_an_id() {
    let api = Api::new().await;
    let given = api.ask(None, "GET", "/api/users/me", &[("x-request-id", "mine-1")], None).await;
    assert_eq!(given.header("x-request-id"), "mine-1");
    let made = api.get("ann", "/api/users/me").await;
    assert_eq!(made.header("x-request-id").len(), 32);
    assert_eq!(
        (made.header("x-content-type-options"), made.header("cache-control")),
        ("nosniff", "no-store")
    );
}

#[tokio::test]
async fn pages_of_the_list_are_let_in_and_others_are_not() {
    let api = Api::new().await;
    let preflight = [("origin", "https://shop.example"), ("access-control-request-method", "POST")];
    let reply = api.ask(None, "OPTIONS", "/api/conversations", &preflight, None).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("access-control-allow-origin")),
        (204, "https://shop.example")
    );
    assert!(reply.header("access-control-allow-headers").contains("idempotency-key"));
    let fine = api
        .ask(Some(&token("ann")), "GET", "/api/users/me", &[("origin", "https://shop.example")], None)
        .await;
    assert_eq!(
        (fine.header("access-control-allow-origin"), fine.header("vary")),
        ("https://shop.example", "origin")
    );
    let foreign = api
        .ask(Some(&token("ann")), "GET", "/api/users/me", &[("origin", "https://evil.example")], None)
        .await;
    assert_eq!(foreign.header("access-control-allow-origin"), "");
    foreign.problem(403, "forbidden");
    let own = [("origin", "http://chat.example:3001"), ("host", "chat.example:3001")];
    api.ask(Some(&token("ann")), "GET", "/api/users/me", &own, None).await.expect(200);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let api = Api::new().await;
    api.get("ann", "/nothing").await.problem(404, "not_found");
    api.get("ann", "/api/messages/search").await.problem(404, "not_found");
    let other_method = api.ask(Some(&token("ann")), "PATCH", "/api/conversations", &[], None).await;
    assert_eq!(other_method.header("allow"), "GET,HEAD,POST");
    other_method.problem(405, "method_not_allowed");
    for path in [
        "/api/conversations/x",
        "/api/conversations/0123456789abcdef00000000",
        "/api/messages/0123456789abcdef00000001",
        "/api/messages/%00",
    ] {
        api.get("ann", path).await.problem(404, "not_found");
    }
    let form = Request::post("/api/conversations").header("authorization", format!("Bearer {}", token("ann")));
    let form = form
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("a=b"))
        .expect("a request");
    api.raw(form).await.problem(415, "unsupported_media_type");
    assert!(String::from_utf8_lossy(&api.ask(None, "GET", "/problems/blocked", &[], None).await.body).starts_with("blocked: "));
    api.ask(None, "GET", "/problems/zzz", &[], None).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_used_up_budget_says_when_to_come_back() {
    let limits = Limits {
        rate_per_second: 1,
        rate_burst: 3,
        ..generous()
    };
    let api = Api::with(std::sync::Arc::new(haggle_engine::ports::NoPlugins), limits, |_| {}).await;
    let c = api.direct("ann", "bob").await;
    let mut refused = None;
    for _ in 0..5 {
        let reply = api
            .post("ann", &format!("/api/conversations/{c}/messages"), json!({ "content": "x" }))
            .await;
        if !reply.status.is_success() {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("limited");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|s| s >= 1));
    refused.problem(429, "rate_limited");
}

#[tokio::test]
async fn the_docs_are_served_from_here() {
    let api = Api::new().await;
    let document = api.ask(None, "GET", "/openapi.json", &[], None).await.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    let page = api.ask(None, "GET", "/api/docs", &[], None).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    for (file, kind) in [
        ("docs.js", "text/javascript"),
        ("swagger-ui-bundle.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
    ] {
        let reply = api.ask(None, "GET", &format!("/api/docs/{file}"), &[], None).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("content-type")),
            (200, format!("{kind}; charset=utf-8").as_str()),
            "{file}"
        );
        let gzipped = reply.body.starts_with(&[0x1f, 0x8b]);
        assert_eq!(gzipped, reply.header("content-encoding") == "gzip", "{file}");
    }
    api.ask(None, "GET", "/api/docs/..%2f..%2fCargo.toml", &[], None)
        .await
        .problem(404, "not_found");
}

/// After a change of the API: `HAGGLE_WRITE_OPENAPI=1 cargo test -p haggle-gateway --test rest openapi`.
#[test]
fn the_checked_in_openapi_document_is_the_one_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let now = haggle_gateway::rest::openapi();
    if std::env::var_os("HAGGLE_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &now).expect("docs/openapi.json can be written");
    }
    let kept = std::fs::read_to_string(path).expect("docs/openapi.json is there");
    assert!(
        kept == now,
        "docs/openapi.json is not what the code says: run `haggle openapi > docs/openapi.json`"
    );
}

#[tokio::test]
async fn answers_say_what_is_left_of_the_users_rate() {
    let limits = Limits {
        rate_per_second: 1,
        rate_burst: 3,
        rate_per_hour: 100,
        ..Limits::default()
    };
    let api = Api::with(Arc::new(NoPlugins), limits, |_| {}).await;
    let fields = |reply: &Reply| (reply.header("ratelimit-policy").to_owned(), reply.header("ratelimit").to_owned());
    let policy = "\"user\";q=3;w=3, \"user-hour\";q=100;w=3600";
    let fresh = api.get("ann", "/api/users/me").await;
    assert_eq!(
        fields(&fresh),
        (policy.to_owned(), "\"user\";r=3;t=0, \"user-hour\";r=100;t=0".to_owned()),
        "reading takes nothing"
    );
    let block = || api.put("ann", "/api/users/bob/block", json!({}));
    let one = block().await;
    assert_eq!(
        fields(&one),
        (policy.to_owned(), "\"user\";r=2;t=1, \"user-hour\";r=100;t=0".to_owned()),
        "the hour is one of messages"
    );
    let direct = api.direct("ann", "cid").await;
    api.say("ann", &direct, "hi").await;
    let refused = block().await;
    assert!(
        fields(&refused).1.starts_with("\"user\";r=0;t=3, \"user-hour\";r=99;"),
        "{:?}",
        fields(&refused)
    );
    assert_eq!(refused.header("retry-after"), "1");
    refused.problem(429, "rate_limited");
    for (token, path) in [(None, "/api/users/me"), (Some(token_with("root", &["admin"])), "/api/users/me")] {
        let reply = api.ask(token.as_deref(), "GET", path, &[], None).await;
        assert_eq!(
            fields(&reply),
            Default::default(),
            "who is not limited, or not known, sees no such fields"
        );
    }
}
