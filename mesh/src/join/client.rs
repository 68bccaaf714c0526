//! The joining server's side.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use scp_model::{Timestamp, node::NodeProfile};
use tokio::time::{Instant, timeout};

use super::{
    JoinError, JoinRefusal, JoinReply, JoinRequest, network,
    server::{Ask, Say, clocks},
};
use crate::{
    certificate,
    clock::Clock,
    identity::{Identity, NodeKey},
    lane::Lane,
    mesh::{DATAGRAM_BYTES_MAX, peer_chain, transport_config},
    peer::CloseCode,
    tls,
    token::JoinToken,
    wire,
};

/// A server that does not answer within this is not there, or cut off.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What QUIC's packets have at most on an Ethernet of 1500 bytes, with IPv6.
const ETHERNET_BYTES: u16 = 1_452;
const EXAMINE_TIMEOUT: Duration = Duration::from_secs(5);
/// The city has to agree on the new member; an election may be under way.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What a join needs.
#[derive(Clone)]
pub struct JoinConfig {
    /// Mesh address of any node of the city.
    pub address: SocketAddr,
    pub token: JoinToken,
    pub key: NodeKey,
    pub profile: NodeProfile,
    pub clock: Arc<dyn Clock>,
}

/// What came of it. The caller stores the identity, then starts its mesh.
#[derive(Debug)]
pub struct Joined {
    pub identity: Identity,
    pub reply: JoinReply,
    /// What the network check noticed and that did not stand in the way.
    pub warnings: Vec<String>,
}

/// Joins the city at the address. Stores nothing.
pub async fn join(config: JoinConfig) -> Result<Joined, JoinError> {
    let endpoint = client_endpoint(config.address)?;
    let joined = Session::connect(&endpoint, &config).await;
    let joined = match joined {
        Ok(session) => session.run().await,
        Err(error) => Err(error),
    };
    endpoint.close(CloseCode::Goodbye.number().into(), b"the join is over");
    // The goodbye is a courtesy: the city's side ends the session anyway.
    let _ = timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
    joined
}

fn client_endpoint(address: SocketAddr) -> Result<quinn::Endpoint, JoinError> {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    quinn::Endpoint::client(SocketAddr::new(any, 0))
        .map_err(|error| JoinError::Socket { why: error.to_string() })
}

/// A stranger's papers: its own key, signed by itself.
pub(crate) fn stranger_config(
    key: &NodeKey,
    now: Timestamp,
    alpn: &[u8],
) -> Result<quinn::ClientConfig, String> {
    let pair = KeyPair::try_from(key.pkcs8()).map_err(|error| error.to_string())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(rcgen::SerialNumber::from(vec![1]));
    let at = |ms: u64| time::OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1000).unwrap_or(0));
    params.not_before = at(now.0).map_err(|error| error.to_string())?;
    params.not_after = at(now.plus_ms(3_600_000).0).map_err(|error| error.to_string())?;
    let certificate = params.self_signed(&pair).map_err(|error| error.to_string())?;
    let chain = vec![certificate.der().clone()];
    let tls = tls::client(chain, key.to_tls(), alpn).map_err(|error| error.to_string())?;
    let mut client = quinn::ClientConfig::new(Arc::new(tls));
    // The check of the path is for Ethernet's usual size, and does not wait until larger ones were tried.
    let datagram_bytes_max = if alpn == tls::ALPN_JOIN { ETHERNET_BYTES } else { DATAGRAM_BYTES_MAX };
    client.transport_config(Arc::new(transport_config(datagram_bytes_max)));
    Ok(client)
}

/// A connection to a city that proved to be the token's.
struct Session<'a> {
    config: &'a JoinConfig,
    connection: quinn::Connection,
}

