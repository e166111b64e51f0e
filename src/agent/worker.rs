//! The one worker: takes the policies in order, asks for a slot, applies, reports. At most four writes on an enactment: create, slot
//! (the controller's), progress, result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::api::condition::{self, Enacting, WAITING};
use crate::api::nnce::{self, NodeNetworkConfigurationEnactmentStatus as Status};
use crate::api::nncp::Mode;
use crate::api::{
    ANNOTATION_FULL_NAME, ANNOTATION_POLICY_UID, ANNOTATION_WAITING, LABEL_NODE, LABEL_POLICY,
    NodeNetworkConfigurationEnactment as Enactment, NodeNetworkConfigurationPolicy as Policy, label_value,
};
use crate::capture::{self, Captured};
use crate::error::{ErrorKind, Invalid, chain};
use crate::host::live::LiveHost;
use crate::host::{Host, HostError, Observation};
use crate::journal::Recovered;
use crate::plan;
use crate::probe::Prober;
use crate::state::NetworkState;
use crate::transaction::{self, Options, Outcome, Phase, Report};

use super::apiserver::Apiserver;
use super::{Config, decide, defaults, patch, stop_signal};

/// No call but a watch may take longer.
const CALL: Duration = Duration::from_secs(10);
/// How long the slot lasts from each renewal on: a node that dies at work is given up after this time.
const WORK: SignedDuration = SignedDuration::from_secs(60);
/// How often the slot is renewed while work goes on.
const RENEW: Duration = Duration::from_secs(20);
/// After this long without a slot the enactment says what it waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is watched.
pub struct Stores {
    /// All policies.
    pub policies: Store<Policy>,
    /// Our Node.
    pub node: Store<PartialObjectMeta<Node>>,
    /// Our enactments.
    pub enactments: Store<Enactment>,
}

/// What follows for a policy.
enum Next {
    /// Nothing until something changes.
    Rest,
    /// Again after this long, whatever happens.
    In(Duration),
}

/// The worker.
pub struct Worker {
    config: Config,
    apiserver: Apiserver,
    stores: Stores,
    host: LiveHost,
    prober: Prober,
    recovered: Option<Recovered>,
    /// Policies that were found in place, by name, with their generation.
    settled: HashMap<String, i64>,
    /// This generation not before this time.
    retry_at: HashMap<String, (i64, Instant)>,
    /// For which generation and since when a policy waits for a slot.
    waiting: HashMap<String, (i64, Instant)>,
    /// Statuses that we wrote and the watch may not have brought back yet.
    written: HashMap<String, Status>,
    /// `metadata.uid` of the policies that the above is about.
    uids: HashMap<String, Option<String>>,
}

impl Worker {
    /// All that it needs.
    pub fn new(
        config: Config,
        apiserver: Apiserver,
        stores: Stores,
        host: LiveHost,
        prober: Prober,
        recovered: Option<Recovered>,
    ) -> Self {
        Worker {
            config,
            apiserver,
            stores,
            host,
            prober,
            recovered,
            settled: HashMap::new(),
            retry_at: HashMap::new(),
            waiting: HashMap::new(),
            written: HashMap::new(),
            uids: HashMap::new(),
        }
    }

