//! The one way in which the node's network is changed: observe → plan → checkpoint → execute → verify → probe → commit | rollback.

use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::nnce::ProbeResult;
use crate::error::{ErrorKind, HostError, Invalid, chain};
use crate::facts::{Device, Facts};
use crate::host::{Checkpoint, Host};
use crate::metrics::{self, Round};
use crate::plan::{self, Plan, verify};
use crate::probe::{Baseline, Look, Prober};
use crate::profile::Profile;
use crate::scalar::Id;
use crate::state::NetworkState;
use crate::step::{Effect, Step};

/// What NetworkManager's own timer gets on top of the time that we allow ourselves: it must never fire while we work.
const MARGIN: Duration = Duration::from_secs(60);
/// How long the node may take to become what was asked for, counted from the last event that changed it and while no device is on its way.
const VERIFY: Duration = Duration::from_secs(5);
/// The end of waiting, however much still changes: 30 s is what STP takes to forward (2 × forward delay of 15 s).
const VERIFY_LIMIT: Duration = Duration::from_secs(35);
/// The longest pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// What somebody else put on an interface stays there: after this long without an event nobody is going to take it away.
const LINGER: Duration = Duration::from_secs(2);
/// A reading that takes no longer than this disturbs nobody.
const GLANCE: Duration = Duration::from_millis(50);
/// How long the probes may take to pass again after a rollback.
const AFTER_ROLLBACK: Duration = Duration::from_secs(30);

/// Where a transaction was when something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading the node.
    Observe,
    /// Deciding what to do.
    Plan,
    /// Taking the checkpoint.
    Checkpoint,
    /// Changing the node.
    Execute,
    /// Comparing with what was asked.
    Verify,
    /// Proving that the node still reaches what it must.
    Probe,
    /// Keeping the changes.
    Commit,
    /// Undoing them.
    Rollback,
}

impl Phase {
    /// From here on the node may differ from what it was.
    pub fn touches(self) -> bool {
        match self {
            Phase::Observe | Phase::Plan | Phase::Checkpoint => false,
            Phase::Execute | Phase::Verify | Phase::Probe | Phase::Commit | Phase::Rollback => true,
        }
    }

    /// The word in logs and messages.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Observe => "observe",
            Phase::Plan => "plan",
            Phase::Checkpoint => "checkpoint",
            Phase::Execute => "execute",
            Phase::Verify => "verify",
            Phase::Probe => "probe",
            Phase::Commit => "commit",
            Phase::Rollback => "rollback",
        }
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Nothing differed, nothing was touched.
    Unchanged,
    /// The changes are kept.
    Applied,
    /// The document is wrong; nothing was touched.
    Refused(Invalid),
    /// It failed before the network was at risk or was verified as not right, and everything is as it was.
    Failed {
        /// Where.
        phase: Phase,
        /// What sort of fault.
        kind: ErrorKind,
        /// One sentence.
        cause: String,
    },
    /// A probe failed and the changes were rolled back.
    ProbeFailed {
        /// One sentence.
        cause: String,
    },
    /// The rollback itself failed; NetworkManager's own timer is the last net.
    Stuck {
        /// Why it was to be rolled back.
        cause: String,
        /// Why it could not.
        rollback: String,
    },
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The difference it was to make, one line a property, secrets hidden.
    pub plan: Vec<String>,
    /// What was left out or done otherwise, and why.
    pub warnings: Vec<String>,
    /// What the probes said.
    pub probes: Vec<ProbeResult>,
    /// The checkpoint that is left in force (`Options::hold`).
    pub held: Option<String>,
    /// From start to end.
    pub duration: Duration,
    /// The node before the change, with secrets; None where it was not read.
    pub before: Option<NetworkState>,
}

/// Choices of the caller.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Policy name for logs.
    pub policy: String,
    /// Profiles in memory only: gone after a reboot.
    pub memory_only: bool,
    /// Interfaces of the document lose every setting that it does not name.
    pub override_iface: bool,
    /// Leave out the comparison after applying.
    pub no_verify: bool,
    /// Do not commit: leave the checkpoint in force for this long.
    pub hold: Option<Duration>,
}

