//! The city's side: what a stranger may ask on the join lane.

use std::{sync::Arc, time::Duration};

use scp_model::{PROTOCOL, PROTOCOL_DISTANCE_MAX, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use tokio::time::timeout;

use super::{CLOCK_SKEW_MS_MAX, JoinRefusal, JoinReply, JoinRequest, Stranger};
use crate::{
    certificate::Certificate,
    lane::Lane,
    mesh::{Shared, peer_chain},
    wire::{self, WireError},
};

/// A join takes seconds; who lingers makes room.
const SESSION_MAX: Duration = Duration::from_secs(60);

/// First byte of a network check's datagram.
pub(super) const CHECK_DATAGRAM: u8 = Lane::Join.code();

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Changes nothing: may this server join at all?
    Examine {
        protocol: u32,
        mesh_address: SocketAddr,
    },
    Join(Box<JoinRequest>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Say {
    Examined { clock: Timestamp, seen_at: SocketAddr },
    Joined(Box<JoinReply>),
}

/// Serves a stranger until it goes, or its time is over.
pub(crate) async fn serve(shared: &Arc<Shared>, connection: &quinn::Connection) {
    let chain = peer_chain(connection).unwrap_or_default();
    let Some(Ok(facts)) = chain.first().map(|leaf| Certificate::parse(leaf)) else { return };
    let stranger = Stranger { public_key: facts.public_key, address: connection.remote_address() };
    let session = async {
        tokio::join!(asks(shared, connection, stranger), echo(connection));
    };
    let _ = timeout(SESSION_MAX, session).await;
    connection.close(0u32.into(), b"the join is over");
}

/// Sends padded datagrams back, so that the joining server sees loss and MTU.
async fn echo(connection: &quinn::Connection) {
    while let Ok(datagram) = connection.read_datagram().await {
        if datagram.first() == Some(&CHECK_DATAGRAM) {
            let _ = connection.send_datagram(datagram);
        }
    }
}

/// One ask at a time: a stranger has no use for more.
async fn asks(shared: &Arc<Shared>, connection: &quinn::Connection, stranger: Stranger) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let answer = match read(&mut receive).await {
            Ok(ask) => answer(shared, stranger, ask).await,
            Err(error) => Err(JoinRefusal::Invalid { field: "request".into(), why: error.to_string() }),
        };
        let Ok(frame) = scp_codec::encode(wire::VERSION, &answer) else { return };
        if send.write_all(&frame).await.is_err() || send.finish().is_err() {
            return;
        }
    }
}

async fn read(receive: &mut quinn::RecvStream) -> Result<Ask, WireError> {
    let payload = wire::read_frame(receive, Lane::Join.limits().bytes_max).await?;
    Ok(scp_codec::from_payload(&payload)?)
}

async fn answer(shared: &Arc<Shared>, stranger: Stranger, ask: Ask) -> Result<Say, JoinRefusal> {
    let now = shared.ports.clock.now();
    match ask {
        Ask::Examine { protocol, mesh_address } => {
            protocols(protocol)?;
            address(shared, stranger, mesh_address)?;
            Ok(Say::Examined { clock: now, seen_at: stranger.address })
        }
        Ask::Join(request) => {
            protocols(request.profile.protocol)?;
            clocks(request.clock, now)?;
            address(shared, stranger, request.profile.mesh_address)?;
            let reply = shared.ports.service.join(stranger, *request).await?;
            Ok(Say::Joined(Box::new(reply)))
        }
    }
}

pub(super) fn protocols(node: u32) -> Result<(), JoinRefusal> {
    if node.abs_diff(PROTOCOL) <= PROTOCOL_DISTANCE_MAX {
        return Ok(());
    }
    Err(JoinRefusal::ProtocolTooFar { node, city: PROTOCOL })
}

/// Both in milliseconds since 1970.
pub(super) fn clocks(node: Timestamp, city: Timestamp) -> Result<(), JoinRefusal> {
    let skew_ms = node.0.abs_diff(city.0);
    if skew_ms <= CLOCK_SKEW_MS_MAX {
        return Ok(());
    }
    Err(JoinRefusal::ClockOff { skew_ms, ahead: node > city })
}

fn address(shared: &Arc<Shared>, stranger: Stranger, address: SocketAddr) -> Result<(), JoinRefusal> {
    if address.ip().is_unspecified() || address.port() == 0 {
        let why = format!("{address} is not an address that others can reach; advertise one");
        return Err(JoinRefusal::Invalid { field: "mesh_address".into(), why });
    }
    let taken = shared.peer_at(address).is_some_and(|peer| peer != stranger.node())
        || shared.endpoint.local_addr().is_ok_and(|ours| ours == address);
    if taken { Err(JoinRefusal::AddressTaken { address }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = scp_codec::from_payload::<Ask>(&bytes);
            let _ = scp_codec::from_payload::<Result<Say, JoinRefusal>>(&bytes);
        }
    }

    #[test]
    fn clocks_may_differ_by_five_seconds_and_no_more() {
        assert_eq!(clocks(Timestamp(10_000), Timestamp(15_000)), Ok(()));
        let behind = JoinRefusal::ClockOff { skew_ms: 5_001, ahead: false };
        assert_eq!(clocks(Timestamp(10_000), Timestamp(15_001)), Err(behind));
        let ahead = JoinRefusal::ClockOff { skew_ms: 5_001, ahead: true };
        assert_eq!(clocks(Timestamp(15_001), Timestamp(10_000)), Err(ahead));
    }

    #[test]
    fn neighbouring_protocols_join_and_others_do_not() {
        assert_eq!(protocols(PROTOCOL), Ok(()));
        assert_eq!(protocols(PROTOCOL + PROTOCOL_DISTANCE_MAX), Ok(()));
        let node = PROTOCOL + PROTOCOL_DISTANCE_MAX + 1;
        assert_eq!(protocols(node), Err(JoinRefusal::ProtocolTooFar { node, city: PROTOCOL }));
    }
}
