//! The truth check: what the tester was told, against the service, its history, and the books of the simulator.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use order_service::app;
use order_service::config::Config;
use order_service::proto::order as pb;
use order_service::proto::simulator as sim;
use order_service::proto::simulator::simulator_service_client::SimulatorServiceClient;
use order_service::verify::{Finding, Options, Report, Witness};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use uuid::Uuid;

use super::args::Check;
use super::book::{Changes, Told, twice};
use super::calls::{Answer, Call, NewOrder, is_not_made, named, reason};
use crate::harness::Chance;
use crate::harness::fleet::{Client, Fleet};
use crate::harness::invariants::{Evidence, Heard, Truth, check, heard, settled, sums, try_gather, walk};

/// Orders that are looked at side by side.
const SIDE_BY_SIDE: usize = 32;
/// A law counts as broken when this many looks in a row find the same.
const LOOKS: u32 = 3;
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a question of the check may take, with its repeats.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a call to the simulator may take.
pub const LEDGER_CALL: Duration = Duration::from_secs(10);
/// Broken orders that are kept with their law; more are counted.
const MOST_TOLD: usize = 1_000;
/// After so many questions without an answer no more are asked.
const MOST_UNANSWERED: u64 = SIDE_BY_SIDE as u64;
/// Orders on a page of a list.
const PAGE: i32 = 200;

/// Where the truth is looked for.
pub struct Sources {
    /// The servers.
    pub fleet: Fleet,
    /// The URL of the simulator, if it is known.
    pub simulator: Option<String>,
    /// The URL of the store, when servers, simulator and store are the tester's own and nobody else uses them.
    pub own_store: Option<String>,
    /// Which orders to check.
    pub which: Check,
    /// How long sagas are waited for.
    pub settle: Duration,
    /// What samples are drawn from.
    pub seed: u64,
}

/// What the check has found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Orders that were told of, or found.
    pub orders: u64,
    /// Orders that were checked.
    pub checked: u64,
    /// New orders without an answer: so many were cleared up by asking again.
    pub cleared: u64,
    /// Broken orders (or other things) and the law; the first ones.
    pub broken: Vec<(String, String)>,
    /// How many there are of these.
    pub broken_count: u64,
    /// What was not checked, and why.
    pub unchecked: Vec<String>,
    /// Whether it was stopped before its end.
    pub is_cut_off: bool,
    /// How long the last saga took to end after the arrivals; none when none was waited for.
    pub settled_after: Option<Duration>,
    /// How long all of it took.
    pub took: Duration,
}

/// How far the check is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Orders to check.
    pub orders: AtomicU64,
    /// Orders checked.
    pub checked: AtomicU64,
    /// Orders whose saga is waited for.
    pub waiting: AtomicU64,
}

struct Work<'a> {
    sources: &'a Sources,
    progress: &'a Progress,
    ledger: Option<SimulatorServiceClient<Channel>>,
    started: Instant,
    /// When sagas began to be waited for.
    waits_since: Instant,
    orders: Mutex<HashMap<Uuid, Option<Heard>>>,
    /// Which order was made for a request, and how many requests there were.
    made: Mutex<HashMap<Uuid, Uuid>>,
    requests: u64,
    changes: HashMap<Uuid, Changes>,
    found: Mutex<Found>,
    /// Questions that nobody answered.
    unanswered: AtomicU64,
}

/// Checks everything that is asked for, until it is done or `stop` is cancelled.
pub async fn run(sources: &Sources, told: Told, progress: &Progress, stop: &CancellationToken) -> Found {
    let Told { orders, in_doubt, stale, made, requests, changes, .. } = told;
    let (orders, found) = (Mutex::new(orders), Mutex::default());
    let mut work = Work {
        sources,
        progress,
        ledger: None,
        started: Instant::now(),
        waits_since: Instant::now(),
        orders,
        made: Mutex::new(made),
        requests,
        changes,
        found,
        unanswered: AtomicU64::new(0),
    };
    for (id, what) in stale {
        work.blame(id.to_string(), what);
    }
    if sources.which == Check::None {
        work.leave_out("everything but what answers showed: --check none");
    } else if stop.run_until_cancelled(work.all(in_doubt)).await.is_none() {
        work.leave_out("the rest: it was stopped");
        work.found.lock().unwrap().is_cut_off = true;
    }
    let orders = work.orders.into_inner().unwrap().len() as u64;
    Found { orders, took: work.started.elapsed(), ..work.found.into_inner().unwrap() }
}

