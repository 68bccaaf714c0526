//! A scenario: what is played, as its TOML file says it. The format is documented at the crate's root.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// One sentence: what is tried, and what must hold.
    pub about: String,
    #[serde(default)]
    pub city: CityPlan,
    #[serde(default)]
    pub load: Load,
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// What is built.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CityPlan {
    /// Nodes of the city at the beginning.
    pub nodes: usize,
    /// Further servers, on, with scpd, in no city: for `join`.
    pub spare: usize,
    /// Size of each data directory, which is a tmpfs then; without it, a directory of this machine's disk.
    pub disk_mib: Option<u64>,
    /// Real virtual machines: v1, v2, …
    pub vms: usize,
}

impl Default for CityPlan {
    fn default() -> Self {
        Self { nodes: 3, spare: 0, disk_mib: None, vms: 0 }
    }
}

/// What clients do meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// Registers at a time.
    pub registers: usize,
    /// Writers of each register.
    pub writers: usize,
    /// Readers of each register.
    pub readers: usize,
    /// Clients that create departments.
    pub creators: usize,
    /// Clients that create and delete keypairs of 8 KiB, as fast as they are answered: not judged, they
    /// make the log long.
    pub ballast: usize,
    /// Each client's pause between an answer and its next request.
    pub pace_ms: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self { registers: 2, writers: 2, readers: 2, creators: 2, ballast: 0, pace_ms: 50 }
    }
}

/// What goes wrong, or is done to the city.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Kill,
    Terminate,
    Pause,
    PowerCut,
    Unplug,
    Cut,
    Lose,
    Delay,
    FillDisk,
    Corrupt,
    SlowDisk,
    Freeze,
    Clock,
    Join,
    Leave,
}

impl Fault {
    /// As the scenario writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Terminate => "terminate",
            Self::Pause => "pause",
            Self::PowerCut => "power_cut",
            Self::Unplug => "unplug",
            Self::Cut => "cut",
            Self::Lose => "lose",
            Self::Delay => "delay",
            Self::FillDisk => "fill_disk",
            Self::Corrupt => "corrupt",
            Self::SlowDisk => "slow_disk",
            Self::Freeze => "freeze",
            Self::Clock => "clock",
            Self::Join => "join",
            Self::Leave => "leave",
        }
    }

    /// Whether there is nothing to take back.
    pub fn is_final(self) -> bool {
        match self {
            Self::Clock | Self::Join | Self::Leave => true,
            Self::Kill
            | Self::Terminate
            | Self::Pause
            | Self::PowerCut
            | Self::Unplug
            | Self::Cut
            | Self::Lose
            | Self::Delay
            | Self::FillDisk
            | Self::Corrupt
            | Self::SlowDisk
            | Self::Freeze => false,
        }
    }
}

/// Whom it meets: found out when the step begins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Target {
    Leader,
    /// A node that does not lead, by chance.
    Follower,
    /// Any node, by chance.
    Random,
    /// All at once.
    All,
    /// More than half of the nodes at once, the leader among them.
    Majority,
    /// The one that runs the first VM.
    VmNode,
    /// All, one after the other.
    Each,
    /// The server of this name: n1, n2, …
    Named(String),
}

impl From<String> for Target {
    fn from(word: String) -> Self {
        match word.as_str() {
            "leader" => Self::Leader,
            "follower" => Self::Follower,
            "random" => Self::Random,
            "all" => Self::All,
            "majority" => Self::Majority,
            "vm_node" => Self::VmNode,
            "each" => Self::Each,
            _ => Self::Named(word),
        }
    }
}

