//! What was asked for against what is there. Only what was asked for is compared.

use std::collections::HashMap;

use serde_json::Value;

use crate::facts::{Device, Facts};
use crate::observation::Observation;
use crate::scalar::Space;
use crate::state::dns::Dns;
use crate::state::iface::{Interface, State};
use crate::state::route::{LOOPBACK, MAIN, Route, unserved};
use crate::state::rule::{self, Rule};
use crate::state::tree::{self, Missing};
use crate::state::{HIDDEN, Hostname, NetworkState, ovn, ovs_db};

use super::resolve::comparable;

/// One property that is not as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// `interfaces[br0].bridge.options.stp.enabled`
    pub path: String,
    /// What is there.
    pub current: String,
    /// What was asked for.
    pub desired: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.current.as_str() {
            "" => write!(f, "{}: {}", self.path, self.desired),
            current => write!(f, "{}: {current} → {}", self.path, self.desired),
        }
    }
}

fn difference(path: impl Into<String>, current: impl Into<String>, desired: impl Into<String>) -> Difference {
    Difference {
        path: path.into(),
        current: current.into(),
        desired: desired.into(),
    }
}

/// Everything in `expect` (resolved names) that `seen` lacks.
pub fn verify(expect: &NetworkState, seen: &Observation) -> Vec<Difference> {
    let mut out = vec![];
    for wish in &expect.interfaces {
        interface(wish, seen, &mut out);
    }
    routes(expect, seen, &mut out);
    rules(expect, seen, &mut out);
    dns(expect, seen, &mut out);
    hostname(expect, seen, &mut out);
    ovs(expect, seen, &mut out);
    out
}

/// Virtual functions (card and number) whose interface is not there yet.
pub fn coming(vfs: &[(String, u32)], facts: &Facts) -> Vec<Difference> {
    let there = |card: &str, id: u32| {
        let sriov = facts.link(card).and_then(|l| l.sriov.as_ref());
        let mut vfs = sriov.iter().flat_map(|s| &s.vfs).filter(|vf| vf.id == id);
        vfs.any(|vf| vf.interface.as_deref().is_some_and(|name| facts.link(name).is_some()))
    };
    let missing = vfs.iter().filter(|(card, id)| !there(card, *id));
    let path = |card: &str, id: u32| format!("interfaces[{card}].ethernet.sr-iov.vfs[{id}].iface-name");
    missing
        .map(|(card, id)| difference(path(card, *id), "none", "an interface"))
        .collect()
}

fn hostname(expect: &NetworkState, seen: &Observation, out: &mut Vec<Difference>) {
    let Some(Hostname { running, config }) = &expect.hostname else {
        return;
    };
    let now = &seen.facts.hostname;
    for (key, want, got) in [("running", running, &now.running), ("config", config, &now.config)] {
        let got = got.as_deref().unwrap_or_default();
        if let Some(want) = want.as_deref().filter(|want| *want != got) {
            let word = |name: &str| {
                if name.is_empty() {
                    "none".to_owned()
                } else {
                    name.to_owned()
                }
            };
            out.push(difference(format!("hostname.{key}"), word(got), word(want)));
        }
    }
}

/// What an interface lacks.
pub fn of_interface(wish: &Interface, seen: &Observation) -> Vec<Difference> {
    let mut out = vec![];
    interface(wish, seen, &mut out);
    out
}

fn interface(wish: &Interface, seen: &Observation, out: &mut Vec<Difference>) {
    let current = seen.interface(&wish.id());
    let mut wish = wish.clone();
    if current.is_some_and(|c| borrows_mac(c, seen)) {
        wish.base.mac_address = None;
    }
    let wish = &wish;
    let label = format!("interfaces[{}]", wish.name());
    match (wish.base.state.unwrap_or_default(), current) {
        (State::Absent, Some(c)) if c.kind.is_virtual() => out.push(difference(label, c.kind.type_name(), "absent")),
        (State::Down, Some(c)) if c.kind.stays_up() && seen.facts.own_profile(wish.name()).is_none() => {}
        (State::Down, Some(c)) if goes_when_down(c) || c.base.state != Some(State::Down) => {
            out.push(difference(format!("{label}.state"), word(c.base.state), "down"))
        }
        (State::Up, None) => {
            out.push(difference(&label, "", format!("new {}", wish.kind.type_name())));
            properties(wish, None, &label, out);
        }
        (State::Up, Some(c)) => {
            if c.base.state != Some(State::Up) {
                out.push(difference(format!("{label}.state"), word(c.base.state), "up"));
            }
            properties(wish, Some(c), &label, out);
            for (port, why) in wish.kind.port_faults(wish.name(), &seen.facts) {
                let path = format!("{label}.{}.{port}", wish.kind.ports_path());
                out.push(difference(path, why, "working"));
            }
        }
        _ => {}
    }
}

