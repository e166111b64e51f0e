//! NodeNetworkConfigurationPolicy: what a person wants of nodes.

#![allow(clippy::duplicated_attributes)] // each printer column repeats the keys of the one before

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, Crd, any_object, as_version, int_or_string};

/// What to do with the difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Mode {
    /// Apply once a generation.
    #[default]
    Apply,
    /// Apply again when the node drifts.
    Enforce,
    /// Publish the difference, change nothing.
    Plan,
}

/// What happens on a node when the policy is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum OnDelete {
    /// Nothing.
    #[default]
    Keep,
    /// The inverse is applied.
    Revert,
}

/// Desired network configuration of the nodes that match.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "nmstate.io",
    version = "v1",
    kind = "NodeNetworkConfigurationPolicy",
    plural = "nodenetworkconfigurationpolicies",
    shortname = "nncp",
    status = "NodeNetworkConfigurationPolicyStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.status==\"True\")].type"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.status==\"True\")].reason"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.nodes.available", priority = 1),
    printcolumn(name = "Matching", type_ = "integer", json_path = ".status.nodes.matching", priority = 1),
    printcolumn(name = "Drifted", type_ = "integer", json_path = ".status.nodes.drifted", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.message)].message", priority = 1),
    validation = kube::core::cel::Rule::new("self.metadata.name.size() <= 63").message("a policy's name must be no more than 63 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetworkConfigurationPolicySpec {
    /// Labels that a node must have; none is every node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    #[x_kube(validation = kube::core::cel::Rule::new("self.all(k, k.matches('^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))").message("nodeSelector keys must be valid qualified names"))]
    pub node_selector: BTreeMap<String, String>,
    /// Expressions over node labels, beside nodeSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Parts of the current state under names, for use in desiredState.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capture: BTreeMap<String, String>,
    /// The state wanted, as in nmstate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub desired_state: Option<Value>,
    /// How many nodes may be at work at once: a number or a percentage of the matching nodes, 50 % where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "int_or_string")]
    pub max_unavailable: Option<IntOrString>,
    /// What to do with the difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What happens on a node when the policy is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// Changes to the probes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeOverride>,
    /// Order among the policies of a node: higher first, then by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Keep everything as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// How the roll-out stands.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetworkConfigurationPolicyStatus {
    /// Available, Degraded, Progressing, Ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Generation that the rest is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
}

/// Nodes by how they stand.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct NodeCounts {
    pub matching: u32,
    pub ready: u32,
    pub available: u32,
    pub failing: u32,
    pub progressing: u32,
    pub pending: u32,
    pub aborted: u32,
    pub drifted: u32,
}

/// The same as `v1beta1`.
pub fn v1beta1_crd() -> Crd {
    as_version(NodeNetworkConfigurationPolicy::crd(), "v1beta1")
}

/// The same as `v1alpha1`.
pub fn v1alpha1_crd() -> Crd {
    as_version(NodeNetworkConfigurationPolicy::crd(), "v1alpha1")
}

impl NodeNetworkConfigurationPolicySpec {
    /// A node with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.selector.as_ref().is_none_or(|s| selects(s, labels))
    }
}

/// metav1.LabelSelector: all of matchLabels and matchExpressions; an unknown operator matches nothing.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    let expressions = selector.match_expressions.iter().flatten().all(|e| {
        let value = labels.get(&e.key);
        let listed = || value.is_some_and(|v| e.values.iter().flatten().any(|w| w == v));
        match e.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressions
}

/// `spec.probes[]` of a policy: changes, switches off or adds one probe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeOverride {
    /// `gateway`, `dns`, `apiserver`, `node-readiness`, or a name of your own.
    pub name: String,
    /// `false` switches it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Seconds that it may take to pass after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Counts even if it did not pass before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// A TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpTarget>,
    /// An HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTarget>,
    /// An ICMP echo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping: Option<PingTarget>,
}

/// Where a TCP probe connects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TcpTarget {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What an HTTP probe asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HttpTarget {
    /// `http://host[:port]/path`.
    pub url: String,
}

/// Whom a ping probe asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PingTarget {
    /// Name or address.
    pub host: String,
}
