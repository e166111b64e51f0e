//! Options of a Linux bridge: from the document to NetworkManager, from the kernel to the document.

use netlink_packet_route::link::{BridgeMulticastRouterType, BridgeStpState, InfoBridge, VlanProtocol};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Invalid;
use crate::profile::{self, Profile};
use crate::scalar;

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
        /// `group-forward-mask` and `group-fwd-mask` are one number. `vlan-filtering` left out follows from the VLANs: on while
        /// a port or the bridge has any, and as it is where it was switched on without.
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
    #[serde(deserialize_with = "scalar::opt_int")] group_forward_mask: u32, "";
    #[serde(deserialize_with = "scalar::opt_int")] group_fwd_mask: u32, "";
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
    #[serde(deserialize_with = "scalar::opt_bool")] vlan_filtering: bool, "vlan-filtering";
    #[serde(deserialize_with = "scalar::opt_int")] gc_timer: u64, "";
    #[serde(deserialize_with = "scalar::opt_int")] hello_timer: u64, "";
}

/// Intervals that the kernel keeps in jiffies: a reading may be off by one.
pub const JIFFIES: [&str; 6] = [
    "multicast-last-member-interval",
    "multicast-membership-interval",
    "multicast-querier-interval",
    "multicast-query-interval",
    "multicast-query-response-interval",
    "multicast-startup-query-interval",
];

