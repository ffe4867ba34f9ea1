//! What operators see of the engine. Handles are looked up once: the hot path only adds.

use haggle_model::{ErrorCode, Event};
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Handles of the engine's metrics.
pub(crate) struct Metrics {
    pub commands: Counter,
    pub commit_seconds: Histogram,
    pub commit_entries: Histogram,
    pub store_failed: Gauge,
    pub warm: Gauge,
    pub users_online: Gauge,
    pub failed_deliveries: Gauge,
    pub deliveries: Counter,
    pub delivery_failures: Counter,
    pub timers_fired: Counter,
    pub erased: Counter,
    pub consumers_parked: Gauge,
    messages: Counter,
    edits: Counter,
    deletes: Counter,
    conversations: Counter,
    marks: Counter,
    others: Counter,
    refused: Vec<(ErrorCode, Counter)>,
}

impl Metrics {
    /// Registers everything at 0 and describes it.
    pub fn new() -> Metrics {
        describe();
        let events = |event: &'static str| counter!("haggle_events_total", "event" => event);
        let metrics = Metrics {
            commands: counter!("haggle_commands_total"),
            commit_seconds: histogram!("haggle_lane_commit_seconds"),
            commit_entries: histogram!("haggle_lane_commit_entries"),
            store_failed: gauge!("haggle_store_failed"),
            warm: gauge!("haggle_conversations_warm"),
            users_online: gauge!("haggle_users_online"),
            failed_deliveries: gauge!("haggle_failed_deliveries"),
            deliveries: counter!("haggle_feed_deliveries_total"),
            delivery_failures: counter!("haggle_feed_failures_total"),
            timers_fired: counter!("haggle_timers_fired_total"),
            erased: counter!("haggle_messages_erased_total"),
            consumers_parked: gauge!("haggle_feed_consumers_parked"),
            messages: events("message_created"),
            edits: events("message_edited"),
            deletes: events("message_deleted"),
            conversations: events("conversation_created"),
            marks: events("marked"),
            others: events("other"),
            refused: ErrorCode::ALL
                .iter()
                .map(|code| (*code, counter!("haggle_commands_refused_total", "code" => code.as_str())))
                .collect(),
        };
        metrics.store_failed.set(0.0);
        metrics.failed_deliveries.set(0.0);
        metrics
    }

    /// An event is durable.
    pub fn committed(&self, event: &Event) {
        let counter = match event {
            Event::MessageCreated(_) => &self.messages,
            Event::MessageEdited { .. } => &self.edits,
            Event::MessageDeleted { .. } => &self.deletes,
            Event::ConversationCreated(_) => &self.conversations,
            Event::Marked { .. } | Event::BroadcastMarked { .. } => &self.marks,
            _ => &self.others,
        };
        counter.increment(1);
    }

    /// A command was refused.
    pub fn refused(&self, code: ErrorCode) {
        if let Some((_, counter)) = self.refused.iter().find(|(other, _)| *other == code) {
            counter.increment(1);
        }
    }
}

fn describe() {
    describe_counter!("haggle_commands_total", "Commands that came in, on every transport");
    describe_counter!("haggle_commands_refused_total", "Commands that were refused, by code");
    describe_counter!("haggle_events_total", "Events that became durable, by event");
    describe_histogram!("haggle_lane_commit_seconds", Unit::Seconds, "Time of one durable group commit");
    describe_histogram!("haggle_lane_commit_entries", Unit::Count, "Entries in one group commit");
    describe_gauge!("haggle_store_failed", "1 while the store takes no writes");
    describe_gauge!("haggle_conversations_warm", "Conversations in memory");
    describe_gauge!("haggle_users_online", "Users with at least one connection");
    describe_gauge!("haggle_failed_deliveries", "Deliveries that were given up and wait for an operator");
    describe_counter!("haggle_feed_deliveries_total", "After-hooks run and outgoing items delivered");
    describe_counter!(
        "haggle_feed_failures_total",
        "Attempts of after-hooks, outgoing items and timers that failed"
    );
    describe_gauge!(
        "haggle_feed_consumers_parked",
        "Consumers that hold too many conversations and were stopped"
    );
    describe_counter!("haggle_timers_fired_total", "Timers of plugins that fired");
    describe_counter!("haggle_messages_erased_total", "Deleted messages whose text was erased from the log");
}
