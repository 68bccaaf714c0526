//! The NoCloud seed: a small FAT volume labelled `cidata` that cloud-init reads at boot.
//!
//! ```text
//! meta-data        instance id, hostname, public keys
//! network-config   version 2: DHCPv4 on the network card with the VM's MAC
//! user-data        the user's bytes as they came
//! ```
//!
//! # Guarantees
//! - Pure and deterministic: the same order gives the same bytes, so that writing it twice is the same
//!   as once.
//! - A value stays one value: what is written into YAML is quoted ASCII, whatever it contains. Keys and
//!   ids with control characters are refused altogether.

use std::io::{self, Cursor, Write};

use fatfs::{DateTime, FileSystem, FormatVolumeOptions, FsOptions, TimeProvider};
use scp_model::op::EnsureVm;
use sha2::{Digest as _, Sha256};

/// Room for the largest user data, twenty keys and the file system itself; a FAT12 volume.
const VOLUME_BYTES: usize = 512 << 10;
/// What cloud-init looks for, padded as FAT wants it.
const LABEL: [u8; 11] = *b"cidata     ";

/// The order cannot be written as a seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    #[error("{what} holds a control character")]
    ControlCharacter { what: &'static str },
    #[error("the seed does not fit its volume: {0}")]
    TooLarge(String),
}

/// The seed volume of a VM.
pub fn build(order: &EnsureVm) -> Result<Vec<u8>, SeedError> {
    let meta_data = meta_data(order)?;
    let files: [(&str, &[u8]); 3] = [
        ("meta-data", meta_data.as_bytes()),
        ("network-config", &network_config(order.mac).into_bytes()),
        (
            "user-data",
            if order.seed.user_data.is_empty() { b"#cloud-config\n{}\n" } else { &order.seed.user_data },
        ),
    ];
    volume(&files, volume_id(order)).map_err(|error| SeedError::TooLarge(error.to_string()))
}

fn meta_data(order: &EnsureVm) -> Result<String, SeedError> {
    let seed = &order.seed;
    no_control("the instance id", &seed.instance_id)?;
    let mut text = format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        quoted(&seed.instance_id),
        quoted(seed.hostname.as_str())
    );
    if !seed.ssh_keys.is_empty() {
        text.push_str("public-keys:\n");
    }
    for key in &seed.ssh_keys {
        no_control("an SSH key", key)?;
        text.push_str(&format!("  - {}\n", quoted(key)));
    }
    Ok(text)
}

fn network_config(mac: [u8; 6]) -> String {
    let mac = mac_text(mac);
    format!(
        "version: 2\nethernets:\n  nic0:\n    match:\n      macaddress: {}\n    dhcp4: true\n",
        quoted(&mac)
    )
}

/// `52:54:00:…`
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn no_control(what: &'static str, text: &str) -> Result<(), SeedError> {
    if text.chars().any(char::is_control) { Err(SeedError::ControlCharacter { what }) } else { Ok(()) }
}

/// A YAML double-quoted scalar in printable ASCII, for YAML 1.1 and 1.2 alike. JSON's quoting is not
/// enough: it lets through what YAML 1.1 takes for line breaks (U+0085, U+2028, U+2029).
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            '\0'..='\u{ff}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{100}'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// The volume's serial number, from the VM: two seeds are told apart.
fn volume_id(order: &EnsureVm) -> u32 {
    let digest = Sha256::digest(order.vm.0.as_bytes());
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// Every file is of one fixed moment: the volume depends on its contents only.
#[derive(Debug)]
struct FixedTime;

impl TimeProvider for FixedTime {
    fn get_current_date(&self) -> fatfs::Date {
        fatfs::Date { year: 2000, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        let time = fatfs::Time { hour: 0, min: 0, sec: 0, millis: 0 };
        DateTime { date: self.get_current_date(), time }
    }
}

fn volume(files: &[(&str, &[u8])], id: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; VOLUME_BYTES];
    let format = FormatVolumeOptions::new().volume_label(LABEL).volume_id(id);
    fatfs::format_volume(Cursor::new(bytes.as_mut_slice()), format)?;
    let options = FsOptions::new().time_provider(&FixedTime);
    let volume = FileSystem::new(Cursor::new(bytes.as_mut_slice()), options)?;
    for (name, content) in files {
        volume.root_dir().create_file(name)?.write_all(content)?;
    }
    volume.unmount()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;
    use scp_model::Name;

    use super::*;
    use crate::domain_xml::tests::order;

    /// What a reader other than the writer finds in the volume.
    fn read_back(volume: &[u8], name: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("seed.img");
        std::fs::write(&path, volume).expect("writes");
        let out =
            Command::new("mtype").arg("-i").arg(&path).arg(format!("::{name}")).output().expect("mtools");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    #[test]
    fn the_seed_is_as_recorded() {
        let order = order();
        let seed = format!(
            "== meta-data\n{}== network-config\n{}",
            meta_data(&order).expect("a plain order"),
            network_config(order.mac)
        );
        crate::golden::check("seed.txt", &seed);
    }

    #[test]
    fn mtools_reads_what_was_written() {
        let mut order = order();
        order.seed.user_data = (0..scp_model::vm::USER_DATA_BYTES_MAX).map(|at| at as u8).collect();
        let volume = build(&order).expect("fits");
        assert_eq!(read_back(&volume, "user-data"), order.seed.user_data);
        assert_eq!(read_back(&volume, "meta-data"), meta_data(&order).expect("plain").into_bytes());
        assert_eq!(read_back(&volume, "network-config"), network_config(order.mac).into_bytes());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("seed.img");
        std::fs::write(&path, &volume).expect("writes");
        let out = Command::new("blkid").args(["-p", "-o", "export"]).arg(&path).output().expect("blkid");
        let told = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(told.lines().any(|line| line == "LABEL=cidata"), "{told}");
    }

    #[test]
    fn the_same_order_gives_the_same_bytes() {
        assert_eq!(build(&order()), build(&order()));
        let mut other = order();
        other.seed.hostname = Name::new("other").expect("a name");
        assert_ne!(build(&order()), build(&other));
    }

    #[test]
    fn control_characters_are_refused() {
        let mut order = order();
        order.seed.ssh_keys.push("ssh-ed25519 AAAA\nruncmd: [reboot]".into());
        assert_eq!(build(&order), Err(SeedError::ControlCharacter { what: "an SSH key" }));
    }

    proptest! {
        #[test]
        fn a_quoted_value_is_one_line_of_printable_ascii(text: String) {
            let quoted = quoted(&text);
            prop_assert!(quoted.chars().all(|c| matches!(c, ' '..='~')));
            // No quote inside ends it early.
            let inner = &quoted[1..quoted.len() - 1];
            let mut escaped = false;
            for c in inner.chars() {
                prop_assert!(escaped || c != '"');
                escaped = !escaped && c == '\\';
            }
            prop_assert!(!escaped);
        }
    }
}
