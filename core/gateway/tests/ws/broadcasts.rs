//! What a reader of a broadcast sees: it stands in the heads, has marks and unread messages, and is told of new ones.

use std::sync::Arc;

use haggle_engine::{Actor, Command, NewConversation, NewMessage, Request, To, Transport};
use haggle_model::ConversationId;
use serde_json::{Value, json};

use crate::{
    client::Client,
    server::{Server, token, token_with},
};

async fn as_root(server: &Server, command: Command) -> haggle_engine::Outcome {
    let root = Actor {
        roles: Arc::from(["admin".to_owned()]),
        ..Actor::user("root", Transport::Rest)
    };
    server.gateway.engine.execute(Request::new(root, command)).await.expect("admins may")
}

async fn say(server: &Server, conversation: ConversationId, text: &str) -> u32 {
    let to = To::Conversation(conversation);
    let message = NewMessage::text(text);
    as_root(server, Command::Send { to, message }).await.seq
}

async fn login(server: &Server, user: &str) -> (Client, Value) {
    let mut client = Client::connect(server.address).await;
    client.request(json!({"t": "auth", "token": token(user)})).await;
    let heads = client.until(|frame| frame["t"] == "heads").await;
    (client, heads["d"].clone())
}

#[tokio::test]
async fn a_reader_has_heads_marks_and_unread() {
    let server = Server::start().await;
    let new = NewConversation::Broadcast { name: "news".into() };
    let news = as_root(&server, Command::CreateConversation(new)).await.conversation;
    let (c, first) = (news.to_string(), say(&server, news, "one").await);
    let second = say(&server, news, "two").await;

    let (mut phone, heads) = login(&server, "ann").await;
    assert_eq!(
        (&heads[0]["c"], &heads[0]["head"], &heads[0]["unread"], &heads[0]["read"]),
        (&json!(c), &json!(second), &json!(2), &json!(0))
    );
    let (mut laptop, _) = login(&server, "ann").await;
    let (mut other, _) = login(&server, "bob").await;
    let subscribed = laptop.request(json!({"t": "sub", "c": c})).await;
    assert_eq!((&subscribed["d"]["head"], &subscribed["d"]["unread"]), (&json!(second), &json!(2)));
    other.request(json!({"t": "sub", "c": c})).await;

    assert_eq!(phone.request(json!({"t": "read", "c": c, "s": first})).await["t"], "ok");
    let head = phone.until(|frame| frame["t"] == "head" && frame["c"] == c.as_str()).await;
    assert_eq!(
        (&head["head"], &head["unread"]),
        (&json!(second), &json!(1)),
        "an unsubscribed device is told its count"
    );
    let mark = laptop.until(|frame| frame["t"] == "mark").await;
    assert_eq!((&mark["c"], &mark["user"], &mark["read"]), (&json!(c), &json!("ann"), &json!(first)));

    let third = say(&server, news, "three").await;
    let head = phone.until(|frame| frame["t"] == "head" && frame["head"] == third).await;
    assert_eq!(head["unread"], 2);
    let seen = other.until_all(|frame| frame["t"] == "ev" && frame["s"] == third).await;
    assert!(
        seen.iter().all(|frame| frame["t"] != "mark"),
        "another reader's mark is nobody's business: {seen:?}"
    );

    let mut again = Client::connect(server.address).await;
    again
        .request(json!({"t": "auth", "token": token("ann"), "cur": {(c.clone()): second}}))
        .await;
    let seen = again.until_all(|frame| frame["t"] == "ev").await;
    let mark = seen.iter().find(|frame| frame["t"] == "mark").expect("resume gives the present mark");
    assert_eq!((&mark["c"], &mark["read"]), (&json!(c), &json!(first)));
}

#[tokio::test]
async fn only_admins_write_and_everybody_subscribes() {
    let server = Server::start().await;
    let mut root = Client::login(server.address, &token_with("root", &["admin"])).await;
    let made = root.request(json!({"t": "create", "n": "broadcast", "d": {"groupName": "news"}})).await;
    let c = made["d"]["c"].clone();
    let mut ann = Client::login(server.address, &token("ann")).await;
    let refused = ann.request(json!({"t": "send", "c": c, "d": {"content": "me too"}})).await;
    assert_eq!(refused["e"]["code"], "forbidden");
    ann.request(json!({"t": "sub", "c": c})).await;
    root.request(json!({"t": "send", "c": c, "d": {"content": "hello all"}})).await;
    assert_eq!(ann.until(|frame| frame["t"] == "ev").await["d"]["content"], "hello all");
}
