//! Standbys of private servers: streaming, cut off, promoted.

use std::fs::File;

use super::place::{Account, Place, run};
use super::postgres::{PgServer, USER};
use super::postgres_binaries::postgres_binary;
use super::wait::eventually;

/// Whether a commit waits for the standby.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replication {
    /// What was acknowledged is on both disks.
    Synchronous,
    /// The standby may lack the last that was acknowledged.
    Asynchronous,
}

impl PgServer {
    /// Starts a standby of this server and waits until it streams. Its name, of lower case letters, digits and `_`,
    /// is that of its replication slot too, so the log is kept for it however far behind it is.
    pub async fn standby(&self, name: &str, replication: Replication) -> Self {
        let place = Place::new();
        let port = self.port();
        let mut backup = Account::get().command(postgres_binary("pg_basebackup"));
        backup.arg("-D").arg(place.path().join("data"));
        backup.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER]);
        backup.args(["--no-sync", "--checkpoint=fast", "--create-slot", "--slot", name]);
        run(backup).await;
        let signal = place.path().join("data/standby.signal");
        File::create(&signal).unwrap();
        Account::get().own(&signal);

        let upstream = format!("host=127.0.0.1 port={port} user={USER} application_name={name}");
        // Its configuration is a copy; once promoted, it must not wait for itself.
        let settings = [
            ("primary_conninfo", upstream.as_str()),
            ("primary_slot_name", name),
            ("synchronous_standby_names", ""),
        ];
        let standby = Self::launch(place, None, Some(upstream.clone()), &settings).await;
        if replication == Replication::Synchronous {
            self.reload(&[("synchronous_standby_names", &format!("FIRST 1 ({name})"))]).await;
        }
        let state = match replication {
            Replication::Synchronous => "sync_state = 'sync'",
            Replication::Asynchronous => "sync_state = 'async'",
        };
        let streams = format!(
            "SELECT count(*) FROM pg_stat_replication
             WHERE application_name = '{name}' AND state = 'streaming' AND {state}"
        );
        let look = || async { (self.value(&streams).await == "1").then_some(()) };
        eventually("the standby to stream", look).await;
        standby
    }

    /// Makes a server of its own of this standby, and waits until it takes writes. What it has not received is lost.
    pub async fn promote(&self) {
        assert_eq!(self.value("SELECT pg_promote(true, 60)").await, "t");
        let look = || async { (self.value("SELECT pg_is_in_recovery()").await == "f").then_some(()) };
        eventually("the standby to be promoted", look).await;
    }

    /// Cuts this standby off: it still answers, and receives nothing more. A commit on a primary that waits for it
    /// waits from now on.
    pub async fn cut_replication(&self) {
        self.reload(&[("primary_conninfo", "")]).await;
        let receives = "SELECT count(*) FROM pg_stat_wal_receiver";
        let look = || async { (self.value(receives).await == "0").then_some(()) };
        eventually("replication to end", look).await;
    }

    /// Undoes [`Self::cut_replication`].
    pub async fn restore_replication(&self) {
        let upstream = self.upstream.as_deref().expect("this is no standby");
        self.reload(&[("primary_conninfo", upstream)]).await;
    }

    /// Bytes of the primary's log that this standby has not replayed.
    pub async fn lag(&self, primary: &Self) -> u64 {
        let end = primary.value("SELECT pg_current_wal_flush_lsn()").await;
        let lag = format!("SELECT greatest(0, pg_wal_lsn_diff('{end}', pg_last_wal_replay_lsn()))");
        self.value(&lag).await.parse().unwrap()
    }

    /// Waits until this standby has replayed all that the primary has written until now.
    pub async fn caught_up(&self, primary: &Self) {
        let end = primary.value("SELECT pg_current_wal_flush_lsn()").await;
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
        let look = || async { (self.value(&replayed).await == "t").then_some(()) };
        eventually("the standby to catch up", look).await;
    }
}
