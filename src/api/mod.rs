//! The objects of group `nmstate.io` and what their conditions say. Pure: no client, no clock.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSON;
use kube::CustomResourceExt;
use kube::core::crd::merge_crds;

pub mod condition;
pub mod nmstate;
pub mod nnce;
pub mod nncp;
pub mod nns;

pub use condition::Condition;
pub use nmstate::{NMState, NMStateSpec};
pub use nnce::{NodeNetworkConfigurationEnactment, NodeNetworkConfigurationEnactmentStatus};
pub use nncp::{NodeNetworkConfigurationPolicy, NodeNetworkConfigurationPolicySpec};
pub use nns::NodeNetworkState;

/// Label with the policy's name on an enactment.
pub const LABEL_POLICY: &str = "nmstate.io/policy";
/// Label with the node's name on an enactment.
pub const LABEL_NODE: &str = "nmstate.io/node";
/// Label on a NodeNetworkState that asks for a fresh reading when it changes.
pub const LABEL_REFRESH: &str = "nmstate.io/force-nns-refresh";
/// Annotation with a full name that did not fit into a label.
pub const ANNOTATION_FULL_NAME: &str = "netwright.io/full-name";
/// Annotation on an enactment: `metadata.uid` of its policy. A policy made anew under the same name is another one.
pub const ANNOTATION_POLICY_UID: &str = "netwright.io/policy-uid";
/// Annotation on a new enactment: it waits for a slot for this generation of the policy.
pub const ANNOTATION_WAITING: &str = "netwright.io/waiting";

/// A name as a label's value: 63 characters at most, longer ones end in a hash.
pub fn label_value(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes())
        .simple()
        .to_string();
    let cut = name
        .char_indices()
        .map(|(i, _)| i)
        .take_while(|i| *i <= 50)
        .last()
        .unwrap_or(0);
    format!("{}-{}", name[..cut].trim_end_matches(['-', '.', '_']), &hash[..10])
}

/// Free-form JSON that the apiserver must not prune.
pub fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Likewise; whoever applies it owns all of it, so that nothing stays of what another one had applied before.
pub fn whole_object(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = any_object(generator);
    schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    schema
}

/// Number or percentage.
pub fn int_or_string(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"x-kubernetes-int-or-string": true})
}

type Crd = k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The definitions, all served versions merged.
pub fn crds() -> Vec<Crd> {
    let merged = [
        merge_crds(
            vec![
                nncp::v1beta1_crd(),
                NodeNetworkConfigurationPolicy::crd(),
                nncp::v1alpha1_crd(),
            ],
            "v1",
        ),
        merge_crds(
            vec![NodeNetworkConfigurationEnactment::crd(), nnce::v1alpha1_crd()],
            "v1beta1",
        ),
        merge_crds(vec![NodeNetworkState::crd(), nns::v1alpha1_crd()], "v1beta1"),
        merge_crds(vec![nmstate::v1beta1_crd(), NMState::crd()], "v1"),
    ];
    let crds = merged
        .into_iter()
        .map(|crd| crd.expect("the versions of a kind share name and scope"));
    crds.map(spec_may_be_left_out).collect()
}

/// Enactments and states have no spec, and those that the incumbent made do not even say so: the apiserver fills in an empty one.
fn spec_may_be_left_out(mut crd: Crd) -> Crd {
    let schemas = crd
        .spec
        .versions
        .iter_mut()
        .filter_map(|v| v.schema.as_mut()?.open_api_v3_schema.as_mut());
    for schema in schemas {
        schema.required = None;
        let spec = schema.properties.as_mut().and_then(|p| p.get_mut("spec"));
        spec.into_iter()
            .for_each(|s| s.default = Some(JSON(serde_json::json!({}))));
    }
    crd
}

/// The same crd under another version.
fn as_version(mut crd: Crd, version: &str) -> Crd {
    for v in &mut crd.spec.versions {
        version.clone_into(&mut v.name);
    }
    crd
}

/// `netwright crd`: a multi-document YAML.
pub fn crds_yaml() -> String {
    crds()
        .iter()
        .map(|crd| format!("---\n{}", crate::yaml::write(crd)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_fit_into_labels_and_stay_apart() {
        let (a, b) = ("n".repeat(70), format!("{}x", "n".repeat(69)));
        assert!(label_value(&a).len() <= 63);
        assert_ne!(label_value(&a), label_value(&b));
        assert_eq!(label_value("node01"), "node01");
    }
}
