//! Who is port of whom, who stands on whom, and who is touched without being named.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Invalid;
use crate::facts::SavedProfile;
use crate::host::Observation;
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::state::iface::{Companion, Interface, State};
use crate::state::part::ip::Ip;

use super::companions;
use super::resolve::kernel_name;

/// Whose port an interface is after the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Membership {
    /// Whosever it is.
    #[default]
    Keeps,
    /// Nobody's.
    Leaves,
    /// This one's.
    Joins(Id),
}

/// An interface that the plan touches.
#[derive(Debug, Clone)]
pub struct Touched {
    /// The wish; for one touched by implication what follows for it.
    pub wish: Interface,
    /// Named by the user.
    pub named: bool,
    /// Its controller after the plan.
    pub member: Membership,
    /// Why it is touched, where it was not named.
    pub because: String,
    /// What it hangs on is made anew, and it with it.
    pub renewed: bool,
}

impl Touched {
    fn implied(wish: Interface, because: String) -> Self {
        Touched {
            wish,
            named: false,
            member: Membership::Keeps,
            because,
            renewed: false,
        }
    }
}

/// Every touched interface.
pub type Graph = BTreeMap<Id, Touched>;

/// Spreads the wish over ports, peers, children and members of what goes away.
pub fn spread(resolved: &NetworkState, seen: &Observation) -> Result<Graph, Invalid> {
    let mut graph: Graph = BTreeMap::new();
    for wish in &resolved.interfaces {
        let entry = Touched {
            wish: wish.clone(),
            named: true,
            member: Membership::Keeps,
            because: String::new(),
            renewed: false,
        };
        graph.insert(wish.id(), entry);
    }
    claim_ports(&mut graph, resolved, seen)?;
    join_controllers(&mut graph, resolved, seen)?;
    free_ports(&mut graph, resolved, seen)?;
    companions::empty(&mut graph, seen);
    companions::leftovers(&mut graph, resolved, seen);
    companions::belong(&graph, seen)?;
    pair_veths(&mut graph, resolved, seen);
    orphans(&mut graph, seen)?;
    strip_ip(&mut graph, resolved, seen)?;
    no_ip_on_ports(&mut graph, seen)?;
    parents_exist(&graph, resolved, seen)?;
    depth_check(&graph, seen)?;
    renew(&mut graph, seen);
    Ok(graph)
}

/// What hangs on a link that must be made anew has to be brought up anew after it.
fn renew(graph: &mut Graph, seen: &Observation) {
    let anew = |graph: &Graph, id: &Id| {
        let Some((touched, now)) = graph.get(id).zip(seen.interface(id)) else {
            return false;
        };
        touched.renewed || (touched.wish.is_up() && touched.wish.kind.must_recreate(&now.kind))
    };
    if !graph.keys().any(|id| anew(graph, id)) {
        return;
    }
    loop {
        let hangs = |i: &&Interface| {
            let id = i.id();
            let left = graph.get(&id).is_none_or(|t| !t.renewed && t.wish.is_up());
            left && seen.facts.device_of(&id).is_some_and(|d| d.state > 30)
                && !i.kind.nm_type().is_empty()
                && stands_after(&id, graph, seen).iter().any(|above| anew(graph, above))
        };
        let Some(found) = seen.state.interfaces.iter().find(hangs) else {
            return;
        };
        let above = stands_after(&found.id(), graph, seen)
            .into_iter()
            .find(|a| anew(graph, a));
        let because = format!("{} is made anew", above.unwrap_or_default());
        implied(graph, &found.id(), seen, because).renewed = true;
    }
}

fn implied<'a>(graph: &'a mut Graph, id: &Id, seen: &Observation, because: String) -> &'a mut Touched {
    graph.entry(id.clone()).or_insert_with(|| {
        let kind = seen.interface(id).map_or("ethernet", |i| i.kind.type_name());
        Touched::implied(Interface::bare(&id.name, kind), because)
    })
}

