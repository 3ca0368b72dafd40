//! What a test does to the device besides looking on: the power cut, faults of services, a wrong clock, a late network.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use time::format_description::FormatItem;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime};

use super::milestone::Milestone;
use crate::sim::Service;
use crate::sim::fault::Fault;

/// A day, in seconds: no boot takes longer.
const SECONDS_MAX: f64 = 86_400.0;

/// Seconds after init began in which a random cut falls: first boot works in them, also on a slow machine.
const RANDOM_SPAN: f64 = 60.0;

/// Everything at once; the default is a test that only looks on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Injection {
    /// When the power goes.
    pub cut: Option<Moment>,
    /// What the moment was drawn from.
    pub seed: Option<u64>,
    /// What the services do wrong.
    pub faults: Vec<Planned>,
    /// Seconds that the simulated world is ahead of the host.
    pub clock_offset: i64,
    /// What the machine's own clock shows at power-on.
    pub rtc: Option<Rtc>,
    /// Seconds from power-on until the network's cable is plugged in.
    pub network_after: Option<f64>,
}

/// A moment of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Moment {
    /// Seconds since power-on.
    At(f64),
    /// Seconds since a milestone.
    After(Milestone, f64),
}

impl Moment {
    /// Draws one from the time in which first boot works, the same for the same seed.
    pub fn draw(seed: u64) -> Self {
        // SplitMix64 (Steele, Lea, Flood 2014), its upper 53 bits as a fraction.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let millis = (z ^ (z >> 31)) >> 11;
        #[allow(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
        let fraction = millis as f64 / (1_u64 << 53) as f64;
        Self::After(Milestone::Userspace, (fraction * RANDOM_SPAN * 1000.0).round() / 1000.0)
    }
}

/// A seed that nobody chose.
///
/// # Errors
/// When /proc is not there.
pub(crate) fn seed() -> Result<u64> {
    let uuid = crate::image::scratch::uuid()?;
    // The first group: few digits, for a person may type them again.
    u64::from_str_radix(&uuid[..8.min(uuid.len())], 16).context("reading a random number")
}

impl FromStr for Moment {
    type Err = String;

    /// `47.5`, `engine` or `engine+2.5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Milestone::ALL.map(Milestone::name).join(", ");
        let seconds = |digits: &str| {
            let found = digits.parse::<f64>().ok().filter(|found| (0.0..=SECONDS_MAX).contains(found));
            found.ok_or_else(|| {
                format!(
                    "`{text}` is no moment: expected SECONDS, MILESTONE or MILESTONE+SECONDS; milestones are {}",
                    names()
                )
            })
        };
        let (name, digits) = text.split_once('+').unwrap_or((text, "0"));
        match Milestone::ALL.into_iter().find(|milestone| milestone.name() == name) {
            Some(milestone) => Ok(Self::After(milestone, seconds(digits)?)),
            None => Ok(Self::At(seconds(text)?)),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(seconds) => write!(f, "{seconds}"),
            Self::After(milestone, seconds) if *seconds == 0.0 => write!(f, "{milestone}"),
            Self::After(milestone, seconds) => write!(f, "{milestone}+{seconds}"),
        }
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

/// A fault as the user wrote it, `dps=429:3`: known to be one, and still text for sandbox and report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Planned {
    text: String,
    /// Whose fault it is.
    pub service: Service,
    /// What goes wrong.
    pub fault: Fault,
}

impl FromStr for Planned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, fault) = text.split_once('=').ok_or("expected SERVICE=FAULT")?;
        let (service, fault): (Service, Fault) = (service.parse()?, fault.parse()?);
        if !fault.trouble.suits(service) {
            return Err(format!("{service} cannot have the fault `{}`", fault.trouble));
        }
        Ok(Self { text: text.to_owned(), service, fault })
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Planned {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Planned> for String {
    fn from(planned: Planned) -> Self {
        planned.text
    }
}

/// What a machine's battery-backed clock shows at power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rtc {
    /// This time, UTC.
    At(PrimitiveDateTime),
    /// Seconds ahead of the host's clock.
    Ahead(i64),
}

const DATE: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

/// The first year that the clock of every machine here can show, and the last.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2099;

impl Rtc {
    /// The time at power-on, as QEMU's `-rtc base=` takes it.
    ///
    /// # Errors
    /// When it lies outside the years that such a clock can show.
    pub(crate) fn base(self, now: OffsetDateTime) -> Result<String> {
        let at = match self {
            Self::At(at) => Some(at),
            Self::Ahead(seconds) => {
                let utc = now.to_offset(time::UtcOffset::UTC);
                PrimitiveDateTime::new(utc.date(), utc.time()).checked_add(Duration::seconds(seconds))
            }
        };
        let at = at.filter(|at| YEARS.contains(&at.year()));
        let at = at.with_context(|| {
            format!(
                "--rtc {self} leaves the years {} to {} that such a clock can show",
                YEARS.start(),
                YEARS.end()
            )
        })?;
        at.format(TIME).context("writing a date")
    }
}

