//! What is written down of a run: facts with their times, nothing derived.

/// Microseconds since the run began.
pub type Micros = u64;

/// A run.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// What ran: one line.
    pub title: String,
    /// What else is worth knowing, in order: seed, options, digest, counts.
    pub facts: Vec<(String, String)>,
    /// The commands that play it again.
    pub again: Vec<String>,
    /// Names, in the order of lanes; everything else refers to their places here.
    pub nodes: Vec<String>,
    /// Ids that a verdict may mention, and the names that people know them by.
    pub names: Vec<(String, String)>,
    /// In any order; [`Record::finish`] sorts them.
    pub events: Vec<Event>,
    pub operations: Vec<Operation>,
    pub verdict: Verdict,
    pub end: Micros,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: Micros,
    pub what: What,
}

/// How the run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It did not end: the program that ran it failed.
    #[default]
    None,
    Good,
    /// Everything that is wrong.
    Broken(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A sentence for the reader; of the whole city where no node is named.
    Said {
        node: Option<usize>,
        text: String,
    },
    /// A moment that divides the run.
    Phase {
        text: String,
    },
    /// A fault begins; the same one of the same node ends with it.
    FaultBegan {
        fault: Fault,
        node: usize,
        /// It ends by itself then.
        until: Option<Micros>,
        text: String,
    },
    FaultEnded {
        fault: Fault,
        node: usize,
    },
    /// What the node is in agreement, from now on.
    Standing {
        node: usize,
        role: Role,
        term: u64,
    },
    /// The node has applied the log up to this index.
    Applied {
        node: usize,
        index: u64,
    },
    /// The city gave a VM to a node.
    Granted {
        node: usize,
        vm: String,
        epoch: u64,
    },
    GrantEnded {
        node: usize,
        vm: String,
        epoch: u64,
    },
    /// The VM runs there: seen on the server itself, whatever the city believes.
    Started {
        node: usize,
        vm: String,
        epoch: u64,
    },
    Stopped {
        node: usize,
        vm: String,
        epoch: u64,
    },
}

/// One request of a client, until its answer, or until it gave up on that node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub client: String,
    /// Who was asked, where that is known.
    pub node: Option<usize>,
    pub begun: Micros,
    /// None: no answer came.
    pub ended: Option<Micros>,
    pub what: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Ok,
    /// Answered with a reason why not.
    Refused,
    /// No answer came: it may have happened.
    Unknown,
    Failed,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Unknown, Self::Failed];

    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unknown => "unanswered",
            Self::Failed => "failed",
        }
    }
}

/// What a node is in agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Learner,
    Follower,
    Candidate,
    Leader,
    /// Its process runs, and takes no part.
    Out,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Self::Learner => "learns",
            Self::Follower => "follows",
            Self::Candidate => "asks for votes",
            Self::Leader => "leads",
            Self::Out => "takes no part",
        }
    }
}

/// What goes wrong with a node or its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    Crash,
    Power,
    Pause,
    Partition,
    OneWay,
    Slow,
    Lossy,
    Clock,
    DiskFull,
    DiskStall,
    Damage,
    Hypervisor,
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::Crash,
        Self::Power,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Slow,
        Self::Lossy,
        Self::Clock,
        Self::DiskFull,
        Self::DiskStall,
        Self::Damage,
        Self::Hypervisor,
    ];

    /// In the legend.
    pub fn word(self) -> &'static str {
        match self {
            Self::Crash => "process killed",
            Self::Power => "power cut",
            Self::Pause => "stands still",
            Self::Partition => "partitioned",
            Self::OneWay => "cut one way",
            Self::Slow => "slow link",
            Self::Lossy => "lossy link",
            Self::Clock => "clock wrong",
            Self::DiskFull => "disk full",
            Self::DiskStall => "slow disk",
            Self::Damage => "file damaged",
            Self::Hypervisor => "hypervisor fails",
        }
    }

    /// In the columns.
    pub fn symbol(self) -> char {
        match self {
            Self::Crash => 'x',
            Self::Power => '#',
            Self::Pause => '=',
            Self::Partition => '/',
            Self::OneWay => '>',
            Self::Slow => '~',
            Self::Lossy => '%',
            Self::Clock => '@',
            Self::DiskFull => 'F',
            Self::DiskStall => 'S',
            Self::Damage => 'D',
            Self::Hypervisor => 'H',
        }
    }

    /// Whether the node does nothing meanwhile.
    pub fn is_still(self) -> bool {
        self.ends_process() || self == Self::Pause
    }

    /// Whether what the process was ends with it.
    pub fn ends_process(self) -> bool {
        matches!(self, Self::Crash | Self::Power)
    }
}

impl Record {
    pub fn push(&mut self, at: Micros, what: What) {
        self.events.push(Event { at, what });
    }

    /// Brings everything in order; nothing comes after it.
    pub fn finish(&mut self) {
        self.events.sort_by_key(|event| event.at);
        self.operations.sort_by_key(|operation| operation.begun);
        let last = self.events.last().map_or(0, |event| event.at);
        let answered = self.operations.iter().filter_map(|operation| operation.ended).max().unwrap_or(0);
        self.end = self.end.max(last).max(answered);
    }

    /// A text with the ids in it replaced by the names that people know.
    pub fn named(&self, text: &str) -> String {
        let known = self.names.iter().filter(|(id, _)| text.contains(id.as_str()));
        known.fold(text.to_string(), |text, (id, name)| text.replace(id.as_str(), name))
    }
}

/// For people: seconds, to the millisecond.
pub fn seconds(at: Micros) -> String {
    format!("{}.{:03}", at / 1_000_000, at / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_names() {
        let names = vec![("00ff".into(), "n1".into()), ("u-7".into(), "vm-7".into())];
        let record = Record { names, ..Record::default() };
        assert_eq!(record.named("VM u-7 runs on 00ff"), "VM vm-7 runs on n1");
    }

    #[test]
    fn each_fault_has_a_symbol_of_its_own() {
        let mut symbols = Fault::ALL.map(Fault::symbol);
        symbols.sort_unstable();
        assert!(symbols.windows(2).all(|pair| pair[0] != pair[1]), "{symbols:?}");
    }
}
