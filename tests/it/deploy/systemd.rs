//! The units of systemd: what they may do, what they are given, and how long they have.

use std::collections::BTreeMap;

use super::{checked, help, longest_stop, seconds, text};

/// The values of each key, by section.
type Unit = BTreeMap<(String, String), Vec<String>>;

fn unit(name: &str) -> Unit {
    let (mut section, mut unit) = (String::new(), Unit::new());
    for line in text(&format!("deploy/systemd/{name}")).lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.strip_suffix(']').unwrap().to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
        unit.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
    }
    unit
}

fn all<'a>(unit: &'a Unit, key: &str) -> &'a [String] {
    unit.get(&(String::from("Service"), key.to_owned())).map(Vec::as_slice).unwrap_or_default()
}

fn one<'a>(unit: &'a Unit, key: &str) -> &'a str {
    let values = all(unit, key);
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    &values[0]
}

/// What both units have to say of what they may do.
fn is_confined(unit: &Unit) {
    for key in [
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateUsers",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "RemoveIPC",
    ] {
        assert_eq!(one(unit, key), "yes", "{key}");
    }
    assert_eq!(one(unit, "ProtectSystem"), "strict");
    assert_eq!(one(unit, "CapabilityBoundingSet"), "");
    assert_eq!(all(unit, "SystemCallFilter"), ["@system-service", "~@privileged @resources"]);
    assert_eq!(one(unit, "User"), "order-service");
    assert!(text("deploy/systemd/sysusers.conf").contains("\nu order-service "));
}

/// Every setting that names a secret names a credential that the unit has loaded.
fn has_its_secrets(unit: &Unit) -> BTreeMap<String, String> {
    let loaded: Vec<&str> =
        all(unit, "LoadCredential").iter().map(|one| one.split_once(':').unwrap().0).collect();
    let mut settings = BTreeMap::new();
    for pair in all(unit, "Environment") {
        let (name, value) = pair.split_once('=').unwrap();
        assert!(name.starts_with("ORDER__") && name.ends_with("_FILE"), "{pair}");
        assert!(loaded.contains(&value.strip_prefix("%d/").unwrap()), "{pair}: nothing loads it");
        settings.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(settings.len(), loaded.len(), "a credential that nobody uses");
    settings
}

fn is_a_command(unit: &Unit) {
    let line = one(unit, "ExecStart").split(' ').collect::<Vec<_>>();
    assert_eq!(line[0], "/usr/local/bin/order-service");
    let told = help(&line[1..2]).unwrap_or_else(|| panic!("{line:?} is no command"));
    for option in line.iter().filter(|word| word.starts_with("--")) {
        assert!(told.contains(option), "{option}");
    }
}

#[test]
fn the_service_has_the_time_it_needs_and_no_rights() {
    let unit = unit("order-service.service");
    is_confined(&unit);
    is_a_command(&unit);
    let secrets = has_its_secrets(&unit);
    assert_eq!(one(&unit, "Type"), "notify");
    assert!(!one(&unit, "WatchdogSec").is_empty());
    assert_eq!(one(&unit, "Restart"), "always");
    // The settings exist, with some text for each secret.
    let folder = tempfile::tempdir().unwrap();
    let settings = secrets
        .into_iter()
        .map(|(name, value)| {
            let file = folder.path().join(value.trim_start_matches("%d/"));
            let secret = if name.contains("URL") { "postgres://a@b/c".to_owned() } else { "0f".repeat(32) };
            std::fs::write(&file, secret).unwrap();
            (name, file.to_str().unwrap().to_owned())
        })
        .collect();
    let merged = checked("order-service.service", &[], &settings);
    assert!(seconds(one(&unit, "TimeoutStopSec")) >= longest_stop(&merged));
}

#[test]
fn the_migration_has_its_secret_and_no_rights() {
    let unit = unit("order-service-migrate.service");
    is_confined(&unit);
    is_a_command(&unit);
    assert!(has_its_secrets(&unit).contains_key("ORDER__STORE__URL_FILE"));
    assert_eq!(one(&unit, "Type"), "oneshot");
}
