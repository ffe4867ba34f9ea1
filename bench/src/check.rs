//! The checker: what was sent, acknowledged, seen and stored must agree. A run that fails it has no numbers.
//!
//! Per receiver: every seq of its conversation once, in order; of each sender, messages in the order in which they were sent.
//! Per sender: every message acknowledged or refused. Over all: a message has one seq, the same in its ack, in every event and
//! in the history.

use std::collections::{BTreeMap, HashMap};

use crate::dialect::Stamp;

/// Not acknowledged, or not seen.
const NONE: u32 = 0;
/// In place of a seq: refused.
const REFUSED: u32 = u32::MAX;

/// What a run must not show. All zero, and `acked = sent - refused`, or the run is void.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Messages handed to the socket.
    pub sent: u64,
    /// Of these, answered that they are stored.
    pub acked: u64,
    /// Of these, answered that they are not.
    pub refused: u64,
    /// Deliveries to members that are not the sender.
    pub seen: u64,
    /// Deliveries that should have been.
    pub seen_expected: u64,
    /// Seqs that a receiver never saw.
    pub gaps: u64,
    /// Events that a receiver saw again.
    pub dups: u64,
    /// Messages of one sender seen out of order.
    pub reordered: u64,
    /// Seqs that differ between ack, events and history.
    pub contradictions: u64,
    /// Acknowledged and not in the history.
    pub lost: u64,
}

impl Verdict {
    /// What is wrong, in words; empty when nothing is.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |wrong: bool, text: String| {
            if wrong {
                faults.push(text);
            }
        };
        let answered = self.acked + self.refused;
        check(
            answered != self.sent,
            format!("{} sent, {} acked and {} refused", self.sent, self.acked, self.refused),
        );
        check(
            self.seen != self.seen_expected,
            format!("{} deliveries, {} expected", self.seen, self.seen_expected),
        );
        for (count, what) in [
            (self.gaps, "gaps"),
            (self.dups, "doubled events"),
            (self.reordered, "messages out of their sender's order"),
            (self.contradictions, "messages with two seqs"),
            (self.lost, "acknowledged messages lost"),
        ] {
            check(count > 0, format!("{count} {what}"));
        }
        faults
    }
}

/// One receiver's view of its conversation.
struct Receiver {
    room: usize,
    next_seq: u32,
    /// By sender, the number after the last one seen.
    next_n: Vec<(u32, u32)>,
}

/// By one sender's numbers.
#[derive(Default)]
struct Sender {
    acked: Vec<u32>,
    /// The seq of the event, whoever saw it first.
    seen: Vec<u32>,
}

/// See the module.
pub struct Checker {
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    /// Members by conversation.
    rooms: Vec<Vec<usize>>,
    /// Seqs are dense for every receiver; false where senders do not see their own messages.
    dense: bool,
    /// Its `seen` and `seen_expected` are kept up to date.
    verdict: Verdict,
}

impl Checker {
    /// For conversations with these members; every member has seen its conversation up to `heads`.
    pub fn new(rooms: Vec<Vec<usize>>, heads: &[u32], dense: bool) -> Checker {
        let mut receivers: Vec<Receiver> = heads
            .iter()
            .map(|head| Receiver {
                room: 0,
                next_seq: head + 1,
                next_n: Vec::new(),
            })
            .collect();
        for (room, members) in rooms.iter().enumerate() {
            members.iter().for_each(|&member| receivers[member].room = room);
        }
        let senders = heads.iter().map(|_| Sender::default()).collect();
        Checker {
            senders,
            receivers,
            rooms,
            dense,
            verdict: Verdict::default(),
        }
    }

    /// A connection sends its next message; its number.
    pub fn send(&mut self, sender: usize) -> u32 {
        let Sender { acked, seen } = &mut self.senders[sender];
        acked.push(NONE);
        seen.push(NONE);
        self.verdict.sent += 1;
        acked.len() as u32 - 1
    }

    /// The server says that it is stored.
    pub fn acked(&mut self, sender: usize, n: u32, seq: u32) {
        if self.answer(sender, n, seq) {
            self.verdict.acked += 1;
            self.verdict.seen_expected += self.rooms[self.receivers[sender].room].len() as u64 - 1;
        }
    }

    /// The server says that it is not stored.
    pub fn refused(&mut self, sender: usize, n: u32) {
        if self.answer(sender, n, REFUSED) {
            self.verdict.refused += 1;
        }
    }

    fn answer(&mut self, sender: usize, n: u32, answer: u32) -> bool {
        let first = self.senders[sender].acked.get_mut(n as usize).filter(|known| **known == NONE);
        match first {
            Some(known) => *known = answer,
            None => self.verdict.contradictions += 1,
        }
        self.senders[sender].acked.get(n as usize) == Some(&answer)
    }