/// Which packets of the target's links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    #[default]
    Both,
    /// Those that it would receive.
    In,
    /// Those that it sends.
    Out,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub fault: Fault,
    pub target: Target,
    /// `cut`, `lose`, `delay`: the links to whom; to all other servers when absent.
    pub peers: Option<Target>,
    /// `cut`, `lose`, `delay`.
    #[serde(default)]
    pub way: Way,
    /// `lose`: of a hundred packets, how many.
    pub percent: Option<u8>,
    /// `delay`: how long each packet is held.
    pub delay_ms: Option<u64>,
    /// `delay`: up to so much longer, by chance, so that packets overtake each other.
    #[serde(default)]
    pub jitter_ms: u64,
    /// `slow_disk`: how often `scpd` may write in a second.
    pub writes_per_s: Option<u32>,
    /// `corrupt`: the first file whose path in the data directory begins so.
    pub file: Option<String>,
    /// `clock`, `power_cut`: from then on the target's clock is so many seconds ahead; of all targets, the
    /// clients' too.
    pub shift_s: Option<i64>,
    /// Pause before it.
    #[serde(default = "after_ms_default")]
    pub after_ms: u64,
    /// Taken back after so long.
    #[serde(default)]
    pub for_ms: u64,
    /// The same in a short run.
    pub for_ms_short: Option<u64>,
    /// How many times, each with its own target.
    #[serde(default = "one")]
    pub repeat: u32,
    /// The same in a short run.
    pub repeat_short: Option<u32>,
    /// Whether the city has to be healthy again before the next repetition.
    #[serde(default = "yes")]
    pub settle: bool,
}

