//! A NetworkManager connection as a plain value: setting → key → value. Pure; `nm::codec` moves it over D-Bus.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// One settings value. The variant decides the D-Bus signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

/// A NetworkManager connection profile (`a{sa{sv}}`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// setting name → key → value
    pub settings: BTreeMap<String, Dict>,
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

    /// A key's value where it is a list of dictionaries; empty otherwise.
    pub fn dicts(&self, setting: &str, key: &str) -> &[Dict] {
        match self.get(setting, key) {
            Some(Value::Dicts(v)) => v,
            _ => &[],
        }
    }
}
