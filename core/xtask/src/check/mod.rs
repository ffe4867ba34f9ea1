//! The rules that no compiler knows: each is one function that names what breaks it.

mod arrows;
mod licences;
mod shape;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{cargo, output, run as run_program, step};

/// Cheap rules first; every broken one is named before it fails.
pub fn run() -> Result<()> {
    let metadata = metadata()?;
    let results = [
        step("formatting", || run_program(cargo().args(["fmt", "--all", "--check"]))),
        rule("the repository's shape", shape::problems()),
        rule("arrows between crates", Ok(arrows::problems(&metadata))),
        rule("licences and bans", licences::problems()),
        step("clippy", clippy),
    ];
    let broken = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("; ")) }
}

fn clippy() -> Result<()> {
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    run_program(&mut clippy)
}

fn rule(what: &str, problems: Result<Vec<String>>) -> Result<()> {
    let problems = problems?;
    for problem in &problems {
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
