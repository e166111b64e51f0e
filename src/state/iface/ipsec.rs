//! `type: ipsec`: a VPN by Libreswan, run by NetworkManager's plug-in of that name. Section `libreswan`. It is no link of the kernel;
//! its name is that of its profile.

use std::collections::BTreeMap;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{AnyKind, Base, Context, Interface, Kind, State};
use crate::error::Invalid;
use crate::facts::{Facts, Link, SavedProfile};
use crate::profile::Profile;
use crate::scalar::{self, Secret, Space};
use crate::state::part::{Parts, ip::Ip};

/// A VPN by Libreswan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ipsec {
    /// Both ends and how they prove who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libreswan: Option<Section>,
}

/// Section `libreswan`: texts under the names of ipsec.conf(5), which are also those of the plug-in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Section {
    /// Everything but the key; the keys are of `KEYS`.
    pub data: BTreeMap<&'static str, String>,
    /// Pre-shared key.
    pub psk: Option<Secret>,
}

/// What the plug-in takes (nm-settings-libreswan(5)); the first is needed.
const KEYS: &[&str] = &[
    "right",
    "rightid",
    "rightrsasigkey",
    "rightcert",
    "rightsubnet",
    "rightsubnets",
    "rightca",
    "rightprotoport",
    "left",
    "leftid",
    "leftrsasigkey",
    "leftcert",
    "leftsubnet",
    "leftsubnets",
    "leftmodecfgclient",
    "leftsendcert",
    "leftprotoport",
    "ikev2",
    "ikelifetime",
    "salifetime",
    "ike",
    "esp",
    "dpddelay",
    "dpdtimeout",
    "dpdaction",
    "ipsec-interface",
    "authby",
    "type",
    "hostaddrfamily",
    "clientaddrfamily",
    "require-id-on-certificate",
    "nm-auto-defaults",
];
const SERVICE: &str = "org.freedesktop.NetworkManager.libreswan";
/// The plug-in's name for the pre-shared key.
const PSK: &str = "pskvalue";
/// It fills in what a road warrior usually wants, unless told otherwise.
const AUTO: &str = "nm-auto-defaults";

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let Section { data, psk } = self;
        let mut map = serializer.serialize_map(None)?;
        for key in KEYS {
            match data.get(key) {
                Some(text) if *key == AUTO => map.serialize_entry(key, &(text != "no"))?,
                Some(text) => map.serialize_entry(key, text)?,
                None => {}
            }
        }
        if let Some(psk) = psk {
            map.serialize_entry("psk", psk)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let mut section = Section::default();
        for (key, value) in Map::deserialize(de)? {
            if key == "psk" {
                section.psk = serde_json::from_value(value).map_err(|e| de::Error::custom(format!("psk: {e}")))?;
                continue;
            }
            let Some(known) = KEYS.iter().find(|k| **k == key) else {
                return Err(de::Error::custom(format!("unknown key '{key}'")));
            };
            let text = scalar::opt_text(value).map_err(|e| de::Error::custom(format!("{key}: {e}")))?;
            section.data.extend(text.map(|t| (*known, t)));
        }
        Ok(section)
    }
}

impl Section {
    fn of(profile: &Profile) -> Self {
        let none = BTreeMap::new();
        let stored = profile.map("vpn", "data").unwrap_or(&none);
        let texts = KEYS.iter().filter_map(|k| Some((*k, stored.get(*k)?.clone())));
        let mut data: BTreeMap<&'static str, String> = texts.collect();
        data.entry(AUTO).or_insert_with(|| "yes".to_owned());
        let psk = profile.map("vpn", "secrets").and_then(|s| s.get(PSK)).cloned();
        Section {
            data,
            psk: psk.map(Secret),
        }
    }
}

fn is_ours(saved: &SavedProfile) -> bool {
    saved.profile.str("connection", "type") == Some("vpn") && saved.profile.str("vpn", "service-type") == Some(SERVICE)
}

/// What is known of a VPN's addresses is only how it gets them.
fn ip_of(profile: &Profile, section: &str) -> Ip {
    match profile.str(section, "method") {
        Some("disabled" | "ignore") => Ip::disabled(),
        _ => Ip {
            enabled: Some(true),
            dhcp: Some(true),
            ..Ip::default()
        },
    }
}

