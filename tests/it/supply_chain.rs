//! What the program is built from: the rules of `deny.toml` that can be held without a tool and without a network.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The crates that Cargo.lock names, with all that is known of them.
fn crates() -> Vec<Value> {
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        asked.status.success(),
        "{}where crates are missing: cargo fetch --locked",
        String::from_utf8_lossy(&asked.stderr)
    );
    let told: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let crates = told["packages"].as_array().unwrap().clone();
    assert!(crates.len() > 100, "{} crates", crates.len());
    crates.into_iter().filter(|package| package["name"] != "order-service").collect()
}

/// What stands in quotes between `from` and the first `until` behind it.
fn quoted(text: &str, from: &str, until: &str) -> BTreeSet<String> {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("deny.toml has no {from}"));
    let (list, _) = rest.split_once(until).unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression can be met with these licenses alone. AND binds closer than OR; `/` is an old way to write OR.
fn allows(allowed: &BTreeSet<String>, expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    fn any<'a>(
        allowed: &BTreeSet<String>,
        words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    ) -> bool {
        let mut met = false;
        loop {
            let mut all = true;
            loop {
                let first = words.next().unwrap_or_default();
                let one = if first == "(" {
                    let inner = any(allowed, words);
                    assert_eq!(words.next(), Some(")"));
                    inner
                } else {
                    let mut license = first.to_owned();
                    if words.next_if_eq(&"WITH").is_some() {
                        license = format!("{license} WITH {}", words.next().unwrap_or_default());
                    }
                    allowed.contains(&license)
                };
                all &= one;
                if words.next_if_eq(&"AND").is_none() {
                    break;
                }
            }
            met |= all;
            if words.next_if_eq(&"OR").is_none() {
                return met;
            }
        }
    }
    let met = any(allowed, &mut words);
    assert_eq!(words.next(), None, "{expression}");
    met
}

#[test]
fn every_license_is_one_that_we_allow() {
    let allowed = quoted(&text("deny.toml"), "allow = [", "]");
    for (expression, expected) in [
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0/Apache-2.0", true),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(GPL-3.0 OR MIT) AND LGPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
    ] {
        assert_eq!(allows(&allowed, expression), expected, "{expression}");
    }
    let wrong: Vec<String> = crates()
        .iter()
        .filter(|package| !allows(&allowed, package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn everything_comes_from_the_registry_and_nothing_banned_does() {
    let deny = text("deny.toml");
    assert!(deny.contains("unknown-registry = \"deny\"") && deny.contains("unknown-git = \"deny\""));
    let (_, bans) = deny.split_once("[bans]").unwrap();
    let banned: Vec<&str> =
        bans.lines().filter_map(|line| line.trim().strip_prefix("{ crate = \"")?.split('"').next()).collect();
    assert!(banned.len() > 3, "{banned:?}");
    for package in crates() {
        let (name, source) = (package["name"].as_str().unwrap(), package["source"].as_str());
        assert!(source.is_some_and(|source| source.starts_with("registry+")), "{name} is from {source:?}");
        assert!(!banned.contains(&name), "{name} is banned");
    }
    // Each is what it was when the lock file was written.
    let lock = text("Cargo.lock");
    for package in lock.split("[[package]]").skip(1).filter(|package| package.contains("source = ")) {
        assert!(package.contains("checksum = "), "{package}");
    }
}

#[test]
fn nothing_here_is_unsafe_or_built_without_the_lock_file() {
    assert!(text("Cargo.toml").contains("unsafe_code = \"forbid\""));
    for script in ["tests/run", "tests/supply-chain", ".ci/run"] {
        let script = text(script);
        let commands = script.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        for line in commands.filter(|line| {
            ["cargo test", "cargo clippy", "cargo build", "cargo deny"]
                .iter()
                .any(|command| line.contains(command))
        }) {
            assert!(line.contains("--locked"), "{line}");
        }
    }
}

#[test]
fn secrets_cannot_be_printed() {
    use order_service::app::postgres_config;
    use order_service::config::{Config, Merged, PostgresUrl, StoreUrl};
    use order_service::domain::ids::IdKey;
    use order_service::domain::payment::PaymentToken;

    let url = |host: &str| format!("postgres://orders:hush-{host}@{host}/orders?sslmode=require");
    let settings = [
        ("ORDER__STORE__URL", url("primary")),
        ("ORDER__STORE__READ_URL", url("replica")),
        ("ORDER__IDS__KEY", "hush-this-is-the-key".to_owned()),
    ];
    let owned = settings.map(|(key, value)| (key.to_owned(), value));
    let merged = Merged::collect(&[], owned.clone().into_iter());
    let config = Config::from_merged(&merged).unwrap();
    let StoreUrl::Postgres(store) = &config.store.url else { panic!("{:?}", config.store.url) };
    let opened = postgres_config(&config, store).unwrap();
    let token = PaymentToken::new("hush");
    let texts = [
        format!("{config:?} {config:#?} {merged:?}"),
        format!("{store} {store:?} {opened:?} {}", opened.target),
        format!("{:?} {token:?} {token}", IdKey(b"hush".to_vec())),
        format!("{:?}", PostgresUrl::parse(&url("other")).unwrap()),
        // What a mistake next to a secret is told as.
        format!(
            "{:?}",
            Config::load(&[], owned.into_iter().chain([("ORDER__IDS__KEYS".into(), "hush".into())]))
        ),
    ];
    for text in texts {
        // The bytes of a key are as telling as its letters.
        assert!(!text.contains("hush") && !text.contains("104, 117, 115, 104"), "{text}");
    }
}
