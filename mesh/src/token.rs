//! Join tokens: what an operator carries from one server to the next.
//!
//! ```text
//! SCP-MFRGG-ZDFMZ-TWQ2L-…          base32 in groups of five; case, spaces and missing dashes are forgiven
//! bytes: | format 1 | token id 16 | secret 16 | authority's fingerprint 32 | checksum 4 |
//! ```
//!
//! The checksum (of all that comes before it) tells a mistyped token from a wrong one before anything is
//! sent. The fingerprint proves the city to the joining server before the secret leaves it.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use scp_model::{Digest, JoinTokenId};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "SCP-";
const FORMAT: u8 = 1;
const BODY_BYTES: usize = 1 + 16 + 16 + 32;
const CHECKSUM_BYTES: usize = 4;
const TOKEN_BYTES: usize = BODY_BYTES + CHECKSUM_BYTES;
/// Characters of the base32 text without dashes.
const TEXT_CHARACTERS: usize = (TOKEN_BYTES * 8).div_ceil(5);
const GROUP: usize = 5;

/// The secret part of a token. Shown by the token's text only.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret(pub [u8; 16]);

impl JoinSecret {
    /// What the state keeps of it.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret")
    }
}

/// Lets one server join one city, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: JoinTokenId,
    pub secret: JoinSecret,
    /// SHA-256 of the certificate of the city's authority.
    pub authority: Digest,
}

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a join token begins with SCP-; an operator makes one with: scpctl token create")]
    Prefix,
    #[error("{0:?} cannot stand in a join token, which has the letters A to Z and the digits 2 to 7")]
    Character(char),
    #[error("a join token has {TEXT_CHARACTERS} characters behind SCP-, this one has {0}: copy all of it")]
    Length(usize),
    #[error("the join token was mistyped: its checksum does not match; copy it again")]
    Mistyped,
    #[error("the join token has format {0}, this software reads format {FORMAT}: use the city's release")]
    Format(u8),
}

impl JoinToken {
    /// A new token with a random secret; `None` when the system gives no randomness.
    pub fn generate(id: JoinTokenId, authority: Digest) -> Option<Self> {
        let mut secret = [0; 16];
        SystemRandom::new().fill(&mut secret).ok()?;
        Some(Self { id, secret: JoinSecret(secret), authority })
    }

    /// What the state keeps of the secret.
    pub fn secret_digest(&self) -> Digest {
        self.secret.digest()
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(body));
    [a, b, c, d]
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.push(FORMAT);
        bytes.extend_from_slice(self.id.0.as_bytes());
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&checksum(&bytes));
        f.write_str("SCP")?;
        for group in BASE32_NOPAD.encode(&bytes).as_bytes().chunks(GROUP) {
            f.write_str("-")?;
            group.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))?;
        }
        Ok(())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let rest = match text.get(..PREFIX.len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &text[PREFIX.len()..],
            Some(_) | None => return Err(TokenError::Prefix),
        };
        let mut characters = String::with_capacity(TEXT_CHARACTERS);
        for c in rest.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
            let upper = c.to_ascii_uppercase();
            if !matches!(upper, 'A'..='Z' | '2'..='7') {
                return Err(TokenError::Character(c));
            }
            if characters.len() <= TEXT_CHARACTERS {
                characters.push(upper);
            }
        }
        if characters.len() != TEXT_CHARACTERS {
            return Err(TokenError::Length(characters.len()));
        }
        let bytes = BASE32_NOPAD.decode(characters.as_bytes()).map_err(|_| TokenError::Mistyped)?;
        Self::from_bytes(&bytes)
    }
}

