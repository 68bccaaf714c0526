//! Reads the header of a qcow2 file and refuses what could make QEMU read or write anything but that
//! file, or that QEMU would not open.
//!
//! A header may name other files (a backing file, an external data file): a tenant could so read any
//! file of the server. It may claim sizes that exhaust memory. Nothing here allocates on behalf of a
//! number in the file.

use super::refusal::Refusal;

/// The first bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The header and its extensions end within the first cluster, which has at most 2 MiB.
pub const HEADER_BYTES_MAX: usize = 2 << 20;
/// The largest disk that an image may have: 16 TiB, what ext4 holds at most in one file.
pub const VIRTUAL_BYTES_MAX: u64 = 16 << 40;
/// QEMU's own limit of the first-level table, in bytes.
const L1_BYTES_MAX: u64 = 32 << 20;
/// QEMU's own limit of the refcount table, in bytes.
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;

const V2_HEADER_BYTES: usize = 72;
const V3_HEADER_BYTES: usize = 104;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_EXTERNAL_DATA: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_EXTERNAL_DATA: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

/// What a valid header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qcow2 {
    pub version: u32,
    pub cluster_bytes: u64,
    /// Bytes of the disk that a guest sees.
    pub virtual_bytes: u64,
}

/// Reads big-endian fields without ever leaving the bytes at hand.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, Refusal> {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk::<4>).ok_or_else(short)?;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> Result<u64, Refusal> {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk::<8>).ok_or_else(short)?;
        Ok(u64::from_be_bytes(*bytes))
    }
}

fn short() -> Refusal {
    Refusal::header("it ends within its header")
}

/// Reads the header in `head`, the first [`HEADER_BYTES_MAX`] bytes (or all, if fewer) of a file of
/// `file_bytes`.
pub fn parse(head: &[u8], file_bytes: u64) -> Result<Qcow2, Refusal> {
    if !head.starts_with(&MAGIC) {
        return Err(Refusal::header("its magic is missing"));
    }
    let fields = Fields(head);
    let version = fields.u32(4)?;
    if !(2..=3).contains(&version) {
        return Err(Refusal::header(format!("version {version} is unknown; 2 and 3 are taken in")));
    }
    let cluster_bits = fields.u32(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Refusal::header(format!("clusters of 2^{cluster_bits} bytes are out of range")));
    }
    let cluster_bytes = 1u64 << cluster_bits;
    references(&fields)?;
    let header_bytes = match version {
        2 => V2_HEADER_BYTES,
        _ => version_3(&fields, cluster_bits)?,
    };
    let virtual_bytes = virtual_size(&fields, version, cluster_bytes)?;
    tables(&fields, cluster_bytes, file_bytes)?;
    extensions(&fields, header_bytes, cluster_bytes)?;
    Ok(Qcow2 { version, cluster_bytes, virtual_bytes })
}

/// What points out of the file, or cannot be read without a key.
fn references(fields: &Fields<'_>) -> Result<(), Refusal> {
    if fields.u64(8)? != 0 || fields.u32(16)? != 0 {
        return Err(Refusal::new(
            "image_backing_file",
            "the image stands on a backing file, which would have to be read from the server's own disk; \
             flatten it: `qemu-img convert -O qcow2 FILE IMAGE.qcow2`",
        ));
    }
    if fields.u32(32)? != 0 {
        return Err(encrypted());
    }
    if fields.u32(60)? != 0 {
        return Err(Refusal::new(
            "image_snapshots",
            "the image holds internal snapshots, which every VM would carry along; \
             leave them out: `qemu-img convert -O qcow2 FILE IMAGE.qcow2`",
        ));
    }
    Ok(())
}

fn encrypted() -> Refusal {
    Refusal::new(
        "image_encrypted",
        "the image is encrypted and the platform has no key for it; decrypt it with `qemu-img convert`",
    )
}

fn external_data() -> Refusal {
    Refusal::new(
        "image_external_data",
        "the image keeps its data in another file, which would have to be read from the server's own disk; \
         bring it into one file: `qemu-img convert -O qcow2 FILE IMAGE.qcow2`",
    )
}

