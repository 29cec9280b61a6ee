//! The command line: what may be asked of the tester, and what is refused before anything is started.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use order_service::clients::orders::{Access, Bearer};

use super::mix::{Keys, Mix, share, time};
use super::shape::{Arrivals, Shape};

/// The longest run.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The most calls.
pub const MOST_REQUESTS: u64 = 100_000_000;
/// The most orders made before the run.
const MOST_PREPARED: u64 = 1_000_000;

/// How calls come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mode {
    /// At a set rate, whatever becomes of those before.
    Open,
    /// So many are under way all the time: the next is sent when one is answered.
    Closed,
}

/// What the tester's own nodes keep their orders in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Store {
    /// A file; one node.
    Sqlite,
    /// A Postgres server of the tester's own.
    Postgres,
}

/// Which orders are checked afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// All.
    All,
    /// So many, drawn by chance.
    Sample(u64),
    /// None.
    None,
}

fn check(text: &str) -> Result<Check, String> {
    match text.split_once(':') {
        None if text == "all" => Ok(Check::All),
        None if text == "none" => Ok(Check::None),
        Some(("sample", count)) if count.parse().is_ok_and(|count: u64| count > 0) => {
            Ok(Check::Sample(count.parse().unwrap_or(1)))
        }
        _ => Err("is none of all, sample:N, none".to_owned()),
    }
}

/// Kills of own nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kills {
    /// Time from one to the next.
    pub every: Duration,
    /// How long a node stays away.
    pub down: Duration,
}

fn chaos(text: &str) -> Result<Kills, String> {
    let usage = || "write kill:every=20s or kill:every=20s,down=3s".to_owned();
    let settings = text.strip_prefix("kill:").ok_or_else(usage)?;
    let mut kills = Kills { every: Duration::ZERO, down: Duration::from_secs(3) };
    for setting in settings.split(',') {
        match setting.split_once('=').ok_or_else(usage)? {
            ("every", value) => kills.every = time(value)?,
            ("down", value) => kills.down = time(value)?,
            _ => return Err(usage()),
        }
    }
    if kills.every < Duration::from_secs(1) { Err("every= is at least 1s".to_owned()) } else { Ok(kills) }
}

fn skip_undo(text: &str) -> Result<String, String> {
    let station = text
        .strip_prefix("skip-undo:")
        .ok_or("write skip-undo:SAGA.STEP, such as skip-undo:create.reserve")?;
    match order_service::actor::SkippedUndo::parse(station) {
        Some(_) => Ok(station.to_owned()),
        None => {
            Err(format!("{station} is undone by no saga; try create.reserve, cancel.charge or amend.reserve"))
        }
    }
}

/// Sections that say where orders, money and messages go: nodes of the tester keep to themselves.
const OURS: [&str; 6] = ["store", "collaborators", "peer", "cache", "simulator", "testing"];
/// What the nodes of a cluster know each other by.
const OF_MEMBERS: [&str; 5] = ["enabled", "name", "advertise", "peers", "seeds"];

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as saga.run_ahead=0s")?;
    let key = key.trim().replace('.', "__").to_lowercase();
    let parts: Vec<&str> = key.split("__").collect();
    let is_ours = match parts[..] {
        [_, "listen"] => true,
        ["cluster", name] => OF_MEMBERS.contains(&name),
        [section, ..] => OURS.contains(&section),
        [] => false,
    };
    if is_ours {
        return Err(format!(
            "{} is up to the tester: its own nodes use its own store, simulator and addresses; for others, start them and use \
             --server",
            parts.join(".")
        ));
    }
    Ok((format!("ORDER__{}", key.to_uppercase()), value.to_owned()))
}

const EXPLAINED: &str = "\
Sends orders, reads and changes to a service, measures how it answers, and then checks that it told the truth: every \
order it acknowledged is there, was charged once, and its stock and money fit to what payment and inventory have in \
their books.

Open loop (--mode open, the default): calls come at --rate, as those of customers do, whether earlier ones are answered \
or not. Latency counts from the moment a call was due, so a server that stalls shows in every call it kept waiting. When \
more than --in-flight are under way, further calls are counted as dropped; none is delayed in silence.
Closed loop (--mode closed): --in-flight callers, each of which sends the next call when it has its answer. It finds the \
highest rate, but says little about latency: a slow server is asked less.