/// Ports that a controller lists.
fn claim_ports(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    let mut claimed: BTreeMap<String, String> = BTreeMap::new();
    for controller in resolved.interfaces.iter().filter(|i| i.is_up()) {
        let mut mine = vec![];
        for (i, listed) in controller.kind.ports().unwrap_or_default().into_iter().enumerate() {
            let at = format!(
                "interfaces[{}].{}[{i}]",
                controller.name(),
                controller.kind.ports_path()
            );
            let port = kernel_name(&listed, seen).to_owned();
            claimable(controller, &listed, &port, graph, seen).map_err(|why| Invalid::new(&at, why))?;
            if let Some(other) = claimed.insert(port.clone(), controller.name().to_owned()) {
                return Err(Invalid::new(
                    at,
                    format!("port '{listed}' is also listed by interfaces[{other}]"),
                ));
            }
            let id = Id::kernel(port);
            let bare = |i: &&Interface| i.kind.nm_type().is_empty() && !graph.contains_key(&id);
            if let Some(other) = seen.interface(&id).filter(bare) {
                // a hypervisor's tap may be listed where it is, but NetworkManager cannot put it anywhere
                if controller_now(&id, seen) == Some(controller.id()) {
                    continue;
                }
                let why = format!(
                    "port '{listed}' is of type {}, which cannot be configured",
                    other.kind.type_name()
                );
                return Err(Invalid::new(at, why));
            }
            if graph.contains_key(&id) || seen.interface(&id).is_some() {
                implied(graph, &id, seen, format!("port of {}", controller.name()));
            } else if let Some(made) = controller.kind.makes_port(controller.name(), &id.name) {
                let because = format!("port of {}", controller.name());
                graph.insert(id.clone(), Touched::implied(made, because));
            }
            mine.push(id);
        }
        attach(graph, controller, mine);
    }
    Ok(())
}

/// Why a listed port cannot be claimed.
fn claimable(
    controller: &Interface,
    listed: &str,
    port: &str,
    graph: &Graph,
    seen: &Observation,
) -> Result<(), String> {
    let id = Id::kernel(port);
    match graph.get(&id) {
        None if seen.interface(&id).is_none() && controller.kind.makes_port(controller.name(), port).is_none() => Err(
            format!("port '{listed}' does not exist on the node and is not in this document"),
        ),
        Some(t) if t.wish.is_absent() => Err(format!("port '{listed}' is made absent by the same document")),
        Some(t) => match t.wish.base.controller.as_deref() {
            Some("") => Err(format!(
                "port '{listed}' is listed here, but interfaces[{port}].controller detaches it"
            )),
            Some(other) if other != controller.name() => Err(format!(
                "port '{listed}' is listed here, but interfaces[{port}].controller names {other}"
            )),
            _ if id == controller.id() => Err("an interface cannot be its own port".to_owned()),
            _ => takes(controller, &t.wish),
        },
        None => seen.interface(&id).map_or(Ok(()), |port| takes(controller, port)),
    }
}

fn takes(controller: &Interface, port: &Interface) -> Result<(), String> {
    controller.kind.refuses_port(port.kind.type_name()).map_or(Ok(()), Err)
}

/// Makes ports members of their controller, or of the companions between.
fn attach(graph: &mut Graph, controller: &Interface, ports: Vec<Id>) {
    let join = |graph: &mut Graph, port: &Id, to: &Id| {
        if let Some(t) = graph.get_mut(port) {
            t.member = Membership::Joins(to.clone());
        }
    };
    let Some(companions) = controller.kind.companions() else {
        ports.iter().for_each(|port| join(graph, port, &controller.id()));
        return;
    };
    for Companion { interface, ports } in companions {
        let id = interface.id();
        let between = Touched {
            member: Membership::Joins(controller.id()),
            ..Touched::implied(interface, format!("port of {}", controller.name()))
        };
        graph.insert(id.clone(), between);
        ports.iter().for_each(|port| join(graph, &Id::kernel(port), &id));
    }
}

