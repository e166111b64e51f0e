//! Our enactments as objects of the apiserver: read with what we wrote ourselves, written until it is delivered, made, deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{CALL, Status, Worker};
use crate::agent::{patch, stop_signal};
use crate::api::condition::{self, Condition, Enacting};
use crate::api::nncp::OnDelete;
use crate::api::{
    ANNOTATION_FULL_NAME, ANNOTATION_POLICY_UID, ANNOTATION_WAITING, LABEL_NODE, LABEL_POLICY,
    NodeNetworkConfigurationEnactment as Enactment, NodeNetworkConfigurationPolicy as Policy, label_value, nnce,
};
use crate::clock;
use crate::error::chain;
use crate::host::Host;
use crate::metrics;

impl<H: Host> Worker<H> {
    /// Our enactment of a policy, with what we wrote ourselves.
    pub(super) fn status(&self, policy: &str) -> Option<Status> {
        let name = nnce::name(&self.config.node_name, policy);
        let object = self.stores.enactments.get(&ObjectRef::new(&name))?;
        let seen = object.status.clone().unwrap_or_default();
        let Some(ours) = self.written.get(policy) else {
            return Some(seen);
        };
        // the slot is the controller's to write, the rest is ours
        Some(Status {
            slot: seen.slot.clone(),
            conditions: conditions_of(&seen, ours),
            ..ours.clone()
        })
    }

    /// Writes a status until it is delivered: the result of a change must not be lost because the apiserver is away.
    pub(super) async fn write(
        &mut self,
        policy: &Policy,
        status: Status,
        how: &Enacting,
    ) -> Result<Status, kube::Error> {
        self.write_to(policy, status, how, None).await
    }

    /// The same; refused where `version` is given and the enactment is at another one.
    pub(super) async fn write_to(
        &mut self,
        policy: &Policy,
        status: Status,
        how: &Enacting,
        version: Option<String>,
    ) -> Result<Status, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation;
        let mut status = Status {
            policy_generation: generation,
            observed_generation: generation,
            on_delete: policy.spec.on_delete.filter(|o| *o == OnDelete::Revert),
            ..status
        };
        status.conditions = conditions(&status, how);
        let before = self.status(&name).unwrap_or_default();
        metrics::agent().conditions(&before.conditions, &status.conditions);
        let ours = changes(&before, &status, how);
        let body = match version {
            Some(_) => json!({ "metadata": { "resourceVersion": version }, "status": ours }),
            None => json!({ "status": ours }),
        };
        self.deliver(policy, &body).await?;
        self.written.insert(name, status.clone());
        Ok(status)
    }

    /// Sends the change of a status until the apiserver has it or we are told to stop.
    async fn deliver(&mut self, policy: &Policy, body: &Value) -> Result<(), kube::Error> {
        let name = policy.name_any();
        let conditional = body.get("metadata").is_some();
        let object = nnce::name(&self.config.node_name, &name);
        let api: Api<Enactment> = Api::all(self.apiserver.now());
        let mut pause = Duration::from_millis(100);
        let (mut failed, mut told) = (String::new(), String::new());
        loop {
            let patch = Patch::Merge(body);
            match timeout(CALL, api.patch_status(&object, &PatchParams::default(), &patch)).await {
                Ok(Ok(_)) => break,
                // nobody waits for the result of a policy that is gone
                Ok(Err(kube::Error::Api(e))) if e.code == 404 && !conditional && !self.exists(policy) => break,
                Ok(Err(kube::Error::Api(e))) if e.code == 404 && !conditional => self.create(policy, false).await?,
                Ok(Err(kube::Error::Api(e))) if (400..500).contains(&e.code) && e.code != 429 => {
                    return Err(kube::Error::Api(e));
                }
                Ok(Err(e)) => failed = chain(&e),
                Err(_) => failed = "no answer".to_owned(),
            }
            // once, not at every try
            if failed != told {
                warn!(
                    policy = name,
                    phase = "report",
                    "the result cannot be delivered yet: {failed}"
                );
                told.clone_from(&failed);
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = stop_signal() => break,
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        Ok(())
    }

    /// The policy is there still, and no other one under its name.
    pub(super) fn exists(&self, policy: &Policy) -> bool {
        let now = self.stores.policies.get(&ObjectRef::from_obj(policy));
        now.is_some_and(|now| now.uid() == policy.uid())
    }

    pub(super) async fn create(&mut self, policy: &Policy, waiting: bool) -> Result<(), kube::Error> {
        self.written.remove(&policy.name_any());
        self.post(policy, waiting).await
    }

    pub(super) async fn post(&self, policy: &Policy, waiting: bool) -> Result<(), kube::Error> {
        let (node, name) = (&self.config.node_name, policy.name_any());
        let mut annotations = BTreeMap::new();
        if waiting {
            annotations.insert(
                ANNOTATION_WAITING.to_owned(),
                policy.metadata.generation.unwrap_or(0).to_string(),
            );
        }
        if let Some(uid) = policy.uid() {
            annotations.insert(ANNOTATION_POLICY_UID.to_owned(), uid);
        }
        if node.len() > 63 {
            annotations.insert(ANNOTATION_FULL_NAME.to_owned(), node.clone());
        }
        let labels = [
            (LABEL_POLICY.to_owned(), label_value(&name)),
            (LABEL_NODE.to_owned(), label_value(node)),
        ]
        .into();
        let object = Enactment {
            metadata: ObjectMeta {
                name: Some(nnce::name(node, &name)),
                labels: Some(labels),
                annotations: Some(annotations).filter(|a| !a.is_empty()),
                owner_references: self.owner().map(|o| vec![o]),
                ..ObjectMeta::default()
            },
            ..Enactment::default()
        };
        let api: Api<Enactment> = Api::all(self.apiserver.now());
        match timeout(CALL, api.create(&PostParams::default(), &object)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(e))) if e.code == 409 => Ok(()),
            Ok(Err(e)) => Err(e),
            Err(_) => Ok(()), // tried again at the next pass
        }
    }

    fn owner(&self) -> Option<OwnerReference> {
        let node = self.stores.node.state().into_iter().next()?;
        Some(OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.name_any(),
            uid: node.metadata.uid.clone()?,
            ..OwnerReference::default()
        })
    }

    pub(super) async fn delete(&mut self, policy: &str) -> Result<(), kube::Error> {
        let api: Api<Enactment> = Api::all(self.apiserver.now());
        self.written.remove(policy);
        self.inverses.forget(policy);
        let name = nnce::name(&self.config.node_name, policy);
        match timeout(CALL, api.delete(&name, &DeleteParams::default())).await {
            Ok(Err(kube::Error::Api(e))) if e.code == 404 => Ok(()),
            Ok(Err(e)) => Err(e),
            _ => Ok(()),
        }
    }
}

