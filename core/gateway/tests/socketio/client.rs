//! A server on a port of its own, and clients of Engine.IO that can do what a good one never does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use haggle_engine::{Actor, Command, Engine, EngineOptions, NewConversation, NewMessage, Outcome, Request, SystemClock, To, ports::NoPlugins};
use haggle_gateway::{
    AuthConfig, Authenticator, Gateway, GatewaySettings, Origins, SocketIoSettings, auth,
    http::{App, serve},
};
use haggle_model::{ConversationId, Limits};
use haggle_store::MemoryStore;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Nothing in these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &[u8] = b"a secret that is long enough for HS256, it says";

pub struct Server {
    pub address: SocketAddr,
    pub gateway: Arc<Gateway>,
    _stop: DropGuard,
}

impl Server {
    pub async fn start() -> Server {
        Server::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut SocketIoSettings)) -> Server {
        let limits = Limits {
            rate_per_second: 1_000_000,
            rate_burst: 1_000_000,
            ..Limits::default()
        };
        let options = EngineOptions {
            store: Arc::new(MemoryStore::new(1)),
            hooks: Arc::new(NoPlugins),
            limits,
            clock: Arc::new(SystemClock),
            erase_after: Duration::from_secs(86_400),
            reject_unknown_users: false,
        };
        let engine = Engine::start(options).await.expect("the engine starts");
        let mut settings = GatewaySettings::default();
        settings.socketio.echo_namespaces = vec!["/echo".into(), "/".into()];
        change(&mut settings.socketio);
        let auth = Authenticator::new(AuthConfig {
            secrets: vec![SECRET.to_vec()],
            ..AuthConfig::default()
        })
        .expect("a key");
        let origins = Origins::new(&["https://shop.example".to_string()], false).expect("an origin");
        let gateway = Gateway::new(engine, auth, origins, settings);
        // Small system buffers, so that who does not read is noticed after kilobytes and not after megabytes.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_send_buffer_size(32 * 1024).expect("a small buffer");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1024).expect("it listens");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, App::new(gateway.clone()), stop.clone()));
        Server {
            address,
            gateway,
            _stop: stop.drop_guard(),
        }
    }

    pub async fn run(&self, user: &str, command: Command) -> Outcome {
        let request = Request::new(Actor::user(user, "rest"), command);
        self.gateway.engine.execute(request).await.expect("the command takes effect")
    }

    pub async fn say(&self, user: &str, conversation: ConversationId, text: &str) -> u32 {
        let to = To::Conversation(conversation);
        let message = NewMessage::text(text);
        self.run(user, Command::Send { to, message }).await.seq
    }

    pub async fn direct(&self, a: &str, b: &str) -> ConversationId {
        let new = NewConversation::Direct { with: b.into() };
        self.run(a, Command::CreateConversation(new)).await.conversation
    }

    pub async fn get(&self, query: &str) -> Answer {
        request(self.address, "GET", &format!("/socket.io/?{query}"), "", b"").await
    }

    pub async fn post(&self, sid: &str, body: &str) -> Answer {
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        request(self.address, "POST", &path, "content-type: text/plain;charset=UTF-8\r\n", body.as_bytes()).await
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
        Socket::open(self.address, query).await
    }

    /// A WebSocket session that has joined the chat.
    pub async fn chat(&self, user: &str) -> Socket {
        let mut socket = self.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
        assert!(socket.text().await.starts_with('0'));
        socket.send(&format!(r#"40/chat,{{"token":"{}"}}"#, token(user))).await;
        let answer = socket.text().await;
        assert!(answer.starts_with("40/chat,{\"sid\""), "{answer}");
        socket
    }
}

pub fn token(user: &str) -> String {
    token_for(user, Duration::from_secs(3600))
}

pub fn token_for(user: &str, ttl: Duration) -> String {
    auth::sign(SECRET, user, &[], ttl).expect("a token")
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
    stream: TcpStream,
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
    async fn open(address: SocketAddr, query: &str) -> Result<Socket, Answer> {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let head = format!(
            "GET /socket.io/?{query} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n"
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

    /// The payload of the next event of this name in the chat.
    pub async fn event(&mut self, name: &str) -> Value {
        loop {
            let text = self.text().await;
            let Some(json) = text.strip_prefix("42/chat,") else { continue };
            let mut event: Value = serde_json::from_str(json).expect("JSON");
            if event[0] == name {
                return event[1].take();
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
