//! The inverse of a wish: the document that leads back to what is now. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::error::Invalid;
use crate::observation::Observation;
use crate::scalar::{Id, Space};
use crate::state::iface::{Interface, State};
use crate::state::{NetworkState, tree};

use super::Options;
use super::diff::{bare, pick};
use super::resolve::{self, comparable};
use super::topology::{self, Graph, Membership, Touched};

/// What to apply after `desired` to be where `seen` is: what it makes goes, what it removes comes back whole,
/// what it changes gets its present value. Interfaces that it touches without naming them are in it; what it would not change is not.
pub fn revert(desired: &NetworkState, seen: &Observation) -> Result<NetworkState, Invalid> {
    let resolved = resolve::resolve(desired, seen, Options::default())?;
    let graph = topology::spread(&resolved, seen, Options::default())?;
    let resolved = resolved.state;
    let now = seen.state.clone().running_config();
    let mut out = sections(&resolved, &now, &graph);
    let mut back = NetworkState::from_json(Value::Object(std::mem::take(&mut out)))?;
    for (id, touched) in graph.iter().filter(|(id, _)| id.space != Space::OvsPort) {
        back.interfaces.extend(interface(id, touched, seen, &now, &graph)?);
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
    let (old, mut whole) = (first.to_json(), later.to_json());
    for key in ["interfaces", "routes", "route-rules", "ovn"] {
        whole.as_object_mut().map(|map| map.remove(key));
    }
    tree::overlay(&mut whole, &old);
    let mut both = NetworkState::from_json(whole)?;
    for new in &later.interfaces {
        match both.interfaces.iter_mut().find(|i| i.id() == new.id()) {
            None => both.interfaces.push(new.clone()),
            Some(old) if old.is_absent() => {}
            Some(old) => {
                let mut tree = Value::Object(new.tree());
                tree::overlay(&mut tree, &Value::Object(old.tree()));
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
    Ok(both)
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
        return Ok((was_up || current.kind.is_virtual()).then(|| current.clone()));
    }
    let (wish, is) = (&touched.wish, comparable(current));
    let changed = pick(&comparable(wish), &wish.tree(), &is);
    let mut tree = bare(current).tree();
    let known = tree.len();
    restore(&changed, &current.tree(), &mut tree);
    if touched.wish.kind.must_recreate(&current.kind) {
        // the other link starts from nothing
        tree = sections_whole(&tree, &current.tree());
    }
    let moves = touched.member != Membership::Keeps
        && topology::controller_after(id, graph, seen) != topology::controller_now(id, seen);
    if moves {
        let before = current.base.controller.clone().unwrap_or_default();
        tree.insert("controller".into(), before.into());
        // an interface that becomes a port loses its addresses
        for family in ["ipv4", "ipv6"] {
            let had = current.tree().remove(family);
            tree.extend(had.map(|ip| (family.to_owned(), ip)));
        }
    }
    let down = current.base.state.unwrap_or_default() != State::Up;
    if tree.len() == known && !down {
        return Ok(None);
    }
    let whole = || Interface::from_tree(Value::Object(sections_whole(&tree, &current.tree())));
    Interface::from_tree(Value::Object(tree.clone()))
        .or_else(|_| whole())
        .map(Some)
}

/// Present values at every path of `changed`; where there is none, the value that means nothing.
fn restore(changed: &Map<String, Value>, current: &Map<String, Value>, out: &mut Map<String, Value>) {
    for (key, value) in changed {
        match (value, current.get(key)) {
            (Value::Object(below), Some(Value::Object(now))) => {
                let mut inner = Map::new();
                restore(below, now, &mut inner);
                // what is off has no properties to go back to
                if now.get("enabled") == Some(&Value::Bool(false)) {
                    inner = now.clone();
                }
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

/// The same with the sections that cannot stand in part taken whole from what is.
fn sections_whole(tree: &Map<String, Value>, current: &Map<String, Value>) -> Map<String, Value> {
    let whole = |(key, value): (&String, &Value)| (key.clone(), current.get(key).unwrap_or(value).clone());
    tree.iter().map(whole).collect()
}

fn sections(resolved: &NetworkState, now: &NetworkState, graph: &Graph) -> Map<String, Value> {
    let (wish, is) = (resolved.to_json(), now.to_json());
    let mut out = Map::new();
    for (key, value) in wish.as_object().into_iter().flatten() {
        let back = match key.as_str() {
            "interfaces" | "description" | "routes" | "route-rules" => continue,
            "ovn" => json!(resolved.ovn.as_ref().map(|o| o.revert(now.ovn.as_ref()))),
            _ => section(value, is.get(key).unwrap_or(&Value::Null)),
        };
        if back.as_object().is_some_and(|m| !m.is_empty()) {
            out.insert(key.clone(), back);
        }
    }
    let routes = routes(resolved, now, graph);
    if !routes.is_empty() {
        out.insert("routes".into(), json!({ "config": routes }));
    }
    let rules = rules(resolved, now);
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
            (Value::Object(below), Value::Object(_)) if !below.is_empty() => section(value, is),
            (Value::Array(_), Value::Null) => json!([]),
            _ => is.clone(),
        };
        out.insert(key.clone(), back);
    }
    Value::Object(out)
}

fn routes(resolved: &NetworkState, now: &NetworkState, graph: &Graph) -> Vec<Value> {
    let config: Vec<_> = now.routes.iter().flat_map(|r| r.config.iter().flatten()).collect();
    let wishes: Vec<_> = resolved.routes.iter().flat_map(|r| r.config.iter().flatten()).collect();
    let mut back = vec![];
    for wish in wishes.iter().filter(|w| !w.is_absent()) {
        if !config.iter().any(|r| wish.served_by(r)) {
            let mut gone = (*wish).clone();
            gone.state = Some(State::Absent);
            back.push(json!(gone));
        }
    }
    // routes go with an interface that goes, with its addresses, and with its freedom
    let loses: BTreeSet<&str> = graph
        .iter()
        .filter(|(id, t)| loses_routes(id, t, now))
        .map(|(id, _)| id.name.as_str())
        .collect();
    for route in config {
        let removed = wishes.iter().any(|w| w.is_absent() && w.matches(route));
        if removed || route.next_hop_interface.as_deref().is_some_and(|i| loses.contains(i)) {
            back.push(json!(route));
        }
    }
    back
}

fn loses_routes(id: &Id, touched: &Touched, now: &NetworkState) -> bool {
    let Some(current) = now.interfaces.iter().find(|i| i.id() == *id) else {
        return false;
    };
    let changed = pick(&comparable(&touched.wish), &touched.wish.tree(), &comparable(current));
    let joins = matches!(&touched.member, Membership::Joins(to) if current.base.controller.as_ref() != Some(&to.name));
    !touched.wish.is_up() || joins || changed.contains_key("ipv4") || changed.contains_key("ipv6")
}

fn rules(resolved: &NetworkState, now: &NetworkState) -> Vec<Value> {
    let config: Vec<_> = now.route_rules.iter().flat_map(|r| r.config.iter().flatten()).collect();
    let wishes: Vec<_> = resolved
        .route_rules
        .iter()
        .flat_map(|r| r.config.iter().flatten())
        .collect();
    let mut back = vec![];
    for wish in wishes.iter().filter(|w| !w.is_absent()) {
        if !config.iter().any(|r| wish.served_by(r)) {
            let mut gone = (*wish).clone();
            gone.state = Some(State::Absent);
            back.push(json!(gone));
        }
    }
    let removed = config
        .iter()
        .filter(|r| wishes.iter().any(|w| w.is_absent() && w.matches(r)));
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
}
