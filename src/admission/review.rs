//! From an AdmissionReview to its answer. Pure.

use jiff::Timestamp;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::core::{DynamicObject, Object};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::check;

/// When a policy was last written, in nanoseconds since 1970, as kubernetes-nmstate noted it.
const ANNOTATION_TIMESTAMP: &str = "nmstate.io/webhook-mutating-timestamp";
const KIND: &str = "NodeNetworkConfigurationPolicy";
/// Most faults or warnings in one answer; the apiserver cuts more than 4 KiB of warnings.
const SHOWN: usize = 10;

/// A policy as somebody wrote it, its spec still text.
type Written<'t> = Object<Option<&'t RawValue>, Value>;

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It may pass.
    Allowed,
    /// It may pass, with remarks.
    Warned,
    /// It may not.
    Denied,
    /// This was no request.
    Error,
}

impl Outcome {
    /// Every one.
    pub const ALL: [Outcome; 4] = [Outcome::Allowed, Outcome::Warned, Outcome::Denied, Outcome::Error];

    /// As a label.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Warned => "warned",
            Outcome::Denied => "denied",
            Outcome::Error => "error",
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether it may be stored.
    Validate,
    /// What is to be added.
    Mutate,
}

/// Answers; an error is the caller's fault, in one sentence.
pub fn answer(
    question: Question,
    body: &[u8],
    now: Timestamp,
) -> Result<(AdmissionReview<DynamicObject>, Outcome), String> {
    let review: AdmissionReview<Written> =
        serde_json::from_slice(body).map_err(|e| format!("this is no AdmissionReview: {e}"))?;
    let mut request: AdmissionRequest<Written> = review
        .try_into()
        .map_err(|_| "this AdmissionReview has no request".to_owned())?;
    let response = AdmissionResponse::from(&request);
    let Some(object) = request.object.take().filter(|_| concerns_us(&request)) else {
        return Ok((response.into_review(), Outcome::Allowed));
    };
    let (response, outcome) = match question {
        Question::Validate => validate(response, &request, object),
        Question::Mutate => (mutate(response, &request, &object, now), Outcome::Allowed),
    };
    Ok((response.into_review(), outcome))
}

fn concerns_us(request: &AdmissionRequest<Written>) -> bool {
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    written && request.kind.kind == KIND && request.sub_resource.as_deref().unwrap_or("").is_empty()
}

fn spec<'t>(object: &Written<'t>) -> &'t str {
    object.spec.map_or("null", RawValue::get)
}

/// What changes nothing of the spec passes: what was stored under other rules can still be labelled, and let go. (The apiserver prints the old one and
/// the new one alike.)
fn keeps_spec(request: &AdmissionRequest<Written>, object: &Written) -> bool {
    request.old_object.as_ref().is_some_and(|old| spec(old) == spec(object))
}

fn validate(
    mut response: AdmissionResponse,
    request: &AdmissionRequest<Written>,
    object: Written,
) -> (AdmissionResponse, Outcome) {
    if keeps_spec(request, &object) {
        return (response, Outcome::Allowed);
    }
    // a name that the apiserver makes up is not there yet
    let name = object.metadata.name.as_deref().unwrap_or(&request.name);
    let found = check::policy(name, spec(&object));
    if !found.warnings.is_empty() {
        response.warnings = Some(found.warnings.iter().take(SHOWN).cloned().collect());
    }
    if found.faults.is_empty() {
        let outcome = if found.warnings.is_empty() {
            Outcome::Allowed
        } else {
            Outcome::Warned
        };
        return (response, outcome);
    }
    let faults: Vec<String> = found.faults.iter().take(SHOWN).map(ToString::to_string).collect();
    let mut response = response.deny(faults.join("\n"));
    // as the apiserver says it of its own objects
    response.result.code = 422;
    response.result.reason = "Invalid".to_owned();
    (response, Outcome::Denied)
}

/// Notes when the policy changed. A write that changes nothing stays one: the note is kept as it was.
fn mutate(
    response: AdmissionResponse,
    request: &AdmissionRequest<Written>,
    object: &Written,
    now: Timestamp,
) -> AdmissionResponse {
    let noted = |o: &Written| o.metadata.annotations.as_ref()?.get(ANNOTATION_TIMESTAMP).cloned();
    let before = request.old_object.as_ref().and_then(noted);
    let note = match before {
        Some(before) if keeps_spec(request, object) => before,
        _ => now.as_nanosecond().to_string(),
    };
    if noted(object).as_ref() == Some(&note) {
        return response;
    }
    let pointer = ANNOTATION_TIMESTAMP.replace('/', "~1");
    let mut patch = vec![json!({"op": "add", "path": format!("/metadata/annotations/{pointer}"), "value": note})];
    if object.metadata.annotations.is_none() {
        patch.insert(0, json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    let patch = serde_json::from_value(Value::Array(patch));
    let patched = patch.ok().and_then(|patch| response.clone().with_patch(patch).ok());
    patched.unwrap_or(response)
}
