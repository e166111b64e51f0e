//! `netwright controller`: grants slots, writes the status of policies, deletes enactments nobody needs any more.
//!
//! Watch events go into `World`; `rollout::decide` says what follows for each policy that is touched; this file writes it. One worker, no reads but
//! to make sure before a deletion.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures::stream::{self, Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use crate::admission;
use crate::agent::apiserver::SILENCE;
use crate::agent::{cluster_config, stop_signal, watch};
use crate::api::condition::{self, Enacting, same};
use crate::api::nnce::{Slot, UNDO};
use crate::api::nncp::NodeNetworkConfigurationPolicyStatus as PolicyStatus;
use crate::api::{NodeNetworkConfigurationEnactment, NodeNetworkConfigurationPolicy};
use crate::clock;
use crate::installer;
use crate::metrics::{self, Role};
use crate::serve::{self, Address};

mod census;
mod lease;
mod rollout;
mod world;

use rollout::{Decision, decide, undoing};
use world::{Change, Enactment, Policy, World};

/// How long a node may take before it must say that it is still at work.
const SLOT: SignedDuration = SignedDuration::from_secs(60);
/// Least time between two writes of one policy's status, first and last ones aside.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(10);
/// Requests under way at a time: the others have not begun, and their time neither.
const AT_ONCE: usize = 64;
/// Name of the Lease. Agents read it to see whether there is a controller.
pub const LEASE: &str = "netwright-controller";
const LEASE_INSTALLER: &str = "netwright-installer";

/// Flags of `netwright controller`.
#[derive(Debug, Clone, Args)]
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
    /// Where metrics and health are served; '' serves them nowhere.
    #[arg(long, default_value = "[::]:8090")]
    pub metrics_address: Address,
    /// Do not control: install what the cluster's NMState asks for.
    #[arg(long)]
    pub install: bool,
    /// Image that --install gives to agents and controllers, instead of its own.
    #[arg(long, env = "NETWRIGHT_IMAGE", requires = "install")]
    pub image: Option<String>,
    /// The webhook.
    #[command(flatten)]
    pub admission: admission::Config,
}

/// Leads when it can, until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut cluster = cluster_config(config.kubeconfig.as_deref()).await?;
    // kube would try again for minutes, unseen; we decide anew instead
    cluster.default_retry = false;
    cluster.read_timeout = Some(SILENCE);
    let client = metrics::apiserver::client(cluster)?;
    if config.install {
        return install(&config, client).await;
    }
    serve::start(config.metrics_address, Role::Controller);
    let webhook = admission::run(
        &config.admission,
        client.clone(),
        &config.namespace,
        Arc::new(|outcome, took| metrics::controller().admitted(outcome, took)),
    );
    let election = lease::Election::new(client.clone(), LEASE, &config.namespace, &config.identity);
    // nobody asks for the counts where there are no metrics
    let counts = config.metrics_address.0.is_some();
    tokio::select! {
        end = lead(&client, &config.namespace, &config.identity, counts) => end,
        end = webhook => end,
        () = stop_signal() => {
            election.release().await;
            Ok(())
        }
    }
}

/// The installer has a Lease of its own, and ends when it loses it.
async fn install(config: &Config, client: Client) -> anyhow::Result<()> {
    let election = lease::Election::new(client.clone(), LEASE_INSTALLER, &config.namespace, &config.identity);
    let work = async {
        let since = election.win().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let image = config.image.clone();
        tokio::select! {
            lost = election.hold(since) => Err(lost),
            end = installer::run(client, &config.namespace, &config.identity, image) => end,
        }
    };
    tokio::select! {
        end = work => end,
        () = stop_signal() => {
            election.release().await;
            Ok(())
        }
    }
}

/// Leads when it can, for ever, and counts what is in the nodes' states if that is wanted. One that loses the Lease forgets everything and
/// stands again.
pub async fn lead(client: &Client, namespace: &str, identity: &str, counts: bool) -> anyhow::Result<()> {
    let election = lease::Election::new(client.clone(), LEASE, namespace, identity);
    loop {
        let since = election.win().await;
        tracing::info!(phase = "lead", "{identity} leads");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let nodes = census::Nodes::default();
        let lost = tokio::select! {
            lost = election.hold(since) => lost,
            end = Controller::new(client.clone(), nodes.clone()).run() => return end,
            () = nodes.clone().follow(client.clone()), if counts => bail!("the watch of NodeNetworkStates ended"),
        };
        metrics::controller().follow();
        tracing::warn!(phase = "lead", "{}", crate::error::chain(lost.as_ref()));
    }
}

