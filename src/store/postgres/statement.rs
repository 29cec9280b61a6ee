//! The text of a batch: what many orders change, as one statement.
//!
//! Every table that a batch writes is one `WITH` term over one `unnest`; for an order that is alone, over the values where
//! there is one row. A text depends only on which tables take part, and with how many rows for an order that is alone, so
//! a connection prepares a few dozen of them. Whatever fails makes all of it fail, so nothing needs to be undone.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, SqlSafeStr, SqlStr};

use super::arrays::Arrays;
use crate::ports::store::Commit;
use crate::store::bind::{Bind, Bound};
use crate::store::fields::{
    ADDRESSES, CONDITION, EVENTS, FIXED, HISTORY, ITEMS, LEDGER, MUTABLE, OWNER, REQUESTS, SAGAS, SHIPMENTS,
    TIMERS, Table, bind_address, bind_change, bind_entry, bind_event, bind_history, bind_item, bind_new,
    bind_request, bind_saga, bind_shipment, bind_timer,
};
use crate::store::written::Written;

/// What a statement does about rows that are there, or are not, against expectation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Mode {
    /// All of it as expected, or all of it fails.
    Strict,
    /// Only the orders' rows; tells which orders it took.
    Orders,
    /// All other rows; a saga may have a row already.
    Children,
}

/// One table's share of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Part {
    Created,
    Changed,
    Items,
    Addresses,
    Shipments,
    Ledger,
    Requests,
    Events,
    History,
    NewSagas,
    Sagas,
    Timers,
    Claimed,
    Released,
}

/// A statement ready to be sent.
pub(super) struct Statement {
    pub(super) sql: SqlStr,
    pub(super) arguments: PgArguments,
}

/// A part, how many columns it has and whether it has a single row.
type Shape = (Part, usize, bool);

/// The texts made so far, by the parts that they have.
#[derive(Default)]
pub(super) struct Texts(HashMap<(Mode, Vec<Shape>), SqlStr>);

impl Texts {
    /// Everything that `commits` write. When a row is not at the version or with the owner that its commit names, or is
    /// there already, the statement fails as a whole: see [`is_refusal`].
    pub(super) fn strict(&mut self, commits: &[&Commit]) -> Result<Statement, sqlx::Error> {
        let is_alone = commits.len() == 1;
        let mut parts = orders(commits, is_alone)?;
        let rows = Written::of(commits);
        let expected = commits.len().saturating_add(rows.sagas.len());
        children(&mut parts, commits, &rows, is_alone)?;
        let mut statement = self.statement(Mode::Strict, parts)?;
        let expected = i64::try_from(expected).unwrap_or(i64::MAX);
        statement.arguments.add(expected).map_err(sqlx::Error::Encode)?;
        Ok(statement)
    }

    /// The rows of the orders alone; returns the ids of those that were as their commit expects.
    pub(super) fn orders(&mut self, commits: &[&Commit]) -> Result<Statement, sqlx::Error> {
        self.statement(Mode::Orders, orders(commits, false)?)
    }

    /// All other rows, for orders that were taken.
    pub(super) fn children(&mut self, commits: &[&Commit]) -> Result<Option<Statement>, sqlx::Error> {
        let (mut parts, mut rows) = (Vec::new(), Written::of(commits));
        rows.sagas.append(&mut rows.new_sagas);
        children(&mut parts, commits, &rows, false)?;
        if parts.is_empty() { Ok(None) } else { self.statement(Mode::Children, parts).map(Some) }
    }

    fn statement(&mut self, mode: Mode, parts: Vec<(Part, Arrays)>) -> Result<Statement, sqlx::Error> {
        let shape: Vec<_> =
            parts.iter().map(|(part, arrays)| (*part, arrays.columns.len(), arrays.is_single)).collect();
        let mut arguments = PgArguments::default();
        for column in parts.into_iter().flat_map(|(_, arrays)| arrays.columns) {
            arguments.add(column).map_err(sqlx::Error::Encode)?;
        }
        let text = || {
            // Made of constants of this crate only; values are always bound.
            let text: Arc<str> = text(mode, &shape).into();
            AssertSqlSafe(text).into_sql_str()
        };
        let sql = match self.0.get(&(mode, shape.clone())) {
            Some(sql) => sql.clone(),
            None => self.0.entry((mode, shape.clone())).or_insert_with(text).clone(),
        };
        Ok(Statement { sql, arguments })
    }
}

