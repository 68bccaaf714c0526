//! A run made up by hand: an election, faults of most kinds, a VM that moves, and a promise that is broken.

use scp_chronicle::{Fault, Operation, Outcome, Record, Role, Verdict, What};

/// What no page may show as anything but text.
pub const HOSTILE: &str = "<script>document.title='taken'</script> & \"quoted\" 'single' ]]>";

const MS: u64 = 1_000;
const S: u64 = 1_000_000;

fn began(fault: Fault, node: usize, text: &str) -> What {
    What::FaultBegan { fault, node, until: None, text: text.into() }
}

fn stands(node: usize, role: Role, term: u64) -> What {
    What::Standing { node, role, term }
}

pub fn run() -> Record {
    let mut record = Record {
        title: "scp-sim, seed 7".into(),
        facts: vec![
            ("seed".into(), "7".into()),
            ("digest".into(), "0123456789abcdef".into()),
            ("options".into(), format!("nodes 3, clients 2, {HOSTILE}")),
        ],
        again: vec!["cargo run --profile sim -p scp-sim -- --seed 7 --report".into()],
        nodes: vec!["n1".into(), "n2".into(), "n3".into()],
        names: vec![
            ("0000-0001".into(), "vm-1".into()),
            ("aa00".into(), "n1".into()),
            ("bb00".into(), "n2".into()),
        ],
        verdict: Verdict::Broken(vec!["VM 0000-0001 epoch 17 runs on aa00 and bb00".into()]),
        end: 31 * S,
        ..Record::default()
    };
    agreement(&mut record);
    faults(&mut record);
    machines(&mut record);
    clients(&mut record);
    record.finish();
    record
}

fn agreement(record: &mut Record) {
    for node in 0..3 {
        record.push(200 * MS, stands(node, Role::Follower, 0));
    }
    record.push(400 * MS, stands(1, Role::Candidate, 1));
    for (node, role) in [(0, Role::Follower), (1, Role::Leader), (2, Role::Follower)] {
        record.push(450 * MS, stands(node, role, 1));
    }
    record.push(2 * S, What::Phase { text: "the city is founded; faults begin".into() });
    record.push(9 * S, stands(2, Role::Candidate, 2));
    record.push(9_100 * MS, stands(2, Role::Leader, 2));
    record.push(9_120 * MS, stands(0, Role::Follower, 2));
    record.push(14_500 * MS, stands(1, Role::Follower, 2));
    for step in 0..60 {
        for node in 0..3 {
            let is_off = node == 1 && (14..29).contains(&step);
            if !is_off {
                record.push(step * 500 * MS, What::Applied { node, index: step * 7 + node as u64 });
            }
        }
    }
}

fn faults(record: &mut Record) {
    record.push(7 * S, began(Fault::Crash, 1, "its process is killed"));
    record.push(14 * S, What::FaultEnded { fault: Fault::Crash, node: 1 });
    record.push(14 * S, What::Said { node: Some(1), text: "starts".into() });
    for (at, fault, text) in [
        (3, Fault::Slow, "its link to n2 takes 210 ms"),
        (4, Fault::Lossy, "its link to n3 loses 20 %"),
        (16, Fault::Clock, "its clock jumps by 4200 ms"),
        (18, Fault::DiskFull, "its disk is full"),
        (19, Fault::DiskStall, "its disk does nothing"),
        (20, Fault::Hypervisor, HOSTILE),
    ] {
        record.push(at * S, began(fault, 0, text));
        record.push((at + 4) * S, What::FaultEnded { fault, node: 0 });
    }
    let pause = What::FaultBegan {
        fault: Fault::Pause,
        node: 2,
        until: Some(24 * S),
        text: "stands still for 2000 ms".into(),
    };
    record.push(22 * S, pause);
    for node in [0, 2] {
        record.push(25 * S, began(Fault::Partition, node, "partition n2 | n1,n3"));
        record.push(28 * S, What::FaultEnded { fault: Fault::Partition, node });
    }
    record.push(28 * S, What::Said { node: None, text: "healed".into() });
    record.push(26 * S, began(Fault::OneWay, 1, "nothing from it reaches n1"));
    record.push(29 * S, began(Fault::Power, 2, "loses power"));
    record.push(27 * S, began(Fault::Damage, 2, "a byte of its log is flipped"));
}

fn machines(record: &mut Record) {
    let vm = |number: u64| format!("vm-{number}");
    for number in 1..=4 {
        let (node, epoch) = (usize::from(number % 2 == 1), 10 + number);
        record.push(3 * S, What::Granted { node, vm: vm(number), epoch });
        record.push(3_300 * MS, What::Started { node, vm: vm(number), epoch });
    }
    // Those of n2 move when it is declared down; one of them was not stopped there.
    record.push(10 * S, What::Said { node: None, text: "bb00 is declared down".into() });
    for number in [1, 3] {
        let epoch = 14 + number;
        record.push(10 * S, What::GrantEnded { node: 1, vm: vm(number), epoch: 10 + number });
        record.push(10 * S, What::Granted { node: 0, vm: vm(number), epoch });
        record.push(10_600 * MS, What::Started { node: 0, vm: vm(number), epoch });
    }
    record.push(14_700 * MS, What::Stopped { node: 1, vm: vm(3), epoch: 13 });
}

fn clients(record: &mut Record) {
    let outcomes =
        [Outcome::Ok, Outcome::Ok, Outcome::Ok, Outcome::Refused, Outcome::Unknown, Outcome::Failed];
    for number in 0..240_u64 {
        let begun = 2 * S + number * 110 * MS;
        let outcome = if begun < 7 * S { Outcome::Ok } else { outcomes[(number as usize * 7 / 3) % 6] };
        record.operations.push(Operation {
            client: format!("client {}", number % 2 + 1),
            node: Some(number as usize % 3),
            begun,
            ended: (outcome != Outcome::Unknown).then_some(begun + 30 * MS + number % 9 * 40 * MS),
            what: if number == 40 {
                HOSTILE.into()
            } else {
                format!("write register-{} = {number}", number % 3)
            },
            outcome,
        });
    }
}
