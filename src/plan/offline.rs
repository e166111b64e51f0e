//! Planning without a node: a stage on which every interface that the document takes for granted exists. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Invalid;
use crate::observation::Observation;
use crate::plan::Checked;
use crate::profile::Profile;
use crate::scalar::{self, Id, Space};
use crate::state::iface::{Identifier, Interface, State, VIRTUAL_FUNCTION};
use crate::state::part::ip::Ip;
use crate::state::route::LOOPBACK;
use crate::state::{HIDDEN, NetworkState};
use crate::step::Step;

/// What can be said of a document whose node nobody knows.
#[derive(Debug)]
pub enum Verdict {
    /// A node with the hardware that it names takes it.
    Fits(Box<Checked>),
    /// That one does not, but another may: one that has already what the document leaves out.
    Depends(Invalid),
    /// No node takes it.
    Never(Invalid),
}

/// Rules about what the node has besides: other ports, other VLANs, its cards, its profiles, IPv6 at all.
const NODE_DECIDES: [&str; 8] = [
    ".controller",
    ".ovs-db",
    ".vlan-default-pvid",
    ".pci-address",
    ".eap-methods",
    ".total-vfs",
    ".ipv4.enabled",
    ".ipv6.enabled",
];

/// Judges a document; `empty` is its `stage`.
pub fn verdict(desired: &NetworkState, empty: &Observation) -> Verdict {
    let first = match super::check(desired, empty) {
        Ok(checked) => return Verdict::Fits(Box::new(checked)),
        Err(first) => first,
    };
    match super::check(desired, &furnished(desired)) {
        Err(second) if second == first && !node_decides(&first) => Verdict::Never(first),
        _ => Verdict::Depends(first),
    }
}

/// Both nodes that are thought up here may refuse what a real one takes.
fn node_decides(fault: &Invalid) -> bool {
    let text = fault.to_string();
    !fault.path.starts_with("interfaces[")
        || NODE_DECIDES.iter().any(|end| fault.path.ends_with(end))
        || text.contains(VIRTUAL_FUNCTION)
        || text.contains(HIDDEN)
}

/// A node with `lo` and, as network cards, whatever the document names but does not make.
pub fn stage(desired: &NetworkState) -> Observation {
    let ends: BTreeSet<String> = desired.other_ends().map(|end| end.name().to_owned()).collect();
    let mut made: BTreeSet<&str> = ends.iter().map(String::as_str).collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut there = NetworkState::default();
    for wish in desired.interfaces.iter().filter(|i| !i.is_ignored()) {
        let hardware = wish.is_absent() || !(wish.kind.is_virtual() || ends.contains(wish.name()));
        if !hardware {
            made.insert(wish.name());
        } else {
            there.interfaces.push(hardware_of(wish));
            taken.insert(wish.name().to_owned());
        }
    }
    if taken.insert(LOOPBACK.to_owned()) {
        there.interfaces.push(Interface::bare(LOOPBACK, "loopback"));
    }
    let mut named = BTreeSet::new();
    for wish in desired.interfaces.iter().filter(|i| i.is_up()) {
        named.extend(wish.kind.ports().unwrap_or_default());
        named.extend(wish.kind.parents());
    }
    let routes = desired.routes.iter().flat_map(|r| r.config.iter().flatten());
    named.extend(routes.filter_map(|r| r.next_hop_interface.clone()));
    for name in named {
        // nobody can tell which interface a virtual function will be: `sriov:eth1:0` is no name of one
        let could_be = scalar::bad_interface_name(&name).is_none();
        if could_be && !made.contains(name.as_str()) && taken.insert(name.clone()) {
            there.interfaces.push(Interface::bare(&name, "ethernet"));
        }
    }
    for interface in &mut there.interfaces {
        interface.base.state = Some(State::Up);
        interface.ipv4 = interface.kind.own_address(false).map(Ip::of);
        interface.ipv6 = interface.kind.own_address(true).map(Ip::of);
    }
    Observation::from_document(&there)
}

