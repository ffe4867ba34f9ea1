//! What a file of code is, before anything is compiled: its format, its imports and exports, its contract version.

use std::collections::BTreeSet;

use haggle_engine::ports::Hook;
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;
use wit_component::ComponentEncoder;

use crate::{grants::Capability, manifest::API_VERSIONS};

const PACKAGE: &str = "haggle:plugin/";
/// Interface that only holds types: importing it asks for nothing.
const TYPES: &str = "types";
const WASI_HINT: &str = "plugins run without WASI: build Rust for wasm32-unknown-unknown; for JavaScript disable random, stdio, clocks, http and fetch-event; for Python stub WASI";

/// The code as a component, and what its border says.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) component: Vec<u8>,
    /// It came as a core module and was wrapped here.
    pub(crate) was_module: bool,
    /// Contract version of its interfaces, as far as it names one.
    pub(crate) api: Option<String>,
    pub(crate) imports: BTreeSet<Capability>,
    pub(crate) exports: Vec<Hook>,
    /// Why it cannot be loaded, as sentences for people.
    pub(crate) problems: Vec<String>,
}

/// Looks at the bytes. An error is a file that is no plugin at all.
pub(crate) fn inspect(code: Vec<u8>) -> Result<Inspected, String> {
    if Engine::detect_precompiled(&code).is_some() {
        return Err("this is compiled machine code (.cwasm); only WebAssembly is accepted".into());
    }
    let was_module = match encoding(&code)? {
        Encoding::Component => false,
        Encoding::Module => true,
    };
    let component = if was_module { encode(&code)? } else { code };
    let names = Names::of(&component)?;
    Ok(judge(component, was_module, &names))
}

fn encoding(code: &[u8]) -> Result<Encoding, String> {
    match Parser::new(0).parse_all(code).next() {
        Some(Ok(Payload::Version { encoding, .. })) => Ok(encoding),
        _ => Err("this is not WebAssembly".into()),
    }
}

/// A core module carries its world in a custom section, left there by the SDK; wrapping it makes it a component.
fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    if let Some(wasi) = module_imports(module)?.into_iter().find(|name| name.starts_with("wasi")) {
        return Err(format!("imports {wasi}; {WASI_HINT}"));
    }
    let encoded = ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode());
    encoded.map_err(|error| format!("this core module is no plugin (was it built with the SDK?): {error:#}"))
}

fn module_imports(module: &[u8]) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload.map_err(|error| error.to_string())? {
            for import in section.into_imports() {
                names.insert(import.map_err(|error| error.to_string())?.module.to_owned());
            }
        }
    }
    Ok(names)
}

/// Imports and exports of the outermost component.
struct Names {
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Names {
    fn of(component: &[u8]) -> Result<Names, String> {
        let mut names = Names {
            imports: Vec::new(),
            exports: Vec::new(),
        };
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(component) {
            match payload.map_err(|error| error.to_string())? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        names.imports.push(import.map_err(|error| error.to_string())?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        names.exports.push(export.map_err(|error| error.to_string())?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(names)
    }
}

fn judge(component: Vec<u8>, was_module: bool, names: &Names) -> Inspected {
    let mut found = Inspected {
        component,
        was_module,
        api: None,
        imports: BTreeSet::new(),
        exports: Vec::new(),
        problems: Vec::new(),
    };
    for name in &names.imports {
        match split(name) {
            Some((interface, version)) => {
                found.note_version(version);
                match interface.parse() {
                    Ok(capability) => _ = found.imports.insert(capability),
                    Err(_) if interface == TYPES => {}
                    Err(text) => found.problems.push(format!("imports {name}: {text}")),
                }
            }
            None if name.starts_with("wasi:") => found.problems.push(format!("imports {name}; {WASI_HINT}")),
            None => found.problems.push(format!("imports {name}, which this host does not have")),
        }
    }
    for name in &names.exports {
        let Some((interface, version)) = split(name) else { continue };
        found.note_version(version);
        match Hook::ALL.into_iter().find(|hook| hook.as_str() == interface) {
            Some(hook) => found.exports.push(hook),
            None if interface == TYPES => {}
            None => found.problems.push(format!("exports {name}, a hook that this host does not have")),
        }
    }
    found.judge_version();
    if found.exports.is_empty() && found.problems.is_empty() {
        found
            .problems
            .push("exports no hook of haggle:plugin, so it would never be called".into());
    }
    found
}

impl Inspected {
    fn note_version(&mut self, version: &str) {
        let line = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        let is_known = |line: &str| API_VERSIONS.contains(&line);
        if self.api.as_deref().is_none_or(is_known) {
            self.api = Some(line); // one unknown version is enough to name
        }
    }

    fn judge_version(&mut self) {
        if let Some(api) = self.api.as_deref().filter(|api| !API_VERSIONS.contains(api)) {
            self.problems
                .insert(0, format!("built for haggle:plugin {api}, this host speaks {}", API_VERSIONS.join(", ")));
        }
    }
}

/// Interface and version of a name of our package.
fn split(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(PACKAGE)?;
    Some(rest.split_once('@').unwrap_or((rest, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wat: &str, expect: &str) {
        let problem = match inspect(wat::parse_str(wat).unwrap()) {
            Err(problem) => problem,
            Ok(inspected) => inspected.problems.join("; "),
        };
        assert!(problem.contains(expect), "{problem} does not say {expect}");
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(inspect(b"hello".to_vec()).unwrap_err().contains("not WebAssembly"));
        check("(module)", "");
        check("(component)", "exports no hook");
        check("(module (import \"env\" \"f\" (func)))", "is no plugin");
    }

    #[test]
    fn wasi_is_refused_with_a_hint() {
        check(
            "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)))",
            "imports wasi_snapshot_preview1; plugins run without WASI",
        );
        check(
            "(component (import \"wasi:cli/environment@0.2.0\" (instance)))",
            "imports wasi:cli/environment@0.2.0; plugins run without WASI",
        );
    }

    #[test]
    fn unknown_imports_and_versions_are_named() {
        check(
            "(component (import \"other:thing/x@1.0.0\" (instance)))",
            "imports other:thing/x@1.0.0, which this host does not have",
        );
        check(
            "(component (import \"haggle:plugin/files@0.1.0\" (instance)))",
            "there is no capability `files`",
        );
        check(
            "(component (import \"haggle:plugin/kv@0.3.0\" (instance)))",
            "built for haggle:plugin 0.3, this host speaks 0.1",
        );
    }

    #[test]
    fn compiled_code_is_refused() {
        let engine = Engine::default();
        let compiled = engine.precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
        assert!(inspect(compiled).unwrap_err().contains(".cwasm"));
    }
}
