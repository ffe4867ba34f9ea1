//! Which commands a conversation has answered, so that a retry costs no read and an ordinary command none either.

use std::collections::{HashMap, VecDeque};

use haggle_model::{CommandId, Millis};
use haggle_store::CommandRow;

/// Ids in one [`Bloom`] before the next one is started.
const BLOOM_IDS: usize = 20_000;
/// Bits per id: about one false positive in 15,000 lookups.
const BLOOM_BITS_PER_ID: usize = 20;
const BLOOM_HASHES: usize = 10;

/// What is known of an id without a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Never answered within the window.
    No,
    /// Answered like this.
    Yes(CommandRow),
    /// Perhaps: ask the store.
    Maybe,
}

/// The ids of one conversation: exact up to a number, above it a Bloom filter of the older ones.
#[derive(Debug, Default)]
pub(crate) struct CommandsSeen {
    exact: HashMap<CommandId, CommandRow>,
    order: VecDeque<CommandId>,
    older: Vec<Bloom>,
    /// More ids were in the store than were loaded: every miss must ask.
    incomplete: bool,
}

impl CommandsSeen {
    /// From the store's rows, newest first; `incomplete` when there were more.
    pub fn load(rows: Vec<CommandRow>, exact_max: usize, incomplete: bool) -> CommandsSeen {
        let mut seen = CommandsSeen {
            incomplete,
            ..CommandsSeen::default()
        };
        for row in rows.into_iter().rev() {
            seen.insert(row, exact_max, Millis::MIN);
        }
        seen
    }

    /// Remembers an answer; ids answered before `forget_before` may go.
    pub fn insert(&mut self, row: CommandRow, exact_max: usize, forget_before: Millis) {
        self.order.push_back(row.id);
        self.exact.insert(row.id, row);
        while let Some(oldest) = self.order.front() {
            let expired = self.exact.get(oldest).is_none_or(|row| row.at < forget_before);
            if !expired && self.exact.len() <= exact_max {
                break;
            }
            let id = self.order.pop_front().expect("front was there");
            if let Some(row) = self.exact.remove(&id)
                && !expired
            {
                self.remember_roughly(row.id);
            }
        }
    }

    /// What is known of `id`.
    pub fn get(&self, id: CommandId) -> Seen {
        if let Some(row) = self.exact.get(&id) {
            Seen::Yes(row.clone())
        } else if self.incomplete || self.older.iter().any(|bloom| bloom.contains(id)) {
            Seen::Maybe
        } else {
            Seen::No
        }
    }

    fn remember_roughly(&mut self, id: CommandId) {
        if self.older.last().is_none_or(|bloom| bloom.ids >= BLOOM_IDS) {
            self.older.push(Bloom::new());
        }
        self.older.last_mut().expect("just pushed").insert(id);
    }
}

/// A set that may say yes too often, never no.
#[derive(Debug)]
struct Bloom {
    bits: Box<[u64]>,
    ids: usize,
}

impl Bloom {
    fn new() -> Bloom {
        Bloom {
            bits: vec![0; BLOOM_IDS * BLOOM_BITS_PER_ID / 64].into(),
            ids: 0,
        }
    }

    fn insert(&mut self, id: CommandId) {
        for bit in self.places(id) {
            self.bits[bit / 64] |= 1 << (bit % 64);
        }
        self.ids += 1;
    }

    fn contains(&self, id: CommandId) -> bool {
        self.places(id).all(|bit| self.bits[bit / 64] & (1 << (bit % 64)) != 0)
    }

    /// The id is a hash already: two halves give as many places as wanted (Kirsch and Mitzenmacher 2006).
    fn places(&self, id: CommandId) -> impl Iterator<Item = usize> + use<> {
        let half = |range: std::ops::Range<usize>| u64::from_le_bytes(id.0[range].try_into().expect("8 bytes"));
        let (a, b) = (half(0..8), half(8..16) | 1);
        let bits = self.bits.len() * 64;
        (0..BLOOM_HASHES as u64).map(move |i| (a.wrapping_add(i.wrapping_mul(b)) % bits as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u32) -> CommandRow {
        CommandRow {
            id: CommandId::hash(&[&n.to_be_bytes()]),
            digest: 1,
            seq: n,
            at: Millis::from(n),
            answer: None,
        }
    }

    #[test]
    fn newer_ids_are_exact_older_ones_are_maybe_unknown_ones_are_new() {
        let mut seen = CommandsSeen::default();
        for n in 0..30_000 {
            seen.insert(row(n), 1_000, 0);
        }
        assert_eq!(seen.get(row(29_999).id), Seen::Yes(row(29_999)));
        assert!(
            (0..29_000).all(|n| seen.get(row(n).id) == Seen::Maybe),
            "an answered id is never called new"
        );
        let wrong = (100_000..200_000).filter(|n| seen.get(row(*n).id) != Seen::No).count();
        assert!(wrong < 40, "{wrong} of 100,000 new ids would cost a read");
    }

    #[test]
    fn ids_older_than_the_window_are_forgotten() {
        let mut seen = CommandsSeen::default();
        seen.insert(row(1), 10, 0);
        seen.insert(row(100), 10, 50);
        assert_eq!(seen.get(row(1).id), Seen::No);
    }

    #[test]
    fn what_was_not_loaded_must_be_asked() {
        let seen = CommandsSeen::load(vec![row(2), row(1)], 10, true);
        assert_eq!(seen.get(row(1).id), Seen::Yes(row(1)));
        assert_eq!(seen.get(row(3).id), Seen::Maybe);
    }
}
