//! A cluster in one process and in a time of its own: the agents' and the controllers' real code over fake machines and `server`. Everything may
//! be killed, cut off or told a wrong time; a history tells which nodes were at work together.

#![allow(dead_code)] // each target uses its own part

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use netwright::agent::apiserver::Apiserver;
use netwright::agent::in_cluster;
use netwright::clock;
use netwright::controller::lead;
use netwright::error::HostError;
use netwright::host::fake::FakeHost;
use netwright::host::{Checkpoint, Host};
use netwright::journal::Recovered;
use netwright::observation::Observation;
use netwright::probe::Prober;
use netwright::step::Step;
use netwright::transaction::Phase;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

mod rng;
pub mod server;

use rng::Rng;
use server::Server;

pub const NODES: &str = "nodes";
pub const POLICIES: &str = "nodenetworkconfigurationpolicies";
pub const ENACTMENTS: &str = "nodenetworkconfigurationenactments";

/// A node that has not renewed its slot for so long has lost it.
const SLOT: Duration = Duration::from_secs(60);
/// How long a decision of the controller may take to show on a node: a slot that nobody uses ends after 60 s.
const VALID: Duration = Duration::from_secs(75);

/// How machines behave.
#[derive(Debug, Clone, Copy)]
pub struct Machines {
    /// Longest time of a step.
    pub slow: Duration,
    /// Percent of executions that fail.
    pub failing: u64,
}

