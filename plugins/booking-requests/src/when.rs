//! From a date and a time of day where the provider lives to a moment, and to the half hours that a stay covers.

use haggle_sdk::prelude::*;
use jiff::{
    civil,
    tz::{AmbiguousOffset, TimeZone},
};

/// Length of a cell of the calendar.
const CELL_MS: u64 = 30 * time::MINUTE_MS;

/// A wish as it is kept and shown: `2026-01-10`, `09:30`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    date: civil::Date,
    time: civil::Time,
}

impl Wish {
    /// Reads an ISO date (of a date and time: its date) and a time of day `HH:MM`, seconds ignored if they are 0.
    ///
    /// # Errors
    ///
    /// Rejects with `invalid_date` or `invalid_time`.
    pub(crate) fn read(date: &str, time: &str) -> Result<Wish, Stop> {
        let bad_date = || Stop::reject("invalid_date", "requestedDate must be a date as 2026-01-31");
        let bad_time = || Stop::reject("invalid_time", "requestedTime must be a time of day as 09:30");
        Ok(Wish {
            date: read_date(date.trim()).ok_or_else(bad_date)?,
            time: read_time(time.trim()).ok_or_else(bad_time)?,
        })
    }

    /// `2026-01-10`
    pub(crate) fn date(&self) -> String {
        self.date.to_string()
    }

    /// `09:30`
    pub(crate) fn time(&self) -> String {
        format!("{:02}:{:02}", self.time.hour(), self.time.minute())
    }

    /// The moment, in milliseconds since 1970. Of a time that comes twice (clocks go back), the first.
    ///
    /// # Errors
    ///
    /// Rejects with `invalid_time` a time that does not come (clocks go forward), with `invalid_date` one before 1970, with
    /// `provider_time_zone` a zone that nobody knows.
    pub(crate) fn moment_ms(&self, zone: &str) -> Result<u64, Stop> {
        let zone = TimeZone::get(zone).map_err(|_| Stop::reject("provider_time_zone", format!("the provider's time zone {zone} is unknown")))?;
        let local = zone.to_ambiguous_timestamp(self.date.to_datetime(self.time));
        if matches!(local.offset(), AmbiguousOffset::Gap { .. }) {
            return Err(Stop::reject("invalid_time", "there is no such time on that day: the clocks go forward"));
        }
        let moment = local.compatible().map_err(|error| Stop::reject("invalid_date", error.to_string()))?;
        u64::try_from(moment.as_millisecond()).map_err(|_| Stop::reject("date_in_past", "that was before 1970"))
    }
}

fn read_date(text: &str) -> Option<civil::Date> {
    let (date, rest) = text.split_at_checked(10)?;
    if !(rest.is_empty() || rest.starts_with(['T', 't', ' '])) {
        return None;
    }
    let mut parts = date.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() {
        return None;
    }
    civil::Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

fn read_time(text: &str) -> Option<civil::Time> {
    let mut parts = text.split(':');
    let hour = parts.next()?;
    let hour = digits(hour, hour.len().clamp(1, 2))?;
    let minute = digits(parts.next()?, 2)?;
    let second = parts.next().map_or(Some(0), |second| digits(second, 2))?;
    if parts.next().is_some() || second != 0 {
        return None;
    }
    civil::Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0).ok()
}

