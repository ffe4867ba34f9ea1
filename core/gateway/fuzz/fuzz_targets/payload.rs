#![no_main]

#[path = "../exercise.rs"]
#[allow(dead_code, reason = "other targets use the rest")]
mod exercise;

libfuzzer_sys::fuzz_target!(|text: &str| exercise::payload(text));
