//! NodeNetworkState: written when what it shows has changed, driven by events.

use std::future::Future;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::api::{LABEL_REFRESH, NodeNetworkState};
use crate::error::chain;
use crate::host::{Host, HostError, Observation};
use crate::state::iface::State;

use super::apiserver::Apiserver;

/// Quiet after an event before the node is read again.
const QUIET: Duration = Duration::from_secs(1);
/// Never later than this after an event.
const LATEST: Duration = Duration::from_secs(5);
/// A reading without an event, in case one was lost.
const ANYWAY: Duration = Duration::from_secs(60);
const FIELD_MANAGER: &str = "netwright-agent";

/// What stands in the cluster: somebody may delete it, or ask for a fresh one by a label.
pub struct Published {
    /// Our own object.
    pub store: Store<PartialObjectMeta<NodeNetworkState>>,
    /// Told of each change to it.
    pub wake: Arc<Notify>,
}

impl Published {
    /// Whether it is there, and the value of the label that asks for a fresh one.
    fn now(&self) -> (bool, Option<String>) {
        let object = self.store.state().into_iter().next();
        let label = object.as_ref().and_then(|o| o.labels().get(LABEL_REFRESH).cloned());
        (object.is_some(), label)
    }
}

/// For ever. `connect` gives it a host of its own, so that it does not eat the worker's events.
pub async fn run<H, C>(apiserver: Apiserver, node: String, published: Published, connect: impl Fn() -> C + Send)
where
    H: Host,
    C: Future<Output = Result<H, HostError>> + Send,
{
    let mut last: Option<u64> = None;
    let mut stands = published.now();
    let mut host = None;
    let mut told = String::new();
    // once, not at every try
    let mut tell = move |why: String| {
        if why != told && !why.is_empty() {
            warn!(phase = "publish", "{why}");
        }
        told = why;
    };
    loop {
        let host = match &host {
            Some(host) => host,
            None => match connect().await {
                Ok(fresh) => &*host.insert(fresh),
                Err(e) => {
                    tell(chain(&e));
                    sleep(LATEST).await;
                    continue;
                }
            },
        };
        match host.observe().await {
            Ok(seen) => {
                let (content, version) = shown(seen);
                let digest = digest(&content);
                if last != Some(digest) {
                    match write(&apiserver.now(), &node, &content, &version).await {
                        Ok(()) => {
                            last = Some(digest);
                            tell(String::new());
                        }
                        Err(e) => {
                            tell(format!("the state cannot be published yet: {e:#}"));
                            sleep(LATEST).await;
                            continue;
                        }
                    }
                }
            }
            Err(e) => tell(chain(&e)),
        }
        let changed = tokio::select! {
            changed = host.changed(ANYWAY) => changed,
            () = asked(&published, &mut stands) => {
                last = None;
                continue;
            }
        };
        if changed {
            let begin = Instant::now();
            // until it is quiet, but no longer than the promise
            while begin.elapsed() < LATEST - QUIET {
                sleep(QUIET).await;
                if !host.changed(Duration::ZERO).await {
                    break;
                }
            }
        }
    }
}

/// Returns when the object that stood there is gone, or its label has changed.
async fn asked(published: &Published, stands: &mut (bool, Option<String>)) {
    loop {
        published.wake.notified().await;
        let now = published.now();
        let before = std::mem::replace(stands, now);
        let fresh = stands.1.is_some() && stands.1 != before.1;
        if before.0 && (!stands.0 || fresh) {
            return;
        }
    }
}

/// Tells one content from another without keeping it.
fn digest(content: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(content.to_string().as_bytes());
    hasher.finish()
}

/// What is published: no secrets, no veths of pods, no timers and lifetimes that tick. And NetworkManager's version.
fn shown(seen: Observation) -> (Value, String) {
    let version = seen.facts.nm_version.clone();
    let mut state = seen.state;
    state.hide_secrets();
    let pods: Vec<String> = state
        .interfaces
        .iter()
        .filter(|i| i.kind.type_name() == "veth" && i.base.state == Some(State::Ignore))
        .map(|i| i.base.name.clone())
        .collect();
    state.interfaces.retain(|i| !pods.contains(&i.base.name));
    for list in state
        .routes
        .iter_mut()
        .flat_map(|r| [&mut r.running, &mut r.config])
        .flatten()
    {
        list.retain(|r| r.next_hop_interface.as_ref().is_none_or(|n| !pods.contains(n)));
    }
    let mut content = state.to_json();
    strip(&mut content);
    (content, version)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["gc-timer", "hello-timer", "valid-life-time", "preferred-life-time"] {
                map.remove(key);
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

async fn write(client: &Client, node: &str, content: &Value, version: &str) -> anyhow::Result<()> {
    let api: Api<NodeNetworkState> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let status = json!({
        "apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkState", "metadata": {"name": node},
        "status": {
            "currentState": content,
            "lastSuccessfulUpdateTime": Timestamp::now().to_string(),
            "hostNetworkManagerVersion": version,
            "handlerNmstateVersion": env!("CARGO_PKG_VERSION"),
        },
    });
    let call = Duration::from_secs(10);
    match timeout(call, api.patch_status(node, &params, &Patch::Apply(&status))).await? {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.code == 404 => {
            let owner = timeout(call, Api::<Node>::all(client.clone()).get(node)).await??;
            let object = json!({
                "apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkState",
                "metadata": {"name": node, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner.metadata.uid}
                ]},
            });
            timeout(call, api.patch(node, &params, &Patch::Apply(&object))).await??;
            timeout(call, api.patch_status(node, &params, &Patch::Apply(&status))).await??;
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}
