//! What people do with it, route by route.

use serde_json::{Value, json};

use super::support::{Api, token, token_with};

fn ids<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    list[field]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| item["id"].as_str().expect("an id"))
        .collect()
}

#[tokio::test]
async fn a_direct_conversation_is_got_or_created() {
    let api = Api::new().await;
    let reply = api
        .post("ann", "/api/conversations", json!({ "participants": ["ann", "bob"], "type": "direct" }))
        .await;
    assert_eq!(
        reply.header("location"),
        format!("/api/conversations/{}", reply.json()["id"].as_str().expect("an id"))
    );
    let new = reply.expect(201);
    assert_eq!(new["_id"], new["id"]);
    assert_eq!(new["participants"], json!(["ann", "bob"]));
    assert_eq!(
        (&new["type"], &new["isActive"], &new["participantCount"]),
        (&json!("direct"), &json!(true), &json!(2))
    );
    assert_eq!(new["unreadCounts"], json!({ "ann": 0 }), "the caller's own entry only");
    let again = api
        .post("bob", "/api/conversations", json!({ "participants": ["ann"] }))
        .await
        .expect(200);
    assert_eq!(again["id"], new["id"]);
    let got = api
        .get("bob", &format!("/api/conversations/{}", new["id"].as_str().expect("an id")))
        .await
        .expect(200);
    assert_eq!(got["unreadCounts"], json!({ "bob": 0 }));
}

