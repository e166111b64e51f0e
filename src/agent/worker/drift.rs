//! After success: the node is compared with what a policy made of it whenever something happens, and a policy gives way to another one that
//! asks for something else. Nothing is written as long as nothing changes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::{Instant, sleep};

use super::{Next, Status, Worker, plan_of};
use crate::agent::events::Reason;
use crate::agent::{LOOK_AGAIN, decide, patch};
use crate::api::NodeNetworkConfigurationPolicy as Policy;
use crate::api::condition::{self, Enacting};
use crate::api::nnce::Drift;
use crate::api::nncp::Mode;
use crate::capture;
use crate::clock;
use crate::error::Invalid;
use crate::host::Host;
use crate::plan::conflict::{self, Asked};
use crate::plan::{Options, Plan, resolve};

/// Quiet after an event before the node is read again.
const QUIET: Duration = Duration::from_secs(1);
/// Never later than this after an event.
const LATEST: Duration = Duration::from_secs(5);
/// A reading without an event, in case one was lost.
pub(in crate::agent) const ANYWAY: Duration = Duration::from_secs(60);
/// What differs for this long is no passing state.
const LASTING: Duration = Duration::from_secs(5);
/// The first so many differences are published.
const SHOWN: usize = 20;

/// A policy whose node is not as it was made.
struct Differs {
    since: Timestamp,
    lines: Vec<String>,
    /// When that counts, or is looked at again.
    due: Option<Instant>,
}

/// What is known between two looks.
pub(in crate::agent) struct Watch {
    /// From when on the node is to be looked at.
    at: Option<Instant>,
    /// This pass does so.
    looks: bool,
    /// An event came, and it is not quiet yet.
    event: Option<Instant>,
    differs: HashMap<String, Differs>,
    /// Tells whether policies or Node have changed.
    weighed: Option<u64>,
    gives_way: HashMap<String, String>,
    /// What the policies in force ask for.
    pub(super) asked: Vec<(String, Asked)>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            at: Some(Instant::now()),
            looks: false,
            event: None,
            differs: HashMap::new(),
            weighed: None,
            gives_way: HashMap::new(),
            asked: vec![],
        }
    }
}

impl Watch {
    pub(in crate::agent) fn look_in(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.at = Some(self.at.map_or(at, |before| before.min(at)));
    }

    /// Something was changed by us: what others made is looked at soon.
    pub(super) fn stir(&mut self) {
        self.look_in(QUIET);
    }

    pub(in crate::agent) fn begin_pass(&mut self) {
        self.looks = self.at.take_if(|at| *at <= Instant::now()).is_some();
    }

    /// The earlier of a pause and the next look.
    pub(in crate::agent) fn soonest(&self, pause: Option<Duration>) -> Option<Duration> {
        let look = self.at.map(|at| at.saturating_duration_since(Instant::now()));
        pause.into_iter().chain(look).min()
    }

    pub(in crate::agent) fn forget(&mut self, policy: &str) {
        self.differs.remove(policy);
    }

    /// Why it is not applied, where another policy comes first.
    pub(super) fn gives_way(&self, policy: &str) -> Option<String> {
        self.gives_way.get(policy).cloned()
    }

    /// When to look at this policy without an event.
    fn due(&self, policy: &str) -> Option<Duration> {
        let due = self.differs.get(policy)?.due?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// How much longer this difference must last to count.
    fn rest(&mut self, policy: &str, lines: &[String], now: Timestamp) -> Option<Duration> {
        let begin = || Some(Instant::now() + LASTING);
        let known = self.differs.entry(policy.to_owned()).or_insert_with(|| Differs {
            since: now,
            lines: lines.to_vec(),
            due: begin(),
        });
        if known.lines != lines {
            known.lines = lines.to_vec();
            known.due = begin();
        }
        let rest = known.due?.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }

    /// What it means that `lines` differ from what a policy made, which was applied and said so in `status`. Asked again after `Tell`.
    pub(in crate::agent) fn compared(&mut self, policy: &str, found: &Found<'_>, now: Timestamp) -> Compared {
        let Found { status, lines, .. } = found;
        let available = condition::is_true(&status.conditions, "Available");
        if lines.is_empty() {
            self.forget(policy);
            return match available && status.drift.is_none() {
                true => Compared::Same,
                false => Compared::Over,
            };
        }
        if !available {
            return Compared::Told;
        }
        if let Some(rest) = self.rest(policy, lines, now) {
            return Compared::Wait(rest);
        }
        let differences = shown(lines);
        if status.drift.as_ref().is_none_or(|d| d.differences != differences) {
            let first = self.differs.get(policy).map_or(now, |d| d.since).to_string();
            let since = status.drift.as_ref().map_or(first, |d| d.since.clone());
            return Compared::Tell(Drift { since, differences });
        }
        let pause = decide::mend_not_before(status, found.generation).map(|at| at.duration_since(now));
        let (due, then) = match pause.filter(|pause| pause.is_positive()) {
            _ if !found.mends => (None, Compared::Told),
            None => (None, Compared::Mend),
            Some(pause) => {
                let pause = Duration::try_from(pause).unwrap_or(LOOK_AGAIN);
                (Some(Instant::now() + pause), Compared::Wait(pause))
            }
        };
        if let Some(known) = self.differs.get_mut(policy) {
            known.due = due;
        }
        then
    }
}

/// What a look at the node has shown of a policy.
pub(in crate::agent) struct Found<'a> {
    /// Of its enactment.
    pub status: &'a Status,
    /// Of the policy.
    pub generation: i64,
    /// What differs, one line a property.
    pub lines: &'a [String],
    /// It can be put right, and the policy says that it shall be.
    pub mends: bool,
}

