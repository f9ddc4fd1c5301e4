//! The machines that the kernel is run in, as data, and their QEMU arguments.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::setup::qemu::Qemu;
use crate::version::Version;

/// The QEMU that one can look at every machine with; tests ask for more.
const LEAST: Version = Version::new(10, 0, 0);

/// A machine that `--machine` takes.
#[derive(Debug)]
pub struct Machine {
    pub name: &'static str,
    pub about: &'static str,
    /// What the remapping unit is told; nothing where there is none.
    unit: Option<&'static [Property]>,
    /// What the kernel is told beside.
    words: &'static str,
    /// The oldest QEMU that can be this machine.
    pub least: Version,
}

/// A property of `intel-iommu`: its names over QEMU's versions, newest first, and a value.
#[derive(Debug)]
struct Property {
    names: &'static [&'static str],
    value: &'static str,
}

const NARROW: Property = Property { names: &["aw-bits"], value: "39" };
const CACHING: Property = Property { names: &["caching-mode"], value: "on" };
const SCALABLE: Property = Property { names: &["scalable-mode", "x-scalable-mode"], value: "on" };
const FIRST_STAGE: Property = Property { names: &["fsts", "flts", "x-flts"], value: "on" };

/// Has the driver run in legacy mode, and in scalable mode, whatever it would choose by itself.
const IN_LEGACY_MODE: &str = "tables=legacy";
const IN_SCALABLE_MODE: &str = "tables=scalable";

pub static MACHINES: &[Machine] = &[
    Machine {
        name: "legacy",
        about: "a unit in legacy mode, 48-bit second-stage tables",
        unit: Some(&[]),
        words: "",
        least: LEAST,
    },
    Machine {
        name: "legacy-39",
        about: "the same with 39-bit addresses",
        unit: Some(&[NARROW]),
        words: "",
        least: LEAST,
    },
    Machine {
        name: "caching",
        about: "a unit that caches entries that are not present",
        unit: Some(&[CACHING]),
        words: "",
        least: LEAST,
    },
    Machine {
        name: "second-stage",
        about: "a unit in scalable mode with second-stage tables",
        unit: Some(&[SCALABLE]),
        words: IN_SCALABLE_MODE,
        least: LEAST,
    },
    Machine {
        name: "first-stage",
        about: "a unit in scalable mode with first-stage tables",
        unit: Some(&[SCALABLE, FIRST_STAGE]),
        words: IN_SCALABLE_MODE,
        least: LEAST,
    },
    Machine {
        name: "scalable-caching",
        about: "a unit in scalable mode that caches entries that are not present",
        unit: Some(&[SCALABLE, CACHING]),
        words: "",
        least: LEAST,
    },
    Machine {
        name: "legacy-mode",
        about: "a scalable unit that is run in legacy mode",
        unit: Some(&[SCALABLE]),
        words: IN_LEGACY_MODE,
        least: LEAST,
    },
    Machine { name: "no-iommu", about: "no remapping unit at all", unit: None, words: "", least: LEAST },
];

impl Machine {
    pub fn has_unit(&self) -> bool {
        self.unit.is_some()
    }

    /// What `-device` is told to make its remapping unit.
    pub fn unit_device(&self, qemu: &Qemu) -> Result<String> {
        unit(qemu, self, self.unit.with_context(|| format!("machine {} has no remapping unit", self.name))?)
    }
}

/// The machine of that name, or a sentence with the names there are.
pub fn by_name(name: &str) -> Result<&'static Machine> {
    let names: Vec<&str> = MACHINES.iter().map(|machine| machine.name).collect();
    let found = MACHINES.iter().find(|machine| machine.name == name);
    found.with_context(|| format!("there is no machine `{name}`; there are {}", names.join(", ")))
}

/// All machines for `--help` and `--list`.
pub fn listing() -> String {
    let lines = MACHINES.iter().map(|machine| format!("\n  {:16} {}", machine.name, machine.about));
    format!("Machines:{}", lines.collect::<String>())
}

/// What a boot changes of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Take the unit away while the command line still promises it.
    pub without_unit: bool,
    /// Memory above 4 GiB.
    pub large_memory: bool,
    /// Every device in another slot, the bridge behind a root port.
    pub other_slots: bool,
}

/// One boot of a machine.
pub struct Setting<'a> {
    pub machine: &'static Machine,
    pub change: Change,
    pub smp: u32,
    pub kvm: bool,
    pub extra: &'a [OsString],
}

