//! The terminal: passwords without echo, and raw mode for consoles. Whatever happens in between, the
//! terminal's settings come back: the guard restores them when it is dropped, on errors and panics too.

use std::{
    fs::File,
    io::{IsTerminal, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::error::{CliError, Result};

/// The longest password taken from a file or pipe.
const PASSWORD_BYTES_MAX: u64 = 1024;

/// Settings of a terminal, put back on drop.
pub struct Restore {
    terminal: OwnedFd,
    before: Termios,
}

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Every key goes to the guest, Ctrl-C included.
pub fn raw(terminal: OwnedFd) -> std::io::Result<Restore> {
    change(terminal, |settings| settings.make_raw())
}

/// Keys one by one, unseen; Ctrl-C arrives as a byte, so that it cannot end us with the echo off.
fn unseen(terminal: OwnedFd) -> std::io::Result<Restore> {
    change(terminal, |settings| {
        settings.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        settings.special_codes[SpecialCodeIndex::VMIN] = 1;
        settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    })
}

fn change(terminal: OwnedFd, how: impl FnOnce(&mut Termios)) -> std::io::Result<Restore> {
    let before = tcgetattr(&terminal)?;
    let mut after = before.clone();
    how(&mut after);
    // What was typed already stays: somebody fast may have begun.
    tcsetattr(&terminal, OptionalActions::Drain, &after)?;
    Ok(Restore { terminal, before })
}

/// A password from a file, a pipe on stdin (`-`), or typed at the terminal. Never from the command line,
/// where every user of the machine could read it.
pub fn password(prompt: &str, file: Option<&Path>) -> Result<String> {
    match file {
        Some(path) if path == Path::new("-") => take(&mut std::io::stdin().lock(), "stdin"),
        Some(path) => {
            let mut file = File::open(path).map_err(|error| CliError::file(path, &error))?;
            take(&mut file, &path.display().to_string())
        }
        None => typed(prompt),
    }
}

/// The first line of `from`, without its end.
fn take(from: &mut impl Read, name: &str) -> Result<String> {
    let mut text = String::new();
    from.take(PASSWORD_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| CliError::usage(format!("no password can be read from {name}: {error}")))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(CliError::usage(format!("{name} holds no password")));
    }
    if text.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(CliError::usage(format!(
            "{name} holds more than {PASSWORD_BYTES_MAX} bytes: is it the right file?"
        )));
    }
    Ok(line.to_owned())
}

fn typed(prompt: &str) -> Result<String> {
    let no_terminal = || {
        CliError::usage("a password is needed and there is no terminal to type it at")
            .remedy("give it in a file (--password-file FILE) or a pipe (--password-file -)")
    };
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| no_terminal())?;
    if !terminal.is_terminal() {
        return Err(no_terminal());
    }
    let handle = terminal.try_clone().map_err(|_| no_terminal())?;
    // Before it is asked for: whoever sees the prompt may type.
    let restore = unseen(handle.into()).map_err(|_| no_terminal())?;
    let _ = write!(terminal, "{prompt}: ");
    let line = read_unseen(&mut terminal);
    drop(restore);
    let _ = writeln!(terminal);
    match line? {
        Some(password) if !password.is_empty() => Ok(password),
        Some(_) => Err(CliError::usage("the password is empty")),
        None => Err(CliError::failed("broken off")),
    }
}

/// A line typed key by key; `None`: broken off with Ctrl-C or Ctrl-D.
fn read_unseen(from: &mut impl Read) -> Result<Option<String>> {
    let mut line: Vec<u8> = Vec::new();
    let mut key = [0u8; 1];
    loop {
        match from.read(&mut key) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CliError::failed(format!("the terminal cannot be read: {error}"))),
        }
        match key[0] {
            b'\r' | b'\n' => {
                let line =
                    String::from_utf8(line).map_err(|_| CliError::usage("the password is not UTF-8 text"))?;
                return Ok(Some(line));
            }
            3 | 4 => return Ok(None),
            8 | 127 => {
                // One character, however many bytes it has.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            // Ctrl-U
            21 => line.clear(),
            byte if (line.len() as u64) < PASSWORD_BYTES_MAX => line.push(byte),
            _ => {}
        }
    }
}

/// Whether the person at the terminal says yes. Without a terminal, `--yes` is needed.
pub fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let refused = || CliError::usage(format!("{question} Not confirmed")).remedy("say --yes to mean it");
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|_| refused())?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line() {
        assert_eq!(take(&mut "correct horse\n".as_bytes(), "x").unwrap(), "correct horse");
        assert_eq!(take(&mut " spaces stay \r\nmore".as_bytes(), "x").unwrap(), " spaces stay ");
        assert!(take(&mut "".as_bytes(), "x").is_err());
        assert!(take(&mut "\n".as_bytes(), "x").is_err());
        assert!(take(&mut "x".repeat(2000).as_bytes(), "x").is_err());
        assert!(take(&mut [0xff, 0xfe].as_slice(), "x").is_err());
    }

    #[test]
    fn typing_can_be_corrected_and_broken_off() {
        let typed = |keys: &[u8]| read_unseen(&mut &*keys).unwrap();
        assert_eq!(typed(b"secret\r"), Some("secret".into()));
        assert_eq!(typed("caf\u{e9}\u{7f}e\n".as_bytes()), Some("cafe".into()));
        assert_eq!(typed(b"wrong\x15right\n"), Some("right".into()));
        assert_eq!(typed(b"\x7f\x7fa\n"), Some("a".into()));
        assert_eq!(typed(b"sec\x03"), None);
        assert_eq!(typed(b"sec"), None);
    }
}
