//! Builds the first-party plugins into `target/plugins/<id>/`, the folder that a server loads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    steps::{root, run, step, target_dir},
    wasm::{self, TARGET},
};

/// A plugin crate of this repository.
struct Source {
    /// The crate's folder.
    dir: PathBuf,
    /// The crate's name.
    package: String,
    /// The plugin's id.
    id: String,
    /// What the manifest calls the code.
    wasm: String,
}

/// Builds the first-party ones and returns the folder that holds them.
pub fn build() -> Result<PathBuf> {
    build_into(&sources("plugins")?, target_dir().join("plugins"))
}

/// Builds the plugins among the examples, which play with nobody else's.
pub fn build_examples() -> Result<PathBuf> {
    build_into(&sources("examples")?, target_dir().join("example-plugins"))
}

/// Builds plugins that live elsewhere in the repository (the load generator's hook) into `target/bench-plugins`, apart from those
/// that a server is meant to load; one that lives outside of it into its own folder `out`.
pub fn build_others(dirs: &[String]) -> Result<()> {
    let dirs = dirs.iter().map(|dir| dir_of(dir)).collect::<Result<Vec<_>>>()?;
    let (ours, outside): (Vec<_>, Vec<_>) = dirs.iter().partition(|dir| dir.starts_with(root()));
    if !ours.is_empty() {
        let sources = ours.into_iter().map(|dir| source(dir)).collect::<Result<Vec<_>>>()?;
        build_into(&sources, target_dir().join("bench-plugins"))?;
    }
    outside.into_iter().try_for_each(|dir| build_outside(dir))
}

/// The folder as the user names it: from where the command was given, or from the repository's root.
fn dir_of(dir: &str) -> Result<PathBuf> {
    let found = fs::canonicalize(dir).or_else(|_| fs::canonicalize(root().join(dir)));
    found.with_context(|| format!("there is no folder {dir}"))
}

fn build_outside(dir: &Path) -> Result<()> {
    let source = source(dir)?;
    let toolchain = wasm::find()?;
    step(&format!("building the plugin {}", source.id), || {
        run(toolchain.build().arg("--manifest-path").arg(dir.join("Cargo.toml")))
    })?;
    let out = dir.join("out");
    install(&source, &out)?;
    println!("{} is what `haggle plugin check` and `haggle plugin install` take", out.display());
    Ok(())
}

fn build_into(sources: &[Source], plugins: PathBuf) -> Result<PathBuf> {
    let toolchain = wasm::find()?;
    step(&format!("building {} plugins", sources.len()), || {
        let mut command = toolchain.build();
        command.arg("--locked");
        for source in sources {
            command.args(["-p", &source.package]);
        }
        run(&mut command)
    })?;
    for source in sources {
        install(source, &plugins.join(&source.id)).with_context(|| format!("plugin {}", source.id))?;
    }
    Ok(plugins)
}

fn sources(folder: &str) -> Result<Vec<Source>> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(root().join(folder))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    dirs.retain(|dir| dir.join("plugin.toml").is_file());
    dirs.sort();
    dirs.into_iter().map(|dir| source(&dir)).collect()
}

fn source(dir: &Path) -> Result<Source> {
    let manifest = table(&dir.join("plugin.toml"))?;
    let id = text(&manifest, "id").with_context(|| format!("{}/plugin.toml has no id", dir.display()))?;
    let cargo = table(&dir.join("Cargo.toml"))?;
    let package = cargo
        .get("package")
        .and_then(toml::Value::as_table)
        .and_then(|package| text(package, "name"));
    Ok(Source {
        package: package.with_context(|| format!("{}/Cargo.toml names no package", dir.display()))?,
        wasm: text(&manifest, "wasm").unwrap_or_else(|| format!("{id}.wasm")),
        id,
        dir: dir.to_path_buf(),
    })
}

fn table(path: &Path) -> Result<toml::Table> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is no valid TOML", path.display()))
}

fn text(table: &toml::Table, key: &str) -> Option<String> {
    table.get(key).and_then(toml::Value::as_str).map(str::to_owned)
}

fn install(source: &Source, into: &Path) -> Result<()> {
    let built = target_dir()
        .join("wasm")
        .join(TARGET)
        .join("release")
        .join(format!("{}.wasm", source.package.replace('-', "_")));
    fs::create_dir_all(into)?;
    // The code first: a server that watches the folder loads when the manifest fits it.
    put(
        &fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?,
        &into.join(&source.wasm),
    )?;
    put(&fs::read(source.dir.join("plugin.toml"))?, &into.join("plugin.toml"))
}

/// Replaces a file whole, and only if it changes: a server may be watching.
fn put(bytes: &[u8], path: &Path) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let beside = path.with_extension("new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)?;
    Ok(())
}
