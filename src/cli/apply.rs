//! `netwright apply` and `netwright plan`: make the node look like a document, or say what that would change.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::input::{self, Document};
use super::output;
use crate::agent::stop_signal;
use crate::error::{ErrorKind, Failure};
use crate::host::Host;
use crate::host::live::LiveHost;
use crate::journal::{Journal, Lock};
use crate::log::remark;
use crate::observation::Observation;
use crate::plan::{self, diff};
use crate::probe::Prober;
use crate::state::NetworkState;
use crate::transaction::{self, Options, Outcome, Report};

/// How long `--no-commit` holds the checkpoint where `--timeout` does not say.
const HOLD: u64 = 60;

/// Flags of `netwright apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Files; `-` or none is stdin.
    files: Vec<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// How a document is applied; shared with `edit` and `service`.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// Do not compare the node with the document afterwards.
    #[arg(long)]
    no_verify: bool,
    /// Do not ask gateway and DNS whether the node still reaches them. Implied when called as nmstatectl.
    #[arg(long)]
    no_probes: bool,
    /// Leave the checkpoint in force: `commit` keeps the changes and brings them to disk, `rollback`, the end of --timeout or a reboot undoes them.
    #[arg(long)]
    no_commit: bool,
    /// Seconds until an uncommitted change is undone.
    #[arg(long)]
    timeout: Option<u64>,
    /// Keep nothing on disk: gone after a reboot.
    #[arg(long)]
    memory_only: bool,
    /// Change the kernel alone: NetworkManager does it, and nothing is kept on disk.
    #[arg(short, long)]
    kernel: bool,
    /// Interfaces of the document lose every setting that it does not name.
    #[arg(long)]
    override_iface: bool,
    /// Print secrets.
    #[arg(short, long)]
    show_secrets: bool,
    /// How long a probe may take to pass, in seconds.
    #[arg(long, default_value_t = 120)]
    probe_timeout: u64,
    /// Lock and journal.
    #[arg(long, default_value = super::STATE_DIR)]
    pub state_dir: PathBuf,
}

impl How {
    /// The same, overriding interfaces too where a configuration file says so.
    pub fn with_override(mut self, on: bool) -> Self {
        self.override_iface |= on;
        self
    }

    fn prober(&self) -> Prober {
        match self.no_probes || super::called_as_nmstatectl() {
            true => Prober::none(),
            false => Prober::defaults(Duration::from_secs(self.probe_timeout), None, None),
        }
    }

    fn options(&self) -> Options {
        if self.timeout.is_some() && !self.no_commit {
            remark!("warning: --timeout means something only with --no-commit");
        }
        Options {
            policy: String::new(),
            memory_only: self.memory_only || self.kernel,
            override_iface: self.override_iface,
            no_verify: self.no_verify,
            hold: self
                .no_commit
                .then(|| Duration::from_secs(self.timeout.unwrap_or(HOLD))),
        }
    }
}

/// Applies each document in turn; the first that fails ends it.
pub async fn run(args: Apply) -> anyhow::Result<ExitCode> {
    let documents = input::documents(&args.files)?;
    let _lock = Lock::take(&args.how.state_dir)?;
    for document in documents {
        one_document(&document, &args.how).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Applies a document. Its captures see what the documents before it left.
pub async fn one_document(document: &Document, how: &How) -> anyhow::Result<()> {
    let seen = match document.needs_node() {
        true => observation(None).await?,
        false => Observation::default(),
    };
    one(&document.desired(&seen)?, how).await
}

/// Applies one document under the lock and prints what it changed. Ctrl-C puts everything back.
pub async fn one(desired: &NetworkState, how: &How) -> anyhow::Result<()> {
    let host = LiveHost::connect().await?;
    let journal = Journal::open(&how.state_dir)?;
    if let Some(found) = journal.recover(&host).await? {
        remark!("warning: {}", found.message);
    }
    let host = host.with_journal(journal);
    let (prober, options) = (how.prober(), how.options());
    let report = tokio::select! {
        report = transaction::run(&host, &prober, desired, &options) => report,
        () = stop_signal() => {
            host.abandon().await?;
            anyhow::bail!("stopped; everything is as it was");
        }
    };
    finish(report, desired, how)
}

fn finish(report: Report, desired: &NetworkState, how: &How) -> anyhow::Result<()> {
    for warning in &report.warnings {
        remark!("warning: {warning}");
    }
    match report.outcome {
        Outcome::Unchanged => {
            remark!("nothing to change");
            return output::print(&NetworkState::default(), false);
        }
        Outcome::Applied => remark!("applied in {} ms", report.duration.as_millis()),
        Outcome::Refused(fault) => return Err(fault.into()),
        Outcome::Failed { phase, kind, cause } => {
            let reason = format!("{}: {cause}; nothing was kept", phase.word());
            return Err(Failure { kind, reason }.into());
        }
        Outcome::ProbeFailed { cause } => anyhow::bail!("{cause}; rolled back"),
        Outcome::Stuck { cause, rollback } => {
            let (kind, reason) = (
                ErrorKind::PluginFailure,
                format!("{cause}; the rollback failed: {rollback}"),
            );
            return Err(Failure { kind, reason }.into());
        }
    }
    if let Some(path) = &report.held {
        eprintln!("not committed; checkpoint {path}");
    }
    let before = report.before.unwrap_or_default().running_config();
    let mut changed = diff::differences(desired, &before)?;
    if !how.show_secrets {
        changed.hide_secrets();
    }
    output::print(&changed, false)
}

/// Flags of `netwright plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// Files; `-` or none is stdin.
    files: Vec<PathBuf>,
    /// The state to plan against, instead of this node's.
    #[arg(short, long)]
    current: Option<PathBuf>,
    /// Interfaces of the document lose every setting that it does not name.
    #[arg(long)]
    override_iface: bool,
}

/// The node, or the one that a file tells of.
pub async fn observation(current: Option<&std::path::Path>) -> anyhow::Result<Observation> {
    Ok(match current {
        Some(file) => Observation::from_document(&input::state(file)?),
        None => LiveHost::connect().await?.observe().await?,
    })
}

/// Prints what `run` would change, one line a property.
pub async fn plan(args: Plan) -> anyhow::Result<()> {
    let documents = input::documents(&args.files)?;
    let seen = observation(args.current.as_deref()).await?;
    let options = plan::Options {
        override_iface: args.override_iface,
        ..plan::Options::default()
    };
    for document in documents {
        let plan = plan::plan_with(&document.desired(&seen)?, &seen, options)?;
        for warning in &plan.warnings {
            remark!("warning: {warning}");
        }
        if plan.is_empty() {
            remark!("nothing to change");
        } else {
            plan.lines.iter().for_each(|line| println!("{line}"));
        }
    }
    Ok(())
}
