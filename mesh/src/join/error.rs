//! What can stand in the way of a join, each with its own remedy.

use std::net::SocketAddr;

use scp_model::{Digest, Rejection};
use serde::{Deserialize, Serialize};

use super::CLOCK_SKEW_MS_MAX;
use crate::{identity::IdentityError, token::TokenError};

/// The city says no. Nothing was changed, and the token can be used again unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    #[error("the city does not know this join token; it was revoked, or its secret is wrong")]
    TokenUnknown,
    #[error("the join token has expired")]
    TokenExpired,
    #[error("the join token has been used by another server")]
    TokenUsed,
    #[error("this server's clock is {skew_ms} ms {direction} the city's, more than the {CLOCK_SKEW_MS_MAX} ms allowed",
        direction = if *ahead { "ahead of" } else { "behind" })]
    ClockOff { skew_ms: u64, ahead: bool },
    #[error("the city has a node named {name} already")]
    NameTaken { name: String },
    #[error("the city has a node at {address} already")]
    AddressTaken { address: SocketAddr },
    #[error("this server speaks protocol {node}, the city {city}: too far apart")]
    ProtocolTooFar { node: u32, city: u32 },
    #[error("{field}: {why}")]
    Invalid { field: String, why: String },
    /// The node that was asked cannot have the join decided at the moment.
    #[error("the city cannot decide at the moment: {why}")]
    Unavailable { why: String },
    #[error("{why}")]
    Other { why: String },
}

impl From<Rejection> for JoinRefusal {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::TokenUnknown => Self::TokenUnknown,
            Rejection::TokenExpired => Self::TokenExpired,
            Rejection::TokenUsed => Self::TokenUsed,
            Rejection::NameTaken { name, .. } => Self::NameTaken { name },
            Rejection::ProtocolTooFar { node, city } => Self::ProtocolTooFar { node, city },
            Rejection::Invalid { field, why } => Self::Invalid { field, why },
            Rejection::NotInitialised => Self::Unavailable { why: rejection.to_string() },
            Rejection::AlreadyInitialised
            | Rejection::NotFound { .. }
            | Rejection::IdTaken { .. }
            | Rejection::QuotaExceeded { .. }
            | Rejection::InUse { .. }
            | Rejection::StalePlan { .. }
            | Rejection::StaleEpoch { .. }
            | Rejection::WrongState { .. }
            | Rejection::BrakeEngaged { .. }
            | Rejection::Forbidden { .. }
            | Rejection::LimitReached { .. } => Self::Other { why: rejection.to_string() },
        }
    }
}

impl JoinRefusal {
    /// Who can do what about it; ends in the exact command where there is one.
    pub fn remedy(&self) -> String {
        match self {
            Self::TokenUnknown | Self::TokenExpired | Self::TokenUsed => {
                "An operator of the city makes a new one: scpctl token create".into()
            }
            Self::ClockOff { .. } => {
                "Set this server's clock (timedatectl set-ntp true, or chronyc makestep), then repeat the \
                 same scpctl join. The token has not been used."
                    .into()
            }
            Self::NameTaken { .. } => {
                "Give this server another name: scpctl join ADDRESS TOKEN --node-name NAME. If the old node is \
                 gone for good, an operator removes it: scpctl node remove NAME --force"
                    .into()
            }
            Self::AddressTaken { .. } => {
                "Give this server an address of its own in the configuration of scpd, or, if the old node is \
                 gone for good, an operator removes it: scpctl node remove NAME --force"
                    .into()
            }
            Self::ProtocolTooFar { node, city } if node < city => {
                "Install the city's release of scpd on this server, then repeat the same scpctl join".into()
            }
            Self::ProtocolTooFar { .. } => {
                "Upgrade the city first, or install the city's release of scpd on this server".into()
            }
            Self::Invalid { .. } => "Correct it in this server's configuration, then repeat".into(),
            Self::Unavailable { .. } => {
                "Repeat the same scpctl join in a moment, or give it the address of another node".into()
            }
            Self::Other { .. } => "Ask an operator of the city: scpctl status".into(),
        }
    }
}

/// Why this server did not join. Nothing was changed here.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("no node of a city answers at {address}: {why}")]
    Unreachable { address: SocketAddr, why: String },
    #[error(
        "the city at {address} is not the one that made this token (its authority is {found}, the token's {expected})"
    )]
    ForeignCity { address: SocketAddr, expected: Digest, found: Digest },
    #[error("{0}")]
    Refused(#[from] JoinRefusal),
    #[error("the network between here and {address} loses too much: {lost} of {sent} packets")]
    Lossy { address: SocketAddr, lost: u32, sent: u32 },
    /// The request was sent, and the answer was lost: the node may have been admitted.
    #[error("{address} did not answer the join: {why}")]
    NoAnswer { address: SocketAddr, why: String },
    #[error("{address} answered what makes no sense: {why}")]
    BadReply { address: SocketAddr, why: String },
    #[error("this server cannot join: {0}")]
    Identity(#[from] IdentityError),
    #[error("this server cannot open a socket: {why}")]
    Socket { why: String },
}

impl JoinError {
    /// Stable word for scripts and problem details.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(_) => "token_malformed",
            Self::Unreachable { .. } => "unreachable",
            Self::ForeignCity { .. } => "token_foreign",
            Self::Refused(refusal) => refusal.code(),
            Self::Lossy { .. } => "network_lossy",
            Self::NoAnswer { .. } => "no_answer",
            Self::BadReply { .. } => "bad_reply",
            Self::Identity(_) => "identity",
            Self::Socket { .. } => "socket",
        }
    }

    /// Who can do what about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Token(_) => {
                "Copy the whole token again, as scpctl init or scpctl token create printed it".into()
            }
            Self::Unreachable { .. } => {
                "Check the address (scpctl status on a node of the city shows it), that scpd runs there, and \
                 that UDP to that port passes the firewall with packets of 1200 bytes"
                    .into()
            }
            Self::ForeignCity { .. } => {
                "Use the address of a node of the city that made the token, or have this city make one: \
                 scpctl token create. The token's secret was not sent."
                    .into()
            }
            Self::Refused(refusal) => refusal.remedy(),
            Self::Lossy { .. } => "Mend the network first (cable, switch port, MTU), then repeat the same \
                 scpctl join. The token has not been used."
                .into(),
            Self::NoAnswer { .. } => {
                "Repeat the same scpctl join: if this server was admitted already, the same token works again"
                    .into()
            }
            Self::BadReply { .. } => "Install the city's release of scpd on this server, then repeat".into(),
            Self::Identity(_) | Self::Socket { .. } => {
                "Mend it on this server (disk, permissions, addresses), then repeat the same scpctl join"
                    .into()
            }
        }
    }
}

impl JoinRefusal {
    /// Stable word for scripts and problem details.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::TokenUsed => "token_used",
            Self::ClockOff { .. } => "clock_off",
            Self::NameTaken { .. } => "name_taken",
            Self::AddressTaken { .. } => "address_taken",
            Self::ProtocolTooFar { .. } => "protocol_too_far",
            Self::Invalid { .. } => "invalid",
            Self::Unavailable { .. } => "unavailable",
            Self::Other { .. } => "refused",
        }
    }
}
