//! The Azure preflight: everything that Azure asks of a custom Linux image, as far as the image itself tells.
//!
//! Source of the points: Microsoft's "Information for community supported and non-endorsed distributions" and "Prepare a
//! Debian VHD for Azure" (learn.microsoft.com), and the VHD format's specification of 2006. Each point is a [`Check`] with a hint.

mod disk;
mod facts;
mod initramfs;
mod software;

pub(crate) use self::disk::Disk;
pub(crate) use self::facts::Inside;
use super::leaks::Leak;
use crate::verdict::{Check, Outcome};

/// The verdict's name.
pub(crate) const NAME: &str = "azure-preflight";

/// Every point, in the order in which a VM meets them.
pub(crate) fn points(disk: &Disk, inside: Option<&Inside>, leaks: &[Leak]) -> Vec<Check> {
    let mut points = disk::points(disk);
    let Some(inside) = inside else {
        points.push(Check::failed("root", "there is no ext4 root that can be read", "make the root ext4"));
        return points;
    };
    points.extend(software::points(inside, disk));
    points.push(generalised(leaks));
    points
}

/// What one machine left, and whoever may log in.
fn generalised(leaks: &[Leak]) -> Check {
    let keys = |leak: &&Leak| !leak.perhaps_meant() || leak.path().contains("authorized_keys");
    let one = |leak: &Leak| format!("{}: {}", leak.path(), leak.finding.message);
    let faults: Vec<_> = leaks.iter().filter(keys).map(one).collect();
    Check::of(
        "generalised",
        &faults,
        "nothing of one machine or user",
        "remove it at the end of the build (waagent -deprovision+user and cloud-init clean do a part of that); users and \
         their keys come from the platform, through cloud-init",
    )
}

/// All points as one verdict.
pub(crate) fn judge(points: &[Check]) -> Check {
    let faults: Vec<String> = points
        .iter()
        .filter(|point| point.outcome == Outcome::Failed)
        .map(|point| {
            format!("{}: {}; hint: {}", point.name, point.detail, point.hint.as_deref().unwrap_or_default())
        })
        .collect();
    if faults.is_empty() {
        let passed = points.iter().filter(|point| point.outcome == Outcome::Passed).count();
        let skipped = points.len() - passed;
        let rest =
            if skipped == 0 { String::new() } else { format!(", {skipped} do not apply or cannot be told") };
        return Check::new(NAME, true, format!("{passed} points are right{rest}"));
    }
    Check::new(NAME, false, faults.join("\n"))
}
