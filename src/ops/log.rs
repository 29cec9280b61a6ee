//! Which log lines are written, asked and changed while the node runs.
//!
//! `GET /debug/log` answers the filter, in the syntax of `log.level`. `PUT /debug/log` replaces it by the body;
//! `PUT /debug/log?for=10m` sets it back after that. Only from this machine.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};

use crate::grpc::Peer;
use crate::telemetry::{Levels, Telemetry};

/// Longest body, in bytes.
const BODY_BYTES: usize = 1_024;
/// The longest that a filter may be set for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

type Answer = (StatusCode, String);

pub(super) fn routes(telemetry: &Telemetry) -> Router {
    Router::new()
        .route("/debug/log", get(show).put(change))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(telemetry.levels().clone())
}

/// Where a filter with everything could show more than is meant for other machines, and fill a disk.
fn refuse(peer: Peer) -> Option<Answer> {
    let sentence = "this is answered to the node's own machine only; ask from there\n";
    (!peer.is_here()).then(|| (StatusCode::FORBIDDEN, sentence.to_owned()))
}

async fn show(State(levels): State<Levels>, Extension(peer): Extension<Peer>) -> Answer {
    refuse(peer).unwrap_or_else(|| (StatusCode::OK, format!("{}\n", levels.filter())))
}

async fn change(
    State(levels): State<Levels>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    body: String,
) -> Answer {
    if let Some(refusal) = refuse(peer) {
        return refusal;
    }
    let bad = |why: String| (StatusCode::BAD_REQUEST, format!("{why}\n"));
    let lasts = match query.as_deref().unwrap_or_default() {
        "" => None,
        query => match query.strip_prefix("for=").and_then(time) {
            Some(time) => Some(time),
            None => {
                return bad(format!(
                    "?{query} is not ?for=TIME; write a time of 1s to 24h, such as ?for=10m"
                ));
            }
        },
    };
    let filter = body.trim();
    let changed = match levels.set(filter) {
        Ok(changed) => changed,
        Err(error) => return bad(error.to_string()),
    };
    tracing::warn!(before = changed.before, filter, ?lasts, "the filter of log lines was changed");
    let mut told = format!("{filter} (before: {})", changed.before);
    if let Some(lasts) = lasts {
        told.push_str(&format!(", for {} s", lasts.as_secs()));
        // There are as many of them as changes were made within that time, by people.
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            if levels.set_back(&changed) {
                tracing::warn!(filter = changed.before, "the filter of log lines was set back");
            }
        });
    }
    (StatusCode::OK, told + "\n")
}

/// A time such as `90s`, `10m` or `1h`.
fn time(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    let time = Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(seconds)?);
    (Duration::from_secs(1)..=LONGEST).contains(&time).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_filter_may_be_set_for() {
        let seconds = |text| time(text).map(|time| time.as_secs());
        assert_eq!((seconds("90s"), seconds("10m"), seconds("24h")), (Some(90), Some(600), Some(86_400)));
        for bad in ["", "0s", "25h", "10", "m", "-1m", "1d", "1é"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
