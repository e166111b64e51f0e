//! `type: linux-bridge`. Section `bridge`: options and ports with their VLANs.

use std::collections::BTreeMap;

use netlink_packet_route::link::{
    BridgeMulticastRouterType, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoPortData,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind, bridge_vlan};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;
use crate::state::tree;

/// A bridge of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxBridge {
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

/// Spanning tree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stp {
    /// On or off.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub enabled: Option<bool>,
    /// Seconds, 2–30.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub forward_delay: Option<u32>,
    /// Seconds, 1–10.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub hello_time: Option<u32>,
    /// Seconds, 6–40.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_age: Option<u32>,
    /// 0–65535.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub priority: Option<u16>,
}

/// `multicast-router`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MulticastRouter {
    /// 1: by queries heard.
    Auto,
    /// 0.
    Disabled,
    /// 2.
    Enabled,
}

impl<'de> Deserialize<'de> for MulticastRouter {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(de)?;
        match (value.as_u64(), value.as_str()) {
            (Some(0), _) | (_, Some("disabled")) => Ok(MulticastRouter::Disabled),
            (Some(1), _) | (_, Some("auto")) => Ok(MulticastRouter::Auto),
            (Some(2), _) | (_, Some("enabled")) => Ok(MulticastRouter::Enabled),
            _ => Err(serde::de::Error::custom(format!(
                "{value} is none of auto, disabled, enabled"
            ))),
        }
    }
}

