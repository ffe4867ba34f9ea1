//! Bad bodies, for every route that takes one: 400 with the field's name, quickly.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Api, token, token_with};

/// Every body: method, path, a good body. Each field is replaced by values of wrong types in turn.
fn bodies(c: &str, m: &str) -> Vec<(&'static str, String, Value, &'static [&'static str])> {
    let conversation = |rest: &str| format!("/api/conversations/{c}{rest}");
    vec![
        (
            "POST",
            "/api/conversations".into(),
            json!({ "participants": ["bob"], "type": "direct", "groupName": "a", "groupAvatar": "/a", "state": {} }),
            &["participants"],
        ),
        (
            "PUT",
            conversation(""),
            json!({ "groupName": "a", "groupAvatar": "/a", "state": {} }),
            &[],
        ),
        (
            "POST",
            conversation("/messages"),
            json!({ "content": "a", "type": "text", "metadata": {}, "replyToId": m, "forwardedFromId": m, "clientMessageId": "k" }),
            &[],
        ),
        (
            "POST",
            conversation("/messages/service-offer"),
            json!({ "servicePackageId": "p", "message": "m" }),
            &["servicePackageId"],
        ),
        (
            "POST",
            conversation("/messages/booking-request"),
            json!({ "servicePackageId": "p", "requestedDate": "2030-01-01", "requestedTime": "10:00", "message": "m" }),
            &["servicePackageId", "requestedDate", "requestedTime"],
        ),
        (
            "POST",
            conversation("/messages/location"),
            json!({ "latitude": 1.0, "longitude": 1.0, "address": "a" }),
            &["latitude", "longitude"],
        ),
        (
            "POST",
            conversation("/messages/bulk-mark-read"),
            json!({ "messageIds": [m] }),
            &["messageIds"],
        ),
        (
            "POST",
            conversation("/participants"),
            json!({ "userId": "cleo", "role": "member" }),
            &["userId"],
        ),
        ("PUT", conversation("/participants/bob"), json!({ "role": "member" }), &["role"]),
        ("PUT", conversation("/mute"), json!({ "until": "2099-01-01T00:00:00Z" }), &[]),
        ("PUT", format!("/api/messages/{m}"), json!({ "content": "a", "metadata": {} }), &[]),
        ("POST", format!("/api/messages/{m}/reaction"), json!({ "reaction": "x" }), &["reaction"]),
        (
            "PATCH",
            "/api/users/me".into(),
            json!({ "name": "a", "avatar": "/a", "preferences": {}, "attributes": {} }),
            &[],
        ),
        (
            "PUT",
            "/api/users/zoe".into(),
            json!({ "name": "a", "avatar": "/a", "roles": ["r"], "attributes": {}, "preferences": {} }),
            &[],
        ),
    ]
}

#[tokio::test]
async fn wrong_types_are_named_in_every_body() {
    let api = Api::new().await;
    let c = api.group("ann", &["bob"]).await;
    let m = api.say("ann", &c, "x").await["id"].as_str().expect("an id").to_owned();
    let (token, admin) = (token("ann"), token_with("ann", &["admin"]));
    let wrong = [json!(true), json!(-1.5), json!([{}]), json!([[]]), json!({ "x": [] }), json!("x")];
    for (method, path, good, required) in bodies(&c, &m) {
        let token = if path.ends_with("zoe") { &admin } else { &token };
        let ask = async |body: String| {
            let start = Instant::now();
            let reply = api.ask(Some(token), method, &path, &[], Some(&body)).await;
            assert!(start.elapsed() < Duration::from_millis(500), "{method} {path} took {:?}", start.elapsed());
            reply
        };
        for (field, value) in good.as_object().expect("an object") {
            for wrong in wrong.iter().filter(|wrong| !same_type(wrong, value)) {
                let mut body = good.clone();
                body[field] = wrong.clone();
                let problem = ask(body.to_string()).await.problem(400, "bad_request");
                let pointer = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
                assert!(pointer.starts_with(&format!("/{field}")), "{method} {path} {field}={wrong}: {problem}");
            }
            let twice = format!(
                "{},{}:{value}}}",
                good.to_string().trim_end_matches('}').to_owned() + closing(&good),
                json!(field)
            );
            if serde_json::from_str::<Value>(&twice).is_ok() {
                ask(twice).await.problem(400, "bad_request");
            }
        }
        for field in required {
            let mut body = good.clone();
            body.as_object_mut().expect("an object").remove(*field);
            let problem = ask(body.to_string()).await.problem(400, "bad_request");
            assert!(
                problem["errors"][0]["pointer"]
                    .as_str()
                    .is_some_and(|p| p.starts_with(&format!("/{field}"))),
                "{method} {path}: {problem}"
            );
        }
        for hostile in [
            "",
            "null",
            "[]",
            "7",
            "{",
            "{\"a\":1}}",
            &"[".repeat(10_000),
            &format!("{{\"zzz\":{}1{}", "[".repeat(10_000), "]".repeat(9_999)),
            "{\"content\":\"\0\"}",
        ] {
            if hostile.is_empty() && path.ends_with("/mute") {
                continue; // its body is optional
            }
            ask(hostile.to_owned()).await.problem(400, "bad_request");
        }
    }
}

/// `trim_end_matches` takes every closing brace of a body that ends with an inner object: give the inner ones back.
fn closing(good: &Value) -> &'static str {
    let text = good.to_string();
    match text.len() - text.trim_end_matches('}').len() {
        1 => "",
        2 => "}",
        _ => "}}",
    }
}

