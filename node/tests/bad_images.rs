//! Images that lie, uploaded over HTTP to a real node: each is refused with its reason, and nothing of it
//! is left.

mod site;

use std::{fmt::Write, fs, path::Path, process::Command};

use scp_api::{cluster::Consistency, server::listen};
use scp_node::local;
use serde_json::Value;
use site::{Server, Site, door, eventually};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use uuid::Uuid;

/// What is said of the length.
#[derive(Debug, Clone, Copy)]
enum Length {
    True,
    /// This header, whatever the body is.
    Says(&'static str),
    /// More than is sent, by one.
    OneMore,
    /// Less than is sent, by one.
    OneLess,
}

/// What comes of it.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// The bytes are not taken in: the reason for programs, and a word of what is told.
    Content(&'static str, &'static str),
    /// The request is not taken at all: its status and code.
    Request(u16, &'static str),
}
use Length::{OneLess, OneMore, Says, True};
use Verdict::{Content, Request};

type Case = (&'static str, Vec<u8>, Length, Verdict);

const HEADER: &str = "image_header_invalid";
const FORMAT: &str = "image_format_unsupported";
const SIZE: &str = "image_virtual_size";

/// What `qemu-img` makes, by name; all of them called `.qcow2`.
struct Files(TempDir);

impl Files {
    fn make() -> Self {
        let files = Self(tempfile::tempdir().expect("a directory"));
        files.qemu_img("create -q -f raw base.qcow2 1M");
        files.qemu_img("create -q -f qcow2 plain.qcow2 1M");
        files.qemu_img("create -q -f qcow2 -F raw -b base.qcow2 backed.qcow2");
        files.qemu_img("create -q -f qcow2 -o data_file=data,data_file_raw=on external.qcow2 1M");
        for format in ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
            files.qemu_img(&format!("convert -O {format} base.qcow2 {format}.qcow2"));
        }
        files
    }

    fn qemu_img(&self, words: &str) {
        let output = Command::new("qemu-img").args(words.split(' ')).current_dir(self.0.path()).output();
        let output = output.expect("qemu-img runs");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.path().join(format!("{name}.qcow2"))).expect("was just made")
    }

    /// A sound image, but for these bytes.
    fn with<const N: usize>(&self, at: usize, bytes: [u8; N]) -> Vec<u8> {
        let mut plain = self.read("plain");
        plain[at..at + N].copy_from_slice(&bytes);
        plain
    }

    /// The header is in order; the table that it points to is not. Only qemu-img sees that.
    fn twisted(&self) -> Vec<u8> {
        let plain = self.read("plain");
        let table = u64::from_be_bytes(plain[40..48].try_into().expect("eight bytes"));
        self.with(usize::try_from(table).expect("a small file"), 0x8000_00ff_ffff_0000u64.to_be_bytes())
    }
}

/// A megabyte that begins with a mark.
fn marked(at: usize, mark: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    bytes[at..at + mark.len()].copy_from_slice(mark);
    bytes
}

