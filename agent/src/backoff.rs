//! How long to wait before trying again: the one retry policy of the agent.

use scp_model::{NodeId, op::OpSubject};

/// The first pause, in milliseconds: most of what fails once (a lock, a busy engine) is over by then.
pub const PAUSE_MS_MIN: u64 = 1_000;

/// The longest pause, in milliseconds. Long enough that a thousand broken VMs cost next to nothing,
/// short enough that what a person mended runs again while they watch.
pub const PAUSE_MS_MAX: u64 = 300_000;

/// The pause after so many failures in a row: doubling from [`PAUSE_MS_MIN`] to [`PAUSE_MS_MAX`], less
/// up to a quarter that depends on node, subject and count, so that what failed together is not tried
/// again together. 0 failures: no pause.
pub(crate) fn pause_ms(node: NodeId, subject: OpSubject, failures: u32) -> u64 {
    let Some(doublings) = failures.checked_sub(1) else { return 0 };
    let whole = PAUSE_MS_MIN.saturating_mul(1 << doublings.min(20)).min(PAUSE_MS_MAX);
    let id = match subject {
        OpSubject::Image(image) => image.0.as_u128(),
        OpSubject::Vm(vm) => vm.0.as_u128(),
    };
    whole - mix(id, u128::from(node.0) ^ (u128::from(failures) << 64)) % (whole / 4)
}

/// FNV-1a over both numbers: the same everywhere and forever, unlike the standard hasher.
pub(crate) fn mix(a: u128, b: u128) -> u64 {
    let bytes = a.to_le_bytes().into_iter().chain(b.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use scp_model::VmId;

    #[test]
    fn pauses_double_up_to_the_longest_and_never_exceed_it() {
        let pause = |failures| pause_ms(NodeId(7), OpSubject::Vm(VmId::from_u128(1)), failures);
        assert_eq!(pause(0), 0);
        for failures in 1..=9 {
            let whole = 1_000 << (failures - 1);
            assert!((whole * 3 / 4..=whole).contains(&pause(failures)), "{failures}: {}", pause(failures));
        }
        for failures in [10, 40, u32::MAX] {
            assert!((PAUSE_MS_MAX * 3 / 4..=PAUSE_MS_MAX).contains(&pause(failures)));
        }
    }

    #[test]
    fn what_failed_together_is_not_tried_again_together() {
        let pauses = (0..50).map(|vm| pause_ms(NodeId(7), OpSubject::Vm(VmId::from_u128(vm)), 5));
        let distinct: std::collections::BTreeSet<u64> = pauses.collect();
        assert!(distinct.len() > 40, "{} of 50 pauses differ", distinct.len());
    }
}
