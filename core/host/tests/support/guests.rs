//! Guests written by hand, so that no wasm toolchain is needed.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::{fs, path::Path};

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Every guest has these: memory, an allocator that starts afresh with each call, and helpers.
///
/// Layout of the arguments of `before-message`, which is handed one pointer: first `call`, then `draft`. In the canonical ABI a
/// text or list is 8 bytes (pointer, length), an option of one 12 (a byte, then from offset 4 the value), an enum a byte, the ref two u64;
/// all but the byte stand at multiples of 4, a u64 at one of 8. So `call` is
///
/// | ref | actor | roles | session | transport | dialect | trace-id | now-ms | conversation-id | origin | end |
/// | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
/// | 0 | 16 | 24 | 36 | 48 | 52 | 64 | 80 | 88 | 100 | 112 |
///
/// and `draft`, which begins at 112,
///
/// | op | target | conversation-id | sender-id | kind | content | metadata | reply-to | forwarded-from | client-message-id | end |
/// | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
/// | 0 | 4 | 16 | 24 | 36 | 48 | 56 | 68 | 80 | 92 | 104 |
///
/// A decision is a byte (0 continue, 1 replace, 2 reject) and, from offset 4, the rewrite or the rejection. A rewrite is laid out as the
/// draft from `kind` to `forwarded-from`: 56 bytes, the content at 12.
const PRELUDE: &str = r#"
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 65536))
    (func $fresh (global.set $next (i32.const 65536)))
"#;

/// An allocator that only goes up, from the second page on.
const ALLOC: &str = r#"
    (local $at i32)
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (local.set $at (global.get $next))
    (global.set $next (i32.add (global.get $next) (local.get $size)))
    (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
    (local.get $at)
"#;

/// A guest with `before-message`, whose `$decide` is the given code: it gets `$args` and leaves a pointer to a decision.
pub fn decides(imports: &str, functions: &str, decide: &str) -> Vec<u8> {
    let body = format!(
        r#"{functions}
        (func (export "haggle:plugin/before-message@0.1.0#handle") (param $args i32) (result i32) {decide})
        (func (export "cabi_post_haggle:plugin/before-message@0.1.0#handle") (param i32) (call $fresh))"#
    );
    guest(imports, &["before-message"], &body)
}

/// A pointer to memory that is 0 from the start: `continue`.
pub const CONTINUE: &str = "(i32.const 512)";

/// A guest that lets everything through.
pub fn allows() -> Vec<u8> {
    decides("", "", CONTINUE)
}

/// A guest that says no with this code.
pub fn rejects(code: &str) -> Vec<u8> {
    let functions = format!("(data (i32.const 16) \"{code}\")");
    let len = code.len();
    let decide = format!(
        "(i32.store8 (i32.const 512) (i32.const 2))
         (i32.store (i32.const 516) (i32.const 16)) (i32.store (i32.const 520) (i32.const {len}))
         (i32.store (i32.const 524) (i32.const 16)) (i32.store (i32.const 528) (i32.const {len}))
         (i32.const 512)"
    );
    decides("", &functions, &decide)
}

/// A guest that replaces the text.
pub fn replaces(text: &str) -> Vec<u8> {
    decides("", &format!("(data (i32.const 16) \"{text}\")"), &replace(text.len()))
}

/// The rewrite that changes nothing, copied from the draft; then the text at 16 put into it.
pub fn replace(len: usize) -> String {
    replace_by("(i32.const 16)", &format!("(i32.const {len})"))
}

/// The same with a text at any place, of any length.
pub fn replace_by(at: &str, len: &str) -> String {
    format!(
        "(i32.store8 (i32.const 512) (i32.const 1))
         (memory.copy (i32.const 516) (i32.add (local.get $args) (i32.const 148)) (i32.const 56))
         (i32.store (i32.const 528) {at}) (i32.store (i32.const 532) {len})
         (i32.const 512)"
    )
}

/// A core module as the SDK leaves it: with its world in a custom section. `imports` are core imports; their interfaces and
/// the hooks make the world.
pub fn guest(imports: &str, hooks: &[&str], body: &str) -> Vec<u8> {
    guest_of(&contract(), "0.1.0", imports, hooks, body)
}

/// A guest that lets everything through and has this allocator (`$size` in, a pointer out).
pub fn allocates(imports: &str, alloc: &str) -> Vec<u8> {
    let body = format!(r#"(func (export "haggle:plugin/before-message@0.1.0#handle") (param $args i32) (result i32) {CONTINUE})"#);
    assemble(&contract(), "0.1.0", imports, &["before-message"], &body, alloc)
}

/// The same for another contract.
pub fn guest_of(contract: &str, version: &str, imports: &str, hooks: &[&str], body: &str) -> Vec<u8> {
    assemble(contract, version, imports, hooks, body, ALLOC)
}

fn assemble(contract: &str, version: &str, imports: &str, hooks: &[&str], body: &str, alloc: &str) -> Vec<u8> {
    let alloc =
        format!(r#"(func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32) {alloc})"#);
    let text = format!("(module {imports} {PRELUDE} {alloc} {body})");
    let mut wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    resolve.push_source("haggle.wit", contract).unwrap();
    let interfaces: std::collections::BTreeSet<_> = imports.split('"').filter(|part| part.starts_with("haggle:plugin/")).collect();
    let mut world = String::from("package test:guest;\nworld guest {\n");
    interfaces.iter().for_each(|interface| world.push_str(&format!("import {interface};\n")));
    hooks
        .iter()
        .for_each(|hook| world.push_str(&format!("export haggle:plugin/{hook}@{version};\n")));
    world.push('}');
    let package = resolve.push_source("guest.wit", &world).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8, false).unwrap();
    wasm
}

pub fn contract() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/wit/haggle.wit")).unwrap()
}

pub const KV_GET: &str = r#"(import "haggle:plugin/kv@0.1.0" "get" (func $kv_get (param i32 i32 i32)))"#;
pub const KV_SET: &str = r#"(import "haggle:plugin/kv@0.1.0" "set" (func $kv_set (param i32 i32 i32 i32 i32 i32 i32)))"#;
pub const LOG: &str = r#"(import "haggle:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;
pub const COUNT: &str = r#"(import "haggle:plugin/metrics@0.1.0" "count" (func $count (param i32 i32 i64)))"#;
