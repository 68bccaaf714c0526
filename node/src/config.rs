//! What the administrator says about this server: flags, or the same words in a TOML file.
//!
//! A flag wins over the file, the file over the default. Nothing here is agreed upon by the city; what
//! others need to know of it travels in the node's profile.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use scp_api::local::SOCKET_PATH;
use scp_model::{Country, Name};
use serde::Deserialize;

/// UDP port of the mesh.
pub const MESH_PORT: u16 = 7600;
/// TCP port of HTTPS.
pub const API_PORT: u16 = 8443;

/// Command line of `scpd`.
#[derive(Debug, Parser)]
#[command(name = "scpd", version, about = "One server of a Storm Cloud Platform city")]
pub struct Flags {
    /// TOML file with the same settings; flags win over it
    #[arg(long, env = "SCPD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where everything of this node is kept
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Address to listen on and to be reached at [default: that of the default route]
    #[arg(long)]
    pub listen: Option<IpAddr>,
    /// UDP port of the mesh [default: 7600]
    #[arg(long)]
    pub mesh_port: Option<u16>,
    /// TCP port of HTTPS [default: 8443]
    #[arg(long)]
    pub api_port: Option<u16>,
    /// Unix socket for this server's root
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// Name of the node [default: the host name]
    #[arg(long)]
    pub name: Option<Name>,
    /// Failure domain: what dies together
    #[arg(long)]
    pub zone: Option<Name>,
    /// Country of the server, when it is not the city's (ISO 3166-1, two letters)
    #[arg(long)]
    pub country: Option<Country>,
    /// How VMs run [default: auto, by a probe]
    #[arg(long, value_enum)]
    pub accelerator: Option<Accelerator>,
    /// libvirt connection
    #[arg(long)]
    pub libvirt_uri: Option<String>,
    /// Memory kept for the server itself, in MiB
    #[arg(long)]
    pub reserved_memory_mib: Option<u64>,
    /// Logs as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// How VMs run on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// As a probe guest proves.
    Auto,
    Kvm,
    Tcg,
    /// Run no VMs here.
    None,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    listen: Option<IpAddr>,
    mesh_port: Option<u16>,
    api_port: Option<u16>,
    socket: Option<PathBuf>,
    name: Option<Name>,
    zone: Option<Name>,
    country: Option<Country>,
    accelerator: Option<Accelerator>,
    libvirt_uri: Option<String>,
    reserved_memory_mib: Option<u64>,
    log_json: Option<bool>,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub mesh_address: SocketAddr,
    pub api_address: SocketAddr,
    pub socket: PathBuf,
    /// As configured; what is not keeps the value that the city has for this node.
    pub names: Names,
    pub accelerator: Accelerator,
    pub libvirt_uri: String,
    pub reserved_memory_mib: u64,
    pub log_json: bool,
}

/// What a server is called and where it stands, as far as anyone said so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub name: Option<Name>,
    pub zone: Option<Name>,
    pub country: Option<Country>,
}

impl Names {
    /// These, and for those that are absent the others.
    pub fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            zone: self.zone.or(other.zone),
            country: self.country.or(other.country),
        }
    }
}

/// Memory kept for the operating system and the platform itself unless configured otherwise.
const RESERVED_MEMORY_MIB: u64 = 1024;

impl Config {
    /// Puts flags, file and defaults together.
    pub fn load(flags: Flags) -> Result<Self> {
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None => File::default(),
        };
        let listen = match flags.listen.or(file.listen) {
            Some(address) if address.is_unspecified() => bail!(
                "--listen {address} is not an address that other servers can reach; name the one of this server"
            ),
            Some(address) => address,
            None => default_address()?,
        };
        let port = |flag: Option<u16>, file: Option<u16>, default| flag.or(file).unwrap_or(default);
        Ok(Self {
            data_dir: flags.data_dir.or(file.data_dir).unwrap_or_else(|| "/var/lib/scp".into()),
            mesh_address: (listen, port(flags.mesh_port, file.mesh_port, MESH_PORT)).into(),
            api_address: (listen, port(flags.api_port, file.api_port, API_PORT)).into(),
            socket: flags.socket.or(file.socket).unwrap_or_else(|| SOCKET_PATH.into()),
            names: Names { name: flags.name, zone: flags.zone, country: flags.country }.or(Names {
                name: file.name,
                zone: file.zone,
                country: file.country,
            }),
            accelerator: flags.accelerator.or(file.accelerator).unwrap_or(Accelerator::Auto),
            libvirt_uri: flags.libvirt_uri.or(file.libvirt_uri).unwrap_or_else(|| "qemu:///system".into()),
            reserved_memory_mib: flags
                .reserved_memory_mib
                .or(file.reserved_memory_mib)
                .unwrap_or(RESERVED_MEMORY_MIB),
            log_json: flags.log_json || file.log_json.unwrap_or(false),
        })
    }
}

fn read_file(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))
}

/// The zone of a server that nobody gave one.
pub fn default_zone() -> Name {
    Name::new("default").expect("`default` is a name")
}

/// The address that the default route would use. Connecting a UDP socket sends nothing.
fn default_address() -> Result<IpAddr> {
    // TEST-NET-1 (RFC 5737): never a real destination.
    let toward = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a UDP socket")?;
    let found = socket.connect(toward).and_then(|()| socket.local_addr());
    match found {
        Ok(address) if !address.ip().is_unspecified() => Ok(address.ip()),
        _ => bail!("this server has no default route to tell its address by; name it with --listen ADDRESS"),
    }
}

/// The server's own host name, for a node that nobody named.
pub fn host_name() -> Result<Name> {
    let uname = rustix::system::uname();
    let text = uname.nodename().to_string_lossy();
    let short = text.split('.').next().unwrap_or_default();
    Name::new(short).with_context(|| {
        format!("the host name {short:?} is not usable as a node name; give one with --name")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> Flags {
        Flags::parse_from(std::iter::once("scpd").chain(words.iter().copied()))
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("scpd.toml");
        std::fs::write(&path, "listen = '127.0.0.1'\nname = 'from-file'\nmesh_port = 1\n").expect("writable");
        let path = path.to_str().expect("UTF-8");
        let config = Config::load(flags(&["--config", path, "--mesh-port", "2"])).expect("valid");
        assert_eq!(config.names.name, Some(Name::new("from-file").expect("a name")));
        assert_eq!(config.mesh_address.port(), 2);
        assert_eq!(config.api_address.port(), API_PORT);
    }

    #[test]
    fn an_unknown_word_in_the_file_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("scpd.toml");
        std::fs::write(&path, "listne = '127.0.0.1'\n").expect("writable");
        let error = Config::load(flags(&["--config", path.to_str().expect("UTF-8")])).expect_err("refused");
        assert!(format!("{error:#}").contains("listne"), "{error:#}");
    }

    #[test]
    fn an_address_that_nobody_can_reach_is_refused() {
        assert!(Config::load(flags(&["--listen", "0.0.0.0", "--name", "n"])).is_err());
    }
}
