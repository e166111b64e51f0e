//! Node-wide sections spread over interfaces: which profile keeps which route, rule and name server.

use std::collections::BTreeMap;

use crate::error::Invalid;
use crate::observation::Observation;
use crate::scalar::Id;
use crate::state::NetworkState;
use crate::state::iface::State;
use crate::state::part::ip::Ip;
use crate::step::Effect;

use super::Options;
use super::profiles::{Extra, Stock};
use super::topology::{self, Graph};

mod dns;
mod node;
mod routes;
mod rules;

/// What each interface's profile gets, and what belongs to no profile.
#[derive(Debug, Default)]
pub struct Sections {
    /// By interface.
    pub extra: BTreeMap<Id, Extra>,
    /// What belongs to no profile.
    pub effects: Vec<Effect>,
    /// Lines of the plan about what follows without having been asked for.
    pub lines: Vec<String>,
    /// What cannot be as asked for, and why.
    pub warnings: Vec<String>,
}

/// Spreads routes, rules and DNS; and what else is of the node as a whole.
pub fn spread(view: &View<'_>) -> Result<Sections, Invalid> {
    let mut out = Sections::default();
    routes::spread(view, &mut out)?;
    rules::spread(view, &mut out)?;
    dns::spread(view, &mut out)?;
    node::hostname(view.resolved, view.seen, &mut out);
    node::ovs(view.resolved, view.seen, &mut out)?;
    Ok(out)
}

/// What is and what will be, as the sections look at it.
pub struct View<'a> {
    /// The wish in kernel names.
    pub resolved: &'a NetworkState,
    /// Touched interfaces.
    pub graph: &'a Graph,
    /// What is.
    pub seen: &'a Observation,
    /// Choices of the caller.
    pub options: Options,
}

/// How far an interface gets with an IP family.
enum Reach {
    Nothing,
    /// IPv6 without any address but the link-local one.
    LinkLocal,
    Routed,
}

impl Reach {
    fn of(ip: &Ip, ipv6: bool) -> Self {
        match ip.is_enabled() {
            false => Reach::Nothing,
            true if ipv6 && !ip.is_in_use(false) => Reach::LinkLocal,
            true => Reach::Routed,
        }
    }
}