fn headers_that_lie(files: &Files) -> Vec<Case> {
    let plain = files.read("plain");
    vec![
        ("another file's magic", marked(0, b"QFI\xfb"), True, Content(HEADER, "version 0")),
        ("cut in the middle", plain[..plain.len() / 2].to_vec(), True, Content(HEADER, "cut short")),
        ("cut in its header", plain[..50].to_vec(), True, Content(HEADER, "ends within")),
        ("a backing file", files.read("backed"), True, Content("image_backing_file", "flatten it")),
        ("an external data file", files.read("external"), True, Content("image_external_data", "one file")),
        ("encrypted", files.with(32, [0, 0, 0, 1]), True, Content("image_encrypted", "no key")),
        ("internal snapshots", files.with(60, [0, 0, 0, 1]), True, Content("image_snapshots", "qemu-img")),
        (
            "16 EiB for the guest",
            files.with(24, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0]),
            True,
            Content(SIZE, "16 TiB"),
        ),
        ("nothing for the guest", files.with(24, [0; 8]), True, Content(SIZE, "above 0")),
        ("half a sector for the guest", files.with(30, [1, 0]), True, Content(SIZE, "multiple of 512")),
        ("not closed", files.with(79, [1]), True, Content("image_dirty", "qemu-img check")),
        ("marked corrupt", files.with(79, [2]), True, Content("image_dirty", "qemu-img check")),
        ("features of tomorrow", files.with(72, [1]), True, Content("image_feature_unknown", "0x1")),
        ("version 4", files.with(7, [4]), True, Content(HEADER, "version 4")),
        ("clusters of 4 GiB", files.with(23, [32]), True, Content(HEADER, "2^32")),
        ("a header larger than the file", files.with(100, [0xff; 4]), True, Content(HEADER, "out of range")),
        ("a table outside the file", files.with(40, [1]), True, Content(HEADER, "outside the file")),
        ("four billion table entries", files.with(36, [0xff; 4]), True, Content(HEADER, "entries")),
        ("a table that points outside", files.twisted(), True, Content("image_corrupt", "qemu-img check -r")),
    ]
}

fn other_formats(files: &Files) -> Vec<Case> {
    vec![
        ("VMDK", files.read("vmdk"), True, Content(FORMAT, "qemu-img convert -f vmdk")),
        ("VDI", files.read("vdi"), True, Content(FORMAT, "VDI")),
        ("VHDX", files.read("vhdx"), True, Content(FORMAT, "VHDX")),
        ("VHD", files.read("vpc"), True, Content(FORMAT, "VHD")),
        ("QED", files.read("qed"), True, Content(FORMAT, "QED")),
        ("Parallels", files.read("parallels"), True, Content(FORMAT, "Parallels")),
        ("qcow, version 1", marked(0, b"QFI\xfb\0\0\0\x01"), True, Content(FORMAT, "version 1")),
        ("LUKS", marked(0, b"LUKS\xba\xbe"), True, Content(FORMAT, "decrypt it")),
        ("ISO 9660", marked(0x8001, b"CD001"), True, Content(FORMAT, "installation medium")),
        ("gzip", marked(0, b"\x1f\x8b\x08"), True, Content(FORMAT, "gunzip FILE")),
        ("xz", marked(0, b"\xfd7zXZ\0"), True, Content(FORMAT, "unxz FILE")),
        ("zstd", marked(0, b"\x28\xb5\x2f\xfd"), True, Content(FORMAT, "unzstd FILE")),
        ("zip", marked(0, b"PK\x03\x04"), True, Content(FORMAT, "unzip FILE")),
        ("tar", marked(257, b"ustar"), True, Content(FORMAT, "tar xf")),
        ("a program", marked(0, b"\x7fELF"), True, Content(FORMAT, "not a disk")),
        ("a web page", marked(0, b"<!DOCTYPE html>"), True, Content(FORMAT, "went wrong")),
        ("a note", b"the image is on the other disk".to_vec(), True, Content("image_raw_size", "cut short")),
    ]
}

fn lengths_that_lie(files: &Files) -> Vec<Case> {
    let plain = || files.read("plain");
    vec![
        ("empty", vec![], True, Request(422, "bad_content")),
        ("of unknown length", plain(), Says("Transfer-Encoding: chunked"), Request(411, "length_required")),
        ("8 EiB", vec![], Says("Content-Length: 9223372036854775807"), Request(413, "too_large")),
        ("more than 64 bits", vec![], Says("Content-Length: 18446744073709551616"), Request(400, "")),
        ("less than nothing", vec![], Says("Content-Length: -1"), Request(400, "")),
        ("two lengths", vec![], Says("Content-Length: 5\r\nContent-Length: 7"), Request(400, "")),
        ("larger than declared", plain(), OneLess, Content(HEADER, "cut short")),
        ("broken off", plain(), OneMore, Content("broken_off", "did not arrive whole")),
    ]
}

