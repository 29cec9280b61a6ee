//! Whether the private servers that other tests rely on do what those tests believe.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::harness::pgbouncer::PgBouncer;
use crate::harness::postgres::{PgServer, Shutdown, query, shared, shared_database};
use crate::harness::small_disk::SmallDisk;
use crate::harness::standby::Replication;
use crate::harness::wait::eventually;

/// Whether a process runs. One that has ended and that nobody has waited for has no command line.
fn runs(process: u32) -> bool {
    std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|words| !words.is_empty())
}

/// Whether the folder around this one is gone.
fn is_removed(data: &Path) -> bool {
    !data.parent().unwrap().exists()
}

/// Names the file in which a child of this test process answers.
const CHILD: &str = "ORDER_TEST_HARNESS_CHILD";

#[tokio::test]
async fn a_server_keeps_its_data_over_restarts_and_leaves_nothing() {
    let server = PgServer::start_on_disk(&[("max_connections", "20")]).await;
    assert_eq!(server.value("SHOW max_connections").await, "20");
    assert_eq!(server.value("SHOW fsync").await, "on");
    let url = server.create_database().await;
    query(&url, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();
    let first = server.process_id().unwrap();
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        server.restart(how).await;
        assert_eq!(query(&url, "SELECT n FROM kept").await.unwrap(), [["1"]]);
    }
    assert!(server.log().contains("was not properly shut down"), "{}", server.log());
    assert!(!runs(first));
    server.reload(&[("work_mem", "8MB")]).await;
    assert_eq!(server.value("SHOW work_mem").await, "8MB");
    server.stop(Shutdown::Fast).await;
    assert!(query(&url, "SELECT 1").await.is_err());
    server.start_again().await;

    let (process, data) = (server.process_id().unwrap(), server.data_dir());
    assert!(runs(process) && data.exists());
    drop(server);
    assert!(!runs(process) && is_removed(&data));
}

#[tokio::test]
async fn databases_of_the_shared_server_are_empty_and_different() {
    let (one, other) = tokio::join!(shared_database(), shared_database());
    assert_ne!(one, other);
    query(&one, "CREATE TABLE here (n int)").await.unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(query(&one, tables).await.unwrap(), [["1"]]);
    assert_eq!(query(&other, tables).await.unwrap(), [["0"]]);
    let (mine, again) = (shared().await, shared().await);
    assert_eq!(mine.port(), again.port());
}

/// Says what a child has started, and goes on until its parent is gone.
fn answer_and_wait(answer: &Path, said: &str) {
    let draft = answer.with_extension("draft");
    std::fs::write(&draft, said).unwrap();
    std::fs::rename(draft, answer).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Plays the part of a test process that is killed. Alone it does nothing.
#[tokio::test]
async fn child_with_a_server() {
    let Some(answer) = std::env::var_os(CHILD) else { return };
    let server = PgServer::start(&[]).await;
    let said = format!("{} {}", server.process_id().unwrap(), server.data_dir().display());
    answer_and_wait(Path::new(&answer), &said);
}

/// As above, on a disk of its own.
#[tokio::test]
async fn child_with_a_disk() {
    let Some(answer) = std::env::var_os(CHILD) else { return };
    let disk = SmallDisk::new(100);
    let server = PgServer::start_on(&disk, &[]).await;
    let said = format!("{} {}", server.process_id().unwrap(), disk.path().display());
    answer_and_wait(Path::new(&answer), &said);
}

/// Kills a test process that runs this test, and waits until the server it has started and the folder around what it
/// names are gone.
async fn kill_child(test: &str) {
    let folder = TempDir::new().unwrap();
    let answer = folder.path().join("answer");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("harness_postgres::{test}")])
        .env(CHILD, &answer)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = eventually("the child to start a server", async || {
        let said = std::fs::read_to_string(&answer).ok();
        assert!(said.is_some() || child.try_wait().unwrap().is_none(), "{test} ended");
        said
    })
    .await;
    let (process, path) = said.split_once(' ').unwrap();
    let (process, path) = (process.parse().unwrap(), Path::new(path));
    assert!(runs(process) && path.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = async || (!runs(process) && is_removed(path)).then_some(());
    eventually("server and folder to be gone", gone).await;
}