    /// Until it is told to stop.
    pub async fn run(mut self, wake: &Arc<Notify>) -> anyhow::Result<()> {
        let ready = async {
            let _ = self.stores.node.wait_until_ready().await;
            let _ = self.stores.policies.wait_until_ready().await;
            let _ = self.stores.enactments.wait_until_ready().await;
        };
        tokio::select! {
            () = ready => {}
            () = stop_signal() => return Ok(()),
        }
        loop {
            let next = self.pass().await;
            let pause = async {
                match next {
                    Some(after) => sleep(after).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wake.notified() => {}
                () = pause => {}
                () = stop_signal() => return Ok(()),
            }
        }
    }

    /// One look at every policy; gives the shortest time after which one wants another.
    async fn pass(&mut self) -> Option<Duration> {
        let node = self.node()?;
        let mut policies = self.stores.policies.state();
        policies.sort_by_key(|p| (-p.spec.priority.unwrap_or(0), p.name_any()));
        self.forget_gone(policies.iter().map(|p| (p.name_any(), p.uid())).collect());
        let mut soonest = None;
        for policy in policies {
            let name = policy.name_any();
            match self.policy(&policy, &node).await {
                Ok(Next::Rest) => {}
                Ok(Next::In(after)) => soonest = Some(soonest.map_or(after, |s: Duration| s.min(after))),
                Err(e) => {
                    warn!(policy = name, phase = "report", "{}", chain(&e));
                    soonest = Some(Duration::from_secs(2));
                }
            }
        }
        soonest
    }

    /// What we remember of a policy that is gone must not be held against one of the same name.
    fn forget_gone(&mut self, now: HashMap<String, Option<String>>) {
        let before = std::mem::replace(&mut self.uids, now);
        for (name, _) in before.iter().filter(|(name, uid)| self.uids.get(*name) != Some(uid)) {
            self.settled.remove(name);
            self.retry_at.remove(name);
            self.waiting.remove(name);
            self.written.remove(name);
        }
    }

    /// Our enactment of that name is about another policy.
    fn is_of_another(&self, policy: &Policy) -> bool {
        let name = nnce::name(&self.config.node_name, &policy.name_any());
        let object = self.stores.enactments.get(&ObjectRef::new(&name));
        object.is_some_and(|e| e.is_of_another(policy.uid().as_deref()))
    }

    fn node(&self) -> Option<capture::Node> {
        let object = self.stores.node.state().into_iter().next()?;
        Some(capture::Node {
            name: self.config.node_name.clone(),
            labels: object.labels().clone(),
            annotations: object.annotations().clone(),
        })
    }

    /// Our enactment of a policy, with what we wrote ourselves.
    fn status(&self, policy: &str) -> Option<Status> {
        let name = nnce::name(&self.config.node_name, policy);
        let object = self.stores.enactments.get(&ObjectRef::new(&name))?;
        let seen = object.status.clone().unwrap_or_default();
        let Some(ours) = self.written.get(policy) else {
            return Some(seen);
        };
        // the slot is the controller's to write, the rest is ours
        let newer_slot = seen
            .slot
            .clone()
            .filter(|s| ours.slot.as_ref().is_none_or(|o| s.granted > o.granted));
        Some(Status {
            slot: newer_slot.or_else(|| ours.slot.clone()),
            conditions: self.conditions(&seen, ours),
            ..ours.clone()
        })
    }

    /// The controller writes one condition set: Aborted.
    fn conditions(&self, seen: &Status, ours: &Status) -> Vec<condition::Condition> {
        let aborted =
            condition::is_true(&seen.conditions, "Aborted") && seen.policy_generation == ours.policy_generation;
        if aborted {
            seen.conditions.clone()
        } else {
            ours.conditions.clone()
        }
    }

    async fn policy(&mut self, policy: &Policy, node: &capture::Node) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation.unwrap_or(0);
        if self.is_of_another(policy) {
            self.delete(&name).await?;
            return Ok(Next::Rest); // its end wakes us
        }
        let status = self.status(&name);
        if !policy.spec.matches(&node.labels) {
            self.settled.remove(&name);
            if status.is_some() {
                self.delete(&name).await?;
            }
            return Ok(Next::Rest);
        }
        if policy.spec.paused == Some(true) || (self.settled.get(&name) == Some(&generation) && status.is_some()) {
            return Ok(Next::Rest);
        }
        let status = status.unwrap_or_default();
        if let Some(found) = self.recovered.take_if(|r| r.policy == name) {
            return self.crashed(policy, status, found).await;
        }
        if decide::is_final(&status, generation) {
            self.settled.insert(name, generation);
            return Ok(Next::Rest);
        }
        if let Some((g, at)) = self.retry_at.get(&name)
            && *g == generation
            && *at > Instant::now()
        {
            return Ok(Next::In(*at - Instant::now()));
        }
        // whoever asked for a slot has nothing to look at until it is granted
        let asked = self
            .waiting
            .get(&name)
            .filter(|(g, since)| *g == generation && since.elapsed() < PATIENCE);
        if let Some((_, since)) = asked
            && !decide::has_slot(&status, generation, Timestamp::now())
        {
            return Ok(Next::In(PATIENCE.saturating_sub(since.elapsed())));
        }
        self.attempt(policy, status, node).await
    }

