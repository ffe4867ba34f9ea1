//! Socket.IO over one WebSocket (Engine.IO 4, no polling), with names and shapes from a small table.
//!
//! The table of S1's `/chat` is built in; another system is driven by a TOML file with the same keys (`bench/socketio.toml`
//! explains them). What is sent are templates, what comes is read by JSON pointers, so a busy run costs the client more than
//! the native dialect does.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{Dialect, Event, Incoming, Outgoing, Rest, Stamp, number};

/// The table of S1's dialect.
const CHAT: &str = include_str!("../../socketio.toml");

/// Ack ids below are those of joining; a send has this plus its number.
const SENDS: u32 = 16;
const JOIN: u32 = 3;

/// What a system calls things. `{token}`, `{conversation}`, `{text}`, `{key}`, `{members}` and `{kind}` are filled in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    path: String,
    namespace: String,
    auth: String,
    create: Create,
    join: Join,
    send: Send,
    message: Message,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    path: String,
    body: String,
    id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    event: String,
    head: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    event: String,
    seq: String,
    code: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    event: String,
    conversation: String,
    seq: String,
    text: String,
}

/// See the module.
pub struct SocketIo {
    names: Names,
    /// What stands before an event's arguments: `42/chat,`.
    event: String,
    /// What stands before an ack's id: `43/chat,`.
    ack: String,
    /// Makes idempotency keys of this run differ from those of another on the same data.
    run: u32,
}

impl SocketIo {
    /// S1's `/chat`.
    pub fn chat() -> SocketIo {
        SocketIo::new(toml::from_str(CHAT).expect("the built-in table is tested"))
    }

    /// With the table of a file.
    pub fn of_file(file: &Path) -> Result<SocketIo> {
        let text = std::fs::read_to_string(file).with_context(|| format!("--dialect {}", file.display()))?;
        Ok(SocketIo::new(
            toml::from_str(&text).with_context(|| format!("--dialect {}", file.display()))?,
        ))
    }

    fn new(names: Names) -> SocketIo {
        let mut run = [0; 4];
        // A fixed key still works on a fresh server.
        let _ = getrandom::fill(&mut run);
        let namespace = if names.namespace == "/" {
            String::new()
        } else {
            format!("{},", names.namespace)
        };
        SocketIo {
            event: format!("42{namespace}"),
            ack: format!("43{namespace}"),
            run: u32::from_le_bytes(run),
            names,
        }
    }

    fn namespace(&self) -> &str {
        &self.event[2..]
    }

    fn acked<'a>(&self, text: &'a str) -> Option<Incoming<'a>> {
        let (id, arguments) = number(text.strip_prefix(&self.ack)?.as_bytes())?;
        let arguments: Value = serde_json::from_slice(arguments).ok()?;
        let seq = |pointer: &str| arguments.pointer(pointer).and_then(Value::as_u64).map(|seq| seq as u32);
        let code = || {
            arguments
                .pointer(&self.names.send.code)
                .and_then(Value::as_str)
                .and_then(|code| lent(text, code))
                .unwrap_or("refused")
        };
        Some(match id.checked_sub(SENDS) {
            None if id == JOIN => seq(&self.names.join.head).map_or_else(|| Incoming::Failed(code()), |head| Incoming::Joined { head }),
            None => Incoming::Other,
            Some(n) => seq(&self.names.send.seq).map_or_else(|| Incoming::Refused { n, code: code() }, |seq| Incoming::Ack { n, seq }),
        })
    }

    fn message<'a>(&self, text: &'a str) -> Option<Incoming<'a>> {
        let names = &self.names.message;
        let rest = text.strip_prefix(&self.event)?.strip_prefix("[\"")?.strip_prefix(&names.event)?;
        let payload = rest.strip_prefix("\",")?.strip_suffix(']')?;
        let value: Value = serde_json::from_str(payload).ok()?;
        Some(Incoming::Event(Event {
            conversation: lent(payload, value.pointer(&names.conversation)?.as_str()?)?,
            seq: value.pointer(&names.seq)?.as_u64()? as u32,
            stamp: value
                .pointer(&names.text)
                .and_then(Value::as_str)
                .and_then(|text| Stamp::parse(text.as_bytes())),
        }))
    }
}

/// A value that was found in a text, as a part of that text.
fn lent<'a>(text: &'a str, value: &str) -> Option<&'a str> {
    let at = text.find(value)?;
    Some(&text[at..at + value.len()])
}

fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

impl Dialect for SocketIo {
    fn upgrade(&self, _token: &str) -> (String, String) {
        (format!("{}?EIO=4&transport=websocket", self.names.path), String::new())
    }

    fn login(&self, out: &mut Vec<u8>, token: &str) {
        out.extend_from_slice(format!("40{}{}", self.namespace(), fill(&self.names.auth, &[("token", token)])).as_bytes());
    }

    fn create(&self, _out: &mut Vec<u8>, _members: &[&str]) {
        unreachable!("conversations are created by REST");
    }

