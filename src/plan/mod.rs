//! Decides what to do: desired over current gives a `Plan`, a value that the host only carries out. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::Invalid;
use crate::facts::Facts;
use crate::observation::Observation;
use crate::scalar::Id;
use crate::state::NetworkState;
use crate::state::part::ip::is_link_local;
use crate::step::Step;

pub mod claims;
pub mod companions;
pub mod conflict;
pub mod diff;
pub mod news;
pub mod offline;
pub mod profiles;
pub mod resolve;
pub mod revert;
pub mod sections;
mod steps;
pub mod topology;
pub mod validate;
pub mod verify;
mod work;

use sections::{Sections, View};
use topology::Graph;
use work::Work;

/// Everything that will happen to this node, decided before anything happens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Steps in waves: a wave starts when all of the one before are answered.
    pub waves: Vec<Vec<Step>>,
    /// The difference, one line a property, secrets hidden.
    pub lines: Vec<String>,
    /// Names of the interfaces it touches.
    pub touched: Vec<String>,
    /// Things left out or changed for a reason the user should know.
    pub warnings: Vec<String>,
    /// What must hold afterwards, by kernel names.
    pub expect: NetworkState,
    /// Addresses that go: as long as one is there, the old way out may still answer a probe.
    pub goes: Vec<(String, std::net::IpAddr)>,
    /// Addresses that come before the others of their subnet, where another one was the first: on its way there the kernel may flush all.
    pub leads: Vec<(String, IpNet)>,
    /// How long the node may take to become that, where it is longer than usual.
    pub patience: Duration,
    /// Virtual functions whose interfaces must appear: card and number.
    pub coming_vfs: Vec<(String, u32)>,
    /// The wish names what is only there after this plan: it is then planned again.
    pub more: bool,
}

impl Plan {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.waves.is_empty()
    }
}

/// Choices of the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep profiles off the disk; absent then means down.
    pub memory_only: bool,
    /// Interfaces of the document lose every setting that it does not name.
    pub override_iface: bool,
}

/// Decides.
pub fn plan(desired: &NetworkState, seen: &Observation) -> Result<Plan, Invalid> {
    plan_with(desired, seen, Options::default())
}

/// The last line of a plan that another one follows.
const THEN: &str = "what else the document asks for is planned when these virtual functions are there";

/// Decides as `options` say. Where the wish names what a card must bring first, only that is planned, and `more` follows.
pub fn plan_with(desired: &NetworkState, seen: &Observation, options: Options) -> Result<Plan, Invalid> {
    match resolve::cards_first(desired, seen) {
        None => decide(desired, seen, options),
        Some(cards) => {
            let mut plan = decide(&cards, seen, options)?;
            plan.lines.push(THEN.to_owned());
            Ok(Plan { more: true, ..plan })
        }
    }
}

/// A wish that can be planned.
#[derive(Debug)]
pub struct Checked {
    /// What `plan` would warn of.
    pub warnings: Vec<String>,
    resolved: NetworkState,
}

impl Checked {
    /// Whether another node's NetworkManager, and what it stands on, could do it. That node has what the one has that was looked at.
    pub fn supported(mut self, elsewhere: &Observation) -> Result<(), Invalid> {
        refuse_unsupported(&mut self.resolved, elsewhere)
    }
}

/// What `plan` would say against the wish, without the work of planning.
pub fn check(desired: &NetworkState, seen: &Observation) -> Result<Checked, Invalid> {
    let cards = resolve::cards_first(desired, seen);
    let laid = lay_out(cards.as_ref().unwrap_or(desired), seen, Options::default())?;
    Ok(Checked {
        warnings: laid.warnings,
        resolved: laid.resolved.state,
    })
}

/// The wish laid over the node: everything that can be wrong with it was looked at.
struct LaidOut {
    resolved: resolve::Resolved,
    graph: Graph,
    sections: Sections,
    warnings: Vec<String>,
}

fn lay_out(desired: &NetworkState, seen: &Observation, options: Options) -> Result<LaidOut, Invalid> {
    let mut resolved = resolve::resolve(desired, seen, options)?;
    let wishes = &mut resolved.state;
    if let Some(hostname) = wishes.hostname.as_mut().filter(|_| options.memory_only) {
        hostname.config = None;
    }
    refuse_unsupported(wishes, seen)?;
    let mut warnings = std::mem::take(&mut resolved.warnings);
    warnings.extend(copy_macs(wishes, seen)?);
    warnings.extend(skip_unsupported(wishes, seen));
    warnings.extend(skip_unused_ip(wishes, seen));
    validate::check(wishes, seen)?;
    let graph = topology::spread(&resolved, seen, options)?;
    claims::check(&graph, seen)?;
    warnings.extend(follow(&mut resolved.state, &graph));
    let view = View {
        resolved: &resolved.state,
        graph: &graph,
        seen,
        options,
    };
    let mut sections = sections::spread(&view)?;
    warnings.append(&mut sections.warnings);
    Ok(LaidOut {
        resolved,
        graph,
        sections,
        warnings,
    })
}

