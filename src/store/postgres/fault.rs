//! What an error says about the statement that met it.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// What became of a statement that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Rolled back because of other transactions: the same again may go well.
    Again(String),
    /// Rolled back; another transaction holds a row for longer than is waited for.
    Held(String),
    /// Rolled back; a row was not as expected.
    Refusal(String),
    /// Rolled back; one of the jobs may be to blame.
    Suspect(String),
    /// Rolled back; the server is to blame. `gone` says that this connection is of no more use.
    Server { what: String, gone: bool },
    /// Sent, and perhaps done.
    Unknown(String),
}

impl Fault {
    /// Sorts the error of a statement that was, or may have been, sent.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let what = error.to_string();
        match error {
            sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
                Some(error) => Self::of_server(error),
                None => Self::Unknown(what),
            },
            // Not sent: values that do not fit into a message.
            sqlx::Error::Encode(_) => Self::Suspect(what),
            _ => Self::Unknown(what),
        }
    }

    /// An answer of severity ERROR says that the transaction is rolled back. FATAL ends the session, and may come when
    /// the commit is done but not yet answered.
    fn of_server(error: &PgDatabaseError) -> Self {
        let (code, what) = (error.code(), format!("{} ({})", error.message(), error.code()));
        if error.severity() != PgSeverity::Error {
            return Self::Unknown(what);
        }
        match code {
            // serialization_failure, deadlock_detected
            "40001" | "40P01" => Self::Again(what),
            // lock_not_available
            "55P03" => Self::Held(what),
            code if super::statement::is_refusal(code) => Self::Refusal(what),
            // read_only_sql_transaction: this server is, or became, a standby.
            "25006" => Self::Server { what, gone: true },
            // Connections, resources (full disk), operator's intervention, the system's own errors.
            code if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
                Self::Server { what, gone: code.starts_with("08") || code.starts_with("57P") }
            }
            _ => Self::Suspect(what),
        }
    }
}

/// Whether this connection is of no more use because its server, or the way there, has gone.
pub(super) fn is_gone(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => database
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)),
        _ => false,
    }
}

/// Whether what is stored is to blame for the failure of a read: values out of range, damaged pages.
pub(super) fn is_of_the_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    // data_exception, internal_error with data_corrupted and index_corrupted
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("XX"))
}

/// The words of an error without what a statement's values may have put into them.
pub(super) fn told(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            format!("{} ({})", database.message(), database.code().unwrap_or_default())
        }
        other => other.to_string(),
    }
}
