//! A simulated Azure around the machine: what its firmware says, what lies in its drive, what it is asked at the end.
//!
//! ```text
//! SMBIOS                a chassis with Azure's asset tag, a system that calls itself Hyper-V, the VM's id
//! provisioning disc     ovf-env.xml: the VM's name and the account that it was ordered with
//! 169.254.169.254       instance metadata: the same, its keys, a token of its identity   (sim::metadata)
//! 168.63.129.16         the wireserver: a goal state, and who reports that he is ready    (sim::wireserver)
//! ```
//!
//! cloud-init's source for Azure believes it is there by the asset tag alone; the unit of Debian's agent asks systemd, which
//! goes by the system's version.

pub(crate) mod checks;
mod disc;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::sim::Metadata;
use crate::sim::log::{LogEntry, Mark};
use crate::units::Digest;

/// QEMU's `-smbios`, as Azure's machines of generation 2 describe themselves; by the asset tag cloud-init knows one
/// (`sources/helpers/azure.py`). The system's UUID is QEMU's own.
pub(crate) const SMBIOS: [&str; 3] = [
    "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine,version=Hyper-V UEFI Release v4.1",
    "type=2,manufacturer=Microsoft Corporation,product=Virtual Machine,version=Hyper-V UEFI Release v4.1",
    "type=3,manufacturer=Microsoft Corporation,version=Hyper-V UEFI Release v4.1,asset=7783-7084-3265-9085-8269-3286-77",
];

/// A virtual machine of the simulated Azure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Vm {
    /// Its name.
    pub name: String,
    /// Its id: what its firmware says, too.
    pub id: String,
    /// The account that it was ordered with.
    pub admin: String,
    /// That account's public key, to which nobody has the private one.
    pub key: String,
}

impl Vm {
    /// One whose id is the machine's.
    pub(crate) fn new(id: &str) -> Self {
        let short: String = id.chars().take(8).collect();
        let name = format!("edgepress-test-{short}");
        let key = public_key(id, &name);
        Self { name, id: id.to_owned(), admin: "azureuser".into(), key }
    }

    /// As instance metadata tells it.
    pub(crate) fn metadata(&self) -> Metadata {
        Metadata {
            vm_name: self.name.clone(),
            vm_id: self.id.clone(),
            admin_user: self.admin.clone(),
            public_keys: vec![self.key.clone()],
            ..Metadata::default()
        }
    }

    /// Writes the provisioning disc into a folder and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn disc(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("provisioning.iso");
        let image = disc::image("OVF-ENV.XML", self.ovf_env().as_bytes())?;
        fs::write(&path, image).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// `ovf-env.xml`, as cloud-init and the agent read it. Keys come by instance metadata.
    fn ovf_env(&self) -> String {
        let Self { name, admin, .. } = self;
        format!(
            "\
<?xml version=\"1.0\" encoding=\"utf-8\"?>
<Environment xmlns=\"http://schemas.dmtf.org/ovf/environment/1\" xmlns:wa=\"http://schemas.microsoft.com/windowsazure\">
  <wa:ProvisioningSection>
    <wa:Version>1.0</wa:Version>
    <LinuxProvisioningConfigurationSet xmlns=\"http://schemas.microsoft.com/windowsazure\">
      <ConfigurationSetType>LinuxProvisioningConfiguration</ConfigurationSetType>
      <HostName>{name}</HostName>
      <UserName>{admin}</UserName>
      <DisableSshPasswordAuthentication>true</DisableSshPasswordAuthentication>
    </LinuxProvisioningConfigurationSet>
  </wa:ProvisioningSection>
  <wa:PlatformSettingsSection>
    <wa:Version>1.0</wa:Version>
    <PlatformSettings xmlns=\"http://schemas.microsoft.com/windowsazure\">
      <KmsServerHostname>kms.core.windows.net</KmsServerHostname>
      <ProvisionGuestAgent>true</ProvisionGuestAgent>
      <GuestAgentPackageName/>
    </PlatformSettings>
  </wa:PlatformSettingsSection>
</Environment>
"
        )
    }
}