#[tokio::test]
async fn a_killed_test_process_leaves_no_server() {
    kill_child("child_with_a_server").await;
}

#[tokio::test]
async fn a_killed_test_process_leaves_no_disk() {
    kill_child("child_with_a_disk").await;
}

#[tokio::test]
async fn an_asynchronous_standby_loses_the_tail() {
    let primary = PgServer::start(&[]).await;
    let standby = primary.standby("spare", Replication::Asynchronous).await;
    let url = primary.create_database().await;
    query(&url, "CREATE TABLE tail (n int); INSERT INTO tail VALUES (1)").await.unwrap();
    standby.caught_up(&primary).await;
    assert_eq!(standby.lag(&primary).await, 0);

    standby.cut_replication().await;
    query(&url, "INSERT INTO tail VALUES (2)").await.unwrap();
    assert!(standby.lag(&primary).await > 0);
    standby.restore_replication().await;
    standby.caught_up(&primary).await;

    standby.cut_replication().await;
    query(&url, "INSERT INTO tail VALUES (3)").await.unwrap();
    primary.stop(Shutdown::Immediate).await;
    standby.promote().await;
    let there = url.replace(&primary.address().to_string(), &standby.address().to_string());
    query(&there, "INSERT INTO tail VALUES (4)").await.unwrap();
    let rows = query(&there, "SELECT n FROM tail ORDER BY n").await.unwrap();
    assert_eq!(rows, [["1"], ["2"], ["4"]]);
}

#[tokio::test]
async fn a_synchronous_standby_has_all() {
    let primary = PgServer::start(&[]).await;
    let standby = primary.standby("spare", Replication::Synchronous).await;
    let url = primary.create_database().await;
    query(&url, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();
    primary.stop(Shutdown::Immediate).await;
    standby.promote().await;
    let there = url.replace(&primary.address().to_string(), &standby.address().to_string());
    query(&there, "INSERT INTO kept VALUES (2)").await.unwrap();
    assert_eq!(query(&there, "SELECT count(*) FROM kept").await.unwrap(), [["2"]]);
}

#[tokio::test]
async fn a_pool_lends_a_connection_for_each_transaction() {
    let server = shared().await;
    let bouncer = PgBouncer::start(server, "transaction").await;
    let url = bouncer.url_of(&server.create_database().await);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(PgConnection::connect(&url).await.unwrap());
    }
    let mut servers = BTreeSet::new();
    for client in &mut clients {
        // A prepared statement has to stay within one transaction.
        let mut transaction = client.begin().await.unwrap();
        let process: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .persistent(false)
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        servers.insert(process);
    }
    assert!(servers.len() <= 10, "{servers:?}");
    let pools = query(&bouncer.url("pgbouncer"), "SHOW POOLS").await.unwrap();
    assert!(pools.iter().flatten().any(|value| value == "transaction"), "{pools:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_forgets_nothing() {
    let disk = SmallDisk::new(120);
    let server = PgServer::start_on(&disk, &[]).await;
    server.admin("CREATE TABLE kept (n int, filler text); INSERT INTO kept VALUES (0, '')").await;
    disk.fill();
    let mut kept = 0;
    let refused = loop {
        let next = kept + 1;
        let insert = format!("INSERT INTO kept VALUES ({next}, repeat('x', 1000000))");
        match server.try_admin(&insert).await {
            Ok(_) => kept = next,
            Err(error) => break error,
        }
    };
    let log = server.log();
    assert!(log.contains("No space left on device"), "{refused}\n{log}");
    disk.free();
    server.recovered().await;
    let rows = server.value("SELECT max(n) FROM kept").await;
    // The one without an answer may be there or not.
    assert!(rows == kept.to_string() || rows == (kept + 1).to_string(), "{rows}, answered {kept}");
    server.admin("INSERT INTO kept VALUES (-1, '')").await;
    let mount = disk.path();
    drop(disk);
    server.admin("SELECT count(*) FROM kept").await;
    drop(server);
    assert!(is_removed(&mount));
}
