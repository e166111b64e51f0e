//! What survives us: the lock that keeps a second agent out, and the journal that tells the next start what was under way.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::error::HostError;
use crate::host::files;
use crate::host::kept::{Before, Written};
use crate::host::live::LiveHost;
use crate::host::provisional::Provisional;
use crate::host::{Checkpoint, Host};
use crate::nm::checkpoint;
use crate::observation::Observation;
use crate::step::Effect;
use crate::transaction::Phase;

/// Pause between two looks whether kubernetes-nmstate's handler is gone; its own in the same place.
const HANDLER_PAUSE: Duration = Duration::from_secs(5);

fn failed(what: &str, path: &Path, e: &std::io::Error) -> HostError {
    HostError::Other(format!("{what} {}: {e}", path.display()))
}

/// One transaction at a time on a node: held as long as the value lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `<dir>/lock`, or names who holds it.
    pub fn take(dir: &Path) -> Result<Self, HostError> {
        fs::create_dir_all(dir).map_err(|e| failed("making", dir, &e))?;
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed("opening", &path, &e))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(HostError::Other(format!(
                "another netwright is at work on this node: {} ({})",
                holder.trim(),
                path.display()
            )));
        }
        let command = std::env::args().take(2).collect::<Vec<_>>().join(" ");
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "pid {} {command}", std::process::id()));
        Ok(Lock { _file: file })
    }

    /// Waits until no handler of kubernetes-nmstate is on this node, and keeps it out: two that carry out the same policies undo each other's
    /// work. It holds an exclusive flock(2) on this file and asks for it at the same pace. None where its folder is not there.
    pub async fn instead_of_handler(path: &Path) -> Option<Self> {
        let open = || OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = match open() {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => {
                warn!(
                    "whether kubernetes-nmstate is at work on this node cannot be told: {}: {e}",
                    path.display()
                );
                return None;
            }
        };
        let mut told = false;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if !told {
                let at = path.display();
                warn!("kubernetes-nmstate is at work on this node ({at} is locked): waiting until its handler is gone");
                told = true;
            }
            sleep(HANDLER_PAUSE).await;
        }
        if told {
            info!("kubernetes-nmstate is gone from this node");
        }
        Some(Lock { _file: file })
    }
}

/// What is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Phase that was entered.
    pub phase: Phase,
    /// Our checkpoint, once it was taken.
    pub checkpoint: Option<String>,
    /// What puts back what the checkpoint does not cover, in the order in which it was done.
    #[serde(default)]
    pub undo: Vec<Effect>,
    /// What was done to profiles and interfaces.
    #[serde(default)]
    pub written: Written,
    /// `/proc/sys/kernel/random/boot_id`: D-Bus paths mean nothing after a reboot.
    pub boot_id: String,
    /// The policy that was being applied.
    #[serde(default)]
    pub policy: String,
    /// The checkpoint is left in force on purpose (`apply --no-commit`): a person decides.
    #[serde(default)]
    pub held: bool,
    /// What is to go to disk once that person has decided.
    #[serde(default)]
    pub provisional: Provisional,
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Entry {
    /// An entry of this boot.
    pub fn new(phase: Phase, checkpoint: Option<&str>, undo: &[Effect]) -> Self {
        Entry {
            phase,
            checkpoint: checkpoint.map(str::to_owned),
            undo: undo.to_vec(),
            written: Written::default(),
            boot_id: boot_id(),
            policy: String::new(),
            held: false,
            provisional: Provisional::default(),
        }
    }

    /// The same, left in force on purpose.
    pub fn held(self, provisional: Provisional) -> Self {
        Entry {
            held: true,
            provisional,
            ..self
        }
    }
}

/// `<dir>/journal.json`, and `<dir>/before.json` for what was. They hold secrets and are for root only.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    policy: std::sync::Mutex<String>,
}

/// What a crash left behind, put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The policy that was being applied; empty where the journal could not be read.
    pub policy: String,
    /// Where it was.
    pub phase: Option<Phase>,
    /// One sentence for the enactment.
    pub message: String,
}

impl Journal {
    /// The journal in this folder.
    pub fn open(dir: &Path) -> Result<Self, HostError> {
        fs::create_dir_all(dir).map_err(|e| failed("making", dir, &e))?;
        Ok(Journal {
            path: dir.join("journal.json"),
            policy: std::sync::Mutex::default(),
        })
    }

