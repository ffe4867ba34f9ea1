//! The typed settings. Every key carries its unit; every default stands here and, explained, in `config/default.toml`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use haggle_gateway::{
    DialectSettings, GatewaySettings, HttpSettings, RestSettings, RouteSettings, SocketIoSettings, UserSettings, WsSettings, http::without_port,
};
use haggle_host::HostLimits;
use haggle_model::Limits;
use haggle_store::embedded::EmbeddedOptions;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// `store.commit_interval_us` unless it is set (ADR 4).
const COMMIT_INTERVAL_US: u64 = 250;
/// The same, at most: what is staged meanwhile stays far below `limits.lane_bytes_max`.
const COMMIT_INTERVAL_US_MAX: u64 = 20_000;

/// A setting that is one of a few words; another word is an error that lists them.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub enum $name {
            $($(#[$about])* #[serde(rename = $word)] $variant,)*
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(word: String) -> Result<$name, String> {
                match word.as_str() {
                    $($word => Ok($name::$variant),)*
                    other => Err(format!("{other:?} is none of {}", [$($word),*].join(", "))),
                }
            }
        }
    };
}

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where it listens and where it keeps things.
    pub server: Server,
    /// Who may come in.
    pub auth: Auth,
    /// What the pipeline refuses to exceed.
    pub limits: LimitSettings,
    /// The listener for clients.
    pub http: Http,
    /// REST requests.
    pub rest: Rest,
    /// Native WebSocket connections.
    pub ws: Ws,
    /// Socket.IO sessions.
    pub socketio: SocketIo,
    /// Users.
    pub users: Users,
    /// The embedded store.
    pub store: Store,
    /// How long things are kept.
    pub retention: Retention,
    /// Plugins.
    pub plugins: Plugins,
    /// Logs.
    pub log: Log,
    /// The end.
    pub drain: Drain,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// For clients: REST and WebSocket.
    pub listen: SocketAddr,
    /// For operators: metrics, probes, admin API.
    pub admin: SocketAddr,
    /// Further addresses for clients: a dialect, or a plugin's routes, may be bound to the port of one.
    pub listen_also: Vec<SocketAddr>,
    /// Host headers that admin writes may carry.
    pub admin_hosts: Vec<String>,
    /// Everything that is kept.
    pub data_dir: PathBuf,
    /// One folder per plugin; empty: `plugins` in the data directory.
    pub plugins_dir: PathBuf,
    /// Worker threads; 0: one per core.
    pub threads: usize,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 3001)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9301)),
            listen_also: Vec::new(),
            admin_hosts: ["localhost", "127.0.0.1", "[::1]"].map(String::from).to_vec(),
            data_dir: "data".into(),
            plugins_dir: PathBuf::new(),
            threads: 0,
        }
    }
}

impl Server {
    /// Whether requests with this host can come in at this port; `key` is what is bound to them.
    fn check_place(&self, key: &str, host: Option<&str>, port: Option<u16>) -> Result<(), Failure> {
        if let Some(host) = host.filter(|host| without_port(host) != *host) {
            let hint = format!("{key}.host = \"{}\", and the port in {key}.port", without_port(host));
            return Err(Failure::usage(format!("{key}.host = \"{host}\" has a port")).hint(hint));
        }
        let mut listeners = self.listen_also.iter().chain([&self.listen]).map(SocketAddr::port);
        match port {
            // At 0 any port may be chosen.
            Some(port) if !listeners.any(|listened| listened == port || listened == 0) => {
                let hint = format!("server.listen_also = [\"{}\"]", SocketAddr::new(self.listen.ip(), port));
                Err(Failure::usage(format!("{key}.port = {port} is none of server.listen and server.listen_also")).hint(hint))
            }
            _ => Ok(()),
        }
    }
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Shared secret of HS256 tokens.
    pub secret: String,
    /// Secrets that are still believed while a new one is being brought in.
    pub old_secrets: Vec<String>,
    /// File with a PEM public key for RS256, ES256 or EdDSA tokens.
    pub public_key: PathBuf,
    /// File or http URL of a JSON Web Key Set.
    pub jwks: String,
    /// Algorithms that are believed; empty: all that the keys allow.
    pub algorithms: Vec<String>,
    /// Required `iss`.
    pub issuer: String,
    /// Required `aud`.
    pub audience: String,
    /// The claim with the user's roles.
    pub roles_claim: String,
    /// How far another machine's clock may be ahead when `nbf` is judged.
    pub clock_skew_ms: u64,
    /// Origins of web pages that may connect.
    pub origins: Vec<String>,
    /// Also pages on localhost, on any port.
    pub loopback_origins: bool,
    /// Makes a key in the data directory and trusts tokens signed with it.
    pub dev: bool,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth {
            secret: String::new(),
            old_secrets: Vec::new(),
            public_key: PathBuf::new(),
            jwks: String::new(),
            algorithms: Vec::new(),
            issuer: String::new(),
            audience: String::new(),
            roles_claim: "roles".into(),
            clock_skew_ms: 5_000,
            origins: Vec::new(),
            loopback_origins: false,
            dev: false,
        }
    }
}

