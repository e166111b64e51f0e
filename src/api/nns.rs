//! NodeNetworkState: what a node looks like.

use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, Crd, as_version, whole_object};

/// A state has no spec.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "nmstate.io",
    version = "v1beta1",
    kind = "NodeNetworkState",
    plural = "nodenetworkstates",
    shortname = "nns",
    status = "NodeNetworkStateStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct NodeNetworkStateSpec {}

/// What it looks like.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetworkStateStatus {
    /// As `netwright show` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "whole_object")]
    pub current_state: Option<Value>,
    /// RFC 3339; moves when the content does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_update_time: Option<String>,
    /// NetworkManager on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network_manager_version: Option<String>,
    /// netwright on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler_nmstate_version: Option<String>,
    /// What was left out, if anything was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The same as `v1alpha1`.
pub fn v1alpha1_crd() -> Crd {
    as_version(NodeNetworkState::crd(), "v1alpha1")
}
