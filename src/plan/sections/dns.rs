//! Name servers have two homes: NetworkManager's global setting, which silences all others, and the profiles of interfaces.
//!
//! Global is the rule. Into profiles go link-local servers, search domains without servers (DHCP's stay in use), servers beside those of
//! DHCP (where the document asks for both), and what a profile held that goes out of force.

use std::collections::BTreeSet;

use crate::error::{ErrorKind, Invalid};
use crate::scalar::{Id, Space};
use crate::state::dns::{Dns, PRIORITY, Run, Share};
use crate::state::iface::Interface;
use crate::state::part::ip::Ip;
use crate::state::route::LOOPBACK;
use crate::step::Effect;

use super::{Sections, View};
use crate::plan::profiles::{Extra, Stock};

/// What is configured on the node.
fn configured(view: &View<'_>) -> Dns {
    let section = view.seen.state.dns_resolver.as_ref();
    section.and_then(|d| d.config.clone()).unwrap_or_default()
}

/// Finds the home of DNS where the wish changes it, or where a profile that holds it goes.
pub fn spread(view: &View<'_>, out: &mut Sections) -> Result<(), Invalid> {
    let now = configured(view);
    let wish = view.resolved.dns_resolver.as_ref().and_then(|d| d.config.as_ref());
    let holders = Holders::of(view);
    let Some(wish) = wish else {
        return move_on(view, &holders, out);
    };
    let wanted = Dns::merge(wish, &now);
    let at = |e: Invalid| e.under("dns-resolver.config");
    for scope in wanted.scopes() {
        view.family_with_dns(&Id::kernel(scope), true)
            .map_err(|why| at(Invalid::new("server", why)))?;
    }
    if wanted.is_like(&now) && holders.leaving.is_empty() {
        return Ok(());
    }
    if wanted.is_purge() {
        holders.clear(&BTreeSet::new(), out);
        out.effects
            .extend(view.seen.facts.dns.global.as_ref().map(|_| Effect::GlobalDns(None)));
        return Ok(());
    }
    let global = || Effect::GlobalDns(Some(wanted.to_global()));
    match home(view, &wanted) {
        Home::Profiles { must } => match place(view, &wanted, &holders) {
            Ok(placed) => {
                let kept: BTreeSet<Id> = placed.iter().map(|(id, _, _)| id.clone()).collect();
                holders.clear(&kept, out);
                put(view, placed, out);
                out.effects
                    .extend(view.seen.facts.dns.global.as_ref().map(|_| Effect::GlobalDns(None)));
            }
            Err(fault) if must => return Err(at(fault)),
            Err(_) => out.effects.push(global()),
        },
        Home::Global => out.effects.push(global()),
    }
    Ok(())
}

/// Where DNS shall live.
enum Home {
    Global,
    Profiles {
        /// Nothing else will do.
        must: bool,
    },
}

fn home(view: &View<'_>, wanted: &Dns) -> Home {
    let beside_dhcp = |i: &Interface| {
        let asks = |ip: &Ip| {
            ip.auto_dns
                .unwrap_or(ip.dhcp == Some(true) || ip.autoconf == Some(true))
        };
        let both = |ipv6: bool| i.ip(ipv6).is_some_and(asks) && is_auto(view, &i.id(), ipv6);
        i.is_up() && (both(false) || both(true))
    };
    if wanted.scopes().next().is_some() || wanted.server.iter().flatten().next().is_none() {
        Home::Profiles { must: true }
    } else if view.resolved.interfaces.iter().any(beside_dhcp) {
        Home::Profiles { must: false }
    } else {
        Home::Global
    }
}

/// Gets addresses from a server or router, as asked for or as it is.
fn is_auto(view: &View<'_>, id: &Id, ipv6: bool) -> bool {
    let wish = view.graph.get(id).and_then(|t| t.wish.ip(ipv6));
    let now = view.seen.interface(id).and_then(|i| i.ip(ipv6));
    let either = |key: fn(&Ip) -> Option<bool>| wish.and_then(key).or_else(|| now.and_then(key)).unwrap_or(false);
    either(|ip| ip.enabled) && (either(|ip| ip.dhcp) || either(|ip| ip.autoconf))
}

/// Profiles in force that hold DNS.
struct Holders {
    /// Each share, with its interface and family.
    shares: Vec<(Id, bool, Share)>,
    /// Those whose family, interface or profile goes.
    leaving: Vec<(Id, bool, Share)>,
}

impl Holders {
    fn of(view: &View<'_>) -> Self {
        let mut shares = vec![];
        for id in view
            .seen
            .ids_with_profiles()
            .filter(|id| id.space == Space::Kernel && view.active(id))
        {
            let Some(base) = Stock::of(id, view.seen).base else {
                continue;
            };
            for ipv6 in [false, true] {
                let share = Share::of_profile(ipv6, &base.profile);
                if !share.is_empty() {
                    shares.push((id.clone(), ipv6, share));
                }
            }
        }
        // with a global setting in force nobody asks them
        let used = view.seen.facts.dns.global.is_none();
        let goes = |(id, ipv6, _): &&(Id, bool, Share)| {
            used && view.graph.contains_key(id) && view.family_with_dns(id, *ipv6).is_err()
        };
        let leaving = shares.iter().filter(goes).cloned().collect();
        Holders { shares, leaving }
    }

    fn holds(&self, id: &Id) -> bool {
        self.shares.iter().any(|(holder, _, _)| holder == id)
    }

