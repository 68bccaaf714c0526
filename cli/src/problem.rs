//! From what the API says to what a person reads: problem details, and failures on the way to a node.

use scp_api::{
    client::ClientError,
    v1::{PROBLEM_JSON, Problem},
};

use crate::error::{CliError, Exit};

/// The exit code for an HTTP status.
fn exit(status: u16) -> Exit {
    match status {
        401 | 403 => Exit::Denied,
        404 | 410 => Exit::NotFound,
        409 | 412 | 423 | 429 | 507 => Exit::Refused,
        502..=504 => Exit::Unavailable,
        400..=499 => Exit::Usage,
        _ => Exit::Failed,
    }
}

pub fn from_problem(problem: Problem) -> CliError {
    let mut error = CliError::new(exit(problem.status), &problem.code, sentence(&problem));
    error.why.extend(problem.reason);
    error.why.extend(problem.invalid.into_iter().map(|it| format!("{}: {}", it.field, it.why)));
    error.remedy = problem.remedy.or_else(|| default_remedy(problem.status));
    error.request = Some(problem.request_id).filter(|id| !id.is_empty()).map(String::into_boxed_str);
    error
}

/// The detail says what happened; a problem without one still has its title.
fn sentence(problem: &Problem) -> String {
    let text = if problem.detail.is_empty() { &problem.title } else { &problem.detail };
    text.trim_end_matches('.').to_owned()
}

fn default_remedy(status: u16) -> Option<String> {
    let text = match status {
        401 => "log in: scpctl login",
        403 => "ask an administrator of your city for the role",
        503 => "see how the city is: scpctl status --stale; a repeated command does nothing twice",
        _ => return None,
    };
    Some(text.to_owned())
}

/// An answer of the local socket that is not a success.
pub fn from_body(status: u16, body: &[u8]) -> CliError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => from_problem(problem),
        Err(_) => {
            CliError::new(exit(status), "http", format!("scpd answered {status} without {PROBLEM_JSON}"))
                .because(String::from_utf8_lossy(body).chars().take(200).collect::<String>())
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let code = error.code().to_owned();
        match error {
            ClientError::Problem(problem) => from_problem(*problem),
            ClientError::Unreachable { tried } => {
                let mut out = Self::new(Exit::Unavailable, &code, "no node of the city could be reached");
                out.why = tried;
                out.remedy(
                    "check the network and the addresses (scpctl context show), or name a node: --node ADDRESS[:PORT]",
                )
            }
            ClientError::Lost { why, request } => {
                let mut out =
                    Self::new(Exit::Unavailable, &code, "the answer was lost on its way").because(why);
                out.request = request.map(|id| id.to_string().into_boxed_str());
                out.remedy("look whether it happened (list or show), then repeat the command")
            }
            ClientError::BadAnswer { why } => {
                Self::new(Exit::Failed, &code, "the node's answer cannot be understood")
                    .because(why)
                    .remedy("is it a node of this platform, and of a release near this one? scpctl --version")
            }
            ClientError::Config { why } => {
                Self::new(Exit::Usage, &code, why).remedy("see what is configured: scpctl context show")
            }
            ClientError::Io { doing, source } => {
                let exit = match source.kind() {
                    std::io::ErrorKind::NotFound => Exit::NotFound,
                    std::io::ErrorKind::PermissionDenied => Exit::Denied,
                    _ => Exit::Failed,
                };
                Self::new(exit, &code, format!("{doing}: {source}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use scp_api::v1::InvalidField;

    use super::*;

    fn problem(status: u16) -> Problem {
        Problem {
            type_uri: "/errors/invalid".into(),
            title: "not valid".into(),
            status,
            detail: "The request is not valid.".into(),
            code: "invalid".into(),
            reason: None,
            remedy: None,
            request_id: "0198".into(),
            invalid: vec![InvalidField { field: "name".into(), why: "a name is needed".into() }],
        }
    }

    #[test]
    fn every_invalid_field_is_told() {
        let error = from_problem(problem(422));
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.what, "The request is not valid");
        assert_eq!(error.why, ["name: a name is needed"]);
        assert_eq!(error.request.as_deref(), Some("0198"));
    }

    #[test]
    fn the_exit_code_follows_the_status() {
        for (status, expected) in [
            (400, Exit::Usage),
            (401, Exit::Denied),
            (403, Exit::Denied),
            (404, Exit::NotFound),
            (409, Exit::Refused),
            (413, Exit::Usage),
            (422, Exit::Usage),
            (429, Exit::Refused),
            (500, Exit::Failed),
            (503, Exit::Unavailable),
        ] {
            assert_eq!(from_problem(problem(status)).exit, expected, "{status}");
        }
    }

    #[test]
    fn a_refused_token_says_how_to_log_in() {
        assert!(from_problem(problem(401)).remedy.unwrap().contains("scpctl login"));
    }

    #[test]
    fn unreachable_nodes_are_named_with_their_reasons() {
        let tried = vec!["10.0.0.1:8443: refused".to_owned(), "10.0.0.2:8443: timed out".to_owned()];
        let error = CliError::from(ClientError::Unreachable { tried: tried.clone() });
        assert_eq!((error.exit, error.why), (Exit::Unavailable, tried));
    }

    #[test]
    fn an_answer_that_is_no_problem_is_still_an_error() {
        for body in [b"".as_slice(), b"<html>", b"\xff\xfe", b"{}"] {
            assert_eq!(from_body(502, body).exit, Exit::Unavailable);
        }
    }
}
