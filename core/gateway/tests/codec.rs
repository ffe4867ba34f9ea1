//! The Socket.IO codec takes whatever comes: it never panics, reads again what it writes, and allocates no more than a message
//! allows. A process of its own, since its allocator counts. The targets of `fuzz/` are what is tried, so they compile; a fuzzer
//! goes on where this ends.

#![allow(clippy::duplicate_mod, reason = "each target is a program of its own, with the same module")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use haggle_engine::sockets::ATTACHMENTS_MAX;
use haggle_gateway::socketio::{
    engineio::packet::{self as engineio, SEPARATOR},
    packet::{Assembler, Kind, Packet, append_head},
};
use proptest::prelude::*;

extern crate self as libfuzzer_sys;

/// Instead of the fuzzer's: a target is a function.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: $type:ty| $work:expr) => {
        pub fn run($input: $type) {
            $work
        }
    };
}

#[path = "../fuzz/fuzz_targets/event.rs"]
#[allow(unused_attributes, reason = "a target has no main, which says nothing of a module")]
mod event;
#[path = "../fuzz/fuzz_targets/packet.rs"]
#[allow(unused_attributes, reason = "as above")]
mod packet;
#[path = "../fuzz/fuzz_targets/payload.rs"]
#[allow(unused_attributes, reason = "as above")]
mod payload;

#[path = "../fuzz/exercise.rs"]
#[allow(dead_code, reason = "the targets have their own")]
mod exercise;

use exercise::MESSAGE_BYTES_MAX;

/// No single allocation is larger,
const ALLOCATION_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// nor all of them at the same time: a text with escapes is there decoded twice for a moment, in a buffer that grew by doubling.
const LIVE_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static LIVE_MAX: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

impl Counting {
    fn add(bytes: usize) {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
        let live = LIVE.try_with(|live| {
            live.set(live.get().saturating_add(bytes));
            live.get()
        });
        let _ = LIVE_MAX.try_with(|max| max.set(max.get().max(live.unwrap_or_default())));
    }

    fn remove(bytes: usize) {
        // What was allocated before the count began may go during it.
        let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(bytes)));
    }
}

// SAFETY: everything is the system allocator's; only sizes are looked at.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::add(layout.size());
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Counting::remove(layout.size());
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The largest allocation, and the most that was allocated at the same time.
fn allocated(work: impl FnOnce()) -> (usize, usize) {
    LIVE.set(0);
    LIVE_MAX.set(0);
    LARGEST.set(0);
    work();
    (LARGEST.get(), LIVE_MAX.get())
}

/// The whole way of some text, within its bounds.
#[track_caller]
fn check_bounded(what: &str, text: &str) {
    assert!(text.len() <= MESSAGE_BYTES_MAX, "{what}: a session takes no more");
    for work in [payload::run as fn(&str), packet::run, |text| event::run(text.as_bytes())] {
        let (largest, live) = allocated(|| work(text));
        assert!(largest <= ALLOCATION_BYTES_MAX, "{what}: one allocation of {largest} bytes");
        assert!(live <= LIVE_BYTES_MAX, "{what}: {live} bytes at the same time");
    }
}

/// `start`, as many `item`s as fit, `end`.
fn filled(start: &str, item: &str, end: &str) -> String {
    let count = (MESSAGE_BYTES_MAX - start.len() - end.len()) / item.len();
    format!("{start}{}{end}", item.repeat(count))
}

#[test]
fn every_target_of_the_fuzzer_is_tried_here() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets");
    let files = std::fs::read_dir(dir).expect("a folder").map(|file| file.expect("a file").file_name());
    let mut files: Vec<_> = files.map(|name| name.into_string().expect("a plain name")).collect();
    files.sort();
    assert_eq!(files, ["event.rs", "packet.rs", "payload.rs"]);
    let manifest = include_str!("../fuzz/Cargo.toml");
    let paths: Vec<_> = manifest.lines().filter(|line| line.starts_with("path = ")).collect();
    for file in files {
        assert!(paths.contains(&&*format!("path = \"fuzz_targets/{file}\"")), "{file} is a program");
    }
}

#[test]
fn the_largest_messages_stay_within_their_bounds() {
    let part = r#"51-["a",{"_placeholder":true,"num":0},"#;
    for (what, text) in [
        ("arguments", filled("42[\"a\"", ",1", "]")),
        ("arguments of an ack", filled("43[1", ",1", "]")),
        ("numbers with binary", filled(&format!("4{part}[1"), ",1", "]]")),
        ("objects with binary", filled(&format!("4{part}[{{}}"), ",{}", "]]")),
        ("keys with binary", filled(&format!("4{part}{{\"a\":1"), ",\"a\":[]", "}]")),
        ("placeholders", filled(&format!("4{part}["), "{\"_placeholder\":true,\"num\":0},", "1]]")),
        ("depth", filled("42[\"a\",", "[", "")),
        ("depth of an object", filled("42[\"a\",", "{\"a\":", "")),
        ("a name", filled("42[\"", "a", "\"]")),
        ("a name of escapes", filled("42[\"", "\\n", "\"]")),
        ("a text", filled("42[\"send_message\",{\"content\":\"", "a", "\"}]")),
        ("a text of escapes", filled("42[\"a\",{\"content\":\"", "\\u00e9", "\"}]")),
        (
            "a text with some escapes",
            filled("42[\"a\",{\"content\":\"", &format!("\\n{}", "a".repeat(70_000)), "\"}]"),
        ),
        ("metadata", filled("42[\"a\",{\"content\":\"\",\"metadata\":{\"a\":[1", ",1", "]}}]")),
        ("unknown fields", filled("42[\"a\",{\"content\":\"\"", ",\"b\":[]", "}]")),
        ("packets", filled("40", "\u{1e}42[\"a\"]", "")),
        ("empty packets", "\u{1e}".repeat(MESSAGE_BYTES_MAX)),
        ("binary", filled("451-[\"a\"]\u{1e}b", "AAAA", "")),
        ("parts", filled("4510-[\"a\"]", "\u{1e}b", "")),
        ("an ack id", filled("42", "1", "[\"a\"]")),
        ("a namespace", filled("42/", "n", ",[\"a\"]")),
    ] {
        check_bounded(what, &text);
        check_bounded(what, text.strip_prefix('4').unwrap_or(&text));
        check_bounded(what, text.split_once(',').map_or(text.as_str(), |(_, argument)| argument));
    }
}

