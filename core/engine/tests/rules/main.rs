//! What the engine promises, one module per promise.

#[path = "../support/mod.rs"]
mod support;

mod acting;
mod after_hooks;
mod broadcasts;
mod commits;
mod counters;
mod faults;
mod limits;
mod lists;
mod members;
mod offers;
mod order;
mod outgoing;
mod personal;
mod presence;
mod readers;
mod retries;
mod slots;
mod timers;
mod turns;
mod unread;
