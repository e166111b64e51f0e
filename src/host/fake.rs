//! A small machine that behaves: profiles, links, addresses and a checkpoint, in memory. It can be told to fail.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use netlink_packet_route::link::{InfoBridge, InfoBridgePort, InfoData};

use super::{Checkpoint, Host, HostError, Observation, Step};
use crate::facts::{Active, Address, Device, Facts, Link, Route, Rule, SavedProfile};
use crate::profile::{Dict, Profile, Value};

/// What the machine is and what it was told.
#[derive(Debug, Default)]
struct Machine {
    facts: Facts,
    saved: Option<Facts>,
    next: u32,
    log: Vec<String>,
    fail: Option<String>,
    deaf: bool,
}

/// The node of the tests.
#[derive(Debug, Default)]
pub struct FakeHost {
    machine: Mutex<Machine>,
}

impl FakeHost {
    /// A node with these network cards, up and managed, without profiles.
    pub fn with_cards(cards: &[&str]) -> Self {
        let host = FakeHost::default();
        {
            let mut m = host.lock();
            m.facts.nm_version = "1.42.4".to_owned();
            m.add_link("lo", None, 772, 10);
            for card in cards {
                m.add_link(card, None, 1, 30);
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
        false
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
            Step::Save { profile, path, .. } => self.save(profile, path.as_deref()),
            Step::Forget { iface, uuid, path } => {
                self.facts.profiles.retain(|p| p.path != *path);
                self.deactivate(iface, |a| a.uuid == *uuid);
            }
            Step::Activate { iface, uuid } | Step::Reapply { iface, uuid } if !self.deaf => self.activate(iface, uuid),
            Step::Activate { .. } | Step::Reapply { .. } => {}
            Step::Disconnect { iface } => self.deactivate(iface, |_| true),
            Step::RemoveLink { iface } => self.remove_link(iface),
            Step::GlobalDns(dns) => {
                self.facts.dns.servers = dns.as_ref().map(|d| d.servers.clone()).unwrap_or_default();
                self.facts.dns.global.clone_from(dns);
            }
        }
    }

    fn save(&mut self, profile: &Profile, path: Option<&str>) {
        let path = match path {
            Some(path) => path.to_owned(),
            None => format!("/s/{}", self.number()),
        };
        self.facts.profiles.retain(|p| p.path != path);
        let filename = format!("/etc/NetworkManager/system-connections{path}");
        self.facts.profiles.push(SavedProfile {
            path,
            profile: profile.clone(),
            filename,
            ..SavedProfile::default()
        });
    }

    fn deactivate(&mut self, iface: &str, which: impl Fn(&Active) -> bool) {
        let Some(device) = self.facts.devices.iter_mut().find(|d| d.interface == iface) else {
            return;
        };
        if !device.active.as_ref().is_some_and(which) {
            return;
        }
        device.active = None;
        device.state = 30;
        let index = self.facts.link(iface).map_or(0, |l| l.index);
        self.facts.addresses.retain(|a| a.link != index);
        self.facts.routes.retain(|r| r.link != Some(index));
        if self.facts.link(iface).is_some_and(|l| l.kind.is_some()) {
            self.remove_link(iface);
        }
    }

    fn remove_link(&mut self, iface: &str) {
        let Some(link) = self.facts.link(iface).cloned() else {
            return;
        };
        let pair = self
            .facts
            .links
            .iter()
            .find(|l| link.kind.as_deref() == Some("veth") && Some(l.index) == link.parent)
            .map(|l| l.name.clone());
        for name in [Some(iface.to_owned()), pair].into_iter().flatten() {
            self.facts.links.retain(|l| l.name != name);
            self.facts.devices.retain(|d| d.interface != name);
        }
        for l in &mut self.facts.links {
            l.controller = l.controller.filter(|c| *c != link.index);
        }
    }

    fn activate(&mut self, iface: &str, uuid: &str) {
        let Some(profile) = self
            .facts
            .profiles
            .iter()
            .find(|p| p.uuid() == uuid)
            .map(|p| p.profile.clone())
        else {
            return;
        };
        if self.facts.link(iface).is_none() {
            self.create(iface, &profile);
        }
        let controller = profile
            .str("connection", "master")
            .and_then(|m| self.facts.link(m))
            .map(|l| l.index);
        let Some(link) = self.facts.links.iter_mut().find(|l| l.name == iface) else {
            return;
        };
        link.controller = controller;
        if let Some(mtu) = profile.int("802-3-ethernet", "mtu") {
            link.mtu = u32::try_from(mtu).ok();
        }
        if let Some(Value::Bytes(mac)) = profile.get("802-3-ethernet", "cloned-mac-address") {
            link.mac = Some(mac.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":"));
        }
        if link.kind.as_deref() == Some("bridge") {
            link.data = Some(InfoData::Bridge(bridge(&profile)));
        }
        link.bridge_port = match profile.bool("bridge-port", "hairpin-mode") {
            Some(on) => vec![InfoBridgePort::HairpinMode(on)],
            None => vec![InfoBridgePort::HairpinMode(false)],
        };
        let index = link.index;
        self.addresses(index, &profile);
        self.routes(index, &profile);
        if let Some(device) = self.facts.devices.iter_mut().find(|d| d.interface == iface) {
            device.state = 100;
            device.active = Some(Active {
                path: format!("/a/{index}"),
                uuid: uuid.to_owned(),
                state: 2,
                flags: 0,
            });
        }
        self.rules();
    }

