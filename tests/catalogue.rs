//! The end-to-end catalogue of kubernetes-nmstate on netwright: what its users rely on, and no other test here shows. Many lines share a cluster.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Cluster, Dir, NETWRIGHT, may_run, must, said};

/// A cluster whose agents try once and whose cards have a DHCP server at the other end.
struct Bed {
    cluster: Cluster,
    others: Vec<Child>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        for child in &mut self.others {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Bed {
    /// Nobody is at work yet.
    fn made(nodes: usize, options: &[&str]) -> Self {
        let cluster = Cluster {
            dir: Dir::new("catalogue"),
        };
        let mut up = cluster.verb("up");
        up.args(["--nodes", &nodes.to_string()]);
        for option in options {
            up.args(["--node-option", option]);
        }
        must(&mut up);
        Bed {
            cluster,
            others: vec![],
        }
    }

    fn agent(&self, node: &str, flags: &[&str]) {
        let mut agent = self.cluster.verb("agent");
        must(
            agent
                .arg(node)
                .args(["--probe-retries", "0", "--probe-timeout", "4"])
                .args(flags),
        );
    }

    fn stop(&self, role: &str) {
        must(self.cluster.verb("stop").arg(role));
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(args)
    }

    fn apply(&self, name: &str, spec: &str) {
        self.cluster.kubectl_apply(&format!(
            "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        ));
    }

    fn becomes(&self, policy: &str, condition: &str) {
        let until = format!("condition={condition}");
        let out = self
            .cluster
            .verb("kubectl")
            .args(["wait", "nncp", policy, "--for", &until, "--timeout", "40s"])
            .output()
            .expect("kubectl starts");
        assert!(out.status.success(), "{policy} is not {condition}\n{}", self.story());
    }

    /// Applies it without any other, and waits until it is so.
    fn alone(&self, name: &str, spec: &str, condition: &str) {
        self.kubectl(&["delete", "nncp", "--all"]);
        self.apply(name, spec);
        self.becomes(name, condition);
    }

    fn eventually(&self, what: &str, holds: impl FnMut() -> bool) {
        common::wait_for(what, Duration::from_secs(30), holds, || self.story());
    }

    /// What helps to understand a failure.
    fn story(&self) -> String {
        let table = self.kubectl(&["get", "nncp,nnce", "-o", "wide"]);
        let logs = ["agent-node01.log", "controller.log"].map(|name| self.cluster.log(name));
        format!("{table}\n{}", logs.join("\n"))
    }

    fn at(&self, object: &[&str], path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        self.kubectl(&[&["get", "--ignore-not-found"], object, &["-o", &path]].concat())
    }

    /// Part of what is shown of a node.
    fn shown(&self, node: &str, path: &str) -> String {
        self.at(&["nns", node], &format!(".status.currentState{path}"))
    }

    fn on(&self, node: &str, command: &[&str]) -> String {
        must(self.cluster.verb("exec").arg(node).args(command))
    }

    fn ip(&self, args: &[&str]) -> String {
        self.on("node01", &[&["ip"], args].concat())
    }

    /// A command at the far end of the first node's cards.
    fn far(&self, command: &[&str]) -> Command {
        let netns = self.cluster.node_env("node01", "WIRE_NETNS");
        let mut far = Command::new("ip");
        far.args(["netns", "exec", &netns]).args(command);
        far
    }

    /// Addresses 192.0.2.100 and on, name server 192.0.2.53, for whoever asks on eth1.
    fn dhcp(&mut self) {
        must(&mut self.far(&["ip", "address", "add", "192.0.2.1/24", "dev", "w-eth1"]));
        let dir = self.cluster.dir.0.display().to_string();
        let config = format!(
            "start 192.0.2.100\nend 192.0.2.199\ninterface w-eth1\nlease_file {dir}/leases\npidfile {dir}/udhcpd.pid\noption subnet 255.255.255.0\noption dns 192.0.2.53\noption lease 3600\n"
        );
        std::fs::write(self.cluster.dir.0.join("udhcpd.conf"), config).expect("written");
        let file = format!("{dir}/udhcpd.conf");
        let mut server = self.far(&["busybox", "udhcpd", "-f", &file]);
        let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.others.push(server.expect("busybox"));
    }

    /// What the controller tells Prometheus.
    fn counts(&self) -> String {
        let page = self.cluster.page(None, 8090, "/metrics");
        assert!(page.starts_with("HTTP/1.1 200"), "{page}\n{}", self.story());
        page
    }

    fn counts_to(&self, line: &str, there: bool) {
        self.eventually(line, || self.counts().lines().any(|l| l.starts_with(line)) == there);
    }

    /// Interfaces and their states, which a policy that failed or is undone leaves as they were.
    fn interfaces(&self) -> String {
        self.ip(&["-br", "address"])
    }
}

/// Policies as the examples of kubernetes-nmstate have them, each with what must hold on the node afterwards.
const EXAMPLES: [(&str, &str, &str); 11] = [
    (
        "ethernet",
        "{desiredState: {interfaces: [{name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: true}}]}}",
        "ip -4 address show eth1 | grep -q 'inet 192.0.2.1.*dynamic'",
    ),
    (
        "per-interface-ipv4-forwarding",
        "{desiredState: {interfaces: [{name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: true, forwarding: true}}]}}",
        "ip -4 address show eth1 | grep -q 'inet 192.0.2.1.*dynamic'",
    ),
    (
        "linux-bridge",
        "{desiredState: {interfaces: [{name: br1, type: linux-bridge, state: up, ipv4: {enabled: true, dhcp: true}, bridge: {options: {stp: {enabled: false}}, port: [{name: eth1}]}}]}}",
        "ip -4 address show br1 | grep -q 'inet 192.0.2.1.*dynamic'; ip link show eth1 | grep -q 'master br1'",
    ),
    (
        "detach-bridge-port-and-restore-eth",
        "{desiredState: {interfaces: [{name: br1, type: linux-bridge, state: absent}, {name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: true}}]}}",
        "! ip link show br1 2>/dev/null; ip -4 address show eth1 | grep -q 'inet 192.0.2.1.*dynamic'",
    ),
    (
        "dns",
        "{desiredState: {dns-resolver: {config: {search: [example.com, example.org], server: [10.99.1.1, '2001:db8::53']}}, interfaces: [{name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: true, auto-dns: false}, ipv6: {enabled: true, dhcp: true, autoconf: true, auto-dns: false}}]}}",
        "true",
    ),
    (
        "static-ip",
        "{nodeSelector: {kubernetes.io/hostname: node01}, desiredState: {interfaces: [{name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 10.244.0.2, prefix-length: 24}]}}]}}",
        "ip address show eth1 | grep -q 'inet 10.244.0.2/24'; ! ip address show eth1 | grep -q 192.0.2.",
    ),
    (
        "route",
        "{nodeSelector: {kubernetes.io/hostname: node01}, desiredState: {interfaces: [{name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 10.244.0.2, prefix-length: 24}]}}], routes: {config: [{destination: 198.51.100.0/24, metric: 150, next-hop-address: 10.244.0.1, next-hop-interface: eth1, table-id: 254}]}}}",
        "ip route show 198.51.100.0/24 | grep -q 'via 10.244.0.1 dev eth1'",
    ),
    (
        "static-ipv6",
        "{desiredState: {interfaces: [{name: eth1, type: ethernet, state: up, ipv6: {enabled: true, dhcp: false, autoconf: false, address: [{ip: '2001:db8::2', prefix-length: 64}]}}], routes: {config: [{destination: '2001:db8:1::/48', next-hop-address: '2001:db8::1', next-hop-interface: eth1}]}}}",
        "ip address show eth1 | grep -q 'inet6 2001:db8::2/64'; ip -6 route show 2001:db8:1::/48 | grep -q 'via 2001:db8::1'",
    ),
    (
        "gateway-in-another-table",
        "{desiredState: {interfaces: [{name: eth2, type: ethernet, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 203.0.113.2, prefix-length: 24}]}}], routes: {config: [{destination: 0.0.0.0/0, next-hop-address: 203.0.113.99, next-hop-interface: eth2, table-id: 200}]}}}",
        "ip route show table 200 | grep -q 'default via 203.0.113.99'",
    ),
    (
        "lldp",
        "{capture: {cards: 'interfaces.type == \"veth\"', up: 'capture.cards | interfaces.state == \"up\"', lldp: 'capture.up | interfaces.lldp.enabled := true'}, desiredState: {interfaces: '{{ capture.lldp.interfaces }}'}}",
        "true",
    ),
    (
        "worker-selector",
        "{nodeSelector: {node-role.kubernetes.io/worker: ''}, desiredState: {interfaces: [{name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: true}}]}}",
        "ip -4 address show eth1 | grep -q 'inet 192.0.2.1.*dynamic'",
    ),
];

/// What takes the node off its gateway or its names, and what then fails.
const BAD: [(&str, &str, &str); 4] = [
    (
        "a-default-gateway-that-is-not-there",
        "{interfaces: [{name: eth2, type: ethernet, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 203.0.113.2, prefix-length: 24}]}}], routes: {config: [{destination: 0.0.0.0/0, metric: 5, next-hop-address: 203.0.113.99, next-hop-interface: eth2}]}}",
        "probe gateway failed",
    ),
    ("no-name-server", "{dns-resolver: {config: {}}}", "probe dns failed"),
    (
        "a-link-local-name-server-that-is-not-there",
        "{interfaces: [{name: eth2, type: ethernet, state: up, ipv6: {enabled: true, dhcp: true, autoconf: true}}], dns-resolver: {config: {server: ['fe80::deef:1%eth2']}}}",
        "probe dns failed",
    ),
    (
        "a-name-server-that-is-not-there",
        "{dns-resolver: {config: {server: [203.0.113.53]}}}",
        "probe dns failed",
    ),
];

/// A bridge over whatever interface holds the default route.
const ONTO: &str = r#"{capture: {default-gw: 'routes.running.destination == "0.0.0.0/0"',
  base: 'interfaces.name == capture.default-gw.routes.running.0.next-hop-interface',
  routes: 'routes.running.next-hop-interface == capture.base.interfaces.0.name',
  moved: 'capture.routes | routes.running.next-hop-interface := "brext"'},
 desiredState: {interfaces: [{name: brext, type: linux-bridge, state: up, mac-address: '{{ capture.base.interfaces.0.mac-address }}',
   ipv4: '{{ capture.base.interfaces.0.ipv4 }}',
   bridge: {options: {stp: {enabled: false}}, port: [{name: '{{ capture.base.interfaces.0.name }}'}]}}],
  routes: {config: '{{ capture.moved.routes.running }}'}}}"#;

/// And back onto its port.
const BACK: &str = r#"{capture: {port: 'interfaces.controller == "brext"', brext: 'interfaces.name == "brext"',
  routes: 'routes.running.next-hop-interface == "brext"', moved: 'capture.routes | routes.running.next-hop-interface := "mgmt0"'},
 desiredState: {interfaces: [{name: brext, type: linux-bridge, state: absent},
   {name: '{{ capture.port.interfaces.0.name }}', type: ethernet, state: up, ipv4: '{{ capture.brext.interfaces.0.ipv4 }}'}],
  routes: {config: '{{ capture.moved.routes.running }}'}}}"#;

