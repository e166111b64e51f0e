//! From the user's names and types to the kernel's: alt-names, virtual functions, MAC and PCI identifiers, types left out, ethernet that is a veth.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::facts::Vf;
use crate::observation::Observation;
use crate::scalar::{self, Id, Space};
use crate::state::dns::DnsResolver;
use crate::state::iface::{AltName, AnyKind, Base, Context, Identifier, Interface, State, VIRTUAL_FUNCTION};
use crate::state::part::Parts;
use crate::state::{NetworkState, iface};

use super::Options;
use super::profiles::{self, Stock};

/// The wish in the kernel's words.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Kernel names, known types; without read-only keys, ignored interfaces and what else is only for show.
    pub state: NetworkState,
    /// Links that the document says to leave alone.
    pub ignored: BTreeSet<String>,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

/// Resolves every name and type of the wish.
pub fn resolve(desired: &NetworkState, seen: &Observation, options: Options) -> Result<Resolved, Invalid> {
    let mut resolved = Resolved {
        state: desired.clone(),
        ..Resolved::default()
    };
    for entry in desired.replaced.iter() {
        let why = format!("interfaces[{entry}]: written more than once; the last entry counts");
        resolved.warnings.push(why);
    }
    let names = Names::of(desired, seen)?;
    resolved.state.interfaces = interfaces(desired, &names, options, &mut resolved)?;
    give_ports(&mut resolved.state, seen);
    routes(&mut resolved, &names, seen)?;
    for (i, rule) in resolved
        .state
        .route_rules
        .iter_mut()
        .flat_map(|r| r.config.iter_mut().flatten())
        .enumerate()
    {
        if let Some(iif) = &mut rule.iif {
            *iif = names
                .kernel(iif)
                .map_err(|why| Invalid::new(format!("route-rules.config[{i}].iif"), why))?;
        }
    }
    scopes(resolved.state.dns_resolver.as_mut(), &names)?;
    Ok(resolved)
}

fn interfaces(
    desired: &NetworkState,
    names: &Names<'_>,
    options: Options,
    resolved: &mut Resolved,
) -> Result<Vec<Interface>, Invalid> {
    let (mut all, mut known) = (vec![], BTreeSet::new());
    let ends: Vec<Interface> = desired.other_ends().collect();
    let made_with = |wish: &Interface| {
        let new = names.seen.facts.link(wish.name()).is_none() && wish.is_up();
        wish.paired(ends.iter().find(|end| new && end.name() == wish.name())?)
    };
    for wish in &desired.interfaces {
        let label = format!("interfaces[{}]", wish.base.name);
        if wish.is_ignored() {
            let name = names.kernel(&wish.base.name);
            resolved.ignored.insert(name.unwrap_or_else(|_| wish.base.name.clone()));
            continue;
        }
        if is_no_more(wish, names) {
            let why = format!("{label}: there is none on the node, so there is nothing to take down");
            resolved.warnings.push(why);
            continue;
        }
        let paired = made_with(wish);
        let mut found = interface(paired.as_ref().unwrap_or(wish), names).map_err(|e| e.under(&label))?;
        if found.kind.stays_up() && found.base.state == Some(State::Down) {
            let why = format!("{label}.state: left as it is: it is never down; absent takes away what was added to it");
            resolved.warnings.push(why);
            continue;
        }
        if options.memory_only && found.is_absent() {
            found.base.state = Some(State::Down);
        }
        if !known.insert(found.id()) {
            let why = format!("another entry already names interface {}", found.name());
            return Err(Invalid::new(label, why));
        }
        all.push(found);
    }
    Ok(all)
}

/// A card that is to be down and is not there: nothing has to be done for that, and nothing could be.
fn is_no_more(wish: &Interface, names: &Names<'_>) -> bool {
    let (base, kind) = (&wish.base, &wish.kind);
    let made = kind.is_virtual() || kind.stays_up() || kind.space() != Space::Kernel;
    let hardware = !made && !kind.nm_type().is_empty();
    let known = || {
        names.kernel(&base.name).is_ok_and(|name| {
            let id = Id::kernel(name);
            names.seen.interface(&id).is_some() || names.seen.profiles_of(&id).next().is_some()
        })
    };
    base.state == Some(State::Down) && base.identifier.unwrap_or_default() == Identifier::Name && hardware && !known()
}

