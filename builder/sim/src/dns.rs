//! DNS: the names of the simulated world, and nothing else.
//!
//! A known name has an A record and nothing of any other type (an empty answer); every other name does not
//! exist (NXDOMAIN). Packets that cannot be read are dropped.

use std::net::Ipv4Addr;

use simple_dns::rdata::{A, OPT, RData};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};

/// Seconds that an answer may be kept: short, since simulated worlds come and go.
const TTL: u32 = 30;
/// Bytes of a DNS header, and of the shortest question and record.
const HEADER: usize = 12;
const SHORTEST_QUESTION: usize = 5;
const SHORTEST_RECORD: usize = 11;
/// UDP payload that the server takes, as it tells in EDNS.
const UDP_PAYLOAD: u16 = 1232;

/// Names and their addresses; the first pattern that matches counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Vec<(String, Ipv4Addr)>);

impl Names {
    /// Patterns are names in which `*` stands for any run of characters.
    pub(super) fn new(names: impl IntoIterator<Item = (String, Ipv4Addr)>) -> Self {
        let fold = |name: String| name.trim_end_matches('.').to_ascii_lowercase();
        Self(names.into_iter().map(|(name, address)| (fold(name), address)).collect())
    }

    /// The address of a name, whatever its case.
    pub(super) fn find(&self, name: &str) -> Option<Ipv4Addr> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().find(|(pattern, _)| matches(pattern.as_bytes(), name.as_bytes())).map(|(_, a)| *a)
    }
}

/// Whether `*` in the pattern can be filled in so that it is the name; linear in memory, no recursion.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(byte), _) if *byte == name[n] => (p, n) = (p + 1, n + 1),
            (_, Some((at, taken))) => {
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// A reply and what to log of it.
pub(super) struct Reply {
    pub bytes: Vec<u8>,
    /// `A name`, as asked.
    pub what: String,
    pub rcode: u16,
    pub note: String,
}

/// The address that a known name has in a wrong answer: of a documentation network (RFC 5737), where no one is.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// The truth.
    Well,
    /// This code instead.
    Failure(RCODE),
    /// Known names have the address [`ELSEWHERE`].
    Elsewhere,
    /// The query's identifier, and bytes that are no message.
    Garbage,
}

/// The reply to a packet, or nothing where it is no query that can be read.
pub(super) fn reply(packet: &[u8], names: &Names, manner: Manner) -> Option<Reply> {
    if !plausible(packet) {
        return None;
    }
    let query = Packet::parse(packet).ok()?;
    let question = query.questions.first()?;
    let name = question.qname.to_string();
    let found = names.find(&name).map(|address| match manner {
        Manner::Elsewhere => ELSEWHERE,
        _ => address,
    });
    let failure = match manner {
        Manner::Failure(code) => Some(code),
        _ => None,
    };
    let inet = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    let rcode = match (failure, query.opcode(), found) {
        (Some(code), _, _) => code,
        (None, OPCODE::StandardQuery, Some(_)) if inet => RCODE::NoError,
        (None, OPCODE::StandardQuery, None) if inet => RCODE::NameError,
        (None, OPCODE::StandardQuery, _) => RCODE::Refused,
        _ => RCODE::NotImplemented,
    };

    let mut reply = Packet::new_reply(query.id());
    *reply.opcode_mut() = query.opcode();
    *reply.rcode_mut() = rcode;
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    if query.opt().is_some() {
        *reply.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: UDP_PAYLOAD, version: 0 });
    }
    let mut note = String::new();
    if let (RCODE::NoError, Some(address)) = (rcode, found)
        && matches!(question.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY)
    {
        let record = ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, RData::A(A::from(address)));
        reply.answers.push(record);
        note = address.to_string();
    }
    let what = format!("{} {name}", type_name(question.qtype));
    reply.questions.push(question.clone());
    let mut bytes = reply.build_bytes_vec().ok()?;
    if manner == Manner::Garbage {
        bytes.iter_mut().skip(2).for_each(|byte| *byte = 0xff);
    }
    Some(Reply { bytes, what, rcode: code(rcode), note })
}

