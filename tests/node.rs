//! The command on a real NetworkManager and kernel, in a node made of network namespaces.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{NETWRIGHT, Node, may_run, must, said};

const BRIDGE: &str = "interfaces:
- name: br0
  type: linux-bridge
  state: up
  description: front
  ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}
  bridge: {options: {stp: {enabled: false}}, port: [{name: eth1}]}
";

const MOVED: &str = "interfaces:
- name: mgmt0
  type: ethernet
  state: up
  ipv4: {enabled: true, dhcp: false, address: [{ip: 10.98.0.2, prefix-length: 24}]}
";

#[test]
fn a_bridge_comes_stays_changes_and_goes() {
    if !may_run() {
        return;
    }
    let node = Node::up(&[]);
    let ok = |yaml: &str| {
        let out = node.apply(yaml, &[]);
        assert!(out.status.success(), "{}", said(&out));
        said(&out)
    };
    ok(BRIDGE);
    assert!(node.ip(&["-br", "link", "show", "master", "br0"]).starts_with("eth1"));
    assert!(node.ip(&["-br", "addr", "show", "br0"]).contains("192.0.2.1/24"));

    let before = node.audit();
    assert!(ok(BRIDGE).contains("nothing to change"));
    let quiet = node.apply(BRIDGE, &["--quiet"]);
    assert_eq!(String::from_utf8_lossy(&quiet.stderr), "", "nothing but errors");
    assert_eq!(node.audit(), before, "a second apply must not touch NetworkManager");

    ok("interfaces: [{name: br0, ipv4: {address: [{ip: 192.0.2.2, prefix-length: 24}]}}]");
    let addresses = node.ip(&["-br", "addr", "show", "br0"]);
    assert!(
        addresses.contains("192.0.2.2/24") && !addresses.contains("192.0.2.1/24"),
        "{addresses}"
    );

    ok("interfaces: [{name: br0, type: linux-bridge, bridge: {port: [{name: eth2}]}}]");
    assert!(node.ip(&["-br", "link", "show", "master", "br0"]).starts_with("eth2"));

    ok("interfaces: [{name: br0, state: absent}]");
    let links = node.ip(&["-br", "link"]);
    assert!(!links.contains("br0") && links.contains("eth1"), "{links}");
}

/// NetworkManager takes a veth's link away with its controller while it is asked to bring it up again.
#[test]
fn what_software_made_outlives_its_bridge() {
    if !may_run() {
        return;
    }
    let node = Node::up(&[]);
    let bridge = "interfaces:
- {name: br0, type: linux-bridge, bridge: {port: [{name: ve1}, {name: ve2}]}}
- {name: ve1, type: veth, veth: {peer: ve1p}}
- {name: ve2, type: veth, veth: {peer: ve2p}}\n";
    for _ in 0..4 {
        for wish in [bridge, "interfaces: [{name: br0, type: linux-bridge, state: absent}]"] {
            let out = node.apply(wish, &["--no-probes"]);
            assert!(out.status.success(), "{wish}\n{}", said(&out));
        }
        for veth in ["ve1", "ve2"] {
            let link = node.ip(&["link", "show", veth]);
            assert!(link.contains(",UP") && !link.contains("master"), "{link}");
        }
    }
}

#[test]
fn routes_rules_and_dns_reach_the_kernel_and_leave_it() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--mgmt-profile"]);
    let ok = |yaml: &str| {
        let out = node.apply(yaml, &["--no-probes"]);
        assert!(out.status.success(), "{}", said(&out));
    };
    let wish = "interfaces:
- {name: eth1, type: ethernet, ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}}
routes: {config: [{destination: 198.51.100.0/24, next-hop-interface: eth1, next-hop-address: 192.0.2.254, table-id: 200}]}
route-rules: {config: [{ip-from: 192.0.2.0/24, route-table: 200, priority: 500}]}
dns-resolver: {config: {server: [192.0.2.53], search: [example.org]}}
";
    ok(wish);
    assert!(
        node.ip(&["route", "show", "table", "200"])
            .contains("198.51.100.0/24 via 192.0.2.254")
    );
    assert!(node.ip(&["rule"]).contains("500:\tfrom 192.0.2.0/24 lookup 200"));
    let before = node.audit();
    ok(wish);
    assert_eq!(node.audit(), before, "a second apply must not touch NetworkManager");
    ok("routes: {config: [{state: absent, next-hop-interface: eth1}]}
route-rules: {config: [{state: absent, route-table: 200}]}
dns-resolver: {config: {}}
");
    assert_eq!(node.ip(&["route", "show", "table", "all", "198.51.100.0/24"]), "");
    assert!(!node.ip(&["rule"]).contains("lookup 200"));
}

