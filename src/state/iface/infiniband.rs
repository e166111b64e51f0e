//! `type: infiniband`: IP over InfiniBand, a card or a child of it with its own partition key. Section `infiniband`.

use netlink_packet_route::link::{InfoData, InfoIpoib, IpoibMode};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

/// IP over InfiniBand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Infiniband {
    /// Mode and partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infiniband: Option<Section>,
}

/// Section `infiniband`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// `datagram` or `connected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The card of a child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_iface: Option<String>,
    /// Partition key; 0xffff is the card's own. Bit 0x8000, full membership, is always set by the kernel.
    #[serde(
        default,
        deserialize_with = "pkey",
        serialize_with = "as_hex",
        skip_serializing_if = "Option::is_none"
    )]
    pub pkey: Option<u16>,
}

/// `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Small packets, no connections.
    Datagram,
    /// Large packets over connections.
    Connected,
}

/// The card itself.
const OWN: u16 = 0xffff;
/// Full membership.
const FULL: u16 = 0x8000;
/// `ARPHRD_INFINIBAND`.
const ARPHRD: u16 = 32;
/// `IFNAMSIZ` without the zero.
const NAME: usize = 15;

fn pkey<'de, D: Deserializer<'de>>(de: D) -> Result<Option<u16>, D::Error> {
    match scalar::opt_int(de)? {
        Some(key) => Ok(Some(key)),
        None => Err(de::Error::custom("a partition key is needed, such as 0x8001")),
    }
}

fn as_hex<S: Serializer>(key: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(key) => serializer.serialize_str(&format!("{key:#06x}")),
        None => serializer.serialize_none(),
    }
}

/// The kernel names children so (`ipoib_vlan_add`), and cuts what is too long.
fn child_name(base: &str, key: u16) -> String {
    let mut name = format!("{base}.{key:04x}");
    name.truncate(NAME);
    name
}

impl Section {
    fn is_child(&self) -> bool {
        self.base_iface.is_some() && self.pkey.is_some_and(|key| key != OWN)
    }
}

impl Kind for Infiniband {
    const TYPE: &'static str = "infiniband";
    const SECTIONS: &'static [&'static str] = &["infiniband"];
    const NM_TYPE: &'static str = "infiniband";
    const VIRTUAL: bool = false;
    const LINK_SETTING: &'static str = "infiniband";
    const LINK_KIND: &'static str = "ipoib";

    fn is_virtual(&self) -> bool {
        self.infiniband.as_ref().is_some_and(Section::is_child)
    }

    fn is_ethernet(&self) -> bool {
        false
    }

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let base = link.parent.filter(|i| *i != link.index);
        let mut section = Section {
            base_iface: base.and_then(|i| facts.link_by_index(i)).map(|l| l.name.clone()),
            ..Section::default()
        };
        if let Some(InfoData::Ipoib(infos)) = &link.data {
            for info in infos {
                match info {
                    InfoIpoib::Pkey(key) => section.pkey = Some(*key),
                    InfoIpoib::Mode(IpoibMode::Datagram) => section.mode = Some(Mode::Datagram),
                    InfoIpoib::Mode(IpoibMode::Connected) => section.mode = Some(Mode::Connected),
                    _ => {}
                }
            }
        }
        Infiniband {
            infiniband: Some(section),
        }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        let key = profile.int("infiniband", "p-key").and_then(|k| u16::try_from(k).ok());
        let mode = match profile.str("infiniband", "transport-mode") {
            Some("connected") => IpoibMode::Connected,
            _ => IpoibMode::Datagram,
        };
        link.arphrd = ARPHRD;
        link.parent = profile.str("infiniband", "parent").and_then(index);
        link.data = Some(InfoData::Ipoib(vec![
            InfoIpoib::Pkey(key.map_or(OWN, |k| k | FULL)),
            InfoIpoib::Mode(mode),
        ]));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let Some(s) = &self.infiniband else { return Ok(()) };
        if let Some(key) = s.pkey.filter(|k| k & !FULL == 0) {
            return Err(Invalid::new(
                "infiniband.pkey",
                format!("{key:#06x} is no key of a partition"),
            ));
        }
        match (&s.base_iface, s.pkey) {
            (Some(base), Some(key)) if key != OWN => {
                let right = child_name(base, key);
                match cx.name == right || !cx.new {
                    true => Ok(()),
                    false => Err(Invalid::new(
                        "name",
                        format!("the kernel calls the child of {base} with key {key:#06x} {right}"),
                    )),
                }
            }
            (Some(_), None) if cx.new => Err(Invalid::new("infiniband.pkey", "a new child needs a partition key")),
            (None, Some(key)) if cx.new && key != OWN => Err(Invalid::new(
                "infiniband.base-iface",
                format!("with key {key:#06x} it is the child of a card, which must be named"),
            )),
            _ => Ok(()),
        }
    }

    fn parents(&self) -> Vec<String> {
        let children = self.infiniband.iter().filter(|s| s.pkey != Some(OWN));
        children.filter_map(|s| s.base_iface.clone()).collect()
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        self.infiniband
            .iter_mut()
            .filter_map(|s| s.base_iface.as_mut())
            .for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Infiniband { infiniband } = self;
        let none = Section::default();
        let Section { mode, base_iface, pkey } = infiniband.as_ref().unwrap_or(&none);
        let word = match mode {
            Some(Mode::Datagram) => Some("datagram"),
            Some(Mode::Connected) => Some("connected"),
            // NetworkManager insists on one
            None if profile.str("infiniband", "transport-mode").is_none() => Some("datagram"),
            None => None,
        };
        if let Some(word) = word {
            profile.put("infiniband", "transport-mode", word);
        }
        match pkey {
            Some(key) if *key != OWN && (base_iface.is_some() || profile.get("infiniband", "parent").is_some()) => {
                // the kernel makes any membership a full one
                let same = |now: i64| now | i64::from(FULL) == i64::from(*key | FULL);
                if !profile.int("infiniband", "p-key").is_some_and(same) {
                    profile.put("infiniband", "p-key", i32::from(*key));
                }
            }
            Some(_) => {
                profile.remove("infiniband", "p-key");
                profile.remove("infiniband", "parent");
            }
            None => {}
        }
        if let Some(base) = base_iface.as_ref().filter(|_| *pkey != Some(OWN)) {
            profile.put("infiniband", "parent", base.clone());
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        ((setting, key) == ("infiniband", "p-key")).then_some(profile::Value::I32(-1))
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(section)) = tree.get_mut("infiniband") else {
            return;
        };
        let text = section.get("pkey").and_then(Value::as_str);
        let number = text
            .and_then(|t| t.strip_prefix("0x"))
            .and_then(|h| u16::from_str_radix(h, 16).ok());
        if let Some(key) = number {
            section.insert("pkey".to_owned(), format!("{:#06x}", key | FULL).into());
            if key == OWN {
                section.remove("base-iface");
            }
        }
    }
}
