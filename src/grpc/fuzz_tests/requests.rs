//! Every request, with the checks that the service makes of it and what has to hold when it is accepted.

use super::{Chance, Fuzzed, Service, change, fits, repeatable, samples};
use crate::domain::item::StockLine;
use crate::domain::pricing::Pricing;
use crate::domain::refund;
use crate::domain::status::OrderStatus;
use crate::grpc::forward::Routed;
use crate::grpc::order_service::creation_hash;
use crate::grpc::page;
use crate::grpc::validate::{self, Checker, OrderKey};
use crate::proto::order as pb;

impl Fuzzed for pb::CreateOrderRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::create(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        let slot = self.slot(&service.key);
        assert_eq!(creation_hash(self), creation_hash(&self.clone()));
        repeatable(&mut check, &self.request_id);
        let wish = validate::wish(&mut check, self, &service.limits, &service.pricing);
        if check.finish().is_err() {
            return false;
        }
        assert!(slot.is_some_and(|slot| slot < 4_096), "an order that is accepted has an owner");
        assert!((1..=200).contains(&wish.lines.len()));
        let mut products: Vec<_> = wish.lines.iter().map(|(_, line)| line.product).collect();
        products.sort();
        products.dedup();
        assert_eq!(products.len(), wish.lines.len(), "one line a product");
        assert!(wish.lines.iter().all(|(_, line)| (1..=9_999).contains(&line.quantity)));
        fits(&wish.notes, 2_000);
        assert_eq!(wish.addresses.len(), 2);
        for address in &wish.addresses {
            fits(&address.first_name, 100);
            fits(&address.last_name, 100);
            fits(&address.address_line1, 255);
            fits(&address.city, 100);
            fits(&address.state, 100);
            fits(&address.postal_code, 20);
            fits(address.address_line2.as_deref().unwrap_or_default(), 255);
            fits(address.phone.as_deref().unwrap_or_default(), 20);
            fits(address.email.as_deref().unwrap_or_default(), 255);
            assert!(!address.first_name.is_empty() && !address.city.is_empty());
        }
        assert!(service.pricing.payment_methods().contains(&wish.payment_method));
        assert!(service.pricing.shipping_methods().contains(&wish.shipping_method));
        fits(wish.coupon.as_deref().unwrap_or_default(), 150);
        assert!(wish.metadata.len() <= 32);
        for (key, value) in &wish.metadata {
            fits(key, 256);
            fits(value, 256);
        }
        true
    }
}

impl Fuzzed for pb::UpdateOrderStatusRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::update_status(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        change(&mut check, self, &self.id, self.expected_version, service);
        let to = check.target_status(self.status);
        let tracking = check.tracking(self.tracking.as_ref(), to);
        let notes = check.note("notes", &self.notes, service.limits.notes_chars);
        if check.finish().is_err() {
            return false;
        }
        assert!(!matches!(to, None | Some(OrderStatus::Pending | OrderStatus::Cancelling)));
        if let Some(tracking) = tracking {
            assert_eq!(to, Some(OrderStatus::Shipped));
            fits(&tracking.carrier, 100);
            fits(&tracking.tracking_number, 100);
        }
        fits(&notes, 2_000);
        true
    }
}

impl Fuzzed for pb::RefundOrderRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::refund(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        change(&mut check, self, &self.id, self.expected_version, service);
        let wish = validate::refund_wish(&mut check, self, &service.limits);
        let reason = check.note("reason", &self.reason, service.limits.notes_chars);
        if check.finish().is_err() {
            return false;
        }
        fits(&reason, 2_000);
        match wish {
            refund::Wish::Rest => assert!(self.items.is_empty()),
            refund::Wish::Amount(amount) => {
                assert!(amount.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{amount}");
            }
            refund::Wish::Items(items) => {
                assert!((1..=200).contains(&items.len()));
                assert!(items.iter().all(|(_, quantity)| (1..=9_999).contains(quantity)));
            }
        }
        true
    }
}

