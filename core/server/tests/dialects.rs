//! Which namespaces of plugins a connection gets: by host, port, path and claim, on the real binary with two listeners.

mod common;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
};

use common::{Server, request, stdout};

/// Each is bound by the condition of its name, the last one by all of them.
const NAMESPACES: [&str; 5] = ["/host", "/port", "/path", "/claim", "/all"];
const HOST: &str = "shop.example";
const PATH: &str = "/shop/socket.io/";

fn dialects(port: u16) -> String {
    let conditions = [
        format!("host = \"{HOST}\""),
        format!("port = {port}"),
        format!("path = \"{PATH}\""),
        "claim = { name = \"sub\", value = \"ann\" }".to_owned(),
    ];
    let all = conditions.join("\n");
    let tables = NAMESPACES
        .iter()
        .zip(conditions.iter().chain([&all]))
        .map(|(namespace, conditions)| format!("[[socketio.dialects]]\nnamespace = \"{namespace}\"\nplugin = \"nobody\"\n{conditions}\n"));
    tables.collect()
}

/// How a client connects.
#[derive(Clone, Copy)]
struct Client<'a> {
    to: SocketAddr,
    path: &'a str,
    host: &'a str,
    token: &'a str,
}

impl Client<'_> {
    fn ask(&self, method: &str, query: &str, body: &str) -> String {
        let path = format!("{}?EIO=4&transport=polling{query}", self.path);
        let head = [("host", self.host), ("content-type", "text/plain;charset=UTF-8")];
        let answer = request(self.to, method, &path, &head, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// The namespaces that are a plugin's for this client. There is no such plugin, which only they say.
    fn bound(&self) -> BTreeSet<&'static str> {
        let open = self.ask("GET", "", "");
        let open: serde_json::Value = serde_json::from_str(open.strip_prefix('0').expect("an open packet")).expect("JSON");
        let sid = format!("&sid={}", open["sid"].as_str().expect("an id"));
        let connects = NAMESPACES.map(|namespace| format!("40{namespace},{{\"token\":\"{}\"}}", self.token));
        self.ask("POST", &sid, &connects.join("\u{1e}"));
        let mut answers = Vec::new();
        while answers.len() < NAMESPACES.len() {
            let payload = self.ask("GET", &sid, "");
            answers.extend(payload.split('\u{1e}').filter(|packet| packet.starts_with("44")).map(str::to_owned));
        }
        let is_bound = |namespace: &&str| {
            let head = format!("44{namespace},");
            let answer = answers.iter().find(|answer| answer.starts_with(&head)).expect("an answer for each");
            let none = answer.contains("Invalid namespace");
            assert_ne!(none, answer.contains("the plugin of this namespace is not active"), "{answer}");
            !none
        };
        NAMESPACES.into_iter().filter(is_bound).collect()
    }
}

/// A server that listens at a second address too, with a configuration made of that one's port.
fn start(dir: &Path, configuration: impl FnOnce(u16) -> String) -> (Server, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let also = free.local_addr().expect("it is bound");
    drop(free);
    let file = dir.join("haggle.toml");
    let text = format!("[server]\nlisten_also = [\"{also}\"]\n{}", configuration(also.port()));
    std::fs::write(&file, text).expect("a file");
    let server = Server::start(&dir.join("data"), &[("HAGGLE_CONFIG", file.to_str().expect("a plain path"))]);
    (server, also)
}

fn token(dir: &Path, user: &str) -> String {
    stdout(&["token", user, "--data", dir.join("data").to_str().expect("a plain path")])
}

#[test]
fn a_dialect_is_bound_by_host_port_path_and_claim() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (server, also) = start(dir.path(), dialects);
    let (ann, bob) = (token(dir.path(), "ann"), token(dir.path(), "bob"));
    let plain = Client {
        to: server.clients,
        path: "/socket.io/",
        host: "localhost",
        token: &bob,
    };
    let check = |client: &Client<'_>, expect: &[&str]| assert_eq!(client.bound(), expect.iter().copied().collect());
    check(&plain, &[]);
    check(&Client { host: HOST, ..plain }, &["/host"]);
    check(
        &Client {
            host: "shop.example:443",
            ..plain
        },
        &["/host"],
    );
    check(&Client { to: also, ..plain }, &["/port"]);
    check(&Client { path: PATH, ..plain }, &["/path"]);
    check(&Client { token: &ann, ..plain }, &["/claim"]);
    let all = Client {
        to: also,
        path: PATH,
        host: HOST,
        token: &ann,
    };
    check(&all, &NAMESPACES);
    check(&Client { token: &bob, ..all }, &["/host", "/port", "/path"]);
}

#[test]
fn every_listener_serves_the_same() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut server, also) = start(dir.path(), |_| String::new());
    let token = token(dir.path(), "ann");
    let head = [("authorization", &*format!("Bearer {token}")), ("content-type", "application/json")];
    let body = r#"{"participants":["bob"],"type":"direct"}"#;
    let created = request(server.clients, "POST", "/api/conversations", &head, body);
    assert_eq!(created.status, 201, "{}", created.body);
    let listed = [server.clients, also].map(|to| request(to, "GET", "/api/conversations", &head, "").body);
    assert!(listed[0].contains("bob") && listed[0] == listed[1], "{listed:?}");
    server.signal("TERM");
    assert!(server.ended().success());
    assert!(TcpStream::connect(also).is_err(), "both listeners have ended");
}
