//! What somebody else than NetworkManager had configured. Its checkpoints know little of that: they bring back a card without its routes, and one
//! that was unmanaged without anything. A rollback has NetworkManager hold it as it was, in memory: after a boot it is its owner's again. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::kept::Written;
use crate::error::Invalid;
use crate::facts::SavedProfile;
use crate::observation::Observation;
use crate::plan::topology;
use crate::scalar::{Id, Space};
use crate::state::iface::Interface;
use crate::state::part::ip::{Ip, is_link_local};
use crate::state::route::Route;
use crate::state::{NetworkState, route};

/// The document that leads back to what others had configured, where the change took it away; None where it did not.
pub fn lost(before: &Observation, now: &Observation, written: &Written) -> Result<Option<NetworkState>, Invalid> {
    let foreign = before.state.interfaces.iter();
    let foreign: Vec<&Interface> = foreign.filter(|i| is_foreign(&i.id(), before)).collect();
    let named = |i: &&Interface| written.names(&i.id()) || now.facts.running(&i.id()).is_some();
    let named: BTreeSet<Id> = foreign.iter().copied().filter(named).map(Interface::id).collect();
    let above = above(&foreign, named.clone(), before, written);
    let (was, is) = (running(before), running(now));
    let mut interfaces = vec![];
    let mut config = vec![];
    for then in foreign.into_iter().filter(|i| above.contains(&i.id())) {
        let routes: Vec<&Route> = routes(then, &was).collect();
        let missing = route::unserved(&routes, &is.iter().collect::<Vec<_>>()).len();
        let gone = match named.contains(&then.id()) {
            true => missing > 0,
            // whose routes come and go by themselves, as an overlay's do, has not lost them by this
            false => missing > 0 && missing == routes.len(),
        };
        if lacks(then, now, gone) {
            interfaces.push(entry(then));
            config.extend(routes.into_iter().map(|r| serde_json::to_value(r).unwrap_or_default()));
        }
    }
    if interfaces.is_empty() {
        return Ok(None);
    }
    let document = json!({"interfaces": interfaces, "routes": {"config": config}});
    NetworkState::from_json(document).map(Some)
}

/// Nothing that NetworkManager had in hand, nor would know to bring back.
fn is_foreign(id: &Id, seen: &Observation) -> bool {
    let known = seen.facts.running(id).is_some() || seen.profiles_of(id).any(SavedProfile::stays);
    let mirrors = seen.facts.device_of(id).is_none_or(|d| d.state <= 10 || d.external());
    id.space == Space::Kernel && (mirrors || !known)
}

/// What stands on interfaces that the change named or took in hand; pods come and go by themselves.
fn above(foreign: &[&Interface], named: BTreeSet<Id>, before: &Observation, written: &Written) -> BTreeSet<Id> {
    let mut all = named;
    loop {
        let follows = |i: &&&Interface| {
            let below = topology::stands_on(&i.id(), before);
            i.kind.peer().is_none() && below.iter().any(|id| all.contains(id) || written.names(id))
        };
        let more: Vec<Id> = foreign.iter().filter(follows).map(|i| i.id()).collect();
        let known = all.len();
        all.extend(more);
        if all.len() == known {
            return all;
        }
    }
}

/// It lacks something of what it was, or its routes are `gone`.
fn lacks(then: &Interface, now: &Observation, gone: bool) -> bool {
    let software = then.kind.is_virtual();
    let Some(is) = now.interface(&then.id()) else {
        return software; // a card that is gone was pulled out
    };
    let have: Vec<IpAddr> = all_addresses(is).map(|(ip, _)| ip).collect();
    gone || all_addresses(then).any(|(ip, _)| !have.contains(&ip))
        || then.base.controller != is.base.controller
        || (software && then.base.mac_address != is.base.mac_address)
}

