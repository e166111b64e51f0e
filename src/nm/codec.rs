//! `Profile` ⇄ `a{sa{sv}}`. The variant of a value decides its signature; DNS addresses are text on our side.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use zbus::{OwnedVariant, Variant};

use crate::profile::{Dict, Profile, Value};

use super::proxy::{OwnedSettings, Settings};

/// Second spellings of what `address-data`, `route-data` and `dns` say; sending both back would contradict ourselves.
const LEGACY: [&str; 4] = ["addresses", "routes", "dns-data", "address-labels"];

/// For AddConnection2 and Update2.
pub fn encode(profile: &Profile) -> Settings<'static> {
    let setting = |(name, keys): (&String, &Dict)| {
        let keys = keys
            .iter()
            .map(|(key, value)| (key.clone(), encode_key(name, key, value)))
            .collect();
        (name.clone(), keys)
    };
    profile.settings.iter().map(setting).collect()
}

fn encode_key(setting: &str, key: &str, value: &Value) -> Variant<'static> {
    match (setting, key, value) {
        // in_addr as the machine keeps it: network byte order in memory
        ("ipv4", "dns", Value::Strs(list)) => list
            .iter()
            .filter_map(|t| t.parse::<Ipv4Addr>().ok())
            .map(|ip| u32::from_ne_bytes(ip.octets()))
            .collect::<Vec<u32>>()
            .into(),
        ("ipv6", "dns", Value::Strs(list)) => list
            .iter()
            .filter_map(|t| t.parse::<Ipv6Addr>().ok())
            .map(|ip| ip.octets().to_vec())
            .collect::<Vec<Vec<u8>>>()
            .into(),
        (_, _, value) => variant(value),
    }
}

fn variant(value: &Value) -> Variant<'static> {
    match value {
        Value::Bool(v) => Variant::from(*v),
        Value::Byte(v) => Variant::from(*v),
        Value::U16(v) => Variant::from(*v),
        Value::I32(v) => Variant::from(*v),
        Value::U32(v) => Variant::from(*v),
        Value::I64(v) => Variant::from(*v),
        Value::U64(v) => Variant::from(*v),
        Value::Str(v) => Variant::from(v.clone()),
        Value::Bytes(v) => Variant::from(v.clone()),
        Value::Strs(v) => Variant::from(v.clone()),
        Value::U32s(v) => Variant::from(v.clone()),
        Value::StrMap(v) => Variant::from(v.clone()),
        Value::Dict(v) => Variant::from(dict(v)),
        Value::Dicts(v) => Variant::from(v.iter().map(dict).collect::<Vec<_>>()),
    }
}

fn dict(d: &Dict) -> HashMap<String, Variant<'static>> {
    d.iter().map(|(k, v)| (k.clone(), variant(v))).collect()
}

/// From GetSettings. Keys of a type that no NetworkManager setting has are left out.
pub fn decode(settings: &OwnedSettings) -> Profile {
    let mut profile = Profile::default();
    for (name, keys) in settings {
        profile.ensure(name);
        let ip = name == "ipv4" || name == "ipv6";
        for (key, value) in keys.iter().filter(|(key, _)| !(ip && LEGACY.contains(&key.as_str()))) {
            if let Some(value) = decode_key(name, key, value) {
                profile.put(name, key, value);
            }
        }
    }
    profile
}

fn decode_key(setting: &str, key: &str, value: &Variant<'_>) -> Option<Value> {
    match (setting, key, value) {
        ("ipv4", "dns", Variant::Array(list)) => {
            let ip = |v: &Variant| {
                if let Variant::U32(n) = v {
                    Some(Ipv4Addr::from(n.to_ne_bytes()).to_string())
                } else {
                    None
                }
            };
            Some(Value::Strs(list.iter().filter_map(ip).collect()))
        }
        ("ipv6", "dns", Variant::Array(list)) => {
            let ip = |v: &Variant| {
                <[u8; 16]>::try_from(bytes(v)?)
                    .ok()
                    .map(|b| Ipv6Addr::from(b).to_string())
            };
            Some(Value::Strs(list.iter().filter_map(ip).collect()))
        }
        _ => plain(value),
    }
}