/// Ours, but for the one set that the controller writes: Aborted.
fn conditions_of(seen: &Status, ours: &Status) -> Vec<Condition> {
    let aborted = condition::is_true(&seen.conditions, "Aborted") && seen.policy_generation == ours.policy_generation;
    if aborted { &seen.conditions } else { &ours.conditions }.clone()
}

/// Its conditions when it is so.
fn conditions(status: &Status, how: &Enacting) -> Vec<Condition> {
    let now = clock::now().to_string();
    let mut conditions = condition::enactment(how, &status.conditions, &now);
    if matches!(how, Enacting::Success(_)) || status.drift.is_some() {
        let differences = status.drift.as_ref().map_or(&[][..], |d| &d.differences);
        conditions.push(condition::drifted(differences, &status.conditions, &now));
    }
    conditions
}

/// The merge patch from one status to another, no longer than etcd takes.
fn changes(before: &Status, status: &Status, how: &Enacting) -> Value {
    let mut ours = json!({
        "conditions": status.conditions, "policyGeneration": status.policy_generation,
        "observedGeneration": status.observed_generation,
        "desiredState": status.desired_state, "capturedStates": status.captured_states,
        "plan": status.plan, "probes": status.probes, "attempts": status.attempts,
        "drift": status.drift, "revertState": status.revert_state, "onDelete": status.on_delete,
        "features": status.features,
    });
    match how {
        Enacting::Progressing | Enacting::Reverting => {
            ours["slot"] = json!({ "expires": status.slot.as_ref().map(|slot| &slot.expires) });
        }
        Enacting::Pending(_) | Enacting::Retrying(_) => {}
        // given back; whoever has to work again asks again
        _ => ours["slot"] = json!(status.slot.clone().map(nnce::Slot::given_back)),
    }
    patch::fit(&mut ours);
    for (key, old) in [
        ("desiredState", &before.desired_state),
        ("capturedStates", &before.captured_states),
        ("revertState", &before.revert_state),
    ] {
        ours[key] = patch::merge(old.as_ref(), Some(&ours[key]));
    }
    ours
}
