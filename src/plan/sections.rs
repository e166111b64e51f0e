//! Node-wide sections spread over interfaces: which profile keeps which route, rule and name server. And the host names.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::error::Invalid;
use crate::host::{Effect, Observation};
use crate::scalar::{Id, Space};
use crate::state::dns::{self, Dns};
use crate::state::ovn::{self, Ovn};
use crate::state::ovs_db;
use crate::state::route::{self, Route};
use crate::state::rule::Rule;
use crate::state::{Hostname, NetworkState};

use super::profiles::{Extra, Stock};
use super::topology::Graph;

/// What each interface's profile gets, and the global DNS if it changes.
#[derive(Debug, Default)]
pub struct Sections {
    /// By interface.
    pub extra: BTreeMap<Id, Extra>,
    /// What belongs to no profile.
    pub effects: Vec<Effect>,
    /// Lines of the plan about what follows without having been asked for.
    pub lines: Vec<String>,
}

/// Spreads routes, rules and DNS.
pub fn spread(resolved: &NetworkState, graph: &Graph, seen: &Observation) -> Result<Sections, Invalid> {
    let mut out = Sections::default();
    routes(resolved, graph, seen, &mut out)?;
    rules(resolved, graph, seen, &mut out)?;
    dns(resolved, graph, seen, &mut out)?;
    hostname(resolved, seen, &mut out);
    ovs(resolved, seen, &mut out)?;
    Ok(out)
}

fn hostname(resolved: &NetworkState, seen: &Observation, out: &mut Sections) {
    let Some(Hostname { running, config }) = &resolved.hostname else {
        return;
    };
    let now = &seen.facts.hostname;
    if let Some(name) = config
        .as_ref()
        .filter(|n| now.config.as_deref().unwrap_or_default() != n.as_str())
    {
        out.effects.push(Effect::StaticHostname(name.clone()));
    }
    if let Some(name) = running.as_ref().filter(|n| now.running.as_ref() != Some(n)) {
        out.effects.push(Effect::RunningHostname(name.clone()));
    }
}

/// Routes that an interface's profile holds; without a profile, those that the kernel has from elsewhere.
fn kept_routes(name: &str, seen: &Observation) -> Vec<Route> {
    let Some(base) = Stock::of(&Id::kernel(name), seen).base else {
        let config = seen.state.routes.iter().flat_map(|r| r.config.iter().flatten());
        return config
            .filter(|r| r.next_hop_interface.as_deref() == Some(name))
            .cloned()
            .collect();
    };
    let mut routes = vec![];
    for (section, any) in [("ipv4", "0.0.0.0/0"), ("ipv6", "::/0")] {
        routes.extend(
            base.profile
                .dicts(section, "route-data")
                .iter()
                .filter_map(|d| Route::from_nm(d, name)),
        );
        if let Some(gateway) = base.profile.str(section, "gateway") {
            routes.push(Route {
                destination: Some(any.to_owned()),
                next_hop_interface: Some(name.to_owned()),
                next_hop_address: Some(gateway.to_owned()),
                table_id: Some(route::MAIN),
                ..Route::default()
            });
        }
    }
    routes
}

