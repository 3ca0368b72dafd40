//! Faults: what a service is told to do wrong, for ever or for its next N requests.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Service;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// HTTP 429 with `Retry-After`; DNS REFUSED; an NTP kiss-o'-death `RATE`.
    Throttled,
    /// HTTP 500; DNS SERVFAIL; an NTP answer that says the server has no time itself.
    Broken,
    /// The right answer, this much later.
    Slow(Duration),
    /// Accepts the connection or packet and never answers.
    Silent,
}

/// A trouble and how often it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub trouble: Trouble,
    /// For this many requests; for ever where there is no number.
    pub times: Option<u32>,
}

impl Fault {
    /// `trouble` at every request.
    pub fn always(trouble: Trouble) -> Self {
        Self { trouble, times: None }
    }

    /// `trouble` at the next `times` requests.
    pub fn first(times: u32, trouble: Trouble) -> Self {
        Self { trouble, times: Some(times) }
    }
}

impl FromStr for Fault {
    type Err = String;

    /// `429`, `500`, `silent`, `slow:10s`, each optionally followed by `:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is not a fault: expected 429, 500, silent or slow:SECONDSs, and :N for only N requests"
            )
        };
        let mut words = text.split(':');
        let trouble = match words.next() {
            Some("429") => Trouble::Throttled,
            Some("500") => Trouble::Broken,
            Some("silent") => Trouble::Silent,
            Some("slow") => Trouble::Slow(words.next().and_then(delay).ok_or_else(bad)?),
            _ => return Err(bad()),
        };
        let times = words.next().map(|count| count.parse().map_err(|_| bad())).transpose()?;
        if words.next().is_some() || times == Some(0) {
            return Err(bad());
        }
        Ok(Self { trouble, times })
    }
}

/// `10s`, `0.5s` or `250ms`; at most a day, so that no sum of times overflows.
fn delay(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    let seconds = digits.parse::<f64>().ok()? * unit;
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throttled => f.write_str("429"),
            Self::Broken => f.write_str("500"),
            Self::Slow(delay) => write!(f, "slow by {} s", delay.as_secs_f64()),
            Self::Silent => f.write_str("silent"),
        }
    }
}

/// The faults in force; changed and consumed from several threads.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<BTreeMap<Service, Fault>>);

impl Faults {
    /// Replaces the service's fault; `None` mends it.
    pub(super) fn set(&self, service: Service, fault: Option<Fault>) {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(fault) => faults.insert(service, fault),
            None => faults.remove(&service),
        };
    }

    /// The trouble that strikes this request, counted.
    pub(super) fn strike(&self, service: Service) -> Option<Trouble> {
        self.strike_if(service, |_| true)
    }

    /// As [`Faults::strike`], but only silence: what can strike before there is a request.
    pub(super) fn strike_silent(&self, service: Service) -> bool {
        self.strike_if(service, |trouble| trouble == Trouble::Silent).is_some()
    }

    fn strike_if(&self, service: Service, wanted: impl Fn(Trouble) -> bool) -> Option<Trouble> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = faults.get_mut(&service).filter(|fault| wanted(fault.trouble))?;
        let trouble = fault.trouble;
        match &mut fault.times {
            Some(1) => {
                faults.remove(&service);
            }
            Some(times) => *times -= 1,
            None => {}
        }
        Some(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Faults, Service, Trouble};
    use std::time::Duration;

    #[test]
    fn faults_are_read() {
        for (text, fault) in [
            ("429", Fault::always(Trouble::Throttled)),
            ("429:3", Fault::first(3, Trouble::Throttled)),
            ("500:1", Fault::first(1, Trouble::Broken)),
            ("silent", Fault::always(Trouble::Silent)),
            ("slow:10s", Fault::always(Trouble::Slow(Duration::from_secs(10)))),
            ("slow:250ms:2", Fault::first(2, Trouble::Slow(Duration::from_millis(250)))),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
        for text in [
            "",
            "404",
            "429:",
            "429:0",
            "429:-1",
            "429:1:1",
            "slow",
            "slow:",
            "slow:10",
            "slow:-1s",
            "slow:NaNs",
            "slow:1e99s",
            "silent:x",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_was_told() {
        let faults = Faults::default();
        faults.set(Service::Dps, Some(Fault::first(2, Trouble::Throttled)));
        assert!(!faults.strike_silent(Service::Dps));
        assert_eq!(faults.strike(Service::Hub), None);
        assert_eq!(faults.strike(Service::Dps), Some(Trouble::Throttled));
        assert_eq!(faults.strike(Service::Dps), Some(Trouble::Throttled));
        assert_eq!(faults.strike(Service::Dps), None);

        faults.set(Service::Ntp, Some(Fault::always(Trouble::Silent)));
        assert!(faults.strike_silent(Service::Ntp));
        assert_eq!(faults.strike(Service::Ntp), Some(Trouble::Silent));
        faults.set(Service::Ntp, None);
        assert_eq!(faults.strike(Service::Ntp), None);
    }
}
