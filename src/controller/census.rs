//! What the leader's metrics tell of the cluster: policies and enactments as `World` has them, and counts of what is in the NodeNetworkStates.
//!
//! A state has up to 1 MiB and there is one a node, so they are listed a few at a time, and only the counts are kept: about a hundred bytes
//! for each type of interface a node has.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::{Deserialize, Deserializer, Serialize};

use super::world::{Enactment, World};
use crate::agent::watch;
use crate::api::condition::is_true;
use crate::api::{Condition, NodeNetworkState};
use crate::metrics::{Census, Counts};

/// States in one answer to a list: 25 of the largest are 25 MB of text for a moment. With `any_semantic` the apiserver would send all at once.
const PAGE: u32 = 25;
/// In this order what is True counts.
const ENACTMENT_STATUS: [&str; 5] = ["Failing", "Progressing", "Pending", "Aborted", "Available"];
const POLICY_STATUS: [&str; 4] = ["Degraded", "Progressing", "Available", "Ignored"];

/// Of a NodeNetworkState what is counted.
#[derive(Resource, Debug, Clone, Serialize, Deserialize)]
#[resource(inherit = NodeNetworkState)]
struct State {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Status {
    #[serde(default, rename = "currentState", deserialize_with = "count", skip_serializing)]
    counts: Counts,
}

/// Counts while it reads: nothing else of the document is kept.
fn count<'de, D: Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Document {
        interfaces: Vec<Interface>,
        routes: Lists,
    }
    #[derive(Deserialize)]
    struct Interface {
        #[serde(default, rename = "type")]
        kind: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Lists {
        running: Vec<Route>,
        config: Vec<Route>,
    }
    #[derive(Deserialize)]
    struct Route {
        #[serde(default)]
        destination: String,
    }
    let document = Option::<Document>::deserialize(from)?.unwrap_or_default();
    let mut counts = Counts::default();
    for interface in document.interfaces {
        *counts.interfaces.entry(interface.kind).or_default() += 1;
    }
    let configured: HashSet<&str> = document.routes.config.iter().map(|r| r.destination.as_str()).collect();
    let routes = &mut counts.routes;
    for Route { destination } in &document.routes.running {
        let place = match (configured.contains(destination.as_str()), destination.contains(':')) {
            (true, false) => &mut routes.static_v4,
            (false, false) => &mut routes.dynamic_v4,
            (true, true) => &mut routes.static_v6,
            (false, true) => &mut routes.dynamic_v6,
        };
        *place += 1;
    }
    Ok(counts)
}

/// The counts of all nodes, kept up to date by `follow`.
#[derive(Clone, Default)]
pub struct Nodes(Arc<Mutex<BTreeMap<String, Counts>>>);

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nodes")
    }
}

impl Nodes {
    /// Follows the states for ever.
    pub async fn follow(self, client: Client) {
        let config = watcher::Config::default().page_size(PAGE);
        let mut events = std::pin::pin!(watch::events::<State>(Api::all(client), config));
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            self.apply(event, &mut listed);
        }
    }

    fn apply(&self, event: Event<State>, listed: &mut BTreeSet<String>) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(state) => {
                let name = state.metadata.name.unwrap_or_default();
                listed.insert(name.clone());
                nodes.insert(name, state.status.counts);
            }
            Event::InitDone => nodes.retain(|name, _| listed.contains(name)),
            Event::Apply(state) => {
                nodes.insert(state.metadata.name.unwrap_or_default(), state.status.counts);
            }
            Event::Delete(state) => {
                nodes.remove(&state.metadata.name.unwrap_or_default());
            }
        }
    }

    fn now(&self) -> BTreeMap<String, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What there is.
pub fn take(world: &World, nodes: &Nodes) -> Census {
    let mut census = Census {
        nodes: nodes.now(),
        ..Census::default()
    };
    for policy in world.all_policies() {
        // one that is paused or new says nothing
        if let Some(status) = first_true(&policy.status.conditions, &POLICY_STATUS) {
            *census.policies.entry(status).or_default() += 1;
        }
    }
    for e in world.all_enactments() {
        census.features.extend(e.features.iter().cloned());
        if let Some(status) = first_true(&e.conditions, &ENACTMENT_STATUS) {
            *census.enactments.entry((e.node.clone(), status)).or_default() += 1;
        }
    }
    census
}

