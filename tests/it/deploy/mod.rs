//! What stands in `deploy` and in the `Dockerfile`, held against schemas of the fields that we use, against each other, and
//! against the program: every setting, command and metric that is named there has to exist.

mod before_a_stop;
mod commands;
mod compose;
mod dashboards;
mod dockerfile;
mod kubernetes;
mod metric_names;
mod prometheus;
mod systemd;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use order_service::config::parse_duration;
use serde_json::{Value, json};

const PROMTOOL_MISSING: &str = "promtool is missing: apt-get install -y --no-install-recommends prometheus";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The documents of a YAML file, with anchors and merges resolved.
fn documents(file: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(!documents.is_empty(), "{file} is empty");
    documents
}

/// Holds a value against a definition of `schemas/NAME.json`, in which nothing may stand that is not named there.
fn conforms(what: &str, schema: &str, definition: &str, value: &Value) {
    let mut schema: Value =
        serde_json::from_str(&text(&format!("tests/it/deploy/schemas/{schema}.json"))).unwrap();
    assert!(schema["$defs"][definition].is_object(), "{what}: there is no schema for {definition}");
    schema["$ref"] = json!(format!("#/$defs/{definition}"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{what}{}: {error}", error.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The values of a list of texts.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|one| one.as_str().unwrap()).collect()
}

/// Every text in a value, at whatever depth.
fn all_texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|one| all_texts(one, found)),
        Value::Object(table) => table.values().for_each(|one| all_texts(one, found)),
        _ => {}
    }
}

/// Runs the program with these arguments and nothing of this environment but `settings`.
fn order_service(arguments: &[&str], settings: &BTreeMap<String, String>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_order-service"))
        .args(arguments)
        .env_clear()
        .envs(settings)
        .output()
        .unwrap()
}

/// What is in force with these files and settings, by key. Fails on what the program refuses.
fn checked(what: &str, files: &[&Path], settings: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let files: Vec<&str> = files.iter().flat_map(|file| ["--config", file.to_str().unwrap()]).collect();
    let output = order_service(&[&["config", "check"], &files[..]].concat(), settings);
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let setting = |line: &str| {
        let (key, rest) = line.split_once(" = ")?;
        let (value, _origin) = rest.rsplit_once("  # ")?;
        Some((key.to_owned(), value.trim().trim_matches('"').to_owned()))
    };
    told.lines().filter_map(setting).collect()
}

/// How long a node may take from SIGTERM to its end: it hands over, then comes to rest, then says its last words.
fn longest_stop(settings: &BTreeMap<String, String>) -> Duration {
    let of = |key: &str| parse_duration(&settings[key]).unwrap();
    of("cluster.drain_timeout") + of("grpc.shutdown_grace") + Duration::from_secs(5)
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.strip_suffix('s').unwrap_or(text).parse().unwrap())
}

/// The duration that a command is given by an option.
fn option(command: &[&str], name: &str) -> Duration {
    let at =
        command.iter().position(|word| *word == name).unwrap_or_else(|| panic!("{command:?}: no {name}"));
    parse_duration(command[at + 1]).unwrap()
}

/// Whether `order-service WORDS...` is a command. Its help, if so.
fn help(words: &[&str]) -> Option<String> {
    let output = order_service(&[words, &["--help"]].concat(), &BTreeMap::new());
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Runs `promtool` in the folder of the rules, and tells what it says.
fn promtool(arguments: &[&str]) -> String {
    let path = env::var_os("PATH").unwrap_or_default();
    let binary = env::split_paths(&path).map(|folder| folder.join("promtool")).find(|file| file.is_file());
    let output = Command::new(binary.expect(PROMTOOL_MISSING))
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .output()
        .unwrap();
    let told = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{told}");
    told
}
