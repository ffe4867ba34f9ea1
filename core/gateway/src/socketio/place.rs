//! A client's place in a namespace, whoever owns that: whose it is, what its token allows, which conversations it has joined, and
//! the session that carries what is said to it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use haggle_engine::{Actor, Refusal, Subscriber, Transport};
use haggle_model::{ConversationId, ErrorCode, Millis, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    client::Space,
    dialects::Dialect,
    engineio::{
        session::{By, Session},
        sessions::new_id,
    },
    metrics::Reason,
    permit::Permit,
    recovery::{Away, Ring},
};
use crate::{Gateway, Identity};

/// See the module.
pub(super) struct Place {
    /// The id of the namespace's socket, as the client knows it.
    pub id: Arc<str>,
    pub gateway: Arc<Gateway>,
    /// Empty where there is none.
    pub user: UserId,
    /// The secret by which the client is known again after a cut.
    pid: Option<Box<str>>,
    line: Mutex<Line>,
    /// What `line` says, for the hub.
    away: AtomicBool,
    rights: Mutex<Rights>,
}

/// How the client is reached. Its lock comes before those of the session, and before that of the rights.
pub(super) struct Line {
    /// That carries what is said to the client; over, when the client is away.
    pub session: Arc<Session>,
    pub stage: Stage,
    /// Held while somebody is there whose connections are counted.
    pub permit: Option<Permit>,
    /// What the client gets after a cut.
    pub ring: Option<Box<Ring>>,
}

/// How far a place has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The hub does not know it yet.
    New,
    /// Its client is there.
    Here,
    /// Its client may come back.
    Away(Away),
    /// For good.
    Over(Reason),
}

impl Stage {
    pub fn away(self) -> Option<Away> {
        match self {
            Stage::Away(away) => Some(away),
            _ => None,
        }
    }

    /// The hub knows the place now; where it was over before, why.
    pub fn known(&mut self) -> Option<Reason> {
        match *self {
            Stage::Over(reason) => return Some(reason),
            Stage::New => *self = Stage::Here,
            Stage::Here | Stage::Away(_) => {}
        }
        None
    }

    fn end(&mut self, reason: Reason) -> bool {
        let before = *self;
        if !matches!(before, Stage::Over(_)) {
            *self = Stage::Over(reason);
        }
        matches!(before, Stage::Here | Stage::Away(_))
    }
}

impl Line {
    /// The place is over; `true` where the caller has to tell, which one of all that end a place does. Nobody has to while
    /// the place is new: whoever lets the hub know it finds it over.
    #[must_use]
    pub fn end(&mut self, reason: Reason) -> bool {
        (self.ring, self.permit) = (None, None);
        self.stage.end(reason)
    }
}

struct Rights {
    roles: Arc<[String]>,
    expires_at: Option<i64>,
    joined: BTreeSet<ConversationId>,
}

/// Who has a place.
pub(super) trait Seated: Subscriber {
    fn place(&self) -> &Place;
    /// Whose namespace it is, if a plugin's.
    fn dialect(&self) -> Option<&Arc<Dialect>>;
    /// The place as its session keeps it.
    fn into_space(self: Arc<Self>) -> Space;
    /// The client has come back into the place.
    fn is_back(self: Arc<Self>);
    /// The place is over for good.
    fn is_over(self: Arc<Self>, reason: Reason);
}

impl Place {
    /// Of somebody with a token, or of nobody. With `recovers` the client can be known again.
    pub fn new(session: Arc<Session>, id: Arc<str>, recovers: bool, who: Option<(Identity, Permit)>) -> Place {
        let gateway = session.gateway.clone();
        let (user, roles, expires_at, permit) = match who {
            Some((identity, permit)) => (identity.user, identity.roles, Some(identity.expires_at), Some(permit)),
            None => (UserId::from(""), Arc::from([]), None, None),
        };
        Place {
            id,
            user,
            pid: recovers.then(|| new_id(&gateway.settings.socketio.node).into()),
            line: Mutex::new(Line {
                ring: recovers.then(|| gateway.socketio.recovery.ring()),
                session,
                stage: Stage::New,
                permit,
            }),
            away: AtomicBool::new(false),
            rights: Mutex::new(Rights {
                roles,
                expires_at,
                joined: BTreeSet::new(),
            }),
            gateway,
        }
    }

