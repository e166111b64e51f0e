//! Two documents for one node that ask for different values of one property. Pure; it knows no node.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::scalar::Id;
use crate::state::NetworkState;
use crate::state::iface::{Interface, State};
use crate::state::route::Route;
use crate::state::rule::Rule;

use super::resolve::comparable;

/// What a document asks for, property by property.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// By interface (None: node-wide) and path below it. Lists that stand for a set are the set, and their items one by one.
    values: BTreeMap<(Option<Id>, String), Value>,
    routes: Vec<Route>,
    rules: Vec<Rule>,
}

impl Asked {
    /// Of a document whose names are resolved: two names for one interface would pass for two.
    pub fn of(document: &NetworkState) -> Self {
        let mut asked = Asked::default();
        for wish in document.interfaces.iter().filter(|i| !i.is_ignored()) {
            asked.interface(wish);
        }
        asked.node(document);
        asked.routes.extend(
            document
                .routes
                .iter()
                .flat_map(|r| r.config.clone().unwrap_or_default()),
        );
        asked.rules.extend(
            document
                .route_rules
                .iter()
                .flat_map(|r| r.config.clone().unwrap_or_default()),
        );
        asked
    }

    fn put(&mut self, id: &Id, path: &str, value: Value) {
        self.values.insert((Some(id.clone()), path.to_owned()), value);
    }

    fn interface(&mut self, wish: &Interface) {
        let id = wish.id();
        self.put(&id, "state", json!(wish.base.state.unwrap_or_default()));
        if !wish.is_up() {
            return;
        }
        if !matches!(wish.kind.type_name(), "" | "unknown") {
            self.put(&id, "type", wish.kind.type_name().into());
        }
        let ports = wish.kind.ports().unwrap_or_default();
        for port in &ports {
            self.put(&Id::kernel(port), "controller", wish.name().into());
        }
        // what it stands on, or is made of, has to be up
        for below in ports.into_iter().chain(wish.kind.parents()) {
            let at = (Some(Id::kernel(below)), "state".to_owned());
            self.values.entry(at).or_insert_with(|| json!(State::Up));
        }
        let (mut tree, written) = (comparable(wish), wish.tree());
        for family in ["ipv4", "ipv6"] {
            switches(&mut tree, &written, family);
        }
        let mut leaves = vec![];
        walk(&tree, &written, "", &mut leaves);
        for (path, value) in leaves {
            self.put(&id, &path, value);
        }
    }

    fn node(&mut self, document: &NetworkState) {
        let mut put = |path: String, value: Value| self.values.insert((None, path), value);
        if let Some(names) = &document.hostname {
            for (key, name) in [("running", &names.running), ("config", &names.config)] {
                name.as_ref().map(|name| put(format!("hostname.{key}"), json!(name)));
            }
        }
        if let Some(dns) = document.dns_resolver.as_ref().and_then(|d| d.config.as_ref()) {
            let none = dns.server.is_none() && dns.search.is_none() && dns.options.is_none();
            for (key, list) in [
                ("server", &dns.server),
                ("search", &dns.search),
                ("options", &dns.options),
            ] {
                // nothing at all clears everything
                let list = list.clone().or_else(|| none.then(Vec::new));
                list.map(|list| put(format!("dns-resolver.config.{key}"), json!(list)));
            }
        }
        for (column, keys) in document.ovs_db.iter().flat_map(|ids| ids.maps()) {
            for (key, value) in keys.into_iter().flatten() {
                put(format!("ovs-db.{column}.{key}"), json!(value));
            }
        }
        for m in document.ovn.iter().flat_map(|o| o.mappings()) {
            let bridge = m.bridge.as_ref().filter(|_| !m.is_absent());
            put(format!("ovn.bridge-mappings.{}", m.localnet), json!(bridge));
        }
    }

