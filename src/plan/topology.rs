//! Who is port of whom, who stands on whom, and who is touched without being named.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use crate::error::{ErrorKind, Invalid};
use crate::facts::SavedProfile;
use crate::observation::Observation;
use crate::scalar::{self, Id, Space};
use crate::state::NetworkState;
use crate::state::iface::{Companion, Interface, State};
use crate::state::part::ip::Ip;

use super::Options;
use super::companions;
use super::profiles::{self, Stock};
use super::resolve::Resolved;

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
pub fn spread(resolved: &Resolved, seen: &Observation, options: Options) -> Result<Graph, Invalid> {
    let mut graph: Graph = BTreeMap::new();
    let wishes = &resolved.state;
    for wish in &wishes.interfaces {
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
    join_controllers(&mut graph, wishes, seen)?;
    if options.override_iface {
        // the text is all there is to them: what it leaves out, membership too, goes
        let unclaimed = |t: &&mut Touched| t.named && t.wish.is_up() && t.member == Membership::Keeps;
        let left = graph.values_mut().filter(unclaimed);
        left.for_each(|t| t.member = Membership::Leaves);
    }
    free_ports(&mut graph, resolved, seen, options)?;
    companions::empty(&mut graph, seen);
    companions::leftovers(&mut graph, wishes, seen);
    companions::belong(&graph, seen)?;
    pair_veths(&mut graph, wishes, seen)?;
    orphans(&mut graph, seen);
    strip_ip(&mut graph, wishes, seen)?;
    no_ip_on_ports(&graph, seen)?;
    parents_exist(&graph, seen)?;
    depth_check(&graph, seen)?;
    down_with_their_controller(&mut graph, seen);
    let anew = made_anew(&graph, seen);
    renew(&mut graph, anew, seen);
    Ok(graph)
}

/// A port cannot be up while its controller is down; it comes up with it again.
fn down_with_their_controller(graph: &mut Graph, seen: &Observation) {
    let goes = |id: &Id| {
        let controller = graph.get(&controller_after(id, graph, seen)?)?;
        (controller.wish.base.state == Some(State::Down)).then(|| controller.wish.name().to_owned())
    };
    let ports: Vec<(Id, String)> = graph
        .iter()
        .filter(|(_, t)| t.named && t.wish.is_up())
        .filter_map(|(id, _)| Some((id.clone(), goes(id)?)))
        .collect();
    for (id, controller) in ports {
        if let Some(touched) = graph.get_mut(&id) {
            touched.wish.base.state = Some(State::Down);
            touched.because = format!("down with its controller {controller}");
        }
    }
}

/// Links that must be made anew for a change.
fn made_anew(graph: &Graph, seen: &Observation) -> Vec<Id> {
    let anew = |(id, touched): (&Id, &Touched)| {
        let now = seen.interface(id)?;
        (touched.wish.is_up() && touched.wish.kind.must_recreate(&now.kind)).then(|| id.clone())
    };
    graph.iter().filter_map(anew).collect()
}

/// What hangs on a link that goes down and up again has to be brought up anew after it.
pub fn renew(graph: &mut Graph, mut made: Vec<Id>, seen: &Observation) {
    if made.is_empty() {
        return;
    }
    let mut hanging: HashMap<Id, Vec<&Interface>> = HashMap::new();
    for interface in seen.state.interfaces.iter().filter(|i| !i.kind.nm_type().is_empty()) {
        for above in stands_after(&interface.id(), graph, seen) {
            hanging.entry(above).or_default().push(interface);
        }
    }
    while let Some(above) = made.pop() {
        for interface in hanging.remove(&above).unwrap_or_default() {
            let id = interface.id();
            let left = graph.get(&id).is_none_or(|t| !t.renewed && t.wish.is_up());
            if left && seen.facts.device_of(&id).is_some_and(|d| d.state > 30) {
                implied(graph, &id, seen, format!("{above} is made anew")).renewed = true;
                made.push(id);
            }
        }
    }
}

fn implied<'a>(graph: &'a mut Graph, id: &Id, seen: &Observation, because: String) -> &'a mut Touched {
    graph.entry(id.clone()).or_insert_with(|| {
        let kind = seen.interface(id).map_or("ethernet", |i| i.kind.type_name());
        Touched::implied(Interface::bare(&id.name, kind), because)
    })
}

