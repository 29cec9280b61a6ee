//! The hook before payment.

use super::OrderApi;
use crate::domain::Timestamp;
use crate::domain::command::Draft;
use crate::domain::error::OrderError;

impl OrderApi {
    /// Why the order is to be held before it is paid, if it is. Counts the user's past only where a rule wants that; two
    /// orders that are asked for at once do not count each other.
    pub(super) async fn risk_of(&self, draft: &Draft, now: Timestamp) -> Result<Option<String>, OrderError> {
        let earlier = match self.risk.past() {
            None => 0,
            Some(past) => {
                let window = chrono::Duration::from_std(past.window).unwrap_or_default();
                let since = now.checked_sub_signed(window).unwrap_or(now);
                self.orders.count_of_user(draft.user_id, since, past.at_most).await?
            }
        };
        Ok(self.risk.assess(draft, earlier))
    }
}
