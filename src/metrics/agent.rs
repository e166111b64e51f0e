//! What an agent counts. One call each from where it happens.

use std::fmt;
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Counters, Gauges, Histograms, Timer, seconds, word};
use crate::api::Condition;
use crate::api::condition::is_true;
use crate::transaction::{Outcome, Phase};

const OUTCOMES: [&str; 6] = ["unchanged", "applied", "refused", "failed", "probe_failed", "stuck"];
const PHASES: [Phase; 8] = [
    Phase::Observe,
    Phase::Plan,
    Phase::Checkpoint,
    Phase::Execute,
    Phase::Verify,
    Phase::Probe,
    Phase::Commit,
    Phase::Rollback,
];
const CAUSES: [&str; 5] = ["execute", "verify", "probe", "commit", "crash"];
const PROBES: [&str; 4] = ["gateway", "dns", "apiserver", "node_readiness"];

/// When a probe was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Before the change.
    Before,
    /// After it.
    After,
    /// After it was rolled back.
    Rollback,
}

impl Round {
    const ALL: [Round; 3] = [Round::Before, Round::After, Round::Rollback];

    fn word(self) -> &'static str {
        match self {
            Round::Before => "before",
            Round::After => "after",
            Round::Rollback => "rollback",
        }
    }
}

/// What a look at the node led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The NodeNetworkState was written: `status.currentState` has this many bytes as JSON.
    Written(usize),
    /// Nothing that it shows has changed.
    Unchanged,
    /// The node could not be read, or the state not be written.
    Failed,
}

/// The policies that are here, and whether the node has drifted from them.
type Drifted = Box<dyn Fn() -> Vec<(String, bool)> + Send + Sync>;

/// Filled in once there is something to ask.
#[derive(Clone, Default)]
struct Drift(Arc<Mutex<Option<Drifted>>>);

impl fmt::Debug for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drift")
    }
}

impl Collector for Drift {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = asked.as_ref().map(|ask| ask()).unwrap_or_default();
        if all.is_empty() {
            return Ok(());
        }
        let help = "1 while the node differs from what the policy left";
        let mut family = encoder.encode_descriptor("netwright_policy_drifted", help, None, MetricType::Gauge)?;
        for (policy, drifted) in all {
            ConstGauge::new(i64::from(drifted)).encode(family.encode_family(&[("policy", policy)])?)?;
        }
        Ok(())
    }
}

/// What an agent counts.
#[derive(Debug)]
pub struct Agent {
    attempts: Counters<1>,
    duration: Histogram,
    phases: Histograms<1>,
    started: Gauge<f64, AtomicU64>,
    slot_wait: Histogram,
    rollbacks: Counters<1>,
    probes: Counters<3>,
    probe_duration: Histograms<2>,
    drift: Drift,
    drifts: Counter,
    looks: Counters<1>,
    size: Gauge,
    written: Counter,
    calls: Counters<2>,
    call_duration: Histograms<1>,
    networkmanager: Gauges<1>,
}

impl Default for Agent {
    fn default() -> Self {
        let agent = Agent {
            attempts: Family::default(),
            duration: Histogram::new([0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]),
            phases: Family::new_with_constructor(|| {
                Histogram::new([0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0])
            }),
            started: Gauge::default(),
            slot_wait: Histogram::new([0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0]),
            rollbacks: Family::default(),
            probes: Family::default(),
            probe_duration: Family::new_with_constructor(|| {
                Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0, 120.0])
            }),
            drift: Drift::default(),
            drifts: Counter::default(),
            looks: Family::default(),
            size: Gauge::default(),
            written: Counter::default(),
            calls: Family::default(),
            call_duration: Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 25.0])
            }),
            networkmanager: Family::default(),
        };
        agent.begin();
        agent
    }
}

