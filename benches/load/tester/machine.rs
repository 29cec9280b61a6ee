//! What the figures were taken on, and what the tester and its own nodes used of it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// The machine and the build.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processors that may be used.
    pub cores: usize,
    /// Their name.
    pub cpu: String,
    /// Kernel and its version.
    pub kernel: String,
    /// Main memory in bytes.
    pub memory: u64,
    /// `release` or `debug`.
    pub build: &'static str,
}

fn first_of(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
        let kib = first_of("/proc/meminfo", "MemTotal");
        let kib = kib.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: first_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: format!("{} {}", read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")),
            memory: kib.unwrap_or_default() * 1024,
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

/// What follows the name in a process's `stat`; the name may hold blanks.
fn stat(process: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(text[text.rfind(')')? + 2..].split(' ').map(str::to_owned).collect())
}

/// CPU time of a process so far, in user and system mode, all threads.
fn cpu(process: &str) -> Option<Duration> {
    let fields = stat(process)?;
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // Linux counts them in hundredths of a second for everybody outside the kernel.
    Some(Duration::from_millis(ticks * 10))
}

/// CPU time of this process so far.
pub fn own_cpu() -> Duration {
    cpu("self").unwrap_or_default()
}

/// Resident memory of a process, in bytes.
fn resident(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

/// Adds up what processes use, also of those that end meanwhile: by the last look at them.
#[derive(Debug, Default)]
pub struct Usage {
    /// By process: whose it is, the CPU time at the first look and at the last one.
    seen: BTreeMap<u32, (String, Duration, Duration)>,
    /// By name: resident bytes at the first look and at the last one.
    memory: BTreeMap<String, (u64, u64)>,
}

impl Usage {
    /// Looks at these processes. Those that a Postgres has started count as its own.
    pub fn look(&mut self, processes: &[(String, u32)]) {
        let mut all: Vec<(String, u32)> = processes.to_vec();
        for (name, parent) in processes.iter().filter(|(name, _)| name == "postgres") {
            let children = fs::read_dir("/proc").into_iter().flatten().flatten();
            let children = children.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            let is_child = |child: &u32| {
                stat(&child.to_string()).is_some_and(|fields| fields.get(1) == Some(&parent.to_string()))
            };
            all.extend(children.filter(is_child).map(|child| (name.clone(), child)));
        }
        for (name, process) in all {
            let Some(now) = cpu(&process.to_string()) else { continue };
            self.seen.entry(process).or_insert((name.clone(), now, now)).2 = now;
            if name != "postgres"
                && let Some(bytes) = resident(process).filter(|bytes| *bytes > 0)
            {
                self.memory.entry(name).or_insert((bytes, bytes)).1 = bytes;
            }
        }
    }

    /// CPU time by name.
    pub fn cpu(&self) -> BTreeMap<String, Duration> {
        let mut all = BTreeMap::new();
        for (name, first, last) in self.seen.values() {
            *all.entry(name.clone()).or_insert(Duration::ZERO) += last.saturating_sub(*first);
        }
        all
    }

    /// Resident bytes by name, at the first look and at the last one.
    pub fn memory(&self) -> &BTreeMap<String, (u64, u64)> {
        &self.memory
    }
}