impl Options {
    fn for_plan(&self) -> plan::Options {
        plan::Options {
            memory_only: self.memory_only,
            override_iface: self.override_iface,
        }
    }
}

/// Why an attempt is to be rolled back.
struct Setback {
    phase: Phase,
    kind: ErrorKind,
    cause: String,
    probes: Vec<ProbeResult>,
}

impl Setback {
    /// Not as asked for.
    fn unlike(kind: ErrorKind, phase: Phase, cause: String) -> Self {
        Setback {
            phase,
            kind,
            cause,
            probes: vec![],
        }
    }

    /// The host could not do it.
    fn at(phase: Phase, e: &HostError) -> Self {
        Setback::unlike(e.kind(), phase, chain(e))
    }
}

/// Runs one transaction. Everything that a reviewer must trust about losing a node is in this function.
pub async fn run<H: Host>(host: &H, prober: &Prober, desired: &NetworkState, options: &Options) -> Report {
    let started = Instant::now();
    let _at_work = metrics::agent().at_work();
    let mut report = Report {
        outcome: Outcome::Unchanged,
        plan: vec![],
        warnings: vec![],
        probes: vec![],
        held: None,
        duration: Duration::ZERO,
        before: None,
    };
    report.outcome = match decide(host, desired, options, &mut report).await {
        Err(outcome) => outcome,
        Ok((plan, _)) if plan.is_empty() => Outcome::Unchanged,
        Ok((mut plan, facts)) => {
            let baseline = prober.baseline(&facts).await;
            drop(facts);
            report.probes = baseline.results();
            match take_checkpoint(host, baseline.budget() + plan.patience, options).await {
                Err(e) => Outcome::Failed {
                    phase: Phase::Checkpoint,
                    kind: e.kind(),
                    cause: chain(&e),
                },
                Ok(checkpoint) => {
                    let attempted = attempt(
                        host,
                        prober,
                        &baseline,
                        desired,
                        &mut plan,
                        options,
                        &checkpoint,
                        &mut report,
                    );
                    match attempted.await {
                        Ok(()) => Outcome::Applied,
                        Err(setback) => {
                            roll_back(
                                host,
                                prober,
                                &baseline,
                                &plan,
                                options,
                                &checkpoint,
                                setback,
                                &mut report,
                            )
                            .await
                        }
                    }
                }
            }
        }
    };
    report.duration = started.elapsed();
    log_end(options, &report);
    report
}

/// The plan, and what the node was like when it was made.
async fn decide<H: Host>(
    host: &H,
    desired: &NetworkState,
    options: &Options,
    report: &mut Report,
) -> Result<(Plan, Facts), Outcome> {
    let seen = metrics::agent().during(Phase::Observe, host.observe()).await;
    let seen = seen.map_err(|e| Outcome::Failed {
        phase: Phase::Observe,
        kind: e.kind(),
        cause: chain(&e),
    })?;
    let planning = metrics::agent().phase(Phase::Plan);
    let plan = plan::plan_with(desired, &seen, options.for_plan()).map_err(Outcome::Refused)?;
    drop(planning);
    report.before = Some(seen.state);
    for warning in &plan.warnings {
        warn!(policy = options.policy, phase = "plan", "{warning}");
    }
    info!(
        policy = options.policy,
        phase = "plan",
        interface = plan.touched.join(","),
        "{} differences, {} interfaces to touch",
        plan.lines.len(),
        plan.touched.len()
    );
    report.plan = if plan.is_empty() { vec![] } else { plan.lines.clone() };
    report.warnings.clone_from(&plan.warnings);
    Ok((plan, seen.facts))
}

async fn take_checkpoint<H: Host>(host: &H, budget: Duration, options: &Options) -> Result<Checkpoint, HostError> {
    let taking = host.checkpoint(budget + VERIFY_LIMIT + MARGIN);
    let checkpoint = metrics::agent().during(Phase::Checkpoint, taking).await?;
    info!(policy = options.policy, phase = "checkpoint", "taken");
    Ok(checkpoint)
}