/// Interfaces that name their controller.
fn join_controllers(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for port in resolved.interfaces.iter().filter(|i| i.is_up()) {
        let Some(wanted) = port.base.controller.clone() else {
            continue;
        };
        let fault = |why: String| Invalid::new(format!("interfaces[{}].controller", port.name()), why);
        if wanted.is_empty() {
            if let Some(t) = graph.get_mut(&port.id()) {
                t.member = Membership::Leaves;
            }
            continue;
        }
        let name = kernel_name(&wanted, seen).to_owned();
        let named = graph
            .values()
            .find(|t| t.wish.name() == name && t.wish.kind.is_controller());
        let Some(controller) = named.map(|t| &t.wish).or_else(|| seen.controller(&name)) else {
            return Err(fault(
                match seen.link(&name).or(graph.get(&Id::kernel(&name)).map(|t| &t.wish)) {
                    Some(other) => format!("'{wanted}' is of type {} and takes no ports", other.kind.type_name()),
                    None => format!("controller '{wanted}' does not exist on the node and is not in this document"),
                },
            ));
        };
        if controller.is_absent() {
            return Err(fault(format!(
                "controller '{wanted}' is made absent by the same document"
            )));
        }
        takes(controller, port).map_err(fault)?;
        let listed = named.and_then(|t| t.wish.kind.ports());
        if listed.is_some_and(|p| !p.iter().any(|p| kernel_name(p, seen) == port.name())) {
            return Err(fault(format!(
                "interfaces[{name}] lists its ports without {}",
                port.name()
            )));
        }
        join_one(graph, port, controller.clone(), seen);
    }
    Ok(())
}

/// `controller` on a port edits the list of the controller's ports by one.
fn join_one(graph: &mut Graph, port: &Interface, mut controller: Interface, seen: &Observation) {
    if controller.kind.ports().is_none()
        && let Some(now) = seen.interface(&controller.id())
    {
        controller = now.clone();
    }
    let already = controller
        .kind
        .ports()
        .unwrap_or_default()
        .iter()
        .any(|p| p == port.name());
    if controller.kind.companions().is_none() {
        if let Some(t) = graph.get_mut(&port.id()) {
            t.member = Membership::Joins(controller.id());
        }
        return;
    }
    if !already {
        let mut names = controller.kind.ports().unwrap_or_default();
        names.push(port.name().to_owned());
        controller.kind.set_ports(&names);
    }
    for companion in controller.kind.companions().unwrap_or_default() {
        if companion.ports.iter().any(|p| p == port.name()) {
            let only = Companion {
                ports: vec![port.name().to_owned()],
                ..companion
            };
            let id = only.interface.id();
            let between = Touched {
                member: Membership::Joins(controller.id()),
                ..Touched::implied(only.interface, format!("port of {}", controller.name()))
            };
            graph.entry(id.clone()).or_insert(between);
            if let Some(t) = graph.get_mut(&port.id()) {
                t.member = Membership::Joins(id);
            }
        }
    }
}

/// Ports that lose their controller: not listed any more, or the controller goes.
fn free_ports(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for wish in &resolved.interfaces {
        let Some(current) = seen.interface(&wish.id()) else {
            continue;
        };
        let listed = wish.kind.ports();
        if !wish.is_absent() && listed.is_none() {
            continue;
        }
        let listed: BTreeSet<String> = listed
            .unwrap_or_default()
            .iter()
            .map(|p| kernel_name(p, seen).to_owned())
            .collect();
        for port in current.kind.ports().unwrap_or_default() {
            let id = Id::kernel(&port);
            // a tap that a hypervisor put there is its own business
            let others = seen.facts.device(&port).is_none_or(|d| d.external() || d.state <= 10);
            let settled = |t: &Touched| t.member != Membership::Keeps || t.wish.is_absent();
            let kept = seen.interface(&id).is_some_and(|p| wish.kind.keeps_extra(p));
            if listed.contains(&port)
                || graph.get(&id).is_some_and(settled)
                || (others && !wish.kind.wants_no_extra_ports())
                || kept
                || foreign(wish, &port, seen)?
            {
                continue;
            }
            let dies = seen.link(&port).is_some_and(|p| p.kind.needs_controller());
            let touched = implied(graph, &id, seen, format!("no longer a port of {}", wish.name()));
            match dies && !touched.named {
                true => touched.wish.base.state = Some(State::Absent),
                false => touched.member = Membership::Leaves,
            }
        }
    }
    Ok(())
}

