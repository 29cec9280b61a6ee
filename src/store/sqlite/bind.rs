//! How values become SQLite values.

use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::store::bind::{Bind, Bound};

/// Amounts are decimal text that keeps the digits as they are (`10.50` stays `10.50`), times microseconds since 1970.
impl Bind for SqliteArguments {
    fn text(&mut self, value: &str) -> Bound {
        self.add(value)
    }

    fn maybe_text(&mut self, value: Option<&str>) -> Bound {
        self.add(value)
    }

    fn int(&mut self, value: impl TryInto<i64, Error: Into<BoxDynError>>) -> Bound {
        let value: i64 = value.try_into().map_err(Into::into)?;
        self.add(value)
    }

    fn maybe_int(&mut self, value: Option<i64>) -> Bound {
        self.add(value)
    }

    fn flag(&mut self, value: bool) -> Bound {
        self.add(i64::from(value))
    }

    fn id(&mut self, value: Uuid) -> Bound {
        self.add(value)
    }

    fn maybe_id(&mut self, value: Option<Uuid>) -> Bound {
        self.add(value)
    }

    fn bytes(&mut self, value: &[u8]) -> Bound {
        self.add(value.to_vec())
    }

    fn maybe_bytes(&mut self, value: Option<&[u8]>) -> Bound {
        self.add(value.map(<[u8]>::to_vec))
    }

    fn amount(&mut self, value: Decimal) -> Bound {
        self.add(value.to_string())
    }

    fn time(&mut self, value: Timestamp) -> Bound {
        self.add(value.timestamp_micros())
    }

    fn maybe_time(&mut self, value: Option<Timestamp>) -> Bound {
        self.add(value.map(|value| value.timestamp_micros()))
    }

    fn json<T: Serialize>(&mut self, value: &T) -> Bound {
        self.add(serde_json::to_string(value)?)
    }

    fn json_text(&mut self, value: &str) -> Bound {
        self.add(value)
    }

    fn maybe_json<T: Serialize>(&mut self, value: Option<&T>) -> Bound {
        self.add(value.map(serde_json::to_string).transpose()?)
    }
}