/// What we remember of our own writes to a policy's status.
#[derive(Debug)]
struct Written {
    at: Instant,
    terminal: bool,
}

/// Policy → enactment → resourceVersion at which it was found to be silent indeed.
#[derive(Debug, Default)]
struct Asked(BTreeMap<String, BTreeMap<String, String>>);

impl Asked {
    /// Whom to ask of all that are silent. Who is not silent any more is forgotten.
    fn about<'e>(&mut self, policy: &str, silent: Vec<&'e Enactment>) -> Vec<&'e Enactment> {
        let mut known = self.0.remove(policy).unwrap_or_default();
        known.retain(|name, version| {
            let same = |e: &&Enactment| e.name == *name && e.resource_version.as_ref() == Some(version);
            silent.iter().any(same)
        });
        let ask = silent.into_iter().filter(|e| !known.contains_key(&e.name)).collect();
        if !known.is_empty() {
            self.0.insert(policy.to_owned(), known);
        }
        ask
    }

    fn answered(&mut self, e: Enactment) {
        let known = self.0.entry(e.policy).or_default();
        known.extend(e.resource_version.map(|version| (e.name, version)));
    }
}

struct Controller {
    policies: Api<NodeNetworkConfigurationPolicy>,
    enactments: Api<NodeNetworkConfigurationEnactment>,
    nodes: Api<NodeObject>,
    world: World,
    written: BTreeMap<String, Written>,
    // when to look at a policy again without an event
    wake: BTreeMap<String, Instant>,
    begin: (Timestamp, Instant),
    asked: Asked,
    // for the metrics
    nodes_hold: census::Nodes,
    slots: census::Slots,
}

/// One write and what came of it.
enum Answer {
    Policy(Box<NodeNetworkConfigurationPolicy>),
    Enactment(Box<NodeNetworkConfigurationEnactment>),
    /// It was to be deleted and is not there any more.
    Gone(Box<Enactment>),
    /// Nothing to learn from it.
    Done,
}

impl Controller {
    fn new(client: Client, nodes_hold: census::Nodes) -> Self {
        Controller {
            policies: Api::all(client.clone()),
            enactments: Api::all(client.clone()),
            nodes: Api::all(client),
            world: World::default(),
            written: BTreeMap::new(),
            wake: BTreeMap::new(),
            begin: (clock::now(), Instant::now()),
            asked: Asked::default(),
            nodes_hold,
            slots: census::Slots::default(),
        }
    }

    /// Follows the cluster for ever.
    async fn run(mut self) -> anyhow::Result<()> {
        let changes = stream::select(
            watch(&self.policies, Change::Policy),
            stream::select(
                watch(&self.enactments, Change::Enactment),
                watch(&self.nodes, Change::Node),
            ),
        );
        // all that is there already is one change to us
        let mut changes = std::pin::pin!(changes.ready_chunks(1024));
        let mut asks = metrics::controller().lead();
        loop {
            let wake = self.wake.values().min().copied();
            tokio::select! {
                some = changes.next() => some.context("the watches ended")?.into_iter().for_each(|c| self.learn(c)),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.touch_awakened(),
                Some(ask) = asks.recv(), if self.world.complete() => drop(ask.send(census::take(&self.world, &self.nodes_hold))),
            }
            while self.world.complete() && self.world.is_dirty() {
                self.work().await;
            }
        }
    }

    /// The time by a clock that nobody sets: slots end by it.
    fn steady(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.begin.1.elapsed()).unwrap_or(SignedDuration::MAX);
        self.begin.0.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn learn(&mut self, change: Change) {
        self.world.now = self.steady();
        self.world.apply(change);
    }

