//! Which parts of what is stored are personal data, and where each stands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::keyring::Held;
use super::seal::{DataKey, NoRandomness, OpenError, Place, key_of};
use crate::domain::address::{Address, AddressKind};
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, UserId};
use crate::domain::order::Order;
use crate::domain::saga::SagaProgress;
use crate::domain::sealed::{NOT_KEPT, is_sealed};
use crate::ports::store::Commit;
use crate::ports::vault::KeyId;

/// The personal data of an address. They are encrypted as one text, so which of them there are is not seen either.
#[derive(Serialize, Deserialize)]
struct Names(String, String, String, Option<String>, Option<String>, Option<String>);

fn notes_of(order: OrderId) -> Place {
    Place { table: "orders", column: "notes", order, row: 0 }
}

fn address_of(order: OrderId, kind: AddressKind) -> Place {
    let row = match kind {
        AddressKind::Shipping => 1,
        AddressKind::Billing => 2,
    };
    Place { table: "order_addresses", column: "first_name", order, row }
}

/// Status history holds the same text as the event.
fn event_of(order: OrderId, event: &RecordedEvent) -> Place {
    Place { table: "order_events", column: "payload.notes", order, row: event.seq }
}

fn saga_of(saga: &SagaProgress, column: &'static str) -> Place {
    Place { table: "sagas", column, order: saga.order_id, row: i64::from(saga.no) }
}

/// Whether a text has to be encrypted before it is stored.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text != NOT_KEPT && !is_sealed(text)
}

fn address_is_plain(address: &Address) -> bool {
    // Nobody's name is left out for want of a key, so none may pass for one that was.
    !address.first_name.is_empty() && !is_sealed(&address.first_name)
}

/// Whether the commit writes the addresses.
fn writes_addresses(commit: &Commit) -> bool {
    commit.guard.version == 0 || commit.touched.addresses
}

/// What of a commit has to be encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Needs {
    /// The order's own notes or addresses: there is no storing it without.
    pub(super) order: bool,
    /// Only its notes, which a change writes again as they are.
    pub(super) only_notes: bool,
    /// A text that comes with this change.
    pub(super) note: bool,
}

impl Needs {
    pub(super) fn any(self) -> bool {
        self.order || self.note
    }
}

/// Looks for texts that have to be encrypted.
pub(super) fn needs(commit: &Commit) -> Needs {
    let order = &commit.order;
    let in_saga = commit.saga.as_ref().is_some_and(|saga| {
        is_plain(&saga.notes) || saga.turn.as_ref().is_some_and(|turn| is_plain(&turn.notes))
    });
    let addresses = writes_addresses(commit) && order.addresses.iter().any(address_is_plain);
    let notes = is_plain(&order.notes);
    Needs {
        order: notes || addresses,
        only_notes: notes && !addresses && commit.guard.version > 0,
        note: in_saga || commit.events.iter().any(|event| event.event.note().is_some_and(is_plain)),
    }
}

/// Encrypts what [`needs`] finds.
pub(super) fn seal(commit: &mut Commit, key: &DataKey) -> Result<(), NoRandomness> {
    let id = commit.order.id;
    let all = writes_addresses(commit);
    if commit.guard.version == 0 {
        commit.guard.key = Some(key.id());
    }
    if needs(commit).order {
        let order = Arc::make_mut(&mut commit.order);
        seal_text(&mut order.notes, &notes_of(id), key)?;
        if all && order.addresses.iter().any(address_is_plain) {
            for address in Arc::make_mut(&mut order.addresses) {
                seal_address(id, address, key)?;
            }
        }
    }
    for event in &mut commit.events {
        let place = event_of(id, event);
        if let Some(note) = event.event.note_mut() {
            seal_text(note, &place, key)?;
        }
    }
    if let Some(saga) = &mut commit.saga {
        let (notes, turn) = (saga_of(saga, "notes"), saga_of(saga, "turn.notes"));
        seal_text(&mut saga.notes, &notes, key)?;
        if let Some(text) = &mut saga.turn {
            seal_text(&mut text.notes, &turn, key)?;
        }
    }
    Ok(())
}

fn seal_text(text: &mut String, place: &Place, key: &DataKey) -> Result<(), NoRandomness> {
    if is_plain(text) {
        *text = key.seal(place, text)?;
    }
    Ok(())
}

fn seal_address(order: OrderId, address: &mut Address, key: &DataKey) -> Result<(), NoRandomness> {
    if !address_is_plain(address) {
        return Ok(());
    }
    let names = Names(
        std::mem::take(&mut address.first_name),
        std::mem::take(&mut address.last_name),
        std::mem::take(&mut address.address_line1),
        address.address_line2.take(),
        address.phone.take(),
        address.email.take(),
    );
    // Six texts always become JSON.
    let text = serde_json::to_string(&names).map_err(|_| NoRandomness)?;
    address.first_name = key.seal(&address_of(order, address.kind), &text)?;
    Ok(())
}

/// Takes out what cannot be encrypted and need not be kept. The notes and addresses of the order stay as they are.
pub(super) fn drop_notes(commit: &mut Commit) {
    let keep_not = |text: &mut String| {
        if is_plain(text) {
            NOT_KEPT.clone_into(text);
        }
    };
    commit.events.iter_mut().filter_map(|event| event.event.note_mut()).for_each(keep_not);
    if let Some(saga) = &mut commit.saga {
        keep_not(&mut saga.notes);
        if let Some(turn) = &mut saga.turn {
            keep_not(&mut turn.notes);
        }
    }
}

