//! `lldp`: listening for neighbours, and who they are.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Part;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
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
        Some(Lldp {
            enabled: profile.int("connection", "lldp") == Some(1),
            neighbors: None,
        })
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
