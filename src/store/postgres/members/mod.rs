//! The cluster's records in Postgres.
//!
//! Two connections: one for renewals alone, which must not wait behind anything, and one for all else. A renewal does not
//! wait for the server's disk: after a crash of the server nobody judges a lease before its own renewals have been unbroken
//! for a whole lease, and by then everybody has renewed anew.

mod line;
mod sql;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Deserialize;
use sqlx::encode::Encode;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::types::Json;
use sqlx::{Arguments, Postgres, Row, SqlSafeStr, Type};
use tokio::sync::watch;

use self::line::{Line, Repeat};
use super::config::{Pooler, PostgresConfig};
use super::fault::Fault;
use super::open::OpenError;
use super::statement::Statement;
use crate::domain::Timestamp;
use crate::domain::membership::{
    Change, Incarnation, Member, NewMember, NodeState, SlotOwner, VOTE_FOR, WATCHERS,
};
use crate::ports::members::{ChangeError, Joined, MemberError, MemberStore, Renewal, ViewUpdate};

/// How long a node that wants the database for itself waits for the leases of others to end, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// The cluster's records in Postgres.
pub struct PostgresMembers {
    renewals: Line,
    others: Line,
    read_timeout: Duration,
    commit_timeout: Duration,
}

impl fmt::Debug for PostgresMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresMembers").finish_non_exhaustive()
    }
}

impl PostgresMembers {
    /// Connects to a database that is migrated, and shares it with other members from then on. `reconnects` counts how often
    /// the server was found again. Its connections belong to the runtime that calls: it has to live as long as they do.
    ///
    /// # Errors
    /// When it is not reachable, or in use by a node that has it for itself.
    pub async fn open(config: &PostgresConfig, reconnects: watch::Sender<u64>) -> Result<Self, OpenError> {
        let renewals = Line::for_renewals(config, reconnects);
        renewals.open().await?;
        Ok(Self {
            renewals,
            others: Line::for_changes(config, "members"),
            read_timeout: config.read_timeout,
            commit_timeout: config.commit_timeout,
        })
    }
}

