//! The server's frames as JSON.
//!
//! What is shared by many connections is made once as a whole frame ([`push`]); answers are written straight into the outbox.

use std::io::Write;

use bytes::Bytes;
use haggle_engine::{Head, Outcome, Refusal, What};
use haggle_model::{ConversationId, ConversationKind, ErrorCode, MarkChange, Millis, Seq, UserId};
use haggle_store::InboxRow;

use super::{frame, protocol::Id};
use crate::{
    json::{self, string},
    resource::{EventView, Raw, Time, write_event_data},
    settings::WsSettings,
};

/// The slot of a push that holds the native encoding.
pub(super) const NATIVE: usize = 0;
/// Version of the protocol.
const VERSION: u32 = 1;
/// Between these, in milliseconds, a drained client waits before it comes back.
const RETURN_AFTER_MS: [u32; 2] = [500, 5000];

macro_rules! put {
    ($out:expr, $($format:tt)*) => {
        write!($out, $($format)*).expect("writing to memory does not fail")
    };
}

/// Pieces one behind the other, for the frames of every message: a formatter takes several times as long.
macro_rules! join {
    ($out:expr, $($piece:expr),*) => {{
        $($out.extend_from_slice($piece.as_bytes());)*
    }};
}

/// A number behind a piece, in a frame of every message.
fn number(out: &mut Vec<u8>, before: &str, number: impl itoa::Integer) {
    join!(out, before);
    json::number(out, number);
}

