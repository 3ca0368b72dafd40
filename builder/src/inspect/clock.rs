//! The time zone that an image has: what /etc/localtime leads to, inside of the root.

use std::path::Path;

use anyhow::Result;

use crate::image::root::Root;
use crate::recipe::zones;
use crate::verdict::Check;

/// The verdict's name.
pub(super) const NAME: &str = "time-zone";
const LOCALTIME: &str = "/etc/localtime";
/// The largest zone of tzdata has 4 KiB.
const LARGEST: u64 = 1 << 20;
const HINT: &str = "install tzdata (tzdata-legacy for an old name), or link it to a zone that is there";

/// What is wrong with it; nothing where it is a zone, or not there at all, which is UTC.
///
/// # Errors
/// When the file system cannot be read.
pub(super) fn judge(root: &Root) -> Result<Option<Check>> {
    let path = Path::new(LOCALTIME);
    if root.lstat(path)?.is_none() {
        return Ok(None);
    }
    let target = root.link(path)?;
    let zone = target.as_deref().and_then(zones::of_target);
    let what = match (root.read(path, LARGEST), &target) {
        (Ok(Some(content)), _) if content.starts_with(zones::MAGIC) => return Ok(None),
        // The clock is the same without it.
        (Ok(None), _) if zone.as_deref().is_some_and(zones::is_utc) => return Ok(None),
        (Ok(None), Some(target)) => format!("leads to {}, which is not there", target.display()),
        (Ok(_), Some(target)) => format!("leads to {}, which is no time zone", target.display()),
        (Ok(_), None) => "is no time zone".to_owned(),
        (Err(error), _) => format!("cannot be read: {error:#}"),
    };
    Ok(Some(Check::failed(NAME, format!("{LOCALTIME} {what}: the clock shows UTC"), HINT)))
}
