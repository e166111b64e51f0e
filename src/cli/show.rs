//! `netwright show`.

use clap::Args;

use super::output;
use crate::host::Host;
use crate::host::live::LiveHost;
use crate::kernel::Kernel;
use crate::observation::Observation;
use crate::state::NetworkState;

/// Flags of `netwright show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Only this interface, its routes and rules.
    interface: Option<String>,
    /// Ask the kernel alone, not NetworkManager.
    #[arg(short, long)]
    kernel: bool,
    /// JSON instead of YAML.
    #[arg(long)]
    json: bool,
    /// Only what is configured: nothing that DHCP or RA gave, no limits of drivers.
    #[arg(short, long)]
    running_config: bool,
    /// Print secrets.
    #[arg(short, long)]
    show_secrets: bool,
}

/// The node as it is now.
pub async fn current(kernel_only: bool) -> anyhow::Result<NetworkState> {
    Ok(match kernel_only {
        true => Observation::new(Kernel::connect().await?.dump().await?).state,
        false => LiveHost::connect().await?.observe().await?.state,
    })
}

/// Prints the node, or one interface of it.
pub async fn run(args: Show) -> anyhow::Result<()> {
    let mut state = current(args.kernel).await?;
    if args.running_config {
        state = state.running_config();
    }
    if !args.show_secrets {
        state.hide_secrets();
    }
    if let Some(name) = &args.interface {
        state = state.only(name);
        // scripts for nmstatectl look into the empty list
        let found = !state.interfaces.is_empty() || super::called_as_nmstatectl();
        anyhow::ensure!(found, "this node has no interface '{name}'");
    }
    output::print(&state, args.json)
}