/// Takes the order's own notes and addresses out as well: their user was erased.
pub(super) fn drop_order(commit: &mut Commit) {
    if !needs(commit).order {
        return;
    }
    let order = Arc::make_mut(&mut commit.order);
    if is_plain(&order.notes) {
        NOT_KEPT.clone_into(&mut order.notes);
    }
    if order.addresses.iter().any(address_is_plain) {
        for address in Arc::make_mut(&mut order.addresses) {
            *address = address.erased();
        }
    }
}

/// What is done with each text that is stored: it is told where the text stands and whose order it is, if that is known.
trait Visitor {
    fn text(&mut self, place: &Place, user: Option<UserId>, text: &mut String);
    fn address(&mut self, place: &Place, user: UserId, address: &mut Address);
}

fn visit_order(order: &mut Arc<Order>, visitor: &mut impl Visitor) {
    let touched = is_sealed(&order.notes) || order.addresses.iter().any(|one| is_sealed(&one.first_name));
    if !touched {
        return;
    }
    let order = Arc::make_mut(order);
    visitor.text(&notes_of(order.id), Some(order.user_id), &mut order.notes);
    for address in Arc::make_mut(&mut order.addresses) {
        visitor.address(&address_of(order.id, address.kind), order.user_id, address);
    }
}

fn visit_saga(saga: &mut SagaProgress, user: UserId, visitor: &mut impl Visitor) {
    let (notes, turn) = (saga_of(saga, "notes"), saga_of(saga, "turn.notes"));
    visitor.text(&notes, Some(user), &mut saga.notes);
    if let Some(text) = &mut saga.turn {
        visitor.text(&turn, Some(user), &mut text.notes);
    }
}

fn visit_event(order: OrderId, event: &mut RecordedEvent, visitor: &mut impl Visitor) {
    let place = event_of(order, event);
    if let Some(note) = event.event.note_mut() {
        visitor.text(&place, None, note);
    }
}

/// The keys that the texts of an order and its saga need.
pub(super) fn keys_of_order(order: &Order, saga: Option<&SagaProgress>, ids: &mut HashSet<KeyId>) {
    ids.extend(key_of(&order.notes));
    ids.extend(order.addresses.iter().filter_map(|address| key_of(&address.first_name)));
    if let Some(saga) = saga {
        ids.extend(key_of(&saga.notes));
        ids.extend(saga.turn.as_ref().and_then(|turn| key_of(&turn.notes)));
    }
}

/// The keys that the texts of events need.
pub(super) fn keys_of_events(events: &[RecordedEvent], ids: &mut HashSet<KeyId>) {
    ids.extend(events.iter().filter_map(|event| event.event.note().and_then(key_of)));
}

/// Decrypts what its keys are at hand for; leaves the rest as it is.
pub(super) struct Opening<'a> {
    keys: &'a HashMap<KeyId, Held>,
    /// Encrypted texts that were met.
    pub(super) sealed: u64,
    /// Those of them that were decrypted.
    pub(super) opened: u64,
    /// Texts that were not encrypted.
    pub(super) plain: u64,
    /// An encrypted text that was changed or moved.
    pub(super) tampered: Option<Place>,
}

impl<'a> Opening<'a> {
    pub(super) fn by(keys: &'a HashMap<KeyId, Held>) -> Self {
        Self { keys, sealed: 0, opened: 0, plain: 0, tampered: None }
    }

    pub(super) fn order(&mut self, order: &mut Arc<Order>) {
        self.plain = self.plain.saturating_add(plain_texts(order));
        visit_order(order, self);
    }

    pub(super) fn saga(&mut self, saga: &mut SagaProgress, user: UserId) {
        visit_saga(saga, user, self);
    }

    pub(super) fn events(&mut self, order: OrderId, events: &mut [RecordedEvent]) {
        for event in events {
            if event.event.note().is_some_and(is_plain) {
                self.plain = self.plain.saturating_add(1);
            }
            visit_event(order, event, self);
        }
    }

    fn open(&mut self, place: &Place, user: Option<UserId>, sealed: &str) -> Option<String> {
        self.sealed = self.sealed.saturating_add(1);
        let held = key_of(sealed).and_then(|id| self.keys.get(&id));
        let opened = match held {
            Some(Held::Ready(key)) if user.is_none_or(|user| user == key.user()) => key.open(place, sealed),
            Some(Held::Ready(_)) => Err(OpenError::Tampered),
            Some(Held::Locked | Held::Destroyed) => return None,
            None => Err(OpenError::Form),
        };
        match opened {
            Ok(text) => {
                self.opened = self.opened.saturating_add(1);
                Some(text)
            }
            Err(_) => {
                self.tampered = Some(*place);
                None
            }
        }
    }
}

/// How many parts of the order's own rows are plain personal data.
pub(super) fn plain_texts(order: &Order) -> u64 {
    let addresses = order.addresses.iter().filter(|address| address_is_plain(address)).count();
    u64::try_from(addresses).unwrap_or(u64::MAX).saturating_add(u64::from(is_plain(&order.notes)))
}

impl Visitor for Opening<'_> {
    fn text(&mut self, place: &Place, user: Option<UserId>, text: &mut String) {
        if is_sealed(text)
            && let Some(opened) = self.open(place, user, text)
        {
            *text = opened;
        }
    }

    fn address(&mut self, place: &Place, user: UserId, address: &mut Address) {
        if !is_sealed(&address.first_name) {
            return;
        }
        let Some(opened) = self.open(place, Some(user), &address.first_name) else { return };
        match serde_json::from_str(&opened) {
            Ok(Names(first_name, last_name, address_line1, address_line2, phone, email)) => {
                (address.first_name, address.last_name) = (first_name, last_name);
                (address.address_line1, address.address_line2) = (address_line1, address_line2);
                (address.phone, address.email) = (phone, email);
            }
            Err(_) => self.tampered = Some(*place),
        }
    }
}
