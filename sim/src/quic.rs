//! The tier with QUIC and TLS inside: the production mesh over simulated datagrams.
//!
//! ```text
//!   memory:  core ─▶ SimTransport ──────────── messages ──▶ links
//!   quic:    core ─▶ scp_mesh::Mesh ─▶ quinn ─▶ Socket ─▶ datagrams ──▶ the same links
//!                    handshakes, papers, peers, lanes, framing: as they ship
//! ```
//! [`Mesh::start_on`](scp_mesh::Mesh::start_on) is what production calls as well; only the socket differs.
//! Timers are tokio's and stand on the host's own clock, so a paused or drifting host is one to quinn, too.
//! On a link each datagram fares by itself: it may be lost, overtaken, delivered twice, or too large for the
//! path. The trace has lengths and times, not bytes; keys and connection ids follow from the seed anyway.
//!
//! A city's certificates are new, come due during the run, or have run out when the troubles begin; they are
//! renewed as in production, and have to be at the end. Only the founder has the city key at first.
//!
//! # Caveats
//! - First papers are handed out before the city is founded: the join lane is not played here.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use scp_mesh::{
    Authority, CityKey, Clock, Identity,
    authority::{BACKDATE_MS, NODE_VALIDITY_MS, Subject},
    renew,
};
use scp_model::{CityId, Name, NodeId, Timestamp};

use crate::{
    clock::{EPOCH_MS, HostTime},
    entropy::SplitMix,
    host::{CITY_KEY, Host},
    net::SharedNet,
};

/// What carries messages between hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Whole messages, without a mesh: most seeds a minute
    #[default]
    Memory,
    /// The production mesh: QUIC and TLS over datagrams
    Quic,
}

impl Tier {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Quic => "quic",
        }
    }
}

/// Datagrams wait for their reader in so many bytes, as in Linux's default receive buffer; what does not
/// fit is lost. A host that stands still loses most of what is sent to it.
const QUEUE_BYTES_MAX: usize = 212_992;

/// As many datagrams leave in one call as the kernel's segmentation offload takes from quinn.
const SEGMENTS_MAX: usize = 10;

/// An Ethernet frame's 1,500 bytes without the headers of IP and UDP.
const PAYLOAD_BYTES_ETHERNET: usize = 1_472;

/// What paths do to datagrams, beyond what links do to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    pub duplicate_permille: u64,
    /// A larger payload vanishes, as on a path that drops what it does not fragment.
    pub payload_bytes_max: usize,
}

impl Default for Path {
    fn default() -> Self {
        Self { duplicate_permille: 0, payload_bytes_max: PAYLOAD_BYTES_ETHERNET }
    }
}

impl Path {
    pub fn draw(rng: &mut SplitMix) -> Self {
        Self {
            duplicate_permille: *rng.pick(&[0, 0, 5, 50]),
            // Jumbo frames, as Ethernet has it, within a tunnel, little more than the 1,200 that QUIC demands.
            payload_bytes_max: *rng.pick(&[8_972, PAYLOAD_BYTES_ETHERNET, 1_422, 1_252]),
        }
    }
}

pub const CITY: CityId = CityId(uuid::Uuid::from_u128(1));
pub const CITY_NAME: &str = "agueda";

/// Certificates of the foundation are due for renewal so long after they were issued.
const DUE_MS: u64 = (NODE_VALIDITY_MS - BACKDATE_MS) / 2;
/// When that is drawn to fall into a run, it is so long after the foundation.
const DUE_WITHIN_MS: u64 = 30_000;

/// The city's authority, for the foundation, and how old its certificates get before the troubles begin.
pub struct Papers {
    authority: Authority,
    age_ms: u64,
    path: Path,
}

