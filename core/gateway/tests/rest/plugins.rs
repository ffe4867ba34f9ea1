//! What REST does with plugins: claimed kinds, commands, routes, rejections, notifications.

use std::sync::Arc;

use async_trait::async_trait;
use haggle_engine::{
    Refusal,
    ports::{
        After, Consumer, ConversationDraft, Draft, Facts, Hook, HookError, Hooks, HttpRequest, HttpResponse, NoPlugins, ParticipantChange, Plan,
        ReactionChange, Route, RouteAccess, Scope, gone,
    },
};
use haggle_model::{ConversationUpdate, Decider, ErrorCode, Millis, Notification, PluginId};
use serde_json::{Value, json};

use super::support::{Api, generous, token, token_with};

const PLUGIN: &str = "offers";

/// One plugin that claims two kinds, has a command and some routes.
pub struct Offers;

impl Hooks for Offers {
    fn plan(&self) -> Arc<dyn Plan> {
        Arc::new(Offers)
    }
}

#[async_trait]
impl Plan for Offers {
    fn wants(&self, hook: Hook, _: &Facts<'_>) -> bool {
        hook == Hook::BeforeMessage
    }
    fn claims(&self, kind: &str) -> Option<PluginId> {
        matches!(kind, "service_offer" | "booking_request").then(|| PLUGIN.into())
    }
    async fn before_message(&self, _: &dyn Scope, draft: &mut Draft, _: &[PluginId]) -> Result<Vec<Decider>, Refusal> {
        if draft.text.contains("forbidden") {
            return Err(Refusal::new(ErrorCode::PluginRejected, "please rephrase").by_plugin(PLUGIN, "bad_words"));
        }
        if draft.text.contains("crash") {
            return Err(Refusal::new(ErrorCode::PluginError, "the plugin failed").by_plugin(PLUGIN, "trap"));
        }
        if self.claims(&draft.kind).is_some() {
            draft.text = "Service proposé: Massage".into();
        }
        Ok(vec![Decider {
            plugin: PLUGIN.into(),
            version: "1.2.0".into(),
            digest: [0xab; 8],
        }])
    }
    async fn before_conversation(&self, scope: &dyn Scope, draft: ConversationDraft) -> Result<ConversationUpdate, Refusal> {
        NoPlugins.before_conversation(scope, draft).await
    }
    async fn before_participant(&self, scope: &dyn Scope, change: ParticipantChange) -> Result<(), Refusal> {
        NoPlugins.before_participant(scope, change).await
    }
    async fn before_reaction(&self, scope: &dyn Scope, change: ReactionChange) -> Result<(), Refusal> {
        NoPlugins.before_reaction(scope, change).await
    }
    fn command_owner(&self, name: &str) -> Option<PluginId> {
        name.starts_with("offers.").then(|| PLUGIN.into())
    }
    async fn command(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, payload: &str) -> Result<String, Refusal> {
        if name == "offers.notify" {
            let guest = scope.guest(plugin);
            let said: Value = serde_json::from_str(payload).expect("JSON");
            let message = said["message"].as_str().and_then(|id| id.parse().ok());
            let notification = Notification {
                topic: "MESSAGE_RECEIVED".into(),
                title: "News".into(),
                message,
                ..Notification::default()
            };
            guest
                .notify(said["user"].as_str().expect("a user").into(), notification)
                .expect("allowed");
            guest.keep();
        }
        Ok(format!(r#"{{"echo":{payload}}}"#))
    }
    async fn timer(&self, _: &dyn Scope, plugin: &PluginId, _: &str, _: Millis, _: &str) -> Result<(), HookError> {
        Err(gone(plugin, Hook::Timer))
    }
    fn consumers(&self) -> Vec<Consumer> {
        Vec::new()
    }
    fn wants_after(&self, _: &PluginId, _: Hook, _: &Facts<'_>) -> bool {
        false
    }
    async fn after(&self, _: &dyn Scope, plugin: &PluginId, event: &After) -> Result<(), HookError> {
        Err(gone(plugin, event.hook()))
    }
    fn connection_watchers(&self) -> Vec<PluginId> {
        Vec::new()
    }
    fn routes(&self) -> Vec<Route> {
        let route = |method: &str, path: &str, access| Route {
            plugin: PLUGIN.into(),
            method: method.into(),
            path: path.into(),
            access,
            bound: false,
        };
        let bound = |path: &str| Route {
            bound: true,
            ..route("GET", path, RouteAccess::User)
        };
        vec![
            route("GET", "/plugins/offers/open", RouteAccess::Nobody),
            route("POST", "/plugins/offers/mine", RouteAccess::User),
            route("*", "/plugins/offers/staff/*", RouteAccess::Role("staff".into())),
            route("POST", "/message/create", RouteAccess::User),
            route("GET", "/message/getAll/{chat}", RouteAccess::User),
            bound("/api/messages/conversations"),
            bound("/conversation/all"),
        ]
    }
    async fn http(&self, scope: &dyn Scope, _: &PluginId, request: HttpRequest) -> Result<HttpResponse, HookError> {
        let seen = json!({
            "user": scope.call().actor.user.as_str(), "trace": scope.call().trace_id, "method": request.method, "path": request.path, "params": request.params, "query": request.query,
            "headers": request.headers, "body": String::from_utf8_lossy(&request.body),
        });
        let headers = vec![("content-type".into(), "application/json".into()), ("connection".into(), "close".into())];
        Ok(HttpResponse {
            status: 201,
            headers,
            body: seen.to_string().into_bytes(),
        })
    }
    fn crons_due(&self, _: Millis, _: Millis) -> Vec<(PluginId, String, Millis)> {
        Vec::new()
    }
}

async fn api() -> Api {
    Api::with(Arc::new(Offers), generous(), |_| {}).await
}

#[tokio::test]
async fn offers_and_bookings_are_sends_of_a_claimed_kind() {
    let api = api().await;
    let c = api.direct("ann", "bob").await;
    let offer = json!({ "servicePackageId": "p1", "message": "for you", "price": 1 });
    let sent = api
        .post("ann", &format!("/api/conversations/{c}/messages/service-offer"), offer)
        .await
        .expect(201);
    assert_eq!(
        (&sent["type"], &sent["content"]),
        (&json!("service_offer"), &json!("Service proposé: Massage"))
    );
    assert_eq!(sent["metadata"], json!({ "servicePackageId": "p1", "note": "for you" }));
    assert_eq!(
        sent["decidedBy"],
        json!([{ "plugin": "offers", "version": "1.2.0", "digest": "abababababababab" }])
    );
    let booking = json!({ "servicePackageId": "p1", "requestedDate": "2030-02-15", "requestedTime": "14:30" });
    let sent = api
        .post("bob", &format!("/api/conversations/{c}/messages/booking-request"), booking.clone())
        .await
        .expect(201);
    assert_eq!((&sent["type"], &sent["metadata"]), (&json!("booking_request"), &booking));
}

#[tokio::test]
async fn a_rejection_names_the_plugin_and_a_failure_is_another_answer() {
    let api = api().await;
    let c = api.direct("ann", "bob").await;
    let path = format!("/api/conversations/{c}/messages");
    let no = api
        .post("ann", &path, json!({ "content": "forbidden" }))
        .await
        .problem(422, "plugin_rejected");
    assert_eq!(
        (&no["plugin"], &no["pluginCode"], &no["detail"]),
        (&json!("offers"), &json!("bad_words"), &json!("please rephrase"))
    );
    api.post("ann", &path, json!({ "content": "crash" })).await.problem(502, "plugin_error");
}

#[tokio::test]
async fn a_command_is_answered_once() {
    let api = api().await;
    let c = api.direct("ann", "bob").await;
    let path = format!("/api/conversations/{c}/commands/offers.accept");
    assert_eq!(
        api.post("ann", &path, json!({ "id": 1 })).await.expect(200),
        json!({ "echo": { "id": 1 } })
    );
    let empty = api.ask(Some(&token("ann")), "POST", &path, &[], None).await.expect(200);
    assert_eq!(empty, json!({ "echo": null }));
    api.post("ann", &format!("/api/conversations/{c}/commands/nobody.knows"), json!({}))
        .await
        .problem(404, "not_found");
    api.post("eve", &path, json!({})).await.problem(404, "not_found");
    api.ask(Some(&token("ann")), "POST", &path, &[], Some("{\"a\":\"\\ud800\"}"))
        .await
        .problem(400, "bad_request");
}

#[tokio::test]
async fn notifications_join_the_present_text() {
    let api = api().await;
    let c = api.direct("ann", "bob").await;
    let m = api.say("ann", &c, "hello bob").await["id"].clone();
    let notify = format!("/api/conversations/{c}/commands/offers.notify");
    api.post("ann", &notify, json!({ "user": "bob", "message": m })).await.expect(200);
    api.post("ann", &notify, json!({ "user": "eve", "message": m })).await.expect(200);
    let unread = async |user: &str| api.get(user, "/api/notifications/unread-count").await.expect(200)["unreadCount"].as_u64();
    for user in ["bob", "eve"] {
        // Delivered by a feed, a moment later.
        let delivered = async {
            while unread(user).await != Some(1) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), delivered)
            .await
            .expect("delivered");
    }
    let list = api.get("bob", "/api/notifications?unread=true").await.expect(200);
    let one = &list["notifications"][0];
    assert_eq!(
        (&one["type"], &one["title"], &one["message"]),
        (&json!("MESSAGE_RECEIVED"), &json!("News"), &json!("hello bob"))
    );
    assert_eq!(
        (&one["userId"], &one["read"], &one["messageId"], &one["conversationId"]),
        (&json!("bob"), &json!(false), &m, &json!(c))
    );
    let hidden = api.get("eve", "/api/notifications").await.expect(200);
    assert_eq!(hidden["notifications"][0]["message"], "", "who may not read the message is not shown it");
    let id = one["id"].as_str().expect("an id");
    api.post("eve", &format!("/api/notifications/{id}/read"), json!({}))
        .await
        .problem(404, "not_found");
    assert_eq!(
        api.post("bob", &format!("/api/notifications/{id}/read"), json!({})).await.expect(200)["read"],
        true
    );
    assert_eq!(unread("bob").await, Some(0));
    assert_eq!(
        api.post("eve", "/api/notifications/read-all", json!({})).await.expect(200),
        json!({ "unreadCount": 0 })
    );
    api.delete("ann", &format!("/api/messages/{}", m.as_str().expect("an id")))
        .await
        .expect(204);
    let list = api.get("bob", "/api/notifications").await.expect(200);
    assert_eq!(list["notifications"][0]["message"], "", "deleted text is gone here too");
}

#[tokio::test]
async fn routes_ask_for_what_their_manifest_says() {
    let api = api().await;
    let open = api
        .ask(
            None,
            "GET",
            "/plugins/offers/open?a=1",
            &[("x-request-id", "r-1"), ("cookie", "s=1")],
            None,
        )
        .await;
    assert_eq!((open.header("connection"), open.header("x-request-id")), ("", "r-1"));
    let open = open.expect(201);
    assert_eq!(
        (&open["user"], &open["query"], &open["trace"]),
        (&json!("plugin:offers"), &json!("a=1"), &json!("r-1")),
        "nobody is logged in: the plugin acts for itself"
    );
    assert!(!open["headers"].to_string().contains("s=1"));
    api.ask(Some("nonsense"), "GET", "/plugins/offers/open", &[], None)
        .await
        .problem(401, "unauthenticated");

    api.ask(None, "POST", "/plugins/offers/mine", &[], Some("{}"))
        .await
        .problem(401, "unauthenticated");
    let mine = api.post("ann", "/plugins/offers/mine", json!({ "x": 1 })).await.expect(201);
    assert_eq!((&mine["user"], &mine["body"]), (&json!("ann"), &json!("{\"x\":1}")));
    assert!(!mine["headers"].to_string().contains("Bearer"));
    assert_eq!(api.post("ann", "/message/create", json!({})).await.expect(201)["path"], "/message/create");

    assert_eq!(
        api.get("ann", "/message/getAll/a%20b").await.expect(201)["params"],
        json!([["chat", "a b"]])
    );
    api.get("ann", "/api/messages/conversations").await.problem(404, "not_found"); // the core's, bound nowhere

    api.get("ann", "/plugins/offers/staff/a").await.problem(403, "forbidden");
    let staff = token_with("sam", &["staff"]);
    api.ask(Some(&staff), "PUT", "/plugins/offers/staff/a", &[], None).await.expect(201);
    let other_method = api.get("ann", "/plugins/offers/mine").await;
    assert_eq!(other_method.header("allow"), "POST");
    other_method.problem(405, "method_not_allowed");
    api.get("ann", "/plugins/other").await.problem(404, "not_found");
    let big = "x".repeat(1024 * 1024 + 1);
    api.ask(Some(&token("ann")), "POST", "/plugins/offers/mine", &[], Some(&big))
        .await
        .problem(413, "too_large");
}