impl Agent {
    /// Series of closed lists are there with 0, so that `increase()` sees the first time.
    fn begin(&self) {
        for outcome in OUTCOMES {
            drop(self.attempts.get_or_create(&[("outcome", outcome.to_owned())]));
        }
        for phase in PHASES {
            drop(self.phases.get_or_create(&[("phase", phase.word().to_owned())]));
        }
        for cause in CAUSES {
            drop(self.rollbacks.get_or_create(&[("cause", cause.to_owned())]));
        }
        for probe in PROBES {
            for round in Round::ALL {
                let [probe, round] = [("probe", probe.to_owned()), ("round", round.word().to_owned())];
                for result in ["pass", "fail"] {
                    let labels = [probe.clone(), round.clone(), ("result", result.to_owned())];
                    drop(self.probes.get_or_create(&labels));
                }
                drop(self.probe_duration.get_or_create(&[probe, round]));
            }
        }
        for result in ["written", "unchanged", "failed"] {
            drop(self.looks.get_or_create(&[("result", result.to_owned())]));
        }
    }

    /// Names and texts of all of it.
    pub fn register(&self, to: &mut Registry) {
        to.register(
            "netwright_apply_attempts",
            "Transactions that ended, by outcome",
            self.attempts.clone(),
        );
        let help = "Whole transactions that touched or tried to touch the node";
        to.register("netwright_apply_duration_seconds", help, self.duration.clone());
        let help = "Each phase of a transaction that was entered";
        to.register("netwright_apply_phase_duration_seconds", help, self.phases.clone());
        let help = "When the transaction under way began, as Unix time; 0: none";
        to.register("netwright_apply_started_timestamp_seconds", help, self.started.clone());
        let help = "From asking for a turn to its grant";
        to.register("netwright_slot_wait_seconds", help, self.slot_wait.clone());
        let help = "Changes taken back, by the phase that failed";
        to.register("netwright_rollbacks", help, self.rollbacks.clone());
        to.register("netwright_probe_checks", "Rounds of probes", self.probes.clone());
        let help = "Until a probe passed or was given up";
        to.register("netwright_probe_duration_seconds", help, self.probe_duration.clone());
        to.register_collector(Box::new(self.drift.clone()));
        to.register(
            "netwright_drifts",
            "Times that condition Drifted became True",
            self.drifts.clone(),
        );
        let help = "Looks at the node for its NodeNetworkState";
        to.register("netwright_state_updates", help, self.looks.clone());
        let help = "status.currentState as last published, as JSON";
        to.register("netwright_state_size_bytes", help, self.size.clone());
        let help = "status.currentState, summed over all writes";
        to.register("netwright_state_written_bytes", help, self.written.clone());
        to.register("netwright_dbus_calls", "Calls of NetworkManager", self.calls.clone());
        let help = "Until NetworkManager's answer";
        to.register("netwright_dbus_call_duration_seconds", help, self.call_duration.clone());
        to.register(
            "netwright_networkmanager_info",
            "Version of NetworkManager",
            self.networkmanager.clone(),
        );
    }

    /// A transaction is under way until this is dropped.
    pub fn at_work(&self) -> AtWork {
        self.started.set(Timestamp::now().as_millisecond() as f64 / 1000.0);
        AtWork(self.started.clone())
    }

    /// A phase lasts until this is dropped.
    pub fn phase(&self, phase: Phase) -> Timer {
        Timer::new(self.phases.get_or_create_owned(&[("phase", phase.word().to_owned())]))
    }

    /// A phase lasts as long as this.
    pub async fn during<T>(&self, phase: Phase, work: impl Future<Output = T>) -> T {
        let _timer = self.phase(phase);
        work.await
    }

    /// A transaction has ended.
    pub fn ended(&self, outcome: &Outcome, took: Duration) {
        let word = match outcome {
            Outcome::Unchanged => "unchanged",
            Outcome::Applied => "applied",
            Outcome::Refused(_) => "refused",
            Outcome::Failed { .. } => "failed",
            Outcome::ProbeFailed { .. } => "probe_failed",
            Outcome::Stuck { .. } => "stuck",
        };
        self.attempts.get_or_create(&[("outcome", word.to_owned())]).inc();
        if !matches!(outcome, Outcome::Unchanged | Outcome::Refused(_)) {
            self.duration.observe(seconds(took));
        }
    }

