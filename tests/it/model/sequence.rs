//! One seed's sequence: what is asked, and how the answers and what is there at rest compare with the reference model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use order_service::clients::sim::catalogue::{self, RARE_PRODUCT, product, user};
use order_service::domain::ids::OrderId;
use order_service::domain::item::ProductRef;
use order_service::ports::store::OrderStore;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{
    Cancelled, Confirmed, Delivered, Processing, Returned, Shipped,
};
use rust_decimal::Decimal;

use super::reference::{Act, Back, Circumstances, Life, Line, Weather, fits, outcomes};
use super::world::{Setup, World, key, now, pass};
use crate::harness::Chance;
use crate::harness::invariants::{self, Evidence};
use crate::harness::laws::{Law, law};
use crate::harness::node::sample_order;

/// Products of these tests, by number; the third is scarce.
const PRODUCTS: [u32; 6] = [1, 3, RARE_PRODUCT, 5, 14, 15];

fn named(product: ProductRef) -> String {
    let variant = product.variant_id.map(|id| id.to_string()).unwrap_or_default();
    format!("{}/{variant}", product.product_id)
}

fn is_scarce(name: &str) -> bool {
    name == named(product(RARE_PRODUCT))
}

fn money(text: &str) -> Decimal {
    if text.is_empty() { Decimal::ZERO } else { text.parse().unwrap() }
}

/// A call that was made.
#[derive(Clone, Debug)]
struct Call {
    act: Act,
    request_id: String,
    version: i64,
}

/// One order of a sequence.
struct Subject {
    id: OrderId,
    new: pb::CreateOrderRequest,
    weather: Weather,
    wish: Life,
    /// What it may be.
    may_be: Vec<Option<Life>>,
    seen: Option<pb::Order>,
    calls: Vec<Call>,
    /// Requests of which it is certain that they were carried out.
    done: Vec<String>,
}

impl Subject {
    fn draw(chance: &mut Chance, name: &str, weather: Weather) -> Self {
        let mut lines: BTreeMap<String, i32> = BTreeMap::new();
        for _ in 0..=chance.below(2) {
            let number = chance.pick(&PRODUCTS);
            let most = if number == RARE_PRODUCT { 2 } else { 5 };
            *lines.entry(named(product(number))).or_default() += 1 + chance.below(most) as i32;
        }
        let coupon = if chance.percent(2) {
            "LIMITED3"
        } else {
            chance.pick(&["", "", "", "SUMMER10", "WELCOME5", "FREEALL"])
        };
        let shipping = chance.pick(&["STANDARD", "EXPRESS", "PICKUP"]);
        let user = user(1 + chance.below(20) as u32);
        let items = lines.iter().map(|(name, quantity)| {
            let (product_id, variant_id) = name.split_once('/').unwrap();
            let (product_id, variant_id) = (product_id.to_owned(), variant_id.to_owned());
            pb::NewOrderItem { product_id, variant_id, quantity: *quantity }
        });
        let token = if chance.percent(6) { catalogue::TOKEN_DECLINED } else { "tok_visa" };
        let new = pb::CreateOrderRequest {
            request_id: name.to_owned(),
            user_id: user.0.to_string(),
            items: items.collect(),
            coupon_code: coupon.to_owned(),
            shipping_method: shipping.to_owned(),
            payment_token: token.to_owned(),
            ..sample_order()
        };
        let weather = Weather {
            declines: weather.declines || token == catalogue::TOKEN_DECLINED,
            coupon: matches!(coupon, "WELCOME5" | "LIMITED3"),
            scarce: lines.keys().any(|name| is_scarce(name)),
            ..weather
        };
        let line = |quantity| Line { quantity, cost: Decimal::ZERO, returned: 0 };
        let wish = Life {
            status: Confirmed,
            lines: lines.into_iter().map(|(name, quantity)| (name, line(quantity))).collect(),
            total: None,
            back: Back::Exactly(Decimal::ZERO),
            held: false,
        };
        let id = OrderId::for_request(&key(), user, Some(name), now(), 0);
        let (may_be, calls, done) = (vec![None], Vec::new(), Vec::new());
        Self { id, new, weather, wish, may_be, seen: None, calls, done }
    }

