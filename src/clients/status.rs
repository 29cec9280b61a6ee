//! Failures of calls as gRPC statuses, and back: the one file here that names codes.
//!
//! Everything hangs on one question: may the effect have happened? The rules, for calls with an effect:
//!
//! | what came back | means |
//! |---|---|
//! | no connection could be made | [`CallError::Unavailable`] |
//! | the connection broke, whatever code that was given on our side | [`CallError::Unknown`] |
//! | `RESOURCE_EXHAUSTED`; `UNAVAILABLE` with reason `NOT_EXECUTED` | [`CallError::Unavailable`] |
//! | `UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED` | [`CallError::Unavailable`]: turned away at the door |
//! | `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `FAILED_PRECONDITION`, `OUT_OF_RANGE` with a reason | [`CallError::Refused`] |
//! | anything else | [`CallError::Unknown`] |
//!
//! A read has no effect to be in doubt about: what a second try may cure is `Unavailable` there.

use std::collections::HashMap;
use std::error::Error;

use prost::Message;
use prost_types::Any;
use tonic::{Code, ConnectError, Status};
use tonic_types::pb;

use super::wire;
use crate::domain::card::masked;
use crate::ports::call::{CallError, Collaborator, MAX_MESSAGE_LEN, MAX_REASON_LEN, Refusal, reason};
use crate::ports::{inventory, payment, user};
use crate::proto::inventory::StockShortage;

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const STOCK_SHORTAGE: &str = "type.googleapis.com/inventory.v1.StockShortage";
/// Most shortages that are read from one error.
const MAX_SHORTAGES: usize = 200;

/// Whether a call changes something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// No: it may be repeated at will.
    Read,
    /// Yes.
    Effect,
}

/// What a failed call means. `method` (`payment.Charge`) names it in texts.
///
/// Texts of collaborators go no further than into refusals; other failures are told in our own words, since nobody
/// vouches for what a proxy or a crashing service puts into its own.
pub(super) fn classify(status: &Status, kind: Kind, method: &str) -> CallError {
    if never_connected(status) {
        return CallError::Unavailable(format!("{method}: no connection could be made"));
    }
    let told = format!("{method} answered {}", code_name(status.code()));
    // Made up on this side from a connection that broke: no promise of the collaborator's.
    if kind == Kind::Effect && status.source().is_some() {
        return CallError::Unknown(format!("{method}: the connection broke"));
    }
    let details = read_details(status);
    match (status.code(), kind) {
        (Code::Unavailable, Kind::Effect) => match details {
            Some(details) if details.reason == reason::NOT_EXECUTED => CallError::Unavailable(told),
            _ => CallError::Unknown(told),
        },
        (
            Code::ResourceExhausted | Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented,
            _,
        ) => CallError::Unavailable(told),
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange,
            _,
        ) => match details {
            Some(refusal) => CallError::Refused(refusal),
            None => CallError::Unknown(format!("{told} without a reason")),
        },
        (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted, Kind::Read) => {
            CallError::Unavailable(told)
        }
        _ => CallError::Unknown(told),
    }
}

/// What it means that no answer came in time.
pub(super) fn timed_out(kind: Kind, method: &str) -> CallError {
    let told = format!("{method} did not answer in time");
    match kind {
        Kind::Read => CallError::Unavailable(told),
        Kind::Effect => CallError::Unknown(told),
    }
}

/// Whether the call failed before there was a connection to send it on: name not found, refused, TLS failed.
fn never_connected(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The refusal told by the details; `None` when they hold no `ErrorInfo` with a well-formed reason.
fn read_details(status: &Status) -> Option<Refusal> {
    let rich = pb::Status::decode(status.details()).ok()?;
    let info = rich.details.iter().find(|any| any.type_url == ERROR_INFO)?;
    let reason = pb::ErrorInfo::decode(info.value.as_slice()).ok()?.reason;
    let upper_snake = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if reason.is_empty() || reason.len() > MAX_REASON_LEN || !reason.bytes().all(upper_snake) {
        return None;
    }
    let shortages = rich.details.iter().find(|any| any.type_url == STOCK_SHORTAGE);
    let shortages = shortages.and_then(|any| StockShortage::decode(any.value.as_slice()).ok());
    let shortages = shortages.unwrap_or_default().shortages;
    Some(Refusal {
        reason: masked(&reason).into_owned(),
        // In this order: of a number that is cut the rest would not pass for one.
        message: shorten(&masked(status.message())),
        shortages: shortages.iter().take(MAX_SHORTAGES).filter_map(wire::shortage).collect(),
    })
}

/// At most [`MAX_MESSAGE_LEN`] bytes, without control characters.
fn shorten(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if short.len().saturating_add(c.len_utf8()) > MAX_MESSAGE_LEN {
            break;
        }
        short.push(c);
    }
    short
}

/// The status that tells a caller of `service` what [`classify`] reads from it.
pub(super) fn status_of(service: Collaborator, error: &CallError) -> Status {
    match error {
        CallError::Refused(refusal) => {
            let code = match refusal.reason.as_str() {
                reason::INVALID_REQUEST | reason::KEY_REUSED => Code::InvalidArgument,
                inventory::reason::RESERVATION_NOT_FOUND
                | payment::reason::TRANSACTION_NOT_FOUND
                | user::reason::USER_NOT_FOUND => Code::NotFound,
                _ => Code::FailedPrecondition,
            };
            rich_status(code, &refusal.message, service, refusal)
        }
        CallError::Unavailable(text) => {
            let refusal = Refusal {
                reason: reason::NOT_EXECUTED.to_owned(),
                message: String::new(),
                shortages: vec![],
            };
            rich_status(Code::Unavailable, text, service, &refusal)
        }
        CallError::Unknown(text) => Status::unknown(text),
    }
}