/// What names mean: in a document an interface goes by its kernel name, an alt-name, or where another one refers to it, the name of its profile.
struct Names<'a> {
    seen: &'a Observation,
    /// Kernel names that the document writes.
    written: BTreeSet<&'a str>,
    /// Kernel names by profile names that the document gives.
    profiles: HashMap<&'a str, BTreeSet<String>>,
}

impl<'a> Names<'a> {
    fn of(desired: &'a NetworkState, seen: &'a Observation) -> Result<Self, Invalid> {
        let mut names = Names {
            seen,
            written: BTreeSet::new(),
            profiles: HashMap::new(),
        };
        for wish in &desired.interfaces {
            let base = &wish.base;
            let found = identified(wish, seen).map_err(|e| e.under(&format!("interfaces[{}]", base.name)))?;
            let by_name = base.identifier.unwrap_or_default() == Identifier::Name;
            if by_name {
                names.written.insert(&base.name);
            }
            let profile = base
                .profile_name
                .as_deref()
                .or((!by_name).then_some(base.name.as_str()));
            if let Some(profile) = profile {
                names.profiles.entry(profile).or_default().insert(found.base.name);
            }
        }
        Ok(names)
    }

    /// The kernel's name for what the document calls so; a name that nothing has stays.
    fn kernel(&self, name: &str) -> Result<String, String> {
        let known = kernel_name(name, self.seen);
        if self.seen.facts.link(known).is_some() || self.written.contains(name) {
            return Ok(known.to_owned());
        }
        let mut found = self.profiles.get(name).cloned().unwrap_or_default();
        if found.is_empty() {
            found.extend(self.seen.links_by_profile(name).into_iter().map(str::to_owned));
        }
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(one), Some(other)) => Err(format!(
                "'{name}' is the name of profiles of {one} and of {other}; use the interface's name"
            )),
            (Some(one), None) => Ok(one),
            _ => Ok(name.to_owned()),
        }
    }
}

/// What cannot be without a port gets one of its own name, unless others name it as their controller.
fn give_ports(resolved: &mut NetworkState, seen: &Observation) {
    let up = resolved.interfaces.iter().filter(|i| i.is_up());
    let joined: BTreeSet<String> = up.filter_map(|i| i.base.controller.clone()).collect();
    let joined = |name: &str| joined.contains(name);
    let bare = |i: &Interface| match i.kind.ports() {
        Some(ports) => ports.is_empty(),
        None => seen.interface(&i.id()).is_none() && seen.profiles_of(&i.id()).next().is_none(),
    };
    let given = |i: &Interface| i.is_up() && i.kind.needs_port() && bare(i) && !joined(i.name());
    let poor: Vec<usize> = (0..resolved.interfaces.len())
        .filter(|at| given(&resolved.interfaces[*at]))
        .collect();
    for at in poor {
        let name = resolved.interfaces[at].base.name.clone();
        resolved.interfaces[at].kind.set_ports(&[name]);
    }
}

/// The part of the wish that must come first: cards whose virtual functions the rest names before they exist.
pub fn cards_first(desired: &NetworkState, seen: &Observation) -> Option<NetworkState> {
    let makes_some = |wish: &&Interface| {
        let current = seen.link(kernel_name(wish.name(), seen));
        wish.is_up() && current.is_some_and(|c| !wish.kind.coming_vfs(&c.kind).is_empty())
    };
    let cards: Vec<Interface> = desired.interfaces.iter().filter(makes_some).cloned().collect();
    if cards.is_empty() || !desired.interfaces.iter().any(|wish| waits_for_a_card(wish, seen)) {
        return None;
    }
    Some(NetworkState {
        interfaces: cards,
        ..NetworkState::default()
    })
}