/// A node on which all of it is there already, and whatever else the document speaks of: the opposite of `stage`. What neither of them takes, no node
/// takes.
fn furnished(desired: &NetworkState) -> Observation {
    let mut there = stage(desired).state;
    let made = desired.interfaces.iter().filter(|i| i.is_up() && i.kind.is_virtual());
    there.interfaces.extend(made.cloned());
    let mut taken: BTreeSet<String> = there.interfaces.iter().map(|i| i.name().to_owned()).collect();
    let bases = desired.interfaces.iter().map(|i| &i.base);
    let rules = desired.route_rules.iter().flat_map(|r| r.config.iter().flatten());
    let named = bases
        .flat_map(|b| [b.copy_mac_from.clone(), b.controller.clone()])
        .chain(rules.map(|r| r.iif.clone()));
    // somebody must be able to keep rules and name servers
    let spare = ["spare0".to_owned(), "spare1".to_owned()];
    for name in named.flatten().filter(|n| !n.is_empty()).chain(spare) {
        if taken.insert(name.clone()) {
            there.interfaces.push(Interface::bare(&name, "ethernet"));
        }
    }
    let mut above: BTreeMap<String, &str> = BTreeMap::new();
    let mut macs: BTreeMap<&str, &String> = BTreeMap::new();
    for wish in desired.interfaces.iter().filter(|i| i.is_up()) {
        above.extend(
            wish.kind
                .ports()
                .unwrap_or_default()
                .into_iter()
                .map(|port| (port, wish.name())),
        );
        macs.extend(wish.base.mac_address.as_ref().map(|mac| (wish.name(), mac)));
    }
    for (i, interface) in there.interfaces.iter_mut().enumerate() {
        let base = &mut interface.base;
        base.controller = base
            .controller
            .take()
            .or_else(|| above.get(&base.name).map(|c| (*c).to_owned()));
        base.mac_address = base
            .mac_address
            .take()
            .or_else(|| macs.get(base.name.as_str()).map(|m| (*m).clone()));
        base.state = Some(State::Up);
        base.mac_address
            .get_or_insert_with(|| format!("02:00:00:00:{:02X}:{:02X}", i >> 8 & 255, i & 255));
        for ip in [&mut interface.ipv4, &mut interface.ipv6] {
            ip.get_or_insert_default().enabled.get_or_insert(true);
        }
    }
    Observation::from_document(&there)
}

/// The card that an entry is about. One that is found by its MAC is called by the profile's name here.
fn hardware_of(wish: &Interface) -> Interface {
    let kind = match wish.kind.type_name() {
        "" | "unknown" => "ethernet",
        known => known,
    };
    let mut card = Interface::bare(wish.name(), kind);
    if wish.is_up() && kind == wish.kind.type_name() {
        // it can do whatever is asked of it: nobody knows its limits here
        card.kind = wish.kind.clone();
    }
    if wish.base.identifier.unwrap_or_default() != Identifier::Name {
        card.base.mac_address = wish.base.mac_address.as_deref().and_then(scalar::mac);
        card.base.pci_address.clone_from(&wish.base.pci_address);
    }
    card
}

/// The profiles that an apply would save on such a node, in the document's order. What is to be down has one, too, that does not connect by itself.
pub fn profiles(desired: &NetworkState) -> Result<Vec<Profile>, Invalid> {
    if let Some(wish) = desired.interfaces.iter().find(|i| i.parts.dispatch.is_some()) {
        let why = "scripts are not part of NetworkManager's profiles; they need a node to be put on";
        return Err(Invalid::new(format!("interfaces[{}].dispatch", wish.name()), why));
    }
    let mut plan = super::plan(desired, &stage(desired))?;
    let mut wanted = desired.clone();
    let mut down = BTreeSet::new();
    for wish in wanted
        .interfaces
        .iter_mut()
        .filter(|i| i.base.state == Some(State::Down))
    {
        down.insert(wish.id());
        wish.base.state = Some(State::Up);
    }
    if !down.is_empty() {
        plan = super::plan(&wanted, &stage(&wanted))?;
    }
    let place = |name: &str| {
        desired
            .interfaces
            .iter()
            .position(|i| i.name() == name)
            .unwrap_or(usize::MAX)
    };
    let mut saved: Vec<(Id, Profile)> = plan
        .waves
        .into_iter()
        .flatten()
        .filter_map(|step| match step {
            Step::Save { iface, profile, .. } => Some((iface, profile)),
            _ => None,
        })
        .collect();
    hold_down(&mut saved, &down);
    saved.sort_by_key(|(iface, _)| place(&iface.name));
    Ok(saved.into_iter().map(|(_, profile)| profile).collect())
}

/// None of `down` connects by itself, nor do their ports: those would bring them up.
fn hold_down(saved: &mut [(Id, Profile)], down: &BTreeSet<Id>) {
    let mut controllers = BTreeSet::new();
    loop {
        let before = controllers.len();
        for (iface, profile) in saved.iter_mut() {
            let tied = profile
                .str("connection", "master")
                .is_some_and(|c| controllers.contains(c));
            if tied || down.contains(iface) {
                profile.put("connection", "autoconnect", false);
                controllers.extend(profile.str("connection", "uuid").map(str::to_owned));
                if iface.space == Space::Kernel {
                    controllers.insert(iface.name.clone());
                }
            }
        }
        if controllers.len() == before {
            return;
        }
    }
}
