//! `type: macsec`: encrypted Ethernet (IEEE 802.1AE) over a link below, keys by MKA with a pre-shared key. Section `macsec`.

use netlink_packet_route::link::{InfoData, InfoMacSec, MacSecOffload, MacSecValidate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Claim, Context, Kind, differs, told};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar::{self, Secret};

/// Encrypted Ethernet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Macsec {
    /// Link below and keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macsec: Option<Section>,
}

/// Section `macsec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// Encrypt what is sent, or only sign it; NetworkManager's default is true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub encrypt: Option<bool>,
    /// The link below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_iface: Option<String>,
    /// Connectivity association key: 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mka_cak: Option<Secret>,
    /// Name of that key: 2–64 hexadecimal digits, an even number.
    #[serde(
        default,
        deserialize_with = "scalar::opt_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub mka_ckn: Option<String>,
    /// Port in the secure channel's identifier, 1–65534. 0 is NetworkManager's own choice, which is 1; shown as 0 where it was left to it.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub port: Option<u16>,
    /// What happens to frames that are not valid; default strict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// The identifier is in every frame; default true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub send_sci: Option<bool>,
    /// Let the hardware do it; NetworkManager 1.46.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<Offload>,
}

/// `validation`; the numbers are the kernel's and NetworkManager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Validation {
    /// Frames are not looked at.
    Disabled = 0,
    /// They are counted and let through.
    Check = 1,
    /// They are dropped.
    Strict = 2,
}

/// `offload`; the numbers are the kernel's and NetworkManager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// The kernel does it.
    Off = 0,
    /// The PHY does it.
    Phy = 1,
    /// The MAC does it.
    Mac = 2,
}

/// Where a profile names none (nm-settings-nmcli(5)).
const NM_PORT: u16 = 1;

/// The port that is meant.
fn port_of(written: u16) -> u16 {
    if written == 0 { NM_PORT } else { written }
}

impl Section {
    fn read(&mut self, info: &InfoMacSec) {
        match info {
            InfoMacSec::Encrypt(on) => self.encrypt = Some(*on != 0),
            // the identifier is the MAC address and the port, in the order of the network
            InfoMacSec::Sci(sci) => {
                let [.., high, low] = sci.to_ne_bytes();
                self.port = Some(u16::from_be_bytes([high, low]));
            }
            InfoMacSec::IncSci(on) => self.send_sci = Some(*on != 0),
            InfoMacSec::Validation(v) => {
                self.validation = match v {
                    MacSecValidate::Disabled => Some(Validation::Disabled),
                    MacSecValidate::Check => Some(Validation::Check),
                    MacSecValidate::Strict => Some(Validation::Strict),
                    _ => None,
                }
            }
            InfoMacSec::Offload(v) => {
                self.offload = match v {
                    MacSecOffload::Off => Some(Offload::Off),
                    MacSecOffload::Phy => Some(Offload::Phy),
                    MacSecOffload::Mac => Some(Offload::Mac),
                    _ => None,
                }
            }
            _ => {}
        }
    }

    /// The keys, which only the profile knows.
    fn read_profile(&mut self, profile: &Profile) {
        let text = |key: &str| profile.str("macsec", key).filter(|t| !t.is_empty());
        self.mka_cak = text("mka-cak").map(|t| Secret(t.to_owned()));
        self.mka_ckn = text("mka-ckn").map(str::to_owned);
    }

    fn validate_keys(&self, new: bool) -> Result<(), Invalid> {
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        match (&self.mka_cak, &self.mka_ckn) {
            (None, None) if new => {
                return Err(Invalid::new(
                    "macsec.mka-cak",
                    "a new MACsec link needs mka-cak and mka-ckn: NetworkManager makes none without a key",
                ));
            }
            (Some(_), None) if new => return Err(Invalid::new("macsec.mka-ckn", "mka-cak needs mka-ckn as well")),
            (None, Some(_)) if new => return Err(Invalid::new("macsec.mka-cak", "mka-ckn needs mka-cak as well")),
            _ => {}
        }
        if let Some(cak) = told(&self.mka_cak)
            && (cak.len() != 32 || !hex(cak))
        {
            return Err(Invalid::new("macsec.mka-cak", "the key must be 32 hexadecimal digits"));
        }
        if let Some(ckn) = &self.mka_ckn
            && (!(2..=64).contains(&ckn.len()) || ckn.len() % 2 != 0 || !hex(ckn))
        {
            let why = "the key's name must be 2 to 64 hexadecimal digits, an even number of them";
            return Err(Invalid::new("macsec.mka-ckn", why));
        }
        Ok(())
    }
}

