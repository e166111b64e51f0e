//! Node-wide `ovn`: which bridge carries which of OVN's physical networks. Kept in the global row of Open vSwitch as
//! `external_ids:ovn-bridge-mappings`, `localnet:bridge` with commas between.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::facts::Facts;

/// The key of the global row.
pub const KEY: &str = "ovn-bridge-mappings";

/// Section `ovn`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ovn {
    /// Mappings to add, change or (`state: absent`) remove; those not named stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge_mappings: Option<Vec<Mapping>>,
}

/// One mapping. Keys that we do not know are let pass, as they always were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// OVN's name of the physical network.
    pub localnet: String,
    /// The bridge that carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Default present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// `state` of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There.
    Present,
    /// Gone.
    Absent,
}

impl Mapping {
    /// Is to go.
    pub fn is_absent(&self) -> bool {
        self.state == Some(State::Absent)
    }
}

impl Ovn {
    /// What is listed.
    pub fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.bridge_mappings.iter().flatten()
    }

    /// Faults that can be told without looking at the node.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (i, m) in self.mappings().enumerate() {
            let at = format!("bridge-mappings[{i}]");
            let odd = |name: &str| name.is_empty() || name.contains([':', ',']);
            if odd(&m.localnet) {
                let why = format!("'{}' is empty or holds ':' or ','", m.localnet);
                return Err(Invalid::new(format!("{at}.localnet"), why));
            }
            if self.mappings().take(i).any(|other| other.localnet == m.localnet) {
                let why = format!("localnet '{}' is listed twice", m.localnet);
                return Err(Invalid::new(format!("{at}.localnet"), why));
            }
            match m.bridge.as_deref() {
                None if !m.is_absent() => {
                    return Err(Invalid::new(format!("{at}.bridge"), "a mapping needs its bridge"));
                }
                Some(bridge) if odd(bridge) => {
                    let why = format!("'{bridge}' is empty or holds ':' or ','");
                    return Err(Invalid::new(format!("{at}.bridge"), why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the node has; None where it has nothing.
    pub fn from_facts(facts: &Facts) -> Option<Self> {
        let all = current(facts);
        let mapping = |(localnet, bridge)| Mapping {
            localnet,
            bridge: Some(bridge),
            state: None,
        };
        (!all.is_empty()).then(|| Ovn {
            bridge_mappings: Some(all.into_iter().map(mapping).collect()),
        })
    }

    /// Lays the wish over what is.
    pub fn merge(&self, now: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut merged = now.clone();
        for m in self.mappings() {
            match m.bridge.clone().filter(|_| !m.is_absent()) {
                Some(bridge) => merged.insert(m.localnet.clone(), bridge),
                None => merged.remove(&m.localnet),
            };
        }
        merged
    }

    /// What leads back: of what is named the mapping there is, or none.
    pub fn revert(&self, now: Option<&Ovn>) -> Self {
        let back = |m: &Mapping| {
            let found = now
                .into_iter()
                .flat_map(Ovn::mappings)
                .find(|n| n.localnet == m.localnet);
            found.cloned().unwrap_or_else(|| Mapping {
                localnet: m.localnet.clone(),
                bridge: None,
                state: Some(State::Absent),
            })
        };
        Ovn {
            bridge_mappings: Some(self.mappings().map(back).collect()),
        }
    }
}

/// Bridges by localnet.
pub fn current(facts: &Facts) -> BTreeMap<String, String> {
    let text = facts.ovs.as_ref().and_then(|o| o.ids.external_ids.get(KEY));
    let pairs = text.into_iter().flat_map(|t| t.split(','));
    let pair = |p: &str| {
        let (localnet, bridge) = p.trim().split_once(':')?;
        Some((localnet.to_owned(), bridge.to_owned()))
    };
    pairs.filter_map(pair).collect()
}

/// The key's text; None where there is nothing to say.
pub fn text(mappings: &BTreeMap<String, String>) -> Option<String> {
    let pairs: Vec<String> = mappings.iter().map(|(l, b)| format!("{l}:{b}")).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}
