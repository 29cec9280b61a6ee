//! Where an order goes and who pays for it. Personal data: nothing here is ever printed by `Debug`.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::{self, FieldRule, Violation};

/// Countries whose addresses always name a state or province.
const WITH_STATE: [&str; 6] = ["AU", "BR", "CA", "IN", "MX", "US"];

/// Countries and territories where an address may come without a postal code.
const WITHOUT_POSTAL_CODE: [&str; 52] = [
    "AE", "AG", "AO", "AW", "BF", "BI", "BJ", "BO", "BS", "BW", "BZ", "CD", "CF", "CG", "CI", "CK", "CM",
    "DJ", "DM", "ER", "FJ", "GA", "GD", "GH", "GM", "GQ", "GY", "HK", "IE", "JM", "KI", "KM", "KN", "LY",
    "ML", "MO", "MR", "MW", "NR", "QA", "RW", "SB", "SC", "SL", "SR", "ST", "TG", "TO", "TV", "UG", "VU",
    "ZW",
];

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AddressKind {
    /// Where the goods go.
    Shipping,
    /// Who is invoiced.
    Billing,
}

impl AddressKind {
    /// `SHIPPING` or `BILLING`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shipping => "SHIPPING",
            Self::Billing => "BILLING",
        }
    }

    /// Reads [`Self::as_str`] back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Shipping, Self::Billing].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A country or territory of ISO 3166-1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country(&'static str);

impl Country {
    /// Accepts alpha-2 and alpha-3 codes in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let found = match upper.len() {
            2 => rust_iso3166::from_alpha2(&upper),
            3 => rust_iso3166::from_alpha3(&upper),
            _ => None,
        };
        found.map(|country| Self(country.alpha2))
    }

    /// The alpha-2 code.
    pub fn code(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::parse(&code).ok_or_else(|| D::Error::custom("expected an ISO 3166-1 country code"))
    }
}

/// An address as a request spells it; an empty text means "not given".
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawAddress {
    /// `SHIPPING`, `BILLING`, or empty: the field it stands in says the same.
    pub kind: String,
    /// Required, at most 100 characters.
    pub first_name: String,
    /// Required, at most 100 characters.
    pub last_name: String,
    /// Required, at most 255 characters.
    pub address_line1: String,
    /// At most 255 characters.
    pub address_line2: String,
    /// Required, at most 100 characters.
    pub city: String,
    /// At most 100 characters; required where addresses always have one.
    pub state: String,
    /// At most 20 characters; required except where there is no such code.
    pub postal_code: String,
    /// Required: ISO 3166-1 alpha-2 or alpha-3.
    pub country: String,
    /// At most 20 characters.
    pub phone: String,
    /// At most 255 characters.
    pub email: String,
}

impl fmt::Debug for RawAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawAddress").finish_non_exhaustive()
    }
}

/// A checked address; every text is clean and within its column.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// What it is for.
    pub kind: AddressKind,
    /// 1..=100 characters.
    pub first_name: String,
    /// 1..=100 characters.
    pub last_name: String,
    /// 1..=255 characters.
    pub address_line1: String,
    /// 1..=255 characters.
    pub address_line2: Option<String>,
    /// 1..=100 characters.
    pub city: String,
    /// At most 100 characters; empty where the country has none.
    pub state: String,
    /// At most 20 characters; empty where the country has none.
    pub postal_code: String,
    /// The country.
    pub country: Country,
    /// 1..=20 characters.
    pub phone: Option<String>,
    /// 1..=255 characters.
    pub email: Option<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("kind", &self.kind)
            .field("country", &self.country)
            .finish_non_exhaustive()
    }
}

