//! `cargo xtask demo`: three servers, one city, a VM that survives the death of its server.
//!
//! ```text
//! servers on ─ init ─ join, join ─ image, keypair ─ vm create ─ log in ─ same list from all three
//!      kill -9 everything on the VM's server ─ declared dead ─ VM's process elsewhere ─ guest up
//!      the server is switched on again ─ it removes what it no longer owns ─ nothing ran twice
//! ```
//!
//! # Guarantees
//! - What is measured is looked at from outside: VM processes are counted in the machine's process
//!   table over all servers' namespaces, from before the kill to the end, not asked of the city.
//! - It fails when a promise is broken: a double run, a VM that does not come back, a node that does not
//!   return, lists that differ. Slow numbers are marked, and do not fail: the machine may be busy.
//! - Whatever happens, nothing is left behind, except with `--keep`.

mod city;
mod timeline;
mod watch;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use scp_servers::{now, pause, wait_until};
use serde_json::Value;

pub use city::City;
use city::SOON;
use timeline::{Measures, Timeline, seconds};
use watch::{EventWatch, ProcessWatch};

use crate::{
    args, cargo,
    console::Console,
    guest,
    packages::{self, Step},
    talk,
};

/// How long the VM's processes are watched after the lost server has come back: several times what
/// starting a VM takes.
const WATCH_AFTER: Duration = Duration::from_secs(8);

const SERVERS: [&str; 3] = ["n1", "n2", "n3"];

/// The whole demo.
pub fn demo(options: args::Demo) -> Result<()> {
    packages::install(&[Step::Build, Step::Servers])?;
    let guest = guest::image()?;
    talk!("compiling scpd and scpctl");
    let binaries = cargo::build_binaries()?;
    let mut timeline = Timeline::begin();
    let mut measures = Measures::default();
    let mut city = City::build(&binaries, &guest)?;
    let told = play(&mut city, &mut timeline, &mut measures);
    if let Err(error) = &told {
        talk!("the demo stops here: {error:#}");
        for server in SERVERS {
            eprintln!("--- the end of scpd.log on {server}\n{}", city.log_end(server));
        }
    }
    eprint!("{}", timeline.show(&measures));
    if options.json && told.is_ok() {
        println!("{:#}", timeline.json(&measures));
    }
    if options.keep && told.is_ok() {
        keep(city)?;
    } else {
        city.servers.end()?;
        talk!("everything is cleaned up");
    }
    told?;
    match measures.double_runs {
        Some(0) => Ok(()),
        Some(times) => bail!("the VM ran twice at once, {times} times: a promise is broken"),
        None => bail!("nobody looked whether the VM ran twice"),
    }
}

fn play(city: &mut City, timeline: &mut Timeline, measures: &mut Measures) -> Result<()> {
    found(city, timeline, measures)?;
    supply(city, timeline)?;
    let vm = create(city, timeline, measures)?;
    look_inside(city, timeline)?;
    compare_lists(city, timeline)?;
    lose_a_server(city, timeline, measures, &vm)
}

/// A city of three servers, as its operators would make it.
pub fn found(city: &mut City, timeline: &mut Timeline, measures: &mut Measures) -> Result<()> {
    let begun = now();
    city.start_all()?;
    timeline.reached("three servers are on, each with libvirtd and scpd");
    let made = city.ask("n1", &["init", "--city", "agueda", "--country", "PT"])?;
    timeline.reached("scpctl init: a city of one node");
    let word =
        |name: &str| made[name].as_str().map(String::from).with_context(|| format!("init told no {name}"));
    let (address, first) = (word("join_address")?, word("join_token")?);
    let second = city.ask("n1", &["token", "create"])?;
    let second = second["token"].as_str().context("token create told no token")?.to_string();
    // Both at once: joins do not wait for each other.
    let joined: Vec<_> = std::thread::scope(|scope| {
        let city = &*city;
        let join = |server: &'static str, token: String| {
            let address = address.clone();
            scope.spawn(move || city.scpctl(server, &["join", &address, &token]))
        };
        let joins = [join("n2", first), join("n3", second)];
        joins.into_iter().map(|join| join.join().expect("a join does not panic")).collect()
    });
    for joined in joined {
        joined?;
    }
    timeline.reached("scpctl join, on two servers at once");
    let mut sentence = String::new();
    let ready = wait_until(SOON, || {
        let status = city.ask("n1", &["status"]).ok()?;
        sentence = status["sentence"].as_str().unwrap_or_default().to_string();
        (status["nodes_up"] == 3 && status["survives"].as_u64() >= Some(1)).then_some(())
    });
    if ready.is_none() {
        bail!("the city does not become ready; it says: {sentence}");
    }
    let at = timeline.reached(format!("ready: {sentence}"));
    measures.ready_s = Some(seconds(at - begun));
    Ok(())
}

