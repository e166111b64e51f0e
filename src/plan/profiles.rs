//! From a touched interface to the NetworkManager profile that makes it so; and whether that differs from the one there is.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::facts::SavedProfile;
use crate::observation::Observation;
use crate::profile::{Dict, Profile, Value};
use crate::scalar::{Id, Space};
use crate::state::dns::Share;
use crate::state::iface::{AnyKind, Identifier, Interface, State};
use crate::state::part::ip::Ip;
use crate::state::part::{Parts, ovs_ids};
use crate::state::route::MAIN;

use super::Options;
use super::topology::{Membership, Touched};

/// What node-wide sections put into one interface's profile; None leaves it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extra {
    /// All routes of the interface.
    pub routes: Option<Vec<Entry>>,
    /// All rules kept with the interface.
    pub rules: Option<Vec<Entry>>,
    /// DNS kept with the interface: IPv4's share and IPv6's.
    pub dns: Option<[Share; 2]>,
    /// The kernel is not as the profile has it.
    pub reapply: bool,
    /// It is needed, so it has to come up.
    pub activate: bool,
}

/// A route or rule as NetworkManager keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its family.
    pub ipv6: bool,
    /// An entry of `route-data` or `routing-rules`.
    pub data: Dict,
}

/// The type of an interface by its profile, as documents call it: of one that is down nothing else knows it.
pub fn saved_type(id: &Id, seen: &Observation) -> Option<&'static str> {
    let saved = seen.profiles_of(id).next()?;
    AnyKind::type_of_nm(saved.profile.str("connection", "type")?)
}

/// The profiles of one interface: the one to build on, and those that are in its way.
pub struct Stock<'a> {
    /// Best first: active, then as NetworkManager prefers.
    pub base: Option<&'a SavedProfile>,
    /// The rest.
    pub others: Vec<&'a SavedProfile>,
}

impl<'a> Stock<'a> {
    /// Profiles that belong to this interface by name or because they are active on it. Those that NetworkManager made up do not count.
    pub fn of(id: &Id, seen: &'a Observation) -> Self {
        let external = seen.facts.device_of(id).is_some_and(|d| d.external());
        let active = seen.facts.active(id).filter(|_| !external).map(|a| a.uuid.as_str());
        // NM_SETTINGS_CONNECTION_FLAG_*: 2 generated, 4 volatile, 8 external
        let mut all: Vec<&SavedProfile> = seen
            .profiles_of(id)
            .chain(active.and_then(|uuid| seen.facts.profile(uuid)))
            .filter(|p| p.flags & 0xc == 0)
            .collect();
        all.sort_by_key(|p| p.uuid());
        all.dedup_by_key(|p| p.uuid());
        all.sort_by_key(|p| {
            let priority = p.profile.int("connection", "autoconnect-priority").unwrap_or(0);
            let used = p.profile.int("connection", "timestamp").unwrap_or(0);
            (Some(p.uuid()) != active, -priority, -used, p.uuid().to_owned())
        });
        let mut all = all.into_iter();
        Stock {
            base: all.next(),
            others: all.collect(),
        }
    }

    /// Base and others, but those that other devices use too.
    pub fn own(&self) -> impl Iterator<Item = &'a SavedProfile> + '_ {
        let all = self.base.into_iter().chain(self.others.iter().copied());
        all.filter(|p| !p.is_shared())
    }
}

/// What a profile is built from.
pub struct Ground<'a> {
    /// The profile there is.
    pub base: Option<&'a SavedProfile>,
    /// The interface as it is.
    pub current: Option<&'a Interface>,
    /// Its controller after the plan.
    pub controller: Option<&'a Interface>,
    /// What node-wide sections put into it.
    pub extra: &'a Extra,
    /// The text is all there is to it: neither base nor kernel add what it leaves out.
    pub bare: bool,
}

impl<'a> Ground<'a> {
    /// Finds base and current.
    pub fn of(
        id: &Id,
        touched: &Touched,
        controller: Option<&'a Interface>,
        extra: &'a Extra,
        seen: &'a Observation,
        options: Options,
    ) -> Self {
        let bare = options.override_iface && touched.named;
        Ground {
            base: Stock::of(id, seen).base,
            current: seen.interface(id).filter(|_| !bare),
            controller,
            extra,
            bare,
        }
    }

