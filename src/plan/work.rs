//! What becomes of each interface that a plan touches: made, changed, taken down, or left alone.

use std::collections::BTreeSet;

use crate::facts::SavedProfile;
use crate::observation::Observation;
use crate::profile::Profile;
use crate::scalar::{Id, Space};
use crate::state::iface::{AnyKind, Interface, State};
use crate::state::part::ip::Ip;
use crate::state::part::{Parts, alt_names};
use crate::step::{Effect, Step};

use super::profiles::{self, Extra, Ground, Stock};
use super::sections::Sections;
use super::steps::{Lines, Steps};
use super::topology::{self, Graph, Membership, Touched};
use super::{Options, news, resolve, verify};

/// Deciding the steps for one interface after the other.
pub(super) struct Work<'a> {
    graph: &'a Graph,
    sections: &'a Sections,
    seen: &'a Observation,
    options: Options,
    pub(super) steps: Steps,
    pub(super) lines: Lines,
}

impl<'a> Work<'a> {
    pub(super) fn on(graph: &'a Graph, sections: &'a Sections, seen: &'a Observation, options: Options) -> Self {
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
    pub(super) fn stale(&self) -> Vec<Id> {
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

    pub(super) fn settle(&mut self, id: &Id) {
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
        let active = self.is_held_up(id);
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

    /// It can be taken down. What NetworkManager has up by itself is down as far as it can be when it has no profile of its own.
    fn is_held_up(&self, id: &Id) -> bool {
        let by_itself = self.seen.interface(id).is_some_and(|c| c.kind.stays_up());
        self.seen.facts.is_on(id) && !(by_itself && Stock::of(id, self.seen).base.is_none())
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
        let on = self.is_held_up(id);
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
        let goes_along = !touched.named && current.is_some_and(|c| self.goes_with_its_base(c));
        if (unmanaged || on) && !goes_along {
            self.steps.after.push(Step::Disconnect { iface: id.clone() });
        }
        if virtual_link && !goes_along && !current.is_some_and(|c| c.kind.needs_controller()) {
            // NetworkManager removes with the connection only what it made itself
            self.steps.remove.push(Step::RemoveLink { iface: id.clone() });
        }
        let label = format!("interfaces[{}]", id.name);
        if !touched.named && (virtual_link || on) && !self.lines.speaks_of(&label) {
            self.lines.push(format!("{label}: {} → down", touched.because));
        }
    }

    /// The kernel takes it away with what it stands on. NetworkManager then brings it up again with that, which a `Disconnect` would forbid.
    fn goes_with_its_base(&self, current: &Interface) -> bool {
        let goes = |name: &String| topology::goes(&Id::kernel(name), self.graph, self.seen).is_some();
        let bases = current.kind.parents();
        !bases.is_empty() && bases.iter().all(goes)
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
        let anew = touched.recreates(self.seen);
        let recreate = anew || made.stale;
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
        self.describe_functions(id, &made);
        if made.save {
            self.save(id, &made);
        }
        if running && recreate {
            self.steps.deactivate.push(Step::Deactivate { iface: id.clone() });
        }
        if anew && id.space == Space::Kernel && !touched.wish.kind.takes_any_link() {
            self.steps.clear.push(Step::RemoveLink { iface: id.clone() });
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

    /// NetworkManager reapplies nothing of `sriov`, and a card that it activates anew gets all its virtual functions anew: whoever uses one wants
    /// to know.
    fn describe_functions(&mut self, id: &Id, made: &Made) {
        let now = self.seen.facts.link(&id.name).and_then(|l| l.sriov.as_ref());
        let count = now.map_or(0, |s| s.count);
        if count > 0 && made.keys.iter().flatten().any(|k| k.starts_with("sriov.")) {
            let name = &id.name;
            self.lines.push(format!(
                "interfaces[{name}].ethernet.sr-iov: all its {count} virtual functions are made anew"
            ));
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
const MEMBERSHIP: [&str; 13] = [
    "connection.mptcp-flags",
    "connection.master",
    "connection.slave-type",
    "connection.type",
    "connection.interface-name",
    "veth.peer",
    "sriov.total-vfs",
    "sriov.vfs",
    "sriov.autoprobe-drivers",
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
            let saved = || profiles::saved_type(&controller, seen);
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

/// Changes outside profiles that must be there when the interface comes up.
fn scripts(id: &Id, touched: &Touched, seen: &Observation) -> Vec<Step> {
    let effects = touched.wish.parts.effects(&id.name, &seen.facts);
    effects.into_iter().map(Step::Effect).collect()
}

/// What the kernel gives the loopback interface; nobody else has it.
fn is_localhost(ip: &std::net::IpAddr) -> bool {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].contains(ip)
}
