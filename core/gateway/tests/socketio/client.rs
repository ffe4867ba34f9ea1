//! Clients of Engine.IO that can do what a good one never does.

use std::{net::SocketAddr, time::Duration};

use haggle_gateway::SocketIoSettings;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub use crate::server::{Server, of_plugin, token, token_for};

/// Nothing in these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl Server {
    pub async fn with(change: impl FnOnce(&mut SocketIoSettings)) -> Server {
        Server::set(|settings| change(&mut settings.socketio)).await
    }

    pub async fn get(&self, query: &str) -> Answer {
        request(self.address, "GET", &format!("/socket.io/?{query}"), "", b"").await
    }

    pub async fn post(&self, sid: &str, body: &str) -> Answer {
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        request(self.address, "POST", &path, "content-type: text/plain;charset=UTF-8\r\n", body.as_bytes()).await
    }

    /// A POST that goes on in the background.
    pub fn posting(&self, sid: &str, body: String) -> tokio::task::JoinHandle<Answer> {
        let (address, path) = (self.address, format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
        let headers = "content-type: text/plain;charset=UTF-8\r\n";
        tokio::spawn(async move { request(address, "POST", &path, headers, body.as_bytes()).await })
    }

    /// Waits until the plugin was asked this.
    pub async fn hears(&self, text: &str) {
        let heard = async {
            while !self.heard.lock().expect("nobody panics with it").iter().any(|heard| heard == text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("the plugin hears: {text}"));
    }

    pub async fn poll(&self, sid: &str) -> Answer {
        self.get(&format!("EIO=4&transport=polling&sid={sid}")).await
    }

    /// A GET that goes on in the background, certainly on its way.
    pub async fn polling(&self, sid: &str) -> tokio::task::JoinHandle<Answer> {
        let (address, path) = (self.address, format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
        let get = tokio::spawn(async move { request(address, "GET", &path, "", b"").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        get
    }

    /// A new polling session; its id.
    pub async fn open(&self) -> String {
        let answer = self.get("EIO=4&transport=polling").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        sid_of(&answer.body)
    }

    /// A polling session that has joined this namespace.
    pub async fn joined(&self, connect: &str) -> String {
        let sid = self.open().await;
        assert_eq!(self.post(&sid, connect).await.body, "ok");
        let answer = self.poll(&sid).await;
        assert!(answer.body.starts_with("40"), "{}", answer.body);
        sid
    }

    pub async fn upgrade(&self, query: &str) -> Result<Socket, Answer> {
        self.upgrade_from("/socket.io/", query, "").await
    }

    /// With these header lines, on this path.
    pub async fn upgrade_from(&self, path: &str, query: &str, headers: &str) -> Result<Socket, Answer> {
        Socket::open(self.address, path, query, headers).await
    }

    /// A WebSocket session that has joined a namespace where everything is echoed.
    pub async fn echo(&self) -> Socket {
        let mut socket = self.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
        assert!(socket.text().await.starts_with('0'));
        socket.send("40").await;
        assert!(socket.text().await.starts_with("40{\"sid\""));
        socket
    }

    /// A WebSocket session that has joined the chat.
    pub async fn chat(&self, user: &str) -> Socket {
        self.chat_with(&token(user)).await
    }

    /// The same with this token, or, if it is empty, without one.
    pub async fn chat_with(&self, token: &str) -> Socket {
        let mut socket = self.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
        assert!(socket.text().await.starts_with('0'));
        socket.send(&format!(r#"40/chat,{{"token":"{token}"}}"#)).await;
        let answer = socket.text().await;
        assert!(answer.starts_with("40/chat,{\"sid\""), "{answer}");
        socket
    }
}

pub fn sid_of(open: &str) -> String {
    let json: Value = serde_json::from_str(open.strip_prefix('0').expect("an open packet")).expect("JSON");
    json["sid"].as_str().expect("an id").to_owned()
}

/// An answer by HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// More of the body comes.
    fn is_short(&self) -> bool {
        let length = self.head.lines().find_map(|line| line.strip_prefix("content-length: "));
        length.is_some_and(|length| self.body.len() < length.parse().expect("a number"))
    }
}

pub async fn request(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    let _ = stream.write_all(body).await; // A refusal may come before all of it is read.
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the server answers")
        .expect("an answer");
    parsed(&answer)
}

fn parsed(answer: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    Answer {
        status: head[9..12].parse().expect("a status"),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// A WebSocket.
pub struct Socket {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Text(String),
    Binary(Vec<u8>),
    Closed,
}

impl Socket {
    async fn open(address: SocketAddr, path: &str, query: &str, headers: &str) -> Result<Socket, Answer> {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let head = format!(
            "GET {path}?{query} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-extensions: permessage-deflate\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("the server reads");
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            let read = timeout(PATIENCE, stream.read_buf(&mut buffer))
                .await
                .expect("an answer")
                .expect("an answer");
            assert!(read > 0, "the server answers");
        };
        if !buffer.starts_with(b"HTTP/1.1 101") {
            while parsed(&buffer).is_short() {
                assert!(
                    timeout(PATIENCE, stream.read_buf(&mut buffer))
                        .await
                        .expect("an answer")
                        .expect("an answer")
                        > 0
                );
            }
            return Err(parsed(&buffer));
        }
        let rest = buffer.split_off(end);
        Ok(Socket { stream, buffer: rest })
    }

    pub async fn send(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes()).await;
    }

    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.frame(0x82, bytes).await;
    }

    async fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
                if long <= 0xffff {
                    frame.truncate(1);
                    frame.push(0x80 | 126);
                    frame.extend_from_slice(&(long as u16).to_be_bytes());
                }
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        let _ = self.stream.write_all(&frame).await; // What the server has closed may refuse bytes.
    }

    pub async fn next(&mut self) -> Got {
        loop {
            if let Some(got) = self.parse() {
                return got;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer))
                .await
                .expect("something comes in time");
            if !read.is_ok_and(|bytes| bytes > 0) {
                return Got::Closed;
            }
        }
    }

    fn parse(&mut self) -> Option<Got> {
        let bytes = &self.buffer;
        let (header, len) = match *bytes.get(1)? {
            126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize),
            127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
            short => (2, short as usize),
        };
        let payload = bytes.get(header..header + len)?.to_vec();
        let opcode = bytes[0] & 15;
        self.buffer.drain(..header + len);
        Some(match opcode {
            1 => Got::Text(String::from_utf8(payload).expect("UTF-8")),
            2 => Got::Binary(payload),
            _ => Got::Closed,
        })
    }

    pub async fn text(&mut self) -> String {
        match self.next().await {
            Got::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// The name and payload of the next event in the chat.
    pub async fn next_event(&mut self) -> (String, Value) {
        loop {
            let text = self.text().await;
            let Some(json) = text.strip_prefix("42/chat,") else { continue };
            let mut event: Value = serde_json::from_str(json).expect("JSON");
            return (event[0].as_str().expect("a name").to_owned(), event[1].take());
        }
    }

    /// The payload of the next event of this name in the chat.
    pub async fn event(&mut self, name: &str) -> Value {
        loop {
            let (found, payload) = self.next_event().await;
            if found == name {
                return payload;
            }
        }
    }

    /// Sends an event of the chat and waits for its ack.
    pub async fn ask(&mut self, id: u32, name: &str, payload: Value) -> Value {
        self.send(&format!("42/chat,{id}{}", serde_json::json!([name, payload]))).await;
        let start = format!("43/chat,{id}[");
        loop {
            let text = self.text().await;
            if text.starts_with(&start) {
                let mut answer: Value = serde_json::from_str(&text[start.len() - 1..]).expect("JSON");
                return answer[0].take();
            }
        }
    }

    /// The server closes, whatever it says before.
    pub async fn is_closed(&mut self) {
        while self.next().await != Got::Closed {}
    }
}
