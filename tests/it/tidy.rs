//! The rules of the house, held by reading the source: who may import whom, which crate stands behind which folder,
//! how long a file may be, and words that must not be there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each part of `src` may name as `crate::…`. A new arrow is a commit of its own, with its reason.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ports", &["domain"]),
    ("file_lock", &[]),
    ("store", &["ports", "domain", "file_lock"]),
    ("redis_link", &[]),
    ("cache", &["ports", "domain", "redis_link"]),
    ("limits", &["ports", "redis_link"]),
    // `clients::orders` is the client of our own API, for the command line.
    ("clients", &["ports", "domain", "proto", "file_lock", "trace"]),
    ("steps", &["ports", "domain"]),
    ("actor", &["steps", "ports", "domain", "trace"]),
    ("cluster", &["actor", "ports", "domain", "proto"]),
    // Who a caller is, and what it is to prove that.
    ("auth", &["domain"]),
    ("tls", &[]),
    ("grpc", &["auth", "tls", "cluster", "actor", "steps", "ports", "domain", "proto", "trace"]),
    ("config", &["domain"]),
    // Spans are opened where the work is; telemetry takes them from there.
    ("trace", &["ports", "domain"]),
    // The domain knows what a card number looks like.
    ("telemetry", &["config", "domain", "ports", "trace"]),
    // The service for operators is served there.
    ("ops", &["grpc", "ports", "telemetry"]),
    // Stands before a store and is one, so it knows no store.
    ("privacy", &["ports", "domain"]),
    ("proto", &[]),
    ("verify", &["ports", "domain"]),
    (
        "app",
        &[
            "actor",
            "auth",
            "cache",
            "clients",
            "cluster",
            "config",
            "domain",
            "grpc",
            "limits",
            "ops",
            "ports",
            "privacy",
            "steps",
            "store",
            "telemetry",
            "tls",
            "verify",
        ],
    ),
    // The domain for reading order numbers as people type them, verify for printing what it finds.
    // Exports of privacy are printed as well.
    ("cli", &["app", "clients", "config", "domain", "privacy", "proto", "telemetry", "verify"]),
];

