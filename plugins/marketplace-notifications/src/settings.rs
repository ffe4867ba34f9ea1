//! The `[config]` of the manifest.

use std::collections::{BTreeMap, BTreeSet};

use haggle_sdk::prelude::*;

use crate::topic::Topic;

/// What the operator may set; the defaults are those of `plugin.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Seconds between two notifications of one conversation's messages to one user.
    pub interval_s: u32,
    /// In conversations with more recipients nobody is notified of messages.
    pub recipients_max: usize,
    /// Kinds of message that nobody is notified of.
    pub kinds_ignored: BTreeSet<String>,
    /// Whose messages are `MESSAGE_ADMIN`; empty: nobody's.
    pub admin_role: String,
    /// Titles by topic.
    pub titles: BTreeMap<Topic, String>,
    /// Of several messages in one notification.
    pub title_many: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            interval_s: 60,
            recipients_max: 50,
            kinds_ignored: BTreeSet::from(["system".to_string()]),
            admin_role: "admin".into(),
            titles: Topic::ALL.into_iter().map(|topic| (topic, topic.default_title().to_string())).collect(),
            title_many: "{count} new messages".into(),
        }
    }
}

/// A day: a longer silence is no batching.
const INTERVAL_S_MAX: u32 = 86_400;
/// Each recipient takes a key and a notification, and a handler's writes are bounded.
const RECIPIENTS_MAX_MAX: usize = 100;

impl Settings {
    /// Reads the merged configuration.
    ///
    /// # Errors
    ///
    /// Names the key that cannot be used.
    pub(crate) fn read(config: &str) -> Result<Settings, Error> {
        let config = json::object(Some(config))?;
        let default = Settings::default();
        let mut settings = Settings {
            interval_s: json::setting(&config, "interval_s", default.interval_s)?,
            recipients_max: json::setting(&config, "recipients_max", default.recipients_max)?,
            kinds_ignored: words(&json::setting(&config, "kinds_ignored", "system".to_string())?),
            admin_role: json::setting(&config, "admin_role", default.admin_role)?,
            titles: BTreeMap::new(),
            title_many: json::setting(&config, "title_many", default.title_many)?,
        };
        for (topic, title) in default.titles {
            settings.titles.insert(topic, json::setting(&config, &topic.setting(), title)?);
        }
        check("interval_s", settings.interval_s <= INTERVAL_S_MAX, "0 to 86400")?;
        check("recipients_max", (1..=RECIPIENTS_MAX_MAX).contains(&settings.recipients_max), "1 to 100")?;
        Ok(settings)
    }

    /// How long a user is left alone after a notification of a conversation's messages.
    pub(crate) fn interval_ms(&self) -> u64 {
        u64::from(self.interval_s) * time::SECOND_MS
    }

    /// The title of a notification; `name` is who did it.
    pub(crate) fn title(&self, topic: Topic, name: &str) -> String {
        self.titles
            .get(&topic)
            .map_or(topic.default_title(), String::as_str)
            .replace("{name}", name)
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Into::into).collect()
}

fn check(key: &str, good: bool, expected: &str) -> Result<(), Error> {
    if good {
        Ok(())
    } else {
        Err(Error::Invalid(format!("config {key}: must be {expected}")))
    }
}
