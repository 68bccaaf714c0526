//! SSH keys: telling a public key from anything else that people hand over, and making a pair for those
//! who have none.

use std::path::Path;

use data_encoding::{BASE64, BASE64_MIME};
use ed25519_dalek::SigningKey;

use crate::error::{CliError, Result};

/// Larger than any public key that OpenSSH writes.
const KEY_FILE_BYTES_MAX: u64 = 16 << 10;

/// A pair as the files that `ssh-keygen` would have written.
pub struct Pair {
    /// One line for `authorized_keys`.
    pub public: String,
    /// `-----BEGIN OPENSSH PRIVATE KEY-----…`, without a passphrase.
    pub private: String,
}

/// The line in a public key's file. A private key is refused before it leaves this machine.
pub fn read_public(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).map_err(|error| CliError::file(path, &error))?.len();
    if size > KEY_FILE_BYTES_MAX {
        return Err(not_public(path, "it is far too large"));
    }
    let text = std::fs::read(path).map_err(|error| CliError::file(path, &error))?;
    let Ok(text) = String::from_utf8(text) else { return Err(not_public(path, "it is not text")) };
    if text.contains("PRIVATE KEY") {
        return Err(not_public(path, "it holds a private key, which stays with you"));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let Some(line) = lines.next() else { return Err(not_public(path, "it is empty")) };
    if lines.next().is_some() {
        return Err(not_public(path, "it holds more than one key"));
    }
    Ok(line.to_owned())
}

fn not_public(path: &Path, why: &str) -> CliError {
    CliError::usage(format!("{} is not an SSH public key: {why}", path.display()))
        .remedy("give the file that ends in .pub, for example ~/.ssh/id_ed25519.pub")
}

/// An ed25519 pair from 32 random bytes.
pub fn pair(secret: [u8; 32], comment: &str) -> Pair {
    let key = SigningKey::from_bytes(&secret);
    let public = key.verifying_key().to_bytes();
    let mut blob = Vec::new();
    put(&mut blob, b"ssh-ed25519");
    put(&mut blob, &public);

    // OpenSSH's PROTOCOL.key, unencrypted: the check number twice, the key, the comment, padding 1 2 3 ….
    let mut inner = Vec::new();
    let check: [u8; 4] = [public[0], public[1], public[2], public[3]];
    inner.extend(check);
    inner.extend(check);
    put(&mut inner, b"ssh-ed25519");
    put(&mut inner, &public);
    put(&mut inner, &[secret, public].concat());
    put(&mut inner, comment.as_bytes());
    let padding = inner.len().next_multiple_of(8) - inner.len();
    inner.extend((1..=8u8).take(padding));

    let mut file = b"openssh-key-v1\0".to_vec();
    put(&mut file, b"none");
    put(&mut file, b"none");
    put(&mut file, b"");
    file.extend(1u32.to_be_bytes());
    put(&mut file, &blob);
    put(&mut file, &inner);
    let body = BASE64_MIME.encode(&file).replace('\r', "");
    Pair {
        public: format!("ssh-ed25519 {} {comment}", BASE64.encode(&blob)),
        private: format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
            body.trim_end()
        ),
    }
}

/// A string as SSH writes it: length, then bytes.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("keys and comments are far below 4 GiB");
    out.extend(length.to_be_bytes());
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        read_public(file.path())
    }

    #[test]
    fn a_private_key_never_leaves_the_machine() {
        let error = read(pair([7; 32], "me").private.as_bytes()).unwrap_err();
        assert!(error.what.contains("private key"), "{}", error.what);
        assert!(error.remedy.unwrap().contains(".pub"));
    }

    #[test]
    fn a_public_key_is_its_one_line() {
        let public = pair([7; 32], "me").public;
        assert_eq!(read(format!("# mine\n\n{public}\n").as_bytes()).unwrap(), public);
        assert!(read(b"").is_err());
        assert!(read(b"\xff\xfe").is_err());
        assert!(read(format!("{public}\n{public}\n").as_bytes()).is_err());
        assert!(read(&vec![b'a'; 20 << 10]).is_err());
    }

    #[test]
    fn openssh_reads_the_pair_that_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        for secret in [[7; 32], [0; 32], [0xff; 32]] {
            let pair = pair(secret, "web-1");
            crate::contexts::replace(&path, pair.private.as_bytes(), 0o600).unwrap();
            let output =
                match std::process::Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output() {
                    Ok(output) => output,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
                    Err(error) => panic!("{error}"),
                };
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), pair.public);
        }
    }
}
