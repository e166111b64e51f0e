//! Decides what to do: desired over current gives a `Plan`, a value that the host only carries out. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Invalid;
use crate::host::{Observation, Step};
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::state::iface::{AnyKind, Interface, State};

pub mod companions;
pub mod diff;
pub mod offline;
pub mod profiles;
pub mod resolve;
pub mod revert;
pub mod sections;
pub mod topology;
pub mod verify;

use profiles::{Extra, Stock};
use sections::Sections;
use topology::{Graph, Membership, Touched};

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

/// Decides as `options` say.
pub fn plan_with(desired: &NetworkState, seen: &Observation, options: Options) -> Result<Plan, Invalid> {
    let mut resolved = resolve::resolve(desired, seen)?;
    refuse_unsupported(&resolved, seen)?;
    let warnings = skip_unsupported(&mut resolved, seen);
    let graph = topology::spread(&resolved, seen)?;
    let sections = sections::spread(&resolved, &graph, seen)?;
    let mut steps = Steps {
        options,
        ..Steps::default()
    };
    let mut lines: Vec<String> = verify::verify(&resolved, seen)
        .iter()
        .map(ToString::to_string)
        .collect();
    lines.extend(sections.lines.iter().cloned());
    let ids: BTreeSet<&Id> = graph.keys().chain(sections.extra.keys()).collect();
    for id in ids {
        match graph.get(id) {
            Some(t) if t.wish.is_absent() => steps.remove(id, t, seen, &mut lines),
            Some(t) if t.wish.base.state == Some(State::Down) => {
                steps.take_members_down(id, &graph, seen);
                steps.take_down(id, seen);
            }
            touched => steps.bring_up(id, touched, &graph, &sections, seen, &mut lines),
        }
    }
    steps.node.extend(sections.effects.iter().cloned().map(Step::Effect));
    let touched = steps.touched();
    let goes = steps
        .save
        .iter()
        .flat_map(|step| addresses_that_go(step, seen))
        .collect();
    Ok(Plan {
        waves: steps.into_waves(),
        lines,
        touched,
        warnings,
        expect: resolved,
        goes,
    })
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
        let kept = |ip: &std::net::IpAddr| {
            let text = crate::profile::Value::Str(ip.to_string());
            profile
                .dicts(section, "address-data")
                .iter()
                .any(|d| d.get("address") == Some(&text))
        };
        let there = ip.iter().flat_map(|ip| ip.address.iter().flatten()).map(|a| a.ip);
        goes.extend(
            there
                .filter(|ip| !kept(ip) && !is_kernels_own(ip))
                .map(|ip| (iface.name.clone(), ip)),
        );
    }
    goes
}

