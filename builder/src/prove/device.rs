//! The identity that a test makes up, as the source of certificates in the image's recipe wants it on the FAT partition.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::azure::Vm;
use super::milestone::Milestone;
use crate::certificate::common_name;
use crate::disk::patch::{Draft, Master};
use crate::error::Problem;
use crate::image::scratch;
use crate::manifest::Manifest;
use crate::provisioning::source::{DeviceSource, FILE_NAME};
use crate::provisioning::template::{self, Word};
use crate::recipe::types::{Attestation, CertificateSource, Enrol, Provisioning, VaultToken};
use crate::sim::pki::{DeviceCertificate, DeviceOptions, Pki};
use crate::sim::{SecretContent, Service, VaultSecret};
use crate::stamp::patch::Patch;
use crate::units::Digest;

/// The folder of a device's identity on the FAT partition.
pub(super) const IDENTITY: &str = "edgepress";

/// What of an identity must be gone when it was used, the secrets first.
pub(super) const CONSUMED: [&str; 9] = [
    "private-key.pem",
    "bootstrap-key.pem",
    "bootstrap-username",
    "bootstrap-password",
    "bootstrap-token",
    "symmetric-key",
    "registry-password",
    "certificate.pem",
    "bootstrap-certificate.pem",
];

/// One device, and the authorities of its world.
pub(super) struct Device {
    /// Folder of the authorities.
    pub pki: PathBuf,
    /// The certificate (PEM) that vouches for the simulated services.
    pub server_ca: String,
    /// The device's own certificate, or the one with which it asks for that.
    pub certificate: DeviceCertificate,
    /// Names of certificate and key on the FAT partition; none where the device needs neither.
    names: Option<[&'static str; 2]>,
    /// Is the device told its registration id, rather than finding it by itself or in its patch?
    told: bool,
    /// What a patch of the device's own changes in the image.
    patch: Vec<(u64, Vec<u8>)>,
    /// Its identity is its own, by a patch or in the image, and not made up.
    own: bool,
}

/// Most bytes of a file of an identity.
const LARGEST: u64 = 64 * 1024;

impl Device {
    /// Makes one up for an image; a VM that the recipe names after itself must find that name by itself.
    ///
    /// # Errors
    /// When the image's attestation cannot be simulated.
    pub(super) fn create(scratch: &Path, manifest: &Manifest, vm: Option<&Vm>) -> Result<Self> {
        let pki_folder = scratch.join("pki");
        let pki = Pki::open_or_create(&pki_folder)?;
        let named = vm.and_then(|vm| named(vm, manifest.provisioning.registration_id.as_deref()?));
        let told = named.is_none();
        let id = match named {
            Some(id) => id,
            None => format!("edgepress-test-{}", &scratch::uuid()?[..8]),
        };
        let options = DeviceOptions::default();
        let bootstrap = || pki.issue_bootstrap(&id, &options);
        let shown = Some(["bootstrap-certificate.pem", "bootstrap-key.pem"]);
        let (certificate, names) = match &manifest.provisioning.certificate {
            CertificateSource::Partition {} => {
                (pki.issue_device(&id, &options)?, Some(["certificate.pem", "private-key.pem"]))
            }
            CertificateSource::Est { .. } | CertificateSource::Https { .. } => (bootstrap()?, shown),
            CertificateSource::KeyVault { token: VaultToken::ClientCertificate, .. } => (bootstrap()?, shown),
            CertificateSource::KeyVault { token: VaultToken::ManagedIdentity, .. }
            | CertificateSource::Tpm {}
            | CertificateSource::SymmetricKey {} => (bootstrap()?, None),
            CertificateSource::KeyVault { token: VaultToken::Arc, .. } => return Err(without_arc()),
        };
        let server_ca = pki.server_ca_pem().to_owned();
        Ok(Self { pki: pki_folder, server_ca, certificate, names, told, patch: Vec::new(), own: false })
    }

