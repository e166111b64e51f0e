//! Two nodes, two controllers, real processes, and everything killed, stopped, refused and forgotten in turn; afterwards the policy is on both
//! nodes without a hand, and never were both at work. `CHAOS_ROUNDS=300` for a long run, `CHAOS_SEED` for another one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use netwright::api::NodeNetworkConfigurationEnactment as Enactment;
use netwright::api::condition::is_true;

mod clock;
#[path = "../common/mod.rs"]
mod common;
mod proxy;
#[path = "../sim/rng.rs"]
mod rng;

use common::{Cluster, NETWRIGHT, control_plane, enter, may_run, must};
use proxy::{Proxy, Work};
use rng::Rng;

/// How long all may take to be well again.
const REST: Duration = Duration::from_secs(120);
const NODES: [&str; 2] = ["node01", "node02"];
const CONTROLLERS: [&str; 2] = ["one", "two"];

/// Works inside the bed's control plane, on a thread of its own.
fn inside(dir: &Path, work: Work) {
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        let _inside = enter(&dir);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(work);
    });
}

/// A process that is killed and started again.
struct Role {
    name: String,
    dir: PathBuf,
    child: Option<Child>,
}

impl Role {
    fn new(dir: &Path, name: &str) -> Self {
        let mut role = Role {
            name: name.to_owned(),
            dir: dir.to_owned(),
            child: None,
        };
        clock::set(dir, name, 0);
        role.start();
        role
    }

    fn command(&self) -> Command {
        let (dir, name) = (&self.dir, &self.name);
        if CONTROLLERS.contains(&name.as_str()) {
            let mut command = Command::new("ip");
            command
                .args(["netns", "exec", &control_plane(dir)])
                .args(clock::wrapper(dir, name))
                .args([NETWRIGHT, "controller", "--namespace", "nmstate", "--identity", name]);
            command.arg("--kubeconfig").arg(dir.join("controller.kubeconfig"));
            command.args(["--metrics-address", "", "--webhook-address", ""]); // both are in one place
            return command;
        }
        let kubeconfig = dir.join(format!("agent-{name}.kubeconfig"));
        let text = std::fs::read_to_string(&kubeconfig).expect("the bed made it");
        let through = dir.join(format!("chaos-{name}.kubeconfig"));
        std::fs::write(&through, text.replace(":6443", &format!(":{}", proxy::PORT))).expect("written");
        let mut command = common::node_verb(&dir.join(name), "exec");
        command
            .args(clock::wrapper(dir, name))
            .args([NETWRIGHT, "agent", "--node-name", name]);
        command.arg("--kubeconfig").arg(through);
        command.arg("--state-dir").arg(dir.join(name).join("state"));
        command.arg("--run-dir").arg(dir.join(name).join("run"));
        command
    }

    fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{}.log", self.name)));
        let log = log.expect("a log");
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.child = Some(command.spawn().expect("it starts"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it was alive");
            child.wait().expect("it ended");
        }
    }

