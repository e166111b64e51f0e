//! What is kept on disk while a transaction is under way, so that whoever finds it after a crash can lead the node back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::provisional::stands_in;
use crate::error::Invalid;
use crate::facts::{Active, Device, Facts, Ovs, SavedProfile};
use crate::observation::Observation;
use crate::plan::profiles::differing_keys;
use crate::plan::topology;
use crate::profile::Profile;
use crate::scalar::{Id, Space};
use crate::state::NetworkState;
use crate::step::Step;

/// The node before the change: as much of a reading as it takes to put back what was. With secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Before {
    state: serde_json::Value,
    devices: Vec<Device>,
    vpns: Vec<Active>,
    profiles: Vec<SavedProfile>,
    ovs: Option<Ovs>,
}

impl Before {
    /// Of this reading.
    pub fn of(seen: &Observation) -> Self {
        Before {
            state: seen.state.to_json(),
            devices: seen.facts.devices.clone(),
            vpns: seen.facts.vpns.clone(),
            profiles: seen.facts.profiles.clone(),
            ovs: seen.facts.ovs.clone(),
        }
    }

    /// The reading again.
    pub fn observation(self) -> Result<Observation, Invalid> {
        let state = NetworkState::from_json(self.state)?;
        let facts = Facts {
            devices: self.devices,
            vpns: self.vpns,
            profiles: self.profiles,
            ovs: self.ovs,
            ..state.skeleton()
        };
        Ok(Observation::told(facts, state))
    }
}

/// What a transaction has done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Profiles by `connection.uuid`, as it saved them; None for those that it deleted.
    profiles: BTreeMap<String, Option<Profile>>,
    /// Interfaces that it took down.
    down: BTreeSet<Id>,
    /// Profiles by `connection.uuid` that it activated.
    #[serde(skip)]
    activated: BTreeSet<String>,
}

impl Written {
    /// Adds what these steps do. Says whether that is anything that has to be undone.
    pub fn note(&mut self, wave: &[Step]) -> bool {
        let mut any = false;
        self.note_activated(wave);
        for step in wave {
            match step {
                Step::Save { profile, .. } => {
                    let uuid = profile.str("connection", "uuid").unwrap_or_default().to_owned();
                    self.profiles.insert(uuid, Some(profile.clone()));
                }
                Step::Forget { uuid, .. } => drop(self.profiles.insert(uuid.clone(), None)),
                Step::Disconnect { iface } | Step::Deactivate { iface } | Step::RemoveLink { iface } => {
                    self.down.insert(iface.clone());
                }
                Step::Activate { .. } | Step::Reapply { .. } | Step::Effect(_) => continue,
            }
            any = true;
        }
        any
    }

    /// Adds what these steps activate.
    pub fn note_activated(&mut self, wave: &[Step]) {
        let activated = wave.iter().filter_map(|step| match step {
            Step::Activate { uuid, .. } => Some(uuid.clone()),
            _ => None,
        });
        self.activated.extend(activated);
    }

    /// Still as the transaction saved it. NetworkManager adds keys of its own; what it was given it keeps.
    fn is_ours(&self, now: &SavedProfile) -> bool {
        let saved = match self.profiles.get(now.uuid()) {
            None => return false,
            Some(None) => return stands_in(now),
            Some(Some(saved)) => saved,
        };
        let given = |key: &String| {
            let (setting, key) = key.split_once('.').unwrap_or((key, ""));
            saved.settings.get(setting).is_some_and(|s| s.contains_key(key))
        };
        !differing_keys(saved, &now.profile).iter().any(given)
    }

    /// It saved or took down something of this interface.
    pub fn names(&self, iface: &Id) -> bool {
        let saved = self.profiles.values().flatten();
        let mut saved = saved.filter_map(|p| p.str("connection", "interface-name"));
        self.down.contains(iface) || (iface.space == Space::Kernel && saved.any(|name| name == iface.name))
    }

    /// NetworkManager takes it for something that somebody wants to be down until it is told over D-Bus to activate it: its own rollback, which
    /// brings it up again, does not count (`NM_SETTINGS_AUTOCONNECT_BLOCKED_REASON_USER_REQUEST`).
    pub fn holds_back(&self, iface: &Id, uuid: &str) -> bool {
        let taken = self.down.contains(iface) || self.profiles.get(uuid).is_some_and(Option::is_none);
        taken && !self.activated.contains(uuid)
    }

    /// All that was saved is there as it was saved, and what was deleted is gone.
    pub fn is_whole(&self, now: &Facts) -> bool {
        self.profiles.iter().all(|(uuid, saved)| match now.profile(uuid) {
            Some(there) => saved.is_some() && self.is_ours(there),
            None => saved.is_none(),
        })
    }

