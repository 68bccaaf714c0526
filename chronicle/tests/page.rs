//! The page of a made-up run: one file, well formed, everything in it, and a real browser shows it.

mod example;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use scp_chronicle::{Operation, Outcome, Record, page};

/// The text of an element that begins so.
fn count(page: &str, what: &str) -> usize {
    page.matches(what).count()
}

#[test]
fn a_page_loads_nothing_and_shows_what_is_hostile_as_text() {
    let page = page::page(&example::run());
    for loads in ["src=", "href=", "url(http", "@import", "//cdn", "http://", "https://"] {
        assert_eq!(count(&page, loads), 0, "{loads} in the page");
    }
    // Ours, and no other.
    assert_eq!((count(&page, "<script"), count(&page, "<style")), (1, 1));
    assert!(page.contains("&lt;script&gt;document.title="), "the text of the run is not there");
    assert_eq!(count(&page, "<script>document"), 0);
}

/// HTML that closes what it opens can be read as XML, but for its void elements.
#[test]
fn every_element_is_closed() {
    let page = page::page(&example::run());
    let mut open = Vec::new();
    let body =
        page.split_once("<style>").and_then(|(head, rest)| Some((head, rest.split_once("</style>")?.1)));
    let (head, rest) = body.expect("the page has a style");
    let (rest, end) = rest.split_once("<script>").expect("the page has a script");
    let end = end.split_once("</script>").expect("the script is closed").1;
    let text = format!("{}{rest}{end}", head.trim_start_matches("<!DOCTYPE html>"));
    let mut reader = quick_xml::Reader::from_str(&text);
    reader.config_mut().check_end_names = false;
    loop {
        use quick_xml::events::Event;
        match reader.read_event().expect("the page is well formed") {
            Event::Start(tag) if tag.name().as_ref() != "meta" => {
                open.push(tag.name().as_ref().to_string());
            }
            Event::End(tag) => {
                assert_eq!(open.pop().as_deref(), Some(tag.name().as_ref()));
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(open, Vec::<String>::new());
}

#[test]
fn a_long_run_makes_a_page_of_a_few_megabytes() {
    let mut record = example::run();
    record.end = 3_600_000_000;
    let request = |number: u64| Operation {
        client: format!("client {}", number % 20),
        node: None,
        begun: number * 18_000,
        ended: Some(number * 18_000 + 5_000),
        what: "write register-1".into(),
        outcome: Outcome::Ok,
    };
    record.operations = (0..200_000).map(request).collect();
    record.finish();
    let page = page::page(&record);
    assert!(page.len() < 8 << 20, "{} bytes", page.len());
    assert!(page.contains("marks did not fit"), "nothing is said of what was left out");
}

/// Debian's; `cargo xtask test` installs it.
fn browser(options: &[&str], page: &Path) -> String {
    let profile = tempfile::tempdir().expect("a directory for the browser's profile");
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--window-size=1500,1300", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(options)
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .expect("chromium runs: `apt-get install chromium`, or `cargo xtask test` installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn written(record: &Record) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory for the page");
    let path = dir.path().join("run.html");
    std::fs::write(&path, page::page(record)).expect("the page can be written");
    (dir, path)
}

/// The browser's own tree: what it made of the page after its script ran.
#[test]
fn a_browser_shows_every_part_of_the_run() {
    let (_dir, path) = written(&example::run());
    let dom = browser(&["--dump-dom"], &path);
    let told = |what: &str| assert!(dom.contains(what), "the browser's tree lacks {what}");
    told("<title>BROKEN: scp-sim, seed 7</title>");
    told("VM vm-1 epoch 17 runs on n1 and n2");
    told("cargo run --profile sim -p scp-sim -- --seed 7 --report");
    told("0123456789abcdef");
    for fault in ["crash", "power", "pause", "partition", "oneway", "slow", "lossy", "clock", "full", "stall"]
    {
        told(&format!("id=\"p-{fault}\""));
        told(&format!("data-fault=\"{fault}\""));
    }
    told("n2 leads in term 1, 0.450 to 7.000 s (6550 ms)");
    told("n3 leads in term 2");
    told("vm-1 on n1, epoch 15: granted 10.000 to 31.000 s");
    // It moved, and was not stopped where it was.
    assert!(count(&dom, "<path d=\"M") >= 2, "no curve of a VM that moves");
    told("class=\"ran late\"");
    for outcome in ["ok", "refused", "unknown", "failed"] {
        told(&format!("mark op {outcome}"));
    }
    // Rows take the focus: the leader's, three nodes', two clients'.
    assert_eq!(count(&dom, "<g class=\"band\" tabindex=\"0\""), 6);
    assert_eq!(count(&dom, "<script>"), 1);
}

/// The policy lets the page's own script run: it answers to a key, and hostile text does not.
#[test]
fn the_script_of_the_page_runs_and_no_other() {
    let record = example::run();
    let (_dir, path) = written(&record);
    // A second script, as a flaw in escaping would let in, is refused by the policy.
    let page = std::fs::read_to_string(&path).expect("it was written");
    let forged = page.replace("</body>", "<script>document.title = 'taken'</script></body>");
    std::fs::write(&path, forged).expect("it can be written");
    let dom = browser(&["--dump-dom"], &path);
    assert!(dom.contains("<title>BROKEN: "), "a script that is not ours ran");
    assert!(dom.contains("data-keys=\"ready\""), "our own script did not run");
}
