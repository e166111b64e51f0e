//! The smallest document that leads from one state to another. Pure; it knows no node, only two documents.

use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::state::NetworkState;
use crate::state::iface::{Interface, State};
use crate::state::tree;

use super::resolve::comparable;

/// What of `new` differs from `old`: each interface with name, type, state and only the properties that change (lists whole),
/// a new interface as it is written; of the node-wide sections routes and rules one by one, the others whole.
pub fn differences(new: &NetworkState, old: &NetworkState) -> Result<NetworkState, Invalid> {
    let (wish, now) = (new.sections(), old.sections());
    let mut out = Map::new();
    for (key, value) in &wish {
        let changed = match key.as_str() {
            "description" => None,
            "routes" | "route-rules" => entries(value, now.get(key)),
            _ => whole(value, now.get(key)),
        };
        out.extend(changed.map(|value| (key.clone(), value)));
    }
    let mut state = NetworkState::from_json(Value::Object(out))?;
    for wish in new.interfaces.iter().filter(|i| !i.is_ignored()) {
        match counterpart(wish, old) {
            None if wish.is_absent() => {}
            None => state.interfaces.push(wish.clone()),
            Some(now) => state.interfaces.extend(changed(wish, now)),
        }
    }
    Ok(state)
}

/// The entry of another document that is about the same interface.
pub fn counterpart<'a>(wish: &Interface, other: &'a NetworkState) -> Option<&'a Interface> {
    let untyped = matches!(wish.kind.type_name(), "" | "unknown");
    let same = |i: &&Interface| i.name() == wish.name() && (untyped || i.id() == wish.id());
    other.interfaces.iter().find(same)
}

/// What of an interface changes; None where nothing does.
fn changed(wish: &Interface, now: &Interface) -> Option<Interface> {
    let kind = now.kind.type_name();
    let wish = match wish.kind.type_name() {
        "" | "unknown" => wish.retyped(kind).unwrap_or_else(|_| wish.clone()),
        _ => wish.clone(),
    };
    let is_up = now.base.state.unwrap_or_default() == State::Up;
    if !wish.is_up() {
        let differs = is_up || (wish.is_absent() && now.kind.is_virtual());
        return differs.then(|| bare(&wish));
    }
    let picked = pick(&comparable(&wish), &wish.tree(), &comparable(now));
    if picked.is_empty() && is_up {
        return None;
    }
    let mut tree = bare(&wish).tree();
    tree.extend(picked.clone());
    if wish.base.identifier.is_some() {
        tree.extend(
            wish.tree()
                .into_iter()
                .filter(|(k, _)| matches!(k.as_str(), "identifier" | "mac-address" | "pci-address")),
        );
    }
    // a section that cannot stand with only what changes (a VLAN without its id) goes in whole
    let parsed = Interface::from_tree(Value::Object(tree.clone())).or_else(|_| {
        tree.extend(wish.tree().into_iter().filter(|(k, _)| picked.contains_key(k)));
        Interface::from_tree(Value::Object(tree))
    });
    Some(parsed.unwrap_or(wish))
}

/// Name, type and state.
pub fn bare(interface: &Interface) -> Interface {
    let mut bare = Interface::bare(interface.name(), interface.kind.type_name());
    bare.base.state = Some(interface.base.state.unwrap_or_default());
    bare
}

/// Of `want` what `got` lacks; `norm` is `want` in the form in which it is compared. Maps are walked, everything else is taken whole.
pub fn pick(norm: &Map<String, Value>, want: &Map<String, Value>, got: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in want {
        let Some(compared) = norm.get(key) else { continue };
        let there = got.get(key).unwrap_or(&Value::Null);
        match (compared, value, there) {
            (Value::Object(norm), Value::Object(want), Value::Object(got)) => {
                let below = pick(norm, want, got);
                if !below.is_empty() {
                    out.insert(key.clone(), Value::Object(below));
                }
            }
            _ => {
                let mut lacks = vec![];
                tree::missing(compared, there, "", &mut lacks);
                if !lacks.is_empty() {
                    out.insert(key.clone(), value.clone());
                }
            }
        }
    }
    out
}

