//! What the controller knows of the cluster: policies, enactments and nodes, cut down to what decisions need. Fed by watch events; no IO.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use super::SLOT;
use crate::api::condition::is_true;
use crate::api::nnce::{self, UNDO};
use crate::api::nncp::NodeNetworkConfigurationPolicyStatus as PolicyStatus;
use crate::api::{
    ANNOTATION_POLICY_UID, ANNOTATION_WAITING, Condition, LABEL_POLICY, NodeNetworkConfigurationEnactment,
    NodeNetworkConfigurationPolicy, NodeNetworkConfigurationPolicySpec as PolicySpec,
};

/// A policy without its documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.generation`.
    pub generation: i64,
    /// The spec without desiredState, capture and probes.
    pub spec: PolicySpec,
    /// The status as it stands.
    pub status: PolicyStatus,
    pub(super) revision: u64,
}

/// An enactment without its documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Enactment {
    /// `<node>.<policy>`.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// The policy's `metadata.uid`, where the enactment tells.
    pub policy_uid: Option<String>,
    /// Its node.
    pub node: String,
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
    /// New, and asks for a slot for this generation.
    pub asks: Option<i64>,
    /// `status.policyGeneration`: what `conditions` are about.
    pub generation: Option<i64>,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
    /// `status.slot`.
    pub slot: Option<Slot>,
    /// Holds what its node needs to undo the policy.
    pub reverts: bool,
    /// `status.features`.
    pub features: Vec<String>,
    pub(super) revision: u64,
}

/// Leave to work on a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Generation of the policy.
    pub generation: i64,
    /// When it ends if nothing is heard of it any more. None where it was taken back.
    pub expires: Option<Timestamp>,
}

impl Enactment {
    /// The condition of this type is True.
    pub fn is(&self, kind: &str) -> bool {
        is_true(&self.conditions, kind)
    }

    /// It is about another policy, which bore the name of this one before.
    pub fn is_of_another(&self, policy_uid: Option<&str>) -> bool {
        nnce::is_of_another(self.policy_uid.as_deref(), policy_uid)
    }

    /// May begin or has begun, for whichever generation, and has not told the end.
    pub fn holds(&self) -> bool {
        let Some(slot) = self.slot.filter(|slot| slot.expires.is_some()) else {
            return false;
        };
        let over = self.is("Available") || self.is("Aborted") || self.is("Failing") && !self.is("Progressing");
        match self.generation {
            _ if slot.generation == UNDO => true,
            Some(told) if told == slot.generation => !over,
            // a node that speaks of a newer one is through with the older
            told => told.is_none_or(|told| told < slot.generation),
        }
    }
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Condition Ready is True.
    pub ready: bool,
}

/// A change somewhere.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "read and dropped at once, never stored")]
pub enum Change {
    /// Of a policy.
    Policy(Event<NodeNetworkConfigurationPolicy>),
    /// Of an enactment.
    Enactment(Event<NodeNetworkConfigurationEnactment>),
    /// Of a node.
    Node(Event<NodeObject>),
}

/// Objects of one kind by name.
#[derive(Debug)]
struct Cache<V> {
    items: BTreeMap<String, V>,
    // names seen since a list began
    listed: Option<BTreeSet<String>>,
    complete: bool,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Cache {
            items: BTreeMap::new(),
            listed: None,
            complete: false,
        }
    }
}

/// Something kept in a `Cache`.
trait Item: PartialEq {
    /// `metadata.resourceVersion` as a number. The answer to our own write may be newer than what a watch brings.
    fn revision(&self) -> u64 {
        0
    }
}

impl Item for Policy {
    fn revision(&self) -> u64 {
        self.revision
    }
}

impl Item for Enactment {
    fn revision(&self) -> u64 {
        self.revision
    }
}

impl Item for Node {}

impl<V: Item> Cache<V> {
    /// Takes an event in; gives what was there before for each name that changed.
    fn apply<K: ResourceExt>(&mut self, event: Event<K>, read: impl Fn(K) -> Option<V>) -> Vec<(String, Option<V>)> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                vec![]
            }
            Event::InitApply(object) | Event::Apply(object) => {
                let name = object.name_any();
                if let Some(listed) = &mut self.listed {
                    listed.insert(name.clone());
                }
                let Some(value) = read(object) else {
                    return self.remove(name);
                };
                let known = self.items.get(&name);
                let old_news = |known: &V| value.revision() > 0 && known.revision() >= value.revision();
                if known.is_some_and(|known| *known == value || old_news(known)) {
                    return vec![];
                }
                vec![(name.clone(), self.items.insert(name, value))]
            }
            Event::Delete(object) => self.remove(object.name_any()),
            Event::InitDone => {
                self.complete = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<String> = self
                    .items
                    .keys()
                    .filter(|name| !listed.contains(*name))
                    .cloned()
                    .collect();
                gone.into_iter().flat_map(|name| self.remove(name)).collect()
            }
        }
    }

    fn remove(&mut self, name: String) -> Vec<(String, Option<V>)> {
        self.items
            .remove(&name)
            .map(|old| (name, Some(old)))
            .into_iter()
            .collect()
    }
}