/// Ends every membership, on behalf of a node that has the database for itself, and frees all slots. Returns the version
/// that did so: the epoch of all that this node owns. It is above every epoch before, and below every one after.
pub(super) async fn exclusive_epoch(config: &PostgresConfig) -> Result<i64, OpenError> {
    let failed = |fault| OpenError::Server { target: config.target.to_string(), what: told(fault) };
    let line = Line::for_changes(config, "owner");
    // Behind a pooler no lock tells whether there are members.
    let has_lock = config.pooler == Pooler::None;
    let started = Instant::now();
    loop {
        let alone = statement(sql::ALONE, &[i64::from(has_lock)]).map_err(failed)?;
        let raised = line.ask(alone, config.commit_timeout, Repeat::Harmless).await;
        if let Some(version) = version(&raised.map_err(failed)?).map_err(failed)? {
            line.close().await;
            return Ok(version);
        }
        if started.elapsed() > PATIENCE {
            let holder = String::from("a cluster with a node whose lease is good");
            return Err(OpenError::InUse { target: config.target.to_string(), holder });
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[async_trait]
impl MemberStore for PostgresMembers {
    async fn join(&self, new: &NewMember) -> Result<Joined, MemberError> {
        let started = Instant::now();
        loop {
            let left = self.commit_timeout.saturating_sub(started.elapsed());
            let asked = self.others.ask(join(new).map_err(unavailable)?, left, Repeat::Never).await;
            let rows = match asked {
                Ok(rows) => rows,
                // Overtaken by a renewal, or by anything else.
                Err(Fault::Refusal(_) | Fault::Again(_)) => continue,
                Err(fault) => return Err(unavailable(fault)),
            };
            let read = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            match rows.first().map(read).transpose().map_err(unreadable)? {
                Some((Some(incarnation), Some(version), _)) => {
                    return Ok(Joined { incarnation: Incarnation(incarnation), version });
                }
                Some((_, _, Some(address))) => return Err(MemberError::NameTaken { address }),
                // Overtaken by a change. The time that is left ends this.
                _ => {}
            }
        }
    }

    async fn renew(
        &self,
        node: Incarnation,
        lease: Duration,
        live_orders: i64,
    ) -> Result<Renewal, MemberError> {
        let limit = lease.checked_div(3).unwrap_or(lease);
        let renew =
            statement(sql::RENEW, &[node.0, microseconds(lease), live_orders]).map_err(unavailable)?;
        let rows = self.renewals.ask(renew, limit, Repeat::Harmless).await.map_err(unavailable)?;
        let row = only(&rows)?;
        let read = || {
            let overdue: Vec<i64> = row.try_get(3)?;
            Ok(Renewal {
                is_member: row.try_get(0)?,
                version: row.try_get(1)?,
                now: row.try_get(2)?,
                overdue: overdue.into_iter().map(Incarnation).collect(),
            })
        };
        read().map_err(unreadable)
    }

    async fn view(&self, since: i64) -> Result<ViewUpdate, MemberError> {
        let view = statement(sql::VIEW, &[since]).map_err(unavailable)?;
        let rows = self.others.ask(view, self.read_timeout, Repeat::Harmless).await.map_err(unavailable)?;
        read_view(only(&rows)?).map_err(unreadable)
    }

    async fn change(&self, expected: i64, change: &Change) -> Result<i64, ChangeError> {
        // There are not that many slots.
        let Some(statement) = change_statement(expected, change).map_err(not_changed)? else {
            return Err(ChangeError::Refused);
        };
        let rows = self.others.ask(statement, self.commit_timeout, Repeat::Never).await;
        version(&rows.map_err(not_changed)?).map_err(not_changed)?.ok_or(ChangeError::Refused)
    }

    async fn vote(&self, suspect: Incarnation, voter: Incarnation) -> Result<(), MemberError> {
        let vote = statement(sql::VOTE, &[suspect.0, voter.0]).map_err(unavailable)?;
        self.others.ask(vote, self.read_timeout, Repeat::Harmless).await.map(drop).map_err(unavailable)
    }

    async fn withdraw(&self, suspect: Incarnation, voter: Incarnation) -> Result<(), MemberError> {
        let withdraw = statement(sql::WITHDRAW, &[suspect.0, voter.0]).map_err(unavailable)?;
        self.others.ask(withdraw, self.read_timeout, Repeat::Harmless).await.map(drop).map_err(unavailable)
    }

    async fn close(&self) {
        self.others.close().await;
        self.renewals.close().await;
    }
}

fn join(new: &NewMember) -> Result<Statement, Fault> {
    let mut statement = statement(sql::JOIN, &[])?;
    let arguments = &mut statement.arguments;
    add(arguments, new.name.as_str())?;
    add(arguments, new.address.as_str())?;
    add(arguments, i64::from(new.weight))?;
    add(arguments, new.version.as_str())?;
    add(arguments, new.build.as_str())?;
    add(arguments, microseconds(new.read_for))?;
    add(arguments, microseconds(new.lease))?;
    Ok(statement)
}

/// None when a slot cannot exist.
fn change_statement(expected: i64, change: &Change) -> Result<Option<Statement>, Fault> {
    let plain = |sql, nodes: &[Incarnation]| {
        let numbers: Vec<i64> = [expected].into_iter().chain(nodes.iter().map(|node| node.0)).collect();
        statement(sql, &numbers)
    };
    let with_slots = |sql, nodes: &[Incarnation], slots: &[u16]| {
        let slots: BTreeSet<u16> = slots.iter().copied().collect();
        let slots: Result<Vec<i16>, _> = slots.into_iter().map(i16::try_from).collect();
        let Ok(slots) = slots else { return Ok(None) };
        let mut statement = plain(sql, nodes)?;
        let count = i64::try_from(slots.len()).unwrap_or(i64::MAX);
        add(&mut statement.arguments, slots)?;
        add(&mut statement.arguments, count)?;
        Ok(Some(statement))
    };
    match change {
        Change::Leave { node } => plain(sql::LEAVE, &[*node]).map(Some),
        Change::End { node } => plain(sql::END, &[*node]).map(Some),
        Change::Expire { node, by } => plain(sql::EXPIRE, &[*node, *by]).map(Some),
        Change::VoteOut { node, by } => {
            let mut statement = plain(sql::VOTE_OUT, &[*node, *by])?;
            add(&mut statement.arguments, i64::try_from(WATCHERS).unwrap_or(i64::MAX))?;
            add(&mut statement.arguments, microseconds(VOTE_FOR))?;
            Ok(Some(statement))
        }
        Change::Grant { from, to, slots } => with_slots(sql::GRANT, &[*from, *to], slots),
        Change::Take { by, slots } => with_slots(sql::TAKE, &[*by], slots),
        Change::Touch => plain(sql::TOUCH, &[]).map(Some),
    }
}

fn statement(sql: &'static str, numbers: &[i64]) -> Result<Statement, Fault> {
    let mut arguments = PgArguments::default();
    for number in numbers {
        add(&mut arguments, *number)?;
    }
    Ok(Statement { sql: sql.into_sql_str(), arguments })
}

fn add<'v, T: Encode<'v, Postgres> + Type<Postgres>>(
    arguments: &mut PgArguments,
    value: T,
) -> Result<(), Fault> {
    arguments.add(value).map_err(|error: BoxDynError| Fault::of(&sqlx::Error::Encode(error)))
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The version that a change made; none when it was not made.
fn version(rows: &[PgRow]) -> Result<Option<i64>, Fault> {
    let read = |row: &PgRow| row.try_get(0);
    rows.first().map(read).transpose().map_err(|error| Fault::of(&error))
}

fn only(rows: &[PgRow]) -> Result<&PgRow, MemberError> {
    rows.first().ok_or_else(|| MemberError::Unavailable(String::from("an empty answer")))
}

/// A member as the statement gives it.
#[derive(Deserialize)]
struct MemberRow {
    incarnation: i64,
    name: String,
    address: String,
    weight: u32,
    version: String,
    build: String,
    read_for_us: u64,
    started_at: Timestamp,
    state: NodeState,
    silent_at: Option<Timestamp>,
    lease_until: Timestamp,
    live_orders: i64,
}

impl From<MemberRow> for Member {
    fn from(row: MemberRow) -> Self {
        Self {
            incarnation: Incarnation(row.incarnation),
            name: row.name,
            address: row.address,
            weight: row.weight,
            version: row.version,
            build: row.build,
            state: row.state,
            read_for: Duration::from_micros(row.read_for_us),
            started_at: row.started_at,
            lease_until: row.lease_until,
            silent_at: row.silent_at,
            live_orders: row.live_orders,
        }
    }
}

fn read_view(row: &PgRow) -> Result<ViewUpdate, sqlx::Error> {
    let Json(members): Json<Vec<MemberRow>> = row.try_get(2)?;
    let (slots, epochs): (Vec<i16>, Vec<i64>) = (row.try_get("slots")?, row.try_get("epochs")?);
    let owners: Vec<Option<i64>> = row.try_get("owners")?;
    let slot = |((slot, epoch), owner): ((i16, i64), Option<i64>)| {
        let slot = u16::try_from(slot).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((slot, SlotOwner { epoch, owner: owner.map(Incarnation) }))
    };
    let slots = slots.into_iter().zip(epochs).zip(owners).map(slot);
    let mut slots = slots.collect::<Result<Vec<_>, sqlx::Error>>()?;
    slots.sort_unstable_by_key(|(slot, _)| *slot);
    Ok(ViewUpdate {
        version: row.try_get(0)?,
        now: row.try_get(1)?,
        members: members.into_iter().map(Member::from).collect(),
        slots,
    })
}

fn told(fault: Fault) -> String {
    match fault {
        Fault::Again(what)
        | Fault::Held(what)
        | Fault::Refusal(what)
        | Fault::Suspect(what)
        | Fault::Server { what, .. }
        | Fault::Unknown(what) => what,
    }
}

fn unavailable(fault: Fault) -> MemberError {
    MemberError::Unavailable(told(fault))
}

fn unreadable(error: sqlx::Error) -> MemberError {
    MemberError::Unavailable(format!("an answer cannot be read: {error}"))
}

fn not_changed(fault: Fault) -> ChangeError {
    match fault {
        // A guard did not hold at the last moment.
        Fault::Refusal(_) => ChangeError::Refused,
        Fault::Unknown(what) => ChangeError::Unknown(what),
        other => ChangeError::NotMade(told(other)),
    }
}