/// Entries of `config` that are not there yet; absent ones where something matches is for the node to tell, so they stay.
fn entries(wish: &Value, now: Option<&Value>) -> Option<Value> {
    let list = |v: Option<&Value>| -> Vec<Value> {
        let config = v.and_then(|v| v.get("config")).and_then(Value::as_array);
        config.cloned().unwrap_or_default()
    };
    let there = list(now);
    let covers = |entry: &Value| {
        there.iter().any(|t| {
            let mut lacks = vec![];
            tree::missing(entry, t, "", &mut lacks);
            lacks.is_empty()
        })
    };
    let changed: Vec<Value> = list(Some(wish)).into_iter().filter(|e| !covers(e)).collect();
    (!changed.is_empty()).then(|| serde_json::json!({ "config": changed }))
}

/// A section whole where anything of it is missing; what is only read is left out.
fn whole(wish: &Value, now: Option<&Value>) -> Option<Value> {
    let mut wish = wish.clone();
    if let (Value::Object(map), true) = (&mut wish, now.is_some_and(|n| n.get("config").is_some())) {
        map.remove("running").filter(|r| r.is_object());
    }
    let mut lacks = vec![];
    tree::missing(&wish, now.unwrap_or(&Value::Null), "", &mut lacks);
    (!lacks.is_empty()).then_some(wish)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> NetworkState {
        NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap()
    }

    fn diff(new: &str, old: &str) -> Value {
        differences(&state(new), &state(old)).unwrap().to_json()
    }

    #[test]
    fn only_what_changes_is_in_it() {
        let old = "interfaces: [{name: br0, type: linux-bridge, state: up, mtu: 1500, bridge: {options: {stp: {enabled: true, priority: 5}}, port: [{name: eth1}]}}]";
        let new = "interfaces: [{name: br0, type: linux-bridge, mtu: 1500, bridge: {options: {stp: {enabled: false, priority: 5}}}}]";
        let want =
            "interfaces: [{name: br0, type: linux-bridge, state: up, bridge: {options: {stp: {enabled: false}}}}]";
        assert_eq!(diff(new, old), state(want).to_json());
        assert_eq!(diff(old, old), state("interfaces: []").to_json());
    }

    #[test]
    fn a_new_interface_is_as_written_and_an_absent_one_that_is_not_there_is_nothing() {
        let new = "interfaces: [{name: d0, type: dummy, mtu: 1400}, {name: d1, type: dummy, state: absent}]";
        assert_eq!(
            diff(new, "interfaces: []"),
            state("interfaces: [{name: d0, type: dummy, mtu: 1400}]").to_json()
        );
    }

    #[test]
    fn a_section_that_needs_its_keys_keeps_them() {
        let old = "interfaces: [{name: v0, type: vlan, vlan: {base-iface: eth1, id: 5, loose-binding: false}}]";
        let new = "interfaces: [{name: v0, type: vlan, vlan: {base-iface: eth1, id: 5, loose-binding: true}}]";
        let got = differences(&state(new), &state(old)).unwrap();
        assert_eq!(got.interfaces[0].tree()["vlan"]["id"], 5);
        assert_eq!(got.interfaces[0].tree()["vlan"]["loose-binding"], true);
    }

    #[test]
    fn routes_one_by_one_and_dns_whole() {
        let old = "{routes: {config: [{destination: 192.0.2.0/24, next-hop-interface: eth1}]}, dns-resolver: {config: {server: [192.0.2.1], search: [a.example]}}}";
        let new = "{routes: {config: [{destination: 192.0.2.0/24, next-hop-interface: eth1}, {destination: 198.51.100.0/24, next-hop-interface: eth1}]}, dns-resolver: {config: {server: [192.0.2.2]}}}";
        let got = diff(new, old);
        assert_eq!(got["routes"]["config"].as_array().unwrap().len(), 1);
        assert_eq!(got["dns-resolver"]["config"]["server"][0], "192.0.2.2");
    }
}
