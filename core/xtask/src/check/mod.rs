//! The rules that no compiler knows: each is one function that names what breaks it.

mod arrows;
mod licences;
mod shape;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{cargo, output, run as run_program, step};

/// Cheap rules first.
pub fn run() -> Result<()> {
    step("formatting", || run_program(cargo().args(["fmt", "--all", "--check"])))?;
    let metadata = metadata()?;
    rule("the repository's shape", &shape::problems()?)?;
    rule("arrows between crates", &arrows::problems(&metadata))?;
    rule("licences and bans", &licences::problems(&metadata)?)?;
    step("clippy", || {
        let mut clippy = cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
        run_program(&mut clippy)
    })
}

fn rule(what: &str, problems: &[String]) -> Result<()> {
    for problem in problems {
        eprintln!("xtask: {what}: {problem}");
    }
    if !problems.is_empty() {
        bail!("{what}: {} broken", problems.len());
    }
    eprintln!("xtask: {what}: good");
    Ok(())
}

fn metadata() -> Result<Value> {
    let text = output(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).context("cargo metadata prints JSON")
}

/// The packages of `cargo metadata`.
fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
