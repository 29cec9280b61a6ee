//! Reads the price book: a file of the operator's, or the one that is compiled in.

use std::path::Path;

use config::{Value, ValueKind};

use super::load::{Origin, parse_yaml, read_text};
use super::{ConfigError, PricingConfig};
use crate::domain::pricing::{PriceBook, PricingDocument};

const COMPILED_IN: &str = include_str!("../../config/pricing.yaml");

/// The price book that `pricing.file` names, checked.
///
/// # Errors
/// When it cannot be read, is no YAML, or a value in it is wrong.
pub fn price_book(pricing: &PricingConfig) -> Result<PriceBook, ConfigError> {
    let (origin, text) = match &pricing.file {
        None => (Origin::Default, Ok(COMPILED_IN.to_owned())),
        Some(path) => (Origin::File(path.clone()), read_text(path)),
    };
    let book = text.and_then(|text| parse_yaml(&text)).and_then(parse);
    book.map_err(|problem| {
        let value = pricing.file.as_deref().map(Path::display).map(|path| format!("{:?}", path.to_string()));
        ConfigError::new("pricing.file", value, &origin, problem)
    })
}

fn parse(root: impl IntoIterator<Item = (String, Value)>) -> Result<PriceBook, String> {
    let mut table = serde_json::Map::new();
    for (key, value) in root {
        let value = to_json(&key, value)?;
        table.insert(key, value);
    }
    let document: PricingDocument = serde_path_to_error::deserialize(serde_json::Value::Object(table))
        .map_err(|error| {
            let path = error.path().to_string();
            format!("is wrong at {path}: {}; correct it", error.into_inner())
        })?;
    PriceBook::from_document(document).map_err(|problem| format!("is wrong at {problem}; correct it"))
}

/// The same value without a detour over floats: a fraction has to be quoted text.
fn to_json(path: &str, value: Value) -> Result<serde_json::Value, String> {
    Ok(match value.kind {
        ValueKind::Nil => serde_json::Value::Null,
        ValueKind::Boolean(flag) => flag.into(),
        ValueKind::I64(number) => number.into(),
        ValueKind::String(text) => text.into(),
        ValueKind::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| {
                let value = to_json(&format!("{path}.{key}"), value)?;
                Ok((key, value))
            });
            serde_json::Value::Object(entries.collect::<Result<_, String>>()?)
        }
        ValueKind::Array(values) => {
            let items = values
                .into_iter()
                .enumerate()
                .map(|(index, value)| to_json(&format!("{path}[{index}]"), value));
            serde_json::Value::Array(items.collect::<Result<_, String>>()?)
        }
        other => {
            return Err(format!("is wrong at {path}: {other} is a number with a fraction; put it in quotes"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(text: &str) -> Result<PriceBook, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pricing.yaml");
        std::fs::write(&file, text).unwrap();
        price_book(&PricingConfig { file: Some(file) })
    }

    #[test]
    fn the_compiled_in_book_is_valid() {
        price_book(&PricingConfig { file: None }).unwrap();
    }

    #[test]
    fn errors_name_the_place() {
        let error = book("tax: [{ country: US, rate: 0.08 }]").unwrap_err().to_string();
        assert!(error.contains("tax[0].rate: 0.08 is a number with a fraction"), "{error}");
        let error = book("shipping: { A: { prize: {} } }\npayment_methods: [X]").unwrap_err().to_string();
        assert!(error.contains("shipping.A") && error.contains("prize"), "{error}");
        let error = book("shipping: {}\npayment_methods: [X]").unwrap_err().to_string();
        assert!(error.contains("expected at least one method"), "{error}");
        let error =
            price_book(&PricingConfig { file: Some("/no/such.yaml".into()) }).unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }
}
