//! What several tests share: seeded chance, orders from the real price book, a model of the collaborators, the laws,
//! private Postgres servers and what breaks them.

pub mod access;
pub mod api;
pub mod api_in_process;
pub mod certificates;
pub mod cluster;
pub mod cluster_audit;
pub mod collector;
pub mod edits;
pub mod fleet;
pub mod frames;
pub mod http;
pub mod invariants;
pub mod laws;
pub mod links;
pub mod load;
pub mod members;
pub mod node;
pub mod orders;
pub mod pg_store;
pub mod pgbouncer;
pub mod place;
pub mod plans;
pub mod postgres;
pub mod postgres_binaries;
pub mod process;
pub mod proxy;
pub mod raw_http2;
pub mod redis;
pub mod scenarios;
pub mod small_disk;
pub mod standby;
pub mod stores;
pub mod takeover;
pub mod tokens;
pub mod traffic;
pub mod traps;
pub mod wait;
pub mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use config::{Config, File, FileFormat};
use order_service::domain::Timestamp;
use order_service::domain::access::{Caller, Role};
use order_service::domain::address::{Address, AddressKind, RawAddress};
use order_service::domain::amend::Edit;
use order_service::domain::command::{Ask, Draft, OrderCommand, Repeatable, RequestContext, Tracking};
use order_service::domain::ids::{IdKey, OrderId, OrderNumber, UserId};
use order_service::domain::item::{OrderItem, ProductRef};
use order_service::domain::money::{Currency, parse_amount};
use order_service::domain::order::Order;
use order_service::domain::payment::PaymentToken;
use order_service::domain::pricing::{PriceBook, Pricing, PricingDocument, QuoteLine, QuoteRequest};
use order_service::domain::reach::Reach;
use order_service::domain::react::Policy;
use order_service::domain::status::OrderStatus;
use uuid::Uuid;

/// A small generator of chance (SplitMix64): the same seed gives the same run, for ever and everywhere.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when `end` is not positive.
    pub fn below(&mut self, end: i64) -> i64 {
        if end <= 0 { 0 } else { (self.bits() % end as u64) as i64 }
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < i64::from(percent)
    }

    /// One of `all`.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as i64) as usize]
    }
}

/// The first moment of every run.
pub fn dawn() -> Timestamp {
    "2024-05-03T12:00:00Z".parse().unwrap()
}

/// How long a call is waited for.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after that a provider may still carry it out.
pub const PROVIDER_LAG: Duration = Duration::from_secs(5);
/// Longest time between a commit and the call it allows.
pub const SEND_LAG: Duration = Duration::from_millis(200);

/// Patience small enough for short runs.
pub fn policy() -> Policy {
    Policy {
        retry_initial: Duration::from_millis(200),
        retry_max: Duration::from_secs(8),
        forward_tries: 4,
        attention_after_tries: 5,
        charge_settle_lag: SEND_LAG + CALL_TIMEOUT + PROVIDER_LAG,
        run_ahead: Duration::ZERO,
        reservation_ttl: Duration::from_secs(600),
        expire_after: Duration::from_secs(1_200),
        unknown_attention_after: Duration::from_secs(60),
    }
}

/// The price book that comes with the service.
pub fn price_book() -> &'static PriceBook {
    static BOOK: OnceLock<PriceBook> = OnceLock::new();
    BOOK.get_or_init(|| {
        let text = include_str!("../../../config/pricing.yaml");
        let source = Config::builder().add_source(File::from_str(text, FileFormat::Yaml)).build().unwrap();
        PriceBook::from_document(source.try_deserialize::<PricingDocument>().unwrap()).unwrap()
    })
}

/// What an order is made of.
#[derive(Clone, Debug)]
pub struct Wish {
    /// ISO 4217.
    pub currency: &'static str,
    /// Unit price and quantity of every line.
    pub lines: Vec<(&'static str, u32)>,
    /// As in the price book.
    pub shipping_method: &'static str,
    /// As in the price book.
    pub coupon: Option<&'static str>,
}

impl Wish {
    /// Two lines in dollars.
    pub fn plain() -> Self {
        Self {
            currency: "USD",
            lines: vec![("44.99", 2), ("0.99", 1)],
            shipping_method: "STANDARD",
            coupon: None,
        }
    }

    /// Any order, one in eight of them free.
    pub fn any(chance: &mut Chance) -> Self {
        let (currency, prices) = chance.pick(&[
            ("USD", ["44.99", "0.01", "100.00"]),
            ("JPY", ["1200", "1", "99999"]),
            ("KWD", ["3.250", "0.001", "12.345"]),
        ]);
        let lines = 1 + chance.below(3);
        let lines = (0..lines).map(|_| (chance.pick(&prices), 1 + chance.below(5) as u32)).collect();
        let (shipping_method, coupon) = match chance.below(8) {
            0 => ("PICKUP", Some("FREEALL")),
            1 | 2 => ("EXPRESS", Some("SUMMER10")),
            3 => ("STANDARD", Some("LIMITED3")),
            _ => ("STANDARD", None),
        };
        Self { currency, lines, shipping_method, coupon }
    }

