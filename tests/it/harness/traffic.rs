//! Calls that arrive at a set rate, whatever becomes of those before them, as those of many customers do; and what was
//! answered. A call that has to wait is as late as it is late for its customer.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use order_service::clients::sim::catalogue::load_user;
use order_service::proto::order as pb;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::Chance;
use super::api::by_id;
use super::fleet::{Client, Fleet};
use super::node::sample_order;
use super::wait::within;

/// How long calls are waited for that should have come long ago.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of a call that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It has failed.
    Strict,
    /// It is made again with the same request id, until it is answered or late.
    Tolerant,
}

/// How the calls come.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Calls that arrive in a second.
    pub per_second: u64,
    /// What becomes of one that fails.
    pub mode: Mode,
    /// When a call is late for good.
    pub deadline: Duration,
    /// How long one try may take, of those that are made again.
    pub patience: Duration,
    /// Calls under way; what comes further is not sent, and counted.
    pub in_flight: usize,
}

impl Rate {
    /// As many calls as `ORDER_CLUSTER_RATE` says, or else few enough for a machine that does other things too.
    pub fn new(mode: Mode) -> Self {
        let per_second = super::cluster::wished("ORDER_CLUSTER_RATE", 30);
        let in_flight = usize::try_from(per_second).unwrap() * 2;
        let (deadline, patience) = match mode {
            Mode::Strict => (Duration::from_secs(20), Duration::from_secs(20)),
            Mode::Tolerant => (Duration::from_secs(60), Duration::from_secs(20)),
        };
        Self { per_second, mode, deadline, patience, in_flight }
    }
}

/// One call.
#[derive(Clone, Debug)]
pub enum Call {
    /// A new order.
    Create(Box<pb::CreateOrderRequest>),
    /// Its end.
    Cancel(pb::CancelOrderRequest),
    /// An order as it stands.
    Get(String),
    /// Where it stands.
    Status(String),
    /// Those of a user.
    List(String),
}

/// What was asked for, without the details.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// [`Call::Create`].
    Create,
    /// [`Call::Cancel`].
    Cancel,
    /// [`Call::Get`].
    Get,
    /// [`Call::Status`].
    Status,
    /// [`Call::List`].
    List,
}

impl Call {
    /// A new order of a user of their own for every `number`.
    pub fn create(number: u64) -> Self {
        let user_id = load_user(number).0.to_string();
        let coupon_code = if number.is_multiple_of(10) { "SUMMER10" } else { "" }.to_owned();
        let request =
            pb::CreateOrderRequest { user_id, coupon_code, payment_token: "tok_ok".into(), ..sample_order() };
        Self::Create(Box::new(request))
    }

    /// The end of an order.
    pub fn cancel(order_id: &str) -> Self {
        let request_id = uuid::Uuid::now_v7().to_string();
        Self::Cancel(pb::CancelOrderRequest { id: order_id.to_owned(), request_id, ..Default::default() })
    }

    /// What is asked for.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Create(_) => Kind::Create,
            Self::Cancel(_) => Kind::Cancel,
            Self::Get(_) => Kind::Get,
            Self::Status(_) => Kind::Status,
            Self::List(_) => Kind::List,
        }
    }

    /// Makes it, with this much time; the order that is answered, if one is.
    pub async fn make(&self, mut client: Client, time: Duration) -> Result<Option<pb::Order>, Status> {
        fn timed<T>(message: T, time: Duration) -> Request<T> {
            let mut request = Request::new(message);
            request.set_timeout(time);
            request
        }
        Ok(match self {
            Self::Create(request) => {
                Some(client.create_order(timed(request.as_ref().clone(), time)).await?.into_inner())
            }
            Self::Cancel(request) => {
                Some(client.cancel_order(timed(request.clone(), time)).await?.into_inner())
            }
            Self::Get(id) => Some(client.get_order(timed(by_id(id), time)).await?.into_inner()),
            Self::Status(id) => {
                let key = Some(pb::get_order_status_request::Key::Id(id.clone()));
                client.get_order_status(timed(pb::GetOrderStatusRequest { key }, time)).await?;
                None
            }
            Self::List(user_id) => {
                let request = pb::ListOrdersRequest { user_id: user_id.clone(), ..Default::default() };
                client.list_orders(timed(request, time)).await?;
                None
            }
        })
    }
}

/// One call that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// What was asked for.
    pub kind: Kind,
    /// When it was to be sent, from the start of the traffic.
    pub at: Duration,
    /// From then until it was answered.
    pub took: Duration,
    /// The node that answered.
    pub node: Option<usize>,
    /// What went wrong.
    pub error: Option<String>,
    /// How often it went to another node because it surely had not reached the one before.
    pub moved: u32,
    /// How often it was made again.
    pub repeats: u32,
}

