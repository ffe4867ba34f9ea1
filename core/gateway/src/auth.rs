//! Who a token speaks for.
//!
//! A token names its algorithm, but only a key of that very algorithm is tried on it: the key decides, never the token.
//! Nothing here logs a token or a claim.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use haggle_model::UserId;
use hyper::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, jwk};
use parking_lot::Mutex;
use serde::{Deserialize, de};
use serde_json::Value;

mod fetch;

/// How long a user id may be, in bytes.
pub const USER_ID_BYTES_MAX: usize = 128;
/// How long a token may be, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Roles of one token.
const ROLES_MAX: usize = 64;
/// The last second that is understood as a time: the end of the year 9999.
const TIME_MAX: f64 = 253_402_300_799.0;
/// How often an unknown key id may cause a fetch of the key set.
const JWKS_REFRESH_MIN: Duration = Duration::from_secs(30);
/// Keys older than this are fetched anew, beside the requests that use them.
const JWKS_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// Keys taken from one key set.
const JWKS_KEYS_MAX: usize = 64;
/// A shorter shared secret is refused.
const SECRET_BYTES_MIN: usize = 16;

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `sub` or `id` (equal where both are there).
    pub user: UserId,
    /// The roles claim.
    pub roles: Arc<[String]>,
    /// `exp`, in seconds since the Unix epoch.
    pub expires_at: i64,
}

/// Why a token is refused. Never holds the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("No token provided")]
    Missing,
    /// It is malformed, not signed by a known key, or breaks a rule.
    #[error("Invalid token")]
    Invalid,
    /// Its time is over.
    #[error("Token expired")]
    Expired,
}

impl AuthError {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthError::Missing => "missing",
            AuthError::Invalid => "invalid",
            AuthError::Expired => "expired",
        }
    }
}

impl From<AuthError> for haggle_engine::Refusal {
    fn from(error: AuthError) -> haggle_engine::Refusal {
        use haggle_model::ErrorCode;
        let code = if error == AuthError::Expired {
            ErrorCode::TokenExpired
        } else {
            ErrorCode::Unauthenticated
        };
        haggle_engine::Refusal::new(code, error.to_string())
    }
}

/// Where a set of public keys comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// The text of a key set (read from a file).
    Text(String),
    /// `http(s)://…`: fetched when it is first needed, when a token names an unknown key (at most every 30 seconds), and every
    /// 15 minutes while tokens come in, so that a key taken out is forgotten.
    Url(String),
}

/// Whose tokens are believed, and what they must say.
#[derive(Clone)]
pub struct AuthConfig {
    /// Shared secrets (HS256), at least 16 bytes each; more than one while a secret is being replaced.
    pub secrets: Vec<Vec<u8>>,
    /// A public key as PEM (`BEGIN PUBLIC KEY`): RSA, P-256 or Ed25519.
    pub public_key: Option<String>,
    /// A set of public keys.
    pub jwks: Option<Jwks>,
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be or hold this.
    pub audience: Option<String>,
    /// The claim with the roles; `a.b` also finds `b` inside of `a`.
    pub roles_claim: String,
    /// Algorithms that are believed: of `HS256`, `RS256`, `ES256`, `EdDSA`; empty: all four.
    pub algorithms: Vec<String>,
    /// How far another machine's clock may be ahead: `nbf` is judged that much later. `exp` is judged exactly.
    pub clock_skew: Duration,
}

impl Default for AuthConfig {
    fn default() -> AuthConfig {
        AuthConfig {
            secrets: Vec::new(),
            public_key: None,
            jwks: None,
            issuer: None,
            audience: None,
            roles_claim: "roles".into(),
            algorithms: Vec::new(),
            clock_skew: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("secrets", &self.secrets.len())
            .field("jwks", &self.jwks)
            .finish_non_exhaustive()
    }
}

/// A setting of `[auth]` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthConfigError {
    /// No key at all.
    #[error("auth.secret, auth.public_key or auth.jwks must be set")]
    NoKey,
    /// Too short.
    #[error("auth.secret has {0} bytes; at least {SECRET_BYTES_MIN} are needed")]
    SecretTooShort(usize),
    /// Not a PEM public key of a kind we know.
    #[error("auth.public_key is no PEM public key of RSA, P-256 or Ed25519")]
    PublicKey,
    /// Not a key set, or one without a usable key.
    #[error("auth.jwks: {0}")]
    Jwks(String),
    /// Not one of the four.
    #[error("auth.algorithms: {0} is not one of HS256, RS256, ES256, EdDSA")]
    Algorithm(String),
}

