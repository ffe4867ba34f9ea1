//! How runs are made: what the command line says, and what is under load.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    client::Client,
    dialect,
    server::{Launch, Server},
};

/// What all workloads are told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the dialect.
    pub dialect: String,
    /// Drive this server instead of starting one.
    pub target: Option<String>,
    /// How servers are started; its secret signs tokens in any case.
    pub launch: Launch,
    /// Numbers of connections; empty: the workload's own.
    pub conns: Vec<usize>,
    /// Rates of open loops; empty: the workload's own.
    pub rates: Vec<f64>,
    /// Before the window; none: the workload's own.
    pub warm: Option<Duration>,
    /// The window; none: the workload's own.
    pub window: Option<Duration>,
    /// Bytes of a text.
    pub text_bytes: usize,
    /// Repetitions.
    pub rounds: usize,
    /// Folder with the hook of W4.
    pub hook: PathBuf,
    /// Folder with the first-party plugins, for W10.
    pub market: PathBuf,
    /// Two sides run at the same time, not in turns.
    pub together: bool,
    /// Compare what is stored with what was acknowledged, after runs of pairs.
    pub audit: bool,
    /// Speed is measured: a busy client makes a run void.
    pub speed: bool,
}

impl Options {
    /// The warm-up, `default_s` seconds unless told otherwise.
    pub fn warm(&self, default_s: u64) -> Duration {
        self.warm.unwrap_or(Duration::from_secs(default_s))
    }

    /// The window, `default_s` seconds unless told otherwise.
    pub fn window(&self, default_s: u64) -> Duration {
        self.window.unwrap_or(Duration::from_secs(default_s))
    }

    /// The numbers of connections to run with.
    pub fn conns(&self, default: &[usize]) -> Vec<usize> {
        if self.conns.is_empty() { default.to_vec() } else { self.conns.clone() }
    }

    /// The rates to run with.
    pub fn rates(&self, default: &[f64]) -> Vec<f64> {
        if self.rates.is_empty() { default.to_vec() } else { self.rates.clone() }
    }

    /// A server with these plugins; with `--target`, that one.
    pub fn start(&self, plugins: Option<&Path>) -> Result<Under> {
        let Some(target) = &self.target else {
            let launch = Launch {
                plugins: plugins.map(Path::to_path_buf),
                ..self.launch.clone()
            };
            let server = Server::start(&launch)?;
            return Ok(Under {
                address: server.listen,
                host: server.listen.to_string(),
                server: Some(server),
            });
        };
        if plugins.is_some() {
            bail!("this workload chooses the server's plugins: it cannot drive a given --target");
        }
        let (address, host) = resolve(target)?;
        Ok(Under { address, host, server: None })
    }
}

/// `ws://host:port`, `http://host:port` or `host:port`.
fn resolve(target: &str) -> Result<(SocketAddr, String)> {
    let rest = ["ws://", "http://"]
        .iter()
        .find_map(|scheme| target.strip_prefix(scheme))
        .unwrap_or(target);
    if rest.contains("://") {
        bail!("--target {target}: only ws:// and http:// are spoken; end TLS in front");
    }
    let host = rest.split('/').next().unwrap_or(rest);
    let mut addresses = host.to_socket_addrs().with_context(|| format!("--target {target}: expected HOST:PORT"))?;
    Ok((
        addresses.next().with_context(|| format!("--target {target}: no such host"))?,
        host.to_owned(),
    ))
}

/// The server under load.
pub struct Under {
    /// If it is ours.
    pub server: Option<Server>,
    /// Where clients connect.
    pub address: SocketAddr,
    host: String,
}

impl Under {
    /// A client for it.
    pub fn client(&self, options: &Options, conns: usize) -> Result<Client> {
        Client::new(conns, self.address, &self.host, dialect::by_name(&options.dialect)?)
    }

    /// The server, for workloads that kill or weigh it.
    pub fn own(&mut self) -> Result<&mut Server> {
        self.server
            .as_mut()
            .context("this workload needs a server of its own: run it without --target")
    }

    /// Its process, if it is ours.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// Ends it, if it is ours.
    pub fn stop(mut self) -> Result<()> {
        self.server.as_mut().map_or(Ok(()), Server::stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for target in ["ws://127.0.0.1:80/v1/ws", "http://127.0.0.1:80", "127.0.0.1:80"] {
            assert_eq!(resolve(target).unwrap().0, "127.0.0.1:80".parse().unwrap(), "{target}");
        }
        assert!(resolve("wss://127.0.0.1:80").is_err());
        assert!(resolve("127.0.0.1").is_err());
    }
}
