//! Routing rules belong to no interface, but NetworkManager keeps them with profiles: which, and what happens when that one goes.

use std::collections::{BTreeMap, HashMap};

use crate::error::Invalid;
use crate::profile::Dict;
use crate::scalar::{Id, Space};
use crate::state::iface::State;
use crate::state::route::{LOOPBACK, Route};
use crate::state::rule::{self, Rule};

use super::{Sections, View};
use crate::plan::profiles::{Entry, Stock};

/// What each profile holds, by interface.
type Held = BTreeMap<Id, Vec<Dict>>;

/// First priority that is given out; the kernel's own rule for table main has 32766.
const FIRST_PRIORITY: i64 = 30_000;

/// Finds a profile for each rule wish, takes absent ones out of all, and hands on the rules of profiles that go.
pub fn spread(view: &View<'_>, out: &mut Sections) -> Result<(), Invalid> {
    let wishes: Vec<&Rule> = view
        .resolved
        .route_rules
        .iter()
        .flat_map(|r| r.config.iter().flatten())
        .collect();
    for (i, wish) in wishes.iter().enumerate().filter(|(_, w)| !w.is_absent()) {
        comes_in(view, wish).map_err(|why| Invalid::new(format!("route-rules.config[{i}].iif"), why))?;
    }
    let before = held(view);
    let mut after = before.clone();
    let filters: Vec<&Rule> = wishes.iter().copied().filter(|w| w.is_absent()).collect();
    let wanted = |have: &Rule| wishes.iter().any(|w| !w.is_absent() && w.served_by(have));
    for rules in after.values_mut() {
        rules.retain(|have| {
            let rule = Rule::from_nm(have);
            // removed and asked for in one document is as good as there
            !filters.iter().any(|f| f.matches(&rule)) || wanted(&rule)
        });
    }
    hand_on(view, &mut after, out);
    place(view, &wishes, &mut after, out)?;
    foreign(view, &wishes, &filters, out);
    for (id, rules) in after {
        if before.get(&id).map(Vec::as_slice).unwrap_or_default() != rules {
            let entry = |data: Dict| Entry {
                ipv6: Rule::from_nm(&data).is_ipv6(),
                data,
            };
            out.extra.entry(id).or_default().rules = Some(rules.into_iter().map(entry).collect());
        }
    }
    Ok(())
}

fn held(view: &View<'_>) -> Held {
    let mut held = Held::new();
    for id in view.seen.ids_with_profiles().filter(|id| id.space == Space::Kernel) {
        let Some(base) = Stock::of(id, view.seen).base else {
            continue;
        };
        let rules = ["ipv4", "ipv6"]
            .iter()
            .flat_map(|s| base.profile.dicts(s, "routing-rules"));
        let rules: Vec<Dict> = rules.cloned().collect();
        if !rules.is_empty() {
            held.insert(id.clone(), rules);
        }
    }
    held
}

/// The interface that packets come in by is there.
fn comes_in(view: &View<'_>, wish: &Rule) -> Result<(), String> {
    let Some(iif) = wish.iif.as_deref() else { return Ok(()) };
    let id = Id::kernel(iif);
    match view.graph.get(&id) {
        Some(t) if t.wish.is_absent() => Err(format!("interface '{iif}' is made absent by the same document")),
        None if view.seen.interface(&id).is_none() => Err(format!(
            "interface '{iif}' does not exist on the node and is not in this document"
        )),
        _ => Ok(()),
    }
}

/// Rules that NetworkManager would drop because the profile that keeps them goes out of force.
fn hand_on(view: &View<'_>, held: &mut Held, out: &mut Sections) {
    let ids: Vec<Id> = held
        .keys()
        .filter(|id| view.graph.contains_key(*id) && view.active(id))
        .cloned()
        .collect();
    for id in ids {
        let absent = view.graph.get(&id).is_some_and(|t| t.wish.is_absent());
        let down = view
            .graph
            .get(&id)
            .is_some_and(|t| t.wish.base.state == Some(State::Down));
        let leaving = |data: &Dict| view.family(&id, Rule::from_nm(data).is_ipv6()).is_err();
        let mine = held.get(&id).cloned().unwrap_or_default();
        let (go, stay): (Vec<Dict>, Vec<Dict>) = mine.into_iter().partition(|d| leaving(d));
        for data in &go {
            pass(view, &id, data, absent, held, out);
        }
        // the profile of an interface that is only taken down stays as it is
        if !down {
            held.insert(id, stay);
        }
    }
}