/// Ports that a controller lists.
fn claim_ports(graph: &mut Graph, resolved: &Resolved, seen: &Observation) -> Result<(), Invalid> {
    let mut claimed: BTreeMap<String, String> = BTreeMap::new();
    for controller in resolved.state.interfaces.iter().filter(|i| i.is_up()) {
        let mut mine = vec![];
        for (i, port) in controller.kind.ports().unwrap_or_default().into_iter().enumerate() {
            let at = format!(
                "interfaces[{}].{}[{i}]",
                controller.name(),
                controller.kind.ports_path()
            );
            let fault = |why: String| Invalid::new(&at, why);
            let id = Id::kernel(&port);
            if may_only_stay(controller, &port, graph, resolved, seen).map_err(fault)? {
                continue;
            }
            claimable(controller, &port, graph, seen).map_err(fault)?;
            if let Some(other) = claimed.insert(port.clone(), controller.name().to_owned()) {
                return Err(fault(match other == controller.name() {
                    true => format!("port '{port}' is listed twice"),
                    false => format!("port '{port}' is also listed by interfaces[{other}]"),
                }));
            }
            let because = format!("port of {}", controller.name());
            if graph.contains_key(&id) || seen.interface(&id).is_some() {
                implied(graph, &id, seen, because);
            } else if let Some(made) = controller.kind.makes_port(controller.name(), &port) {
                graph.insert(id.clone(), Touched::implied(made, because));
            }
            mine.push(id);
        }
        attach(graph, controller, mine);
    }
    Ok(())
}

/// What is not ours to move may be listed where it is: what the document says to leave alone, or a hypervisor's tap, which NetworkManager
/// cannot put anywhere.
fn may_only_stay(
    controller: &Interface,
    port: &str,
    graph: &Graph,
    resolved: &Resolved,
    seen: &Observation,
) -> Result<bool, String> {
    let id = Id::kernel(port);
    let ignored = resolved.ignored.contains(port);
    let foreign = seen
        .interface(&id)
        .filter(|i| i.kind.nm_type().is_empty() && !graph.contains_key(&id));
    if !ignored && foreign.is_none() {
        return Ok(false);
    }
    match (controller_now(&id, seen) == Some(controller.id()), foreign) {
        (true, _) => Ok(true),
        (false, _) if ignored => Err(format!(
            "port '{port}' is listed here, but interfaces[{port}].state is ignore"
        )),
        (false, foreign) => Err(format!(
            "port '{port}' is of type {}, which cannot be configured",
            foreign.map_or("unknown", |f| f.kind.type_name())
        )),
    }
}

/// It is in the list of ports already, down or unknown to the kernel as it may be, and nothing else is asked of it.
fn is_port_now(controller: &Interface, port: &Id, graph: &Graph, seen: &Observation) -> bool {
    let listed = seen.interface(&controller.id()).and_then(|c| c.kind.ports());
    let there = listed.is_some_and(|ports| ports.contains(&port.name));
    let current = seen.interface(port);
    let asked = graph.get(port).filter(|t| t.named);
    there
        && match (asked, current) {
            (None, None) => true,
            (Some(t), Some(now)) => t.wish.base.state == Some(State::Down) && now.base.state == Some(State::Down),
            _ => false,
        }
}

