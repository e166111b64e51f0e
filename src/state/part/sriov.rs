//! `ethernet.sr-iov`: virtual functions of a network card.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{ErrorKind, Invalid};
use crate::facts::{self, Link};
use crate::profile::{self, Dict, Profile};
use crate::scalar;

/// `NumVFs` of the SR-IOV capability has 16 bits (PCI Express, 9.3.3.7).
const MOST: u32 = 65535;

/// Section `sr-iov`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sriov {
    /// New virtual functions get a driver, and so an interface.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub drivers_autoprobe: Option<bool>,
    /// How many there are.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub total_vfs: Option<u32>,
    /// Only read: how many there may be.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_vfs: Option<u32>,
    /// Settings of single ones; those not named keep theirs. An empty list takes back all settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfs: Option<Vec<Vf>>,
}

/// One virtual function.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vf {
    /// Its number, from 0.
    #[serde(deserialize_with = "scalar::int")]
    pub id: u32,
    /// Only read: its interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iface_name: Option<String>,
    /// The address that it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Frames from other addresses are dropped.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub spoof_check: Option<bool>,
    /// It may change what the card does for it.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub trust: Option<bool>,
    /// Mb/s; 0 for none.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub min_tx_rate: Option<u32>,
    /// Mb/s; 0 for none.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_tx_rate: Option<u32>,
    /// 0–4095; 0 for none.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub vlan_id: Option<u32>,
    /// Priority in the tag, 0–7.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub qos: Option<u32>,
    /// The kind of tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan_proto: Option<VlanProto>,
}

/// `vlan-proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VlanProto {
    /// The usual one.
    #[serde(rename = "802.1q", alias = "802.1Q")]
    Q,
    /// The provider's outer tag.
    #[serde(rename = "802.1ad", alias = "802.1AD")]
    Ad,
}

