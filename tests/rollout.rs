//! A roll-out under everything that may happen to a cluster, in thousands of random schedules: never more nodes at work than the policy
//! allows, and afterwards all of it ends without a hand. `PROPTEST_CASES=5000` for more.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

mod common;
mod sim;

use sim::{Happening, Machines, Simulation, WIDTHS};

/// How long a cluster may take to come to rest once nothing hurts it any more.
const REST: Duration = Duration::from_secs(900);

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    nodes: usize,
    width: usize,
    machines: Machines,
    schedule: Vec<(u64, Happening)>,
}

fn run(case: &Case, all_well: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut simulation = Simulation::new(case.seed, case.machines);
        for n in 0..case.nodes {
            simulation.join(n);
        }
        simulation.policy(WIDTHS[case.width], 0);
        simulation.run(&case.schedule, case.nodes).await;
        let settled = simulation.settles(REST, all_well).await;
        let mut faults = simulation.history.faults.lock().expect("nobody panicked").clone();
        faults.extend(settled.err());
        match faults.is_empty() {
            true => Ok(()),
            false => Err(format!("{}\n{}", faults.join("\n"), simulation.history.tail())),
        }
    })
}

fn case(failing: u64, happening: impl Strategy<Value = Happening> + 'static) -> impl Strategy<Value = Case> {
    let schedule = vec((0..120_000u64, happening), 0..8);
    (any::<u64>(), 2..7usize, 0..WIDTHS.len(), 1..40u64, schedule).prop_map(
        move |(seed, nodes, width, slow, schedule)| Case {
            seed,
            nodes,
            width,
            machines: Machines {
                slow: Duration::from_secs(slow),
                failing,
            },
            schedule,
        },
    )
}

/// What must not cost a single node its policy.
fn bearable() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let n = || any::<usize>().prop_map(|n| n % 8);
    prop_oneof![
        (n(), 1..90u64).prop_map(|(n, t)| ControllerDies(n, t)),
        (n(), 1..90u64).prop_map(|(n, t)| ControllerCutOff(n, t)),
        (n(), 1..20_000u64, 1..90u64).prop_map(|(n, late, t)| NodeLags(n, late, t)),
        (n(), 1..20_000u64, 1..90u64).prop_map(|(n, late, t)| ControllerLags(n, late, t)),
        (1..90u64).prop_map(Outage),
        (5..60u64, 1..60u64).prop_map(|(percent, t)| Storm(percent, t)),
        Just(Compaction),
        Just(WatchesDrop),
        Just(Edit),
        n().prop_map(Width),
        (1..30u64).prop_map(Paused),
        (n(), 1..60u64).prop_map(|(n, t)| Relabelled(n, t)),
        n().prop_map(NodeReplaced),
    ]
}

/// What may.
fn unbearable() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let n = || any::<usize>().prop_map(|n| n % 8);
    prop_oneof![
        5 => bearable(),
        2 => (n(), 1..120u64).prop_map(|(n, t)| AgentDies(n, t)),
        1 => (n(), 1..120u64).prop_map(|(n, t)| NodeCutOff(n, t)),
        1 => (n(), 1..60u64).prop_map(|(n, t)| NodeLeaves(n, t)),
        1 => (n(), -4000..4000i64).prop_map(|(n, s)| NodeClock(n, s)),
        1 => (n(), -4000..4000i64).prop_map(|(n, s)| ControllerClock(n, s)),
    ]
}

/// Somebody who tidies up. Not together with a controller that dies: its successor cannot know of what was deleted before the node says so.
fn tidied() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let n = || any::<usize>().prop_map(|n| n % 8);
    prop_oneof![
        6 => n().prop_map(EnactmentDeleted),
        1 => Just(Edit),
        1 => n().prop_map(Width),
        1 => Just(Compaction),
        1 => Just(WatchesDrop),
        1 => (n(), 1..20_000u64, 1..90u64).prop_map(|(n, late, t)| ControllerLags(n, late, t)),
        1 => (n(), 1..20_000u64, 1..90u64).prop_map(|(n, late, t)| NodeLags(n, late, t)),
    ]
}

fn hold(cases: u32, strategy: impl Strategy<Value = Case>, all_well: bool) {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|c| c.parse().ok())
        .unwrap_or(cases);
    let config = Config {
        cases,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u8);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let held = runner.run(&strategy, |case| run(&case, all_well).map_err(TestCaseError::fail));
    if let Err(e) = held {
        panic!("{e}");
    }
}

#[test]
fn all_nodes_get_it_whatever_happens_to_apiserver_controllers_and_watches() {
    hold(25, case(0, bearable()), true);
}

#[test]
fn an_enactment_that_is_deleted_while_its_node_works_lets_nobody_else_begin() {
    hold(25, case(0, tidied()), true);
}

#[test]
fn never_more_at_work_than_allowed_and_an_end_in_any_case() {
    hold(25, case(10, unbearable()), false);
}
