//! How one row becomes values, whatever database takes them. Reading them back is in [`super::rows`].

use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::error::BoxDynError;
use uuid::Uuid;

use crate::domain::Timestamp;

pub(super) type Bound = Result<(), BoxDynError>;

/// The values of one row, added from left to right.
pub(super) trait Bind {
    fn text(&mut self, value: &str) -> Bound;
    fn maybe_text(&mut self, value: Option<&str>) -> Bound;
    fn int(&mut self, value: impl TryInto<i64, Error: Into<BoxDynError>>) -> Bound;
    fn maybe_int(&mut self, value: Option<i64>) -> Bound;
    fn flag(&mut self, value: bool) -> Bound;
    fn id(&mut self, value: Uuid) -> Bound;
    fn maybe_id(&mut self, value: Option<Uuid>) -> Bound;
    fn bytes(&mut self, value: &[u8]) -> Bound;
    fn maybe_bytes(&mut self, value: Option<&[u8]>) -> Bound;
    /// Kept to the last digit.
    fn amount(&mut self, value: Decimal) -> Bound;
    /// Kept to the microsecond.
    fn time(&mut self, value: Timestamp) -> Bound;
    fn maybe_time(&mut self, value: Option<Timestamp>) -> Bound;
    fn json<T: Serialize>(&mut self, value: &T) -> Bound;
    /// A JSON value that is text already; it is kept to the byte.
    fn json_text(&mut self, value: &str) -> Bound;
    fn maybe_json<T: Serialize>(&mut self, value: Option<&T>) -> Bound;
}
