//! What the cluster's records promise, written once and run on the rules themselves, on Postgres, and through a pooler.

mod differences;
mod exclusion;
mod postgres;
mod races;
mod rules;
mod votes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use order_service::domain::membership::{Change, Incarnation, NewMember, NodeState, View};
use order_service::ports::members::{ChangeError, MemberError, MemberStore, Renewal};
use order_service::store::postgres::{Pooler, PostgresConfig, PostgresMembers, migrate};
use sqlx::AssertSqlSafe;
use tokio::sync::watch;

use crate::harness::members::{MemoryMembers, whole};
use crate::harness::pg_store::config_of;
use crate::harness::pgbouncer::PgBouncer;
use crate::harness::postgres::{query, shared, shared_database};

/// Slots that there are.
pub(crate) const SLOTS: usize = 4_096;

/// Leases and times for reads are such that no test comes near their end by being slow.
pub(crate) const LEASE: Duration = Duration::from_secs(1_000);
pub(crate) const READ_FOR: Duration = Duration::from_secs(100);

/// A cluster's records, and their time.
#[async_trait(?Send)]
pub(crate) trait Stage: Send + Sync + Sized {
    /// Records with nobody in them.
    async fn fresh() -> Self;
    /// The way of one node to them.
    async fn open(&self) -> Arc<dyn MemberStore>;
    /// Lets so much time pass.
    async fn pass(&self, time: Duration);
}

/// The rules themselves.
pub(crate) struct Memory {
    members: MemoryMembers,
    passed: Arc<AtomicU64>,
}

#[async_trait(?Send)]
impl Stage for Memory {
    async fn fresh() -> Self {
        let passed = Arc::new(AtomicU64::new(0));
        let offset = Arc::clone(&passed);
        #[expect(clippy::disallowed_methods, reason = "the time that databases have too")]
        let clock = move || chrono::Utc::now() + Duration::from_secs(offset.load(Ordering::SeqCst));
        Self { members: MemoryMembers::new(SLOTS, Arc::new(clock)), passed }
    }

    async fn open(&self) -> Arc<dyn MemberStore> {
        Arc::new(self.members.clone())
    }

    async fn pass(&self, time: Duration) {
        self.passed.fetch_add(time.as_secs(), Ordering::SeqCst);
    }
}

/// A database of the server that all tests share.
pub(crate) struct Database {
    pub(crate) url: String,
}

#[async_trait(?Send)]
impl Stage for Database {
    async fn fresh() -> Self {
        let url = shared_database().await;
        migrate(&config_of(&url)).await.unwrap();
        Self { url }
    }

    async fn open(&self) -> Arc<dyn MemberStore> {
        Arc::new(open(&member_config(&self.url)).await)
    }

    async fn pass(&self, time: Duration) {
        // What is stored grows older instead.
        let by = format!("interval '{} seconds'", time.as_secs());
        let older = format!(
            "UPDATE cluster_nodes SET started_at = started_at - {by}, silent_at = silent_at - {by}, \
             lease_until = lease_until - {by}; UPDATE cluster_votes SET at = at - {by}"
        );
        query(&self.url, &older).await.unwrap();
    }
}

/// The same, where transactions are isolated from each other as strictly as can be.
pub(crate) struct Strict(Database);

#[async_trait(?Send)]
impl Stage for Strict {
    async fn fresh() -> Self {
        let database = Database::fresh().await;
        let name = database.url.rsplit_once('/').unwrap().1;
        let strict = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
        query(&database.url, &strict).await.unwrap();
        Self(database)
    }

    async fn open(&self) -> Arc<dyn MemberStore> {
        self.0.open().await
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }
}

/// The same behind a pooler that gives each transaction another session.
pub(crate) struct Pooled {
    database: Database,
    bouncer: PgBouncer,
}

#[async_trait(?Send)]
impl Stage for Pooled {
    async fn fresh() -> Self {
        let database = Database::fresh().await;
        Self { database, bouncer: PgBouncer::start(shared().await, "transaction").await }
    }

    async fn open(&self) -> Arc<dyn MemberStore> {
        let config = member_config(&self.bouncer.url_of(&self.database.url));
        Arc::new(open(&PostgresConfig { pooler: Pooler::Transaction, ..config }).await)
    }

    async fn pass(&self, time: Duration) {
        self.database.pass(time).await;
    }
}