    fn draw_act(&self, chance: &mut Chance) -> Act {
        let Some(order) = &self.seen else {
            return match chance.below(10) {
                0 => chance
                    .pick(&[Act::Cancel, Act::Become(Processing), Act::Release, Act::Read].each_ref())
                    .clone(),
                _ => Act::Create { other_content: false },
            };
        };
        let line = &order.items[chance.below(order.items.len() as i64) as usize];
        let (item, name) = (line.id.clone(), format!("{}/{}", line.product_id, line.variant_id));
        let scarce = is_scarce(&name);
        let forward = match order.status() {
            Confirmed => Processing,
            Processing => Shipped,
            Shipped => chance.pick(&[Delivered, Returned]),
            Delivered => Returned,
            _ => Cancelled,
        };
        let total = money(&order.total_amount);
        match chance.below(100) {
            0..=2 => Act::Create { other_content: chance.percent(30) },
            3..=9 => Act::Cancel,
            10..=34 => Act::Become(forward),
            35..=38 => {
                Act::Become(chance.pick(&[Confirmed, Processing, Shipped, Delivered, Cancelled, Returned]))
            }
            39..=48 => {
                let number = chance.pick(&PRODUCTS);
                let (product, quantity) = (named(product(number)), 1 + chance.below(3) as i32);
                let (scarce, preview) = (number == RARE_PRODUCT, chance.percent(15));
                Act::Add { product, quantity, scarce, preview }
            }
            49..=58 => {
                let quantity = 1 + chance.below(6) as i32;
                Act::Set { item, product: name, quantity, scarce }
            }
            59..=62 => Act::Remove { item, product: name },
            63..=70 => {
                let part = Decimal::new(chance.pick(&[10, 33, 50, 100, 150]), 2);
                Act::RefundAmount((total * part).round_dp(2).max(Decimal::new(1, 2)))
            }
            71..=78 => {
                let quantity = 1 + chance.below(3) as i32;
                Act::RefundItems { item, product: name, quantity }
            }
            79..=81 => Act::RefundRest,
            82..=86 => Act::Hold,
            87..=92 => Act::Release,
            93..=95 => Act::Restart,
            _ => Act::Read,
        }
    }

    fn draw_call(&self, chance: &mut Chance, name: &str) -> Call {
        if !self.calls.is_empty() && chance.percent(12) {
            return chance.pick(&self.calls.iter().collect::<Vec<_>>()).clone();
        }
        let act = self.draw_act(chance);
        let request_id = if chance.percent(60) { name.to_owned() } else { String::new() };
        let version = self.seen.as_ref().map_or(0, |order| order.version);
        let version = match chance.below(12) {
            0 => version,
            1 if version > 1 => version - 1,
            _ => 0,
        };
        Call { act, request_id, version }
    }

    /// Lets these calls run, all at once, and compares.
    async fn step(&mut self, world: &World, setup: &Setup, calls: &[(Call, u64)]) -> Law {
        let id = self.id.to_string();
        let asked = calls.iter().map(|(call, delay)| {
            let id = &id;
            let new = &self.new;
            async move {
                pass(Duration::from_millis(*delay)).await;
                let Call { act, request_id, version } = call;
                world.ask(act, id, request_id, *version, new).await
            }
        });
        let answers = join_all(asked).await;
        for ((call, delay), answer) in calls.iter().zip(&answers) {
            let told = answer.as_ref().map(|order| (order.version, order.status(), &order.total_amount));
            world.tell(format!("  {} +{delay}ms {call:?} -> {told:?}", &id[24..]));
        }
        let overlap = calls.len() > 1;
        let is_creation = |call: &Call| matches!(call.act, Act::Create { .. });
        let creating =
            calls.iter().any(|(call, _)| is_creation(call)) && self.may_be.contains(&None) && overlap;
        let dying = calls.iter().any(|(call, _)| matches!(call.act, Act::Restart));
        let version = self.seen.as_ref().map_or(0, |order| order.version);
        let mut circumstances = Vec::new();
        for (place, (call, _)) in calls.iter().enumerate() {
            let same = |other: &Call| !call.request_id.is_empty() && other.request_id == call.request_id;
            let earlier = self.calls.iter().filter(|other| same(other)).count() > 0;
            let twice = calls.iter().enumerate().any(|(other, (with, _))| other != place && same(with));
            let known = self.done.contains(&call.request_id);
            circumstances.push(Circumstances {
                weather: self.weather,
                overlap,
                creating,
                holding: calls.iter().any(|(call, _)| matches!(call.act, Act::Hold)),
                dying,
                // When its actor ends, a caller is told what is stored.
                patient: setup.patient && !setup.weather.store_fails && !dying,
                stale: call.version != 0 && (call.version != version || overlap),
                repeat: if known { Some(true) } else { (earlier || twice).then_some(false) },
            });
        }
        let named = |call: &&Call| {
            !call.request_id.is_empty() && !matches!(call.act, Act::Create { .. } | Act::Read | Act::Restart)
        };
        self.calls.extend(calls.iter().map(|(call, _)| call).filter(named).cloned());
        let mut may_be = Vec::new();
        for order in orders_of(calls.len()) {
            let mut states = self.may_be.clone();
            for place in order {
                let (call, answer) = (&calls[place].0, &answers[place]);
                let answer = answer.as_ref().map_err(String::as_str);
                states = states
                    .iter()
                    .flat_map(|state| outcomes(state, &call.act, answer, &self.wish, circumstances[place]))
                    .collect();
            }
            for state in states {
                if !may_be.contains(&state) {
                    may_be.push(state);
                }
            }
        }
        law!(!may_be.is_empty(), "no such answer in {:?}: {answers:?}", self.may_be);
        let before = std::mem::replace(&mut self.may_be, may_be);
        let evidence = self.look(world).await?;
        if let Some(evidence) = &evidence {
            for answer in answers.iter().flatten().filter(|answer| answer.id == id) {
                let preview = calls.len() == 1 && matches!(calls[0].0.act, Act::Add { preview: true, .. });
                let near = calls.iter().any(|(call, _)| matches!(call.act, Act::Add { preview: true, .. }));
                if !preview && !near {
                    invariants::acknowledged(answer, evidence)?;
                }
            }
        }
        if let ([(call, _)], [Ok(_)]) = (calls, answers.as_slice())
            && !call.request_id.is_empty()
            && !before.iter().any(|state| self.may_be.contains(state))
        {
            self.done.push(call.request_id.clone());
        }
        Ok(())
    }