impl Auth {
    /// Whether any key is set that tokens could be checked with.
    pub fn has_key(&self) -> bool {
        self.dev || !self.secret.is_empty() || !self.public_key.as_os_str().is_empty() || !self.jwks.is_empty()
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of haggle_model::Limits, which explains them")]
pub struct LimitSettings {
    pub content_bytes_max: usize,
    pub content_chars_max: usize,
    pub metadata_bytes_max: usize,
    pub id_bytes_max: usize,
    pub reaction_bytes_max: usize,
    pub name_bytes_max: usize,
    pub attributes_bytes_max: usize,
    pub participants_max: usize,
    pub shared_marks_participants_max: usize,
    pub page_max: usize,
    pub transaction_bytes_max: usize,
    pub turn_queue_max: usize,
    pub turn_queue_per_user_max: usize,
    pub turn_wait_ms_max: u64,
    pub turn_hooks_ms_max: u64,
    pub lane_bytes_max: usize,
    pub origin_depth_max: usize,
    pub kv_key_bytes_max: usize,
    pub kv_value_bytes_max: usize,
    pub rate_per_second: u32,
    pub rate_burst: u32,
    pub rate_per_hour: u32,
    pub typing_ttl_ms: u64,
    pub idempotency_hours: u64,
    pub command_ids_max: usize,
    pub conversations_warm_max: usize,
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        let limits = Limits::default();
        LimitSettings {
            content_bytes_max: limits.content_bytes_max,
            content_chars_max: limits.content_chars_max,
            metadata_bytes_max: limits.metadata_bytes_max,
            id_bytes_max: limits.id_bytes_max,
            reaction_bytes_max: limits.reaction_bytes_max,
            name_bytes_max: limits.name_bytes_max,
            attributes_bytes_max: limits.attributes_bytes_max,
            participants_max: limits.participants_max,
            shared_marks_participants_max: limits.shared_marks_participants_max,
            page_max: limits.page_max,
            transaction_bytes_max: limits.transaction_bytes_max,
            turn_queue_max: limits.turn_queue_max,
            turn_queue_per_user_max: limits.turn_queue_per_user_max,
            turn_wait_ms_max: millis(limits.turn_wait_max),
            turn_hooks_ms_max: millis(limits.turn_hooks_max),
            lane_bytes_max: limits.lane_bytes_max,
            origin_depth_max: limits.origin_depth_max,
            kv_key_bytes_max: limits.kv_key_bytes_max,
            kv_value_bytes_max: limits.kv_value_bytes_max,
            rate_per_second: limits.rate_per_second,
            rate_burst: limits.rate_burst,
            rate_per_hour: limits.rate_per_hour,
            typing_ttl_ms: millis(limits.typing_ttl),
            idempotency_hours: limits.idempotency.as_secs() / 3600,
            command_ids_max: limits.command_ids_max,
            conversations_warm_max: limits.conversations_warm_max,
        }
    }
}

impl LimitSettings {
    /// The limits as the engine takes them.
    pub fn limits(&self) -> Limits {
        Limits {
            content_bytes_max: self.content_bytes_max,
            content_chars_max: self.content_chars_max,
            metadata_bytes_max: self.metadata_bytes_max,
            id_bytes_max: self.id_bytes_max,
            reaction_bytes_max: self.reaction_bytes_max,
            name_bytes_max: self.name_bytes_max,
            attributes_bytes_max: self.attributes_bytes_max,
            participants_max: self.participants_max,
            shared_marks_participants_max: self.shared_marks_participants_max,
            page_max: self.page_max,
            transaction_bytes_max: self.transaction_bytes_max,
            turn_queue_max: self.turn_queue_max,
            turn_queue_per_user_max: self.turn_queue_per_user_max,
            turn_wait_max: Duration::from_millis(self.turn_wait_ms_max),
            turn_hooks_max: Duration::from_millis(self.turn_hooks_ms_max),
            lane_bytes_max: self.lane_bytes_max,
            origin_depth_max: self.origin_depth_max,
            kv_key_bytes_max: self.kv_key_bytes_max,
            kv_value_bytes_max: self.kv_value_bytes_max,
            rate_per_second: self.rate_per_second,
            rate_burst: self.rate_burst,
            rate_per_hour: self.rate_per_hour,
            typing_ttl: Duration::from_millis(self.typing_ttl_ms),
            idempotency: Duration::from_secs(self.idempotency_hours * 3600),
            command_ids_max: self.command_ids_max,
            conversations_warm_max: self.conversations_warm_max,
        }
    }
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of haggle_gateway::HttpSettings, which explains them")]
pub struct Http {
    pub connections_max: usize,
    pub header_read_ms_max: u64,
    pub headers_max: usize,
    pub header_bytes_max: usize,
    pub routes: Vec<BoundRoutes>,
}

impl Default for Http {
    fn default() -> Http {
        let http = HttpSettings::default();
        Http {
            connections_max: http.connections_max,
            header_read_ms_max: millis(http.header_read_timeout),
            headers_max: http.headers_max,
            header_bytes_max: http.header_bytes_max,
            routes: Vec::new(),
        }
    }
}

/// `[[http.routes]]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of haggle_gateway::RouteSettings, which explains them")]
pub struct BoundRoutes {
    pub plugin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl BoundRoutes {
    fn gateway(&self) -> RouteSettings {
        RouteSettings {
            plugin: self.plugin.clone(),
            host: self.host.clone(),
            port: self.port,
        }
    }

    /// The first rule that it breaks; `key` names its place.
    fn check(&self, key: &str, server: &Server) -> Result<(), Failure> {
        if self.plugin.is_empty() {
            return Err(Failure::usage(format!("{key}.plugin = \"\" cannot be")).hint("name the id of the plugin whose routes go first"));
        }
        if self.host.is_none() && self.port.is_none() {
            let hint = "name a host or a port; routes that hide none of the core's need no table here";
            return Err(Failure::usage(format!("{key} would hide routes of the core everywhere")).hint(hint));
        }
        server.check_place(key, self.host.as_deref(), self.port)
    }
}

/// `[rest]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of haggle_gateway::RestSettings, which explains them")]
pub struct Rest {
    pub body_bytes_max: usize,
    pub body_read_ms_max: u64,
    pub page_default: usize,
    pub conversations_page_default: usize,
    pub events_page_max: usize,
}

impl Default for Rest {
    fn default() -> Rest {
        let rest = RestSettings::default();
        Rest {
            body_bytes_max: rest.body_bytes_max,
            body_read_ms_max: millis(rest.body_read_timeout),
            page_default: rest.page_default,
            conversations_page_default: rest.conversations_page_default,
            events_page_max: rest.events_page_max,
        }
    }
}

/// `[ws]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of haggle_gateway::WsSettings, which explains them")]
pub struct Ws {
    pub auth_ms_max: u64,
    pub heartbeat_ms: u64,
    pub message_bytes_max: usize,
    pub message_bytes_before_auth_max: usize,
    pub fragments_max: usize,
    pub requests_in_flight_max: usize,
    pub subscriptions_max: usize,
    pub cursors_max: usize,
    pub heads_max: usize,
    pub replay_events_max: usize,
    pub batch_max: usize,
    pub outbox_bytes_max: usize,
    pub outbox_frames_max: usize,
    pub stall_ms_max: u64,
    pub connections_per_user_max: usize,
    pub frames_per_second: u32,
    pub frames_burst: u32,
}

impl Default for Ws {
    fn default() -> Ws {
        let ws = WsSettings::default();
        Ws {
            auth_ms_max: millis(ws.auth_within),
            heartbeat_ms: millis(ws.heartbeat),
            message_bytes_max: ws.message_bytes_max,
            message_bytes_before_auth_max: ws.message_bytes_before_auth_max,
            fragments_max: ws.fragments_max,
            requests_in_flight_max: ws.requests_in_flight_max,
            subscriptions_max: ws.subscriptions_max,
            cursors_max: ws.cursors_max,
            heads_max: ws.heads_max,
            replay_events_max: ws.replay_events_max,
            batch_max: ws.batch_max,
            outbox_bytes_max: ws.outbox_bytes_max,
            outbox_frames_max: ws.outbox_frames_max,
            stall_ms_max: millis(ws.stall_max),
            connections_per_user_max: ws.connections_per_user_max,
            frames_per_second: ws.frames_per_second,
            frames_burst: ws.frames_burst,
        }
    }
}

impl Ws {
    fn gateway(&self) -> WsSettings {
        WsSettings {
            auth_within: Duration::from_millis(self.auth_ms_max),
            heartbeat: Duration::from_millis(self.heartbeat_ms),
            message_bytes_max: self.message_bytes_max,
            message_bytes_before_auth_max: self.message_bytes_before_auth_max,
            fragments_max: self.fragments_max,
            requests_in_flight_max: self.requests_in_flight_max,
            subscriptions_max: self.subscriptions_max,
            cursors_max: self.cursors_max,
            heads_max: self.heads_max,
            replay_events_max: self.replay_events_max,
            batch_max: self.batch_max,
            outbox_bytes_max: self.outbox_bytes_max,
            outbox_frames_max: self.outbox_frames_max,
            stall_max: Duration::from_millis(self.stall_ms_max),
            connections_per_user_max: self.connections_per_user_max,
            frames_per_second: self.frames_per_second,
            frames_burst: self.frames_burst,
        }
    }
}

/// `[socketio]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of haggle_gateway::SocketIoSettings, which explains them")]
pub struct SocketIo {
    pub path: String,
    pub namespace: String,
    pub dialects: Vec<Dialect>,
    pub events_waiting_max: usize,
    pub rooms_max: usize,
    pub ping_interval_ms: u64,
    pub ping_timeout_ms: u64,
    pub payload_bytes_max: usize,
    pub connect_ms_max: u64,
    pub upgrade_ms_max: u64,
    pub auth_grace_ms: u64,
    pub query_token: String,
    pub node: String,
    pub sessions_max: usize,
    pub outbox_bytes_max: usize,
    pub outbox_packets_max: usize,
    pub packets_per_second: u32,
    pub packets_burst: u32,
    pub recovery_namespaces: Vec<String>,
    pub recovery_ms_max: u64,
    pub recovery_packets_max: usize,
    pub recovery_bytes_max: usize,
    pub recovery_sessions_max: usize,
    pub recovery_total_bytes_max: usize,
}

impl Default for SocketIo {
    fn default() -> SocketIo {
        let socketio = SocketIoSettings::default();
        SocketIo {
            path: socketio.path,
            namespace: socketio.namespace,
            dialects: Vec::new(),
            events_waiting_max: socketio.events_waiting_max,
            rooms_max: socketio.rooms_max,
            ping_interval_ms: millis(socketio.ping_interval),
            ping_timeout_ms: millis(socketio.ping_timeout),
            payload_bytes_max: socketio.payload_bytes_max,
            connect_ms_max: millis(socketio.connect_within),
            upgrade_ms_max: millis(socketio.upgrade_within),
            auth_grace_ms: millis(socketio.auth_grace),
            query_token: socketio.query_token,
            node: socketio.node,
            sessions_max: socketio.sessions_max,
            outbox_bytes_max: socketio.outbox_bytes_max,
            outbox_packets_max: socketio.outbox_packets_max,
            packets_per_second: socketio.packets_per_second,
            packets_burst: socketio.packets_burst,
            recovery_namespaces: socketio.recovery_namespaces,
            recovery_ms_max: millis(socketio.recovery_within),
            recovery_packets_max: socketio.recovery_packets_max,
            recovery_bytes_max: socketio.recovery_bytes_max,
            recovery_sessions_max: socketio.recovery_sessions_max,
            recovery_total_bytes_max: socketio.recovery_total_bytes_max,
        }
    }
}

impl SocketIo {
    fn check(&self) -> Result<(), Failure> {
        at_least("socketio.ping_interval_ms", self.ping_interval_ms as usize, 1)?;
        at_least("socketio.ping_timeout_ms", self.ping_timeout_ms as usize, 1)?;
        at_least("socketio.payload_bytes_max", self.payload_bytes_max, 1_024)?;
        at_least("socketio.sessions_max", self.sessions_max, 1)?;
        at_least("socketio.outbox_packets_max", self.outbox_packets_max, 16)?;
        let is_path = self.path.is_empty() || (self.path.starts_with('/') && self.path.ends_with('/'));
        if !is_path {
            return Err(
                Failure::usage(format!("socketio.path = \"{}\" has no slash at both ends", self.path)).hint("socketio.path = \"/socket.io/\"")
            );
        }
        let is_there = |namespace: &String| *namespace == self.namespace || self.dialects.iter().any(|dialect| dialect.namespace == *namespace);
        if let Some(namespace) = self.recovery_namespaces.iter().find(|namespace| !is_there(namespace)) {
            return Err(Failure::usage(format!(
                "socketio.recovery_namespaces names \"{namespace}\", which is neither socketio.namespace nor that of a table of socketio.dialects"
            ))
            .hint(format!("socketio.recovery_namespaces = [\"{}\"]", self.namespace)));
        }
        if self.recovery_namespaces.is_empty() {
            return Ok(());
        }
        // What a client has missed must fit what may wait for it, or it could never come back.
        at_least("socketio.outbox_bytes_max", self.outbox_bytes_max, 2 * self.recovery_bytes_max)?;
        at_least("socketio.outbox_packets_max", self.outbox_packets_max, 2 * self.recovery_packets_max)?;
        at_least("socketio.recovery_sessions_max", self.recovery_sessions_max, 1)
    }

