//! The URL of a Postgres database, taken apart and checked without asking the network.
//!
//! It is read here and not by the driver, which passes over parameters that it does not know, writes their values to
//! the log, and takes some from the environment.

use std::fmt;
use std::fs::File;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::mask::masked;
use super::sections::Secret;

/// Port of a URL that names none.
const PORT: u16 = 5432;

const FORM: &str = "is not the URL of a Postgres database; write it like \
                    postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full";

/// How a connection is encrypted, by the names of libpq.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only when the server insists.
    Allow,
    /// When the server can.
    #[default]
    Prefer,
    /// Always, without asking who the server is.
    Require,
    /// Always, with a server whose certificate is from an authority that we trust.
    VerifyCa,
    /// Always, and the certificate is for the host that we meant.
    VerifyFull,
}

impl SslMode {
    const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// Its name in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// The URL of a Postgres database; shown with `***` for the password, in text and in debug text.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    text: Secret,
    /// A name, an address (of version 6 without brackets), or the folder of a socket, which begins with `/`; none =
    /// what the driver takes.
    pub host: Option<String>,
    /// The port, of which the name of a socket is made too; 5432 when the URL names none.
    pub port: u16,
    /// Who connects; none = what the driver takes.
    pub user: Option<String>,
    /// Its password; never empty.
    pub password: Option<Secret>,
    /// Name of the database; never empty.
    pub database: String,
    /// How connections are encrypted; at most `Prefer` with a socket.
    pub ssl_mode: SslMode,
    /// PEM file of authorities to trust; only with `VerifyCa` and `VerifyFull`.
    pub ssl_root_cert: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub ssl_identity: Option<SslIdentity>,
}

/// How we show who we are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SslIdentity {
    /// PEM file of the certificate.
    pub cert: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

impl PostgresUrl {
    /// Reads `postgres://[USER[:PASSWORD]@][HOST][:PORT]/DATABASE[?NAME=VALUE&…]`, of which every part may also be a
    /// parameter: `host`, `port`, `user`, `password`, `dbname`, `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
    ///
    /// Opens the files that it names, to see that they can be read.
    ///
    /// # Errors
    /// Half a sentence that says what is wrong and what to write; it holds nothing of the URL but names of parameters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or_else(|| FORM.to_owned())?;
        if text.contains('#') {
            return Err("holds a #, which begins a fragment; write %23 for a # in a password".to_owned());
        }
        if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
            return Err("holds white space; write %20 for a space".to_owned());
        }
        let mut parts = Parts::default();
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        parts.add_authority(authority)?;
        if path.contains(['/', '@', ':']) {
            return Err(
                "holds one of / : @ where only a database name can stand; write %2F, %3A and %40 for \
                        them in a password or name"
                    .to_owned(),
            );
        }
        put(&mut parts.dbname, "dbname", path)?;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            parts.add_parameter(parameter)?;
        }
        parts.check(text)
    }

    /// The whole URL with its password, for the one who connects.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.text.expose()))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// What stands in the URL, decoded; what is empty there is absent here.
#[derive(Default)]
struct Parts {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    dbname: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
}

impl Parts {
    fn add_authority(&mut self, authority: &str) -> Result<(), String> {
        let (credentials, server) = authority.rsplit_once('@').unwrap_or(("", authority));
        if credentials.contains('@') {
            return Err("holds more than one @; write %40 for an @ in a password".to_owned());
        }
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        put(&mut self.user, "user", user)?;
        put(&mut self.password, "password", password)?;
        let (host, port) = match server.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => (address, port),
            Some(_) => return Err("holds no IPv6 address in its [ ]; write it like [::1]:5432".to_owned()),
            None => server.split_at(server.find(':').unwrap_or(server.len())),
        };
        put(&mut self.host, "host", host)?;
        match port.strip_prefix(':') {
            None if port.is_empty() => Ok(()),
            Some(port) if !port.is_empty() => put(&mut self.port, "port", port),
            _ => Err(NO_PORT.to_owned()),
        }
    }

    fn add_parameter(&mut self, parameter: &str) -> Result<(), String> {
        // Not named in the message: it may be the rest of a password.
        let (name, value) = parameter.split_once('=').ok_or_else(|| {
            "holds a parameter without a value; write NAME=VALUE, and %3F and %26 for ? and & in a password".to_owned()
        })?;
        let slot = match name {
            "host" => &mut self.host,
            "port" => &mut self.port,
            "user" => &mut self.user,
            "password" => &mut self.password,
            "dbname" => &mut self.dbname,
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            "application_name" => {
                return Err("sets application_name; use store.application_name for it".to_owned());
            }
            "connect_timeout" => {
                return Err("sets connect_timeout; use store.connect_timeout for it".to_owned());
            }
            _ => {
                return Err(
                    "has a parameter that is not known here; use host, port, user, password, dbname, \
                            sslmode, sslrootcert, sslcert and sslkey"
                        .to_owned(),
                );
            }
        };
        put(slot, name, value)
    }

    fn check(self, text: &str) -> Result<PostgresUrl, String> {
        let host = self.host;
        if let Some(host) = &host {
            check_host(host)?;
        }
        let port = match &self.port {
            None => PORT,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| NO_PORT.to_owned())?,
        };
        let Some(database) = self.dbname else {
            return Err("names no database; write it like postgres://USER@HOST:5432/DATABASE".to_owned());
        };
        let ssl_mode = match &self.sslmode {
            None => SslMode::default(),
            Some(name) => SslMode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
                format!("has an unknown sslmode; use {}", SslMode::ALL.map(SslMode::name).join(", "))
            })?,
        };
        if ssl_mode >= SslMode::Require && host.as_deref().is_some_and(|host| host.starts_with('/')) {
            return Err(format!(
                "asks for sslmode={} over a socket, which has none; leave sslmode out or name a host",
                ssl_mode.name()
            ));
        }
        // The other modes would not look at it.
        if self.sslrootcert.is_some() && ssl_mode < SslMode::VerifyCa {
            return Err(format!(
                "names an sslrootcert, which sslmode={} does not use; set sslmode=verify-full or leave it out",
                ssl_mode.name()
            ));
        }
        let ssl_root_cert = readable("sslrootcert", self.sslrootcert)?;
        let cert = readable("sslcert", self.sslcert)?;
        let key = readable("sslkey", self.sslkey)?;
        let ssl_identity = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(SslIdentity { cert, key }),
            _ => return Err("names only one of sslcert and sslkey; give both or none".to_owned()),
        };
        Ok(PostgresUrl {
            text: Secret::new(text.to_owned()),
            host,
            port,
            user: self.user,
            password: self.password.map(Secret::new),
            database,
            ssl_mode,
            ssl_root_cert,
            ssl_identity,
        })
    }
}