/// All of it, and which policies have to be looked at again.
#[derive(Debug, Default)]
pub struct World {
    policies: Cache<Policy>,
    enactments: Cache<Enactment>,
    nodes: Cache<Node>,
    // policy → node → name of the enactment
    index: BTreeMap<String, BTreeMap<String, String>>,
    dirty: BTreeSet<String>,
    // deleted by somebody while their nodes had a slot, by name
    deleted: BTreeMap<String, Enactment>,
    /// What is heard next is heard at this time. A steady clock, which nobody sets.
    pub now: Timestamp,
}

impl World {
    /// Takes a change in.
    pub fn apply(&mut self, change: Change) {
        let now = self.now;
        match change {
            Change::Policy(event) => {
                for (name, _) in self.policies.apply(event, policy) {
                    self.dirty.insert(name);
                }
            }
            Change::Enactment(event) => {
                for (name, old) in self.enactments.apply(event, |object| enactment(object, now)) {
                    self.remember(&name, old.as_ref());
                    self.reindex(&name, old);
                }
                self.deleted.retain(|_, e| holds_until(e).is_some_and(|end| end > now));
            }
            Change::Node(event) => {
                if !self.nodes.apply(event, node).is_empty() {
                    self.dirty.extend(self.policies.items.keys().cloned());
                    self.dirty.extend(self.index.keys().cloned());
                }
            }
        }
    }

    /// An enactment that we have deleted, before the watch tells of it: until then every word on the others would have it deleted again.
    pub fn forget(&mut self, gone: &Enactment) {
        let there = self.enactments.items.get(&gone.name);
        if there.is_some_and(|e| e.uid == gone.uid) {
            for (name, old) in self.enactments.remove(gone.name.clone()) {
                self.remember(&name, old.as_ref());
                self.reindex(&name, old);
            }
        }
    }

    /// A node that is at work does not end with its enactment. It counts until the next one of that name says what the node does.
    fn remember(&mut self, name: &str, old: Option<&Enactment>) {
        let new = self.enactments.items.get(name);
        let lasts = |old: &&Enactment| new.is_some_and(|new| new.uid == old.uid);
        if let Some(old) = old.filter(|old| !lasts(old)) {
            self.deleted.insert(name.to_owned(), old.clone());
        }
        if new.is_some_and(|new| new.asks.is_some() || new.generation.is_some()) {
            self.deleted.remove(name);
        }
    }

    fn reindex(&mut self, name: &str, old: Option<Enactment>) {
        if let Some(old) = old {
            if let Some(nodes) = self.index.get_mut(&old.policy) {
                nodes.remove(&old.node);
                if nodes.is_empty() {
                    self.index.remove(&old.policy);
                }
            }
            self.dirty.insert(old.policy);
        }
        if let Some(new) = self.enactments.items.get(name) {
            let nodes = self.index.entry(new.policy.clone()).or_default();
            nodes.insert(new.node.clone(), name.to_owned());
            self.dirty.insert(new.policy.clone());
        }
    }

    /// All three kinds have been listed: decisions are allowed.
    pub fn complete(&self) -> bool {
        self.policies.complete && self.enactments.complete && self.nodes.complete
    }

