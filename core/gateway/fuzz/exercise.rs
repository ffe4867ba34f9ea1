//! Everything the codec does with what a client sends, for the fuzz targets and the property tests. Nothing here may panic.

use bytes::Bytes;
use haggle_gateway::{
    decode::{self, MessageBody},
    socketio::{
        engineio::packet::{self as engineio, payload as packets},
        packet::{Assembler, Kind, Packet, Whole},
    },
};

/// What a client may send at once.
pub const MESSAGE_BYTES_MAX: usize = 1_000_000;

/// The body of one POST, as a session reads it: packets, their binary parts, events.
pub fn payload(text: &str) {
    let mut assembler = Assembler::default();
    for packet in packets(text) {
        let whole = match packet {
            Ok(engineio::Packet::Message(text)) => match message(&mut assembler, text) {
                Some(whole) => whole,
                None => return,
            },
            Ok(engineio::Packet::Binary(bytes)) => match assembler.part(Bytes::from(bytes), MESSAGE_BYTES_MAX) {
                Ok(whole) => whole,
                Err(_) => return,
            },
            Ok(_) => None,
            Err(_) => return,
        };
        if let Some(Whole { text, parts }) = whole {
            let packet = Packet::decode(&text).expect("it was decoded before");
            assert_eq!(packet.attachments, parts.len());
            arguments(&packet);
        }
    }
}

/// `None`: the session ends.
fn message(assembler: &mut Assembler, text: &str) -> Option<Option<Whole>> {
    if assembler.is_open() {
        return None;
    }
    let packet = Packet::decode(text).ok()?;
    if matches!(packet.kind, Kind::BinaryEvent | Kind::BinaryAck) {
        return assembler.begin(text, &packet).ok();
    }
    arguments(&packet);
    Some(None)
}

/// One packet.
pub fn packet(text: &str) {
    let mut assembler = Assembler::default();
    message(&mut assembler, text);
}

fn arguments(packet: &Packet<'_>) {
    match packet.kind {
        Kind::Event | Kind::BinaryEvent => {
            let (_, args) = packet.event().expect("checked when it was decoded");
            args.iter().for_each(|arg| event(arg.get().as_bytes()));
        }
        Kind::Ack | Kind::BinaryAck => drop(packet.args()),
        _ => {}
    }
}

/// The argument of an event that sends a message, and of one whose data is kept as it is.
pub fn event(json: &[u8]) {
    let Ok(json) = std::str::from_utf8(json) else { return };
    if let Ok(body) = decode::parse::<MessageBody<'_>>(json) {
        let _ = body.into_message();
    }
    let _ = decode::check_json("/data", json);
}
