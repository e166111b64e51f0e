//! Planning without a node: a stage on which every interface that the document takes for granted exists. Pure.

use std::collections::BTreeSet;

use crate::error::Invalid;
use crate::host::{Observation, Step};
use crate::profile::Profile;
use crate::scalar;
use crate::state::NetworkState;
use crate::state::iface::{Identifier, Interface, State};

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
