//! `cargo xtask up`: from a fresh clone to a server with plugins, tokens and lines to paste.
//!
//! The server takes this process's place, so that signals and the exit code are its own. A second process waits until it is
//! ready and prints what to paste.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::{CommandExt, parent_id},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    plugins,
    steps::{cargo, output, root, run as run_program, step, target_dir},
};

/// The hidden command that waits and prints.
pub const ANNOUNCE: &str = "announce-when-ready";

/// How long a server may take to become ready: the first start compiles every plugin.
const READY_MAX: Duration = Duration::from_secs(120);

/// How long one of its answers may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Builds, and becomes the server.
pub fn run(args: &[String]) -> Result<()> {
    let (own, serve) = match args.iter().position(|arg| arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[][..]),
    };
    let release = match own {
        [] => false,
        [flag] if flag == "--release" => true,
        _ => bail!("usage: cargo xtask up [--release] [-- OPTIONS OF haggle serve]"),
    };
    // Before the build, which may put a new one of us in our place.
    let xtask = std::env::current_exe()?;
    let plugins = plugins::build()?;
    let binary = build_server(release)?;
    let server = Server::new(&binary, &plugins, serve);
    Command::new(xtask)
        .arg(ANNOUNCE)
        .args(server.announcement())
        .spawn()
        .context("cannot start the announcer")?;
    Err(server.command().exec()).with_context(|| format!("cannot run {}", binary.display()))
}

fn build_server(release: bool) -> Result<PathBuf> {
    step("building the server", || {
        let mut build = cargo();
        // Only the server, but with the features that its dependencies have in the tests, so that each is compiled once: those of
        // the whole workspace, and with a test among the targets also those that tests ask for. The smallest one is our own.
        build.args(["build", "--locked", "--workspace", "--bin", "haggle", "--test", "up"]);
        if release {
            build.arg("--release");
        }
        run_program(&mut build)
    })?;
    Ok(target_dir().join(if release { "release" } else { "debug" }).join("haggle"))
}

/// How the server is started, and where it will be.
struct Server {
    binary: PathBuf,
    args: Vec<String>,
}

impl Server {
    fn new(binary: &Path, plugins: &Path, more: &[String]) -> Server {
        let mut args = vec!["serve".to_owned(), "--dev".to_owned()];
        for (option, value) in [("--data", root().join("data")), ("--plugins", plugins.to_path_buf())] {
            if value_of(more, option).is_none() {
                args.extend([option.to_owned(), value.display().to_string()]);
            }
        }
        args.extend(more.iter().cloned());
        Server {
            binary: binary.to_path_buf(),
            args,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.args);
        command
    }

    fn announcement(&self) -> Vec<String> {
        let value = |option, default: &str| value_of(&self.args, option).unwrap_or_else(|| default.to_owned());
        let data = value("--data", "data");
        vec![
            self.binary.display().to_string(),
            value("--listen", "127.0.0.1:3001"),
            value("--admin", "127.0.0.1:9301"),
            data,
        ]
    }
}

/// `--name value` or `--name=value`
fn value_of(args: &[String], name: &str) -> Option<String> {
    let joined = args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    joined.or_else(|| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1).cloned()))
}

/// Waits for the server to be ready and prints URLs, tokens and lines to paste.
pub fn announce(args: &[String]) -> Result<()> {
    let [binary, listen, admin, data] = args else {
        bail!("usage: {ANNOUNCE} BINARY LISTEN ADMIN DATA")
    };
    wait_until_ready(admin.parse().context("--admin is no address")?)?;
    let ann = token(binary, "ann", data)?;
    let bob = token(binary, "bob", data)?;
    let conversation = conversation(listen.parse().context("--listen is no address")?, &ann)?;
    println!(
        "
Haggle is ready.
  clients     http://{listen}/api      ws://{listen}/v1/ws      http://{listen}/api/docs
  operators   http://{admin}/metrics   http://{admin}/readyz?verbose

Two users with tokens for 7 days:
  ann  {ann}
  bob  {bob}

bob listens on a WebSocket; paste this line into a second terminal:

{binary} connect --follow --url ws://{listen}/v1/ws --sub {conversation} --token {bob}

ann writes to bob; paste this line into a third:

curl -sS http://{listen}/api/conversations/{conversation}/messages -H 'Authorization: Bearer {ann}' -H 'Content-Type: application/json' -d '{{\"content\":\"hello bob\"}}'

Ctrl-C ends the server; what was said stays in {data}.
"
    );
    Ok(())
}

/// The direct conversation of the two users: made the first time, found again later.
fn conversation(listen: SocketAddr, token: &str) -> Result<String> {
    let body = r#"{"type":"direct","participants":["bob"]}"#;
    let head = format!(
        "authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    let answer = ask(listen, "POST", "/api/conversations", &head, body)?;
    let id = answer.split_once("\"_id\":\"").and_then(|(_, rest)| rest.split('"').next());
    id.map(str::to_owned)
        .with_context(|| format!("no conversation in the server's answer: {answer}"))
}

fn token(binary: &str, user: &str, data: &str) -> Result<String> {
    Ok(output(Command::new(binary).args(["token", user, "--data", data]))?.trim().to_owned())
}

fn wait_until_ready(admin: SocketAddr) -> Result<()> {
    let server = parent_id();
    let start = Instant::now();
    let mut said = 0;
    loop {
        let ready = is_ready(admin);
        // The server has ended and has said why: then somebody else is our parent, and whoever answers is not ours.
        if parent_id() != server || start.elapsed() > READY_MAX {
            bail!("the server at {admin} did not become ready");
        }
        if ready {
            return Ok(());
        }
        let seconds = start.elapsed().as_secs();
        if seconds >= said + 2 {
            said = seconds;
            eprintln!("xtask: waiting for the server ({seconds} s) ...");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    ask(admin, "GET", "/readyz", "", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// One request, and all of its answer.
fn ask(address: SocketAddr, method: &str, path: &str, head: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{head}\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(args: &[&str], expect: Option<&str>) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        assert_eq!(value_of(&args, "--listen").as_deref(), expect);
    }

    #[test]
    fn options_are_found_in_both_forms() {
        check(&["--listen", "a:1"], Some("a:1"));
        check(&["--dev", "--listen=b:2"], Some("b:2"));
        check(&["--listener=c:3"], None);
        check(&["--listen"], None);
    }
}
