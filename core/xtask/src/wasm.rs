//! Finds a compiler for `wasm32-unknown-unknown`, or installs one, or says exactly what to install.
//!
//! Plugins need nothing but that target: the server makes components of them when it loads them. In this order:
//! 1. the target is installed for the toolchain that runs us;
//! 2. Debian's own compiler with its sources (packages `rustc-web`, `cargo-web`, `rust-web-src`) builds the standard library
//!    for the target, linked by the `rust-lld` that comes with every rustup toolchain;
//! 3. `rustup target add`;
//! 4. as root on Debian: the packages of 2.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::steps::{apt_install, can_apt, cargo, output, run, step, target_dir};

/// The target of all plugins.
pub const TARGET: &str = "wasm32-unknown-unknown";

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What builds plugins on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The toolchain that runs us.
    Installed,
    /// Debian's compiler, which builds the standard library as well; with its linker.
    Debian(PathBuf),
}

impl Toolchain {
    /// The command that builds plugins, ready for what to build.
    pub fn build(&self) -> Command {
        let mut command = match self {
            Toolchain::Installed => {
                let mut command = cargo();
                command.arg("build");
                command
            }
            Toolchain::Debian(linker) => {
                let mut command = Command::new(DEBIAN_CARGO);
                command.current_dir(crate::steps::root());
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
                // Set by the cargo that runs us, for its own compiler.
                command
                    .env_remove("CARGO")
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env_remove("RUSTUP_HOME")
                    .env_remove("RUSTDOC");
                command.args(["build", "-Zbuild-std=std,panic_abort", "-Zbuild-std-features="]);
                command
            }
        };
        command
            .args(["--release", "--target", TARGET, "--target-dir"])
            .arg(target_dir().join("wasm"))
            // Nine tenths of a module would be debug info that nobody loads: a panic names its line anyway.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            // What crates call of each other (the allocator above all) is inlined. The server's compiler does not do that.
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
        command
    }
}

/// Finds a toolchain; installs one where that needs no question.
pub fn find() -> Result<Toolchain> {
    if let Some(found) = present() {
        return Ok(found);
    }
    if step("adding the wasm target with rustup", add_target).is_ok()
        && let Some(found) = present()
    {
        return Ok(found);
    }
    if can_apt() {
        step("installing Debian's Rust compiler with its sources", || apt_install(&DEBIAN_PACKAGES))?;
    }
    match present() {
        Some(found) => Ok(found),
        None => bail!(
            "nothing here compiles for {TARGET}. Install one of:\n\
             \x20 with rustup:        rustup target add {TARGET}\n\
             \x20 on Debian, as root: apt-get install {}   (and rustup's own toolchain, for its rust-lld)",
            DEBIAN_PACKAGES.join(" ")
        ),
    }
}

fn present() -> Option<Toolchain> {
    let sysroot = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"])).ok()?.trim());
    if sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Some(Toolchain::Installed);
    }
    let linker = rust_lld(&sysroot)?;
    has_debian_compiler().then_some(Toolchain::Debian(linker))
}

/// `lib/rustlib/<host>/bin/rust-lld`
fn rust_lld(sysroot: &Path) -> Option<PathBuf> {
    let hosts = std::fs::read_dir(sysroot.join("lib/rustlib")).ok()?;
    hosts
        .flatten()
        .map(|host| host.path().join("bin/rust-lld"))
        .find(|linker| linker.is_file())
}

fn has_debian_compiler() -> bool {
    if !Path::new(DEBIAN_CARGO).is_file() || !Path::new(DEBIAN_RUSTC).is_file() {
        return false;
    }
    let Ok(sysroot) = output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"])) else {
        return false;
    };
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").is_dir()
}

fn add_target() -> Result<()> {
    run(Command::new("rustup").args(["target", "add", TARGET]))
}
