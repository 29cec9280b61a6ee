//! The way of a command to the node that owns its order: here, or by one marked hop to another node.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{BinaryMetadataValue, MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::order_service::{Begun, MARGIN, Origin};
use super::status::to_status;
use super::{auth, headers};
use crate::cluster::{Cluster, Failed, Outgoing, Route, framed};
use crate::domain::access::{Caller, Role};
use crate::domain::error::OrderError;
use crate::domain::ids::{IdKey, UserId};
use crate::domain::membership::Member;
use crate::domain::trace::TraceContext;
use crate::proto::answer::Answer;
use crate::trace::{self, Key, Kind, Name, Span};

/// The view of the node that forwards a call; its presence marks the call as forwarded. Looked at on the listener for other
/// nodes only, as are those below.
const VIEW: &str = "x-order-view";
/// Who called: name, roles, the user they are, and why they act for another one.
const PRINCIPAL: &str = "x-order-principal-bin";
const ROLES: &str = "x-order-roles";
const USER: &str = "x-order-user";
const REASON: &str = "x-order-reason-bin";

/// Misses in a row before a command waits for news.
const HOPS_AT_ONCE: u32 = 2;
/// The wait for news before the next try; it grows.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it gets.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The largest answer that a node takes from another, in bytes: orders are larger than requests.
pub(super) const ANSWER_BYTES: usize = 64 << 20;

/// A refusal: our own, or that of the node that was asked.
#[derive(Debug)]
pub(super) enum Refusal {
    Own(OrderError),
    Told(Box<Status>),
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        Self::Own(error)
    }
}

impl Refusal {
    /// As it is put on the wire.
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Own(error) => to_status(&error),
            // What the other node's connection says besides is no business of the caller's.
            Self::Told(status) => {
                Status::with_details(status.code(), status.message(), status.details().to_vec().into())
            }
        }
    }
}

/// A request that has to be executed by the owner of an order.
pub(super) trait Routed: Message + Default + Clone + Send + Sync + 'static {
    /// What it is answered with.
    type Answer: Message + Default + Send + Sync + 'static;
    /// The method's path.
    const PATH: &'static str;

    /// The slot of the order; none when the request is not well formed.
    fn slot(&self, key: &IdKey) -> Option<u16>;

    /// Its request id, where it has one.
    fn request_id(&mut self) -> Option<&mut String>;
}

/// The view of the node that forwarded a call; 0 when it does not say.
pub(super) fn view_of(metadata: &MetadataMap) -> i64 {
    let told = metadata.get(VIEW).and_then(|view| view.to_str().ok());
    told.and_then(|view| view.parse().ok()).unwrap_or(0)
}

/// For whom a forwarded call is.
pub(super) fn caller_of(metadata: &MetadataMap) -> Option<Caller> {
    let text = |name: &str| String::from_utf8(metadata.get_bin(name)?.to_bytes().ok()?.to_vec()).ok();
    let roles = metadata.get(ROLES)?.to_str().ok()?;
    Some(Caller {
        principal: Arc::from(text(PRINCIPAL)?),
        roles: roles.split(',').filter_map(Role::parse).collect(),
        user: metadata.get(USER).and_then(|user| user.to_str().ok()?.parse().ok()).map(UserId),
        reason: text(REASON).map(Arc::from),
        // The node that they called looks after that.
        until: None,
    })
}

/// Tells the node that forwarded a call which view this one has.
pub(super) fn tell_view(metadata: &mut MetadataMap, version: i64) {
    metadata.insert(VIEW, MetadataValue::from(version));
}

