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
    assert_eq!(one(unit, "LimitCORE"), "0", "memory holds names and keys");
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

/// The files that the steps of `deploy/README.md` install, with their modes and groups as they stand there.
fn installed() -> BTreeMap<String, String> {
    let readme = text("deploy/README.md");
    let steps = readme.split("\n## systemd\n").nth(1).unwrap().split("```").nth(1).unwrap();
    let mut files = BTreeMap::new();
    for line in steps.lines().filter_map(|line| line.strip_prefix("$ install ")) {
        let line = line.split("  #").next().unwrap().split(" && ").next().unwrap().trim();
        let (options, target) = line.rsplit_once(' ').unwrap();
        // One file by its new name, or several into a folder.
        for source in options.split(' ').skip(2) {
            let file = match target.strip_suffix('/') {
                Some(folder) => format!("{folder}/{}", source.rsplit('/').next().unwrap()),
                None => target.to_owned(),
            };
            files.insert(file, options.to_owned());
        }
    }
    files
}

#[test]
fn every_file_that_units_and_configuration_name_is_installed() {
    let files = installed();
    let example = text("config/production.yaml");
    let settings = example.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut named: Vec<String> = settings
        .filter_map(|line| line.split_once('"'))
        .map(|(_, value)| value.split('"').next().unwrap().to_owned())
        .filter(|value| value.ends_with(".yaml") || value.ends_with(".crt") || value.ends_with(".key"))
        .collect();
    assert_eq!(named.len(), 3, "{named:?}");
    for name in ["order-service.service", "order-service-migrate.service"] {
        let unit = unit(name);
        named
            .extend(all(&unit, "LoadCredential").iter().map(|one| one.split_once(':').unwrap().1.to_owned()));
        let command = one(&unit, "ExecStart").split(' ').filter(|word| word.starts_with('/'));
        named.extend(command.map(str::to_owned));
    }
    for file in &named {
        let how = files.get(file).unwrap_or_else(|| panic!("nothing installs {file}: {files:?}"));
        // Nobody else reads what is secret, and the service reads what it opens by itself.
        match file {
            file if file.starts_with("/etc/order-service/secrets/") => {
                assert!(how.starts_with("-m 600 "), "{how}")
            }
            file if file.ends_with(".key") => assert!(how.starts_with("-m 640 -g order-service "), "{how}"),
            _ => assert!(!how.starts_with("-m 6") || how.starts_with("-m 644 "), "{how}"),
        }
    }
}

#[test]
fn the_migration_has_its_secret_and_no_rights() {
    let unit = unit("order-service-migrate.service");
    is_confined(&unit);
    is_a_command(&unit);
    assert!(has_its_secrets(&unit).contains_key("ORDER__STORE__URL_FILE"));
    assert_eq!(one(&unit, "Type"), "oneshot");
}
