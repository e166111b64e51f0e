//! `type: ovs-bridge`. Section `bridge`: options, and ports with their VLANs and bonds.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::ovs_port::{self, Bond, Vlan};
use super::{AnyKind, Base, Companion, Context, Interface, Kind, State};
use crate::error::{ErrorKind, Invalid};
use crate::facts::{self, Facts, Link};
use crate::profile::Profile;
use crate::scalar::{self, Id, Space};
use crate::state::part::Parts;
use crate::state::part::ovs_ids::OvsIds;

/// A bridge of Open vSwitch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OvsBridge {
    /// Options and ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Section>,
}

/// Section `bridge`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// Options; those left out keep their value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Options>,
    /// The ports; replaces the list.
    #[serde(default, alias = "ports", skip_serializing_if = "Option::is_none")]
    pub port: Option<Vec<Port>>,
    /// Leave patch ports alone that are not listed, whoever made them.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_extra_patch_ports: Option<bool>,
    /// Leave ports alone that others put there; default true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_extra_ports: Option<bool>,
}

/// `bridge.options`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Spanning tree; a plain boolean is read as well.
    #[serde(default, deserialize_with = "stp", skip_serializing_if = "Option::is_none")]
    pub stp: Option<Stp>,
    /// Rapid spanning tree.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub rstp: Option<bool>,
    /// Send multicast only where somebody asked for it.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub mcast_snooping_enable: Option<bool>,
    /// Without a controller: `standalone` switches by itself, `secure` does not; empty is Open vSwitch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_mode: Option<String>,
    /// `system` (kernel), `netdev` (userspace); empty is Open vSwitch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datapath: Option<String>,
}

/// `stp`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stp {
    /// On or off.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub enabled: Option<bool>,
}

/// `stp: true`, `stp: "false"` and `stp: {enabled: no}` are all understood.
fn stp<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Stp>, D::Error> {
    use serde::de::Error;
    match Value::deserialize(de)? {
        Value::Null => Ok(None),
        map @ Value::Object(_) => serde_json::from_value(map).map(Some).map_err(D::Error::custom),
        plain => scalar::opt_bool(plain)
            .map(|enabled| Some(Stp { enabled }))
            .map_err(D::Error::custom),
    }
}

/// One port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Port {
    /// Name of the interface, or of the bond.
    pub name: String,
    /// VLANs let through; left out keeps them, `{}` clears them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// Several interfaces as one port.
    #[serde(default, alias = "bond", skip_serializing_if = "Option::is_none")]
    pub link_aggregation: Option<Bond>,
}

impl Port {
    fn section(&self) -> ovs_port::Section {
        let Port {
            name: _,
            vlan,
            link_aggregation,
        } = self.clone();
        ovs_port::Section { vlan, link_aggregation }
    }
}

impl Options {
    fn of(row: &facts::OvsBridge) -> Self {
        Options {
            stp: Some(Stp { enabled: Some(row.stp) }),
            rstp: Some(row.rstp),
            mcast_snooping_enable: Some(row.mcast_snooping),
            fail_mode: Some(row.fail_mode.clone()),
            datapath: Some(row.datapath.clone()),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        let words = [
            ("fail-mode", &self.fail_mode, ["standalone", "secure"]),
            ("datapath", &self.datapath, ["system", "netdev"]),
        ];
        for (key, word, known) in words {
            if let Some(word) = word.as_deref().filter(|w| !w.is_empty() && !known.contains(w)) {
                let why = format!("'{word}' is neither {} nor {} nor empty", known[0], known[1]);
                return Err(Invalid::new(key, why));
            }
        }
        Ok(())
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Options {
            stp,
            rstp,
            mcast_snooping_enable,
            fail_mode,
            datapath,
        } = self;
        for (key, on) in [
            ("stp-enable", stp.as_ref().and_then(|s| s.enabled)),
            ("rstp-enable", *rstp),
            ("mcast-snooping-enable", *mcast_snooping_enable),
        ] {
            if let Some(on) = on {
                profile.put("ovs-bridge", key, on);
            }
        }
        for (key, word) in [("fail-mode", fail_mode), ("datapath-type", datapath)] {
            if let Some(word) = word {
                profile.put_opt("ovs-bridge", key, Some(word.clone()).filter(|w| !w.is_empty()));
            }
        }
    }
}

impl OvsBridge {
    fn list(&self) -> impl Iterator<Item = &Port> {
        self.bridge.iter().flat_map(|b| b.port.iter().flatten())
    }

