//! Without a cluster: policies from a folder, enactments and state under the run directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use kube::ResourceExt;
use rustix::fs::inotify;
use serde::Serialize;
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::api::NodeNetworkConfigurationPolicy as Policy;
use crate::api::condition::{self, Condition, Enacting};
use crate::api::nnce::NodeNetworkConfigurationEnactmentStatus as Status;
use crate::api::nncp::{Mode, NodeNetworkConfigurationPolicySpec, OnDelete};
use crate::capture::{self, Captured};
use crate::error::Invalid;
use crate::host::Host;
use crate::host::files;
use crate::host::live::LiveHost;
use crate::journal::Recovered;
use crate::metrics;
use crate::observation::Observation;
use crate::plan::conflict::{self, Asked};
use crate::plan::{self, Plan, resolve, revert};
use crate::probe::Prober;
use crate::state::NetworkState;
use crate::transaction::{self, Options, Outcome, Report};
use crate::yaml;

use super::inverse::Inverses;
use super::worker::drift::{ANYWAY, Compared, Found, Watch, quiet};
use super::{Config, LOOK_AGAIN, decide, stop_signal, worker};

/// A policy as it was last dealt with.
struct Held {
    policy: Policy,
    status: Status,
}

/// What an agent without a cluster has at hand.
struct Agent<'a> {
    config: &'a Config,
    host: LiveHost,
    prober: Prober,
    inverses: Inverses,
    held: BTreeMap<String, Held>,
    watch: Watch,
    crash: Option<Recovered>,
}

/// Watches the folder and applies what is new or changed, until it is told to stop.
pub async fn run(config: &Config, dir: &Path, host: LiveHost, crash: Option<Recovered>) -> anyhow::Result<()> {
    std::fs::create_dir_all(config.run_dir.join("enactments"))?;
    std::fs::create_dir_all(config.state_dir.join("captures"))?;
    let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let flags = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
    inotify::add_watch(&events, dir, flags).with_context(|| format!("watching {}", dir.display()))?;
    // an OwnedFd stays open as long as the AsyncFd that owns it, which is all that `register` would have us promise
    #[allow(deprecated)]
    let events = AsyncFd::new(events)?;
    let prober = Prober::defaults(config.probe_timeout, config.probe_dns_host.clone(), None);
    let mut agent = Agent {
        inverses: Inverses::in_dir(&config.state_dir),
        held: BTreeMap::new(),
        watch: Watch::default(),
        config,
        host,
        prober,
        crash,
    };
    info!(phase = "start", "agent takes policies from {}", dir.display());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        agent.pass(dir).await?;
        crate::serve::health().ready();
        let again = agent.compare().await?.unwrap_or(ANYWAY);
        tokio::select! {
            ready = events.readable() => {
                let mut guard = ready?;
                let mut buffer = [0u8; 4096];
                while rustix::io::read(guard.get_inner(), &mut buffer).is_ok() {}
                guard.clear_ready();
            }
            true = agent.host.changed(again) => quiet(&agent.host, Instant::now()).await,
            () = sleep(again) => {}
            () = stop_signal() => return Ok(()),
        }
    }
}

