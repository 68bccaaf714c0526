//! `scpctl explain VM`: why it is where it is, or waits.

use scp_api::v1;

use crate::{
    app::App,
    error::Result,
    output::{clean, table},
};

/// Why a VM is where it is, or waits: the reason for each node, and the remedy
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the VM
    #[arg(value_name = "VM")]
    name: String,
}

pub async fn run(args: &Args, app: &App) -> Result<()> {
    explain(&args.name, app).await
}

pub async fn explain(vm: &str, app: &App) -> Result<()> {
    let explanation = app.client().await?.explain_vm(vm, app.within(vm).as_deref()).await?;
    app.out.data(&explanation, render)
}

pub fn render(it: &v1::Explanation) -> String {
    let mut text = format!("{}\n", clean(&it.summary));
    if !it.nodes.is_empty() {
        text.push('\n');
        text.push_str(&table(
            ["NODE", "FEASIBLE", "WHY NOT"],
            it.nodes.iter().map(|verdict| {
                [
                    verdict.node.name.clone(),
                    if verdict.feasible { "yes" } else { "no" }.into(),
                    verdict.why.clone().unwrap_or_default(),
                ]
            }),
        ));
    }
    if let Some(remedy) = &it.remedy {
        text.push_str(&format!("\nRemedy: {}\n", clean(remedy)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reference;

    #[test]
    fn an_explanation_has_a_reason_for_each_node_and_the_remedy() {
        let verdict = |name: &str, why: Option<&str>| v1::NodeVerdict {
            node: reference(name),
            feasible: why.is_none(),
            obstacle: why.map(|_| "memory".into()),
            why: why.map(Into::into),
        };
        let explanation = v1::Explanation {
            vm: "id".into(),
            summary: "web waits: no node is feasible.".into(),
            nodes: vec![
                verdict("n1", Some("has 512 MiB of memory free of 2048, 4096 needed")),
                verdict("n2", None),
            ],
            remedy: Some("scpctl node uncordon n2".into()),
        };
        assert_eq!(
            render(&explanation),
            "web waits: no node is feasible.\n\
             \n\
             NODE  FEASIBLE  WHY NOT\n\
             n1    no        has 512 MiB of memory free of 2048, 4096 needed\n\
             n2    yes       -\n\
             \n\
             Remedy: scpctl node uncordon n2\n"
        );
    }
}
