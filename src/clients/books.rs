//! Reads the books of a running simulator.

use std::time::Duration;

use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::proto::simulator::simulator_service_client::SimulatorServiceClient;
use crate::proto::simulator::{GetLedgerRequest, GetLedgerResponse};

/// Longest wait for a connection, and for the answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the simulator at `url` did for one order.
///
/// # Errors
/// Why it does not answer, in words.
pub async fn ledger(url: &str, order: Uuid) -> Result<GetLedgerResponse, String> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())?;
    let connected = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE).connect().await;
    let channel = connected.map_err(|error| error.to_string())?;
    let request = GetLedgerRequest { order_id: order.to_string(), ..Default::default() };
    let answer = SimulatorServiceClient::new(channel).get_ledger(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}
