//! `deploy/kubernetes`: the form of each object, that all that they name exists, and that the program takes the settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{checked, conforms, documents, help, longest_stop, option, root, text, texts};

const FOLDER: &str = "deploy/kubernetes";

/// Every object, by kind and name.
fn objects() -> BTreeMap<(String, String), Value> {
    let kustomization = documents(&format!("{FOLDER}/kustomization.yaml")).remove(0);
    let named: BTreeSet<&str> = texts(&kustomization["resources"]).into_iter().collect();
    let files = fs::read_dir(root().join(FOLDER)).unwrap();
    let there: BTreeSet<String> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|file| {
            file.ends_with(".yaml")
                && !["kustomization.yaml", "secrets.example.yaml"].contains(&file.as_str())
        })
        .collect();
    assert_eq!(named, there.iter().map(String::as_str).collect(), "kustomization.yaml names what is there");
    let others = ["secrets.example.yaml", "monitoring/pod-monitor.yaml"];
    let mut objects = BTreeMap::new();
    for file in named.into_iter().chain(others) {
        for object in documents(&format!("{FOLDER}/{file}")) {
            let kind = object["kind"].as_str().unwrap().to_owned();
            conforms(file, "kubernetes", &kind, &object);
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            assert!(
                objects.insert((kind.clone(), name.clone()), object).is_none(),
                "{kind} {name} is there twice"
            );
        }
    }
    objects
}

fn of<'a>(objects: &'a BTreeMap<(String, String), Value>, kind: &str) -> Vec<(&'a str, &'a Value)> {
    let found: Vec<_> = objects
        .iter()
        .filter(|((of, _), _)| of == kind)
        .map(|((_, name), one)| (name.as_str(), one))
        .collect();
    assert!(!found.is_empty(), "no {kind}");
    found
}

/// The pod templates: of nodes and of the migration.
fn templates(objects: &BTreeMap<(String, String), Value>) -> Vec<&Value> {
    let of_kind = |kind| of(objects, kind).into_iter().map(|(_, object)| &object["spec"]["template"]);
    of_kind("Deployment").chain(of_kind("Job")).collect()
}

/// How many templates have these labels.
fn selected(templates: &[&Value], labels: &Value) -> usize {
    let labels = labels.as_object().unwrap();
    let fits =
        |template: &&&Value| labels.iter().all(|(key, value)| &template["metadata"]["labels"][key] == value);
    templates.iter().filter(fits).count()
}

fn node(objects: &BTreeMap<(String, String), Value>) -> &Value {
    &objects[&("Deployment".to_owned(), "order-service".to_owned())]
}

fn container(template: &Value) -> &Value {
    &template["spec"]["containers"][0]
}

fn ports(template: &Value) -> BTreeMap<&str, i64> {
    let ports = container(template)["ports"].as_array().into_iter().flatten();
    ports.map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_i64().unwrap())).collect()
}

#[test]
fn every_selector_selects_pods_of_ours() {
    let objects = objects();
    let templates = templates(&objects);
    let spec = &node(&objects)["spec"];
    assert_eq!(selected(&[&spec["template"]], &spec["selector"]["matchLabels"]), 1);
    for (name, service) in of(&objects, "Service") {
        assert_eq!(selected(&templates, &service["spec"]["selector"]), 1, "Service {name}");
    }
    for kind in ["PodDisruptionBudget", "PodMonitor"] {
        for (name, object) in of(&objects, kind) {
            assert_eq!(selected(&templates, &object["spec"]["selector"]["matchLabels"]), 1, "{kind} {name}");
        }
    }
    for constraint in spec["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap() {
        assert_eq!(selected(&templates, &constraint["labelSelector"]["matchLabels"]), 1);
    }
    let scaler = &of(&objects, "HorizontalPodAutoscaler")[0].1["spec"];
    assert_eq!(scaler["scaleTargetRef"]["name"], "order-service");
    assert!(scaler["minReplicas"].as_i64() < scaler["maxReplicas"].as_i64());
    assert!(spec["replicas"].is_null(), "the autoscaler says how many");
}

