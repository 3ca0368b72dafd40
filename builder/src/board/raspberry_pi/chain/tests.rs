use super::kernel::tests::{gzip, image};
use super::{Chain, RootPartition, Severity, follow};
use crate::board::raspberry_pi::config_txt::Placement;
use crate::disk::fat::FatFile;
use crate::recipe::types::Model;

const CONFIG: &str =
    "arm_64bit=1\nupstream_kernel=1\nkernel=vmlinuz\ninitramfs initrd.img followkernel\nenable_uart=1\n";
const CMDLINE: &str = "console=tty1 console=ttyS1,115200 root=PARTUUID=1a2b3c4d-02 rootwait\n";

/// A card as Debian's kernel and firmware make it, for models 3, 4 and Zero 2.
struct Card(Vec<FatFile>);

impl Card {
    fn new() -> Self {
        let mut card = Self(Vec::new());
        card.put("config.txt", CONFIG).put("cmdline.txt", CMDLINE).put("vmlinuz", image());
        card.put("initrd.img", vec![7; 2000]);
        for name in ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"] {
            card.put(name, vec![1; 100]);
        }
        for name in [
            "bcm2837-rpi-3-b",
            "bcm2837-rpi-3-b-plus",
            "bcm2837-rpi-zero-2-w",
            "bcm2711-rpi-4-b",
            "bcm2711-rpi-400",
            "bcm2711-rpi-cm4-io",
        ] {
            card.put(&format!("{name}.dtb"), vec![2; 10]);
        }
        card
    }

    fn put(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.remove(path);
        self.0.push(FatFile { path: path.into(), content: content.into() });
        self
    }

    fn remove(&mut self, path: &str) -> &mut Self {
        self.0.retain(|file| file.path != path);
        self
    }

    fn config(&mut self, more: &str) -> &mut Self {
        self.put("config.txt", format!("{CONFIG}{more}"))
    }

    fn follow(&self, model: Model) -> Chain {
        let root = RootPartition {
            number: 2,
            partitions: 2,
            partuuid: "1a2b3c4d-02".into(),
            uuid: None,
            label: None,
        };
        follow(&&self.0[..], model, Some(&root))
    }

    /// The only finding of model 3.
    fn finding(&self) -> (Severity, String) {
        let chain = self.follow(Model::Pi3);
        assert_eq!(chain.findings.len(), 1, "{:#?}", chain.findings);
        (chain.findings[0].severity, chain.findings[0].message.clone())
    }
}

#[test]
fn a_sound_card() {
    let chain = Card::new().follow(Model::Pi3);
    assert_eq!(
        chain,
        Chain {
            model: Model::Pi3,
            firmware: ["bootcode.bin", "start.elf", "fixup.dat"].map(str::to_owned).to_vec(),
            kernel: Some("vmlinuz".into()),
            initramfs: vec![("initrd.img".into(), Placement::FollowKernel)],
            device_tree: Some("bcm2837-rpi-3-b.dtb".into()),
            overlays: Vec::new(),
            parameters: Vec::new(),
            cmdline: "console=tty1 console=ttyS1,115200 root=PARTUUID=1a2b3c4d-02 rootwait".into(),
            bytes_read: (CONFIG.len() + CMDLINE.len() + 300 + 4096 + 2000 + 10) as u64,
            findings: Vec::new(),
        }
    );
    assert_eq!((chain.sound(), chain.serial_console()), (true, Some("ttyS1")));
    let chain = Card::new().follow(Model::Pi4);
    assert_eq!(chain.firmware, ["start4.elf", "fixup4.dat"]);
    assert!(chain.findings.is_empty(), "{chain:#?}");
    assert!(Card::new().follow(Model::Zero2).sound());
}

#[test]
fn a_model_that_the_kernel_does_not_know() {
    let chain = Card::new().follow(Model::Pi5);
    assert_eq!(chain.firmware, [""; 0]);
    let said: Vec<_> = chain.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        said,
        ["bcm2712-rpi-5-b.dtb is missing: the kernel's package brings no device tree for model 5"]
    );
    assert!(!chain.sound());
}

#[test]
fn every_link_that_is_missing_is_named() {
    use Severity::{Error, Warning};
    for (path, severity, message) in [
        ("bootcode.bin", Error, "the firmware's file bootcode.bin is missing"),
        ("start.elf", Error, "the firmware's file start.elf is missing"),
        ("vmlinuz", Error, "config.txt names the kernel vmlinuz, which is missing"),
        ("initrd.img", Error, "config.txt names the initramfs initrd.img, which is missing"),
        (
            "bcm2837-rpi-3-b.dtb",
            Error,
            "bcm2837-rpi-3-b.dtb or bcm2710-rpi-3-b.dtb is missing: the kernel's package brings no device tree for model 3",
        ),
        (
            "bcm2837-rpi-3-b-plus.dtb",
            Warning,
            "bcm2837-rpi-3-b-plus.dtb or bcm2710-rpi-3-b-plus.dtb is missing: 3 B+ does not boot",
        ),
        ("cmdline.txt", Error, "cmdline.txt is missing: the kernel does not learn where its root is"),
    ] {
        assert_eq!(Card::new().remove(path).finding(), (severity, message.into()));
    }
    let chain = Card::new().remove("config.txt").follow(Model::Pi3);
    assert_eq!(chain.findings[0].message, "config.txt is missing");
}