/// Checks what only version 3 has; returns where the extensions begin.
fn version_3(fields: &Fields<'_>, cluster_bits: u32) -> Result<usize, Refusal> {
    let incompatible = fields.u64(72)?;
    if incompatible & INCOMPATIBLE_EXTERNAL_DATA != 0 {
        return Err(external_data());
    }
    if incompatible & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT) != 0 {
        return Err(Refusal::new(
            "image_dirty",
            "the image was not closed properly or is marked as corrupt; mend it: `qemu-img check -r all FILE`",
        ));
    }
    let known = INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;
    if incompatible & !known != 0 {
        return Err(Refusal::new(
            "image_feature_unknown",
            format!("the image needs features that are unknown here (bits {:#x})", incompatible & !known),
        ));
    }
    if incompatible & INCOMPATIBLE_EXTENDED_L2 != 0 && cluster_bits < 14 {
        return Err(Refusal::header("extended L2 entries need clusters of 16 KiB or more"));
    }
    if fields.u32(96)? > 6 {
        return Err(Refusal::header("its refcounts are wider than 64 bits"));
    }
    let header_bytes = fields.u32(100)? as usize;
    if header_bytes < V3_HEADER_BYTES || !header_bytes.is_multiple_of(8) || header_bytes > 1 << cluster_bits {
        return Err(Refusal::header(format!("a header of {header_bytes} bytes is out of range")));
    }
    let compression =
        if header_bytes > V3_HEADER_BYTES { fields.0.get(V3_HEADER_BYTES).copied() } else { Some(0) };
    let announced = incompatible & INCOMPATIBLE_COMPRESSION != 0;
    match compression {
        Some(0) if !announced => Ok(header_bytes),
        Some(1) if announced => Ok(header_bytes),
        Some(kind) => Err(Refusal::header(format!("compression {kind} is unknown or not announced"))),
        None => Err(short()),
    }
}

fn virtual_size(fields: &Fields<'_>, version: u32, cluster_bytes: u64) -> Result<u64, Refusal> {
    let size = fields.u64(24)?;
    if size == 0 || !size.is_multiple_of(512) || size > VIRTUAL_BYTES_MAX {
        return Err(Refusal::new(
            "image_virtual_size",
            format!(
                "the image claims a disk of {size} bytes; it must be a multiple of 512, above 0 and at most {} TiB",
                VIRTUAL_BYTES_MAX >> 40
            ),
        ));
    }
    let entry_bytes = match version {
        3 if fields.u64(72)? & INCOMPATIBLE_EXTENDED_L2 != 0 => 16,
        _ => 8,
    };
    let bytes_per_l1_entry = cluster_bytes * (cluster_bytes / entry_bytes);
    let needed = size.div_ceil(bytes_per_l1_entry);
    let l1_entries = u64::from(fields.u32(36)?);
    if l1_entries < needed || l1_entries * 8 > L1_BYTES_MAX {
        return Err(Refusal::header(format!(
            "its first-level table has {l1_entries} entries where {needed} are needed"
        )));
    }
    Ok(size)
}

/// The tables that the header points to must lie within the file, and not on the header itself.
fn tables(fields: &Fields<'_>, cluster_bytes: u64, file_bytes: u64) -> Result<(), Refusal> {
    let inside = |offset: u64, bytes: u64| {
        offset >= cluster_bytes
            && offset.is_multiple_of(cluster_bytes)
            && offset.checked_add(bytes).is_some_and(|end| end <= file_bytes)
    };
    if !inside(fields.u64(40)?, u64::from(fields.u32(36)?) * 8) {
        return Err(Refusal::header("its first-level table lies outside the file (was it cut short?)"));
    }
    let refcount_bytes = u64::from(fields.u32(56)?) * cluster_bytes;
    if refcount_bytes == 0 || refcount_bytes > REFCOUNT_TABLE_BYTES_MAX {
        return Err(Refusal::header("its refcount table has an impossible size"));
    }
    if !inside(fields.u64(48)?, refcount_bytes) {
        return Err(Refusal::header("its refcount table lies outside the file (was it cut short?)"));
    }
    Ok(())
}

