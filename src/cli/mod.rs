//! The command line: arguments, then one call each. stdout is the result, stderr the log.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::{ErrorKind, Failure, HostError, Invalid};
use crate::log::remark;
use crate::serve::Address;
use crate::{agent, controller, error, log};

mod apply;
mod autoconf;
mod checkpoint;
mod documents;
mod edit;
mod input;
mod nic_names;
mod output;
mod policy;
mod service;
mod show;
mod statistic;

/// Lock and journal.
const STATE_DIR: &str = "/var/lib/netwright";

/// Whether the program was started as `nmstatectl`: then it does what that does, and no more.
fn called_as_nmstatectl() -> bool {
    std::env::args_os().next().is_some_and(|path| {
        std::path::Path::new(&path)
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("nmstatectl"))
    })
}

/// Exit code for text that is wrong (`EX_DATAERR` of sysexits.h).
const DATA_ERROR: u8 = 65;

/// The network of Kubernetes nodes under kubectl.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Tell more: once for debug, twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Form of the log on stderr; under systemd it goes to the journal.
    #[arg(long, global = true, default_value = "text")]
    log_format: log::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what the node looks like.
    #[command(alias = "s")]
    Show(show::Show),
    /// Make the node look like a document or a policy's desiredState; keep it only if the node still reaches its gateway and DNS.
    #[command(visible_alias = "a")]
    Apply(apply::Apply),
    /// The old name of `apply`.
    #[command(hide = true)]
    Set(apply::Apply),
    /// Print what `apply` would change, one line a property.
    Plan(apply::Plan),
    /// Keep what `apply --no-commit` did.
    Commit(checkpoint::Held),
    /// Undo what `apply --no-commit` did.
    Rollback(checkpoint::Held),
    /// Read a document and print it in the usual order.
    #[command(aliases = ["f", "fmt"])]
    Format {
        /// A file; `-` or none is stdin.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Print a document if it can be applied, or say what is wrong with it.
    #[command(alias = "v")]
    Validate(documents::Validate),
    /// Print the smallest document that leads from OLD to NEW.
    Gd {
        /// Where to.
        new: PathBuf,
        /// From where.
        old: PathBuf,
    },
    /// Print the document that undoes FILE.
    Gr(documents::Revert),
    /// Print NetworkManager's files for a document, without a NetworkManager.
    Gc {
        /// A file; `-` is stdin.
        file: PathBuf,
    },
    /// Open the node's configuration in an editor and apply what was changed.
    Edit(edit::Edit),
    /// At boot: apply the documents of a folder.
    Service(service::Service),
    /// Print which shapes of network and which features documents use.
    #[command(alias = "st")]
    Statistic(statistic::Statistic),
    /// Print what a policy wants of this node, with what its captures find.
    #[command(alias = "p")]
    Policy(policy::Policy),
    /// Make interfaces for the VLANs that switches announce by LLDP.
    Autoconf(autoconf::Autoconf),
    /// Pin the names that network cards have now.
    #[command(hide = true)]
    PersistNicNames(nic_names::NicNames),
    /// Run on a node: apply policies, publish state and enactments.
    Agent(AgentArgs),
    /// Run once per cluster: grant slots, keep policy status.
    Controller(controller::Config),
    /// Print what `agent --policy-dir` did, as kubectl would.
    Status {
        /// Where the agent writes.
        #[arg(long, default_value = "/run/netwright")]
        run_dir: PathBuf,
    },
    /// Print the custom resource definitions.
    Crd,
    /// Print the version.
    Version,
}

