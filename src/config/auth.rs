//! `auth`: who may call, and TLS of the public listener.

use std::path::{Path, PathBuf};
use std::time::Duration;

use config::Value;
use serde::Deserialize;

use super::load::{parse_yaml, read_text};
use super::read::{HOUR, Reader, SECOND, hours, minutes, ms};
use super::sections::{Config, Profile, Secret};
use super::values::parse_duration;

/// Who makes the tokens of `order-service token`.
const DEVELOPMENT_ISSUER: &str = "order-service-development";
/// Least length of a shared secret, in bytes: that of the hash it keys.
const SECRET_BYTES: usize = 32;
/// Issuers that a file may name.
const MOST_ISSUERS: usize = 32;

/// How callers are known.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AuthMode {
    /// Every caller may do everything.
    #[default]
    Dev,
    /// By their tokens.
    Jwt,
}

/// `auth`.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// How callers are known.
    pub mode: AuthMode,
    /// Of whom tokens are taken; not empty with [`AuthMode::Jwt`].
    pub issuers: Vec<IssuerConfig>,
    /// Whether a certificate of `grpc.tls_client_ca` makes its owner a service.
    pub mtls: bool,
    /// Longest token, in bytes.
    pub max_length: usize,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Verified tokens that are known again.
    pub known: usize,
    /// How often keys are read again.
    pub refresh: Duration,
    /// Longest reading of keys.
    pub timeout: Duration,
    /// Shortest time between two readings because of unknown keys.
    pub unknown_kid_pause: Duration,
    /// How long keys are good for after they were last read.
    pub stale_after: Duration,
    /// Longest key document, in bytes.
    pub max_document: usize,
}

/// One of whom tokens are taken.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// What stands in `iss`.
    pub issuer: String,
    /// What has to stand in `aud`.
    pub audience: String,
    /// How its tokens are proven.
    pub trust: TrustConfig,
    /// Which claim says what user the caller is.
    pub user_claim: String,
    /// How long after `iat` a token is taken; none = as long as `exp` says.
    pub max_age: Option<Duration>,
}

/// How the tokens of an issuer are proven.
#[derive(Clone, Debug)]
pub enum TrustConfig {
    /// By public keys: algorithms, and where the keys are.
    Public(Vec<PublicAlgorithm>, KeysAt),
    /// HS256, by a secret.
    Shared(Secret),
}

/// An asymmetric algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublicAlgorithm {
    /// ECDSA on P-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSA, PKCS #1 v1.5.
    Rs256,
}

/// Where public keys are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeysAt {
    /// A PEM or JWKS file.
    File(PathBuf),
    /// A JWKS document.
    Url(String),
}

/// PEM files of the public listener.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// Its certificate, and those that lead to the authority.
    pub cert: PathBuf,
    /// The key of that certificate.
    pub key: PathBuf,
    /// Whose certificates are taken of callers; none = they are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// How often it is looked whether the files have changed.
    pub reload_every: Duration,
    /// Longest handshake.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once.
    pub max_handshakes: usize,
}

/// An issuer as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    audience: String,
    #[serde(default = "all_algorithms")]
    algorithms: String,
    #[serde(default)]
    keys_file: String,
    #[serde(default)]
    jwks_url: String,
    #[serde(default)]
    secret_file: String,
    #[serde(skip)]
    secret: Option<Secret>,
    #[serde(default = "subject")]
    user_claim: String,
    #[serde(default = "a_day")]
    max_age: String,
}

fn all_algorithms() -> String {
    "ES256, EdDSA, RS256".to_owned()
}

fn subject() -> String {
    "sub".to_owned()
}

fn a_day() -> String {
    "24h".to_owned()
}