/// A port in the database of Open vSwitch that is not NetworkManager's: it stays, as nothing of NetworkManager's could take it out.
fn foreign(wish: &Interface, port: &str, seen: &Observation) -> Result<bool, Invalid> {
    let foreign = seen
        .facts
        .ovs_interface(port)
        .is_some_and(|row| row.ids.nm_uuid().is_none());
    match foreign && wish.is_up() && wish.kind.wants_no_extra_ports() {
        true => Err(Invalid::new(
            format!("interfaces[{}].bridge.allow-extra-ports", wish.name()),
            format!(
                "port '{port}' was put there with ovs-vsctl or by another program; NetworkManager cannot take it out"
            ),
        )),
        false => Ok(foreign),
    }
}

/// A veth's other end is made with it, and goes with it or when another one takes its place.
fn pair_veths(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) {
    for wish in &resolved.interfaces {
        let because = || format!("other end of {}", wish.name());
        let had = seen.interface(&wish.id()).and_then(|c| c.kind.peer());
        let replaced = wish.kind.peer().is_some_and(|new| had != Some(new));
        let managed = |p: &&str| seen.facts.device(p).is_some_and(|d| d.state > 10);
        if let Some(peer) = had.filter(managed)
            && (wish.is_absent() || replaced)
        {
            let touched = implied(graph, &Id::kernel(peer), seen, because());
            if !touched.named {
                touched.wish.base.state = Some(State::Absent);
            }
        }
        if let Some(other) = wish.kind.other_end(wish.name())
            && !wish.is_absent()
            && seen.facts.link(other.name()).is_none()
        {
            graph
                .entry(other.id())
                .or_insert_with(|| Touched::implied(other, because()));
        }
    }
}

/// What stands on something virtual goes with it, level by level.
fn orphans(graph: &mut Graph, seen: &Observation) -> Result<(), Invalid> {
    loop {
        let goes = |name: &str| {
            let touched = graph.get(&Id::kernel(name)).filter(|t| t.wish.is_absent());
            touched.is_some() && seen.link(name).is_some_and(|i| i.kind.is_virtual())
        };
        let stands = |i: &&Interface| i.kind.is_virtual() && i.kind.parents().iter().any(|p| goes(p));
        let left = |i: &&Interface| graph.get(&i.id()).is_none_or(|t| !t.wish.is_absent());
        let moved = |i: &&Interface| {
            let parents = graph.get(&i.id()).map(|t| t.wish.kind.parents()).unwrap_or_default();
            !parents.is_empty() && !parents.iter().any(|p| goes(p))
        };
        let found = seen.state.interfaces.iter().find(|i| stands(i) && left(i) && !moved(i));
        let Some(child) = found else { return Ok(()) };
        let parent = child.kind.parents().into_iter().find(|p| goes(p)).unwrap_or_default();
        if graph.get(&child.id()).is_some_and(|t| t.named && t.wish.is_up()) {
            return Err(Invalid::new(
                format!("interfaces[{}]", child.name()),
                format!("it stands on {parent}, which the same document makes absent"),
            ));
        }
        let touched = implied(graph, &child.id(), seen, format!("stands on {parent}"));
        touched.wish.base.state = Some(State::Absent);
    }
}

/// Links that something else stands on in such a way that they lose their IP (the ports of an HSR ring).
fn strip_ip(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    let named = |i: &&Interface| graph.get(&i.id()).is_some_and(|t| t.named);
    let kept: Vec<&Interface> = seen
        .state
        .interfaces
        .iter()
        .filter(|i| !named(i) && i.is_up())
        .collect();
    let kept: Vec<Interface> = kept
        .into_iter()
        .filter(|i| !i.kind.strips_ip().is_empty())
        .cloned()
        .collect();
    for (above, wished) in resolved
        .interfaces
        .iter()
        .map(|i| (i, true))
        .chain(kept.iter().map(|i| (i, false)))
    {
        let links: Vec<Id> = above.kind.strips_ip().into_iter().map(Id::kernel).collect();
        if !above.is_up() || graph.get(&above.id()).is_some_and(|t| t.wish.is_absent()) {
            continue;
        }
        for id in &links {
            if wished && (graph.contains_key(id) || seen.interface(id).is_some()) {
                implied(graph, id, seen, format!("port of {}", above.name()));
            }
            let Some(touched) = graph.get_mut(id).filter(|t| t.wish.is_up()) else {
                continue;
            };
            for (section, ip) in [("ipv4", &mut touched.wish.ipv4), ("ipv6", &mut touched.wish.ipv6)] {
                if ip.as_ref().is_some_and(Ip::is_enabled) {
                    let why = format!(
                        "{} is a port of {} and cannot carry IP addresses",
                        id.name,
                        above.name()
                    );
                    return Err(Invalid::new(format!("interfaces[{}].{section}.enabled", id.name), why));
                }
                *ip = Some(Ip::disabled());
            }
        }
        if wished && above.kind.shares_mac() {
            share_mac(graph, above, &links, seen)?;
        }
    }
    Ok(())
}

