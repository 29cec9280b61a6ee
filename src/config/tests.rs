use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::load::DEFAULTS;
use super::read::keys_read;
use super::*;

fn load(yaml: &[&str], environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = yaml
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let file = folder.path().join(format!("{index}.yaml"));
            std::fs::write(&file, text).unwrap();
            file
        })
        .collect();
    Config::load(&files, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// The only error that `load` gives.
fn only_error(yaml: &[&str], environment: &[(&str, &str)]) -> String {
    let errors = load(yaml, environment).unwrap_err().0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.first().unwrap().to_string()
}

#[test]
fn the_defaults_are_the_contract() {
    let config = load(&[], &[]).unwrap();
    assert_eq!(config.profile, Profile::Dev);
    assert_eq!(config.grpc.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(config.ops.listen.to_string(), "127.0.0.1:9464");
    assert_eq!(config.ops.repairs, Repairs::Loopback);
    assert_eq!(config.peer.listen.to_string(), "127.0.0.1:50052");
    assert_eq!(config.peer.advertise, None);
    assert_eq!(config.simulator.listen.to_string(), "127.0.0.1:50061");
    assert_eq!(config.simulator.journal, SimulatorJournal::Auto);
    assert_eq!(config.store.url, StoreUrl::Sqlite("./data/orders.db".into()));
    assert!(matches!(config.cache.url, CacheUrl::Memory));
    assert_eq!(config.collaborators.payment, CollaboratorUrl::Simulated);
    assert_eq!(config.create.wait, Duration::from_secs(5));
    assert_eq!(config.saga.reservation_ttl, Duration::from_secs(1_800));
    assert_eq!(config.saga.expire_after, Duration::from_secs(1_800));
    assert_eq!(config.saga.unknown_attention_after, Duration::from_secs(300));
    assert_eq!((config.risk.hold_from_amount, config.risk.max_orders_per_user), (Vec::new(), 0));
    assert!(!config.risk.hold_mismatched_countries);
    assert_eq!((config.limits.items_per_order, config.limits.max_quantity), (200, 9_999));
    assert_eq!(config.grpc.max_message_bytes, 262_144);
    assert_eq!((config.testing.crash_at, config.testing.skip_undo), (None, None));
}

#[test]
fn every_key_is_read_and_every_read_key_exists() {
    let merged = Merged::collect(&[], std::iter::empty());
    let known: BTreeSet<&str> = merged.entries.keys().map(String::as_str).collect();
    assert_eq!(known, keys_read(&merged));
}

#[test]
fn every_key_of_the_manual_is_explained() {
    let mut above = "";
    for line in DEFAULTS.lines() {
        let is_key = line.split_once(": ").is_some_and(|(key, _)| !key.trim_start().starts_with('#'));
        assert!(!is_key || above.trim_start().starts_with('#'), "no comment above {line}");
        above = line;
    }
}

#[test]
fn later_files_win_and_the_environment_wins_over_files() {
    let low = "grpc:\n  listen: '127.0.0.1:1'\n  max_watchers: 7\ncreate:\n";
    let high = "grpc.listen: '127.0.0.1:2'";
    let config = load(&[low, high, "# nothing\n"], &[]).unwrap();
    assert_eq!((config.grpc.listen.port(), config.grpc.max_watchers), (2, 7));
    let environment = [
        ("order__grpc__Listen", "127.0.0.1:3"),
        ("ORDER__GRPC__MAX_WATCHERS", "8"),
        ("ORDER__GRPC__REFLECTION", "False"),
        ("ORDER__CREATE__WAIT", "250"),
        ("ORDER__PROFILE", "dev"),
        ("ORDER_SERVER", "http://else"),
        ("PATH", "/bin"),
    ];
    let config = load(&[low, high], &environment).unwrap();
    assert_eq!((config.grpc.listen.port(), config.grpc.max_watchers), (3, 8));
    assert!(!config.grpc.reflection);
    assert_eq!(config.create.wait, Duration::from_millis(250));
}

#[test]
fn the_simulators_journal_is_automatic_or_none_or_a_file() {
    let journal = |text| load(&[], &[("ORDER__SIMULATOR__JOURNAL", text)]).unwrap().simulator.journal;
    assert_eq!(journal("auto"), SimulatorJournal::Auto);
    assert_eq!(journal(""), SimulatorJournal::None);
    assert_eq!(journal("./sim.jsonl"), SimulatorJournal::File("./sim.jsonl".into()));
}

#[test]
fn unknown_keys_are_named_with_what_there_is() {
    let error = only_error(&["grpc:\n  lisen: x"], &[]);
    assert!(error.starts_with("grpc.lisen = x (") && error.contains("0.yaml"), "{error}");
    assert!(error.contains("is not a key; grpc has behind_tls_proxy"), "{error}");
    let error = only_error(&[], &[("ORDER__GRCP__LISTEN", "x")]);
    assert!(
        error.contains("grcp.listen = x (ORDER__GRCP__LISTEN) is not a key; there are actor, auth"),
        "{error}"
    );
    assert!(only_error(&["grpc: 5"], &[]).contains("is a section"));
    assert!(only_error(&["grpc:\n  listen: {a: b}"], &[]).contains("grpc.listen.a"));
}

#[test]
fn types_and_ranges_are_checked() {
    for (yaml, expected) in [
        ("grpc: {max_watchers: 0}", "grpc.max_watchers = 0 ("),
        ("grpc: {max_watchers: '5'}", "must be a whole number; use 1 to 1000000"),
        ("grpc: {max_watchers: 2.5}", "neither text"),
        ("grpc: {max_watchers: }", "has no value"),
        ("grpc: {max_watchers: [1]}", "neither text"),
        ("grpc: {reflection: 1}", "true or false"),
        ("grpc: {listen: 50051}", "must be text"),
        ("grpc: {listen: localhost}", "is not ADDRESS:PORT"),
        ("create: {wait: 5 days}", "is not a duration"),
        ("create: {wait: 6m}", "out of range; use 0s to 5m"),
        ("create: {wait: -1}", "is not a duration"),
        ("limits: {max_quantity: -1}", "out of range; use 1 to 1000000"),
        ("limits: {page_size_max: 10}", "is below limits.page_size_default"),
        ("log: {level: ''}", "is not a log level"),
        ("log: {format: xml}", "use pretty or json or auto"),
        ("profile: test", "use dev or production"),
        ("cluster: {enabled: true}", "needs a store that nodes can share"),
        ("cluster: {name: \"a b\"}", "is not a name"),
        ("cluster: {serve_for: 6s}", "is not below cluster.lease"),
        ("cluster: {read_for: 1s}", "is not above cluster.renew_every"),
        ("peer: {tls_cert: cert.pem}", "is empty while another file"),
        ("store: {url: 'postgres://u:hush@h'}", "store.url = \"postgres://u:***@h\" ("),
        ("store: {url: 'postgres://h/d', read_url: 'sqlite:x'}", "is not the URL of a Postgres database"),
        ("store: {read_url: 'postgres://u:hush@h/d'}", "\"postgres://u:***@h/d\" ("),
        ("store: {lanes: 17}", "use 1 to 16"),
        ("store: {connect_timeout: 99ms}", "use 100ms to 1m"),
        ("store: {read_timeout: 11m}", "use 10ms to 10m"),
        ("store: {commit_timeout: 0}", "use 100ms to 10m"),
        ("store: {lock_timeout: 2m}", "use 10ms to 1m"),
        ("store: {outage_patience: 61s}", "use 0s to 1m"),
        ("store: {reconnect_max: 1ms}", "use 10ms to 1m"),
        ("store: {pooler: session}", "use none or transaction"),
        ("store: {application_name: ''}", "1 to 63 printable ASCII"),
        ("store: {allow_unsafe: 'fsync,checksums'}", "use fsync, full_page_writes, synchronous_commit"),
        ("cache: {url: 'memcached://h'}", "is not the URL of a cache"),
        ("cache: {url: 'redis:'}", "redis+cluster://"),
        ("cache: {prefix: 'a b'}", "1 to 64 letters"),
        ("cache: {max_stale: 61s}", "use 0s to 1m"),
        ("auth: {mode: jwt}", "auth.issuer"),
        ("auth: {mode: off}", "use auto or dev or jwt"),
        ("auth: {issuer: i}", "auth.audience"),
        ("auth: {issuer: i, audience: a}", "say where the public keys are"),
        ("auth: {issuer: i, audience: a, keys_file: k, jwks_url: 'https://h/k'}", "keep one of the two"),
        ("auth: {issuer: i, audience: a, jwks_url: 'http://h/k'}", "is not the URL of a key document"),
        ("auth: {issuer: i, audience: a, jwks_url: 'https://u@h/k'}", "is not the URL of a key document"),
        ("auth: {issuer: i, audience: a, keys_file: k, algorithms: none}", "is not a list of ES256"),
        ("auth: {issuer: i, audience: a, keys_file: k, algorithms: 'ES256, HS256'}", "beside public keys"),
        ("auth: {issuer: i, audience: a, keys_file: k, algorithms: HS256}", "beside public keys"),
        ("auth: {issuer: i, audience: a, algorithms: HS256}", "auth.secret"),
        ("auth: {issuer: i, audience: a, algorithms: HS256, secret: hush}", "auth.secret = *** ("),
        ("auth: {issuer: i, audience: a, keys_file: k, secret: hush}", "auth.secret = *** ("),
        ("auth: {issuers_file: '/no/such'}", "cannot be read"),
        ("auth: {stale_after: 1m}", "is below auth.refresh"),
        ("auth: {mtls: true}", "set grpc.tls_client_ca"),
        ("grpc: {tls_key: k}", "grpc.tls_cert"),
        ("grpc: {tls_cert: c, tls_key: k, tls_client_ca: a}", "while auth.mtls is false"),
        ("collaborators: {user: 'ftp://h'}", "collaborators.user"),
        ("ops: {listen: '127.0.0.1:50051'}", "is the address of grpc.listen too"),
        ("simulator: {journal: './data/'}", "is not the path of a file"),
        ("grpc: [", "is not YAML"),
        ("- a", "is not YAML"),
    ] {
        let error = only_error(&[yaml], &[]);
        assert!(error.contains(expected), "{yaml}: {error}");
    }
}

#[test]
fn all_errors_come_at_once() {
    let errors = load(
        &["grpc: {max_watchers: 0}\nnope: 1", "a: b: c"],
        &[("ORDER__CREATE__WAIT", "x"), ("ORDER__NOPE", "y")],
    )
    .unwrap_err();
    assert_eq!(errors.0.len(), 5, "{errors}");
    assert_eq!(errors.to_string().lines().count(), 5);
    let gone = Config::load(&["/no/such.yaml".into()], std::iter::empty()).unwrap_err().to_string();
    assert!(gone.starts_with("/no/such.yaml cannot be read"), "{gone}");
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "hush-hush-hush-hush\n").unwrap();
    let path = file.to_str().unwrap();
    let environment = [("ORDER__IDS__KEY_FILE", path)];
    let config = load(&[], &environment).unwrap();
    assert_eq!(config.ids.key.expose(), "hush-hush-hush-hush");
    assert!(!format!("{config:?}").contains("hush"));

    let merged = Merged::collect(&[], [("ORDER__IDS__KEY_FILE".to_owned(), path.to_owned())].into_iter());
    let setting = merged.settings().find(|setting| setting.key == "ids.key").unwrap();
    assert_eq!(setting.value, "***");
    assert_eq!(setting.origin.to_string(), format!("{path} by ORDER__IDS__KEY_FILE"));

    let error = only_error(&[], &[("ORDER__IDS__KEY", "hush"), ("ORDER__PROFILE", "dev")]);
    assert!(error.starts_with("ids.key = *** (ORDER__IDS__KEY) has 4 bytes"), "{error}");
    let error =
        only_error(&[], &[("ORDER__IDS__KEY", "hush-hush-hush-hush"), ("ORDER__IDS__KEY_FILE", path)]);
    assert!(error.contains("is set by ORDER__IDS__KEY too"), "{error}");
    let error = only_error(&[], &[("ORDER__IDS__KEY_FILE", "/no/such")]);
    assert!(error.contains("cannot be read"), "{error}");
    let error = only_error(&[], &[("ORDER__IDS__KYE_TOKEN", "hush")]);
    assert!(!error.contains("hush"), "{error}");
}

#[test]
fn the_store_can_be_postgres() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, "postgres://orders:hush@db:6432/orders?sslmode=verify-full\n").unwrap();
    let environment = [
        ("ORDER__STORE__URL_FILE", file.to_str().unwrap()),
        ("ORDER__STORE__READ_URL", "postgresql://replica/orders?user=r&password=hush"),
        ("ORDER__STORE__POOLER", "transaction"),
        ("ORDER__STORE__LANES", "16"),
        ("ORDER__STORE__OUTAGE_PATIENCE", "0"),
        ("ORDER__STORE__ALLOW_UNSAFE", "fsync, synchronous_commit"),
    ];
    let config = load(&[], &environment).unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    let store = config.store;
    let StoreUrl::Postgres(url) = &store.url else { panic!("{:?}", store.url) };
    assert_eq!((url.host.as_deref(), url.port, url.ssl_mode), (Some("db"), 6432, SslMode::VerifyFull));
    assert_eq!(url.password.as_ref().map(Secret::expose), Some("hush"));
    assert_eq!(store.read_url.unwrap().user.as_deref(), Some("r"));
    assert_eq!((store.pooler, store.lanes, store.outage_patience), (Pooler::Transaction, 16, Duration::ZERO));
    let names: Vec<&str> = store.allow_unsafe.into_iter().map(UnsafeSetting::name).collect();
    assert_eq!(names, ["fsync", "synchronous_commit"]);

    let owned = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let merged = Merged::collect(&[], owned.into_iter());
    let shown = |key: &str| merged.settings().find(|setting| setting.key == key).unwrap().value;
    assert_eq!(shown("store.url"), "\"postgres://orders:***@db:6432/orders?sslmode=verify-full\"");
    assert_eq!(shown("store.read_url"), "\"postgresql://replica/orders?user=r&password=***\"");
}