/// Who works when, and what was wrong about it.
pub struct History {
    server: Arc<Server>,
    begin: Instant,
    rng: Mutex<Rng>,
    machines: Machines,
    /// Policies by nodes that are at work on them.
    at_work: Mutex<BTreeMap<String, String>>,
    /// How many nodes might be at work on a policy from this moment on.
    width: Mutex<BTreeMap<String, Vec<(Instant, usize)>>>,
    lines: Mutex<Vec<String>>,
    pub faults: Mutex<Vec<String>>,
    pub transactions: AtomicI64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl History {
    pub fn note(&self, what: impl std::fmt::Display) {
        lock(&self.lines).push(format!("{:9.3} {what}", self.begin.elapsed().as_secs_f64()));
    }

    fn fault(&self, what: String) {
        self.note(format!("WRONG {what}"));
        lock(&self.faults).push(what);
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let lines = lock(&self.lines);
        lines[lines.len().saturating_sub(120)..].join("\n")
    }

    /// Reads how wide each policy is, after whatever may have changed it.
    fn widths(&self) {
        let nodes = self.server.all(NODES);
        for policy in self.server.all(POLICIES) {
            let name = policy["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let matching = nodes.iter().filter(|n| matches(&policy, n)).count();
            let width = width(&policy["spec"]["maxUnavailable"], matching);
            lock(&self.width).entry(name).or_default().push((Instant::now(), width));
        }
    }

    fn begins(&self, node: &str, policy: &str) {
        self.note(format!("{node} begins {policy}"));
        self.transactions.fetch_add(1, Ordering::Relaxed);
        let mut all = lock(&self.at_work);
        if all.insert(node.to_owned(), policy.to_owned()).is_some() {
            self.fault(format!("{node} works twice at once"));
        }
        let renewed = |node: &str| {
            let wrote = self.server.wrote(node, &format!("{node}.{policy}"));
            wrote.is_some_and(|ago| ago < SLOT)
        };
        let counts = |(node, on): &(&String, &String)| *on == policy && renewed(node);
        let together: Vec<&String> = all.iter().filter(counts).map(|(node, _)| node).collect();
        let width = lock(&self.width);
        let widths = width.get(policy).map(Vec::as_slice).unwrap_or_default();
        let still =
            |(n, _): &(usize, &(Instant, usize))| widths.get(n + 1).is_none_or(|(end, _)| end.elapsed() < VALID);
        let most = widths
            .iter()
            .enumerate()
            .filter(still)
            .map(|(_, (_, w))| *w)
            .max()
            .unwrap_or(0);
        if together.len() > most {
            self.fault(format!(
                "{} of {policy} at work where {most} may be: {together:?}",
                together.len()
            ));
        }
    }

    fn ends(&self, node: &str, how: &str) {
        self.note(format!("{node} {how}"));
        lock(&self.at_work).remove(node);
    }

    fn is_at_work(&self, node: &str) -> Option<String> {
        lock(&self.at_work).get(node).cloned()
    }

    async fn take_time(&self) {
        let time = lock(&self.rng).between(Duration::from_millis(10), self.machines.slow);
        sleep(time).await;
    }
}

/// The rule as product.md has it, written down a second time.
fn width(value: &Value, matching: usize) -> usize {
    let percent = |p: usize| (p * matching).div_ceil(100);
    let width = match (value.as_u64(), value.as_str()) {
        (Some(n), _) => n as usize,
        (_, Some(text)) => percent(text.trim_end_matches('%').parse().unwrap_or(50)),
        _ => percent(50),
    };
    width.max(1)
}

fn matches(policy: &Value, node: &Value) -> bool {
    let wanted = policy["spec"]["nodeSelector"].as_object();
    wanted
        .into_iter()
        .flatten()
        .all(|(k, v)| node["metadata"]["labels"][k] == *v)
}

/// A machine that takes its time, may fail, and tells the history.
#[derive(Clone)]
struct Machine {
    fake: Arc<FakeHost>,
    node: String,
    policy: Arc<Mutex<String>>,
    history: Arc<History>,
}

impl Host for Machine {
    async fn observe(&self) -> Result<Observation, HostError> {
        self.fake.observe().await
    }

    async fn checkpoint(&self, ttl: Duration) -> Result<Checkpoint, HostError> {
        let policy = lock(&self.policy).clone();
        self.history.begins(&self.node, &policy);
        self.fake.checkpoint(ttl).await
    }

    async fn extend(&self, checkpoint: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        self.fake.extend(checkpoint, ttl).await
    }

    async fn execute(&self, wave: &[Step]) -> Result<(), HostError> {
        self.history.take_time().await;
        if lock(&self.history.rng).chance(self.history.machines.failing) {
            return Err(HostError::Other("told to fail".to_owned()));
        }
        self.fake.execute(wave).await
    }

    async fn hold(&self, checkpoint: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        self.fake.hold(checkpoint, ttl).await
    }

    async fn commit(&self, checkpoint: &Checkpoint) -> Result<(), HostError> {
        self.history.take_time().await;
        self.fake.commit(checkpoint).await?;
        self.history.ends(&self.node, "commits");
        Ok(())
    }

    async fn rollback(&self, checkpoint: &Checkpoint) -> Result<(), HostError> {
        self.history.take_time().await;
        self.fake.rollback(checkpoint).await?;
        self.history.ends(&self.node, "rolls back");
        Ok(())
    }

    async fn changed(&self, limit: Duration) -> bool {
        self.fake.changed(limit).await
    }

    fn set_policy(&self, name: &str) {
        name.clone_into(&mut lock(&self.policy));
    }
}

/// Something that runs, with a clock of its own.
struct Process {
    task: Option<JoinHandle<anyhow::Result<()>>>,
    /// Seconds that its clock is ahead.
    skew: Arc<AtomicI64>,
    machine: Option<Machine>,
}

impl Process {
    fn new(machine: Option<Machine>) -> Self {
        Process {
            task: None,
            skew: Arc::default(),
            machine,
        }
    }
}

/// The cluster.
pub struct Simulation {
    pub server: Arc<Server>,
    pub history: Arc<History>,
    processes: BTreeMap<String, Process>,
    begin: Instant,
}

/// What may happen. Nodes and controllers go by number, times are in seconds.
#[derive(Debug, Clone)]
pub enum Happening {
    /// An agent dies and comes back.
    AgentDies(usize, u64),
    /// A controller dies and comes back.
    ControllerDies(usize, u64),
    /// No packet of a node or of a controller gets through.
    NodeCutOff(usize, u64),
    ControllerCutOff(usize, u64),
    /// The apiserver is away.
    Outage(u64),
    /// Percent of all requests lost or refused.
    Storm(u64, u64),
    /// etcd forgets.
    Compaction,
    WatchesDrop,
    /// Watch events of a node come late by so much, for so long.
    NodeLags(usize, u64, u64),
    ControllerLags(usize, u64, u64),
    /// The clock of a node or a controller jumps.
    NodeClock(usize, i64),
    ControllerClock(usize, i64),
    /// The policy asks for something else.
    Edit,
    /// The policy has another width.
    Width(usize),
    Paused(u64),
    /// A node loses its label and gets it back.
    Relabelled(usize, u64),
    /// The Node object goes, its agent with it, and comes back.
    NodeLeaves(usize, u64),
    /// The Node object goes and comes at once; its agent lives.
    NodeReplaced(usize),
    /// Somebody deletes a node's enactment.
    EnactmentDeleted(usize),
}

pub const WIDTHS: [&str; 5] = ["1", "2", "3", "34%", "50%"];
const POLICY: &str = "p";

impl Simulation {
    /// A control plane with two controllers; nodes come by `join`.
    pub fn new(seed: u64, machines: Machines) -> Self {
        let server = Server::new(seed);
        let begin = Instant::now();
        let history = Arc::new(History {
            server: server.clone(),
            begin,
            rng: Mutex::new(Rng(!seed)),
            machines,
            at_work: Mutex::default(),
            width: Mutex::default(),
            lines: Mutex::default(),
            faults: Mutex::default(),
            transactions: AtomicI64::new(0),
        });
        let mut simulation = Simulation {
            server,
            history,
            processes: BTreeMap::new(),
            begin,
        };
        for n in 0..2 {
            let name = controller_name(n);
            simulation.processes.insert(name.clone(), Process::new(None));
            simulation.start(&name);
        }
        simulation
    }

    /// A Node object and its agent.
    pub fn join(&mut self, n: usize) {
        let name = node_name(n);
        self.node_object(&name);
        let machine = Machine {
            fake: Arc::new(FakeHost::with_cards(&["eth1"])),
            node: name.clone(),
            policy: Arc::default(),
            history: self.history.clone(),
        };
        self.processes.insert(name.clone(), Process::new(Some(machine)));
        self.start(&name);
    }

    fn node_object(&self, name: &str) {
        self.server.put(
            NODES,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"rack": "a"}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }

    fn start(&mut self, name: &str) {
        let clock = self.clock(name);
        let process = self.processes.get_mut(name).expect("it was made");
        if process.task.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        self.history.note(format!("{name} starts"));
        let (server, who) = (self.server.clone(), name.to_owned());
        let history = self.history.clone();
        process.task = Some(match process.machine.clone() {
            None => tokio::spawn(clock::shows(clock, async move {
                lead(&server.client(&who), "nmstate", &who, false).await
            })),
            Some(machine) => tokio::spawn(clock::shows(clock, async move {
                let recovered = recover(&machine, &history).await;
                let (from, name) = (server.clone(), who.clone());
                let apiserver = Apiserver::with(Arc::new(move || Ok(from.client(&name))))?;
                let eyes = machine.clone();
                let eyes = move || {
                    let eyes = eyes.clone();
                    async move { Ok(eyes) }
                };
                in_cluster(
                    &crate::common::agent_flags(&who),
                    apiserver,
                    Prober::none(),
                    machine,
                    eyes,
                    recovered,
                )
                .await
            })),
        });
    }

    fn clock(&self, name: &str) -> Arc<dyn Fn() -> Timestamp + Send + Sync> {
        let (begin, skew) = (self.begin, self.processes[name].skew.clone());
        Arc::new(move || {
            // 2026-01-01
            let base = Timestamp::from_second(1_767_225_600).expect("a time");
            let passed = SignedDuration::try_from(begin.elapsed()).expect("a short time");
            base + passed + SignedDuration::from_secs(skew.load(Ordering::Relaxed))
        })
    }

    async fn kill(&mut self, name: &str) {
        let Some(process) = self.processes.get_mut(name) else {
            return;
        };
        if let Some(task) = process.task.take() {
            task.abort();
            let _ = task.await;
            self.history.note(format!("{name} is killed"));
        }
    }

    /// Makes or edits the policy. Each `content` differs from the one before.
    pub fn policy(&self, width: &str, content: u32) {
        let width = width.parse::<u64>().map_or_else(|_| json!(width), Value::from);
        let bridge = json!({"name": "br0", "type": "linux-bridge", "state": "up", "mtu": 1300 + content, "bridge": {"port": []}});
        self.server.put(
            POLICIES,
            json!({"apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy", "metadata": {"name": POLICY},
                "spec": {"nodeSelector": {"rack": "a"}, "maxUnavailable": width, "desiredState": {"interfaces": [bridge]}}}),
        );
        self.history.widths();
    }

    /// Lets all of it happen at its time (in milliseconds), waits until it is over, and heals what still hurts.
    pub async fn run(&mut self, schedule: &[(u64, Happening)], nodes: usize) {
        let mut to_do: BTreeMap<(u64, usize), Deed> = BTreeMap::new();
        let mut content = 0;
        let mut width = 0;
        for (n, (at, what)) in schedule.iter().enumerate() {
            for (later, deed) in deeds(what, nodes, &mut content, &mut width) {
                to_do.insert((at + later * 1000, n), deed);
            }
        }
        let start = Instant::now();
        for ((at, _), deed) in to_do {
            tokio::time::sleep_until(start + Duration::from_millis(at)).await;
            self.history.note(format!("== {deed:?}"));
            self.carry_out(deed).await;
            self.history.widths();
        }
        self.server.heal();
        for name in self.processes.keys().cloned().collect::<Vec<_>>() {
            self.start(&name);
        }
    }

    async fn carry_out(&mut self, deed: Deed) {
        let seconds = Duration::from_secs;
        match deed {
            Deed::Start(name) => {
                if self.server.get(NODES, &name).is_some() || name.starts_with("controller") {
                    self.start(&name);
                }
            }
            Deed::Kill(name) => self.kill(&name).await,
            Deed::CutOff(name, time) => {
                self.server.cut_off(&name, seconds(time));
            }
            Deed::Lag(name, late, time) => self.server.lag(&name, Duration::from_millis(late), seconds(time)),
            Deed::Clock(name, jump) => {
                self.processes[&name].skew.fetch_add(jump, Ordering::Relaxed);
            }
            Deed::Outage(time) => self.server.go_away(seconds(time)),
            Deed::Storm(percent, time) => self.server.storm(percent, seconds(time)),
            Deed::Compact => self.server.compact(),
            Deed::Drop => self.server.drop_connections(),
            Deed::Patch(patch) => self.server.patch(POLICIES, POLICY, &patch),
            Deed::Label(name, label) => {
                let patch = json!({"metadata": {"labels": {"rack": label}}});
                self.server.patch(NODES, &name, &patch);
            }
            Deed::Leave(name) => {
                self.kill(&name).await;
                self.server.delete(NODES, &name);
                if self.history.is_at_work(&name).is_some() {
                    self.history.ends(&name, "is gone");
                }
            }
            Deed::Join(name) => {
                if self.server.get(NODES, &name).is_none() {
                    self.node_object(&name);
                }
                self.start(&name);
            }
            Deed::Forget(name) => self.server.delete(ENACTMENTS, &format!("{name}.{POLICY}")),
            Deed::Replace(name) => {
                if self.server.get(NODES, &name).is_some() {
                    self.server.delete(NODES, &name);
                    self.node_object(&name);
                }
            }
        }
    }

    /// Everything is where it will stay: None. Otherwise what is not.
    pub fn unsettled(&self, all_well: bool) -> Option<String> {
        let Some(policy) = self.server.get(POLICIES, POLICY) else {
            return Some("there is no policy".to_owned());
        };
        let generation = &policy["metadata"]["generation"];
        let nodes = self.server.all(NODES);
        let wanted: BTreeSet<String> = nodes
            .iter()
            .filter(|n| matches(&policy, n))
            .map(|n| format!("{}.{POLICY}", n["metadata"]["name"].as_str().unwrap_or_default()))
            .collect();
        let enactments = self.server.all(ENACTMENTS);
        let there: BTreeSet<String> = enactments
            .iter()
            .map(|e| e["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        if there != wanted {
            return Some(format!("enactments {there:?} where {wanted:?} are wanted"));
        }
        let mut counts = BTreeMap::new();
        for e in &enactments {
            let status = &e["status"];
            let on = |kind: &str| is_on(status, kind);
            let word = match () {
                () if status["policyGeneration"] != *generation => "of another generation",
                () if on("Available") => "available",
                () if on("Aborted") => "aborted",
                () if on("Failing") && !on("Progressing") => "failing",
                () => "under way",
            };
            if matches!(word, "of another generation" | "under way") || (all_well && word != "available") {
                return Some(format!("{} is {word}: {}", e["metadata"]["name"], status));
            }
            *counts.entry(word).or_insert(0) += 1;
        }
        let told = &policy["status"];
        for (word, count) in counts {
            if told["nodes"][word] != json!(count) {
                return Some(format!("{count} are {word}, but the policy says {}", told["nodes"]));
            }
        }
        if told["observedGeneration"] != *generation || is_on(told, "Progressing") {
            return Some(format!("the policy says {told}"));
        }
        (!lock(&self.history.at_work).is_empty()).then(|| "somebody is at work".to_owned())
    }

    /// Waits for that, in the cluster's own time.
    pub async fn settles(&self, limit: Duration, all_well: bool) -> Result<Duration, String> {
        let begin = Instant::now();
        loop {
            let Some(what) = self.unsettled(all_well) else {
                return Ok(begin.elapsed());
            };
            if begin.elapsed() > limit {
                return Err(format!("not settled within {limit:?}: {what}"));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

fn is_on(status: &Value, kind: &str) -> bool {
    let conditions = status["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == kind && c["status"] == "True")
}

/// One thing done to the cluster.
#[derive(Debug, Clone)]
enum Deed {
    Start(String),
    Kill(String),
    CutOff(String, u64),
    Lag(String, u64, u64),
    Clock(String, i64),
    Outage(u64),
    Storm(u64, u64),
    Compact,
    Drop,
    Patch(Value),
    Label(String, &'static str),
    Leave(String),
    Join(String),
    Forget(String),
    Replace(String),
}

/// What a happening means, each after so many seconds. The last one is when it is over.
fn deeds(what: &Happening, nodes: usize, content: &mut u32, width: &mut usize) -> Vec<(u64, Deed)> {
    let node = |n: &usize| node_name(n % nodes);
    let controller = |n: &usize| controller_name(n % 2);
    match what {
        Happening::AgentDies(n, t) => vec![(0, Deed::Kill(node(n))), (*t, Deed::Start(node(n)))],
        Happening::ControllerDies(n, t) => vec![(0, Deed::Kill(controller(n))), (*t, Deed::Start(controller(n)))],
        Happening::NodeCutOff(n, t) => vec![(0, Deed::CutOff(node(n), *t)), (*t, Deed::Start(node(n)))],
        Happening::ControllerCutOff(n, t) => {
            vec![(0, Deed::CutOff(controller(n), *t)), (*t, Deed::Start(controller(n)))]
        }
        Happening::Outage(t) => vec![(0, Deed::Outage(*t)), (*t, Deed::Drop)],
        Happening::Storm(percent, t) => vec![(0, Deed::Storm(*percent, *t)), (*t, Deed::Drop)],
        Happening::Compaction => vec![(0, Deed::Compact)],
        Happening::WatchesDrop => vec![(0, Deed::Drop)],
        Happening::NodeLags(n, late, t) => vec![(0, Deed::Lag(node(n), *late, *t)), (*t, Deed::Start(node(n)))],
        Happening::ControllerLags(n, late, t) => {
            vec![
                (0, Deed::Lag(controller(n), *late, *t)),
                (*t, Deed::Start(controller(n))),
            ]
        }
        Happening::NodeClock(n, jump) => vec![(0, Deed::Clock(node(n), *jump))],
        Happening::ControllerClock(n, jump) => vec![(0, Deed::Clock(controller(n), *jump))],
        Happening::Edit => {
            *content += 1;
            let bridge = json!({"name": "br0", "type": "linux-bridge", "state": "up", "mtu": 1300 + *content, "bridge": {"port": []}});
            vec![(
                0,
                Deed::Patch(json!({"spec": {"desiredState": {"interfaces": [bridge]}}})),
            )]
        }
        Happening::Width(n) => {
            *width = n % WIDTHS.len();
            let text = WIDTHS[*width];
            let value = text.parse::<u64>().map_or_else(|_| json!(text), Value::from);
            vec![(0, Deed::Patch(json!({"spec": {"maxUnavailable": value}})))]
        }
        Happening::Paused(t) => vec![
            (0, Deed::Patch(json!({"spec": {"paused": true}}))),
            (*t, Deed::Patch(json!({"spec": {"paused": null}}))),
        ],
        Happening::Relabelled(n, t) => vec![(0, Deed::Label(node(n), "b")), (*t, Deed::Label(node(n), "a"))],
        Happening::NodeLeaves(n, t) => vec![(0, Deed::Leave(node(n))), (*t, Deed::Join(node(n)))],
        Happening::EnactmentDeleted(n) => vec![(0, Deed::Forget(node(n)))],
        Happening::NodeReplaced(n) => vec![(0, Deed::Replace(node(n)))],
    }
}

/// What the journal does at the next start.
async fn recover(machine: &Machine, history: &History) -> Option<Recovered> {
    let policy = history.is_at_work(&machine.node)?;
    let path = "/checkpoint/1".to_owned();
    let _ = machine.fake.rollback(&Checkpoint { path }).await;
    history.ends(&machine.node, "rolls back after a crash");
    Some(Recovered {
        policy,
        phase: Some(Phase::Execute),
        message: "netwright ended during phase execute (rolled back)".to_owned(),
    })
}

pub fn node_name(n: usize) -> String {
    format!("node{n:04}")
}

fn controller_name(n: usize) -> String {
    format!("controller{n}")
}
