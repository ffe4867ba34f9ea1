//! The native WebSocket's metrics by name, with handles that cost no lookup.

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::metrics::{CONNECTIONS, CONNECTIONS_OPENED};

/// Frames with a request or a sign of life that clients sent.
pub const FRAMES_RECEIVED: &str = "haggle_ws_frames_received_total";
/// Frames that were not queued since the outbox had no room; label `class` (`durable`, `ephemeral`).
pub const DROPPED: &str = "haggle_ws_dropped_total";
/// Connections that will be told with a gap what they missed.
pub const LAGGING: &str = "haggle_ws_lagging";
/// Gaps that were sent.
pub const GAPS: &str = "haggle_ws_gaps_total";
/// Connections closed by the server; label `code`.
pub const CLOSES: &str = "haggle_ws_closes_total";
/// Bytes that waited for one connection when more was written to it, where that was above 4 KiB.
pub const OUTBOX_BYTES: &str = "haggle_ws_outbox_bytes";
/// Handshakes refused; label `reason`.
pub const HANDSHAKES_REFUSED: &str = "haggle_ws_handshakes_refused_total";

/// Smaller outboxes are not recorded: an idle one says nothing.
pub(super) const OUTBOX_BYTES_RECORDED_MIN: usize = 4096;
/// Every close code the server sends on its own.
const CLOSE_CODES: [&str; 13] = [
    "1000", "1002", "1003", "1007", "1009", "1012", "4001", "4008", "4009", "4029", "4501", "4503", "4509",
];
/// Every reason of a refused handshake.
const REFUSALS: [&str; 8] = ["method", "upgrade", "version", "key", "origin", "protocol", "token", "full"];

/// Describes every metric of this module and registers it at 0.
pub fn describe() {
    describe_counter!(FRAMES_RECEIVED, Unit::Count, "Frames that native clients sent");
    describe_counter!(
        DROPPED,
        Unit::Count,
        "Frames not queued since a native connection's outbox had no room, by class"
    );
    describe_gauge!(
        LAGGING,
        Unit::Count,
        "Native connections that missed durable events and have not been told yet"
    );
    describe_counter!(GAPS, Unit::Count, "Gaps told to native connections");
    describe_counter!(CLOSES, Unit::Count, "Native connections closed by the server, by close code");
    describe_histogram!(
        OUTBOX_BYTES,
        Unit::Bytes,
        "Bytes waiting for a native connection when it was written to, above 4 KiB"
    );
    describe_counter!(HANDSHAKES_REFUSED, Unit::Count, "WebSocket handshakes refused, by reason");
    counter!(FRAMES_RECEIVED).absolute(0);
    for class in ["durable", "ephemeral"] {
        counter!(DROPPED, "class" => class).absolute(0);
    }
    gauge!(LAGGING).set(0.0);
    counter!(GAPS).absolute(0);
    for code in CLOSE_CODES {
        counter!(CLOSES, "code" => code).absolute(0);
    }
    let _ = histogram!(OUTBOX_BYTES);
    for reason in REFUSALS {
        counter!(HANDSHAKES_REFUSED, "reason" => reason).absolute(0);
    }
}

/// Counts a close. Rare, so the label is looked up.
pub(super) fn closed(code: u16) {
    counter!(CLOSES, "code" => code.to_string()).increment(1);
}

/// Counts a handshake that was refused.
pub(super) fn refused(reason: &'static str) {
    counter!(HANDSHAKES_REFUSED, "reason" => reason).increment(1);
}

/// What is counted on the hot path.
pub(super) struct Handles {
    pub open: Gauge,
    pub opened: Counter,
    pub received: Counter,
    pub dropped_durable: Counter,
    pub dropped_ephemeral: Counter,
    pub lagging: Gauge,
    pub gaps: Counter,
    pub outbox_bytes: Histogram,
}

impl Handles {
    /// Handles of the recorder that is installed now.
    pub fn new() -> Handles {
        Handles {
            open: gauge!(CONNECTIONS, "transport" => "ws"),
            opened: counter!(CONNECTIONS_OPENED, "transport" => "ws"),
            received: counter!(FRAMES_RECEIVED),
            dropped_durable: counter!(DROPPED, "class" => "durable"),
            dropped_ephemeral: counter!(DROPPED, "class" => "ephemeral"),
            lagging: gauge!(LAGGING),
            gaps: counter!(GAPS),
            outbox_bytes: histogram!(OUTBOX_BYTES),
        }
    }
}
