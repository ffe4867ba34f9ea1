//! A gateway over an engine in memory, listening on a port of its own. Two namespaces of Socket.IO are a plugin's.

#[path = "plugin.rs"]
pub mod plugin;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use haggle_engine::{Actor, Command, Engine, EngineOptions, NewConversation, NewMessage, Outcome, Request, SystemClock, To, Transport};
use haggle_gateway::{
    AuthConfig, Authenticator, DialectSettings, Gateway, GatewaySettings, Origins, auth,
    http::{App, serve},
};
use haggle_model::{ConversationId, Limits, UserId};
use haggle_store::MemoryStore;
use tokio::net::TcpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};

use plugin::{Calls, Dialect, Failing, Gate, Heard, PLUGIN, Pauses};

const SECRET: &[u8] = b"a secret that is long enough for HS256, it says";

pub struct Server {
    pub address: SocketAddr,
    pub gateway: Arc<Gateway>,
    /// What the plugin was asked.
    pub heard: Heard,
    /// Holds the plugin up.
    pub gate: Gate,
    /// Lets its mappings fail.
    pub failing: Failing,
    /// What it was asked about which connection.
    pub calls: Calls,
    /// How long it thinks.
    pub pauses: Arc<Pauses>,
    _stop: DropGuard,
}

impl Server {
    /// With everything that the tests of any transport need.
    pub async fn start() -> Server {
        Server::set(|_| {}).await
    }

    pub async fn set(change: impl FnOnce(&mut GatewaySettings)) -> Server {
        let by_secret = AuthConfig {
            secrets: vec![SECRET.to_vec()],
            ..AuthConfig::default()
        };
        Server::believing(by_secret, change).await
    }

    /// With other keys.
    pub async fn believing(auth: AuthConfig, change: impl FnOnce(&mut GatewaySettings)) -> Server {
        let limits = Limits {
            rate_per_second: 1_000_000,
            rate_burst: 1_000_000,
            ..Limits::default()
        };
        let plugin = Dialect::default();
        let (heard, gate, failing) = (plugin.heard.clone(), plugin.gate.clone(), plugin.failing.clone());
        let (calls, pauses) = (plugin.calls.clone(), plugin.pauses.clone());
        let options = EngineOptions {
            store: Arc::new(MemoryStore::new(1)),
            hooks: Arc::new(plugin),
            limits,
            clock: Arc::new(SystemClock),
            erase_after: Duration::from_secs(86_400),
            reject_unknown_users: false,
            commit_interval: Duration::ZERO,
        };
        let engine = Engine::start(options).await.expect("the engine starts");
        let mut settings = GatewaySettings::default();
        (settings.ws.frames_per_second, settings.ws.frames_burst) = (0, 1_000);
        settings.socketio.dialects = ["/echo", "/"].map(open_to_all).to_vec();
        change(&mut settings);
        let auth = Authenticator::new(auth).expect("a key");
        let origins = Origins::new(&["https://shop.example".to_string()], false).expect("an origin");
        let gateway = Gateway::new(engine, auth, origins, settings);
        // Small system buffers, so that who does not read is noticed after kilobytes and not after megabytes.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_send_buffer_size(32 * 1024).expect("a small buffer");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1024).expect("it listens");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, App::new(gateway.clone()), stop.clone()));
        Server {
            address,
            gateway,
            heard,
            gate,
            failing,
            calls,
            pauses,
            _stop: stop.drop_guard(),
        }
    }

    pub async fn run(&self, user: &str, command: Command) -> Outcome {
        self.gateway
            .engine
            .execute(Request::new(Actor::user(user, Transport::Rest), command))
            .await
            .expect("the command takes effect")
    }

    /// Text of `user` in the conversation; its seq.
    pub async fn say(&self, user: &str, conversation: ConversationId, text: &str) -> u32 {
        self.run(
            user,
            Command::Send {
                to: To::Conversation(conversation),
                message: NewMessage::text(text),
            },
        )
        .await
        .seq
    }

    pub async fn direct(&self, a: &str, b: &str) -> ConversationId {
        self.run(a, Command::CreateConversation(NewConversation::Direct { with: b.into() }))
            .await
            .conversation
    }

    pub async fn group(&self, admin: &str, others: &[&str]) -> ConversationId {
        let participants = others.iter().map(|user| UserId::from(*user)).collect();
        self.run(
            admin,
            Command::CreateConversation(NewConversation::Group {
                participants,
                name: None,
                avatar: None,
            }),
        )
        .await
        .conversation
    }
}

/// A namespace of the plugin that lets everybody in.
pub fn open_to_all(namespace: &str) -> DialectSettings {
    DialectSettings {
        anonymous: true,
        ..of_plugin(namespace)
    }
}

/// A namespace of the plugin.
pub fn of_plugin(namespace: &str) -> DialectSettings {
    DialectSettings {
        namespace: namespace.into(),
        plugin: PLUGIN.into(),
        ..DialectSettings::default()
    }
}

pub fn token(user: &str) -> String {
    token_for(user, Duration::from_secs(3600))
}

pub fn token_for(user: &str, ttl: Duration) -> String {
    auth::sign(SECRET, user, &[], ttl).expect("a token")
}

pub fn token_with(user: &str, roles: &[&str]) -> String {
    let roles: Vec<String> = roles.iter().map(|role| role.to_string()).collect();
    auth::sign(SECRET, user, &roles, Duration::from_secs(3600)).expect("a token")
}
