//! What is asked for, how often, and of which orders and users.

use std::fmt;

use super::shape::unit;
use crate::harness::Chance;

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

kinds! {
    /// What arrives.
    Scenario {
        /// A new order.
        Create = "create",
        /// An order as it stands.
        Get = "get",
        /// Status and version of an order.
        GetStatus = "get-status",
        /// A page of a user's orders.
        List = "list",
        /// An order's end.
        Cancel = "cancel",
        /// Other items: half of them more of a line, half of them a line more.
        Edit = "edit",
        /// A whole life, one call after the other: some come back, some get money back.
        Life = "life",
    }
}

kinds! {
    /// One call, as it is counted.
    Kind {
        /// CreateOrder.
        Create = "create",
        /// GetOrder.
        Get = "get",
        /// GetOrderStatus.
        GetStatus = "get-status",
        /// ListOrders.
        List = "list",
        /// CancelOrder.
        Cancel = "cancel",
        /// UpdateOrderItem.
        UpdateItem = "update-item",
        /// AddOrderItem.
        AddItem = "add-item",
        /// UpdateOrderStatus to PROCESSING.
        Process = "process",
        /// UpdateOrderStatus to SHIPPED.
        Ship = "ship",
        /// UpdateOrderStatus to DELIVERED.
        Deliver = "deliver",
        /// UpdateOrderStatus to RETURNED.
        Return = "return",
        /// RefundOrder.
        Refund = "refund",
    }
}

impl Scenario {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Create, Self::Get, Self::GetStatus, Self::List, Self::Cancel, Self::Edit, Self::Life];
}

/// Weights of the scenarios.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mix(Vec<(Scenario, u32)>);

impl Mix {
    /// Reads `create=40,get=30,...`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut weights: Vec<(Scenario, u32)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let scenario =
                Scenario::ALL.iter().find(|scenario| scenario.name() == name).ok_or_else(|| {
                    let all: Vec<_> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
                    format!("{name} is no scenario; there are {}", all.join(", "))
                })?;
            let weight = weight
                .parse()
                .ok()
                .filter(|weight| *weight <= 1_000_000)
                .ok_or_else(|| format!("the weight of {name} is a whole number, at most 1000000"))?;
            if weights.iter().any(|(known, _)| known == scenario) {
                return Err(format!("{name} stands twice"));
            }
            weights.push((*scenario, weight));
        }
        weights.retain(|(_, weight)| *weight > 0);
        if weights.is_empty() { Err("no scenario has a weight".to_owned()) } else { Ok(Self(weights)) }
    }

    /// One of them by chance.
    pub fn pick(&self, chance: &mut Chance) -> Scenario {
        let total: u32 = self.0.iter().map(|(_, weight)| weight).sum();
        let mut place = chance.below(i64::from(total)) as u32;
        for (scenario, weight) in &self.0 {
            if place < *weight {
                return *scenario;
            }
            place -= weight;
        }
        self.0[0].0
    }

    /// Whether there is anything that needs an order to be there already.
    pub fn needs_orders(&self) -> bool {
        self.0
            .iter()
            .any(|(scenario, _)| !matches!(scenario, Scenario::Create | Scenario::Life | Scenario::List))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> =
            self.0.iter().map(|(scenario, weight)| format!("{}={weight}", scenario.name())).collect();
        f.write_str(&all.join(","))
    }
}

/// Which of the orders and users are asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Keys {
    /// Each as often as any other.
    Uniform,
    /// Only the first so many.
    Hot(u64),
    /// The n-th with a chance in proportion to 1 / n^S.
    Zipf(f64),
}

impl Keys {
    /// Reads `uniform`, `hot:N` or `zipf:S`.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("hot", count)) => match count.parse() {
                Ok(count) if count > 0 => Ok(Self::Hot(count)),
                _ => Err("write hot:N, with N from 1".to_owned()),
            },
            Some(("zipf", skew)) => match skew.parse() {
                Ok(skew) if skew > 0.0 && skew <= 5.0 => Ok(Self::Zipf(skew)),
                _ => Err("write zipf:S, with S above 0 and at most 5, such as zipf:1.1".to_owned()),
            },
            _ => Err("is none of uniform, hot:N, zipf:S".to_owned()),
        }
    }

    /// One of `count` places by chance, from 0.
    pub fn pick(self, count: u64, chance: &mut Chance) -> u64 {
        let most = count.max(1);
        match self {
            Self::Uniform => chance.bits() % most,
            Self::Hot(hot) => chance.bits() % hot.min(most),
            // The inverse of the integral of x^-S over 1 to count + 1: close to the sum, without a table.
            Self::Zipf(skew) => {
                let (u, end) = (unit(chance), most as f64 + 1.0);
                let x = if (skew - 1.0).abs() < 1e-6 {
                    end.powf(u)
                } else {
                    let high = end.powf(1.0 - skew);
                    (u * (high - 1.0) + 1.0).powf(1.0 / (1.0 - skew))
                };
                (x.floor() as u64).clamp(1, most) - 1
            }
        }
    }
}

/// Reads a share such as `5%` or `0.05`, from 0 to 1.
///
/// # Errors
/// What is expected instead.
pub fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    number
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "write a share such as 5% or 0.05".to_owned())
}

/// The longest time that can be written: a year.
const LONGEST_TIME: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3_600);

/// Reads a time such as `500ms`, `30s`, `10m` or `2h`.
///
/// # Errors
/// What is expected instead.
pub fn time(text: &str) -> Result<std::time::Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("write a time with its unit: 500ms, 30s, 10m, 2h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "write a time such as 30s or 10m".to_owned())?;
    std::time::Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|time| *time <= LONGEST_TIME)
        .ok_or_else(|| format!("is longer than {} h", LONGEST_TIME.as_secs() / 3_600))
}
