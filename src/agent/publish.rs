//! NodeNetworkState: written when what it shows has changed, driven by events.

use std::collections::BTreeSet;
use std::future::Future;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;

use crate::api::{Condition, LABEL_REFRESH, NodeNetworkState};
use crate::error::{HostError, chain};
use crate::host::Host;
use crate::metrics::{self, Look};
use crate::observation::Observation;
use crate::serve;
use crate::state::iface::State;

use super::apiserver::Apiserver;
use super::marker;
use super::watch::spread;

mod fit;

/// Quiet after an event before the node is read again.
const QUIET: Duration = Duration::from_secs(1);
/// Never later than this after an event, and never sooner than this after a write.
const LATEST: Duration = Duration::from_secs(5);
/// A reading without an event, in case one was lost; the same again is spread over a tenth of it.
const ANYWAY: Duration = Duration::from_secs(60);
/// A large node may take its time; nobody waits longer than this on its account.
const SLOW: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(10);
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

/// Whom it is written to, and who else wants to know what the node looks like.
pub struct Publisher {
    /// The way to the cluster.
    pub apiserver: Apiserver,
    /// Our node.
    pub node: String,
    /// What stands there.
    pub published: Published,
    /// The bridge marker.
    pub bridges: Option<watch::Sender<Option<marker::Bridges>>>,
}

/// What is shown.
struct Shown {
    content: Value,
    /// Of `content`, as JSON.
    bytes: usize,
    version: String,
    /// What was left out.
    left_out: Option<String>,
}

impl Publisher {
    /// For ever. `connect` gives it a host of its own, so that it does not eat the worker's events.
    pub async fn run<H, C>(self, connect: impl Fn() -> C + Send)
    where
        H: Host,
        C: Future<Output = Result<H, HostError>> + Send,
    {
        let mut last = self.standing().await;
        let mut stands = self.published.now();
        let mut host = None;
        let mut wrote = None;
        let mut told = String::new();
        // once, not at every try
        let mut tell = move |why: String| {
            if why != told && !why.is_empty() {
                warn!(phase = "publish", "{why}");
            }
            told = why;
        };
        loop {
            serve::health().round();
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
            let begun = Instant::now();
            let look = match self.look(host, &mut last).await {
                Ok(look) => look,
                Err(e) => {
                    tell(format!("{e:#}"));
                    Look::Failed
                }
            };
            metrics::agent().looked(look);
            match look {
                Look::Failed => {
                    sleep(LATEST).await;
                    continue;
                }
                Look::Written(_) => wrote = Some(Instant::now()),
                Look::Unchanged => {}
            }
            tell(String::new());
            let took = begun.elapsed().min(SLOW);
            tokio::select! {
                changed = host.changed(ANYWAY + ANYWAY / 1000 * spread()) => if changed {
                    calm(host, wrote, took).await;
                },
                () = asked(&self.published, &mut stands) => last = None,
            }
        }
    }

    /// Reads the node and writes what differs from `last`.
    async fn look<H: Host>(&self, host: &H, last: &mut Option<u64>) -> anyhow::Result<Look> {
        let seen = host.observe().await?;
        metrics::agent().networkmanager(&seen.facts.nm_version);
        if let Some(bridges) = &self.bridges {
            let now = Some(marker::bridges(&seen.state));
            bridges.send_if_modified(|told| now != std::mem::replace(told, now.clone()));
        }
        let shown = shown(seen);
        let digest = digest(&shown.content, &shown.version, shown.left_out.as_deref());
        if *last == Some(digest) {
            return Ok(Look::Unchanged);
        }
        let written = write(&self.apiserver.now(), &self.node, &shown).await;
        written.context("the state cannot be published yet")?;
        *last = Some(digest);
        Ok(Look::Written(shown.bytes))
    }

    /// What an earlier agent left there need not be written again.
    async fn standing(&self) -> Option<u64> {
        let api: Api<NodeNetworkState> = Api::all(self.apiserver.now());
        let status = timeout(CALL, api.get(&self.node)).await.ok()?.ok()?.status?;
        let ours = status.handler_nmstate_version.as_deref() == Some(env!("CARGO_PKG_VERSION"));
        let left_out = status.conditions.iter().find(|c| c.type_ == fit::CONDITION);
        let version = status.host_network_manager_version.unwrap_or_default();
        let content = status.current_state.filter(|_| ours)?;
        Some(digest(&content, &version, left_out.map(|c| c.message.as_str())))
    }
}

/// Waits until it is quiet, or late.
async fn calm<H: Host>(host: &H, wrote: Option<Instant>, took: Duration) {
    let first = Instant::now();
    let mut last = first;
    loop {
        let due = due(first, last, wrote, took);
        if due <= Instant::now() {
            return;
        }
        sleep_until(due.min(Instant::now() + QUIET)).await;
        if host.changed(Duration::ZERO).await {
            last = Instant::now();
        }
    }
}