    async fn attempt(&mut self, policy: &Policy, status: Status, node: &capture::Node) -> Result<Next, kube::Error> {
        let start = Timestamp::now();
        let begin = Instant::now();
        let seen = match self.host.observe().await {
            Ok(seen) => seen,
            // what was in place is taken to be so until it can be read
            Err(_) if decide::is_available(&status, policy.metadata.generation.unwrap_or(0)) => {
                return Ok(Next::In(super::LOOK_AGAIN));
            }
            Err(e) => return self.report(policy, status, start, &blind(&e)).await,
        };
        let prober = self
            .prober
            .with_overrides(&policy.spec.probes)
            .map_err(|e| e.under("spec"));
        let before = decide::captures_to_keep(&status, &policy.spec.capture);
        let rendered = prober.and_then(|prober| Ok((prober, render(policy, node, &seen, before, start)?)));
        let planned = rendered.and_then(|(prober, rendered)| {
            let plan = plan::plan(&rendered.state, &seen).map_err(|e| e.under("spec.desiredState"))?;
            Ok((prober, rendered, plan))
        });
        let (prober, Rendered { json, state, captured }, plan) = match planned {
            Ok(all) => all,
            Err(fault) => {
                return self
                    .report(policy, status, start, &report(Outcome::Refused(fault), begin))
                    .await;
            }
        };
        let status = Status {
            desired_state: Some(json),
            captured_states: captured,
            plan: plan.lines.clone(),
            ..status
        };
        if plan.is_empty() {
            return self.in_place(policy, status, &plan.warnings).await;
        }
        if policy.spec.mode == Some(Mode::Plan) {
            let message = format!("mode is Plan: {} differences, nothing is changed", plan.lines.len());
            return self.finish(policy, status, &Enacting::Pending(message)).await;
        }
        if !decide::has_slot(&status, policy.metadata.generation.unwrap_or(0), start) {
            return self.ask_for_slot(policy, status).await;
        }
        self.waiting.remove(&policy.name_any());
        let mut status = status;
        if let Some(slot) = &mut status.slot {
            slot.expires = (start + WORK).to_string();
        }
        let status = self.write(policy, status, &Enacting::Progressing).await?;
        self.host.set_policy(&policy.name_any());
        let options = Options {
            policy: policy.name_any(),
            ..Options::default()
        };
        let done = tokio::select! {
            done = transaction::run(&self.host, &prober, &state, &options) => done,
            never = self.renew(policy, &status) => match never {},
        };
        if !plan.goes.is_empty() {
            self.follow_addresses(&seen).await;
        }
        self.report(policy, status, start, &done).await
    }

    /// Connects anew where an address of the node is gone.
    async fn follow_addresses(&self, before: &Observation) {
        let Ok(now) = self.host.observe().await else { return };
        let there = |ip| now.facts.addresses.iter().any(|a| a.ip == ip);
        if before.facts.addresses.iter().any(|a| !there(a.ip)) {
            self.apiserver.connect_anew();
        }
    }

