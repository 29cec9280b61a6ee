//! What of a caller goes on: its name to the user service, its token and reason from the command line.

use std::process::Command;
use std::sync::{Arc, Mutex};

use order_service::domain::access::Role;
use order_service::proto::order as pb;
use order_service::proto::user as wire;
use order_service::proto::user::user_service_server::{UserService, UserServiceServer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use crate::harness::access::{As, OTHER, OWNER, start};
use crate::harness::api::{order_of, read_refusal};

/// Knows everybody and keeps what came with each call.
#[derive(Clone, Default)]
struct Users(Arc<Mutex<Vec<(&'static str, MetadataMap)>>>);

impl Users {
    fn keep<T>(&self, method: &'static str, request: &Request<T>) {
        self.0.lock().unwrap().push((method, request.metadata().clone()));
    }
}

#[tonic::async_trait]
impl UserService for Users {
    async fn get_user(&self, request: Request<wire::GetUserRequest>) -> Result<Response<wire::User>, Status> {
        self.keep("GetUser", &request);
        Ok(Response::new(wire::User { id: request.into_inner().user_id, active: true }))
    }

    async fn validate_address(
        &self,
        request: Request<wire::ValidateAddressRequest>,
    ) -> Result<Response<wire::ValidateAddressResponse>, Status> {
        self.keep("ValidateAddress", &request);
        Ok(Response::new(wire::ValidateAddressResponse::default()))
    }
}

#[tokio::test]
async fn the_user_service_is_asked_in_the_callers_name() {
    let users = Users::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Server::builder().add_service(UserServiceServer::new(users.clone()));
    let serving = tokio::spawn(serving.serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
        drop(stopped.await);
    }));
    let node = start(&[("ORDER__COLLABORATORS__USER", &url)]).await;
    let mut client = node.client();
    let service = As::new("checkout \u{e9}", &[Role::Service], OTHER);
    for who in [As::customer(OWNER), service] {
        let request = pb::CreateOrderRequest { user_id: OWNER.into(), ..order_of(&[(1, 2)]) };
        let made = client.create_order(who.sign(request)).await.unwrap().into_inner();
        assert_eq!(made.status(), pb::OrderStatus::Confirmed);
    }
    // Refused before anybody is asked.
    let request = pb::CreateOrderRequest { user_id: OWNER.into(), ..order_of(&[(1, 2)]) };
    let told = client.create_order(As::customer(OTHER).sign(request)).await.unwrap_err();
    read_refusal(&told, Code::PermissionDenied, "ROLE_FORBIDS");

    let mut heard: Vec<(&str, String, String, String)> = Vec::new();
    for (method, metadata) in users.0.lock().unwrap().iter() {
        let text =
            |name: &str| metadata.get(name).map_or(String::new(), |it| it.to_str().unwrap().to_owned());
        let principal = metadata.get_bin("x-order-principal-bin").unwrap().to_bytes().unwrap();
        let principal = String::from_utf8(principal.to_vec()).unwrap();
        assert!(metadata.get("authorization").is_none(), "a token is for this service alone");
        heard.push((method, principal, text("x-order-roles"), text("x-order-user")));
    }
    heard.sort();
    let told = |method, principal: &str, role: &str, user: &str| {
        (method, principal.to_owned(), role.to_owned(), user.to_owned())
    };
    let all = ["GetUser", "ValidateAddress"].map(|method| {
        [told(method, OWNER, "customer", OWNER), told(method, "checkout \u{e9}", "service", OTHER)]
    });
    assert_eq!(heard, all.concat());
    drop(client);
    node.stop().await;
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_act_on_behalf_of_users_by_the_command_line() {
    let node = start(&[]).await;
    let request = pb::CreateOrderRequest { user_id: OWNER.into(), ..order_of(&[(1, 2)]) };
    let made = node.client().create_order(As::customer(OWNER).sign(request)).await.unwrap().into_inner();
    let server = format!("http://{}", node.node().grpc_address());
    let support = As::role(Role::Support);
    let cancel = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(["order", "cancel", &made.id, "--server", &server, "-o", "json"]).args(more);
        command.env("ORDER_TOKEN", support.token());
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, told) = cancel(&[]);
    assert!(code == Some(1) && told.contains("x-on-behalf-reason"), "{code:?}: {told}");
    let (code, told) = cancel(&["--on-behalf", "the customer called, \u{e9}"]);
    assert!(
        code == Some(0) && told.contains("CANCELLED") && told.contains("j***@example.com"),
        "{code:?}: {told}"
    );
    node.stop().await;
}
