//! The `[config]` of the manifest.

use haggle_sdk::prelude::*;

/// What the operator may set; the defaults are those of `plugin.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Hours after which an unanswered offer expires.
    pub expire_after_h: u32,
    /// Offers that may be open in one conversation.
    pub open_max: usize,
    /// Days for which a closed offer's state is kept.
    pub keep_closed_days: u32,
    /// The message's text.
    pub content: String,
    /// For packages that name no currency.
    pub default_currency: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            expire_after_h: 72,
            open_max: 20,
            keep_closed_days: 30,
            content: "Service proposé: {name}".into(),
            default_currency: "FCFA".into(),
        }
    }
}

/// The page of open offers that is looked through is a page of kv.
const OPEN_MAX_MAX: usize = 99;
/// Ten years: a longer wait is a mistake, and the seconds must fit.
const EXPIRE_AFTER_H_MAX: u32 = 24 * 3_650;

impl Settings {
    /// Reads the merged configuration.
    ///
    /// # Errors
    ///
    /// Names the key that cannot be used.
    pub(crate) fn read(config: &str) -> Result<Settings, Error> {
        let config = json::object(Some(config))?;
        let default = Settings::default();
        let settings = Settings {
            expire_after_h: json::setting(&config, "expire_after_h", default.expire_after_h)?,
            open_max: json::setting(&config, "open_max", default.open_max)?,
            keep_closed_days: json::setting(&config, "keep_closed_days", default.keep_closed_days)?,
            content: json::setting(&config, "content", default.content)?,
            default_currency: json::setting(&config, "default_currency", default.default_currency)?,
        };
        check(
            "expire_after_h",
            (1..=EXPIRE_AFTER_H_MAX).contains(&settings.expire_after_h),
            "1 to 87600",
        )?;
        check("open_max", (1..=OPEN_MAX_MAX).contains(&settings.open_max), "1 to 99")?;
        check("keep_closed_days", (1..=3_650).contains(&settings.keep_closed_days), "1 to 3650")?;
        check("content", settings.content.contains("{name}"), "a text with {name}")?;
        Ok(settings)
    }

    /// How long an offer stays open.
    pub(crate) fn expire_after_ms(&self) -> u64 {
        u64::from(self.expire_after_h) * time::HOUR_MS
    }

    /// How long a closed offer's state is kept.
    pub(crate) fn keep_closed_s(&self) -> u32 {
        self.keep_closed_days * 86_400
    }
}

fn check(key: &str, good: bool, expected: &str) -> Result<(), Error> {
    if good {
        Ok(())
    } else {
        Err(Error::Invalid(format!("config {key}: must be {expected}")))
    }
}