    /// The device that a patch makes of an image, or whose identity the image holds already, in the world whose
    /// authorities are in the folder `pki`. Its source of certificates takes the place of the recipe's.
    ///
    /// # Errors
    /// A [`Problem`] when the patch is not this image's, the folder holds no authorities, or the identity does not say
    /// what the device's registration id is.
    pub(super) fn stamped(
        image: &Path,
        patch: Option<&Path>,
        pki: &Path,
        provisioning: &mut Provisioning,
    ) -> Result<Self> {
        let authorities = Pki::open_or_create(pki)?;
        let name = patch.unwrap_or(image).display();
        let runs = patch.map_or_else(|| Ok(Vec::new()), |patch| runs(image, patch))?;
        let mut files = Files::default();
        Master::open(image)?.make_over(&runs, 0, |volume| files.read(volume))?;
        if let Some(source) = files.source()?.filter(|_| provisioning.overrides) {
            provisioning.certificate = source.certificate;
        }
        let certificate = files.certificate().ok_or_else(|| {
            Problem::input(format!("{name} does not say what the device is called"))
                .hint("state registration_id in the identity: a test must know whom it waits for")
        })?;
        let server_ca = authorities.server_ca_pem().to_owned();
        Ok(Self {
            pki: pki.to_owned(),
            server_ca,
            certificate,
            names: None,
            told: false,
            patch: runs,
            own: true,
        })
    }

    /// The sectors of the image that the identity changes.
    ///
    /// # Errors
    /// When the image has no sound FAT partition, or no room on it.
    pub(super) fn sectors(&self, image: &Path, manifest: &Manifest) -> Result<Vec<(u64, Vec<u8>)>> {
        let master = Master::open(image)?;
        let made = master.make_over(&self.patch, manifest.epoch, |volume| {
            let files = self.files(&manifest.provisioning);
            files.iter().try_for_each(|(path, content)| volume.write(path, content))
        });
        Ok(made.context("putting an identity into the image's copy")?.runs)
    }

