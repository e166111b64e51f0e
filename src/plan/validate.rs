//! Rules that need the wish laid over the node: limits of the hardware, names that must be unique, families that are waited for. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Invalid;
use crate::observation::Observation;
use crate::scalar::{self, Space};
use crate::state::NetworkState;
use crate::state::iface::{Interface, State};
use crate::state::part::ip::Ip;

/// The least MTU with which the kernel carries IPv6 (RFC 8200, `IPV6_MIN_MTU`).
const IPV6_MTU: u32 = 1280;

/// Faults of the resolved wish.
pub fn check(resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for wish in resolved.interfaces.iter().filter(|i| i.is_up()) {
        let current = seen.interface(&wish.id());
        let ip = families(wish, current);
        let checked = ip
            .and_then(|()| waits_for_what_is_on(wish, current))
            .and_then(|()| mtu(wish, current))
            .and_then(|()| mac_address(wish, current));
        checked.map_err(|e| e.under(&format!("interfaces[{}]", wish.name())))?;
    }
    alt_names(resolved, seen)
}

fn families(wish: &Interface, current: Option<&Interface>) -> Result<(), Invalid> {
    for (section, ipv6) in [("ipv4", false), ("ipv6", true)] {
        if let Some(ip) = wish.ip(ipv6) {
            let now = current.and_then(|c| c.ip(ipv6));
            Ip::validate_merged(ip, now).map_err(|e| e.under(section))?;
            // those of a VPN come from its other end
            let needs_one = !ipv6 && wish.kind.space() != Space::Vpn;
            if needs_one && Ip::lacks_address(ip, now) {
                let why = "IPv4 needs an address to be on; give it an `address` or `dhcp: true`";
                return Err(Invalid::new("ipv4.enabled", why));
            }
        }
    }
    Ok(())
}

/// The family is on after the wish.
fn enabled(wish: &Interface, current: Option<&Interface>, ipv6: bool) -> bool {
    let now = current.and_then(|c| c.ip(ipv6)).is_some_and(Ip::is_enabled);
    wish.ip(ipv6).and_then(|ip| ip.enabled).unwrap_or(now)
}

fn waits_for_what_is_on(wish: &Interface, current: Option<&Interface>) -> Result<(), Invalid> {
    let Some(wait) = wish.base.wait_ip else { return Ok(()) };
    for (name, ipv6) in [("IPv4", false), ("IPv6", true)] {
        if wait.needs(ipv6) && !enabled(wish, current, ipv6) {
            return Err(Invalid::new(
                "wait-ip",
                format!("it waits for {name}, which is not enabled"),
            ));
        }
    }
    Ok(())
}

fn mtu(wish: &Interface, current: Option<&Interface>) -> Result<(), Invalid> {
    let now = current.map(|c| &c.base);
    if let Some(mtu) = wish.base.mtu {
        if let Some(most) = now.and_then(|b| b.max_mtu).filter(|most| mtu > *most) {
            return Err(Invalid::new(
                "mtu",
                format!("{mtu} is more than the {most} that the kernel allows here"),
            ));
        }
        if let Some(least) = now.and_then(|b| b.min_mtu).filter(|least| mtu < *least) {
            return Err(Invalid::new(
                "mtu",
                format!("{mtu} is less than the {least} that the kernel allows here"),
            ));
        }
    }
    let asked = wish.base.mtu.is_some() || wish.ipv6.is_some();
    let after = wish.base.mtu.or(now.and_then(|b| b.mtu));
    match after.filter(|mtu| asked && *mtu < IPV6_MTU && enabled(wish, current, true)) {
        Some(mtu) => Err(Invalid::new(
            "mtu",
            format!("{mtu} is less than the {IPV6_MTU} that IPv6 needs"),
        )),
        None => Ok(()),
    }
}

/// An address that the kernel gives to no interface (`is_valid_ether_addr`). What has such a one already may keep it.
fn mac_address(wish: &Interface, current: Option<&Interface>) -> Result<(), Invalid> {
    let has = |i: &Interface| i.base.mac_address.as_deref().and_then(scalar::mac_bytes);
    match has(wish).filter(|mac| mac.len() == 6 && current.and_then(has).as_ref() != Some(mac)) {
        Some(mac) if mac[0] & 1 == 1 => Err(Invalid::new(
            "mac-address",
            format!("{} is the address of a group", scalar::mac_text(&mac)),
        )),
        Some(mac) if mac.iter().all(|b| *b == 0) => Err(Invalid::new("mac-address", "it is none at all")),
        _ => Ok(()),
    }
}

/// A name may be given once, be it the kernel's or an extra one.
fn alt_names(resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    let gone: BTreeSet<&str> = resolved
        .interfaces
        .iter()
        .filter(|i| i.is_absent())
        .map(Interface::name)
        .collect();
    let mut lost: BTreeSet<(&str, &str)> = BTreeSet::new();
    for wish in &resolved.interfaces {
        let absent = wish
            .base
            .alt_names
            .iter()
            .flatten()
            .filter(|n| n.state == Some(State::Absent));
        lost.extend(absent.map(|n| (wish.name(), n.name.as_str())));
    }
    let mut holder: BTreeMap<&str, &str> = BTreeMap::new();
    for link in seen.facts.links.iter().filter(|l| !gone.contains(l.name.as_str())) {
        holder.insert(&link.name, &link.name);
        let stay = link
            .alt_names
            .iter()
            .filter(|alt| !lost.contains(&(link.name.as_str(), alt.as_str())));
        holder.extend(stay.map(|alt| (alt.as_str(), link.name.as_str())));
    }
    holder.extend(
        resolved
            .interfaces
            .iter()
            .filter(|i| !i.is_absent())
            .map(|i| (i.name(), i.name())),
    );
    for wish in resolved.interfaces.iter().filter(|i| !i.is_absent()) {
        let given = wish.base.alt_names.iter().flatten().enumerate();
        for (i, alt) in given.filter(|(_, n)| n.state != Some(State::Absent)) {
            let fault = |why: String| {
                let path = format!("interfaces[{}].alt-names[{i}].name", wish.name());
                Err(Invalid::new(path, why))
            };
            if alt.name == wish.name() {
                return fault(format!("'{}' is the interface's own name", alt.name));
            }
            match holder.insert(&alt.name, wish.name()) {
                Some(other) if other == alt.name => return fault(format!("'{other}' is the name of an interface")),
                Some(other) if other != wish.name() => {
                    return fault(format!("'{}' is an extra name of {other} already", alt.name));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
