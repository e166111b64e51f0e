//! Routes: each is kept by the profile of the interface it leaves by, those that swallow packets by that of `lo`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use ipnet::IpNet;

use crate::error::Invalid;
use crate::profile::Dict;
use crate::scalar::{Id, Space};
use crate::state::part::ip::{Addr, Ip};
use crate::state::route::{self, Route, unserved};

use super::{Sections, View};
use crate::plan::profiles::{Entry, Stock};
use crate::plan::verify::held_special;

/// A route as a profile holds it.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    /// As NetworkManager has it, with what the document cannot say.
    data: Dict,
    /// As the document would say it, with the metric that is in force.
    route: Route,
}

impl Held {
    fn new(wish: &Route) -> Self {
        let mut data = wish.to_nm();
        data.insert("metric".into(), wish.metric_in_force().into());
        Held {
            data,
            route: wish.canonical(),
        }
    }

    /// Lays a wish for the same place over it; what the wish leaves out stays. One among several that share the traffic must be like the others,
    /// which a route that stood alone need not be: that is made anew.
    fn overlay(&mut self, wish: &Route) {
        match wish.weight.is_some() && self.route.weight.is_none() {
            true => *self = Held::new(wish),
            false => self.data.extend(wish.to_nm()),
        }
    }
}

/// Wishes to remove something, found by destination.
struct Filters<'a> {
    by_destination: HashMap<&'a str, Vec<&'a Route>>,
    any: Vec<&'a Route>,
}

impl<'a> Filters<'a> {
    fn of(wishes: &[(usize, &'a Route)]) -> Self {
        let mut filters = Filters {
            by_destination: HashMap::new(),
            any: vec![],
        };
        for (_, wish) in wishes.iter().filter(|(_, w)| w.is_absent()) {
            match wish.destination.as_deref() {
                Some(to) => filters.by_destination.entry(to).or_default().push(wish),
                None => filters.any.push(wish),
            }
        }
        filters
    }

    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.by_destination.is_empty()
    }

    fn hit(&self, route: &Route) -> bool {
        let to = route.destination.as_deref().and_then(|to| self.by_destination.get(to));
        self.any
            .iter()
            .chain(to.into_iter().flatten())
            .any(|f| f.matches(route))
    }
}

/// Puts every route wish into a profile, takes absent ones out, and says which go for other reasons.
pub fn spread(view: &View<'_>, out: &mut Sections) -> Result<(), Invalid> {
    let all = view.resolved.routes.iter().flat_map(|r| r.config.iter().flatten());
    let wishes: Vec<(usize, &Route)> = all.enumerate().filter(|(_, r)| !r.is_ignored()).collect();
    let kernel = Kernel::of(view);
    let mut by_keeper: BTreeMap<&str, Vec<&Route>> = BTreeMap::new();
    for (i, wish) in wishes.iter().filter(|(_, w)| !w.is_absent()) {
        reachable(view, wish, *i)?;
        by_keeper.entry(wish.keeper()).or_default().push(wish);
    }
    one_a_place(&wishes)?;
    one_ipv6_route_a_hop(&wishes)?;
    hops_are_alike(&wishes)?;
    let filters = Filters::of(&wishes);
    for name in keepers(view, &by_keeper, &filters) {
        let asked = by_keeper.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        keep(view, &name, asked, &filters, &kernel, out);
    }
    lost(view, &kernel, &filters, out);
    mend(view, &wishes, &filters, &kernel, out);
    Ok(())
}

/// Routes that the kernel has and that a person could have written, by keeper.
struct Kernel<'a>(HashMap<&'a str, Vec<&'a Route>>);

impl<'a> Kernel<'a> {
    fn of(view: &View<'a>) -> Self {
        let mut by_keeper: HashMap<&str, Vec<&Route>> = HashMap::new();
        let config = view.seen.state.routes.iter().flat_map(|r| r.config.iter().flatten());
        for route in config.filter(|r| !r.is_ignored()) {
            by_keeper.entry(route.keeper()).or_default().push(route);
        }
        Kernel(by_keeper)
    }

