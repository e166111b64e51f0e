//! Until the node has proven itself, nothing of a change is on its disk: one that loses power in the middle of it comes up with the network it had,
//! also where no agent can start without that network. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::{Facts, SavedProfile};
use crate::profile::Profile;

/// A profile that is as yet in memory only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Interface it belongs to.
    pub label: String,
    /// D-Bus path.
    pub path: String,
}

/// What NetworkManager holds in memory and is to write to disk, or to delete there, when the change is kept. By `connection.uuid`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisional {
    saved: BTreeMap<String, Pending>,
    forgotten: BTreeMap<String, Pending>,
}

fn pending(label: &str, path: &str) -> Pending {
    Pending {
        label: label.to_owned(),
        path: path.to_owned(),
    }
}

impl Provisional {
    /// A profile was saved in memory.
    pub fn save(&mut self, uuid: &str, label: &str, path: &str) {
        self.saved.insert(uuid.to_owned(), pending(label, path));
    }

    /// A profile is to go. Gives the stand-in that takes its place until then; None where it may be deleted at once, as the change itself made
    /// it or it comes and goes by itself.
    pub fn forget(&mut self, before: &Facts, uuid: &str, label: &str, path: &str) -> Option<Profile> {
        self.saved.remove(uuid);
        let instead = stand_in(before.profile(uuid)?)?;
        self.forgotten.insert(uuid.to_owned(), pending(label, path));
        Some(instead)
    }

    /// Profiles to write to disk, by uuid.
    pub fn saved(&self) -> impl Iterator<Item = (&String, &Pending)> {
        self.saved.iter()
    }

    /// Profiles to delete.
    pub fn forgotten(&self) -> impl Iterator<Item = &Pending> {
        self.forgotten.values()
    }

    /// The facts as they will be when the change is kept.
    pub fn foretell(&self, facts: &mut Facts) {
        facts.profiles.retain(|p| !self.forgotten.contains_key(p.uuid()));
        for saved in facts.profiles.iter_mut().filter(|p| self.saved.contains_key(p.uuid())) {
            saved.unsaved = false;
            saved.flags &= !1;
            saved.filename = format!("/etc/NetworkManager/system-connections/{}", saved.uuid());
        }
    }
}

/// The link of a stand-in.
const NOBODY: &str = "to-be-deleted";

/// Whether this is a stand-in.
pub fn stands_in(saved: &SavedProfile) -> bool {
    saved.interface() == Some(NOBODY)
}

/// It is nobody's. None for a profile that comes and goes by itself.
fn stand_in(saved: &SavedProfile) -> Option<Profile> {
    if !saved.stays() {
        return None;
    }
    let mut profile = Profile::default();
    for (key, value) in [
        ("id", saved.profile.str("connection", "id").unwrap_or_default()),
        ("uuid", saved.uuid()),
        ("type", "802-3-ethernet"),
        ("interface-name", NOBODY),
    ] {
        profile.put("connection", key, value);
    }
    profile.put("connection", "autoconnect", false);
    Some(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(uuid: &str, flags: u32) -> SavedProfile {
        let mut profile = Profile::default();
        profile.put("connection", "uuid", uuid);
        profile.put("connection", "id", "mine");
        profile.put("connection", "interface-name", "br0");
        profile.put("bridge", "stp", true);
        SavedProfile {
            path: format!("/{uuid}"),
            profile,
            flags,
            unsaved: true,
            filename: format!("/run/{uuid}"),
        }
    }

    #[test]
    fn what_is_to_be_kept_and_deleted_is_foretold() {
        let mut pending = Provisional::default();
        for uuid in ["a", "b", "gone"] {
            pending.save(uuid, "br0", &format!("/{uuid}"));
        }
        let before = Facts {
            profiles: vec![saved("a", 1), saved("b", 1)],
            ..Facts::default()
        };
        assert!(pending.forget(&before, "b", "br0", "/b").is_some());
        assert!(
            pending.forget(&before, "gone", "br0", "/gone").is_none(),
            "nobody had it before"
        );
        let paths = |list: Vec<&Pending>| list.into_iter().map(|p| p.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(pending.saved().map(|(_, at)| at).collect()), ["/a"]);
        assert_eq!(paths(pending.forgotten().collect()), ["/b"]);
        let mut facts = Facts {
            profiles: vec![saved("a", 1), saved("b", 1), saved("c", 1)],
            ..Facts::default()
        };
        pending.foretell(&mut facts);
        let told: Vec<_> = facts
            .profiles
            .iter()
            .map(|p| (p.uuid(), p.persistent() && !p.unsaved))
            .collect();
        assert_eq!(told, [("a", true), ("c", false)]);
    }

    #[test]
    fn a_stand_in_is_nobodys() {
        let there = stand_in(&saved("a", 1)).expect("it stays");
        assert_eq!(there.settings.keys().collect::<Vec<_>>(), ["connection"]);
        assert_eq!(there.bool("connection", "autoconnect"), Some(false));
        let id = |p: &Profile| p.str("connection", "id").map(str::to_owned);
        assert_eq!(
            (id(&there).as_deref(), there.str("connection", "uuid")),
            (Some("mine"), Some("a"))
        );
        assert!(stand_in(&saved("a", 2)).is_none(), "NetworkManager's own");
    }
}