#[test]
fn the_defaults_of_the_store() {
    let store = load(&[], &[]).unwrap().store;
    assert_eq!((store.readers, store.lanes, store.read_url), (4, 2, None));
    assert_eq!((store.pooler, store.application_name.as_str()), (Pooler::None, "order-service"));
    assert!(store.allow_unsafe.is_empty());
    let durations = [
        store.connect_timeout,
        store.read_timeout,
        store.commit_timeout,
        store.lock_timeout,
        store.outage_patience,
        store.reconnect_max,
    ];
    assert_eq!(durations, [2, 5, 10, 2, 5, 1].map(Duration::from_secs));
}

#[test]
fn production_refuses_what_is_for_development() {
    let environment = [
        ("ORDER__PROFILE", "production"),
        ("ORDER__TESTING__CRASH_AT", "charge"),
        ("ORDER__TESTING__SKIP_UNDO", "create.reserve"),
    ];
    let errors = load(&[], &environment).unwrap_err();
    let keys: Vec<&str> = errors.0.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["auth.issuer", "ids.key", "testing.crash_at", "testing.skip_undo"]);
    let dev = [("ORDER__PROFILE", "production"), ("ORDER__AUTH__MODE", "dev")];
    let errors = load(&[], &dev).unwrap_err();
    assert!(errors.0.iter().any(|error| error.key == "auth.mode"), "{errors}");
    let copied = load(&[], &[]).unwrap().ids.key.expose().to_owned();
    let errors = load(&[], &[("ORDER__PROFILE", "production"), ("ORDER__IDS__KEY", &copied)]).unwrap_err();
    assert!(errors.0.iter().any(|error| error.key == "ids.key"), "the default is refused from any layer");
}