/// What that means.
#[derive(Debug, PartialEq)]
pub(in crate::agent) enum Compared {
    /// The node is as it was made, and nobody said otherwise.
    Same,
    /// It is so again.
    Over,
    /// It may be a passing state, or is not to be mended yet.
    Wait(Duration),
    /// It is to be told.
    Tell(Drift),
    /// It was told, and nothing follows.
    Told,
    /// It was told, and is to be put right.
    Mend,
}

impl<H: Host> Worker<H> {
    /// Returns when something has happened to the node and it is quiet again.
    pub(super) async fn node_changed(&mut self) {
        if self.settled.is_empty() {
            return std::future::pending().await;
        }
        let begin = match self.drift.event {
            Some(begin) => begin,
            None => {
                self.host.changed(ANYWAY).await;
                *self.drift.event.insert(Instant::now())
            }
        };
        quiet(&self.host, begin).await;
        self.drift.event = None;
        self.drift.look_in(Duration::ZERO);
    }

    /// Compares the node with what a policy that was applied, or shows its plan, makes of it.
    pub(super) async fn compare(
        &mut self,
        policy: &Policy,
        status: Status,
        node: &capture::Node,
    ) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation.unwrap_or(0);
        let due = self.drift.due(&name);
        if !self.drift.looks && due.is_none_or(|rest| !rest.is_zero()) {
            return Ok(due.map_or(Next::Rest, Next::In));
        }
        let available = decide::is_available(&status, generation);
        let shows = policy.spec.mode == Some(Mode::Plan);
        if !available && !shows && status.drift.is_none() {
            return Ok(Next::Rest);
        }
        let Ok(seen) = self.look().await else {
            // what was in place is taken to be so until it can be read
            self.drift.look_in(LOOK_AGAIN);
            return Ok(Next::Rest);
        };
        let now = clock::now();
        let wish = match self.wish(policy, node, &status, &seen, now) {
            Ok(wish) => wish,
            Err(_) if available => return self.anew(policy, status, node).await,
            Err(_) => return Ok(Next::Rest),
        };
        let plan = plan_of(&wish, &seen);
        let lines = lines(&plan);
        let published = status.desired_state.as_ref();
        let same_wish = published.is_none_or(|published| patch::same(published, &wish.rendered.json));
        if shows {
            let failed = plan.is_err() && decide::is_final(&status, generation);
            let said = available && lines.is_empty() || !available && !lines.is_empty() && status.plan == lines;
            if failed || same_wish && plan.is_ok() && said {
                self.drift.forget(&name);
                return Ok(Next::Rest);
            }
            return match self.drift.rest(&name, &lines, now) {
                Some(rest) => Ok(Next::In(rest)),
                None => self.anew(policy, status, node).await,
            };
        }
        // a label of the node that a template names has changed
        if available && !lines.is_empty() && !same_wish {
            return self.anew(policy, status, node).await;
        }
        self.follow(policy, status, node, &lines, plan.is_ok()).await
    }

    /// Tells what differs or does not any more, and puts it right where the policy says so and it can be planned.
    async fn follow(
        &mut self,
        policy: &Policy,
        mut status: Status,
        node: &capture::Node,
        lines: &[String],
        planned: bool,
    ) -> Result<Next, kube::Error> {
        let name = policy.name_any();
        let generation = policy.metadata.generation.unwrap_or(0);
        let now = Timestamp::now();
        loop {
            let found = Found {
                status: &status,
                generation,
                lines,
                mends: policy.spec.mode == Some(Mode::Enforce) && planned,
            };
            match self.drift.compared(&name, &found, now) {
                Compared::Same | Compared::Told => return Ok(Next::Rest),
                Compared::Wait(pause) => return Ok(Next::In(pause)),
                Compared::Mend => return self.anew(policy, status, node).await,
                Compared::Over if decide::is_available(&status, generation) => {
                    return self.tell_drift(policy, status, None).await.map(|_| Next::Rest);
                }
                // somebody else has put it right
                Compared::Over => return self.in_place(policy, status, &[]).await,
                Compared::Tell(drift) => {
                    if status.drift.is_none() {
                        let what = condition::few(&drift.differences);
                        self.events.tell(policy, Reason::Drifted, &what);
                    }
                    status = self.tell_drift(policy, status, Some(drift)).await?;
                }
            }
        }
    }

    async fn anew(&mut self, policy: &Policy, status: Status, node: &capture::Node) -> Result<Next, kube::Error> {
        self.settled.remove(&policy.name_any());
        self.drift.forget(&policy.name_any());
        self.attempt(policy, status, node).await
    }

    async fn tell_drift(
        &mut self,
        policy: &Policy,
        status: Status,
        drift: Option<Drift>,
    ) -> Result<Status, kube::Error> {
        let how = Enacting::Success(decide::success(&status));
        self.write(policy, Status { drift, ..status }, &how).await
    }

    /// Says that another policy comes first.
    pub(super) async fn give_way(&mut self, policy: &Policy, status: Status, why: String) -> Result<Next, kube::Error> {
        let how = Enacting::Conflicts(why);
        if decide::says(&status, policy.metadata.generation.unwrap_or(0), &how) {
            return Ok(Next::Rest);
        }
        if let Enacting::Conflicts(why) = &how {
            self.events.tell(policy, Reason::ConflictsWithPolicy, why);
        }
        self.drift.forget(&policy.name_any());
        self.finish(policy, Status { drift: None, ..status }, &how).await
    }

    /// Finds out which policies stand in each other's way, when policies or Node have changed.
    pub(super) async fn weigh(&mut self, policies: &[Arc<Policy>], node: &capture::Node) {
        let ours: Vec<&Arc<Policy>> = policies.iter().filter(|p| p.spec.matches(&node.labels)).collect();
        let key = |p: &Arc<Policy>| (p.name_any(), p.uid(), p.metadata.generation);
        let mut hasher = DefaultHasher::new();
        ours.iter().for_each(|p| key(p).hash(&mut hasher));
        (&node.labels, &node.annotations).hash(&mut hasher);
        let key = Some(hasher.finish());
        if self.drift.weighed == key {
            return;
        }
        // also what a label means to a template may have changed
        self.drift.look_in(Duration::ZERO);
        let mut asked = vec![];
        if !ours.is_empty() {
            let Ok(seen) = self.look().await else { return };
            for policy in &ours {
                let status = self.status(&policy.name_any()).unwrap_or_default();
                let Ok(wish) = self.wish(policy, node, &status, &seen, clock::now()) else {
                    continue;
                };
                let state = wish.rendered.state;
                let resolved = resolve::resolve(&state, &seen, Options::default()).map(|r| r.state);
                asked.push((policy.name_any(), Asked::of(&resolved.unwrap_or(state))));
            }
        }
        let in_force = |name: &str| {
            let policy = ours.iter().find(|p| p.name_any() == name);
            let applied = || {
                self.status(name)
                    .is_some_and(|s| condition::is_true(&s.conditions, "Available"))
            };
            policy.is_some_and(|p| p.spec.mode != Some(Mode::Plan) && (p.spec.paused != Some(true) || applied()))
        };
        let say = |(name, (other, path)): (&str, (&str, String))| {
            let why = format!("{path}: policy {other} comes first and asks for another value");
            (name.to_owned(), why)
        };
        let gives_way: HashMap<String, String> = conflict::conflicts(&asked, in_force).into_iter().map(say).collect();
        asked.retain(|(name, _)| !gives_way.contains_key(name) && in_force(name));
        self.drift.gives_way = gives_way;
        self.drift.asked = asked;
        self.drift.weighed = key;
    }
}