/// It is, or speaks of, an interface that is not there and that nobody but a card could bring.
fn waits_for_a_card(wish: &Interface, seen: &Observation) -> bool {
    if !wish.is_up() {
        return false;
    }
    let mut names: Vec<String> = wish.kind.ports().unwrap_or_default();
    names.extend(wish.base.controller.clone());
    wish.kind.clone().rename(&mut |name| names.push(name.clone()));
    let by_name = wish.base.identifier.unwrap_or_default() == Identifier::Name;
    let hardware = by_name && !matches!(wish.kind, AnyKind::Other(_)) && !wish.kind.is_virtual();
    let missing = |name: &str| seen.facts.link(kernel_name(name, seen)).is_none();
    let vf = |name: &String| name.starts_with(VIRTUAL_FUNCTION) && missing(name);
    names.iter().any(vf) || vf(&wish.base.name) || (hardware && missing(wish.name()))
}

/// The kernel's name for a name, an alt-name or a virtual function (`sriov:eth1:2`); what means nothing stays as it is.
pub fn kernel_name<'a>(name: &'a str, seen: &'a Observation) -> &'a str {
    if seen.facts.link(name).is_some() {
        return name;
    }
    if let Some(vf) = virtual_function(name, seen) {
        return vf.interface.as_deref().unwrap_or(name);
    }
    seen.facts.link_by_alt_name(name).map_or(name, |l| l.name.as_str())
}

/// Card and number that a name of the form `sriov:<card>:<number>` means.
fn card_and_number(name: &str) -> Option<(&str, u32)> {
    let (card, number) = name.strip_prefix(VIRTUAL_FUNCTION)?.rsplit_once(':')?;
    Some((card, number.parse().ok()?))
}

fn virtual_function<'a>(name: &str, seen: &'a Observation) -> Option<&'a Vf> {
    let (card, id) = card_and_number(name)?;
    let card = kernel_name(card, seen).to_owned();
    seen.facts
        .link(&card)?
        .sriov
        .as_ref()?
        .vfs
        .iter()
        .find(|vf| vf.id == id)
}

/// Why a name of the form `sriov:<card>:<number>` means no interface.
fn no_virtual_function(name: &str, seen: &Observation) -> Option<String> {
    if !name.starts_with(VIRTUAL_FUNCTION) {
        return None;
    }
    let Some((card, id)) = card_and_number(name) else {
        return Some(format!("'{name}' is not of the form sriov:<interface>:<number>"));
    };
    Some(match virtual_function(name, seen) {
        None => format!("{card} has no virtual function {id}"),
        Some(_) => format!("virtual function {id} of {card} has no interface on this node"),
    })
}

fn interface(wish: &Interface, names: &Names<'_>) -> Result<Interface, Invalid> {
    let seen = names.seen;
    let mut found = identified(wish, seen)?;
    if let Some(link) = bound_by_profile(&found, seen) {
        found.base.name = link;
    }
    if let Some(why) = no_virtual_function(&found.base.name, seen) {
        return Err(Invalid::new("name", why));
    }
    let current = current_of(&found, seen)?;
    found = typed(found, current, seen)?;
    rename(&mut found, names)?;
    let kernel_link = found.kind.space() == Space::Kernel && !found.kind.is_patch();
    let bad = match kernel_link {
        true => scalar::bad_interface_name(&found.base.name),
        false if found.kind.space() == Space::Vpn => None,
        false => scalar::bad_ovs_name(&found.base.name),
    };
    if let Some(why) = bad {
        return Err(Invalid::new("name", why));
    }
    if found.is_absent() {
        return Ok(without_properties(found));
    }
    strip_read_only(&mut found.base);
    let profile = Stock::of(&found.id(), seen).base.map(|b| &b.profile);
    found.restore_secrets(current, profile)?;
    let cx = Context {
        name: &found.base.name,
        new: found.is_up() && current.is_none() && profile.is_none(),
        wish: &found,
        facts: &seen.facts,
    };
    found.kind.validate(&cx)?;
    only_ethernet(&found, current)?;
    let made = profile.is_some_and(|p| p.str("connection", "type") == Some("veth"));
    exists_or_can(&found, current, made)?;
    if found.kind.space() != Space::Kernel {
        found.parts.refuse_beyond_kernel()?;
    }
    found.kind.complete(current.map(|c| &c.kind))?;
    found.parts.refuse_over(current.map(|c| &c.parts))?;
    for (key, ipv6, ip) in [("ipv4", false, &mut found.ipv4), ("ipv6", true, &mut found.ipv6)] {
        if let Some(ip) = ip {
            let now = current.and_then(|c| c.ip(ipv6));
            found.kind.complete_ip(ipv6, ip, now).map_err(|e| e.under(key))?;
        }
    }
    if let Some(mac) = &mut found.base.mac_address {
        *mac = scalar::mac(mac).unwrap_or_default();
    }
    Ok(found)
}

