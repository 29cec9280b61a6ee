//! Other services that talk about cards in all their answers, and keep what they are asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use order_service::proto::payment::payment_service_client::PaymentServiceClient;
use order_service::proto::payment::payment_service_server::{PaymentService, PaymentServiceServer};
use order_service::proto::product::product_service_client::ProductServiceClient;
use order_service::proto::product::product_service_server::{ProductService, ProductServiceServer};
use order_service::proto::shipping::shipping_service_client::ShippingServiceClient;
use order_service::proto::shipping::shipping_service_server::{ShippingService, ShippingServiceServer};
use order_service::proto::{payment, product, shipping};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{CARDS, TOKEN};

/// Stands between a node and the simulator, and talks about cards in all its answers.
pub(super) struct Leaky {
    payment: PaymentServiceClient<Channel>,
    product: ProductServiceClient<Channel>,
    shipping: ShippingServiceClient<Channel>,
    has_failed: AtomicBool,
    /// All that it was asked, as it came.
    pub(super) asked: Mutex<Vec<String>>,
}

impl Leaky {
    fn hears<T: prost::Message>(&self, request: &Request<T>) {
        // What it says of itself hides most.
        let bytes = request.get_ref().encode_to_vec();
        let asked = format!("{:?} {}", request.metadata(), String::from_utf8_lossy(&bytes));
        self.asked.lock().unwrap().push(asked);
    }
}

/// A refusal that repeats a card number in all of its parts.
fn refusal() -> Status {
    let info = ErrorDetails::with_error_info("CARD_4111111111111111", "4111111111111111", HashMap::new());
    Status::with_error_details(Code::FailedPrecondition, format!("{} was declined", CARDS[1]), info)
}

#[tonic::async_trait]
impl PaymentService for Leaky {
    async fn charge(
        &self,
        request: Request<payment::ChargeRequest>,
    ) -> Result<Response<payment::ChargeResponse>, Status> {
        self.hears(&request);
        if request.get_ref().token == format!("{TOKEN}_bad") {
            return Err(refusal());
        }
        let mut answer = self.payment.clone().charge(request.into_inner()).await?.into_inner();
        answer.gateway = Some(payment::GatewayFacts {
            authorization_code: Some(CARDS[0].into()),
            card_brand: Some(format!("VISA {}", CARDS[2])),
            last4: Some(CARDS[0].into()),
            avs_result: Some("Y".into()),
        });
        Ok(Response::new(answer))
    }

    async fn get_transaction(
        &self,
        request: Request<payment::GetTransactionRequest>,
    ) -> Result<Response<payment::Transaction>, Status> {
        self.hears(&request);
        let mut answer = self.payment.clone().get_transaction(request.into_inner()).await?;
        answer.get_mut().decline_code = CARDS[0].into();
        Ok(answer)
    }

    async fn refund(
        &self,
        request: Request<payment::RefundRequest>,
    ) -> Result<Response<payment::RefundResponse>, Status> {
        self.hears(&request);
        if !self.has_failed.swap(true, Ordering::SeqCst) {
            return Err(Status::internal(format!("cannot pay back to {}", CARDS[5])));
        }
        self.payment.clone().refund(request.into_inner()).await
    }
}

#[tonic::async_trait]
impl ProductService for Leaky {
    async fn batch_get_products(
        &self,
        request: Request<product::BatchGetProductsRequest>,
    ) -> Result<Response<product::BatchGetProductsResponse>, Status> {
        self.hears(&request);
        let mut answer = self.product.clone().batch_get_products(request.into_inner()).await?.into_inner();
        for (product, card) in answer.products.iter_mut().zip(CARDS.iter().cycle()) {
            product.name = format!("Gift card {card}");
            product.sku = format!("SKU {}", CARDS[7]);
        }
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl ShippingService for Leaky {
    async fn create_label(
        &self,
        request: Request<shipping::CreateLabelRequest>,
    ) -> Result<Response<shipping::Label>, Status> {
        self.hears(&request);
        let mut answer = self.shipping.clone().create_label(request.into_inner()).await?.into_inner();
        answer.label_url = format!("https://labels.example/{}?paid={}", CARDS[0], CARDS[3]);
        answer.carrier = format!("ACME {}", CARDS[1]);
        Ok(Response::new(answer))
    }

    async fn void_label(
        &self,
        request: Request<shipping::VoidLabelRequest>,
    ) -> Result<Response<shipping::VoidLabelResponse>, Status> {
        self.hears(&request);
        self.shipping.clone().void_label(request.into_inner()).await
    }
}

/// Serves the leaky ones until the test ends; returns their URL, too.
pub(super) async fn leak(simulator: &str) -> (Arc<Leaky>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let to = Channel::from_shared(simulator.to_owned()).unwrap().connect().await.unwrap();
    let leaky = Arc::new(Leaky {
        payment: PaymentServiceClient::new(to.clone()),
        product: ProductServiceClient::new(to.clone()),
        shipping: ShippingServiceClient::new(to),
        has_failed: AtomicBool::new(false),
        asked: Mutex::default(),
    });
    let served = Server::builder()
        .add_service(PaymentServiceServer::from_arc(leaky.clone()))
        .add_service(ProductServiceServer::from_arc(leaky.clone()))
        .add_service(ShippingServiceServer::from_arc(leaky.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(served);
    (leaky, url)
}
