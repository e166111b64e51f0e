//! Open vSwitch in its userspace datapath beside a NetworkManager that has its plug-in, in a node made of network namespaces.

mod common;

use std::time::Duration;

use common::{NETWRIGHT, Node, may_run_ovs, must, said};

struct Ovs(Node);

impl Ovs {
    fn up(options: &[&str]) -> Self {
        Ovs(Node::up(&[&["--ovs"], options].concat()))
    }

    /// Applies, and again: the second time nothing may be touched.
    fn ok(&self, yaml: &str) {
        let out = self.0.apply(yaml, &[]);
        assert!(out.status.success(), "{yaml}\n{}", said(&out));
        let before = self.0.audit();
        let again = self.0.apply(yaml, &[]);
        assert!(said(&again).contains("nothing to change"), "{yaml}\n{}", said(&again));
        assert_eq!(self.0.audit(), before, "a second apply must not touch NetworkManager");
    }

    fn vsctl(&self, args: &[&str]) -> String {
        must(&mut self.0.command("ovs-vsctl", args)).trim().to_owned()
    }

    fn get(&self, table: &str, row: &str, column: &str) -> String {
        self.vsctl(&["get", table, row, column])
    }
}

const BRIDGE: &str = "interfaces:
- name: br0
  type: ovs-bridge
  bridge:
    options: {datapath: netdev, stp: 'false'}
    port:
    - {name: eth1, vlan: {mode: access, tag: 5}}
    - {name: ovs0}
- name: ovs0
  type: ovs-interface
  mtu: 1400
  mac-address: 02:00:00:00:aa:01
  ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}
";

#[test]
fn a_bridge_comes_changes_and_goes() {
    if !may_run_ovs() {
        return;
    }
    let ovs = Ovs::up(&["--links", "eth1,eth2,eth3"]);
    ovs.ok(BRIDGE);
    assert_eq!(ovs.get("port", "eth1", "tag"), "5");
    let link = ovs.0.ip(&["addr", "show", "ovs0"]);
    assert!(
        ["192.0.2.1/24", "mtu 1400", "02:00:00:00:aa:01"]
            .iter()
            .all(|t| link.contains(t)),
        "{link}"
    );
    let shown = must(&mut ovs.0.command(NETWRIGHT, &["show", "eth1"]));
    assert!(
        shown.contains("controller: br0") && !shown.contains("ovs-netdev"),
        "{shown}"
    );

    ovs.ok("interfaces: [{name: br0, type: ovs-bridge, bridge: {options: {stp: true, fail-mode: secure}, port: [{name: ovs0},
        {name: eth1, vlan: {mode: trunk, tag: 3, enable-native: true, trunk-tags: [{id-range: {min: 7, max: 9}}]}}, {name: eth2}]}}]");
    assert_eq!(
        (
            ovs.get("port", "eth1", "vlan_mode"),
            ovs.get("port", "eth1", "trunks"),
            ovs.get("bridge", "br0", "stp_enable")
        ),
        ("native-untagged".into(), "[7, 8, 9]".into(), "true".into())
    );
    // somebody meddles
    ovs.vsctl(&["set", "port", "eth1", "tag=77"]);
    ovs.ok(
        "interfaces: [{name: br0, type: ovs-bridge, bridge: {port: [{name: ovs0}, {name: eth2},
        {name: eth1, vlan: {mode: trunk, tag: 3, enable-native: true, trunk-tags: [{id-range: {min: 7, max: 9}}]}}]}}]",
    );
    assert_eq!(ovs.get("port", "eth1", "tag"), "3");
    ovs.ok("interfaces: [{name: eth2, type: ethernet, controller: ''}]");
    assert_eq!(ovs.vsctl(&["list-ports", "br0"]), "eth1\novs0");

    ovs.ok("interfaces: [{name: br0, type: ovs-bridge, state: down}]");
    assert_eq!(ovs.vsctl(&["list-br"]), "");
    ovs.ok("interfaces: [{name: br0, type: ovs-bridge, state: up}]");
    assert_eq!(ovs.vsctl(&["list-ports", "br0"]), "eth1\novs0");

    ovs.ok("interfaces: [{name: br0, type: ovs-bridge, state: absent}]");
    assert_eq!(ovs.vsctl(&["list-br"]), "");
    let profiles = must(&mut ovs.0.command("nmcli", &["-t", "-f", "type", "connection"]));
    assert!(
        !profiles.contains("ovs") && ovs.0.ip(&["-br", "link"]).contains("eth1"),
        "{profiles}"
    );
}

