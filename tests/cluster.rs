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

/// GET of a page from inside the node, or beside the apiserver.
fn page(cluster: &Cluster, inside: Option<&str>, port: u16, path: &str) -> String {
    let get = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nAccept: application/openmetrics-text\\r\\n\\r\\n' >&3; cat <&3"
    );
    let output = match inside {
        Some(node) => cluster.verb("exec").args([node, "bash", "-c", &get]).output(),
        None => {
            let netns = cluster.env("CP_NETNS");
            let mut ip = std::process::Command::new("ip");
            ip.args(["netns", "exec", &netns, "bash", "-c", &get]).output()
        }
    };
    String::from_utf8_lossy(&output.expect("bash").stdout).into_owned()
}

/// Names in these sections of METRICS.md, as their samples are called.
fn promised(sections: &[&str]) -> Vec<String> {
    let parts = include_str!("../deploy/METRICS.md").split("\n## ");
    let ours = parts.filter(|p| sections.iter().any(|s| p.starts_with(&format!("{s}\n"))));
    let rows = ours.flat_map(|p| p.lines().filter_map(|l| l.strip_prefix("| `")));
    let sample = |row: &str| {
        let name = row.split('`').next().unwrap_or_default();
        let histogram = row.split('|').nth(1).is_some_and(|kind| kind.trim() == "histogram");
        if histogram {
            format!("{name}_count")
        } else {
            name.to_owned()
        }
    };
    rows.map(sample).collect()
}

