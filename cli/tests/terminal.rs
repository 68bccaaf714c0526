//! At a terminal: the console in raw mode, and a password without echo. Whatever ends the command, the
//! terminal is afterwards as it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, tcgetattr},
};
use support::{
    Place,
    city::{City, PASSWORD},
};

/// Generous: two loaded cores.
const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal with somebody at it.
struct Terminal {
    person: File,
    /// Kept open, so that its settings outlive the command.
    line: OwnedFd,
    shown: Arc<(Mutex<Vec<u8>>, Condvar)>,
}

impl Terminal {
    fn open() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let path = ptsname(&person, Vec::new()).unwrap();
        let line = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let person = File::from(person);
        let shown = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (mut reader, screen) = (person.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                screen.0.lock().unwrap().extend_from_slice(&buffer[..count]);
                screen.1.notify_all();
            }
        });
        Self { person, line, shown }
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.line).unwrap()
    }

    fn start(&self, mut command: Command) -> Child {
        let line = || self.line.as_fd().try_clone_to_owned().unwrap();
        command.stdin(line()).stdout(line()).stderr(line()).spawn().unwrap()
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.person.write_all(keys).unwrap();
    }

    /// Waits until that is on the screen.
    #[track_caller]
    fn expect(&self, wanted: &str) {
        let (lock, woken) = &*self.shown;
        let absent = |shown: &mut Vec<u8>| !String::from_utf8_lossy(shown).contains(wanted);
        let (shown, waited) = woken.wait_timeout_while(lock.lock().unwrap(), PATIENCE, absent).unwrap();
        assert!(!waited.timed_out(), "{wanted:?} is not in {:?}", String::from_utf8_lossy(&shown));
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.shown.0.lock().unwrap()).into_owned()
    }
}

fn same(a: &Termios, b: &Termios) -> bool {
    (a.input_modes, a.output_modes, a.control_modes, a.local_modes)
        == (b.input_modes, b.output_modes, b.control_modes, b.local_modes)
}

fn with_vm() -> Place {
    let place = Place::new();
    City::begin(&place);
    let file = place.write("disk.raw", "some disk");
    place.over_socket(&format!("--project default image add {} --name debian", file.display())).ok();
    place.over_socket("--project default vm create web --image debian --flavor small --wait").ok();
    place
}

fn console(place: &Place) -> Command {
    let mut command = place.command();
    command.arg("--socket").arg(place.socket()).args(["vm", "console", "web"]);
    command
}

#[test]
fn the_console_takes_every_key_and_gives_the_terminal_back() {
    let place = with_vm();
    let mut terminal = Terminal::open();
    let before = terminal.settings();
    let mut child = terminal.start(console(&place));
    terminal.expect("login: ");
    assert!(!terminal.settings().local_modes.intersects(LocalModes::ICANON | LocalModes::ISIG));
    terminal.type_keys(b"hello\x03again");
    terminal.expect("HELLO\u{3}AGAIN");
    terminal.type_keys(b"\x1d");
    assert!(child.wait().unwrap().success());
    terminal.expect("the VM runs on");
    assert!(same(&terminal.settings(), &before));
}

#[test]
fn a_signal_ends_the_console_and_gives_the_terminal_back() {
    let place = with_vm();
    let terminal = Terminal::open();
    let before = terminal.settings();
    let mut child = terminal.start(console(&place));
    terminal.expect("login: ");
    assert!(!same(&terminal.settings(), &before));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(same(&terminal.settings(), &before));
}

#[test]
fn piped_input_is_sent_and_answered() {
    let place = with_vm();
    let mut command = console(&place);
    let file = place.write("typed", "who am i");
    command.stdin(File::open(file).unwrap());
    let said = support::said(command.output().unwrap()).ok();
    assert_eq!(said.out, "login: WHO AM I");
}

/// `image add`, of a file that takes more than one piece.
fn adding(place: &Place) -> Command {
    let file = place.write("large.raw", &"some disk".repeat(1 << 20));
    let mut command = place.command();
    command.arg("--socket").arg(place.socket()).args(["--project", "default", "image", "add"]).arg(file);
    command
}

#[test]
fn an_upload_has_a_bar_at_a_terminal() {
    let place = Place::new();
    City::begin(&place);
    let terminal = Terminal::open();
    let before = terminal.settings();
    let mut child = terminal.start(adding(&place));
    assert!(child.wait().unwrap().success(), "{}", terminal.screen());
    terminal.expect("Image large is usable.");
    let screen = terminal.screen();
    assert!(screen.contains('█') && screen.contains(" % ") && screen.contains("of 9.00 MiB"), "{screen:?}");
    assert!(same(&terminal.settings(), &before));
}

#[test]
fn an_upload_that_nobody_watches_is_told_in_plain_lines() {
    let place = Place::new();
    City::begin(&place);
    let told = support::said(adding(&place).output().unwrap()).ok();
    let lines: Vec<_> = told.err.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with("(9 MiB) as large."), "{told:#?}");
    assert_eq!(lines[1], "Image large is usable.");
    assert!(!told.err.contains(['\r', '\u{1b}', '█']), "{told:#?}");
}

#[test]
fn a_typed_password_is_not_shown_and_the_terminal_is_given_back() {
    let place = Place::new();
    let city = City::begin(&place);
    let ca = place.write("ca.pem", &city.ca);
    let mut terminal = Terminal::open();
    let before = terminal.settings();
    // Its own session, with this terminal as the controlling one: /dev/tty is where a password is typed.
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(env!("CARGO_BIN_EXE_scpctl"));
    command.args(["login", "--user", "ana", "--node", &city.address, "--ca"]).arg(ca);
    command.env("SCP_CONFIG", place.config());
    let mut child = terminal.start(command);
    terminal.expect("Password of ana: ");
    // Mistyped, taken back, typed anew.
    terminal.type_keys(format!("wrong\u{15}{PASSWORD}x\u{7f}\r").as_bytes());
    assert!(child.wait().unwrap().success(), "{}", terminal.screen());
    terminal.expect("lisboa");
    assert!(!terminal.screen().contains("horse"), "{}", terminal.screen());
    assert!(same(&terminal.settings(), &before));
}

#[test]
fn a_password_broken_off_with_ctrl_c_gives_the_terminal_back() {
    let place = Place::new();
    let city = City::begin(&place);
    let ca = place.write("ca.pem", &city.ca);
    let mut terminal = Terminal::open();
    let before = terminal.settings();
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(env!("CARGO_BIN_EXE_scpctl"));
    command.args(["login", "--user", "ana", "--node", &city.address, "--ca"]).arg(ca);
    command.env("SCP_CONFIG", place.config());
    let mut child = terminal.start(command);
    terminal.expect("Password of ana: ");
    terminal.type_keys(b"correct\x03");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(same(&terminal.settings(), &before));
    assert!(!place.config().exists());
}