    /// Waits for rest, checks everything, and keeps those states that the order may be in.
    async fn look(&mut self, world: &World) -> Result<Option<Evidence>, String> {
        let evidence = world.at_rest(self.id).await?;
        let seen = match &evidence {
            None => None,
            Some(evidence) => {
                invariants::check(evidence)?;
                Some(seen(evidence))
            }
        };
        let mut may_be: Vec<Option<Life>> = Vec::new();
        for state in self.may_be.iter().filter(|state| fits(state, &seen)) {
            let mut state = state.clone();
            if let (Some(life), Some(seen)) = (&mut state, &seen) {
                for (name, line) in &mut life.lines {
                    line.cost = seen.lines.get(name).map_or(Decimal::ZERO, |line| line.cost);
                }
                (life.total, life.back, life.held) = (seen.total, seen.back, seen.held);
            }
            if !may_be.contains(&state) {
                may_be.push(state);
            }
        }
        law!(!may_be.is_empty(), "expected one of {:?}\nfound {seen:?}", self.may_be);
        self.may_be = may_be;
        self.seen = evidence.as_ref().map(|evidence| evidence.order.clone());
        Ok(evidence)
    }
}

/// The order as the model would have it, told by what was found.
fn seen(evidence: &Evidence) -> Life {
    let order = &evidence.order;
    let lines = order.items.iter().map(|item| {
        let cost = money(&item.subtotal) - money(&item.discount_amount) + money(&item.tax_amount);
        let line = Line { quantity: item.quantity, cost, returned: 0 };
        (format!("{}/{}", item.product_id, item.variant_id), line)
    });
    let total = money(&order.total_amount);
    let taken = evidence.truth.charges.iter().filter(|(state, ..)| state == "SUCCEEDED");
    let kept: Decimal =
        taken.map(|(_, amount, _)| amount).sum::<Decimal>() - evidence.truth.refunds.iter().sum::<Decimal>();
    Life {
        status: order.status(),
        lines: lines.collect(),
        total: Some(total),
        back: Back::Exactly(total - kept),
        held: order.hold.is_some(),
    }
}

/// Every order of up to three things.
fn orders_of(count: usize) -> Vec<Vec<usize>> {
    match count {
        0 | 1 => vec![(0..count).collect()],
        2 => vec![vec![0, 1], vec![1, 0]],
        _ => {
            let all = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
            all.iter().map(|order| order.to_vec()).collect()
        }
    }
}

/// What a sequence was about, for counting.
#[derive(Clone, Debug, Default)]
pub struct Tale {
    pub ends: Vec<String>,
    pub calls: u64,
}

/// Plays the sequence of a seed.
pub async fn play(seed: u64, store: Arc<dyn OrderStore>) -> Result<Tale, String> {
    let mut chance = Chance::new(seed);
    let setup = Setup::draw(&mut chance);
    let world = World::new(store, setup.clone(), Chance::new(!seed)).await;
    world.tell(format!("{setup:?}"));
    let played = run(seed, &mut chance, &world, &setup).await;
    world.end().await;
    played.map_err(|what| format!("{}\n{what}", world.story()))
}

async fn run(seed: u64, chance: &mut Chance, world: &World, setup: &Setup) -> Result<Tale, String> {
    let mut tale = Tale::default();
    let mut subjects: Vec<Subject> =
        (0..=chance.below(2)).map(|n| Subject::draw(chance, &format!("{seed}-{n}"), setup.weather)).collect();
    let mut left = 3 + chance.below(10);
    while left > 0 {
        let place = chance.below(subjects.len() as i64) as usize;
        let subject = &mut subjects[place];
        let together = chance.pick(&[1, 1, 1, 2, 2, 3]).min(left);
        left -= together;
        let mut calls = Vec::new();
        for _ in 0..together {
            let call = subject.draw_call(chance, &format!("{seed}-{left}-{}", calls.len()));
            let delay = if together > 1 { chance.pick(&[0, 0, 1, 3]) } else { 0 };
            calls.push((call, delay));
        }
        tale.calls += calls.len() as u64;
        subject.step(world, setup, &calls).await?;
    }
    world.calm();
    for subject in &mut subjects {
        subject.look(world).await?;
        let end = subject.seen.as_ref().map_or("NONE", |order| order.status().as_str_name());
        tale.ends.push(end.to_owned());
    }
    let ids: Vec<OrderId> = subjects.iter().map(|subject| subject.id).collect();
    world.shelves(&ids)?;
    Ok(tale)
}