impl Vf {
    fn from_facts(vf: &facts::Vf) -> Self {
        let facts::Vf {
            id,
            interface,
            mac,
            spoof_check,
            trust,
            min_tx_rate,
            max_tx_rate,
            vlan_id,
            qos,
            vlan_ad,
        } = vf.clone();
        Vf {
            id,
            iface_name: interface,
            mac_address: mac,
            spoof_check,
            trust,
            min_tx_rate,
            max_tx_rate,
            vlan_id,
            qos,
            vlan_proto: vlan_ad.map(|ad| if ad { VlanProto::Ad } else { VlanProto::Q }),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        if let Some(text) = self.mac_address.as_deref().filter(|t| scalar::mac(t).is_none()) {
            return Err(Invalid::new("mac-address", format!("'{text}' is not a MAC address")));
        }
        if let Some(id) = self.vlan_id.filter(|id| *id > 4095) {
            return Err(Invalid::new("vlan-id", format!("{id} is outside 0–4095")));
        }
        if let Some(qos) = self.qos.filter(|qos| *qos > 7) {
            return Err(Invalid::new("qos", format!("{qos} is outside 0–7")));
        }
        let tagged = self.vlan_id.unwrap_or(0) != 0 || self.qos.unwrap_or(0) != 0;
        if self.vlan_proto == Some(VlanProto::Ad) && !tagged {
            return Err(Invalid::new(
                "vlan-proto",
                "802.1ad needs a vlan-id or qos other than 0",
            ));
        }
        match (self.min_tx_rate, self.max_tx_rate) {
            (Some(min), Some(max)) if max != 0 && min > max => Err(Invalid::new(
                "min-tx-rate",
                format!("{min} is more than max-tx-rate {max}"),
            )),
            _ => Ok(()),
        }
    }

    /// Writes an entry of NetworkManager's `sriov.vfs` over the one there is.
    fn to_nm(&self, entry: &mut Dict) {
        let Vf {
            id,
            iface_name: _,
            mac_address,
            spoof_check,
            trust,
            min_tx_rate,
            max_tx_rate,
            vlan_id,
            qos,
            vlan_proto,
        } = self;
        let mut put = |key: &str, value: Option<profile::Value>| {
            entry.extend(value.map(|v| (key.to_owned(), v)));
        };
        put("index", Some((*id).into()));
        put("mac", mac_address.as_deref().and_then(scalar::mac).map(Into::into));
        put("spoof-check", spoof_check.map(Into::into));
        put("trust", trust.map(Into::into));
        put("min-tx-rate", min_tx_rate.map(Into::into));
        put("max-tx-rate", max_tx_rate.map(Into::into));
        if vlan_id.is_none() && qos.is_none() && vlan_proto.is_none() {
            return;
        }
        let mut vlan = match entry.remove("vlans") {
            Some(profile::Value::Dicts(list)) => list.into_iter().next().unwrap_or_default(),
            _ => Dict::new(),
        };
        let mut put = |key: &str, value: Option<u32>| vlan.extend(value.map(|v| (key.to_owned(), v.into())));
        put("id", *vlan_id);
        put("qos", *qos);
        // NM_SRIOV_VF_VLAN_PROTOCOL_*: 0 is 802.1Q, 1 is 802.1ad
        put("protocol", vlan_proto.map(|p| u32::from(p == VlanProto::Ad)));
        let none = |key: &str| matches!(vlan.get(key), None | Some(profile::Value::U32(0)));
        if !(none("id") && none("qos")) {
            // NetworkManager reads all three back
            for key in ["id", "qos", "protocol"] {
                vlan.entry(key.to_owned()).or_insert(0u32.into());
            }
            entry.insert("vlans".to_owned(), vec![vlan].into());
        }
    }

    /// What the kernel would show of an entry of `sriov.vfs`.
    fn to_fact(entry: &Dict, id: u32, interface: String) -> facts::Vf {
        let number = |d: &Dict, key: &str| match d.get(key) {
            Some(profile::Value::U32(n)) => *n,
            _ => 0,
        };
        let switch = |key: &str| match entry.get(key) {
            Some(profile::Value::Bool(on)) => Some(*on),
            _ => None,
        };
        let none = Dict::new();
        let vlan = match entry.get("vlans") {
            Some(profile::Value::Dicts(list)) => list.first().unwrap_or(&none),
            _ => &none,
        };
        facts::Vf {
            id,
            interface: Some(interface),
            mac: match entry.get("mac") {
                Some(profile::Value::Str(mac)) => Some(mac.clone()),
                _ => Some("00:00:00:00:00:00".to_owned()),
            },
            spoof_check: Some(switch("spoof-check").unwrap_or(true)),
            trust: Some(switch("trust").unwrap_or(false)),
            min_tx_rate: Some(number(entry, "min-tx-rate")),
            max_tx_rate: Some(number(entry, "max-tx-rate")),
            vlan_id: Some(number(vlan, "id")),
            qos: Some(number(vlan, "qos")),
            vlan_ad: Some(number(vlan, "protocol") == 1),
        }
    }
}

/// `sriov.vfs` of a profile by their number.
fn entries(profile: &Profile) -> BTreeMap<u32, Dict> {
    let index = |d: &Dict| match d.get("index") {
        Some(profile::Value::U32(n)) => Some(*n),
        _ => None,
    };
    let list = profile.dicts("sriov", "vfs").iter();
    list.filter_map(|d| Some((index(d)?, d.clone()))).collect()
}

impl Sriov {
    /// What the card says; None where it has no virtual functions to give.
    pub fn from_facts(link: &Link) -> Option<Self> {
        let facts::Sriov {
            most,
            count,
            autoprobe,
            vfs,
        } = link.sriov.as_ref()?;
        Some(Sriov {
            drivers_autoprobe: *autoprobe,
            total_vfs: Some(*count),
            max_vfs: Some(*most),
            vfs: Some(vfs.iter().map(Vf::from_facts).collect()),
        })
    }

