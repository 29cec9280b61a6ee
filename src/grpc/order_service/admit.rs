//! Whether one user may have one more order.

use super::{Begun, OrderApi};
use crate::domain::command::Draft;
use crate::domain::error::OrderError;
use crate::grpc::quota::Underway;
use crate::steps::prepare::Wish;

impl OrderApi {
    /// Counts a try to use a coupon. Asked before anybody is told whether there is such a coupon, also of a call that only
    /// validates: codes could be guessed otherwise.
    pub(super) async fn admit_coupon(&self, begun: &Begun, wish: &Wish) -> Result<(), OrderError> {
        match &self.gate {
            Some(gate) if wish.coupon.is_some() => {
                gate.coupon(&self.key, &begun.origin.caller, wish.user_id).await
            }
            _ => Ok(()),
        }
    }

    /// Counts a creation, before anything is stored. What comes back is kept until it is answered.
    pub(super) async fn admit(
        &self,
        begun: &Begun,
        draft: &Draft,
        validate_only: bool,
    ) -> Result<Option<Underway>, OrderError> {
        match &self.gate {
            Some(gate) if !validate_only => {
                let order = (draft.user_id, draft.id);
                gate.creation(&self.key, &begun.origin.caller, order, &self.orders).await
            }
            _ => Ok(None),
        }
    }
}