fn pass(view: &View<'_>, from: &Id, data: &Dict, absent: bool, held: &mut Held, out: &mut Sections) {
    let rule = Rule::from_nm(data);
    if absent && rule.iif.as_ref() == Some(&from.name) {
        out.lines.push(format!("route-rules: {rule} → gone with {}", from.name));
        return;
    }
    let elsewhere = |(id, rules): (&Id, &Vec<Dict>)| id != from && rules.contains(data) && view.in_force(id);
    if held.iter().any(elsewhere) {
        return;
    }
    match keeper(view, &rule, &Tables::of(view), held) {
        Ok(to) => {
            out.lines.push(format!(
                "route-rules: {rule} → kept by {} instead of {}",
                to.name, from.name
            ));
            held.entry(to).or_default().push(data.clone());
        }
        Err(_) => out.warnings.push(format!(
            "route-rules: {rule} goes with {}, as no other managed interface could keep it",
            from.name
        )),
    }
}

/// Adds what no profile holds yet.
fn place(view: &View<'_>, wishes: &[&Rule], held: &mut Held, out: &mut Sections) -> Result<(), Invalid> {
    let none = vec![];
    let running = view
        .seen
        .state
        .route_rules
        .as_ref()
        .and_then(|r| r.config.as_ref())
        .unwrap_or(&none);
    let asked = wishes.iter().filter(|w| !w.is_absent()).filter_map(|w| w.priority);
    let highest = running
        .iter()
        .filter_map(|r| r.priority)
        .chain(asked)
        .filter(|p| *p < 32_766)
        .max();
    let mut next = highest.unwrap_or(0).max(FIRST_PRIORITY - 1) + 1;
    let tables = Tables::of(view);
    let mut index = Index::of(view, held);
    let mut kernel: HashMap<_, Vec<&Rule>> = HashMap::new();
    for rule in running {
        kernel.entry(rule.packets()).or_default().push(rule);
    }
    let equal = |wish: &Rule| {
        let near = kernel.get(&wish.packets()).into_iter().flatten();
        near.copied().find(|r| wish.served_by(r))
    };
    for (i, wish) in wishes.iter().enumerate().filter(|(_, w)| !w.is_absent()) {
        if let Some(id) = index.holder(wish) {
            if equal(wish).is_none() {
                out.extra.entry(id.clone()).or_default().reapply = true;
            }
            continue;
        }
        let to = keeper(view, wish, &tables, held).map_err(|e| e.under(&format!("route-rules.config[{i}]")))?;
        let mut rule = (*wish).clone();
        if rule.priority.is_none_or(|p| p < 0) {
            let known = equal(wish).and_then(|r| r.priority);
            rule.priority = known.or(Some(next));
            next += i64::from(known.is_none());
        }
        if let Some(iif) = rule.iif.as_deref().map(Id::kernel).filter(|id| view.is_down(id)) {
            // packets can only come in by what is up
            out.extra.entry(iif).or_default().activate = true;
        }
        index.add(to.clone(), &rule);
        held.entry(to).or_default().push(rule.to_nm());
    }
    Ok(())
}

/// Rules that are held, by the packets that they select.
struct Index(HashMap<Packets, Vec<(Rule, Id)>>);

type Packets = (bool, Option<String>, Option<String>);

fn packets(rule: &Rule) -> Packets {
    let (ipv6, from, to) = rule.packets();
    (ipv6, from.map(str::to_owned), to.map(str::to_owned))
}

impl Index {
    /// Those of profiles that will be in force.
    fn of(view: &View<'_>, held: &Held) -> Self {
        let mut index = Index(HashMap::new());
        for (id, rules) in held.iter().filter(|(id, _)| view.in_force(id)) {
            for rule in rules.iter().filter_map(rule::understood) {
                index.add(id.clone(), &rule);
            }
        }
        index
    }

