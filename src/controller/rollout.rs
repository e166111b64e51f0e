//! Decides for one policy who may start, who will not start any more, and what the policy's status says. Pure; the clock is an argument.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::world::{Enactment, Node, Policy, Slot};
use crate::api::condition::{self, Rollout};
use crate::api::nnce::UNDO;
use crate::api::nncp::{Mode, NodeCounts};

/// What is to be done for one policy.
#[derive(Debug, PartialEq)]
pub struct Decision<'a> {
    /// These may start, in this order.
    pub grants: Vec<&'a Enactment>,
    /// These will not start any more.
    pub aborts: Vec<&'a Enactment>,
    /// These lose a slot that they do not use. They count until they are told.
    pub take_back: Vec<&'a Enactment>,
    /// What an aborted one is told.
    pub abort_message: String,
    /// What the policy's conditions say.
    pub rollout: Rollout,
    /// What the policy's counts say.
    pub counts: NodeCounts,
    /// Every ready node is through with this generation.
    pub terminal: bool,
    /// A slot ends then: decide again.
    pub wake: Option<Timestamp>,
    /// Slots that are held, with those granted now, and how many may be.
    pub slots: (usize, usize),
}

/// Where one enactment is in the roll-out of the policy's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing known for this generation.
    Unknown,
    /// Asks for a slot; true if it had one and let it end.
    Waiting(bool),
    /// Was done, and asks for a slot to put right what somebody else changed since.
    Mending,
    /// Has a slot, and let it end before it began.
    Late,
    /// Has a slot.
    Working,
    /// Failed, has a slot, will try again.
    Retrying,
    Available,
    Drifted,
    /// Failed for good, or let its slot end while it worked.
    Failed,
    /// Gives way to another policy: never begun, and will go on by itself.
    Conflicts,
    Aborted,
}

/// A node that will try again comes back within this after its slot ended, or it is dead.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

fn standing(e: &Enactment, generation: i64, now: Timestamp) -> Standing {
    let slot = e.slot.filter(|slot| slot.generation == generation);
    let end = slot.and_then(|slot| slot.expires);
    let live = end.is_some_and(|end| end > now);
    let asks = e.asks == Some(generation);
    if undoes(e) {
        // it came back while it was at that
        let goes_on = e.slot.and_then(|slot| slot.expires).is_some_and(|end| end > now);
        return if goes_on { Standing::Working } else { Standing::Late };
    }
    if e.generation != Some(generation) {
        return match (live, end, asks) {
            (true, ..) => Standing::Working,
            (false, Some(_), _) => Standing::Late,
            (false, None, true) => Standing::Waiting(slot.is_some()),
            (false, None, false) => Standing::Unknown,
        };
    }
    if e.is("Available") && e.is("Drifted") {
        Standing::Drifted
    } else if e.is("Available") {
        Standing::Available
    } else if e.is("Aborted") {
        Standing::Aborted
    } else if e.is("Failing") && e.is("Progressing") {
        let dead = end.is_some_and(|end| end + GRACE <= now);
        if dead { Standing::Failed } else { Standing::Retrying }
    } else if condition::is_true_because(&e.conditions, "Failing", condition::CONFLICTS) {
        Standing::Conflicts
    } else if e.is("Failing") {
        Standing::Failed
    } else if live {
        Standing::Working
    } else if e.is("Progressing") {
        Standing::Failed
    } else if end.is_some() {
        Standing::Late
    } else if e.is("Pending") && e.is(condition::DRIFTED) {
        Standing::Mending
    } else if e.is("Pending") || asks {
        Standing::Waiting(slot.is_some())
    } else {
        Standing::Unknown
    }
}

/// Has leave to undo the policy.
fn undoes(e: &Enactment) -> bool {
    e.slot
        .is_some_and(|slot| slot.generation == UNDO && slot.expires.is_some())
}

/// What is to be done about nodes that have to undo a policy.
#[derive(Debug, PartialEq)]
pub struct Undoing<'a> {
    /// These may begin, in this order.
    pub grants: Vec<&'a Enactment>,
    /// These lose a slot that has run out. They count until they are told.
    pub take_back: Vec<&'a Enactment>,
    /// A slot ends then: decide again.
    pub wake: Option<Timestamp>,
}

