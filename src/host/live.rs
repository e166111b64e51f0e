//! The real node: netlink to look, NetworkManager to change.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::kept::Written;
use super::provisional::Provisional;
use super::{Checkpoint, Host, foreign, restore};
use crate::error::{HostError, chain};
use crate::facts::{Active, Device, Facts};
use crate::journal::{Entry, Journal};
use crate::kernel::Kernel;
use crate::nm::{NetworkManager, checkpoint};
use crate::observation::Observation;
use crate::ovs::Database;
use crate::plan;
use crate::scalar::{Id, Space};
use crate::step::{Effect, Step};
use crate::transaction::Phase;

mod ovs;

/// How long devices may take to come to rest after a rollback, and NetworkManager to come back where it was restarted.
const REST: Duration = Duration::from_secs(60);
/// How long NetworkManager may take to start the ports of a controller that it has started.
const FOLLOW: Duration = Duration::from_secs(1);
/// How long a device may take to go down before it is activated anew.
const DOWN: Duration = Duration::from_secs(15);
/// How long `ovs-vswitchd` may take to make the link that a device waits for.
const LINK: Duration = Duration::from_secs(15);
/// What has not begun to come up again for so long will not.
const STILL: Duration = Duration::from_secs(1);
/// How long a link may take to appear that NetworkManager was told to make.
const APPEAR: Duration = Duration::from_secs(5);

/// Nothing of it may stay after a boot.
const IN_MEMORY: plan::Options = plan::Options {
    memory_only: true,
    override_iface: false,
};

/// What the last observation and the saves since then told: D-Bus paths by name.
#[derive(Debug, Default)]
struct Known {
    devices: HashMap<Id, String>,
    profiles: HashMap<String, String>,
    active: HashMap<Id, Active>,
}

impl Known {
    /// The profiles (uuid) that were active, by the paths of their active connections.
    fn active_profiles(&self) -> HashMap<String, String> {
        let active = self.active.values();
        active.map(|a| (a.path.clone(), a.uuid.clone())).collect()
    }
}

/// What puts back what the checkpoint in force does not cover, in the order in which it was done.
#[derive(Debug, Default)]
struct Undo {
    before: Observation,
    /// The checkpoint that we took and have neither committed nor rolled back.
    checkpoint: Option<String>,
    effects: Vec<Effect>,
    written: Written,
    /// What the commit has to bring to disk; None where a change goes there at once.
    provisional: Option<Provisional>,
}

/// The node.
#[derive(Debug)]
pub struct LiveHost {
    kernel: Kernel,
    nm: NetworkManager,
    /// The database of Open vSwitch.
    pub ovs: Database,
    known: Mutex<Known>,
    undo: Mutex<Undo>,
    journal: Option<Journal>,
    netlink: tokio::sync::Mutex<(watch::Receiver<u64>, watch::Receiver<u64>)>,
}

impl LiveHost {
    /// Opens netlink and D-Bus. Without a journal a crash is left to NetworkManager's own timer.
    pub async fn connect() -> Result<Self, HostError> {
        let kernel = Kernel::connect().await?;
        let nm = NetworkManager::connect().await?;
        let events = tokio::sync::Mutex::new((kernel.subscribe(), nm.subscribe()));
        Ok(LiveHost {
            kernel,
            nm,
            ovs: Database::default(),
            known: Mutex::default(),
            undo: Mutex::default(),
            journal: None,
            netlink: events,
        })
    }

    /// Writes the journal before each phase from now on. What is held under a checkpoint since an earlier run can be undone.
    pub fn with_journal(mut self, journal: Journal) -> Self {
        if let Some(entry) = journal.read() {
            let mut undo = self.undo();
            undo.before = journal.before().unwrap_or_default();
            undo.effects = entry.undo;
            undo.written = entry.written;
        }
        self.journal = Some(journal);
        self
    }

    /// Rolls back what is under way; for a person who presses Ctrl-C.
    pub async fn abandon(&self) -> Result<(), HostError> {
        let checkpoint = self.undo().checkpoint.clone();
        match checkpoint {
            Some(path) => self.rollback(&Checkpoint { path }).await,
            None => Ok(()),
        }
    }

