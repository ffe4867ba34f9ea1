//! Who acts.

use std::sync::Arc;

use haggle_model::{PluginId, UserId};

/// The ways by which somebody asks something of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Requests over HTTP.
    Rest,
    /// The native WebSocket.
    Ws,
    /// Socket.IO.
    SocketIo,
    /// None: it is the server itself, or a plugin for itself.
    Internal,
}

/// A user, a plugin or the server itself, with what its token and transport say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The user; `plugin:<id>` for a plugin; empty for the server.
    pub user: UserId,
    /// Roles of the token only; `admin` and `service` mean something to the core.
    pub roles: Arc<[String]>,
    /// Id of the connection; empty where there is none.
    pub session: Arc<str>,
    /// By which way it asks.
    pub transport: Transport,
    /// [`Actor::NATIVE`] or the dialect's name.
    pub dialect: Arc<str>,
}

impl Actor {
    /// The dialect of the native protocol.
    pub const NATIVE: &'static str = "native";

    /// A user on a transport, without roles.
    pub fn user(user: impl Into<UserId>, transport: Transport) -> Actor {
        Actor {
            user: user.into(),
            roles: Arc::from([]),
            session: Arc::from(""),
            transport,
            dialect: Arc::from(Actor::NATIVE),
        }
    }

    /// A plugin that acts for itself.
    pub fn plugin(plugin: &PluginId) -> Actor {
        Actor::user(format!("plugin:{plugin}"), Transport::Internal)
    }

    /// The server itself.
    pub fn server() -> Actor {
        Actor::user("", Transport::Internal)
    }

    /// The token has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }

    /// Its requests are counted against the limits of users: not the server's own, nor those of admins.
    pub fn is_limited(&self) -> bool {
        !self.user.as_str().is_empty() && !self.is_admin()
    }

    /// May do what admins of the installation do.
    pub fn is_admin(&self) -> bool {
        self.has_role("admin") || self.has_role("service")
    }
}
