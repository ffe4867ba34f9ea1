//! Which commands a conversation has answered, so that a retry costs no read and an ordinary command none either.

use std::{collections::VecDeque, sync::LazyLock};

use haggle_model::{CommandId, Millis};
use haggle_store::CommandRow;
use hashbrown::HashTable;

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
///
/// A busy conversation remembers thousands, and every message of it looks here: the rows lie in the order of their answers,
/// and the index holds only their numbers, so that it stays small and growing moves little.
#[derive(Debug, Default)]
pub(crate) struct CommandsSeen {
    rows: VecDeque<CommandRow>,
    /// Number of the first row; the next one has the next number.
    first: u32,
    /// Numbers of rows, by the hash of their ids.
    index: HashTable<u32>,
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
        let number = self.first.wrapping_add(self.rows.len() as u32);
        self.rows.push_back(row);
        let (rows, first) = (&self.rows, self.first);
        let of = |number: u32| &rows[number.wrapping_sub(first) as usize].id;
        let id = *of(number);
        self.index.insert_unique(hash(&id), number, |number| hash(of(*number)));
        while let Some(oldest) = self.rows.front() {
            let expired = oldest.at < forget_before;
            if !expired && self.rows.len() <= exact_max {
                break;
            }
            self.forget_oldest(expired);
        }
    }

    fn forget_oldest(&mut self, expired: bool) {
        let Some(row) = self.rows.pop_front() else { return };
        let number = self.first;
        self.first = number.wrapping_add(1);
        if let Ok(entry) = self.index.find_entry(hash(&row.id), |other| *other == number) {
            entry.remove();
        }
        if !expired {
            self.remember_roughly(row.id);
        }
    }

    /// What is known of `id`.
    pub fn get(&self, id: CommandId) -> Seen {
        let row = |number: u32| &self.rows[number.wrapping_sub(self.first) as usize];
        if let Some(number) = self.index.find(hash(&id), |number| row(*number).id == id) {
            Seen::Yes(row(*number).clone())
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

/// The id is a hash already, but of what a client has chosen: with a secret of this process nobody can make many that collide.
fn hash(id: &CommandId) -> u64 {
    static SECRET: LazyLock<[u64; 2]> = LazyLock::new(|| {
        use std::hash::{BuildHasher, RandomState};
        [0_u8, 1].map(|n| RandomState::new().hash_one(n))
    });
    let [a, b] = halves(id);
    let product = u128::from(a ^ SECRET[0]) * u128::from(b ^ SECRET[1]);
    (product >> 64) as u64 ^ product as u64
}

fn halves(id: &CommandId) -> [u64; 2] {
    let half = |range: std::ops::Range<usize>| u64::from_le_bytes(id.0[range].try_into().expect("8 bytes"));
    [half(0..8), half(8..16)]
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
        let [a, b] = halves(&id);
        let b = b | 1;
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
