//! Many agents in this process, the real code over fake machines, against the apiserver of a bed; and what that costs by the apiserver's own
//! count.

#![allow(dead_code)] // each target uses its own part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use netwright::agent::apiserver::Apiserver;
use netwright::agent::in_cluster;
use netwright::api::{NodeNetworkConfigurationEnactment as Enactment, NodeNetworkConfigurationPolicy as Policy};
use netwright::error::HostError;
use netwright::host::fake::FakeHost;
use netwright::host::{Checkpoint, Host};
use netwright::observation::Observation;
use netwright::probe::{Cluster, Prober};
use netwright::step::Step;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A fake machine whose changes are events.
#[derive(Clone)]
struct Machine {
    fake: Arc<FakeHost>,
    changes: Arc<watch::Sender<u64>>,
    seen: Arc<tokio::sync::Mutex<watch::Receiver<u64>>>,
}

impl Machine {
    fn new() -> Self {
        let changes = watch::Sender::new(0);
        let seen = changes.subscribe();
        Machine {
            fake: Arc::new(FakeHost::with_cards(&["eth1"])),
            changes: Arc::new(changes),
            seen: Arc::new(tokio::sync::Mutex::new(seen)),
        }
    }

    /// The same machine with ears of its own.
    fn again(&self) -> Self {
        Machine {
            seen: Arc::new(tokio::sync::Mutex::new(self.changes.subscribe())),
            ..self.clone()
        }
    }
}

impl Host for Machine {
    async fn observe(&self) -> Result<Observation, HostError> {
        self.seen.lock().await.mark_unchanged();
        self.fake.observe().await
    }

    async fn checkpoint(&self, ttl: Duration) -> Result<Checkpoint, HostError> {
        self.fake.checkpoint(ttl).await
    }

    async fn extend(&self, checkpoint: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        self.fake.extend(checkpoint, ttl).await
    }

    async fn execute(&self, wave: &[Step]) -> Result<(), HostError> {
        // what NetworkManager needs for a bridge
        sleep(Duration::from_millis(50)).await;
        let done = self.fake.execute(wave).await;
        self.changes.send_modify(|n| *n += 1);
        done
    }

    async fn hold(&self, checkpoint: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        self.fake.hold(checkpoint, ttl).await
    }

    async fn commit(&self, checkpoint: &Checkpoint) -> Result<(), HostError> {
        self.fake.log();
        self.fake.commit(checkpoint).await
    }

    async fn rollback(&self, checkpoint: &Checkpoint) -> Result<(), HostError> {
        self.fake.rollback(checkpoint).await
    }

    async fn changed(&self, limit: Duration) -> bool {
        let mut seen = self.seen.lock().await;
        tokio::time::timeout(limit, seen.changed()).await.is_ok()
    }
}

/// The agents.
pub struct Fleet {
    pub client: Client,
    kubeconfig: PathBuf,
    agents: JoinSet<anyhow::Result<()>>,
    pub size: usize,
}

impl Fleet {
    /// None yet. Must be called inside the control plane.
    pub async fn new(dir: &Path) -> Self {
        let mut admin = Kubeconfig::read_from(dir.join("admin.kubeconfig")).expect("the bed's kubeconfig");
        for cluster in admin.clusters.iter_mut().filter_map(|c| c.cluster.as_mut()) {
            cluster.server = Some("https://127.0.0.1:6443".to_owned());
        }
        let config = kube::Config::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await;
        Fleet {
            client: Client::try_from(config.expect("a config")).expect("a client"),
            kubeconfig: dir.join("controller.kubeconfig"),
            agents: JoinSet::new(),
            size: 0,
        }
    }

