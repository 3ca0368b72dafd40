//! What is deployed: a gallery with the image in it, and a VM made of that, which reads its certificate from a vault.
//!
//! ```text
//! disk (uploaded) ─► gallery / image definition / version ─► VM ─ system-assigned identity ─► role on the vault
//!                          network: no way in, out by a NAT gateway ──┘
//! ```
//! Types, properties and API versions: <https://learn.microsoft.com/azure/templates/>.

use super::facts::Facts;
use super::model::{Deployment, Parameter, Resource, Value};
use crate::units::Arch;

const COMPUTE: &str = "2024-07-01";
const DISKS: &str = "2024-03-02";
const GALLERIES: &str = "2024-03-03";
const NETWORK: &str = "2024-05-01";
const VAULTS: &str = "2023-07-01";
const ROLES: &str = "2022-04-01";

/// "Key Vault Secrets User", in every subscription.
const SECRETS_USER: &str = "4633458b-17de-408a-b874-0445c86b69e6";

/// Smallest system disk, GiB: containers need room, and smaller ones cost the same.
const DISK_LEAST: i64 = 32;

/// The deployment for an image.
pub(super) fn deployment(facts: &Facts) -> Deployment {
    let mut resources = image(facts);
    resources.extend(network());
    resources.push(machine(facts));
    if facts.vault.is_some() {
        resources.extend(vault());
    }
    let principal = Value::Principal("machine");
    Deployment {
        title: format!("{}: gallery, image version and a VM.", facts.name),
        parameters: parameters(facts),
        resources,
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
    ];
    if let Some(vault) = &facts.vault {
        all.push(text(
            "vaultName",
            "The key vault with the devices' certificates, in this resource group.",
            vault,
        ));
    }
    all
}

fn disk_size(facts: &Facts) -> i64 {
    let gib = facts.vhd.as_ref().map_or(0, |vhd| vhd.virtual_size.div_ceil(1 << 30));
    i64::try_from(gib).unwrap_or(DISK_LEAST).max(DISK_LEAST)
}

fn resource(
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

fn with(mut resource: Resource, fields: Vec<(&'static str, Value)>) -> Resource {
    resource.fields.extend(fields);
    resource
}

fn child(resource: Resource, parent: &'static str) -> Resource {
    Resource { parent: Some(parent), ..resource }
}

fn existing(resource: Resource) -> Resource {
    Resource { existing: true, fields: Vec::new(), ..resource }
}

fn text(text: &str) -> Value {
    Value::text(text)
}

/// `vmName` and what follows it.
fn of_vm(suffix: &str) -> Value {
    Value::Joined(vec![Value::Parameter("vmName"), text(suffix)])
}

fn properties(all: Vec<(&'static str, Value)>) -> Vec<(&'static str, Value)> {
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
        ("hyperVGeneration", text("V2")),
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

/// The loaders and the kernel are the distribution's signed ones, so an x64 image boots with secure boot on. For Arm
/// processors nothing is said.
fn trusted_launch(facts: &Facts) -> bool {
    facts.arch == Arch::X86_64
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

fn network() -> Vec<Resource> {
    let rule = |name: &str, of: Vec<(&'static str, Value)>| {
        Value::Object(vec![("name", text(name)), ("properties", Value::Object(of))])
    };
    let nothing_in = rule(
        "nothing-in",
        vec![
            ("description", text("A device calls; nobody calls it")),
            ("direction", text("Inbound")),
            ("access", text("Deny")),
            ("priority", Value::Number(4096)),
            ("protocol", text("*")),
            ("sourceAddressPrefix", text("*")),
            ("sourcePortRange", text("*")),
            ("destinationAddressPrefix", text("*")),
            ("destinationPortRange", text("*")),
        ],
    );
    let guard = with(
        resource(
            "guard",
            "Microsoft.Network/networkSecurityGroups",
            NETWORK,
            text("edgepress-guard"),
            "No way in",
        ),
        properties(vec![("securityRules", Value::List(vec![nothing_in]))]),
    );
    let standard = || Value::Object(vec![("name", text("Standard"))]);
    let address = with(
        resource(
            "address",
            "Microsoft.Network/publicIPAddresses",
            NETWORK,
            text("edgepress-out"),
            "The address that devices are seen with; of the gateway, not of a VM",
        ),
        [vec![("sku", standard())], properties(vec![("publicIPAllocationMethod", text("Static"))])].concat(),
    );
    let addresses = Value::List(vec![Value::reference(Value::Id("address"))]);
    let out = with(
        resource(
            "out",
            "Microsoft.Network/natGateways",
            NETWORK,
            text("edgepress-nat"),
            "The way out: new networks have none of their own",
        ),
        [
            vec![("sku", standard())],
            properties(vec![("publicIpAddresses", addresses), ("idleTimeoutInMinutes", Value::Number(10))]),
        ]
        .concat(),
    );
    let subnet = rule(
        "devices",
        vec![
            ("addressPrefix", text("10.60.0.0/24")),
            ("defaultOutboundAccess", Value::Bool(false)),
            ("networkSecurityGroup", Value::reference(Value::Id("guard"))),
            ("natGateway", Value::reference(Value::Id("out"))),
        ],
    );
    let space = Value::Object(vec![("addressPrefixes", Value::List(vec![text("10.60.0.0/16")]))]);
    let net = with(
        resource(
            "network",
            "Microsoft.Network/virtualNetworks",
            NETWORK,
            text("edgepress-network"),
            "Apart from docker's own 172.17.0.0/16",
        ),
        properties(vec![("addressSpace", space), ("subnets", Value::List(vec![subnet]))]),
    );
    let subnet = Value::Joined(vec![Value::Id("network"), text("/subnets/devices")]);
    let configuration = rule(
        "private",
        vec![("privateIPAllocationMethod", text("Dynamic")), ("subnet", Value::reference(subnet))],
    );
    let adapter = with(
        resource(
            "adapter",
            "Microsoft.Network/networkInterfaces",
            NETWORK,
            of_vm("-nic"),
            "The VM's only one; no public address",
        ),
        properties(vec![("ipConfigurations", Value::List(vec![configuration]))]),
    );
    vec![guard, address, out, net, adapter]
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

fn vault() -> [Resource; 2] {
    let kind = "Microsoft.KeyVault/vaults";
    let vault = resource(
        "vault",
        kind,
        VAULTS,
        Value::Parameter("vaultName"),
        "Its permissions must go by roles (RBAC)",
    );
    let name = Value::Guid(vec![Value::Id("vault"), Value::Id("machine"), text(SECRETS_USER)]);
    let comment = "The VM may read secrets. It asks again until that counts, which takes minutes";
    let role = Resource {
        scope: Some("vault"),
        fields: properties(vec![
            ("roleDefinitionId", Value::Role(SECRETS_USER)),
            ("principalId", Value::Principal("machine")),
            ("principalType", text("ServicePrincipal")),
        ]),
        ..resource("access", "Microsoft.Authorization/roleAssignments", ROLES, name, comment)
    };
    [existing(vault), role]
}