impl Agent<'_> {
    /// Everything in the folder that is not as it was last time, by priority and name; then what is not there any more.
    async fn pass(&mut self, dir: &Path) -> anyhow::Result<()> {
        let (mut policies, mut present) = self.read(dir)?;
        policies.sort_by_key(|p| (-p.spec.priority.unwrap_or(0), p.name_any()));
        present.extend(policies.iter().map(ResourceExt::name_any));
        let asked = self.asked(&policies).await;
        let in_force = |name: &str| {
            let policy = policies.iter().find(|p| p.name_any() == name);
            policy.is_some_and(|p| p.spec.mode != Some(Mode::Plan))
        };
        let gives_way = conflict::conflicts(&asked, in_force);
        for policy in &policies {
            let name = policy.name_any();
            if policy.spec.paused == Some(true) {
                self.held.remove(&name);
                continue;
            }
            let status = self.turn(policy, gives_way.get(name.as_str())).await?;
            let policy = policy.clone();
            self.held.insert(name, Held { policy, status });
        }
        self.held.retain(|name, _| present.contains(name));
        let asked: Vec<&Asked> = asked
            .iter()
            .filter(|(name, _)| !gives_way.contains_key(name.as_str()) && in_force(name))
            .map(|(_, asked)| asked)
            .collect();
        self.forget_others(&present, &asked).await?;
        self.show_node().await
    }

    /// The policies of the folder, and the names of the files that cannot be read, which are told.
    fn read(&mut self, dir: &Path) -> anyhow::Result<(Vec<Policy>, Vec<String>)> {
        let config = self.config;
        let mut files: Vec<_> = std::fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
        files.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
        files.sort();
        let (mut policies, mut wrong) = (vec![], vec![]);
        for file in files {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let read = std::fs::read_to_string(&file).map_err(|e| Invalid::new("document", e.to_string()));
            match read.and_then(|text| policies_in(&stem, &text)) {
                Ok(found) => policies.extend(found),
                Err(fault) => {
                    self.held.remove(&stem);
                    let how = Enacting::Failed(fault.to_string());
                    if !conditions_say(config, &stem, &how) {
                        warn!(policy = stem, phase = "plan", "{}: {fault}", file.display());
                        publish(config, &stem, &mut Status::default(), &how)?;
                    }
                    wrong.push(stem);
                }
            }
        }
        Ok((policies, wrong))
    }

    /// What a policy comes to: what it did where it is the same as last time, and another try where it is not, or need not give way any more.
    async fn turn(&mut self, policy: &Policy, first: Option<&(&str, String)>) -> anyhow::Result<Status> {
        let name = policy.name_any();
        let held = self.held.get(&name).filter(|h| h.policy.spec == policy.spec);
        let known = held.map(|h| h.status.clone());
        match (known, first) {
            (Some(status), Some(_)) if decide::gives_way(&status) => Ok(status),
            (_, Some((other, path))) => {
                let mut status = Status::default();
                let why = format!("{path}: policy {other} comes first and asks for another value");
                warn!(policy = name, phase = "plan", "{why}");
                publish(self.config, &name, &mut status, &Enacting::Conflicts(why))?;
                Ok(status)
            }
            (Some(status), None) if !decide::gives_way(&status) => Ok(status),
            _ => self.apply(policy, Status::default()).await,
        }
    }

    /// Publishes what the node looks like.
    async fn show_node(&self) -> anyhow::Result<()> {
        let Ok(mut seen) = self.host.observe().await else {
            return Ok(());
        };
        metrics::agent().networkmanager(&seen.facts.nm_version);
        seen.state.hide_secrets();
        Ok(show(&self.config.run_dir.join("state.yaml"), &seen.state)?)
    }

    fn node(&self) -> capture::Node {
        capture::Node {
            name: self.config.node_name.clone(),
            ..Default::default()
        }
    }

    fn render(&self, policy: &Policy, seen: &Observation) -> Result<worker::Rendered, Invalid> {
        let kept = read_captures(&captures_file(self.config, &policy.name_any()));
        let before = kept.filter(|found| found.answers(&policy.spec.capture));
        worker::render(policy, &self.node(), seen, before, Timestamp::now())
    }

    /// What each policy asks for; one that is wrong asks for nothing. Two are needed for a conflict, or one that is gone.
    async fn asked(&self, policies: &[Policy]) -> Vec<(String, Asked)> {
        let Ok(seen) = self.host.observe().await else {
            return vec![];
        };
        let asked = |policy: &Policy| {
            let state = self.render(policy, &seen).ok()?.state;
            let resolved = resolve::resolve(&state, &seen, plan::Options::default()).map(|r| r.state);
            Some((policy.name_any(), Asked::of(&resolved.unwrap_or(state))))
        };
        policies.iter().filter_map(asked).collect()
    }

    /// Compares the node with what policies made of it. Gives when to look again without an event.
    async fn compare(&mut self) -> anyhow::Result<Option<Duration>> {
        let Ok(seen) = self.host.observe().await else {
            return Ok(Some(LOOK_AGAIN));
        };
        let mut soonest = None;
        let names: Vec<String> = self.held.keys().cloned().collect();
        for name in names {
            let Some(Held { policy, status }) = self.held.get(&name) else {
                continue;
            };
            let (policy, mut status) = (policy.clone(), status.clone());
            let shows = policy.spec.mode == Some(Mode::Plan);
            let applied = condition::is_true(&status.conditions, "Available") || status.drift.is_some();
            let Ok(rendered) = self.render(&policy, &seen) else {
                continue;
            };
            let plan = plan::plan(&rendered.state, &seen).map_err(|e| e.under("spec.desiredState"));
            let lines = worker::drift::lines(&plan);
            if shows && plan.is_ok() && lines != status.plan {
                self.show(&policy, &mut status, lines)?;
            } else if !shows && applied {
                let pause = self.put_right(&policy, &mut status, &lines, &plan).await?;
                soonest = soonest.into_iter().chain(pause).min();
            }
            self.held.insert(name, Held { policy, status });
        }
        Ok(soonest)
    }

    fn show(&self, policy: &Policy, status: &mut Status, lines: Vec<String>) -> anyhow::Result<()> {
        let how = match lines.len() {
            0 => Enacting::Success("successfully reconciled".to_owned()),
            n => Enacting::Planned(format!("mode is Plan: {n} differences, nothing is changed")),
        };
        status.plan = lines;
        publish(self.config, &policy.name_any(), status, &how)
    }

    async fn put_right(
        &mut self,
        policy: &Policy,
        status: &mut Status,
        lines: &[String],
        plan: &Result<Plan, Invalid>,
    ) -> anyhow::Result<Option<Duration>> {
        let name = policy.name_any();
        loop {
            let found = Found {
                status,
                generation: 0,
                lines,
                mends: policy.spec.mode == Some(Mode::Enforce) && plan.is_ok(),
            };
            match self.watch.compared(&name, &found, Timestamp::now()) {
                Compared::Same | Compared::Told => return Ok(None),
                Compared::Wait(pause) => return Ok(Some(pause)),
                Compared::Tell(drift) => {
                    let what = condition::few(&drift.differences);
                    warn!(policy = name, phase = "drift", "{what}");
                    status.drift = Some(drift);
                    let how = Enacting::Success(decide::success(status));
                    publish(self.config, &name, status, &how)?;
                }
                Compared::Over => {
                    info!(policy = name, phase = "drift", "the node is as it was made again");
                    status.drift = None;
                    let how = Enacting::Success("successfully reconciled".to_owned());
                    publish(self.config, &name, status, &how)?;
                    return Ok(None);
                }
                Compared::Mend => {
                    self.watch.forget(&name);
                    *status = self.apply(policy, status.clone()).await?;
                    return Ok(None);
                }
            }
        }
    }

    /// Applies one, as often as it takes. Gives its status.
    async fn apply(&mut self, policy: &Policy, mut status: Status) -> anyhow::Result<Status> {
        let (config, name) = (self.config, policy.name_any());
        if policy.spec.on_delete != Some(OnDelete::Revert) {
            self.inverses.forget(&name);
        }
        if let Some(ended) = self.crash.take_if(|c| c.policy == name).map(worker::crash)
            && !tell(config, &name, &mut status, &ended, Timestamp::now()).await?
        {
            return Ok(status);
        }
        while self.attempt(policy, &mut status).await? {}
        Ok(status)
    }

    /// Applies one once. Says whether it has to be tried again.
    async fn attempt(&self, policy: &Policy, status: &mut Status) -> anyhow::Result<bool> {
        let (config, name) = (self.config, policy.name_any());
        let start = Timestamp::now();
        let seen = match self.host.observe().await {
            Ok(seen) => seen,
            Err(e) => return tell(config, &name, status, &worker::blind(&e), start).await,
        };
        let prober = self.prober.with_overrides(&policy.spec.probes);
        let ready = prober.map_err(|e| e.under("spec"));
        let ready = ready.and_then(|prober| Ok((prober, self.render(policy, &seen)?)));
        let (prober, worker::Rendered { json, state, captured }) = match ready {
            Ok(ready) => ready,
            Err(fault) => {
                publish(config, &name, status, &Enacting::Failed(fault.to_string()))?;
                return Ok(false);
            }
        };
        status.desired_state = Some(json);
        let kept = captures_file(config, &name);
        match &captured {
            Some(found) => files::write(&kept, &yaml::write(found), 0o600, true)?,
            None => remove(&kept)?,
        }
        status.captured_states = captured;
        if policy.spec.mode == Some(Mode::Plan) {
            match plan::plan(&state, &seen).map_err(|e| e.under("spec.desiredState")) {
                Ok(plan) if plan.is_empty() => self.show(policy, status, vec![])?,
                Ok(plan) => self.show(policy, status, plan.lines)?,
                Err(fault) => publish(config, &name, status, &Enacting::Failed(fault.to_string()))?,
            }
            return Ok(false);
        }
        let before = self.remember(policy, &state, &seen)?;
        publish(config, &name, status, &Enacting::Progressing)?;
        let done = self.transact(&name, &prober, &state).await;
        if !matches!(done.outcome, Outcome::Applied | Outcome::Stuck { .. }) {
            self.keep(&name, before.as_ref())?;
        }
        status.plan.clone_from(&done.plan);
        status.probes.clone_from(&done.probes);
        tell(config, &name, status, &done, start).await
    }

    /// Keeps what leads back, where the policy says that it is to be undone. Gives what was kept before.
    fn remember(
        &self,
        policy: &Policy,
        state: &NetworkState,
        seen: &Observation,
    ) -> anyhow::Result<Option<NetworkState>> {
        let name = policy.name_any();
        let before = self.inverses.whole(&name);
        if policy.spec.on_delete != Some(OnDelete::Revert) {
            return Ok(before);
        }
        match revert::since(before.as_ref(), state, seen) {
            Ok(back) => self.keep(&name, Some(&back))?,
            Err(why) => warn!(policy = name, phase = "plan", "it could not be undone: {why}"),
        }
        Ok(before)
    }

    fn keep(&self, policy: &str, back: Option<&NetworkState>) -> std::io::Result<()> {
        match back {
            Some(back) => self.inverses.keep_whole(policy, back),
            None => {
                self.inverses.forget(policy);
                Ok(())
            }
        }
    }

    /// Undoes what a policy changed that is not there any more, as far as others do not ask for it.
    async fn undo(&self, name: &str, others: &[&Asked]) -> anyhow::Result<()> {
        let Some(back) = self.inverses.whole(name) else {
            return Ok(());
        };
        let back = conflict::give_way(back, others);
        let mut status = Status::default();
        loop {
            let start = Timestamp::now();
            let done = self.transact(name, &self.prober, &back).await;
            let (how, again) = decide::judge(&done, &status, 0, self.config, &self.config.node_name);
            status.attempts = decide::attempts(&done, &status, 0, start);
            match (how, again) {
                (Enacting::Success(_), _) => {
                    info!(
                        policy = name,
                        phase = "undo",
                        "the node is as it was before policy {name}"
                    );
                    self.inverses.forget(name);
                    return Ok(());
                }
                (_, Some(pause)) => tokio::select! {
                    () = sleep(pause) => {}
                    () = stop_signal() => return Ok(()),
                },
                (how, None) => {
                    let aside = self.inverses.put_aside(name)?;
                    warn!(
                        policy = name,
                        phase = "undo",
                        "could not be undone: {how:?}; what leads back is in {}",
                        aside.display()
                    );
                    return Ok(());
                }
            }
        }
    }

    /// Enactments and captures of policies that are gone. The configuration stays, unless they said otherwise.
    async fn forget_others(&self, present: &[String], asked: &[&Asked]) -> anyhow::Result<()> {
        let gone = |name: &String| !present.contains(name);
        for name in self.inverses.names().into_iter().filter(gone) {
            self.undo(&name, asked).await?;
        }
        let enactments = std::fs::read_dir(self.config.run_dir.join("enactments"))?;
        let captures = std::fs::read_dir(self.config.state_dir.join("captures"))?;
        for entry in enactments.chain(captures).flatten() {
            let stem = entry
                .path()
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if gone(&stem) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    async fn transact(&self, name: &str, prober: &Prober, state: &NetworkState) -> Report {
        self.host.set_policy(name);
        let options = Options {
            policy: name.to_owned(),
            ..Options::default()
        };
        transaction::run(&self.host, prober, state, &options).await
    }
}

/// Policies; or `capture` with `desired` and plain states, which go by the file's name.
fn policies_in(stem: &str, text: &str) -> Result<Vec<Policy>, Invalid> {
    let mut all = vec![];
    for document in yaml::read_many(text)? {
        if document.get("kind").is_some() {
            let policy: Policy =
                serde_json::from_value(document).map_err(|e| Invalid::new("document", e.to_string()))?;
            all.push(policy);
        } else {
            let capture::Policy {
                capture,
                desired,
                current,
                ..
            } = capture::Policy::from_json(document)?;
            if current.is_some() {
                return Err(Invalid::new(
                    "current",
                    "an agent looks at the node itself: leave it out",
                ));
            }
            let spec = NodeNetworkConfigurationPolicySpec {
                capture,
                desired_state: Some(desired),
                ..Default::default()
            };
            all.push(Policy::new(stem, spec));
        }
    }
    Ok(all)
}

/// Publishes how an attempt went. True when it is time for another.
async fn tell(
    config: &Config,
    name: &str,
    status: &mut Status,
    done: &Report,
    start: Timestamp,
) -> anyhow::Result<bool> {
    let (how, again) = decide::judge(done, status, 0, config, &config.node_name);
    status.attempts = decide::attempts(done, status, 0, start);
    if matches!(how, Enacting::Success(_)) {
        status.drift = None;
    }
    publish(config, name, status, &how)?;
    let Some(pause) = again else { return Ok(false) };
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(true),
        () = stop_signal() => Ok(false),
    }
}

