//! The document: parse, print, and render from facts. Pure. A wish and a reading have one shape.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::Profile;
use crate::scalar::Space;

pub mod dns;
pub mod features;
pub mod iface;
pub mod ovn;
pub mod ovs_db;
pub mod part;
pub mod route;
pub mod rule;
pub mod tree;

use dns::DnsResolver;
use iface::{AnyKind, Base, Interface, State, from_value};
use ovn::Ovn;
use part::ip::Ip;
use part::ovs_ids::OvsIds;
use route::Routes;
use rule::Rules;

/// What stands in for a secret in everything that is shown.
pub const HIDDEN: &str = "<_password_hid_by_nmstate>";

/// Host names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hostname {
    /// The kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// The static one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// `HOST_NAME_MAX` of the kernel.
const LONGEST_HOSTNAME: usize = 64;

impl Hostname {
    fn validate(&self) -> Result<(), Invalid> {
        let Hostname { running, config } = self;
        if running.as_deref() == Some("") {
            return Err(Invalid::new("running", "a running host name must not be empty"));
        }
        for (key, name) in [("running", running), ("config", config)] {
            let Some(name) = name.as_deref() else { continue };
            if name.len() > LONGEST_HOSTNAME {
                let why = format!("it has {} bytes; the kernel allows {LONGEST_HOSTNAME}", name.len());
                return Err(Invalid::new(key, why));
            }
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            // as `hostname_is_valid` of systemd, which is asked to set it
            let label = |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-');
            if !name.bytes().all(plain) || !(name.is_empty() || name.split('.').all(label)) {
                return Err(Invalid::new(key, format!("'{name}' is not a host name")));
            }
        }
        Ok(())
    }
}

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkState {
    /// Free text of the author; never applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Host names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// Name resolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_resolver: Option<DnsResolver>,
    /// Policy routing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_rules: Option<Rules>,
    /// Routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Routes>,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Free keys of Open vSwitch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ovs_db: Option<OvsIds>,
    /// OVN's physical networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ovn: Option<Ovn>,
    /// Names of entries that a later one for the same interface replaced. Not part of the document.
    #[serde(skip)]
    pub replaced: Replaced,
}

/// Remarks on how a document was written; two documents with different ones are the same.
#[derive(Debug, Clone, Default)]
pub struct Replaced(Vec<String>);

impl Replaced {
    /// Each name, as often as it was replaced.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}

impl PartialEq for Replaced {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl NetworkState {
    /// The links that others of it make as their other ends (pairs of veth).
    pub fn other_ends(&self) -> impl Iterator<Item = Interface> {
        let up = self.interfaces.iter().filter(|i| i.is_up());
        up.filter_map(|i| i.kind.other_end(i.name()))
    }

    /// Parses a wish strictly. The error's path is in the user's words: `interfaces[br0].bridge.options.stp.enabled`.
    pub fn from_json(value: Value) -> Result<Self, Invalid> {
        let mut map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => {
                return Err(Invalid::new(
                    "document",
                    format!("a map is expected, not {}", kind_of(&other)),
                ));
            }
        };
        match map.remove("interfaces") {
            None | Some(Value::Null) => Self::from_sections(map, [].into_iter()),
            Some(Value::Array(list)) => Self::from_sections(map, list.into_iter().map(Ok)),
            Some(other) => Err(Invalid::new(
                "interfaces",
                format!("a list is expected, not {}", kind_of(&other)),
            )),
        }
    }

    /// Parses a wish that is still text of JSON, `interfaces` entry by entry: a large one is never a tree as a whole, which is most of what reading it
    /// costs. `fill` may add to an entry before it is read.
    pub fn from_text(text: &str, fill: impl Fn(&mut Value)) -> Result<Self, Invalid> {
        #[derive(Deserialize)]
        struct Outline<'t> {
            #[serde(borrow, default)]
            interfaces: Vec<&'t RawValue>,
            #[serde(flatten)]
            sections: Map<String, Value>,
        }
        let unreadable = |e: serde_json::Error| Invalid::new("document", e.to_string());
        let Ok(Outline { interfaces, sections }) = serde_json::from_str(text) else {
            // no map, or something else in place of the list: few words
            return Self::from_json(serde_json::from_str(text).map_err(unreadable)?);
        };
        let entries = interfaces.into_iter().map(|entry| {
            let mut entry = serde_json::from_str(entry.get()).map_err(unreadable)?;
            fill(&mut entry);
            Ok(entry)
        });
        Self::from_sections(sections, entries)
    }