impl Papers {
    /// Makes hosts that were not started yet ones with a mesh: with addresses, and with papers in their
    /// directories. Only the first has the city key; voters ask for it.
    pub fn hand_out(seed: u64, hosts: &mut [Host], net: &SharedNet) -> Self {
        // A generator of its own: in both tiers a seed stands for the same city, work and faults.
        let mut rng = SplitMix::new(!seed);
        let mut net = net.lock();
        let path = Path::draw(&mut rng);
        net.path = path;
        let due_soon_ms = DUE_MS - rng.below(DUE_WITHIN_MS);
        let age_ms = *rng.pick(&[0, due_soon_ms, due_soon_ms, NODE_VALIDITY_MS]);
        let name = Name::new(CITY_NAME).expect("a short name");
        let now = Timestamp(EPOCH_MS);
        let authority = Authority::create(CITY, &name, now).expect("an authority can be made");
        for (number, host) in hosts.iter_mut().enumerate() {
            host.tier = Tier::Quic;
            net.homes.insert(host.address, host.id);
            let (public_key, name) = (host.key.public_key(), host.name.clone());
            let subject = Subject { public_key, name, addresses: vec![host.address.ip()] };
            let issued_at = now.plus_ms(rng.below(DUE_WITHIN_MS));
            let certificate = authority.issue(&subject, issued_at).expect("a certificate can be issued");
            let identity = Identity::new(host.key.clone(), &certificate, authority.certificate_pem())
                .expect("the certificate is the key's and the authority's");
            if number > 0 {
                host.directory.forget_city().expect("the scratch directory is writable");
            }
            host.directory.store(&identity).expect("the scratch directory is writable");
        }
        Self { authority, age_ms, path }
    }

    pub fn certificate(&self) -> String {
        self.authority.certificate_pem().to_owned()
    }

    pub fn sealed_key(&self) -> Vec<u8> {
        self.authority.seal(&CityKey::from_bytes(CITY_KEY)).expect("a key can be sealed")
    }

    /// The city was founded some quiet days ago: its certificates are new, due, or have run out. Says so.
    pub fn age(&self, hosts: &[Host]) -> String {
        for host in hosts {
            host.time.age_ms.store(self.age_ms, Ordering::Relaxed);
        }
        let hours = self.age_ms / 3_600_000;
        format!("its certificates are {hours} h old, its paths {:?}", self.path)
    }

    /// A host whose certificate should have been renewed and was not.
    pub fn overdue(&self, hosts: &[Host]) -> Option<String> {
        let overdue = hosts.iter().find(|host| {
            let identity = host.directory.load().expect("the scratch directory is readable");
            identity.is_none_or(|identity| renew::is_due(identity.certificate(), host.time.now()))
        });
        overdue.map(|host| format!("the certificate of {} is due and not renewed", host.name))
    }
}

/// A datagram on its way, or waiting for its reader.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub source: SocketAddr,
    pub ecn: Option<EcnCodepoint>,
    pub bytes: Bytes,
}

/// A process's UDP socket. A new one is made whenever the host starts, on the same address.
pub struct Socket {
    me: NodeId,
    address: SocketAddr,
    net: SharedNet,
    time: Arc<HostTime>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Datagram>,
    waiting_bytes: usize,
    reader: Option<Waker>,
    closed: bool,
}

