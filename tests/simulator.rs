//! Twenty agents in one process against a real apiserver and controller: what a node and a policy cost, by the apiserver's own count.

use std::time::{Duration, Instant};

use serde_json::json;

mod common;
mod fleet;

use common::{Cluster, may_run, must};
use fleet::{Counts, Fleet};

const NNCE: &str = "nodenetworkconfigurationenactments";
const NNCP: &str = "nodenetworkconfigurationpolicies";
const NNS: &str = "nodenetworkstates";

/// A policy on so many nodes: what that cost.
async fn rolled_out(fleet: &Fleet, name: &str, selector: serde_json::Value, nodes: usize) -> Counts {
    let before = fleet.counts().await;
    let begin = Instant::now();
    fleet.policy(name, json!("50%"), selector).await;
    fleet.available(name, nodes, Duration::from_secs(60)).await;
    let took = begin.elapsed();
    // the states follow within 5 s
    tokio::time::sleep(Duration::from_secs(6)).await;
    let cost = fleet.counts().await.since(&before);
    let each = |n: f64| n / nodes as f64;
    println!(
        "{nodes} nodes in {took:?}: enactment {} writes a node, state {}, node read {} times, policy {} writes, {} lists, {} watches",
        each(cost.writes(NNCE)),
        each(cost.writes(NNS)),
        each(cost.gets("nodes")),
        cost.writes(NNCP),
        cost.lists(),
        cost.watches,
    );
    assert!(each(cost.writes(NNCE)) <= 4.0, "{cost:?}");
    assert!(each(cost.writes(NNS)) <= 2.0, "{cost:?}");
    // the probe before and the probe after
    assert!(each(cost.gets("nodes")) <= 3.0, "{cost:?}");
    // its maker's, the first, the last, and one a second
    assert!(cost.writes(NNCP) <= 4.0 + took.as_secs_f64(), "{cost:?}");
    assert_eq!(cost.lists(), 0.0, "{cost:?}");
    cost
}

#[test]
fn a_node_costs_four_writes_a_policy_and_no_list_however_many_there_are() {
    if !may_run() {
        return;
    }
    let cluster = Cluster::up("1");
    must(&mut cluster.verb("controller"));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _inside = common::enter(&cluster.dir.0.join("c"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut fleet = Fleet::new(&cluster.dir.0.join("c")).await;
        fleet.grow(20, 5).await;
        fleet.is_up(Duration::from_secs(60)).await;
        let few = rolled_out(&fleet, "few", json!({"few": "yes"}), 5).await;
        let all = rolled_out(&fleet, "every", json!({"fleet": "yes"}), 20).await;
        let each = |cost: &Counts, nodes: f64| (cost.writes(NNCE) + cost.writes(NNS) + cost.gets("nodes")) / nodes;
        let (of_five, of_twenty) = (each(&few, 5.0), each(&all, 20.0));
        assert!(
            of_twenty <= of_five * 1.1,
            "one of 5 costs {of_five} requests, one of 20 {of_twenty}"
        );
        // policies, Node, enactments and state of each; three of the controller
        assert!(all.watches <= 4.0 * 20.0 + 3.0 + 4.0, "{} watches", all.watches);
        let before = fleet.counts().await;
        fleet.remove("every").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let cost = fleet.counts().await.since(&before);
        assert!((20.0..=24.0).contains(&cost.deletions(NNCE)), "one each: {cost:?}");
        assert!(cost.gets(NNCP) <= 6.0, "{cost:?}");
    });
}
