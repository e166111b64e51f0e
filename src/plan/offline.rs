//! Planning without a node: a stage on which every interface that the document takes for granted exists. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Invalid;
use crate::observation::Observation;
use crate::profile::Profile;
use crate::scalar;
use crate::state::NetworkState;
use crate::state::iface::{Identifier, Interface, State};
use crate::step::Step;

/// A node with `lo` and, as network cards, whatever the document names but does not make.
pub fn stage(desired: &NetworkState) -> Observation {
    let mut made: BTreeSet<&str> = BTreeSet::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut there = NetworkState::default();
    for wish in desired.interfaces.iter().filter(|i| !i.is_ignored()) {
        let hardware = !wish.kind.is_virtual() || wish.is_absent();
        if !hardware {
            made.insert(wish.name());
        } else {
            there.interfaces.push(hardware_of(wish));
            taken.insert(wish.name().to_owned());
        }
    }
    let mut named: BTreeSet<String> = ["lo".to_owned()].into();
    for wish in desired.interfaces.iter().filter(|i| i.is_up()) {
        named.extend(wish.kind.ports().unwrap_or_default());
        named.extend(wish.kind.parents());
    }
    let routes = desired.routes.iter().flat_map(|r| r.config.iter().flatten());
    named.extend(routes.filter_map(|r| r.next_hop_interface.clone()));
    for name in named {
        let kind = if name == "lo" { "loopback" } else { "ethernet" };
        if !made.contains(name.as_str()) && taken.insert(name.clone()) {
            let mut card = Interface::bare(&name, kind);
            card.base.state = Some(State::Up);
            there.interfaces.push(card);
        }
    }
    Observation::from_document(&there)
}

/// A node on which all of it is there already, and whatever else the document speaks of: the opposite of `stage`. What neither of them takes, no node
/// takes.
pub fn furnished(desired: &NetworkState) -> Observation {
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
    card.base.state = Some(State::Up);
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

/// The profiles that an apply would save on such a node, in the document's order.
pub fn profiles(desired: &NetworkState) -> Result<Vec<Profile>, Invalid> {
    if let Some(wish) = desired.interfaces.iter().find(|i| i.parts.dispatch.is_some()) {
        let why = "scripts are not part of NetworkManager's profiles; they need a node to be put on";
        return Err(Invalid::new(format!("interfaces[{}].dispatch", wish.name()), why));
    }
    let plan = super::plan(desired, &stage(desired))?;
    let place = |name: &str| {
        desired
            .interfaces
            .iter()
            .position(|i| i.name() == name)
            .unwrap_or(usize::MAX)
    };
    let mut saved: Vec<(usize, Profile)> = plan
        .waves
        .into_iter()
        .flatten()
        .filter_map(|step| match step {
            Step::Save { iface, profile, .. } => Some((place(&iface.name), profile)),
            _ => None,
        })
        .collect();
    saved.sort_by_key(|(place, _)| *place);
    Ok(saved.into_iter().map(|(_, profile)| profile).collect())
}