/// One MAC address for all: as written for the interface above or for one of the links, else that of the first link.
fn share_mac(graph: &mut Graph, above: &Interface, links: &[Id], seen: &Observation) -> Result<(), Invalid> {
    let written: Vec<(&str, String)> = std::iter::once(above)
        .chain(
            links
                .iter()
                .filter_map(|id| graph.get(id).filter(|t| t.named).map(|t| &t.wish)),
        )
        .filter_map(|i| Some((i.name(), i.base.mac_address.clone()?)))
        .collect();
    if let Some(((one, a), (other, b))) = written
        .iter()
        .zip(written.iter().skip(1))
        .find(|((_, a), (_, b))| a != b)
    {
        let why = format!(
            "its MAC address {b} differs from {a} of {one}; {} needs one for all",
            above.name()
        );
        return Err(Invalid::new(format!("interfaces[{other}].mac-address"), why));
    }
    let now = |id: &Id| seen.facts.link(&id.name).and_then(|l| l.mac.clone());
    let mac = written
        .first()
        .map(|(_, mac)| mac.clone())
        .or_else(|| now(links.first()?));
    for id in links {
        if let Some(touched) = graph.get_mut(id) {
            touched.wish.base.mac_address = mac.clone();
        }
    }
    Ok(())
}

fn no_ip_on_ports(graph: &mut Graph, seen: &Observation) -> Result<(), Invalid> {
    let carries: BTreeMap<Id, bool> = graph
        .iter()
        .map(|(id, t)| (id.clone(), t.wish.kind.ports_carry_ip()))
        .collect();
    let ids: Vec<Id> = graph.keys().cloned().collect();
    for id in ids {
        let Some(controller) = controller_after(&id, graph, seen) else {
            continue;
        };
        let now = || seen.interface(&controller).map(|c| c.kind.ports_carry_ip());
        let may = carries.get(&controller).copied().or_else(now).unwrap_or(true);
        let Some(touched) = graph
            .get(&id)
            .filter(|t| !may && !t.wish.is_absent() && !t.wish.kind.needs_controller())
        else {
            continue;
        };
        // nobody knows the port of Open vSwitch between
        let above = match controller.space {
            Space::OvsPort => controller_after(&controller, graph, seen).unwrap_or(controller),
            _ => controller,
        };
        for (section, ip) in [("ipv4", &touched.wish.ipv4), ("ipv6", &touched.wish.ipv6)] {
            if ip.as_ref().is_some_and(Ip::is_enabled) {
                return Err(Invalid::new(
                    format!("interfaces[{}].{section}.enabled", id.name),
                    format!("{} is a port of {} and cannot carry IP addresses", id.name, above.name),
                ));
            }
        }
    }
    Ok(())
}

/// What a wish stands on is there or in the document.
fn parents_exist(graph: &Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for wish in resolved.interfaces.iter().filter(|i| i.is_up()) {
        for parent in wish.kind.parents() {
            let id = Id::kernel(&parent);
            let why = match graph.get(&id).map(|t| t.wish.is_absent()) {
                Some(false) => continue,
                None if seen.facts.link(&parent).is_some() => continue,
                None => format!("it stands on {parent}, which does not exist on the node and is not in this document"),
                Some(true) => format!("it stands on {parent}, which the same document makes absent"),
            };
            return Err(Invalid::new(format!("interfaces[{}]", wish.name()), why));
        }
    }
    Ok(())
}