/// The head of a frame that answers a request.
fn answer(out: &mut Vec<u8>, t: &str, id: &Id) {
    join!(out, r#"{"t":""#, t, r#"""#);
    match id {
        Id::None => {}
        Id::Number(id) => number(out, r#","id":"#, *id),
        Id::Text(id) => {
            out.extend_from_slice(br#","id":"#);
            string(out, id);
        }
    }
}

/// The first frame of every connection.
pub(super) fn hello(out: &mut Vec<u8>, settings: &WsSettings) {
    put!(
        out,
        r#"{{"t":"hello","v":{VERSION},"hb":{},"max":{},"auth_within":{},"caps":["batch"]}}"#,
        settings.heartbeat.as_millis(),
        settings.message_bytes_max,
        settings.auth_within.as_millis()
    );
}

/// The server is still there.
pub(super) fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{}");
}

/// An answer without content.
pub(super) fn ok(out: &mut Vec<u8>, id: &Id) {
    answer(out, "ok", id);
    out.push(b'}');
}

/// What a login gives.
pub(super) struct LoggedIn<'a> {
    /// Who it is.
    pub user: &'a UserId,
    /// The connection's id.
    pub connection: &'a str,
    /// When the token ends, in seconds since the Unix epoch.
    pub expires_at: i64,
    /// The personal conversation, whose seqs are the `me` stream, and its head.
    pub me: (ConversationId, Seq),
}

/// The answer of `auth`.
pub(super) fn logged_in(out: &mut Vec<u8>, id: &Id, login: &LoggedIn<'_>) {
    answer(out, "ok", id);
    out.extend_from_slice(br#","d":{"user":"#);
    string(out, login.user.as_str());
    let (me, head) = login.me;
    put!(
        out,
        r#","conn":"{}","exp":{},"me":{{"c":"{me}","head":{head}}}}}}}"#,
        login.connection,
        login.expires_at
    );
}

/// What kind of answer a durable command gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With the id of the new message.
    Message,
    /// With conversation, seq and time.
    Change,
    /// With `existed` as well.
    Conversation,
    /// With what the plugin said.
    Call,
}

/// The answer of a durable command that took effect.
pub(super) fn outcome(out: &mut Vec<u8>, id: &Id, kind: Answer, outcome: &Outcome) {
    answer(out, "ok", id);
    let Outcome {
        conversation,
        seq,
        at,
        duplicate,
        existed,
        answer,
    } = outcome;
    join!(out, r#","d":{"c":""#, conversation.to_hex(), r#"""#);
    if kind == Answer::Message && *seq > 0 {
        join!(out, r#","mid":""#, conversation.message(*seq).to_hex(), r#"""#);
    }
    number(out, r#","s":"#, *seq);
    number(out, r#","ts":"#, *at);
    join!(out, r#","dup":"#, if *duplicate { "true" } else { "false" });
    if kind == Answer::Conversation {
        put!(out, r#","existed":{existed}"#);
    }
    if let Some(answer) = answer {
        out.extend_from_slice(br#","answer":"#);
        raw(out, answer);
    }
    out.extend_from_slice(b"}}");
}

/// The answer of `sub`.
pub(super) fn subscribed(out: &mut Vec<u8>, id: &Id, conversation: ConversationId, head: Seq, unread: Option<u32>) {
    answer(out, "ok", id);
    put!(out, r#","d":{{"c":"{conversation}","head":{head}"#);
    if let Some(unread) = unread {
        put!(out, r#","unread":{unread}"#);
    }
    out.extend_from_slice(b"}}");
}

/// A request that is not carried out, or (with a conversation instead of an id) a cursor that cannot be served.
pub(super) fn err(out: &mut Vec<u8>, id: &Id, conversation: Option<ConversationId>, refusal: &Refusal) {
    answer(out, "err", id);
    if let Some(conversation) = conversation {
        put!(out, r#","c":"{conversation}""#);
    }
    put!(out, r#","e":{{"code":"{}","msg":"#, refusal.code);
    if refusal.code == ErrorCode::Internal {
        tracing::error!(error = %refusal.message, "a request failed");
        string(out, "the server made a mistake; its log has more");
    } else {
        string(out, &refusal.message);
    }
    put!(out, r#","retry":{}"#, refusal.code.is_retryable());
    if let Some(after) = refusal.retry_after {
        put!(out, r#","after":{}"#, after.as_millis());
    }
    if let Some(field) = refusal.field {
        out.extend_from_slice(br#","field":"#);
        string(out, field);
    }
    if let Some(plugin) = &refusal.plugin {
        out.extend_from_slice(br#","plugin":"#);
        string(out, &plugin.0);
        out.extend_from_slice(br#","detail":"#);
        string(out, &plugin.1);
    }
    out.extend_from_slice(b"}}");
}

/// Events that are not sent here.
pub(super) fn gap(conversation: ConversationId, from: Seq, head: Seq) -> Bytes {
    frame::text_frame(|out| put!(out, r#"{{"t":"gap","c":"{conversation}","from":{from},"head":{head}}}"#))
}

/// The client's cursor is above the head: what it has is of another history, and is to be thrown away.
pub(super) fn reset(conversation: ConversationId, head: Seq) -> Bytes {
    frame::text_frame(|out| put!(out, r#"{{"t":"gap","c":"{conversation}","from":1,"head":{head},"reset":true}}"#))
}

/// Goodbye to everybody: the server stops.
pub(super) fn bye(out: &mut Vec<u8>, code: u16, reason: &str) {
    let [from, to] = RETURN_AFTER_MS;
    put!(out, r#"{{"t":"bye","code":{code},"reason":"{reason}","after":[{from},{to}]}}"#);
}

/// The user's conversations, newest first.
pub(super) fn heads(out: &mut Vec<u8>, rows: &[InboxRow], next: Option<&str>) {
    out.extend_from_slice(br#"{"t":"heads","d":["#);
    for (n, row) in rows.iter().enumerate() {
        let conversation = &row.conversation;
        if n > 0 {
            out.push(b',');
        }
        put!(
            out,
            r#"{{"c":"{}","head":{},"n":{},"unread":{},"read":{},"at":{}}}"#,
            conversation.id,
            conversation.head,
            conversation.head_n,
            row.unread,
            row.member.mark.read_seq,
            conversation.updated_at
        );
    }
    out.extend_from_slice(br#"],"next":"#);
    match next {
        Some(next) => string(out, next),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
}

/// Something happened in a conversation that is not subscribed.
pub(super) fn head(conversation: ConversationId, seq: Seq, at: Option<Millis>, known: Option<Head>) -> Bytes {
    frame::text_frame(|out| {
        put!(
            out,
            r#"{{"t":"head","c":"{conversation}","head":{}"#,
            known.map_or(seq, |known| known.head.max(seq))
        );
        if let Some(known) = known {
            put!(out, r#","n":{},"unread":{}"#, known.head_n, known.unread);
        }
        if let Some(at) = at {
            put!(out, r#","at":{at}"#);
        }
        out.push(b'}');
    })
}

/// The marks of a user.
pub(super) fn mark(out: &mut Vec<u8>, conversation: ConversationId, user: &UserId, mark: &MarkChange, at: Option<Millis>) {
    put!(out, r#"{{"t":"mark","c":"{conversation}","user":"#);
    string(out, user.as_str());
    put!(out, r#","read":{},"delivered":{}"#, mark.read_seq, mark.delivered_seq.max(mark.read_seq));
    if let Some(at) = at {
        put!(out, r#","at":{at}"#);
    }
    out.push(b'}');
}

/// One event of a conversation or, of a personal one, of the `me` stream.
pub(super) fn event(kind: ConversationKind, view: EventView<'_>) -> Bytes {
    frame::text_frame(|out| {
        match kind {
            ConversationKind::Personal => join!(out, r#"{"t":"me""#),
            _ => join!(out, r#"{"t":"ev","c":""#, view.conversation.to_hex(), r#"""#),
        }
        number(out, r#","s":"#, view.seq);
        join!(out, r#","n":"#);
        string(out, view.event.name());
        number(out, r#","ts":"#, view.at);
        if let Some(actor) = view.actor {
            out.extend_from_slice(br#","by":"#);
            string(out, actor.as_str());
        }
        out.extend_from_slice(br#","d":"#);
        write_event_data(view, out);
        out.push(b'}');
    })
}

/// The whole frame of anything that the hub pushes.
pub(super) fn push(what: &What) -> Bytes {
    match what {
        What::Event(published) => event(published.kind, EventView::from(published)),
        What::Mark {
            conversation,
            user,
            mark: marks,
            at,
            ..
        } => frame::text_frame(|out| mark(out, *conversation, user, marks, Some(*at))),
        What::Typing {
            conversation,
            user,
            name,
            on,
        } => frame::text_frame(|out| {
            put!(out, r#"{{"t":"eph","c":"{conversation}","n":"typing","d":{{"userId":"#);
            string(out, user.as_str());
            out.extend_from_slice(br#","name":"#);
            string(out, name);
            put!(out, r#","on":{on}}}}}"#);
        }),
        What::Presence { user, online, last_seen } => frame::text_frame(|out| {
            out.extend_from_slice(br#"{"t":"eph","n":"presence","d":{"userId":"#);
            string(out, user.as_str());
            put!(out, r#","online":{online}"#);
            if let Some(at) = last_seen {
                put!(out, r#","lastSeen":"{}""#, Time(*at));
            }
            out.extend_from_slice(b"}}");
        }),
        What::Custom { name, payload, .. } => frame::text_frame(|out| {
            out.extend_from_slice(br#"{"t":"eph","n":"#);
            string(out, name);
            out.extend_from_slice(br#","d":"#);
            raw(out, payload);
            out.push(b'}');
        }),
    }
}

/// JSON text as it is; a plugin's mistake becomes `null`, so that the frame stays JSON.
fn raw(out: &mut Vec<u8>, text: &str) {
    json::write(out, &Raw(text));
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use haggle_engine::{Published, Push};
    use haggle_model::{Content, Effects, Entry, Event};
    use haggle_store::MessageRow;
    use serde_json::{Value, json};

    use super::*;

    const C: ConversationId = ConversationId(0x0123_4567_89ab_cdef);

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), expect: Value) {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(
            serde_json::from_slice::<Value>(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out))),
            expect
        );
    }

    #[track_caller]
    fn check_frame(frame: Bytes, expect: Value) {
        let header = if frame[1] < 126 { 2 } else { 4 };
        check(|out| out.extend_from_slice(&frame[header..]), expect);
    }

    #[test]
    fn answers_carry_the_id_of_the_request() {
        let id = Id::Text("a\"b".into());
        check(|out| ok(out, &id), json!({"t": "ok", "id": "a\"b"}));
        let done = Outcome {
            conversation: C,
            seq: 58,
            at: 1_000,
            duplicate: false,
            existed: false,
            answer: None,
        };
        check(
            |out| outcome(out, &Id::Number(4), Answer::Message, &done),
            json!({"t": "ok", "id": 4, "d": {"c": "0123456789abcdef00000000", "mid": "0123456789abcdef0000003a", "s": 58, "ts": 1000, "dup": false}}),
        );
        let said = Outcome {
            answer: Some(r#"{"a":1}"#.into()),
            duplicate: true,
            ..done.clone()
        };
        check(
            |out| outcome(out, &Id::Number(4), Answer::Call, &said),
            json!({"t": "ok", "id": 4, "d": {"c": "0123456789abcdef00000000", "s": 58, "ts": 1000, "dup": true, "answer": {"a": 1}}}),
        );
        check(
            |out| outcome(out, &Id::None, Answer::Conversation, &done),
            json!({"t": "ok", "d": {"c": "0123456789abcdef00000000", "s": 58, "ts": 1000, "dup": false, "existed": false}}),
        );
    }

    #[test]
    fn refusals_say_everything_they_know() {
        let refusal = Refusal::new(ErrorCode::PluginRejected, "say \"please\"")
            .after(Duration::from_secs(1))
            .by_plugin("words", "rude");
        check(
            |out| err(out, &Id::Number(1), None, &refusal),
            json!({"t": "err", "id": 1, "e": {"code": "plugin_rejected", "msg": "say \"please\"", "retry": false, "after": 1000, "plugin": "words", "detail": "rude"}}),
        );
        check(
            |out| err(out, &Id::None, Some(C), &Refusal::bad("/s", "no")),
            json!({"t": "err", "c": "0123456789abcdef00000000", "e": {"code": "bad_request", "msg": "no", "retry": false, "field": "/s"}}),
        );
    }

    #[test]
    fn notices() {
        check(
            |out| hello(out, &WsSettings::default()),
            json!({"t": "hello", "v": 1, "hb": 25000, "max": 262144, "auth_within": 5000, "caps": ["batch"]}),
        );
        check(
            |out| bye(out, 4001, "drain"),
            json!({"t": "bye", "code": 4001, "reason": "drain", "after": [500, 5000]}),
        );
        check(
            |out| {
                logged_in(
                    out,
                    &Id::Number(1),
                    &LoggedIn {
                        user: &"ann".into(),
                        connection: "c1",
                        expires_at: 99,
                        me: (C, 7),
                    },
                )
            },
            json!({"t": "ok", "id": 1, "d": {"user": "ann", "conn": "c1", "exp": 99, "me": {"c": "0123456789abcdef00000000", "head": 7}}}),
        );
        check_frame(
            gap(C, 43, 9000),
            json!({"t": "gap", "c": "0123456789abcdef00000000", "from": 43, "head": 9000}),
        );
        check_frame(
            reset(C, 5),
            json!({"t": "gap", "c": "0123456789abcdef00000000", "from": 1, "head": 5, "reset": true}),
        );
        check_frame(head(C, 5, None, None), json!({"t": "head", "c": "0123456789abcdef00000000", "head": 5}));
        check_frame(
            head(
                C,
                5,
                Some(9),
                Some(Head {
                    head: 6,
                    head_n: 4,
                    unread: 2,
                }),
            ),
            json!({"t": "head", "c": "0123456789abcdef00000000", "head": 6, "n": 4, "unread": 2, "at": 9}),
        );
        check(|out| heads(out, &[], None), json!({"t": "heads", "d": [], "next": null}));
    }

    fn created(kind: ConversationKind) -> Arc<Push> {
        let content = Content {
            kind: "text".into(),
            text: "hé \"\n".into(),
            ..Content::default()
        };
        let message = MessageRow {
            id: C.message(3),
            sender: "ann".into(),
            content: content.clone(),
            n: 1,
            created_at: 1_000,
            rev: 3,
            edited_at: None,
            deleted_at: None,
            reactions: Vec::new(),
            updated_at: 1_000,
            command: None,
        };
        let entry = Entry {
            ts: 1,
            at: 1_000,
            conversation: C,
            seq: 3,
            n: 1,
            actor: Some("ann".into()),
            command: None,
            digest: 0,
            origin: Vec::new(),
            event: Event::MessageCreated(content),
            effects: Effects::default(),
            redacted: false,
        };
        Push::new(What::Event(Published::new(Arc::new(entry), kind, Some(Arc::new(message)))))
    }

    fn json_of(push: &Push) -> Value {
        let frame = push.encoded(NATIVE, super::push);
        serde_json::from_slice(&frame[if frame[1] < 126 { 2 } else { 4 }..]).unwrap()
    }

    #[test]
    fn events_carry_the_message() {
        let event = json_of(&created(ConversationKind::Direct));
        assert_eq!(
            (&event["t"], &event["c"], &event["s"], &event["n"], &event["ts"], &event["by"]),
            (
                &json!("ev"),
                &json!("0123456789abcdef00000000"),
                &json!(3),
                &json!("message.created"),
                &json!(1000),
                &json!("ann")
            )
        );
        assert_eq!(
            (&event["d"]["content"], &event["d"]["seq"], &event["d"]["rev"]),
            (&json!("hé \"\n"), &json!(3), &json!(3))
        );
        let own = json_of(&created(ConversationKind::Personal));
        assert_eq!((&own["t"], own.get("c")), (&json!("me"), None));
    }

    #[test]
    fn ephemeral_pushes() {
        let typing = Push::new(What::Typing {
            conversation: C,
            user: "ann".into(),
            name: "Ann".into(),
            on: true,
        });
        assert_eq!(
            json_of(&typing),
            json!({"t": "eph", "c": "0123456789abcdef00000000", "n": "typing", "d": {"userId": "ann", "name": "Ann", "on": true}})
        );
        let presence = Push::new(What::Presence {
            user: "ann".into(),
            online: false,
            last_seen: Some(0),
        });
        assert_eq!(
            json_of(&presence),
            json!({"t": "eph", "n": "presence", "d": {"userId": "ann", "online": false, "lastSeen": "1970-01-01T00:00:00.000Z"}})
        );
        let custom = Push::new(What::Custom {
            plugin: "p".into(),
            name: "x.p.blink".into(),
            payload: "[1]".into(),
        });
        assert_eq!(json_of(&custom), json!({"t": "eph", "n": "x.p.blink", "d": [1]}));
        let broken = Push::new(What::Custom {
            plugin: "p".into(),
            name: "x.p.blink".into(),
            payload: "[1".into(),
        });
        assert_eq!(json_of(&broken)["d"], Value::Null);
        let mark = MarkChange {
            delivered_seq: 3,
            read_seq: 5,
            read_n: 4,
            own: 0,
        };
        let mark = Push::new(What::Mark {
            conversation: C,
            user: "ann".into(),
            mark,
            is_read: true,
            at: 7,
        });
        assert_eq!(
            json_of(&mark),
            json!({"t": "mark", "c": "0123456789abcdef00000000", "user": "ann", "read": 5, "delivered": 5, "at": 7})
        );
    }
}
