//! Who is port of whom, who stands on whom, and who is touched without being named.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Invalid;
use crate::host::Observation;
use crate::state::NetworkState;
use crate::state::iface::{AnyKind, Interface, State};
use crate::state::part::ip::Ip;

use super::resolve::kernel_name;

/// An interface that the plan touches.
#[derive(Debug, Clone)]
pub struct Touched {
    /// The wish; for one touched by implication what follows for it.
    pub wish: Interface,
    /// Named by the user.
    pub named: bool,
    /// Its controller after the plan; None leaves it.
    pub controller: Option<String>,
    /// Why it is touched, where it was not named.
    pub because: String,
}

/// Every touched interface by name.
pub type Graph = BTreeMap<String, Touched>;

/// Spreads the wish over ports, peers and members of what goes away.
pub fn spread(resolved: &NetworkState, seen: &Observation) -> Result<Graph, Invalid> {
    let mut graph: Graph = BTreeMap::new();
    for wish in &resolved.interfaces {
        let entry = Touched {
            wish: wish.clone(),
            named: true,
            controller: None,
            because: String::new(),
        };
        graph.insert(wish.name().to_owned(), entry);
    }
    claim_ports(&mut graph, resolved, seen)?;
    join_controllers(&mut graph, resolved, seen)?;
    free_ports(&mut graph, resolved, seen);
    pair_veths(&mut graph, resolved, seen);
    no_ip_on_ports(&mut graph, seen)?;
    depth_check(&graph, seen)?;
    Ok(graph)
}

fn implied(graph: &mut Graph, name: &str, seen: &Observation, because: String) {
    let kind = seen
        .state
        .interface(name)
        .map_or("ethernet", |i| i.kind.type_name())
        .to_owned();
    graph.entry(name.to_owned()).or_insert_with(|| Touched {
        wish: Interface::bare(name, &kind),
        named: false,
        controller: None,
        because,
    });
}

/// Ports that a controller lists.
fn claim_ports(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    let mut claimed: BTreeMap<String, String> = BTreeMap::new();
    for controller in resolved.interfaces.iter().filter(|i| i.is_up()) {
        let mut mine = vec![];
        for (i, listed) in controller.kind.ports().unwrap_or_default().into_iter().enumerate() {
            let at = format!("interfaces[{}].bridge.port[{i}]", controller.name());
            let port = kernel_name(&listed, seen).to_owned();
            let exists = seen.facts.link(&port).is_some();
            match graph.get(&port) {
                None if !exists => {
                    return Err(Invalid::new(
                        at,
                        format!("port '{listed}' does not exist on the node and is not in this document"),
                    ));
                }
                Some(t) if t.wish.is_absent() => {
                    return Err(Invalid::new(
                        at,
                        format!("port '{listed}' is made absent by the same document"),
                    ));
                }
                Some(t)
                    if t.wish
                        .base
                        .controller
                        .as_deref()
                        .is_some_and(|c| c != controller.name()) =>
                {
                    let other = t.wish.base.controller.clone().unwrap_or_default();
                    let reason = if other.is_empty() {
                        format!("interfaces[{port}].controller detaches it")
                    } else {
                        format!("interfaces[{port}].controller names {other}")
                    };
                    return Err(Invalid::new(
                        at,
                        format!("port '{listed}' is listed here, but {reason}"),
                    ));
                }
                _ => {}
            }
            if port == controller.name() {
                return Err(Invalid::new(at, "an interface cannot be its own port"));
            }
            if let Some(other) = claimed.insert(port.clone(), controller.name().to_owned()) {
                return Err(Invalid::new(
                    at,
                    format!("port '{listed}' is also listed by interfaces[{other}]"),
                ));
            }
            implied(graph, &port, seen, format!("port of {}", controller.name()));
            mine.push(port);
        }
        for port in mine {
            if let Some(t) = graph.get_mut(&port) {
                t.controller = Some(controller.name().to_owned());
            }
        }
    }
    Ok(())
}

/// Interfaces that name their controller.
fn join_controllers(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for port in resolved.interfaces.iter().filter(|i| i.is_up()) {
        let Some(wanted) = port.base.controller.clone() else {
            continue;
        };
        let at = format!("interfaces[{}].controller", port.name());
        if wanted.is_empty() {
            if let Some(t) = graph.get_mut(port.name()) {
                t.controller = Some(String::new());
            }
            continue;
        }
        let name = kernel_name(&wanted, seen).to_owned();
        let kind = graph
            .get(&name)
            .map(|t| &t.wish.kind)
            .or_else(|| seen.state.interface(&name).map(|i| &i.kind));
        match kind {
            None => {
                return Err(Invalid::new(
                    at,
                    format!("controller '{wanted}' does not exist on the node and is not in this document"),
                ));
            }
            Some(kind) if !kind.is_controller() => {
                return Err(Invalid::new(
                    at,
                    format!("'{wanted}' is of type {} and takes no ports", kind.type_name()),
                ));
            }
            Some(_) => {}
        }
        if let Some(t) = graph.get(&name) {
            if t.wish.is_absent() {
                return Err(Invalid::new(
                    at,
                    format!("controller '{wanted}' is made absent by the same document"),
                ));
            }
            if t.wish
                .kind
                .ports()
                .is_some_and(|p| !p.iter().any(|p| kernel_name(p, seen) == port.name()))
            {
                return Err(Invalid::new(
                    at,
                    format!("interfaces[{name}] lists its ports without {}", port.name()),
                ));
            }
        }
        if let Some(t) = graph.get_mut(port.name()) {
            t.controller = Some(name);
        }
    }
    Ok(())
}

