//! The parent of all order actors: a child that fails takes nobody along.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

/// Order actors are linked to it; it outlives them all.
#[derive(Debug)]
pub(super) struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<()>, _args: ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    /// A failed order was taken out of the registry when its state was dropped, and its failure counted there; the
    /// next command or the sweeper starts a fresh actor, after a pause where it keeps failing. So all that is left to
    /// do is to tell, and to go on (the default would stop this supervisor with its child).
    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<()>,
        event: SupervisionEvent,
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(actor, error) = event {
            metrics::counter!("order_actor_failures_total").increment(1);
            tracing::error!(actor = %actor.get_id(), %error, "an order's actor failed");
        }
        Ok(())
    }
}