/// The key that is wrong, and half a sentence.
type Wrong = (&'static str, String);

pub(super) fn read(r: &mut Reader<'_>, profile: Profile) -> AuthConfig {
    let by_profile = match profile {
        Profile::Dev => AuthMode::Dev,
        Profile::Production => AuthMode::Jwt,
    };
    let choices = [("auto", by_profile), ("dev", AuthMode::Dev), ("jwt", AuthMode::Jwt)];
    let mode = r.choice("auth.mode", &choices);
    let mut text = |key| r.text(key).unwrap_or_default().to_owned();
    let written = Written {
        issuer: text("auth.issuer"),
        audience: text("auth.audience"),
        algorithms: text("auth.algorithms"),
        keys_file: text("auth.keys_file"),
        jwks_url: text("auth.jwks_url"),
        secret_file: String::new(),
        secret: Some(text("auth.secret")).filter(|secret| !secret.is_empty()).map(Secret::new),
        user_claim: text("auth.user_claim"),
        max_age: String::new(),
    };
    let max_age = r.duration("auth.max_age", Duration::ZERO..=hours(8_760));
    let mut issuers = r.parsed("auth.issuers_file", issuers_of, Vec::new);
    let is_set = [&written.issuer, &written.audience, &written.keys_file, &written.jwks_url]
        .iter()
        .any(|text| !text.is_empty())
        || written.secret.is_some();
    if is_set {
        match issuer_of(written, max_age) {
            Ok(issuer) => issuers.insert(0, issuer),
            Err((key, problem)) => r.refuse(key, problem),
        }
    }
    AuthConfig {
        mode,
        issuers,
        mtls: r.flag("auth.mtls"),
        max_length: r.number("auth.max_length", 256..=65_536),
        leeway: r.duration("auth.leeway", Duration::ZERO..=minutes(5)),
        known: r.number("auth.known", 0..=1_000_000),
        refresh: r.duration("auth.refresh", ms(100)..=hours(24)),
        timeout: r.duration("auth.timeout", ms(100)..=Duration::from_secs(30)),
        unknown_kid_pause: r.duration("auth.unknown_kid_pause", ms(100)..=HOUR),
        stale_after: r.duration("auth.stale_after", SECOND..=hours(720)),
        max_document: r.number("auth.max_document", 1_024..=1_048_576),
    }
}

pub(super) fn read_tls(r: &mut Reader<'_>) -> Option<ListenerTls> {
    let mut path = |key| r.optional(key, |text| Ok::<_, String>(PathBuf::from(text)));
    let (cert, key, client_ca) = (path("grpc.tls_cert"), path("grpc.tls_key"), path("grpc.tls_client_ca"));
    let reload_every = r.duration("grpc.tls_reload_every", ms(100)..=HOUR);
    let handshake_timeout = r.duration("grpc.tls_handshake_timeout", ms(100)..=minutes(1));
    let max_handshakes = r.number("grpc.tls_max_handshakes", 1..=100_000);
    let missing = match (&cert, &key, &client_ca) {
        (None, Some(_), _) | (None, None, Some(_)) => "grpc.tls_cert",
        (Some(_), None, _) => "grpc.tls_key",
        _ => {
            let (cert, key) = (cert?, key?);
            return Some(ListenerTls {
                cert,
                key,
                client_ca,
                reload_every,
                handshake_timeout,
                max_handshakes,
            });
        }
    };
    r.refuse(missing, "is empty while another file of grpc.tls_* is set; set both tls_cert and tls_key");
    None
}

/// Reads a file of issuers.
fn issuers_of(path: &str) -> Result<Vec<IssuerConfig>, String> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let mut root = parse_yaml(&read_text(Path::new(path))?)?;
    let listed = root.remove("issuers").map(Value::into_array);
    let (Some(Ok(listed)), true) = (listed, root.is_empty()) else {
        return Err("is not a file of issuers; write a list under the key issuers".to_owned());
    };
    if listed.len() > MOST_ISSUERS {
        return Err(format!("names more than {MOST_ISSUERS} issuers"));
    }
    let mut issuers: Vec<IssuerConfig> = Vec::new();
    for (number, one) in listed.into_iter().enumerate() {
        let place = number.saturating_add(1);
        let mut written: Written =
            one.try_deserialize().map_err(|error| format!("is wrong at issuer {place} ({error})"))?;
        let wrong = |(key, problem): Wrong| {
            format!("is wrong at issuer {place}: {} {problem}", key.trim_start_matches("auth."))
        };
        if !written.secret_file.is_empty() {
            let text = read_text(Path::new(&written.secret_file));
            let text = text.map_err(|problem| wrong(("secret_file", problem)))?;
            written.secret = Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
        let max_age = parse_duration(&written.max_age).map_err(|problem| wrong(("max_age", problem)))?;
        issuers.push(issuer_of(written, max_age).map_err(wrong)?);
    }
    Ok(issuers)
}

/// Checks an issuer.
fn issuer_of(written: Written, max_age: Duration) -> Result<IssuerConfig, Wrong> {
    let wrong = |key, problem: &str| Err((key, problem.to_owned()));
    let Written { issuer, audience, algorithms, keys_file, jwks_url, secret, user_claim, .. } = written;
    if issuer.is_empty() {
        return wrong("auth.issuer", "is empty; write what stands in the iss of its tokens");
    }
    if audience.is_empty() {
        return wrong(
            "auth.audience",
            "is empty; write what has to stand in the aud of tokens for this service",
        );
    }
    if user_claim.is_empty() {
        return wrong("auth.user_claim", "is empty; name the claim that holds the user's id, such as sub");
    }
    let names: Vec<&str> = algorithms.split(',').map(str::trim).collect();
    let trust = if names.contains(&"HS256") {
        if names.len() > 1 || !keys_file.is_empty() || !jwks_url.is_empty() {
            return wrong(
                "auth.algorithms",
                "has HS256 beside public keys, which would let whoever knows those sign tokens; use one or the other",
            );
        }
        match secret {
            Some(secret) if secret.expose().len() >= SECRET_BYTES => TrustConfig::Shared(secret),
            Some(_) => return wrong("auth.secret", "is too short for HS256; use at least 32 random bytes"),
            None => return wrong("auth.secret", "is empty; HS256 needs a secret, best in a file"),
        }
    } else {
        if secret.is_some() {
            return wrong(
                "auth.secret",
                "is set, but auth.algorithms does not choose HS256; use one or the other",
            );
        }
        let algorithm = |name: &&str| match *name {
            "ES256" => Ok(PublicAlgorithm::Es256),
            "EdDSA" => Ok(PublicAlgorithm::EdDsa),
            "RS256" => Ok(PublicAlgorithm::Rs256),
            _ => {
                Err(("auth.algorithms", "is not a list of ES256, EdDSA and RS256, or HS256 alone".to_owned()))
            }
        };
        let algorithms = names.iter().map(algorithm).collect::<Result<Vec<_>, _>>()?;
        let keys = match (keys_file.is_empty(), jwks_url.is_empty()) {
            (false, true) => KeysAt::File(PathBuf::from(keys_file)),
            (true, false) => {
                KeysAt::Url(document_url(jwks_url).map_err(|problem| ("auth.jwks_url", problem))?)
            }
            (true, true) => {
                return wrong(
                    "auth.keys_file",
                    "is empty, and so is auth.jwks_url; say where the public keys are",
                );
            }
            (false, false) => {
                return wrong("auth.jwks_url", "is set beside auth.keys_file; keep one of the two");
            }
        };
        TrustConfig::Public(algorithms, keys)
    };
    let max_age = Some(max_age).filter(|age| !age.is_zero());
    Ok(IssuerConfig { issuer, audience, trust, user_claim, max_age })
}

/// Reads the URL of a key document: over a network only by TLS.
fn document_url(text: String) -> Result<String, String> {
    const FORM: &str = "is not the URL of a key document; write https://HOST/PATH, or http://127.0.0.1:PORT/PATH on this machine";
    let uri: http::Uri = text.parse().map_err(|_| FORM.to_owned())?;
    let authority = uri.authority().ok_or_else(|| FORM.to_owned())?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_here =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_safe = match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_here,
        _ => false,
    };
    if !is_safe || authority.as_str().contains('@') { Err(FORM.to_owned()) } else { Ok(text) }
}