#[tokio::test]
async fn a_message_is_sent_read_edited_and_deleted() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let reply = api
        .post(
            "ann",
            &format!("/api/conversations/{c}/messages"),
            json!({ "content": "hé <b>", "metadata": { "n": 1.50 } }),
        )
        .await;
    let tag = reply.header("etag").to_owned();
    assert_eq!(
        reply.header("location"),
        format!("/api/messages/{}", reply.json()["id"].as_str().expect("an id"))
    );
    assert!(String::from_utf8_lossy(&reply.body).contains(r#""metadata":{"n":1.5}"#));
    let sent = reply.expect(201);
    let m = sent["id"].as_str().expect("an id").to_owned();
    assert_eq!(sent["content"], "hé <b>");
    assert_eq!(
        (&sent["senderId"], &sent["conversationId"], &sent["type"]),
        (&json!("ann"), &json!(c), &json!("text"))
    );
    assert_eq!(
        (&sent["readBy"], &sent["reactions"], &sent["deletedFor"]),
        (&json!({}), &json!([]), &json!([]))
    );
    assert_eq!(tag, format!("\"{}\"", sent["rev"]));

    let unread = format!("/api/conversations/{c}/unread-count");
    assert_eq!(api.get("bob", &unread).await.expect(200), json!({ "unreadCount": 1 }));
    assert_eq!(api.get("ann", &unread).await.expect(200), json!({ "unreadCount": 0 }));
    let read = api.post("bob", &format!("/api/messages/{m}/read"), json!({})).await.expect(200);
    assert!(read["readBy"]["bob"].is_string(), "{read}");
    assert_eq!(api.get("bob", &unread).await.expect(200), json!({ "unreadCount": 0 }));
    let reads = api.get("ann", &format!("/api/messages/{m}/reads")).await.expect(200);
    assert_eq!(reads["reads"][0]["userId"], "bob");

    let edited = api
        .put("ann", &format!("/api/messages/{m}"), json!({ "content": "new" }))
        .await
        .expect(200);
    assert_eq!((&edited["content"], &edited["metadata"]["n"]), (&json!("new"), &json!(1.5)));
    assert!(edited["editedAt"].is_string() && edited["rev"].as_u64() > sent["rev"].as_u64());
    let stale = api
        .ask(
            Some(&token("ann")),
            "PUT",
            &format!("/api/messages/{m}"),
            &[("if-match", &tag)],
            Some(r#"{"content":"x"}"#),
        )
        .await;
    stale.problem(412, "precondition_failed");
    let fresh = format!("\"{}\"", edited["rev"]);
    api.ask(
        Some(&token("ann")),
        "PUT",
        &format!("/api/messages/{m}"),
        &[("if-match", &fresh)],
        Some(r#"{"content":"y"}"#),
    )
    .await
    .expect(200);
    api.put("bob", &format!("/api/messages/{m}"), json!({ "content": "not mine" }))
        .await
        .problem(403, "forbidden");
    api.delete("bob", &format!("/api/messages/{m}")).await.problem(403, "forbidden");

    let reacted = api
        .post("bob", &format!("/api/messages/{m}/reaction"), json!({ "reaction": "👍" }))
        .await
        .expect(200);
    assert_eq!(
        (&reacted["reactions"], &reacted["reactionTypes"]),
        (&json!(["bob"]), &json!({ "bob": "👍" }))
    );
    let unreacted = api.delete("bob", &format!("/api/messages/{m}/reaction")).await.expect(200);
    assert_eq!(unreacted["reactions"], json!([]));

    api.delete("ann", &format!("/api/messages/{m}")).await.expect(204);
    let gone = api.get("bob", &format!("/api/messages/{m}")).await.expect(200);
    assert_eq!(gone["content"], "");
    assert!(gone["deletedAt"].is_string() && gone.get("metadata").is_none());
}

#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let path = format!("/api/conversations/{c}/messages");
    let send = async |key: &str, body: &str| api.ask(Some(&token("ann")), "POST", &path, &[("idempotency-key", key)], Some(body)).await;
    let first = send("k1", r#"{"content":"one"}"#).await;
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = send("\"k1\"", r#"{"content":"one"}"#).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(first.expect(201), again.expect(201));
    let by_body = api.post("ann", &path, json!({ "content": "one", "clientMessageId": "k1" })).await;
    assert_eq!(by_body.header("idempotent-replayed"), "true", "header and body name the same key");
    assert_eq!(by_body.expect(201)["clientMessageId"], "k1");
    send("k1", r#"{"content":"two"}"#).await.problem(422, "idempotency_key_reused");
    send("k1", r#"{"content":"one","clientMessageId":"k2"}"#)
        .await
        .problem(400, "bad_request");
    send("", r#"{"content":"one"}"#).await.problem(400, "bad_request");
    send(&"k".repeat(129), r#"{"content":"one"}"#).await.problem(400, "bad_request");
    let list = api.get("bob", &path).await.expect(200);
    assert_eq!(list["messages"].as_array().expect("a list").len(), 1, "stored once");

    let group = r#"{"participants":["bob"],"type":"group"}"#;
    let create = async || {
        api.ask(
            Some(&token("ann")),
            "POST",
            "/api/conversations",
            &[("idempotency-key", "g")],
            Some(group),
        )
        .await
        .expect(201)
    };
    assert_eq!(create().await["id"], create().await["id"]);
}

#[tokio::test]
async fn pages_go_on_in_both_directions_without_a_gap() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let mut sent = Vec::new();
    for i in 0..7 {
        sent.push(api.say("ann", &c, &format!("m{i}")).await["id"].as_str().expect("an id").to_owned());
    }
    for (start, newest_first) in [("", true), ("after=0&", false)] {
        let mut seen: Vec<String> = Vec::new();
        let mut cursor = start.to_owned();
        loop {
            let page = api
                .get("bob", &format!("/api/conversations/{c}/messages?{cursor}limit=3"))
                .await
                .expect(200);
            seen.extend(ids(&page, "messages").into_iter().map(str::to_owned));
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("cursor={next}&");
        }
        if newest_first {
            seen.reverse();
        }
        assert_eq!(seen, sent, "{start}");
    }
    let events = api
        .get("bob", &format!("/api/conversations/{c}/events?after=2&limit=4"))
        .await
        .expect(200);
    let seqs: Vec<u64> = events["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["seq"].as_u64().expect("a seq"))
        .collect();
    assert_eq!(seqs, [3, 4, 5, 6]);
    let next = events["nextCursor"].as_str().expect("more");
    let rest = api.get("bob", &format!("/api/conversations/{c}/events?cursor={next}")).await.expect(200);
    assert_eq!(rest["events"][0]["seq"], 7);
    assert_eq!(rest["nextCursor"], Value::Null);
    assert_eq!(rest["events"][0]["name"], "message.created");
    assert_eq!(rest["events"][0]["data"]["content"], "m3");
    assert_eq!(rest["events"][0]["actor"], "ann");
}

#[tokio::test]
async fn the_list_shows_the_newest_first_and_what_is_the_callers_own() {
    let api = Api::new().await;
    let (b, d) = (api.direct("ann", "bob").await, api.direct("ann", "dora").await);
    tokio::time::sleep(std::time::Duration::from_millis(2)).await; // another millisecond than the creation of the other one
    api.say("bob", &b, &"ä".repeat(300)).await;
    let list = api.get("ann", "/api/conversations").await.expect(200);
    assert_eq!(ids(&list, "conversations"), [&b, &d]);
    let first = &list["conversations"][0];
    assert_eq!(first["lastMessage"], "ä".repeat(200));
    assert_eq!((&first["unreadCounts"], &first["archivedBy"]), (&json!({ "ann": 1 }), &json!({})));
    let page = api.get("ann", "/api/conversations?limit=1").await.expect(200);
    let next = page["nextCursor"].as_str().expect("more");
    let second = api.get("ann", &format!("/api/conversations?limit=1&cursor={next}")).await.expect(200);
    assert_eq!(ids(&second, "conversations"), [&d]);
    assert_eq!(second["nextCursor"], Value::Null);

    let archived = api.put("ann", &format!("/api/conversations/{b}/archive"), json!({})).await.expect(200);
    assert!(archived["archivedBy"]["ann"].is_string());
    assert_eq!(
        ids(&api.get("ann", "/api/conversations?archived=true").await.expect(200), "conversations"),
        [&b]
    );
    assert_eq!(
        ids(&api.get("ann", "/api/conversations?archived=false").await.expect(200), "conversations"),
        [&d]
    );
    let other = api.get("bob", &format!("/api/conversations/{b}")).await.expect(200);
    assert_eq!(other["archivedBy"], json!({}), "nobody else's business");
    api.put("ann", &format!("/api/conversations/{b}/unarchive"), json!({})).await.expect(200);

    api.delete("ann", &format!("/api/conversations/{b}")).await.expect(204);
    assert_eq!(ids(&api.get("ann", "/api/conversations").await.expect(200), "conversations"), [&d]);
    assert_eq!(
        ids(&api.get("ann", &format!("/api/conversations/{b}/messages")).await.expect(200), "messages"),
        [""; 0]
    );
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    api.say("bob", &b, "back").await;
    let back = api.get("ann", "/api/conversations").await.expect(200);
    assert_eq!(back["conversations"][0]["lastMessage"], "back");
    assert!(back["conversations"][0]["deletedBy"]["ann"].is_string());
}

#[tokio::test]
async fn delete_for_me_hides_it_from_me_alone() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let m = api.say("ann", &c, "between us").await["id"].as_str().expect("an id").to_owned();
    api.delete("bob", &format!("/api/messages/{m}/for-me")).await.expect(204);
    api.get("bob", &format!("/api/messages/{m}")).await.problem(404, "not_found");
    assert_eq!(
        ids(&api.get("bob", &format!("/api/conversations/{c}/messages")).await.expect(200), "messages"),
        [""; 0]
    );
    assert!(
        api.get("bob", &format!("/api/conversations/{c}"))
            .await
            .expect(200)
            .get("lastMessage")
            .is_none()
    );
    assert_eq!(api.get("ann", &format!("/api/messages/{m}")).await.expect(200)["content"], "between us");
}

#[tokio::test]
async fn groups_have_admins_and_members() {
    let api = Api::new().await;
    let g = api.group("ann", &["bob"]).await;
    let shown = api.get("bob", &format!("/api/conversations/{g}")).await.expect(200);
    assert_eq!(
        (&shown["groupAdmin"], &shown["groupName"], &shown["role"]),
        (&json!("ann"), &json!("G"), &json!("member"))
    );
    let people = format!("/api/conversations/{g}/participants");
    let added = api.post("ann", &people, json!({ "userId": "cleo" })).await.expect(201);
    assert_eq!((&added["userId"], &added["role"]), (&json!("cleo"), &json!("member")));
    api.post("bob", &people, json!({ "userId": "dora" })).await.problem(403, "forbidden");
    let promoted = api.put("ann", &format!("{people}/cleo"), json!({ "role": "admin" })).await.expect(200);
    assert_eq!(promoted["role"], "admin");
    api.delete("cleo", &format!("{people}/bob")).await.expect(204);
    api.get("bob", &format!("/api/conversations/{g}")).await.problem(404, "not_found");
    let list = api.get("ann", &format!("{people}?limit=1")).await.expect(200);
    assert_eq!(list["participants"][0]["userId"], "ann");
    let next = list["nextCursor"].as_str().expect("more");
    let rest = api.get("ann", &format!("{people}?limit=1&cursor={next}")).await.expect(200);
    assert_eq!((&rest["participants"][0]["userId"], &rest["nextCursor"]), (&json!("cleo"), &Value::Null));
    let renamed = api
        .put(
            "ann",
            &format!("/api/conversations/{g}"),
            json!({ "groupName": "New", "groupAvatar": "/a.png" }),
        )
        .await
        .expect(200);
    assert_eq!((&renamed["groupName"], &renamed["groupAvatar"]), (&json!("New"), &json!("/a.png")));
    let closed = api
        .put("ann", &format!("/api/conversations/{g}"), json!({ "isActive": false, "reason": "done" }))
        .await
        .expect(200);
    assert_eq!(closed["isActive"], false);
    api.post("cleo", &format!("/api/conversations/{g}/messages"), json!({ "content": "x" }))
        .await
        .problem(409, "conflict");
}

#[tokio::test]
async fn bulk_reading_moves_the_mark_to_the_newest() {
    let api = Api::new().await;
    let (c, other) = (api.direct("ann", "bob").await, api.direct("ann", "cleo").await);
    let mut sent = Vec::new();
    for text in ["1", "2", "3"] {
        sent.push(api.say("ann", &c, text).await["id"].clone());
    }
    let path = format!("/api/conversations/{c}/messages/bulk-mark-read");
    let left = api.post("bob", &path, json!({ "messageIds": [sent[1], sent[0]] })).await.expect(200);
    assert_eq!(left, json!({ "unreadCount": 1 }));
    let foreign = api.say("ann", &other, "x").await["id"].clone();
    let problem = api
        .post("bob", &path, json!({ "messageIds": [sent[0], foreign] }))
        .await
        .problem(400, "bad_request");
    assert_eq!(problem["errors"][0]["pointer"], "/messageIds/1");
    api.post("bob", &path, json!({ "messageIds": [] })).await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_forward_names_what_the_sender_can_read() {
    let api = Api::new().await;
    let (ab, ac, xy) = (
        api.direct("ann", "bob").await,
        api.direct("ann", "cleo").await,
        api.direct("xena", "yuri").await,
    );
    let original = api.say("bob", &ab, "news").await["id"].clone();
    let secret = api.say("xena", &xy, "secret").await["id"].clone();
    let path = format!("/api/conversations/{ac}/messages");
    let forwarded = api
        .post("ann", &path, json!({ "content": "news", "forwardedFromId": original }))
        .await
        .expect(201);
    assert_eq!((&forwarded["isForwarded"], &forwarded["forwardedFromId"]), (&json!(true), &original));
    let refused = api.post("ann", &path, json!({ "content": "secret", "forwardedFromId": secret })).await;
    assert!(refused.status.is_client_error(), "{refused:?}");
    let reply = api
        .post("cleo", &path, json!({ "content": "!", "replyToId": forwarded["id"] }))
        .await
        .expect(201);
    assert_eq!(reply["replyToId"], forwarded["id"]);
}

#[tokio::test]
async fn a_location_is_a_message() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let body = json!({ "latitude": 48.85, "longitude": 2.35, "address": "Paris" });
    let sent = api
        .post("ann", &format!("/api/conversations/{c}/messages/location"), body.clone())
        .await
        .expect(201);
    assert_eq!((&sent["type"], &sent["metadata"]), (&json!("location"), &body));
}

#[tokio::test]
async fn profiles_show_others_what_is_public() {
    let api = Api::new().await;
    let me = api.get("ann", "/api/users/me").await.expect(200);
    assert_eq!((&me["id"], &me["name"], &me["attributes"]), (&json!("ann"), &Value::Null, &json!({})));
    let admin = token_with("root", &["admin"]);
    let whole = r#"{"name":"Ann","avatar":"/ann.png","roles":["seller"],"attributes":{"iban":"DE1","timeZone":"UTC"},"preferences":{"lang":"de"}}"#;
    let put = api.ask(Some(&admin), "PUT", "/api/users/ann", &[], Some(whole)).await.expect(200);
    assert_eq!(put["attributes"]["iban"], "DE1");
    let patch = async |body: &str| api.ask(Some(&token("ann")), "PATCH", "/api/users/me", &[], Some(body)).await;
    let patched = patch(r#"{"attributes":{"servicePackages":[{"id":"p","price":80.50}]}}"#)
        .await
        .expect(200);
    assert_eq!(
        patched["attributes"],
        json!({ "iban": "DE1", "timeZone": "UTC", "servicePackages": [{ "id": "p", "price": 80.5 }] })
    );
    assert_eq!((&patched["name"], &patched["roles"]), (&json!("Ann"), &json!(["seller"])));
    patch(r#"{"attributes":{"iban":"DE2"}}"#).await.problem(403, "forbidden");
    patch(r#"{"roles":["admin"]}"#).await.problem(400, "bad_request");
    let removed = patch(r#"{"attributes":{"timeZone":null},"name":""}"#).await.expect(200);
    assert_eq!((&removed["attributes"].get("timeZone"), &removed["name"]), (&None, &Value::Null));

    let public = api.get("bob", "/api/users/ann").await.expect(200);
    assert_eq!(public["attributes"], json!({ "servicePackages": [{ "id": "p", "price": 80.5 }] }));
    assert!(public.get("roles").is_none() && public.get("preferences").is_none());
    api.get("bob", "/api/users/nobody").await.problem(404, "not_found");
    api.put("bob", "/api/users/ann", json!({ "name": "Eve" })).await.problem(403, "forbidden");
    let replaced = api.ask(Some(&admin), "PUT", "/api/users/ann", &[], Some("{}")).await.expect(200);
    assert_eq!(
        (&replaced["roles"], &replaced["attributes"], &replaced["preferences"]["lang"]),
        (&json!([]), &json!({}), &json!("de"))
    );
}

#[tokio::test]
async fn a_block_ends_direct_messages_and_presence() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    api.put("ann", "/api/users/bob/block", json!({})).await.expect(204);
    let blocks = async || api.get("ann", "/api/users/me/blocks").await.expect(200);
    // The list is in the user's own stream, which follows a moment later.
    let listed = async {
        while blocks().await != json!({ "blocks": [{ "userId": "bob" }] }) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), listed).await.expect("listed");
    api.post("bob", &format!("/api/conversations/{c}/messages"), json!({ "content": "x" }))
        .await
        .problem(403, "blocked");
    let presence = api.get("bob", "/api/users/ann/presence").await.expect(200);
    assert_eq!(presence, json!({ "userId": "ann", "isOnline": false, "lastSeen": null }));
    api.delete("ann", "/api/users/bob/block").await.expect(204);
    api.say("bob", &c, "again").await;
    api.put("ann", "/api/users/ann/block", json!({})).await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_conversation_can_be_muted() {
    let api = Api::new().await;
    let c = api.direct("ann", "bob").await;
    let path = format!("/api/conversations/{c}/mute");
    api.put("ann", &path, json!({ "until": "2099-01-01T00:00:00Z" })).await.expect(204);
    let shown = api.get("ann", &format!("/api/conversations/{c}")).await.expect(200);
    assert_eq!(shown["mutedUntil"], "2099-01-01T00:00:00.000Z");
    api.put("ann", &path, json!({ "until": "tomorrow" })).await.problem(400, "bad_request");
    api.delete("ann", &path).await.expect(204);
    assert!(
        api.get("ann", &format!("/api/conversations/{c}"))
            .await
            .expect(200)
            .get("mutedUntil")
            .is_none()
    );
}
