//! The inverse of a wish: the document that leads back to what is now. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::error::Invalid;
use crate::facts::SavedProfile;
use crate::observation::Observation;
use crate::scalar::{Id, Space};
use crate::state::iface::{Identifier, Interface, State};
use crate::state::part::ip::Ip;
use crate::state::route::{self, Route};
use crate::state::rule::Rule;
use crate::state::{NetworkState, tree};

use super::Options;
use super::diff::{bare, pick};
use super::profiles::Stock;
use super::resolve::{self, comparable};
use super::topology::{self, Graph, Membership, Touched};

/// What to apply after `desired` to be where `seen` is: what it makes goes, what it removes comes back whole,
/// what it changes gets its present value. Interfaces that it touches without naming them are in it; what it would not change is not.
pub fn revert(desired: &NetworkState, seen: &Observation) -> Result<NetworkState, Invalid> {
    let resolved = resolve::resolve(desired, seen, Options::default())?;
    let graph = topology::spread(&resolved, seen, Options::default())?;
    let resolved = resolved.state;
    let now = seen.state.clone().running_config();
    let mut out = sections(&resolved, &now, &graph, seen);
    let mut back = NetworkState::from_json(Value::Object(std::mem::take(&mut out)))?;
    for (id, touched) in graph.iter().filter(|(id, _)| id.space != Space::OvsPort) {
        back.interfaces.extend(interface(id, touched, seen, &now, &graph)?);
    }
    for controller in left(&graph, seen, &now) {
        match back.interfaces.iter_mut().find(|i| i.id() == controller.id()) {
            Some(there) => {
                let mut tree = there.tree();
                tree.extend(controller.tree());
                *there = Interface::from_tree(Value::Object(tree))?;
            }
            None => back.interfaces.push(controller),
        }
    }
    Ok(back)
}

/// What leads back to before this change, and to before those that `earlier` undoes.
pub fn since(
    earlier: Option<&NetworkState>,
    desired: &NetworkState,
    seen: &Observation,
) -> Result<NetworkState, Invalid> {
    let last = revert(desired, seen)?;
    match earlier {
        Some(earlier) => of_both(earlier, &last),
        None => Ok(last),
    }
}

/// One inverse for two changes, the first one's and a later one's: of what both touched, what was before the first.
fn of_both(first: &NetworkState, later: &NetworkState) -> Result<NetworkState, Invalid> {
    let mut whole = later.sections();
    whole.retain(|key, _| !["routes", "route-rules", "ovn"].contains(&key.as_str()));
    let mut whole = Value::Object(whole);
    tree::overlay(&mut whole, &Value::Object(first.sections()));
    let mut both = NetworkState::from_json(whole)?;
    both.interfaces.clone_from(&first.interfaces);
    for new in &later.interfaces {
        match both.interfaces.iter_mut().find(|i| i.id() == new.id()) {
            None => both.interfaces.push(new.clone()),
            Some(old) if old.is_absent() => {}
            Some(old) => {
                let (first, mut tree) = (old.tree(), Value::Object(new.tree()));
                tree::overlay(&mut tree, &Value::Object(first.clone()));
                for key in wholes(old).filter(|key| first.contains_key(*key)) {
                    tree[key] = first[key].clone();
                }
                // what cannot stand together was made anew in between
                *old = Interface::from_tree(tree).unwrap_or_else(|_| old.clone());
            }
        }
    }
    for new in later.routes.iter().flat_map(|r| r.config.iter().flatten()) {
        let list = both.routes.get_or_insert_default().config.get_or_insert_default();
        if !list.iter().any(|old| old.same_place(new) || new.same_place(old)) {
            list.push(new.clone());
        }
    }
    for new in later.route_rules.iter().flat_map(|r| r.config.iter().flatten()) {
        let list = both.route_rules.get_or_insert_default().config.get_or_insert_default();
        if !list.iter().any(|old| old.served_by(new) || new.served_by(old)) {
            list.push(new.clone());
        }
    }
    for new in later.ovn.iter().flat_map(|o| o.mappings()) {
        let list = both.ovn.get_or_insert_default().bridge_mappings.get_or_insert_default();
        if !list.iter().any(|old| old.localnet == new.localnet) {
            list.push(new.clone());
        }
    }
    reconcile(&mut both.interfaces);
    Ok(both)
}

