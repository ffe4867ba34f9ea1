//! The real binary, spoken to as clients do.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use haggle_example_client::{Rest, Server, Socket};
use serde_json::json;

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_haggle"))
}

/// The first-party plugins as wasm, where `cargo xtask test` has built them.
pub fn plugins() -> Option<PathBuf> {
    let built = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins").into();
    let dir = PathBuf::from(std::env::var_os("HAGGLE_PLUGINS").unwrap_or_else(built));
    dir.is_dir().then_some(dir)
}

/// Puts a first-party plugin into the folder.
pub fn copy_plugin(name: &str, into: &Path) {
    let built = plugins().expect("the plugins as wasm: run `cargo xtask test`, or `cargo xtask plugins` and set HAGGLE_PLUGINS=target/plugins");
    let (from, to) = (built.join(name), into.join(name));
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(&from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The id of the user's own conversation, whose events are the `me` stream.
pub async fn personal(server: &Server, user: &str) -> String {
    let token = server.token(user, &[]).await.unwrap();
    let mut socket = Socket::open(&server.clients).await.unwrap();
    let login = socket.request(json!({"t": "auth", "token": token})).await.unwrap();
    login["me"]["c"].as_str().unwrap().to_owned()
}

/// Every event of a conversation, oldest first.
pub async fn events(client: &Rest, conversation: &str) -> Vec<serde_json::Value> {
    let mut events = Vec::new();
    loop {
        let path = format!("/api/conversations/{conversation}/events?after={}&limit=500", events.len());
        let page = client.get(&path).await.unwrap().ok().unwrap();
        let page = page["events"].as_array().unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page.iter().cloned());
    }
}

pub struct World {
    pub data: tempfile::TempDir,
    pub plugins: PathBuf,
    pub args: Vec<&'static str>,
}

impl World {
    /// Without plugins.
    pub fn new() -> World {
        let data = tempfile::tempdir().unwrap();
        let plugins = data.path().join("no-plugins");
        std::fs::create_dir(&plugins).unwrap();
        World {
            data,
            plugins,
            args: Vec::new(),
        }
    }

    pub async fn start(&self) -> Server {
        Server::start(binary(), &self.data.path().join("data"), &self.plugins, &self.args)
            .await
            .unwrap()
    }
}

pub async fn rest(server: &Server, user: &str) -> Rest {
    Rest::new(&server.clients, Some(&server.token(user, &[]).await.unwrap()))
}

pub async fn socket(server: &Server, user: &str) -> Socket {
    Socket::connect(&server.clients, &server.token(user, &[]).await.unwrap(), json!({}))
        .await
        .unwrap()
}

/// The direct conversation of two users.
pub async fn direct(client: &Rest, other: &str) -> String {
    let answer = client
        .post("/api/conversations", json!({"participants": [other], "type": "direct"}))
        .await
        .unwrap();
    answer.ok().unwrap()["id"].as_str().unwrap().to_owned()
}
