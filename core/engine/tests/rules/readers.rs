//! Who has read which messages, as plugins are told.

use std::sync::Arc;

use haggle_engine::{
    Actor, Readers, Transport,
    ports::{HttpRequest, HttpResponse},
};
use haggle_model::{ErrorCode, MessageId};
use parking_lot::Mutex;

use crate::support::{
    HOUR, START, World,
    plugins::{Fake, FakePlugins, reject},
};

/// The ids that a text names.
fn ids(text: &str) -> Vec<MessageId> {
    text.split_whitespace().map(|id| id.parse().expect("an id")).collect()
}

fn shown(messages: Vec<Readers>) -> String {
    let one = |readers: Readers| {
        let readers: Vec<_> = readers.iter().map(|(user, at)| format!("{user}@{}", (at - START) / HOUR)).collect();
        readers.join("+")
    };
    messages.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The command `readers` asks as the plugin, the route as its user; the route's answer is kept.
fn plugin(said: &Arc<Mutex<Result<String, ErrorCode>>>) -> Fake {
    let said = said.clone();
    Fake::new("shop")
        .command("readers", |host, _, payload| async move {
            let found = host.read_by(ids(&payload)).await;
            Ok(shown(found.map_err(|error| reject(&error.to_string()))?))
        })
        .http(move |host, _, request| {
            let said = said.clone();
            async move {
                let client = host.client().expect("a route may act as its user");
                let found = client.read_by(&ids(&request.query)).await;
                *said.lock() = found.map(shown).map_err(|refusal| refusal.code);
                Ok(HttpResponse {
                    status: 200,
                    headers: Vec::new(),
                    body: Vec::new(),
                })
            }
        })
}

#[tokio::test]
async fn readers_are_told_with_the_time_of_the_first_step_that_reached_the_message() {
    let said = Arc::new(Mutex::new(Ok(String::new())));
    let world = World::with_hooks(FakePlugins::of([plugin(&said)])).await;
    let id = world.group("ann", &["bob", "cid"]).await;
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(world.send("ann", id, text).await.expect("sent").seq);
    }
    for (user, message) in [("bob", 0), ("cid", 1), ("bob", 2)] {
        world.clock.advance(HOUR);
        world.read_up_to(user, id, sent[message]).await.expect("read");
    }
    let page: Vec<_> = sent.iter().map(|seq| id.message(*seq).to_string()).collect();
    let page = page.join(" ");
    let told = world
        .call("bob", id, "readers", &page)
        .await
        .expect("answered")
        .answer
        .expect("an answer");
    let others = |told: &str| told.replace("ann@0+", "").replace("ann@0", "");
    assert_eq!(others(&told), "bob@1+cid@2, bob@3+cid@2, bob@3", "{told}");

    let ask = async |user: &str, query: &str| {
        let request = HttpRequest {
            query: query.into(),
            ..HttpRequest::default()
        };
        let asked = world
            .engine
            .http(Actor::user(user, Transport::Rest), String::new(), &"shop".into(), request)
            .await;
        asked.expect("answered");
        said.lock().clone()
    };
    assert_eq!(ask("cid", &page).await, Ok(told));
    assert_eq!(ask("cid", "").await, Ok(String::new()));
    assert_eq!(ask("eve", &page).await, Err(ErrorCode::NotFound), "who may not read it is not told");

    let other = world.direct("ann", "dan").await;
    let elsewhere = other.message(1).to_string();
    assert_eq!(ask("ann", &format!("{page} {elsewhere}")).await, Err(ErrorCode::BadRequest));
    let foreign = world.call("ann", id, "readers", &elsewhere).await.expect_err("not the plugin's to read");
    assert!(foreign.to_string().contains("denied"), "{foreign}");
}