/// As NetworkManager is to hold it.
fn entry(then: &Interface) -> Value {
    let tree = then.tree();
    let mut entry = Map::new();
    let made = ["mac-address"].into_iter().chain(then.kind.sections().iter().copied());
    let made = made.filter(|_| then.kind.is_virtual());
    let keys = ["name", "type", "mtu", "controller"].into_iter().chain(made);
    entry.extend(keys.filter_map(|key| Some((key.to_owned(), tree.get(key)?.clone()))));
    entry.insert("state".into(), "up".into());
    for (key, ip) in [("ipv4", &then.ipv4), ("ipv6", &then.ipv6)] {
        let list: Vec<Value> = addresses(ip.as_ref())
            .map(|(ip, prefix)| json!({"ip": ip, "prefix-length": prefix}))
            .collect();
        let mut given = match ip.as_ref().is_some_and(Ip::is_enabled) {
            true => json!({"enabled": true, "dhcp": false, "address": list}),
            false => json!({"enabled": false}),
        };
        if key == "ipv6" && given["enabled"] == true {
            given["autoconf"] = false.into();
        }
        entry.insert(key.into(), given);
    }
    Value::Object(entry)
}

fn all_addresses(of: &Interface) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
    addresses(of.ipv4.as_ref()).chain(addresses(of.ipv6.as_ref()))
}

/// Whoever gave them will not give them again. Link-local ones the kernel and NetworkManager give by themselves.
fn addresses(ip: Option<&Ip>) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
    let all = ip.into_iter().flat_map(|ip| ip.address.iter().flatten());
    all.filter(|a| !is_link_local(&a.ip)).map(|a| (a.ip, a.prefix_length))
}

/// Also those that are marked as nobody's to touch.
fn running(seen: &Observation) -> Vec<Route> {
    let all = seen.state.routes.iter().flat_map(|r| r.running.iter().flatten());
    let free = |r: &Route| Route {
        state: None,
        ..r.clone()
    };
    all.map(free).collect()
}

/// Those of these routes that go over it, but for those that come with its addresses.
fn routes<'a>(then: &'a Interface, all: &'a [Route]) -> impl Iterator<Item = &'a Route> {
    let own: BTreeSet<IpNet> = all_addresses(then)
        .filter_map(|(ip, prefix)| Some(IpNet::new(ip, prefix).ok()?.trunc()))
        .collect();
    let asked = move |r: &Route| {
        let net = r.destination.as_deref().and_then(route::net);
        let local = |ip: IpAddr| is_link_local(&ip) || (ip.is_ipv6() && ip.is_multicast());
        net.is_some_and(|net| !local(net.addr()) && (r.gateway().is_some() || !own.contains(&net)))
    };
    all.iter()
        .filter(move |r| r.next_hop_interface.as_deref() == Some(then.name()) && asked(r))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Active, Device};
    use crate::step::Step;
    use crate::yaml;

    /// A node whose device `eth1` is in this state with NetworkManager; `external`: it only mirrors what somebody else did.
    fn node(state: &str, eth1: u32, external: bool) -> Observation {
        let state = NetworkState::from_json(yaml::read(state).expect("YAML")).expect("a state");
        let mut facts = state.skeleton();
        for device in facts.devices.iter_mut().filter(|d| d.interface == "eth1") {
            *device = Device {
                state: eth1,
                active: (eth1 > 30).then(|| Active {
                    uuid: "u".to_owned(),
                    flags: if external { 0x80 } else { 0 },
                    state: 2,
                    ..Active::default()
                }),
                ..device.clone()
            };
        }
        Observation::told(facts, state)
    }

    fn wrote(iface: &str) -> Written {
        let mut written = Written::default();
        let iface = Id::kernel(iface);
        assert!(written.note(&[Step::Disconnect { iface }]));
        written
    }

    const WAS: &str = "
interfaces:
- {name: eth1, type: ethernet, state: up, mtu: 1400, mac-address: '02:00:00:00:00:01',
   ipv4: {enabled: true, address: [{ip: 192.0.2.1, prefix-length: 24}]},
   ipv6: {enabled: true, address: [{ip: 'fe80::1', prefix-length: 64}, {ip: '2001:db8::1', prefix-length: 64}]}}
