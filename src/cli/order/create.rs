//! `order create`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use uuid::Uuid;

use super::{ClientFailure, Session, request};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 4_194_304;

#[derive(Args, Debug)]
#[command(after_help = "\
The file holds the fields of CreateOrderRequest: user_id, items [{product_id, variant_id, quantity}], \
shipping_address, billing_address, payment_method, payment_token, shipping_method, notes, coupon_code, \
currency, expected_total (text), metadata. The answer may still be PENDING; `order watch` follows it.

Examples:
  order-service order create examples/create-order.json
  order-service order create --validate-only examples/eur-order.json
  jq '.notes = \"ring twice\"' order.json | order-service order create -")]
pub(super) struct CreateArgs {
    /// The JSON file; - reads standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Makes a repeat harmless: the same id with the same content is the same order. Default: a fresh one.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Check and price only; nothing is stored.
    #[arg(long)]
    validate_only: bool,
}

pub(super) async fn run(session: &Session, arguments: CreateArgs) -> Result<(), ClientFailure> {
    let (text, source) = read(&arguments.file).map_err(ClientFailure::input)?;
    let mut content = request::parse(&text, &source).map_err(ClientFailure::input)?;
    if let Some(request_id) = arguments.request_id {
        content.request_id = request_id;
    } else if content.request_id.is_empty() {
        content.request_id = fresh_request_id();
    }
    content.validate_only |= arguments.validate_only;
    let request_id = (!content.validate_only).then(|| content.request_id.clone());
    let mut client = session.connect().await?;
    let order = client.create(content).await.map_err(|mut error| {
        if let Some(request_id) = request_id.filter(|_| error.may_have_happened()) {
            error.details.metadata.insert("request_id".to_owned(), request_id);
        }
        error
    })?;
    session.show(order)
}

fn fresh_request_id() -> String {
    Uuid::now_v7().to_string()
}

/// The text of the file and what to call it in messages.
fn read(path: &Path) -> Result<(String, String), String> {
    let is_stdin = path.as_os_str() == "-";
    let source = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let explain = |error: io::Error| format!("{source} cannot be read ({error}); check the path");
    let reader: Box<dyn Read> =
        if is_stdin { Box::new(io::stdin().lock()) } else { Box::new(File::open(path).map_err(explain)?) };
    let mut text = String::new();
    let length = reader.take(MAX_BYTES.saturating_add(1)).read_to_string(&mut text).map_err(explain)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_BYTES) {
        return Err(format!("{source} is larger than {MAX_BYTES} bytes; check the path"));
    }
    Ok((text, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_named() {
        let error = read(Path::new("/no/such.json")).unwrap_err();
        assert!(error.starts_with("/no/such.json cannot be read"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("big.json");
        std::fs::write(&file, vec![b' '; 4_194_305]).unwrap();
        assert!(read(&file).unwrap_err().contains("is larger than"));
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(read(&file).unwrap().0, "{}");
    }

    #[test]
    fn fresh_request_ids_are_uuids_of_version_7() {
        assert_eq!(Uuid::parse_str(&fresh_request_id()).unwrap().get_version_num(), 7);
    }
}