/// Executes a request where it belongs. `local` executes it here; it is tried again elsewhere when it answers `NotOwner`.
pub(super) async fn execute<R, F>(
    cluster: Option<&Arc<Cluster>>,
    key: &IdKey,
    begun: &Begun,
    mut request: R,
    local: impl Fn(R) -> F,
) -> Result<Answer<R::Answer>, Refusal>
where
    R: Routed,
    F: Future<Output = Result<R::Answer, OrderError>>,
{
    let (Some(cluster), Some(slot)) = (cluster, request.slot(key)) else {
        return Ok(local(request).await?.into());
    };
    let (mut misses, mut broke) = (0u32, false);
    // Whoever waits for an owner in vain is told so before its own patience ends.
    let time = begun.deadline.saturating_duration_since(begun.started);
    let some = time.saturating_sub(MARGIN).max(time.checked_div(2).unwrap_or_default());
    let patience = begun.started.checked_add(some).unwrap_or(begun.deadline);
    // What a call that broke has done is not known: nobody may be told that it was not executed.
    let in_vain = |broke: bool| if broke { OrderError::StorageUnavailable } else { OrderError::NotOwner };
    loop {
        let routed = cluster.route(slot, begun.origin.via, patience).await;
        let route = routed.map_err(|error| match error {
            OrderError::NotOwner => in_vain(broke),
            OrderError::Overloaded { .. } if broke => in_vain(broke),
            error => error,
        })?;
        let member = match route {
            Route::Here => match local(request.clone()).await {
                Err(OrderError::NotOwner) if begun.origin.via.is_none() => None,
                answer => return Ok(answer?.into()),
            },
            Route::Peer(member) => Some(member),
        };
        if Instant::now() >= patience {
            return Err(in_vain(broke).into());
        }
        let Some(member) = member else {
            // The store knows a newer view than this node.
            misses = misses.saturating_add(1);
            cluster.look_again();
            cluster.news(PAUSE).await;
            continue;
        };
        // The call may break after it was executed. Its repeat has to meet itself.
        if let Some(id) = request.request_id().filter(|id| id.is_empty()) {
            *id = Uuid::now_v7().to_string();
        }
        match forward(cluster, &member, begun, &request).await {
            Ok(answer) => {
                metrics::counter!("order_cluster_forwards_total", "outcome" => "answered").increment(1);
                return Ok(answer);
            }
            Err(miss) => match miss {
                Miss::Refused(status) => return Err(Refusal::Told(status)),
                Miss::NotThere(version) => {
                    metrics::counter!("order_cluster_forwards_total", "outcome" => "not_owner").increment(1);
                    cluster.catch_up(version, begun.deadline).await;
                    misses = misses.saturating_add(1);
                    if misses >= HOPS_AT_ONCE {
                        cluster.news(pause_after(misses)).await;
                    }
                }
                Miss::Broken(why) => {
                    metrics::counter!("order_cluster_forwards_total", "outcome" => "broken").increment(1);
                    broke = true;
                    tracing::debug!(node = member.name, why, "a forwarded call broke; it is sent again");
                    cluster.doubt(&member);
                    misses = misses.saturating_add(1);
                    cluster.news(pause_after(misses)).await;
                }
            },
        }
        // Without the store nobody owns anything for long, and nothing will change before it is back.
        if !cluster.is_in() {
            return Err(OrderError::StorageUnavailable.into());
        }
    }
}

/// How long news is waited for after so many misses: a little longer with each.
pub(super) fn pause_after(misses: u32) -> Duration {
    PAUSE.saturating_mul(misses.max(1)).min(LONGEST_PAUSE)
}

/// Why a forwarded call has no answer.
#[derive(Debug)]
pub(super) enum Miss {
    /// The other node refuses the request itself.
    Refused(Box<Status>),
    /// It does not own the order, by the view that it tells, and has not executed anything.
    NotThere(i64),
    /// Nothing is known of what became of it.
    Broken(String),
}

