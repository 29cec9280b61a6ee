//! What is measured at the server and in this process, and the table that it ends in.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use crate::support::harness::postgres::{PgServer, query};

/// Ticks of `/proc/*/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

/// Counters of a server and a database at one moment.
#[derive(Clone, Debug)]
pub struct Meter {
    at: Instant,
    transactions: f64,
    wal_bytes: f64,
    wal_syncs: f64,
    server_cpu: f64,
    own_cpu: f64,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Use {
    pub seconds: f64,
    pub transactions: f64,
    pub wal_bytes: f64,
    pub wal_syncs: f64,
    /// Seconds of all processes of the server.
    pub server_cpu: f64,
    /// Seconds of this process.
    pub own_cpu: f64,
}

impl Meter {
    /// Now. A server process counts its transactions and flushes up to a second late, so let it work a second after the
    /// last of those that matter; see [`crate::load::nudge`].
    pub async fn read(server: &PgServer, database: &str) -> Self {
        let row = server
            .admin(&format!(
                "SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{database}'), \
                 pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'), (SELECT wal_sync FROM pg_stat_wal)"
            ))
            .await
            .swap_remove(0);
        let number = |place: usize| -> f64 { row[place].parse().unwrap() };
        Self {
            at: Instant::now(),
            transactions: number(0),
            wal_bytes: number(1),
            wal_syncs: number(2),
            server_cpu: server_cpu(server.process_id().unwrap()),
            own_cpu: ticks("/proc/self/stat").map_or(0.0, |own| own.used) / TICKS,
        }
    }

    pub fn until(&self, later: &Self) -> Use {
        Use {
            seconds: later.at.duration_since(self.at).as_secs_f64(),
            transactions: later.transactions - self.transactions,
            wal_bytes: later.wal_bytes - self.wal_bytes,
            wal_syncs: later.wal_syncs - self.wal_syncs,
            server_cpu: later.server_cpu - self.server_cpu,
            own_cpu: later.own_cpu - self.own_cpu,
        }
    }
}

impl Use {
    /// Adds another round.
    pub fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.transactions += other.transactions;
        self.wal_bytes += other.wal_bytes;
        self.wal_syncs += other.wal_syncs;
        self.server_cpu += other.server_cpu;
        self.own_cpu += other.own_cpu;
    }

    /// In words, for each of `orders`.
    pub fn per(&self, orders: f64) -> String {
        format!(
            "{:.3} transactions, {:.4} flushes, {:.2} kB WAL, {:.3} ms CPU of Postgres, {:.3} ms of this process",
            self.transactions / orders,
            self.wal_syncs / orders,
            self.wal_bytes / orders / 1e3,
            self.server_cpu / orders * 1e3,
            self.own_cpu / orders * 1e3,
        )
    }
}

struct Ticks {
    parent: u32,
    /// Of itself.
    used: f64,
    /// Of children that have ended.
    ended: f64,
}

fn ticks(file: &str) -> Option<Ticks> {
    let text = fs::read_to_string(file).ok()?;
    // The name, in brackets, may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |place: usize| fields.get(place)?.parse::<f64>().ok();
    Some(Ticks {
        parent: fields.get(1)?.parse().ok()?,
        used: number(11)? + number(12)?,
        ended: number(13)? + number(14)?,
    })
}

/// Seconds of CPU of a process.
pub fn cpu_of(process: u32) -> f64 {
    ticks(&format!("/proc/{process}/stat")).unwrap().used / TICKS
}

/// Seconds of CPU of a server's first process and all others it has or had.
fn server_cpu(first: u32) -> f64 {
    let first_ticks = ticks(&format!("/proc/{first}/stat")).unwrap();
    let mut sum = first_ticks.used + first_ticks.ended;
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        if let Some(other) = name.to_str().and_then(|name| ticks(&format!("/proc/{name}/stat")))
            && other.parent == first
        {
            sum += other.used;
        }
    }
    sum / TICKS
}

/// Rewritten rows, and how many of them touched no index.
pub async fn hot(url: &str) -> String {
    let rows = query(
        url,
        "SELECT relname, n_tup_upd, round(100.0 * n_tup_hot_upd / n_tup_upd, 1) FROM pg_stat_user_tables \
         WHERE n_tup_upd > 100 ORDER BY relname",
    )
    .await
    .unwrap();
    let told: Vec<String> = rows.iter().map(|row| format!("{} {} % of {}", row[0], row[2], row[1])).collect();
    told.join(", ")
}

/// Least, middle and greatest of some figures.
pub fn spread(figures: &[f64], digits: usize) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = crate::support::median(figures);
    format!("{middle:.digits$} ({:.digits$}..{:.digits$})", sorted[0], sorted[sorted.len() - 1])
}

/// Load average of the last minute: who else was at work.
pub fn load_average() -> String {
    fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap().to_owned()
}

/// Figures with the targets beside them.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 4]>,
    pub missed: BTreeMap<String, f64>,
}

impl Table {
    /// A figure without a target.
    pub fn tell(&mut self, name: &str, figure: impl Into<String>) {
        self.rows.push([name.to_owned(), figure.into(), String::new(), String::new()]);
    }

    /// A figure of which more is better.
    pub fn at_least(&mut self, name: &str, value: f64, told: impl Into<String>, target: f64) {
        self.judge(name, value, told.into(), format!(">= {target}"), value >= target);
    }

    /// A figure of which less is better.
    pub fn at_most(&mut self, name: &str, value: f64, told: impl Into<String>, target: f64) {
        self.judge(name, value, told.into(), format!("<= {target}"), value <= target);
    }

    fn judge(&mut self, name: &str, value: f64, told: String, target: String, met: bool) {
        if !met {
            self.missed.insert(name.to_owned(), value);
        }
        let verdict = if met { "PASS" } else { "MISS" };
        self.rows.push([name.to_owned(), told, target, verdict.to_owned()]);
    }

    pub fn print(&self) {
        let width = |column: usize| self.rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let (name, figure, target) = (width(0), width(1), width(2));
        println!();
        for row in &self.rows {
            println!("{:name$}  {:figure$}  {:target$}  {}", row[0], row[1], row[2], row[3]);
        }
        println!("load average at the end: {}; missed: {}", load_average(), self.missed.len());
    }
}
