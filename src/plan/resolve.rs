//! From the user's names and types to the kernel's: alt-names, MAC identifiers, types left out, ethernet that is a veth.

use crate::error::Invalid;
use crate::host::Observation;
use crate::scalar::{self, Space};
use crate::state::iface::{AnyKind, Base, Context, Identifier, Interface};
use crate::state::{NetworkState, iface};

/// The wish with kernel names and known types; read-only keys and ignored interfaces left out.
pub fn resolve(desired: &NetworkState, seen: &Observation) -> Result<NetworkState, Invalid> {
    let mut resolved = desired.clone();
    resolved.interfaces.clear();
    for wish in &desired.interfaces {
        if wish.is_ignored() {
            continue;
        }
        let label = format!("interfaces[{}]", wish.base.name);
        let found = interface(wish, seen).map_err(|e| e.under(&label))?;
        if resolved.interfaces.iter().any(|i| i.id() == found.id()) {
            return Err(Invalid::new(
                label,
                format!("another entry already names interface {}", found.name()),
            ));
        }
        resolved.interfaces.push(found);
    }
    give_ports(&mut resolved, seen);
    for route in resolved.routes.iter_mut().flat_map(|r| r.config.iter_mut().flatten()) {
        if let Some(name) = &mut route.next_hop_interface {
            *name = kernel_name(name, seen).to_owned();
        }
    }
    Ok(resolved)
}

/// What cannot be without a port gets one of its own name, unless others name it as their controller.
fn give_ports(resolved: &mut NetworkState, seen: &Observation) {
    let joined = |name: &str| {
        let mut others = resolved.interfaces.iter().filter(|i| i.is_up());
        others.any(|i| i.base.controller.as_deref() == Some(name))
    };
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

/// The kernel's name for a name or alt-name.
pub fn kernel_name<'a>(name: &'a str, seen: &'a Observation) -> &'a str {
    if seen.facts.link(name).is_some() {
        return name;
    }
    let by_alt = seen.facts.links.iter().find(|l| l.alt_names.iter().any(|a| a == name));
    by_alt.map_or(name, |l| l.name.as_str())
}

fn interface(wish: &Interface, seen: &Observation) -> Result<Interface, Invalid> {
    let mut found = wish.clone();
    match wish.base.identifier.unwrap_or_default() {
        Identifier::Name => found.base.name = kernel_name(&wish.base.name, seen).to_owned(),
        Identifier::MacAddress => {
            let wanted = wish.base.mac_address.as_deref().and_then(scalar::mac);
            let holder = |burned_in: bool| {
                seen.facts.links.iter().find(|l| {
                    let mac = if burned_in { &l.permanent_mac } else { &l.mac };
                    mac.is_some() && *mac == wanted
                })
            };
            let Some(link) = holder(true).or_else(|| holder(false)) else {
                return Err(Invalid::new(
                    "mac-address",
                    format!("no interface has the MAC address {}", wanted.unwrap_or_default()),
                ));
            };
            found.base.profile_name.get_or_insert(wish.base.name.clone());
            found.base.name.clone_from(&link.name);
        }
    }
    let current = current_of(&found, seen)?;
    found = typed(found, current)?;
    let kernel = |name: &mut String| *name = kernel_name(name, seen).to_owned();
    found.kind.rename(&mut { kernel });
    found.base.controller.iter_mut().for_each(kernel);
    let kernel_link = found.kind.space() == Space::Kernel && !found.kind.is_patch();
    let bad = match kernel_link {
        true => scalar::bad_interface_name(&found.base.name),
        false => scalar::bad_long_name(&found.base.name),
    };
    if let Some(why) = bad {
        return Err(Invalid::new("name", why));
    }
    if found.is_absent() {
        // what goes away has no properties
        let Base {
            name,
            identifier,
            mac_address,
            state,
            ..
        } = found.base;
        let bare = Interface::bare(&name, found.kind.type_name());
        return Ok(Interface {
            base: Base {
                name,
                identifier,
                mac_address,
                state,
                ..Base::default()
            },
            ..bare
        });
    }
    strip_read_only(&mut found.base);
    let cx = Context {
        name: &found.base.name,
        new: current.is_none(),
        wish: &found,
        facts: &seen.facts,
    };
    found.kind.validate(&cx)?;
    exists_or_can(&found, current)?;
    if let Some(mac) = &mut found.base.mac_address {
        *mac = scalar::mac(mac).unwrap_or_default();
    }
    Ok(found)
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
fn typed(wish: Interface, current: Option<&Interface>) -> Result<Interface, Invalid> {
    let asked = wish.kind.type_name().to_owned();
    let is = current.map(|c| c.kind.type_name().to_owned());
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

fn exists_or_can(wish: &Interface, current: Option<&Interface>) -> Result<(), Invalid> {
    match (&wish.kind, current) {
        (AnyKind::Other(other), _) => Err(Invalid::new(
            "type",
            format!("interfaces of type '{}' cannot be configured", other.type_name),
        )),
        (kind, _) if kind.is_internal() => Err(Invalid::new(
            "type",
            format!(
                "{} is NetworkManager's own; list the port in its bridge",
                kind.type_name()
            ),
        )),
        (kind, None) if !kind.is_virtual() => Err(Invalid::new(
            "",
            format!("no {} interface of this name exists on the node", kind.type_name()),
        )),
        _ => Ok(()),
    }
}

fn strip_read_only(base: &mut Base) {
    base.driver = None;
    base.permanent_mac_address = None;
    base.pci_address = None;
    base.min_mtu = None;
    base.max_mtu = None;
}

/// A wish as a tree without its helper keys: what is compared with a reading.
pub fn comparable(interface: &Interface) -> serde_json::Map<String, serde_json::Value> {
    let mut tree = interface.tree();
    for key in ["name", "type", "state", "identifier"].iter().chain(Base::READ_ONLY) {
        tree.remove(*key);
    }
    // a profile named like its interface is not shown
    if interface.base.profile_name.as_deref() == Some(interface.name()) {
        tree.remove("profile-name");
    }
    for (key, ipv6) in [("ipv4", false), ("ipv6", true)] {
        if let Some(serde_json::Value::Object(ip)) = tree.get_mut(key) {
            iface::normalise_ip(ip, ipv6);
        }
    }
    if tree.get("controller").and_then(|c| c.as_str()) == Some("") {
        tree.insert("controller".into(), serde_json::Value::Null);
    }
    interface.kind.normalise(&mut tree);
    tree
}