    fn touch_awakened(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self
            .wake
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(p, _)| p.clone())
            .collect();
        for policy in due {
            self.wake.remove(&policy);
            self.world.touch(policy);
        }
    }

    /// Decides for every policy touched, then does all of it at once and learns from the answers.
    async fn work(&mut self) {
        let mut writes = vec![];
        for name in self.world.take_dirty() {
            self.wake.remove(&name);
            if let Err(e) = self.ask_the_silent(&name).await {
                let why = crate::error::chain(e.as_ref());
                tracing::warn!(policy = name, "asking for nodes that are silent: {why}");
                self.wake.insert(name, Instant::now() + RETRY);
                continue;
            }
            writes.extend(self.orphans(&name).await);
            if self.world.policy(&name).is_some() {
                writes.extend(self.decide(&name));
            } else {
                self.written.remove(&name);
                metrics::controller().forget(&name);
                self.slots.forget(&name);
            }
            writes.extend(self.undo(&name));
        }
        let answers = at_once(writes.iter().map(|write| self.send(write)).collect()).await;
        for (write, answer) in writes.iter().zip(answers) {
            match answer {
                Ok(Answer::Gone(e)) => self.world.forget(&e),
                Ok(Answer::Policy(object)) => self.learn(Change::Policy(Event::Apply(*object))),
                Ok(Answer::Enactment(object)) => self.learn(Change::Enactment(Event::Apply(*object))),
                Ok(Answer::Done) => {}
                Err(e) => {
                    tracing::warn!(policy = write.policy(), "{write}: {}", crate::error::chain(e.as_ref()));
                    self.wake.insert(write.policy().to_owned(), Instant::now() + RETRY);
                }
            }
        }
    }

    /// A watch that brings nothing any more must not pass for nodes that have died: reads those whose slots have run out, once.
    async fn ask_the_silent(&mut self, policy: &str) -> anyhow::Result<()> {
        let silent = self.world.silent(policy, self.steady());
        let silent: Vec<Enactment> = self.asked.about(policy, silent).into_iter().cloned().collect();
        let ask = async |e: &Enactment| timeout(CALL, self.enactments.get_opt(&e.name)).await;
        let answers = at_once(silent.iter().map(ask).collect()).await;
        for (e, answer) in silent.into_iter().zip(answers) {
            // what is gone will be told by the watch
            if let Some(object) = answer.context("no answer")?? {
                self.learn(Change::Enactment(Event::Apply(object)));
            }
            self.asked.answered(e);
        }
        Ok(())
    }

    fn decide(&mut self, name: &str) -> Vec<Write> {
        let Some(policy) = self.world.policy(name) else {
            return vec![];
        };
        let now = self.steady();
        let enactments = self.world.enactments(name);
        let deleted = self.world.deleted(name, now);
        let decision = decide(policy, self.world.nodes(), &enactments, &deleted, now);
        let (held, allowed) = decision.slots;
        metrics::controller().slots(name, held, allowed);
        metrics::controller().expired(self.slots.expired(name, &enactments, now));
        if let Some(at) = decision.wake {
            let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            wake_at(&mut self.wake, name, Instant::now() + left);
        }
        let grants = decision
            .grants
            .iter()
            .map(|e| Write::Grant((*e).clone(), policy.generation));
        let message = &decision.abort_message;
        let aborts = decision
            .aborts
            .iter()
            .map(|e| Write::Abort((*e).clone(), policy.generation, message.clone()));
        let take_back = decision.take_back.iter().map(|e| Write::TakeBack((*e).clone()));
        let mut writes: Vec<Write> = grants.chain(aborts).chain(take_back).collect();
        if let Some(status) = changed_status(policy, &decision, clock::now()) {
            match status_due(self.written.get(name), policy, decision.terminal) {
                Some(due) => wake_at(&mut self.wake, name, due),
                None => {
                    let written = Written {
                        at: Instant::now(),
                        terminal: decision.terminal,
                    };
                    self.written.insert(name.to_owned(), written);
                    writes.push(Write::Status(name.to_owned(), Box::new(status)));
                }
            }
        }
        writes
    }

    /// Lets nodes undo a policy that is gone or does not mean them any more, not all at once.
    fn undo(&mut self, name: &str) -> Vec<Write> {
        let spec = self.world.policy(name).map(|policy| &policy.spec);
        if spec.is_some_and(|spec| spec.paused == Some(true)) {
            return vec![];
        }
        let max = spec.and_then(|spec| spec.max_unavailable.as_ref());
        let now = self.steady();
        let undoing = undoing(max, &self.world.left_behind(name), now);
        let grants = undoing.grants.iter().map(|e| Write::Grant((*e).clone(), UNDO));
        let take_back = undoing.take_back.iter().map(|e| Write::TakeBack((*e).clone()));
        let writes = grants.chain(take_back).collect();
        if let Some(at) = undoing.wake {
            let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            wake_at(&mut self.wake, name, Instant::now() + left);
        }
        writes
    }

    async fn send(&self, write: &Write) -> anyhow::Result<Answer> {
        let sent = async {
            match write {
                Write::Grant(e, generation) => {
                    let (policy, node) = (&e.policy, &e.node);
                    tracing::info!(policy, node, "slot granted for generation {generation}");
                    let slot = slot(*generation, clock::now());
                    let answer = self.merge(e, json!({"slot": slot})).await?;
                    metrics::controller().granted();
                    Ok(answer)
                }
                Write::TakeBack(e) => {
                    tracing::info!(policy = e.policy, node = e.node, phase = "slot", "slot taken back");
                    let now = clock::now().to_string();
                    self.merge(e, json!({"slot": {"granted": now, "expires": now}})).await
                }
                Write::Abort(e, generation, message) => {
                    tracing::info!(policy = e.policy, node = e.node, phase = "slot", "aborted: {message}");
                    let how = Enacting::Aborted(message.clone());
                    let conditions = condition::enactment(&how, &e.conditions, &clock::now().to_string());
                    let status = json!({
                        "policyGeneration": generation,
                        "observedGeneration": generation,
                        "conditions": conditions,
                    });
                    self.merge(e, status).await
                }
                Write::Status(policy, status) => {
                    let patch = Patch::Merge(json!({"status": status}));
                    let object = self.policies.patch_status(policy, &params(), &patch).await?;
                    Ok(Answer::Policy(Box::new(object)))
                }
                Write::Delete(e, gone) => self.delete(e, gone).await,
            }
        };
        match timeout(CALL, sent).await.context("no answer")? {
            // what is gone needs nothing, what is newer will be decided anew: its event is on the way
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Answer::Done),
            other => Ok(other?),
        }
    }

    /// Merges into the status of an enactment as it was decided on: an agent that wrote or began meanwhile has the last word.
    async fn merge(&self, e: &Enactment, status: serde_json::Value) -> kube::Result<Answer> {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": e.resource_version}, "status": status}));
        let object = self.enactments.patch_status(&e.name, &params(), &patch).await?;
        Ok(Answer::Enactment(Box::new(object)))
    }

    /// Enactments to be deleted. The watches may tell of one before they tell of its policy or node: the apiserver is asked, for the policy once.
    async fn orphans(&mut self, policy: &str) -> Vec<Write> {
        let orphans: Vec<Enactment> = self.world.orphans(policy).into_iter().cloned().collect();
        if orphans.is_empty() {
            return vec![];
        }
        let asked = timeout(CALL, self.policies.get_metadata_opt(policy)).await;
        let Ok(Ok(now)) = asked else {
            tracing::warn!(policy, "asking whether it is there: no answer");
            self.wake.insert(policy.to_owned(), Instant::now() + RETRY);
            return vec![];
        };
        let policy_gone = |e: &Enactment| {
            now.as_ref()
                .is_none_or(|policy| e.is_of_another(policy.metadata.uid.as_deref()))
        };
        // one that can undo the policy goes with its node only
        let reason = |e: &Enactment| if !e.reverts && policy_gone(e) { "policy" } else { "node" };
        let delete = |e: Enactment| {
            let gone = reason(&e);
            Write::Delete(Box::new(e), gone)
        };
        orphans.into_iter().map(delete).collect()
    }

    async fn delete(&self, e: &Enactment, gone: &str) -> kube::Result<Answer> {
        if gone == "node" && self.nodes.get_metadata_opt(&e.node).await?.is_some() {
            return Ok(Answer::Done);
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: e.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.enactments.delete(&e.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            answer => {
                answer?;
                tracing::info!(
                    policy = e.policy,
                    node = e.node,
                    "enactment deleted: its {gone} is gone"
                );
            }
        }
        Ok(Answer::Gone(Box::new(e.clone())))
    }
}