/// Flags of `netwright agent`.
#[derive(Debug, Args)]
struct AgentArgs {
    /// The Node this runs on.
    #[arg(long, env = "NODE_NAME", default_value_t = hostname())]
    node_name: String,
    /// Credentials; inside a cluster the service account's.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Lock and journal.
    #[arg(long, default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Enactments and state of --policy-dir.
    #[arg(long, default_value = "/run/netwright")]
    run_dir: PathBuf,
    /// Take policies from this folder instead of an apiserver.
    #[arg(long)]
    policy_dir: Option<PathBuf>,
    /// How long a probe may take to pass after a change, in seconds.
    #[arg(long, default_value_t = 120)]
    probe_timeout: u64,
    /// Ask name servers for this host instead of the root servers' zone.
    #[arg(long, env = "PROBE_DNS_HOST")]
    probe_dns_host: Option<String>,
    /// How often an apply is tried again after a probe failed.
    #[arg(long, default_value_t = 1)]
    probe_retries: u32,
    /// How often an apply is tried that failed before the network was at risk.
    #[arg(long, env = "NNCP_MAX_RETRIES", default_value_t = 5)]
    max_retries: u32,
    /// First pause between those tries, in seconds; it doubles.
    #[arg(long, env = "NNCP_INITIAL_BACKOFF_SECONDS", default_value_t = 1)]
    initial_backoff: u64,
    /// Longest pause, in seconds.
    #[arg(long, env = "NNCP_MAX_BACKOFF_SECONDS", default_value_t = 30)]
    max_backoff: u64,
    /// Where metrics and health are served; '' serves them nowhere.
    #[arg(long, default_value = "[::]:8089")]
    metrics_address: Address,
    /// Report each bridge as a resource of the Node, for pods that want one.
    #[arg(long, conflicts_with = "policy_dir")]
    bridge_marker: bool,
    /// The lock of kubernetes-nmstate's handler: the agent waits until that is gone, and keeps it out. Left alone where its folder is not there.
    #[arg(
        long,
        env = "NMSTATE_INSTANCE_NODE_LOCK_FILE",
        default_value = "/var/k8s_nmstate/handler_lock"
    )]
    handler_lock: PathBuf,
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl From<AgentArgs> for agent::Config {
    fn from(a: AgentArgs) -> Self {
        agent::Config {
            node_name: a.node_name,
            kubeconfig: a.kubeconfig,
            state_dir: a.state_dir,
            run_dir: a.run_dir,
            policy_dir: a.policy_dir,
            probe_timeout: Duration::from_secs(a.probe_timeout),
            probe_dns_host: a.probe_dns_host,
            probe_retries: a.probe_retries,
            max_retries: a.max_retries,
            initial_backoff: Duration::from_secs(a.initial_backoff),
            max_backoff: Duration::from_secs(a.max_backoff),
            metrics_address: a.metrics_address,
            bridge_marker: a.bridge_marker,
            handler_lock: a.handler_lock,
        }
    }
}

/// Under a name that ends in `-autoconf` the program is that sub-command.
fn arguments(mut given: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let name = given
        .first()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    if name.ends_with("-autoconf") {
        given.insert(1, "autoconf".into());
    }
    given
}

/// Parses the arguments and runs; prints an error once, with its causes.
pub fn main() -> ExitCode {
    let name = if called_as_nmstatectl() {
        "nmstatectl"
    } else {
        "netwright"
    };
    let matches = Cli::command()
        .name(name)
        .get_matches_from(arguments(std::env::args_os().collect()));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    // only fails where a provider is installed already
    let _ = rustls::crypto::ring::default_provider().install_default();
    log::init(cli.log_format, cli.verbose, cli.quiet);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("netwright: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(e) => {
            let (line, code) = last_words(&e, called_as_nmstatectl());
            eprintln!("{line}");
            ExitCode::from(code)
        }
    }
}

/// What is said of an error on the way out, and the exit code. The kind of a fault goes before its text: scripts for `nmstatectl` look for
/// it after their own word, and for their own code of a text that cannot be read.
fn last_words(e: &anyhow::Error, nmstatectl: bool) -> (String, u8) {
    let text = error::chain(e.as_ref());
    let (known, unknown) = match nmstatectl {
        true => ("NmstateError", "nmstatectl"),
        false => ("netwright", "netwright"),
    };
    let line = match kind_of(e) {
        Some(kind) => format!("{known}: {kind}: {text}"),
        None => format!("{unknown}: {text}"),
    };
    let data = e.is::<input::Unreadable>() || !nmstatectl && e.is::<Invalid>();
    (line, if data { DATA_ERROR } else { 1 })
}

