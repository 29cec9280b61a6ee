//! What is measured, one function a phase.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use order_service::store::postgres::load_statement_text;

use crate::Amount;
use crate::figures::{Meter, Table, Use, hot, spread};
use crate::load::Load;
use crate::pgbench::{self, BATCH, BATCHED, Done, ONE, STATELESS, database_name, pgbench};
use crate::support::harness::postgres::{PgServer, Shutdown, query};
use crate::support::median;

const IN_FLIGHT: [usize; 2] = [64, 256];

/// One turn of the service: its rate, and what was used for how many orders.
async fn turn(server: &PgServer, url: &str, load: &Load, in_flight: usize, orders: usize) -> (f64, Use, f64) {
    load.nudge().await;
    let before = Meter::read(server, database_name(url)).await;
    let run = load.create(in_flight, orders).await;
    let after = Meter::read(server, database_name(url)).await;
    let nudged = load.nudge().await;
    let counted = Meter::read(server, database_name(url)).await;
    // The CPU is read at once, the counters when all of them are in.
    let (mut used, late) = (before.until(&after), before.until(&counted));
    let share = run.done as f64 / (run.done + nudged) as f64;
    used.transactions = late.transactions * share;
    used.wal_syncs = late.wal_syncs * share;
    println!(
        "  service, {in_flight} in flight: {:.0} orders/s, p50 {:.1?}, p99 {:.1?}; {}",
        run.rate(),
        run.percentile(50.0),
        run.percentile(99.0),
        used.per(run.done as f64)
    );
    (run.rate(), used, run.done as f64)
}

/// One turn of a baseline: runs, and what they used.
async fn baseline(
    server: &PgServer,
    url: &str,
    script: &str,
    clients: usize,
    amount: Amount,
    orders: f64,
) -> (Done, Use) {
    let before = Meter::read(server, database_name(url)).await;
    let done = pgbench(server, url, &[script], clients, amount.seconds, false).await;
    let used = before.until(&Meter::read(server, database_name(url)).await);
    println!(
        "  pgbench, {clients} clients, {orders} orders a run: {:.0} orders/s; {}",
        done.rate * orders,
        used.per(done.runs * orders)
    );
    (done, used)
}

/// Settled CreateOrder through gRPC against both limits.
pub async fn create(server: &PgServer, amount: Amount, table: &mut Table) {
    let url = server.create_database().await;
    let load = Load::start(&url, &[]).await;
    let base = pgbench::database(server).await;
    let probe = amount.seconds.min(3.0);
    let (alone, told) = pgbench::best(server, &base, STATELESS, &[8, 16, 32, 64], probe).await;
    println!("stateless, orders/s by clients: {told}; taken: {alone}");
    let (together, told) = pgbench::best(server, &base, BATCHED, &[1, 2, 4, 8], probe).await;
    println!("batched, runs/s by clients: {told}; taken: {together}");
    load.create(64, amount.orders.min(5_000)).await;

    let mut stateless = (Vec::new(), Use::default(), 0.0);
    let mut batched = (Vec::new(), Use::default(), 0.0);
    let mut service = IN_FLIGHT.map(|_| (Vec::new(), Use::default(), 0.0));
    let before = load.batches().await;
    for round in 1..=amount.rounds {
        println!("create, round {round}");
        for (place, in_flight) in IN_FLIGHT.into_iter().enumerate() {
            let (rate, used, done) = turn(server, &url, &load, in_flight, amount.orders).await;
            service[place].0.push(rate);
            service[place].1.add(used);
            service[place].2 += done;
            if place == 0 {
                let (done, used) = baseline(server, &base, STATELESS, alone, amount, 1.0).await;
                stateless.0.push(done.rate);
                stateless.1.add(used);
                stateless.2 += done.runs;
                let (done, used) = baseline(server, &base, BATCHED, together, amount, BATCH).await;
                batched.0.push(done.rate * BATCH);
                batched.1.add(used);
                batched.2 += done.runs * BATCH;
            }
        }
    }
    println!("store: {}", before.until(&load.batches().await));
    table.tell(&format!("create: stateless, {alone} clients, orders/s"), spread(&stateless.0, 0));
    table.tell(&format!("create: batched, {together} clients, orders/s"), spread(&batched.0, 0));
    table.tell("create: stateless, an order", stateless.1.per(stateless.2));
    table.tell("create: batched, an order", batched.1.per(batched.2));
    for (place, in_flight) in IN_FLIGHT.into_iter().enumerate() {
        let (rates, used, orders) = &service[place];
        let name = format!("create, {in_flight} in flight:");
        let ratio = |others: &[f64]| -> Vec<f64> {
            rates.iter().zip(others).map(|(ours, theirs)| ours / theirs).collect()
        };
        table.tell(&format!("{name} orders/s"), spread(rates, 0));
        let ratios = ratio(&stateless.0);
        table.at_least(&format!("{name} of stateless"), median(&ratios), spread(&ratios, 2), 4.0);
        let ratios = ratio(&batched.0);
        table.at_least(&format!("{name} of batched"), median(&ratios), spread(&ratios, 2), 0.35);
        let mut each = |what: &str, value: f64, digits: usize, target: f64| {
            table.at_most(&format!("{name} {what} an order"), value, format!("{value:.digits$}"), target);
        };
        each("transactions", used.transactions / orders, 3, 0.1);
        each("flushes", used.wal_syncs / orders, 4, 0.05);
        each("kB of WAL", used.wal_bytes / orders / 1e3, 2, 4.0);
        each("ms of Postgres CPU", used.server_cpu / orders * 1e3, 3, 0.25);
        let own = used.own_cpu / orders * 1e3;
        table.tell(&format!("{name} ms of this process' CPU an order"), format!("{own:.3}"));
    }
    table.tell("create: rewritten without an index (HOT)", hot(&url).await);
    load.stop().await;
}