    /// A change was taken back because this phase failed; None: a start found the remains of a transaction.
    pub fn rolled_back(&self, phase: Option<Phase>) {
        let cause = match phase {
            None => "crash",
            Some(Phase::Verify) => "verify",
            Some(Phase::Probe) => "probe",
            Some(Phase::Commit) => "commit",
            // what was planned later, in the middle, belongs to the execution
            Some(Phase::Observe | Phase::Plan | Phase::Checkpoint | Phase::Execute | Phase::Rollback) => "execute",
        };
        self.rollbacks.get_or_create(&[("cause", cause.to_owned())]).inc();
    }

    /// A round of one probe: failed unless it is told that it passed before it is dropped.
    pub fn probe(&self, name: &str, round: Round) -> ProbeRound<'_> {
        let labels = [("probe", word(name)), ("round", round.word().to_owned())];
        ProbeRound {
            agent: self,
            timer: Timer::new(self.probe_duration.get_or_create_owned(&labels)),
            labels,
            result: "fail",
        }
    }

    /// A slot was granted after this time.
    pub fn slot_granted(&self, after: Duration) {
        self.slot_wait.observe(seconds(after));
    }

    /// Whom to ask at each scrape for the policies that are here, and whether the node has drifted from them.
    pub fn drifts_of(&self, ask: impl Fn() -> Vec<(String, bool)> + Send + Sync + 'static) {
        *self.drift.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(ask));
    }

    /// The conditions of an enactment were written.
    pub fn conditions(&self, before: &[Condition], after: &[Condition]) {
        if is_true(after, "Drifted") && !is_true(before, "Drifted") {
            self.drifts.inc();
        }
    }

    /// The node was looked at for its NodeNetworkState.
    pub fn looked(&self, look: Look) {
        let word = match look {
            Look::Written(bytes) => {
                self.size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
                self.written.inc_by(bytes as u64);
                "written"
            }
            Look::Unchanged => "unchanged",
            Look::Failed => "failed",
        };
        self.looks.get_or_create(&[("result", word.to_owned())]).inc();
    }

    /// NetworkManager is of this version.
    pub fn networkmanager(&self, version: &str) {
        let labels = [("version", version.to_owned())];
        if !version.is_empty() && self.networkmanager.get(&labels).is_none() {
            self.networkmanager.clear();
            self.networkmanager.get_or_create(&labels).set(1);
        }
    }

    /// A call of NetworkManager.
    pub async fn dbus<T, E>(&self, method: &'static str, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut counted = self.dbus_call(method);
        let answer = call.await;
        if answer.is_ok() {
            counted.result = "ok";
        }
        answer
    }

    /// One that nobody waits for to the end is an error, too.
    pub(super) fn dbus_call(&self, method: &'static str) -> DbusCall<'_> {
        DbusCall {
            agent: self,
            method,
            _timer: Timer::new(self.call_duration.get_or_create_owned(&[("method", method.to_owned())])),
            result: "error",
        }
    }
}

/// Work is under way.
#[derive(Debug)]
pub struct AtWork(Gauge<f64, AtomicU64>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.set(0.0);
    }
}

/// One round of a probe.
#[derive(Debug)]
pub struct ProbeRound<'a> {
    agent: &'a Agent,
    #[expect(dead_code, reason = "it observes when it is dropped")]
    timer: Timer,
    labels: super::Labels<2>,
    result: &'static str,
}

impl ProbeRound<'_> {
    /// Ends it.
    pub fn done(mut self, passed: bool) {
        if passed {
            self.result = "pass";
        }
    }
}

impl Drop for ProbeRound<'_> {
    fn drop(&mut self) {
        let [probe, round] = self.labels.clone();
        let labels = [probe, round, ("result", self.result.to_owned())];
        self.agent.probes.get_or_create(&labels).inc();
    }
}

/// One call of NetworkManager.
#[derive(Debug)]
pub(super) struct DbusCall<'a> {
    agent: &'a Agent,
    method: &'static str,
    _timer: Timer,
    result: &'static str,
}

impl Drop for DbusCall<'_> {
    fn drop(&mut self) {
        let labels = [("method", self.method.to_owned()), ("result", self.result.to_owned())];
        self.agent.calls.get_or_create(&labels).inc();
    }
}
