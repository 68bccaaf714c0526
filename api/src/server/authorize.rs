//! Who may do what: the one place.
//!
//! | who | may |
//! |---|---|
//! | admin | everything |
//! | operator | nodes, join tokens, flavors; images (all to see, public ones to make and delete); projects, quotas and totals to see; why a VM is not placed |
//! | auditor | users, projects, nodes and all events to see |
//! | manager of a project | what a member may, and grant roles in it |
//! | member | VMs, images, keypairs of the project; consoles |
//! | reader | see them, but no consoles: they show what a guest writes |
//! | anyone with a token | status, flavors, departments, public images, their own account |
//!
//! An operator sees no VMs, not even their names: tenants' names tell what tenants do. What is needed to
//! run machines is told without them: counts on nodes and in the status, and the explanation of a VM
//! whose id somebody reports, in which other VMs are not named.
//!
//! What somebody may not see does not exist for them: 404. What they see and may not do: 403.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    Actor, NodeId, ProjectId, UserId,
    tenancy::{CityRole, ProjectRole},
};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Root on this server, over the local socket: the city's administrator.
    Local(NodeId),
    User {
        id: UserId,
        city_roles: BTreeSet<CityRole>,
        grants: BTreeMap<ProjectId, ProjectRole>,
    },
}

impl Identity {
    pub fn actor(&self) -> Actor {
        match self {
            Self::Local(node) => Actor::Local(*node),
            Self::User { id, .. } => Actor::User(*id),
        }
    }

    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::Local(_) => None,
            Self::User { id, .. } => Some(*id),
        }
    }
}

/// On what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    City,
    Project(ProjectId),
    User(UserId),
}

macro_rules! actions {
    ($($action:ident,)*) => {
        /// Everything that the API does for somebody.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Action { $($action,)* }

        impl Action {
            pub const ALL: &'static [Action] = &[$(Action::$action,)*];
        }
    };
}

actions! {
    StatusRead, MetricsRead, CityEventRead,
    NodeRead, NodeManage, OvercommitManage, JoinTokenManage,
    DepartmentRead, DepartmentManage, ProjectRead, ProjectManage,
    UserRead, UserManage, PasswordSet, TokensRevoke, GrantManage,
    FlavorRead, FlavorManage,
    KeypairRead, KeypairManage,
    ImageRead, ImageManage, ImagePublish,
    VmRead, VmExplain, VmManage, VmConsole, EventRead,
}

/// Not permitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this needs {needs}")]
pub struct Denial {
    /// Who may.
    pub needs: String,
}

/// Who may do an action: any of these suffices.
struct Rule {
    everyone: bool,
    /// Users on their own account.
    own: bool,
    city: &'static [CityRole],
    /// This role in the project, or a higher one.
    project: Option<ProjectRole>,
}

const fn city(city: &'static [CityRole]) -> Rule {
    Rule { everyone: false, own: false, city, project: None }
}

const fn project(role: ProjectRole, city: &'static [CityRole]) -> Rule {
    Rule { everyone: false, own: false, city, project: Some(role) }
}

/// The table.
const fn rule(action: Action) -> Rule {
    use CityRole::{Admin, Auditor, Operator};
    use ProjectRole::{Manager, Member, Reader};
    match action {
        Action::StatusRead | Action::FlavorRead | Action::DepartmentRead => {
            Rule { everyone: true, own: false, city: &[], project: None }
        }
        Action::MetricsRead | Action::CityEventRead | Action::NodeRead => city(&[Admin, Operator, Auditor]),
        Action::NodeManage | Action::JoinTokenManage | Action::FlavorManage | Action::ImagePublish => {
            city(&[Admin, Operator])
        }
        Action::OvercommitManage | Action::DepartmentManage | Action::ProjectManage | Action::UserManage => {
            city(&[Admin])
        }
        Action::UserRead => Rule { everyone: false, own: true, city: &[Admin, Auditor], project: None },
        Action::PasswordSet | Action::TokensRevoke => {
            Rule { everyone: false, own: true, city: &[Admin], project: None }
        }
        Action::GrantManage => project(Manager, &[Admin]),
        Action::ProjectRead => project(Reader, &[Admin, Operator, Auditor]),
        Action::ImageRead | Action::VmExplain => project(Reader, &[Admin, Operator]),
        Action::EventRead => project(Reader, &[Admin, Auditor]),
        Action::KeypairRead | Action::VmRead => project(Reader, &[Admin]),
        Action::KeypairManage | Action::ImageManage | Action::VmManage | Action::VmConsole => {
            project(Member, &[Admin])
        }
    }
}

/// Whether `identity` may do `action` on `scope`.
pub fn authorize(identity: &Identity, action: Action, scope: Scope) -> Result<(), Denial> {
    let rule = rule(action);
    let Identity::User { id, city_roles, grants } = identity else {
        return Ok(());
    };
    let granted = match scope {
        Scope::City => false,
        Scope::Project(project) => match (rule.project, grants.get(&project)) {
            (Some(least), Some(role)) => *role >= least,
            (None, _) | (_, None) => false,
        },
        Scope::User(user) => rule.own && user == *id,
    };
    if rule.everyone || granted || rule.city.iter().any(|role| city_roles.contains(role)) {
        return Ok(());
    }
    Err(Denial { needs: needs(&rule, scope) })
}

