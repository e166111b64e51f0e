//! `type: ethernet`: hardware. Section `ethernet`: auto-negotiation, speed, duplex, virtual functions.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;
use crate::state::part::sriov::Sriov;

/// Hardware that speaks Ethernet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ethernet {
    /// Link settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethernet: Option<Section>,
}

/// Section `ethernet`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// 802.3 auto-negotiation.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub auto_negotiation: Option<bool>,
    /// Mb/s.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub speed: Option<u32>,
    /// `full` or `half`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplex: Option<Duplex>,
    /// Virtual functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sr_iov: Option<Sriov>,
}

/// Duplex mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duplex {
    /// Both ways at once.
    Full,
    /// One way at a time.
    Half,
}

impl Section {
    /// Reads what a card does; of links of software, what the profile sets.
    pub fn from_facts(link: &Link, facts: &Facts) -> Option<Self> {
        let profile = facts.active_profile(&link.name).map(|p| &p.profile);
        let kernel = link.ethtool.auto_negotiation.filter(|_| link.kind.is_none());
        let section = Section {
            auto_negotiation: kernel.or_else(|| profile?.bool("802-3-ethernet", "auto-negotiate")),
            speed: link.speed,
            duplex: link.duplex.as_deref().and_then(|d| match d {
                "full" => Some(Duplex::Full),
                "half" => Some(Duplex::Half),
                _ => None,
            }),
            sr_iov: Sriov::from_facts(link),
        };
        (section != Section::default()).then_some(section)
    }

    /// Writes `802-3-ethernet`.
    pub fn to_profile(&self, profile: &mut Profile) {
        let Section {
            auto_negotiation,
            speed,
            duplex,
            sr_iov,
        } = self;
        if let Some(sriov) = sr_iov {
            sriov.to_profile(profile);
        }
        if let Some(on) = auto_negotiation {
            profile.put("802-3-ethernet", "auto-negotiate", *on);
        }
        if let Some(speed) = speed {
            profile.put("802-3-ethernet", "speed", *speed);
        }
        if let Some(duplex) = duplex {
            let word = match duplex {
                Duplex::Full => "full",
                Duplex::Half => "half",
            };
            profile.put("802-3-ethernet", "duplex", word);
        }
    }

    /// With auto-negotiation on, speed and duplex are a wish that the partner may refuse.
    pub fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(section)) = tree.get_mut("ethernet") else {
            return;
        };
        if section.get("auto-negotiation") == Some(&Value::Bool(true)) {
            section.retain(|k, _| k != "speed" && k != "duplex");
        }
        if let Some(Value::Object(sriov)) = section.get_mut("sr-iov") {
            Sriov::normalise(sriov);
        }
    }

    /// Faults in what was written.
    pub fn validate(&self) -> Result<(), Invalid> {
        let sriov = self.sr_iov.as_ref().map_or(Ok(()), Sriov::validate);
        sriov.map_err(|e| e.under("ethernet.sr-iov"))
    }

    /// Says what the wish leaves out, and refuses what the card cannot do.
    pub fn complete(wish: &mut Option<Section>, current: &Option<Section>) -> Result<(), Invalid> {
        if let (Some(wish), Some(now)) = (wish.as_mut(), current) {
            wish.modes(now);
        }
        let Some(sriov) = wish.as_mut().and_then(|s| s.sr_iov.as_mut()) else {
            return Ok(());
        };
        let done = sriov.complete(current.as_ref().and_then(|s| s.sr_iov.as_ref()));
        done.map_err(|e| e.under("ethernet.sr-iov"))
    }

    /// NetworkManager switches auto-negotiation off only where it is given a speed and a duplex mode: those that are in force, then. With it on,
    /// they would be all that the card offers its partner: what was merely negotiated stays out.
    fn modes(&mut self, now: &Section) {
        match self.auto_negotiation {
            Some(false) => {
                self.speed = self.speed.or(now.speed);
                self.duplex = self.duplex.or(now.duplex);
            }
            Some(true) => {
                self.speed = self.speed.filter(|_| self.speed != now.speed);
                self.duplex = self.duplex.filter(|_| self.duplex != now.duplex);
            }
            None => {}
        }
    }

    fn sriov(section: &Option<Section>) -> Option<&Sriov> {
        section.as_ref()?.sr_iov.as_ref()
    }
}

impl Kind for Ethernet {
    const TYPE: &'static str = "ethernet";
    const SECTIONS: &'static [&'static str] = &["ethernet"];
    const NM_TYPE: &'static str = "802-3-ethernet";
    const VIRTUAL: bool = false;

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        Ethernet {
            ethernet: Section::from_facts(link, facts),
        }
    }

    fn validate(&self, _cx: &Context<'_>) -> Result<(), Invalid> {
        self.ethernet.as_ref().map_or(Ok(()), Section::validate)
    }

    fn complete(&mut self, current: Option<&Self>) -> Result<(), Invalid> {
        current.map_or(Ok(()), |now| Section::complete(&mut self.ethernet, &now.ethernet))
    }

    fn coming_vfs(&self, current: &Self) -> Range<u32> {
        let now = Section::sriov(&current.ethernet);
        Section::sriov(&self.ethernet).map_or(0..0, |wish| wish.coming(now))
    }

    fn to_link(profile: &Profile, link: &mut Link, _index: &dyn Fn(&str) -> Option<u32>) {
        Sriov::to_link(profile, link);
        let speed = profile.int("802-3-ethernet", "speed").filter(|s| *s > 0);
        link.speed = speed.and_then(|s| s.try_into().ok()).or(link.speed);
        let duplex = profile.str("802-3-ethernet", "duplex").map(str::to_owned);
        link.duplex = duplex.or(link.duplex.take());
        let on = profile.bool("802-3-ethernet", "auto-negotiate");
        link.ethtool.auto_negotiation = on.or(link.ethtool.auto_negotiation);
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        ((setting, key) == ("sriov", "autoprobe-drivers")).then_some(profile::Value::I32(-1))
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Ethernet { ethernet } = self;
        profile.ensure("802-3-ethernet");
        if let Some(section) = ethernet {
            section.to_profile(profile);
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        Section::normalise(tree);
    }
}
