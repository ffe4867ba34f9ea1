//! The allocator of plugins. A call consists of short texts that live as long as the call does: blocks of a few sizes wait in lists
//! for the next one, and the first of a list costs a few instructions. What is longer is the standard library's allocator's to give.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::UnsafeCell,
    ptr::null_mut,
};

/// Sizes of blocks are multiples of this, which is their alignment, too.
const STEP_BYTES: usize = 16;
/// Longer ones have no list.
const BLOCK_BYTES_MAX: usize = 512;
const LISTS: usize = BLOCK_BYTES_MAX / STEP_BYTES;
/// An empty list is filled with so much.
const REFILL_BYTES: usize = 2048;

/// Lists of free blocks, one for each size. A block that was freed stays in its list: it serves no other size any more.
pub(crate) struct Lists(UnsafeCell<[*mut Free; LISTS]>);

/// What stands in a free block: where the next one is.
struct Free(*mut Free);

// SAFETY: a component has one thread. Natively every test has lists of its own and stays on its thread.
unsafe impl Sync for Lists {}

impl Lists {
    /// Empty ones.
    pub(crate) const fn new() -> Lists {
        Lists(UnsafeCell::new([null_mut(); LISTS]))
    }

    /// The list of blocks for such a value. Nothing keeps the reference longer than a few lines, so it is the only one.
    #[inline]
    #[allow(
        clippy::mut_from_ref,
        reason = "one thread, and none of the callers calls another while it holds the list"
    )]
    fn list(&self, layout: Layout) -> Option<&mut *mut Free> {
        let is_short = layout.size() <= BLOCK_BYTES_MAX && layout.align() <= STEP_BYTES;
        // SAFETY: see above. Callers of an allocator never ask for size 0, so the index is below LISTS.
        is_short.then(|| unsafe { &mut (*self.0.get())[(layout.size() - 1) / STEP_BYTES] })
    }
}

/// The bytes of a block for such a value.
fn block_bytes(layout: Layout) -> usize {
    layout.size().next_multiple_of(STEP_BYTES)
}

/// Puts new blocks into an empty list and gives one more; null where there is no memory.
#[cold]
#[inline(never)]
fn refill(list: &mut *mut Free, bytes: usize) -> *mut u8 {
    let count = REFILL_BYTES / bytes;
    let Ok(layout) = Layout::from_size_align(count * bytes, STEP_BYTES) else {
        return null_mut();
    };
    // SAFETY: at least four blocks of 16 bytes or more, so the size is not 0.
    let first = unsafe { System.alloc(layout) };
    if first.is_null() {
        return first;
    }
    for number in (1..count).rev() {
        // SAFETY: within what was just allocated, aligned to 16, and nobody's yet.
        unsafe {
            let block = first.add(number * bytes).cast::<Free>();
            block.write(Free(*list));
            *list = block;
        }
    }
    first
}

// SAFETY: a block is in its list or with its owner, never both; it is as long as its list says and aligned to 16. Other values are
// System's from their first moment to their last, since a layout alone says which they are.
unsafe impl GlobalAlloc for Lists {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(list) = self.list(layout) else {
            // SAFETY: as our caller promises.
            return unsafe { System.alloc(layout) };
        };
        let block = *list;
        if block.is_null() {
            return refill(list, block_bytes(layout));
        }
        // SAFETY: blocks in a list begin with a `Free`.
        *list = unsafe { (*block).0 };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, value: *mut u8, layout: Layout) {
        match self.list(layout) {
            Some(list) => {
                let block = value.cast::<Free>();
                // SAFETY: it is a block of this list, which its owner gives back.
                unsafe { block.write(Free(*list)) };
                *list = block;
            }
            // SAFETY: as our caller promises.
            None => unsafe { System.dealloc(value, layout) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, value: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: our caller promises that the size fits this alignment.
        let to = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (self.list(layout).is_some(), self.list(to).is_some()) {
            // SAFETY: as our caller promises.
            (false, false) => unsafe { System.realloc(value, layout, size) },
            (true, true) if block_bytes(layout) == block_bytes(to) => value,
            // SAFETY: both are as long as the shorter of them; the old one is given back once.
            _ => unsafe {
                let moved = self.alloc(to);
                if !moved.is_null() {
                    value.copy_to_nonoverlapping(moved, layout.size().min(size));
                    self.dealloc(value, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that knows what is in it.
    struct Value {
        at: *mut u8,
        layout: Layout,
        filled_with: u8,
    }

    impl Value {
        fn new(lists: &Lists, size: usize, align: usize, filled_with: u8) -> Value {
            let layout = Layout::from_size_align(size, align).unwrap();
            let at = unsafe { lists.alloc(layout) };
            assert!(!at.is_null() && at.addr().is_multiple_of(align));
            let value = Value { at, layout, filled_with };
            value.fill();
            value
        }

        fn fill(&self) {
            unsafe { self.at.write_bytes(self.filled_with, self.layout.size()) }
        }

        fn check(&self, size: usize) {
            let bytes = unsafe { std::slice::from_raw_parts(self.at, size) };
            assert!(bytes.iter().all(|byte| *byte == self.filled_with));
        }

        fn resize(&mut self, lists: &Lists, size: usize) {
            let kept = size.min(self.layout.size());
            self.at = unsafe { lists.realloc(self.at, self.layout, size) };
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self.check(kept);
            self.fill();
        }

        fn free(self, lists: &Lists) {
            self.check(self.layout.size());
            unsafe { lists.dealloc(self.at, self.layout) }
        }
    }

    #[test]
    fn values_of_all_sizes_keep_what_is_in_them() {
        let lists = Lists::new();
        let mut values = Vec::new();
        let mut random = 1_u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for step in 0..20_000_u32 {
            let (size, align) = (1 + next(700) as usize, 1 << next(6));
            match (next(3), values.len()) {
                (0, _) | (_, 0) => values.push(Value::new(&lists, size, align, step as u8)),
                (1, some) => values[next(some as u32) as usize].resize(&lists, size),
                (_, some) => {
                    let value: Value = values.swap_remove(next(some as u32) as usize);
                    value.free(&lists);
                }
            }
        }
        values.into_iter().for_each(|value| value.free(&lists));
    }

    #[test]
    fn what_was_freed_last_is_given_first() {
        let lists = Lists::new();
        let (short, same) = (Value::new(&lists, 20, 1, 1), Value::new(&lists, 32, 8, 2));
        let (first, second) = (short.at, same.at);
        short.free(&lists);
        same.free(&lists);
        assert_eq!((Value::new(&lists, 17, 1, 3).at, Value::new(&lists, 30, 16, 4).at), (second, first));
    }

    #[test]
    fn a_value_that_still_fits_stays_where_it_is() {
        let lists = Lists::new();
        let mut value = Value::new(&lists, 33, 1, 5);
        let at = value.at;
        value.resize(&lists, 48);
        assert_eq!(value.at, at);
        value.resize(&lists, 49);
        assert_ne!(value.at, at);
    }
}
