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

/// What the server is driven with: both protocols, at high and at low rates, joining, fan-out, and the first-party plugins.
const TRAINING: [&[&str]; 8] = [
    &["W1", "--conns", "200", "--seconds", "5", "--warm", "2"],
    &["W1", "--conns", "200", "--seconds", "3", "--warm", "2", "--dialect", "socketio"],
    &["W2", "--seconds", "3", "--warm", "2"],
    &["W3", "--rate", "5000", "--seconds", "3", "--warm", "2"],
    &["W3", "--rate", "20000", "--seconds", "3", "--warm", "2"],
    &["W5", "--conns", "4000", "--seconds", "1"],
    &["W5", "--conns", "4000", "--seconds", "1", "--dialect", "socketio"],
    &["W10", "--rate", "1000", "--seconds", "3", "--warm", "1"],
];

/// Builds `target/profiled/haggle`.
pub fn run_all() -> Result<()> {
    let (sysroot, host) = compiler()?;
    let merger = merger(&sysroot, &host)?;
    plugins::build()?;
    step("building the load generator", || {
        run(cargo().args(["build", "--release", "--locked", "--package", "haggle-bench"]))
    })?;

    let dir = target_dir().join("profiled");
    let counts = empty(dir.join("counts"))?;
    let counting = step("building a server that counts", || {
        build(&dir.join("counting"), &host, flag("profile-generate", &counts))
    })?;
    for workload in TRAINING {
        step(&format!("driving it: {}", workload.join(" ")), || {
            let bench = target_dir().join("release/haggle-bench");
            run(Command::new(bench)
                .current_dir(root())
                .arg("run")
                .args(workload)
                .arg("--server")
                .arg(&counting))
        })?;
    }
    let profile = step("merging the counts", || merge(&merger, &counts, &empty(dir.join("profile"))?))?;
    let built = step("building the server with them", || {
        build(&dir.join("optimized"), &host, flag("profile-use", &profile))
    })?;

    let binary = dir.join("haggle");
    fs::copy(&built, &binary).with_context(|| format!("cannot copy {} to {}", built.display(), binary.display()))?;
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
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let about = output(Command::new("rustc").arg("-vV"))?;
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

/// Builds the server with one more flag for its compiler; the flag is not for what runs while building, hence `--target`.
fn build(target_dir: &Path, host: &str, flag: OsString) -> Result<PathBuf> {
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" ");
    flags.push(flag);
    let mut build = cargo();
    build
        .env("RUSTFLAGS", flags)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "haggle-server",
            "--target",
            host,
            "--target-dir",
        ])
        .arg(target_dir);
    run(&mut build)?;
    Ok(target_dir.join(host).join("release/haggle"))
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
