//! `simulator.v1`: reading the ledger back, faults and stock.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp as WireTime;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Answer, Api};
use crate::clients::sim::records::{
    Charge, ChargeState, LabelRecord, LabelState, LedgerPage, OrderLedger, Reservation, ReservationState,
    StockTotals, Units,
};
use crate::clients::sim::{FaultSpec, FaultTarget};
use crate::clients::wire::{product_ref, variant_text};
use crate::domain::Timestamp;
use crate::domain::ids::OrderId;
use crate::domain::money::format_amount;
use crate::proto::simulator as wire;
use crate::proto::simulator::simulator_service_server::SimulatorService;

/// Orders a page of the ledger when the caller does not say.
const DEFAULT_PAGE: usize = 100;
/// Most orders a page.
const MAX_PAGE: usize = 1000;
/// Most targets of one `SetFaults`.
const MAX_FAULTS: usize = 100;
/// Most units that can be put on sale.
const MAX_STOCK: u64 = 1_000_000_000_000;

fn refused(code: Code, reason: &str, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "simulator.v1", HashMap::new());
    Status::with_error_details(code, message, details)
}

fn invalid(message: &str) -> Status {
    refused(Code::InvalidArgument, "INVALID_REQUEST", message)
}

fn time(at: Timestamp) -> Option<WireTime> {
    Some(SystemTime::from(at).into())
}

fn lines(units: &[Units]) -> Vec<wire::Line> {
    let line = |line: &Units| wire::Line {
        product_id: line.product.product_id.to_string(),
        variant_id: variant_text(&line.product),
        quantity: line.quantity,
    };
    units.iter().map(line).collect()
}

fn totals(totals: &StockTotals) -> wire::StockTotals {
    wire::StockTotals {
        product_id: totals.product.product_id.to_string(),
        variant_id: variant_text(&totals.product),
        initial: totals.initial,
        available: totals.available,
        reserved: totals.reserved,
        committed: totals.committed,
    }
}

fn charge(order_id: String, charge: Charge) -> wire::Charge {
    let (state, decline_code) = match charge.state {
        ChargeState::Pending => ("PENDING", String::new()),
        ChargeState::Succeeded => ("SUCCEEDED", String::new()),
        ChargeState::Declined(code) => ("DECLINED", code),
    };
    wire::Charge {
        key: charge.key.to_string(),
        order_id,
        transaction_id: charge.transaction_id,
        amount: format_amount(charge.amount, charge.currency),
        currency: charge.currency.code().to_owned(),
        method: charge.method,
        state: state.to_owned(),
        decline_code,
        refunded: format_amount(charge.refunded, charge.currency),
        at: time(charge.at),
    }
}

fn reservation(order_id: String, reservation: Reservation) -> wire::Reservation {
    let state = match reservation.state {
        ReservationState::Held => "HELD",
        ReservationState::Committed => "COMMITTED",
        ReservationState::Released => "RELEASED",
        ReservationState::Expired => "EXPIRED",
        ReservationState::Tombstone => "TOMBSTONE",
    };
    wire::Reservation {
        key: reservation.key.to_string(),
        order_id,
        reservation_id: reservation.id,
        lines: lines(&reservation.lines),
        state: state.to_owned(),
        created_at: time(reservation.created_at),
        changed_at: time(reservation.changed_at),
        expires_at: time(reservation.expires_at),
        commit_key: reservation.commit_key.map(|key| key.to_string()).unwrap_or_default(),
        release_key: reservation.release_key.map(|key| key.to_string()).unwrap_or_default(),
        restocked: lines(&reservation.restocked),
    }
}

fn label(order_id: String, record: LabelRecord) -> wire::Label {
    let state = match record.state {
        LabelState::Created => "CREATED",
        LabelState::Voided => "VOIDED",
        LabelState::Tombstone => "TOMBSTONE",
    };
    let (carrier, tracking_number) =
        record.label.map(|label| (label.carrier, label.tracking_number)).unwrap_or_default();
    wire::Label {
        key: record.key.to_string(),
        order_id,
        state: state.to_owned(),
        carrier,
        tracking_number,
        method: record.method,
        at: time(record.at),
    }
}

/// Adds the records of one order.
fn add(page: &mut wire::GetLedgerResponse, ledger: OrderLedger) {
    let order_id = ledger.order.to_string();
    page.charges.extend(ledger.charges.into_iter().map(|one| charge(order_id.clone(), one)));
    page.charges.extend(ledger.closed_charges.into_iter().map(|closed| wire::Charge {
        key: closed.key.to_string(),
        order_id: order_id.clone(),
        state: "CLOSED".to_owned(),
        at: time(closed.at),
        ..wire::Charge::default()
    }));
    page.refunds.extend(ledger.refunds.into_iter().map(|refund| wire::Refund {
        key: refund.key.to_string(),
        order_id: order_id.clone(),
        refund_id: refund.refund_id,
        transaction_id: refund.transaction_id,
        amount: format_amount(refund.amount, refund.currency),
        currency: refund.currency.code().to_owned(),
        at: time(refund.at),
    }));
    page.reservations.extend(ledger.reservations.into_iter().map(|one| reservation(order_id.clone(), one)));
    page.restocks.extend(ledger.restocks.into_iter().map(|restock| wire::Restock {
        key: restock.key.to_string(),
        order_id: order_id.clone(),
        reservation_id: restock.reservation_id,
        lines: lines(&restock.lines),
        at: time(restock.at),
    }));
    page.labels.extend(ledger.labels.into_iter().map(|one| label(order_id.clone(), one)));
    page.keys.extend(ledger.keys.into_iter().map(|calls| wire::KeyCalls {
        key: calls.key.to_string(),
        order_id: order_id.clone(),
        method: calls.method.as_str().to_owned(),
        received: calls.received,
    }));
}

