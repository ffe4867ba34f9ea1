//! One line on stderr that shows that something happens.

use std::{
    cell::{Cell, RefCell},
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

const EVERY: Duration = Duration::from_millis(500);

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    static WHAT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Says what runs now; stands before every line.
pub fn what(text: &str) {
    WHAT.with_borrow_mut(|what| text.clone_into(what));
    LAST.set(None);
    if !std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// Shows a line now and then. On no terminal only [`what`] is shown.
pub fn line(text: impl FnOnce() -> String) {
    let now = Instant::now();
    if LAST.get().is_some_and(|last| now.duration_since(last) < EVERY) {
        return;
    }
    LAST.set(Some(now));
    if std::io::stderr().is_terminal() {
        let what = WHAT.with_borrow(Clone::clone);
        eprint!("\r\x1b[K{what}: {}", text());
        // Nothing is lost where the terminal is gone.
        let _ = std::io::stderr().flush();
    }
}

/// Takes the line away.
pub fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
