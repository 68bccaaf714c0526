//! Packets that are late: the kernel hands those of a server's links to a queue, and a thread of ours lets
//! each go when its time has come. They keep their addresses and ports, so that a connection sees a long
//! path and no other one.
//!
//! ```text
//!   scpd ─▶ OUTPUT ─▶ NFQUEUE ─▶ held, ordered by when each is due ─▶ verdict: accept ─▶ cable
//! ```
//! The rules bypass a queue that nobody reads: if this program ends, packets pass as before.

use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nfq::{Message, Queue, Verdict};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use scp_servers::{Server, now, pause};

use crate::scenario::Way;

/// One on each server.
const QUEUE: u16 = 7;
/// Packets held at once. A city under load sends some thousands a second.
const HELD_MAX: u32 = 1 << 16;
/// Bytes of a packet that are copied to us: none are looked at.
const COPIED_BYTES: u16 = 64;
/// How exact a delay is.
const GRAIN: Duration = Duration::from_millis(1);

/// How late a packet is.
#[derive(Debug, Clone, Copy)]
pub struct Late {
    pub by: Duration,
    /// Up to so much more, each packet by chance.
    pub jitter: Duration,
}

/// Ends when it is dropped: what is held goes on its way at once.
pub struct Delay {
    rules: Vec<Vec<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Delay {
    /// From now on the packets between the server and these addresses are late.
    pub fn begin(server: &Server, late: Late, way: Way, addresses: &[&str]) -> Result<Self> {
        let network = File::open(server.network()).context("the server's network cannot be opened")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let is_over = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("delay".into()).spawn(move || {
            // This thread alone moves; a process is where its first thread is.
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .context("the server's network cannot be entered")?;
            let queue = open().context("the queue of packets cannot be opened")?;
            let _ = ready.send(());
            hold(queue, late, &is_over)
        });
        let thread = thread.context("the thread that holds packets cannot be started")?;
        let mut delay = Self { rules: rules(way, addresses), stop, thread: Some(thread) };
        if is_ready.recv().is_err() {
            delay.join()?;
            bail!("the thread that holds packets is gone");
        }
        for rule in &delay.rules {
            scp_servers::run(server.command("iptables")?.args(["-w", "-I"]).args(rule))?;
        }
        Ok(delay)
    }

    /// The server's links are as they were.
    pub fn end(mut self, server: &Server) -> Result<()> {
        for rule in &self.rules {
            scp_servers::run(server.command("iptables")?.args(["-w", "-D"]).args(rule))?;
        }
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => bail!("the thread that holds packets panicked"),
            Some(Ok(done)) => done,
            None => Ok(()),
        }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            eprintln!("packets were not all late: {error:#}");
        }
    }
}

/// What iptables is told to insert and to delete.
fn rules(way: Way, addresses: &[&str]) -> Vec<Vec<String>> {
    let ways = [(Way::Out, "OUTPUT", "--destination"), (Way::In, "INPUT", "--source")];
    let meant = ways.into_iter().filter(|(this, _, _)| way == Way::Both || way == *this);
    let queue = QUEUE.to_string();
    let rule = |(_, chain, field): (Way, &str, &str)| {
        let addresses = addresses.join(",");
        [chain, field, &addresses, "--jump", "NFQUEUE", "--queue-num", &queue, "--queue-bypass"]
            .map(String::from)
            .into()
    };
    meant.map(rule).collect()
}

fn open() -> Result<Queue> {
    let mut queue = Queue::open()?;
    queue.bind(QUEUE)?;
    queue.set_copy_range(QUEUE, COPIED_BYTES)?;
    queue.set_queue_max_len(QUEUE, HELD_MAX)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

fn hold(mut queue: Queue, late: Late, is_over: &AtomicBool) -> Result<()> {
    let mut held: BTreeMap<(Instant, u64), Message> = BTreeMap::new();
    let mut count = 0;
    loop {
        let over = is_over.load(Ordering::Relaxed);
        let current = now();
        loop {
            match queue.recv() {
                Ok(message) => {
                    count += 1;
                    held.insert((current + late.by + late.jitter.mul_f64(rand::random()), count), message);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the queue of packets cannot be read"),
            }
        }
        while let Some(first) = held.first_entry().filter(|first| over || first.key().0 <= current) {
            let mut message = first.remove();
            message.set_verdict(Verdict::Accept);
            queue.verdict(message).context("a packet cannot be let go")?;
        }
        if over {
            return Ok(());
        }
        pause(GRAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_taken_on_their_way_out_and_in() {
        let both = rules(Way::Both, &["10.0.0.2", "10.0.0.3"]);
        let words: Vec<_> = both.iter().map(|rule| rule.join(" ")).collect();
        assert_eq!(words[0].split(" --jump").next(), Some("OUTPUT --destination 10.0.0.2,10.0.0.3"));
        assert_eq!(words[1].split(" --jump").next(), Some("INPUT --source 10.0.0.2,10.0.0.3"));
        assert_eq!(rules(Way::Out, &["10.0.0.2"]), [both_out()]);
    }

    fn both_out() -> Vec<String> {
        let words = "OUTPUT --destination 10.0.0.2 --jump NFQUEUE --queue-num 7 --queue-bypass";
        words.split(' ').map(String::from).collect()
    }
}
