//! Limits and switches of the transports, each with a unit. Operators set them in `[http]`, `[rest]`, `[ws]`,
//! `[socketio]` and `[users]`.

use std::time::Duration;

/// Everything the transports can be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewaySettings {
    /// The listener.
    pub http: HttpSettings,
    /// REST.
    pub rest: RestSettings,
    /// The native WebSocket.
    pub ws: WsSettings,
    /// Socket.IO.
    pub socketio: SocketIoSettings,
    /// Profiles.
    pub users: UserSettings,
}

/// The listener: what a connection may cost before a request is understood.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// Connections open at the same time, WebSockets included; more wait in the listen queue of the system.
    pub connections_max: usize,
    /// How long a client may take to send the head of a request; idle keep-alive connections end after it too.
    pub header_read_timeout: Duration,
    /// Header lines of a request.
    pub headers_max: usize,
    /// Bytes of a request's head.
    pub header_bytes_max: usize,
    /// How long requests in flight may take to end when the server stops.
    pub drain_max: Duration,
    /// Plugins whose routes go before those of the core, and for which requests.
    pub routes: Vec<RouteSettings>,
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            connections_max: 20_000,
            header_read_timeout: Duration::from_secs(15),
            headers_max: 64,
            header_bytes_max: 32 * 1024,
            drain_max: Duration::from_secs(8),
            routes: Vec::new(),
        }
    }
}

/// Where a plugin's routes go before those of the core. Conditions that are not named are fulfilled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// The plugin's id.
    pub plugin: String,
    /// The host that the request names, without its port.
    pub host: Option<String>,
    /// The port of this server at which the connection came in.
    pub port: Option<u16>,
}

impl RouteSettings {
    /// Whether requests for this host that came in at this port are meant.
    pub fn fits(&self, host: &str, port: u16) -> bool {
        self.host.as_deref().is_none_or(|own| own.eq_ignore_ascii_case(host)) && self.port.is_none_or(|own| own == port)
    }
}

/// REST.
#[derive(Clone, Debug, PartialEq)]
pub struct RestSettings {
    /// Body of a request.
    pub body_bytes_max: usize,
    /// How long a client may take to send the body.
    pub body_read_timeout: Duration,
    /// Messages, notifications and participants on a page when the request names no limit.
    pub page_default: usize,
    /// Conversations on a page when the request names no limit.
    pub conversations_page_default: usize,
    /// Events on a page at most; what the request may ask for above `limits.page_max`.
    pub events_page_max: usize,
}

impl Default for RestSettings {
    fn default() -> RestSettings {
        RestSettings {
            body_bytes_max: 1024 * 1024,
            body_read_timeout: Duration::from_secs(30),
            page_default: 50,
            conversations_page_default: 20,
            events_page_max: 500,
        }
    }
}

/// The native WebSocket.
#[derive(Clone, Debug, PartialEq)]
pub struct WsSettings {
    /// How long a client may take to authenticate.
    pub auth_within: Duration,
    /// How often the server shows a sign of life; a client silent for two of them is gone.
    pub heartbeat: Duration,
    /// A message, all its fragments together.
    pub message_bytes_max: usize,
    /// The same before the client has authenticated.
    pub message_bytes_before_auth_max: usize,
    /// Fragments of one message.
    pub fragments_max: usize,
    /// Requests of one connection that wait for their answer.
    pub requests_in_flight_max: usize,
    /// Conversations one connection may subscribe to.
    pub subscriptions_max: usize,
    /// Cursors in one `auth`.
    pub cursors_max: usize,
    /// Conversations in `heads`.
    pub heads_max: usize,
    /// Events one `sub` replays before it answers with a gap.
    pub replay_events_max: usize,
    /// Frames in one batch of the client.
    pub batch_max: usize,
    /// Bytes waiting to be written to one connection.
    pub outbox_bytes_max: usize,
    /// Frames waiting to be written to one connection.
    pub outbox_frames_max: usize,
    /// A connection that takes nothing for so long is closed.
    pub stall_max: Duration,
    /// Connections of one user.
    pub connections_per_user_max: usize,
    /// Frames one connection may send per second, over its bursts.
    pub frames_per_second: u32,
    /// Frames one connection may send at once.
    pub frames_burst: u32,
}

impl Default for WsSettings {
    fn default() -> WsSettings {
        WsSettings {
            auth_within: Duration::from_secs(5),
            heartbeat: Duration::from_secs(25),
            message_bytes_max: 256 * 1024,
            message_bytes_before_auth_max: 16 * 1024,
            fragments_max: 1024,
            requests_in_flight_max: 64,
            subscriptions_max: 1024,
            cursors_max: 200,
            heads_max: 200,
            replay_events_max: 500,
            batch_max: 32,
            outbox_bytes_max: 256 * 1024,
            outbox_frames_max: 1024,
            stall_max: Duration::from_secs(8),
            connections_per_user_max: 64,
            frames_per_second: 200,
            frames_burst: 400,
        }
    }
}

