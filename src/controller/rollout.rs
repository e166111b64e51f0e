//! Who may work, who stops, and what the policy's status says. Pure: recomputed from objects each time, so there is no counter to leak.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::condition::{Rollout, is_true};
use crate::api::nnce::NodeNetworkConfigurationEnactmentStatus as Status;
use crate::api::nncp::{NodeCounts, NodeNetworkConfigurationPolicy as Policy};
use crate::api::{ANNOTATION_WAITING, NodeNetworkConfigurationEnactment as Enactment};

/// A slot that was granted and not taken up ends after this long.
pub const SLOT: SignedDuration = SignedDuration::from_secs(60);

/// A node as the roll-out sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// Condition Ready.
    pub ready: bool,
}

/// How an enactment stands for the policy's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing for this generation yet.
    Unknown,
    /// It asks for a slot.
    Waiting,
    /// It holds a slot.
    Working,
    /// Done.
    Available,
    /// Failed, and will be tried again.
    Retrying,
    /// Failed for good, or its slot ran out while it worked.
    Failed,
    /// Stopped before it began.
    Aborted,
}

/// Reads one enactment.
pub fn standing(enactment: &Enactment, generation: i64, now: Timestamp) -> Standing {
    let none = Status::default();
    let status = enactment.status.as_ref().unwrap_or(&none);
    let on = |t: &str| is_true(&status.conditions, t);
    let slot = status.slot.as_ref().filter(|s| s.generation == generation);
    let live = slot.is_some_and(|s| s.expires.parse::<Timestamp>().is_ok_and(|end| end > now));
    if status.policy_generation != Some(generation) {
        let asks = enactment
            .annotations()
            .get(ANNOTATION_WAITING)
            .is_some_and(|g| *g == generation.to_string());
        return match (live, asks && status.conditions.is_empty()) {
            (true, _) => Standing::Working,
            (false, true) => Standing::Waiting,
            (false, false) => Standing::Unknown,
        };
    }
    if on("Available") {
        Standing::Available
    } else if on("Aborted") {
        Standing::Aborted
    } else if on("Failing") {
        if on("Progressing") {
            Standing::Retrying
        } else {
            Standing::Failed
        }
    } else if live {
        Standing::Working
    } else if on("Progressing") {
        Standing::Failed
    } else if on("Pending") {
        Standing::Waiting
    } else {
        Standing::Unknown
    }
}

/// How many may be at work: a number or a percentage of matching nodes, rounded up, at least 1; 50 % by default and for what cannot be read.
pub fn max_unavailable(value: Option<&IntOrString>, matching: usize) -> usize {
    let percent = |p: usize| (matching * p).div_ceil(100);
    let n = match value {
        Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(0),
        Some(IntOrString::String(text)) => match text.strip_suffix('%').and_then(|p| p.parse().ok()) {
            Some(p) => percent(p),
            None => percent(50),
        },
        None => percent(50),
    };
    n.max(1)
}

/// What to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Enactments that get a slot.
    pub grant: Vec<String>,
    /// Enactments that stop before they began.
    pub abort: Vec<String>,
    /// The policy's conditions.
    pub rollout: Rollout,
    /// The policy's counts.
    pub counts: NodeCounts,
    /// All that will be said has been said.
    pub finished: bool,
}