/// Loopback and link-local addresses come and go with the link.
fn is_kernels_own(ip: &std::net::IpAddr) -> bool {
    ip.is_loopback() || matches!(ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn refuse_unsupported(resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    for wish in resolved.interfaces.iter().filter(|i| i.is_up()) {
        let label = format!("interfaces[{}]", wish.name());
        let link = seen.facts.link(wish.name());
        let kind = wish.kind.refuse_unsupported(&seen.facts);
        kind.and_then(|()| wish.parts.refuse_unsupported(link, &seen.facts))
            .map_err(|e| e.under(&label))?;
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
        if let Some(why) = wish.kind.skip_unsupported(&seen.facts) {
            warnings.push(format!("interfaces[{}]: {why}", wish.name()));
        }
    }
    warnings
}

/// Steps while they are collected.
#[derive(Debug, Default)]
struct Steps {
    options: Options,
    forget: Vec<Step>,
    save: Vec<Step>,
    deactivate: Vec<Step>,
    activate: BTreeMap<usize, Vec<Step>>,
    above: BTreeMap<Id, Id>,
    after: Vec<Step>,
    node: Vec<Step>,
}

impl Steps {
    fn into_waves(self) -> Vec<Vec<Step>> {
        let Steps {
            options: _,
            forget,
            save,
            deactivate,
            mut activate,
            above,
            after,
            node,
        } = self;
        let begun = |s: &Step| match s {
            Step::Activate { iface, .. } => Some(iface.clone()),
            _ => None,
        };
        let begun: BTreeSet<Id> = activate.values().flatten().filter_map(begun).collect();
        for step in activate.values_mut().flatten() {
            if let Step::Activate { iface, follows, .. } = step {
                *follows = above.get(iface).is_some_and(|c| begun.contains(c));
            }
        }
        let mut waves = vec![forget, save, deactivate];
        waves.extend(activate.into_values());
        waves.push(after);
        waves.push(node);
        waves.retain(|w| !w.is_empty());
        waves
    }

    fn touched(&self) -> Vec<String> {
        let all = self
            .forget
            .iter()
            .chain(&self.save)
            .chain(self.activate.values().flatten())
            .chain(&self.after);
        let mut names: Vec<String> = all.filter_map(|s| s.interface().map(|id| id.name.clone())).collect();
        names.sort();
        names.dedup();
        names
    }

    fn remove(&mut self, id: &Id, touched: &Touched, seen: &Observation, lines: &mut Vec<String>) {
        let current = seen.interface(id);
        let virtual_link = current.is_some_and(|c| c.kind.is_virtual());
        if self.options.memory_only {
            if current.is_some() {
                self.take_down(id, seen);
            }
            return;
        }
        for saved in Stock::of(id, seen).all() {
            self.forget.push(Step::Forget {
                iface: id.clone(),
                uuid: saved.uuid().to_owned(),
                path: saved.path.clone(),
            });
        }
        let active = seen.facts.device_of(id).is_some_and(|d| d.state > 30);
        let label = format!("interfaces[{}]", id.name);
        // a port of Open vSwitch is told by the interfaces behind it
        if id.space != Space::OvsPort
            && (virtual_link || active || Stock::of(id, seen).base.is_some())
            && !lines.iter().any(|l| l.starts_with(&label))
        {
            let why = if touched.named { "its profile" } else { &touched.because };
            lines.push(format!("{label}: {why} → absent"));
        }
        if virtual_link {
            self.after.push(Step::RemoveLink { iface: id.clone() });
        } else if active {
            self.after.push(Step::Disconnect { iface: id.clone() });
        }
    }

    /// What is behind companions: a port of Open vSwitch that connects by itself would bring its bridge up again.
    fn take_members_down(&mut self, id: &Id, graph: &Graph, seen: &Observation) {
        let companions = seen.interface(id).and_then(|c| c.kind.companions());
        for companion in companions.into_iter().flatten() {
            let members = companion.ports.iter().map(Id::kernel);
            for id in members.chain([companion.interface.id()]) {
                if !graph.contains_key(&id) {
                    self.take_down(&id, seen);
                }
            }
        }
    }

    fn take_down(&mut self, id: &Id, seen: &Observation) {
        if seen.facts.device_of(id).is_some_and(|d| d.state > 30) {
            self.after.push(Step::Disconnect { iface: id.clone() });
        }
    }

    fn bring_up(
        &mut self,
        id: &Id,
        touched: Option<&Touched>,
        graph: &Graph,
        sections: &Sections,
        seen: &Observation,
        lines: &mut Vec<String>,
    ) {
        let fallback;
        let touched = match touched {
            Some(t) => t,
            None => {
                let kind = seen.interface(id).map_or("ethernet", |i| i.kind.type_name());
                fallback = Touched {
                    wish: Interface::bare(&id.name, kind),
                    named: false,
                    member: Membership::Keeps,
                    because: "keeps routes, rules or DNS".to_owned(),
                };
                &fallback
            }
        };
        let stock = Stock::of(id, seen);
        let controller = controller_of(id, graph, seen);
        let none = Extra::default();
        let extra = sections.extra.get(id).unwrap_or(&none);
        let afresh = self.options.override_iface && touched.named;
        let base = stock.base.filter(|_| !afresh);
        let mut profile = profiles::build(id, touched, controller.as_ref(), extra, base, seen, afresh);
        if let Some(kept) = stock.base.filter(|_| afresh) {
            // the same profile with other content, so that applying it again finds nothing to do
            profile.put("connection", "uuid", kept.uuid());
        }
        let keys = stock.base.map(|b| profiles::differing_keys(&b.profile, &profile));
        let persistent = stock.base.is_some_and(|b| b.persistent() && !b.unsaved) || self.options.memory_only;
        let save = keys.as_ref().is_none_or(|k| !k.is_empty()) || !persistent;
        let device = seen.facts.device_of(id);
        let uuid = profile.str("connection", "uuid").unwrap_or_default().to_owned();
        let running = device
            .filter(|d| !d.external() && (40..110).contains(&d.state))
            .and_then(|d| d.active.as_ref())
            .is_some_and(|a| a.uuid == uuid);
        let off = Off::of(id, touched, controller.as_ref().map(Interface::id), seen);
        if !save && running && off == Off::Nothing {
            return;
        }
        let fixed = |key: &str| {
            let setting = key.split_once('.').map_or(key, |(setting, _)| setting);
            MEMBERSHIP.contains(&key) || AnyKind::fixed_settings().any(|s| s == setting)
        };
        let wire = keys.iter().flatten().any(|k| fixed(k));
        let stale = stock
            .base
            .is_some_and(|b| profiles::leaves_routes_behind(&b.profile, &profile));
        let recreate = stale
            || seen
                .interface(id)
                .is_some_and(|c| touched.wish.kind.must_recreate(&c.kind));
        // a live link is only brought up anew where nothing less will do; the host does so where NetworkManager refuses to reapply
        let reapply = running && !wire && !recreate && (save || off != Off::Link);
        dropped_addresses(id, touched, seen, lines);
        match &controller {
            Some(bridge) if id.space == Space::OvsPort => describe_port(&id.name, bridge, lines),
            _ => describe(&id.name, touched, &keys, save, running, lines),
        }
        if save {
            let path = stock.base.map(|b| b.path.clone());
            self.save.push(Step::Save {
                iface: id.clone(),
                profile,
                path,
                memory_only: self.options.memory_only,
            });
        }
        let step = match reapply {
            true => Step::Reapply {
                iface: id.clone(),
                uuid,
            },
            false => Step::Activate {
                iface: id.clone(),
                uuid,
                follows: false,
            },
        };
        // ports of Open vSwitch come up with what stands above them
        if let Some(above) = controller
            .as_ref()
            .map(Interface::id)
            .filter(|c| c.space != Space::Kernel)
        {
            self.above.insert(id.clone(), above);
        }
        if running && recreate {
            self.deactivate.push(Step::Deactivate { iface: id.clone() });
        }
        let depth = topology::depth(id, graph, seen);
        self.activate.entry(depth).or_default().push(step);
        if !self.options.memory_only {
            for other in stock.others.iter().filter(|o| o.id().as_ref() == Some(id)) {
                self.after.push(Step::Forget {
                    iface: id.clone(),
                    uuid: other.uuid().to_owned(),
                    path: other.path.clone(),
                });
            }
        }
    }
}

/// Keys that a live device cannot take by Reapply: who it is and whose port.
const MEMBERSHIP: [&str; 5] = [
    "connection.master",
    "connection.slave-type",
    "connection.type",
    "connection.interface-name",
    "veth.peer",
];

/// What of a named interface is not as asked, though its profile may be.
#[derive(Debug, PartialEq, Eq)]
enum Off {
    Nothing,
    /// Addresses and the like: Reapply mends it.
    Ip,
    /// The link itself.
    Link,
}

impl Off {
    fn of(id: &Id, touched: &Touched, controller: Option<Id>, seen: &Observation) -> Self {
        let moves = touched.member != Membership::Keeps && topology::controller_now(id, seen) != controller;
        if seen.interface(id).is_none() || moves {
            return Off::Link;
        }
        // what a bridge's list says of a port of Open vSwitch is in that port's profile
        if !touched.named && id.space != Space::OvsPort {
            return Off::Nothing;
        }
        let only = NetworkState {
            interfaces: vec![touched.wish.clone()],
            ..NetworkState::default()
        };
        // a port that is missing shows on the controller but is mended on the port
        let found = verify::verify(&only, seen);
        let name = &id.name;
        let ports = format!("interfaces[{name}].{}", touched.wish.kind.ports_path());
        let behind = |path: &str| id.space != Space::OvsPort && path.starts_with(&ports);
        let mine: Vec<_> = found.iter().filter(|d| !behind(&d.path)).collect();
        let ip = |path: &str| {
            [".ipv4", ".ipv6"]
                .iter()
                .any(|s| path.starts_with(&format!("interfaces[{name}]{s}")))
        };
        match mine.iter().all(|d| ip(&d.path)) {
            true if mine.is_empty() => Off::Nothing,
            true => Off::Ip,
            false => Off::Link,
        }
    }
}

/// The controller after the plan: as wished, or only its name and type.
fn controller_of(id: &Id, graph: &Graph, seen: &Observation) -> Option<Interface> {
    let controller = topology::controller_after(id, graph, seen)?;
    match graph.get(&controller).filter(|t| t.named) {
        Some(touched) => Some(touched.wish.clone()),
        None => {
            let now = seen.interface(&controller).map(|c| c.kind.type_name());
            let saved = || {
                let saved = seen.profiles_of(&controller).next()?;
                AnyKind::type_of_nm(saved.profile.str("connection", "type")?)
            };
            let planned = || graph.get(&controller).map(|t| t.wish.kind.type_name());
            let kind = now.or_else(planned).or_else(saved)?;
            Some(Interface::bare(&controller.name, kind))
        }
    }
}

/// Addresses that the wish's list leaves out: nobody verifies that they are gone, but the reader of a plan wants to know.
fn dropped_addresses(id: &Id, touched: &Touched, seen: &Observation, lines: &mut Vec<String>) {
    let Some(current) = seen.interface(id) else {
        return;
    };
    let name = &id.name;
    for (ipv6, section) in [(false, "ipv4"), (true, "ipv6")] {
        let (Some(wish), Some(now)) = (touched.wish.ip(ipv6), current.ip(ipv6)) else {
            continue;
        };
        let Some(list) = &wish.address else { continue };
        let kept = |ip, prefix| list.iter().any(|w| (w.ip, w.prefix_length) == (ip, prefix));
        for a in now.static_addresses().filter(|a| !kept(a.ip, a.prefix_length)) {
            let line = format!(
                "interfaces[{name}].{section}.address: {}/{} → gone",
                a.ip, a.prefix_length
            );
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
}

fn describe(
    name: &str,
    touched: &Touched,
    keys: &Option<Vec<String>>,
    save: bool,
    running: bool,
    lines: &mut Vec<String>,
) {
    let label = format!("interfaces[{name}]");
    if !touched.named {
        lines.push(format!("{label}: {}", touched.because));
    } else if !lines.iter().any(|l| l.starts_with(&label)) {
        lines.push(match keys {
            Some(keys) if !keys.is_empty() => {
                format!("{label}: profile settings {}", keys.join(", "))
            }
            None => format!("{label}: kept by a profile of its own from now on"),
            Some(_) if save => format!("{label}: profile kept on disk"),
            Some(_) if !running => format!("{label}: profile activated"),
            Some(_) => format!("{label}: brought up again"),
        });
    }
}

/// A port of Open vSwitch shows as an entry of its bridge.
fn describe_port(name: &str, bridge: &Interface, lines: &mut Vec<String>) {
    let label = format!("interfaces[{}]", bridge.name());
    if !lines.iter().any(|l| l.starts_with(&label)) {
        lines.push(format!("{label}.bridge.port.{name}: its profile"));
    }
}

impl Step {
    /// The interface it is about.
    pub fn interface(&self) -> Option<&Id> {
        match self {
            Step::Save { iface, .. }
            | Step::Forget { iface, .. }
            | Step::Activate { iface, .. }
            | Step::Reapply { iface, .. }
            | Step::Deactivate { iface }
            | Step::Disconnect { iface }
            | Step::RemoveLink { iface } => Some(iface),
            Step::Effect(_) => None,
        }
    }
}