fn read_faults(faults: wire::Faults) -> Result<(FaultTarget, FaultSpec), Status> {
    let target = FaultTarget::parse(&faults.method)
        .ok_or_else(|| invalid("method must be like payment.Charge, payment.* or *"))?;
    let spec = FaultSpec {
        error_rate: faults.error_rate,
        delay: Duration::from_millis(u64::from(faults.delay_ms)),
        lose_reply_rate: faults.lose_reply_rate,
        duplicate_rate: faults.duplicate_rate,
        decline_rate: faults.decline_rate,
        decline_code: faults.decline_code,
        out_of_stock_rate: faults.out_of_stock_rate,
        unavailable: faults.unavailable,
        unavailable_rate: faults.unavailable_rate,
        max_count: faults.max_count,
        seed: faults.seed,
    };
    Ok((target, spec))
}

fn write_faults(target: FaultTarget, spec: FaultSpec) -> wire::Faults {
    wire::Faults {
        method: target.to_string(),
        error_rate: spec.error_rate,
        delay_ms: u32::try_from(spec.delay.as_millis()).unwrap_or(u32::MAX),
        lose_reply_rate: spec.lose_reply_rate,
        duplicate_rate: spec.duplicate_rate,
        decline_rate: spec.decline_rate,
        decline_code: spec.decline_code,
        out_of_stock_rate: spec.out_of_stock_rate,
        unavailable: spec.unavailable,
        unavailable_rate: spec.unavailable_rate,
        max_count: spec.max_count,
        seed: spec.seed,
    }
}

#[tonic::async_trait]
impl SimulatorService for Api {
    async fn get_ledger(&self, request: Request<wire::GetLedgerRequest>) -> Answer<wire::GetLedgerResponse> {
        let request = request.into_inner();
        let page = if request.order_id.is_empty() {
            let size = match usize::try_from(request.page_size).unwrap_or(MAX_PAGE) {
                0 => DEFAULT_PAGE,
                size => size.min(MAX_PAGE),
            };
            let from = match request.page_token.as_str() {
                "" => 0,
                token => token.parse().map_err(|_| invalid("page_token is none of ours"))?,
            };
            self.0.ledger_page(from, size)
        } else {
            let order: OrderId =
                request.order_id.parse().map_err(|_| invalid("order_id must be a UUID or empty"))?;
            LedgerPage { orders: vec![self.0.order_ledger(order)], stock: self.0.stock(), next: None }
        };
        let mut response = wire::GetLedgerResponse {
            stock: page.stock.iter().map(totals).collect(),
            next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
            ..wire::GetLedgerResponse::default()
        };
        for ledger in page.orders {
            add(&mut response, ledger);
        }
        Ok(Response::new(response))
    }

    async fn set_faults(&self, request: Request<wire::SetFaultsRequest>) -> Answer<wire::SetFaultsResponse> {
        let request = request.into_inner();
        if request.faults.len() > MAX_FAULTS {
            return Err(invalid("faults must have at most 100 entries"));
        }
        let faults: Result<Vec<_>, _> = request.faults.into_iter().map(read_faults).collect();
        self.0.set_faults(request.reset_all, faults?).map_err(invalid)?;
        Ok(Response::new(wire::SetFaultsResponse {}))
    }

    async fn get_faults(&self, _: Request<wire::GetFaultsRequest>) -> Answer<wire::GetFaultsResponse> {
        let entries = self.0.faults().into_iter().map(|(target, spec, struck)| {
            wire::get_faults_response::Entry { faults: Some(write_faults(target, spec)), struck }
        });
        Ok(Response::new(wire::GetFaultsResponse { entries: entries.collect() }))
    }

    async fn set_stock(&self, request: Request<wire::SetStockRequest>) -> Answer<wire::SetStockResponse> {
        let request = request.into_inner();
        let product = product_ref(&request.product_id, &request.variant_id)
            .ok_or_else(|| invalid("product_id and variant_id must be UUIDs"))?;
        if request.available > MAX_STOCK {
            return Err(invalid("available must be at most 1000000000000"));
        }
        let set = self.0.set_stock(product, request.available);
        let set = set.map_err(|error| refused(Code::Unavailable, "NOT_EXECUTED", &error.to_string()))?;
        let set = set.ok_or_else(|| refused(Code::NotFound, "PRODUCT_NOT_FOUND", "no such product"))?;
        Ok(Response::new(wire::SetStockResponse { totals: Some(totals(&set)) }))
    }

    async fn get_catalogue(
        &self,
        _: Request<wire::GetCatalogueRequest>,
    ) -> Answer<wire::GetCatalogueResponse> {
        let products = self.0.catalogue().iter().map(|entry| {
            let product = &entry.product;
            wire::get_catalogue_response::Product {
                product_id: product.product.product_id.to_string(),
                variant_id: variant_text(&product.product),
                sku: product.sku.clone(),
                name: product.name.clone(),
                unit_price: format_amount(product.unit_price, product.currency),
                currency: product.currency.code().to_owned(),
                tax_class: product.tax_class.clone(),
                active: product.active,
                initial_stock: entry.stock,
            }
        });
        Ok(Response::new(wire::GetCatalogueResponse { products: products.collect() }))
    }
}
