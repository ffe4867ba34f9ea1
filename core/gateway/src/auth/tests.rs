//! The table of tokens that are and are not believed. Keys are made anew for every run.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"a secret of at least 32 bytes, for tests";
const NOW: f64 = 1_900_000_000.0;

struct Pair {
    private: EncodingKey,
    public_pem: String,
    public_der: Vec<u8>,
}

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
}

fn rsa_pair() -> Pair {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("generates");
    let private: Pkcs8V1Der<'_> = pair.as_der().expect("encodes");
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("encodes");
    let private = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).expect("reads");
    Pair {
        private,
        public_pem: pem("PUBLIC KEY", public.as_ref()),
        public_der: public.as_ref().to_vec(),
    }
}

fn ec_public(pair: &EcdsaKeyPair) -> Vec<u8> {
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("encodes");
    public.as_ref().to_vec()
}

fn ec_pair() -> Pair {
    let random = aws_lc_rs::rand::SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("generates");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).expect("reads");
    let private = EncodingKey::from_ec_pem(pem("PRIVATE KEY", document.as_ref()).as_bytes()).expect("reads");
    Pair {
        private,
        public_pem: pem("PUBLIC KEY", &ec_public(&pair)),
        public_der: pair.public_key().as_ref().to_vec(),
    }
}

fn ed_pair() -> Pair {
    let pair = Ed25519KeyPair::generate().expect("generates");
    let private: Pkcs8V1Der<'_> = pair.as_der().expect("encodes");
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("encodes");
    let private = EncodingKey::from_ed_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).expect("reads");
    Pair {
        private,
        public_pem: pem("PUBLIC KEY", public.as_ref()),
        public_der: pair.public_key().as_ref().to_vec(),
    }
}

static RSA: LazyLock<Pair> = LazyLock::new(rsa_pair);
static EC: LazyLock<Pair> = LazyLock::new(ec_pair);
static ED: LazyLock<Pair> = LazyLock::new(ed_pair);

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of these very texts, signed with whatever key and algorithm.
fn token(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let signed = format!("{}.{}", b64(header), b64(claims));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), key, algorithm).expect("signs");
    format!("{signed}.{signature}")
}

fn hs(header: &str, claims: &Value) -> String {
    token(header, &claims.to_string(), &EncodingKey::from_secret(SECRET), Algorithm::HS256)
}

fn good() -> Value {
    json!({ "sub": "ann", "exp": NOW as i64 + 60 })
}

