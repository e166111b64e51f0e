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

fn becomes(cluster: &Cluster, policy: &str, condition: &str, seconds: u32) {
    let (condition, limit) = (format!("condition={condition}"), format!("{seconds}s"));
    cluster.kubectl(&["wait", "nncp", policy, "--for", &condition, "--timeout", &limit]);
}

fn bridge(name: &str) -> String {
    format!("{{desiredState: {{interfaces: [{{name: {name}, type: linux-bridge, bridge: {{port: []}}}}]}}}}")
}

/// A policy that is at work for a while: its probe never passes.
fn slow(name: &str, seconds: u32) -> String {
    let probe =
        format!("{{name: never, tcp: {{host: 10.99.1.1, port: 4}}, required: true, timeoutSeconds: {seconds}}}");
    bridge(name).replacen('{', &format!("{{probes: [{probe}], "), 1)
}

#[test]
fn a_policy_that_is_replaced_edited_or_deleted_meanwhile_holds_nothing_up() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    let wrong = bridge("br1").replace("port", "prot");
    cluster.kubectl_apply(&policy("replaced", &wrong));
    becomes(&cluster, "replaced", "Degraded", 20);
    let file = cluster.dir.0.join("right.yaml");
    std::fs::write(&file, policy("replaced", &bridge("br1"))).expect("written");
    // the same name and generation, but another policy
    must(cluster.verb("kubectl").args(["replace", "--force", "-f"]).arg(&file));
    becomes(&cluster, "replaced", "Available", 20);

    cluster.kubectl_apply(&policy("edited", &slow("br2", 2)));
    becomes(&cluster, "edited", "Degraded", 20);
    let begin = Instant::now();
    cluster.kubectl_apply(&policy("edited", &bridge("br2")));
    becomes(&cluster, "edited", "Available", 20);
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "it waited for the old one's pause"
    );

    cluster.kubectl_apply(&policy("deleted", &slow("br3", 6)));
    eventually("it is at work", &cluster, Duration::from_secs(20), || {
        cluster.kubectl(&["get", "nnce"]).contains("Progressing")
    });
    cluster.kubectl(&["delete", "nncp", "deleted"]);
    cluster.kubectl_apply(&policy("next", &bridge("br4")));
    becomes(&cluster, "next", "Available", 30);
}

#[test]
fn an_agent_waits_for_networkmanager_ends_after_its_work_and_publishes_again_what_was_deleted() {
    if !may_run() {
        return;
    }
    let cluster = Cluster::up("1");
    let node = cluster.dir.0.join("c/node01");
    let env = std::fs::read_to_string(node.join("env")).expect("the bed's variables");
    let nm = env.lines().find_map(|l| l.strip_prefix("NM_PID=")).expect("a pid");
    must(std::process::Command::new("kill").arg(nm));
    must(cluster.verb("agent").arg("node01"));
    must(&mut cluster.verb("controller"));
    cluster.kubectl_apply(&policy("p", &bridge("br0")));
    let told = |at: &str| {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"{at}\")].message}}");
        cluster.kubectl(&["get", "nnce", "--ignore-not-found", "node01.p", "-o", &path])
    };
    eventually("the cause is told", &cluster, Duration::from_secs(20), || {
        told("Failing").contains("is NetworkManager.service running?")
    });
    std::thread::sleep(Duration::from_secs(20)); // longer than all tries of an apply together
    must(
        std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/node.sh"))
            .arg("restart-nm")
            .arg(&node),
    );
    becomes(&cluster, "p", "Available", 20);

    cluster.kubectl(&["delete", "nns", "node01"]);
    eventually("the state is back", &cluster, Duration::from_secs(10), || {
        cluster.kubectl(&["get", "nns", "-o", "name"]).contains("node01")
    });
    let when = || {
        cluster.kubectl(&[
            "get",
            "nns",
            "node01",
            "-o",
            "jsonpath={.status.lastSuccessfulUpdateTime}",
        ])
    };
    std::thread::sleep(Duration::from_secs(2));
    let before = when();
    cluster.kubectl(&["label", "nns", "node01", "nmstate.io/force-nns-refresh=1"]);
    eventually("a fresh one", &cluster, Duration::from_secs(10), || when() != before);

    cluster.kubectl_apply(&policy("slow", &slow("br1", 5)));
    eventually("it is at work", &cluster, Duration::from_secs(20), || {
        cluster.log("agent-node01.log").contains("as asked for policy=\"slow\"")
    });
    let pid = std::fs::read_to_string(cluster.dir.0.join("c/agent-node01.pid")).expect("a pid");
    must(std::process::Command::new("kill").arg(pid.trim()));
    let alive = || std::path::Path::new("/proc").join(pid.trim()).join("exe").exists();
    eventually("the agent ends by itself", &cluster, Duration::from_secs(30), || {
        !alive()
    });
    assert!(
        cluster.log("agent-node01.log").contains("rolled back after"),
        "but not in the middle"
    );
}

#[test]
fn a_node_whose_own_address_changes_goes_on_at_once() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    let moved = "{desiredState: {interfaces: [{name: mgmt0, type: ethernet, ipv4: {enabled: true, dhcp: false, address: [{ip: 10.99.1.78, prefix-length: 24}]}}]}}";
    let begin = Instant::now();
    cluster.kubectl_apply(&policy("moved", moved));
    becomes(&cluster, "moved", "Available", 30);
    cluster.kubectl_apply(&policy("next", &bridge("br0")));
    becomes(&cluster, "next", "Available", 30);
    // connections from the old address would hang: the first for 10 s, a watch for minutes
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
