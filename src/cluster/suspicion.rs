//! When a node believes that another one is gone: pure, from what its probes found.

use std::time::Duration;

use super::lease::BootTime;
use super::peers::Found;

/// So many probes in a row have to find nobody at an address.
const REFUSALS: u32 = 2;

/// The pause between two votes against the same node.
const VOTE_AGAIN: Duration = Duration::from_millis(500);
/// The pause between two log lines about the same node.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What is known of one peer from probing it.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Suspicion {
    /// Since when nothing is heard; none = the last probe found it.
    silent_since: Option<BootTime>,
    /// Probes in a row that found somebody else, or nobody, there.
    refusals: u32,
    /// A vote of ours may be in the records.
    pub(super) has_voted: bool,
    /// When the last vote was cast.
    pub(super) voted: Option<BootTime>,
    /// When it was last told that it is not reached.
    pub(super) told: Option<BootTime>,
}

impl Suspicion {
    /// Notes what a probe found that began at `started`.
    pub(super) fn note(&mut self, found: &Found, started: BootTime) {
        match found {
            Found::Alive(_) => (self.silent_since, self.refusals) = (None, 0),
            Found::Other | Found::Nobody => {
                self.refusals = self.refusals.saturating_add(1);
                self.silent_since.get_or_insert(started);
            }
            Found::Silence(_) => {
                self.refusals = 0;
                self.silent_since.get_or_insert(started);
            }
        }
    }

    /// Whether the last vote was long enough ago for another one.
    pub(super) fn may_vote_again(&self, now: BootTime) -> bool {
        self.voted.is_none_or(|at| now.since(at) >= VOTE_AGAIN)
    }

    /// Whether it may be told once more that the node is not reached.
    pub(super) fn may_tell(&self, now: BootTime) -> bool {
        self.told.is_none_or(|at| now.since(at) >= TELL_AGAIN)
    }

    /// Whether the last probe found it.
    pub(super) fn is_reached(&self) -> bool {
        self.silent_since.is_none()
    }

    /// Whether one probe more would make it certain, so that it should be made at once.
    pub(super) fn wants_another_look(&self) -> bool {
        (1..REFUSALS).contains(&self.refusals)
    }

    /// Whether it is believed to be gone: refused twice in a row, or silent for so long.
    pub(super) fn is_suspect(&self, now: BootTime, suspect_after: Duration) -> bool {
        self.refusals >= REFUSALS || self.silent_since.is_some_and(|since| now.since(since) >= suspect_after)
    }
}

/// Whether a node that reaches so many of its peers, the suspect not counted, may vote: it may be cut off itself.
pub(super) fn may_vote(reached: usize, peers: usize) -> bool {
    reached.saturating_mul(2) >= peers
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(4);

    #[test]
    fn two_refusals_in_a_row_are_enough() {
        let now = BootTime::now();
        let mut peer = Suspicion::default();
        peer.note(&Found::Nobody, now);
        assert!(peer.wants_another_look() && !peer.is_suspect(now, AFTER));
        peer.note(&Found::Other, now);
        assert!(!peer.wants_another_look() && peer.is_suspect(now, AFTER));
        peer.note(&Found::Alive(1), now);
        assert!(peer.is_reached() && !peer.is_suspect(now, AFTER));
    }

    #[test]
    fn silence_takes_time() {
        let start = BootTime::now();
        let mut peer = Suspicion::default();
        let silence = || Found::Silence(String::from("no answer in time"));
        peer.note(&silence(), start);
        peer.note(&silence(), start);
        assert!(!peer.is_reached() && !peer.is_suspect(start, AFTER));
        assert!(peer.is_suspect(start, Duration::ZERO));
        // A refusal between does not add up over silence.
        peer.note(&Found::Nobody, start);
        peer.note(&silence(), start);
        peer.note(&Found::Nobody, start);
        assert!(!peer.is_suspect(start, AFTER));
    }

    #[test]
    fn who_reaches_less_than_half_does_not_vote() {
        for (reached, peers, may) in [
            (0, 0, true),
            (0, 1, false),
            (1, 1, true),
            (1, 2, true),
            (1, 3, false),
            (2, 4, true),
            (1, 4, false),
        ] {
            assert_eq!(may_vote(reached, peers), may, "{reached} of {peers}");
        }
    }
}