    fn from_sections(
        mut map: Map<String, Value>,
        interfaces: impl Iterator<Item = Result<Value, Invalid>>,
    ) -> Result<Self, Invalid> {
        let mut replaced = Replaced::default();
        let mut state = NetworkState {
            description: section(&mut map, "description")?,
            hostname: section(&mut map, "hostname")?,
            dns_resolver: section(&mut map, "dns-resolver")?,
            route_rules: section(&mut map, "route-rules")?,
            routes: section(&mut map, "routes")?,
            ovs_db: section(&mut map, "ovs-db")?.map(ovs_db::whole),
            ovn: section(&mut map, "ovn")?,
            interfaces: parse_interfaces(interfaces, &mut replaced)?,
            replaced,
        };
        if let Some(key) = map.keys().next() {
            return Err(Invalid::new(
                key,
                format!("unknown key '{key}' at the top of the document"),
            ));
        }
        state.settle()?;
        Ok(state)
    }

    fn settle(&mut self) -> Result<(), Invalid> {
        let hostname = self.hostname.as_ref().map_or(Ok(()), Hostname::validate);
        hostname.map_err(|e| e.under("hostname"))?;
        if let Some(ids) = &self.ovs_db {
            ovs_db::validate(ids).map_err(|e| e.under("ovs-db"))?;
        }
        if let Some(ovn) = &self.ovn {
            ovn.validate().map_err(|e| e.under("ovn"))?;
        }
        if let Some(config) = self.dns_resolver.as_ref().and_then(|d| d.config.as_ref()) {
            config.validate().map_err(|e| e.under("dns-resolver.config"))?;
        }
        for (i, route) in self
            .routes
            .iter_mut()
            .flat_map(|r| r.config.iter_mut().flatten())
            .enumerate()
        {
            route.settle().map_err(|e| e.under(&format!("routes.config[{i}]")))?;
        }
        for (i, rule) in self
            .route_rules
            .iter_mut()
            .flat_map(|r| r.config.iter_mut().flatten())
            .enumerate()
        {
            rule.settle()
                .map_err(|e| e.under(&format!("route-rules.config[{i}]")))?;
        }
        Ok(())
    }

    /// The document as JSON. Maps come out sorted by key; print the value itself for the usual order.
    pub fn to_json(&self) -> Value {
        iface::to_value(self)
    }

    /// What is not about one interface, as JSON.
    pub fn sections(&self) -> Map<String, Value> {
        let sections = NetworkState {
            description: self.description.clone(),
            hostname: self.hostname.clone(),
            dns_resolver: self.dns_resolver.clone(),
            route_rules: self.route_rules.clone(),
            routes: self.routes.clone(),
            interfaces: vec![],
            ovs_db: self.ovs_db.clone(),
            ovn: self.ovn.clone(),
            replaced: Replaced::default(),
        };
        let mut tree = match sections.to_json() {
            Value::Object(tree) => tree,
            _ => Map::new(),
        };
        tree.remove("interfaces");
        tree
    }

    /// Renders what the edges saw.
    pub fn from_facts(facts: &Facts) -> Self {
        let links = facts.links.iter().filter(|l| !hidden(l));
        let mut interfaces: Vec<Interface> = links.map(|l| interface_from_facts(l, facts)).collect();
        interfaces.extend(AnyKind::beyond_links(facts));
        interfaces.sort_by_key(Interface::id);
        let hostname = Hostname {
            running: facts.hostname.running.clone(),
            config: facts.hostname.config.clone(),
        };
        NetworkState {
            description: None,
            hostname: (hostname != Hostname::default()).then_some(hostname),
            dns_resolver: Some(dns::from_facts(facts)),
            route_rules: Some(rule::from_facts(facts)),
            routes: Some(route::from_facts(facts)),
            interfaces,
            ovs_db: ovs_db::from_facts(facts),
            ovn: Ovn::from_facts(facts),
            replaced: Replaced::default(),
        }
    }

