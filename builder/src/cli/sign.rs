//! `edgepress sign`.

use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::sign::{self, SignOptions};

/// Signs what `edgepress build` made: its SHA256SUMS, and with it every file that it names
///
/// Every file is compared with SHA256SUMS first. An SSH key leaves SHA256SUMS.sig, a minisign key SHA256SUMS.minisig;
/// which of them KEY is, is told by its content. `edgepress inspect --verify` checks either, and so do ssh-keygen and
/// minisign themselves: docs/signing.md shows how.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  edgepress sign out/gateway-aarch64 --key ~/.ssh/id_ed25519
  edgepress sign out/gateway-aarch64 --key ~/.ssh/id_ed25519.pub
      the private half is in ssh-agent
  edgepress sign out/gateway-aarch64 --key ~/.minisign/minisign.key

Exit status: 0 done, 1 the work failed, 2 the folder or the key is wrong.")]
pub(super) struct Args {
    /// The folder that `edgepress build` made
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// An SSH key, or a minisign secret key
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// See [`sign::sign`].
pub(super) fn run(args: Args, session: &Session) -> Result<()> {
    let options = SignOptions { folder: args.folder, key: args.key };
    session.answer(&sign::sign(&options, session.sink.as_ref())?)
}