/// What no key alone can tell.
pub(super) fn cross_check(config: &Config, r: &mut Reader<'_>) {
    let Config { auth, grpc, .. } = config;
    let is_production = config.profile == Profile::Production;
    if is_production && auth.mode == AuthMode::Dev && !r.has_error("auth.mode") {
        r.refuse("auth.mode", "lets every caller do everything, so production refuses it; use jwt");
    }
    let keys = ["auth.issuer", "auth.audience", "auth.algorithms", "auth.keys_file", "auth.jwks_url"];
    let more = ["auth.secret", "auth.user_claim", "auth.issuers_file", "auth.mode"];
    let has_error = keys.iter().chain(&more).any(|key| r.has_error(key));
    if auth.mode == AuthMode::Jwt && auth.issuers.is_empty() && !has_error {
        r.refuse(
            "auth.issuer",
            "is empty, and auth.mode jwt needs somebody whose tokens are taken; set auth.issuer, auth.audience, \
             and auth.jwks_url or auth.keys_file",
        );
    }
    let mut names: Vec<&str> = auth.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) {
        r.refuse("auth.issuers_file", "names an issuer that is named elsewhere too; name each once");
    }
    if is_production && names.contains(&DEVELOPMENT_ISSUER) {
        r.refuse(
            "auth.issuer",
            "makes tokens for development, so production refuses it; use your own issuer",
        );
    }
    if auth.stale_after < auth.refresh && !r.has_error("auth.refresh") && !r.has_error("auth.stale_after") {
        r.refuse("auth.stale_after", "is below auth.refresh; raise it or lower auth.refresh");
    }
    let client_ca = grpc.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
    if auth.mtls && client_ca.is_none() {
        r.refuse("auth.mtls", "needs to know whose certificates to take; set grpc.tls_client_ca");
    }
    if !auth.mtls && client_ca.is_some() {
        r.refuse("grpc.tls_client_ca", "is set while auth.mtls is false; set that to true, or remove this");
    }
    let has_tls = grpc.tls.is_some() || grpc.behind_tls_proxy || grpc.listen.ip().is_loopback();
    if is_production && !has_tls && !["grpc.tls_cert", "grpc.tls_key"].iter().any(|key| r.has_error(key)) {
        r.refuse(
            "grpc.tls_cert",
            "is empty, and grpc.listen is reached over a network, where tokens could be read; set grpc.tls_cert and \
             grpc.tls_key, or grpc.behind_tls_proxy: true when a proxy in front of this node ends TLS",
        );
    }
}