/// A link of software is not there while it is down; a VPN is.
fn goes_when_down(current: &Interface) -> bool {
    current.kind.is_virtual() && current.kind.space() == Space::Kernel
}

/// Its controller gives it another MAC address than its own.
fn borrows_mac(current: &Interface, seen: &Observation) -> bool {
    let controller = current.base.controller.as_deref().and_then(|c| seen.controller(c));
    controller.is_some_and(|c| !c.kind.ports_keep_mac())
}

fn word(state: Option<State>) -> &'static str {
    match state.unwrap_or_default() {
        State::Up => "up",
        State::Down => "down",
        State::Absent => "absent",
        State::Ignore => "unmanaged",
    }
}

fn properties(wish: &Interface, current: Option<&Interface>, label: &str, out: &mut Vec<Difference>) {
    let mut want = Value::Object(comparable(wish));
    // of an interface that is not there every property is missing one by one, not the whole
    let mut got = Value::Object(current.map(comparable).unwrap_or_default());
    for path in wish.secrets() {
        tree::mask(&mut want, &mut got, &path, HIDDEN);
    }
    let mut missing = vec![];
    tree::missing(&want, &got, "", &mut missing);
    let extra = extra_addresses(wish, current);
    if let Some(now) = got.as_object().filter(|_| current.is_some()) {
        missing.retain(|m| !wish.kind.close_enough(&m.path, &m.want, &m.got, now));
    }
    for Missing { path, want, got } in missing.into_iter().filter(|m| !(blank(&m.want) && blank(&m.got))) {
        let (path, want) = readable(wish.kind.ports_path(), &path, &want);
        let current = if current.is_none() { String::new() } else { print(&got) };
        out.push(difference(format!("{label}.{path}"), current, want));
    }
    for (path, address) in extra {
        out.push(difference(format!("{label}.{path}"), address, "gone"));
    }
}

/// Nothing there; an empty text asks for that.
fn blank(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// Addresses beyond the list where the wish forbids them.
fn extra_addresses(wish: &Interface, current: Option<&Interface>) -> Vec<(String, String)> {
    let mut extra = vec![];
    for (ipv6, section) in [(false, "ipv4"), (true, "ipv6")] {
        let (Some(want), Some(got)) = (wish.ip(ipv6), current.and_then(|c| c.ip(ipv6))) else {
            continue;
        };
        if want.allow_extra_address != Some(false) {
            continue;
        }
        for a in got.static_addresses().filter(|a| {
            !want
                .static_addresses()
                .any(|w| (w.ip, w.prefix_length) == (a.ip, a.prefix_length))
        }) {
            extra.push((format!("{section}.address"), format!("{}/{}", a.ip, a.prefix_length)));
        }
    }
    extra
}

/// Lists were compared as maps by address or name; this shows them as lists again.
fn readable(ports: &str, path: &str, want: &Value) -> (String, String) {
    if let Some((section, address)) = path.split_once(".address.") {
        return (format!("{section}.address"), address.to_owned());
    }
    match path
        .strip_prefix(ports)
        .and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".name"))
    {
        Some(port) => (ports.to_owned(), port.to_owned()),
        None => (path.to_owned(), print(want)),
    }
}

fn print(value: &Value) -> String {
    match value {
        nothing if blank(nothing) => "none".to_owned(),
        // a line of a plan is one line
        Value::String(s) => match s.split_once('\n') {
            Some((first, rest)) => format!("{first} … ({} more lines)", rest.lines().count()),
            None => s.clone(),
        },
        Value::Object(map) => {
            let there = map.iter().filter(|(_, v)| !v.is_null());
            Value::Object(there.map(|(k, v)| (k.clone(), v.clone())).collect()).to_string()
        }
        other => other.to_string(),
    }
}