    /// Faults that can be told without looking at the node.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(total) = self.total_vfs.filter(|t| *t > MOST) {
            return Err(Invalid::new(
                "total-vfs",
                format!("{total} is more than the {MOST} that PCI can count"),
            ));
        }
        let list = self.vfs.as_deref().unwrap_or_default();
        for (i, vf) in list.iter().enumerate() {
            let at = format!("vfs[{i}]");
            vf.validate().map_err(|e| e.under(&at))?;
            if list[..i].iter().any(|other| other.id == vf.id) {
                return Err(Invalid::new(
                    format!("{at}.id"),
                    format!("virtual function {} is listed twice", vf.id),
                ));
            }
            if let Some(total) = self.total_vfs.filter(|total| vf.id >= *total) {
                let why = format!("{} is beyond total-vfs {total}; they are counted from 0", vf.id);
                return Err(Invalid::new(format!("{at}.id"), why));
            }
        }
        Ok(())
    }

    /// Says what the wish leaves out but NetworkManager must be told, and refuses what the card cannot do.
    pub fn complete(&mut self, current: Option<&Sriov>) -> Result<(), Invalid> {
        let Some(now) = current else {
            let why = "this interface has no virtual functions to give";
            return Err(Invalid::of(ErrorKind::NotSupportedError, "", why));
        };
        if let (Some(total), Some(most)) = (self.total_vfs, now.max_vfs)
            && total > most
        {
            let why = format!("{total} is more than the {most} that the hardware has");
            return Err(Invalid::new("total-vfs", why));
        }
        // NetworkManager takes a number left out for 0 and would remove them all
        self.total_vfs = self.total_vfs.or(now.total_vfs);
        if self.total_vfs.is_none() && self.vfs.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(Invalid::new(
                "total-vfs",
                "it is needed where nobody knows how many the card has",
            ));
        }
        self.max_vfs = None;
        self.validate()
    }

    /// Virtual functions that will come into being, and with them interfaces.
    pub fn coming(&self, current: Option<&Sriov>) -> Range<u32> {
        let now = current.and_then(|c| c.total_vfs).unwrap_or(0);
        let autoprobe = self.drivers_autoprobe.or(current.and_then(|c| c.drivers_autoprobe));
        let wanted = self.total_vfs.unwrap_or(now);
        match autoprobe {
            Some(false) => 0..0,
            // a driver makes them all anew when their number changes
            _ if wanted != now => 0..wanted,
            _ => 0..0,
        }
    }

    /// Writes `sriov`.
    pub fn to_profile(&self, profile: &mut Profile) {
        let Sriov {
            drivers_autoprobe,
            total_vfs,
            max_vfs: _,
            vfs,
        } = self;
        if let Some(on) = drivers_autoprobe {
            profile.put("sriov", "autoprobe-drivers", i32::from(*on));
        }
        if let Some(total) = total_vfs {
            profile.put("sriov", "total-vfs", *total);
        }
        let mut list = entries(profile);
        match vfs.as_deref() {
            Some([]) => list.clear(),
            wishes => (wishes.into_iter().flatten()).for_each(|vf| vf.to_nm(list.entry(vf.id).or_default())),
        }
        list.retain(|id, _| total_vfs.is_none_or(|total| *id < total));
        match list.is_empty() {
            true => profile.remove("sriov", "vfs"),
            false => profile.put("sriov", "vfs", list.into_values().collect::<Vec<Dict>>()),
        }
    }

    /// What the kernel would show of a card with this profile.
    pub fn to_link(profile: &Profile, link: &mut Link) {
        let Some(sriov) = link.sriov.as_mut().filter(|_| profile.settings.contains_key("sriov")) else {
            return;
        };
        let number = |key: &str| profile.int("sriov", key);
        sriov.count = number("total-vfs").and_then(|n| n.try_into().ok()).unwrap_or(0);
        match number("autoprobe-drivers") {
            Some(0) => sriov.autoprobe = Some(false),
            Some(1) => sriov.autoprobe = Some(true),
            _ => {}
        }
        let list = entries(profile);
        let none = Dict::new();
        let name = |id: u32| format!("{}v{id}", link.name);
        sriov.vfs = (0..sriov.count)
            .map(|id| Vf::to_fact(list.get(&id).unwrap_or(&none), id, name(id)))
            .collect();
        if sriov.autoprobe == Some(false) {
            sriov.vfs.iter_mut().for_each(|vf| vf.interface = None);
        }
    }

    /// Brings the section to the form in which wish and reading are compared: virtual functions by number.
    pub fn normalise(section: &mut Map<String, Value>) {
        section.remove("max-vfs");
        let Some(Value::Array(list)) = section.remove("vfs") else {
            return;
        };
        let mut by_id = Map::new();
        for mut vf in list {
            if let Value::Object(map) = &mut vf {
                map.remove("iface-name");
                let id = map.remove("id").unwrap_or_default();
                if let Some(Value::String(mac)) = map.get_mut("mac-address") {
                    *mac = scalar::mac(mac).unwrap_or_default();
                }
                by_id.insert(id.to_string(), vf);
            }
        }
        // an empty list asks for nothing that could be compared
        if !by_id.is_empty() {
            section.insert("vfs".into(), Value::Object(by_id));
        }
    }
}
