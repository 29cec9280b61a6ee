//! What a node makes of the server it is to start on: settings that lose orders, wrong passwords, and TLS.

use std::fs;

use order_service::config::{Config, Merged};
use order_service::ports::store::OrderStore;
use order_service::store::postgres::{OpenError, PostgresConfig, PostgresStore, Safety, migrate};
use order_service::telemetry;

use super::postgres::config_of;
use crate::harness::certificates::Certificates;
use crate::harness::postgres::{PgServer, USER, query};

async fn opened(config: PostgresConfig) -> Result<(), OpenError> {
    PostgresStore::open(config).await?.close().await;
    Ok(())
}

fn refusing(config: &PostgresConfig, except: &[&str]) -> PostgresConfig {
    let except = except.iter().map(|name| (*name).to_owned()).collect();
    PostgresConfig { safety: Safety::Refuse { except }, ..config.clone() }
}

#[tokio::test]
async fn a_server_that_may_lose_orders_is_refused_by_the_setting_that_does() {
    let telemetry =
        telemetry::init(&Config::from_merged(&Merged::collect(&[], std::iter::empty())).unwrap().log);
    let telemetry = telemetry.unwrap();
    let server = PgServer::start(&[]).await;
    let config = config_of(&server.create_database().await);
    migrate(&config).await.unwrap();
    opened(refusing(&config, &[])).await.unwrap();

    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        server.reload(&[(name, "off")]).await;
        for refusal in [
            opened(refusing(&config, &[])).await.unwrap_err(),
            opened(refusing(&config, &["wal_level"])).await.unwrap_err(),
            migrate(&refusing(&config, &[])).await.unwrap_err(),
        ] {
            assert!(matches!(&refusal, OpenError::Unsafe { name: told, .. } if told == name), "{refusal}");
            let whole =
                format!("has {name} = off and may lose acknowledged orders; turn it on, or add {name} to ");
            assert!(refusal.to_string().contains(&whole), "{refusal}");
        }
        opened(refusing(&config, &[name])).await.unwrap();
        opened(PostgresConfig { safety: Safety::Warn, ..config.clone() }).await.unwrap();
        let metrics = telemetry.render();
        for (name, value) in [(name, "off"), ("wal_level", "replica")] {
            let labels = [format!("name=\"{name}\""), format!("value=\"{value}\"")];
            let shown = |line: &str| {
                line.starts_with("order_store_server_setting{")
                    && labels.iter().all(|label| line.contains(label))
            };
            assert!(metrics.lines().any(shown), "{labels:?}\n{metrics}");
        }
        server.reload(&[(name, "on")]).await;
    }
    opened(refusing(&config, &[])).await.unwrap();
}

#[tokio::test]
async fn what_a_role_or_database_is_given_counts_too() {
    let server = PgServer::start(&[]).await;
    let url = server.create_database().await;
    let config = config_of(&url);
    migrate(&config).await.unwrap();
    for whose in [format!("DATABASE {}", config.target.database), format!("ROLE {USER}")] {
        query(&url, &format!("ALTER {whose} SET synchronous_commit = off")).await.unwrap();
        let refusal = opened(refusing(&config, &[])).await.unwrap_err();
        let told = matches!(&refusal, OpenError::Unsafe { name, .. } if name == "synchronous_commit");
        assert!(told, "{whose}: {refusal}");
        query(&url, &format!("ALTER {whose} RESET synchronous_commit")).await.unwrap();
    }
    opened(refusing(&config, &[])).await.unwrap();
}

/// Makes these the only rules of who may connect.
async fn admit(server: &PgServer, rules: &str) {
    fs::write(server.data_dir().join("pg_hba.conf"), rules).unwrap();
    server.reload(&[]).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_repeated() {
    let server = PgServer::start(&[]).await;
    let url = server.create_database().await;
    migrate(&config_of(&url)).await.unwrap();
    server.admin("CREATE ROLE keeper SUPERUSER LOGIN PASSWORD 'opensesame'").await;
    admit(&server, "host all keeper 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n").await;
    let with = |password: &str| {
        let url = url.replace(&format!("{USER}@"), &format!("keeper:{password}@"));
        config_of(&url)
    };
    opened(with("opensesame")).await.unwrap();
    let refusal = opened(with("hushhush")).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Unreachable { .. }), "{refusal}");
    let told = refusal.to_string();
    assert!(told.contains("password authentication failed for user \"keeper\" (28P01)"), "{told}");
    assert!(!told.contains("hushhush"), "{told}");
}

#[tokio::test]
async fn a_connection_is_protected_as_much_as_is_asked_for() {
    let server = PgServer::start(&[]).await;
    let url = server.create_database().await;
    migrate(&config_of(&url)).await.unwrap();
    let certificates = Certificates::new().await;
    certificates.install(&server.data_dir());
    server.reload(&[("ssl", "on")]).await;
    admit(&server, "hostssl all all 127.0.0.1/32 trust\n").await;

    let localhost = url.replace("127.0.0.1", "localhost");
    let (right, wrong) = (certificates.path("right.crt"), certificates.path("wrong.crt"));
    let (right, wrong) = (right.display(), wrong.display());
    let with = |url: &str, parameters: &str| config_of(&format!("{url}?{parameters}"));
    for config in [
        config_of(&url),
        with(&url, "sslmode=require"),
        with(&url, &format!("sslmode=verify-ca&sslrootcert={right}")),
        with(&localhost, &format!("sslmode=verify-full&sslrootcert={right}")),
    ] {
        let store = PostgresStore::open(config).await.unwrap();
        let protected = "SELECT count(*) FROM pg_stat_activity AS a LEFT JOIN pg_stat_ssl AS s ON s.pid = a.pid \
                         WHERE a.application_name LIKE 'order-service %' AND s.ssl IS NOT TRUE";
        store.ping().await.unwrap();
        assert_eq!(server.admin(protected).await, [["0"]]);
        store.close().await;
    }
    for (config, expected) in [
        (with(&url, "sslmode=disable"), "no encryption"),
        (with(&url, &format!("sslmode=verify-full&sslrootcert={right}")), "not valid for name"),
        (with(&url, &format!("sslmode=verify-ca&sslrootcert={wrong}")), "UnknownIssuer"),
        (with(&localhost, &format!("sslmode=verify-full&sslrootcert={wrong}")), "UnknownIssuer"),
        // Without a file, the authorities of the machine, which know nothing of ours.
        (with(&localhost, "sslmode=verify-full"), "UnknownIssuer"),
    ] {
        let mode = config.target.ssl_mode;
        let refusal = opened(config).await.unwrap_err();
        assert!(matches!(refusal, OpenError::Unreachable { .. }), "{mode:?}: {refusal}");
        assert!(refusal.to_string().contains(expected), "{mode:?}: {refusal}");
    }

    // A server without TLS is no good where it is asked for.
    admit(&server, "host all all 127.0.0.1/32 trust\n").await;
    server.reload(&[("ssl", "off")]).await;
    for parameters in ["sslmode=require", &format!("sslmode=verify-full&sslrootcert={right}")] {
        let refusal = opened(with(&localhost, parameters)).await.unwrap_err();
        assert!(refusal.to_string().contains("server does not support TLS"), "{refusal}");
    }
    opened(with(&url, "sslmode=prefer")).await.unwrap();
}
