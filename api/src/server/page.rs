//! Lists: filters, limits, and page tokens that say after which id to go on.

use std::{fmt::Display, ops::Bound, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use scp_model::{Name, ProjectId};
use serde::de::DeserializeOwned;

use super::{call::Call, invalid::Invalid};
use crate::v1::{LIMIT_DEFAULT, LIMIT_MAX, List, ListQuery, Problem};

/// A list query, understood.
pub(crate) struct Filter<K, P> {
    limit: usize,
    after: Option<K>,
    pub(crate) name: Option<Name>,
    pub(crate) project: Option<ProjectId>,
    pub(crate) phase: Option<P>,
}

/// For resources without phases.
#[derive(serde::Deserialize)]
pub(crate) enum NoPhase {}

/// Whether a resource is in a project, so that lists can be of one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByProject {
    Yes,
    No,
}

impl<K: FromStr + Display + Ord + Clone, P: DeserializeOwned> Filter<K, P> {
    pub(crate) fn new(call: &Call, query: &ListQuery, by_project: ByProject) -> Result<Self, Problem> {
        let mut invalid = Invalid::default();
        let limit = invalid.number("limit", query.limit, (1, LIMIT_DEFAULT, LIMIT_MAX)) as usize;
        let after = query.page_token.as_deref().and_then(|token| {
            invalid.take("page_token", page_token(token).ok_or("is not a next_page_token of this list"))
        });
        let name = query.name.as_deref().and_then(|name| invalid.take("name", Name::new(name)));
        let phase = query.phase.as_ref().and_then(|phase| {
            let phase = serde_json::from_value(serde_json::Value::String(phase.clone()));
            invalid.take("phase", phase.map_err(|error| error.to_string()))
        });
        let project = match (&query.project, by_project) {
            (Some(_), ByProject::No) => {
                invalid.add("project", "does not apply here");
                None
            }
            (Some(text), ByProject::Yes) => invalid
                .take("project", call.find_project(text).map_err(|problem| problem.detail))
                .map(|project| project.id),
            (None, _) => None,
        };
        invalid.finish()?;
        Ok(Self { limit, after, name, project, phase })
    }

    pub(crate) fn keeps(&self, name: &Name, project: Option<ProjectId>) -> bool {
        self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.project.is_none_or(|wanted| Some(wanted) == project)
    }

    /// One page of `map`: those that `keep` keeps, as `view` shows them.
    pub(crate) fn page<V, T>(
        &self,
        map: &imbl::OrdMap<K, V>,
        keep: impl Fn(&V) -> bool,
        view: impl Fn(&V) -> T,
    ) -> List<T>
    where
        V: Clone,
    {
        let from = self.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut kept = map.range((from, Bound::Unbounded)).filter(|(_, value)| keep(value));
        let mut items = Vec::new();
        let mut last = None;
        for (id, value) in kept.by_ref().take(self.limit) {
            items.push(view(value));
            last = Some(id);
        }
        let more = last.filter(|_| kept.next().is_some());
        List { items, next_page_token: more.map(|id| BASE64URL_NOPAD.encode(id.to_string().as_bytes())) }
    }
}

fn page_token<K: FromStr>(token: &str) -> Option<K> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    String::from_utf8(bytes).ok()?.parse().ok()
}
