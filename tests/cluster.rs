//! Agents and controller on a real apiserver, as a person with kubectl meets them.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, may_run, must};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn started(nodes: &[&str], agent_flags: &[&str]) -> Cluster {
    let cluster = Cluster::up(&nodes.len().to_string());
    for node in nodes {
        must(cluster.verb("agent").arg(node).args(agent_flags));
    }
    must(&mut cluster.verb("controller"));
    cluster
}

fn eventually(what: &str, cluster: &Cluster, limit: Duration, holds: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        if Instant::now() > end {
            panic!(
                "not within {limit:?}: {what}\n{}\n{}",
                cluster.log("agent-node01.log"),
                cluster.log("controller.log")
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

const BR: &str =
    "{desiredState: {interfaces: [{name: br0, type: linux-bridge, state: up, bridge: {port: [{name: eth1}]}}]}}";

/// Writes that the apiserver counted on a resource and its status.
fn writes(cluster: &Cluster, resource: &str) -> f64 {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]);
    let count = |l: &&str| {
        l.starts_with("apiserver_request_total{")
            && l.contains(&format!("resource=\"{resource}\""))
            && ["POST", "PUT", "PATCH", "APPLY", "DELETE"]
                .iter()
                .any(|v| l.contains(&format!("verb=\"{v}\"")))
    };
    metrics
        .lines()
        .filter(count)
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn a_policy_is_applied_once_and_restarts_touch_nothing() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    let begin = Instant::now();
    cluster.kubectl_apply(&policy("br0", BR));
    cluster.kubectl(&[
        "wait",
        "nncp",
        "br0",
        "--for",
        "condition=Available",
        "--timeout",
        "20s",
    ]);
    let (nnce, nncp) = (
        writes(&cluster, "nodenetworkconfigurationenactments"),
        writes(&cluster, "nodenetworkconfigurationpolicies"),
    );
    println!("writes: {nnce} on the enactment, {nncp} on the policy (one of them ours)");
    assert!(nnce <= 4.0, "{nnce} writes on the enactment");
    // the user's own, the first, the last, and one for each second that a slow machine took
    let allowed = 3.0 + begin.elapsed().as_secs_f64().floor();
    assert!(
        nncp <= allowed,
        "{nncp} writes on the policy where {allowed} are allowed"
    );

    let log = |c: &Cluster| {
        must(
            c.verb("exec")
                .args(["node01", "cat"])
                .arg(c.dir.0.join("c/node01/NetworkManager.log")),
        )
    };
    let touched = |c: &Cluster| log(c).lines().filter(|l| l.contains("audit: op=")).count();
    let before = touched(&cluster);
    cluster.kubectl(&["label", "node", "node01", "rack=7"]);
    must(cluster.verb("stop").arg("agent-node01"));
    must(cluster.verb("agent").arg("node01"));
    eventually("the agent is back", &cluster, Duration::from_secs(10), || {
        cluster.log("agent-node01.log").matches("is up").count() >= 1
    });
    cluster.kubectl_apply(&policy("br0", BR));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        touched(&cluster),
        before,
        "NetworkManager was touched\n{}\n{}",
        log(&cluster),
        cluster.log("agent-node01.log")
    );
    assert_eq!(
        writes(&cluster, "nodenetworkconfigurationenactments"),
        nnce,
        "the enactment was written"
    );
    let status = cluster.kubectl(&["get", "nnce", "node01.br0", "--no-headers"]);
    assert!(status.contains("Available"), "{status}");
}

#[test]
fn a_wrong_policy_fails_with_the_path_and_can_be_mended() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    cluster.kubectl_apply(&policy(
        "p",
        "{desiredState: {interfaces: [{name: br0, type: linux-bridge, bridge: {prot: []}}]}}",
    ));
    cluster.kubectl(&["wait", "nncp", "p", "--for", "condition=Degraded", "--timeout", "20s"]);
    let message = cluster.kubectl(&[
        "get",
        "nnce",
        "node01.p",
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"Failing\")].message}",
    ]);
    assert!(
        message.contains("spec.desiredState.interfaces[br0].bridge.prot"),
        "{message}"
    );
    cluster.kubectl_apply(&policy("p", BR));
    cluster.kubectl(&["wait", "nncp", "p", "--for", "condition=Available", "--timeout", "20s"]);

    cluster.kubectl_apply(&policy(
        "p",
        "{nodeSelector: {nobody: has-this}, desiredState: {interfaces: []}}",
    ));
    cluster.kubectl(&["wait", "nncp", "p", "--for", "condition=Ignored", "--timeout", "20s"]);
    eventually("the enactment is gone", &cluster, Duration::from_secs(10), || {
        cluster.kubectl(&["get", "nnce", "-o", "name"]).is_empty()
    });
    cluster.kubectl(&["delete", "nncp", "p"]);
}

