//! First boot on the host: how a device is called by what its machine tells, and what a machine tells in place of that.

use crate::support::device::{Device, say_in_shells, shells};
use crate::support::servers::{FAT, World, assert_sound, lint_errors};

const VAULT: &str = "from = \"key-vault\"\nvault = \"https://localhost:{vault}\"\nname = \"edge-{{ registration_id }}\"\n\
                     registration_id = \"ID\"\n";

/// As firmware and inventories show them.
const FILLER: &[&str] = &[
    "",
    "0",
    "1",
    "0000-0000",
    "None",
    "To Be Filled By O.E.M.",
    "To be filled by O.E.M. by More String",
    "System Serial Number",
    "Not Specified",
    "Default string",
    "Not Available",
    "Not Provided",
    "OEM",
    "O.E.M.",
    "Serial Number",
    "System Serial#",
    "FFFFFFFF",
    "12345678",
    "NA",
    "N/A",
    "Default",
    "Empty",
    "TBD",
    "Null",
    "(null string)",
    "No Asset Tag",
    "0x00000000",
    "0xFFFFFFFF",
    "0123456789",
    "1234567890",
    "123456789",
    "12345",
    "1234",
    "0123456789ABCDEF",
    "123456789ABCDEF",
    "abcdefghijkl",
    "9876543210",
    "987654321",
    "11223344",
    "1122334455667788",
    "00112233-4455-6677-8899-aabbccddeeff",
    "01010101-0101-0101-0101-010101010101",
    "11111111-2222-3333-4444-555555555555",
    "00000000-0000-0000-0000-000000000000",
    "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    "DEADBEEF-DEAD-BEEF-DEAD-BEEFDEADBEEF",
    "00010203-0405-0607-0809-0A0B0C0D0E0F",
    "fefefefe-fefe-fefe-fefe-fefefefefefe",
    "12345678-1234-5678-1234-567812345678",
    "12345678-1234-1234-1234-123456789012",
    "xxxxxxxxxxx",
    "NNNNNNN",
    "SYS-1234567890",
    "SYS-9876543210",
    "SN-12345",
    "MB-1234567890",
    "SSN12345678901234567",
    "BSN12345678901234567890",
    "123456789000",
    "12345678901234567",
    "EVAL",
    "IATPASS",
    "Unknow",
    "Unknown",
    "OEM_Serial",
    "SystemSerialNumb",
    "Serial Number xxxxxx",
    "Chassis Serial Number",
    "Base Board Serial Number",
    "Default_string",
    "........",
    "----",
    "???",
    "*",
    "Invalid",
    ".",
    "1.0",
    "v1.2.3",
    "Not Applicable",
    "Not Applicable.",
    "Not Set",
    "S/N 0000000",
    "SN:00000000",
    "AAAAAAAA",
    "77777777",
    "Test",
    "INVALID!",
    "Undefined",
    "unspecified",
    "To Be Filled",
    "X",
    "Fill by OEM",
    "Reserved",
    "Filled By Customer",
    "Standard",
    "none!",
    "No Serial Number",
    "Serial Number Not Available",
    "N.A.",
    "<None>",
    "[not set]",
    "Default-String",
    " ",
    "Not Found",
    "No Data",
    "Product Serial Number",
    "ffff",
    "0x0",
    "0x12345678",
    "Not defined",
    "No SN",
];

const SERIALS: &[&str] = &[
    "10000000abcdef01",
    "100000003d2c1a01",
    "00000000deadbe01",
    "SN 42/7",
    "A/1",
    "A-1",
    "VMware-56 4d 91 6f 5a 8c e5 9e-8c 5c 52 0d d1 8a 57 20",
    "4281-5736-9911-0382-6643-1198-28",
    "5f1c6f0a-9d3e-4b52-8a57-0c2d9e6b7a41",
    "4c4c4544-0042-3510-8052-b3c04f4b4e32",
    "C02MH5Y2F5V7",
    "PF2ABCDE",
    "5CG1234ABC",
    "CZC1234567",
    "0001",
    "0042",
    "42",
    "23",
    "101",
    "2001",
    "SN-0042",
    "MB-0815",
    "PUMP-7",
    "S1",
    "A1",
    "B7",
    "MXL0123456",
    "/7XJ3KH2/CN1296342G00BA/",
    ".7XJ3KH2.CN1296342G00BA.",
    "VM-1234",
    "GTX1060",
    "1Z999",
    "20230001",
    "12345679",
    "MSN",
    "NM",
    "dev-01",
    "R90ABCDE",
    "1102ABCF0001",
    "J30AEC",
];

