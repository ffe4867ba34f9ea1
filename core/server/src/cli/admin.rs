//! `haggle plugin` and `haggle deliveries`: the admin API of a running server, from the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::{AdminFrom, block_on, print};
use crate::{client::AdminClient, config::Settings, failure::Failure, token};

/// Life of a token that the command line makes for one call of its own.
const OWN_TOKEN_LIFE: std::time::Duration = std::time::Duration::from_secs(60);

/// List, check, install and reload plugins
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haggle plugin check target/plugins/service-offers      what it is, what it asks for, whether it would load
  haggle plugin list                                     what a running server has loaded
  haggle plugin install target/plugins/service-offers    copy it into a running server and load it
  haggle plugin reload service-offers                    load it again from its folder")]
pub struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// What a running server has loaded: version, hooks, state, digest
    List(AdminFrom),
    /// Validate a plugin without a server: its folder, its plugin.toml, or its wasm file
    Check {
        /// Folder of the plugin, or one of its files
        path: PathBuf,
        #[command(flatten)]
        from: super::ConfigFrom,
    },
    /// Load a plugin again from its folder; a bad version leaves the running one in place
    Reload {
        /// The plugin's id
        id: String,
        #[command(flatten)]
        admin: AdminFrom,
    },
    /// Copy a plugin's folder into the server's and load it
    Install {
        /// Folder with plugin.toml and the wasm file
        folder: PathBuf,
        #[command(flatten)]
        admin: AdminFrom,
    },
    /// Take a plugin out of service and move its files aside; what it has stored stays
    Remove {
        /// The plugin's id
        id: String,
        #[command(flatten)]
        admin: AdminFrom,
    },
}

/// List, replay or drop what could not be delivered to a plugin or another conversation
///
/// An after-hook or timer that failed 5 times, and an item for another conversation that was refused, are kept until somebody
/// decides.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haggle deliveries list
  haggle deliveries replay 17        try it again now; it is forgotten when that works
  haggle deliveries drop 17          forget it")]
pub struct DeliveriesArgs {
    #[command(subcommand)]
    command: DeliveriesCommand,
}

#[derive(Debug, Subcommand)]
enum DeliveriesCommand {
    /// What failed, when, how often and why
    List {
        /// Only those above this id
        #[arg(long, default_value_t = 0)]
        after: u64,
        #[command(flatten)]
        admin: AdminFrom,
    },
    /// Try one again
    Replay {
        /// Its id, from `list`
        id: u64,
        #[command(flatten)]
        admin: AdminFrom,
    },
    /// Forget one
    Drop {
        /// Its id, from `list`
        id: u64,
        #[command(flatten)]
        admin: AdminFrom,
    },
}

pub fn plugin(args: PluginArgs) -> Result<(), Failure> {
    match args.command {
        PluginCommand::List(admin) => list_plugins(&admin),
        PluginCommand::Check { path, from } => {
            print(crate::plugins::check(&path, &from.load()?.settings)?.trim_end());
            Ok(())
        }
        PluginCommand::Reload { id, admin } => {
            write(&admin, Method::POST, &format!("/admin/plugins/{}/reload", plain(&id)?), Vec::new())?;
            done(&format!("{id} is loaded"))
        }
        PluginCommand::Install { folder, admin } => {
            let package = crate::plugins::Package::read(&folder)?;
            write(&admin, Method::PUT, &format!("/admin/plugins/{}", plain(&package.id)?), package.to_json())?;
            done(&format!("{} is installed and loaded", package.id))
        }
        PluginCommand::Remove { id, admin } => {
            write(&admin, Method::DELETE, &format!("/admin/plugins/{}", plain(&id)?), Vec::new())?;
            done(&format!("{id} is removed"))
        }
    }
}

