//! Client of `shipping.v1`.

use async_trait::async_trait;
use tonic::transport::Channel;

use super::{Caller, ClientConfig, ClientError, build, can_be_kept, channel, unreadable};
use crate::clients::status::Kind;
use crate::clients::wire::write_lines;
use crate::domain::address::Address;
use crate::domain::card::masked;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::StockLine;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::shipping::{Label, Shipping};
use crate::proto::shipping as wire;
use crate::proto::shipping::shipping_service_client::ShippingServiceClient;

/// Longest carrier and tracking number that are accepted, in characters.
const MAX_TEXT: usize = 100;
/// Longest URL of a label that is accepted, in characters.
const MAX_URL: usize = 500;

/// The shipping service at a URL.
#[derive(Debug)]
pub struct ShippingClient(Caller<ShippingServiceClient<Channel>>);

impl ShippingClient {
    /// A client that connects when first used. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self(build!(ShippingServiceClient, Collaborator::Shipping, config)))
    }
}

/// Reads a label; `None` when carrier or tracking number are missing, or a text is too long.
fn read_label(answer: wire::Label) -> Option<Label> {
    let wire::Label { carrier, tracking_number, label_url } = answer;
    let fits = |text: &str| can_be_kept(text) && !text.is_empty() && text.chars().count() <= MAX_TEXT;
    let sound = fits(&carrier)
        && fits(&tracking_number)
        && label_url.chars().count() <= MAX_URL
        && can_be_kept(&label_url);
    // Not the number: those of some carriers look like card numbers, and a parcel has to be found.
    let (carrier, label_url) = (masked(&carrier).into_owned(), masked(&label_url).into_owned());
    sound.then_some(Label { carrier, tracking_number, label_url })
}

#[async_trait]
impl Shipping for ShippingClient {
    async fn create_label(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        method: &str,
        to: &Address,
        lines: &[StockLine],
    ) -> Result<Label, CallError> {
        const METHOD: &str = "shipping.CreateLabel";
        let message = wire::CreateLabelRequest {
            key: key.to_string(),
            order_id: order.to_string(),
            method: method.to_owned(),
            to: Some(to.into()),
            lines: write_lines(lines),
        };
        let answer = self
            .0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.create_label(request).await
            })
            .await?;
        read_label(answer).ok_or_else(|| unreadable(METHOD))
    }

    async fn void_label(&self, ctx: &CallContext, key: &CallKey) -> Result<(), CallError> {
        const METHOD: &str = "shipping.VoidLabel";
        let message = wire::VoidLabelRequest { key: key.to_string() };
        self.0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.void_label(request).await
            })
            .await
            .map(|wire::VoidLabelResponse {}| ())
    }
}
