//! `make bench-scale`: what a node and a policy cost the cluster. First so many agents in this process, the real code over fake machines,
//! against a real apiserver and controller (`SIZES="100 300"`); then thousands in a time of their own against an apiserver in memory
//! (`SIMULATED=5000`). What misses its target is marked.

use std::time::{Duration, Instant};

use serde_json::json;

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/fleet/mod.rs"]
mod fleet;
#[path = "../../tests/sim/mod.rs"]
mod sim;

use common::{Cluster, must};
use fleet::{Fleet, process};
use sim::{Machines, Simulation};

const NNCE: &str = "nodenetworkconfigurationenactments";
const NNCP: &str = "nodenetworkconfigurationpolicies";
const NNS: &str = "nodenetworkstates";

fn verdict(got: f64, limit: f64) -> String {
    let word = if got <= limit { "ok" } else { "MISSED" };
    format!("{word} (≤ {limit:.1})")
}

fn numbers(name: &str, usual: &str) -> Vec<usize> {
    let text = std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for size in numbers("SIMULATED", "5000") {
        simulated(size);
    }
    live();
}

fn live() {
    let cluster = Cluster::up("1");
    must(&mut cluster.verb("controller"));
    let dir = cluster.dir.0.join("c");
    let pid = std::fs::read_to_string(dir.join("controller.pid")).expect("it runs");
    let controller: u32 = pid.trim().parse().expect("a pid");
    let _inside = common::enter(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut fleet = Fleet::new(&dir).await;
        let mut first = None;
        for size in numbers("SIZES", "100 300") {
            let begin = Instant::now();
            fleet.grow(size, 0).await;
            fleet.is_up(Duration::from_secs(600)).await;
            println!(
                "{size} agents are up and have published after {:.1} s",
                begin.elapsed().as_secs_f64()
            );
            let cost = one(&mut fleet, size, controller).await;
            let before = *first.get_or_insert(cost);
            println!(
                "  requests a node, beside the first size: {:.2}x   {}",
                cost / before,
                verdict(cost / before, 1.1)
            );
        }
    });
}

/// Idle for a minute, then a policy on all at 10 %. Gives the requests a node.
async fn one(fleet: &mut Fleet, size: usize, controller: u32) -> f64 {
    let each = |n: f64| n / size as f64;
    // nodes that had an earlier one have to change again
    let policy = format!("scale{size}");
    let (before, cpu) = (fleet.counts().await, process(controller).0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let idle = fleet.counts().await.since(&before);
    let resources = [NNCE, NNCP, NNS, "nodes"];
    let writes: f64 = resources.iter().map(|r| idle.writes(r)).sum();
    let gets: f64 = resources.iter().map(|r| idle.gets(r)).sum();
    println!(
        "  idle for a minute: {writes} writes, {gets} reads, {} lists, controller {:.2} s of processor",
        idle.lists(),
        process(controller).0 - cpu
    );
    for (what, count) in idle.rows().filter(|(_, count)| *count > size as f64 / 10.0) {
        println!("    {count:6.0} {what}");
    }
    let (before, cpu) = (fleet.counts().await, process(controller).0);
    fleet.policy(&policy, json!("10%"), json!({"fleet": "yes"})).await;
    let took = fleet.available(&policy, size, Duration::from_secs(1200)).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let cost = fleet.counts().await.since(&before);
    let (used, memory) = process(controller);
    let ours = process(std::process::id()).1;
    println!("  roll-out at 10 %: {:.1} s", took.as_secs_f64());
    println!(
        "  writes on an enactment {:24.2}   {}",
        each(cost.writes(NNCE)),
        verdict(each(cost.writes(NNCE)), 4.0)
    );
    println!("  writes on a state {:29.2}", each(cost.writes(NNS)));
    println!("  reads a node {:34.2}", each(cost.gets("nodes")));
    println!("  lists in all {:34.0}   {}", cost.lists(), verdict(cost.lists(), 0.0));
    println!("  writes on the policy {:26.0}   one a second", cost.writes(NNCP));
    println!("  bytes answered a node {:25.0}", each(cost.bytes()));
    println!(
        "  watches a node {:32.2}   {}",
        each(cost.watches - 7.0),
        verdict(each(cost.watches - 7.0), 4.0)
    );
    println!(
        "  controller: {:.2} s of processor, {memory:.1} MB; all agents together {ours:.1} MB",
        used - cpu
    );
    let before = fleet.counts().await;
    fleet.remove(&policy).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let end = each(fleet.counts().await.since(&before).deletions(NNCE));
    println!("  deletions when the policy goes {end:16.2}   {}", verdict(end, 1.1));
    each(cost.writes(NNCE) + cost.writes(NNS) + cost.gets("nodes"))
}

/// The same in a time of its own.
fn simulated(size: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let begin = Instant::now();
    runtime.block_on(async {
        let machines = Machines {
            slow: Duration::from_secs(1),
            failing: 0,
        };
        let mut simulation = Simulation::new(1, machines);
        for n in 0..size {
            simulation.join(n);
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let before = simulation.server.requests();
        simulation.policy("10%", 0);
        let took = simulation
            .settles(Duration::from_secs(3600), true)
            .await
            .expect("it settles");
        let after = simulation.server.requests();
        println!(
            "{size} simulated agents, roll-out at 10 %: {:.1} s of theirs",
            took.as_secs_f64()
        );
        for (request, count) in after {
            let count = count - before.get(&request).unwrap_or(&0);
            if count > 0 {
                println!("  {request:<50}{:10.2} a node", count as f64 / size as f64);
            }
        }
        let faults = simulation.history.faults.lock().expect("nobody panicked").clone();
        println!(
            "  more at work than allowed: {}   {}",
            faults.len(),
            verdict(faults.len() as f64, 0.0)
        );
    });
    let (cpu, memory) = process(std::process::id());
    println!(
        "  in {:.1} s here, {cpu:.1} s of processor, {memory:.0} MB for all",
        begin.elapsed().as_secs_f64()
    );
}
