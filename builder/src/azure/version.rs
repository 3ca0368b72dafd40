//! The version of an image in a gallery.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// Three numbers, each of at most 31 bits: what a gallery calls an integer of 32.
/// <https://learn.microsoft.com/rest/api/compute/gallery-image-versions/create-or-update>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version([u32; 3]);

impl Version {
    /// Of what is not built yet.
    pub(crate) const FIRST: Self = Self([1, 0, 0]);

    /// `2026.1122.712`: the image's own time, which is that of its newest package. The same image has the same version;
    /// so have two images whose packages are the same, and then the digest in the disk's name tells them apart.
    ///
    /// # Errors
    /// When no calendar has such a time.
    pub(crate) fn of_epoch(epoch: u64) -> Result<Self> {
        let seconds = i64::try_from(epoch).context("reading the image's time")?;
        let at = OffsetDateTime::from_unix_timestamp(seconds).context("reading the image's time")?;
        let year = u32::try_from(at.year()).context("reading the image's time")?;
        let day = u32::from(u8::from(at.month())) * 100 + u32::from(at.day());
        let minute = u32::from(at.hour()) * 100 + u32::from(at.minute());
        Ok(Self([year, day, minute]))
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let plain = part.bytes().all(|byte| byte.is_ascii_digit());
            // Azure would take 01 for another name of 1.
            let short = part == "0" || !part.starts_with('0');
            let number: i32 = part.parse().ok().filter(|_| plain && short)?;
            u32::try_from(number).ok()
        };
        let numbers: Option<Vec<u32>> = text.split('.').map(number).collect();
        let numbers = numbers.and_then(|numbers| <[u32; 3]>::try_from(numbers).ok());
        numbers.map(Self).ok_or_else(|| {
            format!(
                "a version is three numbers with dots between, like 1.2.0, each at most {} and without leading zeros",
                i32::MAX
            )
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn of_an_image_s_time() {
        let text = |epoch| Version::of_epoch(epoch).expect("a time").to_string();
        assert_eq!(text(1_795_332_720), "2026.1122.732");
        assert_eq!(text(0), "1970.101.0");
        assert!(Version::of_epoch(u64::MAX).is_err());
    }

    #[test]
    fn as_people_state_it() {
        for good in ["1.0.0", "0.0.1", "2026.1122.732", "2147483647.2147483647.2147483647"] {
            assert_eq!(good.parse::<Version>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "1..2",
            "1.2.x",
            "1.2.03",
            "+1.2.3",
            "1.2.-3",
            "1.2.2147483648",
            " 1.2.3",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
