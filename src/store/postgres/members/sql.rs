//! The statements over the cluster's records. Each holds the conditions of `domain::membership` itself.
//!
//! Why one statement is enough, although under READ COMMITTED its sub-selects see the tables as they were when it began:
//!
//! - Everything but renewals and votes goes through the row of `cluster_view`: `raised` changes that row or nothing, and
//!   all other terms depend on it.
//! - `raised` names the version it expects. That version was seen when the statement began, or the row would not have been
//!   found. It is still there when the row is locked: after a wait for another transaction, Postgres checks the condition
//!   again on the newest row. Versions only grow, so nothing changed in between, and what the sub-selects saw of states and
//!   owners is the newest until this transaction ends.
//! - Renewals do not go through that row. What depends on a lease is a condition of the `UPDATE` of the node's own row,
//!   where Postgres checks it again on the newest row after a wait, with the time of that moment: `clock_timestamp()` is
//!   asked anew each time. When it does not hold any more the version is raised already, so the statement divides by zero,
//!   and nothing of it stays.
//! - A row of a node is never waited for while somebody else waits for us: whoever holds one wants nothing further, or has
//!   the row of `cluster_view`.
//!
//! A term that changes a node's row takes `raised` in its `FROM`, never in a sub-select: those cannot be run once more for
//! the check after a wait.

/// Times are shifted by whole microseconds.
macro_rules! microseconds {
    () => {
        "interval '1 microsecond'"
    };
}

macro_rules! live {
    () => {
        "('ACTIVE', 'LEAVING')"
    };
}

/// Raises the version `$1` if `$guard` allows it.
macro_rules! raised {
    ($($guard:expr),+) => {
        concat!(
            "WITH raised AS (UPDATE cluster_view SET version = version + 1 WHERE version = $1 AND ",
            $($guard,)+
            " RETURNING version) "
        )
    };
}

/// `$1` node, `$2` lease in microseconds, `$3` orders.
///
/// A node that is being declared dead waits for that to end, and then its row is no longer one of a live node.
pub(super) const RENEW: &str = concat!(
    "WITH renewed AS (UPDATE cluster_nodes SET lease_until = clock_timestamp() + $2 * ",
    microseconds!(),
    ", live_orders = $3 WHERE incarnation = $1 AND state IN ",
    live!(),
    " RETURNING incarnation) \
     SELECT EXISTS (SELECT FROM renewed), (SELECT version FROM cluster_view), clock_timestamp(), \
     ARRAY(SELECT incarnation FROM cluster_nodes WHERE incarnation <> $1 AND lease_until < clock_timestamp() \
       AND state IN ",
    live!(),
    " ORDER BY incarnation)"
);

/// `$1` version. Members as JSON, slots as three arrays.
pub(super) const VIEW: &str = concat!(
    "SELECT v.version, clock_timestamp(), \
     (SELECT coalesce(json_agg(n), '[]') FROM (SELECT incarnation, name, address, weight, version, build, read_for_us, \
        started_at, state, silent_at, lease_until, live_orders FROM cluster_nodes WHERE state IN ",
    live!(),
    " OR silent_at > clock_timestamp() - interval '10 minutes' OR incarnation IN (SELECT owner FROM slot_owner) \
       ORDER BY incarnation) AS n), \
     s.slots, s.epochs, s.owners FROM cluster_view AS v, \
     (SELECT coalesce(array_agg(slot), '{}') AS slots, coalesce(array_agg(epoch), '{}') AS epochs, \
       coalesce(array_agg(owner), '{}') AS owners FROM slot_owner WHERE epoch > $1) AS s"
);

