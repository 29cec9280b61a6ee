//! Statements over many rows at once.

use std::sync::Arc;

use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr, query_with};

/// One statement takes any number of rows up to this, and [`WIDEST`]: few enough texts to stay in the connection's cache
/// of prepared statements, and few statements a batch, since each is a round trip to the connection's thread.
const ANY: usize = 32;
/// The most rows one statement takes.
const WIDEST: usize = 64;

/// One statement in each size: the widest first, then from [`ANY`] rows down to one.
pub(super) struct Statement {
    texts: Vec<(usize, SqlStr)>,
}

impl Statement {
    /// `head`, then `row` once for each row with commas between, then `tail`.
    pub(super) fn new(head: &str, row: &str, tail: &str) -> Self {
        let text = |size| {
            let rows = vec![row; size].join(",");
            // Made of constants of this folder only; values are always bound.
            let text: Arc<str> = format!("{head} {rows} {tail}").into();
            (size, AssertSqlSafe(text).into_sql_str())
        };
        Self { texts: std::iter::once(WIDEST).chain((1..=ANY).rev()).map(text).collect() }
    }

    /// An `INSERT` into `table`.
    pub(super) fn insert(table: &str, columns: &[&str], tail: &str) -> Self {
        let head = format!("INSERT INTO {table} ({}) VALUES", columns.join(", "));
        Self::new(&head, &marks(columns.len()), tail)
    }

    /// Runs it over all `rows`; `bind` adds the values of one.
    pub(super) async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<(), sqlx::Error> {
        for (sql, rows) in self.chunks(rows) {
            query_with(sql, arguments(rows, &bind)?).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Runs it over all `rows` and gathers what it returns.
    pub(super) async fn fetch<T, R>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
        read: impl Fn(&SqliteRow) -> Result<R, sqlx::Error>,
    ) -> Result<Vec<R>, sqlx::Error> {
        let mut found = Vec::with_capacity(rows.len());
        for (sql, rows) in self.chunks(rows) {
            for row in query_with(sql, arguments(rows, &bind)?).fetch_all(&mut *connection).await? {
                found.push(read(&row)?);
            }
        }
        Ok(found)
    }

    /// The text for as many rows as it takes at once.
    #[cfg(test)]
    pub(super) fn widest(&self) -> SqlStr {
        self.texts[0].1.clone()
    }

    fn chunks<'a, T>(&'a self, mut rows: &'a [T]) -> impl Iterator<Item = (SqlStr, &'a [T])> {
        self.texts.iter().flat_map(move |(size, sql)| {
            let whole = rows.len().checked_rem(*size).map_or(0, |rest| rows.len().saturating_sub(rest));
            let (now, later) = rows.split_at(whole);
            rows = later;
            now.chunks_exact(*size).map(move |chunk| (sql.clone(), chunk))
        })
    }
}

fn arguments<T>(
    rows: &[T],
    bind: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for row in rows {
        bind(&mut arguments, row).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// `(?,?,…)` with `count` marks.
pub(super) fn marks(count: usize) -> String {
    format!("({})", vec!["?"; count].join(","))
}
