//! Makes tokens: for development and tests. What takes part in production has an issuer of its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::jose::{Algorithm, SigningKey};

/// Who makes tokens for development.
pub const DEVELOPMENT_ISSUER: &str = "order-service-development";
/// For whom they are.
pub const DEVELOPMENT_AUDIENCE: &str = "order-service";

/// Names of the files of a key pair for development.
const PRIVATE: &str = "development-signing-key.pem";
const PUBLIC: &str = "development-public-key.pem";
/// Longest such file, in bytes.
const MOST_BYTES: u64 = 16_384;

/// What a token for development says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Name of the principal.
    pub subject: String,
    /// Names of roles.
    pub roles: Vec<String>,
    /// The user that the caller is, if any.
    pub user: Option<String>,
    /// When it is made, in seconds since 1970.
    pub issued: i64,
    /// How long it is good for, in seconds.
    pub lifetime: i64,
}

/// A key that signs tokens.
#[derive(Debug)]
pub struct Signer {
    algorithm: Algorithm,
    key: SigningKey,
    /// The public half as PEM; none for a shared secret.
    public_pem: Option<String>,
    /// The public half as an entry of a JWKS document, without a name.
    jwk: Option<Value>,
}

impl Signer {
    /// A new key pair of one of the asymmetric algorithms but RSA, and its private half in PKCS #8.
    ///
    /// # Errors
    /// When there is no such algorithm here, or the machine gives no random numbers.
    pub fn generate(algorithm: Algorithm) -> Result<(Self, Vec<u8>), String> {
        let random = SystemRandom::new();
        let failed = |_| String::from("no key can be made: the machine gives no random numbers");
        let pkcs8 = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(failed)?
            }
            Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random).map_err(failed)?,
            Algorithm::Rs256 | Algorithm::Hs256 => {
                return Err(format!("no key pair is made for {} here", algorithm.name()));
            }
        };
        let pkcs8 = pkcs8.as_ref().to_vec();
        Ok((Self::from_pkcs8(algorithm, &pkcs8)?, pkcs8))
    }

    /// The key pair of a private key in PKCS #8.
    ///
    /// # Errors
    /// When it is none of that algorithm.
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, String> {
        let wrong = |error| format!("it is no private key for {} ({error})", algorithm.name());
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (key, spki, jwk) = match algorithm {
            Algorithm::Es256 => {
                let pair =
                    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(wrong)?;
                let point = pair.public_key().as_ref();
                let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
                let jwk = json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)});
                (SigningKey::es256(pkcs8), [super::keys::EC_PREFIX, point].concat(), jwk)
            }
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(wrong)?;
                let point = pair.public_key().as_ref();
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(point)});
                (SigningKey::eddsa(pkcs8), [super::keys::ED_PREFIX, point].concat(), jwk)
            }
            Algorithm::Rs256 | Algorithm::Hs256 => {
                return Err(format!("no key pair is read for {} here", algorithm.name()));
            }
        };
        Ok(Self { algorithm, key, public_pem: Some(pem("PUBLIC KEY", &spki)), jwk: Some(jwk) })
    }

    /// A shared secret.
    pub fn shared(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::Hs256, key: SigningKey::hs256(secret), public_pem: None, jwk: None }
    }

    /// The public half as PEM.
    pub fn public_pem(&self) -> Option<&str> {
        self.public_pem.as_deref()
    }

    /// The public half as an entry of a JWKS document, by this name.
    pub fn jwk(&self, name: &str) -> Option<Value> {
        let mut jwk = self.jwk.clone()?;
        let entry = jwk.as_object_mut()?;
        entry.insert("kid".to_owned(), json!(name));
        entry.insert("use".to_owned(), json!("sig"));
        entry.insert("alg".to_owned(), json!(self.algorithm.name()));
        Some(jwk)
    }

    /// Signs any header and claims, whatever they say.
    ///
    /// # Errors
    /// When the key is none.
    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String, String> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&signed)?;
        Ok(format!("{signed}.{signature}"))
    }

    /// A token for development.
    ///
    /// # Errors
    /// As of [`Self::sign`].
    pub fn token(&self, said: &Said) -> Result<String, String> {
        let mut claims = json!({
            "iss": DEVELOPMENT_ISSUER,
            "aud": DEVELOPMENT_AUDIENCE,
            "sub": said.subject,
            "roles": said.roles,
            "iat": said.issued,
            "exp": said.issued.saturating_add(said.lifetime),
        });
        if let (Some(user), Some(claims)) = (&said.user, claims.as_object_mut()) {
            claims.insert("user".to_owned(), json!(user));
        }
        self.sign(&json!({"alg": self.algorithm.name(), "typ": "JWT"}), &claims)
    }
}

/// The key pair for development in a folder.
#[derive(Debug)]
pub struct DevelopmentKeys {
    /// Signs.
    pub signer: Signer,
    /// The file of its public half, for `auth.keys_file`.
    pub public_file: PathBuf,
    /// Whether it was made just now.
    pub is_new: bool,
}

/// The key pair for development in `folder`; made when there is none, its private half readable by its owner alone.
///
/// # Errors
/// What stands in the way, as one sentence.
pub fn development_keys(folder: &Path) -> Result<DevelopmentKeys, String> {
    let (private_file, public_file) = (folder.join(PRIVATE), folder.join(PUBLIC));
    let cannot = |what: &str, path: &Path, error: io::Error| {
        format!("cannot {what} {} ({error}); check --keys", path.display())
    };
    fs::create_dir_all(folder).map_err(|error| cannot("make", folder, error))?;
    let mut is_new = false;
    let text = match read(&private_file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (_, pkcs8) = Signer::generate(Algorithm::Es256)?;
            let text = pem("PRIVATE KEY", &pkcs8);
            // The name comes last: nobody reads half a key, and of two that make one at once the first wins.
            let draft = folder.join(format!("{PRIVATE}.{}", std::process::id()));
            let written = write_new(&draft, &text, 0o600).and_then(|()| fs::hard_link(&draft, &private_file));
            let _gone = fs::remove_file(&draft);
            match written {
                Ok(()) => is_new = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot("write", &private_file, error)),
            }
            read(&private_file).map_err(|error| cannot("read", &private_file, error))?
        }
        Err(error) => return Err(cannot("read", &private_file, error)),
    };
    let wrong = |error: String| format!("{}: {error}; delete it to have a new one", private_file.display());
    let pkcs8 =
        PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let signer = Signer::from_pkcs8(Algorithm::Es256, pkcs8.secret_pkcs8_der()).map_err(wrong)?;
    let public = signer.public_pem().unwrap_or_default().to_owned();
    if read(&public_file).ok().as_deref() != Some(public.as_str()) {
        fs::write(&public_file, public).map_err(|error| cannot("write", &public_file, error))?;
    }
    Ok(DevelopmentKeys { signer, public_file, is_new })
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MOST_BYTES {
        return Err(io::Error::other("it is too large for a key"));
    }
    fs::read_to_string(path)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The text form of a key.
fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines = format!("-----BEGIN {kind}-----\n");
    for (place, character) in text.chars().enumerate() {
        if place > 0 && place.is_multiple_of(64) {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines.push_str(&format!("\n-----END {kind}-----\n"));
    lines
}
