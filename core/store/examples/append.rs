//! How fast the embedded store appends, with its views following.
//!
//! `cargo run -p haggle-store --example append [rows] [group]`: one writer appends groups of messages spread over 10,000
//! conversations into a temporary directory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use haggle_model::{CommandId, Content, ConversationId, Effects, Entry, Event, MarkChange, Shard, UserId};
use haggle_store::{EmbeddedStore, Log, Tail, Views};

const CONVERSATIONS: u64 = 10_000;
const TEXT: &str = "Hello, is the green bicycle still there? I could come by on Saturday morning and take it with me. \
    Would you accept 120 for it, together with the lock and the basket? Greetings from the other side of the town, see you soon.";

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let rows: u64 = arguments.next().unwrap_or(300_000);
    let groups = arguments.next().map_or(vec![1, 64, 1024], |group| vec![group]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for group in groups {
        let rows = rows.min(group * 30_000);
        runtime.block_on(measure(rows, group));
    }
}

async fn measure(rows: u64, group: u64) {
    let store = EmbeddedStore::open_temporary().expect("a store");
    let mut seqs = vec![0u32; CONVERSATIONS as usize];
    let mut batches = Vec::new();
    for first in (1..=rows).step_by(group as usize) {
        let batch: Vec<_> = (first..(first + group).min(rows + 1))
            .map(|ts| Arc::new(message(ts, &mut seqs)))
            .collect();
        batches.push(batch);
    }
    let mut commits = Vec::with_capacity(batches.len());
    let mut tail = Tail::default();
    let (cpu, start) = (cpu_time(), Instant::now());
    for batch in batches {
        let begin = Instant::now();
        tail = store.append(Shard(0), tail, batch).await.expect("appended");
        commits.push(begin.elapsed());
    }
    let took = start.elapsed();
    store.head(ConversationId(0)).await.expect("a read"); // waits for the views
    let (all, cpu) = (start.elapsed(), cpu_time() - cpu);
    commits.sort_unstable();
    let at = |part: f64| commits[((commits.len() - 1) as f64 * part) as usize];
    println!(
        "group {group:>5}: {:>7.0} rows/s appended, {:>7.0} rows/s with their views, {:.2} us CPU per row (views included), commit p50 {:?} p99 {:?} p99.9 {:?} max {:?}",
        rows as f64 / took.as_secs_f64(),
        rows as f64 / all.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / rows as f64,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
}

fn message(ts: u64, seqs: &mut [u32]) -> Entry {
    // A few conversations have most of the messages.
    let spread = ts.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let number = (spread % CONVERSATIONS) * (spread % 97) / 97;
    let seq = &mut seqs[number as usize];
    *seq += 1;
    let content = Content {
        kind: "text".to_string(),
        text: TEXT.to_string(),
        countable: true,
        client_id: Some("0123456789".to_string()),
        ..Content::default()
    };
    let mark = MarkChange {
        delivered_seq: *seq,
        read_seq: *seq,
        read_n: *seq,
        own: 0,
    };
    Entry {
        ts,
        at: 1_750_000_000_000 + ts as i64,
        conversation: ConversationId((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        seq: *seq,
        n: *seq,
        actor: Some(UserId::from("0123456789abcdef01234567")),
        command: Some(CommandId::hash(&[&ts.to_be_bytes()])),
        digest: ts,
        origin: Vec::new(),
        event: Event::MessageCreated(content),
        effects: Effects {
            mark: Some(mark),
            ..Effects::default()
        },
        redacted: false,
    }
}

/// What this process has used of its processors, user and system.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10) // a tick is 10 ms on every Linux that we know
}