/// Latency of one order alone, against the two commits it needs.
pub async fn one(server: &PgServer, amount: Amount, table: &mut Table) {
    let url = server.create_database().await;
    let load = Load::start(&url, &[]).await;
    let base = pgbench::database(server).await;
    load.create(1, 100).await;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..amount.rounds {
        let run = load.create(1, amount.orders.min(400)).await;
        let alone = run.percentile(50.0).as_secs_f64() * 1e3;
        let commits = pgbench(server, &base, &[ONE], 1, amount.seconds.min(3.0), true).await.p50;
        ours.push(alone);
        theirs.push(commits);
        ratios.push(alone / commits);
    }
    table.tell("one: p50 of a create, ms", spread(&ours, 2));
    table.tell("one: p50 of its two commits by pgbench, ms", spread(&theirs, 2));
    table.at_most("one: of the commits it needs", median(&ratios), spread(&ratios, 2), 1.5);
    load.stop().await;
}

/// GetOrder of passive orders against the same statement by pgbench.
pub async fn get(server: &PgServer, amount: Amount, table: &mut Table) {
    const ORDERS: usize = 100;
    // As many as the node reads with.
    const CLIENTS: usize = 4;
    let url = server.create_database().await;
    let settings = [
        ("ORDER__CACHE__URL", "none:"),
        ("ORDER__ACTOR__IDLE_AFTER", "200ms"),
        ("ORDER__ACTOR__SWEEP_EVERY", "50ms"),
    ];
    let load = Load::start(&url, &settings).await;
    let ids = Arc::new(load.ids(ORDERS).await);
    load.passive().await;
    query(&url, "VACUUM ANALYZE").await.unwrap();
    let statement = load_statement_text();
    let scripts: Vec<String> =
        ids.iter().map(|id| format!("{};\n", statement.replace("$1", &format!("'{id}'")))).collect();
    let gets = amount.orders;
    load.get(&ids, 64, gets / 4).await;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut used, mut done) = (Use::default(), 0.0);
    for _ in 0..amount.rounds {
        load.get(&ids, 64, 64).await;
        let before = Meter::read(server, database_name(&url)).await;
        let run = load.get(&ids, 64, gets).await;
        let cpu = before.until(&Meter::read(server, database_name(&url)).await);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        load.get(&ids, 64, 64).await;
        let after = Meter::read(server, database_name(&url)).await;
        used.add(Use { transactions: before.until(&after).transactions, ..cpu });
        done += (run.done + 64) as f64;
        let bare = pgbench(server, &url, &scripts, CLIENTS, amount.seconds, false).await;
        ours.push(run.rate());
        theirs.push(bare.rate);
        ratios.push(run.rate() / bare.rate);
    }
    table.tell("get: of passive orders, 64 in flight, 1/s", spread(&ours, 0));
    table.tell(&format!("get: pgbench, the same statement, {CLIENTS} clients, 1/s"), spread(&theirs, 0));
    table.at_least("get: of pgbench", median(&ratios), spread(&ratios, 2), 0.7);
    let trips = used.transactions / done;
    table.at_most("get: round trips a get", trips, format!("{trips:.2}"), 1.02);
    table.tell(
        "get: ms of CPU a get",
        format!(
            "Postgres {:.3}, this process {:.3}",
            used.server_cpu / done * 1e3,
            used.own_cpu / done * 1e3
        ),
    );
    load.stop().await;
}