/// All answers, in the order of the requests.
async fn at_once<F: Future>(requests: Vec<F>) -> Vec<F::Output> {
    stream::iter(requests).buffered(AT_ONCE).collect().await
}

/// One thing to do.
enum Write {
    Grant(Enactment, i64),
    Abort(Enactment, i64, String),
    TakeBack(Enactment),
    Status(String, Box<PolicyStatus>),
    /// With what of it is gone: its policy or its node.
    Delete(Box<Enactment>, &'static str),
}

impl Write {
    fn policy(&self) -> &str {
        match self {
            Write::Grant(e, _) | Write::Abort(e, ..) | Write::TakeBack(e) => &e.policy,
            Write::Delete(e, _) => &e.policy,
            Write::Status(policy, _) => policy,
        }
    }
}

impl std::fmt::Display for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Write::Grant(e, _) => write!(f, "granting a slot to {}", e.name),
            Write::Abort(e, ..) => write!(f, "aborting {}", e.name),
            Write::TakeBack(e) => write!(f, "taking a slot back from {}", e.name),
            Write::Status(policy, _) => write!(f, "writing the status of {policy}"),
            Write::Delete(e, _) => write!(f, "deleting {}", e.name),
        }
    }
}

fn watch<K>(api: &Api<K>, change: fn(Event<K>) -> Change) -> impl Stream<Item = Change> + use<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    // a list from a cache might not know what another controller granted a moment ago
    let config = watcher::Config::default();
    watch::events(api.clone(), config).map(change).boxed()
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(LEASE.to_owned()),
        ..PatchParams::default()
    }
}

