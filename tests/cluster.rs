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
    let logs = || {
        ["agent-node01.log", "controller.log"]
            .map(|log| cluster.log(log))
            .join("\n")
    };
    common::wait_for(what, limit, holds, logs);
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
    must(cluster.node_verb("node01", "silence").arg("10.99.1.77/32"));
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
    must(std::process::Command::new("kill").arg(cluster.node_env("node01", "NM_PID")));
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
    must(&mut cluster.node_verb("node01", "restart-nm"));
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

/// A command on the first node.
fn on_node(cluster: &Cluster, command: &[&str]) -> String {
    must(cluster.verb("exec").arg("node01").args(command))
}

fn set_mtu(cluster: &Cluster, link: &str, mtu: &str) {
    on_node(cluster, &["ip", "link", "set", link, "mtu", mtu]);
}

fn has(cluster: &Cluster, link: &str, what: &str) -> bool {
    let out = cluster
        .verb("exec")
        .args(["node01", "ip", "link", "show", link])
        .output();
    out.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(what))
}

/// Part of an enactment's status on the first node; empty where there is none.
fn status(cluster: &Cluster, policy: &str, path: &str) -> String {
    let (name, path) = (format!("node01.{policy}"), format!("jsonpath={{.status.{path}}}"));
    cluster.kubectl(&["get", "nnce", "--ignore-not-found", &name, "-o", &path])
}

fn becomes_here(cluster: &Cluster, policy: &str, condition: &str, seconds: u32) {
    let (name, condition) = (format!("node01.{policy}"), format!("condition={condition}"));
    let limit = format!("{seconds}s");
    cluster.kubectl(&["wait", "nnce", &name, "--for", &condition, "--timeout", &limit]);
}

/// Events of policies, a line each: `Warning Drifted br0: …`.
fn events(cluster: &Cluster) -> String {
    let line = "{range .items[*]}{.type} {.reason} {.involvedObject.name}: {.message}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "events", "-n", "default", "-o", &format!("jsonpath={line}")])
}

/// Lines of NetworkManager's log on the first node that tell of something done over D-Bus.
fn touched(cluster: &Cluster) -> usize {
    let log = cluster.log("node01/NetworkManager.log");
    log.lines().filter(|l| l.contains("audit: op=")).count()
}

fn mtu(mode: &str, value: u32) -> String {
    format!("{{{mode}desiredState: {{interfaces: [{{name: eth1, type: ethernet, state: up, mtu: {value}}}]}}}}")
}

#[test]
fn drift_is_told_once_outlives_a_restart_and_ends_when_it_is_gone() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    cluster.kubectl_apply(&policy("p", &mtu("", 1400)));
    becomes(&cluster, "p", "Available", 20);
    becomes_here(&cluster, "p", "Drifted=False", 5);
    let before = touched(&cluster);
    set_mtu(&cluster, "eth1", "1450");
    becomes_here(&cluster, "p", "Drifted", 20);
    let line = "interfaces[eth1].mtu: 1450 → 1400";
    assert_eq!(status(&cluster, "p", "drift.differences[*]"), line);
    assert_eq!(
        status(&cluster, "p", "conditions[?(@.type==\"Drifted\")].message"),
        line
    );
    becomes_here(&cluster, "p", "Available", 1);
    eventually("the policy counts it", &cluster, Duration::from_secs(5), || {
        cluster.kubectl(&["get", "nncp", "p", "-o", "jsonpath={.status.nodes.drifted}"]) == "1"
    });
    let told = format!("Warning Drifted p: {line}");
    eventually("an event", &cluster, Duration::from_secs(5), || {
        events(&cluster).contains(&told)
    });

    let (since, nnce) = (
        status(&cluster, "p", "drift.since"),
        writes(&cluster, "nodenetworkconfigurationenactments"),
    );
    must(cluster.verb("stop").arg("agent-node01"));
    must(cluster.verb("agent").arg("node01"));
    std::thread::sleep(Duration::from_secs(12)); // more than a difference must last
    assert_eq!(status(&cluster, "p", "drift.since"), since);
    assert_eq!(
        writes(&cluster, "nodenetworkconfigurationenactments"),
        nnce,
        "nothing new is told"
    );
    assert!(has(&cluster, "eth1", "mtu 1450"), "mode Apply only reports");
    assert_eq!(touched(&cluster), before, "NetworkManager was touched");

    set_mtu(&cluster, "eth1", "1400");
    becomes_here(&cluster, "p", "Drifted=False", 20);
    assert_eq!(status(&cluster, "p", "drift"), "");
}

