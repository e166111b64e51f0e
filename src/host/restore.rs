//! What puts NetworkManager's profiles back by hand, where its own rollback does not: it may have been restarted and have forgotten the checkpoint,
//! and it does not bring back links that had to be deleted, profiles of devices that were down, or VPNs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Facts, SavedProfile};
use crate::plan::profiles::differing_keys;
use crate::plan::topology;
use crate::profile::Value;
use crate::scalar::{Id, Space, mac_text};

use super::kept::Written;
use crate::observation::Observation;
use crate::step::Step;

/// A profile with this uuid that stays.
fn has(facts: &Facts, uuid: &str) -> bool {
    facts.profile(uuid).is_some_and(SavedProfile::stays)
}

fn owner(saved: &SavedProfile, seen: &Observation) -> Id {
    let name = || saved.profile.str("connection", "id").unwrap_or_default();
    seen.owner(saved.uuid())
        .cloned()
        .or_else(|| saved.id())
        .unwrap_or_else(|| Id::kernel(name()))
}

/// Waves: what was changed or deleted is stored as it was, and what was active is activated. Where the checkpoint is `lost`, what is new goes first;
/// otherwise NetworkManager has seen to that, and what it activated stays, but for links that it has put the old profile on without making them anew.
pub fn waves(seen: &Observation, then: &Observation, lost: bool) -> Vec<Vec<Step>> {
    let (before, now) = (&seen.facts, &then.facts);
    // NetworkManager's rollback writes down also what it had generated itself
    let new = |p: &&SavedProfile| before.profile(p.uuid()).is_none();
    let stay = |p: &&SavedProfile| p.stays();
    let forget = now.profiles.iter().filter(stay).filter(|_| lost).filter(new);
    let forget = forget.map(|p| Step::Forget {
        iface: owner(p, then),
        uuid: p.uuid().to_owned(),
        path: p.path.clone(),
    });
    let differs = |p: &&SavedProfile| {
        now.profile(p.uuid())
            .is_none_or(|n| !differing_keys(&n.profile, &p.profile).is_empty())
    };
    let changed: Vec<&SavedProfile> = before.profiles.iter().filter(stay).filter(differs).collect();
    let save = changed.iter().map(|p| Step::Save {
        iface: owner(p, seen),
        profile: p.profile.clone(),
        path: now.profile(p.uuid()).map(|n| n.path.clone()),
        memory_only: !p.persistent(),
    });
    let mut waves: Vec<Vec<Step>> = vec![forget.collect(), save.collect()];
    waves.extend(activations(seen, then, |iface, uuid| {
        let same = now.active(iface).is_some_and(|a| a.uuid == uuid);
        match lost {
            true => !same || changed.iter().any(|p| p.uuid() == uuid),
            false => now.active(iface).is_none(),
        }
    }));
    waves.retain(|wave| !wave.is_empty());
    waves
}

/// Waves: what NetworkManager has made anew, but not as it was, is activated once more, and what hangs on it with it: links that have lost the MAC
/// address of their profile, and links of software that would not come back when somebody deletes them, or the card below them goes for a while.
pub fn again(seen: &Observation, then: &Observation, written: &Written) -> Vec<Vec<Step>> {
    let software = |iface: &Id| seen.interface(iface).is_some_and(|i| i.kind.is_virtual());
    // NetworkManager 1.42 loses links in Open vSwitch when it is to activate them while they settle
    let in_ovs = |iface: &Id| {
        matches!(iface.space, Space::OvsBridge | Space::OvsPort) || seen.facts.ovs_interface(&iface.name).is_some()
    };
    let same = |iface: &Id, uuid: &str| then.facts.active(iface).is_some_and(|a| a.uuid == uuid);
    let mut waves = activations(seen, then, |iface, uuid| {
        let held_back = software(iface) && !in_ovs(iface) && same(iface, uuid) && written.holds_back(iface, uuid);
        held_back || readdressed(iface, uuid, &seen.facts, &then.facts)
    });
    waves.retain(|wave| !wave.is_empty());
    waves
}