    /// For `journal::recover`.
    pub fn network_manager(&self) -> &NetworkManager {
        &self.nm
    }

    /// Whether the kernel has a way to `to`.
    pub async fn route_exists(&self, to: std::net::IpAddr, oif: Option<u32>) -> bool {
        self.kernel.route_exists(to, oif).await
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn undo(&self) -> std::sync::MutexGuard<'_, Undo> {
        self.undo.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self, phase: Phase, checkpoint: Option<&str>) -> Result<(), HostError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.write(&self.entry(phase, checkpoint))
    }

    fn entry(&self, phase: Phase, checkpoint: Option<&str>) -> Entry {
        let undo = self.undo();
        Entry {
            written: undo.written.clone(),
            ..Entry::new(phase, checkpoint, &undo.effects)
        }
    }

    /// Notes how to undo an effect before it happens.
    fn note_undo(&self, effect: &Effect) -> Result<(), HostError> {
        let mut undo = self.undo();
        let before = &undo.before.facts;
        let inverse = effect.inverse(before);
        // a static name that is put back becomes the running one as well
        let running = before.hostname.running.clone();
        let running = running.filter(|_| matches!(effect, Effect::StaticHostname(_)));
        undo.effects.extend(running.map(Effect::RunningHostname));
        undo.effects.push(inverse);
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.update(|entry| entry.undo.clone_from(&undo.effects))
    }

    /// Notes what a wave writes before it does.
    fn note_written(&self, wave: &[Step]) -> Result<(), HostError> {
        let mut undo = self.undo();
        let (any, Some(journal)) = (undo.written.note(wave), &self.journal) else {
            return Ok(());
        };
        match any {
            true => journal.update(|entry| entry.written.clone_from(&undo.written)),
            false => Ok(()),
        }
    }

    /// Carries out steps side by side.
    async fn perform(&self, wave: &[Step]) -> Result<(), HostError> {
        let begun = self.followers(wave).await;
        let due = |step: &&Step| !matches!(step, Step::Activate { uuid, .. } if begun.contains(uuid));
        let done = join_all(wave.iter().filter(due).map(|step| self.carry_out(step))).await;
        done.into_iter().collect::<Result<(), HostError>>()?;
        self.wake(wave).await;
        Ok(())
    }

    async fn carry_out(&self, step: &Step) -> Result<(), HostError> {
        let device = |iface: &Id| self.known().devices.get(iface).cloned();
        match step {
            Step::Save {
                iface,
                profile,
                path,
                memory_only,
            } => {
                let later = !memory_only && self.undo().provisional.is_some();
                let uuid = profile.str("connection", "uuid").unwrap_or_default().to_owned();
                let in_force = self.known().active.values().any(|a| a.uuid == uuid);
                let (nm, label, only) = (&self.nm, &iface.name, *memory_only || later);
                let path = nm.save(label, profile, path.as_deref(), only, in_force).await?;
                if let Some(provisional) = self.undo().provisional.as_mut().filter(|_| later) {
                    provisional.save(&uuid, label, &path);
                }
                self.known().profiles.insert(uuid, path);
                Ok(())
            }
            Step::Forget { iface, uuid, path } => self.forget(&iface.name, uuid, path).await,
            Step::Activate { iface, uuid, .. } => self.activate(iface, uuid).await,
            Step::Reapply { iface, uuid } => match device(iface) {
                Some(at) if self.nm.reapply(&at).await? => Ok(()),
                _ => self.activate(iface, uuid).await,
            },
            Step::Disconnect { iface } => match device(iface) {
                Some(at) => self.nm.disconnect(&iface.name, &at).await,
                // a VPN has no device
                None => self.deactivate(iface).await,
            },
            Step::RemoveLink { iface } => match device(iface) {
                Some(at) => self.nm.remove_link(&iface.name, &at).await,
                None => Ok(()),
            },
            Step::Deactivate { iface } => self.deactivate(iface).await,
            Step::Effect(effect) => {
                self.note_undo(effect)?;
                self.bring_about(effect).await
            }
        }
    }

    /// Deletes a profile, or sets it aside until the change is kept, and takes down what runs on it, as deleting does.
    async fn forget(&self, label: &str, uuid: &str, path: &str) -> Result<(), HostError> {
        let instead = {
            let mut undo = self.undo();
            let Undo {
                before, provisional, ..
            } = &mut *undo;
            let provisional = provisional.as_mut();
            provisional.and_then(|p| p.forget(&before.facts, uuid, label, path))
        };
        let Some(instead) = instead else {
            return self.nm.forget(label, path).await;
        };
        self.nm.save(label, &instead, Some(path), true, false).await?;
        let running = self.known().active.values().find(|a| a.uuid == uuid).cloned();
        match running {
            Some(active) => self.nm.deactivate(label, &active.path).await,
            None => Ok(()),
        }
    }

    /// Brings to disk what was done in memory so far.
    async fn persist(&self) -> Result<(), HostError> {
        let Some(provisional) = self.undo().provisional.clone() else {
            return Ok(());
        };
        let met = self.known().active_profiles();
        let in_force: HashSet<String> = self.nm.active(&met).await?.into_values().collect();
        let keep = provisional.saved().map(|(uuid, at)| {
            let in_force = in_force.contains(uuid);
            self.nm.keep(&at.label, &at.path, in_force)
        });
        let kept = join_all(keep).await;
        kept.into_iter().collect::<Result<(), HostError>>()?;
        let forget = provisional.forgotten().map(|at| self.nm.forget(&at.label, &at.path));
        let forgotten = join_all(forget).await;
        forgotten.into_iter().collect::<Result<(), HostError>>()?;
        self.undo().provisional = None;
        Ok(())
    }

    /// Carries out what NetworkManager's profiles cannot hold.
    pub async fn bring_about(&self, effect: &Effect) -> Result<(), HostError> {
        match effect {
            Effect::GlobalDns(dns) => self.nm.set_global_dns(dns.as_ref()).await,
            Effect::StaticHostname(name) => self.nm.save_hostname(name).await,
            Effect::RunningHostname(name) => {
                // NetworkManager sets the static one anew whenever a device has come up
                let _ = self.rest(&Facts::default()).await;
                match self.kernel.set_hostname(name) {
                    // an agent without CAP_SYS_ADMIN asks the one who has it
                    Err(_) => self.nm.set_running_hostname(name).await,
                    done => done,
                }
            }
            Effect::AltNames { link, add, remove } => self.alt_names(link, add, remove).await,
            Effect::File { path, content, mode } => super::files::put(path, content.as_deref(), *mode),
            Effect::OvsDb {
                external_ids,
                other_config,
            } => self.ovs.change(external_ids, other_config).await,
        }
    }

    /// Puts back what `bring_about` changed. What it could not change is as it was, and may be as hard to write now.
    pub async fn put_back(&self, effect: &Effect) -> Result<(), HostError> {
        let Err(e) = self.bring_about(effect).await else {
            return Ok(());
        };
        match effect.is_so(&self.observe().await?.facts) {
            true => Ok(()),
            false => Err(e),
        }
    }

    /// Gives and takes names. A link that NetworkManager was only just told to make may take a moment.
    async fn alt_names(&self, link: &str, add: &[String], remove: &[String]) -> Result<(), HostError> {
        let begin = Instant::now();
        loop {
            match self.kernel.alt_names(link, add, remove).await {
                Ok(true) => return Ok(()),
                // with the link its names are gone
                Ok(false) if add.is_empty() => return Ok(()),
                Ok(false) if begin.elapsed() < APPEAR => {}
                Ok(false) => {
                    return Err(HostError::Other(format!(
                        "changing the alt-names of {link}: there is no such link"
                    )));
                }
                Err(e) => return Err(e),
            }
            self.changed(Duration::from_millis(200)).await;
        }
    }

    /// Takes down what is active on an interface and waits until NetworkManager has let go of it.
    async fn deactivate(&self, iface: &Id) -> Result<(), HostError> {
        let active = self.known().active.get(iface).cloned();
        let Some(Active { path: active, .. }) = active else {
            return Ok(());
        };
        self.nm.deactivate(&iface.name, &active).await?;
        let begin = Instant::now();
        while begin.elapsed() < DOWN {
            let seen = self.observe().await?;
            if seen.facts.active(iface).is_none_or(|a| a.path != active) {
                return Ok(());
            }
            self.changed(Duration::from_secs(1)).await;
        }
        Err(HostError::Other(format!(
            "{iface} did not go down within {} s",
            DOWN.as_secs()
        )))
    }

    /// The profiles of this wave that NetworkManager starts by itself, after their controllers: anew since the last observation.
    async fn followers(&self, wave: &[Step]) -> HashSet<String> {
        let follows = |step: &Step| match step {
            Step::Activate {
                uuid, follows: true, ..
            } => Some(uuid.clone()),
            _ => None,
        };
        let mut waiting: HashSet<String> = wave.iter().filter_map(follows).collect();
        let before = self.known().active_profiles();
        let mut met = before.clone();
        let mut begun = HashSet::new();
        let begin = Instant::now();
        while !waiting.is_empty() && begin.elapsed() < FOLLOW {
            let Ok(active) = self.nm.active(&met).await else { break };
            let new = active.iter().filter(|(path, _)| !before.contains_key(*path));
            begun.extend(new.filter_map(|(_, uuid)| waiting.take(uuid)));
            met = active;
            if !waiting.is_empty() {
                tokio::time::sleep(FOLLOW / 20).await;
            }
        }
        begun
    }

    async fn activate(&self, iface: &Id, uuid: &str) -> Result<(), HostError> {
        let (connection, device) = {
            let known = self.known();
            (known.profiles.get(uuid).cloned(), known.devices.get(iface).cloned())
        };
        let Some(connection) = connection else {
            return Err(HostError::Other(format!(
                "activating {iface}: NetworkManager has no profile {uuid}"
            )));
        };
        self.nm.activate(&iface.name, &connection, device.as_deref()).await
    }

    /// Undoes what a process has done that is not there any more. Says which interfaces did not come back. Without a checkpoint everything is
    /// put back by hand, but for what others have changed since.
    pub async fn resume(
        &self,
        entry: Entry,
        before: Observation,
        at: Option<&Checkpoint>,
    ) -> Result<Vec<String>, HostError> {
        let before = match at {
            Some(_) => before,
            None => entry.written.before(before, &self.observe().await?.facts),
        };
        *self.undo() = Undo {
            before,
            effects: entry.undo,
            written: entry.written,
            ..Undo::default()
        };
        self.take_back(at).await
    }

    /// Rolls back to a checkpoint, and puts back what that leaves; without one, everything. Its timer ran out while we waited for a dead bus,
    /// then, or NetworkManager was restarted and has forgotten it. Says which interfaces did not come back.
    async fn take_back(&self, at: Option<&Checkpoint>) -> Result<Vec<String>, HostError> {
        // what is put back goes to disk, and what there is is to be seen
        self.undo().provisional = None;
        let restored = match at {
            Some(at) => checkpoint::rollback(&self.nm, &at.path).await,
            None => Ok(vec![]),
        };
        // kept until all is done: the transaction tries a rollback that failed again
        let (before, effects, mut written) = {
            let undo = self.undo();
            (undo.before.clone(), undo.effects.clone(), undo.written.clone())
        };
        let mut undone = Ok(());
        for effect in effects.iter().rev() {
            undone = undone.and(self.put_back(effect).await);
        }
        undone?;
        self.restore_ovs(&before.facts).await;
        // what is still on its way shows neither what it was nor what it will be
        let now = self.rest(&before.facts).await?;
        // where any step was needed, it was for those that NetworkManager could not restore
        let mended = self.mend(&before, &now, at.is_none(), &mut written).await? > 0;
        if mended {
            self.rest(&before.facts).await?;
        }
        let now = self.settle(&before, &mut written).await?;
        let now = self.hand_back(&before, now, &mut written).await?;
        self.write_down(&before.facts, &now).await;
        let lost = restore::lost(&before.facts, &now);
        // a device that was gone may have come back by its profile, which was restored
        let back = !before.facts.links.is_empty() && lost.is_empty();
        match restored {
            Err(e) if !mended => return Err(e),
            Ok(stuck) if !(stuck.is_empty() || mended || back) => {
                let stuck = stuck.join(", ");
                return Err(HostError::Other(format!("NetworkManager could not restore {stuck}")));
            }
            _ => {}
        }
        *self.undo() = Undo::default();
        Ok(lost)
    }

    /// Puts back by hand what NetworkManager's rollback does not bring back: profiles of devices that were down and of VPNs, links that had to be
    /// deleted to be made anew, and everything where NetworkManager was restarted and has forgotten the checkpoint. Says how many steps that took.
    async fn mend(
        &self,
        before: &Observation,
        now: &Observation,
        lost: bool,
        written: &mut Written,
    ) -> Result<usize, HostError> {
        // another process took the checkpoint: nothing is known of what was
        if before.facts.links.is_empty() {
            return Ok(0);
        }
        let waves = restore::waves(before, now, lost);
        // the network first: the disk may be what failed
        self.undo().provisional = Some(Provisional::default());
        let done = self.perform_all(&waves, written).await;
        self.undo().provisional = None;
        done.map(|()| waves.iter().map(Vec::len).sum())
    }

    /// Carries out one wave after the other.
    async fn perform_all(&self, waves: &[Vec<Step>], written: &mut Written) -> Result<(), HostError> {
        for wave in waves {
            self.perform(wave).await?;
            written.note_activated(wave);
        }
        Ok(())
    }

    /// Activates once more what NetworkManager has brought back, but not as it was: looks anew for that, as udev may come late. Gives what
    /// was seen last.
    async fn settle(&self, before: &Observation, written: &mut Written) -> Result<Observation, HostError> {
        let mut now = self.observe().await?;
        for _ in 0..2 {
            let waves = restore::again(before, &now, written);
            if waves.is_empty() {
                break;
            }
            self.perform_all(&waves, written).await?;
            now = self.rest(&before.facts).await?;
        }
        Ok(now)
    }

    /// Has NetworkManager hold what somebody else had configured and the change took away. Gives what was seen last.
    async fn hand_back(
        &self,
        before: &Observation,
        now: Observation,
        written: &mut Written,
    ) -> Result<Facts, HostError> {
        let plan = foreign::lost(before, &now, written).and_then(|document| match document {
            Some(document) => plan::plan_with(&document, &now, IN_MEMORY).map(Some),
            None => Ok(None),
        });
        match plan {
            Err(e) => warn!("what was not NetworkManager's cannot be put back: {e}"),
            Ok(Some(plan)) if !plan.is_empty() => {
                info!("put back what was not NetworkManager's: {}", plan.lines.join("; "));
                self.perform_all(&plan.waves, written).await?;
                return Ok(self.rest(&before.facts).await?.facts);
            }
            Ok(_) => {}
        }
        Ok(now.facts)
    }

    /// Brings to disk what was there before, as far as it takes it: that may be what failed, and then still has what was.
    async fn write_down(&self, before: &Facts, now: &Facts) {
        for saved in restore::in_memory(before, now) {
            let label = saved.interface().unwrap_or_default();
            let in_force = now.in_force(saved.uuid());
            if let Err(e) = self.nm.keep(label, &saved.path, in_force).await {
                warn!("{}", chain(&e));
            }
        }
    }

    /// Takes a checkpoint, and lets it live for longer once its path is written down.
    async fn take_checkpoint(&self, ttl: Duration) -> Result<Checkpoint, HostError> {
        let path = checkpoint::create(&self.nm).await?;
        {
            let mut undo = self.undo();
            undo.checkpoint = Some(path.clone());
            undo.provisional = Some(Provisional::default());
        }
        let lasts = match self.note(Phase::Execute, Some(&path)) {
            Ok(()) => checkpoint::extend(&self.nm, &path, ttl).await,
            failed => failed,
        };
        if let Err(e) = lasts {
            // nothing was touched, and its own timer ends it where this does not
            let _ = checkpoint::destroy(&self.nm, &path).await;
            *self.undo() = Undo::default();
            return Err(e);
        }
        Ok(Checkpoint { path })
    }

    /// Waits for the end of a checkpoint that nobody knows of, as whoever took it died over it. Without NetworkManager there is none.
    pub async fn orphan_ends(&self) {
        let begin = Instant::now();
        let one = async || checkpoint::list(&self.nm).await.is_ok_and(|all| !all.is_empty());
        while begin.elapsed() <= checkpoint::FIRST_TTL && one().await {
            self.changed(Duration::from_secs(1)).await;
        }
    }

    /// The checkpoints in force. NetworkManager may be away for a restart: without it nothing can be undone, so it is waited for.
    async fn checkpoints(&self) -> Result<Vec<String>, HostError> {
        let begin = Instant::now();
        loop {
            match checkpoint::list(&self.nm).await {
                Err(e) if begin.elapsed() < REST => debug!("waiting for NetworkManager: {e}"),
                answer => return answer,
            }
            self.changed(Duration::from_secs(1)).await;
        }
    }

    /// Waits until no device is on its way up or down any more (NM_DEVICE_STATE 40–90, 110), and what was up `before` is up again: between
    /// two activations a device rests for a moment, and who activates it then undoes what NetworkManager is at. Gives what was seen last.
    async fn rest(&self, before: &Facts) -> Result<Observation, HostError> {
        let mut wait = Rest::begin();
        loop {
            let Ok(seen) = self.observe().await else {
                return self.observe().await;
            };
            let complete = restore::lost(before, &seen.facts).is_empty();
            if wait.is_over(at_rest(&seen.facts, wait.begin), complete) {
                return Ok(seen);
            }
            self.changed(STILL / 4).await;
        }
    }
}

