//! The real binary as a child process: started on free ports, asked over plain HTTP, ended by signals.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The longest that anything here waits.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// `haggle` with these arguments and nothing of our own environment's settings.
pub fn haggle(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haggle"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HAGGLE_")) {
        command.env_remove(name);
    }
    command
}

/// Runs `haggle` to its end.
pub fn output(args: &[&str]) -> Output {
    haggle(args).output().expect("the binary runs")
}

/// What a run printed, checked for success.
#[track_caller]
pub fn stdout(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "haggle {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is text").trim().to_owned()
}

/// A running server, ended with the value.
pub struct Server {
    child: Child,
    /// For clients.
    pub clients: SocketAddr,
    /// For operators.
    pub operators: SocketAddr,
    /// Its log until it served.
    pub log: Vec<String>,
    rest: Option<std::thread::JoinHandle<String>>,
}

impl Server {
    /// Starts one with the dev key, on free ports, and waits until it serves.
    pub fn start(data: &Path, env: &[(&str, &str)]) -> Server {
        let data = data.to_str().expect("a plain path");
        let mut command = haggle(&["serve", "--data", data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.env("HAGGLE__AUTH__DEV", "true").envs(env.iter().copied()).stdout(Stdio::piped());
        let child = command.spawn().expect("the binary runs");
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Server {
            child,
            clients: nowhere,
            operators: nowhere,
            log: Vec::new(),
            rest: None,
        };
        let mut lines = BufReader::new(server.child.stdout.take().expect("piped"));
        let serving = server.read_until_serving(&mut lines);
        let address = |field: &str| serving[field].as_str().expect("an address").parse().expect("an address");
        (server.clients, server.operators) = (address("clients"), address("operators"));
        // Read on, so that the server never waits for us; kept for who asks.
        server.rest = Some(std::thread::spawn(move || {
            let mut rest = String::new();
            let _ = lines.read_to_string(&mut rest);
            rest
        }));
        server
    }

    fn read_until_serving(&mut self, lines: &mut impl BufRead) -> Value {
        loop {
            let mut line = String::new();
            assert!(
                lines.read_line(&mut line).expect("a log line") > 0,
                "the server ended before it served: {:#?}",
                self.log
            );
            let entry: Value = serde_json::from_str(&line).expect("logs are JSON where there is no terminal");
            self.log.push(line);
            if entry["message"] == "serving" {
                return entry;
            }
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// What the system says about its process, by the name of the line.
    pub fn process_status(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect("a line of that name").trim().to_owned()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// The whole log, once it has ended.
    pub fn whole_log(&mut self) -> String {
        let rest = self.rest.take().map(|rest| rest.join().expect("the reader ends with the server"));
        self.log.concat() + &rest.unwrap_or_default()
    }

    /// Asks the operators' listener.
    pub fn ask(&self, method: &str, path: &str, head: &[(&str, &str)]) -> Answer {
        request(self.operators, method, path, head, "")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a process, at most [`WAIT_MAX`].
pub fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status;
        }
        assert!(start.elapsed() < WAIT_MAX, "the process does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One request on a connection of its own. A `host` among the headers replaces ours.
pub fn request(to: SocketAddr, method: &str, path: &str, head: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = TcpStream::connect(to).expect("somebody listens");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("a timeout");
    let host = to.to_string();
    let mut lines: Vec<_> = head.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    if !head.iter().any(|(name, _)| *name == "host") {
        lines.push(format!("host: {host}\r\n"));
    }
    let lines = lines.concat();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{lines}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer of text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}
