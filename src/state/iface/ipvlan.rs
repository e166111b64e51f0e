//! `type: ipvlan`: further IP addresses of a link under its one MAC address. Section `ipvlan`.

use netlink_packet_route::link::{InfoData, InfoIpVlan, IpVlanFlags, IpVlanMode};
use serde::{Deserialize, Serialize};

use super::{Claim, Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::Profile;
use crate::scalar;

/// IP addresses that share the MAC address of a link.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpVlan {
    /// Of which link, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipvlan: Option<Section>,
}

/// Section `ipvlan`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// The link below; may be left out where the interface exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_iface: Option<String>,
    /// Default `l3`, as the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Those on one link do not reach each other.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub private: Option<bool>,
    /// They reach each other over the switch outside.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub vepa: Option<bool>,
}

/// `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Switches frames; answers ARP.
    L2,
    /// Routes packets.
    L3,
    /// The same with connection tracking.
    L3s,
}

/// NetworkManager's numbers (`NMSettingIpvlanMode`) beside the kernel's.
const MODES: [(Mode, u32, IpVlanMode); 3] = [
    (Mode::L2, 1, IpVlanMode::L2),
    (Mode::L3, 2, IpVlanMode::L3),
    (Mode::L3s, 3, IpVlanMode::L3S),
];

impl Kind for IpVlan {
    const TYPE: &'static str = "ipvlan";
    const SECTIONS: &'static [&'static str] = &["ipvlan"];
    const NM_TYPE: &'static str = "ipvlan";
    const VIRTUAL: bool = true;

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let Some(InfoData::IpVlan(info)) = &link.data else {
            return IpVlan::default();
        };
        let below = link.parent.and_then(|i| facts.link_by_index(i));
        let mut section = Section {
            base_iface: below.map(|l| l.name.clone()),
            ..Section::default()
        };
        for item in info {
            match item {
                InfoIpVlan::Mode(mode) => {
                    let found = MODES.iter().find(|(.., kernel)| kernel == mode);
                    section.mode = found.map(|(mode, ..)| *mode);
                }
                InfoIpVlan::Flags(flags) => {
                    section.private = Some(flags.contains(IpVlanFlags::Private));
                    section.vepa = Some(flags.contains(IpVlanFlags::Vepa));
                }
                _ => {}
            }
        }
        IpVlan { ipvlan: Some(section) }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        let number = profile.int("ipvlan", "mode").unwrap_or(0);
        let mode = MODES.iter().find(|(_, nm, _)| i64::from(*nm) == number);
        let mut flags = IpVlanFlags::empty();
        flags.set(IpVlanFlags::Private, profile.bool("ipvlan", "private") == Some(true));
        flags.set(IpVlanFlags::Vepa, profile.bool("ipvlan", "vepa") == Some(true));
        link.parent = profile.str("ipvlan", "parent").and_then(index);
        link.data = Some(InfoData::IpVlan(vec![
            InfoIpVlan::Mode(mode.map_or(IpVlanMode::L3, |(.., kernel)| *kernel)),
            InfoIpVlan::Flags(flags),
        ]));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        match &self.ipvlan {
            None if cx.new => Err(Invalid::new("ipvlan", "a new IPVLAN needs ipvlan.base-iface")),
            Some(s) if cx.new && s.base_iface.is_none() => {
                Err(Invalid::new("ipvlan.base-iface", "a new IPVLAN needs the link below"))
            }
            _ => Ok(()),
        }
    }

    fn complete(&mut self, current: Option<&Self>) -> Result<(), Invalid> {
        let Some(wish) = &mut self.ipvlan else { return Ok(()) };
        let now = current.and_then(|c| c.ipvlan.as_ref());
        match (wish.private, wish.vepa) {
            (Some(true), Some(true)) => {
                return Err(Invalid::new(
                    "ipvlan",
                    "private and vepa exclude each other; switch one off",
                ));
            }
            // naming one of the two takes the other's place
            (Some(true), None) if now.is_some_and(|n| n.vepa == Some(true)) => wish.vepa = Some(false),
            (None, Some(true)) if now.is_some_and(|n| n.private == Some(true)) => wish.private = Some(false),
            _ => {}
        }
        Ok(())
    }

    fn claims(&self, _current: Option<&Self>, below: &[String]) -> Vec<Claim> {
        let claim = |link: &String| Claim::frames("ipvlan.base-iface", link, Some("ipvlan"));
        below.iter().map(claim).collect()
    }

    fn parents(&self) -> Vec<String> {
        self.ipvlan.iter().filter_map(|v| v.base_iface.clone()).collect()
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        self.ipvlan.iter_mut().filter_map(|v| v.base_iface.as_mut()).for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let IpVlan { ipvlan } = self;
        profile.ensure("ipvlan");
        let Some(Section {
            base_iface,
            mode,
            private,
            vepa,
        }) = ipvlan
        else {
            return;
        };
        if let Some(parent) = base_iface {
            profile.put("ipvlan", "parent", parent.clone());
        }
        // NetworkManager has no default for it
        let unset = profile.get("ipvlan", "mode").is_none().then_some(Mode::L3);
        if let Some(mode) = mode.or(unset)
            && let Some((_, number, _)) = MODES.iter().find(|(m, ..)| *m == mode)
        {
            profile.put("ipvlan", "mode", *number);
        }
        for (key, flag) in [("private", private), ("vepa", vepa)] {
            if let Some(on) = flag {
                profile.put("ipvlan", key, *on);
            }
        }
    }

    /// NetworkManager writes nothing of it to a link that exists.
    fn must_recreate(&self, current: &Self) -> bool {
        let (Some(wish), Some(now)) = (&self.ipvlan, &current.ipvlan) else {
            return false;
        };
        let flag = |wish: Option<bool>, now: Option<bool>| wish.is_some() && wish != now;
        (wish.base_iface.is_some() && wish.base_iface != now.base_iface)
            || (wish.mode.is_some() && wish.mode != now.mode)
            || flag(wish.private, now.private)
            || flag(wish.vepa, now.vepa)
    }

    fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        facts.needs_nm("1.52", "type", "an IPVLAN")
    }
}
