//! The server of these tests, and its settings.

use haggle_gateway::WsSettings;

#[path = "../support/server.rs"]
#[allow(dead_code, reason = "what plugins hear is looked at elsewhere")]
mod shared;

pub use shared::{Server, token, token_for, token_with};

impl Server {
    pub async fn with(change: impl FnOnce(&mut WsSettings)) -> Server {
        Server::set(|settings| change(&mut settings.ws)).await
    }
}
