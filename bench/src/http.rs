//! A request at a time: for readiness, for reading histories, for creating conversations. Waits.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::dialect::{Rest, Stamp};

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Events asked for at once.
const PAGE_EVENTS: u32 = 500;

/// Status and body.
pub fn get(target: SocketAddr, path: &str, token: Option<&str>) -> Result<(u16, Vec<u8>)> {
    ask(target, "GET", path, token, None)
}

/// Creates a conversation; its id.
pub fn create(target: SocketAddr, rest: &Rest, token: &str) -> Result<String> {
    let (status, body) = ask(target, "POST", &rest.path, Some(token), Some(&rest.body))?;
    if !(200..300).contains(&status) {
        bail!("POST {} was answered {status}: {}", rest.path, String::from_utf8_lossy(&body));
    }
    let answer: serde_json::Value = serde_json::from_slice(&body).with_context(|| format!("the answer of POST {}", rest.path))?;
    let id = answer.pointer(&rest.id).and_then(serde_json::Value::as_str);
    id.map(str::to_owned)
        .with_context(|| format!("the answer of POST {} has nothing at {}", rest.path, rest.id))
}

fn ask(target: SocketAddr, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&target, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let content = body.map(|body| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    let (content, body) = (content.unwrap_or_default(), body.unwrap_or_default());
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}{content}\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = memchr::memmem::find(&answer, b"\r\n\r\n").context("the answer has no end of its head")?;
    let text = std::str::from_utf8(&answer[..head])?;
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("the answer has no status")?;
    ensure!(
        !text.to_ascii_lowercase().contains("transfer-encoding: chunked"),
        "the answer is chunked, which this client does not read"
    );
    Ok((status, answer.split_off(head + 4)))
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Logged>,
}

#[derive(Deserialize)]
struct Logged {
    seq: u32,
    name: String,
    data: serde_json::Value,
}

/// The events of a conversation behind `after`, to its end, as REST has them.
pub fn history(target: SocketAddr, conversation: &str, token: &str, mut after: u32) -> Result<Vec<(u32, Option<Stamp>)>> {
    let mut events = Vec::new();
    loop {
        let (status, body) = get(
            target,
            &format!("/api/conversations/{conversation}/events?after={after}&limit={PAGE_EVENTS}"),
            Some(token),
        )?;
        if status != 200 {
            bail!("reading a history was answered {status}: {}", String::from_utf8_lossy(&body));
        }
        let page: Page = serde_json::from_slice(&body).context("a page of events")?;
        let Some(last) = page.events.last() else { return Ok(events) };
        after = last.seq;
        events.extend(page.events.iter().map(|event| (event.seq, stamp(event))));
    }
}

fn stamp(event: &Logged) -> Option<Stamp> {
    let content = event.data.get("content").filter(|_| event.name == "message.created")?;
    Stamp::parse(content.as_str()?.as_bytes())
}
