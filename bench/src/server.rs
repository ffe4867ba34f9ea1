//! The server under load: started on its own cores with a fresh directory, killed, started again, ended.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use crate::http;

/// How long a server may take until it serves.
const START_MAX: Duration = Duration::from_secs(120);
/// How long it may take to end.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How often it is asked whether it serves.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The binary.
    pub binary: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Secret of the tokens.
    pub secret: String,
    /// Folder of plugins; none: no plugins.
    pub plugins: Option<PathBuf>,
    /// Cores of the server; empty: any.
    pub server_cores: Vec<usize>,
    /// Core of this process; none: any.
    pub client_core: Option<usize>,
    /// Where to keep data; none: a temporary directory.
    pub data: Option<PathBuf>,
}

/// A server that runs.
pub struct Server {
    launch: Launch,
    /// Holds the data and the server's output.
    dir: TempDir,
    child: Child,
    /// For clients.
    pub listen: SocketAddr,
    admin: SocketAddr,
    /// From its start until it said that it is ready.
    pub ready_after: Duration,
}

impl Server {
    /// Starts one on fresh ports and waits until it is ready.
    pub fn start(launch: &Launch) -> Result<Server> {
        let dir = TempDir::with_prefix("haggle-bench-")?;
        std::fs::create_dir_all(dir.path().join("no-plugins"))?;
        let started = spawn(launch, dir.path())?;
        Ok(Server {
            launch: launch.clone(),
            dir,
            child: started.child,
            listen: started.listen,
            admin: started.admin,
            ready_after: started.ready_after,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing the server")?;
        self.child.wait().context("waiting for the killed server")?;
        Ok(())
    }

    /// Starts it again on the same data, on other ports.
    pub fn restart(&mut self) -> Result<()> {
        let started = spawn(&self.launch, self.dir.path())?;
        (self.child, self.listen, self.admin, self.ready_after) = (started.child, started.listen, started.admin, started.ready_after);
        Ok(())
    }

    /// It has looked at the checksums of its whole log, which it does on the side after a start.
    pub fn is_verified(&self) -> Result<bool> {
        let (_, page) = http::get(self.admin, "/readyz?verbose", None)?;
        let page = String::from_utf8_lossy(&page);
        Ok(!page.contains("not yet verified") && !page.contains(", verifying"))
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        if self.child.try_wait()?.is_none() {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP_MAX;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the server did not end within {} s of SIGTERM", STOP_MAX.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The end of what it has said.
    pub fn last_words(&self) -> String {
        last_words(self.dir.path())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where it has ended, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that is ready.
struct Started {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    ready_after: Duration,
}

fn spawn(launch: &Launch, dir: &Path) -> Result<Started> {
    let (listen, admin) = (free_address()?, free_address()?);
    let log = File::options().create(true).append(true).open(dir.join("server.log"))?;
    let mut command = Command::new(&launch.binary);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HAGGLE_")) {
        command.env_remove(name);
    }
    let data = launch.data.clone().unwrap_or_else(|| dir.join("data"));
    let plugins = launch.plugins.clone().unwrap_or_else(|| dir.join("no-plugins"));
    command
        .arg("serve")
        .arg("--config")
        .arg(&launch.config)
        .arg("--data")
        .arg(data)
        .arg("--plugins")
        .arg(plugins);
    command.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
    command
        .env("HAGGLE__AUTH__SECRET", &launch.secret)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // A child inherits the cores of the thread that starts it.
    pin(&launch.server_cores)?;
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {}", launch.binary.display()));
    pin(launch.client_core.as_slice())?;
    let mut child = child?;
    while !http::get(admin, "/readyz", None).is_ok_and(|(status, _)| status == 200) {
        if let Some(status) = child.try_wait()? {
            bail!("the server ended ({status}):\n{}", last_words(dir));
        }
        if start.elapsed() > START_MAX {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the server was not ready after {} s:\n{}", START_MAX.as_secs(), last_words(dir));
        }
        std::thread::sleep(ASK_EVERY);
    }
    Ok(Started {
        child,
        listen,
        admin,
        ready_after: start.elapsed(),
    })
}

/// Binds this thread, and what it starts from now on, to these cores.
pub fn pin(cores: &[usize]) -> Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on cores {cores:?}"))
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    sched_getaffinity(None).map_or(vec![0], |set| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

fn last_words(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?.local_addr()?)
}