fn publish(config: &Config, name: &str, status: &mut Status, how: &Enacting) -> anyhow::Result<()> {
    let path = enactment_file(config, name);
    let before = read_conditions(&path);
    let now = Timestamp::now().to_string();
    status.conditions = condition::enactment(how, &before, &now);
    if status.drift.is_some() || matches!(how, Enacting::Success(_)) {
        let differences = status.drift.as_ref().map_or(&[][..], |d| &d.differences);
        status.conditions.push(condition::drifted(differences, &before, &now));
    }
    let enactment = json!({"metadata": {"name": format!("{}.{name}", config.node_name)}, "status": status});
    Ok(show(&path, &enactment)?)
}

fn enactment_file(config: &Config, name: &str) -> PathBuf {
    config.run_dir.join("enactments").join(format!("{name}.yaml"))
}

/// This stands there already.
fn conditions_say(config: &Config, name: &str, how: &Enacting) -> bool {
    let now = read_conditions(&enactment_file(config, name));
    condition::same(&condition::enactment(how, &now, ""), &now)
}

fn read_conditions(path: &Path) -> Vec<Condition> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let document = yaml::read(&text).unwrap_or_default();
    document
        .pointer("/status/conditions")
        .and_then(|c| serde_json::from_value(c.clone()).ok())
        .unwrap_or_default()
}

