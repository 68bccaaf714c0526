//! The words keep their form: what is written is read again, and what is not a word is refused.

use proptest::prelude::*;
use scp_model::{
    Country, Digest, Name, NodeId, ParseIdError, Resources, Subject, Timestamp, VmId,
    op::{Op, OpSubject},
    units::{Epoch, Overcommit},
    vm::{Vm, VmPhase, VmSpec, VmStatus},
};

proptest! {
    #[test]
    fn ids_are_read_as_they_are_shown(number: u128, node: u64, digest: [u8; 32]) {
        let vm = VmId::from_u128(number);
        prop_assert_eq!(vm.to_string().parse(), Ok(vm));
        let node = NodeId(node);
        prop_assert_eq!(node.to_string().len(), 16);
        prop_assert_eq!(node.to_string().parse(), Ok(node));
        let digest = Digest(digest);
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text: String) {
        let _ = (text.parse::<VmId>(), text.parse::<NodeId>(), text.parse::<Digest>());
        let _ = (text.parse::<Name>(), text.parse::<Country>());
        let _ = serde_json::from_str::<Name>(&text);
    }

    #[test]
    fn a_name_is_read_as_it_is_shown_and_survives_json(text in "[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?") {
        let name: Name = text.parse().expect("this is what a name is");
        prop_assert_eq!(name.as_str(), &text);
        let json = serde_json::to_string(&name).expect("a name is a string");
        prop_assert_eq!(serde_json::from_str::<Name>(&json).expect("it is read"), name);
    }

    /// A part that does not suffice becomes nothing; sums stop at the largest number. Neither wraps.
    #[test]
    fn resources_do_not_wrap(a: [u64; 3], b: [u64; 3]) {
        let of = |[vcpus, memory_mib, disk_mib]: [u64; 3]| Resources { vcpus, memory_mib, disk_mib };
        let (a, b) = (of(a), of(b));
        prop_assert!(a.plus(b).holds(a) && a.plus(b).holds(b));
        prop_assert!(a.holds(a.minus(b)));
        prop_assert_eq!(a.minus(b) == Resources::default(), b.holds(a));
        let overcommit = Overcommit::default();
        prop_assert!(overcommit.of(a).holds(overcommit.of(a.minus(b))));
    }

    #[test]
    fn time_between_is_never_negative(early: u64, late: u64) {
        let (early, late) = (Timestamp(early), Timestamp(late));
        prop_assert_eq!(late.since_ms(early), late.0.saturating_sub(early.0));
        prop_assert!(early.plus_ms(late.0) >= early);
    }
}

#[test]
fn what_is_not_an_id_is_refused_and_named() {
    for text in ["", "+00000000000001", "0x00000000000001", "00000000000000001", "000000000000000g", "ü"] {
        let error = text.parse::<NodeId>().expect_err("not a node id");
        assert_eq!(error, ParseIdError { kind: "node", text: text.into() });
    }
    let long = "f".repeat(10_000);
    assert_eq!(long.parse::<NodeId>().expect_err("too long").text.len(), 64, "errors stay small");
    assert!("sha256:00".parse::<Digest>().is_err());
    assert_eq!("x".parse::<VmId>().expect_err("no uuid").to_string(), "\"x\" is not a vm id");
}

#[test]
fn names_are_checked_wherever_they_come_from() {
    for json in [r#""""#, r#""a/b""#, r#""..""#, r#""a\u0000""#, "7", "null"] {
        assert!(serde_json::from_str::<Name>(json).is_err(), "{json}");
    }
    assert!(serde_json::from_str::<Country>(r#""pt""#).is_err());
}

#[test]
fn a_shared_spec_is_written_as_a_plain_one() {
    let spec = VmSpec {
        name: "web".parse().expect("a name"),
        project: Default::default(),
        flavor: "small".parse().expect("a name"),
        resources: Resources { vcpus: 1, memory_mib: 512, disk_mib: 2048 },
        image: Default::default(),
        ssh_keys: vec![],
        user_data: vec![1, 2, 3],
        mac: [2; 6],
        zone: None,
        anti_affinity: None,
        restart: Default::default(),
        power: scp_model::sandbox::Power::Running,
        reboots: 0,
    };
    let since = Timestamp(1);
    let status =
        VmStatus { phase: VmPhase::Pending, since, observed_generation: 0, message: None, failures: 0 };
    let id = VmId::from_u128(1);
    let vm = Vm { id, spec: spec.clone().into(), generation: 1, placement: None, status, created_at: since };
    let json = serde_json::to_value(&vm).expect("a VM is written");
    assert_eq!(json["spec"], serde_json::to_value(&spec).expect("a spec is written"));
    assert_eq!(serde_json::from_value::<Vm>(json).expect("a VM is read"), vm);
}

#[test]
fn ops_on_one_vm_have_one_subject() {
    let (vm, epoch, generation) = (VmId::from_u128(7), Epoch(1), 1);
    let ops = [
        Op::StopVm { vm, epoch, generation, grace_ms: 1 },
        Op::RebootVm { vm, epoch, generation, reboots: 1 },
        Op::RemoveVm { vm, epoch },
    ];
    assert!(ops.iter().all(|op| op.subject() == OpSubject::Vm(vm)));
}

#[test]
fn subjects_are_shown_as_people_write_them() {
    assert_eq!(Subject::City.to_string(), "the city");
    assert_eq!(Subject::Node(NodeId(0xab)).to_string(), "node 00000000000000ab");
}
