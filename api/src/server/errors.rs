//! From the words of the state and the cluster to problems. Exhaustive: a new rejection does not compile
//! until it is told what its remedy is.

use scp_model::{Rejection, Subject};
use scp_state::Hold;

use super::problem::Code;
use crate::{cluster::ClusterError, v1::Problem};

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            Rejection::NotInitialised => Problem::new(Code::NotInitialised, detail)
                .remedy("Found a city on this server (scpctl init) or join one (scpctl join ADDRESS TOKEN)."),
            Rejection::AlreadyInitialised => Problem::new(Code::AlreadyInitialised, detail)
                .remedy("More servers join it: scpctl token create, then scpctl join ADDRESS TOKEN on the new one."),
            Rejection::NotFound { subject } => Problem::not_found(subject.kind(), &subject.id()),
            Rejection::NameTaken { kind, name } => Problem::new(Code::NameTaken, detail)
                .remedy(format!("Choose another name, or see it: {}", see(&kind, &name))),
            Rejection::IdTaken { .. } => {
                Problem::new(Code::IdTaken, detail).remedy("Leave the id out, or send another one.")
            }
            Rejection::QuotaExceeded { resource, used, asked, .. } => Problem::new(Code::QuotaExceeded, detail)
                .remedy(format!(
                    "Delete something, or ask an administrator for a quota of {} {resource}: scpctl project quota",
                    used.saturating_add(asked)
                )),
            Rejection::InUse { subject, .. } => {
                Problem::new(Code::InUse, detail).remedy(release(&subject))
            }
            Rejection::Invalid { field, why } => Problem::invalid_field(&field, why),
            Rejection::StalePlan { why } => Problem::new(Code::Stale, detail).reason(why).remedy("Repeat it."),
            Rejection::StaleEpoch { .. } => {
                Problem::new(Code::Stale, detail).remedy("Nothing: the newer placement goes on.")
            }
            Rejection::WrongState { subject, .. } => Problem::new(Code::WrongState, detail)
                .remedy(format!("See where it stands: {}", see(subject.kind(), &subject.id()))),
            Rejection::TokenUnknown | Rejection::TokenExpired | Rejection::TokenUsed => {
                Problem::new(Code::JoinTokenRefused, detail)
                    .remedy("Make a new one on a node of the city: scpctl token create")
            }
            Rejection::ProtocolTooFar { node, city } => Problem::new(Code::ProtocolTooFar, detail)
                .remedy(format!(
                    "Install the city's release on the {}.",
                    if node < city { "new server, which is older" } else { "city first: the new server is newer" }
                )),
            Rejection::BrakeEngaged { .. } => Problem::new(Code::BrakeEngaged, detail)
                .remedy("Look at the network between the nodes first: scpctl status"),
            Rejection::Forbidden { why } => Problem::new(Code::Forbidden, detail).reason(why),
            Rejection::LimitReached { .. } => {
                Problem::new(Code::LimitReached, detail).remedy("Delete what is no longer needed.")
            }
        }
    }
}

/// The command that shows a thing. Tokens and the city have no `show` of their own.
fn see(kind: &str, name: &str) -> String {
    match kind {
        "city" => "scpctl status".to_owned(),
        "join_token" => "scpctl token list".to_owned(),
        "department" => "scpctl department list".to_owned(),
        noun => format!("scpctl {noun} show {name}"),
    }
}

/// How something is freed so that it can be deleted.
fn release(subject: &Subject) -> String {
    let id = subject.id();
    match subject {
        Subject::City => "Nothing: the city stays.".to_owned(),
        Subject::Node(_) => format!("See what is still there: scpctl node show {id}"),
        Subject::Department(_) => "Delete its projects first: scpctl project list".to_owned(),
        Subject::Project(_) => "Delete its VMs, images and keypairs first.".to_owned(),
        Subject::Image(_) => "Delete the VMs that use it first: scpctl vm list".to_owned(),
        Subject::User(_) => "Give another user the role first: scpctl user list".to_owned(),
        Subject::JoinToken(_) | Subject::Keypair(_) | Subject::Flavor(_) | Subject::Vm(_) => {
            format!("Delete what uses it first: {}", see(subject.kind(), &id))
        }
    }
}

/// How a node is freed of what keeps it from being removed.
pub fn release_node(name: &str, hold: Hold) -> String {
    match hold {
        Hold::Vms(_) => format!("Move its VMs away first: scpctl node drain {name} --wait. Then repeat it."),
        Hold::Evictions(_) => format!(
            "Wait: it removes them within seconds while it is up. If it will never come back: scpctl node remove \
             {name} --force"
        ),
        Hold::OnlyCopy(image) => format!(
            "Wait until another node has a copy (scpctl image show {image}), or, if nobody needs the image, \
             delete it: scpctl image delete {image}. Then repeat it."
        ),
    }
}