fn routes(expect: &NetworkState, seen: &Observation, out: &mut Vec<Difference>) {
    let wishes: Vec<&Route> = expect.routes.iter().flat_map(|r| r.config.iter().flatten()).collect();
    if wishes.is_empty() {
        return;
    }
    let now = seen.state.routes.as_ref();
    let running: Vec<&Route> = now.iter().flat_map(|r| r.running.iter().flatten()).collect();
    let there = |w: &&&Route| w.state.is_none();
    let missing = unserved(&wishes.iter().filter(there).copied().collect::<Vec<_>>(), &running);
    let mut missing = missing.into_iter().peekable();
    let mut config: HashMap<Option<&str>, Vec<&Route>> = HashMap::new();
    let ours = held_special(seen);
    let removable = |r: &&Route| !r.is_ignored() && (r.route_type.is_none() || ours.iter().any(|o| o.same_place(r)));
    let all = now.iter().flat_map(|r| r.config.iter().flatten()).filter(removable);
    for route in all.clone() {
        config.entry(route.destination.as_deref()).or_default().push(route);
    }
    let mut wanted: HashMap<Option<&str>, Vec<&Route>> = HashMap::new();
    for wish in wishes.iter().filter(there) {
        wanted.entry(wish.destination.as_deref()).or_default().push(wish);
    }
    let kept = |r: &Route| {
        let near = wanted.get(&r.destination.as_deref()).into_iter().flatten();
        near.copied().any(|w| w.served_by(r))
    };
    let mut nth = 0;
    for (i, wish) in wishes.iter().enumerate() {
        let label = format!("routes.config[{i}]");
        if wish.is_absent() {
            let near: Vec<&Route> = match &wish.destination {
                Some(to) => config.get(&Some(to.as_str())).cloned().unwrap_or_default(),
                None => all.clone().collect(),
            };
            if let Some(found) = near.iter().find(|r| wish.matches(r) && !kept(r)) {
                let to = found.destination.clone().unwrap_or_default();
                out.push(difference(label, to, format!("absent {}", words(wish)).trim_end()));
            }
        } else if wish.state.is_none() {
            if missing.next_if_eq(&nth).is_some() {
                out.push(difference(label, "none", words(wish)));
            }
            nth += 1;
        }
    }
}

/// Routes without a next hop that profiles in force hold. NetworkManager leaves others of this sort where they are.
pub fn held_special(seen: &Observation) -> Vec<Route> {
    let active = |d: &'_ Device| seen.facts.profile(&d.active.as_ref()?.uuid);
    let profiles = seen.facts.devices.iter().filter_map(active);
    let entries = profiles.flat_map(|p| ["ipv4", "ipv6"].map(|s| p.profile.dicts(s, "route-data")));
    let routes = entries
        .flatten()
        .filter(|d| d.contains_key("type"))
        .filter_map(|d| Route::from_nm(d, LOOPBACK, MAIN));
    routes.filter(|r| r.route_type.is_some()).collect()
}

/// `to 10.0.0.0/8 via 192.0.2.1 dev eth1 table 200 metric 5 mtu 1400`
fn words(wish: &Route) -> String {
    let flag = |v: Option<bool>| v.map(|v| v.to_string());
    let number = |v: Option<u32>| v.map(|v| v.to_string());
    describe(&[
        ("to", wish.destination.clone()),
        ("via", wish.gateway().map(|g| g.to_string())),
        ("dev", wish.next_hop_interface.clone()),
        ("type", wish.route_type.map(|t| t.word().to_owned())),
        ("table", number(wish.table_id)),
        ("metric", number(wish.metric_asked())),
        ("source", wish.source.map(|s| s.to_string())),
        ("weight", number(wish.weight.map(u32::from))),
        ("cwnd", number(wish.cwnd)),
        ("mtu", number(wish.mtu)),
        ("lock-mtu", flag(wish.lock_mtu)),
        ("advmss", number(wish.advmss)),
        ("initcwnd", number(wish.initcwnd)),
        ("initrwnd", number(wish.initrwnd)),
        ("quickack", flag(wish.quickack)),
    ])
}

