//! Unread arithmetic.

/// A participant's marks as far as counting needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Countable messages up to the read mark.
    pub read_n: u32,
    /// The user's own countable messages above the mark.
    pub own: u32,
    /// Deleted countable messages of others above the mark.
    pub deleted: u32,
}

/// What is unread: `head_n - read_n - own - deleted`, never below 0.
pub fn unread(marks: Marks, head_n: u32) -> u32 {
    head_n
        .saturating_sub(marks.read_n)
        .saturating_sub(marks.own)
        .saturating_sub(marks.deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(read_n: u32, own: u32, deleted: u32, head_n: u32, expect: u32) {
        assert_eq!(unread(Marks { read_n, own, deleted }, head_n), expect);
    }

    #[test]
    fn nothing_read() {
        check(0, 0, 0, 3, 3);
    }

    #[test]
    fn own_and_deleted_messages_do_not_count() {
        check(1, 1, 1, 5, 2);
    }

    #[test]
    fn all_read() {
        check(5, 0, 0, 5, 0);
    }
}