    /// Adds nodes until there are so many; each has a token that is bound to it. Every one whose number is below `few` has the label few=yes.
    pub async fn grow(&mut self, size: usize, few: usize) {
        let names: Vec<String> = (self.size..size).map(|n| format!("sim{n:05}")).collect();
        let first = self.size;
        let client = &self.client;
        let made = stream::iter(names.into_iter().enumerate())
            .map(|(n, name)| {
                let client = client.clone();
                async move {
                    let uid = node(&client, &name, first + n < few).await;
                    (token(&client, &name, &uid).await, name)
                }
            })
            .buffered(16)
            .collect::<Vec<_>>()
            .await;
        for (token, name) in made {
            let mut kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("the controller's kubeconfig");
            for user in kubeconfig.auth_infos.iter_mut().filter_map(|u| u.auth_info.as_mut()) {
                user.token = Some(token.clone().into());
            }
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            let config = config.expect("a config");
            self.agents.spawn(agent(config, name));
        }
        self.size = size;
    }

    /// Waits until so many enactments of a policy are Available.
    pub async fn available(&self, policy: &str, count: usize, limit: Duration) -> Duration {
        let begin = Instant::now();
        let api: Api<Policy> = Api::all(self.client.clone());
        loop {
            let status = api.get(policy).await.expect("it is there").status.unwrap_or_default();
            let nodes = status.nodes.unwrap_or_default();
            if nodes.available as usize == count && nodes.matching as usize == count {
                return begin.elapsed();
            }
            assert!(begin.elapsed() < limit, "{policy} not within {limit:?}: {nodes:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A policy that adds a bridge of its own to each node with these labels.
    pub async fn policy(&self, name: &str, width: Value, selector: Value) {
        let bridge = json!({"name": name, "type": "linux-bridge", "state": "up", "bridge": {"port": []}});
        let spec = json!({"maxUnavailable": width, "nodeSelector": selector, "desiredState": {"interfaces": [bridge]}});
        let policy = Policy::new(name, serde_json::from_value(spec).expect("a spec"));
        let api: Api<Policy> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &policy).await.expect("created");
    }

    pub async fn remove(&self, policy: &str) {
        let api: Api<Policy> = Api::all(self.client.clone());
        api.delete(policy, &DeleteParams::default()).await.expect("deleted");
        let all: Api<Enactment> = Api::all(self.client.clone());
        let labelled = ListParams::default().labels(&format!("nmstate.io/policy={policy}"));
        while !all.list(&labelled).await.expect("listed").items.is_empty() {
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Every agent watches and has published its node.
    pub async fn is_up(&self, limit: Duration) {
        let begin = Instant::now();
        let states: Api<netwright::api::NodeNetworkState> = Api::all(self.client.clone());
        loop {
            let there = states.list_metadata(&ListParams::default()).await.expect("listed");
            let ours = there.items.iter().filter(|s| s.name_any().starts_with("sim")).count();
            if ours == self.size {
                return;
            }
            assert!(
                begin.elapsed() < limit,
                "{ours} of {} agents after {limit:?}",
                self.size
            );
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// What the apiserver counted until now.
    pub async fn counts(&self) -> Counts {
        let request = http::Request::get("/metrics").body(vec![]).expect("a request");
        Counts::read(&self.client.request_text(request).await.expect("metrics"))
    }
}

async fn node(client: &Client, name: &str, few: bool) -> String {
    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let few = if few { "yes" } else { "no" };
    let object = json!({"metadata": {"name": name, "labels": {"fleet": "yes", "few": few}}});
    let object = serde_json::from_value(object).expect("a node");
    let made = api.create(&PostParams::default(), &object).await.expect("created");
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let patch = Patch::Merge(&ready);
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .expect("made ready");
    made.metadata.uid.expect("a uid")
}

async fn token(client: &Client, node: &str, uid: &str) -> String {
    let bound = json!({"kind": "Node", "apiVersion": "v1", "name": node, "uid": uid});
    let body = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "spec": {"audiences": [], "expirationSeconds": 86400, "boundObjectRef": bound}});
    let path = "/api/v1/namespaces/nmstate/serviceaccounts/netwright-agent/token";
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes());
    let answer: Value = client.request(request.expect("a request")).await.expect("a token");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

async fn agent(cluster: kube::Config, name: String) -> anyhow::Result<()> {
    let config = crate::common::agent_flags(&name);
    let apiserver = Apiserver::new(cluster.clone())?;
    let probes = Cluster {
        config: cluster,
        node: name,
    };
    let prober = Prober::defaults(config.probe_timeout, None, Some(probes));
    let machine = Machine::new();
    let eyes = machine.clone();
    let eyes = move || {
        let eyes = eyes.again();
        async move { Ok(eyes) }
    };
    in_cluster(&config, apiserver, prober, machine, eyes, None).await
}

/// The apiserver's own counts of requests and of bytes sent, by `VERB resource`, and watches that are open now.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    requests: BTreeMap<String, f64>,
    bytes: BTreeMap<String, f64>,
    pub watches: f64,
}

/// Resources that agents and controller have to do with.
const OURS: [&str; 6] = [
    "nodenetworkconfigurationenactments",
    "nodenetworkconfigurationpolicies",
    "nodenetworkstates",
    "nodes",
    "leases",
    "events",
];

impl Counts {
    fn read(metrics: &str) -> Self {
        let mut counts = Counts::default();
        for line in metrics.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let label = |key: &str| {
                let from = name.split_once(&format!("{key}=\""))?.1;
                from.split_once('"').map(|(value, _)| value)
            };
            let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else {
                continue;
            };
            if !OURS.contains(&resource) {
                continue;
            }
            let (key, value) = (format!("{verb} {resource}"), value.parse::<f64>().unwrap_or(0.0));
            if name.starts_with("apiserver_request_total{") {
                *counts.requests.entry(key).or_default() += value;
            } else if name.starts_with("apiserver_response_sizes_sum{") {
                *counts.bytes.entry(key).or_default() += value;
            } else if name.starts_with("apiserver_longrunning_requests{") && verb == "WATCH" {
                counts.watches += value;
            }
        }
        counts
    }

    /// What came on top of `before`.
    pub fn since(&self, before: &Counts) -> Counts {
        let minus = |a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>| {
            let left = a.iter().map(|(k, v)| (k.clone(), v - b.get(k).unwrap_or(&0.0)));
            left.filter(|(_, v)| *v > 0.0).collect()
        };
        Counts {
            requests: minus(&self.requests, &before.requests),
            bytes: minus(&self.bytes, &before.bytes),
            watches: self.watches,
        }
    }

    fn of(&self, verbs: &[&str], resource: &str) -> f64 {
        verbs
            .iter()
            .filter_map(|verb| self.requests.get(&format!("{verb} {resource}")))
            .sum()
    }

    /// All of them, as `VERB resource`.
    pub fn rows(&self) -> impl Iterator<Item = (&str, f64)> {
        self.requests.iter().map(|(what, count)| (what.as_str(), *count))
    }

    pub fn writes(&self, resource: &str) -> f64 {
        self.of(&["POST", "PUT", "PATCH", "APPLY", "DELETE"], resource)
    }

    pub fn deletions(&self, resource: &str) -> f64 {
        self.of(&["DELETE"], resource)
    }

    pub fn gets(&self, resource: &str) -> f64 {
        self.of(&["GET"], resource)
    }

    /// Of all resources.
    pub fn lists(&self) -> f64 {
        OURS.iter().map(|resource| self.of(&["LIST"], resource)).sum::<f64>() + 0.0
    }

    /// Answers that are not watches.
    pub fn bytes(&self) -> f64 {
        self.bytes
            .iter()
            .filter(|(key, _)| !key.starts_with("WATCH"))
            .map(|(_, v)| v)
            .sum()
    }
}

/// Processor seconds and resident megabytes of a process.
pub fn process(pid: u32) -> (f64, f64) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = read("stat");
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').collect())
        .unwrap_or_default();
    // proc_pid_stat(5): utime and stime are fields 14 and 15, in 1/100 s
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    let status = read("status");
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
    ((ticks(11) + ticks(12)) / 100.0, kib * 1024.0 / 1e6)
}