fn rules(expect: &NetworkState, seen: &Observation, out: &mut Vec<Difference>) {
    let wishes: Vec<&Rule> = expect
        .route_rules
        .iter()
        .flat_map(|r| r.config.iter().flatten())
        .collect();
    if wishes.is_empty() {
        return;
    }
    let mut now: HashMap<_, Vec<&Rule>> = HashMap::new();
    for rule in seen.state.route_rules.iter().flat_map(|r| r.config.iter().flatten()) {
        now.entry(rule.packets()).or_default().push(rule);
    }
    // NetworkManager leaves rules of others where they are
    let own = rule::of_network_manager(&seen.facts);
    for (i, wish) in wishes.iter().enumerate() {
        let label = format!("route-rules.config[{i}]");
        let network = |n: &Option<String>| {
            n.as_ref()
                .map(|n| if n.is_empty() { "none".to_owned() } else { n.clone() })
        };
        let text = || {
            describe(&[
                ("from", network(&wish.ip_from)),
                ("to", network(&wish.ip_to)),
                ("iif", wish.iif.clone()),
                ("fwmark", wish.fwmark.map(|m| format!("0x{m:x}"))),
                ("action", wish.action.map(|a| a.word().to_owned())),
                ("table", wish.route_table.map(|t| t.to_string())),
                ("priority", wish.priority.filter(|p| *p >= 0).map(|p| p.to_string())),
            ])
        };
        if wish.is_absent() {
            let kept = |r: &Rule| wishes.iter().any(|w| !w.is_absent() && w.served_by(r));
            if own.iter().any(|r| wish.matches(r) && !kept(r)) {
                out.push(difference(label, "present", format!("absent {}", text()).trim_end()));
            }
        } else {
            let near = now.get(&wish.packets()).into_iter().flatten();
            if !near.copied().any(|r| wish.served_by(r)) {
                out.push(difference(label, "none", text()));
            }
        }
    }
}

fn describe(parts: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> = parts
        .iter()
        .filter_map(|(k, v)| v.as_ref().map(|v| format!("{k} {v}")))
        .collect();
    given.join(" ")
}

fn dns(expect: &NetworkState, seen: &Observation, out: &mut Vec<Difference>) {
    let Some(wish) = expect.dns_resolver.as_ref().and_then(|d| d.config.as_ref()) else {
        return;
    };
    let now = seen
        .state
        .dns_resolver
        .as_ref()
        .and_then(|d| d.config.clone())
        .unwrap_or_default();
    let want = Dns::merge(wish, &now);
    for (key, want, now) in [
        ("server", want.server, now.server),
        ("search", want.search, now.search),
        ("options", want.options, now.options),
    ] {
        let (mut want, mut now) = (want.unwrap_or_default(), now.unwrap_or_default());
        if key == "options" {
            want.sort();
            now.sort();
        }
        if want != now {
            out.push(difference(
                format!("dns-resolver.config.{key}"),
                format!("[{}]", now.join(", ")),
                format!("[{}]", want.join(", ")),
            ));
        }
    }
}

fn ovs(expect: &NetworkState, seen: &Observation, out: &mut Vec<Difference>) {
    let now = seen.facts.ovs.as_ref().map(|o| o.ids.clone()).unwrap_or_default();
    let none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    if let Some(wish) = &expect.ovs_db {
        for ((column, wish), now) in wish.maps().into_iter().zip([&now.external_ids, &now.other_config]) {
            for (key, want) in ovs_db::change(wish, now) {
                let path = format!("ovs-db.{column}.{key}");
                out.push(difference(path, none(now.get(&key).cloned()), none(want)));
            }
        }
    }
    if let Some(wish) = &expect.ovn {
        let now = ovn::current(&seen.facts);
        let merged = wish.merge(&now);
        for localnet in wish.mappings().map(|m| &m.localnet) {
            let (want, is) = (merged.get(localnet).cloned(), now.get(localnet).cloned());
            if want != is {
                out.push(difference(
                    format!("ovn.bridge-mappings.{localnet}"),
                    none(is),
                    none(want),
                ));
            }
        }
    }
}
