//! Namespaces of Socket.IO that a plugin owns: what its [`Namespace`](crate::hooks::Namespace) handlers are given and give back.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    Error, Rejection, json as json_text,
    types::{Conversation, Message, ParticipantChange, Reaction, Receipt, StoredNotification},
};

/// Arguments of an event or of its ack.
///
/// ```
/// use haggle_sdk::prelude::*;
/// use haggle_sdk::serde_json::json;
///
/// let args = Args::one(&json!({"ok": true})).unwrap().and_binary(vec![1, 2, 3]);
/// assert_eq!(args.get(0), json!({"ok": true}));
/// assert_eq!(args.binary_at(1), Some(&[1, 2, 3][..]));
/// assert_eq!(args.get(2), json!(null), "there is no third one");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// One JSON array as text. A binary part stands in it as `{"_placeholder":true,"num":0}`.
    pub json: String,
    /// The binary parts, at most 10.
    pub binary: Vec<Vec<u8>>,
}

impl Default for Args {
    fn default() -> Args {
        Args {
            json: "[]".into(),
            binary: Vec::new(),
        }
    }
}

impl Args {
    /// One argument.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what has no JSON form.
    pub fn one(value: &impl Serialize) -> Result<Args, Error> {
        Args::all(&[value])
    }

    /// Several.
    ///
    /// # Errors
    ///
    /// As [`Args::one`].
    pub fn all(values: &[impl Serialize]) -> Result<Args, Error> {
        Ok(Args {
            json: json_text::text(&values)?,
            binary: Vec::new(),
        })
    }

    /// The same with binary data as one argument more.
    #[must_use]
    pub fn and_binary(mut self, bytes: Vec<u8>) -> Args {
        let place = json!({"_placeholder": true, "num": self.binary.len()});
        let inner = self.json.trim_end().strip_suffix(']').unwrap_or("[");
        let comma = if inner.trim() == "[" { "" } else { "," };
        self.json = format!("{inner}{comma}{place}]");
        self.binary.push(bytes);
        self
    }

    /// The arguments as values.
    pub fn values(&self) -> Vec<Value> {
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// One argument; null where there is none.
    pub fn get(&self, index: usize) -> Value {
        self.values().into_iter().nth(index).unwrap_or_default()
    }

    /// One argument as a type of the plugin's own.
    ///
    /// # Errors
    ///
    /// `invalid_payload`, with what is wrong.
    pub fn parse<T: DeserializeOwned>(&self, index: usize) -> Result<T, Rejection> {
        serde_json::from_value(self.get(index)).map_err(|error| Rejection::new("invalid_payload", error.to_string()))
    }

    /// The binary data that stands as this argument.
    pub fn binary_at(&self, index: usize) -> Option<&[u8]> {
        let argument = self.get(index);
        let number = argument["num"].as_u64().filter(|_| argument["_placeholder"] == true)?;
        self.binary.get(usize::try_from(number).ok()?).map(Vec::as_slice)
    }
}

/// Connections in the plugin's namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In [`map`](crate::hooks::Namespace::map): whoever the core tells.
    Recipients,
    /// One connection.
    Connection(String),
    /// All connections of a user.
    User(String),
    /// All connections of a conversation's participants.
    Conversation(String),
    /// Connections that have entered the room.
    Room(String),
    /// Connections whose token has the role.
    Role(String),
    /// All.
    Everyone,
}

/// Those of a target for which everything said here is true.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// // Everybody in the conversation but its sender, where they have not joined it:
/// let to = Audience::recipients().except_user("alice").not_joined();
/// assert_eq!(to.joined, Some(false));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    /// The target.
    pub to: Target,
    /// Have (or have not) joined the conversation that the target or the mapped event names.
    pub joined: Option<bool>,
    /// Are not this user's.
    pub except_user: Option<String>,
    /// Are not this connection.
    pub except_connection: Option<String>,
    /// Are in this namespace; none: in any that the plugin owns.
    pub namespace: Option<String>,
}

impl Audience {
    /// All of a target.
    pub fn of(to: Target) -> Audience {
        Audience {
            to,
            joined: None,
            except_user: None,
            except_connection: None,
            namespace: None,
        }
    }

    /// Whoever the core tells of the event that is mapped.
    pub fn recipients() -> Audience {
        Audience::of(Target::Recipients)
    }

    /// One connection.
    pub fn connection(id: impl Into<String>) -> Audience {
        Audience::of(Target::Connection(id.into()))
    }

    /// All connections of a user.
    pub fn user(id: impl Into<String>) -> Audience {
        Audience::of(Target::User(id.into()))
    }