    /// Takes DNS out of every profile but these.
    fn clear(&self, kept: &BTreeSet<Id>, out: &mut Sections) {
        for (id, _, _) in self.shares.iter().filter(|(id, _, _)| !kept.contains(id)) {
            let extra: &mut Extra = out.extra.entry(id.clone()).or_default();
            extra.dns = Some([Share::default(), Share::default()]);
        }
    }
}

/// A share, and the interface and family that keep it.
type Placed = Vec<(Id, bool, Share)>;

fn put(view: &View<'_>, placed: Placed, out: &mut Sections) {
    for (id, ipv6, share) in placed {
        let down = view.is_down(&id);
        let extra: &mut Extra = out.extra.entry(id).or_default();
        extra.activate |= down;
        extra.dns.get_or_insert_default()[usize::from(ipv6)] = share;
    }
}

/// Interfaces that can hold DNS: those that get addresses from a server first, then named ones, then those that hold some already.
fn candidates(view: &View<'_>, holders: &Holders) -> Vec<Id> {
    let mut ids = view.candidates();
    ids.retain(|id| id.name != LOOPBACK);
    let auto = |id: &Id| is_auto(view, id, false) || is_auto(view, id, true);
    let named = |id: &Id| view.graph.get(id).is_some_and(|t| t.named);
    ids.sort_by_cached_key(|id| (!auto(id), !named(id), !holders.holds(id)));
    ids
}

/// Gives each run of servers a family of an interface of its own, in order; search domains and options go with the first.
fn place(view: &View<'_>, wanted: &Dns, holders: &Holders) -> Result<Placed, Invalid> {
    let ids = candidates(view, holders);
    let can = |id: &Id, ipv6: bool| view.can_keep(id, ipv6) && view.family_with_dns(id, ipv6).is_ok();
    let mut placed: Placed = vec![];
    let main = wanted.scopes().next().map(Id::kernel);
    for (nth, run) in (0i32..).zip(wanted.runs()) {
        let Run { ipv6, scope, servers } = run;
        let free = |id: &Id| !placed.iter().any(|(other, v6, _)| other == id && *v6 == ipv6);
        let found = match &scope {
            Some(scope) => Some(Id::kernel(scope)).filter(|id| free(id)),
            // what is held together goes best with one interface
            None => {
                let first = placed.first().map(|(id, _, _)| id).or(main.as_ref());
                first
                    .into_iter()
                    .chain(&ids)
                    .find(|id| free(id) && can(id, ipv6))
                    .cloned()
            }
        };
        let Some(id) = found else {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let why = format!(
                "no managed interface is left to keep the {family} servers {}; NetworkManager keeps one run of servers for each interface and family",
                servers.join(", ")
            );
            return Err(Invalid::of(ErrorKind::NotImplementedError, "server", why));
        };
        let share = Share {
            servers,
            priority: PRIORITY + 10 * nth,
            ..Share::default()
        };
        placed.push((id, ipv6, share));
    }
    if placed.is_empty() {
        let spot = |id: &Id| {
            [false, true]
                .into_iter()
                .find(|v6| can(id, *v6))
                .map(|v6| (id.clone(), v6))
        };
        let Some((id, ipv6)) = ids.iter().find_map(spot) else {
            let why = "no managed interface with IP enabled could keep the search domains";
            return Err(Invalid::new("", why));
        };
        let share = Share {
            priority: PRIORITY,
            ..Share::default()
        };
        placed.push((id, ipv6, share));
    }
    let (_, _, first) = &mut placed[0];
    first.searches = wanted.search.clone().unwrap_or_default();
    first.options = wanted.options.clone().unwrap_or_default();
    Ok(placed)
}

/// Nobody asked for other servers, but a profile that holds some goes out of force: they move to another, or else become global.
fn move_on(view: &View<'_>, holders: &Holders, out: &mut Sections) -> Result<(), Invalid> {
    if holders.leaving.is_empty() {
        return Ok(());
    }
    let goes = |server: &String| {
        let scope = server.split_once('%').map(|(_, scope)| Id::kernel(scope));
        scope.is_some_and(|id| view.family_with_dns(&id, true).is_err())
    };
    let mut wanted = configured(view);
    wanted.server.iter_mut().for_each(|list| list.retain(|s| !goes(s)));
    let from: BTreeSet<&str> = holders.leaving.iter().map(|(id, _, _)| id.name.as_str()).collect();
    let from = Vec::from_iter(from).join(", ");
    if wanted.is_purge() {
        out.lines
            .push(format!("dns-resolver: link-local name servers → gone with {from}"));
        return Ok(());
    }
    match place(view, &wanted, holders) {
        Ok(placed) => {
            let to: BTreeSet<Id> = placed.iter().map(|(id, _, _)| id.clone()).collect();
            let names: Vec<&str> = to.iter().map(|id| id.name.as_str()).collect();
            out.lines
                .push(format!("dns-resolver: kept by {} instead of {from}", names.join(", ")));
            holders.clear(&to, out);
            put(view, placed, out);
        }
        Err(_) if wanted.server.iter().flatten().next().is_some() => {
            out.lines
                .push(format!("dns-resolver: kept by the global setting instead of {from}"));
            out.effects.push(Effect::GlobalDns(Some(wanted.to_global())));
        }
        Err(_) => out.warnings.push(format!(
            "dns-resolver: search domains and options go with {from}, as no other managed interface could keep them"
        )),
    }
    Ok(())
}
