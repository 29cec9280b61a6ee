//! TLS of the public listener: who is answered, by which certificate, and as whom.

use std::fs;
use std::path::Path;
use std::process::Command;

use order_service::domain::access::Role;
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::harness::api::{by_id, eventually, read_refusal};
use crate::harness::certificates::Certificates;
use crate::harness::node::{TestNode, sample_order};
use crate::harness::tokens::{Issuer, bearing, known};
use crate::harness::wait::PATIENCE;

const NOTHING: &str = "01900000-0000-7000-8000-000000000001";

/// Certificates, those in use in a folder where they can be replaced.
struct Bed {
    certificates: Certificates,
    used: tempfile::TempDir,
    issuer: Issuer,
}

impl Bed {
    async fn new() -> Self {
        let certificates = Certificates::new().await;
        let used = tempfile::tempdir().unwrap();
        let bed = Self { certificates, used, issuer: Issuer::new() };
        bed.install("server");
        bed
    }

    /// Puts these files in place of those in use, each at once.
    fn install(&self, name: &str) {
        for kind in ["key", "crt"] {
            let (draft, place) = (self.used.path().join("draft"), self.used.path().join(kind));
            fs::copy(self.certificates.path(&format!("{name}.{kind}")), &draft).unwrap();
            fs::rename(draft, place).unwrap();
        }
    }

    async fn node(&self, more: &[(&str, &str)]) -> TestNode {
        let path = |name: &str| self.used.path().join(name).display().to_string();
        let (cert, key) = (path("crt"), path("key"));
        let own = [
            ("ORDER__GRPC__TLS_CERT", cert.as_str()),
            ("ORDER__GRPC__TLS_KEY", key.as_str()),
            ("ORDER__GRPC__TLS_RELOAD_EVERY", "100ms"),
        ];
        self.issuer.node(&[&own, more].concat()).await
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.certificates.path(name)).unwrap()
    }

    /// Whoever trusts this authority, and shows this certificate, if any.
    fn tls(&self, authority: &str, shown: Option<&str>) -> ClientTlsConfig {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.text(authority)))
            .domain_name("localhost");
        match shown {
            Some(name) => {
                let (cert, key) = (self.text(&format!("{name}.crt")), self.text(&format!("{name}.key")));
                tls.identity(Identity::from_pem(cert, key))
            }
            None => tls,
        }
    }

    /// A new connection.
    async fn connect(&self, node: &TestNode, authority: &str, shown: Option<&str>) -> Option<Channel> {
        let address = format!("https://{}", node.node().grpc_address());
        let endpoint =
            Endpoint::from_shared(address).unwrap().tls_config(self.tls(authority, shown)).unwrap();
        endpoint.connect().await.ok()
    }

    fn token(&self) -> String {
        self.issuer.token("ada", &[Role::Admin], None)
    }
}

/// A look at an order that does not exist.
async fn look(channel: Channel, token: &str) -> Status {
    known(channel, token).get_order(by_id(NOTHING)).await.unwrap_err()
}

#[tokio::test]
async fn callers_are_answered_by_tls_alone() {
    let bed = Bed::new().await;
    let node = bed.node(&[]).await;
    let channel = bed.connect(&node, "right.crt", None).await.unwrap();
    assert_eq!(look(channel.clone(), &bed.token()).await.code(), Code::NotFound);
    let anonymous = OrderServiceClient::new(channel).get_order(by_id(NOTHING)).await;
    read_refusal(&anonymous.unwrap_err(), Code::Unauthenticated, "TOKEN_INVALID");
    assert!(bed.connect(&node, "wrong.crt", None).await.is_none(), "who trusts others is not fooled");
    let plain = node.client().get_order(bearing(&bed.token(), by_id(NOTHING))).await.unwrap_err();
    assert_ne!(plain.code(), Code::NotFound, "nobody is answered in the clear");
    node.stop().await;
}

#[tokio::test]
async fn new_certificates_are_taken_up_and_broken_ones_are_not() {
    let bed = Bed::new().await;
    let node = bed.node(&[]).await;
    let old = bed.connect(&node, "right.crt", None).await.unwrap();
    // Half a file, and a key that does not fit.
    let crt = bed.used.path().join("crt");
    fs::write(&crt, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    assert!(bed.connect(&node, "right.crt", None).await.is_some());
    bed.install("stranger");
    let taken_up = async || bed.connect(&node, "wrong.crt", None).await;
    let new = eventually("the new certificate", taken_up).await;
    for channel in [old, new] {
        assert_eq!(look(channel, &bed.token()).await.code(), Code::NotFound, "connections live on");
    }
    assert!(bed.connect(&node, "right.crt", None).await.is_none());
    // From here on the files are broken: the last good ones stay.
    fs::write(&crt, "nothing").unwrap();
    fs::copy(bed.certificates.path("server.key"), bed.used.path().join("key")).unwrap();
    let mut looks = 0;
    let stays = async || {
        looks += 1;
        assert!(bed.connect(&node, "wrong.crt", None).await.is_some());
        (looks > 50).then_some(())
    };
    eventually("many connections", stays).await;
    node.stop().await;
}

/// Connections that say nothing.
async fn silent(node: &TestNode) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(node.node().grpc_address()).await.unwrap());
    }
    silent
}

