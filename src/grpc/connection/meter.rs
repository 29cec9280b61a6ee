//! Looks at the frames of an HTTP/2 connection as they pass, without taking them apart: whether one of them takes too
//! long, and whether there are too many that only make work.

use std::time::{Duration, Instant};

use super::TransportLimits;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a client says before its first frame, in bytes.
const PREFACE: u64 = 24;
/// Bytes of a frame's head.
const HEAD: usize = 9;

/// How many seconds' worth of control frames may come at once.
const BURST: u32 = 10;
/// What a call allows besides: a client that measures the way sends a PING with it.
const PER_CALL: u32 = 2;
/// What a piece of an answer allows besides, for the same reason.
const PER_ANSWER: u32 = 1;

/// The beginning of a frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: u8,
    flags: u8,
    length: u64,
}

/// Follows a stream of bytes from frame to frame.
#[derive(Debug)]
struct Walker {
    /// Bytes to pass by before the next head.
    skip: u64,
    head: Vec<u8>,
}

impl Walker {
    fn new(skip: u64) -> Self {
        Self { skip, head: Vec::with_capacity(HEAD) }
    }

    /// The next head in `bytes`, which are behind it then; none when they end before.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        *bytes = bytes.get(skipped..).unwrap_or_default();
        self.skip = self.skip.saturating_sub(skipped as u64);
        let missing = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        if self.skip > 0 || missing == 0 {
            return None;
        }
        let (some, rest) = bytes.split_at_checked(missing)?;
        self.head.extend_from_slice(some);
        *bytes = rest;
        let [a, b, c, kind, flags, ..] = *self.head.as_slice() else { return None };
        if self.head.len() < HEAD {
            return None;
        }
        self.head.clear();
        self.skip = u64::from(u32::from_be_bytes([0, a, b, c]));
        Some(Head { kind, flags, length: self.skip })
    }

    /// Whether a frame was begun and has not ended.
    fn is_within(&self) -> bool {
        self.skip > 0 || !self.head.is_empty()
    }
}

/// What may be used up, and comes back by and by.
#[derive(Debug)]
struct Bucket {
    left: u32,
    most: u32,
    per_second: u32,
    filled: Instant,
}

impl Bucket {
    fn new(most: u32, per_second: u32, now: Instant) -> Self {
        Self { left: most, most, per_second, filled: now }
    }

    fn add(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(self.most);
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let back = passed.saturating_mul(u128::from(self.per_second)).checked_div(1_000).unwrap_or_default();
        if back > 0 {
            self.add(u32::try_from(back).unwrap_or(u32::MAX));
            // Only as far as what came back: the rest of the time counts for the next one.
            let counted = back.saturating_mul(1_000_000).checked_div(u128::from(self.per_second.max(1)));
            let counted =
                Duration::from_micros(counted.and_then(|us| u64::try_from(us).ok()).unwrap_or(u64::MAX));
            self.filled = self.filled.checked_add(counted).unwrap_or(now).min(now);
        }
        let there = self.left > 0;
        self.left = self.left.saturating_sub(1);
        there
    }
}

/// Why a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Abuse {
    /// It gives up too many calls.
    Resets,
    /// It sends too many frames that belong to no call.
    Control,
}

impl Abuse {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Control => "control frames",
        }
    }
}

/// Watches one connection.
#[derive(Debug)]
pub(super) struct Meter {
    incoming: Walker,
    outgoing: Walker,
    /// Headers were begun that have not ended.
    in_headers: bool,
    /// Since when it has owed the rest of what it began; none = it owes nothing.
    owes_since: Option<Instant>,
    resets: Bucket,
    control: Bucket,
}

impl Meter {
    pub(super) fn new(limits: &TransportLimits, max_streams: u32, now: Instant) -> Self {
        let (resets, control) = (limits.max_resets_per_second, limits.max_control_frames_per_second);
        Self {
            incoming: Walker::new(PREFACE),
            outgoing: Walker::new(0),
            in_headers: false,
            owes_since: Some(now),
            resets: Bucket::new(max_streams.saturating_mul(2), resets, now),
            control: Bucket::new(control.saturating_mul(BURST), control, now),
        }
    }