Without --server it starts everything by itself on free ports and in temporary folders: a node, or a cluster of \
--nodes on a private Postgres, and one simulator of payment, inventory and the others. All of it is gone afterwards. \
Nodes on Postgres wait longer for the others than by default, because they share one machine; what decides their speed \
is as by default.";

const EXAMPLES: &str = "\
Typical questions (each after `cargo bench --bench load -- `):
  What is the p99 at 300 calls a second?
      --rate 300 --duration 60s
  How much can it take?
      --mode closed --in-flight 64                        the most, with 64 callers
      --rate 3000 --shape step:10 --duration 100s         where latency bends: a row for each step
  Does it hold for hours?
      --shape soak --rate 100 --duration 4h --html soak.html
  Is anything lost when a node dies?
      --nodes 3 --chaos kill:every=20s --duration 2m
  Reads only, a few of them asked for most of the time?
      --mix get=80,get-status=20 --keys zipf:1.1
  My own cluster?
      --server 127.0.0.1:53001,127.0.0.1:53002 --simulator 127.0.0.1:50061
      ORDER_TOKEN=... --server 127.0.0.1:50051            with auth.mode jwt: a token of the role service
  Would the check notice a fault?
      --break skip-undo:create.reserve --declined 10%     has to end in FAIL

The first line of the report is the verdict: PASS, or FAIL with the orders and the laws that are broken.
Ctrl-C ends the arrivals, waits for what is under way, reports and checks; a second one skips the check. (Cargo itself ends \
at the first; the tester goes on in the same terminal.)

Exit codes:
  0  PASS
  1  FAIL: an order or the books break a law, or a limit of yours (--max-p99, --max-failed) was passed
  2  wrong usage, refused, or not able to run; also when no call was answered or the check was stopped";

