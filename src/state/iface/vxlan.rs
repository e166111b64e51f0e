//! `type: vxlan`: an Ethernet over UDP. Section `vxlan`.

use std::net::IpAddr;

use netlink_packet_route::link::{InfoData, InfoVxlan};
use serde::{Deserialize, Serialize};

use super::{Claim, Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;
use crate::state::part::ip::is_link_local;

/// An Ethernet over UDP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vxlan {
    /// Which one, and to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Section>,
}

/// Section `vxlan`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// The link that its packets go out by; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_iface: Option<String>,
    /// VXLAN network identifier, 0–16777215.
    #[serde(deserialize_with = "scalar::int")]
    pub id: u32,
    /// Learn who is where from what arrives; default true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub learning: Option<bool>,
    /// Source address of its packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The other end, or a multicast group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// UDP port; default 8472, the kernel's (IANA's is 4789).
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub destination_port: Option<u16>,
}

/// What NetworkManager takes where the profile says nothing.
const DEFAULT_PORT: u32 = 8472;

impl Section {
    fn from_info(info: &[InfoVxlan], facts: &Facts) -> Self {
        let mut s = Section::default();
        for item in info {
            match item {
                InfoVxlan::Id(v) => s.id = *v,
                InfoVxlan::Link(v) => s.base_iface = facts.link_by_index(*v).map(|l| l.name.clone()),
                InfoVxlan::Learning(v) => s.learning = Some(*v),
                InfoVxlan::Local(v) => s.local = Some((*v).into()),
                InfoVxlan::Local6(v) => s.local = Some((*v).into()),
                InfoVxlan::Group(v) => s.remote = Some((*v).into()),
                InfoVxlan::Group6(v) => s.remote = Some((*v).into()),
                InfoVxlan::Port(v) => s.destination_port = Some(*v),
                _ => {}
            }
        }
        s
    }
}

impl Kind for Vxlan {
    const TYPE: &'static str = "vxlan";
    const SECTIONS: &'static [&'static str] = &["vxlan"];
    const NM_TYPE: &'static str = "vxlan";
    const VIRTUAL: bool = true;

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let vxlan = match &link.data {
            Some(InfoData::Vxlan(info)) => Some(Section::from_info(info, facts)),
            _ => None,
        };
        Vxlan { vxlan }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        let number = |key: &str| profile.int("vxlan", key).and_then(|v| u32::try_from(v).ok());
        let address = |key: &str| profile.str("vxlan", key).and_then(|t| t.parse().ok());
        let port = u16::try_from(number("destination-port").unwrap_or(DEFAULT_PORT)).unwrap_or(0);
        let mut info = vec![
            InfoVxlan::Id(number("id").unwrap_or(0)),
            InfoVxlan::Learning(profile.bool("vxlan", "learning").unwrap_or(true)),
            InfoVxlan::Port(port),
        ];
        info.extend(profile.str("vxlan", "parent").and_then(index).map(InfoVxlan::Link));
        info.extend(address("local").map(|ip| match ip {
            IpAddr::V4(v) => InfoVxlan::Local(v),
            IpAddr::V6(v) => InfoVxlan::Local6(v),
        }));
        info.extend(address("remote").map(|ip| match ip {
            IpAddr::V4(v) => InfoVxlan::Group(v),
            IpAddr::V6(v) => InfoVxlan::Group6(v),
        }));
        link.data = Some(InfoData::Vxlan(info));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let Some(s) = &self.vxlan else {
            return match cx.new {
                true => Err(Invalid::new("vxlan", "a new VXLAN needs vxlan.id")),
                false => Ok(()),
            };
        };
        if s.id >= 1 << 24 {
            return Err(Invalid::new(
                "vxlan.id",
                format!("{} is outside 0–{}", s.id, (1 << 24) - 1),
            ));
        }
        match (s.local, s.remote) {
            (Some(local), Some(remote)) if local.is_ipv4() != remote.is_ipv4() => Err(Invalid::new(
                "vxlan.local",
                format!("{local} and the remote {remote} are of different families"),
            )),
            _ => Ok(()),
        }
    }

    /// `vxlan_config_validate`: the identifier is one of the UDP port, for each family. What is scoped to a link by an IPv6
    /// link-local address is left to the kernel.
    fn claims(&self, current: Option<&Self>, _below: &[String]) -> Vec<Claim> {
        let now = current.and_then(|c| c.vxlan.as_ref());
        let Some(s) = self.vxlan.as_ref().or(now) else {
            return vec![];
        };
        let either = |of: fn(&Section) -> Option<IpAddr>| of(s).or(now.and_then(of));
        let ends = [either(|s| s.remote), either(|s| s.local)];
        if ends.iter().flatten().any(is_link_local) {
            return vec![];
        }
        let family = if ends.iter().flatten().any(IpAddr::is_ipv6) {
            " over IPv6"
        } else {
            ""
        };
        let port = s.destination_port.or(now.and_then(|n| n.destination_port));
        let port = port.map_or(DEFAULT_PORT, u32::from);
        vec![Claim {
            path: "vxlan.id",
            what: format!("VXLAN {} at UDP port {port}{family}", s.id),
            with: None,
        }]
    }

    fn parents(&self) -> Vec<String> {
        self.vxlan.iter().filter_map(|v| v.base_iface.clone()).collect()
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        self.vxlan.iter_mut().filter_map(|v| v.base_iface.as_mut()).for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Vxlan { vxlan } = self;
        profile.ensure("vxlan");
        let Some(Section {
            base_iface,
            id,
            learning,
            local,
            remote,
            destination_port,
        }) = vxlan
        else {
            return;
        };
        profile.put("vxlan", "id", *id);
        if let Some(parent) = base_iface {
            profile.put("vxlan", "parent", parent.clone());
        }
        if let Some(on) = learning {
            profile.put("vxlan", "learning", *on);
        }
        for (key, address) in [("local", local), ("remote", remote)] {
            if let Some(ip) = address {
                profile.put("vxlan", key, ip.to_string());
            }
        }
        if let Some(port) = destination_port {
            profile.put("vxlan", "destination-port", u32::from(*port));
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        match (setting, key) {
            ("vxlan", "learning") => Some(profile::Value::Bool(true)),
            ("vxlan", "destination-port") => Some(profile::Value::U32(DEFAULT_PORT)),
            ("vxlan", "ageing") => Some(profile::Value::U32(300)),
            _ => None,
        }
    }

    /// NetworkManager writes nothing of it to a link that exists.
    fn must_recreate(&self, current: &Self) -> bool {
        let (Some(wish), Some(now)) = (&self.vxlan, &current.vxlan) else {
            return false;
        };
        fn other<T: PartialEq>(wish: &Option<T>, now: &Option<T>) -> bool {
            wish.is_some() && wish != now
        }
        wish.id != now.id
            || other(&wish.base_iface, &now.base_iface)
            || other(&wish.learning, &now.learning)
            || other(&wish.local, &now.local)
            || other(&wish.remote, &now.remote)
            || other(&wish.destination_port, &now.destination_port)
    }
}
