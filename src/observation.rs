//! The node as it was read once: facts, and the same as a document. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::facts::{Device, Facts, Link, SavedProfile};
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::state::iface::Interface;

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
    pub(crate) fn told(facts: Facts, state: NetworkState) -> Self {
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