    /// The user, where there is one.
    pub fn named_user(&self) -> Option<&UserId> {
        (!self.user.as_str().is_empty()).then_some(&self.user)
    }

    /// The secret by which the client is known again.
    pub fn pid(&self) -> Option<&str> {
        self.pid.as_deref()
    }

    pub fn actor(&self, dialect: &str) -> Actor {
        Actor {
            user: self.user.clone(),
            roles: self.rights.lock().roles.clone(),
            session: self.id.clone(),
            transport: Transport::SocketIo,
            dialect: Arc::from(dialect),
        }
    }

    // The token.

    /// Takes on what another token of the same user says.
    pub fn renew(&self, identity: Identity) -> Result<(), Refusal> {
        if identity.user != self.user {
            return Err(Refusal::forbidden("this connection is another user's"));
        }
        let mut rights = self.rights.lock();
        (rights.roles, rights.expires_at) = (identity.roles, Some(identity.expires_at));
        Ok(())
    }

    /// When the token ends, if there is one.
    pub fn expires_at_ms(&self) -> Option<Millis> {
        self.rights.lock().expires_at.map(|at| at.saturating_mul(1000))
    }

    pub fn has_role(&self, role: &str) -> bool {
        self.rights.lock().roles.iter().any(|r| r == role)
    }

    // Conversations.

    pub fn join(&self, conversation: ConversationId) -> Result<(), Refusal> {
        let max = self.gateway.settings.ws.subscriptions_max;
        let joined = &mut self.rights.lock().joined;
        if joined.len() >= max && !joined.contains(&conversation) {
            return Err(Refusal::new(ErrorCode::TooLarge, format!("ws.subscriptions_max = {max}")));
        }
        joined.insert(conversation);
        Ok(())
    }

    pub fn leave(&self, conversation: ConversationId) {
        self.rights.lock().joined.remove(&conversation);
    }

    /// Has joined one of them.
    pub fn has_joined(&self, conversations: &[ConversationId]) -> bool {
        let joined = &self.rights.lock().joined;
        conversations.iter().any(|conversation| joined.contains(conversation))
    }

    pub fn joined(&self) -> BTreeSet<ConversationId> {
        self.rights.lock().joined.clone()
    }

    // The session.

    pub fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock()
    }

    pub fn session(&self) -> Arc<Session> {
        self.line.lock().session.clone()
    }

    /// Sends frames that are not sent again.
    pub fn push_once(&self, frames: Bytes) {
        self.line.lock().session.push(frames);
    }

    /// Sends frames of events, and keeps them for a client that may miss them.
    pub fn push(&self, frames: Bytes) {
        let line = &mut *self.line.lock();
        if let Some(ring) = &mut line.ring {
            ring.push(Instant::now(), frames.clone(), line.session.settings());
        }
        line.session.push(frames);
    }

    pub fn close(&self, reason: Reason) {
        self.session().close(reason, By::Server);
    }

    /// Nobody is there at the moment.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Tells the hub's side what the line says. Called by [`haggle_engine::hub::Hub::change`] alone, where there is a user.
    pub fn note_away(&self) {
        self.away.store(self.line.lock().stage.away().is_some(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_to_be_over_once() {
        let cut = Reason::TransportClose;
        let mut stage = Stage::New;
        assert_eq!(stage.known(), None);
        assert_eq!(stage, Stage::Here);
        assert!(stage.end(cut), "who ends it tells");
        assert!(!stage.end(Reason::PingTimeout), "and nobody else");
        assert_eq!(stage, Stage::Over(cut));
    }

    #[test]
    fn an_end_that_comes_before_the_hub_knows_is_told_afterwards() {
        let cut = Reason::TransportClose;
        let mut stage = Stage::New;
        assert!(!stage.end(cut), "there is nobody to tell yet");
        assert_eq!(stage.known(), Some(cut), "who lets the hub know tells");
    }
}