    /// The links and devices that there must be for this to be a reading; no profiles.
    pub fn skeleton(&self) -> Facts {
        let mut facts = Facts {
            mptcp_enabled: true,
            ..Facts::default()
        };
        let kernel = self.interfaces.iter().filter(|i| i.kind.space() == Space::Kernel);
        for (index, i) in (1u32..).zip(kernel) {
            let b = &i.base;
            facts.links.push(Link {
                index,
                name: b.name.clone(),
                alt_names: b.alt_names.iter().flatten().map(|a| a.name.clone()).collect(),
                kind: i
                    .kind
                    .is_virtual()
                    .then(|| AnyKind::link_kind(i.kind.nm_type(), &Profile::default()).to_owned()),
                arphrd: if i.kind.nm_type() == "loopback" { 772 } else { 1 },
                admin_up: i.is_up(),
                running: i.is_up(),
                mac: b.mac_address.as_deref().and_then(crate::scalar::mac),
                permanent_mac: b.permanent_mac_address.as_deref().and_then(crate::scalar::mac),
                pci_address: b.pci_address.clone(),
                mtu: b.mtu,
                min_mtu: b.min_mtu,
                max_mtu: b.max_mtu,
                ..Link::default()
            });
            facts.devices.push(crate::facts::Device {
                interface: b.name.clone(),
                // NM_DEVICE_STATE_*: unmanaged, activated, disconnected
                state: match b.state.unwrap_or_default() {
                    State::Ignore => 10,
                    State::Up => 100,
                    State::Down | State::Absent => 30,
                },
                managed: !i.is_ignored(),
                real: true,
                ..Default::default()
            });
        }
        for i in &self.interfaces {
            let named = |name: &String| facts.link(name).map(|l| l.index);
            let index = i.base.controller.as_ref().and_then(named);
            if let Some(link) = facts.links.iter_mut().find(|l| l.name == i.base.name) {
                link.controller = index;
            }
        }
        facts
    }

    /// What of a reading is configuration: without what was given by DHCP or RA, what is only read, and what merely runs.
    pub fn running_config(mut self) -> Self {
        for interface in &mut self.interfaces {
            interface.drop_read_only();
        }
        if let Some(routes) = &mut self.routes {
            routes.running = None;
        }
        if let Some(dns) = &mut self.dns_resolver {
            dns.running = None;
        }
        self
    }

    /// Replaces secrets by a placeholder.
    pub fn hide_secrets(&mut self) {
        for interface in &mut self.interfaces {
            interface.hide_secrets();
        }
    }

    /// The same in a document that may not even parse, and in documents inside it.
    pub fn hide_secrets_in(document: &mut Value) {
        match document {
            Value::Object(map) => {
                if let Some(Value::Array(interfaces)) = map.get_mut("interfaces") {
                    let mut paths = part::Parts::all_secrets();
                    paths.extend(AnyKind::all_secrets().map(str::to_owned));
                    for interface in interfaces {
                        paths
                            .iter()
                            .for_each(|path| tree::replace(interface, path, &HIDDEN.into()));
                    }
                }
                map.values_mut().for_each(Self::hide_secrets_in);
            }
            Value::Array(list) => list.iter_mut().for_each(Self::hide_secrets_in),
            _ => {}
        }
    }

    /// Only one interface with its routes and the rules of their tables.
    pub fn only(mut self, name: &str) -> Self {
        self.interfaces
            .retain(|i| i.base.name == name || i.base.alt_names.iter().flatten().any(|a| a.name == name));
        let kept = self.interfaces.first().map(|i| i.base.name.clone());
        let mut tables = std::collections::BTreeSet::new();
        if let Some(routes) = &mut self.routes {
            for list in [&mut routes.running, &mut routes.config].into_iter().flatten() {
                list.retain(|r| r.next_hop_interface == kept);
                tables.extend(list.iter().map(route::Route::table));
            }
        }
        if let Some(list) = self.route_rules.as_mut().and_then(|r| r.config.as_mut()) {
            list.retain(|r| tables.contains(&r.table()));
        }
        NetworkState {
            hostname: None,
            dns_resolver: None,
            ovs_db: None,
            ovn: None,
            ..self
        }
    }
}

fn section<T: serde::de::DeserializeOwned>(map: &mut Map<String, Value>, key: &str) -> Result<Option<T>, Invalid> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => from_value(value).map(Some).map_err(|e| e.under(key)),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn parse_interfaces(
    entries: impl Iterator<Item = Result<Value, Invalid>>,
    replaced: &mut Replaced,
) -> Result<Vec<Interface>, Invalid> {
    let mut interfaces: Vec<Interface> = vec![];
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut gone = HashSet::new();
    for (i, entry) in entries.enumerate() {
        let entry = entry?;
        let label = match entry.get("name") {
            Some(Value::String(name)) => format!("interfaces[{name}]"),
            Some(other) if !other.is_null() => {
                return Err(Invalid::new(
                    format!("interfaces[{i}].name"),
                    format!("{other} is not a string; put it in quotes"),
                ));
            }
            _ => {
                return Err(Invalid::new(format!("interfaces[{i}]"), "an interface needs a name"));
            }
        };
        let parsed = Interface::from_tree(entry).map_err(|e| e.under(&label))?;
        // the last of two entries for one interface wins, as it always did
        let key = (parsed.base.name.clone(), parsed.kind.type_name().to_owned());
        if let Some(before) = places.insert(key, i) {
            gone.insert(before);
            replaced.0.push(parsed.base.name.clone());
        }
        interfaces.push(parsed);
    }
    let mut places = 0..;
    interfaces.retain(|_| places.next().is_none_or(|i| !gone.contains(&i)));
    Ok(interfaces)
}