/// What clients could have made, and what looks like it.
fn lookalike() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "0",
        "1",
        "2",
        "3",
        "4",
        "42",
        "43",
        "45",
        "46",
        "451-",
        "5",
        "6",
        "9",
        "b",
        "-",
        "/",
        "/chat,",
        ",",
        "[",
        "]",
        "{",
        "}",
        ":",
        "\"",
        "\"a\"",
        "[\"a\"]",
        "[\"a\",",
        "{\"_placeholder\":true,\"num\":0}",
        "\"_placeholder\"",
        "\"num\"",
        "true",
        "null",
        "1",
        "1e9",
        "-1",
        "0.5",
        "AAAA",
        "=",
        "\u{1e}",
        "\\",
        "\\u",
        "\\ud800",
        "\\u0000",
        "\0",
        "é",
        "😀",
        "{\"content\":\"x\"}",
        "{\"content\":",
        "\"metadata\":",
        " ",
        "99999999999999999999",
        "\"connect\"",
    ]);
    prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((".{0,8}", inner), 0..6).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

fn engine_packet() -> impl Strategy<Value = (String, Vec<u8>, u8)> {
    ("[^\u{1e}]{0,40}", prop::collection::vec(any::<u8>(), 0..60), 0..8u8)
}

fn engine_packets(raw: &[(String, Vec<u8>, u8)]) -> Vec<engineio::Packet<'_>> {
    raw.iter()
        .map(|(text, bytes, kind)| match kind {
            0 => engineio::Packet::Open(text),
            1 => engineio::Packet::Close,
            2 => engineio::Packet::Ping(text),
            3 => engineio::Packet::Pong(text),
            4 => engineio::Packet::Message(text),
            5 => engineio::Packet::Upgrade,
            6 => engineio::Packet::Noop,
            _ => engineio::Packet::Binary(bytes.clone()),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        check_bounded("any", &text);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        event::run(&bytes);
        check_bounded("bytes", &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_looks_like_a_packet_is_read_or_refused(text in lookalike()) {
        check_bounded("lookalike", &text);
        check_bounded("lookalike", &format!("4{text}"));
        check_bounded("lookalike", &format!("42[\"a\",{text}]"));
        check_bounded("lookalike", &format!("452-[\"a\",{text}]\u{1e}bAA==\u{1e}b"));
    }

    #[test]
    fn payloads_come_back(raw in prop::collection::vec(engine_packet(), 1..6)) {
        let packets = engine_packets(&raw);
        let mut out = Vec::new();
        for (n, packet) in packets.iter().enumerate() {
            if n > 0 {
                out.push(SEPARATOR);
            }
            packet.append(&mut out);
        }
        let text = String::from_utf8(out).expect("text of texts");
        let read: Result<Vec<_>, _> = engineio::payload(&text).collect();
        prop_assert_eq!(read, Ok(packets));
    }

    #[test]
    fn events_come_back(
        namespace in "(/|/[a-z/]{1,12})",
        ack in prop::option::of(0..1_000_000u64),
        name in "[a-z_ \"\\\\é]{1,12}",
        args in prop::collection::vec(json(), 0..5),
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..=ATTACHMENTS_MAX),
    ) {
        let mut array = vec![serde_json::Value::from(format!("x{name}"))];
        array.extend(args.iter().cloned());
        array.extend((0..parts.len()).map(|num| serde_json::json!({"_placeholder": true, "num": num})));
        let kind = if parts.is_empty() { Kind::Event } else { Kind::BinaryEvent };
        let mut text = Vec::new();
        append_head(&mut text, kind, parts.len(), &namespace, ack);
        serde_json::to_writer(&mut text, &array).expect("memory");
        let text = String::from_utf8(text).expect("UTF-8");
        let packet = Packet::decode(&text).expect("a packet");
        prop_assert_eq!((packet.kind, packet.namespace, packet.ack, packet.attachments), (kind, &*namespace, ack, parts.len()));
        let (read, raw) = packet.event().expect("an event");
        prop_assert_eq!(&*read, array[0].as_str().expect("a text"));
        for (raw, sent) in raw.iter().zip(&array[1..]) {
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(raw.get()).expect("JSON"), sent);
        }
        if kind == Kind::BinaryEvent {
            let mut assembler = Assembler::default();
            let mut whole = assembler.begin(&text, &packet).expect("its parts are named");
            for part in &parts {
                prop_assert!(whole.is_none() && assembler.is_open());
                whole = assembler.part(Bytes::from(part.clone()), MESSAGE_BYTES_MAX).expect("expected");
            }
            prop_assert_eq!(whole.map(|whole| whole.parts.into_iter().map(|part| part.to_vec()).collect::<Vec<_>>()), Some(parts));
        }
    }
}