/// When the node is to be read after events, of which the first and the last came then: once it is quiet, but so that what comes of it is
/// written neither sooner than `LATEST` after the last write nor later than `LATEST` after the first event. `took`: the last reading.
fn due(first: Instant, last: Instant, wrote: Option<Instant>, took: Duration) -> Instant {
    let least = wrote.map_or(last, |wrote| wrote + LATEST - took);
    (last + QUIET).max(least).min(first + LATEST - took)
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
fn digest(content: &Value, version: &str, left_out: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for text in [&content.to_string(), version, left_out.unwrap_or_default()] {
        hasher.write(text.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

/// What is published: no secrets, no veths of pods, no timers and lifetimes that tick, and not more than fits.
fn shown(seen: Observation) -> Shown {
    let version = seen.facts.nm_version.clone();
    let mut state = seen.state;
    state.hide_secrets();
    let pods: BTreeSet<String> = state
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
    let interfaces = content.get_mut("interfaces").and_then(Value::as_array_mut);
    for ports in interfaces
        .into_iter()
        .flatten()
        .filter_map(|i| i.pointer_mut("/bridge/port")?.as_array_mut())
    {
        ports.retain(|p| p["name"].as_str().is_none_or(|n| !pods.contains(n)));
    }
    let left_out = fit::fit(&mut content);
    Shown {
        bytes: content.to_string().len(),
        content,
        version,
        left_out,
    }
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

async fn write(client: &Client, node: &str, shown: &Shown) -> anyhow::Result<()> {
    let api: Api<NodeNetworkState> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let now = Timestamp::now().to_string();
    let mut status = json!({
        "apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkState", "metadata": {"name": node},
        "status": {
            "currentState": shown.content,
            "lastSuccessfulUpdateTime": now,
            "hostNetworkManagerVersion": shown.version,
            "handlerNmstateVersion": env!("CARGO_PKG_VERSION"),
        },
    });
    if let Some(message) = &shown.left_out {
        let condition = Condition {
            type_: fit::CONDITION.to_owned(),
            status: "True".to_owned(),
            reason: "TooLarge".to_owned(),
            message: message.clone(),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(now),
        };
        status["status"]["conditions"] = json!([condition]);
    }
    match timeout(CALL, api.patch_status(node, &params, &Patch::Apply(&status))).await? {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.code == 404 => {
            let owner = timeout(CALL, Api::<Node>::all(client.clone()).get(node)).await??;
            let object = json!({
                "apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkState",
                "metadata": {"name": node, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner.metadata.uid}
                ]},
            });
            timeout(CALL, api.patch(node, &params, &Patch::Apply(&object))).await??;
            timeout(CALL, api.patch_status(node, &params, &Patch::Apply(&status))).await??;
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NetworkState;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn one_second_of_quiet_five_at_the_most_and_five_between_writes() {
        let t = Instant::now() + SECOND * 100;
        let after = |first: u32, last: u32, wrote: Option<u32>| {
            let at = due(
                t + SECOND * first,
                t + SECOND * last,
                wrote.map(|w| t + SECOND * w),
                Duration::ZERO,
            );
            (at - t).as_secs()
        };
        assert_eq!(after(10, 10, None), 11, "quiet");
        assert_eq!(after(10, 10, Some(2)), 11, "the last write is long ago");
        assert_eq!(after(10, 10, Some(9)), 14, "not sooner than five seconds after it");
        assert_eq!(after(10, 13, Some(2)), 14, "not quiet yet");
        assert_eq!(after(10, 14, Some(2)), 15, "but never later");
        assert_eq!(
            due(t, t + SECOND * 9, None, SECOND),
            t + SECOND * 4,
            "reading takes its time"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_leads_to_one_write_each_five_seconds() {
        let mut now = Instant::now();
        let begin = now;
        let mut wrote = None;
        for n in 1..=6 {
            // an event at every moment
            let first = now;
            while due(first, now, wrote, Duration::ZERO) > now {
                now += Duration::from_millis(10);
            }
            wrote = Some(now);
            assert_eq!((now - begin).as_secs(), 5 * n);
        }
    }

    fn seen(interfaces: &str) -> Observation {
        let text = format!(
            "interfaces:\n{interfaces}routes: {{running: [{{destination: 10.0.0.9/32, next-hop-interface: veth0}}, {{destination: 0.0.0.0/0, next-hop-interface: eth0, next-hop-address: 10.0.0.1}}]}}\n"
        );
        let state = NetworkState::from_json(crate::yaml::read(&text).unwrap()).unwrap();
        let mut seen = Observation::default();
        seen.state = state;
        seen
    }

    #[test]
    fn nothing_is_shown_of_the_veths_of_pods() {
        let calm = "- {name: eth0, type: ethernet, state: up}\n- {name: cni0, type: linux-bridge, state: up, bridge: {port: [{name: eth0}]}}\n";
        let busy = "- {name: eth0, type: ethernet, state: up}\n- {name: cni0, type: linux-bridge, state: up, bridge: {options: {gc-timer: 7}, port: [{name: eth0}, {name: veth0}]}}\n- {name: veth0, type: veth, state: ignore, controller: cni0, veth: {peer: x}}\n";
        let (calm, busy) = (shown(seen(calm)), shown(seen(busy)));
        let mut content = busy.content.clone();
        // the route of `calm` names an interface that is not there
        assert_eq!(content["routes"]["running"].as_array().map(Vec::len), Some(1));
        assert_eq!(content["interfaces"].as_array().map(Vec::len), Some(2));
        content["routes"] = calm.content["routes"].clone();
        content["interfaces"][1]["bridge"]
            .as_object_mut()
            .unwrap()
            .remove("options");
        assert_eq!(content, calm.content);
    }

    #[test]
    fn what_differs_is_told_apart() {
        let content = json!({"interfaces": []});
        let same = digest(&content, "1.42.4", None);
        assert_eq!(digest(&content.clone(), "1.42.4", None), same);
        assert_ne!(digest(&content, "1.48.0", None), same);
        assert_ne!(digest(&content, "1.42.4", Some("ethtool")), same);
        assert_ne!(digest(&json!({}), "1.42.4", None), same);
    }
}
