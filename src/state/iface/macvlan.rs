//! `type: mac-vlan` and `type: mac-vtap`: further MAC addresses of a link, for the node or as a tap. Sections of the same names.

use netlink_packet_route::link::{InfoData, InfoMacVlan, InfoMacVtap, MacVlanFlags, MacVlanMode};
use serde::{Deserialize, Serialize};

use super::{Claim, Context, Kind};
use crate::error::{ErrorKind, Invalid};
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

/// Another MAC address of a link.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MacVlan {
    /// Of which link, and how.
    #[serde(default, rename = "mac-vlan", skip_serializing_if = "Option::is_none")]
    pub section: Option<Section>,
}

/// The same as a tap, for a virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MacVtap {
    /// Of which link, and how.
    #[serde(default, rename = "mac-vtap", skip_serializing_if = "Option::is_none")]
    pub section: Option<Section>,
}

/// Section `mac-vlan` or `mac-vtap`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// The link below.
    pub base_iface: String,
    /// How those on one link reach each other.
    pub mode: Mode,
    /// The link below receives everything; only passthru can do without.
    #[serde(
        default,
        alias = "accept-all-mac",
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub promiscuous: Option<bool>,
}

/// `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Over the switch outside.
    Vepa,
    /// Directly.
    Bridge,
    /// Not at all.
    Private,
    /// There is only one.
    Passthru,
    /// By a list of source addresses.
    Source,
}

/// NetworkManager's numbers (`NMSettingMacvlanMode`) beside the kernel's.
const MODES: [(Mode, u32, MacVlanMode); 5] = [
    (Mode::Vepa, 1, MacVlanMode::Vepa),
    (Mode::Bridge, 2, MacVlanMode::Bridge),
    (Mode::Private, 3, MacVlanMode::Private),
    (Mode::Passthru, 4, MacVlanMode::Passthrough),
    (Mode::Source, 5, MacVlanMode::Source),
];

impl Section {
    fn from_facts(link: &Link, facts: &Facts, mode: Option<MacVlanMode>, flags: Option<MacVlanFlags>) -> Option<Self> {
        let below = link.parent.and_then(|i| facts.link_by_index(i));
        let (mode, ..) = MODES.iter().find(|(.., kernel)| Some(*kernel) == mode)?;
        Some(Section {
            base_iface: below.map(|l| l.name.clone()).unwrap_or_default(),
            mode: *mode,
            promiscuous: flags.map(|f| !f.contains(MacVlanFlags::NoPromisc)),
        })
    }

    fn validate(&self) -> Result<(), Invalid> {
        match (self.promiscuous, self.mode) {
            (Some(false), mode) if mode != Mode::Passthru => {
                Err(Invalid::new("promiscuous", "can be off only in mode passthru"))
            }
            _ => Ok(()),
        }
    }

    /// NetworkManager has a number for it but never makes such a link (`modes` in nm-device-macvlan.c).
    fn refuse_unsupported(&self) -> Result<(), Invalid> {
        match self.mode {
            Mode::Source => Err(Invalid::of(
                ErrorKind::NotSupportedError,
                "mode",
                "NetworkManager cannot make a link of mode source",
            )),
            _ => Ok(()),
        }
    }

    fn to_profile(&self, tap: bool, profile: &mut Profile) {
        let Section {
            base_iface,
            mode,
            promiscuous,
        } = self;
        profile.put("macvlan", "parent", base_iface.clone());
        if let Some((_, number, _)) = MODES.iter().find(|(m, ..)| m == mode) {
            profile.put("macvlan", "mode", *number);
        }
        profile.put("macvlan", "tap", tap);
        if let Some(on) = promiscuous {
            profile.put("macvlan", "promiscuous", *on);
        } else if *mode != Mode::Passthru {
            // off may be left from a passthru before
            profile.remove("macvlan", "promiscuous");
        }
    }

    /// NetworkManager writes nothing of it to a link that exists.
    fn differs(&self, now: &Section) -> bool {
        let promiscuous = self.promiscuous.is_some() && self.promiscuous != now.promiscuous;
        self.base_iface != now.base_iface || self.mode != now.mode || promiscuous
    }
}

