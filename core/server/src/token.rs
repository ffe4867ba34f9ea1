//! Makes tokens: for people who try things out, and for the command line's own calls of the admin API.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::{
    config::{Auth, Settings},
    dev_key,
    failure::Failure,
};

/// The longest life a token may be given.
const LIFE_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Who a token speaks for.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `sub`.
    pub user: String,
    /// The roles claim.
    pub roles: Vec<String>,
    /// How long it lives.
    pub life: Duration,
}

/// Signs with HS256 and sets what `auth` asks for (`iss`, `aud`, the name of the roles claim).
pub fn sign(claims: &Claims, secret: &str, auth: &Auth) -> Result<String, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut body = json!({ "sub": claims.user, "iat": now.as_secs(), "exp": (now + claims.life).as_secs() });
    if !claims.roles.is_empty() {
        body[auth.roles_claim.as_str()] = json!(claims.roles);
    }
    if !auth.issuer.is_empty() {
        body["iss"] = json!(auth.issuer);
    }
    if !auth.audience.is_empty() {
        body["aud"] = json!(auth.audience);
    }
    encode(&Header::default(), &body, &EncodingKey::from_secret(secret.as_bytes())).map_err(|error| Failure::failed(format!("cannot sign: {error}")))
}

/// The secret this machine's server trusts: `auth.secret`, else the dev key.
pub fn secret(settings: &Settings) -> Result<String, Failure> {
    if !settings.auth.secret.is_empty() {
        return Ok(settings.auth.secret.clone());
    }
    let data_dir = &settings.server.data_dir;
    dev_key::read(data_dir)?.ok_or_else(|| {
        Failure::usage(format!(
            "no secret to sign with: auth.secret is empty and {} does not exist",
            dev_key::path(data_dir).display()
        ))
        .hint("start `haggle serve --dev` once, give --data DIR of a running server, or --secret")
    })
}

/// `7d`, `12h`, `30m` or `45s`.
pub fn parse_life(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write 45s, 30m, 12h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let life = Duration::from_secs(count.saturating_mul(seconds));
    if life.is_zero() || life > LIFE_MAX {
        Err(format!("`{text}` is not between 1s and 3650d"))
    } else {
        Ok(life)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    #[track_caller]
    fn check_life(text: &str, expect: Option<u64>) {
        assert_eq!(parse_life(text).ok().map(|life| life.as_secs()), expect, "{text}");
    }

    #[test]
    fn lives_have_units() {
        check_life("45s", Some(45));
        check_life("30m", Some(1_800));
        check_life("12h", Some(43_200));
        check_life("7d", Some(604_800));
    }

    #[test]
    fn what_is_no_life_is_refused() {
        for text in ["", "7", "d", "0s", "-1d", "1w", "7 d", "99999d", "18446744073709551615d", "7é"] {
            check_life(text, None);
        }
    }

    #[test]
    fn a_token_carries_what_the_server_asks_for() {
        let auth = Auth {
            issuer: "shop".into(),
            audience: "chat".into(),
            roles_claim: "groups".into(),
            ..Auth::default()
        };
        let claims = Claims {
            user: "ann".into(),
            roles: vec!["admin".into()],
            life: Duration::from_secs(60),
        };
        let token = sign(&claims, "secret", &auth).expect("signed");
        let mut validation = Validation::default();
        validation.set_audience(&["chat"]);
        validation.set_issuer(&["shop"]);
        let body = decode::<serde_json::Value>(&token, &DecodingKey::from_secret(b"secret"), &validation)
            .expect("valid")
            .claims;
        assert_eq!((body["sub"].as_str(), &body["groups"]), (Some("ann"), &json!(["admin"])));
    }
}
