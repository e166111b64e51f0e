//! `lldp`: whether NetworkManager listens for neighbours, and who they are.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Part;
use crate::facts::{Facts, Link};
use crate::profile::{self, Dict, Profile};
use crate::scalar;

/// `lldp`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lldp {
    /// NetworkManager listens.
    #[serde(deserialize_with = "scalar::bool")]
    pub enabled: bool,
    /// Only read: who was heard, each a list of TLVs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbors: Option<Value>,
}

impl Part for Lldp {
    const KEY: &'static str = "lldp";

    fn from_facts(link: &Link, facts: &Facts) -> Option<Self> {
        let profile = facts.own_profile(&link.name)?;
        let enabled = profile.int("connection", "lldp") == Some(1);
        let heard = facts.device(&link.name).map_or(&[][..], |d| &d.lldp);
        let neighbors = enabled.then(|| heard.iter().map(neighbour).collect());
        Some(Lldp { enabled, neighbors })
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Lldp { enabled, neighbors: _ } = self;
        profile.put("connection", "lldp", i32::from(*enabled));
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        ((setting, key) == ("connection", "lldp")).then_some(profile::Value::I32(-1))
    }

    fn normalise(tree: &mut Value) {
        if let Value::Object(map) = tree {
            map.remove("neighbors");
        }
    }
}

/// Names of chassis id subtypes (IEEE 802.1AB, table 8-2), from 1.
const CHASSIS: [&str; 7] = [
    "Chassis component",
    "Interface alias",
    "Port component",
    "MAC address",
    "Network address",
    "Interface name",
    "Locally assigned",
];
/// Names of port id subtypes (IEEE 802.1AB, table 8-3), from 1.
const PORT: [&str; 7] = [
    "Interface alias",
    "Port component",
    "MAC address",
    "Network address",
    "Interface name",
    "Agent circuit ID",
    "Locally assigned",
];
/// Names of capabilities (IEEE 802.1AB, table 8-4), by bit.
const CAPABILITIES: [&str; 11] = [
    "Other",
    "Repeater",
    "MAC Bridge component",
    "802.11 Access Point (AP)",
    "Router",
    "Telephone",
    "DOCSIS cable device",
    "Station Only",
    "C-VLAN component",
    "S-VLAN component",
    "Two-port MAC Relay component",
];
/// Organisation codes of IEEE 802.1 and 802.3.
const OUI_1: &str = "00:80:c2";
const OUI_3: &str = "00:12:0f";

fn text(d: &Dict, key: &str) -> Option<String> {
    match d.get(key)? {
        profile::Value::Str(s) => Some(s.clone()),
        _ => None,
    }
}

fn number(d: &Dict, key: &str) -> Option<u32> {
    match d.get(key)? {
        profile::Value::U32(n) => Some(*n),
        profile::Value::Byte(n) => Some((*n).into()),
        _ => None,
    }
}

fn dicts<'a>(d: &'a Dict, key: &str) -> Option<&'a [Dict]> {
    match d.get(key)? {
        profile::Value::Dicts(list) => Some(list),
        _ => None,
    }
}