/// Checks tokens. Shared by all transports.
pub struct Authenticator {
    rules: Rules,
    fixed: Vec<Key>,
    fetched: Option<Arc<Fetched>>,
}

struct Rules {
    issuer: Option<String>,
    audience: Option<String>,
    roles_claim: String,
    algorithms: Vec<Algorithm>,
    clock_skew: Duration,
}

/// A key and the one algorithm it is for.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

struct Fetched {
    fetcher: fetch::Fetcher,
    keys: ArcSwap<Vec<Key>>,
    last_try: Mutex<Option<Instant>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticator(..)")
    }
}

impl Authenticator {
    /// Reads the keys. A key set at a URL is not fetched here: [`Authenticator::refresh`] does.
    pub fn new(config: AuthConfig) -> Result<Authenticator, AuthConfigError> {
        let algorithms = config
            .algorithms
            .iter()
            .map(|name| algorithm(name).ok_or_else(|| AuthConfigError::Algorithm(name.clone())));
        let mut algorithms: Vec<Algorithm> = algorithms.collect::<Result<_, _>>()?;
        if algorithms.is_empty() {
            algorithms = vec![Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        }
        let mut fixed = config.secrets.iter().map(|secret| secret_key(secret)).collect::<Result<Vec<_>, _>>()?;
        fixed.extend(config.public_key.as_deref().map(pem_key).transpose()?);
        let mut fetched = None;
        match config.jwks {
            Some(Jwks::Text(text)) => fixed.extend(jwks_keys(text.as_bytes()).map_err(AuthConfigError::Jwks)?),
            Some(Jwks::Url(url)) => fetched = Some(Arc::new(Fetched::new(&url)?)),
            None => {}
        }
        if fixed.is_empty() && fetched.is_none() {
            return Err(AuthConfigError::NoKey);
        }
        let rules = Rules {
            issuer: config.issuer,
            audience: config.audience,
            roles_claim: config.roles_claim,
            algorithms,
            clock_skew: config.clock_skew,
        };
        Ok(Authenticator { rules, fixed, fetched })
    }

    /// Who the token speaks for, by the keys at hand.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.verify_at(token, now_s())
    }

    /// The same; a token of a key that is not known (yet) first makes the key set be fetched again.
    pub async fn authenticate(&self, token: &str) -> Result<Identity, AuthError> {
        self.renew_old_keys();
        let first = self.verify(token);
        if first != Err(AuthError::Invalid) || !self.names_unknown_key(token) {
            return first;
        }
        self.refresh().await;
        self.verify(token)
    }

    /// Fetches the key set, unless that was tried less than 30 seconds ago. On failure the last good keys stay.
    pub async fn refresh(&self) {
        if let Some(fetched) = &self.fetched {
            fetched.refresh().await;
        }
    }

    fn renew_old_keys(&self) {
        let Some(fetched) = &self.fetched else { return };
        if fetched.last_try.lock().is_some_and(|at| at.elapsed() > JWKS_AGE_MAX) {
            let fetched = fetched.clone();
            tokio::spawn(async move { fetched.refresh().await });
        }
    }

    fn names_unknown_key(&self, token: &str) -> bool {
        let Some(fetched) = &self.fetched else { return false };
        let Ok(parts) = Parts::split(token) else { return false };
        let known = |key: &Key| key.id.is_some() && key.id == parts.header.kid;
        !self.fixed.iter().any(known) && !fetched.keys.load().iter().any(known)
    }