fn first_true(conditions: &[Condition], order: &[&'static str]) -> Option<&'static str> {
    order.iter().copied().find(|status| is_true(conditions, status))
}

/// Slots that nodes hold, to notice those that are not renewed.
#[derive(Debug, Default)]
pub struct Slots(BTreeMap<String, BTreeMap<String, Timestamp>>);

impl Slots {
    /// A policy is gone.
    pub fn forget(&mut self, policy: &str) {
        self.0.remove(policy);
    }

    /// How many slots of a policy ended since the last look while their nodes were at work, or should have begun.
    pub fn expired(&mut self, policy: &str, enactments: &[&Enactment], now: Timestamp) -> usize {
        let held = |e: &&&Enactment| e.slot.is_some_and(|slot| slot.expires.is_some_and(|end| end > now));
        let before = self.0.remove(policy).unwrap_or_default();
        let ended = |e: &&&Enactment| {
            let same = e
                .slot
                .is_some_and(|slot| slot.expires.is_some() && before.get(&e.name) == slot.expires.as_ref());
            same && !held(e) && is_at_work(e)
        };
        let expired = enactments.iter().filter(ended).count();
        let now_held: BTreeMap<String, Timestamp> = enactments
            .iter()
            .filter(held)
            .filter_map(|e| Some((e.name.clone(), e.slot?.expires?)))
            .collect();
        if !now_held.is_empty() {
            self.0.insert(policy.to_owned(), now_held);
        }
        expired
    }
}

/// It has not told yet how the slot's generation ended.
fn is_at_work(e: &Enactment) -> bool {
    e.generation != e.slot.map(|slot| slot.generation) || e.is("Progressing") || e.is("Pending")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::world::Change;
    use crate::metrics::Routes;
    use serde_json::json;

    fn state(name: &str, current: serde_json::Value) -> State {
        serde_json::from_value(json!({
            "apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkState", "metadata": {"name": name},
            "status": {"currentState": current}}))
        .expect("a state")
    }

    #[test]
    fn a_state_is_counted_and_forgotten() {
        let counts = state(
            "n",
            json!({
                "interfaces": [{"name": "eth0", "type": "ethernet"}, {"name": "v", "type": "veth"}, {"name": "w", "type": "veth"}],
                "routes": {
                    "running": [{"destination": "0.0.0.0/0"}, {"destination": "10.0.0.0/8"}, {"destination": "::/0"}, {"destination": "fe80::/64"}],
                    "config": [{"destination": "0.0.0.0/0"}, {"destination": "::/0"}],
                },
            }),
        );
        let counts = counts.status.counts;
        assert_eq!(counts.interfaces, [("ethernet".into(), 1), ("veth".into(), 2)].into());
        let one = Routes {
            static_v4: 1,
            dynamic_v4: 1,
            static_v6: 1,
            dynamic_v6: 1,
        };
        assert_eq!(counts.routes, one);
        let empty: State = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("one that is new");
        assert_eq!(empty.status.counts, Counts::default());
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let (nodes, mut listed) = (Nodes::default(), BTreeSet::new());
        for event in [
            Event::Init,
            Event::InitApply(state("a", json!({}))),
            Event::InitApply(state("b", json!({}))),
            Event::InitDone,
            Event::Init,
            Event::InitApply(state("b", json!({}))),
            Event::InitDone,
            Event::Apply(state("c", json!({}))),
        ] {
            nodes.apply(event, &mut listed);
        }
        assert_eq!(nodes.now().into_keys().collect::<Vec<_>>(), ["b", "c"]);
        nodes.apply(Event::Delete(state("c", json!({}))), &mut listed);
        assert_eq!(nodes.now().into_keys().collect::<Vec<_>>(), ["b"]);
    }

    fn enactment(node: &str, on: &[&str], expires: &str) -> crate::api::NodeNetworkConfigurationEnactment {
        let conditions: Vec<_> = on.iter().map(|t| json!({"type": t, "status": "True"})).collect();
        serde_json::from_value(json!({
            "apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkConfigurationEnactment", "spec": {},
            "metadata": {"name": format!("{node}.p"), "labels": {"nmstate.io/policy": "p", "nmstate.io/node": node}},
            "status": {"conditions": conditions, "policyGeneration": 1, "observedGeneration": 1, "features": ["lldp"],
                "slot": {"generation": 1, "granted": "2026-01-01T00:00:00Z", "expires": expires}}}))
        .expect("an enactment")
    }

    fn world(enactments: Vec<crate::api::NodeNetworkConfigurationEnactment>) -> World {
        let mut world = World::default();
        let policy = json!({
            "apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy", "spec": {}, "metadata": {"name": "p", "generation": 1},
            "status": {"conditions": [{"type": "Degraded", "status": "True"}, {"type": "Progressing", "status": "True"}]}});
        let policy = serde_json::from_value(policy).expect("a policy");
        world.apply(Change::Policy(Event::Apply(policy)));
        for e in enactments {
            world.apply(Change::Enactment(Event::Apply(e)));
        }
        world
    }

    #[test]
    fn what_failed_counts_before_what_goes_on() {
        let end = "2026-01-01T00:01:00Z";
        let world = world(vec![
            enactment("a", &["Failing", "Progressing"], end),
            enactment("b", &["Available"], end),
        ]);
        let census = take(&world, &Nodes::default());
        assert_eq!(census.policies, [("Degraded", 1)].into());
        assert_eq!(
            census.enactments,
            [(("a".to_owned(), "Failing"), 1), (("b".to_owned(), "Available"), 1)].into()
        );
        assert_eq!(census.features, ["lldp".to_owned()].into());
    }

    #[test]
    fn a_slot_that_ends_at_work_is_counted_once() {
        let at = |second: i64| Timestamp::from_second(second).expect("a time");
        let end = "2026-01-01T00:01:00Z";
        let world = world(vec![
            enactment("a", &["Progressing"], end),
            enactment("b", &["Available"], end),
        ]);
        let mut slots = Slots::default();
        assert_eq!(slots.expired("p", &world.enactments("p"), at(10)), 0);
        assert_eq!(slots.expired("p", &world.enactments("p"), at(59)), 0);
        assert_eq!(
            slots.expired("p", &world.enactments("p"), at(61)),
            1,
            "b was done long before"
        );
        assert_eq!(slots.expired("p", &world.enactments("p"), at(62)), 0);
        // one that had ended before we led is not ours to count
        assert_eq!(Slots::default().expired("p", &world.enactments("p"), at(61)), 0);
    }
}