    /// The priced order.
    pub fn draft(&self, number: u64) -> Draft {
        let key = IdKey(b"test".to_vec());
        let user = UserId(Uuid::from_u128(7));
        let id = OrderId::for_request(&key, user, None, dawn(), number);
        let currency = Currency::from_code(self.currency).unwrap();
        let prices: Vec<_> =
            self.lines.iter().map(|(price, _)| parse_amount(price, currency).unwrap()).collect();
        let lines: Vec<_> = prices
            .iter()
            .zip(&self.lines)
            .map(|(unit_price, (_, quantity))| QuoteLine {
                unit_price: *unit_price,
                quantity: *quantity,
                tax_class: "standard",
            })
            .collect();
        let address = |kind| {
            let raw = RawAddress {
                first_name: "Ada".into(),
                last_name: "Lovelace".into(),
                address_line1: "1 Main Street".into(),
                city: "New York".into(),
                state: "NY".into(),
                postal_code: "10001".into(),
                country: "US".into(),
                ..RawAddress::default()
            };
            Address::parse(kind, &raw, "shipping_address", &mut Vec::new()).unwrap()
        };
        let addresses = vec![address(AddressKind::Shipping), address(AddressKind::Billing)];
        let request = QuoteRequest {
            currency,
            lines: &lines,
            country: addresses[0].country,
            state: "NY",
            shipping_method: self.shipping_method,
            coupon: self.coupon,
            now: dawn(),
        };
        let quote = price_book().quote(&request).unwrap();
        let items = quote.lines.iter().zip(&lines).enumerate().map(|(n, (quoted, line))| OrderItem {
            id: id.part("item", n as u64),
            product: ProductRef { product_id: Uuid::from_u128(100 + n as u128), variant_id: None },
            sku: format!("SKU-{n}"),
            name: format!("Thing {n}"),
            tax_class: line.tax_class.to_owned(),
            quantity: line.quantity,
            unit_price: line.unit_price,
            subtotal: quoted.subtotal,
            discount_amount: quoted.discount,
            tax_amount: quoted.tax,
            created_at: dawn(),
            updated_at: dawn(),
        });
        Draft {
            id,
            order_number: OrderNumber::of(&key, id, 0),
            user_id: user,
            currency,
            totals: quote.totals,
            items: items.collect(),
            addresses,
            payment_method: "CREDIT_CARD".to_owned(),
            payment_token: Some(PaymentToken::new("tok_secret")),
            shipping_method: self.shipping_method.to_owned(),
            notes: String::new(),
            coupon: quote.coupon,
            metadata: BTreeMap::new(),
            request_hash: [1; 16],
            risk: None,
        }
    }
}

/// What is not in any order of these tests at first.
pub const NOVELTY: ProductRef = ProductRef { product_id: Uuid::from_u128(900), variant_id: None };

/// The order with so many of these products; 0 removes a line. None when it cannot be priced so.
pub fn edited(order: &Order, quantities: &[(ProductRef, u32)]) -> Option<Edit> {
    let base = order.items.to_vec();
    let mut items = base.clone();
    for (product, quantity) in quantities {
        match items.iter_mut().find(|item| item.product == *product) {
            Some(item) => item.quantity = *quantity,
            None => items.push(OrderItem {
                id: order.id.part("item-added", order.event_seq as u64),
                product: *product,
                sku: "SKU-NEW".to_owned(),
                name: "New thing".to_owned(),
                quantity: *quantity,
                unit_price: parse_amount("7", order.currency).unwrap(),
                ..base[0].clone()
            }),
        }
    }
    items.retain(|item| item.quantity > 0);
    let lines: Vec<_> = items
        .iter()
        .map(|item| QuoteLine {
            unit_price: item.unit_price,
            quantity: item.quantity,
            tax_class: &item.tax_class,
        })
        .collect();
    let request = QuoteRequest {
        currency: order.currency,
        lines: &lines,
        country: order.addresses[0].country,
        state: "NY",
        shipping_method: &order.shipping_method,
        coupon: order.coupon_code.as_deref(),
        now: order.created_at,
    };
    let quote = price_book().quote(&request).ok()?;
    for (item, priced) in items.iter_mut().zip(&quote.lines) {
        (item.subtotal, item.discount_amount, item.tax_amount) =
            (priced.subtotal, priced.discount, priced.tax);
    }
    Some(Edit { base, items, totals: quote.totals })
}

/// A command as an administrator gives it; with a request id and the hash of its content, when it is repeatable.
pub fn ask(command: OrderCommand, request: Option<(&str, u8)>, expected_version: Option<i64>) -> Ask {
    let request_id = request.map_or("", |(id, _)| id);
    Ask {
        caller: Caller {
            principal: Arc::from("tester"),
            roles: Arc::from([Role::Admin]),
            user: None,
            reason: None,
            until: None,
        },
        reach: Reach::All,
        context: RequestContext { request_id: Arc::from(request_id), trace: None },
        expected_version,
        repeatable: request
            .map(|(id, content)| Repeatable { request_id: id.to_owned(), hash: [content; 16] }),
        command,
    }
}

/// A wish for a status; with tracking when the parcel is handed over.
pub fn set_status(to: OrderStatus) -> OrderCommand {
    let tracking = (to == OrderStatus::Shipped)
        .then(|| Tracking { carrier: "UPS".to_owned(), tracking_number: "1Z".to_owned() });
    OrderCommand::SetStatus { to, notes: String::new(), tracking }
}
