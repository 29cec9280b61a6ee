//! `ops resolve-payment`.

use clap::{Args, ValueEnum};

use super::session::{self, AuditArgs, ServerArgs};
use crate::cli::Failure;
use crate::proto::admin::{PaymentOutcome, ResolvePaymentRequest};

#[derive(Args, Debug)]
#[command(after_help = "\
`ops explain` shows the payment in doubt, with its key and amount; the evidence has to be about exactly that. A charge \
that was made needs its reference, so that it can be refunded. That a payment was not made is believed only once no \
call that was sent can still arrive.

Examples:
  order-service ops resolve-payment ORD-7K3M9Q2XYZ --outcome charged --reference ch_4711 --evidence 'settlement file 17'
  order-service ops resolve-payment ORD-7K3M9Q2XYZ --outcome not-charged --evidence 'provider support, ticket 4711'")]
pub(super) struct ResolvePaymentArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = session::order)]
    order: String,
    /// What became of the payment.
    #[arg(long, value_enum, value_name = "OUTCOME")]
    outcome: Outcome,
    /// Where that can be seen; up to 500 characters, kept in the history, without personal data.
    #[arg(long, value_name = "TEXT")]
    evidence: String,
    /// The payment service's reference; needed when it was charged or refunded.
    #[arg(long, value_name = "REFERENCE", default_value = "", hide_default_value = true)]
    reference: String,
    /// The key of the payment in doubt; needed where several are.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    key: String,
    #[command(flatten)]
    audit: AuditArgs,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The customer was charged.
    Charged,
    /// The customer was not charged.
    NotCharged,
    /// The money went back.
    Refunded,
    /// The money did not go back.
    NotRefunded,
}

pub(super) fn run(arguments: ResolvePaymentArgs) -> Result<(), Failure> {
    let ResolvePaymentArgs { server, order, outcome, evidence, reference, key, audit } = arguments;
    let outcome = match outcome {
        Outcome::Charged => PaymentOutcome::Charged,
        Outcome::NotCharged => PaymentOutcome::NotCharged,
        Outcome::Refunded => PaymentOutcome::Refunded,
        Outcome::NotRefunded => PaymentOutcome::NotRefunded,
    };
    let AuditArgs { by, expected_version, request_id } = audit;
    let request = ResolvePaymentRequest {
        order,
        outcome: outcome.into(),
        evidence,
        reference,
        key,
        by,
        expected_version: expected_version.unwrap_or_default(),
        request_id,
    };
    session::run(&server, async |client| client.resolve(request).await, session::show_repaired)
}
