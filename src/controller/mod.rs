//! One per cluster: grants slots, stops roll-outs that fail, keeps policy status, sweeps enactments of what is gone.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::agent::{cluster_config, stop_signal, watch};
use crate::api::condition::{self, Enacting};
use crate::api::nnce::Slot;
use crate::api::{LABEL_NODE, LABEL_POLICY, label_value};
use crate::api::{NodeNetworkConfigurationEnactment as Enactment, NodeNetworkConfigurationPolicy as Policy};
use crate::error::chain;

mod lease;
pub mod rollout;

use rollout::{Decision, Member, SLOT};

/// A policy's status is written no more often than this while its roll-out goes on; its end is told at once.
const PACE: Duration = Duration::from_secs(1);
/// A look without an event: slots run out silently.
const ANYWAY: Duration = Duration::from_secs(10);
const CALL: Duration = Duration::from_secs(10);

/// Flags of `netwright controller`.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Credentials; inside a cluster the service account's.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the Lease is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "nmstate")]
    pub namespace: String,
    /// Our name in the Lease.
    #[arg(long, env = "POD_NAME", default_value_t = format!("controller-{}", std::process::id()))]
    pub identity: String,
}

/// Leads when it can, until it is told to stop. One that loses the Lease ends, to start afresh.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let client = Client::try_from(cluster_config(config.kubeconfig.as_deref()).await?)?;
    let elector = lease::Elector::new(client.clone(), &config.namespace, &config.identity);
    tokio::select! {
        () = elector.lead() => {}
        () = stop_signal() => return Ok(()),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        () = elector.keep() => anyhow::bail!("another controller holds the lease now"),
        done = Controller::new(client).run() => done,
        () = stop_signal() => {
            elector.release().await;
            Ok(())
        }
    }
}

struct Controller {
    client: Client,
    policies: Store<Policy>,
    enactments: Store<Enactment>,
    nodes: Store<Node>,
    wake: Arc<Notify>,
    /// When and what was last written to a policy's status, by name and uid.
    told: HashMap<String, (Instant, Value)>,
    /// Slots and stops that we wrote and the watch may not have brought back yet: enactment → (resource version it was decided on).
    decided: HashMap<String, String>,
}

