//! `cargo xtask release`: a server compiled with the profile of itself under load.
//!
//! It is built twice: once so that it counts which code runs, once with those counts. Between the two the load generator drives
//! it, with the workloads of docs/PERFORMANCE.md. What is gained stands there.

use std::{
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    plugins,
    steps::{cargo, output, root, run, step, target_dir},
};

/// The rustup component that merges counts, and its program.
const COMPONENT: &str = "llvm-tools";
const MERGER: &str = "llvm-profdata";

/// Packages and their programs.
const SERVER: (&str, &str) = ("haggle-server", "haggle");
const BENCH: (&str, &str) = ("haggle-bench", "haggle-bench");

/// What the server is driven with: both protocols, at high and at low rates, joining, fan-out, and the first-party plugins.
const TRAINING: [&[&str]; 9] = [
    &["W1", "--conns", "200", "--seconds", "5", "--warm", "2"],
    &["W1", "--conns", "200", "--seconds", "3", "--warm", "2", "--dialect", "socketio"],
    &["W2", "--seconds", "3", "--warm", "2"],
    &["W3", "--rate", "5000", "--seconds", "3", "--warm", "2"],
    &["W3", "--rate", "20000", "--seconds", "3", "--warm", "2"],
    &["W5", "--conns", "4000", "--seconds", "1"],
    &["W5", "--conns", "4000", "--seconds", "1", "--dialect", "socketio"],
    &["W9", "--rate", "500", "--seconds", "3", "--warm", "1"],
    &["W10", "--rate", "1000", "--seconds", "3", "--warm", "1"],
];

/// Builds `target/profiled/haggle`.
pub fn run_all() -> Result<()> {
    let (sysroot, host) = compiler()?;
    let merger = merger(&sysroot, &host)?;
    let plugins = plugins::build()?;
    let dir = target_dir().join("profiled");
    let bench = step("building the load generator", || build(BENCH, &dir.join("bench"), &host, None))?;
    let counts = empty(dir.join("counts"))?;
    let counting = step("building a server that counts", || {
        build(SERVER, &dir.join("counting"), &host, Some(flag("profile-generate", &counts)))
    })?;
    for workload in TRAINING {
        let mut drive = Command::new(&bench);
        drive.current_dir(root()).arg("run").args(workload);
        drive.arg("--server").arg(&counting).arg("--market").arg(&plugins);
        // A void row says nothing about speed; what ran was counted all the same.
        if step(&format!("driving it: {}", workload.join(" ")), || run(&mut drive)).is_err() {
            eprintln!("xtask: the profile may lack what this workload does");
        }
    }
    let profile = step("merging the counts", || merge(&merger, &counts, &empty(dir.join("profile"))?))?;
    let built = step("building the server with them", || {
        build(SERVER, &dir.join("optimized"), &host, Some(flag("profile-use", &profile)))
    })?;

    // Beside it first: the old one may be running.
    let (binary, beside) = (dir.join("haggle"), dir.join("haggle.new"));
    fs::copy(&built, &beside).with_context(|| format!("cannot copy {} to {}", built.display(), beside.display()))?;
    fs::rename(&beside, &binary)?;
    println!("{}", binary.display());
    Ok(())
}

/// A folder without what an earlier run has left there.
fn empty(dir: PathBuf) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The compiler's folder and the machine that it runs on.
fn compiler() -> Result<(PathBuf, String)> {
    let rustc = || Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let sysroot = output(rustc().args(["--print", "sysroot"]))?;
    let about = output(rustc().arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok((PathBuf::from(sysroot.trim()), host.context("rustc -vV names no host")?.to_owned()))
}

/// Finds the program that merges counts; it must be of the compiler's own LLVM.
fn merger(sysroot: &Path, host: &str) -> Result<PathBuf> {
    let merger = sysroot.join("lib/rustlib").join(host).join("bin").join(MERGER);
    if !merger.is_file() {
        // What went wrong is printed by rustup; what to do about it, below.
        let _ = step(&format!("adding {COMPONENT} with rustup"), || {
            run(Command::new("rustup").args(["component", "add", COMPONENT]))
        });
    }
    if !merger.is_file() {
        bail!("{MERGER} of this compiler is missing. Install it with: rustup component add {COMPONENT}");
    }
    Ok(merger)
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(format!("-C{name}="));
    flag.push(path);
    flag
}

/// Builds a program with one more flag for its compiler, besides those of the environment; flags of cargo's configuration files
/// do not apply then. The flag is not for what runs while building, hence `--target`.
fn build((package, program): (&str, &str), target_dir: &Path, host: &str, flag: Option<OsString>) -> Result<PathBuf> {
    let mut build = cargo();
    if let Some(flag) = flag {
        build.env("CARGO_ENCODED_RUSTFLAGS", with_flags_of_environment(flag));
    }
    build.args(["build", "--release", "--locked", "--package", package, "--target", host, "--target-dir"]);
    run(build.arg(target_dir))?;
    Ok(target_dir.join(host).join("release").join(program))
}

/// In cargo's own encoding, where a flag may have spaces in it.
fn with_flags_of_environment(flag: OsString) -> OsString {
    const SEPARATOR: &str = "\u{1f}";
    let mut flags = std::env::var_os("CARGO_ENCODED_RUSTFLAGS").unwrap_or_else(|| {
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        flags.split_whitespace().collect::<Vec<_>>().join(SEPARATOR).into()
    });
    if !flags.is_empty() {
        flags.push(SEPARATOR);
    }
    flags.push(flag);
    flags
}

/// Merges the counts into a file that is named after what it holds: cargo looks at the flag only, not into the file.
fn merge(merger: &Path, counts: &Path, dir: &Path) -> Result<PathBuf> {
    let merged = dir.join("merged.profdata");
    run(Command::new(merger).arg("merge").arg("-o").arg(&merged).arg(counts))?;
    let mut hasher = DefaultHasher::new();
    fs::read(&merged)?.hash(&mut hasher);
    let profile = dir.join(format!("{:016x}.profdata", hasher.finish()));
    fs::rename(&merged, &profile)?;
    Ok(profile)
}