    fn gateway(&self) -> SocketIoSettings {
        SocketIoSettings {
            path: self.path.clone(),
            namespace: self.namespace.clone(),
            dialects: self.dialects.iter().map(Dialect::gateway).collect(),
            events_waiting_max: self.events_waiting_max,
            rooms_max: self.rooms_max,
            ping_interval: Duration::from_millis(self.ping_interval_ms),
            ping_timeout: Duration::from_millis(self.ping_timeout_ms),
            payload_bytes_max: self.payload_bytes_max,
            connect_within: Duration::from_millis(self.connect_ms_max),
            upgrade_within: Duration::from_millis(self.upgrade_ms_max),
            auth_grace: Duration::from_millis(self.auth_grace_ms),
            query_token: self.query_token.clone(),
            node: self.node.clone(),
            sessions_max: self.sessions_max,
            outbox_bytes_max: self.outbox_bytes_max,
            outbox_packets_max: self.outbox_packets_max,
            packets_per_second: self.packets_per_second,
            packets_burst: self.packets_burst,
            recovery_namespaces: self.recovery_namespaces.clone(),
            recovery_within: Duration::from_millis(self.recovery_ms_max),
            recovery_packets_max: self.recovery_packets_max,
            recovery_bytes_max: self.recovery_bytes_max,
            recovery_sessions_max: self.recovery_sessions_max,
            recovery_total_bytes_max: self.recovery_total_bytes_max,
        }
    }
}

/// `[[socketio.dialects]]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of haggle_gateway::DialectSettings, which explains them")]
pub struct Dialect {
    pub namespace: String,
    pub plugin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    pub anonymous: bool,
    pub auth_grace_ms: u64,
}

/// A claim of a token and what it must be or hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its name; `a.b` also finds `b` inside of `a`.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Dialect {
    fn gateway(&self) -> DialectSettings {
        DialectSettings {
            namespace: self.namespace.clone(),
            plugin: self.plugin.clone(),
            host: self.host.clone(),
            path: self.path.clone(),
            port: self.port,
            claim: self.claim.clone().map(|claim| (claim.name, claim.value)),
            anonymous: self.anonymous,
            auth_grace: Duration::from_millis(self.auth_grace_ms),
        }
    }