/// Hardware cannot be made, so a name that no link has can only be that of a profile: the one link whose profile of this name is bound to its
/// hardware rather than to a kernel name.
fn bound_by_profile(wish: &Interface, seen: &Observation) -> Option<String> {
    if seen.facts.link(wish.name()).is_some() || wish.kind.is_virtual() || wish.kind.space() != Space::Kernel {
        return None;
    }
    match seen.links_by_profile(wish.name()).as_slice() {
        [link] => {
            let id = Id::kernel(*link);
            let mut profiles = seen.profiles_of(&id);
            profiles.any(|p| p.interface().is_none()).then(|| (*link).to_owned())
        }
        _ => None,
    }
}

/// Replaces what the entry calls other interfaces.
fn rename(found: &mut Interface, names: &Names<'_>) -> Result<(), Invalid> {
    let mut fault = None;
    let mut kernel = |name: &mut String| match names.kernel(name) {
        Ok(known) => *name = known,
        Err(why) => fault = Some(why),
    };
    found.kind.rename(&mut kernel);
    let others = found
        .base
        .controller
        .iter_mut()
        .chain(found.base.copy_mac_from.iter_mut());
    others.filter(|name| !name.is_empty()).for_each(&mut kernel);
    fault.map_or(Ok(()), |why| Err(Invalid::new("", why)))
}

/// Kernel names of next hops, tables of VRFs; routes over interfaces that nobody may touch are left out.
fn routes(resolved: &mut Resolved, names: &Names<'_>, seen: &Observation) -> Result<(), Invalid> {
    let interfaces = &resolved.state.interfaces;
    for (i, route) in resolved
        .state
        .routes
        .iter_mut()
        .flat_map(|r| r.config.iter_mut().flatten())
        .enumerate()
    {
        let at = |key: &str| format!("routes.config[{i}].{key}");
        if route.is_ignored() {
            continue;
        }
        if let Some(name) = &mut route.next_hop_interface {
            *name = names
                .kernel(name)
                .map_err(|why| Invalid::new(at("next-hop-interface"), why))?;
        }
        if let Some(vrf) = route.vrf_name.take() {
            let table = table_of_vrf(&vrf, interfaces, names, seen).map_err(|why| Invalid::new(at("vrf-name"), why))?;
            if route.table_id.is_some_and(|t| t != 0 && t != table) {
                let why = format!("VRF {vrf} has table {table}, but table-id is {}", route.table());
                return Err(Invalid::new(at("vrf-name"), why));
            }
            route.table_id = Some(table);
        }
    }
    Ok(())
}

fn table_of_vrf(name: &str, wishes: &[Interface], names: &Names<'_>, seen: &Observation) -> Result<u32, String> {
    let name = names.kernel(name)?;
    let wish = wishes.iter().find(|i| i.name() == name);
    let current = seen.link(&name);
    if wish.is_some_and(|w| !w.is_up()) || (wish.is_none() && current.is_some_and(|c| !c.is_up())) {
        return Err(format!("VRF {name} is not up"));
    }
    let table = |i: &Interface| i.kind.route_table();
    match (
        wish.and_then(table).or_else(|| current.and_then(table)),
        wish.or(current),
    ) {
        (Some(table), _) => Ok(table),
        (None, Some(other)) => Err(format!("{name} is of type {}, not a VRF", other.kind.type_name())),
        (None, None) => Err(format!(
            "VRF {name} does not exist on the node and is not in this document"
        )),
    }
}

