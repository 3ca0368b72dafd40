//! SNTP version 4, server side (RFC 5905, the 48-byte header without extensions).

use time::OffsetDateTime;

/// Length of the header.
const LENGTH: usize = 48;
/// Seconds from 1900, where NTP's time begins, to 1970.
const SECONDS_1900_TO_1970: i128 = 2_208_988_800;
/// Mode of a client's request and of a server's reply.
const CLIENT: u8 = 3;
const SERVER: u8 = 4;
/// Leap indicator: the clock is not synchronised.
const UNSYNCHRONISED: u8 = 3;
/// Precision as a power of two: about a microsecond.
const PRECISION: i8 = -20;
/// Root dispersion of a good server, in 1/65536 s: about 1 ms.
const ROOT_DISPERSION: u32 = 65;

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Stratum 1, the time.
    Well,
    /// Kiss-o'-death `RATE`: asked too often.
    Rate,
    /// Says that it has no time itself.
    Unsynchronised,
    /// Bytes that are no reply.
    Garbage,
}

/// How far ahead a server is that tells the wrong time: five years, which is beyond every device certificate, and
/// for now before 2036, when the protocol's seconds begin anew.
pub(super) const WRONG: time::Duration = time::Duration::days(1826);

/// The reply to a packet, or nothing where it is no client's request.
pub(super) fn reply(packet: &[u8], now: OffsetDateTime, manner: Manner) -> Option<[u8; LENGTH]> {
    let header: &[u8; LENGTH] = packet.get(..LENGTH)?.try_into().ok()?;
    let (version, mode) = (header[0] >> 3 & 7, header[0] & 7);
    if mode != CLIENT || !(1..=4).contains(&version) {
        return None;
    }
    let (leap, stratum, reference_id) = match manner {
        Manner::Garbage => return Some([0xff; LENGTH]),
        Manner::Well => (0, 1, b"LOCL"),
        Manner::Rate => (UNSYNCHRONISED, 0, b"RATE"),
        Manner::Unsynchronised => (UNSYNCHRONISED, 0, b"INIT"),
    };
    let time = timestamp(now);
    let mut reply = [0; LENGTH];
    reply[0] = leap << 6 | version << 3 | SERVER;
    reply[1] = stratum;
    reply[2] = header[2];
    reply[3] = PRECISION.to_be_bytes()[0];
    reply[8..12].copy_from_slice(&ROOT_DISPERSION.to_be_bytes());
    reply[12..16].copy_from_slice(reference_id);
    // The reference time is the last full minute: when the clock was last set, in the past.
    let minute = now.unix_timestamp().rem_euclid(60);
    let reference = timestamp(now - time::Duration::seconds(minute));
    for (at, value) in [(16, reference), (32, time), (40, time)] {
        reply[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    // Origin: the client recognises the reply by its own transmit time.
    reply[24..32].copy_from_slice(&header[40..48]);
    Some(reply)
}

/// NTP's 64-bit time: seconds since 1900 (modulo 2³²) and a binary fraction.
fn timestamp(time: OffsetDateTime) -> u64 {
    let nanos = time.unix_timestamp_nanos() + SECONDS_1900_TO_1970 * 1_000_000_000;
    let fixed = (nanos << 32).div_euclid(1_000_000_000);
    // Eras wrap around in 2036, as the protocol says.
    u64::try_from(fixed.rem_euclid(1 << 64)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{LENGTH, Manner, reply, timestamp};
    use time::macros::datetime;

    fn request(first: u8) -> [u8; LENGTH] {
        let mut packet = [0; LENGTH];
        packet[0] = first;
        packet[40..].copy_from_slice(b"my stamp");
        packet
    }

    #[test]
    fn timestamps_match_the_rfc() {
        assert_eq!(timestamp(datetime!(1970-01-01 0:00 UTC)), 2_208_988_800 << 32);
        assert_eq!(timestamp(datetime!(1970-01-01 0:00:00.5 UTC)), 2_208_988_800 << 32 | 1 << 31);
        assert_eq!(timestamp(datetime!(2036-02-07 6:28:16 UTC)), 0);
        assert_eq!(timestamp(datetime!(1900-01-01 0:00 UTC)), 0);
    }

    #[test]
    fn a_client_gets_the_time() {
        let now = datetime!(2025-06-01 12:00:30.25 UTC);
        for version in [1, 3, 4] {
            let reply = reply(&request(version << 3 | 3), now, Manner::Well).expect("reply");
            assert_eq!(reply[0], version << 3 | 4);
            assert_eq!(reply[1], 1);
            assert_eq!(&reply[12..16], b"LOCL");
            assert_eq!(&reply[24..32], b"my stamp");
            let transmit = u64::from_be_bytes(reply[40..].try_into().expect("8 bytes"));
            assert_eq!(transmit, timestamp(now));
            assert_eq!(transmit & 0xffff_ffff, 1 << 30);
            let reference = u64::from_be_bytes(reply[16..24].try_into().expect("8 bytes"));
            assert!(reference < transmit);
        }
        let rate = reply(&request(0x23), now, Manner::Rate).expect("reply");
        assert_eq!((rate[0], rate[1], &rate[12..16]), (0xe4, 0, &b"RATE"[..]));
        let none = reply(&request(0x23), now, Manner::Unsynchronised).expect("reply");
        assert_eq!((none[0] >> 6, none[1]), (3, 0));
        let garbage = reply(&request(0x23), now, Manner::Garbage).expect("reply");
        assert_ne!(garbage[0] & 7, 4, "no server's mode");
    }

    #[test]
    fn other_packets_are_dropped() {
        let now = datetime!(2025-06-01 12:00 UTC);
        for first in 0..=u8::MAX {
            let answered = reply(&request(first), now, Manner::Well).is_some();
            assert_eq!(answered, first & 7 == 3 && (1..=4).contains(&(first >> 3 & 7)), "{first}");
        }
        for length in 0..LENGTH {
            assert!(reply(&request(0x23)[..length], now, Manner::Well).is_none());
        }
        let mut long = request(0x23).to_vec();
        long.extend([7; 500]);
        assert!(reply(&long, now, Manner::Well).is_some());
    }
}
