//! `--mirror`, `--registry-auth` and `--registry-ca`: where packages and container images come from.

use std::path::PathBuf;

use clap::Args;

use crate::lock::mirrors::parse_override;
use crate::lock::network::Origins;

/// Where packages and container images come from.
#[derive(Debug, Clone, Args)]
pub(super) struct OriginOptions {
    /// Fetch an archive, by its role in the recipe, or a registry's images from elsewhere: `debian=http://…`,
    /// `mcr.microsoft.com=https://mirror.example/mcr`
    #[arg(long = "mirror", value_name = "NAME=URL", value_parser = parse_override)]
    mirrors: Vec<(String, String)>,
    /// Credentials for registries, in the form of docker's config.json [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    registry_auth: Option<PathBuf>,
    /// Trust a registry by these certificates (PEM) [default: the system's, and /etc/docker/certs.d/HOST/*.crt]
    #[arg(long, value_name = "HOST[:PORT]=FILE", value_parser = parse_authority)]
    registry_ca: Vec<(String, PathBuf)>,
}

fn parse_authority(text: &str) -> Result<(String, PathBuf), String> {
    let (host, file) = text.split_once('=').ok_or("expected HOST=FILE, as in `registry.example=ca.pem`")?;
    Ok((host.to_owned(), PathBuf::from(file)))
}

impl From<OriginOptions> for Origins {
    fn from(options: OriginOptions) -> Self {
        let OriginOptions { mirrors, registry_auth, registry_ca } = options;
        Self { mirrors, registry_auth, registry_ca }
    }
}