    /// The first rule that it breaks; `key` names its place.
    fn check(&self, key: &str) -> Result<(), Failure> {
        let wrong = |field: &str, value: &str, hint: &str| Err(Failure::usage(format!("{key}.{field} = \"{value}\" cannot be")).hint(hint));
        if !haggle_host::manifest::is_namespace(&self.namespace) {
            let hint = "a namespace is / or a name behind one, like /messages";
            return wrong("namespace", &self.namespace, hint);
        }
        if self.plugin.is_empty() {
            return wrong("plugin", "", "name the id of the plugin that owns the namespace");
        }
        if let Some(path) = self
            .path
            .as_ref()
            .filter(|path| !(path.starts_with('/') && path.ends_with('/') && path.len() > 1))
        {
            return wrong("path", path, "a path has a slash at both ends, like /shop/socket.io/");
        }
        if self.anonymous && (self.claim.is_some() || self.auth_grace_ms > 0) {
            let hint = "who needs no token has no claim, and need not authenticate later: drop one of the two";
            return Err(Failure::usage(format!("{key}.anonymous is set together with claim or auth_grace_ms")).hint(hint));
        }
        Ok(())
    }

    /// Two with the same conditions: the second one would never be reached.
    fn hides(&self, later: &Dialect) -> bool {
        self.namespace == later.namespace
            && (self.host.is_none() || self.host == later.host)
            && (self.path.is_none() || self.path == later.path)
            && (self.port.is_none() || self.port == later.port)
            && (self.claim.is_none() || self.claim == later.claim)
    }
}

choice! {
    /// `users.unknown`
    UnknownUsers {
        /// They come into being when they are first named.
        Accept = "accept",
        /// Who names them is refused.
        Reject = "reject",
    }
}

/// `[users]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Users {
    /// What becomes of participants that were never seen.
    pub unknown: UnknownUsers,
    /// Attributes a user may change in the own profile.
    pub self_editable: Vec<String>,
    /// Attributes that other users may read.
    pub public_attributes: Vec<String>,
}

impl Default for Users {
    fn default() -> Users {
        let users = UserSettings::default();
        Users {
            unknown: UnknownUsers::Accept,
            self_editable: users.self_editable,
            public_attributes: users.public_attributes,
        }
    }
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Entries in the log that the views have not taken yet; beyond it the lane waits.
    pub backlog_bytes_max: usize,
    /// How long an append waits for the views before it is refused.
    pub backlog_wait_ms_max: u64,
    /// Reads that run at the same time.
    pub readers_max: usize,
    /// How long entries gather before they are put into the views, unless a read wants them.
    pub apply_interval_ms: u64,
    /// From the beginning of a commit to that of the next, at least; 0: the next begins when one has ended.
    pub commit_interval_us: u64,
    /// The log does not grow beyond this; 0: as far as the disk goes.
    pub log_bytes_max: u64,
}

impl Default for Store {
    fn default() -> Store {
        let store = EmbeddedOptions::default();
        Store {
            backlog_bytes_max: store.backlog_bytes_max,
            backlog_wait_ms_max: millis(store.backlog_wait_max),
            readers_max: store.readers_max,
            apply_interval_ms: millis(store.apply_interval),
            commit_interval_us: COMMIT_INTERVAL_US,
            log_bytes_max: store.log_bytes_max.unwrap_or(0),
        }
    }
}

impl Store {
    /// What the store is opened with.
    pub fn options(&self) -> EmbeddedOptions {
        EmbeddedOptions {
            backlog_bytes_max: self.backlog_bytes_max,
            backlog_wait_max: Duration::from_millis(self.backlog_wait_ms_max),
            readers_max: self.readers_max,
            apply_interval: Duration::from_millis(self.apply_interval_ms),
            log_bytes_max: (self.log_bytes_max > 0).then_some(self.log_bytes_max),
        }
    }
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How long the text of a message that was deleted for all stays in the log.
    pub erase_after_hours: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { erase_after_hours: 24 }
    }
}

