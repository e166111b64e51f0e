//! What happened to a policy on this node, as Events on the policy: `kubectl describe nncp` shows them. Nobody waits for one to be delivered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Resource, ResourceExt};
use tokio::time::timeout;
use tracing::debug;

use crate::api::{
    NodeNetworkConfigurationEnactment as Enactment, NodeNetworkConfigurationPolicy as Policy, label_value, nnce,
};

use super::apiserver::Apiserver;

/// No call may take longer.
const CALL: Duration = Duration::from_secs(10);
/// The apiserver takes 1024 bytes.
const LONGEST: usize = 1000;
/// So many different ones are known, so that one that happens again is counted up and not told anew.
const KNOWN: usize = 100;

/// Why there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It failed for good, or was aborted.
    ReconcileFailed,
    /// A change was taken back.
    RolledBack,
    /// The node is not as the policy made it any more.
    Drifted,
    /// The policy is gone and what it changed is undone.
    Reverted,
    /// Another policy comes first.
    ConflictsWithPolicy,
}

/// Recorders by policy, reason and text: one counts up what it was told before, but shows the first text for all of one reason.
type Recorders = HashMap<(String, Reason, String), Recorder>;

/// Tells events.
#[derive(Clone)]
pub struct Events {
    apiserver: Apiserver,
    node: String,
    recorders: Arc<Mutex<Recorders>>,
}

impl Events {
    /// Of this node's agent.
    pub fn new(apiserver: Apiserver, node: &str) -> Self {
        Events {
            apiserver,
            node: node.to_owned(),
            recorders: Arc::default(),
        }
    }

    /// Connections have changed.
    pub fn begin_anew(&self) {
        self.known().clear();
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Recorders> {
        self.recorders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorder(&self, key: (String, Reason, String)) -> Recorder {
        let mut known = self.known();
        if known.len() >= KNOWN {
            known.clear();
        }
        let reporter = Reporter {
            // the name that the incumbent's events have; the apiserver wants 63 characters at most after the dot
            controller: label_value(&format!("{}.nmstate-handler", self.node)),
            instance: Some(self.node.clone()),
        };
        let new = || Recorder::new(self.apiserver.now(), reporter);
        known.entry(key).or_insert_with(new).clone()
    }

    /// Sends it and goes on.
    pub fn tell(&self, policy: &Policy, reason: Reason, note: &str) {
        let note = short(note);
        let recorder = self.recorder((policy.name_any(), reason, note.clone()));
        let event = Event {
            type_: match reason {
                Reason::Reverted => EventType::Normal,
                _ => EventType::Warning,
            },
            reason: format!("{reason:?}"),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: Some(ObjectReference {
                name: Some(nnce::name(&self.node, &policy.name_any())),
                api_version: Some(Enactment::api_version(&()).into_owned()),
                kind: Some(Enactment::kind(&()).into_owned()),
                ..ObjectReference::default()
            }),
        };
        let about = ObjectReference {
            // a version would make each edit another object
            resource_version: None,
            ..policy.object_ref(&())
        };
        tokio::spawn(async move {
            match timeout(CALL, recorder.publish(&event, &about)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => debug!("event {} was not taken: {e}", event.reason),
                Err(_) => debug!("event {} was not taken: no answer", event.reason),
            }
        });
    }
}

/// No longer than an event may be.
fn short(note: &str) -> String {
    if note.len() <= LONGEST {
        return note.to_owned();
    }
    let end = (0..=LONGEST).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
    format!("{} …", &note[..end])
}