impl JoinToken {
    fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        let Some((body, sum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(TokenError::Mistyped);
        };
        if checksum(body) != *sum {
            return Err(TokenError::Mistyped);
        }
        let (Some((&[format], rest)), true) = (body.split_first_chunk::<1>(), body.len() == BODY_BYTES)
        else {
            return Err(TokenError::Mistyped);
        };
        if format != FORMAT {
            return Err(TokenError::Format(format));
        }
        let take =
            |from: usize| <[u8; 16]>::try_from(&rest[from..from + 16]).expect("the length was checked");
        let authority = <[u8; 32]>::try_from(&rest[32..]).expect("the length was checked");
        Ok(Self {
            id: JoinTokenId::from_u128(u128::from_be_bytes(take(0))),
            secret: JoinSecret(take(16)),
            authority: Digest(authority),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens() -> impl Strategy<Value = JoinToken> {
        (any::<u128>(), any::<[u8; 16]>(), any::<[u8; 32]>()).prop_map(|(id, secret, authority)| JoinToken {
            id: JoinTokenId::from_u128(id),
            secret: JoinSecret(secret),
            authority: Digest(authority),
        })
    }

    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

    proptest! {
        #[test]
        fn what_was_written_is_read(token in tokens()) {
            let text = token.to_string();
            prop_assert_eq!(text.parse::<JoinToken>(), Ok(token.clone()));
            let sloppy = format!("  scp-{}\n", text[4..].to_lowercase().replace('-', " "));
            prop_assert_eq!(sloppy.parse::<JoinToken>(), Ok(token));
        }

        #[test]
        fn any_altered_character_is_an_error(
            token in tokens(),
            at: prop::sample::Index,
            with: prop::sample::Index,
        ) {
            let mut text = token.to_string().into_bytes();
            let at = at.index(text.len());
            let with = *with.get(ALPHABET);
            prop_assume!(text[at] != with);
            let dash = text[at] == b'-';
            text[at] = with;
            let text = String::from_utf8(text).expect("ASCII stays ASCII");
            let error = text.parse::<JoinToken>().expect_err("an altered token is no token");
            match at {
                0..4 => prop_assert_eq!(error, TokenError::Prefix),
                _ if dash => prop_assert_eq!(error, TokenError::Length(TEXT_CHARACTERS + 1)),
                _ => prop_assert_eq!(error, TokenError::Mistyped),
            }
        }

        #[test]
        fn a_cut_token_is_an_error(token in tokens(), at: prop::sample::Index) {
            let text = token.to_string();
            prop_assert!(text[..at.index(text.len())].parse::<JoinToken>().is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text: String, bytes: Vec<u8>) {
            let _ = text.parse::<JoinToken>();
            let _ = format!("SCP-{text}").parse::<JoinToken>();
            let _ = JoinToken::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_later_format_is_told_from_a_typo() {
        let mut bytes = vec![2u8; BODY_BYTES];
        bytes.extend_from_slice(&checksum(&bytes));
        assert_eq!(JoinToken::from_bytes(&bytes), Err(TokenError::Format(2)));
    }

    /// Tokens on paper outlive a release.
    #[test]
    fn the_text_of_format_1_stays_as_it_is() {
        let token = JoinToken {
            id: JoinTokenId::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            secret: JoinSecret([0x5a; 16]),
            authority: Digest([0xc3; 32]),
        };
        let text = "SCP-AEASG-RLHRG-V433Y-BENCW-PCNLZ-XXVUW-S2LJN-FUWS2-LJNFU-WS2LJ-NFVQ6-DYPB4-HQ6DY-\
                    PB4HQ-6DYPB-4HQ6D-YPB4H-Q6DYP-B4HQ6-DYPB4-HQ6DR-W77P5-Q";
        assert_eq!(token.to_string(), text);
        assert_eq!(text.parse::<JoinToken>(), Ok(token));
    }

    #[test]
    fn errors_teach() {
        assert!("hunter2".parse::<JoinToken>().expect_err("no token").to_string().contains("scpctl token"));
        assert_eq!("SCP-AB0".parse::<JoinToken>(), Err(TokenError::Character('0')));
        assert_eq!("SCP-ABC".parse::<JoinToken>(), Err(TokenError::Length(3)));
    }
}
