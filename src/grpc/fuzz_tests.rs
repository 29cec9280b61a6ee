//! What callers may send, by chance: every request and the headers beside it, as garbage, as mutations of what is good,
//! and as good with bad parts. Nothing may panic, and what is accepted keeps to the limits.
//!
//! `ORDER_FUZZ_CASES` says how many (default 20,000) and `ORDER_FUZZ_FROM` where to begin. Many are run with:
//!
//! ```text
//! ORDER_FUZZ_CASES=10000000 cargo test --release --lib grpc::fuzz
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use prost::Message;
use tonic::metadata::MetadataMap;

use super::auth;
use super::forward::{self, Routed};
use super::validate::{Checker, RequestLimits};
use crate::config::{PricingConfig, price_book};
use crate::domain::ids::IdKey;
use crate::domain::pricing::PriceBook;
use crate::domain::text;
use crate::domain::trace::{STATE_LEN, TraceContext};
use crate::proto::order as pb;
use crate::trace::{Asker, Name};

mod requests;
mod samples;

/// Chance that is the same for the same seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.bits() % end.max(1) as u64) as usize
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

struct Service {
    limits: RequestLimits,
    pricing: PriceBook,
    key: IdKey,
}

fn service() -> Service {
    Service {
        limits: RequestLimits {
            items_per_order: 200,
            max_quantity: 9_999,
            notes_chars: 2_000,
            metadata_keys: 32,
            metadata_bytes: 256,
            page_size_default: 50,
            page_size_max: 200,
        },
        pricing: price_book(&PricingConfig { file: None }).unwrap(),
        key: IdKey(b"a key for requests by chance".to_vec()),
    }
}

/// A request that can be made by chance and looked at; says whether it was accepted.
trait Fuzzed: Message + Default {
    /// A good one, with some parts that are not.
    fn sample(chance: &mut Chance) -> Self;
    /// Does what the service does with it before anything else is asked.
    fn accepted(&self, service: &Service) -> bool;
}

/// A text that was accepted: clean, without a card number, and not too long.
#[track_caller]
fn fits(text: &str, most: usize) {
    assert!(text.chars().count() <= most, "{} characters of {most}", text.chars().count());
    assert_eq!(text::clean(text).as_deref(), Ok(text), "it is as it should be stored");
    assert!(!text::contains_card_number(text));
}

fn repeatable(check: &mut Checker, request_id: &str) {
    if let Some(repeatable) = check.repeatable(request_id, [0; 16])
        && check.violations.is_empty()
    {
        fits(&repeatable.request_id, 64);
    }
}

/// What every change of an order has.
fn change<R: Routed>(check: &mut Checker, request: &R, id: &str, version: i64, service: &Service) {
    let _slot = request.slot(&service.key);
    let mut request = request.clone();
    let request_id = request.request_id().map(|id| id.clone()).unwrap_or_default();
    check.order_id("id", id);
    let version = check.expected_version(version);
    assert!(version.is_none_or(|version| version > 0));
    repeatable(check, &request_id);
}

/// Request, and how often it was accepted and refused.
type Tally = BTreeMap<&'static str, (u64, u64)>;

/// A request in one of three ways; counts what became of it.
fn request<M: Fuzzed>(name: &'static str, chance: &mut Chance, service: &Service, tally: &mut Tally) {
    let bytes = match chance.below(4) {
        0 => {
            let length = chance.below(300);
            (0..length).map(|_| chance.bits() as u8).collect()
        }
        1 => {
            let mut bytes = M::sample(chance).encode_to_vec();
            mutate(&mut bytes, chance);
            bytes
        }
        _ => M::sample(chance).encode_to_vec(),
    };
    let accepted = M::decode(bytes.as_slice()).is_ok_and(|request| request.accepted(service));
    let entry = tally.entry(name).or_default();
    if accepted {
        entry.0 += 1;
    } else {
        entry.1 += 1;
    }
}

fn mutate(bytes: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..=chance.below(4) {
        if bytes.is_empty() {
            return;
        }
        let place = chance.below(bytes.len());
        match chance.below(5) {
            0 => bytes[place] ^= 1 << chance.below(8),
            1 => bytes[place] = chance.bits() as u8,
            2 => bytes.truncate(place),
            3 => bytes.insert(place, chance.bits() as u8),
            _ => {
                let end = (place + chance.below(16)).min(bytes.len());
                let part = bytes[place..end].to_vec();
                bytes.splice(place..place, part);
            }
        }
    }
}

