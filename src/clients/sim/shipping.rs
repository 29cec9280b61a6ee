//! The simulated shipping service.

use async_trait::async_trait;
use uuid::Uuid;

use super::Simulator;
use super::effects::Effect;
use super::faults::{Method, Plan};
use super::ledger::{Ledger, check_key, invalid, order_named_by, reused, units_of};
use super::records::{LabelRecord, LabelState, Units, derived};
use crate::domain::Timestamp;
use crate::domain::address::Address;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::StockLine;
use crate::ports::call::{CallContext, CallError};
use crate::ports::shipping::{Label, Shipping, reason};

/// Longest name of a shipping method, in bytes.
const MAX_METHOD_LEN: usize = 100;
/// Purpose of the name derived from a label's key.
const LABEL: &str = "label";

fn voided() -> CallError {
    CallError::refused(reason::LABEL_VOIDED, "the label was voided")
}

/// The label with a name.
pub(super) fn label_named(name: Uuid) -> Label {
    let tracking_number = format!("SIM{}", name.simple()).to_ascii_uppercase();
    Label {
        carrier: "SIMULATED".to_owned(),
        label_url: format!("https://labels.example.com/{tracking_number}.pdf"),
        tracking_number,
    }
}

impl Ledger {
    pub(super) fn label_mut(
        &mut self,
        home: OrderId,
        key: &CallKey,
    ) -> Result<Option<&mut LabelRecord>, CallError> {
        Ok(self.book(home)?.labels.iter_mut().find(|label| label.key == *key))
    }

    fn create_label(
        &mut self,
        plan: &Plan,
        key: &CallKey,
        order: OrderId,
        (method, lines): (&str, Vec<Units>),
        now: Timestamp,
    ) -> Result<Label, CallError> {
        let name = derived(LABEL, key);
        let home = self.home(name).unwrap_or(order);
        self.arrive(home, Method::CreateLabel, key)?;
        plan.fail_here()?;
        if let Some(found) = self.label_mut(home, key)? {
            return match (found.state, &found.label) {
                (LabelState::Created, Some(label)) => {
                    let same = home == order && found.method == method && found.lines == lines;
                    if same { Ok(label.clone()) } else { Err(reused()) }
                }
                _ => Err(voided()),
            };
        }
        self.room()?;
        self.put(order, key, Effect::CreateLabel { name, method: method.to_owned(), lines }, now)?;
        Ok(label_named(name))
    }

    fn void_label(&mut self, plan: &Plan, key: &CallKey, now: Timestamp) -> Result<(), CallError> {
        let name = derived(LABEL, key);
        let home = self.home(name).unwrap_or_else(|| order_named_by(key));
        self.arrive(home, Method::VoidLabel, key)?;
        plan.fail_here()?;
        match self.label_mut(home, key)?.map(|found| found.state) {
            Some(LabelState::Voided | LabelState::Tombstone) => return Ok(()),
            Some(LabelState::Created) => {}
            None => self.room()?,
        }
        self.put(home, key, Effect::VoidLabel { name }, now)
    }
}

impl Simulator {
    /// Makes a label; where the parcel goes is of no interest here.
    pub(super) async fn label_for(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        method: &str,
        lines: &[StockLine],
    ) -> Result<Label, CallError> {
        let (key, method, lines) = (key.clone(), method.to_owned(), units_of(lines));
        self.call(ctx, Method::CreateLabel, move |core, plan| {
            check_key(&key)?;
            if method.len() > MAX_METHOD_LEN {
                return Err(invalid("method must have at most 100 bytes"));
            }
            let lines = lines.clone()?;
            let (mut ledger, now) = core.ledger_now();
            ledger.create_label(plan, &key, order, (&method, lines), now)
        })
        .await
    }
}

#[async_trait]
impl Shipping for Simulator {
    async fn create_label(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        method: &str,
        _to: &Address,
        lines: &[StockLine],
    ) -> Result<Label, CallError> {
        self.label_for(ctx, key, order, method, lines).await
    }

    async fn void_label(&self, ctx: &CallContext, key: &CallKey) -> Result<(), CallError> {
        let key = key.clone();
        self.call(ctx, Method::VoidLabel, move |core, plan| {
            check_key(&key)?;
            let (mut ledger, now) = core.ledger_now();
            ledger.void_label(plan, &key, now)
        })
        .await
    }
}
