//! The jobs that this program's sandboxes know: above those who wrote them, so that the sandbox itself knows none.

use crate::build::image::ImageJob;
use crate::export::root::RootJob;
use crate::foreign::ProbeBinfmt;
use crate::prove::inside::Inside;
use crate::rootfs::layer::LayerJob;
use crate::sandbox::Known;
use crate::store::jobs::{Contents, Remove};

/// All of them.
pub(crate) const ALL: &[Known] = &[
    Known::of::<LayerJob>(),
    Known::of::<ImageJob>(),
    Known::of::<RootJob>(),
    Known::of::<Inside>(),
    Known::of::<ProbeBinfmt>(),
    Known::of::<Contents>(),
    Known::of::<Remove>(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn no_two_have_one_name() {
        let names: BTreeSet<&str> = super::ALL.iter().map(|known| known.name).collect();
        assert_eq!(names.len(), super::ALL.len());
    }
}
