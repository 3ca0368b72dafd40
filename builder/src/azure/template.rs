//! What is deployed: a gallery with the image in it, and a VM made of that, which reads its certificate from a vault.
//!
//! ```text
//! disk (uploaded) ─► gallery / image definition / version ─► VM ─ system-assigned identity ─► role on its secret
//!                          network: no way in, out by a NAT gateway ──┘
//! ```
//! Types, properties and API versions: <https://learn.microsoft.com/azure/templates/>.

use super::facts::Facts;
use super::model::{Deployment, Parameter, Resource, Value};
use super::network::{self, network};
use super::vault;
use crate::units::Arch;

const COMPUTE: &str = "2024-07-01";
const DISKS: &str = "2024-03-02";
const GALLERIES: &str = "2024-03-03";

/// Smallest system disk, GiB: containers need room, and smaller ones cost the same.
const DISK_LEAST: i64 = 32;

/// The deployment for an image.
pub(super) fn deployment(facts: &Facts) -> Deployment {
    let mut resources = image(facts);
    resources.extend(network());
    resources.push(machine(facts));
    let principal = Value::Principal("machine");
    Deployment {
        title: format!("{}: gallery, image version and a VM.", facts.name),
        parameters: parameters(facts),
        resources,
        modules: facts.vault.iter().map(|_| vault::access()).collect(),
        outputs: vec![("imageVersionId", Value::Id("version")), ("principalId", principal)],
    }
}

fn parameters(facts: &Facts) -> Vec<Parameter> {
    let names = &facts.names;
    let size = match facts.arch {
        Arch::X86_64 => "Standard_B2s_v2",
        Arch::Aarch64 => "Standard_B2pls_v2",
    };
    let text = |name, description, value: &str| Parameter {
        name,
        kind: "string",
        description,
        default: Some(Value::text(value)),
    };
    let mut all = vec![
        Parameter {
            name: "location",
            kind: "string",
            description: "Where everything is made.",
            default: Some(Value::GroupLocation),
        },
        text("diskName", "The managed disk that upload.sh made of the VHD.", &names.disk),
        text("galleryName", "The gallery.", &names.gallery),
        text("imageName", "The image definition in the gallery.", &names.image),
        text("imageVersion", "The version of the image: three numbers.", &facts.version.to_string()),
        text("vmName", "The VM, and its host name: letters, digits and hyphens.", &names.vm),
        text("vmSize", "The VM's size; of the image's architecture.", size),
        Parameter {
            name: "osDiskSizeGB",
            kind: "int",
            description: "Size of the VM's disk; the root grows to it at first boot.",
            default: Some(Value::Number(disk_size(facts))),
        },
        text("adminUsername", "The account that cloud-init makes.", "azureuser"),
        Parameter {
            name: "sshPublicKey",
            kind: "string",
            description: "Its public key, in OpenSSH's form. There is no password.",
            default: None,
        },
        network::parameter(),
    ];
    if let Some(vault) = &facts.vault {
        all.push(text(
            "vaultName",
            "The key vault with the devices' certificates, in this resource group.",
            vault,
        ));
        all.push(Parameter {
            name: "secretName",
            kind: "string",
            description: "The VM's own secret in it, which is all that it may read.",
            default: vault::secret(facts),
        });
    }
    all
}

fn disk_size(facts: &Facts) -> i64 {
    let gib = facts.vhd.as_ref().map_or(0, |vhd| vhd.virtual_size.div_ceil(1 << 30));
    i64::try_from(gib).unwrap_or(DISK_LEAST).max(DISK_LEAST)
}

/// A resource where everything is; the fields are added to its place.
pub(super) fn resource(
    symbol: &'static str,
    kind: &'static str,
    api: &'static str,
    name: Value,
    comment: &'static str,
) -> Resource {
    Resource {
        symbol,
        kind,
        api,
        name,
        parent: None,
        scope: None,
        existing: false,
        fields: vec![("location", Value::Parameter("location"))],
        comment,
    }
}