    /// All connections of a conversation's participants.
    pub fn conversation(id: impl Into<String>) -> Audience {
        Audience::of(Target::Conversation(id.into()))
    }

    /// Connections in a room.
    pub fn room(name: impl Into<String>) -> Audience {
        Audience::of(Target::Room(name.into()))
    }

    /// Connections with a role.
    pub fn role(name: impl Into<String>) -> Audience {
        Audience::of(Target::Role(name.into()))
    }

    /// All connections.
    pub fn everyone() -> Audience {
        Audience::of(Target::Everyone)
    }

    /// Those that have joined the conversation.
    #[must_use]
    pub fn joined(mut self) -> Audience {
        self.joined = Some(true);
        self
    }

    /// Those that have not.
    #[must_use]
    pub fn not_joined(mut self) -> Audience {
        self.joined = Some(false);
        self
    }

    /// Not the connections of this user.
    #[must_use]
    pub fn except_user(mut self, user: impl Into<String>) -> Audience {
        self.except_user = Some(user.into());
        self
    }

    /// Not this connection.
    #[must_use]
    pub fn except_connection(mut self, id: impl Into<String>) -> Audience {
        self.except_connection = Some(id.into());
        self
    }

    /// Only in this namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Audience {
        self.namespace = Some(namespace.into());
        self
    }
}

/// One event for many connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emit {
    /// For whom.
    pub to: Audience,
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub args: Args,
}

impl Emit {
    /// An event with one argument. What has no JSON form (a map whose keys are no texts) becomes null.
    pub fn new(to: Audience, name: impl Into<String>, payload: &impl Serialize) -> Emit {
        let args = Args::one(payload).unwrap_or_else(|_| Args {
            json: "[null]".into(),
            binary: Vec::new(),
        });
        Emit { to, name: name.into(), args }
    }
}

/// Somebody wants to connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// To this namespace.
    pub namespace: String,
    /// The object that came with the connect, without its token, as JSON text.
    pub auth: String,
    /// The host that was asked.
    pub host: String,
    /// The path that was asked.
    pub path: String,
    /// What of the query is the client's own.
    pub query: String,
    /// Some headers, with lower-case names.
    pub headers: Vec<(String, String)>,
}

impl Handshake {
    /// A field of the connect's object; null where there is none.
    pub fn auth(&self, field: &str) -> Value {
        serde_json::from_str::<Value>(&self.auth)
            .map(|mut auth| auth[field].take())
            .unwrap_or_default()
    }
}

/// Why somebody is not let in: the client's `connect_error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRefused {
    /// For people.
    pub message: String,
    /// Any JSON value as text.
    pub data: Option<String>,
}

impl ConnectRefused {
    /// A refusal with a sentence.
    pub fn new(message: impl Into<String>) -> ConnectRefused {
        ConnectRefused {
            message: message.into(),
            data: None,
        }
    }

    /// The same with data for the program.
    #[must_use]
    pub fn with_data(mut self, data: &impl Serialize) -> ConnectRefused {
        self.data = json_text::text(data).ok();
        self
    }
}

/// An event of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketEvent {
    /// In this namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub args: Args,
    /// The client waits for an ack.
    pub wants_ack: bool,
    /// It is a client's ack to [`events::ask_socket`](crate::events::ask_socket) with this token.
    pub answer_to: Option<String>,
}

/// Something that happened in the core. `kind` says what, and so which of the options are there; the contract lists the kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreEvent {
    /// `message.created`, `read`, `typing`, `presence`, `notification`, …
    pub kind: String,
    /// 0 for what is not kept.
    pub seq: u32,
    /// When.
    pub at_ms: u64,
    /// Who did it; of `read`, `typing` and `presence`: whose it is.
    pub actor: Option<String>,
    /// Of `typing`: the name to show.
    pub actor_name: Option<String>,
    /// Where.
    pub conversation: Option<Conversation>,
    /// Those whom the core tells, at most 256.
    pub recipients: Vec<String>,
    /// Of messages and reactions: the message after the event.
    pub message: Option<Message>,
    /// Of reactions.
    pub reaction: Option<Reaction>,
    /// Of participants.
    pub participant: Option<ParticipantChange>,
    /// Of `read`.
    pub receipt: Option<Receipt>,
    /// Of `typing` and `presence`: begins or ends.
    pub on: Option<bool>,
    /// Of `presence`, who is gone: since when.
    pub last_seen_ms: Option<u64>,
    /// Of notifications.
    pub notification: Option<StoredNotification>,
    /// Of plugins' events: JSON text.
    pub payload: Option<String>,
}
