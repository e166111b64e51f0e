//! Profiles that stand between a controller and its ports (ports of Open vSwitch): they go when nothing is left behind them,
//! also those of a bridge that is down, of which only profiles tell.

use std::collections::BTreeMap;

use crate::error::Invalid;
use crate::facts::{Facts, SavedProfile};
use crate::observation::Observation;
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::state::iface::{AnyKind, Interface, State};

use super::topology::{Graph, Membership, Touched, controller_after};

/// A companion goes with the last port behind it.
pub fn empty(graph: &mut Graph, seen: &Observation) {
    for controller in &seen.state.interfaces {
        for companion in controller.kind.companions().unwrap_or_default() {
            let id = companion.interface.id();
            let leaves = |port: &String| {
                let port = Id::kernel(port);
                let touched = graph.get(&port);
                touched
                    .is_some_and(|t| t.wish.is_absent() || controller_after(&port, graph, seen).as_ref() != Some(&id))
            };
            if !graph.contains_key(&id) && !companion.ports.is_empty() && companion.ports.iter().all(leaves) {
                let because = format!("no longer a port of {}", controller.name());
                graph.insert(
                    id,
                    gone(
                        Interface::bare(companion.interface.name(), companion.interface.kind.type_name()),
                        because,
                    ),
                );
            }
        }
    }
}

fn gone(mut wish: Interface, because: String) -> Touched {
    wish.base.state = Some(State::Absent);
    Touched {
        wish,
        named: false,
        member: Membership::Keeps,
        renewed: false,
        because,
    }
}

/// Profiles by what they call their controller: its uuid or its name.
struct Below<'a>(BTreeMap<&'a str, Vec<&'a SavedProfile>>);

impl<'a> Below<'a> {
    fn of(facts: &'a Facts) -> Self {
        let mut below: BTreeMap<&str, Vec<&SavedProfile>> = BTreeMap::new();
        for saved in &facts.profiles {
            if let Some(master) = saved.profile.str("connection", "master") {
                below.entry(master).or_default().push(saved);
            }
        }
        Below(below)
    }

    /// What is a port of this one; only of the same kind of controller, as names may be shared.
    fn ports(&self, controller: &SavedProfile) -> Vec<&'a SavedProfile> {
        let kind = controller.profile.str("connection", "type");
        let names = [Some(controller.uuid()), controller.interface()];
        let all = names
            .into_iter()
            .flatten()
            .filter_map(|name| self.0.get(name))
            .flatten();
        all.filter(|p| p.profile.str("connection", "slave-type") == kind)
            .copied()
            .collect()
    }
}

/// Profiles below a bridge that is not there, where the document removes it or tells its ports anew.
pub fn leftovers(graph: &mut Graph, resolved: &NetworkState, seen: &Observation) {
    let below = Below::of(&seen.facts);
    for wish in &resolved.interfaces {
        let told = wish.is_absent() || wish.kind.ports().is_some();
        if !told || wish.kind.companions().is_none() || seen.interface(&wish.id()).is_some() {
            continue;
        }
        let because = format!("no longer a port of {}", wish.name());
        for port in seen.profiles_of(&wish.id()).flat_map(|bridge| below.ports(bridge)) {
            let Some(id) = port.id().filter(|id| !graph.contains_key(id)) else {
                continue;
            };
            for member in below.ports(port) {
                release(graph, member, &because);
            }
            graph.insert(
                id.clone(),
                gone(Interface::bare(&id.name, type_of(port)), because.clone()),
            );
        }
    }
    // an interface that was down has left its port's profile behind
    let removed: Vec<Id> = graph
        .iter()
        .filter(|(_, t)| t.wish.is_absent())
        .map(|(id, _)| id.clone())
        .collect();
    for saved in removed.iter().flat_map(|id| seen.profiles_of(id)) {
        let master = saved
            .profile
            .str("connection", "master")
            .and_then(|m| seen.facts.profile(m));
        let port = master.and_then(|m| Some((m, m.id().filter(|id| id.space == Space::OvsPort)?)));
        let Some((port, id)) = port else { continue };
        let alone = below
            .ports(port)
            .iter()
            .filter_map(|p| p.id())
            .all(|member| removed.contains(&member));
        if alone && !graph.contains_key(&id) && seen.interface(&id).is_none() {
            let because = format!("the port of {}", saved.interface().unwrap_or_default());
            graph.insert(id.clone(), gone(Interface::bare(&id.name, type_of(port)), because));
        }
    }
}

fn type_of(saved: &SavedProfile) -> &'static str {
    let nm_type = saved.profile.str("connection", "type").unwrap_or_default();
    AnyKind::type_of_nm(nm_type).unwrap_or("ethernet")
}

/// What lives only as a port goes; the rest stands alone.
fn release(graph: &mut Graph, saved: &SavedProfile, because: &str) {
    let Some(id) = saved.id().filter(|id| !graph.contains_key(id)) else {
        return;
    };
    let wish = Interface::bare(&id.name, type_of(saved));
    let touched = match wish.kind.needs_controller() {
        true => gone(wish, because.to_owned()),
        false => Touched {
            wish,
            named: false,
            member: Membership::Leaves,
            renewed: false,
            because: because.to_owned(),
        },
    };
    graph.insert(id, touched);
}

/// What lives only as a port must be one, and keys of Open vSwitch belong to what is in its database.
pub fn belong(graph: &Graph, seen: &Observation) -> Result<(), Invalid> {
    for (id, touched) in graph.iter().filter(|(_, t)| t.named && t.wish.is_up()) {
        let label = format!("interfaces[{}]", id.name);
        let controller = controller_after(id, graph, seen);
        if touched.wish.kind.needs_controller() && controller.is_none() {
            let why = format!(
                "an {} lives only as a port: list it in a bridge, name its controller, or make it absent",
                touched.wish.kind.type_name()
            );
            return Err(Invalid::new(format!("{label}.controller"), why));
        }
        let ovs = id.space == Space::OvsBridge || controller.is_some_and(|c| c.space == Space::OvsPort);
        if touched.wish.parts.ovs_ids.is_some() && !ovs {
            let why = "only bridges, ports and interfaces of Open vSwitch have such keys";
            return Err(Invalid::new(format!("{label}.ovs-db"), why));
        }
    }
    Ok(())
}
