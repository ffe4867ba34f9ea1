//! `[auth]` as the gateway takes it: reads the files it names and makes the dev key.

use std::{path::Path, time::Duration};

use haggle_gateway::{AuthConfig, Jwks, Origins};

use crate::{
    config::{Auth, Settings},
    dev_key,
    failure::Failure,
};

/// Whose tokens are believed.
pub fn config(settings: &Settings) -> Result<AuthConfig, Failure> {
    let auth = &settings.auth;
    let mut secrets: Vec<Vec<u8>> = std::iter::once(&auth.secret)
        .chain(&auth.old_secrets)
        .filter(|s| !s.is_empty())
        .map(|s| s.clone().into_bytes())
        .collect();
    if auth.dev {
        secrets.push(dev_key::read_or_make(&settings.server.data_dir)?.into_bytes());
    }
    Ok(AuthConfig {
        secrets,
        public_key: public_key(auth)?,
        jwks: jwks(auth)?,
        issuer: some(&auth.issuer),
        audience: some(&auth.audience),
        roles_claim: auth.roles_claim.clone(),
        algorithms: auth.algorithms.clone(),
        clock_skew: Duration::from_millis(auth.clock_skew_ms),
    })
}

/// Which web pages may talk to us.
pub fn origins(auth: &Auth) -> Result<Origins, Failure> {
    Origins::new(&auth.origins, auth.loopback_origins).map_err(|error| Failure::usage(format!("auth.origins: {error}")))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn public_key(auth: &Auth) -> Result<Option<String>, Failure> {
    if auth.public_key.as_os_str().is_empty() {
        return Ok(None);
    }
    read(&auth.public_key, "auth.public_key").map(Some)
}

fn jwks(auth: &Auth) -> Result<Option<Jwks>, Failure> {
    if auth.jwks.is_empty() {
        return Ok(None);
    }
    if auth.jwks.contains("://") {
        return Ok(Some(Jwks::Url(auth.jwks.clone())));
    }
    read(Path::new(&auth.jwks), "auth.jwks").map(|text| Some(Jwks::Text(text)))
}

fn read(path: &Path, key: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{key} = \"{}\": {error}", path.display())).hint(format!("set {key} to a file that can be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut Settings)) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut settings = Settings::default();
        settings.server.data_dir = dir.path().join("data");
        change(&mut settings);
        (dir, settings)
    }

    #[test]
    fn old_secrets_are_believed_after_the_new_one() {
        let (_dir, settings) = settings(|s| {
            s.auth.secret = "new".into();
            s.auth.old_secrets = vec!["old".into()];
        });
        assert_eq!(config(&settings).expect("valid").secrets, [b"new".to_vec(), b"old".to_vec()]);
        assert!(!settings.server.data_dir.exists(), "no dev key is made without auth.dev");
    }

    #[test]
    fn dev_makes_its_key() {
        let (_dir, settings) = settings(|s| s.auth.dev = true);
        let secrets = config(&settings).expect("valid").secrets;
        assert_eq!(
            secrets,
            [dev_key::read(&settings.server.data_dir).expect("readable").expect("made").into_bytes()]
        );
    }

    #[test]
    fn a_missing_file_names_its_key() {
        let (_dir, settings) = settings(|s| s.auth.public_key = "/nowhere/key.pem".into());
        assert!(
            config(&settings)
                .expect_err("missing")
                .message
                .starts_with("auth.public_key = \"/nowhere/key.pem\"")
        );
    }
}
