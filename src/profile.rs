//! A NetworkManager connection as a plain value: setting → key → value. Pure; `nm::codec` moves it over D-Bus.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One settings value. The variant decides the D-Bus signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `y`
    Byte(u8),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `s`
    Str(String),
    /// `ay`
    Bytes(Vec<u8>),
    /// `as`
    Strs(Vec<String>),
    /// `au`
    U32s(Vec<u32>),
    /// `a{ss}`
    StrMap(BTreeMap<String, String>),
    /// `a{sv}`
    Dict(Dict),
    /// `aa{sv}`
    Dicts(Vec<Dict>),
}

/// `a{sv}`
pub type Dict = BTreeMap<String, Value>;

macro_rules! from {
    ($($t:ty => $v:ident),* $(,)?) => { $(impl From<$t> for Value { fn from(v: $t) -> Self { Value::$v(v) } })* };
}
from!(bool => Bool, u8 => Byte, u16 => U16, i32 => I32, u32 => U32, i64 => I64, u64 => U64, String => Str, Vec<u8> => Bytes,
    Vec<String> => Strs, Vec<u32> => U32s, BTreeMap<String, String> => StrMap, Dict => Dict, Vec<Dict> => Dicts);

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Str(v.to_owned())
    }
}

/// A NetworkManager connection profile (`a{sa{sv}}`). Its `Debug` form leaves secrets out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// setting name → key → value
    pub settings: BTreeMap<String, Dict>,
}

/// Keys of secrets, in whichever setting.
const SECRETS: [&str; 6] = [
    "mka-cak",
    "password",
    "preshared-key",
    "private-key",
    "private-key-password",
    "secrets",
];

/// A dictionary without the values of secrets.
struct Told<'a>(&'a Dict);

impl fmt::Debug for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (key, value) in self.0 {
            match value {
                _ if SECRETS.contains(&key.as_str()) => map.entry(key, &"…"),
                Value::Dict(d) => map.entry(key, &Told(d)),
                Value::Dicts(list) => map.entry(key, &list.iter().map(Told).collect::<Vec<_>>()),
                value => map.entry(key, value),
            };
        }
        map.finish()
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.settings.iter().map(|(name, keys)| (name, Told(keys))))
            .finish()
    }
}

impl Profile {
    /// Sets a key, making its setting where needed.
    pub fn put(&mut self, setting: &str, key: &str, value: impl Into<Value>) {
        self.settings
            .entry(setting.to_owned())
            .or_default()
            .insert(key.to_owned(), value.into());
    }

    /// Sets a key, or removes it for None.
    pub fn put_opt(&mut self, setting: &str, key: &str, value: Option<impl Into<Value>>) {
        match value {
            Some(value) => self.put(setting, key, value),
            None => self.remove(setting, key),
        }
    }

    /// Makes sure that an empty setting is there (`veth`, `bridge`).
    pub fn ensure(&mut self, setting: &str) {
        self.settings.entry(setting.to_owned()).or_default();
    }

    /// Removes a key.
    pub fn remove(&mut self, setting: &str, key: &str) {
        if let Some(keys) = self.settings.get_mut(setting) {
            keys.remove(key);
        }
    }

    /// Removes a whole setting.
    pub fn remove_setting(&mut self, setting: &str) {
        self.settings.remove(setting);
    }

    /// Adds what GetSecrets says. Items of lists (peers of WireGuard) are matched by `public-key`.
    pub fn add_secrets(&mut self, secrets: Profile) {
        for (setting, keys) in secrets.settings {
            for (key, value) in keys {
                let slot = self.settings.entry(setting.clone()).or_default().entry(key);
                let known = match slot {
                    Entry::Vacant(slot) => {
                        slot.insert(value);
                        continue;
                    }
                    Entry::Occupied(slot) => slot.into_mut(),
                };
                match (known, value) {
                    (Value::Dicts(known), Value::Dicts(secret)) => {
                        for extra in secret {
                            let same = |d: &&mut Dict| d.get("public-key") == extra.get("public-key");
                            known
                                .iter_mut()
                                .find(same)
                                .into_iter()
                                .for_each(|d| d.extend(extra.clone()));
                        }
                    }
                    (known, value) => *known = value,
                }
            }
        }
    }

    /// A key's value.
    pub fn get(&self, setting: &str, key: &str) -> Option<&Value> {
        self.settings.get(setting)?.get(key)
    }