/// Decides for one policy. `enactments` are its own, by node.
pub fn decide(
    policy: &Policy,
    members: &BTreeMap<String, Member>,
    enactments: &BTreeMap<String, Enactment>,
    now: Timestamp,
) -> Decision {
    let generation = policy.metadata.generation.unwrap_or(0);
    let matching: Vec<(&String, &Member)> = members.iter().filter(|(_, m)| policy.spec.matches(&m.labels)).collect();
    let standings: Vec<(&String, Standing)> = matching
        .iter()
        .map(|(node, _)| {
            (
                *node,
                enactments
                    .get(*node)
                    .map_or(Standing::Unknown, |e| standing(e, generation, now)),
            )
        })
        .collect();
    let count = |s: Standing| standings.iter().filter(|(_, x)| *x == s).count();
    let (failed, retrying, working) = (
        count(Standing::Failed),
        count(Standing::Retrying),
        count(Standing::Working),
    );
    let max = max_unavailable(policy.spec.max_unavailable.as_ref(), matching.len());
    let waiting: Vec<String> = standings
        .iter()
        .filter(|(_, s)| *s == Standing::Waiting)
        .filter_map(|(n, _)| Some(enactments.get(*n)?.name_any()))
        .collect();
    let paused = policy.spec.paused == Some(true);
    let stop = failed >= max;
    let free = if stop || paused {
        0
    } else {
        max.saturating_sub(working + retrying + failed)
    };
    // an attempt that is tried again needs its slot again once the first ran out
    let again = standings
        .iter()
        .filter(|(n, s)| *s == Standing::Retrying && !holds(enactments.get(*n), generation, now));
    let again: Vec<String> = again
        .filter_map(|(n, _)| Some(enactments.get(*n)?.name_any()))
        .filter(|_| !paused)
        .collect();
    let to_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let counts = NodeCounts {
        matching: to_u32(matching.len()),
        ready: to_u32(matching.iter().filter(|(_, m)| m.ready).count()),
        available: to_u32(count(Standing::Available)),
        failing: to_u32(failed + retrying),
        progressing: to_u32(working + retrying),
        pending: to_u32(waiting.len()),
        aborted: to_u32(count(Standing::Aborted) + if stop { waiting.len() } else { 0 }),
        drifted: 0,
    };
    Decision {
        abort: if stop && !paused { waiting.clone() } else { vec![] },
        grant: again.into_iter().chain(waiting.into_iter().take(free)).collect(),
        rollout: if paused { Rollout::Paused } else { rollout(&counts) },
        finished: retrying + working == 0 && counts.available + counts.aborted + to_u32(failed) >= counts.ready,
        counts,
    }
}

fn holds(enactment: Option<&Enactment>, generation: i64, now: Timestamp) -> bool {
    let slot = enactment
        .and_then(|e| e.status.as_ref()?.slot.as_ref())
        .filter(|s| s.generation == generation);
    slot.is_some_and(|s| s.expires.parse::<Timestamp>().is_ok_and(|end| end > now))
}