impl<'a> Session<'a> {
    async fn connect(endpoint: &quinn::Endpoint, config: &'a JoinConfig) -> Result<Self, JoinError> {
        let address = config.address;
        let unreachable = |why: String| JoinError::Unreachable { address, why };
        let client = stranger_config(&config.key, config.clock.now(), tls::ALPN_JOIN);
        let client = client.map_err(|why| JoinError::Socket { why })?;
        let connecting = endpoint.connect_with(client, address, tls::ANY_NODE);
        let connecting = connecting.map_err(|error| unreachable(error.to_string()))?;
        let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| unreachable(error.to_string()))?,
            Err(_) => return Err(unreachable("no answer".into())),
        };
        let chain = peer_chain(&connection).unwrap_or_default();
        check_city(&chain, config)?;
        Ok(Self { config, connection })
    }

    async fn run(self) -> Result<Joined, JoinError> {
        let Self { config, .. } = self;
        let seen_at = self.examine().await?;
        let mut warnings = network::check(&self.connection, config.address).await?;
        let advertised = config.profile.mesh_address.ip();
        if seen_at.ip() != advertised {
            let seen = seen_at.ip();
            warnings.push(format!(
                "the city sees this server at {seen}, it advertises {advertised}: make sure that every node \
                 can reach {advertised}"
            ));
        }
        let request = JoinRequest {
            token: config.token.id,
            secret: config.token.secret.0,
            profile: config.profile.clone(),
            clock: config.clock.now(),
        };
        let said = self.ask(&Ask::Join(Box::new(request)), JOIN_TIMEOUT).await;
        let reply = match said.map_err(|why| JoinError::NoAnswer { address: config.address, why })?? {
            Say::Joined(reply) => *reply,
            Say::Examined { .. } => return Err(self.bad_reply("it answered another question")),
        };
        let identity = self.check_reply(&reply)?;
        Ok(Joined { identity, reply, warnings })
    }

    /// Asks whether we may join at all, and compares clocks: half of the way there and back is ours.
    async fn examine(&self) -> Result<SocketAddr, JoinError> {
        let ask = Ask::Examine {
            protocol: self.config.profile.protocol,
            mesh_address: self.config.profile.mesh_address,
        };
        let (began, began_at) = (self.config.clock.now(), Instant::now());
        let said = self.ask(&ask, EXAMINE_TIMEOUT).await;
        let unreachable = |why| JoinError::Unreachable { address: self.config.address, why };
        match said.map_err(unreachable)?? {
            Say::Examined { clock, seen_at } => {
                let half_way = u64::try_from(began_at.elapsed().as_millis() / 2).unwrap_or(u64::MAX);
                clocks(began.plus_ms(half_way), clock)?;
                Ok(seen_at)
            }
            Say::Joined(_) => Err(self.bad_reply("it answered another question")),
        }
    }

    /// Outer error: no answer, and why.
    async fn ask(&self, ask: &Ask, within: Duration) -> Result<Result<Say, JoinRefusal>, String> {
        let asking = async {
            let frame = scp_codec::encode(wire::VERSION, ask).map_err(|error| error.to_string())?;
            let (mut send, mut receive) =
                self.connection.open_bi().await.map_err(|error| error.to_string())?;
            send.write_all(&frame).await.map_err(|error| error.to_string())?;
            send.finish().map_err(|error| error.to_string())?;
            let payload = wire::read_frame(&mut receive, Lane::Join.limits().bytes_max).await;
            let payload = payload.map_err(|error| error.to_string())?;
            scp_codec::from_payload(&payload).map_err(|error| error.to_string())
        };
        match timeout(within, asking).await {
            Ok(Err(why)) => match self.connection.close_reason() {
                Some(reason) => Err(reason.to_string()),
                None => Err(why),
            },
            Ok(said) => said,
            Err(_) => Err(format!("nothing within {} s", within.as_secs())),
        }
    }

    fn bad_reply(&self, why: &str) -> JoinError {
        JoinError::BadReply { address: self.config.address, why: why.into() }
    }

    fn check_reply(&self, reply: &JoinReply) -> Result<Identity, JoinError> {
        let identity = Identity::new(self.config.key.clone(), &reply.certificate, &reply.authority)
            .map_err(|error| self.bad_reply(&error.to_string()))?;
        if certificate::fingerprint(identity.authority_der()) != self.config.token.authority {
            return Err(self.bad_reply("its authority is not the token's"));
        }
        Ok(identity)
    }
}

/// The server's chain must hold the authority that the token names, and be issued by it. The time is not
/// judged here: this server's clock may be off, which is found and told a moment later.
fn check_city(chain: &[CertificateDer<'static>], config: &JoinConfig) -> Result<(), JoinError> {
    let expected = config.token.authority;
    let foreign = |found| JoinError::ForeignCity { address: config.address, expected, found };
    let last = chain.last().map(|last| certificate::fingerprint(last)).unwrap_or_default();
    let authority = chain.iter().find(|entry| certificate::fingerprint(entry) == expected);
    let (Some(leaf), Some(authority)) = (chain.first(), authority) else { return Err(foreign(last)) };
    certificate::issued_by(leaf, authority).map(|_| ()).map_err(|_| foreign(last))
}