/// Walks the extensions; each must end within the first cluster. Unknown ones may be ignored, says the
/// format; those that name other files or keys are refused even where a feature bit forgot to say so.
fn extensions(fields: &Fields<'_>, begin: usize, cluster_bytes: u64) -> Result<(), Refusal> {
    let end = (cluster_bytes as usize).min(fields.0.len());
    let mut at = begin;
    loop {
        if at + 8 > end {
            // Without room for another extension the list ends, as for QEMU.
            return if at <= end {
                Ok(())
            } else {
                Err(Refusal::header("an extension leaves the first cluster"))
            };
        }
        let kind = fields.u32(at)?;
        let length = fields.u32(at + 4)? as usize;
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_BACKING_FORMAT => {
                return Err(Refusal::header(
                    "it names the format of a backing file that it says not to have",
                ));
            }
            EXTENSION_EXTERNAL_DATA => return Err(external_data()),
            EXTENSION_ENCRYPTION => return Err(encrypted()),
            _ => {}
        }
        if length > end - at - 8 {
            return Err(Refusal::header(format!(
                "extension {kind:#x} claims {length} bytes and leaves the cluster"
            )));
        }
        at += 8 + length.next_multiple_of(8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE_BYTES: u64 = 4 << 16;

    /// As `qemu-img create -f qcow2 x 1G` writes it: clusters of 64 KiB, refcount table in cluster 1,
    /// first-level table in cluster 3.
    fn header(version: u32) -> Vec<u8> {
        let mut head = vec![0u8; 1 << 16];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &version.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &(1u64 << 30).to_be_bytes());
        put(36, &2u32.to_be_bytes());
        put(40, &(3u64 << 16).to_be_bytes());
        put(48, &(1u64 << 16).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        if version == 3 {
            put(96, &4u32.to_be_bytes());
            put(100, &112u32.to_be_bytes());
        }
        head
    }

    fn refused(change: impl FnOnce(&mut Vec<u8>)) -> &'static str {
        let mut head = header(3);
        change(&mut head);
        parse(&head, FILE_BYTES).expect_err("this header lies").code
    }

    fn set<const N: usize>(at: usize, bytes: [u8; N]) -> impl FnOnce(&mut Vec<u8>) {
        move |head| head[at..at + N].copy_from_slice(&bytes)
    }

    #[test]
    fn both_versions_are_read() {
        for version in [2, 3] {
            let read = parse(&header(version), FILE_BYTES).expect("a plain header");
            assert_eq!(read, Qcow2 { version, cluster_bytes: 1 << 16, virtual_bytes: 1 << 30 });
        }
    }

    #[test]
    fn what_points_out_of_the_file_is_refused() {
        assert_eq!(refused(set(8, 0x200u64.to_be_bytes())), "image_backing_file");
        assert_eq!(refused(set(16, 11u32.to_be_bytes())), "image_backing_file");
        assert_eq!(refused(set(72, INCOMPATIBLE_EXTERNAL_DATA.to_be_bytes())), "image_external_data");
        assert_eq!(refused(set(112, EXTENSION_EXTERNAL_DATA.to_be_bytes())), "image_external_data");
        assert_eq!(refused(set(112, EXTENSION_BACKING_FORMAT.to_be_bytes())), "image_header_invalid");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        assert_eq!(refused(set(32, 1u32.to_be_bytes())), "image_encrypted");
        assert_eq!(refused(set(112, EXTENSION_ENCRYPTION.to_be_bytes())), "image_encrypted");
        assert_eq!(refused(set(60, 1u32.to_be_bytes())), "image_snapshots");
        assert_eq!(refused(set(72, INCOMPATIBLE_DIRTY.to_be_bytes())), "image_dirty");
        assert_eq!(refused(set(72, INCOMPATIBLE_CORRUPT.to_be_bytes())), "image_dirty");
        assert_eq!(refused(set(72, (1u64 << 40).to_be_bytes())), "image_feature_unknown");
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for size in [0, 511, VIRTUAL_BYTES_MAX + 512, u64::MAX] {
            assert_eq!(refused(set(24, size.to_be_bytes())), "image_virtual_size");
        }
        for (at, value) in [(4, 1), (4, 4), (20, 8), (20, 22), (20, u32::MAX), (36, 1), (36, u32::MAX)] {
            assert_eq!(refused(set(at, value.to_be_bytes())), "image_header_invalid", "{value} at {at}");
        }
        for (at, value) in [(56, 0), (56, u32::MAX), (96, 7), (100, 96), (100, 105), (100, u32::MAX)] {
            assert_eq!(refused(set(at, value.to_be_bytes())), "image_header_invalid", "{value} at {at}");
        }
        for offset in [0, 1 << 15, 4 << 16, u64::MAX - 0xffff] {
            assert_eq!(refused(set(40, offset.to_be_bytes())), "image_header_invalid");
            assert_eq!(refused(set(48, offset.to_be_bytes())), "image_header_invalid");
        }
    }

    #[test]
    fn an_extension_that_lies_about_its_length_is_refused() {
        let mut lie = [0u8; 8];
        lie[..4].copy_from_slice(&0x6803_f857u32.to_be_bytes());
        lie[4..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(refused(set(112, lie)), "image_header_invalid");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048), size: u64) {
            let mut bytes = bytes;
            let _ = parse(&bytes, size);
            let magic = MAGIC.len().min(bytes.len());
            bytes[..magic].copy_from_slice(&MAGIC[..magic]);
            let _ = parse(&bytes, size);
        }

        #[test]
        fn a_header_cut_within_its_fields_is_refused(at in 0..V3_HEADER_BYTES) {
            prop_assert!(parse(&header(3)[..at], FILE_BYTES).is_err());
        }

        #[test]
        fn a_flipped_bit_never_names_another_file(at in 0usize..4096, bit in 0u8..8) {
            let mut head = header(3);
            head[at] ^= 1 << bit;
            if parse(&head, FILE_BYTES).is_ok() {
                let fields = Fields(&head);
                prop_assert_eq!(fields.u64(8).expect("in range"), 0);
                prop_assert_eq!(fields.u64(72).expect("in range") & INCOMPATIBLE_EXTERNAL_DATA, 0);
            }
        }
    }
}
