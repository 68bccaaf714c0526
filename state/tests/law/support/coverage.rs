//! Which commands took effect and which rejections were given, over all scripts.

use std::collections::BTreeSet;

use scp_model::{Command, Rejection};

/// What was seen.
#[derive(Default, Clone)]
pub struct Seen {
    pub commands: BTreeSet<&'static str>,
    pub rejections: BTreeSet<&'static str>,
}

impl Seen {
    pub fn note(&mut self, command: &Command, result: &Result<(), Rejection>) {
        match result {
            Ok(()) => self.commands.insert(command_name(command)),
            Err(rejection) => self.rejections.insert(rejection_name(rejection)),
        };
    }

    pub fn merge(&mut self, other: Self) {
        self.commands.extend(other.commands);
        self.rejections.extend(other.rejections);
    }
}

macro_rules! names {
    ($function:ident, $all:ident, $kind:ident: $($variant:ident)*) => {
        /// Without a wildcard: a new variant does not compile until it is listed, and once listed it is
        /// asked for by the coverage test.
        fn $function(value: &$kind) -> &'static str {
            match value {
                $($kind::$variant { .. } => stringify!($variant),)*
            }
        }
        pub const $all: &[&str] = &[$(stringify!($variant)),*];
    };
}

names! { command_name, COMMANDS, Command:
    InitCity SetOvercommit CreateJoinToken RevokeJoinToken AdmitNode UpdateNode SetNodeSchedulable
    DrainNode MarkNodeDown MarkNodeUp RemoveNode CreateDepartment DeleteDepartment CreateProject SetQuota
    DeleteProject CreateUser UpdateUser DeleteUser CreateKeypair DeleteKeypair CreateFlavor DeleteFlavor
    CreateImage AssignImage DeleteImage CreateVm BindVm EvacuateVm SetVmPower RebootVm DeleteVm Report
}

names! { rejection_name, REJECTIONS, Rejection:
    NotInitialised AlreadyInitialised NotFound NameTaken IdTaken QuotaExceeded InUse Invalid StalePlan
    StaleEpoch WrongState TokenUnknown TokenExpired TokenUsed ProtocolTooFar BrakeEngaged Forbidden
    LimitReached
}