impl Miss {
    pub(super) fn of(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason);
        match (reason.as_deref(), status.code()) {
            (Some("NOT_OWNER" | "SHUTTING_DOWN"), Code::Unavailable) => {
                Self::NotThere(view_of(status.metadata()))
            }
            (Some(_), _) => Self::Refused(Box::new(status)),
            // Our own refusals give a reason. What has none comes from the connection, or from a program that is too old or
            // too new for the call.
            (None, Code::ResourceExhausted) => Self::Broken(status.to_string()),
            (
                None,
                Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Internal,
            ) => Self::Broken(status.to_string()),
            (None, _) => Self::Refused(Box::new(status)),
        }
    }
}

async fn forward<R: Routed>(
    cluster: &Cluster,
    member: &Member,
    begun: &Begun,
    request: &R,
) -> Result<Answer<R::Answer>, Miss> {
    let name = || Name::path(R::PATH);
    let context = begun.origin.context.trace.as_ref();
    let (mut span, context) = match context {
        Some(context) => {
            let (span, context) = trace::child(context, Kind::Client, name);
            (span, Some(context))
        }
        None => (Span::none(), None),
    };
    span.name(Key::Node, &member.name);
    let answer = send(cluster, member, begun, context.as_ref(), request).await;
    let outcome = match &answer {
        Ok(_) => "answered",
        Err(Miss::Refused(_)) => "refused",
        Err(Miss::NotThere(_)) => "not the owner",
        Err(Miss::Broken(_)) => "broken",
    };
    span.word(Key::Outcome, outcome);
    if matches!(answer, Err(Miss::Broken(_))) {
        span.fail();
    }
    answer
}

async fn send<R: Routed>(
    cluster: &Cluster,
    member: &Member,
    begun: &Begun,
    context: Option<&TraceContext>,
    request: &R,
) -> Result<Answer<R::Answer>, Miss> {
    let mut marked = mark(cluster, &begun.origin, context, ());
    marked.set_timeout(begun.deadline.saturating_duration_since(Instant::now()));
    let (metadata, _extensions, ()) = marked.into_parts();
    let mut headers = metadata.into_headers();
    if let Some(timeout) = headers.get_mut(&headers::TIMEOUT) {
        timeout.set_sensitive(true);
    }
    let call = Outgoing { path: R::PATH, headers, body: framed(request), longest_answer: ANSWER_BYTES };
    let calling = timeout_at(begun.deadline, cluster.call(member, call));
    let answer = tokio::select! {
        answer = calling => answer,
        // A host that stands still does not say that it is gone.
        () = cluster.gone(member) => return Err(Miss::Broken(String::from("the node is gone"))),
    };
    match answer {
        Ok(Ok(answer)) => Ok(Answer::Bytes(answer)),
        Ok(Err(Failed::Refused(status))) => Err(Miss::of(*status)),
        Ok(Err(Failed::Broken(why))) => Err(Miss::Broken(why)),
        Err(_elapsed) => Err(Miss::Broken(String::from("no answer before the deadline"))),
    }
}

/// A request with what the owner needs to know of its caller.
pub(super) fn mark<T>(
    cluster: &Cluster,
    origin: &Origin,
    context: Option<&TraceContext>,
    message: T,
) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    tell_view(metadata, cluster.view_version());
    metadata.insert_bin(PRINCIPAL, BinaryMetadataValue::from_bytes(origin.caller.principal.as_bytes()));
    if let Ok(roles) = auth::roles_text(&origin.caller.roles).parse() {
        metadata.insert(ROLES, roles);
    }
    if let Some(Ok(user)) = origin.caller.user.map(|user| HeaderValue::try_from(user.0.to_string())) {
        metadata.as_mut().insert(USER, headers::once(user));
    }
    if let Some(reason) = &origin.caller.reason {
        metadata.insert_bin(REASON, BinaryMetadataValue::from_bytes(reason.as_bytes()));
    }
    if let Ok(id) = HeaderValue::from_str(&origin.context.request_id) {
        metadata.as_mut().insert(&headers::REQUEST_ID, headers::once(id));
    }
    auth::pass_on(context, metadata);
    request
}
