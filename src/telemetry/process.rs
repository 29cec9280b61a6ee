//! What the operating system tells of this process, under the names that others use for it.

use std::fs;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What was read at one moment; none of what could not be read.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Process {
    /// Time on processors.
    pub(super) cpu: Option<Duration>,
    /// When it was started, since 1970.
    pub(super) started: Option<Duration>,
    /// Bytes.
    pub(super) resident: Option<u64>,
    /// Bytes.
    pub(super) virtual_size: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) most_files: Option<u64>,
}

impl Process {
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let files = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        Self {
            // One of them is the folder that is read.
            open_files: files.and_then(|count| u64::try_from(count.saturating_sub(1)).ok()),
            most_files: getrlimit(Resource::Nofile).current,
            ..Self::parse(&stat, &machine)
        }
    }

    /// Reads `/proc/self/stat`, and when the machine was started off `/proc/stat`.
    fn parse(stat: &str, machine: &str) -> Self {
        // The second field is the name, in parentheses, with whatever a name may hold.
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| {
                rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect()
            })
            .unwrap_or_default();
        // Fields are counted from 1 in the manual, and the fourth comes first here.
        let field = |number: usize| number.checked_sub(4).and_then(|place| fields.get(place)).copied();
        let ticks = |count: u64| {
            let per_second = clock_ticks_per_second().max(1);
            let whole = count.checked_div(per_second)?;
            let rest = count.checked_rem(per_second)?.checked_mul(1_000)?.checked_div(per_second)?;
            Some(Duration::from_secs(whole).saturating_add(Duration::from_millis(rest)))
        };
        let boot = machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let boot = boot.map(Duration::from_secs);
        let page = u64::try_from(page_size()).unwrap_or(4_096);
        Self {
            cpu: field(14).zip(field(15)).and_then(|(user, system)| ticks(user.saturating_add(system))),
            started: boot.zip(field(22).and_then(ticks)).map(|(boot, after)| boot.saturating_add(after)),
            threads: field(20),
            virtual_size: field(23),
            resident: field(24).map(|pages| pages.saturating_mul(page)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there() {
        let now = Process::now();
        assert!(now.resident > Some(1 << 20) && now.virtual_size >= now.resident, "{now:?}");
        assert!(now.threads >= Some(1) && now.open_files >= Some(3), "{now:?}");
        assert!(now.most_files >= now.open_files && now.cpu.is_some(), "{now:?}");
        // After 2020.
        assert!(now.started > Some(Duration::from_secs(1_577_836_800)), "{now:?}");
    }

    #[test]
    fn names_with_blanks_and_parentheses_are_no_trouble() {
        let stat =
            "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 200 8192 2 18446744073709551615 1";
        let told = Process::parse(stat, "cpu 1\nbtime 1000\nprocesses 3\n");
        let ticks = clock_ticks_per_second();
        assert_eq!(told.cpu, Some(Duration::from_millis(200 * 1_000 / ticks)));
        assert_eq!(
            told.started,
            Some(Duration::from_secs(1_000) + Duration::from_millis(200 * 1_000 / ticks))
        );
        assert_eq!((told.threads, told.virtual_size), (Some(3), Some(8_192)));
        assert_eq!(told.resident, Some(2 * u64::try_from(page_size()).unwrap()));
    }
}
