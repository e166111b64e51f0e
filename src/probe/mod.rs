//! Proof that the node still reaches what it must: gateway, DNS, apiserver, node readiness, and what a policy adds.
//!
//! In: specs and a way to look at the node. Out: one `ProbeResult` a probe. Called by `transaction`.

use serde::{Deserialize, Serialize};

/// What one probe said (`status.probes[]` of an enactment).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// `gateway`, `dns`, `apiserver`, `node-readiness`, or a name from the policy.
    pub name: String,
    /// `passed`, `failed` or `skipped`, before the change.
    pub before: String,
    /// `passed`, `failed` or `skipped`, after the change; empty where it was not run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub after: String,
    /// How long the last round took, in milliseconds.
    #[serde(default)]
    pub latency_ms: u32,
    /// One sentence: why it failed or was skipped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// STUB replaced by the probes.
pub trait Look: Send + Sync {
    /// Facts.
    fn facts(&self) -> impl std::future::Future<Output = Result<crate::facts::Facts, crate::host::HostError>> + Send;
    /// Event.
    fn changed(&self, limit: std::time::Duration) -> impl std::future::Future<Output = bool> + Send;
}
/// Baseline.
#[derive(Debug, Clone, Default)]
pub struct Baseline {}
impl Baseline {
    /// Budget.
    pub fn budget(&self) -> std::time::Duration {
        std::time::Duration::from_secs(1)
    }
    /// Results.
    pub fn results(&self) -> Vec<ProbeResult> {
        vec![]
    }
}
/// Failure.
#[derive(Debug, Clone)]
pub struct ProbeFailure {
    /// Results.
    pub results: Vec<ProbeResult>,
    /// Cause.
    pub cause: String,
}
/// Runs probes.
#[derive(Debug, Clone, Default)]
pub struct Prober {}
impl Prober {
    /// D
    pub fn defaults(_t: std::time::Duration, _d: Option<String>, _c: Option<u8>) -> Self {
        Prober {}
    }
    /// None.
    pub fn none() -> Self {
        Prober {}
    }
    /// Baseline.
    pub async fn baseline<L: Look>(&self, _look: &L) -> Baseline {
        Baseline {}
    }
    /// Prove.
    pub async fn prove<L: Look>(
        &self,
        _b: &Baseline,
        _t: &[String],
        _look: &L,
    ) -> Result<Vec<ProbeResult>, ProbeFailure> {
        Ok(vec![])
    }
}