#[test]
fn a_missing_kernel_comes_with_what_is_there() {
    let chain = Card::new().config("kernel=vmlinuz-6.1\n").follow(Model::Pi3);
    assert_eq!(chain.findings[0].hint.as_deref(), Some("on the FAT partition: vmlinuz"));
}

#[test]
fn kernels_of_the_wrong_kind() {
    let message = |content: Vec<u8>| Card::new().put("vmlinuz", content).finding().1;
    assert!(
        message(vec![0; 100]).starts_with("model 3 cannot start the kernel vmlinuz: it is no arm64 kernel")
    );
    assert!(message(Vec::new()).ends_with("it is empty"));
    let mut zimage = vec![0; 100];
    zimage[36..40].copy_from_slice(&0x016f_2818_u32.to_le_bytes());
    assert!(message(zimage).ends_with("it is a 32-bit kernel"));
    assert!(Card::new().put("vmlinuz", gzip(&image())).follow(Model::Pi3).findings.is_empty());
}

#[test]
fn the_mode_must_be_64_bit() {
    let card = |config: &str| {
        let mut card = Card::new();
        card.put("config.txt", format!("upstream_kernel=1\ninitramfs initrd.img followkernel\n{config}"));
        card.put("kernel8.img", image());
        card
    };
    let message = "config.txt does not set arm_64bit=1: model 3 starts a 32-bit kernel";
    assert_eq!(card("kernel=vmlinuz\n").finding().1, message);
    assert_eq!(card("arm_64bit=0\nkernel=kernel8.img\n").finding().1, message);
    assert!(card("kernel=kernel8.img\n").follow(Model::Pi3).findings.is_empty());
    assert!(card("kernel=vmlinuz\n").follow(Model::Pi4).findings.is_empty());
    assert_eq!(card("arm_64bit=1\n").follow(Model::Zero2).kernel.as_deref(), Some("kernel8.img"));
}

#[test]
fn firmware_by_settings() {
    for (setting, model, expected) in [
        ("gpu_mem=16", Model::Pi3, ["start_cd.elf", "fixup_cd.dat"]),
        ("gpu_mem=16", Model::Pi4, ["start4cd.elf", "fixup4cd.dat"]),
        ("gpu_mem=16\nstart_x=1", Model::Pi4, ["start4x.elf", "fixup4x.dat"]),
        ("start_debug=1", Model::Zero2, ["start_db.elf", "fixup_db.dat"]),
        ("start_file=my.elf\nfixup_file=my.dat", Model::Pi4, ["my.elf", "my.dat"]),
    ] {
        let mut card = Card::new();
        card.config(setting);
        let chain = card.follow(model);
        assert_eq!(chain.findings.len(), 2, "{setting}: {chain:#?}");
        card.put(expected[0], "x").put(expected[1], "x");
        let chain = card.follow(model);
        assert!(
            chain.sound() && chain.firmware.ends_with(&expected.map(str::to_owned)),
            "{setting}: {chain:#?}"
        );
    }
}

#[test]
fn raspberry_pis_own_kernels() {
    let mut card = Card::new();
    card.put("cmdline.txt", CMDLINE.replace("ttyS1", "serial0"));
    card.put("config.txt", "arm_64bit=1\nauto_initramfs=1\ndtparam=audio=on\ndtoverlay=vc4-kms-v3d\n");
    card.put("kernel8.img", gzip(&image())).put("initramfs8", "x").put("overlays/vc4-kms-v3d.dtbo", "x");
    card.put("kernel_2712.img", image()).put("initramfs_2712", "y");
    for name in [
        "bcm2710-rpi-3-b",
        "bcm2710-rpi-3-b-plus",
        "bcm2712-rpi-5-b",
        "bcm2712-rpi-500",
        "bcm2712-rpi-cm5-cm5io",
    ] {
        card.put(&format!("{name}.dtb"), "x");
    }
    let chain = card.follow(Model::Pi5);
    assert!(chain.findings.is_empty(), "{chain:#?}");
    assert_eq!(chain.kernel.as_deref(), Some("kernel_2712.img"));
    assert_eq!(chain.initramfs, [("initramfs_2712".into(), Placement::FollowKernel)]);
    assert_eq!(chain.serial_console(), Some("ttyAMA10"));
    let chain = card.follow(Model::Pi3);
    assert!(chain.findings.is_empty(), "{chain:#?}");
    assert_eq!(chain.initramfs[0].0, "initramfs8");
    assert_eq!(chain.device_tree.as_deref(), Some("bcm2710-rpi-3-b.dtb"));
    assert_eq!(
        (chain.overlays, chain.parameters),
        (vec!["overlays/vc4-kms-v3d.dtbo".into()], vec!["audio=on".into()])
    );
    card.remove("kernel_2712.img").remove("initramfs8");
    let chain = card.follow(Model::Pi5);
    assert_eq!(chain.kernel.as_deref(), Some("kernel8.img"));
    assert!(
        chain.findings[0].message.contains("there is no initramfs8: the kernel starts without"),
        "{chain:#?}"
    );
}

