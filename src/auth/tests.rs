//! Verification against tokens of every wrong kind, by keys in files and at URLs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::keys::KeySet;
use super::mint::Signer;
use super::*;
use crate::domain::access::Role;

const USER: &str = "123e4567-e89b-12d3-a456-426614174000";
const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(second, 0).unwrap()
}

fn limits() -> Limits {
    Limits {
        max_length: 4_096,
        leeway: Duration::from_secs(30),
        known: 100,
        refresh: Duration::from_secs(3_600),
        timeout: Duration::from_secs(5),
        unknown_key_pause: Duration::from_secs(3_600),
        stale_after: Duration::from_secs(86_400),
        max_document: 10_000,
    }
}

fn issuer(name: &str, keys: KeySource) -> Issuer {
    Issuer {
        issuer: name.to_owned(),
        audience: "orders".to_owned(),
        trust: Trust::Public { algorithms: Algorithm::PUBLIC.to_vec(), keys },
        user_claim: "sub".to_owned(),
        max_age: Some(Duration::from_secs(86_400)),
    }
}

fn claims() -> Value {
    json!({
        "iss": "i", "aud": "orders", "sub": USER, "roles": ["customer", "owner"], "iat": NOW, "exp": NOW + 60
    })
}

/// The claims with some changed; null removes one.
fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// A verifier of one issuer with one key in a file.
struct Bed {
    signer: Signer,
    verifier: Arc<Verifier>,
    folder: TempDir,
}

impl Bed {
    async fn new(algorithm: Algorithm) -> Self {
        let (signer, _) = Signer::generate(algorithm).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, signer.public_pem().unwrap()).unwrap();
        let verifier = start(vec![issuer("i", KeySource::File(file))], limits()).await.unwrap();
        Self { signer, verifier, folder }
    }

    async fn caller(&self, header: &Value, claims: &Value, second: i64) -> Result<Caller, Refused> {
        self.verifier.caller(&self.signer.sign(header, claims).unwrap(), at(second)).await
    }

    async fn refused(&self, header: &Value, claims: &Value) -> &'static str {
        refused(self.caller(header, claims, NOW).await)
    }

    fn public(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("keys")).unwrap()
    }
}

async fn start(issuers: Vec<Issuer>, limits: Limits) -> Result<Arc<Verifier>, String> {
    Verifier::start(issuers, limits, CancellationToken::new()).await
}

#[track_caller]
fn refused(outcome: Result<Caller, Refused>) -> &'static str {
    match outcome.unwrap_err() {
        Refused::Token(what) => what,
        Refused::NoKeys => "no keys",
    }
}

#[tokio::test]
async fn a_good_token_says_who_calls() {
    for (algorithm, name) in [(Algorithm::Es256, "ES256"), (Algorithm::EdDsa, "EdDSA")] {
        let bed = Bed::new(algorithm).await;
        for header in [json!({"alg": name}), json!({"alg": name, "typ": "at+JWT", "kid": "whatever"})] {
            let caller = bed.caller(&header, &claims(), NOW).await.unwrap();
            assert_eq!((&*caller.principal, &*caller.roles), (USER, &[Role::Customer][..]));
            assert_eq!(caller.user.unwrap().0.to_string(), USER);
            assert_eq!(caller.reason, None);
        }
        let several = with(&json!({"aud": ["else", "orders"], "sub": "Ada", "roles": ["support", "admin"]}));
        let caller = bed.caller(&json!({"alg": name}), &several, NOW).await.unwrap();
        assert_eq!((&*caller.roles, caller.user), (&[Role::Support, Role::Admin][..], None));
        let nothing = with(&json!({"roles": null}));
        assert!(bed.caller(&json!({"alg": name}), &nothing, NOW).await.unwrap().roles.is_empty());
    }
}