/// `$1` name, `$2` address, `$3` weight, `$4` version, `$5` build, `$6` time for reads and `$7` lease in microseconds.
///
/// There is no version to expect: it takes the one it sees, and gives no version back when it was overtaken. A life that is
/// over because of its lease may renew it meanwhile; then it divides by zero. The address is that of a rival that lives.
///
/// Forgets nodes that went an hour ago and own nothing, and votes that count no longer.
pub(super) const JOIN: &str = concat!(
    "WITH seen AS MATERIALIZED (SELECT version FROM cluster_view), \
     earlier AS MATERIALIZED (SELECT incarnation, address, address <> $2 AND lease_until >= clock_timestamp() AS is_rival \
       FROM cluster_nodes WHERE (address = $2 OR name = $1) AND state IN ",
    live!(),
    "), raised AS (UPDATE cluster_view AS v SET version = v.version + 1 FROM seen \
       WHERE v.version = seen.version AND NOT EXISTS (SELECT FROM earlier WHERE is_rival) RETURNING v.version), \
     superseded AS (UPDATE cluster_nodes AS n SET state = 'DEAD', silent_at = clock_timestamp() + n.read_for_us * ",
    microseconds!(),
    " FROM raised \
       WHERE (n.address = $2 OR n.name = $1 AND n.lease_until < clock_timestamp()) AND n.state IN ",
    live!(),
    " RETURNING n.incarnation), \
     joined AS (INSERT INTO cluster_nodes \
       (name, address, weight, version, build, read_for_us, started_at, state, lease_until, live_orders) \
       SELECT $1, $2, $3, $4, $5, $6, clock_timestamp(), 'ACTIVE', clock_timestamp() + $7 * ",
    microseconds!(),
    ", 0 FROM raised RETURNING incarnation), \
     forgotten AS (DELETE FROM cluster_nodes AS n USING raised WHERE n.silent_at < clock_timestamp() - interval '1 hour' \
       AND n.state NOT IN ",
    live!(),
    " AND n.incarnation NOT IN (SELECT owner FROM slot_owner WHERE owner IS NOT NULL)), \
     uncounted AS (DELETE FROM cluster_votes AS v USING raised WHERE v.at < clock_timestamp() - interval '1 minute') \
     SELECT (SELECT incarnation FROM joined), (SELECT version FROM raised), \
       (SELECT address FROM earlier WHERE is_rival ORDER BY incarnation LIMIT 1), \
       1 / (CASE WHEN NOT EXISTS (SELECT FROM raised) \
         OR (SELECT count(*) FROM superseded) = (SELECT count(*) FROM earlier) THEN 1 ELSE 0 END)"
);

/// `$2` node.
pub(super) const LEAVE: &str = concat!(
    raised!("EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $2 AND state = 'ACTIVE')"),
    ", gone AS (UPDATE cluster_nodes AS n SET state = 'LEAVING' FROM raised WHERE n.incarnation = $2) \
     SELECT version FROM raised"
);

/// `$2` node.
pub(super) const END: &str = concat!(
    raised!("EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $2 AND state IN ", live!(), ")"),
    ", gone AS (UPDATE cluster_nodes AS n SET state = 'LEFT', silent_at = clock_timestamp() FROM raised \
       WHERE n.incarnation = $2) \
     SELECT version FROM raised"
);

/// `$2` node, `$3` who says so. Divides by zero when the node renews its lease at the last moment; that it has done so
/// before is seen without.
pub(super) const EXPIRE: &str = concat!(
    raised!(
        "$2 <> $3 AND EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $3 AND state IN ",
        live!(),
        ") AND EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $2 AND lease_until < clock_timestamp() AND state IN ",
        live!(),
        ")"
    ),
    ", gone AS (UPDATE cluster_nodes AS n SET state = 'DEAD', silent_at = clock_timestamp() FROM raised \
       WHERE n.incarnation = $2 AND n.lease_until < clock_timestamp() RETURNING n.incarnation) \
     SELECT version / (SELECT count(*) FROM gone) FROM raised"
);