impl Address {
    /// Cleans and checks `raw`, which stands in the request's field `field` (`shipping_address`).
    ///
    /// Pushes one violation per bad field, all of them at once, and returns `None` if there was any.
    pub fn parse(
        kind: AddressKind,
        raw: &RawAddress,
        field: &str,
        violations: &mut Vec<Violation>,
    ) -> Option<Self> {
        let mut reader = Reader { field, violations };
        let matching_kind = reader.kind(kind, &raw.kind);
        let country = reader.country(&raw.country);
        let needs_state = country.is_some_and(|country| WITH_STATE.contains(&country.code()));
        let needs_postal_code = country.is_some_and(|country| !WITHOUT_POSTAL_CODE.contains(&country.code()));
        let first_name = reader.text("first_name", &raw.first_name, true, 100);
        let last_name = reader.text("last_name", &raw.last_name, true, 100);
        let address_line1 = reader.text("address_line1", &raw.address_line1, true, 255);
        let address_line2 = reader.text("address_line2", &raw.address_line2, false, 255);
        let city = reader.text("city", &raw.city, true, 100);
        let state = reader.text("state", &raw.state, needs_state, 100);
        let postal_code = reader.text("postal_code", &raw.postal_code, needs_postal_code, 20);
        let phone = reader.shaped("phone", &raw.phone, 20, is_phone, "expected a telephone number");
        let email = reader.shaped("email", &raw.email, 255, is_email, "expected an email address");
        matching_kind?;
        Some(Self {
            kind,
            first_name: first_name?,
            last_name: last_name?,
            address_line1: address_line1?,
            address_line2: non_empty(address_line2?),
            city: city?,
            state: state?,
            postal_code: postal_code?,
            country: country?,
            phone: non_empty(phone?),
            email: non_empty(email?),
        })
    }
}

struct Reader<'a> {
    field: &'a str,
    violations: &'a mut Vec<Violation>,
}

