//! Images that are not what they must be.

use super::{Case, Fault, Faulty, blank, flash};
use crate::flash::source::FlashImage;
use crate::flash::{engine, writer};
use crate::units::Digest;

/// Whatever is wrong with the image is found before any device's first MiB is written.
#[test]
fn an_image_that_is_not_what_it_must_be() {
    let damaged = |change: &dyn Fn(&Case, &mut FlashImage), expected: &str| {
        let case = Case::new();
        case.map();
        let mut source = case.source();
        change(&case, &mut source);
        let devices = [Faulty::new(case.disk.len(), Fault::None), Faulty::new(case.disk.len(), Fault::None)];
        let results = flash(&source, &devices, &engine::feed(2), None);
        for (device, result) in devices.iter().zip(results) {
            let writer::WriteFailure { message, .. } = result.expect_err("not verified");
            assert!(message.contains(expected), "{message}");
            assert!(blank(device), "{message}");
        }
    };
    let cut = |case: &Case, by: usize| {
        let bytes = std::fs::read(case.image()).expect("read");
        std::fs::write(case.image(), &bytes[..bytes.len() - by]).expect("write");
    };
    damaged(&|case, _| cut(case, 1), "reading the image: ");
    damaged(&|case, _| cut(case, 20_000), "reading the image: ");
    damaged(
        &|_, source| source.file_sha256 = Some((Digest::of("other"), "SHA256SUMS".into())),
        "the image is damaged: its digest is",
    );
    damaged(&|_, source| source.raw_sha256 = Some(Digest::of("other")), "holds another disk");
    damaged(&|_, source| source.size -= 1, "the image has 9442304 bytes and not 9442303");
    damaged(
        &|_, source| {
            let map = source.bmap.as_mut().expect("a map");
            map.ranges[2].sha256 = Some(Digest::of("other"));
        },
        "blocks 1281-1535 differ",
    );
    // What follows the last frame belongs to the file, and to its digest.
    damaged(
        &|case, source| {
            let mut bytes = std::fs::read(case.image()).expect("read");
            source.file_sha256 = Some((Digest::of(&bytes), "SHA256SUMS".into()));
            bytes.extend([0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7]);
            std::fs::write(case.image(), bytes).expect("write");
        },
        "the image is damaged: its digest is",
    );
}