    /// Looks at what came.
    pub(super) fn came(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Abuse> {
        let mut began = false;
        while let Some(head) = self.incoming.next(&mut bytes) {
            began = true;
            self.frame(head, now)?;
        }
        let owes = self.incoming.is_within() || self.in_headers;
        self.owes_since = match self.owes_since {
            // Headers that were begun are not paid by their pieces.
            Some(since) if owes && (!began || self.in_headers) => Some(since),
            _ => owes.then_some(now),
        };
        Ok(())
    }

    fn frame(&mut self, head: Head, now: Instant) -> Result<(), Abuse> {
        let is_empty = head.length == 0 && head.flags & END_STREAM == 0;
        match head.kind {
            HEADERS => {
                // Before them it owed nothing, whatever the pieces of a frame look like.
                if !self.in_headers {
                    self.owes_since = None;
                }
                self.in_headers = head.flags & END_HEADERS == 0;
                self.control.add(PER_CALL);
            }
            CONTINUATION => self.in_headers = self.in_headers && head.flags & END_HEADERS == 0,
            DATA if !is_empty => {}
            // Answers to answers; they are worth what they tell.
            WINDOW_UPDATE => {}
            RST_STREAM => return if self.resets.take(now) { Ok(()) } else { Err(Abuse::Resets) },
            // Empty DATA, PRIORITY, SETTINGS, PING, GOAWAY, and what nobody knows.
            _ => {
                return if self.control.take(now) { Ok(()) } else { Err(Abuse::Control) };
            }
        }
        Ok(())
    }

    /// Looks at what was sent.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.outgoing.next(&mut bytes) {
            if head.kind == DATA {
                self.control.add(PER_ANSWER);
            }
        }
    }

    /// Since when it has owed the rest of what it began.
    pub(super) fn owes_since(&self) -> Option<Instant> {
        self.owes_since
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing)]

    use std::time::Duration;

    use super::super::tests_support::limits;
    use super::*;

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    const PRIORITY: u8 = 2;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    /// A connection that has said hello.
    fn meter(start: Instant) -> Meter {
        let mut meter = Meter::new(&limits(), 10, start);
        let mut hello = vec![b'-'; 24];
        hello.extend(frame(SETTINGS, 0, b"123456"));
        meter.came(&hello, start).unwrap();
        assert_eq!(meter.owes_since(), None);
        meter
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let start = Instant::now();
        let mut bytes = vec![b'-'; 24];
        for _ in 0..5 {
            bytes.extend(frame(HEADERS, END_HEADERS, &[7; 100]));
            bytes.extend(frame(RST_STREAM, 0, &[0; 4]));
        }
        for size in 1..bytes.len() {
            let mut meter = Meter::new(&limits(), 10, start);
            for piece in bytes.chunks(size) {
                meter.came(piece, start).unwrap();
            }
            assert_eq!(meter.resets.left, 15, "{size}");
            assert_eq!(meter.owes_since(), None);
        }
    }

    #[test]
    fn pings_and_settings_are_let_by_at_their_rate_and_with_calls_and_answers() {
        for kind in [PING, SETTINGS, PRIORITY, 77] {
            let start = Instant::now();
            let (mut meter, ping) = (meter(start), frame(kind, 0, &[]));
            let sent = (0..10_000).take_while(|_| meter.came(&ping, start).is_ok()).count();
            assert!((998..=1_000).contains(&sent), "{sent}");
            let later = start + Duration::from_millis(500);
            let sent = (0..10_000).take_while(|_| meter.came(&ping, later).is_ok()).count();
            assert_eq!(sent, 50);
            for _ in 0..10_000 {
                meter.came(&frame(HEADERS, END_HEADERS, b"call"), later).unwrap();
                meter.came(&ping, later).unwrap();
                meter.sent(&frame(DATA, 0, b"answer"));
                meter.came(&ping, later).unwrap();
            }
        }
        let (start, empty) = (Instant::now(), frame(DATA, 0, &[]));
        let mut meter = meter(start);
        let sent = (0..10_000).take_while(|_| meter.came(&empty, start).is_ok()).count();
        assert!(sent <= 1_000, "{sent}");
    }

    #[test]
    fn calls_are_given_up_at_most_at_their_rate() {
        let start = Instant::now();
        let mut meter = meter(start);
        let call = [frame(HEADERS, END_HEADERS, b"call"), frame(RST_STREAM, 0, &[0; 4])].concat();
        let given_up = (0..1_000).take_while(|_| meter.came(&call, start).is_ok()).count();
        assert_eq!(given_up, 20);
    }

    #[test]
    fn what_is_begun_and_not_ended_is_owed_from_its_beginning() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::new(&limits(), 10, start);
        meter.came(b"PRI * HT", at(1)).unwrap();
        assert_eq!(meter.owes_since(), Some(start), "not even hello");

        let mut meter = self::meter(start);
        let body = frame(DATA, 0, &[1; 64]);
        meter.came(&body[..20], at(2)).unwrap();
        meter.came(&body[20..40], at(3)).unwrap();
        assert_eq!(meter.owes_since(), Some(at(2)));
        meter.came(&[&body[40..], &body[..30]].concat(), at(4)).unwrap();
        assert_eq!(meter.owes_since(), Some(at(4)), "the next frame is another one");
        meter.came(&body[30..], at(5)).unwrap();
        assert_eq!(meter.owes_since(), None);

        meter.came(&frame(HEADERS, 0, b"some"), at(6)).unwrap();
        for second in 7..20 {
            meter.came(&frame(CONTINUATION, 0, b"x"), at(second)).unwrap();
            assert_eq!(meter.owes_since(), Some(at(6)), "pieces of headers pay nothing");
        }
        meter.came(&frame(CONTINUATION, END_HEADERS, b"x"), at(20)).unwrap();
        assert_eq!(meter.owes_since(), None);
    }
}