    /// Names the policy of the entries to come.
    pub fn set_policy(&self, name: &str) {
        name.clone_into(&mut self.policy.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Writes an entry. It survives a power cut from the moment when the node may differ, once all is proven (an earlier entry would have
    /// undone what was kept), and wherever there is something to undo by hand.
    pub fn write(&self, entry: &Entry) -> Result<(), HostError> {
        let durable = matches!(entry.phase, Phase::Execute | Phase::Commit) || !entry.undo.is_empty();
        let policy = self
            .policy
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let text = serde_json::to_string(&Entry {
            policy,
            ..entry.clone()
        })
        .map_err(|e| HostError::Other(e.to_string()))?;
        files::write(&self.path, &text, 0o600, durable).map_err(|e| failed("writing", &self.path, &e))
    }

    fn kept(&self) -> PathBuf {
        self.path.with_file_name("before.json")
    }

    /// Keeps what the node is before it is changed.
    pub fn keep(&self, before: &Observation) -> Result<(), HostError> {
        let text = serde_json::to_string(&Before::of(before)).map_err(|e| HostError::Other(e.to_string()))?;
        let path = self.kept();
        files::write(&path, &text, 0o600, true).map_err(|e| failed("writing", &path, &e))
    }

    /// What the node was before the change under way; None where it is not known.
    pub fn before(&self) -> Option<Observation> {
        let kept: Before = serde_json::from_str(&fs::read_to_string(self.kept()).ok()?).ok()?;
        kept.observation().ok()
    }

    /// The entry there is; None where there is none or it cannot be read.
    pub fn read(&self) -> Option<Entry> {
        serde_json::from_str(&fs::read_to_string(&self.path).ok()?).ok()
    }

    /// The change under way is under this checkpoint.
    pub fn tells_of(&self, checkpoint: &str) -> bool {
        let this = |e: &Entry| e.boot_id == boot_id() && e.checkpoint.as_deref() == Some(checkpoint);
        self.read().as_ref().is_some_and(this)
    }

    /// Changes the entry there is.
    pub fn update(&self, change: impl FnOnce(&mut Entry)) -> Result<(), HostError> {
        let text = fs::read_to_string(&self.path).map_err(|e| failed("reading", &self.path, &e))?;
        let mut entry: Entry = serde_json::from_str(&text).map_err(|e| HostError::Other(e.to_string()))?;
        change(&mut entry);
        self.write(&entry)
    }

    /// Nothing is under way any more.
    pub fn clear(&self) {
        // in this order: without a journal nobody would look for what was
        let _ = fs::remove_file(self.kept());
        let _ = fs::remove_file(&self.path);
    }

    /// At start: undoes a transaction that crashed, by our own checkpoint (never a foreign one) or by hand, and tells what was found.
    pub async fn recover(&self, host: &LiveHost) -> Result<Option<Recovered>, HostError> {
        let nm = host.network_manager();
        let text = match fs::read_to_string(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("reading", &self.path, &e)),
            Ok(text) => text,
        };
        let entry: Entry = match serde_json::from_str(&text) {
            Ok(entry) => entry,
            Err(e) => return self.put_aside(&e.to_string()).map(Some),
        };
        let this_boot = entry.boot_id == boot_id();
        let in_force = match &entry.checkpoint {
            Some(at) if this_boot => checkpoint::list(nm).await?.contains(at),
            _ => false,
        };
        let done = match (this_boot, in_force) {
            (true, true) if entry.held => return Ok(None),
            (true, true) => "rolled back",
            // all was proven, and what is kept is kept, unless the power went while it was brought to disk
            (_, false)
                if entry.phase == Phase::Commit
                    && !entry.held
                    && (this_boot || entry.written.is_whole(&host.observe().await?.facts)) =>
            {
                self.clear();
                return Ok(None);
            }
            (_, _) if entry.checkpoint.is_none() => "before anything was touched",
            (false, _) => "the node was restarted since; put back",
            (true, false) => "its checkpoint was gone, as NetworkManager rolled it back or was restarted; put back",
        };
        let mut message = match entry.held {
            true => "what was applied and not committed ran out of time and was put back".to_owned(),
            false => format!("netwright ended during phase {} ({done})", entry.phase.word()),
        };
        let (policy, phase) = (entry.policy.clone(), Some(entry.phase));
        if this_boot && entry.phase == Phase::Checkpoint {
            host.orphan_ends().await;
        }
        if let Some(path) = entry.checkpoint.clone() {
            let at = Some(Checkpoint { path }).filter(|_| in_force);
            let lost = host
                .resume(entry, self.before().unwrap_or_default(), at.as_ref())
                .await?;
            if !lost.is_empty() {
                message = format!("{message}; {} did not come back", lost.join(", "));
            }
        }
        self.clear();
        Ok(Some(Recovered { policy, phase, message }))
    }

    fn put_aside(&self, why: &str) -> Result<Recovered, HostError> {
        let stamp = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let aside = self.path.with_extension(format!("unreadable-{stamp}"));
        fs::rename(&self.path, &aside).map_err(|e| failed("moving aside", &self.path, &e))?;
        Ok(Recovered {
            policy: String::new(),
            phase: None,
            message: format!("the journal could not be read ({why}) and is now {}", aside.display()),
        })
    }
}