/// Link-local name servers may name their interface as anybody else.
fn scopes(dns: Option<&mut DnsResolver>, names: &Names<'_>) -> Result<(), Invalid> {
    let servers = dns.and_then(|d| d.config.as_mut()).and_then(|c| c.server.as_mut());
    for (i, server) in servers.into_iter().flatten().enumerate() {
        if let Some((address, scope)) = server.split_once('%') {
            let at = format!("dns-resolver.config.server[{i}]");
            let scope = names.kernel(scope).map_err(|why| Invalid::new(at, why))?;
            *server = format!("{address}%{scope}");
        }
    }
    Ok(())
}

/// The wish by its kernel name: looked up by name, MAC or PCI address. Found by an address, its own name is the profile's.
fn identified(wish: &Interface, seen: &Observation) -> Result<Interface, Invalid> {
    let mut found = wish.clone();
    let links = &seen.facts.links;
    let nobody = |key: &str, what: &str, wanted: Option<String>| {
        let wanted = wanted.unwrap_or_default();
        Invalid::new(key, format!("no interface has the {what} address {wanted}"))
    };
    let link = match wish.base.identifier.unwrap_or_default() {
        // a VPN is known by the name of its profile
        Identifier::Name if wish.kind.space() == Space::Vpn => return Ok(found),
        Identifier::Name => {
            found.base.name = kernel_name(&wish.base.name, seen).to_owned();
            return Ok(found);
        }
        Identifier::MacAddress => {
            let wanted = wish.base.mac_address.as_deref().and_then(scalar::mac);
            let holder = |burned_in: bool, hard: bool| {
                links.iter().find(|l| {
                    let mac = if burned_in { &l.permanent_mac } else { &l.mac };
                    // a bond, a bridge or a VLAN has the address of what it stands on
                    mac.is_some() && *mac == wanted && (!hard || matches!(l.kind.as_deref(), None | Some("veth")))
                })
            };
            let found = holder(true, true)
                .or_else(|| holder(false, true))
                .or_else(|| holder(false, false));
            found.ok_or_else(|| nobody("mac-address", "MAC", wanted))?
        }
        Identifier::PciAddress => {
            let wanted = wish.base.pci_address.as_deref().and_then(iface::pci);
            found.base.pci_address.clone_from(&wanted);
            let holder = links.iter().find(|l| wanted.is_some() && l.pci_address == wanted);
            holder.ok_or_else(|| nobody("pci-address", "PCI", wanted))?
        }
    };
    found.base.profile_name.get_or_insert(wish.base.name.clone());
    found.base.name.clone_from(&link.name);
    Ok(found)
}

/// What goes away has no properties.
fn without_properties(found: Interface) -> Interface {
    let Base {
        name,
        identifier,
        mac_address,
        pci_address,
        state,
        ..
    } = found.base;
    let bare = Interface::bare(&name, found.kind.type_name());
    Interface {
        base: Base {
            name,
            identifier,
            mac_address,
            pci_address,
            state,
            ..Base::default()
        },
        ..bare
    }
}

/// What the wish is about as it is now. A name without a type must mean one interface.
fn current_of<'a>(wish: &Interface, seen: &'a Observation) -> Result<Option<&'a Interface>, Invalid> {
    if !matches!(wish.kind.type_name(), "" | "unknown") {
        return Ok(seen.interface(&wish.id()));
    }
    let mut named = seen.state.interfaces.iter().filter(|i| i.name() == wish.name());
    match (named.next(), named.next()) {
        (Some(one), Some(other)) => Err(Invalid::new(
            "type",
            format!(
                "{} is the name of an {} and of an {}; say which",
                wish.name(),
                one.kind.type_name(),
                other.kind.type_name()
            ),
        )),
        (found, _) => Ok(found),
    }
}

/// Gives a type left out that of the interface there is; reads `ethernet` as veth where a veth stands.
fn typed(wish: Interface, current: Option<&Interface>, seen: &Observation) -> Result<Interface, Invalid> {
    let asked = wish.kind.type_name().to_owned();
    let saved = || profiles::saved_type(&wish.id(), seen);
    let known = current.map(|c| c.kind.type_name());
    let untyped = matches!(asked.as_str(), "" | "unknown") && !wish.is_absent();
    let is = known.or_else(|| saved().filter(|_| untyped)).map(str::to_owned);
    match (asked.as_str(), is.as_deref()) {
        ("" | "unknown", Some(is)) => wish.retyped(is),
        ("" | "unknown", None) if wish.is_absent() => Ok(wish),
        ("" | "unknown", None) => Err(Invalid::new(
            "type",
            "no interface of this name exists on the node, so its type must be given",
        )),
        ("ethernet", Some("veth")) => wish.retyped("veth"),
        (asked, Some(is)) if asked != is && !wish.is_absent() => Err(Invalid::new(
            "type",
            format!("the interface exists as {is}; remove it first to make it a {asked}"),
        )),
        _ => Ok(wish),
    }
}

