//! The load tester: `cargo bench --bench load -- --help`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures
)]

// Held to the lints where it belongs: in the tests.
#[allow(dead_code, unused_imports, unreachable_pub, clippy::all, clippy::disallowed_methods, unused)]
#[path = "../../tests/it/harness/mod.rs"]
mod harness;
mod tester;

use std::fs::OpenOptions;
use std::io::{Write, stdout};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use clap::Parser;
use futures::FutureExt;
use harness::process::APART;
use tester::args::Args;
use tester::html::html;
use tester::progress::Screen;
use tester::report::Report;
use tester::session::{self, Stops, broke};
use tester::table::table;
use tokio::signal::unix::{SignalKind, signal};

/// Wrong usage, or it could not be run.
const NOT_RUN: u8 = 2;

/// Signals that come within this time are one.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(why) = args.validate() {
        eprintln!("{why}");
        return ExitCode::from(NOT_RUN);
    }
    // Before the run, not after hours of it.
    for file in args.json.iter().chain(&args.html) {
        if let Err(why) = OpenOptions::new().append(true).create(true).open(file) {
            eprintln!("{} cannot be written: {why}", file.display());
            return ExitCode::from(NOT_RUN);
        }
    }
    // Ctrl-C is for the tester, which still has to ask its nodes.
    APART.store(true, Ordering::Relaxed);
    // What panics here is caught and told below; of the others, the default tells more.
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some("main") {
            default(info);
        }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(args))
}

async fn run(args: Args) -> ExitCode {
    let (stops, screen) = (Stops::default(), Screen::new(args.quiet));
    let files = (args.json.clone(), args.html.clone());
    let report = tokio::select! {
        report = AssertUnwindSafe(session::run(args, &stops, &screen)).catch_unwind() => {
            report.unwrap_or_else(|panic| Err(broke("the tester broke off", panic)))
        }
        () = stopped(&stops) => Err("stopped at once, without a report".to_owned()),
    };
    let report = match report {
        Ok(report) => report,
        Err(why) => {
            screen.clear();
            eprintln!("not run: {why}");
            return ExitCode::from(NOT_RUN);
        }
    };
    say(&table(&report));
    let mut exit = report.verdict.exit;
    let (json, page) = files;
    for (file, text) in [(json, json_text as fn(&Report) -> String), (page, html)] {
        if let Some(file) = file
            && let Err(why) = write(&file, &text(&report))
        {
            eprintln!("{} cannot be written: {why}", file.display());
            exit = if exit == 0 { NOT_RUN } else { exit };
        }
    }
    ExitCode::from(exit)
}

/// Whoever reads only the first lines (`head`) has what they want, and the verdict stays what it is.
fn say(text: &str) {
    let mut out = stdout().lock();
    let _written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn json_text(report: &Report) -> String {
    format!("{:#}\n", report.json())
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(file, text)?;
    say(&format!("written: {}\n", file.display()));
    Ok(())
}

/// The first signal ends the arrivals, the second one the check, the third one everything.
async fn stopped(stops: &Stops) {
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    // The terminal was closed.
    let mut hang_up = signal(SignalKind::hangup()).unwrap();
    for stop in [Some(&stops.enough), Some(&stops.at_once), None] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        if let Some(stop) = stop {
            stop.cancel();
            // Whoever signals a process and its group at once means one.
            tokio::time::sleep(ONE_SIGNAL).await;
            while [&mut interrupt, &mut terminate, &mut hang_up]
                .into_iter()
                .any(|signal| signal.recv().now_or_never().is_some())
            {}
        }
    }
}
