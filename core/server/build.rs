//! Tells the binary which commit it was built from. `HAGGLE_COMMIT` wins; without git it is `unknown`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=HAGGLE_COMMIT");
    let commit = std::env::var("HAGGLE_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=HAGGLE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    // The log of HEAD changes with every commit and checkout; it lies elsewhere in a worktree, so git is asked.
    if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]).filter(|path| std::path::Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*"])
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
