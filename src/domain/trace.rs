//! W3C trace context: which trace a call belongs to, and which span of it asks.
//!
//! As in the W3C recommendation "Trace Context": a `traceparent` that breaks its rules is none, and takes its `tracestate`
//! with it.

use std::fmt;
use std::sync::Arc;

use super::text::contains_card_number;

/// Length of a `traceparent` of version 00, in bytes.
pub const PARENT_LEN: usize = 55;
/// Longest `tracestate` that is passed on, in bytes; a longer one is dropped.
pub const STATE_LEN: usize = 512;
/// Most members of a `tracestate`.
const STATE_MEMBERS: usize = 32;
/// Longest key and longest value of a member, in bytes.
const MEMBER_LEN: usize = 256;
/// The only flag that is honored.
const SAMPLED: u8 = 1;

/// A trace: everything that one request brought about. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(u128);

/// One operation of a trace. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(u64);

impl TraceId {
    /// An id of random bits. In its text a letter stands before every seven digits, so that no card number comes about, and it
    /// is never 0.
    pub const fn of_random(bits: u128) -> Self {
        Self(bits | 0xa000_0000_a000_0000_a000_0000_a000_0000)
    }

    /// The bytes, highest first, as they travel.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl SpanId {
    /// As [`TraceId::of_random`].
    pub const fn of_random(bits: u64) -> Self {
        Self(bits | 0xa000_0000_a000_0000)
    }

    /// The bytes, highest first, as they travel.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where in a trace something happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The operation that asks.
    pub span: SpanId,
    /// Whether its operations are recorded, as whoever began the trace has decided.
    pub sampled: bool,
    /// What other systems keep beside it; passed on unread and never logged. What a saga does later does not have it.
    pub state: Option<Arc<str>>,
}

impl TraceContext {
    /// Reads a `traceparent`; none when it breaks a rule, or when a card number could be read into it: it is stored and
    /// logged.
    pub fn parse(parent: &str) -> Option<Self> {
        // As a whole and in parts: what stands before a number can hide it.
        let parts = [Some(parent), parent.get(3..35), parent.get(36..52)];
        let read = Self::stored(parent)?;
        (!parts.into_iter().flatten().any(contains_card_number)).then_some(read)
    }

    /// Reads a `traceparent` that was looked through for card numbers already: one that this program has written.
    pub fn stored(parent: &str) -> Option<Self> {
        let bytes = parent.as_bytes();
        let version = hex(bytes.get(..2)?)?;
        // A later version may go on behind what is known.
        let fits = match version {
            0 => bytes.len() == PARENT_LEN,
            0xff => false,
            _ => bytes.get(PARENT_LEN).is_none_or(|byte| *byte == b'-'),
        };
        let dashes = [2usize, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        if !fits || !dashes {
            return None;
        }
        let (trace, span) = (hex(bytes.get(3..35)?)?, hex(bytes.get(36..52)?)?);
        let flags = hex(bytes.get(53..PARENT_LEN)?)?;
        let (trace, span) = (trace, u64::try_from(span).ok()?);
        (trace != 0 && span != 0).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            sampled: flags & u128::from(SAMPLED) != 0,
            state: None,
        })
    }

    /// With this `tracestate`, unless it breaks a rule, is too long or holds a card number.
    pub fn with_state(self, state: &str) -> Self {
        let state = is_state(state).then(|| Arc::from(state));
        Self { state, ..self }
    }

    /// Where `span`, which this one has brought about, happens.
    pub fn child(&self, span: SpanId) -> Self {
        Self { span, ..self.clone() }
    }

    /// The `traceparent`.
    pub fn parent(&self) -> String {
        self.to_string()
    }
}

/// The `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// The number in lower-case hexadecimal digits, at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit.wrapping_sub(b'0'),
            b'a'..=b'f' => digit.wrapping_sub(b'a').wrapping_add(10),
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Whether it is a list of members, each a key and a value.
fn is_state(text: &str) -> bool {
    if text.len() > STATE_LEN || contains_card_number(text) {
        return false;
    }
    let members: Vec<&str> = text
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
        .collect();
    let keys: std::collections::BTreeSet<&str> =
        members.iter().filter_map(|member| Some(member.split_once('=')?.0)).collect();
    // Each key once.
    (1..=STATE_MEMBERS).contains(&members.len())
        && keys.len() == members.len()
        && members.iter().all(|member| is_member(member))
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let key_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let begins = key.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    begins
        && key.len() <= MEMBER_LEN
        && key.bytes().all(key_byte)
        && (1..=MEMBER_LEN).contains(&value.len())
        && value.bytes().all(|byte| (0x20..=0x7e).contains(&byte) && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_a_traceparent_is() {
        let read = TraceContext::parse(GOOD).unwrap();
        assert_eq!((read.to_string().as_str(), read.sampled), (GOOD, true));
        assert_eq!(read.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        // Other flags are nobody's business; a later version is read as far as it is known.
        for (text, sampled) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more", false),
        ] {
            assert_eq!(TraceContext::parse(text).map(|read| read.sampled), Some(sampled), "{text}");
        }
        for text in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-4111111111111111-01",
            "00-éaf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_a_tracestate_is() {
        let state = |text: &str| TraceContext::parse(GOOD).unwrap().with_state(text).state;
        let most = (0..32).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for text in [
            "congo=t61rcWkgMzE",
            "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE",
            "a=1,,b=2",
            "fw529a3039@dt=x",
            &most,
        ] {
            assert_eq!(state(text).as_deref(), Some(text));
        }
        let long = format!("a={}", "x".repeat(257));
        let longer = (0..3).map(|n| format!("k{n}={}", "x".repeat(200))).collect::<Vec<_>>().join(",");
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for text in [
            "",
            ",",
            "a",
            "a=",
            "=1",
            "A=1",
            "-a=1",
            "a=1=2",
            "a=1,a=2",
            "a=\u{7f}",
            "a=4111111111111111",
            &long,
            &longer,
            &many,
        ] {
            assert_eq!(state(text), None, "{text}");
        }
    }

    #[test]
    fn a_child_is_in_the_same_trace_and_random_ids_hold_no_card_number() {
        let parent = TraceContext::parse(GOOD).unwrap().with_state("a=1");
        let child = parent.child(SpanId::of_random(7));
        assert_eq!((child.trace, child.sampled, &child.state), (parent.trace, true, &parent.state));
        assert_eq!(child.to_string(), "00-0af7651916cd43dd8448eb211c80319c-a0000000a0000007-01");
        // Were each digit a decimal one, no run of them would be as long as a card number.
        let digits = 0x1111_1111_1111_1111_1111_1111_1111_1111;
        let digits = TraceContext {
            trace: TraceId::of_random(digits),
            span: SpanId::of_random(digits as u64),
            ..parent
        };
        let longest = digits.to_string();
        let longest =
            longest.split(|c: char| c.is_ascii_lowercase()).map(|run| run.replace('-', "").len()).max();
        assert!(longest < Some(13), "{longest:?}");
        assert_eq!(TraceContext::parse(&digits.to_string()), Some(TraceContext { state: None, ..digits }));
    }
}
