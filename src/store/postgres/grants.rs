//! The role that nodes run as: it may do what a node does, and cannot change or delete what is only ever added to.

use futures::future::BoxFuture;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row, query, query_scalar};

use super::config::PostgresConfig;
use super::fault::told;
use super::open::{OpenError, check, connect};

/// What a node does with each table. What is only added to stands first.
const RIGHTS: [(&str, &str); 22] = [
    ("order_events", "SELECT, INSERT"),
    ("order_status_history", "SELECT, INSERT"),
    ("order_payment_transactions", "SELECT, INSERT"),
    ("order_requests", "SELECT, INSERT"),
    ("erasures", "SELECT, INSERT"),
    ("orders", "SELECT, INSERT, UPDATE"),
    ("order_items", "SELECT, INSERT, DELETE"),
    ("order_addresses", "SELECT, INSERT, DELETE"),
    ("shipments", "SELECT, INSERT, UPDATE"),
    ("sagas", "SELECT, INSERT, UPDATE"),
    ("order_timers", "SELECT, INSERT, UPDATE"),
    ("coupon_counters", "SELECT, INSERT, UPDATE"),
    ("coupon_claims", "SELECT, INSERT, DELETE"),
    ("order_quarantines", "SELECT, INSERT, DELETE"),
    ("commit_marks", "SELECT, INSERT, UPDATE"),
    ("cluster_view", "SELECT, UPDATE"),
    ("cluster_nodes", "SELECT, INSERT, UPDATE, DELETE"),
    ("cluster_votes", "SELECT, INSERT, UPDATE, DELETE"),
    ("slot_owner", "SELECT, UPDATE"),
    ("user_keys", "SELECT, INSERT, UPDATE"),
    ("kek_proofs", "SELECT, INSERT"),
    ("_sqlx_migrations", "SELECT"),
];

/// Why a role was not given its rights. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The database cannot be used as it is.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no such role.
    #[error(
        "the server at {target} has no role {role}; make it with CREATE ROLE {quoted} LOGIN PASSWORD '...' and start again"
    )]
    NoSuchRole {
        /// Which server and database.
        target: String,
        /// The role.
        role: String,
        /// Its name as SQL takes it.
        quoted: String,
    },
    /// What is granted to it takes nothing away.
    #[error(
        "the role {role} {why}, so it could change events whatever is granted; name a role that only nodes run as, and keep this one for migrations"
    )]
    TooMighty {
        /// The role.
        role: String,
        /// What it may do.
        why: String,
    },
    /// A table that this program has no row for.
    #[error("the table {table} has no rights here; this is a mistake in the program")]
    UnknownTable {
        /// The table.
        table: String,
    },
    /// Anything else the server says.
    #[error("the rights of {role} could not be set: {what}; run this as the owner of the tables")]
    Server {
        /// The role.
        role: String,
        /// What the server says.
        what: String,
    },
}

/// Takes all rights on the service's tables from `role` and gives it those that a node needs. All or nothing.
///
/// The tables have to be up to date. Run again after a migration that made tables.
///
/// # Errors
/// When there is no such role, when it is mightier than what is granted, or when the server refuses.
pub fn grant<'a>(config: &'a PostgresConfig, role: &'a str) -> BoxFuture<'a, Result<(), GrantError>> {
    Box::pin(async move {
        check(config).await?;
        let mut connection = connect(config, "grant").await?;
        give(config, &mut connection, role).await?;
        let what = |error: sqlx::Error| GrantError::Server { role: role.to_owned(), what: told(&error) };
        connection.close().await.map_err(what)?;
        Ok(())
    })
}

