//! How often callers may call, by the class of what they call, and how much one user may have under way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::actor::Orders;
use crate::domain::access::{Caller, Role};
use crate::domain::error::OrderError;
use crate::domain::ids::{IdKey, OrderId, UserId};
use crate::ports::limiter::{Counted, Limiter, Quota};

/// What a call costs the service; calls of one class share a limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Looks at one order.
    Read,
    /// Looks through many, or through a history.
    List,
    /// Changes an order.
    Write,
    /// Makes an order.
    Create,
    /// Opens a stream.
    Watch,
}

impl Class {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Read, Self::List, Self::Write, Self::Create, Self::Watch];

    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Create => "create",
            Self::Watch => "watch",
        }
    }

    fn refusal(self) -> &'static str {
        match self {
            Self::Read => "this caller reads orders too often",
            Self::List => "this caller lists too often",
            Self::Write => "this caller changes orders too often",
            Self::Create => "this caller creates orders too often",
            Self::Watch => "this caller opens streams too often",
        }
    }
}

/// Every method of the public API, and the limit that it counts against.
const METHODS: &[(&str, Class)] = &[
    ("GetOrder", Class::Read),
    ("GetOrderStatus", Class::Read),
    ("ListOrders", Class::List),
    ("ListOrderEvents", Class::List),
    ("ListPaymentTransactions", Class::List),
    ("CreateOrder", Class::Create),
    ("UpdateOrderStatus", Class::Write),
    ("CancelOrder", Class::Write),
    ("RefundOrder", Class::Write),
    ("AddOrderItem", Class::Write),
    ("UpdateOrderItem", Class::Write),
    ("RemoveOrderItem", Class::Write),
    ("AddShipment", Class::Write),
    ("HoldOrder", Class::Write),
    ("ReleaseOrder", Class::Write),
    ("WatchOrder", Class::Watch),
];

/// The class of a method. One that is not in the table counts as the dearest.
fn class_of(method: &str) -> Class {
    METHODS.iter().find(|(name, _)| *name == method).map_or(Class::Create, |(_, class)| *class)
}

/// How often, and how much; the default limits nothing.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// For each principal, by class; a class that is not there has no limit.
    pub calls: Vec<(Class, Quota)>,
    /// New orders of one user.
    pub creations: Option<Quota>,
    /// Tries of one user to use a coupon, whether or not it exists.
    pub coupons: Option<Quota>,
    /// Orders of one user that hold stock and are not paid; none = however many.
    pub open_orders: Option<u32>,
    /// Who has any of these roles is not counted.
    pub exempt: Vec<Role>,
}

/// When to look again whether an order was paid or has ended.
const OPEN_RETRY: Duration = Duration::from_secs(60);

/// Lets calls in, or not.
#[derive(Clone, Debug)]
pub struct Gate {
    limiter: Arc<dyn Limiter>,
    quotas: Quotas,
    /// Orders that are being created on this node, by user: the store may not know them yet.
    underway: Book,
}

impl Gate {
    /// Counts with `limiter` what `quotas` limits.
    pub fn new(limiter: Arc<dyn Limiter>, quotas: Quotas) -> Self {
        Self { limiter, quotas, underway: Book::default() }
    }

    fn exempts(&self, caller: &Caller) -> bool {
        self.quotas.exempt.iter().any(|role| caller.is(*role))
    }

    /// Counts one call of `caller`.
    ///
    /// # Errors
    /// [`OrderError::RateLimited`].
    pub(super) async fn call(&self, key: &IdKey, caller: &Caller, method: &str) -> Result<(), OrderError> {
        let class = class_of(method);
        let quota = self.quotas.calls.iter().find(|(of, _)| *of == class).map(|(_, quota)| *quota);
        let Some(quota) = quota.filter(|_| !self.exempts(caller)) else { return Ok(()) };
        let key = key.tag("limit-calls", &[class.name().as_bytes(), caller.principal.as_bytes()]);
        self.count(Counted { key, quota }, class.name(), class.refusal()).await
    }

    /// Counts one try of `user` to use a coupon.
    ///
    /// # Errors
    /// [`OrderError::RateLimited`].
    pub(super) async fn coupon(&self, key: &IdKey, caller: &Caller, user: UserId) -> Result<(), OrderError> {
        let Some(quota) = self.quotas.coupons.filter(|_| !self.exempts(caller)) else { return Ok(()) };
        let key = key.tag("limit-coupons", &[user.0.as_bytes()]);
        self.count(Counted { key, quota }, "coupon", "this user tries coupons too often").await
    }

