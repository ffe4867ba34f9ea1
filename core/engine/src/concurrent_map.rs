//! A map that many threads read at once.

use std::{hash::Hash, ops::Deref};

use foldhash::fast::RandomState;
use papaya::{HashMap, ResizeMode};

/// A map without locks for its readers.
///
/// It grows in one step. One that grows bit by bit, whenever somebody writes, leaves its readers to look into several tables for
/// as long as nobody does: 180 ns a lookup among a thousand keys instead of 8, and 1 us among a hundred thousand.
pub(crate) struct ConcurrentMap<K, V>(HashMap<K, V, RandomState>);

impl<K: Hash + Eq, V> Default for ConcurrentMap<K, V> {
    fn default() -> ConcurrentMap<K, V> {
        let map = HashMap::builder().hasher(RandomState::default()).resize_mode(ResizeMode::Blocking);
        ConcurrentMap(map.build())
    }
}

impl<K, V> Deref for ConcurrentMap<K, V> {
    type Target = HashMap<K, V, RandomState>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
