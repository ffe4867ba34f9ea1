//! The native WebSocket protocol: one request id, one answer; events in between.

use std::{collections::VecDeque, future::Future, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, handshake};
use http_body_util::Empty;
use hyper::{Request, header, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request that the server refused.
#[derive(Clone, Debug)]
pub struct Refused(pub Value);

impl Refused {
    /// The stable code.
    pub fn code(&self) -> &str {
        self.0["code"].as_str().unwrap_or("")
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

/// A connection after `hello` and `auth`.
pub struct Socket {
    ws: FragmentCollector<TokioIo<Upgraded>>,
    next_id: u64,
    waiting: VecDeque<Value>,
}

struct Executor;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

impl Socket {
    /// Connects and logs in. `resume` holds what `auth` may carry besides the token: `cur` (seq per conversation) and `me`.
    pub async fn connect(address: &str, token: &str, resume: Value) -> Result<Socket> {
        let mut socket = Socket::open(address).await?;
        let hello = socket.frame().await?;
        if hello["t"] != "hello" {
            bail!("expected hello, got {hello}");
        }
        let mut auth = json!({"t": "auth", "token": token});
        if let (Some(auth), Some(resume)) = (auth.as_object_mut(), resume.as_object()) {
            auth.extend(resume.clone());
        }
        socket.request(auth).await?;
        Ok(socket)
    }

    /// Connects and does not log in.
    pub async fn open(address: &str) -> Result<Socket> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        let request = Request::get("/v1/ws")
            .header(header::HOST, address)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "upgrade")
            .header("Sec-WebSocket-Key", handshake::generate_key())
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Protocol", "msg.v1.json")
            .body(Empty::<Bytes>::new())?;
        let (ws, _) = handshake::client(&Executor, request, stream).await?;
        Ok(Socket {
            ws: FragmentCollector::new(ws),
            next_id: 1,
            waiting: VecDeque::new(),
        })
    }

    /// Sends a request and waits for its answer; what comes in between is kept for [`Socket::next`].
    pub async fn request(&mut self, frame: Value) -> Result<Value> {
        let id = self.send(frame).await?;
        loop {
            let frame = self.frame().await?;
            if frame["id"] == id {
                return match frame["t"].as_str() {
                    Some("ok") => Ok(frame["d"].clone()),
                    _ => Err(Refused(frame["e"].clone()).into()),
                };
            }
            self.waiting.push_back(frame);
        }
    }

    /// Sends a request under a fresh id and does not wait.
    pub async fn send(&mut self, mut frame: Value) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        frame["id"] = id.into();
        self.write(&frame).await?;
        Ok(id)
    }

    /// The next frame that is no answer to [`Socket::request`].
    pub async fn next(&mut self) -> Result<Value> {
        match self.waiting.pop_front() {
            Some(frame) => Ok(frame),
            None => self.frame().await,
        }
    }

    /// The next frame that `wanted` accepts; others are dropped.
    pub async fn next_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Ok(frame);
            }
        }
    }

    /// The next durable event of this name.
    pub async fn event(&mut self, name: &str) -> Result<Value> {
        self.next_where(|frame| frame["t"] == "ev" && frame["n"] == name)
            .await
            .with_context(|| format!("waiting for {name}"))
    }

    async fn write(&mut self, frame: &Value) -> Result<()> {
        let bytes = serde_json::to_vec(frame)?;
        Ok(self.ws.write_frame(Frame::text(Payload::Owned(bytes))).await?)
    }

    async fn frame(&mut self) -> Result<Value> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.ws.read_frame()).await.context("no frame in time")??;
            match frame.opcode {
                OpCode::Text => {}
                OpCode::Close => bail!("closed by the server: {}", close_code(&frame.payload)),
                _ => continue,
            }
            let value: Value = serde_json::from_slice(&frame.payload)?;
            if value.as_object().is_some_and(serde_json::Map::is_empty) {
                self.write(&json!({})).await?; // a heartbeat
                continue;
            }
            match value {
                Value::Array(batch) => self.waiting.extend(batch),
                frame => return Ok(frame),
            }
            if let Some(frame) = self.waiting.pop_front() {
                return Ok(frame);
            }
        }
    }
}

fn close_code(payload: &[u8]) -> String {
    match payload {
        [a, b, reason @ ..] => format!("{} {}", u16::from_be_bytes([*a, *b]), String::from_utf8_lossy(reason)),
        _ => "without a code".into(),
    }
}