/// The TLVs of one neighbour, in the order in which they were always shown.
fn neighbour(d: &Dict) -> Value {
    let subtype = |names: &[&'static str], n: u32| names.get((n as usize).wrapping_sub(1)).copied();
    let id = |kind: u32, key: &str, names: &[&'static str]| {
        let of = number(d, &format!("{key}-type"))?;
        let mut tlv = json!({"type": kind, "_description": subtype(names, of).unwrap_or("Unknown")});
        tlv[key] = text(d, key)?.into();
        tlv[format!("{key}-type")] = of.into();
        Some(tlv)
    };
    let capabilities = |bits: u32| -> Vec<&str> {
        let set = |bit: &usize| bits >> bit & 1 == 1;
        (0..CAPABILITIES.len())
            .filter(set)
            .map(|bit| CAPABILITIES[bit])
            .collect()
    };
    let tlvs = [
        text(d, "system-name").map(|t| json!({"type": 5, "system-name": t})),
        text(d, "system-description").map(|t| json!({"type": 6, "system-description": t})),
        number(d, "system-capabilities").map(|b| json!({"type": 7, "system-capabilities": capabilities(b)})),
        id(1, "chassis-id", &CHASSIS),
        id(2, "port-id", &PORT),
        vlans(d).map(|v| json!({"type": 127, "ieee-802-1-vlans": v, "oui": OUI_1, "subtype": 3})),
        mac_phy(d).map(|v| json!({"type": 127, "ieee-802-3-mac-phy-conf": v, "oui": OUI_3, "subtype": 1})),
        ppvids(d).map(|v| json!({"type": 127, "ieee-802-1-ppvids": v, "oui": OUI_1, "subtype": 2})),
        addresses(d).map(|v| json!({"type": 8, "management-addresses": v})),
        number(d, "ieee-802-3-max-frame-size")
            .map(|n| json!({"type": 127, "ieee-802-3-max-frame-size": n, "oui": OUI_3, "subtype": 4})),
    ];
    tlvs.into_iter().flatten().collect()
}

fn vlans(d: &Dict) -> Option<Value> {
    let one = |d: &Dict| Some(json!({"name": text(d, "name")?, "vid": number(d, "vid")?}));
    Some(dicts(d, "ieee-802-1-vlans")?.iter().filter_map(one).collect())
}

fn ppvids(d: &Dict) -> Option<Value> {
    let one = |d: &Dict| number(d, "ppvid").map(Value::from);
    Some(dicts(d, "ieee-802-1-ppvids")?.iter().filter_map(one).collect())
}

fn mac_phy(d: &Dict) -> Option<Value> {
    let profile::Value::Dict(conf) = d.get("ieee-802-3-mac-phy-conf")? else {
        return None;
    };
    let n = |key: &str| number(conf, key).unwrap_or(0);
    Some(json!({
        "autoneg": n("autoneg") != 0,
        "operational-mau-type": n("operational-mau-type"),
        "pmd-autoneg-cap": n("pmd-autoneg-cap"),
    }))
}

fn addresses(d: &Dict) -> Option<Value> {
    Some(dicts(d, "management-addresses")?.iter().filter_map(address).collect())
}

/// An address by its family (IANA address family numbers: 1 IPv4, 2 IPv6, 6 all of IEEE 802).
fn address(d: &Dict) -> Option<Value> {
    let profile::Value::Bytes(bytes) = d.get("address")? else {
        return None;
    };
    let hex = || crate::scalar::mac_text(bytes);
    let family = number(d, "address-subtype")?;
    let (subtype, text) = match (family, bytes.len()) {
        (1, 4) => (
            "IPv4".to_owned(),
            <[u8; 4]>::try_from(&bytes[..])
                .ok()
                .map(|b| Ipv4Addr::from(b).to_string()),
        ),
        (2, 16) => (
            "IPv6".to_owned(),
            <[u8; 16]>::try_from(&bytes[..])
                .ok()
                .map(|b| Ipv6Addr::from(b).to_string()),
        ),
        (6, _) => ("MAC".to_owned(), Some(hex())),
        (other, _) => (other.to_string(), Some(hex())),
    };
    Some(json!({
        "address": text?,
        "address-subtype": subtype,
        "interface-number": number(d, "interface-number").unwrap_or(0),
        "interface-number-subtype": number(d, "interface-number-subtype").unwrap_or(0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Value as V;

    fn dict<const N: usize>(pairs: [(&str, V); N]) -> Dict {
        pairs.map(|(k, v)| (k.to_owned(), v)).into()
    }

    /// A switch that tells everything, as NetworkManager takes it apart.
    fn switch() -> Dict {
        let management = |family: u32, bytes: &[u8]| {
            dict([
                ("address-subtype", V::U32(family)),
                ("address", V::Bytes(bytes.to_vec())),
                ("interface-number", V::U32(1001)),
                ("interface-number-subtype", V::U32(2)),
            ])
        };
        dict([
            ("chassis-id-type", V::U32(4)),
            ("chassis-id", "00:01:30:F9:AD:A0".into()),
            ("port-id-type", V::U32(5)),
            ("port-id", "1/1".into()),
            ("destination", "nearest-bridge".into()),
            ("raw", V::Bytes(vec![1, 128, 194])),
            ("system-name", "rack7".into()),
            ("system-description", "a switch".into()),
            ("system-capabilities", V::U32(0b10100)),
            (
                "ieee-802-1-vlans",
                V::Dicts(vec![dict([("vid", V::U32(488)), ("name", "v488".into())])]),
            ),
            (
                "ieee-802-1-ppvids",
                V::Dicts(vec![dict([("ppvid", V::U32(7)), ("flags", V::U32(1))])]),
            ),
            (
                "ieee-802-3-mac-phy-conf",
                V::Dict(dict([
                    ("autoneg", V::U32(3)),
                    ("pmd-autoneg-cap", V::U32(27648)),
                    ("operational-mau-type", V::U32(16)),
                ])),
            ),
            ("ieee-802-3-max-frame-size", V::U32(1522)),
            (
                "management-addresses",
                V::Dicts(vec![
                    management(6, &[0, 1, 0x30, 0xf9, 0xad, 0xa0]),
                    management(1, &[192, 0, 2, 7]),
                    management(2, &Ipv6Addr::LOCALHOST.octets()),
                ]),
            ),
        ])
    }

    #[test]
    fn every_tlv_is_shown() {
        let shown = neighbour(&switch());
        let types: Vec<u64> = shown
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["type"].as_u64().unwrap())
            .collect();
        assert_eq!(types, [5, 6, 7, 1, 2, 127, 127, 127, 8, 127]);
        assert_eq!(
            shown[2]["system-capabilities"],
            json!(["MAC Bridge component", "Router"])
        );
        assert_eq!(
            shown[3],
            json!({"type": 1, "_description": "MAC address", "chassis-id": "00:01:30:F9:AD:A0", "chassis-id-type": 4})
        );
        assert_eq!(shown[4]["_description"], "Interface name");
        assert_eq!(shown[5]["ieee-802-1-vlans"], json!([{"name": "v488", "vid": 488}]));
        assert_eq!(shown[6]["ieee-802-3-mac-phy-conf"]["autoneg"], true);
        assert_eq!(shown[7]["ieee-802-1-ppvids"], json!([7]));
        let addresses = shown[8]["management-addresses"].as_array().unwrap();
        let texts: Vec<&str> = addresses.iter().map(|a| a["address"].as_str().unwrap()).collect();
        assert_eq!(texts, ["00:01:30:F9:AD:A0", "192.0.2.7", "::1"]);
        assert_eq!(addresses[1]["address-subtype"], "IPv4");
        assert_eq!(shown[9]["ieee-802-3-max-frame-size"], 1522);
    }

    #[test]
    fn a_neighbour_of_few_words() {
        let shy = dict([("chassis-id-type", V::U32(99)), ("chassis-id", "x".into())]);
        let expected = json!([{"type": 1, "_description": "Unknown", "chassis-id": "x", "chassis-id-type": 99}]);
        assert_eq!(neighbour(&shy), expected);
    }
}