fn rich_status(code: Code, message: &str, service: Collaborator, refusal: &Refusal) -> Status {
    let info = pb::ErrorInfo {
        reason: refusal.reason.clone(),
        domain: format!("{service}.v1"),
        metadata: HashMap::new(),
    };
    let mut details = vec![Any { type_url: ERROR_INFO.to_owned(), value: info.encode_to_vec() }];
    if !refusal.shortages.is_empty() {
        let shortages = StockShortage { shortages: refusal.shortages.iter().map(Into::into).collect() };
        details.push(Any { type_url: STOCK_SHORTAGE.to_owned(), value: shortages.encode_to_vec() });
    }
    let rich = pb::Status { code: code as i32, message: message.to_owned(), details };
    Status::with_details(code, message, rich.encode_to_vec().into())
}

/// A code as the protocol writes it: `UNAVAILABLE` and its like.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::item::{ProductRef, Shortage};

    fn effect(status: &Status) -> CallError {
        classify(status, Kind::Effect, "payment.Charge")
    }

    #[test]
    fn what_the_server_says_is_what_the_client_reads() {
        let product = ProductRef { product_id: Uuid::from_u128(1), variant_id: Some(Uuid::from_u128(2)) };
        let shortage = Shortage { product, requested_quantity: 5, available_quantity: 3 };
        let refusals = [
            Refusal {
                reason: "OUT_OF_STOCK".to_owned(),
                message: "stock does not suffice".to_owned(),
                shortages: vec![shortage],
            },
            Refusal { reason: "USER_NOT_FOUND".to_owned(), message: String::new(), shortages: vec![] },
            Refusal { reason: "KEY_REUSED".to_owned(), message: "again".to_owned(), shortages: vec![] },
        ];
        for refusal in refusals {
            let error = CallError::Refused(refusal);
            assert_eq!(effect(&status_of(Collaborator::Inventory, &error)), error);
        }
        let unavailable = status_of(Collaborator::Payment, &CallError::Unavailable("down".to_owned()));
        assert!(matches!(effect(&unavailable), CallError::Unavailable(_)));
        let unknown = status_of(Collaborator::Payment, &CallError::Unknown("lost".to_owned()));
        assert!(matches!(effect(&unknown), CallError::Unknown(_)));
    }

    #[test]
    fn an_effect_that_may_have_happened_is_never_called_unavailable_or_refused() {
        for code in [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Unknown,
            Code::Cancelled,
            Code::Internal,
            Code::DataLoss,
            Code::Aborted,
            Code::FailedPrecondition, // no reason: a proxy may have made it up
            Code::InvalidArgument,
        ] {
            let error = effect(&Status::new(code, "secret tok_123"));
            assert!(matches!(error, CallError::Unknown(_)), "{code:?}");
            assert!(!format!("{error:?}").contains("tok_123"));
        }
    }

    #[test]
    fn turned_away_at_the_door_is_unavailable() {
        for code in
            [Code::ResourceExhausted, Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented]
        {
            assert!(matches!(effect(&Status::new(code, "")), CallError::Unavailable(_)), "{code:?}");
        }
    }

    #[test]
    fn a_connection_tells_whether_it_was_ever_made() {
        let from = |error: Box<dyn Error + Send + Sync>| Status::from_error(error);
        let refused = from(Box::new(ConnectError("tcp connect error".into())));
        assert!(matches!(effect(&refused), CallError::Unavailable(_)));
        // tonic gives this one a code that from a collaborator would be a promise.
        let mut broken = Status::resource_exhausted("ENHANCE_YOUR_CALM");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        assert!(matches!(effect(&broken), CallError::Unknown(_)));
    }

    #[test]
    fn a_read_is_worth_another_try() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Aborted] {
            let error = classify(&Status::new(code, ""), Kind::Read, "user.GetUser");
            assert!(matches!(error, CallError::Unavailable(_)), "{code:?}");
        }
        let error = classify(&Status::new(Code::Internal, ""), Kind::Read, "user.GetUser");
        assert!(matches!(error, CallError::Unknown(_)));
    }

    #[test]
    fn reasons_out_of_form_are_no_reasons() {
        for reason in ["", "lower", "WITH BLANK", &"A".repeat(MAX_REASON_LEN + 1)] {
            let refusal = Refusal { reason: reason.to_owned(), message: String::new(), shortages: vec![] };
            let status = rich_status(Code::FailedPrecondition, "", Collaborator::Payment, &refusal);
            assert!(matches!(effect(&status), CallError::Unknown(_)), "{reason}");
        }
    }

    #[test]
    fn a_refusal_keeps_no_card_number() {
        let long = format!("{} 4111 1111 1111 1111", "x".repeat(MAX_MESSAGE_LEN - 16));
        for message in ["5555 5555 5555 4444 was declined", &long] {
            let reason = "CARD_4111111111111111".to_owned();
            let refusal = Refusal { reason, message: message.to_owned(), shortages: vec![] };
            let told = effect(&status_of(Collaborator::Payment, &CallError::Refused(refusal)));
            let CallError::Refused(kept) = told else { panic!("{told:?}") };
            assert!(!kept.reason.contains("1111") && kept.reason.starts_with("CARD_"), "{kept:?}");
            let digits = kept.message.chars().filter(char::is_ascii_digit).count();
            assert_eq!(digits, 0, "{kept:?}");
            assert!(kept.message.contains("****"), "{kept:?}");
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = shorten(&"é\n".repeat(300));
        assert_eq!(cut, "é".repeat(MAX_MESSAGE_LEN / 2));
    }
}
