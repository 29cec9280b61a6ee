//! Where spans begin, and where they go to: a bounded queue that nobody waits for.

use std::sync::{Arc, OnceLock};

use metrics::Counter;
use tokio::sync::mpsc;

use super::forced::Forced;
use super::ids;
use super::span::{Kind, Name, Record, Span};
use crate::domain::trace::TraceContext;
use crate::ports::clock::Clock;

/// Who says whether a trace is recorded that began elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A node, or an operator: their word counts.
    Ours,
    /// Anybody: counts for so many traces a second. The others are recorded, or not, as if they began here.
    Anybody,
}

/// Which share of the traces that begin here is recorded. One that began elsewhere is recorded if whoever began it said so
/// ([`Asker`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampling(u64);

impl Sampling {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// A share, 0 to 1; what is outside counts as the nearer end.
    pub fn of(ratio: f64) -> Self {
        // Rounded down, so that all of them is as much as there is.
        Self((ratio.clamp(0.0, 1.0) * u64::MAX as f64) as u64)
    }

    fn takes(self, draw: u64) -> bool {
        draw < self.0 || self.0 == u64::MAX
    }
}

struct Tracer {
    queue: mpsc::Sender<Record>,
    sampling: Sampling,
    forced: Forced,
    clock: Arc<dyn Clock>,
    lost: Counter,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// From now on the spans of this process are recorded and go to `queue`; by `clock` they say when they began. `forced` traces
/// a second are recorded because [`Asker::Anybody`] says so. The first call decides; answers whether it was this one.
pub fn install(queue: mpsc::Sender<Record>, sampling: Sampling, forced: u32, clock: Arc<dyn Clock>) -> bool {
    let lost = metrics::counter!("order_trace_spans_dropped_total", "why" => "queue");
    TRACER.set(Tracer { queue, sampling, forced: Forced::new(forced), clock, lost }).is_ok()
}

/// The span of a call that came in, and its place in the caller's trace, or in a new one.
pub fn serve(caller: Option<TraceContext>, asker: Asker, name: Name) -> (Span, TraceContext) {
    let tracer = TRACER.get();
    let span = ids::span();
    let (context, parent) = match caller {
        Some(caller) => {
            let mut context = caller.child(span);
            if context.sampled
                && asker == Asker::Anybody
                && let Some(tracer) = tracer
            {
                context.sampled = tracer.forced.take() || tracer.sampling.takes(ids::random());
            }
            (context, Some(caller.span))
        }
        None => {
            let sampled = tracer.is_some_and(|tracer| tracer.sampling.takes(ids::random()));
            (TraceContext { trace: ids::trace(), span, sampled, state: None }, None)
        }
    };
    let span = match tracer.filter(|_| context.sampled) {
        Some(tracer) => tracer.open(Record { parent, ..blank(&context, name, Kind::Server) }),
        None => Span::none(),
    };
    (span, context)
}

/// A span that `parent` brings about, and its place; `parent` itself where it is not recorded.
pub fn child(parent: &TraceContext, kind: Kind, name: impl FnOnce() -> Name) -> (Span, TraceContext) {
    match TRACER.get().filter(|_| parent.sampled) {
        None => (Span::none(), parent.clone()),
        Some(tracer) => {
            let context = parent.child(ids::span());
            let record = Record { parent: Some(parent.span), ..blank(&context, name(), kind) };
            (tracer.open(record), context)
        }
    }
}

/// As [`child`], of something that goes on where `before`, which may have been in another process, has left off: linked to
/// it.
pub fn resumed(before: &TraceContext, name: Name) -> (Span, TraceContext) {
    match TRACER.get().filter(|_| before.sampled) {
        None => (Span::none(), before.clone()),
        Some(tracer) => {
            let context = before.child(ids::span());
            let link = Some((before.trace, before.span));
            let record = Record { parent: Some(before.span), link, ..blank(&context, name, Kind::Internal) };
            (tracer.open(record), context)
        }
    }
}

fn blank(context: &TraceContext, name: Name, kind: Kind) -> Record {
    Record {
        trace: context.trace,
        span: context.span,
        parent: None,
        name,
        kind,
        start: 0,
        nanos: 0,
        attributes: Vec::new(),
        events: Vec::new(),
        link: None,
        failed: false,
    }
}

impl Tracer {
    fn open(&self, record: Record) -> Span {
        let now = self.clock.now().timestamp_nanos_opt().unwrap_or_default();
        Span::open(Record { start: u64::try_from(now).unwrap_or_default(), ..record })
    }
}

/// Hands a finished span over, or counts it as lost: whoever works does not wait.
pub(super) fn record(record: Record) {
    if let Some(tracer) = TRACER.get()
        && tracer.queue.try_send(record).is_err()
    {
        tracer.lost.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_traces_is_taken() {
        let taken = |ratio| {
            let sampling = Sampling::of(ratio);
            (0..10_000).filter(|_| sampling.takes(ids::random())).count()
        };
        assert_eq!((taken(0.0), taken(1.0), taken(-1.0), taken(2.0)), (0, 10_000, 0, 10_000));
        assert!((850..1_150).contains(&taken(0.1)), "{}", taken(0.1));
        assert_eq!(Sampling::NONE, Sampling::of(0.0));
    }

    #[test]
    fn where_nobody_records_a_trace_goes_on() {
        // No test of this process installs a tracer.
        let caller = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let (span, served) = serve(caller.clone(), Asker::Anybody, Name::Word("call"));
        let caller = caller.unwrap();
        assert!(!span.is_recorded() && served.sampled && served.trace == caller.trace);
        assert_ne!(served.span, caller.span);
        assert_eq!(child(&served, Kind::Client, || Name::Word("asked")).1, served);
        let (_span, own) = serve(None, Asker::Anybody, Name::Word("call"));
        assert!(!own.sampled && own.trace != caller.trace);
    }
}