/// `$2` node, `$3` who counts, `$4` watchers at most, `$5` how long a vote counts in microseconds.
pub(super) const VOTE_OUT: &str = concat!(
    raised!(
        "EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $2 AND state IN ",
        live!(),
        ") AND EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $3 AND state IN ",
        live!(),
        ") AND (SELECT count(v.voter) > count(*) / 2 FROM (SELECT incarnation FROM cluster_nodes \
            WHERE incarnation <> $2 AND state IN ",
        live!(),
        " ORDER BY incarnation < $2, incarnation LIMIT $4) AS w LEFT JOIN cluster_votes AS v \
            ON v.suspect = $2 AND v.voter = w.incarnation AND v.at + $5 * ",
        microseconds!(),
        " > clock_timestamp())"
    ),
    ", gone AS (UPDATE cluster_nodes AS n SET state = 'DEAD', silent_at = clock_timestamp() + n.read_for_us * ",
    microseconds!(),
    " FROM raised WHERE n.incarnation = $2) \
     SELECT version FROM raised"
);

/// `$2` the owner, `$3` the new one, `$4` slots, none of them twice, `$5` how many.
pub(super) const GRANT: &str = concat!(
    raised!(
        "$2 <> $3 AND EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $2 AND state IN ",
        live!(),
        ") AND EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $3 AND state = 'ACTIVE') \
         AND (SELECT count(*) FROM slot_owner WHERE slot = ANY($4) AND owner = $2) = $5"
    ),
    ", given AS (UPDATE slot_owner AS s SET epoch = raised.version, owner = $3 FROM raised WHERE s.slot = ANY($4)) \
     SELECT version FROM raised"
);

/// `$2` the new owner, `$3` slots, none of them twice, `$4` how many. A node that is forgotten answers nothing any more.
pub(super) const TAKE: &str = concat!(
    raised!(
        "EXISTS (SELECT FROM cluster_nodes WHERE incarnation = $2 AND (state = 'ACTIVE' OR state = 'LEAVING' \
           AND NOT EXISTS (SELECT FROM cluster_nodes WHERE state = 'ACTIVE'))) \
         AND (SELECT count(*) FROM slot_owner WHERE slot = ANY($3) AND (owner IS NULL OR owner NOT IN \
           (SELECT incarnation FROM cluster_nodes WHERE coalesce(silent_at, lease_until) > clock_timestamp() OR state IN ",
        live!(),
        "))) = $4"
    ),
    ", given AS (UPDATE slot_owner AS s SET epoch = raised.version, owner = $2 FROM raised WHERE s.slot = ANY($3)) \
     SELECT version FROM raised"
);

/// Nothing further.
pub(super) const TOUCH: &str = concat!(raised!("true"), "SELECT version FROM raised");

/// `$1` whom, `$2` who.
pub(super) const VOTE: &str = "INSERT INTO cluster_votes (suspect, voter, at) VALUES ($1, $2, clock_timestamp()) \
     ON CONFLICT (suspect, voter) DO UPDATE SET at = clock_timestamp()";

/// `$1` whom, `$2` who.
pub(super) const WITHDRAW: &str = "DELETE FROM cluster_votes WHERE suspect = $1 AND voter = $2";

/// For a node that has the database for itself: all members are gone, and no slot has an owner. Takes the version that it
/// sees, and gives none back when it was overtaken. `$1` 0: nor while a member's lease is good, since no lock has said that
/// there is none.
pub(super) const ALONE: &str = concat!(
    "WITH seen AS MATERIALIZED (SELECT version FROM cluster_view), \
     raised AS (UPDATE cluster_view AS v SET version = v.version + 1 FROM seen WHERE v.version = seen.version \
       AND ($1 <> 0 OR NOT EXISTS (SELECT FROM cluster_nodes WHERE lease_until > clock_timestamp() AND state IN ",
    live!(),
    ")) RETURNING v.version), \
     freed AS (UPDATE slot_owner AS s SET epoch = raised.version, owner = NULL FROM raised \
       WHERE EXISTS (SELECT FROM slot_owner WHERE owner IS NOT NULL)), \
     gone AS (UPDATE cluster_nodes AS n SET state = 'DEAD', silent_at = clock_timestamp() FROM raised WHERE n.state IN ",
    live!(),
    ") SELECT version FROM raised"
);