impl Reader<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.field)
    }

    fn refuse(&mut self, name: &str, expected: impl fmt::Display) {
        let path = self.path(name);
        self.violations.push(Violation::invalid(path, expected));
    }

    /// Says nothing new, but must not contradict either. `None` when it does.
    fn kind(&mut self, kind: AddressKind, text: &str) -> Option<()> {
        let text = text.trim().to_ascii_uppercase();
        if text.is_empty() || AddressKind::parse(&text) == Some(kind) {
            return Some(());
        }
        self.refuse("address_type", format_args!("expected {} or nothing", kind.as_str()));
        None
    }

    fn country(&mut self, text: &str) -> Option<Country> {
        let country = Country::parse(text.trim());
        if country.is_none() && text::contains_card_number(text) {
            let path = self.path("country");
            self.violations.push(Violation::card_number(path));
            return None;
        }
        if country.is_none() {
            self.refuse("country", "expected an ISO 3166-1 alpha-2 or alpha-3 country code");
        }
        country
    }

    fn text(&mut self, name: &str, text: &str, required: bool, max_chars: usize) -> Option<String> {
        let rule = FieldRule { required, max_chars };
        let path = self.path(name);
        text::clean_field(&path, text, rule, self.violations)
    }

    /// An optional text of a certain shape; empty passes.
    fn shaped(
        &mut self,
        name: &str,
        text: &str,
        max_chars: usize,
        fits: fn(&str) -> bool,
        expected: &str,
    ) -> Option<String> {
        let text = self.text(name, text, false, max_chars)?;
        if text.is_empty() || fits(&text) {
            return Some(text);
        }
        self.refuse(name, expected);
        None
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn is_phone(text: &str) -> bool {
    text.chars().any(|character| character.is_ascii_digit())
        && text.chars().all(|character| character.is_ascii_digit() || " +-()./x".contains(character))
}

/// Catches slips, not forgeries: one `@`, something before it, a dot inside what follows, no blanks.
fn is_email(text: &str) -> bool {
    match text.split_once('@') {
        None => false,
        Some((name, domain)) => {
            let dotted = domain.contains('.') && domain.split('.').all(|label| !label.is_empty());
            !name.is_empty() && dotted && !domain.contains('@') && !text.contains(char::is_whitespace)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::super::text::ViolationReason;
    use super::*;

    fn sample() -> RawAddress {
        RawAddress {
            kind: "SHIPPING".into(),
            first_name: "John".into(),
            last_name: "Doe".into(),
            address_line1: "123 Main St".into(),
            address_line2: "Apt 4B".into(),
            city: "New York".into(),
            state: "NY".into(),
            postal_code: "10001".into(),
            country: "USA".into(),
            phone: "555-123-4567".into(),
            email: "john.doe@example.com".into(),
        }
    }

    fn parse(raw: &RawAddress) -> Result<Address, Vec<Violation>> {
        let mut violations = Vec::new();
        let address = Address::parse(AddressKind::Shipping, raw, "shipping_address", &mut violations);
        assert_eq!(address.is_some(), violations.is_empty());
        address.ok_or(violations)
    }

    /// The fields that `change` spoils.
    fn spoiled(change: impl FnOnce(&mut RawAddress)) -> Vec<String> {
        let mut raw = sample();
        change(&mut raw);
        let short = |violation: Violation| violation.field.replace("shipping_address.", "");
        parse(&raw).err().unwrap_or_default().into_iter().map(short).collect()
    }

    #[test]
    fn accepts_the_sample_of_the_design() {
        let address = parse(&sample()).unwrap();
        assert_eq!(address.country.code(), "US");
        assert_eq!(address.address_line2.as_deref(), Some("Apt 4B"));
        let json = serde_json::to_string(&address).unwrap();
        assert!(json.contains("\"SHIPPING\"") && json.contains("\"US\""));
        assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
    }

    #[test]
    fn names_every_bad_field_at_once() {
        let mut expected: Vec<String> =
            ["country", "first_name", "last_name", "address_line1", "city"].map(String::from).into();
        assert_eq!(spoiled(|raw| *raw = RawAddress::default()), expected);
        expected.insert(0, "address_type".into());
        expected.extend(["phone".into(), "email".into()]);
        let raw = RawAddress {
            kind: "BILLING".into(),
            phone: "call me".into(),
            email: "john".into(),
            ..RawAddress::default()
        };
        assert_eq!(spoiled(|old| *old = raw), expected);
    }

    #[test]
    fn checks_widths_and_shapes() {
        assert_eq!(spoiled(|raw| raw.city = "é".repeat(100)), [""; 0]);
        assert_eq!(spoiled(|raw| raw.city = "é".repeat(101)), ["city"]);
        assert_eq!(spoiled(|raw| raw.postal_code = "1".repeat(21)), ["postal_code"]);
        assert_eq!(spoiled(|raw| raw.first_name = "Jo\0hn".into()), ["first_name"]);
        for email in ["a@b", "@b.c", "a@b@c.d", "a b@c.d", "a@b..c", "a@.b", "a@b."] {
            assert_eq!(spoiled(|raw| raw.email = email.into()), ["email"], "{email}");
        }
        for phone in ["+1 (555) 123.4567 x8", "030/123456"] {
            assert_eq!(spoiled(|raw| raw.phone = phone.into()), [""; 0], "{phone}");
        }
        assert_eq!(spoiled(|raw| raw.phone = "-".into()), ["phone"]);
        assert_eq!(spoiled(|raw| raw.kind = " shipping ".into()), [""; 0]);
    }

    #[test]
    fn state_and_postal_code_depend_on_the_country() {
        let empty = |country: &str| {
            spoiled(|raw| {
                raw.country = country.into();
                raw.state.clear();
                raw.postal_code.clear();
            })
        };
        assert_eq!(empty("US"), ["state", "postal_code"]);
        assert_eq!(empty("deu"), ["postal_code"]);
        assert_eq!(empty("ae"), [""; 0]);
        assert_eq!(empty("XX"), ["country"]);
    }

    #[test]
    fn refuses_card_numbers_without_repeating_them() {
        let mut raw = sample();
        raw.address_line2 = "card 4111 1111 1111 1111".into();
        let violations = parse(&raw).unwrap_err();
        assert_eq!(violations[0].reason, ViolationReason::CardNumber);
        assert!(!format!("{violations:?}").contains("4111"));
    }

    #[test]
    fn debug_shows_nothing_personal() {
        let shown = format!("{:?} {:?}", parse(&sample()).unwrap(), sample());
        assert_eq!(shown, "Address { kind: Shipping, country: US, .. } RawAddress { .. }");
    }

    #[test]
    fn knows_every_country_by_both_codes() {
        for country in rust_iso3166::ALL {
            let parsed = Country::parse(country.alpha2).unwrap();
            assert_eq!(Country::parse(&country.alpha3.to_lowercase()), Some(parsed));
        }
        assert_eq!(Country::parse("É"), None);
        for code in WITH_STATE.iter().chain(&WITHOUT_POSTAL_CODE) {
            assert!(Country::parse(code).is_some(), "{code}");
        }
    }
}