- {name: eth1.5, type: vlan, state: ignore, mac-address: '02:00:00:00:00:05', vlan: {base-iface: eth1, id: 5}, ipv4: {enabled: false}, ipv6: {enabled: false}}
- {name: pod, type: veth, state: ignore, controller: eth1, veth: {peer: other}}
routes:
  running:
  - {destination: 192.0.2.0/24, next-hop-interface: eth1, next-hop-address: 0.0.0.0, metric: 0, table-id: 254}
  - {destination: 'fe80::/64', next-hop-interface: eth1, next-hop-address: '::', metric: 256, table-id: 254}
  - {state: ignore, destination: 0.0.0.0/0, next-hop-interface: eth1, next-hop-address: 192.0.2.9, metric: 0, table-id: 254}
";

    #[test]
    fn what_others_had_is_asked_for_without_what_comes_by_itself() {
        for (device, external) in [(100, true), (10, false)] {
            let before = node(WAS, device, external);
            let now = node("interfaces: [{name: eth1, type: ethernet, state: down}]", 30, false);
            let document = lost(&before, &now, &wrote("eth1"))
                .expect("a document")
                .expect("much is lost");
            let want = "
interfaces:
- {name: eth1, type: ethernet, state: up, mtu: 1400,
   ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]},
   ipv6: {enabled: true, dhcp: false, autoconf: false, address: [{ip: '2001:db8::1', prefix-length: 64}]}}
- {name: eth1.5, type: vlan, state: up, mac-address: '02:00:00:00:00:05', vlan: {base-iface: eth1, id: 5}, ipv4: {enabled: false}, ipv6: {enabled: false}}
routes:
  config:
  - {destination: 0.0.0.0/0, next-hop-interface: eth1, next-hop-address: 192.0.2.9, metric: 0, table-id: 254}
";
            let want = NetworkState::from_json(yaml::read(want).expect("YAML")).expect("a state");
            assert_eq!(document.to_json(), want.to_json());
        }
    }

    #[test]
    fn what_is_as_it_was_or_was_not_touched_is_left_alone() {
        let before = node(WAS, 100, true);
        let same = node(WAS, 100, true);
        assert_eq!(lost(&before, &same, &wrote("eth1")), Ok(None));
        let gone = node("interfaces: [{name: eth1, type: ethernet, state: down}]", 30, false);
        assert_eq!(lost(&before, &gone, &wrote("eth2")), Ok(None), "somebody else did that");
        let overlay = |routes: &str| {
            let eth1 = "{name: eth1, type: ethernet, state: up}";
            let over = "{name: over, type: vxlan, state: ignore, vxlan: {base-iface: eth1, id: 1, remote: 192.0.2.7}}";
            node(
                &format!("{{interfaces: [{eth1}, {over}], routes: {{running: [{routes}]}}}}"),
                100,
                false,
            )
        };
        let to = |net: &str| {
            format!(
                "{{destination: {net}, next-hop-interface: over, next-hop-address: 0.0.0.0, metric: 0, table-id: 254}}"
            )
        };
        let both = overlay(&format!("{}, {}", to("10.1.0.0/24"), to("10.2.0.0/24")));
        let one = overlay(&to("10.2.0.0/24"));
        assert_eq!(lost(&both, &one, &wrote("eth1")), Ok(None), "a node left the cluster");
        assert!(lost(&both, &overlay(""), &wrote("eth1")).expect("a document").is_some());
        let pulled = node("interfaces: []", 30, false);
        let held = node(WAS, 100, false);
        for (was, is) in [
            (&before, &pulled), // a card that is not there cannot come back
            (&held, &gone),     // the checkpoint brings it back
        ] {
            let document = lost(was, is, &wrote("eth1")).expect("a document").expect("a VLAN");
            let names: Vec<&str> = document.interfaces.iter().map(Interface::name).collect();
            assert_eq!(names, ["eth1.5"]);
        }
    }
}
