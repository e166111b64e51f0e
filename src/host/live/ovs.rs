//! What NetworkManager gets wrong about Open vSwitch, most of it with the userspace datapath; seen with 1.42.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{LiveHost, Rest, STILL, at_rest};
use crate::facts::{Device, Facts, Link, Ovs, OvsInterface, SavedProfile};
use crate::host::Host;
use crate::observation::Observation;
use crate::profile::Profile;
use crate::scalar::{Id, Space};
use crate::step::Step;

/// How long an internal interface may wait for its link: it is a matter of milliseconds.
const HANGS: Duration = Duration::from_secs(1);
/// NM_SETTINGS_CONNECTION_FLAG_EXTERNAL: a profile that only mirrors what somebody else made.
const EXTERNAL: u32 = 0x8;

/// Waits for no server.
fn static_ip(profile: &Profile) -> bool {
    let method = |section| profile.str(section, "method").unwrap_or("disabled");
    ["ipv4", "ipv6"]
        .iter()
        .all(|section| matches!(method(section), "manual" | "disabled" | "link-local" | "ignore"))
}

/// Its device waits for a link, as it can wait for no server (NM_DEVICE_STATE_IP_CONFIG, 70).
fn waits_for_link(id: &Id, uuid: &str, facts: &Facts) -> bool {
    facts.device_of(id).is_some_and(|d| d.state == 70) && facts.profile(uuid).is_some_and(|p| static_ip(&p.profile))
}

/// A tap that no program holds open, not Open vSwitch either.
fn nobodys_tap(link: &Link) -> bool {
    link.kind.as_deref() == Some("tun") && !link.carrier
}

/// Interfaces with their profiles that have missed their bridge or their link, or that have lost it again.
fn lost(before: &Facts, was: &Ovs, now: &Facts) -> Vec<(Id, String)> {
    let lost = |(name, row): (&String, &OvsInterface)| {
        let uuid = row.ids.nm_uuid().filter(|uuid| now.profile(uuid).is_some())?;
        let id = Id::kernel(name);
        let there = now.ovs_interface(name).is_some();
        let linkless = before.link(name).is_some() && now.link(name).is_none_or(nobodys_tap);
        (!there || linkless || waits_for_link(&id, uuid, now)).then(|| (id, uuid.to_owned()))
    };
    was.interfaces.iter().filter_map(lost).collect()
}

impl LiveHost {
    /// Brings back what NetworkManager's rollback has lost: it activates ports before their bridge is up again, and gives up on them.
    pub(super) async fn restore_ovs(&self, before: &Facts) {
        let Some(was) = before
            .ovs
            .as_ref()
            .filter(|o| o.bridges.values().any(|b| b.ids.nm_uuid().is_some()))
        else {
            return;
        };
        for _ in 0..3 {
            let Some((seen, lost)) = self.rest_without_taps(before, was).await else {
                return;
            };
            if lost.is_empty() {
                return self.forget_mirrors(before, was, &seen).await;
            }
            for (id, uuid) in lost {
                warn!("NetworkManager did not bring {id} back into Open vSwitch; activating it");
                if let Err(e) = self.activate(&id, &uuid).await {
                    warn!("{e}");
                }
            }
        }
    }

    /// Without the kernel module an internal interface is a tap, which NetworkManager shows as an external device of its own. Its rollback
    /// makes a tap of that, which then is in Open vSwitch's way.
    ///
    /// Says what is lost after all have come to rest and what waits for its link has had its time.
    async fn rest_without_taps(&self, before: &Facts, was: &Ovs) -> Option<(Observation, Vec<(Id, String)>)> {
        let mut wait = Rest::begin();
        let mut removed = false;
        loop {
            let seen = self.observe().await.ok()?;
            let made = |d: &&Device| {
                was.interfaces.get(&d.interface).is_some_and(|r| r.kind == "internal")
                    && seen.facts.link(&d.interface).is_some_and(nobodys_tap)
            };
            for tap in seen.facts.taps.iter().filter(made) {
                debug!("removing the tap {} that NetworkManager made", tap.interface);
                removed = true;
                if let Err(e) = self.nm.remove_link(&tap.interface, &tap.path).await {
                    debug!("{e}");
                }
            }
            let lost = lost(before, was, &seen.facts);
            // what was in its way has kept its link from being made at all
            let resting = match removed {
                true => !seen.facts.devices.iter().any(Device::moving),
                false => at_rest(&seen.facts, wait.begin),
            };
            if wait.is_over(resting, lost.is_empty()) {
                return Some((seen, lost));
            }
            self.changed(STILL / 4).await;
        }
    }

    /// Profiles that only mirrored a tap, of which the rollback has written files: at the next start they would make taps.
    async fn forget_mirrors(&self, before: &Facts, was: &Ovs, seen: &Observation) {
        let devices = seen.facts.taps.iter().chain(&seen.facts.devices);
        let active: Vec<&str> = devices.filter_map(|d| Some(d.active.as_ref()?.uuid.as_str())).collect();
        let written = |p: &&SavedProfile| {
            let mirror = before.profile(p.uuid()).is_some_and(|b| b.flags & EXTERNAL != 0);
            p.flags & EXTERNAL == 0 && mirror && p.profile.str("connection", "type") == Some("tun")
        };
        let mirrors = seen
            .facts
            .profiles
            .iter()
            .filter(written)
            .filter(|p| !active.contains(&p.uuid()));
        let mirrors = mirrors.map(|p| (p.interface().unwrap_or_default(), &p.path));
        for (name, path) in mirrors.filter(|(name, _)| was.interfaces.contains_key(*name)) {
            debug!("forgetting the profile that NetworkManager wrote of the tap {name}");
            if let Err(e) = self.nm.forget(name, path).await {
                debug!("{e}");
            }
        }
    }

    /// NetworkManager 1.42 may miss the tap of an internal interface that comes up and wait for it for ever: what hangs is begun again.
    pub(in crate::host) async fn wake(&self, wave: &[Step]) {
        let started = |s: &Step| match s {
            Step::Activate { iface, uuid, .. } if iface.space == Space::Kernel => Some((iface.clone(), uuid.clone())),
            _ => None,
        };
        let started: Vec<(Id, String)> = wave.iter().filter_map(started).collect();
        if started.is_empty() || !self.ovs.is_there() {
            return;
        }
        for _ in 0..3 {
            let begin = Instant::now();
            let hanging = loop {
                let Ok(seen) = self.observe().await else { return };
                let hangs = |(id, uuid): &&(Id, String)| {
                    let tap = seen.facts.taps.iter().any(|d| d.interface == id.name);
                    tap && waits_for_link(id, uuid, &seen.facts)
                };
                let hanging: Vec<(Id, String)> = started.iter().filter(hangs).cloned().collect();
                if hanging.is_empty() || begin.elapsed() >= HANGS {
                    break hanging;
                }
                self.changed(HANGS / 4).await;
            };
            for (id, uuid) in &hanging {
                debug!("{id} waits for a link that is there; activating it again");
                let _ = self.activate(id, uuid).await;
            }
            if hanging.is_empty() {
                return;
            }
        }
    }
}
