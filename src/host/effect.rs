//! Changes that NetworkManager's checkpoint does not cover: each knows how to be undone, from the observation before it. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Observation;
use crate::facts::GlobalDns;

/// A change beyond NetworkManager's profiles and devices. It can be written to the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Set or clear `GlobalDnsConfiguration`.
    GlobalDns(Option<GlobalDns>),
    /// `sethostname(2)`.
    RunningHostname(String),
    /// NetworkManager's `Settings.SaveHostname`; empty removes the file.
    StaticHostname(String),
    /// Extra kernel names of a link (`RTM_NEWLINKPROP`, `RTM_DELLINKPROP`).
    AltNames {
        /// Kernel name.
        link: String,
        /// To add.
        add: Vec<String>,
        /// To remove.
        remove: Vec<String>,
    },
    /// A file of ours outside NetworkManager's profiles (dispatcher scripts, `.link` files); None removes it.
    File {
        /// Absolute path.
        path: String,
        /// Whole text.
        content: Option<String>,
        /// Permissions, such as 0o644.
        mode: u32,
    },
    /// Keys of the global row of Open vSwitch to set, or to delete where None.
    OvsDb {
        /// In `external_ids`.
        external_ids: BTreeMap<String, Option<String>>,
        /// In `other_config`.
        other_config: BTreeMap<String, Option<String>>,
    },
}

impl Effect {
    /// Whether it is so already. Of extra names this is not told: false.
    pub fn is_so(&self, now: &Observation) -> bool {
        self.inverse(now) == *self
    }

    /// What puts things back to what `before` saw.
    pub fn inverse(&self, before: &Observation) -> Effect {
        match self {
            Effect::GlobalDns(_) => Effect::GlobalDns(before.facts.dns.global.clone()),
            Effect::RunningHostname(_) => {
                Effect::RunningHostname(before.facts.hostname.running.clone().unwrap_or_default())
            }
            Effect::StaticHostname(_) => {
                Effect::StaticHostname(before.facts.hostname.config.clone().unwrap_or_default())
            }
            Effect::AltNames { link, add, remove } => Effect::AltNames {
                link: link.clone(),
                add: remove.clone(),
                remove: add.clone(),
            },
            Effect::File { path, mode, .. } => Effect::File {
                path: path.clone(),
                content: before.facts.files.get(path).cloned(),
                mode: *mode,
            },
            Effect::OvsDb {
                external_ids,
                other_config,
            } => {
                let now = before.facts.ovs.as_ref().map(|o| &o.ids);
                let was = |change: &BTreeMap<String, Option<String>>, now: Option<&BTreeMap<String, String>>| {
                    let value = |key: &String| now.and_then(|n| n.get(key)).cloned();
                    change.keys().map(|key| (key.clone(), value(key))).collect()
                };
                Effect::OvsDb {
                    external_ids: was(external_ids, now.map(|n| &n.external_ids)),
                    other_config: was(other_config, now.map(|n| &n.other_config)),
                }
            }
        }
    }
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Effect::GlobalDns(Some(dns)) => write!(f, "global-dns {}", dns.servers.join(",")),
            Effect::GlobalDns(None) => write!(f, "global-dns none"),
            Effect::RunningHostname(name) => write!(f, "running-hostname {name}"),
            Effect::StaticHostname(name) => write!(f, "static-hostname {name}"),
            Effect::AltNames { link, add, remove } => {
                write!(f, "alt-names {link}")?;
                add.iter().try_for_each(|n| write!(f, " +{n}"))?;
                remove.iter().try_for_each(|n| write!(f, " -{n}"))
            }
            Effect::File {
                path, content: Some(_), ..
            } => write!(f, "write {path}"),
            Effect::File {
                path, content: None, ..
            } => write!(f, "delete {path}"),
            Effect::OvsDb {
                external_ids,
                other_config,
            } => {
                write!(f, "ovs-db")?;
                for (column, change) in [("external_ids", external_ids), ("other_config", other_config)] {
                    for (key, value) in change {
                        write!(f, " {}{column}:{key}", if value.is_some() { '+' } else { '-' })?;
                    }
                }
                Ok(())
            }
        }
    }
}