/// The configuration of a node that shares the database.
pub(crate) fn member_config(url: &str) -> PostgresConfig {
    PostgresConfig { exclusive: false, ..config_of(url) }
}

pub(crate) async fn open(config: &PostgresConfig) -> PostgresMembers {
    PostgresMembers::open(config, watch::Sender::new(0)).await.unwrap()
}

/// A node that is about to join.
pub(crate) fn new(name: &str) -> NewMember {
    NewMember {
        name: name.to_owned(),
        address: format!("{name}.example:7000"),
        weight: 3,
        version: String::from("1.2.3"),
        build: String::from("abc"),
        lease: LEASE,
        read_for: READ_FOR,
    }
}

/// One way to the records, with what a test does all the time.
pub(crate) struct Way(pub(crate) Arc<dyn MemberStore>);

impl Way {
    pub(crate) async fn of(stage: &impl Stage) -> Self {
        Self(stage.open().await)
    }

    pub(crate) async fn join(&self, name: &str) -> Incarnation {
        self.0.join(&new(name)).await.unwrap().incarnation
    }

    pub(crate) async fn whole(&self) -> View {
        whole(&*self.0, SLOTS).await
    }

    pub(crate) async fn version(&self) -> i64 {
        self.0.view(i64::MAX).await.unwrap().version
    }

    /// Makes a change on the newest view.
    pub(crate) async fn change(&self, change: Change) -> Result<i64, ChangeError> {
        let before = self.version().await;
        let made = self.0.change(before, &change).await;
        let after = self.version().await;
        match &made {
            Ok(version) => assert_eq!((*version, after), (before + 1, before + 1), "{change:?}"),
            Err(_) => assert_eq!(after, before, "{change:?}"),
        }
        made
    }

    pub(crate) async fn made(&self, change: Change) -> i64 {
        self.change(change.clone()).await.unwrap_or_else(|error| panic!("{change:?}: {error}"))
    }

    pub(crate) async fn refused(&self, change: Change) {
        assert_eq!(self.change(change.clone()).await, Err(ChangeError::Refused), "{change:?}");
    }

    pub(crate) async fn renew(&self, node: Incarnation) -> Renewal {
        self.0.renew(node, LEASE, 7).await.unwrap()
    }

    pub(crate) async fn state(&self, node: Incarnation) -> NodeState {
        self.whole().await.members[&node].state
    }

    /// Whom a join was refused for.
    pub(crate) async fn rival(&self, new: &NewMember) -> String {
        match self.0.join(new).await {
            Err(MemberError::NameTaken { address }) => address,
            other => panic!("{other:?}"),
        }
    }
}

/// Runs SQL, several statements divided by `;`.
pub(crate) async fn run(connection: &mut sqlx::PgConnection, sql: &str) {
    use sqlx::Executor;
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
}

macro_rules! member_suite {
    ($name:ident, $stage:ty) => {
        member_suite!(@cases $name, $stage;
            rules {
                a_node_joins_and_is_told_of
                a_change_of_another_view_is_refused
                a_node_leaves_and_ends
                a_lease_that_is_over_can_be_expired
                slots_are_taken_by_active_nodes_alone
                slots_are_granted_by_their_owner_to_active_nodes
                slots_of_the_dead_are_free_once_they_are_silent
                a_new_life_at_an_address_ends_the_one_before
                a_name_is_taken_while_its_lease_lasts
                what_is_new_adds_up_to_the_whole
                who_is_gone_is_forgotten_but_for_owners
                incarnations_are_never_used_again
            }
            votes {
                most_watchers_vote_a_node_out
                votes_age_and_are_taken_back
                votes_of_others_do_not_count
            }
            races {
                changes_of_many_have_one_order
                a_renewal_and_an_expiry_do_not_both_succeed
                a_name_has_one_bearer
            }
        );
    };
    (@cases $name:ident, $stage:ty; $($module:ident { $($case:ident)+ })+) => {
        mod $name {
            $($(
                #[tokio::test]
                async fn $case() {
                    crate::members::$module::$case::<$stage>().await;
                }
            )+)+
        }
    };
}

member_suite!(in_memory, crate::members::Memory);
member_suite!(on_postgres, crate::members::Database);
member_suite!(on_pgbouncer, crate::members::Pooled);