/// Lets as many undo a policy at a time as might apply it, counted from those that are left; those that could not undo it keep their share.
pub fn undoing<'a>(max: Option<&IntOrString>, left: &[&'a Enactment], now: Timestamp) -> Undoing<'a> {
    let failed = |e: &&&Enactment| condition::is_true_because(&e.conditions, "Failing", condition::NOT_REVERTED);
    let busy = left.iter().filter(|e| undoes(e)).count() + left.iter().filter(failed).count();
    let waiting = left.iter().filter(|e| e.is("Pending") && !undoes(e));
    let room = max_unavailable(max, left.len()).saturating_sub(busy);
    let end = |e: &Enactment| e.slot.filter(|_| undoes(e))?.expires;
    let ended = left.iter().filter(|e| end(e).is_some_and(|end| end <= now));
    Undoing {
        grants: waiting.take(room).copied().collect(),
        take_back: ended.copied().collect(),
        wake: left.iter().filter_map(|e| end(e)).filter(|end| *end > now).min(),
    }
}

/// At work for whichever generation, as far as can be known: a transaction is not broken off.
fn works(e: &Enactment, now: Timestamp) -> bool {
    let slot = e.slot.filter(|slot| slot.expires.is_some_and(|end| end > now));
    slot.is_some_and(|slot| e.generation == Some(slot.generation)) && e.is("Progressing") && !e.is("Failing")
}

/// How many nodes may change at the same time: a number or a percentage of the matching ones, rounded up, at least 1.
/// What cannot be read is the default, 50 %.
pub fn max_unavailable(value: Option<&IntOrString>, matching: usize) -> usize {
    let percent = |percent: u64| usize::try_from((percent * matching as u64).div_ceil(100)).unwrap_or(usize::MAX);
    let number = match value {
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let read = text.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok());
            percent(read.map_or(50, u64::from))
        }
        None => percent(50),
    };
    number.max(1)
}

/// Decides. `enactments` are the policy's, in order of their nodes' names; `deleted` are the ends of slots whose enactments are gone.
pub fn decide<'a>(
    policy: &Policy,
    nodes: &BTreeMap<String, Node>,
    enactments: &[&'a Enactment],
    deleted: &[Timestamp],
    now: Timestamp,
) -> Decision<'a> {
    let matching: BTreeMap<&String, &Node> = nodes
        .iter()
        .filter(|(_, node)| policy.spec.matches(&node.labels))
        .collect();
    let generation = policy.generation;
    // what an older generation, or a node that does not match any more, still has
    let meant = |e: &Enactment| {
        let ours = |slot: Slot| [generation, UNDO].contains(&slot.generation);
        matching.contains_key(&e.node) && e.slot.is_some_and(ours)
    };
    let others: Vec<&'a Enactment> = enactments.iter().copied().filter(|e| e.holds() && !meant(e)).collect();
    let known = Standings::of(
        enactments.iter().filter(|e| matching.contains_key(&e.node)),
        generation,
        now,
    );

    let most = max_unavailable(policy.spec.max_unavailable.as_ref(), matching.len());
    let failed = known.count(|s| s == Standing::Failed);
    let holding = known.count(|s| matches!(s, Standing::Working | Standing::Retrying | Standing::Late));
    let holding = holding + others.len() + deleted.len();
    // those that undo it are looked after by `undoing`
    let idle = others.into_iter().filter(|e| !works(e, now) && !undoes(e));

    let paused = policy.spec.paused.unwrap_or(false);
    let shows = policy.spec.mode == Some(Mode::Plan);
    let stopped = failed >= most && !paused;
    let waiting = known.waiting();
    let (grants, aborts) = match (paused || shows, stopped) {
        (true, _) => (vec![], vec![]),
        // what works already is not given up because it does not work elsewhere
        (false, true) => {
            let told = waiting.into_iter().filter(|(_, s)| *s != Standing::Mending);
            (vec![], told.map(|(e, _)| e).collect())
        }
        (false, false) => {
            let free = most.saturating_sub(holding + failed);
            (waiting.into_iter().take(free).map(|(e, _)| e).collect(), vec![])
        }
    };

    let ready = matching.values().filter(|node| node.ready).count();
    let counts = known.counts(matching.len(), ready, aborts.len());
    let through = known.through(stopped, shows);
    Decision {
        abort_message: format!("{failed} of {} nodes failed: the roll-out stopped", matching.len()),
        slots: (holding + grants.len(), most),
        grants,
        aborts,
        take_back: known.only(Standing::Late).chain(idle).collect(),
        rollout: match paused && !matching.is_empty() {
            true => Rollout::Paused,
            false => rollout(&counts, shows),
        },
        terminal: matching
            .iter()
            .all(|(name, node)| !node.ready || through.contains(name.as_str())),
        counts,
        wake: enactments
            .iter()
            .filter_map(|e| ends(e, generation))
            .chain(deleted.iter().copied())
            .filter(|end| *end > now)
            .min(),
    }
}