/// What a VM is made from.
pub fn supply(city: &City, timeline: &mut Timeline) -> Result<()> {
    city.scpctl("n1", &["image", "add", "guest.qcow2", "--name", "guest", "--public", "--wait"])?;
    city.scpctl("n1", &["keypair", "create", "me", "--generate", "me.key"])?;
    // The VM is to start anywhere at once: every node has its copy before anything is lost.
    let held = wait_until(SOON, || {
        let image = city.ask("n1", &["image", "show", "guest"]).ok()?;
        (image["replicas_held"].as_u64() >= Some(3)).then_some(())
    });
    held.context("the image does not get to three nodes")?;
    timeline.reached("image on three nodes, keypair");
    Ok(())
}

/// A running VM; gives its id.
fn create(city: &City, timeline: &mut Timeline, measures: &mut Measures) -> Result<String> {
    let begun = now();
    let words = ["vm", "create", "web", "--image", "guest", "--flavor", "tiny", "--keypair", "me", "--wait"];
    let vm = city.ask("n2", &words)?;
    let at = timeline.reached(format!("VM web runs on {}", node_of(&vm)));
    measures.vm_active_s = Some(seconds(at - begun));
    let id = vm["id"].as_str().context("vm create told no id")?.to_string();
    let runs_on = city.servers_of(&scp_servers::vm_processes()?, &id);
    if runs_on != [node_of(&vm)] {
        bail!("the city says that the VM runs on {}, the process table says {runs_on:?}", node_of(&vm));
    }
    Ok(id)
}

fn node_of(vm: &Value) -> String {
    vm["node"]["name"].as_str().unwrap_or("no node").to_string()
}

/// Logs in on the serial console and runs a command.
fn look_inside(city: &City, timeline: &mut Timeline) -> Result<()> {
    let mut console = Console::open(&mut city.command("n3", &["scpctl", "vm", "console", "web"])?)?;
    console.log_in()?;
    timeline.reached("logged in on the VM's serial console");
    let said = console.run("hostname; uname -r")?;
    if !said.starts_with("web") {
        bail!("the guest should say that it is called web; it says: {said}");
    }
    timeline.reached(format!("the guest says: {}", said.split_whitespace().collect::<Vec<_>>().join(", ")));
    console.leave()
}

/// The same question to every node, from one place.
fn compare_lists(city: &City, timeline: &mut Timeline) -> Result<()> {
    let mut lists = Vec::new();
    for server in &city.servers.servers {
        lists.push(city.ask("n1", &["vm", "list", "--node", &server.address])?);
    }
    if lists.iter().any(|list| list != &lists[0]) || lists[0].as_array().map(Vec::len) != Some(1) {
        bail!("the nodes answer differently: {lists:?}");
    }
    timeline.reached("all three nodes give the same list of VMs");
    Ok(())
}