/// `[plugins]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// Capabilities a plugin may have when its manifest asks for them; `*` is all.
    pub grants: Vec<String>,
    /// The same for one plugin, by its id, instead of `grants`.
    pub grants_by_plugin: BTreeMap<String, Vec<String>>,
    /// Loads a plugin again when its files change.
    pub watch: bool,
    /// Code of one plugin.
    pub code_bytes_max: usize,
    /// Instances of all plugins together.
    pub instances_max: u32,
    /// Linear memory of one instance, in MiB.
    pub memory_mb_max: u32,
    /// CPU time of one call.
    pub cpu_ms_max: u32,
    /// Wall-clock time of one call.
    pub wall_ms_max: u32,
    /// Time of a plugin's first start.
    pub init_ms_max: u32,
    /// Elements of all tables of one instance.
    pub table_elements_max: usize,
    /// Names of metrics of one plugin's own.
    pub custom_metrics_max: usize,
    /// Log lines of one plugin.
    pub log_lines_per_second_max: u32,
    /// One log line; what is longer is cut.
    pub log_line_bytes_max: usize,
    /// Address space for all instances is reserved at the start.
    pub pooling: bool,
    /// Values for a plugin's own configuration, by plugin id.
    pub config: BTreeMap<String, BTreeMap<String, toml::Value>>,
}

