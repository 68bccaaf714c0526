//! Access tokens: signed by the node that checked the password, checked on any node without a call.
//!
//! ```text
//! token   = base64url(payload) "." base64url(signature)            always 163 characters
//! payload = version 1 | signer 8 | user 16 | issued 8 | expires 8 | token id 16        big endian
//! signed  = "scp access token 1\0" payload                          ed25519, the signer's identity key
//! ```
//!
//! Fixed lengths, one encoding: no two texts are the same token, and a reader needs no bounds. It is
//! accepted when
//! - the signer is a node of the city now, and the signature is by the key in the state (so removing a
//!   node ends all tokens that it signed);
//! - it has not expired, and is not dated in the future;
//! - the user exists, is enabled, and has not revoked tokens since.
//!
//! `issued` is the *state's* time at issue, not a clock's: a revocation that comes later has a later
//! state time whatever the clocks of the two nodes say, so no token outlives it by their difference.

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, VerifyingKey};
use scp_model::{NodeId, Timestamp, UserId, tenancy::User};
use scp_state::State;
use uuid::Uuid;

use crate::{
    cluster::Cluster,
    server::{problem::Code, proven::Proven},
    v1::{Problem, TOKEN_LIFETIME_S_MAX},
};

const VERSION: u8 = 1;
const PAYLOAD_BYTES: usize = 1 + 8 + 16 + 8 + 8 + 16;
const PAYLOAD_CHARACTERS: usize = (PAYLOAD_BYTES * 4).div_ceil(3);
const SIGNATURE_CHARACTERS: usize = (64usize * 4).div_ceil(3);
/// Every token has exactly this length.
pub const TOKEN_CHARACTERS: usize = PAYLOAD_CHARACTERS + 1 + SIGNATURE_CHARACTERS;
/// Keeps a token from being any other thing that an identity key signs.
const DOMAIN: &[u8] = b"scp access token 1\0";
/// How far nodes' clocks may be apart, generously: the mesh refuses 5 s already.
const CLOCK_SKEW_MS: u64 = 60_000;

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    pub signer: NodeId,
    pub user: UserId,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub id: Uuid,
}

impl Claims {
    fn payload(&self) -> [u8; PAYLOAD_BYTES] {
        let mut out = [0; PAYLOAD_BYTES];
        out[0] = VERSION;
        out[1..9].copy_from_slice(&self.signer.0.to_be_bytes());
        out[9..25].copy_from_slice(self.user.0.as_bytes());
        out[25..33].copy_from_slice(&self.issued_at.0.to_be_bytes());
        out[33..41].copy_from_slice(&self.expires_at.0.to_be_bytes());
        out[41..57].copy_from_slice(self.id.as_bytes());
        out
    }

    fn from_payload(payload: &[u8; PAYLOAD_BYTES]) -> Option<Self> {
        let number = |at: usize| u64::from_be_bytes(*payload[at..].first_chunk().expect("8 bytes are left"));
        let uuid = |at: usize| Uuid::from_bytes(*payload[at..].first_chunk().expect("16 bytes are left"));
        (payload[0] == VERSION).then(|| Self {
            signer: NodeId(number(1)),
            user: UserId(uuid(9)),
            issued_at: Timestamp(number(25)),
            expires_at: Timestamp(number(33)),
            id: uuid(41),
        })
    }
}

fn signed_message(payload: &[u8; PAYLOAD_BYTES]) -> Vec<u8> {
    [DOMAIN, payload].concat()
}

/// A token for `user`, signed by this node.
pub(crate) fn issue(
    cluster: &dyn Cluster,
    (state, user): (&State, &User),
    lifetime_s: u64,
) -> (String, Claims) {
    let issued_at = state.time.max(user.tokens_valid_from.plus_ms(1));
    let expires_at = cluster.now().plus_ms(lifetime_s.min(TOKEN_LIFETIME_S_MAX) * 1000);
    let claims = Claims { signer: cluster.node(), user: user.id, issued_at, expires_at, id: Uuid::new_v4() };
    let payload = claims.payload();
    let signature = cluster.sign(&signed_message(&payload));
    let text = format!("{}.{}", BASE64URL_NOPAD.encode(&payload), BASE64URL_NOPAD.encode(&signature));
    (text, claims)
}

/// A well-formed token, not believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unverified {
    pub(crate) claims: Claims,
    payload: [u8; PAYLOAD_BYTES],
    signature: [u8; 64],
}

/// Why a token is not accepted. The asker is told in broad terms only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("it is malformed")]
    Malformed,
    #[error("the node that signed it is not part of this city")]
    SignerUnknown,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is dated in the future")]
    Future,
    #[error("its user does not exist or is disabled")]
    User,
    #[error("it was revoked, or the password was changed since")]
    Revoked,
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        Problem::new(Code::TokenRefused, format!("the access token is not accepted: {error}"))
            .remedy("Log in again: scpctl login")
    }
}