impl From<ClusterError> for Problem {
    fn from(error: ClusterError) -> Self {
        let detail = error.to_string();
        match error {
            ClusterError::NoQuorum { why } => Problem::new(Code::NoQuorum, detail).reason(why).remedy(
                "What runs goes on. Bring back a majority of the voters (scpctl status --stale names them). \
                 A change may have happened: repeat it with the same Idempotency-Key. \
                 Reads with consistency=stale still work.",
            ),
            ClusterError::ReadOnly { why } => Problem::new(Code::ReadOnly, detail)
                .reason(why)
                .remedy("Make room on the node's disk; it recovers by itself. Or ask another node."),
            ClusterError::DiskFull { .. } => Problem::new(Code::DiskFull, detail)
                .remedy("Make room on the node's disk, or send it to another node: --node ADDRESS."),
            ClusterError::NodeUnreachable { node, why } => Problem::new(Code::NodeUnreachable, detail)
                .reason(why)
                .remedy(format!("See what is known of it: scpctl node show {node}")),
            ClusterError::Overloaded => {
                Problem::new(Code::Overloaded, detail).remedy("Try again in a second.")
            }
            ClusterError::BadContent { code, .. } => Problem::new(Code::BadContent, detail).reason(code),
            ClusterError::NotFound { .. } => Problem::new(Code::NotFound, detail),
            ClusterError::Internal { why } => internal(&why),
        }
    }
}

/// A fault of ours: what it was stands in the log, not in the answer.
pub(crate) fn internal(why: &str) -> Problem {
    tracing::error!(why, "request failed by a fault of the platform");
    Problem::new(Code::Internal, "the platform failed; the log has the cause under this request's id")
        .remedy("Tell an operator the request_id.")
}

#[cfg(test)]
mod tests {
    use scp_model::{VmId, rejection::QuotaResource};

    use super::*;

    fn rejections() -> Vec<(Rejection, u16)> {
        let subject = Subject::Vm(VmId::from_u128(1));
        vec![
            (Rejection::NotInitialised, 409),
            (Rejection::AlreadyInitialised, 409),
            (Rejection::NotFound { subject }, 404),
            (Rejection::NameTaken { kind: "vm".into(), name: "web".into() }, 409),
            (Rejection::IdTaken { subject }, 409),
            (Rejection::QuotaExceeded { resource: QuotaResource::Vms, limit: 1, used: 1, asked: 1 }, 409),
            (Rejection::InUse { subject, by: "vm x".into() }, 409),
            (Rejection::Invalid { field: "name".into(), why: "is bad".into() }, 422),
            (Rejection::StalePlan { why: "moved".into() }, 409),
            (Rejection::StaleEpoch { got: 1, granted: 2 }, 409),
            (Rejection::WrongState { subject, state: "deleting".into() }, 409),
            (Rejection::TokenUnknown, 409),
            (Rejection::TokenExpired, 409),
            (Rejection::TokenUsed, 409),
            (Rejection::ProtocolTooFar { node: 1, city: 3 }, 409),
            (Rejection::BrakeEngaged { silent: 3, nodes: 4 }, 409),
            (Rejection::Forbidden { why: "last admin".into() }, 403),
            (Rejection::LimitReached { what: "users".into(), limit: 9 }, 409),
        ]
    }

    #[test]
    fn every_rejection_has_its_status_and_tells_what_happened() {
        for (rejection, status) in rejections() {
            let problem = Problem::from(rejection.clone());
            assert_eq!(problem.status, status, "{rejection:?}");
            assert!(!problem.detail.is_empty(), "{rejection:?}");
            assert_eq!(problem.type_uri, format!("/errors/{}", problem.code));
        }
    }

    #[test]
    fn what_keeps_a_node_is_freed_in_its_own_way() {
        let image = scp_model::ImageId::from_u128(7);
        for (hold, command) in [
            (Hold::Vms(2), "scpctl node drain n2 --wait".to_owned()),
            (Hold::Evictions(1), "scpctl node remove n2 --force".to_owned()),
            (Hold::OnlyCopy(image), format!("scpctl image delete {image}")),
        ] {
            let remedy = release_node("n2", hold);
            assert!(remedy.contains(&command), "{hold:?}: {remedy}");
            assert_eq!(remedy.contains("drain"), matches!(hold, Hold::Vms(_)), "{hold:?}: {remedy}");
        }
    }

    #[test]
    fn a_fault_of_ours_keeps_its_cause_to_the_log() {
        let problem = Problem::from(ClusterError::Internal { why: "/var/lib/secret: EIO".into() });
        assert_eq!(problem.status, 500);
        assert!(!problem.to_string().contains("secret"));
    }
}