/// Reads what is in a page of the ledger.
async fn page(
    client: &SimulatorServiceClient<Channel>,
    request: &sim::GetLedgerRequest,
) -> Result<sim::GetLedgerResponse, Status> {
    let mut tries = 0;
    loop {
        let asked = timeout(LEDGER_CALL, async { client.clone().get_ledger(request.clone()).await }).await;
        match asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if tries >= 20 => return Err(status),
            Err(_) => tries += 1,
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Work<'_> {
    async fn all(&mut self, in_doubt: Vec<NewOrder>) {
        match &self.sources.simulator {
            Some(url) => match Endpoint::from_shared(url.clone()) {
                Ok(endpoint) => self.ledger = Some(SimulatorServiceClient::new(endpoint.connect_lazy())),
                Err(error) => self.blame(url.clone(), format!("the ledger cannot be read: {error}")),
            },
            None => self.leave_out("money and stock by the books of payment and inventory: no --simulator"),
        }
        stream::iter(in_doubt)
            .for_each_concurrent(SIDE_BY_SIDE, async |order| self.clear_up(order).await)
            .await;
        if self.sources.own_store.is_some() {
            self.list().await;
            self.surplus();
        }
        // What came before may have taken long, and is no saga's fault.
        self.waits_since = Instant::now();
        let chosen = self.chosen();
        self.progress.orders.store(chosen.len() as u64, Ordering::Relaxed);
        stream::iter(chosen)
            .for_each_concurrent(SIDE_BY_SIDE, async |(id, told)| self.one(id, told).await)
            .await;
        if self.is_silent() {
            return self.leave_out("most of it: servers or simulator do not answer any more");
        }
        self.books().await;
        self.store().await;
    }

    /// The orders that are to be checked.
    fn chosen(&self) -> Vec<(Uuid, Option<Heard>)> {
        let mut all: Vec<_> = self.orders.lock().unwrap().iter().map(|(id, heard)| (*id, *heard)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        if let Check::Sample(count) = self.sources.which {
            let mut chance = Chance::new(self.sources.seed);
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(all.len());
            for place in 0..count {
                let other = place + chance.below((all.len() - place) as i64) as usize;
                all.swap(place, other);
            }
            all.truncate(count);
        }
        all
    }

    fn blame(&self, whom: String, what: String) {
        let mut found = self.found.lock().unwrap();
        found.broken_count += 1;
        if found.broken.len() < MOST_TOLD {
            found.broken.push((whom, what));
        }
    }

    /// Whether nobody answers any more, so that to ask for the rest would take hours.
    fn is_silent(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= MOST_UNANSWERED
    }

    fn leave_out(&self, what: &str) {
        self.found.lock().unwrap().unchecked.push(what.to_owned());
    }

    async fn ask<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.sources.fleet.insist(Instant::now() + PATIENCE, PATIENCE / 3, call).await.0.answer
    }

    /// Asks once more for a new order that was never answered: the same request, so it is made only if it was not.
    async fn clear_up(&self, order: NewOrder) {
        if self.is_silent() {
            return;
        }
        let call = Call::Create(order);
        let answer = self.ask(|client| async { call.make(client, PATIENCE / 3).await }).await;
        let mut orders = self.orders.lock().unwrap();
        match answer {
            Ok(Answer::Order(answer)) => {
                let Ok(id) = answer.id.parse() else {
                    drop(orders);
                    return self.blame(
                        format!("request {}", order.request_id),
                        format!("is answered with an order without an id: {:?}", answer.id),
                    );
                };
                self.made(order.request_id, id);
                let now = Heard::of(&answer);
                let so_far = orders.entry(id).or_default();
                *so_far = Some(so_far.map_or(now, |so_far| so_far.and(now)));
            }
            Ok(Answer::Status(_) | Answer::Other) => {}
            Err(status) => {
                if let Some(id) = named(&status) {
                    orders.entry(id).or_default();
                    self.made(order.request_id, id);
                } else if !is_not_made(&status) {
                    drop(orders);
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    let request = order.request_id;
                    return self.blame(
                        format!("request {request}"),
                        format!("is not cleared up: {}", reason(&status)),
                    );
                }
            }
        }
        drop(orders);
        self.found.lock().unwrap().cleared += 1;
    }

    /// An order was made for this request; it has to be the same one each time.
    fn made(&self, request: Uuid, id: Uuid) {
        let before = *self.made.lock().unwrap().entry(request).or_insert(id);
        if before != id {
            self.blame(id.to_string(), twice(request, before));
        }
    }

    /// Where nobody else orders, there are at most as many orders as were asked for: a further one was made by a repeat.
    fn surplus(&self) {
        let known: HashSet<Uuid> = self.made.lock().unwrap().values().copied().collect();
        let orders = self.orders.lock().unwrap();
        let surplus = (orders.len() as u64).saturating_sub(self.requests);
        let mut unknown: Vec<Uuid> = orders.keys().filter(|id| !known.contains(id)).copied().collect();
        drop(orders);
        unknown.sort_unstable();
        if surplus > 0 {
            let whom = unknown.first().map_or_else(|| "the list of orders".to_owned(), Uuid::to_string);
            let what = format!(
                "I2: {surplus} more orders than the {} that were asked for; no answer named {} of them, this one first",
                self.requests,
                unknown.len()
            );
            self.blame(whom, what);
        }
    }

    /// Takes down every order that is there, also those that nobody was told of.
    async fn list(&self) {
        let mut page_token = String::new();
        loop {
            let request = pb::ListOrdersRequest { page_size: PAGE, page_token, ..Default::default() };
            let page = self.ask(|mut client| {
                let request = request.clone();
                async move { Ok(client.list_orders(request).await?.into_inner()) }
            });
            let page = match page.await {
                Ok(page) => page,
                Err(status) => {
                    return self.blame(
                        "the list of orders".to_owned(),
                        format!("cannot be read: {}", reason(&status)),
                    );
                }
            };
            let mut orders = self.orders.lock().unwrap();
            for id in page.orders.iter().filter_map(|order| order.id.parse().ok()) {
                orders.entry(id).or_default();
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return;
            }
        }
    }

    /// Checks one order, which may still be moving.
    async fn one(&self, id: Uuid, told: Option<Heard>) {
        if self.is_silent() {
            return;
        }
        let (mut last, mut same, mut is_awaited) = (None, 0, false);
        let broken = loop {
            let law = match self.look(id).await {
                Err(status) if status.code() == Code::NotFound => {
                    break Some("I1: it is not there".to_owned());
                }
                Err(status) => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    break Some(format!("cannot be read: {}", reason(&status)));
                }
                Ok(evidence) => {
                    let law = self.laws(&evidence, told);
                    let in_time = self.is_in_time();
                    if law.is_err() && !settled(&evidence.events) && in_time {
                        if !std::mem::replace(&mut is_awaited, true) {
                            self.progress.waiting.fetch_add(1, Ordering::Relaxed);
                        }
                        same = 0;
                        sleep(LOOK_EVERY).await;
                        continue;
                    }
                    law.err().map(|what| (what, evidence.order.version))
                }
            };
            let Some(now) = law else { break None };
            same = if last.as_ref() == Some(&now) { same + 1 } else { 1 };
            if same >= LOOKS {
                break Some(now.0);
            }
            last = Some(now);
            sleep(LOOK_EVERY).await;
        };
        self.progress.checked.fetch_add(1, Ordering::Relaxed);
        self.found.lock().unwrap().checked += 1;
        if let Some(what) = broken {
            self.blame(id.to_string(), what);
        }
        if is_awaited {
            let mut found = self.found.lock().unwrap();
            found.settled_after = found.settled_after.max(Some(self.started.elapsed()));
        }
    }

    /// Whether sagas may still be under way.
    fn is_in_time(&self) -> bool {
        self.waits_since.elapsed() < self.sources.settle
    }

    /// The books first: what the service says afterwards is at least as new.
    async fn look(&self, id: Uuid) -> Result<Evidence, Status> {
        let truth: Truth = match &self.ledger {
            None => Truth::default(),
            Some(client) => {
                let request = sim::GetLedgerRequest { order_id: id.to_string(), ..Default::default() };
                (&page(client, &request).await?).into()
            }
        };
        self.ask(|client| {
            let (truth, id) = (truth.clone(), id.to_string());
            async move { try_gather(&client, &id, truth).await }
        })
        .await
    }

    fn laws(&self, evidence: &Evidence, told: Option<Heard>) -> Result<(), String> {
        if let Some(told) = &told {
            heard(told, evidence)?;
            let asked = evidence.order.id.parse().ok().and_then(|id| self.changes.get(&id));
            asked.copied().unwrap_or_default().law(&evidence.events)?;
        }
        if self.ledger.is_some() {
            return check(evidence);
        }
        if !settled(&evidence.events) {
            return Err("I9: a saga has not ended".to_owned());
        }
        sums(&evidence.order)?;
        walk(evidence)
    }

    /// Nothing was sold twice or is kept for nobody; nothing was done for orders that are not there.
    async fn books(&self) {
        let Some(client) = &self.ledger else { return };
        let is_own = self.sources.own_store.is_some();
        let mut strangers = BTreeSet::new();
        let unread = |status: &Status| {
            self.blame("simulator".to_owned(), format!("its ledger cannot be read: {}", reason(status)));
        };
        let mut request =
            sim::GetLedgerRequest { page_size: if is_own { 1_000 } else { 1 }, ..Default::default() };
        let mut stock = loop {
            let page = match page(client, &request).await {
                Ok(page) => page,
                Err(status) => return unread(&status),
            };
            if is_own {
                let orders = self.orders.lock().unwrap();
                let ids = page.charges.iter().map(|one| &one.order_id);
                let ids = ids.chain(page.reservations.iter().map(|one| &one.order_id));
                let ids = ids.chain(page.labels.iter().map(|one| &one.order_id));
                let ids = ids.filter_map(|id| id.parse::<Uuid>().ok());
                strangers.extend(ids.filter(|id| !id.is_nil() && !orders.contains_key(id)));
            }
            if page.next_page_token.is_empty() || !is_own {
                break page.stock;
            }
            request.page_token = page.next_page_token;
        };
        for id in strangers {
            self.blame(
                id.to_string(),
                "payment or inventory did something for it, and it is not there".to_owned(),
            );
        }
        // Of a sample, nobody has waited for the other orders.
        let is_sample = is_own && matches!(self.sources.which, Check::Sample(_));
        while is_sample && stock.iter().any(|one| one.reserved > 0) && self.is_in_time() {
            sleep(LOOK_EVERY).await;
            let one = sim::GetLedgerRequest { page_size: 1, ..Default::default() };
            stock = match page(client, &one).await {
                Ok(page) => page.stock,
                Err(status) => return unread(&status),
            };
        }
        for one in stock {
            let what = format!("product {}/{}", one.product_id, one.variant_id);
            if one.available + one.reserved + one.committed != one.initial {
                self.blame(what.clone(), format!("I5: its stock does not add up: {one:?}"));
            }
            if is_own && one.reserved > 0 {
                self.blame(what, format!("I5: {} of it are held, and no saga is under way", one.reserved));
            }
        }
    }

    /// The service's own check of what it has stored, where the store is ours to read.
    async fn store(&self) {
        let Some(url) = &self.sources.own_store else { return };
        let settings = [("ORDER__STORE__URL".to_owned(), url.clone())];
        let config = Config::load(&[], settings.into_iter()).unwrap();
        let options = Options { page_size: 500, pages_per_second: None, patience: PATIENCE * 2, only: None };
        let mut findings = Findings(self);
        if let Err(error) = app::verify(&config, &options, &mut findings, std::future::pending()).await {
            self.blame("the store".to_owned(), format!("cannot be verified: {error}"));
        }
    }
}

/// Takes down what the store's own check finds.
struct Findings<'a>(&'a Work<'a>);

impl Witness for Findings<'_> {
    fn violation(&mut self, finding: &Finding) -> ControlFlow<()> {
        self.0.blame(
            finding.order.to_string(),
            format!("in the store: {} {}", finding.violation.invariant, finding.violation.what),
        );
        ControlFlow::Continue(())
    }

    fn progress(&mut self, _: &Report) {}
}
