//! VLANs of a bridge's port, or of a Linux bridge itself: access, trunk, native. Shared by all bridges.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::facts::VlanRange;
use crate::profile::{self, Dict};
use crate::scalar;

/// Section `vlan` of a port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vlan {
    /// `access` or `trunk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// VLAN id of untagged frames, 1–4094.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub tag: Option<u16>,
    /// On a trunk: untagged frames belong to `tag`.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub enable_native: Option<bool>,
    /// VLANs let through tagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_tags: Option<Vec<TrunkTag>>,
}

/// Mode of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One VLAN, untagged.
    Access,
    /// Many VLANs, tagged.
    Trunk,
}

/// One id or a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum TrunkTag {
    /// One VLAN.
    Id(u16),
    /// A run of VLANs.
    IdRange {
        /// First.
        min: u16,
        /// Last, inclusive.
        max: u16,
    },
}

impl TrunkTag {
    /// First and last.
    pub fn bounds(self) -> (u16, u16) {
        match self {
            TrunkTag::Id(id) => (id, id),
            TrunkTag::IdRange { min, max } => (min, max),
        }
    }
}

impl Vlan {
    /// `{}`: no filtering wanted.
    pub fn is_empty(&self) -> bool {
        *self == Vlan::default()
    }

    /// What the bridge gives every port by itself is no wish: `{}` for an access port in the default VLAN, a trunk without it as native.
    pub fn forget_default(&mut self, default_pvid: u16) {
        if self.tag == Some(default_pvid) {
            match self.trunk_tags.as_ref().is_some_and(|t| !t.is_empty()) {
                true => (self.tag, self.enable_native) = (None, None),
                false if self.enable_native != Some(true) => *self = Vlan::default(),
                false => {}
            }
        }
    }

    /// Reads what the kernel lets through. A port that only has the bridge's default PVID untagged says nothing.
    pub fn from_facts(ranges: &[VlanRange], default_pvid: u16) -> Option<Self> {
        let native = ranges.iter().find(|r| r.pvid && r.untagged).map(|r| r.first);
        let mut tagged: Vec<TrunkTag> = ranges
            .iter()
            .filter(|r| !r.untagged)
            .map(|r| {
                if r.first == r.last {
                    TrunkTag::Id(r.first)
                } else {
                    TrunkTag::IdRange {
                        min: r.first,
                        max: r.last,
                    }
                }
            })
            .collect();
        tagged.sort_by_key(|t| t.bounds());
        match (native, tagged.is_empty()) {
            (None, true) => None,
            (Some(id), true) if id == default_pvid => None,
            (Some(id), true) => Some(Vlan {
                mode: Some(Mode::Access),
                tag: Some(id),
                enable_native: None,
                trunk_tags: None,
            }),
            (native, false) => Some(Vlan {
                mode: Some(Mode::Trunk),
                tag: native.filter(|id| *id != default_pvid),
                enable_native: native.filter(|id| *id != default_pvid).map(|_| true),
                trunk_tags: Some(tagged),
            }),
        }
    }

    /// Rules of the section.
    pub fn validate(&self) -> Result<(), Invalid> {
        let Vlan {
            mode,
            tag,
            enable_native,
            trunk_tags,
        } = self;
        let ids = trunk_tags
            .iter()
            .flatten()
            .map(|t| t.bounds())
            .chain(tag.map(|t| (t, t)));
        for (low, high) in ids {
            if low == 0 || high > 4094 || low > high {
                return Err(Invalid::new("", format!("VLAN {low}–{high} is outside 1–4094")));
            }
        }
        let native = *enable_native == Some(true);
        let trunk = trunk_tags.as_ref().is_some_and(|t| !t.is_empty());
        match mode.unwrap_or(if trunk { Mode::Trunk } else { Mode::Access }) {
            Mode::Access if native => Err(Invalid::new(
                "enable-native",
                "an access port has no native VLAN; use mode trunk",
            )),
            Mode::Access if trunk => Err(Invalid::new(
                "trunk-tags",
                "an access port has no trunk tags; use mode trunk",
            )),
            Mode::Access if !self.is_empty() && tag.is_none() => Err(Invalid::new("tag", "an access port needs a tag")),
            Mode::Trunk if !trunk => Err(Invalid::new("trunk-tags", "a trunk port needs trunk-tags")),
            Mode::Trunk if tag.is_some() && !native => {
                Err(Invalid::new("tag", "a trunk port's tag needs enable-native: true"))
            }
            Mode::Trunk => self.overlap(),
            Mode::Access => Ok(()),
        }
    }

    fn overlap(&self) -> Result<(), Invalid> {
        let mut all: Vec<(u16, u16)> = self.trunk_tags.iter().flatten().map(|t| t.bounds()).collect();
        all.sort_unstable();
        match all.windows(2).find(|w| w[1].0 <= w[0].1) {
            Some(w) => Err(Invalid::new("trunk-tags", format!("VLAN {} is in two entries", w[1].0))),
            None => Ok(()),
        }
    }

    /// `bridge-port.vlans` or `bridge.vlans`.
    pub fn to_nm(&self) -> Vec<Dict> {
        let entry = |low: u16, high: u16, native: bool| {
            let mut d = Dict::new();
            d.insert("vid-start".into(), low.into());
            d.insert("vid-end".into(), high.into());
            d.insert("pvid".into(), native.into());
            d.insert("untagged".into(), native.into());
            d
        };
        let tagged = runs(self.trunk_tags.iter().flatten());
        let mut all: Vec<(u16, u16, bool)> = tagged.into_iter().map(|(low, high)| (low, high, false)).collect();
        all.extend(self.tag.map(|t| (t, t, true)));
        // as NetworkManager gives them back
        all.sort_unstable();
        all.into_iter()
            .map(|(low, high, native)| entry(low, high, native))
            .collect()
    }
}