    /// The node before the change, but for what others have done since: that is taken for what was.
    pub fn before(&self, before: Observation, now: &Facts) -> Observation {
        let ours = |a: &&Active| self.profiles.contains_key(&a.uuid);
        let written = |id: &Id| {
            let active = [before.facts.active(id), now.active(id)];
            self.down.contains(id) || active.iter().flatten().any(ours)
        };
        // what hangs on it went down with it
        let touched = |id: &Id| written(id) || topology::stands_on(id, &before).iter().any(written);
        let mut devices = before.facts.devices.clone();
        for device in devices.iter_mut().filter(|d| !touched(&d.id())) {
            let then = now.device_of(&device.id());
            device.state = then.map_or(0, |d| d.state);
            device.active = then.and_then(|d| d.active.clone());
        }
        let kept = |p: &&SavedProfile| match now.profiles.iter().find(|n| n.uuid() == p.uuid()) {
            Some(there) => self.is_ours(there),
            None => self.profiles.get(p.uuid()).is_some_and(Option::is_none),
        };
        let mut profiles: Vec<SavedProfile> = before.facts.profiles.iter().filter(kept).cloned().collect();
        profiles.extend(now.profiles.iter().filter(|p| !self.is_ours(p)).cloned());
        let Observation { facts, state, .. } = before;
        let facts = Facts {
            devices,
            profiles,
            ..facts
        };
        Observation::told(facts, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(uuid: &str, mtu: u32) -> SavedProfile {
        let mut profile = Profile::default();
        profile.put("connection", "uuid", uuid);
        profile.put("802-3-ethernet", "mtu", mtu);
        SavedProfile {
            profile,
            ..SavedProfile::default()
        }
    }

    fn node(profiles: &[(&str, u32)], active: &[(&str, &str)]) -> Facts {
        let device = |(iface, uuid): &(&str, &str)| Device {
            interface: (*iface).to_owned(),
            active: Some(Active {
                uuid: (*uuid).to_owned(),
                ..Active::default()
            }),
            ..Device::default()
        };
        Facts {
            profiles: profiles.iter().map(|(uuid, mtu)| saved(uuid, *mtu)).collect(),
            devices: active.iter().map(device).collect(),
            ..Facts::default()
        }
    }

    #[test]
    fn a_commit_is_whole_when_all_of_it_is_on_disk() {
        let written = Written {
            profiles: BTreeMap::from([("a".to_owned(), Some(saved("a", 1400).profile)), ("b".to_owned(), None)]),
            ..Written::default()
        };
        let whole = |profiles: &[(&str, u32)]| written.is_whole(&node(profiles, &[]));
        assert!(whole(&[("a", 1400), ("c", 1500)]));
        assert!(!whole(&[("a", 1500)]), "as it was before");
        assert!(!whole(&[("a", 1400), ("b", 1500)]), "not deleted");
        assert!(!whole(&[]));
    }

    #[test]
    fn what_was_taken_down_is_held_back_until_it_is_activated() {
        let (d0, d1, d2) = (Id::kernel("d0"), Id::kernel("d1"), Id::kernel("d2"));
        let mut written = Written::default();
        let activate = [Step::Activate {
            iface: d0.clone(),
            uuid: "new".to_owned(),
            follows: false,
        }];
        let set_aside = Step::Forget {
            iface: d1.clone(),
            uuid: "gone".to_owned(),
            path: String::new(),
        };
        assert!(written.note(&[Step::Deactivate { iface: d0.clone() }, set_aside]));
        assert!(!written.note(&activate), "it needs no undoing");
        assert!(written.holds_back(&d0, "old") && written.holds_back(&d1, "gone"));
        assert!(!written.holds_back(&d0, "new") && !written.holds_back(&d2, "other"));
    }

    #[test]
    fn what_others_did_since_is_taken_for_what_was() {
        let changed = |uuid: &str| (uuid.to_owned(), Some(saved(uuid, 1400).profile));
        let written = Written {
            profiles: BTreeMap::from([
                changed("ours"),
                changed("ours-changed-by-them"),
                changed("ours-deleted-by-them"),
                changed("new"),
                ("deleted-by-us".to_owned(), None),
            ]),
            down: BTreeSet::from([Id::kernel("eth4")]),
            ..Written::default()
        };
        let names = [
            "ours",
            "ours-changed-by-them",
            "ours-deleted-by-them",
            "deleted-by-us",
            "old",
        ];
        let was = node(
            &names.map(|n| (n, 1500)),
            &[("eth1", "ours"), ("eth2", "old"), ("eth3", "old"), ("eth4", "old")],
        );
        // NetworkManager adds keys of its own
        let mut now = node(
            &[
                ("ours", 1400),
                ("ours-changed-by-them", 9000),
                ("new", 1400),
                ("old", 1500),
                ("theirs", 1500),
            ],
            &[("eth1", "new"), ("eth2", "theirs")],
        );
        now.profiles[0].profile.put("connection", "timestamp", 1u64);
        now.profiles[0].profile.put("ipv4", "method", "auto");
        let then = written.before(Observation::new(was), &now);
        let mut kept: Vec<(&str, u64)> = then
            .facts
            .profiles
            .iter()
            .map(|p| {
                (
                    p.uuid(),
                    p.profile.int("802-3-ethernet", "mtu").unwrap_or(0).unsigned_abs(),
                )
            })
            .collect();
        kept.sort_unstable();
        let want = [
            ("deleted-by-us", 1500),
            ("old", 1500),
            ("ours", 1500),
            ("ours-changed-by-them", 9000),
            ("theirs", 1500),
        ];
        assert_eq!(kept, want);
        let active = |name: &str| then.facts.active(&Id::kernel(name)).map(|a| a.uuid.as_str());
        // one was taken down by somebody, one by us
        let want = [Some("ours"), Some("theirs"), None, Some("old")];
        assert_eq!(["eth1", "eth2", "eth3", "eth4"].map(active), want);
    }
}