    fn of(row: &facts::OvsBridge, ovs: &facts::Ovs) -> Self {
        let port = |name: &String| {
            let ovs_port::Section { vlan, link_aggregation } = ovs
                .ports
                .get(name)
                .map(|row| ovs_port::Section::of(name, row))
                .unwrap_or_default();
            Port {
                name: name.clone(),
                vlan,
                link_aggregation,
            }
        };
        OvsBridge {
            bridge: Some(Section {
                options: Some(Options::of(row)),
                port: Some(row.ports.iter().map(port).collect()),
                allow_extra_patch_ports: None,
                allow_extra_ports: None,
            }),
        }
    }
}

/// A bridge of NetworkManager's as an interface. Those of others (`ovs-vsctl`, OVN) are not ours to show.
fn shown(name: &str, row: &facts::OvsBridge, facts: &Facts, ovs: &facts::Ovs) -> Option<Interface> {
    row.ids.nm_uuid()?;
    let id = Id::in_space(name, Space::OvsBridge);
    let link = Link {
        name: name.to_owned(),
        admin_up: true,
        running: true,
        ..Link::default()
    };
    Some(Interface {
        base: Base {
            controller: None,
            accept_all_mac_addresses: None,
            ..Base::of(&id, &link, facts)
        },
        ipv4: None,
        ipv6: None,
        parts: Parts {
            ovs_ids: Some(OvsIds::of(&row.ids)),
            ..Parts::default()
        },
        kind: AnyKind::OvsBridge(OvsBridge::of(row, ovs)),
    })
}

/// What Open vSwitch needs on a node, said before anything is touched.
pub fn refuse_without_ovs(facts: &Facts) -> Result<(), Invalid> {
    if facts.nm_version.is_empty() {
        return Ok(()); // no node to look at: a document is planned for itself
    }
    if !facts.nm_capabilities.contains(&2) {
        let why = "NetworkManager has no plug-in for Open vSwitch on this node (the package is often called NetworkManager-ovs)";
        return Err(Invalid::of(ErrorKind::DependencyError, "type", why));
    }
    match facts.ovs {
        Some(_) => Ok(()),
        None => Err(Invalid::of(
            ErrorKind::PluginFailure,
            "type",
            super::super::ovs_db::SILENT,
        )),
    }
}

impl Kind for OvsBridge {
    const TYPE: &'static str = "ovs-bridge";
    const SECTIONS: &'static [&'static str] = &["bridge"];
    const NM_TYPE: &'static str = "ovs-bridge";
    const VIRTUAL: bool = true;
    const SPACE: Space = Space::OvsBridge;
    const LINK_SETTING: &'static str = "";
    const ID_SUFFIX: &'static str = "-br";
    const CONTROLLER: bool = true;
    const PORT_TYPE: &'static str = "ovs-bridge";
    const NEEDS_PORT: bool = true;
    const FIXED_SETTINGS: &'static [&'static str] = &["ovs-bridge"];
    const IGNORED: &'static [&'static str] = &["mtu", "ipv4", "ipv6", "accept-all-mac-addresses"];

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        OvsBridge::default()
    }

    fn beyond_links(facts: &Facts) -> Vec<Interface> {
        let Some(ovs) = &facts.ovs else { return vec![] };
        ovs.bridges
            .iter()
            .filter_map(|(name, row)| shown(name, row, facts, ovs))
            .collect()
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        if cx.wish.base.mac_address.is_some() {
            let why = "an OVS bridge has no MAC address of its own; give it to its internal interface";
            return Err(Invalid::new("mac-address", why));
        }
        if cx.wish.base.controller.as_deref().is_some_and(|c| !c.is_empty()) {
            return Err(Invalid::new("controller", "an OVS bridge cannot be a port"));
        }
        let row = cx.facts.ovs.as_ref().and_then(|o| o.bridges.get(cx.name));
        if row.is_some_and(|r| r.ids.nm_uuid().is_none()) {
            let why = "a bridge of this name was made with ovs-vsctl or by another program; NetworkManager cannot take it over";
            return Err(Invalid::new("", why));
        }
        let Some(section) = &self.bridge else { return Ok(()) };
        if let Some(options) = &section.options {
            options.validate().map_err(|e| e.under("bridge.options"))?;
        }
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        for (i, port) in self.list().enumerate() {
            let at = format!("bridge.port[{i}]");
            if let Some(why) = scalar::bad_ovs_name(&port.name) {
                return Err(Invalid::new(format!("{at}.name"), why));
            }
            port.section().validate().map_err(|e| e.under(&at))?;
            if self.list().take(i).any(|p| p.name == port.name) {
                return Err(Invalid::new(at, format!("port '{}' is listed twice", port.name)));
            }
            for name in port.section().members(&port.name) {
                if let Some(first) = taken.insert(name.clone(), i) {
                    return Err(Invalid::new(at, format!("'{name}' is also in bridge.port[{first}]")));
                }
            }
        }
        Ok(())
    }

    fn ports(&self) -> Option<Vec<String>> {
        self.bridge.as_ref()?.port.as_ref()?;
        Some(self.list().flat_map(|p| p.section().members(&p.name)).collect())
    }

    /// A bond loses the members that are not named, and goes with its last one.
    fn set_ports(&mut self, names: &[String]) {
        let section = self.bridge.get_or_insert_default();
        let mut known = section.port.take().unwrap_or_default();
        let mut placed: Vec<String> = vec![];
        for port in &mut known {
            if let Some(members) = port.link_aggregation.as_mut().and_then(|b| b.port.as_mut()) {
                members.retain(|m| names.contains(&m.name));
            }
            placed.extend(port.section().members(&port.name));
        }
        let kept = |p: &Port| p.section().members(&p.name).iter().any(|m| names.contains(m));
        known.retain(kept);
        let new = names.iter().filter(|n| !placed.contains(n)).map(|name| Port {
            name: name.clone(),
            ..Port::default()
        });
        known.extend(new);
        section.port = Some(known);
    }

    fn tells_of_port(&self, port: &str) -> bool {
        let member = |p: &&Port| p.section().members(&p.name).iter().any(|m| m == port);
        let told = |p: &Port| p.vlan.is_some() || p.link_aggregation.is_some();
        self.list().find(member).is_some_and(told)
    }

    fn wants_no_extra_ports(&self) -> bool {
        self.bridge.as_ref().is_some_and(|b| b.allow_extra_ports == Some(false))
    }

    fn keeps_extra(&self, port: &Interface) -> bool {
        let allowed = self.bridge.as_ref().and_then(|b| b.allow_extra_patch_ports);
        allowed == Some(true) && port.kind.is_patch()
    }

    /// Only the interface of the bridge's own name comes by itself: with any other name a slip would make one.
    fn makes_port(&self, name: &str, port: &str) -> Option<Interface> {
        (name == port).then(|| {
            let mut internal = Interface::bare(port, super::ovs_interface::OvsInterface::TYPE);
            internal.base.state = Some(State::Up);
            internal
        })
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        for port in self.bridge.iter_mut().flat_map(|b| b.port.iter_mut().flatten()) {
            match &mut port.link_aggregation {
                Some(bond) => bond.port.iter_mut().flatten().for_each(|m| f(&mut m.name)),
                None => f(&mut port.name),
            }
        }
    }

    fn port_faults(&self, _name: &str, facts: &Facts) -> Vec<(String, String)> {
        self.list().flat_map(|p| p.section().faults(&p.name, facts)).collect()
    }

    fn companions(&self) -> Option<Vec<Companion>> {
        Some(self.list().map(|p| p.section().companion(&p.name)).collect())
    }

    fn to_profile(&self, profile: &mut Profile) {
        let OvsBridge { bridge } = self;
        profile.ensure("ovs-bridge");
        let Some(Section {
            options,
            port: _,                    // they have profiles of their own
            allow_extra_patch_ports: _, // decided by the plan
            allow_extra_ports: _,
        }) = bridge
        else {
            return;
        };
        if let Some(options) = options {
            options.to_profile(profile);
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(bridge)) = tree.get_mut("bridge") else {
            return;
        };
        bridge.remove("allow-extra-ports");
        bridge.remove("allow-extra-patch-ports");
        let Some(Value::Array(ports)) = bridge.remove("port") else {
            return;
        };
        // order means nothing; a map by name makes the difference readable
        let mut by_name = BTreeMap::new();
        for mut port in ports {
            if let Value::Object(port) = &mut port {
                ovs_port::normalise_port(port);
            }
            let name = port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            by_name.insert(name, port);
        }
        bridge.insert("port".into(), Value::Object(by_name.into_iter().collect()));
    }

    fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        refuse_without_ovs(facts)
    }
}

/// The row that NetworkManager makes from this profile.
pub fn row(profile: &Profile) -> facts::OvsBridge {
    let on = |key: &str| profile.bool("ovs-bridge", key).unwrap_or(false);
    let word = |key: &str| profile.str("ovs-bridge", key).unwrap_or_default().to_owned();
    facts::OvsBridge {
        ports: vec![],
        stp: on("stp-enable"),
        rstp: on("rstp-enable"),
        mcast_snooping: on("mcast-snooping-enable"),
        fail_mode: word("fail-mode"),
        datapath: word("datapath-type"),
        ids: OvsIds::row(profile),
    }
}