/// What a port says of its controller is from before the first change; the list of that one may be from in between.
fn reconcile(interfaces: &mut [Interface]) {
    let said = |i: &Interface| Some((i.name().to_owned(), i.base.controller.clone()?));
    let said: Vec<(String, String)> = interfaces.iter().filter(|i| !i.is_absent()).filter_map(said).collect();
    for controller in interfaces.iter_mut().filter(|i| i.is_up()) {
        let Some(mut ports) = controller.kind.ports() else {
            continue;
        };
        let before = ports.clone();
        for (port, above) in &said {
            match above == controller.name() {
                true if !ports.contains(port) => ports.push(port.clone()),
                false => ports.retain(|p| p != port),
                true => {}
            }
        }
        if ports != before {
            controller.kind.set_ports(&ports);
        }
    }
    // a port is down while its controller is
    let listed = |i: &Interface| i.kind.ports().filter(|_| i.is_up()).unwrap_or_default();
    let ports: BTreeSet<String> = interfaces.iter().flat_map(listed).collect();
    for port in interfaces.iter_mut().filter(|i| ports.contains(i.name())) {
        if port.base.state == Some(State::Down) {
            port.base.state = Some(State::Up);
        }
    }
}

fn interface(
    id: &Id,
    touched: &Touched,
    seen: &Observation,
    now: &NetworkState,
    graph: &Graph,
) -> Result<Option<Interface>, Invalid> {
    let Some(current) = now.interfaces.iter().find(|i| i.id() == *id) else {
        let mut gone = bare(&touched.wish);
        gone.base.state = Some(State::Absent);
        return Ok((!touched.wish.is_absent()).then_some(gone));
    };
    if !touched.wish.is_up() {
        let was_up = current.base.state.unwrap_or_default() == State::Up;
        let comes_back = was_up || current.kind.is_virtual() || !changed(&touched.wish, current).is_empty();
        return Ok(comes_back.then(|| askable(current)));
    }
    let is = current.tree();
    let changed = changed(&touched.wish, current);
    let mut tree = bare(current).tree();
    let known = tree.len();
    restore(&changed, &is, &mut tree);
    for key in wholes(current) {
        if let (Some(back), Some(now)) = (tree.get_mut(key), is.get(key)) {
            *back = now.clone();
        }
    }
    if moves(id, touched, seen, graph) {
        let before = current.base.controller.clone().unwrap_or_default();
        tree.insert("controller".into(), before.into());
        // an interface that becomes a port loses its addresses, one that is no port any more its keys
        for family in ["ipv4", "ipv6", "ovs-db"] {
            tree.extend(is.get(family).map(|ip| (family.to_owned(), ip.clone())));
        }
    }
    if tree.contains_key("ipv4") || tree.contains_key("ipv6") {
        tree.extend(is.get("wait-ip").map(|now| ("wait-ip".to_owned(), now.clone())));
    }
    let names = new_names(&touched.wish, current);
    if !names.is_empty() {
        let list = tree.entry("alt-names").or_insert_with(|| json!([]));
        list.as_array_mut()
            .into_iter()
            .for_each(|list| list.extend(names.clone()));
    }
    let found_by = touched.wish.base.identifier;
    if found_by.is_some() && found_by != current.base.identifier.or(Some(Identifier::Name)) {
        for key in ["identifier", "mac-address", "pci-address", "profile-name"] {
            tree.extend(is.get(key).map(|now| (key.to_owned(), now.clone())));
        }
    }
    let down = current.base.state.unwrap_or_default() != State::Up;
    if tree.len() == known && !down {
        return Ok(None);
    }
    Interface::from_tree(Value::Object(tree)).map(Some)
}

/// Keys whose parts stand together or not at all: options of a mode, written addresses that go with DHCP.
fn wholes(interface: &Interface) -> impl Iterator<Item = &'static str> + use<> {
    interface.kind.sections().iter().chain(&["ipv4", "ipv6"]).copied()
}