    /// The first property of which the other asks for something else, as a path in the usual words.
    pub fn clashes_with(&self, other: &Asked) -> Option<String> {
        let differs =
            |(at, value): &(&(Option<Id>, String), &Value)| other.values.get(*at).is_some_and(|v| v != *value);
        let value = self.values.iter().find(differs).map(|((id, path), _)| match id {
            Some(id) => format!("interfaces[{}].{path}", id.name),
            None => path.clone(),
        });
        let route = || {
            self.routes
                .iter()
                .position(|r| routes_clash(r, &self.routes, &other.routes))
        };
        let rule = || {
            self.rules
                .iter()
                .position(|r| rules_clash(r, &self.rules, &other.rules))
        };
        value
            .or_else(|| Some(format!("routes.config[{}]", route()?)))
            .or_else(|| Some(format!("route-rules.config[{}]", rule()?)))
    }
}

/// What says whether a family is there at all is left out of the form for comparing where it means little against a reading.
fn switches(tree: &mut Map<String, Value>, written: &Map<String, Value>, family: &str) {
    let (Some(Value::Object(ip)), Some(Value::Object(was))) = (tree.get_mut(family), written.get(family)) else {
        return;
    };
    if was.get("enabled") != Some(&Value::Bool(false)) {
        for key in ["enabled", "dhcp", "autoconf"] {
            ip.extend(was.get(key).map(|v| (key.to_owned(), v.clone())));
        }
    }
}

/// The values below `tree`. What was written as a list and is compared as a map has a value of its own: which items there are.
fn walk(tree: &Map<String, Value>, written: &Map<String, Value>, above: &str, out: &mut Vec<(String, Value)>) {
    for (key, value) in tree {
        let path = if above.is_empty() {
            key.clone()
        } else {
            format!("{above}.{key}")
        };
        match (value, written.get(key)) {
            (Value::Object(below), Some(Value::Object(written))) => walk(below, written, &path, out),
            (Value::Object(items), Some(Value::Array(_))) => {
                // names that are given one by one do not exclude others
                if key != "alt-names" {
                    let names: BTreeSet<&String> = items.keys().collect();
                    out.push((path.clone(), json!(names)));
                }
                walk(items, &Map::new(), &path, out);
            }
            (Value::Object(below), _) => walk(below, &Map::new(), &path, out),
            (value, _) => out.push((path, value.clone())),
        }
    }
}

/// One wants it gone and the other there, or both want it at the same place with other attributes.
fn routes_clash(wish: &Route, own: &[Route], others: &[Route]) -> bool {
    let kept = |route: &Route, by: &[Route]| by.iter().any(|w| !w.is_absent() && w.served_by(route));
    let one = |other: &Route| match (wish.is_absent(), other.is_absent()) {
        (true, false) => wish.matches(other) && !kept(other, own),
        (false, true) => other.matches(wish) && !kept(wish, others),
        (false, false) => wish.same_place(other) && !wish.served_by(other) && !other.served_by(wish),
        (true, true) => false,
    };
    !wish.is_ignored() && others.iter().filter(|o| !o.is_ignored()).any(one)
}

fn rules_clash(wish: &Rule, own: &[Rule], others: &[Rule]) -> bool {
    let kept = |rule: &Rule, by: &[Rule]| by.iter().any(|w| !w.is_absent() && w.served_by(rule));
    others.iter().any(|other| match (wish.is_absent(), other.is_absent()) {
        (true, false) => wish.matches(other) && !kept(other, own),
        (false, true) => other.matches(wish) && !kept(wish, others),
        _ => false,
    })
}