    fn verify_at(&self, token: &str, now: f64) -> Result<Identity, AuthError> {
        let parts = Parts::split(token)?;
        let algorithm = algorithm(&parts.header.alg)
            .filter(|a| self.rules.algorithms.contains(a))
            .ok_or(AuthError::Invalid)?;
        let fits = |key: &Key| key.algorithm == algorithm && (key.id.is_none() || parts.header.kid.is_none() || key.id == parts.header.kid);
        let signed = |key: &Key| jsonwebtoken::crypto::verify(parts.signature, parts.signed.as_bytes(), &key.key, algorithm) == Ok(true);
        let is_ours = self.fixed.iter().any(|key| fits(key) && signed(key))
            || self
                .fetched
                .as_ref()
                .is_some_and(|fetched| fetched.keys.load().iter().any(|key| fits(key) && signed(key)));
        if !is_ours {
            return Err(AuthError::Invalid);
        }
        self.rules.judge(&parts.claims()?, now)
    }
}

/// A token cut into its parts; nothing in it is believed yet.
struct Parts<'a> {
    header: Header,
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
}

/// What we read of a header. Keys that a token brings along (`jwk`, `jku`, `x5u`) and extensions we do not know (`crit`) make
/// it invalid, whoever signed it.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    jwk: Option<de::IgnoredAny>,
    jku: Option<de::IgnoredAny>,
    x5u: Option<de::IgnoredAny>,
    crit: Option<de::IgnoredAny>,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Parts<'a>, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Invalid);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(AuthError::Invalid)?;
        let (header, claims) = signed.split_once('.').ok_or(AuthError::Invalid)?;
        if claims.contains('.') || signature.is_empty() {
            return Err(AuthError::Invalid);
        }
        let header: Header = serde_json::from_slice(&decode64(header)?).map_err(|_| AuthError::Invalid)?;
        if header.is_suspicious() {
            return Err(AuthError::Invalid);
        }
        Ok(Parts {
            header,
            signed,
            claims,
            signature,
        })
    }

    fn claims(&self) -> Result<Claims, AuthError> {
        serde_json::from_slice(&decode64(self.claims)?).map_err(|_| AuthError::Invalid)
    }
}

impl Header {
    fn is_suspicious(&self) -> bool {
        let brings_keys = self.jwk.is_some() || self.jku.is_some() || self.x5u.is_some() || self.crit.is_some();
        let odd_kid = self
            .kid
            .as_ref()
            .is_some_and(|kid| kid.is_empty() || kid.len() > 256 || !kid.bytes().all(is_kid_byte));
        let odd_type = self
            .typ
            .as_ref()
            .is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT") && !typ.eq_ignore_ascii_case("at+jwt"));
        brings_keys || odd_kid || odd_type
    }
}

fn is_kid_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'=' | b'+' | b'@')
}

fn decode64(text: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| AuthError::Invalid)
}