/// What the customers saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every call, in the order in which they ended.
    pub calls: Vec<Made>,
    /// Every order that was answered to a create or a cancel.
    pub acknowledged: Vec<pb::Order>,
    /// Calls that were not sent, because too many were under way.
    pub unsent: u64,
    /// Orders that were shown older than they had been acknowledged before the question.
    pub stale: Vec<String>,
}

#[derive(Debug, Default)]
struct Seen {
    report: Report,
    /// Every known order: its user and the highest version that was acknowledged.
    versions: HashMap<String, i64>,
    /// Known orders that nobody wants to cancel yet, and their users.
    standing: Vec<(String, String)>,
}

/// Calls that go on until they are stopped.
pub struct Traffic {
    shared: Arc<Shared>,
    arrivals: JoinHandle<()>,
}

struct Shared {
    fleet: Fleet,
    rate: Rate,
    started: Instant,
    enough: AtomicBool,
    numbers: AtomicU64,
    answered: AtomicU64,
    places: Semaphore,
    seen: Mutex<Seen>,
}

impl Traffic {
    /// Calls that come to these nodes from now on; the users' numbers begin at `first`.
    pub fn start(fleet: Fleet, rate: Rate, first: u64) -> Self {
        let shared = Arc::new(Shared {
            fleet,
            rate,
            started: Instant::now(),
            enough: AtomicBool::new(false),
            numbers: AtomicU64::new(first),
            answered: AtomicU64::new(0),
            places: Semaphore::new(rate.in_flight),
            seen: Mutex::default(),
        });
        let arrivals = tokio::spawn(Arc::clone(&shared).arrivals());
        Self { shared, arrivals }
    }

    /// Waits until so many more calls were answered well.
    pub async fn more(&self, calls: u64) {
        let goal = self.shared.answered.load(Ordering::Relaxed) + calls;
        let look = async || (self.shared.answered.load(Ordering::Relaxed) >= goal).then_some(());
        within(PATIENCE, "more answers", look).await;
    }

    /// As many calls as come in this time.
    pub async fn calls_of(&self, time: Duration) {
        self.more(self.shared.rate.per_second * time.as_millis() as u64 / 1_000).await;
    }

    /// How long it goes on already.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Lets no more calls come, waits for those under way, and tells what was seen.
    pub async fn stop(self) -> Report {
        self.shared.enough.store(true, Ordering::Relaxed);
        self.arrivals.await.unwrap();
        std::mem::take(&mut self.shared.seen.lock().unwrap().report)
    }
}

impl Shared {
    async fn arrivals(self: Arc<Self>) {
        let mut tick = interval(Duration::from_secs(1) / u32::try_from(self.rate.per_second).unwrap());
        // Those that should have come meanwhile come at once, and are late.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut chance = Chance::new(self.numbers.load(Ordering::Relaxed));
        let mut under_way = JoinSet::new();
        while !self.enough.load(Ordering::Relaxed) {
            let at = tick.tick().await;
            let call = self.any(&mut chance);
            under_way.spawn(Arc::clone(&self).one(call, at));
            while under_way.try_join_next().is_some_and(|ended| ended.is_ok()) {}
        }
        while let Some(ended) = under_way.join_next().await {
            ended.unwrap();
        }
    }

    /// The next call: a third are new orders.
    fn any(&self, chance: &mut Chance) -> Call {
        let mut seen = self.seen.lock().unwrap();
        let count = seen.standing.len();
        let kind = chance.below(100);
        let place = chance.below(count as i64) as usize;
        // Orders that were made lately are asked for more often than those of long ago.
        let place = if count > 200 && chance.percent(70) { count - 1 - place % 200 } else { place };
        match kind {
            0..36 => Call::create(self.numbers.fetch_add(1, Ordering::Relaxed)),
            _ if count < 20 => Call::create(self.numbers.fetch_add(1, Ordering::Relaxed)),
            36..50 => Call::cancel(&seen.standing.swap_remove(place).0),
            50..75 => Call::Get(seen.standing[place].0.clone()),
            75..94 => Call::Status(seen.standing[place].0.clone()),
            _ => Call::List(seen.standing[place].1.clone()),
        }
    }