    /// Whether a profile is there whose settings stay where the document is silent.
    fn inherits(&self) -> bool {
        self.base.is_some() && !self.bare
    }

    /// What the new profile starts from.
    fn start(&self) -> Profile {
        let Some(base) = self.base else {
            return Profile::default();
        };
        let mut p = base.profile.clone();
        if self.bare {
            p.settings
                .retain(|name, _| matches!(name.as_str(), "connection" | "ipv4" | "ipv6"));
            for (name, keys) in &mut p.settings {
                match name.as_str() {
                    "connection" => keys.retain(|key, _| matches!(key.as_str(), "uuid" | "type" | "timestamp")),
                    _ => keys.retain(|key, _| NODE_WIDE.contains(&key.as_str())),
                }
            }
        }
        if base.is_shared() {
            // other devices use it too: this one gets a copy
            p.remove_setting("connection");
        }
        p
    }
}

/// Keys of `ipv4` and `ipv6` that belong to routes, rules and DNS rather than to the interface.
const NODE_WIDE: [&str; 7] = [
    "route-data",
    "gateway",
    "routing-rules",
    "dns",
    "dns-search",
    "dns-options",
    "dns-priority",
];

/// The profile for a touched interface. Everything that the document does not name stays as the base profile has it;
/// without a base, as the kernel has it.
pub fn build(id: &Id, touched: &Touched, ground: &Ground<'_>, seen: &Observation) -> Profile {
    let mut asked = merged(touched, ground.current, ground.inherits());
    let mut p = ground.start();
    head(id, &asked, &mut p, seen);
    if !asked.kind.is_ethernet() && asked.base.identifier != Some(Identifier::MacAddress) {
        asked.base.mac_address = None;
    }
    asked.base.to_profile(asked.kind.link_setting(), &mut p);
    asked.kind.to_profile(&mut p);
    asked.parts.to_profile(&mut p);
    match ground.controller {
        Some(controller) => join(&id.name, controller, &mut p, seen),
        None if stays_behind(touched) => {}
        None => leave(&mut p),
    }
    ovs_ids::only_in_ovs(&mut p);
    let left = ground.controller.is_none() && p.str("connection", "master").is_some();
    let carries = |c: &Interface| c.kind.ports_carry_ip() || asked.kind.needs_controller();
    let port = ground.controller.is_some_and(|c| !carries(c)) || id.space == Space::OvsPort || left;
    for ipv6 in [false, true] {
        let section = if ipv6 { "ipv6" } else { "ipv4" };
        if port {
            p.remove_setting(section);
        } else if id.space == Space::OvsBridge {
            // it has no use for them, but NetworkManager would fill in `auto`
            if p.get(section, "method").is_none() {
                Ip::disabled().to_profile(ipv6, &mut p);
            }
        } else {
            ip(ipv6, touched, ground, &mut p);
        }
    }
    if !port {
        node_wide(ground.extra, &mut p);
    }
    p
}

/// The wish for a profile there is, the whole for a new one.
fn merged(touched: &Touched, current: Option<&Interface>, has_base: bool) -> Interface {
    let mut asked = touched.wish.clone();
    let Some(current) = current.filter(|c| c.kind.type_name() == asked.kind.type_name()) else {
        return asked;
    };
    let mut wish = asked.tree();
    let mut tree = current.tree();
    for key in [
        "name",
        "type",
        "state",
        "profile-name",
        "identifier",
        "mac-address",
        "mtu",
        "accept-all-mac-addresses",
        "wait-ip",
        "alt-names",
        "ethernet",
    ] {
        // a value that the kernel merely has is not made a setting
        tree.remove(key);
    }
    for key in Parts::KEYS {
        tree.remove(*key);
    }
    if has_base {
        tree.retain(|key, _| wish.contains_key(key));
    }
    let mut whole = serde_json::Value::Object(tree.clone());
    crate::state::tree::overlay(&mut whole, &serde_json::Value::Object(wish.clone()));
    if let serde_json::Value::Object(map) = &mut whole {
        asked.kind.settle(map, &wish, &tree);
        if has_base {
            // options that were only read must not be pinned: keep the wish, but with settled lists
            narrow(map, &wish);
        }
        for key in ["ipv4", "ipv6"] {
            map.remove(key);
        }
        wish = map.clone();
    }
    match Interface::from_tree(serde_json::Value::Object(wish)) {
        Ok(mut whole) => {
            whole.ipv4 = asked.ipv4.take();
            whole.ipv6 = asked.ipv6.take();
            whole
        }
        Err(_) => asked,
    }
}

