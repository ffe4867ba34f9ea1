//! What the server says, as WebSocket frames of an Engine.IO message each; one push may be several of them.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use haggle_engine::{Outcome, Published, Refusal, What, sockets::Args};
use haggle_model::{ConversationKind, ErrorCode, Event, Millis};
use serde_json::value::RawValue;

use super::{
    engineio::session::Session,
    packet::{Kind, append_head},
};
use crate::{
    json::write as json,
    resource::{ConversationResource, EventData, EventView, Raw, Time, preview},
    ws::frame,
};

/// Where a push keeps this encoding.
pub(super) const SLOT: usize = 1;

/// Writing to memory does not fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => { write!($out, $($arg)*).expect("writing to memory does not fail") };
}

fn append(out: &mut Vec<u8>, kind: Kind, attachments: usize, namespace: &str, ack: Option<u64>, data: impl FnOnce(&mut Vec<u8>)) {
    frame::append_text(out, |out| {
        out.push(b'4');
        append_head(out, kind, attachments, namespace, ack);
        data(out);
    });
}

/// A packet of its own with binary parts, if there are any; the kind is made binary then.
fn packet(kind: Kind, namespace: &str, ack: Option<u64>, parts: &[Bytes], data: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let kind = match kind {
        Kind::Event if !parts.is_empty() => Kind::BinaryEvent,
        Kind::Ack if !parts.is_empty() => Kind::BinaryAck,
        kind => kind,
    };
    let mut out = Vec::new();
    append(&mut out, kind, parts.len(), namespace, ack, data);
    parts.iter().for_each(|part| frame::append_binary(&mut out, part));
    Bytes::from(out)
}

fn text(kind: Kind, namespace: &str, ack: Option<u64>, data: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    packet(kind, namespace, ack, &[], data)
}

/// The array of an event (with its name) or of an ack.
pub(super) fn array(out: &mut Vec<u8>, name: Option<&str>, args: &[&RawValue]) {
    out.push(b'[');
    if let Some(name) = name {
        json(out, name);
    }
    for (n, arg) in args.iter().enumerate() {
        if n > 0 || name.is_some() {
            out.push(b',');
        }
        out.extend_from_slice(arg.get().as_bytes());
    }
    out.push(b']');
}

