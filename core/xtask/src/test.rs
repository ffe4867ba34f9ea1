//! Every test of the repository, with what it needs.

use std::{fs, path::Path};

use anyhow::Result;

use crate::{
    plugins,
    steps::{cargo, root, run, step, target_dir},
};

/// Builds the plugins (tests of the host and the testkit run them as wasm), then all tests, then the examples.
pub fn run_all(args: &[String]) -> Result<()> {
    anyhow::ensure!(args.len() <= 1, "one filter at most: cargo xtask test [FILTER]");
    let plugins = plugins::build()?;
    // Built first, so that the time of building and the time of running are told apart.
    step("building the tests", || run(tests(args, &plugins).arg("--no-run")))?;
    if args.is_empty() {
        examples(&plugins)?;
    }
    step("running the tests", || run(&mut tests(args, &plugins)))
}

fn tests(args: &[String], plugins: &Path) -> std::process::Command {
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .args(args)
        .env("HAGGLE_PLUGINS", plugins);
    command
}

/// Each example is a program that plays its story against the real binary and fails when a step does.
fn examples(plugins: &Path) -> Result<()> {
    let mut dirs = fs::read_dir(root().join("examples"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    // A library among them has its own tests.
    dirs.retain(|dir| dir.join("Cargo.toml").is_file() && dir.join("src/main.rs").is_file());
    dirs.sort();
    if dirs.is_empty() {
        return Ok(());
    }
    step("building the server", || run(cargo().args(["build", "--locked", "-p", "haggle-server"])))?;
    for dir in dirs {
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        step(&format!("example {name}"), || {
            let mut example = cargo();
            example
                .args(["run", "--quiet", "--locked", "--manifest-path"])
                .arg(dir.join("Cargo.toml"));
            run(example
                .env("HAGGLE_BIN", target_dir().join("debug/haggle"))
                .env("HAGGLE_PLUGINS", plugins))
        })?;
    }
    Ok(())
}
