//! The command line: one file per subcommand.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage. Results go to standard output, everything else to
//! standard error. Nothing here panics, and a reader that closes the pipe is no failure.

mod cluster;
mod config_check;
mod last_words;
mod migrate;
mod ops;
mod order;
mod serve;
mod simulate;
mod token;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors};
use crate::telemetry::{self, Telemetry};

/// Exit code of a refusal or failure.
const FAILED: u8 = 1;
/// Exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

/// Orders for an e-commerce platform: one actor per order, durable sagas, gRPC.
#[derive(Parser, Debug)]
#[command(
    name = "order-service",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  order-service serve                                  run a node: no configuration needed
  order-service order create examples/create-order.json
  order-service order watch ORD-7K3M9Q2XYZ
  order-service config check --config my.yaml

Exit codes: 0 done, 1 refused or failed, 2 wrong usage."
)]
struct Cli {
    #[command(flatten)]
    files: ConfigFiles,
    #[command(subcommand)]
    command: Command,
}

/// Which configuration files are read.
///
/// Not a global argument of clap: that would silently drop files given before the subcommand when more follow it.
#[derive(Args, Debug, Clone, Default)]
struct ConfigFiles {
    /// A YAML file over the defaults; may be repeated, later ones win. Above it come ORDER__SECTION__KEY variables.
    #[arg(long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node until SIGINT or SIGTERM.
    Serve(serve::ServeArgs),
    /// Run the five simulated collaborators as one gRPC server, for nodes that must share one truth.
    Simulate(simulate::SimulateArgs),
    /// Apply migrations to the configured store and exit.
    Migrate(migrate::MigrateArgs),
    /// Look at the configuration.
    #[command(arg_required_else_help = true)]
    Config(ConfigArgs),
    /// Create, read and change orders on a running node.
    Order(Box<order::OrderArgs>),
    /// Look after a cluster: its nodes, who owns what, and moving everything away from a node.
    #[command(arg_required_else_help = true)]
    Cluster(Box<cluster::ClusterArgs>),
    /// Look after orders and stores: why an order waits, and the repairs.
    #[command(arg_required_else_help = true)]
    Ops(Box<ops::OpsArgs>),
    /// Mint a token for development keys.
    Token(token::TokenArgs),
}

#[derive(Args, Debug)]
struct ConfigArgs {
    #[command(flatten)]
    files: ConfigFiles,
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Load and check the configuration, and print every key with its value and where it comes from.
    Check(config_check::CheckArgs),
}

/// Why a command ends with an exit code other than 0.
#[derive(Debug)]
enum Failure {
    /// The configuration is wrong.
    Config(ConfigErrors),
    /// One sentence.
    Sentence(String),
    /// It has been told already.
    Told,
    /// Standard output took no more.
    Output(io::Error),
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Config(errors)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Runs the program with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no failure, and nothing else could be told to anybody.
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(WRONG_USAGE) };
        }
    };
    let outcome = execute(cli);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&explanation(failure));
            ExitCode::from(FAILED)
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    telemetry::log_panics();
    let files = cli.files;
    match cli.command {
        Command::Serve(arguments) => serve::run(&files.and(&arguments.files)),
        Command::Simulate(arguments) => simulate::run(&files.and(&arguments.files), &arguments),
        Command::Migrate(arguments) => migrate::run(&files.and(&arguments.files), &arguments),
        Command::Config(ConfigArgs { files: more, command: ConfigCommand::Check(arguments) }) => {
            config_check::run(&files.and(&more).and(&arguments.files))
        }
        Command::Order(arguments) => order::run(*arguments),
        Command::Cluster(arguments) => cluster::run(*arguments),
        Command::Ops(arguments) => ops::run(&files, *arguments),
        Command::Token(arguments) => token::run(&files.and(&arguments.files), arguments),
    }
}

impl ConfigFiles {
    /// These files, then `more`.
    fn and(&self, more: &Self) -> Self {
        Self { config: self.config.iter().chain(&more.config).cloned().collect() }
    }
}

/// What is told about a failure; ends with one sentence that says what to do.
fn explanation(failure: Failure) -> String {
    let mut text = String::new();
    match failure {
        Failure::Told => {}
        Failure::Sentence(sentence) => {
            let _ = write!(text, "error: {sentence}");
        }
        Failure::Output(error) => {
            let _ = write!(text, "error: the result cannot be written ({error}); check standard output");
        }
        Failure::Config(errors) => {
            for error in &errors.0 {
                let _ = writeln!(text, "{error}");
            }
            let count = errors.0.len();
            let (noun, pronoun) = if count == 1 { ("error", "it") } else { ("errors", "them") };
            let _ = write!(
                text,
                "error: the configuration has {count} {noun}; correct {pronoun} and start again"
            );
        }
    }
    text
}

/// Prints a result.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Writes lines to standard error; when that fails there is nobody left to tell.
fn tell(text: &str) {
    if !text.is_empty() {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// The environment as the configuration wants it. What is not Unicode is shown with replacement characters, so that
/// a broken value of ours is refused rather than overlooked.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

fn load_config(files: &ConfigFiles) -> Result<Config, Failure> {
    Ok(Config::load(&files.config, environment())?)
}

/// Sets up logs and runs `work` on a runtime of many threads; a failure is the last log line.
fn run_logged<F>(config: Config, work: impl FnOnce(Config, Telemetry) -> F) -> Result<(), Failure>
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_on_runtime(config, work).map_err(|failure| match failure {
        Failure::Sentence(sentence) if tracing::enabled!(tracing::Level::ERROR) => {
            tracing::error!("{sentence}");
            Failure::Told
        }
        failure => failure,
    })
}

/// As [`run_logged`]; a failure is told by whoever called.
fn run_on_runtime<F>(config: Config, work: impl FnOnce(Config, Telemetry) -> F) -> Result<(), Failure>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let telemetry = telemetry::init(&config.log).map_err(|error| Failure::Sentence(error.to_string()))?;
    let runtime = runtime(&mut tokio::runtime::Builder::new_multi_thread())?;
    runtime.block_on(work(config, telemetry)).map_err(|error| Failure::Sentence(format!("{error:#}")))
}