#[test]
fn the_profile_sets_what_nobody_else_does() {
    let settings = |environment: &[(&str, &str)]| {
        let owned = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Merged::collect(&[], owned).settings().collect::<Vec<_>>()
    };
    let production = ("ORDER__PROFILE", "production");
    let (dev, all) = (settings(&[]), settings(&[production]));
    assert!(!dev.iter().any(|setting| matches!(setting.origin, Origin::Profile(_))));
    let keys = |all: &[Setting]| all.iter().map(|setting| setting.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&dev), keys(&all), "it has no keys of its own");
    let of = |all: &[Setting], key: &str| {
        let setting = all.iter().find(|setting| setting.key == key).unwrap();
        format!("{} # {}", setting.value, setting.origin)
    };
    assert_eq!(of(&all, "grpc.reflection"), "false # profile production");
    assert_eq!(of(&all, "privacy.mode"), "\"encrypt\" # profile production");
    let limited = all.iter().filter(|one| one.key.starts_with("rate_limits.") && one.value == "0");
    assert_eq!(limited.count(), 0, "every limit of callers is on");
    // What is said wins, even where it says the default.
    let said = settings(&[production, ("ORDER__GRPC__REFLECTION", "true"), ("ORDER__PRIVACY__MODE", "off")]);
    assert_eq!(of(&said, "grpc.reflection"), "\"true\" # ORDER__GRPC__REFLECTION");
    assert_eq!(of(&said, "privacy.mode"), "\"off\" # ORDER__PRIVACY__MODE");
    let file = "profile: production\ngrpc: {reflection: true}\nids: {key: a secret of our own}\nauth: {issuer: i, audience: a, keys_file: k}";
    let config = load(&[file], &[]).unwrap();
    assert!(config.grpc.reflection);
    assert_eq!((config.rate_limits.open_orders_per_user, config.privacy.mode), (10, PrivacyMode::Encrypt));
}

