//! A client that can do what a good one never does: raw frames, raw bytes, not reading.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Nothing in these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What came from the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    Json(Value),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The stream ended without (another) close frame.
    End,
}

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    next_id: u64,
}

/// The head of a handshake's answer.
pub struct Answered {
    pub status: u16,
    pub head: String,
}

impl Client {
    /// The handshake with these extra lines; the connection and the head of the answer.
    pub async fn handshake(address: SocketAddr, method: &str, lines: &[&str]) -> (Client, Answered) {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let mut request = format!("{method} /v1/ws HTTP/1.1\r\nHost: localhost\r\n");
        for line in lines {
            request.push_str(line);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut client = Client {
            stream,
            buffer: Vec::new(),
            next_id: 0,
        };
        let answered = client.head().await;
        (client, answered)
    }

    /// A connection on which these bytes were sent at once, after the head of the answer.
    pub async fn raw_stream(address: SocketAddr, bytes: &[u8]) -> Client {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        stream.write_all(bytes).await.expect("the server reads");
        Client::over(stream, "").await
    }

    /// A connection over this stream, which still needs this request, after the head of the answer.
    pub async fn over(mut stream: TcpStream, request: &str) -> Client {
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut client = Client {
            stream,
            buffer: Vec::new(),
            next_id: 0,
        };
        assert_eq!(client.head().await.status, 101);
        client
    }

    async fn head(&mut self) -> Answered {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.fill().await, "the server answers: {}", String::from_utf8_lossy(&self.buffer));
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).expect("an ASCII head");
        let status = head[9..12].parse().expect("a status");
        Answered { status, head }
    }

    /// A connection after its `hello`.
    pub async fn connect(address: SocketAddr) -> Client {
        let (mut client, answered) = Client::handshake(address, "GET", &HANDSHAKE).await;
        assert_eq!(answered.status, 101, "{}", answered.head);
        assert_eq!(client.json().await["t"], "hello");
        client
    }

    /// A connection that is logged in and has seen its `heads`.
    pub async fn login(address: SocketAddr, token: &str) -> Client {
        let mut client = Client::connect(address).await;
        let answer = client.request(serde_json::json!({"t": "auth", "token": token})).await;
        assert_eq!(answer["t"], "ok", "{answer}");
        client.until(|frame| frame["t"] == "heads").await;
        client
    }

    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer))
            .await
            .expect("the server writes in time");
        read.is_ok_and(|bytes| bytes > 0)
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        // What the server has closed may refuse bytes; the answer says why.
        let _ = self.stream.write_all(bytes).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.raw(&frame(0x81, text.as_bytes())).await;
    }

    pub async fn send(&mut self, value: Value) {
        self.text(&value.to_string()).await;
    }

    /// Sends a request under a fresh id and returns its `ok` or `err`; other frames are skipped.
    pub async fn request(&mut self, mut value: Value) -> Value {
        self.next_id += 1;
        value["id"] = self.next_id.into();
        self.send(value).await;
        let id = self.next_id;
        self.until(|frame| frame["id"] == id).await
    }

    /// The same, with the frames that came before the answer.
    pub async fn until_all(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let frame = self.json().await;
            let found = wanted(&frame);
            seen.push(frame);
            if found {
                return seen;
            }
        }
    }

    /// Skips frames up to the first that is wanted.
    pub async fn until(&mut self, wanted: impl FnMut(&Value) -> bool) -> Value {
        self.until_all(wanted).await.pop().expect("ends with the wanted one")
    }

    /// The next frame, which is JSON.
    pub async fn json(&mut self) -> Value {
        match self.next().await {
            Got::Json(value) => value,
            other => panic!("expected JSON, got {other:?}"),
        }
    }

    /// Skips everything up to the close frame; its code and reason.
    pub async fn closed(&mut self) -> (Option<u16>, String) {
        loop {
            match self.next().await {
                Got::Close(code, reason) => return (code, reason),
                Got::End => panic!("ended without a close frame"),
                _ => {}
            }
        }
    }

    pub async fn next(&mut self) -> Got {
        loop {
            if let Some(got) = self.take() {
                return got;
            }
            if !self.fill().await {
                return Got::End;
            }
        }
    }

    /// Whether nothing comes for so long.
    pub async fn is_quiet(&mut self, wait: Duration) -> bool {
        timeout(wait, self.next()).await.is_err()
    }

    fn take(&mut self) -> Option<Got> {
        let (first, second) = (*self.buffer.first()?, *self.buffer.get(1)?);
        assert_eq!((first & 0x70, second & 0x80), (0, 0), "no reserved bits, and servers do not mask");
        let (header, length) = match second {
            126 => (4, u16::from_be_bytes(self.buffer.get(2..4)?.try_into().ok()?) as usize),
            127 => (10, u64::from_be_bytes(self.buffer.get(2..10)?.try_into().ok()?) as usize),
            short => (2, short as usize),
        };
        let payload = self.buffer.get(header..header + length)?.to_vec();
        self.buffer.drain(..header + length);
        Some(match first {
            0x81 => Got::Json(serde_json::from_slice(&payload).expect("text frames are JSON")),
            0x8a => Got::Pong(payload),
            0x88 if payload.is_empty() => Got::Close(None, String::new()),
            0x88 => Got::Close(
                Some(u16::from_be_bytes([payload[0], payload[1]])),
                String::from_utf8_lossy(&payload[2..]).into(),
            ),
            other => panic!("unexpected first byte {other:#x}"),
        })
    }
}

/// The lines of a good handshake.
pub const HANDSHAKE: [&str; 5] = [
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: msg.v1.json",
];

/// A masked frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
