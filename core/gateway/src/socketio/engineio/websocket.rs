//! Engine.IO over a WebSocket: from the start, or taking over from polling. One task per connection.

use std::{cell::RefCell, io, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{HeaderMap, Request, header, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    packet::Packet,
    session::{By, End, Next, Session},
};
use crate::{
    http::Slot,
    socketio::metrics::{self, Reason},
    ws::{
        frame::{self, Message, Reader},
        outbox::{Batch, Due},
    },
};

/// How long hyper may take to hand over the connection.
const UPGRADE_MAX: Duration = Duration::from_secs(10);
/// How long the peer may take to answer our close frame.
const LINGER: Duration = Duration::from_secs(1);
/// The thread's buffer for input.
const READ_BYTES: usize = 32 * 1024;

thread_local! {
    static INPUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// The headers are those of a WebSocket handshake of the one version there is.
pub(super) fn is_handshake(headers: &HeaderMap) -> bool {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| STANDARD.decode(key.as_bytes()));
    headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13") && matches!(key, Some(Ok(key)) if key.len() == 16)
}

/// What a connection keeps: the socket, and what has come of an unfinished message.
struct Connection {
    stream: TcpStream,
    reader: Reader,
    /// The listener's permit, held as long as the connection lives.
    _slot: Option<Slot>,
}

/// hyper's promise of the socket.
struct Accepted {
    upgraded: OnUpgrade,
    slot: Option<Slot>,
}

/// A session that begins here. `None`: not a handshake.
pub(super) fn open<B>(session: Arc<Session>, request: Request<B>) -> Option<Response> {
    let (response, accepted) = accept(request)?;
    tokio::spawn(begin(session, accepted));
    Some(response)
}

async fn begin(session: Arc<Session>, accepted: Accepted) {
    let Some(mut connection) = take_over(accepted, &session).await else {
        return session.close(Reason::TransportError, By::Nobody);
    };
    session.push(open_frame(&session));
    carry(&session, &mut connection).await;
}

fn open_frame(session: &Session) -> Bytes {
    let json = session.open_json("");
    let mut open = Vec::with_capacity(json.len() + 8);
    frame::append_text(&mut open, |out| {
        out.push(b'0');
        out.extend_from_slice(json.as_bytes());
    });
    Bytes::from(open)
}

/// A connection that wants to take over a session which polls. `None`: not a handshake.
pub(super) fn upgrade<B>(session: Arc<Session>, request: Request<B>) -> Option<Response> {
    if !is_handshake(request.headers()) {
        return None;
    }
    let (response, accepted) = accept(request)?;
    tokio::spawn(take_part(session, accepted));
    Some(response)
}

async fn take_part(session: Arc<Session>, accepted: Accepted) {
    let Some(mut connection) = take_over(accepted, &session).await else {
        return;
    };
    // A second one is let in and closed: clients know no other answer.
    if !session.begin_upgrade() {
        return end(&connection.stream, None).await;
    }
    let probing = Probing {
        session: &session,
        done: false,
    };
    let within = session.settings().upgrade_within;
    let probed = tokio::select! {
        probed = tokio::time::timeout(within, probe(&session, &mut connection)) => probed.unwrap_or(false),
        () = session.has_ended() => false,
    };
    if !probed {
        drop(probing);
        return end(&connection.stream, None).await;
    }
    probing.done();
    ::metrics::counter!(metrics::UPGRADES).increment(1);
    carry(&session, &mut connection).await;
}

fn accept<B>(mut request: Request<B>) -> Option<(Response, Accepted)> {
    let upgraded = hyper::upgrade::on(&mut request);
    let (response, _) = fastwebsockets::upgrade::upgrade(&mut request).ok()?;
    let slot = request.extensions_mut().remove::<Slot>();
    Some((response.map(|_| Body::empty()), Accepted { upgraded, slot }))
}

/// Takes the socket out of hyper, and lets go of hyper's read buffer, which an idle connection must not keep.
async fn take_over(accepted: Accepted, session: &Session) -> Option<Connection> {
    let upgraded = tokio::time::timeout(UPGRADE_MAX, accepted.upgraded).await.ok()?.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    let stream = parts.io.into_inner();
    let mut reader = Reader::new(session.settings().payload_bytes_max, session.gateway.settings.ws.fragments_max).with_binary();
    reader.hold(&parts.read_buf);
    Some(Connection {
        stream,
        reader,
        _slot: accepted.slot,
    })
}

/// Until it is done, the session goes on polling.
struct Probing<'a> {
    session: &'a Arc<Session>,
    done: bool,
}

impl Probing<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.session.end_upgrade(self.done);
    }
}

/// `2probe`, `3probe`, `5`; `false` when the client says anything else.
async fn probe(session: &Arc<Session>, connection: &mut Connection) -> bool {
    let Connection { stream, reader, .. } = connection;
    if next_text(stream, reader).await.as_deref() != Some("2probe") {
        return false;
    }
    session.probed();
    let mut answer = Vec::new();
    frame::append_text(&mut answer, |out| out.extend_from_slice(b"3probe"));
    if write(stream, session, Bytes::from(answer)).await.is_err() {
        return false;
    }
    next_text(stream, reader).await.as_deref() == Some("5")
}

