//! `netwright statistic`: which shapes of network and which features documents use, for whoever plans tests.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{input, output};
use crate::error::Invalid;
use crate::observation::Observation;
use crate::plan::{Options, offline, resolve, topology};
use crate::scalar::{Id, Space};
use crate::state::iface::AnyKind;
use crate::state::{NetworkState, features};

/// Flags of `netwright statistic`.
#[derive(Debug, Args)]
pub struct Statistic {
    /// Documents, laid over one another in order.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The state of the node that they are for.
    #[arg(short, long)]
    current: Option<PathBuf>,
    /// JSON instead of YAML.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Usage {
    topology: Vec<String>,
    features: BTreeSet<&'static str>,
}

/// Prints topology and features.
pub fn run(args: &Statistic) -> anyhow::Result<()> {
    let mut usage = Usage::default();
    for file in &args.files {
        let desired = input::state(file)?;
        let seen = match &args.current {
            Some(current) => Observation::from_document(&input::state(current)?),
            None => offline::stage(&desired),
        };
        let found = count(&desired, &seen)?;
        usage.topology.extend(found.topology);
        usage.features.extend(found.features);
    }
    usage.topology = longest(std::mem::take(&mut usage.topology));
    output::print(&usage, args.json)
}

fn count(desired: &NetworkState, seen: &Observation) -> Result<Usage, Invalid> {
    let resolved = resolve::resolve(desired, seen, Options::default())?;
    let graph = topology::spread(&resolved, seen, Options::default())?;
    let resolved = resolved.state;
    let touched = graph
        .iter()
        .filter(|(id, t)| t.wish.is_up() && id.space != Space::OvsPort);
    let topology = touched.map(|(id, _)| chain(id, &graph, seen)).collect();
    Ok(Usage {
        topology,
        features: features::of(&resolved),
    })
}

/// `auto_ip4,auto_ip6 -> vlan -> bond -> ethernet`
fn chain(id: &Id, graph: &topology::Graph, seen: &Observation) -> String {
    let mut words = vec![];
    let ip = ip_words(id, graph, seen);
    if !ip.is_empty() {
        words.push(ip);
    }
    if !stands_on_its_controller(id, graph, seen) {
        let above = controllers(id, graph, seen);
        words.extend(above.iter().rev().map(|c| kind(c, graph, seen)));
    }
    words.push(kind(id, graph, seen));
    words.extend(below(id, graph, seen, 0));
    words.join(" -> ")
}

/// Its controller, the controller of that, and so on.
fn controllers(id: &Id, graph: &topology::Graph, seen: &Observation) -> Vec<Id> {
    let next = |at: &Id| topology::controller_after(at, graph, seen);
    let all = std::iter::successors(next(id), next).take(16);
    all.filter(|c| c.space != Space::OvsPort).collect()
}

/// An interface of Open vSwitch is how the node itself uses the bridge: the bridge is below it.
fn stands_on_its_controller(id: &Id, graph: &topology::Graph, seen: &Observation) -> bool {
    kind_of(id, graph, seen).is_some_and(AnyKind::needs_controller)
}

/// As it is to be; as it is where nothing is asked of it.
fn kind_of<'a>(id: &Id, graph: &'a topology::Graph, seen: &'a Observation) -> Option<&'a AnyKind> {
    let wish = graph.get(id).map(|t| &t.wish.kind);
    wish.or_else(|| seen.interface(id).map(|i| &i.kind))
}

fn kind(id: &Id, graph: &topology::Graph, seen: &Observation) -> String {
    let name = kind_of(id, graph, seen)
        .map(AnyKind::type_name)
        .filter(|name| !name.is_empty())
        .unwrap_or("unknown");
    // a veth is an ethernet to most users
    if name == "veth" {
        "ethernet".to_owned()
    } else {
        name.to_owned()
    }
}

/// The longest way down over ports or parents.
fn below(id: &Id, graph: &topology::Graph, seen: &Observation, level: usize) -> Vec<String> {
    let Some(kinds) = kind_of(id, graph, seen) else {
        return vec![];
    };
    let ports = kinds.ports().unwrap_or_default().into_iter().map(Id::kernel);
    let ports = ports.filter(|p| !stands_on_its_controller(p, graph, seen));
    let mut next: Vec<Id> = ports.chain(kinds.parents().into_iter().map(Id::kernel)).collect();
    if stands_on_its_controller(id, graph, seen) {
        next.extend(controllers(id, graph, seen).into_iter().next());
    }
    let ways = next.iter().filter(|_| level < 16).map(|n| {
        let mut way = vec![kind(n, graph, seen)];
        way.extend(below(n, graph, seen, level + 1));
        way
    });
    ways.max_by_key(Vec::len).unwrap_or_default()
}

fn ip_words(id: &Id, graph: &topology::Graph, seen: &Observation) -> String {
    let mut words = vec![];
    for (ipv6, n) in [(false, 4), (true, 6)] {
        let wish = graph.get(id).and_then(|t| t.wish.ip(ipv6));
        let Some(ip) = wish.or_else(|| seen.interface(id).and_then(|i| i.ip(ipv6))) else {
            continue;
        };
        if ip.is_auto() {
            words.push(format!("auto_ip{n}"));
        } else if ip.is_enabled() {
            words.push(format!("static_ip{n}"));
        }
    }
    words.join(",")
}

/// Drops what is part of a longer one.
fn longest(mut all: Vec<String>) -> Vec<String> {
    all.sort();
    all.dedup();
    let whole = all.clone();
    all.retain(|one| !whole.iter().any(|other| other != one && other.contains(one.as_str())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_on_a_bridge_is_one_chain() {
        let text = "interfaces:
- {name: v0, type: vlan, vlan: {base-iface: br0, id: 5}, ipv4: {enabled: true, dhcp: true}}
- {name: br0, type: linux-bridge, bridge: {port: [{name: eth1}]}}
routes: {config: [{destination: 192.0.2.0/24, next-hop-interface: v0}]}
";
        let state = NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap();
        let usage = count(&state, &offline::stage(&state)).unwrap();
        assert_eq!(
            longest(usage.topology),
            ["auto_ip4 -> vlan -> linux-bridge -> ethernet"]
        );
        assert_eq!(usage.features.into_iter().collect::<Vec<_>>(), ["static-route"]);
    }
}
