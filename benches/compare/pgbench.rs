//! The baselines: scripts that `pgbench` runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::harness::place::run;
use crate::support::harness::postgres::{PgServer, USER, query};
use crate::support::harness::postgres_binaries::postgres_binary;

pub const STATELESS: &str = include_str!("stateless.sql");
pub const BATCHED: &str = include_str!("batched.sql");
pub const ONE: &str = include_str!("one.sql");
const IDS: &str = include_str!("ids.sql");
const FILL: &str = include_str!("fill.sql");

/// Orders in one run of [`BATCHED`].
pub const BATCH: f64 = 64.0;

/// What one run of `pgbench` came to.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Runs of the script.
    pub runs: f64,
    /// Of them in a second.
    pub rate: f64,
    /// Of one run, in milliseconds; 0 unless asked for.
    pub p50: f64,
}

/// Makes a database for the baselines: migrated as the service's, and with the functions that the scripts use.
pub async fn database(server: &PgServer) -> String {
    let url = server.create_database().await;
    // Migrates it.
    crate::load::Load::start(&url, &[]).await.stop().await;
    query(&url, IDS).await.unwrap();
    url
}

/// Fills in settled orders, and gives the server time to be done with them.
pub async fn fill(url: &str, orders: usize) {
    const STEP: usize = 20_000;
    let chunks: Vec<usize> = (0..orders).step_by(STEP).map(|start| STEP.min(orders - start)).collect();
    // Two at once: one for each core.
    let (left, right) = chunks.split_at(chunks.len() / 2);
    let work = |chunks: Vec<usize>| async move {
        for count in chunks {
            query(url, &format!("SET jit = off; {}", FILL.replace("{count}", &count.to_string())))
                .await
                .unwrap();
        }
    };
    tokio::join!(work(left.to_vec()), work(right.to_vec()));
    query(url, "VACUUM ANALYZE").await.unwrap();
    query(url, "CHECKPOINT").await.unwrap();
}

/// Runs scripts with equal weight, for some seconds, over TCP as the service, prepared as the service's statements.
pub async fn pgbench(
    server: &PgServer,
    url: &str,
    scripts: &[impl AsRef<str>],
    clients: usize,
    seconds: f64,
    is_logged: bool,
) -> Done {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(postgres_binary("pgbench"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.current_dir(folder.path()).args(["-n", "-M", "prepared", "-h", "127.0.0.1", "-U", USER]);
    command.args(["-p", &server.port().to_string(), "-c", &clients.to_string()]);
    command.args(["-j", &clients.min(2).to_string(), "-T", &format!("{:.0}", seconds.ceil())]);
    if is_logged {
        command.arg("-l");
    }
    for (number, script) in scripts.iter().enumerate() {
        let file = folder.path().join(format!("{number}.sql"));
        fs::write(&file, script.as_ref()).unwrap();
        command.arg("-f").arg(file);
    }
    command.arg(database_name(url));
    let told = run(command).await;
    let figure = |start: &str| -> f64 {
        let line = told.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{told}"));
        line.trim().split([' ', '/']).next().unwrap().parse().unwrap()
    };
    assert_eq!(figure("number of failed transactions:"), 0.0, "{told}");
    Done {
        runs: figure("number of transactions actually processed:"),
        rate: figure("tps ="),
        p50: if is_logged { logged_p50(folder.path()) } else { 0.0 },
    }
}

/// The name at the end of a URL.
pub fn database_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

fn logged_p50(folder: &Path) -> f64 {
    let mut micros = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("pgbench_log") {
            let text = fs::read_to_string(entry.path()).unwrap();
            micros.extend(text.lines().map(|line| line.split(' ').nth(2).unwrap().parse::<f64>().unwrap()));
        }
    }
    crate::support::median(&micros) / 1e3
}

/// The number of clients with which a script runs best, and its rate with each.
pub async fn best(
    server: &PgServer,
    url: &str,
    script: &str,
    tried: &[usize],
    seconds: f64,
) -> (usize, String) {
    let mut rates = Vec::new();
    for clients in tried {
        rates.push((pgbench(server, url, &[script], *clients, seconds, false).await.rate, *clients));
    }
    let told: Vec<String> = rates.iter().map(|(rate, clients)| format!("{clients}: {rate:.0}/s")).collect();
    let (_, clients) = rates.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    (clients, told.join(", "))
}