fn routes(resolved: &NetworkState, graph: &Graph, seen: &Observation, out: &mut Sections) -> Result<(), Invalid> {
    let wishes: Vec<&Route> = resolved.routes.iter().flat_map(|r| r.config.iter().flatten()).collect();
    for (i, wish) in wishes.iter().enumerate().filter(|(_, w)| !w.is_absent()) {
        reachable(wish, i, graph, seen)?;
    }
    let mut names: BTreeSet<String> = wishes
        .iter()
        .filter(|w| !w.is_absent())
        .map(|w| w.keeper().to_owned())
        .collect();
    if wishes.iter().any(|w| w.is_absent()) {
        names.extend(seen.facts.links.iter().map(|l| l.name.clone()));
    }
    for (id, touched) in graph.iter().filter(|(_, t)| t.wish.is_up()) {
        // new addresses may strand routes; an interface that gets its first profile takes the kernel's routes along
        let addressed = [&touched.wish.ipv4, &touched.wish.ipv6]
            .into_iter()
            .flatten()
            .any(|ip| ip.address.is_some());
        let first = touched.named && Stock::of(id, seen).base.is_none();
        if (addressed || first) && *id == Id::kernel(&id.name) && seen.facts.link(&id.name).is_some() {
            names.insert(id.name.clone());
        }
    }
    for name in names {
        let before = kept_routes(&name, seen);
        let mut after: Vec<Route> = vec![];
        for have in &before {
            if wishes.iter().any(|w| w.is_absent() && w.matches(have)) {
                continue;
            }
            match stranded(have, &name, graph, seen) {
                Some(why) => out.lines.push(why),
                None => after.push(have.clone()),
            }
        }
        for wish in wishes.iter().filter(|w| !w.is_absent() && w.keeper() == name) {
            let mut wish = (*wish).clone();
            wish.table_id = Some(wish.table());
            if !after.iter().any(|have| wish.matches(have)) {
                after.push(wish);
            }
        }
        let id = Id::kernel(name);
        let adopted = Stock::of(&id, seen).base.is_none() && !before.is_empty();
        if after != before || adopted {
            out.extra.entry(id).or_default().routes = Some(after);
        }
    }
    Ok(())
}

/// Some where the gateway was in a network of the interface and is in none any more: the kernel drops such a route with the address.
/// NetworkManager would keep it, as a gateway on the link that nobody answers for.
fn stranded(route: &Route, name: &str, graph: &Graph, seen: &Observation) -> Option<String> {
    let gateway = route.gateway()?;
    let wish = graph
        .get(&Id::kernel(name))?
        .wish
        .ip(gateway.is_ipv6())
        .filter(|ip| !ip.is_auto())?;
    let within = |ip: &crate::state::part::ip::Ip| {
        let near =
            |a: &crate::state::part::ip::Addr| IpNet::new(a.ip, a.prefix_length).is_ok_and(|n| n.contains(&gateway));
        ip.address.iter().flatten().any(near)
    };
    let current = seen.link(name)?.ip(gateway.is_ipv6())?;
    let to = route.destination.as_deref().unwrap_or_default();
    let lost = wish.address.is_some() && within(current) && !within(wish);
    lost.then(|| format!("routes: {to} via {gateway} dev {name} → gone with the address that reached its gateway"))
}

fn reachable(wish: &Route, index: usize, graph: &Graph, seen: &Observation) -> Result<(), Invalid> {
    let name = wish.keeper();
    let fault = |reason: String| {
        Err(Invalid::new(
            format!("routes.config[{index}].next-hop-interface"),
            reason,
        ))
    };
    let touched = graph.get(&Id::kernel(name)).filter(|t| t.named);
    let current = seen.link(name);
    if touched.is_none() && current.is_none() {
        return fault(format!(
            "interface '{name}' does not exist on the node and is not in this document"
        ));
    }
    if touched.is_some_and(|t| t.wish.is_absent()) {
        return fault(format!("interface '{name}' is made absent by the same document"));
    }
    let ip = touched.and_then(|t| t.wish.ip(wish.is_ipv6()).cloned());
    let enabled = match (ip.and_then(|ip| ip.enabled), current) {
        (Some(on), _) => on,
        (None, Some(c)) => c.ip(wish.is_ipv6()).is_some_and(|ip| ip.is_enabled()),
        (None, None) => false,
    };
    if !enabled && wish.route_type.is_none() {
        let family = if wish.is_ipv6() { "IPv6" } else { "IPv4" };
        return fault(format!("{family} is not enabled on '{name}'"));
    }
    Ok(())
}