impl Default for Plugins {
    fn default() -> Plugins {
        let limits = HostLimits::default();
        Plugins {
            grants: vec!["*".into()],
            grants_by_plugin: BTreeMap::new(),
            watch: false,
            code_bytes_max: limits.code_bytes_max,
            instances_max: limits.instances_max,
            memory_mb_max: limits.memory_mb_max,
            cpu_ms_max: limits.cpu_ms_max,
            wall_ms_max: limits.wall_ms_max,
            init_ms_max: limits.init_ms_max,
            table_elements_max: limits.table_elements_max,
            custom_metrics_max: limits.custom_metrics_max,
            log_lines_per_second_max: limits.log_lines_per_second_max,
            log_line_bytes_max: limits.log_line_bytes_max,
            pooling: limits.pooling,
            config: BTreeMap::new(),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,haggle_engine=debug`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Log {
        Log {
            filter: "info".into(),
            format: LogFormat::Auto,
        }
    }
}

choice! {
    /// How a log line looks.
    LogFormat {
        /// For people on a terminal, JSON elsewhere.
        Auto = "auto",
        /// One JSON object per line.
        Json = "json",
        /// For people.
        Pretty = "pretty",
    }
}

/// `[drain]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long `/readyz` says 503 before connections are told to go.
    pub delay_ms: u64,
    /// When the process exits whatever is left.
    pub within_ms: u64,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain {
            delay_ms: 0,
            within_ms: 9_000,
        }
    }
}

impl Settings {
    /// Where plugins lie.
    pub fn plugins_dir(&self) -> PathBuf {
        if self.server.plugins_dir.as_os_str().is_empty() {
            self.server.data_dir.join("plugins")
        } else {
            self.server.plugins_dir.clone()
        }
    }

