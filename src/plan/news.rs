//! What of a wish is not so already. What only repeats how things are is not made a setting: the whole of what `show` prints changes nothing.

use serde_json::Value;

use crate::profile::{Profile, Value as Setting};
use crate::state::iface::{Identifier, Interface};
use crate::state::tree;

use super::profiles::canonical;
use super::resolve::comparable;

/// What says which interface it is, or is no setting of its profile.
const IDENTITY: [&str; 8] = [
    "name",
    "type",
    "state",
    "identifier",
    "profile-name",
    "controller",
    "copy-mac-from",
    "alt-names",
];

/// Maps in which each key stands for itself; anything else is asked for as a whole.
const LOOSE: [&str; 7] = [
    "ethtool",
    "ethtool.feature",
    "ethtool.coalesce",
    "ethtool.ring",
    "bridge.options",
    "bridge.options.stp",
    "link-aggregation.options",
];

/// Stands for itself in a map that does not fall apart further.
const ALONE: [&str; 2] = ["ethernet.sr-iov", "macsec.offload"];

/// The wish without what it repeats. What makes a link of its type stays.
pub fn of(wish: &Interface, current: &Interface) -> Interface {
    let (want, now) = (comparable(wish), comparable(current));
    let sections = wish.kind.sections();
    let mut tree = wish.tree();
    tree.retain(|key, value| {
        let at = |tree: &serde_json::Map<String, Value>| tree.get(key).cloned().unwrap_or_default();
        let unit = key == "ethernet" || !sections.contains(&key.as_str());
        let finds = match wish.base.identifier {
            Some(Identifier::MacAddress) => key == "mac-address",
            Some(Identifier::PciAddress) => key == "pci-address",
            _ => false,
        };
        IDENTITY.contains(&key.as_str()) || finds || is_news(value, &at(&want), &at(&now), key, unit)
    });
    Interface::from_tree(Value::Object(tree)).unwrap_or_else(|_| wish.clone())
}

/// Cuts what is so already out of `value`; false where it is a `unit` of which nothing is left.
fn is_news(value: &mut Value, want: &Value, now: &Value, path: &str, unit: bool) -> bool {
    if unit && is_so(want, now) {
        return false;
    }
    let Value::Object(map) = value else { return true };
    let loose = LOOSE.contains(&path);
    let empty = map.is_empty();
    map.retain(|key, value| {
        let path = format!("{path}.{key}");
        let unit = loose || ALONE.contains(&path.as_str());
        is_news(value, &want[key], &now[key], &path, unit)
    });
    empty || !map.is_empty() || !(unit || loose)
}

fn is_so(want: &Value, now: &Value) -> bool {
    let mut missing = vec![];
    tree::missing(want, now, "", &mut missing);
    // an empty map may ask for everything to be reset
    missing.is_empty() && want.as_object().is_none_or(|map| !map.is_empty())
}

/// The profile of the whole wish without settings that `base` lacks and that are only in it because the wish repeats how things are:
/// `least` is the profile of what is news.
pub fn unpinned(mut whole: Profile, least: &Profile, base: &Profile) -> Profile {
    let held: Vec<String> = super::profiles::differing_keys(base, &whole);
    // addresses and method go together
    let settled = |setting: &str| {
        let mut keys = held.iter().filter_map(|k| k.strip_prefix(setting)?.strip_prefix('.'));
        matches!(setting, "ipv4" | "ipv6") && keys.any(|key| canonical(setting, key, base.get(setting, key)).is_some())
    };
    for (setting, keys) in &mut whole.settings {
        if settled(setting) {
            continue;
        }
        keys.retain(|key, value| {
            let (base, least) = (base.get(setting, key), least.get(setting, key));
            if let (Setting::StrMap(all), Some(Setting::StrMap(base)), Some(Setting::StrMap(least))) =
                (&mut *value, base, least)
            {
                all.retain(|k, _| base.contains_key(k) || least.contains_key(k));
            }
            // a list of virtual functions that is filled up with what they have
            let filled = setting == "sriov" && least == base;
            let unset = canonical(setting, key, base).is_none() && canonical(setting, key, least).is_none();
            let repeats = unset || filled;
            if let (true, Some(base)) = (repeats, base) {
                *value = base.clone();
            }
            !repeats || base.is_some()
        });
    }
    whole
}
