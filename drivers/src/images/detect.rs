//! Tells what a file is from its bytes. A name or a content type is never believed.

/// A fixed VHD is told by its last sector only.
pub const TAIL_BYTES: usize = 512;

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    Qcow2,
    /// No mark of anything else: a plain disk.
    Raw,
    /// Something that is not taken in.
    Foreign(Foreign),
}

/// A format that is recognised in order to be refused with advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// What people call it.
    pub name: &'static str,
    /// The command that makes an image of it.
    pub remedy: &'static str,
}

struct Mark {
    at: usize,
    bytes: &'static [u8],
    foreign: Foreign,
}

const fn mark(at: usize, bytes: &'static [u8], name: &'static str, remedy: &'static str) -> Mark {
    Mark { at, bytes, foreign: Foreign { name, remedy } }
}

const INSTALLER: &str =
    "it is an installation medium, not a disk: take the vendor's cloud image, or install it to a disk first";
const WEB_PAGE: &str =
    "it is a web page: the download went wrong; fetch the image itself with `curl -fLO URL`";

/// Order matters only where one mark could stand inside another format's file: longer marks first.
const MARKS: &[Mark] = &[
    mark(0, b"QFI\xfb\0\0\0\x01", "qcow (version 1)", "qemu-img convert -f qcow -O qcow2 FILE IMAGE.qcow2"),
    mark(0, b"KDMV", "VMDK", "qemu-img convert -f vmdk -O qcow2 FILE IMAGE.qcow2"),
    mark(0, b"COWD", "VMDK (ESX)", "qemu-img convert -f vmdk -O qcow2 FILE IMAGE.qcow2"),
    mark(
        0,
        b"# Disk DescriptorFile",
        "VMDK descriptor",
        "qemu-img convert -f vmdk -O qcow2 FILE IMAGE.qcow2",
    ),
    mark(0, b"vhdxfile", "VHDX", "qemu-img convert -f vhdx -O qcow2 FILE IMAGE.qcow2"),
    mark(0, b"conectix", "VHD", "qemu-img convert -f vpc -O qcow2 FILE IMAGE.qcow2"),
    mark(64, b"\x7f\x10\xda\xbe", "VDI", "qemu-img convert -f vdi -O qcow2 FILE IMAGE.qcow2"),
    mark(0, b"QED\0", "QED", "qemu-img convert -f qed -O qcow2 FILE IMAGE.qcow2"),
    mark(0, b"WithoutFreeSpace", "Parallels", "qemu-img convert -f parallels -O qcow2 FILE IMAGE.qcow2"),
    mark(0, b"WithouFreSpacExt", "Parallels", "qemu-img convert -f parallels -O qcow2 FILE IMAGE.qcow2"),
    mark(
        0,
        b"LUKS\xba\xbe",
        "LUKS",
        "decrypt it first: `cryptsetup open FILE NAME`, then copy /dev/mapper/NAME",
    ),
    mark(0, b"\x1f\x8b", "gzip", "gunzip FILE, then add the result (or `qemu-img convert` it)"),
    mark(0, b"\xfd7zXZ\0", "xz", "unxz FILE, then add the result (or `qemu-img convert` it)"),
    mark(0, b"BZh", "bzip2", "bunzip2 FILE, then add the result (or `qemu-img convert` it)"),
    mark(0, b"\x28\xb5\x2f\xfd", "zstd", "unzstd FILE, then add the result (or `qemu-img convert` it)"),
    mark(0, b"\x04\x22\x4d\x18", "lz4", "unlz4 FILE, then add the result (or `qemu-img convert` it)"),
    mark(0, b"PK\x03\x04", "zip", "unzip FILE, then add the disk in it (or `qemu-img convert` it)"),
    mark(0, b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x FILE, then add the disk in it (or `qemu-img convert` it)"),
    mark(257, b"ustar", "tar (an OVA perhaps)", "tar xf FILE, then `qemu-img convert` the disk in it"),
    mark(0, b"\x7fELF", "ELF program", "it is a program, not a disk"),
    mark(0, b"<!DOCTYPE", "HTML", WEB_PAGE),
    mark(0, b"<!doctype", "HTML", WEB_PAGE),
    mark(0, b"<html", "HTML", WEB_PAGE),
    mark(0x8001, b"CD001", "ISO 9660", INSTALLER),
];

/// What a file is that begins with `head` and ends with `tail`.
pub fn detect(head: &[u8], tail: &[u8]) -> Detected {
    let stands =
        |at: usize, bytes: &[u8], within: &[u8]| within.get(at..).is_some_and(|b| b.starts_with(bytes));
    if let Some(mark) = MARKS.iter().find(|mark| stands(mark.at, mark.bytes, head)) {
        return Detected::Foreign(mark.foreign);
    }
    if head.starts_with(&super::qcow2::MAGIC) {
        return Detected::Qcow2;
    }
    if tail.len() >= TAIL_BYTES && stands(tail.len() - TAIL_BYTES, b"conectix", tail) {
        let remedy = "qemu-img convert -f vpc -O qcow2 FILE IMAGE.qcow2";
        return Detected::Foreign(Foreign { name: "VHD (fixed)", remedy });
    }
    Detected::Raw
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The farthest mark is an ISO 9660 volume descriptor in sector 16.
    const HEAD_BYTES: usize = 34 << 10;

    #[test]
    fn every_foreign_format_is_named_with_the_way_out() {
        for mark in MARKS {
            let mut head = vec![0u8; HEAD_BYTES];
            head[mark.at..mark.at + mark.bytes.len()].copy_from_slice(mark.bytes);
            assert_eq!(detect(&head, &[]), Detected::Foreign(mark.foreign));
            assert!(!mark.foreign.remedy.is_empty());
        }
        let mut tail = [0u8; TAIL_BYTES];
        tail[..8].copy_from_slice(b"conectix");
        assert!(matches!(detect(&[0; 64], &tail), Detected::Foreign(Foreign { name: "VHD (fixed)", .. })));
    }

    #[test]
    fn a_disk_without_marks_is_raw_and_qcow2_is_told_by_its_magic() {
        let mut disk = vec![0u8; HEAD_BYTES];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(detect(&disk, &[]), Detected::Raw);
        assert_eq!(detect(b"QFI\xfb\0\0\0\x03", &[]), Detected::Qcow2);
        assert_eq!(detect(b"QFI\xfb", &[]), Detected::Qcow2);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(head: Vec<u8>, tail: Vec<u8>) {
            let _ = detect(&head, &tail);
        }
    }
}
