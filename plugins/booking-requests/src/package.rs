//! The service packages of the provider's profile: `attributes.servicePackages`, a list of `{id or _id, name, price, currency,
//! duration}`, and how long one takes.

use haggle_sdk::prelude::*;
use serde_json::{Map, Value};

/// One package, as far as a booking needs it. Price and duration are copied as the profile has them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Package {
    pub name: String,
    pub price: Option<Value>,
    pub currency: Option<String>,
    pub duration: Option<Value>,
}

/// Looks a package up in a provider's attributes.
///
/// # Errors
///
/// Rejects with `unknown_package`, or `invalid_package` where it has no name.
pub(crate) fn find(attributes: &Map<String, Value>, package_id: &str) -> Result<Package, Stop> {
    let packages = attributes.get("servicePackages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let package = packages.iter().find(|package| has_id(package, package_id));
    let package = package.ok_or_else(|| Stop::reject("unknown_package", format!("the provider has no service package {package_id}")))?;
    read(package).ok_or_else(|| Stop::reject("invalid_package", format!("service package {package_id} has no name")))
}

fn has_id(package: &Value, id: &str) -> bool {
    ["id", "_id"]
        .iter()
        .any(|key| package.get(key).is_some_and(|value| json::plain(value) == id))
}

fn read(package: &Value) -> Option<Package> {
    let name = package.get("name")?.as_str()?.trim();
    let scalar = |key: &str| package.get(key).filter(|value| value.is_number() || value.is_string()).cloned();
    (!name.is_empty()).then(|| Package {
        name: name.into(),
        price: scalar("price"),
        currency: package.get("currency").and_then(Value::as_str).map(Into::into),
        duration: scalar("duration"),
    })
}

/// Minutes that a duration names: a number of minutes, `90 min`, `2 heures`, `1h30`, `1:30`. None where it cannot be read (`3
/// jours` is a delivery time, not a stay) or is nothing.
pub(crate) fn minutes(duration: &Value) -> Option<u32> {
    let text = json::plain(duration).trim().to_lowercase().replace(',', ".");
    clock(&text).or_else(|| units(&text)).filter(|minutes| *minutes > 0)
}

/// `1:30`
fn clock(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (hours.trim().parse::<u32>().ok()?, minutes.trim().parse::<u32>().ok()?);
    (minutes < 60).then(|| hours.checked_mul(60)?.checked_add(minutes)).flatten()
}

/// Numbers with units one after the other; a last number without one is minutes.
fn units(text: &str) -> Option<u32> {
    let (mut rest, mut total, mut any) = (text, 0.0, false);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        total += number * unit(&rest[..letters])?;
        any = true;
        rest = rest[letters..].trim_start_matches(['.', ' ']);
    }
    // As casts go, too large a number becomes the largest one, which every limit refuses.
    any.then(|| total.ceil() as u32)
}

fn unit(word: &str) -> Option<f64> {
    match word {
        "" | "m" | "mn" | "min" | "mins" | "minute" | "minutes" => Some(1.0),
        "h" | "hr" | "hrs" | "hour" | "hours" | "heure" | "heures" => Some(60.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let cases = [
            (json!(45), Some(45)),
            (json!(0), None),
            (json!(-30), None),
            (json!("60"), Some(60)),
            (json!("90 min"), Some(90)),
            (json!("90min."), Some(90)),
            (json!("1h"), Some(60)),
            (json!("1h30"), Some(90)),
            (json!("1 h 30 min"), Some(90)),
            (json!("1,5 heures"), Some(90)),
            (json!("2 Hours"), Some(120)),
            (json!("1:30"), Some(90)),
            (json!("1:75"), None),
            (json!("3 jours"), None),
            (json!("bald"), None),
            (json!(""), None),
            (json!("99999999999999999999"), Some(u32::MAX)),
        ];
        for (duration, expected) in cases {
            assert_eq!(minutes(&duration), expected, "{duration}");
        }
    }
}
