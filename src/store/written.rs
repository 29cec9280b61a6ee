//! What a batch of commits writes, table by table.

use super::fields::{Entered, Happened, Numbered, creating_request};
use crate::domain::address::Address;
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::ids::OrderId;
use crate::domain::item::OrderItem;
use crate::domain::order::{Order, RequestRecord, Shipment};
use crate::domain::payment::LedgerEntry;
use crate::domain::saga::SagaProgress;
use crate::domain::status::OrderStatus;
use crate::ports::store::Commit;

/// The rows besides the orders' own.
#[derive(Default)]
pub(super) struct Written<'a> {
    /// Orders whose lines are replaced.
    pub(super) replaced_items: Vec<OrderId>,
    pub(super) items: Vec<Numbered<'a, OrderItem>>,
    /// Orders whose addresses are replaced.
    pub(super) replaced_addresses: Vec<OrderId>,
    pub(super) addresses: Vec<Numbered<'a, Address>>,
    /// Inserted or updated.
    pub(super) shipments: Vec<Numbered<'a, Shipment>>,
    pub(super) ledger: Vec<Numbered<'a, LedgerEntry>>,
    pub(super) requests: Vec<(&'a Order, &'a RequestRecord)>,
    pub(super) events: Vec<Happened<'a>>,
    pub(super) history: Vec<Entered<'a>>,
    /// Sagas that begin with their commit.
    pub(super) new_sagas: Vec<&'a SagaProgress>,
    /// Sagas that most likely have a row already.
    pub(super) sagas: Vec<&'a SagaProgress>,
    /// Orders whose timer is inserted or updated.
    pub(super) timers: Vec<&'a Order>,
}

impl<'a> Written<'a> {
    /// What `commits`, each about another order, bring.
    pub(super) fn of(commits: &[&'a Commit]) -> Self {
        let mut all = Self::default();
        for commit in commits {
            all.add(commit);
        }
        all
    }

    fn add(&mut self, commit: &'a Commit) {
        let (order, touched) = (&*commit.order, commit.touched);
        let is_new = commit.guard.version == 0;
        if !is_new && touched.items {
            self.replaced_items.push(order.id);
        }
        if is_new || touched.items {
            self.items.extend(numbered(order, &order.items));
        }
        if !is_new && touched.addresses {
            self.replaced_addresses.push(order.id);
        }
        if is_new || touched.addresses {
            self.addresses.extend(numbered(order, &order.addresses));
        }
        if is_new || touched.shipments {
            self.shipments.extend(numbered(order, &order.shipments));
        }
        if touched.timer {
            self.timers.push(order);
        }
        let from = if is_new { 0 } else { touched.payments_from };
        self.ledger.extend(numbered(order, &order.payments).skip(from));
        let request = commit.request.as_ref().filter(|_| creating_request(commit).is_none());
        self.requests.extend(request.map(|request| (order, request)));
        for (place, event) in commit.events.iter().enumerate() {
            let link = commit.chain.links.get(place);
            self.events.push(Happened { order: order.id, event, link });
            if let Some((status, notes)) = entered(&event.event) {
                self.history.push(Entered { order: order.id, event, status, notes });
            }
        }
        if let Some(saga) = &commit.saga {
            let begins = |event: &RecordedEvent| matches!(&event.event, OrderEvent::SagaStarted { saga: no, .. } if *no == saga.no);
            let sagas = if is_new || commit.events.iter().any(begins) {
                &mut self.new_sagas
            } else {
                &mut self.sagas
            };
            sagas.push(saga);
        }
    }
}

fn numbered<'a, T>(order: &'a Order, rows: &'a [T]) -> impl Iterator<Item = Numbered<'a, T>> {
    rows.iter().enumerate().map(move |(place, row)| (order, place, row))
}

/// The status that an event brings, and the caller's note.
fn entered(event: &OrderEvent) -> Option<(OrderStatus, &str)> {
    match event {
        OrderEvent::OrderCreated { .. } => Some((OrderStatus::Pending, "")),
        OrderEvent::StatusChanged { to, notes, .. } => Some((*to, notes)),
        _ => None,
    }
}