/// Execute, verify, probe and commit under the checkpoint; the first thing that goes wrong ends it.
#[allow(clippy::too_many_arguments)] // as for `roll_back`
async fn attempt<H: Host>(
    host: &H,
    prober: &Prober,
    baseline: &Baseline,
    desired: &NetworkState,
    plan: &mut Plan,
    options: &Options,
    checkpoint: &Checkpoint,
    report: &mut Report,
) -> Result<(), Setback> {
    let mut seen = carry_out(host, plan, options).await?;
    while plan.more {
        let rest = plan_rest(host, desired, options).await?;
        report.plan.extend(rest.lines.iter().cloned());
        report.warnings.extend(rest.warnings.iter().cloned());
        host.extend(checkpoint, baseline.budget() + rest.patience + VERIFY_LIMIT + MARGIN)
            .await
            .map_err(|e| Setback::at(Phase::Execute, &e))?;
        let touched = std::mem::replace(plan, rest).touched;
        plan.touched.extend(touched);
        seen = carry_out(host, plan, options).await?;
    }
    host.extend(checkpoint, baseline.budget() + MARGIN)
        .await
        .map_err(|e| Setback::at(Phase::Verify, &e))?;
    let eyes = Eyes(host);
    let proof = prober.prove(baseline, &plan.touched, &eyes, seen, Round::After);
    let proof = metrics::agent().during(Phase::Probe, proof).await;
    report.probes = proof.map_err(|f| Setback {
        phase: Phase::Probe,
        kind: ErrorKind::VerificationError,
        cause: f.cause,
        probes: f.results,
    })?;
    info!(
        policy = options.policy,
        phase = "probe",
        "{} probes passed",
        report.probes.iter().filter(|p| p.after == "passed").count()
    );
    let kept = match options.hold {
        Some(ttl) => {
            report.held = Some(checkpoint.path.clone());
            host.hold(checkpoint, ttl).await
        }
        None => metrics::agent().during(Phase::Commit, host.commit(checkpoint)).await,
    };
    kept.map_err(|e| Setback::at(Phase::Commit, &e))
}

/// Executes one plan and waits until the node is what it promised: as it was seen then.
async fn carry_out<H: Host>(host: &H, plan: &Plan, options: &Options) -> Result<Option<Facts>, Setback> {
    let executing = metrics::agent().phase(Phase::Execute);
    for wave in &plan.waves {
        host.execute(wave).await.map_err(|e| Setback::at(Phase::Execute, &e))?;
    }
    drop(executing);
    info!(
        policy = options.policy,
        phase = "execute",
        "{} steps done",
        plan.waves.iter().map(Vec::len).sum::<usize>()
    );
    // what comes next stands on it, so it is waited for in any case
    if options.no_verify && !plan.more {
        return Ok(None);
    }
    let seen = metrics::agent()
        .during(Phase::Verify, settle(host, plan, &options.policy))
        .await?;
    info!(policy = options.policy, phase = "verify", "as asked for");
    Ok(Some(seen))
}

/// What of the wish could not be planned before the first plan had made what it names.
async fn plan_rest<H: Host>(host: &H, desired: &NetworkState, options: &Options) -> Result<Plan, Setback> {
    let seen = host.observe().await.map_err(|e| Setback::at(Phase::Observe, &e))?;
    plan::plan_with(desired, &seen, options.for_plan())
        .map_err(|fault| Setback::unlike(fault.kind, Phase::Plan, fault.to_string()))
}

