//! Who gets in: by which tokens, for how long, and as whom.

mod operators;
mod streams;

use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use order_service::auth::Algorithm;
use order_service::auth::mint::Signer;
use order_service::domain::access::Role;
use order_service::proto::order as pb;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::api::{by_id, eventually, read_refusal};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::node::{TestNode, sample_order};
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::tokens::{Issuer, bearing, claims, known, now, trusting};
use crate::harness::traffic::Call;

/// Some id of an order that does not exist.
const NOTHING: &str = "01900000-0000-7000-8000-000000000001";

/// How a look at an order that does not exist is answered: refused, or that it does not exist.
async fn look(node: &TestNode, fill: impl FnOnce(&mut MetadataMap)) -> Status {
    let mut request = Request::new(by_id(NOTHING));
    fill(request.metadata_mut());
    node.client().get_order(request).await.unwrap_err()
}

async fn look_with(node: &TestNode, token: &str) -> Status {
    let header = format!("Bearer {token}");
    look(node, |metadata| {
        metadata.insert("authorization", header.parse().unwrap());
    })
    .await
}

#[track_caller]
fn assert_in(status: &Status) {
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

/// Refused for this reason, in words that hold nothing of the token.
#[track_caller]
fn assert_out(status: &Status, token: &str, expected: &str) {
    read_refusal(status, Code::Unauthenticated, "TOKEN_INVALID");
    assert!(status.message().contains(expected), "{}: {}", expected, status.message());
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(!format!("{status:?}").contains(part), "{status:?}");
    }
}