    /// Policies, there or gone, about which something changed since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.dirty)
    }

    /// Something changed.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Have it looked at again.
    pub fn touch(&mut self, policy: String) {
        self.dirty.insert(policy);
    }

    /// A policy by name.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.items.get(name)
    }

    /// All policies.
    pub fn all_policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.items.values()
    }

    /// All enactments.
    pub fn all_enactments(&self) -> impl Iterator<Item = &Enactment> {
        self.enactments.items.values()
    }

    /// All nodes by name.
    pub fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes.items
    }

    fn named(&self, policy: &str) -> impl Iterator<Item = &Enactment> {
        let names = self.index.get(policy).into_iter().flat_map(BTreeMap::values);
        names.filter_map(|name| self.enactments.items.get(name))
    }

    /// The policy that it is about is gone, also where another one bears its name by now.
    fn policy_gone(&self, e: &Enactment) -> bool {
        self.policy(&e.policy)
            .is_none_or(|policy| e.is_of_another(policy.uid.as_deref()))
    }

    /// Enactments of a policy, by name of the node.
    pub fn enactments(&self, policy: &str) -> Vec<&Enactment> {
        self.named(policy).filter(|e| !self.policy_gone(e)).collect()
    }

    /// Ends of slots whose enactments somebody deleted: their nodes may be at work all the same.
    pub fn deleted(&self, policy: &str, now: Timestamp) -> Vec<Timestamp> {
        let of = |e: &&Enactment| e.policy == policy && !self.policy_gone(e) && self.nodes.items.contains_key(&e.node);
        let ends = self.deleted.values().filter(of).filter_map(holds_until);
        ends.filter(|end| *end > now).collect()
    }

    /// Enactments of a policy whose slots have run out, as nothing was heard of them.
    pub fn silent(&self, policy: &str, now: Timestamp) -> Vec<&Enactment> {
        let ran_out = |e: &&Enactment| e.slot.is_some_and(|slot| slot.expires.is_some_and(|end| end <= now));
        self.named(policy).filter(ran_out).collect()
    }

    /// Enactments of a policy, there or gone, whose nodes have to undo it, by name of the node.
    pub fn left_behind(&self, policy: &str) -> Vec<&Enactment> {
        let meant = |e: &Enactment, labels| self.policy(&e.policy).is_some_and(|p| p.spec.matches(labels));
        let left = |e: &&Enactment| {
            let node = self.nodes.items.get(&e.node);
            e.reverts && node.is_some_and(|node| self.policy_gone(e) || !meant(e, &node.labels))
        };
        self.named(policy).filter(left).collect()
    }

    /// Enactments of a policy whose node, or the policy itself, is not there. One that can undo the policy is left to its node's agent.
    pub fn orphans(&self, policy: &str) -> Vec<&Enactment> {
        let orphaned = |e: &&Enactment| !self.nodes.items.contains_key(&e.node) || self.policy_gone(e) && !e.reverts;
        self.named(policy).filter(orphaned).collect()
    }
}

/// When its slot ends, if it has one. An undo ends with the deletion of its enactment.
fn holds_until(e: &Enactment) -> Option<Timestamp> {
    let slot = e.slot.filter(|slot| slot.generation != UNDO && e.holds())?;
    slot.expires
}