impl Setting<'_> {
    pub fn new(machine: &'static Machine) -> Self {
        Self { machine, change: Change::default(), smp: 2, kvm: false, extra: &[] }
    }

    /// QEMU's arguments. `disk` is the raw image of the virtio disk, `words` the mode and what belongs to it.
    pub fn arguments(&self, qemu: &Qemu, kernel: &Path, disk: &Path, words: &str) -> Result<Vec<OsString>> {
        let machine = self.machine;
        if qemu.version < machine.least {
            bail!(
                "machine {} needs QEMU {} or newer, and this is {}; leave out --qemu and VTD_QEMU, and one is fetched",
                machine.name,
                machine.least,
                qemu.version
            );
        }
        let (board, accelerator, cpu) = match self.kvm {
            // Interrupt remapping is refused with KVM's own IOAPIC.
            true => ("q35,kernel-irqchip=split", "kvm", "host"),
            false => ("q35", "tcg", "max"),
        };
        let memory = if self.change.large_memory { "3G" } else { "512M" };
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: &str| arguments.extend([option.into(), value.into()]);
        add("-machine", board);
        add("-accel", accelerator);
        add("-cpu", cpu);
        add("-smp", &self.smp.to_string());
        add("-m", memory);
        add("-display", "none");
        add("-chardev", "stdio,id=serial,signal=on");
        add("-serial", "chardev:serial");
        add("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04");
        if qemu.version >= Version::new(10, 2, 0) {
            add("-run-with", "exit-with-parent=on");
        }
        if let (Some(properties), false) = (machine.unit, self.change.without_unit) {
            // First of all devices: iommu-testdev takes its address space when it is made.
            add("-device", &unit(qemu, machine, properties)?);
        }
        for device in devices(self.change.other_slots) {
            if qemu.has_device(device.split(',').next().unwrap_or_default()) {
                add("-device", device);
            }
        }
        let iommu = if machine.has_unit() { "yes" } else { "no" };
        let line = format!("{words} machine={} iommu={iommu} {}", machine.name, machine.words);
        add("-append", line.trim_end());
        arguments.extend(["-nodefaults".into(), "-no-reboot".into(), "-kernel".into(), kernel.into()]);
        let mut drive = OsString::from("if=none,id=disk,format=raw,file=");
        // A comma in the file's name is doubled.
        drive.push(disk.to_string_lossy().replace(',', ",,"));
        arguments.extend(["-drive".into(), drive]);
        arguments.extend_from_slice(self.extra);
        Ok(arguments)
    }
}

fn unit(qemu: &Qemu, machine: &Machine, properties: &[Property]) -> Result<String> {
    let mut device = String::from("intel-iommu");
    for property in properties {
        let name = qemu.unit_property(property.names).with_context(|| {
            format!(
                "machine {} needs the property {} of intel-iommu, which QEMU {} lacks; leave out --qemu and VTD_QEMU, \
                 and a newer one is fetched",
                machine.name, property.names[0], qemu.version
            )
        })?;
        device.push_str(&format!(",{name}={}", property.value));
    }
    Ok(device)
}

/// Devices that reach memory, on the root bus, behind a root port and behind a conventional bridge.
fn devices(other_slots: bool) -> &'static [&'static str] {
    match other_slots {
        false => &[
            "edu,id=edu0,dma_mask=0xffffffffffffffff,addr=0x3",
            "edu,id=edu1,dma_mask=0xffffffffffffffff,addr=0x4",
            "iommu-testdev,id=testdev0,addr=0x5",
            "iommu-testdev,id=testdev2,addr=0x8",
            "pcie-root-port,id=port0,chassis=1,addr=0x6",
            "virtio-rng-pci,id=rng0,bus=port0,disable-legacy=on,iommu_platform=on",
            "pcie-pci-bridge,id=bridge0,addr=0x7",
            "edu,id=edu2,bus=bridge0,dma_mask=0xffffffffffffffff,addr=0x1",
            "iommu-testdev,id=testdev1,bus=bridge0,addr=0x2",
            "virtio-blk-pci,id=blk0,bus=bridge0,drive=disk,disable-legacy=on,iommu_platform=on,addr=0x3",
        ],
        true => &[
            "pcie-root-port,id=port1,chassis=2,addr=0x2",
            "pcie-pci-bridge,id=bridge0,bus=port1",
            "virtio-blk-pci,id=blk0,bus=bridge0,drive=disk,disable-legacy=on,iommu_platform=on,addr=0x9",
            "edu,id=edu2,bus=bridge0,dma_mask=0xffffffffffffffff,addr=0x1e",
            "iommu-testdev,id=testdev1,bus=bridge0,addr=0x11",
            "edu,id=edu1,dma_mask=0xffffffffffffffff,addr=0x9",
            "iommu-testdev,id=testdev0,addr=0xd",
            "iommu-testdev,id=testdev2,addr=0xe",
            "edu,id=edu0,dma_mask=0xffffffffffffffff,addr=0x12",
            "pcie-root-port,id=port0,chassis=1,addr=0x1a",
            "virtio-rng-pci,id=rng0,bus=port0,disable-legacy=on,iommu_platform=on",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_its_own_name_without_the_filters_separator() {
        for (index, machine) in MACHINES.iter().enumerate() {
            assert_eq!(by_name(machine.name).unwrap().name, machine.name);
            assert!(MACHINES[..index].iter().all(|other| other.name != machine.name));
            assert!(!machine.name.contains([':', ' ', ',']));
        }
        let error = by_name("modern").unwrap_err().to_string();
        assert!(error.contains("`modern`") && error.contains("second-stage"), "{error}");
    }

    #[test]
    fn both_layouts_hold_the_same_devices() {
        let kinds = |other| {
            let mut list: Vec<_> = devices(other).iter().map(|device| device.split(',').next().unwrap()).collect();
            list.retain(|kind| *kind != "pcie-root-port");
            list.sort_unstable();
            list
        };
        assert_eq!(kinds(false), kinds(true));
    }
}
