//! From the arguments to the report: start what is needed, let calls come, do harm, check, and put it together.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use order_service::proto::simulator::simulator_service_client::SimulatorServiceClient;
use tokio::sync::Mutex as Shared;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::args::{Args, Kills, url};
use super::check::{self, LEDGER_CALL, Sources};
use super::machine::{Usage, own_cpu};
use super::own::{Fallen, Own};
use super::progress::{self, Screen};
use super::record::Mark;
use super::report::{Costs, Report};
use super::run::Load;

/// How the person at the terminal ends things.
#[derive(Clone, Default)]
pub struct Stops {
    /// No more calls are to come.
    pub enough: CancellationToken,
    /// The check is skipped, too.
    pub at_once: CancellationToken,
}

/// Runs what was asked for.
///
/// # Errors
/// Why it could not be run, as one sentence.
pub async fn run(args: Args, stops: &Stops, screen: &Screen) -> Result<Report, String> {
    args.validate()?;
    let mut own = None;
    if args.server.is_empty() {
        screen.tell("starting own nodes");
        let starting = AssertUnwindSafe(Own::start(&args)).catch_unwind();
        own = tokio::select! {
            started = starting => Some(started.map_err(|panic| broke("own nodes cannot be started", panic))?),
            () = stops.enough.cancelled() => return Err("stopped before anything was sent".to_owned()),
        };
    }
    let urls = own.as_ref().map_or_else(|| args.server.iter().map(|server| url(server)).collect(), Own::urls);
    let simulator = own.as_ref().map(Own::simulator_url).or_else(|| args.simulator.as_deref().map(url));
    let own_store = own.as_ref().map(Own::store_url);
    let names = match &own {
        Some(own) => (0..own.count()).map(|number| own.name(number)).collect(),
        None => args.server.clone(),
    };
    if let Some(url) = &simulator {
        let connecting = timeout(LEDGER_CALL, SimulatorServiceClient::connect(url.clone())).await;
        let reached = connecting.map_err(|_| "no answer in time".to_owned());
        let reached = reached.and_then(|reached| reached.map_err(|error| error.to_string()));
        reached.map_err(|why| format!("the simulator at {url} is not reached: {why}"))?;
    }
    let load = Load::new(args.clone(), &urls);
    let running_now = own.as_ref().map_or_else(Vec::new, |own| own.processes().to_vec());
    let made = tokio::select! {
        made = load.prepare(|made| screen.now(|| format!("making orders to begin with: {made}"))) => made,
        () = stops.enough.cancelled() => Err("stopped before the run".to_owned()),
    };
    made?;
    let own = own.map(Shared::new);
    let fallen = Mutex::new(Vec::new());
    let look_for_fallen = || {
        // Who holds it is killing or starting one.
        let free = own.as_ref().and_then(|own| own.try_lock().ok());
        fallen.lock().unwrap().extend(free.map_or_else(Vec::new, |mut own| own.fallen()));
    };
    // They change while the run goes on.
    let processes = Mutex::new(running_now);
    let mut usage = Usage::default();
    usage.look(&processes.lock().unwrap());
    let cpu_before = own_cpu();
    let running = tokio::spawn({
        let load = Arc::clone(&load);
        async move { load.run().await }
    });
    let chaos = async {
        let (Some(own), Some(kills)) = (&own, args.chaos) else { return Ok(()) };
        let killing = kill_in_turn(own, kills, &load, &processes, look_for_fallen);
        let killed = AssertUnwindSafe(killing).catch_unwind().await;
        killed.map_err(|panic| broke("a node cannot be killed and started again", panic))
    };
    let look = || {
        usage.look(&processes.lock().unwrap());
        look_for_fallen();
    };
    let watching = async {
        watch(&load, stops, screen, running, look).await?;
        Ok((load.elapsed(), own_cpu().saturating_sub(cpu_before)))
    };
    let ((wall, tester_cpu), ()) = tokio::try_join!(watching, chaos)?;
    usage.look(&processes.lock().unwrap());
    let told = load.book.close();
    let acknowledgements = told.acknowledgements;
    let sources = Sources {
        fleet: load.fleet.clone(),
        simulator,
        own_store,
        which: args.check,
        settle: args.settle,
        seed: load.seed(),
    };
    let mut found = {
        let progress = check::Progress::default();
        let checking = check::run(&sources, told, &progress, &stops.at_once);
        let showing = async {
            let mut tick = interval(screen.every());
            loop {
                tick.tick().await;
                screen.now(|| progress::checking(&progress));
            }
        };
        tokio::select! {
            found = checking => found,
            () = showing => unreachable!("progress is shown for ever"),
        }
    };
    screen.clear();
    look_for_fallen();
    let fallen = fallen.into_inner().unwrap();
    for Fallen { name, how, .. } in &fallen {
        found.broken_count += 1;
        found.broken.insert(0, (name.clone(), format!("it ended by itself: {how}")));
    }
    // Everything is gone before anything is reported.
    let is_own = own.is_some();
    drop(own);
    let costs = Costs { tester: tester_cpu, others: usage.cpu(), memory: usage.memory().clone(), wall };
    let records = load.recorder.records().clone();
    let interrupted = stops.enough.is_cancelled();
    let mut report =
        Report::new(&args, load.seed(), names, is_own, records, found, costs, acknowledgements, interrupted);
    let last_words =
        |Fallen { name, how, last }| format!("{name} ended by itself ({how}); it wrote last:\n{last}");
    report.warnings.extend(fallen.into_iter().map(last_words));
    Ok(report)
}

