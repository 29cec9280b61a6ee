//! Follows the chain of events of every order, and compares it with heads that were noted outside the store.
//!
//! The chain alone shows what was altered by somebody who cannot write the rest anew. Who can write everything can also cut
//! off the end of a history, or make another one whole; that is found by what was noted before, where they cannot write.

use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::{PAUSE, TRIES, VerifyError, Which};
use crate::domain::Timestamp;
use crate::domain::chain::{Break, EventHash, Trail, check};
use crate::domain::ids::OrderId;
use crate::ports::store::{OrderStore, Trailed};

/// What to follow, and how fast.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// Orders a page, at least 1.
    pub page_size: u32,
    /// At most so many pages a second; none = as fast as the store answers.
    pub pages_per_second: Option<u32>,
    /// Only this order.
    pub only: Option<Which>,
    /// Only orders that, by their own word, changed at this moment or later.
    pub since: Option<Timestamp>,
}

/// The last event of an order, as it is noted outside: `ORDER_ID SEQUENCE HASH`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The order.
    pub order: OrderId,
    /// The sequence of its last event.
    pub seq: i64,
    /// The hash of that; none where it is from before there was a chain.
    pub hash: Option<EventHash>,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.order, self.seq)?;
        match &self.hash {
            Some(hash) => write!(f, "{hash}"),
            None => f.write_str("-"),
        }
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ORDER_ID SEQUENCE HASH";
        let mut words = line.split_ascii_whitespace();
        let (Some(order), Some(seq), Some(hash), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(EXPECTED);
        };
        Ok(Self {
            order: OrderId(Uuid::try_parse(order).map_err(|_| EXPECTED)?),
            seq: seq.parse().map_err(|_| EXPECTED)?,
            hash: match hash {
                "-" => None,
                hash => Some(EventHash::from_hex(hash).ok_or(EXPECTED)?),
            },
        })
    }
}

/// What was followed and found so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AuditReport {
    /// Orders.
    pub orders: u64,
    /// Events in a chain.
    pub chained: u64,
    /// Events from before there was a chain.
    pub unchained: u64,
    /// Noted heads that were compared.
    pub compared: u64,
    /// Places where something does not hold.
    pub breaks: u64,
    /// Orders that have any.
    pub broken_orders: u64,
    /// Whether the last order was reached.
    pub complete: bool,
}

/// Who is told while it goes on.
pub trait AuditWitness {
    /// Something does not hold. `Break` ends the audit.
    fn broken(&mut self, order: OrderId, broken: &Break) -> ControlFlow<()>;
    /// A page is done.
    fn progress(&mut self, so_far: &AuditReport);
}

/// Heads noted earlier, by order; a line that cannot be read is told as it is met.
pub type Noted = Box<dyn Iterator<Item = Result<Head, String>>>;

/// Follows the chains until the last order or until `stop` is ready.
///
/// # Errors
/// When the store cannot be read any more or does not have the order named, or when a noted head cannot be read.
pub async fn audit(
    store: &dyn OrderStore,
    options: &AuditOptions,
    noted: Option<Noted>,
    witness: &mut impl AuditWitness,
    stop: impl Future<Output = ()>,
) -> Result<AuditReport, VerifyError> {
    let mut audit = Audit { report: AuditReport::default(), noted: Heads::of(noted), witness };
    let work = async {
        let is_whole = options.only.is_none() && options.since.is_none();
        let mut step = |trailed: Option<Trailed>| match trailed {
            Some(trailed) => audit.follow(&trailed, is_whole),
            None => {
                audit.witness.progress(&audit.report);
                Ok(())
            }
        };
        match pages(store, options, &mut step).await {
            Ok(()) => {}
            Err(Stopped::Told) => return Ok(false),
            Err(Stopped::Error(error)) => return Err(error),
        }
        match audit.rest(is_whole) {
            Ok(()) => Ok(true),
            Err(Stopped::Told) => Ok(false),
            Err(Stopped::Error(error)) => Err(error),
        }
    };
    let complete = tokio::select! {
        ended = work => ended?,
        () = stop => false,
    };
    Ok(AuditReport { complete, ..audit.report })
}