/// Waits by events until the node is what was asked for. A device that failed for good ends the wait.
async fn settle<H: Host>(host: &H, plan: &Plan, policy: &str) -> Result<Facts, Setback> {
    let begin = Instant::now();
    let mut last_change = begin;
    let mut told_again = 0;
    loop {
        let looking = Instant::now();
        // what happens while a slow node is read is heard of afterwards
        let quiet = last_change.elapsed();
        let seen = host.observe().await.map_err(|e| Setback::at(Phase::Verify, &e))?;
        let looked = looking.elapsed();
        let mut missing = verify::verify(&plan.expect, &seen);
        missing.extend(verify::coming(&plan.coming_vfs, &seen.facts));
        let late = begin.elapsed() >= VERIFY_LIMIT;
        let unheard = unheard(plan, &seen.facts);
        let calm = at_rest(plan, &seen.facts);
        if missing.is_empty() && unheard.is_empty() && (calm || quiet >= LINGER || late) {
            return Ok(seen.facts);
        }
        if let Some(again) = renamed(plan).filter(|_| missing.iter().any(|d| d.path == "hostname.running")) {
            let done = host.execute(std::slice::from_ref(again)).await;
            done.map_err(|e| Setback::at(Phase::Execute, &e))?;
        }
        let lost = lost(plan, &missing, &seen.facts, told_again);
        if quiet >= LINGER && !lost.is_empty() {
            told_again += 1;
            let steps: Vec<String> = lost.iter().flatten().map(Step::to_string).collect();
            let steps = steps.join(", ");
            info!(
                policy,
                phase = "verify",
                "not what NetworkManager was told: once more {steps}"
            );
            for wave in &lost {
                host.execute(wave).await.map_err(|e| Setback::at(Phase::Execute, &e))?;
            }
            last_change = Instant::now();
            continue;
        }
        let patience = VERIFY.max(plan.patience);
        if (quiet >= patience && unheard.is_empty() && calm) || begin.elapsed() >= VERIFY_LIMIT.max(plan.patience) {
            return Err(never_came(plan, &missing, &unheard, &seen.facts));
        }
        let pause = patience.saturating_sub(quiet).min(LOOK);
        if host.changed(if unheard.is_empty() { pause } else { LOOK }).await {
            last_change = Instant::now();
        }
        // reading a large node keeps NetworkManager from its work: no more than half of its time
        tokio::time::sleep(looked.saturating_sub(GLANCE)).await;
    }
}

/// What is not as asked for after all that waiting: the first three of it.
fn never_came(plan: &Plan, missing: &[verify::Difference], unheard: &[String], facts: &Facts) -> Setback {
    let differences = missing.iter().map(|d| match d.current.as_str() {
        "" => format!("{} is missing ({})", d.path, d.desired),
        current => format!("{} is {current}, not {}", d.path, d.desired),
    });
    let shown: Vec<String> = unheard.iter().cloned().chain(differences).take(3).collect();
    let more = if missing.len() > 3 {
        format!(" and {} more", missing.len() - 3)
    } else {
        String::new()
    };
    let cause = format!(
        "after applying, {}{more}{}",
        shown.join("; "),
        failed_devices(plan, facts)
    );
    Setback::unlike(lack_of(missing), Phase::Verify, cause)
}

/// The sort of fault it is that these are missing.
fn lack_of(missing: &[verify::Difference]) -> ErrorKind {
    let vf = |d: &verify::Difference| d.path.ends_with(".iface-name");
    match !missing.is_empty() && missing.iter().all(vf) {
        true => ErrorKind::SrIovVfNotFound,
        false => ErrorKind::VerificationError,
    }
}

/// The step that sets the running host name. NetworkManager sets its own when a device has come up, some time after it said so.
fn renamed(plan: &Plan) -> Option<&Step> {
    let names = |s: &&Step| matches!(s, Step::Effect(Effect::RunningHostname(_)));
    plan.waves.iter().flatten().find(names)
}

/// What to tell NetworkManager once more, as it is not there any more or never came.
fn lost(plan: &Plan, missing: &[verify::Difference], facts: &Facts, told_again: u32) -> Vec<Vec<Step>> {
    let mut lost = match told_again {
        0 => readdressed(plan, missing, facts),
        _ => vec![],
    };
    if told_again < 2 {
        lost.push(flushed(plan, missing, facts, told_again == 1));
    }
    lost.retain(|wave| !wave.is_empty());
    lost
}

