//! Sagas as tables of steps, and how far one has come.
//!
//! A saga walks its table forward (doing) or backward (undoing). Which steps still need doing or undoing is read
//! off the order itself ([`super::react`]), so a saga that is resumed after a crash needs no memory but this record.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::access::Role;
use super::ids::{CallKey, OrderId};
use super::item::{Shortage, StockLine};
use super::payment::PaymentToken;
use super::status::{CancelReason, names};

names! {
    /// What a saga is for.
    SagaKind {
        /// A new order: reserve, charge, confirm, commit the reservation.
        Create = "CREATE",
        /// An order that ends: void labels, refund, give the stock back.
        Cancel = "CANCEL",
        /// An order that is packed: make the label.
        Fulfil = "FULFIL",
        /// An order that came back: refund, restock.
        Return = "RETURN",
        /// A wish for money back that leaves the order as it is: refund.
        Refund = "REFUND",
        /// Other items of a confirmed order: reserve what is more, charge or refund the difference, commit or restock.
        Amend = "AMEND",
    }
}

names! {
    /// A step that acts on the outside.
    StepName {
        /// Hold stock / give it back.
        Reserve = "RESERVE",
        /// Take money / give it back.
        Charge = "CHARGE",
        /// Take the held stock for good; given back by the undo of `Reserve`.
        CommitStock = "COMMIT_STOCK",
        /// Make a shipping label / void it.
        Label = "LABEL",
    }
}

names! {
    /// Which way a saga walks.
    Direction {
        /// Doing.
        Forward = "FORWARD",
        /// Undoing.
        Backward = "BACKWARD",
    }
}

impl SagaKind {
    /// The steps, in the order they are done; undoing goes from the last to the first.
    pub const fn steps(self) -> &'static [StepName] {
        use StepName::{Charge, CommitStock, Label, Reserve};
        match self {
            Self::Create => &[Reserve, Charge, CommitStock],
            Self::Cancel => &[Reserve, Charge, Label],
            Self::Fulfil => &[Label],
            Self::Return => &[Reserve, Charge],
            Self::Refund => &[Charge],
            Self::Amend => &[Reserve, Charge, CommitStock],
        }
    }

    /// Which way it starts: what ends an order, or gives back a part of it, undoes from its first moment.
    pub const fn starts(self) -> Direction {
        match self {
            Self::Create | Self::Fulfil | Self::Amend => Direction::Forward,
            Self::Cancel | Self::Return | Self::Refund => Direction::Backward,
        }
    }

    /// Every (step, direction) this saga can be at, for drivers that must try them all.
    pub fn stations(self) -> Vec<(StepName, Direction)> {
        let forward = self.steps().iter().map(|step| (*step, Direction::Forward));
        let backward = self.steps().iter().rev().map(|step| (*step, Direction::Backward));
        match self {
            Self::Cancel | Self::Return => backward.collect(),
            // Committed stock goes back by the undo of `Reserve`.
            Self::Create | Self::Amend => {
                forward.chain(backward.filter(|(step, _)| *step != StepName::CommitStock)).collect()
            }
            // A cancel turns it round, and then it undoes the whole order.
            Self::Fulfil => {
                let rest = [StepName::Charge, StepName::Reserve].map(|step| (step, Direction::Backward));
                forward.chain(backward).chain(rest).collect()
            }
            // Here too.
            Self::Refund => {
                let rest = [StepName::Label, StepName::Reserve].map(|step| (step, Direction::Backward));
                backward.chain(rest).collect()
            }
        }
    }
}

/// Why a saga did not reach its goal: the answer to whoever asked for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Failure {
    /// Inventory could not serve every line.
    OutOfStock {
        /// What is short.
        shortages: Vec<Shortage>,
    },
    /// The payment service said no.
    PaymentDeclined {
        /// Its decline code.
        code: String,
    },
    /// A collaborator could not be reached for as long as we try.
    DependencyUnavailable {
        /// Which.
        dependency: String,
    },
    /// A collaborator refused for a reason of its own.
    Refused {
        /// Which.
        dependency: String,
        /// Its reason.
        reason: String,
    },
    /// The order was cancelled before the goal was reached.
    Cancelled,
}