    /// Puts off the end of the slot as long as it is polled. A node that has lost its way to the apiserver loses the slot, too.
    async fn renew(&self, policy: &Policy, status: &Status) -> std::convert::Infallible {
        let api: Api<Enactment> = Api::all(self.apiserver.now());
        let name = nnce::name(&self.config.node_name, &policy.name_any());
        loop {
            sleep(RENEW).await;
            let expires = (Timestamp::now() + WORK).to_string();
            let slot = status.slot.clone().map(|slot| nnce::Slot { expires, ..slot });
            let patch = json!({ "status": { "slot": slot } });
            let _ = timeout(
                CALL,
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)),
            )
            .await;
        }
    }

    /// Nothing differs. Says so once, and writes nothing where it was said before.
    async fn in_place(&mut self, policy: &Policy, status: Status, warnings: &[String]) -> Result<Next, kube::Error> {
        let generation = policy.metadata.generation.unwrap_or(0);
        if decide::is_available(&status, generation) {
            self.settled.insert(policy.name_any(), generation);
            return Ok(Next::Rest);
        }
        let mut message = "successfully reconciled".to_owned();
        if !warnings.is_empty() {
            message = format!("{message}; {}", warnings.join("; "));
        }
        if policy
            .spec
            .desired_state
            .as_ref()
            .is_none_or(|s| s.as_object().is_some_and(serde_json::Map::is_empty))
        {
            "ignoring empty desired state".clone_into(&mut message);
        }
        info!(
            policy = policy.name_any(),
            phase = "plan",
            "in place already, nothing touched"
        );
        self.finish(policy, status, &Enacting::Success(message)).await
    }

    async fn ask_for_slot(&mut self, policy: &Policy, status: Status) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation.unwrap_or(0);
        let (asked, since) = *self.waiting.entry(name.clone()).or_insert((generation, Instant::now()));
        if asked != generation {
            self.waiting.insert(name.clone(), (generation, Instant::now()));
        }
        if self.status(&name).is_none() {
            self.create(policy, true).await?;
            info!(policy = name, phase = "slot", "asked for a slot");
            return Ok(Next::In(PATIENCE));
        }
        let pending = status.policy_generation == Some(generation) && condition::is_true(&status.conditions, "Pending");
        let created = status.conditions.is_empty();
        let long = since.elapsed() >= PATIENCE;
        let message = if long {
            format!(
                "{WAITING}; no slot was granted for {} s: is the controller running?",
                PATIENCE.as_secs()
            )
        } else {
            WAITING.to_owned()
        };
        let told = status
            .conditions
            .iter()
            .any(|c| c.type_ == "Pending" && c.message == message);
        if (pending && told) || (created && !long) {
            return Ok(if long {
                Next::Rest
            } else {
                Next::In(PATIENCE.saturating_sub(since.elapsed()))
            });
        }
        self.write(
            policy,
            Status {
                slot: status.slot.clone(),
                ..status
            },
            &Enacting::Pending(message),
        )
        .await?;
        Ok(Next::In(PATIENCE))
    }

    async fn crashed(&mut self, policy: &Policy, status: Status, found: Recovered) -> Result<Next, kube::Error> {
        self.report(policy, status, Timestamp::now(), &crash(found)).await
    }

    /// Publishes how an attempt went.
    async fn report(
        &mut self,
        policy: &Policy,
        status: Status,
        start: Timestamp,
        done: &Report,
    ) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation.unwrap_or(0);
        let (mut how, again) = decide::judge(done, &status, generation, &self.config, &self.config.node_name);
        if let Enacting::Success(message) = &mut how
            && !done.warnings.is_empty()
        {
            *message = format!("{message}; {}", done.warnings.join("; "));
        }
        let status = Status {
            attempts: decide::attempts(done, &status, generation, start),
            probes: done.probes.clone(),
            plan: if done.plan.is_empty() {
                status.plan.clone()
            } else {
                done.plan.clone()
            },
            ..status
        };
        match again {
            Some(after) => {
                // whoever waits says so once
                if !decide::says(&status, generation, &how) {
                    self.write(policy, status, &how).await?;
                }
                self.retry_at.insert(name, (generation, Instant::now() + after));
                Ok(Next::In(after))
            }
            None => self.finish(policy, status, &how).await,
        }
    }

    async fn finish(&mut self, policy: &Policy, status: Status, how: &Enacting) -> Result<Next, kube::Error> {
        self.write(policy, status, how).await?;
        self.settled
            .insert(policy.name_any(), policy.metadata.generation.unwrap_or(0));
        self.retry_at.remove(&policy.name_any());
        Ok(Next::Rest)
    }

    /// Writes a status until it is delivered: the result of a change must not be lost because the apiserver is away.
    async fn write(&mut self, policy: &Policy, status: Status, how: &Enacting) -> Result<Status, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation;
        let now = Timestamp::now().to_string();
        let status = Status {
            conditions: condition::enactment(how, &status.conditions, &now),
            policy_generation: generation,
            observed_generation: generation,
            ..status
        };
        let before = self.status(&name).unwrap_or_default();
        let mut ours = json!({
            "conditions": status.conditions, "policyGeneration": generation, "observedGeneration": generation,
            "desiredState": status.desired_state, "capturedStates": status.captured_states,
            "plan": status.plan, "probes": status.probes, "attempts": status.attempts, "slot": status.slot,
        });
        patch::fit(&mut ours);
        for (key, old) in [
            ("desiredState", &before.desired_state),
            ("capturedStates", &before.captured_states),
        ] {
            ours[key] = patch::merge(old.as_ref(), Some(&ours[key]));
        }
        let body = json!({ "status": ours });
        let object = nnce::name(&self.config.node_name, &name);
        let api: Api<Enactment> = Api::all(self.apiserver.now());
        let mut pause = Duration::from_millis(100);
        let (mut failed, mut told) = (String::new(), String::new());
        loop {
            let patch = Patch::Merge(&body);
            match timeout(CALL, api.patch_status(&object, &PatchParams::default(), &patch)).await {
                Ok(Ok(_)) => break,
                // nobody waits for the result of a policy that is gone
                Ok(Err(kube::Error::Api(e))) if e.code == 404 && !self.exists(policy) => break,
                Ok(Err(kube::Error::Api(e))) if e.code == 404 => self.create(policy, false).await?,
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
        self.written.insert(name, status.clone());
        Ok(status)
    }

    /// The policy is there still, and no other one under its name.
    fn exists(&self, policy: &Policy) -> bool {
        let now = self.stores.policies.get(&ObjectRef::from_obj(policy));
        now.is_some_and(|now| now.uid() == policy.uid())
    }

    async fn create(&mut self, policy: &Policy, waiting: bool) -> Result<(), kube::Error> {
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
        self.written.remove(&name);
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

    async fn delete(&mut self, policy: &str) -> Result<(), kube::Error> {
        let api: Api<Enactment> = Api::all(self.apiserver.now());
        self.written.remove(policy);
        let name = nnce::name(&self.config.node_name, policy);
        match timeout(CALL, api.delete(&name, &DeleteParams::default())).await {
            Ok(Err(kube::Error::Api(e))) if e.code == 404 => Ok(()),
            Ok(Err(e)) => Err(e),
            _ => Ok(()),
        }
    }
}

/// The node could not be read.
pub fn blind(e: &HostError) -> Report {
    let outcome = Outcome::Failed {
        phase: Phase::Observe,
        kind: e.kind(),
        cause: chain(e),
    };
    report(outcome, Instant::now())
}

/// A crash as the attempt that it ended.
pub fn crash(found: Recovered) -> Report {
    let cause = found.message;
    let outcome = match found.phase.unwrap_or(Phase::Execute) {
        // the node may have been off the network
        Phase::Probe => Outcome::ProbeFailed { cause },
        phase => Outcome::Failed {
            phase,
            kind: ErrorKind::Bug,
            cause,
        },
    };
    report(outcome, Instant::now())
}

fn report(outcome: Outcome, begin: Instant) -> Report {
    Report {
        outcome,
        plan: vec![],
        warnings: vec![],
        probes: vec![],
        held: None,
        before: None,
        duration: begin.elapsed(),
    }
}

/// A policy for this node.
pub struct Rendered {
    /// The desired state as published: templates filled in, default VLANs added.
    pub json: Value,
    /// The same, parsed.
    pub state: NetworkState,
    /// What the captures found; None where there are none.
    pub captured: Option<Value>,
}

/// Fills in the policy's desiredState. What captures found for an earlier attempt (`before`) is not looked for again.
pub fn render(
    policy: &Policy,
    node: &capture::Node,
    seen: &Observation,
    before: Option<Captured>,
    now: Timestamp,
) -> Result<Rendered, Invalid> {
    let expressions = &policy.spec.capture;
    let captured = match before {
        Some(found) => found,
        None if expressions.is_empty() => Captured::default(),
        None => {
            // what is captured is published, and is to be the same when it is read back from there
            let mut current = seen.state.clone();
            current.hide_secrets();
            let found = capture::evaluate(expressions, &current.to_json(), node).map_err(|e| e.under("spec"))?;
            found.of(expressions).at(&now.to_string())
        }
    };
    let empty = json!({});
    let desired = policy.spec.desired_state.as_ref().unwrap_or(&empty);
    let mut json = capture::fill(desired, &captured, node).map_err(|e| e.under("spec.desiredState"))?;
    if seen.facts.bridge_vlan_filtering != Some(false) {
        defaults::default_bridge_vlans(&mut json);
    } else if defaults::default_bridge_vlans(&mut json.clone()) {
        info!(
            policy = policy.name_any(),
            phase = "plan",
            "this kernel has no VLAN filtering on bridges: default trunk VLANs 2-4094 left out"
        );
    }
    let state = NetworkState::from_json(json.clone()).map_err(|e| e.under("spec.desiredState"))?;
    let captured = (!captured.is_empty()).then(|| captured.to_json());
    // whoever may read enactments need not know the keys
    NetworkState::hide_secrets_in(&mut json);
    Ok(Rendered { json, state, captured })
}
