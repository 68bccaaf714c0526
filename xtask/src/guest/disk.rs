//! The guest's disk: boot record, one FAT partition, boot loader, kernel, initramfs; then qcow2.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use scp_servers::run;

/// Room for kernel and initramfs several times over; a sparse file pays only for what is written.
const DISK_BYTES: u64 = 64 << 20;
const SECTOR_BYTES: u64 = 512;
/// Where every partitioning tool puts the first partition.
const PARTITION_FIRST_SECTOR: u32 = 2048;
const PARTITION_SECTORS: u32 = (DISK_BYTES / SECTOR_BYTES) as u32 - PARTITION_FIRST_SECTOR;

/// `quiet` keeps the slow serial line free; errors still show. After a panic the kernel restarts at
/// once, as cloud images do; a hypervisor with a pvpanic device is told first.
const SYSLINUX_CONFIG: &str = "\
SERIAL 0 115200
PROMPT 0
DEFAULT guest
LABEL guest
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0,115200 quiet panic=-1 random.trust_cpu=on tsc=unstable
";

/// Makes `guest.qcow2` in `work`.
pub fn build(work: &Path, kernel: &Path, initrd: &Path) -> Result<PathBuf> {
    let raw = work.join("guest.raw");
    write_boot_record(&raw)?;
    let offset = u64::from(PARTITION_FIRST_SECTOR) * SECTOR_BYTES;
    run(Command::new("mkfs.fat")
        .args(["-n", "SCPGUEST", "--offset", &PARTITION_FIRST_SECTOR.to_string()])
        .arg(&raw)
        .arg((u64::from(PARTITION_SECTORS) / 2).to_string()))?;
    let config = work.join("syslinux.cfg");
    fs::write(&config, SYSLINUX_CONFIG).context("the boot loader's configuration cannot be written")?;
    let partition = format!("{}@@{offset}", raw.display());
    for (file, name) in [(kernel, "::vmlinuz"), (initrd, "::initrd"), (&config, "::syslinux.cfg")] {
        run(Command::new("mcopy").args(["-i", &partition]).arg(file).arg(name))?;
    }
    run(Command::new("syslinux").args(["--offset", &offset.to_string(), "--install"]).arg(&raw))?;
    let qcow2 = work.join("guest.qcow2");
    run(Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2"]).arg(&raw).arg(&qcow2))?;
    Ok(qcow2)
}

/// The boot loader's first stage and a partition table with one active FAT partition.
fn write_boot_record(raw: &Path) -> Result<()> {
    let mut record = fs::read("/usr/lib/syslinux/mbr/mbr.bin").context("syslinux' boot record is missing")?;
    record.resize(SECTOR_BYTES as usize, 0);
    let entry = &mut record[446..462];
    // Active; the cylinder numbers say "see the sector numbers"; type 0x0e is FAT by sector numbers.
    entry[..8].copy_from_slice(&[0x80, 0xfe, 0xff, 0xff, 0x0e, 0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&PARTITION_FIRST_SECTOR.to_le_bytes());
    entry[12..16].copy_from_slice(&PARTITION_SECTORS.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    let file = fs::File::create(raw).context("the disk cannot be written")?;
    file.set_len(DISK_BYTES).context("the disk cannot be given its size")?;
    file.write_all_at(&record, 0).context("the boot record cannot be written")
}