async fn give(config: &PostgresConfig, connection: &mut PgConnection, role: &str) -> Result<(), GrantError> {
    let failed = |error: sqlx::Error| GrantError::Server { role: role.to_owned(), what: told(&error) };
    let quoted: String = query_scalar("SELECT quote_ident($1)")
        .bind(role)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let looked = "SELECT rolsuper, EXISTS (SELECT FROM pg_class AS c WHERE c.oid = to_regclass('order_events') \
         AND pg_has_role(r.oid, c.relowner, 'MEMBER')) FROM pg_roles AS r WHERE rolname = $1";
    let Some(found) = query(looked).bind(role).fetch_optional(&mut *connection).await.map_err(failed)? else {
        return Err(GrantError::NoSuchRole {
            target: config.target.to_string(),
            role: role.to_owned(),
            quoted,
        });
    };
    let is = |column: usize| found.try_get::<bool, _>(column).map_err(failed);
    for (mighty, why) in
        [(is(0)?, "is a superuser"), (is(1)?, "owns the tables, or is a member of their owner")]
    {
        if mighty {
            return Err(GrantError::TooMighty { role: role.to_owned(), why: why.to_owned() });
        }
    }
    let tables = "SELECT c.relname::text, quote_ident(n.nspname) FROM pg_class AS c \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relnamespace = \
         (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('order_events')) ORDER BY 1";
    let tables = query(tables).fetch_all(&mut *connection).await.map_err(failed)?;
    let mut statements = String::from("BEGIN;");
    for row in &tables {
        let (table, schema): (String, String) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let Some((name, rights)) = RIGHTS.iter().find(|(name, _)| *name == table) else {
            return Err(GrantError::UnknownTable { table });
        };
        if *name == "order_events" {
            statements.push_str(&format!("GRANT USAGE ON SCHEMA {schema} TO {quoted};"));
        }
        statements.push_str(&format!(
            "REVOKE ALL ON {schema}.{name} FROM {quoted}; GRANT {rights} ON {schema}.{name} TO {quoted};"
        ));
    }
    // Made of names that the server has quoted and of constants of this file.
    connection.execute(AssertSqlSafe(statements)).await.map_err(failed)?;
    if let Some(why) = mighty(connection, Some(role)).await.map_err(failed)? {
        // The transaction ends with the connection, and nothing was granted.
        return Err(GrantError::TooMighty { role: role.to_owned(), why });
    }
    connection.execute("COMMIT").await.map(drop).map_err(failed)
}

/// By what a role, or none = the one that is connected, may change or delete the history; none = it may not. Rights come from
/// the role itself, from any that it is a member of, and from all: it may take on the first two whenever it likes.
async fn mighty(connection: &mut PgConnection, role: Option<&str>) -> Result<Option<String>, sqlx::Error> {
    const LOOK: &str = "SELECT g.rolname::text, g.rolname = me.rolname, g.rolsuper FROM pg_roles AS me \
         JOIN pg_roles AS g ON pg_has_role(me.oid, g.oid, 'MEMBER') \
         WHERE me.rolname = coalesce($1, current_user) AND EXISTS ( \
           SELECT FROM unnest(ARRAY['order_events', 'order_status_history']) AS t(name) \
           WHERE has_any_column_privilege(g.oid, t.name, 'UPDATE') OR has_table_privilege(g.oid, t.name, 'DELETE, TRUNCATE')) \
         ORDER BY g.rolname <> me.rolname, 1 LIMIT 1";
    let found = query(LOOK).bind(role).persistent(false).fetch_optional(connection).await?;
    let Some(found) = found else { return Ok(None) };
    let (name, is_itself, is_super): (String, bool, bool) =
        (found.try_get(0)?, found.try_get(1)?, found.try_get(2)?);
    let by = if is_itself { String::new() } else { format!("is a member of {name}, which ") };
    Ok(Some(if is_super {
        format!("{by}is a superuser")
    } else {
        format!("{by}may change or delete what happened")
    }))
}

/// Looks whether the role that a node runs as may change the history, and says so in the log.
pub(super) async fn look(config: &PostgresConfig) -> Result<(), OpenError> {
    let mut connection = connect(config, "look").await?;
    let failed = |error: sqlx::Error| super::open::server(&config.target, &error);
    let found = mighty(&mut connection, None).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    if let Some(why) = found {
        let role = &config.target.user;
        tracing::warn!(
            role,
            why,
            "the role that this node runs as could change the history; run nodes as one that migrate --grant-to was told"
        );
    }
    Ok(())
}