    fn add(&mut self, id: Id, rule: &Rule) {
        self.0.entry(packets(rule)).or_default().push((rule.clone(), id));
    }

    fn holder(&self, wish: &Rule) -> Option<&Id> {
        let near = self.0.get(&packets(wish)).into_iter().flatten();
        near.filter(|(have, _)| wish.served_by(have)).map(|(_, id)| id).next()
    }
}

/// Interfaces by the tables that their routes are in.
struct Tables(HashMap<(u32, bool), Vec<Id>>);

impl Tables {
    fn of(view: &View<'_>) -> Self {
        let mut tables: HashMap<(u32, bool), Vec<Id>> = HashMap::new();
        let asked = view.resolved.routes.iter().flat_map(|r| r.config.iter().flatten());
        let config = view.seen.state.routes.iter().flat_map(|r| r.config.iter().flatten());
        let there = |r: &&Route| r.state.is_none();
        for route in asked.filter(there).chain(config.filter(there)) {
            if let Some(name) = &route.next_hop_interface {
                let ids = tables.entry((route.table(), route.is_ipv6())).or_default();
                ids.push(Id::kernel(name));
            }
        }
        for touched in view.graph.values() {
            for ipv6 in [false, true] {
                let auto = touched
                    .wish
                    .ip(ipv6)
                    .and_then(|ip| ip.auto_route_table_id)
                    .filter(|t| *t != 0);
                if let Some(table) = auto {
                    tables.entry((table, ipv6)).or_default().push(touched.wish.id());
                }
            }
        }
        Tables(tables)
    }
}

/// The incoming interface; else one with a route in the rule's table; else one that the document names; else one that keeps rules already,
/// or any other; loopback last, which need not be touched for it then.
fn keeper(view: &View<'_>, rule: &Rule, tables: &Tables, held: &Held) -> Result<Id, Invalid> {
    let ipv6 = rule.is_ipv6();
    let can = |id: &Id| view.can_keep(id, ipv6);
    // one that is down will come up for it
    let comes = |id: &Id| can(id) || (view.is_down(id) && view.family(id, ipv6).is_ok());
    if let Some(iif) = rule.iif.as_deref().map(Id::kernel).filter(comes) {
        return Ok(iif);
    }
    let with_table = tables.0.get(&(rule.table(), ipv6)).filter(|_| rule.action.is_none());
    if let Some(id) = with_table.into_iter().flatten().find(|id| can(id)) {
        return Ok(id.clone());
    }
    let loopback = Id::kernel(LOOPBACK);
    let named = view
        .graph
        .iter()
        .filter(|(id, t)| t.named && id.space == Space::Kernel)
        .map(|(id, _)| id);
    let keeping = held.iter().filter(|(_, rules)| !rules.is_empty()).map(|(id, _)| id);
    let mut first = named.chain(keeping).filter(|id| **id != loopback);
    if let Some(id) = first.find(|id| can(id)) {
        return Ok(id.clone());
    }
    let mut rest = view.candidates().into_iter().filter(|id| *id != loopback);
    if let Some(id) = rest.find(|id| can(id)) {
        return Ok(id);
    }
    match view.loopback_keeps() {
        Ok(()) if view.seen.interface(&loopback).is_some() => Ok(loopback),
        Ok(()) => Err(Invalid::new(
            "",
            "no managed interface with this IP family enabled could keep the rule",
        )),
        Err(e) => Err(e),
    }
}

/// NetworkManager only removes rules that it made.
fn foreign(view: &View<'_>, wishes: &[&Rule], filters: &[&Rule], out: &mut Sections) {
    if filters.is_empty() {
        return;
    }
    let own = rule::of_network_manager(&view.seen.facts);
    let all = view
        .seen
        .state
        .route_rules
        .iter()
        .flat_map(|r| r.config.iter().flatten());
    for rule in all.filter(|r| !own.contains(r) && filters.iter().any(|f| f.matches(r))) {
        if !wishes.iter().any(|w| !w.is_absent() && w.served_by(rule)) {
            out.warnings.push(format!(
                "route-rules: {rule} stays: it was not made by NetworkManager, which cannot remove it ('ip rule del' can)"
            ));
        }
    }
}