#[test]
fn what_drifts_is_put_right_where_the_policy_says_so() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    cluster.kubectl_apply(&policy("p", &mtu("mode: Enforce, ", 1400)));
    becomes(&cluster, "p", "Available", 20);
    let granted = || cluster.log("controller.log").matches("slot granted").count();
    let given_back = || status(&cluster, "p", "slot.granted") == status(&cluster, "p", "slot.expires");
    assert!(granted() == 1 && given_back());
    set_mtu(&cluster, "eth1", "1450");
    eventually("the node is put right", &cluster, Duration::from_secs(30), || {
        has(&cluster, "eth1", "mtu 1400")
    });
    becomes_here(&cluster, "p", "Drifted=False", 20);
    becomes(&cluster, "p", "Available", 20);
    assert_eq!(status(&cluster, "p", "attempts[*].outcome"), "applied applied");
    assert!(granted() == 2 && given_back(), "it has asked for a slot and is through");
    assert!(events(&cluster).contains("Warning Drifted p: "), "{}", events(&cluster));
}

#[test]
fn mode_plan_shows_what_would_change_and_changes_nothing() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    let before = touched(&cluster);
    cluster.kubectl_apply(&policy("p", &mtu("mode: Plan, ", 1400)));
    let line = |now: u32| format!("interfaces[eth1].mtu: {now} → 1400");
    let shows = |what: String| {
        eventually("the plan shows it", &cluster, Duration::from_secs(20), || {
            status(&cluster, "p", "plan[*]").contains(&what)
        });
    };
    shows(line(1500));
    let said = |at: &str| {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"Progressing\")].{at}}}");
        cluster.kubectl(&["get", "nncp", "p", "-o", &path])
    };
    eventually("the policy says so", &cluster, Duration::from_secs(5), || {
        said("reason") == "Planned"
    });
    assert_eq!(said("message"), "1/1 nodes differ, nothing is changed: mode is Plan");
    set_mtu(&cluster, "eth1", "1450");
    shows(line(1450));
    assert_eq!(touched(&cluster), before, "NetworkManager was touched");

    cluster.kubectl_apply(&policy("p", &mtu("mode: Apply, ", 1400)));
    becomes(&cluster, "p", "Available", 20);
    cluster.kubectl_apply(&policy("p", &mtu("mode: Plan, ", 1400)));
    eventually("generation 3 is Available", &cluster, Duration::from_secs(20), || {
        status(&cluster, "p", "policyGeneration") == "3" && !status(&cluster, "p", "plan").contains("mtu")
    });
    becomes(&cluster, "p", "Available", 20);
    set_mtu(&cluster, "eth1", "1450");
    shows(line(1450));
    becomes_here(&cluster, "p", "Pending", 5);
}

