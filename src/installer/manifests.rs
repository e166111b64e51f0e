//! From an NMState to the objects that it means: the manifests of `deploy/netwright.yaml` with the values of its spec put in. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Map, Value, json};

use crate::admission::certificates::Knobs;
use crate::api::nmstate::{LogLevel, NMStateSpec, SelfSignConfiguration};
use crate::yaml;

/// The same text that people apply without an installer.
const MANIFESTS: &str = include_str!("../../deploy/netwright.yaml");
/// The namespace in it.
const NAMESPACE: &str = "nmstate";
/// Where an object says what it was made from.
pub const ANNOTATION_APPLIED: &str = "netwright.io/applied";

/// The image of agents and controller, as pods name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `registry/name:tag`; None is that of the manifests.
    pub name: Option<String>,
    /// `imagePullPolicy`
    pub pull_policy: Option<String>,
    /// Names of `imagePullSecrets`.
    pub pull_secrets: Vec<String>,
}

/// What objects are made from.
#[derive(Debug, Clone)]
pub struct Install<'a> {
    /// The wish.
    pub spec: &'a NMStateSpec,
    /// Where agents and controller go.
    pub namespace: &'a str,
    /// What they run.
    pub image: &'a Image,
    /// Whose objects these are.
    pub owner: OwnerReference,
}

/// All objects, in the order in which they are applied. Each but the namespace goes with its owner.
pub fn objects(install: &Install<'_>) -> Result<Vec<Value>, String> {
    // a test reads it
    let mut objects = yaml::read_many(MANIFESTS).map_err(|e| e.to_string())?;
    for object in &mut objects {
        move_to(install.namespace, object);
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "Namespace" => object["metadata"]["name"] = json!(install.namespace),
            "DaemonSet" => agent(object, install),
            "Deployment" => controller(object, install)?,
            _ => {}
        }
        if kind != "Namespace" {
            object["metadata"]["ownerReferences"] = json!([install.owner]);
        }
        let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, object.to_string().as_bytes());
        object["metadata"]["annotations"][ANNOTATION_APPLIED] = json!(hash.simple().to_string());
    }
    Ok(objects)
}

/// What kubernetes-nmstate's operator makes for an NMState that must not stay beside ours: its handler keeps our agents waiting, and its
/// admission refuses what ours allows. By kind and name, the handler last.
pub fn predecessors(namespace: &str) -> Vec<Value> {
    let admission = "admissionregistration.k8s.io/v1";
    let everywhere = [
        (admission, "MutatingWebhookConfiguration", "nmstate"),
        (
            admission,
            "ValidatingAdmissionPolicyBinding",
            "nncp-validation-policy-binding",
        ),
        (admission, "ValidatingAdmissionPolicy", "nncp-validation-policy"),
    ];
    let here = [
        ("policy/v1", "PodDisruptionBudget", "nmstate-webhook"),
        ("apps/v1", "Deployment", "nmstate-webhook"),
        ("apps/v1", "Deployment", "nmstate-metrics"),
        ("apps/v1", "Deployment", "nmstate-cert-manager"),
        ("apps/v1", "DaemonSet", "nmstate-handler"),
    ];
    let object = |(api, kind, name)| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
    let mut objects: Vec<Value> = here.map(object).into();
    for object in &mut objects {
        object["metadata"]["namespace"] = json!(namespace);
    }
    everywhere.map(object).into_iter().chain(objects).collect()
}

/// Everything that says `namespace: nmstate` says another one.
fn move_to(namespace: &str, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "namespace" && text == NAMESPACE => namespace.clone_into(text),
                    _ => move_to(namespace, value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| move_to(namespace, v)),
        _ => {}
    }
}

fn agent(object: &mut Value, install: &Install<'_>) {
    let spec = install.spec;
    let pod = &mut object["spec"]["template"]["spec"];
    set(
        pod,
        "nodeSelector",
        (!spec.node_selector.is_empty()).then(|| json!(spec.node_selector)),
    );
    set(
        pod,
        "tolerations",
        (!spec.tolerations.is_empty()).then(|| json!(spec.tolerations)),
    );
    set(pod, "affinity", spec.affinity.clone());
    let host = spec
        .probe_configuration
        .as_ref()
        .map(|p| p.dns.host.as_str())
        .unwrap_or_default();
    runs(pod, install, &[("--probe-dns-host", host)]);
}

