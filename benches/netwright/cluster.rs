//! A policy's way through a real apiserver, controller and agent, and what those two take of memory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kube::api::{Api, PostParams};
use kube::runtime::wait::await_condition;
use netwright::agent::cluster_config;
use netwright::api::NodeNetworkConfigurationPolicy as Policy;
use serde_json::json;

use super::{bed, verdict};

struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// One node with agent and controller.
    fn up(options: &[&str]) -> Self {
        let cluster = Cluster {
            dir: std::env::temp_dir().join(format!("nwbc{}", std::process::id())),
        };
        cluster.run("up", &[&["--nodes", "1"], options].concat());
        cluster.run("agent", &["node01"]);
        cluster.run("controller", &[]);
        cluster
    }

    fn run(&self, verb: &str, rest: &[&str]) {
        let mut command = Command::new(bed("cluster.sh"));
        command.env("NETWRIGHT_BIN", env!("CARGO_BIN_EXE_netwright"));
        let status = command.arg(verb).arg(&self.dir).args(rest).status();
        assert!(status.expect("the bed's script starts").success(), "cluster.sh {verb}");
    }

    /// Resident memory in MB.
    fn memory(&self, role: &str) -> f64 {
        let pid = std::fs::read_to_string(self.dir.join(format!("{role}.pid"))).expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).expect("it is alive");
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .expect("Linux says so");
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
        kib * 1024.0 / 1e6
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new(bed("cluster.sh")).arg("down").arg(&self.dir).status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Policies one after the other; seconds from the request to Available, sorted.
async fn policies(dir: &Path, count: usize) -> Vec<f64> {
    let config = cluster_config(Some(&dir.join("admin.kubeconfig")))
        .await
        .expect("the bed's kubeconfig");
    let api: Api<Policy> = Api::all(kube::Client::try_from(config).expect("a client"));
    let mut took = vec![];
    for i in 0..count {
        let name = format!("bench{i}");
        let bridge = json!({"name": format!("pb{i}"), "type": "linux-bridge", "state": "up", "bridge": {"port": []}});
        let spec = json!({"desiredState": {"interfaces": [bridge]}});
        let policy = Policy::new(&name, serde_json::from_value(spec).expect("a spec"));
        let begin = Instant::now();
        api.create(&PostParams::default(), &policy).await.expect("created");
        let available = |p: Option<&Policy>| {
            let conditions = p.and_then(|p| p.status.as_ref()).map(|s| s.conditions.as_slice());
            conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Available" && c.status == "True"))
        };
        let waiting = await_condition(api.clone(), &name, available);
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .expect("Available within a minute")
            .expect("watched");
        took.push(begin.elapsed().as_secs_f64());
        // the status of a policy is written once a second at most
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    took.sort_by(f64::total_cmp);
    took
}

/// Prints all of it, or why it cannot.
pub fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    if !Command::new(bed("kube-apiserver.sh"))
        .arg("--can")
        .status()
        .is_ok_and(|s| s.success())
    {
        return println!("no kube-apiserver and no Go to build one: policy → Available and memory are not measured");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    {
        let cluster = Cluster::up(&[]);
        std::thread::sleep(Duration::from_secs(10));
        for (role, name) in [("agent-node01", "agent"), ("controller", "controller")] {
            let memory = cluster.memory(role);
            println!("idle {name:<33}{memory:8.1} MB   {}", verdict(memory, 20.0, " MB"));
        }
        let took = runtime.block_on(policies(&cluster.dir, 7));
        let median = took[took.len() / 2];
        println!(
            "policy → Available, median of 7        {median:8.3} s    {}   from {:.3} to {:.3}",
            verdict(median, 0.3, " s"),
            took[0],
            took[took.len() - 1]
        );
        let memory = cluster.memory("agent-node01");
        println!(
            "agent after that{:22}{memory:8.1} MB   {}",
            "",
            verdict(memory, 20.0, " MB")
        );
    }
    let cluster = Cluster::up(&["--node-option", "--dead-gateway"]);
    let took = runtime.block_on(policies(&cluster.dir, 1))[0];
    println!(
        "the same, gateway and DNS silent{:6}{took:8.3} s    {}",
        "",
        verdict(took, 5.0, " s")
    );
}
