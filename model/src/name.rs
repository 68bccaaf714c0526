//! Names that users choose, and country codes.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize, Serializer};

/// The longest name, as a DNS label (RFC 1035).
pub const NAME_BYTES_MAX: usize = 63;

/// A name: 1 to 63 ASCII letters, digits, `-`, `_` or `.`, beginning and ending with a letter or digit.
/// Safe as a file name, a metric label and (but for `_` and `.`) a DNS label.
///
/// Most names are short and stand in place: to compare them in the state's tables, which is much of what those
/// do, is then not to look elsewhere. Longer ones are shared, since the tables copy their leaves, names and all,
/// when one entry changes.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(Text);

/// A text has one form only: short ones are never shared.
#[derive(Clone)]
enum Text {
    Short {
        length: u8,
        /// ASCII, then zeros.
        bytes: [u8; SHORT_BYTES_MAX],
    },
    Shared(Arc<str>),
}

/// What fits beside the length in the space of three words.
const SHORT_BYTES_MAX: usize = 22;

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
        Ok(Self(Text::of(text)))
    }

    #[inline]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Short { .. } => str::from_utf8(self.as_bytes()).expect("a name is ASCII"),
            Text::Shared(text) => text,
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { length, bytes } => &bytes[..usize::from(*length)],
            Text::Shared(text) => text.as_bytes(),
        }
    }
}

impl Text {
    fn of(text: String) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                let length =
                    u8::try_from(text.len()).expect("a short text has fewer bytes than a byte counts");
                Self::Short { length, bytes }
            }
            None => Self::Shared(text.into()),
        }
    }
}

impl Ord for Name {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // Zeros follow a short text and are in none, so what is shorter comes first.
            (Text::Short { bytes, .. }, Text::Short { bytes: others, .. }) => {
                words(bytes).cmp(&words(others))
            }
            _ => self.as_bytes().cmp(other.as_bytes()),
        }
    }
}

/// The same order as that of the bytes, quicker to compare.
#[inline]
fn words(bytes: &[u8; SHORT_BYTES_MAX]) -> (u128, u64) {
    let (mut high, mut low) = ([0; 16], [0; 8]);
    high.copy_from_slice(&bytes[..16]);
    low[..SHORT_BYTES_MAX - 16].copy_from_slice(&bytes[16..]);
    (u128::from_be_bytes(high), u64::from_be_bytes(low))
}

impl PartialOrd for Name {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Name {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Name").field(&self.as_str()).finish()
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
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
        name.as_str().into()
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
        f.pad(self.as_str())
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
    use proptest::prelude::*;

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
    fn a_name_takes_three_words() {
        assert_eq!(size_of::<Name>(), 24);
    }

    proptest! {
        #[test]
        fn names_are_ordered_and_told_apart_as_their_texts(
            one in "[a-c0-2]([a-b._-]{0,40}[a-b0])?", two in "[a-c0-2]([a-b._-]{0,40}[a-b0])?", cut in 1usize..63,
        ) {
            // Texts that agree for some way, so that each length of what they share comes up.
            let shared: String = one.chars().cycle().take(cut).collect();
            for (one, two) in [(one.clone(), two.clone()), (format!("{shared}a"), format!("{shared}b")), (shared.clone(), format!("{shared}0"))] {
                let (Ok(first), Ok(second)) = (Name::new(one.clone()), Name::new(two.clone())) else { continue };
                prop_assert_eq!(first.as_str(), one.as_str());
                prop_assert_eq!(first.cmp(&second), one.cmp(&two));
                prop_assert_eq!(second.cmp(&first), two.cmp(&one));
                prop_assert_eq!(first == second, one == two);
                prop_assert_eq!(serde_json::to_string(&first).expect("a text"), format!("{one:?}"));
            }
        }
    }

    #[test]
    fn a_country_is_two_upper_case_letters() {
        assert!("PT".parse::<Country>().is_ok());
        for bad in ["", "P", "pt", "PRT", "P1"] {
            assert_eq!(bad.parse::<Country>(), Err(CountryError));
        }
    }
}
