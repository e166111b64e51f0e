//! `type: linux-bridge`. Section `bridge`: options, ports with their VLANs, and the bridge's own VLANs.

use std::collections::BTreeMap;

use netlink_packet_route::link::{InfoBridge, InfoBridgePort, InfoData, InfoPortData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind, bridge_vlan};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;
use crate::state::tree;

mod options;

pub use options::{MulticastRouter, Options, Stp};

/// A bridge of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxBridge {
    /// Options and ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Section>,
    /// VLANs are filtered because a document said so, not because there are any; None in a wish that leaves that as it is.
    #[serde(skip)]
    pub own_filtering: Option<bool>,
}

/// The note in a bridge's profile that keeps `own_filtering`.
const OWN_FILTERING: &str = "netwright.bridge.vlan-filtering";

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
    /// VLANs of the bridge as a link of the node, written like those of a port; `{}` clears them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<bridge_vlan::Vlan>,
    /// Leave ports alone that others put there (a virtual machine's tap); default true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_extra_ports: Option<bool>,
}

/// One port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Port {
    /// Interface name.
    pub name: String,
    /// Send frames back where they came from.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub stp_hairpin_mode: Option<bool>,
    /// 1–65535.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub stp_path_cost: Option<u32>,
    /// 0–63.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub stp_priority: Option<u16>,
    /// VLANs let through; left out keeps them, `{}` clears them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<bridge_vlan::Vlan>,
}

impl Port {
    fn from_facts(link: &Link) -> Self {
        let mut port = Port {
            name: link.name.clone(),
            ..Port::default()
        };
        for item in link.bridge_port() {
            match item {
                InfoBridgePort::HairpinMode(v) => port.stp_hairpin_mode = Some(*v),
                InfoBridgePort::Cost(v) => port.stp_path_cost = Some(*v),
                InfoBridgePort::Priority(v) => port.stp_priority = Some(*v),
                _ => {}
            }
        }
        port
    }
}

impl Section {
    fn ports_iter(&self) -> impl Iterator<Item = &Port> {
        self.port.iter().flatten()
    }

    fn filtering(&self) -> Option<bool> {
        self.options.as_ref()?.vlan_filtering
    }

    fn default_pvid(&self) -> Option<u32> {
        self.options.as_ref()?.vlan_default_pvid
    }

    /// Where VLANs are written, below `bridge`.
    fn written_vlans(&self) -> Option<String> {
        let some = |vlan: &Option<bridge_vlan::Vlan>| vlan.as_ref().is_some_and(|v| !v.is_empty());
        let port = self.ports_iter().position(|p| some(&p.vlan));
        let own = || some(&self.vlan).then(|| "vlan".to_owned());
        port.map(|i| format!("port[{i}].vlan")).or_else(own)
    }

    /// Whether any VLAN is let through when the wish is laid over what is.
    fn has_vlans_over(&self, now: Option<&Section>) -> bool {
        let some = |vlan: Option<&bridge_vlan::Vlan>| vlan.is_some_and(|v| !v.is_empty());
        let kept = |name: &str| now?.ports_iter().find(|p| p.name == name)?.vlan.as_ref();
        let own = self.vlan.as_ref().or(now.and_then(|n| n.vlan.as_ref()));
        let ports = match (&self.port, now) {
            (Some(ports), _) => ports.iter().any(|p| some(p.vlan.as_ref().or_else(|| kept(&p.name)))),
            (None, Some(now)) => now.ports_iter().any(|p| some(p.vlan.as_ref())),
            (None, None) => false,
        };
        some(own) || ports
    }
}

