//! What becomes of a device's key where the device is not done, and its identity goes to another one.

use std::sync::atomic::Ordering;

use super::{Case, Fault, Faulty, MIB, flash};
use crate::flash::engine;
use crate::flash::writer::Key;
use crate::stamp::patch::Patch;

/// What a device has where the patch writes.
fn secrets(device: &Faulty, patch: &Patch) -> Vec<u8> {
    let content = device.content();
    let places = patch.runs().iter().map(|(at, bytes)| *at as usize..*at as usize + bytes.len());
    places.flat_map(|range| content[range].to_vec()).collect()
}

fn left(fault: Fault) -> (Option<Key>, Vec<u8>, u64) {
    let case = Case::new();
    let (patch, _) = case.patch();
    let device = Faulty::new(case.disk.len(), fault);
    let results = flash(&case.source(), std::slice::from_ref(&device), &engine::feed(1), Some(&patch));
    let fault = results[0].as_ref().expect_err("it fails");
    assert!(!fault.may_boot, "{fault:?}");
    (fault.key, secrets(&device, &patch), device.writes.load(Ordering::Relaxed))
}

#[test]
fn a_device_that_still_answers_is_wiped() {
    // The patch lies in the second and fourth MiB.
    for fault in [Fault::Error(8 * MIB + 9, libc::EIO), Fault::WrongByte(8 * MIB), Fault::Forgets(7 * MIB)] {
        let (key, found, _) = left(fault);
        assert_eq!(key, Some(Key::Wiped));
        assert!(found.iter().all(|byte| *byte == 0), "a key is left");
    }
}

#[test]
fn a_device_that_is_gone_keeps_it() {
    let (_, _, writes) = left(Fault::WrongByte(8 * MIB));
    let (key, found, _) = left(Fault::Gone(writes / 2));
    assert_eq!(key, Some(Key::Left));
    assert!(found.contains(&9), "so it does");
    // Where nothing of it was written, there is nothing to say.
    assert_eq!(left(Fault::Gone(0)).0, None);
}
