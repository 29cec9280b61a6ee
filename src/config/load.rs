//! Layers: the compiled-in defaults, then files, then the environment, flattened to dotted keys with their origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{FileFormat, Source, Value, ValueKind};

use super::mask::{hides, masked, shown};
use super::{ConfigError, ConfigErrors};

/// The lowest layer; its keys are all the keys there are.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.yaml");

/// What every environment variable of ours begins with, in any case.
const PREFIX: &str = "ORDER__";

/// What `profile: production` sets where nothing else does: a layer right above the defaults.
pub(super) const PRODUCTION: &str = include_str!("../../config/profile-production.yaml");
const PRODUCTION_NAME: &str = "production";

/// Largest secret or configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1_048_576;

/// A value as a layer gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scalar {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// Text; from the environment everything is text.
    Text(String),
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `config/default.yaml` as it was compiled in.
    Default,
    /// What the named profile sets, as it was compiled in.
    Profile(&'static str),
    /// A file given with `--config`.
    File(PathBuf),
    /// The named environment variable.
    Environment(String),
    /// The file that the named environment variable points to.
    SecretFile {
        /// The variable, which ends in `_FILE`.
        variable: String,
        /// The path in it.
        path: PathBuf,
    },
}

impl Origin {
    /// Whether values of this layer carry no type of their own.
    pub(super) fn is_untyped(&self) -> bool {
        matches!(self, Self::Environment(_) | Self::SecretFile { .. })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::SecretFile { variable, path } => write!(f, "{} by {variable}", path.display()),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) value: Scalar,
    pub(super) origin: Origin,
}

/// One line of the merged configuration, fit to be shown to anybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Dotted key.
    pub key: String,
    /// Its value; secrets and passwords in URLs are `***`.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// All layers merged: for every key the value of the highest layer that has it.
#[derive(Clone, Default)]
pub struct Merged {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) errors: Vec<ConfigError>,
}

impl fmt::Debug for Merged {
    /// Values may be secrets, also where their key is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.entries.keys().collect();
        f.debug_struct("Merged").field("keys", &keys).finish_non_exhaustive()
    }
}

impl Merged {
    /// Merges the defaults, `files` in their order and the variables of `environment` that begin with `ORDER__`.
    ///
    /// What is wrong is kept for [`super::Config::from_merged`], which reports it with everything else.
    pub fn collect(files: &[PathBuf], environment: impl Iterator<Item = (String, String)>) -> Self {
        let mut merged = Self::default();
        merged.add_defaults();
        for path in files {
            merged.add_file(path);
        }
        merged.add_environment(environment);
        merged.add_profile();
        merged
    }

