//! The words of the domain: ids, conversations, messages, events, effects, limits, error codes.
//!
//! No IO, no async, no transport shapes: a crate that only needs to *name* things depends on this one and nothing else.
//! Start with [`Entry`]: one row of the log, of which everything else in Haggle is a consequence.
//!
//! What is written to disk derives [`minicbor`] with numbered fields. A number is never reused; a new field is an
//! `Option` (or has a default) with the next number, so that old rows stay readable for ever.

mod address;
mod entry;
mod error;
mod event;
mod id;
mod limits;
mod state;

pub use address::{Address, KeyRing};
pub use entry::{Effects, Entry, KvChange, MarkChange, Notification, Outgoing, OutgoingItem, Reservation, ReservationState, TimerChange};
pub use error::ErrorCode;
pub use event::{
    Content, ConversationCreated, ConversationKind, ConversationUpdate, Decider, Event, Profile, Role, SENDER_ROLE_BYTES_MAX, SENDER_ROLES_MAX,
};
pub use id::{CommandId, ConversationId, Hex, MessageId, ParseIdError, PluginId, Pos, Seq, Shard, UserId};
pub use limits::Limits;
pub use state::{Marks, unread};

/// Milliseconds since the Unix epoch: the wall clock that people see.
pub type Millis = i64;
/// Microseconds, strictly increasing per shard: the clock of the log.
pub type Micros = u64;
