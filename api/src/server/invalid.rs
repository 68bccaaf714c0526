//! Collects everything that is not valid, so that it is told at once.

use std::str::FromStr;

use scp_model::{Name, NodeId};
use uuid::Uuid;

use crate::v1::{InvalidField, Problem};

#[derive(Default)]
pub(crate) struct Invalid(Vec<InvalidField>);

impl Invalid {
    pub(crate) fn add(&mut self, field: &str, why: impl ToString) {
        self.0.push(InvalidField { field: field.to_owned(), why: why.to_string() });
    }

    /// Adds the reason when `holds` is false.
    pub(crate) fn check(&mut self, holds: bool, field: &str, why: impl ToString) {
        if !holds {
            self.add(field, why);
        }
    }

    /// The value, or its reason among the others.
    pub(crate) fn take<T, E: ToString>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|why| self.add(field, why)).ok()
    }

    /// A name for something new. One that looks like an id would be taken for one.
    pub(crate) fn name(&mut self, field: &str, text: &str) -> Option<Name> {
        let name = self.take(field, Name::new(text))?;
        let like_id = Uuid::try_parse(text).is_ok() || NodeId::from_str(text).is_ok();
        self.check(!like_id, field, "looks like an id; choose a name that does not");
        Some(name)
    }

    /// The id that the client made, or the one made here.
    pub(crate) fn id<T: FromStr<Err: ToString>>(&mut self, text: Option<&str>, made: T) -> Option<T> {
        match text {
            None => Some(made),
            Some(text) => self.take("id", text.parse()),
        }
    }

    /// A number within its range; for none, its default.
    pub(crate) fn number(
        &mut self,
        field: &str,
        value: Option<u64>,
        (low, default, high): (u64, u64, u64),
    ) -> u64 {
        let value = value.unwrap_or(default);
        self.check((low..=high).contains(&value), field, format!("must be between {low} and {high}"));
        value
    }

    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::invalid(self.0)) }
    }
}

/// After `finish`, what was collected is there.
pub(crate) fn valid<T>(value: Option<T>) -> T {
    value.expect("a value that is missing has its reason among the invalid fields, which were told")
}