impl Kind for Macsec {
    const TYPE: &'static str = "macsec";
    const SECTIONS: &'static [&'static str] = &["macsec"];
    const NM_TYPE: &'static str = "macsec";
    const VIRTUAL: bool = true;
    const SECRETS: &'static [&'static str] = &["macsec/mka-cak"];

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let mut section = Section {
            base_iface: link.parent.and_then(|i| facts.link_by_index(i)).map(|l| l.name.clone()),
            ..Section::default()
        };
        if let Some(InfoData::MacSec(infos)) = &link.data {
            infos.iter().for_each(|i| section.read(i));
        }
        if let Some(profile) = facts.own_profile(&link.name) {
            section.read_profile(profile);
            section.port = section.port.filter(|p| *p != NM_PORT).or(Some(0));
        }
        Macsec { macsec: Some(section) }
    }

    fn from_profile(profile: &Profile) -> Self {
        let mut section = Section::default();
        section.read_profile(profile);
        Macsec { macsec: Some(section) }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        let on = |key: &str| u8::from(profile.bool("macsec", key).unwrap_or(true));
        let number = |key: &str| profile.int("macsec", key).and_then(|v| u8::try_from(v).ok());
        let port: u16 = profile
            .int("macsec", "port")
            .and_then(|v| v.try_into().ok())
            .unwrap_or(NM_PORT);
        let [high, low] = port.to_be_bytes();
        link.parent = profile.str("macsec", "parent").and_then(index);
        link.data = Some(InfoData::MacSec(vec![
            InfoMacSec::Sci(u64::from_ne_bytes([2, 0, 0, 0, 0, 1, high, low])),
            InfoMacSec::Encrypt(on("encrypt")),
            InfoMacSec::IncSci(on("send-sci")),
            InfoMacSec::Validation(number("validation").unwrap_or(2).into()),
            InfoMacSec::Offload(number("offload").unwrap_or(0).into()),
        ]));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let none = Section::default();
        let s = self.macsec.as_ref().unwrap_or(&none);
        if cx.new && s.base_iface.is_none() {
            return Err(Invalid::new(
                "macsec.base-iface",
                "a new MACsec link needs the link below",
            ));
        }
        if let Some(port) = s.port.filter(|p| *p > 65534) {
            return Err(Invalid::new("macsec.port", format!("{port} is outside 0–65534")));
        }
        s.validate_keys(cx.new)
    }

    /// The identifier of a secure channel is the address of the link below and the port (`macsec_newlink`).
    fn claims(&self, current: Option<&Self>, below: &[String]) -> Vec<Claim> {
        let port = |m: &Self| m.macsec.as_ref().and_then(|s| s.port);
        let port = port_of(port(self).or(current.and_then(port)).unwrap_or_default());
        let channel = |link: &String| Claim {
            path: "macsec.port",
            what: format!("MACsec port {port} of {link}"),
            with: None,
        };
        let frames = |link: &String| Claim::frames("macsec.base-iface", link, Some("macsec"));
        below.iter().flat_map(|link| [frames(link), channel(link)]).collect()
    }

    fn parents(&self) -> Vec<String> {
        self.macsec.iter().filter_map(|s| s.base_iface.clone()).collect()
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        self.macsec.iter_mut().filter_map(|s| s.base_iface.as_mut()).for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Macsec { macsec } = self;
        profile.ensure("macsec");
        let Some(section) = macsec else { return };
        let Section {
            encrypt,
            base_iface,
            mka_cak,
            mka_ckn,
            port,
            validation,
            send_sci,
            offload,
        } = section;
        profile.put("macsec", "mode", 0); // NM_SETTING_MACSEC_MODE_PSK
        for (key, on) in [("encrypt", encrypt), ("send-sci", send_sci)] {
            if let Some(on) = on {
                profile.put("macsec", key, *on);
            }
        }
        for (key, text) in [("parent", base_iface), ("mka-ckn", mka_ckn)] {
            if let Some(text) = text {
                profile.put("macsec", key, text.clone());
            }
        }
        if let Some(Secret(cak)) = mka_cak {
            profile.put("macsec", "mka-cak", cak.clone());
            profile.put("macsec", "mka-cak-flags", 0u32);
        }
        for (key, number) in [
            ("port", port.map(|p| i32::from(port_of(p)))),
            ("validation", validation.map(|v| v as i32)),
            ("offload", offload.map(|v| v as i32)),
        ] {
            if let Some(number) = number {
                profile.put("macsec", key, number);
            }
        }
    }

    /// One number for NetworkManager's own port.
    fn normalise(tree: &mut Map<String, Value>) {
        if let Some(port) = tree
            .get_mut("macsec")
            .and_then(|m| m.get_mut("port"))
            .filter(|p| **p == 0)
        {
            *port = NM_PORT.into();
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        match (setting, key) {
            ("macsec", "encrypt" | "send-sci") => Some(profile::Value::Bool(true)),
            ("macsec", "port") => Some(profile::Value::I32(NM_PORT.into())),
            ("macsec", "validation") => Some(profile::Value::I32(2)),
            ("macsec", "offload") => Some(profile::Value::I32(-1)),
            _ => None,
        }
    }

    /// The kernel takes all of it when the link is made, and wpa_supplicant its keys when it starts.
    fn must_recreate(&self, current: &Self) -> bool {
        let (Some(wish), Some(now)) = (&self.macsec, &current.macsec) else {
            return false;
        };
        differs(&wish.encrypt, &now.encrypt)
            || differs(&wish.base_iface, &now.base_iface)
            || differs(&wish.mka_cak, &now.mka_cak)
            || differs(&wish.mka_ckn, &now.mka_ckn)
            || differs(&wish.port.map(port_of), &now.port.map(port_of))
            || differs(&wish.validation, &now.validation)
            || differs(&wish.send_sci, &now.send_sci)
            || differs(&wish.offload, &now.offload)
    }

    /// Off is what an older NetworkManager leaves it at.
    fn skip_unsupported(&mut self, facts: &Facts) -> Option<String> {
        let section = self.macsec.as_mut().filter(|_| !facts.nm_at_least("1.46"))?;
        section.offload.take_if(|o| *o == Offload::Off)?;
        None
    }

    fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        match self.macsec.as_ref().and_then(|s| s.offload) {
            Some(Offload::Phy | Offload::Mac) => facts.needs_nm("1.46", "macsec.offload", "MACsec in hardware"),
            _ => Ok(()),
        }
    }
}