#[test]
fn nothing_goes_in_or_out_but_what_a_policy_names() {
    let objects = objects();
    let templates = templates(&objects);
    let ports = ports(&node(&objects)["spec"]["template"]);
    let mut denies_all = false;
    for (name, policy) in of(&objects, "NetworkPolicy") {
        let spec = &policy["spec"];
        let labels = &spec["podSelector"]["matchLabels"];
        if labels.is_null() {
            denies_all |= spec["policyTypes"] == json!(["Ingress", "Egress"])
                && spec["ingress"].is_null()
                && spec["egress"].is_null();
        } else {
            assert_eq!(selected(&templates, labels), 1, "{name}");
        }
        let rules = |side: &str| spec[side].as_array().cloned().unwrap_or_default();
        for port in rules("ingress").iter().flat_map(|rule| rule["ports"].as_array().unwrap()) {
            assert!(ports.contains_key(port["port"].as_str().unwrap()), "{name}: {port}");
        }
        for peer in rules("ingress").iter().flat_map(|rule| rule["from"].as_array().unwrap()) {
            if peer["namespaceSelector"].is_null() {
                assert_eq!(selected(&templates, &peer["podSelector"]["matchLabels"]), 1, "{name}");
            }
        }
    }
    assert!(denies_all);
    // Nodes reach each other.
    let policy = &objects[&("NetworkPolicy".to_owned(), "nodes".to_owned())]["spec"];
    assert!(policy["egress"].to_string().contains(&format!("\"port\":{}", ports["peer"])));
    // What is outside is reached by either protocol of the network, and Redis also with TLS.
    let egress = policy["egress"].to_string();
    for there in ["\"cidr\":\"0.0.0.0/0\"", "\"cidr\":\"::/0\"", "\"port\":6379", "\"port\":6380"] {
        assert!(egress.contains(there), "{there}: {egress}");
    }
}

#[test]
fn every_port_that_is_named_is_there() {
    let objects = objects();
    let template = &node(&objects)["spec"]["template"];
    let ports = ports(template);
    let metrics = text("docs/metrics.md");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let get = &container(template)[probe]["httpGet"];
        assert!(ports.contains_key(get["port"].as_str().unwrap()), "{probe}");
        let path = get["path"].as_str().unwrap();
        assert!(metrics.contains(&format!("`{path}`")), "{probe}: nodes have no {path}");
    }
    for (name, service) in of(&objects, "Service") {
        for port in service["spec"]["ports"].as_array().unwrap() {
            assert!(ports.contains_key(port["targetPort"].as_str().unwrap()), "Service {name}: {port}");
        }
    }
    let monitor = of(&objects, "PodMonitor")[0].1;
    assert!(ports.contains_key(monitor["spec"]["podMetricsEndpoints"][0]["port"].as_str().unwrap()));
    let annotations = &template["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], ports["ops"].to_string());
}

/// The settings of a pod, with some value in each secret. Fails on a path that no mounted secret has.
fn settings(
    objects: &BTreeMap<(String, String), Value>,
    template: &Value,
    folder: &TempDir,
) -> BTreeMap<String, String> {
    let volumes = template["spec"]["volumes"].as_array().unwrap();
    let mounts = container(template)["volumeMounts"].as_array().unwrap();
    let mut files = BTreeMap::new();
    for mount in mounts {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("a volume");
        let path = mount["mountPath"].as_str().unwrap();
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let map = &objects[&("ConfigMap".to_owned(), name.to_owned())];
            let key = mount["subPath"].as_str().unwrap();
            let file = folder.path().join(key);
            fs::write(&file, map["data"][key].as_str().expect("a key of the ConfigMap")).unwrap();
            files.insert(path.to_owned(), file);
        } else {
            let name = volume["secret"]["secretName"].as_str().unwrap();
            let secret = &objects[&("Secret".to_owned(), name.to_owned())];
            for key in secret["stringData"].as_object().unwrap().keys() {
                let value = match key.as_str() {
                    "store-url" => "postgres://order_node:x@db/orders".to_owned(),
                    "limits-url" | "cache-url" => "redis://:x@redis:6379/0".to_owned(),
                    _ => "0f".repeat(32),
                };
                let file = folder.path().join(format!("{name}.{key}"));
                fs::write(&file, value).unwrap();
                files.insert(format!("{path}/{key}"), file);
            }
        }
    }
    assert_eq!(volumes.len(), mounts.len(), "a volume that nobody mounts");
    let mut settings = BTreeMap::new();
    for one in container(template)["env"].as_array().unwrap() {
        let name = one["name"].as_str().unwrap();
        let Some(value) = one["value"].as_str() else { continue };
        let value = value.replace("$(POD_NAME)", "order-service-7d9c-x2x").replace("$(POD_IP)", "10.1.2.3");
        assert!(!value.contains("$("), "{name}");
        let value = match files.get(&value) {
            Some(file) => file.to_str().unwrap().to_owned(),
            None => value,
        };
        assert!(!value.starts_with("/run/secrets"), "{name}: no secret has {value}");
        settings.insert(name.to_owned(), value);
    }
    for argument in texts(&container(template)["args"]) {
        if argument.starts_with('/') {
            assert!(files.contains_key(argument), "{argument} is not mounted");
        }
    }
    // Certificates stand in the file; they are not read by the check.
    for (_, map) in of(objects, "ConfigMap") {
        for line in map["data"].as_object().unwrap().values().flat_map(|data| data.as_str().unwrap().lines())
        {
            if let Some((_, path)) = line.split_once("\"/etc/order-service/") {
                let path = format!("/etc/order-service/{}", path.trim_end_matches('"'));
                assert!(
                    template["spec"]["containers"][0]["name"] != "order-service" || files.contains_key(&path),
                    "{path}"
                );
            }
        }
    }
    settings
}