/// Where the captures of a policy outlive a reboot: after it the node looks as the policy made it, not as it did before.
fn captures_file(config: &Config, policy: &str) -> PathBuf {
    config.state_dir.join("captures").join(format!("{policy}.yaml"))
}

fn read_captures(path: &Path) -> Option<Captured> {
    let document = yaml::read(&std::fs::read_to_string(path).ok()?).ok()?;
    Captured::from_json(document).ok()
}

/// It may be gone already.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// For everybody to read, until the next start.
fn show<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    files::write(path, &yaml::write(value), 0o644, false)
}

/// What `kubectl get nnce` would print.
pub fn status(run_dir: &Path) -> anyhow::Result<String> {
    let dir = run_dir.join("enactments");
    let entries =
        std::fs::read_dir(&dir).with_context(|| format!("no agent --policy-dir writes to {}", run_dir.display()))?;
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut out = format!(
        "{:<40}{:<14}{:<12}{:<28}{}\n",
        "NAME", "STATUS", "STATUS AGE", "REASON", "MESSAGE"
    );
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let conditions = read_conditions(&file);
        let Some(on) = conditions.iter().find(|c| c.status == "True") else {
            continue;
        };
        let since = on
            .last_transition_time
            .as_deref()
            .and_then(|t| t.parse::<Timestamp>().ok());
        let age = since.map_or(0, |t| Timestamp::now().duration_since(t).as_secs());
        out.push_str(&format!(
            "{name:<40}{:<14}{:<12}{:<28}{}\n",
            on.type_,
            format!("{age}s"),
            on.reason,
            on.message
        ));
    }
    Ok(out)
}