/// A kernel that does not promote secondaries (its default; systemd's is to promote) flushes the others with the first.
#[test]
fn another_first_address_costs_none_of_the_others() {
    if !may_run() {
        return;
    }
    let node = Node::up(&[]);
    let addresses = ["192.0.2.5", "192.0.2.6", "192.0.2.7"];
    let backwards: Vec<&str> = addresses.into_iter().rev().collect();
    for order in [&addresses[..], &backwards] {
        let list: Vec<String> = order
            .iter()
            .map(|ip| format!("{{ip: {ip}, prefix-length: 24}}"))
            .collect();
        let list = list.join(", ");
        let wish = format!("interfaces: [{{name: eth1, type: ethernet, ipv4: {{enabled: true, address: [{list}]}}}}]");
        let out = node.apply(&wish, &["--no-probes"]);
        assert!(out.status.success(), "{}", said(&out));
        let has = node.ip(&["-br", "addr", "show", "eth1"]);
        let has: Vec<&str> = has
            .split_whitespace()
            .filter_map(|word| word.strip_suffix("/24"))
            .collect();
        assert_eq!(has, order);
    }
}

#[test]
fn what_could_not_be_changed_needs_no_undoing() {
    if !may_run() {
        return;
    }
    // the file is mounted here, and NetworkManager would put a new one in its place
    let node = Node::up(&["--no-mgmt"]);
    let out = node.apply("hostname: {config: another}", &[]);
    assert!(said(&out).contains("/etc/hostname"), "{}", said(&out));
    assert!(said(&out).contains("nothing was kept"), "{}", said(&out));
    let out = node.apply("interfaces: [{name: eth1, type: ethernet, mtu: 1400}]", &[]);
    assert!(out.status.success(), "{}", said(&out));
}

#[test]
fn what_others_put_there_is_kept_once_a_document_asks_for_it() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--no-mgmt"]);
    for (command, wish, kept) in [
        (
            "address add 192.0.2.9/24 dev eth1",
            "name: eth1, type: ethernet, ipv4: {enabled: true, address: [{ip: 192.0.2.9, prefix-length: 24}]}",
            "eth1:address1=192.0.2.9/24",
        ),
        (
            "address add 192.0.2.10/24 dev eth1",
            "name: eth1, type: ethernet, ipv4: {enabled: true, address: [{ip: 192.0.2.9, prefix-length: 24}, {ip: 192.0.2.10, prefix-length: 24}]}",
            "eth1:address2=192.0.2.10/24",
        ),
        (
            "address add 192.0.2.7/32 dev lo",
            "name: lo, type: loopback, ipv4: {enabled: true, address: [{ip: 192.0.2.7, prefix-length: 32}]}",
            "lo:address2=192.0.2.7/32",
        ),
    ] {
        node.ip(&command.split(' ').collect::<Vec<_>>());
        let wish = format!("interfaces: [{{{wish}}}]");
        let out = node.apply(&wish, &[]);
        assert!(out.status.success(), "{}", said(&out));
        let (name, line) = kept.split_once(':').unwrap();
        let file = format!("{}/etc/system-connections/{name}.nmconnection", node.env("NM_DIR"));
        let profile = std::fs::read_to_string(file).unwrap();
        assert!(profile.lines().any(|l| l == line), "{line} in {profile}");
        assert!(said(&node.apply(&wish, &[])).contains("nothing to change"), "{wish}");
    }
}

#[test]
fn a_lost_gateway_rolls_back_without_waiting_for_the_timeout() {
    if !may_run() {
        return;
    }
    for options in [&[][..], &["--mgmt-profile"]] {
        let node = Node::up(options);
        let out = node.apply(MOVED, &[]);
        assert!(!out.status.success());
        assert!(
            said(&out).contains("probe gateway failed: no route to 10.99.1.1; rolled back"),
            "{}",
            said(&out)
        );
        assert!(node.ip(&["-br", "addr", "show", "mgmt0"]).contains("10.99.1.2/24"));
        assert!(node.ip(&["route"]).contains("default via 10.99.1.1"));
    }
}

/// The bed's NetworkManager has its name server from `[global-dns]` in its configuration file.
#[test]
fn name_servers_that_cannot_be_changed_stand_in_nobodys_way() {
    if !may_run() {
        return;
    }
    let node = Node::up(&[]);
    let out = node.apply("dns-resolver: {config: {server: [192.0.2.53]}}", &[]);
    assert!(
        said(&out).contains("already set via configuration file") && said(&out).contains("nothing was kept"),
        "{}",
        said(&out)
    );
    let out = node.apply("interfaces: [{name: br0, type: linux-bridge}]", &[]);
    assert!(out.status.success(), "{}", said(&out));
}