    /// A key's value where it is a string.
    pub fn str(&self, setting: &str, key: &str) -> Option<&str> {
        match self.get(setting, key)? {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// A key's value where it is a boolean.
    pub fn bool(&self, setting: &str, key: &str) -> Option<bool> {
        match self.get(setting, key)? {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// A key's value where it is any integer.
    pub fn int(&self, setting: &str, key: &str) -> Option<i64> {
        match self.get(setting, key)? {
            Value::I32(v) => Some((*v).into()),
            Value::U32(v) => Some((*v).into()),
            Value::I64(v) => Some(*v),
            Value::U64(v) => i64::try_from(*v).ok(),
            Value::Byte(v) => Some((*v).into()),
            Value::U16(v) => Some((*v).into()),
            _ => None,
        }
    }

    /// A key's value where it is a list of strings; empty otherwise.
    pub fn strs(&self, setting: &str, key: &str) -> &[String] {
        match self.get(setting, key) {
            Some(Value::Strs(v)) => v,
            _ => &[],
        }
    }

    /// A key's value where it is a map of texts.
    pub fn map(&self, setting: &str, key: &str) -> Option<&BTreeMap<String, String>> {
        match self.get(setting, key)? {
            Value::StrMap(v) => Some(v),
            _ => None,
        }
    }

    /// A text of ours that NetworkManager keeps without looking at it (`user.data`); keys have a dot in them.
    pub fn note(&self, key: &str) -> Option<&str> {
        Some(self.map("user", "data")?.get(key)?.as_str())
    }

    /// Keeps such a text; an empty one takes it away.
    pub fn put_note(&mut self, key: &str, text: &str) {
        let mut notes = self.map("user", "data").cloned().unwrap_or_default();
        match text {
            "" => notes.remove(key),
            text => notes.insert(key.to_owned(), text.to_owned()),
        };
        self.put("user", "data", notes);
    }

    /// The addresses of `ipv4` or `ipv6` (`address-data`), in its order.
    pub fn addresses(&self, setting: &str) -> impl Iterator<Item = IpNet> {
        let listed = self.dicts(setting, "address-data").iter();
        listed.filter_map(|d| match (d.get("address")?, d.get("prefix")?) {
            (Value::Str(ip), Value::U32(prefix)) => IpNet::new(ip.parse().ok()?, u8::try_from(*prefix).ok()?).ok(),
            _ => None,
        })
    }

    /// A key's value where it is a list of dictionaries; empty otherwise.
    pub fn dicts(&self, setting: &str, key: &str) -> &[Dict] {
        match self.get(setting, key) {
            Some(Value::Dicts(v)) => v,
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(key: &str, more: &[(&str, &str)]) -> Dict {
        let entries = [("public-key", key)].into_iter().chain(more.iter().copied());
        entries.map(|(k, v)| (k.to_owned(), v.into())).collect()
    }

    #[test]
    fn secrets_join_the_peers_they_belong_to() {
        let mut p = Profile::default();
        p.put("wireguard", "listen-port", 5u32);
        p.put(
            "wireguard",
            "peers",
            vec![peer("a", &[("endpoint", "x:1")]), peer("b", &[])],
        );
        let mut secrets = Profile::default();
        secrets.put("wireguard", "private-key", "own");
        secrets.put(
            "wireguard",
            "peers",
            vec![peer("b", &[("preshared-key", "hush")]), peer("c", &[])],
        );
        p.add_secrets(secrets);
        assert_eq!(p.str("wireguard", "private-key"), Some("own"));
        let want = [
            peer("a", &[("endpoint", "x:1")]),
            peer("b", &[("preshared-key", "hush")]),
        ];
        assert_eq!(p.dicts("wireguard", "peers"), want);
    }

    #[test]
    fn secrets_are_not_told_to_the_log() {
        let mut p = Profile::default();
        p.put("wireguard", "private-key", "hush1");
        p.put("wireguard", "peers", vec![peer("a", &[("preshared-key", "hush2")])]);
        p.put(
            "vpn",
            "secrets",
            BTreeMap::from([("pskvalue".to_owned(), "hush3".to_owned())]),
        );
        p.put("802-1x", "password", "hush4");
        p.put("macsec", "mka-cak", "hush5");
        let told = format!("{p:?}");
        assert!(told.contains("public-key") && !told.contains("hush"), "{told}");
    }
}