#[test]
fn a_policy_that_goes_takes_along_what_it_made_if_it_says_so() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    let spec = |rest: &str| {
        format!(
            "{{onDelete: Revert, {rest}desiredState: {{interfaces: [{{name: br0, type: linux-bridge, bridge: {{port: [{{name: eth1}}]}}}}, {{name: eth2, type: ethernet, state: up, mtu: 1400}}]}}}}"
        )
    };
    let gone = |why: &str| {
        eventually(why, &cluster, Duration::from_secs(30), || {
            let left = cluster.kubectl(&["get", "nnce", "-o", "name"]);
            left.is_empty() && !has(&cluster, "br0", "br0") && has(&cluster, "eth2", "mtu 1500")
        });
    };
    cluster.kubectl_apply(&policy("p", &spec("")));
    becomes(&cluster, "p", "Available", 20);
    assert!(has(&cluster, "br0", "br0") && has(&cluster, "eth2", "mtu 1400"));
    let back = status(&cluster, "p", "revertState");
    assert!(
        back.contains(r#""name":"br0","state":"absent""#) && back.contains(r#""mtu":1500"#),
        "{back}"
    );
    cluster.kubectl(&["delete", "nncp", "p"]); // waits for nobody
    gone("undone when it is deleted");
    let told = "Normal Reverted p: node node01 is as it was before policy p";
    eventually("an event", &cluster, Duration::from_secs(5), || {
        events(&cluster).contains(told)
    });

    // not meant any more, after an edit that added something
    cluster.kubectl_apply(&policy(
        "p",
        &spec("nodeSelector: {rack: a}, ").replace("mtu: 1400", "mtu: 1500"),
    ));
    cluster.kubectl(&["label", "node", "node01", "rack=a"]);
    becomes(&cluster, "p", "Available", 20);
    cluster.kubectl_apply(&policy("p", &spec("nodeSelector: {rack: a}, ")));
    eventually("the second generation", &cluster, Duration::from_secs(20), || {
        status(&cluster, "p", "policyGeneration") == "2" && has(&cluster, "eth2", "mtu 1400")
    });
    becomes(&cluster, "p", "Available", 20);
    cluster.kubectl(&["label", "node", "node01", "rack-"]);
    gone("undone when it does not mean the node any more");

    // while the agent was away
    cluster.kubectl(&["label", "node", "node01", "rack=a"]);
    becomes(&cluster, "p", "Available", 20);
    must(cluster.verb("stop").arg("agent-node01"));
    cluster.kubectl(&["delete", "nncp", "p"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(has(&cluster, "br0", "br0"));
    assert!(
        !cluster.kubectl(&["get", "nnce", "-o", "name"]).is_empty(),
        "the controller leaves it"
    );
    must(cluster.verb("agent").arg("node01"));
    gone("undone when the agent is back");

    // what another policy asks for stays
    cluster.kubectl_apply(&policy("p", &spec("")));
    becomes(&cluster, "p", "Available", 20);
    cluster.kubectl_apply(&policy("q", BR));
    becomes(&cluster, "q", "Available", 20);
    cluster.kubectl(&["delete", "nncp", "p"]);
    eventually("the other is undone", &cluster, Duration::from_secs(30), || {
        has(&cluster, "eth2", "mtu 1500") && !cluster.kubectl(&["get", "nnce", "-o", "name"]).contains("node01.p")
    });
    assert!(has(&cluster, "br0", "br0") && has(&cluster, "eth1", "master br0"));
    // and a policy that says nothing leaves everything
    cluster.kubectl(&["delete", "nncp", "q"]);
    eventually("the enactment is gone", &cluster, Duration::from_secs(10), || {
        cluster.kubectl(&["get", "nnce", "-o", "name"]).is_empty()
    });
    assert!(has(&cluster, "br0", "br0"));
}

#[test]
fn a_policy_is_not_undone_everywhere_at_once() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01", "node02"], &[]);
    let spec = |rest: &str| {
        bridge("br0").replacen(
            '{',
            &format!("{{onDelete: Revert, maxUnavailable: 1, nodeSelector: {{kubernetes.io/os: {rest}}}, "),
            1,
        )
    };
    cluster.kubectl_apply(&policy("p", &spec("linux")));
    becomes(&cluster, "p", "Available", 30);
    let log = || cluster.log("controller.log");
    let granted = |text: &str| text.matches("slot granted for generation 0").count();
    assert_eq!(granted(&log()), 0);
    // a controller that is away holds it up
    must(cluster.verb("stop").arg("controller"));
    cluster.kubectl_apply(&policy("p", &spec("plan9")));
    cluster.kubectl(&[
        "wait",
        "nnce",
        "node01.p",
        "node02.p",
        "--for",
        "condition=Pending",
        "--timeout",
        "20s",
    ]);
    assert!(has(&cluster, "br0", "br0"));
    must(&mut cluster.verb("controller"));
    eventually("both are undone", &cluster, Duration::from_secs(40), || {
        cluster.kubectl(&["get", "nnce", "-o", "name"]).is_empty()
    });
    assert!(!has(&cluster, "br0", "br0"));
    assert_eq!(granted(&log()), 2, "{}", log());
    becomes(&cluster, "p", "Ignored", 10);
}

#[test]
fn the_later_of_two_policies_gives_way_and_goes_on_by_itself() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01", "node02"], &[]);
    cluster.kubectl_apply(&policy("a", &mtu("", 1400)));
    becomes(&cluster, "a", "Available", 30);
    cluster.kubectl_apply(&policy("b", &mtu("", 1450)));
    becomes(&cluster, "b", "Degraded", 20);
    let why = "interfaces[eth1].mtu: policy a comes first and asks for another value";
    let failing = |policy: &str| status(&cluster, policy, "conditions[?(@.type==\"Failing\")].message");
    let reason = |policy: &str| status(&cluster, policy, "conditions[?(@.type==\"Failing\")].reason");
    assert_eq!(
        (failing("b").as_str(), reason("b").as_str()),
        (why, "ConflictsWithPolicy")
    );
    let told = format!("Warning ConflictsWithPolicy b: {why}");
    eventually("an event", &cluster, Duration::from_secs(5), || {
        events(&cluster).contains(&told)
    });
    assert!(has(&cluster, "eth1", "mtu 1400"));

    // who comes first is turned round
    cluster.kubectl_apply(&policy("b", &mtu("priority: 5, ", 1450)));
    becomes(&cluster, "b", "Available", 30);
    becomes(&cluster, "a", "Degraded", 20);
    assert!(has(&cluster, "eth1", "mtu 1450"));
    cluster.kubectl(&["delete", "nncp", "b"]);
    becomes(&cluster, "a", "Available", 30);
    assert!(has(&cluster, "eth1", "mtu 1400"));
}