/// What the kernel would show of a link with this profile: one kind of link for both types.
fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
    let number = profile.int("macvlan", "mode").unwrap_or(0);
    let mode = MODES.iter().find(|(_, nm, _)| i64::from(*nm) == number);
    let mode = mode.map_or(MacVlanMode::Vepa, |(.., kernel)| *kernel);
    let flags = match profile.bool("macvlan", "promiscuous") {
        Some(false) => MacVlanFlags::NoPromisc,
        _ => MacVlanFlags::empty(),
    };
    link.parent = profile.str("macvlan", "parent").and_then(index);
    let tap = profile.bool("macvlan", "tap") == Some(true);
    link.kind = Some(if tap { "macvtap" } else { "macvlan" }.to_owned());
    link.data = Some(match tap {
        true => InfoData::MacVtap(vec![InfoMacVtap::Mode(mode), InfoMacVtap::Flags(flags)]),
        false => InfoData::MacVlan(vec![InfoMacVlan::Mode(mode), InfoMacVlan::Flags(flags)]),
    });
}

fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
    ((setting, key) == ("macvlan", "promiscuous")).then_some(profile::Value::Bool(true))
}

macro_rules! kind {
    ($kind:ident, $type:literal, $data:ident, $info:ident, tap: $tap:literal) => {
        impl Kind for $kind {
            const TYPE: &'static str = $type;
            const SECTIONS: &'static [&'static str] = &[$type];
            const NM_TYPE: &'static str = "macvlan";
            const VIRTUAL: bool = true;

            fn from_facts(link: &Link, facts: &Facts) -> Self {
                let info: &[$info] = match &link.data {
                    Some(InfoData::$data(info)) => info,
                    _ => &[],
                };
                let mode = info.iter().find_map(|i| match i {
                    $info::Mode(mode) => Some(*mode),
                    _ => None,
                });
                let flags = info.iter().find_map(|i| match i {
                    $info::Flags(flags) => Some(*flags),
                    _ => None,
                });
                $kind {
                    section: Section::from_facts(link, facts, mode, flags),
                }
            }

            fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
                to_link(profile, link, index);
            }

            fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
                match &self.section {
                    None if cx.new => Err(Invalid::new($type, "a new one needs base-iface and mode")),
                    None => Ok(()),
                    Some(section) => section.validate().map_err(|e| e.under($type)),
                }
            }

            /// Of mode passthru there is one alone (`macvlan_common_newlink`).
            fn claims(&self, current: Option<&Self>, below: &[String]) -> Vec<Claim> {
                let section = self.section.as_ref().or(current.and_then(|c| c.section.as_ref()));
                let alone = section.is_some_and(|s| s.mode == Mode::Passthru);
                let with = (!alone).then_some("mac-vlan");
                let claim = |link: &String| Claim::frames(concat!($type, ".base-iface"), link, with);
                below.iter().map(claim).collect()
            }

            fn parents(&self) -> Vec<String> {
                self.section.iter().map(|s| s.base_iface.clone()).collect()
            }

            fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
                self.section.iter_mut().for_each(|s| f(&mut s.base_iface));
            }

            fn to_profile(&self, profile: &mut Profile) {
                let $kind { section } = self;
                profile.ensure("macvlan");
                if let Some(section) = section {
                    section.to_profile($tap, profile);
                }
            }

            fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
                nm_default(setting, key)
            }

            fn refuse_unsupported(&self, _facts: &Facts) -> Result<(), Invalid> {
                let section = self.section.as_ref();
                section.map_or(Ok(()), |s| s.refuse_unsupported().map_err(|e| e.under($type)))
            }

            fn must_recreate(&self, current: &Self) -> bool {
                matches!((&self.section, &current.section), (Some(wish), Some(now)) if wish.differs(now))
            }
        }
    };
}

kind!(MacVlan, "mac-vlan", MacVlan, InfoMacVlan, tap: false);
kind!(MacVtap, "mac-vtap", MacVtap, InfoMacVtap, tap: true);