impl Controller {
    fn new(client: Client) -> Self {
        let wake = Arc::new(Notify::new());
        let any = || watcher::Config::default().any_semantic();
        Controller {
            policies: watch(Api::all(client.clone()), any(), &wake),
            enactments: watch(Api::all(client.clone()), any(), &wake),
            nodes: watch(Api::all(client.clone()), any(), &wake),
            client,
            wake,
            told: HashMap::new(),
            decided: HashMap::new(),
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        self.policies.wait_until_ready().await?;
        self.enactments.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        let wake = self.wake.clone();
        loop {
            let again = match self.pass().await {
                Ok(again) => again,
                Err(e) => {
                    warn!(phase = "controller", "{}", chain(&e));
                    PACE
                }
            };
            tokio::select! {
                () = wake.notified() => {}
                () = sleep(again) => {}
            }
        }
    }

    /// One look at everything; gives the time after which a held-back status is due.
    async fn pass(&mut self) -> Result<Duration, kube::Error> {
        let members: BTreeMap<String, Member> = self.nodes.state().iter().map(|n| (n.name_any(), member(n))).collect();
        let policies = self.policies.state();
        let mut by_policy: BTreeMap<String, BTreeMap<String, Enactment>> = BTreeMap::new();
        let nodes: HashMap<String, &String> = members.keys().map(|n| (label_value(n), n)).collect();
        for enactment in self.enactments.state() {
            let label = |key: &str| enactment.labels().get(key).cloned().unwrap_or_default();
            let (policy, node) = (label(LABEL_POLICY), nodes.get(&label(LABEL_NODE)));
            let known = policies.iter().any(|p| label_value(&p.name_any()) == policy);
            match node {
                Some(node) if known => {
                    by_policy
                        .entry(policy)
                        .or_default()
                        .insert((*node).clone(), (*enactment).clone());
                }
                _ => self.sweep(&enactment.name_any()).await?,
            }
        }
        self.decided.retain(|name, _| {
            by_policy
                .values()
                .flat_map(BTreeMap::values)
                .any(|e| e.name_any() == *name)
        });
        self.told.retain(|key, _| policies.iter().any(|p| key_of(p) == *key));
        let mut again = ANYWAY;
        let none = BTreeMap::new();
        for policy in &policies {
            let enactments = by_policy.get(&label_value(&policy.name_any())).unwrap_or(&none);
            let decision = rollout::decide(policy, &members, enactments, Timestamp::now());
            self.carry_out(policy, enactments, &decision).await?;
            again = again.min(self.tell(policy, &decision).await?);
        }
        Ok(again)
    }

    async fn sweep(&self, name: &str) -> Result<(), kube::Error> {
        let api: Api<Enactment> = Api::all(self.client.clone());
        match timeout(CALL, api.delete(name, &DeleteParams::default())).await {
            Ok(Err(kube::Error::Api(e))) if e.code == 404 => Ok(()),
            Ok(Err(e)) => Err(e),
            _ => Ok(()),
        }
    }

    async fn carry_out(
        &mut self,
        policy: &Policy,
        enactments: &BTreeMap<String, Enactment>,
        decision: &Decision,
    ) -> Result<(), kube::Error> {
        let generation = policy.metadata.generation.unwrap_or(0);
        let now = Timestamp::now();
        for enactment in enactments.values() {
            let name = enactment.name_any();
            let version = enactment.resource_version().unwrap_or_default();
            let status = if decision.grant.contains(&name) {
                let slot = Slot {
                    generation,
                    granted: now.to_string(),
                    expires: (now + SLOT).to_string(),
                };
                json!({ "slot": slot })
            } else if decision.abort.contains(&name) {
                let before = enactment
                    .status
                    .as_ref()
                    .map(|s| s.conditions.clone())
                    .unwrap_or_default();
                let why = format!(
                    "{} of {} nodes failed: the roll-out stopped",
                    decision.counts.failing, decision.counts.matching
                );
                let conditions = condition::enactment(&Enacting::Aborted(why), &before, &now.to_string());
                json!({ "conditions": conditions, "policyGeneration": generation, "observedGeneration": generation })
            } else {
                continue;
            };
            if self.decided.get(&name) == Some(&version) {
                continue;
            }
            let word = if status.get("slot").is_some() {
                "slot granted"
            } else {
                "aborted"
            };
            // bound to what we decided on: an enactment that moved on meanwhile is looked at again
            let body = json!({ "metadata": {"resourceVersion": version}, "status": status });
            let api: Api<Enactment> = Api::all(self.client.clone());
            match timeout(
                CALL,
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&body)),
            )
            .await
            {
                Ok(Ok(_)) => {
                    info!(policy = policy.name_any(), enactment = name, phase = "slot", "{word}");
                    self.decided.insert(name, version);
                }
                Ok(Err(kube::Error::Api(e))) if matches!(e.code, 404 | 409) => {}
                Ok(Err(e)) => return Err(e),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Writes the policy's status where it changed. Progress is told at a pace, the beginning and the end at once.
    async fn tell(&mut self, policy: &Policy, decision: &Decision) -> Result<Duration, kube::Error> {
        let key = key_of(policy);
        let before = policy.status.clone().unwrap_or_default();
        let conditions = condition::policy(&decision.rollout, &before.conditions, &Timestamp::now().to_string());
        let generation = policy.metadata.generation;
        let what = json!([
            conditions
                .iter()
                .map(|c| (&c.type_, &c.status, &c.reason, &c.message))
                .collect::<Vec<_>>(),
            decision.counts,
            generation
        ]);
        let same = condition::same(&conditions, &before.conditions)
            && before.observed_generation == generation
            && before.nodes.as_ref() == Some(&decision.counts);
        let told = self.told.get(&key);
        if same || told.is_some_and(|(_, w)| *w == what) {
            return Ok(ANYWAY);
        }
        let fresh = before.observed_generation != generation && told.is_none_or(|(_, w)| w.get(2) != what.get(2));
        if let Some((at, _)) = told
            && !fresh
            && !decision.finished
            && at.elapsed() < PACE
        {
            return Ok(PACE.saturating_sub(at.elapsed()));
        }
        let status = json!({ "conditions": conditions, "observedGeneration": generation, "nodes": decision.counts });
        let api: Api<Policy> = Api::all(self.client.clone());
        let patch = json!({ "status": status });
        match timeout(
            CALL,
            api.patch_status(&policy.name_any(), &PatchParams::default(), &Patch::Merge(&patch)),
        )
        .await
        {
            Ok(Ok(_)) => {
                self.told.insert(key, (Instant::now(), what));
                Ok(ANYWAY)
            }
            Ok(Err(kube::Error::Api(e))) if matches!(e.code, 404 | 409) => Ok(PACE),
            Ok(Err(e)) => Err(e),
            Err(_) => Ok(PACE),
        }
    }
}

fn key_of(policy: &Policy) -> String {
    format!("{}/{}", policy.name_any(), policy.uid().unwrap_or_default())
}

fn member(node: &Node) -> Member {
    Member {
        labels: node.labels().clone(),
        ready: crate::probe::is_ready(node),
    }
}