#[tokio::test]
async fn rsa_keys_are_taken_from_2048_bits_on() {
    // Made with openssl; the private halves are gone.
    let strong = include_bytes!("testdata/rsa-2048.pem");
    let weak = include_bytes!("testdata/rsa-1024.pem");
    let p384 = include_bytes!("testdata/p-384.pem");
    assert!(KeySet::read(strong, &[Algorithm::Rs256]).is_ok());
    assert!(KeySet::read(strong, &[Algorithm::Es256]).unwrap_err().contains("not among"));
    assert!(KeySet::read(weak, &[Algorithm::Rs256]).unwrap_err().contains("2048"));
    assert!(KeySet::read(p384, &[Algorithm::Es256]).unwrap_err().contains("neither P-256"));
    // A signature of that key over a token of a past that does not end.
    let token = include_str!("testdata/rs256.jwt").trim();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, strong).unwrap();
    let trusting = Issuer { max_age: None, ..issuer("i", KeySource::File(file)) };
    let verifier = start(vec![trusting], limits()).await.unwrap();
    assert_eq!(&*verifier.caller(token, at(NOW)).await.unwrap().principal, "rsa");
    let (head, tail) = token.split_at(token.len() - 10);
    let forged = format!("{head}A{}", &tail[1..]);
    assert!(refused(verifier.caller(&forged, at(NOW)).await).contains("signature"));
}

#[tokio::test]
async fn claims_that_are_missing_or_wrong_are_refused() {
    let bed = Bed::new(Algorithm::Es256).await;
    let header = json!({"alg": "ES256"});
    for (changes, expected) in [
        (json!({"exp": null}), "(exp)"),
        (json!({"exp": "tomorrow"}), "no number of seconds"),
        (json!({"exp": 1e300}), "no number of seconds"),
        (json!({"exp": -5}), "no number of seconds"),
        (json!({"exp": NOW - 30}), "has expired"),
        (json!({"iss": null}), "(iss)"),
        (json!({"iss": "j"}), "(iss)"),
        (json!({"iss": ["i"]}), "(iss)"),
        (json!({"aud": null}), "(aud)"),
        (json!({"aud": "order"}), "(aud)"),
        (json!({"aud": ["a", 5]}), "(aud)"),
        (json!({"aud": {"orders": 1}}), "(aud)"),
        (json!({"sub": null}), "(sub)"),
        (json!({"sub": ""}), "sub"),
        (json!({"sub": "a\nb"}), "sub"),
        (json!({"sub": " a"}), "sub"),
        (json!({"sub": "a".repeat(201)}), "sub"),
        (json!({"sub": "4111 1111 1111 1111"}), "card"),
        (json!({"sub": 5}), "(sub)"),
        (json!({"nbf": NOW + 31}), "(nbf)"),
        (json!({"iat": NOW + 31}), "(iat)"),
        (json!({"iat": null}), "(iat)"),
        (json!({"iat": NOW - 86_430}), "too old"),
        (json!({"roles": "admin"}), "roles"),
    ] {
        let what = bed.refused(&header, &with(&changes)).await;
        assert!(what.contains(expected), "{changes}: {what}");
    }
    for changes in [
        json!({"exp": NOW - 29}),
        json!({"exp": NOW as f64 + 0.5}),
        json!({"nbf": NOW + 30}),
        json!({"iat": NOW + 30}),
        json!({"iat": NOW - 86_429}),
        json!({"sub": "\u{e9}".repeat(200)}),
    ] {
        assert!(bed.caller(&header, &with(&changes), NOW).await.is_ok(), "{changes}");
    }
}

