//! The `[config]` of the manifest.

use haggle_sdk::prelude::*;
use jiff::tz::TimeZone;

/// What the operator may set; the defaults are those of `plugin.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Hours after which an unanswered request expires.
    pub expire_after_h: u32,
    /// Minutes before the beginning at which both sides are reminded.
    pub remind_before_m: Vec<u32>,
    /// For providers whose profile names none.
    pub default_time_zone: String,
    /// Minutes between now and the earliest time.
    pub notice_min_m: u32,
    /// Days between now and the latest.
    pub advance_max_days: u32,
    /// The longest booking.
    pub duration_max_m: u32,
    /// Bookings of one conversation that are not over.
    pub open_max: usize,
    /// Days for which a closed booking's state is kept.
    pub keep_closed_days: u32,
    /// The message's text.
    pub content: String,
    /// The reminder's title.
    pub reminder_title: String,
    /// For packages that name no currency.
    pub default_currency: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            expire_after_h: 48,
            remind_before_m: vec![1_440, 60],
            default_time_zone: "UTC".into(),
            notice_min_m: 0,
            advance_max_days: 365,
            duration_max_m: 1_440,
            open_max: 20,
            keep_closed_days: 30,
            content: "Demande de réservation: {name}".into(),
            reminder_title: "Booking reminder: {name}".into(),
            default_currency: "FCFA".into(),
        }
    }
}

/// A timer is kept for each.
const REMINDERS_MAX: usize = 4;
/// Each half hour is a key of one reservation: 48 and one for a beginning between two.
const DURATION_MAX_M_MAX: u32 = 1_440;
/// The page of open bookings that is counted is a page of kv.
const OPEN_MAX_MAX: usize = 99;
/// Ten years: more is a mistake, and the sums must fit.
const DAYS_MAX: u32 = 3_650;

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
            remind_before_m: leads(&json::setting(&config, "remind_before_m", "1440,60".to_string())?)?,
            default_time_zone: json::setting(&config, "default_time_zone", default.default_time_zone)?,
            notice_min_m: json::setting(&config, "notice_min_m", default.notice_min_m)?,
            advance_max_days: json::setting(&config, "advance_max_days", default.advance_max_days)?,
            duration_max_m: json::setting(&config, "duration_max_m", default.duration_max_m)?,
            open_max: json::setting(&config, "open_max", default.open_max)?,
            keep_closed_days: json::setting(&config, "keep_closed_days", default.keep_closed_days)?,
            content: json::setting(&config, "content", default.content)?,
            reminder_title: json::setting(&config, "reminder_title", default.reminder_title)?,
            default_currency: json::setting(&config, "default_currency", default.default_currency)?,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), Error> {
        check("expire_after_h", (1..=24 * DAYS_MAX).contains(&self.expire_after_h), "1 to 87600")?;
        check("default_time_zone", TimeZone::get(&self.default_time_zone).is_ok(), "an IANA time zone")?;
        check("notice_min_m", self.notice_min_m <= 1_440 * DAYS_MAX, "at most ten years")?;
        check("advance_max_days", (1..=DAYS_MAX).contains(&self.advance_max_days), "1 to 3650")?;
        check("duration_max_m", (30..=DURATION_MAX_M_MAX).contains(&self.duration_max_m), "30 to 1440")?;
        check("open_max", (1..=OPEN_MAX_MAX).contains(&self.open_max), "1 to 99")?;
        check("keep_closed_days", (1..=DAYS_MAX).contains(&self.keep_closed_days), "1 to 3650")?;
        check("content", self.content.contains("{name}"), "a text with {name}")
    }

    /// How long a request waits for an answer.
    pub(crate) fn expire_after_ms(&self) -> u64 {
        u64::from(self.expire_after_h) * time::HOUR_MS
    }

    /// How long a closed booking's state is kept.
    pub(crate) fn keep_closed_s(&self) -> u32 {
        self.keep_closed_days * 86_400
    }
}

fn leads(text: &str) -> Result<Vec<u32>, Error> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let leads: Result<Vec<u32>, _> = parts.map(str::parse).collect();
    let leads = leads.map_err(|_| Error::Invalid(format!("config remind_before_m: cannot read {text:?}")))?;
    check(
        "remind_before_m",
        leads.len() <= REMINDERS_MAX && leads.iter().all(|lead| *lead > 0),
        "up to four numbers above 0",
    )?;
    Ok(leads)
}

fn check(key: &str, good: bool, expected: &str) -> Result<(), Error> {
    if good {
        Ok(())
    } else {
        Err(Error::Invalid(format!("config {key}: must be {expected}")))
    }
}
