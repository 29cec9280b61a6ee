//! Folders of the servers that tests start: owned by an account such a server may run as, and gone in the end, even
//! when the test process is killed.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::geteuid;
use tokio::sync::oneshot;

/// Waits until the pipe to the test process closes, however that comes; then ends what runs in the folder, unmounts
/// what is mounted there and removes it. It never gives up at once: a server needs a moment to end, and removes its file
/// at the end. (Whether its process is there tells nothing: where nobody waits for orphans, it stays as a zombie.)
const CLEANER: &str = r#"
trap '' HUP INT TERM
read -r _
folder=$1
shift
for file in "$folder/data/postmaster.pid" "$folder/pgbouncer.pid" "$folder/redis.pid"; do
    pid=
    if [ -e "$file" ]; then read -r pid <"$file"; fi
    if [ -n "$pid" ] && kill -QUIT "$pid"; then
        tries=0
        while [ -e "$file" ] && [ "$tries" -lt 200 ]; do
            tries=$((tries + 1))
            sleep 0.05
        done
        if [ -e "$file" ]; then kill -KILL "$pid"; fi
    fi
done
tries=0
while grep -q " $folder/mount " /proc/mounts && [ "$tries" -lt 200 ] && ! "$@" "$folder/mount"; do
    tries=$((tries + 1))
    sleep 0.05
done
tries=0
until rm -rf "$folder" || [ "$tries" -ge 200 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
"#;

/// The account that servers run as: our own, or another one when we are root, which Postgres and PgBouncer refuse.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// User and group to change to; none to stay who we are.
    other: Option<(u32, u32)>,
}

impl Account {
    /// Found once.
    pub fn get() -> Self {
        static ACCOUNT: OnceLock<Account> = OnceLock::new();
        *ACCOUNT.get_or_init(|| {
            if !geteuid().is_root() {
                return Self { other: None };
            }
            let number = |option: &str, name: &str| {
                let output = Command::new("id").args([option, name]).output().ok()?;
                String::from_utf8(output.stdout).ok()?.trim().parse().ok()
            };
            let other = ["postgres", "nobody"]
                .into_iter()
                .find_map(|name| Some((number("-u", name)?, number("-g", name)?)));
            assert!(other.is_some(), "Postgres does not run as root: add a user, such as: useradd postgres");
            Self { other }
        })
    }

    /// A command that runs as this account, away from our terminal and its Ctrl-C, in a folder it may be in, in
    /// English, and without our settings for Postgres clients.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some((user, group)) = self.other {
            command.uid(user).gid(group);
        }
        command
    }

    /// Gives it a file or folder.
    pub fn own(self, path: &Path) {
        if let Some((user, group)) = self.other {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// Its user and group.
    pub fn ids(self) -> (u32, u32) {
        self.other.unwrap_or_else(|| (geteuid().as_raw(), rustix::process::getegid().as_raw()))
    }

    /// Whether it can get into a folder; ours may be closed to others.
    fn reaches(self, folder: &Path) -> bool {
        self.command("test").arg("-x").arg(folder).status().is_ok_and(|status| status.success())
    }
}

/// What folders are made in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Medium {
    /// Memory, if there is enough: copies a cluster, makes a database or syncs a file ten times as fast. A process that
    /// is killed loses there what it would lose on a disk, which is what tests are about. `ORDER_TEST_FOLDER` names
    /// another one.
    Fast,
    /// A disk, where a sync costs what it costs: for measurements.
    Disk,
}

/// Free memory that is needed to use it for folders.
const ROOM_KIB: u64 = 2 << 20;

fn parent(medium: Medium) -> &'static Path {
    static FAST: OnceLock<PathBuf> = OnceLock::new();
    static DISK: OnceLock<PathBuf> = OnceLock::new();
    let account = Account::get();
    let disk = || {
        let mut folders = [env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")].into_iter();
        folders
            .find(|folder| account.reaches(folder))
            .expect("a folder for temporary files that others may enter")
    };
    match medium {
        Medium::Disk => DISK.get_or_init(disk),
        Medium::Fast => FAST.get_or_init(|| {
            if let Some(named) = env::var_os("ORDER_TEST_FOLDER") {
                return PathBuf::from(named);
            }
            let memory = Path::new("/dev/shm");
            let has_room = free_kib(memory).is_some_and(|free| free >= ROOM_KIB);
            if has_room && account.reaches(memory) { memory.to_owned() } else { disk() }
        }),
    }
}

/// Free space at a path in KiB; none when it cannot be told.
fn free_kib(path: &Path) -> Option<u64> {
    let output = Command::new("df").arg("-Pk").arg(path).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

/// A folder of an [`Account`]. When it is dropped, or this process ends in whatever way, what runs in it is ended
/// and it is removed.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    cleaner: Child,
}

impl Place {
    /// An empty folder, in memory if there is enough.
    pub fn new() -> Self {
        Self::with(Medium::Fast, Account::get().command("sh"), &[])
    }

    /// An empty folder on a disk.
    pub fn on_disk() -> Self {
        Self::with(Medium::Disk, Account::get().command("sh"), &[])
    }

    /// An empty folder in which `mount` is going to be a mount point; these words and its path unmount it.
    pub fn with_mount(unmount: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.current_dir("/").process_group(0);
        Self::with(Medium::Fast, shell, unmount)
    }

    fn with(medium: Medium, mut shell: Command, unmount: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("orders-").tempdir_in(parent(medium)).unwrap();
        Account::get().own(folder.path());
        shell.args(["-c", CLEANER, "sh"]).arg(folder.path()).args(unmount);
        // Not our output: whoever reads that to its end must not wait for the cleaner.
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let cleaner = shell.spawn().unwrap();
        Self { path: folder.keep(), cleaner }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        // Nothing can be done about one that is gone.
        let _ended = self.cleaner.wait();
    }
}

/// A port of 127.0.0.1 on which nobody listened a moment ago, different each time.
///
/// Not one that the system gives away: those are given to every outgoing connection, so a server that is stopped for a
/// while would lose its port to one of them. Whoever starts a server on it still has to be ready to lose the race.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const PORTS: u32 = 20_000;
    // Processes that run at the same time start far from each other.
    let start = id().wrapping_mul(7919);
    loop {
        let number = start.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + number % PORTS) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs a command to its end, on a thread of its own, so that what else happens on this one goes on; its output.
/// Fails the test when the command fails.
pub async fn run(mut command: Command) -> String {
    let (sender, done) = oneshot::channel();
    let name = format!("{command:?}");
    // Ends with the command; nobody reads the answer of a test that was given up.
    thread::spawn(move || sender.send(command.output()));
    let output = done.await.unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{name}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}
