//! What can be said of a policy without a node: faults that no node could live with, and warnings of what only some nodes can do. Pure.
//!
//! A document is planned twice, for a node that has nothing of it yet and for one that has all of it. What both refuse is refused; what one refuses is
//! a warning. Values that a node fills in are not known here: see `known`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::known::{self, Known};
use crate::agent::defaults::{default_bridge_vlans, default_vlans_of};
use crate::api::NodeNetworkConfigurationPolicySpec as Spec;
use crate::capture;
use crate::error::{ErrorKind, Invalid};
use crate::facts::Ovs;
use crate::observation::Observation;
use crate::plan::Checked;
use crate::plan::offline::{self, Verdict};
use crate::probe::{self, Prober};
use crate::state::NetworkState;

/// The place of the document in a policy.
const DOCUMENT: &str = "spec.desiredState";
/// The oldest NetworkManager that is tried (README).
const OLDEST_NM: &str = "1.42";
/// `NM_CAPABILITY_TEAM`, `NM_CAPABILITY_OVS`.
const ALL_PLUG_INS: [u32; 2] = [1, 2];

/// Most interfaces, routes and rules that are laid over a node that is thought up. Each takes some 50 µs, and somebody waits.
const LAID_OUT: usize = 500;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why the policy cannot be.
    pub faults: Vec<Invalid>,
    /// What its author should know.
    pub warnings: Vec<String>,
}

impl Findings {
    fn note(&mut self, found: Result<(), Invalid>) {
        self.faults.extend(found.err());
    }

    fn warn(&mut self, path: &str, why: impl std::fmt::Display) {
        self.warnings.push(format!("{path}: {why}"));
    }
}

/// A `spec`, its document still text: it may be large, and is never a tree as a whole.
#[derive(Debug, Default, Deserialize)]
struct Sent<'t> {
    #[serde(borrow, default, rename = "desiredState")]
    desired: Option<&'t RawValue>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Looks at a policy as it would be stored; `spec` is JSON.
pub fn policy(name: &str, spec: &str) -> Findings {
    let mut found = Findings::default();
    if !is_label_value(name) {
        // the word of kubernetes-nmstate
        let why = format!("\"{name}\": must be no more than 63 characters or match label value format");
        found.faults.push(Invalid::new("invalid policy name", why));
    }
    let read: Result<Option<Sent>, _> = serde_json::from_str(spec);
    let Sent { desired, rest } = match read {
        Ok(sent) => sent.unwrap_or_default(),
        Err(e) => {
            found.faults.push(Invalid::new("spec", e.to_string()));
            return found;
        }
    };
    let spec: Spec = match serde_path_to_error::deserialize(Value::Object(rest)) {
        Ok(spec) => spec,
        Err(e) => {
            let fault = Invalid::new(e.path().to_string(), e.inner().to_string());
            found.faults.push(fault.under("spec"));
            return found;
        }
    };
    found.note(selectors(&spec).map_err(|e| e.under("spec")));
    if let Some(why) = spec.max_unavailable.as_ref().and_then(unreadable_width) {
        found.warn("spec.maxUnavailable", why);
    }
    let prober = Prober::defaults(probe::DEFAULT_TIMEOUT, None, None);
    found.note(
        prober
            .with_overrides(&spec.probes)
            .map(drop)
            .map_err(|e| e.under("spec")),
    );
    if let Err(fault) = captures_and_document(&spec, desired.map_or("null", RawValue::get), &mut found) {
        found.faults.push(fault.under(DOCUMENT));
    }
    found
}

fn captures_and_document(spec: &Spec, desired: &str, found: &mut Findings) -> Result<(), Invalid> {
    let read = || serde_json::from_str(desired).map_err(|e| Invalid::new("", e.to_string()));
    let templated: Option<Value> = known::may_have_braces(desired).then(read).transpose()?;
    let mut texts: Vec<&str> = spec.capture.values().map(String::as_str).collect();
    if let Some(tree) = &templated {
        known::texts(tree, &mut texts);
    }
    let node = capture::Node::any(texts.into_iter());
    found.note(capture::check(&spec.capture, &node).map_err(|e| e.under("spec")));
    let Some(tree) = templated else {
        let fill = |interface: &mut Value| {
            default_vlans_of(interface);
        };
        document(&Known::default(), NetworkState::from_text(desired, fill)?, found);
        return Ok(());
    };
    let mut known = known::split(tree, &spec.capture, &node)?;
    for partial in &known.partial {
        found.note(partial.check().map_err(|e| e.under(DOCUMENT)));
    }
    default_bridge_vlans(&mut known.document);
    let whole = NetworkState::from_json(std::mem::take(&mut known.document));
    document(&known, whole.map_err(|e| known.place(e))?, found);
    Ok(())
}

