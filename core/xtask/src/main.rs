//! `cargo xtask`: everything that needs more than one cargo command.
//!
//! [`up`] starts a server to try things out, [`plugins`] builds the first-party plugins with whatever [`wasm`] finds,
//! [`test`] runs every test of the repository, [`check`] holds the rules that no compiler knows, [`release`] builds the fastest
//! binary.

mod check;
mod plugins;
mod release;
mod steps;
mod test;
mod up;
mod wasm;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND

Commands:
  up [--release] [-- SERVE OPTIONS]   build server and plugins, start `haggle serve --dev`, print tokens and lines to paste
  test [FILTER]                       build what the tests need and run all of them (with FILTER: those whose name has it)
  plugins [DIR...]                    build the first-party plugins into target/plugins; with DIR: those, into target/bench-plugins
                                      or, for a folder outside of this repository, into its own folder out
  check                               formatting, clippy, crate arrows, licences, the repository's shape
  release                             build the fastest server, target/profiled/haggle: compiled with the profile of itself under load
  help                                this page";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> anyhow::Result<()> {
    let (command, rest) = args.split_first().map_or(("help", &[][..]), |(command, rest)| (command.as_str(), rest));
    match command {
        "up" => up::run(rest),
        "test" => test::run_all(rest),
        "plugins" if rest.is_empty() => plugins::build().map(drop),
        "plugins" => plugins::build_others(rest),
        "check" => check::run(),
        "release" if rest.is_empty() => release::run_all(),
        up::ANNOUNCE => up::announce(rest),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        other => anyhow::bail!("there is no command `{other}`\n\n{HELP}"),
    }
}
