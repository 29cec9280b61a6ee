//! Whether the proxy loses exactly what it is told to lose.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::frames::Protocol;
use crate::harness::postgres::{query, shared, shared_database};
use crate::harness::proxy::Proxy;
use crate::harness::wait::eventually;

const INSERT: &str = "INSERT INTO things (n) VALUES ($1)";

/// A table, a proxy before it, and a connection through that which has run its insert before, so that the SQL is not
/// sent again.
async fn things() -> (String, Proxy, PgConnection) {
    let url = shared_database().await;
    query(&url, "CREATE TABLE things (n int); INSERT INTO things VALUES (0)").await.unwrap();
    let proxy = Proxy::start(shared().await.address()).await;
    let options: PgConnectOptions = proxy.url_of(&url).parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    insert(&mut connection, 1).await.unwrap();
    (url, proxy, connection)
}

async fn insert(connection: &mut PgConnection, n: i32) -> Result<(), sqlx::Error> {
    sqlx::query(INSERT).bind(n).execute(connection).await.map(drop)
}

async fn stored(url: &str) -> Vec<String> {
    query(url, "SELECT n FROM things ORDER BY n").await.unwrap().concat()
}

#[tokio::test]
async fn what_is_cut_after_the_request_was_done() {
    let (url, proxy, mut connection) = things().await;
    let trap = proxy.cut_after_request(|request| request.runs("INSERT INTO things"));
    assert_eq!(trap.fired(), 0);
    assert!(matches!(insert(&mut connection, 2).await, Err(sqlx::Error::Io(_))));
    trap.sprung().await;
    assert_eq!(stored(&url).await, ["0", "1", "2"]);

    // Once.
    let mut connection = PgConnection::connect(&proxy.url_of(&url)).await.unwrap();
    insert(&mut connection, 3).await.unwrap();
    assert_eq!((trap.fired(), proxy.connections()), (1, 2));

    // On the commit of a transaction, told by what it says.
    let trap = proxy.cut_after_request(|request| request.statements() == ["COMMIT"]);
    let mut transaction = connection.begin().await.unwrap();
    insert(&mut transaction, 4).await.unwrap();
    assert!(transaction.commit().await.is_err());
    assert_eq!(trap.fired(), 1);
    assert_eq!(stored(&url).await, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn what_is_cut_before_the_request_was_not_done() {
    let (url, proxy, mut connection) = things().await;
    let trap = proxy.cut_before_request(|request| request.contains(&77_i32.to_be_bytes()));
    insert(&mut connection, 2).await.unwrap();
    assert!(insert(&mut connection, 77).await.is_err());
    trap.sprung().await;
    assert_eq!(stored(&url).await, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_held_request_arrives_when_it_is_delivered() {
    let (url, proxy, mut connection) = things().await;
    let held = proxy.hold_request(|request| request.runs("INSERT INTO things"));
    assert!(insert(&mut connection, 2).await.is_err());
    held.sprung().await;
    query(&url, "INSERT INTO things VALUES (3)").await.unwrap();
    assert_eq!(stored(&url).await, ["0", "1", "3"]);
    assert_eq!(held.fired(), 1);
    proxy.cut_all();
    let reply = held.deliver().await.unwrap();
    assert_eq!((reply.tags, reply.error), (vec!["INSERT 0 1".to_owned()], None));
    assert_eq!(stored(&url).await, ["0", "1", "2", "3"]);

    // One that is never delivered, and one that comes too late.
    for delivered in [false, true] {
        let mut connection = PgConnection::connect(&proxy.url_of(&url)).await.unwrap();
        let held = proxy.hold_request(|request| request.statements() == ["COMMIT"]);
        let mut transaction = connection.begin().await.unwrap();
        insert(&mut transaction, 4).await.unwrap();
        assert!(transaction.commit().await.is_err());
        held.sprung().await;
        if delivered {
            let idle = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                        WHERE datname = current_database() AND state = 'idle in transaction'";
            assert_eq!(query(&url, idle).await.unwrap(), [["t"]]);
            assert_eq!(held.deliver().await, None);
        } else {
            drop(held);
        }
        assert_eq!(stored(&url).await, ["0", "1", "2", "3"]);
    }

    let mut connection = PgConnection::connect(&proxy.url_of(&url)).await.unwrap();
    let held = proxy.hold_request(|request| request.runs("SELECT 1 / 0"));
    assert!(sqlx::raw_sql("SELECT 1 / 0").execute(&mut connection).await.is_err());
    let error = held.deliver().await.unwrap().error.unwrap();
    assert_eq!(error, ("22012".to_owned(), "division by zero".to_owned()));
}

#[tokio::test]
async fn connections_are_cut_refused_and_sent_elsewhere() {
    let (url, proxy, mut connection) = things().await;
    proxy.cut_all();
    assert!(insert(&mut connection, 2).await.is_err());
    eventually("the end of the connection", async || (proxy.open() == 0).then_some(())).await;
    proxy.refuse(true);
    let address = proxy.url_of(&url);
    assert!(PgConnection::connect(&address).await.is_err());
    assert_eq!((proxy.connections(), proxy.open()), (2, 0));
    proxy.refuse(false);
    assert_eq!(query(&address, "SELECT 5").await.unwrap(), [["5"]]);

    // Nobody listens there.
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    proxy.retarget(nowhere);
    assert!(PgConnection::connect(&address).await.is_err());
    proxy.retarget(shared().await.address());
    assert_eq!(query(&address, "SELECT 6").await.unwrap(), [["6"]]);
}

#[tokio::test]
async fn what_hangs_goes_on_and_what_is_slow_arrives() {
    let (url, proxy, mut connection) = things().await;
    proxy.hang(true);
    let mut waiting = Box::pin(insert(&mut connection, 2));
    assert!(timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    assert_eq!(stored(&url).await, ["0", "1"]);
    proxy.hang(false);
    waiting.await.unwrap();
    assert_eq!(stored(&url).await, ["0", "1", "2"]);

    proxy.delay(Duration::from_millis(50));
    let start = Instant::now();
    insert(&mut connection, 3).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(100));
    proxy.delay(Duration::ZERO);
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn much_at_once_gets_through_whole() {
    let (url, proxy, _connection) = things().await;
    let pool: PgPool = PgPoolOptions::new().max_connections(8).connect(&proxy.url_of(&url)).await.unwrap();
    let text: String = (0..300_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let echo = async |n: usize| {
        let sent = text[n..].to_owned();
        let row: (String,) = sqlx::query_as("SELECT $1").bind(&sent).fetch_one(&pool).await.unwrap();
        assert_eq!(row.0, sent);
    };
    futures::future::join_all((0..24).map(echo)).await;
    pool.close().await;
}

#[tokio::test]
async fn any_protocol_can_be_cut() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start_for(Protocol::Any, echo.local_addr().unwrap()).await;
    let trap = proxy.cut_after_request(|request| request.contains(b"charge"));
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut server, _) = echo.accept().await.unwrap();
    let mut buffer = [0; 64];
    client.write_all(b"hello").await.unwrap();
    assert_eq!(server.read(&mut buffer).await.unwrap(), 5);
    server.write_all(b"welcome").await.unwrap();
    assert_eq!(client.read(&mut buffer).await.unwrap(), 7);
    client.write_all(b"charge 5").await.unwrap();
    assert_eq!(server.read(&mut buffer).await.unwrap(), 8);
    assert_eq!(trap.fired(), 0, "nobody has answered");
    server.write_all(b"done").await.unwrap();
    assert!(client.read(&mut buffer).await.is_err());
    trap.sprung().await;
}