fn decide(desired: &NetworkState, seen: &Observation, options: Options) -> Result<Plan, Invalid> {
    let LaidOut {
        resolved,
        mut graph,
        sections,
        warnings,
    } = lay_out(desired, seen, options)?;
    let stale = Work::on(&graph, &sections, seen, options).stale();
    topology::renew(&mut graph, stale, seen);
    let mut work = Work::on(&graph, &sections, seen, options);
    let differences = verify::verify(&resolved.state, seen);
    differences.iter().for_each(|d| work.lines.push(d.to_string()));
    sections.lines.iter().for_each(|l| work.lines.push(l.clone()));
    let ids: BTreeSet<&Id> = graph.keys().chain(sections.extra.keys()).collect();
    ids.into_iter().for_each(|id| work.settle(id));
    let Work { mut steps, lines, .. } = work;
    steps.node.extend(sections.effects.iter().cloned().map(Step::Effect));
    let touched = steps.touched();
    let goes = steps
        .save
        .iter()
        .flat_map(|step| addresses_that_go(step, seen))
        .collect();
    let leads = steps
        .save
        .iter()
        .flat_map(|step| addresses_that_lead(step, &seen.facts))
        .collect();
    let coming_vfs = coming_vfs(&resolved.state, &steps.deactivate, seen);
    Ok(Plan {
        waves: steps.into_waves(),
        lines: lines.list,
        touched,
        warnings,
        expect: resolved.state,
        goes,
        leads,
        patience: vf_patience(coming_vfs.len()),
        coming_vfs,
        more: false,
    })
}

/// What follows for the state of a named interface is expected of it; says what.
fn follow(resolved: &mut NetworkState, graph: &Graph) -> Vec<String> {
    let mut warnings = vec![];
    for wish in &mut resolved.interfaces {
        if let Some(touched) = graph.get(&wish.id()).filter(|t| t.wish.base.state != wish.base.state) {
            warnings.push(format!("interfaces[{}]: {}", wish.name(), touched.because));
            wish.base.state = touched.wish.base.state;
        }
    }
    warnings
}

/// What the kernel has on an interface and its new profile does not give it any more.
fn addresses_that_go(step: &Step, seen: &Observation) -> Vec<(String, std::net::IpAddr)> {
    let Step::Save { iface, profile, .. } = step else {
        return vec![];
    };
    let Some(current) = seen.interface(iface) else {
        return vec![];
    };
    let mut goes = vec![];
    for (section, ip) in [("ipv4", &current.ipv4), ("ipv6", &current.ipv6)] {
        // what a server gives is for the server to say
        if matches!(profile.str(section, "method"), Some("auto" | "dhcp")) {
            continue;
        }
        let kept = |ip: &std::net::IpAddr| profile.addresses(section).any(|net| net.addr() == *ip);
        let listed = ip.iter().flat_map(|ip| ip.address.iter().flatten());
        let there = listed.filter(|a| !a.is_foreign()).map(|a| a.ip);
        goes.extend(
            there
                .filter(|ip| !kept(ip) && !is_kernels_own(ip))
                .map(|ip| (iface.name.clone(), ip)),
        );
    }
    goes
}

/// IPv4 addresses that become the first of their subnet (without `IFA_F_SECONDARY`) where another one is it now.
fn addresses_that_lead(step: &Step, facts: &Facts) -> Vec<(String, IpNet)> {
    let Step::Save { iface, profile, .. } = step else {
        return vec![];
    };
    let mut first: Vec<IpNet> = vec![];
    for net in profile.addresses("ipv4") {
        if !first.iter().any(|other| other.trunc() == net.trunc()) {
            first.push(net);
        }
    }
    let changes = |net: &IpNet| {
        facts
            .first_address(&iface.name, net)
            .is_some_and(|now| now != net.addr())
    };
    let leads = first.into_iter().filter(changes);
    leads.map(|net| (iface.name.clone(), net)).collect()
}

/// Loopback and link-local addresses come and go with the link.
fn is_kernels_own(ip: &std::net::IpAddr) -> bool {
    ip.is_loopback() || is_link_local(ip)
}

