//! `ovs-db`: free keys and values in the database of Open vSwitch. An interface or bridge has some, the node has some.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Part;
use crate::error::Invalid;
use crate::facts::{self, Facts, Link};
use crate::profile::{self, Profile};

/// Keys that stay unless they are named; None (`null`) deletes one; an empty map deletes all.
pub type Keys = BTreeMap<String, Option<String>>;

/// `ovs-db`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OvsIds {
    /// Notes of other programs.
    #[serde(default, deserialize_with = "keys", skip_serializing_if = "Option::is_none")]
    pub external_ids: Option<Keys>,
    /// Settings of Open vSwitch that have no column of their own.
    #[serde(default, deserialize_with = "keys", skip_serializing_if = "Option::is_none")]
    pub other_config: Option<Keys>,
}

/// Values are text in the database: numbers and booleans are taken as written.
fn keys<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Keys>, D::Error> {
    let Some(map) = Option::<BTreeMap<String, Value>>::deserialize(de)? else {
        return Ok(None);
    };
    let text = |(key, value): (String, Value)| match value {
        Value::Null => Ok((key, None)),
        Value::String(s) => Ok((key, Some(s))),
        Value::Number(_) | Value::Bool(_) => Ok((key, Some(value.to_string()))),
        other => Err(serde::de::Error::custom(format!("{key}: {other} is not a text"))),
    };
    map.into_iter().map(text).collect::<Result<Keys, _>>().map(Some)
}

/// Beginning of NetworkManager's own keys.
const OWN: &str = "NM.";

/// The settings that hold them in a profile, with the key of the document.
const SETTINGS: [(&str, &str); 2] = [
    ("ovs-external-ids", "external_ids"),
    ("ovs-other-config", "other_config"),
];

impl OvsIds {
    /// What a row has, without NetworkManager's own keys. Maps that are empty are there: users look into them.
    pub fn of(ids: &facts::OvsIds) -> Self {
        let shown = |map: &BTreeMap<String, String>| -> Option<Keys> {
            let kept = map.iter().filter(|(key, _)| !key.starts_with(OWN));
            Some(kept.map(|(k, v)| (k.clone(), Some(v.clone()))).collect())
        };
        OvsIds {
            external_ids: shown(&ids.external_ids),
            other_config: shown(&ids.other_config),
        }
    }

    /// Names no key.
    pub fn is_empty(&self) -> bool {
        self.maps().iter().all(|(_, keys)| keys.is_none_or(Keys::is_empty))
    }

    /// Both maps with their names.
    pub fn maps(&self) -> [(&'static str, Option<&Keys>); 2] {
        let OvsIds {
            external_ids,
            other_config,
        } = self;
        [
            ("external_ids", external_ids.as_ref()),
            ("other_config", other_config.as_ref()),
        ]
    }

    /// What a row made from this profile has.
    pub fn row(profile: &Profile) -> facts::OvsIds {
        let data = |setting: &str| match profile.get(setting, "data") {
            Some(profile::Value::StrMap(map)) => map.clone(),
            _ => BTreeMap::new(),
        };
        let mut ids = facts::OvsIds {
            external_ids: data("ovs-external-ids"),
            other_config: data("ovs-other-config"),
        };
        let uuid = profile.str("connection", "uuid").unwrap_or_default();
        ids.external_ids
            .insert("NM.connection.uuid".to_owned(), uuid.to_owned());
        ids
    }
}

/// `nm_setting_ovs_external_ids_check_key`.
fn storable(key: &str) -> bool {
    key.len() <= 255 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-./=_".contains(&b))
}

/// Takes them out of the profile of a card that is no port of Open vSwitch: NetworkManager refuses one that has them.
pub fn only_in_ovs(profile: &mut Profile) {
    let has = |key, what: &str| profile.str("connection", key).is_some_and(|t| t.starts_with(what));
    if !has("type", "ovs-") && !has("slave-type", "ovs-") {
        SETTINGS.iter().for_each(|(setting, _)| profile.remove_setting(setting));
    }
}

/// Lays the wish over what is: named keys change or go, an empty map empties.
pub fn merge(wish: &Keys, now: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    if wish.is_empty() {
        return BTreeMap::new();
    }
    let mut merged = now.clone();
    for (key, value) in wish {
        match value {
            Some(value) => merged.insert(key.clone(), value.clone()),
            None => merged.remove(key),
        };
    }
    merged
}

impl Part for OvsIds {
    const KEY: &'static str = "ovs-db";

    fn from_facts(link: &Link, facts: &Facts) -> Option<Self> {
        Some(OvsIds::of(&facts.ovs_interface(&link.name)?.ids))
    }

    fn validate(&self) -> Result<(), Invalid> {
        for (name, keys) in self.maps() {
            for key in keys.into_iter().flat_map(Keys::keys) {
                if key.is_empty() || key.starts_with(OWN) {
                    let why = "keys that begin with 'NM.' are NetworkManager's own, and none may be empty";
                    return Err(Invalid::new(format!("{name}.{key}"), why));
                }
            }
        }
        Ok(())
    }

    fn refuse_over(&self, current: Option<&Self>) -> Result<(), Invalid> {
        let now = current.map(Self::maps);
        for (at, (name, keys)) in self.maps().into_iter().enumerate() {
            let there = now.and_then(|maps| maps[at].1);
            let new = |(key, value): &(&String, &Option<String>)| there.and_then(|t| t.get(*key)) != Some(*value);
            let mut asked = keys.into_iter().flatten().filter(new);
            if let Some((key, _)) = asked.find(|(key, value)| value.is_some() && !storable(key)) {
                let why = "NetworkManager takes keys of up to 255 of A–Z a–z 0–9 and + - . / = _";
                return Err(Invalid::new(format!("{name}.{key}"), why));
            }
        }
        Ok(())
    }

    fn refuse_unsupported(&self, _link: Option<&Link>, facts: &Facts) -> Result<(), Invalid> {
        match self.other_config {
            Some(_) => facts.needs_nm("1.42", "other_config", "other_config of Open vSwitch"),
            None => Ok(()),
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        for ((setting, _), (_, wish)) in SETTINGS.iter().zip(self.maps()) {
            let Some(wish) = wish else { continue };
            let now = match profile.get(setting, "data") {
                Some(profile::Value::StrMap(map)) => map.clone(),
                _ => BTreeMap::new(),
            };
            let mut data = merge(wish, &now);
            // what others wrote into the database stays there without
            data.retain(|key, _| storable(key));
            match data {
                data if data.is_empty() => profile.remove_setting(setting),
                data => profile.put(setting, "data", data),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_text_and_null_deletes() {
        let read: OvsIds =
            serde_json::from_value(crate::yaml::read("{external_ids: {a: 1, b: true, c: null, d: x}}").unwrap())
                .unwrap();
        let wish = read.external_ids.unwrap();
        let now = BTreeMap::from([("c".to_owned(), "1".to_owned()), ("e".to_owned(), "2".to_owned())]);
        let want = [("a", "1"), ("b", "true"), ("d", "x"), ("e", "2")];
        assert_eq!(
            merge(&wish, &now),
            want.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
        assert_eq!(merge(&Keys::new(), &now), BTreeMap::new());
    }

    #[test]
    fn what_networkmanager_notes_for_itself_is_not_shown() {
        let ids = facts::OvsIds {
            external_ids: [("NM.connection.uuid".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        };
        assert!(OvsIds::of(&ids).is_empty());
    }
}