/// Keeps of `whole` what `wish` names, lists as they are.
fn narrow(whole: &mut serde_json::Map<String, serde_json::Value>, wish: &serde_json::Map<String, serde_json::Value>) {
    whole.retain(|key, _| wish.contains_key(key));
    for (key, value) in whole.iter_mut() {
        if let (serde_json::Value::Object(value), Some(serde_json::Value::Object(wish))) = (value, wish.get(key)) {
            narrow(value, wish);
        }
    }
}

fn head(id: &Id, asked: &Interface, p: &mut Profile, seen: &Observation) {
    let name = id.name.as_str();
    if p.str("connection", "uuid").is_none() {
        p.put("connection", "uuid", new_uuid(id, asked.kind.nm_type(), seen));
        p.put("connection", "autoconnect", true);
    } else if p.bool("connection", "autoconnect") == Some(false) {
        p.put("connection", "autoconnect", true);
    }
    if p.str("connection", "type").is_none() {
        p.put("connection", "type", asked.kind.nm_type());
        p.ensure(asked.kind.nm_type());
    }
    let named = p.str("connection", "interface-name").is_some();
    let found_otherwise = p.get("802-3-ethernet", "mac-address").is_some() || !p.strs("match", "path").is_empty();
    match asked.base.identifier {
        Some(Identifier::MacAddress | Identifier::PciAddress) => p.remove("connection", "interface-name"),
        None if found_otherwise && !named => {}
        _ if id.space == Space::Vpn => p.put("connection", "id", name),
        _ => {
            // it was found by its address so far
            if !named {
                p.remove("802-3-ethernet", "mac-address");
                p.remove("match", "path");
            }
            p.put("connection", "interface-name", name);
        }
    }
    if asked.kind.is_controller() {
        // ports come up with their controller, also after a reboot
        p.put("connection", "autoconnect-slaves", 1);
    }
}

/// Stable: the same interface gets the same uuid after it was removed. A number is added where another profile has it.
pub fn new_uuid(id: &Id, nm_type: &str, seen: &Observation) -> String {
    let name = &id.name;
    (0u32..)
        .map(|n| {
            if n == 0 {
                format!("{nm_type}://{name}")
            } else {
                format!("{nm_type}://{name}#{n}")
            }
        })
        .map(|text| Uuid::new_v5(&Uuid::NAMESPACE_URL, text.as_bytes()).to_string())
        .find(|uuid| seen.facts.profile(uuid).is_none())
        .unwrap_or_default()
}

fn join(name: &str, controller: &Interface, p: &mut Profile, seen: &Observation) {
    let id = controller.id();
    let uuid = match Stock::of(&id, seen).base {
        Some(base) => base.uuid().to_owned(),
        None => new_uuid(&id, controller.kind.nm_type(), seen),
    };
    // profiles may name their controller by uuid; that is the same thing
    if p.str("connection", "master") != Some(uuid.as_str()) {
        let by_name = id.space == Space::Kernel;
        p.put("connection", "master", if by_name { id.name } else { uuid });
    }
    p.put("connection", "slave-type", controller.kind.port_type());
    for key in ["controller", "port-type"] {
        p.remove("connection", key);
    }
    for setting in AnyKind::port_settings().filter(|s| *s != controller.kind.port_setting()) {
        p.remove_setting(setting);
    }
    controller.kind.port_to_profile(name, p);
}

