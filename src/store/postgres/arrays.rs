//! Rows of one table as one array a column, in the form in which Postgres takes them.
//!
//! A column's elements are encoded one behind the other as the rows are bound; the type of a column is that of its first
//! element. `unnest` makes rows of them again, so one statement with a fixed text takes any number of rows.

use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::store::bind::{Bind, Bound};

/// A type of column: the OIDs of its elements and of arrays of them, which are the same on every server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kind {
    element: u32,
    array: u32,
}

const BOOL: Kind = Kind { element: 16, array: 1000 };
const BYTEA: Kind = Kind { element: 17, array: 1001 };
const INT8: Kind = Kind { element: 20, array: 1016 };
const TEXT: Kind = Kind { element: 25, array: 1009 };
const JSON: Kind = Kind { element: 114, array: 199 };
const TIMESTAMPTZ: Kind = Kind { element: 1184, array: 1185 };
const NUMERIC: Kind = Kind { element: 1700, array: 1231 };
const UUID: Kind = Kind { element: 2950, array: 2951 };

/// One column of all rows.
#[derive(Debug)]
pub(super) struct Column {
    kind: Kind,
    elements: PgArgumentBuffer,
    count: i32,
    has_nulls: bool,
    /// Sent as the value itself.
    is_single: bool,
}

impl Column {
    fn new(kind: Kind) -> Self {
        Self { kind, elements: PgArgumentBuffer::default(), count: 0, has_nulls: false, is_single: false }
    }

    fn push<'v, T: Encode<'v, Postgres>>(&mut self, value: Option<T>) -> Bound {
        self.count = self.count.checked_add(1).ok_or("too many rows")?;
        let Some(value) = value else {
            self.has_nulls = true;
            self.elements.extend_from_slice(&(-1i32).to_be_bytes());
            return Ok(());
        };
        let start = self.elements.len();
        self.elements.extend_from_slice(&[0; 4]);
        if value.encode(&mut self.elements)?.is_null() {
            return Err("a value is null".into());
        }
        let body = start.saturating_add(4);
        let length = i32::try_from(self.elements.len().saturating_sub(body))?;
        let place = self.elements.get_mut(start..body).ok_or("no room for a length")?;
        place.copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

impl Type<Postgres> for Column {
    fn type_info() -> PgTypeInfo {
        // Not asked: `produces` knows better.
        PgTypeInfo::with_oid(Oid(TEXT.array))
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        if self.is_single {
            // Behind its length, which whoever asked for this writes. None means that it is null.
            let value = self.elements.get(4..).filter(|_| !self.has_nulls);
            return Ok(value.map_or(IsNull::Yes, |value| {
                buffer.extend_from_slice(value);
                IsNull::No
            }));
        }
        // Dimensions, whether there are nulls, type of the elements; then length and lower bound of the one dimension.
        let dimensions = i32::from(self.count > 0);
        buffer.extend_from_slice(&dimensions.to_be_bytes());
        buffer.extend_from_slice(&i32::from(self.has_nulls).to_be_bytes());
        buffer.extend_from_slice(&self.kind.element.to_be_bytes());
        if self.count > 0 {
            buffer.extend_from_slice(&self.count.to_be_bytes());
            buffer.extend_from_slice(&1i32.to_be_bytes());
            buffer.extend_from_slice(&self.elements);
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        let kind = if self.is_single { self.kind.element } else { self.kind.array };
        Some(PgTypeInfo::with_oid(Oid(kind)))
    }
}

/// The columns of some rows.
#[derive(Debug, Default)]
pub(super) struct Arrays {
    pub(super) columns: Vec<Column>,
    /// There is one row: its values are sent as they are, which the server has less work with than with arrays.
    pub(super) is_single: bool,
    /// The column that the next value goes to.
    next: usize,
}

impl Arrays {
    /// Binds each of `rows` with `bind`.
    pub(super) fn of<T>(rows: &[T], bind: impl Fn(&mut Self, &T) -> Bound) -> Result<Self, sqlx::Error> {
        let mut arrays = Self::default();
        for row in rows {
            arrays.next = 0;
            bind(&mut arrays, row).map_err(sqlx::Error::Encode)?;
        }
        Ok(arrays)
    }

    /// The same, with a single row's values as they are.
    pub(super) fn or_values<T>(
        rows: &[T],
        bind: impl Fn(&mut Self, &T) -> Bound,
    ) -> Result<Self, sqlx::Error> {
        let mut arrays = Self::of(rows, bind)?;
        arrays.is_single = rows.len() == 1;
        for column in &mut arrays.columns {
            column.is_single = arrays.is_single;
        }
        Ok(arrays)
    }

    fn add<'v, T: Encode<'v, Postgres>>(&mut self, kind: Kind, value: Option<T>) -> Bound {
        if self.next == self.columns.len() {
            self.columns.push(Column::new(kind));
        }
        let column = self.columns.get_mut(self.next).filter(|column| column.kind == kind);
        column.ok_or("rows of different shapes")?.push(value)?;
        self.next = self.next.saturating_add(1);
        Ok(())
    }
}

impl Bind for Arrays {
    fn text(&mut self, value: &str) -> Bound {
        self.add(TEXT, Some(value))
    }

    fn maybe_text(&mut self, value: Option<&str>) -> Bound {
        self.add(TEXT, value)
    }

    fn int(&mut self, value: impl TryInto<i64, Error: Into<BoxDynError>>) -> Bound {
        let value: i64 = value.try_into().map_err(Into::into)?;
        self.add(INT8, Some(value))
    }

    fn maybe_int(&mut self, value: Option<i64>) -> Bound {
        self.add(INT8, value)
    }

    fn flag(&mut self, value: bool) -> Bound {
        self.add(BOOL, Some(value))
    }

    fn id(&mut self, value: Uuid) -> Bound {
        self.add(UUID, Some(value))
    }

    fn maybe_id(&mut self, value: Option<Uuid>) -> Bound {
        self.add(UUID, value)
    }

    fn bytes(&mut self, value: &[u8]) -> Bound {
        self.add(BYTEA, Some(value))
    }

    fn maybe_bytes(&mut self, value: Option<&[u8]>) -> Bound {
        self.add(BYTEA, value)
    }

    fn amount(&mut self, value: Decimal) -> Bound {
        self.add(NUMERIC, Some(value))
    }

    fn time(&mut self, value: Timestamp) -> Bound {
        self.add(TIMESTAMPTZ, Some(value))
    }

    fn maybe_time(&mut self, value: Option<Timestamp>) -> Bound {
        self.add(TIMESTAMPTZ, value)
    }

    fn json<T: Serialize>(&mut self, value: &T) -> Bound {
        self.add(JSON, Some(serde_json::to_string(value)?))
    }

    fn json_text(&mut self, value: &str) -> Bound {
        self.add(JSON, Some(value))
    }

    fn maybe_json<T: Serialize>(&mut self, value: Option<&T>) -> Bound {
        self.add(JSON, value.map(serde_json::to_string).transpose()?)
    }
}
