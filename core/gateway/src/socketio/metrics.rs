//! The metrics of Socket.IO by name.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

use crate::metrics::{CONNECTIONS, CONNECTIONS_OPENED};

/// Sessions that ended; label `reason`.
pub const CLOSES: &str = "haggle_socketio_closes_total";
/// Requests refused with one of the protocol's codes; label `code`.
pub const REFUSED: &str = "haggle_socketio_refused_total";
/// Requests for a session of another node.
pub const MISROUTED: &str = "haggle_socketio_misrouted_total";
/// Namespaces asked for; label `result` (`joined`, `refused`, `unknown`, `failed`).
pub const CONNECTS: &str = "haggle_socketio_connects_total";
/// Sessions that went from polling to WebSocket.
pub const UPGRADES: &str = "haggle_socketio_upgrades_total";
/// Clients that asked for their place after a cut; label `result` (`recovered`, `unknown`, `lost`).
pub const RECOVERIES: &str = "haggle_socketio_recoveries_total";
/// Clients that are away and for whom a place is kept.
pub const RECOVERY_AWAY: &str = "haggle_socketio_recovery_away";
/// What is kept for clients that may miss it.
pub const RECOVERY_BYTES: &str = "haggle_socketio_recovery_bytes";

/// Published events that a plugin-owned namespace did not get; label `reason` (`failed`, `late`, `full`).
pub const UNMAPPED: &str = "haggle_socketio_unmapped_total";
/// Events for connections whose connect was not answered yet that found no room.
pub const NOT_HELD: &str = "haggle_socketio_not_held_total";
/// Questions of plugins that no client answered in time, or before it was gone.
pub const UNANSWERED: &str = "haggle_socketio_unanswered_total";

/// Why a session or a place in a namespace ends, as the protocol's server names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    TransportClose,
    TransportError,
    PingTimeout,
    ParseError,
    ForcedClose,
    ForcedServerClose,
    ServerShuttingDown,
    ClientNamespaceDisconnect,
    ServerNamespaceDisconnect,
}

impl Reason {
    const ALL: [Reason; 9] = [
        Reason::TransportClose,
        Reason::TransportError,
        Reason::PingTimeout,
        Reason::ParseError,
        Reason::ForcedClose,
        Reason::ForcedServerClose,
        Reason::ServerShuttingDown,
        Reason::ClientNamespaceDisconnect,
        Reason::ServerNamespaceDisconnect,
    ];

    /// What the engine's word for closing a connection is here.
    pub fn of_close(reason: &str) -> Reason {
        match reason {
            "drain" => Reason::ServerShuttingDown,
            _ => Reason::ForcedServerClose,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::TransportClose => "transport close",
            Reason::TransportError => "transport error",
            Reason::PingTimeout => "ping timeout",
            Reason::ParseError => "parse error",
            Reason::ForcedClose => "forced close",
            Reason::ForcedServerClose => "forced server close",
            Reason::ServerShuttingDown => "server shutting down",
            Reason::ClientNamespaceDisconnect => "client namespace disconnect",
            Reason::ServerNamespaceDisconnect => "server namespace disconnect",
        }
    }

    /// The connection went and not the client's wish to be here.
    pub fn is_a_cut(self) -> bool {
        !matches!(
            self,
            Reason::ParseError | Reason::ClientNamespaceDisconnect | Reason::ServerNamespaceDisconnect | Reason::ServerShuttingDown
        )
    }
}

/// Describes every metric of this module and registers it at 0.
pub fn describe() {
    describe_counter!(CLOSES, Unit::Count, "Socket.IO sessions and places in a namespace that ended, by reason");
    describe_counter!(REFUSED, Unit::Count, "Socket.IO requests refused, by the protocol's code");
    describe_counter!(MISROUTED, Unit::Count, "Socket.IO requests for a session of another node");
    describe_counter!(CONNECTS, Unit::Count, "Socket.IO namespaces asked for, by result");
    describe_counter!(UPGRADES, Unit::Count, "Socket.IO sessions that went from polling to WebSocket");
    describe_counter!(
        RECOVERIES,
        Unit::Count,
        "Socket.IO clients that asked for their place after a cut, by result"
    );
    describe_gauge!(RECOVERY_AWAY, Unit::Count, "Socket.IO clients that are away and for whom a place is kept");
    describe_gauge!(
        RECOVERY_BYTES,
        Unit::Bytes,
        "Events kept for Socket.IO clients that may miss them, shared ones counted for each"
    );
    for reason in Reason::ALL {
        counter!(CLOSES, "reason" => reason.as_str()).absolute(0);
    }
    for code in ["0", "1", "2", "3", "4", "5", "full", "too_large"] {
        counter!(REFUSED, "code" => code).absolute(0);
    }
    counter!(MISROUTED).absolute(0);
    for result in ["joined", "refused", "unknown", "failed"] {
        counter!(CONNECTS, "result" => result).absolute(0);
    }
    counter!(UPGRADES).absolute(0);
    for result in ["recovered", "unknown", "lost"] {
        counter!(RECOVERIES, "result" => result).absolute(0);
    }
    gauge!(RECOVERY_AWAY).set(0.0);
    gauge!(RECOVERY_BYTES).set(0.0);
    describe_counter!(
        UNMAPPED,
        Unit::Count,
        "Published events that a namespace of a plugin did not get, by reason"
    );
    for reason in ["failed", "late", "full"] {
        counter!(UNMAPPED, "reason" => reason).absolute(0);
    }
    describe_counter!(
        NOT_HELD,
        Unit::Count,
        "Events for Socket.IO clients whose connect was not answered yet that found no room"
    );
    counter!(NOT_HELD).absolute(0);
    describe_counter!(
        UNANSWERED,
        Unit::Count,
        "Questions of plugins that no Socket.IO client answered in time, or before it was gone"
    );
    counter!(UNANSWERED).absolute(0);
    gauge!(CONNECTIONS, "transport" => "socketio").set(0.0);
    counter!(CONNECTIONS_OPENED, "transport" => "socketio").absolute(0);
}

/// Counts an end.
pub(crate) fn closed(reason: Reason) {
    counter!(CLOSES, "reason" => reason.as_str()).increment(1);
}

/// Counts an event that a namespace did not get.
pub(crate) fn unmapped(reason: &'static str) {
    counter!(UNMAPPED, "reason" => reason).increment(1);
}

/// Counts an event that found no room in front of a connect's answer.
pub(crate) fn not_held() {
    counter!(NOT_HELD).increment(1);
}

/// Counts questions without an answer.
pub(crate) fn unanswered(questions: usize) {
    counter!(UNANSWERED).increment(questions as u64);
}

/// What is counted with every session.
pub(crate) struct Handles {
    pub open: Gauge,
    pub opened: Counter,
}

impl Handles {
    pub fn new() -> Handles {
        Handles {
            open: gauge!(CONNECTIONS, "transport" => "socketio"),
            opened: counter!(CONNECTIONS_OPENED, "transport" => "socketio"),
        }
    }
}