/// Crates that only these parts may name.
const BEHIND: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("backon", &["store"]),
    // Telemetry sends spans by it.
    ("tonic", &["grpc", "clients", "cluster", "proto", "telemetry"]),
    ("h2", &["cluster"]),
    ("tokio_rustls", &["cluster", "auth", "tls"]),
    ("webpki", &["tls"]),
    ("jsonwebtoken", &["auth"]),
    // The configuration checks keys that are given as text.
    ("base64", &["auth", "config", "privacy"]),
    ("hyper", &["auth", "grpc", "ops"]),
    ("hyper_util", &["auth", "grpc", "ops"]),
    ("http_body_util", &["auth"]),
    ("rustls_native_certs", &["auth"]),
    ("redis", &["cache", "limits", "redis_link"]),
    ("ractor", &["actor"]),
    ("dashmap", &["actor"]),
    ("consistent_hash", &["cluster"]),
    ("xxhash_rust", &["cluster"]),
    // Keys of personal data are kept for a while, as orders are.
    ("moka", &["cache", "privacy"]),
    // What rustls calls its provider has the same name.
    ("aws_lc_rs", &["auth", "cluster", "privacy", "tls"]),
    ("axum", &["ops"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("config", &["config"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    // The configuration checks log.level by parsing it.
    ("tracing_subscriber", &["telemetry", "config"]),
    ("iso_currency", &["domain"]),
    ("rust_iso3166", &["domain"]),
    ("unicode_normalization", &["domain"]),
    ("rustix", &["actor", "cluster", "telemetry"]),
    ("anyhow", &["app", "cli"]),
];

/// Crates that the pure domain may name; everything else is IO, async or ambient.
const PURE: &[&str] = &[
    "chrono",
    "iso_currency",
    "rust_decimal",
    "rust_iso3166",
    "serde",
    "sha2",
    "std",
    "thiserror",
    "unicode_normalization",
    "uuid",
    "serde_json",
    "proptest",
    "config",
];

const MOST_LINES: usize = 500;

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Source files below `folder` with their text.
fn sources(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root().join(folder), extension, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no .{extension} below {folder}");
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The part of `src` that a file belongs to: its folder, or its own name.
fn part(file: &str) -> &str {
    let rest = file.strip_prefix("src/").unwrap();
    rest.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Code without comments and without its test module, and for each `name::` path its first two segments.
fn paths(text: &str) -> BTreeSet<(String, String)> {
    let code: String = text
        .lines()
        .take_while(|line| *line != "#[cfg(test)]" && !line.starts_with("mod tests {"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |code, line| code + line + "\n");
    let mut found = BTreeSet::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let start = before.rfind(|c| !is_name(c)).map_or(0, |place| place + 1);
        // Only the first segment of a path.
        if before[..start].ends_with("::") {
            continue;
        }
        let after = &code[at + 2..];
        let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
        found.insert((before[start..].to_owned(), after[..end].to_owned()));
        // `use crate::{a, b}` is not the style here and would hide an arrow.
        assert!(!(&before[start..] == "crate" && after.starts_with('{')), "write one `use crate::…` a line");
    }
    found
}

#[test]
fn parts_import_only_what_they_may() {
    let mut broken = Vec::new();
    for (file, text) in sources("src", "rs") {
        let part = part(&file);
        if matches!(part, "main" | "lib") || file.ends_with("tests.rs") {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == part) else {
            broken.push(format!("{file}: src/{part} has no row in ARROWS"));
            continue;
        };
        for (first, second) in paths(&text) {
            if first == "crate" && second != part && !allowed.contains(&second.as_str()) {
                broken.push(format!("{file}: src/{part} must not import crate::{second}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn crates_stay_behind_their_part() {
    let mut broken = Vec::new();
    for (file, text) in sources("src", "rs") {
        let part = part(&file);
        for (first, _) in paths(&text) {
            if let Some((_, owners)) = BEHIND.iter().find(|(name, _)| *name == first)
                && !owners.contains(&part)
                // `config::…` after `use crate::config` is our own module.
                && !(first == "config" && text.contains("crate::config"))
            {
                broken.push(format!("{file}: {first} may be named only in {owners:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_domain_is_pure() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let dependencies: BTreeSet<String> = manifest
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim().replace('-', "_"))
        .collect();
    let mut broken = Vec::new();
    for (file, text) in sources("src/domain", "rs") {
        for (first, _) in paths(&text) {
            if dependencies.contains(&first) && !PURE.contains(&first.as_str()) {
                broken.push(format!("{file}: the domain must not know {first}"));
            }
        }
        for word in
            ["async fn", ".await", "Utc::now", "SystemTime", "new_v4", "now_v7", "std::fs", "std::env"]
        {
            if text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word)) {
                broken.push(format!("{file}: the domain must not use {word}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_are_short() {
    let long: Vec<String> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|folder| sources(folder, "rs"))
        .filter(|(_, text)| text.lines().count() > MOST_LINES)
        .map(|(file, text)| format!("{file}: {} lines, at most {MOST_LINES}", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_forbidden_words() {
    // Put together here, so that this file does not hold them.
    let words: Vec<String> = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["dbg", "!("],
        ["#[ig", "nore"],
        ["behav", "iour"],
        ["serial", "ise"],
        ["normal", "ise"],
        ["col", "our"],
        ["/ho", "me/"],
        ["/ro", "ot/"],
    ]
    .iter()
    .map(|halves| halves.concat())
    .collect();
    let mut broken = Vec::new();
    let all = [("src", "rs"), ("tests", "rs"), ("benches", "rs"), ("proto", "proto"), ("migrations", "sql")];
    for (file, text) in all.iter().flat_map(|(folder, extension)| sources(folder, extension)) {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                broken.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn tests_do_not_sleep() {
    let word = ["time::", "sleep("].concat();
    let thread = ["thread::", "sleep("].concat();
    let broken: Vec<String> = sources("tests", "rs")
        .into_iter()
        .filter(|(_, text)| text.contains(&word) || text.contains(&thread))
        .map(|(file, _)| file)
        .collect();
    assert!(broken.is_empty(), "wait on a signal instead: {broken:#?}");
}