/// Links in which Open vSwitch keeps a datapath: they are nobody's interfaces.
fn hidden(link: &Link) -> bool {
    matches!(link.name.as_str(), "ovs-system" | "ovs-netdev")
}

/// `type` of a link, by its kind and hardware type.
fn type_of<'a>(link: &'a Link, facts: &Facts) -> &'a str {
    match link.kind.as_deref() {
        // without its kernel module Open vSwitch makes taps
        Some("tun") if facts.ovs_interface(&link.name).is_some_and(|i| i.kind == "internal") => "ovs-interface",
        Some("bridge") => "linux-bridge",
        Some("macvlan") => "mac-vlan",
        Some("macvtap") => "mac-vtap",
        Some("openvswitch") => "ovs-interface",
        Some("ipip" | "sit" | "ip6tnl" | "gre" | "gretap" | "ip6gre" | "ip6gretap" | "vti" | "vti6") => "ip-tunnel",
        Some("ipoib") => "infiniband",
        Some(kind) => kind,
        None => match link.arphrd {
            772 => "loopback",
            32 => "infiniband",
            1 => "ethernet",
            _ => "unknown",
        },
    }
}

fn interface_from_facts(link: &Link, facts: &Facts) -> Interface {
    let kind = AnyKind::from_facts(type_of(link, facts), link, facts);
    let mut base = Base::from_facts(link, facts);
    if kind.nm_type().is_empty() {
        base.state = Some(State::Ignore);
    }
    Interface {
        base,
        ipv4: Some(Ip::from_facts(false, link, facts)),
        ipv6: Some(Ip::from_facts(true, link, facts)),
        parts: part::Parts::from_facts(link, facts),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkState, Invalid> {
        NetworkState::from_json(crate::yaml::read(text)?)
    }

    #[test]
    fn the_path_is_in_the_users_words() {
        let cases = [
            (
                "interfaces: [{name: br0, type: linux-bridge, bridge: {options: {stp: {enabled: perhaps}}}}]",
                "interfaces[br0].bridge.options.stp.enabled",
            ),
            (
                "interfaces: [{name: br0, type: linux-bridge, bridge: {prot: []}}]",
                "interfaces[br0].bridge",
            ),
            (
                "interfaces: [{name: br0, type: linux-bridge, brige: {}}]",
                "interfaces[br0].brige",
            ),
            (
                "interfaces: [{name: eth0, type: ethernet, ipv4: {address: [{ip: 1.2.3, prefix-length: 24}]}}]",
                "interfaces[eth0].ipv4.address[0].ip",
            ),
            (
                "interfaces: [{name: eth0, type: ethernet, mtu: big}]",
                "interfaces[eth0].mtu",
            ),
            ("interfaces: [{type: ethernet}]", "interfaces[0]"),
            ("interfaces: {name: eth0}", "interfaces"),
            ("interface: []", "interface"),
            (
                "routes: {config: [{destination: 10.0.0.0/8}]}",
                "routes.config[0].next-hop-interface",
            ),
            ("dns-resolver: {config: {server: [x]}}", "dns-resolver.config.server[0]"),
        ];
        for (text, path) in cases {
            let fault = parse(text).unwrap_err();
            assert!(fault.path.starts_with(path), "{text}: {fault}");
        }
    }

    #[test]
    fn print_then_parse_is_the_same() {
        let text = "interfaces:
- name: br0
  type: linux-bridge
  description: x
  state: up
  mtu: '0x5dc'
  ipv4: {enabled: yes, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}
  bridge:
    options: {stp: {enabled: 'off', priority: 5}, multicast-router: 2, group-fwd-mask: 8}
    ports: [{name: eth1, vlan: {mode: trunk, trunk-tags: [{id-range: {min: 2, max: 4094}}]}}]
routes: {config: [{destination: 0.0.0.0/0, next-hop-interface: br0, next-hop-address: 192.0.2.254}]}
";
        let state = parse(text).unwrap();
        let again = parse(&crate::yaml::write(&state)).unwrap();
        assert_eq!(state, again);
        assert_eq!(state.interfaces[0].base.mtu, Some(1500));
    }
}
