//! What is counted, and under which label.

use std::{collections::BTreeMap, future::Future, time::Duration};

use haggle_engine::{Actor, Transport};
use haggle_gateway::{SocketIoSettings, metrics::describe, socketio::metrics as names};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};

use crate::{
    client::{Got, PATIENCE, Server, Socket, of_plugin, token},
    dialects::ask,
};

/// Counters of one test alone: everything that it starts runs on its own thread.
#[derive(Clone)]
struct Counters(PrometheusHandle);

impl Counters {
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Counters) -> F) {
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let counters = Counters(recorder.handle());
        ::metrics::with_local_recorder(&recorder, || {
            describe();
            runtime.block_on(test(counters));
            drop(runtime); // With all tasks, which may count something at their end.
        });
    }

    /// The counter's values by their only label.
    fn by_label(&self, counter: &str) -> BTreeMap<String, u64> {
        let rendered = self.0.render();
        let lines = rendered.lines().filter_map(|line| line.strip_prefix(counter)?.strip_prefix('{'));
        let value = |line: &str| {
            let (label, value) = line.split_once("\"} ")?;
            Some((label.split_once("=\"")?.1.to_owned(), value.parse().ok()?))
        };
        lines.map(|line| value(line).expect("one label and a whole number")).collect()
    }

    /// The value of a counter without a label.
    fn alone(&self, counter: &str) -> u64 {
        let rendered = self.0.render();
        let value = rendered.lines().find_map(|line| line.strip_prefix(counter)?.strip_prefix(' '));
        value.expect("it is there from the start").parse().expect("a whole number")
    }

    async fn until(&self, what: &str, holds: impl Fn(&Counters) -> bool) {
        let held = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, held).await.expect(what);
    }
}

const MOMENT: Duration = Duration::from_millis(50);

type Change = fn(&mut SocketIoSettings);

const AS_IT_IS: Change = |_| {};

/// Every reason, and the settings that make it quick.
const REASONS: [(&str, Change); 9] = [
    ("transport close", AS_IT_IS),
    ("transport error", AS_IT_IS),
    ("ping timeout", |settings| {
        (settings.ping_interval, settings.ping_timeout) = (MOMENT, MOMENT)
    }),
    ("parse error", AS_IT_IS),
    ("forced close", |settings| settings.connect_within = MOMENT),
    ("forced server close", AS_IT_IS),
    ("server shutting down", AS_IT_IS),
    ("client namespace disconnect", AS_IT_IS),
    ("server namespace disconnect", |settings| settings.auth_grace = MOMENT),
];

/// Lets a session, or its place in a namespace, end for this reason.
async fn end(server: &Server, reason: &str) -> Option<Socket> {
    if reason == "transport error" {
        let sid = server.open().await;
        let first = server.polling(&sid).await;
        assert_eq!(server.poll(&sid).await.status, 400, "one GET at a time");
        first.await.expect("answered");
        return None;
    }
    let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
    assert!(socket.text().await.starts_with('0'));
    match reason {
        "transport close" => return None,
        "parse error" => socket.send("nonsense").await,
        "forced server close" => socket.send("42[\"not joined\"]").await,
        "server shutting down" => server.gateway.socketio.drain(),
        "client namespace disconnect" => {
            socket.send("40/echo,").await;
            socket.send("41/echo,").await;
        }
        "server namespace disconnect" => socket.send("40/chat,").await,
        _ => {}
    }
    Some(socket)
}

#[test]
fn every_end_is_counted_once_under_its_reason() {
    for (reason, change) in REASONS {
        Counters::run(async |counters| {
            let server = Server::with(change).await;
            let none = counters.by_label(names::CLOSES);
            let all: BTreeMap<String, u64> = REASONS.iter().map(|(reason, _)| ((*reason).to_owned(), 0)).collect();
            assert_eq!(none, all, "all of them are there from the start");
            let _socket = end(&server, reason).await;
            counters.until(reason, |counters| counters.by_label(names::CLOSES) != none).await;
            let mut one = all;
            one.insert(reason.to_owned(), 1);
            assert_eq!(counters.by_label(names::CLOSES), one);
        });
    }
}

async fn join_shop(server: &Server, data: Value) -> (Socket, Value) {
    let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
    assert!(socket.text().await.starts_with('0'));
    socket.send(&format!("40/shop,{data}")).await;
    let answer = socket.text().await;
    let connected = serde_json::from_str(answer.strip_prefix("40/shop,").expect("joined")).expect("JSON");
    (socket, connected)
}

/// The text of the next event of this name in the shop.
async fn heard(socket: &mut Socket, name: &str) -> Value {
    loop {
        let text = socket.text().await;
        let event: Value = text
            .strip_prefix("42/shop,")
            .map_or(Value::Null, |json| serde_json::from_str(json).expect("JSON"));
        if event[0] == name {
            return event[1].clone();
        }
    }
}