/// Ports that lose their controller: not listed any more, or the controller goes.
fn free_ports(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) {
    for wish in &resolved.interfaces {
        let Some(current) = seen.state.interface(wish.name()) else {
            continue;
        };
        let listed: Option<BTreeSet<String>> = wish
            .kind
            .ports()
            .map(|p| p.iter().map(|p| kernel_name(p, seen).to_owned()).collect());
        let gone = wish.is_absent();
        if !gone && listed.is_none() {
            continue;
        }
        let listed = listed.unwrap_or_default();
        for port in current.kind.ports().unwrap_or_default() {
            // a tap that a hypervisor put there is its own business
            let others = seen.facts.device(&port).is_none_or(|d| d.external() || d.state <= 10);
            if listed.contains(&port)
                || graph
                    .get(&port)
                    .is_some_and(|t| t.controller.is_some() || t.wish.is_absent())
                || (others && !keeps_no_extra(wish))
            {
                continue;
            }
            implied(graph, &port, seen, format!("no longer a port of {}", wish.name()));
            if let Some(t) = graph.get_mut(&port) {
                t.controller = Some(String::new());
            }
        }
    }
}

fn keeps_no_extra(wish: &Interface) -> bool {
    matches!(
        wish.tree().get("bridge").and_then(|b| b.get("allow-extra-ports")),
        Some(serde_json::Value::Bool(false))
    )
}

/// A veth's other end is made with it and goes with it.
fn pair_veths(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) {
    for wish in &resolved.interfaces {
        let current = seen.state.interface(wish.name());
        if wish.is_absent() {
            let peer = current.and_then(|c| c.kind.peer().map(str::to_owned));
            let managed = |p: &String| seen.facts.device(p).is_some_and(|d| d.state > 10);
            if let Some(peer) = peer.filter(managed) {
                implied(graph, &peer, seen, format!("other end of {}", wish.name()));
                if let Some(t) = graph.get_mut(&peer).filter(|t| !t.named) {
                    t.wish.base.state = Some(State::Absent);
                }
            }
        } else if let Some(peer) = wish.kind.peer().filter(|p| seen.facts.link(p).is_none()) {
            let peer = peer.to_owned();
            let mut other = Interface::bare(&peer, wish.kind.type_name());
            other.base.state = Some(State::Up);
            if let AnyKind::Veth(veth) = &mut other.kind {
                veth.veth = Some(crate::state::iface::veth::Section {
                    peer: wish.name().to_owned(),
                });
            }
            graph.entry(peer).or_insert_with(|| Touched {
                wish: other,
                named: false,
                controller: None,
                because: format!("other end of {}", wish.name()),
            });
        }
    }
}

fn no_ip_on_ports(graph: &mut Graph, seen: &Observation) -> Result<(), Invalid> {
    let kinds: BTreeMap<String, bool> = graph
        .iter()
        .map(|(n, t)| (n.clone(), t.wish.kind.ports_carry_ip()))
        .collect();
    for (name, touched) in graph.iter_mut() {
        let controller = match &touched.controller {
            Some(c) => c.clone(),
            None => seen
                .state
                .interface(name)
                .and_then(|i| i.base.controller.clone())
                .unwrap_or_default(),
        };
        let carries = kinds.get(&controller).copied();
        let carries = carries
            .or_else(|| seen.state.interface(&controller).map(|c| c.kind.ports_carry_ip()))
            .unwrap_or(true);
        if controller.is_empty() || carries || touched.wish.is_absent() {
            continue;
        }
        for (section, ip) in [("ipv4", &mut touched.wish.ipv4), ("ipv6", &mut touched.wish.ipv6)] {
            if ip.as_ref().is_some_and(Ip::is_enabled) {
                return Err(Invalid::new(
                    format!("interfaces[{name}].{section}.enabled"),
                    format!("{name} is a port of {controller} and cannot carry IP addresses"),
                ));
            }
        }
    }
    Ok(())
}

/// How many must be up before this one: controllers 0, their ports 1, …
pub fn depth(name: &str, graph: &Graph, seen: &Observation) -> usize {
    let mut depth = 0;
    let mut at = name.to_owned();
    while let Some(next) = above(&at, graph, seen) {
        depth += 1;
        at = next;
        if depth > 16 {
            break;
        }
    }
    depth
}

fn above(name: &str, graph: &Graph, seen: &Observation) -> Option<String> {
    let touched = graph.get(name);
    let current = seen.state.interface(name);
    let controller = match touched.and_then(|t| t.controller.clone()) {
        Some(c) => Some(c).filter(|c| !c.is_empty()),
        None => current.and_then(|c| c.base.controller.clone()),
    };
    let parent = || {
        touched
            .map(|t| &t.wish.kind)
            .or(current.map(|c| &c.kind))
            .and_then(|k| k.parent().map(str::to_owned))
    };
    controller.or_else(parent)
}

fn depth_check(graph: &Graph, seen: &Observation) -> Result<(), Invalid> {
    match graph.keys().find(|name| depth(name, graph, seen) > 16) {
        Some(name) => Err(Invalid::new(
            format!("interfaces[{name}]"),
            "controllers and parents form a circle",
        )),
        None => Ok(()),
    }
}