/// Why a listed port cannot be claimed.
fn claimable(controller: &Interface, port: &str, graph: &Graph, seen: &Observation) -> Result<(), String> {
    let id = Id::kernel(port);
    let makes = || controller.kind.makes_port(controller.name(), port).is_some();
    match graph.get(&id) {
        // it is where it is
        _ if is_port_now(controller, &id, graph, seen) => Ok(()),
        None if seen.interface(&id).is_none() && !makes() => Err(format!(
            "port '{port}' does not exist on the node and is not in this document"
        )),
        None if seen.interface(&id).is_none() => scalar::bad_interface_name(port).map_or(Ok(()), Err),
        Some(t) if t.wish.is_absent() => Err(format!("port '{port}' is made absent by the same document")),
        Some(t) if !t.wish.is_up() => Err(format!("port '{port}' is taken down by the same document")),
        Some(t) => match t.wish.base.controller.as_deref() {
            Some("") => Err(format!(
                "port '{port}' is listed here, but interfaces[{port}].controller detaches it"
            )),
            Some(other) if other != controller.name() => Err(format!(
                "port '{port}' is listed here, but interfaces[{port}].controller names {other}"
            )),
            _ if id == controller.id() => Err("an interface cannot be its own port".to_owned()),
            _ => takes(controller, &t.wish),
        },
        None => seen.interface(&id).map_or(Ok(()), |port| takes(controller, port)),
    }
}

