//! `simulate ledger`: what the simulated collaborators did for one order.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;
use rust_decimal::Decimal;
use serde::Serialize;
use uuid::Uuid;

use super::super::{Failure, runtime};
use crate::clients::books;
use crate::proto::simulator::{GetLedgerResponse, Line};

#[derive(Args, Debug)]
#[command(after_help = "\
Prints JSON. `kept` is what payment took less what it gave back; `sold` is what inventory committed less what was
brought back; `held` is only set aside.

Example:
  order-service simulate ledger 01900000-0000-7000-8000-000000000001")]
pub(super) struct LedgerArgs {
    /// The order's id.
    #[arg(value_name = "ORDER_ID")]
    order: Uuid,
    /// Where the simulator is: a URL.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50061")]
    simulator: String,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
struct Books {
    taken: String,
    refunded: String,
    kept: String,
    sold: Vec<Goods>,
    held: Vec<Goods>,
    labels: usize,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
struct Goods {
    product_id: String,
    variant_id: String,
    quantity: u64,
}

pub(super) fn run(arguments: &LedgerArgs) -> Result<(), Failure> {
    let runtime = runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let page = runtime.block_on(books::ledger(&arguments.simulator, arguments.order)).map_err(|error| {
        let url = &arguments.simulator;
        Failure::Sentence(format!(
            "the simulator at {url} does not answer ({error}); start `order-service simulate`"
        ))
    })?;
    let text = serde_json::to_string_pretty(&sums(&page)).map_err(io::Error::from)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

fn sums(page: &GetLedgerResponse) -> Books {
    let amount = |text: &str| text.parse::<Decimal>().unwrap_or_default();
    let add = |sum: Decimal, text: &str| sum.saturating_add(amount(text));
    let charges = page.charges.iter().filter(|charge| charge.state == "SUCCEEDED");
    let taken = charges.fold(Decimal::ZERO, |sum, charge| add(sum, &charge.amount));
    let refunded = page.refunds.iter().fold(Decimal::ZERO, |sum, refund| add(sum, &refund.amount));
    let digits = page.charges.iter().map(|charge| amount(&charge.amount).scale()).max().unwrap_or_default();
    let write = |mut sum: Decimal| {
        sum.rescale(digits);
        sum.to_string()
    };
    let goods = |state: &str| {
        let mut left: BTreeMap<(String, String), u64> = BTreeMap::new();
        for reservation in page.reservations.iter().filter(|reservation| reservation.state == state) {
            let named = |line: &Line| (line.product_id.clone(), line.variant_id.clone());
            for line in &reservation.lines {
                let count = left.entry(named(line)).or_default();
                *count = count.saturating_add(line.quantity);
            }
            for line in &reservation.restocked {
                let count = left.entry(named(line)).or_default();
                *count = count.saturating_sub(line.quantity);
            }
        }
        let left = left.into_iter().filter(|(_, quantity)| *quantity > 0);
        left.map(|((product_id, variant_id), quantity)| Goods { product_id, variant_id, quantity }).collect()
    };
    Books {
        taken: write(taken),
        refunded: write(refunded),
        kept: write(taken.saturating_sub(refunded)),
        sold: goods("COMMITTED"),
        held: goods("HELD"),
        labels: page.labels.iter().filter(|label| label.state == "CREATED").count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::simulator::{Charge, Refund, Reservation};

    #[test]
    fn sums_what_is_kept_and_what_is_sold() {
        let charge = |amount: &str, state: &str| Charge {
            amount: amount.into(),
            state: state.into(),
            ..Default::default()
        };
        let line = |quantity| Line { product_id: "p".into(), variant_id: String::new(), quantity };
        let page = GetLedgerResponse {
            charges: vec![
                charge("93.17", "SUCCEEDED"),
                charge("5.00", "DECLINED"),
                charge("10.00", "SUCCEEDED"),
            ],
            refunds: vec![Refund { amount: "3.17".into(), ..Default::default() }],
            reservations: vec![
                Reservation {
                    state: "COMMITTED".into(),
                    lines: vec![line(3)],
                    restocked: vec![line(1)],
                    ..Default::default()
                },
                Reservation { state: "RELEASED".into(), lines: vec![line(9)], ..Default::default() },
            ],
            ..Default::default()
        };
        let books = sums(&page);
        assert_eq!(
            (books.taken.as_str(), books.refunded.as_str(), books.kept.as_str()),
            ("103.17", "3.17", "100.00")
        );
        assert_eq!(books.sold, [Goods { product_id: "p".into(), variant_id: String::new(), quantity: 2 }]);
        assert_eq!(books.held, []);
    }
}
