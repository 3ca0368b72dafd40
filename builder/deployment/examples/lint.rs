//! Lints deployment manifests, and measures how long that takes.
//!
//! `cargo run --release -p edgepress-deployment --example lint -- [--values FILE] [--times N] MANIFEST…`
//!
//! With `--values` the manifests are templates. The time is that of reading and linting all of them N times, from memory.

use std::io::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use edgepress_deployment::{Context, Manifest, Values, lint};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut values, mut times, mut files) = (None, 1_u32, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--values" => {
                let file = arguments.next().context("reading the name behind --values")?;
                let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
                values = Some(Values::parse(&file, &text).map_err(|found| anyhow::anyhow!("{}", found[0]))?);
            }
            "--times" => times = arguments.next().context("reading the number behind --times")?.parse()?,
            file => files.push((
                file.to_owned(),
                std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?,
            )),
        }
    }
    let mut out = std::io::stdout().lock();
    let start = Instant::now();
    for round in 0..times {
        for (file, text) in &files {
            let manifest = match &values {
                Some(values) => Manifest::from_template(file, text, values),
                None => Manifest::parse(file, text),
            };
            let found = manifest.map_or_else(|found| found, |manifest| lint(&manifest, &Context::default()));
            if round == 0 {
                writeln!(out, "{file}: {} findings", found.len())?;
                for finding in found {
                    writeln!(out, "{}\n", finding.labelled())?;
                }
            }
        }
    }
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    writeln!(out, "{} manifests, {bytes} bytes, {times} times: {:?}", files.len(), start.elapsed())?;
    Ok(())
}