impl View<'_> {
    /// Whether an interface will have an IP family; why not.
    fn family(&self, id: &Id, ipv6: bool) -> Result<(), String> {
        let name = &id.name;
        let touched = self.graph.get(id);
        let current = self.seen.interface(id);
        let up = match touched.map(|t| t.wish.base.state.unwrap_or_default()) {
            Some(State::Absent) => return Err(format!("interface '{name}' is made absent by the same document")),
            Some(State::Down) => return Err(format!("interface '{name}' is taken down by the same document")),
            Some(_) => true,
            None => false,
        };
        let ignored = current.is_some_and(|c| c.is_ignored());
        match current {
            None if !up => {
                let why = "does not exist on the node and is not in this document";
                return Err(format!("interface '{name}' {why}"));
            }
            Some(_) if ignored && !up => {
                return Err(format!(
                    "NetworkManager leaves '{name}' alone; name it with state: up to change that"
                ));
            }
            _ => {}
        }
        if let Some(controller) = self.bare_port_of(id) {
            return Err(format!("'{name}' is a port of {} and has no IP", controller.name));
        }
        let word = if ipv6 { "IPv6" } else { "IPv4" };
        match self.reach(id, ipv6) {
            Reach::Nothing => Err(format!("{word} is not enabled on '{name}'")),
            _ => Ok(()),
        }
    }

    /// The same for name servers and search domains, which NetworkManager does not take beside `ipv6.method` link-local.
    fn family_with_dns(&self, id: &Id, ipv6: bool) -> Result<(), String> {
        self.family(id, ipv6)?;
        match self.reach(id, ipv6) {
            Reach::LinkLocal => Err(format!(
                "'{}' has no IPv6 but its link-local address, and NetworkManager keeps no name servers with that; it needs an address, autoconf or dhcp",
                id.name
            )),
            _ => Ok(()),
        }
    }

    /// As asked for; else as it is; of an interface that is down as its profile has it.
    fn reach(&self, id: &Id, ipv6: bool) -> Reach {
        let touched = self.graph.get(id);
        let wish = touched.and_then(|t| t.wish.ip(ipv6));
        let bare = self.options.override_iface && touched.is_some_and(|t| t.named);
        let current = self.seen.interface(id).filter(|_| !bare);
        let now = current.and_then(|c| c.ip(ipv6));
        if let Some(wish) = wish {
            let after = Ip::merge(wish, now);
            return match after.is_in_use(ipv6) {
                true => Reach::of(&after, ipv6),
                false => Reach::Nothing,
            };
        }
        let section = if ipv6 { "ipv6" } else { "ipv4" };
        let down = current.is_none_or(|c| c.base.state == Some(State::Down));
        match Stock::of(id, self.seen).base.filter(|_| down && !bare) {
            Some(base) => match base.profile.str(section, "method") {
                None | Some("disabled" | "ignore") => Reach::Nothing,
                Some("link-local") => Reach::LinkLocal,
                Some(_) => Reach::Routed,
            },
            None => now.map_or(Reach::Nothing, |ip| Reach::of(ip, ipv6)),
        }
    }

    /// The controller of a port that cannot carry IP.
    fn bare_port_of(&self, id: &Id) -> Option<Id> {
        let controller = topology::controller_after(id, self.graph, self.seen)?;
        let wish = self.graph.get(&controller).map(|t| &t.wish);
        let kind = wish.or_else(|| self.seen.interface(&controller)).map(|c| &c.kind)?;
        let own = self.graph.get(id).map(|t| &t.wish).or_else(|| self.seen.interface(id));
        let carries = kind.ports_carry_ip() || own.is_some_and(|i| i.kind.needs_controller());
        (!carries).then_some(controller)
    }

    /// It has this family and a profile, or gets one, so that something can be kept with it.
    fn can_keep(&self, id: &Id, ipv6: bool) -> bool {
        let named = self.graph.get(id).is_some_and(|t| t.named);
        let down = self
            .seen
            .interface(id)
            .is_none_or(|c| c.base.state == Some(State::Down));
        let kept = || !down && Stock::of(id, self.seen).base.is_some();
        (named || kept()) && self.family(id, ipv6).is_ok()
    }

    /// Will have its profile in force after the plan.
    fn in_force(&self, id: &Id) -> bool {
        match self.graph.get(id) {
            Some(touched) => touched.wish.is_up(),
            None => self.active(id),
        }
    }

    /// Has a profile of its own in force now.
    fn active(&self, id: &Id) -> bool {
        let device = self.seen.facts.device_of(id);
        device.is_some_and(|d| d.active.is_some() && !d.external())
    }

    /// Is down and not named, though NetworkManager would bring it up.
    fn is_down(&self, id: &Id) -> bool {
        let down = self
            .seen
            .interface(id)
            .is_some_and(|c| c.base.state == Some(State::Down));
        down && !self.graph.contains_key(id)
    }

    /// NetworkManager keeps loopback with a profile since 1.42.
    fn loopback_keeps(&self) -> Result<(), Invalid> {
        let what = "keeping it with the loopback interface";
        self.seen.facts.needs_nm("1.42", "", what)
    }

    /// Every kernel link there is, named ones first, then by name.
    fn candidates(&self) -> Vec<Id> {
        let named = self.graph.iter().filter(|(_, t)| t.named).map(|(id, _)| id.clone());
        let mut rest: Vec<Id> = self.seen.facts.links.iter().map(|l| Id::kernel(&l.name)).collect();
        rest.sort();
        rest.retain(|id| !self.graph.get(id).is_some_and(|t| t.named));
        named.chain(rest).collect()
    }
}