/// `known`: there is a profile that makes it.
fn exists_or_can(wish: &Interface, current: Option<&Interface>, known: bool) -> Result<(), Invalid> {
    match (&wish.kind, current) {
        (kind, _) if kind.nm_type().is_empty() => Err(Invalid::new(
            "type",
            format!("interfaces of type '{}' cannot be configured", kind.type_name()),
        )),
        (kind, _) if kind.is_internal() => Err(Invalid::new(
            "type",
            format!(
                "{} is NetworkManager's own; list the port in its bridge",
                kind.type_name()
            ),
        )),
        (kind, None) if !kind.is_virtual() && !known => Err(Invalid::new(
            "",
            format!("no {} interface of this name exists on the node", kind.type_name()),
        )),
        _ => Ok(()),
    }
}

/// Other links have no address that can be set, and no promiscuous mode. What is there already may be written.
fn only_ethernet(wish: &Interface, current: Option<&Interface>) -> Result<(), Invalid> {
    if wish.kind.is_ethernet() || wish.base.identifier == Some(Identifier::MacAddress) {
        return Ok(());
    }
    let now = current.map(|c| &c.base);
    let refuse = |key: &str, what: &str| {
        let why = format!("{what} of an interface of type {} cannot be set", wish.kind.type_name());
        Err(Invalid::new(key, why))
    };
    let mac = wish.base.mac_address.as_deref().and_then(scalar::mac);
    if mac.is_some() && mac != now.and_then(|b| b.mac_address.clone()) {
        return refuse("mac-address", "the address");
    }
    match wish.base.accept_all_mac_addresses {
        Some(true) if now.and_then(|b| b.accept_all_mac_addresses) != Some(true) => {
            refuse("accept-all-mac-addresses", "the promiscuous mode")
        }
        _ => Ok(()),
    }
}

fn strip_read_only(base: &mut Base) {
    base.driver = None;
    base.permanent_mac_address = None;
    if base.identifier != Some(Identifier::PciAddress) {
        base.pci_address = None;
    }
    base.min_mtu = None;
    base.max_mtu = None;
}

/// A wish as a tree without its helper keys: what is compared with a reading.
pub fn comparable(interface: &Interface) -> Map<String, Value> {
    let mut tree = interface.tree();
    for key in ["name", "type", "state", "identifier", "copy-mac-from"]
        .iter()
        .chain(Base::READ_ONLY)
    {
        tree.remove(*key);
    }
    // the address by which it was found may be the burned-in one, which is not always in use
    if interface.base.identifier == Some(Identifier::MacAddress) {
        tree.remove("mac-address");
    }
    // a profile named like its interface is not shown
    if interface.base.profile_name.as_deref() == Some(interface.name()) {
        tree.remove("profile-name");
    }
    for (key, ipv6) in [("ipv4", false), ("ipv6", true)] {
        if let Some(Value::Object(ip)) = tree.get_mut(key) {
            iface::normalise_ip(ip, ipv6);
        }
    }
    for key in ["controller", "description"] {
        if tree.get(key).and_then(|c| c.as_str()) == Some("") {
            tree.insert(key.into(), Value::Null);
        }
    }
    // each name by itself: whether it is there is all that is asked
    if let Some(names) = &interface.base.alt_names {
        let there = |n: &AltName| {
            if n.state == Some(State::Absent) {
                Value::Null
            } else {
                Value::Bool(true)
            }
        };
        let by_name: Map<String, Value> = names.iter().map(|n| (n.name.clone(), there(n))).collect();
        tree.insert("alt-names".into(), Value::Object(by_name));
    }
    interface.kind.normalise(&mut tree);
    Parts::normalise(&mut tree);
    tree
}