/// Tells the head of every order, by id, until the last one or until `stop` is ready. Whether the last was reached.
///
/// # Errors
/// When the store cannot be read any more, or an order in it.
pub async fn heads(
    store: &dyn OrderStore,
    options: &AuditOptions,
    mut told: impl FnMut(&Head) -> ControlFlow<()>,
    stop: impl Future<Output = ()>,
) -> Result<bool, VerifyError> {
    let work = async {
        let mut step = |trailed: Option<Trailed>| {
            let Some(Trailed { id, found }) = trailed else { return Ok(()) };
            let trail = found.map_err(|what| Stopped::Error(VerifyError::Unreadable { order: id, what }))?;
            let head = Head { order: id, seq: trail.event_seq, hash: trail.head };
            if told(&head).is_continue() { Ok(()) } else { Err(Stopped::Told) }
        };
        match pages(store, options, &mut step).await {
            Ok(()) => Ok(true),
            Err(Stopped::Told) => Ok(false),
            Err(Stopped::Error(error)) => Err(error),
        }
    };
    tokio::select! {
        ended = work => ended,
        () = stop => Ok(false),
    }
}

/// Why a walk ends before the last order.
enum Stopped {
    /// Whoever is told wants no more.
    Told,
    Error(VerifyError),
}

type Step<'a> = dyn FnMut(Option<Trailed>) -> Result<(), Stopped> + 'a;

/// Page after page; `step` gets each order, then `None` at the end of a page.
async fn pages(store: &dyn OrderStore, options: &AuditOptions, step: &mut Step<'_>) -> Result<(), Stopped> {
    if let Some(which) = &options.only {
        let (id, name) = super::named(store, which).await.map_err(Stopped::Error)?;
        let before = id.0.as_u128().checked_sub(1).map(|before| OrderId(Uuid::from_u128(before)));
        let page = page(store, before, None, 1, 0).await.map_err(Stopped::Error)?;
        let found = page.into_iter().find(|trailed| trailed.id == id);
        let found = found.ok_or(Stopped::Error(VerifyError::NoSuchOrder(name)))?;
        return step(Some(found));
    }
    let limit = options.page_size.max(1);
    let mut pace = options.pages_per_second.and_then(|pages| {
        let mut pace = interval(Duration::from_secs(1).checked_div(pages)?);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pace)
    });
    let (mut after, mut read) = (None, 0u64);
    loop {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let page = page(store, after, options.since, limit, read).await.map_err(Stopped::Error)?;
        let is_last = u32::try_from(page.len()).is_ok_and(|count| count < limit);
        after = page.last().map(|trailed| trailed.id).or(after);
        for trailed in page {
            read = read.saturating_add(1);
            step(Some(trailed))?;
        }
        step(None)?;
        if is_last {
            return Ok(());
        }
        // Reading may be so quick that nobody else gets a turn, such as whoever asks to stop.
        tokio::task::yield_now().await;
    }
}

async fn page(
    store: &dyn OrderStore,
    after: Option<OrderId>,
    since: Option<Timestamp>,
    limit: u32,
    checked: u64,
) -> Result<Vec<Trailed>, VerifyError> {
    let mut tries = 1u32;
    loop {
        match store.trails(after, since, limit).await {
            Ok(page) => return Ok(page),
            Err(error) if tries >= TRIES => return Err(VerifyError::Store { checked, error }),
            Err(error) => tracing::warn!(%error, "a page could not be read; it is tried again"),
        }
        tries = tries.saturating_add(1);
        sleep(PAUSE).await;
    }
}

/// An audit under way.
struct Audit<'w, W> {
    report: AuditReport,
    noted: Heads,
    witness: &'w mut W,
}

impl<W: AuditWitness> Audit<'_, W> {
    fn follow(&mut self, trailed: &Trailed, is_whole: bool) -> Result<(), Stopped> {
        let id = trailed.id;
        self.report.orders = self.report.orders.saturating_add(1);
        while let Some(head) = self.noted.before(id).map_err(Stopped::Error)? {
            if is_whole {
                self.gone(&head)?;
            }
        }
        let mut breaks = match &trailed.found {
            Ok(trail) => {
                let checked = check(trail);
                self.report.chained = self.report.chained.saturating_add(checked.chained);
                self.report.unchained = self.report.unchained.saturating_add(checked.unchained);
                checked.breaks
            }
            Err(what) => vec![Break { seq: 0, what: format!("the order cannot be read: {what}") }],
        };
        while let Some(head) = self.noted.at(id).map_err(Stopped::Error)? {
            self.report.compared = self.report.compared.saturating_add(1);
            breaks.extend(trailed.found.as_ref().ok().and_then(|trail| differs(trail, &head)));
        }
        self.tell(id, &breaks)
    }

    /// Orders that were noted and are behind the last one there is.
    fn rest(&mut self, is_whole: bool) -> Result<(), Stopped> {
        if !is_whole {
            return Ok(());
        }
        while let Some(head) = self.noted.next().map_err(Stopped::Error)? {
            self.gone(&head)?;
        }
        Ok(())
    }

    fn gone(&mut self, head: &Head) -> Result<(), Stopped> {
        self.report.compared = self.report.compared.saturating_add(1);
        let what = String::from("the order was noted with this event, and is gone");
        self.tell(head.order, &[Break { seq: head.seq, what }])
    }

    fn tell(&mut self, order: OrderId, breaks: &[Break]) -> Result<(), Stopped> {
        if !breaks.is_empty() {
            self.report.broken_orders = self.report.broken_orders.saturating_add(1);
        }
        for broken in breaks {
            self.report.breaks = self.report.breaks.saturating_add(1);
            if self.witness.broken(order, broken).is_break() {
                return Err(Stopped::Told);
            }
        }
        Ok(())
    }
}