/// Extra names that the wish gives, taken away again.
fn new_names(wish: &Interface, current: &Interface) -> Vec<Value> {
    let had = |name: &str| current.base.alt_names.iter().flatten().any(|n| n.name == name);
    let given = wish
        .base
        .alt_names
        .iter()
        .flatten()
        .filter(|n| n.state != Some(State::Absent));
    let new = given.filter(|n| !had(&n.name));
    new.map(|n| json!({"name": n.name, "state": "absent"})).collect()
}

/// Of the wish what is not so already, or will not be beside it.
fn changed(wish: &Interface, current: &Interface) -> Map<String, Value> {
    let (norm, tree, is) = (comparable(wish), wish.tree(), comparable(current));
    let mut changed = pick(&norm, &tree, &is);
    shortened(&Value::Object(norm), &tree, &Value::Object(is), &mut changed);
    for (key, ipv6) in [("ipv4", false), ("ipv6", true)] {
        let now = current.ip(ipv6);
        let stays = Ip::merge(&Ip::default(), now);
        // a list that is shorter, or one that `dhcp: true` goes without, asks for nothing that is not there
        if let Some(ip) = wish.ip(ipv6).filter(|ip| Ip::merge(ip, now) != stays) {
            changed.insert(key.to_owned(), json!(ip));
        }
    }
    changed
}

