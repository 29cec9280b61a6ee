//! Faults on order: by method, by chance, and the same again for the same seed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ports::call::{CallError, Collaborator, MAX_REASON_LEN};
use crate::ports::payment::reason::CARD_DECLINED;

/// Longest delay that can be set.
pub const MAX_DELAY: Duration = Duration::from_secs(60);

macro_rules! methods {
    ($($name:ident $service:ident $text:literal),+ $(,)?) => {
        /// A method that faults can be set for.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[allow(missing_docs)] // the names are those of the protos
        pub enum Method { $($name),+ }

        impl Method {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Package without version, dot, method: `payment.Charge`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// Whose method it is.
            pub const fn service(self) -> Collaborator {
                match self { $(Self::$name => Collaborator::$service),+ }
            }
        }
    };
}

methods! {
    CheckAvailability Inventory "inventory.CheckAvailability",
    Reserve Inventory "inventory.Reserve",
    Commit Inventory "inventory.Commit",
    Release Inventory "inventory.Release",
    Restock Inventory "inventory.Restock",
    BatchGetProducts Product "product.BatchGetProducts",
    GetUser User "user.GetUser",
    ValidateAddress User "user.ValidateAddress",
    Charge Payment "payment.Charge",
    GetTransaction Payment "payment.GetTransaction",
    Refund Payment "payment.Refund",
    CreateLabel Shipping "shipping.CreateLabel",
    VoidLabel Shipping "shipping.VoidLabel",
}

/// What faults are set for. The most precise one that is set counts, alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultTarget {
    /// One method.
    Method(Method),
    /// Every method of a service: `payment.*`.
    Service(Collaborator),
    /// Every method: `*`.
    All,
}

impl FaultTarget {
    /// Reads `payment.Charge`, `payment.*` or `*`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Some(service) = text.strip_suffix(".*") {
            return Collaborator::ALL.into_iter().find(|one| one.as_str() == service).map(Self::Service);
        }
        Method::ALL.iter().copied().find(|method| method.as_str() == text).map(Self::Method)
    }
}

impl fmt::Display for FaultTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(method) => f.write_str(method.as_str()),
            Self::Service(service) => write!(f, "{service}.*"),
            Self::All => f.write_str("*"),
        }
    }
}

/// Faults of one target. Rates are chances per call, 0 to 1; the default has none.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FaultSpec {
    /// Fails after validation without the effect; the caller sees [`CallError::Unknown`].
    pub error_rate: f64,
    /// Passes before the call is executed; at most [`MAX_DELAY`].
    pub delay: Duration,
    /// Executes, then the caller sees [`CallError::Unknown`].
    pub lose_reply_rate: f64,
    /// Executes twice with the same key.
    pub duplicate_rate: f64,
    /// Declines charges and refunds.
    pub decline_rate: f64,
    /// Reason of those; empty is `CARD_DECLINED`.
    pub decline_code: String,
    /// Has nothing of anything: availability checks and reservations.
    pub out_of_stock_rate: f64,
    /// Every call is [`CallError::Unavailable`].
    pub unavailable: bool,
    /// The same by chance.
    pub unavailable_rate: f64,
    /// After this many struck calls the faults are spent; `None`: never.
    pub max_count: Option<u64>,
    /// Same seed and same calls: same faults.
    pub seed: u64,
}

impl FaultSpec {
    /// What is out of range, if anything.
    fn problem(&self) -> Option<&'static str> {
        let rates = [
            self.error_rate,
            self.lose_reply_rate,
            self.duplicate_rate,
            self.decline_rate,
            self.out_of_stock_rate,
            self.unavailable_rate,
        ];
        let upper_snake = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        if rates.iter().any(|rate| !(0.0..=1.0).contains(rate)) {
            Some("every rate must be a number from 0 to 1")
        } else if self.delay > MAX_DELAY {
            Some("delay_ms must be at most 60000")
        } else if self.decline_code.len() > MAX_REASON_LEN || !self.decline_code.bytes().all(upper_snake) {
            Some("decline_code must be UPPER_SNAKE, at most 63 characters")
        } else {
            None
        }
    }
}

/// What shall happen to one call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    pub(super) unavailable: bool,
    pub(super) error: bool,
    pub(super) lose_reply: bool,
    pub(super) duplicate: bool,
    pub(super) out_of_stock: bool,
    pub(super) decline: Option<String>,
    pub(super) delay: Duration,
}

impl Plan {
    /// Where an executing call, validated but without effect yet, strikes the error fault.
    pub(super) fn fail_here(&self) -> Result<(), CallError> {
        if self.error { Err(CallError::Unknown("simulated error".to_owned())) } else { Ok(()) }
    }
}

/// SplitMix64: small, seedable, good enough to toss coins.
#[derive(Clone, Copy, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True with the given chance. Draws once whatever the chance, so that changing one rate leaves the others'
    /// luck as it was.
    fn strikes(&mut self, rate: f64) -> bool {
        const STEP: f64 = 1.0 / (1u64 << 53) as f64;
        ((self.next() >> 11) as f64) * STEP < rate
    }
}

#[derive(Debug)]
struct Active {
    spec: FaultSpec,
    luck: SplitMix64,
    struck: u64,
}

