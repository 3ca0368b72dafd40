//! Identifiers of an image, derived from the digest of what enters it.
//!
//! Random identifiers would make two builds of the same recipe differ; fixed ones would make two images on one
//! machine collide. A digest of the inputs gives both properties.

use std::fmt;

use crate::units::Digest;

/// A UUID in the byte order in which it is written (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// A UUID of version 4 and RFC variant from the first 16 bytes of a digest.
    pub fn from_digest(digest: Digest) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.0[..16]);
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// The 16 bytes as a GPT stores them: the first three fields little-endian (UEFI 2.10, appendix A).
    pub fn to_gpt(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[0..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }

    /// The opposite of [`Uuid::to_gpt`].
    pub fn from_gpt(bytes: [u8; 16]) -> Self {
        // The byte swap is its own inverse.
        Self(Self(bytes).to_gpt())
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A FAT volume id; written `1A2B-3C4D`, as Linux names such a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeId(pub u32);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}-{:04X}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Every identifier that an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// GUID of the partition table.
    pub disk: Uuid,
    /// Id of an MBR (its bytes 440 to 443), of which Linux makes the partitions' PARTUUIDs; never 0, which is none.
    pub mbr: u32,
    /// GUID of the FAT partition.
    pub fat_partition: Uuid,
    /// GUID of the root partition.
    pub root_partition: Uuid,
    /// UUID of the root file system.
    pub root: Uuid,
    /// Seed of ext4's directory hashes.
    pub hash_seed: Uuid,
    /// Volume id of the FAT file system.
    pub fat: VolumeId,
    /// Id of a VHD of the disk.
    pub vhd: Uuid,
}

impl Ids {
    /// Derives all of them from the digest of what enters the image.
    pub fn from_seed(seed: &Digest) -> Self {
        let derive = |label: &str| Digest::of(format!("edgepress {label} {seed}"));
        let uuid = |label| Uuid::from_digest(derive(label));
        Self {
            disk: uuid("disk guid"),
            mbr: first_word(derive("mbr disk id")).max(1),
            fat_partition: uuid("fat partition guid"),
            root_partition: uuid("root partition guid"),
            root: uuid("root file system uuid"),
            hash_seed: uuid("ext4 hash seed"),
            fat: VolumeId(first_word(derive("fat volume id"))),
            vhd: uuid("vhd id"),
        }
    }

    /// PARTUUID of the partition with this number, from 1, in an image with an MBR: `1a2b3c4d-02`.
    pub fn mbr_partition(&self, number: u8) -> String {
        format!("{:08x}-{number:02x}", self.mbr)
    }
}

fn first_word(digest: Digest) -> u32 {
    let [a, b, c, d, ..] = digest.0;
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::{Ids, Uuid, VolumeId};
    use crate::units::Digest;
    use std::collections::BTreeSet;

    #[test]
    fn ids_depend_on_the_seed_and_on_nothing_else() {
        let ids = Ids::from_seed(&Digest::of("a"));
        assert_eq!(ids, Ids::from_seed(&Digest::of("a")));
        assert_ne!(ids, Ids::from_seed(&Digest::of("b")));
        let uuids = [ids.disk, ids.fat_partition, ids.root_partition, ids.root, ids.hash_seed, ids.vhd];
        assert_eq!(BTreeSet::from(uuids).len(), uuids.len());
        for uuid in uuids {
            let text = uuid.to_string();
            assert_eq!(text.len(), 36);
            assert_eq!(&text[14..15], "4", "{text}");
            assert!("89ab".contains(&text[19..20]), "{text}");
        }
    }

    #[test]
    fn derivation_never_changes() {
        // A change here makes every image of every recipe differ from the one built yesterday.
        let ids = Ids::from_seed(&Digest::of("golden"));
        assert_eq!(ids.root.to_string(), "496e403c-81de-48e8-a48c-5de5248addec");
        assert_eq!(ids.fat.to_string(), "8A4D-F7D6");
        assert_eq!(ids.mbr_partition(2), "3c85362a-02");
    }

    #[test]
    fn gpt_order_swaps_the_first_three_fields() {
        let uuid = Uuid([
            0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
        ]);
        assert_eq!(uuid.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(uuid.to_gpt()[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(Uuid::from_gpt(uuid.to_gpt()), uuid);
    }

    #[test]
    fn volume_ids_read_as_linux_writes_them() {
        assert_eq!(VolumeId(0x0a1b_2c3d).to_string(), "0A1B-2C3D");
    }
}