fn runtime(builder: &mut tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, Failure> {
    builder.enable_all().build().map_err(|error| {
        Failure::Sentence(format!("the runtime cannot start ({error}); raise this process's limits"))
    })
}

/// Ready when the process is asked to stop: SIGINT, or SIGTERM where there is one.
async fn stop_asked() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                () = interrupted() => {}
            }
            return;
        }
    }
    interrupted().await;
}

/// Ready on Ctrl-C; never where that cannot be noticed.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_level_has_help() {
        fn visit(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} says nothing of itself", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }

    #[test]
    fn config_files_add_up_over_all_levels() {
        let line = "order-service --config a --config b config --config c check --config d";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Config(ConfigArgs { files, command: ConfigCommand::Check(check) }) = cli.command else {
            panic!("not config check");
        };
        let all = cli.files.and(&files).and(&check.files);
        assert_eq!(all.config, ["a", "b", "c", "d"].map(PathBuf::from));
    }

    #[test]
    fn client_options_stand_anywhere() {
        for line in [
            "order-service order -o json --server h:1 --timeout 5s get ORD-7K3M9Q2XYZ",
            "order-service order get ORD-7K3M9Q2XYZ -o json --server h:1 --timeout 5s",
            "order-service order list --status pending --status SHIPPED --after 2026-01-31 --limit 3",
            "order-service order status ORD-7K3M9Q2XYZ shipped --carrier UPS --tracking-number 1",
            "order-service order cancel ORD-7K3M9Q2XYZ --reason no --expected-version 3 --request-id r",
            "order-service order create - --validate-only",
            "order-service simulate --listen 0.0.0.0:0 --config a",
            "order-service --config a ops --config b verify --config c -o json --patience 1h --page-size 9",
            "order-service ops verify --order ORD-7K3M9Q2XYZ --limit-violations 0 --pages-per-second 2",
            "order-service ops explain ORD-7K3M9Q2XYZ -o json --server h:1 --timeout 5s",
            "order-service ops stuck --older-than 0s --limit 200 --page-token t",
            "order-service ops retry-step ORD-7K3M9Q2XYZ --step label --direction backward --by ada --reason r",
            "order-service ops skip-step ORD-7K3M9Q2XYZ --reason r --expected-version 3 --request-id q",
            "order-service ops resolve-payment ORD-7K3M9Q2XYZ --outcome not-charged --evidence e --key k",
            "order-service ops unquarantine 01900000-0000-7000-8000-000000000001 --reason r",
            "order-service order --token t --ca ca.pem get ORD-7K3M9Q2XYZ",
            "order-service order get ORD-7K3M9Q2XYZ --token-file t --server https://h:1",
            "order-service token --role support --role finance --sub ada --ttl 15m --keys k --config c",
            "order-service token --user 01900000-0000-7000-8000-000000000001 --print-config",
            "order-service ops erase-user 01900000-0000-7000-8000-000000000001 --reason r --by ada --yes",
            "order-service ops rotate-keys --page-size 5 -o json",
            "order-service ops encrypt-existing --server h:1",
            "order-service ops export --anonymized --since 2026-01-01 --until 2026-01-31 -o csv --config a",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "order-service order get",
            "order-service order get ORD-1",
            "order-service order get ORD-7K3M9Q2XYZ --timeout 0",
            "order-service order list --limit 0",
            "order-service order list --all --limit 5",
            "order-service order status ORD-7K3M9Q2XYZ SENT",
            "order-service order status ORD-7K3M9Q2XYZ SHIPPED --carrier UPS",
            "order-service order cancel ORD-7K3M9Q2XYZ --expected-version 0",
            "order-service ops",
            "order-service ops explain ORD-1",
            "order-service ops stuck --limit 201",
            "order-service ops skip-step ORD-7K3M9Q2XYZ",
            "order-service ops resolve-payment ORD-7K3M9Q2XYZ --evidence e",
            "order-service ops resolve-payment ORD-7K3M9Q2XYZ --evidence e --outcome maybe",
            "order-service ops unquarantine ORD-7K3M9Q2XYZ --reason r",
            "order-service ops erase-user 01900000-0000-7000-8000-000000000001 --reason r",
            "order-service ops export --since 2026-01-01 --until 2026-01-31",
            "order-service ops export --anonymized --since 2026-01-32 --until 2026-01-31",
            "order-service ops verify --order ORD-1",
            "order-service token --role root",
            "order-service token --ttl 25h",
            "order-service token --user ada",
            "order-service ops verify --patience 0",
            "order-service ops verify --page-size 0",
            "order-service ops verify --pages-per-second 0",
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_last_line_of_wrong_configuration_says_what_to_do() {
        let errors = Config::load(&["/no/such.yaml".into()], std::iter::empty()).unwrap_err();
        let text = explanation(Failure::Config(errors));
        assert!(text.ends_with("error: the configuration has 1 error; correct it and start again"), "{text}");
    }
}