#[test]
fn one_node_examples_rollbacks_names_and_the_default_bridge() {
    if !may_run() {
        return;
    }
    let mut bed = Bed::made(1, &["--mgmt-profile"]);
    bed.agent("node01", &[]);
    must(&mut bed.cluster.verb("controller"));
    bed.dhcp();

    // its state is there with the versions, and not written again where nothing changes
    let nns = |path: &str| bed.at(&["nns", "node01"], path);
    bed.eventually("the primary card is shown", || {
        nns(".status.currentState.interfaces[*].name").contains("mgmt0")
    });
    assert!(nns(".status.hostNetworkManagerVersion").starts_with("1."));
    assert_eq!(nns(".status.handlerNmstateVersion"), env!("CARGO_PKG_VERSION"));

    for (name, spec, holds) in EXAMPLES {
        bed.alone(name, spec, "Available");
        let check = || {
            let mut check = bed.cluster.verb("exec");
            check
                .args(["node01", "sh", "-ec", holds])
                .output()
                .expect("sh")
                .status
                .success()
        };
        bed.eventually(&format!("{name}: {holds}"), check);
        match name {
            "linux-bridge" => {
                let path = ".status.desiredState.interfaces[0].bridge";
                let published = bed.at(&["nnce", "node01.linux-bridge"], path);
                let trunk = r#","vlan":{"mode":"trunk","trunk-tags":[{"id-range":{"max":4094,"min":2}}]}"#;
                let filters = bed
                    .on("node01", &["sh", "-c", "ls /sys/class/net/br1/bridge"])
                    .contains("vlan_filtering");
                let trunk = if filters { trunk } else { "" };
                let want = format!(r#"{{"options":{{"stp":{{"enabled":false}}}},"port":[{{"name":"eth1"{trunk}}}]}}"#);
                assert_eq!(published, want);
            }
            "dns" => {
                let told = r#""search":["example.com","example.org"],"server":["10.99.1.1","2001:db8::53"]"#;
                let running = || nns(".status.currentState.dns-resolver.running");
                bed.eventually("names are asked for and running", || running().contains(told));
            }
            "lldp" => {
                bed.eventually("the switch is heard", || {
                    common::send_lldp(&bed.cluster.node_env("node01", "WIRE_NETNS"), "lldp-switch");
                    nns(".status.currentState.interfaces[?(@.name==\"eth1\")].lldp").contains("lldp-switch")
                });
            }
            _ => {}
        }
    }
    let calm = "{desiredState: {dns-resolver: {config: {server: [10.99.1.1], search: [example.org]}}, interfaces: [{name: eth1, type: ethernet, state: down}, {name: eth2, type: ethernet, state: absent}]}}";
    bed.alone("calm", calm, "Available");

    let before = bed.interfaces();
    let names = r#"{"options":[],"search":["example.org"],"server":["10.99.1.1"]}"#;
    let at = || nns(".status.lastSuccessfulUpdateTime");
    for (name, desired, why) in BAD {
        bed.alone(name, &format!("{{desiredState: {desired}}}"), "Degraded");
        let path = ".status.conditions[?(@.type==\"Failing\")].message";
        let told = bed.at(&["nnce", &format!("node01.{name}")], path);
        assert!(told.starts_with(why) && told.ends_with("rolled back"), "{name}: {told}");
        bed.eventually("all is as before", || bed.interfaces() == before);
        assert!(
            bed.ip(&["route", "get", "100.64.0.1"])
                .contains("via 10.99.1.1 dev mgmt0")
        );
        bed.eventually("names, too", || {
            nns(".status.currentState.dns-resolver.config") == names
        });
    }

    // a checkpoint that somebody has forgotten holds up, but does not block
    let held = bed.cluster.dir.0.join("held.yaml");
    std::fs::write(
        &held,
        "interfaces: [{name: held0, type: linux-bridge, state: up, bridge: {port: []}}]",
    )
    .expect("written");
    let other = bed.cluster.dir.0.join("other");
    let (held, other) = (held.display().to_string(), other.display().to_string());
    let forgotten = ["--no-probes", "--no-commit", "--timeout", "4", "--state-dir"];
    bed.on(
        "node01",
        &[&[NETWRIGHT, "apply", &held], &forgotten[..], &[&other]].concat(),
    );
    bed.alone(
        "after-it",
        "{desiredState: {interfaces: [{name: br7, type: linux-bridge, state: up, bridge: {port: []}}]}}",
        "Available",
    );
    let links = bed.ip(&["-br", "link"]);
    assert!(links.contains("br7") && !links.contains("held0"), "{links}");
    // one node, one agent
    let (lock, state) = (bed.cluster.dir.0.join("c/node01/state"), bed.cluster.dir.0.join("run"));
    let mut second = bed.cluster.verb("exec");
    second.args([
        "node01",
        NETWRIGHT,
        "agent",
        "--node-name",
        "node01",
        "--policy-dir",
        "/tmp",
        "--state-dir",
    ]);
    let second = second
        .arg(lock)
        .arg("--run-dir")
        .arg(state)
        .output()
        .expect("netwright");
    let why = said(&second);
    assert!(
        !second.status.success() && why.contains("another netwright is at work on this node: pid"),
        "{why}"
    );

    // what a policy changes is shown within 5 s, and so is what others change
    let shows = |name: &str| bed.shown("node01", ".interfaces[*].name").contains(name);
    bed.eventually("it is shown", || shows("br7"));
    let old = at();
    bed.alone(
        "shown",
        "{desiredState: {interfaces: [{name: br7, type: linux-bridge, state: absent}]}}",
        "Available",
    );
    bed.eventually("it is shown no more", || !shows("br7"));
    assert!(at() > old);
    let nmcli = [
        "nmcli",
        "connection",
        "add",
        "type",
        "bridge",
        "ifname",
        "nmcli0",
        "con-name",
        "nmcli0",
        "ipv4.method",
        "disabled",
    ];
    bed.on("node01", &[&nmcli[..], &["ipv6.method", "disabled"]].concat());
    bed.eventually("what nmcli makes is shown", || shows("nmcli0"));

    // the default route moves onto a bridge, stays there when everybody starts anew, and moves back
    let address = |link: &str| bed.ip(&["-br", "-4", "address", "show", link]).contains("10.99.1.2/24");
    let mac = |link: &str| {
        bed.ip(&["-br", "link", "show", link])
            .split_whitespace()
            .nth(2)
            .map(str::to_owned)
    };
    let of_card = mac("mgmt0");
    bed.alone("default-bridge", ONTO, "Available");
    let over = |link: &str| {
        bed.ip(&["route", "get", "100.64.0.1"])
            .contains(&format!("via 10.99.1.1 dev {link}"))
    };
    assert!(
        address("brext") && !address("mgmt0") && over("brext"),
        "{}",
        bed.interfaces()
    );
    assert_eq!(mac("brext"), of_card);
    bed.stop("agent-node01");
    // what a reboot leaves of it
    let nm = &bed.cluster.node_env("node01", "NM_PID");
    must(Command::new("kill").arg(nm));
    let off = "while [ -e /proc/$1/exe ]; do sleep 0.1; done; ip link del brext; ip addr flush dev mgmt0; ip link set mgmt0 down; rm -rf /run/NetworkManager/*";
    bed.on("node01", &["sh", "-ec", off, "sh", nm]);
    must(&mut bed.cluster.node_verb("node01", "restart-nm"));
    bed.eventually("it is there again", || address("brext") && over("brext"));
    bed.agent("node01", &[]);
    bed.becomes("default-bridge", "Available");
    bed.alone("default-card", BACK, "Available");
    assert!(
        address("mgmt0") && over("mgmt0") && !bed.interfaces().contains("brext"),
        "{}",
        bed.interfaces()
    );
}

#[test]
fn open_vswitch_is_shown_in_the_cluster_and_a_wrong_address_over_the_uplink_rolls_back() {
    if !common::may_run_ovs() {
        return;
    }
    let bed = Bed::made(1, &["--ovs", "--mgmt-profile"]);
    bed.agent("node01", &[]);
    must(&mut bed.cluster.verb("controller"));
    let bridge = "{name: br1, type: ovs-bridge, state: up, bridge: {options: {datapath: netdev}, port: [{name: eth1}, {name: ovs0}]}}";
    let inside = "{name: ovs0, type: ovs-interface, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}}";
    bed.apply(
        "bridge",
        &format!("{{desiredState: {{interfaces: [{bridge}, {inside}]}}}}"),
    );
    bed.becomes("bridge", "Available");
    bed.eventually("bridge and inner port are shown", || {
        let shown = bed.shown("node01", ".interfaces[*].type");
        shown.contains("ovs-bridge") && shown.contains("ovs-interface")
    });
    let mapping =
        |rest: &str| format!("{{desiredState: {{ovn: {{bridge-mappings: [{{localnet: physnet1, {rest}}}]}}}}}}");
    let mapped = || bed.shown("node01", ".ovn.bridge-mappings");
    bed.apply("mapping", &mapping("bridge: br1"));
    bed.becomes("mapping", "Available");
    bed.eventually("OVN's mapping is shown", || {
        mapped().contains(r#""localnet":"physnet1""#)
    });
    bed.kubectl(&["delete", "nncp", "mapping"]);
    bed.apply("unmapping", &mapping("state: absent"));
    bed.becomes("unmapping", "Available");
    bed.eventually("it is gone", || !mapped().contains("physnet1"));

    let over = |link: &str| {
        bed.ip(&["route", "get", "100.64.0.1"])
            .contains(&format!("via 10.99.1.1 dev {link}"))
    };
    bed.apply(
        "wrong",
        "{desiredState: {interfaces: [{name: br-ex, type: ovs-bridge, state: up, bridge: {options: {datapath: netdev}, port: [{name: mgmt0}, {name: ex0}]}}, {name: mgmt0, type: ethernet, state: up, ipv4: {enabled: false}, ipv6: {enabled: false}}, {name: ex0, type: ovs-interface, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 10.98.0.2, prefix-length: 24}]}}]}}",
    );
    bed.becomes("wrong", "Degraded");
    bed.eventually("the card has address and default route again", || {
        bed.ip(&["-br", "-4", "address", "show", "mgmt0"])
            .contains("10.99.1.2/24")
            && over("mgmt0")
    });
}

/// What an enactment of kubernetes-nmstate says of a bridge that is there.
const INHERITED: &str = r#"{"status": {"policyGeneration": 1, "desiredState": {"interfaces": [{"name": "old0", "type": "linux-bridge", "state": "up",
  "bridge": {"port": []}}]}, "conditions": [
  {"type": "Failing", "status": "False", "reason": "SuccessfullyConfigured"}, {"type": "Available", "status": "True", "reason": "SuccessfullyConfigured", "message": "successfully reconciled"},
  {"type": "Progressing", "status": "False", "reason": "SuccessfullyConfigured"}, {"type": "Pending", "status": "False", "reason": "SuccessfullyConfigured"},
  {"type": "Aborted", "status": "False", "reason": "SuccessfullyConfigured"}]}}"#;