/// A link of software that NetworkManager has made anew and udev has given another MAC address than that of its profile, as it looked before
/// NetworkManager set that and wrote after it (systemd.link(5), `MACAddressPolicy=persistent`).
fn readdressed(iface: &Id, uuid: &str, before: &Facts, now: &Facts) -> bool {
    let mac = |facts: &Facts| facts.link(&iface.name).filter(|l| l.kind.is_some())?.mac.clone();
    let (had, has) = (mac(before), mac(now));
    let profile = before.profile(uuid).map(|p| &p.profile);
    let given = match profile.and_then(|p| p.get("802-3-ethernet", "cloned-mac-address")) {
        Some(Value::Bytes(mac)) => Some(mac_text(mac)),
        _ => None,
    };
    has.is_some() && given.is_some() && had == given && had != has
}

/// Profiles that were on disk and are in memory only.
pub fn in_memory<'a>(before: &Facts, now: &'a Facts) -> impl Iterator<Item = &'a SavedProfile> {
    let kept = |p: &SavedProfile| p.stays() && before.profile(p.uuid()).is_some_and(SavedProfile::persistent);
    now.profiles.iter().filter(move |p| !p.persistent() && kept(p))
}

/// What was up with which profile, what others stand on first.
fn were_up(seen: &Observation) -> Vec<(usize, Id, &str)> {
    let before = &seen.facts;
    let devices = before.devices.iter().filter(|d| d.state == 100 && !d.external());
    let devices = devices.filter_map(|d| Some((d.id(), d.active.as_ref()?.uuid.as_str())));
    // NM_ACTIVE_CONNECTION_STATE_ACTIVATED
    let vpns = before.vpns.iter().filter(|a| a.state == 2);
    let vpns = vpns.filter_map(|a| Some((before.profile(&a.uuid)?.id()?, a.uuid.as_str())));
    // a VPN runs over what is there
    let depth = |iface: &Id| match iface.space {
        Space::Vpn => usize::MAX,
        _ => topology::depth(iface, &topology::Graph::new(), seen),
    };
    let ups = devices.chain(vpns).map(|(iface, uuid)| (depth(&iface), iface, uuid));
    let mut ups: Vec<_> = ups.collect();
    ups.sort_by_key(|(depth, ..)| *depth);
    ups
}

/// First links that must be made anew go down; then what is not up, `gone` says, comes up again, and what hangs on it with it.
fn activations(seen: &Observation, then: &Observation, gone: impl Fn(&Id, &str) -> bool) -> Vec<Vec<Step>> {
    let mut deactivate = vec![];
    let mut again: BTreeSet<Id> = BTreeSet::new();
    let mut activate: BTreeMap<usize, Vec<Step>> = BTreeMap::new();
    for (depth, iface, uuid) in were_up(seen) {
        if !has(&seen.facts, uuid) {
            continue;
        }
        let kinds = seen.interface(&iface).zip(then.interface(&iface));
        let another =
            kinds.is_some_and(|(old, new)| old.kind.must_recreate(&new.kind)) && then.facts.active(&iface).is_some();
        if another {
            deactivate.push(Step::Deactivate { iface: iface.clone() });
        }
        let own = another || gone(&iface, uuid);
        let follows = topology::stands_on(&iface, seen)
            .iter()
            .any(|base| again.contains(base));
        if own || follows {
            again.insert(iface.clone());
            activate.entry(depth).or_default().push(Step::Activate {
                iface,
                uuid: uuid.to_owned(),
                follows: !own,
            });
        }
    }
    [deactivate].into_iter().chain(activate.into_values()).collect()
}

