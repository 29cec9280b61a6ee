//! A disk that is soon full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::geteuid;

use super::place::{Account, Place};

/// A mounted file system; unmounted when the last one who uses it is gone.
#[derive(Debug)]
pub struct Mount {
    place: Place,
}

/// A file system of a few megabytes, in memory. Unmounted when it and the servers on it are dropped, or when this
/// process ends in whatever way.
#[derive(Debug)]
pub struct SmallDisk {
    mount: Arc<Mount>,
}

impl SmallDisk {
    /// Mounts an empty one, which takes root, or `sudo` without a password. Fails the test where that is not allowed.
    pub fn new(megabytes: u32) -> Self {
        let sudo: &[&str] = if geteuid().is_root() { &[] } else { &["sudo", "-n"] };
        let place = Place::with_mount(&[sudo, &["umount"]].concat());
        let disk = Self { mount: Arc::new(Mount { place }) };
        fs::create_dir(disk.path()).unwrap();
        let (user, group) = Account::get().ids();
        let options = format!("size={megabytes}m,mode=0755,uid={user},gid={group}");
        let words = [sudo, &["mount", "-t", "tmpfs", "-o", &options, "orders-small-disk"]].concat();
        let output = Command::new(words[0]).args(&words[1..]).arg(disk.path()).output();
        let said = match &output {
            Ok(output) if output.status.success() => return disk,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        panic!(
            "a full disk is tried on a small tmpfs, and this machine does not let us mount one ({said}): run the \
             tests as root, or with passwordless sudo; in a container, with --cap-add SYS_ADMIN"
        );
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.mount.path()
    }

    pub(super) fn mount(&self) -> Arc<Mount> {
        Arc::clone(&self.mount)
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        let file = File::options().create(true).append(true).open(self.ballast());
        let mut file = file.unwrap_or_else(|error| panic!("{}: {error}", self.ballast().display()));
        // Less and less at a time, down to the last page.
        for size in [1 << 20, 1 << 12] {
            let zeros = vec![0; size];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Gives the space back that [`Self::fill`] took.
    pub fn free(&self) {
        remove(&self.ballast());
    }
}

impl Mount {
    fn path(&self) -> PathBuf {
        self.place.path().join("mount")
    }
}

fn remove(file: &Path) {
    match fs::remove_file(file) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => panic!("{}: {error}", file.display()),
    }
}
