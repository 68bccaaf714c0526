//! Names that users choose, and country codes.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest name, as a DNS label (RFC 1035).
pub const NAME_BYTES_MAX: usize = 63;

/// A name: 1 to 63 ASCII letters, digits, `-`, `_` or `.`, beginning and ending with a letter or digit.
/// Safe as a file name, a metric label and (but for `_` and `.`) a DNS label.
///
/// Shared rather than copied: the state's maps copy their leaves, names and all, when one entry changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name is needed")]
    Empty,
    #[error("a name has at most {NAME_BYTES_MAX} characters, this one has {0}")]
    TooLong(usize),
    #[error("{0:?} may not stand in a name; use letters, digits, '-', '_' and '.'")]
    Character(char),
    #[error("a name begins and ends with a letter or a digit")]
    Edge,
}

impl Name {
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(c) = text.chars().find(|c| !inner(*c)) {
            return Err(NameError::Character(c));
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge(text.chars().next()) || !edge(text.chars().next_back()) {
            return Err(NameError::Edge);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().into()
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A country: two upper-case letters (ISO 3166-1 alpha-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country([u8; 2]);

/// The text is not two upper-case letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a country is two upper-case letters (ISO 3166-1), for example PT")]
pub struct CountryError;

impl FromStr for Country {
    type Err = CountryError;

    fn from_str(text: &str) -> Result<Self, CountryError> {
        match *text.as_bytes() {
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([a, b])),
            _ => Err(CountryError),
        }
    }
}

impl TryFrom<String> for Country {
    type Error = CountryError;

    fn try_from(text: String) -> Result<Self, CountryError> {
        text.parse()
    }
}

impl From<Country> for String {
    fn from(country: Country) -> Self {
        country.to_string()
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.0[0]), char::from(self.0[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_control_characters_or_path_parts_are_refused() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("a\u{7}b"), Err(NameError::Character('\u{7}')));
        assert_eq!(Name::new("../etc"), Err(NameError::Character('/')));
        assert_eq!(Name::new(".."), Err(NameError::Edge));
        assert_eq!(Name::new("-rf"), Err(NameError::Edge));
        assert_eq!(Name::new("a".repeat(64)), Err(NameError::TooLong(64)));
        assert_eq!(Name::new("ágora"), Err(NameError::Character('á')));
        assert!(Name::new("web-1.culture_dept").is_ok());
    }

    #[test]
    fn a_country_is_two_upper_case_letters() {
        assert!("PT".parse::<Country>().is_ok());
        for bad in ["", "P", "pt", "PRT", "P1"] {
            assert_eq!(bad.parse::<Country>(), Err(CountryError));
        }
    }
}
