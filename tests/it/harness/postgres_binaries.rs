//! Where the programs of Postgres and PgBouncer are on this machine.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

const POSTGRES_MISSING: &str =
    "Postgres is missing (or name its folder in ORDER_TEST_PG_BIN): apt-get install -y postgresql";
const PGBOUNCER_MISSING: &str = "PgBouncer is missing: apt-get install -y pgbouncer";

/// A program of Postgres, such as `initdb`: from the folder in `ORDER_TEST_PG_BIN`, else of the installation that
/// `pg_config` names, else of the newest one of Debian, else from the `PATH`. Fails the test when there is none.
pub fn postgres_binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        if let Some(folder) = env::var_os("ORDER_TEST_PG_BIN") {
            return Some(PathBuf::from(folder));
        }
        // Without a server, pg_config may be there and initdb not.
        let complete =
            |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
        of_pg_config().filter(complete).or_else(|| newest_of_debian().filter(complete)).or_else(|| {
            let path = env::var_os("PATH")?;
            env::split_paths(&path).find(complete)
        })
    });
    let binary = folder.as_ref().map(|folder| folder.join(name)).filter(|file| file.is_file());
    binary.unwrap_or_else(|| panic!("{name} of {POSTGRES_MISSING}"))
}

fn of_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let numbered = versions.filter_map(|entry| {
        let path = entry.ok()?.path();
        let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
        Some((number, path.join("bin")))
    });
    numbered.max().map(|(_, folder)| folder)
}

/// The program `pgbouncer`. Fails the test when there is none.
pub fn pgbouncer_binary() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut files = env::split_paths(&path).map(|folder| folder.join("pgbouncer"));
    // Often not in the PATH of people who are not root.
    let usual = PathBuf::from("/usr/sbin/pgbouncer");
    files.find(|file| file.is_file()).or(Some(usual).filter(|file| file.is_file())).expect(PGBOUNCER_MISSING)
}