/// It is down, and nobody asks whose port it is: its profile keeps that for later.
fn stays_behind(touched: &Touched) -> bool {
    let wish = &touched.wish.base;
    touched.named && touched.member == Membership::Keeps && wish.state == Some(State::Down) && wish.controller.is_none()
}

fn leave(p: &mut Profile) {
    for key in ["master", "slave-type", "controller", "port-type"] {
        p.remove("connection", key);
    }
    AnyKind::port_settings().for_each(|setting| p.remove_setting(setting));
}

fn ip(ipv6: bool, touched: &Touched, ground: &Ground<'_>, p: &mut Profile) {
    let has_base = ground.inherits();
    let wish = touched.wish.ip(ipv6);
    let section = if ipv6 { "ipv6" } else { "ipv4" };
    let has = p.settings.get(section).is_some_and(|s| s.contains_key("method"));
    if touched.wish.kind.space() == Space::Vpn {
        // the addresses of a VPN come from its other end
        let now = p.str(section, "method") != Some("disabled");
        if let Some(enabled) = wish.and_then(|w| w.enabled).filter(|e| *e != now || !has_base) {
            p.put(section, "method", if enabled { "auto" } else { "disabled" });
        }
        return;
    }
    match (wish, ground.current.and_then(|c| c.ip(ipv6))) {
        (None, _) if has_base && has => {}
        (None, None) => Ip::disabled().to_profile(ipv6, p),
        (None, Some(now)) => Ip::merge(&Ip::default(), Some(now)).to_profile(ipv6, p),
        (Some(wish), now) => Ip::merge(wish, now).to_profile(ipv6, p),
    }
    // where the kernel has no IPv6, and NetworkManager takes no profile for lo without
    if let Some(own) = touched.wish.kind.own_address(ipv6)
        && p.str(section, "method") == Some("disabled")
    {
        Ip::of(own).to_profile(ipv6, p);
    }
    // NetworkManager refuses a gateway without an address
    if p.get(section, "address-data").is_none() {
        p.remove(section, "gateway");
    }
}

fn node_wide(extra: &Extra, p: &mut Profile) {
    let Extra {
        routes,
        rules,
        dns,
        reapply: _,
        activate: _,
    } = extra;
    for ipv6 in [false, true] {
        let section = if ipv6 { "ipv6" } else { "ipv4" };
        if p.str(section, "method") == Some("disabled") {
            continue; // validated before: nothing is asked of a family that is off
        }
        let mine = |entries: &[Entry]| -> Vec<Dict> {
            let mine = entries.iter().filter(|e| e.ipv6 == ipv6);
            mine.map(|e| e.data.clone()).collect()
        };
        if let Some(routes) = routes {
            // it is the default route among them
            p.remove(section, "gateway");
            put_list(p, section, "route-data", mine(routes));
        }
        if let Some(rules) = rules {
            put_list(p, section, "routing-rules", mine(rules));
        }
        if let Some(shares) = dns {
            shares[usize::from(ipv6)].to_profile(ipv6, p);
        }
    }
}

fn put_list(p: &mut Profile, section: &str, key: &str, data: Vec<Dict>) {
    match data.is_empty() {
        true => p.remove(section, key),
        false => p.put(section, key, data),
    }
}

/// Before 1.51, Reapply of NetworkManager syncs table main only: a route that goes from another one stays in the kernel
/// unless the device is activated anew.
pub fn leaves_routes_behind(old: &Profile, new: &Profile, seen: &Observation) -> bool {
    // routes without a next hop belong to no device and are kept in step at any time
    let elsewhere = |r: &&Dict| !matches!(r.get("table"), None | Some(Value::U32(0 | MAIN))) && !r.contains_key("type");
    let place = |r: &Dict| ["dest", "prefix", "next-hop", "metric", "table"].map(|key| r.get(key).cloned());
    let gone = |section: &&str| {
        let kept: BTreeSet<_> = new.dicts(section, "route-data").iter().map(place).collect();
        let before = old.dicts(section, "route-data").iter().filter(elsewhere);
        before.map(place).any(|r| !kept.contains(&r))
    };
    !seen.facts.nm_at_least("1.51") && ["ipv4", "ipv6"].iter().any(gone)
}

