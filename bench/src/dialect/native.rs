//! The native WebSocket protocol, `docs/PROTOCOL.md`.
//!
//! The frames that make the load (acks and created messages) are read by searching bytes in the order in which Haggle writes
//! them; a frame that looks different is read by `serde_json`, so another order of fields costs time and no correctness.

use std::io::Write;

use memchr::memmem::Finder;
use serde_json::{Value, value::RawValue};

use super::{Dialect, Event, Incoming, Outgoing, Stamp, number};

/// Request ids below are those of login, create and join; a send has this plus its number.
const SENDS: u32 = 16;
const LOGIN: u32 = 1;
const CREATE: u32 = 2;
const JOIN: u32 = 3;

/// Ids of conversations are 24 hex digits.
const ID_BYTES: usize = 24;

/// See the module.
pub struct Native {
    content: Finder<'static>,
    seq: Finder<'static>,
    /// Makes idempotency keys of this run differ from those of another on the same data.
    run: u32,
}

impl Native {
    /// The dialect, with keys of its own.
    pub fn new() -> Native {
        let mut run = [0; 4];
        // A fixed key still works on a fresh server.
        let _ = getrandom::fill(&mut run);
        Native {
            content: Finder::new(br#","content":""#),
            seq: Finder::new(br#","s":"#),
            run: u32::from_le_bytes(run),
        }
    }

    fn ack<'a>(&self, text: &'a [u8]) -> Option<Incoming<'a>> {
        let (id, rest) = number(text.strip_prefix(br#"{"t":"ok","id":"#)?)?;
        let n = id.checked_sub(SENDS)?;
        let at = self.seq.find(rest)?;
        let (seq, _) = number(&rest[at + 5..])?;
        Some(Incoming::Ack { n, seq })
    }

    fn event<'a>(&self, text: &'a [u8]) -> Option<Incoming<'a>> {
        let rest = text.strip_prefix(br#"{"t":"ev","c":""#)?;
        let conversation = std::str::from_utf8(rest.get(..ID_BYTES)?).ok()?;
        let (seq, rest) = number(rest[ID_BYTES..].strip_prefix(br#"","s":"#)?)?;
        let rest = rest.strip_prefix(br#","n":"message.created","#)?;
        let at = self.content.find(rest)?;
        // A text that does not begin with a stamp is none of ours, or has escapes: the slow way decides.
        let stamp = Some(Stamp::parse(&rest[at + 12..])?);
        Some(Incoming::Event(Event { conversation, seq, stamp }))
    }
}

impl Dialect for Native {
    fn upgrade(&self, _token: &str) -> (String, String) {
        ("/v1/ws".into(), "Sec-WebSocket-Protocol: msg.v1.json\r\n".into())
    }

    fn login(&self, out: &mut Vec<u8>, token: &str) {
        put(out, format_args!(r#"{{"t":"auth","id":{LOGIN},"token":"{token}"}}"#));
    }

    fn create(&self, out: &mut Vec<u8>, members: &[&str]) {
        let kind = if members.len() == 1 { "direct" } else { "group" };
        put(
            out,
            format_args!(
                r#"{{"t":"create","id":{CREATE},"n":"{kind}","d":{{"participants":["{}"]}}}}"#,
                members.join(r#"",""#)
            ),
        );
    }

    fn join(&self, out: &mut Vec<u8>, conversation: &str, since: Option<u32>) {
        put(out, format_args!(r#"{{"t":"sub","id":{JOIN},"c":"{conversation}""#));
        if let Some(since) = since {
            put(out, format_args!(r#","since":{since}"#));
        }
        out.push(b'}');
    }

    fn send(&self, out: &mut Vec<u8>, message: Outgoing<'_>) {
        let Outgoing { conversation, n, text } = message;
        let (id, run) = (n + SENDS, self.run);
        put(
            out,
            format_args!(r#"{{"t":"send","id":{id},"c":"{conversation}","k":"{run:08x}-{n}","n":"text","d":{{"content":"{text}"}}}}"#),
        );
    }

    fn heartbeat(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{}");
    }

    fn parse<'a>(&self, text: &'a [u8]) -> Incoming<'a> {
        if let Some(incoming) = self.event(text).or_else(|| self.ack(text)) {
            return incoming;
        }
        match text {
            b"{}" => Incoming::Heartbeat,
            _ => slowly(text).unwrap_or(Incoming::Other),
        }
    }

    fn echoes(&self) -> bool {
        true
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory does not fail");
}

#[derive(serde::Deserialize)]
struct Slow<'a> {
    t: &'a str,
    id: Option<u32>,
    c: Option<&'a str>,
    s: Option<u32>,
    n: Option<&'a str>,
    head: Option<u32>,
    #[serde(borrow)]
    d: Option<&'a RawValue>,
    #[serde(borrow)]
    e: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Refusal<'a> {
    code: &'a str,
}

#[derive(serde::Deserialize)]
struct Done<'a> {
    c: Option<&'a str>,
    s: Option<u32>,
    head: Option<u32>,
}

fn slowly(text: &[u8]) -> Option<Incoming<'_>> {
    let frame: Slow<'_> = serde_json::from_slice(text).ok()?;
    match frame.t {
        "ok" => answered(frame.id?, frame.d),
        "err" => {
            let Refusal { code } = serde_json::from_str(frame.e?.get()).ok()?;
            Some(match frame.id.and_then(|id| id.checked_sub(SENDS)) {
                Some(n) => Incoming::Refused { n, code },
                None => Incoming::Failed(code),
            })
        }
        "ev" => Some(Incoming::Event(Event {
            conversation: frame.c?,
            seq: frame.s?,
            stamp: stamp(frame.n?, frame.d),
        })),
        "gap" => Some(Incoming::Gap {
            conversation: frame.c?,
            head: frame.head?,
        }),
        _ => Some(Incoming::Other),
    }
}

fn answered<'a>(id: u32, d: Option<&'a RawValue>) -> Option<Incoming<'a>> {
    if id == LOGIN {
        return Some(Incoming::LoggedIn);
    }
    let done: Done<'a> = serde_json::from_str(d?.get()).ok()?;
    Some(match id {
        CREATE => Incoming::Created(done.c?),
        JOIN => Incoming::Joined { head: done.head? },
        _ => Incoming::Ack {
            n: id.checked_sub(SENDS)?,
            seq: done.s?,
        },
    })
}

fn stamp(name: &str, d: Option<&RawValue>) -> Option<Stamp> {
    let d: Value = serde_json::from_str(d?.get()).ok()?;
    Stamp::parse(d.get("content").filter(|_| name == "message.created")?.as_str()?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = "0123456789abcdef00000000";

    #[track_caller]
    fn check(text: &str, expect: Incoming<'_>) {
        assert_eq!(Native::new().parse(text.as_bytes()), expect, "{text}");
    }

    fn event(seq: u32, stamp: Option<Stamp>) -> Incoming<'static> {
        Incoming::Event(Event { conversation: C, seq, stamp })
    }

    #[test]
    fn acks_by_both_ways() {
        let ack = Incoming::Ack { n: 4, seq: 58 };
        let fast = format!(r#"{{"t":"ok","id":20,"d":{{"c":"{C}","mid":"0123456789abcdef0000003a","s":58,"ts":1,"dup":false}}}}"#);
        assert_eq!(Native::new().ack(fast.as_bytes()), Some(Incoming::Ack { n: 4, seq: 58 }));
        check(&fast, ack);
        check(
            &format!(r#"{{"id":20,"t":"ok","d":{{"s":58,"c":"{C}"}}}}"#),
            Incoming::Ack { n: 4, seq: 58 },
        );
    }

    #[test]
    fn events_by_both_ways() {
        let stamp = Some(Stamp { sender: 1, n: 2 });
        let fast =
            format!(r#"{{"t":"ev","c":"{C}","s":58,"n":"message.created","ts":5,"by":"b1","d":{{"id":"x","content":"hb1:1:2: lorem","seq":58}}}}"#);
        assert_eq!(Native::new().event(fast.as_bytes()), Some(event(58, stamp)));
        check(&fast, event(58, stamp));
        check(
            &format!(r#"{{"t":"ev","s":58,"c":"{C}","n":"message.created","d":{{"content":"hb1:1:2: x"}}}}"#),
            event(58, stamp),
        );
        check(
            &format!(r#"{{"t":"ev","c":"{C}","s":58,"n":"message.created","d":{{"content":"\"hi\""}}}}"#),
            event(58, None),
        );
        check(
            &format!(r#"{{"t":"ev","c":"{C}","s":59,"n":"message.edited","d":{{"content":"hb1:1:2: x"}}}}"#),
            event(59, None),
        );
    }

    #[test]
    fn everything_else() {
        check("{}", Incoming::Heartbeat);
        check(r#"{"t":"ok","id":1,"d":{"user":"u"}}"#, Incoming::LoggedIn);
        check(
            &format!(r#"{{"t":"ok","id":2,"d":{{"c":"{C}","s":3,"ts":1,"dup":false,"existed":false}}}}"#),
            Incoming::Created(C),
        );
        check(
            &format!(r#"{{"t":"ok","id":3,"d":{{"c":"{C}","head":3,"unread":0}}}}"#),
            Incoming::Joined { head: 3 },
        );
        check(
            r#"{"t":"err","id":16,"e":{"code":"rate_limited","msg":"x"}}"#,
            Incoming::Refused { n: 0, code: "rate_limited" },
        );
        check(
            r#"{"t":"err","id":1,"e":{"code":"unauthenticated","msg":"x"}}"#,
            Incoming::Failed("unauthenticated"),
        );
        check(
            &format!(r#"{{"t":"gap","c":"{C}","from":3,"head":9}}"#),
            Incoming::Gap { conversation: C, head: 9 },
        );
        for text in [
            r#"{"t":"hello","v":1}"#,
            r#"{"t":"eph","n":"presence","d":{}}"#,
            "nonsense",
            "",
            r#"{"t":"me","s":1,"n":"x","d":{}}"#,
        ] {
            check(text, Incoming::Other);
        }
    }

    #[test]
    fn what_is_sent_is_json() {
        let native = Native::new();
        let mut out = Vec::new();
        for write in [
            &|out: &mut Vec<u8>| native.login(out, "a.b.c") as _,
            &|out: &mut Vec<u8>| native.create(out, &["b1"]),
            &|out: &mut Vec<u8>| native.create(out, &["b1", "b2"]),
            &|out: &mut Vec<u8>| native.join(out, C, Some(4)),
            &|out: &mut Vec<u8>| native.join(out, C, None),
            &|out: &mut Vec<u8>| {
                native.send(
                    out,
                    Outgoing {
                        conversation: C,
                        n: 7,
                        text: "hb1:1:7: x",
                    },
                )
            },
        ] as [&dyn Fn(&mut Vec<u8>); 6]
        {
            out.clear();
            write(&mut out);
            let value: Value = serde_json::from_slice(&out).unwrap();
            assert!(value["t"].is_string() && value["id"].is_u64(), "{value}");
        }
        assert!(String::from_utf8(out).unwrap().contains(r#""id":23,"#));
    }
}