/// The claims of a token; a claim that stands twice makes it invalid.
struct Claims(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Claims, D::Error> {
        struct Visit;
        impl<'de> de::Visitor<'de> for Visit {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("claims")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if claims.insert(name, value).is_some() {
                        return Err(de::Error::custom("a claim stands twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

impl Claims {
    /// A text that must be one where it is there.
    fn text(&self, name: &str) -> Result<Option<&str>, AuthError> {
        self.0.get(name).map(|value| value.as_str().ok_or(AuthError::Invalid)).transpose()
    }

    /// A time in seconds that must be a number where it is there.
    fn time(&self, name: &str) -> Result<Option<f64>, AuthError> {
        let number = |value: &Value| value.as_f64().filter(|time| (0.0..=TIME_MAX).contains(time)).ok_or(AuthError::Invalid);
        self.0.get(name).map(number).transpose()
    }

    fn user(&self) -> Result<UserId, AuthError> {
        let user = match (self.text("sub")?, self.text("id")?) {
            (Some(sub), Some(id)) if sub != id => return Err(AuthError::Invalid),
            (Some(user), _) | (None, Some(user)) => user,
            (None, None) => return Err(AuthError::Invalid),
        };
        if is_user_id(user) { Ok(user.into()) } else { Err(AuthError::Invalid) }
    }

    fn roles(&self, claim: &str) -> Result<Arc<[String]>, AuthError> {
        let roles: Vec<String> = match self.find(claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(role)) => vec![role.clone()],
            Some(Value::Array(roles)) if roles.len() <= ROLES_MAX => roles
                .iter()
                .map(|role| role.as_str().map(str::to_owned).ok_or(AuthError::Invalid))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(AuthError::Invalid),
        };
        Ok(roles.into())
    }

    fn find(&self, path: &str) -> Option<&Value> {
        self.0.get(path).or_else(|| {
            let mut parts = path.split('.');
            let first = self.0.get(parts.next()?)?;
            parts.try_fold(first, |value, name| value.get(name))
        })
    }

    fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(aud)) => aud == audience,
            Some(Value::Array(all)) => all.iter().any(|aud| aud == audience),
            _ => false,
        }
    }
}

impl Rules {
    fn judge(&self, claims: &Claims, now: f64) -> Result<Identity, AuthError> {
        let expires_at = claims.time("exp")?.ok_or(AuthError::Invalid)?;
        let not_before = claims.time("nbf")?;
        claims.time("iat")?;
        let identity = Identity {
            user: claims.user()?,
            roles: claims.roles(&self.roles_claim)?,
            expires_at: expires_at as i64,
        };
        if not_before.is_some_and(|from| from > now + self.clock_skew.as_secs_f64()) {
            return Err(AuthError::Invalid);
        }
        if self
            .issuer
            .as_deref()
            .is_some_and(|issuer| claims.0.get("iss").is_none_or(|iss| iss != issuer))
        {
            return Err(AuthError::Invalid);
        }
        if self.audience.as_deref().is_some_and(|audience| !claims.is_for(audience)) {
            return Err(AuthError::Invalid);
        }
        if expires_at <= now { Err(AuthError::Expired) } else { Ok(identity) }
    }
}

/// Whether a token, judged before, says this: the claim is the value, or a list that holds it. `a.b` also finds `b` inside of `a`.
pub(crate) fn has_claim(token: &str, name: &str, value: &str) -> bool {
    let Ok(claims) = Parts::split(token).and_then(|parts| parts.claims()) else {
        return false;
    };
    let inner = || {
        let (outer, inner) = name.split_once('.')?;
        claims.0.get(outer)?.get(inner)
    };
    match claims.0.get(name).or_else(inner) {
        Some(Value::String(text)) => text == value,
        Some(Value::Array(list)) => list.iter().any(|item| item == value),
        _ => false,
    }
}

/// Whether a text may be a user's id: not empty, at most 128 bytes, no control characters, and not a plugin's.
pub fn is_user_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= USER_ID_BYTES_MAX && !text.starts_with("plugin:") && !text.contains(char::is_control)
}

/// The token of the `Authorization` header.
///
/// # Errors
/// [`AuthError::Missing`] without the header, [`AuthError::Invalid`] where it is no bearer token.
pub fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let value = headers.get(header::AUTHORIZATION).ok_or(AuthError::Missing)?;
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(AuthError::Invalid)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(AuthError::Invalid)
    }
}

fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn secret_key(secret: &[u8]) -> Result<Key, AuthConfigError> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(AuthConfigError::SecretTooShort(secret.len()));
    }
    if secret.len() < 32 {
        tracing::warn!(bytes = secret.len(), "auth.secret is shorter than the 32 bytes that HS256 asks for");
    }
    Ok(Key {
        id: None,
        algorithm: Algorithm::HS256,
        key: DecodingKey::from_secret(secret),
    })
}