    fn create_by_rest(&self, members: &[&str]) -> Option<Rest> {
        let kind = if members.len() == 1 { "direct" } else { "group" };
        let members: Vec<String> = members.iter().map(|member| format!("\"{member}\"")).collect();
        Some(Rest {
            path: self.names.create.path.clone(),
            body: fill(&self.names.create.body, &[("members", &members.join(",")), ("kind", kind)]),
            id: self.names.create.id.clone(),
        })
    }

    fn join(&self, out: &mut Vec<u8>, conversation: &str, _since: Option<u32>) {
        let event = fill(&self.names.join.event, &[("conversation", conversation)]);
        out.extend_from_slice(format!("{}{JOIN}{event}", self.event).as_bytes());
    }

    fn send(&self, out: &mut Vec<u8>, message: Outgoing<'_>) {
        let Outgoing { conversation, n, text } = message;
        let key = format!("{:08x}-{n}", self.run);
        let event = fill(&self.names.send.event, &[("conversation", conversation), ("key", &key), ("text", text)]);
        out.extend_from_slice(format!("{}{}{event}", self.event, n + SENDS).as_bytes());
    }

    fn heartbeat(&self, out: &mut Vec<u8>) {
        out.push(b'3');
    }

    fn parse<'a>(&self, text: &'a [u8]) -> Incoming<'a> {
        let Ok(text) = std::str::from_utf8(text) else { return Incoming::Other };
        if let Some(incoming) = self.message(text).or_else(|| self.acked(text)) {
            return incoming;
        }
        let of_namespace = |kind: &str| text.strip_prefix(kind).is_some_and(|rest| rest.starts_with(self.namespace()));
        match text {
            "2" => Incoming::Heartbeat,
            _ if of_namespace("40") => Incoming::LoggedIn,
            _ if of_namespace("44") => Incoming::Failed(text),
            _ => Incoming::Other,
        }
    }

    fn echoes(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = "0123456789abcdef00000000";

    #[track_caller]
    fn check(text: &str, expect: Incoming<'_>) {
        assert_eq!(SocketIo::chat().parse(text.as_bytes()), expect, "{text}");
    }

    #[test]
    fn what_comes() {
        check("2", Incoming::Heartbeat);
        check(r#"0{"sid":"x","upgrades":[],"pingInterval":25000}"#, Incoming::Other);
        check(r#"40/chat,{"sid":"x"}"#, Incoming::LoggedIn);
        check(
            r#"44/chat,{"message":"Invalid token"}"#,
            Incoming::Failed(r#"44/chat,{"message":"Invalid token"}"#),
        );
        check(r#"43/chat,3[{"success":true,"data":{"seq":3}}]"#, Incoming::Joined { head: 3 });
        check(r#"43/chat,20[{"success":true,"data":{"seq":58}}]"#, Incoming::Ack { n: 4, seq: 58 });
        check(
            r#"43/chat,20[{"success":false,"error":"no","code":"rate_limited"}]"#,
            Incoming::Refused { n: 4, code: "rate_limited" },
        );
        let stamp = Some(Stamp { sender: 1, n: 2 });
        check(
            &format!(r#"42/chat,["new_message",{{"conversationId":"{C}","message":{{"content":"hb1:1:2: x","seq":9}},"seq":9}}]"#),
            Incoming::Event(Event {
                conversation: C,
                seq: 9,
                stamp,
            }),
        );
        check(
            &format!(r#"42/chat,["message_received",{{"conversationId":"{C}","seq":9}}]"#),
            Incoming::Other,
        );
        check("nonsense", Incoming::Other);
    }

    #[test]
    fn what_is_sent() {
        let chat = SocketIo::chat();
        let mut out = Vec::new();
        chat.login(&mut out, "a.b.c");
        assert_eq!(out, br#"40/chat,{"token":"a.b.c"}"#);
        out.clear();
        chat.join(&mut out, C, None);
        assert_eq!(out, format!(r#"42/chat,3["join_conversation",{{"conversationId":"{C}"}}]"#).as_bytes());
        out.clear();
        chat.send(
            &mut out,
            Outgoing {
                conversation: C,
                n: 7,
                text: "hb1:1:7: x",
            },
        );
        let text = String::from_utf8(out).unwrap();
        let event: Value = serde_json::from_str(text.strip_prefix("42/chat,23").unwrap()).unwrap();
        assert_eq!(event[1]["message"]["content"], "hb1:1:7: x");
        let rest = chat.create_by_rest(&["b", "c"]).unwrap();
        let body: Value = serde_json::from_str(&rest.body).unwrap();
        assert_eq!((&body["type"], &body["participants"][1]), (&Value::from("group"), &Value::from("c")));
    }

    #[test]
    fn the_default_namespace_has_no_name() {
        let names = Names {
            namespace: "/".into(),
            ..SocketIo::chat().names
        };
        let other = SocketIo::new(names);
        assert_eq!(other.parse(br#"40{"sid":"x"}"#), Incoming::LoggedIn);
        assert_eq!(other.parse(br#"43"17[{"data":{"seq":1}}]"#), Incoming::Other);
    }
}
