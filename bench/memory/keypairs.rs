//! As many keypairs as asked for, each as the API would have made it.

use anyhow::{Context, Result};
use data_encoding::{BASE64, BASE64_NOPAD};
use scp_model::{
    Actor, Command, KeypairId, Name,
    command::{CreateKeypair, SetQuota},
    tenancy::Quota,
};
use uuid::Uuid;

use crate::fill::{GROUP_MAX, Writer};

pub async fn fill(writer: &Writer, count: usize) -> Result<()> {
    let state = writer.state();
    let project = *state.projects.keys().next().context("a new city has a project")?;
    let me = Actor::Local(writer.node);
    let quota = Quota { keypairs: u64::try_from(count)?, ..state.projects[&project].quota };
    writer.write(vec![(me, Command::SetQuota(SetQuota { project, quota: quota.into() }))]).await?;
    for first in (0..count).step_by(GROUP_MAX) {
        let group = first..(first + GROUP_MAX).min(count);
        let keypairs = group.map(|number| {
            let (public_key, fingerprint) = public_half();
            let name = Name::new(format!("key-{number}"))?;
            let id = KeypairId(Uuid::new_v4());
            let create = CreateKeypair { id, project, name, public_key, fingerprint };
            anyhow::Ok((me, Command::CreateKeypair(create)))
        });
        writer.write(keypairs.collect::<Result<_>>()?).await?;
    }
    Ok(())
}

/// A line of OpenSSH and a fingerprint, as long as real ones. No key belongs to it.
fn public_half() -> (String, String) {
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let random = [one.as_bytes().as_slice(), two.as_bytes()].concat();
    let blob = [b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20".as_slice(), &random].concat();
    let line = format!("ssh-ed25519 {} user@laptop", BASE64.encode(&blob));
    (line, format!("SHA256:{}", BASE64_NOPAD.encode(&random)))
}