    /// What the transports are told.
    pub fn gateway(&self) -> GatewaySettings {
        let Settings {
            http,
            rest,
            ws,
            socketio,
            users,
            drain,
            ..
        } = self;
        GatewaySettings {
            http: HttpSettings {
                connections_max: http.connections_max,
                header_read_timeout: Duration::from_millis(http.header_read_ms_max),
                headers_max: http.headers_max,
                header_bytes_max: http.header_bytes_max,
                drain_max: Duration::from_millis(drain.within_ms.saturating_sub(drain.delay_ms)),
                routes: http.routes.iter().map(BoundRoutes::gateway).collect(),
            },
            rest: RestSettings {
                body_bytes_max: rest.body_bytes_max,
                body_read_timeout: Duration::from_millis(rest.body_read_ms_max),
                page_default: rest.page_default,
                conversations_page_default: rest.conversations_page_default,
                events_page_max: rest.events_page_max,
            },
            ws: ws.gateway(),
            socketio: socketio.gateway(),
            users: UserSettings {
                self_editable: users.self_editable.clone(),
                public_attributes: users.public_attributes.clone(),
            },
        }
    }

    /// Rules that involve more than one key, or that a type cannot say. The first one broken is named.
    pub fn check(&self) -> Result<(), Failure> {
        self.check_auth()?;
        self.check_limits()?;
        self.check_transports()?;
        self.check_rest()
    }