/// Exactly so many ASCII digits: `parse` alone would let a sign pass.
fn digits(text: &str, count: usize) -> Option<u32> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// The keys of the half hours that a stay covers, wholly or in part. Half hours are counted from 1970 in UTC, so every zone's
/// clock shares one calendar.
pub(crate) fn cells(provider_id: &str, starts_at_ms: u64, ends_at_ms: u64) -> Vec<String> {
    let first = starts_at_ms / CELL_MS;
    let end = ends_at_ms.div_ceil(CELL_MS).max(first + 1);
    (first..end).map(|cell| format!("slot:{provider_id}:{cell}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<u64, Stop>) -> Result<u64, String> {
        result.map_err(|stop| match stop {
            Stop::Reject(rejection) => rejection.code,
            Stop::Fail(why) => why,
        })
    }

    fn moment(date: &str, time: &str, zone: &str) -> Result<String, String> {
        code(Wish::read(date, time).and_then(|wish| wish.moment_ms(zone))).map(time::iso_utc)
    }

    #[test]
    fn local_times_become_moments() {
        let cases = [
            ("2026-01-10", "09:30", "UTC", "2026-01-10T09:30:00.000Z"),
            ("2026-01-10", "9:30", "UTC", "2026-01-10T09:30:00.000Z"),
            ("2026-01-10T23:00:00.000Z", "09:30:00", "UTC", "2026-01-10T09:30:00.000Z"),
            ("2026-01-10", "09:30", "Europe/Paris", "2026-01-10T08:30:00.000Z"),
            ("2026-07-10", "09:30", "Europe/Paris", "2026-07-10T07:30:00.000Z"),
            ("2026-01-10", "00:15", "Asia/Kathmandu", "2026-01-09T18:30:00.000Z"),
            ("2026-01-10", "23:59", "America/Los_Angeles", "2026-01-11T07:59:00.000Z"),
            ("2028-02-29", "12:00", "Africa/Abidjan", "2028-02-29T12:00:00.000Z"),
            // Clocks go back: the first of the two.
            ("2026-10-25", "02:30", "Europe/Paris", "2026-10-25T00:30:00.000Z"),
        ];
        for (date, time, zone, expected) in cases {
            assert_eq!(moment(date, time, zone).as_deref(), Ok(expected), "{date} {time} {zone}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let cases = [
            ("2026-02-29", "09:30", "UTC", "invalid_date"),
            ("2026-13-01", "09:30", "UTC", "invalid_date"),
            ("10/01/2026", "09:30", "UTC", "invalid_date"),
            ("2026-1-10", "09:30", "UTC", "invalid_date"),
            ("2026-01-10x", "09:30", "UTC", "invalid_date"),
            ("2026-01-1é", "09:30", "UTC", "invalid_date"),
            ("", "09:30", "UTC", "invalid_date"),
            ("+026-01-10", "09:30", "UTC", "invalid_date"),
            ("2026-01-10", "24:00", "UTC", "invalid_time"),
            ("2026-01-10", "9", "UTC", "invalid_time"),
            ("2026-01-10", "09:3", "UTC", "invalid_time"),
            ("2026-01-10", "09:30:15", "UTC", "invalid_time"),
            ("2026-01-10", "morning", "UTC", "invalid_time"),
            ("2026-01-10", "", "UTC", "invalid_time"),
            ("2026-03-29", "02:30", "Europe/Paris", "invalid_time"),
            ("2026-01-10", "09:30", "Mars/Base", "provider_time_zone"),
            ("1950-01-10", "09:30", "UTC", "date_in_past"),
        ];
        for (date, time, zone, expected) in cases {
            assert_eq!(moment(date, time, zone), Err(expected.to_string()), "{date} {time} {zone}");
        }
    }

    #[test]
    fn a_stay_covers_every_half_hour_that_it_touches() {
        let check = |from_m: u64, to_m: u64, expected: &[u64]| {
            let keys: Vec<_> = expected.iter().map(|cell| format!("slot:p:{cell}")).collect();
            assert_eq!(cells("p", from_m * time::MINUTE_MS, to_m * time::MINUTE_MS), keys, "{from_m} to {to_m}");
        };
        check(0, 30, &[0]);
        check(0, 31, &[0, 1]);
        check(15, 45, &[0, 1]);
        check(30, 90, &[1, 2]);
        check(30, 30, &[1]);
        assert_eq!(cells("p", 15 * time::MINUTE_MS, (15 + 1_440) * time::MINUTE_MS).len(), 49);
    }
}