/// The part of the document that is known whole.
fn document(known: &Known, state: NetworkState, found: &mut Findings) {
    if entries(&state) > LAID_OUT {
        let what = "so many interfaces and routes that what they ask of each other is looked at on the nodes only";
        return found.warn(DOCUMENT, what);
    }
    let empty = offline::stage(&state);
    match offline::verdict(&state, &empty) {
        Verdict::Fits(checked) => {
            let warnings = checked.warnings.iter().map(|w| format!("{DOCUMENT}.{w}"));
            found.warnings.extend(warnings);
            if let Some(fault) = needs_newer(*checked, empty) {
                found.warn(DOCUMENT, known.place(fault));
            }
        }
        Verdict::Never(fault) => found.faults.push(known.place(fault).under(DOCUMENT)),
        // every node has an interface that can keep name servers and rules
        Verdict::Depends(fault) if !fault.path.starts_with("interfaces[") && !fault.path.starts_with("routes") => {}
        Verdict::Depends(fault) => {
            let fault = known.place(fault).under(DOCUMENT);
            found
                .warnings
                .push(format!("{fault} (unless the node makes up for it)"));
        }
    }
}

fn entries(state: &NetworkState) -> usize {
    let routes = state.routes.iter().flat_map(|r| r.config.iter().flatten()).count();
    let rules = state.route_rules.iter().flat_map(|r| r.config.iter().flatten()).count();
    state.interfaces.len() + routes + rules
}

/// What an older NetworkManager cannot do.
fn needs_newer(checked: Checked, mut seen: Observation) -> Option<Invalid> {
    seen.facts.nm_version = OLDEST_NM.to_owned();
    seen.facts.nm_capabilities = ALL_PLUG_INS.to_vec();
    seen.facts.ovs = Some(Ovs::default());
    let fault = checked.supported(&seen).err()?;
    let (needs, _) = fault.reason.split_once("; this node has ")?;
    (fault.kind == ErrorKind::DependencyError).then(|| Invalid::new(&fault.path, needs))
}

/// Why a width is not what its author thinks.
fn unreadable_width(value: &IntOrString) -> Option<String> {
    match value {
        IntOrString::Int(1..) => None,
        IntOrString::Int(number) => Some(format!("{number} means 1: somebody must begin")),
        IntOrString::String(text) => match text.strip_suffix('%').and_then(|p| p.parse::<u32>().ok()) {
            Some(_) => None,
            None => Some(format!("'{text}' is neither a number nor a percentage; 50% is taken")),
        },
    }
}

fn selectors(spec: &Spec) -> Result<(), Invalid> {
    if let Some((key, _)) = spec.node_selector.iter().find(|(_, v)| !is_label_value(v)) {
        let why = "nodeSelector values must be valid label values";
        return Err(Invalid::new(format!("nodeSelector.{key}"), why));
    }
    spec.selector
        .as_ref()
        .map_or(Ok(()), selector)
        .map_err(|e| e.under("selector"))
}

/// As the apiserver checks selectors of its own objects.
fn selector(selector: &LabelSelector) -> Result<(), Invalid> {
    for (i, e) in selector.match_expressions.iter().flatten().enumerate() {
        let listed = e.values.as_ref().is_some_and(|v| !v.is_empty());
        let why = match e.operator.as_str() {
            "In" | "NotIn" if !listed => "In and NotIn need values",
            "Exists" | "DoesNotExist" if listed => "Exists and DoesNotExist take no values",
            "In" | "NotIn" | "Exists" | "DoesNotExist" => continue,
            _ => "the operator is one of In, NotIn, Exists, DoesNotExist",
        };
        return Err(Invalid::new(format!("matchExpressions[{i}]"), why));
    }
    let bad = selector.match_labels.iter().flatten().find(|(_, v)| !is_label_value(v));
    bad.map_or(Ok(()), |(key, _)| {
        Err(Invalid::new(format!("matchLabels.{key}"), "not a valid label value"))
    })
}

/// Empty, or at most 63 letters, digits, `-`, `_`, `.`, with letters or digits at both ends.
fn is_label_value(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
