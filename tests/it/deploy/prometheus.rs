//! Alerts and recording rules: they parse, fire when they should, and lead to an entry of the runbook.

use std::collections::BTreeSet;

use serde_json::Value;

use super::metric_names::all_exist;
use super::{conforms, documents, promtool, text};

const FILES: [&str; 2] = ["deploy/prometheus/alerts.yaml", "deploy/prometheus/recording.yaml"];

fn rules() -> Vec<Value> {
    let all = FILES.into_iter().flat_map(|file| {
        let document = documents(file).remove(0);
        conforms(file, "prometheus", "rules", &document);
        document["groups"].as_array().unwrap().clone()
    });
    all.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn alerts() -> Vec<Value> {
    let alerts: Vec<Value> = rules().into_iter().filter(|rule| rule["alert"].is_string()).collect();
    assert!(alerts.len() > 30);
    alerts
}

/// What a heading of a page is called in a link to it.
pub(super) fn anchors(page: &str) -> BTreeSet<String> {
    let headings = text(page);
    let headings = headings.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    let anchor = |heading: &str| {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>();
        kept.trim().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn rules_parse_and_name_metrics_that_exist() {
    let told = promtool(&["check", "rules", "alerts.yaml", "recording.yaml"]);
    assert_eq!(told.matches("SUCCESS").count(), 2, "{told}");
    promtool(&["check", "config", "--syntax-only", "prometheus.yaml"]);
    let rules = rules();
    let recorded: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    for rule in &rules {
        let expression = rule["expr"].as_str().unwrap();
        let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
        all_exist(name, expression);
        all_exist(name, rule["annotations"]["description"].as_str().unwrap_or_default());
        recorded_exist(name, expression, &recorded);
    }
}

/// Fails when an expression names a recording rule that there is not.
pub(super) fn recorded_exist(what: &str, expression: &str, recorded: &BTreeSet<&str>) {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    for name in expression.split(|letter| !is_part(letter)).filter(|word| word.starts_with("order:")) {
        assert!(recorded.contains(name), "{what}: nothing records {name}");
    }
}

/// The names of the recording rules.
pub(super) fn recorded() -> Vec<String> {
    rules().iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned)).collect()
}

#[test]
fn each_alert_is_seen_to_fire_and_to_be_quiet() {
    let tests = documents("deploy/prometheus/alerts.test.yaml").remove(0);
    let tests = tests["tests"].as_array().unwrap();
    let names: Vec<&str> = tests.iter().map(|test| test["name"].as_str().unwrap()).collect();
    let alerts = alerts();
    assert_eq!(names.len(), 2 * alerts.len());
    for alert in &alerts {
        let (name, severity) =
            (alert["alert"].as_str().unwrap(), alert["labels"]["severity"].as_str().unwrap());
        for (what, fires) in [("fires", true), ("is quiet", false)] {
            let test = tests.iter().find(|test| test["name"] == format!("{name} {what}"));
            let test = test.unwrap_or_else(|| panic!("alerts.test.yaml does not show that {name} {what}"));
            let asked = &test["promql_expr_test"][0];
            let query = asked["expr"].as_str().unwrap();
            assert!(
                query.contains(&format!("alertname=\"{name}\",alertstate=\"firing\"")),
                "{name}: {query}"
            );
            assert_eq!(
                asked["exp_samples"].as_array().is_some_and(|samples| !samples.is_empty()),
                fires,
                "{name}"
            );
            if fires {
                let labels = format!("{{alertname=\"{name}\", severity=\"{severity}\"}}");
                assert_eq!(asked["exp_samples"][0]["labels"], labels);
            }
            for series in test["input_series"].as_array().unwrap() {
                all_exist(name, series["series"].as_str().unwrap());
            }
        }
    }
    promtool(&["test", "rules", "alerts.test.yaml"]);
}

#[test]
fn each_alert_has_an_entry_in_the_runbook_and_each_entry_an_alert() {
    let anchors = anchors("docs/runbook.md");
    let alerts = alerts();
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        assert_eq!(alert["annotations"]["runbook_url"], format!("docs/runbook.md#{}", name.to_lowercase()));
        assert!(anchors.contains(&name.to_lowercase()), "the runbook says nothing of {name}");
    }
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert["alert"].as_str().unwrap()).collect();
    let page = text("docs/runbook.md");
    for entry in page.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(names.contains(entry), "the runbook speaks of {entry}, which is no alert");
    }
}

#[test]
fn what_is_scraped_are_the_nodes_of_compose() {
    let config = documents("deploy/prometheus/prometheus.yaml").remove(0);
    let job = &config["scrape_configs"][0];
    assert_eq!(job["job_name"], "order-service");
    let compose = documents("deploy/compose.yaml").remove(0);
    let services = compose["services"].as_object().unwrap().keys();
    let nodes: Vec<String> =
        services.filter(|name| name.starts_with("node-")).map(|name| format!("{name}:9464")).collect();
    assert_eq!(job["static_configs"][0]["targets"], serde_json::json!(nodes));
    for file in config["rule_files"].as_array().unwrap() {
        assert!(FILES.contains(&format!("deploy/prometheus/{}", file.as_str().unwrap()).as_str()));
    }
}