    fn check_auth(&self) -> Result<(), Failure> {
        if !self.auth.has_key() {
            return Err(
                Failure::usage("no key to check tokens with: auth.secret, auth.public_key and auth.jwks are all empty")
                    .hint("set auth.secret (or HAGGLE__AUTH__SECRET), or run `haggle serve --dev` on your own machine"),
            );
        }
        if self.auth.dev && !self.server.listen.ip().is_loopback() {
            return Err(Failure::usage(format!(
                "auth.dev trusts everybody on this machine, and server.listen = \"{}\" is not loopback",
                self.server.listen
            ))
            .hint("set auth.secret and auth.dev = false, or listen on 127.0.0.1"));
        }
        if self.auth.roles_claim.is_empty() {
            return Err(Failure::usage("auth.roles_claim is empty").hint("set auth.roles_claim = \"roles\""));
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Failure> {
        let limits = &self.limits;
        at_least("limits.content_bytes_max", limits.content_bytes_max, 1)?;
        at_least("limits.content_chars_max", limits.content_chars_max, 1)?;
        at_least("limits.id_bytes_max", limits.id_bytes_max, 24)?;
        at_least("limits.participants_max", limits.participants_max, 2)?;
        at_least("limits.page_max", limits.page_max, 1)?;
        at_least("limits.turn_queue_max", limits.turn_queue_max, 1)?;
        at_least("limits.turn_queue_per_user_max", limits.turn_queue_per_user_max, 1)?;
        at_least("limits.rate_per_second", limits.rate_per_second as usize, 1)?;
        at_least("limits.rate_burst", limits.rate_burst as usize, 1)?;
        at_least("limits.conversations_warm_max", limits.conversations_warm_max, 1)?;
        let message = limits.content_bytes_max + limits.metadata_bytes_max;
        if message > limits.transaction_bytes_max / 2 {
            return Err(Failure::usage(format!(
                "a message of limits.content_bytes_max + limits.metadata_bytes_max = {message} bytes does not fit half of limits.transaction_bytes_max = {}",
                limits.transaction_bytes_max
            ))
            .hint("lower limits.content_bytes_max or limits.metadata_bytes_max"));
        }
        at_least("store.readers_max", self.store.readers_max, 1)?;
        at_most("store.commit_interval_us", self.store.commit_interval_us, COMMIT_INTERVAL_US_MAX)?;
        at_least("store.backlog_bytes_max", self.store.backlog_bytes_max, limits.transaction_bytes_max)?;
        at_least("limits.lane_bytes_max", limits.lane_bytes_max, limits.transaction_bytes_max)
    }

    fn check_transports(&self) -> Result<(), Failure> {
        at_least("http.connections_max", self.http.connections_max, 1)?;
        at_least("http.headers_max", self.http.headers_max, 16)?;
        // hyper's read buffer takes no less.
        at_least("http.header_bytes_max", self.http.header_bytes_max, 8 * 1024)?;
        at_least("rest.body_bytes_max", self.rest.body_bytes_max, 1_024)?;
        at_least("rest.page_default", self.rest.page_default, 1)?;
        at_least("rest.conversations_page_default", self.rest.conversations_page_default, 1)?;
        at_least("ws.message_bytes_max", self.ws.message_bytes_max, 1_024)?;
        at_least("ws.message_bytes_before_auth_max", self.ws.message_bytes_before_auth_max, 1_024)?;
        at_least("ws.outbox_frames_max", self.ws.outbox_frames_max, 16)?;
        at_least("ws.requests_in_flight_max", self.ws.requests_in_flight_max, 1)?;
        at_least("ws.heartbeat_ms", self.ws.heartbeat_ms as usize, 1_000)?;
        self.socketio.check()?;
        at_least("socketio.events_waiting_max", self.socketio.events_waiting_max, 1)?;
        for (index, bound) in self.http.routes.iter().enumerate() {
            bound.check(&format!("http.routes[{index}]"), &self.server)?;
        }
        self.check_dialects()
    }

    fn check_dialects(&self) -> Result<(), Failure> {
        let dialects = &self.socketio.dialects;
        for (index, dialect) in dialects.iter().enumerate() {
            let key = format!("socketio.dialects[{index}]");
            dialect.check(&key)?;
            self.server.check_place(&key, dialect.host.as_deref(), dialect.port)?;
            if let Some(earlier) = dialects[..index].iter().position(|earlier| earlier.hides(dialect)) {
                return Err(Failure::usage(format!(
                    "{key} is never reached: socketio.dialects[{earlier}] fits every connection first"
                ))
                .hint("put the one with more conditions first, or give them different host, path, port or claim"));
            }
        }
        Ok(())
    }

    fn check_rest(&self) -> Result<(), Failure> {
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.filter) {
            return Err(Failure::usage(format!("log.filter = \"{}\": {error}", self.log.filter)).hint("log.filter = \"info\""));
        }
        if self.drain.delay_ms >= self.drain.within_ms {
            return Err(Failure::usage(format!(
                "drain.delay_ms = {} leaves nothing of drain.within_ms = {}",
                self.drain.delay_ms, self.drain.within_ms
            ))
            .hint("lower drain.delay_ms"));
        }
        Ok(())
    }
}

fn at_least(key: &str, value: usize, least: usize) -> Result<(), Failure> {
    if value >= least {
        return Ok(());
    }
    Err(Failure::usage(format!("{key} = {value} is too small")).hint(format!("set {key} to {least} or more")))
}

fn at_most(key: &str, value: u64, most: u64) -> Result<(), Failure> {
    if value <= most {
        return Ok(());
    }
    Err(Failure::usage(format!("{key} = {value} is too large")).hint(format!("set {key} to {most} or less")))
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