/// The headers beside a request.
fn headers(chance: &mut Chance) {
    const NAMES: [&str; 10] = [
        "grpc-timeout",
        "x-request-id",
        "traceparent",
        "tracestate",
        "x-order-view",
        "x-order-principal-bin",
        "x-order-roles",
        "x-order-user",
        "x-order-reason-bin",
        "authorization",
    ];
    let mut all = http::HeaderMap::new();
    for name in NAMES {
        let value: Vec<u8> = match chance.below(4) {
            0 => continue,
            1 => (0..chance.below(80)).map(|_| (b' ' + chance.below(95) as u8) & 0x7F).collect(),
            2 => format!(
                "{}{}",
                chance.bits() >> chance.below(64),
                chance.pick(&["S", "m", "u", "n", "H", "ä", ""])
            )
            .into(),
            _ => samples::text(chance).into_bytes(),
        };
        if let Ok(value) = http::HeaderValue::from_bytes(&value) {
            all.insert(name, value);
        }
    }
    let metadata = MetadataMap::from_headers(all);
    let _time = auth::deadline(&metadata);
    let _view = forward::view_of(&metadata);
    let _caller = forward::caller_of(&metadata);
    let (context, _span) = auth::context(&metadata, Asker::Anybody, Name::Word("fuzzed"));
    assert!((1..=64).contains(&context.request_id.len()) && context.request_id.is_ascii());
    assert!(!text::contains_card_number(&context.request_id));
    let trace = context.trace.unwrap();
    assert_eq!(TraceContext::parse(&trace.parent()).map(|read| read.span), Some(trace.span));
    assert!(trace.state.is_none_or(|state| state.len() <= STATE_LEN));
}

/// One case, told by its number alone.
fn case(number: u64, service: &Service, tally: &mut Tally) {
    let chance = &mut Chance(number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    match number % 16 {
        0..=2 => request::<pb::CreateOrderRequest>("CreateOrder", chance, service, tally),
        3 => request::<pb::UpdateOrderStatusRequest>("UpdateOrderStatus", chance, service, tally),
        4 => request::<pb::RefundOrderRequest>("RefundOrder", chance, service, tally),
        5 => request::<pb::AddOrderItemRequest>("AddOrderItem", chance, service, tally),
        6 => request::<pb::UpdateOrderItemRequest>("UpdateOrderItem", chance, service, tally),
        7 => request::<pb::RemoveOrderItemRequest>("RemoveOrderItem", chance, service, tally),
        8 => request::<pb::HoldOrderRequest>("HoldOrder", chance, service, tally),
        9 => request::<pb::ReleaseOrderRequest>("ReleaseOrder", chance, service, tally),
        10 => request::<pb::AddShipmentRequest>("AddShipment", chance, service, tally),
        11 => request::<pb::CancelOrderRequest>("CancelOrder", chance, service, tally),
        12 => request::<pb::GetOrderRequest>("GetOrder", chance, service, tally),
        13 => request::<pb::GetOrderStatusRequest>("GetOrderStatus", chance, service, tally),
        14 => request::<pb::ListOrdersRequest>("ListOrders", chance, service, tally),
        _ => headers(chance),
    }
}

fn wished(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn whatever_is_sent_nothing_panics_and_what_is_accepted_fits() {
    let (from, cases) = (wished("ORDER_FUZZ_FROM", 0), wished("ORDER_FUZZ_CASES", 20_000));
    let threads = thread::available_parallelism().map_or(1, |number| number.get() as u64);
    let run = |first: u64| {
        let (service, mut tally) = (service(), Tally::new());
        for number in (from + first..from + cases).step_by(threads as usize) {
            let one = catch_unwind(AssertUnwindSafe(|| case(number, &service, &mut tally)));
            assert!(one.is_ok(), "case {number}: again with ORDER_FUZZ_FROM={number} ORDER_FUZZ_CASES=1");
        }
        tally
    };
    let mut all = Tally::new();
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || run(first))).collect();
        for part in running {
            for (name, (accepted, refused)) in part.join().unwrap() {
                let entry = all.entry(name).or_default();
                *entry = (entry.0 + accepted, entry.1 + refused);
            }
        }
    });
    println!("{cases} cases, accepted and refused: {all:?}");
    if cases >= 20_000 {
        // It tries both sides of each limit.
        assert_eq!(all.len(), 13);
        assert!(all.values().all(|(accepted, refused)| *accepted > 20 && *refused > 20), "{all:?}");
    }
}