    async fn one(self: Arc<Self>, call: Call, at: Instant) {
        let known = match &call {
            Call::Get(id) => self.seen.lock().unwrap().versions.get(id).copied(),
            _ => None,
        };
        let Ok(_place) = self.places.try_acquire() else {
            self.seen.lock().unwrap().report.unsent += 1;
            return;
        };
        let deadline = at + self.rate.deadline;
        let patience = self.rate.patience;
        let attempt = |client| {
            let call = call.clone();
            async move {
                let time = deadline.saturating_duration_since(Instant::now()).min(patience);
                call.make(client, time.max(Duration::from_millis(1))).await
            }
        };
        let (sent, repeats) = match self.rate.mode {
            Mode::Strict => (self.fleet.send(deadline, attempt).await, 0),
            Mode::Tolerant => self.fleet.insist(deadline, patience, attempt).await,
        };
        let answer = sent.answer.map_err(|status| tell(&status));
        self.note(&call, at, sent.node, answer, (sent.moved, repeats), known);
    }

    fn note(
        &self,
        call: &Call,
        at: Instant,
        node: Option<usize>,
        answer: Result<Option<pb::Order>, String>,
        (moved, repeats): (u32, u32),
        known: Option<i64>,
    ) {
        let mut seen = self.seen.lock().unwrap();
        let kind = call.kind();
        if answer.is_ok() {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        if let Ok(Some(order)) = &answer {
            if let Some(known) = known
                && order.version < known
            {
                let line = format!("order {} at {}, acknowledged at {known}", order.id, order.version);
                seen.report.stale.push(line);
            }
            let version = seen.versions.entry(order.id.clone()).or_default();
            *version = order.version.max(*version);
            match kind {
                Kind::Create => {
                    seen.standing.push((order.id.clone(), order.user_id.clone()));
                    seen.report.acknowledged.push(order.clone());
                }
                Kind::Cancel => seen.report.acknowledged.push(order.clone()),
                _ => {}
            }
        }
        let at_start = at.saturating_duration_since(self.started);
        let (took, error) = (at.elapsed(), answer.err());
        seen.report.calls.push(Made { kind, at: at_start, took, node, error, moved, repeats });
    }
}

/// An error in short.
fn tell(status: &Status) -> String {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    let mut text = format!("{:?} {} {}", status.code(), reason.unwrap_or_default(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text} < {error}");
        cause = error.source();
    }
    text
}

/// So many thousandths of these, which are sorted, took no longer.
pub fn at(sorted: &[Duration], permille: usize) -> Duration {
    let place = (sorted.len() * permille / 1_000).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

impl Report {
    /// Calls that failed.
    pub fn failed(&self) -> Vec<&Made> {
        self.calls.iter().filter(|call| call.error.is_some()).collect()
    }

    /// No call has failed, and nothing was shown older than it had been.
    pub fn assert_clean(&self) {
        assert!(self.failed().is_empty() && self.stale.is_empty(), "{self}");
    }

    /// Calls that were to be sent in this time, since the start of the traffic.
    pub fn between(&self, from: Duration, to: Duration) -> Self {
        let calls = self.calls.iter().filter(|call| (from..to).contains(&call.at)).cloned().collect();
        Self { calls, ..Self::default() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moved = self.calls.iter().filter(|call| call.moved > 0).count();
        let repeated = self.calls.iter().filter(|call| call.repeats > 0).count();
        let failed = self.failed();
        writeln!(
            f,
            "{} calls, {} failed, {moved} went to another node unsent, {repeated} repeated, {} shown stale, \
             {} not sent",
            self.calls.len(),
            failed.len(),
            self.stale.len(),
            self.unsent
        )?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, kind: Option<Kind>| {
            let good = self.calls.iter().filter(|call| call.error.is_none());
            let good = good.filter(|call| kind.is_none_or(|kind| call.kind == kind));
            let mut took: Vec<Duration> = good.map(|call| call.took).collect();
            took.sort_unstable();
            let [p50, p99, p999, max] = [500, 990, 999, 1_000].map(|permille| at(&took, permille));
            writeln!(
                f,
                "  {name:<8}{:>7}  p50 {p50:.1?}  p99 {p99:.1?}  p99.9 {p999:.1?}  max {max:.1?}",
                took.len()
            )
        };
        line(f, "all", None)?;
        for kind in [Kind::Create, Kind::Cancel, Kind::Get, Kind::Status, Kind::List] {
            line(f, &format!("{kind:?}"), Some(kind))?;
        }
        let mut errors: BTreeMap<(Kind, Option<usize>, &str), (usize, Duration)> = BTreeMap::new();
        for call in failed {
            let key = (call.kind, call.node, call.error.as_deref().unwrap_or_default());
            errors.entry(key).or_insert((0, call.at)).0 += 1;
        }
        for ((kind, node, error), (count, first)) in errors.iter().take(20) {
            writeln!(f, "  {count} x {kind:?} at node {node:?}, first at {first:.1?}: {error}")?;
        }
        for line in self.stale.iter().take(10) {
            writeln!(f, "  stale: {line}")?;
        }
        Ok(())
    }
}