impl Socket {
    #[allow(clippy::too_many_arguments, reason = "whose, where, on what and when: four things")]
    pub fn new(me: NodeId, address: SocketAddr, net: SharedNet, time: Arc<HostTime>) -> Arc<Self> {
        Arc::new(Self { me, address, net, time, inner: Mutex::default() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A killed process says nothing more, whatever its parts want to say while they are dropped.
    pub fn close(&self) {
        self.inner().closed = true;
    }

    /// Takes a datagram in.
    pub fn arrived(&self, datagram: Datagram) {
        let mut inner = self.inner();
        if inner.waiting_bytes + datagram.bytes.len() > QUEUE_BYTES_MAX {
            return;
        }
        inner.waiting_bytes += datagram.bytes.len();
        inner.waiting.push_back(datagram);
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.inner().closed {
            return Ok(());
        }
        let now_us = self.time.city_us();
        let mut net = self.net.lock();
        for bytes in transmit.contents.chunks(transmit.segment_size.unwrap_or(usize::MAX)) {
            let bytes = Bytes::copy_from_slice(bytes);
            let datagram = Datagram { source: self.address, ecn: transmit.ecn, bytes };
            net.send_datagram(now_us, (self.me, transmit.destination), datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some(Datagram { source, ecn, bytes }) = inner.waiting.pop_front() else { break };
            inner.waiting_bytes -= bytes.len();
            // Beyond the buffer it is cut, as by the kernel.
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            *meta = RecvMeta { addr: source, len, stride: len, ecn, dst_ip: Some(self.address.ip()) };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inner.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// What leaves a host is never held up there.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Link, PacketKind};

    const HERE: NodeId = NodeId(1);
    const THERE: NodeId = NodeId(2);

    fn address(node: NodeId) -> SocketAddr {
        ([10, 0, 0, node.0 as u8], 7600).into()
    }

    fn scene() -> (SharedNet, [Arc<Socket>; 2]) {
        let net = SharedNet::new(SplitMix::new(1), Link { delay_us: 100, jitter_us: 0, loss_permille: 0 });
        let sockets = [HERE, THERE].map(|node| {
            net.lock().homes.insert(address(node), node);
            Socket::new(node, address(node), net.clone(), Arc::default())
        });
        (net, sockets)
    }

    fn send(from: &Socket, contents: &[u8], segment_size: Option<usize>) {
        let destination = address(THERE);
        let ecn = Some(EcnCodepoint::Ect0);
        from.try_send(&Transmit { destination, ecn, contents, segment_size, src_ip: None })
            .expect("it is sent");
    }

    /// Hands over what is under way.
    fn deliver(net: &SharedNet, to: &Socket) {
        let arrived = net.lock().arrived(to.me, u64::MAX);
        for packet in arrived {
            let PacketKind::Datagram(datagram) = packet.kind else { panic!("only datagrams are sent here") };
            to.arrived(datagram);
        }
    }

    /// What one call reads.
    fn receive(at: &Socket) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut bytes = [[0; 2048]; 4];
        let mut metas = [RecvMeta::default(); 4];
        let mut buffers = bytes.each_mut().map(|buffer| IoSliceMut::new(buffer));
        let mut context = Context::from_waker(Waker::noop());
        match at.poll_recv(&mut context, &mut buffers, &mut metas) {
            Poll::Pending => vec![],
            Poll::Ready(count) => {
                let read = metas.iter().zip(&bytes).take(count.expect("simulated sockets have no errors"));
                read.map(|(meta, bytes)| (meta.addr, bytes[..meta.len].to_vec())).collect()
            }
        }
    }

    #[test]
    fn segments_that_leave_together_arrive_as_datagrams_of_their_own() {
        let (net, [here, there]) = scene();
        send(&here, b"abcdefg", Some(3));
        assert_eq!(receive(&there), []);
        deliver(&net, &there);
        let from = |bytes: &[u8]| (address(HERE), bytes.to_vec());
        assert_eq!(receive(&there), [from(b"abc"), from(b"def"), from(b"g")]);
        assert_eq!(receive(&there), []);
    }

    #[test]
    fn what_is_too_large_for_the_path_vanishes() {
        let (net, [here, there]) = scene();
        send(&here, &[0; PAYLOAD_BYTES_ETHERNET + 1], None);
        send(&here, &[0; PAYLOAD_BYTES_ETHERNET], None);
        deliver(&net, &there);
        let lengths: Vec<_> = receive(&there).into_iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [PAYLOAD_BYTES_ETHERNET]);
    }

    #[test]
    fn a_path_may_deliver_twice() {
        let (net, [here, there]) = scene();
        net.lock().path.duplicate_permille = 1_000;
        send(&here, b"x", None);
        deliver(&net, &there);
        assert_eq!(receive(&there).len(), 2);
    }

    #[test]
    fn who_does_not_read_loses_what_does_not_fit() {
        let (net, [here, there]) = scene();
        for _ in 0..2 * QUEUE_BYTES_MAX / 1_000 {
            send(&here, &[0; 1_000], None);
        }
        deliver(&net, &there);
        let mut read = 0;
        loop {
            match receive(&there).len() {
                0 => break,
                some => read += some,
            }
        }
        assert_eq!(read, QUEUE_BYTES_MAX / 1_000);
        send(&here, b"x", None);
        deliver(&net, &there);
        assert_eq!(receive(&there).len(), 1, "what was read makes room");
    }

    #[test]
    fn a_killed_process_says_nothing_more() {
        let (net, [here, there]) = scene();
        here.close();
        send(&here, b"x", None);
        deliver(&net, &there);
        assert_eq!(receive(&there), []);
    }
}