/// Adds lists of the wish that are shorter than what there is, and maps that it empties: nothing is lacking, yet something goes. `norm` and `now` are
/// in the form in which they are compared.
fn shortened(norm: &Value, wish: &Map<String, Value>, now: &Value, changed: &mut Map<String, Value>) {
    for (key, value) in wish {
        let (norm, now) = (&norm[key.as_str()], &now[key.as_str()]);
        let goes = match (norm, value, now) {
            // by name, where they have one
            (Value::Object(names), Value::Array(_), Value::Object(there)) => {
                there.keys().any(|k| !names.contains_key(k)) || empties(norm, now)
            }
            (Value::Array(norm), Value::Array(_), Value::Array(now)) => now.len() > norm.len(),
            (_, Value::Array(list), Value::Array(_) | Value::Object(_)) => list.is_empty(),
            (_, Value::Object(below), Value::Object(now)) if below.is_empty() => !now.is_empty(),
            (Value::Object(_), Value::Object(below), Value::Object(_)) => {
                let mut inner = match changed.remove(key) {
                    Some(Value::Object(inner)) => inner,
                    _ => Map::new(),
                };
                shortened(norm, below, now, &mut inner);
                if !inner.is_empty() {
                    changed.insert(key.clone(), Value::Object(inner));
                }
                false
            }
            _ => false,
        };
        if goes {
            changed.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Somewhere below there is an empty map where now there is something.
fn empties(norm: &Value, now: &Value) -> bool {
    match (norm, now) {
        (Value::Object(norm), Value::Object(now)) if norm.is_empty() => !now.is_empty(),
        (Value::Object(norm), Value::Object(now)) => norm
            .iter()
            .any(|(key, value)| now.get(key).is_some_and(|now| empties(value, now))),
        _ => false,
    }
}

/// It comes to another controller, or to none. Of a port of Open vSwitch, which only lists know, the bridge counts.
fn moves(id: &Id, touched: &Touched, seen: &Observation, graph: &Graph) -> bool {
    let now = |id: &Id| topology::controller_now(id, seen);
    let after = |id: &Id| topology::controller_after(id, graph, seen);
    let beyond_ports = |c: &Id| c.space != Space::OvsPort;
    touched.member != Membership::Keeps
        && std::iter::successors(now(id), now).find(beyond_ports)
            != std::iter::successors(after(id), after).find(beyond_ports)
}

/// An interface as it can be asked for.
fn askable(current: &Interface) -> Interface {
    let mut asked = current.clone();
    if !current.kind.is_ethernet() {
        asked.base.mac_address = None;
    }
    asked
}

/// Controllers that lose a port of which their lists tell more than that it is one, whole; of others the port itself says whose it was, so that
/// ports that others have added since stay.
fn left(graph: &Graph, seen: &Observation, now: &NetworkState) -> Vec<Interface> {
    let moving = graph.iter().filter(|(id, t)| moves(id, t, seen, graph));
    let moving: BTreeSet<&str> = moving.map(|(id, _)| id.name.as_str()).collect();
    let loses = |controller: &&Interface| {
        let touched = graph.get(&controller.id());
        moving.iter().any(|port| controller.kind.tells_of_port(port)) && touched.is_none_or(|t| t.wish.is_up())
    };
    let whole = |controller: &Interface| {
        let is = controller.tree();
        let mut tree = bare(controller).tree();
        let sections = controller.kind.sections().iter();
        tree.extend(sections.filter_map(|key| Some(((*key).to_owned(), is.get(*key)?.clone()))));
        Interface::from_tree(Value::Object(tree)).ok()
    };
    now.interfaces.iter().filter(loses).filter_map(whole).collect()
}

/// Present values at every path of `changed`; where there is none, the value that means nothing.
fn restore(changed: &Map<String, Value>, current: &Map<String, Value>, out: &mut Map<String, Value>) {
    for (key, value) in changed {
        match (value, current.get(key)) {
            // what is emptied comes back whole
            (Value::Object(below), Some(Value::Object(now))) if !below.is_empty() => {
                let mut inner = Map::new();
                restore(below, now, &mut inner);
                out.insert(key.clone(), Value::Object(inner));
            }
            (_, Some(now)) => {
                out.insert(key.clone(), now.clone());
            }
            (Value::Array(_), None) => {
                out.insert(key.clone(), json!([]));
            }
            (Value::String(_), None)
                if matches!(
                    key.as_str(),
                    "description" | "controller" | "token" | "dhcp-custom-hostname" | "primary"
                ) =>
            {
                out.insert(key.clone(), json!(""));
            }
            (Value::Bool(true), None) => {
                out.insert(key.clone(), json!(false));
            }
            _ => {}
        }
    }
}

fn keeps_dns(saved: &SavedProfile) -> bool {
    ["ipv4", "ipv6"].iter().any(|family| {
        let list = |key: &str| !saved.profile.strs(family, key).is_empty();
        list("dns-search") || list("dns-options") || saved.profile.get(family, "dns").is_some()
    })
}

fn sections(resolved: &NetworkState, now: &NetworkState, graph: &Graph, seen: &Observation) -> Map<String, Value> {
    let (mut wish, is) = (resolved.sections(), Value::Object(now.sections()));
    let losing: BTreeSet<&Id> = graph
        .iter()
        .filter(|(id, t)| loses_routes(id, t, now))
        .map(|(id, _)| id)
        .collect();
    let servers = is["dns-resolver"]["config"]["server"].as_array().into_iter().flatten();
    let scopes = servers.filter_map(|s| s.as_str()?.split_once('%'));
    let kept = losing.iter().filter_map(|id| Stock::of(id, seen).base).any(keeps_dns);
    if (kept || scopes.into_iter().any(|(_, scope)| goes(scope, graph))) && !wish.contains_key("dns-resolver") {
        // name servers go with the last interface that could keep them, a link-local one with its own
        wish.insert("dns-resolver".into(), json!({"config": {"server": []}}));
    }
    let mut out = Map::new();
    for (key, value) in &wish {
        let back = match key.as_str() {
            "description" | "routes" | "route-rules" => continue,
            "dns-resolver" => dns(value, is.get(key).unwrap_or(&Value::Null)),
            "ovn" => json!(resolved.ovn.as_ref().map(|o| o.revert(now.ovn.as_ref()))),
            _ => section(value, is.get(key).unwrap_or(&Value::Null)),
        };
        if back.as_object().is_some_and(|m| !m.is_empty()) {
            out.insert(key.clone(), back);
        }
    }
    let routes = routes(resolved, now, &losing);
    if !routes.is_empty() {
        out.insert("routes".into(), json!({ "config": routes }));
    }
    let rules = rules(resolved, now, graph);
    if !rules.is_empty() {
        out.insert("route-rules".into(), json!({ "config": rules }));
    }
    out
}

/// Present values of what a section changes. A key of a free map that is not there now is taken away again by null.
fn section(wish: &Value, now: &Value) -> Value {
    let (Value::Object(wish), Value::Object(now)) = (wish, now) else {
        return now.clone();
    };
    let mut out = Map::new();
    for (key, value) in wish {
        let is = now.get(key).unwrap_or(&Value::Null);
        if value == is {
            continue;
        }
        let back = match (value, is) {
            (Value::Object(below), Value::Object(_)) if !below.is_empty() => match section(value, is) {
                // an empty map would take away all that is there
                Value::Object(back) if back.is_empty() => continue,
                back => back,
            },
            (Value::Array(_), Value::Null) => json!([]),
            _ => is.clone(),
        };
        out.insert(key.clone(), back);
    }
    Value::Object(out)
}

/// Of name servers, search list and options one that is left out may go with the others, so that all come back.
fn dns(wish: &Value, now: &Value) -> Value {
    let (wish, now) = (&wish["config"], &now["config"]);
    let mut lacks = vec![];
    tree::missing(wish, now, "", &mut lacks);
    let keys = ["server", "search", "options"];
    let shorter = keys
        .iter()
        .any(|k| wish[k] != now[k] && !(wish[k].is_null() && now[k].is_null()));
    if lacks.is_empty() && !shorter {
        return Value::Null;
    }
    let list = |key: &str| now[key].as_array().cloned().unwrap_or_default();
    let config: Map<String, Value> = keys.iter().map(|k| ((*k).to_owned(), json!(list(k)))).collect();
    json!({ "config": config })
}

fn routes(resolved: &NetworkState, now: &NetworkState, losing: &BTreeSet<&Id>) -> Vec<Value> {
    let config: Vec<_> = now.routes.iter().flat_map(|r| r.config.iter().flatten()).collect();
    let wishes: Vec<_> = resolved.routes.iter().flat_map(|r| r.config.iter().flatten()).collect();
    let present: Vec<&Route> = wishes.iter().copied().filter(|w| !w.is_absent()).collect();
    // what stands alone and comes to share the traffic loses what it has of its own
    let joins = |w: &Route, r: &Route| w.weight.is_some() && r.weight.is_none() && !route::is_alone(w, &present);
    let served = |w: &Route, r: &Route| w.served_by(r) && !joins(w, r);
    let new = present.iter().filter(|w| !config.iter().any(|r| served(w, r)));
    let gone: Vec<Route> = new
        .map(|w| Route {
            state: Some(State::Absent),
            ..(**w).clone()
        })
        .collect();
    let mut back: Vec<Value> = gone.iter().map(|g| json!(g)).collect();
    // routes go with an interface that goes, with its addresses, and with its freedom
    let loses: BTreeSet<&str> = losing.iter().map(|id| id.name.as_str()).collect();
    for route in config {
        let removed = |w: &&Route| match w.is_absent() {
            true => w.matches(route),
            false => w.same_place(route) && !served(w, route),
        };
        let removed = wishes.iter().any(removed) || gone.iter().any(|g| g.matches(route));
        if removed || route.next_hop_interface.as_deref().is_some_and(|i| loses.contains(i)) {
            back.push(json!(route));
        }
    }
    back
}

fn goes(name: &str, graph: &Graph) -> bool {
    graph.get(&Id::kernel(name)).is_some_and(|t| t.wish.is_absent())
}

fn loses_routes(id: &Id, touched: &Touched, now: &NetworkState) -> bool {
    let Some(current) = now.interfaces.iter().find(|i| i.id() == *id) else {
        return false;
    };
    let changed = changed(&touched.wish, current);
    let joins = matches!(&touched.member, Membership::Joins(to) if current.base.controller.as_ref() != Some(&to.name));
    !touched.wish.is_up() || joins || changed.contains_key("ipv4") || changed.contains_key("ipv6")
}

fn rules(resolved: &NetworkState, now: &NetworkState, graph: &Graph) -> Vec<Value> {
    let comes_by = |rule: &Rule| rule.iif.as_deref().is_some_and(|name| goes(name, graph));
    let config: Vec<_> = now.route_rules.iter().flat_map(|r| r.config.iter().flatten()).collect();
    let wishes: Vec<_> = resolved
        .route_rules
        .iter()
        .flat_map(|r| r.config.iter().flatten())
        .collect();
    let new = wishes
        .iter()
        .filter(|w| !w.is_absent() && !config.iter().any(|r| w.served_by(r)));
    let gone: Vec<Rule> = new
        .map(|w| Rule {
            state: Some(State::Absent),
            ..(**w).clone()
        })
        .collect();
    let mut back: Vec<Value> = gone.iter().map(|g| json!(g)).collect();
    let removed = config.iter().filter(|r| {
        wishes.iter().any(|w| w.is_absent() && w.matches(r)) || comes_by(r) || gone.iter().any(|g| g.matches(r))
    });
    back.extend(removed.map(|rule| json!(rule)));
    back
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::probe::Prober;
    use crate::transaction::{Options, Outcome, run};

    #[test]
    fn two_inverses_lead_back_to_before_the_first_change() {
        let parse = |text: &str| NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap();
        let first = parse(
            "{interfaces: [{name: br0, type: linux-bridge, state: absent}, {name: eth1, type: ethernet, state: up, mtu: 1500}], \
            routes: {config: [{state: absent, destination: 192.0.2.0/24, next-hop-interface: eth1}]}, hostname: {config: old}}",
        );
        let later = parse(
            "{interfaces: [{name: br0, type: linux-bridge, state: up, mtu: 1400}, {name: eth1, type: ethernet, state: up, mtu: 1400, description: ''}, \
            {name: br1, type: linux-bridge, state: absent}], routes: {config: [{destination: 192.0.2.0/24, next-hop-interface: eth1}, \
            {state: absent, destination: 198.51.100.0/24, next-hop-interface: eth1}]}, hostname: {config: between, running: r}}",
        );
        let want = parse(
            "{interfaces: [{name: br0, type: linux-bridge, state: absent}, {name: eth1, type: ethernet, state: up, mtu: 1500, description: ''}, \
            {name: br1, type: linux-bridge, state: absent}], routes: {config: [{state: absent, destination: 192.0.2.0/24, next-hop-interface: eth1}, \
            {state: absent, destination: 198.51.100.0/24, next-hop-interface: eth1}]}, hostname: {config: old, running: r}}",
        );
        assert_eq!(of_both(&first, &later).unwrap().to_json(), want.to_json());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bond_gets_back_the_options_that_another_mode_forgot() {
        let host = FakeHost::with_cards(&["eth1"]);
        let parse = |text: &str| NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap();
        let bond = |section: &str| {
            parse(&format!(
                "interfaces: [{{name: bond0, type: bond, link-aggregation: {section}}}]"
            ))
        };
        let prober = Prober::none();
        let before = bond("{mode: active-backup, options: {miimon: 140, resend_igmp: 4}, port: [eth1]}");
        let other = bond("{mode: balance-xor}");
        run(&host, &prober, &before, &Options::default()).await;
        let back = revert(&other, &host.now()).unwrap();
        run(&host, &prober, &other, &Options::default()).await;
        assert_eq!(
            run(&host, &prober, &back, &Options::default()).await.outcome,
            Outcome::Applied
        );
        assert_eq!(
            run(&host, &prober, &before, &Options::default()).await.outcome,
            Outcome::Unchanged
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_not_change_is_left_to_others() {
        let host = FakeHost::with_cards(&["eth1", "eth2", "eth3"]);
        let parse = |text: &str| NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap();
        let bridge = "interfaces: [{name: br0, type: linux-bridge, bridge: {options: {stp: {enabled: false}}, port: [{name: eth1}]}}";
        let before = parse(&format!("{bridge}, {{name: eth2, type: ethernet, description: a}}]"));
        run(&host, &Prober::none(), &before, &Options::default()).await;
        let wish = parse(&format!("{bridge}, {{name: eth2, type: ethernet, description: b}}]"));
        let back = revert(&wish, &host.now()).unwrap();
        let want = parse("interfaces: [{name: eth2, type: ethernet, state: up, description: a}]");
        assert_eq!(back.to_json(), want.to_json());
    }
}