/// Whether the other side has closed it.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(0) => true,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_slow_handshake_holds_up_nobody() {
    let bed = Bed::new().await;
    let node = bed.node(&[("ORDER__GRPC__TLS_HANDSHAKE_TIMEOUT", "1m")]).await;
    let silent = silent(&node).await;
    let connecting = timeout(PATIENCE, bed.connect(&node, "right.crt", None));
    let channel = connecting.await.unwrap().unwrap();
    assert_eq!(look(channel, &bed.token()).await.code(), Code::NotFound);
    assert!(!silent.iter().any(is_closed), "they are still waited for");
    drop(silent);
    node.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_ended() {
    let bed = Bed::new().await;
    let node = bed.node(&[("ORDER__GRPC__TLS_HANDSHAKE_TIMEOUT", "300ms")]).await;
    let silent = silent(&node).await;
    eventually("all to be closed", async || silent.iter().all(is_closed).then_some(())).await;
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_makes_a_service_where_that_is_wanted() {
    let bed = Bed::new().await;
    let ca = bed.certificates.path("right.crt").display().to_string();
    let mutual = [("ORDER__AUTH__MTLS", "true"), ("ORDER__GRPC__TLS_CLIENT_CA", ca.as_str())];
    let node = bed.node(&mutual).await;
    let channel = bed.connect(&node, "right.crt", Some("server")).await.unwrap();
    let mut service = OrderServiceClient::new(channel.clone());
    let order = service.create_order(sample_order()).await.unwrap().into_inner();
    let request = pb::ListOrderEventsRequest { order_id: order.id.clone(), ..Default::default() };
    let admin = bed.connect(&node, "right.crt", None).await.unwrap();
    let events = known(admin, &bed.token()).list_order_events(request).await.unwrap().into_inner().events;
    assert!(events.iter().any(|event| event.principal == "localhost"), "{events:?}");
    // A token says more than a certificate, and a bad one is not made good by it.
    let bad = known(channel.clone(), "a.b.c").get_order(by_id(NOTHING)).await.unwrap_err();
    read_refusal(&bad, Code::Unauthenticated, "TOKEN_INVALID");
    let token = bed.issuer.token("bob", &[Role::Admin], None);
    let cancel = pb::CancelOrderRequest { id: order.id.clone(), ..Default::default() };
    known(channel, &token).cancel_order(cancel).await.unwrap();
    let request = pb::ListOrderEventsRequest { order_id: order.id, ..Default::default() };
    let admin = bed.connect(&node, "right.crt", None).await.unwrap();
    let events = known(admin, &bed.token()).list_order_events(request).await.unwrap().into_inner().events;
    assert!(events.iter().any(|event| event.principal == "bob"), "{events:?}");
    // Without either, and with a certificate of others, nobody gets in.
    let none = bed.connect(&node, "right.crt", None).await.unwrap();
    let none = OrderServiceClient::new(none).get_order(by_id(NOTHING)).await;
    read_refusal(&none.unwrap_err(), Code::Unauthenticated, "TOKEN_INVALID");
    // Nor does somebody who only says that there was one.
    let mut claimed = Request::new(by_id(NOTHING));
    claimed.metadata_mut().insert("x-order-service-certificate", "spiffe://orders/eve".parse().unwrap());
    let none = bed.connect(&node, "right.crt", None).await.unwrap();
    let claimed = OrderServiceClient::new(none).get_order(claimed).await.unwrap_err();
    read_refusal(&claimed, Code::Unauthenticated, "TOKEN_INVALID");
    if let Some(channel) = bed.connect(&node, "right.crt", Some("stranger")).await {
        assert_ne!(look(channel, &bed.token()).await.code(), Code::NotFound, "a stranger got in");
    }
    node.stop().await;
}

#[tokio::test]
async fn the_command_line_trusts_the_authority_it_is_told() {
    let bed = Bed::new().await;
    let node = bed.node(&[]).await;
    let server = format!("https://localhost:{}", node.node().grpc_address().port());
    let (token, folder) = (bed.token(), bed.used.path().to_owned());
    let list = async |ca: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(["order", "list", "-o", "json", "--server", &server, "--ca"]).arg(ca);
        command.current_dir(&folder).env_clear().env("ORDER_TOKEN", &token);
        #[expect(clippy::disallowed_methods, reason = "the node answers while the program runs")]
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        output.await.unwrap()
    };
    let good = list(&bed.certificates.path("right.crt")).await;
    assert!(good.status.success(), "{good:?}");
    let fooled = list(&bed.certificates.path("wrong.crt")).await;
    assert_eq!(fooled.status.code(), Some(1), "{fooled:?}");
    node.stop().await;
}