    /// A connection sees an event of its conversation. True: a new message of somebody else.
    pub fn seen(&mut self, receiver: usize, seq: u32, stamp: Option<Stamp>) -> bool {
        let state = &mut self.receivers[receiver];
        if seq < state.next_seq {
            self.verdict.dups += 1;
            return false;
        }
        if self.dense {
            self.verdict.gaps += u64::from(seq - state.next_seq);
        }
        state.next_seq = seq + 1;
        let Some(stamp) = stamp else { return false };
        let next = match state.next_n.iter_mut().find(|(sender, _)| *sender == stamp.sender) {
            Some((_, next)) => next,
            None => &mut state.next_n.push_mut((stamp.sender, 0)).1,
        };
        if stamp.n < *next {
            self.verdict.reordered += 1;
        }
        *next = stamp.n + 1;
        let from_other = stamp.sender as usize != receiver;
        self.verdict.seen += u64::from(from_other);
        self.verdict.contradictions += u64::from(!self.agree(stamp, seq));
        from_other
    }

    /// Notes the seq of a message; false when another one is known.
    fn agree(&mut self, stamp: Stamp, seq: u32) -> bool {
        let known = self
            .senders
            .get_mut(stamp.sender as usize)
            .and_then(|sender| sender.seen.get_mut(stamp.n as usize));
        match known {
            Some(known) if *known == NONE => {
                *known = seq;
                true
            }
            Some(known) => *known == seq,
            None => false,
        }
    }

    /// The server says that it will not send some of the events.
    pub fn gap(&mut self, receiver: usize, head: u32) {
        let state = &mut self.receivers[receiver];
        self.verdict.gaps += u64::from((head + 1).saturating_sub(state.next_seq));
        state.next_seq = state.next_seq.max(head + 1);
    }

    /// The newest seq that a connection has seen.
    pub fn cursor(&self, receiver: usize) -> u32 {
        self.receivers[receiver].next_seq - 1
    }

    /// Messages without an answer.
    pub fn unanswered(&self) -> u64 {
        self.verdict.sent - self.verdict.acked - self.verdict.refused
    }

    /// Messages sent.
    pub fn sent(&self) -> u64 {
        self.verdict.sent
    }

    /// Deliveries that are due for what is acknowledged so far.
    pub fn undelivered(&self) -> u64 {
        self.verdict.seen_expected.saturating_sub(self.verdict.seen)
    }

    /// Compares what was acknowledged with a conversation's history, in its order.
    pub fn audit(&mut self, room: usize, history: &[(u32, Option<Stamp>)]) {
        let mut stored: HashMap<(u32, u32), u32> = HashMap::new();
        let mut next_n: BTreeMap<u32, u32> = BTreeMap::new();
        for (at, &(seq, stamp)) in history.iter().enumerate() {
            match (at as u32 + 1).cmp(&seq) {
                std::cmp::Ordering::Less => self.verdict.gaps += 1,
                std::cmp::Ordering::Greater => self.verdict.dups += 1,
                std::cmp::Ordering::Equal => {}
            }
            let Some(Stamp { sender, n }) = stamp else { continue };
            self.verdict.dups += u64::from(stored.insert((sender, n), seq).is_some());
            let next = next_n.entry(sender).or_default();
            self.verdict.reordered += u64::from(n < *next);
            *next = n + 1;
        }
        for &sender in &self.rooms[room] {
            for (n, &answer) in self.senders[sender].acked.iter().enumerate() {
                match stored.get(&(sender as u32, n as u32)) {
                    None if answer != NONE && answer != REFUSED => self.verdict.lost += 1,
                    Some(&seq) if answer != NONE && answer != seq => self.verdict.contradictions += 1,
                    _ => {}
                }
            }
        }
    }

    /// What the run showed, when everybody has seen everything.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = self.verdict.clone();
        for sender in &self.senders {
            let pairs = sender.acked.iter().zip(&sender.seen);
            let differ = pairs.filter(|(acked, seen)| **acked != NONE && **seen != NONE && acked != seen);
            verdict.contradictions += differ.count() as u64;
        }
        verdict
    }

    /// The same when the server was killed in between: what was in flight has no answer, and not all was delivered.
    pub fn verdict_after_kill(&self) -> Verdict {
        let verdict = self.verdict();
        Verdict {
            sent: verdict.acked + verdict.refused,
            seen_expected: verdict.seen,
            ..verdict
        }
    }
}

#[cfg(test)]
mod tests;