/// A node's local door, as root's programs reach it.
struct Served {
    city: Vec<Server>,
    dir: TempDir,
}

impl Served {
    async fn begin() -> Self {
        let city = Site::new().city(1).await;
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("sock")).expect("a socket");
        let router = local::router(city[0].daemon.clone());
        tokio::spawn(listen::serve_unix(listener, router, std::future::pending()));
        Self { city, dir }
    }

    /// Sends an upload to its end; gives the answer's status and body, if there was one.
    async fn upload(&self, body: &[u8], length: Length) -> Option<(u16, Value)> {
        let mut head = format!("PUT /v1/images/{}?name=debian&project=default HTTP/1.1\r\n", Uuid::new_v4());
        head += "Host: scpd\r\nConnection: close\r\nContent-Type: application/octet-stream\r\n";
        let said = match length {
            True => write!(head, "Content-Length: {}", body.len()),
            OneMore => write!(head, "Content-Length: {}", body.len() + 1),
            OneLess => write!(head, "Content-Length: {}", body.len() - 1),
            Says(header) => write!(head, "{header}"),
        };
        said.expect("a string grows");
        let talk = async {
            let mut socket = UnixStream::connect(self.dir.path().join("sock")).await.expect("it listens");
            // What is refused at its head may be closed before its body is sent.
            let _ = socket.write_all(&[head.as_bytes(), b"\r\n\r\n", body].concat()).await;
            if matches!(length, OneMore) {
                socket.shutdown().await.expect("it is open");
            }
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer).await;
            answer
        };
        let answer = timeout(site::PATIENCE, talk).await.expect("it answers or closes");
        let answer = String::from_utf8(answer).expect("an answer is text");
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }

    fn images(&self) -> std::path::PathBuf {
        self.city[0].config.data_dir.join("images")
    }
}

fn files_under(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files_under(&path) } else { 1 }).sum()
}

fn judge(what: &str, answer: Option<(u16, Value)>, verdict: Verdict) {
    match (verdict, answer) {
        (Request(status, code), Some((got, problem))) => {
            assert_eq!(
                (got, problem["code"].as_str().unwrap_or_default()),
                (status, code),
                "{what}: {problem}"
            );
        }
        (Content(reason, told), Some((status, problem))) => {
            let got = (status, problem["code"].as_str(), problem["reason"].as_str());
            assert_eq!(got, (422, Some("bad_content"), Some(reason)), "{what}: {problem}");
            assert!(
                problem["detail"].as_str().is_some_and(|detail| detail.contains(told)),
                "{what}: {problem}"
            );
        }
        (verdict, None) => panic!("{what}: {verdict:?} was due, and there was no answer"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_lie_are_refused_with_their_reason_and_leave_nothing() {
    let (served, files) = (Served::begin().await, Files::make());
    let cases = [headers_that_lie(&files), other_formats(&files), lengths_that_lie(&files)].concat();
    for (what, bytes, length, verdict) in cases {
        judge(what, served.upload(&bytes, length).await, verdict);
    }
    let read = door(&served.city[0]).read(Consistency::Linearizable).await.expect("it reads");
    assert!(read.state.images.is_empty(), "{:?}", read.state.images);
    // Collected beside the answer, and for the one that broke off without any.
    eventually("nothing is left of them", async || {
        ["chunks", "tmp", "base", "held"].iter().all(|part| files_under(&served.images().join(part)) == 0)
    })
    .await;
    let (status, image) = served.upload(&files.read("plain"), True).await.expect("an answer");
    assert_eq!((status, image["name"].as_str()), (201, Some("debian")), "what is sound is taken: {image}");
    assert!(files_under(&served.images().join("chunks")) > 0, "this is where they would have been");
}