impl Kind for LinuxBridge {
    const TYPE: &'static str = "linux-bridge";
    const SECTIONS: &'static [&'static str] = &["bridge"];
    const NM_TYPE: &'static str = "bridge";
    const VIRTUAL: bool = true;
    const CONTROLLER: bool = true;
    const TAKES_FRAMES: bool = true;
    const COPIES_MAC: bool = true;
    const PORT_TYPE: &'static str = "bridge";
    const PORT_SETTING: &'static str = "bridge-port";

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let info: &[InfoBridge] = match &link.data {
            Some(InfoData::Bridge(info)) => info,
            _ => &[],
        };
        let options = Options::from_facts(info);
        let filtering = options.vlan_filtering == Some(true);
        let pvid = options.vlan_default_pvid.and_then(|v| v.try_into().ok()).unwrap_or(1);
        let vlan_of = |l: &Link| bridge_vlan::Vlan::from_facts(&l.vlans, pvid).filter(|_| filtering);
        let port_of = |l: &Link| {
            let vlan = vlan_of(l);
            Port {
                vlan,
                ..Port::from_facts(l)
            }
        };
        let mut ports: Vec<Port> = facts.ports_of(link.index).into_iter().map(port_of).collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        LinuxBridge {
            bridge: Some(Section {
                options: Some(options),
                port: Some(ports),
                vlan: vlan_of(link),
                allow_extra_ports: None,
            }),
            own_filtering: facts.own_profile(&link.name).map(|p| p.note(OWN_FILTERING).is_some()),
        }
    }

    fn validate(&self, _cx: &Context<'_>) -> Result<(), Invalid> {
        let Some(section) = &self.bridge else {
            return Ok(());
        };
        if let Some(options) = &section.options {
            options.validate().map_err(|e| e.under("bridge.options"))?;
        }
        for (i, port) in section.ports_iter().enumerate() {
            let at = format!("bridge.port[{i}]");
            if let Some(why) = scalar::bad_interface_name(&port.name) {
                return Err(Invalid::new(format!("{at}.name"), why));
            }
            if section.ports_iter().take(i).any(|p| p.name == port.name) {
                return Err(Invalid::new(at, format!("port '{}' is listed twice", port.name)));
            }
            if let Some(v) = port.stp_priority.filter(|v| *v > 63) {
                return Err(Invalid::new(
                    format!("{at}.stp-priority"),
                    format!("{v} is outside 0–63"),
                ));
            }
            if let Some(vlan) = &port.vlan {
                vlan.validate().map_err(|e| e.under(&format!("{at}.vlan")))?;
            }
        }
        match &section.vlan {
            Some(vlan) => vlan.validate().map_err(|e| e.under("bridge.vlan")),
            None => Ok(()),
        }
    }

    /// Whether VLANs are filtered, where the wish changes what that follows from.
    fn complete(&mut self, current: Option<&Self>) -> Result<(), Invalid> {
        let Some(section) = &mut self.bridge else { return Ok(()) };
        let now = current.and_then(|c| c.bridge.as_ref());
        let asked = section.filtering();
        if let Some(at) = section.written_vlans().filter(|_| asked == Some(false)) {
            let why = "VLANs need vlan-filtering, which bridge.options switches off";
            return Err(Invalid::new(format!("bridge.{at}"), why));
        }
        let pvid = section
            .default_pvid()
            .or(now.and_then(Section::default_pvid))
            .unwrap_or(1);
        let ports = section.port.iter_mut().flatten().filter_map(|p| p.vlan.as_mut());
        for vlan in ports.chain(&mut section.vlan) {
            vlan.forget_default(u16::try_from(pvid).unwrap_or(1));
        }
        let is_on = now.and_then(Section::filtering) == Some(true);
        let kept = current.is_some_and(|c| c.own_filtering == Some(true));
        let by_hand = is_on && (kept || !now.is_some_and(|n| n.has_vlans_over(None)));
        let on = asked.unwrap_or(by_hand || section.has_vlans_over(now));
        if section.default_pvid().is_some_and(|p| p != 1) && !on {
            return Err(Invalid::new(
                "bridge.options.vlan-default-pvid",
                "another default than 1 needs VLANs on a port, or vlan-filtering: true",
            ));
        }
        if on != is_on {
            section.options.get_or_insert_default().vlan_filtering = Some(on);
        }
        // what only repeats how it is, is no decision
        self.own_filtering = asked.filter(|asked| *asked != is_on);
        Ok(())
    }

    fn remember(&self, profile: &mut Profile) {
        if let Some(own) = self.own_filtering {
            profile.put_note(OWN_FILTERING, if own { "true" } else { "" });
        }
    }

    /// The kernel bridges Ethernet only (`br_add_if`: `ARPHRD_ETHER`).
    fn refuses_port(&self, type_name: &str) -> Option<String> {
        let other = ["infiniband", "wireguard"].contains(&type_name);
        other.then(|| format!("a bridge takes Ethernet only, and an interface of type {type_name} is none"))
    }

    fn ports(&self) -> Option<Vec<String>> {
        let ports = self.bridge.as_ref()?.port.as_ref()?;
        Some(ports.iter().map(|p| p.name.clone()).collect())
    }

    fn tells_of_port(&self, port: &str) -> bool {
        let mut ports = self.bridge.iter().flat_map(|b| b.port.iter().flatten());
        ports.find(|p| p.name == port).is_some_and(|p| {
            p.vlan.is_some()
                || p.stp_hairpin_mode == Some(true)
                // what NetworkManager gives every port
                || p.stp_path_cost.is_some_and(|cost| cost != 100)
                || p.stp_priority.is_some_and(|priority| priority != 32)
        })
    }

    fn wants_no_extra_ports(&self) -> bool {
        self.bridge.as_ref().is_some_and(|b| b.allow_extra_ports == Some(false))
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        let ports = self.bridge.iter_mut().flat_map(|b| b.port.iter_mut().flatten());
        ports.for_each(|port| f(&mut port.name));
    }

    fn to_link(profile: &Profile, link: &mut Link, _index: &dyn Fn(&str) -> Option<u32>) {
        let pvid = profile
            .int("bridge", "vlan-default-pvid")
            .and_then(|v| v.try_into().ok());
        link.vlans = bridge_vlan::to_ranges(profile.dicts("bridge", "vlans"), pvid.unwrap_or(1));
        link.data = Some(InfoData::Bridge(options::to_link(profile)));
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        Some(match (setting, key) {
            ("bridge", "stp" | "multicast-snooping") => profile::Value::Bool(true),
            ("bridge", "priority") => profile::Value::U32(32768),
            ("bridge", "forward-delay") => profile::Value::U32(15),
            ("bridge", "hello-time" | "multicast-last-member-count" | "multicast-startup-query-count") => {
                profile::Value::U32(2)
            }
            ("bridge", "max-age") => profile::Value::U32(20),
            ("bridge", "ageing-time") => profile::Value::U32(300),
            ("bridge", "vlan-default-pvid") => profile::Value::U32(1),
            ("bridge", "multicast-hash-max") => profile::Value::U32(4096),
            ("bridge", "multicast-last-member-interval") => profile::Value::U64(100),
            ("bridge", "multicast-membership-interval") => profile::Value::U64(26000),
            ("bridge", "multicast-querier-interval") => profile::Value::U64(25500),
            ("bridge", "multicast-query-interval") => profile::Value::U64(12500),
            ("bridge", "multicast-query-response-interval") => profile::Value::U64(1000),
            ("bridge", "multicast-startup-query-interval") => profile::Value::U64(3125),
            ("bridge", "multicast-router") => profile::Value::Str("auto".into()),
            ("bridge", "vlan-protocol") => profile::Value::Str("802.1Q".into()),
            ("bridge-port", "priority") => profile::Value::U32(32),
            ("bridge-port", "path-cost") => profile::Value::U32(100),
            _ => return None,
        })
    }

    fn port_to_link(profile: &Profile, link: &mut Link) {
        let number = |key: &str| profile.int("bridge-port", key);
        let mut data = vec![InfoBridgePort::HairpinMode(
            profile.bool("bridge-port", "hairpin-mode").unwrap_or(false),
        )];
        data.extend(
            number("path-cost")
                .and_then(|v| v.try_into().ok())
                .map(InfoBridgePort::Cost),
        );
        data.extend(
            number("priority")
                .and_then(|v| v.try_into().ok())
                .map(InfoBridgePort::Priority),
        );
        link.port_data = Some(InfoPortData::BridgePort(data));
        link.vlans = bridge_vlan::to_ranges(profile.dicts("bridge-port", "vlans"), 1);
    }

    fn set_ports(&mut self, names: &[String]) {
        let section = self.bridge.get_or_insert_default();
        let known = section.port.take().unwrap_or_default();
        let named = |name: &String| {
            let port = known.iter().find(|p| p.name == *name).cloned();
            port.unwrap_or_else(|| Port {
                name: name.clone(),
                ..Port::default()
            })
        };
        section.port = Some(names.iter().map(named).collect());
    }

    fn settle(merged: &mut Map<String, Value>, desired: &Map<String, Value>, current: &Map<String, Value>) {
        let ports = |map: &Map<String, Value>| {
            map.get("bridge")
                .and_then(|b| b.get("port"))
                .and_then(Value::as_array)
                .cloned()
        };
        if let Some(Value::Object(bridge)) = merged.get_mut("bridge") {
            settle_section(bridge, desired.get("bridge"));
        }
        let (Some(wish), Some(now)) = (ports(desired), ports(current)) else {
            return;
        };
        let over_current = |port: Value| {
            let known = now.iter().find(|p| p.get("name") == port.get("name"));
            let mut settled = known.cloned().unwrap_or(Value::Null);
            match (settled.is_null(), port.get("vlan")) {
                (true, _) => settled = port,
                (false, vlan) => {
                    tree::overlay(&mut settled, &port);
                    // modes do not mix: a written vlan replaces the whole
                    if let (Some(vlan), Value::Object(map)) = (vlan, &mut settled) {
                        map.insert("vlan".into(), vlan.clone());
                    }
                }
            }
            settled
        };
        let settled: Vec<Value> = wish.into_iter().map(over_current).collect();
        if let Some(Value::Object(bridge)) = merged.get_mut("bridge") {
            bridge.insert("port".into(), settled.into());
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let LinuxBridge {
            bridge,
            own_filtering: _, // a note: `remember`
        } = self;
        profile.ensure("bridge");
        let Some(Section {
            options,
            port: _, // in the profiles of the ports
            vlan,
            allow_extra_ports: _, // decided by the plan
        }) = bridge
        else {
            return;
        };
        if let Some(options) = options {
            options.to_profile(profile);
        }
        if let Some(vlan) = vlan {
            profile.put_opt("bridge", "vlans", Some(vlan.to_nm()).filter(|v| !v.is_empty()));
        }
    }

    fn port_to_profile(&self, port: &str, profile: &mut Profile) {
        profile.ensure("bridge-port");
        let found = self
            .bridge
            .as_ref()
            .and_then(|b| b.ports_iter().find(|p| p.name == port));
        let Some(Port {
            name: _,
            stp_hairpin_mode,
            stp_path_cost,
            stp_priority,
            vlan,
        }) = found
        else {
            return;
        };
        if let Some(on) = stp_hairpin_mode {
            profile.put("bridge-port", "hairpin-mode", *on);
        }
        if let Some(cost) = stp_path_cost {
            profile.put("bridge-port", "path-cost", *cost);
        }
        if let Some(priority) = stp_priority {
            profile.put("bridge-port", "priority", u32::from(*priority));
        }
        if let Some(vlan) = vlan {
            profile.put_opt("bridge-port", "vlans", Some(vlan.to_nm()).filter(|v| !v.is_empty()));
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(bridge)) = tree.get_mut("bridge") else {
            return;
        };
        bridge.remove("allow-extra-ports");
        if let Some(Value::Object(options)) = bridge.get_mut("options") {
            options.remove("gc-timer");
            options.remove("hello-timer");
            if let Some(Value::String(text)) = options.get_mut("group-addr")
                && let Some(mac) = scalar::mac(text)
            {
                *text = mac;
            }
        }
        bridge_vlan::normalise_in(bridge);
        let Some(Value::Array(ports)) = bridge.remove("port") else {
            return;
        };
        // order means nothing; a map by name makes the difference readable
        let mut by_name = BTreeMap::new();
        for mut port in ports {
            if let Value::Object(port) = &mut port {
                bridge_vlan::normalise_in(port);
            }
            let name = port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            by_name.insert(name, port);
        }
        bridge.insert("port".into(), Value::Object(by_name.into_iter().collect()));
    }

    fn close_enough(path: &str, want: &Value, got: &Value, _current: &Map<String, Value>) -> bool {
        let interval = path
            .strip_prefix("bridge.options.")
            .is_some_and(|k| options::JIFFIES.contains(&k));
        let near = || Some(want.as_u64()?.abs_diff(got.as_u64()?) <= 1);
        interval && near() == Some(true)
    }

    fn skip_unsupported(&mut self, facts: &Facts) -> Option<String> {
        let section = self
            .bridge
            .as_mut()
            .filter(|_| facts.bridge_vlan_filtering == Some(false))?;
        let mut dropped = section.vlan.take().is_some_and(|v| !v.is_empty());
        for port in section.port.iter_mut().flatten() {
            dropped |= port.vlan.take().is_some_and(|v| !v.is_empty());
        }
        if let Some(options) = &mut section.options {
            dropped |= options.vlan_filtering.take_if(|on| *on).is_some();
            dropped |= options.vlan_default_pvid.take().is_some_and(|pvid| pvid != 1);
            dropped |= options.vlan_protocol.take().is_some_and(|p| p != "802.1q");
        }
        dropped.then(|| {
            "this kernel has no VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING): VLANs left out".to_owned()
        })
    }
}

/// A written `vlan` replaces the whole, as modes do not mix; one spelling of the forwarding mask takes the other along.
fn settle_section(bridge: &mut Map<String, Value>, desired: Option<&Value>) {
    if let Some(vlan) = desired.and_then(|d| d.get("vlan")) {
        bridge.insert("vlan".into(), vlan.clone());
    }
    let written = |key: &str| desired?.get("options")?.get(key).cloned();
    if let Some(mask) = written("group-forward-mask").or_else(|| written("group-fwd-mask"))
        && let Some(Value::Object(options)) = bridge.get_mut("options")
    {
        options.insert("group-forward-mask".into(), mask.clone());
        options.insert("group-fwd-mask".into(), mask);
    }
}