fn takes(controller: &Interface, port: &Interface) -> Result<(), String> {
    if port.kind.stays_up() {
        return Err(format!("{} cannot be a port", port.name()));
    }
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
        let name = wanted.clone();
        let spaces = [Id::kernel(&name), Id::in_space(&name, Space::OvsBridge)];
        let mut named = spaces
            .iter()
            .filter_map(|id| graph.get(id))
            .filter(|t| t.wish.kind.is_controller())
            .collect::<Vec<_>>();
        // of a bridge of the kernel and one of Open vSwitch with one name, the one that lists it is meant
        let lists = |t: &&Touched| t.wish.kind.ports().is_none_or(|p| p.iter().any(|p| p == port.name()));
        named.sort_by_key(|t| !lists(t));
        let named = named.first().copied();
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
        if listed.is_some_and(|p| !p.iter().any(|p| p == port.name())) {
            return Err(fault(format!(
                "interfaces[{name}] lists its ports without {}",
                port.name()
            )));
        }
        let controller = controller.clone();
        if Stock::of(&controller.id(), seen).base.is_none() {
            // what nobody keeps would not be there to join after a reboot
            implied(graph, &controller.id(), seen, format!("controller of {}", port.name()));
        }
        join_one(graph, port, controller, seen);
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
fn free_ports(graph: &mut Graph, resolved: &Resolved, seen: &Observation, options: Options) -> Result<(), Invalid> {
    for wish in &resolved.state.interfaces {
        let Some(current) = seen.interface(&wish.id()) else {
            continue;
        };
        let listed = wish.kind.ports();
        let none_left = wish.is_absent() || (options.override_iface && wish.is_up());
        if !none_left && listed.is_none() {
            continue;
        }
        let listed: BTreeSet<String> = listed.unwrap_or_default().into_iter().collect();
        for port in current.kind.ports().unwrap_or_default() {
            let id = Id::kernel(&port);
            // a tap that a hypervisor put there is its own business
            let others = seen.facts.device(&port).is_none_or(|d| d.external() || d.state <= 10);
            let settled = |t: &Touched| t.member != Membership::Keeps || t.wish.is_absent();
            let kept = seen.interface(&id).is_some_and(|p| wish.kind.keeps_extra(p));
            if listed.contains(&port)
                || resolved.ignored.contains(&port)
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
        true => Err(Invalid::of(
            ErrorKind::NotSupportedError,
            format!("interfaces[{}].bridge.allow-extra-ports", wish.name()),
            format!(
                "port '{port}' was put there with ovs-vsctl or by another program; NetworkManager cannot take it out"
            ),
        )),
        false => Ok(foreign),
    }
}

/// A veth's other end is made with it, and goes with it or when another one takes its place.
fn pair_veths(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for wish in &resolved.interfaces {
        let because = format!("other end of {}", wish.name());
        let managed = |id: &Id| seen.facts.device_of(id).is_some_and(|d| d.state > 10);
        let had = seen.interface(&wish.id()).and_then(|c| c.kind.peer());
        if wish.is_up() {
            let replaced = had.filter(|old| wish.kind.peer().is_some_and(|new| new != *old));
            if let Some(old) = replaced.map(Id::kernel).filter(managed) {
                let touched = implied(graph, &old, seen, because.clone());
                if !touched.named {
                    touched.wish.base.state = Some(State::Absent);
                }
            }
            if let Some(taken) = taken_end(wish, graph, seen) {
                return Err(Invalid::new(format!("interfaces[{}].veth.peer", wish.name()), taken));
            }
            let new = |other: &Interface| seen.facts.link(other.name()).is_none();
            if let Some(other) = other_end(wish, seen).filter(new) {
                let id = other.id();
                graph.entry(id).or_insert_with(|| Touched::implied(other, because));
            }
            continue;
        }
        let Some(peer) = had.map(Id::kernel).filter(managed) else {
            continue;
        };
        let stays = |t: &Touched| t.named && t.wish.is_up() && t.wish.kind.peer().is_none_or(|p| p == wish.name());
        if graph.get(&peer).is_some_and(stays) {
            let why = format!(
                "it goes with its other end {}, which the same document takes away",
                wish.name()
            );
            return Err(Invalid::new(format!("interfaces[{}]", peer.name), why));
        }
        // one that is down stays in the hands of whoever put it there
        let there = seen.interface(&peer).is_some_and(Interface::is_up);
        if wish.is_absent() || (wish.base.state == Some(State::Down) && there) {
            let touched = implied(graph, &peer, seen, because);
            if !touched.named {
                touched.wish.base.state = wish.base.state;
            }
        }
    }
    Ok(())
}

/// Why what the wish calls its other end cannot become that: the kernel makes both ends at once.
fn taken_end(wish: &Interface, graph: &Graph, seen: &Observation) -> Option<String> {
    let other = wish.kind.other_end(wish.name())?;
    let (peer, id) = (other.name(), other.id());
    let is = |i: &Interface| match i.kind.peer() {
        Some(end) => format!("the other end of {end}"),
        None => format!("of type {}", i.kind.type_name()),
    };
    let named = graph.get(&id).filter(|t| t.named && t.wish.is_up());
    let current = seen.interface(&id);
    let ends_here = |i: &Interface| i.kind.peer() == Some(wish.name());
    match (named, current) {
        (_, Some(now)) if ends_here(now) => None,
        (Some(named), _) if ends_here(&named.wish) => None,
        (Some(named), None) => Some(format!("{peer} is to be {} in the same document", is(&named.wish))),
        (_, Some(now)) => Some(format!("{peer} exists and is {}; give it another name", is(now))),
        (None, None) => None,
    }
}

/// The other end of a pair, as the wish, or the profile of one that is down, says.
fn other_end(wish: &Interface, seen: &Observation) -> Option<Interface> {
    let kept = || {
        let gone = seen.facts.link(wish.name()).is_none();
        let profile = Stock::of(&wish.id(), seen).base.filter(|_| gone)?;
        wish.kind.from_profile(&profile.profile).other_end(wish.name())
    };
    wish.kind.other_end(wish.name()).or_else(kept)
}

/// The state in which a link of software is no more, where the plan brings it there.
pub(super) fn goes(id: &Id, graph: &Graph, seen: &Observation) -> Option<State> {
    let state = graph.get(id).and_then(|t| t.wish.base.state);
    let link = seen.interface(id).is_some_and(|i| i.kind.is_virtual()) && id.space == Space::Kernel;
    state.filter(|s| link && matches!(s, State::Absent | State::Down))
}

/// What stands on something virtual goes with it, level by level: for good, or until its base is up again.
fn orphans(graph: &mut Graph, seen: &Observation) {
    let mut gone: Vec<(Id, State)> = graph
        .keys()
        .filter_map(|id| Some((id.clone(), goes(id, graph, seen)?)))
        .collect();
    if gone.is_empty() {
        return;
    }
    let mut stand_on: HashMap<String, Vec<&Interface>> = HashMap::new();
    for child in seen.state.interfaces.iter().filter(|i| i.kind.is_virtual()) {
        for parent in child.kind.parents() {
            stand_on.entry(parent).or_default().push(child);
        }
    }
    // what is absent decides before what is only down
    gone.sort_by_key(|(_, state)| *state == State::Absent);
    while let Some((parent, state)) = gone.pop() {
        for child in stand_on.remove(&parent.name).unwrap_or_default() {
            let id = child.id();
            let parents = graph.get(&id).map(|t| t.wish.kind.parents()).unwrap_or_default();
            let moved = !parents.is_empty() && !parents.iter().any(|p| goes(&Id::kernel(p), graph, seen).is_some());
            if moved || graph.get(&id).is_some_and(|t| t.named || t.wish.is_absent()) {
                continue; // one that is named and to be up is refused below
            }
            let touched = implied(graph, &id, seen, format!("stands on {}", parent.name));
            touched.wish.base.state = Some(state);
            gone.push((id, state));
        }
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

/// Only for a link that is not there.
fn made_up(id: &Id) -> String {
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("mac://{}", id.name).as_bytes());
    format!("02:{}", scalar::mac_text(&hash.as_bytes()[..5]))
}

/// One MAC address for all: as written for the interface above or for one of the links, else that of the first link. One that is yet to be made
/// gets the same each time: locally administered (IEEE 802, second bit of the first byte), from its name.
fn share_mac(graph: &mut Graph, above: &Interface, links: &[Id], seen: &Observation) -> Result<(), Invalid> {
    // what they have already asks for nothing
    let there = seen.interface(&above.id()).is_some();
    let written: Vec<(&str, String)> = std::iter::once(above)
        .chain(
            links
                .iter()
                .filter_map(|id| graph.get(id).filter(|t| t.named).map(|t| &t.wish)),
        )
        .filter_map(|i| Some((i.name(), i.base.mac_address.clone()?)))
        .filter(|(name, mac)| !(there && seen.facts.link(name).and_then(|l| l.mac.as_ref()) == Some(mac)))
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
        .or_else(|| now(links.first()?))
        .or_else(|| Some(made_up(links.first()?)));
    for id in links {
        if let Some(touched) = graph.get_mut(id) {
            touched.wish.base.mac_address = mac.clone();
        }
    }
    Ok(())
}

fn no_ip_on_ports(graph: &Graph, seen: &Observation) -> Result<(), Invalid> {
    for (id, touched) in graph {
        let Some(controller) = controller_after(id, graph, seen) else {
            continue;
        };
        let may = ports_carry_ip(&controller, graph, seen).unwrap_or(true);
        if may || touched.wish.is_absent() || touched.wish.kind.needs_controller() {
            continue;
        }
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

/// What a wish stands on is there or in the document. Hardware is there whatever becomes of its profile.
fn parents_exist(graph: &Graph, seen: &Observation) -> Result<(), Invalid> {
    for (id, touched) in graph.iter().filter(|(_, t)| t.named && t.wish.is_up()) {
        for parent in parents_after(id, graph, seen) {
            let base = Id::kernel(&parent);
            let now = seen.interface(&base);
            let soft = |wish: &Interface| now.unwrap_or(wish).kind.is_virtual();
            let why = match graph.get(&base).map(|t| &t.wish) {
                Some(base) if base.is_absent() && soft(base) => "the same document makes absent",
                Some(base) if !base.is_up() && soft(base) => "the same document takes down",
                None if now.is_none() => "does not exist on the node and is not in this document",
                _ => continue,
            };
            let why = format!("it stands on {parent}, which {why}");
            return Err(Invalid::new(format!("interfaces[{}]", touched.wish.name()), why));
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
    let touched = graph.get(id);
    match touched.map(|t| &t.member) {
        Some(Membership::Joins(to)) => Some(to.clone()),
        Some(Membership::Leaves) => None,
        Some(Membership::Keeps) | None => controller_now(id, seen).or_else(|| {
            let wish = touched.map(|t| &t.wish);
            let free = wish.is_some_and(|w| [&w.ipv4, &w.ipv6].into_iter().flatten().any(Ip::is_enabled));
            controller_by_profile(id, graph, seen).filter(|c| !free || ports_carry_ip(c, graph, seen) == Some(true))
        }),
    }
}

/// Whether ports of this controller may have addresses; None where its type is not known.
fn ports_carry_ip(controller: &Id, graph: &Graph, seen: &Observation) -> Option<bool> {
    let there = graph
        .get(controller)
        .map(|t| &t.wish)
        .or_else(|| seen.interface(controller));
    if let Some(there) = there {
        return Some(there.kind.ports_carry_ip());
    }
    let kind = profiles::saved_type(controller, seen)?;
    Some(Interface::bare(&controller.name, kind).kind.ports_carry_ip())
}

/// Whose port an interface that is down would be again: as its profile has it, if that one is there or can be.
fn controller_by_profile(id: &Id, graph: &Graph, seen: &Observation) -> Option<Id> {
    if seen.facts.active(id).is_some() {
        return None;
    }
    let base = Stock::of(id, seen).base?;
    let master = base.profile.str("connection", "master").filter(|m| !m.is_empty())?;
    let named = || match base.profile.str("connection", "slave-type") {
        Some("ovs-port") => Id::in_space(master, Space::OvsPort),
        Some("ovs-bridge") => Id::in_space(master, Space::OvsBridge),
        _ => Id::kernel(master),
    };
    let controller = seen.facts.profile(master).and_then(|p| p.id()).unwrap_or_else(named);
    let known = graph.contains_key(&controller)
        || seen.interface(&controller).is_some()
        || Stock::of(&controller, seen).base.is_some();
    known.then_some(controller)
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

/// The controller and the parents of an interface, as they are.
pub fn stands_on(id: &Id, seen: &Observation) -> Vec<Id> {
    stands_after(id, &Graph::new(), seen)
}

/// The controller and the parents of an interface, as they will be.
fn stands_after(id: &Id, graph: &Graph, seen: &Observation) -> Vec<Id> {
    let mut above: Vec<Id> = parents_after(id, graph, seen).into_iter().map(Id::kernel).collect();
    above.extend(controller_after(id, graph, seen));
    above
}

/// What it will stand on: as asked for, else as it is.
pub fn parents_after(id: &Id, graph: &Graph, seen: &Observation) -> Vec<String> {
    let wish = graph.get(id).map(|t| t.wish.kind.parents()).unwrap_or_default();
    match wish.is_empty() {
        true => seen.interface(id).map(|c| c.kind.parents()).unwrap_or_default(),
        false => wish,
    }
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
    use crate::plan::resolve::resolve;

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
        let spread = |wish: &NetworkState| {
            let seen = host.now();
            spread(&resolve(wish, &seen, Options::default())?, &seen, Options::default())
        };
        let graph = spread(&bridge("br0")).unwrap();
        let touched: Vec<&str> = graph.keys().map(|id| id.name.as_str()).collect();
        assert_eq!(touched, ["br0", "eth1"]);
        let fault = spread(&bridge("br1")).unwrap_err();
        assert!(fault.to_string().contains("tun"), "{fault}");
    }
}
