//! Who asks, and what their request carries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use super::access::ON_BEHALF_REASON;
use super::{forward, headers, known};
use crate::auth::{Refused, Verifier};
use crate::domain::access::{Caller, Role};
use crate::domain::command::RequestContext;
use crate::domain::error::OrderError;
use crate::domain::text::{FieldRule, clean_field, contains_card_number};
use crate::domain::trace::TraceContext;
use crate::ports::clock::Clock;
use crate::trace::{self, Asker, Current, Name, Span};

/// Longest such reason, in characters.
const REASON_CHARS: usize = 200;
const MAX_REQUEST_ID: usize = 64;

/// How callers are told apart.
#[derive(Clone, Debug)]
pub(super) enum Authenticator {
    /// `auth.mode: dev`: everybody is a principal with every right.
    Dev(Caller),
    /// `auth.mode: jwt`: by a token, or a certificate.
    Jwt(Tokens),
    /// The listener for other nodes: they have told callers apart.
    Peer(Caller),
}

/// By what callers prove who they are.
#[derive(Clone)]
pub struct Tokens {
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// Says what time it is.
    pub clock: Arc<dyn Clock>,
    /// Whether a caller without a token is a service by the name in its certificate.
    pub mtls: bool,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("mtls", &self.mtls).finish_non_exhaustive()
    }
}

impl Authenticator {
    pub(super) fn dev() -> Self {
        Self::Dev(Caller {
            principal: Arc::from("dev"),
            roles: Arc::from([Role::Admin]),
            user: None,
            reason: None,
            until: None,
        })
    }

    /// For calls that other nodes forward.
    pub(super) fn peer() -> Self {
        Self::Peer(Caller {
            principal: Arc::from("peer"),
            roles: Arc::from([]),
            user: None,
            reason: None,
            until: None,
        })
    }

    /// Who a call comes from, and why they act for somebody else, if they say.
    ///
    /// # Errors
    /// [`OrderError::Unauthenticated`] when the call does not prove that, [`OrderError::Invalid`] for a reason that is no
    /// text to keep.
    pub(super) async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, OrderError> {
        let caller = match self {
            Self::Dev(caller) => caller.clone(),
            Self::Jwt(tokens) => tokens.caller(metadata).await.inspect_err(|error| {
                let why =
                    if matches!(error, OrderError::Unauthenticated { .. }) { "unproven" } else { "no_keys" };
                metrics::counter!("order_auth_refused_total", "why" => why).increment(1);
            })?,
            Self::Peer(nobody) => {
                return Ok(forward::caller_of(metadata).unwrap_or_else(|| nobody.clone()));
            }
        };
        Ok(match reason(metadata)? {
            None => caller,
            reason => Caller { reason, ..caller },
        })
    }
}

impl Tokens {
    async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, OrderError> {
        let refuse = |what| Err(OrderError::Unauthenticated { what });
        let mut headers = metadata.as_ref().get_all(&AUTHORIZATION).iter();
        let (header, more) = (headers.next(), headers.next());
        if more.is_some() {
            return refuse("the call has several authorization headers; send one");
        }
        let Some(header) = header else {
            return match self.service(metadata) {
                Some(service) => Ok(service),
                None => refuse("the call has no authorization header; send `authorization: Bearer TOKEN`"),
            };
        };
        let token = header.to_str().ok().and_then(|header| {
            let (scheme, token) = header.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let Some(token) = token else {
            return refuse("the authorization header is not of the form `Bearer TOKEN`");
        };
        let caller = self.verifier.caller(token, self.clock.now()).await;
        caller.map_err(|refused| match refused {
            Refused::Token(what) => OrderError::Unauthenticated { what },
            Refused::NoKeys => {
                OrderError::DependencyUnavailable { dependency: String::from("identity"), order_id: None }
            }
        })
    }

    /// The service that a certificate is for.
    fn service(&self, metadata: &MetadataMap) -> Option<Caller> {
        let name = metadata.as_ref().get(&known::SERVICE).filter(|_| self.mtls)?.to_str().ok()?;
        Some(Caller {
            principal: Arc::from(name),
            roles: Arc::from([Role::Service]),
            user: None,
            reason: None,
            until: None,
        })
    }
}

/// Why the caller acts for somebody else, in its own words.
fn reason(metadata: &MetadataMap) -> Result<Option<Arc<str>>, OrderError> {
    let Some(header) = metadata.as_ref().get(&headers::REASON) else { return Ok(None) };
    let text = String::from_utf8_lossy(header.as_bytes());
    let rule = FieldRule { required: true, max_chars: REASON_CHARS };
    let mut violations = Vec::new();
    match clean_field(ON_BEHALF_REASON, &text, rule, &mut violations) {
        Some(text) => Ok(Some(Arc::from(text))),
        None => Err(OrderError::Invalid(violations)),
    }
}

/// Roles as one node tells them to another.
pub(super) fn roles_text(roles: &[Role]) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",")
}

/// Request id and place in its trace of a request, and the span of the call, which log lines belong to from here on.
pub(super) fn context(metadata: &MetadataMap, asker: Asker, name: Name) -> (RequestContext, Span) {
    let metadata = metadata.as_ref();
    let text = |name: &HeaderName| metadata.get(name).and_then(|value| value.to_str().ok());
    let plain = |text: &&str| {
        (1..=MAX_REQUEST_ID).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            // It is stored and logged, where no card number may ever stand.
            && !contains_card_number(text)
    };
    let made_up = || Arc::from(&*Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    let request_id = text(&headers::REQUEST_ID).filter(plain).map_or_else(made_up, Arc::from);
    let mut parents = metadata.get_all(&headers::TRACE_PARENT).iter();
    let caller = match (parents.next(), parents.next()) {
        (Some(parent), None) => parent.to_str().ok().and_then(TraceContext::parse),
        // Of several, none is believed.
        _ => None,
    };
    let caller = caller.map(|caller| match text(&headers::TRACE_STATE) {
        None => caller,
        // Several headers are one list.
        Some(_) => {
            let all = metadata.get_all(&headers::TRACE_STATE).iter().map(|part| part.to_str().unwrap_or("?"));
            caller.with_state(&all.collect::<Vec<_>>().join(","))
        }
    });
    let (span, context) = trace::serve(caller, asker, name);
    trace::enter(Current::new(&request_id, Some(&context)));
    (RequestContext { request_id, trace: Some(context) }, span)
}

/// Puts the place in a trace beside a call to somebody else, or nothing where nobody traces it.
pub(super) fn pass_on(context: Option<&TraceContext>, metadata: &mut MetadataMap) {
    let Some(context) = context else { return };
    let metadata = metadata.as_mut();
    if let Ok(parent) = HeaderValue::try_from(context.parent()) {
        metadata.insert(&headers::TRACE_PARENT, headers::once(parent));
    }
    if let Some(Ok(state)) = context.state.as_deref().map(HeaderValue::from_str) {
        metadata.insert(&headers::TRACE_STATE, headers::once(state));
    }
}

/// The time the caller gives us (`grpc-timeout`), if it says so.
pub(super) fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    time_of(metadata.as_ref().get(&headers::TIMEOUT)?.to_str().ok()?)
}

/// The time in the text of a `grpc-timeout`.
pub(super) fn time_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(count.saturating_mul(60))),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}