const NO_PORT: &str = "has something else than a port behind the host; use 1 to 65535, and write %3A, %2F, %3F and \
                       %40 for : / ? @ in a password";

/// Keeps a value that is not empty.
fn put(slot: &mut Option<String>, name: &str, encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let value = decoded(encoded).ok_or_else(|| {
        format!("has a % in its {name} that no two hexadecimal digits of UTF-8 follow; write %25 for a %")
    })?;
    if slot.replace(value).is_some() {
        return Err(format!("gives its {name} twice; keep one of the two"));
    }
    Ok(())
}

/// The text of which `encoded` is the form in a URL. A + stays one, as in libpq.
fn decoded(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    // The protocol ends texts with a zero byte.
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn check_host(host: &str) -> Result<(), String> {
    if host.contains(',') {
        return Err("names several hosts; name one, or an address that moves with the primary".to_owned());
    }
    let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if host.starts_with('/') || is_name || host.parse::<Ipv6Addr>().is_ok() {
        return Ok(());
    }
    Err("has a host that is neither a name, nor an address, nor the folder of a socket; write it like \
         db.internal, 10.0.0.7, [::1] or host=/run/postgresql"
        .to_owned())
}

fn readable(name: &str, path: Option<String>) -> Result<Option<PathBuf>, String> {
    let Some(path) = path else { return Ok(None) };
    // Opening a folder succeeds.
    match File::open(&path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => Ok(Some(PathBuf::from(path))),
        Ok(_) => Err(format!("names an {name} that is not a file; check the path")),
        Err(error) => Err(format!("names an {name} that cannot be read ({error}); check the path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> PostgresUrl {
        PostgresUrl::parse(text).unwrap()
    }

    #[test]
    fn everything_in_its_place() {
        let given = "postgres://us%65r:p%40%2F:w+@db.internal:6432/ord%20ers?sslmode=verify-full";
        let parsed = url(given);
        assert_eq!(parsed.host.as_deref(), Some("db.internal"));
        assert_eq!(parsed.port, 6432);
        assert_eq!(parsed.user.as_deref(), Some("user"));
        assert_eq!(parsed.password.as_ref().map(Secret::expose), Some("p@/:w+"));
        assert_eq!(parsed.database, "ord ers");
        assert_eq!((parsed.ssl_mode, parsed.ssl_root_cert.as_ref()), (SslMode::VerifyFull, None));
        assert_eq!(parsed.expose(), given);
    }

    #[test]
    fn every_part_as_a_parameter() {
        let parsed = url("postgresql://?host=/run/pg&port=1&user=u&password=a%26b&dbname=d&sslmode=disable&");
        assert_eq!((parsed.host.as_deref(), parsed.port), (Some("/run/pg"), 1));
        assert_eq!((parsed.user.as_deref(), parsed.database.as_str()), (Some("u"), "d"));
        assert_eq!(parsed.password.as_ref().map(Secret::expose), Some("a&b"));
        assert_eq!(parsed.ssl_mode, SslMode::Disable);
    }

    #[test]
    fn what_is_left_out_is_absent() {
        let parsed = url("postgres:///orders");
        assert_eq!((parsed.host, parsed.port, parsed.user, parsed.password), (None, 5432, None, None));
        assert_eq!((parsed.ssl_mode, parsed.ssl_identity), (SslMode::Prefer, None));
        assert_eq!(url("postgres://:pw@h/d").user, None);
        assert_eq!(url("postgres://u:@h/d").password, None);
    }

    #[test]
    fn hosts() {
        for (given, expected) in [
            ("postgres://u@/d?host=/run/pg", "/run/pg"),
            ("postgres://%2Frun%2Fpg/d", "/run/pg"),
            ("postgres://[::1]/d", "::1"),
            ("postgres://[fe80::2]:1/d", "fe80::2"),
            ("postgres://10.0.0.7:1/d", "10.0.0.7"),
            ("postgres:///d?host=::1", "::1"),
        ] {
            assert_eq!(url(given).host.as_deref(), Some(expected), "{given}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for (given, expected) in [
            ("postgres:hush", "is not the URL of a Postgres database"),
            ("postgres:/hush@h/d", "is not the URL of a Postgres database"),
            ("POSTGRES://u:hush@h/d", "is not the URL of a Postgres database"),
            ("postgres://u:hush@h", "names no database"),
            ("postgres://u:hush@h/", "names no database"),
            ("postgres://u:hush@h/?sslmode=disable", "names no database"),
            ("postgres://u:hush@h/d#hush", "%23"),
            ("postgres://u:hush#@h/d", "%23"),
            ("postgres://u:hu sh@h/d", "%20"),
            ("postgres://u:hush@h/d\n", "white space"),
            ("postgres://u:hush@hush@h/d", "more than one @"),
            ("postgres://u:hush/x@h/d", "only a database name"),
            ("postgres://u:12/hush@h/d", "only a database name"),
            ("postgres://u:hush?x@h/d", "%3F"),
            ("postgres://u:%zzhush@h/d", "has a % in its password"),
            ("postgres://u:hush%2@h/d", "has a % in its password"),
            ("postgres://u:hush%ff@h/d", "has a % in its password"),
            ("postgres://u:hush%00@h/d", "has a % in its password"),
            ("postgres://h:0/d", "1 to 65535"),
            ("postgres://h:65536/d", "1 to 65535"),
            ("postgres://h:/d", "1 to 65535"),
            ("postgres://h:1:2/d", "1 to 65535"),
            ("postgres://[::1]2/d", "1 to 65535"),
            ("postgres://[h]/d", "IPv6"),
            ("postgres://h1,h2/d", "several hosts"),
            ("postgres://h!/d", "neither a name"),
            ("postgres://h/d/e", "only a database name"),
            ("postgres://h/d?host=/run/pg", "gives its host twice"),
            ("postgres://u:hush@h/d?password=hush", "gives its password twice"),
            ("postgres://h/d?sslmode=full", "disable, allow, prefer, require, verify-ca, verify-full"),
            ("postgres://h/d?sslmode=REQUIRE", "unknown sslmode"),
            ("postgres://h/d?password=a&hush", "without a value"),
            ("postgres://h/d?password=a&hush=b", "not known here"),
            ("postgres://h/d?p%61ssword=hush", "not known here"),
            ("postgres://h/d?options=-cfsync%3Doff", "not known here"),
            ("postgres://h/d?application_name=x", "store.application_name"),
            ("postgres://h/d?connect_timeout=2", "store.connect_timeout"),
            ("postgres:///d?host=/run/pg&sslmode=require", "over a socket"),
            ("postgres://h/d?sslmode=require&sslrootcert=/no/such", "sslmode=require does not use"),
            ("postgres://h/d?sslmode=verify-ca&sslrootcert=/no/such", "sslrootcert that cannot be read"),
            ("postgres://h/d?sslmode=verify-full&sslrootcert=/", "sslrootcert that is not a file"),
            ("postgres://h/d?sslcert=/no/such&sslkey=/no/such", "sslcert that cannot be read"),
        ] {
            let problem = PostgresUrl::parse(given).unwrap_err();
            assert!(problem.contains(expected), "{given}: {problem}");
            assert!(!problem.contains("hush"), "{given}: {problem}");
        }
    }

    #[test]
    fn files_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.pem");
        std::fs::write(&file, "").unwrap();
        let path = file.display();
        for mode in ["verify-ca", "verify-full"] {
            let parsed = url(&format!("postgres://h/d?sslmode={mode}&sslrootcert={path}"));
            assert_eq!(parsed.ssl_root_cert.as_ref(), Some(&file));
        }
        let parsed = url(&format!("postgres://h/d?sslcert={path}&sslkey={path}"));
        assert_eq!(parsed.ssl_identity, Some(SslIdentity { cert: file.clone(), key: file.clone() }));
        let problem = PostgresUrl::parse(&format!("postgres://h/d?sslkey={path}")).unwrap_err();
        assert!(problem.contains("give both or none"), "{problem}");
    }

    #[test]
    fn it_is_never_shown() {
        for text in ["postgres://u:hush@h/d", "postgres://u@h/d?password=hush"] {
            let shown = format!("{0} {0:?} {1:?}", url(text), url(text).password);
            assert!(!shown.contains("hush") && shown.contains("@h/d"), "{shown}");
        }
    }
}
