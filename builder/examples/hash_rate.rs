//! How fast this machine hashes by the code of [`edgepress::units::Sha256`]: MB of a second of processor time, the best of
//! five, as `openssl speed` counts. For the benchmarks (`ci/bench-lib`).

use std::io::Write as _;

use edgepress::units::Sha256;
use nix::sys::resource::{UsageWho, getrusage};

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 128;

/// Seconds of processor time of this process.
fn processor_time() -> Result<f64, nix::Error> {
    let time = getrusage(UsageWho::RUSAGE_SELF)?.user_time();
    Ok(time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
}

fn main() -> anyhow::Result<()> {
    let block = vec![0x5a; BLOCK];
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begin = processor_time()?;
        let mut hasher = Sha256::new();
        (0..BLOCKS).for_each(|_| hasher.update(&block));
        std::hint::black_box(hasher.finish());
        best = best.min(processor_time()? - begin);
    }
    let rate = (BLOCKS * BLOCK) as f64 / 1e6 / best;
    writeln!(std::io::stdout(), "{rate:.0}")?;
    Ok(())
}