/// The enactments of the nodes that match, each with how it stands.
struct Standings<'a>(Vec<(&'a Enactment, Standing)>);

impl<'a> Standings<'a> {
    fn of<'b>(enactments: impl Iterator<Item = &'b &'a Enactment>, generation: i64, now: Timestamp) -> Self
    where
        'a: 'b,
    {
        Standings(enactments.map(|e| (*e, standing(e, generation, now))).collect())
    }

    fn count(&self, wanted: fn(Standing) -> bool) -> usize {
        self.0.iter().filter(|(_, standing)| wanted(*standing)).count()
    }

    fn only(&self, wanted: Standing) -> impl Iterator<Item = &'a Enactment> {
        self.0.iter().filter(move |(_, s)| *s == wanted).map(|(e, _)| *e)
    }

    /// Those that wait for a slot: one that did not use its slot, or was done before, comes after those that had none.
    fn waiting(&self) -> Vec<(&'a Enactment, Standing)> {
        let wait = |(_, s): &&(&Enactment, Standing)| matches!(s, Standing::Waiting(_) | Standing::Mending);
        let mut waiting: Vec<_> = self.0.iter().filter(wait).copied().collect();
        waiting.sort_by_key(|(_, standing)| *standing != Standing::Waiting(false));
        waiting
    }

    /// What the policy's status says. Those that are about to be told that it stopped count as told: one write less.
    fn counts(&self, matching: usize, ready: usize, told: usize) -> NodeCounts {
        let as_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let count = |wanted: fn(Standing) -> bool| as_u32(self.count(wanted));
        NodeCounts {
            matching: as_u32(matching),
            ready: as_u32(ready),
            available: count(|s| matches!(s, Standing::Available | Standing::Drifted)),
            failing: count(|s| matches!(s, Standing::Failed | Standing::Retrying | Standing::Conflicts)),
            progressing: count(|s| matches!(s, Standing::Working | Standing::Retrying | Standing::Late)),
            pending: count(|s| matches!(s, Standing::Waiting(_) | Standing::Mending)) - as_u32(told),
            aborted: count(|s| s == Standing::Aborted) + as_u32(told),
            drifted: count(|s| matches!(s, Standing::Drifted | Standing::Mending)),
        }
    }

    /// Nodes for which nothing more is to come.
    fn through(&self, stopped: bool, shows: bool) -> BTreeSet<&'a str> {
        let through = |(_, standing): &&(&Enactment, Standing)| match standing {
            Standing::Unknown | Standing::Working | Standing::Retrying | Standing::Late => false,
            Standing::Waiting(_) => stopped || shows,
            Standing::Mending => stopped,
            _ => true,
        };
        self.0.iter().filter(through).map(|(e, _)| e.node.as_str()).collect()
    }
}

/// When an enactment's standing changes without an event.
fn ends(e: &Enactment, generation: i64) -> Option<Timestamp> {
    let end = e.slot?.expires?;
    let retries = e.is("Failing") && e.is("Progressing");
    let over = e.is("Available") || e.is("Aborted") || e.is("Failing") && !retries;
    match (e.generation == Some(generation), over, retries) {
        (true, true, _) => None,
        (true, false, true) => Some(end + GRACE),
        _ => Some(end),
    }
}