impl Options {
    /// What the kernel tells.
    pub fn from_facts(info: &[InfoBridge]) -> Self {
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
                InfoBridge::GroupAddr(v) => o.group_addr = Some(scalar::mac_text(v)),
                InfoBridge::GroupFwdMask(v) => {
                    o.group_forward_mask = Some((*v).into());
                    o.group_fwd_mask = o.group_forward_mask;
                }
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
                InfoBridge::VlanFiltering(v) => o.vlan_filtering = Some(*v),
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

    /// Rules of the options. Paths start at the option.
    pub fn validate(&self) -> Result<(), Invalid> {
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
        for (key, value, high) in [
            ("group-forward-mask", self.group_forward_mask, 65535),
            ("group-fwd-mask", self.group_fwd_mask, 65535),
            ("vlan-default-pvid", self.vlan_default_pvid, 4094),
        ] {
            if let Some(v) = value.filter(|v| *v > high) {
                return Err(Invalid::new(key, format!("{v} is outside 0–{high}")));
            }
        }
        for (key, mask) in [
            ("group-forward-mask", self.group_forward_mask),
            ("group-fwd-mask", self.group_fwd_mask),
        ] {
            // BR_GROUPFWD_RESTRICTED
            if mask.is_some_and(|m| m & 7 != 0) {
                let why = "bits 0, 1 and 2 (spanning tree, pause frames, LACP) are never forwarded";
                return Err(Invalid::new(key, why));
            }
        }
        if let (Some(one), Some(other)) = (self.group_forward_mask, self.group_fwd_mask)
            && one != other
        {
            let why = format!("it is the same number as group-forward-mask, which is {one}");
            return Err(Invalid::new("group-fwd-mask", why));
        }
        // br_multicast_set_hash_max
        if let Some(max) = self.hash_max.filter(|max| !max.is_power_of_two()) {
            return Err(Invalid::new("hash-max", format!("{max} is not a power of two")));
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
        self.group_addr.as_deref().map_or(Ok(()), group_addr)
    }

    /// Writes setting `bridge`.
    pub fn to_profile(&self, profile: &mut Profile) {
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
        if let Some(mask) = self.group_forward_mask.or(self.group_fwd_mask) {
            profile.put("bridge", "group-forward-mask", mask);
        }
        if let Some(router) = self.multicast_router {
            let word = match router {
                MulticastRouter::Auto => "auto",
                MulticastRouter::Disabled => "disabled",
                MulticastRouter::Enabled => "enabled",
            };
            profile.put("bridge", "multicast-router", word);
        }
        if let Some(bytes) = self.group_addr.as_ref().and_then(|t| scalar::mac_bytes(t)) {
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

/// The options that a kernel shows of a bridge made from this profile.
pub fn to_link(profile: &Profile) -> Vec<InfoBridge> {
    let long = |key: &str, default: u64| {
        let number = profile.int("bridge", key).and_then(|v| u64::try_from(v).ok());
        number.unwrap_or(default)
    };
    let number = |key: &str, default: u32| u32::try_from(long(key, default.into())).unwrap_or(0);
    let short = |key: &str, default: u16| u16::try_from(number(key, default.into())).unwrap_or(0);
    let on = |key: &str, default: bool| profile.bool("bridge", key).unwrap_or(default);
    let group = match profile.get("bridge", "group-address") {
        Some(profile::Value::Bytes(bytes)) => bytes.clone().try_into().ok(),
        _ => None,
    };
    let protocol = match profile.str("bridge", "vlan-protocol") {
        Some("802.1ad") => VlanProtocol::Ieee8021Ad,
        _ => VlanProtocol::Ieee8021Q,
    };
    let router = match profile.str("bridge", "multicast-router") {
        Some("disabled") => BridgeMulticastRouterType::Disabled,
        Some("enabled") => BridgeMulticastRouterType::Permanent,
        _ => BridgeMulticastRouterType::TempQuery,
    };
    vec![
        InfoBridge::StpState(u32::from(on("stp", true)).into()),
        InfoBridge::Priority(short("priority", 32768)),
        InfoBridge::ForwardDelay(number("forward-delay", 15) * 100),
        InfoBridge::HelloTime(number("hello-time", 2) * 100),
        InfoBridge::MaxAge(number("max-age", 20) * 100),
        InfoBridge::AgeingTime(number("ageing-time", 300) * 100),
        InfoBridge::GroupAddr(group.unwrap_or([0x01, 0x80, 0xc2, 0, 0, 0])),
        InfoBridge::GroupFwdMask(short("group-forward-mask", 0)),
        InfoBridge::VlanFiltering(on("vlan-filtering", false)),
        InfoBridge::VlanDefaultPvid(short("vlan-default-pvid", 1)),
        InfoBridge::VlanProtocol(protocol),
        InfoBridge::MulticastRouter(router),
        InfoBridge::MulticastSnooping(on("multicast-snooping", true)),
        InfoBridge::MulticastQuerier(on("multicast-querier", false)),
        InfoBridge::MulticastQueryUseIfaddr(on("multicast-query-use-ifaddr", false)),
        InfoBridge::MulticastHashMax(number("multicast-hash-max", 4096)),
        InfoBridge::MulticastLastMemberCount(number("multicast-last-member-count", 2)),
        InfoBridge::MulticastStartupQueryCount(number("multicast-startup-query-count", 2)),
        InfoBridge::MulticastLastMemberInterval(long("multicast-last-member-interval", 100)),
        InfoBridge::MulticastMembershipInterval(long("multicast-membership-interval", 26000)),
        InfoBridge::MulticastQuerierInterval(long("multicast-querier-interval", 25500)),
        InfoBridge::MulticastQueryInterval(long("multicast-query-interval", 12500)),
        InfoBridge::MulticastQueryResponseInterval(long("multicast-query-response-interval", 1000)),
        InfoBridge::MulticastStartupQueryInterval(long("multicast-startup-query-interval", 3125)),
    ]
}

/// Link-local, and none of those that pause frames, slow protocols and 802.1X have (net/bridge/br_netlink.c of the kernel).
fn group_addr(text: &str) -> Result<(), Invalid> {
    let bytes = scalar::mac(text).and_then(|mac| scalar::mac_bytes(&mac));
    let why = match bytes.as_deref() {
        None => "is not a MAC address",
        Some([0x01, 0x80, 0xc2, 0, 0, 0 | 4..=15]) => return Ok(()),
        Some(_) => "is none of 01:80:C2:00:00:00 and 01:80:C2:00:00:04 to 01:80:C2:00:00:0F",
    };
    Err(Invalid::new("group-addr", format!("'{text}' {why}")))
}