/// Kills the VM's server, waits for the VM elsewhere, brings the server back.
fn lose_a_server(city: &mut City, timeline: &mut Timeline, measures: &mut Measures, vm: &str) -> Result<()> {
    let lost = node_of(&city.ask("n1", &["vm", "show", "web"])?);
    let lost = SERVERS.into_iter().find(|server| *server == lost).context("the VM is on no server")?;
    let witness = SERVERS.into_iter().find(|server| *server != lost).context("there is no other server")?;
    let node = city.ask(witness, &["node", "show", lost])?;
    let node = node["id"].as_str().context("node show told no id")?.to_string();
    let events = ["scpctl", "events", "--follow", "--last", "1", "--output", "json"];
    let events = EventWatch::start(&mut city.command(witness, &events)?)?;
    wait_until(SOON, || (events.count() > 0).then_some(())).context("no event can be followed")?;
    let processes = ProcessWatch::start(vm, city.servers.names());
    wait_until(SOON, || (processes.seen().first.len() == 1).then_some(()))
        .context("the VM is not seen to run")?;

    let killed_at = timeline.reached(format!("kill -9 for everything on {lost}"));
    let killed = city.servers.get(lost)?.kill_everything()?;
    timeline.reached(format!("{killed} processes are dead, the VM among them"));

    let dead = wait_until(SOON, || events.arrival(killed_at, "node_down", &node));
    let dead =
        dead.with_context(|| format!("{lost} is not declared dead; events: {:?}", events.kinds(killed_at)))?;
    timeline.reached_at(dead, format!("{lost} is declared dead"));
    measures.declared_dead_s = Some(seconds(dead - killed_at));
    let elsewhere = wait_until(SOON, || {
        processes.seen().first.values().find(|(at, server)| *at > killed_at && server != lost).cloned()
    });
    let (restarted, server) = elsewhere.context("the VM is not started elsewhere")?;
    timeline.reached_at(restarted, format!("the VM's process is on {server}"));
    measures.vm_restarted_s = Some(seconds(restarted - killed_at));
    guest_is_up(city, witness)?;
    let up = timeline.reached("the guest is up again, its console answers");
    measures.guest_up_s = Some(seconds(up - killed_at));

    bring_back(city, timeline, measures, (lost, witness))?;
    let seen = processes.end();
    measures.double_runs = Some(seen.double_runs);
    timeline.reached(format!("{} looks at the process table: {} double runs", seen.looks, seen.double_runs));
    Ok(())
}

/// Whether the guest, on its new node, has got as far as asking for a login.
fn guest_is_up(city: &City, witness: &str) -> Result<()> {
    let mut console = Console::open(&mut city.command(witness, &["scpctl", "vm", "console", "web"])?)?;
    console.log_in()?;
    console.leave()
}

/// Switches the lost server on; it joins again, and starts nothing that is no longer its own.
fn bring_back(
    city: &mut City,
    timeline: &mut Timeline,
    measures: &mut Measures,
    (lost, witness): (&'static str, &'static str),
) -> Result<()> {
    let on_at = timeline.reached(format!("{lost} is switched on again, with the disks it had"));
    city.start(lost)?;
    let back = wait_until(SOON, || {
        let node = city.ask(witness, &["node", "show", lost]).ok()?;
        (node["phase"] == "up").then_some(())
    });
    back.with_context(|| format!("{lost} does not come back"))?;
    let back = timeline.reached(format!("{lost} is back in the city"));
    measures.node_back_s = Some(seconds(back - on_at));
    pause(WATCH_AFTER);
    let vm = city.ask(lost, &["vm", "show", "web"])?;
    if node_of(&vm) == lost || vm["phase"] != "running" {
        bail!("asked, {lost} says that the VM is {} on {}", vm["phase"], node_of(&vm));
    }
    timeline.reached(format!("asked, {lost} says: web is running on {}", node_of(&vm)));
    Ok(())
}

/// Leaves the city running and says how to go on.
fn keep(city: City) -> Result<()> {
    let share = city.share();
    let run = city.servers.keep()?;
    eprintln!(
        "\nThe city is left running (run {}). Use it from any of its servers, n1, n2 and n3:\n\n  \
         cargo xtask on n1 scpctl status\n  \
         cargo xtask on n2 scpctl vm list\n  \
         cargo xtask on n3 scpctl vm console web     (root, no password; Ctrl-] leaves it)\n  \
         cargo xtask on n1 bash                      (a shell on the server, in {})\n\n\
         End it with:\n\n  cargo xtask demo --end\n",
        run.id,
        share.display()
    );
    Ok(())
}

/// Ends the kept city.
pub fn end() -> Result<()> {
    City::kept()?.servers.end()?;
    talk!("the city is gone");
    Ok(())
}

/// Runs a command on a server of the kept city, with our terminal.
pub fn on(server: &str, words: &[String]) -> Result<()> {
    let city = City::kept()?;
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let status = city.command(server, &words)?.status().context("the command cannot be started")?;
    match status.success() {
        true => Ok(()),
        false => bail!("`{}` on {server} ended with {status}", words.join(" ")),
    }
}
