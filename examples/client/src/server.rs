//! A `haggle` process of one's own: for examples and tests.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// How long a server may take to come up.
const START_MAX: Duration = Duration::from_secs(60);

/// A running server; killed when it is dropped.
pub struct Server {
    child: Child,
    binary: PathBuf,
    data: PathBuf,
    /// The clients' address.
    pub clients: String,
    /// The operators' address.
    pub operators: String,
}

impl Server {
    /// Starts `haggle serve --dev` on free ports and waits until it serves. `args` go to `serve`.
    pub async fn start(binary: &Path, data: &Path, plugins: &Path, args: &[&str]) -> Result<Server> {
        let mut command = Command::new(binary);
        command
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--plugins")
            .arg(plugins)
            .args(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let stdout = child.stdout.take().context("a piped stdout")?;
        let stderr = child.stderr.take().context("a piped stderr")?;
        let mut lines = BufReader::new(stdout).lines();
        let serving = async {
            while let Some(line) = lines.next_line().await? {
                if let (Some(clients), Some(operators)) = (address_in(&line, "clients"), address_in(&line, "operators")) {
                    return Ok((clients, operators));
                }
            }
            let mut said = String::new();
            let mut errors = BufReader::new(stderr).lines();
            while let Some(line) = errors.next_line().await? {
                said.push_str(&line);
                said.push('\n');
            }
            bail!("the server ended: {said}")
        };
        let (clients, operators) = tokio::time::timeout(START_MAX, serving).await.context("the server did not come up")??;
        // A full pipe would stop the server.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Server {
            child,
            binary: binary.to_owned(),
            data: data.to_owned(),
            clients,
            operators,
        })
    }

    /// A token made by `haggle token`.
    pub async fn token(&self, user: &str, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.binary)
            .args(["token", user, "--data"])
            .arg(&self.data)
            .args(args)
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "haggle token: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it at once, as a power cut would.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        let pid = self.child.id().context("the server runs")?;
        let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        anyhow::ensure!(sent.success(), "kill -TERM {pid}");
        Ok(self.child.wait().await?)
    }
}

/// `clients=127.0.0.1:3001` or `"clients":"127.0.0.1:3001"` in a log line.
fn address_in(line: &str, key: &str) -> Option<String> {
    let rest = &line[line.find(key)? + key.len()..];
    let rest = rest.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '[');
    let end = rest
        .find(|c: char| !c.is_ascii_hexdigit() && !matches!(c, '.' | ':' | '[' | ']'))
        .unwrap_or(rest.len());
    rest[..end].contains(':').then(|| rest[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::address_in;

    #[test]
    fn addresses_are_found_in_both_forms_of_logs() {
        assert_eq!(
            address_in("INFO serving clients=127.0.0.1:3001 operators=[::1]:9301 x=1", "operators").as_deref(),
            Some("[::1]:9301")
        );
        assert_eq!(
            address_in(r#"{"fields":{"clients":"127.0.0.1:3001","x":1}}"#, "clients").as_deref(),
            Some("127.0.0.1:3001")
        );
        assert_eq!(address_in("nothing", "clients"), None);
    }
}
