use std::os::unix::fs::FileExt as _;

use super::{Base, Header, Identity, MAGIC, Patch};
use crate::disk::patch::Patch as Sectors;
use crate::units::Digest;

const SIZE: u64 = 64 * 512;

/// An image of counted sectors, the last ones zero.
fn image() -> Vec<u8> {
    (0..SIZE).map(|at| if at < 40 * 512 { (at / 512) as u8 + 1 } else { 0 }).collect()
}

fn patch() -> Patch {
    let runs = vec![(512, vec![0xaa; 1024]), (10 * 512, vec![0xbb; 512]), (50 * 512, vec![0xcc; 512])];
    let old = |(at, new): &(u64, Vec<u8>)| (*at, image()[*at as usize..*at as usize + new.len()].to_vec());
    let before = Sectors { runs: runs.iter().map(old).collect() };
    let identity = Identity {
        registration_id: "pump-7".into(),
        serial: Some("0x1".into()),
        certificate_sha256: Some(Digest::of("c")),
        not_after: None,
    };
    let base = Base { name: "golden.img".into(), size: SIZE, sha256: Some(Digest::of(image())) };
    Patch::new(identity, base, Sectors { runs }, &before)
}

fn patched() -> Vec<u8> {
    let mut bytes = image();
    for (at, new) in patch().runs() {
        bytes[*at as usize..*at as usize + new.len()].copy_from_slice(new);
    }
    bytes
}

#[test]
fn what_is_written_is_read() {
    let bytes = patch().to_bytes().expect("bytes");
    assert!(bytes.starts_with(MAGIC) && bytes.len() < 1000, "{}", bytes.len());
    assert_eq!(Patch::parse(&bytes).expect("parsed"), patch());
    assert_eq!(bytes, patch().to_bytes().expect("bytes"), "the same twice");
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("pump-7.patch");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("write");
    let error = Patch::read(&path).expect_err("cut off").to_string();
    assert!(
        error.ends_with("pump-7.patch is no patch that can be used: it is damaged: its digest differs"),
        "{error}"
    );
}

#[test]
fn only_the_image_that_it_is_for() {
    let file = tempfile::tempfile().expect("file");
    let mut bytes = image();
    bytes[10 * 512 + 3] ^= 1;
    file.write_all_at(&bytes, 0).expect("write");
    assert!(patch().apply_to(&file, SIZE).is_err());
    assert!(patch().apply_to(&file, SIZE + 512).is_err());
    bytes[10 * 512 + 3] ^= 1;
    // A difference elsewhere is none of the patch's business.
    bytes[20 * 512] ^= 1;
    file.write_all_at(&bytes, 0).expect("write");
    patch().apply_to(&file, SIZE).expect("applied");
    let mut now = vec![0; SIZE as usize];
    file.read_exact_at(&mut now, 0).expect("read");
    now[20 * 512] ^= 1;
    assert!(now == patched());
}

#[test]
fn streams_in_pieces_of_any_length() {
    let patch = patch();
    for piece in [1, 7, 500, 512, 513, 4096, SIZE as usize] {
        let mut bytes = image();
        let mut stream = patch.stream();
        bytes.chunks_mut(piece).for_each(|chunk| stream.replace(chunk));
        stream.finish(None).expect("the right image");
        assert!(bytes == patched(), "{piece}");
    }
}

#[test]
fn holes_are_written_where_the_patch_is() {
    let patch = patch();
    let mut bytes = image();
    let mut stream = patch.stream();
    stream.replace(&mut bytes[..40 * 512]);
    let hole: Vec<(u64, Vec<u8>)> =
        stream.hole(SIZE - 40 * 512).into_iter().map(|(at, new)| (at, new.to_vec())).collect();
    stream.finish(None).expect("the right image");
    assert_eq!(hole, [(50 * 512, vec![0xcc; 512])]);
    bytes[50 * 512..51 * 512].copy_from_slice(&hole[0].1);
    assert!(bytes == patched());
}

#[test]
fn a_stream_of_another_image_is_noticed() {
    let patch = patch();
    let mut bytes = image();
    bytes[600] ^= 1;
    let mut stream = patch.stream();
    stream.replace(&mut bytes);
    assert!(stream.finish(None).is_err());
    let mut stream = patch.stream();
    stream.replace(&mut image()[..SIZE as usize - 1]);
    assert!(stream.finish(None).is_err(), "it ended early");
    // Another one in sectors that the patch does not change.
    for (sha256, right) in [(None, true), (patch.header.image.sha256, true), (Some(Digest::of("?")), false)] {
        let mut stream = patch.stream();
        stream.replace(&mut image());
        assert_eq!(stream.finish(sha256).is_ok(), right);
    }
}

/// A body with its right digest: what a hostile file would have.
fn sealed(header: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(content);
    let sum = Digest::of(&bytes);
    bytes.extend(sum.0);
    bytes
}

#[test]
fn hostile_headers() {
    let header = |runs: &str| {
        let header = serde_json::to_string(&Header { runs: Vec::new(), ..patch().header }).expect("JSON");
        header.replace("\"runs\":[]", &format!("\"runs\":{runs}"))
    };
    // Deflate of nothing.
    let empty = [3, 0];
    assert!(Patch::parse(&sealed(&header("[]"), &empty)).is_ok());
    for (runs, reason) in [
        ("[[512,511]]", "not made of whole sectors"),
        ("[[1,512]]", "not made of whole sectors"),
        ("[[0,0]]", "not made of whole sectors"),
        ("[[512,512],[0,512]]", "out of order"),
        ("[[0,512],[512,512]]", "out of order"),
        ("[[32768,512]]", "over the end"),
        ("[[18446744073709551104,512]]", "ends nowhere"),
        ("[[0,18446744073709551104]]", "not made of whole sectors"),
        ("[[0,512]]", "another length"),
        ("[[-1,512]]", "cannot be read"),
        ("7", "cannot be read"),
    ] {
        let error = Patch::parse(&sealed(&header(runs), &empty)).expect_err(runs);
        assert!(error.contains(reason), "{runs}: {error}");
    }
    assert_eq!(Patch::parse(&sealed(&header("[]"), b"\xff\xff")), Err("its content cannot be unpacked"));
    let mut long = sealed(&header("[]"), &empty);
    long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Patch::parse(&long).is_err());
}

/// Every byte changed, every length cut, with the digest put right again: nothing panics, nothing allocates without end.
#[test]
fn any_bytes_are_safe() {
    let good = patch().to_bytes().expect("bytes");
    let body = good.len() - 32;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for at in 0..body {
        for cut in [false, true] {
            let mut bytes = good[..if cut { at } else { body }].to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random() as u8;
            }
            let sum = Digest::of(&bytes);
            bytes.extend(sum.0);
            if let Ok(parsed) = Patch::parse(&bytes) {
                assert!(
                    parsed.runs().iter().all(|(at, run)| at + run.len() as u64 <= parsed.header.image.size)
                );
            }
        }
    }
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        assert!(Patch::parse(&bytes).is_err());
    }
}
