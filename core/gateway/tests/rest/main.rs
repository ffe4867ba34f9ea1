//! REST through its real routes, over an engine in memory.

mod authorization;
mod broadcasts;
mod edge;
mod listener;
mod plugins;
mod story;
mod support;
mod validation;