/// Creates with many orders in the tables, against few.
pub async fn million(server: &PgServer, amount: Amount, table: &mut Table) {
    const FEW: usize = 10_000;
    let mut sides = Vec::new();
    for orders in [FEW, amount.many] {
        let url = pgbench::database(server).await;
        let start = Instant::now();
        pgbench::fill(&url, orders).await;
        let size = query(&url, "SELECT pg_size_pretty(pg_database_size(current_database()))").await.unwrap();
        println!("million: {orders} orders filled in after {:.0?}, {}", start.elapsed(), size[0][0]);
        sides.push((url, Vec::new()));
    }
    let loads = [Load::start(&sides[0].0, &[]).await, Load::start(&sides[1].0, &[]).await];
    let mut ratios = Vec::new();
    for round in 0..=amount.rounds {
        for (load, (url, rates)) in loads.iter().zip(&mut sides) {
            let (rate, _, _) = turn(server, url, load, 64, amount.orders).await;
            // The first round warms both up.
            if round > 0 {
                rates.push(rate);
            }
        }
        if let (Some(few), Some(many)) = (sides[0].1.last(), sides[1].1.last()) {
            ratios.push(many / few);
        }
    }
    table.tell(&format!("million: with {FEW} orders, orders/s"), spread(&sides[0].1, 0));
    table.tell(&format!("million: with {} orders, orders/s", amount.many), spread(&sides[1].1, 0));
    table.at_least("million: of the rate with few", median(&ratios), spread(&ratios, 2), 0.85);
    for load in loads {
        load.stop().await;
    }
    for (url, _) in &sides {
        server.admin(&format!("DROP DATABASE {}", database_name(url))).await;
    }
}

/// A restart of the server under load: how long nothing settles beyond its own downtime.
pub async fn restart(server: &PgServer, amount: Amount, table: &mut Table) {
    let url = server.create_database().await;
    let load = Load::start(&url, &[]).await;
    load.create(64, amount.orders.min(5_000)).await;
    let (mut gaps, mut downs, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..amount.rounds.min(3) {
        let ended = Arc::new(AtomicBool::new(false));
        let looks = tokio::spawn(looks(server.url("postgres"), Arc::clone(&ended)));
        let restart = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let start = Instant::now();
            server.restart(Shutdown::Fast).await;
            start
        };
        let (start, (settled, failed)) = tokio::join!(restart, load.create_for(64, Duration::from_secs(8)));
        ended.store(true, Ordering::Relaxed);
        let down = longest(&looks.await.unwrap(), start);
        // Nothing at its end is a gap, too.
        let settled: Vec<Instant> = settled.into_iter().chain([Instant::now()]).collect();
        let gap = longest(&settled, start);
        println!(
            "restart: nothing settled for {gap:.2?}, down for {down:.2?}; {} settled, {failed} calls failed",
            settled.len()
        );
        gaps.push(gap.as_secs_f64());
        downs.push(down.as_secs_f64());
        costs.push(gap.saturating_sub(down).as_secs_f64());
    }
    table.tell("restart: nothing settled for, s", spread(&gaps, 2));
    table.tell("restart: the server's own downtime, s", spread(&downs, 2));
    table.at_most("restart: beyond the downtime, s", median(&costs), spread(&costs, 2), 2.0);
    load.stop().await;
}

/// When a new connection was served, tried all the time.
async fn looks(url: String, ended: Arc<AtomicBool>) -> Vec<Instant> {
    let mut served = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        if query(&url, "SELECT 1").await.is_ok() {
            served.push(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served
}

/// The longest time without a moment of these, of those that end after `start`.
fn longest(moments: &[Instant], start: Instant) -> Duration {
    let gaps = moments.windows(2).filter(|two| two[1] > start).map(|two| two[1] - two[0]);
    gaps.max().expect("something after the restart")
}

/// Nothing but load, for a profiler.
pub async fn load(server: &PgServer, amount: Amount) {
    let url = server.create_database().await;
    let load = Load::start(&url, &[]).await;
    println!("this process: {}, server: {}", std::process::id(), server.process_id().unwrap());
    for _ in 0..amount.rounds {
        for in_flight in IN_FLIGHT {
            turn(server, &url, &load, in_flight, amount.orders).await;
        }
    }
    load.stop().await;
}
