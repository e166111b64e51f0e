//! The one way in which the node's network is changed: observe → plan → checkpoint → execute → verify → probe → commit | rollback.

use std::time::Duration;

use crate::error::Invalid;
use crate::host::Host;
use crate::probe::{ProbeResult, Prober};
use crate::state::NetworkState;

/// Where a transaction was when something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading the node.
    Observe,
    /// Deciding what to do.
    Plan,
    /// Taking the checkpoint.
    Checkpoint,
    /// Changing the node.
    Execute,
    /// Comparing with what was asked.
    Verify,
    /// Proving that the node still reaches what it must.
    Probe,
    /// Keeping the changes.
    Commit,
    /// Undoing them.
    Rollback,
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Nothing differed, nothing was touched.
    Unchanged,
    /// The changes are kept.
    Applied,
    /// The document is wrong; nothing was touched.
    Refused(Invalid),
    /// It failed before the network was at risk or was verified as not right, and everything is as it was.
    Failed {
        /// Where.
        phase: Phase,
        /// One sentence.
        cause: String,
    },
    /// A probe failed and the changes were rolled back.
    ProbeFailed {
        /// One sentence.
        cause: String,
    },
    /// The rollback itself failed; NetworkManager's own timer is the last net.
    Stuck {
        /// Why it was to be rolled back.
        cause: String,
        /// Why it could not.
        rollback: String,
    },
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The difference it was to make, one line a property, secrets hidden.
    pub plan: Vec<String>,
    /// What the probes said.
    pub probes: Vec<ProbeResult>,
    /// From start to end.
    pub duration: Duration,
}

/// Choices of the caller.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Policy name for logs.
    pub policy: String,
    /// Profiles in memory only: gone after a reboot.
    pub memory_only: bool,
    /// Leave out the comparison after applying.
    pub no_verify: bool,
}

/// Runs one transaction.
pub async fn run<H: Host>(
    _host: &H,
    _prober: &Prober,
    _desired: &NetworkState,
    _options: &Options,
) -> Report {
    unimplemented!()
}