/// What all nodes together made of it: the first rule that holds. Where it only `shows`, whoever waits is through.
fn rollout(counts: &NodeCounts, shows: bool) -> Rollout {
    let NodeCounts {
        matching,
        ready,
        available,
        failing,
        pending,
        aborted,
        ..
    } = *counts;
    let finished = available + failing + aborted;
    let ignored = match matching - ready {
        0 => String::new(),
        not_ready => format!(", {not_ready} nodes ignored due to NotReady state"),
    };
    let progress = format!("Policy is progressing {finished}/{ready} nodes finished");
    if matching == 0 {
        Rollout::NotMatching
    } else if failing > 0 || aborted > 0 {
        let aborted = match aborted {
            0 => String::new(),
            n => format!(", {n} nodes aborted configuration"),
        };
        Rollout::Failed(format!("{failing}/{matching} nodes failed to configure{aborted}"))
    } else if shows && pending > 0 && finished + pending >= ready {
        Rollout::Planned(format!(
            "{pending}/{matching} nodes differ, nothing is changed: mode is Plan{ignored}"
        ))
    } else if finished < ready {
        Rollout::Progressing(format!("{progress}{ignored}"))
    } else if pending > 0 {
        Rollout::Progressing(format!("{progress}, {pending} pending{ignored}"))
    } else {
        Rollout::Success(format!("{available}/{matching} nodes successfully configured{ignored}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::{self, Enacting};

    const NOW: i64 = 1000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("small number")
    }

    fn policy(max_unavailable: &str) -> Policy {
        let mut policy = Policy {
            name: "p".into(),
            generation: 2,
            ..Policy::default()
        };
        policy.spec.max_unavailable = Some(match max_unavailable.parse() {
            Ok(number) => IntOrString::Int(number),
            Err(_) => IntOrString::String(max_unavailable.into()),
        });
        policy
    }

    fn nodes(count: usize) -> BTreeMap<String, Node> {
        let node = |i| {
            (
                format!("n{i}"),
                Node {
                    ready: true,
                    ..Node::default()
                },
            )
        };
        (1..=count).map(node).collect()
    }

    /// `n1 waiting`, `n2 working`, … with slots that end at NOW + 60; `expired` after the word ends them before NOW.
    fn enactment(text: &str) -> Enactment {
        let words: Vec<&str> = text.split(' ').collect();
        let (node, word) = (words[0], words[1]);
        let expires = if words.contains(&"expired") { NOW - 1 } else { NOW + 60 };
        let old = words.contains(&"old");
        let generation = if old { 1 } else { 2 };
        let how = match word {
            "waiting" | "granted" => Some(Enacting::Pending(condition::WAITING.into())),
            "new" => None,
            "working" => Some(Enacting::Progressing),
            "retrying" => Some(Enacting::Retrying("r".into())),
            "available" | "drifted" => Some(Enacting::Success("s".into())),
            "failed" => Some(Enacting::Failed("f".into())),
            "aborted" => Some(Enacting::Aborted("a".into())),
            "mending" => Some(Enacting::Pending(condition::WAITING.into())),
            "conflicts" => Some(Enacting::Conflicts("c".into())),
            "planned" => Some(Enacting::Planned("p".into())),
            other => panic!("no such word: {other}"),
        };
        let mut conditions = how.map(|how| condition::enactment(&how, &[], "")).unwrap_or_default();
        if matches!(word, "drifted" | "mending") {
            conditions.push(condition::drifted(&["d".into()], &[], ""));
        }
        let has_slot = matches!(word, "granted" | "working" | "retrying") || words.contains(&"expired");
        Enactment {
            name: format!("{node}.p"),
            policy: "p".into(),
            node: node.into(),
            policy_uid: None,
            uid: None,
            resource_version: None,
            asks: (word == "new").then_some(generation),
            generation: (word != "new").then_some(generation),
            conditions,
            slot: (has_slot || words.contains(&"lost")).then(|| Slot {
                generation,
                expires: Some(at(expires)).filter(|_| !words.contains(&"lost")),
            }),
            reverts: false,
            features: vec![],
            revision: 0,
        }
    }

    fn decided(policy: &Policy, count: usize, fleet: &[&str]) -> (Vec<String>, Vec<String>, String) {
        let fleet: Vec<Enactment> = fleet.iter().map(|text| enactment(text)).collect();
        let refs: Vec<&Enactment> = fleet.iter().collect();
        let nodes = nodes(count);
        let decision = decide(policy, &nodes, &refs, &[], at(NOW));
        let names = |list: &[&Enactment]| list.iter().map(|e| e.node.clone()).collect();
        (
            names(&decision.grants),
            names(&decision.aborts),
            said(&decision.rollout),
        )
    }

    fn said(rollout: &Rollout) -> String {
        let conditions = condition::policy(rollout, &[], "");
        let told = conditions.iter().find(|c| !c.message.is_empty());
        told.map_or(String::new(), |c| format!("{}: {}", c.type_, c.message))
    }

    fn grants(max: &str, count: usize, fleet: &[&str]) -> Vec<String> {
        decided(&policy(max), count, fleet).0
    }

    fn status(count: usize, fleet: &[&str]) -> String {
        decided(&policy("50%"), count, fleet).2
    }

    #[test]
    fn width_is_a_number_or_a_percentage_of_matching_nodes() {
        let text = |text: &str, matching| max_unavailable(Some(&IntOrString::String(text.into())), matching);
        assert_eq!(text("50%", 5), 3);
        assert_eq!(text("50%", 6), 3);
        assert_eq!(max_unavailable(Some(&IntOrString::Int(3)), 5), 3);
        assert_eq!(text("asdf", 5), 3);
        assert_eq!(text("42", 5), 3);
        assert_eq!(text("0%", 5), 1);
        assert_eq!(text("-5%", 5), 3);
        assert_eq!(text("200%", 5), 10);
        assert_eq!(max_unavailable(Some(&IntOrString::Int(0)), 5), 1);
        assert_eq!(max_unavailable(Some(&IntOrString::Int(-2)), 5), 1);
        assert_eq!(max_unavailable(None, 5), 3);
        assert_eq!(max_unavailable(None, 0), 1);
    }

    #[test]
    fn slots_are_granted_by_name_up_to_the_width() {
        assert_eq!(grants("2", 4, &["n1 new", "n2 waiting", "n3 waiting"]), ["n1", "n2"]);
        assert_eq!(grants("2", 4, &["n1 working", "n2 waiting", "n3 waiting"]), ["n2"]);
        assert_eq!(
            grants("50%", 3, &["n1 waiting", "n2 waiting", "n3 waiting"]),
            ["n1", "n2"]
        );
    }

    #[test]
    fn a_full_rollout_makes_the_rest_wait() {
        let none: [String; 0] = [];
        assert_eq!(grants("2", 4, &["n1 working", "n2 granted", "n3 waiting"]), none);
        assert_eq!(grants("1", 4, &["n1 retrying", "n3 waiting"]), none);
    }

    #[test]
    fn done_gives_the_slot_back() {
        assert_eq!(grants("1", 4, &["n1 available", "n2 drifted", "n3 waiting"]), ["n3"]);
    }

    #[test]
    fn a_failure_keeps_its_share_and_then_stops_the_rollout() {
        let (go, stop, _) = decided(&policy("2"), 4, &["n1 failed", "n2 waiting", "n3 waiting"]);
        assert_eq!((go, stop), (vec!["n2".to_owned()], vec![]));
        let (go, stop, _) = decided(&policy("2"), 4, &["n1 failed", "n2 failed", "n3 waiting"]);
        assert_eq!((go, stop), (vec![], vec!["n3".to_owned()]));
        let (go, stop, _) = decided(&policy("1"), 2, &["n1 retrying", "n2 waiting"]);
        assert_eq!((go, stop), (vec![], vec![]));
    }

    #[test]
    fn a_node_that_dies_at_work_is_one_failure() {
        let (go, stop, status) = decided(&policy("2"), 4, &["n1 working expired", "n2 waiting", "n3 waiting"]);
        assert_eq!((go, stop), (vec!["n2".to_owned()], vec![]));
        assert_eq!(status, "Degraded: 1/4 nodes failed to configure");
    }

    #[test]
    fn a_slot_nobody_used_goes_to_others_first() {
        assert_eq!(grants("1", 4, &["n1 waiting lost", "n2 waiting"]), ["n2"]);
        assert_eq!(grants("1", 4, &["n1 waiting lost"]), ["n1"]);
    }

    #[test]
    fn a_slot_counts_until_it_is_taken_back() {
        let taken = |policy: &Policy, nodes: &BTreeMap<String, Node>, fleet: &[&str]| {
            let fleet: Vec<Enactment> = fleet.iter().map(|text| enactment(text)).collect();
            let refs: Vec<&Enactment> = fleet.iter().collect();
            let decision = decide(policy, nodes, &refs, &[], at(NOW));
            assert!(decision.grants.is_empty(), "{:?}", decision.grants);
            let names = decision.take_back.iter().map(|e| e.node.clone());
            names.collect::<Vec<String>>()
        };
        let none: [String; 0] = [];
        let late = ["n1 waiting expired", "n2 waiting"];
        assert_eq!(taken(&policy("1"), &nodes(2), &late), ["n1"]);
        for idle in ["n1 granted old", "n1 retrying old", "n1 working old expired"] {
            assert_eq!(taken(&policy("1"), &nodes(2), &[idle, "n2 waiting"]), ["n1"], "{idle}");
        }
        let at_work = ["n1 working old", "n2 waiting"];
        assert_eq!(taken(&policy("1"), &nodes(2), &at_work), none);
        let (mut policy, mut nodes) = (policy("1"), nodes(2));
        policy.spec.node_selector = [("zone".to_owned(), "a".to_owned())].into();
        nodes.get_mut("n2").expect("there").labels = policy.spec.node_selector.clone();
        assert_eq!(taken(&policy, &nodes, &["n1 working", "n2 waiting"]), none);
        assert_eq!(taken(&policy, &nodes, &["n1 granted", "n2 waiting"]), ["n1"]);
    }

    #[test]
    fn an_older_generation_at_work_still_counts_but_its_results_do_not() {
        let none: [String; 0] = [];
        assert_eq!(grants("1", 4, &["n1 working old", "n2 waiting"]), none);
        assert_eq!(grants("1", 4, &["n1 retrying old", "n2 waiting"]), none);
        assert_eq!(grants("1", 4, &["n1 retrying old lost", "n2 waiting"]), ["n2"]);
        assert_eq!(grants("1", 4, &["n1 failed old", "n2 waiting"]), ["n2"]);
        assert_eq!(grants("1", 4, &["n1 waiting old"]), none);
    }

    #[test]
    fn paused_grants_and_aborts_nothing() {
        let mut policy = policy("1");
        policy.spec.paused = Some(true);
        let (go, stop, _) = decided(&policy, 2, &["n1 failed", "n2 waiting"]);
        assert!(go.is_empty() && stop.is_empty());
    }

    #[test]
    fn a_node_that_dies_between_attempts_is_one_failure_after_a_while() {
        let mut dead = enactment("n1 retrying");
        let end = dead.slot.and_then(|slot| slot.expires).expect("it has one");
        let nodes = nodes(2);
        let waits = enactment("n2 waiting");
        let decision = |now| decide(&policy("1"), &nodes, &[&dead, &waits], &[], now).aborts.len();
        assert_eq!(decision(end), 0);
        assert_eq!(decision(end + GRACE), 1);
        dead.slot = None;
        assert!(
            decide(&policy("1"), &nodes, &[&dead, &waits], &[], end + GRACE)
                .aborts
                .is_empty()
        );
    }

    #[test]
    fn mode_plan_needs_no_slots() {
        let mut policy = policy("1");
        policy.spec.mode = Some(Mode::Plan);
        let (go, stop, _) = decided(&policy, 2, &["n1 waiting", "n2 waiting"]);
        assert!(go.is_empty() && stop.is_empty());
    }

    #[test]
    fn mode_plan_says_how_many_nodes_differ() {
        let mut policy = policy("1");
        policy.spec.mode = Some(Mode::Plan);
        let said = |fleet: &[&str]| decided(&policy, 2, fleet).2;
        assert_eq!(
            said(&["n1 available", "n2 planned"]),
            "Progressing: 1/2 nodes differ, nothing is changed: mode is Plan"
        );
        assert_eq!(
            said(&["n1 available", "n2 available"]),
            "Available: 2/2 nodes successfully configured"
        );
        assert_eq!(
            said(&["n1 planned"]),
            "Progressing: Policy is progressing 0/2 nodes finished"
        );
    }

    #[test]
    fn a_node_that_mends_itself_waits_for_its_turn_and_is_not_aborted() {
        assert_eq!(grants("1", 3, &["n1 mending", "n2 waiting"]), ["n2"]);
        assert_eq!(grants("2", 3, &["n1 mending", "n2 waiting"]), ["n2", "n1"]);
        let (go, stop, status) = decided(&policy("1"), 3, &["n1 mending", "n2 failed", "n3 waiting"]);
        assert_eq!((go, stop), (vec![], vec!["n3".to_owned()]));
        assert_eq!(
            status,
            "Degraded: 1/3 nodes failed to configure, 1 nodes aborted configuration"
        );
        let mut fleet = [enactment("n1 mending"), enactment("n2 drifted")];
        let refs: Vec<&Enactment> = fleet.iter().collect();
        assert_eq!(decide(&policy("1"), &nodes(2), &refs, &[], at(NOW)).counts.drifted, 2);
        fleet[0].conditions.pop();
        let refs: Vec<&Enactment> = fleet.iter().collect();
        assert_eq!(decide(&policy("1"), &nodes(2), &refs, &[], at(NOW)).counts.drifted, 1);
    }

    #[test]
    fn who_gives_way_to_another_policy_is_degraded_but_stops_nobody() {
        let (go, stop, status) = decided(&policy("1"), 2, &["n1 conflicts", "n2 waiting"]);
        assert_eq!((go, stop), (vec!["n2".to_owned()], vec![]));
        assert_eq!(status, "Degraded: 1/2 nodes failed to configure");
    }

    #[test]
    fn a_policy_is_undone_by_as_many_nodes_at_a_time_as_might_apply_it() {
        let grants = |max: Option<i32>, fleet: &[&str]| {
            let mut fleet: Vec<Enactment> = fleet.iter().map(|text| enactment(text)).collect();
            for e in fleet.iter_mut().filter(|e| e.is("Progressing")) {
                e.slot = e.slot.map(|slot| Slot {
                    generation: UNDO,
                    ..slot
                });
            }
            for e in fleet.iter_mut().filter(|e| e.is("Failing")) {
                e.conditions = condition::enactment(&Enacting::NotReverted("x".into()), &[], "");
            }
            let refs: Vec<&Enactment> = fleet.iter().collect();
            let max = max.map(IntOrString::Int);
            let Undoing {
                grants,
                take_back,
                wake,
            } = undoing(max.as_ref(), &refs, at(NOW));
            let taken: Vec<String> = take_back.iter().map(|e| format!("not {}", e.node)).collect();
            let granted = grants.iter().map(|e| e.node.clone());
            (granted.chain(taken).collect::<Vec<_>>(), wake)
        };
        let none: Vec<String> = vec![];
        let four = ["n1 waiting", "n2 waiting", "n3 waiting", "n4 waiting"];
        assert_eq!(grants(None, &four), (vec!["n1".to_owned(), "n2".to_owned()], None));
        assert_eq!(grants(Some(1), &four).0, ["n1"]);
        assert_eq!(
            grants(Some(1), &["n1 working", "n2 waiting"]),
            (none.clone(), Some(at(NOW + 60)))
        );
        assert_eq!(grants(Some(1), &["n1 working expired", "n2 waiting"]).0, ["not n1"]);
        assert_eq!(
            grants(Some(1), &["n1 failed", "n2 waiting"]).0,
            none,
            "it does not work: it stops"
        );
        // a slot from before, to apply it, is none to undo it
        assert_eq!(grants(Some(2), &["n1 available", "n2 waiting"]).0, ["n2"]);
    }

    #[test]
    fn a_node_that_comes_back_while_it_undoes_is_at_work() {
        let mut e = enactment("n1 working");
        e.slot = e.slot.map(|slot| Slot {
            generation: UNDO,
            ..slot
        });
        let waits = enactment("n2 waiting");
        let decision = |now| {
            let decision = decide(&policy("1"), &nodes(2), &[&e, &waits], &[], now);
            (decision.grants.len(), decision.aborts.len())
        };
        assert_eq!(decision(at(NOW)), (0, 0));
    }

    #[test]
    fn nodes_that_do_not_match_get_nothing() {
        let mut policy = policy("1");
        policy.spec.node_selector = BTreeMap::from([("zone".into(), "a".into())]);
        let (go, _, status) = decided(&policy, 2, &["n1 waiting"]);
        assert!(go.is_empty());
        assert_eq!(status, "Ignored: Policy does not match any node");
    }

    #[test]
    fn policy_messages_are_written_to_the_letter() {
        assert_eq!(status(0, &[]), "Ignored: Policy does not match any node");
        assert_eq!(status(2, &[]), "Progressing: Policy is progressing 0/2 nodes finished");
        assert_eq!(
            status(2, &["n1 available", "n2 working"]),
            "Progressing: Policy is progressing 1/2 nodes finished"
        );
        assert_eq!(
            status(2, &["n1 available", "n2 available"]),
            "Available: 2/2 nodes successfully configured"
        );
        assert_eq!(
            status(2, &["n1 failed", "n2 available"]),
            "Degraded: 1/2 nodes failed to configure"
        );
        assert_eq!(
            status(2, &["n1 retrying", "n2 waiting"]),
            "Degraded: 1/2 nodes failed to configure"
        );
        assert_eq!(
            status(2, &["n1 failed", "n2 waiting"]),
            "Degraded: 1/2 nodes failed to configure, 1 nodes aborted configuration"
        );
        assert_eq!(
            status(3, &["n1 failed", "n2 aborted", "n3 aborted"]),
            "Degraded: 1/3 nodes failed to configure, 2 nodes aborted configuration"
        );
    }

    #[test]
    fn nodes_that_are_not_ready_are_not_waited_for() {
        let mut nodes = nodes(3);
        nodes.insert("n3".into(), Node::default());
        let said_with = |fleet: &[&str]| {
            let fleet: Vec<Enactment> = fleet.iter().map(|text| enactment(text)).collect();
            let refs: Vec<&Enactment> = fleet.iter().collect();
            let decision = decide(&policy("50%"), &nodes, &refs, &[], at(NOW));
            (said(&decision.rollout), decision.terminal)
        };
        assert_eq!(
            said_with(&["n1 available"]),
            (
                "Progressing: Policy is progressing 1/2 nodes finished, 1 nodes ignored due to NotReady state".into(),
                false
            )
        );
        assert_eq!(
            said_with(&["n1 available", "n2 available", "n3 waiting"]),
            (
                "Progressing: Policy is progressing 2/2 nodes finished, 1 pending, 1 nodes ignored due to NotReady state"
                    .into(),
                true
            )
        );
        assert_eq!(
            said_with(&["n1 available", "n2 available"]),
            (
                "Available: 2/3 nodes successfully configured, 1 nodes ignored due to NotReady state".into(),
                true
            )
        );
    }

    #[test]
    fn a_slot_whose_enactment_is_deleted_is_not_granted_to_another_one_before_it_ends() {
        let waits = enactment("n2 waiting");
        let decided = |deleted: &[Timestamp]| {
            let nodes = nodes(2);
            let decision = decide(&policy("1"), &nodes, &[&waits], deleted, at(NOW));
            (decision.grants.len(), decision.wake, decision.slots)
        };
        assert_eq!(decided(&[at(NOW + 9)]), (0, Some(at(NOW + 9)), (1, 1)));
        assert_eq!(decided(&[]), (1, None, (1, 1)));
    }

    #[test]
    fn the_next_end_of_a_slot_wakes_us() {
        let fleet = [enactment("n1 working"), enactment("n2 waiting lost")];
        let refs: Vec<&Enactment> = fleet.iter().collect();
        assert_eq!(
            decide(&policy("1"), &nodes(2), &refs, &[], at(NOW)).wake,
            Some(at(NOW + 60))
        );
        let done = [enactment("n1 available")];
        assert_eq!(decide(&policy("1"), &nodes(1), &[&done[0]], &[], at(NOW)).wake, None);
    }
}