#[test]
fn what_a_plugin_is_too_slow_to_map_is_counted_and_harms_nobody_else() {
    Counters::run(async |counters| {
        let server = Server::with(|settings| {
            settings.dialects = vec![of_plugin("/shop")];
            settings.recovery_namespaces = vec!["/shop".into()];
        })
        .await;
        let conversation = server.direct("ann", "bob").await;
        let (mut bob, kept) = join_shop(&server, json!({"token": token("bob")})).await;
        let (mut eve, _) = join_shop(&server, json!({"token": token("eve")})).await;
        let mut chat = server.chat("bob").await;
        let lost = |counters: &Counters| counters.by_label(names::UNMAPPED)["full"];

        // The plugin maps nothing more, and events wait until there is no room for another one.
        let held_up = server.gate.write().await;
        let mut said = 0;
        while lost(&counters) == 0 {
            server.say("ann", conversation, &said.to_string()).await;
            assert_eq!(chat.event("new_message").await["message"]["content"], said.to_string());
            said += 1;
            assert!(said < 5_000, "the queue is bounded");
        }
        server.say("ann", conversation, "lost").await;
        assert_eq!(
            chat.event("new_message").await["message"]["content"],
            "lost",
            "everybody else hears of it"
        );
        while bob.next().await != Got::Closed {}
        assert_eq!(counters.by_label(names::CLOSES)["forced server close"], 1, "bob alone is disconnected");
        assert_eq!(ask(&mut eve, 1, json!(["e", {"n": 1}])).await, json!([{"n": 1}]));

        // Signs of life are dropped, and nobody is disconnected for them.
        let back = json!({"token": token("bob"), "pid": kept["pid"], "offset": null});
        let (mut bob, new) = join_shop(&server, back).await;
        assert_ne!(new["sid"], kept["sid"], "who has missed something is not recovered");
        let before = lost(&counters);
        server.gateway.engine.typing(&Actor::user("ann", Transport::Rest), conversation, true);
        counters.until("typing is dropped", |counters| lost(counters) > before).await;
        assert_eq!(ask(&mut bob, 1, json!(["e", {"n": 2}])).await, json!([{"n": 2}]));

        drop(held_up);
        server.say("ann", conversation, "after").await;
        while heard(&mut bob, "message_notification").await != "after" {}
    });
}

#[test]
fn connects_are_counted_by_their_result() {
    Counters::run(async |counters| {
        let server = Server::with(|settings| settings.dialects = vec![of_plugin("/shop")]).await;
        for (connect, result) in [
            (format!("40/chat,{}", json!({"token": token("ann")})), "joined"),
            ("40/chat,".to_owned(), "refused"),
            ("40/none,".to_owned(), "unknown"),
            (format!("40/shop,{}", json!({"token": token("ann"), "fails": "overloaded"})), "failed"),
        ] {
            let before = counters.by_label(names::CONNECTS);
            server.post(&server.open().await, &connect).await;
            let mut expect = before;
            *expect.get_mut(result).expect("it is there from the start") += 1;
            assert_eq!(counters.by_label(names::CONNECTS), expect, "{connect}");
        }
    });
}

#[test]
fn a_mapping_is_tried_again_while_its_plugin_is_busy_and_not_where_it_is_broken() {
    Counters::run(async |counters| {
        let server = Server::with(|settings| settings.dialects = vec![of_plugin("/shop")]).await;
        let conversation = server.direct("ann", "bob").await;
        let (mut bob, _) = join_shop(&server, json!({"token": token("bob")})).await;
        let fail = |kinds: &[&'static str]| server.failing.lock().unwrap().extend(kinds);
        let lost = |reason| counters.by_label(names::UNMAPPED)[reason];

        fail(&["overloaded", "timeout", "breaker", "gone"]);
        for text in ["first", "second"] {
            server.say("ann", conversation, text).await;
        }
        for text in ["first", "second"] {
            assert_eq!(heard(&mut bob, "message_notification").await, text, "in order");
        }
        assert_eq!((lost("failed"), lost("late")), (0, 0));

        fail(&["trap"]);
        for text in ["broken", "third"] {
            server.say("ann", conversation, text).await;
        }
        assert_eq!(heard(&mut bob, "message_notification").await, "third");
        assert_eq!((lost("failed"), lost("late")), (1, 0));

        fail(&["breaker"; 1_000]);
        server.say("ann", conversation, "fourth").await;
        while bob.next().await != Got::Closed {}
        assert_eq!((lost("failed"), lost("late"), lost("full")), (1, 1, 0), "who missed it comes back");
        assert_eq!(counters.by_label(names::CLOSES)["forced server close"], 1);
    });
}

#[test]
fn questions_without_an_answer_are_counted() {
    Counters::run(async |counters| {
        let server = Server::with(|settings| settings.dialects = vec![of_plugin("/shop")]).await;
        let (mut ann, _) = join_shop(&server, json!({"token": token("ann")})).await;
        for id in 0..66 {
            assert_eq!(ask(&mut ann, id, json!(["ask", id])).await, json!([]));
        }
        assert_eq!(counters.alone(names::UNANSWERED), 2, "64 are kept");
        ann.send("43/shop,65[\"yes\"]").await;
        assert_eq!(heard(&mut ann, "answered").await, "yes");
        ann.send("41/shop,").await;
        counters
            .until("the others are counted", |counters| counters.alone(names::UNANSWERED) == 65)
            .await;
    });
}

#[test]
fn requests_for_another_node_are_counted() {
    Counters::run(async |counters| {
        let server = Server::start().await;
        for (sid, expect) in [("n1.unknown", 0), ("n2.other", 1), ("nonsense", 1)] {
            let answer = server.poll(sid).await;
            assert_eq!((answer.status, counters.alone(names::MISROUTED)), (400, expect), "{sid}");
        }
    });
}