#[test]
fn bonds_patches_and_keys() {
    if !may_run_ovs() {
        return;
    }
    let ovs = Ovs::up(&["--links", "eth1,eth2,eth3"]);
    let bond = "interfaces: [{name: br1, type: ovs-bridge, bridge: {options: {datapath: netdev}, port: [{name: bond0, link-aggregation:
        {mode: balance-slb, bond-updelay: 100, port: [{name: eth2}, {name: eth3}], ovs-db: {external_ids: {x: 1}}}}]}}]";
    ovs.ok(bond);
    assert_eq!(
        (
            ovs.get("port", "bond0", "bond_mode"),
            ovs.get("port", "bond0", "bond_updelay"),
            ovs.get("port", "bond0", "external_ids:x")
        ),
        ("balance-slb".into(), "100".into(), "\"1\"".into())
    );
    ovs.ok(&bond.replace("balance-slb", "lacp"));
    assert_eq!(ovs.get("port", "bond0", "lacp"), "active");
    ovs.ok("interfaces: [{name: br1, type: ovs-bridge, bridge: {port: [{name: bond0, link-aggregation: {port: [{name: eth2}]}}]}}]");
    assert_eq!(ovs.vsctl(&["list-ifaces", "br1"]), "eth2");

    ovs.ok(
        "interfaces: [{name: br1, type: ovs-bridge, bridge: {port: [{name: p1}, {name: eth2}]}},
        {name: br0, type: ovs-bridge, bridge: {options: {datapath: netdev}, port: [{name: p0}, {name: br0}]}},
        {name: p0, type: ovs-interface, patch: {peer: p1}}, {name: p1, type: ovs-interface, patch: {peer: p0}}]",
    );
    assert_eq!(ovs.get("interface", "p0", "options:peer"), "p1");
    // A frame's way is asked for: the ports' `error` may go on naming a missing peer until the database changes.
    let way = || {
        let args = [
            "-t",
            "/run/openvswitch/vswitchd.ctl",
            "ofproto/trace",
            "br0",
            "in_port=LOCAL",
        ];
        must(&mut ovs.0.command("ovs-appctl", &args))
    };
    common::wait_for(
        "the cable holds",
        Duration::from_secs(10),
        || way().contains("br1"),
        way,
    );

    ovs.ok("interfaces: [{name: br0, type: ovs-bridge, ovs-db: {external_ids: {a: 1, b: 2}, other_config: {mac-table-size: 4096}}},
        {name: eth2, type: ethernet, ovs-db: {external_ids: {iface: x}}}]");
    ovs.ok("interfaces: [{name: br0, type: ovs-bridge, ovs-db: {external_ids: {a: null}, other_config: {}}}]");
    let ids = ovs.get("bridge", "br0", "external_ids");
    assert!(
        ids.contains("b=\"2\"") && !ids.contains("a=\"1\"") && ids.contains("NM.connection.uuid"),
        "{ids}"
    );
    assert_eq!(ovs.get("bridge", "br0", "other_config"), "{}");

    ovs.ok("{ovs-db: {external_ids: {k: 1}, other_config: {n: true}}, ovn: {bridge-mappings: [{localnet: n1, bridge: br0}]}}");
    ovs.ok("{ovs-db: {external_ids: {}}, ovn: {bridge-mappings: [{localnet: n2, bridge: br1}]}}");
    assert_eq!(
        ovs.get("open", ".", "external_ids"),
        "{ovn-bridge-mappings=\"n1:br0,n2:br1\"}"
    );
    assert_eq!(ovs.get("open", ".", "other_config"), "{n=\"true\"}");

    // a port of others is left alone, and said so where it shall go
    ovs.vsctl(&[
        "add-port",
        "br0",
        "other0",
        "--",
        "set",
        "interface",
        "other0",
        "type=internal",
    ]);
    ovs.ok("interfaces: [{name: br0, type: ovs-bridge, bridge: {port: [{name: br0}]}}]");
    assert_eq!(ovs.vsctl(&["list-ports", "br0"]), "other0");
    let out = ovs.0.apply(
        "interfaces: [{name: br0, type: ovs-bridge, bridge: {allow-extra-ports: false, port: [{name: br0}]}}]",
        &[],
    );
    assert!(
        said(&out).contains("port 'other0' was put there with ovs-vsctl"),
        "{}",
        said(&out)
    );
}

