//! The service packages of a profile: `attributes.servicePackages`, a list of `{id or _id, name, price, currency, duration}`.

use haggle_sdk::prelude::*;
use serde_json::{Map, Value};

/// One package, as far as an offer needs it. Price and duration are copied as the profile has them, a number or a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Package {
    pub name: String,
    pub price: Value,
    pub currency: Option<String>,
    pub duration: Option<Value>,
}

/// Looks a package up in a user's profile.
///
/// # Errors
///
/// Rejects with `unknown_package` or, where the profile leaves out what an offer must have, `invalid_package`.
pub(crate) fn find(user_id: &str, package_id: &str) -> Result<Package, Stop> {
    let attributes = match users::get(user_id)? {
        Some(user) => user.attributes_map()?,
        None => Map::new(),
    };
    let packages = attributes.get("servicePackages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let package = packages.iter().find(|package| has_id(package, package_id));
    let package = package.ok_or_else(|| Stop::reject("unknown_package", format!("{user_id} has no service package {package_id}")))?;
    read(package).ok_or_else(|| Stop::reject("invalid_package", format!("service package {package_id} lacks a name or a price")))
}

fn has_id(package: &Value, id: &str) -> bool {
    ["id", "_id"]
        .iter()
        .any(|key| package.get(key).is_some_and(|value| json::plain(value) == id))
}

fn read(package: &Value) -> Option<Package> {
    let name = package.get("name")?.as_str()?.trim();
    let price = package.get("price").filter(|price| is_amount(price))?;
    if name.is_empty() {
        return None;
    }
    Some(Package {
        name: name.into(),
        price: price.clone(),
        currency: package.get("currency").and_then(Value::as_str).map(Into::into),
        duration: package
            .get("duration")
            .filter(|duration| duration.is_number() || duration.is_string())
            .cloned(),
    })
}

/// A number, or a text that is one: not negative, not infinite.
fn is_amount(value: &Value) -> bool {
    json::plain(value)
        .trim()
        .parse::<f64>()
        .is_ok_and(|amount| amount.is_finite() && amount >= 0.0)
}
