//! SSH public keys.

use axum::extract::Path;
use data_encoding::{BASE64, BASE64_NOPAD};
use scp_model::{
    Command, KeypairId,
    command::{CreateKeypair, DeleteKeypair},
    tenancy::Keypair,
};
use scp_state::limits::SSH_KEY_BYTES_MAX;
use sha2::{Digest, Sha256};

use crate::{
    server::{
        authorize::{Action, Scope},
        body::{Body, Params},
        call::{Answer, Call},
        invalid::{Invalid, valid},
        page::{ByProject, Filter, NoPhase},
        view,
    },
    v1::{self, Problem},
};

/// What OpenSSH 9 takes in `authorized_keys`.
const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

/// The keypairs that the asker may see.
#[utoipa::path(get, path = "/v1/keypairs", tag = "keypairs", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::Keypair>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    let filter: Filter<KeypairId, NoPhase> = Filter::new(&call, &query, ByProject::Yes)?;
    let keep = |it: &Keypair| {
        filter.keeps(&it.name, Some(it.project))
            && call.allowed(Action::KeypairRead, Scope::Project(it.project))
    };
    call.ok(&filter.page_of((&call.state, &call.state.keypairs), keep, |it| view::keypair(&call.state, it)))
}

/// One keypair.
#[utoipa::path(get, path = "/v1/keypairs/{keypair}", tag = "keypairs",
    params(("keypair", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::Keypair),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(
    call: Call,
    Path(keypair): Path<String>,
    Params(query): Params<v1::OneQuery>,
) -> Answer {
    let keypair: &Keypair = call.find(Action::KeypairRead, &keypair, query.project.as_deref())?;
    call.ok(&view::keypair(&call.state, keypair))
}

/// A new keypair: the public half of one.
#[utoipa::path(post, path = "/v1/keypairs", tag = "keypairs", request_body = v1::KeypairCreate,
    responses(
        (status = 201, body = v1::Keypair),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(mut call: Call, Body(body): Body<v1::KeypairCreate>) -> Answer {
    let mut invalid = Invalid::default();
    let project = call.project_for(Action::KeypairManage, body.project.as_deref());
    let project = invalid.take("project", project.map_err(|problem| problem.detail)).map(|it| it.id);
    if let Some(project) = project {
        call.may(Action::KeypairManage, Scope::Project(project))?;
    }
    let id = invalid.id(body.id.as_deref(), KeypairId(call.made_id()));
    let name = invalid.name("name", &body.name);
    let key = invalid.take("public_key", public_key(&body.public_key));
    invalid.finish()?;
    let (id, (public_key, fingerprint)) = (valid(id), valid(key));
    let command = CreateKeypair { id, project: valid(project), name: valid(name), public_key, fingerprint };
    call.commit(Command::CreateKeypair(command)).await?;
    call.created(&view::keypair(&call.state, call.made(call.state.keypairs.get(&id))?))
}

/// The key as one line, and its fingerprint.
pub(crate) fn public_key(text: &str) -> Result<(String, String), String> {
    let line = text.trim();
    if line.contains("PRIVATE KEY") {
        return Err("is a private key: keep it to yourself, and give the file that ends in .pub".into());
    }
    if line.len() > SSH_KEY_BYTES_MAX {
        return Err(format!("has at most {SSH_KEY_BYTES_MAX} bytes"));
    }
    if line.chars().any(char::is_control) {
        return Err("is one line, without control characters".into());
    }
    let mut parts = line.splitn(3, ' ');
    let (Some(kind), Some(key)) = (parts.next(), parts.next()) else {
        return Err("is a line of a .pub file: type, key in base64, comment".into());
    };
    if !KEY_TYPES.contains(&kind) {
        return Err(format!("has to begin with its type: {}", KEY_TYPES.join(", ")));
    }
    let bytes =
        BASE64.decode(key.as_bytes()).map_err(|_| "has a damaged key: it is not base64".to_owned())?;
    let inner =
        bytes.split_first_chunk().and_then(|(length, rest)| rest.get(..u32::from_be_bytes(*length) as usize));
    if inner != Some(kind.as_bytes()) {
        return Err(format!("says it is {kind}, and its key says otherwise"));
    }
    let fingerprint = format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(&bytes)));
    Ok((line.to_owned(), fingerprint))
}

/// Delete a keypair. VMs keep the keys that they were made with.
#[utoipa::path(delete, path = "/v1/keypairs/{keypair}", tag = "keypairs",
    params(("keypair", description = "id or name"), v1::OneQuery),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    mut call: Call,
    Path(keypair): Path<String>,
    Params(query): Params<v1::OneQuery>,
) -> Answer {
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let keypair: &Keypair = call.find(Action::KeypairRead, &keypair, query.project.as_deref())?;
    let id = keypair.id;
    call.may(Action::KeypairManage, Scope::Project(keypair.project))?;
    call.commit(Command::DeleteKeypair(DeleteKeypair { id })).await?;
    call.no_content()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ana@city";

    #[test]
    fn a_key_has_the_fingerprint_that_openssh_prints() {
        let (line, fingerprint) = public_key(&format!("{KEY}\n")).expect("it is a key");
        assert_eq!(line, KEY);
        // GitHub publishes this one for its own key of that type.
        assert_eq!(fingerprint, "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
    }

    #[test]
    fn what_is_not_a_public_key_is_told_apart() {
        for (bad, why) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "private"),
            ("ssh-ed25519", ".pub"),
            ("ssh-dss AAAA", "type"),
            ("ssh-ed25519 !!!", "base64"),
            ("ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl", "otherwise"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0\ncommand=\"x\"", "one line"),
        ] {
            let error = public_key(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", key in "(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]{0,80}") {
            let _ = public_key(&text);
            let _ = public_key(&key);
        }
    }
}
