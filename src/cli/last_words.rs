//! How a process that serves ends when it fails: its last line is one log line of level FATAL, and its exit code 1.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{ConfigFiles, Failure, load_config, run_on_runtime, tell};
use crate::config::{Config, ConfigErrors, LogFormat};
use crate::telemetry::{self, Telemetry};

/// Runs a process that serves, with the configuration of these files and what `adjust` makes of it.
pub(super) fn serve<F>(
    files: &ConfigFiles,
    adjust: impl FnOnce(&mut Config),
    work: impl FnOnce(Config, Telemetry) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut config = match load_config(files) {
        Ok(config) => config,
        Err(failure) => return Err(end(LogFormat::Auto, failure)),
    };
    adjust(&mut config);
    let format = config.log.format;
    let ended = catch_unwind(AssertUnwindSafe(|| run_on_runtime(config, work)));
    let ended = ended.unwrap_or_else(|_panic| {
        let what =
            "this process panicked, as an earlier line tells; report that as a defect and start it again";
        Err(Failure::Sentence(what.to_owned()))
    });
    ended.map_err(|failure| end(format, failure))
}

fn end(format: LogFormat, failure: Failure) -> Failure {
    let why = match failure {
        Failure::Sentence(sentence) => sentence,
        Failure::Config(errors) => {
            let ConfigErrors(errors) = &errors;
            for error in errors {
                tell(&error.to_string());
            }
            let count = errors.len();
            let (noun, pronoun) = if count == 1 { ("error", "it") } else { ("errors", "them") };
            let last = errors.last().map(ToString::to_string).unwrap_or_default();
            format!("the configuration has {count} {noun}; correct {pronoun} and start again ({last})")
        }
        other => return other,
    };
    telemetry::fatal(format, &why);
    Failure::Told
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn a_panic_is_told_as_an_end() {
        let work = |_: Config, _: Telemetry| poll_fn::<anyhow::Result<()>, _>(|_| panic!("on purpose"));
        let ended = serve(&ConfigFiles::default(), |config| config.log.level = String::from("error"), work);
        assert!(matches!(ended, Err(Failure::Told)), "{ended:?}");
        let ended = serve(&ConfigFiles::default(), |_| {}, |_, _| async { Ok(()) });
        assert!(ended.is_ok(), "{ended:?}");
    }
}