#[test]
fn wrong_input_is_named_and_nothing_is_touched() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--no-mgmt"]);
    let before = node.audit();
    let huge = format!("# {}\n", "x".repeat(5 << 20));
    let cases = [
        (
            "interfaces: [{name: br0, type: linux-bridge, brige: {}}]",
            "interfaces[br0].brige: unknown key",
        ),
        (
            "interfaces: [{name: eth1, type: ethernet, ipv4: {enabled: true, address: [{ip: 192.0.2.300, prefix-length: 24}]}}]",
            "interfaces[eth1].ipv4.address[0].ip",
        ),
        (
            "interfaces: [{name: br0, type: linux-bridge, bridge: {port: [{name: eth9}]}}]",
            "port 'eth9' does not exist",
        ),
        (
            "interfaces:\n- {name: b1, type: linux-bridge, bridge: {port: [{name: eth1}]}}\n- {name: b2, type: linux-bridge, bridge: {port: [{name: eth1}]}}",
            "port 'eth1' is also listed by interfaces[b1]",
        ),
        (
            "interfaces: [{name: abcdefghijklmnop, type: linux-bridge}]",
            "has 16 characters; the kernel allows 15",
        ),
        ("interfaces: [{name: br0", "document"),
        (huge.as_str(), "the limit is"),
        ("", "there is nothing in it"),
    ];
    for (yaml, want) in cases {
        let out = node.apply(yaml, &[]);
        assert_eq!(out.status.code(), Some(65), "{}", said(&out));
        assert!(said(&out).contains(want), "{want}: {}", said(&out));
    }
    assert_eq!(node.audit(), before);
}