/// Waiting for devices to come to rest.
struct Rest {
    begin: Instant,
    /// The first look of those that saw nothing move.
    still: Option<Instant>,
}

impl Rest {
    fn begin() -> Self {
        Rest {
            begin: Instant::now(),
            still: None,
        }
    }

    /// After a look. Two looks have to agree, `STILL` apart, that what is not `complete` does not go on either: one alone may take longer than that
    /// on a busy node, and what it tells is as old as it took.
    fn is_over(&mut self, resting: bool, complete: bool) -> bool {
        if !resting {
            self.still = None;
        } else if self.still.get_or_insert_with(Instant::now).elapsed() >= STILL || complete {
            return true;
        }
        self.begin.elapsed() >= REST
    }
}

/// No device is on its way, and none that is being brought up since `begin` still lacks its link, which `ovs-vswitchd` makes in its own time.
fn at_rest(facts: &Facts, begin: Instant) -> bool {
    let linkless =
        |d: &Device| d.managed && d.state == 70 && d.space() == Space::Kernel && facts.link(&d.interface).is_none();
    let coming = begin.elapsed() < LINK && facts.devices.iter().any(linkless);
    !coming && !facts.devices.iter().any(Device::moving)
}

impl Host for LiveHost {
    async fn observe(&self) -> Result<Observation, HostError> {
        {
            let mut events = self.netlink.lock().await;
            events.0.mark_unchanged();
            events.1.mark_unchanged();
        }
        let mut said = Facts::default();
        let (facts, filled, ovs) = tokio::join!(self.kernel.dump(), self.nm.fill(&mut said), self.ovs.read());
        let mut facts = facts?;
        filled?;
        facts.devices = said.devices;
        facts.taps = said.taps;
        facts.vpns = said.vpns;
        facts.profiles = said.profiles;
        facts.dns = said.dns;
        facts.hostname.config = said.hostname.config;
        facts.nm_version = said.nm_version;
        super::files::fill(&mut facts);
        facts.nm_capabilities = said.nm_capabilities;
        facts.ovs = ovs;
        if let Some(provisional) = &self.undo().provisional {
            provisional.foretell(&mut facts);
        }
        {
            let mut known = self.known();
            known.devices = facts.devices.iter().map(|d| (d.id(), d.path.clone())).collect();
            let vpn = |a: &Active| Some((facts.profile(&a.uuid)?.id()?, a.clone()));
            known.active = facts
                .devices
                .iter()
                .filter_map(|d| Some((d.id(), d.active.clone()?)))
                .chain(facts.vpns.iter().filter_map(vpn))
                .collect();
            known
                .profiles
                .extend(facts.profiles.iter().map(|p| (p.uuid().to_owned(), p.path.clone())));
        }
        Ok(Observation::new(facts))
    }