async fn next_text(stream: &TcpStream, reader: &mut Reader) -> Option<String> {
    loop {
        match reader.next(&mut [], &mut 0).ok()? {
            Some(Message::Text(text)) => return Some(text.to_owned()),
            Some(Message::Pong | Message::Ping(_)) => continue,
            Some(Message::Binary(_) | Message::Close(_)) => return None,
            None => {}
        }
        read(stream, reader).await.ok()?;
    }
}

/// Reads once into the reader; an error when the peer is gone.
async fn read(stream: &TcpStream, reader: &mut Reader) -> io::Result<()> {
    loop {
        stream.readable().await?;
        let read = INPUT.with_borrow_mut(|input| match stream.try_read(input) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                reader.hold(&input[..bytes]);
                Ok(())
            }
            Err(error) => Err(error),
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Everything from here to the end of the connection.
async fn carry(session: &Arc<Session>, connection: &mut Connection) {
    let Connection { stream, reader, .. } = connection;
    // Sending goes first, so that answers to what is read wait until the tasks that reading has woken have run: what those have
    // to say goes out in the same write.
    let ended = tokio::select! {
        biased;
        end = send(session, stream) => (end, Some(1000)),
        (end, code) = receive(session, stream, reader) => {
            session.close(end.0, end.1);
            (end, code)
        }
    };
    let ((_, by), code) = ended;
    if by != By::Nobody {
        self::end(stream, code).await;
    }
}

/// Hands on packets until one ends the session; with the code to close with.
async fn receive(session: &Arc<Session>, stream: &TcpStream, reader: &mut Reader) -> (End, Option<u16>) {
    let mut input = session.input.lock().await;
    loop {
        loop {
            let message = match reader.next(&mut [], &mut 0) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(violation) => return ((Reason::TransportError, By::Server), Some(violation.code)),
            };
            let packet = match message {
                Message::Text(text) => Packet::decode(text),
                Message::Binary(bytes) => Ok(Packet::Binary(bytes.to_vec())),
                Message::Ping(payload) => {
                    let mut pong = Vec::new();
                    frame::append_pong(&mut pong, payload);
                    session.push(Bytes::from(pong));
                    continue;
                }
                Message::Pong => continue,
                Message::Close(code) => return ((Reason::TransportClose, By::Client), code),
            };
            let received = match packet {
                // In a box, here and below: what handling a packet may need is no room that an idle connection keeps.
                Ok(packet) => Box::pin(session.receive(&mut input, packet)).await,
                Err(_) => Err((Reason::ParseError, By::Server)),
            };
            if let Err(end) = received {
                return (end, Some(1000));
            }
        }
        if session.is_crowded() {
            Box::pin(session.wait_without_reading(session.has_room())).await;
        }
        if read(stream, reader).await.is_err() {
            return ((Reason::TransportClose, By::Nobody), None);
        }
    }
}

/// Writes what waits until the session ends.
async fn send(session: &Arc<Session>, stream: &TcpStream) -> End {
    let mut batch = Batch::default();
    loop {
        match session.take(&mut batch) {
            Next::End(end) => return end,
            Next::Wait => session.something_waits().await,
            Next::Write => {
                if write_batch(stream, session, &mut batch).await.is_err() {
                    session.close(Reason::TransportError, By::Nobody);
                    return (Reason::TransportError, By::Nobody);
                }
            }
        }
    }
}

async fn write(stream: &TcpStream, session: &Session, frame: Bytes) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.push(frame);
    write_batch(stream, session, &mut batch).await
}

/// Writes the batch; an error when the peer takes nothing for too long.
async fn write_batch(stream: &TcpStream, session: &Session, batch: &mut Batch) -> io::Result<()> {
    while !batch.is_empty() {
        let written = batch.lend(|due| match due {
            Due::One(bytes) => stream.try_write(bytes),
            Due::Many(slices) => stream.try_write_vectored(slices),
        });
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => batch.advance(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let stalled = |_| io::Error::from(io::ErrorKind::TimedOut);
                let writable = tokio::time::timeout(session.gateway.settings.ws.stall_max, stream.writable());
                Box::pin(writable).await.map_err(stalled)??;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closes, and lets the peer answer, so that the close frame is not lost with a reset.
async fn end(stream: &TcpStream, code: Option<u16>) {
    let mut close = Vec::new();
    frame::append_close(&mut close, code, "");
    if stream.try_write(&close).is_err() {
        return;
    }
    let _ = tokio::time::timeout(LINGER, async {
        loop {
            let gone = match stream.readable().await {
                Err(_) => true,
                Ok(()) => INPUT.with_borrow_mut(|input| match stream.try_read(input) {
                    Ok(bytes) => bytes == 0,
                    Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                }),
            };
            if gone {
                return;
            }
        }
    })
    .await;
}