#[tokio::test]
async fn headers_choose_nothing() {
    let bed = Bed::new(Algorithm::Es256).await;
    let (other, _) = Signer::generate(Algorithm::Es256).unwrap();
    for (header, expected) in [
        (json!({}), "(alg)"),
        (json!({"alg": "none"}), "(alg)"),
        (json!({"alg": "None"}), "(alg)"),
        (json!({"alg": "es256"}), "(alg)"),
        (json!({"alg": "HS256"}), "(alg)"),
        (json!({"alg": "ES384"}), "(alg)"),
        (json!({"alg": ["ES256"]}), "(alg)"),
        (json!({"alg": "EdDSA"}), "(kid)"),
        (json!({"alg": "ES256", "crit": ["b64"], "b64": false}), "(crit)"),
        (json!({"alg": "ES256", "crit": []}), "(crit)"),
        (json!({"alg": "ES256", "typ": "dpop+jwt"}), "(typ)"),
        (json!({"alg": "ES256", "typ": 1}), "(typ)"),
        (json!({"alg": "ES256", "kid": "k".repeat(201)}), "kid"),
        (json!({"alg": "ES256", "kid": {"a": 1}}), "kid"),
    ] {
        let what = bed.refused(&header, &claims()).await;
        assert!(what.contains(expected), "{header}: {what}");
    }
    // Keys that a token brings or points to do not make another one's signature good, nor a good one bad.
    for extra in [
        json!({"jwk": other.jwk("k").unwrap()}),
        json!({"jku": "http://127.0.0.1:1/keys"}),
        json!({"x5u": "http://127.0.0.1:1/cert", "x5c": ["AAAA"]}),
        json!({"kid": "../../../../dev/null"}),
        json!({"kid": "' OR 1=1 --"}),
    ] {
        let mut header = extra;
        header.as_object_mut().unwrap().insert("alg".to_owned(), json!("ES256"));
        let forged = other.sign(&header, &claims()).unwrap();
        assert!(refused(bed.verifier.caller(&forged, at(NOW)).await).contains("signature"), "{header}");
        assert!(bed.caller(&header, &claims(), NOW).await.is_ok(), "{header}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let bed = Bed::new(Algorithm::Es256).await;
    let public = bed.public();
    for secret in [public.as_slice(), public.trim_ascii()] {
        let forged = Signer::shared(secret).sign(&json!({"alg": "HS256"}), &claims()).unwrap();
        assert!(refused(bed.verifier.caller(&forged, at(NOW)).await).contains("(alg)"));
    }
    let none = bed.signer.sign(&json!({"alg": "none"}), &claims()).unwrap();
    let unsigned = format!("{}.", none.rsplit_once('.').unwrap().0);
    assert!(refused(bed.verifier.caller(&unsigned, at(NOW)).await).contains("(alg)"));
}

#[tokio::test]
async fn a_shared_secret_is_for_hs256_alone() {
    let secret = SharedSecret::new(&[7; 32]);
    assert_eq!(format!("{secret:?}"), "***");
    let mut shared = issuer("i", KeySource::Url(String::new()));
    shared.trust = Trust::Shared(secret);
    let verifier = start(vec![shared], limits()).await.unwrap();
    let good = Signer::shared(&[7; 32]).sign(&json!({"alg": "HS256", "kid": "any"}), &claims()).unwrap();
    assert!(verifier.caller(&good, at(NOW)).await.is_ok());
    let other = Signer::shared(&[8; 32]).sign(&json!({"alg": "HS256"}), &claims()).unwrap();
    assert!(refused(verifier.caller(&other, at(NOW)).await).contains("signature"));
    let (public, _) = Signer::generate(Algorithm::Es256).unwrap();
    let asymmetric = public.sign(&json!({"alg": "ES256"}), &claims()).unwrap();
    assert!(refused(verifier.caller(&asymmetric, at(NOW)).await).contains("(alg)"));
}

#[tokio::test]
async fn keys_of_one_issuer_say_nothing_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut signers = Vec::new();
    let mut issuers = Vec::new();
    for name in ["i", "j"] {
        let (signer, _) = Signer::generate(Algorithm::EdDsa).unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, json!({"keys": [signer.jwk("same")]}).to_string()).unwrap();
        issuers.push(issuer(name, KeySource::File(file)));
        signers.push(signer);
    }
    let verifier = start(issuers, limits()).await.unwrap();
    let header = json!({"alg": "EdDSA", "kid": "same"});
    for (signer, iss, is_good) in [(0, "i", true), (1, "j", true), (1, "i", false), (0, "j", false)] {
        let token = signers[signer].sign(&header, &with(&json!({"iss": iss}))).unwrap();
        assert_eq!(verifier.caller(&token, at(NOW)).await.is_ok(), is_good, "{signer} {iss}");
    }
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let bed = Bed::new(Algorithm::Es256).await;
    let good = bed.signer.sign(&json!({"alg": "ES256"}), &claims()).unwrap();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let long = format!("{signed}.{}", "A".repeat(5_000));
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "e30.e30.",
        "e30.e30.e30",
        signed,
        &format!("{good}."),
        &format!("{good}.x"),
        &format!("{signed}.{signature}="),
        &format!("{signed}."),
        &format!(" {good}"),
        &long,
        "W10.W10.AA",
    ] {
        assert!(bed.verifier.caller(token, at(NOW)).await.is_err(), "{token}");
    }
    // Deep nesting is not followed.
    let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    use base64::Engine;
    let part = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{{\"alg\":{deep}}}"));
    assert!(bed.verifier.caller(&format!("{part}.e30.AA"), at(NOW)).await.is_err());
}

