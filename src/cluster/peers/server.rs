//! What this node answers to others.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::cluster::Cluster;
use crate::domain::membership::Incarnation;
use crate::proto::peer as pb;
use crate::proto::peer::peer_service_server::{PeerService, PeerServiceServer};

/// The service as routes, for the listener that serves it.
pub type PeerRoutes = PeerServiceServer<PeerApi>;

/// The service.
#[derive(Debug)]
pub struct PeerApi(Arc<Cluster>);

impl PeerApi {
    /// Builds the service; requests are at most so large.
    pub fn routes(cluster: Arc<Cluster>, max_message_bytes: usize) -> PeerRoutes {
        PeerServiceServer::new(Self(cluster)).max_decoding_message_size(max_message_bytes)
    }
}

#[tonic::async_trait]
impl PeerService for PeerApi {
    async fn probe(&self, request: Request<pb::ProbeRequest>) -> Result<Response<pb::ProbeResponse>, Status> {
        self.0.heard_of(request.get_ref().view_version);
        let (incarnation, view_version) = (self.0.me().0, self.0.view_version());
        Ok(Response::new(pb::ProbeResponse { incarnation, view_version }))
    }

    async fn probe_for(
        &self,
        request: Request<pb::ProbeForRequest>,
    ) -> Result<Response<pb::ProbeForResponse>, Status> {
        let reached = self.0.reaches(Incarnation(request.get_ref().incarnation)).await;
        Ok(Response::new(pb::ProbeForResponse { reached }))
    }

    async fn announce(
        &self,
        request: Request<pb::AnnounceRequest>,
    ) -> Result<Response<pb::AnnounceResponse>, Status> {
        self.0.heard_of(request.get_ref().view_version);
        Ok(Response::new(pb::AnnounceResponse {}))
    }

    type DrainStream = ReceiverStream<Result<pb::DrainProgress, Status>>;

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        if request.get_ref().incarnation != self.0.me().0 {
            return Err(Status::failed_precondition("another life of this node was meant"));
        }
        let mut progress = self.0.drain_here();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(progress) = progress.recv().await {
                let count = |slots: usize| i32::try_from(slots).unwrap_or(i32::MAX);
                let told = pb::DrainProgress {
                    slots_left: count(progress.slots_left),
                    slots_at_start: count(progress.slots_at_start),
                };
                if sender.send(Ok(told)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
