//! Who is let in where operators ask.

use std::sync::Arc;
use std::time::Duration;

use order_service::auth;
use order_service::domain::ids::IdKey;
use order_service::grpc::{AdminApi, Peer, Tokens, WatchLimits};
use order_service::proto::admin::ListStuckOrdersRequest;
use order_service::proto::admin::order_admin_service_server::OrderAdminService;
use tonic::{Code, Request};

use super::assert_out;
use crate::harness::api_in_process::Service;

#[tokio::test]
async fn operators_elsewhere_need_a_token() {
    let watch = WatchLimits { buffer: 16, slow_after: Duration::from_secs(1) };
    let service = Service::start(1, watch).await;
    let issuer = auth::Issuer {
        issuer: String::from("us"),
        audience: String::from("orders"),
        trust: auth::Trust::Shared(auth::SharedSecret::new(&[7; 32])),
        user_claim: String::from("sub"),
        max_age: None,
    };
    let limits = auth::Limits {
        max_length: 4_096,
        leeway: Duration::ZERO,
        known: 0,
        refresh: Duration::from_secs(60),
        timeout: Duration::from_secs(1),
        unknown_key_pause: Duration::from_secs(30),
        stale_after: Duration::from_secs(60),
        max_document: 4_096,
    };
    let clock = service.orders.clock();
    let verifier = auth::Verifier::start(vec![issuer], limits, service.stopping.clone()).await.unwrap();
    let api = |only_here| {
        let key = IdKey(b"test of operators".to_vec());
        let (orders, config) = (Arc::clone(&service.orders), service.config.clone());
        let api = AdminApi::new(orders, Arc::clone(&clock), key, config, None, only_here);
        api.with_tokens(Tokens { verifier: Arc::clone(&verifier), clock: Arc::clone(&clock), mtls: true })
    };
    let from = |address: Option<&str>| {
        let mut request = Request::new(ListStuckOrdersRequest::default());
        if let Some(address) = address {
            request.extensions_mut().insert(Peer(address.parse().unwrap()));
        }
        request
    };
    for elsewhere in [Some("10.0.0.1"), Some("::ffff:10.0.0.1"), None] {
        let refused = api(false).list_stuck_orders(from(elsewhere)).await.unwrap_err();
        assert_out(&refused, "", "no authorization header");
        let mut claims = from(elsewhere);
        claims.metadata_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
        assert_eq!(api(false).list_stuck_orders(claims).await.unwrap_err().code(), Code::Unauthenticated);
        // Where operators are let in from this machine only, no token helps.
        let refused = api(true).list_stuck_orders(from(elsewhere)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    for only_here in [false, true] {
        assert!(api(only_here).list_stuck_orders(from(Some("127.0.0.1"))).await.is_ok());
    }
    service.stop().await;
}