fn with(change: Value) -> Value {
    let mut claims = good();
    for (name, value) in change.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

const HS: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn by_secret() -> AuthConfig {
    AuthConfig {
        secrets: vec![SECRET.to_vec()],
        ..AuthConfig::default()
    }
}

fn by_pem(pem: &str) -> AuthConfig {
    AuthConfig {
        public_key: Some(pem.into()),
        ..AuthConfig::default()
    }
}

#[track_caller]
fn judge(config: AuthConfig, token: &str) -> Result<Identity, AuthError> {
    Authenticator::new(config).expect("a valid configuration").verify_at(token, NOW)
}

#[track_caller]
fn believed(config: AuthConfig, token: &str) {
    assert_eq!(judge(config, token).expect("believed").user.as_str(), "ann");
}

#[track_caller]
fn refused(row: &str, config: AuthConfig, token: &str) {
    assert_eq!(judge(config, token), Err(AuthError::Invalid), "{row}");
}

#[test]
fn good_tokens_of_all_four_algorithms() {
    let claims = good().to_string();
    believed(by_secret(), &hs(HS, &good()));
    believed(
        by_pem(&RSA.public_pem),
        &token(r#"{"alg":"RS256"}"#, &claims, &RSA.private, Algorithm::RS256),
    );
    believed(
        by_pem(&EC.public_pem),
        &token(r#"{"alg":"ES256"}"#, &claims, &EC.private, Algorithm::ES256),
    );
    believed(
        by_pem(&ED.public_pem),
        &token(r#"{"alg":"EdDSA"}"#, &claims, &ED.private, Algorithm::EdDSA),
    );
    believed(by_secret(), &hs(HS, &json!({ "id": "ann", "exp": NOW + 0.5 })));
    believed(
        by_secret(),
        &hs(HS, &with(json!({ "id": "ann", "iat": NOW, "nbf": NOW + 4.0, "aud": "x", "iss": "y" }))),
    );
}

/// Rows 1-12: the algorithm is the key's, not the token's.
#[test]
fn algorithms_are_not_confused() {
    let claims = good().to_string();
    let unsigned = |header: &str| format!("{}.{}.", b64(header), b64(&claims));
    for alg in ["none", "None", "nOnE", "NONE", "", "hs256"] {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        refused(&format!("alg {alg:?} unsigned"), by_secret(), &unsigned(&header));
        refused(&format!("alg {alg:?} signed"), by_secret(), &hs(&header, &good()));
    }
    for (row, public) in [("RSA PEM", &RSA.public_pem), ("EC PEM", &EC.public_pem)] {
        let forged = token(HS, &claims, &EncodingKey::from_secret(public.as_bytes()), Algorithm::HS256);
        refused(&format!("HS256 signed with the {row} as secret"), by_pem(public), &forged);
    }
    let forged = token(HS, &claims, &EncodingKey::from_secret(&RSA.public_der), Algorithm::HS256);
    refused("HS256 signed with the RSA DER as secret", by_pem(&RSA.public_pem), &forged);
    let rsa = token(r#"{"alg":"RS256"}"#, &claims, &RSA.private, Algorithm::RS256);
    refused("RS256 where only a secret is known", by_secret(), &rsa);
    refused("RS256 of another key", by_pem(&rsa_pair().public_pem), &rsa);
    refused(
        "a signature of RS256 under the name ES256",
        by_pem(&EC.public_pem),
        &token(r#"{"alg":"ES256"}"#, &claims, &RSA.private, Algorithm::RS256),
    );
    let hs512 = token(r#"{"alg":"HS512"}"#, &claims, &EncodingKey::from_secret(SECRET), Algorithm::HS512);
    refused("HS512 with the right secret", by_secret(), &hs512);
    let only_rsa = AuthConfig {
        algorithms: vec!["RS256".into()],
        ..by_secret()
    };
    refused("HS256 where auth.algorithms leaves it out", only_rsa, &hs(HS, &good()));
}

/// Rows 13-20: what a header brings along is not trusted.
#[test]
fn headers_bring_no_keys() {
    for kid in ["../../../../dev/null", "' OR '1'='1", "a b", "k\\u0000", "", "|whoami"] {
        refused(
            &format!("kid {kid:?}"),
            by_secret(),
            &hs(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), &good()),
        );
    }
    let own = json!({ "kty": "oct", "k": b64(b"the attacker's own secret, 32 byte") });
    let attacker = EncodingKey::from_secret(b"the attacker's own secret, 32 byte");
    let embedded = json!({ "alg": "HS256", "jwk": own }).to_string();
    refused(
        "embedded jwk",
        by_secret(),
        &token(&embedded, &good().to_string(), &attacker, Algorithm::HS256),
    );
    for name in ["jku", "x5u"] {
        let header = json!({ "alg": "HS256", name: "https://evil.example/keys" }).to_string();
        refused(name, by_secret(), &hs(&header, &good()));
    }
    refused("crit", by_secret(), &hs(r#"{"alg":"HS256","crit":["exp"]}"#, &good()));
    refused("typ of another use", by_secret(), &hs(r#"{"alg":"HS256","typ":"dpop+jwt"}"#, &good()));
    refused("alg twice", by_secret(), &hs(r#"{"alg":"none","alg":"HS256"}"#, &good()));
}

/// Rows 21-31: times are numbers, and `exp` is there.
#[test]
fn times_are_numbers() {
    refused("missing exp", by_secret(), &hs(HS, &json!({ "sub": "ann" })));
    for (row, change) in [
        ("exp as text", json!({ "exp": "1999999999" })),
        ("exp null", json!({ "exp": null })),
        ("exp true", json!({ "exp": true })),
        ("exp in a list", json!({ "exp": [1_999_999_999] })),
        ("exp negative", json!({ "exp": -1 })),
        ("exp beyond the year 9999", json!({ "exp": 1e300 })),
        ("nbf as text", json!({ "nbf": "0" })),
        ("nbf null", json!({ "nbf": null })),
        ("nbf in the future", json!({ "nbf": NOW + 30.0 })),
        ("iat as text", json!({ "iat": "0" })),
    ] {
        refused(row, by_secret(), &hs(HS, &with(change)));
    }
    for past in [NOW, NOW - 1.0, 0.0] {
        assert_eq!(
            judge(by_secret(), &hs(HS, &with(json!({ "exp": past })))),
            Err(AuthError::Expired),
            "exp {past}"
        );
    }
    let twice = format!(r#"{{"sub":"ann","exp":1,"exp":{}}}"#, NOW as i64 + 60);
    refused(
        "exp twice",
        by_secret(),
        &token(HS, &twice, &EncodingKey::from_secret(SECRET), Algorithm::HS256),
    );
}

/// Rows 32-39: who it is for and from.
#[test]
fn audience_and_issuer_are_checked_when_configured() {
    let aud = || AuthConfig {
        audience: Some("haggle".into()),
        ..by_secret()
    };
    refused("no aud", aud(), &hs(HS, &good()));
    refused("wrong aud", aud(), &hs(HS, &with(json!({ "aud": "shop" }))));
    refused("wrong auds", aud(), &hs(HS, &with(json!({ "aud": ["shop", "haggle2"] }))));
    refused("aud as an object", aud(), &hs(HS, &with(json!({ "aud": { "haggle": 1 } }))));
    believed(aud(), &hs(HS, &with(json!({ "aud": ["shop", "haggle"] }))));
    let iss = || AuthConfig {
        issuer: Some("https://id.example".into()),
        ..by_secret()
    };
    refused("no iss", iss(), &hs(HS, &good()));
    refused("wrong iss", iss(), &hs(HS, &with(json!({ "iss": "https://id.example.evil" }))));
    refused("iss in a list", iss(), &hs(HS, &with(json!({ "iss": ["https://id.example"] }))));
    believed(iss(), &hs(HS, &with(json!({ "iss": "https://id.example" }))));
}

/// Rows 40-48: whose it is.
#[test]
fn users_have_one_name_that_is_no_plugins() {
    for (row, claims) in [
        ("no user", json!({ "exp": NOW + 60.0 })),
        ("sub and id differ", with(json!({ "id": "bob" }))),
        ("sub as a number", with(json!({ "sub": 7 }))),
        ("id as a number", with(json!({ "id": 7 }))),
        ("empty sub", with(json!({ "sub": "" }))),
        ("long sub", with(json!({ "sub": "a".repeat(129) }))),
        ("a plugin's name", with(json!({ "sub": "plugin:offers" }))),
        ("control characters", with(json!({ "sub": "ann\nadmin" }))),
        ("roles as a number", with(json!({ "roles": 7 }))),
        ("roles that are no texts", with(json!({ "roles": ["a", 7] }))),
        ("too many roles", with(json!({ "roles": vec!["r"; 65] }))),
    ] {
        refused(row, by_secret(), &hs(HS, &claims));
    }
}

/// Rows 49-60: a token has three parts of base64url, and nothing else.
#[test]
fn form_is_exact() {
    let whole = hs(HS, &good());
    let (signed, signature) = whole.rsplit_once('.').expect("a token");
    let tampered = format!("{}.{}.{signature}", b64(HS), b64(with(json!({ "sub": "eve" })).to_string()));
    for (row, text) in [
        ("one part", "abc".to_owned()),
        ("two parts", signed.to_owned()),
        ("four parts", format!("{whole}.x")),
        ("an empty signature", format!("{signed}.")),
        ("trailing bytes", format!("{whole}x")),
        ("a trailing newline", format!("{whole}\n")),
        ("padding", format!("{whole}=")),
        ("standard base64", format!("{signed}.{}", STANDARD.encode([0xfb; 32]))),
        ("a claim changed", tampered),
        ("not JSON", format!("{}.{}.{signature}", b64(HS), b64("exp"))),
        ("a list of claims", token(HS, "[1]", &EncodingKey::from_secret(SECRET), Algorithm::HS256)),
        ("a huge token", hs(HS, &with(json!({ "x": "a".repeat(TOKEN_BYTES_MAX) })))),
        (
            "deep claims",
            token(HS, &"[".repeat(2_000), &EncodingKey::from_secret(SECRET), Algorithm::HS256),
        ),
        (
            "another secret",
            token(HS, &good().to_string(), &EncodingKey::from_secret(&[7; 32]), Algorithm::HS256),
        ),
    ] {
        refused(row, by_secret(), &text);
    }
    assert_eq!(judge(by_secret(), ""), Err(AuthError::Missing));
}

#[test]
fn roles_come_from_the_configured_claim() {
    let roles = |claim: &str, claims: Value| {
        let config = AuthConfig {
            roles_claim: claim.into(),
            ..by_secret()
        };
        judge(config, &hs(HS, &with(claims))).expect("believed").roles.to_vec()
    };
    assert_eq!(roles("roles", json!({ "roles": ["admin", "seller"] })), ["admin", "seller"]);
    assert_eq!(roles("role", json!({ "role": "admin" })), ["admin"]);
    assert_eq!(roles("realm_access.roles", json!({ "realm_access": { "roles": ["x"] } })), ["x"]);
    assert!(roles("roles", json!({ "role": "admin" })).is_empty());
}

#[test]
fn a_secret_being_replaced_leaves_both_valid() {
    let config = || AuthConfig {
        secrets: vec![vec![9; 32], SECRET.to_vec()],
        ..AuthConfig::default()
    };
    believed(config(), &hs(HS, &good()));
    believed(
        config(),
        &token(HS, &good().to_string(), &EncodingKey::from_secret(&[9; 32]), Algorithm::HS256),
    );
}

fn ed_jwk(kid: &str, pair: &Pair) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": b64(&pair.public_der) })
}

fn ec_jwk(kid: &str, pair: &Pair) -> Value {
    let (x, y) = pair.public_der[1..].split_at(32);
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": b64(x), "y": b64(y) })
}

#[test]
fn key_sets_choose_by_kid_and_pass_over_what_is_no_public_signing_key() {
    let secret = json!({ "kty": "oct", "kid": "s", "k": b64(SECRET) });
    let encryption = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "e", "use": "enc", "x": b64(&ED.public_der) });
    let unknown = json!({ "kty": "quantum", "kid": "q" });
    let set = json!({ "keys": [secret, encryption, unknown, ed_jwk("ed", &ED), ec_jwk("ec", &EC)] }).to_string();
    let config = || AuthConfig {
        jwks: Some(Jwks::Text(set.clone())),
        ..AuthConfig::default()
    };
    let claims = good().to_string();
    believed(config(), &token(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims, &ED.private, Algorithm::EdDSA));
    believed(config(), &token(r#"{"alg":"ES256","kid":"ec"}"#, &claims, &EC.private, Algorithm::ES256));
    believed(config(), &token(r#"{"alg":"ES256"}"#, &claims, &EC.private, Algorithm::ES256));
    refused(
        "an unknown kid",
        config(),
        &token(r#"{"alg":"EdDSA","kid":"zz"}"#, &claims, &ED.private, Algorithm::EdDSA),
    );
    refused(
        "the kid of another key",
        config(),
        &token(r#"{"alg":"EdDSA","kid":"ec"}"#, &claims, &ED.private, Algorithm::EdDSA),
    );
    refused("a secret that was published", config(), &hs(r#"{"alg":"HS256","kid":"s"}"#, &good()));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let error = |config| Authenticator::new(config).expect_err("refused").to_string();
    assert!(error(AuthConfig::default()).contains("auth.secret"));
    assert!(
        error(AuthConfig {
            secrets: vec![b"short".to_vec()],
            ..AuthConfig::default()
        })
        .contains("5 bytes")
    );
    assert!(error(by_pem("not a key")).contains("auth.public_key"));
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("generates");
    assert!(
        error(by_pem(&pem("PUBLIC KEY", &ec_public(&p384)))).contains("auth.public_key"),
        "P-384 is not ES256"
    );
    assert!(
        error(AuthConfig {
            jwks: Some(Jwks::Text("{}".into())),
            ..AuthConfig::default()
        })
        .contains("auth.jwks")
    );
    assert!(
        error(AuthConfig {
            jwks: Some(Jwks::Url("ftp://id.example/keys".into())),
            ..AuthConfig::default()
        })
        .contains("ftp")
    );
    assert!(
        error(AuthConfig {
            algorithms: vec!["HS999".into()],
            ..by_secret()
        })
        .contains("HS999")
    );
}

#[test]
fn what_we_sign_we_believe() {
    let token = sign(SECRET, "ann", &["admin".to_owned()], Duration::from_secs(60)).expect("signs");
    let identity = Authenticator::new(by_secret()).expect("valid").verify(&token).expect("believed");
    assert_eq!((identity.user.as_str(), &*identity.roles), ("ann", &["admin".to_owned()][..]));
    let expired = sign(SECRET, "ann", &[], Duration::ZERO).expect("signs");
    assert_eq!(Authenticator::new(by_secret()).expect("valid").verify(&expired), Err(AuthError::Expired));
}

/// Serves one body after another, each to one connection, then refuses.
async fn key_server(bodies: Vec<String>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/keys", listener.local_addr().expect("has an address"));
    tokio::spawn(async move {
        for body in bodies {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let _ = stream.read(&mut [0; 2048]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn a_key_set_is_fetched_when_a_key_is_unknown_and_kept_when_fetching_fails() {
    let url = key_server(vec![json!({ "keys": [ed_jwk("one", &ED)] }).to_string(), "broken".into()]).await;
    let auth = Authenticator::new(AuthConfig {
        jwks: Some(Jwks::Url(url)),
        ..AuthConfig::default()
    })
    .expect("valid");
    let claims = json!({ "sub": "ann", "exp": now_s() + 60.0 }).to_string();
    let known = token(r#"{"alg":"EdDSA","kid":"one"}"#, &claims, &ED.private, Algorithm::EdDSA);
    let unknown = token(r#"{"alg":"EdDSA","kid":"two"}"#, &claims, &ED.private, Algorithm::EdDSA);
    assert_eq!(auth.verify(&known), Err(AuthError::Invalid), "nothing is fetched yet");
    assert!(auth.authenticate(&known).await.is_ok());
    assert_eq!(
        auth.authenticate(&unknown).await,
        Err(AuthError::Invalid),
        "asked a moment ago: not again"
    );
    *auth.fetched.as_ref().expect("by URL").last_try.lock() = None;
    assert_eq!(auth.authenticate(&unknown).await, Err(AuthError::Invalid), "the second set is broken");
    assert!(auth.verify(&known).is_ok(), "the last good keys stay");
}

#[test]
fn tokens_stand_in_the_authorization_header() {
    let token = |value: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, header::HeaderValue::from_static(value));
        }
        bearer(&headers).map(str::to_owned)
    };
    assert_eq!(token(Some("Bearer a.b.c")), Ok("a.b.c".into()));
    assert_eq!(token(Some("bearer  a.b.c")), Ok("a.b.c".into()));
    assert_eq!(token(Some("Basic abc")), Err(AuthError::Invalid));
    assert_eq!(token(Some("abc")), Err(AuthError::Invalid));
    assert_eq!(token(None), Err(AuthError::Missing));
}
