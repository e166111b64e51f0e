//! `netwright show`.

use std::io::Write;

use crate::host::Host;
use crate::host::live::LiveHost;
use crate::yaml;

/// Prints the node, or one interface of it.
pub async fn run(interface: Option<&str>, json: bool) -> anyhow::Result<()> {
    let mut state = LiveHost::connect().await?.observe().await?.state;
    state.hide_secrets();
    if let Some(name) = interface {
        state = state.only(name);
        anyhow::ensure!(!state.interfaces.is_empty(), "this node has no interface '{name}'");
    }
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(&state)?)
    } else {
        yaml::write(&state)
    };
    // a closed pipe is the reader's choice
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