fn rules(resolved: &NetworkState, graph: &Graph, seen: &Observation, out: &mut Sections) -> Result<(), Invalid> {
    let wishes: Vec<&Rule> = resolved
        .route_rules
        .iter()
        .flat_map(|r| r.config.iter().flatten())
        .collect();
    if wishes.is_empty() {
        return Ok(());
    }
    let mut held: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for link in &seen.facts.links {
        if let Some(base) = Stock::of(&Id::kernel(&link.name), seen).base {
            let rules = ["ipv4", "ipv6"]
                .iter()
                .flat_map(|s| base.profile.dicts(s, "routing-rules"))
                .map(Rule::from_nm)
                .collect();
            held.insert(link.name.clone(), rules);
        }
    }
    let before = held.clone();
    for rules in held.values_mut() {
        rules.retain(|have| !wishes.iter().any(|w| w.is_absent() && w.matches(have)));
    }
    let running = seen.state.route_rules.iter().flat_map(|r| r.config.iter().flatten());
    let mut next = running
        .filter_map(|r| r.priority)
        .filter(|p| *p < 32766)
        .fold(29_999, i64::max)
        + 1;
    for (i, wish) in wishes.iter().enumerate().filter(|(_, w)| !w.is_absent()) {
        if held.values().flatten().any(|have| wish.matches(have)) {
            continue;
        }
        let keeper = rule_keeper(wish, resolved, graph, seen).ok_or_else(|| {
            let reason = "no managed interface with this IP family enabled could keep the rule; enable it on one in this document";
            Invalid::new(format!("route-rules.config[{i}]"), reason)
        })?;
        let mut rule = (*wish).clone();
        if rule.priority.is_none_or(|p| p < 0) {
            rule.priority = Some(next);
            next += 1;
        }
        held.entry(keeper).or_default().push(rule);
    }
    for (name, rules) in held {
        if before.get(&name) != Some(&rules) {
            out.extra.entry(Id::kernel(name)).or_default().rules = Some(rules);
        }
    }
    Ok(())
}

/// The incoming interface; else one with a route in the rule's table; else any with the family on, named ones first.
fn rule_keeper(wish: &Rule, resolved: &NetworkState, graph: &Graph, seen: &Observation) -> Option<String> {
    let enabled = |name: &str| family_on(name, wish.is_ipv6(), graph, seen);
    if let Some(iif) = wish.iif.as_deref().filter(|i| enabled(i)) {
        return Some(iif.to_owned());
    }
    let asked = resolved.routes.iter().flat_map(|r| r.config.iter().flatten());
    let running = seen.state.routes.iter().flat_map(|r| r.config.iter().flatten());
    let with_table = asked
        .chain(running)
        .filter(|r| !r.is_absent() && r.table() == wish.table() && r.is_ipv6() == wish.is_ipv6())
        .filter_map(|r| r.next_hop_interface.clone())
        .find(|n| enabled(n));
    let named = || {
        graph
            .iter()
            .filter(|(_, t)| t.named)
            .map(|(id, _)| id.name.clone())
            .find(|n| enabled(n))
    };
    let any = || seen.facts.links.iter().map(|l| l.name.clone()).find(|n| enabled(n));
    with_table.or_else(named).or_else(any)
}

/// The family will be on, and the interface has or gets a profile.
fn family_on(name: &str, ipv6: bool, graph: &Graph, seen: &Observation) -> bool {
    let id = Id::kernel(name);
    let touched = graph.get(&id);
    if touched.is_some_and(|t| !t.wish.is_up()) {
        return false;
    }
    let asked = touched.and_then(|t| t.wish.ip(ipv6)).and_then(|ip| ip.enabled);
    let now = seen
        .interface(&id)
        .and_then(|i| i.ip(ipv6))
        .is_some_and(|ip| ip.is_enabled());
    let profile = touched.is_some_and(|t| t.named) || Stock::of(&id, seen).base.is_some();
    asked.unwrap_or(now) && profile
}