#[tokio::test]
async fn every_call_needs_a_token() {
    let issuer = Issuer::new();
    let node = issuer.node(&[]).await;
    let token = issuer.token("ada", &[Role::Admin], None);
    let order = node.client_of(&token).create_order(sample_order()).await.unwrap().into_inner();

    assert_out(&look(&node, |_| ()).await, "", "no authorization header");
    for (header, expected) in [
        (format!("Basic {token}"), "Bearer TOKEN"),
        (token.clone(), "Bearer TOKEN"),
        ("Bearer".to_owned(), "Bearer TOKEN"),
        ("Bearer ".to_owned(), "Bearer TOKEN"),
        (format!("Bearer {token},{token}"), "the token"),
        (format!("Bearer {token} {token}"), "the token"),
    ] {
        let put = |metadata: &mut MetadataMap| {
            metadata.insert("authorization", header.parse().unwrap());
        };
        let status = look(&node, put).await;
        read_refusal(&status, Code::Unauthenticated, "TOKEN_INVALID");
        assert!(status.message().contains(expected), "{header}: {}", status.message());
    }
    let twice = |metadata: &mut MetadataMap| {
        metadata.append("authorization", format!("Bearer {token}").parse().unwrap());
        metadata.append("authorization", format!("Bearer {token}").parse().unwrap());
    };
    assert_out(&look(&node, twice).await, &token, "several");
    let lower = |metadata: &mut MetadataMap| {
        metadata.insert("authorization", format!("bearer {token}").parse().unwrap());
    };
    assert_in(&look(&node, lower).await);

    // What changes and what streams, too.
    let refused = node.client().create_order(sample_order()).await.unwrap_err();
    assert_out(&refused, "", "no authorization header");
    let watch = || pb::WatchOrderRequest { order_id: order.id.clone(), after_sequence: 0 };
    assert_out(&node.client().watch_order(watch()).await.unwrap_err(), "", "no authorization header");
    let mut stream = node.client_of(&token).watch_order(watch()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop(stream);
    // Health does not, or nobody could look after the node.
    let health = HealthClient::new(node.channel()).check(HealthCheckRequest::default()).await;
    assert!(health.is_ok());

    // And the name in the token stands by what was done.
    let request = pb::ListOrderEventsRequest { order_id: order.id.clone(), ..Default::default() };
    let events = node.client_of(&token).list_order_events(request).await.unwrap().into_inner().events;
    assert!(events.iter().any(|event| event.principal == "ada"), "{events:?}");
    node.stop().await;
}

#[tokio::test]
async fn tokens_that_prove_nothing_are_refused() {
    let issuer = Issuer::new();
    let node = issuer.node(&[]).await;
    let (other, _) = Signer::generate(Algorithm::Es256).unwrap();
    let public = std::fs::read(issuer.key_file()).unwrap();
    let confused = Signer::shared(&public);
    let good = json!({"alg": "ES256", "typ": "JWT"});
    let of =
        |signer: &Signer, header: &Value, changes: &Value| signer.sign(header, &claims(changes)).unwrap();
    let own = |header: &Value, changes: &Value| of(&issuer.signer, header, changes);
    let now = now();
    let plain = own(&good, &json!({}));
    assert_in(&look_with(&node, &plain).await);

    let forged = {
        let (signed, signature) = plain.rsplit_once('.').unwrap();
        let (_, rest) = own(&good, &json!({"sub": "eve"}))
            .split_once('.')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let payload = rest.split_once('.').unwrap().0.to_owned();
        format!("{}.{payload}.{signature}", signed.split_once('.').unwrap().0)
    };
    let unsigned = {
        let none = own(&json!({"alg": "none"}), &json!({}));
        format!("{}.", none.rsplit_once('.').unwrap().0)
    };
    let mut brought = other.jwk("k").unwrap();
    brought["kid"] = json!("k");
    for (what, token, expected) in [
        ("another payload", forged, "signature"),
        ("another's key", of(&other, &good, &json!({})), "signature"),
        ("expired", own(&good, &json!({"exp": now - 60})), "expired"),
        ("not yet", own(&good, &json!({"nbf": now + 600})), "(nbf)"),
        ("for others", own(&good, &json!({"aud": "billing"})), "(aud)"),
        ("for nobody", own(&good, &json!({"aud": null})), "(aud)"),
        ("by others", own(&good, &json!({"iss": "https://issuer.test"})), "(iss)"),
        ("by nobody", own(&good, &json!({"iss": null})), "(iss)"),
        ("of nobody", own(&good, &json!({"sub": null})), "(sub)"),
        ("endless", own(&good, &json!({"exp": null})), "(exp)"),
        ("too old", own(&good, &json!({"iat": now - 90_000})), "too old"),
        ("of no age", own(&good, &json!({"iat": null})), "(iat)"),
        ("confused", of(&confused, &json!({"alg": "HS256"}), &json!({})), "(alg)"),
        ("confused under a name", of(&confused, &json!({"alg": "HS256", "kid": "0"}), &json!({})), "(alg)"),
        ("unsigned", unsigned, "(alg)"),
        (
            "by path",
            of(&other, &json!({"alg": "ES256", "kid": "../../etc/hostname"}), &json!({})),
            "signature",
        ),
        (
            "by query",
            of(&other, &json!({"alg": "ES256", "kid": "x' UNION SELECT 1 --"}), &json!({})),
            "signature",
        ),
        ("by length", own(&json!({"alg": "ES256", "kid": "k".repeat(1_000)}), &json!({})), "kid"),
        (
            "with a key",
            of(&other, &json!({"alg": "ES256", "kid": "k", "jwk": brought}), &json!({})),
            "signature",
        ),
        (
            "with a place",
            of(
                &other,
                &json!({"alg": "ES256", "jku": "http://127.0.0.1:9/k", "x5u": "http://127.0.0.1:9/c"}),
                &json!({}),
            ),
            "signature",
        ),
        ("demanding", own(&json!({"alg": "ES256", "crit": ["exp"]}), &json!({})), "(crit)"),
        ("too long", own(&good, &json!({"more": "x".repeat(10_000)})), "too long"),
        ("a card", own(&good, &json!({"sub": "4111111111111111"})), "card"),
    ] {
        let status = look_with(&node, &token).await;
        assert_out(&status, &token, expected);
        assert!(!what.is_empty());
    }
    node.stop().await;
}

#[tokio::test]
async fn reasons_are_short_texts() {
    let issuer = Issuer::new();
    let node = issuer.node(&[]).await;
    let token = issuer.token("ada", &[Role::Admin], None);
    let with = async |reason: &'static [u8]| {
        let mut request = bearing(&token, by_id(NOTHING));
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        headers.insert("x-on-behalf-reason", http::HeaderValue::from_bytes(reason).unwrap());
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        node.client().get_order(request).await.unwrap_err()
    };
    assert_in(&with(b" a call, ticket 7 \xc3\xa9 ").await);
    let card = with(b"card 4111 1111 1111 1111").await;
    read_refusal(&card, Code::InvalidArgument, "CARD_NUMBER_REFUSED");
    let long: &'static [u8] = Vec::leak(vec![b'x'; 201]);
    for bad in [b"   ".as_slice(), b"a\tb", long] {
        let refusal = read_refusal(&with(bad).await, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(refusal.fields, ["x-on-behalf-reason"]);
    }
    node.stop().await;
}

/// A server of keys that can be changed or taken away.
struct Keys {
    url: String,
    shown: Arc<Mutex<Option<String>>>,
    asked: Arc<Mutex<u64>>,
}

impl Keys {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (shown, asked) = (Arc::new(Mutex::new(None::<String>)), Arc::new(Mutex::new(0)));
        let (document, count) = (Arc::clone(&shown), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4_096];
                let _read = stream.read(&mut request).await;
                *count.lock().unwrap() += 1;
                let document = document.lock().unwrap().clone();
                let answer = match document {
                    Some(text) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()),
                    None => "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _written = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, shown, asked }
    }

    fn show(&self, keys: &[(&str, &Signer)]) {
        let keys: Vec<Value> = keys.iter().map(|(kid, key)| key.jwk(kid).unwrap()).collect();
        *self.shown.lock().unwrap() = Some(json!({"keys": keys}).to_string());
    }

    fn hide(&self) {
        *self.shown.lock().unwrap() = None;
    }

    fn asked(&self) -> u64 {
        *self.asked.lock().unwrap()
    }

    async fn node(&self, more: &[(&str, &str)]) -> TestNode {
        let mut settings = trusting();
        settings.push(("ORDER__AUTH__JWKS_URL".to_owned(), self.url.clone()));
        settings.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        TestNode::start_with(&settings).await
    }
}

