//! Many clients of a plugin's namespace come, speak and go at moments that nobody chose: whatever meets, a plugin hears of a
//! connection in order, and nothing of it stays.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use haggle_engine::{Actor, Transport};
use haggle_gateway::SocketIoSettings;
use haggle_model::ConversationId;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    client::{Got, Server, Socket, of_plugin, token},
    server::plugin::Random,
};

const STORM: Duration = Duration::from_secs(2);
const CLIENTS: u64 = 24;
/// Clients of one user; one of them finds no place now and then.
const CLIENTS_PER_USER: u64 = 4;
const CONNECTIONS_PER_USER_MAX: usize = 3;
/// The plugin thinks up to so long, twice in each call.
const THINKS: Duration = Duration::from_millis(2);
/// Between two steps of a client.
const PAUSE: Duration = Duration::from_millis(4);
/// Sessions that are left without a word end within this time.
const MOMENT: Duration = Duration::from_millis(200);
/// The server's last word waits 30 s for a GET.
const SOON: Duration = Duration::from_secs(40);

struct Storm {
    server: Server,
    /// Of everybody.
    conversation: ConversationId,
    random: Random,
    until: Instant,
}

fn user(client: u64) -> String {
    format!("user-{}", client / CLIENTS_PER_USER)
}

impl Storm {
    async fn client(&self, client: u64) {
        let user = user(client);
        let mut before = None;
        while Instant::now() < self.until {
            match self.random.below(3) {
                0 => self.polling(&user).await,
                _ => before = self.websocket(&user, before.take()).await,
            }
            self.random.pause(PAUSE).await;
        }
    }

    /// The connect's packet. `before`: the secret of a place that it had.
    fn connect(&self, user: &str, before: Option<&str>) -> String {
        let mut data = match self.random.below(10) {
            0 => json!({"as": "unwelcome"}),
            1 => json!({"as": "broken"}),
            2 => json!({"enters": self.conversation.to_string()}),
            3 => json!({"greetings": 20}),
            _ => json!({"as": "greet"}),
        };
        data["token"] = json!(token(user));
        if let Some(before) = before {
            (data["pid"], data["offset"]) = (json!(before), Value::Null);
        }
        format!("40/shop,{}", data)
    }

    fn event(&self) -> String {
        let event = match self.random.below(7) {
            0 => json!(["room", "desk"]),
            1 => json!(["room", format!("room-{}", self.random.below(4))]),
            2 => json!(["emit", "desk"]),
            3 => json!(["join", self.conversation.to_string()]),
            4 => json!(["ask", 1]),
            5 => json!(["fail"]),
            _ => json!(["e", "text"]),
        };
        match self.random.below(2) {
            0 => format!("42/shop,{event}"),
            _ => format!("42/shop,{}{event}", self.random.below(100)),
        }
    }

    /// One session over a WebSocket. Returns the secret of its place where it was cut off.
    async fn websocket(&self, user: &str, before: Option<String>) -> Option<String> {
        let mut socket = self.server.upgrade("EIO=4&transport=websocket").await.ok()?;
        socket.send(&self.connect(user, before.as_deref())).await;
        let mut pid = None;
        for _ in 0..self.random.below(8) {
            match self.random.below(8) {
                0 => {
                    socket.send("41/shop,").await;
                    self.random.pause(PAUSE).await;
                    socket.send(&self.connect(user, None)).await;
                }
                1..4 => pid = self.listen(&mut socket).await.or(pid),
                _ => socket.send(&self.event()).await,
            }
            self.random.pause(PAUSE).await;
        }
        match self.random.below(4) {
            0 => socket.send("41/shop,").await,
            1 => socket.send("1").await,
            2 => socket.send("nonsense").await,
            _ => {}
        }
        pid
    }

    /// Hears what there is, answers what is asked; the secret of the place, where it is told.
    async fn listen(&self, socket: &mut Socket) -> Option<String> {
        let mut pid = None;
        while let Ok(Got::Text(text)) = timeout(PAUSE, socket.next()).await {
            if let Some(connected) = text.strip_prefix("40/shop,") {
                let connected: Value = serde_json::from_str(connected).expect("JSON");
                pid = connected["pid"].as_str().map(str::to_owned);
            }
            if let Some(question) = text.strip_prefix("42/shop,").filter(|event| event.contains("\"question\"")) {
                let id = question.split('[').next().expect("an id");
                socket.send(&format!("43/shop,{id}[]")).await;
            }
        }
        pid
    }

    /// One session by polling, left in the middle of a request, by a violation, or with a word.
    async fn polling(&self, user: &str) {
        let sid = self.server.open().await;
        let connecting = self.server.posting(&sid, self.connect(user, None));
        self.random.pause(PAUSE).await;
        match self.random.below(4) {
            0 => connecting.abort(),
            1 => drop(self.server.post(&sid, "3").await),
            _ => {
                let _ = connecting.await;
                let events: Vec<_> = (0..1 + self.random.below(5)).map(|_| self.event()).collect();
                let posting = self.server.posting(&sid, events.join("\u{1e}"));
                self.random.pause(PAUSE).await;
                match self.random.below(3) {
                    0 => posting.abort(),
                    1 => drop(self.server.post(&sid, "1").await),
                    _ => drop(posting.await),
                }
            }
        }
        self.server.poll(&sid).await; // Which takes a last word along.
    }

