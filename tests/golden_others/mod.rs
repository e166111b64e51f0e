//! What a golden case can say of others on its node, and of what is found there after the wish was carried out.

use std::collections::BTreeMap;

use netwright::facts::{Active, Address, Device, Facts, Link, Route, Rule, SavedProfile};
use netwright::host::fake::FakeHost;
use netwright::observation::Observation;
use netwright::profile::{Dict, Profile, Value};
use netwright::scalar::Id;
use serde::Deserialize;
use serde_json::Value as Json;

/// What others did.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Others {
    /// Links that others made, or changes to those there are.
    links: Vec<Other>,
    /// Addresses that a DHCP server has: `192.0.2.77/24`.
    leases: BTreeMap<String, String>,
    /// Routes that others made.
    routes: Vec<OtherRoute>,
    /// Destinations of routes that others removed.
    no_routes: Vec<String>,
    /// Rules that others made.
    rules: Vec<OtherRule>,
    /// Priorities of rules that others removed.
    no_rules: Vec<u32>,
    /// Profiles that others saved: setting → key → value; a text `u 5`, `x 5` is a number of that D-Bus type, `as a,b` a list.
    profiles: Vec<BTreeMap<String, BTreeMap<String, Json>>>,
    /// Uuids of those that are not on disk.
    in_memory: Vec<String>,
    /// Interface → uuid of a profile that is in force there.
    active: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Other {
    name: String,
    /// `IFLA_INFO_KIND`.
    kind: Option<String>,
    /// `external`: NetworkManager shows it as configured by somebody else; `unmanaged`: it leaves it alone; `down`.
    state: Option<String>,
    #[serde(default)]
    alt_names: Vec<String>,
    mac: Option<String>,
    permanent_mac: Option<String>,
    controller: Option<String>,
    mtu: Option<u32>,
    max_mtu: Option<u32>,
    #[serde(default)]
    addresses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherRoute {
    to: String,
    via: Option<String>,
    dev: Option<String>,
    table: Option<u32>,
    metric: Option<u32>,
    /// `rtm_protocol`; 3 is boot.
    protocol: Option<u8>,
    /// `rtm_type`.
    kind: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherRule {
    from: Option<String>,
    table: u32,
    priority: u32,
    /// `FRA_PROTOCOL`; 3 is boot.
    protocol: Option<u8>,
}

impl Others {
    /// Makes it so.
    pub fn set_up(&self, host: &FakeHost) {
        for (link, lease) in &self.leases {
            let net: ipnet::IpNet = lease.parse().expect("a lease is an address with its prefix");
            host.lease(link, net.addr(), net.prefix_len());
        }
        host.meddle(|facts| {
            self.links.iter().for_each(|l| l.set_up(facts));
            self.set_up_routes(facts);
            facts.rules.retain(|r| !self.no_rules.contains(&r.priority));
            facts.rules.extend(self.rules.iter().map(OtherRule::facts));
            for settings in &self.profiles {
                facts.profiles.push(saved(settings));
            }
            for saved in facts
                .profiles
                .iter_mut()
                .filter(|p| self.in_memory.iter().any(|u| u == p.uuid()))
            {
                saved.filename = format!("/run/NetworkManager/system-connections/{}", saved.uuid());
            }
            for (interface, uuid) in &self.active {
                activate(facts, interface, uuid, 0);
            }
        });
    }

    fn set_up_routes(&self, facts: &mut Facts) {
        facts
            .routes
            .retain(|r| !self.no_routes.contains(&r.destination.to_string()));
        for route in &self.routes {
            let link = route
                .dev
                .as_ref()
                .map(|d| facts.link(d).expect("the route's link").index);
            facts.routes.push(Route {
                destination: route.to.parse().expect("a network"),
                gateway: route.via.as_ref().map(|g| g.parse().expect("a gateway")),
                link,
                table: route.table.unwrap_or(254),
                metric: route.metric,
                protocol: route.protocol.unwrap_or(3),
                scope: 0,
                kind: route.kind.unwrap_or(1),
                source: None,
                weight: None,
                metrics: BTreeMap::new(),
            });
        }
    }
}

impl OtherRule {
    fn facts(&self) -> Rule {
        Rule {
            ipv6: self.from.as_ref().is_some_and(|f| f.contains(':')),
            from: self.from.as_ref().map(|f| f.parse().expect("a network")),
            to: None,
            priority: self.priority,
            table: self.table,
            fwmark: None,
            fwmask: None,
            iif: None,
            action: 1,
            suppress_prefix_length: None,
            protocol: self.protocol.unwrap_or(3),
        }
    }
}

impl Other {
    fn set_up(&self, facts: &mut Facts) {
        if facts.link(&self.name).is_none() {
            let index = 100 + u32::try_from(facts.links.len()).expect("few links");
            facts.links.push(Link {
                index,
                name: self.name.clone(),
                kind: self.kind.clone(),
                arphrd: 1,
                admin_up: true,
                running: true,
                mtu: Some(1500),
                mac: Some(format!("06:00:00:00:00:{index:02X}")),
                ..Link::default()
            });
            facts.devices.push(Device {
                path: format!("/d/{index}"),
                interface: self.name.clone(),
                state: 30,
                managed: true,
                real: true,
                ..Device::default()
            });
        }
        let controller = self
            .controller
            .as_ref()
            .map(|c| facts.link(c).expect("the controller").index);
        let link = facts
            .links
            .iter_mut()
            .find(|l| l.name == self.name)
            .expect("it is there by now");
        link.alt_names.extend(self.alt_names.iter().cloned());
        link.mac = self.mac.clone().or(link.mac.take());
        link.permanent_mac = self.permanent_mac.clone().or(link.permanent_mac.take());
        link.controller = controller.or(link.controller);
        link.mtu = self.mtu.or(link.mtu);
        link.max_mtu = self.max_mtu.or(link.max_mtu);
        let index = link.index;
        for address in &self.addresses {
            let net: ipnet::IpNet = address.parse().expect("an address with its prefix");
            facts.addresses.push(Address {
                link: index,
                ip: net.addr(),
                prefix: net.prefix_len(),
                dynamic: false,
                valid: None,
                preferred: None,
                protocol: 0,
                duplicate: false,
            });
        }
        let device = facts
            .devices
            .iter_mut()
            .find(|d| d.interface == self.name)
            .expect("it has a device");
        match self.state.as_deref() {
            Some("external") => {
                let uuid = format!("external-{}", self.name);
                let mut profile = Profile::default();
                profile.put("connection", "uuid", uuid.as_str());
                profile.put("connection", "interface-name", self.name.as_str());
                facts.profiles.push(SavedProfile {
                    path: format!("/s/{uuid}"),
                    profile,
                    flags: 0xe,
                    ..SavedProfile::default()
                });
                // NM_ACTIVATION_STATE_FLAG_EXTERNAL
                activate(facts, &self.name, &uuid, 0x80);
            }
            Some("unmanaged") => {
                device.state = 10;
                device.active = None;
            }
            Some("down") => {
                device.state = 30;
                device.active = None;
            }
            Some(other) => panic!("state {other}?"),
            None => {}
        }
    }
}

fn activate(facts: &mut Facts, interface: &str, uuid: &str, flags: u32) {
    let device = facts
        .devices
        .iter_mut()
        .find(|d| d.interface == interface)
        .expect("a device");
    device.state = 100;
    device.active = Some(Active {
        path: format!("/a/{uuid}"),
        uuid: uuid.to_owned(),
        state: 2,
        flags,
    });
}

fn saved(settings: &BTreeMap<String, BTreeMap<String, Json>>) -> SavedProfile {
    let mut profile = Profile::default();
    for (setting, keys) in settings {
        profile.ensure(setting);
        keys.iter().for_each(|(key, v)| profile.put(setting, key, value(v)));
    }
    let uuid = profile
        .str("connection", "uuid")
        .expect("a profile has a uuid")
        .to_owned();
    SavedProfile {
        path: format!("/s/{uuid}"),
        filename: format!("/etc/NetworkManager/system-connections/{uuid}"),
        profile,
        ..SavedProfile::default()
    }
}

fn value(json: &Json) -> Value {
    let number = |text: &str| text.parse::<i64>().expect("a number");
    match json {
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => Value::I32(i32::try_from(n.as_i64().expect("a number")).expect("a small number")),
        Json::String(s) => match s.split_once(' ') {
            Some(("u", n)) => Value::U32(u32::try_from(number(n)).expect("u32")),
            Some(("x", n)) => Value::I64(number(n)),
            Some(("as", list)) => Value::Strs(list.split(',').map(str::to_owned).collect()),
            Some(("mac", mac)) => {
                let byte = |b| u8::from_str_radix(b, 16).expect("hex");
                Value::Bytes(mac.split(':').map(byte).collect())
            }
            _ => Value::Str(s.clone()),
        },
        Json::Array(list) => {
            let dict = |item: &Json| -> Dict {
                let map = item.as_object().expect("lists are of maps");
                map.iter().map(|(k, v)| (k.clone(), value(v))).collect()
            };
            Value::Dicts(list.iter().map(dict).collect())
        }
        other => panic!("{other} in a profile?"),
    }
}

/// Interface → `setting.key` → what its best profile holds afterwards; null is nothing. Interface → null: no profile.
#[derive(Deserialize, Default)]
pub struct Profiles(BTreeMap<String, Option<BTreeMap<String, Json>>>);

impl Profiles {
    /// Says what is otherwise.
    pub fn check(&self, seen: &Observation) -> Result<(), String> {
        for (name, wanted) in &self.0 {
            let id = Id::kernel(name);
            let all: Vec<&SavedProfile> = seen.profiles_of(&id).filter(|p| p.flags & 0xc == 0).collect();
            let (saved, wanted) = match (all.as_slice(), wanted) {
                ([], None) => continue,
                (_, None) => return Err(format!("{name} has a profile")),
                ([saved], Some(wanted)) => (saved, wanted),
                (other, Some(_)) => return Err(format!("{name} has {} profiles", other.len())),
            };
            for (path, want) in wanted {
                let (setting, key) = path.split_once('.').expect("setting.key");
                let got = saved.profile.get(setting, key).map_or(Json::Null, json);
                if got != *want {
                    return Err(format!("profile of {name}: {path} is {got}, not {want}"));
                }
            }
        }
        Ok(())
    }
}

fn json(value: &Value) -> Json {
    let dict = |d: &Dict| Json::Object(d.iter().map(|(k, v)| (k.clone(), json(v))).collect());
    match value {
        Value::Bool(v) => (*v).into(),
        Value::Byte(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::Str(v) => v.clone().into(),
        Value::Bytes(v) => v.clone().into(),
        Value::Strs(v) => v.clone().into(),
        Value::U32s(v) => v.clone().into(),
        Value::StrMap(v) => Json::Object(v.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect()),
        Value::Dict(v) => dict(v),
        Value::Dicts(v) => Json::Array(v.iter().map(dict).collect()),
    }
}

/// What the kernel and the resolver have afterwards; what is left out is not looked at.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Kernel {
    /// Names of all links but `lo`.
    links: Option<Vec<String>>,
    /// `10.0.0.0/8 via 192.0.2.1 dev eth1 table 200 metric 5`, sorted.
    routes: Option<Vec<String>>,
    /// `500 from 192.0.2.0/24 lookup 200`, sorted.
    rules: Option<Vec<String>>,
    /// Name servers in use.
    dns: Option<Vec<String>>,
    /// Search domains in use.
    search: Option<Vec<String>>,
    /// NetworkManager's global setting is in force.
    global: Option<bool>,
}

impl Kernel {
    /// Says what is otherwise.
    pub fn check(&self, seen: &Observation) -> Result<(), String> {
        let facts = &seen.facts;
        let links = facts
            .links
            .iter()
            .map(|l| l.name.clone())
            .filter(|n| n != "lo")
            .collect();
        let routes = facts.routes.iter().map(|r| route(r, facts)).collect();
        let rules = facts.rules.iter().map(rule).collect();
        for (what, want, mut got, sorted) in [
            ("links", &self.links, links, true),
            ("routes", &self.routes, routes, true),
            ("rules", &self.rules, rules, true),
            ("dns", &self.dns, facts.dns.servers.clone(), false),
            ("search", &self.search, facts.dns.searches.clone(), false),
        ] {
            let got: &mut Vec<String> = &mut got;
            if sorted {
                got.sort();
            }
            if want.as_ref().is_some_and(|want| want != got) {
                return Err(format!("afterwards {what} are {}", serde_json::json!(got)));
            }
        }
        let global = facts.dns.global.is_some();
        match self.global.is_some_and(|want| want != global) {
            true => Err(format!("afterwards the global setting is in force: {global}")),
            false => Ok(()),
        }
    }
}

fn route(r: &Route, facts: &Facts) -> String {
    let mut text = match r.kind {
        6 => "blackhole ",
        7 => "unreachable ",
        8 => "prohibit ",
        _ => "",
    }
    .to_owned();
    text += &r.destination.to_string();
    let link = r.link.and_then(|i| facts.link_by_index(i)).map(|l| l.name.clone());
    for (key, value) in [
        ("via", r.gateway.map(|g| g.to_string())),
        ("dev", link),
        ("table", Some(r.table).filter(|t| *t != 254).map(|t| t.to_string())),
        ("metric", r.metric.filter(|m| *m != 0).map(|m| m.to_string())),
        ("proto", Some(r.protocol).filter(|p| *p != 4).map(|p| p.to_string())),
    ] {
        if let Some(value) = value {
            text += &format!(" {key} {value}");
        }
    }
    text
}

fn rule(r: &Rule) -> String {
    let mut text = format!(
        "{} from {}",
        r.priority,
        r.from.map_or("all".to_owned(), |n| n.to_string())
    );
    if let Some(iif) = &r.iif {
        text += &format!(" iif {iif}");
    }
    match r.action {
        1 => text + &format!(" lookup {}", r.table),
        action => text + &format!(" action {action}"),
    }
}
