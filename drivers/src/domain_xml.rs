//! Builds the libvirt domain of a VM. Pure: order in, XML out; golden files under `tests/golden`.
//!
//! What is chosen here, and why:
//! - **q35**, not `pc`: PCIe, and no slower to boot under tcg (measured: a Debian kernel with a busybox
//!   initramfs takes 3.2 to 4.8 s of processor time on q35, 3.6 to 4.2 s on pc).
//! - **CPU**: `host-passthrough` under kvm. Under tcg `maximum`: as fast as `qemu64` (measured: 3.3 s
//!   against 3.2 s) and new enough for distributions that ask for x86-64-v2.
//! - **`on_crash` destroy**: a panicked guest frees its memory at once and the reason is kept; its last
//!   words are in the console log. `on_reboot` restart: a guest may restart itself.
//! - **Serial console** on a unix socket, logged by virtlogd, which rotates: the ring survives the
//!   guest, QEMU, libvirtd and `scpd`.
//! - **`error_policy` stop**: a full or failing disk pauses the guest instead of telling it lies.
//! - **Network**: QEMU's user-mode network, until there are networks (one card, with the VM's MAC).
//!   The guest reaches out; nothing reaches in but the console.
//! - **pvpanic**: the guest's kernel tells of its panic, so a crash is seen and not a silence.

use std::{io, path::Path};

use quick_xml::{Writer, events::BytesText};
use scp_model::{Digest, VmId, image::ImageFormat, op::EnsureVm};
use sha2::{Digest as _, Sha256};

use crate::{
    probe::Accelerator,
    record::{NAMESPACE, PREFIX, Record},
    seed::mac_text,
};

/// Every instance of ours is named so; nothing else should be.
pub const NAME_PREFIX: &str = "scp-";

/// libvirt's name of a VM.
pub fn domain_name(vm: VmId) -> String {
    format!("{NAME_PREFIX}{vm}")
}

/// How QEMU reads and writes the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// Past the page cache: the guest's data is cached once, by the guest.
    Direct,
    /// Through it, for file systems that cannot go past. As durable: flushes are obeyed.
    Writeback,
}

/// Where an instance's files are.
#[derive(Debug, Clone, Copy)]
pub struct Paths<'a> {
    /// What the overlay stands on, of the order's format.
    pub base: &'a Path,
    pub overlay: &'a Path,
    pub seed: &'a Path,
    pub console_socket: &'a Path,
    pub console_log: &'a Path,
}

/// What the server is like.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    pub accelerator: Accelerator,
    pub cache: DiskCache,
}

/// Digest of what an instance is defined from: equal digests need no restart.
pub fn definition_digest(order: &EnsureVm) -> Digest {
    let mut order = order.clone();
    (order.generation, order.reboots, order.epoch) = (0, 0, scp_model::Epoch(0));
    let payload = scp_codec::to_payload(&order).expect("an order is plain data and always encodes");
    Digest(Sha256::digest(payload).into())
}

type Xml = Writer<Vec<u8>>;

/// The domain of a VM.
pub fn build(order: &EnsureVm, record: &Record, paths: Paths<'_>, server: Server) -> String {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    let kind = match server.accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "qemu",
    };
    let domain = xml.create_element("domain").with_attribute(("type", kind));
    let written = domain.write_inner_content(|xml| {
        identity(xml, order, record)?;
        machine(xml, order, server)?;
        node(xml, "devices", &[], |xml| devices(xml, order, paths, server))
    });
    written.expect("writing to memory does not fail");
    let mut text = String::from_utf8(xml.into_inner()).expect("the writer was given text only");
    text.push('\n');
    text
}

fn identity(xml: &mut Xml, order: &EnsureVm, record: &Record) -> io::Result<()> {
    text(xml, "name", &[], &domain_name(order.vm))?;
    text(xml, "uuid", &[], &order.vm.to_string())?;
    text(xml, "title", &[], order.name.as_str())?;
    node(xml, "metadata", &[], |xml| {
        let attributes = record.attributes();
        let namespace = format!("xmlns:{PREFIX}");
        let mut all = vec![(namespace.as_str(), NAMESPACE)];
        all.extend(attributes.iter().map(|(name, value)| (*name, value.as_str())));
        leaf(xml, &format!("{PREFIX}:vm"), &all)
    })
}