fn signed(signer: &Signer, kid: &str) -> String {
    signer.sign(&json!({"alg": "ES256", "kid": kid}), &claims(&json!({}))).unwrap()
}

#[tokio::test]
async fn keys_at_a_url_may_come_late_and_be_revoked() {
    let (signer, _) = Signer::generate(Algorithm::Es256).unwrap();
    let keys = Keys::start().await;
    let often = [("ORDER__AUTH__REFRESH", "100ms"), ("ORDER__AUTH__UNKNOWN_KID_PAUSE", "1h")];
    let node = keys.node(&often).await;
    let token = signed(&signer, "1");
    // Away at the start: that is not the caller's fault.
    let away = look_with(&node, &token).await;
    assert!(read_refusal(&away, Code::Unavailable, "DEPENDENCY_UNAVAILABLE").retry);
    keys.show(&[("1", &signer)]);
    let is_in = async || (look_with(&node, &token).await.code() == Code::NotFound).then_some(());
    eventually("the keys to come", is_in).await;
    // Away later: the last ones are good.
    keys.hide();
    let seen = keys.asked();
    eventually("two readings that fail", async || (keys.asked() >= seen + 2).then_some(())).await;
    assert_in(&look_with(&node, &token).await);
    // The key is revoked: what it has signed, and was taken until now, is refused.
    let (other, _) = Signer::generate(Algorithm::Es256).unwrap();
    keys.show(&[("2", &other)]);
    let is_out = async || (look_with(&node, &token).await.code() == Code::Unauthenticated).then_some(());
    eventually("the key to be revoked", is_out).await;
    assert_out(&look_with(&node, &token).await, &token, "(kid)");
    assert_in(&look_with(&node, &signed(&other, "2")).await);
    node.stop().await;
}

