//! Logs in on a guest's serial console, whatever program relays it, and runs commands there.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use scp_servers::wait_until;

/// A guest under emulation boots in seconds on an idle machine.
const BOOT_WITHIN: Duration = Duration::from_secs(120);
/// Typing at it is answered at once, unless the machine is very busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Ctrl-], which leaves the console.
const ESCAPE: u8 = 0x1d;

/// An open console.
#[derive(Debug)]
pub struct Console {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
    /// How much of what was shown has been waited for.
    seen: usize,
}

impl Console {
    /// `command` relays it, as `scpctl vm console NAME` does.
    pub fn open(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("what relays the console cannot be started")?;
        let keys = child.stdin.take().expect("stdin was asked to be a pipe");
        let mut stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let screen = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                screen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        Ok(Self { child, keys, shown, seen: 0 })
    }

    fn text(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown[self.seen.min(shown.len())..]).into_owned()
    }

    /// Waits until one of the texts is shown after what was waited for before; says which.
    fn expect(&mut self, limit: Duration, texts: &[&str]) -> Result<usize> {
        let found = wait_until(limit, || {
            let text = self.text();
            texts
                .iter()
                .enumerate()
                .find_map(|(which, wanted)| Some((which, text.find(wanted)? + wanted.len())))
        });
        let Some((which, behind)) = found else {
            bail!("the console never showed {}; it showed:\n{}", texts.join(" or "), self.text());
        };
        self.seen += behind;
        Ok(which)
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        self.keys.write_all(format!("{line}\r").as_bytes()).context("the console has ended")?;
        self.keys.flush().context("the console has ended")
    }

    /// Logs in as root, unless a shell is there already.
    pub fn log_in(&mut self) -> Result<()> {
        // A key makes a prompt that scrolled by appear again; before the guest is up it goes nowhere.
        let mut asked = false;
        let begun = scp_servers::now();
        while !asked {
            self.type_line("")?;
            asked = match self.expect(Duration::from_secs(3), &["login:", "# "]) {
                Ok(which) => {
                    if which == 1 {
                        return Ok(());
                    }
                    true
                }
                Err(error) if begun.elapsed() > BOOT_WITHIN => return Err(error),
                Err(_) => false,
            };
        }
        self.type_line("root")?;
        self.expect(ANSWER_WITHIN, &["# "]).map(drop)
    }

    /// Runs a command and gives what it wrote. The marks around it are put together by the guest's shell,
    /// so the echo of what was typed is not taken for the answer.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.type_line(&format!("echo scp''-begin; {command}; echo scp''-end"))?;
        self.expect(ANSWER_WITHIN, &["scp-begin"])?;
        let from = self.seen;
        self.expect(ANSWER_WITHIN, &["scp-end"])?;
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&shown[from..self.seen]);
        Ok(text.trim_end_matches("scp-end").trim().replace('\r', ""))
    }

    /// Leaves it as a person does, and sees that it ends well.
    pub fn leave(mut self) -> Result<()> {
        self.keys.write_all(&[ESCAPE]).context("the console has ended")?;
        self.ends()
    }

    /// Waits for the end of what relays it, and sees that it is a good one.
    pub fn ends(mut self) -> Result<()> {
        let ended = wait_until(ANSWER_WITHIN, || self.child.try_wait().ok().flatten());
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the console ended with {status}"),
            None => bail!("the console does not end"),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Ours, by its handle; gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest made of a shell: it asks for a name, then echoes and answers commands that end as a
    /// terminal ends them.
    const GUEST: &str = r#"
        line() { read -r -d $'\r' "$1"; }
        line key; printf 'boot noise\nweb login: '
        line name; printf '# '
        while line command; do echo "$command"; eval "$command"; printf '# '; done
    "#;

    #[test]
    fn a_command_is_answered_without_its_echo() {
        let mut console = Console::open(Command::new("bash").args(["-c", GUEST])).expect("starts");
        console.log_in().expect("logs in");
        assert_eq!(console.run("echo hello").expect("answers"), "hello");
        assert_eq!(console.run("echo $((6*7))").expect("answers"), "42");
    }
}
