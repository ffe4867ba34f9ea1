//! A broadcast by REST: it stands in every reader's list with what is unread there.

use serde_json::{Value, json};

use super::support::{Api, token_with};

async fn as_root(api: &Api, path: &str, body: Value) -> Value {
    let root = token_with("root", &["admin"]);
    api.ask(Some(&root), "POST", path, &[], Some(&body.to_string())).await.expect(201)
}

async fn unread(api: &Api, user: &str, id: &str) -> Value {
    api.get(user, &format!("/api/conversations/{id}/unread-count")).await.expect(200)["unreadCount"].clone()
}

#[tokio::test]
async fn a_reader_lists_it_and_marks_it_read() {
    let api = Api::new().await;
    let news = as_root(&api, "/api/conversations", json!({"type": "broadcast", "groupName": "news"})).await;
    let id = news["id"].as_str().expect("an id");
    let messages = format!("/api/conversations/{id}/messages");
    let first = as_root(&api, &messages, json!({"content": "one"})).await["id"].clone();
    let second = as_root(&api, &messages, json!({"content": "two"})).await["id"].clone();
    // Lists are sorted by milliseconds.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let direct = api.direct("ann", "bob").await;

    let list = api.get("ann", "/api/conversations").await.expect(200);
    let ids: Vec<_> = list["conversations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["id"].clone())
        .collect();
    assert_eq!(ids, [json!(direct), json!(id)]);
    let row = &list["conversations"][1];
    assert_eq!(
        (&row["type"], &row["groupName"], &row["lastMessage"], &row["unreadCounts"]["ann"]),
        (&json!("broadcast"), &json!("news"), &json!("two"), &json!(2))
    );
    let one = api.get("ann", &format!("/api/conversations/{id}")).await.expect(200);
    assert_eq!(one["unreadCounts"], json!({"ann": 2}));
    assert_eq!((unread(&api, "ann", id).await, unread(&api, "root", id).await), (json!(2), json!(0)));

    let bulk = api
        .post("ann", &format!("{messages}/bulk-mark-read"), json!({"messageIds": [first]}))
        .await
        .expect(200);
    assert_eq!(bulk, json!({"unreadCount": 1}));
    let read = format!("/api/messages/{}/read", second.as_str().expect("an id"));
    api.post("ann", &read, json!({})).await.expect(200);
    assert_eq!((unread(&api, "ann", id).await, unread(&api, "bob", id).await), (json!(0), json!(2)));

    api.put("ann", &format!("/api/conversations/{id}/archive"), json!({})).await.expect(200);
    let archived = api.get("ann", "/api/conversations?archived=true").await.expect(200);
    assert_eq!(archived["conversations"][0]["id"], json!(id));
    api.delete("ann", &format!("/api/conversations/{id}")).await.expect(204);
    let list = api.get("ann", "/api/conversations?archived=true").await.expect(200);
    assert_eq!(list["conversations"], json!([]));
    api.post("ann", &messages, json!({"content": "me too"})).await.problem(403, "forbidden");
}
