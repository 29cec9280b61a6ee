//! The dashboards: their form, and that each query parses and asks for what there is.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use serde_json::Value;

use super::metric_names::all_exist;
use super::prometheus::{recorded, recorded_exist};
use super::{conforms, documents, promtool, root, text};

fn dashboards() -> Vec<(String, Value)> {
    let folder = root().join("deploy/grafana/dashboards");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut read: Vec<(String, Value)> = files
        .map(|file| {
            let content = serde_json::from_str(&text(&format!("deploy/grafana/dashboards/{file}")));
            (file.clone(), content.unwrap_or_else(|error| panic!("{file}: {error}")))
        })
        .collect();
    read.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(read.len(), 2);
    read
}

/// Each query with where it stands; what Grafana puts in is put in.
fn queries(file: &str, dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let of_panels = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (panel["title"].clone(), target["expr"].clone()))
    });
    let notes = dashboard["annotations"]["list"].as_array().into_iter().flatten();
    let notes = notes.map(|note| (note["name"].clone(), note["expr"].clone()));
    of_panels
        .chain(notes)
        .map(|(title, query)| {
            let query = query.as_str().unwrap().replace("$__rate_interval", "5m").replace("$node", ".*");
            assert!(!query.contains('$'), "{file}: {title}: {query}");
            (format!("{file}: {title}"), query)
        })
        .collect()
}

#[test]
fn dashboards_have_the_form_that_grafana_takes() {
    let mut ids = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        conforms(&file, "dashboard", "dashboard", &dashboard);
        assert!(
            ids.insert(dashboard["uid"].as_str().unwrap().to_owned()),
            "{file}: its uid is another one's too"
        );
        let panels = dashboard["panels"].as_array().unwrap();
        let numbers: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
        assert_eq!(numbers.len(), panels.len(), "{file}: two panels have one id");
        let mut taken = BTreeSet::new();
        for panel in panels {
            let at = |key: &str| panel["gridPos"][key].as_i64().unwrap();
            assert!(at("x") + at("w") <= 24, "{file}: {} is too wide", panel["title"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{file}: {} lies over another panel", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn each_query_parses_and_asks_for_metrics_that_exist() {
    let recorded = recorded();
    let recorded: BTreeSet<&str> = recorded.iter().map(String::as_str).collect();
    let mut rules = String::from("groups:\n  - name: order-dashboards\n    rules:\n");
    let mut count = 0;
    for (file, dashboard) in dashboards() {
        for (place, query) in queries(&file, &dashboard) {
            all_exist(&place, &query);
            recorded_exist(&place, &query, &recorded);
            // Their YAML takes JSON's texts.
            let quoted = serde_json::to_string(&query).unwrap();
            writeln!(rules, "      - record: order:query:{count}\n        expr: {quoted}").unwrap();
            count += 1;
        }
    }
    assert!(count > 80, "{count}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yaml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}

#[test]
fn grafana_is_given_what_the_dashboards_ask() {
    let sources = documents("deploy/grafana/provisioning/datasources/prometheus.yaml").remove(0);
    assert_eq!(sources["datasources"][0]["type"], "prometheus");
    assert_eq!(sources["datasources"][0]["isDefault"], true);
    let providers = documents("deploy/grafana/provisioning/dashboards/order-service.yaml").remove(0);
    let path = providers["providers"][0]["options"]["path"].as_str().unwrap();
    let compose = text("deploy/compose.yaml");
    assert!(compose.contains(&format!("./grafana/dashboards:{path}:ro")), "{path}");
}