macro_rules! options {
    ($($(#[$attr:meta])* $field:ident: $t:ty, $nm:expr;)*) => {
        /// `bridge.options`. Times are seconds for STP and ageing, hundredths of a second for multicast (kernel `clock_t`).
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Options {
            /// Spanning tree.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub stp: Option<Stp>,
            /// `auto`, `disabled`, `enabled`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub multicast_router: Option<MulticastRouter>,
            /// Address of the spanning-tree group, `01:80:C2:00:00:0X`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub group_addr: Option<String>,
            /// `802.1q` or `802.1ad`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub vlan_protocol: Option<String>,
            $(#[allow(missing_docs)] $(#[$attr])*
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $field: Option<$t>,)*
        }

        impl Options {
            fn numbers_to_profile(&self, profile: &mut Profile) {
                $(if let Some(v) = self.$field {
                    let key: &str = $nm;
                    if !key.is_empty() {
                        profile.put("bridge", key, profile::Value::from(v));
                    }
                })*
            }
        }
    };
}

options! {
    #[serde(deserialize_with = "scalar::opt_int")] mac_ageing_time: u32, "ageing-time";
    #[serde(deserialize_with = "scalar::opt_int", alias = "group-fwd-mask")] group_forward_mask: u32, "group-forward-mask";
    #[serde(deserialize_with = "scalar::opt_int")] hash_max: u32, "multicast-hash-max";
    #[serde(deserialize_with = "scalar::opt_bool")] multicast_snooping: bool, "multicast-snooping";
    #[serde(deserialize_with = "scalar::opt_bool")] multicast_querier: bool, "multicast-querier";
    #[serde(deserialize_with = "scalar::opt_bool")] multicast_query_use_ifaddr: bool, "multicast-query-use-ifaddr";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_last_member_count: u32, "multicast-last-member-count";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_last_member_interval: u64, "multicast-last-member-interval";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_membership_interval: u64, "multicast-membership-interval";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_querier_interval: u64, "multicast-querier-interval";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_query_interval: u64, "multicast-query-interval";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_query_response_interval: u64, "multicast-query-response-interval";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_startup_query_count: u32, "multicast-startup-query-count";
    #[serde(deserialize_with = "scalar::opt_int")] multicast_startup_query_interval: u64, "multicast-startup-query-interval";
    #[serde(deserialize_with = "scalar::opt_int")] vlan_default_pvid: u32, "vlan-default-pvid";
    #[serde(deserialize_with = "scalar::opt_int")] gc_timer: u64, "";
    #[serde(deserialize_with = "scalar::opt_int")] hello_timer: u64, "";
}

/// NetworkManager's names of its multicast intervals that the kernel keeps in jiffies: a reading may be off by one.
const JIFFIES: [&str; 5] = [
    "multicast-membership-interval",
    "multicast-querier-interval",
    "multicast-query-interval",
    "multicast-query-response-interval",
    "multicast-startup-query-interval",
];

impl Options {
    fn from_facts(info: &[InfoBridge]) -> Self {
        let mut o = Options::default();
        let mut stp = Stp::default();
        for item in info {
            match item {
                InfoBridge::ForwardDelay(v) => stp.forward_delay = Some(v / 100),
                InfoBridge::HelloTime(v) => stp.hello_time = Some(v / 100),
                InfoBridge::MaxAge(v) => stp.max_age = Some(v / 100),
                InfoBridge::Priority(v) => stp.priority = Some(*v),
                InfoBridge::StpState(v) => stp.enabled = Some(*v != BridgeStpState::Disabled),
                InfoBridge::AgeingTime(v) => o.mac_ageing_time = Some(v / 100),
                InfoBridge::GroupAddr(v) => o.group_addr = Some(mac_text(v)),
                InfoBridge::GroupFwdMask(v) => o.group_forward_mask = Some((*v).into()),
                InfoBridge::MulticastHashMax(v) => o.hash_max = Some(*v),
                InfoBridge::MulticastSnooping(v) => o.multicast_snooping = Some(*v),
                InfoBridge::MulticastQuerier(v) => o.multicast_querier = Some(*v),
                InfoBridge::MulticastQueryUseIfaddr(v) => o.multicast_query_use_ifaddr = Some(*v),
                InfoBridge::MulticastLastMemberCount(v) => o.multicast_last_member_count = Some(*v),
                InfoBridge::MulticastLastMemberInterval(v) => o.multicast_last_member_interval = Some(*v),
                InfoBridge::MulticastMembershipInterval(v) => o.multicast_membership_interval = Some(*v),
                InfoBridge::MulticastQuerierInterval(v) => o.multicast_querier_interval = Some(*v),
                InfoBridge::MulticastQueryInterval(v) => o.multicast_query_interval = Some(*v),
                InfoBridge::MulticastQueryResponseInterval(v) => o.multicast_query_response_interval = Some(*v),
                InfoBridge::MulticastStartupQueryCount(v) => o.multicast_startup_query_count = Some(*v),
                InfoBridge::MulticastStartupQueryInterval(v) => o.multicast_startup_query_interval = Some(*v),
                InfoBridge::GcTimer(v) => o.gc_timer = Some(*v),
                InfoBridge::HelloTimer(v) => o.hello_timer = Some(*v),
                InfoBridge::VlanDefaultPvid(v) => o.vlan_default_pvid = Some((*v).into()),
                InfoBridge::VlanProtocol(v) => o.vlan_protocol = Some(v.to_string().to_ascii_lowercase()),
                InfoBridge::MulticastRouter(v) => {
                    o.multicast_router = Some(match v {
                        BridgeMulticastRouterType::Disabled => MulticastRouter::Disabled,
                        BridgeMulticastRouterType::Permanent => MulticastRouter::Enabled,
                        _ => MulticastRouter::Auto,
                    });
                }
                _ => {}
            }
        }
        o.stp = (stp != Stp::default()).then_some(stp);
        o
    }

    fn validate(&self) -> Result<(), Invalid> {
        if let Some(Stp {
            enabled: _,
            forward_delay,
            hello_time,
            max_age,
            priority: _,
        }) = &self.stp
        {
            // kernel: BR_MIN_/BR_MAX_FORWARD_DELAY, HELLO_TIME, MAX_AGE
            for (key, value, low, high) in [
                ("forward-delay", forward_delay, 2, 30),
                ("hello-time", hello_time, 1, 10),
                ("max-age", max_age, 6, 40),
            ] {
                if let Some(v) = value.filter(|v| !(low..=high).contains(v)) {
                    return Err(Invalid::new(
                        format!("stp.{key}"),
                        format!("{v} is outside {low}–{high} seconds"),
                    ));
                }
            }
        }
        match self.vlan_protocol.as_deref() {
            None | Some("802.1q" | "802.1ad") => {}
            Some(other) => {
                return Err(Invalid::new(
                    "vlan-protocol",
                    format!("'{other}' is neither 802.1q nor 802.1ad"),
                ));
            }
        }
        match self.group_addr.as_deref() {
            Some(text) if scalar::mac(text).is_none() => {
                Err(Invalid::new("group-addr", format!("'{text}' is not a MAC address")))
            }
            _ => Ok(()),
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        if let Some(Stp {
            enabled,
            forward_delay,
            hello_time,
            max_age,
            priority,
        }) = &self.stp
        {
            if let Some(on) = enabled {
                profile.put("bridge", "stp", *on);
            }
            for (key, value) in [
                ("forward-delay", forward_delay),
                ("hello-time", hello_time),
                ("max-age", max_age),
                ("priority", &priority.map(u32::from)),
            ] {
                if let Some(v) = value {
                    profile.put("bridge", key, *v);
                }
            }
        }
        if let Some(router) = self.multicast_router {
            let word = match router {
                MulticastRouter::Auto => "auto",
                MulticastRouter::Disabled => "disabled",
                MulticastRouter::Enabled => "enabled",
            };
            profile.put("bridge", "multicast-router", word);
        }
        if let Some(bytes) = self.group_addr.as_ref().and_then(|t| mac_bytes(t)) {
            profile.put("bridge", "group-address", bytes);
        }
        if let Some(protocol) = &self.vlan_protocol {
            profile.put(
                "bridge",
                "vlan-protocol",
                protocol
                    .to_ascii_uppercase()
                    .replace("AD", "ad")
                    .replace("802.1q", "802.1Q"),
            );
        }
        self.numbers_to_profile(profile);
    }
}

fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

fn mac_bytes(text: &str) -> Option<Vec<u8>> {
    text.split([':', '-']).map(|p| u8::from_str_radix(p, 16).ok()).collect()
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
}

impl Kind for LinuxBridge {
    const TYPE: &'static str = "linux-bridge";
    const SECTIONS: &'static [&'static str] = &["bridge"];
    const NM_TYPE: &'static str = "bridge";
    const VIRTUAL: bool = true;
    const CONTROLLER: bool = true;
    const COPIES_MAC: bool = true;
    const PORT_TYPE: &'static str = "bridge";
    const PORT_SETTING: &'static str = "bridge-port";

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let info: &[InfoBridge] = match &link.data {
            Some(InfoData::Bridge(info)) => info,
            _ => &[],
        };
        let filtering = info.iter().any(|i| matches!(i, InfoBridge::VlanFiltering(true)));
        let port_of = |l: &Link| {
            let vlan = filtering.then(|| bridge_vlan::Vlan::from_facts(&l.vlans)).flatten();
            Port {
                vlan,
                ..Port::from_facts(l)
            }
        };
        let mut ports: Vec<Port> = facts
            .links
            .iter()
            .filter(|l| l.controller == Some(link.index))
            .map(port_of)
            .collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        LinuxBridge {
            bridge: Some(Section {
                options: Some(Options::from_facts(info)),
                port: Some(ports),
                allow_extra_ports: None,
            }),
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
        Ok(())
    }

    fn ports(&self) -> Option<Vec<String>> {
        let ports = self.bridge.as_ref()?.port.as_ref()?;
        Some(ports.iter().map(|p| p.name.clone()).collect())
    }

    fn wants_no_extra_ports(&self) -> bool {
        self.bridge.as_ref().is_some_and(|b| b.allow_extra_ports == Some(false))
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        let ports = self.bridge.iter_mut().flat_map(|b| b.port.iter_mut().flatten());
        ports.for_each(|port| f(&mut port.name));
    }

    fn to_link(profile: &Profile, link: &mut Link, _index: &dyn Fn(&str) -> Option<u32>) {
        link.data = Some(InfoData::Bridge(kernel_options(profile)));
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
        let LinuxBridge { bridge } = self;
        profile.ensure("bridge");
        let Some(Section {
            options,
            port,
            allow_extra_ports: _, /* decided by the plan */
        }) = bridge
        else {
            return;
        };
        if let Some(options) = options {
            options.to_profile(profile);
        }
        if let Some(ports) = port {
            let filtering = ports.iter().any(|p| p.vlan.as_ref().is_some_and(|v| !v.is_empty()));
            // absent counts as false, so that a bridge without VLANs keeps the default
            if filtering || profile.bool("bridge", "vlan-filtering").is_some() {
                profile.put("bridge", "vlan-filtering", filtering);
            }
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
            match vlan.to_nm() {
                vlans if vlans.is_empty() => profile.remove("bridge-port", "vlans"),
                vlans => profile.put("bridge-port", "vlans", vlans),
            }
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
            for key in JIFFIES {
                if let Some(v) = options.get(key).and_then(Value::as_u64) {
                    // even numbers on both sides hide the kernel's rounding by one
                    options.insert(key.into(), (v.div_ceil(2) * 2).into());
                }
            }
            if let Some(Value::String(text)) = options.get_mut("group-addr")
                && let Some(mac) = scalar::mac(text)
            {
                *text = mac;
            }
        }
        let Some(Value::Array(ports)) = bridge.remove("port") else {
            return;
        };
        // order means nothing; a map by name makes the difference readable
        let mut by_name = BTreeMap::new();
        for mut port in ports {
            if let Some(Value::Object(vlan)) = port.get_mut("vlan") {
                bridge_vlan::normalise(vlan);
            }
            let name = port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            by_name.insert(name, port);
        }
        bridge.insert("port".into(), Value::Object(by_name.into_iter().collect()));
    }

    fn skip_unsupported(&mut self, facts: &Facts) -> Option<String> {
        if facts.bridge_vlan_filtering != Some(false) {
            return None;
        }
        let mut dropped = false;
        for port in self.bridge.iter_mut().flat_map(|b| b.port.iter_mut().flatten()) {
            dropped |= port.vlan.take().is_some_and(|v| !v.is_empty());
        }
        dropped.then(|| {
            "this kernel has no VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING): port VLANs left out"
                .to_owned()
        })
    }
}

/// The options that a kernel shows of a bridge made from this profile.
fn kernel_options(profile: &Profile) -> Vec<InfoBridge> {
    let number = |key: &str, default: u32| {
        profile
            .int("bridge", key)
            .and_then(|v| u32::try_from(v).ok())
            .unwrap_or(default)
    };
    let on = |key: &str, default: bool| profile.bool("bridge", key).unwrap_or(default);
    vec![
        InfoBridge::StpState(u32::from(on("stp", true)).into()),
        InfoBridge::Priority(u16::try_from(number("priority", 32768)).unwrap_or(0)),
        InfoBridge::ForwardDelay(number("forward-delay", 15) * 100),
        InfoBridge::HelloTime(number("hello-time", 2) * 100),
        InfoBridge::MaxAge(number("max-age", 20) * 100),
        InfoBridge::AgeingTime(number("ageing-time", 300) * 100),
        InfoBridge::MulticastSnooping(on("multicast-snooping", true)),
    ]
}
