//! A client of `order.admin.v1` for the command line: plain calls, plain errors.

use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::orders::{Access, ApiError, MAX_ANSWER_BYTES, cannot_reach, endpoint, from_status};
use crate::proto::admin as pb;
use crate::proto::admin::order_admin_service_client::OrderAdminServiceClient;

/// A connection to the listener for operators of a node.
pub struct AdminClient {
    inner: OrderAdminServiceClient<Channel>,
    server: String,
    timeout: Duration,
    access: Access,
}

impl AdminClient {
    /// Connects to `server`, a URL or `HOST:PORT`. Connecting and every call may take `timeout`. `access` is how calls prove
    /// who makes them, and the server who it is.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when it is no URL or would get a token in the clear, `UNAVAILABLE` when nobody answers.
    pub async fn connect(server: &str, timeout: Duration, access: Access) -> Result<Self, ApiError> {
        let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let endpoint = endpoint(&server, timeout, &access).map_err(|_| {
            let message = format!("{server} is not the URL of a server; write it like http://127.0.0.1:9464");
            ApiError::local("INVALID_ARGUMENT", message)
        })?;
        access.fits(endpoint.uri()).map_err(|message| ApiError::local("INVALID_ARGUMENT", message))?;
        let channel = endpoint.connect().await.map_err(|error| cannot_reach(&server, &error))?;
        let inner = OrderAdminServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { inner, server, timeout, access })
    }

    /// `ExplainOrder`, by id or number.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn explain(&mut self, order: String) -> Result<pb::OrderExplanation, ApiError> {
        let request = self.request(pb::ExplainOrderRequest { order });
        let answer = self.inner.explain_order(request).await;
        self.plain(answer)
    }

    /// `ListStuckOrders`: one page.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn stuck(
        &mut self,
        content: pb::ListStuckOrdersRequest,
    ) -> Result<pb::ListStuckOrdersResponse, ApiError> {
        let request = self.request(content);
        let answer = self.inner.list_stuck_orders(request).await;
        self.plain(answer)
    }

    /// `RetryStep`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn retry(&mut self, content: pb::RetryStepRequest) -> Result<pb::RepairedOrder, ApiError> {
        let request = self.request(content);
        let answer = self.inner.retry_step(request).await;
        self.plain(answer)
    }

    /// `SkipStep`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn skip(&mut self, content: pb::SkipStepRequest) -> Result<pb::RepairedOrder, ApiError> {
        let request = self.request(content);
        let answer = self.inner.skip_step(request).await;
        self.plain(answer)
    }

    /// `ResolvePayment`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn resolve(
        &mut self,
        content: pb::ResolvePaymentRequest,
    ) -> Result<pb::RepairedOrder, ApiError> {
        let request = self.request(content);
        let answer = self.inner.resolve_payment(request).await;
        self.plain(answer)
    }

    /// `UnquarantineOrder`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn unquarantine(
        &mut self,
        content: pb::UnquarantineOrderRequest,
    ) -> Result<pb::RepairedOrder, ApiError> {
        let request = self.request(content);
        let answer = self.inner.unquarantine_order(request).await;
        self.plain(answer)
    }

    /// `EraseUser`: one page.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn erase_user(
        &mut self,
        content: pb::EraseUserRequest,
    ) -> Result<pb::EraseUserResponse, ApiError> {
        let request = self.request(content);
        let answer = self.inner.erase_user(request).await;
        self.plain(answer)
    }

    /// `RotateKeys`: one page.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn rotate_keys(
        &mut self,
        content: pb::RotateKeysRequest,
    ) -> Result<pb::RotateKeysResponse, ApiError> {
        let request = self.request(content);
        let answer = self.inner.rotate_keys(request).await;
        self.plain(answer)
    }

    /// `EncryptExisting`: one page.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn encrypt_existing(
        &mut self,
        content: pb::EncryptExistingRequest,
    ) -> Result<pb::EncryptExistingResponse, ApiError> {
        let request = self.request(content);
        let answer = self.inner.encrypt_existing(request).await;
        self.plain(answer)
    }

    /// `ListNodes`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn nodes(&mut self) -> Result<pb::ListNodesResponse, ApiError> {
        let request = self.request(pb::ListNodesRequest {});
        let answer = self.inner.list_nodes(request).await;
        self.plain(answer)
    }

    /// `ListSlots`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn slots(&mut self) -> Result<pb::ListSlotsResponse, ApiError> {
        let request = self.request(pb::ListSlotsRequest {});
        let answer = self.inner.list_slots(request).await;
        self.plain(answer)
    }

    /// `PlanCluster`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn plan(
        &mut self,
        content: pb::PlanClusterRequest,
    ) -> Result<pb::PlanClusterResponse, ApiError> {
        let request = self.request(content);
        let answer = self.inner.plan_cluster(request).await;
        self.plain(answer)
    }

    /// `DrainNode`, until nothing more is told.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn drain(
        &mut self,
        content: pb::DrainNodeRequest,
        mut progress: impl FnMut(&pb::DrainNodeProgress),
    ) -> Result<(), ApiError> {
        // It takes as long as it takes.
        let request = self.signed(content);
        let answer = self.inner.drain_node(request).await;
        let mut told = self.plain(answer)?;
        loop {
            match told.message().await {
                Ok(Some(next)) => progress(&next),
                Ok(None) => return Ok(()),
                Err(status) => return Err(from_status(&status, &self.server, self.timeout)),
            }
        }
    }

    fn request<T>(&self, content: T) -> Request<T> {
        let mut request = self.signed(content);
        request.set_timeout(self.timeout);
        request
    }

    fn signed<T>(&self, content: T) -> Request<T> {
        let mut request = Request::new(content);
        self.access.put(request.metadata_mut());
        request
    }

    fn plain<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, ApiError> {
        answer.map(Response::into_inner).map_err(|status| {
            let mut error = from_status(&status, &self.server, self.timeout);
            if error.code == "UNIMPLEMENTED" {
                error.message = format!(
                    "{} does not offer calls for operators; point --server at the node's ops.listen, by default \
                     http://127.0.0.1:9464",
                    self.server
                );
            }
            error
        })
    }
}
