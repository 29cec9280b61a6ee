//! `deploy/compose.yaml`: its form, that all that it names exists, and that its nodes' settings are taken by the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::{checked, conforms, documents, help, longest_stop, root, seconds, text, texts};
use crate::harness::postgres::PgServer;
use crate::harness::postgres_binaries::postgres_binary;
use crate::harness::process::Process;

fn compose() -> Value {
    let mut document = documents("deploy/compose.yaml").remove(0);
    conforms("compose.yaml", "compose", "compose", &document);
    // What is only there to be taken over.
    document.as_object_mut().unwrap().retain(|key, _| !key.starts_with("x-"));
    document
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().unwrap()
}

/// The networks that a service is on, in either form.
fn networks(service: &Value) -> Vec<&str> {
    match service["networks"].as_object() {
        Some(table) => table.keys().map(String::as_str).collect(),
        None => texts(&service["networks"]),
    }
}

/// The secrets as the script makes them, in a folder that goes away.
fn made_secrets() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("secrets.sh");
    fs::copy(root().join("deploy/compose/secrets.sh"), &script).unwrap();
    for _ in 0..2 {
        let made = Command::new("bash").arg(&script).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    folder
}

/// A node's settings, with its secrets where the script made them.
fn settings(compose: &Value, service: &Value, secrets: &Path) -> BTreeMap<String, String> {
    let taken = texts(&service["secrets"]);
    let environment = service["environment"].as_object().unwrap();
    environment
        .iter()
        .filter(|(key, _)| key.starts_with("ORDER__"))
        .map(|(key, value)| {
            let value = value.as_str().unwrap();
            let Some(name) = value.strip_prefix("/run/secrets/") else {
                return (key.clone(), value.to_owned());
            };
            assert!(
                key.ends_with("_FILE") && taken.contains(&name),
                "{key}: the service has no secret {name}"
            );
            let file = compose["secrets"][name]["file"].as_str().unwrap();
            (key.clone(), secrets.join(file.trim_start_matches("./compose/")).to_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn what_services_name_exists() {
    let compose = compose();
    let services = services(&compose);
    let (mut ports, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: {image} has no tag"));
        assert!(tag != "latest" && (tag == "local") == service["build"].is_object(), "{name}: {image}");
        for network in networks(service) {
            assert!(compose["networks"].get(network).is_some(), "{name}: {network}");
        }
        let is_node = name.starts_with("node-");
        assert_eq!(networks(service).contains(&"peers"), is_node, "{name} is among the nodes");
        for secret in texts(&service["secrets"]) {
            assert!(compose["secrets"].get(secret).is_some(), "{name}: {secret}");
            used.insert(secret);
        }
        for volume in texts(&service["volumes"]) {
            let (from, to) = volume.split_once(':').unwrap();
            match from.strip_prefix("./") {
                Some(file) => {
                    assert!(root().join("deploy").join(file).exists() && to.ends_with(":ro"), "{volume}")
                }
                None => assert!(compose["volumes"].get(from).is_some(), "{name}: {volume}"),
            }
        }
        for port in texts(&service["ports"]) {
            assert!(ports.insert(port.rsplit_once(':').unwrap().0), "{port} is published twice");
        }
        for (other, wants) in service["depends_on"].as_object().into_iter().flatten() {
            let other = services.get(other).unwrap_or_else(|| panic!("{name} waits for {other}"));
            if wants["condition"] == "service_healthy" {
                assert!(other["healthcheck"]["test"].is_array(), "{name}");
            }
        }
        if service["build"].is_object() {
            assert_eq!(service["user"], "65532:65532", "{name}: as in the Dockerfile");
            assert!(
                service["read_only"] == true && service["cap_drop"] == serde_json::json!(["ALL"]),
                "{name}"
            );
            let command: Vec<&str> = texts(&service["command"]).into_iter().take(1).collect();
            assert!(help(&command).is_some(), "{name}: {command:?}");
        }
    }
    let declared: BTreeSet<&str> =
        compose["secrets"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(used, declared, "secrets that nobody uses");
    let nodes = services.keys().filter(|name| name.starts_with("node-")).count();
    assert_eq!(nodes, 3);
    assert_eq!(compose["networks"]["data"]["internal"], true);
    assert_eq!(compose["networks"]["peers"]["internal"], true);
    assert_eq!(networks(&services["postgres"]), ["data"]);
}

#[test]
fn each_node_takes_its_settings_and_has_the_time_to_stop() {
    let compose = compose();
    let secrets = made_secrets();
    let mut names = BTreeSet::new();
    for (name, service) in services(&compose) {
        if service["build"].is_null() {
            continue;
        }
        let settings = settings(&compose, service, secrets.path());
        let merged = checked(name, &[], &settings);
        if !name.starts_with("node-") {
            continue;
        }
        assert_eq!(merged["cluster.enabled"], "true");
        assert_eq!(merged["store.migrate"], "false");
        assert_eq!(merged["cluster.name"], *name);
        // Other nodes reach it, and nobody who is not on their network.
        let address = service["networks"]["peers"]["ipv4_address"].as_str().unwrap();
        let subnet = compose["networks"]["peers"]["ipam"]["config"][0]["subnet"].as_str().unwrap();
        let (network, _) = subnet.rsplit_once('.').unwrap();
        assert!(address.starts_with(&format!("{network}.")), "{name}: {address} is not of {subnet}");
        assert_eq!(merged["peer.listen"], format!("{address}:50052"));
        assert_eq!(merged["peer.advertise"], merged["peer.listen"]);
        assert!(names.insert(merged["cluster.name"].clone()) && names.insert(address.to_owned()), "{name}");
        assert!(seconds(service["stop_grace_period"].as_str().unwrap()) >= longest_stop(&merged), "{name}");
        let check: Vec<&str> = texts(&service["healthcheck"]["test"]).split_off(1);
        assert_eq!(check[0], "order-service");
        assert!(help(&check[1..]).is_some(), "{check:?} is no command");
    }
}

#[test]
fn the_script_makes_every_secret_once_and_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let compose = compose();
    let folder = made_secrets();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("secrets")), 0o700);
    for secret in compose["secrets"].as_object().unwrap().values() {
        let file = folder.path().join(secret["file"].as_str().unwrap().trim_start_matches("./compose/"));
        assert!(fs::read_to_string(&file).unwrap().len() > 16, "{}", file.display());
        assert_eq!(mode(&file), 0o444);
    }
    let ignored = text(".gitignore");
    assert!(ignored.lines().any(|line| line == "/deploy/compose/secrets"), "secrets could be committed");
}

/// The roles of compose on a real server: the owner migrates, a node serves with what it was granted.
#[tokio::test]
async fn the_roles_are_enough_to_migrate_and_to_serve() {
    let server = PgServer::start(&[]).await;
    let secrets = made_secrets();
    let folder = secrets.path().join("secrets");
    // The script as the image of Postgres runs it, with its secrets in another place.
    let script = text("deploy/compose/roles.sh").replace("/run/secrets", folder.to_str().unwrap());
    let superuser = server.value("SELECT current_user").await;
    let path = [postgres_binary("psql").parent().unwrap().to_str().unwrap(), "/usr/bin:/bin"].join(":");
    let made = Command::new("bash")
        .args(["-c", &script])
        .env_clear()
        .envs([("PATH", path.as_str()), ("POSTGRES_USER", &superuser), ("PGHOST", "127.0.0.1")])
        .env("PGPORT", server.port().to_string())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let url = |name: &str| {
        let url = fs::read_to_string(folder.join(name)).unwrap();
        (
            String::from("ORDER__STORE__URL"),
            url.trim().replace("postgres:5432", &server.address().to_string()),
        )
    };
    let mut migrate =
        Process::spawn("migrate", &["migrate", "--grant-to", "order_node"], &[url("owner-url")]);
    assert!(migrate.ended().await.success(), "{}", migrate.log());
    let settings = [
        url("node-url"),
        (String::from("ORDER__STORE__MIGRATE"), String::from("false")),
        (String::from("ORDER__GRPC__LISTEN"), String::from("127.0.0.1:0")),
        (String::from("ORDER__OPS__LISTEN"), String::from("127.0.0.1:0")),
        (String::from("ORDER__SIMULATOR__JOURNAL"), String::new()),
    ];
    let mut node = Process::spawn("node", &["serve"], &settings);
    crate::harness::wait::eventually("the node to serve", async || {
        assert!(node.has_ended().is_none(), "{}", node.log());
        node.log().contains("\"serving\"").then_some(())
    })
    .await;
}
