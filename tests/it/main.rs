//! Every test that uses the service from outside its own modules, in one binary: each further one is a link more.
#![allow(
    clippy::large_futures,
    clippy::large_enum_variant,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod access_masks;
mod access_matrix;
mod access_passed_on;
mod admission;
mod audit;
mod authentication;
mod cache_laws;
mod cache_nodes;
mod cache_store;
mod cancel_order;
mod card_canary;
mod change_status;
mod cli;
mod cluster_access;
mod cluster_calls;
mod cluster_changes;
mod cluster_chaos;
mod cluster_faults;
mod cluster_security;
mod cluster_sizes;
mod cluster_traffic;
mod cluster_watch;
mod committer;
mod crash_points;
mod create_order;
mod create_repeat;
mod database_role;
mod deploy;
mod edit_faults;
mod edit_in_place;
mod edit_order;
mod errors;
mod fraud_check;
mod harness;
mod harness_links;
mod harness_postgres;
mod harness_proxy;
mod hold_order;
mod hostile_clients;
mod letting_go;
mod lifecycle;
mod limits;
mod listener_tls;
mod load_tester;
mod log_lines;
mod members;
mod metrics;
mod model;
mod ops_health;
mod ops_pages;
mod ops_repairs;
mod ownership_model;
mod personal_data;
mod postgres_contention;
mod postgres_doubt;
mod postgres_load;
mod postgres_outage;
mod postgres_owner;
mod postgres_regression;
mod postgres_replicas;
mod quarantine;
mod races;
mod rate_limits;
mod read_orders;
mod refund_order;
mod repairs;
mod resume;
mod saga_calls;
mod saga_failures;
mod saga_tables;
mod shipments;
mod simulation;
mod store_suite;
mod supply_chain;
mod tidy;
mod timers;
mod traces;
mod traces_on_one_node;
mod verify;
mod watch_order;
