//! Join tokens.
//!
//! ```text
//! CreateJoinToken ─▶ usable ─AdmitNode─▶ used ─┐
//!                      │                       ├─(room is needed, oldest first)▶ forgotten
//!                      └─(time)─▶ expired ─────┘
//!                 any ─RevokeJoinToken─▶ forgotten
//! ```
//! Spent tokens stay for a while, so that whoever tries one is told *used* or *expired* and not merely
//! *unknown*.

use scp_model::{
    EventKind, Rejection, Subject, Timestamp,
    command::{CreateJoinToken, RevokeJoinToken},
    tenancy::JoinToken,
};

use super::{
    Change, Effect, Verdict,
    check::{invalid, room_for},
};
use crate::{
    State,
    limits::{JOIN_TOKEN_LIFETIME_MS_MAX, JOIN_TOKENS_MAX},
};

impl Effect for CreateJoinToken {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let now = change.now();
        let subject = Subject::JoinToken(self.id);
        if let Some(token) = change.state.join_tokens.get(&self.id) {
            let same = token.secret_digest == self.secret_digest && token.expires_at == self.expires_at;
            return if same { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        if self.expires_at <= now {
            return Err(invalid("expires_at", "has passed already"));
        }
        if self.expires_at > now.plus_ms(JOIN_TOKEN_LIFETIME_MS_MAX) {
            let days = JOIN_TOKEN_LIFETIME_MS_MAX / (24 * 3600 * 1000);
            return Err(invalid("expires_at", format!("a join token is good for at most {days} days")));
        }
        let usable = change.state.join_tokens.values().filter(|token| !is_spent(token, now)).count();
        room_for("join tokens that can still be used", usable, JOIN_TOKENS_MAX)?;

        forget_spent(change.state, now);
        let (id, secret_digest, expires_at) = (self.id, self.secret_digest, self.expires_at);
        let token = JoinToken { id, secret_digest, expires_at, used: None, created_at: now };
        change.state.join_tokens.insert(id, token);
        change.event(subject, None, EventKind::JoinTokenCreated);
        Ok(())
    }
}

impl Effect for RevokeJoinToken {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::JoinToken(self.id);
        if change.state.join_tokens.remove(&self.id).is_none() {
            return Err(Rejection::NotFound { subject });
        }
        change.event(subject, None, EventKind::JoinTokenRevoked);
        Ok(())
    }
}

fn is_spent(token: &JoinToken, now: Timestamp) -> bool {
    token.used.is_some() || token.expires_at <= now
}

/// Keeps at most [`JOIN_TOKENS_MAX`] spent tokens, the latest.
fn forget_spent(state: &mut State, now: Timestamp) {
    let spent = state.join_tokens.values().filter(|token| is_spent(token, now));
    let mut spent: Vec<_> = spent.map(|token| (token.created_at, token.id)).collect();
    spent.sort_unstable();
    for (_, id) in spent.iter().take((spent.len() + 1).saturating_sub(JOIN_TOKENS_MAX)) {
        state.join_tokens.remove(id);
    }
}