/// Whom each of these gives way to, in order: name of the one before it, and the property. Who gives way does not stand in others' way.
/// `in_force` tells who changes the node at all.
pub fn conflicts<'a>(
    wishes: &'a [(String, Asked)],
    in_force: impl Fn(&str) -> bool,
) -> BTreeMap<&'a str, (&'a str, String)> {
    let mut before: Vec<(&str, &Asked)> = vec![];
    let mut out = BTreeMap::new();
    for (name, asked) in wishes {
        let clash = |(other, theirs): &(&'a str, &Asked)| Some((*other, asked.clashes_with(theirs)?));
        match before.iter().find_map(clash) {
            Some(clash) => {
                out.insert(name.as_str(), clash);
            }
            None if in_force(name) => before.push((name, asked)),
            None => {}
        }
    }
    out
}

/// What is left of a document when everything is taken out of it that others ask for otherwise: whole interfaces, routes and rules
/// one by one, other sections whole.
pub fn give_way(document: NetworkState, others: &[&Asked]) -> NetworkState {
    let free = |part: NetworkState| !others.iter().any(|o| Asked::of(&part).clashes_with(o).is_some());
    let mut left = document;
    left.interfaces.retain(|i| {
        free(NetworkState {
            interfaces: vec![i.clone()],
            ..NetworkState::default()
        })
    });
    if let Some(list) = left.routes.as_mut().and_then(|r| r.config.as_mut()) {
        list.retain(|r| !others.iter().any(|o| routes_clash(r, &[], &o.routes)));
    }
    if let Some(list) = left.route_rules.as_mut().and_then(|r| r.config.as_mut()) {
        list.retain(|r| !others.iter().any(|o| rules_clash(r, &[], &o.rules)));
    }
    let section = |keep: fn(NetworkState) -> NetworkState| free(keep(left.clone()));
    let hostname = section(|s| NetworkState {
        hostname: s.hostname,
        ..NetworkState::default()
    });
    let dns = section(|s| NetworkState {
        dns_resolver: s.dns_resolver,
        ..NetworkState::default()
    });
    let ovs_db = section(|s| NetworkState {
        ovs_db: s.ovs_db,
        ..NetworkState::default()
    });
    let ovn = section(|s| NetworkState {
        ovn: s.ovn,
        ..NetworkState::default()
    });
    left.hostname = left.hostname.filter(|_| hostname);
    left.dns_resolver = left.dns_resolver.filter(|_| dns);
    left.ovs_db = left.ovs_db.filter(|_| ovs_db);
    left.ovn = left.ovn.filter(|_| ovn);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> NetworkState {
        NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap()
    }

    fn clash(a: &str, b: &str) -> Option<String> {
        let (a, b) = (Asked::of(&state(a)), Asked::of(&state(b)));
        let found = b.clashes_with(&a);
        assert_eq!(found.is_some(), a.clashes_with(&b).is_some(), "it is mutual");
        found
    }

    fn at(path: &str) -> Option<String> {
        Some(path.to_owned())
    }

    #[test]
    fn other_values_of_one_property_clash() {
        let mtu = |n: &str| format!("interfaces: [{{name: eth1, type: ethernet, mtu: {n}}}]");
        assert_eq!(clash(&mtu("1400"), &mtu("1500")), at("interfaces[eth1].mtu"));
        assert_eq!(clash(&mtu("1400"), &mtu("'1400'")), None);
        assert_eq!(
            clash(
                &mtu("1400"),
                "interfaces: [{name: eth1, type: ethernet, description: x}]"
            ),
            None
        );
        assert_eq!(
            clash(&mtu("1400"), "interfaces: [{name: eth2, type: ethernet, mtu: 1500}]"),
            None
        );
        assert_eq!(clash(&mtu("1400"), "interfaces: [{name: eth1, state: ignore}]"), None);
    }

    #[test]
    fn up_down_and_absent_clash() {
        let br = |rest: &str| format!("interfaces: [{{name: br0, type: linux-bridge{rest}}}]");
        assert_eq!(
            clash(&br(", mtu: 1400"), &br(", state: absent")),
            at("interfaces[br0].state")
        );
        assert_eq!(clash(&br(", state: absent"), &br(", state: absent")), None);
        assert_eq!(clash(&br(", state: up"), &br("")), None);
        assert_eq!(
            clash(&br(""), "interfaces: [{name: br0, type: dummy}]"),
            at("interfaces[br0].type")
        );
        let down = "interfaces: [{name: eth1, type: ethernet, state: down}]";
        let port = "interfaces: [{name: br0, type: linux-bridge, bridge: {port: [{name: eth1}]}}]";
        let vlan = "interfaces: [{name: eth1.5, type: vlan, vlan: {base-iface: eth1, id: 5}}]";
        assert_eq!(clash(down, port), at("interfaces[eth1].state"));
        assert_eq!(clash(down, vlan), at("interfaces[eth1].state"));
        // a bridge of Open vSwitch and its internal interface may have one name
        assert_eq!(
            clash(
                "interfaces: [{name: br1, type: ovs-bridge, bridge: {port: [{name: br1}]}}]",
                "interfaces: [{name: br1, type: ovs-interface}]"
            ),
            None
        );
    }

    #[test]
    fn lists_are_whole_and_have_no_order() {
        let ip = |list: &str| {
            format!(
                "interfaces: [{{name: eth1, type: ethernet, ipv4: {{enabled: true, dhcp: false, address: [{list}]}}}}]"
            )
        };
        let (a, b) = (
            "{ip: 192.0.2.1, prefix-length: 24}",
            "{ip: 192.0.2.2, prefix-length: 24}",
        );
        assert_eq!(clash(&ip(&format!("{a}, {b}")), &ip(&format!("{b}, {a}"))), None);
        assert_eq!(clash(&ip(a), &ip(b)), at("interfaces[eth1].ipv4.address"));
        assert_eq!(
            clash(&ip(a), &ip(&format!("{a}, {b}"))),
            at("interfaces[eth1].ipv4.address")
        );
        let auto = "interfaces: [{name: eth1, type: ethernet, ipv4: {enabled: true, dhcp: true}}]";
        assert_eq!(clash(auto, &ip("")), at("interfaces[eth1].ipv4.dhcp"));
        let off = "interfaces: [{name: eth1, type: ethernet, ipv4: {enabled: false}}]";
        assert_eq!(clash(auto, off), at("interfaces[eth1].ipv4.enabled"));
        let names = |n: &str| format!("interfaces: [{{name: eth1, type: ethernet, alt-names: [{{name: {n}}}]}}]");
        assert_eq!(clash(&names("a"), &names("b")), None);
    }

    #[test]
    fn one_port_has_one_controller() {
        let br = |name: &str, port: &str| {
            format!("interfaces: [{{name: {name}, type: linux-bridge, bridge: {{port: [{{name: {port}}}]}}}}]")
        };
        assert_eq!(
            clash(&br("br0", "eth1"), &br("br1", "eth1")),
            at("interfaces[eth1].controller")
        );
        assert_eq!(clash(&br("br0", "eth1"), &br("br1", "eth2")), None);
        assert_eq!(
            clash(&br("br0", "eth1"), &br("br0", "eth2")),
            at("interfaces[br0].bridge.port")
        );
        let free = "interfaces: [{name: eth1, type: ethernet, controller: ''}]";
        assert_eq!(clash(&br("br0", "eth1"), free), at("interfaces[eth1].controller"));
        let named = "interfaces: [{name: eth1, type: ethernet, controller: br0}]";
        assert_eq!(clash(&br("br0", "eth1"), named), None);
        let stp = "interfaces: [{name: br0, type: linux-bridge, bridge: {options: {stp: {enabled: true}}}}]";
        assert_eq!(clash(&br("br0", "eth1"), stp), None);
    }

    #[test]
    fn routes_and_rules_clash_where_one_wants_gone_what_the_other_wants() {
        let routes = |list: &str| format!("routes: {{config: [{list}]}}");
        let there = "{destination: 192.0.2.0/24, next-hop-address: 10.0.0.1, next-hop-interface: eth1}";
        let gone = "{destination: 192.0.2.0/24, state: absent}";
        let other = "{destination: 198.51.100.0/24, next-hop-address: 10.0.0.1, next-hop-interface: eth1}";
        assert_eq!(clash(&routes(there), &routes(other)), None);
        assert_eq!(clash(&routes(there), &routes(gone)), at("routes.config[0]"));
        assert_eq!(clash(&routes(other), &routes(gone)), None);
        // gone and then there as the other has it
        assert_eq!(clash(&routes(there), &routes(&format!("{gone}, {there}"))), None);
        let mtu = |n: u32| routes(&there.replace('}', &format!(", mtu: {n}}}")));
        assert_eq!(clash(&mtu(1400), &mtu(1300)), at("routes.config[0]"));
        assert_eq!(clash(&mtu(1400), &routes(there)), None);
        let rules = |list: &str| format!("route-rules: {{config: [{list}]}}");
        let (rule, no_rule) = (
            "{ip-from: 10.0.0.0/8, route-table: 200}",
            "{ip-from: 10.0.0.0/8, state: absent}",
        );
        assert_eq!(clash(&rules(rule), &rules(no_rule)), at("route-rules.config[0]"));
        assert_eq!(clash(&rules(rule), &rules(rule)), None);
    }

    #[test]
    fn of_what_is_node_wide_each_key_clashes_by_itself() {
        let dns = |config: &str| format!("dns-resolver: {{config: {config}}}");
        assert_eq!(
            clash(&dns("{server: [192.0.2.1]}"), &dns("{server: [192.0.2.2]}")),
            at("dns-resolver.config.server")
        );
        assert_eq!(
            clash(&dns("{server: [192.0.2.1]}"), &dns("{search: [a.example]}")),
            None
        );
        assert_eq!(
            clash(&dns("{server: [192.0.2.1]}"), &dns("{}")),
            at("dns-resolver.config.server")
        );
        assert_eq!(
            clash("hostname: {config: a}", "hostname: {config: b}"),
            at("hostname.config")
        );
        let ids = |text: &str| format!("ovs-db: {{external_ids: {text}}}");
        assert_eq!(clash(&ids("{a: '1'}"), &ids("{b: '1'}")), None);
        assert_eq!(clash(&ids("{a: '1'}"), &ids("{a: null}")), at("ovs-db.external_ids.a"));
        let ovn = |rest: &str| format!("ovn: {{bridge-mappings: [{{localnet: net, {rest}}}]}}");
        assert_eq!(
            clash(&ovn("bridge: br0"), &ovn("state: absent")),
            at("ovn.bridge-mappings.net")
        );
    }

    #[test]
    fn who_gives_way_stands_in_nobodys_way() {
        let wish = |name: &str, text: &str| (name.to_owned(), Asked::of(&state(text)));
        let mtu = |n: u32| format!("interfaces: [{{name: eth1, type: ethernet, mtu: {n}, description: d{n}}}]");
        let third = "interfaces: [{name: eth1, type: ethernet, description: d1400}]";
        let all = [
            wish("a", "interfaces: [{name: eth1, type: ethernet, mtu: 1500}]"),
            wish("b", &mtu(1400)),
            wish("c", third),
        ];
        let found = conflicts(&all, |_| true);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&"b"]);
        assert_eq!(found["b"], ("a", "interfaces[eth1].mtu".to_owned()));
        assert!(
            conflicts(&all, |name| name != "a").is_empty(),
            "who changes nothing neither"
        );
    }

    #[test]
    fn an_undo_leaves_alone_what_others_ask_for() {
        let undo = "{interfaces: [{name: br0, type: linux-bridge, state: absent}, {name: eth1, type: ethernet, state: down}, \
            {name: eth2, type: ethernet, mtu: 1500}], routes: {config: [{state: absent, destination: 192.0.2.0/24, next-hop-interface: eth2}]}, \
            hostname: {config: old}}";
        let other = "{interfaces: [{name: br0, type: linux-bridge, bridge: {port: [{name: eth1}]}}], hostname: {config: new}, \
            routes: {config: [{destination: 192.0.2.0/24, next-hop-interface: eth2}]}}";
        let left = give_way(state(undo), &[&Asked::of(&state(other))]);
        let want = "{interfaces: [{name: eth2, type: ethernet, mtu: 1500}], routes: {config: []}}";
        assert_eq!(left.to_json(), state(want).to_json());
        let all = give_way(state(undo), &[]);
        assert_eq!(all.to_json(), state(undo).to_json());
    }
}