/// What somebody who panicked had to say.
pub fn broke(what: &str, panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("{what}: {}", text.unwrap_or("see above"))
}

/// Shows how it goes until the run is over; a stop ends the arrivals.
async fn watch(
    load: &Arc<Load>,
    stops: &Stops,
    screen: &Screen,
    mut running: tokio::task::JoinHandle<()>,
    mut look: impl FnMut(),
) -> Result<(), String> {
    let mut tick = interval(screen.every());
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut looked = Instant::now();
    loop {
        tokio::select! {
            ended = &mut running => return ended.map_err(|error| format!("the run broke off: {error}")),
            () = stops.enough.cancelled(), if !load.enough.is_cancelled() => {
                load.enough.cancel();
                screen.tell("no more calls; waiting for those under way");
            }
            _ = tick.tick() => {
                screen.now(|| progress::running(load));
                if looked.elapsed() >= Duration::from_secs(1) {
                    looked = Instant::now();
                    look();
                }
            }
        }
    }
}

/// Kills a node now and then and starts it again, until the run is over. Then all nodes run.
async fn kill_in_turn(
    own: &Shared<Own>,
    kills: Kills,
    load: &Load,
    processes: &Mutex<Vec<(String, u32)>>,
    look_for_fallen: impl Fn(),
) {
    let mut next = kills.every;
    for number in 0.. {
        let pause = sleep(next.saturating_sub(load.elapsed()));
        if load.enough.run_until_cancelled(pause).await.is_none() {
            return;
        }
        look_for_fallen();
        let mut held = own.lock().await;
        let node = number % held.count();
        // One that has ended by itself stays as it is: the run has failed.
        if held.is_down(node) {
            next = (next + kills.every).max(load.elapsed());
            continue;
        }
        let name = held.name(node);
        let mark = |what| load.recorder.mark(Mark { at: load.elapsed(), node: name.clone(), what });
        mark("killed");
        held.kill9(node).await;
        *processes.lock().unwrap() = held.processes().to_vec();
        drop(held);
        let _over = load.enough.run_until_cancelled(sleep(kills.down)).await;
        let mut held = own.lock().await;
        held.start_again(node).await;
        *processes.lock().unwrap() = held.processes().to_vec();
        mark("serves again");
        next = (next + kills.every).max(load.elapsed());
    }
}
