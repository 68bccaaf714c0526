//! Keypairs: public keys for `authorized_keys`.

use scp_model::{
    EventKind, Rejection, Subject,
    command::{CreateKeypair, DeleteKeypair},
    rejection::QuotaResource,
    tenancy::Keypair,
};

use super::{
    Change, Effect, Verdict,
    check::{QuotaRow, line_within, room_for},
};
use crate::{
    NameScope,
    limits::{FINGERPRINT_BYTES_MAX, KEYPAIRS_MAX, SSH_KEY_BYTES_MAX},
};

impl Effect for CreateKeypair {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Keypair(self.id);
        if let Some(keypair) = change.state.keypairs.get(&self.id) {
            let same = keypair.project == self.project
                && keypair.name == self.name
                && *keypair.public_key == *self.public_key
                && *keypair.fingerprint == *self.fingerprint;
            return if same { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        line_within("public_key", &self.public_key, SSH_KEY_BYTES_MAX)?;
        line_within("fingerprint", &self.fingerprint, FINGERPRINT_BYTES_MAX)?;
        let limit = change.state.known_project(self.project)?.quota.keypairs;
        let scope = NameScope::Keypairs(self.project);
        change.state.name_is_free(scope.clone(), &self.name, "keypair")?;
        room_for("keypairs", change.state.keypairs.len(), KEYPAIRS_MAX)?;
        let used = change.state.usage_of(self.project).keypairs;
        QuotaRow { resource: QuotaResource::Keypairs, limit, used, asked: 1 }.check()?;

        let keypair = Keypair {
            id: self.id,
            project: self.project,
            name: self.name.clone(),
            public_key: self.public_key.as_str().into(),
            fingerprint: self.fingerprint.as_str().into(),
            created_at: change.now(),
        };
        change.state.names.insert((scope, self.name.clone()), subject);
        change.state.usage.get_mut(&self.project).expect("a project has its usage").keypairs += 1;
        change.state.keypairs.insert(self.id, keypair);
        let kind = EventKind::KeypairCreated { name: self.name.clone() };
        change.event(subject, Some(self.project), kind);
        Ok(())
    }
}

impl Effect for DeleteKeypair {
    /// Always free: VMs have copies of the key.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Keypair(self.id);
        let Some(keypair) = change.state.keypairs.remove(&self.id) else {
            return Err(Rejection::NotFound { subject });
        };
        change.state.names.remove(&(NameScope::Keypairs(keypair.project), keypair.name));
        change.state.usage.get_mut(&keypair.project).expect("a project has its usage").keypairs -= 1;
        change.event(subject, Some(keypair.project), EventKind::KeypairDeleted);
        Ok(())
    }
}