fn interface(device: &Device, name: &str, address: &str, assigned: &str) {
    let folder = format!("sys/class/net/{name}");
    device.write(&format!("{folder}/device/.keep"), "");
    device.write(&format!("{folder}/address"), format!("{address}\n"));
    device.write(&format!("{folder}/addr_assign_type"), format!("{assigned}\n"));
}

/// A device that is named by a template, and needs no server.
fn named_by(template: &str) -> Device {
    let device = Device::new();
    let text = format!("from = \"tpm\"\nregistration_id = \"{template}\"\n");
    device.write(&format!("{FAT}/source.toml"), text);
    device.write("world/owner", "aziottpm 660\n");
    device.write("dev/tpmrm0", "");
    device
}

fn registration_id(device: &Device) -> String {
    device.run();
    let config = device.read("etc/aziot/config.toml");
    assert_eq!(lint_errors(&config), Vec::<String>::new(), "{config}");
    let id = device.state()["registration_id"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(config.contains(&format!("registration_id = \"{id}\"")), "{config}");
    id
}

fn with_serial(serial: &str) -> Device {
    let device = named_by("{{ serial }}");
    device.write("sys/class/dmi/id/product_serial", format!("{serial}\n"));
    device
}

#[test]
fn names_come_from_the_machine() {
    let world = World::new();
    for (template, expected) in [
        ("{{ serial }}", "10000000abcdef01"),
        ("gw-{{mac}}", "gw-dca632000001"),
        ("{{ vm_name }}", "edge-vm"),
        ("vm-{{ vm_id }}", "vm-5f1c6f0a-9d3e-4b52-8a57-0c2d9e6b7a41"),
    ] {
        let device = world.device(vec!["sh".into()]);
        device.write("proc/device-tree/serial-number", b"10000000abcdef01\0");
        interface(&device, "eth0", "02:11:22:33:44:55", "1");
        interface(&device, "eth1", "DC:A6:32:00:00:01", "0");
        interface(&device, "wlan0", "dc:a6:32:00:00:02", "0");
        world.source(&device, &VAULT.replace("ID", template));
        device.run();
        assert_sound(&device, expected, &world);
    }
}

#[test]
fn what_stands_in_a_number_s_place_is_known() {
    let judge = "while IFS= read -r text; do if is_filler \"$text\"; then echo none; else echo one; fi; done";
    for (texts, expected) in [(FILLER, "none"), (SERIALS, "one")] {
        let judged = say_in_shells(&["machine"], judge, texts.join("\n") + "\n");
        let judged: Vec<_> = texts.iter().zip(judged.lines()).filter(|(_, said)| *said != expected).collect();
        assert_eq!(judged, [], "not {expected}");
    }
}

/// It is refused until a person names the device, and the next source of a serial number is asked.
#[test]
fn what_vendors_leave_instead_of_a_serial_number_is_refused() {
    for (text, shown) in
        [("", ""), ("Default string", ": 'Default string' is none"), ("FFFFFFFF", ": 'FFFFFFFF' is none")]
    {
        let device = with_serial(text);
        device.write("proc/device-tree/serial-number", b"0000000000000000\0");
        device.remove("proc/device-tree/serial-number");
        let mut running = device.start();
        running.until(&format!(
            "refused: no registration id: the machine has no serial number of its own (device tree, DMI){shown}; \
             put a file registration-id into edgepress/ on the FAT partition\n"
        ));
        device.write(&format!("{FAT}/registration-id"), "pump-7\n");
        assert!(running.end().success(), "{}", device.story());
        assert_eq!(device.state()["registration_id"], "pump-7");
    }
    let device = with_serial("To be filled by O.E.M.");
    device.write("sys/class/dmi/id/board_serial", "PF2ABCDE\n");
    assert_eq!(registration_id(&device), "PF2ABCDE");
}

/// Of what a name cannot hold nothing is lost, and a name that is one stays as it is.
#[test]
fn names_that_were_changed_still_differ() {
    let ids: Vec<String> = ["A/1", "A-1", "A1", "A 1", "A1-", "A_1", "-A1", "A1.", ".A1", "\u{e9}A1"]
        .into_iter()
        .map(|serial| registration_id(&with_serial(serial)))
        .collect();
    // printf %s A/1 | sha256sum
    assert_eq!(ids[..6], ["A1-a5b3d27a72bc", "A-1", "A1", "A1-937bb40e8164", "A1-", "A_1"]);
    let mut known = ids.clone();
    known.sort_unstable();
    known.dedup();
    assert_eq!(known.len(), ids.len(), "{ids:?}");
    // The longest serial number that is known fits a certificate's common name beside ten characters.
    let long = registration_id(&with_serial("VMware-56 4d 91 6f 5a 8c e5 9e-8c 5c 52 0d d1 8a 57 20"));
    assert!(long.starts_with("VMware-564d916f5a8ce59e-8c5c520dd18a5720-") && long.len() <= 54, "{long}");
}

#[test]
fn a_registration_id_that_dps_takes_is_taken_as_it_is() {
    for id in ["pump-", "_pump", "Pump:7"] {
        let device = named_by("{{ serial }}");
        device.write(&format!("{FAT}/registration-id"), format!("{id}\n"));
        assert_eq!(registration_id(&device), id);
    }
    for id in ["pump_", "-pump", ".pump", "pump/7"] {
        let device = named_by("{{ serial }}");
        device.write(&format!("{FAT}/registration-id"), format!("{id}\n"));
        device.start().until(&format!("refused: registration id '{id}' is none that DPS accepts"));
    }
}

#[test]
fn an_address_that_no_interface_has_is_passed_over() {
    for address in [
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
        "01:00:5e:00:00:01",
        "33:33:00:00:00:01",
        "00:a0:c6:00:00:00",
        "fe:ff:ff:ff:ff:ff",
        "00:11:22:33:44:55",
        "12:34:56:78:9a:bc",
        "aa:bb:cc:dd:ee:ff",
        "00:01:02:03:04:05",
        "0c:5b:8f:27:9a:64",
        "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:11:22:33",
    ] {
        let device = named_by("{{ mac }}");
        interface(&device, "eth0", address, "0");
        interface(&device, "wwan0", "dc:a6:32:00:00:09", "0");
        let mut running = device.start();
        running.until(&format!(
            "refused: no registration id: the machine has no interface with an address of its own: '{address:.30}' is \
             none; put a"
        ));
        drop(running);
        interface(&device, "wlan0", "dc:a6:32:00:00:01", "0");
        assert_eq!(registration_id(&device), "dca632000001", "{address}");
    }
}

/// A hypervisor's, or one made of the processor's number: taken where there is no other.
#[test]
fn an_address_that_somebody_administers_himself_comes_last() {
    let device = named_by("{{ mac }}");
    interface(&device, "eth0", "52:54:00:ab:cd:01", "0");
    assert_eq!(registration_id(&device), "525400abcd01");
    let device = named_by("{{ mac }}");
    interface(&device, "eth0", "52:54:00:ab:cd:01", "0");
    interface(&device, "wlan0", "dc:a6:32:00:00:01", "0");
    assert_eq!(registration_id(&device), "dca632000001");
}

#[test]
fn ids_that_many_machines_have_are_none() {
    for id in [
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
    ] {
        let world = World::with(|config| config.metadata.vm_id = id.into());
        let device = world.device(shells().swap_remove(0));
        world.source(&device, &VAULT.replace("ID", "vm-{{ vm_id }}"));
        device.start().until(&format!(
            "refused: no registration id: the VM has no id of its own (instance metadata): '{id:.30}' is none; put a"
        ));
    }
}