fn pem_key(pem: &str) -> Result<Key, AuthConfigError> {
    if !pem.contains("-----BEGIN PUBLIC KEY-----") && !pem.contains("-----BEGIN RSA PUBLIC KEY-----") {
        return Err(AuthConfigError::PublicKey);
    }
    let key = |algorithm, key| Ok(Key { id: None, algorithm, key });
    if let Ok(rsa) = DecodingKey::from_rsa_pem(pem.as_bytes()) {
        return key(Algorithm::RS256, rsa);
    }
    match DecodingKey::from_ec_pem(pem.as_bytes()) {
        Ok(ec) if is_p256(&ec) => return key(Algorithm::ES256, ec),
        _ => {}
    }
    match DecodingKey::from_ed_pem(pem.as_bytes()) {
        Ok(ed) => key(Algorithm::EdDSA, ed),
        Err(_) => Err(AuthConfigError::PublicKey),
    }
}

/// An uncompressed point of P-256 has 65 bytes, one of P-384 more.
fn is_p256(key: &DecodingKey) -> bool {
    key.try_get_as_bytes().is_ok_and(|point| point.len() == 65)
}

/// The keys of a set that we can use. Symmetric keys and encryption keys are passed over: a published set holds no secrets.
fn jwks_keys(text: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|error| format!("no key set: {error}"))?;
    let keys: Vec<Key> = set
        .keys
        .into_iter()
        .take(JWKS_KEYS_MAX)
        .filter_map(|key| jwk_key(serde_json::from_value(key).ok()?))
        .collect();
    if keys.is_empty() {
        Err("no usable key: RSA, P-256 or Ed25519 keys for signatures are".into())
    } else {
        Ok(keys)
    }
}

fn jwk_key(jwk: jwk::Jwk) -> Option<Key> {
    use jwk::{AlgorithmParameters, EllipticCurve, KeyAlgorithm, PublicKeyUse};
    let (expect, algorithm) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (KeyAlgorithm::RS256, Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => (KeyAlgorithm::ES256, Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => (KeyAlgorithm::EdDSA, Algorithm::EdDSA),
        _ => return None,
    };
    let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let same_algorithm = jwk.common.key_algorithm.is_none_or(|named| named == expect);
    if !for_signatures || !same_algorithm {
        return None;
    }
    Some(Key {
        id: jwk.common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(&jwk).ok()?,
    })
}

impl Fetched {
    fn new(url: &str) -> Result<Fetched, AuthConfigError> {
        let fetcher = fetch::Fetcher::new(url).map_err(AuthConfigError::Jwks)?;
        Ok(Fetched {
            fetcher,
            keys: ArcSwap::default(),
            last_try: Mutex::new(None),
            one_at_a_time: tokio::sync::Mutex::new(()),
        })
    }

    async fn refresh(&self) {
        let _turn = self.one_at_a_time.lock().await;
        if self.last_try.lock().is_some_and(|at| at.elapsed() < JWKS_REFRESH_MIN) {
            return;
        }
        *self.last_try.lock() = Some(Instant::now());
        let result = self.fetcher.get().await.and_then(|body| jwks_keys(&body));
        metrics::counter!(crate::metrics::JWKS_FETCHES, "result" => if result.is_ok() { "ok" } else { "error" }).increment(1);
        match result {
            Ok(keys) => self.keys.store(Arc::new(keys)),
            Err(error) => tracing::warn!(%error, "auth.jwks could not be fetched; the last good keys stay"),
        }
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A token by the shared secret, for `haggle token` and for tests. Claims count whole seconds: it is valid for `ttl` or up to a
/// second less.
pub fn sign(secret: &[u8], user: &str, roles: &[String], ttl: Duration) -> Result<String, AuthConfigError> {
    secret_key(secret)?;
    let now = now_s() as u64;
    let claims = serde_json::json!({ "sub": user, "id": user, "roles": roles, "iat": now, "exp": now.saturating_add(ttl.as_secs()) });
    let header = jsonwebtoken::Header::new(Algorithm::HS256);
    Ok(jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).expect("claims are plain JSON and the key fits the algorithm"))
}

#[cfg(test)]
mod tests;