/// Socket.IO. What it does not name here (connections of one user, subscriptions, requests in flight, stalls) it shares with
/// the native WebSocket.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketIoSettings {
    /// Path of its requests, with a slash at both ends; empty: no Socket.IO.
    pub path: String,
    /// The namespace of conversations and messages.
    pub namespace: String,
    /// Namespaces that plugins own; the first one that fits a connection is its.
    pub dialects: Vec<DialectSettings>,
    /// Events of one connection that wait for the plugin of their namespace; the next ones are read later.
    pub events_waiting_max: usize,
    /// Rooms that one connection may be in.
    pub rooms_max: usize,
    /// Time between two pings of the server.
    pub ping_interval: Duration,
    /// How long a client may take to answer a ping.
    pub ping_timeout: Duration,
    /// A packet or payload of a client, in bytes; the client is told.
    pub payload_bytes_max: usize,
    /// How long a session may be without a namespace after its handshake.
    pub connect_within: Duration,
    /// How long a change from polling to WebSocket may take.
    pub upgrade_within: Duration,
    /// How long a client may be in the namespace before it sends `authenticate`; zero: the token comes with the connect.
    pub auth_grace: Duration,
    /// Name of a query parameter that may carry the token; empty: none may, since URLs end up in logs.
    pub query_token: String,
    /// This node's name: the beginning of the ids of its sessions. Letters and digits.
    pub node: String,
    /// Sessions open at the same time.
    pub sessions_max: usize,
    /// Bytes waiting for one session; who falls further behind is disconnected and comes back.
    pub outbox_bytes_max: usize,
    /// Packets waiting for one session.
    pub outbox_packets_max: usize,
    /// Packets of one session per second, over its bursts; faster ones are read later. 0: no limit.
    pub packets_per_second: u32,
    /// Packets of one session at once.
    pub packets_burst: u32,
    /// Namespaces whose clients, after a cut, get back their place and what they missed.
    pub recovery_namespaces: Vec<String>,
    /// How long a place is kept for a client that is away, and how far back what was sent is kept.
    pub recovery_within: Duration,
    /// Pushes kept for one client.
    pub recovery_packets_max: usize,
    /// Bytes kept for one client.
    pub recovery_bytes_max: usize,
    /// Clients that are away and for whom a place is kept; the one that went first loses it.
    pub recovery_sessions_max: usize,
    /// Bytes kept for all clients, shared ones counted for each of them.
    pub recovery_total_bytes_max: usize,
}

impl SocketIoSettings {
    /// Whether clients of the namespace get back what they missed.
    pub fn recovers(&self, namespace: &str) -> bool {
        self.recovery_namespaces.iter().any(|recovered| recovered == namespace)
    }
}

impl Default for SocketIoSettings {
    fn default() -> SocketIoSettings {
        SocketIoSettings {
            path: "/socket.io/".into(),
            namespace: "/chat".into(),
            dialects: Vec::new(),
            events_waiting_max: 64,
            rooms_max: 64,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            payload_bytes_max: 1_000_000,
            connect_within: Duration::from_secs(45),
            upgrade_within: Duration::from_secs(10),
            auth_grace: Duration::ZERO,
            query_token: String::new(),
            node: "n1".into(),
            sessions_max: 20_000,
            outbox_bytes_max: 1024 * 1024,
            outbox_packets_max: 8192,
            packets_per_second: 500,
            packets_burst: 4000,
            recovery_namespaces: Vec::new(),
            recovery_within: Duration::from_secs(120),
            recovery_packets_max: 1024,
            recovery_bytes_max: 256 * 1024,
            recovery_sessions_max: 10_000,
            recovery_total_bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// A namespace that a plugin owns, and for which connections. Conditions that are not named are fulfilled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialectSettings {
    /// What clients ask for: `/` or `/messages`.
    pub namespace: String,
    /// The plugin's id.
    pub plugin: String,
    /// The host that the request names, without its port.
    pub host: Option<String>,
    /// The path of the request, besides the common one: `/shop/socket.io/`.
    pub path: Option<String>,
    /// The port of this server at which the connection came in.
    pub port: Option<u16>,
    /// A claim of the token and its value; a list must hold it.
    pub claim: Option<(String, String)>,
    /// Lets in who has no token.
    pub anonymous: bool,
    /// How long a client may be in the namespace before it sends `authenticate`; zero: the token comes with the connect.
    pub auth_grace: Duration,
}

/// Profiles.
#[derive(Clone, Debug, PartialEq)]
pub struct UserSettings {
    /// Attributes a user may change in the own profile; the others are an administrator's.
    pub self_editable: Vec<String>,
    /// Attributes that other users may read.
    pub public_attributes: Vec<String>,
}

impl Default for UserSettings {
    fn default() -> UserSettings {
        let names = |names: [&str; 2]| names.map(String::from).to_vec();
        UserSettings {
            self_editable: names(["servicePackages", "timeZone"]),
            public_attributes: names(["servicePackages", "timeZone"]),
        }
    }
}
