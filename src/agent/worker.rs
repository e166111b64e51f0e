//! The one worker: takes the policies in order, asks for a slot, applies, reports. At most four writes on an enactment: create, slot
//! (the controller's), progress, result. What follows later is in `drift` (the node changes) and `undo` (the policy is gone); `enactment` writes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, info, info_span, warn};

use crate::api::condition::{self, Enacting, WAITING};
use crate::api::nnce::{self, NodeNetworkConfigurationEnactmentStatus as Status};
use crate::api::nncp::Mode;
use crate::api::{
    LABEL_POLICY, NodeNetworkConfigurationEnactment as Enactment, NodeNetworkConfigurationPolicy as Policy,
};
use crate::capture::{self, Captured};
use crate::clock;
use crate::error::{ErrorKind, HostError, Invalid, chain};
use crate::host::Host;
use crate::journal::Recovered;
use crate::metrics;
use crate::observation::Observation;
use crate::plan::{self, Plan, revert};
use crate::probe::Prober;
use crate::state::{NetworkState, features};
use crate::transaction::{self, Options, Outcome, Phase, Report};

use super::apiserver::Apiserver;
use super::events::{Events, Reason};
use super::inverse::{self, Inverses};
use super::{Config, decide, defaults, patch, stop_signal};

pub(super) mod drift;
mod enactment;
mod undo;

/// No call but a watch may take longer.
const CALL: Duration = Duration::from_secs(10);
/// How long the slot lasts from each renewal on: a node that dies at work is given up after this time.
const WORK: SignedDuration = SignedDuration::from_secs(60);
/// How often the slot is renewed while work goes on.
const RENEW: Duration = Duration::from_secs(20);
/// By how much a renewal puts off the end of the slot at least.
const LEAST: SignedDuration = SignedDuration::from_secs(1);
/// Pause before something that did not work is tried again.
const AGAIN: Duration = Duration::from_secs(2);
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
pub struct Worker<H> {
    config: Config,
    apiserver: Apiserver,
    stores: Stores,
    host: H,
    prober: Prober,
    recovered: Option<Recovered>,
    /// Policies that were found in place, by name, with their generation.
    settled: HashMap<String, i64>,
    /// This generation not before this time.
    retry_at: HashMap<String, (i64, Instant)>,
    /// For which generation and since when a policy waits for a slot.
    waiting: HashMap<String, (i64, Instant)>,
    /// Policies whose enactments were there at the last pass.
    there: BTreeSet<String>,
    /// Statuses that we wrote and the watch may not have brought back yet.
    written: HashMap<String, Status>,
    /// `metadata.uid` of the policies that the above is about.
    uids: HashMap<String, Option<String>>,
    /// The reading that serves this pass, until something is changed.
    view: Option<Arc<Observation>>,
    drift: drift::Watch,
    events: Events,
    inverses: Inverses,
}

