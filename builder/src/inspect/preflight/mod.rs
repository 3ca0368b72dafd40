//! The Azure preflight: everything that Azure asks of a custom Linux image, as far as the image itself tells.
//!
//! Source of the points: Microsoft's "Information for community supported and non-endorsed distributions" and "Prepare a
//! Debian VHD for Azure" (learn.microsoft.com), and the VHD format's specification of 2006. Each point names its fix.

mod disk;
mod facts;
mod initramfs;
mod software;

use serde::Serialize;

pub use self::disk::Disk;
pub use self::facts::Inside;
use super::leaks::Found;
use crate::verdict::{Check, Outcome};

/// The verdict's name.
pub const NAME: &str = "azure-preflight";

/// One point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Point {
    /// A short name.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Point {
    fn passed(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Passed, found: found.into(), fix: None }
    }

    fn failed(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failed, found: found.into(), fix: Some(fix.into()) }
    }

    fn skipped(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Skipped, found: found.into(), fix: None }
    }

    /// Failed if there are faults.
    fn of(name: &'static str, faults: &[String], fine: impl Into<String>, fix: impl Into<String>) -> Self {
        if faults.is_empty() { Self::passed(name, fine) } else { Self::failed(name, faults.join("; "), fix) }
    }
}

/// Every point, in the order in which a VM meets them.
pub fn points(disk: &Disk, inside: Option<&Inside>, leaks: &[Found]) -> Vec<Point> {
    let mut points = disk::points(disk);
    let Some(inside) = inside else {
        points.push(Point::failed("root", "there is no ext4 root that can be read", "make the root ext4"));
        return points;
    };
    points.extend(software::points(inside, disk));
    points.push(generalised(leaks));
    points
}

/// What one machine left, and whoever may log in.
fn generalised(leaks: &[Found]) -> Point {
    let keys = |leak: &&Found| !leak.perhaps_meant || leak.path.contains("authorized_keys");
    let faults: Vec<_> =
        leaks.iter().filter(keys).map(|leak| format!("{}: {}", leak.path, leak.what)).collect();
    Point::of(
        "generalised",
        &faults,
        "nothing of one machine or user",
        "remove it at the end of the build (waagent -deprovision+user and cloud-init clean do a part of that); users and \
         their keys come from the platform, through cloud-init",
    )
}

/// All points as one verdict.
pub fn judge(points: &[Point]) -> Check {
    let faults: Vec<String> = points
        .iter()
        .filter(|point| point.outcome == Outcome::Failed)
        .map(|point| {
            format!("{}: {}; fix: {}", point.name, point.found, point.fix.as_deref().unwrap_or_default())
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
