//! Node-wide `ovs-db`: free keys and values of the one row of table `Open_vSwitch`. Keys stay unless they are named;
//! `null` deletes one, an empty map all. The key in which OVN keeps its mappings is section `ovn`'s.

use std::collections::BTreeMap;

use crate::error::Invalid;
use crate::facts::Facts;

use super::ovn;
use super::part::Part;
use super::part::ovs_ids::{self, Keys, OvsIds};

/// Why nothing of Open vSwitch can be done.
pub const SILENT: &str = "Open vSwitch does not answer at /run/openvswitch/db.sock; is it installed and running (openvswitch-switch, openvswitch)?";

/// Faults that can be told without looking at the node.
pub fn validate(ids: &OvsIds) -> Result<(), Invalid> {
    ids.validate()?;
    let named = ids
        .external_ids
        .as_ref()
        .is_some_and(|keys| keys.contains_key(ovn::KEY));
    match named {
        true => Err(Invalid::new(
            format!("external_ids.{}", ovn::KEY),
            "this key is written as ovn.bridge-mappings",
        )),
        false => Ok(()),
    }
}

/// What the row has; None where Open vSwitch does not answer.
pub fn from_facts(facts: &Facts) -> Option<OvsIds> {
    let shown = |map: &BTreeMap<String, String>| -> Option<Keys> {
        let kept = map.iter().filter(|(key, _)| *key != ovn::KEY);
        Some(kept.map(|(k, v)| (k.clone(), Some(v.clone()))).collect())
    };
    let ids = &facts.ovs.as_ref()?.ids;
    Some(OvsIds {
        external_ids: shown(&ids.external_ids),
        other_config: shown(&ids.other_config),
    })
}

/// A section that names neither map purges both, as `{}` does in every other place.
pub fn whole(wish: OvsIds) -> OvsIds {
    match (&wish.external_ids, &wish.other_config) {
        (None, None) => OvsIds {
            external_ids: Some(Keys::new()),
            other_config: Some(Keys::new()),
        },
        _ => wish,
    }
}

/// What of a map differs from the wish: the value that each key is to have, None for those that are to go.
pub fn change(wish: Option<&Keys>, now: &BTreeMap<String, String>) -> Keys {
    let Some(wish) = wish else { return Keys::new() };
    let merged = ovs_ids::merge(wish, now);
    let all = merged.keys().chain(now.keys()).filter(|key| *key != ovn::KEY);
    all.filter(|key| merged.get(*key) != now.get(*key))
        .map(|key| (key.clone(), merged.get(key).cloned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_leaves_what_belongs_to_ovn() {
        let now: BTreeMap<String, String> = [("a", "1"), (ovn::KEY, "p:br0")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        assert_eq!(change(Some(&Keys::new()), &now), Keys::from([("a".to_owned(), None)]));
        let same = Keys::from([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]);
        assert_eq!(change(Some(&same), &now), Keys::new());
    }
}
