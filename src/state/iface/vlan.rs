//! `type: vlan`: one VLAN of a link below. Section `vlan`.

use netlink_packet_route::link::{InfoData, InfoVlan, VlanFlags, VlanProtocol, VlanQosMapping};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Claim, Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

/// One VLAN of a link.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    /// Which VLAN, of which link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Section>,
}

/// Section `vlan`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// The link below; may be left out where the VLAN exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_iface: Option<String>,
    /// 0–4094.
    #[serde(deserialize_with = "scalar::int")]
    pub id: u16,
    /// `802.1q` or `802.1ad`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Tell switches which VLAN we are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_protocol: Option<Registration>,
    /// Frames look untagged to the node; default true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub reorder_headers: Option<bool>,
    /// Stay up when the link below is down.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub loose_binding: Option<bool>,
    /// Priority in the tag to priority on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_qos_map: Option<Vec<Qos>>,
    /// Priority on the node to priority in the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_qos_map: Option<Vec<Qos>>,
}

/// `protocol`: the kind of tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// The usual one.
    #[serde(rename = "802.1q", alias = "802.1Q")]
    Q,
    /// The provider's outer tag.
    #[serde(rename = "802.1ad", alias = "802.1AD")]
    Ad,
}

/// `registration-protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Registration {
    /// GVRP.
    Gvrp,
    /// MVRP.
    Mvrp,
    /// Neither.
    None,
}

/// One entry of a QoS map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Qos {
    /// Looked for.
    #[serde(deserialize_with = "scalar::int")]
    pub from: u32,
    /// Given.
    #[serde(deserialize_with = "scalar::int")]
    pub to: u32,
}

/// Bits of NetworkManager's `vlan.flags`, the kernel's `VLAN_FLAG_*`.
const REORDER: u32 = 1;
const GVRP: u32 = 2;
const LOOSE: u32 = 4;
const MVRP: u32 = 8;

impl Section {
    fn from_info(info: &[InfoVlan], base_iface: Option<String>) -> Self {
        let mut s = Section {
            base_iface,
            protocol: Some(Protocol::Q),
            // the kernel says nothing of flags where none is set (`vlan_fill_info`)
            reorder_headers: Some(false),
            loose_binding: Some(false),
            registration_protocol: Some(Registration::None),
            ..Section::default()
        };
        for item in info {
            match item {
                InfoVlan::Id(id) => s.id = *id,
                InfoVlan::Protocol(VlanProtocol::Ieee8021Ad) => s.protocol = Some(Protocol::Ad),
                InfoVlan::Flags((flags, _)) => {
                    s.reorder_headers = Some(flags.contains(VlanFlags::ReorderHdr));
                    s.loose_binding = Some(flags.contains(VlanFlags::LooseBinding));
                    s.registration_protocol = Some(match () {
                        () if flags.contains(VlanFlags::Gvrp) => Registration::Gvrp,
                        () if flags.contains(VlanFlags::Mvrp) => Registration::Mvrp,
                        () => Registration::None,
                    });
                }
                InfoVlan::IngressQos(map) => s.ingress_qos_map = Some(qos_from_kernel(map)),
                InfoVlan::EgressQos(map) => s.egress_qos_map = Some(qos_from_kernel(map)),
                _ => {}
            }
        }
        s
    }

    /// The flags after the wish; bits that it does not speak of stay as the profile has them.
    fn flags(&self, before: u32) -> u32 {
        let mut flags = before;
        let mut set = |bit: u32, on: bool| flags = if on { flags | bit } else { flags & !bit };
        if let Some(on) = self.reorder_headers {
            set(REORDER, on);
        }
        if let Some(on) = self.loose_binding {
            set(LOOSE, on);
        }
        if let Some(protocol) = self.registration_protocol {
            set(GVRP, protocol == Registration::Gvrp);
            set(MVRP, protocol == Registration::Mvrp);
        }
        flags
    }
}

fn qos_from_kernel(map: &[VlanQosMapping]) -> Vec<Qos> {
    let mut all: Vec<Qos> = map
        .iter()
        .filter_map(|m| match m {
            VlanQosMapping::Mapping(from, to) => Some(Qos { from: *from, to: *to }),
            _ => None,
        })
        // the kernel keeps a mapping to 0 where one was taken away
        .filter(|q| q.to != 0)
        .collect();
    all.sort();
    all
}