/// A wish to turn a running saga round at its next step boundary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// Why.
    pub reason: CancelReason,
    /// What the caller noted.
    pub notes: String,
}

/// How far a saga has come. Stored with every commit of its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SagaProgress {
    /// The order.
    pub order_id: OrderId,
    /// 1 for the first saga of the order.
    pub no: u32,
    /// What it is for.
    pub kind: SagaKind,
    /// Which way it walks.
    pub direction: Direction,
    /// The step it is at; none when it is settled.
    pub step: Option<StepName>,
    /// How often this step was tried in this direction.
    pub tries: u32,
    /// The payment service said that it does not know the charge's key. Forward: send it (again). Backward: ask
    /// once more at `next_at`, after which no late charge can arrive.
    pub resend: bool,
    /// A wish to turn at the next boundary.
    pub turn: Option<Turn>,
    /// The next calls may follow each other without each being stored before, as [`super::react::Policy::run_ahead`]
    /// says. Of one that is stored so, nobody can tell how far its calls have come; see
    /// [`super::react::Input::CatchUp`].
    pub ahead: bool,
    /// No call before this moment; none = at once.
    pub next_at: Option<Timestamp>,
    /// When it began.
    pub started_at: Timestamp,
    /// When the last call that may have had an effect was sent.
    pub sent_at: Option<Timestamp>,
    /// Since when and why a person should look.
    pub attention: Option<String>,
    /// What went wrong last; never with personal data.
    pub last_error: Option<String>,
    /// Why it did not reach its goal.
    pub failure: Option<Failure>,
    /// Nothing is left to do.
    pub settled: bool,
    /// Note for the status change at its end.
    pub notes: String,
    /// Who asked for it.
    pub principal: String,
    /// As what they asked; none in sagas from before this was recorded.
    pub role: Option<Role>,
    /// Why, as whoever acts for somebody else says; at most 200 characters.
    pub reason: Option<Arc<str>>,
    /// The request that asked for it.
    pub request_id: String,
    /// `traceparent` of that request, as its order's actor took it: what the saga does, in whatever life of whatever node,
    /// belongs to that trace.
    pub trace_parent: Option<String>,
    /// Secret; dropped as soon as the charge is settled.
    pub token: Option<PaymentToken>,
}

/// What a refusal of something that has to happen is noted as.
pub(super) fn refusal(dependency: &str, reason: &str) -> String {
    format!("{dependency} refused: {reason}")
}

impl SagaProgress {
    /// Whether the last call was refused: it did not happen.
    pub(super) fn was_refused(&self) -> bool {
        let is_refusal = |error: &str| {
            ["inventory", "payment", "shipping"].iter().any(|name| error.starts_with(&refusal(name, "")))
        };
        self.tries > 0 && self.last_error.as_deref().is_some_and(is_refusal)
    }
}

/// One outward call that a saga wants made. Its key is chosen and stored before the call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepCall {
    /// Hold stock.
    Reserve {
        /// Ours.
        key: CallKey,
        /// What; the same with every repeat.
        lines: Vec<StockLine>,
        /// No earlier call with this key may have had an effect.
        fresh: bool,
    },
    /// Take money.
    Charge {
        /// Ours.
        key: CallKey,
        /// How much; the same with every repeat.
        amount: rust_decimal::Decimal,
        /// No earlier call with this key may have had an effect.
        fresh: bool,
    },
    /// Ask what became of a charge.
    QueryCharge {
        /// The charge's key.
        key: CallKey,
    },
    /// Take the held stock for good.
    CommitStock {
        /// Ours.
        key: CallKey,
        /// Inventory's id.
        reservation_id: String,
    },
    /// Give money back.
    Refund {
        /// Ours.
        key: CallKey,
        /// The reference of the charge that is given back.
        transaction_id: String,
        /// How much.
        amount: rust_decimal::Decimal,
    },
    /// Let go of held stock, by id where known, else by the reserve call's key.
    Release {
        /// Ours.
        key: CallKey,
        /// Inventory's id, if it came.
        reservation_id: Option<String>,
        /// The reserve call's key.
        reserve_key: CallKey,
    },
    /// Put committed stock back.
    Restock {
        /// Ours.
        key: CallKey,
        /// Inventory's id.
        reservation_id: String,
        /// What; the same with every repeat.
        lines: Vec<StockLine>,
    },
    /// Make a shipping label.
    CreateLabel {
        /// Ours.
        key: CallKey,
    },
    /// Void a label.
    VoidLabel {
        /// The key it was made with.
        key: CallKey,
    },
}