    /// Files for the FAT partition; whom to trust only where the image takes that from it.
    fn files(&self, provisioning: &Provisioning) -> Vec<(String, Vec<u8>)> {
        let file = |name: &str, text: &str| (format!("{IDENTITY}/{name}"), text.as_bytes().to_vec());
        let mut files = Vec::new();
        if self.told {
            files.push(file("registration-id", &format!("{}\n", self.certificate.registration_id)));
        }
        if let Some([certificate, key]) = self.names {
            files.push(file(certificate, &self.certificate.chain_pem));
            files.push(file(key, &self.certificate.key_pem));
        }
        if let (CertificateSource::SymmetricKey {}, false) = (&provisioning.certificate, self.own) {
            // Any key will do: nobody is asked with it.
            let key = Digest::of(&self.certificate.key_pem);
            let base64 = base64::engine::general_purpose::STANDARD.encode(key.to_string().as_bytes());
            files.push(file("symmetric-key", &format!("{base64}\n")));
        }
        if provisioning.overrides {
            files.push(file("ca/simulator.pem", &self.server_ca));
            // A source that trusts its own authorities trusts no others.
            if provisioning.certificate.ca().is_some() {
                files.push(file("source-ca.pem", &self.server_ca));
            }
        }
        files
    }
}

/// What a patch changes in the image that it is for.
fn runs(image: &Path, patch: &Path) -> Result<Vec<(u64, Vec<u8>)>> {
    let patch = Patch::read(patch)?;
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let size = file.metadata().with_context(|| format!("looking at {}", image.display()))?.len();
    patch.check(&file, size)?;
    Ok(patch.runs().to_vec())
}

/// The files of an identity that a test must know.
#[derive(Default)]
struct Files(BTreeMap<&'static str, String>);

impl Files {
    fn read(&mut self, volume: &Draft<'_>) -> Result<()> {
        let identity = ["registration-id", "certificate.pem", "private-key.pem", FILE_NAME];
        for name in identity.into_iter().chain(["bootstrap-certificate.pem", "bootstrap-key.pem"]) {
            if let Some(bytes) = volume.read(&format!("{IDENTITY}/{name}"), LARGEST)? {
                self.0.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(())
    }

    fn source(&self) -> Result<Option<DeviceSource>> {
        let Some(text) = self.0.get(FILE_NAME) else { return Ok(None) };
        let read = text.parse().map_err(|error: toml::de::Error| error.message().to_owned());
        let source = read.and_then(DeviceSource::from_table);
        Ok(Some(source.map_err(|error| Problem::input(format!("the identity's {FILE_NAME}: {error}")))?))
    }

    /// The certificate that the device has, or nothing but its name, and its secret.
    fn certificate(&self) -> Option<DeviceCertificate> {
        let text = |name: &str| self.0.get(name).cloned().unwrap_or_default();
        let chain_pem = text("certificate.pem");
        let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok();
        let stated = text("registration-id").trim().to_owned();
        let registration_id = match stated.is_empty() {
            true => common_name(leaf.as_ref()?)?,
            false => stated,
        };
        let either = |own: &str, other: &str| if self.0.contains_key(own) { text(own) } else { text(other) };
        let key_pem = either("private-key.pem", "bootstrap-key.pem");
        let chain_pem = either("certificate.pem", "bootstrap-certificate.pem");
        let thumbprint = leaf.map_or_else(|| Digest::of(""), Digest::of);
        Some(DeviceCertificate { registration_id, chain_pem, key_pem, thumbprint })
    }
}

/// The registration id of a VM by the recipe's template, if the VM is all that it takes.
fn named(vm: &Vm, template: &str) -> Option<String> {
    let others = [Word::Serial, Word::Mac, Word::RegistrationId];
    if others.into_iter().any(|word| template::names(template, word)) {
        return None;
    }
    Some(template::fill(
        template,
        |word| {
            if word == Word::VmId.name() { vm.id.clone() } else { vm.name.clone() }
        },
    ))
}

fn without_arc() -> anyhow::Error {
    let what = "this image cannot be proved: an Arc agent's tokens are at the device's own loopback, where no simulator can be";
    Problem::input(what)
        .hint("test an image of the same recipe built with --set provisioning.certificate.token=managed-identity")
        .into()
}

/// How far a device can get in the simulated world: DPS takes certificates there, and neither TPMs nor symmetric keys.
pub(super) fn goal(provisioning: &Provisioning) -> Milestone {
    match provisioning.certificate.attestation() {
        Attestation::X509 => Milestone::AgentRunning,
        Attestation::Tpm | Attestation::SymmetricKey => Milestone::FirstBoot,
    }
}

/// The addresses that the recipe's source asks, each with the service that is simulated there.
pub(super) fn servers(provisioning: &Provisioning) -> Vec<(Service, String)> {
    match &provisioning.certificate {
        CertificateSource::Est { url, .. } => vec![(Service::Est, url.clone())],
        CertificateSource::Https { url, .. } => vec![(Service::Files, url.clone())],
        CertificateSource::KeyVault { vault, authority, .. } => {
            vec![(Service::Vault, vault.clone()), (Service::Token, authority.clone())]
        }
        _ => Vec::new(),
    }
}

/// The vault's secrets, in whose names `*` stands for the registration id; none where another source is asked.
pub(super) fn secrets(provisioning: &Provisioning) -> Vec<VaultSecret> {
    let CertificateSource::KeyVault { name, registry_secret, .. } = &provisioning.certificate else {
        return Vec::new();
    };
    let secret =
        |name: &String, content| VaultSecret { pattern: template::fill(name, |_| "*".into()), content };
    // The password first: its pattern may be the narrower one.
    let password = SecretContent::Text("a password of a registry".into());
    let password = registry_secret.iter().map(|name| secret(name, password.clone()));
    password.chain([secret(name, SecretContent::Pem)]).collect()
}

/// Does first boot put certificate and key into their places itself, rather than the runtime?
pub(super) fn installed_by_first_boot(provisioning: &Provisioning) -> bool {
    match &provisioning.certificate {
        CertificateSource::Partition {}
        | CertificateSource::Https { .. }
        | CertificateSource::KeyVault { .. } => true,
        CertificateSource::Est { enrol, .. } => *enrol == Enrol::FirstBoot,
        CertificateSource::Tpm {} | CertificateSource::SymmetricKey {} => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{CONSUMED, Device, goal, installed_by_first_boot, servers};
    use crate::image::tests::manifest_text;
    use crate::manifest::Manifest;
    use crate::prove::milestone::Milestone;

    fn manifest(certificate: &serde_json::Value, overrides: bool) -> Manifest {
        let mut manifest: serde_json::Value = serde_json::from_str(&manifest_text()).expect("JSON");
        manifest["provisioning"]["certificate"] = certificate.clone();
        manifest["provisioning"]["overrides"] = overrides.into();
        serde_json::from_value(manifest).expect("a manifest")
    }

    fn names(certificate: &serde_json::Value, overrides: bool) -> Vec<String> {
        let folder = tempfile::tempdir().expect("temp dir");
        let manifest = manifest(certificate, overrides);
        let device = Device::create(folder.path(), &manifest, None).expect("device");
        let files = device.files(&manifest.provisioning);
        files.into_iter().map(|(name, _)| name.trim_start_matches("edgepress/").to_owned()).collect()
    }

    #[test]
    fn each_source_gets_what_it_wants() {
        let est = json!({ "from": "est", "url": "https://est.example/.well-known/est" });
        let ca = json!({ "from": "https", "url": "https://pki.example/x", "ca": "ca.pem" });
        let vault = json!({ "from": "key-vault", "vault": "https://v.vault.azure.net" });
        let partition = json!({ "from": "partition" });
        for (source, overrides, expected) in [
            (&partition, true, &["certificate.pem", "private-key.pem", "ca/simulator.pem"][..]),
            (&partition, false, &["certificate.pem", "private-key.pem"]),
            (&est, true, &["bootstrap-certificate.pem", "bootstrap-key.pem", "ca/simulator.pem"]),
            (
                &ca,
                true,
                &["bootstrap-certificate.pem", "bootstrap-key.pem", "ca/simulator.pem", "source-ca.pem"],
            ),
            (&vault, true, &["ca/simulator.pem"]),
            (&vault, false, &[]),
        ] {
            let found = names(source, overrides);
            assert_eq!(found[0], "registration-id");
            assert_eq!(found[1..], *expected, "{source}");
            let kept = ["registration-id", "ca/simulator.pem", "source-ca.pem"];
            assert!(
                found.iter().all(|name| kept.contains(&name.as_str()) || CONSUMED.contains(&name.as_str()))
            );
        }
    }

    #[test]
    fn what_cannot_be_simulated() {
        let folder = tempfile::tempdir().expect("temp dir");
        let arc = json!({ "from": "key-vault", "vault": "https://v.example", "token": "arc" });
        let error =
            Device::create(folder.path(), &manifest(&arc, true), None).map(drop).expect_err("refused");
        assert!(error.to_string().contains("an Arc agent's tokens"), "{error}");
        for (source, end) in [
            (json!({ "from": "tpm" }), Milestone::FirstBoot),
            (json!({ "from": "symmetric-key" }), Milestone::FirstBoot),
            (json!({ "from": "partition" }), Milestone::AgentRunning),
        ] {
            assert_eq!(goal(&manifest(&source, true).provisioning), end, "{source}");
        }
        assert_eq!(names(&json!({ "from": "symmetric-key" }), false)[1..], ["symmetric-key"]);
    }

    #[test]
    fn who_is_asked() {
        let of = |source: serde_json::Value| manifest(&source, true).provisioning;
        let vault = of(json!({ "from": "key-vault", "vault": "https://v.vault.azure.net" }));
        let found: Vec<_> =
            servers(&vault).into_iter().map(|(service, url)| format!("{service} {url}")).collect();
        assert_eq!(found, ["vault https://v.vault.azure.net", "token https://login.microsoftonline.com"]);
        assert!(installed_by_first_boot(&vault));
        let est = of(json!({ "from": "est", "url": "https://est.example/.well-known/est" }));
        assert_eq!(servers(&est).len(), 1);
        assert!(!installed_by_first_boot(&est));
        assert!(servers(&of(json!({ "from": "partition" }))).is_empty());
    }
}
