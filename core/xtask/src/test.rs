//! Every test of the repository, with what it needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    plugins,
    steps::{apt_install, can_apt, cargo, root, run, step, succeeds, target_dir},
};

/// Builds the plugins (tests of the host and the testkit run them as wasm), then everything; plays the examples, runs the tests.
pub fn run_all(args: &[String]) -> Result<()> {
    anyhow::ensure!(args.len() <= 1, "one filter at most: cargo xtask test [FILTER]");
    let plugins = plugins::build()?;
    let of_examples = plugins::build_examples()?;
    // Built first, so that the time of building and the time of running are told apart; benches are for `cargo bench`.
    step("building server and tests", || {
        run(cargo().args(["build", "--workspace", "--locked", "--lib", "--bins", "--tests", "--examples"]))
    })?;
    if args.is_empty() {
        examples(&plugins, &of_examples)?;
    }
    step("running the tests", || {
        let mut tests = cargo();
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(args);
        run(with_plugins(&mut tests, &plugins))
    })
}

fn with_plugins<'a>(command: &'a mut Command, plugins: &Path) -> &'a mut Command {
    command.env("HAGGLE_PLUGINS", plugins).env("HAGGLE_BIN", server())
}

/// Each example is a program that plays its story against the real binary and fails when a step does.
fn examples(plugins: &Path, of_examples: &Path) -> Result<()> {
    let mut dirs = fs::read_dir(root().join("examples"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    dirs.sort();
    // A library among them has its own tests.
    let rust: Vec<_> = dirs
        .iter()
        .filter(|dir| dir.join("Cargo.toml").is_file() && dir.join("src/main.rs").is_file())
        .collect();
    let node: Vec<_> = dirs.iter().filter(|dir| dir.join("package.json").is_file()).collect();
    for dir in rust {
        let name = name_of(dir);
        // Built with the tests, so with the same features of what it builds on.
        let program = target_dir().join("debug").join(format!("haggle-example-{name}"));
        step(&format!("example {name}"), || {
            run(with_plugins(Command::new(program).current_dir(root()), plugins))
        })?;
    }
    node_examples(&node, of_examples)
}

fn name_of(dir: &Path) -> String {
    dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn server() -> PathBuf {
    target_dir().join("debug/haggle")
}

/// What the examples for Node run with, and the Debian package that has it.
const NODE_TOOLS: [(&str, &str); 3] = [("node", "nodejs"), ("npm", "npm"), ("chromium", "chromium")];

/// Examples for Node: left out, and said so, where it is not installed and cannot be. A browser is asked for by the example.
fn node_examples(dirs: &[&PathBuf], plugins: &Path) -> Result<()> {
    let has = |program: &str| succeeds(Command::new(program).arg("--version"));
    let missing: Vec<_> = NODE_TOOLS
        .iter()
        .filter(|(program, _)| !has(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() && can_apt() {
        step(&format!("installing {}", missing.join(", ")), || apt_install(&missing))?;
    }
    let has_node = has("node") && has("npm");
    for dir in dirs {
        let name = name_of(dir);
        if !has_node {
            eprintln!("xtask: example {name}: SKIPPED, as node and npm are not installed");
            continue;
        }
        step(&format!("example {name}"), || {
            run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(dir))?;
            let mut story = Command::new("npm");
            story.args(["start", "--silent"]).current_dir(dir);
            run(with_plugins(&mut story, plugins))
        })?;
    }
    Ok(())
}