impl StepCall {
    /// The step this call belongs to.
    pub fn station(&self) -> (StepName, Direction) {
        match self {
            Self::Reserve { .. } => (StepName::Reserve, Direction::Forward),
            Self::Charge { .. } | Self::QueryCharge { .. } => (StepName::Charge, Direction::Forward),
            Self::CommitStock { .. } => (StepName::CommitStock, Direction::Forward),
            Self::CreateLabel { .. } => (StepName::Label, Direction::Forward),
            Self::Refund { .. } => (StepName::Charge, Direction::Backward),
            Self::Release { .. } | Self::Restock { .. } => (StepName::Reserve, Direction::Backward),
            Self::VoidLabel { .. } => (StepName::Label, Direction::Backward),
        }
    }

    /// The key the call carries.
    pub fn key(&self) -> &CallKey {
        match self {
            Self::Reserve { key, .. }
            | Self::Charge { key, .. }
            | Self::QueryCharge { key }
            | Self::CommitStock { key, .. }
            | Self::Refund { key, .. }
            | Self::Release { key, .. }
            | Self::Restock { key, .. }
            | Self::CreateLabel { key }
            | Self::VoidLabel { key } => key,
        }
    }
}

/// What a call came back with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepResult {
    /// Stock is held under this id.
    Reserved {
        /// Inventory's id.
        reservation_id: String,
    },
    /// Money was taken.
    Charged {
        /// The payment service's reference.
        transaction_id: String,
        /// Allow-listed facts, as JSON.
        gateway_response: Option<String>,
    },
    /// The payment service does not know the key.
    ChargeNotFound,
    /// The payment service is still busy with the key.
    ChargePending,
    /// The held stock is taken.
    Committed,
    /// The money went back.
    Refunded {
        /// The payment service's reference.
        refund_id: String,
    },
    /// Nothing is held (any more).
    Released,
    /// The reservation turned out to be committed.
    FoundCommitted {
        /// Inventory's id.
        reservation_id: String,
    },
    /// The stock is back.
    Restocked,
    /// A label exists.
    LabelCreated {
        /// Who carries it.
        carrier: String,
        /// The carrier's number.
        tracking_number: String,
        /// Where to print it.
        label_url: String,
    },
    /// The label is void.
    LabelVoided,
    /// The collaborator decided against it; it did not happen.
    Refused {
        /// Which collaborator.
        dependency: &'static str,
        /// Upper snake case.
        reason: String,
        /// What is short, when stock is.
        shortages: Vec<Shortage>,
    },
    /// It may have happened.
    Unknown {
        /// Which collaborator.
        dependency: &'static str,
        /// What went wrong.
        error: String,
    },
    /// It surely did not happen.
    Unavailable {
        /// Which collaborator.
        dependency: &'static str,
        /// What went wrong.
        error: String,
    },
}

/// What to do once a change is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SagaMove {
    /// Make this call.
    Run(StepCall),
    /// Look again at this moment.
    Wait(Timestamp),
    /// A hold stops it: look again at this moment. Whoever waits for its end is told how it stands.
    Held(Timestamp),
    /// The call that is under way goes on.
    Keep,
    /// Nothing: whoever waits is answered.
    Settled,
}
