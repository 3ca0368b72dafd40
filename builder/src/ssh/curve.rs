//! The curves of NIST (SP 800-186, 3.2.1): `y² = x³ - 3x + b` modulo a prime. OpenSSH reads no key whose point is on none.
//!
//! Public numbers only, and an answer of yes or no: nothing here has to take the same time for all.

use num_bigint::BigUint;

/// Name, exponents of the prime as a sum of powers of two, and `b`.
type Curve = (&'static str, &'static [(u32, bool)], &'static str);

/// `true` adds a power, `false` takes it away.
const CURVES: [Curve; 3] = [
    (
        "nistp256",
        &[(256, true), (224, false), (192, true), (96, true), (0, false)],
        "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
    ),
    (
        "nistp384",
        &[(384, true), (128, false), (96, false), (32, true), (0, false)],
        "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
    ),
    (
        "nistp521",
        &[(521, true), (0, false)],
        "51953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1\
         ef451fd46b503f00",
    ),
];

/// Has the curve of this name the point of these coordinates?
pub(super) fn has(name: &str, x: &[u8], y: &[u8]) -> bool {
    let Some((_, powers, b)) = CURVES.into_iter().find(|(known, ..)| *known == name) else { return false };
    let power = |exponent: u32| BigUint::from(1u8) << exponent;
    // The first is the largest, and added.
    let prime = powers.iter().fold(BigUint::ZERO, |sum, (exponent, add)| match add {
        true => sum + power(*exponent),
        false => sum - power(*exponent),
    });
    let (x, y) = (BigUint::from_bytes_be(x), BigUint::from_bytes_be(y));
    let Some(b) = BigUint::parse_bytes(b.as_bytes(), 16) else { return false };
    let square = &y * &y + &x * 3u8;
    let cube = &x * &x * &x + b;
    x < prime && y < prime && square % &prime == cube % &prime
}

#[cfg(test)]
pub(super) mod tests {
    use super::has;
    use num_bigint::BigUint;

    /// The base point of the curve whose coordinates have so many bytes.
    pub(crate) fn base(coordinate: usize) -> (Vec<u8>, Vec<u8>) {
        let (x, y) = match coordinate {
            32 => (
                "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
                "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
            ),
            48 => (
                "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
                "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
            ),
            _ => (
                "c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a\
                 429bf97e7e31c2e5bd66",
                "11839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c7086a27\
                 2c24088be94769fd16650",
            ),
        };
        let bytes = |hex: &str| {
            let bytes = BigUint::parse_bytes(hex.as_bytes(), 16).expect("hex").to_bytes_be();
            [vec![0; coordinate - bytes.len()], bytes].concat()
        };
        (bytes(x), bytes(y))
    }

    #[test]
    fn points_and_others() {
        for (name, coordinate) in [("nistp256", 32), ("nistp384", 48), ("nistp521", 66)] {
            let (x, y) = base(coordinate);
            assert!(has(name, &x, &y), "{name}");
            assert!(!has(name, &y, &x) && !has("nistp192", &x, &y), "{name}");
            for bit in 0..coordinate * 8 {
                let mut flipped = y.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!has(name, &x, &flipped), "{name} bit {bit}");
            }
            assert!(!has(name, &vec![0; coordinate], &vec![0; coordinate]), "{name}");
            assert!(!has(name, &vec![0xff; coordinate], &y), "{name}");
        }
    }
}