/// Whether an order does not have the event that was noted as its last. It may have more by now.
fn differs(trail: &Trail, noted: &Head) -> Option<Break> {
    let found = trail.rows.iter().find(|row| row.seq == noted.seq);
    let what = match (found, noted.hash) {
        (None, _) => "it was noted, and is gone",
        (Some(row), Some(hash)) if row.hash.as_deref() != Some(&hash.to_string()) => {
            "it is not the event that was noted"
        }
        (Some(_), _) => return None,
    };
    Some(Break { seq: noted.seq, what: what.to_owned() })
}

/// Noted heads, read as they are needed: both they and the walk go by order.
struct Heads {
    lines: Option<Noted>,
    next: Option<Head>,
    read: u64,
}

impl Heads {
    fn of(lines: Option<Noted>) -> Self {
        Self { lines, next: None, read: 0 }
    }

    fn peek(&mut self) -> Result<Option<Head>, VerifyError> {
        if self.next.is_some() {
            return Ok(self.next);
        }
        let Some(line) = self.lines.as_mut().and_then(Iterator::next) else { return Ok(None) };
        self.read = self.read.saturating_add(1);
        let wrong = |what: String| VerifyError::Noted { line: self.read, what };
        self.next = Some(line.map_err(wrong)?);
        Ok(self.next)
    }

    fn next(&mut self) -> Result<Option<Head>, VerifyError> {
        let head = self.peek()?;
        self.next = None;
        let Some(head) = head else { return Ok(None) };
        if let Some(following) = self.peek()?
            && following.order < head.order
        {
            let what = String::from("the lines are not in the order of their ids; sort the file");
            return Err(VerifyError::Noted { line: self.read, what });
        }
        Ok(Some(head))
    }

    /// The next one, if it is of an order ahead of this one.
    fn before(&mut self, id: OrderId) -> Result<Option<Head>, VerifyError> {
        if self.peek()?.is_some_and(|head| head.order < id) { self.next() } else { Ok(None) }
    }

    /// The next one, if it is of this order.
    fn at(&mut self, id: OrderId) -> Result<Option<Head>, VerifyError> {
        if self.peek()?.is_some_and(|head| head.order == id) { self.next() } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn heads_are_written_and_read() {
        let order = OrderId(Uuid::from_u128(5));
        for hash in [None, Some(EventHash([7; 32]))] {
            let head = Head { order, seq: 12, hash };
            assert_eq!(head.to_string().parse(), Ok(head));
        }
        for line in [
            "",
            "x 1 -",
            "00000000-0000-0000-0000-000000000005 1",
            "00000000-0000-0000-0000-000000000005 1 00",
        ] {
            assert!(line.parse::<Head>().is_err(), "{line}");
        }
    }

    #[test]
    fn heads_have_to_be_in_order() {
        let head = |n| Head { order: OrderId(Uuid::from_u128(n)), seq: 1, hash: None };
        let lines = |heads: Vec<Head>| Heads::of(Some(Box::new(heads.into_iter().map(Ok))));
        let mut sorted = lines(vec![head(1), head(2), head(4)]);
        assert_eq!(sorted.before(head(2).order), Ok(Some(head(1))));
        assert_eq!(sorted.before(head(2).order), Ok(None));
        assert_eq!(sorted.at(head(2).order), Ok(Some(head(2))));
        assert_eq!(sorted.at(head(3).order), Ok(None));
        assert_eq!((sorted.next(), sorted.next()), (Ok(Some(head(4))), Ok(None)));
        assert!(matches!(lines(vec![head(2), head(1)]).next(), Err(VerifyError::Noted { line: 2, .. })));
    }
}
