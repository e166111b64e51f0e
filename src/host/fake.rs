//! A small machine that behaves: profiles, links, addresses and a checkpoint, in memory. It can be told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::{Checkpoint, Host};
use crate::error::HostError;
use crate::facts::{Active, Address, Device, Facts, Link, Ovs, SavedProfile};
use crate::observation::Observation;
use crate::profile::{Profile, Value};
use crate::scalar::{Id, Space};
use crate::state::iface::{AnyKind, ovs_bridge, ovs_interface, ovs_port};
use crate::state::part::Parts;
use crate::step::{Effect, Step};

mod sections;

/// What the machine is and what it was told.
#[derive(Debug, Default)]
struct Machine {
    facts: Facts,
    saved: Option<Facts>,
    next: u32,
    log: Vec<String>,
    fail: Option<String>,
    deaf: bool,
    /// The routes that the next activation brings are flushed behind NetworkManager's back.
    flushes: bool,
    /// What udev gives the next link that is made, after NetworkManager has set its address.
    udevs: Option<String>,
    /// Addresses that an activation takes away stay for this many waits.
    lingers: u32,
    leaving: Vec<Address>,
    /// Links that NetworkManager made, which go with their connection.
    made: BTreeSet<String>,
    /// What a DHCP server has for a link.
    leases: BTreeMap<String, (IpAddr, u8)>,
}

/// The node of the tests.
#[derive(Debug, Default)]
pub struct FakeHost {
    machine: Mutex<Machine>,
}

impl FakeHost {
    /// A node with these network cards, up and managed, without profiles. Names that begin with `ib` are cards of InfiniBand;
    /// `tap0 tun` is a link of that kind which somebody else made.
    pub fn with_cards(cards: &[&str]) -> Self {
        let host = FakeHost::default();
        {
            let mut m = host.lock();
            m.facts.nm_version = "1.42.4".to_owned();
            m.facts.dispatch_dir = "/etc/NetworkManager/dispatcher.d".to_owned();
            m.facts.nm_capabilities = vec![1, 2];
            m.facts.ovs = Some(Ovs::default());
            m.add_link("lo", None, 772, 30);
            m.loopback();
            for card in cards {
                let (name, kind) = card
                    .split_once(' ')
                    .map_or((*card, None), |(name, kind)| (name, Some(kind)));
                // ARPHRD_ETHER, ARPHRD_INFINIBAND
                let arphrd = if name.starts_with("ib") { 32 } else { 1 };
                m.add_link(name, kind, arphrd, 30);
            }
        }
        host
    }

    /// The next step or call whose log line starts like this fails.
    pub fn fail_at(self, what: &str) -> Self {
        self.lock().fail = Some(what.to_owned());
        self
    }

    /// Activation is answered but nothing happens.
    pub fn deaf(self) -> Self {
        self.lock().deaf = true;
        self
    }

    /// Somebody takes the next link that comes up down and up again: its routes are gone.
    pub fn flushing(self) -> Self {
        self.lock().flushes = true;
        self
    }

    /// udev writes this MAC address over that of the next link that NetworkManager makes.
    pub fn overwriting(self, mac: &str) -> Self {
        self.lock().udevs = Some(mac.to_owned());
        self
    }

    /// Addresses that are taken away are still there for so many waits, as NetworkManager removes them after it has answered.
    pub fn lingering(self, waits: u32) -> Self {
        self.lock().lingers = waits;
        self
    }

    /// A DHCP server that gives the link this address.
    pub fn lease(&self, link: &str, ip: IpAddr, prefix: u8) {
        self.lock().leases.insert(link.to_owned(), (ip, prefix));
    }

