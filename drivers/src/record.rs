//! What a running instance says of itself: our element in its libvirt metadata.
//!
//! It is written together with the definition and read back whenever facts are wanted, so what a node
//! reports is what is there, also after the node forgot everything else.

use quick_xml::{Reader, events::Event};
use scp_model::{Digest, Epoch, Timestamp, VmId, fact::RunState};

/// The namespace of our element.
pub const NAMESPACE: &str = "urn:scp:vm:1";
/// Its prefix.
pub const PREFIX: &str = "scp";
/// A record is one element of some 300 bytes.
const RECORD_BYTES_MAX: usize = 4 << 10;

/// What the instance was last told to do. It tells a stop that we ordered from one that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    Running,
    /// We stop it, or have stopped it.
    Stopped,
    /// We stop it in order to start it again.
    Rebooting,
}

/// The record of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub vm: VmId,
    pub epoch: Epoch,
    pub generation: u64,
    pub reboots: u64,
    pub power: Power,
    /// When it was last told to start.
    pub started_at: Option<Timestamp>,
    /// Digest of what it was defined from, without generation and reboots.
    pub definition: Digest,
}

/// The element is missing, foreign or damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record cannot be read: {0}")]
pub struct RecordError(pub String);

impl Record {
    /// The attributes of the element, in order.
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        let power = match self.power {
            Power::Running => "running",
            Power::Stopped => "stopped",
            Power::Rebooting => "rebooting",
        };
        let mut attributes = vec![
            ("id", self.vm.to_string()),
            ("epoch", self.epoch.0.to_string()),
            ("generation", self.generation.to_string()),
            ("reboots", self.reboots.to_string()),
            ("power", power.into()),
            ("definition", self.definition.to_string()),
        ];
        attributes.extend(self.started_at.map(|at| ("started_at", at.0.to_string())));
        attributes
    }

    /// The element as `virDomainSetMetadata` takes it; libvirt adds the namespace.
    pub fn element(&self) -> String {
        let attributes: String =
            self.attributes().iter().map(|(name, value)| format!(" {name}=\"{value}\"")).collect();
        format!("<vm{attributes}/>")
    }

    /// Reads the element, with or without its prefix.
    pub fn parse(xml: &str) -> Result<Self, RecordError> {
        let error = |what: &str| RecordError(what.into());
        if xml.len() > RECORD_BYTES_MAX {
            return Err(error("it is too long"));
        }
        let mut reader = Reader::from_str(xml);
        loop {
            let event = reader.read_event().map_err(|cause| RecordError(cause.to_string()))?;
            match event {
                Event::Start(element) | Event::Empty(element) => {
                    if element.local_name().as_ref() != "vm" {
                        return Err(error("it is not the element `vm`"));
                    }
                    let value = |name: &str| -> Result<Option<String>, RecordError> {
                        let found = element.try_get_attribute(name);
                        let found = found.map_err(|cause| RecordError(cause.to_string()))?;
                        Ok(found.map(|found| found.value.into_owned()))
                    };
                    return Self::from_attributes(value);
                }
                Event::Eof => return Err(error("it is empty")),
                _ => {}
            }
        }
    }

    fn from_attributes(
        value: impl Fn(&str) -> Result<Option<String>, RecordError>,
    ) -> Result<Self, RecordError> {
        let text = |name: &str| value(name)?.ok_or_else(|| RecordError(format!("{name} is missing")));
        let malformed = |name: &str| RecordError(format!("{name} is malformed"));
        let number = |name: &str| text(name)?.parse::<u64>().map_err(|_| malformed(name));
        let started_at = match value("started_at")? {
            Some(at) => Some(Timestamp(at.parse().map_err(|_| malformed("started_at"))?)),
            None => None,
        };
        Ok(Self {
            vm: text("id")?.parse().map_err(|_| malformed("id"))?,
            epoch: Epoch(number("epoch")?),
            generation: number("generation")?,
            reboots: number("reboots")?,
            power: match text("power")?.as_str() {
                "running" => Power::Running,
                "stopped" => Power::Stopped,
                "rebooting" => Power::Rebooting,
                _ => return Err(malformed("power")),
            },
            started_at,
            definition: text("definition")?.parse().map_err(|_| malformed("definition"))?,
        })
    }
}

/// How an instance that is off came to be off, as its engine tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// The guest powered itself off, or obeyed the power button.
    InOrder,
    /// The start itself failed.
    StartFailed,
    /// Its process died, its kernel panicked, someone destroyed it, or the engine does not know (the
    /// server was restarted).
    Otherwise,
}

/// What an instance that is off is, given what it was last told to do.
pub fn off_state(power: Power, off: Off) -> RunState {
    match (power, off) {
        (Power::Stopped | Power::Rebooting, _) | (Power::Running, Off::StartFailed) => RunState::Stopped,
        (Power::Running, Off::InOrder) => RunState::Shutdown,
        (Power::Running, Off::Otherwise) => RunState::Crashed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record {
            vm: VmId::from_u128(7),
            epoch: Epoch(12),
            generation: 3,
            reboots: 1,
            power: Power::Running,
            started_at: Some(Timestamp(1_000)),
            definition: Digest([9; 32]),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        for power in [Power::Running, Power::Stopped, Power::Rebooting] {
            for started_at in [None, Some(Timestamp(5))] {
                let record = Record { power, started_at, ..record() };
                assert_eq!(Record::parse(&record.element()), Ok(record));
            }
        }
    }

    #[test]
    fn a_stop_that_we_ordered_is_never_a_crash() {
        for off in [Off::InOrder, Off::StartFailed, Off::Otherwise] {
            assert_eq!(off_state(Power::Stopped, off), RunState::Stopped);
            assert_eq!(off_state(Power::Rebooting, off), RunState::Stopped);
        }
        assert_eq!(off_state(Power::Running, Off::InOrder), RunState::Shutdown);
        assert_eq!(off_state(Power::Running, Off::Otherwise), RunState::Crashed);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = Record::parse(&text);
        }

        #[test]
        fn a_cut_anywhere_is_an_error(at in 0usize..200) {
            let element = record().element();
            let at = at.min(element.len() - 3);
            prop_assert!(Record::parse(&element[..at]).is_err());
        }
    }
}
