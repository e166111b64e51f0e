//! What a plan is made of: single changes to the node. Each that NetworkManager's checkpoint does not cover knows how to be undone, from the
//! facts before it. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::{Facts, GlobalDns};
use crate::profile::Profile;
use crate::scalar::Id;

/// One change to the node. The executor has no choices left.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Store a profile: `Update2` on the object at `path`, or `AddConnection2` where None. `connection.uuid` is in the profile.
    Save {
        /// Interface it belongs to.
        iface: Id,
        /// The whole profile.
        profile: Profile,
        /// D-Bus path of the profile to replace.
        path: Option<String>,
        /// `NM_SETTINGS_*_FLAG_IN_MEMORY` instead of `TO_DISK`.
        memory_only: bool,
    },
    /// Delete a stored profile.
    Forget {
        /// Interface it belongs to.
        iface: Id,
        /// `connection.uuid`, for the log.
        uuid: String,
        /// D-Bus path of the profile.
        path: String,
    },
    /// `ActivateConnection` of the profile with this uuid on the device of this interface (path `/` where there is none yet).
    Activate {
        /// Interface.
        iface: Id,
        /// `connection.uuid`.
        uuid: String,
        /// Its controller has been activated just before: NetworkManager brings the port up by itself, and doing it a second time
        /// would tear down what has begun.
        follows: bool,
    },
    /// `Device.Reapply` of its profile as saved; `ActivateConnection` where NetworkManager refuses.
    Reapply {
        /// Interface.
        iface: Id,
        /// `connection.uuid`.
        uuid: String,
    },
    /// `DeactivateConnection` of what is active on the interface, and wait until it is down: before a change that a live link cannot take.
    Deactivate {
        /// Interface.
        iface: Id,
    },
    /// `Device.Disconnect`: down, and no autoconnect.
    Disconnect {
        /// Interface.
        iface: Id,
    },
    /// `Device.Delete`: remove a software link that outlived its profile.
    RemoveLink {
        /// Interface.
        iface: Id,
    },
    /// A change that the checkpoint does not cover.
    Effect(Effect),
}

impl Step {
    /// The interface it is about.
    pub fn interface(&self) -> Option<&Id> {
        match self {
            Step::Save { iface, .. }
            | Step::Forget { iface, .. }
            | Step::Activate { iface, .. }
            | Step::Reapply { iface, .. }
            | Step::Deactivate { iface }
            | Step::Disconnect { iface }
            | Step::RemoveLink { iface } => Some(iface),
            Step::Effect(_) => None,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Save { iface, .. } => write!(f, "save {iface}"),
            Step::Forget { iface, .. } => write!(f, "forget {iface}"),
            Step::Activate { iface, .. } => write!(f, "activate {iface}"),
            Step::Reapply { iface, .. } => write!(f, "reapply {iface}"),
            Step::Disconnect { iface } => write!(f, "disconnect {iface}"),
            Step::RemoveLink { iface } => write!(f, "remove {iface}"),
            Step::Deactivate { iface } => write!(f, "deactivate {iface}"),
            Step::Effect(effect) => effect.fmt(f),
        }
    }
}

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
    pub fn is_so(&self, now: &Facts) -> bool {
        self.inverse(now) == *self
    }

    /// What puts things back to what `before` saw.
    pub fn inverse(&self, before: &Facts) -> Effect {
        match self {
            Effect::GlobalDns(_) => Effect::GlobalDns(before.dns.global.clone()),
            Effect::RunningHostname(_) => Effect::RunningHostname(before.hostname.running.clone().unwrap_or_default()),
            Effect::StaticHostname(_) => Effect::StaticHostname(before.hostname.config.clone().unwrap_or_default()),
            Effect::AltNames { link, add, remove } => Effect::AltNames {
                link: link.clone(),
                add: remove.clone(),
                remove: add.clone(),
            },
            Effect::File { path, mode, .. } => Effect::File {
                path: path.clone(),
                content: before.files.get(path).cloned(),
                mode: *mode,
            },
            Effect::OvsDb {
                external_ids,
                other_config,
            } => {
                let now = before.ovs.as_ref().map(|o| &o.ids);
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