/// Whose port an interface is now.
pub fn controller_now(id: &Id, seen: &Observation) -> Option<Id> {
    if let Some(above) = seen.behind(id) {
        return Some(above.clone());
    }
    let Some(current) = seen.interface(id) else {
        return saved_controller(id, seen);
    };
    let name = current.base.controller.as_deref().filter(|c| !c.is_empty())?;
    Some(seen.controller(name).map_or_else(|| Id::kernel(name), Interface::id))
}

/// Whose port an interface that is down will be again, by its profile.
fn saved_controller(id: &Id, seen: &Observation) -> Option<Id> {
    let saved = seen.profiles_of(id).next()?;
    let master = saved.profile.str("connection", "master")?;
    let by_uuid = seen.facts.profile(master).and_then(SavedProfile::id);
    by_uuid.or_else(|| seen.link(master).map(Interface::id))
}

/// Whose port an interface is after the plan.
pub fn controller_after(id: &Id, graph: &Graph, seen: &Observation) -> Option<Id> {
    match graph.get(id).map(|t| &t.member) {
        Some(Membership::Joins(to)) => Some(to.clone()),
        Some(Membership::Leaves) => None,
        Some(Membership::Keeps) | None => controller_now(id, seen),
    }
}

/// How many must be up before this one: controllers 0, their ports 1, …
pub fn depth(id: &Id, graph: &Graph, seen: &Observation) -> usize {
    depth_below(id, graph, seen, 0)
}

/// Circles end here; no kernel stacks that deep (`MAX_NEST_DEV` is 8).
const DEEPEST: usize = 16;

fn depth_below(id: &Id, graph: &Graph, seen: &Observation, level: usize) -> usize {
    if level > DEEPEST {
        return DEEPEST + 1;
    }
    let mut deepest = 0;
    for next in stands_after(id, graph, seen) {
        deepest = deepest.max(1 + depth_below(&next, graph, seen, level + 1));
        if deepest > DEEPEST {
            break; // a circle: every way round it is as long
        }
    }
    deepest
}

/// The controller and the parents of an interface, as they will be.
fn stands_after(id: &Id, graph: &Graph, seen: &Observation) -> Vec<Id> {
    let wish = graph.get(id).map(|t| t.wish.kind.parents()).unwrap_or_default();
    let parents = match wish.is_empty() {
        true => seen.interface(id).map(|c| c.kind.parents()).unwrap_or_default(),
        false => wish,
    };
    let mut above: Vec<Id> = parents.into_iter().map(Id::kernel).collect();
    above.extend(controller_after(id, graph, seen));
    above
}

fn depth_check(graph: &Graph, seen: &Observation) -> Result<(), Invalid> {
    match graph.keys().find(|id| depth(id, graph, seen) > DEEPEST) {
        Some(id) => Err(Invalid::new(
            format!("interfaces[{}]", id.name),
            "controllers and parents form a circle",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn parse(text: &str) -> NetworkState {
        NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap()
    }

    #[test]
    fn a_tap_may_be_listed_where_it_is_and_nowhere_else() {
        let host = FakeHost::with_cards(&["br0 bridge", "tap0 tun", "eth1"]);
        host.meddle(|facts| {
            let bridge = facts.link("br0").map(|l| l.index);
            let tap = facts.links.iter_mut().find(|l| l.name == "tap0");
            tap.unwrap().controller = bridge;
        });
        let bridge = |name: &str| {
            parse(&format!(
                "interfaces: [{{name: {name}, type: linux-bridge, bridge: {{port: [{{name: tap0}}, {{name: eth1}}]}}}}]"
            ))
        };
        let graph = spread(&bridge("br0"), &host.now()).unwrap();
        let touched: Vec<&str> = graph.keys().map(|id| id.name.as_str()).collect();
        assert_eq!(touched, ["br0", "eth1"]);
        let fault = spread(&bridge("br1"), &host.now()).unwrap_err();
        assert!(fault.to_string().contains("tun"), "{fault}");
    }
}
