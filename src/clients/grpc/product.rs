//! Client of `product.v1`.

use async_trait::async_trait;
use tonic::transport::Channel;

use super::{Caller, ClientConfig, ClientError, build, can_be_kept, channel, unreadable};
use crate::clients::status::Kind;
use crate::clients::wire::{money, product_ref, variant_text};
use crate::domain::card::masked;
use crate::domain::item::ProductRef;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::product::{Product, Products};
use crate::proto::product as wire;
use crate::proto::product::product_service_client::ProductServiceClient;

/// Longest SKU that is accepted, in characters: the width of its column.
const MAX_SKU: usize = 100;
/// Longest name that is accepted, in characters: the width of its column.
const MAX_NAME: usize = 255;
/// Longest tax class that is accepted, in characters.
const MAX_TAX_CLASS: usize = 50;

/// The product service at a URL.
#[derive(Debug)]
pub struct ProductClient(Caller<ProductServiceClient<Channel>>);

impl ProductClient {
    /// A client that connects when first used. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self(build!(ProductServiceClient, Collaborator::Product, config)))
    }
}

/// Reads a product; `None` when a field is missing, malformed or too long.
fn read_product(message: wire::Product) -> Option<Product> {
    let wire::Product { product, sku, name, unit_price, currency, tax_class, active } = message;
    let product = product?;
    let product = product_ref(&product.product_id, &product.variant_id)?;
    let (unit_price, currency) = money(&unit_price, &currency)?;
    let fits =
        |text: &str, most: usize| can_be_kept(text) && !text.is_empty() && text.chars().count() <= most;
    let sound = fits(&sku, MAX_SKU) && fits(&name, MAX_NAME) && fits(&tax_class, MAX_TAX_CLASS);
    let kept = |text: String| masked(&text).into_owned();
    let (sku, name, tax_class) = (kept(sku), kept(name), kept(tax_class));
    sound.then_some(Product { product, sku, name, unit_price, currency, tax_class, active })
}

#[async_trait]
impl Products for ProductClient {
    async fn batch_get(&self, ctx: &CallContext, refs: &[ProductRef]) -> Result<Vec<Product>, CallError> {
        const METHOD: &str = "product.BatchGetProducts";
        let wanted = refs.iter().map(|product| wire::ProductRef {
            product_id: product.product_id.to_string(),
            variant_id: variant_text(product),
        });
        let message = wire::BatchGetProductsRequest { products: wanted.collect() };
        let answer = self
            .0
            .call(ctx, Kind::Read, METHOD, message, |mut client, request| async move {
                client.batch_get_products(request).await
            })
            .await?;
        let products: Option<Vec<_>> = answer.products.into_iter().map(read_product).collect();
        products.ok_or_else(|| unreadable(METHOD))
    }
}