    fn create(&mut self, iface: &str, profile: &Profile) {
        let kind = profile.str("connection", "type").unwrap_or_default().to_owned();
        self.add_link(iface, Some(&kind), 1, 30);
        if let Some(peer) = profile.str("veth", "peer").map(str::to_owned) {
            self.add_link(&peer, Some(&kind), 1, 30);
            let at = |m: &Machine, n: &str| m.facts.link(n).map(|l| l.index);
            let (a, b) = (at(self, iface), at(self, &peer));
            for l in &mut self.facts.links {
                if l.name == iface {
                    l.parent = b;
                } else if l.name == peer {
                    l.parent = a;
                }
            }
        }
    }

    fn addresses(&mut self, index: u32, profile: &Profile) {
        self.facts.addresses.retain(|a| a.link != index);
        for section in ["ipv4", "ipv6"] {
            for d in profile.dicts(section, "address-data") {
                if let (Some(Value::Str(ip)), Some(Value::U32(prefix))) = (d.get("address"), d.get("prefix"))
                    && let Ok(ip) = ip.parse::<IpAddr>()
                {
                    let prefix = u8::try_from(*prefix).unwrap_or(0);
                    self.facts.addresses.push(Address {
                        link: index,
                        ip,
                        prefix,
                        dynamic: false,
                        valid: None,
                        preferred: None,
                        protocol: 0,
                        duplicate: false,
                    });
                }
            }
        }
    }

    fn routes(&mut self, index: u32, profile: &Profile) {
        self.facts.routes.retain(|r| r.link != Some(index) || r.protocol != 4);
        for d in ["ipv4", "ipv6"].iter().flat_map(|s| profile.dicts(s, "route-data")) {
            let text = |key: &str| match d.get(key) {
                Some(Value::Str(s)) => Some(s.as_str()),
                _ => None,
            };
            let number = |d: &Dict, key: &str| match d.get(key) {
                Some(Value::U32(v)) => Some(*v),
                _ => None,
            };
            let Some(destination) = text("dest")
                .zip(number(d, "prefix"))
                .and_then(|(a, p)| crate::state::route::net(&format!("{a}/{p}")))
            else {
                continue;
            };
            self.facts.routes.push(Route {
                destination,
                gateway: text("next-hop").and_then(|g| g.parse().ok()),
                link: Some(index),
                table: number(d, "table").unwrap_or(254),
                metric: number(d, "metric"),
                protocol: 4,
                scope: 0,
                kind: 1,
                source: text("src").and_then(|s| s.parse().ok()),
                weight: None,
                metrics: BTreeMap::new(),
            });
        }
    }

    fn rules(&mut self) {
        let active: Vec<&Profile> = self
            .facts
            .devices
            .iter()
            .filter_map(|d| self.facts.active_profile(&d.interface))
            .map(|p| &p.profile)
            .collect();
        let dicts = active
            .iter()
            .flat_map(|p| ["ipv4", "ipv6"].map(|s| p.dicts(s, "routing-rules")))
            .flatten();
        let rules = dicts.map(|d| {
            let r = crate::state::rule::Rule::from_nm(d);
            Rule {
                ipv6: r.is_ipv6(),
                from: r.ip_from.as_deref().and_then(crate::state::route::net),
                to: r.ip_to.as_deref().and_then(crate::state::route::net),
                priority: r.priority.and_then(|p| p.try_into().ok()).unwrap_or(0),
                table: r.table(),
                fwmark: r.fwmark,
                fwmask: r.fwmask,
                iif: r.iif.clone(),
                action: 1,
                suppress_prefix_length: r.suppress_prefix_length,
                protocol: 4,
            }
        });
        self.facts.rules = rules.collect();
    }
}

fn bridge(profile: &Profile) -> Vec<InfoBridge> {
    let number = |key: &str, default: u32| {
        profile
            .int("bridge", key)
            .and_then(|v| u32::try_from(v).ok())
            .unwrap_or(default)
    };
    let on = |key: &str, default: bool| profile.bool("bridge", key).unwrap_or(default);
    vec![
        InfoBridge::StpState(u32::from(on("stp", true)).into()),
        InfoBridge::Priority(u16::try_from(number("priority", 32768)).unwrap_or(0)),
        InfoBridge::ForwardDelay(number("forward-delay", 15) * 100),
        InfoBridge::HelloTime(number("hello-time", 2) * 100),
        InfoBridge::MaxAge(number("max-age", 20) * 100),
        InfoBridge::AgeingTime(number("ageing-time", 300) * 100),
        InfoBridge::MulticastSnooping(on("multicast-snooping", true)),
    ]
}