/// Sorted and joined, so that two ways of writing the same set are one.
fn runs<'a>(tags: impl IntoIterator<Item = &'a TrunkTag>) -> Vec<(u16, u16)> {
    let mut all: Vec<(u16, u16)> = tags.into_iter().map(|t| t.bounds()).collect();
    all.sort_unstable();
    let mut joined: Vec<(u16, u16)> = vec![];
    for (low, high) in all {
        match joined.last_mut() {
            Some(last) if low == last.1 + 1 => last.1 = high,
            _ => joined.push((low, high)),
        }
    }
    joined
}

/// What the kernel shows of a port that NetworkManager gave these VLANs: they come on top of the default one, which they may take the PVID.
pub fn to_ranges(vlans: &[Dict], default_pvid: u16) -> Vec<VlanRange> {
    let number = |d: &Dict, key: &str| match d.get(key) {
        Some(profile::Value::U16(v)) => *v,
        _ => 0,
    };
    let on = |d: &Dict, key: &str| d.get(key) == Some(&profile::Value::Bool(true));
    let mut ranges: Vec<VlanRange> = vlans
        .iter()
        .map(|d| VlanRange {
            first: number(d, "vid-start"),
            last: number(d, "vid-end"),
            pvid: on(d, "pvid"),
            untagged: on(d, "untagged"),
        })
        .collect();
    let taken = |r: &VlanRange| (r.first..=r.last).contains(&default_pvid);
    if default_pvid != 0 && !ranges.iter().any(taken) {
        ranges.push(VlanRange {
            first: default_pvid,
            last: default_pvid,
            pvid: !ranges.iter().any(|r| r.pvid),
            untagged: true,
        });
    }
    ranges.sort_unstable();
    ranges
}

/// Brings key `vlan` of a port or bridge to one form: `{}` is none, and what is left out is not there, as a written map replaces the whole.
pub fn normalise_in(parent: &mut Map<String, Value>) {
    let Some(Value::Object(vlan)) = parent.get_mut("vlan") else {
        return;
    };
    normalise(vlan);
    if vlan.values().all(Value::is_null) {
        parent.insert("vlan".into(), Value::Null);
        return;
    }
    for key in ["tag", "enable-native", "trunk-tags"] {
        vlan.entry(key).or_insert(Value::Null);
    }
}

/// Trunk tags as sorted runs, so that two ways of writing the same set compare equal.
pub fn normalise(tree: &mut Map<String, Value>) {
    if let Some(tags) = tree
        .get("trunk-tags")
        .and_then(|t| serde_json::from_value::<Vec<TrunkTag>>(t.clone()).ok())
    {
        let text: Vec<Value> = runs(&tags)
            .iter()
            .map(|(l, h)| if l == h { l.to_string() } else { format!("{l}-{h}") }.into())
            .collect();
        tree.insert("trunk-tags".into(), text.into());
    }
    if tree.get("enable-native") == Some(&Value::Bool(false)) {
        tree.remove("enable-native");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vlan {
        serde_json::from_value(crate::yaml::read(text).unwrap()).unwrap()
    }

    #[test]
    fn rules_of_ports() {
        for good in [
            "{}",
            "{mode: access, tag: 5}",
            "{mode: trunk, trunk-tags: [{id: 5}, {id-range: {min: 7, max: 9}}]}",
            "{mode: trunk, tag: 3, enable-native: true, trunk-tags: [{id: 5}]}",
        ] {
            assert_eq!(parse(good).validate(), Ok(()), "{good}");
        }
        for bad in [
            "{mode: access}",
            "{mode: access, tag: 5, trunk-tags: [{id: 5}]}",
            "{mode: trunk}",
            "{mode: trunk, tag: 3, trunk-tags: [{id: 5}]}",
            "{mode: trunk, trunk-tags: [{id-range: {min: 2, max: 9}}, {id: 5}]}",
            "{mode: access, tag: 4095}",
        ] {
            assert!(parse(bad).validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn networkmanager_gets_them_in_its_own_order() {
        let vlan = parse("{mode: trunk, tag: 105, enable-native: true, trunk-tags: [{id: 101}]}");
        let first: Vec<_> = vlan.to_nm().iter().map(|d| d["vid-start"].clone()).collect();
        assert_eq!(first, [profile::Value::U16(101), profile::Value::U16(105)]);
    }

    #[test]
    fn a_native_trunk_is_read_back() {
        let range = |first, last, native| VlanRange {
            first,
            last,
            pvid: native,
            untagged: native,
        };
        let ranges = [range(2, 99, false), range(100, 100, true), range(101, 4094, false)];
        let seen = Vlan::from_facts(&ranges, 1).unwrap();
        assert_eq!((seen.tag, seen.enable_native), (Some(100), Some(true)));
        assert_eq!(Vlan::from_facts(&[range(1, 1, true)], 1), None);
        assert_eq!(Vlan::from_facts(&[range(5, 5, true)], 5), None);
        assert_eq!(Vlan::from_facts(&[range(1, 1, true)], 5).unwrap().tag, Some(1));
    }
}
