//! `haggle-bench`: load for Haggle and for systems like it, with a checker beside it.
//!
//! Start with [`workloads`]: what runs. [`traffic`] decides when messages are sent and what is counted, [`check`] whether the run
//! counts at all, [`client`] moves bytes, a [`dialect`] knows what they mean.

mod check;
mod client;
mod compare;
mod dialect;
mod frame;
mod http;
mod join;
mod options;
mod procfs;
mod progress;
mod report;
mod server;
mod steady;
mod token;
mod traffic;
mod workloads;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::{options::Options, report::Row, server::Launch, workloads::Workload};

#[derive(Parser)]
#[command(
    name = "haggle-bench",
    about = "Load for Haggle and for systems like it",
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run workloads and print what they show
    Run {
        /// W1 to W10
        #[arg(required = true)]
        workloads: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Run two server binaries or two configurations (.toml) in turns, or together, and print their ratios
    Compare {
        /// The one
        a: PathBuf,
        /// The other
        b: PathBuf,
        /// W1 to W10
        #[arg(default_value = "W1")]
        workloads: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Prove in a few seconds that a server loses, doubles and reorders nothing; speed does not matter
    Smoke {
        #[command(flatten)]
        common: Common,
    },
    /// Name the workloads
    List,
    /// Say how steady the cores of this machine are, which no percentile is better than
    Machine {
        /// How long all of them work
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
}

#[derive(Args)]
struct Common {
    /// What the server speaks: native, socketio, or a .toml file like bench/socketio.toml
    #[arg(long, default_value = "native")]
    dialect: String,
    /// Drive this server (ws://HOST:PORT) instead of starting one; needs --secret
    #[arg(long, value_name = "URL", requires = "secret")]
    target: Option<String>,
    /// Secret that signs the users' tokens [a random one for a server of our own]
    #[arg(long, env = "HAGGLE_BENCH_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Server binary [target/release/haggle, else target/debug/haggle]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Its configuration [bench/haggle.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cores of the server
    #[arg(long, value_delimiter = ',', default_value = "0")]
    server_cores: Vec<usize>,
    /// Core of the client
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Keep the server's data here, across runs; else each run has a fresh directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Numbers of connections [the workload's]
    #[arg(long, value_delimiter = ',')]
    conns: Vec<usize>,
    /// Rates of open loops, messages a second [the workload's]
    #[arg(long, value_delimiter = ',')]
    rate: Vec<f64>,
    /// Length of the measured window [the workload's]
    #[arg(long)]
    seconds: Option<f64>,
    /// Length of the warm-up [the workload's]
    #[arg(long)]
    warm: Option<f64>,
    /// Bytes of a message's text
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(40..=30_000))]
    text: u16,
    /// Repetitions
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Folder with the hook of W4
    #[arg(long, value_name = "DIR", default_value = "target/bench-plugins")]
    hook: PathBuf,
    /// Folder with the plugins of W10
    #[arg(long, value_name = "DIR", default_value = "target/plugins")]
    market: PathBuf,
    /// compare and W4: run both sides at the same time on the server's cores. Noise then hardly touches the ratios of CPU times;
    /// rates and latencies are those of a shared core
    #[arg(long, conflicts_with = "data")]
    together: bool,
    /// After runs of pairs, read every history and compare it with what was acknowledged
    #[arg(long)]
    audit: bool,
    /// Write the rows as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            progress::clear();
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { workloads, common } => {
            let workloads = named(&workloads)?;
            let options = options(&common, binary(&common)?)?;
            show(&common, |report| workloads.iter().try_for_each(|workload| workload.run(&options, report)))
        }
        Command::Compare { a, b, workloads, common } => run_compare([&a, &b], &named(&workloads)?, &common),
        Command::Smoke { common } => {
            let options = smoke_options(&common)?;
            show(&common, |report| workloads::smoke(&options, report))
        }
        Command::List => {
            workloads::ALL
                .iter()
                .for_each(|Workload { name, about, .. }| println!("{name:<4} {about}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Machine { seconds } => {
            println!("{}", procfs::machine());
            let lasting = Duration::try_from_secs_f64(seconds).context("--seconds is a positive number")?;
            for (core, steadiness) in steady::measure(lasting)? {
                println!("core {core}: {steadiness}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn named(names: &[String]) -> Result<Vec<&'static Workload>> {
    names.iter().map(|name| workloads::by_name(name)).collect()
}

/// Prints rows as they come, then writes them; fails if one is void.
fn show(common: &Common, run: impl FnOnce(&mut dyn FnMut(Row)) -> Result<()>) -> Result<ExitCode> {
    eprintln!("{}", procfs::machine());
    let mut rows = Vec::new();
    let result = run(&mut |row| print(&mut rows, row, ""));
    progress::clear();
    write_json(common, &rows, &[])?;
    result?;
    conclude(&rows)
}

fn print(rows: &mut Vec<Row>, row: Row, before: &str) {
    progress::clear();
    if rows.is_empty() {
        println!("{}{}", " ".repeat(before.len()), report::header());
    }
    println!("{before}{}", report::line(&row));
    rows.push(row);
}

fn conclude(rows: &[Row]) -> Result<ExitCode> {
    let void = rows.iter().filter(|row| row.is_void()).count();
    if void > 0 {
        eprintln!("{void} of {} runs are void: they have no numbers", rows.len());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn run_compare(sides: [&Path; 2], workloads: &[&Workload], common: &Common) -> Result<ExitCode> {
    ensure!(common.target.is_none(), "compare starts the servers itself: leave out --target");
    let one_binary = sides.into_iter().any(compare::is_configuration);
    let base = options(common, if one_binary { binary(common)? } else { PathBuf::new() })?;
    let [a, b] = sides.map(|path| compare::side(&base, path));
    let (a, b) = (a?, b?);
    eprintln!("{}", procfs::machine());
    let mut rows: [Vec<Row>; 2] = [Vec::new(), Vec::new()];
    let mut all = Vec::new();
    compare::run(&base, [&a, &b], workloads, &mut |side, row| {
        rows[side].push(row.clone());
        print(&mut all, row, ["A ", "B "][side]);
    })?;
    let ratios = compare::ratios([&rows[0], &rows[1]]);
    println!("\n{}", compare::table(&ratios));
    write_json(common, &all, &ratios)?;
    conclude(&all)
}

fn write_json(common: &Common, rows: &[Row], ratios: &[compare::Ratio]) -> Result<()> {
    let Some(path) = &common.json else { return Ok(()) };
    let report = serde_json::json!({ "machine": procfs::machine(), "dialect": common.dialect, "rows": rows, "ratios": ratios });
    std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| format!("cannot write {}", path.display()))
}

/// `binary`: of the server that is started, if one is.
fn options(common: &Common, binary: PathBuf) -> Result<Options> {
    dialect::by_name(&common.dialect)?;
    raise_file_limit();
    let seconds = |seconds: Option<f64>| {
        seconds
            .map(Duration::try_from_secs_f64)
            .transpose()
            .context("--seconds and --warm are positive numbers")
    };
    let (server_cores, client_core) = placed(common)?;
    Ok(Options {
        dialect: common.dialect.clone(),
        target: common.target.clone(),
        launch: Launch {
            binary,
            config: common.config.clone().unwrap_or_else(|| root().join("bench/haggle.toml")),
            secret: common.secret.clone().map_or_else(token::random_hex, Ok)?,
            plugins: None,
            server_cores,
            client_core,
            data: common.data.clone(),
        },
        conns: common.conns.clone(),
        rates: common.rate.clone(),
        warm: seconds(common.warm)?,
        window: seconds(common.seconds)?,
        text_bytes: usize::from(common.text),
        rounds: common.rounds,
        hook: common.hook.clone(),
        market: common.market.clone(),
        together: common.together,
        audit: common.audit,
        speed: true,
    })
}

/// Few connections, short windows, histories read; whatever binary is there.
fn smoke_options(common: &Common) -> Result<Options> {
    let mut options = options(common, binary(common)?)?;
    let short = Duration::from_secs(2);
    options.warm.get_or_insert(Duration::from_millis(300));
    options.window.get_or_insert(short);
    if options.conns.is_empty() {
        options.conns = vec![8];
    }
    if options.rates.is_empty() {
        options.rates = vec![200.0];
    }
    // CI machines are shared, and what is proved does not depend on who has which core.
    (options.launch.server_cores, options.launch.client_core) = (Vec::new(), None);
    (options.audit, options.speed) = (true, false);
    Ok(options)
}

/// Server and client on cores of their own; on a machine with one core, wherever they fit.
fn placed(common: &Common) -> Result<(Vec<usize>, Option<usize>)> {
    if server::cores().len() < 2 {
        eprintln!("warning: one core only; server and client share it, and the numbers mean little");
        return Ok((Vec::new(), None));
    }
    server::pin(&[common.client_core])?;
    Ok((common.server_cores.clone(), Some(common.client_core)))
}

/// The server to start; an empty path where a given one is driven.
fn binary(common: &Common) -> Result<PathBuf> {
    if common.target.is_some() {
        return Ok(PathBuf::new());
    }
    if let Some(given) = &common.server {
        ensure!(given.is_file(), "--server {}: no such file", given.display());
        return Ok(given.clone());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let (release, debug) = (target.join("release/haggle"), target.join("debug/haggle"));
    if release.is_file() {
        return Ok(release);
    }
    if debug.is_file() {
        eprintln!("warning: no release build of the server; the debug build is right and slow");
        return Ok(debug);
    }
    bail!("there is no server; build it: cargo build --release -p haggle-server")
}

/// The repository.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), Path::to_path_buf)
}

/// Every connection is a file. Failing changes nothing: opening one too many says so.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
