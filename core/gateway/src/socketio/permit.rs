//! One of the connections that a user may have at a time.

use std::sync::Arc;

use haggle_engine::Refusal;
use haggle_model::{ErrorCode, UserId};

use crate::Gateway;

/// Counts among the connections of its user until it is dropped.
pub(super) struct Permit {
    gateway: Arc<Gateway>,
    user: UserId,
}

impl Permit {
    /// Refused where the user has as many as it may have.
    pub fn of(gateway: &Arc<Gateway>, user: &UserId) -> Result<Permit, Refusal> {
        let max = gateway.settings.ws.connections_per_user_max;
        if !gateway.connections.enter(user, max) {
            return Err(Refusal::new(ErrorCode::RateLimited, format!("at most {max} connections of one user")));
        }
        Ok(Permit {
            gateway: gateway.clone(),
            user: user.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gateway.connections.leave(&self.user);
    }
}
