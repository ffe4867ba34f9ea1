//! The command line: what may be typed, and who carries it out.

mod admin;
mod config;
mod connect;
mod doctor;
mod token;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Flag, Loaded, Sources, load},
    failure::Failure,
    serve, version,
};

const AFTER_HELP: &str = "\
Exit codes:
  0  done            1  tried and failed        2  wrong usage or configuration
  3  data directory in use or cannot be opened  4  address cannot be listened on
  5  no answer from the operators listener

First steps:
  haggle serve --dev --data ./data              a server of your own, with a throw-away key
  haggle token ann --data ./data                a token for it
  haggle config default > haggle.toml           every setting, explained";

/// Durable conversations for marketplaces, with plugins.
#[derive(Debug, Parser)]
#[command(name = "haggle", version = version::LONG, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArgs),
    Token(token::TokenArgs),
    Config(config::ConfigArgs),
    Doctor(doctor::DoctorArgs),
    Plugin(admin::PluginArgs),
    Deliveries(admin::DeliveriesArgs),
    Connect(connect::ConnectArgs),
    /// Print the OpenAPI document of the REST interface
    ///
    /// The same document that a running server answers at /openapi.json.
    Openapi,
}

/// Which configuration a command works with.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigFrom {
    /// Configuration file (TOML); `haggle config default` prints one
    #[arg(long, value_name = "FILE", env = "HAGGLE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Data directory [server.data_dir]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
}

impl ConfigFrom {
    fn flags(&self) -> Vec<Flag> {
        flag("--data", "server.data_dir", self.data.as_ref()).into_iter().collect()
    }

    fn load_with(&self, more: Vec<Flag>) -> Result<Loaded, Failure> {
        let mut flags = self.flags();
        flags.extend(more);
        load(&Sources::of_process(self.config.clone(), flags))
    }

    fn load(&self) -> Result<Loaded, Failure> {
        self.load_with(Vec::new())
    }
}

/// Run the server
///
/// Clients speak REST (/api) and native WebSocket (/v1/ws) at --listen; operators find /metrics, /livez, /readyz and the admin
/// API at --admin. SIGTERM and SIGINT drain: clients are told to come back, what is staged is committed, and the process ends
/// within 10 seconds; a second signal ends it at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haggle serve --dev --data ./data
      on your own machine: a key is made in ./data, pages on localhost may connect, plugins reload when their files change
  HAGGLE__AUTH__SECRET=... haggle serve --config /etc/haggle/haggle.toml
      in production

Settings: flags > environment (HAGGLE__SECTION__KEY) > file > defaults; `haggle config show` prints what is in force.")]
pub struct ServeArgs {
    #[command(flatten)]
    from: ConfigFrom,
    /// Address for clients [server.listen, default 127.0.0.1:3001]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address for operators [server.admin, default 127.0.0.1:9301]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Folder of plugins, one folder each [server.plugins_dir, default <data>/plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<String>,
    /// For development: auth.dev, auth.loopback_origins, plugins.watch and log.format = "pretty"
    #[arg(long)]
    dev: bool,
}

impl ServeArgs {
    fn load(&self) -> Result<Loaded, Failure> {
        let mut flags = Vec::new();
        flags.extend(flag("--listen", "server.listen", self.listen.as_ref()));
        flags.extend(flag("--admin", "server.admin", self.admin.as_ref()));
        flags.extend(flag("--plugins", "server.plugins_dir", self.plugins.as_ref()));
        if self.dev {
            for (key, value) in [
                ("auth.dev", "true"),
                ("auth.loopback_origins", "true"),
                ("plugins.watch", "true"),
                ("log.format", "pretty"),
            ] {
                flags.push(Flag {
                    name: "--dev",
                    key,
                    value: value.into(),
                });
            }
        }
        self.from.load_with(flags)
    }
}

fn flag(name: &'static str, key: &'static str, value: Option<&String>) -> Option<Flag> {
    value.map(|value| Flag {
        name,
        key,
        value: value.clone(),
    })
}

/// Where the admin API is and what opens it.
#[derive(Clone, Debug, Args)]
pub struct AdminFrom {
    #[command(flatten)]
    from: ConfigFrom,
    /// The server's address for operators [server.admin, default 127.0.0.1:9301]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Token with the role `admin`; made from auth.secret or the dev key of --data when not given
    #[arg(long, env = "HAGGLE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// Reads the command line of this process, does what it says and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help_or_error) => {
            let _ = help_or_error.print();
            return ExitCode::from(u8::try_from(help_or_error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(args) => {
            let loaded = args.load()?;
            loaded.settings.check()?;
            serve::run(loaded.settings)?;
        }
        Command::Token(args) => token::run(&args)?,
        Command::Config(args) => config::run(&args)?,
        Command::Doctor(args) => return doctor::run(&args),
        Command::Plugin(args) => admin::plugin(args)?,
        Command::Deliveries(args) => admin::deliveries(args)?,
        Command::Connect(args) => connect::run(args)?,
        Command::Openapi => print(&haggle_gateway::rest::openapi()),
    }
    Ok(ExitCode::SUCCESS)
}

/// A small runtime for commands that talk to a server.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // A read of standard input may hang in a blocking thread; nobody waits for it.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

/// Prints a line; a reader that has gone (`| head`) is no error.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for nested in command.get_subcommands() {
                assert!(nested.get_about().is_some(), "{} {} has no help", command.get_name(), nested.get_name());
            }
        }
    }

    #[test]
    fn dev_sets_its_four_keys() {
        let cli = Cli::try_parse_from(["haggle", "serve", "--dev", "--data", "elsewhere"]).expect("valid");
        let Command::Serve(args) = cli.command else {
            unreachable!("serve was typed")
        };
        let settings = args.load().expect("valid").settings;
        assert!(settings.auth.dev && settings.auth.loopback_origins && settings.plugins.watch);
        assert_eq!(settings.server.data_dir, PathBuf::from("elsewhere"));
    }
}