impl FromStr for Rtc {
    type Err = String;

    /// `1980-01-01`, `1980-01-01T00:00:00`, or seconds ahead of the host, `-3600` or `+60`.
    fn from_str(text: &str) -> Result<Self, String> {
        // A number without a sign would rather be a year.
        if text.starts_with(['+', '-'])
            && let Ok(seconds) = text.parse()
        {
            return Ok(Self::Ahead(seconds));
        }
        let midnight = |date: Date| PrimitiveDateTime::new(date, time::Time::MIDNIGHT);
        let date = PrimitiveDateTime::parse(text, TIME).or_else(|_| Date::parse(text, DATE).map(midnight));
        date.map(Self::At).map_err(|_| {
            format!(
                "`{text}` is no date: expected 1980-01-01, 1980-01-01T12:00:00, or seconds as -3600 or +60"
            )
        })
    }
}

impl fmt::Display for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.write_str(&at.format(TIME).unwrap_or_default()),
            Self::Ahead(seconds) => write!(f, "{seconds:+}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::{Moment, Planned, Rtc};
    use crate::prove::milestone::Milestone;
    use crate::sim::Service;

    #[test]
    fn moments() {
        for (text, moment) in [
            ("47.5", Moment::At(47.5)),
            ("0", Moment::At(0.0)),
            ("engine", Moment::After(Milestone::Engine, 0.0)),
            ("first-boot+2.25", Moment::After(Milestone::FirstBoot, 2.25)),
        ] {
            assert_eq!(text.parse(), Ok(moment));
            assert_eq!(moment.to_string(), text);
            let json = serde_json::to_string(&moment).expect("json");
            assert_eq!(serde_json::from_str::<Moment>(&json).expect("back"), moment);
        }
        for text in ["", "-1", "engine+", "engine+-1", "engine-1", "motor", "NaN", "inf", "1e9", "47.5+1"] {
            let error = text.parse::<Moment>().expect_err(text);
            assert!(error.contains("milestones are firmware, kernel"), "{error}");
        }
    }

    #[test]
    fn draws_are_the_seed_s_own() {
        let all: Vec<_> = (0..1000).map(Moment::draw).collect();
        assert_eq!(all, (0..1000).map(Moment::draw).collect::<Vec<_>>());
        let seconds = all.iter().map(|moment| match moment {
            Moment::After(Milestone::Userspace, seconds) => *seconds,
            other => panic!("{other}"),
        });
        let mut seconds: Vec<_> = seconds.collect();
        seconds.sort_by(f64::total_cmp);
        assert!(seconds[0] >= 0.0 && seconds[0] < 1.0 && seconds[999] > 59.0 && seconds[999] <= 60.0);
        assert!((25.0..35.0).contains(&seconds[500]), "{}", seconds[500]);
    }

    #[test]
    fn faults_keep_their_text() {
        let planned: Planned = "dps=429:3".parse().expect("a fault");
        assert_eq!((planned.service, planned.to_string().as_str()), (Service::Dps, "dps=429:3"));
        let json = serde_json::to_string(&planned).expect("json");
        assert_eq!(json, "\"dps=429:3\"");
        assert_eq!(serde_json::from_str::<Planned>(&json).expect("back"), planned);
        for text in ["dps", "dps=418", "ntp=404", "nobody=500", "=", ""] {
            assert!(text.parse::<Planned>().is_err(), "{text}");
        }
    }

    #[test]
    fn clocks() {
        let now = datetime!(2026-01-02 03:04:05 UTC);
        for (text, base) in [
            ("1980-01-01", Some("1980-01-01T00:00:00")),
            ("2060-02-29T12:00:01", Some("2060-02-29T12:00:01")),
            ("-5", Some("2026-01-02T03:04:00")),
            ("+86400", Some("2026-01-03T03:04:05")),
            ("1969-12-31", None),
            ("-9000000000000", None),
            ("+9223372036854775807", None),
        ] {
            let rtc: Rtc = text.parse().expect(text);
            assert_eq!(rtc.base(now).ok().as_deref(), base, "{text}");
        }
        for text in ["", "1980", "1980-13-01", "yesterday"] {
            assert!(text.parse::<Rtc>().is_err(), "{text}");
        }
    }
}