/// A load tester that checks what it was told.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "load",
    bin_name = "cargo bench --bench load --",
    long_about = EXPLAINED,
    after_long_help = EXAMPLES,
    after_help = "Examples, open and closed loop, and exit codes: --help"
)]
pub struct Args {
    /// How calls come.
    #[arg(long, value_enum, default_value = "open", help_heading = "Load")]
    pub mode: Mode,
    /// Open loop: calls that arrive in a second; with a shape, the highest rate.
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND", help_heading = "Load")]
    pub rate: f64,
    /// Closed loop: callers [default: 16]. Open loop: calls under way beyond which arrivals are dropped [default: 4 seconds'
    /// worth, at least 1000].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub in_flight: Option<usize>,
    /// How long calls come, at most 168h [default: 30s, of a soak 1h].
    #[arg(long, value_parser = time, value_name = "TIME", help_heading = "Load")]
    pub duration: Option<Duration>,
    /// Ends the run early after so many arrivals, at most 100000000.
    #[arg(long, default_value_t = 5_000_000, value_name = "N", help_heading = "Load")]
    pub requests: u64,
    /// How the rate changes: steady, ramp[:PART] from that part of it (0), step[:N] up to it in N steps (5), soak.
    #[arg(long, value_parser = Shape::parse, default_value = "steady", help_heading = "Load")]
    pub shape: Shape,
    /// Whether arrivals are at equal distances or by chance.
    #[arg(long, value_enum, default_value = "even", help_heading = "Load")]
    pub arrivals: Arrivals,
    /// What arrives, by weight: create, get, get-status, list, cancel, edit, life (create to DELIVERED, some with a return or
    /// a refund).
    #[arg(
        long,
        value_parser = Mix::parse,
        default_value = "create=35,get=25,get-status=15,list=5,cancel=8,edit=7,life=5",
        value_name = "NAME=WEIGHT,...",
        help_heading = "Load"
    )]
    pub mix: Mix,
    /// Which orders and users are asked for: uniform, hot:N (only N of them), zipf:S (the n-th in proportion to 1/n^S).
    #[arg(long, value_parser = Keys::parse, default_value = "uniform", help_heading = "Load")]
    pub keys: Keys,
    /// Users that order.
    #[arg(long, default_value_t = 10_000, value_name = "N", help_heading = "Load")]
    pub users: u64,
    /// Share of new orders whose payment is declined [default: 0, with --break 10%].
    #[arg(long, value_parser = share, value_name = "SHARE", help_heading = "Load")]
    pub declined: Option<f64>,
    /// Orders that are made before the run, to be read and changed [default: 200 if the mix needs any].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub prepare: Option<u64>,
    /// How long a call may take, its repeats included.
    #[arg(long, value_parser = time, default_value = "10s", value_name = "TIME", help_heading = "Load")]
    pub timeout: Duration,
    /// How often a call that got no answer is sent again, with the same request id.
    #[arg(long, default_value_t = 2, value_name = "N", help_heading = "Load")]
    pub retries: u32,
    /// What chance is drawn from; the same seed sends the same calls [default: by the clock].
    #[arg(long, help_heading = "Load")]
    pub seed: Option<u64>,

    /// Services to test, HOST:PORT,...; in turn, the next one when one is away [default: own nodes].
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS", help_heading = "Target")]
    pub server: Vec<String>,
    /// The simulator behind them, whose ledger is checked; else it is not.
    #[arg(long, value_name = "ADDRESS", requires = "server", help_heading = "Target")]
    pub simulator: Option<String>,
    /// Allows addresses other than this machine's. The run creates, charges and cancels orders there.
    #[arg(long, help_heading = "Target")]
    pub allow_remote: bool,
    /// Proves who calls, to servers with auth.mode jwt: a token of the role service, or of admin. Others can read it in the
    /// list of processes: better by variable.
    #[arg(
        long,
        env = "ORDER_TOKEN",
        hide_env_values = true,
        value_parser = Bearer::new,
        value_name = "TOKEN",
        help_heading = "Target"
    )]
    pub token: Option<Bearer>,
    /// Connections to each server.
    #[arg(long, default_value_t = 2, value_name = "N", help_heading = "Target")]
    pub connections: usize,
    /// Own nodes; more than one share a Postgres.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Target", conflicts_with = "server")]
    pub nodes: usize,
    /// Where own nodes keep orders [default: sqlite for one node].
    #[arg(long, value_enum, help_heading = "Target", conflicts_with = "server")]
    pub store: Option<Store>,
    /// A setting of own nodes, such as saga.run_ahead=0s; repeatable. None that says where something is.
    #[arg(long, value_parser = setting, value_name = "KEY=VALUE", help_heading = "Target", conflicts_with = "server")]
    pub set: Vec<(String, String)>,

    /// Kills own nodes with `kill -9` in turn and starts them again: kill:every=20s[,down=3s].
    #[arg(long, value_parser = chaos, value_name = "CHAOS", help_heading = "Faults", conflicts_with = "server")]
    pub chaos: Option<Kills>,
    /// Breaks own nodes on purpose, to see the check fail: skip-undo:SAGA.STEP counts that undo as done without the call.
    #[arg(
        long = "break",
        value_parser = skip_undo,
        value_name = "FAULT",
        help_heading = "Faults",
        conflicts_with = "server"
    )]
    pub broken: Option<String>,

    /// Which orders are checked afterwards: all, sample:N, none.
    #[arg(long, value_parser = check, default_value = "all", help_heading = "Check and report")]
    pub check: Check,
    /// How long sagas are waited for that still run after the load.
    #[arg(long, value_parser = time, default_value = "60s", value_name = "TIME", help_heading = "Check and report")]
    pub settle: Duration,
    /// Fails the run when the 99th percentile of all calls is above this; failed ones count with the time until they failed,
    /// dropped ones as endless.
    #[arg(long, value_parser = time, value_name = "TIME", help_heading = "Check and report")]
    pub max_p99: Option<Duration>,
    /// Fails the run when a larger share of calls failed or was dropped.
    #[arg(long, value_parser = share, value_name = "SHARE", help_heading = "Check and report")]
    pub max_failed: Option<f64>,
    /// Writes the report as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Check and report")]
    pub json: Option<PathBuf>,
    /// Writes the report as one HTML page with plots.
    #[arg(long, value_name = "FILE", help_heading = "Check and report")]
    pub html: Option<PathBuf>,
    /// Shows no progress.
    #[arg(long, short, help_heading = "Check and report")]
    pub quiet: bool,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Args {
    /// How long calls come.
    pub fn length(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(if self.shape == Shape::Soak { 3_600 } else { 30 }))
    }

    /// Callers, or the most calls under way.
    pub fn places(&self) -> usize {
        self.in_flight.unwrap_or(match self.mode {
            Mode::Closed => 16,
            Mode::Open => ((self.rate * 4.0) as usize).max(1_000),
        })
    }

    /// Orders that are made before the run.
    pub fn prepared(&self) -> u64 {
        self.prepare.unwrap_or(if self.mix.needs_orders() { 200 } else { 0 })
    }

    /// Share of new orders whose payment is declined.
    pub fn declined_share(&self) -> f64 {
        self.declined.unwrap_or(if self.broken.is_some() { 0.1 } else { 0.0 })
    }

    /// Where own nodes keep their orders.
    pub fn own_store(&self) -> Store {
        self.store.unwrap_or(if self.nodes > 1 { Store::Postgres } else { Store::Sqlite })
    }

    /// What cannot be run, in one sentence.
    ///
    /// # Errors
    /// That sentence.
    pub fn validate(&self) -> Result<(), String> {
        let refuse = |wrong: bool, why: &str| if wrong { Err(why.to_owned()) } else { Ok(()) };
        let length = self.length();
        refuse(!(0.01..=1_000_000.0).contains(&self.rate), "--rate is between 0.01 and 1000000 a second")?;
        refuse(
            length < Duration::from_millis(100) || length > LONGEST,
            "--duration is between 100ms and 168h",
        )?;
        refuse(
            self.requests == 0 || self.requests > MOST_REQUESTS,
            "--requests is between 1 and 100000000; a run has to have an end",
        )?;
        refuse(!(1..=100_000).contains(&self.places()), "--in-flight is between 1 and 100000")?;
        refuse(self.prepared() > MOST_PREPARED, "--prepare is at most 1000000")?;
        refuse(
            self.prepared() == 0 && self.mix.needs_orders(),
            "the mix reads or changes orders: let some be made before with --prepare",
        )?;
        refuse(!(1..=50_000_000).contains(&self.users), "--users is between 1 and 50000000")?;
        refuse(!(1..=64).contains(&self.connections), "--connections is between 1 and 64")?;
        refuse(self.retries > 100, "--retries is at most 100")?;
        let timeout = Duration::from_millis(10)..=Duration::from_secs(600);
        refuse(!timeout.contains(&self.timeout), "--timeout is between 10ms and 600s")?;
        refuse(!(1..=16).contains(&self.nodes), "--nodes is between 1 and 16")?;
        refuse(
            self.nodes > 1 && self.own_store() == Store::Sqlite,
            "a SQLite file serves one node; leave --store out or say --store postgres",
        )?;
        refuse(
            self.chaos.is_some_and(|kills| kills.every > length),
            "the first kill would come after the end; make --duration longer or every= shorter",
        )?;
        refuse(
            self.mode == Mode::Closed && !matches!(self.shape, Shape::Steady | Shape::Soak),
            "a closed loop has no rate that could be shaped; use --mode open",
        )?;
        for address in &self.server {
            let server =
                url(address).parse().map_err(|_| format!("{address} is no address, write HOST:PORT"))?;
            self.access().fits(&server).map_err(|_| {
                format!("{address} would get the token in the clear: TLS is not spoken here; run on its machine, by loopback")
            })?;
        }
        for address in self.server.iter().chain(&self.simulator) {
            self.may_be_asked(address)?;
        }
        Ok(())
    }

    /// What calls show to servers; own nodes ask for nothing.
    pub fn access(&self) -> Access {
        Access { token: self.token.clone().filter(|_| !self.server.is_empty()), ..Access::default() }
    }

    /// Refuses what is not on this machine, unless that is allowed.
    fn may_be_asked(&self, address: &str) -> Result<(), String> {
        if address.starts_with("https://") {
            return Err(format!(
                "{address}: TLS is not spoken here; give HOST:PORT of a listener without it"
            ));
        }
        let place = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let mut found = place
            .to_socket_addrs()
            .map_err(|error| format!("{address} is no address, write HOST:PORT ({error})"))?;
        if self.allow_remote || found.all(|address| address.ip().is_loopback()) {
            return Ok(());
        }
        Err(format!(
            "{address} is not on this machine: the run would create, charge and cancel orders there; say --allow-remote if \
             that is meant"
        ))
    }
}

/// The URL of an address.
pub fn url(address: &str) -> String {
    let place = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    format!("http://{place}")
}