    async fn checkpoint(&self, ttl: Duration) -> Result<Checkpoint, HostError> {
        // the journal may be that of a change which waits for its commit
        checkpoint::none_in_force(&self.nm).await?;
        let before = self.observe().await?;
        if let Some(journal) = &self.journal {
            journal.keep(&before)?;
        }
        *self.undo() = Undo {
            before,
            ..Undo::default()
        };
        self.note(Phase::Checkpoint, None)?;
        let taken = self.take_checkpoint(ttl).await;
        if let (Err(_), Some(journal)) = (&taken, &self.journal) {
            journal.clear();
        }
        taken
    }

    async fn extend(&self, at: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        self.note(Phase::Probe, Some(&at.path))?;
        checkpoint::extend(&self.nm, &at.path, ttl).await
    }

    async fn execute(&self, wave: &[Step]) -> Result<(), HostError> {
        self.note_written(wave)?;
        self.perform(wave).await
    }

    async fn hold(&self, at: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        match &self.journal {
            // tells the next start that this checkpoint is no leftover of a crash
            Some(journal) => {
                let provisional = self.undo().provisional.take().unwrap_or_default();
                journal.write(&self.entry(Phase::Commit, Some(&at.path)).held(provisional))?;
            }
            None => self.persist().await?,
        }
        self.undo().checkpoint = None;
        checkpoint::extend(&self.nm, &at.path, ttl).await
    }

