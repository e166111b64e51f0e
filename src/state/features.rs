//! Which features a document uses, in the words that `statistic` prints and enactments publish (`status.features`). Pure.

use std::collections::BTreeSet;

use super::NetworkState;
use super::iface::Identifier;

/// The words.
pub fn of(state: &NetworkState) -> BTreeSet<&'static str> {
    let mut out = BTreeSet::new();
    let tree = state.to_json();
    let there = |pointer: &str| {
        tree.pointer(pointer)
            .is_some_and(|v| v.as_array().is_none_or(|a| !a.is_empty()))
    };
    for (pointer, word) in [
        ("/dns-resolver/config/server", "static-dns-name-server"),
        ("/dns-resolver/config/search", "static-dns-search"),
        ("/dns-resolver/config/options", "static-dns-option"),
        ("/hostname/config", "static-hostname"),
        ("/routes/config", "static-route"),
        ("/route-rules/config", "static-route-rule"),
        ("/ovs-db", "ovs-db-global"),
        ("/ovn/bridge-mappings", "ovn-mapping"),
    ] {
        if there(pointer) {
            out.insert(word);
        }
    }
    let rules = state.route_rules.iter().flat_map(|r| r.config.iter().flatten());
    if rules.filter_map(|r| r.suppress_prefix_length).next().is_some() {
        out.insert("static-route-rule-suppress-prefix-length");
    }
    for interface in &state.interfaces {
        let tree = serde_json::Value::Object(interface.tree());
        let there = |pointer: &str| tree.pointer(pointer).is_some_and(|v| !v.is_null());
        for (pointer, word) in [
            ("/ipv4/dhcp-custom-hostname", "dhcpv4-custom-hostname"),
            ("/ipv6/dhcp-custom-hostname", "dhcpv6-custom-hostname"),
            ("/lldp", "lldp"),
            ("/mptcp", "mptcp"),
            ("/ovs-db", "ovs-db-interface"),
            ("/dpdk", "ovs-dpdk"),
            ("/patch", "ovs-patch"),
            ("/ethernet/sr-iov", "sriov"),
        ] {
            if there(pointer) {
                out.insert(word);
            }
        }
        let ports = tree.pointer("/bridge/port").and_then(|p| p.as_array());
        if ports.into_iter().flatten().any(|p| p.get("link-aggregation").is_some()) {
            out.insert("ovs-bond");
        }
        if interface.base.identifier == Some(Identifier::MacAddress) {
            out.insert("mac-based-identifier");
        }
        if interface.name().starts_with("sriov:") {
            out.insert("iface-name-refered-by-sriov-vf-id");
        }
    }
    for (least, word) in [
        (10, "iface-count10-plus"),
        (50, "iface-count50-plus"),
        (100, "iface-count100-plus"),
        (200, "iface-count200-plus"),
        (500, "iface-count500-plus"),
    ] {
        if state.interfaces.len() >= least {
            out.insert(word);
        }
    }
    out
}