#[test]
fn captures_are_kept_in_the_enactment_while_only_the_wish_changes() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    must(
        cluster
            .verb("exec")
            .args(["node01", "ip", "link", "set", "eth1", "mtu", "1400"]),
    );
    let apply = |capture: &str, rest: &str| {
        let spec = format!(
            "{{capture: {{{capture}}}, desiredState: {{interfaces: [{{name: '{{{{ capture.odd.interfaces.0.name }}}}', type: ethernet, state: up, mtu: 1450, {rest}}}]}}}}"
        );
        cluster.kubectl_apply(&policy("p", &spec));
    };
    let told = |path: &str| {
        let path = format!("jsonpath={{.status.{path}}}");
        cluster.kubectl(&["get", "nnce", "node01.p", "-o", &path])
    };
    let generation = |n: &str| {
        eventually("it is Available", &cluster, Duration::from_secs(20), || {
            let path = "jsonpath={.items[*].status.policyGeneration} {.items[*].status.conditions[?(@.status==\"True\")].type}";
            cluster.kubectl(&["get", "nnce", "-o", path]) == format!("{n} Available")
        });
    };
    apply("odd: interfaces.mtu == 1400, all: ''", "description: first");
    generation("1");
    assert_eq!(told("capturedStates.odd.state.interfaces[*].name"), "eth1");
    assert_eq!(told("capturedStates.odd.metaInfo.version"), "0");
    assert_eq!(told("desiredState.interfaces[0].name"), "eth1");

    // now no interface has 1400 any more; also not for an agent that starts afresh
    apply("odd: interfaces.mtu == 1400, all: ''", "description: second");
    generation("2");
    must(cluster.verb("stop").arg("agent-node01"));
    apply("odd: interfaces.mtu == 1400, all: ''", "description: third");
    must(cluster.verb("agent").arg("node01"));
    generation("3");

    apply("odd: interfaces.mtu == 1450", "description: fourth");
    generation("4");
    assert_eq!(told("capturedStates.odd.state.interfaces[*].mtu"), "1450");
    assert_eq!(
        told("capturedStates.all"),
        "",
        "a capture that is gone leaves nothing behind"
    );

    apply("odd: interfaces.mtu == 1400", "description: fifth");
    cluster.kubectl(&["wait", "nncp", "p", "--for", "condition=Degraded", "--timeout", "20s"]);
    let message = told("conditions[?(@.type==\"Failing\")].message");
    let want = "spec.capture.odd: not found: no entry of interfaces has mtu equal to '1400'
| interfaces.mtu == 1400
| ..................^";
    assert_eq!(message, want);
}

#[test]
fn packets_that_vanish_silently_roll_back_when_the_probe_times_out() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &["--probe-timeout", "10", "--probe-retries", "0"]);
    // the new address is in the old network: every route stays, but the far side drops what comes from it
    must(
        std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/node.sh"))
            .args(["silence"])
            .arg(cluster.dir.0.join("c/node01"))
            .arg("10.99.1.77/32"),
    );
    let spec = "{desiredState: {interfaces: [{name: mgmt0, type: ethernet, ipv4: {enabled: true, dhcp: false, address: [{ip: 10.99.1.77, prefix-length: 24}]}}]}}";
    let begin = Instant::now();
    cluster.kubectl_apply(&policy("silent", spec));
    cluster.kubectl(&[
        "wait",
        "nncp",
        "silent",
        "--for",
        "condition=Degraded",
        "--timeout",
        "40s",
    ]);
    println!("failed and back after {:?}", begin.elapsed());
    let addresses = must(
        cluster
            .verb("exec")
            .args(["node01", "ip", "-br", "addr", "show", "mgmt0"]),
    );
    assert!(addresses.contains("10.99.1.2/24"), "{addresses}");
    let message = cluster.kubectl(&[
        "get",
        "nnce",
        "node01.silent",
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"Failing\")].message}",
    ]);
    assert!(
        message.contains("probe ") && message.contains("rolled back"),
        "{message}"
    );
}