    fn of_keeper(&self, name: &str) -> &[&'a Route] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Every interface whose profile may change for routes.
fn keepers(view: &View<'_>, by_keeper: &BTreeMap<&str, Vec<&Route>>, filters: &Filters<'_>) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = by_keeper.keys().map(|n| (*n).to_owned()).collect();
    if !filters.is_empty() {
        let managed = |name: &str| {
            view.graph.contains_key(&Id::kernel(name)) || !view.seen.link(name).is_some_and(|i| i.is_ignored())
        };
        let links = view.seen.facts.links.iter().map(|l| &l.name);
        let profiles = view
            .seen
            .ids_with_profiles()
            .filter(|id| id.space == Space::Kernel)
            .map(|id| &id.name);
        names.extend(links.chain(profiles).filter(|n| managed(n)).cloned());
    }
    for (id, touched) in view.graph.iter().filter(|(_, t)| t.wish.is_up()) {
        // new addresses may strand routes; an interface that gets its first profile takes the kernel's routes along
        let wish = &touched.wish;
        let addressed = [&wish.ipv4, &wish.ipv6]
            .into_iter()
            .flatten()
            .any(|ip| ip.address.is_some());
        let first = Stock::of(id, view.seen).base.is_none();
        if (addressed || first) && id.space == Space::Kernel && view.seen.facts.link(&id.name).is_some() {
            names.insert(id.name.clone());
        }
    }
    names
}

/// Routes that an interface's profile holds; without a profile, those that the kernel has from elsewhere.
fn held(view: &View<'_>, name: &str, kernel: &Kernel<'_>) -> Vec<Held> {
    let running = kernel.of_keeper(name);
    let Some(base) = Stock::of(&Id::kernel(name), view.seen).base else {
        let leads_there = running.iter().filter(|r| r.route_type.is_none());
        return leads_there.map(|r| Held::new(r)).collect();
    };
    let mut all = vec![];
    for (section, any) in [("ipv4", "0.0.0.0/0"), ("ipv6", "::/0")] {
        let table = base.profile.int(section, "route-table").and_then(|t| t.try_into().ok());
        let table = table.filter(|t| *t != 0).unwrap_or(route::MAIN);
        for data in base.profile.dicts(section, "route-data") {
            if let Some(mut route) = Route::from_nm(data, name, table) {
                let shown = running.iter().find(|r| route.metric.is_none() && route.same_place(r));
                route.metric = route.metric.or(shown.and_then(|r| r.metric));
                all.push(Held {
                    data: data.clone(),
                    route,
                });
            }
        }
        if let Some(gateway) = base.profile.str(section, "gateway") {
            let mut route = Route {
                destination: Some(any.to_owned()),
                next_hop_interface: Some(name.to_owned()),
                next_hop_address: Some(gateway.to_owned()),
                table_id: Some(table),
                ..Route::default()
            };
            let data = route.to_nm();
            route.metric = running.iter().find(|r| route.same_place(r)).and_then(|r| r.metric);
            all.push(Held { data, route });
        }
    }
    all
}

fn keep(view: &View<'_>, name: &str, asked: &[&Route], filters: &Filters<'_>, kernel: &Kernel<'_>, out: &mut Sections) {
    let id = Id::kernel(name);
    let before = held(view, name, kernel);
    let mut after: Vec<Held> = vec![];
    // removed and asked for in one document is as good as there, if it is no more than that
    let alike = |w: &Route, h: &Route| w.served_by(h) && h.attributes_match(w) && w.weight == h.weight;
    let stays = |h: &&Held| !filters.hit(&h.route) || asked.iter().any(|w| alike(w, &h.route));
    for have in before.iter().filter(stays) {
        match stranded(view, &have.route, name) {
            Some(why) => out.lines.push(why),
            None => after.push(have.clone()),
        }
    }
    settle(asked, &mut after);
    let adopted = Stock::of(&id, view.seen).base.is_none() && !before.is_empty();
    if after == before && !adopted {
        return;
    }
    let touched = view.graph.contains_key(&id) || !asked.is_empty() || before.iter().any(|h| filters.hit(&h.route));
    if touched {
        let entry = |h: Held| Entry {
            ipv6: h.route.is_ipv6(),
            data: h.data,
        };
        out.extra.entry(id).or_default().routes = Some(after.into_iter().map(entry).collect());
    }
}

/// Lays each wish over the route that stands in its place, or adds it. Wishes that ask for most choose first.
fn settle(asked: &[&Route], after: &mut Vec<Held>) {
    let (mut taken, mut done): (Vec<bool>, Vec<Route>) = (vec![false; after.len()], vec![]);
    let serves =
        |wish: &Route, h: &Held| wish.served_by(&h.route) && (wish.weight.is_none() || wish.weight == h.route.weight);
    let mut order: Vec<&&Route> = asked.iter().collect();
    order.sort_by_key(|w| std::cmp::Reverse(w.demands()));
    for wish in order {
        let canonical = wish.canonical();
        if done.contains(&canonical) {
            continue;
        }
        done.push(canonical);
        let free = |at: &usize| !taken[*at];
        let place = (0..after.len())
            .filter(free)
            .find(|at| serves(wish, &after[*at]))
            .or_else(|| {
                (0..after.len())
                    .filter(free)
                    .find(|at| wish.same_place(&after[*at].route))
            });
        match place {
            Some(at) => {
                if !serves(wish, &after[at]) {
                    after[at].overlay(wish);
                }
                taken[at] = true;
            }
            None => {
                after.push(Held::new(wish));
                taken.push(true);
            }
        }
    }
}

/// Some where the gateway was in a network of the interface and is in none any more: the kernel drops such a route with the address.
/// NetworkManager would keep it, as a gateway on the link that nobody answers for.
fn stranded(view: &View<'_>, route: &Route, name: &str) -> Option<String> {
    let gateway = route.gateway()?;
    let touched = view.graph.get(&Id::kernel(name))?;
    let wish = touched.wish.ip(gateway.is_ipv6()).filter(|ip| !ip.is_auto())?;
    let within = |ip: &Ip| {
        let near = |a: &Addr| IpNet::new(a.ip, a.prefix_length).is_ok_and(|n| n.contains(&gateway));
        ip.address.iter().flatten().any(near)
    };
    let current = view.seen.link(name)?.ip(gateway.is_ipv6())?;
    let lost = wish.address.is_some() && within(current) && !within(wish);
    lost.then(|| gone(route, "with the address that reached its gateway"))
}

fn gone(route: &Route, why: &str) -> String {
    format!("{} → gone {why}", text(route))
}

fn text(route: &Route) -> String {
    let to = route.destination.as_deref().unwrap_or_default();
    let kind = route.route_type.map(|t| format!("{} ", t.word())).unwrap_or_default();
    let via = route.gateway().map(|g| format!(" via {g}")).unwrap_or_default();
    format!("routes: {kind}{to}{via} dev {}", route.keeper())
}

const FOREIGN: &str = "it was not made by NetworkManager, which cannot remove it ('ip route del' can)";

/// Routes that go because their interface goes, becomes a port or loses the IP family.
fn lost(view: &View<'_>, kernel: &Kernel<'_>, filters: &Filters<'_>, out: &mut Sections) {
    for id in view.graph.keys().filter(|id| id.space == Space::Kernel) {
        let now = view.seen.interface(id);
        let has = |ipv6| now.and_then(|c| c.ip(ipv6)).is_some_and(|ip| ip.is_enabled());
        for route in kernel.of_keeper(&id.name).iter().filter(|r| !filters.hit(r)) {
            if has(route.is_ipv6()) && view.family(id, route.is_ipv6()).is_err() {
                out.lines.push(gone(route, &format!("with the IP of {}", id.name)));
            }
        }
    }
}

/// A profile that is right and a kernel that is not: NetworkManager has to apply the profile again.
fn mend(view: &View<'_>, wishes: &[(usize, &Route)], filters: &Filters<'_>, kernel: &Kernel<'_>, out: &mut Sections) {
    let running = view.seen.state.routes.iter().flat_map(|r| r.running.iter().flatten());
    let running: Vec<&Route> = running.collect();
    let present: Vec<&Route> = wishes.iter().map(|(_, w)| *w).filter(|w| !w.is_absent()).collect();
    let missing = unserved(&present, &running).into_iter().map(|at| present[at].keeper());
    let mut by_destination: HashMap<Option<&str>, Vec<&Route>> = HashMap::new();
    for wish in &present {
        by_destination
            .entry(wish.destination.as_deref())
            .or_default()
            .push(wish);
    }
    let wanted = |have: &Route| {
        let near = by_destination.get(&have.destination.as_deref());
        near.into_iter().flatten().any(|w| w.served_by(have))
    };
    let mut left: Vec<&str> = vec![];
    if !filters.is_empty() {
        let all = kernel
            .0
            .iter()
            .flat_map(|(name, routes)| routes.iter().map(move |r| (*name, r)));
        let ours = held_special(view.seen);
        let foreign = |r: &Route| r.route_type.is_some() && !ours.iter().any(|o| o.same_place(r));
        for (name, route) in all.filter(|(_, r)| filters.hit(r) && !wanted(r)) {
            match foreign(route) {
                true => out.warnings.push(format!("{} stays: {FOREIGN}", text(route))),
                false => left.push(name),
            }
        }
    }
    for name in missing.chain(left) {
        out.extra.entry(Id::kernel(name)).or_default().reapply = true;
    }
}

fn reachable(view: &View<'_>, wish: &Route, index: usize) -> Result<(), Invalid> {
    let name = wish.keeper();
    let at = format!("routes.config[{index}]");
    if wish.route_type.is_some() {
        return view.loopback_keeps().map_err(|e| e.under(&at));
    }
    let fault = |why: String| Invalid::new(format!("{at}.next-hop-interface"), why);
    let id = Id::kernel(name);
    if view.is_down(&id) {
        return Err(fault(format!(
            "interface '{name}' is down; name it with state: up to change that"
        )));
    }
    view.family(&id, wish.is_ipv6()).map_err(fault)
}

/// The first wish that is not like an earlier one with the same key in what `same` gives, and the place of that in the document.
fn unlike<'a, K: Eq + Hash, S: PartialEq>(
    wishes: impl Iterator<Item = &'a (usize, &'a Route)>,
    key: impl Fn(&'a Route) -> K,
    same: impl Fn(&'a Route) -> S,
) -> Option<(usize, &'a Route, usize)> {
    let mut first: HashMap<K, (usize, S)> = HashMap::new();
    for (i, wish) in wishes {
        let (other, there) = first.entry(key(wish)).or_insert_with(|| (*i, same(wish)));
        if *there != same(wish) {
            return Some((*i, wish, *other));
        }
    }
    None
}

/// The kernel takes one route that swallows packets for each destination, table and metric.
fn one_a_place(wishes: &[(usize, &Route)]) -> Result<(), Invalid> {
    let kept = wishes.iter().filter(|(_, w)| !w.is_absent() && w.route_type.is_some());
    let Some((i, wish, _)) = unlike(kept, Route::place, |w| w.route_type) else {
        return Ok(());
    };
    let to = wish.destination.as_deref().unwrap_or_default();
    let why = format!("another entry swallows packets to {to} otherwise, with the same table and metric");
    Err(Invalid::new(format!("routes.config[{i}].route-type"), why))
}

/// NetworkManager joins routes with weights into one of several hops where all else is the same; where it is not, the kernel uses the first alone.
fn hops_are_alike(wishes: &[(usize, &Route)]) -> Result<(), Invalid> {
    let kept = wishes.iter().filter(|(_, w)| !w.is_absent() && w.weight.is_some());
    let Some((i, _, other)) = unlike(kept, Route::place, Route::without_hop) else {
        return Ok(());
    };
    let why = format!(
        "shares the traffic to its destination with routes.config[{other}], which has other properties than weight and next hop"
    );
    Err(Invalid::new(format!("routes.config[{i}]"), why))
}

/// The kernel takes one IPv6 route for each destination, table, metric and next hop (`rt6_duplicate_nexthop` in net/ipv6/ip6_fib.c).
fn one_ipv6_route_a_hop(wishes: &[(usize, &Route)]) -> Result<(), Invalid> {
    let kept = |w: &Route| !w.is_absent() && w.route_type.is_none() && w.is_ipv6();
    let kept = wishes.iter().filter(|(_, w)| kept(w));
    let Some((i, _, other)) = unlike(kept, |w| (w.place(), w.keeper(), w.gateway()), Route::canonical) else {
        return Ok(());
    };
    let why =
        format!("routes.config[{other}] leads the same way with other properties, and the kernel keeps one such route");
    Err(Invalid::new(format!("routes.config[{i}]"), why))
}
