//! The node as the transaction sees it: one narrow trait, a live implementation and a fake that behaves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::facts::{Device, Facts, Link, SavedProfile};
use crate::profile::Profile;
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::state::iface::Interface;

pub mod effect;
pub mod fake;
mod files;
pub mod kept;
pub mod live;
pub mod restore;

pub use effect::Effect;

/// One reading of the node: what the edges said, and the same as a document.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// As the kernel and NetworkManager gave it.
    pub facts: Facts,
    /// The same as a document, with secrets.
    pub state: NetworkState,
    /// Profiles between controllers and their ports, as interfaces.
    companions: Vec<Interface>,
    /// What stands above a companion or a port behind one.
    behind: HashMap<Id, Id>,
    /// Where the profiles of each interface are in `facts.profiles`.
    profiles: BTreeMap<Id, Vec<usize>>,
    /// Interfaces by `connection.id` of their profiles.
    profile_names: HashMap<String, BTreeSet<Id>>,
    /// Where each interface is: in `state.interfaces`, then in `companions`.
    index: HashMap<Id, usize>,
}

impl Observation {
    /// Renders facts as a document.
    pub fn new(facts: Facts) -> Self {
        let facts = facts.indexed();
        let state = NetworkState::from_facts(&facts);
        let mut profiles: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
        let mut profile_names: HashMap<String, BTreeSet<Id>> = HashMap::new();
        let owners = owners(&facts);
        for (at, saved) in facts.profiles.iter().enumerate() {
            let Some(id) = &owners[at] else { continue };
            profiles.entry(id.clone()).or_default().push(at);
            if let Some(name) = saved.profile.str("connection", "id") {
                profile_names.entry(name.to_owned()).or_default().insert(id.clone());
            }
        }
        let index = state
            .interfaces
            .iter()
            .enumerate()
            .map(|(at, i)| (i.id(), at))
            .collect();
        let mut seen = Observation {
            facts,
            state,
            profiles,
            profile_names,
            index,
            ..Observation::default()
        };
        seen.index_companions();
        seen
    }

    fn index_companions(&mut self) {
        for controller in &self.state.interfaces {
            for companion in controller.kind.companions().unwrap_or_default() {
                let id = companion.interface.id();
                let ports = companion.ports.into_iter().map(|port| (Id::kernel(port), id.clone()));
                self.behind.extend(ports);
                self.behind.insert(id.clone(), controller.id());
                self.index
                    .insert(id, self.state.interfaces.len() + self.companions.len());
                self.companions.push(companion.interface);
            }
        }
    }

    /// A node of which only a document is known: every interface in it has a link and a device, none has a profile.
    pub fn from_document(state: &NetworkState) -> Self {
        Observation::told(state.skeleton(), state.clone())
    }

    /// Facts beside a document that says more than they do.
    fn told(facts: Facts, state: NetworkState) -> Self {
        let mut seen = Observation {
            state,
            companions: vec![],
            behind: HashMap::new(),
            ..Observation::new(facts)
        };
        seen.state.interfaces.sort_by_key(Interface::id);
        seen.index = seen
            .state
            .interfaces
            .iter()
            .enumerate()
            .map(|(at, i)| (i.id(), at))
            .collect();
        seen.index_companions();
        seen
    }

    /// What an interface is now.
    pub fn interface(&self, id: &Id) -> Option<&Interface> {
        let at = *self.index.get(id)?;
        let beyond = || self.companions.get(at - self.state.interfaces.len());
        self.state.interfaces.get(at).or_else(beyond)
    }

    /// Every profile for this interface.
    pub fn profiles_of(&self, id: &Id) -> impl Iterator<Item = &SavedProfile> {
        let found = self.profiles.get(id).into_iter().flatten();
        found.filter_map(|at| self.facts.profiles.get(*at))
    }

    /// The interface that a profile is for.
    pub fn owner(&self, uuid: &str) -> Option<&Id> {
        let at = self.facts.profiles.iter().position(|p| p.uuid() == uuid)?;
        let mut all = self.profiles.iter();
        all.find(|(_, places)| places.contains(&at)).map(|(id, _)| id)
    }

    /// Interfaces that have profiles.
    pub fn ids_with_profiles(&self) -> impl Iterator<Item = &Id> {
        self.profiles.keys()
    }

    /// Kernel links with a profile of this name (`connection.id`).
    pub fn links_by_profile(&self, name: &str) -> Vec<&str> {
        let ids = self.profile_names.get(name).into_iter().flatten();
        ids.filter(|id| id.space == Space::Kernel)
            .map(|id| id.name.as_str())
            .collect()
    }

    /// Where NetworkManager keeps a profile between a controller and its ports: what stands above this one.
    pub fn behind(&self, id: &Id) -> Option<&Id> {
        self.behind.get(id)
    }

    /// What a kernel link is now.
    pub fn link(&self, name: &str) -> Option<&Interface> {
        self.interface(&Id::kernel(name))
    }

    /// The controller of this name: a kernel link, or an Open vSwitch bridge that may be called like one.
    pub fn controller(&self, name: &str) -> Option<&Interface> {
        let spaces = [Space::Kernel, Space::OvsBridge];
        let mut found = spaces.iter().filter_map(|s| self.interface(&Id::in_space(name, *s)));
        found.find(|i| i.kind.is_controller())
    }
}