/// An agent that takes policies from `policies`; to be killed.
fn agent(node: &Node) -> Child {
    let policies = node.dir.0.join("policies");
    let _ = std::fs::create_dir(&policies);
    let mut agent = node.command(NETWRIGHT, &["agent"]);
    agent
        .args(["--node-name", "node01", "--policy-dir"])
        .arg(&policies)
        .arg("--run-dir")
        .arg(node.dir.0.join("run"))
        .arg("--state-dir")
        .arg(node.dir.0.join("state"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent starts")
}

#[test]
fn plan_and_apply_fill_in_what_captures_find() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--mgmt-profile"]);
    let policy = |desired: &str| {
        format!(
            "kind: NodeNetworkConfigurationPolicy
metadata: {{name: p}}
spec:
  capture:
    gw: routes.running.destination == \"0.0.0.0/0\"
    base: interfaces.name == capture.gw.routes.running.0.next-hop-interface
  desiredState: {desired}
"
        )
    };
    let wish = policy(
        "{interfaces: [{name: br0, type: linux-bridge, description: 'beside {{ capture.base.interfaces.0.name }} of {{ node.name }}', bridge: {port: [{name: eth1}]}}]}",
    );
    let file = node.dir.0.join("p.yaml");
    std::fs::write(&file, &wish).expect("the policy is written");
    let mut plan = node.command(NETWRIGHT, &["plan"]);
    let planned = said(&plan.arg(&file).output().expect("netwright starts"));
    assert!(planned.contains("beside mgmt0 of node01"), "{planned}");
    let mut format = node.command(NETWRIGHT, &["format"]);
    let formatted = must(format.arg(&file));
    assert!(formatted.contains("description: beside mgmt0 of node01"), "{formatted}");
    let out = node.apply(&wish, &["--no-probes"]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(said(&node.apply(&wish, &["--no-probes"])).contains("nothing to change"));

    let out = node.apply(
        &policy("{interfaces: [{name: '{{ capture.base.interfaces.0.nmae }}'}]}"),
        &[],
    );
    assert_eq!(out.status.code(), Some(65), "{}", said(&out));
    let want = "spec.desiredState.interfaces[0].name: not found: interfaces.0 has no 'nmae'
| {{ capture.base.interfaces.0.nmae }}
| .............................^";
    assert!(said(&out).contains(want), "{}", said(&out));
}

#[test]
fn an_agent_keeps_what_was_captured_before_the_change() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--no-mgmt"]);
    node.ip(&["link", "set", "eth1", "mtu", "1400"]);
    let mut running = agent(&node);
    let enactment = node.dir.0.join("run/enactments/p.yaml");
    let until = |want: &str| {
        let limit = Instant::now() + Duration::from_secs(20);
        let said = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        while !(said(&enactment).contains(want) && said(&enactment).contains("Configured")) {
            assert!(Instant::now() < limit, "{want} never came: {}", said(&enactment));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let put = |capture: &str, description: &str| {
        let desired = format!(
            "{{interfaces: [{{name: '{{{{ capture.odd.interfaces.0.name }}}}', type: ethernet, state: up, mtu: 1450, description: {description}}}]}}"
        );
        let policy = format!("capture: {{odd: {capture}}}\ndesired: {desired}\n");
        let fresh = node.dir.0.join("p.new");
        std::fs::write(&fresh, policy).expect("the policy is written");
        std::fs::rename(&fresh, node.dir.0.join("policies/p.yaml")).expect("the policy is put there");
    };
    put("interfaces.mtu == 1400", "first");
    until("first");
    assert!(node.ip(&["link", "show", "eth1"]).contains("mtu 1450"));
    // now no interface has 1400 any more
    put("interfaces.mtu == 1400", "second");
    until("second");
    running.kill().expect("it is still there");
    let _ = running.wait();
    std::fs::remove_dir_all(node.dir.0.join("run")).expect("as after a reboot");
    put("interfaces.mtu == 1400", "third");
    let mut running = agent(&node);
    until("third");
    put("interfaces.mtu == \"1400\"", "fourth");
    let limit = Instant::now() + Duration::from_secs(20);
    let failed = || std::fs::read_to_string(&enactment).unwrap_or_default();
    while !failed().contains("no entry of interfaces has mtu equal to") {
        assert!(
            Instant::now() < limit,
            "an edited capture is looked for afresh: {}",
            failed()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    running.kill().expect("it is still there");
    let _ = running.wait();
}

#[test]
fn an_agent_without_a_cluster_shows_puts_right_gives_way_and_undoes() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--no-mgmt"]);
    let mut running = agent(&node);
    let policies = node.dir.0.join("policies");
    let put = |name: &str, rest: &str, mtu: u32| {
        let spec =
            format!("{{{rest}desiredState: {{interfaces: [{{name: eth1, type: ethernet, state: up, mtu: {mtu}}}]}}}}");
        let text = format!("kind: NodeNetworkConfigurationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        let fresh = node.dir.0.join("p.new");
        std::fs::write(&fresh, text).expect("the policy is written");
        std::fs::rename(&fresh, policies.join(format!("{name}.yaml"))).expect("the policy is put there");
    };
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let limit = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < limit, "not within 20 s: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let said = |name: &str| {
        std::fs::read_to_string(node.dir.0.join(format!("run/enactments/{name}.yaml"))).unwrap_or_default()
    };
    let mtu = |n: u32| node.ip(&["link", "show", "eth1"]).contains(&format!("mtu {n} "));

    put("a", "mode: Plan, ", 1400);
    until("the plan is shown", &|| {
        said("a").contains("interfaces[eth1].mtu: 1500 → 1400")
    });
    assert!(mtu(1500), "nothing is changed");
    put("a", "mode: Enforce, onDelete: Revert, ", 1400);
    until("it is applied", &|| {
        mtu(1400) && said("a").contains("SuccessfullyConfigured")
    });
    node.ip(&["link", "set", "eth1", "mtu", "1450"]);
    until("it is put right", &|| mtu(1400));
    put("b", "", 1300);
    until("the later one gives way", &|| {
        said("b").contains("interfaces[eth1].mtu: policy a comes first and asks for another value")
    });
    std::fs::remove_file(policies.join("b.yaml")).expect("it is there");
    until("it is forgotten", &|| said("b").is_empty());
    assert!(mtu(1400));

    running.kill().expect("it is still there");
    let _ = running.wait();
    std::fs::remove_file(policies.join("a.yaml")).expect("it is there");
    let mut running = agent(&node);
    until("it is undone", &|| mtu(1500));
    running.kill().expect("it is still there");
    let _ = running.wait();
}

/// Names of links as `ip -br` prints them.
fn names(text: &str) -> BTreeSet<String> {
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines().filter_map(first).collect()
}

/// `netwright apply` of a wish that moves mgmt0 to 10.98.0.2, in the background, until the change is there.
fn moving(node: &Node, yaml: &str) -> std::process::Child {
    let wish = node.dir.0.join("wish.yaml");
    std::fs::write(&wish, yaml).expect("the wish is written");
    let mut apply = node.command(NETWRIGHT, &["apply"]);
    let child = apply
        .arg(&wish)
        .arg("--state-dir")
        .arg(node.dir.0.join("state"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("netwright starts");
    let addresses = || node.ip(&["-br", "addr", "show", "mgmt0"]);
    let moved = || addresses().contains("10.98.0.2");
    common::wait_for("the address changes", Duration::from_secs(30), moved, addresses);
    child
}

#[test]
fn the_next_apply_puts_right_what_a_killed_one_left() {
    if !may_run() {
        return;
    }
    let node = Node::up(&[]);
    let mut child = moving(&node, MOVED);
    child.kill().expect("it is still there");
    let _ = child.wait();
    let out = node.apply("interfaces: [{name: br0, type: linux-bridge, bridge: {port: []}}]", &[]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(said(&out).contains("netwright ended during phase "), "{}", said(&out));
    assert!(node.ip(&["-br", "addr", "show", "mgmt0"]).contains("10.99.1.2/24"));
    assert!(node.ip(&["-br", "link"]).contains("br0"));
}

/// The journal of an apply that died while NetworkManager took the checkpoint does not name it; it has a short life, and is waited for.
#[test]
fn an_apply_outwaits_the_checkpoint_that_nobody_knows_of() {
    if !may_run() {
        return;
    }
    let node = Node::up(&[]);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux has one");
    let journal = format!(
        r#"{{"phase": "checkpoint", "checkpoint": null, "boot_id": "{}"}}"#,
        boot.trim()
    );
    let state = node.dir.0.join("state");
    std::fs::create_dir_all(&state).expect("it is ours");
    std::fs::write(state.join("journal.json"), journal).expect("written");
    let manager = "/org/freedesktop/NetworkManager";
    let mut take = node.command("dbus-send", &["--system", "--print-reply", manager]);
    take.arg("--dest=org.freedesktop.NetworkManager")
        .arg("org.freedesktop.NetworkManager.CheckpointCreate")
        .args([&format!("array:objpath:{manager}/Devices/1"), "uint32:3", "uint32:0"]);
    must(&mut take);
    let out = node.apply(BRIDGE, &[]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(
        said(&out).contains("netwright ended during phase checkpoint (before anything was touched)"),
        "{}",
        said(&out)
    );
}

#[test]
fn a_checkpoint_that_networkmanager_lost_in_a_restart_is_made_good() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--mgmt-profile"]);
    let mut child = moving(&node, MOVED);
    node.bed_verb("restart-nm", &[]);
    assert!(!child.wait().expect("it ends").success());
    let addresses = node.ip(&["-br", "addr", "show", "mgmt0"]);
    assert!(
        addresses.contains("10.99.1.2/24") && !addresses.contains("10.98.0.2"),
        "{addresses}"
    );
    assert!(node.ip(&["route"]).contains("default via 10.99.1.1"));
}

const BRIDGES: &str = "interfaces:
- {name: br0, type: linux-bridge, bridge: {port: [{name: eth1}]}}
- {name: br1, type: linux-bridge, mtu: 1400, bridge: {port: []}}\n";

/// A node that has BRIDGES on its disk.
fn bridged() -> Node {
    let node = Node::up(&["--mgmt-profile"]);
    let out = node.apply(BRIDGES, &[]);
    assert!(out.status.success(), "{}", said(&out));
    node
}

fn is_bridged(node: &Node) {
    assert!(node.ip(&["link", "show", "br1"]).contains("mtu 1400"));
    assert!(node.ip(&["link", "show", "eth1"]).contains("master br0"));
}

/// A node that cannot reach its cluster may have nobody on it who would put anything right.
#[test]
fn a_node_that_loses_power_before_a_change_is_proven_comes_up_as_it_was() {
    if !may_run() {
        return;
    }
    let node = bridged();
    let (before, running) = (node.profiles(), node.ip(&["-br", "addr"]));
    let wish = MOVED.to_owned()
        + "- {name: br0, type: linux-bridge, state: absent}
- {name: br1, type: linux-bridge, mtu: 1300, bridge: {port: []}}
- {name: br2, type: linux-bridge, bridge: {port: [{name: eth1}, {name: eth2}]}}\n";
    let mut apply = moving(&node, &wish);
    let links = || node.ip(&["-br", "link"]);
    let done = || !links().contains("br0") && links().contains("br2");
    common::wait_for("the bridges change", Duration::from_secs(10), done, links);
    assert_eq!(node.profiles(), before, "nothing is on disk yet");
    apply.kill().expect("it waits for the gateway");
    let _ = apply.wait();
    assert!(done(), "{}", links());
    node.bed_verb("power-cut", &[]);
    let again = || node.ip(&["-br", "addr"]);
    common::wait_for(
        "all comes up",
        Duration::from_secs(10),
        || names(&again()).contains("br1"),
        again,
    );
    assert!(
        !again().contains("br2") && again().contains("10.99.1.2/24"),
        "{}\n{running}",
        again()
    );
    is_bridged(&node);

    // the next one finds nothing to put right, and what is kept is on disk
    let out = node.apply(&BRIDGES.replace("1400", "1300"), &[]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(said(&out).contains("netwright ended during phase "), "{}", said(&out));
    let kept = node.profiles();
    assert!(kept.keys().eq(before.keys()) && kept != before);
    let out = node.apply("interfaces: [{name: br1, type: linux-bridge, state: absent}]", &[]);
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(node.profiles().len(), before.len() - 1);
    let shadows = must(&mut node.command("ls", &["/run/NetworkManager/system-connections"]));
    assert!(!shadows.contains("br"), "{shadows}");
}

#[test]
fn a_disk_that_takes_nothing_is_named_and_the_node_is_as_it_was() {
    if !may_run() {
        return;
    }
    let node = bridged();
    let running = || node.ip(&["-br", "addr"]);
    let (before, profiles) = (running(), node.profiles());
    must(&mut node.command("mount", &["-o", "remount,bind,ro", "/etc/NetworkManager"]));
    let wish = "interfaces:
- {name: br0, type: linux-bridge, state: absent}
- {name: br1, type: linux-bridge, mtu: 1300, bridge: {port: [{name: eth1}]}}\n";
    let out = node.apply(wish, &[]);
    assert!(!out.status.success());
    assert!(said(&out).contains("writing the profile of "), "{}", said(&out));
    assert!(
        said(&out).contains("Read-only file system; nothing was kept"),
        "{}",
        said(&out)
    );
    assert_eq!(names(&running()), names(&before));
    is_bridged(&node);
    assert_eq!(node.profiles(), profiles);

    must(&mut node.command("mount", &["-o", "remount,bind,rw", "/etc/NetworkManager"]));
    let out = node.apply(wish, &[]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(node.profiles().len() < profiles.len());
}

/// Both are killed, by a lack of memory, say; what others do before the next start stays.
#[test]
fn what_died_together_with_networkmanager_is_made_good_by_the_next_start() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--mgmt-profile"]);
    let mut child = moving(&node, MOVED);
    child.kill().expect("it is still there");
    let _ = child.wait();
    let journal = node.dir.0.join("state/journal.json");
    let mode = std::fs::metadata(&journal).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds secrets");
    node.bed_verb("restart-nm", &[]);
    assert!(node.ip(&["-br", "addr", "show", "mgmt0"]).contains("10.98.0.2"));
    must(&mut node.command(
        "nmcli",
        &[
            "connection",
            "add",
            "type",
            "dummy",
            "ifname",
            "theirs",
            "ipv4.method",
            "disabled",
        ],
    ));

    let mut agent = agent(&node);
    let ended = || !journal.exists();
    common::wait_for(
        "the next start has put it right",
        Duration::from_secs(20),
        ended,
        String::new,
    );
    agent.kill().expect("it is still there");
    let _ = agent.wait();
    let addresses = node.ip(&["-br", "addr", "show", "mgmt0"]);
    assert!(
        addresses.contains("10.99.1.2/24") && !addresses.contains("10.98.0.2"),
        "{addresses}"
    );
    assert!(node.ip(&["route"]).contains("default via 10.99.1.1"));
    must(&mut node.command("nmcli", &["connection", "show", "dummy-theirs"]));
    assert!(!journal.with_file_name("before.json").exists());
}

#[test]
fn what_waits_for_its_commit_can_be_undone_after_another_apply_was_refused() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--no-mgmt"]);
    let named = "interfaces: [{name: eth1, type: ethernet, alt-names: [{name: port-seven-of-the-rack}]}]";
    let out = node.apply(named, &["--no-commit", "--timeout", "60"]);
    assert!(out.status.success(), "{}", said(&out));
    let link = || node.ip(&["link", "show", "eth1"]);
    assert!(link().contains("port-seven-of-the-rack"), "{}", link());
    let other = node.apply("interfaces: [{name: br0, type: linux-bridge}]", &[]);
    assert!(
        !other.status.success() && said(&other).contains("checkpoint"),
        "{}",
        said(&other)
    );
    let mut rollback = node.command(NETWRIGHT, &["rollback", "--state-dir"]);
    must(rollback.arg(node.dir.0.join("state")));
    assert!(!link().contains("port-seven-of-the-rack"), "{}", link());
}

#[test]
fn what_waits_for_its_commit_is_not_on_disk_yet() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--mgmt-profile"]);
    let bridge =
        |name: &str, mtu: u16| format!("- {{name: {name}, type: linux-bridge, mtu: {mtu}, bridge: {{port: []}}}}\n");
    let out = node.apply(
        &format!("interfaces:\n{}{}", bridge("br0", 1400), bridge("br1", 1400)),
        &[],
    );
    assert!(out.status.success(), "{}", said(&out));
    let before = node.profiles();
    let wish = format!(
        "interfaces:\n- {{name: br0, type: linux-bridge, state: absent}}\n{}{}",
        bridge("br1", 1300),
        bridge("br2", 1400)
    );
    let held = || {
        let out = node.apply(&wish, &["--no-commit", "--timeout", "60"]);
        assert!(out.status.success(), "{}", said(&out));
        assert_eq!(node.profiles(), before, "nothing is on disk yet");
    };
    let decide = |verb: &str| {
        let mut decide = node.command(NETWRIGHT, &[verb, "--state-dir"]);
        must(decide.arg(node.dir.0.join("state")))
    };
    let links = || node.ip(&["-br", "link"]);
    let comes_up_with = |name: &str| {
        node.bed_verb("power-cut", &[]);
        let there = || links().contains(name);
        common::wait_for("all comes up", Duration::from_secs(10), there, links);
    };
    let shadows = || must(&mut node.command("ls", &["/run/NetworkManager/system-connections"]));

    held();
    decide("rollback");
    assert!(links().contains("br0") && !links().contains("br2"), "{}", links());
    assert_eq!(node.profiles(), before);

    held();
    comes_up_with("br0");
    assert!(!links().contains("br2"), "{}", links());

    held();
    decide("commit");
    let after = node.profiles();
    let named = |name: &str| {
        after
            .values()
            .any(|text| text.contains(&format!("interface-name={name}\n")))
    };
    assert!(!named("br0") && named("br1") && named("br2"), "{after:?}");
    assert!(after.values().any(|text| text.contains("mtu=1300")), "{after:?}");
    assert!(!shadows().contains("br"), "{}", shadows());
    comes_up_with("br2");
    assert!(!links().contains("br0"), "{}", links());
}

/// Its address alone leads nowhere.
#[test]
fn a_link_local_name_server_is_asked_by_its_interface() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--mgmt-profile", "--no-dns"]);
    let far = node.env("WIRE_NETNS");
    let on_wire = |script: &str| {
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &far, "sh", "-ec", script]);
        command
    };
    must(&mut on_wire(
        "echo 0 >/proc/sys/net/ipv6/conf/w-eth1/disable_ipv6; ip address add fe80::53/64 dev w-eth1 nodad",
    ));
    let script = format!(
        "exec python3 {}/tests/bed/dns.py fe80::53%w-eth1",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut server = on_wire(&script).stdout(Stdio::null()).spawn().expect("python starts");
    let out = node.apply(
        "{interfaces: [{name: eth1, type: ethernet, state: up, ipv6: {enabled: true, address: [{ip: '2001:db8::2', prefix-length: 64}]}}],
        dns-resolver: {config: {server: ['fe80::53%eth1']}}}",
        &[],
    );
    let tentative = || node.ip(&["-6", "address", "show", "dev", "eth1", "tentative"]);
    let settled = || tentative().is_empty();
    common::wait_for("its addresses are its own", Duration::from_secs(10), settled, tentative);
    let then = node.apply("interfaces: [{name: br0, type: linux-bridge}]", &["-v"]);
    server.kill().expect("it is still there");
    let _ = server.wait();
    assert!(out.status.success(), "{}", said(&out));
    assert!(then.status.success(), "{}", said(&then));
    assert!(said(&then).contains("2 probes passed"), "{}", said(&then));
}

#[test]
fn a_killed_apply_leaves_the_node_as_it_was_after_the_next_start() {
    if !may_run() {
        return;
    }
    let node = Node::up(&[]);
    let mut child = moving(&node, MOVED);
    child.kill().expect("it is still there");
    let _ = child.wait();
    let mut agent = agent(&node);
    let limit = Instant::now() + Duration::from_secs(20);
    while !node.ip(&["-br", "addr", "show", "mgmt0"]).contains("10.99.1.2") {
        assert!(Instant::now() < limit, "the next start did not put the address back");
        std::thread::sleep(Duration::from_millis(50));
    }
    agent.kill().expect("it is still there");
    let _ = agent.wait();
}

const PARTS: &str = "interfaces:
- name: eth1
  type: ethernet
  state: up
  wait-ip: ipv4
  alt-names: [{name: port-seven-of-the-rack}]
  lldp: {enabled: true}
  mptcp: {address-flags: [subflow]}
  dispatch: {post-activation: 'echo \"$2\" >>/run/dispatched', post-deactivation: 'echo \"$2\" >>/run/dispatched'}
  ethtool: {feature: {tso: false, tx-checksum-ip-generic: false}}
  ipv4: {enabled: true, dhcp: false, prefix-route-metric: 321, address: [{ip: 192.0.2.1, prefix-length: 24}]}
hostname: {running: rack7}
";

#[test]
fn parts_reach_kernel_files_and_dispatcher_and_go_again() {
    if !may_run() {
        return;
    }
    // which NetworkManager would put over the running one whenever a device changes
    let node = Node::up(&["--no-static-name"]);
    let mptcp = common::must(&mut node.command("sh", &["-c", "cat /proc/sys/net/mptcp/enabled || echo 0"]));
    let wish = if mptcp.trim() == "1" {
        PARTS.to_owned()
    } else {
        PARTS.replace("[subflow]", "[]")
    };
    let dispatcher = ["/usr/lib/NetworkManager/nm-dispatcher", "/usr/libexec/nm-dispatcher"];
    let dispatcher = dispatcher.iter().find(|p| std::path::Path::new(p).exists());
    let mut running = dispatcher.map(|path| {
        let mut command = node.command(path, &["--persist"]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the dispatcher starts")
    });
    let ok = |yaml: &str| {
        let out = node.apply(yaml, &["--no-probes"]);
        assert!(out.status.success(), "{}", said(&out));
        said(&out)
    };
    let cat = |path: &str| common::must(&mut node.command("sh", &["-c", &format!("cat {path} 2>/dev/null; true")]));
    let shown = || common::must(&mut node.command(NETWRIGHT, &["show", "eth1"]));

    ok(&wish);
    assert!(ok(&wish).contains("nothing to change"));
    let link = cat("/etc/systemd/network/97-netwright-eth1.link");
    assert!(link.contains("AlternativeName=port-seven-of-the-rack"), "{link}");
    assert!(node.ip(&["link", "show", "port-seven-of-the-rack"]).contains("eth1"));
    assert!(
        node.ip(&["route"])
            .contains("192.0.2.0/24 dev eth1 proto kernel scope link src 192.0.2.1 metric 321")
    );
    assert_eq!(common::must(&mut node.command("hostname", &[])).trim(), "rack7");
    common::send_lldp(&node.env("WIRE_NETNS"), "rack7");
    std::thread::sleep(Duration::from_millis(500));
    let text = shown();
    for line in [
        "tx-tcp-segmentation: false",
        "tx-checksum-ip-generic: false",
        "system-name: rack7",
        "name: v488",
        "MAC Bridge component",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    if mptcp.trim() == "1" {
        assert!(node.ip(&["mptcp", "endpoint"]).contains("192.0.2.1 id"));
    }

    // a name is given without a finger on the link
    let before = node.audit();
    ok(
        "interfaces: [{name: port-seven-of-the-rack, alt-names: [{name: port-seven-of-the-rack, state: absent}, {name: p7}]}]",
    );
    let checkpoints = 4; // taken, extended twice, destroyed
    assert_eq!(node.audit() - before, checkpoints);
    assert!(!node.ip(&["link", "show", "p7"]).contains("port-seven"));

    // what fails takes names, files and host name back
    let out = node.apply(
        "hostname: {running: other}
interfaces:
- {name: eth1, alt-names: [{name: p8}], dispatch: {post-activation: echo other}}
- {name: eth2, type: ethernet, ethtool: {feature: {rx-gro: true}}, wait-ip: ipv4, ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.9, prefix-length: 24}]}, mac-address: 'ff:ff:ff:ff:ff:ff'}
",
        &["--no-probes"],
    );
    assert!(!out.status.success(), "{}", said(&out));
    assert_eq!(common::must(&mut node.command("hostname", &[])).trim(), "rack7");
    assert!(cat("/etc/NetworkManager/dispatcher.d/nmstate-eth1-up.sh").contains("/run/dispatched"));
    assert!(!node.ip(&["link", "show", "eth1"]).contains("p8"));

    ok("interfaces: [{name: eth1, type: ethernet, state: down}]");
    std::thread::sleep(Duration::from_millis(500));
    ok("interfaces: [{name: eth1, type: ethernet, state: absent}]");
    assert_eq!(cat("/etc/systemd/network/97-netwright-eth1.link"), "");
    assert_eq!(cat("/etc/NetworkManager/dispatcher.d/nmstate-eth1-up.sh"), "");
    assert!(!node.ip(&["link", "show", "eth1"]).contains("altname"));
    if let Some(child) = &mut running {
        let ran = cat("/run/dispatched");
        assert!(ran.contains("up") && ran.contains("down"), "{ran}");
        let _ = child.kill();
        let _ = child.wait();
    } else {
        eprintln!("SKIPPED: no nm-dispatcher on this machine, so no script ran");
    }
}