pub(crate) fn parse(text: &str) -> Result<Unverified, TokenError> {
    if text.len() != TOKEN_CHARACTERS {
        return Err(TokenError::Malformed);
    }
    let (payload, signature) = text.split_once('.').ok_or(TokenError::Malformed)?;
    let payload = decode(payload).ok_or(TokenError::Malformed)?;
    let signature = decode(signature).ok_or(TokenError::Malformed)?;
    let claims = Claims::from_payload(&payload).ok_or(TokenError::Malformed)?;
    Ok(Unverified { claims, payload, signature })
}

/// Exactly `N` bytes in their one encoding.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}

impl Unverified {
    /// The token's user, when everything about it holds.
    pub(crate) fn verify<'a>(&self, state: &'a State, now: Timestamp) -> Result<&'a User, TokenError> {
        self.verify_once(&Proven::default(), state, now)
    }

    /// The same where many requests come with one token: its signature is computed once, and all else
    /// asked each time.
    pub(crate) fn verify_once<'a>(
        &self,
        proven: &Proven,
        state: &'a State,
        now: Timestamp,
    ) -> Result<&'a User, TokenError> {
        let signer = state.nodes.get(&self.claims.signer).ok_or(TokenError::SignerUnknown)?;
        let key = &signer.public_key.0;
        let right = proven.or_verify((key, &self.payload, &self.signature), || self.is_signed_by(key));
        if !right {
            return Err(TokenError::Signature);
        }
        self.check(state, now)
    }

    fn is_signed_by(&self, key: &[u8; 32]) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(key)
            .is_ok_and(|key| key.verify_strict(&signed_message(&self.payload), &signature).is_ok())
    }

    /// The same without the signature, for one that was verified before: cheap enough for every event.
    pub(crate) fn check<'a>(&self, state: &'a State, now: Timestamp) -> Result<&'a User, TokenError> {
        let Claims { signer, user, issued_at, expires_at, .. } = self.claims;
        if !state.nodes.contains_key(&signer) {
            return Err(TokenError::SignerUnknown);
        }
        let longest = now.plus_ms(TOKEN_LIFETIME_S_MAX * 1000 + CLOCK_SKEW_MS);
        if now >= expires_at || expires_at > longest {
            return Err(TokenError::Expired);
        }
        let user = state.users.get(&user).filter(|user| user.enabled).ok_or(TokenError::User)?;
        if issued_at > now.max(state.time).plus_ms(CLOCK_SKEW_MS) {
            return Err(TokenError::Future);
        }
        // Issued in the same millisecond counts as before.
        if issued_at <= user.tokens_valid_from {
            return Err(TokenError::Revoked);
        }
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(payload: &[u8], signature: &[u8]) -> String {
        format!("{}.{}", BASE64URL_NOPAD.encode(payload), BASE64URL_NOPAD.encode(signature))
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}", near in "[A-Za-z0-9_-]{76}\\.[A-Za-z0-9_-]{86}") {
            let _ = parse(&text);
            let _ = parse(&near);
        }

        #[test]
        fn a_token_is_read_as_it_was_written_and_has_one_text(
            numbers in any::<(u64, u64, u64)>(),
            ids in any::<(u128, u128)>(),
            signature in proptest::array::uniform32(any::<u8>()),
        ) {
            let claims = Claims {
                signer: NodeId(numbers.0),
                user: UserId::from_u128(ids.0),
                issued_at: Timestamp(numbers.1),
                expires_at: Timestamp(numbers.2),
                id: Uuid::from_u128(ids.1),
            };
            let signature = [signature, signature].concat();
            let text = text_of(&claims.payload(), &signature);
            prop_assert_eq!(text.len(), TOKEN_CHARACTERS);
            let read = parse(&text).expect("it was written here");
            prop_assert_eq!(read.claims, claims);
            prop_assert_eq!(text_of(&read.payload, &read.signature), text);
        }

        #[test]
        fn a_token_cut_anywhere_is_malformed(cut in 0..TOKEN_CHARACTERS) {
            let payload = [VERSION; PAYLOAD_BYTES];
            let text = text_of(&payload, &[7; 64]);
            prop_assert!(parse(&text).is_ok());
            prop_assert_eq!(parse(&text[..cut]), Err(TokenError::Malformed));
        }
    }

    #[test]
    fn another_version_is_not_read() {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[0] = VERSION + 1;
        assert_eq!(parse(&text_of(&payload, &[0; 64])), Err(TokenError::Malformed));
    }
}