fn orders(commits: &[&Commit], is_alone: bool) -> Result<Vec<(Part, Arrays)>, sqlx::Error> {
    let (new, changed): (Vec<&Commit>, Vec<&Commit>) =
        commits.iter().partition(|commit| commit.guard.version == 0);
    let mut parts = Vec::new();
    let created = |args: &mut Arrays, commit: &&Commit| {
        bind_new(args, commit)?;
        args.maybe_int(commit.guard.key.map(|key| key.0))
    };
    add(&mut parts, Part::Created, &new, is_alone, created)?;
    add(&mut parts, Part::Changed, &changed, is_alone, |args, commit| bind_change(args, commit))?;
    Ok(parts)
}

fn children(
    parts: &mut Vec<(Part, Arrays)>,
    commits: &[&Commit],
    rows: &Written<'_>,
    is_alone: bool,
) -> Result<(), sqlx::Error> {
    use crate::ports::store::CouponMove::{Claim, Release};
    add(parts, Part::Items, &rows.items, is_alone, bind_item)?;
    add(parts, Part::Addresses, &rows.addresses, is_alone, bind_address)?;
    add(parts, Part::Shipments, &rows.shipments, is_alone, bind_shipment)?;
    add(parts, Part::Ledger, &rows.ledger, is_alone, bind_entry)?;
    add(parts, Part::Requests, &rows.requests, is_alone, bind_request)?;
    add(parts, Part::Events, &rows.events, is_alone, bind_event)?;
    add(parts, Part::History, &rows.history, is_alone, bind_history)?;
    add(parts, Part::NewSagas, &rows.new_sagas, is_alone, |args, saga| bind_saga(args, saga))?;
    add(parts, Part::Sagas, &rows.sagas, is_alone, |args, saga| bind_saga(args, saga))?;
    add(parts, Part::Timers, &rows.timers, is_alone, bind_timer)?;
    let (mut claimed, mut released) = (Vec::new(), Vec::new());
    for commit in commits {
        match &commit.coupon {
            Some(Claim { code, .. }) => claimed.push((commit.order.id, code)),
            Some(Release { code }) => released.push((commit.order.id, code)),
            None => {}
        }
    }
    let bind = |args: &mut Arrays, (order, code): &(crate::domain::ids::OrderId, &String)| {
        args.id(order.0)?;
        args.text(code)
    };
    add(parts, Part::Claimed, &claimed, is_alone, bind)?;
    add(parts, Part::Released, &released, is_alone, bind)
}

fn add<T>(
    parts: &mut Vec<(Part, Arrays)>,
    part: Part,
    rows: &[T],
    is_alone: bool,
    bind: impl Fn(&mut Arrays, &T) -> Bound,
) -> Result<(), sqlx::Error> {
    if !rows.is_empty() {
        parts.push((part, if is_alone { Arrays::or_values(rows, bind)? } else { Arrays::of(rows, bind)? }));
    }
    Ok(())
}

/// Whether a strict statement failed because a row was not as expected.
pub(super) fn is_refusal(code: &str) -> bool {
    const DIVISION_BY_ZERO: &str = "22012";
    const UNIQUE_VIOLATION: &str = "23505";
    code == DIVISION_BY_ZERO || code == UNIQUE_VIOLATION
}

fn text(mode: Mode, shape: &[Shape]) -> String {
    let mut terms: Vec<String> = Vec::new();
    let mut first = 1usize;
    for (part, width, is_single) in shape {
        let end = first.saturating_add(*width);
        let marks: Vec<String> = (first..end).map(|number| format!("${number}")).collect();
        let names: Vec<String> = (1..=*width).map(|number| format!("c{number}")).collect();
        let (marks, columns) = (marks.join(", "), names.join(", "));
        let source = if *is_single {
            format!("(VALUES ({marks})) AS v({columns})")
        } else {
            format!("unnest({marks}) AS v({columns})")
        };
        terms.push(term(mode, *part, &source, &names.join(", ")));
        first = end;
    }
    let has = |part| shape.iter().any(|(other, ..)| *other == part);
    if has(Part::Claimed) || has(Part::Released) {
        terms.push(counted(has(Part::Claimed), has(Part::Released)));
    }
    let count = |part, name: &str| {
        if has(part) { format!("(SELECT count(*) FROM {name})") } else { String::from("0") }
    };
    let result = match mode {
        Mode::Strict => {
            // Not a constant, so it is not worked out before the rows are counted.
            let orders = format!("{} + {}", count(Part::Created, "created"), count(Part::Changed, "changed"));
            let counted = format!("{orders} + {}", count(Part::Sagas, "resumed"));
            format!("SELECT 1 / (CASE WHEN {counted} = ${first}::bigint THEN 1 ELSE 0 END)")
        }
        Mode::Orders => {
            let taken: Vec<&str> = [(Part::Created, "created"), (Part::Changed, "changed")]
                .into_iter()
                .filter_map(|(part, name)| has(part).then_some(name))
                .collect();
            taken.iter().map(|name| format!("SELECT id FROM {name}")).collect::<Vec<_>>().join(" UNION ALL ")
        }
        Mode::Children => String::from("SELECT 1"),
    };
    format!("WITH {} {result}", terms.join(",\n"))
}