impl Kind for Vlan {
    const TYPE: &'static str = "vlan";
    const SECTIONS: &'static [&'static str] = &["vlan"];
    const NM_TYPE: &'static str = "vlan";
    const VIRTUAL: bool = true;

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let below = link.parent.and_then(|i| facts.link_by_index(i));
        let vlan = match &link.data {
            Some(InfoData::Vlan(info)) => Some(Section::from_info(info, below.map(|l| l.name.clone()))),
            _ => None,
        };
        Vlan { vlan }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        let number = |key: &str| profile.int("vlan", key);
        let qos = |key: &str| -> Vec<VlanQosMapping> {
            let pairs = profile.strs("vlan", key).iter().filter_map(|t| t.split_once(':'));
            pairs
                .filter_map(|(from, to)| Some(VlanQosMapping::Mapping(from.parse().ok()?, to.parse().ok()?)))
                .collect()
        };
        let flags = number("flags").and_then(|f| f.try_into().ok()).unwrap_or(REORDER);
        let protocol = match profile.str("vlan", "protocol") {
            Some("802.1ad") => VlanProtocol::Ieee8021Ad,
            _ => VlanProtocol::Ieee8021Q,
        };
        link.parent = profile.str("vlan", "parent").and_then(index);
        let mut info = vec![
            InfoVlan::Id(number("id").and_then(|v| v.try_into().ok()).unwrap_or(0)),
            InfoVlan::Protocol(protocol),
        ];
        // the kernel tells of flags and of a map that have something in them (`vlan_fill_info`)
        if flags != 0 {
            let flags = VlanFlags::from_bits_retain(flags);
            info.push(InfoVlan::Flags((flags, VlanFlags::all())));
        }
        let ingress = Some(qos("ingress-priority-map")).filter(|map| !map.is_empty());
        let egress = Some(qos("egress-priority-map")).filter(|map| !map.is_empty());
        info.extend(ingress.map(InfoVlan::IngressQos));
        info.extend(egress.map(InfoVlan::EgressQos));
        link.data = Some(InfoData::Vlan(info));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let Some(s) = &self.vlan else {
            return match cx.new {
                true => Err(Invalid::new("vlan", "a new VLAN needs vlan.id and vlan.base-iface")),
                false => Ok(()),
            };
        };
        if s.base_iface.is_none() && cx.new {
            return Err(Invalid::new("vlan.base-iface", "a new VLAN needs the link below"));
        }
        if s.id > 4094 {
            return Err(Invalid::new("vlan.id", format!("{} is outside 0–4094", s.id)));
        }
        // a tag has three bits for the priority
        for (key, map, tag) in [
            (
                "ingress-qos-map",
                &s.ingress_qos_map,
                (|q: &Qos| q.from) as fn(&Qos) -> u32,
            ),
            ("egress-qos-map", &s.egress_qos_map, |q: &Qos| q.to),
        ] {
            if let Some((i, q)) = map.iter().flatten().enumerate().find(|(_, q)| tag(q) > 7) {
                return Err(Invalid::new(
                    format!("vlan.{key}[{i}]"),
                    format!("priority {} of the tag is outside 0–7", tag(q)),
                ));
            }
        }
        Ok(())
    }

    /// `vlan_find_dev` in `vlan_check_real_dev`.
    fn claims(&self, current: Option<&Self>, below: &[String]) -> Vec<Claim> {
        let now = current.and_then(|c| c.vlan.as_ref());
        let Some(s) = self.vlan.as_ref().or(now) else {
            return vec![];
        };
        let tag = match s.protocol.or(now.and_then(|n| n.protocol)) {
            Some(Protocol::Ad) => " (802.1ad)",
            _ => "",
        };
        let claim = |link: &String| Claim {
            path: "vlan.id",
            what: format!("VLAN {}{tag} of {link}", s.id),
            with: None,
        };
        below.iter().map(claim).collect()
    }

    fn parents(&self) -> Vec<String> {
        self.vlan.iter().filter_map(|v| v.base_iface.clone()).collect()
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        self.vlan.iter_mut().filter_map(|v| v.base_iface.as_mut()).for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Vlan { vlan } = self;
        profile.ensure("vlan");
        let Some(section) = vlan else { return };
        let Section {
            base_iface,
            id,
            protocol,
            registration_protocol: _, // a bit of the flags, like the next two
            reorder_headers: _,
            loose_binding: _,
            ingress_qos_map,
            egress_qos_map,
        } = section;
        if let Some(parent) = base_iface {
            profile.put("vlan", "parent", parent.clone());
        }
        profile.put("vlan", "id", u32::from(*id));
        let before = profile
            .int("vlan", "flags")
            .and_then(|f| f.try_into().ok())
            .unwrap_or(REORDER);
        profile.put("vlan", "flags", section.flags(before));
        if let Some(protocol) = protocol {
            let word = match protocol {
                Protocol::Q => "802.1Q",
                Protocol::Ad => "802.1ad",
            };
            profile.put("vlan", "protocol", word);
        }
        for (key, map) in [
            ("ingress-priority-map", ingress_qos_map),
            ("egress-priority-map", egress_qos_map),
        ] {
            if let Some(map) = map {
                let pairs: Vec<String> = map.iter().map(|q| format!("{}:{}", q.from, q.to)).collect();
                profile.put("vlan", key, pairs);
            }
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        match (setting, key) {
            ("vlan", "flags") => Some(profile::Value::U32(REORDER)),
            ("vlan", "protocol") => Some(profile::Value::Str("802.1Q".to_owned())),
            _ => None,
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(section)) = tree.get_mut("vlan") else {
            return;
        };
        for key in ["ingress-qos-map", "egress-qos-map"] {
            let Some(value) = section.get_mut(key) else { continue };
            if let Value::Array(map) = value {
                map.retain(|q| q.get("to") != Some(&0.into()));
                map.sort_by_key(|q| q.get("from").and_then(Value::as_u64));
                // the kernel does not show a map that is empty
                if map.is_empty() {
                    *value = Value::Null;
                }
            }
        }
    }

    /// The kernel changes neither on a link that exists.
    fn must_recreate(&self, current: &Self) -> bool {
        let (Some(wish), Some(now)) = (&self.vlan, &current.vlan) else {
            return false;
        };
        let other = |wish: &Option<String>, now: &Option<String>| wish.is_some() && wish != now;
        wish.id != now.id
            || (wish.protocol.is_some() && wish.protocol != now.protocol)
            || other(&wish.base_iface, &now.base_iface)
    }
}
