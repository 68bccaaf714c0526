//! The record that a VM's definition carries, read back from whatever the hypervisor holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_drivers::record::Record;

fuzz_target!(|xml: &str| {
    let _ = Record::parse(xml);
});