/// The interface of each profile: by its name, by the address of the hardware it is bound to, or because it is active there.
fn owners(facts: &Facts) -> Vec<Option<Id>> {
    let (mut macs, mut slots): (HashMap<&str, &str>, HashMap<String, &str>) = (HashMap::new(), HashMap::new());
    let real = |l: &&Link| matches!(l.kind.as_deref(), None | Some("veth"));
    // what is burned in counts before what was set
    for burned_in in [true, false] {
        for link in facts.links.iter().filter(real) {
            let mac = if burned_in { &link.permanent_mac } else { &link.mac };
            mac.as_ref().map(|mac| macs.entry(mac).or_insert(&link.name));
        }
    }
    for link in facts.links.iter().filter(real) {
        let slot = link.pci_address.as_ref();
        slot.map(|slot| slots.entry(format!("pci-{slot}")).or_insert(&link.name));
    }
    let device = |d: &'_ Device| Some((d.active.as_ref()?.uuid.clone(), d.interface.clone()));
    let active: HashMap<String, String> = facts.devices.iter().filter_map(device).collect();
    let owner = |saved: &SavedProfile| {
        let by_mac = saved.bound_to().and_then(|mac| macs.get(mac.as_str()).copied());
        let by_slot = || {
            saved
                .profile
                .strs("match", "path")
                .iter()
                .find_map(|p| slots.get(p).copied())
        };
        let bound = by_mac.or_else(by_slot).map(Id::kernel);
        let shared = saved.is_shared();
        let running = || {
            active
                .get(saved.uuid())
                .filter(|_| !shared)
                .map(|n| Id::kernel(n.as_str()))
        };
        saved.id().or(bound).or_else(running)
    };
    facts.profiles.iter().map(owner).collect()
}

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

/// A checkpoint that is under our control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// D-Bus object path.
    pub path: String,
}

/// Why the host could not do it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A D-Bus call failed.
    #[error("{tried}")]
    Dbus {
        /// What we were doing: `saving profile br0 of br0`.
        tried: String,
        /// The bus's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A netlink request failed.
    #[error("{tried}")]
    Kernel {
        /// What we were doing.
        tried: String,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A checkpoint of somebody else is in force.
    #[error("another NetworkManager checkpoint is active ({path}); its owner must commit or roll it back first")]
    ForeignCheckpoint {
        /// D-Bus object path.
        path: String,
    },
    /// Something must be installed or started first.
    #[error("{0}")]
    Missing(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl HostError {
    /// What sort of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            HostError::Dbus { source, .. } => source
                .downcast_ref()
                .map_or(ErrorKind::PluginFailure, crate::nm::fault_kind),
            HostError::Missing(_) => ErrorKind::DependencyError,
            HostError::Kernel { .. } | HostError::ForeignCheckpoint { .. } | HostError::Other(_) => {
                ErrorKind::PluginFailure
            }
        }
    }
}

/// The node. `live::LiveHost` is the real one, `fake::FakeHost` a small machine for tests.
pub trait Host: Send + Sync {
    /// One dump of kernel and NetworkManager.
    fn observe(&self) -> impl Future<Output = Result<Observation, HostError>> + Send;
    /// Takes a checkpoint over all devices that NetworkManager rolls back by itself after `ttl`.
    fn checkpoint(&self, ttl: Duration) -> impl Future<Output = Result<Checkpoint, HostError>> + Send;
    /// Starts the checkpoint's time afresh: it now ends `ttl` from now.
    fn extend(&self, checkpoint: &Checkpoint, ttl: Duration) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Carries out steps that do not depend on one another: all sent at once, returns when all are answered; the first error wins.
    fn execute(&self, wave: &[Step]) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Leaves the checkpoint in force for `ttl`: somebody else will commit it or roll it back.
    fn hold(&self, checkpoint: &Checkpoint, ttl: Duration) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Keeps the changes.
    fn commit(&self, checkpoint: &Checkpoint) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Restores what was, and waits until the devices have settled (no longer than 60 s).
    fn rollback(&self, checkpoint: &Checkpoint) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Returns at the next D-Bus or netlink event since the last `observe` began, or after `limit`. True if there was one.
    fn changed(&self, limit: Duration) -> impl Future<Output = bool> + Send;
    /// Names the policy of the transactions to come, for a journal.
    fn set_policy(&self, _name: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_tells_what_sort_of_fault_it_is() {
        let kind = |source: zbus::Error| {
            let (tried, source) = ("saving".to_owned(), Box::new(source));
            HostError::Dbus { tried, source }.kind()
        };
        let denied = zbus::fdo::Error::AccessDenied("no".to_owned());
        assert_eq!(kind(denied.into()), ErrorKind::PermissionError);
        assert_eq!(
            kind(zbus::fdo::Error::Timeout("late".to_owned()).into()),
            ErrorKind::PluginFailure
        );
        let plug_in = HostError::Missing("activating the profile of vpn0: install it".to_owned());
        assert_eq!(plug_in.kind(), ErrorKind::DependencyError);
    }
}
