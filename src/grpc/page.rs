//! Page tokens: opaque, bound to the filter they were made for.

use uuid::Uuid;

use crate::domain::ids::{IdKey, OrderId};
use crate::domain::{Timestamp, text::Violation};
use crate::ports::store::ListCursor;

/// A token is three numbers in hexadecimal: position, id, and a tag over both and the filter.
fn write(position: i64, id: Uuid, tag: u64) -> String {
    format!("{position:016x}{:032x}{tag:016x}", id.as_u128())
}

fn read(token: &str) -> Option<(i64, Uuid, u64)> {
    if token.len() != 64 || !token.is_ascii() {
        return None;
    }
    let position = u64::from_str_radix(token.get(..16)?, 16).ok()?.cast_signed();
    let id = u128::from_str_radix(token.get(16..48)?, 16).ok()?;
    let tag = u64::from_str_radix(token.get(48..)?, 16).ok()?;
    Some((position, Uuid::from_u128(id), tag))
}

fn tag(key: &IdKey, filter: &[u8; 16], position: i64, id: Uuid) -> u64 {
    key.tag("page", &[filter, &position.to_be_bytes(), id.as_bytes()])
}

/// The token of the page behind `position` and `id`.
pub(super) fn token(key: &IdKey, filter: &[u8; 16], position: i64, id: Uuid) -> String {
    write(position, id, tag(key, filter, position, id))
}

/// Where a token points; none for the first page.
pub(super) fn parse(
    key: &IdKey,
    filter: &[u8; 16],
    text: &str,
    violations: &mut Vec<Violation>,
) -> Option<(i64, Uuid)> {
    if text.is_empty() {
        return None;
    }
    match read(text) {
        Some((position, id, found)) if found == tag(key, filter, position, id) => Some((position, id)),
        _ => {
            let expected = "expected the next_page_token of a page with the same filter and order";
            violations.push(Violation::invalid("page_token", expected));
            None
        }
    }
}

/// A position in a list of orders.
pub(super) fn cursor((micros, id): (i64, Uuid)) -> Option<ListCursor> {
    Some(ListCursor { created_at: Timestamp::from_timestamp_micros(micros)?, id: OrderId(id) })
}
