//! Without a cluster: policies from a folder, enactments and state under the run directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use kube::ResourceExt;
use rustix::fs::inotify;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

use crate::api::NodeNetworkConfigurationPolicy as Policy;
use crate::api::condition::{self, Condition, Enacting};
use crate::api::nnce::NodeNetworkConfigurationEnactmentStatus as Status;
use crate::api::nncp::NodeNetworkConfigurationPolicySpec;
use crate::capture::{self, Captured};
use crate::error::Invalid;
use crate::host::Host;
use crate::host::live::LiveHost;
use crate::journal::Recovered;
use crate::metrics;
use crate::probe::Prober;
use crate::transaction::{self, Options, Report};
use crate::yaml;

use super::{Config, decide, stop_signal, worker};

/// Watches the folder and applies what is new or changed, until it is told to stop.
pub async fn run(config: &Config, dir: &Path, host: LiveHost, mut crash: Option<Recovered>) -> anyhow::Result<()> {
    std::fs::create_dir_all(config.run_dir.join("enactments"))?;
    std::fs::create_dir_all(config.state_dir.join("captures"))?;
    let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let flags = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
    inotify::add_watch(&events, dir, flags).with_context(|| format!("watching {}", dir.display()))?;
    // an OwnedFd stays open as long as the AsyncFd that owns it, which is all that `register` would have us promise
    #[allow(deprecated)]
    let events = AsyncFd::new(events)?;
    let prober = Prober::defaults(config.probe_timeout, config.probe_dns_host.clone(), None);
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    info!(phase = "start", "agent takes policies from {}", dir.display());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        pass(config, dir, &host, &prober, &mut done, &mut crash).await?;
        crate::serve::health().ready();
        tokio::select! {
            ready = events.readable() => {
                let mut guard = ready?;
                let mut buffer = [0u8; 4096];
                while rustix::io::read(guard.get_inner(), &mut buffer).is_ok() {}
                guard.clear_ready();
            }
            () = stop_signal() => return Ok(()),
        }
    }
}

/// Everything in the folder that is not as it was last time, by priority and name.
async fn pass(
    config: &Config,
    dir: &Path,
    host: &LiveHost,
    prober: &Prober,
    done: &mut BTreeMap<String, Value>,
    crash: &mut Option<Recovered>,
) -> anyhow::Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
    files.sort();
    let mut policies = vec![];
    let mut present = vec![];
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let read = std::fs::read_to_string(&file).map_err(|e| Invalid::new("document", e.to_string()));
        match read.and_then(|text| policies_in(&stem, &text)) {
            Ok(found) => policies.extend(found),
            Err(fault) => {
                warn!(policy = stem, phase = "plan", "{}: {fault}", file.display());
                present.push(stem.clone());
                publish(config, &stem, Status::default(), &Enacting::Failed(fault.to_string()))?;
            }
        }
    }
    policies.sort_by_key(|p| (-p.spec.priority.unwrap_or(0), p.name_any()));
    for policy in policies {
        let name = policy.name_any();
        let spec = serde_json::to_value(&policy.spec)?;
        present.push(name.clone());
        if done.get(&name) != Some(&spec) {
            apply(config, host, prober, &policy, crash.take_if(|c| c.policy == name)).await?;
            done.insert(name, spec);
        }
    }
    done.retain(|name, _| present.contains(name));
    forget_others(config, &present)?;
    if let Ok(mut seen) = host.observe().await {
        metrics::agent().networkmanager(&seen.facts.nm_version);
        seen.state.hide_secrets();
        write(&config.run_dir.join("state.yaml"), &seen.state)?;
    }
    Ok(())
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

async fn apply(
    config: &Config,
    host: &LiveHost,
    prober: &Prober,
    policy: &Policy,
    crash: Option<Recovered>,
) -> anyhow::Result<()> {
    let name = policy.name_any();
    let node = capture::Node {
        name: config.node_name.clone(),
        ..Default::default()
    };
    let mut status = Status::default();
    let kept = captures_file(config, &name);
    if let Some(ended) = crash.map(worker::crash)
        && !tell(config, &name, &mut status, &ended, Timestamp::now()).await?
    {
        return Ok(());
    }
    loop {
        let start = Timestamp::now();
        let seen = match host.observe().await {
            Ok(seen) => seen,
            Err(e) => {
                let blind = worker::blind(&e);
                match tell(config, &name, &mut status, &blind, start).await? {
                    true => continue,
                    false => return Ok(()),
                }
            }
        };
        let ready = prober
            .with_overrides(&policy.spec.probes)
            .map_err(|e| e.under("spec"))
            .and_then(|prober| {
                let before = read_captures(&kept).filter(|found| found.answers(&policy.spec.capture));
                Ok((prober, worker::render(policy, &node, &seen, before, start)?))
            });
        let (prober, worker::Rendered { json, state, captured }) = match ready {
            Ok(ready) => ready,
            Err(fault) => return publish(config, &name, status, &Enacting::Failed(fault.to_string())),
        };
        status.desired_state = Some(json);
        match &captured {
            Some(found) => write(&kept, found)?,
            None => remove(&kept)?,
        }
        status.captured_states = captured;
        publish(config, &name, status.clone(), &Enacting::Progressing)?;
        host.set_policy(&name);
        let done = transaction::run(
            host,
            &prober,
            &state,
            &Options {
                policy: name.clone(),
                ..Options::default()
            },
        )
        .await;
        status.plan.clone_from(&done.plan);
        status.probes.clone_from(&done.probes);
        if !tell(config, &name, &mut status, &done, start).await? {
            return Ok(());
        }
    }
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
    publish(config, name, status.clone(), &how)?;
    let Some(pause) = again else { return Ok(false) };
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(true),
        () = stop_signal() => Ok(false),
    }
}

fn publish(config: &Config, name: &str, status: Status, how: &Enacting) -> anyhow::Result<()> {
    let path = config.run_dir.join("enactments").join(format!("{name}.yaml"));
    let before: Vec<Condition> = read_conditions(&path);
    let conditions = condition::enactment(how, &before, &Timestamp::now().to_string());
    let status = Status { conditions, ..status };
    write(
        &path,
        &json!({"metadata": {"name": format!("{}.{name}", config.node_name)}, "status": status}),
    )
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

/// Enactments and captures of policies that are gone; the configuration stays.
fn forget_others(config: &Config, present: &[String]) -> anyhow::Result<()> {
    let enactments = std::fs::read_dir(config.run_dir.join("enactments"))?;
    let captures = std::fs::read_dir(config.state_dir.join("captures"))?;
    for entry in enactments.chain(captures).flatten() {
        let stem = entry
            .path()
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !present.contains(&stem) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// It may be gone already.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// All or nothing: a reader never sees half a file.
fn write<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, yaml::write(value))?;
    std::fs::rename(&fresh, path)?;
    Ok(())
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
