//! `type: ethernet`: hardware. Section `ethernet`: auto-negotiation, speed, duplex.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Kind;
use crate::facts::{Facts, Link};
use crate::profile::Profile;
use crate::scalar;

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
    /// Reads speed and duplex of a link; auto-negotiation where the profile sets it.
    pub fn from_facts(link: &Link, facts: &Facts) -> Option<Self> {
        let profile = facts.active_profile(&link.name).map(|p| &p.profile);
        let section = Section {
            auto_negotiation: profile.and_then(|p| p.bool("802-3-ethernet", "auto-negotiate")),
            speed: link.speed,
            duplex: link.duplex.as_deref().and_then(|d| match d {
                "full" => Some(Duplex::Full),
                "half" => Some(Duplex::Half),
                _ => None,
            }),
        };
        (section != Section::default()).then_some(section)
    }

    /// Writes `802-3-ethernet`.
    pub fn to_profile(&self, profile: &mut Profile) {
        let Section {
            auto_negotiation,
            speed,
            duplex,
        } = self;
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
        if let Some(Value::Object(section)) = tree.get_mut("ethernet")
            && section.get("auto-negotiation") == Some(&Value::Bool(true))
        {
            section.retain(|k, _| k == "auto-negotiation");
        }
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
