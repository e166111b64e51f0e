//! The bridge marker: each bridge of the node is a resource of its Node, so that pods which want it are scheduled only where it is.
//!
//! In: the bridges there are, from the publisher; the Node, watched. Out: a patch of the Node's status wherever it says something else.
//! A node whose agent does not mark any more takes its marks away once (`clear`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::error::chain;
use crate::state::NetworkState;
use crate::state::iface::State;

use super::apiserver::Apiserver;
use super::watch::store;

/// Resources of Linux bridges.
const LINUX: &str = "bridge.network.kubevirt.io/";
/// Resources of OVS bridges.
const OVS: &str = "ovs-cni.network.kubevirt.io/";
/// So many attachments: no limit, in practice.
const MANY: &str = "1k";
const CALL: Duration = Duration::from_secs(10);
/// Pause before a patch that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Of a Node only what we write, for it is large.
#[derive(Resource, Debug, Clone, Serialize, Deserialize)]
#[resource(inherit = Node)]
struct Marked {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Resources,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Resources {
    #[serde(default)]
    capacity: BTreeMap<String, Quantity>,
    #[serde(default)]
    allocatable: BTreeMap<String, Quantity>,
}

/// Names of resources.
pub type Bridges = BTreeSet<String>;

/// The resources of the bridges there are. One that is down carries nothing.
pub fn bridges(state: &NetworkState) -> Bridges {
    let resource = |i: &crate::state::iface::Interface| {
        let prefix = match i.kind.type_name() {
            "linux-bridge" => LINUX,
            "ovs-bridge" => OVS,
            _ => return None,
        };
        let there = !matches!(i.base.state, Some(State::Down | State::Absent));
        (there && is_resource(&i.base.name)).then(|| format!("{prefix}{}", i.base.name))
    };
    state.interfaces.iter().filter_map(resource).collect()
}

/// Interfaces may have names that resources may not (a qualified name of Kubernetes).
fn is_resource(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.chars().all(inner) && end(name.chars().next()) && end(name.chars().last())
}

/// The merge patch that makes the Node say what is; None where it does.
fn patch(bridges: &Bridges, node: &Resources) -> Option<Value> {
    let lists = [("capacity", &node.capacity), ("allocatable", &node.allocatable)];
    let status: Map<String, Value> = lists
        .into_iter()
        .map(|(key, there)| (key.to_owned(), changes(bridges, there)))
        .filter(|(_, changes)| changes.as_object().is_some_and(|c| !c.is_empty()))
        .collect();
    (!status.is_empty()).then(|| json!({ "status": status }))
}

fn changes(bridges: &Bridges, there: &BTreeMap<String, Quantity>) -> Value {
    let ours = |key: &&String| key.starts_with(LINUX) || key.starts_with(OVS);
    let gone = there.keys().filter(ours).filter(|key| !bridges.contains(*key));
    let wrong = |key: &&String| there.get(*key).is_none_or(|n| n.0 != MANY);
    let new = bridges.iter().filter(wrong).map(|key| (key.clone(), Value::from(MANY)));
    gone.map(|key| (key.clone(), Value::Null)).chain(new).collect()
}

/// Tells that the marks are ours: kubevirt's bridge-marker makes the same ones.
pub fn record(state_dir: &Path) -> PathBuf {
    state_dir.join("bridge-marker")
}

/// Takes away what an agent marked before, as `record` tells. One that may not says once how it is done by hand.
pub async fn clear(apiserver: Apiserver, name: String, record: PathBuf) {
    let mut told = false;
    loop {
        match take_away(&apiserver.now(), &name).await {
            Ok(()) => {
                if let Err(e) = std::fs::remove_file(&record) {
                    warn!(phase = "mark", "{}: {e}", record.display());
                }
                return;
            }
            Err((why, last)) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(phase = "mark", "marks of this node's bridges stay: {why}");
                }
                if last {
                    return;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Where it fails: why, and whether it is of no use to try again before the next start.
async fn take_away(client: &kube::Client, name: &str) -> Result<(), (String, bool)> {
    let no_answer = |_| ("no answer".to_owned(), false);
    let failed = |e: kube::Error| {
        (
            chain(&e),
            matches!(&e, kube::Error::Api(e) if (400..429).contains(&e.code)),
        )
    };
    let (marked, nodes) = (Api::<Marked>::all(client.clone()), Api::<Node>::all(client.clone()));
    let node = timeout(CALL, marked.get(name)).await;
    let node = node.map_err(no_answer)?.map_err(failed)?;
    let Some(patch) = patch(&Bridges::new(), &node.status) else {
        return Ok(());
    };
    let (params, merge) = (PatchParams::default(), Patch::Merge(&patch));
    let written = timeout(CALL, nodes.patch_status(name, &params, &merge)).await;
    written.map_err(no_answer)?.map_err(|e| {
        let (why, last) = failed(e);
        let by_hand = format!("kubectl patch node {name} --subresource=status --type=merge -p '{patch}'");
        (format!("{why}; by hand: {by_hand}"), last)
    })?;
    info!(phase = "mark", "this node's bridges are not marked any more");
    Ok(())
}

/// For ever. `bridges` is None until the node was read for the first time.
pub async fn run(apiserver: Apiserver, name: String, mut bridges: watch::Receiver<Option<Bridges>>) {
    let changed = std::sync::Arc::new(tokio::sync::Notify::new());
    let wake = changed.clone();
    let own = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .any_semantic();
    let nodes = store::<Marked>(&apiserver, own, move || wake.notify_one());
    let mut told = String::new();
    loop {
        let node = nodes.state().into_iter().next();
        let wanted = bridges.borrow_and_update().clone();
        let both = node.zip(wanted.as_ref());
        if let Some(patch) = both.and_then(|(node, wanted)| patch(wanted, &node.status)) {
            let api: Api<Node> = Api::all(apiserver.now());
            let params = PatchParams::default();
            let failed = match timeout(CALL, api.patch_status(&name, &params, &Patch::Merge(&patch))).await {
                Ok(Ok(_)) => {
                    info!(phase = "mark", "bridges of this node: {}", shown(wanted.as_ref()));
                    told.clear();
                    None
                }
                Ok(Err(e)) => Some(chain(&e)),
                Err(_) => Some("no answer".to_owned()),
            };
            if let Some(why) = failed {
                // once, not at every try
                if why != told {
                    warn!(phase = "mark", "the Node's bridges cannot be written yet: {why}");
                    told = why;
                }
                sleep(AGAIN).await;
                continue;
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            moved = bridges.changed() => if moved.is_err() {
                return;
            },
        }
    }
}

fn shown(resources: Option<&Bridges>) -> String {
    let all: Vec<&str> = resources.into_iter().flatten().map(String::as_str).collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let state = NetworkState::from_json(crate::yaml::read(text).unwrap()).unwrap();
        bridges(&state).into_iter().collect()
    }

    #[test]
    fn bridges_that_are_up_are_resources_also_those_of_others() {
        let text = "interfaces:
- {name: br0, type: linux-bridge, state: up}
- {name: docker0, type: linux-bridge, state: ignore}
- {name: br1, type: linux-bridge, state: down}
- {name: br-ex, type: ovs-bridge, state: up}
- {name: eth0, type: ethernet, state: up}
- {name: br@, type: linux-bridge, state: up}
";
        let want = [
            "bridge.network.kubevirt.io/br0",
            "bridge.network.kubevirt.io/docker0",
            "ovs-cni.network.kubevirt.io/br-ex",
        ];
        assert_eq!(all(text), want);
    }

    #[test]
    fn the_patch_adds_what_is_there_takes_what_is_gone_and_leaves_the_rest() {
        let node: Resources = serde_json::from_value(json!({
            "capacity": {"cpu": "2", "bridge.network.kubevirt.io/old": "1k", "bridge.network.kubevirt.io/br0": "1k"},
            "allocatable": {"cpu": "2", "bridge.network.kubevirt.io/br0": "1"},
        }))
        .unwrap();
        let wanted = ["bridge.network.kubevirt.io/br0".to_owned()].into();
        let want = json!({"status": {
            "capacity": {"bridge.network.kubevirt.io/old": null},
            "allocatable": {"bridge.network.kubevirt.io/br0": "1k"},
        }});
        assert_eq!(patch(&wanted, &node), Some(want));
        let node: Resources = serde_json::from_value(json!({
            "capacity": {"bridge.network.kubevirt.io/br0": "1k"}, "allocatable": {"bridge.network.kubevirt.io/br0": "1k"},
        }))
        .unwrap();
        assert_eq!(patch(&wanted, &node), None);
        assert_eq!(patch(&BTreeSet::new(), &Resources::default()), None);
    }
}