fn slot(generation: i64, now: Timestamp) -> Slot {
    Slot {
        generation,
        granted: now.to_string(),
        expires: (now + SLOT).to_string(),
    }
}

fn wake_at(wake: &mut BTreeMap<String, Instant>, policy: &str, at: Instant) {
    wake.entry(policy.to_owned())
        .and_modify(|old| *old = at.min(*old))
        .or_insert(at);
}

/// The status that should stand there, if another one does.
fn changed_status(policy: &Policy, decision: &Decision<'_>, now: Timestamp) -> Option<PolicyStatus> {
    let before = &policy.status;
    let conditions = condition::policy(&decision.rollout, &before.conditions, &now.to_string());
    let stands = same(&conditions, &before.conditions)
        && before.observed_generation == Some(policy.generation)
        && before.nodes.as_ref() == Some(&decision.counts);
    (!stands).then(|| PolicyStatus {
        conditions,
        observed_generation: Some(policy.generation),
        nodes: Some(decision.counts.clone()),
    })
}

/// When the status may be written: None is now. The first word on a generation and the last one do not wait.
fn status_due(written: Option<&Written>, policy: &Policy, terminal: bool) -> Option<Instant> {
    let first = policy.status.observed_generation != Some(policy.generation);
    let written = written.filter(|_| !first)?;
    let last = terminal && !written.terminal;
    Some(written.at + STATUS_PAUSE).filter(|due| !last && *due > Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(terminal: bool) -> Written {
        Written {
            at: Instant::now(),
            terminal,
        }
    }

    fn policy(observed: Option<i64>) -> Policy {
        let mut policy = Policy {
            generation: 3,
            ..Policy::default()
        };
        policy.status.observed_generation = observed;
        policy
    }

    #[test]
    fn first_and_last_words_on_a_generation_do_not_wait() {
        assert_eq!(status_due(None, &policy(None), false), None);
        assert_eq!(status_due(Some(&written(true)), &policy(Some(2)), false), None);
        assert_eq!(status_due(Some(&written(false)), &policy(Some(3)), true), None);
        assert!(status_due(Some(&written(false)), &policy(Some(3)), false).is_some());
        assert!(status_due(Some(&written(true)), &policy(Some(3)), true).is_some());
    }

    #[test]
    fn who_is_silent_is_asked_once_and_forgotten_when_it_speaks() {
        let silent = |name: &str, version: &str| world::tests::silent(name, version);
        let (a, b, later) = (silent("n1", "1"), silent("n2", "1"), silent("n1", "2"));
        let mut asked = Asked::default();
        let names = |all: Vec<&Enactment>| all.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(asked.about("br0", vec![&a, &b])), ["n1.br0", "n2.br0"]);
        asked.answered(a.clone());
        assert_eq!(names(asked.about("br0", vec![&a, &b])), ["n2.br0"], "no answer came");
        asked.answered(b.clone());
        assert!(asked.about("br0", vec![&a, &b]).is_empty());
        assert_eq!(
            names(asked.about("br0", vec![&later, &b])),
            ["n1.br0"],
            "it spoke since"
        );
        asked.about("br0", vec![]);
        assert!(asked.0.is_empty());
    }

    #[test]
    fn a_status_that_stands_is_not_written_again() {
        let mut policy = policy(None);
        let now = Timestamp::UNIX_EPOCH;
        let decision = || {
            decide(
                &Policy {
                    generation: 3,
                    ..Policy::default()
                },
                &BTreeMap::new(),
                &[],
                &[],
                now,
            )
        };
        let status = changed_status(&policy, &decision(), now).expect("nothing stands there yet");
        policy.status = status;
        assert_eq!(changed_status(&policy, &decision(), Timestamp::MAX), None);
    }
}
