//! What an undo needs beyond what is published: the secrets. A document that has some is kept whole on the node, for root only.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Invalid;
use crate::host::files;
use crate::state::{HIDDEN, NetworkState};

/// `<state-dir>/inverse/<policy>.json`.
#[derive(Debug, Clone)]
pub struct Inverses {
    dir: PathBuf,
}

/// As it is published.
pub fn published(inverse: &NetworkState) -> Value {
    let mut shown = inverse.to_json();
    NetworkState::hide_secrets_in(&mut shown);
    shown
}

impl Inverses {
    /// Those in this state directory.
    pub fn in_dir(state_dir: &Path) -> Self {
        Inverses {
            dir: state_dir.join("inverse"),
        }
    }

    fn file(&self, policy: &str) -> PathBuf {
        self.dir.join(format!("{policy}.json"))
    }

    /// Keeps what cannot be read from what is published.
    pub fn keep(&self, policy: &str, inverse: &NetworkState) -> std::io::Result<()> {
        if published(inverse) == inverse.to_json() {
            self.forget(policy);
            return Ok(());
        }
        self.keep_whole(policy, inverse)
    }

    /// Keeps it where nothing is published.
    pub fn keep_whole(&self, policy: &str, inverse: &NetworkState) -> std::io::Result<()> {
        let whole = inverse.to_json();
        files::write(&self.file(policy), &whole.to_string(), 0o600, true)
    }

    /// The document behind what is published; a fault where its secrets are not known.
    pub fn read(&self, policy: &str, shown: &Value) -> Result<NetworkState, Invalid> {
        if !shown.to_string().contains(HIDDEN) {
            return NetworkState::from_json(shown.clone());
        }
        let unknown = || {
            Invalid::new(
                "status.revertState",
                format!(
                    "it holds secrets that only {} knew; delete the enactment to leave the node as it is",
                    self.file(policy).display()
                ),
            )
        };
        self.whole(policy)
            .filter(|kept| published(kept) == *shown)
            .ok_or_else(unknown)
    }

    /// What is kept.
    pub fn whole(&self, policy: &str) -> Option<NetworkState> {
        let text = fs::read_to_string(self.file(policy)).ok()?;
        NetworkState::from_json(serde_json::from_str(&text).ok()?).ok()
    }

    /// Policies of which something is kept.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let name = |path: PathBuf| Some(path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned());
        entries.filter_map(|e| name(e.path())).collect()
    }

    /// It is left to a person. Gives where it is.
    pub fn put_aside(&self, policy: &str) -> std::io::Result<PathBuf> {
        let aside = self.dir.join(format!("{policy}.failed"));
        fs::rename(self.file(policy), &aside)?;
        Ok(aside)
    }

    /// It is not needed any more.
    pub fn forget(&self, policy: &str) {
        let _ = fs::remove_file(self.file(policy));
    }

    /// Nor are those of policies that have no enactment here.
    pub fn keep_only(&self, needed: impl Fn(&str) -> bool) {
        for name in self.names().iter().filter(|name| !needed(name)) {
            self.forget(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_from_the_node_or_not_at_all() {
        let dir = std::env::temp_dir().join(format!("nw-inverse-{}", uuid::Uuid::new_v4()));
        let inverses = Inverses::in_dir(&dir);
        let state = |text: &str| NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap();
        let plain = state("interfaces: [{name: eth1, type: ethernet, mtu: 1500}]");
        inverses.keep("p", &plain).unwrap();
        assert!(!inverses.file("p").exists());
        assert_eq!(inverses.read("p", &published(&plain)).unwrap(), plain);

        let secret = |key: &str| {
            state(&format!(
                "interfaces: [{{name: m0, type: macsec, macsec: {{base-iface: eth1, encrypt: true, mka-cak: '{key}', mka-ckn: '0c'}}}}]"
            ))
        };
        let (a, b) = (secret(&"a1".repeat(16)), secret(&"b2".repeat(16)));
        inverses.keep("p", &a).unwrap();
        let shown = published(&a);
        assert!(!shown.to_string().contains("a1a1"), "{shown}");
        assert_eq!(inverses.read("p", &shown).unwrap(), a);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(inverses.file("p")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        // one of another name tells nothing
        assert!(
            inverses
                .read("q", &shown)
                .unwrap_err()
                .reason
                .contains("secrets that only")
        );
        inverses.keep("q", &b).unwrap();
        inverses.keep_only(|name| name == "q");
        assert!(inverses.read("p", &shown).is_err());
        assert_eq!(inverses.read("q", &published(&b)).unwrap(), b);
        fs::remove_dir_all(dir).unwrap();
    }
}
