//! Who sees which events: the same for lists, for HTTP's watch and for the native one.

use scp_model::{Event, Subject};
use scp_state::State;
use serde::{Deserialize, Serialize};

use super::authorize::{Action, Identity, Scope, authorize};

macro_rules! subject_kinds {
    ($($kind:ident = $word:literal, $subject:pat,)*) => {
        /// What kind of thing an event is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum SubjectKind { $($kind,)* }

        impl SubjectKind {
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            pub const fn word(self) -> &'static str {
                match self { $(Self::$kind => $word,)* }
            }

            pub const fn of(subject: &Subject) -> Self {
                match subject { $($subject => Self::$kind,)* }
            }
        }
    };
}

subject_kinds! {
    City = "city", Subject::City,
    Node = "node", Subject::Node(_),
    JoinToken = "join_token", Subject::JoinToken(_),
    Department = "department", Subject::Department(_),
    Project = "project", Subject::Project(_),
    User = "user", Subject::User(_),
    Keypair = "keypair", Subject::Keypair(_),
    Flavor = "flavor", Subject::Flavor(_),
    Image = "image", Subject::Image(_),
    Vm = "vm", Subject::Vm(_),
}

impl SubjectKind {
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }
}

/// Those of a project are its readers'; the rest is the city's; what concerns a user, theirs too.
pub(crate) fn visible(identity: &Identity, event: &Event) -> bool {
    match (event.project, event.subject) {
        (Some(project), _) => authorize(identity, Action::EventRead, Scope::Project(project)).is_ok(),
        (None, Subject::User(user)) if identity.user() == Some(user) => true,
        (None, _) => authorize(identity, Action::CityEventRead, Scope::City).is_ok(),
    }
}

/// Sequence number of the oldest event that is kept, or of the next one.
pub(crate) fn oldest(state: &State) -> u64 {
    state.next_event - state.events.len() as u64
}

/// Whether a watch can begin at `next`. A number that is yet to come is another city's, or another life's
/// of this one.
pub(crate) fn is_kept(state: &State, next: u64) -> bool {
    (oldest(state)..=state.next_event).contains(&next)
}

#[cfg(test)]
mod tests {
    use scp_model::{KeypairId, NodeId, VmId};

    use super::*;

    #[test]
    fn kinds_have_the_words_of_their_subjects() {
        let subjects = [
            Subject::City,
            Subject::Node(NodeId(1)),
            Subject::Keypair(KeypairId::from_u128(1)),
            Subject::Vm(VmId::from_u128(1)),
        ];
        for subject in subjects {
            assert_eq!(SubjectKind::of(&subject).word(), subject.kind());
        }
        for kind in SubjectKind::ALL {
            assert_eq!(SubjectKind::from_word(kind.word()), Some(*kind));
        }
        assert_eq!(SubjectKind::from_word("ghost"), None);
    }
}