#[test]
fn a_rollback_and_a_final_failure_are_events_of_the_policy() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &["--probe-retries", "0"]);
    cluster.kubectl_apply(&policy("p", &slow("br0", 2)));
    becomes(&cluster, "p", "Degraded", 30);
    let failed = "Warning ReconcileFailed p: reconciliation of enactment \"node01.p\" has failed after 1 retries: probe never failed";
    eventually("both are told", &cluster, Duration::from_secs(5), || {
        let all = events(&cluster);
        all.contains("Warning RolledBack p: probe never failed") && all.contains(failed)
    });
    let described = cluster.kubectl(&["describe", "nncp", "p"]);
    assert!(described.contains("RolledBack"), "{described}");
    assert_eq!(status(&cluster, "p", "revertState"), "", "nothing is left to undo");
}

#[test]
fn a_roll_out_stops_at_its_width_and_says_so_everywhere() {
    if !may_run() {
        return;
    }
    let nodes = ["node01", "node02", "node03"];
    let cluster = started(&nodes, &["--probe-retries", "0"]);
    let spec = slow("br0", 4).replacen('{', "{maxUnavailable: 1, ", 1);
    cluster.kubectl_apply(&policy("p", &spec));
    becomes(&cluster, "p", "Progressing", 20);
    let all = |kind: &str| {
        let path = "jsonpath={.items[*].status.conditions[?(@.status==\"True\")].type}";
        cluster.kubectl(&["get", "nnce", "-o", path]).matches(kind).count()
    };
    eventually("one is at work and two wait", &cluster, Duration::from_secs(20), || {
        assert!(all("Progressing") <= 1, "never more than one");
        all("Progressing") == 1
    });
    // whoever asked first
    eventually("it fails", &cluster, Duration::from_secs(30), || all("Failing") == 1);
    becomes(&cluster, "p", "Degraded", 2);
    eventually("the others are told", &cluster, Duration::from_secs(5), || {
        all("Aborted") == 2
    });
    let aborted: Vec<String> = nodes
        .iter()
        .map(|node| format!("{node}.p"))
        .filter(|e| {
            let path = "jsonpath={.status.conditions[?(@.type==\"Aborted\")].status}";
            cluster.kubectl(&["get", "nnce", e, "-o", path]) == "True"
        })
        .collect();
    let message = "jsonpath={.status.conditions[?(@.type==\"Degraded\")].message}";
    let want = "1/3 nodes failed to configure, 2 nodes aborted configuration";
    eventually("the policy counts them", &cluster, Duration::from_secs(5), || {
        cluster.kubectl(&["get", "nncp", "p", "-o", message]) == want
    });
    eventually(
        "events of those that never began",
        &cluster,
        Duration::from_secs(5),
        || {
            let all = events(&cluster);
            aborted.iter().all(|e| {
                all.contains(&format!(
                    "Warning ReconcileFailed p: reconciliation of enactment \"{e}\" has aborted"
                ))
            })
        },
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((all("Failing"), all("Aborted")), (1, 2), "and so it stays");
    let table = cluster.kubectl(&["get", "nncp,nnce", "-o", "wide"]);
    println!("{table}");
    for told in [want, "probe never failed", "1 of 3 nodes failed: the roll-out stopped"] {
        assert!(table.contains(told), "{told}\n{table}");
    }

    // a new generation starts afresh
    cluster.kubectl_apply(&policy("p", &bridge("br0")));
    becomes(&cluster, "p", "Available", 30);
    assert_eq!(all("Available"), 3);
    // a node that is away holds nobody up, and what it left is gone in time
    must(cluster.verb("stop").arg("agent-node03"));
    cluster.kubectl(&["delete", "nncp", "p"]);
    eventually("all enactments are gone", &cluster, Duration::from_secs(10), || {
        cluster.kubectl(&["get", "nnce", "-o", "name"]).is_empty()
    });
}

#[test]
fn labels_select_nodes_and_every_version_of_the_api_is_served() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01", "node02"], &[]);
    let old = policy("p", &bridge("br0").replacen('{', "{nodeSelector: {rack: a}, ", 1));
    cluster.kubectl_apply(&old.replace("nmstate.io/v1\n", "nmstate.io/v1alpha1\n"));
    becomes(&cluster, "p", "Ignored", 20);
    let left = || cluster.kubectl(&["get", "nnce", "-o", "name"]);
    assert_eq!(left(), "");
    assert!(!has(&cluster, "br0", "br0"));
    cluster.kubectl(&["label", "node", "node01", "rack=a"]);
    becomes(&cluster, "p", "Available", 20);
    assert!(has(&cluster, "br0", "br0"));
    assert_eq!(left().trim(), "nodenetworkconfigurationenactment.nmstate.io/node01.p");
    cluster.kubectl(&["label", "node", "node01", "rack-"]);
    becomes(&cluster, "p", "Ignored", 20);
    eventually("the enactment is gone", &cluster, Duration::from_secs(10), || {
        left().is_empty()
    });
    let everywhere = policy("p", &bridge("br0").replacen('{', "{nodeSelector: null, ", 1));
    cluster.kubectl_apply(&everywhere.replace("nmstate.io/v1\n", "nmstate.io/v1beta1\n"));
    becomes(&cluster, "p", "Available", 30);
    assert_eq!(left().lines().count(), 2);

    // two policies for one card do not disturb each other
    let vlan = |name: &str| {
        let spec = format!(
            "{{desiredState: {{interfaces: [{{name: {name}, type: mac-vlan, mac-vlan: {{base-iface: eth2, mode: bridge, promiscuous: true}}}}]}}}}"
        );
        cluster.kubectl_apply(&policy(name, &spec));
    };
    vlan("mv1");
    vlan("mv2");
    becomes(&cluster, "mv1", "Available", 30);
    becomes(&cluster, "mv2", "Available", 30);
    assert!(has(&cluster, "mv1", "mv1@eth2") && has(&cluster, "mv2", "mv2@eth2"));
    for policy in ["p", "mv1", "mv2"] {
        assert_eq!(status(&cluster, policy, "drift"), "");
    }
}

