//! The command line: what can be typed. One subcommand enum a noun lives beside its code in `commands/`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    commands::{
        completions, context, department, events, explain, flavor, image, init, join, keypair, leave, login,
        node, overcommit, project, status, token, user, vm,
    },
    output::Format,
};

/// The subcommands by what one wants to do; `tests::every_command_is_in_the_overview` keeps it whole.
const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

Servers (as root, on the server itself):
  init         Begin a city on this server
  join         Make this server a node of a city
  leave        Take this server out of its city

The city:
  status       How the city is, in one sentence and then in detail
  node         Servers: list, cordon, drain, remove
  token        Join tokens for further servers
  overcommit   How much more than there is may be promised to VMs
  events       What happened, or is happening
  explain      Why a VM is where it is, or waits

Machines:
  vm           Virtual machines
  image        Disks that VMs start from
  flavor       Sizes of VMs
  keypair      SSH keys put into VMs

People:
  department   Parts of the city's administration
  project      What owns resources, and their quotas
  user         Users, passwords and roles

This program:
  login        Get a token and remember the city
  context      Cities that scpctl knows
  completions  Completions for your shell
  help         Help on a command

Options:
{options}{after-help}";

const AFTER: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 refused, 6 unavailable, 7 timeout

Examples:
  scpctl init --city lisboa --country PT
  scpctl vm create web --image debian-12 --flavor small --keypair me --wait
  scpctl vm list --output json --node 10.0.0.3
  scpctl explain web";

#[derive(Debug, Parser)]
#[command(
    name = "scpctl",
    version,
    about = "Storm Cloud Platform: a city's own cloud, from the command line",
    help_template = TEMPLATE,
    after_help = AFTER,
    propagate_version = true,
    infer_subcommands = false
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Taken by every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Ask this node, whatever the context says [env: SCP_NODE]
    #[arg(long, global = true, value_name = "ADDRESS[:PORT]", env = "SCP_NODE", hide_env = true)]
    pub node: Option<String>,
    /// Use this context instead of the current one [env: SCP_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", env = "SCP_CONTEXT", hide_env = true)]
    pub context: Option<String>,
    /// Work in this project (name or id) [env: SCP_PROJECT]
    #[arg(long, global = true, value_name = "NAME", env = "SCP_PROJECT", hide_env = true)]
    pub project: Option<String>,
    /// Speak to scpd over this unix socket, as root on its server [env: SCP_SOCKET]
    #[arg(long, global = true, value_name = "PATH", env = "SCP_SOCKET", hide_env = true)]
    pub socket: Option<PathBuf>,
    /// table, for people, or json: the API's own, for programs [env: SCP_OUTPUT]
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table, env = "SCP_OUTPUT")]
    #[arg(value_name = "FORMAT", hide_env = true, hide_possible_values = true)]
    pub output: Format,
    /// Take what the node has, without asking the leader, and tell how old it is
    #[arg(long, global = true)]
    pub stale: bool,
    /// Wait until it is really done, and show the progress
    #[arg(long, short, global = true)]
    pub wait: bool,
    /// How long to wait, with --wait and for a city that does not answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// No remarks and no progress on stderr
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Tell what is asked of which node
    #[arg(long, short, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    Join(join::Args),
    Leave(leave::Args),
    Status(status::Args),
    #[command(subcommand, visible_alias = "nodes", alias = "host")]
    Node(node::Command),
    #[command(subcommand, visible_alias = "tokens")]
    Token(token::Command),
    #[command(subcommand)]
    Overcommit(overcommit::Command),
    Events(events::Args),
    #[command(visible_alias = "why")]
    Explain(explain::Args),
    #[command(subcommand, visible_aliases = ["vms", "server"], alias = "instance")]
    Vm(vm::Command),
    #[command(subcommand, visible_alias = "images")]
    Image(image::Command),
    #[command(subcommand, visible_alias = "flavors")]
    Flavor(flavor::Command),
    #[command(subcommand, visible_alias = "keypairs", alias = "key")]
    Keypair(keypair::Command),
    #[command(subcommand, visible_alias = "departments", alias = "dept")]
    Department(department::Command),
    #[command(subcommand, visible_alias = "projects")]
    Project(project::Command),
    #[command(subcommand, visible_alias = "users")]
    User(user::Command),
    Login(login::Args),
    #[command(subcommand, visible_alias = "contexts")]
    Context(context::Command),
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_overview() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(TEMPLATE.contains(&format!("\n  {name} ")), "{name} is missing in the overview");
        }
    }

    #[test]
    fn every_command_and_option_explains_itself() {
        fn check(path: &str, command: &clap::Command) {
            assert!(command.get_about().is_some(), "{path} has no help");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{path} {} has no help", arg.get_id());
            }
            for sub in command.get_subcommands() {
                check(&format!("{path} {}", sub.get_name()), sub);
            }
        }
        check("scpctl", &Cli::command());
    }

    #[test]
    fn nouns_and_verbs_of_other_clouds_are_understood() {
        for line in [
            "scpctl server list",
            "scpctl vms ls",
            "scpctl vm launch web --image i --flavor f",
            "scpctl instance get web",
            "scpctl image rm debian",
            "scpctl image import debian.qcow2",
            "scpctl node ls",
            "scpctl why web",
            "scpctl vm logs web -f",
            "scpctl vm rm web --wait",
            "scpctl --output json vm list",
            "scpctl vm list --output json --node 10.0.0.1:8443",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