fn revision(object: &impl ResourceExt) -> u64 {
    object
        .resource_version()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn policy(object: NodeNetworkConfigurationPolicy) -> Option<Policy> {
    Some(Policy {
        name: object.name_any(),
        uid: object.uid(),
        generation: object.metadata.generation.unwrap_or(0),
        revision: revision(&object),
        spec: PolicySpec {
            desired_state: None,
            capture: BTreeMap::new(),
            probes: vec![],
            ..object.spec
        },
        status: object.status.unwrap_or_default(),
    })
}

/// None for an object that is no enactment of ours: it has no policy's name.
fn enactment(object: NodeNetworkConfigurationEnactment, now: Timestamp) -> Option<Enactment> {
    let (name, policy) = (object.name_any(), object.labels().get(LABEL_POLICY)?.clone());
    // a policy's name fits into a label, a node's may not
    let node = name.strip_suffix(&format!(".{policy}"))?.to_owned();
    let asks = object
        .annotations()
        .get(ANNOTATION_WAITING)
        .and_then(|g| g.parse().ok());
    let policy_uid = object.annotations().get(ANNOTATION_POLICY_UID).cloned();
    let (uid, resource_version, revision) = (object.uid(), object.resource_version(), revision(&object));
    let status = object.status.unwrap_or_default();
    // its node does away with it and begins anew
    let status = if status.is_inherited() {
        Default::default()
    } else {
        status
    };
    let reverts = status.reverts();
    Some(Enactment {
        asks: asks.filter(|_| status.conditions.is_empty()),
        // its times are by other clocks
        slot: status.slot.map(|slot| Slot {
            generation: slot.generation,
            expires: slot.stands().then_some(now + SLOT),
        }),
        generation: status.policy_generation,
        reverts,
        features: status.features,
        conditions: status.conditions,
        name,
        policy,
        policy_uid,
        node,
        uid,
        resource_version,
        revision,
    })
}

fn node(object: NodeObject) -> Option<Node> {
    Some(Node {
        ready: crate::probe::is_ready(&object),
        labels: object.metadata.labels.unwrap_or_default(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// An enactment of `br0` at a resourceVersion.
    pub fn silent(node: &str, version: &str) -> Enactment {
        let revision = version.parse().unwrap();
        enactment(nnce(node, "br0", revision), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn nnce(node: &str, policy: &str, revision: u32) -> NodeNetworkConfigurationEnactment {
        serde_json::from_value(json!({
            "apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkConfigurationEnactment", "spec": {},
            "metadata": {"name": format!("{node}.{policy}"), "resourceVersion": revision.to_string(),
            "labels": {"nmstate.io/policy": policy, "nmstate.io/node": node}}}))
        .expect("an enactment")
    }

    fn nncp(name: &str) -> NodeNetworkConfigurationPolicy {
        serde_json::from_value(json!({
            "apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy", "spec": {},
            "metadata": {"name": name, "generation": 1}}))
        .expect("a policy")
    }

    fn a_node(name: &str) -> NodeObject {
        serde_json::from_value(json!({"metadata": {"name": name}})).expect("a node")
    }

    fn names(enactments: &[&Enactment]) -> Vec<String> {
        enactments.iter().map(|e| e.name.clone()).collect()
    }

    fn listed() -> World {
        let mut world = World::default();
        for change in [
            Change::Policy(Event::Init),
            Change::Policy(Event::InitApply(nncp("br0"))),
            Change::Policy(Event::InitDone),
            Change::Node(Event::Init),
            Change::Node(Event::InitApply(a_node("n1"))),
            Change::Node(Event::InitDone),
            Change::Enactment(Event::Init),
            Change::Enactment(Event::InitApply(nnce("n1", "br0", 5))),
            Change::Enactment(Event::InitApply(nnce("n1", "gone", 6))),
            Change::Enactment(Event::InitApply(nnce("n2", "br0", 7))),
        ] {
            world.apply(change);
        }
        world
    }

    #[test]
    fn nothing_is_decided_before_all_is_listed() {
        let mut world = listed();
        assert!(!world.complete());
        world.apply(Change::Enactment(Event::InitDone));
        assert!(world.complete());
        assert_eq!(world.take_dirty().into_iter().collect::<Vec<_>>(), ["br0", "gone"]);
        assert!(!world.is_dirty());
    }

    #[test]
    fn enactments_without_policy_or_node_are_orphans() {
        let mut world = listed();
        world.apply(Change::Enactment(Event::InitDone));
        assert_eq!(names(&world.orphans("br0")), ["n2.br0"]);
        assert_eq!(names(&world.orphans("gone")), ["n1.gone"]);
    }

    #[test]
    fn who_has_to_undo_a_policy_is_left_behind_and_no_orphan() {
        let mut world = listed();
        world.apply(Change::Enactment(Event::InitDone));
        let mut gone = nnce("n1", "gone", 8);
        let status = json!({"onDelete": "Revert", "revertState": {"interfaces": []}});
        gone.status = serde_json::from_value(status).ok();
        world.apply(Change::Enactment(Event::Apply(gone.clone())));
        assert!(world.orphans("gone").is_empty());
        assert_eq!(names(&world.left_behind("gone")), ["n1.gone"]);
        let mut there = nncp("gone");
        world.apply(Change::Policy(Event::Apply(there.clone())));
        assert!(world.left_behind("gone").is_empty());
        there.spec.node_selector = [("rack".to_owned(), "a".to_owned())].into();
        world.apply(Change::Policy(Event::Apply(there)));
        assert_eq!(names(&world.left_behind("gone")), ["n1.gone"]);
        gone.metadata.resource_version = Some("9".into());
        gone.status.as_mut().unwrap().on_delete = None;
        world.apply(Change::Enactment(Event::Apply(gone)));
        assert!(world.left_behind("gone").is_empty());
    }

    #[test]
    fn a_policy_made_anew_has_nothing_to_do_with_what_its_namesake_left() {
        let mut world = listed();
        world.apply(Change::Enactment(Event::InitDone));
        let mut again = nncp("br0");
        again.metadata.uid = Some("second".into());
        world.apply(Change::Policy(Event::Apply(again)));
        let mut left = nnce("n1", "br0", 8);
        let of = |uid: &str| Some([(ANNOTATION_POLICY_UID.to_owned(), uid.to_owned())].into());
        left.metadata.annotations = of("first");
        world.apply(Change::Enactment(Event::Apply(left.clone())));
        assert_eq!(names(&world.orphans("br0")), ["n1.br0", "n2.br0"]);
        assert_eq!(names(&world.enactments("br0")), ["n2.br0"]);
        left.metadata.annotations = of("second");
        left.metadata.resource_version = Some("9".into());
        world.apply(Change::Enactment(Event::Apply(left)));
        assert_eq!(names(&world.orphans("br0")), ["n2.br0"]);
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut world = listed();
        world.apply(Change::Enactment(Event::InitDone));
        world.take_dirty();
        world.apply(Change::Enactment(Event::Init));
        world.apply(Change::Enactment(Event::InitApply(nnce("n1", "br0", 5))));
        assert!(!world.is_dirty());
        world.apply(Change::Enactment(Event::InitDone));
        assert_eq!(names(&world.enactments("br0")), ["n1.br0"]);
        assert!(world.enactments("gone").is_empty());
    }

    #[test]
    fn a_node_whose_enactment_is_deleted_while_it_works_counts_until_it_speaks_or_its_slot_ends() {
        let mut world = listed();
        world.apply(Change::Enactment(Event::InitDone));
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let told = |uid: &str, revision: u32, status: serde_json::Value| {
            let mut e = nnce("n1", "br0", revision);
            e.metadata.uid = Some(uid.into());
            e.status = serde_json::from_value(status).ok();
            e
        };
        let (granted, expires) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        let slot =
            |generation: i64, expires: &str| json!({"generation": generation, "granted": granted, "expires": expires});
        let working = json!({"policyGeneration": 1, "observedGeneration": 1, "slot": slot(1, expires), "conditions": [{"type": "Progressing", "status": "True"}]});
        let mut gone = |status: serde_json::Value, revision: u32| {
            world.apply(Change::Enactment(Event::Apply(told("a", revision, status.clone()))));
            world.apply(Change::Enactment(Event::Delete(told("a", revision, status))));
            (world.deleted("br0", at(59)), world.deleted("br0", at(60)))
        };
        assert_eq!(gone(working.clone(), 10), (vec![at(60)], vec![]));
        // through with it, had none, undoes another one
        let done = json!({"policyGeneration": 1, "slot": slot(1, granted), "conditions": [{"type": "Available", "status": "True"}]});
        for (revision, other) in [
            (20, done),
            (21, json!({"policyGeneration": 1})),
            (22, json!({"slot": slot(UNDO, expires)})),
        ] {
            assert_eq!(gone(other, revision), (vec![], vec![]));
        }
        gone(working.clone(), 30);
        // made anew, but it says nothing yet
        world.apply(Change::Enactment(Event::Apply(told("b", 31, json!({})))));
        assert_eq!(world.deleted("br0", at(1)), [at(60)]);
        world.apply(Change::Enactment(Event::Apply(told("b", 32, working.clone()))));
        assert!(world.deleted("br0", at(1)).is_empty());
        // deleted and made again between two looks
        world.apply(Change::Enactment(Event::Apply(told("c", 33, json!({})))));
        assert_eq!(world.deleted("br0", at(1)), [at(60)]);
        world.apply(Change::Node(Event::Delete(a_node("n1"))));
        assert!(
            world.deleted("br0", at(1)).is_empty(),
            "a node that is gone does not count"
        );
        world.now = at(61);
        world.apply(Change::Enactment(Event::Apply(nnce("n2", "br0", 34))));
        assert!(world.deleted.is_empty(), "nothing is kept for ever");
    }

    #[test]
    fn of_what_kubernetes_nmstate_said_only_good_news_counts() {
        let said = |type_: &str, observed: Option<i64>| {
            let mut e = nnce("n1", "br0", 7);
            let conditions = json!([{"type": type_, "status": "True"}]);
            let status = json!({"policyGeneration": 1, "observedGeneration": observed, "conditions": conditions});
            e.status = serde_json::from_value(status).ok();
            let e = enactment(e, Timestamp::UNIX_EPOCH).expect("an enactment");
            (e.generation, e.is(type_))
        };
        assert_eq!(said("Available", None), (Some(1), true));
        assert_eq!(said("Failing", Some(1)), (Some(1), true), "our own word");
        for type_ in ["Failing", "Aborted", "Progressing", "Pending"] {
            assert_eq!(said(type_, None), (None, false), "{type_}");
        }
    }

    #[test]
    fn a_late_event_does_not_undo_a_newer_answer() {
        let mut world = listed();
        world.apply(Change::Enactment(Event::InitDone));
        world.apply(Change::Enactment(Event::Apply(nnce("n1", "br0", 9))));
        world.take_dirty();
        world.apply(Change::Enactment(Event::Apply(nnce("n1", "br0", 8))));
        assert!(!world.is_dirty());
    }
}