/// An Ed25519 key in OpenSSH's form (RFC 8709), made of a seed: it is only ever compared.
fn public_key(seed: &str, comment: &str) -> String {
    const KIND: &str = "ssh-ed25519";
    // 32 bytes of which nobody knows the logarithm.
    let Digest(point) = Digest::of(seed);
    let mut blob = Vec::new();
    for part in [KIND.as_bytes(), &point] {
        blob.extend(u32::try_from(part.len()).unwrap_or_default().to_be_bytes());
        blob.extend(part);
    }
    format!("{KIND} {} {comment}", STANDARD.encode(blob))
}

/// cloud-init's very last words on the console, by its module `final-message`.
const FINISHED: [&str; 2] = ["Cloud-init v. ", " finished at "];
/// What systemd says when cloud-init's last process has ended, newer and older than version 250. Only then its result is
/// on the disk.
const ENDED: [&str; 2] = ["Reached target cloud-init.target", "Reached target Cloud-init target"];
/// How many seconds after its last words that is at the latest, where systemd is told to be quiet.
const WRITING: f64 = 30.0;

/// What a VM does besides being provisioned, as far as it has been seen.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    vm_ready: bool,
    agent_ready: bool,
    /// Seconds since power-on from which cloud-init's result is taken to be on the disk.
    written: Option<f64>,
}

impl Awaited {
    /// Takes a request to the simulators.
    pub(crate) fn entry(&mut self, entry: &LogEntry) {
        self.vm_ready |= entry.mark == Some(Mark::VmReady);
        self.agent_ready |= entry.mark == Some(Mark::AgentReady);
    }

    /// Takes a line of the console, which came so many seconds after power-on.
    pub(crate) fn line(&mut self, line: &str, at: f64) {
        if ENDED.iter().any(|words| line.contains(words)) {
            self.written = Some(at);
        } else if FINISHED.iter().all(|words| line.contains(words)) {
            self.written.get_or_insert(at + WRITING);
        }
    }

    /// When it will all have been seen, in seconds since power-on; nothing as long as that is not known.
    pub(crate) fn due(&self) -> Option<f64> {
        self.written.filter(|_| self.vm_ready && self.agent_ready)
    }
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::{Awaited, Vm};
    use crate::sim::log::LogEntry;

    const ID: &str = "5f1c6f0a-9d3e-4b52-8a57-0c2d9e6b7a41";

    #[test]
    fn a_vm() {
        let vm = Vm::new(ID);
        assert_eq!(vm.name, "edgepress-test-5f1c6f0a");
        assert!(vm.key.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"), "{}", vm.key);
        assert_ne!(vm.key, Vm::new("other").key);
        let text = vm.ovf_env();
        let document = Document::parse(&text).expect("XML");
        for (name, value) in [("HostName", vm.name.as_str()), ("UserName", "azureuser")] {
            let of = "http://schemas.microsoft.com/windowsazure";
            let node = document.descendants().find(|node| node.has_tag_name((of, name))).expect(name);
            assert_eq!(node.text(), Some(value));
        }
    }

    #[test]
    fn what_is_waited_for() {
        let mut awaited = Awaited::default();
        let entry = |mark: &str| -> LogEntry {
            serde_json::from_value(serde_json::json!({
                "seconds": 1.0, "time": "", "service": "wireserver", "peer": "10.0.2.15:1000", "what": "POST /machine",
                "status": 200, "mark": mark,
            }))
            .expect("an entry")
        };
        awaited.entry(&entry("vm-ready"));
        let version = "cloud-init[700]: Cloud-init v. 22.4.2-1+deb12u4";
        awaited.line(&format!("[   60.1] {version} running 'modules:final' at Sun"), 60.0);
        awaited.entry(&entry("secret-read"));
        awaited.entry(&entry("agent-ready"));
        assert_eq!(awaited.due(), None);
        awaited.line(&format!("[   61.7] {version} finished at Sun, 22 Nov 2026"), 62.0);
        assert_eq!(awaited.due(), Some(92.0), "its result is not on the disk yet");
        awaited.line("[   63.0] [  OK  ] Reached target cloud-init.target - Cloud-init target.", 63.0);
        assert_eq!(awaited.due(), Some(63.0));
        awaited.line(&format!("[   61.7] {version} finished at Sun, 22 Nov 2026"), 64.0);
        assert_eq!(awaited.due(), Some(63.0), "said once more");
        assert_eq!(Awaited { vm_ready: false, ..awaited }.due(), None);
    }
}