fn same_type(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.first().is_some_and(|a| b.first().is_some_and(|b| same_type(a, b))),
        (Value::Object(_), Value::Object(_)) | (Value::String(_), Value::String(_)) | (Value::Number(_), Value::Number(_)) => true,
        (Value::Bool(_), Value::Bool(_)) => true,
        _ => false,
    }
}

#[tokio::test]
async fn what_the_server_decides_cannot_be_set() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let body = json!({
        "content": "mine", "senderId": "bob", "_id": "0123456789abcdef00000001", "id": "x", "seq": 999, "n": 999, "rev": 999, "createdAt": "2000-01-01T00:00:00Z",
        "readBy": { "bob": "2000-01-01T00:00:00Z" }, "reactions": ["bob"], "deletedFor": ["bob"], "isForwarded": true, "decidedBy": [{}], "role": "admin",
        "conversationId": "ffffffffffffffff00000000", "editedAt": "2000-01-01T00:00:00Z", "metadata": { "_internal": 1 }
    });
    let sent = api.post("ann", &format!("/api/conversations/{c}/messages"), body).await.expect(201);
    assert_eq!(
        (&sent["senderId"], &sent["conversationId"], &sent["isForwarded"]),
        (&json!("ann"), &json!(c), &json!(false))
    );
    assert_eq!(
        (&sent["readBy"], &sent["reactions"], &sent["deletedFor"], &sent["decidedBy"]),
        (&json!({}), &json!([]), &json!([]), &json!([]))
    );
    assert!(sent["seq"].as_u64() < Some(10) && sent["rev"] == sent["seq"] && sent.get("editedAt").is_none());
    assert!(sent["createdAt"].as_str() > Some("2020"));
    let group = json!({ "participants": ["bob"], "type": "group", "groupAdmin": "bob", "isActive": false, "_id": "x", "unreadCounts": { "bob": 5 } });
    let made = api.post("ann", "/api/conversations", group).await.expect(201);
    assert_eq!(
        (&made["groupAdmin"], &made["isActive"], &made["unreadCounts"]),
        (&json!("ann"), &json!(true), &json!({ "ann": 0 }))
    );
}

#[tokio::test]
async fn limits_have_their_own_answers() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let path = format!("/api/conversations/{c}/messages");
    let long = api
        .post("ann", &path, json!({ "content": "x".repeat(10_001) }))
        .await
        .problem(413, "too_large");
    assert_eq!(long["errors"][0]["pointer"], "/content");
    let bulky = json!({ "content": "x", "metadata": { "a": "x".repeat(17 * 1024) } });
    assert_eq!(
        api.post("ann", &path, bulky).await.problem(413, "too_large")["errors"][0]["pointer"],
        "/metadata"
    );
    api.post("ann", &path, json!({ "content": "x".repeat(1024 * 1024) }))
        .await
        .problem(413, "too_large");
    for query in ["limit=0", "limit=x", "limit=-1", "cursor=zzz", "after=-1", "after=x"] {
        api.get("ann", &format!("{path}?{query}")).await.problem(400, "bad_request");
    }
    let foreign = api.get("ann", "/api/conversations?limit=1").await.expect(200)["nextCursor"].clone();
    assert_eq!(foreign, Value::Null);
    for kind in ["system", "service_offer", "", "x".repeat(65).as_str()] {
        api.post("ann", &path, json!({ "content": "x", "type": kind }))
            .await
            .problem(400, "bad_request");
    }
    let reaction = api.say("ann", &c, "x").await["id"].as_str().expect("an id").to_owned();
    api.post(
        "ann",
        &format!("/api/messages/{reaction}/reaction"),
        json!({ "reaction": "x".repeat(33) }),
    )
    .await
    .problem(400, "bad_request");
}