    /// Something to map all the time.
    async fn talk(&self) {
        while Instant::now() < self.until {
            let speaker = user(self.random.below(CLIENTS));
            self.server.say(&speaker, self.conversation, "text").await;
            let on = self.random.below(2) == 0;
            self.server
                .gateway
                .engine
                .typing(&Actor::user(speaker, Transport::Rest), self.conversation, on);
            self.random.pause(PAUSE).await;
        }
    }
}

async fn eventually(what: &str, holds: impl Fn() -> Result<(), String>) {
    let end = Instant::now() + SOON;
    while let Err(why) = holds() {
        assert!(Instant::now() < end, "{what}: {why}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is(found: usize, expect: usize) -> Result<(), String> {
    if found == expect {
        Ok(())
    } else {
        Err(format!("{found}, not {expect}"))
    }
}

/// What the plugin was asked of one connection: one thing at a time, its connect first, and its disconnect last if it came in,
/// or may have; a connect that was given up before the plugin began leaves the disconnect alone.
fn check(session: &str, calls: &[&str]) -> Result<(), String> {
    let (calls, rest) = calls.as_chunks::<2>();
    let in_order = calls
        .iter()
        .all(|[what, end]| ["connect", "event", "disconnect"].contains(what) && ["yes", "no", "broken off"].contains(end));
    let first = calls.first().map(|[what, end]| (*what, *end));
    let count = |wanted: &str| calls.iter().filter(|[what, _]| *what == wanted).count();
    let good = match first {
        Some(("connect", "no")) => calls.len() == 1,
        // The client went when its connect was on the way to the plugin, which nobody knows.
        Some(("disconnect", "yes")) => calls.len() == 1,
        Some(("connect", "broken off")) => calls.len() == 2 && calls[1] == ["disconnect", "yes"],
        Some(("connect", _)) => count("connect") == 1 && count("disconnect") == 1 && calls.last() == Some(&["disconnect", "yes"]),
        _ => false,
    };
    if good && in_order && rest.is_empty() {
        Ok(())
    } else {
        Err(format!("{session}: {calls:?} {rest:?}"))
    }
}

async fn storm(seed: u64, change: impl FnOnce(&mut SocketIoSettings)) {
    println!("seed {seed}");
    let server = Server::set(|settings| {
        settings.ws.connections_per_user_max = CONNECTIONS_PER_USER_MAX;
        settings.socketio.dialects = vec![of_plugin("/shop")];
        (settings.socketio.ping_interval, settings.socketio.ping_timeout) = (MOMENT, MOMENT);
        change(&mut settings.socketio);
    })
    .await;
    let gateway = server.gateway.clone();
    let idle = Arc::strong_count(&gateway);
    let users: Vec<_> = (0..CLIENTS / CLIENTS_PER_USER).map(|number| user(number * CLIENTS_PER_USER)).collect();
    let others: Vec<_> = users[1..].iter().map(String::as_str).collect();
    let conversation = server.group(&users[0], &others).await;
    server.pauses.max.set(THINKS).expect("it is set once");
    let storm = Arc::new(Storm {
        server,
        conversation,
        random: Random::new(seed),
        until: Instant::now() + STORM,
    });

    let mut all = JoinSet::new();
    for client in 0..CLIENTS {
        let storm = storm.clone();
        all.spawn(async move { storm.client(client).await });
    }
    storm.talk().await;
    while let Some(ended) = all.join_next().await {
        ended.expect("no client panics");
    }

    eventually("sessions", || is(gateway.socketio.len(), 0)).await;
    eventually("users that are online", || is(gateway.engine.hub().users_online(), 0)).await;
    // Every session, place and permit holds the gateway, whoever else holds on to them: lists, rooms, queues, rings. So does the
    // task that keeps time, since the first session.
    eventually("holders of the gateway", || is(Arc::strong_count(&gateway), idle + 1)).await;
    let by_session = || {
        let mut by_session: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        let mut maps = 0;
        for (session, what) in storm.server.calls.lock().unwrap().iter() {
            match session.is_empty() {
                true => maps += usize::from(*what == "map"),
                false => by_session.entry(session.clone()).or_default().push(what),
            }
        }
        (by_session, maps)
    };
    eventually("calls of the plugin", || {
        by_session().0.iter().try_for_each(|(session, calls)| check(session, calls))
    })
    .await;
    let (sessions, maps) = by_session();
    let with = |call: &str| sessions.values().filter(|calls| calls.contains(&call)).count();
    println!(
        "{} connections, {} told no, {} broken off, {maps} mappings",
        sessions.len(),
        with("no"),
        with("broken off")
    );
    assert!(with("yes") > 100 && with("broken off") > 0 && maps > 50, "the storm was one");

    // Nobody is counted any more.
    let mut sockets = Vec::new();
    for user in &users {
        for _ in 0..CONNECTIONS_PER_USER_MAX {
            let mut socket = storm.server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
            assert!(socket.text().await.starts_with('0'));
            socket.send(&format!("40/shop,{}", json!({"token": token(user)}))).await;
            assert!(socket.text().await.starts_with("40/shop,"), "{user} has all its places");
            sockets.push(socket);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_stays_of_who_comes_and_goes_at_any_moment() {
    storm(1, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_stays_of_who_is_cut_off_at_any_moment_and_may_come_back() {
    storm(2, |settings| {
        settings.recovery_namespaces = vec!["/shop".into()];
        settings.recovery_within = MOMENT;
    })
    .await;
}
