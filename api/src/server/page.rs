//! Lists: filters, limits, and page tokens that say after which id to go on.

use std::{fmt::Display, ops::Bound, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use imbl::OrdMap;
use scp_model::{Name, ProjectId, Subject};
use scp_state::{NameScope, State};
use serde::de::DeserializeOwned;

use super::{call::Call, invalid::Invalid, resolve::Scoped};
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
    pub(crate) fn page<V: Clone, T>(
        &self,
        map: &OrdMap<K, V>,
        keep: impl Fn(&V) -> bool,
        view: impl Fn(&V) -> T,
    ) -> List<T> {
        let from = self.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        self.cut(map.range((from, Bound::Unbounded)).filter(|(_, value)| keep(value)), view)
    }

    /// The same for what belongs to projects: of one project, its own names lead to it, however large
    /// the city is.
    pub(crate) fn page_of<V, T>(
        &self,
        (state, map): (&State, &OrdMap<K, V>),
        keep: impl Fn(&V) -> bool,
        view: impl Fn(&V) -> T,
    ) -> List<T>
    where
        V: Clone + Scoped<Id = K>,
    {
        let Some(project) = self.project else {
            return self.page(map, keep, view);
        };
        let mut ids: Vec<K> = names_in(state, V::scope(project)).filter_map(V::id_of).collect();
        ids.sort_unstable();
        let after = |id: &K| self.after.as_ref().is_none_or(|after| id > after);
        let values = ids.iter().filter(|id| after(id)).filter_map(|id| Some((id, map.get(id)?)));
        self.cut(values.filter(|(_, value)| keep(value)), view)
    }

    fn cut<'a, V: 'a, T>(
        &self,
        mut kept: impl Iterator<Item = (&'a K, &'a V)>,
        view: impl Fn(&V) -> T,
    ) -> List<T>
    where
        K: 'a,
    {
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

/// What has a name in that scope.
fn names_in(state: &State, scope: NameScope) -> impl Iterator<Item = Subject> {
    // A name begins with a letter or a digit, and of those `0` is the least.
    let first = Name::new("0").expect("`0` is a name");
    let of_scope = scope.clone();
    let names = state.names.range((scope, first)..);
    names.take_while(move |((scope, _), _)| *scope == of_scope).map(|(_, subject)| *subject)
}

fn page_token<K: FromStr>(token: &str) -> Option<K> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    String::from_utf8(bytes).ok()?.parse().ok()
}
