//! The checks that every implementation of [`Disk`](super::Disk) passes.

use super::{Disk, DiskError};

/// Runs all checks on an empty disk.
pub fn check(disk: &dyn Disk) {
    a_created_file_is_zeroed_and_whole(disk);
    what_was_written_is_read(disk);
    names_are_created_once_renamed_over_and_removed(disk);
    replace_replaces(disk);
    an_open_file_outlives_its_name(disk);
}

fn a_created_file_is_zeroed_and_whole(disk: &dyn Disk) {
    let file = disk.create("whole", 10_000).expect("there is space");
    assert_eq!(file.size(), Ok(10_000));
    let mut bytes = vec![1; 10_000];
    file.read_at(0, &mut bytes).expect("the whole file reads");
    assert!(bytes.iter().all(|&byte| byte == 0), "a created file is zeroed");
    assert!(file.read_at(9_999, &mut [0; 2]).is_err(), "reading beyond the end is an error");
    disk.remove("whole").expect("removes");
}

fn what_was_written_is_read(disk: &dyn Disk) {
    let file = disk.create("written", 8192).expect("there is space");
    file.write_at(4000, b"across a page").expect("inside the file");
    file.sync().expect("syncs");
    let mut bytes = [0; 13];
    disk.open("written").expect("exists").read_at(4000, &mut bytes).expect("reads");
    assert_eq!(&bytes, b"across a page");
    disk.remove("written").expect("removes");
}

fn names_are_created_once_renamed_over_and_removed(disk: &dyn Disk) {
    disk.create("a", 1).expect("there is space").write_at(0, b"a").expect("inside");
    disk.create("b", 1).expect("there is space").write_at(0, b"b").expect("inside");
    assert_eq!(disk.create("a", 1).err(), Some(DiskError::Exists("a".into())));
    disk.rename("a", "b").expect("replaces");
    disk.sync_dir().expect("syncs");
    assert_eq!(disk.list().expect("lists"), ["b"]);
    assert_eq!(disk.open("a").err(), Some(DiskError::NotFound("a".into())));
    let mut byte = [0];
    disk.open("b").expect("exists").read_at(0, &mut byte).expect("reads");
    assert_eq!(&byte, b"a");
    disk.remove("b").expect("removes");
    disk.remove("b").expect("removing twice is no error");
    assert!(disk.list().expect("lists").is_empty());
}

fn replace_replaces(disk: &dyn Disk) {
    disk.replace("small", b"first").expect("writes");
    disk.replace("small", b"2nd").expect("writes");
    let file = disk.open("small").expect("exists");
    assert_eq!(file.size(), Ok(3));
    let mut bytes = [0; 3];
    file.read_at(0, &mut bytes).expect("reads");
    assert_eq!(&bytes, b"2nd");
    disk.remove("small").expect("removes");
    assert!(disk.list().expect("lists").is_empty(), "replace leaves nothing behind");
}

fn an_open_file_outlives_its_name(disk: &dyn Disk) {
    let file = disk.create("gone", 4).expect("there is space");
    file.write_at(0, b"gone").expect("inside");
    disk.remove("gone").expect("removes");
    let mut bytes = [0; 4];
    file.read_at(0, &mut bytes).expect("still reads");
    assert_eq!(&bytes, b"gone");
}