#[test]
fn the_program_takes_the_settings_and_has_the_time_to_stop() {
    let objects = objects();
    let folder = tempfile::tempdir().unwrap();
    let spec = &node(&objects)["spec"]["template"]["spec"];
    let settings = settings(&objects, &node(&objects)["spec"]["template"], &folder);
    let merged = checked("the Deployment", &[&folder.path().join("order-service.yaml")], &settings);
    assert_eq!(merged["profile"], "production");
    assert_eq!(merged["cluster.enabled"], "true");
    assert_eq!(merged["store.migrate"], "false");
    assert_eq!(merged["peer.advertise"], "10.1.2.3:50052");
    for (key, port) in [("grpc.listen", "grpc"), ("peer.listen", "peer"), ("ops.listen", "ops")] {
        let number = ports(&node(&objects)["spec"]["template"])[port];
        assert_eq!(merged[key], format!("0.0.0.0:{number}"));
    }
    // What runs before SIGTERM waits until callers know, and leaves enough for what comes after.
    let stop =
        texts(&container(&node(&objects)["spec"]["template"])["lifecycle"]["preStop"]["exec"]["command"]);
    let (at_least, at_most) = (option(&stop, "--at-least"), option(&stop, "--at-most"));
    assert!(Duration::from_secs(5) <= at_least && at_least < at_most, "{stop:?}");
    let grace = Duration::from_secs(spec["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(grace >= at_most + longest_stop(&merged), "{grace:?}");
    let user = spec["securityContext"]["runAsUser"].to_string();
    assert!(text("Dockerfile").contains(&format!("USER {user}:{user}")));
}

#[test]
fn the_migration_has_the_owner_s_secret() {
    let objects = objects();
    let folder = tempfile::tempdir().unwrap();
    let job = of(&objects, "Job")[0].1;
    let settings = settings(&objects, &job["spec"]["template"], &folder);
    checked("the Job", &[], &settings);
    assert!(settings["ORDER__STORE__URL_FILE"].contains("order-service-migrate."));
}

#[test]
fn the_secrets_hold_each_file_that_their_comments_name() {
    let objects = objects();
    let example = text("deploy/kubernetes/secrets.example.yaml");
    let named: Vec<&str> = example
        .split("/run/secrets/order-service/")
        .skip(1)
        .map(|rest| rest.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).next().unwrap())
        .collect();
    assert!(named.contains(&"database-ca"), "the URL of the database names an authority: {named:?}");
    for secret in ["order-service", "order-service-migrate"] {
        let keys = &objects[&("Secret".to_owned(), secret.to_owned())]["stringData"];
        for file in &named {
            assert!(keys[file].is_string(), "{secret} has no {file}");
        }
    }
}

#[test]
fn commands_images_and_accounts_exist() {
    let objects = objects();
    for template in templates(&objects) {
        let account = template["spec"]["serviceAccountName"].as_str().unwrap();
        assert!(objects.contains_key(&("ServiceAccount".to_owned(), account.to_owned())));
        let words = texts(&container(template)["args"]);
        let told = help(&words[..1]).unwrap_or_else(|| panic!("{words:?}"));
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(told.contains(option), "{option}");
        }
    }
    let stop =
        texts(&container(&node(&objects)["spec"]["template"])["lifecycle"]["preStop"]["exec"]["command"]);
    assert_eq!(stop[0], "order-service");
    let told = help(&stop[1..]).unwrap_or_else(|| panic!("{stop:?} is no command"));
    for option in stop.iter().filter(|word| word.starts_with("--")) {
        assert!(told.contains(option), "{option}");
    }
    let kustomization = documents(&format!("{FOLDER}/kustomization.yaml")).remove(0);
    let image = &kustomization["images"][0];
    assert_eq!(
        (image["name"].as_str(), image["newTag"].as_str()),
        (Some("order-service"), Some(env!("CARGO_PKG_VERSION")))
    );
    let namespace = kustomization["namespace"].as_str().unwrap();
    assert!(objects.contains_key(&("Namespace".to_owned(), namespace.to_owned())));
}
