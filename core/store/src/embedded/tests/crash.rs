//! A process that is killed loses nothing that it said was appended.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::*;
use crate::suite::Random;

const DIRECTORY: &str = "HAGGLE_STORE_TEST_DIRECTORY";

/// What the child processes of this module run; nothing by itself.
#[test]
fn appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    run(async {
        let store = open(Path::new(&dir)).unwrap();
        let mut tail = store.tail(Shard(0)).await.unwrap();
        let mut random = Random(tail.ts);
        let mut acks = std::io::stdout();
        loop {
            let group = 1 + random.below(40) as u64;
            let batch = (tail.ts + 1..=tail.ts + group).map(said).collect();
            tail = store.append(Shard(0), tail, batch).await.unwrap();
            let _ = writeln!(acks, "acked {}", tail.ts).and_then(|()| acks.flush());
            if random.one_in(10) {
                store.head(ID).await.unwrap(); // so that the views are at work too
            }
        }
    });
}

fn child(dir: &Path) -> Child {
    let name = concat!(module_path!(), "::appends_until_it_is_killed").split_once("::").unwrap().1;
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The last ack in what the child wrote.
fn last_ack(child: &mut Child) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acks = lines.filter_map(|line| line.rsplit_once("acked ")?.1.parse().ok());
    acks.last().unwrap_or_default()
}

#[test]
fn what_was_acked_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    let mut stored = 0;
    for round in 0..6 {
        let mut child = child(dir.path());
        std::thread::sleep(Duration::from_millis(60 + random.below(200) as u64));
        child.kill().unwrap();
        let acked = last_ack(&mut child).max(stored);
        child.wait().unwrap();
        let store = open(dir.path()).unwrap();
        stored = run(store.tail(Shard(0))).unwrap().ts;
        assert!(stored >= acked, "round {round}: {acked} were acked, {stored} are there");
        run(check_messages(&store, stored));
    }
    assert!(stored > 100, "the children wrote too little to say anything: {stored}");
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child(dir.path());
    let mut acks = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(acks.any(|line| line.contains("acked")), "the child has opened the store");
    let refused = open(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let Err(StoreError::InUse(by)) = refused else { panic!("opened twice") };
    assert_eq!(by, dir.path().to_string_lossy());
    open(dir.path()).unwrap();
}
