//! Where things are in the lists of `Facts`, so that a node with thousands of links is read and planned in linear time.

use std::collections::HashMap;

use crate::scalar::Id;

use super::{Address, Device, Facts, Link, SavedProfile};

/// Built by `Facts::indexed` when the lists are complete. A clone has none, as it may be changed: then the lists are searched.
#[derive(Debug, Default)]
pub struct Index(Option<Box<Tables>>);

impl Clone for Index {
    fn clone(&self) -> Self {
        Index::default()
    }
}

#[derive(Debug, Default)]
struct Tables {
    links: HashMap<String, usize>,
    alt_names: HashMap<String, usize>,
    numbers: HashMap<u32, usize>,
    ports: HashMap<u32, Vec<usize>>,
    addresses: HashMap<u32, Vec<usize>>,
    devices: HashMap<Id, usize>,
    profiles: HashMap<String, usize>,
}

impl Tables {
    fn of(facts: &Facts) -> Self {
        let mut t = Tables::default();
        for (at, link) in facts.links.iter().enumerate() {
            t.links.entry(link.name.clone()).or_insert(at);
            t.numbers.entry(link.index).or_insert(at);
            for alt in &link.alt_names {
                t.alt_names.entry(alt.clone()).or_insert(at);
            }
            if let Some(controller) = link.controller {
                t.ports.entry(controller).or_default().push(at);
            }
        }
        for (at, address) in facts.addresses.iter().enumerate() {
            t.addresses.entry(address.link).or_default().push(at);
        }
        for (at, device) in facts.devices.iter().enumerate() {
            let id = device.id();
            t.devices.entry(id).or_insert(at);
        }
        for (at, saved) in facts.profiles.iter().enumerate() {
            t.profiles.entry(saved.uuid().to_owned()).or_insert(at);
        }
        t
    }
}

/// Those of a list at these places, or those that fit where there is no index.
fn pick<'a, T>(list: &'a [T], at: Option<Option<&Vec<usize>>>, fits: impl Fn(&T) -> bool) -> Vec<&'a T> {
    match at {
        Some(at) => at.into_iter().flatten().filter_map(|at| list.get(*at)).collect(),
        None => list.iter().filter(|item| fits(item)).collect(),
    }
}

impl Facts {
    /// The same with an index. The lists must not be changed afterwards.
    pub fn indexed(mut self) -> Self {
        self.index = Index(Some(Box::new(Tables::of(&self))));
        self
    }

    fn tables(&self) -> Option<&Tables> {
        self.index.0.as_deref()
    }

    /// The link with this kernel name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        match self.tables() {
            Some(t) => self.links.get(*t.links.get(name)?),
            None => self.links.iter().find(|l| l.name == name),
        }
    }

    /// The link with this extra name.
    pub fn link_by_alt_name(&self, alt: &str) -> Option<&Link> {
        match self.tables() {
            Some(t) => self.links.get(*t.alt_names.get(alt)?),
            None => self.links.iter().find(|l| l.alt_names.iter().any(|a| a == alt)),
        }
    }

    /// The link with this interface index.
    pub fn link_by_index(&self, index: u32) -> Option<&Link> {
        match self.tables() {
            Some(t) => self.links.get(*t.numbers.get(&index)?),
            None => self.links.iter().find(|l| l.index == index),
        }
    }

    /// The ports of the controller with this interface index.
    pub fn ports_of(&self, controller: u32) -> Vec<&Link> {
        let at = self.tables().map(|t| t.ports.get(&controller));
        pick(&self.links, at, |l| l.controller == Some(controller))
    }

    /// The addresses of the link with this interface index.
    pub fn addresses_of(&self, link: u32) -> Vec<&Address> {
        let at = self.tables().map(|t| t.addresses.get(&link));
        pick(&self.addresses, at, |a| a.link == link)
    }

    /// NetworkManager's device in any space; a VPN has none.
    pub fn device_of(&self, id: &Id) -> Option<&Device> {
        match self.tables() {
            Some(t) => self.devices.get(*t.devices.get(id)?),
            None => self
                .devices
                .iter()
                .find(|d| d.interface == id.name && d.space() == id.space),
        }
    }

    /// The profile with this uuid.
    pub fn profile(&self, uuid: &str) -> Option<&SavedProfile> {
        match self.tables() {
            Some(t) => self.profiles.get(*t.profiles.get(uuid)?),
            None => self.profiles.iter().find(|p| p.uuid() == uuid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_finds_what_a_search_finds() {
        let link = |index, name: &str, controller| Link {
            index,
            name: name.to_owned(),
            alt_names: vec![format!("{name}-alt")],
            controller,
            ..Link::default()
        };
        let device = |interface: &str, device_type| Device {
            interface: interface.to_owned(),
            device_type,
            path: format!("/{interface}/{device_type}"),
            ..Device::default()
        };
        let slow = Facts {
            links: vec![link(1, "br0", None), link(2, "eth1", Some(1)), link(3, "eth2", Some(1))],
            devices: vec![device("br0", 26), device("br0", 13), device("eth1", 1)],
            ..Facts::default()
        };
        let fast = slow.clone().indexed();
        let names = |links: Vec<&Link>| links.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
        for facts in [&slow, &fast, &fast.clone()] {
            assert_eq!(facts.link("eth2").unwrap().index, 3);
            assert_eq!(facts.link_by_alt_name("eth1-alt").unwrap().index, 2);
            assert_eq!(facts.link_by_index(1).unwrap().name, "br0");
            assert_eq!(names(facts.ports_of(1)), ["eth1", "eth2"]);
            assert_eq!(facts.device("br0").unwrap().path, "/br0/13");
            assert!(facts.link("eth3").is_none() && facts.ports_of(2).is_empty());
        }
    }
}