/// Returns when nothing has happened for a moment since an event, and not too late.
pub(in crate::agent) async fn quiet<H: Host>(host: &H, event: Instant) {
    while event.elapsed() < LATEST - QUIET {
        sleep(QUIET).await;
        if !host.changed(Duration::ZERO).await {
            break;
        }
    }
}

/// What differs; where that cannot be planned, why not.
pub(in crate::agent) fn lines(plan: &Result<Plan, Invalid>) -> Vec<String> {
    match plan {
        Ok(plan) if plan.is_empty() => vec![],
        Ok(plan) => plan.lines.clone(),
        Err(fault) => vec![fault.to_string()],
    }
}

/// As many differences as are published.
fn shown(lines: &[String]) -> Vec<String> {
    let mut shown: Vec<String> = lines.iter().take(SHOWN).cloned().collect();
    if lines.len() > SHOWN {
        shown.push(format!("and {} more", lines.len() - SHOWN));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::nnce::Attempt;

    #[tokio::test(start_paused = true)]
    async fn a_difference_counts_when_it_has_lasted() {
        let mut watch = Watch::default();
        let (a, b) = (vec!["a".to_owned()], vec!["b".to_owned()]);
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(watch.rest("p", &a, now), Some(LASTING));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(watch.rest("p", &a, now), Some(Duration::from_secs(2)));
        // another one begins anew
        assert_eq!(watch.rest("p", &b, now), Some(LASTING));
        tokio::time::advance(LASTING).await;
        assert_eq!(watch.rest("p", &b, now), None);
        watch.forget("p");
        assert_eq!(watch.rest("p", &b, now), Some(LASTING));
    }

    #[tokio::test(start_paused = true)]
    async fn drift_is_told_once_and_mended_only_where_that_is_asked_for() {
        let mut watch = Watch::default();
        let lines = vec!["interfaces[eth1].mtu: 1450 → 1400".to_owned()];
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut status = Status {
            conditions: condition::enactment(&Enacting::Success("s".into()), &[], ""),
            ..Status::default()
        };
        let mut ask = |status: &Status, lines: &[String], mends, now| {
            let found = Found {
                status,
                generation: 1,
                lines,
                mends,
            };
            watch.compared("p", &found, now)
        };
        assert_eq!(ask(&status, &[], true, start), Compared::Same);
        assert_eq!(ask(&status, &lines, true, start), Compared::Wait(LASTING));
        tokio::time::advance(LASTING).await;
        let drift = Drift {
            since: start.to_string(),
            differences: lines.clone(),
        };
        assert_eq!(ask(&status, &lines, true, start), Compared::Tell(drift.clone()));
        status.drift = Some(drift);
        assert_eq!(ask(&status, &lines, false, start), Compared::Told);
        assert_eq!(ask(&status, &lines, true, start), Compared::Mend);
        // fought over: it was mended a moment ago
        let applied = |at: Timestamp| Attempt {
            generation: 1,
            outcome: "applied".into(),
            start: at.to_string(),
            ..Attempt::default()
        };
        status.attempts = vec![applied(start), applied(start)];
        let pause = Duration::from_secs(30);
        assert_eq!(ask(&status, &lines, true, start), Compared::Wait(pause));
        tokio::time::advance(pause).await;
        assert_eq!(
            ask(&status, &lines, true, start + jiff::SignedDuration::from_secs(30)),
            Compared::Mend
        );
        assert_eq!(ask(&status, &[], true, start), Compared::Over);
        // mending has failed for good: nothing until somebody else puts it right
        status.conditions = condition::enactment(&Enacting::Failed("f".into()), &[], "");
        assert_eq!(ask(&status, &lines, true, start), Compared::Told);
        assert_eq!(ask(&status, &[], true, start), Compared::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_looks_once_for_all_that_happened() {
        let mut watch = Watch::default();
        watch.begin_pass();
        assert!(watch.looks, "after the start");
        watch.begin_pass();
        assert!(!watch.looks);
        watch.stir();
        assert_eq!(watch.soonest(None), Some(QUIET));
        assert_eq!(watch.soonest(Some(Duration::ZERO)), Some(Duration::ZERO));
        watch.begin_pass();
        assert!(!watch.looks, "not yet");
        tokio::time::advance(QUIET).await;
        watch.begin_pass();
        assert!(watch.looks);
        assert_eq!(watch.soonest(None), None);
    }

    #[test]
    fn many_differences_are_cut() {
        let lines: Vec<String> = (0..25).map(|n| n.to_string()).collect();
        assert_eq!(shown(&lines).len(), 21);
        assert_eq!(shown(&lines).last().map(String::as_str), Some("and 5 more"));
        assert_eq!(shown(&lines[..20]).len(), 20);
    }
}