#[test]
fn the_example_for_production_loads() {
    let example = include_str!("../../config/production.yaml");
    let key = ("ORDER__IDS__KEY", "a secret of our own");
    let config = load(&[example], &[key]).unwrap();
    assert_eq!(config.grpc.listen.to_string(), "0.0.0.0:50051");
    assert!(!config.grpc.reflection && config.rate_limits.read.often > 0);
    assert_eq!(config.privacy.mode, PrivacyMode::Encrypt);
    assert_eq!((config.profile, config.auth.mode), (Profile::Production, AuthMode::Jwt));
    let plain = ("ORDER__GRPC__TLS_CERT", "");
    let error = only_error(&[example], &[key, plain, ("ORDER__GRPC__TLS_KEY", "")]);
    assert!(error.starts_with("grpc.tls_cert"), "{error}");
    let proxied = [key, plain, ("ORDER__GRPC__TLS_KEY", ""), ("ORDER__GRPC__BEHIND_TLS_PROXY", "true")];
    assert!(load(&[example], &proxied).is_ok());
    let development = ("ORDER__AUTH__ISSUER", "order-service-development");
    assert!(only_error(&[example], &[key, development]).starts_with("auth.issuer"));
}

#[test]
fn a_file_names_further_issuers() {
    let folder = tempfile::tempdir().unwrap();
    let (file, secret) = (folder.path().join("issuers.yaml"), folder.path().join("secret"));
    std::fs::write(&secret, "hush-hush-hush-hush-hush-hush-hush-hush\n").unwrap();
    let path = file.to_str().unwrap();
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        load(&["auth: {issuer: i, audience: a, keys_file: k}"], &[("ORDER__AUTH__ISSUERS_FILE", path)])
    };
    let shared =
        format!("- {{issuer: s, audience: b, algorithms: HS256, secret_file: '{}'}}", secret.display());
    let two =
        format!("issuers:\n{shared}\n- {{issuer: t, audience: a, jwks_url: 'https://h/k', max_age: 1h}}");
    let config = with(&two).unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    let names: Vec<&str> = config.auth.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
    assert_eq!(names, ["i", "s", "t"]);
    let ages: Vec<_> = config.auth.issuers.iter().map(|issuer| issuer.max_age.unwrap().as_secs()).collect();
    assert_eq!(ages, [86_400, 86_400, 3_600]);
    for (text, expected) in [
        ("issuers: [{issuer: t, audience: a}]", "at issuer 1: keys_file is empty"),
        ("issuers: [{issuer: t, nope: a}]", "is wrong at issuer 1"),
        ("issuers: [{issuer: i, audience: a, keys_file: k}]", "name each once"),
        ("issuer: t", "is not a file of issuers"),
    ] {
        let error = with(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