#[test]
fn a_rollback_covers_the_database() {
    if !may_run_ovs() {
        return;
    }
    let ovs = Ovs::up(&[]);
    ovs.ok(BRIDGE);
    ovs.ok("ovs-db: {external_ids: {a: 1, b: 2}}");
    let out = ovs.0.apply(
        "{ovs-db: {external_ids: {a: null, b: 3, c: 4}}, interfaces: [{name: br0, type: ovs-bridge, bridge: {options: {stp: true}, port:
        [{name: eth1, vlan: {mode: access, tag: 6}}, {name: eth2}, {name: ovs0}]}}, {name: mgmt0, type: ethernet, ipv4: {enabled: true,
        dhcp: false, address: [{ip: 10.98.0.2, prefix-length: 24}]}}]}",
        &[],
    );
    assert!(
        said(&out).contains("no route to 10.99.1.1; rolled back"),
        "{}",
        said(&out)
    );
    assert_eq!(ovs.get("open", ".", "external_ids"), "{a=\"1\", b=\"2\"}");
    assert_eq!(ovs.vsctl(&["list-ports", "br0"]), "eth1\novs0");
    assert_eq!(
        (ovs.get("port", "eth1", "tag"), ovs.get("bridge", "br0", "stp_enable")),
        ("5".into(), "false".into())
    );
    assert!(ovs.0.ip(&["-br", "addr", "show", "ovs0"]).contains("192.0.2.1/24"));
    ovs.ok(BRIDGE);

    ovs.0.bed_verb("stop-ovs", &[]);
    let before = ovs.0.audit();
    let out = ovs.0.apply("interfaces: [{name: br7, type: ovs-bridge}]", &[]);
    assert_eq!(out.status.code(), Some(65), "{}", said(&out));
    assert!(
        said(&out).contains("Open vSwitch does not answer at /run/openvswitch/db.sock"),
        "{}",
        said(&out)
    );
    assert_eq!(ovs.0.audit(), before);
}

/// NetworkManager's rollback makes a tap of its own, which is in Open vSwitch's way, before the bridge is there again.
#[test]
fn a_rollback_brings_a_deleted_bridge_back() {
    if !may_run_ovs() {
        return;
    }
    let ovs = Ovs::up(&[]);
    ovs.ok(BRIDGE);
    let out = ovs.0.apply(
        "interfaces: [{name: br0, type: ovs-bridge, state: absent}, {name: ovs0, type: ovs-interface, state: absent}, {name: mgmt0, type: ethernet,
        ipv4: {enabled: true, dhcp: false, address: [{ip: 10.98.0.2, prefix-length: 24}]}}]",
        &[],
    );
    let told = said(&out);
    assert!(told.contains("no route to 10.99.1.1; rolled back"), "{told}");
    assert!(!told.contains("not up again"), "{told}");
    assert_eq!(ovs.vsctl(&["list-ports", "br0"]), "eth1\novs0");
    let link = ovs.0.ip(&["addr", "show", "ovs0"]);
    assert!(["LOWER_UP", "192.0.2.1/24"].iter().all(|w| link.contains(w)), "{link}");
    ovs.ok(BRIDGE);
}

/// What OVN-Kubernetes does to a node. Names are left out: with the userspace datapath a veth's unfinished UDP checksums stay unfinished.
#[test]
fn the_uplink_moves_onto_a_bridge_and_back() {
    if !may_run_ovs() {
        return;
    }
    let ovs = Ovs::up(&["--no-dns"]);
    let onto = "interfaces:
- {name: br-ex, type: ovs-bridge, bridge: {options: {datapath: netdev}, port: [{name: mgmt0}, {name: br-ex}]}}
- {name: mgmt0, type: ethernet, ipv4: {enabled: false}, ipv6: {enabled: false}}
- {name: br-ex, type: ovs-interface, controller: br-ex, ipv4: {enabled: true, dhcp: false, address: [{ip: 10.99.1.2, prefix-length: 24}]}}
routes: {config: [{destination: 0.0.0.0/0, next-hop-interface: br-ex, next-hop-address: 10.99.1.1}]}
";
    ovs.ok(onto);
    assert!(ovs.0.ip(&["route"]).contains("default via 10.99.1.1 dev br-ex"));
    must(&mut ovs.0.command("ping", &["-c", "1", "-W", "2", "10.99.1.1"]));
    ovs.ok("interfaces: [{name: br-ex, type: ovs-bridge, state: absent}, {name: mgmt0, type: ethernet, ipv4: {enabled: true, dhcp: false,
        address: [{ip: 10.99.1.2, prefix-length: 24}]}}]
routes: {config: [{destination: 0.0.0.0/0, next-hop-interface: mgmt0, next-hop-address: 10.99.1.1}]}");
    must(&mut ovs.0.command("ping", &["-c", "1", "-W", "2", "10.99.1.1"]));
}
