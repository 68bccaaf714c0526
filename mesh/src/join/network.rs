//! The network check before a join: does the path lose packets, and how large may they be?

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use super::{JoinError, server::CHECK_DATAGRAM};

/// Packets sent. Enough to tell a cable that loses every tenth from one that is sound.
const PACKETS: u32 = 20;
/// Between two packets, so that no queue overflows because of the check itself.
const PACE: Duration = Duration::from_millis(5);
/// After the last packet; ten times the longest path inside a country.
const LAST_ECHO: Duration = Duration::from_secs(1);
/// More than a quarter lost: heartbeats would get lost three in a row every minute.
const LOST_MAX: u32 = PACKETS / 4;
/// QUIC packets on an Ethernet of 1500 bytes reach 1452; a path below this carries tunnels of its own.
const DATAGRAM_BYTES_EXPECTED: usize = 1_380;
/// How long path MTU discovery may take.
const MTU_DISCOVERY: Duration = Duration::from_millis(500);

/// Sends padded packets that the city sends back. Gives warnings; refuses a path that loses too many.
pub(super) async fn check(
    connection: &quinn::Connection,
    address: SocketAddr,
) -> Result<Vec<String>, JoinError> {
    let Some(size) = connection.max_datagram_size() else {
        return Ok(vec!["the city does not take part in the network check".into()]);
    };
    let sending = async {
        for number in 0..PACKETS {
            let mut packet = vec![0; size];
            packet[0] = CHECK_DATAGRAM;
            packet[1] = u8::try_from(number).expect("fewer than 256 packets");
            // A packet that the MTU has outgrown meanwhile counts as lost.
            let _ = connection.send_datagram(packet.into());
            sleep(PACE).await;
        }
        Instant::now()
    };
    let echoed = echoes(connection, sending).await;
    let lost = PACKETS - echoed;
    if lost > LOST_MAX {
        return Err(JoinError::Lossy { address, lost, sent: PACKETS });
    }
    let mut warnings = vec![];
    if lost > 0 {
        warnings.push(format!("{lost} of {PACKETS} packets to {address} were lost"));
    }
    if let Some(warning) = mtu_warning(connection, address).await {
        warnings.push(warning);
    }
    Ok(warnings)
}

/// Different packets that came back in time.
async fn echoes(connection: &quinn::Connection, sending: impl Future<Output = Instant>) -> u32 {
    let mut seen = std::collections::BTreeSet::new();
    tokio::pin!(sending);
    let mut deadline = None;
    while seen.len() < PACKETS as usize {
        let until = deadline.map(|last: Instant| last + LAST_ECHO);
        let echo = async {
            match until {
                Some(until) => timeout_at(until, connection.read_datagram()).await.ok(),
                None => Some(connection.read_datagram().await),
            }
        };
        tokio::select! {
            last = &mut sending, if deadline.is_none() => deadline = Some(last),
            echo = echo => match echo {
                Some(Ok(packet)) => seen.extend(packet.get(1).copied()),
                Some(Err(_)) | None => break,
            },
        }
    }
    u32::try_from(seen.len()).expect("as many as were sent at most")
}

async fn mtu_warning(connection: &quinn::Connection, address: SocketAddr) -> Option<String> {
    let until = Instant::now() + MTU_DISCOVERY;
    loop {
        let size = connection.max_datagram_size().unwrap_or(0);
        if size >= DATAGRAM_BYTES_EXPECTED {
            return None;
        }
        if Instant::now() >= until {
            let mtu = connection.stats().path.current_mtu;
            return Some(format!(
                "packets of more than {mtu} bytes do not reach {address}: set the same MTU (1500 or more) on \
                 every interface between the servers"
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
