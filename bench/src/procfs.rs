//! What the system says about processes: time on the CPU, memory, who else runs.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::Instant,
};

use anyhow::{Context, Result};

/// Kernel threads are children of this one.
const KTHREADD: u32 = 2;

/// One line of /proc/<pid>/stat.
struct Stat {
    pid: u32,
    parent: u32,
    /// utime + stime.
    own: u64,
    /// Of children that have ended.
    reaped: u64,
}

/// The state of all processes at one moment.
pub struct Sample {
    at: Instant,
    processes: HashMap<u32, Stat>,
    /// Stolen by the hypervisor, in ticks of all cores.
    steal: u64,
}

/// What happened between two samples, in per cent of one core or seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Between the samples.
    pub seconds: f64,
    /// utime + stime of the server and its children.
    pub server_cpu_s: f64,
    /// utime + stime of this process.
    pub client_cpu_s: f64,
    /// Every process that was not started here, kernel threads apart.
    pub other_cpu_s: f64,
    /// Of all cores.
    pub steal_s: f64,
}

impl Usage {
    /// Seconds as per cent of one core.
    pub fn percent(&self, cpu_s: f64) -> f64 {
        cpu_s / self.seconds.max(1e-9) * 100.0
    }
}

impl Sample {
    /// Reads /proc.
    pub fn take() -> Result<Sample> {
        let mut processes = HashMap::new();
        for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // It may have ended meanwhile.
            let Ok(text) = fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            if let Some(stat) = parse_stat(pid, &text) {
                processes.insert(pid, stat);
            }
        }
        Ok(Sample {
            at: Instant::now(),
            processes,
            steal: steal(&fs::read_to_string("/proc/stat").context("/proc/stat")?),
        })
    }

    /// The process and all that it has started.
    pub fn tree(&self, root: u32) -> HashSet<u32> {
        let mut tree = HashSet::from([root]);
        loop {
            let grown: Vec<u32> = self
                .processes
                .values()
                .filter(|stat| tree.contains(&stat.parent) && !tree.contains(&stat.pid))
                .map(|stat| stat.pid)
                .collect();
            if grown.is_empty() {
                return tree;
            }
            tree.extend(grown);
        }
    }

    /// What happened since an earlier sample; `server` is the root of the server's processes, if it runs here.
    pub fn since(&self, before: &Sample, server: Option<u32>) -> Usage {
        let seconds = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let servers = server.map(|root| self.tree(root)).unwrap_or_default();
        let client = std::process::id();
        let own_since = |stat: &Stat| stat.own.saturating_sub(before.processes.get(&stat.pid).map_or(0, |old| old.own));
        let of_server = self.processes.values().filter(|stat| servers.contains(&stat.pid)).map(own_since).sum();
        let of_client = self.processes.get(&client).map_or(0, own_since);
        // The time of a process that has ended is found again in its parent's.
        let others = |sample: &Sample| -> u64 {
            let ours = sample.tree(client); // all that was started here, so of two servers under load the other one as well
            let others = sample.processes.values().filter(|stat| !ours.contains(&stat.pid));
            others.filter(|stat| stat.parent != KTHREADD).map(|stat| stat.own + stat.reaped).sum()
        };
        Usage {
            seconds: self.at.duration_since(before.at).as_secs_f64(),
            server_cpu_s: seconds(of_server),
            client_cpu_s: seconds(of_client),
            other_cpu_s: seconds(others(self).saturating_sub(others(before))),
            steal_s: seconds(self.steal.saturating_sub(before.steal)),
        }
    }
}

fn parse_stat(pid: u32, text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        pid,
        parent: number(4)? as u32,
        own: number(14)? + number(15)?,
        reaped: number(16)? + number(17)?,
    })
}

fn steal(stat: &str) -> u64 {
    let first = stat.lines().next().unwrap_or_default();
    first.split_ascii_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// Proportional set size of a process and its children, in KiB.
pub fn pss_kib(root: u32) -> Result<u64> {
    let tree = Sample::take()?.tree(root);
    let mut sum = 0;
    for pid in tree {
        sum += field_kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:").with_context(|| format!("memory of process {pid}"))?;
    }
    Ok(sum)
}

/// Kernel memory in slabs, of the whole machine, in KiB.
pub fn slab_kib() -> Result<u64> {
    field_kib("/proc/meminfo", "Slab:")
}

fn field_kib(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    value.with_context(|| format!("{path} has no {name}"))
}

/// The machine, for reports.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model.to_owned()));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = field_kib("/proc/meminfo", "MemTotal:").unwrap_or(0) / (1024 * 1024);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{}, {cores} cores, {memory} GiB, Linux {}",
        model.unwrap_or_else(|| "unknown CPU".into()),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_no_trouble() {
        let stat = parse_stat(7, "7 (a) b (c) S 1 7 7 0 -1 4194560 0 0 0 0 10 20 3 4 20 0").unwrap();
        assert_eq!((stat.parent, stat.own, stat.reaped), (1, 30, 7));
    }

    #[test]
    fn this_process_is_seen_working() {
        let before = Sample::take().unwrap();
        let usage = || Sample::take().unwrap().since(&before, None);
        // On a loaded machine it takes long to get 20 ms of a core.
        while usage().client_cpu_s <= 0.02 {
            assert!(before.at.elapsed().as_secs() < 20, "{:?}", usage());
        }
        assert!(pss_kib(std::process::id()).unwrap() > 0);
        assert!(slab_kib().unwrap() > 0);
    }
}