#[test]
fn agent_and_controller_tell_prometheus_all_that_is_promised() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    let spec = "{desiredState: {interfaces: [{name: br0, type: linux-bridge, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}, bridge: {port: [{name: eth1}]}}], routes: {config: [{destination: 198.51.100.0/24, next-hop-address: 192.0.2.9, next-hop-interface: br0}]}}}";
    cluster.kubectl_apply(&policy("p", spec));
    becomes(&cluster, "p", "Available", 30);
    let agent = || page(&cluster, Some("node01"), 8089, "/metrics");
    let controller = || page(&cluster, None, 8090, "/metrics");
    let bridge = "kubernetes_nmstate_network_interfaces{type=\"linux-bridge\",node=\"node01\"} 1";
    eventually("the state is counted", &cluster, Duration::from_secs(15), || {
        controller().contains(bridge)
    });
    for (text, sections) in [(agent(), ["Agent", "Both"]), (controller(), ["Controller", "Both"])] {
        assert!(
            text.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
        let names = promised(&sections);
        assert!(names.len() > 15, "{names:?}");
        for name in names {
            let there = text
                .lines()
                .any(|l| l.starts_with(&format!("{name}{{")) || l.starts_with(&format!("{name} ")));
            assert!(there, "{name} is missing\n{text}");
        }
    }
    let (agent, controller) = (agent(), controller());
    for (text, line) in [
        (&agent, "netwright_apply_attempts_total{outcome=\"applied\"} 1"),
        (
            &agent,
            "netwright_apply_phase_duration_seconds_count{phase=\"commit\"} 1",
        ),
        (
            &agent,
            "netwright_apply_phase_duration_seconds_count{phase=\"rollback\"} 0",
        ),
        (&agent, "netwright_apply_started_timestamp_seconds 0.0"),
        (&agent, "netwright_slot_wait_seconds_count 1"),
        (
            &agent,
            "netwright_probe_checks_total{probe=\"gateway\",round=\"after\",result=\"pass\"} 1",
        ),
        (
            &agent,
            "netwright_dbus_calls_total{method=\"CheckpointDestroy\",result=\"ok\"} 1",
        ),
        (&agent, "netwright_policy_drifted{policy=\"p\"} 0"),
        (&controller, "netwright_leader 1"),
        (&controller, "netwright_slots_granted_total 1"),
        (&controller, "netwright_slots_held{policy=\"p\"} 0"),
        (&controller, "netwright_slots_allowed{policy=\"p\"} 1"),
        (
            &controller,
            "kubernetes_nmstate_policies_status{status=\"Available\"} 1",
        ),
        (
            &controller,
            "kubernetes_nmstate_enactments_status{node=\"node01\",status=\"Available\"} 1",
        ),
        (
            &controller,
            "kubernetes_nmstate_features_applied{name=\"static-route\"} 1",
        ),
        (
            &controller,
            "kubernetes_nmstate_routes{node=\"node01\",ip_stack=\"ipv4\",type=\"static\"} 2",
        ),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    for at in ["/healthz", "/readyz"] {
        assert!(
            page(&cluster, Some("node01"), 8089, at).starts_with("HTTP/1.1 200 "),
            "{at}"
        );
        assert!(page(&cluster, None, 8090, at).starts_with("HTTP/1.1 200 "), "{at}");
    }
    println!(
        "the agent's text has {} bytes, the controller's {}",
        agent.len(),
        controller.len()
    );
}

#[test]
fn veths_of_pods_that_come_and_go_are_neither_shown_nor_a_storm() {
    if !may_run() {
        return;
    }
    let cluster = Cluster::up("1");
    let node = cluster.dir.0.join("c/node01");
    // as udev's rules have it on a machine
    std::fs::write(
        node.join("nm/etc/conf.d/pods.conf"),
        "[keyfile]\nunmanaged-devices=interface-name:pod*\n",
    )
    .expect("written");
    let bed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/node.sh");
    must(std::process::Command::new(bed).arg("restart-nm").arg(&node));
    let inside = |script: &str| must(cluster.verb("exec").args(["node01", "sh", "-ec", script]));
    inside(
        "ip link add cni0 address 02:00:00:00:00:01 type bridge; ip link set cni0 up
         ip link add pod0 type veth peer name podp0; ip link set pod0 master cni0 up; ip link set podp0 up",
    );
    must(cluster.verb("agent").arg("node01"));
    let state = |at: &str| {
        cluster.kubectl(&[
            "get",
            "nns",
            "--ignore-not-found",
            "node01",
            "-o",
            &format!("jsonpath={{{at}}}"),
        ])
    };
    eventually("the state is there", &cluster, Duration::from_secs(15), || {
        state(".status.currentState.interfaces[*].name").contains("cni0")
    });
    std::thread::sleep(Duration::from_secs(8)); // duplicate address detection is through, too
    let pods = "for n in $(seq 1 100); do ip link add pod$n type veth peer name podp$n; ip link set pod$n master cni0 up; ip link set podp$n up; done
         for n in $(seq 1 100); do ip link del pod$n; done";
    let before = writes(&cluster, "nodenetworkstates");
    let begin = Instant::now();
    inside(pods);
    inside(pods);
    println!("400 comings and goings in {:?}", begin.elapsed());
    std::thread::sleep(Duration::from_secs(7));
    let names = state(".status.currentState.interfaces[*].name");
    assert!(!names.contains("pod"), "{names}");
    assert_eq!(writes(&cluster, "nodenetworkstates"), before, "{}", state(".status"));

    // something that is shown changes all the while
    let begin = Instant::now();
    inside(&format!(
        "end=$(($(date +%s) + 17)); (while [ $(date +%s) -lt $end ]; do for mtu in 1400 1401; do ip link set eth2 mtu $mtu; sleep 0.1; done; done) &
         while [ $(date +%s) -lt $end ]; do {pods}; done; wait; ip link set eth2 mtu 1402"
    ));
    let stopped = Instant::now();
    eventually("the last change is shown", &cluster, Duration::from_secs(7), || {
        state(".status.currentState.interfaces[?(@.name==\"eth2\")].mtu") == "1402"
    });
    let (late, took) = (stopped.elapsed(), begin.elapsed());
    let written = writes(&cluster, "nodenetworkstates") - before;
    println!("{written} writes in {took:?}, the last change was shown after {late:?}");
    assert!(
        written >= 2.0 && written <= took.as_secs_f64() / 5.0 + 1.0,
        "{written} writes in {took:?}"
    );
}

#[test]
fn bridges_are_marked_on_their_own_node_only() {
    if !may_run() {
        return;
    }
    let cluster = Cluster::up("2");
    let rights = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/components/bridge-marker/rbac.yaml");
    cluster.kubectl(&["apply", "-f", rights]);
    must(cluster.verb("agent").args(["node01", "--bridge-marker"]));
    must(&mut cluster.verb("controller"));
    let marks = |list: &str| {
        let nodes = cluster.kubectl(&["get", "node", "node01", "-o", &format!("jsonpath={{.status.{list}}}")]);
        nodes.contains("\"bridge.network.kubevirt.io/br0\":\"1k\"") && nodes.contains("\"cpu\":\"2\"")
    };
    let here = BR.replacen('{', "{nodeSelector: {kubernetes.io/hostname: node01}, ", 1);
    cluster.kubectl_apply(&policy("p", &here));
    becomes(&cluster, "p", "Available", 20);
    eventually("it is marked", &cluster, Duration::from_secs(15), || {
        marks("capacity") && marks("allocatable")
    });
    // who takes it away finds it there again
    let away = "{\"status\": {\"capacity\": {\"bridge.network.kubevirt.io/br0\": null}}}";
    cluster.kubectl(&[
        "patch",
        "node",
        "node01",
        "--subresource",
        "status",
        "--type",
        "merge",
        "-p",
        away,
    ]);
    eventually("it is marked again", &cluster, Duration::from_secs(10), || {
        marks("capacity")
    });
    cluster.kubectl_apply(&policy("p", &here.replace("state: up", "state: absent")));
    eventually("the mark is gone", &cluster, Duration::from_secs(20), || {
        !cluster
            .kubectl(&["get", "node", "node01", "-o", "jsonpath={.status}"])
            .contains("br0")
    });

    let bed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/kube-apiserver.sh");
    let kubectl = must(std::process::Command::new(bed).arg("kubectl"));
    let config = cluster.dir.0.join("c/agent-node01.kubeconfig");
    // kubectl looks before it patches
    cluster.kubectl(&["create", "clusterrole", "look", "--verb=get", "--resource=nodes/status"]);
    let agents = "--serviceaccount=nmstate:netwright-agent";
    cluster.kubectl(&["create", "clusterrolebinding", "look", "--clusterrole=look", agents]);
    let may_patch = |node: &str, patch: &str| {
        let mut asked = cluster.verb("exec");
        asked.args(["node01", kubectl.trim(), "--kubeconfig"]).arg(&config);
        asked.args([
            "patch",
            "node",
            node,
            "--subresource",
            "status",
            "--dry-run=server",
            "--type",
            "merge",
            "-p",
            patch,
        ]);
        common::said(&asked.output().expect("kubectl"))
    };
    let mark = "{\"status\": {\"capacity\": {\"bridge.network.kubevirt.io/x\": \"1k\"}}}";
    assert!(
        may_patch("node01", mark).contains("patched"),
        "{}",
        may_patch("node01", mark)
    );
    for (node, patch, want) in [
        ("node02", mark, "may write only the status of the Node of that name"),
        (
            "node01",
            "{\"status\": {\"capacity\": {\"cpu\": \"64\"}}}",
            "may change no resources of a Node but its bridges",
        ),
        (
            "node01",
            "{\"status\": {\"conditions\": null}}",
            "may change nothing of a Node but its bridges",
        ),
        (
            "node01",
            "{\"metadata\": {\"labels\": {\"a\": \"b\"}}}",
            "may change nothing of a Node but its bridges",
        ),
    ] {
        let said = may_patch(node, patch);
        assert!(said.contains(want), "{patch} on {node}: {said}");
    }
}

#[test]
fn the_journal_can_be_searched_by_policy_enactment_interface_and_phase() {
    if !may_run() {
        return;
    }
    let cluster = Cluster::up("1");
    let entries = cluster.dir.0.join("journal");
    // takes what would go to journald
    let listen = "import os, socket, sys
os.makedirs('/run/systemd/journal')
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('/run/systemd/journal/socket')
out = open(sys.argv[1], 'wb', 0)
while True: out.write(s.recv(1 << 20))";
    let mut listening = cluster.verb("exec");
    listening.args(["node01", "python3", "-c", listen]).arg(&entries);
    let mut listener = listening.spawn().expect("python3");
    eventually("somebody listens", &cluster, Duration::from_secs(10), || {
        entries.exists()
    });
    must(cluster.verb("agent").arg("node01").env("JOURNAL_STREAM", "1:1"));
    must(&mut cluster.verb("controller"));
    cluster.kubectl_apply(&policy("p", BR));
    becomes(&cluster, "p", "Available", 20);
    let has = |name: &str, value: &str| {
        // journald's native protocol: name, length, value
        let mut field = format!("{name}\n").into_bytes();
        field.extend((value.len() as u64).to_le_bytes());
        field.extend(format!("{value}\n").bytes());
        let all = std::fs::read(&entries).unwrap_or_default();
        all.windows(field.len()).any(|w| w == field)
    };
    for (name, value) in [
        ("POLICY", "p"),
        ("ENACTMENT", "node01.p"),
        ("INTERFACE", "br0,eth1"),
        ("PHASE", "checkpoint"),
        ("PHASE", "commit"),
    ] {
        eventually(&format!("{name}={value}"), &cluster, Duration::from_secs(5), || {
            has(name, value)
        });
    }
    listener.kill().expect("it runs");
    listener.wait().expect("it ends");
    assert_eq!(cluster.log("agent-node01.log"), "", "and nothing is said twice");
}