    fn again(&mut self) {
        self.kill();
        self.start();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Every change to an enactment, in the order in which etcd took it.
#[derive(Default)]
struct History {
    now: BTreeMap<String, Enactment>,
    lines: Vec<String>,
    changes: usize,
    faults: Vec<String>,
}

impl History {
    fn take(&mut self, event: Event<Enactment>) {
        match event {
            Event::Apply(e) | Event::InitApply(e) => {
                self.note(&e);
                self.now.insert(e.name_any(), e);
            }
            Event::Delete(e) => {
                self.lines.push(format!("{} deleted", e.name_any()));
                self.now.remove(&e.name_any());
            }
            // states, not changes: those in between were not seen
            Event::Init => self.now.clear(),
            Event::InitDone => {}
        }
        self.changes += 1;
        let who = |what: fn(&Enactment) -> bool| -> Vec<String> {
            self.now
                .values()
                .filter(|e| what(e))
                .map(ResourceExt::name_any)
                .collect()
        };
        let (work, slots) = (who(works), who(holds));
        if work.len() > 1 || slots.len() > 1 {
            self.faults.push(format!("at work {work:?}, with a slot {slots:?}"));
        }
    }

    fn note(&mut self, e: &Enactment) {
        let status = e.status.clone().unwrap_or_default();
        let on: Vec<&str> = status
            .conditions
            .iter()
            .filter(|c| c.status == "True")
            .map(|c| c.type_.as_str())
            .collect();
        let said = status
            .conditions
            .iter()
            .find(|c| !c.message.is_empty())
            .map(|c| c.message.as_str());
        let line = format!(
            "{} {:?} {on:?} {:?} {:?}",
            e.name_any(),
            status.policy_generation,
            status.slot,
            said
        );
        self.lines.push(line);
    }
}

fn works(e: &Enactment) -> bool {
    let conditions = e.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    is_true(conditions, "Progressing") && !is_true(conditions, "Failing")
}

/// A slot for what the node has not gone past.
fn holds(e: &Enactment) -> bool {
    let status = e.status.clone().unwrap_or_default();
    let slot = status.slot.filter(|slot| slot.stands());
    slot.is_some_and(|slot| status.policy_generation.is_none_or(|told| told <= slot.generation))
}

fn follow(dir: &Path, history: Arc<Mutex<History>>) {
    let kubeconfig = dir.join("admin.kubeconfig");
    let work = async move {
        let mut config = netwright::agent::cluster_config(Some(&kubeconfig))
            .await
            .expect("a config");
        config.cluster_url = "https://127.0.0.1:6443".parse().expect("an address");
        let api: Api<Enactment> = Api::all(Client::try_from(config).expect("a client"));
        let mut all = watcher(api, watcher::Config::default()).boxed();
        while let Some(event) = all.next().await {
            match event {
                Ok(event) => history.lock().expect("nobody panicked").take(event),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    };
    inside(dir, Box::pin(work));
}

/// The whole of it.
struct Chaos {
    roles: BTreeMap<String, Role>,
    proxy: Proxy,
    history: Arc<Mutex<History>>,
    rng: Rng,
    generation: u32,
    cluster: Cluster,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        // what holds the node's address is there again after a power cut
        let cluster = Cluster::with(&["--nodes", "2", "--node-option", "--mgmt-profile"]);
        let dir = cluster.dir.0.join("c");
        let proxy = Proxy::start(&dir, inside);
        let history = Arc::new(Mutex::default());
        follow(&dir, Arc::clone(&history));
        let names = NODES.into_iter().chain(CONTROLLERS);
        Chaos {
            roles: names.map(|name| (name.to_owned(), Role::new(&dir, name))).collect(),
            proxy,
            history,
            rng: Rng(seed),
            generation: 0,
            cluster,
        }
    }

    fn dir(&self) -> PathBuf {
        self.cluster.dir.0.join("c")
    }

    fn say(&self, what: &str) {
        println!("{what}");
        self.history
            .lock()
            .expect("nobody panicked")
            .lines
            .push(format!("== {what}"));
    }

    fn role(&mut self, name: &str) -> &mut Role {
        self.roles.get_mut(name).expect("there is one")
    }

    /// The policy asks for something new.
    fn edit(&mut self) {
        self.generation += 1;
        let mtu = 1300 + self.generation % 200;
        let bridge = format!("{{name: br0, type: linux-bridge, state: up, mtu: {mtu}, bridge: {{port: []}}}}");
        self.cluster.kubectl_apply(&format!(
            "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: p}}\nspec: {{maxUnavailable: 1, desiredState: {{interfaces: [{bridge}]}}}}\n"
        ));
    }

    fn pause(&mut self, from: u64, to: u64) {
        let time = self.rng.between(Duration::from_millis(from), Duration::from_millis(to));
        std::thread::sleep(time);
    }

    /// Both nodes have what the policy asks for now, and say so.
    fn is_well(&self) -> Result<(), String> {
        let path = "jsonpath={.metadata.generation} {.status.observedGeneration} {.status.conditions[?(@.status==\"True\")].type} {.status.nodes}";
        let policy = self.try_kubectl(&["get", "nncp", "p", "-o", path])?;
        let words: Vec<&str> = policy.split(' ').collect();
        if words.len() < 3 || words[0] != words[1] || words[2] != "Available" {
            return Err(policy);
        }
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.policyGeneration} {.status.conditions[?(@.status==\"True\")].type}{\"\\n\"}{end}";
        let enactments = self.try_kubectl(&["get", "nnce", "-o", path])?;
        let wanted: String = NODES
            .iter()
            .map(|node| format!("{node}.p {} Available\n", words[0]))
            .collect();
        (enactments == wanted).then_some(()).ok_or(enactments)
    }

    fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let out = self
            .cluster
            .verb("kubectl")
            .args(args)
            .output()
            .expect("kubectl starts");
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            false => Err(common::said(&out)),
        }
    }

    fn gets_well(&self) {
        let begin = Instant::now();
        while let Err(what) = self.is_well() {
            if begin.elapsed() > REST {
                self.give_up(&format!("not well within {REST:?}: {what}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("  well after {:.1} s", begin.elapsed().as_secs_f64());
        let faults = self.history.lock().expect("nobody panicked").faults.clone();
        if !faults.is_empty() {
            self.give_up(&faults.join("\n"));
        }
        for node in NODES {
            let links = must(
                self.cluster
                    .verb("exec")
                    .args([node, "ip", "-o", "link", "show", "br0"]),
            );
            let mtu = format!("mtu {}", 1300 + self.generation % 200);
            assert!(links.contains(&mtu), "{node}: {links} where {mtu} is wanted");
        }
    }

    fn give_up(&self, why: &str) -> ! {
        let lines = self.history.lock().expect("nobody panicked").lines.clone();
        let mut said = lines[lines.len().saturating_sub(60)..].join("\n");
        for name in NODES.iter().chain(&CONTROLLERS) {
            let log = self.cluster.log(&format!("{name}.log"));
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            said += &format!(
                "\n--- {name}\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        panic!("{why}\n{said}");
    }

    /// A new wish, and somebody dies over it.
    fn kill_somebody(&mut self) {
        let names: Vec<String> = self.roles.keys().cloned().collect();
        let first = names[self.rng.below(names.len() as u64) as usize].clone();
        self.edit();
        self.pause(0, 700);
        self.say(&format!("kill -9 {first}"));
        self.role(&first).kill();
        if self.rng.chance(30) {
            let second = names[self.rng.below(names.len() as u64) as usize].clone();
            self.say(&format!("kill -9 {second}"));
            self.role(&second).again();
        }
        self.pause(0, 2000);
        self.role(&first).again();
        self.gets_well();
    }

    /// Whatever was under way, the node comes up with what is on its disk.
    fn power_goes(&mut self) {
        let node = NODES[self.rng.below(NODES.len() as u64) as usize];
        self.edit();
        self.pause(0, 1500);
        self.say(&format!("{node} loses power"));
        self.role(node).kill();
        must(&mut self.cluster.node_verb(node, "power-cut"));
        self.role(node).again();
        self.gets_well();
    }

    fn apiserver_goes_and_etcd_forgets(&mut self, away: Duration) {
        self.say("apiserver stops");
        self.edit();
        self.pause(0, 500);
        must(self.cluster.verb("stop").arg("kube-apiserver"));
        let etcd = |what: &str, body: &str| {
            let mut curl = Command::new("ip");
            let url = format!("http://127.0.0.1:2379/v3/{what}");
            curl.args([
                "netns",
                "exec",
                &control_plane(&self.dir()),
                "curl",
                "-sS",
                &url,
                "-d",
                body,
            ]);
            must(&mut curl)
        };
        let header = etcd("kv/range", "{\"key\": \"AA==\"}");
        let revision = header
            .split("\"revision\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let revision = revision.unwrap_or_else(|| panic!("no revision in {header}"));
        let body = format!("{{\"revision\": \"{revision}\", \"physical\": true}}");
        let done = etcd("kv/compaction", &body);
        assert!(done.contains("revision"), "{done}");
        std::thread::sleep(away);
        must(&mut self.cluster.verb("apiserver"));
        self.say("apiserver starts");
        self.gets_well();
        self.edit();
        self.gets_well();
    }

    fn requests_are_refused(&mut self, time: Duration) {
        self.say("429 and 500 for every second request");
        self.proxy.mood.storm.store(50, Ordering::Relaxed);
        self.proxy.drop_connections();
        self.edit();
        std::thread::sleep(time);
        self.proxy.mood.storm.store(0, Ordering::Relaxed);
        self.gets_well();
        assert!(
            self.proxy.mood.refused.load(Ordering::Relaxed) > 0,
            "nothing was refused"
        );
    }

    fn watches_drop(&mut self) {
        self.say("connections drop");
        for _ in 0..3 {
            self.edit();
            self.pause(0, 300);
            self.proxy.drop_connections();
        }
        self.gets_well();
    }

    /// One after the other finds itself an hour later than all others, and an hour back.
    fn clocks_jump(&mut self) {
        let names: Vec<String> = self.roles.keys().cloned().collect();
        for name in names {
            for seconds in [3600, 0] {
                self.say(&format!("the clock of {name} jumps to {seconds} s"));
                self.edit();
                self.pause(0, 700);
                clock::set(&self.dir(), &name, seconds);
                self.gets_well();
                self.edit();
                self.gets_well();
            }
        }
    }

    fn packets_vanish(&mut self, time: Duration) {
        self.say("packets vanish");
        self.proxy.mood.away.store(true, Ordering::Relaxed);
        self.proxy.drop_connections();
        self.edit();
        std::thread::sleep(time);
        self.proxy.mood.away.store(false, Ordering::Relaxed);
        self.proxy.drop_connections();
        self.gets_well();
    }

    fn node_is_made_anew(&mut self) {
        self.say("node01 is deleted and made again");
        let node = self.cluster.kubectl(&["get", "node", "node01", "-o", "json"]);
        self.edit();
        self.pause(0, 500);
        self.cluster.kubectl(&["delete", "node", "node01"]);
        self.pause(0, 3000);
        let mut node: serde_json::Value = serde_json::from_str(&node).expect("JSON");
        let status = serde_json::json!({"status": {"conditions": node["status"]["conditions"]}}).to_string();
        node["metadata"] = serde_json::json!({"name": "node01", "labels": node["metadata"]["labels"]});
        self.cluster.kubectl_apply(&node.to_string());
        self.cluster.kubectl(&[
            "patch",
            "node",
            "node01",
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ]);
        self.gets_well();
    }
}

#[test]
fn whatever_dies_the_policy_ends_up_on_both_nodes_and_one_at_a_time() {
    if !may_run() {
        return;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let rounds = number("CHAOS_ROUNDS");
    let seed = number("CHAOS_SEED").unwrap_or(u64::from(std::process::id()));
    println!("CHAOS_SEED={seed}");
    let mut chaos = Chaos::new(seed);
    chaos.edit();
    chaos.gets_well();
    // ten minutes in the long run
    let (away, times) = match rounds {
        Some(_) => (Duration::from_secs(600), 3),
        None => (Duration::from_secs(5), 1),
    };
    for _ in 0..times {
        chaos.requests_are_refused(Duration::from_secs(4));
        chaos.watches_drop();
        chaos.packets_vanish(Duration::from_secs(3));
        chaos.node_is_made_anew();
        chaos.clocks_jump();
    }
    chaos.apiserver_goes_and_etcd_forgets(away);
    for round in 0..rounds.unwrap_or(6) {
        println!("round {round}");
        chaos.kill_somebody();
        if round % 2 == 0 {
            chaos.power_goes();
        }
    }
    let changes = chaos.history.lock().expect("nobody panicked").changes;
    println!("{changes} changes of enactments, never two at work");
}
