//! What `cargo xtask up` prints works when pasted.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// How long each thing waited for may take. The server is built by now, but its plugins are compiled at the first start.
const STEP_MAX: Duration = Duration::from_secs(180);

/// How long a second start may take until the lines are printed: nothing is left to build or to compile.
const SECOND_MAX: Duration = Duration::from_secs(20);

/// A program and the lines that it prints; killed when dropped.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (tell, lines) = mpsc::channel();
        // Reads to the end, as a full pipe would stop the program.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        Running { child, lines }
    }

    /// What is pasted into a shell, without the shell around it.
    fn paste(line: &str) -> Running {
        Running::start(Command::new("sh").args(["-c", &format!("exec {line}")]))
    }

    /// The next line that has `part` in it.
    #[track_caller]
    fn line_with(&self, part: &str) -> String {
        let until = Instant::now() + STEP_MAX;
        let mut before = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => before.push(line),
                Err(error) => panic!("no line with `{part}` ({error}) after these:\n{}", before.join("\n")),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `up` and plays both lines; how long it took until they were printed.
#[track_caller]
fn up_and_paste(data: &Path, said_before: usize) -> Duration {
    let [listen, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
    let (clients, operators) = (address(&listen), address(&admin));
    drop((listen, admin));
    let start = Instant::now();
    let up = Running::start(
        Command::new(env!("CARGO_BIN_EXE_haggle-xtask"))
            .args(["up", "--", "--listen", &clients, "--admin", &operators, "--data"])
            .arg(data),
    );
    let listens = up.line_with(" connect --follow ");
    let writes = up.line_with("curl ");
    let took = start.elapsed();
    let bob = Running::paste(&listens);
    let conversation = writes.split('/').nth(5).expect("the URL names the conversation").to_owned();
    bob.line_with(&format!(r#""id":"{conversation}""#));
    let sent = Running::paste(&writes).line_with("hello bob");
    let heard = bob.line_with("hello bob");
    let (sent, heard) = (json(&sent), json(&heard));
    assert_eq!(sent["content"], "hello bob");
    assert_eq!(heard["t"], "ev");
    assert_eq!(heard["c"], conversation.as_str());
    assert_eq!(heard["d"]["id"], sent["_id"], "the message that was written is the one that is heard");
    assert_eq!(sent["senderId"], "ann");
    let page = Running::start(
        Command::new("curl")
            .args(["-sS", "-H", writes.split('\'').nth(1).expect("the token's header")])
            .arg(format!("http://{clients}/api/conversations/{conversation}/messages")),
    );
    let page = json(&page.line_with("messages"));
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(said_before + 1));
    took
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn the_printed_lines_work_when_pasted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let first = up_and_paste(&data, 0);
    let second = up_and_paste(&data, 1);
    println!("lines to paste after {first:?}, at the second start after {second:?}");
    assert!(second < SECOND_MAX, "the second start took {second:?}");
}