/// Interfaces that were up and are not any more.
pub fn lost(before: &Facts, now: &Facts) -> Vec<String> {
    let up = |d: &&crate::facts::Device| d.state == 100;
    let gone = |d: &&crate::facts::Device| now.device_of(&d.id()).is_none_or(|n| n.state != 100);
    before
        .devices
        .iter()
        .filter(up)
        .filter(gone)
        .map(|d| d.interface.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{InfoData, InfoVlan};

    use super::*;
    use crate::facts::{Active, Device, Link};
    use crate::profile::Profile;

    fn saved(uuid: &str, iface: &str, mtu: u32, flags: u32) -> SavedProfile {
        let mut profile = Profile::default();
        profile.put("connection", "uuid", uuid);
        profile.put("connection", "type", "802-3-ethernet");
        profile.put("connection", "interface-name", iface);
        profile.put("802-3-ethernet", "mtu", mtu);
        SavedProfile {
            path: format!("/{uuid}"),
            profile,
            flags,
            filename: format!("/etc/{uuid}"),
            ..SavedProfile::default()
        }
    }

    fn node(profiles: Vec<SavedProfile>, active: &[(&str, &str)]) -> Facts {
        let device = |(iface, uuid): &(&str, &str)| Device {
            interface: (*iface).into(),
            device_type: 1,
            state: 100,
            active: Some(Active {
                uuid: (*uuid).into(),
                ..Active::default()
            }),
            ..Device::default()
        };
        Facts {
            profiles,
            devices: active.iter().map(device).collect(),
            ..Facts::default()
        }
    }

    fn shown(before: &Facts, now: &Facts) -> Vec<String> {
        waves(&Observation::new(before.clone()), &Observation::new(now.clone()), true)
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_is_new_goes_and_what_was_changed_or_deleted_comes_back() {
        let before = node(
            vec![
                saved("a", "eth1", 1500, 0),
                saved("b", "eth2", 1500, 0),
                saved("x", "eth3", 1500, 2),
            ],
            &[("eth1", "a"), ("eth2", "b"), ("eth3", "x")],
        );
        let mut now = node(
            vec![
                saved("a", "eth1", 1400, 0),
                saved("c", "eth2", 1500, 0),
                saved("y", "eth3", 1500, 2),
            ],
            &[("eth1", "a"), ("eth2", "c"), ("eth3", "y")],
        );
        now.profiles[2].profile.put("connection", "timestamp", 1u64);
        let want = [
            "forget eth2",
            "save eth1",
            "save eth2",
            "activate eth1",
            "activate eth2",
        ];
        assert_eq!(shown(&before, &now), want);
        assert_eq!(shown(&before, &before), [""; 0]);
        let kept = waves(&Observation::new(before.clone()), &Observation::new(now.clone()), false).concat();
        let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["save eth1", "save eth2"]);
        assert!(lost(&before, &now).is_empty());
        assert_eq!(lost(&before, &node(vec![], &[("eth1", "a")])), ["eth2", "eth3"]);
    }
    #[test]
    fn a_link_that_the_change_made_anew_is_made_anew_again() {
        let vlan = |id: u16| {
            let mut facts = node(vec![saved("v", "eth1.5", 1500, 0)], &[("eth1.5", "v")]);
            facts.links = vec![Link {
                name: "eth1.5".into(),
                kind: Some("vlan".into()),
                data: Some(InfoData::Vlan(vec![InfoVlan::Id(id)])),
                ..Link::default()
            }];
            Observation::new(facts)
        };
        let steps = |now: &Observation| -> Vec<String> {
            let waves = waves(&vlan(5), now, false);
            waves.concat().iter().map(ToString::to_string).collect()
        };
        assert_eq!(steps(&vlan(6)), ["deactivate eth1.5", "activate eth1.5"]);
        assert_eq!(steps(&vlan(5)), [""; 0]);
    }

    #[test]
    fn a_link_made_anew_has_the_address_of_its_profile_again() {
        let dummy = |mac: &str, kind: Option<&str>| {
            let mut profile = saved("d", "du0", 1500, 0);
            let given = vec![2u8, 0, 0, 0, 0, 1];
            profile.profile.put("802-3-ethernet", "cloned-mac-address", given);
            let mut facts = node(vec![profile], &[("du0", "d")]);
            facts.links = vec![Link {
                name: "du0".into(),
                kind: kind.map(str::to_owned),
                mac: Some(mac.into()),
                ..Link::default()
            }];
            Observation::new(facts)
        };
        let steps = |was: &Observation, is: &Observation| -> Vec<String> {
            let waves = again(was, is, &Written::default());
            waves.concat().iter().map(ToString::to_string).collect()
        };
        let (own, udevs) = ("02:00:00:00:00:01", "0E:E2:A6:2F:FE:D1");
        let software = |mac| dummy(mac, Some("dummy"));
        assert_eq!(steps(&software(own), &software(udevs)), ["activate du0"]);
        assert_eq!(steps(&software(own), &software(own)), [""; 0]);
        // it was not that of its profile before either
        assert_eq!(steps(&software(udevs), &software(own)), [""; 0]);
        assert_eq!(
            steps(&dummy(own, None), &dummy(udevs, None)),
            [""; 0],
            "a card keeps its own"
        );
    }
}
