//! Reads the JSON of a request to create an order.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::proto::order;

/// A request as people write it: the names of the API, everything optional. What is missing or out of range is for
/// the service to say; what it would never see, a misspelt name or a wrong type, is said here.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct RequestJson {
    request_id: Option<String>,
    user_id: Option<String>,
    #[serde(default)]
    items: Vec<ItemJson>,
    shipping_address: Option<AddressJson>,
    billing_address: Option<AddressJson>,
    payment_method: Option<String>,
    payment_token: Option<String>,
    shipping_method: Option<String>,
    notes: Option<String>,
    coupon_code: Option<String>,
    currency: Option<String>,
    #[serde(default, deserialize_with = "amount")]
    expected_total: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    validate_only: bool,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct ItemJson {
    product_id: Option<String>,
    variant_id: Option<String>,
    quantity: Option<i32>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct AddressJson {
    // Ignored, so that an address can be copied out of an answer.
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "order_id")]
    _order_id: Option<String>,
    address_type: Option<AddressTypeJson>,
    first_name: Option<String>,
    last_name: Option<String>,
    address_line1: Option<String>,
    address_line2: Option<String>,
    city: Option<String>,
    state: Option<String>,
    postal_code: Option<String>,
    country: Option<String>,
    phone: Option<String>,
    email: Option<String>,
}

#[derive(Deserialize, Debug, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum AddressTypeJson {
    Shipping,
    Billing,
}

/// An amount is text; a number is refused with the way to write it.
fn amount<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Amount {
        Text(String),
        Number(serde_json::Number),
    }
    match Option::<Amount>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Amount::Text(text)) => Ok(Some(text)),
        Some(Amount::Number(number)) => {
            Err(serde::de::Error::custom(format!("amounts are text, so write \"{number}\" in quotes")))
        }
    }
}

/// Reads a request; `source` names where `text` comes from.
///
/// # Errors
/// One sentence with the field, the line and the column.
pub(super) fn parse(text: &str, source: &str) -> Result<order::CreateOrderRequest, String> {
    let text = text.trim_start_matches('\u{feff}');
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let request: RequestJson = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        format!("{source}: {place}{}; correct the file and try again", error.into_inner())
    })?;
    deserializer.end().map_err(|error| format!("{source}: {error}; keep one JSON object in the file"))?;
    Ok(request.into())
}

impl From<RequestJson> for order::CreateOrderRequest {
    fn from(json: RequestJson) -> Self {
        Self {
            request_id: json.request_id.unwrap_or_default(),
            user_id: json.user_id.unwrap_or_default(),
            items: json.items.into_iter().map(order::NewOrderItem::from).collect(),
            shipping_address: json.shipping_address.map(order::OrderAddress::from),
            billing_address: json.billing_address.map(order::OrderAddress::from),
            payment_method: json.payment_method.unwrap_or_default(),
            payment_token: json.payment_token.unwrap_or_default(),
            shipping_method: json.shipping_method.unwrap_or_default(),
            notes: json.notes.unwrap_or_default(),
            coupon_code: json.coupon_code.unwrap_or_default(),
            currency: json.currency.unwrap_or_default(),
            expected_total: json.expected_total.unwrap_or_default(),
            metadata: json.metadata.into_iter().collect::<HashMap<_, _>>(),
            validate_only: json.validate_only,
        }
    }
}

impl From<ItemJson> for order::NewOrderItem {
    fn from(json: ItemJson) -> Self {
        Self {
            product_id: json.product_id.unwrap_or_default(),
            variant_id: json.variant_id.unwrap_or_default(),
            quantity: json.quantity.unwrap_or_default(),
        }
    }
}

impl From<AddressJson> for order::OrderAddress {
    fn from(json: AddressJson) -> Self {
        let address_type = match json.address_type {
            None => order::AddressType::Unspecified,
            Some(AddressTypeJson::Shipping) => order::AddressType::Shipping,
            Some(AddressTypeJson::Billing) => order::AddressType::Billing,
        };
        Self {
            id: String::new(),
            order_id: String::new(),
            address_type: address_type.into(),
            first_name: json.first_name.unwrap_or_default(),
            last_name: json.last_name.unwrap_or_default(),
            address_line1: json.address_line1.unwrap_or_default(),
            address_line2: json.address_line2.unwrap_or_default(),
            city: json.city.unwrap_or_default(),
            state: json.state.unwrap_or_default(),
            postal_code: json.postal_code.unwrap_or_default(),
            country: json.country.unwrap_or_default(),
            phone: json.phone.unwrap_or_default(),
            email: json.email.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_are_requests() {
        let design = parse(include_str!("../../../examples/create-order.json"), "design").unwrap();
        assert_eq!(design.user_id, "123e4567-e89b-12d3-a456-426614174000");
        assert_eq!(design.items.first().unwrap().quantity, 2);
        let address = design.shipping_address.as_ref().unwrap();
        assert_eq!((address.address_type(), address.country.as_str()), (order::AddressType::Shipping, "USA"));
        assert_eq!(design.billing_address.unwrap().address_type(), order::AddressType::Billing);
        assert_eq!((design.coupon_code.as_str(), design.payment_token.as_str()), ("SUMMER10", ""));
        for text in [
            include_str!("../../../examples/minimal-order.json"),
            include_str!("../../../examples/eur-order.json"),
            include_str!("../../../examples/declined-payment.json"),
        ] {
            let request = parse(text, "example").unwrap();
            assert!(!request.items.is_empty() && request.shipping_address.is_some());
        }
    }

    #[test]
    fn every_field_arrives() {
        let text = r#"{"request_id":"r","user_id":"u","items":[{"product_id":"p","variant_id":null,"quantity":3}],
            "payment_method":"m","payment_token":"t","shipping_method":"s","notes":null,"coupon_code":"c",
            "currency":"EUR","expected_total":"9.99","metadata":{"a":"b"},"validate_only":true}"#;
        let request = parse(text, "x").unwrap();
        assert_eq!((request.request_id.as_str(), request.expected_total.as_str()), ("r", "9.99"));
        assert_eq!((request.payment_token.as_str(), request.notes.as_str()), ("t", ""));
        assert_eq!(request.metadata.get("a").map(String::as_str), Some("b"));
        assert!(request.validate_only && request.shipping_address.is_none());
    }

    #[test]
    fn errors_name_field_line_and_column() {
        for (text, expected) in [
            ("{\n \"itmes\": []}", "unknown field `itmes`, expected one of `request_id`"),
            (
                "{\"items\": [{\n \"quantity\": \"2\"}]}",
                "items[0].quantity: invalid type: string \"2\", expected i32",
            ),
            ("{\"items\": [{\"quantity\": 99999999999}]}", "items[0].quantity: invalid value"),
            ("{\"expected_total\": 9.99}", "expected_total: amounts are text, so write \"9.99\" in quotes"),
            ("{\"shipping_address\": {\"address_type\": \"HOME\"}}", "expected `SHIPPING` or `BILLING`"),
            ("{\"user_id\": ", "EOF while parsing a value at line 1 column 12"),
            ("{} {}", "trailing characters at line 1 column 4"),
            ("", "EOF"),
        ] {
            let error = parse(text, "order.json").unwrap_err();
            assert!(error.starts_with("order.json: ") && error.contains(expected), "{error}");
            assert!(error.contains("line") && error.contains("column"), "{error}");
        }
    }
}