/// It holds what `leaves_routes_behind` and `takes_vf_settings_back` look for.
pub fn could_leave_something(profile: &Profile) -> bool {
    let routes = ["ipv4", "ipv6"]
        .iter()
        .any(|s| !profile.dicts(s, "route-data").is_empty());
    routes || !profile.dicts("sriov", "vfs").is_empty()
}

/// Settings of virtual functions are taken back. NetworkManager can only write them, so the functions must be made anew.
pub fn takes_vf_settings_back(old: &Profile, new: &Profile) -> bool {
    let more_than_a_number = |vf: &Dict| vf.len() > 1;
    old.dicts("sriov", "vfs").iter().any(more_than_a_number)
        && new.dicts("sriov", "vfs").is_empty()
        && new.int("sriov", "total-vfs").is_some_and(|total| total > 0)
}

/// Keys in which two profiles differ, as `setting.key`. What NetworkManager leaves out because it is the default counts as equal.
pub fn differing_keys(old: &Profile, new: &Profile) -> Vec<String> {
    let settings: BTreeSet<&String> = old.settings.keys().chain(new.settings.keys()).collect();
    let none = Dict::new();
    let mut out = vec![];
    for setting in settings {
        let (a, b) = (old.settings.get(setting), new.settings.get(setting));
        let keys: BTreeSet<&String> = a.into_iter().chain(b).flat_map(Dict::keys).collect();
        let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
        for key in keys {
            if IGNORED.contains(&(setting.as_str(), key.as_str())) {
                continue;
            }
            let (x, y) = (canonical(setting, key, a.get(key)), canonical(setting, key, b.get(key)));
            if x != y {
                out.push(format!("{setting}.{key}"));
            }
        }
    }
    out
}

/// Written by NetworkManager itself, or a second spelling of a key that we write.
const IGNORED: [(&str, &str); 8] = [
    ("connection", "timestamp"),
    ("connection", "controller"),
    ("connection", "port-type"),
    ("connection", "autoconnect-ports"),
    ("connection", "permissions"),
    ("bridge", "interface-name"),
    ("ipv4", "address-labels"),
    ("ipv6", "dns-data"),
];

/// None where the value is what NetworkManager takes for granted (nm-settings-nmcli(5)).
pub fn canonical(setting: &str, key: &str, value: Option<&Value>) -> Option<Value> {
    let value = value?;
    let default = match (setting, key) {
        ("connection", "autoconnect") | ("ipv4" | "ipv6", "may-fail" | "dhcp-send-hostname") => Value::Bool(true),
        ("connection", "autoconnect-slaves") | ("802-3-ethernet", "accept-all-mac-addresses") => Value::I32(-1),
        ("ipv4" | "ipv6", "route-metric") => Value::I64(-1),
        ("ipv4", "forwarding") => Value::I32(-1),
        // what the administrator set for the whole node
        ("ipv6", "addr-gen-mode") => Value::I32(3),
        // a driver's switch that is off is not one that is left alone
        ("ethtool", _) => return Some(value.clone()),
        _ => match AnyKind::nm_default(setting, key).or_else(|| Parts::nm_default(setting, key)) {
            Some(default) => default,
            None => return Some(value.clone()).filter(|v| !is_nothing(v)),
        },
    };
    (*value != default).then(|| value.clone())
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Bool(v) => !v,
        Value::Byte(v) => *v == 0,
        Value::U16(v) => *v == 0,
        Value::I32(v) => *v == 0,
        Value::U32(v) => *v == 0,
        Value::I64(v) => *v == 0,
        Value::U64(v) => *v == 0,
        Value::Str(v) => v.is_empty(),
        Value::Bytes(v) => v.is_empty(),
        Value::Strs(v) => v.is_empty(),
        Value::U32s(v) => v.is_empty(),
        Value::StrMap(v) => v.is_empty(),
        Value::Dict(v) => v.is_empty(),
        Value::Dicts(v) => v.is_empty(),
    }
}