fn needs(rule: &Rule, scope: Scope) -> String {
    let mut ways = Vec::new();
    if let (Some(role), Scope::Project(project)) = (rule.project, scope) {
        ways.push(format!("the role {role:?} in project {project}").to_lowercase());
    }
    ways.extend(rule.city.iter().map(|role| format!("the city role {role:?}").to_lowercase()));
    ways.join(", or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ProjectId = ProjectId::from_u128(1);
    const ELSEWHERE: ProjectId = ProjectId::from_u128(2);
    const ME: UserId = UserId::from_u128(3);

    fn asker(city_role: Option<CityRole>, project_role: Option<ProjectRole>) -> Identity {
        let grants = project_role.map(|role| (HERE, role)).into_iter().collect();
        Identity::User { id: ME, city_roles: city_role.into_iter().collect(), grants }
    }

    /// Admin, Operator, auDitor, manaGer, Member, Reader, nobody: `x` may, `.` may not.
    const TABLE: &str = "
        action            A O D  G M R  n
        StatusRead        x x x  x x x  x
        MetricsRead       x x x  . . .  .
        CityEventRead     x x x  . . .  .
        NodeRead          x x x  . . .  .
        NodeManage        x x .  . . .  .
        OvercommitManage  x . .  . . .  .
        JoinTokenManage   x x .  . . .  .
        DepartmentRead    x x x  x x x  x
        DepartmentManage  x . .  . . .  .
        ProjectRead       x x x  x x x  .
        ProjectManage     x . .  . . .  .
        UserRead          x . x  . . .  .
        UserManage        x . .  . . .  .
        PasswordSet       x . .  . . .  .
        TokensRevoke      x . .  . . .  .
        GrantManage       x . .  x . .  .
        FlavorRead        x x x  x x x  x
        FlavorManage      x x .  . . .  .
        KeypairRead       x . .  x x x  .
        KeypairManage     x . .  x x .  .
        ImageRead         x x .  x x x  .
        ImageManage       x . .  x x .  .
        ImagePublish      x x .  . . .  .
        VmRead            x . .  x x x  .
        VmExplain         x x .  x x x  .
        VmManage          x . .  x x .  .
        VmConsole         x . .  x x .  .
        EventRead         x . x  x x x  .
    ";

    #[test]
    fn every_action_is_allowed_to_exactly_the_roles_of_the_table() {
        let askers = [
            asker(Some(CityRole::Admin), None),
            asker(Some(CityRole::Operator), None),
            asker(Some(CityRole::Auditor), None),
            asker(None, Some(ProjectRole::Manager)),
            asker(None, Some(ProjectRole::Member)),
            asker(None, Some(ProjectRole::Reader)),
            asker(None, None),
        ];
        let mut rows = TABLE.lines().map(str::trim).filter(|line| !line.is_empty()).skip(1);
        for action in Action::ALL {
            let mut row = rows.next().expect("the table has a row an action").split_whitespace();
            assert_eq!(row.next(), Some(format!("{action:?}").as_str()));
            for asker in &askers {
                let expected = row.next() == Some("x");
                let allowed = authorize(asker, *action, Scope::Project(HERE)).is_ok();
                assert_eq!(allowed, expected, "{action:?} by {asker:?}");
            }
            assert_eq!(row.next(), None, "a row has a column an asker");
        }
        assert_eq!(rows.next(), None, "the table has no row without an action");
    }

    #[test]
    fn a_grant_is_worth_nothing_in_another_project() {
        let manager = asker(None, Some(ProjectRole::Manager));
        let stranger = asker(None, None);
        for action in Action::ALL {
            let there = authorize(&manager, *action, Scope::Project(ELSEWHERE));
            assert_eq!(there, authorize(&stranger, *action, Scope::Project(ELSEWHERE)), "{action:?}");
        }
    }

    #[test]
    fn users_may_act_on_their_own_account_only() {
        let me = asker(None, None);
        let own: Vec<_> =
            Action::ALL.iter().filter(|action| authorize(&me, **action, Scope::User(ME)).is_ok()).collect();
        use Action::*;
        assert_eq!(own, [&StatusRead, &DepartmentRead, &UserRead, &PasswordSet, &TokensRevoke, &FlavorRead]);
        let other = Scope::User(UserId::from_u128(9));
        assert!(authorize(&me, PasswordSet, other).is_err());
        assert!(authorize(&me, UserRead, other).is_err());
    }

    #[test]
    fn root_on_a_server_may_everything() {
        let root = Identity::Local(NodeId(1));
        assert!(Action::ALL.iter().all(|action| authorize(&root, *action, Scope::City).is_ok()));
    }
}
