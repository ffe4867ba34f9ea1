//! Tokens of the users that make the load.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header, encode};

/// Longer than any run.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// An HS256 token for a user.
pub fn sign(user: &str, secret: &str) -> Result<String> {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)? + LIFE;
    let claims = serde_json::json!({ "sub": user, "exp": expires.as_secs() });
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}

/// A name part or secret that nobody else has.
pub fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