#[test]
fn prefixes() {
    let mut card = Card::new();
    card.config("os_prefix=new/\ndtoverlay=disable-bt\n").put("overlays/disable-bt.dtbo", "x");
    assert_eq!(card.finding().1, "os_prefix=new/ is ignored: kernel or device tree are not there");
    for name in ["vmlinuz", "initrd.img", "cmdline.txt", "bcm2837-rpi-3-b.dtb", "bcm2837-rpi-3-b-plus.dtb"] {
        let content = card.0.iter().find(|file| file.path == name).expect(name).content.clone();
        card.put(&format!("new/{name}"), content);
    }
    let chain = card.follow(Model::Pi3);
    assert!(chain.findings.is_empty(), "{chain:#?}");
    assert_eq!((chain.kernel.as_deref(), &*chain.initramfs[0].0), (Some("new/vmlinuz"), "new/initrd.img"));
    assert_eq!(chain.overlays, ["overlays/disable-bt.dtbo"]);
    card.put("new/overlays/README", "").config("os_prefix=new/\ndtoverlay=disable-bt\nkernel=/vmlinuz\n");
    let chain = card.follow(Model::Pi3);
    assert_eq!(chain.kernel.as_deref(), Some("vmlinuz"));
    assert!(chain.findings[0].message.contains("new/overlays/disable-bt.dtbo is missing"), "{chain:#?}");
}

#[test]
fn which_port_is_the_console() {
    let tree = |nodes: &str| [&[0xd0, 0x0d, 0xfe, 0xed], nodes.as_bytes()].concat();
    let mut card = Card::new();
    card.put(
        "config.txt",
        format!("{CONFIG}dtoverlay=disable-bt\ndtparam=audio=on\n").replace("upstream_kernel=1\n", ""),
    );
    card.put("overlays/disable-bt.dtbo", "x").put("bcm2710-rpi-3-b-plus.dtb", "x");
    card.put("cmdline.txt", "console=serial0,115200 console=tty1 root=PARTUUID=1a2b3c4d-02");
    // The better UART is free: it is the console.
    card.put("bcm2710-rpi-3-b.dtb", tree("__symbols__ __overrides__"));
    let chain = card.follow(Model::Pi3);
    assert_eq!((chain.serial_console(), &chain.findings[..]), (Some("ttyAMA0"), &[][..]));
    card.config("").put("cmdline.txt", CMDLINE.replace("ttyS1", "serial0"));
    let message = "upstream kernels call the serial port ttyS1: a console at serial0 or ttyS0 stays silent";
    assert_eq!(card.finding(), (Severity::Warning, message.into()));
    card.put("cmdline.txt", CMDLINE).put("bcm2837-rpi-3-b.dtb", tree(""));
    assert!(card.follow(Model::Pi3).findings.is_empty());
    card.config("dtparam=audio=on\n");
    assert_eq!(card.finding().1, "bcm2837-rpi-3-b.dtb takes no parameters: dtparam= lines do nothing");
    card.config("dtoverlay=disable-bt\n");
    assert_eq!(
        card.finding().1,
        "bcm2837-rpi-3-b.dtb has no symbols: the firmware cannot apply overlays to it"
    );
}

#[test]
fn the_command_line() {
    let message = |text: &str| Card::new().put("cmdline.txt", text).finding().1;
    assert_eq!(message("\n"), "cmdline.txt is empty");
    assert_eq!(
        message("root=PARTUUID=1a2b3c4d-02\nrootwait\n"),
        "cmdline.txt has more than one line: the kernel gets only the first"
    );
    assert_eq!(message("quiet\n"), "the kernel's command line names no root partition");
    assert_eq!(
        message("root=PARTUUID=00000000-02\n"),
        "root=PARTUUID=00000000-02 is on another disk: the root partition is 1a2b3c4d-02"
    );
    let mut card = Card::new();
    card.put("config.txt", "arm_64bit=1\nupstream_kernel=1\nkernel=vmlinuz\n");
    card.put("cmdline.txt", "root=PARTUUID=1a2b3c4d-02");
    assert!(card.finding().1.contains("no `rootwait`"));
}

#[test]
fn garbage_ends_in_findings() {
    for end in 0..CONFIG.len() {
        let mut card = Card::new();
        card.put("config.txt", &CONFIG[..end])
            .put("vmlinuz", vec![0x1f, 0x8b, 8, 0, 0])
            .put("cmdline.txt", vec![0xff; end]);
        for model in super::super::model::ALL {
            assert!(!card.follow(model).sound(), "{end}");
        }
    }
}