    /// Changes the facts directly, as somebody else on the node would.
    pub fn meddle(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.lock().facts);
    }

    /// Calls since the last look, in order.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    /// What it is now.
    pub fn now(&self) -> Observation {
        Observation::new(self.lock().facts.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn call(&self, what: &str) -> Result<(), HostError> {
        let mut m = self.lock();
        m.log.push(what.to_owned());
        match m.fail.take_if(|f| what.starts_with(f.as_str())) {
            Some(_) => Err(HostError::Other(format!("{what}: told to fail"))),
            None => Ok(()),
        }
    }
}

impl Host for FakeHost {
    async fn observe(&self) -> Result<Observation, HostError> {
        Ok(self.now())
    }

    async fn checkpoint(&self, _ttl: Duration) -> Result<Checkpoint, HostError> {
        self.call("checkpoint")?;
        let mut m = self.lock();
        m.saved = Some(m.facts.clone());
        Ok(Checkpoint {
            path: "/checkpoint/1".to_owned(),
        })
    }

    async fn extend(&self, _checkpoint: &Checkpoint, _ttl: Duration) -> Result<(), HostError> {
        Ok(())
    }

    async fn execute(&self, wave: &[Step]) -> Result<(), HostError> {
        for step in wave {
            self.call(&step.to_string())?;
            self.lock().apply(step);
        }
        Ok(())
    }

    async fn hold(&self, _checkpoint: &Checkpoint, _ttl: Duration) -> Result<(), HostError> {
        self.call("hold")
    }

    async fn commit(&self, _checkpoint: &Checkpoint) -> Result<(), HostError> {
        self.call("commit")?;
        self.lock().saved = None;
        Ok(())
    }

    async fn rollback(&self, _checkpoint: &Checkpoint) -> Result<(), HostError> {
        self.call("rollback")?;
        let mut m = self.lock();
        if let Some(saved) = m.saved.take() {
            m.facts = saved;
        }
        Ok(())
    }

    async fn changed(&self, limit: Duration) -> bool {
        tokio::time::sleep(limit).await;
        let mut m = self.lock();
        if m.leaving.is_empty() {
            return false;
        }
        m.lingers = m.lingers.saturating_sub(1);
        if m.lingers == 0 {
            for old in std::mem::take(&mut m.leaving) {
                let at = m.facts.addresses.iter().position(|a| *a == old);
                at.map(|at| m.facts.addresses.remove(at));
            }
            m.log.push("old addresses gone".to_owned());
        }
        true
    }
}

impl Machine {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn add_link(&mut self, name: &str, kind: Option<&str>, arphrd: u16, state: u32) {
        let index = self.number();
        self.facts.links.push(Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            arphrd,
            admin_up: true,
            running: true,
            mac: Some(format!("02:00:00:00:00:{index:02X}")),
            mtu: Some(1500),
            ..Link::default()
        });
        self.facts.devices.push(Device {
            path: format!("/d/{index}"),
            interface: name.to_owned(),
            state,
            managed: true,
            real: true,
            ..Device::default()
        });
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Save {
                profile,
                path,
                memory_only,
                ..
            } => self.save(profile, path.as_deref(), *memory_only),
            Step::Forget { iface, uuid, path } => {
                self.facts.profiles.retain(|p| p.path != *path);
                self.deactivate(iface, &|a| a.uuid == *uuid);
            }
            Step::Activate { iface, uuid, .. } if !self.deaf => {
                self.flush(iface);
                self.activate(iface, uuid);
            }
            Step::Reapply { iface, uuid } if !self.deaf => self.activate(iface, uuid),
            Step::Activate { .. } | Step::Reapply { .. } => {}
            Step::Disconnect { iface } | Step::Deactivate { iface } => self.deactivate(iface, &|_| true),
            Step::RemoveLink { iface } => self.remove(iface),
            Step::Effect(effect) => self.take_effect(effect),
        }
        self.ovs();
        self.node_wide();
        if matches!(step, Step::Activate { .. }) && std::mem::take(&mut self.flushes) {
            self.facts.routes.clear();
        }
    }

    fn take_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::GlobalDns(dns) => {
                self.facts.dns.global.clone_from(dns);
            }
            Effect::OvsDb {
                external_ids,
                other_config,
            } => {
                let Some(ovs) = &mut self.facts.ovs else { return };
                for (change, map) in [
                    (external_ids, &mut ovs.ids.external_ids),
                    (other_config, &mut ovs.ids.other_config),
                ] {
                    map.retain(|key, _| !change.contains_key(key));
                    map.extend(change.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))));
                }
            }
            Effect::RunningHostname(name) => self.facts.hostname.running = Some(name.clone()),
            Effect::StaticHostname(name) => self.facts.hostname.config = Some(name.clone()).filter(|n| !n.is_empty()),
            Effect::AltNames { link, add, remove } => {
                for l in self.facts.links.iter_mut().filter(|l| l.name == *link) {
                    l.alt_names.retain(|n| !remove.contains(n));
                    l.alt_names.extend(add.iter().cloned());
                }
            }
            Effect::File { path, content, mode: _ } => {
                self.facts.files.remove(path);
                self.facts
                    .files
                    .extend(content.iter().map(|c| (path.clone(), c.clone())));
            }
        }
    }

    /// The rows that NetworkManager makes of what is active; those of others stay.
    fn ovs(&mut self) {
        let Some(mut ovs) = self.facts.ovs.take() else { return };
        ovs.bridges.retain(|_, row| row.ids.nm_uuid().is_none());
        ovs.ports.retain(|_, row| row.ids.nm_uuid().is_none());
        ovs.interfaces.retain(|_, row| row.ids.nm_uuid().is_none());
        let active: Vec<&SavedProfile> = self
            .facts
            .devices
            .iter()
            .filter_map(|d| self.facts.profile(&d.active.as_ref()?.uuid))
            .collect();
        let above = |p: &SavedProfile| {
            let master = p.profile.str("connection", "master")?;
            active.iter().find(|a| a.uuid() == master).copied()
        };
        for member in active
            .iter()
            .filter(|p| p.profile.str("connection", "slave-type") == Some("ovs-port"))
        {
            let Some((port, bridge)) = above(member).and_then(|port| Some((port, above(port)?))) else {
                continue;
            };
            let name = |p: &SavedProfile| p.interface().unwrap_or_default().to_owned();
            let bridge_row = ovs
                .bridges
                .entry(name(bridge))
                .or_insert_with(|| ovs_bridge::row(&bridge.profile));
            if !bridge_row.ports.contains(&name(port)) {
                bridge_row.ports.push(name(port));
                bridge_row.ports.sort();
            }
            let port_row = ovs
                .ports
                .entry(name(port))
                .or_insert_with(|| ovs_port::row(&port.profile));
            port_row.interfaces.push(name(member));
            port_row.interfaces.sort();
            ovs.interfaces.insert(name(member), ovs_interface::row(&member.profile));
        }
        for (name, port) in ovs.ports.iter().filter(|(_, port)| port.ids.nm_uuid().is_none()) {
            if let Some(bridge) = ovs.bridges.get_mut(&port.bridge)
                && !bridge.ports.contains(name)
            {
                bridge.ports.push(name.clone());
                bridge.ports.sort();
            }
        }
        ovs.tell_members();
        self.facts.ovs = Some(ovs);
    }

    fn save(&mut self, profile: &Profile, path: Option<&str>, memory_only: bool) {
        let path = match path {
            Some(path) => path.to_owned(),
            None => format!("/s/{}", self.number()),
        };
        self.facts.profiles.retain(|p| p.path != path);
        let folder = if memory_only { "/run" } else { "/etc" };
        let filename = format!("{folder}/NetworkManager/system-connections{path}");
        self.facts.profiles.push(SavedProfile {
            path,
            profile: profile.clone(),
            filename,
            ..SavedProfile::default()
        });
    }

    fn deactivate(&mut self, id: &Id, which: &dyn Fn(&Active) -> bool) {
        if id.space == Space::Vpn {
            // the profile may be gone by now
            let known: Vec<String> = self.facts.profiles.iter().map(|p| p.uuid().to_owned()).collect();
            let this = self.facts.active(id).map(|a| a.uuid.clone());
            self.facts
                .vpns
                .retain(|a| known.contains(&a.uuid) && !(Some(&a.uuid) == this.as_ref() && which(a)));
            return;
        }
        let mut devices = self.facts.devices.iter_mut();
        let Some(device) = devices.find(|d| d.interface == id.name && d.space() == id.space) else {
            return;
        };
        let Some(active) = device.active.take_if(|a| which(a)) else {
            return;
        };
        device.state = 30;
        for port in self.ports_of(&active.uuid) {
            self.deactivate(&port, &|_| true);
        }
        if id.space != Space::Kernel || self.facts.link(&id.name).is_none() {
            self.remove_device(id);
            return;
        }
        let iface = id.name.as_str();
        let index = self.facts.link(iface).map_or(0, |l| l.index);
        self.facts.addresses.retain(|a| a.link != index);
        self.facts.routes.retain(|r| r.link != Some(index));
        self.own_addresses(iface);
        for link in self.facts.links.iter_mut().filter(|l| l.index == index) {
            link.controller = None;
        }
        if self.made.contains(iface) {
            self.remove_link(iface);
        }
        let card = self.facts.links.iter_mut().find(|l| l.name == iface);
        if let Some(sriov) = card.and_then(|l| l.sriov.as_mut()) {
            (sriov.count, sriov.vfs) = (0, vec![]);
            self.virtual_functions(iface);
        }
    }

    /// Interfaces come and go with the virtual functions of a card.
    fn virtual_functions(&mut self, card: &str) {
        let sriov = self.facts.link(card).and_then(|l| l.sriov.clone()).unwrap_or_default();
        let is: Vec<String> = sriov.vfs.into_iter().filter_map(|vf| vf.interface).collect();
        let mine = format!("{card}v");
        let gone = |name: &str| name.starts_with(&mine) && !is.iter().any(|n| n == name);
        self.facts.links.retain(|l| !gone(&l.name));
        self.facts.devices.retain(|d| !gone(&d.interface));
        for name in is {
            if self.facts.link(&name).is_none() {
                self.add_link(&name, None, 1, 30);
            }
        }
    }

    /// Whose profile names this one by uuid.
    fn ports_of(&self, uuid: &str) -> Vec<Id> {
        let mastered = |p: &&SavedProfile| p.profile.str("connection", "master") == Some(uuid);
        self.facts
            .profiles
            .iter()
            .filter(mastered)
            .filter_map(SavedProfile::id)
            .collect()
    }

    fn remove(&mut self, id: &Id) {
        match id.space {
            Space::Kernel => self.remove_link(&id.name),
            _ => self.remove_device(id),
        }
    }

    fn remove_device(&mut self, id: &Id) {
        self.facts
            .devices
            .retain(|d| d.interface != id.name || d.space() != id.space);
    }

    fn remove_link(&mut self, iface: &str) {
        let Some(link) = self.facts.link(iface).cloned() else {
            return;
        };
        let stands = |l: &&Link| l.parent == Some(link.index) && l.kind.as_deref().is_some_and(|k| k != "veth");
        let above: Vec<String> = self.facts.links.iter().filter(stands).map(|l| l.name.clone()).collect();
        above.iter().for_each(|name| self.remove_link(name));
        let pair = self
            .facts
            .links
            .iter()
            .find(|l| link.kind.as_deref() == Some("veth") && Some(l.index) == link.parent)
            .map(|l| l.name.clone());
        for name in [Some(iface.to_owned()), pair].into_iter().flatten() {
            self.made.remove(&name);
            self.facts.links.retain(|l| l.name != name);
            self.remove_device(&Id::kernel(name));
        }
        self.facts.addresses.retain(|a| a.link != link.index);
        self.facts.routes.retain(|r| r.link != Some(link.index));
        // a port whose controller goes is disconnected
        for port in self.facts.links.iter_mut().filter(|l| l.controller == Some(link.index)) {
            port.controller = None;
            let mine = |d: &&mut Device| d.interface == port.name && d.state > 10;
            for device in self.facts.devices.iter_mut().filter(mine) {
                device.active = None;
                device.state = 30;
            }
        }
    }

    fn activate(&mut self, id: &Id, uuid: &str) {
        let Some(profile) = self.facts.profile(uuid).map(|p| p.profile.clone()) else {
            return;
        };
        self.controller_first(&profile);
        let nm_type = profile.str("connection", "type").unwrap_or_default();
        match id.space {
            Space::Kernel if !AnyKind::makes_link(nm_type, &profile) => self.add_device(&id.name, 24),
            Space::Kernel => self.bring_up(&id.name, &profile),
            // NM_DEVICE_TYPE_OVS_INTERFACE 24, _OVS_PORT and _OVS_BRIDGE
            Space::OvsPort => self.add_device(&id.name, 25),
            Space::OvsBridge => self.add_device(&id.name, 26),
            Space::Vpn => {}
        }
        let active = Active {
            path: format!("/a/{uuid}"),
            uuid: uuid.to_owned(),
            state: 2,
            flags: 0,
        };
        let mut devices = self.facts.devices.iter_mut();
        match devices.find(|d| d.interface == id.name && d.space() == id.space) {
            Some(device) => {
                device.state = 100;
                device.active = Some(active);
            }
            None => {
                self.facts.vpns.retain(|a| a.uuid != uuid);
                self.facts.vpns.push(active);
            }
        }
        // ports named by uuid come up with their controller
        for port in self.ports_of(uuid) {
            let idle = self.facts.active(&port).is_none();
            let saved = self.facts.profiles.iter().find(|p| p.id().as_ref() == Some(&port));
            if let Some(uuid) = saved.map(|p| p.uuid().to_owned()).filter(|_| idle) {
                self.activate(&port, &uuid);
            }
        }
    }

    /// A port brings up its controller where that is not there.
    fn controller_first(&mut self, port: &Profile) {
        let Some(master) = port.str("connection", "master").map(str::to_owned) else {
            return;
        };
        let known = |p: &&SavedProfile| p.uuid() == master || p.interface() == Some(&master);
        let found = self.facts.profiles.iter().find(known);
        let found = found.and_then(|p| Some((p.id()?, p.uuid().to_owned())));
        let missing = |id: &Id| id.space == Space::Kernel && self.facts.link(&id.name).is_none();
        if let Some((id, uuid)) = found.filter(|(id, _)| missing(id)) {
            self.activate(&id, &uuid);
        }
    }

    fn add_device(&mut self, name: &str, device_type: u32) {
        let known = |d: &Device| d.interface == name && d.device_type == device_type;
        if !self.facts.devices.iter().any(known) {
            let index = self.number();
            self.facts.devices.push(Device {
                path: format!("/d/{index}"),
                interface: name.to_owned(),
                device_type,
                state: 30,
                managed: true,
                real: true,
                ..Device::default()
            });
        }
    }

    /// What NetworkManager does to the kernel when it activates a profile.
    fn bring_up(&mut self, iface: &str, profile: &Profile) {
        let udevs = match self.facts.link(iface) {
            Some(_) => None,
            None => {
                self.create(iface, profile);
                self.udevs.take()
            }
        };
        let nm_type = profile.str("connection", "type").unwrap_or_default().to_owned();
        let by_name = |m: &str| self.facts.link(m).map(|l| l.index);
        let index_of: BTreeMap<String, u32> = self.facts.links.iter().map(|l| (l.name.clone(), l.index)).collect();
        let controller = profile.str("connection", "master").and_then(by_name);
        let Some(link) = self.facts.links.iter_mut().find(|l| l.name == iface) else {
            return;
        };
        link.controller = controller;
        if let Some(mtu) = ["802-3-ethernet", "infiniband", "loopback", "wireguard", "ip-tunnel"]
            .iter()
            .find_map(|s| profile.int(s, "mtu"))
        {
            link.mtu = u32::try_from(mtu).ok();
        }
        if let Some(all) = profile.int("802-3-ethernet", "accept-all-mac-addresses") {
            link.promiscuous = all == 1;
        }
        if let Some(on) = profile.int("ipv4", "forwarding") {
            link.ipv4_forwarding = Some(on == 1);
        }
        if let Some(Value::Bytes(mac)) = profile.get("802-3-ethernet", "cloned-mac-address") {
            link.mac = Some(udevs.unwrap_or_else(|| crate::scalar::mac_text(mac)));
        }
        AnyKind::to_link(&nm_type, profile, link, &|name| index_of.get(name).copied());
        AnyKind::port_to_link(
            profile.str("connection", "slave-type").unwrap_or_default(),
            profile,
            link,
        );
        Parts::to_link(profile, link);
        let index = link.index;
        self.addresses(index, iface, profile);
        self.routes(index, profile);
        self.virtual_functions(iface);
    }

    fn create(&mut self, iface: &str, profile: &Profile) {
        let nm_type = profile.str("connection", "type").unwrap_or_default();
        let kind = AnyKind::link_kind(nm_type, profile).to_owned();
        self.made.insert(iface.to_owned());
        self.add_link(iface, Some(&kind), 1, 30);
        if let Some(peer) = profile.str("veth", "peer").map(str::to_owned) {
            self.add_link(&peer, Some(&kind), 1, 30);
            let at = self.facts.link(iface).map(|l| l.index);
            for l in self.facts.links.iter_mut().filter(|l| l.name == peer) {
                l.parent = at;
            }
        }
    }
}
