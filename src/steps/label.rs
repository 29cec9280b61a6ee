//! Making a shipping label, and voiding it.

use super::failed;
use crate::domain::address::AddressKind;
use crate::domain::ids::CallKey;
use crate::domain::order::Order;
use crate::domain::saga::StepResult;
use crate::domain::sealed::PersonalData;
use crate::ports::call::{CallContext, Collaborator};
use crate::ports::shipping::Shipping;

/// A repeat with the same key answers the same label.
pub(super) async fn create(
    shipping: &dyn Shipping,
    context: &CallContext,
    key: &CallKey,
    order: &Order,
) -> StepResult {
    let dependency = Collaborator::Shipping.as_str();
    let Some(address) = order.address(AddressKind::Shipping) else {
        let reason = "NO_SHIPPING_ADDRESS".to_owned();
        return StepResult::Refused { dependency, reason, shortages: Vec::new() };
    };
    match address.personal_data() {
        PersonalData::Available => {}
        // Its key may be back with the next try.
        PersonalData::Unavailable => {
            let error = "the address cannot be read: the key of personal data is missing".to_owned();
            return StepResult::Unavailable { dependency, error };
        }
        PersonalData::Erased => {
            let reason = "PERSONAL_DATA_ERASED".to_owned();
            return StepResult::Refused { dependency, reason, shortages: Vec::new() };
        }
    }
    let (method, lines) = (order.shipping_method.as_str(), order.stock_lines());
    match shipping.create_label(context, key, order.id, method, address, &lines).await {
        Ok(label) => StepResult::LabelCreated {
            carrier: label.carrier,
            tracking_number: label.tracking_number,
            label_url: label.label_url,
        },
        Err(error) => failed(Collaborator::Shipping, error),
    }
}

/// By the key the label was made with; voiding what never was succeeds.
pub(super) async fn void(shipping: &dyn Shipping, context: &CallContext, key: &CallKey) -> StepResult {
    match shipping.void_label(context, key).await {
        Ok(()) => StepResult::LabelVoided,
        Err(error) => failed(Collaborator::Shipping, error),
    }
}