fn interface(saved: &SavedProfile, facts: &Facts) -> Option<Interface> {
    let id = saved.id()?;
    // NM_ACTIVE_CONNECTION_STATE_ACTIVATED
    let up = facts.vpns.iter().any(|a| a.uuid == saved.uuid() && a.state == 2);
    Some(Interface {
        base: Base {
            description: Base::description(&saved.profile),
            name: id.name,
            state: Some(if up { State::Up } else { State::Down }),
            ..Base::default()
        },
        ipv4: Some(ip_of(&saved.profile, "ipv4")),
        ipv6: Some(ip_of(&saved.profile, "ipv6")),
        parts: Parts::default(),
        kind: AnyKind::Ipsec(Ipsec {
            libreswan: Some(Section::of(&saved.profile)),
        }),
    })
}

impl Kind for Ipsec {
    const TYPE: &'static str = "ipsec";
    const SECTIONS: &'static [&'static str] = &["libreswan"];
    const NM_TYPE: &'static str = "vpn";
    const VIRTUAL: bool = true;
    const SPACE: Space = Space::Vpn;
    const LINK_SETTING: &'static str = "";
    const SECRETS: &'static [&'static str] = &["libreswan/psk"];

    fn is_ethernet(&self) -> bool {
        false
    }

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        Ipsec::default()
    }

    /// Every profile of the plug-in: up where it is active. Of two with one name the active one counts.
    fn beyond_links(facts: &Facts) -> Vec<Interface> {
        let mut all: BTreeMap<String, Interface> = BTreeMap::new();
        for saved in facts.profiles.iter().filter(|p| is_ours(p)) {
            let Some(found) = interface(saved, facts) else { continue };
            let known = all.get(found.name());
            if found.is_up() || known.is_none() {
                all.insert(found.name().to_owned(), found);
            }
        }
        all.into_values().collect()
    }

    fn from_profile(profile: &Profile) -> Self {
        Ipsec {
            libreswan: Some(Section::of(profile)),
        }
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let right = self.libreswan.as_ref().and_then(|s| s.data.get("right"));
        if right.is_none_or(String::is_empty) && (cx.new || right.is_some()) {
            return Err(Invalid::new(
                "libreswan.right",
                "the other end is needed: a name, an address or %any",
            ));
        }
        let texts = self.libreswan.iter().flat_map(|s| &s.data);
        if let Some((key, _)) = texts.into_iter().find(|(_, t)| t.contains(['"', '\n'])) {
            let why = "quotes and line breaks are not allowed";
            return Err(Invalid::new(format!("libreswan.{key}"), why));
        }
        match self.libreswan.as_ref().and_then(|s| s.psk.as_ref()) {
            Some(Secret(psk)) if psk.contains(['"', '\n']) => {
                let why = "quotes and line breaks are not allowed";
                Err(Invalid::new("libreswan.psk", why))
            }
            _ => Ok(()),
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Ipsec { libreswan } = self;
        profile.put("vpn", "service-type", SERVICE);
        let Some(section) = libreswan else { return };
        let Section { data, psk } = section;
        let mut stored = profile.map("vpn", "data").cloned().unwrap_or_default();
        for (key, text) in data {
            match text.as_str() {
                "" => stored.remove(*key),
                "yes" if *key == AUTO => stored.remove(*key),
                text => stored.insert((*key).to_owned(), text.to_owned()),
            };
        }
        if let Some(Secret(psk)) = psk {
            let mut secrets = profile.map("vpn", "secrets").cloned().unwrap_or_default();
            secrets.insert(PSK.to_owned(), psk.clone());
            profile.put("vpn", "secrets", secrets);
            // NM_SETTING_SECRET_FLAG_NONE: NetworkManager keeps it
            stored.insert(format!("{PSK}-flags"), "0".to_owned());
        }
        profile.put("vpn", "data", stored);
    }

    fn normalise(tree: &mut Map<String, Value>) {
        for family in ["ipv4", "ipv6"] {
            if let Some(Value::Object(ip)) = tree.get_mut(family) {
                ip.retain(|key, _| key == "enabled");
            }
        }
        if let Some(Value::Object(section)) = tree.get_mut("libreswan") {
            for value in section.values_mut().filter(|v| v.as_str() == Some("")) {
                *value = Value::Null;
            }
        }
    }
}