#[tokio::test]
async fn a_token_that_is_known_still_ends() {
    let bed = Bed::new(Algorithm::Es256).await;
    let token = bed.signer.sign(&json!({"alg": "ES256"}), &claims()).unwrap();
    for second in [NOW, NOW + 1, NOW + 89] {
        assert!(bed.verifier.caller(&token, at(second)).await.is_ok(), "{second}");
    }
    assert!(refused(bed.verifier.caller(&token, at(NOW + 90)).await).contains("expired"));
}

/// A server of one document, which counts how often it is asked.
struct Server {
    url: String,
    document: Arc<std::sync::Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(document: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys?x=1", listener.local_addr().unwrap());
        let document = Arc::new(std::sync::Mutex::new(document));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shown, count) = (Arc::clone(&document), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /keys?x=1 HTTP/1.1\r\n"));
                count.fetch_add(1, Ordering::SeqCst);
                let answer = match &*shown.lock().unwrap() {
                    Some(text) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()),
                    None => "HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _gone = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, document, asked }
    }

    fn show(&self, keys: &[Value]) {
        *self.document.lock().unwrap() = Some(json!({"keys": keys}).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once() {
    let (first, _) = Signer::generate(Algorithm::Es256).unwrap();
    let (second, _) = Signer::generate(Algorithm::Es256).unwrap();
    let server = Server::start(None).await;
    server.show(&[first.jwk("1").unwrap()]);
    let from = issuer("i", KeySource::Url(server.url.clone()));
    let verifier = start(vec![from], limits()).await.unwrap();
    let token =
        |signer: &Signer, kid: &str| signer.sign(&json!({"alg": "ES256", "kid": kid}), &claims()).unwrap();
    let (old, new) = (token(&first, "1"), token(&second, "2"));
    assert!(verifier.caller(&old, at(NOW)).await.is_ok());
    assert_eq!(server.asked(), 1);
    // The key has rotated: of many calls that need it, one makes it known to all.
    server.show(&[second.jwk("2").unwrap()]);
    let calls = (0..20).map(|_| verifier.caller(&new, at(NOW)));
    let outcomes = futures::future::join_all(calls).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(server.asked(), 2);
    // What the old one has signed is not taken any more, although it was known.
    assert!(refused(verifier.caller(&old, at(NOW)).await).contains("(kid)"));
    // And unknown names do not make it ask again before its time.
    for kid in ["3", "4", "../5"] {
        assert!(refused(verifier.caller(&token(&second, kid), at(NOW)).await).contains("(kid)"));
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_kept_for_a_while() {
    let (signer, _) = Signer::generate(Algorithm::Es256).unwrap();
    let server = Server::start(None).await;
    let quick = Limits {
        refresh: Duration::from_millis(50),
        unknown_key_pause: Duration::from_millis(50),
        stale_after: Duration::from_millis(1_500),
        ..limits()
    };
    let from = issuer("i", KeySource::Url(server.url.clone()));
    // Away at the start: nobody gets in, and nobody is told that their token is wrong.
    let verifier = start(vec![from], quick).await.unwrap();
    let token = signer.sign(&json!({"alg": "ES256", "kid": "1"}), &claims()).unwrap();
    assert_eq!(verifier.caller(&token, at(NOW)).await, Err(Refused::NoKeys));
    server.show(&[signer.jwk("1").unwrap()]);
    while verifier.caller(&token, at(NOW)).await.is_err() {
        tokio::task::yield_now().await;
    }
    // Away again: the last keys count, but not for ever.
    *server.document.lock().unwrap() = None;
    assert!(verifier.caller(&token, at(NOW)).await.is_ok());
    while verifier.caller(&token, at(NOW)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(verifier.caller(&token, at(NOW)).await, Err(Refused::NoKeys));
    // And what is no document of keys changes nothing.
    server.show(&[signer.jwk("1").unwrap()]);
    while verifier.caller(&token, at(NOW)).await.is_err() {
        tokio::task::yield_now().await;
    }
    *server.document.lock().unwrap() = Some("x".repeat(20_000));
    assert!(verifier.caller(&token, at(NOW)).await.is_ok());
}

#[tokio::test]
async fn an_issuer_may_take_back_all_its_keys() {
    let (signer, _) = Signer::generate(Algorithm::EdDsa).unwrap();
    let server = Server::start(None).await;
    server.show(&[signer.jwk("1").unwrap()]);
    let often = Limits { refresh: Duration::from_millis(50), ..limits() };
    let verifier = start(vec![issuer("i", KeySource::Url(server.url.clone()))], often).await.unwrap();
    let token = signer.sign(&json!({"alg": "EdDSA", "kid": "1"}), &claims()).unwrap();
    assert!(verifier.caller(&token, at(NOW)).await.is_ok());
    server.show(&[]);
    while verifier.caller(&token, at(NOW)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(refused(verifier.caller(&token, at(NOW)).await).contains("(kid)"));
}

#[test]
fn documents_are_bounded_and_only_what_fits_is_read() {
    let (signer, _) = Signer::generate(Algorithm::Es256).unwrap();
    let all = Algorithm::PUBLIC;
    let read = |keys: Value| KeySet::read(json!({"keys": keys}).to_string().as_bytes(), &all);
    let jwk = signer.jwk("1").unwrap();
    let changed = |name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk.as_object_mut().unwrap().insert(name.to_owned(), value);
        jwk
    };
    assert!(!read(json!([jwk])).unwrap().is_empty());
    for many in [json!(vec![jwk.clone(); 101]), json!(vec![jwk.clone(); 5])] {
        assert!(read(many).unwrap_err().contains("more than"));
    }
    for wrong in [
        json!([]),
        json!([{"kty": "oct", "k": "AAAA"}]),
        json!([changed("use", json!("enc"))]),
        json!([changed("key_ops", json!(["sign"]))]),
        json!([changed("alg", json!("ES384"))]),
        json!([changed("crv", json!("P-384"))]),
        json!([changed("x", json!("AAAA"))]),
        json!([changed("kid", json!("k".repeat(201)))]),
    ] {
        assert!(read(wrong.clone()).unwrap().is_empty(), "{wrong}");
    }
    // What is of no use here stands beside what is.
    assert!(!read(json!([{"kty": "oct", "k": "AAAA"}, 5, jwk])).unwrap().is_empty());
    let (_, private) = Signer::generate(Algorithm::Es256).unwrap();
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(private);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    assert!(KeySet::read(pem.as_bytes(), &all).unwrap_err().contains("private key"));
    assert!(KeySet::read(b"", &all).unwrap_err().contains("no public key"));
}

#[tokio::test]
async fn a_file_without_keys_stops_the_start() {
    let gone = issuer("i", KeySource::File(PathBuf::from("/no/such")));
    let problem = start(vec![gone], limits()).await.unwrap_err();
    assert!(problem.contains("/no/such cannot be read"), "{problem}");
}

#[test]
fn development_keys_are_made_once_and_for_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data");
    let first = mint::development_keys(&place).unwrap();
    let again = mint::development_keys(&place).unwrap();
    assert!(first.is_new && !again.is_new);
    assert_eq!(first.signer.public_pem(), again.signer.public_pem());
    let private = std::fs::metadata(place.join("development-signing-key.pem")).unwrap();
    assert_eq!(private.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 2);
}