/// The incumbent's rules and texts, in its order.
fn rollout(n: &NodeCounts) -> Rollout {
    let finished = n.available + n.failing + n.aborted;
    let not_ready = match n.matching - n.ready.min(n.matching) {
        0 => String::new(),
        k => format!(", {k} nodes ignored due to NotReady state"),
    };
    if n.matching == 0 {
        Rollout::NotMatching
    } else if n.failing > 0 || n.aborted > 0 {
        let aborted = if n.aborted > 0 {
            format!(", {} nodes aborted configuration", n.aborted)
        } else {
            String::new()
        };
        Rollout::Failed(format!(
            "{}/{} nodes failed to configure{aborted}",
            n.failing, n.matching
        ))
    } else if finished < n.ready {
        let pending = if n.pending > 0 {
            format!(", {} pending", n.pending)
        } else {
            String::new()
        };
        Rollout::Progressing(format!(
            "Policy is progressing {finished}/{} nodes finished{pending}{not_ready}",
            n.ready
        ))
    } else {
        Rollout::Success(format!(
            "{}/{} nodes successfully configured{not_ready}",
            n.available, n.matching
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::{Enacting, enactment};
    use crate::api::nnce::{Slot, name};
    use crate::api::nncp::NodeNetworkConfigurationPolicySpec as Spec;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn policy(max: Option<IntOrString>) -> Policy {
        let mut p = Policy::new(
            "p",
            Spec {
                max_unavailable: max,
                ..Spec::default()
            },
        );
        p.metadata.generation = Some(1);
        p
    }

    fn fleet(states: &[Option<Enacting>]) -> (BTreeMap<String, Member>, BTreeMap<String, Enactment>) {
        let mut members = BTreeMap::new();
        let mut all = BTreeMap::new();
        for (i, state) in states.iter().enumerate() {
            let node = format!("n{i}");
            members.insert(
                node.clone(),
                Member {
                    ready: true,
                    ..Member::default()
                },
            );
            let mut e = Enactment::default();
            e.metadata.name = Some(name(&node, "p"));
            if let Some(how) = state {
                let working = matches!(how, Enacting::Progressing | Enacting::Retrying(_));
                let slot = Slot {
                    generation: 1,
                    granted: NOW.into(),
                    expires: (now() + SLOT).to_string(),
                };
                e.status = Some(Status {
                    conditions: enactment(how, &[], NOW),
                    policy_generation: Some(1),
                    slot: working.then_some(slot),
                    ..Status::default()
                });
                all.insert(node, e);
            }
        }
        (members, all)
    }

    fn ask(states: &[Option<Enacting>], max: Option<IntOrString>) -> Decision {
        let (members, all) = fleet(states);
        decide(&policy(max), &members, &all, now())
    }

    fn pending() -> Option<Enacting> {
        Some(Enacting::Pending(String::new()))
    }

    #[test]
    fn the_incumbents_table_of_max_unavailable() {
        let s = |t: &str| Some(IntOrString::String(t.into()));
        for (value, nodes, want) in [
            (s("50%"), 5, 3),
            (s("50%"), 6, 3),
            (Some(IntOrString::Int(3)), 5, 3),
            (s("asdf"), 5, 3),
            (s("42"), 5, 3),
            (s("0%"), 5, 1),
            (Some(IntOrString::Int(0)), 5, 1),
            (None, 1, 1),
        ] {
            assert_eq!(max_unavailable(value.as_ref(), nodes), want, "{value:?} of {nodes}");
        }
    }

    #[test]
    fn a_full_rollout_makes_the_rest_wait() {
        let d = ask(
            &[
                Some(Enacting::Progressing),
                Some(Enacting::Progressing),
                pending(),
                pending(),
            ],
            None,
        );
        assert!(d.grant.is_empty() && d.abort.is_empty());
        let d = ask(
            &[
                Some(Enacting::Success(String::new())),
                Some(Enacting::Progressing),
                pending(),
                pending(),
            ],
            None,
        );
        assert_eq!(d.grant, ["n2.p"]);
    }

    #[test]
    fn as_many_failures_as_may_be_unavailable_stop_it() {
        let d = ask(
            &[Some(Enacting::Failed(String::new())), pending()],
            Some(IntOrString::Int(1)),
        );
        assert_eq!(d.abort, ["n1.p"]);
        assert!(d.grant.is_empty());
        let d = ask(
            &[Some(Enacting::Failed(String::new())), pending(), pending()],
            Some(IntOrString::Int(2)),
        );
        assert_eq!((d.grant.len(), d.abort.len()), (1, 0), "a failed node keeps its place");
    }

    #[test]
    fn a_slot_that_ran_out_is_a_failure() {
        let (members, mut all) = fleet(&[Some(Enacting::Progressing), pending()]);
        let slot = all
            .get_mut("n0")
            .and_then(|e| e.status.as_mut()?.slot.as_mut())
            .unwrap();
        slot.expires = "2025-12-31T23:59:59Z".into();
        let d = decide(&policy(Some(IntOrString::Int(1))), &members, &all, now());
        assert_eq!(d.abort, ["n1.p"]);
    }

    #[test]
    fn texts_are_the_incumbents() {
        let ok = || Some(Enacting::Success(String::new()));
        let text = |states: &[Option<Enacting>]| match ask(states, None).rollout {
            Rollout::Progressing(m) | Rollout::Success(m) | Rollout::Failed(m) => m,
            other => format!("{other:?}"),
        };
        assert_eq!(text(&[ok(), ok()]), "2/2 nodes successfully configured");
        assert_eq!(text(&[ok(), None]), "Policy is progressing 1/2 nodes finished");
        assert_eq!(
            text(&[ok(), pending()]),
            "Policy is progressing 1/2 nodes finished, 1 pending"
        );
        assert_eq!(
            text(&[Some(Enacting::Failed(String::new())), pending()]),
            "1/2 nodes failed to configure, 1 nodes aborted configuration"
        );
        assert_eq!(ask(&[], None).rollout, Rollout::NotMatching);
    }
}