impl Active {
    fn draw(&mut self, method: Method) -> Plan {
        if self.spec.max_count.is_some_and(|most| self.struck >= most) {
            return Plan::default();
        }
        let [unavailable, error, lose_reply, duplicate, decline, out_of_stock] = [
            self.spec.unavailable_rate,
            self.spec.error_rate,
            self.spec.lose_reply_rate,
            self.spec.duplicate_rate,
            self.spec.decline_rate,
            self.spec.out_of_stock_rate,
        ]
        .map(|rate| self.luck.strikes(rate));
        let code = || match self.spec.decline_code.as_str() {
            "" => CARD_DECLINED.to_owned(),
            code => code.to_owned(),
        };
        let plan = Plan {
            unavailable: unavailable || self.spec.unavailable,
            error,
            lose_reply,
            duplicate,
            out_of_stock: out_of_stock && matches!(method, Method::CheckAvailability | Method::Reserve),
            decline: (decline && matches!(method, Method::Charge | Method::Refund)).then(code),
            delay: self.spec.delay,
        };
        if plan != Plan::default() {
            self.struck = self.struck.saturating_add(1);
        }
        plan
    }
}

/// All faults that are set.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Whether any is set: spares calls the lock otherwise.
    any: AtomicBool,
    table: Mutex<BTreeMap<FaultTarget, Active>>,
}

impl Faults {
    fn table(&self) -> MutexGuard<'_, BTreeMap<FaultTarget, Active>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the faults of each target named, all or none; `reset_all` clears the others too.
    pub(super) fn set(
        &self,
        reset_all: bool,
        faults: Vec<(FaultTarget, FaultSpec)>,
    ) -> Result<(), &'static str> {
        if let Some(problem) = faults.iter().find_map(|(_, spec)| spec.problem()) {
            return Err(problem);
        }
        let mut table = self.table();
        if reset_all {
            table.clear();
        }
        for (target, spec) in faults {
            let luck = SplitMix64(spec.seed);
            table.insert(target, Active { spec, luck, struck: 0 });
        }
        self.any.store(!table.is_empty(), Ordering::Release);
        Ok(())
    }

    /// What is set, and how many calls each struck.
    pub(super) fn get(&self) -> Vec<(FaultTarget, FaultSpec, u64)> {
        self.table().iter().map(|(target, active)| (*target, active.spec.clone(), active.struck)).collect()
    }

    /// Decides what happens to the call that arrives now.
    pub(super) fn draw(&self, method: Method) -> Plan {
        if !self.any.load(Ordering::Acquire) {
            return Plan::default();
        }
        let mut table = self.table();
        let targets = [FaultTarget::Method(method), FaultTarget::Service(method.service()), FaultTarget::All];
        for target in targets {
            if let Some(active) = table.get_mut(&target) {
                return active.draw(method);
            }
        }
        Plan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lossy(rate: f64, seed: u64) -> FaultSpec {
        FaultSpec { lose_reply_rate: rate, seed, ..FaultSpec::default() }
    }

    fn losses(faults: &Faults, calls: usize) -> Vec<bool> {
        (0..calls).map(|_| faults.draw(Method::Charge).lose_reply).collect()
    }

    #[test]
    fn the_same_seed_strikes_the_same_calls() {
        let faults = Faults::default();
        faults.set(true, vec![(FaultTarget::All, lossy(0.3, 7))]).unwrap();
        let first = losses(&faults, 1000);
        faults.set(true, vec![(FaultTarget::All, lossy(0.3, 7))]).unwrap();
        assert_eq!(first, losses(&faults, 1000));
        let struck = first.iter().filter(|lost| **lost).count();
        assert!((250..350).contains(&struck), "{struck}");
        faults.set(true, vec![(FaultTarget::All, lossy(0.3, 8))]).unwrap();
        assert_ne!(first, losses(&faults, 1000));
    }

    #[test]
    fn the_most_precise_target_counts_alone_and_is_spent_by_its_count() {
        let faults = Faults::default();
        let once = FaultSpec { max_count: Some(1), ..lossy(1.0, 0) };
        let down = FaultSpec { unavailable: true, ..FaultSpec::default() };
        let method = FaultTarget::parse("payment.Charge").unwrap();
        let service = FaultTarget::parse("payment.*").unwrap();
        faults.set(false, vec![(method, once), (service, down)]).unwrap();
        assert_eq!(losses(&faults, 3), [true, false, false]);
        assert!(faults.draw(Method::Refund).unavailable);
        assert!(!faults.draw(Method::Reserve).unavailable);
        let struck: Vec<_> = faults.get().into_iter().map(|(_, _, struck)| struck).collect();
        assert_eq!(struck, [1, 1]);
    }

    #[test]
    fn values_out_of_range_change_nothing() {
        let faults = Faults::default();
        for bad in [
            lossy(1.5, 0),
            lossy(f64::NAN, 0),
            FaultSpec { delay: MAX_DELAY + Duration::from_millis(1), ..FaultSpec::default() },
            FaultSpec { decline_code: "no".to_owned(), ..FaultSpec::default() },
        ] {
            assert!(faults.set(true, vec![(FaultTarget::All, bad)]).is_err());
        }
        assert!(faults.get().is_empty());
    }

    #[test]
    fn targets_read_back_as_written() {
        for method in Method::ALL {
            assert_eq!(FaultTarget::parse(method.as_str()), Some(FaultTarget::Method(*method)));
        }
        assert_eq!(FaultTarget::parse("shipping.*").map(|t| t.to_string()).as_deref(), Some("shipping.*"));
        assert_eq!(FaultTarget::parse("shipping"), None);
    }
}
