//! Faults: what a service is told to do wrong, for ever, for its next N requests, or until a time.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::service::{Service, Transport};

/// What goes wrong. What each means for each service stands in docs/simulators.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// HTTP 429 with `Retry-After`; DNS REFUSED; an NTP kiss-o'-death `RATE`.
    Throttled,
    /// HTTP 500; DNS SERVFAIL; an NTP answer that says the server has no time itself.
    Broken,
    /// HTTP 404; DNS NXDOMAIN.
    NotFound,
    /// The right answer, this much later.
    Slow(Duration),
    /// Accepts the connection or packet and never answers.
    Silent,
    /// A well-formed answer that is wrong: another device's certificate, a token that is worth nothing, another
    /// address, another decade.
    Wrong,
    /// An answer of the right status and type that holds no JSON, PKCS#7, PEM, DNS or NTP.
    Garbage,
    /// A server certificate of an authority that nobody trusts.
    Untrusted,
}

impl Trouble {
    /// Whether a service can have it.
    pub fn suits(self, service: Service) -> bool {
        match (self, service.transport()) {
            (Self::NotFound, Transport::Ntp) | (Self::Wrong | Self::Garbage, Transport::Messaging) => false,
            (Self::Untrusted, transport) => matches!(transport, Transport::Https | Transport::Messaging),
            _ => true,
        }
    }
}

/// A trouble, and how often and how long it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub trouble: Trouble,
    /// For this many requests; for ever where there is no number.
    pub times: Option<u32>,
    /// Until this long after the simulation's start; for ever where there is no time.
    pub until: Option<Duration>,
}

impl Fault {
    /// `trouble` at every request.
    pub fn always(trouble: Trouble) -> Self {
        Self { trouble, times: None, until: None }
    }

    /// `trouble` at the next `times` requests.
    pub fn first(times: u32, trouble: Trouble) -> Self {
        Self { times: Some(times), ..Self::always(trouble) }
    }

    /// `trouble` at every request until `end` after the simulation's start.
    pub fn until(end: Duration, trouble: Trouble) -> Self {
        Self { until: Some(end), ..Self::always(trouble) }
    }
}

impl FromStr for Fault {
    type Err = String;

    /// `429`, `500`, `404`, `silent`, `slow:10s`, `wrong`, `garbage`, `untrusted`, each optionally followed by
    /// `:N` and by `@30s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is not a fault: expected 429, 500, 404, silent, slow:SECONDSs, wrong, garbage or \
                 untrusted, then :N for only N requests, then @SECONDSs for only so long after the start"
            )
        };
        let (what, until) = match text.split_once('@') {
            Some((what, end)) => (what, Some(delay(end).ok_or_else(bad)?)),
            None => (text, None),
        };
        let mut words = what.split(':');
        let trouble = match words.next() {
            Some("429") => Trouble::Throttled,
            Some("500") => Trouble::Broken,
            Some("404") => Trouble::NotFound,
            Some("silent") => Trouble::Silent,
            Some("wrong") => Trouble::Wrong,
            Some("garbage") => Trouble::Garbage,
            Some("untrusted") => Trouble::Untrusted,
            Some("slow") => Trouble::Slow(words.next().and_then(delay).ok_or_else(bad)?),
            _ => return Err(bad()),
        };
        let times = words.next().map(|count| count.parse().map_err(|_| bad())).transpose()?;
        if words.next().is_some() || times == Some(0) {
            return Err(bad());
        }
        Ok(Self { trouble, times, until })
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
            Self::NotFound => f.write_str("404"),
            Self::Slow(delay) => write!(f, "slow by {} s", delay.as_secs_f64()),
            Self::Silent => f.write_str("silent"),
            Self::Wrong => f.write_str("wrong"),
            Self::Garbage => f.write_str("garbage"),
            Self::Untrusted => f.write_str("untrusted"),
        }
    }
}

/// The faults in force; changed and consumed from several threads.
#[derive(Debug)]
pub(super) struct Faults {
    started: Instant,
    of: Mutex<BTreeMap<Service, Vec<Fault>>>,
}

impl Faults {
    /// None yet; ends of faults are counted from `started`.
    pub(super) fn new(started: Instant) -> Self {
        Self { started, of: Mutex::default() }
    }

    /// One more fault, which strikes when those before it are over.
    pub(super) fn add(&self, service: Service, fault: Fault) {
        let mut faults = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        faults.entry(service).or_default().push(fault);
    }

    /// Replaces the service's faults; `None` mends it.
    pub(super) fn set(&self, service: Service, fault: Option<Fault>) {
        let mut faults = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert(service, fault.into_iter().collect());
    }

    /// The trouble that strikes this request, counted. A handshake's is none of it.
    pub(super) fn strike(&self, service: Service) -> Option<Trouble> {
        self.strike_if(service, |trouble| trouble != Trouble::Untrusted)
    }