/// And where it has given up.
const FAILED: &str = r#"{"status": {"policyGeneration": 1, "retryCount": {"1": 5}, "conditions": [
  {"type": "Failing", "status": "True", "reason": "FailedToConfigure", "message": "it did not work"}, {"type": "Available", "status": "False", "reason": "FailedToConfigure"},
  {"type": "Progressing", "status": "False", "reason": "FailedToConfigure"}, {"type": "Pending", "status": "False", "reason": "FailedToConfigure"},
  {"type": "Aborted", "status": "False", "reason": "SuccessfullyConfigured"}]}}"#;

/// A node's state as somebody else published it, with what this node does not have.
const PUBLISHED: &str = r#"{"status": {"currentState": {"dns-resolver": {"config": {}, "running": {}}, "interfaces": [{"name": "gone0", "type": "dummy"}],
  "ovn": {"bridge-mappings": [{"localnet": "physnet1", "bridge": "br-ex"}]}}, "lastSuccessfulUpdateTime": "2024-05-01T12:00:00Z"}}"#;

#[test]
fn two_nodes_counts_conditions_enactments_deleted_and_nodes_that_leave() {
    if !may_run() {
        return;
    }
    let mut bed = Bed::made(2, &[]);
    let old = "{desiredState: {interfaces: [{name: old0, type: linux-bridge, state: up, bridge: {port: []}}]}}";
    bed.apply("old", old);
    for node in ["node01", "node02"] {
        let file = bed.cluster.dir.0.join("old.yaml");
        std::fs::write(
            &file,
            "interfaces: [{name: old0, type: linux-bridge, state: up, bridge: {port: []}}]",
        )
        .expect("written");
        let (file, state) = (
            file.display().to_string(),
            bed.cluster.dir.0.join(node).display().to_string(),
        );
        bed.on(node, &[NETWRIGHT, "apply", &file, "--no-probes", "--state-dir", &state]);
        bed.cluster.kubectl_apply(&format!(
            "apiVersion: nmstate.io/v1beta1\nkind: NodeNetworkConfigurationEnactment\nmetadata: {{name: {node}.old, labels: {{nmstate.io/policy: old, nmstate.io/node: {node}}}}}\n"
        ));
        bed.kubectl(&[
            "patch",
            "nnce",
            &format!("{node}.old"),
            "--subresource=status",
            "--type=merge",
            "-p",
            if node == "node01" { INHERITED } else { FAILED },
        ]);
    }
    bed.cluster
        .kubectl_apply("apiVersion: nmstate.io/v1beta1\nkind: NodeNetworkState\nmetadata: {name: node01}\n");
    let status = ["--subresource=status", "--type=merge", "-p", PUBLISHED];
    bed.kubectl(&[&["patch", "nns", "node01"][..], &status].concat());
    let rights = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/components/bridge-marker/rbac.yaml");
    bed.kubectl(&["apply", "-f", rights]);
    let history = bed.cluster.dir.0.join("history");
    let line = "jsonpath={.metadata.name} {.status.conditions[?(@.status==\"True\")].type}{\"\\n\"}";
    let mut watch = bed.cluster.verb("kubectl");
    let file = std::fs::File::create(&history).expect("a file");
    watch.args(["get", "nnce", "-w", "-o", line]).stdout(file);
    bed.others.push(watch.spawn().expect("kubectl"));
    // taken over from kubernetes-nmstate: nothing is touched, what failed there is tried anew, and nothing is begun while it is still there
    let lock = |node: &str| bed.cluster.dir.0.join(format!("{node}.handler_lock"));
    let handler = std::fs::File::create(lock("node01")).expect("a file");
    handler.lock().expect("locked");
    for node in ["node01", "node02"] {
        let lock = lock(node).display().to_string();
        bed.agent(node, &["--bridge-marker", "--handler-lock", &lock]);
    }
    must(&mut bed.cluster.verb("controller"));
    bed.eventually("one takes over, the other one waits", || {
        let is = |path: &str| bed.at(&["nnce", "node02.old"], path);
        let over =
            is(".status.conditions[?(@.type==\"Available\")].status") == "True" && is(".status.retryCount").is_empty();
        over && bed
            .cluster
            .log("agent-node01.log")
            .contains("kubernetes-nmstate is at work on this node")
    });
    assert!(bed.at(&["nns", "node01"], ".status.currentState").contains("physnet1"));
    drop(handler);
    bed.eventually("it goes on", || {
        bed.cluster
            .log("agent-node01.log")
            .contains("kubernetes-nmstate is gone")
    });
    bed.becomes("old", "Available");
    assert_eq!(
        bed.at(&["nncp", "old"], ".status.conditions[?(@.type==\"Available\")].message"),
        "2/2 nodes successfully configured"
    );
    assert_eq!(bed.at(&["nnce", "node01.old"], ".status.attempts"), "");
    assert!(!bed.cluster.log("agent-node01.log").contains("checkpoint"));
    bed.eventually("the state is ours alone", || {
        let state = bed.at(&["nns", "node01"], ".status.currentState");
        state.contains("old0") && !state.contains("physnet1") && !state.contains("gone0")
    });

    // conditions, and counts that rise and fall with bridges, routes and policies
    let seen = |policy: &str| -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&history).unwrap_or_default();
        let all = text.lines().filter_map(|l| l.split_once(' '));
        let of = all.filter_map(|(e, is)| Some((e.strip_suffix(&format!(".{policy}"))?.to_owned(), is.to_owned())));
        of.collect()
    };
    let bridge = |state: &str| {
        format!(
            "{{maxUnavailable: 1, desiredState: {{interfaces: [{{name: br0, type: linux-bridge, state: {state}, bridge: {{port: []}}, ipv4: {{enabled: true, dhcp: false, address: [{{ip: '{{{{ node.annotations[\"address\"] }}}}', prefix-length: 24}}]}}}}], routes: {{config: [{{destination: 198.51.100.0/24, next-hop-address: 192.0.2.9, next-hop-interface: br0, state: {}}}]}}}}}}",
            if state == "up" { "null" } else { "absent" }
        )
    };
    for (node, address) in [("node01", "192.0.2.1"), ("node02", "192.0.2.2")] {
        bed.kubectl(&["annotate", "node", node, &format!("address={address}")]);
    }
    bed.counts_to(
        "kubernetes_nmstate_network_interfaces{type=\"linux-bridge\",node=\"node02\"} 1",
        true,
    );
    bed.apply("p", &bridge("up"));
    bed.becomes("p", "Available");
    for (node, address) in [("node01", "192.0.2.1/24"), ("node02", "192.0.2.2/24")] {
        assert!(bed.on(node, &["ip", "address", "show", "br0"]).contains(address));
        bed.eventually("first at work, then Available, and it stays", || {
            let all = seen("p").into_iter().filter(|(n, _)| n == node).map(|(_, is)| is);
            let mut told: Vec<String> = all.filter(|is| !is.is_empty() && is != "Pending").collect();
            told.dedup();
            told == ["Progressing", "Available"]
        });
        let one = [
            format!("kubernetes_nmstate_network_interfaces{{type=\"linux-bridge\",node=\"{node}\"}} 2"),
            format!("kubernetes_nmstate_enactments_status{{node=\"{node}\",status=\"Available\"}} 2"),
            format!("kubernetes_nmstate_routes{{node=\"{node}\",ip_stack=\"ipv4\",type=\"static\"}} 2"),
        ];
        one.iter().for_each(|line| bed.counts_to(line, true));
    }
    bed.counts_to("kubernetes_nmstate_policies_status{status=\"Available\"} 2", true);
    bed.counts_to("kubernetes_nmstate_features_applied{name=\"static-route\"} 1", true);
    bed.apply(
        "q",
        "{desiredState: {interfaces: [{name: eth666, type: ethernet, state: up}]}}",
    );
    bed.becomes("q", "Degraded");
    bed.counts_to("kubernetes_nmstate_policies_status{status=\"Degraded\"} 1", true);
    bed.counts_to(
        "kubernetes_nmstate_enactments_status{node=\"node01\",status=\"Failing\"} 1",
        true,
    );
    bed.kubectl(&["delete", "nncp", "q"]);
    bed.counts_to("kubernetes_nmstate_policies_status{status=\"Degraded\"} 1", false);
    bed.counts_to(
        "kubernetes_nmstate_enactments_status{node=\"node01\",status=\"Failing\"} 1",
        false,
    );
    bed.apply(
        "nobody",
        "{nodeSelector: {kubernetes.io/hostname: node09}, desiredState: {interfaces: []}}",
    );
    bed.becomes("nobody", "Ignored");
    assert_eq!(
        bed.at(&["nncp", "nobody"], ".status.conditions[?(@.status==\"True\")].message"),
        "Policy does not match any node"
    );

    // marks go with the flag
    let marked = || {
        bed.at(&["node", "node01"], ".status.capacity")
            .contains("bridge.network.kubevirt.io/br0")
    };
    bed.eventually("the bridge is marked", marked);
    bed.stop("agent-node01");
    bed.agent("node01", &[]);
    bed.eventually("its mark is gone", || {
        !bed.at(&["node", "node01"], ".status").contains("kubevirt.io")
    });
    assert!(
        bed.at(&["node", "node02"], ".status.capacity")
            .contains("bridge.network.kubevirt.io/br0")
    );

    bed.apply("p", &bridge("absent"));
    for node in ["node01", "node02"] {
        bed.counts_to(
            &format!("kubernetes_nmstate_network_interfaces{{type=\"linux-bridge\",node=\"{node}\"}} 1"),
            true,
        );
        bed.counts_to(
            &format!("kubernetes_nmstate_routes{{node=\"{node}\",ip_stack=\"ipv4\",type=\"static\"}} 1"),
            true,
        );
    }
    bed.kubectl(&["delete", "nncp", "p"]);
    bed.counts_to("kubernetes_nmstate_features_applied{name=\"static-route\"}", false);
    bed.counts_to("kubernetes_nmstate_policies_status{status=\"Available\"} 1", true);

    // who may view the cluster may view its network
    bed.kubectl(&[
        "create",
        "clusterrolebinding",
        "viewer",
        "--clusterrole=netwright-view",
        "--user=viewer",
    ]);
    assert!(
        bed.kubectl(&["get", "nns", "--as", "viewer", "-o", "name"])
            .contains("node01")
    );

    // an enactment is deleted while its node works, and the one of the node that waits: neither begins beside the other
    let probe = "{name: never, tcp: {host: 10.99.1.1, port: 4}, required: true, timeoutSeconds: 26}";
    bed.apply("slow", &format!("{{maxUnavailable: 1, probes: [{probe}], desiredState: {{interfaces: [{{name: br9, type: linux-bridge, bridge: {{port: []}}}}]}}}}"));
    let now = |is: &str| {
        let path = "{range .items[*]}{.metadata.name} {.status.conditions[?(@.status==\"True\")].type}{\"\\n\"}{end}";
        let all = bed.kubectl(&[
            "get",
            "nnce",
            "-l",
            "nmstate.io/policy=slow",
            "-o",
            &format!("jsonpath={path}"),
        ]);
        let of = all.lines().filter_map(|l| l.strip_suffix(&format!(" {is}")));
        of.map(str::to_owned).collect::<Vec<_>>()
    };
    let names = || {
        bed.kubectl(&["get", "nnce", "-l", "nmstate.io/policy=slow", "-o", "name"])
            .lines()
            .count()
    };
    bed.eventually("one is at work", || now("Progressing").len() == 1 && names() == 2);
    let works = now("Progressing").remove(0);
    let begin = Instant::now();
    bed.kubectl(&["delete", "nnce", "-l", "nmstate.io/policy=slow"]);
    bed.eventually("who waits asks anew", || names() == 1);
    bed.eventually("who works says so again", || now("Progressing") == [works.clone()]);
    println!("said again after {:?}", begin.elapsed());
    bed.becomes("slow", "Degraded");
    bed.eventually("the other one never began", || {
        now("Aborted").len() == 1 && now("Failing") == [works.clone()]
    });
    let other = if works.starts_with("node01") {
        "node02"
    } else {
        "node01"
    };
    assert!(
        !seen("slow").iter().any(|(n, is)| n == other && is == "Progressing"),
        "{:?}",
        seen("slow")
    );
    bed.kubectl(&["delete", "nncp", "slow"]);

    // a node that leaves takes along what was kept to undo, whether its policy is there or not
    let undo = |name: &str| {
        format!(
            "{{onDelete: Revert, desiredState: {{interfaces: [{{name: {name}, type: linux-bridge, bridge: {{port: []}}}}]}}}}"
        )
    };
    for policy in ["left1", "left2"] {
        bed.apply(policy, &undo(policy));
        bed.becomes(policy, "Available");
    }
    bed.stop("agent-node02");
    bed.kubectl(&["delete", "nncp", "left1"]);
    bed.eventually("the other node undoes it", || {
        bed.at(&["nnce", "node01.left1"], ".metadata.name").is_empty()
    });
    assert_eq!(bed.at(&["nnce", "node02.left1"], ".metadata.name"), "node02.left1");
    bed.kubectl(&["delete", "node", "node02"]);
    bed.eventually("nothing is left of the node", || {
        !bed.kubectl(&["get", "nnce", "-o", "name"]).contains("node02")
    });
    assert_eq!(bed.at(&["nnce", "node01.left2"], ".metadata.name"), "node01.left2");
    bed.eventually("the policy counts one node", || {
        bed.at(&["nncp", "left2"], ".status.conditions[?(@.status==\"True\")].message")
            == "1/1 nodes successfully configured"
    });
}