fn machine(xml: &mut Xml, order: &EnsureVm, server: Server) -> io::Result<()> {
    let vcpus = order.resources.vcpus.to_string();
    text(xml, "memory", &[("unit", "MiB")], &order.resources.memory_mib.to_string())?;
    text(xml, "vcpu", &[("placement", "static")], &vcpus)?;
    node(xml, "os", &[], |xml| {
        text(xml, "type", &[("arch", "x86_64"), ("machine", "q35")], "hvm")?;
        leaf(xml, "boot", &[("dev", "hd")])
    })?;
    node(xml, "features", &[], |xml| {
        leaf(xml, "acpi", &[])?;
        leaf(xml, "apic", &[])
    })?;
    let cpu: &[(&str, &str)] = match server.accelerator {
        Accelerator::Kvm => &[("mode", "host-passthrough"), ("check", "none"), ("migratable", "on")],
        Accelerator::Tcg => &[("mode", "maximum"), ("check", "none")],
    };
    node(xml, "cpu", cpu, |xml| {
        leaf(xml, "topology", &[("sockets", "1"), ("dies", "1"), ("cores", &vcpus), ("threads", "1")])
    })?;
    node(xml, "clock", &[("offset", "utc")], |xml| {
        leaf(xml, "timer", &[("name", "rtc"), ("tickpolicy", "catchup")])?;
        leaf(xml, "timer", &[("name", "pit"), ("tickpolicy", "delay")])?;
        leaf(xml, "timer", &[("name", "hpet"), ("present", "no")])
    })?;
    text(xml, "on_poweroff", &[], "destroy")?;
    text(xml, "on_reboot", &[], "restart")?;
    text(xml, "on_crash", &[], "destroy")?;
    // A sleeping guest would be neither running nor stopped.
    node(xml, "pm", &[], |xml| {
        leaf(xml, "suspend-to-mem", &[("enabled", "no")])?;
        leaf(xml, "suspend-to-disk", &[("enabled", "no")])
    })
}

fn devices(xml: &mut Xml, order: &EnsureVm, paths: Paths<'_>, server: Server) -> io::Result<()> {
    let mut overlay = vec![("name", "qemu"), ("type", "qcow2")];
    overlay.extend(match server.cache {
        DiskCache::Direct => [("cache", "none"), ("io", "native")],
        DiskCache::Writeback => [("cache", "writeback"), ("io", "threads")],
    });
    overlay.extend([("error_policy", "stop"), ("discard", "unmap")]);
    disk(xml, paths.overlay, &overlay, ("vda", |xml: &mut Xml| backing(xml, order, paths.base)))?;
    let seed = [("name", "qemu"), ("type", "raw")];
    disk(xml, paths.seed, &seed, ("vdb", |xml: &mut Xml| leaf(xml, "readonly", &[])))?;
    leaf(xml, "controller", &[("type", "usb"), ("model", "none")])?;
    node(xml, "interface", &[("type", "user")], |xml| {
        leaf(xml, "mac", &[("address", &mac_text(order.mac))])?;
        leaf(xml, "model", &[("type", "virtio")])
    })?;
    node(xml, "serial", &[("type", "unix")], |xml| {
        leaf(xml, "source", &[("mode", "bind"), ("path", &path_text(paths.console_socket))])?;
        leaf(xml, "log", &[("file", &path_text(paths.console_log)), ("append", "on")])?;
        node(xml, "target", &[("type", "isa-serial"), ("port", "0")], |xml| {
            leaf(xml, "model", &[("name", "isa-serial")])
        })
    })?;
    node(xml, "memballoon", &[("model", "virtio"), ("freePageReporting", "on")], |xml| {
        leaf(xml, "stats", &[("period", "10")])
    })?;
    node(xml, "rng", &[("model", "virtio")], |xml| {
        text(xml, "backend", &[("model", "random")], "/dev/urandom")
    })?;
    leaf(xml, "panic", &[("model", "isa")])
}

fn disk(
    xml: &mut Xml,
    file: &Path,
    driver: &[(&str, &str)],
    (target, inner): (&str, impl FnOnce(&mut Xml) -> io::Result<()>),
) -> io::Result<()> {
    node(xml, "disk", &[("type", "file"), ("device", "disk")], |xml| {
        leaf(xml, "driver", driver)?;
        leaf(xml, "source", &[("file", &path_text(file))])?;
        leaf(xml, "target", &[("dev", target), ("bus", "virtio")])?;
        inner(xml)
    })
}

