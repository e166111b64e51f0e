//! `type: hsr`: two links with every frame on both, so that one may break: HSR rings and PRP (IEC 62439-3). Section `hsr`.

use netlink_packet_route::link::{HsrProtocol, InfoData, InfoHsr};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Claim, Context, Kind, differs};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

/// Two links as one without a gap.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hsr {
    /// Ports and protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsr: Option<Section>,
}

/// Section `hsr`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// One link; it carries no IP of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port1: Option<String>,
    /// The other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port2: Option<String>,
    /// A third one that joins nodes without HSR to the ring; NetworkManager 1.56.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interlink: Option<String>,
    /// Last byte of the address to which supervision frames go.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub multicast_spec: Option<u8>,
    /// HSR by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only read: that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervision_address: Option<String>,
}

/// `protocol`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HSR of 2010, version 0.
    #[default]
    #[serde(alias = "hsr-2010")]
    Hsr,
    /// HSR of 2012, version 1; NetworkManager 1.56.
    #[serde(rename = "hsr-2012")]
    Hsr2012,
    /// Two separate networks.
    Prp,
}

/// `NM_SETTING_HSR_PROTOCOL_VERSION_HSR_2012`; -1 is the default.
const VERSION_2012: i32 = 1;

impl Section {
    fn links(&self) -> impl Iterator<Item = &String> {
        let Section {
            port1,
            port2,
            interlink,
            multicast_spec: _,
            protocol: _,
            supervision_address: _,
        } = self;
        [port1, port2, interlink].into_iter().flatten()
    }

    fn read(&mut self, info: &InfoHsr, name: &dyn Fn(u32) -> Option<String>) {
        match info {
            InfoHsr::Port1(index) => self.port1 = name(*index),
            InfoHsr::Port2(index) => self.port2 = name(*index),
            InfoHsr::Interlink(index) => self.interlink = name(*index),
            InfoHsr::SupervisionAddr(mac) => {
                self.supervision_address = Some(crate::scalar::mac_text(mac));
                self.multicast_spec = mac.last().copied();
            }
            InfoHsr::Protocol(HsrProtocol::Prp) => self.protocol = Some(Protocol::Prp),
            _ => {}
        }
    }
}

impl Kind for Hsr {
    const TYPE: &'static str = "hsr";
    const SECTIONS: &'static [&'static str] = &["hsr"];
    const NM_TYPE: &'static str = "hsr";
    const VIRTUAL: bool = true;

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let mut section = Section::default();
        // the kernel tells HSR from PRP, but not which version
        let version = facts
            .own_profile(&link.name)
            .and_then(|p| p.int("hsr", "protocol-version"));
        section.protocol = Some(match version {
            Some(v) if v == i64::from(VERSION_2012) => Protocol::Hsr2012,
            _ => Protocol::Hsr,
        });
        let name = |index: u32| facts.link_by_index(index).map(|l| l.name.clone());
        if let Some(InfoData::Hsr(infos)) = &link.data {
            infos.iter().for_each(|i| section.read(i, &name));
        }
        Hsr { hsr: Some(section) }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        let port = |key: &str| profile.str("hsr", key).and_then(index);
        let spec = profile
            .int("hsr", "multicast-spec")
            .and_then(|v| v.try_into().ok())
            .unwrap_or(0);
        let protocol = match profile.bool("hsr", "prp") {
            Some(true) => HsrProtocol::Prp,
            _ => HsrProtocol::Hsr,
        };
        let ports = port("port1").map(InfoHsr::Port1).into_iter();
        let ports = ports.chain(port("port2").map(InfoHsr::Port2));
        let infos = ports.chain(port("interlink").map(InfoHsr::Interlink)).chain([
            InfoHsr::SupervisionAddr([0x01, 0x15, 0x4e, 0x00, 0x01, spec]),
            InfoHsr::Protocol(protocol),
        ]);
        link.data = Some(InfoData::Hsr(infos.collect()));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let none = Section::default();
        let s = self.hsr.as_ref().unwrap_or(&none);
        for (key, port) in [("port1", &s.port1), ("port2", &s.port2)] {
            if cx.new && port.is_none() {
                return Err(Invalid::new(
                    format!("hsr.{key}"),
                    "a new HSR interface needs port1 and port2",
                ));
            }
        }
        let links: Vec<&String> = s.links().collect();
        if let Some((_, twice)) = links.iter().enumerate().find(|(i, l)| links[..*i].contains(l)) {
            return Err(Invalid::new("hsr", format!("{twice} is given twice as a port")));
        }
        if s.protocol == Some(Protocol::Prp) && s.interlink.is_some() {
            return Err(Invalid::new("hsr.interlink", "PRP has no interlink"));
        }
        Ok(())
    }

    fn claims(&self, _current: Option<&Self>, below: &[String]) -> Vec<Claim> {
        below.iter().map(|link| Claim::frames("hsr", link, None)).collect()
    }

    fn parents(&self) -> Vec<String> {
        self.hsr.iter().flat_map(Section::links).cloned().collect()
    }

    fn strips_ip(&self) -> Vec<String> {
        self.parents()
    }

    fn shares_mac(&self) -> bool {
        self.hsr.as_ref().and_then(|s| s.protocol) == Some(Protocol::Prp)
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        let Some(s) = &mut self.hsr else { return };
        [&mut s.port1, &mut s.port2, &mut s.interlink]
            .into_iter()
            .flatten()
            .for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Hsr { hsr } = self;
        profile.ensure("hsr");
        let Some(section) = hsr else { return };
        let Section {
            port1,
            port2,
            interlink,
            multicast_spec,
            protocol,
            supervision_address: _,
        } = section;
        for (key, port) in [("port1", port1), ("port2", port2), ("interlink", interlink)] {
            if let Some(port) = port {
                profile.put("hsr", key, port.clone());
            }
        }
        if let Some(spec) = multicast_spec {
            profile.put("hsr", "multicast-spec", u32::from(*spec));
        }
        if let Some(protocol) = protocol {
            profile.put("hsr", "prp", *protocol == Protocol::Prp);
            // without a version the kernel takes the first
            let version = (*protocol == Protocol::Hsr2012).then_some(VERSION_2012);
            profile.put_opt("hsr", "protocol-version", version);
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        ((setting, key) == ("hsr", "protocol-version")).then_some(profile::Value::I32(-1))
    }

    fn normalise(tree: &mut Map<String, Value>) {
        if let Some(Value::Object(section)) = tree.get_mut("hsr") {
            section.remove("supervision-address");
        }
    }

    /// All of it is set when the link is made.
    fn must_recreate(&self, current: &Self) -> bool {
        let (Some(wish), Some(now)) = (&self.hsr, &current.hsr) else {
            return false;
        };
        differs(&wish.port1, &now.port1)
            || differs(&wish.port2, &now.port2)
            || differs(&wish.interlink, &now.interlink)
            || differs(&wish.multicast_spec, &now.multicast_spec)
            || differs(&wish.protocol, &now.protocol)
    }

    fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        facts.needs_nm("1.46", "type", "an HSR interface")?;
        let Some(section) = &self.hsr else { return Ok(()) };
        if section.interlink.is_some() {
            facts.needs_nm("1.56", "hsr.interlink", "an interlink")?;
        }
        match section.protocol {
            Some(Protocol::Hsr2012) => facts.needs_nm("1.56", "hsr.protocol", "HSR of 2012"),
            _ => Ok(()),
        }
    }
}
