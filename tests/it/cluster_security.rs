//! Who is believed to be a node, and who is not.

use std::fs;

use order_service::proto::order as pb;
use order_service::proto::peer::ProbeRequest;
use order_service::proto::peer::peer_service_client::PeerServiceClient;
use tonic::Request;
use tonic::metadata::BinaryMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::harness::certificates::Certificates;
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::traffic::Call;

/// Orders until each of two nodes has owned some, created and canceled through the other one.
async fn forwards(cluster: &Cluster) -> pb::Order {
    let mut owned = [None, None];
    for number in 1.. {
        let Call::Create(request) = Call::create(number) else { unreachable!() };
        let order = cluster.client(0).create_order(*request).await.unwrap().into_inner();
        let owner = cluster.owners(std::slice::from_ref(&order.id)).await[0].unwrap();
        let Call::Cancel(request) = Call::cancel(&order.id) else { unreachable!() };
        let canceled = cluster.client(1 - owner).cancel_order(request).await.unwrap().into_inner();
        assert_eq!(canceled.status(), pb::OrderStatus::Cancelled);
        owned[owner] = Some(canceled);
        if let [Some(_), Some(order)] = &owned {
            return order.clone();
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_only_nodes_get_in() {
    let certificates = Certificates::new().await;
    let path = |name: &str| certificates.path(name).display().to_string();
    let (cert, key, ca) = (path("server.crt"), path("server.key"), path("right.crt"));
    let settings = [
        ("ORDER__PEER__TLS_CERT", cert.as_str()),
        ("ORDER__PEER__TLS_KEY", key.as_str()),
        ("ORDER__PEER__TLS_CA", ca.as_str()),
    ];
    let cluster = Cluster::start(Plan { settings: &settings, ..Plan::of(2) }).await;
    forwards(&cluster).await;

    let text = |name: &str| fs::read_to_string(certificates.path(name)).unwrap();
    let address = cluster.peer_address(0);
    let trusting = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(text("right.crt")));
    let known = || trusting().domain_name("order-service");
    let with = |name: &str| {
        known().identity(Identity::from_pem(text(&format!("{name}.crt")), text(&format!("{name}.key"))))
    };
    let probe = async |tls: Option<ClientTlsConfig>| {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Channel::from_shared(format!("{scheme}://{address}")).unwrap();
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let mut client = PeerServiceClient::new(endpoint.connect_lazy());
        client.probe(ProbeRequest::default()).await
    };
    assert!(probe(Some(with("server"))).await.is_ok(), "a node");
    assert!(probe(None).await.is_err(), "nobody without TLS");
    assert!(probe(Some(known())).await.is_err(), "nobody without a certificate");
    assert!(probe(Some(with("stranger"))).await.is_err(), "nobody with another authority's certificate");
    // And a node believes only what has the name of one.
    assert!(probe(Some(trusting().domain_name("elsewhere"))).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_cannot_pass_for_nodes() {
    let cluster = Cluster::start(Plan::of(2)).await;
    let order = forwards(&cluster).await;
    // As if a node had forwarded it for somebody else.
    for node in [0, 1] {
        let Call::Create(request) = Call::create(900 + node as u64) else { unreachable!() };
        let mut request = Request::new(*request);
        let metadata = request.metadata_mut();
        metadata.insert("x-order-view", "1".parse().unwrap());
        metadata.insert("x-order-roles", "CUSTOMER".parse().unwrap());
        metadata.insert_bin("x-order-principal-bin", BinaryMetadataValue::from_bytes(b"mallory"));
        let forged = cluster.client(node).create_order(request).await.unwrap().into_inner();
        for order in [&forged, &order] {
            let request = pb::ListOrderEventsRequest { order_id: order.id.clone(), ..Default::default() };
            let events = cluster.client(node).list_order_events(request).await.unwrap().into_inner().events;
            let principals: Vec<&str> = events.iter().map(|event| event.principal.as_str()).collect();
            assert!(!principals.is_empty());
            assert!(principals.iter().all(|principal| *principal == "dev"), "{principals:?}");
        }
    }
    // What nodes say to each other is not served to callers.
    let mut client = PeerServiceClient::connect(cluster.node_url(0)).await.unwrap();
    let refused = client.probe(ProbeRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
}