fn controller(object: &mut Value, install: &Install<'_>) -> Result<(), String> {
    let spec = install.spec;
    let pod = &mut object["spec"]["template"]["spec"];
    let selector = &spec.infra_node_selector;
    set(pod, "nodeSelector", (!selector.is_empty()).then(|| json!(selector)));
    let tolerations = &spec.infra_tolerations;
    set(
        pod,
        "tolerations",
        (!tolerations.is_empty()).then(|| json!(tolerations)),
    );
    set(pod, "affinity", spec.infra_affinity.clone());
    let certificates = spec.self_sign_configuration.clone().unwrap_or_default();
    accepted(&certificates).map_err(|e| format!("spec.selfSignConfiguration{e}"))?;
    let metrics = spec.metrics_configuration.clone().unwrap_or_default().bind_address;
    // `:8089` is what kubernetes-nmstate takes for every address
    let address = if metrics.starts_with(':') {
        format!("[::]{metrics}")
    } else {
        metrics
    };
    let flags = [
        ("--ca-rotate-interval", certificates.ca_rotate_interval.as_str()),
        ("--ca-overlap-interval", &certificates.ca_overlap_interval),
        ("--cert-rotate-interval", &certificates.cert_rotate_interval),
        ("--cert-overlap-interval", &certificates.cert_overlap_interval),
        ("--metrics-address", &address),
    ];
    runs(pod, install, &flags);
    if !address.is_empty() {
        let port = address.parse::<std::net::SocketAddr>().map(|a| a.port());
        let port = port.map_err(|_| {
            format!("spec.metricsConfiguration.bindAddress: '{address}' is no address and port, such as :8090")
        })?;
        let ports = pod["containers"][0]["ports"].as_array_mut();
        ports
            .into_iter()
            .flatten()
            .filter(|p| p["name"] == "metrics")
            .for_each(|p| p["containerPort"] = json!(port));
    }
    Ok(())
}

/// What the controller would refuse at its start, over and over.
fn accepted(wish: &SelfSignConfiguration) -> Result<(), String> {
    let read = |key: &str, text: &str, usual: &str| {
        let text = if text.is_empty() { usual } else { text };
        let length = text.parse::<jiff::SignedDuration>();
        length.map_err(|_| format!(".{key}: '{text}' is no length of time, such as 24h0m0s"))
    };
    let [ca_rotate, ca_overlap, cert_rotate, cert_overlap] = Knobs::USUAL;
    let knobs = Knobs {
        ca_rotate: read("caRotateInterval", &wish.ca_rotate_interval, ca_rotate)?,
        ca_overlap: read("caOverlapInterval", &wish.ca_overlap_interval, ca_overlap)?,
        cert_rotate: read("certRotateInterval", &wish.cert_rotate_interval, cert_rotate)?,
        cert_overlap: read("certOverlapInterval", &wish.cert_overlap_interval, cert_overlap)?,
    };
    knobs.checked().map(drop).map_err(|e| format!(": {e}"))
}

fn set(pod: &mut Value, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        pod[key] = value;
    }
}

/// Image and flags of a pod's only container.
fn runs(pod: &mut Value, install: &Install<'_>, flags: &[(&str, &str)]) {
    let Image {
        name,
        pull_policy,
        pull_secrets,
    } = install.image;
    if !pull_secrets.is_empty() {
        let named = |name: &String| Value::Object(Map::from_iter([("name".to_owned(), json!(name))]));
        pod["imagePullSecrets"] = pull_secrets.iter().map(named).collect();
    }
    let container = &mut pod["containers"][0];
    set(container, "image", name.as_ref().map(|n| json!(n)));
    set(container, "imagePullPolicy", pull_policy.as_ref().map(|p| json!(p)));
    if let Some(args) = container["args"].as_array_mut() {
        if install.spec.log_level == LogLevel::Debug {
            args.push(json!("-v"));
        }
        let given = flags.iter().filter(|(_, value)| !value.is_empty());
        args.extend(given.flat_map(|(flag, value)| [json!(flag), json!(value)]));
    }
}

/// `live` is what was made of `want`, and nobody changed it since.
pub fn stands(want: &Value, live: &Value) -> bool {
    let hash = |o: &Value| o["metadata"]["annotations"][ANNOTATION_APPLIED].clone();
    hash(want) == hash(live) && covers(live, want)
}

/// Everything in `part` is in `whole`. Lists have the same length: what the apiserver adds, it adds to maps.
fn covers(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        // the apiserver leaves out what is empty
        (Value::Null, Value::Object(part)) => part.is_empty(),
        (Value::Null, Value::Array(part)) => part.is_empty(),
        (Value::Null, Value::String(part)) => part.is_empty(),
        (Value::Null, Value::Bool(part)) => !part,
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| covers(whole.get(key).unwrap_or(&Value::Null), value)),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| covers(w, p))
        }
        _ => whole == part,
    }
}
