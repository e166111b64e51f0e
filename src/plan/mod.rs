//! Decides what to do: desired over current gives a `Plan`, a value that the host only carries out. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use crate::error::Invalid;
use crate::facts::SavedProfile;
use crate::host::{Effect, Observation, Step};
use crate::profile::Profile;
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::state::iface::{AnyKind, Interface, State};
use crate::state::part::ip::Ip;
use crate::state::part::{Parts, alt_names};

pub mod companions;
pub mod conflict;
pub mod diff;
pub mod news;
pub mod offline;
pub mod profiles;
pub mod resolve;
pub mod revert;
pub mod sections;
pub mod topology;
pub mod validate;
pub mod verify;

use profiles::{Extra, Ground, Stock};
use sections::{Sections, View};
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

/// What `plan` would say against the wish, or warn of, without the work of planning.
pub fn check(desired: &NetworkState, seen: &Observation) -> Result<Vec<String>, Invalid> {
    let cards = resolve::cards_first(desired, seen);
    Ok(lay_out(cards.as_ref().unwrap_or(desired), seen, Options::default())?.warnings)
}

/// Whether the node's NetworkManager, and what it stands on, can do it at all.
pub fn supported(desired: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    refuse_unsupported(&mut resolve::resolve(desired, seen, Options::default())?.state, seen)
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
    warnings.extend(skip_unsupported(wishes, seen));
    warnings.extend(copy_macs(wishes, seen)?);
    validate::check(wishes, seen)?;
    let graph = topology::spread(&resolved, seen, options)?;
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
    let coming_vfs = coming_vfs(&resolved.state, &steps.deactivate, seen);
    Ok(Plan {
        waves: steps.into_waves(),
        lines: lines.list,
        touched,
        warnings,
        expect: resolved.state,
        goes,
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

/// What the kernel gives the loopback interface; nobody else has it.
fn is_localhost(ip: &std::net::IpAddr) -> bool {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].contains(ip)
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

/// Lines of the plan while they are collected, and which interfaces they speak of.
#[derive(Debug, Default)]
struct Lines {
    list: Vec<String>,
    about: HashSet<String>,
    said: HashSet<String>,
}

impl Lines {
    fn push(&mut self, line: String) {
        if let Some((label, _)) = line.split_once(']').filter(|(l, _)| l.starts_with("interfaces[")) {
            self.about.insert(format!("{label}]"));
        }
        self.said.insert(line.clone());
        self.list.push(line);
    }

    /// Unless it was said before.
    fn push_new(&mut self, line: String) {
        if !self.said.contains(&line) {
            self.push(line);
        }
    }

    /// Unless a line begins with this label.
    fn push_unless(&mut self, label: &str, line: String) {
        if !self.list.iter().any(|l| l.starts_with(label)) {
            self.push(line);
        }
    }

    fn speaks_of(&self, label: &str) -> bool {
        self.about.contains(label)
    }
}

/// Steps while they are collected.
#[derive(Debug, Default)]
struct Steps {
    scripts: Vec<Step>,
    forget: Vec<Step>,
    save: Vec<Step>,
    deactivate: Vec<Step>,
    activate: BTreeMap<usize, Vec<Step>>,
    above: BTreeMap<Id, Id>,
    after: Vec<Step>,
    remove: Vec<Step>,
    node: Vec<Step>,
}

impl Steps {
    fn into_waves(self) -> Vec<Vec<Step>> {
        let Steps {
            scripts,
            forget,
            save,
            deactivate,
            mut activate,
            above,
            after,
            remove,
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
        waves.push(remove);
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
            .chain(&self.after)
            .chain(&self.remove);
        let mut names: Vec<String> = all.filter_map(|s| s.interface().map(|id| id.name.clone())).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Deciding the steps for one interface after the other.
struct Work<'a> {
    graph: &'a Graph,
    sections: &'a Sections,
    seen: &'a Observation,
    options: Options,
    steps: Steps,
    lines: Lines,
}

impl<'a> Work<'a> {
    fn on(graph: &'a Graph, sections: &'a Sections, seen: &'a Observation, options: Options) -> Self {
        Work {
            graph,
            sections,
            seen,
            options,
            steps: Steps::default(),
            lines: Lines::default(),
        }
    }

    /// Links that have to go down and up again because something of their old profile would stay.
    fn stale(&self) -> Vec<Id> {
        let all: BTreeSet<&Id> = self.graph.keys().chain(self.sections.extra.keys()).collect();
        let could = |id: &Id| {
            Stock::of(id, self.seen)
                .base
                .is_some_and(|b| profiles::could_leave_something(&b.profile))
        };
        let could = all
            .into_iter()
            .filter(|id| self.seen.facts.running(id).is_some() && could(id));
        let stays = |id: &&Id| match self.graph.get(*id) {
            Some(t) => t.wish.is_up() && self.make(id, t).stale,
            None => self.make(id, &Touched::keeper(id, self.seen)).stale,
        };
        could.filter(stays).cloned().collect()
    }

    fn settle(&mut self, id: &Id) {
        let graph = self.graph;
        match graph.get(id) {
            Some(t) if t.wish.is_absent() && !self.options.memory_only => self.remove(id, t),
            Some(t) if t.wish.is_absent() || t.wish.base.state == Some(State::Down) => {
                self.steps.scripts.extend(scripts(id, t, self.seen));
                self.take_members_down(id);
                self.take_down(id, t);
            }
            Some(t) => self.bring_up(id, t),
            None => self.bring_up(id, &Touched::keeper(id, self.seen)),
        }
    }

    fn remove(&mut self, id: &Id, touched: &Touched) {
        let current = self.seen.interface(id);
        let virtual_link = current.is_some_and(|c| c.kind.is_virtual());
        let left = Parts::leftovers(&id.name, &self.seen.facts).into_iter();
        let left = left.chain(alt_names::leftovers(&id.name, !virtual_link, &self.seen.facts));
        if id.space == Space::Kernel {
            self.steps.node.extend(left.map(Step::Effect));
        }
        let stock = Stock::of(id, self.seen);
        self.steps.forget.extend(stock.own().map(|saved| forget(id, saved)));
        // what NetworkManager has by itself is gone as far as it can be when it has no profile of its own
        let bare = current.is_some_and(|c| c.kind.stays_up()) && stock.base.is_none();
        let active = self.seen.facts.is_on(id) && !bare;
        let label = format!("interfaces[{}]", id.name);
        // a port of Open vSwitch is told by the interfaces behind it
        if id.space != Space::OvsPort
            && (virtual_link || active || stock.base.is_some())
            && !self.lines.speaks_of(&label)
        {
            let why = if touched.named { "its profile" } else { &touched.because };
            self.lines.push(format!("{label}: {why} → absent"));
        }
        if virtual_link && id.space != Space::Vpn {
            self.steps.after.push(Step::RemoveLink { iface: id.clone() });
        } else if active {
            self.steps.after.push(Step::Disconnect { iface: id.clone() });
        }
    }

    /// What is behind companions: a port of Open vSwitch that connects by itself would bring its bridge up again.
    fn take_members_down(&mut self, id: &Id) {
        let companions = self.seen.interface(id).and_then(|c| c.kind.companions());
        for companion in companions.into_iter().flatten() {
            let members = companion.ports.iter().map(Id::kernel);
            for id in members.chain([companion.interface.id()]) {
                if !self.graph.contains_key(&id) && self.seen.facts.is_on(&id) {
                    self.steps.after.push(Step::Disconnect { iface: id });
                }
            }
        }
    }

    /// The profile stays, changed where the wish says more than `down`; the link of something virtual goes.
    fn take_down(&mut self, id: &Id, touched: &Touched) {
        let current = self.seen.interface(id);
        let on = self.seen.facts.is_on(id);
        let virtual_link = current.is_some_and(|c| c.kind.is_virtual()) && id.space == Space::Kernel;
        let unmanaged = !virtual_link && current.is_some_and(|c| c.is_ignored());
        if self.says_more(id, &touched.wish) || unmanaged {
            let made = self.make(id, touched);
            if made.save {
                self.describe(id, touched, &made);
                self.save(id, &made);
            }
            if unmanaged {
                // only what NetworkManager has had in hand can be taken down by it
                self.activate(id, &made);
            }
        }
        if unmanaged || on {
            self.steps.after.push(Step::Disconnect { iface: id.clone() });
        }
        if virtual_link && !current.is_some_and(|c| c.kind.needs_controller()) {
            // NetworkManager removes with the connection only what it made itself
            self.steps.remove.push(Step::RemoveLink { iface: id.clone() });
        }
        let label = format!("interfaces[{}]", id.name);
        if !touched.named && (virtual_link || on) && !self.lines.speaks_of(&label) {
            self.lines.push(format!("{label}: {} → down", touched.because));
        }
    }

    /// The wish says of an interface that is to be down what neither its profile nor the kernel says.
    fn says_more(&self, id: &Id, wish: &Interface) -> bool {
        if wish.is_absent() {
            return false; // in memory only: what stays must not change
        }
        if Stock::of(id, self.seen).base.is_some() {
            return true; // the profile will tell
        }
        let mut up = wish.clone();
        up.base.state = None;
        match self.seen.interface(id) {
            Some(_) => verify::of_interface(&up, self.seen)
                .iter()
                .any(|d| !d.path.ends_with("].state")),
            None => resolve::comparable(&up).values().any(|v| !v.is_null()),
        }
    }

    /// The profile for an interface, and how it stands to what there is.
    fn make(&self, id: &Id, touched: &Touched) -> Made {
        let none = Extra::default();
        let extra = self.sections.extra.get(id).unwrap_or(&none);
        let controller = controller_of(id, self.graph, self.seen);
        let ground = Ground::of(id, touched, controller.as_ref(), extra, self.seen, self.options);
        let mut profile = self.build(id, touched, &ground);
        touched.wish.kind.remember(&mut profile);
        let shared = ground.base.is_some_and(SavedProfile::is_shared);
        let mut keys = ground.base.map(|b| profiles::differing_keys(&b.profile, &profile));
        if shared {
            // a copy that differs in nothing but whose it is, is not needed
            keys.iter_mut()
                .for_each(|keys| keys.retain(|k| !k.starts_with("connection.")));
        }
        let as_is = keys.as_ref().is_some_and(Vec::is_empty);
        let persistent = ground.base.is_some_and(|b| b.persistent() && !b.unsaved) || self.options.memory_only;
        let save = !as_is || !(persistent || shared);
        let base_uuid = ground.base.filter(|_| shared && as_is).map(SavedProfile::uuid);
        let uuid = base_uuid.or(profile.str("connection", "uuid")).unwrap_or_default();
        Made {
            uuid: uuid.to_owned(),
            stale: ground.base.is_some_and(|b| stale(b, &profile, self.seen)),
            path: ground.base.filter(|_| !shared).map(|b| b.path.clone()),
            save,
            keys,
            profile,
            controller,
        }
    }

    /// The profile; nothing that the wish only repeats is made a setting of a link that runs on it.
    fn build(&self, id: &Id, touched: &Touched, ground: &Ground<'_>) -> Profile {
        let build = |touched: &Touched| profiles::build(id, touched, ground, self.seen);
        let Some(current) = ground.current.filter(|_| touched.named) else {
            return build(touched);
        };
        let Some(base) = ground.base else {
            return build(touched);
        };
        if touched.wish.base.state == current.base.state && !current.is_up() {
            // what is shown of an interface that is down is not what its profile keeps for later
            let mut least = touched.clone();
            least.wish = news::of(&touched.wish, current);
            return build(&least);
        }
        let whole = build(touched);
        let runs = self.seen.facts.running(id).is_some_and(|a| a.uuid == base.uuid());
        // a link made anew has nothing of what it had
        let anew = || touched.renewed || touched.recreates(self.seen) || stale(base, &whole, self.seen);
        let stays = runs && touched.wish.is_up();
        match stays && !profiles::differing_keys(&base.profile, &whole).is_empty() && !anew() {
            true => {
                let mut least = touched.clone();
                least.wish = news::of(&touched.wish, current);
                news::unpinned(whole, &build(&least), &base.profile)
            }
            false => whole,
        }
    }

    fn save(&mut self, id: &Id, made: &Made) {
        self.steps.save.push(Step::Save {
            iface: id.clone(),
            profile: made.profile.clone(),
            path: made.path.clone(),
            memory_only: self.options.memory_only,
        });
    }

    fn activate(&mut self, id: &Id, made: &Made) {
        let step = Step::Activate {
            iface: id.clone(),
            uuid: made.uuid.clone(),
            follows: false,
        };
        let depth = topology::depth(id, self.graph, self.seen);
        self.steps.activate.entry(depth).or_default().push(step);
    }

    /// It is to be up: all but a mere keeper, or a port that is let go, which is down and stays so.
    fn rises(&self, id: &Id, touched: &Touched) -> bool {
        let keeper = !self.graph.contains_key(id);
        let let_go = !touched.named && touched.member == Membership::Leaves;
        let up = self.seen.interface(id).is_some_and(Interface::is_up);
        up || touched.renewed || !(keeper || let_go) || self.sections.extra.get(id).is_some_and(|e| e.activate)
    }

    fn bring_up(&mut self, id: &Id, touched: &Touched) {
        let made = self.make(id, touched);
        if self.is_by_itself(id, touched, &made) {
            return;
        }
        if !self.rises(id, touched) {
            // a profile is put right where it lies; who is down stays down
            if made.save && made.path.is_some() {
                self.describe(id, touched, &made);
                self.save(id, &made);
            }
            return;
        }
        let running = self.seen.facts.running(id).is_some_and(|a| a.uuid == made.uuid);
        let mut off = Off::of(id, touched, made.controller.as_ref().map(Interface::id), self.seen);
        if off == Off::Nothing && self.sections.extra.get(id).is_some_and(|e| e.reapply) {
            off = Off::Ip;
        }
        let recreate = touched.recreates(self.seen) || made.stale;
        let scripts = scripts(id, touched, self.seen);
        let writes = |s: &Step| matches!(s, Step::Effect(Effect::File { content: Some(_), .. }));
        // a script that is new runs now, not only the next time
        let rerun = scripts.iter().any(writes);
        self.steps.scripts.extend(scripts);
        let idle = !made.save && running && off == Off::Nothing && !rerun && !touched.renewed;
        self.names(id, touched, running && (recreate || touched.renewed) && !idle);
        if idle {
            return;
        }
        let fixed = |key: &str| {
            let setting = key.split_once('.').map_or(key, |(setting, _)| setting);
            MEMBERSHIP.contains(&key) || AnyKind::fixed_settings().any(|s| s == setting)
        };
        let wire = made.keys.iter().flatten().any(|k| fixed(k));
        // a live link is only brought up anew where nothing less will do; the host does so where NetworkManager refuses to reapply
        let reapply = running && !wire && !recreate && !touched.renewed && (made.save || off != Off::Link);
        self.dropped_addresses(id, touched);
        self.describe_up(id, touched, &made, running);
        if made.save {
            self.save(id, &made);
        }
        if running && recreate {
            self.steps.deactivate.push(Step::Deactivate { iface: id.clone() });
        }
        match reapply {
            true => {
                let depth = topology::depth(id, self.graph, self.seen);
                let (iface, uuid) = (id.clone(), made.uuid.clone());
                let wave = self.steps.activate.entry(depth).or_default();
                wave.push(Step::Reapply { iface, uuid });
            }
            false => self.activate(id, &made),
        }
        self.hangs(id, &made);
        if !self.options.memory_only {
            self.forget_others(id);
        }
    }

    /// NetworkManager has it up as asked without a profile, and would after a reboot.
    fn is_by_itself(&self, id: &Id, touched: &Touched, made: &Made) -> bool {
        let external = self.seen.facts.device_of(id).is_some_and(|d| d.external());
        let nothing_kept = made.keys.is_none() && touched.wish.base.profile_name.is_none();
        let wish = &touched.wish;
        let listed = wish.ipv4.iter().chain(&wish.ipv6).flat_map(Ip::static_addresses);
        let given = listed.into_iter().any(|a| !is_localhost(&a.ip));
        touched.wish.kind.stays_up()
            && external
            && nothing_kept
            && !given
            && !self.sections.extra.contains_key(id)
            && Off::of(id, touched, None, self.seen) == Off::Nothing
    }

    /// Ports of Open vSwitch come up with what stands above them.
    fn hangs(&mut self, id: &Id, made: &Made) {
        let above = made.controller.as_ref().map(Interface::id);
        if let Some(above) = above.filter(|c| c.space != Space::Kernel) {
            self.steps.above.insert(id.clone(), above);
        }
    }

    /// One interface has one profile.
    fn forget_others(&mut self, id: &Id) {
        let stock = Stock::of(id, self.seen);
        let others = stock.others.iter().filter(|o| !o.is_shared());
        self.steps.after.extend(others.map(|other| forget(id, other)));
    }

    /// Extra names, given when the link is there. `anew`: the link is taken down first and, where software made it, loses them.
    fn names(&mut self, id: &Id, touched: &Touched, anew: bool) {
        if id.space != Space::Kernel {
            return;
        }
        let current = self.seen.interface(id);
        let fresh = current.is_none_or(|c| anew && c.kind.is_virtual());
        let names = touched.wish.base.alt_names.as_deref().unwrap_or_default();
        let memory_only = self.options.memory_only;
        for effect in alt_names::effects(names, &id.name, fresh, memory_only, &self.seen.facts) {
            if let Effect::File { path, .. } = &effect {
                let label = format!("interfaces[{}].alt-names", id.name);
                self.lines.push_unless(&label, format!("{label}: kept in {path}"));
            }
            self.steps.node.push(Step::Effect(effect));
        }
    }

    /// Addresses that the wish's list leaves out: nobody verifies that they are gone, but the reader of a plan wants to know.
    fn dropped_addresses(&mut self, id: &Id, touched: &Touched) {
        let Some(current) = self.seen.interface(id) else {
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
                self.lines.push_new(format!(
                    "interfaces[{name}].{section}.address: {}/{} → gone",
                    a.ip, a.prefix_length
                ));
            }
        }
    }

    /// Why a profile is saved.
    fn describe(&mut self, id: &Id, touched: &Touched, made: &Made) {
        let label = format!("interfaces[{}]", id.name);
        if !touched.named {
            self.lines.push(format!("{label}: {}", touched.because));
        } else if !self.lines.speaks_of(&label) {
            self.lines.push(match &made.keys {
                Some(keys) if !keys.is_empty() => format!("{label}: profile settings {}", keys.join(", ")),
                None => format!("{label}: kept by a profile of its own from now on"),
                Some(_) => format!("{label}: profile kept on disk"),
            });
        }
    }

    fn describe_up(&mut self, id: &Id, touched: &Touched, made: &Made, running: bool) {
        if let Some(bridge) = made.controller.as_ref().filter(|_| id.space == Space::OvsPort) {
            // a port of Open vSwitch shows as an entry of its bridge
            let label = format!("interfaces[{}]", bridge.name());
            if !self.lines.speaks_of(&label) {
                self.lines.push(format!("{label}.bridge.port.{}: its profile", id.name));
            }
            return;
        }
        let label = format!("interfaces[{}]", id.name);
        if made.save {
            self.describe(id, touched, made);
        } else if !touched.named {
            let because = match self.sections.extra.get(id) {
                Some(extra) if extra.reapply && !self.graph.contains_key(id) => {
                    "not as its profile has it, applied again"
                }
                _ => &touched.because,
            };
            self.lines.push(format!("{label}: {because}"));
        } else if !self.lines.speaks_of(&label) {
            let what = if running {
                "brought up again"
            } else {
                "profile activated"
            };
            self.lines.push(format!("{label}: {what}"));
        }
    }
}

/// A profile that was made for an interface.
struct Made {
    profile: Profile,
    uuid: String,
    /// Of the profile that it replaces.
    path: Option<String>,
    /// Keys in which it differs from that one; None where there was none.
    keys: Option<Vec<String>>,
    /// It has to be stored.
    save: bool,
    /// Something would stay behind without the device being taken down.
    stale: bool,
    /// Controller after the plan.
    controller: Option<Interface>,
}

fn forget(id: &Id, saved: &SavedProfile) -> Step {
    Step::Forget {
        iface: id.clone(),
        uuid: saved.uuid().to_owned(),
        path: saved.path.clone(),
    }
}

/// Something of the old profile would stay on a live device.
fn stale(base: &SavedProfile, profile: &Profile, seen: &Observation) -> bool {
    profiles::leaves_routes_behind(&base.profile, profile, seen)
        || profiles::takes_vf_settings_back(&base.profile, profile)
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
        let found = verify::of_interface(&touched.wish, seen);
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