fn dns(resolved: &NetworkState, graph: &Graph, seen: &Observation, out: &mut Sections) -> Result<(), Invalid> {
    let Some(wish) = resolved.dns_resolver.as_ref().and_then(|d| d.config.as_ref()) else {
        return Ok(());
    };
    let now = seen
        .state
        .dns_resolver
        .as_ref()
        .and_then(|d| d.config.clone())
        .unwrap_or_default();
    let wanted = Dns::merge(wish, &now);
    if wanted == Dns::merge(&now, &now) {
        return Ok(());
    }
    let keeper = match wanted.scoped_to() {
        Some(name) if !family_on(name, true, graph, seen) => {
            return Err(Invalid::new(
                "dns-resolver.config.server",
                format!("IPv6 is not enabled on '{name}', which the link-local server needs"),
            ));
        }
        Some(name) => Some(name.to_owned()),
        // search domains alone: a global setting would silence the servers that DHCP gives
        None if wanted.server.iter().flatten().next().is_none() && !wanted.is_purge() => {
            Some(dns_keeper(graph, seen).ok_or_else(|| {
                Invalid::new(
                    "dns-resolver.config",
                    "no managed interface with IP enabled could keep the search domains",
                )
            })?)
        }
        None => None,
    };
    let has_global = seen.facts.dns.global.is_some();
    if keeper.is_some() || wanted.is_purge() {
        for link in &seen.facts.links {
            let held = Stock::of(&Id::kernel(&link.name), seen)
                .base
                .map(dns::of_profile)
                .unwrap_or_default();
            if !held.is_purge() && Some(&link.name) != keeper.as_ref() {
                out.extra.entry(Id::kernel(&link.name)).or_default().dns = Some(Dns::default());
            }
        }
    }
    match keeper {
        Some(name) => {
            out.extra.entry(Id::kernel(name)).or_default().dns = Some(wanted);
            out.effects.extend(has_global.then_some(Effect::GlobalDns(None)));
        }
        None if wanted.is_purge() => out.effects.extend(has_global.then_some(Effect::GlobalDns(None))),
        None => out.effects.push(Effect::GlobalDns(Some(wanted.to_global()))),
    }
    Ok(())
}

fn dns_keeper(graph: &Graph, seen: &Observation) -> Option<String> {
    let names: Vec<&String> = seen
        .facts
        .links
        .iter()
        .map(|l| &l.name)
        .chain(graph.keys().map(|id| &id.name))
        .collect();
    let auto = |n: &str| {
        seen.link(n)
            .is_some_and(|i| [false, true].iter().any(|v6| i.ip(*v6).is_some_and(|ip| ip.is_auto())))
    };
    let on = |n: &str| n != "lo" && (family_on(n, false, graph, seen) || family_on(n, true, graph, seen));
    let first = names
        .iter()
        .find(|n| on(n) && auto(n))
        .or_else(|| names.iter().find(|n| on(n)));
    first.map(|n| (*n).clone())
}

/// Keys of the global row of Open vSwitch: its own section's, and the one in which OVN keeps its mappings.
fn ovs(resolved: &NetworkState, seen: &Observation, out: &mut Sections) -> Result<(), Invalid> {
    let section = match (&resolved.ovs_db, &resolved.ovn) {
        (None, None) => return Ok(()),
        (Some(_), _) => "ovs-db",
        (None, Some(_)) => "ovn",
    };
    let Some(database) = &seen.facts.ovs else {
        return Err(Invalid::new(section, ovs_db::SILENT));
    };
    let now = &database.ids;
    let wish = resolved.ovs_db.clone().unwrap_or_default();
    let mut external_ids = ovs_db::change(wish.external_ids.as_ref(), &now.external_ids);
    let other_config = ovs_db::change(wish.other_config.as_ref(), &now.other_config);
    if let Some(ovn) = &resolved.ovn {
        bridges_exist(ovn, resolved, seen)?;
        let mappings = ovn::current(&seen.facts);
        let merged = ovn.merge(&mappings);
        if merged != mappings {
            external_ids.insert(ovn::KEY.to_owned(), ovn::text(&merged));
        }
    }
    if !external_ids.is_empty() || !other_config.is_empty() {
        out.effects.push(Effect::OvsDb {
            external_ids,
            other_config,
        });
    }
    Ok(())
}

/// A mapping names a bridge that there is and that stays.
fn bridges_exist(ovn: &Ovn, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for (i, mapping) in ovn.mappings().enumerate().filter(|(_, m)| !m.is_absent()) {
        let Some(bridge) = &mapping.bridge else { continue };
        let id = Id::in_space(bridge.clone(), Space::OvsBridge);
        let wish = resolved.interfaces.iter().find(|w| w.id() == id);
        let there = seen.facts.ovs.as_ref().is_some_and(|o| o.bridges.contains_key(bridge));
        let why = match wish {
            Some(wish) if !wish.is_up() => "is not up after the same document",
            None if !there => "is no bridge of Open vSwitch on the node, nor in this document",
            _ => continue,
        };
        let path = format!("ovn.bridge-mappings[{i}].bridge");
        return Err(Invalid::new(path, format!("'{bridge}' {why}")));
    }
    Ok(())
}