/// With more at its top.
pub(super) fn with(mut resource: Resource, fields: Vec<(&'static str, Value)>) -> Resource {
    resource.fields.extend(fields);
    resource
}

/// A part of another resource.
pub(super) fn child(resource: Resource, parent: &'static str) -> Resource {
    Resource { parent: Some(parent), ..resource }
}

/// One that is there already.
pub(super) fn existing(resource: Resource) -> Resource {
    Resource { existing: true, fields: Vec::new(), ..resource }
}

/// Text as it is.
pub(super) fn text(text: &str) -> Value {
    Value::text(text)
}

/// `vmName` and what follows it.
pub(super) fn of_vm(suffix: &str) -> Value {
    Value::Joined(vec![Value::Parameter("vmName"), text(suffix)])
}

/// What a resource is.
pub(super) fn properties(all: Vec<(&'static str, Value)>) -> Vec<(&'static str, Value)> {
    vec![("properties", Value::Object(all))]
}

fn image(facts: &Facts) -> Vec<Resource> {
    let kind = "Microsoft.Compute/disks";
    let disk = resource("disk", kind, DISKS, Value::Parameter("diskName"), "What upload.sh made");
    let kind = "Microsoft.Compute/galleries";
    let gallery = resource(
        "gallery",
        kind,
        GALLERIES,
        Value::Parameter("galleryName"),
        "Holds images and their versions",
    );
    let gallery = with(gallery, properties(vec![("description", text("Images made by edgepress"))]));
    let kind = "Microsoft.Compute/galleries/images";
    let comment = "What all versions of this image have in common";
    let definition = resource("definition", kind, GALLERIES, Value::Parameter("imageName"), comment);
    let architecture = match facts.arch {
        Arch::X86_64 => "x64",
        Arch::Aarch64 => "Arm64",
    };
    let mut of = vec![
        ("description", text(&facts.description)),
        ("osType", text("Linux")),
        // Generalised: each VM is given its name and account, and has no identity before.
        ("osState", text("Generalized")),
        ("hyperVGeneration", text(&format!("V{}", facts.generation))),
        ("architecture", text(architecture)),
        (
            "identifier",
            Value::Object(vec![
                ("publisher", text(&facts.names.publisher)),
                ("offer", text("edgepress")),
                ("sku", text(&facts.names.sku)),
            ]),
        ),
    ];
    if trusted_launch(facts) {
        let feature = [("name", text("SecurityType")), ("value", text("TrustedLaunchSupported"))];
        of.push(("features", Value::List(vec![Value::Object(feature.to_vec())])));
    }
    let definition = child(with(definition, properties(of)), "gallery");
    vec![existing(disk), gallery, definition, version()]
}

/// The loaders and the kernel are the distribution's signed ones, so an x64 image boots with secure boot on, which
/// machines of generation 2 have. For Arm processors nothing is said.
pub(super) fn trusted_launch(facts: &Facts) -> bool {
    facts.arch == Arch::X86_64 && facts.generation == 2
}

fn version() -> Resource {
    let kind = "Microsoft.Compute/galleries/images/versions";
    let version = resource(
        "version",
        kind,
        GALLERIES,
        Value::Parameter("imageVersion"),
        "This image, in this region alone",
    );
    let region = [("name", Value::Parameter("location")), ("regionalReplicaCount", Value::Number(1))];
    let publishing = vec![
        ("replicaCount", Value::Number(1)),
        ("storageAccountType", text("Standard_LRS")),
        ("targetRegions", Value::List(vec![Value::Object(region.to_vec())])),
    ];
    let source = Value::reference(Value::Id("disk"));
    let os_disk = Value::Object(vec![("source", source), ("hostCaching", text("ReadOnly"))]);
    let of = vec![
        ("publishingProfile", Value::Object(publishing)),
        ("storageProfile", Value::Object(vec![("osDiskImage", os_disk)])),
    ];
    child(with(version, properties(of)), "definition")
}

fn machine(facts: &Facts) -> Resource {
    let kind = "Microsoft.Compute/virtualMachines";
    let machine = resource("machine", kind, COMPUTE, Value::Parameter("vmName"), "The device");
    let object = |all: &[(&'static str, Value)]| Value::Object(all.to_vec());
    let disk = object(&[
        ("createOption", text("FromImage")),
        ("caching", text("ReadWrite")),
        ("diskSizeGB", Value::Parameter("osDiskSizeGB")),
        ("managedDisk", object(&[("storageAccountType", text("StandardSSD_LRS"))])),
        ("deleteOption", text("Delete")),
    ]);
    let path = [text("/home/"), Value::Parameter("adminUsername"), text("/.ssh/authorized_keys")];
    let key =
        object(&[("path", Value::Joined(path.to_vec())), ("keyData", Value::Parameter("sshPublicKey"))]);
    let linux = object(&[
        ("disablePasswordAuthentication", Value::Bool(true)),
        ("provisionVMAgent", Value::Bool(true)),
        ("ssh", object(&[("publicKeys", Value::List(vec![key]))])),
    ]);
    let person = object(&[
        ("computerName", Value::Parameter("vmName")),
        ("adminUsername", Value::Parameter("adminUsername")),
        ("linuxConfiguration", linux),
    ]);
    let adapter = object(&[
        ("id", Value::Id("adapter")),
        ("properties", object(&[("primary", Value::Bool(true)), ("deleteOption", text("Delete"))])),
    ]);
    let image = Value::reference(Value::Id("version"));
    let mut of = vec![
        ("hardwareProfile", object(&[("vmSize", Value::Parameter("vmSize"))])),
        ("storageProfile", object(&[("imageReference", image), ("osDisk", disk)])),
        ("osProfile", person),
        ("networkProfile", object(&[("networkInterfaces", Value::List(vec![adapter]))])),
        // The serial console, on which first boot says what it waits for.
        ("diagnosticsProfile", object(&[("bootDiagnostics", object(&[("enabled", Value::Bool(true))]))])),
    ];
    if trusted_launch(facts) {
        let firmware =
            object(&[("secureBootEnabled", Value::Bool(true)), ("vTpmEnabled", Value::Bool(true))]);
        of.push((
            "securityProfile",
            object(&[("securityType", text("TrustedLaunch")), ("uefiSettings", firmware)]),
        ));
    }
    let identity = object(&[("type", text("SystemAssigned"))]);
    with(machine, [vec![("identity", identity)], properties(of)].concat())
}
