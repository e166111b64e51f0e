//! NodeNetworkConfigurationEnactment: how one policy went on one node.

#![allow(clippy::duplicated_attributes)] // each printer column repeats the keys of the one before

use std::collections::BTreeMap;

use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::is_true;
use super::nncp::OnDelete;
use super::{Condition, Crd, any_object, as_version};

/// An enactment has no spec.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "nmstate.io",
    version = "v1beta1",
    kind = "NodeNetworkConfigurationEnactment",
    plural = "nodenetworkconfigurationenactments",
    shortname = "nnce",
    status = "NodeNetworkConfigurationEnactmentStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"True\")].type"
    ),
    printcolumn(
        name = "Status Age",
        type_ = "date",
        json_path = ".status.conditions[?(@.status==\"True\")].lastTransitionTime"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"True\")].reason"
    ),
    printcolumn(name = "Drifted", type_ = "date", json_path = ".status.drift.since", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.message)].message",
        priority = 1
    )
)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct NodeNetworkConfigurationEnactmentSpec {}

/// How it went.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetworkConfigurationEnactmentStatus {
    /// Available, Failing, Progressing, Pending, Aborted; Drifted once it was applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What was to be applied, templates filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub desired_state: Option<Value>,
    /// What captures found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub captured_states: Option<Value>,
    /// Generation of the policy that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_generation: Option<i64>,
    /// The same under the usual name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Features that the state uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// The difference, one line a property.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// What the probes said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeResult>,
    /// The last five tries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// Leave to work, granted by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// What differs from the policy since it was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// The inverse of all that was applied, as recorded before each thing was first touched. Secrets are hidden; the node itself keeps
    /// them, for root only, under its state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub revert_state: Option<Value>,
    /// What the policy said is to happen when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// Failed tries by generation, as the incumbent kept them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retry_count: BTreeMap<String, i64>,
}

/// One try.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Generation of the policy; 0 for an undo.
    #[serde(default)]
    pub generation: i64,
    /// RFC 3339.
    pub start: String,
    /// Milliseconds.
    pub duration_ms: u64,
    /// `applied`, `unchanged`, `failed`, `probe-failed`, `refused`, `stuck`.
    pub outcome: String,
    /// One sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Stands for the generation of a policy where what it changed is undone: generations begin with 1.
pub const UNDO: i64 = 0;

/// Leave to work.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// Generation of the policy that it is for; 0 to undo it.
    pub generation: i64,
    /// RFC 3339.
    pub granted: String,
    /// RFC 3339; the agent puts it off while it works. Not after `granted` where it was given or taken back.
    pub expires: String,
}

impl Slot {
    /// The same, over.
    pub fn given_back(self) -> Self {
        let expires = self.granted.clone();
        Slot { expires, ..self }
    }

    /// It was neither given nor taken back. Whether it has run out is the controller's to tell: it takes back what nobody uses, and clocks differ.
    pub fn stands(&self) -> bool {
        let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
        time(&self.expires) > time(&self.granted)
    }
}

/// What differs since it was applied.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// RFC 3339.
    pub since: String,
    /// One line a property.
    pub differences: Vec<String>,
}

impl NodeNetworkConfigurationEnactmentStatus {
    /// Something was changed that is to be undone when the policy is gone.
    pub fn reverts(&self) -> bool {
        self.on_delete == Some(OnDelete::Revert) && self.revert_state.is_some()
    }

    /// kubernetes-nmstate, which knows no `observedGeneration`, said that something is wrong or not done yet. It is gone, and that is no last
    /// word: the next one tries for itself. That all is well is believed.
    pub fn is_inherited(&self) -> bool {
        let well = is_true(&self.conditions, "Available");
        self.observed_generation.is_none() && !self.conditions.is_empty() && !well
    }
}

impl NodeNetworkConfigurationEnactment {
    /// It is about another policy, which bore the name of this one before.
    pub fn is_of_another(&self, policy_uid: Option<&str>) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        let known = annotations.and_then(|a| a.get(super::ANNOTATION_POLICY_UID));
        is_of_another(known.map(String::as_str), policy_uid)
    }
}

/// A policy with this uid bears the name now, and what is known of the old one says otherwise; where a uid is not known it is not told.
pub fn is_of_another(known: Option<&str>, policy_uid: Option<&str>) -> bool {
    known.is_some_and(|uid| policy_uid.is_some_and(|other| other != uid))
}

/// The same as `v1alpha1`.
pub fn v1alpha1_crd() -> Crd {
    as_version(NodeNetworkConfigurationEnactment::crd(), "v1alpha1")
}

/// `<node>.<policy>`.
pub fn name(node: &str, policy: &str) -> String {
    format!("{node}.{policy}")
}

/// What one probe said (`status.probes[]` of an enactment).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// `gateway`, `dns`, `apiserver`, `node-readiness`, or a name from the policy.
    pub name: String,
    /// `passed` or `failed`, before the change.
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