    /// Every key with its value and origin, in the order of the alphabet.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        self.entries.iter().map(|(key, entry)| Setting {
            key: key.clone(),
            value: shown(key, &entry.value),
            origin: entry.origin.clone(),
        })
    }

    fn add_defaults(&mut self) {
        match parse_yaml(DEFAULTS) {
            Ok(root) => self.add_table(root, &Origin::Default),
            Err(problem) => self.refuse(&Origin::Default, problem),
        }
    }

    /// Which profile it is comes out last, so its values go where so far only the defaults have been.
    fn add_profile(&mut self) {
        let is_production =
            |entry: &Entry| matches!(&entry.value, Scalar::Text(name) if name == PRODUCTION_NAME);
        if !self.entries.get("profile").is_some_and(is_production) {
            return;
        }
        let mut profile = Self { entries: self.entries.clone(), errors: Vec::new() };
        let origin = Origin::Profile(PRODUCTION_NAME);
        match parse_yaml(PRODUCTION) {
            Ok(root) => profile.add_table(root, &origin),
            Err(problem) => profile.refuse(&origin, problem),
        }
        self.errors.append(&mut profile.errors);
        let set = profile.entries.into_iter().filter(|(_, entry)| entry.origin == origin);
        for (key, entry) in set {
            if self.entries.get(&key).is_some_and(|now| now.origin == Origin::Default) {
                self.entries.insert(key, entry);
            }
        }
    }

    fn add_file(&mut self, path: &Path) {
        let origin = Origin::File(path.to_path_buf());
        match read_text(path).and_then(|text| parse_yaml(&text)) {
            Ok(root) => self.add_table(root, &origin),
            Err(problem) => self.refuse(&origin, problem),
        }
    }

    fn add_table(&mut self, root: BTreeMap<String, Value>, origin: &Origin) {
        let mut leaves = Vec::new();
        for (key, value) in root {
            flatten(key, value, &mut leaves);
        }
        for (key, kind) in leaves {
            let is_default = *origin == Origin::Default;
            if matches!(kind, ValueKind::Nil) && self.is_section(&key) {
                continue;
            }
            if !is_default && !self.entries.contains_key(&key) {
                let value = if hides(&key) { "***".to_owned() } else { masked(&kind.to_string()) };
                self.unknown(&key, Some(value), origin);
                continue;
            }
            let value = match kind {
                ValueKind::Boolean(flag) => Scalar::Flag(flag),
                ValueKind::I64(number) => Scalar::Number(number),
                ValueKind::String(text) => Scalar::Text(text),
                ValueKind::Nil => {
                    let problem = "has no value; give it one or delete the line";
                    self.errors.push(ConfigError::new(key, None, origin, problem));
                    continue;
                }
                other => {
                    let value = if hides(&key) { "***".to_owned() } else { masked(&other.to_string()) };
                    let problem =
                        "is neither text in quotes, nor a whole number, nor true or false; write one";
                    self.errors.push(ConfigError::new(key, Some(value), origin, problem));
                    continue;
                }
            };
            self.entries.insert(key, Entry { value, origin: origin.clone() });
        }
    }

    fn add_environment(&mut self, environment: impl Iterator<Item = (String, String)>) {
        // Sorted, so that messages do not depend on the order of the environment.
        let ours: BTreeMap<String, String> = environment.filter(|(name, _)| is_ours(name)).collect();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (variable, text) in ours {
            let dotted = key_of(&variable);
            let plain = Origin::Environment(variable.clone());
            let pointed = dotted.strip_suffix("_file").filter(|key| self.entries.contains_key(*key));
            let (key, value, origin) = match pointed {
                _ if self.entries.contains_key(&dotted) => (dotted, Ok(text), plain),
                Some(key) => {
                    let path = PathBuf::from(text);
                    let value = read_text(&path).map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
                    (key.to_owned(), value, Origin::SecretFile { variable: variable.clone(), path })
                }
                None => {
                    let value = if hides(&dotted) { "***".to_owned() } else { masked(&text) };
                    self.unknown(&dotted, Some(value), &plain);
                    continue;
                }
            };
            if let Some(other) = seen.insert(key.clone(), variable.clone()) {
                let problem = format!("is set by {other} too; keep one of the two");
                self.errors.push(ConfigError::new(key, None, &Origin::Environment(variable), problem));
                continue;
            }
            match value {
                Ok(text) => {
                    self.entries.insert(key, Entry { value: Scalar::Text(text), origin });
                }
                Err(problem) => self.errors.push(ConfigError::new(key, None, &origin, problem)),
            }
        }
    }

    /// Whether keys stand below `key`.
    fn is_section(&self, key: &str) -> bool {
        let prefix = format!("{key}.");
        self.entries.keys().any(|known| known.starts_with(&prefix))
    }

    fn unknown(&mut self, key: &str, value: Option<String>, origin: &Origin) {
        let section = key.split('.').next().unwrap_or_default();
        let problem = if self.is_section(key) {
            "is a section; set one of the keys below it".to_owned()
        } else if key != section && self.is_section(section) {
            let prefix = format!("{section}.");
            let keys: Vec<&str> =
                self.entries.keys().filter_map(|known| known.strip_prefix(&prefix)).collect();
            format!("is not a key; {section} has {}", keys.join(", "))
        } else {
            let mut sections: Vec<&str> =
                self.entries.keys().filter_map(|known| known.split('.').next()).collect();
            sections.dedup();
            format!("is not a key; there are {}", sections.join(", "))
        };
        self.errors.push(ConfigError::new(key, value, origin, problem));
    }

    fn refuse(&mut self, origin: &Origin, problem: String) {
        self.errors.push(ConfigError::new("", None, origin, problem));
    }
}

/// Whether a variable is meant for us.
fn is_ours(variable: &str) -> bool {
    variable.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The dotted key of a variable: `ORDER__STORE__URL` is `store.url`.
fn key_of(variable: &str) -> String {
    variable.get(PREFIX.len()..).unwrap_or_default().to_ascii_lowercase().replace("__", ".")
}

/// Takes nested tables apart into dotted keys.
fn flatten(key: String, value: Value, leaves: &mut Vec<(String, ValueKind)>) {
    match value.kind {
        ValueKind::Table(table) => {
            for (name, inner) in table {
                flatten(format!("{key}.{name}"), inner, leaves);
            }
        }
        kind => leaves.push((key, kind)),
    }
}

/// Reads a small text file.
///
/// # Errors
/// Half a sentence that says what is wrong and what to do.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let size =
        std::fs::metadata(path).map_err(|error| format!("cannot be read ({error}); check the path"))?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("has {size} bytes, more than {MAX_FILE_BYTES}; check the path"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read ({error}); check the path"))
}

/// Parses a YAML document whose root is a table; an empty document is an empty table.
///
/// # Errors
/// Half a sentence that names the place.
pub(super) fn parse_yaml(text: &str) -> Result<BTreeMap<String, Value>, String> {
    let blank =
        text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---");
    if blank {
        return Ok(BTreeMap::new());
    }
    config::File::from_str(text, FileFormat::Yaml)
        .collect()
        .map(|table| table.into_iter().collect())
        .map_err(|error| format!("is not YAML with a table of keys ({error}); correct it"))
}

/// Turns collected errors into a result.
pub(super) fn all_or_errors<T>(value: T, errors: Vec<ConfigError>) -> Result<T, ConfigErrors> {
    if errors.is_empty() { Ok(value) } else { Err(ConfigErrors(errors)) }
}