pub fn deliveries(args: DeliveriesArgs) -> Result<(), Failure> {
    match args.command {
        DeliveriesCommand::List { after, admin } => list_deliveries(&admin, after),
        DeliveriesCommand::Replay { id, admin } => {
            write(&admin, Method::POST, &format!("/admin/deliveries/{id}/replay"), Vec::new())?;
            done(&format!("delivery {id} has arrived"))
        }
        DeliveriesCommand::Drop { id, admin } => {
            write(&admin, Method::DELETE, &format!("/admin/deliveries/{id}"), Vec::new())?;
            done(&format!("delivery {id} is forgotten"))
        }
    }
}

fn done(what: &str) -> Result<(), Failure> {
    print(what);
    Ok(())
}

/// Ids go into a path: only what an id may hold.
fn plain(id: &str) -> Result<&str, Failure> {
    let is_plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if is_plain {
        Ok(id)
    } else {
        Err(Failure::usage(format!("`{id}` is no plugin id")).hint("haggle plugin list shows the ids"))
    }
}

fn client(from: &AdminFrom) -> Result<(AdminClient, Settings), Failure> {
    let settings = from.from.load()?.settings;
    Ok((
        AdminClient {
            address: from.admin.unwrap_or(settings.server.admin),
            token: from.token.clone(),
        },
        settings,
    ))
}

fn read(from: &AdminFrom, path: &str) -> Result<Value, Failure> {
    let (client, _) = client(from)?;
    let body = block_on(client.call(Method::GET, path, Vec::new()))?;
    serde_json::from_str(&body).map_err(|error| Failure::failed(format!("the server's answer is no JSON: {error}")))
}

fn write(from: &AdminFrom, method: Method, path: &str, body: Vec<u8>) -> Result<String, Failure> {
    let (mut client, settings) = client(from)?;
    if client.token.is_none() {
        client.token = Some(own_token(&settings)?);
    }
    block_on(client.call(method, path, body))
}

/// Who holds the secret may act as an administrator anyway.
fn own_token(settings: &Settings) -> Result<String, Failure> {
    let secret = token::secret(settings).map_err(|failure| failure.hint("give --token, or --data or --config of the server"))?;
    let claims = token::Claims {
        user: "haggle-cli".into(),
        roles: vec!["admin".into()],
        life: OWN_TOKEN_LIFE,
    };
    token::sign(&claims, &secret, &settings.auth)
}

fn list_plugins(from: &AdminFrom) -> Result<(), Failure> {
    let answer = read(from, "/admin/plugins")?;
    let rows = items(&answer, "plugins", |plugin| {
        let hooks = plugin["hooks"]
            .as_array()
            .map(|hooks| hooks.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
        vec![
            text(&plugin["id"]),
            text(&plugin["version"]),
            text(&plugin["state"]),
            short(&plugin["sha256"]),
            hooks.unwrap_or_default(),
            text(&plugin["error"]),
        ]
    });
    table(&["ID", "VERSION", "STATE", "DIGEST", "HOOKS", "LAST ERROR"], &rows);
    Ok(())
}

fn list_deliveries(from: &AdminFrom, after: u64) -> Result<(), Failure> {
    let answer = read(from, &format!("/admin/deliveries?after={after}"))?;
    let rows = items(&answer, "deliveries", |one| {
        ["id", "consumer", "conversation", "attempts", "at", "error"]
            .map(|field| text(&one[field]))
            .to_vec()
    });
    table(&["ID", "CONSUMER", "CONVERSATION", "ATTEMPTS", "AT", "ERROR"], &rows);
    if let Some(next) = answer["next"].as_u64() {
        print(&format!("more: haggle deliveries list --after {next}"));
    }
    Ok(())
}

fn items(answer: &Value, field: &str, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    answer[field].as_array().map(|items| items.iter().map(row).collect()).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // What a server says goes to a terminal: no control characters.
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        other => other.to_string(),
    }
}

fn short(digest: &Value) -> String {
    text(digest).chars().take(12).collect()
}

fn table(head: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let widths: Vec<usize> = (0..head.len())
        .map(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in all() {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        print(line.trim_end());
    }
}