impl Fuzzed for pb::AddOrderItemRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::add_item(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        change(&mut check, self, &self.order_id, self.expected_version, service);
        let Some(item) = &self.item else { return false };
        let line: Option<StockLine> = validate::line(&mut check, "item", item, &service.limits);
        let is_good = check.finish().is_ok();
        assert!(!is_good || line.is_some_and(|line| (1..=9_999).contains(&line.quantity)));
        is_good
    }
}

impl Fuzzed for pb::UpdateOrderItemRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::update_item(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        change(&mut check, self, &self.order_id, self.expected_version, service);
        let item = check.uuid("item_id", &self.item_id);
        let quantity = check.quantity("quantity", self.quantity, &service.limits);
        let is_good = check.finish().is_ok();
        assert!(
            !is_good || item.is_some() && quantity.is_some_and(|quantity| (1..=9_999).contains(&quantity))
        );
        is_good
    }
}

impl Fuzzed for pb::HoldOrderRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::hold(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        change(&mut check, self, &self.id, self.expected_version, service);
        let reason = check.hold_reason("reason", &self.reason);
        let until = check.time("until", self.until.as_ref());
        if check.finish().is_err() {
            return false;
        }
        fits(&reason, 200);
        assert!(!reason.is_empty());
        assert_eq!(until.is_some(), self.until.is_some());
        true
    }
}

impl Fuzzed for pb::AddShipmentRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::ship(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        change(&mut check, self, &self.id, self.expected_version, service);
        let tracking = check.tracking(self.tracking.as_ref(), None);
        if check.finish().is_err() {
            return false;
        }
        if let Some(tracking) = tracking {
            fits(&tracking.carrier, 100);
            fits(&tracking.tracking_number, 100);
        }
        true
    }
}

/// Requests that have nothing but what every change has, and a note.
macro_rules! plain {
    ($($request:path, $sample:path, $id:ident, $note:ident;)+) => {
        $(impl Fuzzed for $request {
            fn sample(chance: &mut Chance) -> Self {
                $sample(chance)
            }

            fn accepted(&self, service: &Service) -> bool {
                let mut check = Checker::default();
                change(&mut check, self, &self.$id, self.expected_version, service);
                let note = check.note("note", &self.$note, service.limits.notes_chars);
                if check.finish().is_err() {
                    return false;
                }
                fits(&note, 2_000);
                true
            }
        })+
    };
}

plain! {
    pb::CancelOrderRequest, samples::cancel, id, reason;
    pb::ReleaseOrderRequest, samples::release, id, notes;
    pb::RemoveOrderItemRequest, samples::remove_item, order_id, item_id;
}

/// Requests that name an order by its id or number.
macro_rules! named {
    ($($request:path, $sample:path, $key:path;)+) => {
        $(impl Fuzzed for $request {
            fn sample(chance: &mut Chance) -> Self {
                $sample(chance)
            }

            fn accepted(&self, _service: &Service) -> bool {
                let mut check = Checker::default();
                let key = $key(&mut check, self);
                let is_good = check.finish().is_ok();
                if let (true, OrderKey::Number(number)) = (is_good, key) {
                    assert!(number.slot().is_none_or(|slot| slot < 4_096));
                }
                is_good
            }
        })+
    };
}

named! {
    pb::GetOrderRequest, samples::get, validate::order_key;
    pb::GetOrderStatusRequest, samples::get_status, validate::status_key;
}

impl Fuzzed for pb::ListOrdersRequest {
    fn sample(chance: &mut Chance) -> Self {
        samples::list(chance)
    }

    fn accepted(&self, service: &Service) -> bool {
        let mut check = Checker::default();
        let limit = check.page_size(self.page_size, &service.limits);
        if !self.user_id.is_empty() {
            check.user_id("user_id", &self.user_id);
        }
        for number in &self.statuses {
            check.status("statuses", *number);
        }
        check.time("created_after", self.created_after.as_ref());
        check.time("created_before", self.created_before.as_ref());
        let after = page::parse(&service.key, &[0; 16], &self.page_token, &mut check.violations);
        let is_good = check.finish().is_ok();
        assert!((1..=200).contains(&limit));
        // However its digits are written, it says what the one that was given says.
        assert!(!is_good || after.is_none_or(|after| after == samples::PLACE));
        let _cursor = after.and_then(page::cursor);
        is_good
    }
}