fn bytes(value: &Variant<'_>) -> Option<Vec<u8>> {
    let Variant::Array(list) = value else { return None };
    list.iter()
        .map(|v| if let Variant::U8(b) = v { Some(*b) } else { None })
        .collect()
}

/// A value as it is; None for a type that settings do not have.
pub fn plain(value: &Variant<'_>) -> Option<Value> {
    Some(match value {
        Variant::Bool(v) => Value::Bool(*v),
        Variant::U8(v) => Value::Byte(*v),
        Variant::U16(v) => Value::U16(*v),
        Variant::I32(v) => Value::I32(*v),
        Variant::U32(v) => Value::U32(*v),
        Variant::I64(v) => Value::I64(*v),
        Variant::U64(v) => Value::U64(*v),
        Variant::Str(v) => Value::Str(v.to_string()),
        Variant::ObjectPath(v) => Value::Str(v.to_string()),
        Variant::Variant(v) => return plain(v),
        Variant::Array(list) => match list.element_signature().to_string().as_str() {
            "y" => Value::Bytes(bytes(value)?),
            "s" | "o" => Value::Strs(list.iter().filter_map(text).collect()),
            "u" => Value::U32s(
                list.iter()
                    .map(|v| if let Variant::U32(n) = v { Some(*n) } else { None })
                    .collect::<Option<_>>()?,
            ),
            "a{sv}" => Value::Dicts(list.iter().filter_map(dictionary).collect()),
            _ => return None,
        },
        Variant::Dict(d) => match d.signature().to_string().as_str() {
            "a{ss}" => Value::StrMap(
                d.iter()
                    .filter_map(|(k, v)| Some((text(k)?, text(v)?)))
                    .collect::<BTreeMap<_, _>>(),
            ),
            "a{sv}" => Value::Dict(dictionary(value)?),
            _ => return None,
        },
        _ => return None,
    })
}

fn text(value: &Variant<'_>) -> Option<String> {
    match value {
        Variant::Str(s) => Some(s.to_string()),
        Variant::ObjectPath(path) => Some(path.to_string()),
        _ => None,
    }
}

fn dictionary(value: &Variant<'_>) -> Option<Dict> {
    let Variant::Dict(d) = value else { return None };
    Some(d.iter().filter_map(|(k, v)| Some((text(k)?, plain(v)?))).collect())
}

/// A property as a plain value.
pub fn property(properties: &HashMap<String, OwnedVariant>, key: &str) -> Option<Value> {
    plain(properties.get(key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_comes_back() {
        let mut p = Profile::default();
        let entry: Dict = [
            ("vid-start".to_owned(), Value::U16(2)),
            ("pvid".to_owned(), Value::Bool(true)),
        ]
        .into();
        p.put("connection", "id", "br0");
        p.put("connection", "autoconnect", true);
        p.put("connection", "autoconnect-slaves", 1);
        p.put("bridge", "priority", 5u32);
        p.put("bridge", "multicast-query-interval", 12500u64);
        p.put("ipv4", "route-metric", -1i64);
        p.put("ipv4", "dns", vec!["192.0.2.53".to_owned()]);
        p.put("ipv6", "dns", vec!["2001:db8::53".to_owned()]);
        p.put("ipv4", "dns-search", vec!["a.example".to_owned()]);
        p.put("802-3-ethernet", "cloned-mac-address", vec![2u8, 0, 0, 0, 0, 1]);
        p.put("user", "data", BTreeMap::from([("k".to_owned(), "v".to_owned())]));
        p.put("bridge-port", "vlans", vec![entry]);
        p.ensure("veth");
        let owned: OwnedSettings = encode(&p)
            .into_iter()
            .map(|(s, keys)| {
                (
                    s,
                    keys.into_iter()
                        .map(|(k, v)| (k, OwnedVariant::try_from(v).expect("no file descriptor")))
                        .collect(),
                )
            })
            .collect();
        assert_eq!(decode(&owned), p);
    }
}