/// The activations that give links of software their MAC addresses again, and what comes after them. udev gives a link that was made without
/// an address one of its own (systemd.link(5), `MACAddressPolicy=persistent`), and now and then only after NetworkManager has set that of the
/// profile.
fn readdressed(plan: &Plan, missing: &[verify::Difference], facts: &Facts) -> Vec<Vec<Step>> {
    let software = |iface: &Id| facts.link(&iface.name).is_some_and(|l| l.kind.is_some());
    let other_mac = |iface: &Id| {
        let path = format!("interfaces[{}].mac-address", iface.name);
        missing.iter().any(|d| d.path == path)
    };
    let concerned = |s: &Step| matches!(s, Step::Activate { iface, .. } if software(iface) && other_mac(iface));
    let waves = plan.waves.iter().skip_while(|wave| !wave.iter().any(concerned));
    let activations = |wave: &Vec<Step>| {
        wave.iter()
            .filter(|s| matches!(s, Step::Activate { .. }))
            .cloned()
            .collect()
    };
    waves.map(activations).collect()
}

/// The steps that put addresses and routes back which the kernel flushed after NetworkManager had set them. Whoever takes a link down and
/// up again behind NetworkManager's back has that done: `ovs-vswitchd` when it gives a bridge of its userspace datapath the MAC address of
/// a new port. NetworkManager takes it for somebody's will and leaves it so until it is told to apply the profile again; and where the kernel
/// does not promote secondaries (net.ipv4.conf.*.promote_secondaries), another first address loses it all others until it is `anew` activated.
fn flushed(plan: &Plan, missing: &[verify::Difference], facts: &Facts, anew: bool) -> Vec<Step> {
    let by_ip = |path: &str| path.starts_with("routes.") || path.contains(".ipv4.") || path.contains(".ipv6.");
    if !missing.iter().any(|d| by_ip(&d.path)) {
        return vec![];
    }
    // which takes the links on it along: for its own addresses only
    let concerned = |name: &&String| {
        let own = format!("interfaces[{name}].ipv");
        !anew || missing.iter().any(|d| d.path.starts_with(&own))
    };
    let up = |name: &&String| facts.device(name).is_some_and(|d| d.state == 100);
    let has_ip = |p: &&Profile| {
        ["ipv4", "ipv6"]
            .iter()
            .any(|ip| matches!(p.str(ip, "method"), Some("auto" | "manual")))
    };
    let again = |name: &String| {
        facts.own_profile(name).filter(has_ip)?;
        let uuid = facts.active_profile(name)?.uuid().to_owned();
        let iface = Id::kernel(name);
        Some(match anew {
            true => Step::Activate {
                iface,
                uuid,
                follows: false,
            },
            false => Step::Reapply { iface, uuid },
        })
    };
    let touched = plan.touched.iter().filter(concerned);
    touched.filter(up).filter_map(again).collect()
}

/// What waits for an answer from outside, which may be silent for long: a VPN that comes up (NM_ACTIVE_CONNECTION_STATE_ACTIVATING), a card
/// that proves who it is to its switch (NM_DEVICE_STATE_PREPARE to NEED_AUTH, with 802.1X in its profile).
fn unheard(plan: &Plan, facts: &Facts) -> Vec<String> {
    let touched = |name: &str| plan.touched.iter().any(|t| t == name);
    let proves = |name: &str| {
        let profile = facts.own_profile(name);
        profile.is_some_and(|p| p.settings.contains_key("802-1x"))
    };
    let vpns = facts.vpns.iter().filter(|a| a.state == 1);
    let vpns = vpns.filter_map(|a| Some(facts.profile(&a.uuid)?.id()?.name));
    let cards = facts.devices.iter().filter(|d| (40..70).contains(&d.state));
    let cards = cards.map(|d| &d.interface).filter(|name| proves(name));
    vpns.filter(|name| touched(name))
        .map(|name| format!("{name} has no answer from its other end yet"))
        .chain(
            cards
                .filter(|name| touched(name))
                .map(|name| format!("{name} has no answer from its switch yet")),
        )
        .collect()
}

/// Nothing of the old state answers for the new one: no touched device is on its way up or down, every address that goes is gone, and none
/// is the first of its subnet any more where another one is to be.
fn at_rest(plan: &Plan, facts: &Facts) -> bool {
    let moving = |name: &String| facts.device(name).is_some_and(Device::moving);
    let lingers = |(name, ip): &(String, std::net::IpAddr)| {
        let link = facts.link(name).map(|l| l.index);
        facts.addresses.iter().any(|a| Some(a.link) == link && a.ip == *ip)
    };
    let follows =
        |(name, net): &(String, IpNet)| facts.first_address(name, net).is_some_and(|first| first != net.addr());
    !plan.touched.iter().any(moving) && !plan.goes.iter().any(lingers) && !plan.leads.iter().any(follows)
}

