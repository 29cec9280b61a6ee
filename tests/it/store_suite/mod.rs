//! What every store promises, written once and run on each: a new store adds a factory and one line.

mod cached;
mod listing;
mod pgbouncer;
pub(crate) mod postgres;
mod postgres_only;
mod postgres_plans;
mod postgres_start;
mod protected;
mod reading;
mod scanning;
mod sqlite;
mod writing;

use std::sync::Arc;

use async_trait::async_trait;
use order_service::domain::ids::OrderId;
use order_service::ports::store::{CommitError, OrderStore};

/// Makes stores for one test.
#[async_trait(?Send)]
pub(crate) trait StoreFactory: Send + Sync + Sized {
    /// A place for data with nothing in it; gone when dropped.
    async fn fresh() -> Self;
    /// Opens the store over what the last one left. The last one has to be closed.
    async fn open(&self) -> Arc<dyn OrderStore>;
    /// Writes a status that does not exist into the row of an order, behind the store's back.
    async fn spoil(&self, order: OrderId);
}

/// Whether it is certain that nothing was stored and the reason may pass.
fn not_committed(result: &Result<(), CommitError>) -> bool {
    matches!(result, Err(CommitError::NotCommitted(_)))
}

/// Runs every case on one store. The runtime has one thread, so commits that are sent in one `join_all` are all queued
/// before the writer looks: they are one batch, every time.
macro_rules! store_suite {
    ($name:ident, $factory:ty) => {
        store_suite!(@cases $name, $factory;
            writing {
                a_creation_is_read_back_as_it_was
                a_change_is_read_back_as_it_was
                a_stale_version_is_refused
                another_owner_is_refused
                a_claim_shuts_the_old_owner_out
                a_claim_never_goes_back_to_a_lower_epoch
                claiming_nothing_finds_nothing
                creating_twice_is_refused
                a_taken_number_is_told_from_a_conflict
                a_coupon_is_used_as_often_as_it_may
                a_coupon_given_back_can_be_used_again
                neighbors_of_a_failure_are_stored
                changes_of_one_order_keep_their_order
                a_change_that_does_not_follow_its_version_is_refused
                nobody_needs_to_wait_for_a_change
                many_at_once_are_all_durable
                nothing_is_taken_after_closing
            }
            reading {
                events_come_in_pages
                requests_and_failures_come_back
                a_saga_comes_back_while_it_is_unsettled
                a_dropped_token_is_gone
                unfinished_sagas_come_by_due_time
                what_is_stuck_comes_by_id_in_pages
                timers_come_by_due_time_until_they_end
                orders_of_a_user_are_counted_up_to_a_limit
                open_orders_of_a_user_are_found
                a_spoiled_order_spoils_nothing_else
                what_was_stored_outlives_the_process
            }
            scanning {
                a_scan_finds_every_order_with_all_that_is_stored
                a_scan_names_what_cannot_be_read
                a_scan_never_tears_an_order
            }
            listing {
                pages_have_no_gap_and_no_double
                filters_can_be_combined
                statuses_are_merged_in_order
                a_spoiled_order_does_not_shorten_a_page
            }
        );
    };
    (@cases $name:ident, $factory:ty; $($module:ident { $($case:ident)+ })+) => {
        mod $name {
            $($(
                #[tokio::test]
                async fn $case() {
                    crate::store_suite::$module::$case::<$factory>().await;
                }
            )+)+
        }
    };
}

store_suite!(on_sqlite, crate::store_suite::sqlite::SqliteFiles);
store_suite!(on_protected_sqlite, crate::store_suite::protected::ProtectedFiles);
store_suite!(on_protected_postgres, crate::store_suite::protected::ProtectedDatabase);
store_suite!(on_cached_sqlite, crate::store_suite::cached::CachedFiles);
store_suite!(on_cached_postgres, crate::store_suite::cached::CachedDatabase);
store_suite!(on_postgres, crate::store_suite::postgres::Database);
store_suite!(on_pgbouncer, crate::store_suite::pgbouncer::Pooled);
