//! Every limit of the domain, in one place, each with a name and a unit.

use std::time::Duration;

/// What the pipeline refuses to exceed. Operators set it in `[limits]`; the defaults are those of `config/default.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Text of a message.
    pub content_bytes_max: usize,
    /// Text of a message, counted in Unicode scalar values.
    pub content_chars_max: usize,
    /// Metadata of a message.
    pub metadata_bytes_max: usize,
    /// A user id or an idempotency key.
    pub id_bytes_max: usize,
    /// An emoji of a reaction.
    pub reaction_bytes_max: usize,
    /// A name, title or avatar.
    pub name_bytes_max: usize,
    /// A profile's attributes and preferences together, or a conversation's state.
    pub attributes_bytes_max: usize,
    /// Participants of a group or context conversation.
    pub participants_max: usize,
    /// Up to this many participants everybody sees everybody's marks.
    pub shared_marks_participants_max: usize,
    /// Messages, events or notifications a page may hold.
    pub page_max: usize,
    /// One whole transaction: entries and effects.
    pub transaction_bytes_max: usize,
    /// Commands waiting for a turn of one conversation.
    pub turn_queue_max: usize,
    /// Of these by one user.
    pub turn_queue_per_user_max: usize,
    /// How long a command waits for its turn.
    pub turn_wait_max: Duration,
    /// What a turn's hooks may take together.
    pub turn_hooks_max: Duration,
    /// Entries staged in a lane and not yet committed, in bytes.
    pub lane_bytes_max: usize,
    /// Plugins that may lead to each other before the chain is cut.
    pub origin_depth_max: usize,
    /// A key of plugin kv.
    pub kv_key_bytes_max: usize,
    /// A value of plugin kv.
    pub kv_value_bytes_max: usize,
    /// Sends a user may make per second.
    pub rate_per_second: u32,
    /// Commands a user may send at once.
    pub rate_burst: u32,
    /// Messages a user may send in an hour; 0 is no such limit.
    pub rate_per_hour: u32,
    /// How long typing lasts without another sign of it.
    pub typing_ttl: Duration,
    /// How long an answered command is found again.
    pub idempotency: Duration,
    /// Command ids a warm conversation keeps exactly; older ones stand in a Bloom filter.
    pub command_ids_max: usize,
    /// Conversations kept warm.
    pub conversations_warm_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            content_bytes_max: 32 * 1024,
            content_chars_max: 10_000,
            metadata_bytes_max: 16 * 1024,
            id_bytes_max: 128,
            reaction_bytes_max: 32,
            name_bytes_max: 1024,
            attributes_bytes_max: 64 * 1024,
            participants_max: 1_000,
            shared_marks_participants_max: 256,
            page_max: 100,
            transaction_bytes_max: 384 * 1024,
            turn_queue_max: 256,
            turn_queue_per_user_max: 64,
            turn_wait_max: Duration::from_secs(5),
            turn_hooks_max: Duration::from_secs(2),
            lane_bytes_max: 16 * 1024 * 1024,
            origin_depth_max: 4,
            kv_key_bytes_max: 512,
            kv_value_bytes_max: 64 * 1024,
            rate_per_second: 50,
            rate_burst: 200,
            rate_per_hour: 0,
            typing_ttl: Duration::from_secs(10),
            idempotency: Duration::from_secs(7 * 24 * 3600),
            command_ids_max: 10_000,
            conversations_warm_max: 100_000,
        }
    }
}
