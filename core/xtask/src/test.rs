//! Every test of the repository, with what it needs.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::{
    plugins,
    steps::{cargo, root, run, step, target_dir},
};

/// Builds the plugins (tests of the host and the testkit run them as wasm), then everything; plays the examples, runs the tests.
pub fn run_all(args: &[String]) -> Result<()> {
    anyhow::ensure!(args.len() <= 1, "one filter at most: cargo xtask test [FILTER]");
    let plugins = plugins::build()?;
    // Built first, so that the time of building and the time of running are told apart; benches are for `cargo bench`.
    step("building server and tests", || {
        run(cargo().args(["build", "--workspace", "--locked", "--lib", "--bins", "--tests", "--examples"]))
    })?;
    if args.is_empty() {
        examples(&plugins)?;
    }
    step("running the tests", || {
        let mut tests = cargo();
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(args);
        run(with_plugins(&mut tests, &plugins))
    })
}

fn with_plugins<'a>(command: &'a mut Command, plugins: &Path) -> &'a mut Command {
    command
        .env("HAGGLE_PLUGINS", plugins)
        .env("HAGGLE_BIN", target_dir().join("debug/haggle"))
}

/// Each example is a program that plays its story against the real binary and fails when a step does.
fn examples(plugins: &Path) -> Result<()> {
    let mut dirs = fs::read_dir(root().join("examples"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    dirs.retain(|dir| dir.join("src/main.rs").is_file());
    dirs.sort();
    for dir in dirs {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let program = target_dir().join("debug").join(format!("haggle-example-{name}"));
        step(&format!("example {name}"), || {
            run(with_plugins(Command::new(program).current_dir(root()), plugins))
        })?;
    }
    Ok(())
}