/// What NetworkManager says of touched devices that failed (NM_DEVICE_STATE_FAILED 120, DISCONNECTED 30 with a reason).
fn failed_devices(plan: &Plan, facts: &Facts) -> String {
    let failed: Vec<String> = plan
        .touched
        .iter()
        .filter_map(|name| facts.device(name))
        .filter(|d| d.state == 120 || (d.state == 30 && d.reason > 0))
        .map(|d| format!("{} state {} reason {}", d.interface, d.state, d.reason))
        .collect();
    if failed.is_empty() {
        String::new()
    } else {
        format!(" (NetworkManager: {})", failed.join(", "))
    }
}

#[allow(clippy::too_many_arguments)] // the one place where all of a transaction comes together
async fn roll_back<H: Host>(
    host: &H,
    prober: &Prober,
    baseline: &Baseline,
    plan: &Plan,
    options: &Options,
    checkpoint: &Checkpoint,
    setback: Setback,
    report: &mut Report,
) -> Outcome {
    let Setback {
        phase,
        kind,
        cause,
        probes,
    } = setback;
    warn!(policy = options.policy, phase = phase.word(), "{cause}; rolling back");
    let undoing = metrics::agent().phase(Phase::Rollback);
    let mut undone = host.rollback(checkpoint).await;
    if undone.is_err() {
        undone = host.rollback(checkpoint).await;
    }
    if let Err(stuck) = undone {
        return Outcome::Stuck {
            cause,
            rollback: chain(&stuck),
        };
    }
    drop(undoing);
    metrics::agent().rolled_back(Some(phase));
    info!(
        policy = options.policy,
        phase = "rollback",
        "the profiles are as they were"
    );
    if phase != Phase::Probe {
        return Outcome::Failed { phase, kind, cause };
    }
    report.probes = probes;
    let eyes = Eyes(host);
    let proof = prober.prove(baseline, &plan.touched, &eyes, None, Round::Rollback);
    let again = tokio::time::timeout(AFTER_ROLLBACK, proof).await;
    match again {
        Ok(Ok(_)) => info!(policy = options.policy, phase = "rollback", "the probes pass again"),
        Ok(Err(failure)) => warn!(
            policy = options.policy,
            phase = "rollback",
            "after the rollback: {}",
            failure.cause
        ),
        Err(_) => warn!(
            policy = options.policy,
            phase = "rollback",
            "the probes did not pass within {} s after the rollback",
            AFTER_ROLLBACK.as_secs()
        ),
    }
    Outcome::ProbeFailed { cause }
}

fn log_end(options: &Options, report: &Report) {
    metrics::agent().ended(&report.outcome, report.duration);
    let policy = &options.policy;
    let took = report.duration.as_millis();
    match &report.outcome {
        Outcome::Unchanged => info!(policy, phase = "plan", "nothing differs, nothing touched ({took} ms)"),
        Outcome::Applied => info!(policy, phase = "commit", "applied in {took} ms"),
        Outcome::Refused(fault) => {
            warn!(policy, phase = "plan", "refused, nothing touched: {fault}")
        }
        Outcome::Failed { phase, cause, .. } => warn!(policy, phase = phase.word(), "failed after {took} ms: {cause}"),
        Outcome::ProbeFailed { cause } => warn!(policy, phase = "rollback", "rolled back after {took} ms: {cause}"),
        Outcome::Stuck { cause, rollback } => tracing::error!(
            policy,
            phase = "rollback",
            "{cause}; the rollback failed too: {rollback}; NetworkManager will roll back by its own timer"
        ),
    }
}

/// The host as the probes see it.
struct Eyes<'a, H>(&'a H);

impl<H: Host> Look for Eyes<'_, H> {
    async fn facts(&self) -> Result<Facts, HostError> {
        Ok(self.0.observe().await?.facts)
    }
}
