//! NMState: how netwright itself is to be installed, for `netwright controller --install`.

#![allow(clippy::duplicated_attributes)] // each printer column repeats the keys of the one before

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, Crd, any_object, as_version};

/// Where and how agents and controller run. What is left out is as in the manifests.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "nmstate.io",
    version = "v1",
    kind = "NMState",
    plural = "nmstates",
    status = "NMStateStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"True\")].type"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"True\")].reason"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NMStateSpec {
    /// Of the agents: the affinity of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Value>,
    /// Of the controller: the affinity of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub infra_affinity: Option<Value>,
    /// Of the agents, instead of `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Of the controller, instead of `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub infra_node_selector: BTreeMap<String, String>,
    /// Of the agents, which otherwise tolerate everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Of the controller, which otherwise tolerates control-plane nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub infra_tolerations: Vec<Toleration>,
    /// How long the webhook's certificates live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_sign_configuration: Option<SelfSignConfiguration>,
    /// What the agents' probes ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_configuration: Option<ProbeConfiguration>,
    /// Where the controller answers Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_configuration: Option<MetricsConfiguration>,
    /// How much is logged.
    #[serde(default)]
    pub log_level: LogLevel,
}

/// Durations such as `8760h0m0s`; an empty one is the default.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfSignConfiguration {
    /// How long an authority lives.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_rotate_interval: String,
    /// How long before its end the next one is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_overlap_interval: String,
    /// How long a certificate lives.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cert_rotate_interval: String,
    /// How long before its end the next one is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cert_overlap_interval: String,
}

/// What probes ask.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeConfiguration {
    /// Name servers.
    #[serde(default)]
    pub dns: DnsProbe,
}

/// What name servers are asked.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsProbe {
    /// A host; `root-servers.net` asks for the root servers' zone.
    #[serde(default = "root_servers")]
    pub host: String,
}

impl Default for DnsProbe {
    fn default() -> Self {
        DnsProbe { host: root_servers() }
    }
}

fn root_servers() -> String {
    "root-servers.net".to_owned()
}

/// Where metrics are.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsConfiguration {
    /// Address and port, such as `:8090`; empty is the default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bind_address: String,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// One line a phase.
    #[default]
    Info,
    /// More.
    Debug,
}

/// How the installation stands.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NMStateStatus {
    /// Available, Progressing, Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The same as `v1beta1`, which is on its way out.
pub fn v1beta1_crd() -> Crd {
    let mut crd = as_version(NMState::crd(), "v1beta1");
    for version in &mut crd.spec.versions {
        version.deprecated = Some(true);
        version.deprecation_warning = Some("nmstate/v1beta1 deprecated, use nmstate/v1 instead".to_owned());
    }
    crd
}
