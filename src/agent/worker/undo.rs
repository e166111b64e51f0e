//! What a policy changed is undone when it is gone, or does not mean this node any more, and said `onDelete: Revert`: in the same transaction,
//! with the same probes, and with a slot. The enactment holds what leads back, and goes when that is done.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use tracing::warn;

use super::{AGAIN, CALL, Next, PATIENCE, Status, Worker, crash, report};
use crate::agent::events::Reason;
use crate::agent::{LOOK_AGAIN, decide};
use crate::api::condition::{Enacting, WAITING};
use crate::api::nnce::UNDO;
use crate::api::nncp::{NodeNetworkConfigurationPolicySpec as Spec, OnDelete};
use crate::api::{ANNOTATION_POLICY_UID, LABEL_POLICY, NodeNetworkConfigurationPolicy as Policy, nnce};
use crate::clock;
use crate::error::{Invalid, chain};
use crate::host::Host;
use crate::observation::Observation;
use crate::plan::{self, Plan, conflict};
use crate::probe::Prober;
use crate::state::NetworkState;
use crate::transaction::{self, Options, Outcome, Report};

impl<H: Host> Worker<H> {
    /// Stand-ins for policies that are gone and have left something to undo here.
    pub(super) fn left_behind(&self) -> Vec<Policy> {
        let all = self.stores.enactments.state().into_iter();
        all.filter_map(|e| {
            let name = e.labels().get(LABEL_POLICY)?;
            let now = self.stores.policies.get(&ObjectRef::new(name));
            let gone = now.is_none_or(|policy| e.is_of_another(policy.uid().as_deref()));
            let status = e.status.as_ref().filter(|s| gone && s.reverts())?;
            let mut policy = Policy::new(
                name,
                Spec {
                    on_delete: Some(OnDelete::Revert),
                    ..Spec::default()
                },
            );
            policy.metadata.uid = e.annotations().get(ANNOTATION_POLICY_UID).cloned();
            policy.metadata.generation = status.policy_generation;
            (e.name_any() == nnce::name(&self.config.node_name, name)).then_some(policy)
        })
        .collect()
    }

    /// Makes room for another policy of the same name.
    pub(super) async fn leave(&mut self, policy: &str) -> Result<Next, kube::Error> {
        let undoing = |s: &Status| s.reverts() && !decide::is_not_reverted(s);
        if !self.status(policy).as_ref().is_some_and(undoing) {
            self.delete(policy).await?;
        }
        Ok(Next::Rest)
    }

    /// Undoes what a policy changed, as far as no other policy asks for it, and lets go of the enactment.
    pub(super) async fn undo(&mut self, policy: &Policy, prober: &Prober) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        let Some(status) = self.status(&name).filter(|s| !decide::is_not_reverted(s)) else {
            return Ok(Next::Rest);
        };
        let start = clock::now();
        let begin = Instant::now();
        if let Some(found) = self.recovered.take_if(|r| r.policy == name) {
            return self.not_undone(policy, status, start, &crash(found)).await;
        }
        if let Some((_, at)) = self.retry_at.get(&name).filter(|(g, at)| *g == UNDO && *at > begin) {
            return Ok(Next::In(*at - begin));
        }
        let seen = match self.look().await {
            Ok(seen) => seen,
            Err(e) => {
                warn!(policy = name, phase = "observe", "{}; undoing it waits", chain(&e));
                return Ok(Next::In(LOOK_AGAIN));
            }
        };
        let (back, plan) = match self.way_back(&name, &status, &seen) {
            Ok(way) => way,
            Err(fault) => {
                let refused = report(Outcome::Refused(fault), begin);
                return self.not_undone(policy, status, start, &refused).await;
            }
        };
        if plan.is_empty() {
            return self.undone(policy).await;
        }
        if !decide::has_slot(&status, UNDO) {
            let how = Enacting::Pending(WAITING.to_owned());
            if !decide::says(&status, policy.metadata.generation.unwrap_or(0), &how) {
                self.write(policy, status, &how).await?;
            }
            return Ok(Next::In(PATIENCE));
        }
        let Some(status) = self.begin(policy, status, &Enacting::Reverting, UNDO).await? else {
            return Ok(Next::In(AGAIN)); // what came in between wakes us earlier
        };
        self.host.set_policy(&name);
        let options = Options {
            policy: name,
            ..Options::default()
        };
        let done = tokio::select! {
            done = transaction::run(&self.host, prober, &back, &options) => done,
            never = self.renew(policy, &status) => match never {},
        };
        self.view = None;
        self.drift.stir();
        if !plan.goes.is_empty() {
            self.follow_addresses(&seen).await;
        }
        match done.outcome {
            Outcome::Applied | Outcome::Unchanged => self.undone(policy).await,
            _ => self.not_undone(policy, status, start, &done).await,
        }
    }

    /// The document that leads back, without what other policies ask for.
    fn way_back(&self, policy: &str, status: &Status, seen: &Observation) -> Result<(NetworkState, Plan), Invalid> {
        let shown = status.revert_state.clone().unwrap_or_default();
        let others: Vec<_> = self.drift.asked.iter().map(|(_, asked)| asked).collect();
        let back = conflict::give_way(self.inverses.read(policy, &shown)?, &others);
        let plan = plan::plan(&back, seen).map_err(|e| e.under("status.revertState"))?;
        Ok((back, plan))
    }

    async fn undone(&mut self, policy: &Policy) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        self.delete(&name).await?;
        // until the watch brings its end
        self.retry_at.insert(name.clone(), (UNDO, Instant::now() + CALL));
        let note = format!("node {} is as it was before policy {name}", self.config.node_name);
        self.events.tell(policy, Reason::Reverted, &note);
        Ok(Next::Rest)
    }

    async fn not_undone(
        &mut self,
        policy: &Policy,
        status: Status,
        start: Timestamp,
        done: &Report,
    ) -> Result<Next, kube::Error> {
        let (how, again) = decide::judge(done, &status, UNDO, &self.config, &self.config.node_name);
        let how = match how {
            Enacting::Failed(why) => Enacting::NotReverted(why),
            other => other,
        };
        self.tell_failure(policy, done, &how, decide::failures(&status, UNDO) + 1);
        let status = Status {
            attempts: decide::attempts(done, &status, UNDO, start),
            probes: done.probes.clone(),
            ..status
        };
        self.write(policy, status, &how).await?;
        let Some(pause) = again else { return Ok(Next::Rest) };
        self.retry_at.insert(policy.name_any(), (UNDO, Instant::now() + pause));
        Ok(Next::In(pause))
    }
}
