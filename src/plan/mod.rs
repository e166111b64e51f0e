//! Decides what to do: desired over current gives a `Plan`, a value that the host only carries out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::error::Invalid;
use crate::facts::SavedProfile;
use crate::host::{Effect, Observation, Step};
use crate::profile::Profile;
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::state::iface::{AnyKind, Interface, State};
use crate::state::part::{Parts, alt_names};

pub mod companions;
pub mod diff;
pub mod offline;
pub mod profiles;
pub mod resolve;
pub mod revert;
pub mod sections;
pub mod topology;
pub mod validate;
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

fn decide(desired: &NetworkState, seen: &Observation, options: Options) -> Result<Plan, Invalid> {
    let mut resolved = resolve::resolve(desired, seen)?;
    if let Some(hostname) = resolved.hostname.as_mut().filter(|_| options.memory_only) {
        hostname.config = None;
    }
    refuse_unsupported(&resolved, seen)?;
    let mut warnings = skip_unsupported(&mut resolved, seen);
    warnings.extend(copy_macs(&mut resolved, seen)?);
    validate::check(&resolved, seen)?;
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
                steps.scripts.extend(scripts(id, t, seen));
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
    let coming_vfs = coming_vfs(&resolved, &steps.deactivate, seen);
    Ok(Plan {
        waves: steps.into_waves(),
        lines,
        touched,
        warnings,
        expect: resolved,
        goes,
        patience: vf_patience(coming_vfs.len()),
        coming_vfs,
        more: false,
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

/// Loopback and link-local addresses come and go with the link.
fn is_kernels_own(ip: &std::net::IpAddr) -> bool {
    ip.is_loopback() || matches!(ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local())
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

/// Changes outside profiles that must be there when the interface comes up.
fn scripts(id: &Id, touched: &Touched, seen: &Observation) -> Vec<Step> {
    let effects = touched.wish.parts.effects(&id.name, &seen.facts);
    effects.into_iter().map(Step::Effect).collect()
}

/// Steps while they are collected.
#[derive(Debug, Default)]
struct Steps {
    options: Options,
    scripts: Vec<Step>,
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
            scripts,
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
        let mut waves = vec![scripts, forget, save, deactivate];
        waves.extend(activate.into_values());
        waves.push(after);
        // NetworkManager may take a new static host name for the running one as well
        let running = |s: &Step| matches!(s, Step::Effect(Effect::RunningHostname(_)));
        let (hostname, node) = node.into_iter().partition(running);
        waves.push(node);
        waves.push(hostname);
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
        let left = Parts::leftovers(&id.name, &seen.facts).into_iter();
        let left = left.chain(alt_names::leftovers(&id.name, !virtual_link, &seen.facts));
        if id.space == Space::Kernel {
            self.node.extend(left.map(Step::Effect));
        }
        self.forget
            .extend(Stock::of(id, seen).all().map(|saved| forget(id, saved)));
        let active = seen.facts.is_on(id);
        let label = format!("interfaces[{}]", id.name);
        // a port of Open vSwitch is told by the interfaces behind it
        if id.space != Space::OvsPort
            && (virtual_link || active || Stock::of(id, seen).base.is_some())
            && !lines.iter().any(|l| l.starts_with(&label))
        {
            let why = if touched.named { "its profile" } else { &touched.because };
            lines.push(format!("{label}: {why} → absent"));
        }
        if virtual_link && id.space != Space::Vpn {
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
        if seen.facts.is_on(id) {
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
        let kept;
        let touched = match touched {
            Some(t) => t,
            None => {
                kept = Touched::keeper(id, seen);
                &kept
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
        let uuid = profile.str("connection", "uuid").unwrap_or_default().to_owned();
        let running = seen.facts.running(id).is_some_and(|a| a.uuid == uuid);
        let off = Off::of(id, touched, controller.as_ref().map(Interface::id), seen);
        let recreate = touched.recreates(seen) || stale(&stock, &profile);
        let scripts = scripts(id, touched, seen);
        let writes = |s: &Step| matches!(s, Step::Effect(Effect::File { content: Some(_), .. }));
        // a script that is new runs now, not only the next time
        let rerun = scripts.iter().any(writes);
        self.scripts.extend(scripts);
        let idle = !save && running && off == Off::Nothing && !rerun && !touched.renewed;
        self.names(
            id,
            touched,
            running && (recreate || touched.renewed) && !idle,
            seen,
            lines,
        );
        if idle {
            return;
        }
        let fixed = |key: &str| {
            let setting = key.split_once('.').map_or(key, |(setting, _)| setting);
            MEMBERSHIP.contains(&key) || AnyKind::fixed_settings().any(|s| s == setting)
        };
        let wire = keys.iter().flatten().any(|k| fixed(k));
        // a live link is only brought up anew where nothing less will do; the host does so where NetworkManager refuses to reapply
        let reapply = running && !wire && !recreate && !touched.renewed && (save || off != Off::Link);
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
        let iface = id.clone();
        let step = match reapply {
            true => Step::Reapply { iface, uuid },
            false => Step::Activate {
                iface,
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
            let others = stock.others.iter().filter(|o| o.id().as_ref() == Some(id));
            self.after.extend(others.map(|other| forget(id, other)));
        }
    }
}

fn forget(id: &Id, saved: &SavedProfile) -> Step {
    Step::Forget {
        iface: id.clone(),
        uuid: saved.uuid().to_owned(),
        path: saved.path.clone(),
    }
}

/// Something of the old profile would stay on a live device.
fn stale(stock: &Stock<'_>, profile: &Profile) -> bool {
    let stays = |b: &SavedProfile| {
        profiles::leaves_routes_behind(&b.profile, profile) || profiles::takes_vf_settings_back(&b.profile, profile)
    };
    stock.base.is_some_and(stays)
}

/// Keys that a live device cannot take by Reapply: who it is, whose port, and what NetworkManager only looks at when it activates.
const MEMBERSHIP: [&str; 10] = [
    "connection.mptcp-flags",
    "connection.master",
    "connection.slave-type",
    "connection.type",
    "connection.interface-name",
    "veth.peer",
    // read only when the port joins
    "bond-port.prio",
    "bond-port.queue-id",
    // NetworkManager says that it reapplies them, but only adds VLANs, and a new default PVID overrides that of ports
    "bridge.vlans",
    "bridge.vlan-default-pvid",
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
        // a port that is missing is mended on the port, unless it is an entry of Open vSwitch's
        let behind = |path: &str| id.space != Space::OvsPort && path.starts_with(&ports);
        // kept outside the profile: nothing is mended by bringing the link up again
        let outside = [".alt-names", ".dispatch"].map(|key| format!("interfaces[{name}]{key}"));
        let elsewhere = |path: &str| behind(path) || outside.iter().any(|o| path.starts_with(o));
        let mine: Vec<_> = found.iter().filter(|d| !elsewhere(&d.path)).collect();
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

impl Touched {
    /// An interface that only keeps what is node-wide.
    fn keeper(id: &Id, seen: &Observation) -> Self {
        let kind = seen.interface(id).map_or("ethernet", |i| i.kind.type_name());
        Touched {
            wish: Interface::bare(&id.name, kind),
            named: false,
            member: Membership::Keeps,
            renewed: false,
            because: "keeps routes, rules or DNS".to_owned(),
        }
    }

    /// The change cannot be made on the live link.
    fn recreates(&self, seen: &Observation) -> bool {
        let current = seen.interface(&self.wish.id());
        // a VPN has no device that could take a change while it is up
        self.wish.kind.space() == Space::Vpn || current.is_some_and(|c| self.wish.kind.must_recreate(&c.kind))
    }
}

impl Steps {
    /// Extra names, given when the link is there. `anew`: the link is taken down first and, where software made it, loses them.
    fn names(&mut self, id: &Id, touched: &Touched, anew: bool, seen: &Observation, lines: &mut Vec<String>) {
        if id.space != Space::Kernel {
            return;
        }
        let current = seen.interface(id);
        let fresh = current.is_none_or(|c| anew && c.kind.is_virtual());
        let names = touched.wish.base.alt_names.as_deref().unwrap_or_default();
        for effect in alt_names::effects(names, &id.name, fresh, self.options.memory_only, &seen.facts) {
            let label = format!("interfaces[{}].alt-names", id.name);
            if let Effect::File { path, .. } = &effect
                && !lines.iter().any(|l| l.starts_with(&label))
            {
                lines.push(format!("{label}: kept in {path}"));
            }
            self.node.push(Step::Effect(effect));
        }
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