/// Virtual functions that are new after the plan: asked for, or made anew because their card goes down and up.
fn coming_vfs(resolved: &NetworkState, deactivate: &[Step], seen: &Observation) -> Vec<(String, u32)> {
    let mut all: Vec<(String, u32)> = vec![];
    for wish in resolved.interfaces.iter().filter(|i| i.is_up()) {
        let Some(current) = seen.interface(&wish.id()) else {
            continue;
        };
        let asked = wish.kind.coming_vfs(&current.kind);
        let goes_down = deactivate.iter().any(|s| s.interface() == Some(&wish.id()));
        let sriov = seen.facts.link(wish.name()).and_then(|l| l.sriov.as_ref());
        let again = sriov
            .filter(|s| goes_down && s.autoprobe != Some(false))
            .map_or(0, |s| s.count);
        let ids = if asked.is_empty() { 0..again } else { asked };
        all.extend(ids.map(|id| (wish.name().to_owned(), id)));
    }
    all
}

/// Drivers make virtual functions one by one: 64 took 22 s on one card and 300 s on another.
fn vf_patience(count: usize) -> Duration {
    let seconds = (count as u64 * 300).div_ceil(64);
    match count {
        0 => Duration::ZERO,
        _ => Duration::from_secs(seconds.clamp(30, 300)),
    }
}

fn refuse_unsupported(resolved: &mut NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for wish in resolved.interfaces.iter_mut().filter(|i| i.is_up()) {
        let label = format!("interfaces[{}]", wish.name());
        let link = seen.facts.link(wish.name());
        let kind = wish.kind.refuse_unsupported(&seen.facts);
        let parts = wish.parts.refuse_unsupported(link, &seen.facts).or_else(|fault| {
            // what is so already needs nothing of the node
            let news = news::of(wish, seen.interface(&wish.id()).ok_or(fault)?).parts;
            wish.parts = news;
            wish.parts.refuse_unsupported(link, &seen.facts)
        });
        kind.and(parts).map_err(|e| e.under(&label))?;
    }
    Ok(())
}

fn skip_unsupported(resolved: &mut NetworkState, seen: &Observation) -> Vec<String> {
    let mut warnings = vec![];
    for wish in &mut resolved.interfaces {
        for key in wish.kind.ignored() {
            if wish.drop_key(key) {
                let (name, kind) = (wish.name(), wish.kind.type_name());
                warnings.push(format!(
                    "interfaces[{name}].{key}: means nothing on an {kind}; left out"
                ));
            }
        }
        let link = seen.facts.link(wish.name());
        let forwarding = wish.ipv4.as_mut().and_then(|ip| ip.skip_unsupported(link, &seen.facts));
        for why in wish.kind.skip_unsupported(&seen.facts).into_iter().chain(forwarding) {
            warnings.push(format!("interfaces[{}]: {why}", wish.name()));
        }
        if let Some(why) = wish.kind.drops_mac()
            && wish.base.mac_address.take().is_some()
            && !why.is_empty()
        {
            warnings.push(format!("interfaces[{}].mac-address: left out: {why}", wish.name()));
        }
    }
    warnings
}

/// What is asked of an IP family that is off and stays so; says where.
fn skip_unused_ip(resolved: &mut NetworkState, seen: &Observation) -> Vec<String> {
    let mut warnings = vec![];
    for wish in resolved.interfaces.iter_mut().filter(|i| i.is_up()) {
        let (name, now) = (wish.name().to_owned(), seen.interface(&wish.id()));
        for (section, ipv6, ip) in [("ipv4", false, &mut wish.ipv4), ("ipv6", true, &mut wish.ipv6)] {
            let current = now.and_then(|c| c.ip(ipv6));
            if let Some(key) = ip.as_mut().and_then(|ip| ip.skip_unused(current)) {
                warnings.push(format!(
                    "interfaces[{name}].{section}.{key}: means nothing while {section} is off; enabled: true switches it on"
                ));
            }
        }
    }
    warnings
}

/// `copy-mac-from` becomes `mac-address`; says where it means nothing.
fn copy_macs(resolved: &mut NetworkState, seen: &Observation) -> Result<Vec<String>, Invalid> {
    let mut warnings = vec![];
    for wish in &mut resolved.interfaces {
        let Some(source) = wish.base.copy_mac_from.take().filter(|_| wish.is_up()) else {
            continue;
        };
        let label = format!("interfaces[{}].copy-mac-from", wish.name());
        if !wish.kind.copies_mac() {
            warnings.push(format!(
                "{label} is left out: an interface of type {} has its own",
                wish.kind.type_name()
            ));
            continue;
        }
        let Some(link) = seen.facts.link(&source) else {
            return Err(Invalid::new(
                label,
                format!("interface '{source}' does not exist on the node"),
            ));
        };
        let burned_in = link
            .permanent_mac
            .clone()
            .filter(|m| m.bytes().any(|b| !matches!(b, b'0' | b':')));
        let Some(mac) = burned_in.or_else(|| link.mac.clone()) else {
            return Err(Invalid::new(label, format!("interface '{source}' has no MAC address")));
        };
        wish.base.mac_address = Some(mac);
    }
    Ok(warnings)
}