/// Whether the packet is a query of one question and long enough for the records that it claims: the parser
/// reserves memory by the claim.
fn plausible(packet: &[u8]) -> bool {
    let word =
        |at: usize| packet.get(at..at + 2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
    let records = word(6) + word(8) + word(10);
    packet.len() >= HEADER + SHORTEST_QUESTION + SHORTEST_RECORD * records
        && packet[2] & 0x80 == 0
        && word(4) == 1
}

fn type_name(qtype: QTYPE) -> String {
    match qtype {
        QTYPE::TYPE(kind) => format!("{kind:?}"),
        other => format!("{other:?}"),
    }
}

fn code(rcode: RCODE) -> u16 {
    match rcode {
        RCODE::NoError => 0,
        RCODE::FormatError => 1,
        RCODE::ServerFailure => 2,
        RCODE::NameError => 3,
        RCODE::NotImplemented => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::{ELSEWHERE, Manner, Names, matches, reply};
    use simple_dns::rdata::{A, OPT, RData};
    use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
    use std::net::Ipv4Addr;

    const DPS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
    const NTP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 4);

    fn names() -> Names {
        Names::new([
            ("Global.Azure.example".into(), DPS),
            ("*.pool.ntp.org".into(), NTP),
            ("time.*".into(), NTP),
        ])
    }

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new_unchecked(name);
        packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: 512, version: 0 });
        packet.build_bytes_vec().expect("query")
    }

    #[test]
    fn patterns_match() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*.b", "a.b", true),
            ("*.b", "x.a.b", true),
            ("*.b", "b", false),
            ("time.*", "time.windows.com", true),
            ("time.*", "xtime.windows.com", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "aXbXbY", false),
            ("**", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_world_has_these_names_and_no_others() {
        for (name, kind, rcode, address) in [
            ("global.azure.EXAMPLE", TYPE::A, RCODE::NoError, Some(DPS)),
            ("global.azure.example", TYPE::AAAA, RCODE::NoError, None),
            ("global.azure.example", TYPE::MX, RCODE::NoError, None),
            ("0.debian.pool.ntp.org", TYPE::A, RCODE::NoError, Some(NTP)),
            ("time.windows.com", TYPE::A, RCODE::NoError, Some(NTP)),
            ("example.com", TYPE::A, RCODE::NameError, None),
            ("1.0.0.10.in-addr.arpa", TYPE::PTR, RCODE::NameError, None),
        ] {
            let answer = reply(&query(name, kind), &names(), Manner::Well).expect("answer");
            let packet = Packet::parse(&answer.bytes).expect("packet");
            assert_eq!((packet.id(), packet.rcode()), (7, rcode), "{name}");
            assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
            assert!(packet.has_flags(PacketFlag::RECURSION_AVAILABLE));
            assert_eq!(packet.questions[0].qname.to_string(), name);
            assert!(packet.opt().is_some());
            let addresses: Vec<RData<'_>> =
                packet.answers.iter().map(|record| record.rdata.clone()).collect();
            let expected: Vec<RData<'_>> = address.map(|a| RData::A(A::from(a))).into_iter().collect();
            assert_eq!(addresses, expected, "{name}");
            assert_eq!(answer.what, format!("{kind:?} {name}"));
        }
    }

    #[test]
    fn failures_are_answered() {
        let answer =
            reply(&query("global.azure.example", TYPE::A), &names(), Manner::Failure(RCODE::ServerFailure));
        let answer = answer.expect("answer");
        assert_eq!(answer.rcode, 2);
        assert!(Packet::parse(&answer.bytes).expect("packet").answers.is_empty());
    }

    #[test]
    fn wrong_answers_are_wrong() {
        let answer = reply(&query("global.azure.example", TYPE::A), &names(), Manner::Elsewhere);
        let bytes = answer.expect("answer").bytes;
        assert_eq!(Packet::parse(&bytes).expect("packet").answers[0].rdata, RData::A(A::from(ELSEWHERE)));
        let unknown = reply(&query("example.com", TYPE::A), &names(), Manner::Elsewhere).expect("answer");
        assert_eq!(unknown.rcode, 3);
        let garbage = reply(&query("global.azure.example", TYPE::A), &names(), Manner::Garbage);
        let bytes = garbage.expect("answer").bytes;
        assert_eq!(bytes[..2], [0, 7], "it is taken for the answer");
        assert!(Packet::parse(&bytes).is_err());
    }

    #[test]
    fn no_bytes_break_the_parser() {
        let good = query("global.azure.example", TYPE::A);
        for length in 0..good.len() {
            let _ = reply(&good[..length], &names(), Manner::Well);
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xc0 | 12, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = reply(&bad, &names(), Manner::Well);
            }
        }
        let mut itself = good[..12].to_vec();
        itself.extend([0xc0, 12, 0, 1, 0, 1]);
        assert!(reply(&itself, &names(), Manner::Well).is_none(), "a name that points at itself");
        let mut claim = good.clone();
        claim[6] = 0xff;
        assert!(reply(&claim, &names(), Manner::Well).is_none(), "more records than the packet can hold");
        let mut response = good.clone();
        response[2] |= 0x80;
        assert!(reply(&response, &names(), Manner::Well).is_none(), "a response");
        assert!(reply(&[], &names(), Manner::Well).is_none());
        assert!(reply(&[0xff; 600], &names(), Manner::Well).is_none());
    }
}