fn after_ms_default() -> u64 {
    1000
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl Scenario {
    /// Whether clocks are moved in it.
    pub fn moves_clocks(&self) -> bool {
        self.steps.iter().any(|step| step.shift_s.is_some())
    }

    /// Reads and checks it; in a `short` run with what is said for those.
    pub fn read(path: &Path, short: bool) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let mut scenario = Self::parse(&text).with_context(|| format!("{} is wrong", path.display()))?;
        if short {
            for step in &mut scenario.steps {
                step.for_ms = step.for_ms_short.unwrap_or(step.for_ms);
                step.repeat = step.repeat_short.unwrap_or(step.repeat);
            }
        }
        Ok(scenario)
    }

    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        if scenario.city.nodes == 0 {
            bail!("a city has at least one node");
        }
        if scenario.load.registers * scenario.load.writers == 0 {
            bail!("without writes nothing can be judged: [load] needs registers and writers");
        }
        for (at, step) in scenario.steps.iter().enumerate() {
            scenario.check(step).with_context(|| format!("step {}, {}", at + 1, step.fault.word()))?;
        }
        Ok(scenario)
    }

    fn check(&self, step: &Step) -> Result<()> {
        let is_link = matches!(step.fault, Fault::Cut | Fault::Lose | Fault::Delay);
        if !is_link && (step.peers.is_some() || step.way != Way::Both) {
            bail!("peers and way are for cut, lose and delay");
        }
        match (step.fault, step.delay_ms) {
            (Fault::Delay, Some(1..=10_000)) if step.jitter_ms <= 10_000 => {}
            (Fault::Delay, _) => bail!("delay_ms is needed, 1 to 10000, and jitter_ms is 10000 at most"),
            (_, None) if step.jitter_ms == 0 => {}
            (_, _) => bail!("delay_ms and jitter_ms are for delay"),
        }
        match (step.fault, step.percent) {
            (Fault::Lose, Some(1..=100)) => {}
            (Fault::Lose, _) => bail!("percent is needed, 1 to 100"),
            (_, Some(_)) => bail!("percent is for lose"),
            (_, None) => {}
        }
        if (step.fault == Fault::Corrupt) != step.file.is_some() {
            bail!("file is for corrupt, and needed there");
        }
        if (step.fault == Fault::SlowDisk) != step.writes_per_s.is_some() {
            bail!("writes_per_s is for slow_disk, and needed there");
        }
        if step.fault == Fault::SlowDisk && self.city.disk_mib.is_some() {
            bail!("a data directory of limited size lies in memory, which is never slow");
        }
        match (step.fault, step.shift_s) {
            (Fault::Clock, None) => bail!("shift_s is needed"),
            (Fault::Clock | Fault::PowerCut, _) | (_, None) => {}
            (_, Some(_)) => bail!("shift_s is for clock and power_cut"),
        }
        if step.fault == Fault::FillDisk && self.city.disk_mib.is_none() {
            bail!("it would fill this machine's disk: give the city a disk_mib");
        }
        if step.fault == Fault::PowerCut && self.city.disk_mib.is_some() {
            bail!("a data directory of limited size lies in memory and does not survive it");
        }
        if step.fault.is_final() && step.for_ms > 0 {
            bail!("it is not taken back: no for_ms");
        }
        if step.target == Target::VmNode && self.city.vms == 0 {
            bail!("there is no VM: give the city vms");
        }
        for target in [Some(&step.target), step.peers.as_ref()].into_iter().flatten() {
            self.check_target(target)?;
        }
        match (step.fault, &step.target) {
            (Fault::Join, Target::Named(_)) => Ok(()),
            (Fault::Join, _) => bail!("a server that is in no city is told by name"),
            _ => Ok(()),
        }
    }

    fn check_target(&self, target: &Target) -> Result<()> {
        let Target::Named(name) = target else { return Ok(()) };
        let servers = self.city.nodes + self.city.spare;
        let number = name.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
        match number {
            Some(number) if (1..=servers).contains(&number) => Ok(()),
            Some(_) | None => bail!(
                "{name:?} is no target: leader, follower, random, all, majority, vm_node, each, or n1 to n{servers}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = 'x'\nabout = 'y'\n";

    fn refused(rest: &str) -> String {
        format!("{:#}", Scenario::parse(&format!("{HEAD}{rest}")).expect_err("it is wrong"))
    }

    #[test]
    fn what_is_shipped_is_right_and_named_like_its_file() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(dir).expect("the scenarios are there") {
            let path = entry.expect("it can be listed").path();
            for short in [false, true] {
                let scenario = Scenario::read(&path, short).expect("it is right");
                assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(scenario.name.as_str()));
            }
            count += 1;
        }
        assert!(count >= 8, "{count} scenarios");
    }

    #[test]
    fn a_short_run_takes_what_is_said_for_it() {
        let text = format!("{HEAD}[[step]]\nfault='kill'\ntarget='leader'\nrepeat=100\nrepeat_short=3\n");
        let path = std::env::temp_dir().join(format!("scp-chaos-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("writable");
        let repeats = [false, true].map(|short| Scenario::read(&path, short).expect("right").steps[0].repeat);
        std::fs::remove_file(&path).expect("it was there");
        assert_eq!(repeats, [100, 3]);
    }

    #[test]
    fn unknown_words_and_misplaced_fields_are_refused() {
        assert!(refused("[city]\nnoodles = 3\n").contains("noodles"));
        assert!(refused("[[step]]\nfault='explode'\ntarget='all'\n").contains("explode"));
        assert!(refused("[[step]]\nfault='kill'\ntarget='laeder'\n").contains("laeder"));
        assert!(refused("[[step]]\nfault='kill'\ntarget='n4'\n").contains("n1 to n3"));
        assert!(refused("[[step]]\nfault='kill'\ntarget='n1'\npercent=5\n").contains("lose"));
        assert!(refused("[[step]]\nfault='lose'\ntarget='n1'\n").contains("percent"));
        assert!(refused("[[step]]\nfault='kill'\ntarget='n1'\nway='in'\n").contains("way"));
        assert!(refused("[[step]]\nfault='delay'\ntarget='n1'\n").contains("delay_ms"));
        assert!(refused("[[step]]\nfault='kill'\ntarget='n1'\njitter_ms=5\n").contains("jitter_ms"));
        assert!(refused("[[step]]\nfault='fill_disk'\ntarget='n1'\n").contains("disk_mib"));
        assert!(refused("[[step]]\nfault='kill'\ntarget='vm_node'\n").contains("vms"));
        assert!(refused("[[step]]\nfault='slow_disk'\ntarget='n1'\n").contains("writes_per_s"));
        assert!(refused("[[step]]\nfault='clock'\ntarget='n1'\n").contains("shift_s"));
        assert!(refused("[[step]]\nfault='kill'\ntarget='n1'\nshift_s=5\n").contains("shift_s"));
        assert!(refused("[[step]]\nfault='join'\ntarget='random'\n").contains("by name"));
        assert!(refused("[[step]]\nfault='corrupt'\ntarget='n1'\n").contains("file"));
        let cut = "[city]\ndisk_mib=64\n[[step]]\nfault='power_cut'\ntarget='all'\n";
        assert!(refused(cut).contains("memory"));
    }
}
