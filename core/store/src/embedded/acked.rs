//! A witness beside the log: up to which position appends were acknowledged.
//!
//! SQLite takes a damaged write-ahead log for one that ends there, so a flipped byte could make acknowledged entries vanish
//! in silence. This file tells. It is written after every commit and never synced: after a power cut it may be older than the
//! log, never newer, so it cannot accuse a log wrongly.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use haggle_model::Pos;

pub(super) const ACKED_FILE: &str = "acked";

pub(super) struct Acked {
    file: File,
}

impl Acked {
    /// Opens the file of `dir`, or makes one, and says what it holds. A damaged one holds nothing: it is only a witness.
    pub(super) fn open(dir: &Path) -> io::Result<(Acked, Pos)> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(ACKED_FILE))?;
        let mut bytes = [0; 16];
        let read = file.read(&mut bytes)?;
        let pos = if read == bytes.len() { parse(bytes) } else { None };
        if pos.is_none() && read > 0 {
            tracing::warn!(file = ACKED_FILE, "damaged; what was acknowledged cannot be compared with the log");
        }
        Ok((Acked { file }, pos.unwrap_or_default()))
    }

    /// Notes that everything up to `pos` is durable.
    pub(super) fn set(&mut self, pos: Pos) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&pos.0.to_le_bytes());
        bytes[8..].copy_from_slice(&(!pos.0).to_le_bytes());
        let written = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&bytes));
        if let Err(error) = written {
            tracing::warn!(file = ACKED_FILE, %error, "not written"); // an older witness is weaker, not wrong
        }
    }
}

fn parse(bytes: [u8; 16]) -> Option<Pos> {
    let (pos, inverse) = bytes.split_at(8);
    let pos = u64::from_le_bytes(pos.try_into().ok()?);
    let inverse = u64::from_le_bytes(inverse.try_into().ok()?);
    (pos == !inverse).then_some(Pos(pos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_and_forgets_when_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let (mut acked, pos) = Acked::open(dir.path()).unwrap();
        assert_eq!(pos, Pos(0));
        acked.set(Pos(7));
        acked.set(Pos(1 << 40));
        assert_eq!(Acked::open(dir.path()).unwrap().1, Pos(1 << 40));
        let mut bytes = std::fs::read(dir.path().join(ACKED_FILE)).unwrap();
        bytes[3] ^= 1;
        std::fs::write(dir.path().join(ACKED_FILE), bytes).unwrap();
        assert_eq!(Acked::open(dir.path()).unwrap().1, Pos(0));
    }
}