fn kind_of(e: &anyhow::Error) -> Option<ErrorKind> {
    e.chain().find_map(|cause| {
        let refused = cause.downcast_ref().map(|i: &Invalid| i.kind);
        let unreadable = || cause.downcast_ref().map(|u: &input::Unreadable| u.0.kind);
        let failed = || cause.downcast_ref().map(|f: &Failure| f.kind);
        let host = || cause.downcast_ref().map(HostError::kind);
        let forbidden = || {
            let io: &std::io::Error = cause.downcast_ref()?;
            (io.kind() == std::io::ErrorKind::PermissionDenied).then_some(ErrorKind::PermissionError)
        };
        refused
            .or_else(unreadable)
            .or_else(failed)
            .or_else(host)
            .or_else(forbidden)
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Show(args) => show::run(args).await?,
        Command::Apply(args) => return apply::run(args).await,
        Command::Set(args) => {
            remark!("Using 'set' is deprecated, use 'apply' instead.");
            return apply::run(args).await;
        }
        Command::Plan(args) => apply::plan(args).await?,
        Command::Commit(args) => checkpoint::commit(&args).await?,
        Command::Rollback(args) => checkpoint::rollback(&args).await?,
        Command::Format { file } => documents::format(&file).await?,
        Command::Validate(args) => documents::validate(&args)?,
        Command::Gd { new, old } => documents::differences(&new, &old)?,
        Command::Gr(args) => documents::revert(&args).await?,
        Command::Edit(args) => return edit::run(args).await,
        Command::Service(args) => service::run(args).await?,
        Command::Statistic(args) => statistic::run(&args)?,
        Command::Policy(args) => policy::run(args).await?,
        Command::Autoconf(args) => autoconf::run(args).await?,
        Command::PersistNicNames(args) => nic_names::run(args).await?,
        Command::Gc { file } => documents::configurations(&file)?,
        Command::Agent(args) => agent::run(args.into()).await?,
        Command::Controller(config) => controller::run(config).await?,
        Command::Status { run_dir } => print!("{}", agent::standalone::status(&run_dir)?),
        Command::Crd => print!("{}", crate::api::crds_yaml()),
        Command::Version => println!("{}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_for_nmstatectl_find_the_kind_and_the_code_that_they_know() {
        let of = |e: anyhow::Error| (last_words(&e, true), last_words(&e, false));
        let refused = || Invalid::of(ErrorKind::NotSupportedError, "routes.config[0]", "no weights");
        let failed = Failure {
            kind: ErrorKind::VerificationError,
            reason: "verify: br0 is missing".to_owned(),
        };
        let foreign = HostError::ForeignCheckpoint { path: "/1".to_owned() };
        let cases = [
            (
                refused().into(),
                "NmstateError: NotSupportedError: routes.config[0]: no weights",
                1,
                65,
            ),
            (
                input::unreadable(Invalid::new("mtu", "a number is expected")),
                "NmstateError: InvalidArgument: mtu: a number is expected",
                65,
                65,
            ),
            (
                input::unreadable(refused()),
                "NmstateError: NotSupportedError: routes.config[0]: no weights",
                1,
                65,
            ),
            (
                failed.into(),
                "NmstateError: VerificationError: verify: br0 is missing",
                1,
                1,
            ),
            (
                foreign.into(),
                "NmstateError: PluginFailure: another NetworkManager checkpoint is active (/1); its owner must commit or roll it back first",
                1,
                1,
            ),
            (
                anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::NotFound)).context("reading a.yaml"),
                "nmstatectl: reading a.yaml: entity not found",
                1,
                1,
            ),
            (
                anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied))
                    .context("taking the lock"),
                "NmstateError: PermissionError: taking the lock: permission denied",
                1,
                1,
            ),
        ];
        for (e, line, theirs, ours) in cases {
            let (nmstatectl, netwright) = of(e);
            assert_eq!(nmstatectl, (line.to_owned(), theirs));
            let said = line.split_once(": ").unwrap().1;
            assert_eq!(netwright, (format!("netwright: {said}"), ours));
        }
    }
}
