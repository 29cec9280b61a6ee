//! Whose doing a change is: the who, as what, why and by which request of every event.

use std::sync::Arc;

use super::access::{Caller, Role};
use super::command::Ask;
use super::saga::SagaProgress;

/// Who causes events. The service itself has a name, and neither role nor reason.
#[derive(Clone, Default, Debug)]
pub(super) struct Cause {
    pub(super) principal: String,
    pub(super) role: Option<Role>,
    pub(super) reason: Option<Arc<str>>,
    pub(super) request_id: Option<String>,
}

impl Cause {
    /// Whoever asks.
    pub(super) fn of(ask: &Ask) -> Self {
        Self {
            principal: ask.caller.principal.to_string(),
            role: ask.caller.role(),
            reason: ask.caller.reason.clone(),
            request_id: Some(ask.context.request_id.to_string()),
        }
    }

    /// Whoever asked for what the saga does.
    pub(super) fn of_saga(saga: &SagaProgress) -> Self {
        Self {
            principal: saga.principal.clone(),
            role: saga.role,
            reason: saga.reason.clone(),
            request_id: Some(saga.request_id.clone()),
        }
    }

    /// The service itself.
    pub(super) fn system(principal: &str) -> Self {
        Self { principal: principal.to_owned(), ..Self::default() }
    }
}

impl Caller {
    /// The role that says most about what they were able to do; none for who has none.
    pub fn role(&self) -> Option<Role> {
        self.roles.iter().max().copied()
    }
}