    /// As [`Faults::strike`], but only what strikes before there is a request: silence, and the certificate.
    pub(super) fn strike_handshake(&self, service: Service) -> Option<Trouble> {
        self.strike_if(service, |trouble| matches!(trouble, Trouble::Silent | Trouble::Untrusted))
    }

    fn strike_if(&self, service: Service, wanted: impl Fn(Trouble) -> bool) -> Option<Trouble> {
        let past = self.started.elapsed();
        let mut faults = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = faults.get_mut(&service)?;
        faults.retain(|fault| fault.until.is_none_or(|end| past < end));
        let fault = faults.first_mut().filter(|fault| wanted(fault.trouble))?;
        let trouble = fault.trouble;
        match &mut fault.times {
            Some(1) => {
                faults.remove(0);
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
    use std::time::{Duration, Instant};

    #[test]
    fn faults_are_read() {
        let secs = Duration::from_secs;
        for (text, fault) in [
            ("429", Fault::always(Trouble::Throttled)),
            ("429:3", Fault::first(3, Trouble::Throttled)),
            ("500:1", Fault::first(1, Trouble::Broken)),
            ("silent", Fault::always(Trouble::Silent)),
            ("slow:10s", Fault::always(Trouble::Slow(secs(10)))),
            ("slow:250ms:2", Fault::first(2, Trouble::Slow(Duration::from_millis(250)))),
            ("404", Fault::always(Trouble::NotFound)),
            ("wrong:1", Fault::first(1, Trouble::Wrong)),
            ("garbage", Fault::always(Trouble::Garbage)),
            ("untrusted@30s", Fault::until(secs(30), Trouble::Untrusted)),
            (
                "silent:2@0.5s",
                Fault { times: Some(2), ..Fault::until(Duration::from_millis(500), Trouble::Silent) },
            ),
            ("slow:1s:2@3s", Fault { times: Some(2), ..Fault::until(secs(3), Trouble::Slow(secs(1))) }),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
        for text in [
            "",
            "403",
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
            "silent@",
            "silent@30",
            "silent@30s:2",
            "silent@-1s",
            "@30s",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_was_told() {
        let faults = Faults::new(Instant::now());
        faults.set(Service::Dps, Some(Fault::first(2, Trouble::Throttled)));
        assert_eq!(faults.strike_handshake(Service::Dps), None);
        assert_eq!(faults.strike(Service::Hub), None);
        assert_eq!(faults.strike(Service::Dps), Some(Trouble::Throttled));
        assert_eq!(faults.strike(Service::Dps), Some(Trouble::Throttled));
        assert_eq!(faults.strike(Service::Dps), None);

        faults.set(Service::Ntp, Some(Fault::always(Trouble::Silent)));
        assert_eq!(faults.strike_handshake(Service::Ntp), Some(Trouble::Silent));
        assert_eq!(faults.strike(Service::Ntp), Some(Trouble::Silent));
        faults.set(Service::Ntp, None);
        assert_eq!(faults.strike(Service::Ntp), None);

        faults.set(Service::Est, Some(Fault::always(Trouble::Untrusted)));
        assert_eq!(faults.strike(Service::Est), None);
        assert_eq!(faults.strike_handshake(Service::Est), Some(Trouble::Untrusted));
    }

    #[test]
    fn faults_end_and_follow_each_other() {
        let start = Instant::now().checked_sub(Duration::from_secs(60)).expect("up for a minute");
        let faults = Faults::new(start);
        faults.add(Service::Dps, Fault::until(Duration::from_secs(59), Trouble::Silent));
        faults.add(Service::Dps, Fault::first(1, Trouble::Broken));
        faults.add(Service::Dps, Fault::until(Duration::from_secs(3600), Trouble::NotFound));
        assert_eq!(faults.strike(Service::Dps), Some(Trouble::Broken));
        assert_eq!(faults.strike(Service::Dps), Some(Trouble::NotFound));
        assert_eq!(faults.strike(Service::Dps), Some(Trouble::NotFound));
    }

    #[test]
    fn not_every_trouble_suits_every_service() {
        for (trouble, service, suits) in [
            (Trouble::Untrusted, Service::Est, true),
            (Trouble::Untrusted, Service::Mqtt, true),
            (Trouble::Untrusted, Service::Metadata, false),
            (Trouble::Untrusted, Service::Dns, false),
            (Trouble::NotFound, Service::Dns, true),
            (Trouble::NotFound, Service::Ntp, false),
            (Trouble::Wrong, Service::Ntp, true),
            (Trouble::Wrong, Service::Amqp, false),
        ] {
            assert_eq!(trouble.suits(service), suits, "{trouble} {service}");
        }
    }
}
