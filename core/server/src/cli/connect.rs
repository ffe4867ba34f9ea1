//! `haggle connect`: the native WebSocket protocol on standard input and output.

use std::time::Duration;

use clap::Args;
use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, Payload, WebSocketWrite, handshake};
use http_body_util::Empty;
use hyper::{Request, Uri, body::Bytes, header};
use tokio::{io::AsyncWrite, net::TcpStream, sync::mpsc};

use super::{block_on, print};
use crate::failure::{Failure, Kind};

/// Frames that wait to be written; heartbeats and what is typed.
const FRAMES_MAX: usize = 64;

/// How long answers are waited for when standard input has ended.
const ANSWERS_WAIT: Duration = Duration::from_secs(1);

/// The largest message that is shown.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Speak the native WebSocket protocol on standard input and output
///
/// Authenticates with --token, answers heartbeats, prints every other frame as one line of JSON and sends every line of
/// standard input as a frame. With --follow it goes on when standard input ends; otherwise it then waits for the answers that
/// are due, at most a second, and ends.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haggle connect --token \"$TOKEN\" --follow --sub CONVERSATION
      show what happens in a conversation, and the user's own stream
  echo '{\"t\":\"send\",\"id\":2,\"to\":\"bob\",\"k\":\"1\",\"n\":\"text\",\"d\":{\"content\":\"hi\"}}' | haggle connect --token \"$TOKEN\"
      send one message and see its ack")]
pub struct ConnectArgs {
    /// The user's token (`haggle token USER`)
    #[arg(long, env = "HAGGLE_TOKEN", hide_env_values = true)]
    token: String,
    /// The server
    #[arg(long, default_value = "ws://127.0.0.1:3001/v1/ws")]
    url: Uri,
    /// Follow a conversation; may be given more than once
    #[arg(long, value_name = "CONVERSATION")]
    sub: Vec<String>,
    /// Stay when standard input ends
    #[arg(long)]
    follow: bool,
}

pub fn run(args: ConnectArgs) -> Result<(), Failure> {
    block_on(connect(args))
}

async fn connect(args: ConnectArgs) -> Result<(), Failure> {
    let socket = open(&args.url).await.map_err(|error| {
        Failure::new(Kind::Unreachable, format!("no WebSocket at {}: {error}", args.url))
            .hint("start the server (haggle serve), or give its address by --url")
    })?;
    let (read, write) = socket.split(tokio::io::split);
    let (frames, outbox) = mpsc::channel(FRAMES_MAX);
    let writer = tokio::spawn(write_frames(write, outbox));
    let auth = serde_json::json!({ "t": "auth", "id": "auth", "token": args.token }).to_string();
    send(&frames, auth).await?;
    for conversation in &args.sub {
        send(
            &frames,
            serde_json::json!({ "t": "sub", "id": conversation, "c": conversation }).to_string(),
        )
        .await?;
    }
    let typed = frames.clone();
    // A thread, since reading standard input cannot be interrupted; it ends with the process.
    std::thread::spawn(move || send_lines(&typed, args.follow));
    let result = show_frames(read, frames).await;
    writer.abort();
    result
}

type Socket = fastwebsockets::WebSocket<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>;

async fn open(url: &Uri) -> anyhow::Result<Socket> {
    anyhow::ensure!(
        url.scheme_str() == Some("ws"),
        "only ws:// is spoken here; put a TLS proxy's address behind a tunnel"
    );
    let authority = url.authority().ok_or_else(|| anyhow::anyhow!("the URL names no host"))?;
    let stream = TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80))).await?;
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority.as_str())
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "upgrade")
        .header(header::SEC_WEBSOCKET_KEY, handshake::generate_key())
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_PROTOCOL, "msg.v1.json")
        .body(Empty::<Bytes>::new())?;
    let (mut socket, _) = handshake::client(&hyper_util::rt::TokioExecutor::new(), request, stream).await?;
    socket.set_max_message_size(MESSAGE_BYTES_MAX);
    Ok(socket)
}

/// What is to be written.
enum Out {
    Text(String),
    Pong(Vec<u8>),
    Close,
}

async fn send(frames: &mpsc::Sender<Out>, text: String) -> Result<(), Failure> {
    frames
        .send(Out::Text(text))
        .await
        .map_err(|_| Failure::failed("the connection has ended"))
}

async fn write_frames<W: AsyncWrite + Unpin>(mut write: WebSocketWrite<W>, mut outbox: mpsc::Receiver<Out>) {
    while let Some(out) = outbox.recv().await {
        let frame = match out {
            Out::Text(text) => Frame::text(Payload::Owned(text.into_bytes())),
            Out::Pong(payload) => Frame::pong(Payload::Owned(payload)),
            Out::Close => Frame::close(1000, b""),
        };
        if write.write_frame(frame).await.is_err() {
            return;
        }
    }
}

/// Every line of standard input is a frame. At its end the answers that are due get a second.
fn send_lines(frames: &mpsc::Sender<Out>, follow: bool) {
    for line in std::io::stdin().lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
        if frames.blocking_send(Out::Text(line)).is_err() {
            return;
        }
    }
    if !follow {
        std::thread::sleep(ANSWERS_WAIT);
        let _ = frames.blocking_send(Out::Close);
    }
}

/// Prints frames until the server closes.
async fn show_frames<R: tokio::io::AsyncRead + Unpin>(read: fastwebsockets::WebSocketRead<R>, frames: mpsc::Sender<Out>) -> Result<(), Failure> {
    let mut read = FragmentCollectorRead::new(read);
    loop {
        // Pings and closes are answered here, by the writer's queue.
        let frame = read.read_frame::<_, std::convert::Infallible>(&mut |_| async { Ok(()) }).await;
        let frame = frame.map_err(|error| Failure::failed(format!("the connection ended without a close frame: {error}")))?;
        match frame.opcode {
            OpCode::Text => show(&String::from_utf8_lossy(&frame.payload), &frames).await?,
            OpCode::Ping => drop(frames.send(Out::Pong(frame.payload.to_vec())).await),
            OpCode::Close => return closed(&frame.payload),
            _ => {}
        }
    }
}

async fn show(text: &str, frames: &mpsc::Sender<Out>) -> Result<(), Failure> {
    if text == "{}" {
        return send(frames, "{}".into()).await;
    }
    print(text);
    Ok(())
}

fn closed(payload: &[u8]) -> Result<(), Failure> {
    let code = payload.first_chunk::<2>().map_or(1005, |bytes| u16::from_be_bytes(*bytes));
    match code {
        1000 | 1001 | 1005 | 1012 | 4001 => Ok(()),
        4501 => Err(Failure::failed("closed by the server: 4501 unauthenticated").hint("make a token: haggle token USER --data DIR")),
        _ => Err(Failure::failed(format!(
            "closed by the server: {code} {}",
            String::from_utf8_lossy(payload.get(2..).unwrap_or_default())
        ))),
    }
}
