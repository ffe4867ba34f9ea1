//! The transports: bytes to commands, events to bytes. No business rule lives here.
//!
//! [`Gateway`] is what REST and the native WebSocket share. A request becomes an engine command with an actor
//! ([`auth`], [`decode`]), an answer or event becomes a [`resource`]; one table maps codes to HTTP.

pub mod auth;
pub mod decode;
mod eager;
pub mod http;
mod json;
pub mod metrics;
pub mod origin;
pub mod resource;
pub mod rest;
mod settings;
pub mod socketio;
pub mod ws;

use std::sync::Arc;

use haggle_engine::Engine;

pub use auth::{AuthConfig, AuthConfigError, AuthError, Authenticator, Identity, Jwks};
pub use origin::Origins;
pub use settings::{DialectSettings, GatewaySettings, HttpSettings, RestSettings, RouteSettings, SocketIoSettings, UserSettings, WsSettings};

/// What every transport needs; one per process.
pub struct Gateway {
    /// Commands go in here, reads through its store.
    pub engine: Engine,
    /// Who a token speaks for.
    pub auth: Authenticator,
    /// Which web pages may talk to us.
    pub origins: Origins,
    /// Limits and switches of the transports.
    pub settings: GatewaySettings,
    /// The native WebSockets that are open.
    pub connections: ws::Connections,
    /// The Socket.IO sessions that are open.
    pub socketio: socketio::Sessions,
}

impl Gateway {
    /// Puts the parts together.
    pub fn new(engine: Engine, auth: Authenticator, origins: Origins, settings: GatewaySettings) -> Arc<Gateway> {
        let socketio = socketio::Sessions::new(&settings.socketio);
        socketio.listen_to(engine.hub());
        Arc::new(Gateway {
            engine,
            auth,
            origins,
            settings,
            connections: ws::Connections::new(),
            socketio,
        })
    }
}