#[tokio::test]
async fn a_new_key_is_fetched_once() {
    let (old, _) = Signer::generate(Algorithm::Es256).unwrap();
    let (new, _) = Signer::generate(Algorithm::Es256).unwrap();
    let keys = Keys::start().await;
    keys.show(&[("old", &old)]);
    let node = keys.node(&[("ORDER__AUTH__REFRESH", "1h")]).await;
    assert_in(&look_with(&node, &signed(&old, "old")).await);
    assert_eq!(keys.asked(), 1);
    keys.show(&[("old", &old), ("new", &new)]);
    let token = signed(&new, "new");
    let calls = (0..16).map(|_| look_with(&node, &token));
    futures::future::join_all(calls).await.iter().for_each(assert_in);
    assert_eq!(keys.asked(), 2, "all waited for one");
    for kid in ["a", "b", "c"] {
        let token = signed(&new, kid);
        assert_out(&look_with(&node, &token).await, &token, "(kid)");
    }
    assert_eq!(keys.asked(), 2, "whoever makes up names does not make it ask");
    node.stop().await;
}

#[tokio::test]
async fn keys_that_were_not_read_for_too_long_are_trusted_no_more() {
    let (signer, _) = Signer::generate(Algorithm::Es256).unwrap();
    let keys = Keys::start().await;
    keys.show(&[("1", &signer)]);
    let brief = [
        ("ORDER__AUTH__REFRESH", "200ms"),
        ("ORDER__AUTH__STALE_AFTER", "2s"),
        ("ORDER__AUTH__TIMEOUT", "500ms"),
    ];
    let node = keys.node(&brief).await;
    let token = signed(&signer, "1");
    assert_in(&look_with(&node, &token).await);
    keys.hide();
    let is_out = async || Some(look_with(&node, &token).await).filter(|s| s.code() != Code::NotFound);
    let status = eventually("the keys to be too old", is_out).await;
    read_refusal(&status, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    keys.show(&[("1", &signer)]);
    let is_in = async || (look_with(&node, &token).await.code() == Code::NotFound).then_some(());
    eventually("the keys to come back", is_in).await;
    node.stop().await;
}

/// Runs `order-service` in a folder, with nothing of this process's environment but this.
fn program(folder: &std::path::Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_order-service"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_that_is_printed_opens_a_node_for_development() {
    let folder = tempfile::tempdir().unwrap();
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let printed = program(folder.path(), &["token", "--print-config"], &[]);
    assert!(printed.status.success(), "{printed:?}");
    let file = folder.path().join("jwt.yaml");
    std::fs::write(&file, text(&printed)).unwrap();
    let wished = ["token", "--role", "admin", "--sub", "ada", "--ttl", "10m"];
    let token = text(&program(folder.path(), &wished, &[])).trim().to_owned();
    assert_eq!(token.split('.').count(), 3);

    // As the printed file says it.
    let set = |key: &str| {
        let line = text(&printed).lines().find_map(|line| {
            line.trim().strip_prefix(key)?.strip_prefix(": ").map(|value| value.trim_matches('"').to_owned())
        });
        line.unwrap()
    };
    let settings: Vec<(String, String)> =
        ["mode", "issuer", "audience", "algorithms", "keys_file", "user_claim"]
            .map(|key| (format!("ORDER__AUTH__{}", key.to_uppercase()), set(key)))
            .to_vec();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let simulate = Simulate::start().await;
    let node = NodeProcess::start(&simulate, &settings).await;
    let list = |more: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["order", "list", "-o", "json", "--server", node.url()], more].concat();
        program(folder.path(), &arguments, environment)
    };
    std::fs::write(folder.path().join("token"), format!("{token}\n")).unwrap();
    for output in [
        list(&["--token", &token], &[]),
        list(&[], &[("ORDER_TOKEN", &token)]),
        list(&["--token-file", "token", "--on-behalf", "ticket 7"], &[("ORDER_TOKEN", "another")]),
    ] {
        assert!(output.status.success(), "{output:?}");
    }
    for (output, expected) in [
        (list(&[], &[]), "TOKEN_INVALID"),
        (list(&["--token", &token[..token.len() - 4]], &[]), "TOKEN_INVALID"),
        (list(&["--token", &format!("{token} x")], &[]), "blanks"),
        (list(&["--token-file", "nothing"], &[]), "cannot be read"),
        (list(&["--token-file", "token", "--on-behalf", &"x".repeat(201)], &[]), "x-on-behalf-reason"),
    ] {
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains(&token[..40]), "{said}");
    }
    // Not for production.
    let refused = program(folder.path(), &["token"], &[("ORDER__PROFILE", "production")]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    drop(node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_call_keeps_its_caller() {
    let issuer = Issuer::new();
    let settings = issuer.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let cluster = Cluster::start(Plan { settings: &settings, ..Plan::of(2) }).await;
    let tokens = ["ada", "bob"].map(|name| issuer.token(name, &[Role::Admin], None));
    let refused = cluster.client(0).get_order(by_id(NOTHING)).await.unwrap_err();
    assert_out(&refused, "", "no authorization header");
    let mut owned = [false, false];
    for number in 1.. {
        let Call::Create(request) = Call::create(number) else { unreachable!() };
        let order = cluster.client(0).create_order(bearing(&tokens[0], *request)).await.unwrap().into_inner();
        let owner = cluster.owners(std::slice::from_ref(&order.id)).await[0].unwrap();
        let Call::Cancel(request) = Call::cancel(&order.id) else { unreachable!() };
        cluster.client(1).cancel_order(bearing(&tokens[1], request)).await.unwrap();
        let request = pb::ListOrderEventsRequest { order_id: order.id.clone(), ..Default::default() };
        let events = cluster.client(0).list_order_events(bearing(&tokens[0], request)).await.unwrap();
        let events = events.into_inner().events;
        for name in ["ada", "bob"] {
            assert!(events.iter().any(|event| event.principal == name), "{name}: {events:?}");
        }
        owned[owner] = true;
        if owned == [true, true] {
            break;
        }
    }
}

#[tokio::test]
async fn production_takes_callers_with_tokens_alone() {
    let issuer = Issuer::new();
    let production = [
        ("ORDER__PROFILE", "production"),
        ("ORDER__AUTH__MODE", "auto"),
        ("ORDER__IDS__KEY", "a secret of our own"),
    ];
    let node = issuer.node(&production).await;
    assert_out(&look(&node, |_| ()).await, "", "no authorization header");
    assert_in(&look_with(&node, &issuer.token("ada", &[Role::Admin], None)).await);
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_only_claimed_is_none() {
    let issuer = Issuer::new();
    let node = issuer.node(&[]).await;
    let claim = |metadata: &mut MetadataMap| {
        metadata.insert("x-order-service-certificate", "spiffe://orders/eve".parse().unwrap());
    };
    assert_out(&look(&node, claim).await, "", "no authorization header");
    // Nor is a caller whom another node is said to have told.
    let token = issuer.token("ada", &[], None);
    let mut client = known(node.channel(), &token);
    let mut request = Request::new(sample_order());
    request.metadata_mut().insert("x-order-roles", "admin".parse().unwrap());
    request
        .metadata_mut()
        .insert_bin("x-order-principal-bin", tonic::metadata::BinaryMetadataValue::from_bytes(b"eve"));
    if let Ok(order) = client.create_order(request).await {
        let request = pb::ListOrderEventsRequest { order_id: order.into_inner().id, ..Default::default() };
        let events = client.list_order_events(request).await.unwrap().into_inner().events;
        assert!(events.iter().all(|event| event.principal != "eve"), "{events:?}");
    }
    drop(client);
    node.stop().await;
}