/// The namespace is joined; with the secret of a client that may be recovered.
pub(super) fn connected(namespace: &str, sid: &str, pid: Option<&str>) -> Bytes {
    text(Kind::Connect, namespace, None, |out| match pid {
        Some(pid) => put!(out, r#"{{"sid":"{sid}","pid":"{pid}"}}"#),
        None => put!(out, r#"{{"sid":"{sid}"}}"#),
    })
}

/// The namespace is not joined.
pub(super) fn connect_error(namespace: &str, message: &str, code: Option<ErrorCode>) -> Bytes {
    text(Kind::ConnectError, namespace, None, |out| {
        out.extend_from_slice(br#"{"message":"#);
        json(out, message);
        if let Some(code) = code {
            put!(out, r#","data":{{"code":"{code}"}}"#);
        }
        out.push(b'}');
    })
}

/// A plugin does not let the client in.
pub(super) fn connect_refused(namespace: &str, message: &str, data: Option<&str>) -> Bytes {
    text(Kind::ConnectError, namespace, None, |out| {
        out.extend_from_slice(br#"{"message":"#);
        json(out, message);
        if let Some(data) = data {
            put!(out, r#","data":{data}"#);
        }
        out.push(b'}');
    })
}

/// An event of a plugin; with an id it asks for an ack. `last` is one argument more, as JSON, or nothing.
pub(super) fn named_event(namespace: &str, id: Option<u64>, name: &str, args: &Args, last: &str) -> Bytes {
    packet(Kind::Event, namespace, id, &args.binary, |out| {
        out.push(b'[');
        json(out, name);
        // The arguments are an array already.
        let inner = args.json.trim_ascii().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let inner = inner.unwrap_or_default().trim_ascii();
        for args in [inner, last].into_iter().filter(|args| !args.is_empty()) {
            out.push(b',');
            out.extend_from_slice(args.as_bytes());
        }
        out.push(b']');
    })
}

/// A plugin's ack.
pub(super) fn ack(namespace: &str, id: u64, args: &Args) -> Bytes {
    packet(Kind::Ack, namespace, Some(id), &args.binary, |out| {
        out.extend_from_slice(args.json.trim_ascii().as_bytes());
    })
}

/// The server ends the client's place in the namespace.
pub(super) fn disconnected(namespace: &str) -> Bytes {
    text(Kind::Disconnect, namespace, None, |_| {})
}

/// What a client is told of a refusal: of our own mistakes no more than that there was one, which the log tells.
pub(super) fn told(refusal: &Refusal) -> &str {
    if refusal.code != ErrorCode::Internal {
        return &refusal.message;
    }
    tracing::error!(error = %refusal.message, "a request failed");
    "the server made a mistake; its log has more"
}

fn refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    out.extend_from_slice(br#"{"success":false,"error":"#);
    json(out, told(refusal));
    put!(out, r#","code":"{}""#, refusal.code);
    if let Some(after) = refusal.retry_after {
        put!(out, r#","retryAfterMs":{}"#, after.as_millis());
    }
    if let Some(plugin) = &refusal.plugin {
        out.extend_from_slice(br#","plugin":"#);
        json(out, &plugin.0);
        out.extend_from_slice(br#","detail":"#);
        json(out, &plugin.1);
    }
    out.push(b'}');
}

/// `error`, for what was asked without an ack.
pub(super) fn error(namespace: &str, why: &Refusal) -> Bytes {
    text(Kind::Event, namespace, None, |out| {
        out.extend_from_slice(br#"["error","#);
        refusal(out, why);
        out.push(b']');
    })
}

/// Answers an event: by its ack, or a refusal of one without an ack by `error`.
pub(super) fn answer(session: &Arc<Session>, namespace: &str, ack: Option<u64>, result: Result<impl FnOnce(&mut Vec<u8>), Refusal>) {
    if let Err(refusal) = &result {
        ::metrics::counter!(crate::metrics::REFUSED, "code" => refusal.code.as_str()).increment(1);
    }
    match (ack, result) {
        (None, Ok(_)) => {}
        (None, Err(refusal)) => session.push(error(namespace, &refusal)),
        (Some(id), result) => session.push(text(Kind::Ack, namespace, Some(id), |out| {
            out.push(b'[');
            match result {
                Ok(data) => {
                    out.extend_from_slice(br#"{"success":true,"data":"#);
                    data(out);
                    out.push(b'}');
                }
                Err(why) => refusal(out, &why),
            }
            out.push(b']');
        })),
    }
}

/// What the sender of a message is told.
pub(super) fn message_answer(out: &mut Vec<u8>, outcome: &Outcome) {
    let id = outcome.conversation.message(outcome.seq);
    put!(
        out,
        r#"{{"_id":"{id}","id":"{id}","conversationId":"{}","seq":{},"createdAt":"{}","duplicate":{}}}"#,
        outcome.conversation,
        outcome.seq,
        Time(outcome.at),
        outcome.duplicate
    );
}

/// What the sender of a command is told.
pub(super) fn command_answer(out: &mut Vec<u8>, outcome: &Outcome) {
    put!(
        out,
        r#"{{"conversationId":"{}","seq":{},"duplicate":{},"answer":"#,
        outcome.conversation,
        outcome.seq,
        outcome.duplicate
    );
    json(out, &outcome.answer.as_deref().map(Raw));
    out.push(b'}');
}

/// `new_conversation`, as one participant sees it.
pub(super) fn new_conversation(to: To<'_>, conversation: &ConversationResource<'_>, seq: u32) -> Bytes {
    let mut out = Vec::new();
    emit(&mut out, to, "new_conversation", |out| {
        out.extend_from_slice(br#"{"conversation":"#);
        json(out, conversation);
        put!(out, r#","seq":{seq}}}"#);
    });
    Bytes::from(out)
}

/// Where events go.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    pub namespace: &'a str,
    /// Numbers for the ends of events, by which clients that may be recovered say how much they have seen.
    pub offsets: Option<&'a AtomicU64>,
}

impl<'a> To<'a> {
    /// Events that are not sent again, and so have no number.
    pub fn once(namespace: &'a str) -> To<'a> {
        To { namespace, offsets: None }
    }
}

/// What goes by is not sent again.
pub(super) fn is_volatile(what: &What) -> bool {
    matches!(what, What::Typing { .. } | What::Presence { .. })
}

/// Everything the namespace says about a push; empty where it says nothing.
pub(super) fn push(to: To<'_>, now: Millis, what: &What) -> Bytes {
    let to = if is_volatile(what) { To::once(to.namespace) } else { to };
    let mut out = Vec::with_capacity(512);
    match what {
        What::Event(published) => event(&mut out, to, published),
        What::Mark { is_read: false, .. } => {}
        What::Mark {
            conversation,
            user,
            mark,
            at,
            ..
        } => emit(&mut out, to, "message_read", |out| {
            let id = conversation.message(mark.read_seq);
            put!(out, r#"{{"messageId":"{id}","conversationId":"{conversation}","readBy":"#);
            json(out, user.as_str());
            put!(out, r#","readAt":"{}","seq":{}}}"#, Time(*at), mark.read_seq);
        }),
        What::Typing {
            conversation,
            user,
            name,
            on,
        } => emit(&mut out, to, "user_typing", |out| {
            put!(out, r#"{{"conversationId":"{conversation}","userId":"#);
            json(out, user.as_str());
            put!(out, r#","isTyping":{on},"user":{{"_id":"#);
            json(out, user.as_str());
            out.extend_from_slice(br#","id":"#);
            json(out, user.as_str());
            out.extend_from_slice(br#","name":"#);
            json(out, name);
            out.extend_from_slice(b"}}");
        }),
        What::Presence { user, online, last_seen } => emit(&mut out, to, "user_online_status", |out| {
            out.extend_from_slice(br#"{"userId":"#);
            json(out, user.as_str());
            put!(out, r#","isOnline":{online},"lastSeen":"#);
            // Who is here is seen now.
            json(out, &last_seen.or(online.then_some(now)).map(Time));
            out.push(b'}');
        }),
        What::Custom { name, payload, .. } => emit(&mut out, to, name, |out| json(out, &Raw(payload))),
    }
    out.shrink_to_fit(); // What is shared may live as long as the slowest reader.
    Bytes::from(out)
}

fn emit(out: &mut Vec<u8>, to: To<'_>, name: &str, payload: impl FnOnce(&mut Vec<u8>)) {
    append(out, Kind::Event, 0, to.namespace, None, |out| {
        out.push(b'[');
        json(out, name);
        out.push(b',');
        payload(out);
        if let Some(offsets) = to.offsets {
            put!(out, r#","{}""#, offsets.fetch_add(1, Ordering::Relaxed));
        }
        out.push(b']');
    });
}

fn event(out: &mut Vec<u8>, to: To<'_>, published: &Published) {
    let view = EventView::from(published);
    if published.kind == ConversationKind::Personal {
        if let Event::Notified(_) = view.event {
            emit(out, to, "notification", |out| json(out, &EventData(view)));
        }
        return;
    }
    if view.event.message_seq(view.seq).is_none() {
        return other_event(out, to, view);
    }
    let about = |out: &mut Vec<u8>| {
        put!(out, r#"{{"conversationId":"{}","message":"#, view.conversation);
        json(out, &EventData(view));
        put!(out, r#","seq":{}}}"#, view.seq);
    };
    let Event::MessageCreated(content) = view.event else {
        return emit(out, to, "message_updated", about);
    };
    emit(out, to, "new_message", about);
    emit(out, to, "message_received", about);
    if content.countable {
        emit(out, to, "conversation_updated", |out| {
            put!(out, r#"{{"conversationId":"{}","lastMessage":"#, view.conversation);
            json(out, preview(view.message.map_or(&content.text, |message| &message.content.text)));
            put!(out, r#","lastMessageAt":"{}","seq":{}}}"#, Time(view.at), view.seq);
        });
    }
}

/// What is not about a message still has a seq, which a client must see to know that it misses nothing. It has a name of its own,
/// since a `conversation_updated` always brings a last message, by which clients show a conversation in their lists: as a new
/// name or picture does, where there is a message.
fn other_event(out: &mut Vec<u8>, to: To<'_>, view: EventView<'_>) {
    if let Event::Custom { name, payload } = view.event {
        return emit(out, to, name, |out| custom_payload(out, view, payload));
    }
    let last = view.message.filter(|_| matches!(view.event, Event::ConversationUpdated(_)));
    let name = if last.is_some() { "conversation_updated" } else { "conversation_event" };
    emit(out, to, name, |out| {
        put!(out, r#"{{"conversationId":"{}","#, view.conversation);
        if let Some(last) = last {
            out.extend_from_slice(br#""lastMessage":"#);
            json(out, preview(&last.content.text));
            put!(out, r#","lastMessageAt":"{}","#, Time(last.created_at));
        }
        out.extend_from_slice(br#""event":"#);
        json(out, view.event.name());
        out.extend_from_slice(br#","data":"#);
        json(out, &EventData(view));
        put!(out, r#","seq":{}}}"#, view.seq);
    });
}

/// What a plugin's event says, and where it stands: its object with two members more, or an object around anything else.
fn custom_payload(out: &mut Vec<u8>, view: EventView<'_>, payload: &str) {
    put!(out, r#"{{"conversationId":"{}","seq":{}"#, view.conversation, view.seq);
    match serde_json::from_str::<BTreeMap<String, &RawValue>>(payload) {
        Ok(object) => {
            for (name, value) in object.iter().filter(|(name, _)| !matches!(name.as_str(), "conversationId" | "seq")) {
                out.push(b',');
                json(out, name);
                out.push(b':');
                out.extend_from_slice(value.get().as_bytes());
            }
        }
        Err(_) => {
            out.extend_from_slice(br#","data":"#);
            json(out, &Raw(payload));
        }
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use haggle_engine::Push;
    use haggle_model::{Content, ConversationId, Effects, Entry, MarkChange, PluginId};
    use serde_json::{Value, json};

    use super::*;

    const C: ConversationId = ConversationId(0x0123_4567_89ab_cdef);
    const ID: &str = "0123456789abcdef00000000";

    fn events(frames: &[u8]) -> Vec<Value> {
        frame::encoded_messages(frames)
            .map(|(binary, place)| {
                assert!(!binary);
                let text = std::str::from_utf8(&frames[place]).unwrap();
                serde_json::from_str(text.strip_prefix("42/chat,").unwrap_or_else(|| panic!("{text}"))).unwrap()
            })
            .collect()
    }

    fn of(what: What) -> Vec<Value> {
        events(&Push::new(what).encoded(SLOT, |what| push(To::once("/chat"), 5_000, what)))
    }

    fn published(kind: ConversationKind, event: Event) -> What {
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
            event,
            effects: Effects::default(),
            redacted: false,
        };
        What::Event(Published::new(Arc::new(entry), kind, None))
    }

    fn content() -> Content {
        Content {
            kind: "text".into(),
            text: "hé \"\n".into(),
            countable: true,
            ..Content::default()
        }
    }

    #[test]
    fn a_message_is_told_three_times() {
        let all = of(published(ConversationKind::Direct, Event::MessageCreated(content())));
        let names: Vec<_> = all.iter().map(|event| event[0].as_str().unwrap()).collect();
        assert_eq!(names, ["new_message", "message_received", "conversation_updated"]);
        for event in &all[..2] {
            let payload = &event[1];
            assert_eq!((&payload["conversationId"], &payload["seq"]), (&json!(ID), &json!(3)));
            assert_eq!(payload["message"]["content"], "hé \"\n");
            assert_eq!(payload["message"]["_id"], "0123456789abcdef00000003");
        }
        let updated = json!({"conversationId": ID, "lastMessage": "hé \"\n", "lastMessageAt": "1970-01-01T00:00:01.000Z", "seq": 3});
        assert_eq!(all[2][1], updated);
    }

    #[test]
    fn other_events_keep_their_seq() {
        let joined = Event::ParticipantJoined {
            user: "bob".into(),
            role: Default::default(),
        };
        let all = of(published(ConversationKind::Group, joined));
        assert_eq!(all.len(), 1);
        assert_eq!(
            (&all[0][0], &all[0][1]["event"], &all[0][1]["seq"]),
            (&json!("conversation_event"), &json!("participant.joined"), &json!(3))
        );
        assert_eq!(all[0][1]["data"]["userId"], "bob");
        assert!(of(published(ConversationKind::Personal, Event::MembershipStarted(C))).is_empty());
    }

    #[test]
    fn a_plugins_event_has_its_own_name_and_says_where_it_stands() {
        for (payload, expect) in [
            (
                r#"{"price":1.50,"who":{"a":1}}"#,
                json!({"conversationId": ID, "seq": 3, "price": 1.5, "who": {"a": 1}}),
            ),
            (r#"{"seq":9,"conversationId":"x"}"#, json!({"conversationId": ID, "seq": 3})),
            ("{}", json!({"conversationId": ID, "seq": 3})),
            ("[1]", json!({"conversationId": ID, "seq": 3, "data": [1]})),
            ("null", json!({"conversationId": ID, "seq": 3, "data": null})),
        ] {
            let event = Event::Custom {
                name: "x.offers.accepted".into(),
                payload: payload.into(),
            };
            assert_eq!(
                of(published(ConversationKind::Direct, event)),
                [json!(["x.offers.accepted", expect])],
                "{payload}"
            );
        }
    }

    #[test]
    fn what_is_not_kept() {
        let mark = |is_read| What::Mark {
            conversation: C,
            user: "ann".into(),
            mark: MarkChange {
                delivered_seq: 9,
                read_seq: 5,
                read_n: 4,
                own: 0,
            },
            is_read,
            at: 7,
        };
        assert!(of(mark(false)).is_empty(), "delivered is not read");
        assert_eq!(
            of(mark(true)),
            [
                json!(["message_read", {"messageId": "0123456789abcdef00000005", "conversationId": ID, "readBy": "ann", "readAt": "1970-01-01T00:00:00.007Z", "seq": 5}])
            ]
        );
        let typing = What::Typing {
            conversation: C,
            user: "ann".into(),
            name: "Ann".into(),
            on: true,
        };
        assert_eq!(
            of(typing),
            [json!(["user_typing", {"conversationId": ID, "userId": "ann", "isTyping": true, "user": {"_id": "ann", "id": "ann", "name": "Ann"}}])]
        );
        let presence = |online, last_seen| What::Presence {
            user: "ann".into(),
            online,
            last_seen,
        };
        assert_eq!(
            of(presence(false, Some(0))),
            [json!(["user_online_status", {"userId": "ann", "isOnline": false, "lastSeen": "1970-01-01T00:00:00.000Z"}])]
        );
        assert_eq!(of(presence(true, None))[0][1]["lastSeen"], "1970-01-01T00:00:05.000Z");
        let custom = What::Custom {
            plugin: PluginId::from("p"),
            name: "x.p.blink".into(),
            payload: "[1]".into(),
        };
        assert_eq!(of(custom), [json!(["x.p.blink", [1]])]);
    }

    #[test]
    fn what_may_be_recovered_ends_with_a_number() {
        let offsets = AtomicU64::new(7);
        let to = To {
            namespace: "/chat",
            offsets: Some(&offsets),
        };
        let all = events(&push(to, 5_000, &published(ConversationKind::Direct, Event::MessageCreated(content()))));
        let numbers: Vec<_> = all.iter().map(|event| event[2].as_str().unwrap()).collect();
        assert_eq!(numbers, ["7", "8", "9"]);
        let presence = What::Presence {
            user: "ann".into(),
            online: true,
            last_seen: None,
        };
        assert_eq!(events(&push(to, 5_000, &presence))[0].as_array().map(Vec::len), Some(2));
        assert_eq!(offsets.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn refusals() {
        let refused = Refusal::new(ErrorCode::PluginRejected, "no \"x\"").by_plugin("words", "rude");
        assert_eq!(
            events(&error("/chat", &refused)),
            [json!(["error", {"success": false, "error": "no \"x\"", "code": "plugin_rejected", "plugin": "words", "detail": "rude"}])]
        );
        let frames = connect_error("/chat", "No token provided", Some(ErrorCode::Unauthenticated));
        let (_, place) = frame::encoded_messages(&frames).next().unwrap();
        assert_eq!(
            &frames[place],
            br#"44/chat,{"message":"No token provided","data":{"code":"unauthenticated"}}"#
        );
    }
}