/// The chain below the overlay, in full, so that libvirt believes this and not what a file says of
/// itself. The base is shared by many VMs: it stays root's. Left to itself libvirt would give it to QEMU's
/// user, and a guest that breaks out of QEMU could then change what others start from.
fn backing(xml: &mut Xml, order: &EnsureVm, base: &Path) -> io::Result<()> {
    let format = match order.disk.format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    };
    node(xml, "backingStore", &[("type", "file")], |xml| {
        leaf(xml, "format", &[("type", format)])?;
        node(xml, "source", &[("file", &path_text(base))], |xml| {
            leaf(xml, "seclabel", &[("model", "dac"), ("relabel", "no")])
        })?;
        leaf(xml, "backingStore", &[])
    })
}

/// Our own paths are UTF-8; another would be refused by libvirt, which then names it.
fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn node(
    xml: &mut Xml,
    name: &str,
    attributes: &[(&str, &str)],
    inner: impl FnOnce(&mut Xml) -> io::Result<()>,
) -> io::Result<()> {
    let element = xml.create_element(name).with_attributes(attributes.iter().copied());
    element.write_inner_content(inner).map(drop)
}

fn text(xml: &mut Xml, name: &str, attributes: &[(&str, &str)], content: &str) -> io::Result<()> {
    let element = xml.create_element(name).with_attributes(attributes.iter().copied());
    element.write_text_content(BytesText::new(content)).map(drop)
}

fn leaf(xml: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    xml.create_element(name).with_attributes(attributes.iter().copied()).write_empty().map(drop)
}

#[cfg(test)]
pub(crate) mod tests {
    use scp_model::{
        Epoch, ImageId, Name, Resources, Timestamp,
        op::{RootDisk, Seed},
    };

    use super::*;
    use crate::record::Power;

    pub(crate) fn order() -> EnsureVm {
        EnsureVm {
            vm: VmId::from_u128(0x5eed),
            epoch: Epoch(42),
            generation: 3,
            name: Name::new("web-1").expect("a name"),
            resources: Resources { vcpus: 2, memory_mib: 512, disk_mib: 2048 },
            disk: RootDisk {
                image: ImageId::from_u128(1),
                format: ImageFormat::Qcow2,
                digest: Digest([0xab; 32]),
                size_bytes: 2 << 30,
            },
            seed: Seed {
                instance_id: "i-5eed".into(),
                hostname: Name::new("web-1").expect("a name"),
                ssh_keys: vec!["ssh-ed25519 AAAAC3Nza \"quoted\" \\ josé@câmara".into()],
                user_data: Vec::new(),
            },
            mac: [0x52, 0x54, 0, 1, 2, 3],
            reboots: 1,
        }
    }

    fn record() -> Record {
        let order = order();
        Record {
            vm: order.vm,
            epoch: order.epoch,
            generation: order.generation,
            reboots: order.reboots,
            power: Power::Running,
            started_at: Some(Timestamp(1_700_000_000_000)),
            definition: definition_digest(&order),
        }
    }

    fn built(server: Server) -> String {
        let paths = Paths {
            base: Path::new("/var/lib/scp/vms/x/base.img"),
            overlay: Path::new("/var/lib/scp/vms/x/overlay.qcow2"),
            seed: Path::new("/var/lib/scp/vms/x/seed.img"),
            console_socket: Path::new("/run/scp/x.sock"),
            console_log: Path::new("/var/lib/scp/vms/x/console & <log>"),
        };
        build(&order(), &record(), paths, server)
    }

    #[test]
    fn the_domain_is_as_recorded() {
        let kvm = Server { accelerator: Accelerator::Kvm, cache: DiskCache::Direct };
        let tcg = Server { accelerator: Accelerator::Tcg, cache: DiskCache::Writeback };
        crate::golden::check("domain_kvm.xml", &built(kvm));
        crate::golden::check("domain_tcg.xml", &built(tcg));
    }

    #[test]
    fn generation_reboots_and_epoch_are_not_part_of_the_definition() {
        let (mut changed, digest) = (order(), definition_digest(&order()));
        (changed.generation, changed.reboots, changed.epoch) = (9, 9, Epoch(99));
        assert_eq!(definition_digest(&changed), digest);
        changed.resources.vcpus += 1;
        assert_ne!(definition_digest(&changed), digest);
    }
}