fn term(mode: Mode, part: Part, source: &str, names: &str) -> String {
    let insert = |name: &str, table: &Table, tail: &str| {
        format!(
            "{name} AS (INSERT INTO {} ({}) SELECT {names} FROM {source} {tail})",
            table.name,
            table.columns.join(", ")
        )
    };
    match part {
        Part::Created => {
            let columns: Vec<&str> = FIXED.iter().chain(&OWNER).chain(&MUTABLE).copied().collect();
            // The key comes behind what is written. Of a key that is not there nothing comes, which is not true either.
            let names: Vec<String> = (1..=columns.len()).map(|number| format!("c{number}")).collect();
            let (names, key) = (names.join(", "), columns.len().saturating_add(1));
            let sealed = format!(
                "(v.c{key} IS NULL OR (SELECT k.destroyed_at IS NULL FROM user_keys AS k WHERE k.key_id = v.c{key}))"
            );
            // An order that was lost must not be begun anew by whoever repeats its creation.
            let free = "WHERE NOT EXISTS (SELECT FROM order_quarantines AS q WHERE q.order_id = v.c1)";
            let conflict = if mode == Mode::Orders { "ON CONFLICT DO NOTHING" } else { "" };
            format!(
                "created AS (INSERT INTO orders ({}) SELECT {names} FROM {source} {free} AND {sealed} {conflict} RETURNING id)",
                columns.join(", ")
            )
        }
        Part::Changed => {
            let set = assignments(&MUTABLE, CONDITION.len());
            let guard: Vec<String> =
                CONDITION.iter().zip(1..).map(|(column, place)| format!("o.{column} = v.c{place}")).collect();
            format!(
                "changed AS (UPDATE orders AS o SET {set} FROM {source} WHERE {} RETURNING o.id)",
                guard.join(" AND ")
            )
        }
        Part::Items => insert("items", &ITEMS, ""),
        Part::Addresses => insert("addresses", &ADDRESSES, ""),
        Part::Shipments => insert("parcels", &SHIPMENTS, &SHIPMENTS.or_update()),
        Part::Ledger => insert("ledger", &LEDGER, ""),
        Part::Requests => insert("requests", &REQUESTS, ""),
        Part::Events => insert("events", &EVENTS, ""),
        Part::History => insert("history", &HISTORY, ""),
        Part::NewSagas => insert("begun", &SAGAS, ""),
        Part::Sagas if mode == Mode::Strict => {
            let (_, rest) = SAGAS.columns.split_at_checked(SAGAS.key).unwrap_or_default();
            let set = assignments(rest, SAGAS.key);
            format!(
                "resumed AS (UPDATE sagas AS s SET {set} FROM {source} \
                 WHERE s.order_id = v.c1 AND s.saga_no = v.c2 RETURNING 1)"
            )
        }
        Part::Sagas => insert("resumed", &SAGAS, &SAGAS.or_update()),
        Part::Timers => insert("timers", &TIMERS, &TIMERS.or_update()),
        Part::Claimed => format!(
            "claimed AS (INSERT INTO coupon_claims (order_id, code) SELECT {names} FROM {source} \
             ON CONFLICT DO NOTHING RETURNING code)"
        ),
        Part::Released => format!(
            "released AS (DELETE FROM coupon_claims AS c USING {source} \
             WHERE c.order_id = v.c1 AND c.code = v.c2 RETURNING c.code)"
        ),
    }
}

/// Keeps the counters of limited coupons true; others have none.
fn counted(claimed: bool, released: bool) -> String {
    let mut moves = String::new();
    if claimed {
        moves.push_str("SELECT code, 1 AS n FROM claimed");
    }
    if released {
        let union = if claimed { " UNION ALL " } else { "" };
        let _infallible = write!(moves, "{union}SELECT code, -1 AS n FROM released");
    }
    format!(
        "counted AS (UPDATE coupon_counters AS k SET used = k.used + m.n \
         FROM (SELECT code, sum(n) AS n FROM ({moves}) AS one GROUP BY code) AS m WHERE k.code = m.code)"
    )
}

/// `column = v.cN` for each of `columns`, the first of which is the one behind the first `skip` values.
fn assignments(columns: &[&str], skip: usize) -> String {
    let places = skip.saturating_add(1)..;
    let set: Vec<String> =
        columns.iter().zip(places).map(|(column, place)| format!("{column} = v.c{place}")).collect();
    set.join(", ")
}
