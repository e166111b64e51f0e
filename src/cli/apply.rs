//! `netwright apply` and `netwright plan`: files or stdin, state documents or whole policies.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::error::Invalid;
use crate::host::Host;
use crate::host::live::LiveHost;
use crate::journal::{Journal, Lock};
use crate::probe::Prober;
use crate::state::NetworkState;
use crate::transaction::{self, Options, Outcome};
use crate::{plan, yaml};

/// Flags of `netwright apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Files; `-` or none is stdin.
    files: Vec<PathBuf>,
    /// Do not compare the node with the document afterwards.
    #[arg(long)]
    no_verify: bool,
    /// Do not ask gateway and DNS whether the node still reaches them.
    #[arg(long)]
    no_probes: bool,
    /// Keep nothing on disk: gone after a reboot.
    #[arg(long)]
    memory_only: bool,
    /// How long a probe may take to pass, in seconds.
    #[arg(long, default_value_t = 120)]
    probe_timeout: u64,
    /// Lock and journal.
    #[arg(long, default_value = "/var/lib/netwright")]
    state_dir: PathBuf,
}

/// Every document of the files; of a policy its desiredState. All are read and parsed before anything is touched.
fn documents(files: &[PathBuf]) -> anyhow::Result<Vec<NetworkState>> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin } else { files };
    let mut all = vec![];
    for file in files {
        let text = read(file).with_context(|| format!("reading {}", file.display()))?;
        for document in yaml::read_many(&text)? {
            all.push(NetworkState::from_json(desired_state(document))?);
        }
    }
    if all.is_empty() {
        return Err(Invalid::new("document", "there is nothing in it").into());
    }
    Ok(all)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file.as_os_str() != "-" {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn desired_state(mut document: Value) -> Value {
    let policy = document.get("kind").and_then(Value::as_str) == Some("NodeNetworkConfigurationPolicy");
    match document.pointer_mut("/spec/desiredState") {
        Some(state) if policy => state.take(),
        _ => document,
    }
}

/// Applies each document in turn; the first that fails ends it.
pub async fn run(args: Apply) -> anyhow::Result<ExitCode> {
    let documents = documents(&args.files)?;
    let _lock = Lock::take(&args.state_dir)?;
    let host = LiveHost::connect().await?.with_journal(Journal::open(&args.state_dir)?);
    let prober = if args.no_probes {
        Prober::none()
    } else {
        Prober::defaults(Duration::from_secs(args.probe_timeout), None, None)
    };
    let options = Options {
        policy: String::new(),
        memory_only: args.memory_only,
        no_verify: args.no_verify,
    };
    for desired in documents {
        let report = transaction::run(&host, &prober, &desired, &options).await;
        for line in &report.plan {
            println!("{line}");
        }
        match report.outcome {
            Outcome::Unchanged => eprintln!("nothing to change"),
            Outcome::Applied => eprintln!("applied in {} ms", report.duration.as_millis()),
            Outcome::Refused(fault) => return Err(fault.into()),
            Outcome::Failed { phase, cause } => anyhow::bail!("{}: {cause}; nothing was kept", phase.word()),
            Outcome::ProbeFailed { cause } => anyhow::bail!("{cause}; rolled back"),
            Outcome::Stuck { cause, rollback } => anyhow::bail!("{cause}; the rollback failed: {rollback}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what `run` would change.
pub async fn plan(files: &[PathBuf]) -> anyhow::Result<()> {
    let documents = documents(files)?;
    let seen = LiveHost::connect().await?.observe().await?;
    for desired in documents {
        let plan = plan::plan(&desired, &seen)?;
        for warning in &plan.warnings {
            eprintln!("warning: {warning}");
        }
        if plan.is_empty() {
            eprintln!("nothing to change");
        } else {
            plan.lines.iter().for_each(|line| println!("{line}"));
        }
    }
    Ok(())
}