/// What kills at once, and nothing is cleaned up.
fn kill(cluster: &Cluster, role: &str) {
    let pid = std::fs::read_to_string(cluster.dir.0.join(format!("c/{role}.pid"))).expect("a pid");
    must(std::process::Command::new("kill").args(["-9", pid.trim()]));
    must(cluster.verb("stop").arg(role));
}

#[test]
fn an_agent_killed_while_it_mends_or_undoes_goes_on_where_it_was() {
    if !may_run() {
        return;
    }
    let cluster = started(&["node01"], &[]);
    let probe = "{name: later, tcp: {host: 10.99.1.1, port: 4}, required: true, timeoutSeconds: 60}";
    let quick = mtu("mode: Enforce, onDelete: Revert, ", 1400);
    cluster.kubectl_apply(&policy("p", &quick));
    becomes(&cluster, "p", "Available", 20);
    // from now on an apply takes a minute, so that it can be killed
    let slow = quick.replacen('{', &format!("{{probes: [{probe}], "), 1);
    cluster.kubectl_apply(&policy("p", &slow));
    eventually("the second generation", &cluster, Duration::from_secs(20), || {
        status(&cluster, "p", "policyGeneration") == "2"
    });
    becomes(&cluster, "p", "Available", 20);
    set_mtu(&cluster, "eth1", "1450");
    eventually("it mends", &cluster, Duration::from_secs(30), || {
        cluster.log("agent-node01.log").matches("as asked for").count() == 2
    });
    kill(&cluster, "agent-node01");
    cluster.kubectl_apply(&policy("p", &quick));
    must(cluster.verb("agent").arg("node01"));
    eventually("it is mended after all", &cluster, Duration::from_secs(60), || {
        has(&cluster, "eth1", "mtu 1400") && status(&cluster, "p", "policyGeneration") == "3"
    });
    becomes(&cluster, "p", "Available", 60);

    cluster.kubectl(&["delete", "nncp", "p"]);
    eventually("it is undoing", &cluster, Duration::from_secs(20), || {
        !has(&cluster, "eth1", "mtu 1400")
    });
    kill(&cluster, "agent-node01");
    must(cluster.verb("agent").arg("node01"));
    eventually("it is undone", &cluster, Duration::from_secs(60), || {
        has(&cluster, "eth1", "mtu 1500") && cluster.kubectl(&["get", "nnce", "-o", "name"]).is_empty()
    });
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
    let agent = || cluster.page(Some("node01"), 8089, "/metrics");
    let controller = || cluster.page(None, 8090, "/metrics");
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
            cluster.page(Some("node01"), 8089, at).starts_with("HTTP/1.1 200 "),
            "{at}"
        );
        assert!(cluster.page(None, 8090, at).starts_with("HTTP/1.1 200 "), "{at}");
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
    must(&mut cluster.node_verb("node01", "restart-nm"));
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
    must(
        cluster
            .verb("agent")
            .args(["node01", "--bridge-marker", "--log-format", "json"]),
    );
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

    let log = cluster.log("agent-node01.log");
    let lines: Vec<serde_json::Value> = log.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    let of_p = |l: &serde_json::Value| l["fields"]["policy"] == "p" && l["span"]["enactment"] == "node01.p";
    assert!(
        lines.iter().any(|l| of_p(l) && l["fields"]["phase"] == "commit"),
        "{log}"
    );

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
