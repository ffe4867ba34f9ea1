//! Role × route: what each kind of caller gets from every route of the API description. A route that is missing here, or a row
//! without a route, fails.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{
    plugins::Offers,
    support::{Api, expired, generous, token, token_with},
};

/// The columns. All but the last look at a group of `creator` (admin), `sender` (whose message it is), `member` and `ex` (who
/// has left); `blocked` at a direct conversation in which the other one blocks it, and at its own message there.
const ROLES: [&str; 10] = [
    "none", "expired", "plugin", "stranger", "ex", "member", "sender", "creator", "operator", "blocked",
];

type Row = (&'static str, &'static str, Option<&'static str>, [u16; 10]);

/// `{id}` is the role's conversation, message, notification or (for users) `target`; `{userId}` is `member`.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    //                                                                                        none  exp  plug  str   ex  memb send crea oper block
    ("get",    "/api/conversations",                               None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    ("post",   "/api/conversations",                               Some(r#"{"participants":["zoe"]}"#), [401, 401, 401, 201, 201, 201, 201, 201, 201, 201]),
    ("get",    "/api/conversations/{id}",                          None,                     [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("put",    "/api/conversations/{id}",                          Some(r#"{"groupName":"x"}"#), [401, 401, 401, 404, 404, 403, 403, 200, 200, 403]),
    ("delete", "/api/conversations/{id}",                          None,                     [401, 401, 401, 404, 404, 204, 204, 204, 404, 204]),
    ("put",    "/api/conversations/{id}/archive",                  None,                     [401, 401, 401, 404, 404, 200, 200, 200, 404, 200]),
    ("put",    "/api/conversations/{id}/unarchive",                None,                     [401, 401, 401, 404, 404, 200, 200, 200, 404, 200]),
    ("put",    "/api/conversations/{id}/mute",                     None,                     [401, 401, 401, 404, 404, 204, 204, 204, 404, 204]),
    ("delete", "/api/conversations/{id}/mute",                     None,                     [401, 401, 401, 404, 404, 204, 204, 204, 404, 204]),
    ("get",    "/api/conversations/{id}/unread-count",             None,                     [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("get",    "/api/conversations/{id}/messages",                 None,                     [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("post",   "/api/conversations/{id}/messages",                 Some(r#"{"content":"x"}"#), [401, 401, 401, 404, 404, 201, 201, 201, 404, 403]),
    ("post",   "/api/conversations/{id}/messages/service-offer",   Some(r#"{"servicePackageId":"p"}"#), [401, 401, 401, 404, 404, 201, 201, 201, 404, 403]),
    ("post",   "/api/conversations/{id}/messages/booking-request", Some(r#"{"servicePackageId":"p","requestedDate":"2030-01-01","requestedTime":"10:00"}"#), [401, 401, 401, 404, 404, 201, 201, 201, 404, 403]),
    ("post",   "/api/conversations/{id}/messages/location",        Some(r#"{"latitude":1,"longitude":1}"#), [401, 401, 401, 404, 404, 201, 201, 201, 404, 403]),
    ("post",   "/api/conversations/{id}/messages/bulk-mark-read",  Some(r#"{"messageIds":["{message}"]}"#), [401, 401, 401, 404, 404, 200, 200, 200, 404, 200]),
    ("get",    "/api/conversations/{id}/participants",             None,                     [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("post",   "/api/conversations/{id}/participants",             Some(r#"{"userId":"new"}"#), [401, 401, 401, 404, 404, 403, 403, 201, 201, 403]),
    ("put",    "/api/conversations/{id}/participants/{userId}",    Some(r#"{"role":"admin"}"#), [401, 401, 401, 404, 404, 403, 403, 200, 200, 403]),
    ("delete", "/api/conversations/{id}/participants/{userId}",    None,                     [401, 401, 401, 404, 404, 204, 403, 204, 204, 403]),
    ("get",    "/api/conversations/{id}/events",                   None,                     [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("post",   "/api/conversations/{id}/commands/{name}",          Some("{}"),               [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("get",    "/api/messages/{id}",                               None,                     [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("put",    "/api/messages/{id}",                               Some(r#"{"content":"y"}"#), [401, 401, 401, 404, 404, 403, 200, 403, 404, 403]),
    ("delete", "/api/messages/{id}",                               None,                     [401, 401, 401, 404, 404, 403, 204, 204, 404, 204]),
    ("delete", "/api/messages/{id}/for-me",                        None,                     [401, 401, 401, 404, 404, 204, 204, 204, 404, 204]),
    ("post",   "/api/messages/{id}/read",                          None,                     [401, 401, 401, 404, 404, 200, 200, 200, 404, 200]),
    ("post",   "/api/messages/{id}/reaction",                      Some(r#"{"reaction":"x"}"#), [401, 401, 401, 404, 404, 200, 200, 200, 404, 403]),
    ("delete", "/api/messages/{id}/reaction",                      None,                     [401, 401, 401, 404, 404, 200, 200, 200, 404, 200]),
    ("get",    "/api/messages/{id}/reads",                         None,                     [401, 401, 401, 404, 404, 200, 200, 200, 200, 200]),
    ("get",    "/api/users/me",                                    None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    ("patch",  "/api/users/me",                                    Some(r#"{"name":"x"}"#),  [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    ("get",    "/api/users/me/blocks",                             None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    ("get",    "/api/users/{id}",                                  None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    ("put",    "/api/users/{id}",                                  Some("{}"),               [401, 401, 401, 403, 403, 403, 403, 403, 200, 403]),
    ("get",    "/api/users/{id}/presence",                         None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    ("put",    "/api/users/{id}/block",                            None,                     [401, 401, 401, 204, 204, 204, 204, 204, 204, 204]),
    ("delete", "/api/users/{id}/block",                            None,                     [401, 401, 401, 204, 204, 204, 204, 204, 204, 204]),
    ("get",    "/api/notifications",                               None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    // The notification is somebody else's for every role: nobody, the operator included, may touch it.
    ("post",   "/api/notifications/{id}/read",                     None,                     [401, 401, 401, 404, 404, 404, 404, 404, 404, 404]),
    ("post",   "/api/notifications/read-all",                      None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
    ("get",    "/api/notifications/unread-count",                  None,                     [401, 401, 401, 200, 200, 200, 200, 200, 200, 200]),
];

#[test]
fn every_route_of_the_description_has_a_row() {
    let document: Value = serde_json::from_str(&haggle_gateway::rest::openapi()).expect("JSON");
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("a path").keys() {
            described.insert((method.clone(), path.clone()));
        }
    }
    let listed: BTreeSet<_> = TABLE.iter().map(|(method, path, ..)| (method.to_string(), path.to_string())).collect();
    assert_eq!(
        described.difference(&listed).collect::<Vec<_>>(),
        [] as [&(String, String); 0],
        "routes without a row"
    );
    assert_eq!(
        listed.difference(&described).collect::<Vec<_>>(),
        [] as [&(String, String); 0],
        "rows without a route"
    );
    assert_eq!(listed.len(), TABLE.len(), "a row stands twice");
}

/// One cell's own people and things, so that no cell sees what another did.
struct Scene {
    group: (String, String),
    direct: (String, String),
    notification: String,
}

fn name(person: &str, cell: usize) -> String {
    format!("{person}-{cell}")
}

async fn scene(api: &Api, cell: usize, blocked: bool) -> Scene {
    let person = |who: &str| name(who, cell);
    api.get(&person("target"), "/api/users/me").await.expect(200);
    let id = |message: Value| message["id"].as_str().expect("an id").to_owned();
    let mut scene = Scene {
        group: Default::default(),
        direct: Default::default(),
        notification: format!("{:016x}{:08x}", 0x7777_0000_u64, 3),
    };
    if blocked {
        let direct = api.direct(&person("blocked"), &person("blocker")).await;
        let message = id(api.say(&person("blocked"), &direct, "x").await);
        api.put(&person("blocker"), &format!("/api/users/{}/block", person("blocked")), json!({}))
            .await
            .expect(204);
        scene.direct = (direct, message);
        return scene;
    }
    let members = [person("sender"), person("member"), person("ex")];
    let group = api.group(&person("creator"), &members.each_ref().map(String::as_str)).await;
    api.delete(&person("ex"), &format!("/api/conversations/{group}/participants/{}", person("ex")))
        .await
        .expect(204);
    let message = id(api.say(&person("sender"), &group, "x").await);
    scene.group = (group, message);
    scene
}

fn token_of(role: &str, cell: usize) -> Option<String> {
    match role {
        "none" => None,
        "expired" => Some(expired(&name("creator", cell))),
        "plugin" => Some(token("plugin:offers")),
        "operator" => Some(token_with(&name("operator", cell), &["admin"])),
        _ => Some(token(&name(role, cell))),
    }
}

fn url(path: &str, scene: &Scene, role: &str, cell: usize) -> String {
    let (conversation, message) = if role == "blocked" { &scene.direct } else { &scene.group };
    let id = if path.starts_with("/api/messages") {
        message.clone()
    } else if path.starts_with("/api/users") {
        name("target", cell)
    } else if path.starts_with("/api/notifications") {
        scene.notification.clone()
    } else {
        conversation.clone()
    };
    path.replace("{id}", &id)
        .replace("{userId}", &name("member", cell))
        .replace("{name}", "offers.accept")
}

#[tokio::test]
async fn every_cell_is_as_the_table_says() {
    let api = Api::with(Arc::new(Offers), generous(), |_| {}).await;
    let mut wrong = Vec::new();
    let mut cell = 0;
    for (method, path, body, expected) in TABLE {
        for (role, expected) in ROLES.iter().zip(expected) {
            cell += 1;
            let scene = scene(&api, cell, *role == "blocked").await;
            let message = if *role == "blocked" { &scene.direct.1 } else { &scene.group.1 };
            let body = body.map(|body| body.replace("{message}", message));
            let token = token_of(role, cell);
            let reply = api
                .ask(
                    token.as_deref(),
                    &method.to_uppercase(),
                    &url(path, &scene, role, cell),
                    &[],
                    body.as_deref(),
                )
                .await;
            if reply.status.as_u16() != *expected {
                wrong.push(format!(
                    "{method} {path} as {role}: {} instead of {expected}: {}",
                    reply.status,
                    String::from_utf8_lossy(&reply.body)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cell} cells:\n{}", wrong.len(), wrong.join("\n"));
}
