//! Host names, and the global row of Open vSwitch: what belongs to the node as a whole and is kept outside profiles.

use crate::error::{ErrorKind, Invalid};
use crate::observation::Observation;
use crate::scalar::{Id, Space};
use crate::state::ovn::{self, Ovn};
use crate::state::ovs_db;
use crate::state::{Hostname, NetworkState};
use crate::step::Effect;

use super::Sections;

/// The running and the static host name.
pub fn hostname(resolved: &NetworkState, seen: &Observation, out: &mut Sections) {
    let Some(Hostname { running, config }) = &resolved.hostname else {
        return;
    };
    let now = &seen.facts.hostname;
    let kept = now.config.as_deref().unwrap_or_default();
    let changed = config.as_deref().filter(|n| *n != kept);
    if let Some(name) = changed {
        out.effects.push(Effect::StaticHostname(name.to_owned()));
    }
    // systemd-hostnamed makes a new static name the running one, and `localhost` of none
    let running_now = now.running.as_ref().filter(|_| changed == Some(""));
    let stays = running.as_ref().or(running_now);
    if let Some(name) = stays.filter(|n| changed.is_some() || now.running.as_ref() != Some(n)) {
        out.effects.push(Effect::RunningHostname(name.clone()));
    }
    let kept = config.as_ref().or(now.config.as_ref()).filter(|n| is_specific(n));
    if let (Some(running), Some(kept)) = (running, kept)
        && running != kept
    {
        out.warnings.push(format!(
            "hostname.running: NetworkManager puts the static name '{kept}' in its place whenever a device changes; give both the same name to keep it"
        ));
    }
}

/// Whether NetworkManager takes a static name for the node's own (`nm_utils_is_specific_hostname`): no name of the loopback.
fn is_specific(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("localhost") && name != "(none)"
}

/// Keys of the global row of Open vSwitch: its own section's, and the one in which OVN keeps its mappings.
pub fn ovs(resolved: &NetworkState, seen: &Observation, out: &mut Sections) -> Result<(), Invalid> {
    let section = match (&resolved.ovs_db, &resolved.ovn) {
        (None, None) => return Ok(()),
        (Some(_), _) => "ovs-db",
        (None, Some(_)) => "ovn",
    };
    let Some(database) = &seen.facts.ovs else {
        return Err(Invalid::of(ErrorKind::PluginFailure, section, ovs_db::SILENT));
    };
    let now = &database.ids;
    let wish = resolved.ovs_db.clone().unwrap_or_default();
    let mut external_ids = ovs_db::change(wish.external_ids.as_ref(), &now.external_ids);
    let other_config = ovs_db::change(wish.other_config.as_ref(), &now.other_config);
    if let Some(ovn) = &resolved.ovn {
        bridges_exist(ovn, resolved, seen)?;
        let mappings = ovn::current(&seen.facts);
        let merged = ovn.merge(&mappings);
        if merged != mappings {
            external_ids.insert(ovn::KEY.to_owned(), ovn::text(&merged));
        }
    }
    if !external_ids.is_empty() || !other_config.is_empty() {
        out.effects.push(Effect::OvsDb {
            external_ids,
            other_config,
        });
    }
    Ok(())
}

/// A mapping names a bridge that there is and that stays.
fn bridges_exist(ovn: &Ovn, resolved: &NetworkState, seen: &Observation) -> Result<(), Invalid> {
    let now = ovn::current(&seen.facts);
    for (i, mapping) in ovn.mappings().enumerate().filter(|(_, m)| !m.is_absent()) {
        let Some(bridge) = &mapping.bridge else { continue };
        let id = Id::in_space(bridge.clone(), Space::OvsBridge);
        let wish = resolved.interfaces.iter().find(|w| w.id() == id);
        let there = seen.facts.ovs.as_ref().is_some_and(|o| o.bridges.contains_key(bridge));
        let why = match wish {
            Some(wish) if !wish.is_up() => "is not up after the same document",
            // it may have been mapped before it is made
            None if now.get(&mapping.localnet) == Some(bridge) => continue,
            None if !there => "is no bridge of Open vSwitch on the node, nor in this document",
            _ => continue,
        };
        let path = format!("ovn.bridge-mappings[{i}].bridge");
        return Err(Invalid::new(path, format!("'{bridge}' {why}")));
    }
    Ok(())
}