    async fn commit(&self, at: &Checkpoint) -> Result<(), HostError> {
        // another process has left it to us
        if self.undo().provisional.is_none() {
            let held = self.journal.as_ref().and_then(Journal::read).filter(|e| e.held);
            self.undo().provisional = held.map(|entry| entry.provisional);
        }
        self.note(Phase::Commit, Some(&at.path))?;
        self.persist().await?;
        checkpoint::destroy(&self.nm, &at.path).await?;
        *self.undo() = Undo::default();
        if let Some(journal) = &self.journal {
            journal.clear();
        }
        Ok(())
    }

    async fn rollback(&self, at: &Checkpoint) -> Result<(), HostError> {
        self.note(Phase::Rollback, Some(&at.path))?;
        let in_force = self.checkpoints().await?.contains(&at.path);
        let lost = self.take_back(in_force.then_some(at)).await?;
        let names = lost.join(", ");
        if !lost.is_empty() && in_force {
            warn!("{names}: up before, and not up again yet after the rollback");
        } else if !lost.is_empty() {
            return Err(HostError::Other(format!(
                "the checkpoint was lost, and {names} did not come back"
            )));
        }
        if let Some(journal) = &self.journal {
            journal.clear();
        }
        Ok(())
    }

    async fn changed(&self, limit: Duration) -> bool {
        let mut events = self.netlink.lock().await;
        let (kernel, nm) = &mut *events;
        let event = async {
            tokio::select! {
                Ok(()) = kernel.changed() => {}
                Ok(()) = nm.changed() => {}
                else => std::future::pending().await,
            }
        };
        tokio::time::timeout(limit, event).await.is_ok()
    }

    fn set_policy(&self, name: &str) {
        if let Some(journal) = &self.journal {
            journal.set_policy(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Link;

    #[test]
    fn a_device_is_on_its_way_until_its_link_is_there() {
        let mut facts = Facts::default();
        facts.devices.push(Device {
            interface: "ovs0".to_owned(),
            state: 70,
            managed: true,
            ..Device::default()
        });
        let begin = Instant::now();
        assert!(!at_rest(&facts, begin));
        assert!(at_rest(&facts, begin - LINK), "it does not come any more");
        facts.links.push(Link {
            name: "ovs0".to_owned(),
            ..Link::default()
        });
        assert!(at_rest(&facts, begin), "it waits for DHCP");
    }
}