    /// Lets `user` create the order `id`, and counts it. What comes back is kept until the creation is answered.
    ///
    /// All orders of a user are created on one node, the owner of the user's slot, so what is under way there and what
    /// is stored are together all there are.
    ///
    /// # Errors
    /// [`OrderError::RateLimited`], or what is in the way of finding out.
    pub(super) async fn creation(
        &self,
        key: &IdKey,
        caller: &Caller,
        (user, id): (UserId, OrderId),
        orders: &Orders,
    ) -> Result<Option<Underway>, OrderError> {
        if self.exempts(caller) {
            return Ok(None);
        }
        let underway = match self.quotas.open_orders {
            None => None,
            Some(most) => {
                // Announced before the store is asked: of two that look at once, the later one sees the other.
                let underway = self.underway.enter(user, id, Instant::now());
                let mut open = match orders.open_orders_of_user(user, most.saturating_add(1)).await {
                    Ok(open) => open,
                    Err(error) => {
                        underway.answered();
                        return Err(error);
                    }
                };
                open.extend(&underway.before);
                open.retain(|other| *other != id);
                open.sort_unstable();
                open.dedup();
                if open.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
                    metrics::counter!("order_rate_limited_total", "limit" => "open_orders").increment(1);
                    let what = "this user has too many orders that are not paid";
                    underway.answered();
                    return Err(OrderError::RateLimited { what, retry_after: OPEN_RETRY });
                }
                Some(underway)
            }
        };
        if let Some(quota) = self.quotas.creations {
            let key = key.tag("limit-creations", &[user.0.as_bytes()]);
            let what = "this user creates orders too often";
            if let Err(error) = self.count(Counted { key, quota }, "creations", what).await {
                // Nothing of it was begun, so it will not be stored either.
                underway.into_iter().for_each(Underway::answered);
                return Err(error);
            }
        }
        Ok(underway)
    }

    async fn count(
        &self,
        counted: Counted,
        limit: &'static str,
        what: &'static str,
    ) -> Result<(), OrderError> {
        self.limiter.take(&[counted]).await.map_err(|used_up| {
            metrics::counter!("order_rate_limited_total", "limit" => limit).increment(1);
            OrderError::RateLimited { what, retry_after: used_up.retry_after }
        })
    }
}

/// After so long an order is stored, or never will be, whose creation nobody waits for any more.
const STORED_BY: Duration = Duration::from_secs(10);

/// The orders that are being created here. There are at most as many as requests in flight and those that were given up
/// lately.
#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    by_user: HashMap<UserId, Vec<OrderId>>,
    /// What nobody waits for any more, and since when.
    given_up: VecDeque<(Instant, UserId, OrderId)>,
}

impl Book {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, user: UserId, id: OrderId, now: Instant) -> Underway {
        let mut entries = self.entries();
        while let Some((since, user, id)) = entries.given_up.front().copied()
            && now.saturating_duration_since(since) >= STORED_BY
        {
            entries.given_up.pop_front();
            entries.remove(user, id);
        }
        let ids = entries.by_user.entry(user).or_default();
        let before = ids.clone();
        ids.push(id);
        drop(entries);
        Underway { book: self.clone(), user, id, before, is_answered: false }
    }
}

impl Entries {
    fn remove(&mut self, user: UserId, id: OrderId) {
        let Some(ids) = self.by_user.get_mut(&user) else { return };
        if let Some(place) = ids.iter().position(|other| *other == id) {
            ids.remove(place);
        }
        if ids.is_empty() {
            self.by_user.remove(&user);
        }
    }
}

/// An order that is being created. One that is dropped without an answer may still be stored, so it goes on to count for
/// a while.
#[derive(Debug)]
pub(super) struct Underway {
    book: Book,
    user: UserId,
    id: OrderId,
    /// Those of the same user that were under way when this one began.
    before: Vec<OrderId>,
    is_answered: bool,
}

impl Underway {
    /// The store knows by now what became of it.
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut entries = self.book.entries();
        if self.is_answered {
            entries.remove(self.user, self.id);
        } else {
            entries.given_up.push_back((Instant::now(), self.user, self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::FILE_DESCRIPTOR_SET;

    #[test]
    fn every_method_of_the_public_api_has_a_class() {
        let all = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let service = all
            .file
            .iter()
            .filter(|file| file.package() == "order.v1")
            .flat_map(|file| &file.service)
            .find(|service| service.name() == "OrderService")
            .unwrap();
        let methods: BTreeSet<&str> = service.method.iter().map(|method| method.name()).collect();
        let table: BTreeSet<&str> = METHODS.iter().map(|(name, _)| *name).collect();
        assert_eq!(table, methods);
        assert_eq!(table.len(), METHODS.len(), "each once");
        for method in &service.method {
            let is_stream = method.server_streaming();
            assert_eq!(class_of(method.name()) == Class::Watch, is_stream, "{}", method.name());
        }
    }

    #[test]
    fn what_is_under_way_is_forgotten_when_it_is_answered_or_long_given_up() {
        let (book, now) = (Book::default(), Instant::now());
        let (user, id) = (UserId(uuid::Uuid::nil()), |n| OrderId(uuid::Uuid::from_u128(n)));
        let (first, second) = (book.enter(user, id(1), now), book.enter(user, id(2), now));
        assert_eq!((first.before.len(), second.before.as_slice()), (0, [id(1)].as_slice()));
        first.answered();
        drop(second);
        assert_eq!(book.enter(user, id(3), now).before, [id(2)], "what was given up may still be stored");
        let late = now + STORED_BY * 2;
        let fourth = book.enter(user, id(4), late);
        assert_eq!(fourth.before, []);
        fourth.answered();
        assert!(book.entries().by_user.is_empty());
    }
}
