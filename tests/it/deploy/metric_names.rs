//! Metrics that alerts, dashboards, the autoscaler and pages name are those of `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{all_texts, documents, root, text};

/// The metrics that there are, and what each is: counter, gauge, histogram or summary.
pub(super) fn catalog() -> BTreeMap<String, String> {
    let page = text("docs/metrics.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.splitn(3, '|');
        let name = cells.next()?.trim().strip_suffix('`')?.to_owned();
        Some((name, cells.next()?.trim().to_owned()))
    };
    let metrics: BTreeMap<String, String> = page.lines().filter_map(row).collect();
    assert!(metrics.len() > 50, "docs/metrics.md has {} metrics", metrics.len());
    metrics
}

/// The names in a text that could be metrics of ours.
pub(super) fn names(text: &str) -> BTreeSet<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let ours = |word: &&str| ["order_", "orders_", "process_"].iter().any(|start| word.starts_with(start));
    text.split(|letter| !is_part(letter)).filter(|word| !word.contains(':')).filter(ours).collect()
}

/// Whether there is such a metric, or such a series of a histogram or summary.
pub(super) fn is_series(catalog: &BTreeMap<String, String>, name: &str) -> bool {
    let of = |end: &str, kinds: &[&str]| {
        let kind = name.strip_suffix(end).and_then(|metric| catalog.get(metric));
        kind.is_some_and(|kind| kinds.contains(&kind.as_str()))
    };
    let plain = catalog.get(name).is_some_and(|kind| kind != "histogram");
    plain
        || of("_bucket", &["histogram"])
        || of("_sum", &["histogram", "summary"])
        || of("_count", &["histogram", "summary"])
}

/// Fails when an expression names a metric that there is not.
pub(super) fn all_exist(what: &str, expression: &str) {
    let catalog = catalog();
    for name in names(expression) {
        assert!(is_series(&catalog, name), "{what}: there is no metric {name} in docs/metrics.md");
    }
}

#[test]
fn a_metric_that_is_not_in_the_catalog_is_found() {
    let catalog = catalog();
    for name in ["order_grpc_seconds_bucket", "order_value_sum", "orders_created_total", "order_node_ready"] {
        assert!(is_series(&catalog, name), "{name}");
    }
    for name in ["order_grpc_seconds", "orders_created", "order_value_bucket", "orders_created_total_sum"] {
        assert!(!is_series(&catalog, name), "{name}");
    }
    assert_eq!(names("sum(rate(order_a_total{x=\"y\"}[5m])) / order:b:c").len(), 1);
}

#[test]
fn the_autoscaler_asks_for_a_metric_that_the_adapter_offers_and_nodes_tell() {
    let scaler = &documents("deploy/kubernetes/autoscaler.yaml")[0];
    let metrics = scaler["spec"]["metrics"].as_array().unwrap();
    let asked: Vec<&str> =
        metrics.iter().filter_map(|metric| metric["pods"]["metric"]["name"].as_str()).collect();
    let adapter = &documents("deploy/kubernetes/monitoring/prometheus-adapter.yaml")[0];
    let rules = adapter["rules"]["custom"].as_array().unwrap();
    let offered: Vec<&str> = rules.iter().map(|rule| rule["name"]["as"].as_str().unwrap()).collect();
    assert!(!asked.is_empty());
    assert_eq!(asked, offered);
    let mut texts = Vec::new();
    all_texts(adapter, &mut texts);
    for text in texts.into_iter().chain(asked) {
        all_exist("the adapter", text);
    }
}

#[test]
fn pages_name_metrics_tables_and_roles_that_exist() {
    let folder = root().join("migrations/postgres");
    let migrations: String =
        fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let of_tables = names(&migrations);
    let catalog = catalog();
    for page in ["docs/runbook.md", "docs/scaling.md", "deploy/README.md"] {
        for name in names(&text(page)) {
            let is_role = ["order_node", "order_owner"].contains(&name);
            // What the example of partitions makes.
            let is_made = name == "order_partitions" || name.starts_with("order_events_");
            // A histogram as a whole is named without an ending; recording rules are looked at elsewhere.
            let is_metric = is_series(&catalog, name) || catalog.contains_key(name);
            assert!(is_metric || of_tables.contains(name) || is_role || is_made, "{page}: what is {name}?");
        }
    }
}