impl<H: Host> Worker<H> {
    /// All that it needs.
    pub fn new(
        config: Config,
        apiserver: Apiserver,
        stores: Stores,
        host: H,
        prober: Prober,
        recovered: Option<Recovered>,
    ) -> Self {
        Worker {
            events: Events::new(apiserver.clone(), &config.node_name),
            inverses: Inverses::in_dir(&config.state_dir),
            view: None,
            drift: drift::Watch::default(),
            config,
            apiserver,
            stores,
            host,
            prober,
            recovered,
            settled: HashMap::new(),
            retry_at: HashMap::new(),
            waiting: HashMap::new(),
            there: BTreeSet::new(),
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
            () = ready => crate::serve::health().ready(),
            () = stop_signal() => return Ok(()),
        }
        self.inverses.keep_only(|policy| self.status(policy).is_some());
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
                () = self.node_changed() => {}
                () = stop_signal() => return Ok(()),
            }
        }
    }

    /// One reading for all that is asked between two changes.
    async fn look(&mut self) -> Result<Arc<Observation>, HostError> {
        if let Some(view) = &self.view {
            return Ok(view.clone());
        }
        let seen = Arc::new(self.host.observe().await?);
        self.view = Some(seen.clone());
        Ok(seen)
    }

    /// One look at every policy; gives the shortest time after which one wants another.
    async fn pass(&mut self) -> Option<Duration> {
        let node = self.node()?;
        let mut policies = self.stores.policies.state();
        policies.sort_by_key(|p| (-p.spec.priority.unwrap_or(0), p.name_any()));
        self.forget_gone(policies.iter().map(|p| (p.name_any(), p.uid())).collect());
        self.ask_anew();
        self.view = None;
        let mut soonest = None;
        let mut note = |name: &str, next: Result<Next, kube::Error>| match next {
            Ok(Next::Rest) => {}
            Ok(Next::In(after)) => soonest = Some(soonest.map_or(after, |s: Duration| s.min(after))),
            Err(e) => {
                warn!(policy = name, phase = "report", "{}", chain(&e));
                soonest = Some(Duration::from_secs(2));
            }
        };
        self.weigh(&policies, &node).await;
        // what is gone makes room for what is there
        for gone in self.left_behind() {
            let next = self.undo(&gone, &self.prober.clone()).await;
            note(&gone.name_any(), next);
        }
        self.drift.begin_pass();
        for policy in policies {
            let span = info_span!(
                "reconcile",
                enactment = nnce::name(&self.config.node_name, &policy.name_any())
            );
            let next = self.policy(&policy, &node).instrument(span).await;
            note(&policy.name_any(), next);
        }
        self.drift.soonest(soonest)
    }

    /// What we remember of a policy that is gone must not be held against one of the same name.
    fn forget_gone(&mut self, now: HashMap<String, Option<String>>) {
        let before = std::mem::replace(&mut self.uids, now);
        for (name, _) in before.iter().filter(|(name, uid)| self.uids.get(*name) != Some(uid)) {
            self.settled.remove(name);
            self.retry_at.remove(name);
            self.waiting.remove(name);
            self.written.remove(name);
            self.drift.forget(name);
        }
    }

    /// Whoever waits for a slot with an enactment that somebody has deleted would wait in vain.
    fn ask_anew(&mut self) {
        let all = self.stores.enactments.state();
        let there = all
            .iter()
            .filter_map(|e| e.labels().get(LABEL_POLICY).cloned())
            .collect();
        for gone in std::mem::replace(&mut self.there, there) {
            if !self.there.contains(&gone) {
                self.waiting.remove(&gone);
            }
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

    async fn policy(&mut self, policy: &Policy, node: &capture::Node) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation.unwrap_or(0);
        if self.is_of_another(policy) {
            // its end wakes us
            return self.leave(&name).await;
        }
        let status = self.status(&name);
        if !policy.spec.matches(&node.labels) {
            return self.not_meant(policy, status.as_ref()).await;
        }
        if policy.spec.paused == Some(true) {
            return Ok(Next::Rest);
        }
        if status.as_ref().is_some_and(Status::is_inherited) {
            return self.leave(&name).await;
        }
        if let Some(why) = self.drift.gives_way(&name) {
            return self.give_way(policy, status.unwrap_or_default(), why).await;
        }
        if status.as_ref().is_some_and(decide::gives_way) {
            self.settled.remove(&name);
        }
        let known = status.as_ref().filter(|s| decide::is_available(s, generation));
        let settled = self.settled.get(&name) == Some(&generation);
        if let Some(status) = status.as_ref().filter(|_| settled).or(known)
            && self.recovered.as_ref().is_none_or(|r| r.policy != name)
        {
            self.settled.insert(name, generation);
            return self.compare(policy, status.clone(), node).await;
        }
        let status = status.unwrap_or_default();
        if let Some(found) = self.recovered.take_if(|r| r.policy == name) {
            return self.crashed(policy, status, found).await;
        }
        if decide::is_final(&status, generation) {
            self.ended(policy, &status);
            return Ok(Next::Rest);
        }
        match self.not_before(&name, &status, generation) {
            Some(pause) => Ok(Next::In(pause)),
            None => self.attempt(policy, status, node).await,
        }
    }

    /// A policy that does not select this node, or not any more.
    async fn not_meant(&mut self, policy: &Policy, status: Option<&Status>) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        self.settled.remove(&name);
        match status {
            Some(status) if status.reverts() && policy.spec.paused == Some(true) => Ok(Next::Rest),
            Some(status) if status.reverts() => {
                let prober = self.prober.with_overrides(&policy.spec.probes);
                self.undo(policy, &prober.unwrap_or_else(|_| self.prober.clone())).await
            }
            Some(_) => self.delete(&name).await.map(|()| Next::Rest),
            None => Ok(Next::Rest),
        }
    }

    /// This generation of the policy is through with this node. That the controller has aborted it, it is for us to tell.
    fn ended(&mut self, policy: &Policy, status: &Status) {
        let name = policy.name_any();
        if self.waiting.remove(&name).is_some() && condition::is_true(&status.conditions, "Aborted") {
            let object = nnce::name(&self.config.node_name, &name);
            let note = format!("reconciliation of enactment \"{object}\" has aborted");
            self.events.tell(policy, Reason::ReconcileFailed, &note);
        }
        self.settled.insert(name, policy.metadata.generation.unwrap_or(0));
    }

    /// How long there is nothing to try yet: after a failure, or as whoever asked for a slot has nothing to look at until it is granted.
    fn not_before(&self, name: &str, status: &Status, generation: i64) -> Option<Duration> {
        let retry = self.retry_at.get(name).filter(|(g, _)| *g == generation);
        let pause = retry.map(|(_, at)| at.saturating_duration_since(Instant::now()));
        let asked = self.waiting.get(name).filter(|(g, _)| *g == generation);
        let asked = asked.filter(|_| !decide::has_slot(status, generation));
        let patience = asked.map(|(_, since)| PATIENCE.saturating_sub(since.elapsed()));
        let any = |pause: &Duration| !pause.is_zero();
        pause.filter(any).or(patience.filter(any))
    }

    async fn attempt(&mut self, policy: &Policy, status: Status, node: &capture::Node) -> Result<Next, kube::Error> {
        let start = clock::now();
        let begin = Instant::now();
        let mut status = status;
        if status.policy_generation != policy.metadata.generation {
            // what differs from an older wish is not drift from this one
            status.drift = None;
        }
        let seen = match self.look().await {
            Ok(seen) => seen,
            Err(e) => return self.report(policy, status, start, &blind(&e)).await,
        };
        let wish = self.wish(policy, node, &status, &seen, start);
        let planned = wish.and_then(|wish| Ok((plan_of(&wish, &seen)?, wish)));
        let (plan, wish) = match planned {
            Ok(all) => all,
            Err(fault) => {
                return self
                    .report(policy, status, start, &report(Outcome::Refused(fault), begin))
                    .await;
            }
        };
        let Rendered { json, state, captured } = wish.rendered;
        let prober = wish.prober;
        let status = Status {
            desired_state: Some(json),
            captured_states: captured,
            plan: plan.lines.clone(),
            features: features::of(&state).into_iter().map(str::to_owned).collect(),
            ..status
        };
        if plan.is_empty() {
            return self.in_place(policy, status, &plan.warnings).await;
        }
        if policy.spec.mode == Some(Mode::Plan) {
            let message = format!("mode is Plan: {} differences, nothing is changed", plan.lines.len());
            return self.finish(policy, status, &Enacting::Planned(message)).await;
        }
        if !decide::has_slot(&status, policy.metadata.generation.unwrap_or(0)) {
            return self.ask_for_slot(policy, status).await;
        }
        let mut status = status;
        let before = status.revert_state.clone();
        match self.inverse(&policy.name_any(), &status, &state, &seen) {
            Ok(inverse) => status.revert_state = Some(inverse),
            Err(why) => warn!(
                policy = policy.name_any(),
                phase = "plan",
                "it could not be undone: {why}"
            ),
        }
        let generation = policy.metadata.generation.unwrap_or(0);
        let Some(mut status) = self.begin(policy, status, &Enacting::Progressing, generation).await? else {
            return Ok(Next::In(AGAIN)); // what came in between wakes us earlier
        };
        if let Some((_, since)) = self.waiting.remove(&policy.name_any()) {
            metrics::agent().slot_granted(since.elapsed());
        }
        self.host.set_policy(&policy.name_any());
        let options = Options {
            policy: policy.name_any(),
            ..Options::default()
        };
        let done = tokio::select! {
            done = transaction::run(&self.host, &prober, &state, &options) => done,
            never = self.renew(policy, &status) => match never {},
        };
        self.view = None;
        self.drift.stir();
        if !matches!(done.outcome, Outcome::Applied | Outcome::Stuck { .. }) {
            status.revert_state = before;
        }
        if !plan.goes.is_empty() {
            self.follow_addresses(&seen).await;
        }
        self.report(policy, status, start, &done).await
    }

    /// What a policy wants of this node as it is.
    fn wish(
        &self,
        policy: &Policy,
        node: &capture::Node,
        status: &Status,
        seen: &Observation,
        now: Timestamp,
    ) -> Result<Wish, Invalid> {
        let prober = self.prober.with_overrides(&policy.spec.probes);
        let before = decide::captures_to_keep(status, &policy.spec.capture);
        Ok(Wish {
            prober: prober.map_err(|e| e.under("spec"))?,
            rendered: render(policy, node, seen, before, now)?,
        })
    }

    /// What leads back to before this change, and to before the earlier ones of this policy.
    fn inverse(
        &self,
        policy: &str,
        status: &Status,
        state: &NetworkState,
        seen: &Observation,
    ) -> Result<Value, Invalid> {
        let read = |shown: &Value| {
            let earlier = self.inverses.read(policy, shown);
            earlier.or_else(|_| NetworkState::from_json(shown.clone()))
        };
        let earlier = status.revert_state.as_ref().map(read).transpose()?;
        let all = revert::since(earlier.as_ref(), state, seen)?;
        let kept = self.inverses.keep(policy, &all);
        kept.map_err(|e| Invalid::new("status.revertState", format!("its secrets cannot be kept: {e}")))?;
        Ok(inverse::published(&all))
    }

    /// Says that work begins, on condition that the slot was not taken back meanwhile. None where something came in between.
    async fn begin(
        &mut self,
        policy: &Policy,
        status: Status,
        how: &Enacting,
        generation: i64,
    ) -> Result<Option<Status>, kube::Error> {
        let name = nnce::name(&self.config.node_name, &policy.name_any());
        let seen = self.stores.enactments.get(&ObjectRef::new(&name));
        let slot = seen.as_ref().and_then(|e| e.status.as_ref()?.slot.clone());
        let status = Status {
            slot: slot.map(renewed),
            ..status
        };
        if !decide::has_slot(&status, generation) {
            return Ok(None);
        }
        let version = seen.and_then(|e| e.resource_version());
        match self.write_to(policy, status, how, version).await {
            Ok(status) => Ok(Some(status)),
            Err(kube::Error::Api(e)) if e.code == 409 || e.code == 404 => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Connects anew where an address of the node is gone.
    async fn follow_addresses(&self, before: &Observation) {
        let Ok(now) = self.host.observe().await else { return };
        let there = |ip| now.facts.addresses.iter().any(|a| a.ip == ip);
        if before.facts.addresses.iter().any(|a| !there(a.ip)) {
            self.apiserver.connect_anew();
            self.events.begin_anew();
        }
    }

    /// Puts off the end of the slot as long as it is polled. A node that has lost its way to the apiserver loses the slot, too; one whose
    /// enactment somebody deletes meanwhile does not.
    async fn renew(&self, policy: &Policy, status: &Status) -> std::convert::Infallible {
        let api: Api<Enactment> = Api::all(self.apiserver.now());
        let name = nnce::name(&self.config.node_name, &policy.name_any());
        let mut slot = status.slot.clone().unwrap_or_default();
        let (mut pause, mut gone) = (RENEW, false);
        loop {
            sleep(pause).await;
            slot = renewed(slot);
            let mut renewal = json!({ "slot": { "expires": slot.expires } });
            if gone && self.exists(policy) && self.post(policy, false).await.is_ok() {
                let slot = Some(slot.clone());
                renewal = json!(Status { slot, ..status.clone() });
                patch::fit(&mut renewal);
            }
            let (params, patch) = (PatchParams::default(), Patch::Merge(json!({ "status": renewal })));
            let done = timeout(CALL, api.patch_status(&name, &params, &patch)).await;
            (pause, gone) = match &done {
                Ok(Ok(_)) => (RENEW, false),
                Ok(Err(kube::Error::Api(e))) if e.code == 404 && !gone => (Duration::ZERO, true),
                _ => (AGAIN, gone),
            };
        }
    }

    /// Nothing differs. Says so once, and writes nothing where it was said before.
    async fn in_place(&mut self, policy: &Policy, status: Status, warnings: &[String]) -> Result<Next, kube::Error> {
        let status = Status { drift: None, ..status };
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
        metrics::agent().ended(&Outcome::Unchanged, Duration::ZERO);
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
        self.write(policy, status, &Enacting::Pending(message)).await?;
        Ok(Next::In(PATIENCE))
    }

    async fn crashed(&mut self, policy: &Policy, status: Status, found: Recovered) -> Result<Next, kube::Error> {
        self.report(policy, status, clock::now(), &crash(found)).await
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
        self.tell_failure(policy, done, &how, decide::failures(&status, generation) + 1);
        if let Enacting::Success(message) = &mut how
            && !done.warnings.is_empty()
        {
            *message = format!("{message}; {}", done.warnings.join("; "));
        }
        let status = Status {
            drift: status.drift.clone().filter(|_| !matches!(how, Enacting::Success(_))),
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

    /// Events of an attempt that went wrong.
    fn tell_failure(&self, policy: &Policy, done: &Report, how: &Enacting, tries: usize) {
        if let Outcome::Failed { phase, cause, .. } = &done.outcome
            && phase.touches()
        {
            self.events
                .tell(policy, Reason::RolledBack, &format!("{}: {cause}", phase.word()));
        } else if let Outcome::ProbeFailed { cause } = &done.outcome {
            self.events.tell(policy, Reason::RolledBack, cause);
        }
        if let Enacting::Failed(message) | Enacting::NotReverted(message) = how {
            let object = nnce::name(&self.config.node_name, &policy.name_any());
            let note = format!("reconciliation of enactment \"{object}\" has failed after {tries} retries: {message}");
            self.events.tell(policy, Reason::ReconcileFailed, &note);
        }
    }

    async fn finish(&mut self, policy: &Policy, status: Status, how: &Enacting) -> Result<Next, kube::Error> {
        self.write(policy, status, how).await?;
        self.settled
            .insert(policy.name_any(), policy.metadata.generation.unwrap_or(0));
        self.retry_at.remove(&policy.name_any());
        Ok(Next::Rest)
    }
}

/// Lasts longer than before, whatever our clock says: a renewal must be seen as one.
fn renewed(slot: nnce::Slot) -> nnce::Slot {
    let usual = clock::now() + WORK;
    let least = slot.expires.parse().map(|end: Timestamp| end + LEAST);
    let expires = least.map_or(usual, |least| least.max(usual)).to_string();
    nnce::Slot { expires, ..slot }
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
    metrics::agent().ended(&outcome, begin.elapsed());
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

/// What a policy wants of this node, and how it is proven.
struct Wish {
    prober: Prober,
    rendered: Rendered,
}

fn plan_of(wish: &Wish, seen: &Observation) -> Result<Plan, Invalid> {
    plan::plan(&wish.rendered.state, seen).map_err(|e| e.under("spec.desiredState"))
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
